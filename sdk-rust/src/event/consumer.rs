//! Following a topic ([`Consumer`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kar_proto::v1 as proto;
use proto::consume_start::Start as Wire;
use proto::event_service_client::EventServiceClient;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{Event, EventFilter};
use crate::error::CallError;
use crate::limits::{BACKOFF_MAX, BACKOFF_MIN, CONSUMER_EVENTS_AHEAD, MESSAGE_BYTES_DECODE_MAX};
use crate::transport::Sidecar;

/// How a topic is to be followed.
#[derive(Clone, Debug)]
#[must_use = "nothing is consumed before `open`"]
pub struct Consume {
    sidecar: Arc<Sidecar>,
    topic: String,
    name: String,
    start: Start,
    filter: Option<EventFilter>,
    ahead: u16,
    reconnect_timeout: Duration,
}

/// Where a consumer begins that is not remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Start {
    /// With the earliest event that is kept.
    #[default]
    Earliest,
    /// With the next event that is published.
    Latest,
    /// With the first event that was published at this time or later.
    Time(SystemTime),
}

/// Follows a topic, on a connection of its own, which is made again when it breaks.
///
/// With a name it is remembered how far it has come: after a break, or in another process, it goes on behind the events
/// that it has acknowledged, and those that it has not come again. Without a name it goes on behind the last event that
/// it was given, for as long as this value lives.
#[derive(Debug)]
pub struct Consumer {
    settings: Consume,
    connection: Option<Connection>,
    /// By partition, the offset behind the last event that came; of one without a name.
    behind: BTreeMap<u32, u64>,
    /// Where it began, once that is known.
    began: bool,
}

/// An event that has come.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Received {
    /// The event.
    pub event: Event,
    /// Its place: `PARTITION/OFFSET`.
    pub position: String,
    /// When it was published, by the hub's clock.
    pub published: Option<SystemTime>,
}

#[derive(Debug)]
struct Connection {
    requests: mpsc::Sender<proto::ConsumeRequest>,
    answers: Streaming<proto::ConsumeResponse>,
}

// === impl Consume ===

impl Consume {
    pub(super) fn new(sidecar: Arc<Sidecar>, topic: String) -> Self {
        let reconnect_timeout = sidecar.patience;
        Self {
            sidecar,
            topic,
            name: String::new(),
            start: Start::Earliest,
            filter: None,
            ahead: CONSUMER_EVENTS_AHEAD,
            reconnect_timeout,
        }
    }

    /// Name under which it is remembered how far it has come. There is one consumer of a name at a time: a later one
    /// takes over, and this one ends with [`CallError::Rejected`] and reason `CONSUMER_TAKEN_OVER`.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Where it begins unless it is remembered; with the earliest event if not said.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Only these events.
    pub fn filter(mut self, filter: EventFilter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// How many events may come ahead of [`Consumer::next`], at least 1.
    pub fn ahead(mut self, count: u16) -> Self {
        self.ahead = count.max(1);
        self
    }

    /// How long a broken connection is tried again; as long as the client's own if not said.
    pub fn reconnect_timeout(mut self, time: Duration) -> Self {
        self.reconnect_timeout = time;
        self
    }

    /// Begins: every event that is published from now on will be given, whatever the start is.
    ///
    /// # Errors
    /// The sidecar's ([`CallError::Rejected`] with reason `UNKNOWN_TOPIC` or `INVALID_FIELD`, say).
    pub async fn open(self) -> Result<Consumer, CallError> {
        let mut consumer =
            Consumer { settings: self, connection: None, behind: BTreeMap::new(), began: false };
        consumer.connect().await?;
        Ok(consumer)
    }

    fn first(&self, behind: &BTreeMap<u32, u64>, began: bool) -> proto::ConsumeRequest {
        let start = match self.start {
            // One without a name goes on where it was.
            _ if began && self.name.is_empty() => {
                let place = |(partition, offset): (&u32, &u64)| format!("{partition}/{offset}");
                let positions = behind.iter().map(place).collect();
                Wire::Positions(proto::StartPositions { positions })
            }
            Start::Earliest => Wire::Earliest(true),
            Start::Latest => Wire::Latest(true),
            Start::Time(time) => Wire::Time(time.into()),
        };
        proto::ConsumeRequest {
            topic: self.topic.clone(),
            credits: self.ahead.into(),
            consumer: self.name.clone(),
            start: Some(proto::ConsumeStart { start: Some(start) }),
            filter: self.filter.clone().map(|filter| filter.0),
            ..Default::default()
        }
    }
}

// === impl Consumer ===

impl Consumer {
    /// The next event; waits for it. Connects again as needed.
    ///
    /// # Errors
    /// [`CallError::Rejected`] with reason `UNKNOWN_TOPIC` if the topic was deleted, `CONSUMER_TAKEN_OVER` if another
    /// one has begun under the name; [`CallError::Unavailable`] if no connection was to be had in time.
    pub async fn next(&mut self) -> Result<Received, CallError> {
        loop {
            if self.connection.is_none() {
                self.connect().await?;
            }
            let Some(connection) = &mut self.connection else { continue };
            match connection.answers.message().await {
                Ok(Some(answer)) => {
                    if let Some(received) = self.take(answer) {
                        return Ok(received);
                    }
                }
                Ok(None) => self.connection = None,
                Err(status) => {
                    self.connection = None;
                    let error = passing(&status);
                    if let Some(error) = error {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Acknowledges an event: it does not come again. For consumers with a name; with others nothing happens.
    /// Events may be acknowledged in any order. Returns when it is on its way: what is lost with the connection makes
    /// the event come again.
    pub async fn acknowledge(&mut self, received: &Received) {
        if self.settings.name.is_empty() {
            return;
        }
        if let Some(connection) = &self.connection {
            let acknowledged = vec![received.position.clone()];
            let request = proto::ConsumeRequest { acknowledged, ..Default::default() };
            // If the connection is gone, `next` makes another one.
            let _ = connection.requests.send(request).await;
        }
    }

    fn take(&mut self, answer: proto::ConsumeResponse) -> Option<Received> {
        if let Some(skipped) = &answer.skipped {
            tracing::warn!(
                topic = self.settings.topic,
                partition = skipped.partition,
                count = skipped.count,
                "events were let go before this consumer had them"
            );
        }
        let event = Event::from_proto(answer.event?);
        if let Some((partition, offset)) = place(&answer.position) {
            self.behind.insert(partition, offset + 1);
        }
        if let Some(connection) = &self.connection {
            let more = proto::ConsumeRequest { credits: 1, ..Default::default() };
            // There is room for as many as may come ahead; if the connection is gone, `next` makes another one.
            let _ = connection.requests.try_send(more);
        }
        // A time before the clock's beginning has no form here.
        let published = answer.publish_time.and_then(|time| SystemTime::try_from(time).ok());
        Some(Received { event, position: answer.position, published })
    }

    async fn connect(&mut self) -> Result<(), CallError> {
        let began = Instant::now();
        let mut pause = BACKOFF_MIN;
        loop {
            let error = match self.connect_once().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let again = matches!(error, CallError::Unavailable(_) | CallError::Unknown(_));
            if !again || began.elapsed() + pause >= self.settings.reconnect_timeout {
                return Err(error);
            }
            tracing::debug!(%error, "cannot consume yet");
            sleep(pause).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    async fn connect_once(&mut self) -> Result<(), CallError> {
        let dialer = &self.settings.sidecar.dialer;
        let unavailable = |cause: String| {
            CallError::from_grpc(&tonic::Status::unavailable(format!("no sidecar: {cause}")))
        };
        let channel = dialer.channel().await.map_err(|error| unavailable(error.to_string()))?;
        let mut client = EventServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_DECODE_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_DECODE_MAX);
        // Room for a credit and an acknowledgement of each event that may be here.
        let (requests, outgoing) = mpsc::channel(2 * usize::from(self.settings.ahead) + 1);
        let first = self.settings.first(&self.behind, self.began);
        // A new queue has room for one.
        let _ = requests.try_send(first);
        let request = dialer.authorized(ReceiverStream::new(outgoing));
        let refused = |status: tonic::Status| CallError::from_grpc(&status);
        let mut answers = client.consume(request).await.map_err(refused)?.into_inner();
        let opened = answers.message().await.map_err(refused)?.and_then(|answer| answer.opened);
        let opened = opened.ok_or_else(|| CallError::mismatch("consume"))?;
        for position in &opened.positions {
            if let Some((partition, offset)) = place(position) {
                self.behind.entry(partition).or_insert(offset);
            }
        }
        self.began = true;
        self.connection = Some(Connection { requests, answers });
        Ok(())
    }
}

/// What ended a stream for good; `None`: it can be opened again.
fn passing(status: &tonic::Status) -> Option<CallError> {
    let error = CallError::from_grpc(status);
    let again = matches!(error, CallError::Unavailable(_) | CallError::Unknown(_))
        || (status.details().is_empty()
            && matches!(status.code(), tonic::Code::Cancelled | tonic::Code::Internal));
    (!again).then_some(error)
}

/// A position in two numbers.
fn place(position: &str) -> Option<(u32, u64)> {
    let (partition, offset) = position.split_once('/')?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}
