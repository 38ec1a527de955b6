//! What a log means: which records are valid (rules L2, L3), what of them takes effect (T3), and
//! what may never be found in one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kar_core::ids::{Epoch, NodeId, Number, Offset, PartitionId, Sender, Uuid};
use kar_core::invocation::{Invocation, Mode, Outcome, StateOp};
use kar_core::record::{AcceptInBrief, Op, Record, Send};

use super::Judge;
use crate::history::Keys;
use crate::plan::Us;
use crate::script::Spec;
use crate::store::apply;

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
}

/// An invocation that a log holds.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) sender: Sender,
    pub(crate) number: Number,
    pub(crate) actor: Option<Arc<str>>,
    pub(crate) attempt: u32,
    pub(crate) ended: Option<Ended>,
    pub(crate) closed: bool,
    pub(crate) forgotten: bool,
}

/// An obligation that a log created.
#[derive(Clone, Debug)]
pub(crate) struct Owed {
    pub(crate) uuid: Uuid,
    pub(crate) mode: Mode,
    pub(crate) parent: Uuid,
    pub(crate) attempt: u32,
    pub(crate) epoch: Epoch,
    pub(crate) settled: bool,
}

/// A record of a turn that took effect.
#[derive(Clone, Debug)]
pub(crate) struct TurnRecord {
    pub(crate) offset: Offset,
    pub(crate) state: Vec<StateOp>,
    pub(crate) sends: Vec<u64>,
    pub(crate) complete: Option<Outcome>,
    /// The actor's state before it.
    pub(crate) before: Keys,
}

/// An actor by the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActorModel {
    pub(crate) state: Keys,
    /// Invocations with a `Progress` and no `Complete`, innermost last.
    pub(crate) stack: Vec<Uuid>,
    /// What ended, in order; re-entrant ones left out.
    pub(crate) ended: Vec<Uuid>,
}

/// A partition by its log.
#[derive(Clone, Debug)]
pub(crate) struct LogModel {
    pub(crate) id: PartitionId,
    pub(crate) uuid: Option<Uuid>,
    pub(crate) epoch: Epoch,
    pub(crate) seq: u64,
    pub(crate) released: bool,
    pub(crate) owner: Option<NodeId>,
    pub(crate) reigns: Vec<Reign>,
    pub(crate) held: HashMap<Uuid, Held>,
    pub(crate) numbers: HashMap<(Sender, Number), Uuid>,
    pub(crate) owed: BTreeMap<(usize, Number), Owed>,
    pub(crate) actors: HashMap<Arc<str>, ActorModel>,
    pub(crate) turns: HashMap<(Uuid, u32, Epoch), Vec<TurnRecord>>,
    /// State operations that took effect, for the store: offset, actor, operations.
    pub(crate) writes: Vec<(Offset, Arc<str>, Vec<StateOp>)>,
    /// Highest sequence number seen of each epoch, also of void records (for the counts).
    pub(crate) highest: HashMap<Epoch, u64>,
    /// Last valid sequence number of each epoch.
    pub(crate) last: HashMap<Epoch, u64>,
}

impl LogModel {
    pub(crate) fn new(id: PartitionId) -> Self {
        Self {
            id,
            uuid: None,
            epoch: 0,
            seq: 0,
            released: false,
            owner: None,
            reigns: Vec::new(),
            held: HashMap::new(),
            numbers: HashMap::new(),
            owed: BTreeMap::new(),
            actors: HashMap::new(),
            turns: HashMap::new(),
            writes: Vec::new(),
            highest: HashMap::new(),
            last: HashMap::new(),
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

/// A `Complete`, taken apart.
struct Completion<'a> {
    uuid: Uuid,
    attempt: u32,
    accept: Option<&'a AcceptInBrief>,
    outcome: &'a Outcome,
    state: &'a [StateOp],
    sends: &'a [Send],
}

impl Judge<'_> {
    /// A record is in the log.
    pub(crate) fn landed(
        &mut self,
        log: usize,
        offset: Offset,
        node: NodeId,
        record: &Arc<Record>,
    ) {
        let now = self.now;
        self.count_record(log, offset, node, record);
        let valid = self.would_be_valid(log, record);
        self.counts.coverage.record(record, valid);
        match &**record {
            Record::Claim { after, node: by, id } => {
                let model = &mut self.logs[log];
                if *after != model.epoch {
                    return;
                }
                model.uuid.get_or_insert(*id);
                model.epoch = offset;
                model.seq = 0;
                model.released = false;
                model.owner = Some(*by);
                model.reigns.push(Reign { epoch: offset, node: *by, from: now, released: None });
            }
            Record::Release { epoch, seq } => {
                if self.is_valid(log, *epoch, *seq) {
                    let model = &mut self.logs[log];
                    model.seq = *seq;
                    model.released = true;
                    if let Some(reign) = model.reigns.last_mut() {
                        reign.released = Some(now);
                    }
                }
            }
            Record::Batch { epoch, seq, ops } => {
                ops.iter().for_each(|op| self.learn(op));
                if self.is_valid(log, *epoch, *seq) {
                    self.logs[log].seq = *seq;
                    self.logs[log].last.insert(*epoch, *seq);
                    ops.iter().for_each(|op| self.take_effect(log, offset, op));
                }
            }
        }
    }

    /// Whether a record that has just landed is valid.
    fn would_be_valid(&self, log: usize, record: &Record) -> bool {
        match record {
            Record::Claim { after, .. } => *after == self.logs[log].epoch,
            Record::Release { epoch, seq } | Record::Batch { epoch, seq, .. } => {
                self.is_valid(log, *epoch, *seq)
            }
        }
    }

    fn is_valid(&self, log: usize, epoch: Epoch, seq: u64) -> bool {
        let model = &self.logs[log];
        epoch == model.epoch && seq == model.seq + 1 && !model.released
    }

    /// Names and chains are learnt from void records, too.
    fn learn(&mut self, op: &Op) {
        match op {
            Op::Accept { invocation, .. } => self.meet(invocation),
            Op::Progress { sends, .. } | Op::Complete { sends, .. } => {
                sends.iter().for_each(|s| self.meet(&s.obligation.invocation));
            }
            _ => {}
        }
    }

    /// An invocation is seen for the first time, or again.
    pub(crate) fn meet(&mut self, invocation: &Arc<Invocation>) {
        let tag = Spec::read(&invocation.payload).tag;
        if let Some(known) = self.uuid_of_tag.insert(tag, invocation.uuid)
            && known != invocation.uuid
        {
            let text = format!("tag {tag:x} travels as {known} and as {}", invocation.uuid);
            self.wrong("P2 one request, one invocation", text);
        }
        self.tag_of_uuid.insert(invocation.uuid, tag);
        self.chains.entry(invocation.uuid).or_insert_with(|| invocation.chain.clone());
    }

    fn take_effect(&mut self, log: usize, offset: Offset, op: &Op) {
        match op {
            Op::Accept { sender, number, invocation } => {
                self.accepted(log, sender, *number, invocation);
            }
            Op::Progress { uuid, attempt, state, sends, settled } => {
                for (to, number) in settled {
                    self.settle(log, self.log_of(to), *number);
                }
                let Some(held) = self.logs[log].held.get(uuid) else {
                    let text =
                        format!("{}@{offset}: Progress of unknown {uuid}", self.logs[log].id);
                    return self.wrong("log", text);
                };
                if held.ended.is_none() && held.attempt == *attempt {
                    self.lock(log, offset, *uuid, false);
                    self.turn_record(log, offset, (*uuid, *attempt), state, sends, None);
                }
            }
            Op::Complete { uuid, attempt, accept, outcome, state, sends, .. } => {
                let (uuid, attempt, accept) = (*uuid, *attempt, accept.as_ref());
                let completion = Completion { uuid, attempt, accept, outcome, state, sends };
                self.completed(log, offset, completion);
            }
            Op::Attempt { uuid, attempt } => {
                let model = &mut self.logs[log];
                if let Some(held) = model.held.get_mut(uuid)
                    && held.ended.is_none()
                {
                    held.attempt = held.attempt.max(*attempt);
                }
            }
            Op::Settle { to, numbers } => {
                let to = self.log_of(to);
                numbers.iter().for_each(|n| self.settle(log, to, *n));
            }
            Op::Closed { sender, below, open } => self.closed(log, sender, *below, open),
            Op::CloseChannel { node, floor, open } => {
                let below = self.nodes.range(..floor).filter(|(n, _)| !open.contains(n));
                let mut closed = below
                    .map(|(n, m)| (*n, m))
                    .chain(self.nodes.get_key_value(node).map(|(n, m)| (*n, m)));
                let live = closed.find(|(_, n)| n.gone.is_none() && !n.struck_out);
                if let Some((node, _)) = live {
                    let text = format!("{}: channel of {node:?}, which lives", self.logs[log].id);
                    self.wrong("C6 closed channel", text);
                }
            }
            Op::Forget { uuids } => {
                for uuid in uuids {
                    if let Some(held) = self.logs[log].held.get_mut(uuid) {
                        held.forgotten = true;
                    }
                }
            }
        }
    }

    fn accepted(
        &mut self,
        log: usize,
        sender: &Sender,
        number: Number,
        invocation: &Arc<Invocation>,
    ) {
        let held = Held {
            sender: sender.clone(),
            number,
            actor: invocation.actor.clone(),
            attempt: 1,
            ended: None,
            closed: false,
            forgotten: false,
        };
        self.hold(log, invocation.uuid, held);
    }

    /// A log takes an invocation in, once only.
    fn hold(&mut self, log: usize, uuid: Uuid, held: Held) {
        let key = (held.sender.clone(), held.number);
        let id = self.logs[log].id.clone();
        self.check_origin(log, uuid, &held);
        let model = &mut self.logs[log];
        let before = model.numbers.insert(key, uuid);
        let again = model.held.insert(uuid, held);
        if let Some(before) = before {
            self.wrong("C4 one number, one invocation", format!("{id}: {before}, then {uuid}"));
        } else if again.is_some() {
            self.wrong("P2 accepted once", format!("{id} accepts {uuid} again"));
        }
    }

    /// What is taken in must be owed by its sender (rule L5).
    fn check_origin(&mut self, log: usize, uuid: Uuid, held: &Held) {
        let Sender::Log { partition, log: name } = &held.sender else { return };
        let from = &self.logs[self.log_of(partition)];
        let owed = from.owed.get(&(log, held.number));
        if from.uuid != Some(*name) || owed.is_none_or(|o| o.uuid != uuid) {
            let id = &self.logs[log].id;
            let number = held.number;
            let text = format!("{id} takes {uuid} (number {number}), which {partition} never owed");
            self.wrong("P5 gate", text);
        }
    }

    fn settle(&mut self, log: usize, to: usize, number: Number) {
        let Some(owed) = self.logs[log].owed.get_mut(&(to, number)) else {
            let text = format!("{} settles unknown number {number}", self.logs[log].id);
            return self.wrong("log", text);
        };
        owed.settled = true;
        let (uuid, mode) = (owed.uuid, owed.mode);
        let durable = match self.logs[to].held.get(&uuid) {
            None => false,
            Some(held) => mode != Mode::Call || held.ended.is_some(),
        };
        if !durable {
            let text = format!("{} settles {uuid} before it is durable", self.logs[log].id);
            self.wrong("C2 settled only when durable", text);
        }
    }

    fn completed(&mut self, log: usize, offset: Offset, done: Completion<'_>) {
        let Completion { uuid, attempt, accept, outcome, state, sends } = done;
        if let (Some(brief), false) = (accept, self.logs[log].held.contains_key(&uuid)) {
            let held = Held {
                sender: brief.sender.clone(),
                number: brief.number,
                actor: brief.actor.clone(),
                attempt: 1,
                ended: None,
                closed: false,
                forgotten: false,
            };
            self.hold(log, uuid, held);
        }
        let id = self.logs[log].id.clone();
        let Some(held) = self.logs[log].held.get(&uuid) else {
            return self.wrong("log", format!("{id}@{offset}: Complete of unknown {uuid}"));
        };
        if held.ended.is_some() {
            return self
                .wrong("P2 completed once", format!("{id}@{offset} completes {uuid} again"));
        }
        if held.attempt != attempt {
            return;
        }
        let ran = matches!(outcome, Outcome::Done(_) | Outcome::Failed(_));
        if ran {
            self.lock(log, offset, uuid, true);
        }
        let effects = !state.is_empty() || !sends.is_empty();
        if effects && !matches!(outcome, Outcome::Done(_)) {
            let text = format!("{id}@{offset}: {uuid} failed, and its segment took effect");
            self.wrong("P5 segment of a failure", text);
        }
        let model = &mut self.logs[log];
        let epoch = model.epoch;
        let ended = Ended { outcome: outcome.clone(), epoch, offset };
        if let Some(held) = model.held.get_mut(&uuid) {
            held.ended = Some(ended);
        }
        let open: Vec<(usize, Number)> = model
            .owed
            .iter()
            .filter(|(_, o)| o.parent == uuid && o.mode == Mode::Call && !o.settled)
            .map(|(key, _)| *key)
            .collect();
        // T1: the turn ended, so every call that it made has its outcome; with this record they are
        // settled.
        for (to, number) in open {
            self.settle(log, to, number);
        }
        if ran {
            self.turn_record(log, offset, (uuid, attempt), state, sends, Some(outcome.clone()));
        }
    }

    /// A record of a turn takes effect: state, obligations.
    fn turn_record(
        &mut self,
        log: usize,
        offset: Offset,
        (uuid, attempt): (Uuid, u32),
        state: &[StateOp],
        sends: &[Send],
        complete: Option<Outcome>,
    ) {
        let epoch = self.logs[log].epoch;
        let mut tags = Vec::with_capacity(sends.len());
        for send in sends {
            let to = self.log_of(&send.obligation.to);
            let invocation = &send.obligation.invocation;
            tags.push(Spec::read(&invocation.payload).tag);
            let (mode, child) = (invocation.mode, invocation.uuid);
            let owed = Owed { uuid: child, mode, parent: uuid, attempt, epoch, settled: false };
            if let Some(known) = self.logs[log].owed.insert((to, send.number), owed) {
                let id = &self.logs[log].id;
                let number = send.number;
                let text = format!("{id}@{offset}: number {number} is {} and {child}", known.uuid);
                self.wrong("C1 numbers are used once", text);
            }
        }
        let model = &mut self.logs[log];
        let mut before = Keys::new();
        if let Some(actor) = model.held.get(&uuid).and_then(|h| h.actor.clone()) {
            let actor_model = model.actors.entry(actor.clone()).or_default();
            before = actor_model.state.clone();
            state.iter().for_each(|op| apply(&mut actor_model.state, op));
            if !state.is_empty() {
                model.writes.push((offset, actor, state.to_vec()));
            }
        }
        let record = TurnRecord { offset, state: state.to_vec(), sends: tags, complete, before };
        model.turns.entry((uuid, attempt, epoch)).or_default().push(record);
    }

    /// C4: a call retires when its sender holds the outcome durably.
    fn closed(&mut self, log: usize, sender: &Sender, below: Number, open: &[Number]) {
        let mut early = Vec::new();
        let numbers = self.logs[log].numbers.iter();
        let mut closed: Vec<Uuid> = numbers
            .filter(|((s, n), _)| s == sender && *n < below && !open.contains(n))
            .map(|(_, uuid)| *uuid)
            .collect();
        closed.sort_unstable();
        for uuid in closed {
            let held = &self.logs[log].held[&uuid];
            let number = held.number;
            let fine = match sender {
                Sender::Node(_) => self.mode_of(uuid) != Some(Mode::Call) || held.ended.is_some(),
                Sender::Log { partition, .. } => {
                    let owed = self.logs[self.log_of(partition)].owed.get(&(log, number));
                    owed.is_some_and(|o| o.mode != Mode::Call || o.settled)
                }
            };
            if !fine {
                early.push(uuid);
            }
            if let Some(held) = self.logs[log].held.get_mut(&uuid) {
                held.closed = true;
            }
        }
        for uuid in early {
            let text = format!("{} closes {uuid}, which its sender needs", self.logs[log].id);
            self.wrong("C4 retired only when closed", text);
        }
    }

    /// How an invocation was made, from whoever made it.
    pub(crate) fn mode_of(&self, uuid: Uuid) -> Option<Mode> {
        let tag = self.tag_of_uuid.get(&uuid)?;
        match self.asked.get(tag) {
            Some(req) => self.history.reqs[*req].mode,
            None => {
                let (run, item) = self.issued.get(tag)?;
                Some(match self.history.runs[*run].items[*item].what {
                    crate::history::ItemKind::Call(..) => Mode::Call,
                    _ => Mode::Tell,
                })
            }
        }
    }
}
