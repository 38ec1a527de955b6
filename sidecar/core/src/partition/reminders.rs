//! What turns and others change of reminders, and see of them (design section 6, item 10).
//!
//! What a turn changes is part of its segment. A change from outside comes on its sender's channel as an invocation
//! that the owner carries out at once, so that asking again repeats nothing.

use std::sync::Arc;

use super::Partition;
use super::gate::Gated;
use super::questions::Question;
use super::reign::{Item, ItemStage};
use crate::cover::Transition;
use crate::effect::{RequestError, Response};
use crate::env::Env;
use crate::ids::{NodeId, Number, RequestId, Sender, TurnToken, Uuid};
use crate::invocation::{Outcome, Payload, Refusal};
use crate::message::{Message, ReadResult};
use crate::node::OTHERS;
use crate::record::{AcceptInBrief, End, Op, ReminderOp, Segment};
use crate::reminder::{Remind, Reminder, ReminderChange};

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
        let Some(turn) = self.reign.items.get_mut(&uuid).and_then(|item| item.turn()) else {
            return;
        };
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
            && let Some(turn) = self.reign.items.get(uuid).and_then(|item| item.running())
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
        let turn = self.reign.items.get(&uuid).and_then(|item| item.running());
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
            // A later step of a chain of tail calls goes on with what has started. Where the actor is removed, nothing
            // that waits has: all of them count as started after an owner was lost. What is parked has.
            let removed = env.rules.removal_drops_firings && self.is_being_removed(actor);
            let waits = |item: &Item| !item.started || (removed && !item.is_parked());
            let has_not_started = |item: &Item| waits(item) && item.invocation.step == 1;
            let items = &self.reign.items;
            let dropped: Vec<Uuid> = firings
                .into_iter()
                .filter(|uuid| items.get(uuid).is_some_and(|item| has_not_started(item)))
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
