//! `delivered-once`, `event-order` (with P7), `lag`, and that a subscription does what it says: by the logs of
//! subscriptions and of their receivers, and by what was in the topic when.
//!
//! Longer than most: the model and everything that changes or asks it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use kar_core::assign::partition_index;
use kar_core::effect::{RequestError, Response};
use kar_core::events::{CloudEvent, Filter};
use kar_core::ids::{Epoch, Kind, Millis, NodeId, Number, Offset, PartitionId, Sender, Uuid};
use kar_core::invocation::{Invocation, Outcome, Owed, RetryPolicy, Target};
use kar_core::record::{Publish, Segment, Send, SubscriptionOp};
use kar_core::subscription::{
    Instance, Subscription, SubscriptionAsk, SubscriptionChange, SubscriptionCommand,
    SubscriptionFence, SubscriptionTarget,
};

use super::Judge;
use super::model::{Ended, Held, QueuedBy};
use crate::history::Answer;
use crate::plan::{MS, Us};
use crate::script::Spec;
use crate::subscribe::{SubWhat, delivery_tag, name_of, tag_of};

/// Subscriptions, and the topics that they read.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventsModel {
    /// By id and partition of the topic, in order, with the time.
    events: BTreeMap<(Arc<str>, u32), Published>,
    /// Lower events are gone.
    starts: HashMap<(Arc<str>, u32), Offset>,
    subscriptions: BTreeMap<Uuid, SubscriptionModel>,
    /// Which ones there are, by log and name.
    names: HashMap<(usize, Arc<str>), Uuid>,
    /// The newest of each log.
    newest: HashMap<usize, Uuid>,
    /// What each log has closed, by who sent it.
    fences: HashMap<(usize, PartitionId), SubscriptionFence>,
    /// Invocations that deliver events.
    deliveries: HashSet<Uuid>,
    /// Removals of actors that subscriptions are told of, by the command that tells them: type, instance, time.
    removed: HashMap<Uuid, (Kind, Arc<str>, Millis)>,
    /// How those are retried that subscriptions deliver.
    policies: HashMap<Uuid, Option<RetryPolicy>>,
}

/// Events of a partition, in order, and when they were published.
type Published = Vec<(Us, CloudEvent)>;

/// A subscription by its log.
#[derive(Clone, Debug)]
struct SubscriptionModel {
    log: usize,
    subscription: Arc<Subscription>,
    ended: bool,
    /// Since when it has been paused.
    paused: Option<Us>,
    /// What receivers have accepted.
    accepted: BTreeSet<(u32, Offset)>,
    /// What the reign has sent, and nobody has accepted: bytes.
    under_way: BTreeMap<(Epoch, u32, Offset), usize>,
    floors: Vec<Offset>,
}

impl SubscriptionModel {
    /// Who is to get an event; none: nobody wants it.
    fn wants(&self, event: &CloudEvent) -> bool {
        self.subscription.spec.filter.as_ref().is_none_or(|filter| wants(filter, event))
    }

    /// The instance that an event goes to; an error if it names none.
    fn instance(&self, event: &CloudEvent) -> Result<Option<Arc<str>>, ()> {
        match &self.subscription.spec.target {
            SubscriptionTarget::Service { .. } => Ok(None),
            SubscriptionTarget::Actor { instance: Instance::Fixed(actor), .. } => {
                Ok(Some(actor.clone()))
            }
            SubscriptionTarget::Actor { instance: Instance::Attribute(name), .. } => {
                event.attributes.get(&**name).map(|actor| Some(actor.as_str().into())).ok_or(())
            }
        }
    }

    fn topic(&self) -> Arc<str> {
        self.subscription.spec.topic.id.clone()
    }
}

/// The filters that clients use, read by themselves.
fn wants(filter: &Filter, event: &CloudEvent) -> bool {
    match filter {
        Filter::Exact(wanted) => {
            wanted.iter().all(|(name, kind)| name == "type" && *kind == event.kind)
        }
        Filter::Not(filter) => !wants(filter, event),
        other => unreachable!("nobody uses {other:?}"),
    }
}

// The topic.
impl Judge<'_> {
    /// An event is in the topic that is subscribed to.
    pub(super) fn source_event(&mut self, id: &Arc<str>, partition: u32, event: &CloudEvent) {
        let events = self.events.events.entry((id.clone(), partition)).or_default();
        events.push((self.now, event.clone()));
    }

    /// Events have gone by retention.
    pub(super) fn source_trimmed(&mut self, id: &Arc<str>, partition: u32, start: Offset) {
        self.events.starts.insert((id.clone(), partition), start);
    }

    fn event(&self, topic: &Arc<str>, partition: u32, offset: Offset) -> Option<&(Us, CloudEvent)> {
        let events = self.events.events.get(&(topic.clone(), partition))?;
        events.get(offset.checked_sub(1)? as usize)
    }

    /// The topic of a log's subscription of a name.
    pub(super) fn topic_of(&self, log: usize, name: &Arc<str>) -> Option<Arc<str>> {
        let uuid = self.events.names.get(&(log, name.clone()))?;
        self.events.subscriptions.get(uuid).map(SubscriptionModel::topic)
    }

    /// Whether an event is there no more: of its topic, or by retention.
    pub(super) fn is_event_gone(&self, topic: &Arc<str>, partition: u32, offset: Offset) -> bool {
        let start = self.events.starts.get(&(topic.clone(), partition)).copied().unwrap_or(1);
        self.topic_is_gone(topic) || offset < start
    }
}

// What is delivered.
impl Judge<'_> {
    /// Whether an invocation delivers an event.
    pub(crate) fn is_delivery(&self, uuid: Uuid) -> bool {
        self.events.deliveries.contains(&self.original(uuid))
    }

    /// How the subscription says that an invocation is retried, if it is one of a subscription.
    pub(super) fn subscribed_policy(&self, uuid: Uuid) -> Option<Option<RetryPolicy>> {
        self.events.policies.get(&self.original(uuid)).copied()
    }

    pub(super) fn meet_delivery(&mut self, uuid: Uuid) {
        self.events.deliveries.insert(uuid);
    }

    /// A node sends an event: it is the current owner, or does not know yet that it is not.
    pub(super) fn event_sent(&mut self, from: NodeId, sender: &Sender, owed: &Owed) {
        let Sender::Subscription { partition, subscription, .. } = sender else { return };
        let log = self.log_of(partition);
        let Some(model) = self.events.subscriptions.get(subscription) else {
            let text = format!("{from:?} delivers for {subscription}, which is not committed");
            return self.wrong("P5 gate for requests", text);
        };
        let is_owner = self.logs[log].owner == Some(from) && !self.logs[log].released;
        let Owed::Invocation(invocation) = owed else { return };
        let Some(origin) = invocation.event.as_ref() else { return };
        let (index, offset) = (origin.place.partition, origin.offset);
        let at = self.event(&origin.place.id, index, offset).map_or(0, |(at, _)| *at);
        let (paused, ended) = (model.paused, model.ended);
        let text = match paused {
            _ if !is_owner => return,
            _ if self.is_one_too_many(*subscription, (index, offset), invocation.size()) => {
                "has too many under way"
            }
            _ if self.is_too_much(log) => "has too many bytes under way with all others",
            Some(since) if at > since => "is paused",
            _ if ended => "is over",
            _ => return,
        };
        let text =
            format!("{from:?} delivers {} for {subscription}, which {text}", invocation.uuid);
        self.wrong("subscriptions deliver as they say", text);
    }

    /// An owner sends an event. Whether more of them are under way than its subscription wants: not accepted by
    /// anybody, so by none that it can know of.
    fn is_one_too_many(
        &mut self,
        subscription: Uuid,
        (index, offset): (u32, Offset),
        bytes: usize,
    ) -> bool {
        let Some(model) = self.events.subscriptions.get_mut(&subscription) else { return false };
        if model.accepted.contains(&(index, offset)) {
            return false;
        }
        let epoch = self.logs[model.log].epoch;
        model.under_way.retain(|(of, ..), _| *of == epoch);
        model.under_way.insert((epoch, index, offset), bytes);
        let own = model.under_way.keys().filter(|(_, of, _)| *of == index);
        let own: Vec<_> = own.map(|(.., offset)| *offset).collect();
        let (topic, most) = (model.topic(), model.subscription.spec.in_flight as usize);
        own.into_iter().filter(|offset| !self.is_event_gone(&topic, index, *offset)).count() > most
    }

    /// Whether more bytes are under way of all subscriptions of a log than `deliveries_bytes_per_partition_max` lets
    /// through. One event may go beyond it, and, so that nobody waits for others, one of each topic partition that each
    /// of them reads. Which ones that were cannot be seen from outside, as what was read first may be sent last: the
    /// longest ones are taken for them.
    fn is_too_much(&self, log: usize) -> bool {
        let epoch = self.logs[log].epoch;
        let (mut bytes, mut longest) = (0, 0);
        for model in self.events.subscriptions.values().filter(|one| one.log == log && !one.ended) {
            let topic = model.topic();
            let mut each: BTreeMap<u32, usize> = BTreeMap::new();
            for (&(of, index, offset), &size) in &model.under_way {
                if of == epoch && !self.is_event_gone(&topic, index, offset) {
                    bytes += size;
                    let most = each.entry(index).or_default();
                    *most = size.max(*most);
                }
            }
            bytes -= each.values().sum::<usize>();
            longest = each.into_values().fold(longest, usize::max);
        }
        bytes >= self.history.deliveries_bytes_max + longest
    }

    /// A log takes an event in.
    pub(super) fn event_accepted(&mut self, log: usize, sender: &Sender, invocation: &Invocation) {
        let Sender::Subscription { partition, subscription, topic_partition } = sender else {
            return;
        };
        let (uuid, index) = (*subscription, *topic_partition);
        let at = format!("{} takes {}", self.logs[log].id, invocation.uuid);
        let fence = self.events.fences.get(&(log, partition.clone()));
        if fence.is_some_and(|fence| fence.closes(uuid)) {
            self.wrong("fences hold", format!("{at} of {uuid}, which is over"));
        }
        let Some(model) = self.events.subscriptions.get(&uuid) else {
            return self.wrong("P5 gate for requests", format!("{at} of {uuid}, which never was"));
        };
        let origin = invocation.event.clone();
        let Some(origin) = origin.filter(|origin| origin.place.id == model.topic()) else {
            return self.wrong("topics are known by their ids", format!("{at} of another topic"));
        };
        let offset = origin.offset;
        let Some((_, event)) = self.event(&origin.place.id, index, offset).cloned() else {
            return self.wrong("topics are known by their ids", format!("{at}, which never was"));
        };
        let Some(model) = self.events.subscriptions.get_mut(&uuid) else { return };
        self.events.policies.insert(invocation.uuid, model.subscription.spec.retry);
        let tag = Spec::read(&invocation.payload).tag;
        let is_its = tag == delivery_tag(&self.history.names, tag_of(&event), uuid.0);
        let spec = &model.subscription.spec;
        let affinity = match &spec.target {
            SubscriptionTarget::Service { affinity, .. } => affinity.clone(),
            SubscriptionTarget::Actor { .. } => None,
        };
        let affinity = affinity.and_then(|name| event.attributes.get(&*name).cloned());
        let actor = model.instance(&event);
        let target = Target {
            kind: spec.target.kind(),
            actor: actor.clone().ok().flatten(),
            affinity: affinity.map(Into::into),
        };
        let to = partition_index(&target, invocation.uuid, model.subscription.target_partitions);
        let to = PartitionId::new(target.kind.clone(), to);
        let first = spec.offsets[index as usize];
        let wrong = match () {
            () if !is_its => "is another event",
            () if !model.wants(&event) => "is not wanted",
            () if actor != Ok(invocation.actor.clone()) => "goes to another instance",
            () if to != self.logs[log].id => "goes to another partition",
            () if offset < first => "came before the subscription",
            () if !model.accepted.insert((index, offset)) => "was delivered before",
            () => {
                model.under_way.retain(|(_, of, at), _| (*of, *at) != (index, offset));
                self.counts.delivered += 1;
                return;
            }
        };
        self.wrong("delivered-once", format!("{at}: {index}/{offset} of {uuid} {wrong}"));
    }
}

// Logs of subscriptions.
impl Judge<'_> {
    /// A command was carried out.
    pub(super) fn subscription_done(
        &mut self,
        (log, offset): (usize, Offset),
        (sender, number, uuid): (&Sender, Number, Uuid),
        (change, outcome): (&SubscriptionOp, Option<&Outcome>),
        sends: &[Send],
    ) {
        let epoch = self.logs[log].epoch;
        match outcome {
            Some(outcome) => {
                let queued_by = QueuedBy::Number(sender.clone(), number);
                self.hold(log, uuid, Held::new(queued_by, None, self.now, 0));
                if let Some(held) = self.logs[log].held.get_mut(&uuid) {
                    let (outcome, at) = (outcome.clone(), self.now);
                    held.ended = Some(Ended { outcome, epoch, offset, at });
                }
            }
            None => self.number_used(log, (sender, number), uuid),
        }
        if matches!(sender, Sender::Log { .. }) {
            self.check_removal((log, offset), uuid, change);
            self.removal_ends(log, change);
        }
        self.change_subscriptions((log, offset), change);
        let segment = Segment { sends: sends.to_vec(), ..Segment::default() };
        self.owe(log, offset, (uuid, 1, 1), &segment);
    }

    /// Subscriptions hear of a removal: those of its actor end that there are, and were asked for before it was.
    fn check_removal(&mut self, (log, at): (usize, Offset), uuid: Uuid, change: &SubscriptionOp) {
        let id = self.logs[log].id.clone();
        let Some((kind, actor, time)) = self.events.removed.get(&uuid) else {
            return self.wrong("log", format!("{id}@{at}: no removal tells {uuid}"));
        };
        let fixed = Instance::Fixed(actor.clone());
        let is_its = |model: &&SubscriptionModel| {
            let Subscription { spec, created, .. } = &*model.subscription;
            let is_of = matches!(&spec.target, SubscriptionTarget::Actor { instance, .. }
                if *instance == fixed);
            let is_there = model.log == log && !model.ended;
            is_there && is_of && spec.target.kind() == *kind && created <= time
        };
        let own = self.events.subscriptions.values().filter(is_its);
        let wanted: BTreeSet<_> = own.map(|model| model.subscription.spec.name.clone()).collect();
        let ends: BTreeSet<_> = match change {
            SubscriptionOp::End { names } => names.iter().cloned().collect(),
            _ => BTreeSet::new(),
        };
        if ends != wanted {
            let text = format!("{id}@{at}: with {actor} end {ends:?}, not {wanted:?}");
            self.wrong("subscriptions end with their actor", text);
        }
    }

    fn change_subscriptions(&mut self, (log, offset): (usize, Offset), change: &SubscriptionOp) {
        let at = format!("{}@{offset}", self.logs[log].id);
        match change {
            SubscriptionOp::Nothing => {}
            SubscriptionOp::Create(subscription) => {
                let (uuid, name) = (subscription.uuid, subscription.spec.name.clone());
                let before = self.events.newest.insert(log, uuid);
                if before.is_some_and(|before| before >= uuid) {
                    self.wrong("ids of subscriptions ascend", format!("{at}: {uuid}"));
                }
                self.forget_skips(log, &name);
                if self.events.names.insert((log, name), uuid).is_some() {
                    self.wrong("one subscription of a name", format!("{at}: {uuid}"));
                }
                let model = SubscriptionModel {
                    log,
                    subscription: subscription.clone(),
                    ended: false,
                    paused: None,
                    accepted: BTreeSet::new(),
                    under_way: BTreeMap::new(),
                    floors: subscription.spec.offsets.clone(),
                };
                self.events.subscriptions.insert(uuid, model);
                self.counts.subscribed += 1;
            }
            SubscriptionOp::End { names } => {
                for name in names {
                    let uuid = self.events.names.remove(&(log, name.clone()));
                    uuid.into_iter().for_each(|uuid| self.nothing_is_read(log, uuid));
                    let model = uuid.and_then(|uuid| self.events.subscriptions.get_mut(&uuid));
                    match model {
                        Some(model) => model.ended = true,
                        None => self.wrong("log", format!("{at} ends {name}, which is not")),
                    }
                }
            }
            SubscriptionOp::Pause { name, paused } => {
                let now = self.now;
                let uuid = self.events.names.get(&(log, name.clone())).copied();
                let stops = uuid.filter(|_| *paused);
                stops.into_iter().for_each(|uuid| self.nothing_is_read(log, uuid));
                let model = uuid.and_then(|uuid| self.events.subscriptions.get_mut(&uuid));
                match model {
                    Some(model) => model.paused = paused.then_some(now),
                    None => self.wrong("log", format!("{at} pauses {name}, which is not")),
                }
            }
        }
    }

    /// A log says how far a subscription has come: what is wanted of that has been accepted, or is gone.
    pub(super) fn floor_moved(
        &mut self,
        (log, at): (usize, Offset),
        (uuid, index): (Uuid, u32),
        floor: Offset,
        publishes: &[Publish],
    ) {
        let id = self.logs[log].id.clone();
        let Some(model) = self.events.subscriptions.get(&uuid).cloned() else {
            return self.wrong("log", format!("{id}@{at}: {uuid} never was"));
        };
        let before = model.floors[index as usize];
        let mut letters = publishes.iter().peekable();
        let buries = model.subscription.spec.dead_letter.is_some();
        for offset in before..floor {
            let Some((_, event)) = self.event(&model.topic(), index, offset).cloned() else {
                continue;
            };
            let is_gone = self.is_event_gone(&model.topic(), index, offset);
            if !model.wants(&event) || model.accepted.contains(&(index, offset)) {
                continue;
            }
            if model.instance(&event).is_err() {
                let tag = delivery_tag(&self.history.names, tag_of(&event), uuid.0);
                // Of what is gone its owner may have read nothing: the next letter is another event's then.
                let is_its =
                    |letter: &&Publish| letter.publication.event.starts_with(&tag.to_le_bytes());
                if let Some(letter) = letters.next_if(is_its) {
                    let delivery = model.subscription.delivery(index, offset);
                    self.letter_owed(delivery, &letter.publication);
                    self.counts.undeliverable += 1;
                } else if !buries || is_gone {
                    self.counts.undeliverable += 1;
                } else {
                    let text = format!("{id}@{at}: {index}/{offset} of {uuid} names nobody");
                    self.wrong("dead-lettered", text);
                }
            } else if !is_gone {
                let text = format!("{id}@{at}: {uuid} is past {index}/{offset}, not accepted");
                self.wrong("delivered-once", text);
            } else if self.is_skip_told((log, &model.subscription.spec.name), index, offset) {
                self.counts.skipped += 1;
            } else {
                let text = format!("{id}@{at}: {index}/{offset} of {uuid} is gone");
                self.wrong("P9 notices", text);
            }
        }
        if letters.next().is_some() {
            self.wrong("dead-lettered", format!("{id}@{at} buries what it need not"));
        }
        self.publishes(log, at, publishes);
        if let Some(model) = self.events.subscriptions.get_mut(&uuid) {
            model.floors[index as usize] = floor.max(before);
        }
    }

    /// An actor's removal tells so many partitions of subscriptions.
    pub(super) fn check_subscriptions_told(&mut self, told: usize, at: &str) {
        let kind = Kind::subscriptions();
        let own = || self.logs.iter().filter(|log| log.id.kind == kind);
        // By then everybody has heard that there are any.
        let since = own().filter_map(|log| log.reigns.first()).map(|reign| reign.from).min();
        let is_known = since.is_some_and(|since| since + HEARD <= self.now);
        if is_known && told != own().count() {
            let text = format!("{at}: {told} partitions of subscriptions are told");
            self.wrong("subscriptions end with their actor", text);
        }
    }

    /// A removal tells subscriptions.
    pub(super) fn removal_told(&mut self, command: &SubscriptionCommand) {
        if let SubscriptionAsk::ActorRemoved { kind, actor, time } = &command.ask {
            self.events.removed.insert(command.uuid, (kind.clone(), actor.clone(), *time));
        }
    }

    /// A log closes channels of subscriptions that are over.
    pub(super) fn fence_taken(
        &mut self,
        (log, at): (usize, Offset),
        (sender, number): (&Sender, Number),
        fence: &SubscriptionFence,
    ) {
        let Sender::Log { partition, .. } = sender else {
            return self.wrong("log", format!("{}@{at}: a fence of {sender:?}", self.logs[log].id));
        };
        let from = self.log_of(partition);
        let uuid = self.logs[from].owed.get(&(log, number)).map(|owed| owed.uuid);
        self.number_used(log, (sender, number), uuid.unwrap_or_default());
        let live = self
            .events
            .subscriptions
            .iter()
            .find(|(uuid, model)| model.log == from && !model.ended && fence.closes(**uuid));
        if let Some((uuid, _)) = live {
            let text = format!("{}@{at} closes {uuid}, which lives", self.logs[log].id);
            self.wrong("fences hold", text);
        }
        self.events.fences.insert((log, partition.clone()), fence.clone());
        self.counts.fences += 1;
    }

    /// Whether a log has closed a channel, or a number of it is of an event that has gone.
    pub(super) fn is_channel_over(&self, log: usize, sender: &Sender, number: Number) -> bool {
        let Sender::Subscription { partition, subscription, topic_partition } = sender else {
            return false;
        };
        let fence = self.events.fences.get(&(log, partition.clone()));
        let model = self.events.subscriptions.get(subscription);
        fence.is_some_and(|fence| fence.closes(*subscription))
            || model.is_some_and(|m| self.is_event_gone(&m.topic(), *topic_partition, number))
    }
}

/// How long it takes at most until every node has heard of a kind.
const HEARD: Us = 700 * MS;

// Answers, and the end.
impl Judge<'_> {
    /// A client is answered about a subscription.
    pub(super) fn check_subscription_answer(&mut self, node: NodeId, req: usize, answer: &Answer) {
        let request = &self.history.reqs[req];
        let Some(op) = request.subscription else { return };
        let late = request.arrived.is_some_and(|at| self.now >= at + self.history.accept_timeout);
        let name = name_of(op.name);
        let all = &self.events.subscriptions;
        let fits = match (answer, op.what) {
            (Ok(Response::Subscribed { subscription, .. }), SubWhat::Subscribe(_)) => {
                all.get(subscription).is_some_and(|model| model.subscription.spec.name == name)
            }
            (Ok(Response::SubscriptionChanged { changed }), SubWhat::Change(change)) => {
                let mut own = all.values().filter(|m| m.subscription.spec.name == name);
                !changed || own.any(|m| change != SubscriptionChange::Unsubscribe || m.ended)
            }
            (Ok(Response::Subscriptions(views)), SubWhat::List) => views.iter().all(|view| {
                let model = all.get(&view.subscription.uuid);
                let shown = view.partitions.iter().map(|progress| progress.floor);
                model.is_some_and(|m| shown.zip(&m.floors).all(|(shown, floor)| shown <= *floor))
            }),
            (Err(RequestError::SubscriptionDiffers(_)), SubWhat::Subscribe(_)) => true,
            (Err(RequestError::UnknownSubscription(_)), SubWhat::Change(change)) => {
                change != SubscriptionChange::Unsubscribe
            }
            (Err(RequestError::Unavailable(_)), SubWhat::List) => late,
            (Err(RequestError::Draining), _) => {
                self.nodes.get(&node).is_some_and(|node| node.drain_told)
            }
            (Err(RequestError::Unknown(_) | RequestError::ChannelClosed(_)), _) => {
                return self.check_struck_out(node, "about a subscription");
            }
            (Ok(Response::Outcome { outcome: Outcome::Refused(_), .. }), _) => {
                return self.check_struck_out(node, "refused a command");
            }
            (Err(RequestError::Limit(_)), _) => self.history.small_limits,
            _ => false,
        };
        if !fits {
            self.wrong("P9 errors", format!("{node:?} answers q{req} ({op:?}): {answer:?}"));
        }
    }

    /// When everything has come to rest: what is wanted was delivered, and the log says so.
    pub(super) fn check_delivered(&mut self) {
        let mut wrong = Vec::new();
        for (uuid, model) in &self.events.subscriptions {
            if model.ended || model.paused.is_some() || self.topic_is_gone(&model.topic()) {
                continue;
            }
            for (index, first) in (0..).zip(&model.subscription.spec.offsets) {
                let events = self.events.events.get(&(model.topic(), index));
                let events =
                    events.into_iter().flatten().zip(1..).map(|((_, e), offset)| (e, offset));
                for (event, offset) in events.filter(|(_, offset)| offset >= first) {
                    let is_owed = model.wants(event) && model.instance(event).is_ok();
                    let is_gone = self.is_event_gone(&model.topic(), index, offset);
                    if is_owed && !is_gone && !model.accepted.contains(&(index, offset)) {
                        wrong
                            .push(("delivered-once", format!("{index}/{offset} of {uuid} is not")));
                    }
                    if model.floors[index as usize] <= offset {
                        wrong.push(("lag", format!("{uuid} is behind {index}/{offset}")));
                    }
                }
            }
        }
        for (rule, text) in wrong {
            self.wrong(rule, text);
        }
    }
}
