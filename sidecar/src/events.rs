//! Topics, and publishing: outside of turns past the core's partitions, which have no part in it; in turns what is done
//! before the core has it. What an event is, and where it goes, the core's pure part decides ([`kar_core::events`]); a
//! [`Bus`] keeps it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kar_core::events::{CloudEvent, EventPosition, EventTime, partition_of};
use kar_core::ids::{Millis, TopicPartition};
use kar_proto::v1 as pb;
use pb::response::Result as Reply;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tonic::Status;
use uuid::Uuid;

use crate::bus::{Bus, BusError, EventPlace, NewEvent, TopicId, TopicView};
use crate::config::{ApplicationName, Bounds};
use crate::convert::api::{
    EventOperation, Publication, bus_error, description_to, event_error, topic_to,
};
use crate::convert::error::too_large;
use crate::convert::event::encode_event;

/// Topics whose ids and partitions are kept in memory.
const TOPICS_CACHED_MAX: usize = 1_000;
/// Events that are handed to the bus at once, bytes and number: a longer batch goes in pieces.
const PIECE: (usize, usize) = (4 << 20, 1_000);

/// What a turn publishes is not refused any more when it is sent. So its topic is looked up again when that was so long
/// ago: who publishes to a topic that was created anew longer ago than this publishes to the new one.
const FRESH: Duration = Duration::from_secs(1);

/// The way to topics. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    shared: Arc<Shared>,
}

struct Shared {
    bus: Arc<dyn Bus>,
    application: ApplicationName,
    /// `source` of events that say none.
    source: String,
    pub(crate) bounds: Bounds,
    topics: Mutex<HashMap<String, KnownTopic>>,
    counters: EventCounters,
}

/// What is known of a topic; it may have been deleted since.
#[derive(Clone, Debug)]
struct KnownTopic {
    id: TopicId,
    partitions: u32,
    /// When it was looked up.
    seen: Instant,
}

/// An event of a turn, complete.
#[derive(Clone, Debug)]
pub struct TurnEvent {
    checked: Checked,
    stored: Bytes,
}

/// Counters since the start, and gauges.
#[derive(Debug, Default)]
pub struct EventCounters {
    published: AtomicI64,
    repeated: AtomicI64,
    /// Events given to consumers.
    pub consumed: AtomicI64,
    /// Events that consumers' filters passed over.
    pub passed_over: AtomicI64,
    /// Events that were let go before consumers had them.
    pub skipped: AtomicI64,
    /// Positions of consumers made durable.
    pub commits: AtomicI64,
    /// Consumers' streams open now.
    pub streams: AtomicUsize,
}

/// An event that was checked, with what names its request.
#[derive(Clone, Debug)]
struct Checked {
    event: CloudEvent,
    request: u128,
    topic: String,
}

/// The event's id, the event, and how it is kept.
type Piece = (String, Checked, Bytes);

// === impl Events ===

impl Events {
    /// The topics behind a bus, for a node of an application.
    pub fn new(
        bus: Arc<dyn Bus>,
        application: ApplicationName,
        node_name: &str,
        bounds: Bounds,
    ) -> Self {
        let source = format!("/{application}/{}", escaped(node_name));
        let (topics, counters) = (Mutex::default(), EventCounters::default());
        let shared = Shared { bus, application, source, bounds, topics, counters };
        Self { shared: Arc::new(shared) }
    }

    /// The bus.
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.shared.bus
    }

    /// Bounds of the connections.
    pub fn bounds(&self) -> &Bounds {
        &self.shared.bounds
    }

    /// What is counted.
    pub fn counters(&self) -> &EventCounters {
        &self.shared.counters
    }

    /// Counters by name, for `GetInfo`.
    pub fn counted(&self) -> [(&'static str, i64); 7] {
        let c = &self.shared.counters;
        let get = |counter: &AtomicI64| counter.load(Ordering::Relaxed);
        let streams = c.streams.load(Ordering::Relaxed);
        [
            ("events_published", get(&c.published)),
            ("events_repeated", get(&c.repeated)),
            ("events_consumed", get(&c.consumed)),
            ("events_passed_over", get(&c.passed_over)),
            ("consumer_events_skipped", get(&c.skipped)),
            ("consumer_commits", get(&c.commits)),
            ("consume_streams", i64::try_from(streams).unwrap_or(i64::MAX)),
        ]
    }

    /// Carries out a request at a time.
    ///
    /// # Errors
    ///
    /// The status that says why it was not carried out.
    pub async fn run(self, operation: EventOperation, now: Millis) -> Result<Reply, Status> {
        let bus = &self.shared.bus;
        match operation {
            EventOperation::CreateTopic(settings) => {
                let topic = settings.name.clone();
                let created = bus.create_topic(settings).await;
                let (info, created) = created.map_err(|error| bus_error(&error, &topic, ""))?;
                let topic = Some(topic_to(&info));
                Ok(Reply::CreateTopic(pb::CreateTopicResponse { topic, created }))
            }
            EventOperation::DeleteTopic { topic, id } => {
                let existed = self.delete_topic(&topic, id).await;
                self.topics().remove(&topic);
                let existed = existed.map_err(|error| bus_error(&error, &topic, ""))?;
                Ok(Reply::DeleteTopic(pb::DeleteTopicResponse { existed }))
            }
            EventOperation::DescribeTopic { topic } => {
                let view = self.view(&topic).await?;
                let topic = Some(description_to(&view));
                Ok(Reply::DescribeTopic(pb::DescribeTopicResponse { topic }))
            }
            EventOperation::ListTopics { page_size, after } => {
                let page = bus.topics(page_size, after).await;
                let page = page.map_err(|error| bus_error(&error, "", ""))?;
                let topics = page.topics.iter().map(description_to).collect();
                let next_page_token = page.next_after.unwrap_or_default();
                Ok(Reply::ListTopics(pb::ListTopicsResponse { topics, next_page_token }))
            }
            EventOperation::Publish(publication) => {
                let mut published = self.publish(vec![*publication], now).await?;
                let one = published.pop();
                let one = one.ok_or_else(|| Status::internal("an event has no place"))?;
                Ok(Reply::Publish(one))
            }
            EventOperation::PublishBatch { publications } => {
                let events = self.publish(publications, now).await?;
                Ok(Reply::PublishBatch(pb::PublishBatchResponse { events }))
            }
            EventOperation::DeleteConsumer { topic, consumer } => {
                let id = self.view(&topic).await?.topic.id;
                let deleted = bus.delete_consumer(id, consumer.clone()).await;
                let existed = deleted.map_err(|error| bus_error(&error, &topic, &consumer))?;
                Ok(Reply::DeleteConsumer(pb::DeleteConsumerResponse { existed }))
            }
        }
    }

    /// Deletes the topic that has a name now, or the one with an id; tells whether it existed. The bus asks again when
    /// an answer was lost: without an id it might delete what was created anew since.
    async fn delete_topic(&self, topic: &str, id: Option<String>) -> Result<bool, BusError> {
        let bus = &self.shared.bus;
        if id.is_some() {
            return bus.delete_topic(topic.to_owned(), id).await;
        }
        let id = match bus.topic(topic.to_owned()).await {
            Ok(view) => view.topic.id.to_string(),
            Err(BusError::UnknownTopic) => return Ok(false),
            Err(error) => return Err(error),
        };
        // Gone by now it was deleted by this request, or by another one at the same time.
        bus.delete_topic(topic.to_owned(), Some(id)).await.map(|_| true)
    }

    /// What there is of a topic now.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub async fn view(&self, topic: &str) -> Result<TopicView, Status> {
        let view = self.shared.bus.topic(topic.to_owned()).await;
        let view = view.map_err(|error| bus_error(&error, topic, ""))?;
        self.know(topic, &view);
        Ok(view)
    }

    fn know(&self, topic: &str, view: &TopicView) -> KnownTopic {
        let known = KnownTopic {
            id: view.topic.id.clone(),
            partitions: view.topic.settings.partitions.max(1),
            seen: Instant::now(),
        };
        let mut topics = self.topics();
        if topics.len() >= TOPICS_CACHED_MAX && !topics.contains_key(topic) {
            topics.clear();
        }
        topics.insert(topic.to_owned(), known.clone());
        known
    }

    async fn known(&self, topic: &str) -> Result<KnownTopic, Status> {
        if let Some(known) = self.topics().get(topic) {
            return Ok(known.clone());
        }
        let view = self.view(topic).await?;
        Ok(self.know(topic, &view))
    }

    fn topics(&self) -> MutexGuard<'_, HashMap<String, KnownTopic>> {
        // Nothing panics while it is held.
        self.shared.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes and checks events of a turn.
    ///
    /// # Errors
    ///
    /// The status that names the wrong field.
    pub fn completed(
        &self,
        publications: &[Publication],
        now: Millis,
    ) -> Result<Vec<TurnEvent>, Status> {
        let complete = |publication: &Publication| {
            let (checked, stored) = self.checked(publication.clone(), now)?;
            Ok(TurnEvent { checked, stored })
        };
        publications.iter().map(complete).collect()
    }

    /// Where events of a turn go; `None`: a topic has to be looked up first.
    pub fn placed(&self, events: &[TurnEvent]) -> Option<Vec<kar_core::events::Publication>> {
        let topics = self.topics();
        let place = |event: &TurnEvent| {
            let known = topics.get(&event.checked.topic)?;
            if known.seen.elapsed() >= FRESH {
                return None;
            }
            let partition = place(&event.checked, known);
            let to = TopicPartition { id: known.id.clone(), partition };
            Some(kar_core::events::Publication { to, event: event.stored.clone() })
        };
        events.iter().map(place).collect()
    }

    /// Looks up the topics of events.
    ///
    /// # Errors
    ///
    /// If there is no such topic, or nobody can tell.
    pub async fn look_up(&self, events: &[TurnEvent]) -> Result<(), Status> {
        let mut topics: Vec<_> = events.iter().map(TurnEvent::topic).collect();
        topics.sort_unstable();
        topics.dedup();
        for topic in topics {
            self.topics().remove(topic);
            self.view(topic).await?;
        }
        Ok(())
    }

    /// Publishes events; all are checked, and their topics looked up, before any is.
    async fn publish(
        &self,
        publications: Vec<Publication>,
        now: Millis,
    ) -> Result<Vec<pb::PublishResponse>, Status> {
        let events: Vec<_> =
            publications.into_iter().map(|p| self.checked(p, now)).collect::<Result<_, _>>()?;
        for (event, _) in &events {
            self.known(&event.topic).await?;
        }
        let mut published = Vec::with_capacity(events.len());
        let mut piece = Vec::new();
        let mut bytes = 0;
        let mut events = events.into_iter().peekable();
        while let Some((event, stored)) = events.next() {
            let topic = event.topic.clone();
            let id = event.event.id.clone();
            bytes += stored.len();
            piece.push((id, event, stored));
            let ends = events.peek().is_none_or(|(next, _)| next.topic != topic);
            if ends || bytes >= PIECE.0 || piece.len() >= PIECE.1 {
                bytes = 0;
                published.extend(self.publish_piece(&topic, std::mem::take(&mut piece)).await?);
            }
        }
        Ok(published)
    }

    /// The event, complete, and as it is kept.
    fn checked(&self, publication: Publication, now: Millis) -> Result<(Checked, Bytes), Status> {
        let Publication { topic, draft, request, field, bytes_max } = publication;
        let seconds = i64::try_from(now / 1_000).unwrap_or(i64::MAX);
        let now = EventTime { seconds, nanos: (now % 1_000) as u32 * 1_000_000 };
        let id = || Uuid::now_v7().to_string();
        let event = draft.complete(id, &self.shared.source, now);
        let event = event.map_err(|error| event_error(&field, &error))?;
        let stored = encode_event(&event);
        if stored.len() > bytes_max {
            return Err(too_large(&format!("{field}event"), stored.len(), bytes_max));
        }
        let request = match request {
            Some(request) => self.request_key(&request),
            None => Uuid::new_v4().as_u128(),
        };
        Ok((Checked { event, request, topic }, stored))
    }

    /// The same for the same id of a request of the same application, on every node.
    fn request_key(&self, request: &str) -> u128 {
        let mut hasher = Sha256::new();
        hasher.update(self.shared.application.as_str());
        // No application's name has this character.
        hasher.update(b"\n");
        hasher.update(request);
        let digest = hasher.finalize();
        let bytes: [u8; 16] = digest[..16].try_into().expect("a digest has 32 bytes");
        u128::from_le_bytes(bytes)
    }

    /// Publishes events of one topic, in order. A topic that is another one than it was is looked up anew, once.
    async fn publish_piece(
        &self,
        topic: &str,
        piece: Vec<Piece>,
    ) -> Result<Vec<pb::PublishResponse>, Status> {
        let known = self.known(topic).await?;
        let mut result = self.append(&known, &piece).await;
        if result == Err(BusError::UnknownTopic) {
            self.topics().remove(topic);
            let now = self.known(topic).await?;
            if now.id != known.id {
                result = self.append(&now, &piece).await;
            }
        }
        let places = result.map_err(|error| bus_error(&error, topic, ""))?;
        let counters = &self.shared.counters;
        let answer = |(piece, (partition, place)): (Piece, (u32, EventPlace))| {
            let event_id = piece.0;
            let counter = if place.again { &counters.repeated } else { &counters.published };
            counter.fetch_add(1, Ordering::Relaxed);
            let position = EventPosition { partition, offset: place.offset };
            pb::PublishResponse {
                event_id,
                position: position.to_string(),
                repeated_request: place.again,
            }
        };
        Ok(piece.into_iter().zip(places).map(answer).collect())
    }

    async fn append(
        &self,
        topic: &KnownTopic,
        piece: &[Piece],
    ) -> Result<Vec<(u32, EventPlace)>, BusError> {
        let events: Vec<_> = piece
            .iter()
            .map(|(_, checked, stored)| NewEvent {
                partition: place(checked, topic),
                request: checked.request,
                event: stored.clone(),
            })
            .collect();
        let partitions: Vec<_> = events.iter().map(|event| event.partition).collect();
        let places = self.shared.bus.publish(topic.id.clone(), events).await?;
        if places.len() != partitions.len() {
            return Err(BusError::Unknown("the bus answered for other events".into()));
        }
        Ok(partitions.into_iter().zip(places).collect())
    }
}

/// The partition that an event goes to.
fn place(checked: &Checked, topic: &KnownTopic) -> u32 {
    match checked.event.partition_key() {
        Some(key) => partition_of(key.as_bytes(), topic.partitions),
        // A request that comes again goes to the same one.
        None => partition_of(&checked.request.to_le_bytes(), topic.partitions),
    }
}

// === impl TurnEvent ===

impl TurnEvent {
    /// Name of its topic.
    pub fn topic(&self) -> &str {
        &self.checked.topic
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.checked.event.id
    }
}

/// A name as a part of a URI.
fn escaped(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let escape = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    name.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_nodes_become_parts_of_uris() {
        assert_eq!(escaped("node-1.a_b"), "node-1.a_b");
        assert_eq!(escaped("a b/é"), "a%20b%2F%C3%A9");
    }
}
