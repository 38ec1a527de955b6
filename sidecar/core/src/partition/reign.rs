//! What an owner holds beside the log's state, and how it is built from it: only from it (section 18, decision 1).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::{Partition, Stage};
use crate::effect::{Effect, Notice, RequestError};
use crate::env::Env;
use crate::event::{Cell, TailCall};
use crate::ids::{
    Epoch, Millis, NodeId, Number, Offset, PartitionId, RequestId, Sender, SessionId, TurnToken,
    Uuid,
};
use crate::invocation::{
    ActorOps, Invocation, Mode, Obligation, Outcome, Payload, Refusal, StateOp,
};
use crate::message::Message;
use crate::record::{Op, Record};
use crate::reminder::ReminderChange;
use crate::route::Route;
use crate::size::Tally;
use crate::state::Origin;

use super::ending::retry_pause;
use super::gate::{Gated, InFlight};

/// Nodes' requests that wait for one started invocation; more are forgotten, and ask again.
pub(super) const AWAITERS_MAX: usize = 1024;

/// What an owner holds.
#[derive(Debug, Default)]
pub(crate) struct Reign {
    /// The epoch: goes with every turn token.
    pub(super) epoch: Epoch,
    /// Epoch that the claim under way names.
    pub(super) claimed_after: Epoch,
    /// The claim's fate is unknown.
    pub(super) claim_lost: bool,
    /// Last sequence number read back valid.
    pub(super) committed: u64,
    /// Decided, applied, not yet cut into a record.
    pub(super) pending: Vec<Op>,
    pub(super) pending_bytes: usize,
    /// State operations of `pending`.
    pub(super) pending_store: Vec<ActorOps>,
    pub(super) inflight: VecDeque<InFlight>,
    /// What waits for a commit, in the order of sequence numbers (rule L5).
    pub(super) gated: VecDeque<(u64, Gated)>,
    /// Unfinished invocations, those not logged yet included.
    pub(super) items: BTreeMap<Uuid, Item>,
    /// Bytes of their invocations.
    pub(super) items_bytes: usize,
    /// Tells of other partitions that were taken while this one was over its bounds, by channel and number: they are
    /// reported as accepted when they have ended, so that the bounds of their senders' outboxes act (rule C7).
    pub(super) withheld: BTreeMap<(Sender, Number), Uuid>,
    /// Obligations that turns have buffered.
    pub(super) buffered: Tally,
    /// Reminders that turns have buffered.
    pub(super) buffered_reminders: Tally,
    /// Reminders wait because the partition is full: it was said.
    pub(super) reminders_wait: bool,
    /// `pump_actor` is at work: what ends inside it is seen by its own loop.
    pub(super) pumping: bool,
    /// Busy actors.
    pub(super) actors: BTreeMap<Arc<str>, Actor>,
    /// Service invocations that could not start yet, oldest first.
    pub(super) idle: BTreeSet<Uuid>,
    /// Calls taken but not logged yet, by channel, in order.
    pub(super) held: BTreeMap<Sender, VecDeque<(Number, Uuid)>>,
    /// The node that last spoke for each sender: told when the reign ends (rule C3).
    pub(super) senders: BTreeMap<Sender, (NodeId, Epoch)>,
    /// Newest statement of each sender (rule C3).
    pub(super) statements: BTreeMap<Sender, Statement>,
    /// Channels with numbers to be logged as closed.
    /// True: by a statement, not just below the lowest open number.
    pub(super) closings: BTreeMap<Sender, bool>,
    /// When they are logged at the latest.
    pub(super) close_at: Option<Millis>,
    /// When held root calls are logged at the latest.
    pub(super) accept_at: Option<Millis>,
    /// Deadlines of invocations that have not started.
    pub(super) deadlines: BTreeSet<(Millis, Uuid)>,
    /// Retries that back off.
    pub(super) retries: BTreeSet<(Millis, Uuid)>,
    pub(super) routes: BTreeMap<PartitionId, Route>,
    /// Children whose outcomes are here, not settled yet.
    pub(super) outcomes: BTreeSet<(PartitionId, Number)>,
    /// Open calls that their receivers say have retired: either this reign is over, or something is broken.
    pub(super) doubted: BTreeSet<(PartitionId, Number)>,
    /// Obligations whose durable outcome is here, to be settled if no turn does it first.
    pub(super) settling: BTreeMap<PartitionId, BTreeSet<Number>>,
    pub(super) settle_at: Option<Millis>,
    /// Nothing is dispatched before this (P3).
    pub(super) dispatch_after: Millis,
    /// Reads to the end before it dispatches (rule L4).
    pub(super) barriers: u32,
    /// Since when the partition is being handed over.
    pub(super) leaving: Option<Millis>,
    /// Running turns were cancelled because the hand-over took too long.
    pub(super) leaving_cancelled: bool,
    /// `Release` is proposed: nothing is decided any more.
    pub(super) released: bool,
    /// Senders whose node is gone, since when (rule C6).
    pub(super) departed: BTreeMap<NodeId, Millis>,
    // Storage.
    /// Actors' state, with everything decided so far.
    pub(super) cache: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Payload>>,
    /// Reads that wait for a load.
    pub(super) loading: BTreeMap<Arc<str>, Load>,
    /// Operations that the store may not have, per actor, in order.
    pub(super) unstored: BTreeMap<Arc<str>, VecDeque<(u64, StateOp)>>,
    /// Stamp of the last operation decided or replayed.
    pub(super) stamp: u64,
    /// Stamp of the last operation that the store has.
    pub(super) in_store: u64,
    /// Stamp of the last operation committed.
    pub(super) stored_stamp: u64,
    /// Committed operations for the store, in log order, with the stamp of their last operation.
    pub(super) store_queue: VecDeque<(Offset, u64, Vec<ActorOps>)>,
    /// The store's cell as last known: what a write expects. Its epoch counts once the store is fenced.
    pub(super) cell: Cell,
    pub(super) fenced: bool,
    /// The store held more than the log: it is asked again at this time, and used for nothing until then.
    pub(super) fence_at: Option<Millis>,
    /// A write is under way up to this offset.
    pub(super) writing: Option<Offset>,
}

/// A read that waits for a load.
#[derive(Debug)]
pub(super) struct WaitingRead {
    pub(super) request: RequestId,
    pub(super) reader: Reader,
    /// The keys wanted; all of them if absent.
    pub(super) keys: Option<Vec<Arc<str>>>,
}

/// Who reads.
#[derive(Debug)]
pub(super) enum Reader {
    /// A turn of the actor.
    Turn(TurnToken),
    /// A node, for somebody outside.
    Node(NodeId),
}

/// A load of an actor's state under way.
#[derive(Debug)]
pub(super) struct Load {
    /// What the store was known to hold when the load began: less means that it was rolled back.
    pub(super) known: Offset,
    /// Reads that wait for it.
    pub(super) waiting: Vec<WaitingRead>,
}

/// An unfinished invocation at its owner.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) invocation: Arc<Invocation>,
    pub(super) origin: Origin,
    /// Its `Accept` was decided.
    pub(super) logged: bool,
    pub(super) attempt: u32,
    /// Some attempt may have run: the next one is logged before it starts (rule T3).
    pub(super) started: bool,
    /// The current attempt is logged and committed, and has not been dispatched.
    pub(super) cleared: bool,
    /// No retry before this.
    pub(super) retry_at: Millis,
    /// Who gets the outcome: the node, and the epoch of the sending reign.
    pub(super) reply_to: Option<(NodeId, Epoch)>,
    /// Nodes that await the result of a `start`.
    pub(super) awaiters: Vec<(NodeId, RequestId)>,
    pub(super) stage: ItemStage,
}

/// Where an unfinished invocation stands.
#[derive(Debug)]
pub(super) enum ItemStage {
    /// Waits for the actor, a host, a slot, the grace, …
    Queued,
    /// Waits for a free slot.
    WaitSlot,
    /// Waits for outcomes of calls that earlier attempts made (rule T2).
    WaitChildren,
    /// Waits for a commit.
    WaitCommit,
    /// Its chain of tail calls goes on elsewhere; the outcome comes back here (rule C8).
    Moved,
    /// Its code runs.
    Running(Box<Turn>),
}

/// One attempt in user code.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) session: SessionId,
    pub(super) unflushed: Unflushed,
    /// Calls under way.
    pub(super) calls: BTreeMap<(PartitionId, Number), RequestId>,
    /// Outcomes received and not settled yet.
    pub(super) received: Vec<(PartitionId, Number)>,
    /// It returned, and operations of it wait outside for a kind to become known.
    pub(super) returned: bool,
    /// It returned; calls are still under way (rule T1).
    pub(super) result: Option<TurnEnd>,
    /// It holds a slot.
    pub(super) slot: bool,
    /// It was told to stop.
    pub(super) cancelled: bool,
}

/// What a turn did since its last flush: durable as a whole, or not at all (P5).
#[derive(Debug, Default)]
pub(super) struct Unflushed {
    /// State operations.
    pub(super) state: Vec<StateOp>,
    /// Obligations, not numbered yet.
    pub(super) sends: Vec<Obligation>,
    /// Changes to the actor's reminders.
    pub(super) reminders: Vec<ReminderChange>,
    /// Their bytes.
    pub(super) bytes: usize,
}

/// How a turn ended in user code.
#[derive(Debug)]
pub(crate) enum TurnEnd {
    /// With the invocation's outcome.
    Outcome(Outcome),
    /// With its next step, in the partition named (P6).
    TailCall(PartitionId, TailCall),
    /// It has stopped because it was told to.
    Cancelled,
}

/// A busy actor.
#[derive(Debug, Default)]
pub(super) struct Actor {
    /// The flow that holds it: turns stacked by re-entrancy, the topmost last.
    pub(super) stack: Vec<Uuid>,
    /// Invocations of the holding flow that wait to be let in.
    pub(super) inner: VecDeque<Uuid>,
    /// Everybody else.
    pub(super) queue: VecDeque<Uuid>,
    /// Completions decided and not committed: turns that run ahead of the log (rule L6).
    pub(super) ahead: u32,
}

/// What a sender said of its channel.
#[derive(Debug, Default)]
pub(super) struct Statement {
    /// Epoch of the sending partition's reign that made it; 0 for nodes.
    pub(super) from_epoch: Epoch,
    pub(super) highest: Number,
    pub(super) open: Vec<Number>,
    /// Numbers below this are closed, by what came with requests.
    pub(super) floor: Number,
}

impl Reign {
    /// Whether decisions wait for their commit.
    pub(super) fn in_flight(&self) -> bool {
        !self.inflight.is_empty() || !self.pending.is_empty()
    }
}

impl Item {
    /// Whether the current attempt may have run; not while it is yet to be logged or dispatched.
    fn attempt_ran(&self) -> bool {
        self.started && !self.cleared && !matches!(self.stage, ItemStage::WaitCommit)
    }

    pub(super) fn is_root(&self) -> bool {
        self.invocation.chain.is_empty()
    }

    pub(super) fn turn(&mut self) -> Option<&mut Turn> {
        match &mut self.stage {
            ItemStage::Running(turn) => Some(turn),
            _ => None,
        }
    }

    pub(super) fn running(&self) -> Option<&Turn> {
        match &self.stage {
            ItemStage::Running(turn) => Some(turn),
            _ => None,
        }
    }

    /// Whether calls of its flow may enter its actor.
    pub(super) fn suspended(&self) -> bool {
        match &self.stage {
            ItemStage::Running(turn) => !turn.calls.is_empty(),
            ItemStage::WaitChildren => true,
            _ => false,
        }
    }
}

impl Partition {
    /// The own claim was read back valid: the reign begins.
    pub(super) fn serve(&mut self, env: &mut Env, unclean: bool) {
        self.stage = Stage::Serving;
        self.finish = false;
        self.claim = None;
        let replayed = std::mem::take(&mut self.reign.store_queue);
        let stamp = self.reign.stamp;
        let unstored = std::mem::take(&mut self.reign.unstored);
        let epoch = self.state.epoch;
        self.reign = Reign {
            epoch,
            store_queue: replayed,
            unstored,
            stamp,
            stored_stamp: stamp,
            in_store: self.reign.in_store,
            cell: self.reign.cell,
            barriers: self.reign.barriers,
            ..Reign::default()
        };
        if unclean {
            self.reign.dispatch_after = env.now + env.limits.grace_ms;
        }
        self.restore_items(env, unclean);
        self.restore_routes(env);
        env.notice(Notice::Owned {
            partition: self.id.clone(),
            epoch: self.state.epoch,
            unfinished: self.state.entries.len(),
        });
        env.emit(Effect::FenceStore { partition: self.id.clone(), epoch: self.state.epoch });
        for (sender, (node, stated)) in std::mem::take(&mut self.opens) {
            self.open(env, node, sender, stated);
        }
        self.pump_all(env);
        self.review(env);
    }

    /// Rebuilds queues and locks from the log (rule T2: a flow with a committed `Progress` holds its actor).
    fn restore_items(&mut self, env: &mut Env, unclean: bool) {
        let mut entries: Vec<_> = self.state.entries.values().collect();
        entries.sort_by_key(|entry| entry.order);
        let (mut items, mut later) = (Vec::with_capacity(entries.len()), Vec::new());
        for entry in entries {
            let uuid = entry.invocation.uuid;
            let ran = unclean || entry.ran;
            let item = Item {
                invocation: entry.invocation.clone(),
                origin: entry.origin.clone(),
                logged: true,
                attempt: entry.attempt,
                started: ran || entry.attempt > 1,
                // An attempt that was logged and never ran is the next one.
                cleared: !ran && entry.attempt > 1,
                // An invocation that kills whole nodes must not take down one after the other at full speed.
                retry_at: retry_pause(entry.attempt).filter(|_| ran).map_or(0, |ms| env.now + ms),
                reply_to: None,
                awaiters: Vec::new(),
                stage: if entry.moved { ItemStage::Moved } else { ItemStage::Queued },
            };
            if entry.moved {
                items.push((uuid, item));
                continue;
            }
            if item.retry_at > 0 {
                self.reign.retries.insert((item.retry_at, uuid));
            }
            if let (Some(deadline), false) = (entry.invocation.deadline, item.started) {
                self.reign.deadlines.insert((deadline, uuid));
            }
            match &entry.invocation.actor {
                None => {
                    self.reign.idle.insert(uuid);
                }
                Some(actor) if entry.holds && env.rules.kept_lock => {
                    self.reign.actors.entry(actor.clone()).or_default().stack.push(uuid);
                }
                Some(_) => later.push(uuid),
            }
            items.push((uuid, item));
        }
        for (uuid, item) in items {
            self.insert_item(env, uuid, item);
        }
        for uuid in later {
            self.enqueue(uuid);
        }
    }

    /// Holds an invocation. A tell of another partition for which there is no room is taken all the same, but not
    /// reported yet; tells whether it is to be reported.
    pub(super) fn insert_item(&mut self, env: &Env, uuid: Uuid, item: Item) -> bool {
        let bytes = item.invocation.size();
        let is_full = !item.invocation.is_awaited() && self.full(env, bytes).is_some();
        let channel = item.origin.channel().filter(|_| is_full);
        let from_log = channel.filter(|(sender, _)| matches!(sender, Sender::Log { .. }));
        let withheld = from_log.is_some();
        if let Some((sender, number)) = from_log {
            self.reign.withheld.insert((sender.clone(), number), uuid);
        }
        self.reign.items_bytes += bytes;
        self.reign.items.insert(uuid, item);
        !withheld
    }

    /// Lets go of an invocation that ends.
    pub(super) fn remove_item(&mut self, env: &mut Env, uuid: Uuid) -> Option<Item> {
        let item = self.reign.items.remove(&uuid)?;
        self.reign.items_bytes -= item.invocation.size();
        if matches!(item.stage, ItemStage::WaitSlot) {
            env.leave_queue(uuid);
        }
        self.resume_reminders(env, item.invocation.actor.as_ref());
        Some(item)
    }

    /// The bound that leaves no room for one more invocation of so many bytes.
    pub(super) fn full(&self, env: &Env, bytes: usize) -> Option<Refusal> {
        let held = self.reign.items_bytes + self.state.kept.tally().bytes;
        if self.reign.items.len() >= env.limits.unfinished_per_partition_max {
            Some(Refusal::PartitionFull)
        } else if held + bytes > env.limits.unfinished_bytes_per_partition_max {
            Some(Refusal::PartitionBytesFull)
        } else {
            None
        }
    }

    fn restore_routes(&mut self, env: &mut Env) {
        let targets: Vec<_> = self.state.outbound.keys().cloned().collect();
        for to in targets {
            self.route(&to);
            let (route, out) = self.route_parts(&to);
            route.open(env, out);
        }
    }

    /// Ends a reign in disorder: nothing held survives.
    pub(super) fn abandon(&mut self, env: &mut Env) {
        let reign = std::mem::take(&mut self.reign);
        let attached =
            reign.items.values().filter_map(|i| Some((i.origin.sender()?, i.reply_to?.0)));
        let spoke = reign.senders.iter().map(|(sender, (node, _))| (sender, *node));
        for (sender, node) in attached.chain(spoke).collect::<BTreeSet<_>>() {
            self.refuse(env, node, sender.clone());
        }
        // Turns that the driver has not taken over yet never start.
        let mut undelivered = BTreeSet::new();
        env.effects.retain(|effect| match effect {
            Effect::Dispatch { turn, .. } if turn.token.invocation.home == self.id => {
                undelivered.insert(turn.token.clone());
                false
            }
            _ => true,
        });
        // Nor are they cancelled, if they were to be.
        env.effects.retain(|effect| match effect {
            Effect::Cancel { token, .. } => !undelivered.contains(token),
            _ => true,
        });
        for (uuid, item) in &reign.items {
            let token = self.token(item, reign.epoch);
            if matches!(item.stage, ItemStage::WaitSlot) {
                env.leave_queue(*uuid);
            }
            let ItemStage::Running(turn) = &item.stage else { continue };
            if !undelivered.contains(&token) {
                env.emit(Effect::Cancel { session: turn.session, token: token.clone() });
            }
            if turn.slot {
                env.free_slot();
            }
            for request in turn.calls.values() {
                let error = RequestError::TurnSuperseded(Box::new(token.clone()));
                env.respond(*request, Err(error));
            }
        }
        for read in reign.loading.into_values().flat_map(|load| load.waiting) {
            match read.reader {
                Reader::Turn(token) => {
                    let error = RequestError::TurnSuperseded(Box::new(token));
                    env.respond(read.request, Err(error));
                }
                Reader::Node(from) => self.refuse_read(env, from, read.request),
            }
        }
        for (_, gated) in reign.gated {
            if let Gated::Flushed { request, token } = gated {
                env.respond(request, Err(RequestError::TurnSuperseded(Box::new(token))));
            }
        }
    }

    /// The node begins to hand the partition over: no new roots start (design section 7).
    pub(super) fn begin_hand_over(&mut self, env: &mut Env) {
        if self.reign.leaving.is_none() {
            self.reign.leaving = Some(env.now);
        }
        self.try_release(env);
    }

    /// The partition is wanted here again.
    pub(super) fn end_hand_over(&mut self, env: &mut Env) {
        if self.reign.leaving.is_some() && !self.reign.released && !self.reign.leaving_cancelled {
            self.reign.leaving = None;
            self.pump_all(env);
        }
    }

    /// Releases when no turn runs any more.
    pub(super) fn try_release(&mut self, env: &mut Env) {
        if self.reign.leaving.is_none() || self.reign.released || !self.serving() {
            return;
        }
        if self.reign.items.values().any(|item| item.running().is_some()) {
            return;
        }
        // An orderly end tells the next owner that no code runs. Code of a host's broken stream, or of the reign before
        // an unclean take-over, may run until the grace is over (P3); `pump_all` comes back then.
        if env.now < self.reign.dispatch_after.max(env.host_grace_until) {
            return;
        }
        // Everything held goes into the log, and what may have started is logged as such: the next owner takes an
        // orderly end as proof that the rest has not.
        let senders: Vec<_> = self.reign.held.keys().cloned().collect();
        for sender in senders {
            self.log_held(env, &sender, Number::MAX);
        }
        let ran = self.reign.items.iter().filter(|(_, item)| item.attempt_ran());
        let ran: Vec<_> = ran.map(|(uuid, item)| (*uuid, item.attempt)).collect();
        for (uuid, attempt) in ran {
            // The same number again: it may have run. The next one is counted when it starts.
            self.push(env, Op::Attempt { uuid, attempt });
        }
        self.cut(env);
        self.state.seq += 1;
        let seq = self.state.seq;
        let proposal = env.proposal();
        let record = Record::Release { epoch: self.state.epoch, seq };
        self.reign.inflight.push_back(InFlight::new(seq, proposal, env.now, Vec::new()));
        self.append(env, proposal, record);
        self.reign.released = true;
        self.gate(env, Gated::Released);
    }

    /// The own `Release` was read back: whoever waits is sent to the next owner.
    pub(super) fn released(&mut self, env: &mut Env) {
        env.notice(Notice::Released { partition: self.id.clone() });
        self.state.released = true;
        self.abandon(env);
        if self.wanted(env) {
            self.read_anew(env);
        } else {
            self.rest(env);
        }
    }

    /// A node of the membership is gone: its channel closes after a grace (rule C6).
    pub(super) fn review_departed(&mut self, env: &mut Env) {
        for sender in self.state.inbound.keys().chain(self.reign.held.keys()) {
            if let Sender::Node(node) = sender
                && !env.members.nodes.contains_key(node)
            {
                self.reign.departed.entry(*node).or_insert(env.now);
            }
        }
        self.reign.departed.retain(|node, _| !env.members.nodes.contains_key(node));
    }

    /// Closes the channels of nodes that have been gone for the grace.
    pub(super) fn close_departed(&mut self, env: &mut Env) {
        let grace = env.limits.departed_grace_ms;
        let due: Vec<_> = self
            .reign
            .departed
            .iter()
            .filter(|(_, since)| **since + grace <= env.now)
            .map(|(node, _)| *node)
            .collect();
        for node in due {
            self.reign.departed.remove(&node);
            let sender = Sender::Node(node);
            self.log_held(env, &sender, Number::MAX);
            self.reign.statements.remove(&sender);
            let many = self.state.closed_nodes.above() >= env.limits.closed_channels_max;
            // It was gone for the grace, so lower incarnations that are not here came and went long ago.
            let floor = if many { NodeId(node.0 + 1) } else { NodeId(0) };
            let open = if many { self.open_below(env, floor) } else { Vec::new() };
            self.push(env, Op::CloseChannel { node, floor, open });
        }
    }

    /// Incarnations below `floor` whose channels may be in use: members, and those whose grace is not over.
    fn open_below(&self, env: &Env, floor: NodeId) -> Vec<NodeId> {
        let members = env.members.nodes.keys();
        let here = self.state.inbound.keys().chain(self.reign.held.keys());
        let here = here.filter_map(|sender| match sender {
            Sender::Node(node) => Some(node),
            Sender::Log { .. } => None,
        });
        let all = members.chain(self.reign.departed.keys()).chain(here);
        let closed = &self.state.closed_nodes;
        // The last one is being closed itself.
        let wanted = |node: &&NodeId| node.0 + 1 < floor.0 && !closed.contains(**node);
        all.filter(wanted).copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Asks for the result of a started invocation.
    pub(crate) fn await_result(
        &mut self,
        env: &mut Env,
        from: NodeId,
        request: RequestId,
        uuid: Uuid,
    ) {
        use crate::message::AwaitResult;
        if !self.serving() {
            let hint = self.owner_hint(env);
            let result = AwaitResult::NotOwner(hint);
            env.send(from, Message::Awaited { request, result });
            return;
        }
        if let Some(item) = self.reign.items.get_mut(&uuid)
            && item.invocation.mode == Mode::Start
        {
            // Those that were forgotten ask again.
            item.awaiters.retain(|waiting| *waiting != (from, request));
            if item.awaiters.len() >= AWAITERS_MAX {
                item.awaiters.remove(0);
            }
            item.awaiters.push((from, request));
            return;
        }
        let result = match self.state.results.get(&uuid) {
            Some(outcome) => AwaitResult::Done(outcome.clone()),
            None => AwaitResult::Unknown,
        };
        self.gate(env, Gated::Send { to: from, message: Message::Awaited { request, result } });
    }
}
