//! What a hub is made from, and every bound of it.

use std::path::PathBuf;
use std::time::Duration;

/// When a record counts as durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// When `fdatasync` has returned: it survives power loss.
    #[default]
    Fsync,
    /// When the system has it: it survives the end of any process, not power loss.
    Os,
}

/// What a hub is made from.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HubOptions {
    /// Where everything is kept: a directory on a local disk, made (mode 0700) if absent.
    pub data_dir: PathBuf,
    /// When a record counts as durable.
    pub durability: Durability,
    /// The hub ends when it has had no client for so long; `None`: never.
    pub idle_exit: Option<Duration>,
    /// Bounds.
    pub limits: HubLimits,
}

/// Bounds and times of a hub.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HubLimits {
    /// Size of the log's first segment file, bytes; it is small because it delays the first start.
    pub first_segment_bytes: u64,
    /// Size of every later segment file, bytes. At least [`SEGMENT_BYTES_MIN`], so that every
    /// record fits in.
    pub segment_bytes: u64,
    /// Appends not yet durable, all clients together, bytes; beyond it no client is heard.
    pub uncommitted_bytes_max: usize,
    /// Answers queued for one client, bytes; beyond it that client is not heard.
    pub outbox_bytes_max: usize,
    /// Store steps under way for one client; beyond it that client is not heard.
    pub store_steps_max: usize,
    /// Records read ahead from disk for one reader, bytes.
    pub read_ahead_bytes: usize,
    /// Clients attached.
    pub clients_max: usize,
    /// Logs in one application: two for each partition, and a few that nodes share.
    pub logs_max: usize,
    /// Kinds in one application.
    pub kinds_max: usize,
    /// Former members count as alive for so long after the start, so that they can come back; those whose processes
    /// are seen to live for as long as the silence, if that is longer: a busy machine may let them run only then.
    pub grace: Duration,
    /// A client that has said nothing for so long is struck out.
    pub silence: Duration,
    /// What compacting log files may read and write in a second, bytes. A lower rate disturbs commits
    /// less. It does not count while the files are four more than twice what lives in them.
    pub compaction_bytes_per_second: u64,
    /// Longest snapshot, bytes.
    pub snapshot_bytes_max: u64,
    /// Snapshots of all applications; each costs some 200 bytes of memory.
    pub snapshots_max: usize,
    /// Topics.
    pub topics_max: usize,
    /// Partitions of all topics together.
    pub topic_partitions_max: usize,
    /// Consumers with a name, of all topics and applications.
    pub consumers_max: usize,
    /// Channels into partitions of topics: one for each partition of an application that publishes in
    /// its turns, and each partition of a topic that it publishes to. All are repeated in every file
    /// of the log, some 32 bytes each.
    pub topic_channels_max: usize,
    /// Fetches that wait for events, and for each client those that wait until it takes what it is told; each costs some
    /// 200 bytes of memory.
    pub fetches_max: usize,
}

/// Smallest size of a segment file after the first one, bytes: one record of
/// [`RECORD_BYTES_MAX`] fits in with the file's own data.
pub const SEGMENT_BYTES_MIN: u64 = 16 << 20;
/// Longest record of a log, bytes; a write to the store is no longer. Above what a sidecar's
/// bounds let a turn make, which a sidecar checks when it starts.
pub const RECORD_BYTES_MAX: usize = 12 << 20;
/// Longest message on the stream, either way, bytes: the longest record, with room for what goes with it.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
// A record, or a write to the store that is as long, goes in a message with its frame, and into a segment file.
const _: () = assert!(RECORD_BYTES_MAX + (1 << 20) <= MESSAGE_BYTES_MAX);
const _: () = assert!(RECORD_BYTES_MAX as u64 + (1 << 20) <= SEGMENT_BYTES_MIN);

/// Most frames that the writers of both ends put into one message.
pub const FRAMES_PER_MESSAGE_MAX: usize = 32;
/// Bytes of frames after which the writers of both ends end a message.
pub const MESSAGE_BYTES_TARGET: usize = 256 << 10;
/// Longest part of a snapshot in one message, bytes.
pub const SNAPSHOT_PART_BYTES_MAX: usize = 1 << 20;
/// Longest key or other name, bytes.
pub const NAME_BYTES_MAX: usize = 1024;
/// Requests about application state whose answers are remembered, per application.
pub const REQUESTS_REMEMBERED: u64 = 10_000;
/// Changes of one transaction of application state.
pub const TRANSACTION_CHANGES_MAX: usize = 10_000;
/// Most keys on a page of a listing.
pub const PAGE_SIZE_MAX: u32 = 1_000;
/// Longest name of a topic or of a consumer, bytes.
pub const TOPIC_NAME_BYTES_MAX: usize = 128;
/// Most partitions of a topic.
pub const TOPIC_PARTITIONS_MAX: u32 = 256;
/// Bytes of a topic's consumers that are told with it, and of topics after which a page of them ends: far less than a
/// message may have, and than clients of a sidecar take.
pub const TOPIC_VIEW_BYTES_MAX: usize = 1 << 20;
/// Longest event as a topic keeps it, bytes.
pub const EVENT_BYTES_MAX: usize = RECORD_BYTES_MAX - 1_024;
/// Most events that are published, or appended on a channel, by one request.
pub const PUBLISH_EVENTS_MAX: usize = 1_000;
/// Longest time for which a fetch waits for an event, ms: below the time that a client waits for an answer.
pub const FETCH_WAIT_MS_MAX: u32 = 20_000;
/// Ranges of acknowledged events above the first one that is not, in one partition of a consumer: what holds of
/// consumers is repeated in every file.
pub const ACKNOWLEDGED_RANGES_MAX: usize = 256;
/// Most partitions of a kind.
pub const PARTITIONS_MAX: u32 = 65_536;

// === impl HubOptions ===

/// Logs that go with a partition: its own, and its inbox.
const LOGS_PER_PARTITION: usize = 2;

/// Logs that belong to no partition: inboxes of nodes.
const LOGS_SHARED_MAX: usize = 64;

impl HubLimits {
    /// Partitions of all kinds that the bound of logs has room for.
    pub(crate) fn partitions_max(&self) -> usize {
        self.logs_max.saturating_sub(LOGS_SHARED_MAX) / LOGS_PER_PARTITION
    }
}

impl HubOptions {
    /// The defaults, for a data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            durability: Durability::Fsync,
            idle_exit: Some(Duration::from_secs(5)),
            limits: HubLimits::default(),
        }
    }
}

impl Default for HubLimits {
    fn default() -> Self {
        Self {
            first_segment_bytes: 4 << 20,
            segment_bytes: 32 << 20,
            uncommitted_bytes_max: 64 << 20,
            outbox_bytes_max: 8 << 20,
            store_steps_max: 1_024,
            read_ahead_bytes: 256 << 10,
            clients_max: 1_000,
            logs_max: LOGS_PER_PARTITION * 65_536 + LOGS_SHARED_MAX,
            kinds_max: 1_024,
            grace: Duration::from_secs(1),
            silence: Duration::from_secs(3),
            compaction_bytes_per_second: 128 << 20,
            snapshot_bytes_max: 256 << 20,
            snapshots_max: 100_000,
            topics_max: 1_000,
            topic_partitions_max: 4_096,
            consumers_max: 1_000,
            topic_channels_max: 100_000,
            fetches_max: 10_000,
        }
    }
}
