//! Outputs of a [`Node`](crate::Node).
//!
//! Longer than most: everything that a node can ask for, answer and tell people, with what each means.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::event::Cell;
use crate::events::EventOrigin;
use crate::ids::{
    Epoch, InvocationId, Kind, Millis, NodeId, Number, Offset, PartitionId, ProposalId, RequestId,
    SessionId, TopicPartition, TurnToken, Uuid,
};
use crate::inbox::{InboxEntry, InboxId};
use crate::invocation::{ActorOps, Mode, Outcome, Payload, Work};
use crate::limits::LimitHit;
use crate::message::{Controlled, Message};
use crate::record::Record;
use crate::reminder::Reminder;
use crate::schedule::ScheduleError;
use crate::select::Selected;
use crate::snapshot::{Snapshot, SnapshotFault, SnapshotKey};
use crate::subscription::{FetchId, SubscriptionError, SubscriptionView};

/// A durable effect: a record to append. Appends of one partition must reach its log in the order given, or not at all
/// (a gap is harmless, rule L3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Append {
    /// The log.
    pub partition: PartitionId,
    /// Comes back in [`Event::LogOwn`](crate::Event::LogOwn).
    pub proposal: ProposalId,
    /// What to append.
    pub record: Arc<Record>,
}

/// A visible effect; everything it depends on is committed, or may go ahead (rule L5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Read a log from `from` and follow it; reading under way for it ends first. Report
    /// [`Event::LogEnd`](crate::Event::LogEnd) once what is there now has been read.
    ReadLog {
        /// The log.
        partition: PartitionId,
        /// First offset wanted.
        from: Offset,
    },
    /// Report [`Event::LogEnd`](crate::Event::LogEnd) once everything that is in the log now has been read.
    ReadBarrier {
        /// The log.
        partition: PartitionId,
    },
    /// Stop following a log.
    StopLog {
        /// The log.
        partition: PartitionId,
    },
    /// Send to a peer, in order. Dropped if there is no connection.
    Send {
        /// The peer.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Run a turn in the host.
    Dispatch {
        /// The host.
        session: SessionId,
        /// The turn.
        turn: Turn,
    },
    /// Run an at-most-once turn in the host.
    DispatchDirect {
        /// The host.
        session: SessionId,
        /// Comes back in [`Event::DirectResult`](crate::Event::DirectResult).
        turn: u64,
        /// The service.
        kind: Kind,
        /// Which method.
        method: Arc<str>,
        /// Argument.
        payload: Payload,
        /// W3C trace context.
        trace: Arc<str>,
    },
    /// Tell the host to abandon a turn; it answers with
    /// [`TurnResult::Cancelled`](crate::event::TurnResult::Cancelled) when it has.
    Cancel {
        /// The host.
        session: SessionId,
        /// The turn.
        token: TurnToken,
        /// Why.
        reason: CancelReason,
    },
    /// Answer a request of the own component.
    Respond {
        /// Which.
        request: RequestId,
        /// The answer.
        response: Result<Response, RequestError>,
    },
    /// Read the partition's fence cell; answered with [`Event::StoreCell`](crate::Event::StoreCell).
    ReadCell {
        /// The partition.
        partition: PartitionId,
    },
    /// Load an actor's state and the fence cell in one step.
    LoadActor {
        /// The partition.
        partition: PartitionId,
        /// The reign that asks; comes back with the answer.
        epoch: Epoch,
        /// The instance.
        actor: Arc<str>,
    },
    /// Put `epoch` into the partition's fence cell unless it has a newer one; report the cell as it was.
    FenceStore {
        /// The partition.
        partition: PartitionId,
        /// The new reign.
        epoch: Epoch,
    },
    /// If the cell is exactly `expected`, apply committed operations to the store and set the cell to `upto` with the
    /// same epoch, in one step. Otherwise change nothing and report the cell: what the store holds is a function of
    /// the cell, so that a write onto any other one would leave operations out.
    WriteStore {
        /// The partition.
        partition: PartitionId,
        /// The cell that the operations follow; its epoch is the reign that writes.
        expected: Cell,
        /// Offset the store then stands at.
        upto: Offset,
        /// In log order.
        ops: Vec<ActorOps>,
    },
    /// Let the records of a log below an offset go, for good. The store must not lose, by any failure that it is to
    /// survive, what it has said to hold so far. A log never starts lower than before; it may keep more.
    TrimLog {
        /// The log.
        partition: PartitionId,
        /// The first record that stays.
        below: Offset,
    },
    /// Append to an inbox, after what was appended to it before. What becomes of it comes as
    /// [`Event::InboxOwn`](crate::Event::InboxOwn) if this node reads the inbox, or as
    /// [`Event::InboxLost`](crate::Event::InboxLost) if it may not have arrived.
    AppendInbox {
        /// The inbox.
        inbox: InboxId,
        /// Comes back in `InboxOwn`.
        proposal: ProposalId,
        /// What to append.
        entry: Arc<InboxEntry>,
    },
    /// Read an inbox from `from` and follow it; reading under way for it ends first.
    ReadInbox {
        /// The inbox.
        inbox: InboxId,
        /// First offset wanted.
        from: Offset,
    },
    /// Stop following an inbox.
    StopInbox {
        /// The inbox.
        inbox: InboxId,
    },
    /// Let the entries of an inbox below an offset go, for good.
    TrimInbox {
        /// The inbox.
        inbox: InboxId,
        /// The first entry that stays.
        below: Offset,
    },
    /// Append events to a topic, in order, with their numbers, which have no gaps; a number that the topic has is
    /// passed over, where the bus can tell. Answered with [`Event::Published`](crate::Event::Published).
    Publish {
        /// Whose obligations they are.
        partition: PartitionId,
        /// Where to.
        to: TopicPartition,
        /// Names the channel with `to`: the UUID of the partition's log.
        channel: Uuid,
        /// The reign that sends.
        epoch: Epoch,
        /// Comes back with the answer; unique within the node.
        serial: u64,
        /// The events, as the topic keeps them.
        events: Vec<(Number, Bytes)>,
    },
    /// Find out which number of a channel is the highest that has landed in a topic. Whatever was to be appended for
    /// the channel before, by whomever, is in the topic by then or comes to nothing. Answered with
    /// [`Event::Published`](crate::Event::Published).
    LearnPublished {
        /// Whose obligations they are.
        partition: PartitionId,
        /// The topic's partition.
        to: TopicPartition,
        /// Names the channel with `to`: the UUID of the partition's log.
        channel: Uuid,
        /// The reign that asks.
        epoch: Epoch,
        /// Comes back with the answer; unique within the node.
        serial: u64,
        /// Numbers up to this have landed …
        upto: Number,
        /// … and all higher ones come after this offset: there is no need to look further back.
        since: Offset,
    },
    /// Store a snapshot of a partition under a key of its own, for ever unchanged, off the critical path; answered with
    /// [`Event::SnapshotPut`](crate::Event::SnapshotPut) when it is durable. The same again is no error.
    PutSnapshot {
        /// The partition.
        partition: PartitionId,
        /// The key.
        key: SnapshotKey,
        /// What to store.
        snapshot: Arc<Snapshot>,
    },
    /// Read a snapshot; answered with [`Event::SnapshotGot`](crate::Event::SnapshotGot).
    GetSnapshot {
        /// The partition.
        partition: PartitionId,
        /// The key.
        key: SnapshotKey,
    },
    /// Delete a snapshot; answered with [`Event::SnapshotDeleted`](crate::Event::SnapshotDeleted).
    DeleteSnapshot {
        /// The partition.
        partition: PartitionId,
        /// The key.
        key: SnapshotKey,
    },
    /// List the keys of a partition's snapshots; answered with
    /// [`Event::SnapshotsListed`](crate::Event::SnapshotsListed).
    ListSnapshots {
        /// The partition.
        partition: PartitionId,
    },
    /// Read events of a topic partition, or wait for some (as long as the driver likes, some seconds); answered with
    /// [`Event::Fetched`](crate::Event::Fetched), unless it is stopped. At most one is under way for each partition of
    /// a subscription's topic and reign.
    Fetch {
        /// Comes back with the answer.
        id: FetchId,
        /// The topic's id.
        topic_id: Arc<str>,
        /// Offset of the first event wanted.
        from: Offset,
        /// Most events, at least 1.
        events_max: usize,
        /// About so many bytes, at least one event.
        bytes_max: usize,
    },
    /// Nobody wants what a [`Fetch`](Self::Fetch) brings any more: it need not be answered.
    StopFetch {
        /// The read.
        id: FetchId,
    },
    /// Another node asks what this one serves, for people; answered with
    /// [`Event::Inspected`](crate::Event::Inspected).
    Inspect {
        /// Who asks.
        to: NodeId,
        /// Its request; comes back with the answer.
        request: RequestId,
    },
    /// A kind is used that the membership does not know: register it (with the default number of partitions).
    EnsureKind {
        /// The kind.
        kind: Kind,
    },
    /// What this node offers has changed: tell the membership.
    Offer {
        /// Kinds hosted.
        kinds: Vec<Kind>,
        /// It is leaving.
        leaving: bool,
    },
    /// The hand-over asked for is complete: no partition is owned.
    Drained,
    /// For people: a metric and a log line (P9).
    Notice(Notice),
}

/// Why a turn is to stop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CancelReason {
    /// Nothing of it takes effect any more: another attempt follows, maybe elsewhere.
    Superseded,
    /// Somebody asked for the invocation's end. The turn may stop, and is the last attempt; or go on, and its result
    /// counts.
    Requested,
}

/// A turn to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Turn {
    /// Goes with everything the turn asks for.
    pub token: TurnToken,
    /// The kind it runs on.
    pub kind: Kind,
    /// The instance, for actors.
    pub actor: Option<Arc<str>>,
    /// Which method.
    pub method: Arc<str>,
    /// Argument.
    pub payload: Payload,
    /// How it was invoked.
    pub mode: Mode,
    /// What it is to do: a method, or the actor's deactivation.
    pub work: Work,
    /// Names the actor's stay at its owner: while it is the same, the host has had every turn of the actor, and all of
    /// them have taken effect so far. 0 for services.
    pub activation: u64,
    /// It had to start before this time.
    pub deadline: Option<Millis>,
    /// It delivers an event: its payload is that event as topics keep it.
    pub event: Option<Arc<EventOrigin>>,
    /// W3C trace context.
    pub trace: Arc<str>,
    /// Values of durable steps that earlier attempts recorded, by key.
    pub recorded_steps: BTreeMap<Arc<str>, Payload>,
    /// It holds a slot. A turn that another turn waits for holds none, so that waiting turns cannot keep it from
    /// starting.
    pub slot: bool,
}

/// A good answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// A call or an await: how the invocation ended.
    Outcome {
        /// The invocation.
        invocation: Option<InvocationId>,
        /// How.
        outcome: Outcome,
    },
    /// A tell or start is durable (in a turn: buffered, durable with the segment).
    Accepted {
        /// The invocation.
        invocation: InvocationId,
    },
    /// What was read of an actor's state.
    State(Selected),
    /// The value of a durable step: the one given, or the one recorded before it.
    Step(Payload),
    /// Something was done to an invocation.
    Controlled(Controlled),
    /// Buffered or flushed.
    Ok,
    /// A reminder is scheduled (in a turn: buffered, durable with the segment).
    Scheduled {
        /// Its first due time.
        due: Millis,
    },
    /// Reminders are cancelled (in a turn: buffered, durable with the segment).
    Cancelled {
        /// How many there were.
        count: usize,
    },
    /// The reminders of an actor, by id.
    Reminders(Vec<Arc<Reminder>>),
    /// There is a subscription as asked for.
    Subscribed {
        /// Its id.
        subscription: Uuid,
        /// It is new.
        created: bool,
    },
    /// A subscription is as asked for.
    SubscriptionChanged {
        /// It was not before: it existed, or was paused, or was not.
        changed: bool,
    },
    /// Subscriptions, by name.
    Subscriptions(Vec<SubscriptionView>),
    /// What a node serves, in its driver's words.
    View(Arc<[u8]>),
}

/// Why a request was not carried out. Nothing was accepted unless the variant says otherwise.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The turn is not the current attempt of its invocation: its process should stop it.
    #[error("turn {0} is not the current attempt; stop it")]
    TurnSuperseded(Box<TurnToken>),
    /// The turn is ending: it has already returned.
    #[error("turn {0} has already returned its result")]
    TurnEnded(Box<TurnToken>),
    /// A bound was hit.
    #[error("{0}")]
    Limit(LimitHit),
    /// The request makes no sense here.
    #[error("{0}")]
    Invalid(&'static str),
    /// The key names another step of the invocation, or a call with it is under way: choose a key for each step.
    #[error("step key '{0}' is in use for another step of this invocation: give each step its own")]
    StepKeyReused(Arc<str>),
    /// A condition among changes to an actor's state does not hold: none of them was made.
    #[error("the condition on key '{0}' does not hold: nothing was changed")]
    ConditionFailed(Arc<str>),
    /// A method that is registered as shared asked for a change of its actor's state.
    #[error("a shared method only reads its actor's state: register it as exclusive")]
    SharedTurn,
    /// It may or may not have been carried out, and nobody can tell.
    #[error("outcome unknown: {0}")]
    Unknown(&'static str),
    /// The target's kind is unknown, and the application has no room for one more. Nothing was sent.
    #[error("{0}")]
    KindRefused(Box<RefusedKind>),
    /// No host is alive (direct invocations only; all others wait).
    #[error("no host for {0} is alive")]
    NoHost(Kind),
    /// There is no such invocation (any more), or nothing of it was kept or is kept any longer.
    #[error("no invocation {0} is known, or its retention is over")]
    UnknownInvocation(Box<InvocationId>),
    /// The partition has closed its channel to this node, because the membership has given the node up (rule C6).
    /// Nothing was sent: ask again when the sidecar has taken a new incarnation.
    #[error(
        "{0} takes nothing from this sidecar any more: it was gone for too long; ask again when it has joined anew"
    )]
    ChannelClosed(Box<PartitionId>),
    /// The node is leaving.
    #[error("the sidecar is shutting down")]
    Draining,
    /// A reminder's schedule is wrong.
    #[error("{0}")]
    Schedule(ScheduleError),
    /// What is asked for is no subscription.
    #[error("{0}")]
    Subscription(SubscriptionError),
    /// There is a subscription with the name, and it has other settings (another topic of the same name is one).
    #[error(
        "there is a subscription '{0}' with other settings: choose another name, or unsubscribe it first"
    )]
    SubscriptionDiffers(Arc<str>),
    /// There is no subscription with the name.
    #[error("there is no subscription '{0}': check the name")]
    UnknownSubscription(Arc<str>),
    /// Nobody has ever used the kind: it has no instances.
    #[error("there is no {0}: check the name; a type is known from its first use on")]
    UnknownKind(Kind),
    /// There is no topic with this id any more: the event was not taken. Publish by the topic's name again.
    #[error("topic {0} does not exist any more: it was deleted; publish to a topic that exists")]
    TopicGone(TopicPartition),
    /// Nobody could answer in time; it changes nothing, so it can simply be asked again.
    #[error("{0}")]
    Unavailable(&'static str),
}

/// A kind that the membership does not register.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{kind} is not known, and the application has as many services and actor types, or partitions of all of them, as \
     it may ({hit}): check the name, use fewer names, or fewer partitions (--partitions)"
)]
pub struct RefusedKind {
    /// The kind.
    pub kind: Kind,
    /// The bound.
    pub hit: LimitHit,
}

/// Something an operator wants to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The node's reign over a partition began.
    Owned {
        /// The partition.
        partition: PartitionId,
        /// Its epoch.
        epoch: Epoch,
        /// Unfinished invocations found.
        unfinished: usize,
    },
    /// The reign ended in order.
    Released {
        /// The partition.
        partition: PartitionId,
    },
    /// The reign ended otherwise; everything held was dropped.
    Dropped {
        /// The partition.
        partition: PartitionId,
        /// Why.
        reason: &'static str,
    },
    /// An invocation is tried again.
    Retried {
        /// The invocation.
        invocation: InvocationId,
        /// The attempt that starts.
        attempt: u32,
    },
    /// Flows wait for each other in a circle: the youngest call that waits has ended.
    Deadlock {
        /// That call.
        invocation: InvocationId,
        /// The actors that wait for each other.
        cycle: Arc<str>,
    },
    /// An invocation has lost too many hosts: it rests until somebody takes it up again.
    Parked {
        /// The invocation.
        invocation: InvocationId,
        /// Attempts that were lost with their hosts.
        losses: u32,
        /// How the last one ended.
        error: Arc<str>,
        /// Its actor rests with it, because it has flushed: so do those that wait for that.
        holds: bool,
    },
    /// A tell ended without success: nobody waits for its outcome.
    DeadLetter {
        /// The invocation.
        invocation: InvocationId,
        /// How it ended.
        outcome: Outcome,
    },
    /// Dead letters were dropped: their time was over, or there were too many.
    DeadLettersDropped {
        /// The partition.
        partition: PartitionId,
        /// How many.
        count: usize,
    },
    /// Actors that have been idle became passive.
    Passivated {
        /// The partition.
        partition: PartitionId,
        /// How many.
        count: usize,
    },
    /// The hook that tells a host of an idle actor failed: the actor is passive all the same.
    DeactivationFailed {
        /// The partition.
        partition: PartitionId,
        /// The instance.
        actor: Arc<str>,
        /// The error, for people.
        error: Arc<str>,
    },
    /// An actor is removed.
    Removed {
        /// The partition.
        partition: PartitionId,
        /// The instance.
        actor: Arc<str>,
    },
    /// A bound was hit.
    Limit(LimitHit),
    /// A service or actor type is not registered, because the application has as many as it may: nobody can call it,
    /// and if it is hosted here, nobody will.
    KindRefused(RefusedKind),
    /// Due times of a reminder were missed, because nobody could fire at them, and its policy leaves them out.
    RemindersMissed {
        /// The partition.
        partition: PartitionId,
        /// The instance.
        actor: Arc<str>,
        /// The reminder.
        id: Arc<str>,
        /// The first due time left out.
        due: Millis,
        /// The next one that counts; `None`: there is none.
        next: Option<Millis>,
    },
    /// Reminders are due, and wait because a bound is reached; they fire when there is room.
    RemindersWait {
        /// The partition.
        partition: PartitionId,
        /// The actor, if it is its bound.
        actor: Option<Arc<str>>,
        /// The bound.
        hit: LimitHit,
    },
    /// Events that a subscription has not delivered are gone: their topic kept them no longer.
    EventsSkipped {
        /// The subscription's partition.
        partition: PartitionId,
        /// The subscription.
        name: Arc<str>,
        /// The partition of its topic.
        topic_partition: u32,
        /// Offset of the first event that is gone.
        from: Offset,
        /// Offset of the first event that is not.
        to: Offset,
    },
    /// An event cannot be delivered: it names no instance.
    Undeliverable {
        /// The subscription's partition.
        partition: PartitionId,
        /// The subscription.
        name: Arc<str>,
        /// The partition of its topic.
        topic_partition: u32,
        /// The event's offset.
        offset: Offset,
        /// What is wrong with it.
        why: &'static str,
        /// It goes to the subscription's dead-letter topic; otherwise it is passed over.
        dead_letter: bool,
    },
    /// A subscription waits at an event that this node does not understand: a newer version has to take it.
    EventUnreadable {
        /// The subscription's partition.
        partition: PartitionId,
        /// The subscription.
        name: Arc<str>,
        /// The partition of its topic.
        topic_partition: u32,
        /// The event's offset.
        offset: Offset,
    },
    /// A subscription's topic could not be read several times in a row; it is tried again.
    ReadingWaits {
        /// The subscription's partition.
        partition: PartitionId,
        /// The subscription.
        name: Arc<str>,
        /// The partition of its topic.
        topic_partition: u32,
    },
    /// The topic of a subscription is deleted: it delivers nothing any more.
    TopicGone {
        /// The subscription's partition.
        partition: PartitionId,
        /// The subscription.
        name: Arc<str>,
        /// The topic.
        topic: Arc<str>,
    },
    /// A subscription has ended, because the actor that its events went to is removed.
    SubscriptionRemoved {
        /// The subscription's partition.
        partition: PartitionId,
        /// The subscription.
        name: Arc<str>,
        /// The instance.
        actor: Arc<str>,
    },
    /// A record was not written, because its log takes none of that length: the bounds of this node do not go together.
    /// The reign ends, and what the record decided is tried again.
    RecordTooLong {
        /// The partition.
        partition: PartitionId,
        /// Length of the record.
        bytes: usize,
        /// The longest that the log takes.
        bytes_max: usize,
    },
    /// The store is behind what it was known to hold: it was rolled back; the log is replayed.
    StoreRolledBack {
        /// The partition.
        partition: PartitionId,
    },
    /// The store says that it holds more than the log: they do not belong together. Nothing is loaded from it or
    /// written to it until that changes.
    StoreAhead {
        /// The partition.
        partition: PartitionId,
        /// Where the store stands.
        store: Offset,
        /// Where the log ends.
        log: Offset,
    },
    /// A snapshot is durable and named by the log.
    SnapshotTaken {
        /// The partition.
        partition: PartitionId,
        /// Which.
        key: SnapshotKey,
        /// Its length.
        bytes: u64,
    },
    /// A reign begins with a snapshot, and has read what came after it.
    SnapshotUsed {
        /// The partition.
        partition: PartitionId,
        /// Which.
        key: SnapshotKey,
        /// Records read after it.
        records: u64,
    },
    /// A snapshot was not stored, read or deleted; what is not trimmed because of that stays in the log, and another
    /// one is taken later.
    SnapshotFailed {
        /// The partition.
        partition: PartitionId,
        /// Which; none: they could not be listed.
        key: Option<SnapshotKey>,
        /// Why.
        fault: SnapshotFault,
    },
    /// A snapshot is not what the log says it is: an older one is used, or the log from its start.
    SnapshotUnusable {
        /// The partition.
        partition: PartitionId,
        /// Which.
        key: SnapshotKey,
        /// Why.
        why: &'static str,
    },
    /// Neither the log nor a snapshot tells the state of a partition: it is not served here, and tried again from time
    /// to time.
    Unreadable {
        /// The partition.
        partition: PartitionId,
        /// Where the log starts.
        start: Offset,
        /// What is wrong with the newest snapshot.
        why: &'static str,
    },
    /// A partition has closed its channel to this node, which was gone for too long: it needs a new incarnation.
    ChannelClosed {
        /// The partition.
        partition: PartitionId,
    },
    /// Events wait because their topic cannot be reached; they are sent when it can.
    PublishWaits {
        /// The partition that owes them.
        partition: PartitionId,
        /// Where they go.
        to: TopicPartition,
        /// How many there are by now.
        waiting: usize,
    },
    /// Events are lost: turns have published them, and their topic was deleted before they were in it.
    EventsLost {
        /// The partition that owed them.
        partition: PartitionId,
        /// Where they were to go.
        to: TopicPartition,
        /// How many.
        count: usize,
    },
    /// Something that cannot happen if the design holds.
    BrokenInvariant {
        /// What.
        what: &'static str,
    },
}
