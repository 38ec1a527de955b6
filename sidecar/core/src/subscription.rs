//! Subscriptions: which events of a topic are delivered to whom, and how (design section 10; `docs/adr/0009`).
//!
//! A subscription lives in a partition of the system kind [`Kind::subscriptions`] of its application, by the hash of
//! its name. Its owner reads the topic, and delivers each event that is wanted as a tell, over a channel whose numbers
//! are the offsets.
//!
//! Longer than most: the types of commands, reads and lists are the interface to drivers, and are read together.

use std::sync::Arc;

use bytes::Bytes;

use crate::assign;
use crate::events::{CloudEvent, Filter, FilterError};
use crate::ids::{Kind, Millis, Offset, PartitionId, Uuid};
use crate::invocation::{RetryPolicy, Target};

/// Most partitions of a topic that somebody subscribes to.
pub const TOPIC_PARTITIONS_MAX: u32 = 256;

/// A topic as whoever names it has found it: one that is created anew under its name is another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicRef {
    /// Its name, for people.
    pub name: Arc<str>,
    /// Its id, never given again.
    pub id: Arc<str>,
    /// Its partitions, 1 to [`TOPIC_PARTITIONS_MAX`].
    pub partitions: u32,
}

/// What somebody who subscribes asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscriptionSpec {
    /// Its name: unique in the application, and the name of the group.
    pub name: Arc<str>,
    /// Where the events are.
    pub topic: TopicRef,
    /// Whom they go to.
    pub target: SubscriptionTarget,
    /// Method invoked.
    pub method: Arc<str>,
    /// Which ones are wanted; `None`: all.
    pub filter: Option<Filter>,
    /// Where it begins, as it was asked for: settings that say the same are the same, wherever that is by now.
    pub start: SubscriptionStart,
    /// The same by partition of the topic: the first offset that is wanted. As many as the topic has partitions.
    pub offsets: Vec<Offset>,
    /// Events of a topic partition that are under way and not accepted, at least 1 and at most
    /// `Limits::subscription_in_flight_max`.
    pub in_flight: u32,
    /// How retryable errors of the method are retried; `None`: as its host says.
    pub retry: Option<RetryPolicy>,
    /// Where events go that cannot be delivered, or whose invocation ends without success.
    pub dead_letter: Option<TopicRef>,
}

/// Whom events go to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SubscriptionTarget {
    /// Any host of a service.
    Service {
        /// The service's name.
        name: Arc<str>,
        /// Events with the same value of this attribute go to the same partition; those without it, and all if there
        /// is none, are spread.
        affinity: Option<Arc<str>>,
    },
    /// An actor.
    Actor {
        /// Its type's name.
        name: Arc<str>,
        /// Which instance.
        instance: Instance,
    },
}

/// Which instance of an actor type an event goes to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Instance {
    /// Always this one. The subscription ends with its removal.
    Fixed(Arc<str>),
    /// The one that this attribute of the event names.
    Attribute(Arc<str>),
}

/// Where a subscription begins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SubscriptionStart {
    /// With the first event that is kept.
    Earliest,
    /// With the next one that comes.
    Latest,
    /// With the first one that was appended at this time or later.
    Time(Millis),
}

/// What becomes of a subscription.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SubscriptionChange {
    /// It ends. Events that were accepted are carried through.
    Unsubscribe,
    /// It reads no more, and keeps its place. Events that were read before are delivered.
    Pause,
    /// It goes on from there.
    Resume,
}

/// A subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscription {
    /// New for each creation, and greater than those before it in its partition: the name of its channels.
    pub uuid: Uuid,
    /// How many partitions the target's kind has: fixed, so that each event goes to the same one for ever.
    pub target_partitions: u32,
    /// When it was asked for, by the clock of the node that was asked.
    pub created: Millis,
    /// What was asked for.
    pub spec: SubscriptionSpec,
}

/// A command from outside: an obligation that the owner itself carries out, at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscriptionCommand {
    /// Unique part of its id.
    pub uuid: Uuid,
    /// What is to be done.
    pub ask: SubscriptionAsk,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SubscriptionAsk {
    /// Subscribe, unless there is such a subscription.
    Subscribe {
        /// As it is wanted.
        spec: Arc<SubscriptionSpec>,
        /// How many partitions the target's kind has.
        target_partitions: u32,
    },
    /// Change the one with this name.
    Change {
        /// Its name.
        name: Arc<str>,
        /// How.
        change: SubscriptionChange,
    },
    /// An actor was removed: subscriptions to that instance that were created before end with it.
    ActorRemoved {
        /// The actor type.
        kind: Kind,
        /// The instance.
        actor: Arc<str>,
        /// When that was asked for, by the clock of the node that was asked.
        time: Millis,
    },
}

/// Subscriptions of one partition that are over: every channel of one that is older than `floor` is closed for ever,
/// but for those that are `open`. Newer ones never have lower names, so this is all that has to be remembered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SubscriptionFence {
    /// Lower names are closed …
    pub floor: Uuid,
    /// … but for these, ascending.
    pub open: Vec<Uuid>,
}

/// A subscription and how far it has come, for people and tools.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscriptionView {
    /// The subscription.
    pub subscription: Arc<Subscription>,
    /// It reads nothing.
    pub paused: bool,
    /// Its topic is deleted: it delivers nothing any more.
    pub topic_gone: bool,
    /// By number of the topic's partition.
    pub partitions: Vec<SubscriptionProgress>,
}

/// How far a subscription has come in a partition of its topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SubscriptionProgress {
    /// Every lower offset is done with: accepted by its target, passed over, or gone.
    pub floor: Offset,
    /// The offset that the next event will have, as it was seen last; 0: it has not been seen in this reign. The lag is
    /// `end - floor`.
    pub end: Offset,
    /// Events that are under way.
    pub under_way: u64,
    /// Events that its owner found gone by retention before they were delivered, in this reign.
    pub skipped: u64,
    /// Offset of an event that its owner does not understand, where it waits; 0: there is none.
    pub unreadable: Offset,
}

/// A read of a topic partition, so that its answer finds its way.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FetchId {
    /// The subscription's partition.
    pub partition: PartitionId,
    /// The subscription.
    pub subscription: Uuid,
    /// The partition of the topic.
    pub topic_partition: u32,
    /// Unique within one node.
    pub serial: u64,
}

/// What a read came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FetchResult {
    /// What there is; no events if none came in time.
    Events {
        /// By offset, ascending, none below the one asked for. What is missing between them does not exist.
        events: Vec<FetchedEvent>,
        /// Everything below this was read: the next read begins here. At least the offset asked for and `start`.
        next: Offset,
        /// Offset of the first event that is kept, or that the next one will have if there is none: what was asked for
        /// below it is gone.
        start: Offset,
        /// Offset that the next event will have.
        end: Offset,
    },
    /// There is no topic with that id (any more).
    Gone,
    /// The first event is not one that this version understands; the offset is its own. It is not passed over, and
    /// asked for again.
    Unreadable(Offset),
    /// Nobody could answer: it is asked again.
    Unavailable,
}

/// An event that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchedEvent {
    /// Its offset.
    pub offset: Offset,
    /// The event, for filters and the name of its target. Its data is not looked at.
    pub event: CloudEvent,
    /// The same as topics keep it: the payload of its delivery.
    pub stored: Bytes,
}

/// Why something is no subscription.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscriptionError {
    /// A text that names something is empty.
    #[error("{0} of a subscription is empty: give one")]
    Empty(&'static str),
    /// The number of partitions of a topic.
    #[error(
        "a topic has 1 to {TOPIC_PARTITIONS_MAX} partitions, and a subscription begins in each of them"
    )]
    Partitions,
    /// The number of events under way.
    #[error("in_flight must be 1 to {0} (subscription_in_flight_max)")]
    InFlight(usize),
    /// Its settings are too long.
    #[error("the settings of a subscription have more than {0} bytes: use a shorter filter")]
    TooLong(usize),
    /// Its filter.
    #[error("filter: {0}")]
    Filter(#[from] FilterError),
}

/// Where an event goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Destination {
    pub(crate) to: PartitionId,
    pub(crate) actor: Option<Arc<str>>,
}

/// Longest id of an actor that an event may name, bytes: the API's bound.
const ACTOR_ID_BYTES_MAX: usize = 512;

impl SubscriptionTarget {
    /// The kind that hosts it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service { name, .. } => Kind::service(name),
            Self::Actor { name, .. } => Kind::actor(name),
        }
    }
}

impl SubscriptionTarget {
    /// Whether both are the same service, or the same type or instance of actors.
    fn is_same_but_for_attributes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Service { name, .. }, Self::Service { name: theirs, .. }) => name == theirs,
            (Self::Actor { name, instance }, Self::Actor { name: theirs, instance: other }) => {
                let are_attributes =
                    matches!((instance, other), (Instance::Attribute(_), Instance::Attribute(_)));
                name == theirs && (are_attributes || instance == other)
            }
            _ => false,
        }
    }

    fn attribute_name(&self) -> &'static str {
        match self {
            Self::Service { .. } => "affinity_attribute",
            Self::Actor { .. } => "instance_attribute",
        }
    }
}

impl SubscriptionSpec {
    /// Whether it asks for the same as another one, wherever both begin by now.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.difference(other).is_none()
    }

    /// The first setting in which it differs from another one, as the contract names it.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        // Where they begin by now may differ.
        let Self {
            name,
            topic,
            target,
            method,
            filter,
            start,
            offsets: _,
            in_flight,
            retry,
            dead_letter,
        } = self;
        let settings = [
            ("name", *name == other.name),
            ("topic", *topic == other.topic),
            ("target", target.is_same_but_for_attributes(&other.target)),
            (target.attribute_name(), *target == other.target),
            ("method", *method == other.method),
            ("filter", *filter == other.filter),
            ("start", *start == other.start),
            ("in_flight", *in_flight == other.in_flight),
            ("retry_policy", *retry == other.retry),
            ("dead_letter_topic", *dead_letter == other.dead_letter),
        ];
        settings.into_iter().find(|(_, same)| !same).map(|(setting, _)| setting)
    }

    /// Whether it is one, within the bounds.
    pub(crate) fn check(
        &self,
        in_flight_max: usize,
        bytes_max: usize,
    ) -> Result<(), SubscriptionError> {
        let instance = match &self.target {
            SubscriptionTarget::Actor { instance, .. } => match instance {
                Instance::Fixed(text) | Instance::Attribute(text) => text,
            },
            SubscriptionTarget::Service { affinity, .. } => {
                affinity.as_ref().unwrap_or(&self.method)
            }
        };
        for (what, text) in [
            ("the name", &self.name),
            ("the topic", &self.topic.id),
            ("the method", &self.method),
            ("the instance or attribute", instance),
        ] {
            if text.is_empty() {
                return Err(SubscriptionError::Empty(what));
            }
        }
        let topics = [Some(&self.topic), self.dead_letter.as_ref()];
        let counts = |topic: &TopicRef| (1..=TOPIC_PARTITIONS_MAX).contains(&topic.partitions);
        let fits = self.offsets.len() == self.topic.partitions as usize;
        if !topics.into_iter().flatten().all(counts) || !fits {
            return Err(SubscriptionError::Partitions);
        }
        if !(1..=in_flight_max).contains(&(self.in_flight as usize)) {
            return Err(SubscriptionError::InFlight(in_flight_max));
        }
        if let Some(filter) = &self.filter {
            filter.check()?;
        }
        if self.size() > bytes_max {
            return Err(SubscriptionError::TooLong(bytes_max));
        }
        Ok(())
    }

    /// Whom an event is for.
    ///
    /// # Errors
    ///
    /// What is wrong with the event, for people: it names nobody.
    pub fn target_of(&self, event: &CloudEvent) -> Result<Target, &'static str> {
        let value = |name: &Arc<str>| event.attribute(name).map(|value| Arc::<str>::from(&*value));
        let (actor, affinity) = match &self.target {
            SubscriptionTarget::Service { affinity, .. } => {
                (None, affinity.as_ref().and_then(value))
            }
            SubscriptionTarget::Actor { instance: Instance::Fixed(actor), .. } => {
                (Some(actor.clone()), None)
            }
            SubscriptionTarget::Actor { instance: Instance::Attribute(name), .. } => {
                let actor = value(name).ok_or("it lacks the attribute that names the instance")?;
                if !(1..=ACTOR_ID_BYTES_MAX).contains(&actor.len()) {
                    return Err("the attribute that names the instance is no actor id");
                }
                (Some(actor), None)
            }
        };
        Ok(Target { kind: self.target.kind(), actor, affinity })
    }

    /// Whether its target is this instance and no other.
    pub(crate) fn is_of(&self, kind: &Kind, actor: &Arc<str>) -> bool {
        matches!(&self.target, SubscriptionTarget::Actor { instance: Instance::Fixed(fixed), .. }
            if fixed == actor)
            && self.target.kind() == *kind
    }
}

impl Subscription {
    /// The id of the invocation that delivers an event: whoever delivers it makes the same one.
    pub fn delivery(&self, topic_partition: u32, offset: Offset) -> Uuid {
        let place = (u128::from(topic_partition) << 64) | u128::from(offset);
        // A random number for each subscription, spread by two rounds of an odd multiplier; version 8 says "made up".
        let mixed = (self.uuid.0 ^ place.rotate_left(31)).wrapping_mul(MULTIPLIER);
        let mixed = (mixed ^ (mixed >> 64) ^ place).wrapping_mul(MULTIPLIER);
        let mixed = mixed ^ (mixed >> 67);
        Uuid((mixed & !((0xF << 76) | (0b11 << 62))) | (0x8 << 76) | (0b10 << 62))
    }

    /// Every partition that events may go to.
    pub(crate) fn receivers(&self) -> Vec<PartitionId> {
        let kind = self.spec.target.kind();
        if let SubscriptionTarget::Actor { instance: Instance::Fixed(actor), .. } =
            &self.spec.target
        {
            let target = Target { kind, actor: Some(actor.clone()), affinity: None };
            let index = assign::partition_index(&target, self.uuid, self.target_partitions);
            return vec![PartitionId::new(target.kind, index)];
        }
        let of = |index| PartitionId::new(kind.clone(), index);
        (0..self.target_partitions).map(of).collect()
    }

    /// Where an event goes.
    ///
    /// # Errors
    ///
    /// What is wrong with the event, for people: it can go nowhere.
    pub(crate) fn destination(
        &self,
        topic_partition: u32,
        offset: Offset,
        event: &CloudEvent,
    ) -> Result<Destination, &'static str> {
        let target = self.spec.target_of(event)?;
        let uuid = self.delivery(topic_partition, offset);
        let index = assign::partition_index(&target, uuid, self.target_partitions);
        let Target { kind, actor, .. } = target;
        Ok(Destination { to: PartitionId::new(kind, index), actor })
    }
}

impl SubscriptionCommand {
    /// Whether its sender waits for what comes of it: otherwise for its acceptance.
    pub fn is_awaited(&self) -> bool {
        !matches!(self.ask, SubscriptionAsk::ActorRemoved { .. })
    }
}

impl SubscriptionFence {
    /// Whether the channels of a subscription are closed.
    pub fn closes(&self, subscription: Uuid) -> bool {
        subscription < self.floor && self.open.binary_search(&subscription).is_err()
    }
}

/// Odd, with bits all over it.
const MULTIPLIER: u128 = 0xda94_2042_e4dd_58b5_94d0_49bb_1331_11eb;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::events::{Draft, EventTime};

    fn spec(target: SubscriptionTarget) -> SubscriptionSpec {
        SubscriptionSpec {
            name: "orders".into(),
            topic: TopicRef { name: "orders".into(), id: "t1".into(), partitions: 2 },
            target,
            method: "add".into(),
            filter: None,
            start: SubscriptionStart::Latest,
            offsets: vec![1, 5],
            in_flight: 10,
            retry: None,
            dead_letter: None,
        }
    }

    fn actor(instance: Instance) -> SubscriptionTarget {
        SubscriptionTarget::Actor { name: "Customer".into(), instance }
    }

    fn subscription(uuid: u128, target: SubscriptionTarget) -> Subscription {
        let spec = spec(target);
        Subscription { uuid: Uuid(uuid), target_partitions: 4, created: 7, spec }
    }

    fn event(customer: &str) -> CloudEvent {
        let attributes = [("customer".to_owned(), customer.to_owned())].into();
        let draft = Draft { attributes, ..Draft::default() };
        draft.complete(|| "1".into(), "/s", EventTime::default()).unwrap()
    }

    #[test]
    fn events_of_one_instance_go_to_one_partition_and_others_nowhere() {
        let by_customer = subscription(1, actor(Instance::Attribute("customer".into())));
        let to = |offset, who: &str| by_customer.destination(0, offset, &event(who));
        let first = to(1, "alice").unwrap();
        assert_eq!(first.actor.as_deref(), Some("alice"));
        assert_eq!(to(2, "alice"), Ok(first));
        assert!(to(3, &"a".repeat(ACTOR_ID_BYTES_MAX + 1)).is_err());
        let by_shop = subscription(1, actor(Instance::Attribute("shop".into())));
        assert!(by_shop.destination(0, 1, &event("alice")).is_err());
        let fixed = subscription(1, actor(Instance::Fixed("all".into())));
        let to = fixed.destination(1, 9, &event("alice")).unwrap();
        assert_eq!(fixed.receivers(), vec![to.to.clone()]);
        assert_eq!(by_customer.receivers().len(), 4);
        assert_eq!((to.actor.as_deref(), to.to.kind), (Some("all"), Kind::actor("Customer")));
    }

    #[test]
    fn services_get_events_of_one_key_in_one_partition_and_all_others_spread() {
        let service = |affinity: Option<&str>| {
            let affinity = affinity.map(Into::into);
            subscription(1, SubscriptionTarget::Service { name: "mail".into(), affinity })
        };
        let places = |subscription: &Subscription| {
            let place = |offset| subscription.destination(0, offset, &event("bob")).unwrap().to;
            (1..100).map(place).collect::<BTreeSet<_>>().len()
        };
        assert_eq!(places(&service(Some("customer"))), 1);
        assert_eq!(places(&service(None)), 4);
        assert_eq!(places(&service(Some("shop"))), 4);
    }

    #[test]
    fn each_event_is_one_invocation_of_each_subscription() {
        let mut all = BTreeSet::new();
        for (uuid, topic_partition) in [(1, 0), (1, 1), (2, 0), (1 << 64, 0)] {
            let subscription = subscription(uuid, actor(Instance::Fixed("x".into())));
            for offset in 1..1_000 {
                let uuid = subscription.delivery(topic_partition, offset);
                assert_eq!(((uuid.0 >> 76) & 0xF, (uuid.0 >> 62) & 0b11), (8, 0b10));
                assert!(all.insert(uuid), "{topic_partition}/{offset}");
            }
        }
    }

    #[test]
    fn what_begins_elsewhere_by_now_asks_for_the_same() {
        let own = spec(actor(Instance::Fixed("x".into())));
        let later = SubscriptionSpec { offsets: vec![8, 9], ..own.clone() };
        assert!(own.says_the_same(&later));
        let topic = TopicRef { id: "t2".into(), ..own.topic.clone() };
        assert!(!own.says_the_same(&SubscriptionSpec { topic, ..own.clone() }));
        assert!(!own.says_the_same(&SubscriptionSpec { in_flight: 11, ..own.clone() }));
    }

    #[test]
    fn what_differs_is_named() {
        let own = spec(actor(Instance::Attribute("x".into())));
        assert_eq!(own.difference(&own), None);
        let audit = || SubscriptionTarget::Service { name: "audit".into(), affinity: None };
        let topic = TopicRef { id: "t2".into(), ..own.topic.clone() };
        let retry =
            RetryPolicy { attempts_max: 3, initial_ms: 1, max_ms: 1, multiplier_percent: 100 };
        for (other, setting) in [
            (SubscriptionSpec { topic: topic.clone(), ..own.clone() }, "topic"),
            (spec(audit()), "target"),
            (spec(actor(Instance::Fixed("x".into()))), "target"),
            (spec(actor(Instance::Attribute("y".into()))), "instance_attribute"),
            (SubscriptionSpec { method: "other".into(), ..own.clone() }, "method"),
            (SubscriptionSpec { filter: Some(Filter::All(Vec::new())), ..own.clone() }, "filter"),
            (SubscriptionSpec { start: SubscriptionStart::Earliest, ..own.clone() }, "start"),
            (SubscriptionSpec { in_flight: 11, ..own.clone() }, "in_flight"),
            (SubscriptionSpec { retry: Some(retry), ..own.clone() }, "retry_policy"),
            (SubscriptionSpec { dead_letter: Some(topic), ..own.clone() }, "dead_letter_topic"),
        ] {
            assert_eq!(own.difference(&other), Some(setting));
        }
        let affine =
            SubscriptionTarget::Service { name: "audit".into(), affinity: Some("x".into()) };
        assert_eq!(spec(audit()).difference(&spec(affine)), Some("affinity_attribute"));
    }

    #[test]
    fn what_is_no_subscription_is_refused() {
        let own = spec(actor(Instance::Attribute("customer".into())));
        let check = |spec: &SubscriptionSpec| spec.check(100, 4_000);
        assert_eq!(check(&own), Ok(()));
        let all = Some(Filter::All(Vec::new()));
        let long = Some(Filter::Exact(vec![("type".into(), "x".repeat(1_000)); 4]));
        let none = TopicRef { partitions: 0, ..own.topic.clone() };
        for (spec, error) in [
            (
                SubscriptionSpec { name: "".into(), ..own.clone() },
                SubscriptionError::Empty("the name"),
            ),
            (
                spec(actor(Instance::Attribute("".into()))),
                SubscriptionError::Empty("the instance or attribute"),
            ),
            (SubscriptionSpec { offsets: vec![1], ..own.clone() }, SubscriptionError::Partitions),
            (
                SubscriptionSpec { dead_letter: Some(none), ..own.clone() },
                SubscriptionError::Partitions,
            ),
            (SubscriptionSpec { in_flight: 0, ..own.clone() }, SubscriptionError::InFlight(100)),
            (SubscriptionSpec { in_flight: 101, ..own.clone() }, SubscriptionError::InFlight(100)),
            (
                SubscriptionSpec { filter: all, ..own.clone() },
                SubscriptionError::Filter(FilterError::Empty),
            ),
            (SubscriptionSpec { filter: long, ..own.clone() }, SubscriptionError::TooLong(4_000)),
        ] {
            assert_eq!(check(&spec), Err(error));
        }
    }

    #[test]
    fn a_fence_closes_what_is_older_but_for_what_it_names() {
        let fence = SubscriptionFence { floor: Uuid(6), open: vec![Uuid(2), Uuid(4)] };
        let closed: Vec<_> = (1..9).filter(|uuid| fence.closes(Uuid(*uuid))).collect();
        assert_eq!(closed, [1, 3, 5]);
    }
}
