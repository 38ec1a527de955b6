//! State of the turn's actor ([`StateReader`], [`StateWriter`]).

mod sub_map;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use kar_proto::v1 as proto;
use kar_proto::v1::state_change::Change;

pub use sub_map::{SubMapEntries, SubMapReader, SubMapWriter};
use view::OWN;
pub(crate) use view::View;

use crate::codec::{Decode, Encode, Payload};
use crate::error::{CallError, Rejection};
use crate::limits::STATE_KEY_BYTES_MAX;
use crate::stream::{Answer, Operation};
use crate::turn::Turn;

/// The state of the turn's actor, for reading. Reads see the turn's own writes.
///
/// It is a map of keys to values, and any number of sub-maps ([`sub_map`](Self::sub_map)), each a map of
/// its own, for collections that need not be read whole.
#[derive(Clone, Copy)]
pub struct StateReader<'a> {
    turn: &'a Arc<Turn>,
}

/// The state of the turn's actor.
///
/// Writes are gathered and go to the sidecar with the turn's next operation; they are durable with
/// the turn's segment: its next call, its flush, or its end, or not at all. That the sidecar
/// refused one shows at the next operation, or as the error of the turn.
#[derive(Clone, Copy)]
pub struct StateWriter<'a> {
    reader: StateReader<'a>,
}

// === impl StateReader ===

impl<'a> StateReader<'a> {
    pub(crate) fn new(turn: &'a Arc<Turn>) -> Self {
        Self { turn }
    }

    /// Reads a key; `None` if it is absent.
    ///
    /// # Errors
    /// The sidecar's, or [`CallError::Codec`] if the value is none of `T`.
    pub async fn get<T: Decode>(&self, key: &str) -> Result<Option<T>, CallError> {
        self.view().get_own(key).await
    }

    /// Reads several keys at once, for the price of one; absent ones are absent in the answer.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn get_many(&self, keys: &[&str]) -> Result<BTreeMap<String, Payload>, CallError> {
        self.view().get_many(OWN, keys).await
    }

    /// Reads every key of the actor's own: none of its sub-maps'.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn get_all(&self) -> Result<BTreeMap<String, Payload>, CallError> {
        self.view().get_all_own().await
    }

    /// Whether a key exists.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn contains(&self, key: &str) -> Result<bool, CallError> {
        self.view().contains(OWN, key).await
    }

    /// The sub-map of this name, for reading. It need not exist.
    #[must_use]
    pub fn sub_map(&self, name: impl Into<String>) -> SubMapReader<'a> {
        SubMapReader::new(self.view(), name.into())
    }

    fn view(&self) -> View<'a> {
        View::Turn(self.turn)
    }
}

impl fmt::Debug for StateReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("State").field(&self.turn.kind).field(&self.turn.id).finish()
    }
}

// === impl StateWriter ===

impl<'a> StateWriter<'a> {
    pub(crate) fn new(turn: &'a Arc<Turn>) -> Self {
        Self { reader: StateReader::new(turn) }
    }

    /// Sets a key.
    ///
    /// # Errors
    /// The value cannot be encoded, the key is not of 1 to 512 bytes or has U+0000, or the turn has
    /// gathered too many bytes ([`CallError::Limit`]): flush in between.
    pub fn set<T: Encode + ?Sized>(&self, key: &str, value: &T) -> Result<(), CallError> {
        let value = Some(value.encode()?.into_proto());
        self.turn.write(Change::Set(proto::StateEntry { key: checked_key(key)?, value }))
    }

    /// Removes a key; nothing happens if it is absent.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn remove(&self, key: &str) -> Result<(), CallError> {
        self.turn.write(Change::Remove(checked_key(key)?))
    }

    /// Removes every key and every sub-map.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn clear(&self) -> Result<(), CallError> {
        self.turn.write(Change::Clear(true))
    }

    /// Sets a key only if it holds `expected`; `None`: only if it is absent. Tells whether it did; if not,
    /// nothing was changed. It is part of the turn as [`set`](Self::set) is, and comes after what was
    /// written before it; unlike that it asks the sidecar at once.
    ///
    /// Values are compared byte for byte as they are written, content type included. What was written by
    /// another program, by another version of a type, or from a `HashMap`, may be other bytes for the same
    /// value: compare the [`Payload`] that was read instead.
    ///
    /// ```no_run
    /// # use kar_sdk::{Error, Payload};
    /// # async fn method(ctx: &mut kar_sdk::ActorContext) -> Result<(), Error> {
    /// let state = ctx.state();
    /// let first = state.compare_and_set("owner", None, "alice").await?;
    /// let next = state.compare_and_set("owner", Some("alice"), "bob").await?;
    /// let as_read: Option<Payload> = state.get("owner").await?;
    /// let new = Payload::new("text/plain", "carol");
    /// let last = state.compare_and_set("owner", as_read.as_ref(), &new).await?;
    /// # let _ = (first, next, last);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// A value cannot be encoded, the key is none, and the sidecar's.
    pub async fn compare_and_set<T: Encode + ?Sized>(
        &self,
        key: &str,
        expected: Option<&T>,
        new: &T,
    ) -> Result<bool, CallError> {
        let value = Some(new.encode()?.into_proto());
        let set = Change::Set(proto::StateEntry { key: checked_key(key)?, value });
        compare_and_set(self.turn, OWN.to_owned(), key, expected, set).await
    }

    /// The sub-map of this name. It exists while it has entries: setting the first one makes it.
    #[must_use]
    pub fn sub_map(&self, name: impl Into<String>) -> SubMapWriter<'a> {
        SubMapWriter::new(self.turn, name.into())
    }

    /// Makes everything that the turn did so far durable, not only the state; returns when it is.
    ///
    /// # Errors
    /// [`CallError::Superseded`] if another attempt took over: pass it on with `?`.
    pub async fn flush(&self) -> Result<(), CallError> {
        let request = proto::FlushRequest { turn_token: self.turn.token.clone() };
        match self.turn.request(Operation::Flush(request)).await? {
            Answer::Flush(_) => Ok(()),
            _ => Err(CallError::mismatch("flush")),
        }
    }
}

impl<'a> Deref for StateWriter<'a> {
    type Target = StateReader<'a>;

    fn deref(&self) -> &StateReader<'a> {
        &self.reader
    }
}

impl fmt::Debug for StateWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reader.fmt(f)
    }
}

pub(crate) fn payloads(entries: HashMap<String, proto::Payload>) -> BTreeMap<String, Payload> {
    entries.into_iter().map(|(key, value)| (key, Payload::from_proto(Some(value)))).collect()
}

/// Makes a change if a key holds what is expected of it, all in one.
async fn compare_and_set<T: Encode + ?Sized>(
    turn: &Arc<Turn>,
    sub_map: String,
    key: &str,
    expected: Option<&T>,
    set: Change,
) -> Result<bool, CallError> {
    let value = expected.map(Encode::encode).transpose()?.map(Payload::into_proto);
    let require = Change::Require(proto::StateCondition { key: key.to_owned(), value, sub_map });
    let changes = [require, set].map(|change| proto::StateChange { change: Some(change) });
    let apply = proto::ApplyRequest { turn_token: turn.token.clone(), changes: changes.into() };
    match turn.request(Operation::ActorStateApply(apply)).await {
        Ok(Answer::ActorStateApply(_)) => Ok(true),
        Ok(_) => Err(CallError::mismatch("actor_state_apply")),
        Err(CallError::ConditionFailed(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A key of the application's state.
pub(crate) fn checked(key: &str) -> Result<String, CallError> {
    checked_length("key", "a key", key)
}

/// A key of an actor's state.
fn checked_key(key: &str) -> Result<String, CallError> {
    checked_name("key", "a key", key)
}

/// The name of a sub-map. An empty one would stand for the actor's own keys.
fn checked_sub_map(name: &str) -> Result<String, CallError> {
    checked_name("sub_map", "a sub-map's name", name)
}

fn checked_name(field: &str, what: &str, name: &str) -> Result<String, CallError> {
    let name = checked_length(field, what, name)?;
    match name.find('\0') {
        Some(at) => Err(invalid(
            field,
            format!(
                "{what} has no U+0000, this has one at byte {at}: separate its parts otherwise"
            ),
        )),
        None => Ok(name),
    }
}

fn checked_length(field: &str, what: &str, name: &str) -> Result<String, CallError> {
    if name.is_empty() || name.len() > STATE_KEY_BYTES_MAX {
        let bytes = name.len();
        let text = format!("{what} has 1 to {STATE_KEY_BYTES_MAX} bytes, this has {bytes}");
        return Err(invalid(field, text));
    }
    Ok(name.to_owned())
}

fn invalid(field: &str, message: String) -> CallError {
    CallError::Rejected(Box::new(Rejection {
        code: tonic::Code::InvalidArgument as i32,
        reason: "INVALID_FIELD".to_owned(),
        message,
        metadata: BTreeMap::from([("field".to_owned(), field.to_owned())]),
    }))
}
