//! What fires when (design section 6, item 10): due times become invocations of their actors.
//!
//! A firing, the invocation that it makes and the next due time are one decision, so that a due time leads to one
//! accepted invocation whoever fails. Whoever owns the partition fires, a caretaker too: firing is accepting; dispatch
//! waits for a host.

use std::sync::Arc;

use super::Partition;
use super::reign::Item;
use crate::agenda::Key;
use crate::cover::Transition;
use crate::effect::Notice;
use crate::env::Env;
use crate::ids::Millis;
use crate::invocation::Refusal;
use crate::limits::LimitHit;
use crate::record::Op;
use crate::reminder::{CatchUp, Reminder};
use crate::state::{Origin, firing};

/// What is to be done at a due time.
struct Firing {
    /// Its invocation is made.
    fires: bool,
    /// The due time after it.
    next: Option<Millis>,
}

// Firing.
impl Partition {
    /// The partition's time: it never runs back, whoever owns it.
    fn clock(&self, env: &Env) -> Millis {
        self.state.clock.max(env.now)
    }

    /// When reminders are to be looked at again.
    pub(super) fn next_firing(&self, env: &Env) -> Option<Millis> {
        let (due, key) = self.state.agenda.first()?;
        // What ends here, or is committed, looks again.
        if self.reign.inflight.len() >= env.limits.records_in_flight_max
            || self.no_room_to_fire(env, self.state.agenda.get(key)?).is_some()
        {
            return None;
        }
        Some(if *due <= self.clock(env) { env.now } else { *due })
    }

    /// Fires what is due, up to what one record takes.
    pub(super) fn fire_due(&mut self, env: &mut Env) {
        let clock = self.clock(env);
        for _ in 0..env.limits.reminder_firings_per_record_max {
            let Some((due, key)) = self.state.agenda.first().cloned() else { return };
            if due > clock {
                return;
            }
            if self.reign.inflight.len() >= env.limits.records_in_flight_max {
                return env.cover(Transition::RemindersFlight);
            }
            let Some(reminder) = self.state.agenda.get(&key).cloned() else { return };
            if self.waits_for_host(env, &key) {
                env.cover(Transition::RemindersHeld);
                self.state.agenda.hold(&key);
                continue;
            }
            if let Some(hit) = self.no_room_to_fire(env, &reminder) {
                return self.wait_to_fire(env, hit);
            }
            if self.queued(&key.0) >= env.limits.queue_per_actor_max {
                self.pause_reminders(env, &key.0);
                continue;
            }
            self.reign.reminders_wait = false;
            self.fire(env, key, &reminder);
        }
        if self.state.agenda.first().is_some_and(|(due, _)| *due <= clock) {
            env.cover(Transition::RemindersMore);
        }
    }

    /// Without a host nothing starts, so one firing of each reminder is as good as many: the next due time waits with
    /// it, and is subject to the reminder's policy when there is a host. Otherwise they would fill the partition.
    fn waits_for_host(&self, env: &Env, key: &Key) -> bool {
        let is_hostless = !env.hosts(&self.id.kind) && env.rules.hold_hostless;
        is_hostless && self.state.agenda.firings(key).next().is_some()
    }

    /// Due times that waited for a host need not any more, if there is one.
    pub(super) fn release_reminders(&mut self, env: &Env) {
        if env.hosts(&self.id.kind) && self.state.agenda.release_all() {
            env.cover(Transition::RemindersReleased);
        }
    }

    /// The bound that leaves no room for a firing.
    fn no_room_to_fire(&self, env: &Env, reminder: &Reminder) -> Option<LimitHit> {
        let limits = &env.limits;
        if self.reign.items.is_empty() {
            // One of any length may wait alone.
            return None;
        }
        let (name, limit) = match self.full(env, reminder.size())? {
            Refusal::PartitionBytesFull => {
                ("unfinished_bytes_per_partition_max", limits.unfinished_bytes_per_partition_max)
            }
            _ => ("unfinished_per_partition_max", limits.unfinished_per_partition_max),
        };
        Some(LimitHit { name, limit: limit as u64 })
    }

    /// Due times wait until something has ended here (rule C7): they are not lost, and it is said once.
    fn wait_to_fire(&mut self, env: &mut Env, hit: LimitHit) {
        env.cover(Transition::RemindersFull);
        if !std::mem::replace(&mut self.reign.reminders_wait, true) {
            let partition = self.id.clone();
            env.notice(Notice::RemindersWait { partition, actor: None, hit });
        }
    }

    /// An actor's queue is full: its reminders wait, those of others do not.
    fn pause_reminders(&mut self, env: &mut Env, actor: &Arc<str>) {
        env.cover(Transition::RemindersPaused);
        self.state.agenda.pause(actor);
        let limit = env.limits.queue_per_actor_max as u64;
        let hit = LimitHit { name: "queue_per_actor_max", limit };
        let (partition, actor) = (self.id.clone(), Some(actor.clone()));
        env.notice(Notice::RemindersWait { partition, actor, hit });
    }

    /// An actor's queue has changed: its reminders may fire again.
    pub(super) fn resume_reminders(&mut self, env: &Env, actor: &Arc<str>) {
        if self.state.agenda.is_paused(actor) && self.queued(actor) < env.limits.queue_per_actor_max
        {
            env.cover(Transition::RemindersResumed);
            self.state.agenda.resume(actor);
        }
    }

    fn queued(&self, actor: &Arc<str>) -> usize {
        self.reign.actors.get(actor).map_or(0, |actor| actor.lock.queued())
    }

    /// A due time has come.
    fn fire(&mut self, env: &mut Env, key: Key, reminder: &Reminder) {
        let clock = self.clock(env);
        let Firing { fires, next } = plan(reminder, clock, env.limits.reminder_lateness_ms);
        let is_late = reminder.due.saturating_add(env.limits.reminder_lateness_ms) < clock;
        let uuid = fires.then(|| env.uuid());
        let (actor, id) = key.clone();
        let due = reminder.due;
        if env.rules.firing_moves_due {
            self.push(env, Op::Fire { actor, id, due, uuid, next });
        } else {
            // A rule switched off: the next due time comes in a record of its own.
            let (stays, again) = (Some(due), (actor.clone(), id.clone()));
            self.push(env, Op::Fire { actor, id, due, uuid, next: stays });
            self.cut(env);
            self.push(env, Op::Fire { actor: again.0, id: again.1, due, uuid: None, next });
        }
        self.reminders_moved(&key.0);
        if is_late && reminder.catch_up != CatchUp::Each {
            self.tell_missed(env, &key, reminder, fires, next);
        }
        let Some(uuid) = uuid else { return };
        let invocation = Arc::new(firing(&key.0, reminder, uuid));
        let item = Item {
            logged: true,
            decided: self.gate_seq(),
            ..Item::new(invocation, Origin::Reminder(key))
        };
        self.insert_item(env, uuid, item);
        self.enqueue(env, uuid);
        self.pump_item(env, uuid);
    }

    /// Due times that are left out are told to people (P9).
    fn tell_missed(
        &mut self,
        env: &mut Env,
        (actor, id): &Key,
        reminder: &Reminder,
        fires: bool,
        next: Option<Millis>,
    ) {
        let first = if fires { reminder.schedule.after(reminder.due) } else { Some(reminder.due) };
        let Some(due) = first.filter(|due| next.is_none_or(|next| *due < next)) else { return };
        let (partition, actor, id) = (self.id.clone(), actor.clone(), id.clone());
        self.gate_notice(env, Notice::RemindersMissed { partition, actor, id, due, next });
    }
}

/// What a due time that has come means at a time. Those that passed no longer than `lateness` ago are simply fired,
/// one after the other; older ones were missed.
fn plan(reminder: &Reminder, clock: Millis, lateness: Millis) -> Firing {
    let Reminder { due, schedule, catch_up, .. } = reminder;
    let after = schedule.after(*due);
    let recent = clock.saturating_sub(lateness);
    if *due >= recent || *catch_up == CatchUp::Each {
        return Firing { fires: true, next: after };
    }
    let next = after.and_then(|after| schedule.from(after, recent));
    Firing { fires: *catch_up == CatchUp::Once, next }
}
