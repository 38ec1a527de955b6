//! Topics in the hub.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kar_core::events::ConsumerPosition;
use kar_core::ids::{Millis, Uuid};
use kar_hub::{HubClient, HubError};

use crate::bus::{
    Bus, BusError, BusFuture, ConsumerSession, EventPlace, Fetch, Fetched, Landed, NewEvent,
    SessionName, TopicConsumer, TopicId, TopicInfo, TopicPage, TopicPartition, TopicSettings,
    TopicView,
};

/// Topics in the hub. Cheap to clone.
#[derive(Clone)]
pub struct HubBus {
    client: HubClient,
}

// === impl HubBus ===

impl HubBus {
    /// The topics behind a client.
    pub(super) fn new(client: HubClient) -> Self {
        Self { client }
    }

    /// Does something that changes nothing, or may be done again.
    fn ask<T, F>(&self, ask: impl FnOnce(HubClient) -> F) -> BusFuture<T>
    where
        F: Future<Output = Result<T, HubError>> + Send + 'static,
    {
        let answer = ask(self.client.clone());
        Box::pin(async move { answer.await.map_err(error_from) })
    }
}

impl Bus for HubBus {
    fn create_topic(&self, settings: TopicSettings) -> BusFuture<(TopicInfo, bool)> {
        self.ask(|client| async move {
            let settings = kar_hub::TopicSettings {
                name: settings.name,
                partitions: settings.partitions,
                retention: settings.retention.map(Duration::from_millis),
                retention_bytes: settings.retention_bytes,
            };
            let (info, created) = client.create_topic(settings).await?;
            Ok((info_from(info), created))
        })
    }

    fn delete_topic(&self, name: String, id: Option<String>) -> BusFuture<bool> {
        self.ask(|client| async move { client.delete_topic(&name, id.as_deref()).await })
    }

    fn topic(&self, name: String) -> BusFuture<TopicView> {
        self.ask(|client| async move { client.topic(&name).await.map(view_from) })
    }

    fn topics(&self, page_size: u32, after: String) -> BusFuture<TopicPage> {
        self.ask(|client| async move {
            let page = client.topics(page_size, &after).await?;
            let topics = page.topics.into_iter().map(view_from).collect();
            Ok(TopicPage { topics, next_after: page.next_after })
        })
    }

    fn publish(&self, topic_id: TopicId, events: Vec<NewEvent>) -> BusFuture<Vec<EventPlace>> {
        let event = |event: NewEvent| kar_hub::NewEvent {
            partition: event.partition,
            request: event.request,
            event: event.event,
        };
        let events = events.into_iter().map(event).collect();
        let client = self.client.clone();
        Box::pin(async move {
            let places = client.publish(&topic_id, events).await.map_err(published)?;
            let place = |place: kar_hub::EventPlace| EventPlace {
                offset: place.offset,
                again: place.again,
            };
            Ok(places.into_iter().map(place).collect())
        })
    }

    fn append(
        &self,
        topic_id: TopicId,
        partition: u32,
        channel: Uuid,
        events: Vec<(u64, Bytes)>,
    ) -> BusFuture<Landed> {
        self.ask(|client| async move {
            let mark = client.append_events(&topic_id, partition, channel.0, events).await?;
            Ok(Landed { number: mark.number, offset: mark.offset })
        })
    }

    fn learn(
        &self,
        topic_id: TopicId,
        partition: u32,
        channel: Uuid,
        _since: u64,
    ) -> BusFuture<Landed> {
        self.ask(|client| async move {
            let mark = client.learn_channel(&topic_id, partition, channel.0).await?;
            Ok(Landed { number: mark.number, offset: mark.offset })
        })
    }

    fn fetch(&self, topic_id: TopicId, fetch: Fetch) -> BusFuture<Fetched> {
        self.ask(|client| async move {
            let at = (fetch.partition, fetch.first);
            let session = fetch.session.as_ref().map(|s| (&*s.consumer, s.session));
            let fetched = client.fetch(&topic_id, at, fetch.bytes_max, fetch.wait, session).await?;
            Ok(Fetched { first: fetched.first, events: fetched.events, end: fetched.end })
        })
    }

    fn seek(&self, topic_id: TopicId, partition: u32, time: Millis) -> BusFuture<u64> {
        self.ask(|client| async move { client.seek(&topic_id, partition, time).await })
    }

    fn open_consumer(
        &self,
        topic_id: TopicId,
        name: String,
        begin: Vec<u64>,
    ) -> BusFuture<ConsumerSession> {
        self.ask(|client| async move {
            let opened = client.open_consumer(&topic_id, &name, begin).await?;
            Ok(ConsumerSession {
                session: opened.session,
                positions: opened.positions.into_iter().map(position_from).collect(),
                created: opened.created,
            })
        })
    }

    fn commit_consumer(
        &self,
        topic_id: TopicId,
        session: SessionName,
        positions: Vec<(u32, ConsumerPosition)>,
    ) -> BusFuture<()> {
        let position = |(partition, position): (u32, ConsumerPosition)| {
            let (floor, acknowledged) = (position.floor, position.acknowledged);
            (partition, kar_hub::ConsumerPosition { floor, acknowledged })
        };
        let positions = positions.into_iter().map(position).collect();
        self.ask(|client| async move {
            let session = (&*session.consumer, session.session);
            client.commit_consumer(&topic_id, session, positions).await
        })
    }

    fn delete_consumer(&self, topic_id: TopicId, name: String) -> BusFuture<bool> {
        self.ask(|client| async move { client.delete_consumer(&topic_id, &name).await })
    }
}

fn info_from(info: kar_hub::TopicInfo) -> TopicInfo {
    TopicInfo {
        id: Arc::from(info.id),
        settings: TopicSettings {
            name: info.name,
            partitions: info.partitions,
            retention: info
                .retention
                .map(|time| Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)),
            retention_bytes: info.retention_bytes,
        },
        created: info.created_ms,
    }
}

fn view_from(view: kar_hub::TopicView) -> TopicView {
    let partition =
        |p: kar_hub::TopicPartition| TopicPartition { start: p.start, end: p.end, bytes: p.bytes };
    let consumer = |c: kar_hub::TopicConsumer| TopicConsumer {
        application: c.application,
        name: c.name,
        floors: c.floors,
        lag: c.lag,
    };
    TopicView {
        topic: info_from(view.topic),
        partitions: view.partitions.into_iter().map(partition).collect(),
        consumers: view.consumers.into_iter().map(consumer).collect(),
        consumers_left_out: view.consumers_left_out,
    }
}

fn position_from(position: kar_hub::ConsumerPosition) -> ConsumerPosition {
    ConsumerPosition { floor: position.floor, acknowledged: position.acknowledged }
}

/// What was not answered may have been done; what was not even taken has not.
fn published(error: HubError) -> BusError {
    let is_taken = !matches!(error, HubError::Busy(_));
    match error_from(error) {
        BusError::Unavailable(what) if is_taken => BusError::Unknown(what),
        other => other,
    }
}

fn error_from(error: HubError) -> BusError {
    match error {
        HubError::UnknownTopic(_) => BusError::UnknownTopic,
        HubError::TopicExists { setting, value, .. } => BusError::TopicExists { setting, value },
        HubError::TopicLimit { message, bound, limit } => BusError::Limit { message, bound, limit },
        HubError::ConsumerSuperseded(what) => BusError::Superseded(what),
        HubError::Forgotten(what) => BusError::Unknown(what),
        HubError::Invalid(what) => BusError::Invalid(what),
        other => BusError::Unavailable(other.to_string()),
    }
}
