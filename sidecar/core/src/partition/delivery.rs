//! What an owner reads of topics and delivers (design section 10, rule C1; `docs/adr/0009`).
//!
//! A *branch* is a subscription's part of one partition of its topic. Its owner reads from where everything is done
//! with, and delivers each wanted event as a tell over the channel *(branch → target's partition)*, whose numbers are
//! the offsets: so whoever delivers an event again, it is known. Nothing of an event is logged here; the log has only
//! the **floor**, up to which everything was accepted by its receiver, passed over, or gone. It follows lazily: what it
//! does not say yet is read again by the next owner, and found to be known.
//!
//! Numbers that go to other partitions, or to nobody, are closed. Which ones is decided by the subscription's settings,
//! the event and its offset alone, so it is true whoever says it and however late; a request says from where on all
//! lower numbers are closed ([`Message::Request`]).
//!
//! Longer than most: floors and channels of one branch change together.

mod reading;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Partition;
use crate::cover::Transition;
use crate::effect::Notice;
use crate::env::Env;
use crate::events::Publication;
use crate::ids::{Millis, NodeId, Number, Offset, PartitionId, Sender, Uuid};
use crate::invocation::{Invocation, Obligation, Owed};
use crate::message::Message;
use crate::record::{Op, Segment, SubscriptionOp};
use crate::route::{Opened, ReadBack, Route};
use crate::state::Outbound;
use crate::subscription::{Subscription, SubscriptionProgress, SubscriptionView};
use crate::subscriptions::Subscribed;
use crate::timers::Timers;

/// A subscription, and the number of a partition of its topic.
pub(crate) type Branch = (Uuid, u32);

/// Pause before a topic that could not be read is read again, ms; twice as long each time, up to the second one.
const FETCH_PAUSE_MS: Millis = 50;
const FETCH_PAUSE_MAX_MS: Millis = 2_000;
/// Reads in a row that come to nothing, some seconds, after which people are told.
const FETCH_FAILURES_TOLD: u32 = 6;

/// Everything that an owner reads.
#[derive(Clone, Debug, Default)]
pub(super) struct Deliveries {
    branches: BTreeMap<Branch, Reading>,
    /// Bytes of what was read of all of them and is not done with.
    bytes: usize,
    timers: Timers<Branch>,
    /// Their floors are to be logged.
    moved: BTreeSet<Branch>,
    /// Their topics are deleted.
    gone: BTreeSet<Uuid>,
    /// They are to go on, so many times, and that is not committed: the log still says that they are paused.
    resuming: BTreeMap<Uuid, u32>,
}

/// How far an owner has come with a branch.
#[derive(Clone, Debug)]
struct Reading {
    subscription: Arc<Subscription>,
    /// Every lower offset was read.
    next: Offset,
    /// What was read and is not done with.
    open: BTreeMap<Offset, UnderWay>,
    /// Bytes of that.
    bytes: usize,
    channels: BTreeMap<PartitionId, Channel>,
    /// The read under way.
    fetch: Option<u64>,
    /// It is not read before this.
    not_before: Millis,
    /// Reads in a row that came to nothing.
    failures: u32,
    /// Where the topic's partition ended, as it was seen last.
    end: Offset,
    /// Events that were gone.
    skipped: u64,
    /// An event that this node does not understand; 0: none.
    unreadable: Offset,
}

/// What becomes of an event.
#[derive(Clone, Debug)]
enum UnderWay {
    /// It is delivered: so many bytes.
    Delivery(usize),
    /// It cannot be delivered: why, and where it goes instead.
    Undeliverable(&'static str, Option<Publication>),
}

#[derive(Clone, Debug)]
struct Channel {
    out: Outbound,
    route: Route,
}

impl UnderWay {
    fn bytes(&self) -> usize {
        match self {
            Self::Delivery(bytes) => *bytes,
            Self::Undeliverable(_, letter) => letter.as_ref().map_or(0, Publication::size),
        }
    }
}

impl Reading {
    fn new(subscription: Arc<Subscription>, next: Offset) -> Self {
        Self {
            subscription,
            next,
            open: BTreeMap::new(),
            bytes: 0,
            channels: BTreeMap::new(),
            fetch: None,
            not_before: 0,
            failures: 0,
            end: 0,
            skipped: 0,
            unreadable: 0,
        }
    }

    /// Every lower offset is done with.
    fn floor(&self) -> Offset {
        self.open.first_key_value().map_or(self.next, |(offset, _)| *offset)
    }

    /// Something was read; `all`: bytes of all branches.
    fn insert(&mut self, all: &mut usize, offset: Offset, what: UnderWay) {
        self.bytes += what.bytes();
        *all += what.bytes();
        self.open.insert(offset, what);
    }

    /// It is done with.
    fn remove(&mut self, all: &mut usize, offset: Offset) {
        let Some(what) = self.open.remove(&offset) else { return };
        self.bytes -= what.bytes();
        *all -= what.bytes();
    }

    /// When it has something to do.
    fn timer(&self) -> Option<Millis> {
        let routes = self.channels.values().filter_map(|channel| channel.route.timer()).min();
        let pause = (self.fetch.is_none() && self.not_before > 0).then_some(self.not_before);
        routes.into_iter().chain(pause).min()
    }
}

impl Deliveries {
    /// When any of it has something to do.
    pub(super) fn timeout(&self) -> Option<Millis> {
        self.timers.first()
    }

    fn note_timer(&mut self, branch: &Branch) {
        let at = self.branches.get(branch).and_then(Reading::timer);
        self.timers.set(branch, at);
    }

    /// It is decided that a subscription goes on.
    pub(super) fn resumes(&mut self, subscription: Uuid) {
        *self.resuming.entry(subscription).or_default() += 1;
    }

    /// That is committed.
    fn resumed(&mut self, subscription: Uuid) {
        if let Some(times) = self.resuming.get_mut(&subscription) {
            *times -= 1;
            if *times == 0 {
                self.resuming.remove(&subscription);
            }
        }
    }

    fn branches(&self) -> Vec<Branch> {
        self.branches.keys().copied().collect()
    }

    /// The reign is over.
    pub(super) fn end(&mut self, env: &mut Env) {
        let channels = self.branches.values_mut().flat_map(|reading| reading.channels.values_mut());
        channels.for_each(|channel| channel.route.end(env));
    }

    /// What was appended to a partition's inbox may be lost.
    pub(super) fn inbox_lost(&mut self, env: &Env, to: &PartitionId) {
        for branch in self.branches() {
            let reading = self.branches.get_mut(&branch);
            let Some(channel) = reading.and_then(|reading| reading.channels.get_mut(to)) else {
                continue;
            };
            channel.route.break_run(env);
            self.note_timer(&branch);
        }
    }
}

// Floors, and what people see.
impl Partition {
    /// Its floor may have moved, which is to be logged.
    fn note_moved(&mut self, env: &Env, branch: Branch) {
        let reading = self.reign.deliveries.branches.get(&branch);
        let logged = self.state.subscriptions.of(branch.0);
        let logged = logged.and_then(|one| one.floors.get(branch.1 as usize)).copied();
        let Some((reading, logged)) = reading.zip(logged) else { return };
        let ends_undelivered =
            matches!(reading.open.values().next(), Some(UnderWay::Undeliverable(..)));
        let floor = if env.rules.floor_after_accept { reading.floor() } else { reading.next };
        if floor > logged || ends_undelivered {
            self.reign.deliveries.moved.insert(branch);
            let at = env.now + env.limits.settle_delay_ms;
            self.reign.settle_at = Some(self.reign.settle_at.map_or(at, |t| t.min(at)));
        }
    }

    /// Logs how far everything has come.
    pub(super) fn log_delivered(&mut self, env: &mut Env) {
        for branch in std::mem::take(&mut self.reign.deliveries.moved) {
            let (subscription, topic_partition) = branch;
            let Some(one) = self.state.subscriptions.of(subscription) else { continue };
            let Some(logged) = one.floors.get(topic_partition as usize).copied() else { continue };
            let name = one.subscription.spec.name.clone();
            let Deliveries { branches, bytes, .. } = &mut self.reign.deliveries;
            let Some(reading) = branches.get_mut(&branch) else { continue };
            let (mut notices, mut letters) = (Vec::new(), Vec::new());
            // What cannot be delivered is done with when all before it is: in the decision that says so.
            while let Some((offset, UnderWay::Undeliverable(why, letter))) =
                reading.open.first_key_value()
            {
                let (offset, why) = (*offset, *why);
                let (partition, name) = (self.id.clone(), name.clone());
                let dead_letter = letter.is_some();
                letters.extend(letter.clone());
                let notice = Notice::Undeliverable {
                    partition,
                    name,
                    topic_partition,
                    offset,
                    why,
                    dead_letter,
                };
                notices.push(notice);
                reading.remove(bytes, offset);
            }
            let floor = if env.rules.floor_after_accept { reading.floor() } else { reading.next };
            if floor > logged {
                env.cover(Transition::FloorLogged);
                let segment =
                    Segment { publishes: self.number_published(letters), ..Segment::default() };
                let published = Self::last_published(&segment);
                let publishes = segment.publishes;
                self.push(env, Op::Delivered { subscription, topic_partition, floor, publishes });
                self.gate_published(env, published);
            }
            let freed = !notices.is_empty();
            for notice in notices {
                self.gate_notice(env, notice);
            }
            if freed {
                self.read_more(env, branch);
            }
        }
    }

    /// Subscriptions end, and nothing more is read or sent; or one pauses, and nothing more is read.
    pub(super) fn end_deliveries(&mut self, env: &mut Env, change: &SubscriptionOp) {
        let names = match change {
            SubscriptionOp::End { names } => names,
            SubscriptionOp::Pause { name, paused: true } => {
                if let Some(uuid) = self.id_of(name) {
                    self.stop_readings(env, uuid);
                }
                return;
            }
            _ => return,
        };
        for name in names {
            let Some(one) = self.state.subscriptions.get(name) else { continue };
            let uuid = one.subscription.uuid;
            for topic_partition in 0..one.subscription.spec.topic.partitions {
                let branch = (uuid, topic_partition);
                self.stop_reading(env, branch);
                self.reign.deliveries.timers.set(&branch, None);
                let Some(mut reading) = self.reign.deliveries.branches.remove(&branch) else {
                    continue;
                };
                self.reign.deliveries.bytes -= reading.bytes;
                reading.channels.values_mut().for_each(|channel| channel.route.end(env));
            }
            self.reign.deliveries.gone.remove(&uuid);
            self.reign.deliveries.resuming.remove(&uuid);
        }
    }

    /// All subscriptions, for people and tools.
    pub(crate) fn subscriptions(&self) -> impl Iterator<Item = SubscriptionView> {
        self.state.subscriptions.iter().map(|one| self.progress_of(one))
    }

    /// A subscription, for people and tools.
    pub(super) fn progress_of(&self, one: &Subscribed) -> SubscriptionView {
        let uuid = one.subscription.uuid;
        let progress = |(topic_partition, floor): (u32, &Offset)| {
            let reading = self.reign.deliveries.branches.get(&(uuid, topic_partition));
            SubscriptionProgress {
                floor: *floor,
                end: reading.map_or(0, |reading| reading.end),
                under_way: reading.map_or(0, |reading| reading.open.len() as u64),
                skipped: reading.map_or(0, |reading| reading.skipped),
                unreadable: reading.map_or(0, |reading| reading.unreadable),
            }
        };
        SubscriptionView {
            subscription: one.subscription.clone(),
            paused: one.paused,
            topic_gone: self.reign.deliveries.gone.contains(&uuid),
            partitions: (0..).zip(&one.floors).map(progress).collect(),
        }
    }
}

/// The channels of a branch.
struct Channels {
    partition: PartitionId,
    branch: Branch,
    epoch: u64,
}

impl Channels {
    /// Delivers an event.
    fn send(
        &self,
        env: &mut Env,
        (reading, all): (&mut Reading, &mut usize),
        (to, offset): (PartitionId, Offset),
        tell: Invocation,
    ) {
        let bytes = tell.size();
        let owed = Owed::Invocation(Arc::new(tell));
        let obligation = Obligation { to: to.clone(), owed, parent: None, step_key: None };
        let new = || {
            let (subscription, topic_partition) = self.branch;
            let partition = self.partition.clone();
            let sender = Sender::Subscription { partition, subscription, topic_partition };
            let route = Route::new(sender, self.epoch, to.clone(), 1);
            Channel { out: Outbound::default(), route }
        };
        let channel = reading.channels.entry(to.clone()).or_insert_with(new);
        let number = number_of(env, self.epoch, offset);
        channel.out.open.insert(number, obligation);
        channel.out.next = number + 1;
        channel.route.send(env, &channel.out, number);
        reading.insert(all, offset, UnderWay::Delivery(bytes));
    }
}

/// The number of an offset (rule C1). With the rule off it says who sent it, too.
fn number_of(env: &Env, epoch: u64, offset: Offset) -> Number {
    if env.rules.deliver_by_offset { offset } else { offset + epoch * UNNUMBERED }
}

/// And back.
fn offset_of(env: &Env, epoch: u64, number: Number) -> Offset {
    if env.rules.deliver_by_offset { number } else { number.saturating_sub(epoch * UNNUMBERED) }
}

/// More than any topic has in a simulation.
const UNNUMBERED: u64 = 1 << 20;

// Channels.
impl Partition {
    /// An answer on the channel of a branch.
    pub(crate) fn delivery_answer(
        &mut self,
        env: &mut Env,
        node: NodeId,
        branch: Branch,
        message: Message,
    ) {
        match message {
            Message::Accepted { from, numbers, .. } => {
                self.delivered(env, branch, &from, &numbers);
            }
            Message::Gone { from, number, .. } => self.delivered(env, branch, &from, &[number]),
            Message::Opened { to, epoch, next, resume_at, .. } => {
                self.with_channel(env, branch, &to, |Channel { out, route }, env| {
                    route.opened(env, out, node, Opened { epoch, next, resume_at });
                });
            }
            Message::Known { from, epoch, next, .. } => {
                self.with_channel(env, branch, &from, |Channel { out, route }, env| {
                    route.known(env, out, node, epoch, next);
                });
            }
            Message::Gap { from, epoch, .. } => {
                self.with_channel(env, branch, &from, |Channel { out, route }, env| {
                    route.gap(env, out, node, epoch);
                });
            }
            Message::NotOwner { partition, epoch, hint, .. } => {
                self.with_channel(env, branch, &partition, |Channel { out, route }, env| {
                    route.not_owner(env, out, node, epoch, hint);
                });
            }
            // A closed channel is one of a subscription that is over: this reign is, too, or does not have it any more.
            _ => {}
        }
    }

    fn with_channel(
        &mut self,
        env: &mut Env,
        branch: Branch,
        to: &PartitionId,
        act: impl FnOnce(&mut Channel, &mut Env),
    ) {
        let reading = self.reign.deliveries.branches.get_mut(&branch);
        let Some(channel) = reading.and_then(|reading| reading.channels.get_mut(to)) else {
            return;
        };
        act(channel, env);
        self.reign.deliveries.note_timer(&branch);
    }

    /// Events were accepted, or had been before.
    fn delivered(
        &mut self,
        env: &mut Env,
        branch: Branch,
        receiver: &PartitionId,
        numbers: &[Number],
    ) {
        let epoch = self.state.epoch;
        let Deliveries { branches, bytes, .. } = &mut self.reign.deliveries;
        let Some(reading) = branches.get_mut(&branch) else { return };
        let Some(channel) = reading.channels.get_mut(receiver) else { return };
        let mut done = Vec::with_capacity(numbers.len());
        for number in numbers {
            if channel.out.open.remove(number).is_some() {
                channel.route.forget(*number);
                channel.route.answered(env, &channel.out, *number);
                done.push(offset_of(env, epoch, *number));
            }
        }
        for offset in done {
            reading.remove(bytes, offset);
        }
        self.note_moved(env, branch);
        self.read_more(env, branch);
    }

    /// A delivery was read back from its receiver's inbox.
    pub(crate) fn delivery_read_back(
        &mut self,
        env: &mut Env,
        branch: Branch,
        to: &PartitionId,
        what: ReadBack,
    ) {
        self.with_channel(env, branch, to, |Channel { out, route }, env| {
            route.read_back(env, out, what);
        });
    }

    /// Peers or members changed: channels find their way anew.
    pub(super) fn review_deliveries(&mut self, env: &mut Env, lost: Option<NodeId>) {
        for branch in self.reign.deliveries.branches() {
            let Some(reading) = self.reign.deliveries.branches.get_mut(&branch) else { continue };
            for Channel { out, route } in reading.channels.values_mut() {
                route.reconsider(env, out, lost);
            }
            self.reign.deliveries.note_timer(&branch);
        }
    }

    /// What is due by now.
    pub(super) fn tick_deliveries(&mut self, env: &mut Env) {
        for branch in self.reign.deliveries.timers.due(env.now) {
            let Some(reading) = self.reign.deliveries.branches.get_mut(&branch) else { continue };
            for Channel { out, route } in reading.channels.values_mut() {
                route.tick(env, out);
            }
            if reading.not_before <= env.now {
                reading.not_before = 0;
            }
            self.read_more(env, branch);
        }
    }
}
