//! CloudEvents 1.0: what is filled in, and what makes an event none.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::origin::DEAD_LETTER_ATTRIBUTES;
use super::uri::{is_media_type, is_uri, is_uri_reference};
use crate::invocation::Payload;

/// Longest value of an attribute, bytes: large enough for ids and URIs, small enough for headers.
pub const ATTRIBUTE_BYTES_MAX: usize = 1_024;
/// Most extension attributes of an event.
pub const ATTRIBUTES_MAX: usize = 64;
/// Longest name of an attribute, bytes, after the advice of CloudEvents.
pub const ATTRIBUTE_NAME_BYTES_MAX: usize = 20;
/// The extension attribute that says which events stay in order.
pub const PARTITION_KEY: &str = "partitionkey";
/// The `type` of events that say none.
pub const DEFAULT_TYPE: &str = "kar.event";

/// Names that CloudEvents defines itself, `data` among them.
const DEFINED: [&str; 10] = [
    "id",
    "source",
    "type",
    "specversion",
    "subject",
    "time",
    "dataschema",
    "datacontenttype",
    "data",
    "data_base64",
];
/// Version of CloudEvents.
const SPEC_VERSION: &str = "1.0";
/// Seconds of the first and the last moment that RFC 3339 has a text for.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// An event that is one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CloudEvent {
    /// Unique with the source.
    pub id: String,
    /// Who publishes.
    pub source: String,
    /// What happened.
    pub kind: String,
    /// Subject within the source; empty: none.
    pub subject: String,
    /// When it happened.
    pub time: EventTime,
    /// Schema of the data; empty: none.
    pub data_schema: String,
    /// The data.
    pub data: Payload,
    /// Extensions.
    pub attributes: BTreeMap<String, String>,
}

/// An event as somebody wants to publish it: what is empty or absent is filled in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)] // As in `CloudEvent`.
pub struct Draft {
    pub id: String,
    pub source: String,
    pub kind: String,
    pub subject: String,
    pub time: Option<EventTime>,
    pub data_schema: String,
    pub data: Payload,
    pub attributes: BTreeMap<String, String>,
    /// Becomes an attribute.
    pub partition_key: String,
}

/// A moment, since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct EventTime {
    /// Whole seconds.
    pub seconds: i64,
    /// The rest, nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

/// Why something is no event. `field` is the field of `kar.v1.Event` that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what}")]
pub struct EventError {
    /// Which field.
    pub field: String,
    /// What must be changed.
    pub what: String,
}

// === impl Draft ===

impl Draft {
    /// The event, with this id, source and time if it has none of its own.
    ///
    /// # Errors
    ///
    /// If it is none: the first field that is wrong.
    pub fn complete(
        self,
        id: impl FnOnce() -> String,
        source: &str,
        now: EventTime,
    ) -> Result<CloudEvent, EventError> {
        let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
        let mut attributes = self.attributes;
        if !self.partition_key.is_empty() {
            let key = attributes.entry(PARTITION_KEY.to_owned());
            let key = key.or_insert_with(|| self.partition_key.clone());
            if *key != self.partition_key {
                let what = "differs from the attribute 'partitionkey': give one of them";
                return Err(wrong("partition_key", what));
            }
        }
        let event = CloudEvent {
            id: if self.id.is_empty() { id() } else { self.id },
            source: or(self.source, source),
            kind: or(self.kind, DEFAULT_TYPE),
            subject: self.subject,
            time: self.time.unwrap_or(now),
            data_schema: self.data_schema,
            data: self.data,
            attributes,
        };
        event.check().map(|()| event)
    }
}

// === impl CloudEvent ===

impl CloudEvent {
    /// The key that keeps it in order with others.
    pub fn partition_key(&self) -> Option<&str> {
        self.attributes.get(PARTITION_KEY).map(String::as_str)
    }

    /// An attribute in its canonical text form.
    pub fn attribute(&self, name: &str) -> Option<Cow<'_, str>> {
        let text = match name {
            "id" => &self.id,
            "source" => &self.source,
            "type" => &self.kind,
            "subject" => &self.subject,
            "dataschema" => &self.data_schema,
            "datacontenttype" => &*self.data.content_type,
            "specversion" => SPEC_VERSION,
            "time" => return Some(self.time.to_rfc3339().into()),
            other => return self.attributes.get(other).map(|value| value.as_str().into()),
        };
        (!text.is_empty()).then(|| text.into())
    }

    fn check(&self) -> Result<(), EventError> {
        for (field, value) in [
            ("id", &self.id),
            ("source", &self.source),
            ("type", &self.kind),
            ("subject", &self.subject),
            ("data_schema", &self.data_schema),
        ] {
            check_text(field, value)?;
        }
        if !is_uri_reference(&self.source) {
            return Err(wrong("source", "must be a URI reference, for example /orders/eu"));
        }
        if !self.data_schema.is_empty() && !is_uri(&self.data_schema) {
            return Err(wrong("data_schema", "must be a URI with its scheme"));
        }
        let content_type = &*self.data.content_type;
        if !content_type.is_empty() && !is_media_type(content_type) {
            let what = "must be a media type, for example application/json, or empty";
            return Err(wrong("data.content_type", what));
        }
        if !SECONDS.contains(&self.time.seconds) || self.time.nanos >= 1_000_000_000 {
            return Err(wrong("time", "must be in the years 1 to 9999, with nanos below 1 s"));
        }
        self.check_attributes()
    }

    fn check_attributes(&self) -> Result<(), EventError> {
        if self.attributes.len() > ATTRIBUTES_MAX {
            let what = format!("an event has at most {ATTRIBUTES_MAX} extension attributes");
            return Err(wrong("attributes", what));
        }
        for (name, value) in &self.attributes {
            if DEFINED.contains(&name.as_str()) {
                let what = format!("'{name}' is defined by CloudEvents: use the field for it");
                return Err(wrong("attributes", what));
            }
            if !is_attribute_name(name) {
                let name: String = name.chars().take(64).collect();
                let what = format!(
                    "'{name}' is no name of an attribute: 1 to {ATTRIBUTE_NAME_BYTES_MAX} of a-z 0-9"
                );
                return Err(wrong("attributes", what));
            }
            let field = format!("attributes.{name}");
            if value.is_empty() {
                return Err(wrong(&field, "is empty: leave it out"));
            }
            check_text(&field, value)?;
        }
        Ok(())
    }
}

/// Whether texts of CloudEvents may have a character: no controls, and no code points that are no characters.
pub(super) fn is_text(char: char) -> bool {
    let code = u32::from(char);
    let is_none = (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe;
    !is_none && !char.is_control()
}

/// Whether events may have an attribute of this name, or have it anyway.
pub(super) fn is_attribute_name(name: &str) -> bool {
    let is_own = DEAD_LETTER_ATTRIBUTES.contains(&name);
    (is_own || (1..=ATTRIBUTE_NAME_BYTES_MAX).contains(&name.len()))
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && name != "data"
}

fn check_text(field: &str, text: &str) -> Result<(), EventError> {
    if text.len() > ATTRIBUTE_BYTES_MAX {
        return Err(wrong(field, format!("must have at most {ATTRIBUTE_BYTES_MAX} bytes")));
    }
    if !text.chars().all(is_text) {
        return Err(wrong(field, "must have no control characters"));
    }
    Ok(())
}

fn wrong(field: &str, what: impl Into<String>) -> EventError {
    EventError { field: field.to_owned(), what: what.into() }
}

// === impl EventTime ===

impl EventTime {
    /// As RFC 3339 writes it, in UTC; fractions as long as they need to be. For the years 1 to 9999.
    pub fn to_rfc3339(self) -> String {
        let (year, month, day) = civil(self.seconds.div_euclid(SECONDS_PER_DAY));
        let second = self.seconds.rem_euclid(SECONDS_PER_DAY);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let fraction = match self.nanos {
            0 => String::new(),
            nanos => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
        };
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
    }
}

const SECONDS_PER_DAY: i64 = 86_400;

/// Year, month and day of a day since the Unix epoch. Years begin in March here, so that the day that not every year
/// has is the last one.
fn civil(day: i64) -> (i64, i64, i64) {
    // Days of 400, 100, 4 years and 1 year.
    const DAYS: [i64; 4] = [146_097, 36_524, 1_461, 365];
    // From 0000-03-01.
    let day = day + 719_468;
    let era = day.div_euclid(DAYS[0]);
    let of_era = day.rem_euclid(DAYS[0]);
    let leap = of_era / (DAYS[2] - 1) - of_era / DAYS[1] + of_era / (DAYS[0] - 1);
    let year_of_era = (of_era - leap) / DAYS[3];
    let of_year = of_era - (DAYS[3] * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Five months from March on, and five again, have 153 days.
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + 400 * era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(draft: Draft) -> Result<CloudEvent, EventError> {
        let now = EventTime { seconds: 1_700_000_000, nanos: 500_000_000 };
        draft.complete(|| "made".into(), "/app/node", now)
    }

    fn attributes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn what_is_absent_is_filled_in() {
        let event = complete(Draft::default()).unwrap();
        let told = |name| event.attribute(name).map(Cow::into_owned);
        assert_eq!(told("id").as_deref(), Some("made"));
        assert_eq!(told("source").as_deref(), Some("/app/node"));
        assert_eq!(told("type").as_deref(), Some("kar.event"));
        assert_eq!(told("time").as_deref(), Some("2023-11-14T22:13:20.5Z"));
        assert_eq!(told("specversion").as_deref(), Some("1.0"));
        for none in ["subject", "dataschema", "datacontenttype", "partitionkey", "x"] {
            assert_eq!(told(none), None, "{none}");
        }
        let own = Draft {
            id: "1".into(),
            source: "urn:a".into(),
            kind: "t".into(),
            time: Some(EventTime::default()),
            partition_key: "k".into(),
            ..Draft::default()
        };
        let event = complete(own).unwrap();
        assert_eq!((event.id.as_str(), event.source.as_str()), ("1", "urn:a"));
        assert_eq!(event.partition_key(), Some("k"));
        assert_eq!(event.attribute("time").unwrap(), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn times_are_written_as_rfc_3339_has_it() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (-1, 1, "1969-12-31T23:59:59.000000001Z"),
            (951_782_399, 120_000_000, "2000-02-28T23:59:59.12Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00Z"),
            (*SECONDS.start(), 0, "0001-01-01T00:00:00Z"),
            (*SECONDS.end(), 999_999_999, "9999-12-31T23:59:59.999999999Z"),
        ] {
            assert_eq!(EventTime { seconds, nanos }.to_rfc3339(), text);
        }
        // Against the calendar that schedules use, for a day in each month of many years.
        for month in 0..1_900 {
            let seconds = -62_135_596_800 + month * 4_999 * 86_400 / 31;
            if let Ok(time) = jiff::Timestamp::from_second(seconds) {
                assert_eq!(EventTime { seconds, nanos: 0 }.to_rfc3339(), time.to_string());
            }
        }
    }

    #[test]
    fn what_is_no_event_is_refused_by_field() {
        let long = || "x".repeat(ATTRIBUTE_BYTES_MAX + 1);
        let many: BTreeMap<_, _> =
            (0..=ATTRIBUTES_MAX).map(|n| (format!("a{n}"), "v".into())).collect();
        let d = Draft::default;
        let content = |text: &str| Payload { content_type: text.into(), ..Payload::default() };
        let time = |seconds, nanos| Some(EventTime { seconds, nanos });
        let with = |pairs: &[(&str, &str)]| Draft { attributes: attributes(pairs), ..d() };
        let table = [
            ("id", Draft { id: long(), ..d() }),
            ("id", Draft { id: "a\nb".into(), ..d() }),
            ("source", Draft { source: "not a uri".into(), ..d() }),
            ("source", Draft { source: "a\u{80}".into(), ..d() }),
            ("type", Draft { kind: "t\0".into(), ..d() }),
            ("subject", Draft { subject: "\u{fdd0}".into(), ..d() }),
            ("subject", Draft { subject: "\u{1ffff}".into(), ..d() }),
            ("data_schema", Draft { data_schema: "/relative".into(), ..d() }),
            ("data.content_type", Draft { data: content("json"), ..d() }),
            ("time", Draft { time: time(253_402_300_800, 0), ..d() }),
            ("time", Draft { time: time(-62_135_596_801, 0), ..d() }),
            ("time", Draft { time: time(0, 1_000_000_000), ..d() }),
            ("attributes", with(&[("id", "x")])),
            ("attributes", with(&[("data", "x")])),
            ("attributes", with(&[("data_base64", "x")])),
            ("attributes", with(&[("Upper", "x")])),
            ("attributes", with(&[("with-dash", "x")])),
            ("attributes", with(&[("", "x")])),
            ("attributes", with(&[("abcdefghijklmnopqrstu", "x")])),
            ("attributes", Draft { attributes: many, ..d() }),
            ("attributes.x", with(&[("x", "")])),
            ("attributes.x", with(&[("x", "\u{7f}")])),
            ("attributes.x", with(&[("x", &long())])),
            (
                "partition_key",
                Draft { partition_key: "a".into(), ..with(&[("partitionkey", "b")]) },
            ),
        ];
        for (field, draft) in table {
            let error = complete(draft.clone()).expect_err(field);
            assert_eq!(error.field, field, "{error} of {draft:?}");
        }
        for fine in [
            with(&[("abcdefghijklmnopqrst", "é"), ("traceparent", "00-a-b-01")]),
            Draft { partition_key: "a".into(), ..with(&[("partitionkey", "a")]) },
            Draft { data: content("text/plain; charset=utf-8"), ..d() },
            Draft { time: time(253_402_300_799, 999_999_999), ..d() },
        ] {
            let event = complete(fine).expect("an event");
            assert!(!event.time.to_rfc3339().is_empty());
        }
    }
}
