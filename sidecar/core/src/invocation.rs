//! What is called, and how it ended.

use std::sync::Arc;

use bytes::Bytes;

use crate::events::EventOrigin;
use crate::ids::{Kind, Millis, PartitionId, Uuid};
use crate::reminder::Remind;
use crate::select::KeyRange;
use crate::subscription::{SubscriptionCommand, SubscriptionFence};

/// Application bytes with their content type; the core never looks inside.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Payload {
    /// The bytes.
    pub data: Bytes,
    /// MIME type, empty if unknown.
    pub content_type: Arc<str>,
}

/// Who waits for an invocation, and how.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mode {
    /// The sender waits for the outcome.
    Call,
    /// Nobody waits.
    Tell,
    /// The sender waits for acceptance; the outcome is kept and fetched by id.
    Start,
}

/// What an invocation asks of its target.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Work {
    /// A method runs in a host.
    #[default]
    Method,
    /// The actor is removed: its owner carries that out when its turn comes, and no host is needed.
    Remove,
    /// The actor has been idle, and its host is told so by a turn of its own.
    Deactivate,
}

/// An invocation as it travels and as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Invocation {
    /// Unique part of its id; the home partition is where it was sent.
    pub uuid: Uuid,
    /// What is to be done.
    pub work: Work,
    /// Call, tell or start.
    pub mode: Mode,
    /// The instance, for actors; `None` for services.
    pub actor: Option<Arc<str>>,
    /// Method of the target.
    pub method: Arc<str>,
    /// Argument.
    pub payload: Payload,
    /// Unique parts of the ids of the synchronous callers, the flow's root first; empty for roots and tells.
    /// Re-entrancy is decided by it (section 18, decision 6); its length is the depth of the call.
    pub chain: Arc<[Uuid]>,
    /// The invocation must start before this time; `None`: no deadline.
    pub deadline: Option<Millis>,
    /// W3C trace context (`traceparent`), empty if none.
    pub trace: Arc<str>,
    /// Step of its chain of tail calls, from 1 (P6).
    pub step: u32,
    /// The partition that the outcome is owed to (rule C8): it keeps the one live entry of a chain of tail calls that
    /// has left it. `None`: whoever keeps this one answers its sender, or nobody waits.
    pub home: Option<PartitionId>,
    /// How errors that the application marks retryable are retried; `None`: as its method's host registered, or as its
    /// owner does by default.
    pub retry: Option<RetryPolicy>,
    /// It has an idempotency key: the digest of what was asked. Its uuid is derived from the key.
    pub key: Option<u128>,
    /// Tells only: it delivers an event.
    pub event: Option<Arc<EventOrigin>>,
}

/// How errors that the application marks retryable are retried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    /// The error of this attempt is the outcome; those lost with their hosts do not count. At least 1.
    pub attempts_max: u32,
    /// Pause before the second attempt, ms.
    pub initial_ms: Millis,
    /// Longest pause, ms.
    pub max_ms: Millis,
    /// Each pause is so much longer than the one before, percent; at least 100.
    pub multiplier_percent: u32,
}

/// Where an invocation goes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Target {
    /// Service or actor type.
    pub kind: Kind,
    /// The instance, for actors.
    pub actor: Option<Arc<str>>,
    /// For services: calls with the same key go to the same partition. Unused for actors.
    pub affinity: Option<Arc<str>>,
}

/// How an invocation ended. All of them are logged by the callee's owner before they are told (rule C5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The method returned.
    Done(Payload),
    /// The method failed by the application's own will: a completion, too.
    Failed(ApplicationError),
    /// The owner did not take it, because a bound was reached or the target cannot exist.
    Refused(Refusal),
    /// It waited for an actor in a circle of flows that wait for each other, and did not run: the circle, for people.
    Deadlock(Arc<str>),
    /// Its deadline passed before it started.
    Expired,
    /// Somebody asked for its end: it had not started, was between two attempts, or stopped when it was told.
    Cancelled,
    /// The attempt that had called it was over before it started (rule T2): it never runs, and nobody wants to know.
    /// The next attempt of its caller makes a call of its own.
    Withdrawn,
}

/// An error that the application returned.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ApplicationError {
    /// Short machine-readable name, chosen by the application (an exception's class, say).
    pub code: Arc<str>,
    /// For people.
    pub message: Arc<str>,
    /// Stack trace or other detail, as text.
    pub detail: Arc<str>,
    /// Typed detail for the caller's program.
    pub payload: Payload,
    /// Trying again may help: another attempt is made if a retry policy asks for it.
    pub retryable: bool,
}

/// Why an owner refused an invocation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Refusal {
    /// The actor's queue is full (`Limits::queue_per_actor_max`).
    ActorQueueFull,
    /// The partition has too many unfinished invocations (`Limits::unfinished_per_partition_max`).
    PartitionFull,
    /// The partition holds too many bytes (`Limits::unfinished_bytes_per_partition_max`).
    PartitionBytesFull,
    /// The chain of calls is too deep (`Limits::depth_max`). No owner makes it: callers' nodes say so before they send.
    TooDeep,
    /// The idempotency key stands for another method or argument.
    KeyReused,
    /// The partition remembers too many idempotency keys (`Limits::keys_per_partition_max`).
    KeysFull,
    /// What the partition remembers under idempotency keys is too long (`Limits::keys_bytes_per_partition_max`).
    KeysBytesFull,
    /// An exclusive method of an actor was called by a flow that holds it by a shared one: it would wait for itself.
    SharedToExclusive,
    /// The actor has too many reminders (`Limits::reminders_per_actor_max`).
    ActorRemindersFull,
    /// The partition has too many reminders (`Limits::reminders_per_partition_max`).
    RemindersFull,
    /// The partition's reminders have too many bytes (`Limits::reminders_bytes_per_partition_max`).
    RemindersBytesFull,
    /// There is a subscription with that name and other settings.
    SubscriptionDiffers,
    /// There is no subscription with that name.
    SubscriptionUnknown,
    /// The partition has too many subscriptions (`Limits::subscriptions_per_partition_max`).
    SubscriptionsFull,
    /// The settings of the partition's subscriptions have too many bytes
    /// (`Limits::subscriptions_bytes_per_partition_max`).
    SubscriptionsBytesFull,
    /// The sender's channel was closed because its node was gone for too long (rule C6). No owner makes it: that is an
    /// answer of its own.
    ChannelClosed,
}

/// A change to an actor's state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StateOp {
    /// Sets a key.
    Set {
        /// Key.
        key: Arc<str>,
        /// New value.
        value: Payload,
    },
    /// Removes a key; nothing happens if it is absent.
    Remove {
        /// Key.
        key: Arc<str>,
    },
    /// Removes every key of a range.
    RemoveRange(KeyRange),
    /// Removes every key.
    Clear,
}

/// What must hold of a key, as the turn sees it, for changes to its actor's state to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateCondition {
    /// How many of the changes come before it; conditions are in this order.
    pub after: usize,
    /// Key.
    pub key: Arc<str>,
    /// The value that it must have; absent: it must be absent.
    pub value: Option<Payload>,
}

/// State operations of one actor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActorOps {
    /// The instance.
    pub actor: Arc<str>,
    /// What happened, in order.
    pub ops: Vec<StateOp>,
}

/// An obligation as its sender holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Obligation {
    /// Partition it goes to.
    pub to: PartitionId,
    /// What is owed.
    pub owed: Owed,
    /// The invocation of the sending partition whose turn made it; `None` for a node's roots.
    pub parent: Option<Uuid>,
    /// The key under which a call's outcome is kept with its parent (design section 1, durable steps).
    pub step_key: Option<Arc<str>>,
}

/// What one party owes another (rule C2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Owed {
    /// A call, a tell, a start, or the next step of a chain of tail calls.
    Invocation(Arc<Invocation>),
    /// The outcome of a chain of tail calls, to its home (rule C8).
    Outcome(Arc<ChainOutcome>),
    /// A change to an actor's reminders, from outside its turns: its owner carries it out.
    Remind(Arc<Remind>),
    /// Something to be done to subscriptions: their owner carries it out.
    Subscription(Arc<SubscriptionCommand>),
    /// Subscriptions of the sender are over: their channels are closed for ever.
    Fence(Arc<Fence>),
}

/// What a partition says of its subscriptions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fence {
    /// Unique part of its id.
    pub uuid: Uuid,
    /// What is over.
    pub fence: SubscriptionFence,
}

/// The outcome of a chain of tail calls, on its way home.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChainOutcome {
    /// The invocation.
    pub uuid: Uuid,
    /// How its last step ended.
    pub outcome: Outcome,
}

impl ApplicationError {
    /// An error that the runtime finds in what a turn returned.
    pub(crate) fn of_kar(code: &str, message: &str) -> Self {
        Self { code: code.into(), message: message.into(), ..Self::default() }
    }
}

impl Invocation {
    /// What the system itself asks of an actor: nobody's argument, chain, deadline or policy.
    pub(crate) fn system(work: Work, mode: Mode, actor: Arc<str>, uuid: Uuid) -> Self {
        Self {
            uuid,
            work,
            mode,
            actor: Some(actor),
            method: Arc::default(),
            payload: Payload::default(),
            chain: [].into(),
            deadline: None,
            trace: Arc::default(),
            step: 1,
            home: None,
            retry: None,
            key: None,
            event: None,
        }
    }

    /// The uuid of the flow's root.
    pub fn flow(&self) -> Uuid {
        self.chain.first().copied().unwrap_or(self.uuid)
    }

    /// Whether the outcome of a chain of tail calls from here comes back to here (rule C8): somebody waits for it, and
    /// nobody else keeps it for them.
    pub fn is_home(&self) -> bool {
        self.mode != Mode::Tell && self.home.is_none()
    }

    /// Whether the event that it delivers goes to a topic if it ends without success.
    pub fn goes_to_topic(&self) -> bool {
        self.event.as_ref().is_some_and(|event| event.dead_letter.is_some())
    }

    /// Whether its sender waits for the outcome on the channel. Everything else retires when it is accepted (rule C4).
    pub fn is_awaited(&self) -> bool {
        self.mode == Mode::Call && self.home.is_none()
    }
}

impl Owed {
    /// The invocation's uuid.
    pub fn uuid(&self) -> Uuid {
        match self {
            Self::Invocation(invocation) => invocation.uuid,
            Self::Outcome(done) => done.uuid,
            Self::Remind(remind) => remind.uuid,
            Self::Subscription(command) => command.uuid,
            Self::Fence(fence) => fence.uuid,
        }
    }

    /// Whether its sender waits for an outcome; otherwise for its acceptance.
    pub fn is_awaited(&self) -> bool {
        match self {
            Self::Invocation(invocation) => invocation.is_awaited(),
            Self::Outcome(_) | Self::Fence(_) => false,
            Self::Remind(_) => true,
            Self::Subscription(command) => command.is_awaited(),
        }
    }
}
