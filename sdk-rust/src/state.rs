//! State: of the turn's actor ([`StateReader`], [`StateWriter`]), and of the application as a whole
//! ([`ApplicationState`]).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use kar_proto::v1 as proto;
use kar_proto::v1::state_change::Change;

use crate::codec::{Decode, Encode, Payload};
use crate::error::{CallError, Rejection};
use crate::limits::STATE_KEY_BYTES_MAX;
use crate::stream::{Answer, Handle, Operation};
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

/// State of the application as a whole: a key-value store for components without actors. It is not
/// part of turns: a write is durable when it is answered. Reads and writes survive the loss of the
/// connection.
#[derive(Clone, Debug)]
pub struct ApplicationState {
    handle: Handle,
}

/// A value with its version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// Changes with every write; for conditions.
    pub etag: Etag,
}

/// A version of a value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Etag(pub String);

/// Some keys of the application's state, in byte order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Keys with their values.
    pub entries: Vec<(String, Payload)>,
    /// Token of the next page; `None` if there is none.
    pub next: Option<String>,
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
        let request =
            proto::ActorStateServiceGetRequest { turn_token: self.token(), keys, actor: None };
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
        let request =
            proto::ActorStateServiceGetRequest { turn_token: self.token(), keys, actor: None };
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
        let request =
            proto::ContainsRequest { turn_token: self.token(), key: checked(key)?, actor: None };
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

// === impl ApplicationState ===

impl ApplicationState {
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// Reads a key; `None` if it is absent.
    ///
    /// # Errors
    /// The sidecar's, or [`CallError::Codec`] if the value is none of `T`.
    pub async fn get<T: Decode>(&self, key: &str) -> Result<Option<T>, CallError> {
        Ok(self.get_versioned(key).await?.map(|versioned| versioned.value))
    }

    /// Reads a key with its version.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_versioned<T: Decode>(
        &self,
        key: &str,
    ) -> Result<Option<Versioned<T>>, CallError> {
        let request = proto::StateServiceGetRequest { key: checked(key)? };
        let Answer::StateGet(answer) = self.handle.request(Operation::StateGet(request)).await?
        else {
            return Err(CallError::mismatch("state_get"));
        };
        let Some(value) = answer.value else { return Ok(None) };
        let value = T::decode(Payload::from_proto(Some(value)))?;
        Ok(Some(Versioned { value, etag: Etag(answer.etag) }))
    }

    /// Sets a key, whatever it was.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn set<T: Encode + ?Sized>(&self, key: &str, value: &T) -> Result<Etag, CallError> {
        self.set_with(key, value, String::new()).await
    }

    /// Sets a key only if its version is still this one.
    ///
    /// # Errors
    /// [`CallError::ConditionFailed`] if it is not.
    pub async fn set_if<T: Encode + ?Sized>(
        &self,
        key: &str,
        value: &T,
        etag: &Etag,
    ) -> Result<Etag, CallError> {
        self.set_with(key, value, etag.0.clone()).await
    }

    /// Sets a key only if it is absent.
    ///
    /// # Errors
    /// [`CallError::ConditionFailed`] if it exists.
    pub async fn create<T: Encode + ?Sized>(
        &self,
        key: &str,
        value: &T,
    ) -> Result<Etag, CallError> {
        self.set_with(key, value, "*".to_owned()).await
    }

    /// Deletes a key; returns whether it existed.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn delete(&self, key: &str) -> Result<bool, CallError> {
        self.delete_with(key, String::new()).await
    }

    /// Deletes a key only if its version is still this one.
    ///
    /// # Errors
    /// [`CallError::ConditionFailed`] if it is not.
    pub async fn delete_if(&self, key: &str, etag: &Etag) -> Result<bool, CallError> {
        self.delete_with(key, etag.0.clone()).await
    }

    /// Lists keys that start with `prefix`, in byte order: at most `page_size` (0 means 100, at
    /// most 1,000), after the page that ended with the token `after` (empty: from the start).
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn list(&self, prefix: &str, page_size: u32, after: &str) -> Result<Page, CallError> {
        let request = proto::ListRequest {
            prefix: prefix.to_owned(),
            page_size: i32::try_from(page_size).unwrap_or(i32::MAX),
            page_token: after.to_owned(),
        };
        let Answer::StateList(answer) = self.handle.request(Operation::StateList(request)).await?
        else {
            return Err(CallError::mismatch("state_list"));
        };
        let entries = answer.entries.into_iter();
        let entries = entries.map(|e| (e.key, Payload::from_proto(e.value))).collect();
        let next = Some(answer.next_page_token).filter(|token| !token.is_empty());
        Ok(Page { entries, next })
    }

    async fn set_with<T: Encode + ?Sized>(
        &self,
        key: &str,
        value: &T,
        etag: String,
    ) -> Result<Etag, CallError> {
        let request = proto::SetRequest {
            key: checked(key)?,
            value: Some(value.encode()?.into_proto()),
            etag,
            request_id: request_id(),
            time_to_live: None,
        };
        match self.handle.request(Operation::StateSet(request)).await? {
            Answer::StateSet(answer) => Ok(Etag(answer.etag)),
            _ => Err(CallError::mismatch("state_set")),
        }
    }

    async fn delete_with(&self, key: &str, etag: String) -> Result<bool, CallError> {
        let request = proto::DeleteRequest { key: checked(key)?, etag, request_id: request_id() };
        match self.handle.request(Operation::StateDelete(request)).await? {
            Answer::StateDelete(answer) => Ok(answer.existed),
            _ => Err(CallError::mismatch("state_delete")),
        }
    }
}

pub(crate) fn payloads(entries: HashMap<String, proto::Payload>) -> BTreeMap<String, Payload> {
    entries.into_iter().map(|(key, value)| (key, Payload::from_proto(Some(value)))).collect()
}

/// Makes it safe to send a write again after the connection broke.
fn request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

fn checked(key: &str) -> Result<String, CallError> {
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
