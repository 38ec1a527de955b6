//! The reminders of a partition, and which one is due next: nothing here takes longer because others wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ids::{Millis, Uuid};
use crate::reminder::{Reminder, ReminderChange};
use crate::size::Tally;
use crate::work;

/// A reminder's name in its partition: the actor and the id.
pub(crate) type Key = (Arc<str>, Arc<str>);

/// Reminders of a partition, as its log tells them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agenda {
    reminders: BTreeMap<Key, Arc<Reminder>>,
    /// By due time, those left out that are held back or of paused actors.
    due: BTreeSet<(Millis, Key)>,
    /// Actors that take no more firings now: only an owner pauses any.
    paused: BTreeSet<Arc<str>>,
    /// Those that are due and wait until the firing before has started, or is over: only an owner holds any back.
    held: BTreeSet<Key>,
    /// Firings that have not ended.
    firings: BTreeMap<Key, BTreeSet<Uuid>>,
    tally: Tally,
}

impl Agenda {
    /// One reminder.
    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Reminder>> {
        self.reminders.get(key)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<Reminder>)> {
        self.reminders.iter().inspect(|_| work::look())
    }

    /// All firings that have not ended.
    pub(crate) fn all_firings(&self) -> impl Iterator<Item = (&Key, Uuid)> {
        let all = self.firings.iter().inspect(|_| work::look());
        all.flat_map(|(key, uuids)| uuids.iter().map(move |uuid| (key, *uuid)))
    }

    /// The reminders of an actor, by id.
    pub(crate) fn of(&self, actor: &Arc<str>) -> impl Iterator<Item = &Arc<Reminder>> {
        let first = (actor.clone(), Arc::default());
        let own = self.reminders.range(first..).take_while(move |((a, _), _)| a == actor);
        own.inspect(|_| work::look()).map(|(_, reminder)| reminder)
    }

    /// How many there are, and how many bytes they have.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// The one that is due first.
    pub(crate) fn first(&self) -> Option<&(Millis, Key)> {
        self.due.first()
    }

    /// Applies a change.
    pub(crate) fn change(&mut self, actor: &Arc<str>, change: &ReminderChange) {
        match change {
            ReminderChange::Set(reminder) => self.set(actor, reminder.clone()),
            ReminderChange::Cancel(id) => {
                self.remove(&(actor.clone(), id.clone()));
            }
            ReminderChange::CancelAll => self.remove_all(actor),
        }
    }

    fn set(&mut self, actor: &Arc<str>, reminder: Arc<Reminder>) {
        let key = (actor.clone(), reminder.id.clone());
        self.remove(&key);
        self.tally.add(reminder.size());
        if !self.paused.contains(actor) {
            self.due.insert((reminder.due, key.clone()));
        }
        self.reminders.insert(key, reminder);
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<Reminder>> {
        let reminder = self.reminders.remove(key)?;
        self.due.remove(&(reminder.due, key.clone()));
        self.held.remove(key);
        self.tally.remove(reminder.size());
        Some(reminder)
    }

    /// Drops everything of an actor.
    pub(crate) fn remove_all(&mut self, actor: &Arc<str>) {
        let ids: Vec<_> = self.of(actor).map(|reminder| reminder.id.clone()).collect();
        for id in ids {
            self.remove(&(actor.clone(), id));
        }
    }

    /// A due time has passed: the next one, or the end of the reminder.
    pub(crate) fn pass(&mut self, key: &Key, next: Option<Millis>) {
        let Some(mut reminder) = self.remove(key) else { return };
        if let Some(due) = next {
            Arc::make_mut(&mut reminder).due = due;
            self.set(&key.0, reminder);
        }
    }

    /// A firing is owed.
    pub(crate) fn fired(&mut self, key: Key, uuid: Uuid) {
        self.firings.entry(key).or_default().insert(uuid);
    }

    /// A firing has ended, or was dropped.
    pub(crate) fn ended(&mut self, key: &Key, uuid: Uuid) {
        if let Some(firings) = self.firings.get_mut(key) {
            firings.remove(&uuid);
            if firings.is_empty() {
                self.firings.remove(key);
                self.release(key);
            }
        }
    }

    /// A reminder that is due waits.
    pub(crate) fn hold(&mut self, key: &Key) {
        if let Some(reminder) = self.reminders.get(key) {
            self.due.remove(&(reminder.due, key.clone()));
            self.held.insert(key.clone());
        }
    }

    fn release(&mut self, key: &Key) {
        if self.held.remove(key)
            && let Some(reminder) = self.reminders.get(key)
            && !self.paused.contains(&key.0)
        {
            self.due.insert((reminder.due, key.clone()));
        }
    }

    /// All that wait need not any more; tells whether there are any.
    pub(crate) fn release_all(&mut self) -> bool {
        let held = self.held.clone();
        held.iter().for_each(|key| self.release(key));
        !held.is_empty()
    }

    /// Firings of one reminder that have not ended.
    pub(crate) fn firings(&self, key: &Key) -> impl Iterator<Item = Uuid> {
        self.firings.get(key).into_iter().flatten().copied()
    }

    /// The same of all reminders of an actor, those included that are no more.
    pub(crate) fn firings_of(&self, actor: &Arc<str>) -> impl Iterator<Item = Uuid> {
        let first = (actor.clone(), Arc::default());
        let own = self.firings.range(first..).take_while(move |((a, _), _)| a == actor);
        own.inspect(|_| work::look()).flat_map(|(_, firings)| firings.iter().copied())
    }

    /// An actor takes no more firings for now.
    pub(crate) fn pause(&mut self, actor: &Arc<str>) {
        if self.paused.insert(actor.clone()) {
            for (due, key) in self.dues(actor) {
                self.due.remove(&(due, key));
            }
        }
    }

    /// Whether an actor takes no more firings for now.
    pub(crate) fn is_paused(&self, actor: &Arc<str>) -> bool {
        self.paused.contains(actor)
    }

    /// It takes firings again.
    pub(crate) fn resume(&mut self, actor: &Arc<str>) {
        if self.paused.remove(actor) {
            let dues = self.dues(actor);
            self.due.extend(dues);
        }
    }

    fn dues(&self, actor: &Arc<str>) -> Vec<(Millis, Key)> {
        let all = self.of(actor).map(|r| (r.due, (actor.clone(), r.id.clone())));
        all.filter(|(_, key)| !self.held.contains(key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::Event;
    use crate::event::{Operation, ReminderAsk, ReminderSpec};
    use crate::ids::Kind;
    use crate::invocation::Mode;
    use crate::limits::Limits;
    use crate::reminder::CatchUp;
    use crate::schedule::Schedule;
    use crate::script::{Script, done, text};
    use crate::work;

    /// Neither its timer nor a firing makes a partition look at reminders that are not due.
    #[test]
    fn many_reminders_are_not_scanned() {
        let many = 100_000;
        let (snapshot_after_records, snapshot_after_bytes) = (u64::MAX, u64::MAX);
        let limits = Limits { snapshot_after_records, snapshot_after_bytes, ..Limits::default() };
        let kind = Kind::actor("Account");
        let mut script = Script::with(std::slice::from_ref(&kind), limits);
        for n in 0..many {
            let ask = ReminderAsk::Schedule(ReminderSpec {
                id: "tea".into(),
                method: "ring".into(),
                payload: text("tea"),
                due: Some(1_000_000 + n * 1_000),
                schedule: Schedule::Once,
                catch_up: CatchUp::Once,
            });
            let (kind, actor) = (kind.clone(), format!("x{n}").into());
            script.request(Operation::Remind { turn: None, kind, actor, ask });
        }
        let (mut fired, before) = (0, work::looks());
        for _ in 0..500 {
            script.now = script.node.poll_timeout().expect("something is due").max(script.now);
            script.event(Event::Tick);
            while let Some(turn) = script.turns.pop_front() {
                fired += 1;
                script.finish(&turn, done("rung"));
            }
        }
        assert!(fired > 100, "{fired} fired");
        let looks = work::looks() - before;
        assert!(looks <= 10 * fired, "{looks} looks for {fired} that fired");
    }

    /// A turn that changes many reminders makes a partition look at few things for each of them.
    #[test]
    fn many_changes_of_one_segment_are_not_gone_through_again_and_again() {
        let (many, kind) = (2_000, Kind::actor("Account"));
        let mut script = Script::new(std::slice::from_ref(&kind));
        script.invoke(None, Mode::Call, "alice", "m");
        let turn = script.turn("m");
        let spec = |n: u64| ReminderSpec {
            id: format!("r{}", n % 100).into(),
            method: "ring".into(),
            payload: text("tea"),
            due: Some(1_000_000 + n),
            schedule: Schedule::Once,
            catch_up: CatchUp::Once,
        };
        let before = work::looks();
        for n in 0..many {
            let ask = match n % 10 {
                8 => ReminderAsk::Cancel(spec(n - 1).id),
                9 => ReminderAsk::CancelAll,
                _ => ReminderAsk::Schedule(spec(n)),
            };
            let turn = Some(turn.token.clone());
            let (kind, actor) = (kind.clone(), "alice".into());
            script.request(Operation::Remind { turn, kind, actor, ask });
        }
        script.finish(&turn, done("ok"));
        let looks = (work::looks() - before) as u64;
        assert!(looks <= 10 * many, "{looks} looks for {many} changes");
    }
}
