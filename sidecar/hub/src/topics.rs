//! Words about topics that both ends of the hub use, apart from the wire.

use std::time::Duration;

use bytes::Bytes;

/// What a topic is to be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicSettings {
    /// Its name, 1 to [`TOPIC_NAME_BYTES_MAX`](crate::TOPIC_NAME_BYTES_MAX) bytes.
    pub name: String,
    /// Its partitions, 1 to [`TOPIC_PARTITIONS_MAX`](crate::TOPIC_PARTITIONS_MAX).
    pub partitions: u32,
    /// Events are kept for so long at least; `None`: for ever.
    pub retention: Option<Duration>,
    /// The newest events of a partition are kept as long as they take no more bytes; `None`: any
    /// number.
    pub retention_bytes: Option<u64>,
}

/// A topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// Its id, never given again.
    pub id: String,
    /// Its partitions.
    pub partitions: u32,
    /// As in [`TopicSettings`].
    pub retention: Option<Duration>,
    /// As in [`TopicSettings`].
    pub retention_bytes: Option<u64>,
    /// When it was created, milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// A topic with what is in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicView {
    /// The topic.
    pub topic: TopicInfo,
    /// By number.
    pub partitions: Vec<TopicPartition>,
    /// By application and name: as many as take
    /// [`TOPIC_VIEW_BYTES_MAX`](crate::TOPIC_VIEW_BYTES_MAX).
    pub consumers: Vec<TopicConsumer>,
    /// Those that are left out.
    pub consumers_left_out: u32,
}

/// What a partition has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TopicPartition {
    /// Offset of the first event that is kept, or that the next one will have if there is none.
    pub start: u64,
    /// Offset that the next event will have.
    pub end: u64,
    /// What the events take, bytes.
    pub bytes: u64,
}

/// A consumer with a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicConsumer {
    /// Its application.
    pub application: String,
    /// Its name.
    pub name: String,
    /// By number of the partition: everything below this offset is done with.
    pub floors: Vec<u64>,
    /// Events that are kept and that it is not done with, of all partitions.
    pub lag: u64,
}

/// How far a consumer has come in a partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConsumerPosition {
    /// Everything below this offset is done with.
    pub floor: u64,
    /// First and last offset of successive events above it that are, too; ascending, at most
    /// [`ACKNOWLEDGED_RANGES_MAX`](crate::ACKNOWLEDGED_RANGES_MAX).
    pub acknowledged: Vec<(u64, u64)>,
}

/// A page of topics.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicPage {
    /// By name.
    pub topics: Vec<TopicView>,
    /// Pass it on as `after` to get the next page; `None`: there is none.
    pub next_after: Option<String>,
}

/// An event to be appended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewEvent {
    /// To this partition.
    pub partition: u32,
    /// Names the request: one that is repeated appends nothing.
    pub request: u128,
    /// The event, at most [`EVENT_BYTES_MAX`](crate::EVENT_BYTES_MAX).
    pub event: Bytes,
}

/// Where an event is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventPlace {
    /// Its offset in its partition.
    pub offset: u64,
    /// It was there before.
    pub again: bool,
}

/// How far a channel has come in a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChannelMark {
    /// The highest number that was appended; 0: none.
    pub number: u64,
    /// Offset of its event; 0: none.
    pub offset: u64,
}

/// Events that were read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchedEvents {
    /// Offset of the first one, or of the next one to come: lower ones that were asked for are gone.
    pub first: u64,
    /// With the times at which they were appended, milliseconds since the Unix epoch.
    pub events: Vec<(u64, Bytes)>,
    /// Offset that the next event of the partition will have, as far as is known.
    pub end: u64,
}

/// A session of a consumer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerSession {
    /// Its number.
    pub session: u64,
    /// Where the consumer stands, by number of the partition.
    pub positions: Vec<ConsumerPosition>,
    /// The consumer is new.
    pub created: bool,
}
