//! Subscriptions: events that are delivered to methods.

use std::time::SystemTime;

use kar_proto::v1 as proto;
use proto::subscription_start::Start as Wire;

use super::{EventFilter, Start};
use crate::call::RetryPolicy;
use crate::error::CallError;
use crate::stream::{Answer, Handle, Operation};

/// Subscriptions asked for at once.
const PAGE_SIZE: i32 = 1_000;

/// What is to be delivered to whom: each event of a topic that is wanted, as a tell, once, those of one partition of
/// the topic in order up to each actor's queue.
///
/// ```no_run
/// # use kar_sdk::{CallError, Client, EventFilter, Start, Subscription};
/// # async fn f(client: &Client) -> Result<(), CallError> {
/// // `ordered` of the Customer that each event's subject names.
/// let totals = Subscription::new("totals", "orders").to_actors("Customer", "subject", "ordered");
/// client.subscribe(totals.filter(EventFilter::exact("type", "order.created"))).await?;
/// // `record` of the service `audit`, for what comes from now on.
/// let audit = Subscription::new("audit", "orders").to_service("audit", "record").start(Start::Latest);
/// client.subscribe(audit.dead_letter_topic("orders.failed")).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Debug)]
#[must_use = "nothing is subscribed before `Client::subscribe`"]
pub struct Subscription(proto::Subscription);

/// A subscription that there is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Subscribed {
    /// Its name.
    pub name: String,
    /// Its topic.
    pub topic: String,
    /// The method.
    pub method: String,
    /// What it does.
    pub state: SubscriptionState,
    /// Events of the topic that are not done with, those included that its filter will pass over.
    pub lag: u64,
    /// When it was created.
    pub created: Option<SystemTime>,
}

/// What a subscription does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SubscriptionState {
    /// It delivers events.
    Active,
    /// It keeps its place and reads nothing.
    Paused,
    /// Its topic was deleted: it delivers nothing any more.
    TopicDeleted,
    /// It waits at an event that its owner's version does not understand; other partitions of its topic are delivered.
    Blocked,
}

// === impl Subscription ===

impl Subscription {
    /// A subscription of a topic, by its name, which is unique in the application. Whom it delivers to has to be said:
    /// [`to_actors`](Self::to_actors), [`to_actor`](Self::to_actor) or [`to_service`](Self::to_service).
    pub fn new(name: impl Into<String>, topic: impl Into<String>) -> Self {
        Self(proto::Subscription {
            name: name.into(),
            topic: topic.into(),
            ..proto::Subscription::default()
        })
    }

    /// To a method of the actor of this type that an attribute of the event names: `subject` or `partitionkey`, say.
    pub fn to_actors(
        mut self,
        actor_type: impl Into<String>,
        attribute: impl Into<String>,
        method: impl Into<String>,
    ) -> Self {
        self.0.instance_attribute = attribute.into();
        self.actor(actor_type.into(), String::new(), method.into())
    }

    /// To a method of one actor. The subscription ends when the actor is removed.
    pub fn to_actor(
        mut self,
        actor_type: impl Into<String>,
        id: impl Into<String>,
        method: impl Into<String>,
    ) -> Self {
        self.0.instance_attribute.clear();
        self.actor(actor_type.into(), id.into(), method.into())
    }

    /// To a method of a service.
    pub fn to_service(mut self, service: impl Into<String>, method: impl Into<String>) -> Self {
        let target = proto::ServiceTarget { name: service.into(), affinity_key: String::new() };
        let kind = Some(proto::target::Kind::Service(target));
        self.0.target = Some(proto::Target { kind });
        self.0.method = method.into();
        self.0.instance_attribute.clear();
        self
    }

    /// Only these events.
    pub fn filter(mut self, filter: EventFilter) -> Self {
        self.0.filter = Some(filter.0);
        self
    }

    /// Where it begins; with the earliest event if not said.
    pub fn start(mut self, start: Start) -> Self {
        let start = match start {
            Start::Earliest => Wire::Earliest(true),
            Start::Latest => Wire::Latest(true),
            Start::Time(time) => Wire::Time(time.into()),
        };
        self.0.start = Some(proto::SubscriptionStart { start: Some(start) });
        self
    }

    /// Events of one partition of the topic that may be on their way to targets that have not accepted them yet.
    pub fn in_flight(mut self, count: u16) -> Self {
        self.0.in_flight = count.into();
        self
    }

    /// How errors are retried that the method marks retryable.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.0.retry_policy = Some(policy.into_proto());
        self
    }

    /// Where events go whose delivery ends without success; otherwise they become dead letters as other tells do.
    pub fn dead_letter_topic(mut self, topic: impl Into<String>) -> Self {
        self.0.dead_letter_topic = topic.into();
        self
    }

    /// Of services: events with the same value of this attribute are handled by the same owner while it lives.
    pub fn affinity(mut self, attribute: impl Into<String>) -> Self {
        self.0.affinity_attribute = attribute.into();
        self
    }

    fn actor(mut self, actor_type: String, id: String, method: String) -> Self {
        let target = proto::ActorTarget { r#type: actor_type, id };
        let kind = Some(proto::target::Kind::Actor(target));
        self.0.target = Some(proto::Target { kind });
        self.0.method = method;
        self
    }
}

// === impl Subscribed ===

impl Subscribed {
    fn from_proto(info: proto::SubscriptionInfo) -> Self {
        let state = match info.state() {
            proto::SubscriptionState::Paused => SubscriptionState::Paused,
            proto::SubscriptionState::TopicDeleted => SubscriptionState::TopicDeleted,
            proto::SubscriptionState::Blocked => SubscriptionState::Blocked,
            proto::SubscriptionState::Active | proto::SubscriptionState::Unspecified => {
                SubscriptionState::Active
            }
        };
        let subscription = info.subscription.unwrap_or_default();
        Self {
            name: subscription.name,
            topic: subscription.topic,
            method: subscription.method,
            state,
            lag: u64::try_from(info.lag).unwrap_or(0),
            created: info.create_time.and_then(|time| SystemTime::try_from(time).ok()),
        }
    }
}

pub(crate) async fn subscribe(
    handle: &Handle,
    subscription: Subscription,
) -> Result<bool, CallError> {
    let request = proto::SubscribeRequest { subscription: Some(subscription.0) };
    match handle.request(Operation::Subscribe(request)).await? {
        Answer::Subscribe(answer) => Ok(answer.created),
        _ => Err(CallError::mismatch("subscribe")),
    }
}

pub(crate) async fn unsubscribe(handle: &Handle, name: String) -> Result<bool, CallError> {
    let request = proto::UnsubscribeRequest { name };
    match handle.request(Operation::Unsubscribe(request)).await? {
        Answer::Unsubscribe(answer) => Ok(answer.existed),
        _ => Err(CallError::mismatch("unsubscribe")),
    }
}

pub(crate) async fn pause(handle: &Handle, name: String) -> Result<bool, CallError> {
    let request = proto::PauseSubscriptionRequest { name };
    match handle.request(Operation::PauseSubscription(request)).await? {
        Answer::PauseSubscription(answer) => Ok(answer.changed),
        _ => Err(CallError::mismatch("pause_subscription")),
    }
}

pub(crate) async fn resume(handle: &Handle, name: String) -> Result<bool, CallError> {
    let request = proto::ResumeSubscriptionRequest { name };
    match handle.request(Operation::ResumeSubscription(request)).await? {
        Answer::ResumeSubscription(answer) => Ok(answer.changed),
        _ => Err(CallError::mismatch("resume_subscription")),
    }
}

pub(crate) async fn redrive(handle: &Handle, name: String) -> Result<usize, CallError> {
    let request = proto::RedriveSubscriptionRequest { name, max_events: 0 };
    match handle.request(Operation::RedriveSubscription(request)).await? {
        Answer::RedriveSubscription(answer) => {
            usize::try_from(answer.redriven).map_err(|_| CallError::mismatch("redriven"))
        }
        _ => Err(CallError::mismatch("redrive_subscription")),
    }
}

pub(crate) async fn list(handle: &Handle) -> Result<Vec<Subscribed>, CallError> {
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = proto::ListSubscriptionsRequest {
            name: String::new(),
            page_size: PAGE_SIZE,
            page_token,
        };
        let Answer::ListSubscriptions(page) =
            handle.request(Operation::ListSubscriptions(request)).await?
        else {
            return Err(CallError::mismatch("list_subscriptions"));
        };
        found.extend(page.subscriptions.into_iter().map(Subscribed::from_proto));
        if page.next_page_token.is_empty() {
            return Ok(found);
        }
        page_token = page.next_page_token;
    }
}
