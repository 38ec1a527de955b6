//! Topics: publishing events ([`Topic`], [`NewEvent`]), having them delivered ([`Subscription`]), and following them
//! ([`Consumer`]).

mod consumer;
mod filter;
pub(crate) mod subscription;
mod topic;
mod window;

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::SystemTime;

use kar_proto::v1 as proto;
use uuid::Uuid;

use crate::codec::{CodecError, Decode, Encode, Payload, name};
use crate::context::sealed::Origin;
use crate::context::{Root, Source};
use crate::error::CallError;
use crate::stream::{Answer, Operation};
pub use consumer::{Consume, Consumer, Received, Start};
pub use filter::EventFilter;
pub use subscription::{Subscribed, Subscription, SubscriptionState};
pub use topic::{NewTopic, TopicConsumer, TopicDescription, TopicPartition};

/// A topic, by its name. All applications of a hub use the same topics. `S` is [`Root`] for a client,
/// [`Nested`](crate::Nested) in a turn.
#[derive(Clone)]
pub struct Topic<S = Root> {
    origin: Origin,
    name: String,
    scope: PhantomData<fn() -> S>,
}

/// An event to be published, a CloudEvent: what is not said is filled in.
///
/// ```
/// # use kar_sdk::NewEvent;
/// let order = serde_json::json!({ "id": 7 });
/// let event = NewEvent::new("order.created", &order).key("alice").attribute("country", "ch");
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is published before `Topic::publish`"]
pub struct NewEvent {
    event: proto::Event,
    data: Result<Payload, CodecError>,
    key: String,
    request_id: String,
}

/// An event of a topic, with data of a type: as they are ([`Payload`]) when a topic is followed, and of the type that
/// it wants where a method takes it as its argument, because it is [subscribed](crate::Client::subscribe) to a topic.
/// A method that wants nothing but the data takes `T` itself.
///
/// ```
/// # use kar_sdk::{ActorContext, Error, Event};
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Order { amount: i64 }
/// struct Customer;
///
/// #[kar_sdk::actor]
/// impl Customer {
///     async fn ordered(&self, ctx: &mut ActorContext, order: Event<Order>) -> Result<(), Error> {
///         let total: i64 = ctx.state().get("total").await?.unwrap_or(0);
///         ctx.state().set("total", &(total + order.data.amount))?;
///         println!("{} of {}", order.id, order.source);
///         Ok(())
///     }
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Event<T = Payload> {
    /// Unique with the source.
    pub id: String,
    /// Who has published it.
    pub source: String,
    /// What has happened.
    pub kind: String,
    /// Subject within the source.
    pub subject: Option<String>,
    /// When it has happened.
    pub time: Option<SystemTime>,
    /// Schema of the data.
    pub data_schema: Option<String>,
    /// Extension attributes.
    pub attributes: BTreeMap<String, String>,
    /// Data.
    pub data: T,
}

/// Where an event is from that a turn delivers.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// Name of the subscription.
    pub subscription: String,
    /// Name of the topic.
    pub topic: String,
    /// The event's place there: `PARTITION/OFFSET`.
    pub position: String,
}

/// Where an event is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Published {
    /// Id of the event.
    pub id: String,
    /// Its place: `PARTITION/OFFSET`; empty in a turn, whose events get their places later.
    pub position: String,
    /// An earlier request with the same id had published it.
    pub again: bool,
}

// === impl Topic ===

impl<S> Topic<S> {
    pub(crate) fn new(origin: Origin, name: String) -> Self {
        Self { origin, name, scope: PhantomData }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Publishes an event. Outside turns returns when it is durable, and survives the loss of the connection. In a turn
    /// returns at once: the event is published with the turn's segment, once, or never.
    ///
    /// # Errors
    /// The sidecar's ([`CallError::Rejected`] with reason `UNKNOWN_TOPIC` or `INVALID_FIELD`, say), or
    /// [`CallError::Codec`] if the data cannot be written.
    pub async fn publish(&self, event: NewEvent) -> Result<Published, CallError> {
        let request = self.request(event)?;
        match self.origin.0.request(Operation::Publish(request)).await? {
            Answer::Publish(answer) => Ok(Published::from_proto(answer)),
            _ => Err(CallError::mismatch("publish")),
        }
    }

    /// Publishes several events; as [`publish`](Self::publish). Those of one key are in this order.
    ///
    /// # Errors
    /// As [`publish`](Self::publish). All are checked before any is published; when the outcome is unknown some may
    /// have been.
    pub async fn publish_all(
        &self,
        events: impl IntoIterator<Item = NewEvent>,
    ) -> Result<Vec<Published>, CallError> {
        let events = events.into_iter().map(|event| self.request(event));
        let events = events.collect::<Result<Vec<_>, _>>()?;
        let request = proto::PublishBatchRequest { events, ..Default::default() };
        match self.origin.0.request(Operation::PublishBatch(request)).await? {
            Answer::PublishBatch(answer) => {
                Ok(answer.events.into_iter().map(Published::from_proto).collect())
            }
            _ => Err(CallError::mismatch("publish_batch")),
        }
    }

    fn request(&self, event: NewEvent) -> Result<proto::PublishRequest, CallError> {
        let NewEvent { mut event, data, key, mut request_id } = event;
        event.data = Some(data?.into_proto());
        let turn_token = match &self.origin.0 {
            Source::Root(_) => String::new(),
            Source::Turn(turn) => turn.request_token(),
        };
        if request_id.is_empty() && turn_token.is_empty() {
            // The connection's own retries need one.
            request_id = Uuid::new_v4().to_string();
        }
        if event.id.is_empty() {
            // A request that is repeated tells the same id.
            event.id = Uuid::new_v4().to_string();
        }
        Ok(proto::PublishRequest {
            topic: self.name.clone(),
            event: Some(event),
            partition_key: key,
            request_id,
            turn_token,
        })
    }
}

impl Topic {
    /// Follows the topic; see [`Consume`].
    pub fn consume(&self) -> Consume {
        Consume::new(self.origin.0.handle().sidecar().clone(), self.name.clone())
    }
}

impl<S> fmt::Debug for Topic<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Topic").field(&self.name).finish()
    }
}

// === impl NewEvent ===

impl NewEvent {
    /// An event of a type (`order.created`, say) with data.
    pub fn new<T: Encode + ?Sized>(kind: impl Into<String>, data: &T) -> Self {
        Self {
            event: proto::Event { r#type: kind.into(), ..Default::default() },
            data: data.encode(),
            key: String::new(),
            request_id: String::new(),
        }
    }

    /// Events with the same key stay in order.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = key.into();
        self
    }

    /// Published again with the same id by any process of the application, it is published once.
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request_id = id.into();
        self
    }

    /// Its id, instead of a new one.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.event.id = id.into();
        self
    }

    /// Who publishes, a URI reference, instead of `/APPLICATION/NODE`.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.event.source = source.into();
        self
    }

    /// Its subject within the source.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.event.subject = subject.into();
        self
    }

    /// When it has happened, instead of now.
    pub fn time(mut self, time: SystemTime) -> Self {
        self.event.time = Some(time.into());
        self
    }

    /// Schema of its data, a URI.
    pub fn data_schema(mut self, schema: impl Into<String>) -> Self {
        self.event.data_schema = schema.into();
        self
    }

    /// An extension attribute: 1 to 20 of `a-z 0-9`.
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.event.attributes.insert(name.into(), value.into());
        self
    }
}

// === impl Event ===

impl Event {
    /// Its data, read.
    ///
    /// # Errors
    /// They are none of `T`.
    pub fn data<T: Decode>(&self) -> Result<T, CodecError> {
        T::decode(self.data.clone())
    }

    /// Its data as they are.
    #[must_use]
    pub fn payload(&self) -> &Payload {
        &self.data
    }

    fn from_proto(event: proto::Event) -> Self {
        let data = Payload::from_proto(event.data.clone());
        Self::with_data(event, data)
    }
}

impl<T> Event<T> {
    fn with_data(event: proto::Event, data: T) -> Self {
        let some = |text: String| (!text.is_empty()).then_some(text);
        Self {
            id: event.id,
            source: event.source,
            kind: event.r#type,
            subject: some(event.subject),
            // A time before the clock's beginning has no form here.
            time: event.time.and_then(|time| SystemTime::try_from(time).ok()),
            data_schema: some(event.data_schema),
            attributes: event.attributes.into_iter().collect(),
            data,
        }
    }
}

impl<T: Decode> Decode for Event<T> {
    fn decode(_: Payload) -> Result<Self, CodecError> {
        Err(CodecError::new(format!(
            "expected an event of a topic with data of {}: subscribe the method, or publish an event",
            name::<T>()
        )))
    }

    fn decode_argument(
        payload: Payload,
        event: Option<&proto::EventDelivery>,
    ) -> Result<Self, CodecError> {
        match event.and_then(|delivery| delivery.event.clone()) {
            Some(event) => Ok(Self::with_data(event, T::decode(payload)?)),
            None => Self::decode(payload),
        }
    }
}

/// Its data only: what is not delivered has no attributes.
impl<T: Encode> Encode for Event<T> {
    fn encode(&self) -> Result<Payload, CodecError> {
        self.data.encode()
    }
}

// === impl Delivery ===

impl Delivery {
    pub(crate) fn from_proto(delivery: &proto::EventDelivery) -> Self {
        Self {
            subscription: delivery.subscription.clone(),
            topic: delivery.topic.clone(),
            position: delivery.position.clone(),
        }
    }
}

// === impl Published ===

impl Published {
    fn from_proto(answer: proto::PublishResponse) -> Self {
        Self { id: answer.event_id, position: answer.position, again: answer.repeated_request }
    }
}
