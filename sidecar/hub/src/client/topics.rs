//! Topics, as a client uses them. Every request is repeated to a hub that replaces one that was
//! lost, until it is answered or its time is over.

use std::time::Duration;

use bytes::Bytes;
use kar_proto::hub::v1 as wire;
use wire::state_request::Request;
use wire::state_response::Response;

use super::{HubClient, unexpected};
use crate::error::HubError;
use crate::topics::{
    ChannelMark, ConsumerPosition, ConsumerSession, EventPlace, FetchedEvents, NewEvent,
    TopicConsumer, TopicInfo, TopicPage, TopicPartition, TopicSettings, TopicView,
};

// === impl HubClient ===

impl HubClient {
    /// Creates a topic unless there is one of the same name and settings; tells whether it is new,
    /// when it is durable.
    ///
    /// # Errors
    /// [`HubError::TopicExists`] (with other settings), [`HubError::TopicLimit`],
    /// [`HubError::Invalid`], or [`HubError::Unavailable`] when no hub answered in time.
    pub async fn create_topic(
        &self,
        settings: TopicSettings,
    ) -> Result<(TopicInfo, bool), HubError> {
        let topic = wire::TopicInfo {
            name: settings.name,
            partitions: settings.partitions,
            retention_ms: settings.retention.map_or(0, millis),
            retention_bytes: settings.retention_bytes.unwrap_or(0),
            ..Default::default()
        };
        let create = wire::CreateTopic { topic: Some(topic) };
        match self.request(Request::CreateTopic(create)).await? {
            Response::TopicCreated(answer) => {
                Ok((topic_info(answer.topic.unwrap_or_default()), answer.created))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Deletes a topic with its events and its consumers' positions, if it has this id (or is
    /// whichever); tells whether it existed, when that is durable.
    ///
    /// # Errors
    /// [`HubError::Unavailable`] when no hub answered in time.
    pub async fn delete_topic(&self, name: &str, id: Option<&str>) -> Result<bool, HubError> {
        let id = id.unwrap_or_default().to_owned();
        let delete = wire::DeleteTopic { name: name.to_owned(), id };
        match self.request(Request::DeleteTopic(delete)).await? {
            Response::TopicDeleted(deleted) => Ok(deleted.existed),
            other => Err(unexpected(&other)),
        }
    }

    /// What there is of a topic.
    ///
    /// # Errors
    /// [`HubError::UnknownTopic`]; [`HubError::Unavailable`] when no hub answered in time.
    pub async fn topic(&self, name: &str) -> Result<TopicView, HubError> {
        let list = wire::ListTopics { name: name.to_owned(), page_size: 1, ..Default::default() };
        match self.request(Request::ListTopics(list)).await? {
            Response::TopicList(list) => {
                let topic = list.topics.into_iter().next().map(topic_view);
                topic.ok_or_else(|| HubError::UnknownTopic(format!("there is no topic '{name}'")))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Topics by name, after one (empty: from the start); `page_size` 0 and more than
    /// [`PAGE_SIZE_MAX`](crate::PAGE_SIZE_MAX) mean that. A page ends when it has
    /// [`TOPIC_VIEW_BYTES_MAX`](crate::TOPIC_VIEW_BYTES_MAX).
    ///
    /// # Errors
    /// [`HubError::Unavailable`] when no hub answered in time.
    pub async fn topics(&self, page_size: u32, after: &str) -> Result<TopicPage, HubError> {
        let list = wire::ListTopics { page_size, after: after.to_owned(), ..Default::default() };
        match self.request(Request::ListTopics(list)).await? {
            Response::TopicList(list) => {
                let topics: Vec<_> = list.topics.into_iter().map(topic_view).collect();
                let last = topics.last().map(|view| view.topic.name.clone());
                Ok(TopicPage { next_after: last.filter(|_| list.more), topics })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Appends events to partitions of a topic, those of one partition in this order; answers when
    /// all are durable. An event whose request has appended it before is not appended again; the
    /// newest events of a partition are remembered by their requests for two minutes, up to 50,000
    /// and 64 MiB of them.
    ///
    /// # Errors
    /// [`HubError::UnknownTopic`], [`HubError::Invalid`]; [`HubError::Unavailable`] when no hub
    /// answered in time, and [`HubError::Forgotten`]: some of them may have been appended.
    pub async fn publish(
        &self,
        topic_id: &str,
        events: Vec<NewEvent>,
    ) -> Result<Vec<EventPlace>, HubError> {
        let event = |event: NewEvent| wire::NewEvent {
            partition: event.partition,
            request: Bytes::copy_from_slice(&event.request.to_le_bytes()),
            event: event.event,
        };
        let publish = wire::PublishEvents {
            topic_id: topic_id.to_owned(),
            events: events.into_iter().map(event).collect(),
            sent_ms_ago: 0,
        };
        match self.request(Request::PublishEvents(publish)).await? {
            Response::EventsPublished(published) => Ok(published
                .places
                .into_iter()
                .map(|place| EventPlace { offset: place.offset, again: place.again })
                .collect()),
            other => Err(unexpected(&other)),
        }
    }

    /// Appends events of a channel to a partition, by their numbers, which ascend; answers when all
    /// are durable, with how far the channel has come. One whose number is not above the highest
    /// one that the channel has appended before is not appended again, however long ago that was.
    /// Who has several of these under way on one channel has to see to it that none overtakes
    /// another: an event whose number has been passed over is lost.
    ///
    /// # Errors
    /// [`HubError::UnknownTopic`], [`HubError::Invalid`], [`HubError::TopicLimit`];
    /// [`HubError::Unavailable`] when no hub answered in time: some of them may have been appended.
    pub async fn append_events(
        &self,
        topic_id: &str,
        partition: u32,
        channel: u128,
        events: Vec<(u64, Bytes)>,
    ) -> Result<ChannelMark, HubError> {
        let event = |(number, event)| wire::NumberedEvent { number, event };
        let append = wire::AppendEvents {
            topic_id: topic_id.to_owned(),
            partition,
            channel: Bytes::copy_from_slice(&channel.to_le_bytes()),
            events: events.into_iter().map(event).collect(),
        };
        match self.request(Request::AppendEvents(append)).await? {
            Response::EventsAppended(wire::EventsAppended { number, offset }) => {
                Ok(ChannelMark { number, offset })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// How far a channel has come in a partition, when that is durable.
    ///
    /// # Errors
    /// [`HubError::UnknownTopic`], [`HubError::Invalid`]; [`HubError::Unavailable`] when no hub
    /// answered in time.
    pub async fn learn_channel(
        &self,
        topic_id: &str,
        partition: u32,
        channel: u128,
    ) -> Result<ChannelMark, HubError> {
        let learn = wire::LearnChannel {
            topic_id: topic_id.to_owned(),
            partition,
            channel: Bytes::copy_from_slice(&channel.to_le_bytes()),
        };
        match self.request(Request::LearnChannel(learn)).await? {
            Response::ChannelLearned(wire::ChannelLearned { number, offset }) => {
                Ok(ChannelMark { number, offset })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Reads events of a partition from an offset, at least one and about `bytes_max`; waits up to
    /// `wait` (20 s at most) for the first one. Within a `session` of a consumer it ends when that
    /// is over.
    ///
    /// # Errors
    /// [`HubError::UnknownTopic`], [`HubError::ConsumerSuperseded`], [`HubError::TopicLimit`],
    /// [`HubError::Invalid`]; [`HubError::Unavailable`] when no hub answered in time.
    pub async fn fetch(
        &self,
        topic_id: &str,
        (partition, first): (u32, u64),
        bytes_max: u32,
        wait: Duration,
        session: Option<(&str, u64)>,
    ) -> Result<FetchedEvents, HubError> {
        let (consumer, session) = session.unwrap_or_default();
        let fetch = wire::FetchEvents {
            topic_id: topic_id.to_owned(),
            partition,
            first,
            bytes_max,
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            consumer: consumer.to_owned(),
            session,
        };
        match self.request(Request::FetchEvents(fetch)).await? {
            Response::EventsFetched(fetched) => Ok(FetchedEvents {
                first: fetched.first,
                events: fetched.events.into_iter().map(|e| (e.time_ms, e.event)).collect(),
                end: fetched.end,
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// Offset of the first event of a partition that was appended at a time or later, or of the
    /// next one to come.
    ///
    /// # Errors
    /// [`HubError::UnknownTopic`], [`HubError::Invalid`]; [`HubError::Unavailable`] when no hub
    /// answered in time.
    pub async fn seek(
        &self,
        topic_id: &str,
        partition: u32,
        time_ms: u64,
    ) -> Result<u64, HubError> {
        let seek = wire::SeekEvents { topic_id: topic_id.to_owned(), partition, time_ms };
        match self.request(Request::SeekEvents(seek)).await? {
            Response::EventsSought(sought) => Ok(sought.offset),
            other => Err(unexpected(&other)),
        }
    }

    /// Begins a session of a consumer of this application, which ends the one before; answers when
    /// that is durable. One that is new begins at the offsets given, one for each partition.
    ///
    /// # Errors
    /// [`HubError::UnknownTopic`], [`HubError::TopicLimit`], [`HubError::Invalid`];
    /// [`HubError::Unavailable`] when no hub answered in time.
    pub async fn open_consumer(
        &self,
        topic_id: &str,
        name: &str,
        begin: Vec<u64>,
    ) -> Result<ConsumerSession, HubError> {
        let open =
            wire::OpenConsumer { topic_id: topic_id.to_owned(), name: name.to_owned(), begin };
        match self.request(Request::OpenConsumer(open)).await? {
            Response::ConsumerOpened(opened) => {
                let state = opened.consumer.unwrap_or_default();
                Ok(ConsumerSession {
                    session: state.session,
                    positions: state.positions.into_iter().map(position_from).collect(),
                    created: opened.created,
                })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Says how far a session of a consumer has come in some partitions; answers when that is
    /// durable.
    ///
    /// # Errors
    /// [`HubError::UnknownTopic`], [`HubError::ConsumerSuperseded`], [`HubError::Invalid`];
    /// [`HubError::Unavailable`] when no hub answered in time.
    pub async fn commit_consumer(
        &self,
        topic_id: &str,
        (name, session): (&str, u64),
        positions: Vec<(u32, ConsumerPosition)>,
    ) -> Result<(), HubError> {
        let commit = wire::CommitConsumer {
            topic_id: topic_id.to_owned(),
            name: name.to_owned(),
            session,
            positions: positions.into_iter().map(position_to).collect(),
        };
        match self.request(Request::CommitConsumer(commit)).await? {
            Response::ConsumerCommitted(_) => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Forgets a consumer of this application and ends its session; tells whether it existed. Should
    /// this be repeated to another hub, one of the same name that was created since stays.
    ///
    /// # Errors
    /// [`HubError::UnknownTopic`]; [`HubError::Unavailable`] when no hub answered in time.
    pub async fn delete_consumer(&self, topic_id: &str, name: &str) -> Result<bool, HubError> {
        let (topic_id, name) = (topic_id.to_owned(), name.to_owned());
        let find = wire::FindConsumer { topic_id: topic_id.clone(), name: name.clone() };
        let created_session = match self.request(Request::FindConsumer(find)).await? {
            Response::ConsumerFound(found) => found.created_session,
            other => return Err(unexpected(&other)),
        };
        let delete = wire::DeleteConsumer { topic_id, name, created_session };
        match self.request(Request::DeleteConsumer(delete)).await? {
            // Gone by now it was forgotten by this request, or by another one at the same time.
            Response::ConsumerDeleted(_) => Ok(created_session > 0),
            other => Err(unexpected(&other)),
        }
    }
}

/// Nothing is kept for less than a millisecond.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn topic_info(info: wire::TopicInfo) -> TopicInfo {
    TopicInfo {
        name: info.name,
        id: info.id,
        partitions: info.partitions,
        retention: (info.retention_ms > 0).then(|| Duration::from_millis(info.retention_ms)),
        retention_bytes: (info.retention_bytes > 0).then_some(info.retention_bytes),
        created_ms: info.created_ms,
    }
}

fn topic_view(view: wire::TopicView) -> TopicView {
    let partition =
        |p: wire::TopicPartition| TopicPartition { start: p.start, end: p.end, bytes: p.bytes };
    let consumer = |c: wire::ConsumerView| TopicConsumer {
        application: c.application,
        name: c.name,
        floors: c.floors,
        lag: c.lag,
    };
    TopicView {
        topic: topic_info(view.topic.unwrap_or_default()),
        partitions: view.partitions.into_iter().map(partition).collect(),
        consumers: view.consumers.into_iter().map(consumer).collect(),
        consumers_left_out: view.consumers_left_out,
    }
}

fn position_from(position: wire::ConsumerPosition) -> ConsumerPosition {
    let ranges = position.acknowledged.into_iter();
    ConsumerPosition {
        floor: position.floor,
        acknowledged: ranges.map(|range| (range.first, range.last)).collect(),
    }
}

fn position_to((partition, position): (u32, ConsumerPosition)) -> wire::ConsumerPosition {
    let ranges = position.acknowledged.into_iter();
    wire::ConsumerPosition {
        partition,
        floor: position.floor,
        acknowledged: ranges.map(|(first, last)| wire::AcknowledgedRange { first, last }).collect(),
    }
}
