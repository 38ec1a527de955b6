//! What a log means: which records are valid (rules L2, L3), what of them takes effect (T3), and
//! what may never be found in one.
//!
//! Longer than most: one `match` judges every decision, and what it calls is read beside it.

use std::sync::Arc;

use kar_core::ids::{Epoch, NodeId, Number, Offset, PartitionId, Sender, Uuid};
use kar_core::invocation::{
    ChainOutcome, Invocation, Mode, Outcome, Owed as Obligation, Payload, Refusal, StateOp, Work,
};
use kar_core::record::{AcceptInBrief, End, Op, Record, Segment};

use super::Judge;
use super::model::ended;
pub(crate) use super::model::{Closing, Ended, Held, LogModel, Owed, QueuedBy, Reign, TurnRecord};
use super::order::Lock;
use crate::history::Keys;
use crate::script::Spec;
use crate::store::apply;

/// A `Complete`, taken apart.
struct Completion<'a> {
    uuid: Uuid,
    attempt: u32,
    accept: Option<&'a AcceptInBrief>,
    end: &'a End,
    segment: &'a Segment,
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
        self.count_record(log, offset, node, record);
        let valid = self.would_be_valid(log, record);
        self.counts.coverage.record(record, valid);
        self.logs[log].last = offset;
        self.apply(log, offset, record);
        self.compare_snapshots(log, offset);
    }

    fn apply(&mut self, log: usize, offset: Offset, record: &Record) {
        let now = self.now;
        match record {
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
            Record::Batch { epoch, seq, time, ops } => {
                ops.iter().for_each(|op| self.learn(log, op));
                if self.is_valid(log, *epoch, *seq) {
                    self.logs[log].seq = *seq;
                    self.logs[log].last_seqs.insert(*epoch, *seq);
                    self.check_clock(log, offset, *time);
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
    fn learn(&mut self, log: usize, op: &Op) {
        match op {
            Op::Accept { invocation, .. } => self.meet(invocation),
            Op::Progress { segment, .. } => self.meet_all(segment),
            Op::Complete { segment, end, .. } => {
                self.meet_all(segment);
                if let End::Next { invocation, .. } = end {
                    self.meet(invocation);
                    let here = self.logs[log].id.clone();
                    self.sent_to(&here, invocation);
                }
            }
            _ => {}
        }
    }

    fn meet_all(&mut self, segment: &Segment) {
        for send in &segment.sends {
            if let Obligation::Invocation(invocation) = &send.obligation.owed {
                self.meet(invocation);
                self.sent_to(&send.obligation.to, invocation);
            }
        }
    }

    /// An invocation is seen for the first time, or again.
    pub(crate) fn meet(&mut self, invocation: &Arc<Invocation>) {
        if self.met_other_work(invocation) {
            return;
        }
        self.meet_event(invocation);
        self.note_deadline(invocation);
        let tag = Spec::read(&invocation.payload).tag;
        if let Some(known) = self.uuid_of_tag.insert(tag, invocation.uuid)
            && self.original(known) != self.original(invocation.uuid)
        {
            let text = format!("tag {tag:x} travels as {known} and as {}", invocation.uuid);
            self.wrong("P2 one request, one invocation", text);
        }
        // The first one: it tells how the invocation was made.
        self.tag_of_uuid.entry(invocation.uuid).or_insert(tag);
        self.chains.entry(invocation.uuid).or_insert_with(|| invocation.chain.clone());
    }

    fn take_effect(&mut self, log: usize, offset: Offset, op: &Op) {
        match op {
            Op::Accept { sender, number, invocation } => {
                self.accepted(log, sender, *number, invocation);
            }
            Op::Progress { uuid, attempt, segment, settled, steps, .. } => {
                for (to, number) in settled {
                    self.check_unkeyed(log, self.log_of(to), *number);
                    self.settle(log, self.log_of(to), *number);
                }
                let Some(held) = self.logs[log].held.get(uuid) else {
                    let text =
                        format!("{}@{offset}: Progress of unknown {uuid}", self.logs[log].id);
                    return self.wrong("log", text);
                };
                if held.ended.is_none() && !held.left && held.attempt == *attempt {
                    let step = held.step;
                    self.lock(log, offset, *uuid, Lock::Takes);
                    self.turn_record(log, offset, (*uuid, step, *attempt), segment, None);
                    self.steps_logged((log, offset), (*uuid, step), segment, steps);
                    self.publishes(log, offset, &segment.publishes);
                }
            }
            Op::Complete { uuid, attempt, accept, end, segment, .. } => {
                let (uuid, attempt, accept) = (*uuid, *attempt, accept.as_ref());
                let completion = Completion { uuid, attempt, accept, end, segment };
                self.completed(log, offset, completion);
            }
            Op::Outcome { sender, number, done, .. } => {
                self.came_home(log, offset, (sender, *number), done);
            }
            Op::Attempt { uuid, attempt, ended, unmarked } => {
                if let Some(ended) = ended {
                    self.attempt_ended(log, offset, *uuid, ended);
                    self.attempt_follows((log, offset), (*uuid, *attempt), ended);
                    if !unmarked {
                        self.check_said_to_run(log, offset, *uuid, *attempt);
                    }
                }
                let model = &mut self.logs[log];
                if let Some(held) = model.held.get_mut(uuid)
                    && held.ended.is_none()
                    && !held.left
                {
                    held.attempt = held.attempt.max(*attempt);
                    held.policy.marked |= *attempt == 1 && !unmarked;
                }
            }
            Op::Cancel { uuid } => self.cancel_landed(log, offset, *uuid),
            Op::Park { uuid } => self.parked(log, offset, *uuid),
            Op::Resume { uuid } => self.resumed(log, offset, *uuid),
            Op::Discard { uuids } => self.discarded(log, offset, uuids),
            Op::Redrive { uuid, new } => self.redriven(log, offset, *uuid, *new),
            Op::Settle { to, numbers } => {
                let to = self.log_of(to);
                for number in numbers {
                    self.check_unkeyed(log, to, *number);
                    self.settle(log, to, *number);
                }
            }
            Op::StepDone { to, number, outcome } => {
                let to = self.log_of(to);
                self.settle(log, to, *number);
                self.step_done((log, offset), (to, *number), outcome);
            }
            Op::Closed { sender, below, open } => self.closed(log, sender, *below, open),
            Op::CloseChannel { node, floor, open } => {
                self.closed_by_mark(log, offset, *node);
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
            Op::Published { to, upto, offset: at } => {
                self.published((log, offset), to, (*upto, *at));
            }
            Op::TopicGone { to } => self.forgets(log, offset, to),
            Op::Subscription { sender, number, uuid, change, outcome, sends } => {
                let done = (change, outcome.as_ref());
                self.subscription_done((log, offset), (sender, *number, *uuid), done, sends);
            }
            Op::Delivered { subscription, topic_partition, floor, publishes } => {
                let branch = (*subscription, *topic_partition);
                self.floor_moved((log, offset), branch, *floor, publishes);
            }
            Op::Fence { sender, number, fence } => {
                self.fence_taken((log, offset), (sender, *number), fence);
            }
            Op::Deactivate { actor, uuid } => self.deactivates(log, actor, *uuid),
            Op::Fire { actor, id, due, uuid, next } => {
                self.fired(log, offset, (actor, id), (*due, *uuid, *next));
            }
            Op::Inbox { taken } => self.taken(log, offset, *taken),
            Op::Snapshot { named, .. } => self.snapshot_named(log, offset, named),
            Op::Again { sender, number, uuid } => {
                self.counts.keys_again += 1;
                self.number_used(log, (sender, *number), *uuid);
                if !self.logs[log].held.contains_key(uuid) {
                    let text = format!("{}@{offset}: {uuid} is unknown", self.logs[log].id);
                    self.wrong("P2 a key stands for one", text);
                }
            }
            Op::ForgetKeys { uuids } | Op::Forget { uuids } => {
                if matches!(op, Op::Forget { .. }) && self.history.keeps_results {
                    let text = format!("{}@{offset}: {uuids:?}", self.logs[log].id);
                    self.wrong("P9 results are kept", text);
                }
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
        self.event_accepted(log, sender, invocation);
        let is_method = invocation.work == Work::Method;
        let tag = if is_method { Spec::read(&invocation.payload).tag } else { 0 };
        let queued_by = QueuedBy::Number(sender.clone(), number);
        let held = Held {
            step: invocation.step,
            home: invocation.home.clone(),
            ..Held::new(queued_by, invocation.actor.clone(), self.now, tag)
        };
        self.hold(log, invocation.uuid, held);
    }

    /// A log takes a step of an invocation in, once only.
    pub(super) fn hold(&mut self, log: usize, uuid: Uuid, held: Held) {
        let id = self.logs[log].id.clone();
        if let Some((sender, number)) = held.sent.clone() {
            self.number_used(log, (&sender, number), uuid);
        }
        let model = &mut self.logs[log];
        let returns = held.home.as_ref() == Some(&model.id);
        model.came.entry((uuid, held.step)).or_insert(model.epoch);
        match model.held.get_mut(&uuid) {
            // A chain of tail calls comes by again …
            Some(known) if known.left && held.step > known.step && !returns => *known = held,
            // … or comes home, where its sender is still known.
            Some(known) if known.left && held.step > known.step => {
                let left_in = model.done.get(&(uuid, known.step)).map_or(0, |(epoch, _)| *epoch);
                self.counts.pingpong_tail += u64::from(model.epoch > left_in);
                known.step = held.step;
                known.tag = held.tag;
                known.attempt = 1;
                known.actor = held.actor;
                known.queued_by = held.queued_by;
                known.left = false;
                known.policy.next_step();
            }
            Some(_) => self.wrong("P2 accepted once", format!("{id} accepts {uuid} again")),
            None => {
                model.held.insert(uuid, held);
                if self.is_removal(uuid) {
                    self.removal_accepted();
                }
            }
        }
    }

    /// A number of a channel in is used up, once only.
    pub(super) fn number_used(
        &mut self,
        log: usize,
        (sender, number): (&Sender, Number),
        uuid: Uuid,
    ) {
        let id = self.logs[log].id.clone();
        self.check_origin(log, uuid, sender, number);
        let before = self.logs[log].numbers.insert((sender.clone(), number), uuid);
        if let Some(before) = before {
            self.wrong("C4 one number, one invocation", format!("{id}: {before}, then {uuid}"));
        }
    }

    /// The outcome of a chain of tail calls comes to its home (rule C8).
    fn came_home(
        &mut self,
        log: usize,
        offset: Offset,
        (sender, number): (&Sender, Number),
        done: &ChainOutcome,
    ) {
        let id = self.logs[log].id.clone();
        let uuid = done.uuid;
        self.number_used(log, (sender, number), uuid);
        if let Sender::Log { partition, .. } = sender {
            let owed = self.logs[self.log_of(partition)].owed.get(&(log, number));
            if owed.and_then(|o| o.outcome.as_ref()) != Some(&done.outcome) {
                let text = format!("{id}@{offset}: {uuid} came home as {:?}", done.outcome);
                self.wrong("P6 outcome of the last step", text);
            }
        }
        let model = &mut self.logs[log];
        let epoch = model.epoch;
        match model.held.get_mut(&uuid) {
            Some(held) if held.left && held.home.is_none() && held.ended.is_none() => {
                self.counts.chains_home += 1;
                held.left = false;
                held.ended =
                    Some(Ended { outcome: done.outcome.clone(), epoch, offset, at: self.now });
            }
            _ => self.wrong("P6 one home", format!("{id}@{offset}: {uuid} does not wait here")),
        }
    }

    /// What is taken in must be owed by its sender (rule L5).
    fn check_origin(&mut self, log: usize, uuid: Uuid, sender: &Sender, number: Number) {
        let Sender::Log { partition, log: name } = sender else { return };
        let from = &self.logs[self.log_of(partition)];
        let owed = from.owed.get(&(log, number));
        if from.uuid != Some(*name) || owed.is_none_or(|o| o.uuid != uuid) {
            let id = &self.logs[log].id;
            let text = format!("{id} takes {uuid} (number {number}), which {partition} never owed");
            self.wrong("P5 gate", text);
        }
    }

    pub(super) fn settle(&mut self, log: usize, to: usize, number: Number) {
        let Some(owed) = self.logs[log].owed.get_mut(&(to, number)) else {
            let text = format!("{} settles unknown number {number}", self.logs[log].id);
            return self.wrong("log", text);
        };
        owed.settled = true;
        let (uuid, awaited) = (owed.uuid, owed.awaited);
        let durable = if awaited {
            self.logs[to].outcome(uuid).is_some()
        } else {
            self.takes(log, to, number)
        };
        if !durable {
            let text = format!("{} settles {uuid} before it is durable", self.logs[log].id);
            self.wrong("C2 settled only when durable", text);
        }
    }

    /// Whether a log has taken a number of another log's channel in.
    pub(crate) fn takes(&self, from: usize, to: usize, number: Number) -> bool {
        let partition = self.logs[from].id.clone();
        let Some(log) = self.logs[from].uuid else { return false };
        self.logs[to].numbers.contains_key(&(Sender::Log { partition, log }, number))
    }

    fn completed(&mut self, log: usize, offset: Offset, done: Completion<'_>) {
        let Completion { uuid, attempt, accept, end, segment } = done;
        self.meet_removal(log, uuid, accept, segment);
        self.check_refusal((log, offset), uuid, accept, end);
        if let (Some(brief), false) = (accept, self.logs[log].held.contains_key(&uuid)) {
            let tag = self.tag_of_uuid.get(&uuid).copied().unwrap_or_default();
            let queued_by = QueuedBy::Number(brief.sender.clone(), brief.number);
            let held = Held::new(queued_by, brief.actor.clone(), self.now, tag);
            self.hold(log, uuid, held);
        }
        let id = self.logs[log].id.clone();
        let Some(held) = self.logs[log].held.get(&uuid) else {
            return self.wrong("log", format!("{id}@{offset}: Complete of unknown {uuid}"));
        };
        if held.ended.is_some() || held.left {
            return self
                .wrong("P2 completed once", format!("{id}@{offset} completes {uuid} again"));
        }
        if held.attempt != attempt {
            return;
        }
        if self.is_removal(uuid) {
            return self.removed(log, offset, uuid, (end, segment));
        }
        if self.is_moot(log, uuid, attempt, end) {
            return self.moot_deactivation(log, offset, uuid, (end, segment));
        }
        if accept.is_some() && self.is_remind(log, uuid, segment) {
            return self.reminded(log, offset, uuid, (end, segment));
        }
        let (step, home) = (held.step, held.home.clone());
        if matches!(end, End::Outcome(Outcome::Refused(Refusal::SharedToExclusive))) {
            self.check_shared_to_exclusive(log, offset, uuid);
        }
        if matches!(end, End::Outcome(Outcome::Deadlock(_))) {
            self.check_deadlock(log, offset, uuid);
        }
        let Some(closing) = self.closing(log, offset, uuid, (end, segment, home.as_ref())) else {
            return;
        };
        let ran = !matches!(
            &closing,
            Closing::Outcome(outcome) if !matches!(outcome, Outcome::Done(_) | Outcome::Failed(_))
        );
        let stopped = matches!(closing, Closing::Outcome(Outcome::Cancelled));
        if ran {
            let keeps = matches!(closing, Closing::Tail(_, true));
            self.lock(log, offset, uuid, if keeps { Lock::Keeps } else { Lock::Frees });
        }
        // What is refused was never taken: code of it may have run for a reign that was lost with its acceptance.
        let is_refused = matches!(end, End::Outcome(Outcome::Refused(_)));
        if !ran && !is_refused && self.history.heeding {
            self.check_code_over(log, offset, uuid);
        }
        if stopped || matches!(closing, Closing::Stopped) {
            self.check_cancelled(log, offset, uuid);
        }
        if stopped && self.holds(log, uuid) {
            self.lock(log, offset, uuid, Lock::Frees);
        }
        self.check_last_error(log, offset, uuid, &closing);
        if matches!(closing, Closing::Outcome(Outcome::Expired)) {
            self.check_expired(log, offset, uuid);
        }
        if matches!(closing, Closing::Outcome(Outcome::Withdrawn)) {
            self.check_withdrawn(log, offset, uuid);
        }
        let letters = self.check_failed((log, offset), uuid, (accept, end, segment), &closing);
        let model = &mut self.logs[log];
        let epoch = model.epoch;
        model.done.insert((uuid, step), (epoch, offset));
        let open: Vec<(usize, Number)> = model
            .owed
            .iter()
            .filter(|(_, o)| o.parent == uuid && o.awaited && !o.settled)
            .map(|(key, _)| *key)
            .collect();
        // T1: the turn ended, so every call that it made has its outcome; with this record they are
        // settled.
        for (to, number) in open {
            self.settle(log, to, number);
        }
        if ran {
            self.turn_record(log, offset, (uuid, step, attempt), segment, Some((closing, letters)));
        } else {
            // An outcome that no turn made still goes home.
            self.owe(log, offset, (uuid, step, attempt), segment);
        }
        self.publishes(log, offset, &segment.publishes);
        let is_tell = self.mode_of(uuid) == Some(Mode::Tell);
        let (is_told, is_buried) = (self.is_deactivation(uuid), self.is_buried(uuid));
        let to_itself = self.logs[log].owed.range((log, 0)..=(log, Number::MAX));
        let last_sent = to_itself.last().map_or(0, |((_, number), _)| *number);
        let model = &mut self.logs[log];
        let Some(held) = model.held.get_mut(&uuid) else { return };
        match end {
            End::Outcome(outcome) => {
                held.ended = Some(Ended { outcome: outcome.clone(), epoch, offset, at: self.now });
                let is_good = matches!(outcome, Outcome::Done(_) | Outcome::Cancelled);
                // What was refused was never taken.
                if is_tell && !is_good && accept.is_none() && !is_told && !is_buried {
                    self.logs[log].dead.insert(uuid);
                }
            }
            End::Next { invocation, keeps_lock } => {
                if !keeps_lock {
                    held.queued_by = QueuedBy::Step(held.actor.clone(), last_sent);
                }
                model.came.entry((uuid, invocation.step)).or_insert(epoch);
                held.step = invocation.step;
                held.tag = Spec::read(&invocation.payload).tag;
                held.attempt = 1;
                held.policy.next_step();
                held.actor = invocation.actor.clone();
            }
            End::Passed => {
                held.left = true;
                held.gone = held.home.is_some() || is_tell;
            }
        }
    }

    /// Of a turn that failed nothing takes effect, and what it delivered goes to its topic. Gives how many events of
    /// the record are no turn's.
    fn check_failed(
        &mut self,
        (log, offset): (usize, Offset),
        uuid: Uuid,
        (accept, end, segment): (Option<&AcceptInBrief>, &End, &Segment),
        closing: &Closing,
    ) -> usize {
        // What was refused was never taken.
        let is_refused = accept.is_some() && is_refusal(end);
        let letters = match closing {
            _ if is_refused => 0,
            Closing::Outcome(outcome) => self.letters_of(uuid, outcome),
            Closing::Stopped => self.letters_of(uuid, &Outcome::Cancelled),
            Closing::Tail(..) => 0,
        };
        if let (Some(outcome), false) = (outcome_of(end), is_refused) {
            self.check_buried((log, offset), uuid, outcome, segment);
        }
        let sends = segment.sends.len() - usize::from(*end == End::Passed);
        let own = sends + segment.publishes.len().saturating_sub(letters);
        let effects = !segment.state.is_empty() || own > 0 || !segment.reminders.is_empty();
        if effects && matches!(closing, Closing::Outcome(o) if !matches!(o, Outcome::Done(_))) {
            let id = &self.logs[log].id;
            let text = format!("{id}@{offset}: {uuid} failed, and its segment took effect");
            self.wrong("P5 segment of a failure", text);
        }
        letters
    }

    /// What a `Complete` says of the turn's end; its next step must be the next one, and its outcome go home.
    fn closing(
        &mut self,
        log: usize,
        offset: Offset,
        uuid: Uuid,
        (end, segment, home): (&End, &Segment, Option<&PartitionId>),
    ) -> Option<Closing> {
        let held = self.logs[log].held.get(&uuid)?;
        let (step, tell) = (held.step, self.mode_of(uuid) == Some(Mode::Tell));
        let id = self.logs[log].id.clone();
        let (wrong, closing) = match end {
            End::Outcome(outcome) => {
                let letters = self.letters_of(uuid, outcome);
                (home.is_some(), ended(outcome, segment, 0, letters))
            }
            End::Next { invocation, keeps_lock } => {
                let fine = invocation.uuid == uuid
                    && invocation.step == step + 1
                    && invocation.home.as_ref() == home;
                (!fine, Closing::Tail(Spec::read(&invocation.payload).tag, *keeps_lock))
            }
            End::Passed => {
                let last = segment.sends.last()?;
                match &last.obligation.owed {
                    Obligation::Invocation(next) => {
                        let wanted = home.or((!tell).then_some(&id));
                        let fine = next.uuid == uuid
                            && next.step == step + 1
                            && next.home.as_ref() == wanted;
                        (!fine, Closing::Tail(Spec::read(&next.payload).tag, false))
                    }
                    // It carries nothing on.
                    Obligation::Remind(_) | Obligation::Subscription(_) | Obligation::Fence(_) => {
                        return None;
                    }
                    Obligation::Outcome(done) => {
                        let fine = done.uuid == uuid && home == Some(&last.obligation.to);
                        (!fine, ended(&done.outcome, segment, 1, 0))
                    }
                }
            }
        };
        if wrong {
            self.wrong("P6 chain", format!("{id}@{offset}: {uuid} step {step} ends with {end:?}"));
        }
        Some(closing)
    }

    /// A record of a turn takes effect: state, obligations.
    fn turn_record(
        &mut self,
        log: usize,
        offset: Offset,
        (uuid, step, attempt): (Uuid, u32, u32),
        segment: &Segment,
        complete: Option<(Closing, usize)>,
    ) {
        let (complete, letters) = complete.unzip();
        let own = segment.publishes.len().saturating_sub(letters.unwrap_or(0));
        let epoch = self.logs[log].epoch;
        let state = &segment.state;
        let tags = self.owe(log, offset, (uuid, step, attempt), segment);
        let model = &mut self.logs[log];
        let (mut before, mut bytes) = (Keys::new(), 0);
        if let Some(actor) = model.held.get(&uuid).and_then(|h| h.actor.clone()) {
            let actor_model = model.actors.entry(actor.clone()).or_default();
            before = actor_model.state.clone();
            state.iter().for_each(|op| apply(&mut actor_model.state, op));
            bytes = actor_model.state.iter().map(entry_bytes).sum();
            if !state.is_empty() {
                model.writes.push((offset, actor, state.clone()));
            }
        }
        let actor = model.held.get(&uuid).and_then(|h| h.actor.clone());
        if let Some(actor) = &actor {
            let run = self.dispatched.get(&(log, uuid, step, attempt, epoch)).copied();
            self.note_activation(log, actor, run);
        }
        let model = &mut self.logs[log];
        let record = TurnRecord {
            offset,
            state: state.clone(),
            sends: tags,
            reminders: segment.reminders.iter().map(|op| op.change.clone()).collect(),
            publishes: segment.publishes[..own]
                .iter()
                .map(|publish| publish.publication.event.clone())
                .collect(),
            complete,
            before,
        };
        model.turns.entry((uuid, step, attempt, epoch)).or_default().push(record);
        if let Some(actor) = actor {
            self.change_reminders(log, offset, &actor, &segment.reminders);
        }
        if bytes > self.history.state_bytes_max {
            let text = format!("{}@{offset}: {uuid} leaves {bytes} bytes", self.logs[log].id);
            self.wrong("bounds of actors", text);
        }
    }

    /// A record creates obligations: gives the tags of what its turn sent.
    pub(super) fn owe(
        &mut self,
        log: usize,
        offset: Offset,
        (uuid, step, attempt): (Uuid, u32, u32),
        segment: &Segment,
    ) -> Vec<u64> {
        let epoch = self.logs[log].epoch;
        let mut tags = Vec::with_capacity(segment.sends.len());
        for send in &segment.sends {
            let to = self.log_of(&send.obligation.to);
            let what = &send.obligation.owed;
            let (awaited, child) = (what.is_awaited(), what.uuid());
            let outcome = match what {
                // The next step is the turn's closing, not one of its sends.
                Obligation::Invocation(next) if child == uuid => {
                    debug_assert!(next.step > step);
                    None
                }
                Obligation::Invocation(invocation) => {
                    tags.push(Spec::read(&invocation.payload).tag);
                    None
                }
                Obligation::Outcome(done) => Some(done.outcome.clone()),
                // No turn makes one.
                Obligation::Remind(_) | Obligation::Fence(_) => None,
                Obligation::Subscription(command) => {
                    self.removal_told(command);
                    None
                }
            };
            let attempt = (step, attempt);
            let owed = Owed {
                uuid: child,
                awaited,
                outcome,
                parent: uuid,
                actor: self.logs[log].held.get(&uuid).and_then(|held| held.actor.clone()),
                attempt,
                epoch,
                settled: false,
            };
            if let Some(known) = self.logs[log].owed.insert((to, send.number), owed) {
                let id = &self.logs[log].id;
                let number = send.number;
                let text = format!("{id}@{offset}: number {number} is {} and {child}", known.uuid);
                self.wrong("C1 numbers are used once", text);
            }
        }
        tags
    }

    /// How an invocation was made, from whoever made it.
    pub(crate) fn mode_of(&self, uuid: Uuid) -> Option<Mode> {
        if self.is_firing(uuid) || self.is_deactivation(uuid) || self.is_delivery(uuid) {
            return Some(Mode::Tell);
        }
        if self.is_removal(uuid) {
            return Some(Mode::Call);
        }
        let tag = self.tag_of_uuid.get(&uuid)?;
        match self.asked.get(tag) {
            // The outcome of a call with a key is kept like that of a start.
            Some(req) => match &self.history.reqs[*req] {
                req if req.keyed && req.mode == Some(Mode::Call) => Some(Mode::Start),
                req => req.mode,
            },
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

fn is_refusal(end: &End) -> bool {
    matches!(end, End::Outcome(Outcome::Refused(_)))
}

/// How an invocation ended for good with a turn.
fn outcome_of(end: &End) -> Option<&Outcome> {
    match end {
        End::Outcome(outcome) => Some(outcome),
        End::Next { .. } | End::Passed => None,
    }
}

/// What a key of an actor takes, as its bound counts it.
fn entry_bytes((key, value): (&Arc<str>, &Payload)) -> usize {
    StateOp::Set { key: key.clone(), value: value.clone() }.size()
}
