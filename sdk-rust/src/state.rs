//! State of the turn's actor ([`StateReader`], [`StateWriter`]).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use kar_proto::v1 as proto;
use kar_proto::v1::state_change::Change;

use crate::codec::{Decode, Encode, Payload};
use crate::error::{CallError, Rejection};
use crate::limits::STATE_KEY_BYTES_MAX;
use crate::stream::{Answer, Operation};
use crate::turn::Turn;

/// The state of the turn's actor, for reading. Reads see the turn's own writes.
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
        let keys = vec![checked(key)?];
        let request = proto::ActorStateServiceGetRequest {
            turn_token: self.token(),
            keys,
            ..Default::default()
        };
        let Answer::ActorStateGet(mut answer) =
            self.turn.request(Operation::ActorStateGet(request)).await?
        else {
            return Err(CallError::mismatch("actor_state_get"));
        };
        let value = answer.entries.remove(key);
        Ok(value.map(|p| T::decode(Payload::from_proto(Some(p)))).transpose()?)
    }

    /// Reads several keys at once, for the price of one; absent ones are absent in the answer.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn get_many(&self, keys: &[&str]) -> Result<BTreeMap<String, Payload>, CallError> {
        let keys = keys.iter().map(|key| checked(key)).collect::<Result<_, _>>()?;
        let request = proto::ActorStateServiceGetRequest {
            turn_token: self.token(),
            keys,
            ..Default::default()
        };
        match self.turn.request(Operation::ActorStateGet(request)).await? {
            Answer::ActorStateGet(answer) => Ok(payloads(answer.entries)),
            _ => Err(CallError::mismatch("actor_state_get")),
        }
    }

    /// Reads every key.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn get_all(&self) -> Result<BTreeMap<String, Payload>, CallError> {
        let request = proto::GetAllRequest { turn_token: self.token(), actor: None };
        match self.turn.request(Operation::ActorStateGetAll(request)).await? {
            Answer::ActorStateGetAll(all) => Ok(payloads(all.entries)),
            _ => Err(CallError::mismatch("actor_state_get_all")),
        }
    }

    /// Whether a key exists.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn contains(&self, key: &str) -> Result<bool, CallError> {
        let request = proto::ContainsRequest {
            turn_token: self.token(),
            key: checked(key)?,
            ..Default::default()
        };
        match self.turn.request(Operation::ActorStateContains(request)).await? {
            Answer::ActorStateContains(answer) => Ok(answer.exists),
            _ => Err(CallError::mismatch("actor_state_contains")),
        }
    }

    fn token(&self) -> String {
        self.turn.token.clone()
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
    /// The value cannot be encoded, the key is not of 1 to 512 bytes, or the turn has gathered too
    /// many bytes ([`CallError::Limit`]): flush in between.
    pub fn set<T: Encode + ?Sized>(&self, key: &str, value: &T) -> Result<(), CallError> {
        let value = Some(value.encode()?.into_proto());
        self.turn.write(Change::Set(proto::StateEntry { key: checked(key)?, value }))
    }

    /// Removes a key; nothing happens if it is absent.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn remove(&self, key: &str) -> Result<(), CallError> {
        self.turn.write(Change::Remove(checked(key)?))
    }

    /// Removes every key.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn clear(&self) -> Result<(), CallError> {
        self.turn.write(Change::Clear(true))
    }

    /// Makes everything that the turn did so far durable, not only the state; returns when it is.
    ///
    /// # Errors
    /// [`CallError::Superseded`] if another attempt took over: pass it on with `?`.
    pub async fn flush(&self) -> Result<(), CallError> {
        let request = proto::FlushRequest { turn_token: self.token() };
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

pub(crate) fn checked(key: &str) -> Result<String, CallError> {
    if key.is_empty() || key.len() > STATE_KEY_BYTES_MAX {
        return Err(CallError::Rejected(Box::new(Rejection {
            code: tonic::Code::InvalidArgument as i32,
            reason: "INVALID_FIELD".to_owned(),
            message: format!("a key has 1 to {STATE_KEY_BYTES_MAX} bytes, this has {}", key.len()),
            metadata: BTreeMap::from([("field".to_owned(), "key".to_owned())]),
        })));
    }
    Ok(key.to_owned())
}
