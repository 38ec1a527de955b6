//! Following a topic ([`Consumer`]).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kar_proto::v1 as proto;
use proto::consume_start::Start as Wire;
use proto::event_service_client::EventServiceClient;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::window::{Beginning, Place, Window};
use super::{Event, EventFilter};
use crate::error::{CallError, Rejection};
use crate::limits::{BACKOFF_MAX, BACKOFF_MIN, CONSUMER_EVENTS_AHEAD, MESSAGE_BYTES_DECODE_MAX};
use crate::transport::Sidecar;

/// Messages of a consumer on their way to the connection's task. What finds no room is said a moment later: messages
/// of credits alone are so few that there are acknowledgements among so many, whose confirmation comes.
const REQUESTS_MAX: usize = 16;

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

/// Follows a topic, on a connection of its own, which is made again when it breaks. Every event that is published from
/// its opening on is given, by partition in order, each once.
///
/// With a name it is remembered how far it has come: in another process it goes on with what is not acknowledged, and
/// nothing that was acknowledged durably comes again. The sidecar gives no more than `consume-unacknowledged-max`
/// (1,000) events that are not acknowledged. Without a name nothing is remembered: it goes on behind the last event
/// that has come, for as long as this value lives.
///
/// ```no_run
/// # use kar_sdk::{CallError, Client};
/// # async fn f(client: &Client) -> Result<(), CallError> {
/// let mut events = client.topic("orders").consume().named("audit").open().await?;
/// while let Ok(received) = events.next().await {
///     println!("{}", received.event.data::<serde_json::Value>()?);
///     events.acknowledge(&received);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Consumer {
    settings: Consume,
    connection: Option<Connection>,
    window: Window,
    /// Id of the topic, from the first stream on: one that is created anew under the name is another one.
    topic_id: Option<String>,
    /// What has ended it for good.
    over: Option<CallError>,
    skipped: u64,
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
        let window = Window::new(self.ahead, !self.name.is_empty());
        let mut consumer = Consumer {
            settings: self,
            connection: None,
            window,
            topic_id: None,
            over: None,
            skipped: 0,
        };
        consumer.connect().await?;
        Ok(consumer)
    }

    fn first(&self, beginning: Beginning) -> proto::ConsumeRequest {
        let positions = beginning.positions;
        let start = match self.start {
            // It goes on where it was.
            _ if !positions.is_empty() => Wire::Positions(proto::StartPositions { positions }),
            Start::Earliest => Wire::Earliest(true),
            Start::Latest => Wire::Latest(true),
            Start::Time(time) => Wire::Time(time.into()),
        };
        proto::ConsumeRequest {
            topic: self.topic.clone(),
            credits: beginning.credits,
            consumer: self.name.clone(),
            start: Some(proto::ConsumeStart { start: Some(start) }),
            filter: self.filter.clone().map(|filter| filter.0),
            confirm: !self.name.is_empty(),
            ..Default::default()
        }
    }

    /// As the sidecar would say, had it been asked before there was another topic of the name.
    fn topic_is_gone(&self) -> CallError {
        let topic = &self.topic;
        CallError::Rejected(Box::new(Rejection {
            code: tonic::Code::NotFound.into(),
            reason: "UNKNOWN_TOPIC".to_owned(),
            message: format!("topic '{topic}' was deleted, and another one created under its name"),
            metadata: [("topic".to_owned(), topic.clone())].into(),
        }))
    }
}

// === impl Consumer ===

impl Consumer {
    /// The next event; waits for it. Connects again as needed. Nothing is lost if this is not waited for to its end.
    ///
    /// # Errors
    /// [`CallError::Rejected`] with reason `UNKNOWN_TOPIC` if the topic was deleted, `CONSUMER_TAKEN_OVER` if another
    /// one has begun under the name: it is over then, and says so again. [`CallError::Unavailable`] or
    /// [`CallError::Unknown`] if no connection was to be had in time; it tries again when it is asked again.
    pub async fn next(&mut self) -> Result<Received, CallError> {
        loop {
            // One with a name that is over cannot acknowledge what has come, which goes to others.
            let is_lost = self.over.is_some() && !self.settings.name.is_empty();
            if !is_lost && let Some(received) = self.window.take() {
                self.say();
                return Ok(received);
            }
            self.advance().await?;
        }
    }

    /// Says of an event that it is done with: it does not come again. Events may be acknowledged in any order. It is on
    /// its way then, and sent again if the connection breaks, by what is waited for next ([`next`](Self::next) or
    /// [`flush`](Self::flush)). For consumers with a name; with others nothing happens.
    pub fn acknowledge(&mut self, received: &Received) {
        // One that was made up names no place, and was not given.
        if let Some(at) = Place::parse(&received.position) {
            self.window.acknowledge(at);
            self.say();
        }
    }

    /// Waits until everything that was acknowledged so far is durable: after that it never comes again, to whichever
    /// consumer of the name. Worth it before the consumer is dropped.
    ///
    /// # Errors
    /// As [`next`](Self::next): what is not durable may come again.
    pub async fn flush(&mut self) -> Result<(), CallError> {
        let unsure = self.window.unsure();
        while !self.window.is_durable(&unsure) {
            self.advance().await?;
        }
        Ok(())
    }

    /// Events that the topic has let go, because of its retention, before this consumer had them.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Takes one answer, or connects.
    async fn advance(&mut self) -> Result<(), CallError> {
        if let Some(error) = &self.over {
            return Err(error.clone());
        }
        self.say();
        let Some(connection) = &mut self.connection else { return self.connect().await };
        match connection.answers.message().await {
            Ok(Some(answer)) => self.take(answer),
            Ok(None) => {
                self.connection = None;
                Ok(())
            }
            Err(status) => {
                self.connection = None;
                self.over = passing(&status);
                Ok(())
            }
        }
    }

    /// Says what is to be said, if there is room.
    fn say(&mut self) {
        let Some(connection) = &self.connection else { return };
        // If the connection is gone, reading tells why.
        let Ok(room) = connection.requests.try_reserve() else { return };
        if let Some(said) = self.window.outgoing() {
            room.send(said);
        }
    }

    fn take(&mut self, answer: proto::ConsumeResponse) -> Result<(), CallError> {
        if let Some(skipped) = &answer.skipped {
            self.skipped += u64::try_from(skipped.count).unwrap_or(0);
            tracing::warn!(
                topic = self.settings.topic,
                partition = skipped.partition,
                first = skipped.first,
                count = skipped.count,
                "events were let go before this consumer had them"
            );
        }
        self.window.confirmed(places(&answer.acknowledged)?);
        let Some(event) = answer.event else { return Ok(()) };
        let [at] = places([&answer.position])?[..] else { return Err(no_position()) };
        // A time before the clock's beginning has no form here.
        let published = answer.publish_time.and_then(|time| SystemTime::try_from(time).ok());
        let event = Event::from_proto(event);
        self.window.came(at, Received { event, position: answer.position, published });
        Ok(())
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
            if !again {
                self.over = Some(error.clone());
            }
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
        let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
        let first = self.settings.first(self.window.begin());
        // A new queue has room for one.
        let _ = requests.try_send(first);
        let request = dialer.authorized(ReceiverStream::new(outgoing));
        let refused = |status: tonic::Status| CallError::from_grpc(&status);
        let mut answers = client.consume(request).await.map_err(refused)?.into_inner();
        let opened = answers.message().await.map_err(refused)?.and_then(|answer| answer.opened);
        let opened = opened.ok_or_else(|| CallError::mismatch("consume"))?;
        if self.topic_id.get_or_insert_with(|| opened.topic_id.clone()) != &opened.topic_id {
            return Err(self.settings.topic_is_gone());
        }
        self.window.opened(places(&opened.positions)?);
        self.connection = Some(Connection { requests, answers });
        Ok(())
    }
}

/// What ended a stream for good; `None`: it can be opened again.
fn passing(status: &tonic::Status) -> Option<CallError> {
    let error = CallError::from_grpc(status);
    let again = matches!(error, CallError::Unavailable(_) | CallError::Unknown(_));
    (!again).then_some(error)
}

/// Positions in two numbers each.
fn places<S: AsRef<str>>(positions: impl IntoIterator<Item = S>) -> Result<Vec<Place>, CallError> {
    let place = |position: S| Place::parse(position.as_ref()).ok_or_else(no_position);
    positions.into_iter().map(place).collect()
}

fn no_position() -> CallError {
    CallError::mismatch("consume: a position is none")
}
