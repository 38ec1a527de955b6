//! The application's state: what is asked of it, and who carries that out. It is not the core's business.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use kar_core::ids::Millis;
use kar_core::invocation::Payload;

/// State of the application: keys outside of all actors.
pub trait ApplicationState: Send + Sync {
    /// Carries out one operation.
    fn run(&self, operation: StateOperation) -> StateFuture;
}

/// The answer to a [`StateOperation`], some time.
pub type StateFuture = Pin<Box<dyn Future<Output = Result<StateAnswer, StateError>> + Send>>;

/// What is asked of the application's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateOperation {
    /// Reads a key.
    Get {
        /// The key.
        key: Arc<str>,
    },
    /// Sets a key.
    Set {
        /// What to set.
        set: StateSet,
        /// Makes a retry safe.
        request_id: Option<String>,
    },
    /// Deletes a key.
    Delete {
        /// What to delete.
        delete: StateDelete,
        /// Makes a retry safe.
        request_id: Option<String>,
    },
    /// Makes several changes, all or none. No key is named twice.
    Transact {
        /// What to set.
        sets: Vec<StateSet>,
        /// What to delete.
        deletes: Vec<StateDelete>,
        /// Makes a retry safe.
        request_id: Option<String>,
    },
    /// Lists keys in byte order.
    List {
        /// Only keys that start with it.
        prefix: String,
        /// At most so many; 0: the backend's default.
        page_size: u32,
        /// From the page before; empty: from the start.
        page_token: String,
    },
}

/// A key to be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSet {
    /// The key.
    pub key: Arc<str>,
    /// Its new value.
    pub value: Payload,
    /// Condition: the key's etag, or `*` for an absent key.
    pub etag: Option<String>,
    /// The key is absent after this time; `None`: it stays.
    pub time_to_live: Option<Millis>,
}

/// A key to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDelete {
    /// The key.
    pub key: Arc<str>,
    /// Condition: the key's etag.
    pub etag: Option<String>,
}

/// A good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateAnswer {
    /// The key, if it exists.
    Entry(Option<StateEntry>),
    /// It was set.
    Written {
        /// Its new etag.
        etag: String,
    },
    /// It is gone.
    Deleted {
        /// Whether it existed.
        existed: bool,
    },
    /// All changes were made.
    Transacted {
        /// New etags of what was set, in order.
        etags: Vec<String>,
        /// Whether what was deleted existed, in order.
        existed: Vec<bool>,
    },
    /// A page of keys.
    Page {
        /// In byte order.
        entries: Vec<StateEntry>,
        /// For the next page; empty: there is none.
        next_page_token: String,
    },
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEntry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Payload,
    /// Changes with every write.
    pub etag: String,
    /// From when on it is absent, by the store's clock; `None`: it stays.
    pub expires: Option<Millis>,
}

/// Why an operation on the application's state failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The condition did not hold; nothing was done.
    #[error("the condition on '{key}' does not hold: the etag is '{etag}'")]
    ConditionFailed {
        /// The key.
        key: String,
        /// Etag that the key has; empty if there is no such key.
        etag: String,
    },
    /// The request exceeds a bound or is malformed.
    #[error("{0}")]
    Invalid(String),
    /// The store was away; a read can be asked for again.
    #[error("{0}")]
    Unavailable(String),
    /// The store was away while a write was under way; with a request id it can safely be repeated.
    #[error("{0}")]
    Unknown(String),
}
