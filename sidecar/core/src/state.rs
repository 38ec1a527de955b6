//! What applying a partition's log yields (rules L1–L4): pure bookkeeping, the same for every reader.
//!
//! The owner applies its own decisions when it proposes them, so for it this is the state *ahead* of the log; if a
//! proposal fails the whole of it is dropped and rebuilt by reading (rule L4). Validity of what is read is judged in
//! one place, [`LogState::admit`].
//!
//! Longer than most: one `match` applies every decision, and what it calls is read beside it.

mod closed;
mod outcomes;
mod save;
mod topics;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::agenda::{Agenda, Key};
use crate::dead::{DeadLetter, DeadLetters};
use crate::ids::{Epoch, Millis, NodeId, Number, Offset, PartitionId, Sender, Uuid};
use crate::invocation::{
    ActorOps, Invocation, Mode, Obligation, Outcome, Owed, Payload, StateOp, Work,
};
use crate::keys::Keys;
use crate::limits::Rules;
use crate::record::{End, Op, Record, ReminderOp, Segment, Send};
use crate::reminder::Reminder;
use crate::size::Tally;
use crate::snapshot::NamedSnapshot;
use crate::steps::Steps;
use crate::subscriptions::{Fences, Subscriptions};
use crate::trouble::Trouble;

use closed::ClosedNodes;
use outcomes::Outcomes;
use topics::Topics;

/// State of a partition as its log tells it.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogState {
    /// Offset of the last record read.
    pub(crate) offset: Offset,
    /// Current reign.
    pub(crate) epoch: Epoch,
    /// Whose reign.
    pub(crate) owner: Option<NodeId>,
    /// The reign has ended in order.
    pub(crate) released: bool,
    /// Last sequence number used up in the reign.
    pub(crate) seq: u64,
    /// UUID of the first valid claim: the log's name as a sender.
    pub(crate) log: Option<Uuid>,
    /// Unfinished invocations that were logged.
    pub(crate) entries: BTreeMap<Uuid, Box<Entry>>,
    /// Outcomes of calls kept until their sender has them.
    pub(crate) kept: Outcomes,
    /// Results of `start`, with the time they ended.
    pub(crate) results: Outcomes,
    /// The same in the order they ended.
    pub(crate) results_by_age: VecDeque<(Millis, Uuid)>,
    /// Invocations that may be sent again.
    pub(crate) keys: Keys,
    /// Channels in.
    pub(crate) inbound: BTreeMap<Sender, Inbound>,
    /// Channels out.
    pub(crate) outbound: BTreeMap<PartitionId, Outbound>,
    /// What is open in them.
    pub(crate) owed: Tally,
    /// Channels into topics.
    pub(crate) topics: Topics,
    /// Channels of departed nodes, closed for ever.
    pub(crate) closed_nodes: ClosedNodes,
    /// Tells that ended without success.
    pub(crate) dead: DeadLetters,
    /// Reminders.
    pub(crate) agenda: Agenda,
    /// Counts acceptances: the order of queues.
    order: u64,
    /// The partition's clock: the latest time in its records. It never runs back.
    pub(crate) clock: Millis,
    /// Offset of the last record with state operations: the store follows up to there.
    pub(crate) last_write: Offset,
    /// Offset in the inbox up to which everything has been taken over.
    pub(crate) inbox: Offset,
    /// Snapshots that the log names and that are kept, oldest first.
    pub(crate) snapshots: Vec<NamedSnapshot>,
    /// Subscriptions.
    pub(crate) subscriptions: Subscriptions,
    /// Channels of subscriptions that are closed for ever.
    pub(crate) fences: Fences,
}

/// An unfinished invocation.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) invocation: Arc<Invocation>,
    pub(crate) origin: Origin,
    /// Place among all acceptances.
    pub(crate) order: u64,
    /// The current attempt of the current step.
    pub(crate) attempt: u32,
    /// The current attempt is known to have been dispatched, or to be about to be: it has flushed, or a reign that
    /// ended in order says so, or every reign of an invocation that has a deadline.
    pub(crate) ran: bool,
    /// Some attempt has flushed, or the step before kept the lock: it holds its actor until it ends (rule T2).
    pub(crate) holds: bool,
    /// It holds its actor together with other turns of shared methods.
    pub(crate) shared: bool,
    /// Calls made by its turns that are not settled.
    pub(crate) children: BTreeSet<(PartitionId, Number)>,
    /// Durable steps of the current step of its chain.
    pub(crate) steps: Steps,
    /// The sender no longer wants the outcome.
    pub(crate) unwanted: bool,
    /// Its chain of tail calls goes on elsewhere; this is its home, where the outcome comes back (rule C8).
    pub(crate) moved: bool,
    /// What went wrong in the current step.
    pub(crate) trouble: Trouble,
    /// Somebody asked for its end: no attempt starts any more.
    pub(crate) cancel: bool,
    /// It has lost too many hosts: it rests.
    pub(crate) parked: bool,
}

/// Where an invocation came from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Origin {
    /// Somebody owed it.
    Channel { sender: Sender, number: Number },
    /// A reminder of this partition fired: nobody else knows of it.
    Reminder(Key),
    /// Its actor has been idle: nobody else knows of it, nor the log, unless it did something.
    Idle,
}

/// The receiving end of a channel (rule C4). Numbers below `next` are known; those of them that are not live are
/// retired.
#[derive(Clone, Debug)]
pub(crate) struct Inbound {
    pub(crate) next: Number,
    /// Calls whose sender may still ask.
    pub(crate) live: BTreeMap<Number, Uuid>,
}

/// The sending end of a channel: what is owed.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    pub(crate) next: Number,
    pub(crate) open: BTreeMap<Number, Obligation>,
}

/// What reading a record did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// A reign began.
    Claimed,
    /// The reign ended in order.
    Released,
    /// Decisions took effect, with these state operations.
    Applied(Vec<ActorOps>),
    /// Void for ever.
    Void,
}

impl Origin {
    /// The channel that it came on, and its number there.
    pub(crate) fn channel(&self) -> Option<(&Sender, Number)> {
        match self {
            Self::Channel { sender, number } => Some((sender, *number)),
            Self::Reminder(_) | Self::Idle => None,
        }
    }

    /// Whose channel it came on.
    pub(crate) fn sender(&self) -> Option<&Sender> {
        self.channel().map(|(sender, _)| sender)
    }
}

impl Default for Inbound {
    fn default() -> Self {
        Self { next: 1, live: BTreeMap::new() }
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Self { next: 1, open: BTreeMap::new() }
    }
}

impl LogState {
    /// Judges a record read at `offset` and applies it if it is valid.
    pub(crate) fn admit(&mut self, rules: &Rules, offset: Offset, record: &Record) -> Admission {
        self.offset = offset;
        match record {
            Record::Claim { after, node, id } => {
                if rules.compare_claim && *after != self.epoch {
                    return Admission::Void;
                }
                self.begin_reign(offset, *node, *id);
                Admission::Claimed
            }
            Record::Release { epoch, seq } => {
                if !self.is_next(rules, *epoch, *seq) {
                    return Admission::Void;
                }
                self.seq = *seq;
                self.released = true;
                Admission::Released
            }
            Record::Batch { epoch, seq, time, ops } => {
                if !self.is_next(rules, *epoch, *seq) {
                    return Admission::Void;
                }
                self.seq = *seq;
                self.clock = self.clock.max(*time);
                let mut stored = Vec::new();
                for op in ops {
                    self.apply(rules, op, &mut stored);
                }
                if !stored.is_empty() {
                    self.last_write = offset;
                }
                Admission::Applied(stored)
            }
        }
    }

    /// Starts a reign.
    pub(crate) fn begin_reign(&mut self, epoch: Epoch, node: NodeId, id: Uuid) {
        self.epoch = epoch;
        self.owner = Some(node);
        self.released = false;
        self.seq = 0;
        self.log.get_or_insert(id);
    }

    /// Rule L3: the epoch is current, not released, and the number is the next one.
    pub(crate) fn is_next(&self, rules: &Rules, epoch: Epoch, seq: u64) -> bool {
        epoch == self.epoch
            && !self.released
            && (seq == self.seq + 1 || (!rules.gapless_sequence && seq > self.seq))
    }

    /// Applies one decision; tells whether it took effect (rule T3 may void it). State operations go to `stored`.
    pub(crate) fn apply(&mut self, rules: &Rules, op: &Op, stored: &mut Vec<ActorOps>) -> bool {
        match op {
            Op::Accept { sender, number, invocation } => {
                self.accept(sender, *number, invocation);
                true
            }
            Op::Progress { uuid, attempt, segment, settled, steps, shared } => {
                let Some(entry) = self.entries.get_mut(uuid) else { return false };
                if entry.attempt != *attempt && rules.turn_token {
                    return false;
                }
                entry.holds = true;
                entry.ran = true;
                entry.shared = *shared;
                let actor = entry.invocation.actor.clone();
                push_state(actor.as_ref(), &segment.state, stored);
                for send in &segment.sends {
                    if send.obligation.owed.is_awaited() {
                        entry.children.insert((send.obligation.to.clone(), send.number));
                    }
                    if let (Some(key), Owed::Invocation(call)) =
                        (&send.obligation.step_key, &send.obligation.owed)
                    {
                        entry.steps.call(key, (&send.obligation.to, send.number), call);
                    }
                }
                steps.iter().for_each(|step| entry.steps.record(step));
                for child in settled {
                    entry.children.remove(child);
                }
                for (to, number) in settled {
                    self.close_out(to, *number, None);
                }
                self.owe(&segment.sends);
                self.topics.owe(&segment.publishes);
                self.remind(rules, actor.as_ref(), &segment.reminders);
                true
            }
            Op::Complete { uuid, attempt, accept, end, segment, time } => {
                if let Some(accept) = accept {
                    // What was never logged goes no further than this.
                    let End::Outcome(outcome) = end else { return false };
                    let inbound = self.inbound.entry(accept.sender.clone()).or_default();
                    inbound.next = inbound.next.max(accept.number + 1);
                    if rules.retire_only_closed {
                        inbound.live.insert(accept.number, *uuid);
                        self.kept.insert(*uuid, outcome.clone());
                    }
                    push_state(accept.actor.as_ref(), &segment.state, stored);
                    self.remind(rules, accept.actor.as_ref(), &segment.reminders);
                } else {
                    let current = self.entries.get(uuid).map(|e| e.attempt);
                    if current.is_none() || (current != Some(*attempt) && rules.turn_token) {
                        return false;
                    }
                    self.end_turn(rules, *uuid, segment, stored);
                    match end {
                        End::Outcome(outcome) => self.end(rules, *uuid, outcome, *time),
                        End::Next { invocation, keeps_lock } => {
                            self.next_step(*uuid, invocation, *keeps_lock);
                        }
                        End::Passed => self.pass_on(rules, *uuid, *time),
                    }
                }
                self.owe(&segment.sends);
                self.topics.owe(&segment.publishes);
                true
            }
            Op::Outcome { sender, number, done, time } => {
                let inbound = self.inbound.entry(sender.clone()).or_default();
                inbound.next = inbound.next.max(number + 1);
                if self.entries.get(&done.uuid).is_some_and(|entry| entry.moved) {
                    self.end(rules, done.uuid, &done.outcome, *time);
                }
                true
            }
            Op::Again { sender, number, .. } => {
                let inbound = self.inbound.entry(sender.clone()).or_default();
                inbound.next = inbound.next.max(number + 1);
                true
            }
            Op::ForgetKeys { uuids } => {
                uuids.iter().for_each(|uuid| self.keys.forget(*uuid));
                true
            }
            Op::Attempt { uuid, attempt, ended } => {
                let Some(entry) = self.entries.get_mut(uuid) else { return false };
                if let Some(ended) = ended {
                    entry.trouble.note(entry.attempt, ended);
                }
                entry.ran = entry.attempt == *attempt;
                entry.attempt = *attempt;
                true
            }
            Op::Cancel { uuid } => {
                let Some(entry) = self.entries.get_mut(uuid) else { return false };
                entry.cancel = true;
                // It is to end, and rests no more.
                entry.parked = false;
                true
            }
            Op::Park { uuid } => self.entries.get_mut(uuid).map(|e| e.parked = true).is_some(),
            Op::Resume { uuid } => {
                let Some(entry) = self.entries.get_mut(uuid) else { return false };
                entry.parked = false;
                entry.trouble.losses = 0;
                true
            }
            Op::Discard { uuids } => {
                for uuid in uuids {
                    self.dead.remove(*uuid);
                }
                true
            }
            Op::Redrive { uuid, new } => self.redrive(*uuid, *new),
            Op::Settle { to, numbers } => {
                for number in numbers {
                    self.close_out(to, *number, None);
                }
                true
            }
            Op::StepDone { to, number, outcome } => {
                self.close_out(to, *number, Some(outcome).filter(|_| rules.kept_results));
                true
            }
            Op::Closed { sender, below, open } => {
                self.close_in(sender, *below, open);
                true
            }
            Op::CloseChannel { node, floor, open } => {
                self.closed_nodes.close(*node);
                self.closed_nodes.raise(*floor, open);
                self.drop_closed();
                true
            }
            Op::Inbox { taken } => {
                self.inbox = self.inbox.max(*taken);
                true
            }
            Op::Snapshot { named, keeps } => {
                self.snapshots.retain(|earlier| keeps.contains(&earlier.key.position));
                self.snapshots.push(*named);
                true
            }
            Op::Forget { uuids } => {
                for uuid in uuids {
                    self.results.remove(uuid);
                    self.keys.drop_outcome(*uuid);
                }
                let results = &self.results;
                while self.results_by_age.front().is_some_and(|(_, u)| results.get(u).is_none()) {
                    self.results_by_age.pop_front();
                }
                true
            }
            Op::Fire { actor, id, due, uuid, next } => {
                self.fire(&(actor.clone(), id.clone()), *due, *uuid, *next)
            }
            Op::Subscription { sender, number, uuid, change, outcome, sends } => {
                let inbound = self.inbound.entry(sender.clone()).or_default();
                inbound.next = inbound.next.max(number + 1);
                if let Some(outcome) = outcome
                    && rules.retire_only_closed
                {
                    inbound.live.insert(*number, *uuid);
                    self.kept.insert(*uuid, outcome.clone());
                }
                self.subscriptions.change(change);
                self.owe(sends);
                true
            }
            Op::Delivered { subscription, topic_partition, floor, publishes } => {
                self.topics.owe(publishes);
                self.subscriptions.move_floor(*subscription, *topic_partition, *floor)
            }
            Op::Fence { sender, number, fence } => {
                let inbound = self.inbound.entry(sender.clone()).or_default();
                inbound.next = inbound.next.max(number + 1);
                if let Sender::Log { partition, .. } = sender {
                    self.fences.raise(partition, fence);
                    let fences = &self.fences;
                    self.inbound.retain(|sender, _| !fences.close(sender));
                }
                true
            }
            Op::Published { to, upto, offset } => {
                self.topics.settle(to, *upto, *offset);
                true
            }
            Op::TopicGone { to } => {
                self.topics.forget(to);
                true
            }
            Op::Deactivate { actor, uuid } => {
                self.insert_entry(Arc::new(deactivation(actor, *uuid)), Origin::Idle);
                true
            }
        }
    }

    /// Changes the reminders of an actor; firings that the change drops never start.
    fn remind(&mut self, rules: &Rules, actor: Option<&Arc<str>>, ops: &[ReminderOp]) {
        let Some(actor) = actor else { return };
        for ReminderOp { change, dropped } in ops {
            for uuid in dropped {
                if rules.cancel_drops_firings {
                    self.remove_entry(*uuid);
                }
            }
            self.agenda.change(actor, change);
        }
    }

    /// A due time has come: the firing is owed, and the next due time set, at once.
    fn fire(&mut self, key: &Key, due: Millis, uuid: Option<Uuid>, next: Option<Millis>) -> bool {
        let Some(reminder) = self.agenda.get(key).filter(|r| r.due == due).cloned() else {
            return false;
        };
        self.agenda.pass(key, next);
        if let Some(uuid) = uuid {
            self.insert_entry(
                Arc::new(firing(&key.0, &reminder, uuid)),
                Origin::Reminder(key.clone()),
            );
            self.agenda.fired(key.clone(), uuid);
        }
        true
    }

    /// An invocation is no longer here.
    fn remove_entry(&mut self, uuid: Uuid) -> Option<Entry> {
        let entry = self.entries.remove(&uuid)?;
        if let Origin::Reminder(key) = &entry.origin {
            self.agenda.ended(key, uuid);
        }
        Some(*entry)
    }

    fn accept(&mut self, sender: &Sender, number: Number, invocation: &Arc<Invocation>) {
        let inbound = self.inbound.entry(sender.clone()).or_default();
        inbound.next = inbound.next.max(number + 1);
        if invocation.is_awaited() {
            inbound.live.insert(number, invocation.uuid);
        }
        if self.entries.get(&invocation.uuid).is_some_and(|entry| entry.moved) {
            // A chain of tail calls has come back to its home, which answers for it from here on.
            let invocation = Invocation { home: None, ..(**invocation).clone() };
            return self.next_step(invocation.uuid, &Arc::new(invocation), false);
        }
        if let Some(digest) = invocation.key {
            self.keys.accept(invocation.uuid, digest);
        }
        self.insert_entry(invocation.clone(), Origin::Channel { sender: sender.clone(), number });
    }

    /// Owes an invocation from here on, behind everything accepted before.
    fn insert_entry(&mut self, invocation: Arc<Invocation>, origin: Origin) {
        self.order += 1;
        let uuid = invocation.uuid;
        let entry = Entry {
            invocation,
            origin,
            order: self.order,
            attempt: 1,
            ran: false,
            holds: false,
            shared: false,
            children: BTreeSet::new(),
            steps: Steps::default(),
            unwanted: false,
            moved: false,
            trouble: Trouble::default(),
            cancel: false,
            parked: false,
        };
        self.entries.insert(uuid, Box::new(entry));
    }

    /// A dead letter is sent again: what happened to it before does not count.
    fn redrive(&mut self, uuid: Uuid, new: Uuid) -> bool {
        let Some(letter) = self.dead.remove(uuid) else { return false };
        let before = (*letter.invocation).clone();
        let invocation = Invocation { uuid: new, deadline: None, key: None, ..before };
        self.insert_entry(Arc::new(invocation), letter.origin);
        true
    }

    /// A logged turn ended: its segment takes effect, and its children are settled with it.
    fn end_turn(
        &mut self,
        rules: &Rules,
        uuid: Uuid,
        segment: &Segment,
        stored: &mut Vec<ActorOps>,
    ) {
        let Some(entry) = self.entries.get_mut(&uuid) else { return };
        let actor = entry.invocation.actor.clone();
        push_state(actor.as_ref(), &segment.state, stored);
        for (to, number) in std::mem::take(&mut entry.children) {
            self.close_out(&to, number, None);
        }
        self.remind(rules, actor.as_ref(), &segment.reminders);
    }

    /// A chain of tail calls goes on here.
    fn next_step(&mut self, uuid: Uuid, invocation: &Arc<Invocation>, keeps_lock: bool) {
        let Some(entry) = self.entries.get_mut(&uuid) else { return };
        if !keeps_lock {
            self.order += 1;
            entry.order = self.order;
        }
        entry.invocation = invocation.clone();
        entry.attempt = 1;
        entry.ran = false;
        entry.holds = keeps_lock;
        entry.shared = false;
        entry.steps = Steps::default();
        entry.moved = false;
        entry.trouble = Trouble::default();
    }

    /// A chain of tail calls goes on, or has ended, somewhere else: its home stays.
    fn pass_on(&mut self, rules: &Rules, uuid: Uuid, time: Millis) {
        let Some(entry) = self.entries.get_mut(&uuid) else { return };
        if !entry.invocation.is_home() || !rules.tail_home {
            // Nobody here will know when it ends: a key's time begins now.
            self.keys.end(uuid, None, time);
            self.remove_entry(uuid);
            return;
        }
        // Its argument has been used up.
        let payload = Payload::default();
        entry.invocation = Arc::new(Invocation { payload, ..(*entry.invocation).clone() });
        entry.attempt = 1;
        entry.ran = false;
        entry.holds = false;
        entry.steps = Steps::default();
        entry.moved = true;
    }

    /// A logged invocation ended.
    fn end(&mut self, rules: &Rules, uuid: Uuid, outcome: &Outcome, time: Millis) {
        let Some(entry) = self.remove_entry(uuid) else { return };
        let mode = entry.invocation.mode;
        let is_asked_for = mode == Mode::Start;
        let has_key = self.keys.end(uuid, Some(outcome).filter(|_| is_asked_for), time);
        match mode {
            // Who has been idle long enough to be told so is not told again.
            Mode::Tell if entry.origin == Origin::Idle => {}
            // What has a topic for its dead letters is in that, or on its way.
            Mode::Tell if entry.invocation.goes_to_topic() => {}
            Mode::Tell if DeadLetter::is_one(outcome) => self.dead.insert(DeadLetter {
                invocation: entry.invocation,
                origin: entry.origin,
                outcome: outcome.clone(),
                attempts: entry.attempt,
                time,
            }),
            Mode::Tell => {}
            Mode::Start if has_key => {}
            Mode::Start => {
                self.results.insert(uuid, outcome.clone());
                self.results_by_age.push_back((time, uuid));
            }
            Mode::Call if entry.unwanted || !rules.retire_only_closed => {
                if let Origin::Channel { sender, number } = &entry.origin
                    && let Some(inbound) = self.inbound.get_mut(sender)
                {
                    inbound.live.remove(number);
                }
            }
            Mode::Call => {
                self.kept.insert(uuid, outcome.clone());
            }
        }
    }

    fn owe(&mut self, sends: &[Send]) {
        for send in sends {
            let outbound = self.outbound.entry(send.obligation.to.clone()).or_default();
            outbound.next = outbound.next.max(send.number + 1);
            let replaced = outbound.open.insert(send.number, send.obligation.clone());
            self.owed.add(send.obligation.size());
            if let Some(old) = replaced {
                self.owed.remove(old.size());
            }
        }
    }

    /// An obligation is settled; a keyed call with its outcome, if that is to be kept.
    fn close_out(&mut self, to: &PartitionId, number: Number, outcome: Option<&Outcome>) {
        let Some(outbound) = self.outbound.get_mut(to) else { return };
        let Some(obligation) = outbound.open.remove(&number) else { return };
        self.owed.remove(obligation.size());
        if let Some(entry) = obligation.parent.and_then(|uuid| self.entries.get_mut(&uuid)) {
            entry.children.remove(&(to.clone(), number));
            if let Some(key) = &obligation.step_key {
                entry.steps.settle(key, (to, number), outcome);
            }
        }
    }

    fn close_in(&mut self, sender: &Sender, below: Number, open: &[Number]) {
        let Some(inbound) = self.inbound.get_mut(sender) else { return };
        let closed: Vec<_> = inbound
            .live
            .range(..below)
            .filter(|(number, _)| open.binary_search(number).is_err())
            .map(|(number, uuid)| (*number, *uuid))
            .collect();
        for (number, uuid) in closed {
            inbound.live.remove(&number);
            self.kept.remove(&uuid);
            if let Some(entry) = self.entries.get_mut(&uuid) {
                entry.unwanted = true;
            }
        }
    }

    /// Retires what is held for channels that are closed.
    fn drop_closed(&mut self) {
        let closed = &self.closed_nodes;
        let over = |sender: &Sender| matches!(sender, Sender::Node(n) if closed.contains(*n));
        for (_, inbound) in self.inbound.extract_if(.., |sender, _| over(sender)) {
            for uuid in inbound.live.values() {
                self.kept.remove(uuid);
                if let Some(entry) = self.entries.get_mut(uuid) {
                    entry.unwanted = true;
                }
            }
        }
    }
}

/// The invocation that a due time of a reminder makes.
pub(crate) fn firing(actor: &Arc<str>, reminder: &Reminder, uuid: Uuid) -> Invocation {
    let (method, payload) = (reminder.method.clone(), reminder.payload.clone());
    let tell = Invocation::system(Work::Method, Mode::Tell, actor.clone(), uuid);
    Invocation { method, payload, ..tell }
}

/// The invocation that tells an actor's host that it has been idle.
pub(crate) fn deactivation(actor: &Arc<str>, uuid: Uuid) -> Invocation {
    Invocation::system(Work::Deactivate, Mode::Tell, actor.clone(), uuid)
}

fn push_state(actor: Option<&Arc<str>>, state: &[StateOp], stored: &mut Vec<ActorOps>) {
    if let Some(actor) = actor
        && !state.is_empty()
    {
        stored.push(ActorOps { actor: actor.clone(), ops: state.to_vec() });
    }
}
