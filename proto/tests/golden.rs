//! Stored records are read by every later version. Each file in `golden/` holds records of one type as earlier commits
//! wrote them, one a line: a name, the bytes in hex, and what they mean in the text format. Lines are only ever added.
//!
//! After adding a field: `cargo test -p kar-proto --test golden -- --ignored`, and commit the new lines.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use prost::{DecodeError, Message as _};
use prost_reflect::text_format::FormatOptions;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value,
};

/// Deeper messages than this mean that something is in itself by way of others: the generator handles what is at once.
const DEPTH_MAX: usize = 20;

/// A type that is stored for ever.
struct Stored {
    message: &'static str,
    file: &'static str,
    /// So many golden records were there when this was written, and the fingerprint of their lines: they stay as they
    /// are, whatever comes after them.
    first: (usize, u64),
    /// Decodes by the generated code and encodes again.
    again: fn(&[u8]) -> Result<Vec<u8>, DecodeError>,
}

const STORED: &[Stored] = &[
    Stored {
        message: "kar.log.v1.Record",
        file: "log_v1.txt",
        first: (519, 0xe06a_77ba_36c8_c48e),
        again: |bytes| Ok(kar_proto::log::v1::Record::decode(bytes)?.encode_to_vec()),
    },
    Stored {
        message: "kar.log.v1.Snapshot",
        file: "snapshot_v1.txt",
        first: (179, 0x62ab_be16_8a8d_0714),
        again: |bytes| Ok(kar_proto::log::v1::Snapshot::decode(bytes)?.encode_to_vec()),
    },
    Stored {
        message: "kar.hub.v1.Meta",
        file: "hub_meta_v1.txt",
        first: (21, 0x2de7_cf9d_cf2e_6f5a),
        again: |bytes| Ok(kar_proto::hub::v1::Meta::decode(bytes)?.encode_to_vec()),
    },
    Stored {
        message: "kar.log.v1.StoredEvent",
        file: "event_v1.txt",
        first: (1, 0xbd08_04a3_7951_5ddb),
        again: |bytes| Ok(kar_proto::log::v1::StoredEvent::decode(bytes)?.encode_to_vec()),
    },
];

struct Golden {
    name: String,
    bytes: Vec<u8>,
    text: String,
}

impl Stored {
    fn path(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto/tests/golden").join(self.file)
    }

    fn descriptor(&self) -> MessageDescriptor {
        let pool =
            DescriptorPool::decode(kar_proto::FILE_DESCRIPTOR_SET).expect("the set is sound");
        pool.get_message_by_name(self.message).expect("it is a stored type")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).expect("golden files are part of the sources")
    }

    fn golden(&self) -> Vec<Golden> {
        records(&self.text()).map(parse).collect()
    }

    fn decode(&self, bytes: &[u8]) -> DynamicMessage {
        DynamicMessage::decode(self.descriptor(), bytes).expect("it decodes")
    }

    fn text_of(&self, bytes: &[u8]) -> String {
        self.decode(bytes).to_text_format_with_options(&FormatOptions::new().expand_any(false))
    }
}

fn records(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

/// FNV-1a.
fn fingerprint<'a>(lines: impl Iterator<Item = &'a str>) -> u64 {
    let bytes = lines.flat_map(|line| line.bytes().chain([b'\n']));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[test]
fn lines_are_only_ever_added() {
    for stored in STORED {
        let text = stored.text();
        let (count, first) = stored.first;
        let lines: Vec<_> = records(&text).take(count).collect();
        assert_eq!(lines.len(), count, "{}: lines were removed", stored.file);
        let now = fingerprint(lines.into_iter());
        assert_eq!(now, first, "{}: one of the first {count} lines was changed", stored.file);
    }
}

fn parse(line: &str) -> Golden {
    let mut parts = line.splitn(3, ' ');
    let mut next = || parts.next().unwrap_or_else(|| panic!("not `name hex text`: {line}"));
    let (name, hex, text) = (next().to_owned(), next(), next().to_owned());
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
    let bytes = (0..hex.len()).step_by(2).map(digit).collect();
    Golden { name, bytes, text }
}

#[test]
fn stored_records_still_mean_what_they_meant() {
    for stored in STORED {
        for Golden { name, bytes, text } in stored.golden() {
            let now = stored.text_of(&bytes);
            assert_eq!(now, text, "{name}: a field was renamed, renumbered or retyped");
        }
    }
}

#[test]
fn stored_records_decode_and_encode_to_the_same_fields() {
    for stored in STORED {
        for Golden { name, bytes, text } in stored.golden() {
            let again = (stored.again)(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
            // The order of fields is the encoder's: it puts those of a oneof where its first one stands.
            assert_eq!(again.len(), bytes.len(), "{name}: {text}");
            assert_eq!(stored.text_of(&again), text, "{name}");
        }
    }
}

#[test]
fn golden_records_cover_every_field_and_enum_value() {
    for stored in STORED {
        let mut wanted = BTreeSet::new();
        collect_wanted(&stored.descriptor(), &mut wanted);
        for record in stored.golden() {
            remove_covered(&stored.decode(&record.bytes), &mut wanted);
        }
        assert!(wanted.is_empty(), "add golden records (see the head of this file) for {wanted:?}");
    }
}

// Not a test but the tool that appends records, run by hand (CONTRIBUTING.md): a test run must never write what it is
// judged by. What it wrote is judged by the tests above.
#[test]
#[ignore = "writes the golden files: adds a line for every sample that is not in them yet"]
fn add_golden_records() {
    for stored in STORED {
        let mut text = fs::read_to_string(stored.path()).unwrap_or_else(|_| {
            "# name, bytes in hex, meaning; written by `add_golden_records`; lines are only added\n"
                .to_owned()
        });
        for sample in samples(&stored.descriptor(), &[]) {
            let bytes = sample.encode_to_vec();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            if hex.is_empty() || text.lines().any(|line| line.split(' ').nth(1) == Some(&hex)) {
                continue;
            }
            let count = text.lines().filter(|line| !line.starts_with('#')).count();
            text.push_str(&format!("record_{:03} {hex} {}\n", count + 1, stored.text_of(&bytes)));
        }
        fs::write(stored.path(), text).expect("the sources are writable");
    }
}

/// Messages that together set every field, oneof alternative and enum value below `message`.
fn samples(message: &MessageDescriptor, path: &[MessageDescriptor]) -> Vec<DynamicMessage> {
    assert!(path.len() < DEPTH_MAX, "{} is too deep", message.full_name());
    // One that may be in itself is so once.
    if path.iter().filter(|above| *above == message).count() > 1 {
        return Vec::new();
    }
    let path = [path, std::slice::from_ref(message)].concat();
    let plain = message.fields().filter(|f| f.containing_oneof().is_none());
    let mut slots: Vec<Vec<(FieldDescriptor, Value)>> =
        plain.map(|field| values(&field, &path)).collect();
    for oneof in message.oneofs() {
        slots.push(oneof.fields().flat_map(|field| values(&field, &path)).collect());
    }
    slots.retain(|slot| !slot.is_empty());
    let count = slots.iter().map(Vec::len).max().unwrap_or(1);
    (0..count)
        .map(|i| {
            let mut sample = DynamicMessage::new(message.clone());
            for slot in &slots {
                let (field, value) = &slot[i % slot.len()];
                sample.set_field(field, value.clone());
            }
            sample
        })
        .collect()
}

fn values(field: &FieldDescriptor, path: &[MessageDescriptor]) -> Vec<(FieldDescriptor, Value)> {
    let number = field.number();
    let single = match field.kind() {
        Kind::Message(message) => samples(&message, path).into_iter().map(Value::Message).collect(),
        Kind::Enum(item) => item
            .values()
            .filter(|v| v.number() != 0)
            .map(|v| Value::EnumNumber(v.number()))
            .collect(),
        Kind::Bool => vec![Value::Bool(true)],
        Kind::String => vec![Value::String(field.name().to_owned())],
        Kind::Bytes => vec![Value::Bytes(vec![number as u8; 16].into())],
        Kind::Uint64 | Kind::Fixed64 => vec![Value::U64(u64::from(number) * 1_000_000_007)],
        Kind::Int64 => vec![Value::I64(-i64::from(number) * 1_000_000_007)],
        Kind::Uint32 | Kind::Fixed32 => vec![Value::U32(number * 1_007)],
        other => panic!("{}: teach the generator {other:?}", field.full_name()),
    };
    let wrap = |value: Value| match field.is_list() {
        true => Value::List(vec![value.clone(), value]),
        false => value,
    };
    single.into_iter().map(|value| (field.clone(), wrap(value))).collect()
}

fn collect_wanted(message: &MessageDescriptor, wanted: &mut BTreeSet<String>) {
    for field in message.fields() {
        let new = wanted.insert(field.full_name().to_owned());
        match field.kind() {
            Kind::Message(inner) if new => collect_wanted(&inner, wanted),
            Kind::Enum(item) => {
                let values = item.values().filter(|v| v.number() != 0);
                wanted.extend(values.map(|v| v.full_name().to_owned()));
            }
            _ => {}
        }
    }
}

fn remove_covered(message: &DynamicMessage, wanted: &mut BTreeSet<String>) {
    for (field, value) in message.fields() {
        wanted.remove(field.full_name());
        let many = std::slice::from_ref(value);
        for value in value.as_list().unwrap_or(many) {
            if let Some(inner) = value.as_message() {
                remove_covered(inner, wanted);
            }
            let kind = field.kind();
            if let (Some(item), Some(number)) = (kind.as_enum(), value.as_enum_number()) {
                let value = item.get_value(number).expect("golden records hold known values");
                wanted.remove(value.full_name());
            }
        }
    }
}
