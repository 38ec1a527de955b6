//! Inputs of a [`Node`](crate::Node).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::effect::RefusedKind;
use crate::events::{EventOrigin, Publication, PublishResult};
use crate::ids::{
    Epoch, InvocationId, Kind, Millis, NodeId, Offset, PartitionId, ProposalId, RequestId,
    SessionId, TopicPartition, TurnToken,
};
use crate::inbox::{InboxEntry, InboxId};
use crate::invocation::{Outcome, Payload, RetryPolicy, StateCondition, StateOp, Target};
use crate::keys::RequestKey;
use crate::message::{Control, Message};
use crate::record::{Record, RecordedStep};
use crate::reminder::CatchUp;
use crate::schedule::Schedule;
use crate::select::Select;
use crate::snapshot::{Snapshot, SnapshotFault, SnapshotKey, SnapshotProof};
use crate::subscription::{FetchId, FetchResult, SubscriptionChange, SubscriptionSpec};

/// Something that happened outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The complete current view of the membership.
    Members(Members),
    /// Whether the node's lease is valid by the local clock; speculation (rule L6) needs it. Starts as valid.
    Lease {
        /// Valid now.
        valid: bool,
    },
    /// The process was (perhaps) away for a while: before it dispatches or sends more, it reads its logs to the end
    /// (rule L4).
    Resumed,
    /// A record read from a log, somebody else's or one appended before the reading began.
    LogRead {
        /// The log.
        partition: PartitionId,
        /// Its place.
        offset: Offset,
        /// The record.
        record: Record,
    },
    /// An append of this node was read back at a place in the log, in order with everything else that is read.
    LogOwn {
        /// The log.
        partition: PartitionId,
        /// Its place.
        offset: Offset,
        /// Which append.
        proposal: ProposalId,
    },
    /// An append of this node was not carried out: its log takes no record of that length. The node's bounds are to be
    /// such that this cannot happen.
    AppendRefused {
        /// The log.
        partition: PartitionId,
        /// Which append.
        proposal: ProposalId,
        /// Its length.
        bytes: usize,
        /// The longest that the log takes.
        bytes_max: usize,
    },
    /// Everything that was in the log when [`Effect::ReadLog`](crate::Effect::ReadLog) or
    /// [`Effect::ReadBarrier`](crate::Effect::ReadBarrier) was carried out has been read.
    LogEnd {
        /// The log.
        partition: PartitionId,
    },
    /// Reading or appending broke off (the hub was replaced, an append failed or its fate is unknown). Events of the
    /// old reading no longer come.
    LogLost {
        /// The log.
        partition: PartitionId,
    },
    /// A connection to a peer is open: messages can be sent.
    PeerUp {
        /// The peer.
        node: NodeId,
    },
    /// The connection to a peer broke; what was under way on it is lost.
    PeerDown {
        /// The peer.
        node: NodeId,
    },
    /// A message from a peer, in the order it was sent.
    Peer {
        /// The peer.
        from: NodeId,
        /// The message.
        message: Message,
    },
    /// The component registered as a host. A node has at most one host session.
    HostUp {
        /// Names the host's stream.
        session: SessionId,
        /// What it hosts.
        offer: Offer,
    },
    /// The host's stream broke.
    HostDown {
        /// The stream.
        session: SessionId,
        /// Its process is known to be dead: nothing of it can still run.
        dead: bool,
    },
    /// The host asks to leave in order (`goodbye`): like [`Event::Drain`], for its kinds only.
    HostLeaving {
        /// The stream.
        session: SessionId,
    },
    /// A request of the own component.
    Request {
        /// Names it, for the answer.
        request: RequestId,
        /// What it asks.
        operation: Operation,
    },
    /// Nobody waits for the answer any more. What was accepted goes on.
    Abandoned {
        /// The request.
        request: RequestId,
    },
    /// A turn ended in user code.
    TurnResult {
        /// The turn.
        token: TurnToken,
        /// How.
        result: TurnResult,
    },
    /// A direct turn ended in user code.
    DirectResult {
        /// As in [`Effect::DispatchDirect`](crate::Effect::DispatchDirect).
        turn: u64,
        /// How.
        result: TurnResult,
    },
    /// The fence cell as the store has it; answers [`Effect::ReadCell`](crate::Effect::ReadCell).
    StoreCell {
        /// The partition.
        partition: PartitionId,
        /// The cell.
        cell: Cell,
    },
    /// An actor's state as the store has it.
    ActorLoaded {
        /// The partition.
        partition: PartitionId,
        /// The reign that asked.
        epoch: Epoch,
        /// The instance.
        actor: Arc<str>,
        /// The partition's fence cell, read in the same step.
        cell: Cell,
        /// Its keys.
        state: BTreeMap<Arc<str>, Payload>,
    },
    /// The fence cell as the store has it; answers [`Effect::FenceStore`](crate::Effect::FenceStore).
    StoreFenced {
        /// The partition.
        partition: PartitionId,
        /// The reign that asked.
        epoch: Epoch,
        /// The cell before the fence was set.
        cell: Cell,
    },
    /// A batch of state operations is in the store.
    StoreWritten {
        /// The partition.
        partition: PartitionId,
        /// The reign that asked.
        epoch: Epoch,
        /// The batch's offset.
        upto: Offset,
    },
    /// The store refused a fence because its cell has a newer epoch, or a write because its cell is not the expected
    /// one. Nothing was changed.
    StoreRefused {
        /// The partition.
        partition: PartitionId,
        /// The reign that asked.
        epoch: Epoch,
        /// The cell as it is.
        cell: Cell,
    },
    /// What a reading wants next was trimmed: the reading ended, and skipped nothing.
    LogTrimmed {
        /// The log.
        partition: PartitionId,
        /// Offset of the first record that is kept.
        start: Offset,
    },
    /// A snapshot is durable, or is not stored; answers [`Effect::PutSnapshot`](crate::Effect::PutSnapshot).
    SnapshotPut {
        /// The partition.
        partition: PartitionId,
        /// The key.
        key: SnapshotKey,
        /// What was stored.
        result: Result<SnapshotProof, SnapshotFault>,
    },
    /// A snapshot, if there is one under the key; answers [`Effect::GetSnapshot`](crate::Effect::GetSnapshot).
    SnapshotGot {
        /// The partition.
        partition: PartitionId,
        /// The key.
        key: SnapshotKey,
        /// The snapshot, and what was stored of it.
        result: Result<Option<(Box<Snapshot>, SnapshotProof)>, SnapshotFault>,
    },
    /// A snapshot is gone for good, or may still be there; answers
    /// [`Effect::DeleteSnapshot`](crate::Effect::DeleteSnapshot).
    SnapshotDeleted {
        /// The partition.
        partition: PartitionId,
        /// The key.
        key: SnapshotKey,
        /// Whether it is gone.
        result: Result<(), SnapshotFault>,
    },
    /// The keys of a partition's snapshots; answers [`Effect::ListSnapshots`](crate::Effect::ListSnapshots).
    SnapshotsListed {
        /// The partition.
        partition: PartitionId,
        /// The keys, in any order.
        result: Result<Vec<SnapshotKey>, SnapshotFault>,
    },
    /// An entry was read from an inbox, somebody else's or one appended before the reading began.
    InboxRead {
        /// The inbox.
        inbox: InboxId,
        /// Its place.
        offset: Offset,
        /// The entry.
        entry: Arc<InboxEntry>,
    },
    /// An append of this node was read back at a place in an inbox, in order with everything else that is read.
    InboxOwn {
        /// The inbox.
        inbox: InboxId,
        /// Its place.
        offset: Offset,
        /// Which append.
        proposal: ProposalId,
    },
    /// Reading an inbox broke off, or appending to one: what was under way may be lost, or come late. Events of the old
    /// reading no longer come.
    InboxLost {
        /// The inbox.
        inbox: InboxId,
    },
    /// What a reading of an inbox wants next was trimmed: the reading ended, and skipped nothing.
    InboxTrimmed {
        /// The inbox.
        inbox: InboxId,
        /// Offset of the first entry that is kept.
        start: Offset,
    },
    /// Events of a topic partition; answers [`Effect::Fetch`](crate::Effect::Fetch).
    Fetched {
        /// As it came.
        id: FetchId,
        /// What there is.
        result: FetchResult,
    },
    /// What this node serves, as the driver tells it; answers [`Effect::Inspect`](crate::Effect::Inspect).
    Inspected {
        /// Who asked.
        to: NodeId,
        /// Its request.
        request: RequestId,
        /// The driver's words.
        view: Arc<[u8]>,
    },
    /// What of a channel has landed in a topic; answers [`Effect::Publish`](crate::Effect::Publish) and
    /// [`Effect::LearnPublished`](crate::Effect::LearnPublished). No answer is [`PublishResult::Unavailable`], after a
    /// time.
    Published {
        /// Whose obligations they are.
        partition: PartitionId,
        /// The topic's partition.
        to: TopicPartition,
        /// What is answered.
        serial: u64,
        /// The answer.
        result: PublishResult,
    },
    /// The store was replaced or came back: steps under way are lost, and are to be made again.
    StoreReset,
    /// A kind that was asked for with `EnsureKind` is not registered: the application has as many as it may. Whoever
    /// waits for it is told so; it is asked for again when somebody wants it again.
    KindRefused(RefusedKind),
    /// Leave in order: hand over every partition.
    Drain,
    /// Time has passed.
    Tick,
}

/// The fence cell of a partition in the store: how far its log is materialised, and by whose reign. What the store
/// holds of the partition is a function of the offset: every valid operation up to it, and no other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Cell {
    /// Newest epoch that wrote or fenced; older ones are refused.
    pub epoch: Epoch,
    /// Every state operation up to this offset is in the store.
    pub offset: Offset,
}

/// The application's nodes and kinds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Members {
    /// Nodes alive.
    pub nodes: BTreeMap<NodeId, Member>,
    /// Known kinds with their fixed number of partitions.
    pub kinds: BTreeMap<Kind, u32>,
}

/// A node as others see it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Member {
    /// What its component hosts.
    pub kinds: Vec<Kind>,
    /// It is leaving: it should own nothing.
    pub leaving: bool,
    /// It joined for a short while only, as a command that makes one call: it should own only what nobody else can.
    pub transient: bool,
    /// It has no peer plane: it is reached by its inbox alone.
    pub no_peer: bool,
}

/// What a host registers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Offer {
    /// Kinds it hosts.
    pub kinds: Vec<Kind>,
    /// Greatest number of root turns at once (slots).
    pub concurrency: u32,
    /// No speculation: code runs only for what is committed (rule L6 off).
    pub strict: bool,
    /// How retryable errors of methods are retried, where the component says so.
    pub retries: BTreeMap<(Kind, Arc<str>), RetryPolicy>,
    /// Methods of actors that only read, by type: they may run beside each other (P4).
    pub shared: BTreeMap<Kind, BTreeSet<Arc<str>>>,
    /// Actor types that are told by a turn when an actor has been idle.
    pub deactivates: BTreeSet<Kind>,
}

/// What a component asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Invokes: a root, or from inside a turn.
    Invoke {
        /// The turn it belongs to; `None` for roots.
        turn: Option<TurnToken>,
        /// Call, tell or start (start only for roots).
        mode: crate::invocation::Mode,
        /// Where to.
        target: Target,
        /// Which method.
        method: Arc<str>,
        /// Argument.
        payload: Payload,
        /// Must start before this time.
        deadline: Option<Millis>,
        /// W3C trace context.
        trace: Arc<str>,
        /// Calls of turns only: the key under which the outcome is kept, so that a retry of the turn gets it instead of
        /// calling again.
        step_key: Option<Arc<str>>,
        /// How retryable errors are retried, where the caller says so.
        retry: Option<RetryPolicy>,
        /// Roots only: it may be sent again under this key.
        key: Option<Box<RequestKey>>,
    },
    /// Tells a method of an event, once more: what subscriptions do by themselves. The payload is the event as topics
    /// keep it.
    Deliver {
        /// Where to.
        target: Target,
        /// Which method.
        method: Arc<str>,
        /// The event.
        payload: Payload,
        /// Must start before this time.
        deadline: Option<Millis>,
        /// How retryable errors are retried, where the subscription says so.
        retry: Option<RetryPolicy>,
        /// Where the event is from, and where it goes without success.
        origin: Arc<EventOrigin>,
        /// It may be sent again under this key.
        key: Option<Box<RequestKey>>,
    },
    /// At most once, past all logs.
    InvokeDirect {
        /// The service.
        kind: Kind,
        /// Which method.
        method: Arc<str>,
        /// Argument.
        payload: Payload,
        /// W3C trace context.
        trace: Arc<str>,
    },
    /// Asks a node what it serves, for people: through its inbox, where peers do not reach it.
    ViewOf {
        /// Which node.
        node: NodeId,
    },
    /// Waits for the outcome of a started invocation.
    Await {
        /// Which.
        invocation: InvocationId,
    },
    /// Has something done to an invocation at its home's owner.
    Control {
        /// Its home.
        home: PartitionId,
        /// What.
        control: Control,
    },
    /// Reads of the state of the turn's actor, own unflushed writes included.
    StateRead {
        /// The turn.
        turn: TurnToken,
        /// What of it.
        select: Select,
    },
    /// Reads an actor's committed state from outside its turns (section 18, decision 9).
    StateOf {
        /// The actor type.
        kind: Kind,
        /// The instance.
        actor: Arc<str>,
        /// What of it.
        select: Select,
    },
    /// Buffers changes to the state of the turn's actor (P5), all of them or, if a bound is hit or a condition does not
    /// hold, none.
    StateApply {
        /// The turn.
        turn: TurnToken,
        /// In order.
        ops: Vec<StateOp>,
        /// What must hold among them.
        conditions: Vec<StateCondition>,
    },
    /// Publishes events with the turn's segment (P5), all of them or, if a bound is hit, none.
    Publish {
        /// The turn.
        turn: TurnToken,
        /// In order.
        events: Vec<Publication>,
    },
    /// Makes everything so far durable.
    Flush {
        /// The turn.
        turn: TurnToken,
    },
    /// Records a durable step, and makes everything so far durable with it. A key that is recorded answers with its
    /// value.
    RecordStep {
        /// The turn.
        turn: TurnToken,
        /// The step.
        step: RecordedStep,
    },
    /// Schedules or cancels reminders: in a turn those of its own actor, with its segment (P5); from outside, at once.
    Remind {
        /// The turn it belongs to; `None` from outside.
        turn: Option<TurnToken>,
        /// The actor type.
        kind: Kind,
        /// The instance.
        actor: Arc<str>,
        /// What to do.
        ask: ReminderAsk,
    },
    /// Subscribes to a topic, unless there is the same subscription. Answered with
    /// [`Response::Subscribed`](crate::effect::Response::Subscribed) when it is durable.
    Subscribe {
        /// What is wanted.
        spec: Arc<SubscriptionSpec>,
    },
    /// Ends a subscription, pauses it, or lets it go on. Answered with
    /// [`Response::SubscriptionChanged`](crate::effect::Response::SubscriptionChanged) when it is durable. That there
    /// is none is an error, unless it is to end.
    ChangeSubscription {
        /// Its name.
        name: Arc<str>,
        /// How.
        change: SubscriptionChange,
    },
    /// Lists subscriptions, as committed.
    Subscriptions {
        /// Which ones.
        of: SubscriptionsOf,
    },
    /// Removes an actor when its turn comes: state, reminders, all of it.
    RemoveActor {
        /// The actor type.
        kind: Kind,
        /// The instance.
        actor: Arc<str>,
    },
    /// Lists the reminders of an actor: in a turn those of its own actor as the turn has made them, from outside what
    /// is committed.
    Reminders {
        /// The turn it belongs to; `None` from outside.
        turn: Option<TurnToken>,
        /// The actor type.
        kind: Kind,
        /// The instance.
        actor: Arc<str>,
    },
}

/// Which subscriptions are listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SubscriptionsOf {
    /// The one with this name, if there is one.
    Name(Arc<str>),
    /// All of one partition of [`Kind::subscriptions`]: whoever wants all of them asks for each of its partitions, as
    /// [`Node::known_kinds`](crate::Node::known_kinds) has them. If it does not have the kind there are none.
    Partition(u32),
}

/// What is asked for about reminders.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReminderAsk {
    /// Schedules one, or replaces the one with the same id.
    Schedule(ReminderSpec),
    /// Cancels one.
    Cancel(Arc<str>),
    /// Cancels all of the actor.
    CancelAll,
}

/// A reminder that is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReminderSpec {
    /// Its name within its actor.
    pub id: Arc<str>,
    /// Method invoked.
    pub method: Arc<str>,
    /// Argument.
    pub payload: Payload,
    /// First due time; `None`: the first one that the schedule gives from now on.
    pub due: Option<Millis>,
    /// When it comes again.
    pub schedule: Schedule,
    /// What to do about due times that were missed.
    pub catch_up: CatchUp,
}

/// How a turn ended in user code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TurnResult {
    /// Returned or failed. ([`Outcome::Done`] or [`Outcome::Failed`].)
    Ended(Outcome),
    /// Ended with a tail call: the invocation goes on with another method (P6).
    TailCall(TailCall),
    /// It was cancelled and has stopped; nothing of it takes effect.
    Cancelled,
}

/// The next step of an invocation (P6): same id, same caller, another method.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TailCall {
    /// Where it goes on.
    pub target: Target,
    /// Which method.
    pub method: Arc<str>,
    /// Argument.
    pub payload: Payload,
    /// The actor stays locked until the next step has ended; only for tail calls of an actor to itself.
    pub keeps_lock: bool,
}
