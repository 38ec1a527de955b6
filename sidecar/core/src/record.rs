//! What is stored in a partition's log (rules L1–L3). Drivers convert these types to `kar.log.v1` and back.

use std::sync::Arc;

use crate::events::Publication;
use crate::ids::{
    Epoch, Millis, NodeId, Number, Offset, PartitionId, Sender, TopicPartition, Uuid,
};
use crate::invocation::{ChainOutcome, Invocation, Obligation, Outcome, Payload, StateOp};
use crate::reminder::ReminderChange;
use crate::snapshot::NamedSnapshot;
use crate::subscription::{Subscription, SubscriptionFence};
use crate::trouble::Ended;

/// One entry of a partition's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// Asks for the reign after epoch `after` (rule L2). Valid only if `after` is the epoch when it is applied.
    Claim {
        /// The epoch it follows.
        after: Epoch,
        /// Who claims.
        node: NodeId,
        /// Random: tells claims of one node apart, and the first valid one names the log.
        id: Uuid,
    },
    /// Orderly end of a reign: nothing of that reign is valid after it.
    Release {
        /// The reign that ends.
        epoch: Epoch,
        /// Its place in the reign (rule L3).
        seq: u64,
    },
    /// What the owner decided.
    Batch {
        /// The owner's reign.
        epoch: Epoch,
        /// Its place in the reign, from 1, without gaps (rule L3).
        seq: u64,
        /// The owner's time when it was cut, ms; a partition's clock is the latest of these, and never runs back.
        time: Millis,
        /// Decisions, in order.
        ops: Vec<Op>,
    },
}

/// One decision of an owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// An invocation is now owed by this partition. With number n, every lower number of the channel is known, too.
    Accept {
        /// The channel it came on.
        sender: Sender,
        /// Its number there.
        number: Number,
        /// What is owed.
        invocation: Arc<Invocation>,
    },
    /// A turn flushed: its state operations, tells and calls up to here take effect.
    Progress {
        /// The invocation.
        uuid: Uuid,
        /// The attempt that made it; ignored unless it is the current one (rule T3).
        attempt: u32,
        /// What takes effect.
        segment: Segment,
        /// Children whose outcomes were received: their numbers are closed.
        settled: Vec<(PartitionId, Number)>,
        /// Durable steps that the turn recorded.
        steps: Vec<RecordedStep>,
        /// It holds its actor together with others, as turns of shared methods do.
        shared: bool,
    },
    /// A turn ended, and its invocation with it unless that goes on by a tail call.
    Complete {
        /// The invocation.
        uuid: Uuid,
        /// The attempt that made it; ignored unless it is the current one (rule T3).
        attempt: u32,
        /// If it was never logged as accepted: what it was, in short. Its lower numbers are known, too.
        accept: Option<AcceptInBrief>,
        /// How.
        end: End,
        /// What takes effect with it: everything since the last flush.
        segment: Segment,
        /// When it ended; results of `start` are kept for a time after it.
        time: Millis,
    },
    /// The outcome of a chain of tail calls has come home (rule C8): the invocation ends. One that is not here any more
    /// only retires its number (section 18, decision 5).
    Outcome {
        /// The channel it came on.
        sender: Sender,
        /// Its number there. Every lower number is known, too.
        number: Number,
        /// The invocation and how it ended.
        done: Arc<ChainOutcome>,
        /// When it came; results of `start` are kept for a time after it.
        time: Millis,
    },
    /// A new attempt begins (rule T3). With the current number: that attempt may have run, which is said of one that
    /// is to be tried again after a pause, and by a reign before it ends in order.
    Attempt {
        /// The invocation.
        uuid: Uuid,
        /// Its attempt number.
        attempt: u32,
        /// How the attempt ended that was the current one up to here, if that is known.
        ended: Option<Ended>,
        /// With the current number: nothing tells that it began; only a node was lost that may have begun it.
        unmarked: bool,
    },
    /// Somebody asked for the invocation's end: no attempt of it starts any more.
    Cancel {
        /// The invocation.
        uuid: Uuid,
    },
    /// The invocation has lost too many hosts: it rests until somebody takes it up again.
    Park {
        /// The invocation.
        uuid: Uuid,
    },
    /// A parked invocation goes on.
    Resume {
        /// The invocation.
        uuid: Uuid,
    },
    /// Dead letters are dropped: nobody wants them any more, or there are too many, or they are too old.
    Discard {
        /// The invocations.
        uuids: Vec<Uuid>,
    },
    /// A dead letter is sent again, as a new tell that is now owed by this partition.
    Redrive {
        /// The dead letter's invocation.
        uuid: Uuid,
        /// The new one.
        new: Uuid,
    },
    /// Obligations of this partition that the other side has made durable.
    Settle {
        /// The receiving partition.
        to: PartitionId,
        /// Their numbers.
        numbers: Vec<Number>,
    },
    /// The outcome of a keyed call came: its number is closed, and the outcome is kept with the invocation that made
    /// the call, whichever attempt that is at.
    StepDone {
        /// The receiving partition.
        to: PartitionId,
        /// Its number.
        number: Number,
        /// How it ended.
        outcome: Outcome,
    },
    /// The sender holds the outcomes of all calls below a number but for some: they retire (rule C4).
    Closed {
        /// The channel.
        sender: Sender,
        /// Every number below this is closed …
        below: Number,
        /// … except these, which are still open.
        open: Vec<Number>,
    },
    /// A departed node's channel is closed for ever (rule C6).
    CloseChannel {
        /// The node.
        node: NodeId,
        /// Channels of all lower incarnations are closed, too; 0: the floor stays where it is.
        floor: NodeId,
        /// Those below the floor that are not.
        open: Vec<NodeId>,
    },
    /// Everything in the partition's inbox up to a place has been taken over by the records up to here (rule L1).
    Inbox {
        /// The place.
        taken: Offset,
    },
    /// A root with an idempotency key was sent again: its number is used up, and nothing else happens.
    Again {
        /// The channel's sender.
        sender: Sender,
        /// The number.
        number: Number,
        /// The invocation that it has named again.
        uuid: Uuid,
    },
    /// Idempotency keys that are no longer remembered.
    ForgetKeys {
        /// Their invocations.
        uuids: Vec<Uuid>,
    },
    /// A snapshot of the log is durable. Whoever takes over may begin with it, and records that are in every snapshot
    /// that is kept may be trimmed.
    Snapshot {
        /// The snapshot.
        named: NamedSnapshot,
        /// Positions of the earlier ones that stay; the others may be deleted.
        keeps: Vec<Offset>,
    },
    /// Kept results of `start` that are dropped because their time is over or there are too many. Those of ones with
    /// idempotency keys go without the keys, which are remembered for their time.
    Forget {
        /// The invocations.
        uuids: Vec<Uuid>,
    },
    /// A reminder's due time has come: its invocation is owed from here on, and the next due time is set, in one step.
    Fire {
        /// The instance.
        actor: Arc<str>,
        /// The reminder.
        id: Arc<str>,
        /// The due time; ignored unless it is the reminder's.
        due: Millis,
        /// Unique part of the invocation's id; `None`: the due time was missed, and is skipped.
        uuid: Option<Uuid>,
        /// The next due time; `None`: the reminder ends.
        next: Option<Millis>,
    },
    /// A command about subscriptions from outside, and what came of it: it retires as a call does.
    Subscription {
        /// The channel it came on.
        sender: Sender,
        /// Its number there. Every lower number is known, too.
        number: Number,
        /// Unique part of its id.
        uuid: Uuid,
        /// What changes.
        change: SubscriptionOp,
        /// What came of it, if its sender waits for that.
        outcome: Option<Outcome>,
        /// Receivers that are told that channels are over.
        sends: Vec<Send>,
    },
    /// Events of a topic partition below an offset are done with: accepted by their receivers, or nobody's.
    Delivered {
        /// The subscription; ignored if there is none with this name (any more).
        subscription: Uuid,
        /// The partition of its topic.
        topic_partition: u32,
        /// The first offset that is not done with.
        floor: Offset,
        /// Those of them that could not be delivered, on their way to the topic of dead letters.
        publishes: Vec<Publish>,
    },
    /// Channels of subscriptions of the sender's partition are closed for ever.
    Fence {
        /// The channel it came on: its partition's subscriptions are meant.
        sender: Sender,
        /// Its number there. Every lower number is known, too.
        number: Number,
        /// What is closed.
        fence: SubscriptionFence,
    },
    /// Events that this partition owed to a topic are in it.
    Published {
        /// The topic's partition.
        to: TopicPartition,
        /// The last one's number in the channel: everything up to it is.
        upto: Number,
        /// An offset there that everything above the number comes after.
        offset: Offset,
    },
    /// A topic does not exist any more: what this partition owes it is lost, and its channel is forgotten.
    TopicGone {
        /// The topic's partition.
        to: TopicPartition,
    },
    /// An idle actor's host is told so by a turn that does something: the turn is owed from here on.
    Deactivate {
        /// The instance.
        actor: Arc<str>,
        /// Unique part of the invocation's id.
        uuid: Uuid,
    },
}

/// What a command does to subscriptions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SubscriptionOp {
    /// Nothing: what was asked for is so already, or refused.
    Nothing,
    /// Creates one.
    Create(Arc<Subscription>),
    /// Ends some.
    End {
        /// Their names.
        names: Vec<Arc<str>>,
    },
    /// Pauses one, or lets it go on.
    Pause {
        /// Its name.
        name: Arc<str>,
        /// It is to read nothing.
        paused: bool,
    },
}

/// What a turn did between two flushes; it takes effect as a whole (P5).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// State operations on the invocation's actor.
    pub state: Vec<StateOp>,
    /// Obligations created, in order.
    pub sends: Vec<Send>,
    /// Changes to the reminders of the invocation's actor, in order.
    pub reminders: Vec<ReminderOp>,
    /// Events published, in order.
    pub publishes: Vec<Publish>,
}

/// A change to reminders, and what it undoes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReminderOp {
    /// The change.
    pub change: ReminderChange,
    /// Firings of what was replaced or cancelled that have not started: they never will.
    pub dropped: Vec<Uuid>,
}

/// A durable step: a value that the program recorded under a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordedStep {
    /// Names the step within its invocation.
    pub key: Arc<str>,
    /// The value.
    pub payload: Payload,
}

/// What a turn's end means for its invocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// It ended so, and this partition answers whoever waits.
    Outcome(Outcome),
    /// It goes on here with its next step (P6).
    Next {
        /// The next step.
        invocation: Arc<Invocation>,
        /// The actor stays locked for it: it runs before anything that is queued.
        keeps_lock: bool,
    },
    /// The last obligation of the segment carries it on: its next step, or its outcome to its home (rule C8). An
    /// invocation whose home is here stays until its outcome has come back; any other one leaves.
    Passed,
}

/// What a completed invocation was, where its `Accept` was never logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcceptInBrief {
    /// The channel it came on.
    pub sender: Sender,
    /// Its number there.
    pub number: Number,
    /// The instance it ran on, for actors: the state operations are that actor's.
    pub actor: Option<Arc<str>>,
}

/// An event that a turn publishes, with its place in the channel to its topic's partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publish {
    /// Number in the channel from this partition's log; without gaps.
    pub number: Number,
    /// The event, and where it goes.
    pub publication: Publication,
}

/// An obligation created by a turn, with its place in the channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Send {
    /// Number in the channel from this partition to the receiving one.
    pub number: Number,
    /// What is owed to whom.
    pub obligation: Obligation,
}
