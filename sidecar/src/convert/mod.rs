//! Wire types become the core's types here, and nowhere else: one module per edge.

pub mod api;
pub mod error;
pub mod event;
pub mod inbox;
pub mod json;
pub mod log;
pub mod peer;
pub mod policy;
mod probe;
pub mod reminder;
pub mod snapshot;
pub mod subscription;
pub mod view;

use std::fmt::{self, Write as _};
use std::sync::Arc;

use bytes::Bytes;

/// A text that is shared from now on; empty ones, which are common, cost nothing.
pub(crate) fn shared(text: String) -> Arc<str> {
    if text.is_empty() { Arc::default() } else { text.into() }
}

/// A text of its own. Not `to_string`, which goes through the formatter: a call copies a dozen of texts.
pub(crate) fn owned(text: &str) -> String {
    text.to_owned()
}

/// Payloads up to so many bytes are taken out of the message that they came in.
///
/// A decoded payload is a slice of that message's buffer. One that stays (a kept result, a value in an actor's state,
/// a call in a long queue) would keep the whole buffer, which is often a hundred times larger than itself. Longer ones
/// are a good part of their buffer; copying them would cost more than it saves.
const COPIED_BYTES_MAX: usize = 512;

/// The bytes of a payload, in memory of their own where they are few.
pub(crate) fn taken_out(data: Bytes) -> Bytes {
    if data.len() <= COPIED_BYTES_MAX { Bytes::copy_from_slice(&data) } else { data }
}

/// Bytes that the name of an invocation or a turn takes, commonly.
const NAME_BYTES: usize = 128;

/// A name as text, with room from the start: a turn token is written piece by piece.
pub(crate) fn written(name: &impl fmt::Display) -> String {
    let mut text = String::with_capacity(NAME_BYTES);
    // Writing to a string cannot fail.
    let _ = write!(text, "{name}");
    text
}

/// Bytes from a log or a peer that do not say what they should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They are no protobuf message of the type.
    #[error("not a valid message: {0}")]
    Protobuf(String),
    /// A field is absent, out of range, or of a kind that this version does not know.
    #[error("field '{0}' is missing or not understood")]
    Field(&'static str),
}

impl From<prost::DecodeError> for Malformed {
    fn from(error: prost::DecodeError) -> Self {
        Self::Protobuf(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use kar_proto::log::v1 as pb;
    use prost::Message as _;

    use super::*;

    #[test]
    fn small_payloads_do_not_keep_the_message_that_they_came_in() {
        for (bytes, taken) in [(1, true), (COPIED_BYTES_MAX, true), (COPIED_BYTES_MAX + 1, false)] {
            let sent = pb::Payload { data: vec![7; bytes].into(), content_type: String::new() };
            let message = Bytes::from(sent.encode_to_vec());
            let decoded = pb::Payload::decode(message.clone()).expect("it was just encoded");
            let kept = log::payload_from(decoded).data;
            assert_eq!(kept, vec![7; bytes]);
            assert_eq!(!message.as_ptr_range().contains(&kept.as_ptr()), taken, "{bytes}");
        }
    }
}
