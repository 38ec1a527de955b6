//! What starts: within its deadline, with a slot of its host, and counted where it may have run before. What is
//! flushed, refused, and when, by the partition's clock.

use std::collections::HashMap;

use kar_core::ids::{Millis, Offset, Sender, Uuid};
use kar_core::invocation::{Invocation, Outcome, Refusal};
use kar_core::record::{AcceptInBrief, End};

use super::Judge;
use crate::history::{Item, ItemKind, Run};
use crate::plan::{MS, Us};
use crate::world::BASE_MS;

/// What a node wants done is carried out within this time, ms.
const CARRIED_OUT_MS: Millis = 1;

/// What the judge knows of starts.
#[derive(Clone, Debug, Default)]
pub(crate) struct StartsModel {
    /// The latest deadline that an invocation was sent with; none, if it was sent without.
    deadlines: HashMap<Uuid, Option<Millis>>,
    /// First attempts of first steps: their runs, and when they were dispatched.
    first: Vec<(usize, Us)>,
}

impl Judge<'_> {
    /// An invocation is seen. Under an idempotency key it may be sent with several deadlines.
    pub(super) fn note_deadline(&mut self, invocation: &Invocation) {
        let known = self.starts.deadlines.entry(invocation.uuid).or_insert(invocation.deadline);
        *known = known.zip(invocation.deadline).map(|(known, other)| known.max(other));
    }

    pub(super) fn note_start(&mut self, run: usize, record: &Run) {
        if (record.token.step, record.token.attempt) == (1, 1) {
            self.starts.first.push((run, self.now));
        }
    }

    /// What has not started when its deadline passes does not start: by its owner's clock, which is never behind.
    pub(crate) fn check_deadlines(&mut self) {
        for (run, at) in std::mem::take(&mut self.starts.first) {
            let token = &self.history.runs[run].token;
            let deadline = self.starts.deadlines.get(&token.invocation.uuid).copied().flatten();
            let at = BASE_MS + at / MS;
            if let Some(deadline) = deadline.filter(|deadline| at > deadline + CARRIED_OUT_MS) {
                let text = format!("r{run} {token} starts at {at}, not before {deadline}");
                self.wrong("late never starts", text);
            }
        }
    }

    /// Rule T3: what a reign has dispatched, and the log held when that ended, is counted as an attempt by those after
    /// it.
    pub(super) fn check_inherited(&mut self, run: usize, record: &Run, log: usize) {
        let token = &record.token;
        let (uuid, step) = (token.invocation.uuid, token.step);
        let model = &self.logs[log];
        let was_held = |epoch| match step {
            1 => {
                let next = model.next_reign(epoch).map_or(Us::MAX, |next| next.from);
                model.held.get(&uuid).is_some_and(|held| held.since < next)
            }
            _ => model.came.get(&(uuid, step)).is_some_and(|by| *by <= epoch),
        };
        let earlier = model.reigns.iter().map(|reign| reign.epoch).filter(|e| *e < token.epoch);
        let run_by = |epoch| self.dispatched.get(&(log, uuid, step, token.attempt, epoch));
        let before = earlier.filter(|epoch| was_held(*epoch)).find_map(run_by).copied();
        if let Some(before) = before {
            let text = format!("r{run} {token} has the number of r{before}");
            self.wrong("T3 what may have run is counted", text);
        }
    }

    /// A host runs no more turns of roots at once than it has registered; those that have called hold no slot any more.
    pub(super) fn check_slots(&mut self, run: usize, record: &Run) {
        if !self.is_root_run(record) {
            return;
        }
        let now = self.now;
        let holds = |other: &Run| {
            let over = [other.ended, other.cancel_sent, other.result_taken];
            let has_called = |item: &Item| {
                matches!(item.what, ItemKind::Call(..)) && item.arrived.is_some_and(|at| at <= now)
            };
            other.session == record.session
                && !over.into_iter().flatten().any(|at| at <= now)
                && !other.items.iter().any(has_called)
        };
        let before = self.history.runs[..run].iter();
        let count = before.filter(|other| holds(other) && self.is_root_run(other)).count();
        let most = self.history.concurrency[record.slot];
        if count >= most as usize {
            let text = format!("r{run} {} is one more than {most}", record.token);
            self.wrong("slots", text);
        }
    }

    /// Whether a turn is one of a root, as far as is known.
    fn is_root_run(&self, record: &Run) -> bool {
        let tag = record.spec.tag;
        if record.is_told || self.asked.contains_key(&tag) || self.reminder_tags.contains_key(&tag)
        {
            return true;
        }
        let chain = self.chains.get(&record.token.invocation.uuid);
        match self.issued.get(&tag).map(|(run, item)| &self.history.runs[*run].items[*item].what) {
            Some(ItemKind::Tell(..)) => true,
            Some(ItemKind::Tail(_)) => chain.is_some_and(|chain| chain.is_empty()),
            _ => false,
        }
    }

    /// P5: what a turn has done before a flush is in its log when that is answered.
    pub(super) fn check_flush(&mut self, run: usize, item: usize) {
        let record = &self.history.runs[run];
        let token = &record.token;
        let model = &self.logs[self.log_of(&token.invocation.home)];
        let key = (token.invocation.uuid, token.step, token.attempt, token.epoch);
        let logged = model.turns.get(&key).map(Vec::as_slice).unwrap_or_default();
        let taken = |item: &&Item| matches!(item.answer, Some(Ok(_)));
        let done = || record.items[..item].iter().filter(taken);
        let writes = done()
            .filter(|item| matches!(item.what, ItemKind::State(_) | ItemKind::If(..)))
            .count();
        let logged_writes: usize = logged.iter().map(|record| record.state.len()).sum();
        let is_logged = |tag: &u64| logged.iter().any(|record| record.sends.contains(tag));
        let mut tells = done().filter_map(|item| match &item.what {
            ItemKind::Tell(tag, _) => Some(tag),
            _ => None,
        });
        if logged_writes < writes || !tells.all(is_logged) {
            let text = format!("r{run}.{item} {token} has flushed {writes}, not {logged_writes}");
            self.wrong("P5 flushed is durable", text);
        }
    }

    /// Rule C7: bounds of receivers act on roots. What a log or a subscription owes is taken.
    pub(super) fn check_refusal(
        &mut self,
        (log, offset): (usize, Offset),
        uuid: Uuid,
        accept: Option<&AcceptInBrief>,
        end: &End,
    ) {
        let is_owed = accept.is_some_and(|brief| !matches!(brief.sender, Sender::Node(_)));
        let by_bound = matches!(
            end,
            End::Outcome(Outcome::Refused(
                Refusal::ActorQueueFull | Refusal::PartitionFull | Refusal::PartitionBytesFull
            ))
        );
        if is_owed && by_bound {
            let text = format!("{}@{offset}: {uuid} ends as {end:?}", self.logs[log].id);
            self.wrong("C7 owed is taken", text);
        }
    }

    /// A partition's clock, the time in its records, never runs back.
    pub(super) fn check_clock(&mut self, log: usize, offset: Offset, time: Millis) {
        let model = &mut self.logs[log];
        let before = model.time;
        model.time = before.max(time);
        if time < before {
            let text = format!("{}@{offset} is of {time}, after {before}", model.id);
            self.wrong("the clock of a partition", text);
        }
    }
}
