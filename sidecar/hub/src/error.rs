//! What can go wrong with a hub, for both of its ends.

use std::io;
use std::path::{Path, PathBuf};

/// Why a hub could not run, or a client could not use one. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Another hub serves the data directory; that is no harm: use that one.
    #[error("another hub already serves '{}'", dir.display())]
    AlreadyRunning {
        /// The data directory.
        dir: PathBuf,
    },
    /// The data directory cannot be used: make it writable, or name another one.
    #[error(
        "the data directory '{}' cannot be used: {source}; make it writable for this user or \
         choose another one (--data-dir)", dir.display()
    )]
    DataDir {
        /// The data directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The data directory lies on a network file system, where locks and syncs are not to be
    /// trusted: choose a local disk.
    #[error(
        "the data directory '{}' is on a network file system ({kind}), where locks and fsync \
         cannot be trusted; choose one on a local disk (--data-dir)", dir.display()
    )]
    NetworkFileSystem {
        /// The data directory.
        dir: PathBuf,
        /// Name of the file system's type.
        kind: &'static str,
    },
    /// Stored data does not have its checksum, and it is not the unacknowledged end of the log.
    /// Nothing was changed: restore the data directory from a copy.
    #[error(
        "the log is damaged at byte {at} of '{}': {what}; nothing was changed: restore the data \
         directory from a copy, or remove it to start anew without its data", file.display()
    )]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in it, in bytes.
        at: u64,
        /// What is wrong there.
        what: String,
    },
    /// The store's file is not what it was. Nothing was changed: restore it, or take it away, so that
    /// it is made again as far as the log goes back.
    #[error(
        "the store '{}' is damaged: {what}; nothing was changed: restore it from a copy, or take it \
         and '{}-wal' away: actors' states are then made again from the log where it reaches back \
         far enough, and the application state (`kar state`) is lost",
        file.display(), file.display()
    )]
    StoreDamaged {
        /// The damaged file.
        file: PathBuf,
        /// What the engine found wrong.
        what: String,
    },
    /// The disk (or quota, or file size limit) is full. What was acknowledged is safe; free space
    /// and start again.
    #[error("no space left for '{}': {source}; free some and start again", file.display())]
    DiskFull {
        /// The file that could not grow.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be read, written or synced.
    #[error("cannot {action} '{}': {source}", file.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store's engine failed.
    #[error("the hub's store failed: {0}")]
    Store(String),
    /// The data was written by a newer version of this program.
    #[error("'{}' was written by a newer version ({found}) of this program", file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// Version of its format.
        found: u32,
    },
    /// No hub answered in time, and none could be started.
    #[error("no hub at '{}': {reason}", dir.display())]
    Unavailable {
        /// The data directory.
        dir: PathBuf,
        /// What was tried and how it ended.
        reason: String,
    },
    /// The data directory was removed, moved or replaced while a hub and its clients lived on it. What
    /// they know of it is worth nothing in another one: end the nodes and start them again.
    #[error(
        "the data directory '{}' was removed, moved or replaced while it was in use: what the \
         application had accepted is gone with it; start its nodes again, in an empty directory or \
         in one that was put back", dir.display()
    )]
    DirectoryLost {
        /// The data directory.
        dir: PathBuf,
    },
    /// A state request's condition did not hold; nothing was done.
    #[error("the condition on '{key}' does not hold: the current etag is '{etag}'")]
    ConditionFailed {
        /// The key.
        key: String,
        /// Etag that the key has; empty if there is no such key.
        etag: String,
    },
    /// The application cannot be purged while members are alive: stop them first.
    #[error("{0}")]
    MembersAlive(String),
    /// There is another snapshot under the key, which stays: choose another key.
    #[error("{0}")]
    SnapshotExists(String),
    /// The snapshot, or the number of snapshots, exceeds the hub's bound: raise it, or delete some.
    #[error("{0}")]
    SnapshotLimit(String),
    /// The snapshot is stored, but not as it was written: use an older one, or restore the data
    /// directory from a copy.
    #[error("{0}")]
    SnapshotDamaged(String),
    /// The snapshot could not be written or read, for example because the disk is full; the hub
    /// goes on. Mend that and try again.
    #[error("{0}")]
    SnapshotIo(String),
    /// A part of a snapshot did not follow what the hub had; the client begins anew by itself.
    #[error("{0}")]
    SnapshotRestart(String),
    /// There is no such topic, or it was deleted: create it, or look its id up again.
    #[error("{0}")]
    UnknownTopic(String),
    /// There is a topic of that name with other settings: use those, or another name.
    #[error("{message}: its {setting} is {value}")]
    TopicExists {
        /// What is the matter.
        message: String,
        /// The first setting that differs.
        setting: String,
        /// Its value there: a number, milliseconds or bytes; 0: no bound.
        value: u64,
    },
    /// A bound on topics or consumers was reached: raise it, or delete some.
    #[error("{message}")]
    TopicLimit {
        /// What is the matter.
        message: String,
        /// Name of the bound.
        bound: String,
        /// Its value.
        limit: u64,
    },
    /// Another session of the consumer has begun, or it was forgotten.
    #[error("{0}")]
    ConsumerSuperseded(String),
    /// What was repeated may have been done, and the hub cannot tell any more.
    #[error("{0}")]
    Forgotten(String),
    /// The request exceeds a bound or is malformed.
    #[error("{0}")]
    Invalid(String),
    /// So much waits for the hub that nothing more is taken; nothing was done. Try again later.
    #[error("{0}; try again later")]
    Busy(String),
    /// The client was closed.
    #[error("the hub's client is closed")]
    Closed,
}

/// Exit codes of a hub process, so that whoever started it can tell why it ended.
pub mod exit_code {
    /// Ended in order.
    pub const OK: u8 = 0;
    /// Anything without a code of its own.
    pub const OTHER: u8 = 70;
    /// Another hub serves the data directory.
    pub const ALREADY_RUNNING: u8 = 71;
    /// The data directory cannot be used.
    pub const DATA_DIR: u8 = 72;
    /// The log is damaged.
    pub const CORRUPT: u8 = 73;
    /// No space left.
    pub const DISK_FULL: u8 = 74;
    /// Reading, writing or syncing failed.
    pub const IO: u8 = 75;
}

// === impl HubError ===

impl HubError {
    /// The code that a hub process ends with because of this.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::AlreadyRunning { .. } => exit_code::ALREADY_RUNNING,
            Self::DataDir { .. } | Self::NetworkFileSystem { .. } | Self::DirectoryLost { .. } => {
                exit_code::DATA_DIR
            }
            Self::Corrupt { .. } | Self::StoreDamaged { .. } | Self::Version { .. } => {
                exit_code::CORRUPT
            }
            Self::DiskFull { .. } => exit_code::DISK_FULL,
            Self::Io { .. } | Self::Store(_) => exit_code::IO,
            _ => exit_code::OTHER,
        }
    }

    /// Whether trying again later can help without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::AlreadyRunning { .. })
    }

    /// The error for a failed file operation; full disks have a variant of their own.
    pub(crate) fn io(action: &'static str, file: &Path, source: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let file = file.to_owned();
        match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::DiskFull { file, source },
            _ => Self::Io { action, file, source },
        }
    }

    /// The error for damaged stored data.
    pub(crate) fn corrupt(file: &Path, at: u64, what: impl Into<String>) -> Self {
        Self::Corrupt { file: file.to_owned(), at, what: what.into() }
    }
}
