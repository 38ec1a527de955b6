//! Reminders: what turns and others change, and what fires (design section 6, item 10).
//!
//! A firing, the invocation that it makes and the next due time are one decision, so that a due time leads to one
//! accepted invocation whoever fails. Whoever owns the partition fires, a caretaker too: firing is accepting; dispatch
//! waits for a host. A change from outside comes on its sender's channel as an invocation that the owner carries out
//! at once, so that asking again repeats nothing.

use std::sync::Arc;

use super::Partition;
use super::gate::Gated;
use super::questions::Question;
use super::reign::{Item, ItemStage};
use crate::agenda::Key;
use crate::cover::Transition;
use crate::effect::{Notice, RequestError, Response};
use crate::env::Env;
use crate::ids::{Millis, NodeId, Number, RequestId, Sender, TurnToken, Uuid};
use crate::invocation::{Outcome, Payload, Refusal};
use crate::limits::LimitHit;
use crate::message::{Message, ReadResult};
use crate::node::OTHERS;
use crate::record::{AcceptInBrief, End, Op, ReminderOp, Segment};
use crate::reminder::{CatchUp, Remind, Reminder, ReminderChange};
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
        if reminder.due + env.limits.reminder_lateness_ms < clock
            && reminder.catch_up != CatchUp::Each
        {
            self.tell_missed(env, &key, reminder, fires, next);
        }
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
        let Some(uuid) = uuid else { return };
        let invocation = Arc::new(firing(&key.0, reminder, uuid));
        let item = Item {
            invocation,
            origin: Origin::Reminder(key),
            logged: true,
            attempt: 1,
            started: false,
            cleared: false,
            retry_at: 0,
            ended: None,
            cancel: false,
            shared: false,
            reply_to: None,
            awaiters: Vec::new(),
            stage: ItemStage::Queued,
        };
        self.insert_item(env, uuid, item);
        self.enqueue(env, uuid);
        self.pump_item(env, uuid);
    }

    /// Due times that are left out are told to people (P9).
    fn tell_missed(
        &self,
        env: &mut Env,
        (actor, id): &Key,
        reminder: &Reminder,
        fires: bool,
        next: Option<Millis>,
    ) {
        let first = if fires { reminder.schedule.after(reminder.due) } else { Some(reminder.due) };
        let Some(due) = first.filter(|due| next.is_none_or(|next| *due < next)) else { return };
        let (partition, actor, id) = (self.id.clone(), actor.clone(), id.clone());
        env.notice(Notice::RemindersMissed { partition, actor, id, due, next });
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

// Changes.
impl Partition {
    /// A turn changes reminders of its actor: buffered with its segment (P5).
    pub(crate) fn turn_remind(
        &mut self,
        env: &mut Env,
        request: RequestId,
        token: &TurnToken,
        actor: &Arc<str>,
        change: ReminderChange,
    ) {
        let uuid = match self.check_turn_of(env, token, actor) {
            Ok(uuid) => uuid,
            Err(error) => return env.respond(request, Err(error)),
        };
        if self.reign.items.get(&uuid).is_some_and(|item| item.shared) {
            return env.respond(request, Err(RequestError::SharedTurn));
        }
        let known = self.reminders_in_turn(uuid, actor);
        let response = response_to(&change, &known);
        let refusal = self.refuses_change(env, &change, &known);
        let bytes = change.size();
        let Some(turn) = self.reign.items.get_mut(&uuid).and_then(Item::turn) else { return };
        let limits = &env.limits;
        let (name, limit) = if let Some((_, name, limit)) = refusal {
            (name, limit)
        } else if turn.unflushed.reminders.len() >= limits.segment_sends_max {
            ("segment_sends_max", limits.segment_sends_max)
        } else if turn.unflushed.bytes + bytes > limits.segment_bytes_max {
            ("segment_bytes_max", limits.segment_bytes_max)
        } else {
            if let ReminderChange::Set(reminder) = &change {
                self.reign.buffered_reminders.add(reminder.size());
            }
            turn.unflushed.bytes += bytes;
            turn.unflushed.reminders.push(change);
            return env.respond(request, Ok(response));
        };
        let hit = env.limit(name, limit);
        env.respond(request, Err(RequestError::Limit(hit)));
    }

    /// Lists the reminders of a turn's actor, as the turn has made them.
    pub(crate) fn turn_reminders(
        &mut self,
        env: &mut Env,
        request: RequestId,
        token: &TurnToken,
        actor: &Arc<str>,
    ) {
        let listed = self.check_turn_of(env, token, actor);
        if let Ok(uuid) = &listed
            && let Some(turn) = self.reign.items.get(uuid).and_then(Item::running)
            && !turn.unflushed.reminders.is_empty()
        {
            env.cover(Transition::RemindersInTurn);
        }
        let listed = listed.map(|uuid| Response::Reminders(self.reminders_in_turn(uuid, actor)));
        env.respond(request, listed);
    }

    /// Whether a turn runs now, and on this actor.
    fn check_turn_of(
        &self,
        env: &Env,
        token: &TurnToken,
        actor: &Arc<str>,
    ) -> Result<Uuid, RequestError> {
        let uuid = self.check_turn(env, token)?;
        let own = self.reign.items.get(&uuid).and_then(|item| item.invocation.actor.as_ref());
        if own == Some(actor) {
            return Ok(uuid);
        }
        Err(RequestError::Invalid(OTHERS))
    }

    /// The reminders of an actor after what a turn of it has buffered.
    fn reminders_in_turn(&self, uuid: Uuid, actor: &Arc<str>) -> Vec<Arc<Reminder>> {
        let mut all: Vec<_> = self.state.agenda.of(actor).cloned().collect();
        let turn = self.reign.items.get(&uuid).and_then(Item::running);
        for change in turn.into_iter().flat_map(|turn| &turn.unflushed.reminders) {
            match change {
                ReminderChange::Set(reminder) => {
                    match all.binary_search_by(|known| known.id.cmp(&reminder.id)) {
                        Ok(at) => all[at] = reminder.clone(),
                        Err(at) => all.insert(at, reminder.clone()),
                    }
                }
                ReminderChange::Cancel(id) => all.retain(|known| known.id != *id),
                ReminderChange::CancelAll => all.clear(),
            }
        }
        all
    }

    /// The reminders of an actor after what its topmost turn has buffered; those below it have nothing.
    fn reminders_ahead(&self, actor: &Arc<str>) -> Vec<Arc<Reminder>> {
        let top = self.reign.actors.get(actor).and_then(|actor| actor.lock.top());
        self.reminders_in_turn(top.unwrap_or_default(), actor)
    }

    /// The bound that a change would break: refusal, name, value. `known`: reminders that the actor has by now.
    fn refuses_change(
        &self,
        env: &Env,
        change: &ReminderChange,
        known: &[Arc<Reminder>],
    ) -> Option<(Refusal, &'static str, usize)> {
        let ReminderChange::Set(reminder) = change else { return None };
        let limits = &env.limits;
        let mut held = self.state.agenda.tally().plus(self.reign.buffered_reminders);
        if let Some(old) = known.iter().find(|known| known.id == reminder.id) {
            held.remove(old.size());
        } else if known.len() >= limits.reminders_per_actor_max {
            let limit = limits.reminders_per_actor_max;
            return Some((Refusal::ActorRemindersFull, "reminders_per_actor_max", limit));
        }
        if held.count >= limits.reminders_per_partition_max {
            let limit = limits.reminders_per_partition_max;
            return Some((Refusal::RemindersFull, "reminders_per_partition_max", limit));
        }
        if held.bytes + reminder.size() > limits.reminders_bytes_per_partition_max {
            let limit = limits.reminders_bytes_per_partition_max;
            return Some((Refusal::RemindersBytesFull, "reminders_bytes_per_partition_max", limit));
        }
        None
    }

    /// A change from outside: decided, and answered when it is committed.
    pub(super) fn take_remind(
        &mut self,
        env: &mut Env,
        (from, sender, number): (NodeId, Sender, Number),
        remind: &Remind,
    ) {
        let Remind { uuid, actor, change } = remind;
        let known: Vec<_> = self.state.agenda.of(actor).cloned().collect();
        // With or without what a turn of the actor has buffered, there must be room.
        let ahead = self.reminders_ahead(actor);
        let refused = [&known, &ahead].map(|known| self.refuses_change(env, change, known));
        if let Some((refusal, ..)) = refused.into_iter().flatten().next() {
            return self.turn_away(env, from, sender, number, *uuid, refusal);
        }
        self.log_held(env, &sender, number);
        let count = match response_to(change, &known) {
            Response::Cancelled { count } => count,
            _ => 0,
        };
        let outcome = Outcome::Done(count_to(count));
        let reminders = self.reminder_ops(env, Some(actor), vec![change.clone()]);
        let accept = AcceptInBrief { sender: sender.clone(), number, actor: Some(actor.clone()) };
        let op = Op::Complete {
            uuid: *uuid,
            attempt: 1,
            accept: Some(accept),
            end: End::Outcome(outcome.clone()),
            segment: Segment { reminders, ..Segment::default() },
            time: env.now,
        };
        self.push(env, op);
        let message = Message::Reply { sender, from: self.id.clone(), number, outcome };
        self.gate(env, Gated::Send { to: from, message });
        self.pump_actor(env, actor);
    }

    /// Changes as they are logged: with the firings that they drop, which are let go of here.
    pub(super) fn reminder_ops(
        &mut self,
        env: &mut Env,
        actor: Option<&Arc<str>>,
        changes: Vec<ReminderChange>,
    ) -> Vec<ReminderOp> {
        let Some(actor) = actor else { return Vec::new() };
        let mut ops = Vec::with_capacity(changes.len());
        for change in changes {
            let key = |id: &Arc<str>| (actor.clone(), id.clone());
            let agenda = &self.state.agenda;
            let firings: Vec<Uuid> = match &change {
                ReminderChange::Set(reminder) => agenda.firings(&key(&reminder.id)).collect(),
                ReminderChange::Cancel(id) => agenda.firings(&key(id)).collect(),
                ReminderChange::CancelAll => agenda.firings_of(actor).collect(),
            };
            // A later step of a chain of tail calls goes on with what has started.
            let has_not_started = |item: &Item| !item.started && item.invocation.step == 1;
            let items = &self.reign.items;
            let dropped: Vec<Uuid> = firings
                .into_iter()
                .filter(|uuid| items.get(uuid).is_some_and(has_not_started))
                .collect();
            if env.rules.cancel_drops_firings {
                dropped.iter().for_each(|uuid| self.drop_firing(env, *uuid));
            }
            ops.push(ReminderOp { change, dropped });
        }
        // Once for all of them: a queue may be long. One may have been let in, and wait for a host, a slot or a commit.
        if ops.iter().any(|op| !op.dropped.is_empty())
            && let Some(busy) = self.reign.actors.get_mut(actor)
        {
            ops.iter().flat_map(|op| &op.dropped).for_each(|uuid| busy.lock.leave(*uuid));
            let items = &self.reign.items;
            busy.lock.forget(|uuid| items.contains_key(uuid));
        }
        ops
    }

    fn drop_firing(&mut self, env: &mut Env, uuid: Uuid) {
        let Some(item) = self.remove_item(env, uuid) else { return };
        env.cover(match item.stage {
            ItemStage::WaitSlot => Transition::FiringDropSlot,
            ItemStage::WaitCommit => Transition::FiringDropCommit,
            _ => Transition::FiringDropQueued,
        });
    }

    /// Changes are buffered no longer.
    pub(super) fn unbuffer_reminders(&mut self, changes: &[ReminderChange]) {
        let sizes = changes.iter().filter_map(|change| match change {
            ReminderChange::Set(reminder) => Some(reminder.size()),
            _ => None,
        });
        self.reign.buffered_reminders.remove_all(sizes);
    }

    /// A node asks for an actor's reminders.
    pub(crate) fn list_reminders(
        &mut self,
        env: &mut Env,
        from: NodeId,
        request: RequestId,
        actor: Arc<str>,
    ) {
        // Without a lease a successor may reign already, and can be asked at once.
        if !self.serving() || !env.lease_valid {
            return self.refuse_read(env, from, request);
        }
        let needs_proof = env.rules.read_barrier;
        self.question(env, (from, request), Question::Reminders { actor }, needs_proof);
    }

    /// The reign is current: what was decided, once it is committed (rule L5).
    pub(super) fn reminders_current(
        &mut self,
        env: &mut Env,
        from: NodeId,
        request: RequestId,
        actor: &Arc<str>,
    ) {
        let all: Vec<_> = self.state.agenda.of(actor).cloned().collect();
        let max = env.limits.state_read_bytes_max;
        let result = if all.iter().map(|reminder| reminder.size()).sum::<usize>() > max {
            ReadResult::TooLong(max as u64)
        } else {
            ReadResult::Reminders(all)
        };
        self.gate_read(env, from, request, result);
    }
}

/// What whoever changes reminders is answered, by what the actor has.
fn response_to(change: &ReminderChange, known: &[Arc<Reminder>]) -> Response {
    match change {
        ReminderChange::Set(reminder) => Response::Scheduled { due: reminder.due },
        ReminderChange::Cancel(id) => {
            let count = known.iter().filter(|reminder| reminder.id == *id).count();
            Response::Cancelled { count }
        }
        ReminderChange::CancelAll => Response::Cancelled { count: known.len() },
    }
}

/// The outcome of a change that succeeded: how many were cancelled, as text.
fn count_to(count: usize) -> Payload {
    let data = bytes::Bytes::from(count.to_string());
    Payload { data, content_type: Arc::default() }
}

/// The answer to a change from outside, by its outcome.
pub(crate) fn answer_of(
    change: &ReminderChange,
    outcome: Outcome,
) -> Result<Response, RequestError> {
    let unread = || RequestError::Unknown("the owner's answer is not understood");
    match (outcome, change) {
        (Outcome::Done(_), ReminderChange::Set(reminder)) => {
            Ok(Response::Scheduled { due: reminder.due })
        }
        (Outcome::Done(payload), _) => {
            let text = std::str::from_utf8(&payload.data).ok();
            let count = text.and_then(|text| text.parse().ok()).ok_or_else(unread)?;
            Ok(Response::Cancelled { count })
        }
        // Refusals are told as those of calls.
        (outcome, _) => Ok(Response::Outcome { invocation: None, outcome }),
    }
}
