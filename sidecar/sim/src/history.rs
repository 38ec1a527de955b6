//! What could be seen at the edges during a run. The checkers judge from this alone.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use kar_core::effect::{Notice, RequestError, Response};
use kar_core::events::CloudEvent;
use kar_core::ids::{
    Epoch, Kind, NodeId, Number, PartitionId, SessionId, TopicPartition, TurnToken, Uuid,
};
use kar_core::inbox::{InboxEntry, InboxId};
use kar_core::invocation::{Mode, Outcome, Payload, StateOp, Target};
use kar_core::message::{Control, Message};
use kar_core::node::PartitionView;
use kar_core::record::Record;
use kar_core::snapshot::{Snapshot, SnapshotKey};
use kar_core::subscription::FetchId;

use crate::coverage::Coverage;
use crate::operator::Policies;
use crate::plan::{Names, Us};
use crate::reading::Reading;
use crate::remind::Remind;
use crate::script::{Script, Spec};
use crate::store::{Snapshots, StorePartition};
use crate::subscribe::SubOp;

/// An answer to a request.
pub(crate) type Answer = Result<Response, RequestError>;

/// Who made a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waiter {
    /// A turn: its run, and the place among the run's items.
    Turn(usize, usize),
    /// A client: its place among the requests.
    Client(usize),
}

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// A record reached a log.
    Landed { log: usize, offset: u64, node: NodeId, record: Arc<Record> },
    /// A message was given to a connection (or dropped for want of one).
    Sent { from: NodeId, message: Message },
    /// The message seen at `sent` arrived.
    Arrived { to: NodeId, sent: usize },
    /// A node asked its host to run a turn.
    Dispatched { run: usize },
    /// A node was asked to read an actor's state.
    Reads { req: usize },
    /// A node answered.
    Responded { node: NodeId, to: Waiter, answer: Answer },
    /// A node told its operator.
    Noticed { node: NodeId, notice: Notice },
    /// A node got to know a claim.
    ClaimRead { node: NodeId, log: usize, offset: u64 },
    /// A node started.
    NodeUp { node: NodeId },
    /// A node ended: nothing of it runs on.
    NodeGone { node: NodeId },
    /// The membership dropped a node.
    StruckOut { node: NodeId },
    /// A node goes on that stood still; `resumed`: and was told so.
    Woke { node: NodeId, resumed: bool },
    /// A node knows all of a log up to the time it asked.
    ReadToEnd { node: NodeId, log: usize },
    /// A node was told whether its lease is valid.
    Lease { node: NodeId, valid: bool },
    /// A node was told of a host of these kinds.
    HostUp { node: NodeId, kinds: Vec<Kind> },
    /// A node was told that a host is gone.
    HostDown { node: NodeId, session: SessionId, dead: bool },
    /// A node was told to leave.
    DrainTold { node: NodeId },
    /// A node owns nothing more, after it was told to leave.
    Drained { node: NodeId },
    /// A partition's store went back.
    RolledBack,
    /// A snapshot was stored.
    Saved { log: usize, key: SnapshotKey, snapshot: Arc<Snapshot> },
    /// A node puts something into an inbox.
    Put { node: NodeId, entry: Arc<InboxEntry> },
    /// It is there.
    InInbox { inbox: InboxId, offset: u64, entry: Arc<InboxEntry> },
    /// Lower entries of an inbox are gone.
    InboxTrimmed { inbox: InboxId, below: u64 },
    /// An event is in a topic: where, and of which channel.
    InTopic { to: TopicPartition, offset: u64, channel: Uuid, number: Number, event: Bytes },
    /// A topic exists no more.
    TopicGone { id: Arc<str> },
    /// Somebody has published an event in the topic that is subscribed to.
    SourceEvent { id: Arc<str>, partition: u32, event: CloudEvent },
    /// Lower events there are gone.
    SourceTrimmed { id: Arc<str>, partition: u32, start: u64 },
    /// A node wants events of a subscription's topic; or it has its answer, or does not want one any more.
    Reading { node: NodeId, id: FetchId, is_open: bool },
    /// Lower records of a log are gone; how far its store was, and which snapshots there were.
    Trimmed { log: usize, start: u64, store: u64, snapshots: Snapshots },
}

/// An operation of a turn.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) what: ItemKind,
    /// The turn waits for the answer.
    pub(crate) waited: bool,
    /// Another branch of the turn asked while calls were under way.
    pub(crate) beside: bool,
    /// When the node took it in.
    pub(crate) arrived: Option<Us>,
    /// The answer.
    pub(crate) answer: Option<Answer>,
    /// The step key of a call.
    pub(crate) key: Option<Arc<str>>,
}

/// What an operation asked for.
#[derive(Clone, Debug)]
pub(crate) enum ItemKind {
    State(StateOp),
    /// If this key is absent.
    If(Arc<str>, StateOp),
    Read(Reading),
    Tell(u64, Target),
    Call(u64, Target),
    Flush,
    /// A value is recorded under this key.
    Once(Arc<str>),
    Remind(Remind),
    /// Events for topics' partitions, by number.
    Publish(Vec<(usize, u32)>),
    /// The tail call that the turn ended with.
    Tail(u64),
}

impl ItemKind {
    /// The tag of the invocation that it makes, if it makes one.
    pub(crate) fn tag(&self) -> Option<u64> {
        match self {
            Self::Tell(tag, _) | Self::Call(tag, _) | Self::Tail(tag) => Some(*tag),
            Self::State(_) | Self::If(..) | Self::Read(_) | Self::Flush | Self::Once(_) => None,
            Self::Remind(_) | Self::Publish(_) => None,
        }
    }
}

/// How a run of code ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Running,
    /// The app sent this result.
    Ended(Outcome),
    /// The app sent a tail call: its tag, and whether it keeps the lock.
    Tail(u64, bool),
    /// The app sent `Cancelled`.
    Cancelled,
    /// The process died, or the stream was gone.
    CutOff,
}

/// One dispatched turn.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) slot: usize,
    pub(crate) node: NodeId,
    pub(crate) session: SessionId,
    pub(crate) token: TurnToken,
    /// It tells that its actor has been idle.
    pub(crate) is_told: bool,
    pub(crate) activation: u64,
    pub(crate) spec: Spec,
    pub(crate) kind: usize,
    pub(crate) actor: Option<usize>,
    /// Durable steps that it was dispatched with.
    pub(crate) recorded: Keys,
    /// When its code began; never, if the dispatch did not reach the app.
    pub(crate) started: Option<Us>,
    pub(crate) ended: Option<Us>,
    pub(crate) end: End,
    /// In program order.
    pub(crate) items: Vec<Item>,
    pub(crate) cancel_sent: Option<Us>,
    /// When its node took a result of it in that was no cancellation.
    pub(crate) result_taken: Option<Us>,
    // What follows is the app's own.
    pub(crate) script: Script,
    pub(crate) next: usize,
    pub(crate) pending: u32,
    pub(crate) cancelled: bool,
    pub(crate) unheeding: bool,
    pub(crate) connected: bool,
}

/// A request of a client.
#[derive(Clone, Debug)]
pub(crate) struct Req {
    pub(crate) slot: usize,
    pub(crate) node: NodeId,
    pub(crate) session: SessionId,
    /// `None`: direct, an await, or a read.
    pub(crate) mode: Option<Mode>,
    pub(crate) awaits: Option<kar_core::ids::InvocationId>,
    /// What is to be done to an invocation, and where.
    pub(crate) control: Option<(PartitionId, Control)>,
    /// It reads of the actor's state.
    pub(crate) reads: Option<Reading>,
    /// A change to reminders.
    pub(crate) remind: Option<Remind>,
    /// The removal of an actor.
    pub(crate) removes: bool,
    /// Something about a subscription.
    pub(crate) subscription: Option<SubOp>,
    pub(crate) tag: u64,
    pub(crate) kind: usize,
    pub(crate) actor: Option<usize>,
    pub(crate) deadline: bool,
    /// It has an idempotency key.
    pub(crate) keyed: bool,
    /// When the node took it in.
    pub(crate) arrived: Option<Us>,
    pub(crate) abandoned: bool,
    pub(crate) answers: Vec<(Us, Answer)>,
    pub(crate) await_by: (usize, Us),
}

/// How the world stood when the run was over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Finish {
    /// Everything came to rest within the bound.
    pub(crate) quiet: bool,
    /// What the nodes that live served.
    pub(crate) views: Vec<(NodeId, Vec<PartitionView>, usize)>,
    /// How many actors are awake at each.
    pub(crate) awake: Vec<(NodeId, usize)>,
    /// The stores.
    pub(crate) stores: Vec<StorePartition>,
    /// The reign that has fenced each store since it last went back.
    pub(crate) stores_known_to: Vec<Option<Epoch>>,
    /// A bound on events was hit.
    pub(crate) livelock: bool,
    /// When it was over.
    pub(crate) at: Us,
}

/// A whole run, as seen from outside.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) names: Rc<Names>,
    /// Bounds are small: refusals are expected.
    pub(crate) small_limits: bool,
    /// The nodes' bound of that name.
    pub(crate) closed_channels_max: usize,
    /// The nodes' bound of what their subscriptions have under way, of a partition, bytes.
    pub(crate) deliveries_bytes_max: usize,
    /// The nodes' bound of an actor's state, bytes.
    pub(crate) state_bytes_max: usize,
    /// The nodes' bounds of reminders: of an actor, of a partition, and of that in bytes.
    pub(crate) reminders_max: (usize, usize, usize),
    /// How long actors stay awake that have nothing to do, ms.
    pub(crate) actor_idle: u64,
    /// How long nodes ask for a state before they give up.
    pub(crate) accept_timeout: Us,
    /// Apps stop the code of cut-off attempts within the grace.
    pub(crate) heeding: bool,
    /// How many turns of roots each slot's component takes at once.
    pub(crate) concurrency: Vec<u32>,
    /// Which slots' components register `strict`.
    pub(crate) strict: Vec<bool>,
    /// How many events came before these: the explorer keeps them.
    pub(crate) before: usize,
    /// How retryable errors are retried.
    pub(crate) policies: Policies,
    /// The nodes' bounds of these names.
    pub(crate) park_after: u32,
    pub(crate) dead_letters_max: usize,
    /// No bound on results of what was started is near.
    pub(crate) keeps_results: bool,
    /// Stores go back, and snapshots with them.
    pub(crate) goes_back: bool,
    pub(crate) events: Vec<(Us, Seen)>,
    pub(crate) runs: Vec<Run>,
    pub(crate) reqs: Vec<Req>,
    /// What nodes counted themselves.
    pub(crate) covered: Coverage,
    pub(crate) finish: Finish,
}

/// A state as a turn saw it.
pub(crate) type Keys = BTreeMap<Arc<str>, Payload>;
