//! The application's state: what is asked of it, and who carries that out. It is not the core's business.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

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
        /// The key.
        key: Arc<str>,
        /// Its new value.
        value: Payload,
        /// Condition: the key's etag, or `*` for an absent key.
        etag: Option<String>,
        /// Makes a retry safe.
        request_id: Option<String>,
    },
    /// Deletes a key.
    Delete {
        /// The key.
        key: Arc<str>,
        /// Condition: the key's etag.
        etag: Option<String>,
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
}

/// Why an operation on the application's state failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The condition did not hold; nothing was done.
    #[error("the condition does not hold: the etag is '{etag}'")]
    ConditionFailed {
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
