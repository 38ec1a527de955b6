//! The decisions of one node: everything a sidecar decides, behind one `handle`.
//!
//! Longer than most: the node's fields, and the way of each input and effect through them, in one place.

mod asks;
mod component;
mod ended;
mod inbox;
mod kinds;
mod peers;
mod reminders;
mod subscriptions;
mod views;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use asks::Asks;
pub(crate) use reminders::OTHERS;
use views::Views;

use crate::cover::Transition;
use crate::effect::{Append, Effect, Notice};
use crate::env::Env;
use crate::event::{Event, Members, Operation, TurnResult};
use crate::ids::{Epoch, Kind, Millis, NodeId, PartitionId, RequestId, SessionId, TurnToken, Uuid};
use crate::invocation::{Mode, Outcome, Payload};
use crate::limits::{Limits, Rules};
use crate::partition::{Partition, Stage};
use crate::roots::Roots;
use crate::subscription::SubscriptionView;
use crate::timers::Timers;
use crate::trouble::Ended;

/// What a node is made from.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Incarnation granted by the membership service.
    pub id: NodeId,
    /// Seed of all ids that the node makes; must differ between incarnations (a driver passes 128 random bits).
    pub seed: u128,
    /// Bounds.
    pub limits: Limits,
    /// Rules switched off, for the simulator only.
    pub rules: Rules,
    /// There is no peer plane: everything goes through inboxes.
    pub no_peer: bool,
}

/// All decisions of one sidecar. See the crate's documentation for how to drive it.
#[derive(Clone, Debug)]
pub struct Node {
    env: Env,
    partitions: BTreeMap<PartitionId, Partition>,
    roots: Roots,
    /// Root requests that wait for a kind to become known, in order.
    parked: BTreeMap<Kind, VecDeque<(RequestId, Operation)>>,
    /// How many there are, those of `waiting_turns` included.
    parked_count: usize,
    /// Turns with an operation that waits for a kind to become known.
    waiting_turns: BTreeMap<TurnToken, WaitingTurn>,
    /// Those of them that wait for calls above them.
    covered: BTreeSet<TurnToken>,
    asks: Asks,
    views: Views,
    /// Direct calls under way: whom they were sent to.
    direct: BTreeMap<RequestId, (NodeId, Kind)>,
    next_direct: u64,
    /// Direct calls that wait for the connection to a live host, and until when.
    direct_waiting: BTreeMap<RequestId, (Millis, DirectCall)>,
    /// When they are given up.
    direct_timers: Timers<RequestId>,
    /// The newest host's stream.
    last_session: Option<SessionId>,
    /// When a host that is away counts as gone.
    host_gone_at: Option<Millis>,
    /// `Drained` is owed.
    drain_asked: bool,
    /// Partitions that an event has touched since the last flush.
    touched: Vec<PartitionId>,
    timeouts: Timers<PartitionId>,
}

/// How long a direct call waits for the connection to a host that is a member, ms: a node that has just joined is not
/// connected to everybody yet.
const DIRECT_WAIT_MS: Millis = 1_000;

/// Messages to itself and slots granted that one event may lead to, for each invocation that may be under way; what is
/// left then waits for the next event. Far above what the take-over of a full partition makes.
const SETTLE_STEPS_EACH: usize = 20;

/// The bound of direct calls at once: what the host registered, as for root turns.
pub const DIRECT_CONCURRENCY: &str = "concurrency";

/// A direct call that has not been sent.
#[derive(Clone, Debug)]
struct DirectCall {
    kind: Kind,
    method: Arc<str>,
    payload: Payload,
    trace: Arc<str>,
}

/// What a turn asked for since it invoked something of a kind that is not known yet: in program order, since a turn's
/// operations take effect in that order (P5, P7).
#[derive(Clone, Debug, Default)]
struct WaitingTurn {
    /// The first one is what waits for the kind.
    operations: VecDeque<(RequestId, Operation)>,
    /// The turn has returned meanwhile, or waits for the kind that its tail call goes to.
    result: Option<TurnResult>,
}

/// What a node knows of a partition, for people and tools.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionView {
    /// The partition.
    pub id: PartitionId,
    /// Its reign; only partitions that the node serves are shown.
    pub epoch: Epoch,
    /// Invocations that are not finished.
    pub invocations: Vec<InvocationView>,
    /// Actors that are busy or have invocations queued: instance, queued, busy.
    pub actors: Vec<(Arc<str>, usize, bool)>,
    /// Obligations to others that are not settled.
    pub owed: usize,
    /// Completed invocations whose outcome is kept.
    pub kept: usize,
    /// Tells that ended without success, oldest first.
    pub dead: Vec<DeadLetterView>,
    /// Marks kept for channels of nodes that are gone.
    pub closed_channels: usize,
    /// Senders that have opened their channels in this reign, those of nodes that are gone for the grace left out.
    pub senders: usize,
}

/// What a node's partitions hold, all together: what the bounds per partition are about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Unfinished invocations.
    pub unfinished: usize,
    /// Their bytes.
    pub unfinished_bytes: usize,
    /// Obligations to others that are buffered or not settled.
    pub outbox: usize,
    /// Their bytes.
    pub outbox_bytes: usize,
    /// Outcomes kept for their senders.
    pub kept: usize,
    /// Their bytes.
    pub kept_bytes: usize,
    /// Reminders.
    pub reminders: usize,
    /// Their bytes.
    pub reminders_bytes: usize,
    /// Actors that have had turns and are not passive, with what is in memory of them.
    pub awake: usize,
    /// Results of `start` kept.
    pub results: usize,
    /// Their bytes.
    pub results_bytes: usize,
    /// Dead letters kept.
    pub dead: usize,
    /// Their bytes.
    pub dead_bytes: usize,
    /// State operations that the store lacks, bytes.
    pub unstored_bytes: usize,
    /// Payloads of direct calls under way at the own host, bytes.
    pub direct_bytes: usize,
    /// Root turns that wait for a slot of the own host.
    pub slots_waited_for: usize,
}

/// An unfinished invocation, for people and tools.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InvocationView {
    /// Unique part of its id.
    pub uuid: Uuid,
    /// The instance, for actors.
    pub actor: Option<Arc<str>>,
    /// Method.
    pub method: Arc<str>,
    /// How it was invoked.
    pub mode: Mode,
    /// Where it stands.
    pub phase: Phase,
    /// Attempts begun.
    pub attempt: u32,
    /// Somebody asked for its end.
    pub cancel: bool,
    /// How the last attempt ended that did not end it, if there was one.
    pub ended: Option<Ended>,
    /// The next attempt starts at this time at the earliest; 0: as soon as it can.
    pub retry_at: Millis,
    /// The parked invocation that keeps its actor: it waits until somebody lets that one go on, or ends it.
    pub behind: Option<Uuid>,
}

/// A tell that ended without success, for people and tools.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetterView {
    /// Unique part of its id.
    pub uuid: Uuid,
    /// The instance, for actors.
    pub actor: Option<Arc<str>>,
    /// Method of its last step.
    pub method: Arc<str>,
    /// How it ended.
    pub outcome: Outcome,
    /// Attempts of its last step.
    pub attempts: u32,
    /// When it ended.
    pub time: Millis,
}

/// Where an unfinished invocation stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Waits for its turn, a slot or a host.
    Queued,
    /// Its code runs.
    Running,
    /// Its code waits for a call.
    Suspended,
    /// Its last attempt failed; the next one waits.
    Retrying,
    /// It goes on elsewhere by a tail call; its outcome comes back here.
    Moved,
    /// It has lost too many hosts, and rests until somebody takes it up again.
    Parked,
}

impl Node {
    /// A node that knows nothing yet; the first event should be [`Event::Members`].
    pub fn new(config: NodeConfig) -> Self {
        Self {
            env: Env::new(config),
            partitions: BTreeMap::new(),
            roots: Roots::default(),
            parked: BTreeMap::new(),
            parked_count: 0,
            waiting_turns: BTreeMap::new(),
            covered: BTreeSet::new(),
            asks: Asks::default(),
            views: Views::default(),
            last_session: None,
            direct: BTreeMap::new(),
            next_direct: 0,
            direct_waiting: BTreeMap::new(),
            direct_timers: Timers::default(),
            host_gone_at: None,
            drain_asked: false,
            touched: Vec::new(),
            timeouts: Timers::default(),
        }
    }

    /// The node's incarnation.
    pub fn id(&self) -> NodeId {
        self.env.id
    }

    /// Takes one event in. `now` should never run back; if it does, the latest time known counts.
    pub fn handle(&mut self, now: Millis, event: Event) {
        self.env.now = self.env.now.max(now);
        match event {
            Event::Members(members) => self.members(members),
            Event::Lease { valid } => {
                self.env.lease_valid = valid;
                self.each(|p, env| p.pump_all(env));
            }
            Event::Resumed => self.each(|p, env| p.resumed(env)),
            Event::LogRead { partition, offset, record } => {
                self.with(&partition, |p, env| p.read(env, offset, &record));
            }
            Event::LogOwn { partition, offset, proposal } => {
                self.with(&partition, |p, env| p.read_own(env, offset, proposal));
            }
            Event::AppendRefused { partition, proposal, bytes, bytes_max } => {
                let id = partition.clone();
                self.env.notice(Notice::RecordTooLong { partition, bytes, bytes_max });
                self.with(&id, |p, env| p.append_refused(env, proposal));
            }
            Event::LogEnd { partition } => self.with(&partition, |p, env| p.read_end(env)),
            Event::LogLost { partition } => self.with(&partition, |p, env| p.log_lost(env)),
            Event::PeerUp { node } => {
                self.env.peers.insert(node);
                self.env.review_reach();
                self.routes(None);
            }
            Event::PeerDown { node } => {
                self.env.peers.remove(&node);
                self.env.review_reach();
                self.routes(Some(node));
            }
            Event::Peer { from, message } => self.message(from, message),
            Event::HostUp { session, offer } => self.host_up(session, offer),
            Event::HostDown { session, dead } => self.host_down(session, dead),
            Event::HostLeaving { session } => self.host_leaving(session),
            Event::Request { request, operation } => self.request(request, operation),
            Event::Abandoned { request } => self.abandoned(request),
            Event::TurnResult { token, result } => self.turn_result(&token, result),
            Event::DirectResult { turn, result } => self.direct_result(turn, result),
            Event::StoreCell { partition, cell } => {
                self.with(&partition, |p, env| p.store_cell(env, cell));
            }
            Event::ActorLoaded { partition, epoch, actor, cell, state } => {
                self.with(&partition, |p, env| p.actor_loaded(env, epoch, &actor, cell, state));
            }
            Event::StoreFenced { partition, epoch, cell } => {
                self.with(&partition, |p, env| p.store_fenced(env, epoch, cell));
            }
            Event::StoreWritten { partition, epoch, upto } => {
                self.with(&partition, |p, env| p.store_written(env, epoch, upto));
            }
            Event::StoreRefused { partition, epoch, cell } => {
                self.with(&partition, |p, env| p.store_refused(env, epoch, cell));
            }
            Event::LogTrimmed { partition, start } => {
                self.with(&partition, |p, env| p.log_trimmed(env, start));
            }
            Event::SnapshotPut { partition, key, result } => {
                self.with(&partition, |p, env| p.snapshot_put(env, key, result));
            }
            Event::SnapshotGot { partition, key, result } => {
                self.with(&partition, |p, env| p.snapshot_got(env, key, result));
            }
            Event::SnapshotDeleted { partition, key, result } => {
                self.with(&partition, |p, env| p.snapshot_deleted(env, key, result));
            }
            Event::SnapshotsListed { partition, result } => {
                self.with(&partition, |p, env| p.snapshots_listed(env, result));
            }
            Event::InboxRead { inbox, offset, entry } => self.inbox_read(inbox, offset, entry),
            Event::InboxOwn { inbox, offset, proposal } => self.inbox_own(inbox, offset, proposal),
            Event::InboxLost { inbox } => self.inbox_lost(inbox),
            Event::InboxTrimmed { inbox, start } => self.inbox_trimmed(inbox, start),
            Event::Fetched { id, result } => {
                let partition = id.partition.clone();
                self.with(&partition, |p, env| p.fetched(env, &id, result));
            }
            Event::Inspected { to, request, view } => self.view_told(to, request, view),
            Event::Published { partition, to, serial, result } => {
                self.with(&partition, |p, env| p.published(env, &to, serial, result));
            }
            Event::StoreReset => self.each(|p, env| p.store_reset(env)),
            Event::KindRefused(refused) => self.kind_refused(&refused),
            Event::Drain => self.drain(),
            Event::Tick => self.tick(),
        }
        self.settle();
    }

    /// Next record to append. Drain these before the other effects.
    pub fn poll_append(&mut self) -> Option<Append> {
        if self.env.appends.is_empty() && !self.touched.is_empty() {
            self.flush();
        }
        self.env.appends.pop_front()
    }

    /// Next visible effect.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.env.effects.pop_front()
    }

    /// When [`Event::Tick`] is wanted at the latest; `None`: nothing is waited for.
    pub fn poll_timeout(&self) -> Option<Millis> {
        let grace = self.env.host_grace_until;
        let times = [
            self.timeouts.first(),
            self.roots.timeout(),
            self.asks.timeout(),
            self.views.timeout(),
            self.host_gone_at,
            self.direct_timers.first(),
            (grace > 0).then_some(grace),
        ];
        times.into_iter().flatten().min()
    }

    /// The partitions that the node serves, for people and tools.
    pub fn partitions(&self) -> Vec<PartitionView> {
        self.partitions.values().filter(|p| p.serving()).map(Partition::view).collect()
    }

    /// The subscriptions that the node serves, with how far they have come, for people and tools.
    pub fn subscriptions(&self) -> Vec<SubscriptionView> {
        let serving = self.partitions.values().filter(|p| p.serving());
        serving.flat_map(Partition::subscriptions).collect()
    }

    /// The members, as the node last heard of them.
    pub fn membership(&self) -> &Members {
        &self.env.members
    }

    /// The kinds that the node knows, with their partition counts.
    pub fn known_kinds(&self) -> Vec<(Kind, u32)> {
        self.env.members.kinds.iter().map(|(kind, count)| (kind.clone(), *count)).collect()
    }

    /// What the partitions that the node serves hold, for people and tools.
    pub fn held(&self) -> Held {
        let mut sum = Held::default();
        for held in self.partitions.values().filter(|p| p.serving()).map(Partition::held) {
            sum.unfinished += held.unfinished;
            sum.unfinished_bytes += held.unfinished_bytes;
            sum.outbox += held.outbox;
            sum.outbox_bytes += held.outbox_bytes;
            sum.kept += held.kept;
            sum.kept_bytes += held.kept_bytes;
            sum.results += held.results;
            sum.results_bytes += held.results_bytes;
            sum.dead += held.dead;
            sum.dead_bytes += held.dead_bytes;
            sum.unstored_bytes += held.unstored_bytes;
            sum.awake += held.awake;
            sum.reminders += held.reminders;
            sum.reminders_bytes += held.reminders_bytes;
        }
        let host = self.env.host.as_ref();
        sum.direct_bytes = host.map_or(0, |host| host.direct_bytes);
        sum.slots_waited_for = host.map_or(0, |host| host.waiting.len());
        sum
    }

    /// Records of the logs of partitions that the node serves which are in no snapshot, and their bytes: what a
    /// take-over would read.
    pub fn unsaved(&self) -> (u64, u64) {
        let unsaved = self.partitions.values().filter(|p| p.serving()).map(|p| p.unsaved);
        unsaved.fold((0, 0), |(records, bytes), u| (records + u.records, bytes + u.bytes))
    }

    /// How often each transition was taken, in the order of [`TRANSITIONS`](crate::cover::TRANSITIONS).
    #[cfg(feature = "coverage")]
    pub fn covered(&self) -> impl Iterator<Item = u32> + use<'_> {
        self.env.covered.counts()
    }

    /// Root invocations that are not finished.
    pub fn roots_open(&self) -> usize {
        self.roots.open()
    }
}

// Housekeeping.
impl Node {
    /// Lets one partition act.
    fn with(&mut self, id: &PartitionId, act: impl FnOnce(&mut Partition, &mut Env)) {
        if let Some(partition) = self.partitions.get_mut(id) {
            act(partition, &mut self.env);
            if !std::mem::replace(&mut partition.touched, true) {
                self.touched.push(id.clone());
            }
        }
    }

    /// Lets every partition act.
    fn each(&mut self, mut act: impl FnMut(&mut Partition, &mut Env)) {
        for (id, partition) in &mut self.partitions {
            act(partition, &mut self.env);
            if !std::mem::replace(&mut partition.touched, true) {
                self.touched.push(id.clone());
            }
        }
    }

    /// Carries out what the node owes itself: messages to itself, slots granted, calls
    /// with idempotency keys that are accepted.
    fn settle(&mut self) {
        // Every message to itself answers or forwards a finite piece of work; a mistake there must not take the
        // process.
        let limits = &self.env.limits;
        let steps = limits.unfinished_per_partition_max.saturating_add(limits.roots_per_node_max);
        let mut steps = steps.saturating_mul(SETTLE_STEPS_EACH);
        loop {
            steps = steps.saturating_sub(1);
            if steps == 0 {
                self.env.notice(Notice::BrokenInvariant { what: "a node keeps talking to itself" });
                break;
            }
            if let Some(message) = self.env.local.pop_front() {
                self.message(self.env.id, message);
            } else if let Some((partition, uuid)) = self.env.granted.pop_front() {
                self.with(&partition, |p, env| p.slot_granted(env, uuid));
                self.env.pass_slot();
            } else if let Some((request, invocation)) = self.env.to_await.pop_front() {
                self.await_outcome(request, invocation);
            } else if let Some(token) = self.env.resumable.pop_front() {
                self.resume_turn(&token);
            } else if let Some(token) = self.uncovered() {
                self.resume_turn(&token);
            } else {
                break;
            }
        }
        self.check_drained();
    }

    /// Cuts records of everything that was decided.
    fn flush(&mut self) {
        for id in std::mem::take(&mut self.touched) {
            let Some(partition) = self.partitions.get_mut(&id) else { continue };
            partition.touched = false;
            partition.flush(&mut self.env);
            self.timeouts.set(&id, partition.timeout(&self.env));
        }
    }

    fn tick(&mut self) {
        let now = self.env.now;
        for id in self.timeouts.due(now) {
            self.with(&id, |p, env| p.tick(env));
        }
        self.roots.tick(&mut self.env);
        self.ask_due();
        self.views_due();
        self.give_up_direct();
        if self.host_gone_at.is_some_and(|at| at <= now) {
            self.env.cover(Transition::HostAway);
            self.host_gone_at = None;
            self.offer(Vec::new());
        }
        if self.env.host_grace_until > 0 && self.env.host_grace_until <= now {
            self.env.cover(Transition::HostGraceOver);
            self.env.host_grace_until = 0;
            self.each(|p, env| {
                p.end_cancelled(env);
                p.pump_all(env);
            });
        }
    }

    fn members(&mut self, members: Members) {
        self.env.members = members;
        self.env.review_reach();
        self.follow_own_inbox();
        self.asks.members_seen(self.env.now);
        let kinds: Vec<_> = self.known_kinds();
        for (kind, count) in &kinds {
            for index in 0..*count {
                let id = PartitionId::new(kind.clone(), index);
                self.partitions.entry(id.clone()).or_insert_with(|| Partition::new(id));
            }
        }
        self.each(|p, env| p.review(env));
        self.roots.review(&mut self.env, None);
        self.review_asks(None);
        self.lose_direct(None);
        self.send_waiting_direct();
        for (kind, _) in kinds {
            let queue = self.parked.remove(&kind).unwrap_or_default();
            self.parked_count -= queue.len();
            for (request, operation) in queue {
                self.request(request, operation);
            }
        }
        for token in self.waiting_turns.keys().cloned().collect::<Vec<_>>() {
            self.resume_turn(&token);
        }
    }

    /// Peers changed: every channel finds its way anew.
    fn routes(&mut self, lost: Option<NodeId>) {
        self.each(|p, env| {
            if p.serving() {
                p.review_routes(env, lost);
            }
        });
        self.roots.review(&mut self.env, lost);
        self.review_asks(lost);
        self.lose_direct(lost);
        self.send_waiting_direct();
    }

    fn offer(&mut self, kinds: Vec<Kind>) {
        let leaving = self.env.leaving;
        self.env.emit(Effect::Offer { kinds, leaving });
    }

    fn drain(&mut self) {
        self.env.leaving = true;
        self.drain_asked = true;
        self.offer(Vec::new());
        self.each(|p, env| p.review(env));
    }

    fn check_drained(&mut self) {
        if !self.drain_asked {
            return;
        }
        let leaving = self.env.leaving;
        let env = &self.env;
        let done = self.partitions.values().all(|p| {
            if leaving {
                return p.stage == Stage::Off;
            }
            let hosted = env.host.as_ref().is_some_and(|h| h.offer.kinds.contains(&p.id.kind));
            !hosted || (!env.host_leaves(&p.id.kind) && !p.busy())
        });
        if done {
            self.drain_asked = false;
            self.env.emit(Effect::Drained);
        }
    }
}
