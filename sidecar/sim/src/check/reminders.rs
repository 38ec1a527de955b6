//! P1, P2, P5 for reminders, by the logs alone: each due time of a live reminder leads to one accepted firing, in time
//! and by its policy; what was cancelled or replaced fires no more, and what of it had not started never starts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kar_core::ids::{Epoch, Offset, Uuid};
use kar_core::record::{End, ReminderOp, Segment};
use kar_core::reminder::{CatchUp, Reminder, ReminderChange};
use kar_core::schedule::Schedule;

use super::Judge;
use super::lists::{Line, Shown, Versions, shown};
use super::logs::{Ended, Held, QueuedBy};
use crate::history::{History, ItemKind, Run};
use crate::plan::{MS, Us};
use crate::remind::Remind;
use crate::script::Spec;

/// A due time that passed longer ago is missed, ms: the simulator's bound.
const LATENESS: u64 = 100;

/// How late a due time may be when everything has come to rest, ms.
const REST_LATE: u64 = 300;

/// Longer than a decision may take to its log, before it is dropped.
const DECIDED: Us = 1_500 * MS;

type Key = (Arc<str>, Arc<str>);

/// Who scheduled a reminder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    Turn,
    Client,
}

/// The reminders of a partition by its log.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReminderModel {
    live: BTreeMap<Key, Live>,
    /// Every firing ever.
    pub(crate) firings: HashMap<Uuid, Firing>,
    /// Tags of those that clients scheduled, and changes of clients that cancel.
    scheduled: HashMap<u64, Offset>,
    cancels: usize,
    pub(super) versions: Versions,
}

impl ReminderModel {
    /// The reminders that an actor has, as a list shows them.
    pub(super) fn shown_of(&self, actor: &Arc<str>) -> Shown {
        let own = self.live.range((actor.clone(), Arc::default())..);
        let own = own.take_while(|((of, _), _)| of == actor);
        own.map(|(_, live)| shown(&live.reminder, live.due)).collect()
    }

    /// Every firing that there ever was of an actor.
    pub(super) fn firings_of<'a>(&'a self, actor: &'a str) -> impl Iterator<Item = Uuid> + 'a {
        let own = self.firings.iter().filter(move |(_, firing)| *firing.key.0 == *actor);
        own.map(|(uuid, _)| *uuid)
    }

    /// All reminders, as snapshots have them.
    pub(super) fn shown(&self) -> Vec<(Arc<str>, Line)> {
        let one =
            |((actor, _), live): (&Key, &Live)| (actor.clone(), shown(&live.reminder, live.due));
        self.live.iter().map(one).collect()
    }

    /// How many there are, and of how many bytes.
    pub(super) fn tally(&self) -> (usize, usize) {
        (self.live.len(), self.live.values().map(|live| live.reminder.size()).sum())
    }
}

#[derive(Clone, Debug)]
struct Live {
    reminder: Arc<Reminder>,
    due: u64,
}

/// A due time's invocation.
#[derive(Clone, Debug)]
pub(crate) struct Firing {
    key: Key,
    epoch: Epoch,
    /// The reign that dropped it before it started.
    dropped: Option<Epoch>,
}

/// Tags of everything that was ever to be scheduled.
pub(crate) fn asked(history: &History) -> HashMap<u64, Asked> {
    let items = history.runs.iter().flat_map(|run| &run.items);
    let turns = items.filter_map(|item| match &item.what {
        ItemKind::Remind(Remind::Set { tag, .. }) => Some((*tag, Asked::Turn)),
        _ => None,
    });
    let clients = history.reqs.iter().filter_map(|req| match &req.remind {
        Some(Remind::Set { tag, .. }) => Some((*tag, Asked::Client)),
        _ => None,
    });
    turns.chain(clients).collect()
}

impl Judge<'_> {
    /// A due time has come, by the log.
    pub(super) fn fired(
        &mut self,
        log: usize,
        offset: Offset,
        (actor, id): (&Arc<str>, &Arc<str>),
        (due, uuid, next): (u64, Option<Uuid>, Option<u64>),
    ) {
        let (at, time, epoch) = (
            format!("{}@{offset} {actor}/{id}", self.logs[log].id),
            self.logs[log].time,
            self.logs[log].epoch,
        );
        let key = (actor.clone(), id.clone());
        let Some(live) = self.logs[log].reminders.live.get(&key).cloned() else {
            return self.wrong("P2 cancelled reminders are over", format!("{at} fires"));
        };
        if live.due != due {
            let text = format!("{at} fires for {due}, not {}", live.due);
            return self.wrong("P2 one firing for each due time", text);
        }
        if due > time {
            self.wrong("reminders in time", format!("{at}: {due} fires at {time}"));
        }
        if let Some(why) = wrong_next(&live.reminder, (due, next), uuid.is_some(), time) {
            let text = format!("{at}: {due} fires at {time}, then {next:?}: {why}");
            self.wrong("P1 every due time", text);
        }
        if uuid.is_some() && self.is_hostless(log) && self.is_fired(log, &key) {
            self.wrong("one firing without a host", format!("{at}: {due} fires, and one waits"));
        }
        let model = &mut self.logs[log].reminders;
        match next {
            Some(next) => drop(model.live.insert(key.clone(), Live { due: next, ..live.clone() })),
            None => drop(model.live.remove(&key)),
        }
        self.reminders_changed(log, offset, actor);
        let Some(uuid) = uuid else { return };
        self.counts.reminders_fired += 1;
        self.counts.reminders_late += u64::from(due + LATENESS < time);
        let firing = Firing { key, epoch, dropped: None };
        if self.logs[log].reminders.firings.insert(uuid, firing).is_some() {
            self.wrong("P2 one firing for each due time", format!("{at}: {uuid} again"));
        }
        let tag = Spec::read(&live.reminder.payload).tag;
        let held = Held::new(QueuedBy::Reminder, Some(actor.clone()), self.now, tag);
        self.tag_of_uuid.insert(uuid, tag);
        self.hold(log, uuid, held);
    }

    /// Whether the owner has not hosted the kind since before it can have decided what is in its log now.
    fn is_hostless(&self, log: usize) -> bool {
        let model = &self.logs[log];
        let Some(reign) = model.reigns.last() else { return false };
        let Some(node) = self.nodes.get(&reign.node) else { return false };
        match node.hosted.get(&model.id.kind) {
            None => true,
            Some(until) => until.is_some_and(|at| at + DECIDED < self.now),
        }
    }

    /// Whether a firing of a reminder waits.
    fn is_fired(&self, log: usize, key: &Key) -> bool {
        let model = &self.logs[log];
        let waits = |uuid: &Uuid| model.held.get(uuid).is_some_and(|h| !h.is_over() && !h.left);
        let mut own = model.reminders.firings.iter().filter(|(_, firing)| firing.key == *key);
        own.any(|(uuid, firing)| firing.dropped.is_none() && waits(uuid))
    }

    /// Changes to an actor's reminders take effect.
    pub(super) fn change_reminders(
        &mut self,
        log: usize,
        offset: Offset,
        actor: &Arc<str>,
        ops: &[ReminderOp],
    ) {
        for ReminderOp { change, dropped } in ops {
            let touched = |key: &Key| {
                key.0 == *actor
                    && match change {
                        ReminderChange::Set(reminder) => key.1 == reminder.id,
                        ReminderChange::Cancel(id) => key.1 == *id,
                        ReminderChange::CancelAll => true,
                    }
            };
            self.check_dropped(log, offset, &touched, dropped);
            let model = &mut self.logs[log].reminders;
            model.live.retain(|key, _| !touched(key));
            if let ReminderChange::Set(reminder) = change {
                let live = Live { reminder: reminder.clone(), due: reminder.due };
                model.live.insert((actor.clone(), reminder.id.clone()), live);
            }
        }
        if !ops.is_empty() {
            self.reminders_changed(log, offset, actor);
        }
    }

    /// The reminders of an actor that is removed go, and with them their firings that wait: none of those has done
    /// anything, whatever ran.
    pub(super) fn drop_with_actor(
        &mut self,
        log: usize,
        offset: Offset,
        actor: &Arc<str>,
        ops: &[ReminderOp],
    ) {
        let epoch = self.logs[log].epoch;
        for uuid in ops.iter().flat_map(|op| &op.dropped) {
            let holds = self.holds(log, *uuid);
            let model = &mut self.logs[log];
            let firing = model.reminders.firings.get_mut(uuid);
            let held = model.held.get_mut(uuid);
            match (firing, held) {
                (Some(firing), Some(held))
                    if firing.key.0 == *actor
                        && !held.is_over()
                        && !held.left
                        && !holds
                        && !held.policy.was_resumed() =>
                {
                    firing.dropped = Some(epoch);
                    held.gone = true;
                    self.counts.firings_dropped += 1;
                }
                _ => {
                    let text = format!("{}@{offset}: {uuid} is dropped with {actor}", model.id);
                    self.wrong("cancel removes what has not started", text);
                }
            }
        }
        if !ops.is_empty() {
            self.logs[log].reminders.live.retain(|key, _| key.0 != *actor);
            self.reminders_changed(log, offset, actor);
        }
    }

    /// What a change drops has not started; what it leaves has, as far as its own reign knows.
    fn check_dropped(
        &mut self,
        log: usize,
        offset: Offset,
        touched: &dyn Fn(&Key) -> bool,
        dropped: &[Uuid],
    ) {
        let (id, epoch) = (self.logs[log].id.clone(), self.logs[log].epoch);
        let started = |uuid: Uuid| self.dispatched.contains_key(&(log, uuid, 1, 1, epoch));
        let model = &self.logs[log];
        let is_over = |uuid: &Uuid| model.held.get(uuid).is_none_or(|h| h.is_over() || h.left);
        let mut wrong = Vec::new();
        for uuid in dropped {
            let firing = model.reminders.firings.get(uuid);
            if !firing.is_some_and(|firing| touched(&firing.key)) || is_over(uuid) {
                wrong.push(format!("{uuid} is dropped, which is no firing that waits"));
            } else if started(*uuid) {
                wrong.push(format!("{uuid} is dropped and has started"));
            }
        }
        let mut left: Vec<_> = model
            .reminders
            .firings
            .iter()
            .filter(|(uuid, firing)| {
                touched(&firing.key) && firing.epoch == epoch && !is_over(uuid)
            })
            .map(|(uuid, _)| *uuid)
            .filter(|uuid| !dropped.contains(uuid) && !started(*uuid))
            .collect();
        left.sort_unstable();
        if let Some(uuid) = left.first() {
            wrong.push(format!("{uuid} is left, and has not started"));
        }
        for text in wrong {
            self.wrong("cancel removes what has not started", format!("{id}@{offset}: {text}"));
        }
        for uuid in dropped {
            self.counts.firings_dropped += 1;
            let model = &mut self.logs[log];
            if let Some(firing) = model.reminders.firings.get_mut(uuid) {
                firing.dropped = Some(epoch);
            }
            if let Some(held) = model.held.get_mut(uuid) {
                held.gone = true;
            }
        }
    }

    /// Whether a completion is a change from outside: it was never dispatched, and changes reminders only.
    pub(super) fn is_remind(&self, log: usize, uuid: Uuid, segment: &Segment) -> bool {
        let epoch = self.logs[log].epoch;
        !segment.reminders.is_empty() && !self.dispatched.contains_key(&(log, uuid, 1, 1, epoch))
    }

    /// A change from outside takes effect.
    pub(super) fn reminded(
        &mut self,
        log: usize,
        offset: Offset,
        uuid: Uuid,
        (end, segment): (&End, &Segment),
    ) {
        let at = format!("{}@{offset} {uuid}", self.logs[log].id);
        let epoch = self.logs[log].epoch;
        let Some(held) = self.logs[log].held.get_mut(&uuid) else { return };
        let actor = held.actor.clone();
        let (End::Outcome(outcome), Some(actor), [op]) = (end, actor, &segment.reminders[..])
        else {
            return self.wrong("log", format!("{at}: no change from outside"));
        };
        held.ended = Some(Ended { outcome: outcome.clone(), epoch, offset, at: self.now });
        let model = &mut self.logs[log].reminders;
        match &op.change {
            ReminderChange::Set(reminder) => {
                let tag = Spec::read(&reminder.payload).tag;
                let before = model.scheduled.insert(tag, offset);
                if before.is_some() || self.reminder_tags.get(&tag) != Some(&Asked::Client) {
                    let text = format!("{at}: tag {tag:x} is scheduled again, or by nobody");
                    self.wrong("P2 one request, one change", text);
                }
            }
            _ => model.cancels += 1,
        }
        self.change_reminders(log, offset, &actor, &segment.reminders);
    }

    /// Whether a client's change is in a log.
    pub(super) fn is_reminded(&self, req: usize) -> bool {
        match &self.history.reqs[req].remind {
            Some(Remind::Set { tag, .. }) => {
                self.logs.iter().any(|log| log.reminders.scheduled.contains_key(tag))
            }
            Some(_) => self.logs.iter().any(|log| log.reminders.cancels > 0),
            None => false,
        }
    }

    /// Whether an invocation is a reminder's firing, or the same sent again.
    pub(crate) fn is_firing(&self, uuid: Uuid) -> bool {
        let first = self.original(uuid);
        self.logs.iter().any(|log| log.reminders.firings.contains_key(&first))
    }

    /// A firing is dispatched: it is committed (rule L6), and was not dropped.
    pub(super) fn check_rings(&mut self, run: usize, record: &Run, log: usize) {
        let token = &record.token;
        let first = self.original(token.invocation.uuid);
        let firing = self.logs[log].reminders.firings.get(&first);
        let Some(firing) = firing else {
            return self.wrong("L6 firings are committed", format!("r{run} {token} is not"));
        };
        if firing.dropped.is_some_and(|epoch| epoch <= token.epoch) {
            self.wrong(
                "cancel removes what has not started",
                format!("r{run} {token} was dropped"),
            );
        }
    }

    /// At the end nothing is due, and clients' changes have happened no more often than they were asked for.
    pub(crate) fn check_reminders_done(&mut self) {
        let asked = self
            .history
            .reqs
            .iter()
            .filter(|req| matches!(req.remind, Some(Remind::Cancel(_) | Remind::CancelAll)));
        let asked = asked.count();
        let happened: usize = self.logs.iter().map(|log| log.reminders.cancels).sum();
        if happened > asked {
            let text = format!("{asked} cancellations asked for, {happened} logged");
            self.wrong("P2 one request, one change", text);
        }
        let now = crate::world::BASE_MS + self.now / crate::plan::MS;
        let mut late = Vec::new();
        for model in self.logs.iter().filter(|_| self.history.finish.quiet) {
            for ((actor, id), live) in &model.reminders.live {
                if live.due + REST_LATE < now {
                    late.push(format!("{} {actor}/{id} was due at {}", model.id, live.due));
                }
            }
        }
        for text in late {
            self.wrong("P1 every due time", text);
        }
    }
}

/// What is wrong with the due time that follows another one.
fn wrong_next(
    reminder: &Reminder,
    (due, next): (u64, Option<u64>),
    fires: bool,
    time: u64,
) -> Option<&'static str> {
    let is_missed = |due: u64| due + LATENESS < time;
    if !fires && (reminder.catch_up != CatchUp::Skip || !is_missed(due)) {
        return Some("it may not be skipped");
    }
    if fires && reminder.catch_up == CatchUp::Skip && is_missed(due + 2) {
        return Some("it should be skipped");
    }
    match (&reminder.schedule, next) {
        (Schedule::Once, None) => None,
        (Schedule::Once, Some(_)) => Some("it does not come again"),
        (Schedule::Every(period), Some(next)) => {
            if next <= due || (next - due) % period != 0 {
                return Some("it is not its period");
            }
            let mut left_out = (1..(next - due) / period).map(|n| due + n * period);
            let may = |due: u64| reminder.catch_up != CatchUp::Each && is_missed(due);
            (!left_out.all(may)).then_some("due times are left out")
        }
        // The simulator has no others.
        (_, None) => Some("it comes again"),
        (Schedule::Cron { .. }, _) => None,
    }
}
