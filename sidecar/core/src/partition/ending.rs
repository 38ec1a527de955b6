//! How turns and invocations end (rules T1–T3, C5).

use std::sync::Arc;

use super::Partition;
use super::gate::Gated;
use super::reign::{Item, ItemStage, TurnEnd, Unflushed};
use crate::cover::Transition;
use crate::effect::{CancelReason, Effect, Notice};
use crate::env::Env;
use crate::events::Publication;
use crate::ids::{InvocationId, Millis, SessionId, TurnToken, Uuid};
use crate::invocation::{Mode, Obligation, Outcome};
use crate::message::{AwaitResult, Message};
use crate::record::{AcceptInBrief, End, Op};
use crate::state::Origin;
use crate::trouble::Cause;

impl Partition {
    /// The turn ended in user code.
    pub(crate) fn turn_result(&mut self, env: &mut Env, token: &TurnToken, result: TurnEnd) {
        let uuid = token.invocation.uuid;
        let Some(item) = self.reign.items.get(&uuid) else { return };
        if !self.is_current(item, token) && env.rules.turn_token {
            return;
        }
        let cancel = item.cancel;
        let Some(turn) = self.reign.items.get_mut(&uuid).and_then(|item| item.turn()) else {
            return;
        };
        match result {
            _ if turn.result.is_some() => {}
            TurnEnd::Outcome(_) | TurnEnd::TailCall(..) if !turn.cancelled => {
                turn.result = Some(result);
                self.maybe_end(env, uuid);
            }
            TurnEnd::Cancelled if cancel && !turn.cancelled => {
                turn.result = Some(result);
                self.maybe_end(env, uuid);
                if self.reign.items.get(&uuid).is_some_and(|item| item.running().is_some()) {
                    self.withdraw_calls(env, uuid);
                }
            }
            _ if turn.cancelled => self.fail_attempt(env, uuid, Cause::HandOver),
            _ => self.fail_attempt(env, uuid, Cause::Stopped),
        }
    }

    /// The turn ended in user code, and its result waits outside behind operations of it.
    pub(crate) fn turn_returned(&mut self, token: &TurnToken) {
        let uuid = token.invocation.uuid;
        if self.reign.items.get(&uuid).is_some_and(|item| self.is_current(item, token))
            && let Some(turn) = self.reign.items.get_mut(&uuid).and_then(|item| item.turn())
        {
            turn.returned = true;
        }
    }

    /// Ends a turn that has returned, unless calls of it are under way (rule T1).
    pub(super) fn maybe_end(&mut self, env: &mut Env, uuid: Uuid) {
        let Some(item) = self.reign.items.get_mut(&uuid) else { return };
        let Some(turn) = item.turn() else { return };
        if turn.result.is_none() {
            return;
        }
        if !turn.calls.is_empty() && env.rules.end_waits {
            env.cover(Transition::ReturnedWaits);
            return;
        }
        let stage = std::mem::replace(&mut item.stage, ItemStage::Queued);
        let ItemStage::Running(mut turn) = stage else { return };
        let Some(result) = turn.result.take() else { return };
        env.cover(Transition::RunningEnd);
        self.give_back_slot(env, uuid);
        if matches!(result, TurnEnd::Outcome(Outcome::Failed(_)) | TurnEnd::Cancelled) {
            self.end_activation(env, uuid);
        }
        match result {
            TurnEnd::Outcome(outcome @ Outcome::Done(_)) => {
                self.end(env, uuid, outcome, turn.unflushed);
            }
            TurnEnd::Outcome(outcome) => {
                if let Outcome::Failed(error) = &outcome
                    && let Some(pause) = self.retry_after(env, uuid, (&turn, error))
                {
                    return self.retry_turn(env, uuid, (*turn, error), pause);
                }
                if !env.rules.drop_failed {
                    return self.end(env, uuid, outcome, turn.unflushed);
                }
                self.drop_unflushed(turn.unflushed);
                self.end(env, uuid, outcome, Unflushed::default());
            }
            TurnEnd::TailCall(to, call) => self.tail_call(env, uuid, (to, call), turn.unflushed),
            TurnEnd::Cancelled => {
                self.drop_unflushed(turn.unflushed);
                self.end(env, uuid, Outcome::Cancelled, Unflushed::default());
            }
        }
    }

    /// What a turn buffered comes to nothing.
    pub(super) fn drop_unflushed(&mut self, unflushed: Unflushed) {
        self.reign.buffered.remove_all(unflushed.sends.iter().map(Obligation::size));
        self.reign.buffered.remove_all(unflushed.publishes.iter().map(Publication::size));
        self.unbuffer_reminders(&unflushed.reminders);
    }

    /// The attempt is lost with its unflushed segment; the invocation is tried again.
    fn fail_attempt(&mut self, env: &mut Env, uuid: Uuid, cause: Cause) {
        let epoch = self.reign.epoch;
        let Some(item) = self.reign.items.get_mut(&uuid) else { return };
        let attempt = item.attempt;
        let stage = std::mem::replace(&mut item.stage, ItemStage::Queued);
        let ItemStage::Running(turn) = stage else { return };
        env.cover(Transition::RunningQueued);
        let (step, actor) = (item.invocation.step, item.invocation.actor.clone());
        if actor.is_none() {
            self.reign.idle.insert(uuid);
        }
        let cancel = item.cancel;
        self.end_activation(env, uuid);
        if self.is_fleeting(uuid) {
            env.cover(Transition::DeactivationLost);
            self.drop_unflushed(turn.unflushed);
            self.give_back_slot(env, uuid);
            return self.end(env, uuid, Outcome::Cancelled, Unflushed::default());
        }
        let is_parked = self.note_end(env, uuid, cause, cancel);
        self.drop_unflushed(turn.unflushed);
        self.give_back_slot(env, uuid);
        let invocation = InvocationId { home: self.id.clone(), uuid };
        let token = TurnToken { invocation, step, attempt, epoch };
        for request in turn.calls.into_values() {
            self.superseded(env, request, &token);
        }
        self.try_release(env);
        if !env.rules.keep_place && !is_parked {
            self.lose_place(env, uuid);
        }
        match actor {
            Some(actor) if is_parked => self.pump_actor(env, &actor),
            _ => self.pump_item(env, uuid),
        }
        if self.reign.leaving.is_some() && self.any_suspended() {
            self.pump_all(env);
        }
    }

    /// The host's stream broke: its turns are lost, but for those that have returned.
    pub(crate) fn session_lost(&mut self, env: &mut Env, session: SessionId) {
        let lost: Vec<_> = self
            .reign
            .items
            .iter()
            .filter(|(_, i)| {
                i.running().is_some_and(|t| t.session == session && t.result.is_none())
            })
            .map(|(uuid, _)| *uuid)
            .collect();
        for uuid in lost {
            self.fail_attempt(env, uuid, Cause::HostLost);
        }
        for item in self.reign.items.values_mut() {
            // Slots were the host's.
            item.slot = false;
            if matches!(item.stage, ItemStage::WaitSlot) {
                env.cover(Transition::WaitSlotLost);
                item.stage = ItemStage::Queued;
                if item.invocation.actor.is_none() {
                    self.reign.idle.insert(item.invocation.uuid);
                }
            }
        }
    }

    /// A hand-over takes too long: running turns are told to stop.
    pub(super) fn cancel_turns(&mut self, env: &mut Env) {
        self.reign.leaving_cancelled = true;
        let epoch = self.reign.epoch;
        let host = env.host.as_ref().map(|h| h.session);
        let mut over = Vec::new();
        for (uuid, item) in &mut self.reign.items {
            let (step, attempt) = (item.invocation.step, item.attempt);
            let Some(turn) = item.turn() else { continue };
            // A turn that has returned, or whose host is gone, has nobody to acknowledge.
            if turn.result.take().is_some() || turn.returned || Some(turn.session) != host {
                env.cover(Transition::HandOverOver);
                over.push(*uuid);
            }
            env.cover(Transition::HandOverCancel);
            turn.cancelled = true;
            let session = turn.session;
            let invocation = InvocationId { home: self.id.clone(), uuid: *uuid };
            let token = TurnToken { invocation, step, attempt, epoch };
            let reason = CancelReason::Superseded;
            env.emit(Effect::Cancel { session, token, reason });
        }
        for uuid in over {
            self.fail_attempt(env, uuid, Cause::HandOver);
        }
    }

    /// Ends invocations whose deadline passed before they started.
    pub(super) fn expire(&mut self, env: &mut Env) {
        let mut actors = std::collections::BTreeSet::new();
        while let Some((at, uuid)) = self.reign.deadlines.first().copied()
            && at <= env.now
        {
            self.reign.deadlines.pop_first();
            if !env.rules.expire {
                continue;
            }
            let Some(item) = self.reign.items.get(&uuid) else { continue };
            if let Some(until) = self.code_may_run_until(env, item) {
                self.reign.deadlines.insert((until, uuid));
                continue;
            }
            actors.extend(item.invocation.actor.clone());
            let slot = matches!(item.stage, ItemStage::WaitSlot);
            if item.may_expire() && (slot || matches!(item.stage, ItemStage::Queued)) {
                env.cover(if slot { Transition::WaitSlotEnd } else { Transition::QueuedEnd });
                self.end_unstarted(env, uuid, Outcome::Expired);
            }
        }
        // Once for all of them: a queue may be long.
        for name in actors {
            if let Some(actor) = self.reign.actors.get_mut(&name) {
                let items = &self.reign.items;
                actor.lock.forget(|uuid| items.contains_key(uuid));
            }
            self.pump_actor(env, &name);
        }
    }

    /// Until when code of an attempt that is over may run on (P3), if it may: no outcome is told before.
    pub(super) fn code_may_run_until(&self, env: &Env, item: &Item) -> Option<Millis> {
        let until = self.reign.dispatch_after.max(env.host_grace_until);
        // What an earlier reign was sent may have run ahead of its log.
        let may_have_run = item.started || item.resent;
        (may_have_run && env.now < until && env.rules.hold_ends).then_some(until)
    }

    /// The grace is over: ends what somebody cancelled meanwhile, wherever it is queued.
    pub(crate) fn end_cancelled(&mut self, env: &mut Env) {
        if !self.serving() || self.reign.released {
            return;
        }
        let waits = |stage: &ItemStage| matches!(stage, ItemStage::Queued | ItemStage::WaitSlot);
        let ended = self.reign.items.iter().filter(|(_, item)| item.cancel && waits(&item.stage));
        for uuid in ended.map(|(uuid, _)| *uuid).collect::<Vec<_>>() {
            let item = self.reign.items.get(&uuid).filter(|item| waits(&item.stage));
            let may_run = item.is_none_or(|item| self.code_may_run_until(env, item).is_some());
            if !may_run && !self.has_open_children(uuid) && env.rules.heed_cancel {
                env.cover(Transition::CancelHeld);
                self.leave_queues(env, uuid);
                self.end_unstarted(env, uuid, Outcome::Cancelled);
            }
        }
    }

    /// Retries whose back-off is over.
    pub(super) fn retry_due(&mut self, env: &mut Env) {
        while let Some((at, uuid)) = self.reign.retries.first().copied()
            && at <= env.now
        {
            self.reign.retries.pop_first();
            self.pump_item(env, uuid);
        }
    }

    /// Ends an invocation that never ran.
    pub(super) fn end_unstarted(&mut self, env: &mut Env, uuid: Uuid, outcome: Outcome) {
        self.end(env, uuid, outcome, Unflushed::default());
    }

    /// Decides the end of an invocation.
    pub(super) fn end(
        &mut self,
        env: &mut Env,
        uuid: Uuid,
        outcome: Outcome,
        mut unflushed: Unflushed,
    ) {
        let Some(item) = self.reign.items.get(&uuid) else { return };
        self.reign.idle.remove(&uuid);
        if let Some(deadline) = item.invocation.deadline {
            self.reign.deadlines.remove(&(deadline, uuid));
        }
        let home = item.invocation.home.clone();
        if item.invocation.event.is_some() {
            self.bury(env, uuid, &outcome, &mut unflushed);
        }
        let leaves_nothing = self.end_deactivation(env, uuid, &unflushed);
        match home {
            _ if leaves_nothing => {}
            Some(home) => self.send_home(env, uuid, (home, outcome.clone()), unflushed),
            None => self.complete(env, uuid, End::Outcome(outcome.clone()), unflushed),
        }
        let Some(item) = self.remove_item(env, uuid) else { return };
        self.tell_outcome(env, &item, outcome);
        self.free_actor(env, uuid, item.invocation.actor.as_ref(), false);
        self.try_release(env);
    }

    /// Logs the end of a turn, or of an invocation that never ran.
    pub(super) fn complete(&mut self, env: &mut Env, uuid: Uuid, end: End, unflushed: Unflushed) {
        let Some(item) = self.reign.items.get(&uuid) else { return };
        let (attempt, actor) = (item.attempt, item.invocation.actor.clone());
        let channel = item.origin.channel().filter(|_| !item.logged);
        let accept = channel.map(|(sender, number)| AcceptInBrief {
            sender: sender.clone(),
            number,
            actor: item.invocation.actor.clone(),
        });
        if let Some(AcceptInBrief { sender, number, .. }) = &accept {
            let first = self.reign.held.get(sender).and_then(|held| held.front());
            if first.is_some_and(|(n, _)| n < number) {
                env.cover(Transition::HeldBelow);
            }
            if env.rules.log_lower {
                self.log_held(env, sender, number - 1);
            }
            if let Some(held) = self.reign.held.get_mut(sender) {
                match env.rules.log_lower {
                    true => drop(held.pop_front()),
                    false => held.retain(|(n, _)| n != number),
                }
                if held.is_empty() {
                    self.reign.held.remove(sender);
                }
            }
        }
        let children = self.state.entries.get(&uuid).map(|e| e.children.clone());
        let (segment, gates) = self.segment(env, actor.as_ref(), unflushed);
        let published = Self::last_published(&segment);
        let time = env.now;
        self.push(env, Op::Complete { uuid, attempt, accept, end, segment, time });
        self.gate_sends(env, gates);
        self.gate_published(env, published);
        self.gate_closed(env, children.into_iter().flatten());
    }

    /// A turn on an actor has ended: the next one may start, ahead of the log (rule L6).
    pub(super) fn free_actor(
        &mut self,
        env: &mut Env,
        uuid: Uuid,
        name: Option<&Arc<str>>,
        keeps_lock: bool,
    ) {
        let Some(name) = name else { return };
        let decided = self.gate_seq();
        let Some(actor) = self.reign.actors.get_mut(name) else { return };
        if !keeps_lock {
            actor.lock.leave(uuid);
        }
        actor.ahead += 1;
        actor.decided = decided;
        self.gate(env, Gated::Caught { actor: name.clone() });
        self.pump_actor(env, name);
    }

    /// Tells whoever waits, once the end is committed.
    pub(super) fn tell_outcome(&mut self, env: &mut Env, item: &Item, outcome: Outcome) {
        if item.invocation.mode == Mode::Tell
            && item.origin != Origin::Idle
            && !matches!(outcome, Outcome::Done(_) | Outcome::Cancelled)
        {
            let uuid = item.invocation.uuid;
            let invocation = InvocationId { home: self.id.clone(), uuid };
            self.gate_notice(env, Notice::DeadLetter { invocation, outcome: outcome.clone() });
        }
        self.tell_life(env, item, &outcome);
        self.report_withheld(env, item);
        for (to, request) in &item.awaiters {
            let result = AwaitResult::Done(outcome.clone());
            let message = Message::Awaited { request: *request, result };
            self.gate(env, Gated::Send { to: *to, message });
        }
        if let (true, Some((to, _))) = (item.invocation.is_awaited(), item.reply_to)
            && let Origin::Channel { sender, number } = item.origin.clone()
        {
            let message = Message::Reply { sender, from: self.id.clone(), number, outcome };
            self.gate(env, Gated::Send { to, message });
        }
    }

    /// A tell that was taken while there was no room for it is reported as accepted.
    pub(super) fn report_withheld(&mut self, env: &mut Env, item: &Item) {
        if !self.reign.withheld.is_empty()
            && let Origin::Channel { sender, number } = item.origin.clone()
            && self.reign.withheld.remove(&(sender.clone(), number)).is_some()
            && let Some((to, _)) = item.reply_to
        {
            env.cover(Transition::WithheldTold);
            self.gate(env, Gated::Accepted { to, sender, number });
        }
    }
}
