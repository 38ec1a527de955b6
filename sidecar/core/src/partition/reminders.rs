//! What turns and others change of reminders, and see of them (design section 6, item 10).
//!
//! What a turn changes is part of its segment. A change from outside comes on its sender's channel as an invocation
//! that the owner carries out at once, so that asking again repeats nothing.

use std::collections::{BTreeMap, BTreeSet};
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
use crate::trouble::Cause;
use crate::work;

/// Reminders of an actor.
type ById = BTreeMap<Arc<str>, Arc<Reminder>>;

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
        self.look_ahead(uuid, actor);
        let known = self.ahead(uuid);
        let response = response_to(&change, known.len(), |id| known.contains_key(id));
        let refusal = match &change {
            ReminderChange::Set(set) => self.refuses(env, set, known.get(&set.id), known.len()),
            ReminderChange::Cancel(_) | ReminderChange::CancelAll => None,
        };
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
            if let Some(known) = &mut turn.reminders {
                carry_out(known, &change);
            }
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
        let listed = self.check_turn_of(env, token, actor).map(|uuid| {
            let turn = self.reign.items.get(&uuid).and_then(|item| item.running());
            if turn.is_none_or(|turn| turn.unflushed.reminders.is_empty()) {
                return self.state.agenda.of(actor).cloned().collect();
            }
            env.cover(Transition::RemindersInTurn);
            self.look_ahead(uuid, actor);
            self.ahead(uuid).values().cloned().collect()
        });
        env.respond(request, listed.map(Response::Reminders));
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

    /// Finds the reminders of an actor after what its topmost turn has buffered, if they are not known: once for all
    /// that the turn changes.
    fn look_ahead(&mut self, uuid: Uuid, actor: &Arc<str>) {
        let of_actor = || self.state.agenda.of(actor).map(|r| (r.id.clone(), r.clone())).collect();
        let item = self.reign.items.get(&uuid);
        let Some(turn) = item.and_then(|item| item.running()).filter(|t| t.reminders.is_none())
        else {
            return;
        };
        let mut known: ById = of_actor();
        turn.unflushed.reminders.iter().for_each(|change| carry_out(&mut known, change));
        if let Some(turn) = self.reign.items.get_mut(&uuid).and_then(|item| item.turn()) {
            turn.reminders = Some(known);
        }
    }

    /// What `look_ahead` has found.
    fn ahead(&self, uuid: Uuid) -> &ById {
        static NONE: ById = ById::new();
        let turn = self.reign.items.get(&uuid).and_then(|item| item.running());
        turn.and_then(|turn| turn.reminders.as_ref()).unwrap_or(&NONE)
    }

    /// Reminders of an actor have changed otherwise than by its turn that runs: what that has found counts no more.
    /// Those below it have nothing buffered.
    pub(super) fn reminders_moved(&mut self, actor: &Arc<str>) {
        let top = self.reign.actors.get(actor).and_then(|actor| actor.lock.top());
        let item = top.and_then(|top| self.reign.items.get_mut(&top));
        if let Some(turn) = item.and_then(|item| item.turn()) {
            turn.reminders = None;
        }
    }

    /// The bound that a reminder would break: refusal, name, value. `old`: the one that it replaces; `count`: how many
    /// the actor has.
    fn refuses(
        &self,
        env: &Env,
        reminder: &Reminder,
        old: Option<&Arc<Reminder>>,
        count: usize,
    ) -> Option<(Refusal, &'static str, usize)> {
        let limits = &env.limits;
        let mut held = self.state.agenda.tally().plus(self.reign.buffered_reminders);
        if let Some(old) = old {
            held.remove(old.size());
        } else if count >= limits.reminders_per_actor_max {
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

    /// Whether there is no room for a reminder from outside, with or without what a turn of its actor has buffered.
    fn refuses_outside(
        &mut self,
        env: &Env,
        actor: &Arc<str>,
        reminder: &Reminder,
    ) -> Option<Refusal> {
        let old = self.state.agenda.get(&(actor.clone(), reminder.id.clone()));
        let count = self.state.agenda.of(actor).count();
        let mut refused = self.refuses(env, reminder, old, count);
        let top = self.reign.actors.get(actor).and_then(|actor| actor.lock.top());
        if let Some(top) = top.filter(|_| refused.is_none()) {
            self.look_ahead(top, actor);
            if self.reign.items.get(&top).is_some_and(|item| item.running().is_some()) {
                let ahead = self.ahead(top);
                refused = self.refuses(env, reminder, ahead.get(&reminder.id), ahead.len());
            }
        }
        refused.map(|(refusal, ..)| refusal)
    }

    /// A change from outside: decided, and answered when it is committed.
    pub(super) fn take_remind(
        &mut self,
        env: &mut Env,
        (from, sender, number): (NodeId, Sender, Number),
        remind: &Remind,
    ) {
        let Remind { uuid, actor, change } = remind;
        if let ReminderChange::Set(reminder) = change
            && let Some(refusal) = self.refuses_outside(env, actor, reminder)
        {
            return self.turn_away(env, from, sender, number, *uuid, refusal);
        }
        self.log_held(env, &sender, number);
        let agenda = &self.state.agenda;
        let has = |id: &Arc<str>| agenda.get(&(actor.clone(), id.clone())).is_some();
        let count = match response_to(change, agenda.of(actor).count(), has) {
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
        self.reminders_moved(actor);
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
        // Nothing fires meanwhile: what is dropped of a reminder goes with the first change of it.
        let (mut looked_at, mut all) = (BTreeSet::new(), false);
        for change in changes {
            let key = |id: &Arc<str>| (actor.clone(), id.clone());
            let agenda = &self.state.agenda;
            let mut of_one = |id: &Arc<str>| {
                let is_first = !all && looked_at.insert(id.clone());
                if is_first { agenda.firings(&key(id)).collect() } else { Vec::new() }
            };
            let firings: Vec<Uuid> = match &change {
                ReminderChange::Set(reminder) => of_one(&reminder.id),
                ReminderChange::Cancel(id) => of_one(id),
                ReminderChange::CancelAll if std::mem::replace(&mut all, true) => Vec::new(),
                ReminderChange::CancelAll => agenda.firings_of(actor).collect(),
            };
            // A later step of a chain of tail calls goes on with what has started. Where the actor is removed, nothing
            // that waits has: all of them count as started after an owner was lost. What was parked has, also if
            // somebody has taken it up again.
            let removed = env.rules.removal_drops_firings && self.is_being_removed(actor);
            let entries = &self.state.entries;
            let was_parked = |item: &Item| {
                let entry = entries.get(&item.invocation.uuid);
                let last = entry.and_then(|entry| entry.trouble.last.as_ref());
                last.is_some_and(|(_, ended)| ended.cause == Cause::HostLost)
            };
            let waits =
                |item: &Item| !item.started || (removed && !item.is_parked() && !was_parked(item));
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

/// What whoever changes reminders is answered, by how many the actor has, and which.
fn response_to(
    change: &ReminderChange,
    count: usize,
    has: impl FnOnce(&Arc<str>) -> bool,
) -> Response {
    match change {
        ReminderChange::Set(reminder) => Response::Scheduled { due: reminder.due },
        ReminderChange::Cancel(id) => Response::Cancelled { count: usize::from(has(id)) },
        ReminderChange::CancelAll => Response::Cancelled { count },
    }
}

/// What a change makes of an actor's reminders.
fn carry_out(known: &mut ById, change: &ReminderChange) {
    work::look();
    match change {
        ReminderChange::Set(reminder) => {
            known.insert(reminder.id.clone(), reminder.clone());
        }
        ReminderChange::Cancel(id) => {
            known.remove(id);
        }
        ReminderChange::CancelAll => known.clear(),
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
