//! `EventService.Consume`: one consumer of a topic. What it is given next, and what of its acknowledgements is to be
//! made durable, the core decides ([`kar_core::events::Consumer`]); this carries it out.
//!
//! One task for each stream. Each partition has one fetch under way at most, and what it brought is given before the
//! next one begins; what is given waits in a short queue until the transport takes it. So a slow client costs no more
//! than that, and its lag shows in the topic's description.
//!
//! Subscriptions read by another loop ([`crate::topics`] for the core's `delivery`). What both have in common is one
//! fetch of the bus. When to read, how much, and what becomes of it differs in every line: there a reign decides, whose
//! place is in a log and whose numbers are channels'; here a stream, whose place is a consumer's, and which ends with
//! the first thing that is wrong.

mod begin;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kar_core::events::{
    CloudEvent, Consumer, ConsumerLimits, ConsumerPosition, EventPosition, Filter,
};
use kar_core::ids::Millis;
use kar_proto::v1 as pb;
use pb::ErrorReason;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Status, Streaming};

use super::serve::closed;
use super::typed::TypedErrors;
use crate::bus::{BusError, Fetch, Fetched, SessionName, TopicId, fetch_wait};
use crate::config::CONSUMER_RANGES_MAX;
use crate::convert::api::{ConsumeOpen, acknowledged, bus_error, consume_open, timestamp};
use crate::convert::error::{invalid_field, not_understood, status};
use crate::convert::event::{decode_event, event_to};
use crate::events::Events;
use begin::{Open, begin};

/// Path of the RPC.
const METHOD: &str = "/kar.v1.EventService/Consume";

/// How often progress is made durable that no acknowledgement made.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// Pause after a fetch that failed because the bus was away.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Answers that wait for the transport.
const ANSWERS_MAX: usize = 16;

/// An answer to a client.
type Answer = Result<pb::ConsumeResponse, Status>;

/// Answers to a client, as the transport takes them.
pub type ConsumeStream = tokio_stream::wrappers::ReceiverStream<Answer>;

/// Something that goes on beside the rest.
type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What of it has ended.
enum Done {
    Fetched { partition: u32, result: Result<Fetched, BusError> },
    Committed { positions: Vec<EventPosition>, result: Result<(), BusError> },
}

/// An event as it was read.
struct Read {
    event: CloudEvent,
    published: Millis,
}

/// A consumer with its stream.
struct Session {
    events: Events,
    open: ConsumeOpen,
    topic: TopicId,
    name: Option<SessionName>,
    consumer: Consumer<Read>,
    work: FuturesUnordered<Work>,
    committing: bool,
    /// Acknowledged, and not on its way to be durable.
    acknowledged: Vec<EventPosition>,
    /// To be told before the next event. A commit begins only when there is nothing, so these are few.
    notices: VecDeque<pb::ConsumeResponse>,
    answers: mpsc::Sender<Answer>,
    errors: TypedErrors,
    _open: Open,
}

/// Begins to consume.
///
/// # Errors
///
/// The status that says why it cannot be.
pub async fn consume(
    events: Events,
    errors: TypedErrors,
    mut inbound: Streaming<pb::ConsumeRequest>,
    closing: watch::Receiver<bool>,
) -> Result<ConsumeStream, Status> {
    let counted = Open::count(&events)?;
    let patience = Duration::from_millis(events.bounds().hello_timeout_ms);
    let first = match tokio::time::timeout(patience, inbound.message()).await {
        Ok(message) => message?.unwrap_or_default(),
        Err(_) => {
            let what =
                format!("the first message did not come within {patience:?} (hello_timeout_ms)");
            return Err(status(ErrorReason::ProtocolViolation, what, []));
        }
    };
    let open = consume_open(first)?;
    let view = events.view(&open.topic).await?;
    let begin = begin(&events, &open, &view).await?;
    let topic = view.topic.id.clone();
    let (name, positions, resumed) = match &open.consumer {
        None => {
            let position = |floor| ConsumerPosition { floor, acknowledged: Vec::new() };
            (None, begin.into_iter().map(position).collect(), false)
        }
        Some(consumer) => {
            let opened = events.bus().open_consumer(topic.clone(), consumer.clone(), begin).await;
            let opened = opened.map_err(|error| bus_error(&error, &open.topic, consumer))?;
            let name = SessionName { consumer: consumer.as_str().into(), session: opened.session };
            (Some(name), opened.positions, !opened.created)
        }
    };
    let limits = ConsumerLimits {
        unacknowledged_max: events.bounds().consume_unacknowledged_max,
        ranges_max: CONSUMER_RANGES_MAX,
    };
    let consumer = Consumer::new(positions, name.is_some(), open.credits, limits);
    let (answers, stream) = mpsc::channel(ANSWERS_MAX);
    let opened = pb::ConsumeOpened {
        topic_id: topic.to_string(),
        positions: consumer.floors().map(|place| place.to_string()).collect(),
        resumed,
    };
    let session = Session {
        events,
        open,
        topic,
        name,
        consumer,
        work: FuturesUnordered::new(),
        committing: false,
        acknowledged: Vec::new(),
        notices: VecDeque::new(),
        answers,
        errors,
        _open: counted,
    };
    tokio::spawn(session.run(inbound, closing, opened));
    Ok(ConsumeStream::new(stream))
}

// === impl Session ===

impl Session {
    /// Goes on until the client ends the stream, the sidecar leaves, or something fails.
    async fn run(
        mut self,
        mut inbound: Streaming<pb::ConsumeRequest>,
        closing: watch::Receiver<bool>,
        opened: pb::ConsumeOpened,
    ) {
        let opened = pb::ConsumeResponse { opened: Some(opened), ..Default::default() };
        let result = match self.answers.send(Ok(opened)).await {
            Ok(()) => self.serve(&mut inbound, closing).await,
            // The client has gone.
            Err(_) => return,
        };
        // What was acknowledged before the end counts, as far as that is possible.
        self.commit_at_the_end().await;
        if let Err(status) = result {
            tracing::debug!(
                topic = self.open.topic,
                message = status.message(),
                "a consumer's stream ends"
            );
            // If the client has gone nobody needs to know.
            let _ = self.answers.send(Err(status)).await;
        }
    }

    async fn serve(
        &mut self,
        inbound: &mut Streaming<pb::ConsumeRequest>,
        closing: watch::Receiver<bool>,
    ) -> Result<(), Status> {
        let mut closing = std::pin::pin!(closed(closing));
        let mut commits = tokio::time::interval_at(Instant::now() + COMMIT_EVERY, COMMIT_EVERY);
        commits.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let answers = self.answers.clone();
        let mut hears = true;
        let mut due = false;
        loop {
            self.begin_work(due);
            due = false;
            // Something can be given only if there is room for it.
            let room = answers.try_reserve();
            if let Ok(room) = room
                && let Some(answer) = self.next_answer()
            {
                room.send(Ok(answer));
                continue;
            }
            tokio::select! {
                biased;
                () = &mut closing => {
                    let what = "the sidecar leaves: consume through another one";
                    return Err(status(ErrorReason::Draining, what, []));
                }
                () = answers.closed() => return Ok(()),
                message = inbound.message(), if hears => match message {
                    Ok(Some(message)) => self.hear(&message)?,
                    // The client has nothing more to say, and may go on listening.
                    Ok(None) => hears = false,
                    Err(status) => return self.errors.typed(&status, METHOD).map_or(Ok(()), Err),
                },
                Some(done) = self.work.next(), if !self.work.is_empty() => self.done(done)?,
                _ = commits.tick() => due = true,
                // Until there is room again, if that is what is missing.
                room = answers.reserve(), if answers.capacity() == 0 => drop(room),
            }
        }
    }

    /// What the client is told next, if there is anything.
    fn next_answer(&mut self) -> Option<pb::ConsumeResponse> {
        if let Some(notice) = self.notices.pop_front() {
            return Some(notice);
        }
        let (position, read) = self.consumer.give()?;
        self.events.counters().consumed.fetch_add(1, Ordering::Relaxed);
        Some(pb::ConsumeResponse {
            event: Some(event_to(read.event, self.open.json)),
            position: position.to_string(),
            publish_time: Some(timestamp(read.published)),
            ..Default::default()
        })
    }

    /// Begins whatever is to be done.
    fn begin_work(&mut self, due: bool) {
        while let Some(place) = self.consumer.begin_reading() {
            self.fetch(place, Duration::ZERO);
        }
        if !self.committing && self.notices.is_empty() && (due || self.consumer.is_commit_urgent())
        {
            let (positions, told) =
                (self.consumer.commit(), std::mem::take(&mut self.acknowledged));
            if let Some(name) = self.name.clone().filter(|_| !positions.is_empty()) {
                self.committing = true;
                let commit = self.events.bus().commit_consumer(self.topic.clone(), name, positions);
                self.work.push(Box::pin(async move {
                    Done::Committed { positions: told, result: commit.await }
                }));
            }
        }
    }

    fn fetch(&self, place: EventPosition, pause: Duration) {
        let backend = Duration::from_millis(self.events.bounds().backend_timeout_ms);
        let fetch = Fetch {
            partition: place.partition,
            first: place.offset,
            bytes_max: self.events.bounds().consume_fetch_bytes,
            wait: fetch_wait(backend),
            session: self.name.clone(),
        };
        let (bus, topic, partition) =
            (Arc::clone(self.events.bus()), self.topic.clone(), place.partition);
        self.work.push(Box::pin(async move {
            tokio::time::sleep(pause).await;
            Done::Fetched { partition, result: bus.fetch(topic, fetch).await }
        }));
    }

    /// Something has ended.
    fn done(&mut self, done: Done) -> Result<(), Status> {
        // Also one that failed is not waited for at the end.
        self.committing &= !matches!(done, Done::Committed { .. });
        match done {
            Done::Fetched { partition, result: Ok(fetched) } => self.read(partition, fetched),
            Done::Fetched { partition, result: Err(BusError::Unavailable(what)) } => {
                tracing::debug!(topic = self.open.topic, what, "a fetch failed, trying again");
                if let Some(place) = self.consumer.reading_at(partition) {
                    self.fetch(place, RETRY_PAUSE);
                }
                Ok(())
            }
            Done::Committed { positions, result: Ok(()) } => {
                self.events.counters().commits.fetch_add(1, Ordering::Relaxed);
                if self.open.confirm && !positions.is_empty() {
                    let acknowledged = positions.iter().map(EventPosition::to_string).collect();
                    let told = pb::ConsumeResponse { acknowledged, ..Default::default() };
                    self.notices.push_back(told);
                }
                Ok(())
            }
            Done::Fetched { result: Err(error), .. }
            | Done::Committed { result: Err(error), .. } => Err(bus_error(
                &error,
                &self.open.topic,
                self.open.consumer.as_deref().unwrap_or(""),
            )),
        }
    }

    /// Events have been read.
    fn read(&mut self, partition: u32, fetched: Fetched) -> Result<(), Status> {
        let mut read = Vec::with_capacity(fetched.events.len());
        let mut passed_over = 0;
        for (offset, (published, bytes)) in (fetched.first..).zip(fetched.events) {
            let event = match decode_event(bytes) {
                Ok(event) => event,
                // What is before it is given first; it is read again then.
                Err(_) if !read.is_empty() => break,
                Err(error) => {
                    let place = EventPosition { partition, offset };
                    return Err(not_understood(&self.open.topic, place, &error));
                }
            };
            let wanted =
                self.open.filter.as_ref().is_none_or(|filter: &Filter| filter.matches(&event));
            passed_over += i64::from(!wanted);
            read.push(wanted.then_some(Read { event, published }));
        }
        let counters = self.events.counters();
        counters.passed_over.fetch_add(passed_over, Ordering::Relaxed);
        let Some(skipped) = self.consumer.read(partition, fetched.first, read) else {
            return Ok(());
        };
        let count = i64::try_from(skipped.count).unwrap_or(i64::MAX);
        self.events.counters().skipped.fetch_add(count, Ordering::Relaxed);
        tracing::warn!(
            topic = self.open.topic,
            consumer = self.open.consumer,
            partition,
            first = skipped.first,
            count,
            "events were let go before a consumer had them: it is too slow, or the topic keeps them too shortly"
        );
        let skipped = pb::SkippedEvents {
            partition: i32::try_from(partition).unwrap_or(i32::MAX),
            first: i64::try_from(skipped.first).unwrap_or(i64::MAX),
            count,
        };
        let told = pb::ConsumeResponse { skipped: Some(skipped), ..Default::default() };
        self.notices.push_back(told);
        Ok(())
    }

    /// The client says something.
    fn hear(&mut self, message: &pb::ConsumeRequest) -> Result<(), Status> {
        let told_first = [
            ("topic", message.topic.is_empty()),
            ("consumer", message.consumer.is_empty()),
            ("start", message.start.is_none()),
            ("filter", message.filter.is_none()),
            ("confirm", !message.confirm),
            ("json", !message.json),
        ];
        if let Some((field, _)) = told_first.into_iter().find(|(_, absent)| !absent) {
            return Err(invalid_field(field, "belongs into the first message only"));
        }
        let credits = u64::try_from(message.credits)
            .map_err(|_| invalid_field("credits", "must not be negative"))?;
        self.consumer.allow(credits);
        for position in acknowledged(&message.acknowledged)? {
            if self.consumer.acknowledge(position) {
                self.acknowledged.push(position);
            }
        }
        Ok(())
    }

    /// Makes durable what was acknowledged last.
    async fn commit_at_the_end(&mut self) {
        // One that is under way has to end first: they come in order.
        while self.committing
            && let Some(done) = self.work.next().await
        {
            if let Done::Committed { .. } = done {
                self.committing = false;
            }
        }
        let positions = self.consumer.commit();
        if let Some(name) = self.name.clone().filter(|_| !positions.is_empty()) {
            let commit = self.events.bus().commit_consumer(self.topic.clone(), name, positions);
            // Whoever consumes next gets again what could not be said.
            if let Err(error) = commit.await {
                tracing::debug!(%error, "a consumer's last acknowledgements were not made durable");
            }
        }
    }
}
