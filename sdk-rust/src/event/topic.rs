//! Topics themselves: creating, describing, deleting them.

use std::time::Duration;

use kar_proto::v1 as proto;

use super::Topic;
use crate::error::CallError;
use crate::stream::{Answer, Operation};

/// Settings of a topic that is to be created: 4 partitions, events kept for 7 days and up to 1 GiB in each of them, if
/// nothing else is said.
///
/// ```no_run
/// # use std::time::Duration;
/// # use kar_sdk::{CallError, Client, NewTopic};
/// # async fn f(client: &Client) -> Result<(), CallError> {
/// let settings = NewTopic::default().partitions(8).retention_time(Duration::from_secs(3_600));
/// client.topic("orders").create(settings).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[must_use = "nothing is created before `Topic::create`"]
pub struct NewTopic {
    partitions: u16,
    retention_time: Option<Duration>,
    retention_bytes: u64,
    keep_forever: bool,
}

/// A topic with what is in it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its id, never given again: a topic that is created anew under its name is another one.
    pub id: String,
    /// By number.
    pub partitions: Vec<TopicPartition>,
    /// Consumers with a name that have ever consumed it, of all applications.
    pub consumers: Vec<TopicConsumer>,
}

/// A partition of a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TopicPartition {
    /// Offset of the first event that is kept, or that the next one will have if there is none.
    pub start: u64,
    /// Offset that the next event will have.
    pub end: u64,
    /// What its events take.
    pub bytes: u64,
}

/// A consumer of a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TopicConsumer {
    /// Its application.
    pub application: String,
    /// Its name.
    pub name: String,
    /// Events that it has not acknowledged, those included that its filter passes over.
    pub lag: u64,
}

// === impl NewTopic ===

impl NewTopic {
    /// Partitions, 1 to 256, fixed from then on.
    pub fn partitions(mut self, count: u16) -> Self {
        self.partitions = count;
        self
    }

    /// Events are kept for so long at least, and let go soon after; at least 1 s.
    pub fn retention_time(mut self, time: Duration) -> Self {
        self.retention_time = Some(time);
        self
    }

    /// Bytes that the events of a partition may take: the oldest go first; at least 1 MiB.
    pub fn retention_bytes(mut self, bytes: u64) -> Self {
        self.retention_bytes = bytes;
        self
    }

    /// The two bounds above have no defaults: one that is not said does not apply.
    pub fn keep_forever(mut self) -> Self {
        self.keep_forever = true;
        self
    }

    fn into_proto(self, topic: String) -> proto::CreateTopicRequest {
        // What is longer than the wire has is refused by name, as everything else that cannot be.
        let time = |time: Duration| prost_types::Duration::try_from(time).unwrap_or(UNLIKELY);
        proto::CreateTopicRequest {
            topic,
            partitions: self.partitions.into(),
            retention_time: self.retention_time.map(time),
            retention_bytes: i64::try_from(self.retention_bytes).unwrap_or(i64::MAX),
            keep_forever: self.keep_forever,
        }
    }
}

/// No length of time.
const UNLIKELY: prost_types::Duration = prost_types::Duration { seconds: i64::MAX, nanos: 0 };

// === impl Topic ===

impl Topic {
    /// Creates the topic, unless there is one like it; returns when that is durable. Tells whether it is new.
    ///
    /// # Errors
    /// [`CallError::Rejected`] with reason `TOPIC_EXISTS` if there is one of the name with other settings
    /// (`metadata["setting"]` names the first), or `INVALID_FIELD`; [`CallError::Limit`] if there are too many.
    pub async fn create(&self, settings: NewTopic) -> Result<bool, CallError> {
        let request = settings.into_proto(self.name.clone());
        match self.origin.0.request(Operation::CreateTopic(request)).await? {
            Answer::CreateTopic(answer) => Ok(answer.created),
            _ => Err(CallError::mismatch("create_topic")),
        }
    }

    /// What there is of it.
    ///
    /// # Errors
    /// [`CallError::Rejected`] with reason `UNKNOWN_TOPIC` if there is no such topic.
    pub async fn describe(&self) -> Result<TopicDescription, CallError> {
        let request = proto::DescribeTopicRequest { topic: self.name.clone() };
        match self.origin.0.request(Operation::DescribeTopic(request)).await? {
            Answer::DescribeTopic(proto::DescribeTopicResponse { topic: Some(topic) }) => {
                Ok(TopicDescription::from_proto(topic))
            }
            _ => Err(CallError::mismatch("describe_topic")),
        }
    }

    /// Deletes the topic with its events and the positions of its consumers, for good; returns when that is durable.
    /// Tells whether it existed.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn delete(&self) -> Result<bool, CallError> {
        let request = proto::DeleteTopicRequest { topic: self.name.clone(), id: String::new() };
        match self.origin.0.request(Operation::DeleteTopic(request)).await? {
            Answer::DeleteTopic(answer) => Ok(answer.existed),
            _ => Err(CallError::mismatch("delete_topic")),
        }
    }

    /// Forgets a consumer of the application with its position: whoever consumes under its name gets
    /// `CONSUMER_TAKEN_OVER`. Tells whether there was one.
    ///
    /// # Errors
    /// [`CallError::Rejected`] with reason `UNKNOWN_TOPIC` if there is no such topic.
    pub async fn forget(&self, consumer: impl Into<String>) -> Result<bool, CallError> {
        let (topic, consumer) = (self.name.clone(), consumer.into());
        let request = proto::DeleteConsumerRequest { topic, consumer };
        match self.origin.0.request(Operation::DeleteConsumer(request)).await? {
            Answer::DeleteConsumer(answer) => Ok(answer.existed),
            _ => Err(CallError::mismatch("delete_consumer")),
        }
    }
}

// === impl TopicDescription ===

impl TopicDescription {
    pub(crate) fn from_proto(described: proto::TopicDescription) -> Self {
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        let partition = |one: proto::TopicPartition| TopicPartition {
            start: count(one.start),
            end: count(one.end),
            bytes: count(one.bytes),
        };
        let consumer = |one: proto::TopicConsumer| TopicConsumer {
            application: one.application,
            name: one.name,
            lag: count(one.lag),
        };
        let topic = described.topic.unwrap_or_default();
        Self {
            name: topic.name,
            id: topic.id,
            partitions: described.partitions.into_iter().map(partition).collect(),
            consumers: described.consumers.into_iter().map(consumer).collect(),
        }
    }
}
