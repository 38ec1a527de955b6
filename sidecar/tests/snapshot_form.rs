//! The stored form of snapshots.

use kar::convert::snapshot::{decode_snapshot, encode_snapshot};
use kar_core::snapshot::Snapshot;
use kar_proto::log::v1 as pb;
use prost::Message as _;

const GOLDEN: &str = include_str!("../../proto/tests/golden/snapshot_v1.txt");

fn golden() -> Vec<pb::Snapshot> {
    let lines = GOLDEN.lines().filter(|line| !line.starts_with('#'));
    let bytes = |hex: &str| -> Vec<u8> {
        let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
        (0..hex.len()).step_by(2).map(digit).collect()
    };
    let hex = lines.map(|line| line.split(' ').nth(1).expect("name, hex, text"));
    hex.map(|hex| pb::Snapshot::decode(bytes(hex).as_slice()).expect("a snapshot")).collect()
}

/// A golden one in the form of this version: the generator of the golden lines knows no meanings.
fn with_version(golden: pb::Snapshot) -> Snapshot {
    let now = pb::Snapshot { version: 1, ..golden };
    decode_snapshot(&now.encode_to_vec()).expect("it is understood")
}

/// Between them they set every field, so that one that is read or written wrongly shows.
#[test]
fn every_field_survives_a_round_trip() {
    assert!(golden().len() > 1);
    for snapshot in golden().into_iter().map(with_version) {
        let again = decode_snapshot(&encode_snapshot(&snapshot));
        assert_eq!(again.as_ref(), Ok(&snapshot));
        assert!(!snapshot.entries.is_empty() && !snapshot.outbound.is_empty());
    }
}

#[test]
fn what_is_stored_says_the_same_as_what_was_read() {
    for golden in golden() {
        let now = pb::Snapshot { version: 1, ..golden };
        let snapshot = decode_snapshot(&now.encode_to_vec()).expect("it is understood");
        let again = pb::Snapshot::decode(encode_snapshot(&snapshot)).expect("it was just encoded");
        // Neighbours in one channel share an element.
        let flat = |snapshot: pb::Snapshot| {
            let mut snapshot = snapshot;
            for letter in &mut snapshot.dead {
                // What a reminder made has no number, nor what an idle actor is told.
                use pb::snapshot_dead_letter::Origin;
                if let Some(Origin::Reminder(_) | Origin::Idle(_)) = letter.origin {
                    letter.number = 0;
                }
            }
            for entry in &mut snapshot.entries {
                use pb::snapshot_entry::Origin;
                if let Some(Origin::Reminder(_) | Origin::Idle(_)) = entry.origin {
                    entry.number = 0;
                }
                let numbers: Vec<u64> =
                    entry.children.drain(..).flat_map(|settle| settle.numbers).collect();
                entry.number += numbers.iter().sum::<u64>();
                if let Some(last) = &mut entry.last_ended {
                    last.uuid.clear();
                    // `suspected` says it of the entry.
                    last.unmarked = false;
                }
            }
            snapshot
        };
        assert_eq!(flat(again), flat(now));
    }
}

#[test]
fn a_later_form_is_refused() {
    let later = pb::Snapshot { version: 2, ..golden().remove(0) };
    let refused = decode_snapshot(&later.encode_to_vec());
    assert!(refused.is_err(), "{refused:?}");
}
