//! Requests about subscriptions, and the answers.

use std::sync::Arc;

use kar_core::events::Filter;
use kar_core::invocation::RetryPolicy;
use kar_core::limits::Limits;
use kar_core::subscription::{
    Instance, SubscriptionChange, SubscriptionStart, SubscriptionTarget, SubscriptionView,
};
use kar_proto::v1 as pb;
use pb::request::Operation as Ask;
use tonic::Status;

use super::event::{filter, filter_to, topic};
use super::field::{bounded, key, method, name};
use super::retry::{retry_policy, retry_policy_to};
use super::timestamp;
use crate::bus::TopicView;
use crate::convert::error::invalid_field;

/// Events of a partition of a topic under way, unless told otherwise.
const IN_FLIGHT: u32 = 256;
/// Subscriptions on a page, unless told otherwise, and at most.
const PAGE_SIZE: (usize, usize) = (100, 10_000);
/// Events sent back by one request, unless told otherwise, and at most.
const REDRIVE: (usize, usize) = (1_000, 10_000);
/// Longest name of an attribute, bytes.
const ATTRIBUTE_BYTES_MAX: usize = 64;

/// A request about subscriptions, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Named after the requests.
pub enum SubscriptionOperation {
    Subscribe(Box<Wanted>),
    Change { name: Arc<str>, change: SubscriptionChange },
    List { name: Option<Arc<str>>, page_size: usize, after: String },
    Redrive { name: Arc<str>, max: usize },
}

/// A subscription that is wanted, before its topics were looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: Arc<str>,
    /// Name of its topic.
    pub topic: String,
    /// Whom events go to.
    pub target: SubscriptionTarget,
    /// Method invoked.
    pub method: Arc<str>,
    /// Which events.
    pub filter: Option<Filter>,
    /// Where it begins.
    pub start: SubscriptionStart,
    /// Events under way.
    pub in_flight: u32,
    /// How errors are retried.
    pub retry: Option<RetryPolicy>,
    /// Name of the topic of its dead letters.
    pub dead_letter: Option<String>,
}

/// Parses a request about subscriptions.
pub(super) fn operation(ask: Ask, limits: &Limits) -> Result<SubscriptionOperation, Status> {
    let change = |text: &str, change| {
        Ok(SubscriptionOperation::Change { name: name("name", text)?.into(), change })
    };
    match ask {
        Ask::Subscribe(r) => {
            let wanted =
                r.subscription.ok_or_else(|| invalid_field("subscription", "is missing"))?;
            Ok(SubscriptionOperation::Subscribe(Box::new(self::wanted(wanted, limits)?)))
        }
        Ask::Unsubscribe(r) => change(&r.name, SubscriptionChange::Unsubscribe),
        Ask::PauseSubscription(r) => change(&r.name, SubscriptionChange::Pause),
        Ask::ResumeSubscription(r) => change(&r.name, SubscriptionChange::Resume),
        Ask::ListSubscriptions(r) => {
            let page_size = match usize::try_from(r.page_size) {
                Ok(0) => PAGE_SIZE.0,
                Ok(size) => size.min(PAGE_SIZE.1),
                Err(_) => return Err(invalid_field("page_size", "must not be negative")),
            };
            let named = (!r.name.is_empty()).then(|| name("name", &r.name).map(Arc::from));
            let after = bounded("page_token", r.page_token, 128)?;
            Ok(SubscriptionOperation::List { name: named.transpose()?, page_size, after })
        }
        Ask::RedriveSubscription(r) => {
            let max = match usize::try_from(r.max_events) {
                Ok(0) => REDRIVE.0,
                Ok(max) => max.min(REDRIVE.1),
                Err(_) => return Err(invalid_field("max_events", "must not be negative")),
            };
            Ok(SubscriptionOperation::Redrive { name: name("name", &r.name)?.into(), max })
        }
        _ => Err(Status::internal("no request about subscriptions")),
    }
}

fn wanted(s: pb::Subscription, limits: &Limits) -> Result<Wanted, Status> {
    let own_name: Arc<str> = name("subscription.name", &s.name)?.into();
    let filter = s.filter.map(|f| -> Result<Filter, Status> {
        let filter = filter("subscription.filter", f)?;
        let checked = filter.check();
        checked.map_err(|error| invalid_field("subscription.filter", &error.to_string()))?;
        Ok(filter)
    });
    let in_flight = match u32::try_from(s.in_flight) {
        // What the sidecar allows may be less.
        Ok(0) => {
            IN_FLIGHT.min(u32::try_from(limits.subscription_in_flight_max).unwrap_or(IN_FLIGHT))
        }
        Ok(count) => count,
        Err(_) => return Err(invalid_field("subscription.in_flight", "must not be negative")),
    };
    let policy = s.retry_policy.as_ref();
    let retry = policy.map(|p| retry_policy("subscription.retry_policy", p, limits)).transpose()?;
    let dead_letter = match s.dead_letter_topic {
        text if text.is_empty() => None,
        text => Some(topic("subscription.dead_letter_topic", text)?),
    };
    if dead_letter.as_ref() == Some(&s.topic) {
        let what = "must be another topic: what fails would come again for ever";
        return Err(invalid_field("subscription.dead_letter_topic", what));
    }
    Ok(Wanted {
        name: own_name,
        topic: topic("subscription.topic", s.topic)?,
        target: target(s.target, s.instance_attribute, s.affinity_attribute)?,
        method: method(s.method)
            .map_err(|_| invalid_field("subscription.method", "must have 1 to 256 bytes"))?,
        filter: filter.transpose()?,
        start: start(s.start)?,
        in_flight,
        retry,
        dead_letter,
    })
}

fn target(
    target: Option<pb::Target>,
    instance: String,
    affinity: String,
) -> Result<SubscriptionTarget, Status> {
    use pb::target::Kind as K;
    const INSTANCE: &str = "subscription.instance_attribute";
    const AFFINITY: &str = "subscription.affinity_attribute";
    let attribute = |field: &str, text: String| match text {
        text if text.is_empty() => Ok(None),
        text => attribute(field, &text).map(Some),
    };
    let (instance, affinity) = (attribute(INSTANCE, instance)?, attribute(AFFINITY, affinity)?);
    match target.and_then(|target| target.kind) {
        None => Err(invalid_field("subscription.target", "is missing")),
        Some(K::Service(service)) => {
            if instance.is_some() {
                return Err(invalid_field(INSTANCE, "is for actors: a service has no instances"));
            }
            if !service.affinity_key.is_empty() {
                let what = "must be empty: see affinity_attribute";
                return Err(invalid_field("subscription.target.service.affinity_key", what));
            }
            let name = name("subscription.target.service.name", &service.name)?.into();
            Ok(SubscriptionTarget::Service { name, affinity })
        }
        Some(K::Actor(actor)) => {
            if affinity.is_some() {
                return Err(invalid_field(AFFINITY, "is for services: an actor has its place"));
            }
            let name = name("subscription.target.actor.type", &actor.r#type)?.into();
            let id_field = "subscription.target.actor.id";
            let instance = match (actor.id.is_empty(), instance) {
                (false, None) => Instance::Fixed(key(id_field, &actor.id)?),
                (true, Some(attribute)) => Instance::Attribute(attribute),
                (true, None) => {
                    let what = "is missing (or, for the instance that each event names, \
                                instance_attribute)";
                    return Err(invalid_field(id_field, what));
                }
                (false, Some(_)) => {
                    return Err(invalid_field(id_field, "must be empty with instance_attribute"));
                }
            };
            Ok(SubscriptionTarget::Actor { name, instance })
        }
    }
}

fn attribute(field: &str, text: &str) -> Result<Arc<str>, Status> {
    let fits = (1..=ATTRIBUTE_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if fits && text != "data" {
        return Ok(text.into());
    }
    Err(invalid_field(field, "must be the name of an attribute: a-z 0-9, not data"))
}

fn start(start: Option<pb::SubscriptionStart>) -> Result<SubscriptionStart, Status> {
    use pb::subscription_start::Start as S;
    let Some(start) = start else { return Ok(SubscriptionStart::Earliest) };
    let must_be_true = |field: &str| Err(invalid_field(field, "must be true"));
    match start.start {
        Some(S::Earliest(true)) => Ok(SubscriptionStart::Earliest),
        Some(S::Latest(true)) => Ok(SubscriptionStart::Latest),
        Some(S::Earliest(false)) => must_be_true("subscription.start.earliest"),
        Some(S::Latest(false)) => must_be_true("subscription.start.latest"),
        Some(S::Time(time)) => {
            let seconds = u64::try_from(time.seconds).unwrap_or(0);
            let millis = u64::try_from(time.nanos).unwrap_or(0) / 1_000_000;
            let time = seconds.saturating_mul(1_000).saturating_add(millis);
            Ok(SubscriptionStart::Time(time))
        }
        None => {
            Err(invalid_field("subscription.start", "must say where: earliest, latest or time"))
        }
    }
}

/// A subscription for people and components, with its topic as it is now, if it is still there.
pub fn subscription_to(view: &SubscriptionView, topic: Option<&TopicView>) -> pb::SubscriptionInfo {
    use pb::SubscriptionState as State;
    let spec = &view.subscription.spec;
    let mut lag = 0;
    let partitions = view.partitions.iter().enumerate().map(|(at, progress)| {
        let now = topic.and_then(|topic| topic.partitions.get(at));
        let end = now.map_or(progress.end, |partition| partition.end.max(progress.end));
        let floor = now.map_or(progress.floor, |partition| partition.start.max(progress.floor));
        let behind = signed(end.saturating_sub(floor));
        lag += behind;
        pb::SubscriptionProgress {
            floor: signed(progress.floor),
            lag: behind,
            in_flight: signed(progress.under_way),
            skipped: signed(progress.skipped),
            unreadable: signed(progress.unreadable),
        }
    });
    let partitions = partitions.collect();
    let blocked = view.partitions.iter().any(|progress| progress.unreadable > 0);
    let state = match (view.topic_gone || topic.is_none(), view.paused) {
        (true, _) => State::TopicDeleted,
        (false, true) => State::Paused,
        (false, false) if blocked => State::Blocked,
        (false, false) => State::Active,
    };
    pb::SubscriptionInfo {
        subscription: Some(settings_to(view)),
        state: state.into(),
        topic_id: spec.topic.id.to_string(),
        create_time: Some(timestamp(view.subscription.created)),
        lag,
        partitions,
    }
}

fn settings_to(view: &SubscriptionView) -> pb::Subscription {
    use pb::subscription_start::Start as S;
    let spec = &view.subscription.spec;
    let (mut instance_attribute, mut affinity_attribute) = (String::new(), String::new());
    let kind = match &spec.target {
        SubscriptionTarget::Service { name, affinity } => {
            affinity_attribute = affinity.as_deref().unwrap_or_default().to_owned();
            let affinity_key = String::new();
            pb::target::Kind::Service(pb::ServiceTarget { name: name.to_string(), affinity_key })
        }
        SubscriptionTarget::Actor { name, instance } => {
            let id = match instance {
                Instance::Fixed(id) => id.to_string(),
                Instance::Attribute(attribute) => {
                    instance_attribute = attribute.to_string();
                    String::new()
                }
            };
            pb::target::Kind::Actor(pb::ActorTarget { r#type: name.to_string(), id })
        }
    };
    let start = match spec.start {
        SubscriptionStart::Earliest => S::Earliest(true),
        SubscriptionStart::Latest => S::Latest(true),
        SubscriptionStart::Time(time) => S::Time(timestamp(time)),
    };
    pb::Subscription {
        name: spec.name.to_string(),
        topic: spec.topic.name.to_string(),
        target: Some(pb::Target { kind: Some(kind) }),
        method: spec.method.to_string(),
        instance_attribute,
        affinity_attribute,
        filter: spec.filter.as_ref().map(filter_to),
        start: Some(pb::SubscriptionStart { start: Some(start) }),
        in_flight: i32::try_from(spec.in_flight).unwrap_or(i32::MAX),
        retry_policy: spec.retry.as_ref().map(retry_policy_to),
        dead_letter_topic: spec
            .dead_letter
            .as_ref()
            .map(|topic| topic.name.to_string())
            .unwrap_or_default(),
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(subscription: pb::Subscription) -> Result<Wanted, Status> {
        let ask = Ask::Subscribe(pb::SubscribeRequest { subscription: Some(subscription) });
        match operation(ask, &Limits::default())? {
            SubscriptionOperation::Subscribe(wanted) => Ok(*wanted),
            other => panic!("{other:?}"),
        }
    }

    fn actor(id: &str) -> Option<pb::Target> {
        let actor = pb::ActorTarget { r#type: "A".into(), id: id.into() };
        Some(pb::Target { kind: Some(pb::target::Kind::Actor(actor)) })
    }

    fn service() -> Option<pb::Target> {
        let service = pb::ServiceTarget { name: "s".into(), affinity_key: String::new() };
        Some(pb::Target { kind: Some(pb::target::Kind::Service(service)) })
    }

    fn good() -> pb::Subscription {
        pb::Subscription {
            name: "n".into(),
            topic: "t".into(),
            target: actor("1"),
            method: "m".into(),
            ..Default::default()
        }
    }

    #[test]
    fn what_is_left_out_is_the_default() {
        let wanted = asked(good()).expect("a subscription");
        assert_eq!(wanted.start, SubscriptionStart::Earliest);
        assert_eq!((wanted.in_flight, wanted.retry, wanted.dead_letter), (IN_FLIGHT, None, None));
        let target =
            SubscriptionTarget::Actor { name: "A".into(), instance: Instance::Fixed("1".into()) };
        assert_eq!(wanted.target, target);
    }

    #[test]
    fn the_wrong_field_is_named() {
        let deep = |depth: usize| {
            let none = pb::EventFilter { dialect: None };
            (0..depth).fold(none, |inner, _| pb::EventFilter {
                dialect: Some(pb::event_filter::Dialect::NotMatching(Box::new(inner))),
            })
        };
        let s = "subscription.";
        for (wrong, field) in [
            (pb::Subscription { name: " ".into(), ..good() }, "name"),
            (pb::Subscription { topic: String::new(), ..good() }, "topic"),
            (pb::Subscription { target: None, ..good() }, "target"),
            (pb::Subscription { target: actor(""), ..good() }, "target.actor.id"),
            (
                pb::Subscription { instance_attribute: "subject".into(), ..good() },
                "target.actor.id",
            ),
            (
                pb::Subscription { instance_attribute: "Data".into(), ..good() },
                "instance_attribute",
            ),
            (
                pb::Subscription { affinity_attribute: "subject".into(), ..good() },
                "affinity_attribute",
            ),
            (
                pb::Subscription {
                    target: service(),
                    instance_attribute: "subject".into(),
                    ..good()
                },
                "instance_attribute",
            ),
            (pb::Subscription { method: String::new(), ..good() }, "method"),
            (pb::Subscription { filter: Some(deep(0)), ..good() }, "filter"),
            (pb::Subscription { filter: Some(deep(2)), ..good() }, "filter"),
            (pb::Subscription { start: Some(Default::default()), ..good() }, "start"),
            (pb::Subscription { in_flight: -1, ..good() }, "in_flight"),
            (pb::Subscription { dead_letter_topic: "t".into(), ..good() }, "dead_letter_topic"),
        ] {
            let status = asked(wrong).expect_err(field);
            let wanted = format!("{s}{field}");
            assert!(status.message().starts_with(&wanted), "{wanted}: {}", status.message());
        }
    }
}
