//! State of the application as a whole ([`ApplicationState`]).

use std::time::Duration;

use kar_proto::v1 as proto;

use crate::codec::{CodecError, Decode, Encode, Payload};
use crate::error::{CallError, Rejection};
use crate::state::checked;
use crate::stream::{Answer, Handle, Operation};

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

/// A change of the application's state: alone ([`ApplicationState::write`]), or one of several
/// ([`ApplicationState::transact`]).
#[derive(Clone, Debug)]
#[must_use = "nothing is written before `write` or `transact`"]
pub struct Write {
    key: String,
    /// `None`: the key is deleted.
    value: Option<Result<Payload, CodecError>>,
    /// `None`: whatever it is.
    etag: Option<String>,
    time_to_live: Option<Duration>,
}

/// What a [`Write`] has done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Written {
    /// The key was set; this is its version.
    Set(Etag),
    /// The key was deleted.
    Deleted {
        /// It was there.
        existed: bool,
    },
}

/// Some keys of the application's state, or of a sub-map of an actor's, in byte order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Keys with their values.
    pub entries: Vec<(String, Payload)>,
    /// Token of the next page; `None` if there is none. A page may have fewer entries than asked for, even
    /// none, and there still be a next one.
    pub next: Option<String>,
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

    /// Sets a key, whatever it was. It stays until it is deleted; [`write`](Self::write) sets keys for a time.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn set<T: Encode + ?Sized>(&self, key: &str, value: &T) -> Result<Etag, CallError> {
        self.set_by(Write::set(key, value)).await
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
        self.set_by(Write::set(key, value).if_version(etag)).await
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
        self.set_by(Write::set(key, value).if_absent()).await
    }

    /// Deletes a key; returns whether it existed.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn delete(&self, key: &str) -> Result<bool, CallError> {
        self.delete_by(Write::delete(key)).await
    }

    /// Deletes a key only if its version is still this one.
    ///
    /// # Errors
    /// [`CallError::ConditionFailed`] if it is not.
    pub async fn delete_if(&self, key: &str, etag: &Etag) -> Result<bool, CallError> {
        self.delete_by(Write::delete(key).if_version(etag)).await
    }

    /// Makes one change.
    ///
    /// # Errors
    /// [`CallError::ConditionFailed`] if its condition does not hold, and the sidecar's.
    pub async fn write(&self, write: Write) -> Result<Written, CallError> {
        if write.value.is_some() {
            self.set_by(write).await.map(Written::Set)
        } else {
            let existed = self.delete_by(write).await?;
            Ok(Written::Deleted { existed })
        }
    }

    /// Makes several changes, all or none, and nothing comes between them; tells what became of each, in order.
    /// No key may be changed twice. Without any change nothing is sent.
    ///
    /// # Errors
    /// [`CallError::ConditionFailed`] names the key if a condition does not hold: nothing was done then.
    /// [`CallError::Limit`] if they are too many, or too large together. The sidecar's.
    pub async fn transact(
        &self,
        writes: impl IntoIterator<Item = Write>,
    ) -> Result<Vec<Written>, CallError> {
        let mut request = proto::TransactRequest { request_id: request_id(), ..Default::default() };
        let mut is_set = Vec::new();
        for write in writes {
            is_set.push(write.value.is_some());
            if write.value.is_some() {
                request.sets.push(write.into_set(String::new())?);
            } else {
                request.deletes.push(write.into_delete(String::new())?);
            }
        }
        if is_set.is_empty() {
            return Ok(Vec::new());
        }
        let Answer::StateTransact(answer) =
            self.handle.request(Operation::StateTransact(request)).await?
        else {
            return Err(CallError::mismatch("state_transact"));
        };
        let (mut etags, mut existed) = (answer.etags.into_iter(), answer.existed.into_iter());
        let written = is_set.into_iter().map(|is_set| {
            if is_set {
                etags.next().map(|etag| Written::Set(Etag(etag)))
            } else {
                existed.next().map(|existed| Written::Deleted { existed })
            }
        });
        written.collect::<Option<_>>().ok_or_else(|| CallError::mismatch("state_transact"))
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
        Ok(Page::from_proto(answer.entries, answer.next_page_token))
    }

    async fn set_by(&self, write: Write) -> Result<Etag, CallError> {
        let request = write.into_set(request_id())?;
        match self.handle.request(Operation::StateSet(request)).await? {
            Answer::StateSet(answer) => Ok(Etag(answer.etag)),
            _ => Err(CallError::mismatch("state_set")),
        }
    }

    async fn delete_by(&self, write: Write) -> Result<bool, CallError> {
        let request = write.into_delete(request_id())?;
        match self.handle.request(Operation::StateDelete(request)).await? {
            Answer::StateDelete(answer) => Ok(answer.existed),
            _ => Err(CallError::mismatch("state_delete")),
        }
    }
}

// === impl Write ===

impl Write {
    /// Sets a key.
    pub fn set<T: Encode + ?Sized>(key: impl Into<String>, value: &T) -> Self {
        let value = Some(value.encode());
        Self { key: key.into(), value, etag: None, time_to_live: None }
    }

    /// Deletes a key, if it is there.
    pub fn delete(key: impl Into<String>) -> Self {
        Self { key: key.into(), value: None, etag: None, time_to_live: None }
    }

    /// Only if the key's version is still this one.
    pub fn if_version(mut self, etag: &Etag) -> Self {
        self.etag = Some(etag.0.clone());
        self
    }

    /// Only if the key is absent.
    pub fn if_absent(mut self) -> Self {
        self.etag = Some("*".to_owned());
        self
    }

    /// The key that is set is absent after this time, at least 1 ms, from when the write is carried out; without
    /// it, it stays. Of no effect on what is deleted.
    pub fn time_to_live(mut self, time: Duration) -> Self {
        self.time_to_live = Some(time);
        self
    }

    fn into_set(self, request_id: String) -> Result<proto::SetRequest, CallError> {
        let value = self.value.transpose()?.map(Payload::into_proto);
        // Longer than protobuf can say is for ever.
        let time_to_live = self.time_to_live.and_then(|time| time.try_into().ok());
        let (key, etag) = (checked(&self.key)?, condition(self.etag)?);
        Ok(proto::SetRequest { key, value, etag, request_id, time_to_live })
    }

    fn into_delete(self, request_id: String) -> Result<proto::DeleteRequest, CallError> {
        let (key, etag) = (checked(&self.key)?, condition(self.etag)?);
        Ok(proto::DeleteRequest { key, etag, request_id })
    }
}

// === impl Page ===

impl Page {
    pub(crate) fn from_proto(entries: Vec<proto::StateEntry>, next_page_token: String) -> Self {
        let entries = entries.into_iter().map(|e| (e.key, Payload::from_proto(e.value))).collect();
        Self { entries, next: Some(next_page_token).filter(|token| !token.is_empty()) }
    }
}

/// For the wire, which takes an empty version for no condition at all: that is not what was asked for.
fn condition(etag: Option<String>) -> Result<String, CallError> {
    match etag {
        Some(etag) if etag.is_empty() => Err(CallError::Rejected(Box::new(Rejection {
            code: tonic::Code::InvalidArgument as i32,
            reason: "INVALID_FIELD".to_owned(),
            message: "an empty version is none: use `if_absent`, or no condition".to_owned(),
            ..Rejection::default()
        }))),
        etag => Ok(etag.unwrap_or_default()),
    }
}

/// Makes it safe to send a write again after the connection broke.
fn request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}
