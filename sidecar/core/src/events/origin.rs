//! Events that are delivered: where they came from, and where they go if nobody can do anything with them.

use std::sync::Arc;

use bytes::Bytes;

use super::{EventPosition, Publication};
use crate::ids::{Offset, TopicPartition};
use crate::invocation::{Invocation, Outcome};

/// Attribute of a dead letter: how its delivery ended, `failed`, `expired`, `cancelled` and the like, with what there
/// is to say of it behind a colon.
pub const REASON: &str = "kardeadletterreason";
/// Attribute of a dead letter: attempts of the method that ended it.
pub const ATTEMPTS: &str = "kardeadletterattempts";
/// Attribute of a dead letter: the subscription that it was delivered for.
pub const SUBSCRIPTION: &str = "kardeadlettersubscription";
/// Attribute of a dead letter: name of the topic that it came from.
pub const TOPIC: &str = "kardeadlettertopic";
/// Attribute of a dead letter: its place there, `PARTITION/OFFSET`.
pub const POSITION: &str = "kardeadletterposition";

/// All of them. Some are longer than the names that others may choose.
pub const DEAD_LETTER_ATTRIBUTES: [&str; 5] = [REASON, ATTEMPTS, SUBSCRIPTION, TOPIC, POSITION];

/// Longest reason, bytes.
const REASON_BYTES_MAX: usize = 512;
/// Longest name of a subscription or topic that is counted on (the API's bound).
const NAME_BYTES_MAX: usize = 256;
/// What a dead letter takes more than its event at most, bytes: topics take events that are longer by this.
pub const DEAD_LETTER_BYTES_MAX: usize = REASON_BYTES_MAX + 2 * NAME_BYTES_MAX + 512;

/// What an invocation delivers. Its payload is the event as topics keep it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventOrigin {
    /// The subscription that it is delivered for.
    pub subscription: Arc<str>,
    /// Name of the topic.
    pub topic: Arc<str>,
    /// The partition that the event is in.
    pub place: TopicPartition,
    /// Its offset there.
    pub offset: Offset,
    /// Where the event goes if the invocation ends without success; `None`: what becomes of other tells becomes of it.
    pub dead_letter: Option<TopicPartition>,
    /// The event, where it may go to another topic and a tail call has put another payload into its place.
    pub event: Option<Bytes>,
}

// === impl EventOrigin ===

impl EventOrigin {
    /// The same for the next step of a chain of tail calls: with the event, where it may be wanted.
    pub(crate) fn carried(self: &Arc<Self>, before: &Invocation) -> Arc<Self> {
        if self.dead_letter.is_none() || self.event.is_some() {
            return self.clone();
        }
        Arc::new(Self { event: Some(before.payload.data.clone()), ..(**self).clone() })
    }
}

/// The event that an invocation delivers, for the topic of its dead letters: unchanged but for attributes that tell
/// what has become of it. `None`: there is no such topic, or the invocation was a success.
pub fn dead_letter(
    invocation: &Invocation,
    outcome: &Outcome,
    attempts: u32,
) -> Option<Publication> {
    let origin = invocation.event.as_ref()?;
    let to = origin.dead_letter.clone()?;
    let reason = reason(outcome)?;
    let position = EventPosition { partition: origin.place.partition, offset: origin.offset };
    let event = origin.event.as_ref().unwrap_or(&invocation.payload.data);
    let event = with_attributes(
        event,
        &[
            (REASON, &reason),
            (ATTEMPTS, &attempts.to_string()),
            (SUBSCRIPTION, &origin.subscription),
            (TOPIC, &origin.topic),
            (POSITION, &position.to_string()),
        ],
    );
    Some(Publication { to, event })
}

/// Why, if it was no success.
fn reason(outcome: &Outcome) -> Option<String> {
    let reason = match outcome {
        Outcome::Done(_) => return None,
        Outcome::Failed(error) => {
            let parts = [&*error.code, &*error.message].into_iter().filter(|part| !part.is_empty());
            parts.fold("failed".to_owned(), |reason, part| reason + ": " + part)
        }
        Outcome::Refused(refusal) => format!("refused: {refusal:?}"),
        Outcome::Deadlock(circle) => format!("deadlock: {circle}"),
        Outcome::Expired => "expired".to_owned(),
        Outcome::Cancelled => "cancelled".to_owned(),
        Outcome::Withdrawn => "withdrawn".to_owned(),
    };
    Some(attribute_text(&reason))
}

/// A text that an attribute may have.
fn attribute_text(text: &str) -> String {
    let mut fit = String::with_capacity(text.len().min(REASON_BYTES_MAX));
    for char in text.chars() {
        let char = if super::cloud_event::is_text(char) { char } else { ' ' };
        if fit.len() + char.len_utf8() > REASON_BYTES_MAX {
            break;
        }
        fit.push(char);
    }
    fit
}

/// Field and wire type of an attribute in `kar.log.v1.StoredEvent`.
const ATTRIBUTE_TAG: u8 = (10 << 3) | LENGTH_DELIMITED;
/// Wire type of texts and messages.
const LENGTH_DELIMITED: u8 = 2;

/// A stored event with more attributes. In its form what is put behind it counts as if it had been in it, and of an
/// attribute that is there twice the later value counts: so the event need not be looked into, nor its form be known
/// here but for this. (A test of the sidecar reads what is made here.) What was put there before goes: a dead letter
/// that becomes one again is no longer than one that is one for the first time.
fn with_attributes(event: &Bytes, attributes: &[(&str, &str)]) -> Bytes {
    let mut all = Vec::with_capacity(event.len() + DEAD_LETTER_BYTES_MAX);
    all.extend_from_slice(without_attributes(event).as_deref().unwrap_or(event));
    for (name, value) in attributes {
        let mut attribute = Vec::with_capacity(name.len() + value.len() + 8);
        put_field(&mut attribute, (1 << 3) | LENGTH_DELIMITED, name.as_bytes());
        put_field(&mut attribute, (2 << 3) | LENGTH_DELIMITED, value.as_bytes());
        put_field(&mut all, ATTRIBUTE_TAG, &attribute);
    }
    all.into()
}

/// The same without the attributes of a dead letter; `None`: it has no form that is known here, and stays as it is.
fn without_attributes(event: &[u8]) -> Option<Vec<u8>> {
    let mut rest = event;
    let mut left = Vec::with_capacity(event.len());
    while !rest.is_empty() {
        let (tag, head) = varint(rest)?;
        let (length, head) = match tag & 7 {
            0 => (0, head + varint(&rest[head..])?.1),
            1 => (8, head),
            2 => {
                let (length, more) = varint(&rest[head..])?;
                (usize::try_from(length).ok()?, head + more)
            }
            5 => (4, head),
            _ => return None,
        };
        let content = rest.get(head..head.checked_add(length)?)?;
        if tag != u64::from(ATTRIBUTE_TAG) || !is_of_dead_letter(content) {
            left.extend_from_slice(&rest[..head + length]);
        }
        rest = &rest[head + length..];
    }
    Some(left)
}

/// Whether an attribute is one of a dead letter, in the form that is made here.
fn is_of_dead_letter(attribute: &[u8]) -> bool {
    DEAD_LETTER_ATTRIBUTES.iter().any(|name| {
        let mut key = Vec::with_capacity(name.len() + 2);
        put_field(&mut key, (1 << 3) | LENGTH_DELIMITED, name.as_bytes());
        attribute.starts_with(&key)
    })
}

/// A number, and how many bytes it has.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * at as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

fn put_field(to: &mut Vec<u8>, tag: u8, content: &[u8]) {
    to.push(tag);
    let mut rest = content.len();
    while rest >= 0x80 {
        to.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    to.push(rest as u8);
    to.extend_from_slice(content);
}
