//! Actor life: a removal takes all of an actor, when its turn comes, and only once; turns that deactivate; and what a
//! host may remember of an actor.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kar_core::ids::{NodeId, Offset, SessionId, Uuid};
use kar_core::invocation::{Invocation, Outcome, Owed, StateOp, Work};
use kar_core::record::{AcceptInBrief, End, Segment, Send};
use kar_core::reminder::ReminderChange;

use super::Judge;
use super::logs::{Ended, Held, QueuedBy};
use super::order::Lock;
use crate::history::{End as RunEnd, Item, ItemKind, Run};
use crate::plan::Us;

/// What the judge knows of actors' lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct LifeModel {
    /// Removals that were ever seen, and whose.
    removals: HashMap<Uuid, Arc<str>>,
    /// Those that are in a log.
    accepted: usize,
    /// Turns that deactivate, as far as logs know them.
    deactivations: HashMap<Uuid, Arc<str>>,
    /// Activations by their numbers.
    activations: BTreeMap<u64, Activation>,
    /// Removals of actors that operators were not told of.
    untold: HashMap<(usize, Arc<str>), usize>,
    /// The last turn that took effect on each actor.
    last: HashMap<(usize, Arc<str>), usize>,
}

/// An activation, as its turns show it.
#[derive(Clone, Debug)]
struct Activation {
    kind: usize,
    actor: usize,
    node: NodeId,
    session: SessionId,
    epoch: u64,
    runs: Vec<usize>,
    /// When it began.
    since: Us,
    /// Turns of earlier ones that had not ended then.
    older: Vec<usize>,
}

impl Judge<'_> {
    /// An invocation that is none of a method; tells whether it is.
    pub(super) fn met_other_work(&mut self, invocation: &Invocation) -> bool {
        let (Work::Remove, Some(actor)) = (invocation.work, &invocation.actor) else {
            return invocation.work != Work::Method;
        };
        self.life.removals.insert(invocation.uuid, actor.clone());
        true
    }

    /// A completion of which nothing was seen before: of a node's own component, and logged in one. No code ran, and it
    /// clears an actor's state: a removal.
    pub(super) fn meet_removal(
        &mut self,
        log: usize,
        uuid: Uuid,
        accept: Option<&AcceptInBrief>,
        segment: &Segment,
    ) {
        let actor = accept.and_then(|accept| accept.actor.as_ref());
        let ran = self.dispatched.contains_key(&(log, uuid, 1, 1, self.logs[log].epoch));
        if let Some(actor) = actor.filter(|_| !ran && segment.state == [StateOp::Clear]) {
            self.life.removals.insert(uuid, actor.clone());
        }
    }

    /// Whether an invocation removes its actor.
    pub(crate) fn is_removal(&self, uuid: Uuid) -> bool {
        self.life.removals.contains_key(&uuid)
    }

    /// Whether an invocation is known to deactivate its actor.
    pub(crate) fn is_deactivation(&self, uuid: Uuid) -> bool {
        self.life.deactivations.contains_key(&uuid)
    }

    /// A removal is in a log: no more of them than were asked for.
    pub(super) fn removal_accepted(&mut self) {
        self.life.accepted += 1;
        let asked = self.history.reqs.iter().filter(|req| req.removes).count();
        if self.life.accepted > asked {
            let text = format!("{asked} removals asked for, {} accepted", self.life.accepted);
            self.wrong("P2 one request, one removal", text);
        }
    }

    /// A removal takes effect: the actor is its alone, and nothing of it is left.
    pub(super) fn removed(
        &mut self,
        log: usize,
        offset: Offset,
        uuid: Uuid,
        (end, segment): (&End, &Segment),
    ) {
        let at = format!("{}@{offset} {uuid}", self.logs[log].id);
        let epoch = self.logs[log].epoch;
        let Some(actor) = self.life.removals.get(&uuid).cloned() else { return };
        let (End::Outcome(outcome), Some(held)) = (end, self.logs[log].held.get_mut(&uuid)) else {
            return self.wrong("log", format!("{at}: no end of a removal"));
        };
        held.ended = Some(Ended { outcome: outcome.clone(), epoch, offset, at: self.now });
        let is_own = held.actor.as_ref() == Some(&actor);
        let is_done = matches!(outcome, Outcome::Done(_));
        let has_segment = !segment.state.is_empty() || !segment.reminders.is_empty();
        if !is_done {
            if has_segment || !segment.sends.is_empty() {
                self.wrong("removal", format!("{at}: ends as {outcome:?}, and does something"));
            }
            return;
        }
        if !is_own {
            return self.wrong("log", format!("{at}: removes another actor"));
        }
        self.counts.removals += 1;
        *self.life.untold.entry((log, actor.clone())).or_default() += 1;
        self.lock(log, offset, uuid, Lock::Frees);
        self.check_removed_in_order(log, uuid, &actor, &at);
        let waits: Vec<Uuid> = self.firings_waiting(log, &actor);
        let dropped: Vec<Uuid> =
            segment.reminders.iter().flat_map(|op| op.dropped.iter().copied()).collect();
        if let Some(left) = waits.iter().find(|uuid| !dropped.contains(uuid)) {
            self.wrong("removal", format!("{at}: {left} is a firing that waits, and is left"));
        }
        let is_told = |send: &Send| matches!(send.obligation.owed, Owed::Subscription(_));
        let told = segment.sends.iter().filter(|send| is_told(send)).count();
        if segment.state != [StateOp::Clear] || told < segment.sends.len() {
            self.wrong("removal", format!("{at}: does {:?}", segment.state));
        }
        self.check_subscriptions_told(told, &at);
        self.owe(log, offset, (uuid, 1, 1), segment);
        let model = &mut self.logs[log];
        let actor_model = model.actors.entry(actor.clone()).or_default();
        self.counts.removed_states += u64::from(!actor_model.state.is_empty());
        actor_model.state.clear();
        model.writes.push((offset, actor.clone(), segment.state.clone()));
        if !model.reminders.shown_of(&actor).is_empty() {
            self.counts.removed_reminders += 1;
        }
        for op in &segment.reminders {
            if op.change != ReminderChange::CancelAll {
                self.wrong("removal", format!("{at}: changes {:?}", op.change));
            }
        }
        self.drop_with_actor(log, offset, &actor, &segment.reminders);
        if !self.logs[log].reminders.shown_of(&actor).is_empty() {
            self.wrong("removal", format!("{at}: reminders are left"));
        }
    }

    /// P7: what the same sender sent to the actor before has ended before.
    fn check_removed_in_order(&mut self, log: usize, uuid: Uuid, actor: &Arc<str>, at: &str) {
        let model = &self.logs[log];
        let Some(QueuedBy::Number(sender, number)) = model.held.get(&uuid).map(|h| &h.queued_by)
        else {
            return;
        };
        let is_before = |held: &Held| {
            held.actor.as_ref() == Some(actor)
                && matches!(&held.queued_by, QueuedBy::Number(s, n) if s == sender && n < number)
        };
        let waits = |held: &Held| {
            let left_order = held.policy.is_parked() || held.policy.was_resumed();
            !held.is_over() && !held.left && !left_order
        };
        let mut passed: Vec<Uuid> = model
            .held
            .iter()
            .filter(|(_, held)| is_before(held) && waits(held))
            .map(|(uuid, _)| *uuid)
            .collect();
        passed.sort_unstable();
        if let Some(other) = passed.first() {
            self.wrong("P7 order", format!("{at}: passes {other}"));
        }
    }

    /// Firings of an actor that have been accepted, are not over, and hold nothing.
    fn firings_waiting(&self, log: usize, actor: &Arc<str>) -> Vec<Uuid> {
        let model = &self.logs[log];
        let waits = |uuid: &Uuid| {
            let held = model.held.get(uuid);
            let rests = |h: &Held| h.policy.is_parked() || h.policy.was_resumed();
            held.is_some_and(|h| !h.is_over() && !h.left && h.step == 1 && !rests(h))
                && !self.holds(log, *uuid)
        };
        let own = model.reminders.firings_of(actor);
        let mut own: Vec<Uuid> = own.filter(|uuid| waits(uuid)).collect();
        own.sort_unstable();
        own
    }

    /// A deactivation does something: it is owed from here on.
    pub(super) fn deactivates(&mut self, log: usize, actor: &Arc<str>, uuid: Uuid) {
        self.counts.deactivations_logged += 1;
        self.life.deactivations.insert(uuid, actor.clone());
        let tag = self.tag_of_uuid.get(&uuid).copied().unwrap_or_default();
        let held = Held::new(QueuedBy::Reminder, Some(actor.clone()), self.now, tag);
        self.hold(log, uuid, held);
    }

    /// Whether a deactivation ends without a turn of its last attempt.
    pub(super) fn is_moot(&self, log: usize, uuid: Uuid, attempt: u32, end: &End) -> bool {
        let place = (log, uuid, 1, attempt, self.logs[log].epoch);
        self.is_deactivation(uuid)
            && matches!(end, End::Outcome(Outcome::Done(_)))
            && !self.dispatched.contains_key(&place)
    }

    /// A deactivation has flushed, and whoever goes on with it has no hook for it.
    pub(super) fn moot_deactivation(
        &mut self,
        log: usize,
        offset: Offset,
        uuid: Uuid,
        (end, segment): (&End, &Segment),
    ) {
        let at = format!("{}@{offset} {uuid}", self.logs[log].id);
        let epoch = self.logs[log].epoch;
        let owner = self.logs[log].owner;
        let told = self.history.runs.iter().filter(|run| Some(run.node) == owner);
        if told.filter(|run| run.is_told).any(|run| run.kind == self.kind_of(log)) {
            self.wrong("deactivation", format!("{at}: its host has a hook, and it never ran"));
        }
        let is_empty = segment.state.is_empty() && segment.sends.is_empty();
        let (End::Outcome(outcome), true, Some(held)) =
            (end, is_empty, self.logs[log].held.get_mut(&uuid))
        else {
            return self.wrong("deactivation", format!("{at}: does something without a turn"));
        };
        held.ended = Some(Ended { outcome: outcome.clone(), epoch, offset, at: self.now });
        let owed = self.logs[log].owed.iter();
        let open: Vec<_> = owed
            .filter(|(_, o)| o.parent == uuid && o.awaited && !o.settled)
            .map(|(key, _)| *key)
            .collect();
        for (to, number) in open {
            self.settle(log, to, number);
        }
        if self.holds(log, uuid) {
            self.lock(log, offset, uuid, Lock::Frees);
        }
    }

    fn kind_of(&self, log: usize) -> usize {
        self.history.names.kind(&self.logs[log].id.kind)
    }

    /// A turn's record takes effect on its actor.
    pub(super) fn note_activation(&mut self, log: usize, actor: &Arc<str>, run: Option<usize>) {
        if let Some(run) = run {
            self.life.last.insert((log, actor.clone()), run);
        }
    }

    /// What a host remembers of an actor is good in a turn of the same activation: the host has had every turn since,
    /// and all of them have taken effect.
    pub(super) fn check_activation(&mut self, run: usize, record: &Run, log: usize) {
        self.counts.deactivations += u64::from(record.is_told);
        let Some(actor) = record.actor else { return };
        let name = &self.history.names.actors[actor];
        let (epoch, current) = (record.token.epoch, self.logs[log].epoch);
        let (since, older) = (self.now, self.older_turns(run, record));
        let known = self.life.activations.entry(record.activation).or_insert_with(|| Activation {
            kind: record.kind,
            actor,
            node: record.node,
            session: record.session,
            epoch,
            runs: Vec::new(),
            since,
            older,
        });
        let of = |a: &Activation| (a.kind, a.actor, a.node, a.session, a.epoch);
        let same = (record.kind, actor, record.node, record.session, epoch);
        let mut wrong = (of(known) != same).then(|| format!("is also of {known:?}"));
        let before = known.runs.clone();
        known.runs.push(run);
        let (since, older) = (known.since, known.older.clone());
        self.counts.activations_kept += u64::from(!before.is_empty());
        // Runs are in the order of their dispatch. A reign that is over may not know of others' turns.
        let last = self.life.last.get(&(log, name.clone())).copied();
        if let (Some(first), Some(last)) = (before.first(), last)
            && epoch == current
            && last > *first
            && self.history.runs[last].activation != record.activation
        {
            wrong = Some(format!("but r{last} has taken effect since r{first}"));
        }
        let failed = |other: &&usize| {
            let other = &self.history.runs[**other];
            let place = (other.token.invocation.uuid, other.token.step);
            // By this reign: what another one has done with it since, a zombie does not know.
            let done = self.logs[log].done.get(&place);
            let is_over = done.is_some_and(|(by, _)| *by == epoch)
                || (epoch == current && self.is_retried(log, other));
            is_over && matches!(other.end, RunEnd::Ended(Outcome::Failed(_)))
        };
        if let Some(failed) = before.iter().find(failed) {
            wrong = Some(format!("but r{failed} has failed"));
        }
        let mut older = older.iter().filter(|_| !before.is_empty());
        if let Some(older) = older.find(|older| self.has_written_since(log, **older, since)) {
            wrong = Some(format!("but r{older} of an earlier one has written since it began"));
        }
        if let Some(wrong) = wrong {
            let text =
                format!("r{run} {} activation {:x} {wrong}", record.token, record.activation);
            self.wrong("activations", text);
        }
    }

    /// Turns of an actor in the same reign that have not ended, of other activations than a run's.
    fn older_turns(&self, run: usize, record: &Run) -> Vec<usize> {
        let of = |r: &Run| (r.kind, r.actor, r.node, r.token.epoch);
        let runs = self.history.runs[..run].iter().enumerate();
        let is_older = |other: &Run| {
            of(other) == of(record)
                && other.activation != record.activation
                && other.result_taken.is_none_or(|at| at > self.now)
        };
        runs.filter(|(_, other)| is_older(other)).map(|(at, _)| at).collect()
    }

    /// Whether a turn has written state after a time, and that has taken effect.
    fn has_written_since(&self, log: usize, run: usize, since: Us) -> bool {
        let run = &self.history.runs[run];
        let place = (run.token.invocation.uuid, run.token.step);
        let done = self.logs[log].done.get(&place);
        let is_done = done.is_some_and(|(epoch, _)| *epoch == run.token.epoch)
            && matches!(run.end, RunEnd::Ended(Outcome::Done(_)) | RunEnd::Tail(..));
        let wrote = |item: &Item| {
            matches!(item.what, ItemKind::State(_) | ItemKind::If(..))
                && item.arrived.is_some_and(|at| at > since)
                && matches!(item.answer, Some(Ok(_)))
        };
        is_done && run.items.iter().any(wrote)
    }

    /// Operators are told of a removal: it is in the log, and they were not told of it before.
    pub(super) fn is_removal_untold(&mut self, log: usize, actor: &Arc<str>) -> bool {
        let untold = self.life.untold.entry((log, actor.clone())).or_default();
        let was = *untold > 0;
        *untold = untold.saturating_sub(1);
        was
    }

    /// At rest, with short idle times, nobody is awake.
    pub(super) fn check_passive(&mut self) {
        if self.history.actor_idle == u64::MAX {
            return;
        }
        let awake: Vec<_> =
            self.history.finish.awake.iter().filter(|(_, count)| *count > 0).cloned().collect();
        for (node, count) in awake {
            self.wrong("leak", format!("{node:?}: {count} actors are awake"));
        }
    }
}
