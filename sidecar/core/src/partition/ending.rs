//! How turns and invocations end (rules T1–T3, C5).

use super::Partition;
use super::gate::Gated;
use super::reign::{Item, ItemStage};
use crate::effect::{Effect, Notice};
use crate::env::Env;
use crate::event::TurnResult;
use crate::ids::{InvocationId, Millis, SessionId, TurnToken, Uuid};
use crate::invocation::{Mode, Obligation, Outcome, StateOp};
use crate::message::{AwaitResult, Message};
use crate::record::{AcceptInBrief, Op};

impl Partition {
    /// The turn ended in user code.
    pub(crate) fn turn_result(&mut self, env: &mut Env, token: &TurnToken, result: TurnResult) {
        let uuid = token.invocation.uuid;
        let current = self.reign.epoch == token.epoch;
        let Some(item) = self.reign.items.get_mut(&uuid) else { return };
        if (item.attempt != token.attempt || !current) && env.rules.turn_token {
            return;
        }
        let Some(turn) = item.turn() else { return };
        match result {
            _ if turn.result.is_some() => {}
            TurnResult::Ended(outcome) if !turn.cancelled => {
                turn.result = Some(outcome);
                self.maybe_end(env, uuid);
            }
            TurnResult::Ended(_) | TurnResult::Cancelled => self.fail_attempt(env, uuid),
        }
    }

    /// The turn ended in user code, and its result waits outside behind operations of it.
    pub(crate) fn turn_returned(&mut self, token: &TurnToken) {
        if let Some(item) = self.reign.items.get_mut(&token.invocation.uuid)
            && item.attempt == token.attempt
            && self.reign.epoch == token.epoch
            && let Some(turn) = item.turn()
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
        if !turn.calls.is_empty() && env.rules.child_wait {
            return;
        }
        let stage = std::mem::replace(&mut item.stage, ItemStage::Queued);
        let ItemStage::Running(mut turn) = stage else { return };
        let Some(outcome) = turn.result.take() else { return };
        self.reign.buffered.remove_all(turn.sends.iter().map(Obligation::size));
        if turn.slot {
            env.free_slot();
        }
        if matches!(outcome, Outcome::Done(_)) {
            self.end(env, uuid, outcome, turn.state, turn.sends);
        } else {
            self.end(env, uuid, outcome, Vec::new(), Vec::new());
        }
    }

    /// The attempt is lost with its unflushed segment; the invocation is tried again.
    fn fail_attempt(&mut self, env: &mut Env, uuid: Uuid) {
        let epoch = self.reign.epoch;
        let Some(item) = self.reign.items.get_mut(&uuid) else { return };
        let attempt = item.attempt;
        let stage = std::mem::replace(&mut item.stage, ItemStage::Queued);
        let ItemStage::Running(turn) = stage else { return };
        self.reign.buffered.remove_all(turn.sends.iter().map(Obligation::size));
        if let Some(pause) = retry_pause(attempt) {
            item.retry_at = env.now + pause;
            self.reign.retries.insert((item.retry_at, uuid));
        }
        if item.invocation.actor.is_none() {
            self.reign.idle.insert(uuid);
        }
        if turn.slot {
            env.free_slot();
        }
        let token = self.token(uuid, attempt, epoch);
        for request in turn.calls.into_values() {
            self.superseded(env, request, &token);
        }
        self.try_release(env);
        self.pump_item(env, uuid);
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
            self.fail_attempt(env, uuid);
        }
        for item in self.reign.items.values_mut() {
            if matches!(item.stage, ItemStage::WaitSlot) {
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
            let attempt = item.attempt;
            let Some(turn) = item.turn() else { continue };
            // A turn that has returned, or whose host is gone, has nobody to acknowledge.
            if turn.result.take().is_some() || turn.returned || Some(turn.session) != host {
                over.push(*uuid);
            }
            turn.cancelled = true;
            let session = turn.session;
            let invocation = InvocationId { home: self.id.clone(), uuid: *uuid };
            let token = TurnToken { invocation, attempt, epoch };
            env.emit(Effect::Cancel { session, token });
        }
        for uuid in over {
            self.fail_attempt(env, uuid);
        }
    }

    /// Ends invocations whose deadline passed before they started.
    pub(super) fn expire(&mut self, env: &mut Env) {
        let mut actors = std::collections::BTreeSet::new();
        while let Some((at, uuid)) = self.reign.deadlines.first().copied()
            && at <= env.now
        {
            self.reign.deadlines.pop_first();
            let actor = self.reign.items.get(&uuid).and_then(|i| i.invocation.actor.clone());
            actors.extend(actor);
            let waits =
                |i: &Item| !i.started && matches!(i.stage, ItemStage::Queued | ItemStage::WaitSlot);
            if self.reign.items.get(&uuid).is_some_and(waits) {
                self.end_unstarted(env, uuid, Outcome::Expired);
            }
        }
        // Once for all of them: a queue may be long.
        for name in actors {
            if let Some(actor) = self.reign.actors.get_mut(&name) {
                let items = &self.reign.items;
                actor.queue.retain(|uuid| items.contains_key(uuid));
                actor.inner.retain(|uuid| items.contains_key(uuid));
            }
            self.pump_actor(env, &name);
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
        self.end(env, uuid, outcome, Vec::new(), Vec::new());
    }

    /// Decides the end of an invocation.
    fn end(
        &mut self,
        env: &mut Env,
        uuid: Uuid,
        outcome: Outcome,
        state: Vec<StateOp>,
        sends: Vec<Obligation>,
    ) {
        let Some(item) = self.remove_item(env, uuid) else { return };
        self.reign.idle.remove(&uuid);
        if let Some(deadline) = item.invocation.deadline {
            self.reign.deadlines.remove(&(deadline, uuid));
        }
        let accept = (!item.logged).then(|| {
            self.log_held(env, &item.sender, item.number - 1);
            if let Some(held) = self.reign.held.get_mut(&item.sender) {
                held.pop_front();
                if held.is_empty() {
                    self.reign.held.remove(&item.sender);
                }
            }
            AcceptInBrief {
                sender: item.sender.clone(),
                number: item.number,
                actor: item.invocation.actor.clone(),
            }
        });
        let children = self.state.entries.get(&uuid).map(|e| e.children.clone());
        let sends = self.number(sends);
        let gates: Vec<_> = sends.iter().map(|s| (s.obligation.to.clone(), s.number)).collect();
        self.push(
            env,
            Op::Complete {
                uuid,
                attempt: item.attempt,
                accept,
                outcome: outcome.clone(),
                state,
                sends,
                time: env.now,
            },
        );
        self.gate_sends(env, gates);
        self.gate_closed(env, children.into_iter().flatten());
        self.tell_outcome(env, &item, outcome);
        if let Some(name) = &item.invocation.actor
            && let Some(actor) = self.reign.actors.get_mut(name)
        {
            actor.stack.retain(|u| *u != uuid);
            actor.ahead += 1;
            self.gate(env, Gated::Caught { actor: name.clone() });
            self.pump_actor(env, name);
        }
        self.try_release(env);
    }

    /// Tells whoever waits, once the end is committed.
    fn tell_outcome(&mut self, env: &mut Env, item: &Item, outcome: Outcome) {
        if item.invocation.mode == Mode::Tell && !matches!(outcome, Outcome::Done(_)) {
            let uuid = item.invocation.uuid;
            let invocation = InvocationId { home: self.id.clone(), uuid };
            env.notice(Notice::DeadLetter { invocation, outcome: outcome.clone() });
        }
        if !self.reign.withheld.is_empty()
            && self.reign.withheld.remove(&(item.sender.clone(), item.number)).is_some()
            && let Some((to, _)) = item.reply_to
        {
            let (sender, number) = (item.sender.clone(), item.number);
            self.gate(env, Gated::Accepted { to, sender, number });
        }
        for (to, request) in &item.awaiters {
            let result = AwaitResult::Done(outcome.clone());
            let message = Message::Awaited { request: *request, result };
            self.gate(env, Gated::Send { to: *to, message });
        }
        if let (Mode::Call, Some((to, _))) = (item.invocation.mode, item.reply_to) {
            let (sender, number) = (item.sender.clone(), item.number);
            let message = Message::Reply { sender, from: self.id.clone(), number, outcome };
            self.gate(env, Gated::Send { to, message });
        }
    }
}

/// How long the next attempt waits after this one failed, ms: what keeps failing, or keeps killing its host, gives
/// others time. 10 ms after the third attempt, doubling up to 10 s.
pub(super) fn retry_pause(attempt: u32) -> Option<Millis> {
    (attempt >= 3).then(|| (10 << (attempt - 3).min(10)).min(10_000))
}
