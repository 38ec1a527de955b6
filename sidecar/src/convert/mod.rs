//! Wire types become the core's types here, and nowhere else: one module per edge.

pub mod api;
pub mod error;
pub mod inbox;
pub mod json;
pub mod log;
pub mod peer;
pub mod policy;
mod probe;
pub mod reminder;
pub mod snapshot;
pub mod view;

use std::fmt::{self, Write as _};
use std::sync::Arc;

/// A text that is shared from now on; empty ones, which are common, cost nothing.
pub(crate) fn shared(text: String) -> Arc<str> {
    if text.is_empty() { Arc::default() } else { text.into() }
}

/// A text of its own. Not `to_string`, which goes through the formatter: a call copies a dozen of texts.
pub(crate) fn owned(text: &str) -> String {
    text.to_owned()
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
