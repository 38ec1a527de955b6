//! The decisions of one node: everything a sidecar decides, behind one `handle`.

mod asks;
mod reminders;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use asks::Asks;
pub(crate) use reminders::OTHERS;

use crate::assign;
use crate::effect::{Append, Effect, Notice, RequestError, Response};
use crate::env::{DirectTurn, Env, Host, SlotQueue};
use crate::event::{Event, Members, Offer, Operation, TurnResult};
use crate::ids::{
    Epoch, Kind, Millis, NodeId, PartitionId, RequestId, Sender, SessionId, TurnToken, Uuid,
};
use crate::invocation::{ApplicationError, Invocation, Mode, Obligation, Outcome, Owed, Payload};
use crate::limits::{LimitHit, Limits, Rules};
use crate::message::{AwaitResult, DirectResult, Message, ReadResult};
use crate::partition::{Incoming, Partition, Stage, Stated, TurnEnd, TurnInvoke};
use crate::roots::Roots;
use crate::route::Opened;

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
}

/// All decisions of one sidecar. See the crate's documentation for how to drive it.
#[derive(Debug)]
pub struct Node {
    env: Env,
    partitions: BTreeMap<PartitionId, Partition>,
    roots: Roots,
    /// Root requests that wait for a kind to become known, in order.
    parked: BTreeMap<Kind, VecDeque<(RequestId, Operation)>>,
    /// Turns with an operation that waits for a kind to become known.
    waiting_turns: BTreeMap<TurnToken, WaitingTurn>,
    /// Those of them that wait for calls above them.
    covered: BTreeSet<TurnToken>,
    asks: Asks,
    /// Direct calls under way: whom they were sent to.
    direct: BTreeMap<RequestId, (NodeId, Kind)>,
    next_direct: u64,
    /// Direct calls that wait for the connection to a live host, and until when.
    direct_waiting: BTreeMap<RequestId, (Millis, DirectCall)>,
    /// The newest host's stream.
    last_session: Option<SessionId>,
    /// When a host that is away counts as gone.
    host_gone_at: Option<Millis>,
    /// `Drained` is owed.
    drain_asked: bool,
    /// Partitions that an event has touched since the last flush.
    touched: Vec<PartitionId>,
    timeouts: BTreeMap<PartitionId, Millis>,
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
#[derive(Debug)]
struct DirectCall {
    kind: Kind,
    method: Arc<str>,
    payload: Payload,
    trace: Arc<str>,
}

/// What a turn asked for since it invoked something of a kind that is not known yet: in program order, since a turn's
/// operations take effect in that order (P5, P7).
#[derive(Debug, Default)]
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
    /// Marks kept for channels of nodes that are gone.
    pub closed_channels: usize,
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
    /// Results of `start` kept.
    pub results: usize,
    /// Their bytes.
    pub results_bytes: usize,
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
}

impl Node {
    /// A node that knows nothing yet; the first event should be [`Event::Members`].
    pub fn new(config: NodeConfig) -> Self {
        Self {
            env: Env::new(config.id, config.seed, config.limits, config.rules),
            partitions: BTreeMap::new(),
            roots: Roots::default(),
            parked: BTreeMap::new(),
            waiting_turns: BTreeMap::new(),
            covered: BTreeSet::new(),
            asks: Asks::default(),
            last_session: None,
            direct: BTreeMap::new(),
            next_direct: 0,
            direct_waiting: BTreeMap::new(),
            host_gone_at: None,
            drain_asked: false,
            touched: Vec::new(),
            timeouts: BTreeMap::new(),
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
                self.routes(None);
            }
            Event::PeerDown { node } => {
                self.env.peers.remove(&node);
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
                self.with(&partition, |p, _| p.store_cell(cell));
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
            Event::StoreReset => self.each(|p, env| p.store_reset(env)),
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
            self.timeouts.values().min().copied(),
            self.roots.timeout(),
            self.asks.timeout(),
            self.host_gone_at,
            self.direct_waiting.values().map(|(until, _)| *until).min(),
            (grace > 0).then_some(grace),
        ];
        times.into_iter().flatten().min()
    }

    /// The partitions that the node serves, for people and tools.
    pub fn partitions(&self) -> Vec<PartitionView> {
        self.partitions.values().filter(|p| p.serving()).map(Partition::view).collect()
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
            sum.reminders += held.reminders;
            sum.reminders_bytes += held.reminders_bytes;
        }
        let host = self.env.host.as_ref();
        sum.direct_bytes = host.map_or(0, |host| host.direct_bytes);
        sum.slots_waited_for = host.map_or(0, |host| host.waiting.len());
        sum
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
            if self.touched.last() != Some(id) {
                self.touched.push(id.clone());
            }
        }
    }

    /// Lets every partition act.
    fn each(&mut self, mut act: impl FnMut(&mut Partition, &mut Env)) {
        for (id, partition) in &mut self.partitions {
            act(partition, &mut self.env);
            self.touched.push(id.clone());
        }
    }

    /// Carries out what the node owes itself: messages to itself, slots granted.
    fn settle(&mut self) {
        // Every message to itself answers or forwards a finite piece of work; a mistake there must not take the
        // process.
        let limits = &self.env.limits;
        let mut steps =
            SETTLE_STEPS_EACH * (limits.unfinished_per_partition_max + limits.roots_per_node_max);
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
            partition.flush(&mut self.env);
            match partition.timeout(&self.env) {
                Some(at) => self.timeouts.insert(id, at),
                None => self.timeouts.remove(&id),
            };
        }
    }

    fn tick(&mut self) {
        let now = self.env.now;
        let due: Vec<_> =
            self.timeouts.iter().filter(|(_, at)| **at <= now).map(|(id, _)| id.clone()).collect();
        for id in due {
            self.with(&id, |p, env| p.tick(env));
        }
        self.roots.tick(&mut self.env);
        self.ask_again(None);
        self.send_waiting_direct();
        if self.host_gone_at.is_some_and(|at| at <= now) {
            self.host_gone_at = None;
            self.offer(Vec::new());
        }
        if self.env.host_grace_until > 0 && self.env.host_grace_until <= now {
            self.env.host_grace_until = 0;
            self.each(|p, env| p.pump_all(env));
        }
    }

    fn members(&mut self, members: Members) {
        self.env.members = members;
        let kinds: Vec<_> = self.known_kinds();
        for (kind, count) in &kinds {
            for index in 0..*count {
                let id = PartitionId::new(kind.clone(), index);
                self.partitions.entry(id.clone()).or_insert_with(|| Partition::new(id));
            }
        }
        self.each(|p, env| p.review(env));
        self.roots.review(&mut self.env, None);
        self.ask_again(None);
        self.lose_direct();
        self.send_waiting_direct();
        for (kind, _) in kinds {
            for (request, operation) in self.parked.remove(&kind).into_iter().flatten() {
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
        self.ask_again(lost);
        self.lose_direct();
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

// The component.
impl Node {
    fn host_up(&mut self, session: SessionId, offer: Offer) {
        for kind in &offer.kinds {
            if !self.env.members.kinds.contains_key(kind) {
                self.env.emit(Effect::EnsureKind { kind: kind.clone() });
            }
        }
        self.host_gone_at = None;
        self.last_session = Some(session);
        let kinds = offer.kinds.clone();
        self.env.host = Some(Host {
            session,
            offer,
            leaving: false,
            slots_used: 0,
            waiting: SlotQueue::default(),
            direct: BTreeMap::new(),
            direct_bytes: 0,
        });
        if !self.env.leaving {
            self.offer(kinds);
        }
        self.each(|p, env| p.pump_all(env));
    }

    fn host_down(&mut self, session: SessionId, dead: bool) {
        if self.env.host.as_ref().is_none_or(|h| h.session != session) {
            if dead && self.last_session == Some(session) {
                // Known only now: nothing of it can still run.
                self.env.host_grace_until = 0;
                if self.host_gone_at.take().is_some() {
                    self.offer(Vec::new());
                }
                self.each(|p, env| p.pump_all(env));
            }
            return;
        }
        let Some(host) = self.env.host.take() else { return };
        // Nobody is left to be told that a host's own leaving is complete.
        self.drain_asked &= self.env.leaving;
        for DirectTurn { from, request, .. } in host.direct.into_values() {
            let result = DirectResult::Lost;
            self.env.send(from, Message::DirectReply { request, result });
        }
        self.env.granted.clear();
        if !dead {
            self.env.host_grace_until = self.env.now + self.env.limits.grace_ms;
        }
        self.each(|p, env| p.session_lost(env, session));
        if dead || host.leaving {
            self.offer(Vec::new());
        } else {
            self.host_gone_at = Some(self.env.now + self.env.limits.host_return_ms);
        }
    }

    fn host_leaving(&mut self, session: SessionId) {
        let Some(host) = self.env.host.as_mut() else { return };
        if host.session != session {
            return;
        }
        host.leaving = true;
        self.drain_asked = true;
        self.offer(Vec::new());
        self.each(|p, env| p.review(env));
    }

    fn request(&mut self, request: RequestId, operation: Operation) {
        if let Some(token) = turn_of(&operation)
            && (self.waiting_turns.contains_key(token) || self.is_covered(token))
        {
            return self.wait_in_turn(request, operation);
        }
        match operation {
            Operation::Invoke { .. } => self.invoke(request, operation),
            Operation::InvokeDirect { kind, method, payload, trace } => {
                self.invoke_direct(request, DirectCall { kind, method, payload, trace });
            }
            Operation::Await { invocation } => self.await_outcome(request, invocation),
            Operation::StateOf { kind, actor, keys } => {
                self.read_state(request, kind, actor, keys);
            }
            Operation::StateRead { turn, keys } => {
                self.in_turn(request, &turn, |p, env| p.state_read(env, request, &turn, keys));
            }
            Operation::StateApply { turn, ops } => {
                self.in_turn(request, &turn, |p, env| p.state_apply(env, request, &turn, ops));
            }
            Operation::Flush { turn } => {
                self.in_turn(request, &turn, |p, env| p.turn_flush(env, request, &turn));
            }
            Operation::Remind { .. } => self.remind(request, operation),
            Operation::Reminders { turn, kind, actor } => {
                self.reminders(request, turn, kind, actor);
            }
        }
    }

    /// Lets the partition that a turn belongs to act; a turn of a partition that is not served here is superseded.
    fn in_turn(
        &mut self,
        request: RequestId,
        token: &TurnToken,
        act: impl FnOnce(&mut Partition, &mut Env),
    ) {
        let home = &token.invocation.home;
        if self.partitions.get(home).is_some_and(|p| p.serving()) {
            self.with(home, act);
        } else {
            let error = RequestError::TurnSuperseded(Box::new(token.clone()));
            self.env.respond(request, Err(error));
        }
    }

    fn invoke(&mut self, request: RequestId, operation: Operation) {
        let Operation::Invoke { turn, mode, target, .. } = &operation else { return };
        if turn.is_none() && self.env.leaving {
            return self.env.respond(request, Err(RequestError::Draining));
        }
        if turn.is_some() && *mode == Mode::Start {
            let error = RequestError::Invalid("start is for clients; in a turn, tell");
            return self.env.respond(request, Err(error));
        }
        let parked = self.parked();
        let limit = self.env.limits.roots_per_node_max;
        if parked >= limit || (self.roots.open() + parked >= limit && turn.is_none()) {
            let hit = self.env.limit("roots_per_node_max", limit);
            return self.env.respond(request, Err(RequestError::Limit(hit)));
        }
        let Some(count) = self.env.members.kinds.get(&target.kind).copied() else {
            return self.park(request, operation);
        };
        let uuid = self.env.uuid();
        let index = assign::partition_index(target, uuid, count);
        let to = PartitionId::new(target.kind.clone(), index);
        let Operation::Invoke { turn, mode, target, method, payload, deadline, trace } = operation
        else {
            return;
        };
        let actor = target.actor;
        if let Some(turn) = turn {
            let invoke = TurnInvoke { to, uuid, mode, actor, method, payload, deadline, trace };
            self.in_turn(request, &turn, |p, env| p.turn_invoke(env, request, &turn, invoke));
            return;
        }
        let invocation = Invocation {
            uuid,
            mode,
            actor,
            method,
            payload,
            chain: [].into(),
            deadline,
            trace,
            step: 1,
            home: None,
        };
        let owed = Owed::Invocation(Arc::new(invocation));
        let obligation = Obligation { to, owed, parent: None };
        self.roots.add(&mut self.env, request, obligation);
    }

    /// Requests that wait for a kind.
    fn parked(&self) -> usize {
        let roots: usize = self.parked.values().map(VecDeque::len).sum();
        roots + self.waiting_turns.values().map(|turn| turn.operations.len()).sum::<usize>()
    }

    /// Keeps an invocation until its kind is known.
    fn park(&mut self, request: RequestId, operation: Operation) {
        let kind = match &operation {
            Operation::Invoke { target, .. } => target.kind.clone(),
            Operation::Remind { kind, .. } => kind.clone(),
            _ => return,
        };
        if turn_of(&operation).is_some() {
            self.wait_in_turn(request, operation);
            return self.env.emit(Effect::EnsureKind { kind });
        }
        let queue = self.parked.entry(kind.clone()).or_default();
        queue.push_back((request, operation));
        if queue.len() == 1 {
            self.env.emit(Effect::EnsureKind { kind });
        }
    }

    /// Whether calls that were let in run above a turn.
    fn is_covered(&self, token: &TurnToken) -> bool {
        self.env.rules.only_top
            && self.partitions.get(&token.invocation.home).is_some_and(|p| p.is_covered(token))
    }

    /// A turn that waited below others, and need not any more.
    fn uncovered(&mut self) -> Option<TurnToken> {
        let token = self.covered.iter().find(|token| !self.is_covered(token))?.clone();
        self.covered.remove(&token);
        Some(token)
    }

    /// Keeps an operation of a turn until its turn comes, if the turn is still the current attempt.
    fn wait_in_turn(&mut self, request: RequestId, operation: Operation) {
        let Some(token) = turn_of(&operation).cloned() else { return };
        let served = self.partitions.get(&token.invocation.home).filter(|p| p.serving());
        let superseded = || RequestError::TurnSuperseded(Box::new(token.clone()));
        let checked = served.ok_or_else(superseded).and_then(|p| p.check_turn(&self.env, &token));
        if let Err(error) = checked {
            return self.env.respond(request, Err(error));
        }
        if self.waiting_turns.get(&token).is_some_and(|turn| turn.result.is_some()) {
            return self.env.respond(request, Err(RequestError::TurnEnded(Box::new(token))));
        }
        let limit = self.env.limits.roots_per_node_max;
        if self.parked() >= limit {
            let hit = self.env.limit("roots_per_node_max", limit);
            return self.env.respond(request, Err(RequestError::Limit(hit)));
        }
        if self.is_covered(&token) {
            self.covered.insert(token.clone());
        }
        let waiting = self.waiting_turns.entry(token).or_default();
        waiting.operations.push_back((request, operation));
    }

    /// Goes on with a turn, up to the next operation that has to wait.
    fn resume_turn(&mut self, token: &TurnToken) {
        let Some(mut waiting) = self.waiting_turns.remove(token) else { return };
        while let Some((request, operation)) = waiting.operations.pop_front() {
            // What was asked for just before may have to wait again.
            if !self.waiting_turns.contains_key(token)
                && let Operation::Invoke { target, .. } = &operation
                && !self.env.members.kinds.contains_key(&target.kind)
            {
                let kind = target.kind.clone();
                waiting.operations.push_front((request, operation));
                self.waiting_turns.insert(token.clone(), waiting);
                return self.env.emit(Effect::EnsureKind { kind });
            }
            self.request(request, operation);
        }
        if let Some(result) = waiting.result {
            self.turn_result(token, result);
        }
    }

    fn turn_result(&mut self, token: &TurnToken, result: TurnResult) {
        if let (Some(waiting), false) =
            (self.waiting_turns.get_mut(token), result == TurnResult::Cancelled)
        {
            waiting.result.get_or_insert(result);
            return self.with(&token.invocation.home, |p, _| p.turn_returned(token));
        }
        let end = match result {
            TurnResult::Ended(outcome) => TurnEnd::Outcome(outcome),
            TurnResult::Cancelled => TurnEnd::Cancelled,
            TurnResult::TailCall(call) => {
                let kind = call.target.kind.clone();
                let Some(count) = self.env.members.kinds.get(&kind).copied() else {
                    return self.wait_for_kind(token, TurnResult::TailCall(call));
                };
                let uuid = token.invocation.uuid;
                let index = assign::partition_index(&call.target, uuid, count);
                TurnEnd::TailCall(PartitionId::new(kind, index), call)
            }
        };
        let waiting = self.waiting_turns.remove(token).unwrap_or_default();
        for (request, _) in waiting.operations {
            let error = RequestError::TurnSuperseded(Box::new(token.clone()));
            self.env.respond(request, Err(error));
        }
        self.with(&token.invocation.home, |p, env| p.turn_result(env, token, end));
    }

    /// A turn ended with a tail call to a kind that is not known yet.
    fn wait_for_kind(&mut self, token: &TurnToken, result: TurnResult) {
        let TurnResult::TailCall(call) = &result else { return };
        let served = self.partitions.get(&token.invocation.home).filter(|p| p.serving());
        if served.is_none_or(|p| p.check_turn(&self.env, token).is_err()) {
            return;
        }
        self.env.emit(Effect::EnsureKind { kind: call.target.kind.clone() });
        self.waiting_turns.entry(token.clone()).or_default().result = Some(result);
        self.with(&token.invocation.home, |p, _| p.turn_returned(token));
    }

    fn abandoned(&mut self, request: RequestId) {
        self.roots.abandon(request);
        self.asks.end(request);
        self.direct.remove(&request);
        self.direct_waiting.remove(&request);
        for queue in self.parked.values_mut() {
            // Operations of turns are not here: their turns count on them.
            queue.retain(|(id, _)| *id != request);
        }
    }

    fn invoke_direct(&mut self, request: RequestId, call: DirectCall) {
        let env = &self.env;
        let hosts =
            || env.members.nodes.iter().filter(|(_, m)| m.kinds.contains(&call.kind) && !m.leaving);
        let connected = || hosts().map(|(id, _)| *id).filter(|id| env.reachable(*id));
        let turn = self.next_direct.checked_rem(connected().count() as u64).unwrap_or(0);
        let own = env.session_for(&call.kind).map(|_| env.id);
        if let Some(node) = own.or_else(|| connected().nth(turn as usize)) {
            let DirectCall { kind, method, payload, trace } = call;
            self.next_direct += 1;
            self.direct.insert(request, (node, kind.clone()));
            self.env.send(node, Message::Direct { request, kind, method, payload, trace });
        } else if hosts().next().is_some()
            && self.direct_waiting.len() < env.limits.roots_per_node_max
        {
            self.direct_waiting.insert(request, (env.now + DIRECT_WAIT_MS, call));
        } else {
            self.env.respond(request, Err(RequestError::NoHost(call.kind)));
        }
    }

    /// Sends direct calls that waited for a connection, and gives up those that waited for too long.
    fn send_waiting_direct(&mut self) {
        let now = self.env.now;
        for (request, (until, call)) in std::mem::take(&mut self.direct_waiting) {
            if now >= until {
                self.env.respond(request, Err(RequestError::NoHost(call.kind)));
                continue;
            }
            self.invoke_direct(request, call);
            if let Some((at, _)) = self.direct_waiting.get_mut(&request) {
                *at = until;
            }
        }
    }

    /// Direct calls to nodes that are gone are lost.
    fn lose_direct(&mut self) {
        let env = &self.env;
        let lost: Vec<_> = self
            .direct
            .iter()
            .filter(|(_, (node, _))| !env.reachable(*node))
            .map(|(request, _)| *request)
            .collect();
        for request in lost {
            self.direct.remove(&request);
            let error = RequestError::Unknown("the connection to the host broke");
            self.env.respond(request, Err(error));
        }
    }

    fn direct_result(&mut self, turn: u64, result: TurnResult) {
        let Some(host) = self.env.host.as_mut() else { return };
        let Some(DirectTurn { from, request, bytes }) = host.direct.remove(&turn) else { return };
        host.direct_bytes -= bytes;
        let result = match result {
            TurnResult::Ended(outcome) => DirectResult::Ended(outcome),
            TurnResult::Cancelled => DirectResult::Lost,
            TurnResult::TailCall(_) => DirectResult::Ended(Outcome::Failed(
                ApplicationError::of_kar("kar.INVALID_TAIL_CALL", "a direct call cannot go on"),
            )),
        };
        self.env.send(from, Message::DirectReply { request, result });
    }
}

// Peers.
impl Node {
    fn message(&mut self, from: NodeId, message: Message) {
        match message {
            Message::Open { sender, from_epoch, to, highest, open, answered } => {
                if self.partitions.contains_key(&to) {
                    let stated = Stated { from_epoch, highest, open, answered };
                    self.with(&to, |p, env| p.open(env, from, sender, stated));
                } else {
                    self.refuse(from, sender, to);
                }
            }
            Message::Request { sender, from_epoch, to, epoch, number, floor, asks, owed } => {
                if self.partitions.contains_key(&to) {
                    let incoming =
                        Incoming { from, sender, from_epoch, epoch, number, floor, asks, owed };
                    self.with(&to, |p, env| p.request(env, incoming));
                } else {
                    self.refuse(from, sender, to);
                }
            }
            Message::Await { request, partition, uuid } => {
                if self.partitions.contains_key(&partition) {
                    self.with(&partition, |p, env| p.await_result(env, from, request, uuid));
                } else {
                    let result = AwaitResult::NotOwner(None);
                    self.env.send(from, Message::Awaited { request, result });
                }
            }
            Message::Awaited { request, result } => self.awaited(request, result),
            Message::Read { request, partition, actor, keys } => {
                if self.partitions.contains_key(&partition) {
                    self.with(&partition, |p, env| p.read_outside(env, from, request, actor, keys));
                } else {
                    let result = ReadResult::NotOwner(None);
                    self.env.send(from, Message::ReadDone { request, result });
                }
            }
            Message::ListReminders { request, partition, actor } => {
                if self.partitions.contains_key(&partition) {
                    self.with(&partition, |p, env| p.list_reminders(env, from, request, &actor));
                } else {
                    let result = ReadResult::NotOwner(None);
                    self.env.send(from, Message::ReadDone { request, result });
                }
            }
            Message::ReadDone { request, result } => self.read_done(request, result),
            Message::Direct { request, kind, method, payload, trace } => {
                self.direct_call(from, request, kind, method, payload, trace);
            }
            Message::DirectReply { request, result } => self.direct_reply(request, result),
            Message::Opened { .. }
            | Message::Known { .. }
            | Message::Reply { .. }
            | Message::Accepted { .. }
            | Message::Gone { .. }
            | Message::Gap { .. }
            | Message::ChannelClosed { .. }
            | Message::NotOwner { .. } => self.answer(from, message),
        }
    }

    /// An answer on a channel of this node or of one of its partitions.
    fn answer(&mut self, node: NodeId, message: Message) {
        let sender = match &message {
            Message::Opened { sender, .. }
            | Message::Known { sender, .. }
            | Message::Reply { sender, .. }
            | Message::Accepted { sender, .. }
            | Message::Gone { sender, .. }
            | Message::Gap { sender, .. }
            | Message::ChannelClosed { sender, .. }
            | Message::NotOwner { sender, .. } => sender.clone(),
            _ => return,
        };
        match sender {
            Sender::Node(id) if id == self.env.id => self.answer_roots(node, message),
            Sender::Node(_) => {}
            Sender::Log { partition, log } => self.with(&partition, |p, env| {
                // Another log of the same name has other numbers.
                if p.state.log == Some(log) {
                    p.answer(env, node, message);
                }
            }),
        }
    }

    fn answer_roots(&mut self, node: NodeId, message: Message) {
        let (roots, env) = (&mut self.roots, &mut self.env);
        match message {
            Message::Opened { to, epoch, next, resume_at, .. } => {
                roots.opened(env, node, &to, Opened { epoch, next, resume_at });
            }
            Message::Known { from, epoch, next, .. } => roots.known(env, node, &from, epoch, next),
            Message::Reply { from, number, outcome, .. } => {
                roots.reply(env, &from, number, outcome);
            }
            Message::Accepted { from, numbers, .. } => roots.accepted(env, &from, &numbers),
            Message::Gone { from, number, .. } => roots.gone(env, &from, number),
            Message::Gap { from, epoch, .. } => roots.gap(env, node, &from, epoch),
            Message::ChannelClosed { from, .. } => roots.channel_closed(env, &from),
            Message::NotOwner { partition, epoch, hint, .. } => {
                roots.not_owner(env, node, &partition, epoch, hint);
            }
            _ => {}
        }
    }

    fn refuse(&mut self, to: NodeId, sender: Sender, partition: PartitionId) {
        let hint = self.env.desired_owner(&partition);
        self.env.send(to, Message::NotOwner { sender, partition, epoch: 0, hint });
    }

    fn direct_call(
        &mut self,
        from: NodeId,
        request: RequestId,
        kind: Kind,
        method: Arc<str>,
        payload: Payload,
        trace: Arc<str>,
    ) {
        let bytes = payload.data.len();
        let admitted = self.admit_direct(&kind, bytes);
        let session = match admitted {
            Ok(session) => session,
            Err(result) => {
                if let DirectResult::Limit(hit) = &result {
                    self.env.notice(Notice::Limit(*hit));
                }
                return self.env.send(from, Message::DirectReply { request, result });
            }
        };
        self.next_direct += 1;
        let turn = self.next_direct;
        if let Some(host) = self.env.host.as_mut() {
            host.direct.insert(turn, DirectTurn { from, request, bytes });
            host.direct_bytes += bytes;
        }
        self.env.emit(Effect::DispatchDirect { session, turn, kind, method, payload, trace });
    }

    /// The session that a direct call can run in now, or why it does not.
    fn admit_direct(&self, kind: &Kind, bytes: usize) -> Result<SessionId, DirectResult> {
        let session = self.env.session_for(kind).ok_or(DirectResult::NoHost)?;
        let host = self.env.host.as_ref().ok_or(DirectResult::NoHost)?;
        let limit = |name, limit| Err(DirectResult::Limit(LimitHit { name, limit }));
        if host.direct.len() >= host.offer.concurrency as usize {
            return limit(DIRECT_CONCURRENCY, host.offer.concurrency.into());
        }
        let bytes_max = self.env.limits.direct_bytes_max;
        // One of any length may run alone.
        if host.direct_bytes > 0 && host.direct_bytes + bytes > bytes_max {
            return limit("direct_bytes_max", bytes_max as u64);
        }
        Ok(session)
    }

    fn direct_reply(&mut self, request: RequestId, result: DirectResult) {
        let Some((_, kind)) = self.direct.remove(&request) else { return };
        let response = match result {
            DirectResult::Ended(outcome) => Ok(Response::Outcome { invocation: None, outcome }),
            DirectResult::Lost => Err(RequestError::Unknown("the host went away")),
            DirectResult::NoHost => Err(RequestError::NoHost(kind)),
            DirectResult::Limit(hit) => Err(RequestError::Limit(hit)),
        };
        self.env.respond(request, response);
    }
}

/// The turn that an operation belongs to.
fn turn_of(operation: &Operation) -> Option<&TurnToken> {
    match operation {
        Operation::Invoke { turn, .. }
        | Operation::Remind { turn, .. }
        | Operation::Reminders { turn, .. } => turn.as_ref(),
        Operation::StateRead { turn, .. }
        | Operation::StateApply { turn, .. }
        | Operation::Flush { turn } => Some(turn),
        Operation::InvokeDirect { .. } | Operation::Await { .. } | Operation::StateOf { .. } => {
            None
        }
    }
}
