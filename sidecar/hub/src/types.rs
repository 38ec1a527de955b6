//! Words that both ends of the hub use, apart from the wire.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// Name of a log within its application, for example `a.Account/3`; 1 to [`LogName::BYTES_MAX`]
/// bytes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogName(Arc<str>);

/// A value with its type.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Value {
    /// The bytes.
    pub data: Bytes,
    /// MIME type; may be empty.
    pub content_type: String,
}

/// Operations on one actor's state, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ActorOps {
    /// The actor.
    pub actor: String,
    /// What to do.
    pub ops: Vec<StoreOp>,
}

/// One operation on an actor's state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreOp {
    /// Sets a key.
    Set {
        /// The key.
        key: String,
        /// Its value.
        value: Value,
    },
    /// Removes a key; nothing happens if it is absent.
    Remove {
        /// The key.
        key: String,
    },
    /// Removes every key of a range, in byte order.
    RemoveRange {
        /// The first one, if it exists.
        from: String,
        /// The first one that is not meant any more; empty: all that follow are meant.
        to: String,
    },
    /// Removes every key of the actor.
    Clear,
}

/// The fence cell of a log's store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FenceCell {
    /// Newest epoch that wrote or fenced; steps of older ones are refused.
    pub epoch: u64,
    /// Every operation up to this offset is in the store.
    pub offset: u64,
}

/// A live member of the application.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemberInfo {
    /// Incarnation: unique for ever in the data directory, and growing.
    pub incarnation: u64,
    /// Name of the node.
    pub name: String,
    /// Where peers reach it.
    pub address: String,
    /// Process id.
    pub process_id: u32,
    /// Kinds that it hosts.
    pub kinds: Vec<String>,
    /// It is leaving.
    pub leaving: bool,
    /// It joined for a short while only.
    pub transient: bool,
}

/// How much of an application was deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PurgeCount {
    /// Services and actor types that were registered.
    pub kinds: u64,
    /// Logs.
    pub logs: u64,
    /// Rows of the store.
    pub entries: u64,
    /// Consumers of topics.
    pub consumers: u64,
}

/// A key of the application's state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StateEntry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// Changes with every write of the key.
    pub etag: String,
    /// From when on it is absent, by the hub's clock, milliseconds since the Unix epoch; `None`: it
    /// stays.
    pub expires_ms: Option<u64>,
}

/// A key of the application's state to be set.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StateSet {
    /// The key.
    pub key: String,
    /// Its new value.
    pub value: Value,
    /// Only if the key has this etag; `*`: only if it is absent.
    pub etag: Option<String>,
    /// The key is absent after this time, which begins when it is set; `None`: it stays.
    pub time_to_live: Option<Duration>,
}

/// A key of the application's state to be deleted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StateDelete {
    /// The key.
    pub key: String,
    /// Only if the key has this etag.
    pub etag: Option<String>,
}

/// What a transaction of the application's state has done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transacted {
    /// Etags of what was set, in order.
    pub etags: Vec<String>,
    /// Whether what was deleted existed, in order.
    pub existed: Vec<bool>,
}

/// A page of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StatePage {
    /// In byte order of the keys.
    pub entries: Vec<StateEntry>,
    /// Pass it on to get the next page; empty: there is none.
    pub next_page_token: String,
}

/// A stored snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SnapshotInfo {
    /// Its key.
    pub key: String,
    /// Bytes.
    pub length: u64,
    /// CRC-32C.
    pub checksum: u32,
}

/// A page of snapshots.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SnapshotPage {
    /// In byte order of the keys.
    pub snapshots: Vec<SnapshotInfo>,
    /// Pass it on as `after` to get the next page; `None`: there is none.
    pub next_after: Option<String>,
}

/// What a client is told, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum HubEvent {
    /// The client is attached.
    Welcome {
        /// Its incarnation; 0 for observers.
        incarnation: u64,
        /// It has kept the one it had.
        resumed: bool,
    },
    /// The current view of the application, complete.
    Members {
        /// Live members, by incarnation.
        nodes: Vec<MemberInfo>,
        /// Known kinds with their fixed numbers of partitions, by name.
        kinds: Vec<(String, u32)>,
    },
    /// A kind that was asked for is not registered: the application has as many as it may.
    KindRefused {
        /// Its name.
        kind: String,
        /// Name of the bound.
        bound: String,
        /// Its value.
        limit: u64,
    },
    /// A record of a log that is read.
    Entry {
        /// The log.
        log: LogName,
        /// Its place; the first one is 1, and there are no gaps.
        offset: u64,
        /// The record.
        record: Bytes,
    },
    /// A record that this client appended on the current connection, at its place among the
    /// entries.
    Own {
        /// The log.
        log: LogName,
        /// Its place.
        offset: u64,
        /// From [`append`](crate::HubClient::append).
        id: u64,
    },
    /// Everything that was in the log when the reading or the barrier was asked for has been told.
    End {
        /// The log.
        log: LogName,
    },
    /// Where a log starts: lower records were trimmed. Comes first in every reading, and when what
    /// [`trim_log`](crate::HubClient::trim_log) asked for is durable.
    LogStart {
        /// The log.
        log: LogName,
        /// Offset of the first record that is kept, or that the next one will have if none is.
        start: u64,
    },
    /// The record that a reading wants next was trimmed, before it began or while it went on. The
    /// reading ended, and nothing was skipped: read from the start, with a state that has
    /// everything below it.
    LogTrimmed {
        /// The log.
        log: LogName,
        /// As in [`HubEvent::LogStart`].
        start: u64,
    },
    /// The reading of a log ended without being asked to (the connection broke, the log was
    /// purged, or a barrier was asked for without a reading).
    LogLost {
        /// The log.
        log: LogName,
    },
    /// An actor's state with the cell, from one snapshot.
    ActorLoaded {
        /// The log.
        log: LogName,
        /// The actor.
        actor: String,
        /// The cell's epoch.
        cell_epoch: u64,
        /// The cell's offset.
        cell_offset: u64,
        /// Its keys.
        state: Vec<(String, Value)>,
        /// The reign that asked.
        epoch: u64,
    },
    /// The cell of a log's store.
    StoreCell {
        /// The log.
        log: LogName,
        /// The cell.
        cell: FenceCell,
    },
    /// The store is fenced.
    StoreFenced {
        /// The log.
        log: LogName,
        /// The reign that asked.
        epoch: u64,
        /// The cell as it was before.
        cell: FenceCell,
    },
    /// A batch is in the store.
    StoreWritten {
        /// The log.
        log: LogName,
        /// The reign that asked.
        epoch: u64,
        /// Its offset.
        upto: u64,
    },
    /// A fence was refused because the cell has a newer epoch, or a write because the cell is not
    /// the expected one.
    StoreRefused {
        /// The log.
        log: LogName,
        /// The reign that asked.
        epoch: u64,
        /// The cell as it is.
        cell: FenceCell,
    },
    /// The hub is about to end because of something that an operator must mend.
    Fault {
        /// What happened and what to do.
        message: String,
    },
    /// The data directory was removed, moved or replaced. The client has closed: it would find another
    /// one, without anything of what was told. Its owner ends, too.
    DirectoryLost {
        /// What happened and what to do.
        message: String,
    },
    /// The connection broke. Appends not told of have an unknown fate, every reading is lost
    /// ([`HubEvent::LogLost`] comes for each), every store step not answered is lost. A new
    /// connection is being made; until [`HubEvent::Reconnected`] what is asked for is dropped, but
    /// for `offer` and `ensure_kind`, which are kept.
    Disconnected,
    /// There is a connection again; it follows [`HubEvent::Welcome`].
    Reconnected,
    /// The former incarnation was struck out: the [`HubEvent::Welcome`] that follows grants a new
    /// one, and whoever lives under the old one must begin anew.
    Evicted,
    /// No hub can be had: the client has given up for now and goes on trying more slowly.
    Unavailable {
        /// What was tried and how it ended.
        message: String,
    },
}

// === impl LogName ===

impl LogName {
    /// Longest name, bytes.
    pub const BYTES_MAX: usize = 512;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for LogName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for LogName {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<Arc<str>> for LogName {
    fn from(name: Arc<str>) -> Self {
        Self(name)
    }
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
