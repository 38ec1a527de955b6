//! What an owner holds beside the log's state, and how it is built from it: only from it (section 18, decision 1).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::by_name::ByName;
use crate::event::{Cell, TailCall};
use crate::events::{EventOrigin, Publication};
use crate::ids::{
    Epoch, Millis, NodeId, Number, Offset, PartitionId, RequestId, Sender, SessionId, TurnToken,
    Uuid,
};
use crate::invocation::{ActorOps, Invocation, Obligation, Outcome, RetryPolicy, StateOp};
use crate::record::Op;
use crate::reminder::{Reminder, ReminderChange};
use crate::route::Route;
use crate::select::Select;
use crate::size::Tally;
use crate::state::Origin;
use crate::trouble::Ended;

use super::cached::ActorState;
use super::deadlock::Probes;
use super::delivery::Deliveries;
use super::gate::{Gated, InFlight};
use super::inbox::Taking;
use super::life::Awake;
use super::lock::Lock;
use super::publisher::Publishing;
use super::questions::Questions;
use super::snapshots::Saving;
use super::spares::Spares;
use super::withdraw::Withdrawals;

/// Nodes' requests that wait for one started invocation; more are forgotten, and ask again.
pub(super) const AWAITERS_MAX: usize = 1024;

/// What an owner holds.
#[derive(Clone, Debug, Default)]
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
    /// How many decisions the last record had.
    pub(super) cut_ops: usize,
    /// State operations of `pending`.
    pub(super) pending_store: Vec<ActorOps>,
    pub(super) inflight: VecDeque<InFlight>,
    /// What waits for a commit, in the order of sequence numbers (rule L5).
    pub(super) gated: VecDeque<(u64, Gated)>,
    /// Unfinished invocations, those not logged yet included.
    pub(super) items: BTreeMap<Uuid, Box<Item>>,
    /// Bytes of their invocations.
    pub(super) items_bytes: usize,
    /// Tells of other partitions, and what inboxes promised, that were taken while this one was over its bounds, by
    /// channel and number: they are reported as accepted when they have ended, so that the bounds of their senders act
    /// (rule C7): of outboxes, and of a node's roots.
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
    pub(super) actors: ByName<Box<Actor>>,
    pub(super) spare_actors: Spares,
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
    /// What is read of topics and delivered.
    pub(super) deliveries: Deliveries,
    /// Events that were delivered here and have not ended, by channel.
    pub(super) waiting_events: BTreeMap<Sender, usize>,
    /// Channels into topics.
    pub(super) publishing: Publishing,
    /// Nothing is dispatched before this (P3).
    pub(super) dispatch_after: Millis,
    /// Ends of the log that will be reported.
    pub(super) ends: u32,
    /// So many of them are to be reported before anything is dispatched (rule L4).
    pub(super) barriers: u32,
    /// Questions from outside turns.
    pub(super) questions: Questions,
    /// What is known of probes for flows that wait for each other.
    pub(super) probes: Probes,
    /// Who waits for calls that may be withdrawn.
    pub(super) withdrawals: Withdrawals,
    /// Since when the partition is being handed over.
    pub(super) leaving: Option<Millis>,
    /// Running turns were cancelled because the hand-over took too long.
    pub(super) leaving_cancelled: bool,
    /// `Release` is proposed: nothing is decided any more.
    pub(super) released: bool,
    /// How far it has come with the inbox.
    pub(super) taking: Taking,
    /// Senders whose node is gone, since when (rule C6).
    pub(super) departed: BTreeMap<NodeId, Millis>,
    // Storage.
    /// Actors that have had turns.
    pub(super) awake: Awake,
    /// Actors' state, with everything decided so far.
    pub(super) cache: BTreeMap<Arc<str>, ActorState>,
    /// Reads that wait for a load.
    pub(super) loading: BTreeMap<Arc<str>, Load>,
    /// Operations that the store may not have, per actor, in order.
    pub(super) unstored: BTreeMap<Arc<str>, VecDeque<(u64, StateOp)>>,
    /// Their bytes.
    pub(super) unstored_bytes: usize,
    /// They are too many: no turn starts.
    pub(super) store_behind: bool,
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
    /// The store has said where it stands.
    pub(super) cell_known: bool,
    pub(super) fenced: bool,
    /// When it was fenced first: from then on a store that goes back is noticed.
    pub(super) store_since: Millis,
    /// The store held more than the log: it is asked again at this time, and used for nothing until then.
    pub(super) fence_at: Option<Millis>,
    /// A write is under way up to this offset.
    pub(super) writing: Option<Offset>,
    /// The snapshot that is being taken.
    pub(super) saving: Saving,
    /// Snapshots that were not stored since the last one that was.
    pub(super) puts_failed: u32,
}

/// A read that waits for a load.
#[derive(Clone, Debug)]
pub(super) struct WaitingRead {
    pub(super) request: RequestId,
    pub(super) reader: Reader,
    /// What is wanted.
    pub(super) select: Select,
}

/// Who reads.
#[derive(Clone, Debug)]
pub(super) enum Reader {
    /// A turn of the actor.
    Turn(TurnToken),
    /// A node, for somebody outside.
    Node(NodeId),
}

/// A load of an actor's state under way.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// What the store was known to hold when the load began: less means that it was rolled back.
    pub(super) known: Offset,
    /// Reads that wait for it.
    pub(super) waiting: Vec<WaitingRead>,
    /// Turns that wait for it to write.
    pub(super) writers: Vec<TurnToken>,
}

/// An unfinished invocation at its owner.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) invocation: Arc<Invocation>,
    pub(super) origin: Origin,
    /// Its `Accept` was decided.
    pub(super) logged: bool,
    /// Sequence number that commits what was decided of it last, before its start; 0: it was found in the log.
    pub(super) decided: u64,
    pub(super) attempt: u32,
    /// Some attempt may have run: the next one is logged before it starts (rule T3).
    pub(super) started: bool,
    /// The current attempt is logged and committed, and has not been dispatched.
    pub(super) cleared: bool,
    /// Its sender had sent it before, to a reign that may have run it ahead of the log and was lost: now it starts when
    /// it is logged, so that what kills its host at once is seen to come again.
    pub(super) resent: bool,
    /// It is taken whatever the bounds say: its requester was told that it is accepted.
    pub(super) promised: bool,
    /// It holds a slot of its host.
    pub(super) slot: bool,
    /// It counts as started because its host was lost, but the log says nothing of a start: it still expires.
    pub(super) unmarked: bool,
    /// No retry before this.
    pub(super) retry_at: Millis,
    /// It was let in as a turn of a shared method.
    pub(super) shared: bool,
    /// How the current attempt ended, if it did and that is not logged yet.
    pub(super) ended: Option<Ended>,
    /// Somebody asked for its end: no attempt starts any more.
    pub(super) cancel: bool,
    /// Who gets the outcome: the node, and the epoch of the sending reign.
    pub(super) reply_to: Option<(NodeId, Epoch)>,
    /// Nodes that await the result of a `start`.
    pub(super) awaiters: Vec<(NodeId, RequestId)>,
    pub(super) stage: ItemStage,
}

/// Where an unfinished invocation stands.
#[derive(Clone, Debug)]
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
    /// It has lost too many hosts, and rests until somebody takes it up again.
    Parked,
    /// Its code runs.
    Running(Box<Turn>),
}

/// One attempt in user code.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) session: SessionId,
    pub(super) unflushed: Unflushed,
    /// The reminders of its actor after what it has buffered, by id; absent until they are wanted, and when others have
    /// changed them.
    pub(super) reminders: Option<BTreeMap<Arc<str>, Arc<Reminder>>>,
    /// Calls under way.
    pub(super) calls: BTreeMap<(PartitionId, Number), RequestId>,
    /// Outcomes received and not settled yet.
    pub(super) received: Vec<(PartitionId, Number)>,
    /// It returned, and operations of it wait outside for a kind to become known.
    pub(super) returned: bool,
    /// It returned; calls are still under way (rule T1).
    pub(super) result: Option<TurnEnd>,
    /// How its errors are retried, by what its host registered: that may be gone when its calls have ended.
    pub(super) retry: RetryPolicy,
    /// It was told to stop.
    pub(super) cancelled: bool,
}

/// What a turn did since its last flush: durable as a whole, or not at all (P5).
#[derive(Clone, Debug, Default)]
pub(super) struct Unflushed {
    /// State operations.
    pub(super) state: Vec<StateOp>,
    /// Obligations, not numbered yet.
    pub(super) sends: Vec<Obligation>,
    /// Changes to the actor's reminders.
    pub(super) reminders: Vec<ReminderChange>,
    /// Events, not numbered yet.
    pub(super) publishes: Vec<Publication>,
    /// Their bytes.
    pub(super) bytes: usize,
}

impl Unflushed {
    /// Nothing yet, of a turn of this invocation: what its next step would have to carry along is counted from the
    /// start, so that it fits into a record with all the rest.
    pub(super) fn of(invocation: &Invocation) -> Self {
        let bytes = invocation.event.as_ref().map_or(0, |event| carried(event, invocation));
        Self { bytes, ..Self::default() }
    }

    /// Obligations in it.
    pub(super) fn told(&self) -> usize {
        self.sends.len() + self.publishes.len()
    }

    /// Whether there is nothing to flush.
    pub(super) fn is_empty(&self) -> bool {
        let Self { state, sends, reminders, publishes, bytes: _ } = self;
        let is_told = !sends.is_empty() || !publishes.is_empty();
        state.is_empty() && !is_told && reminders.is_empty()
    }
}

/// Bytes of an event that a tail call carries along, for the case that its chain ends without success.
pub(super) fn carried(event: &EventOrigin, invocation: &Invocation) -> usize {
    match &event.event {
        _ if event.dead_letter.is_none() => 0,
        Some(event) => event.len(),
        None => invocation.payload.data.len(),
    }
}

/// How a turn ended in user code.
#[derive(Clone, Debug)]
pub(crate) enum TurnEnd {
    /// With the invocation's outcome.
    Outcome(Outcome),
    /// With its next step, in the partition named (P6).
    TailCall(PartitionId, TailCall),
    /// It has stopped because it was told to.
    Cancelled,
}

/// A busy actor.
#[derive(Clone, Debug, Default)]
pub(super) struct Actor {
    /// Who holds it, and who waits.
    pub(super) lock: Lock,
    /// Completions decided and not committed: turns that run ahead of the log (rule L6).
    pub(super) ahead: u32,
    /// Sequence number that commits what its turns did last.
    pub(super) decided: u64,
}

/// What a sender said of its channel.
#[derive(Clone, Debug, Default)]
pub(super) struct Statement {
    /// Epoch of the sending partition's reign that made it; 0 for nodes.
    pub(super) from_epoch: Epoch,
    /// Its place among those of that reign.
    pub(super) serial: u64,
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
    /// One that has just come.
    pub(super) fn new(invocation: Arc<Invocation>, origin: Origin) -> Self {
        Self {
            invocation,
            origin,
            logged: false,
            decided: 0,
            attempt: 1,
            started: false,
            cleared: false,
            resent: false,
            promised: false,
            slot: false,
            unmarked: false,
            retry_at: 0,
            shared: false,
            ended: None,
            cancel: false,
            reply_to: None,
            awaiters: Vec::new(),
            stage: ItemStage::Queued,
        }
    }

    /// Whether the current attempt may have run; not while it is yet to be logged or dispatched.
    pub(super) fn attempt_ran(&self) -> bool {
        self.started
            && !self.cleared
            && !matches!(self.stage, ItemStage::WaitCommit | ItemStage::Parked)
    }

    /// Whether its deadline counts: as far as the log says, it has not started.
    pub(super) fn may_expire(&self) -> bool {
        !self.started || self.unmarked
    }

    /// It has lost too many hosts.
    pub(super) fn is_parked(&self) -> bool {
        matches!(self.stage, ItemStage::Parked)
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

    /// Whether calls of its flow may enter its actor: while it waits for them, and while it rests. They would never end
    /// otherwise, and what their callers hold elsewhere would rest with it.
    pub(super) fn lets_in(&self) -> bool {
        self.suspended() || matches!(self.stage, ItemStage::Parked)
    }

    /// Whether it waits for calls that it made.
    pub(super) fn suspended(&self) -> bool {
        match &self.stage {
            ItemStage::Running(turn) => !turn.calls.is_empty(),
            ItemStage::WaitChildren => true,
            _ => false,
        }
    }
}
