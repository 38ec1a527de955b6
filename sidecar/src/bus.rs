//! Topics and what is in them, wherever they are kept. A bus carries out and decides nothing: which partition an event
//! goes to, which events somebody wants, and what is done with them is decided by who asks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kar_core::events::ConsumerPosition;
use kar_core::ids::{Millis, Uuid};

/// Topics and what is in them.
pub trait Bus: Send + Sync {
    /// Creates a topic unless there is one of the same name and settings; tells whether it is new, when it is durable.
    fn create_topic(&self, settings: TopicSettings) -> BusFuture<(TopicInfo, bool)>;

    /// Deletes a topic with its events and its consumers, if it is the one with this id, or whichever it is (also one
    /// that was created meanwhile, should this be asked again by itself); tells whether it existed, when that is
    /// durable.
    fn delete_topic(&self, name: String, id: Option<String>) -> BusFuture<bool>;

    /// What there is of a topic.
    fn topic(&self, name: String) -> BusFuture<TopicView>;

    /// Topics by name, behind one (empty: from the start).
    fn topics(&self, page_size: u32, after: String) -> BusFuture<TopicPage>;

    /// Appends events, those of one partition in this order; answers when all are durable. One whose request has
    /// appended it before is not appended again, as long as that is remembered.
    fn publish(&self, topic_id: TopicId, events: Vec<NewEvent>) -> BusFuture<Vec<EventPlace>>;

    /// Appends events of a channel to a partition, by their numbers, which ascend; answers when all are durable. One
    /// whose number is not above the highest one that the channel has appended is not appended again, however long ago
    /// that was. So this may be repeated; but of two of one channel none may overtake the other.
    fn append(
        &self,
        topic_id: TopicId,
        partition: u32,
        channel: Uuid,
        events: Vec<(u64, Bytes)>,
    ) -> BusFuture<Landed>;

    /// How far a channel has come in a partition, when that is durable. A bus that has to look for it begins at the
    /// offset `since`: everything below is known to the asker.
    fn learn(
        &self,
        topic_id: TopicId,
        partition: u32,
        channel: Uuid,
        since: u64,
    ) -> BusFuture<Landed>;

    /// Reads events of a partition, or waits for some.
    fn fetch(&self, topic_id: TopicId, fetch: Fetch) -> BusFuture<Fetched>;

    /// Offset of the first event of a partition that was appended at a time or later, or of the next one to come.
    fn seek(&self, topic_id: TopicId, partition: u32, time: Millis) -> BusFuture<u64>;

    /// Begins a session of a consumer of this application, which ends the one before; one that is new begins at these
    /// offsets, by number of the partition. Answers when that is durable.
    fn open_consumer(
        &self,
        topic_id: TopicId,
        name: String,
        begin: Vec<u64>,
    ) -> BusFuture<ConsumerSession>;

    /// Says how far a session has come in some partitions; answers when that is durable.
    fn commit_consumer(
        &self,
        topic_id: TopicId,
        session: SessionName,
        positions: Vec<(u32, ConsumerPosition)>,
    ) -> BusFuture<()>;

    /// Forgets a consumer of this application and ends its session; tells whether it existed.
    fn delete_consumer(&self, topic_id: TopicId, name: String) -> BusFuture<bool>;
}

/// Longest wait of one fetch.
const FETCH_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long one fetch waits for an event, from a bus that answers within a time: less than that.
pub fn fetch_wait(timeout: Duration) -> Duration {
    FETCH_WAIT_MAX.min(timeout / 2)
}

/// The answer of a bus, some time.
pub type BusFuture<T> = Pin<Box<dyn Future<Output = Result<T, BusError>> + Send>>;

/// Id of a topic: never given again.
pub type TopicId = Arc<str>;

/// What a topic is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: u32,
    /// Events are kept for so long at least; `None`: for ever.
    pub retention: Option<Millis>,
    /// The newest events of a partition are kept as long as they take no more bytes; `None`: any number.
    pub retention_bytes: Option<u64>,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its id.
    pub id: TopicId,
    /// What it is like.
    pub settings: TopicSettings,
    /// When it was created.
    pub created: Millis,
}

/// A topic with what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicView {
    /// The topic.
    pub topic: TopicInfo,
    /// By number.
    pub partitions: Vec<TopicPartition>,
    /// By application and name; a bus may tell some of them only.
    pub consumers: Vec<TopicConsumer>,
    /// Those that are left out.
    pub consumers_left_out: u32,
}

/// What a partition has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicPartition {
    /// Offset of the first event that is kept, or that the next one will have if there is none.
    pub start: u64,
    /// Offset that the next event will have.
    pub end: u64,
    /// What its events take, bytes.
    pub bytes: u64,
}

/// A consumer with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// A page of topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPage {
    /// By name.
    pub topics: Vec<TopicView>,
    /// Where the next page begins; `None`: there is none.
    pub next_after: Option<String>,
}

/// An event to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// To this partition.
    pub partition: u32,
    /// Names the request.
    pub request: u128,
    /// The event.
    pub event: Bytes,
}

/// Where an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventPlace {
    /// Its offset in its partition.
    pub offset: u64,
    /// It was there before.
    pub again: bool,
}

/// What is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The partition.
    pub partition: u32,
    /// Offset of the first event wanted.
    pub first: u64,
    /// About so many bytes, at least one event.
    pub bytes_max: u32,
    /// How long to wait for the first one.
    pub wait: Duration,
    /// The session that reads; it ends with it.
    pub session: Option<SessionName>,
}

/// Events that were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Offset of the first one, or of the next one to come: lower ones that were asked for are gone.
    pub first: u64,
    /// With the times at which they were appended.
    pub events: Vec<(Millis, Bytes)>,
    /// Offset that the next event of the partition will have, as far as is known.
    pub end: u64,
}

/// How far a channel has come in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landed {
    /// The highest number that was appended; 0: none.
    pub number: u64,
    /// Offset of its event; 0: none.
    pub offset: u64,
}

/// Names a session of a consumer of this application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionName {
    /// The consumer.
    pub consumer: Arc<str>,
    /// The session: a growing number.
    pub session: u64,
}

/// A session that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerSession {
    /// Its number.
    pub session: u64,
    /// Where the consumer stands, by number of the partition.
    pub positions: Vec<ConsumerPosition>,
    /// The consumer is new.
    pub created: bool,
}

/// Why a bus did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// There is no such topic, or not any more.
    #[error("there is no such topic")]
    UnknownTopic,
    /// There is a topic of that name with other settings.
    #[error("there is such a topic, and its {setting} is {value}")]
    TopicExists {
        /// The first setting that differs.
        setting: String,
        /// What it is: a number, milliseconds or bytes; 0: none.
        value: u64,
    },
    /// A bound was reached.
    #[error("{message}")]
    Limit {
        /// What is the matter.
        message: String,
        /// Its name.
        bound: String,
        /// Its value.
        limit: u64,
    },
    /// The session is over: another one has begun, or the consumer was forgotten.
    #[error("{0}")]
    Superseded(String),
    /// The request is malformed.
    #[error("{0}")]
    Invalid(String),
    /// Whether it was done is not known.
    #[error("{0}")]
    Unknown(String),
    /// The bus was away; what only asks can be asked again.
    #[error("{0}")]
    Unavailable(String),
}
