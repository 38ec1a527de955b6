//! What the judge knows of each log.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use kar_core::ids::{Epoch, NodeId, Number, Offset, PartitionId, Sender, Uuid};
use kar_core::invocation::{Outcome, StateOp};
use kar_core::record::Segment;
use kar_core::reminder::ReminderChange;

use super::policies::Standing;
use super::reminders::ReminderModel;
use super::steps::StepsModel;
use crate::history::Keys;
use crate::plan::Us;

/// A reign over a partition.
#[derive(Clone, Debug)]
pub(crate) struct Reign {
    pub(crate) epoch: Epoch,
    pub(crate) node: NodeId,
    pub(crate) from: Us,
    pub(crate) released: Option<Us>,
}

/// How an invocation ended, by the log.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) epoch: Epoch,
    /// Of its `Complete`.
    pub(crate) offset: Offset,
    pub(crate) at: Us,
}

/// An invocation that a log holds.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// Who sent it, and its number; nobody, for firings of reminders.
    pub(crate) sent: Option<(Sender, Number)>,
    /// What put it in its actor's queue.
    pub(crate) queued_by: QueuedBy,
    pub(crate) actor: Option<Arc<str>>,
    /// When it was accepted.
    pub(crate) since: Us,
    /// The step that runs, or is to run, here.
    pub(crate) step: u32,
    /// The tag of that step's payload.
    pub(crate) tag: u64,
    pub(crate) attempt: u32,
    /// Its outcome goes to another log.
    pub(crate) home: Option<PartitionId>,
    /// Nothing more is owed for it here: its chain has left, and its outcome goes elsewhere, or nowhere.
    pub(crate) gone: bool,
    /// The chain of tail calls has left; the outcome comes back here if `home` is none.
    pub(crate) left: bool,
    pub(crate) ended: Option<Ended>,
    pub(crate) closed: bool,
    pub(crate) forgotten: bool,
    pub(crate) policy: Standing,
}

/// What put an invocation in its actor's queue.
#[derive(Clone, Debug)]
pub(crate) enum QueuedBy {
    /// A number of a channel.
    Number(Sender, Number),
    /// The step before it, in the same partition: of this actor if it had one, when this was the last number that
    /// the partition had sent to itself.
    Step(Option<Arc<str>>, Number),
    /// A reminder that fired: in nobody's order.
    Reminder,
    /// Somebody who had it resumed or sent again: it has left its order.
    Operator,
}

/// An obligation that a log created.
#[derive(Clone, Debug)]
pub(crate) struct Owed {
    pub(crate) uuid: Uuid,
    /// Its sender waits for the outcome, not just for acceptance.
    pub(crate) awaited: bool,
    /// The outcome that it carries home.
    pub(crate) outcome: Option<Outcome>,
    /// The turn that made it.
    pub(crate) parent: Uuid,
    /// The actor that it ran on.
    pub(crate) actor: Option<Arc<str>>,
    pub(crate) attempt: (u32, u32),
    pub(crate) epoch: Epoch,
    pub(crate) settled: bool,
}

/// A record of a turn that took effect.
#[derive(Clone, Debug)]
pub(crate) struct TurnRecord {
    pub(crate) offset: Offset,
    pub(crate) state: Vec<StateOp>,
    pub(crate) sends: Vec<u64>,
    pub(crate) reminders: Vec<ReminderChange>,
    pub(crate) publishes: Vec<Bytes>,
    pub(crate) complete: Option<Closing>,
    /// The actor's state before it.
    pub(crate) before: Keys,
}

/// How a turn ended, by the log.
#[derive(Clone, Debug)]
pub(crate) enum Closing {
    Outcome(Outcome),
    /// With a tail call: its tag, and whether it keeps the lock.
    Tail(u64, bool),
    /// With a tail call that is not made, because somebody asked for the end.
    Stopped,
}

/// An actor by the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActorModel {
    pub(crate) state: Keys,
    /// Invocations with a `Progress` and no `Complete`, innermost last.
    pub(crate) stack: Vec<Uuid>,
    /// The last turn that ended of each sender, and its place among what that sent; re-entrant ones left out.
    pub(crate) ended: HashMap<(usize, u128), (Uuid, u64)>,
    /// Turns of shared methods with a `Progress` and no `Complete`.
    pub(crate) company: BTreeSet<Uuid>,
    /// The last of shared turns that ended, of each sender, by the order sent.
    pub(crate) ended_shared: BTreeMap<(usize, u128), (Uuid, u64)>,
}

/// A partition by its log.
#[derive(Clone, Debug)]
pub(crate) struct LogModel {
    pub(crate) id: PartitionId,
    pub(crate) uuid: Option<Uuid>,
    /// Offset of the last record.
    pub(crate) last: Offset,
    pub(crate) epoch: Epoch,
    pub(crate) seq: u64,
    /// The latest time in its records.
    pub(crate) time: u64,
    pub(crate) released: bool,
    pub(crate) owner: Option<NodeId>,
    pub(crate) reigns: Vec<Reign>,
    pub(crate) held: HashMap<Uuid, Held>,
    pub(crate) numbers: HashMap<(Sender, Number), Uuid>,
    pub(crate) owed: BTreeMap<(usize, Number), Owed>,
    pub(crate) actors: HashMap<Arc<str>, ActorModel>,
    pub(crate) turns: HashMap<(Uuid, u32, u32, Epoch), Vec<TurnRecord>>,
    /// Steps that have ended here: with which reign's record, and where.
    pub(crate) done: HashMap<(Uuid, u32), (Epoch, Offset)>,
    /// Steps that were to run here, and the reign whose record says so first. One that a chain was passed on for is not
    /// here before it is accepted.
    pub(crate) came: HashMap<(Uuid, u32), Epoch>,
    /// State operations that took effect, for the store: offset, actor, operations.
    pub(crate) writes: Vec<(Offset, Arc<str>, Vec<StateOp>)>,
    /// Tells that ended without success, and were neither sent again nor dropped.
    pub(crate) dead: BTreeSet<Uuid>,
    /// Highest sequence number seen of each epoch, also of void records (for the counts).
    pub(crate) highest: HashMap<Epoch, u64>,
    /// Last valid sequence number of each epoch.
    pub(crate) last_seqs: HashMap<Epoch, u64>,
    pub(crate) steps: StepsModel,
    pub(crate) reminders: ReminderModel,
}

impl Held {
    /// One that has just been taken in, at its first step.
    pub(super) fn new(queued_by: QueuedBy, actor: Option<Arc<str>>, since: Us, tag: u64) -> Self {
        let sent = match &queued_by {
            QueuedBy::Number(sender, number) => Some((sender.clone(), *number)),
            QueuedBy::Step(..) | QueuedBy::Reminder | QueuedBy::Operator => None,
        };
        Self {
            sent,
            queued_by,
            actor,
            since,
            step: 1,
            tag,
            attempt: 1,
            home: None,
            gone: false,
            left: false,
            ended: None,
            closed: false,
            forgotten: false,
            policy: Standing::default(),
        }
    }

    /// Nothing more is owed for it here.
    pub(crate) fn is_over(&self) -> bool {
        self.ended.is_some() || self.gone
    }
}

impl LogModel {
    pub(crate) fn new(id: PartitionId) -> Self {
        Self {
            id,
            uuid: None,
            last: 0,
            epoch: 0,
            seq: 0,
            time: 0,
            released: false,
            owner: None,
            reigns: Vec::new(),
            held: HashMap::new(),
            numbers: HashMap::new(),
            owed: BTreeMap::new(),
            actors: HashMap::new(),
            turns: HashMap::new(),
            done: HashMap::new(),
            came: HashMap::new(),
            writes: Vec::new(),
            dead: BTreeSet::new(),
            highest: HashMap::new(),
            last_seqs: HashMap::new(),
            steps: StepsModel::default(),
            reminders: ReminderModel::default(),
        }
    }

    /// The outcome of an invocation, if it has ended.
    pub(crate) fn outcome(&self, uuid: Uuid) -> Option<&Ended> {
        self.held.get(&uuid)?.ended.as_ref()
    }

    /// The reign after another one.
    pub(crate) fn next_reign(&self, epoch: Epoch) -> Option<&Reign> {
        self.reigns.iter().find(|r| r.epoch > epoch)
    }
}

/// What an outcome closes: a cancelled turn with effects would have gone on with a tail call.
pub(super) fn ended(outcome: &Outcome, segment: &Segment, own: usize, letters: usize) -> Closing {
    let told = segment.sends.len() > own || segment.publishes.len() > letters;
    let effects = !segment.state.is_empty() || told || !segment.reminders.is_empty();
    if *outcome == Outcome::Cancelled && effects {
        return Closing::Stopped;
    }
    Closing::Outcome(outcome.clone())
}
