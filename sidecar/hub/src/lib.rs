//! The local hub of KAR: durable logs, a fenced store, application state, topics and the membership, for
//! all sidecars on one machine that share a data directory.
//!
//! A hub is a process of its own ([`run_hub`]) that serves a Unix socket in its data directory.
//! Nobody has to start it: a [`HubClient`] starts one when there is none, and replaces one that
//! was killed or hangs. It holds no decisions about ownership or retries: readers of a log decide
//! what its records mean.
//!
//! Map of modules: `wal` is the write-ahead log on disk, `engine` everything that changes in
//! memory, `store` the embedded store, `snapshots` the blobs, `tidy` the work on full log files,
//! `server` the socket, `client` the other end of it.

mod client;
mod engine;
mod error;
mod histogram;
mod options;
mod paths;
mod probe;
mod server;
mod snapshots;
mod store;
mod tidy;
mod topic;
mod topics;
mod types;
mod wal;

pub use client::{ClientConfig, HubClient, HubStats, SpawnHub};
pub use error::{HubError, exit_code};
pub use options::{
    ACKNOWLEDGED_RANGES_MAX, Durability, EVENT_BYTES_MAX, FETCH_WAIT_MS_MAX,
    FRAMES_PER_MESSAGE_MAX, HubLimits, HubOptions, MESSAGE_BYTES_MAX, MESSAGE_BYTES_TARGET,
    NAME_BYTES_MAX, PAGE_SIZE_MAX, PARTITIONS_MAX, PUBLISH_EVENTS_MAX, RECORD_BYTES_MAX,
    REQUESTS_REMEMBERED, SEGMENT_BYTES_MIN, SNAPSHOT_PART_BYTES_MAX, TOPIC_NAME_BYTES_MAX,
    TOPIC_PARTITIONS_MAX, TOPIC_VIEW_BYTES_MAX, TRANSACTION_CHANGES_MAX,
};
pub use paths::network_file_system;
pub use probe::bare_append_probe;
pub use server::{HubExit, run_hub};
pub use topics::{
    ChannelMark, ConsumerPosition, ConsumerSession, EventPlace, FetchedEvents, NewEvent,
    TopicConsumer, TopicInfo, TopicPage, TopicPartition, TopicSettings, TopicView,
};
pub use types::{
    ActorOps, FenceCell, HubEvent, LogName, MemberInfo, PurgeCount, SnapshotInfo, SnapshotPage,
    StateDelete, StateEntry, StatePage, StateSet, StoreOp, Transacted, Value,
};
