//! What nodes tell each other (the peer plane). Drivers convert these types to `kar.peer.v1` and back. Routes are FIFO
//! connections (rule C3); everything may be lost with its connection, and is then asked for again.

use std::sync::Arc;

use crate::ids::{Epoch, Kind, NodeId, Number, PartitionId, RequestId, Sender, Uuid};
use crate::invocation::{Outcome, Owed, Payload};
use crate::limits::LimitHit;
use crate::node::{DeadLetterView, InvocationView};
use crate::probe::{Climb, Confirm, Probe};
use crate::reminder::Reminder;
use crate::select::{Select, Selected};
use crate::subscription::SubscriptionView;

/// A message from one node to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// A sender opens its channel to a partition, or states how it stands (rule C3): every call number up to
    /// `highest` that is not in `open` is closed. The open ones count as requests already made.
    Open {
        /// The channel's sender.
        sender: Sender,
        /// Epoch of the sending partition's reign; 0 for nodes.
        from_epoch: Epoch,
        /// The receiving partition.
        to: PartitionId,
        /// Highest committed number, 0 if none.
        highest: Number,
        /// Numbers still open, ascending.
        open: Vec<Number>,
        /// Those of them whose answer is here, ascending: they are not answered again.
        answered: Vec<Number>,
        /// Counts the statements of that reign on this channel: they come by several ways, and an older one says less.
        serial: u64,
    },
    /// The receiver serves the partition, and expects number `next` (rule C4).
    Opened {
        /// The channel's sender.
        sender: Sender,
        /// The receiving partition.
        to: PartitionId,
        /// Its owner's epoch; requests must name it.
        epoch: Epoch,
        /// Lowest unknown number.
        next: Number,
        /// More outcomes are kept than go at once: this is the last one that went. Once it has come the channel is to
        /// be stated again, for the next ones.
        resume_at: Option<Number>,
    },
    /// Answers a request that asks: everything below `next` has arrived.
    Known {
        /// The channel's sender.
        sender: Sender,
        /// The partition that answers.
        from: PartitionId,
        /// Its owner's epoch.
        epoch: Epoch,
        /// Lowest unknown number.
        next: Number,
    },
    /// An obligation.
    Request {
        /// The channel's sender.
        sender: Sender,
        /// Epoch of the sending partition's reign; 0 for nodes.
        from_epoch: Epoch,
        /// The receiving partition.
        to: PartitionId,
        /// The epoch of the receiver that it is meant for.
        epoch: Epoch,
        /// Its number.
        number: Number,
        /// Every call number below this is closed.
        floor: Number,
        /// Subscriptions only, whose numbers are those of many channels: from here up to its own every number is
        /// closed.
        closed_from: Option<Number>,
        /// To be answered with `Known`: the sender's window needs it.
        asks: bool,
        /// Whoever asked for it was told that it is accepted, because it is durable in the partition's inbox: it is not
        /// refused.
        promised: bool,
        /// It may have been sent before: a reign that was lost may have run it ahead of its log.
        again: bool,
        /// What is owed.
        owed: Owed,
    },
    /// A call's outcome, durable at the callee.
    Reply {
        /// The channel's sender.
        sender: Sender,
        /// The partition that answers.
        from: PartitionId,
        /// The call's number.
        number: Number,
        /// How it ended.
        outcome: Outcome,
    },
    /// A tell or start is durable at the receiver.
    Accepted {
        /// The channel's sender.
        sender: Sender,
        /// The partition that accepted.
        from: PartitionId,
        /// Numbers accepted.
        numbers: Vec<Number>,
    },
    /// The number has retired: for a tell it means accepted; for an open call a broken invariant (section 18,
    /// decision 4).
    Gone {
        /// The channel's sender.
        sender: Sender,
        /// The partition.
        from: PartitionId,
        /// The number.
        number: Number,
    },
    /// A lower number is missing: open the channel again and send from `expected`.
    Gap {
        /// The channel's sender.
        sender: Sender,
        /// The partition.
        from: PartitionId,
        /// Epoch of the answering owner.
        epoch: Epoch,
        /// Lowest unknown number.
        expected: Number,
    },
    /// The channel was closed for ever, because its node was gone for too long; outcomes are unknown.
    ChannelClosed {
        /// The channel's sender.
        sender: Sender,
        /// The partition.
        from: PartitionId,
    },
    /// The node does not own the partition (any more).
    NotOwner {
        /// The channel's sender.
        sender: Sender,
        /// The partition.
        partition: PartitionId,
        /// The newest epoch the node knows of.
        epoch: Epoch,
        /// Who owns it as far as the node knows.
        hint: Option<NodeId>,
    },
    /// Asks the owner for the outcome of a started invocation. Not an obligation: asked again until answered.
    Await {
        /// The asking node's request.
        request: RequestId,
        /// Home of the invocation.
        partition: PartitionId,
        /// The invocation.
        uuid: Uuid,
    },
    /// Answers `Await`.
    Awaited {
        /// The request it answers.
        request: RequestId,
        /// The answer.
        result: AwaitResult,
    },
    /// Asks the owner for an actor's committed state. Not an obligation: asked again until answered.
    Read {
        /// The asking node's request.
        request: RequestId,
        /// The actor's partition.
        partition: PartitionId,
        /// The instance.
        actor: Arc<str>,
        /// What of it.
        select: Select,
    },
    /// Asks the owner for the committed reminders of an actor. Not an obligation: asked again until answered, by
    /// `ReadDone`.
    ListReminders {
        /// The asking node's request.
        request: RequestId,
        /// The actor's partition.
        partition: PartitionId,
        /// The instance.
        actor: Arc<str>,
    },
    /// Asks the owner for its committed subscriptions. Not an obligation: asked again until answered, by `ReadDone`.
    ListSubscriptions {
        /// The asking node's request.
        request: RequestId,
        /// The subscriptions' partition.
        partition: PartitionId,
        /// Only the one with this name.
        name: Option<Arc<str>>,
    },
    /// Answers `Read`, `ListReminders` or `ListSubscriptions`.
    ReadDone {
        /// The request it answers.
        request: RequestId,
        /// The answer.
        result: ReadResult,
    },
    /// Asks the owner to do something to an invocation. Not an obligation: asked again until answered.
    Control {
        /// The asking node's request.
        request: RequestId,
        /// Home of the invocation.
        partition: PartitionId,
        /// What.
        control: Control,
    },
    /// Answers `Control`: durable at the owner.
    ControlDone {
        /// The request it answers.
        request: RequestId,
        /// The answer.
        result: ControlResult,
    },
    /// Asks the owner to end calls that have not started, because the attempts that made them are over (rule T2). Not
    /// an obligation: asked again while their callers wait.
    Withdraw {
        /// The channel's sender.
        sender: Sender,
        /// The receiving partition.
        to: PartitionId,
        /// The calls: their numbers, and which invocations they are.
        calls: Vec<(Number, Uuid)>,
    },
    /// Follows who waits for whom.
    Probe(Box<Probe>),
    /// Looks whether what a probe has found is still so.
    Confirm(Box<Confirm>),
    /// Tells a call's callers where their chains of tail calls are.
    Climb(Box<Climb>),
    /// Asks a node what it serves, for people. Not an obligation: asked again for a while.
    Inspect {
        /// The asking node's request.
        request: RequestId,
    },
    /// Answers `Inspect`.
    Inspected {
        /// The request it answers.
        request: RequestId,
        /// The answer, in the words of drivers.
        view: Arc<[u8]>,
    },
    /// An at-most-once call that passes all logs by.
    Direct {
        /// The asking node's request.
        request: RequestId,
        /// The service.
        kind: Kind,
        /// Its method.
        method: Arc<str>,
        /// Argument.
        payload: Payload,
        /// W3C trace context.
        trace: Arc<str>,
    },
    /// Answers `Direct`.
    DirectReply {
        /// The request it answers.
        request: RequestId,
        /// What became of it.
        result: DirectResult,
    },
}

/// What became of an at-most-once call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DirectResult {
    /// It ended.
    Ended(Outcome),
    /// The host died while it ran: nobody knows.
    Lost,
    /// It did not run: the node has no host for the kind (any more).
    NoHost,
    /// It did not run: a bound of the host was hit.
    Limit(LimitHit),
}

/// What is to be done to an invocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// End it: now if it does not run, else as soon as it stops.
    Cancel(Uuid),
    /// Let it go on, if it is parked.
    Resume(Uuid),
    /// Send it again as a new tell, if it is a dead letter.
    Redrive(Uuid),
    /// Drop it, if it is a dead letter.
    Discard(Uuid),
    /// Nothing: tell what is known of it.
    Inspect(Uuid),
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ControlResult {
    /// It was done, or found to be needless.
    Done(Controlled),
    /// There is no such invocation.
    Unknown,
    /// This node does not own the partition; ask the hinted one.
    NotOwner(Option<NodeId>),
}

/// What was done to an invocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Controlled {
    /// It has ended as cancelled, and never runs (again).
    Cancelled,
    /// It runs, or waits for calls that it made: it was told to stop, and no other attempt starts.
    CancelRequested,
    /// It has gone on elsewhere by a tail call, where it is not reached; it ends if it comes back.
    CancelMoved,
    /// It had ended before.
    Ended,
    /// It goes on.
    Resumed,
    /// It is not parked.
    NotParked,
    /// It was sent again, as this invocation of the same partition.
    Redriven(Uuid),
    /// It was dropped.
    Discarded,
    /// What is known of it.
    Found(Box<Found>),
}

/// What an owner knows of an invocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// It is not finished.
    Unfinished(InvocationView),
    /// It has ended so, and the outcome is kept for somebody; without payload.
    Ended(Outcome),
    /// It is a dead letter.
    Dead(DeadLetterView),
}

impl Control {
    /// The invocation.
    pub fn uuid(&self) -> Uuid {
        match self {
            Self::Cancel(uuid)
            | Self::Resume(uuid)
            | Self::Redrive(uuid)
            | Self::Discard(uuid)
            | Self::Inspect(uuid) => *uuid,
        }
    }
}

/// What an owner knows of a started invocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AwaitResult {
    /// It ended.
    Done(Outcome),
    /// There is no such invocation: it never was, or it was not one that keeps its result, or its time is over.
    Unknown,
    /// This node does not own the partition; ask the hinted one.
    NotOwner(Option<NodeId>),
}

/// What an owner says of an actor's state or reminders, or of subscriptions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadResult {
    /// What was asked for, as committed.
    State(Selected),
    /// Its reminders, as committed, by id.
    Reminders(Vec<Arc<Reminder>>),
    /// Subscriptions, as committed, by name.
    Subscriptions(Vec<SubscriptionView>),
    /// It is longer than what fits into one answer, bytes: fewer keys are to be asked for at once.
    TooLong(u64),
    /// This node does not own the partition, or cannot be sure of it now; ask the hinted one.
    NotOwner(Option<NodeId>),
}
