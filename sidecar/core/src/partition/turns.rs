//! Queues, locks, dispatch, and what turns ask for (rules T1–T3, P4, P5).

use std::sync::Arc;

use super::Partition;
use super::gate::Gated;
use super::reign::{Item, ItemStage, Turn};
use crate::cover::Transition;
use crate::effect::{Effect, Notice, RequestError, Response};
use crate::env::Env;
use crate::event::TurnResult;
use crate::ids::{
    Epoch, InvocationId, Millis, Number, PartitionId, RequestId, SessionId, TurnToken, Uuid,
};
use crate::invocation::{Invocation, Mode, Obligation, Outcome, StateOp};
use crate::message::{AwaitResult, Message};
use crate::node::{Held, InvocationView, PartitionView, Phase};
use crate::record::{AcceptInBrief, Op};

/// A call or tell that a turn makes.
#[derive(Clone, Debug)]
pub(crate) struct TurnInvoke {
    pub(crate) to: PartitionId,
    pub(crate) uuid: Uuid,
    pub(crate) mode: Mode,
    pub(crate) actor: Option<Arc<str>>,
    pub(crate) method: Arc<str>,
    pub(crate) payload: crate::invocation::Payload,
    pub(crate) deadline: Option<crate::ids::Millis>,
    pub(crate) trace: Arc<str>,
}

// Queues and locks.
impl Partition {
    /// Puts an invocation in its actor's queue; calls of the flow that holds the actor pass it (P7).
    pub(super) fn enqueue(&mut self, env: &Env, uuid: Uuid) {
        let Some(item) = self.reign.items.get(&uuid) else { return };
        let Some(actor) = &item.invocation.actor else {
            self.reign.idle.insert(uuid);
            return;
        };
        let chain = item.invocation.chain.clone();
        let actor = self.reign.actors.entry(actor.clone()).or_default();
        if actor.stack.first().is_some_and(|bottom| chain.contains(bottom)) {
            env.cover(Transition::EnterInner);
            actor.inner.push_back(uuid);
        } else {
            env.cover(Transition::EnterQueue);
            actor.queue.push_back(uuid);
        }
    }

    /// Starts what can start: after a change that concerns everybody.
    pub(crate) fn pump_all(&mut self, env: &mut Env) {
        if !self.serving() {
            return;
        }
        let actors: Vec<_> = self.reign.actors.keys().cloned().collect();
        for actor in actors {
            self.pump_actor(env, &actor);
        }
        for uuid in self.reign.idle.clone() {
            self.try_start(env, uuid);
        }
        self.try_release(env);
    }

    /// Starts an invocation if it can start.
    pub(crate) fn pump_item(&mut self, env: &mut Env, uuid: Uuid) {
        let Some(item) = self.reign.items.get_mut(&uuid) else { return };
        match item.invocation.actor.clone() {
            Some(actor) => self.pump_actor(env, &actor),
            None => self.try_start(env, uuid),
        }
    }

    /// Whether a turn that runs is not its actor's topmost one: only that runs (section 6, item 6), so what a parallel
    /// branch of it asks for waits until the turns that were let in have ended.
    pub(crate) fn is_covered(&self, token: &TurnToken) -> bool {
        let uuid = token.invocation.uuid;
        let Some(item) = self.reign.items.get(&uuid) else { return false };
        let Some(name) = &item.invocation.actor else { return false };
        let current = item.attempt == token.attempt && self.reign.epoch == token.epoch;
        let top = self.reign.actors.get(name).and_then(|actor| actor.stack.last());
        current && item.running().is_some_and(|turn| !turn.cancelled) && top != Some(&uuid)
    }

    /// A slot became free for an invocation.
    pub(crate) fn slot_granted(&mut self, env: &mut Env, uuid: Uuid) {
        if let Some(item) = self.reign.items.get_mut(&uuid)
            && matches!(item.stage, ItemStage::WaitSlot)
        {
            env.cover(Transition::WaitSlotQueued);
            item.stage = ItemStage::Queued;
            self.pump_item(env, uuid);
        }
    }

    /// Lets in whoever may hold the actor now (P4), and starts the topmost turn.
    pub(super) fn pump_actor(&mut self, env: &mut Env, name: &Arc<str>) {
        if std::mem::replace(&mut self.reign.pumping, true) {
            return;
        }
        self.pump_stack(env, name);
        self.reign.pumping = false;
    }

    fn pump_stack(&mut self, env: &mut Env, name: &Arc<str>) {
        // Every round starts, ends or lets in one invocation, and each is let in and started once at most.
        let mut rounds = 4 * self.reign.items.len() + 16;
        while let Some(actor) = self.reign.actors.get_mut(name) {
            if rounds == 0 {
                let what = "an actor's queue does not come to rest";
                return env.notice(Notice::BrokenInvariant { what });
            }
            rounds -= 1;
            let Some(top) = actor.stack.last().copied() else {
                if !self.let_in_next(env, name) {
                    return;
                }
                continue;
            };
            let Some(item) = self.reign.items.get(&top) else { return };
            let unstarted = item.is_root() && !item.started && self.no_roots(env);
            if matches!(item.stage, ItemStage::Queued)
                || (unstarted && matches!(item.stage, ItemStage::WaitSlot))
            {
                if unstarted {
                    // It was let in and has not started: nested calls must not wait behind it.
                    env.cover(Transition::HandOverRootBack);
                    self.set_stage(top, ItemStage::Queued);
                    let Some(actor) = self.reign.actors.get_mut(name) else { return };
                    actor.stack.pop();
                    actor.queue.push_front(top);
                    if !self.let_in_next(env, name) {
                        return;
                    }
                    continue;
                }
                self.try_start(env, top);
                let same = self.reign.actors.get(name).and_then(|a| a.stack.last()) == Some(&top);
                let waits = self.reign.items.get(&top).is_some_and(|i| !i.suspended());
                if same && waits {
                    return;
                }
                continue;
            }
            if !item.suspended() || !self.let_in_inner(name, top) {
                return;
            }
            env.cover(Transition::LetInInner);
        }
    }

    /// Whether no root may start: the partition, the host or the node is leaving.
    fn no_roots(&self, env: &Env) -> bool {
        self.reign.leaving.is_some() || env.host.as_ref().is_some_and(|host| host.leaving)
    }

    /// Whether nested calls are left to the next owner, too. They start in a hand-over only while some turn here waits
    /// for calls: nothing else that runs here can be waiting for them, through whatever chain, and steady nested load
    /// would keep the partition busy up to the bound. Where nobody follows they are served to the end.
    fn leaves_nested(&self, env: &Env) -> bool {
        self.reign.leaving.is_some()
            && env.desired_owner(&self.id).is_some_and(|node| node != env.id)
            && !self.any_suspended()
    }

    /// Whether some turn here waits for calls.
    fn any_suspended(&self) -> bool {
        self.reign.items.values().any(Item::suspended)
    }

    /// Lets a descendant of the suspended turn in (section 18, decision 6).
    fn let_in_inner(&mut self, name: &Arc<str>, top: Uuid) -> bool {
        let Some(actor) = self.reign.actors.get_mut(name) else { return false };
        let items = &self.reign.items;
        let descends =
            |uuid: &Uuid| items.get(uuid).is_some_and(|i| i.invocation.chain.contains(&top));
        let Some(at) = actor.inner.iter().position(descends) else { return false };
        let Some(uuid) = actor.inner.remove(at) else { return false };
        actor.stack.push(uuid);
        true
    }

    /// The actor is free: lets the next one in; an actor without work is forgotten.
    fn let_in_next(&mut self, env: &mut Env, name: &Arc<str>) -> bool {
        let nested_only = self.no_roots(env);
        let Some(actor) = self.reign.actors.get_mut(name) else { return false };
        let bound = if env.may_speculate() { env.limits.speculation_per_actor_max } else { 1 };
        if actor.ahead >= bound {
            env.cover(Transition::AheadMax);
            return false;
        }
        // Those that waited to be let in to a flow that has ended come first.
        while let Some(uuid) = actor.inner.pop_back() {
            env.cover(Transition::InnerLeft);
            actor.queue.push_front(uuid);
        }
        let next = if nested_only {
            // No new roots, but calls of flows that hold locks elsewhere, unless they would overtake what the same
            // sender sent before (P7): those wait for the next owner.
            let items = &self.reign.items;
            let mut before = std::collections::BTreeSet::new();
            let at = actor.queue.iter().position(|uuid| {
                items.get(uuid).is_some_and(|i| {
                    !i.is_root() && !before.contains(&i.sender) || {
                        before.insert(&i.sender);
                        false
                    }
                })
            });
            at.and_then(|at| actor.queue.remove(at))
        } else {
            // Those that expired meanwhile are skipped.
            let items = &self.reign.items;
            std::iter::from_fn(|| actor.queue.pop_front()).find(|uuid| items.contains_key(uuid))
        };
        if let Some(uuid) = next {
            if nested_only {
                env.cover(Transition::HandOverNested);
            }
            actor.stack.push(uuid);
            let bottom = uuid;
            let items = &self.reign.items;
            let descends =
                |uuid: &Uuid| items.get(uuid).is_some_and(|i| i.invocation.chain.contains(&bottom));
            // Only what has flushed can have descendants.
            let progressed = self.state.entries.get(&uuid).is_some_and(|e| e.progressed);
            if progressed && actor.queue.iter().any(descends) {
                env.cover(Transition::QueueToInner);
                let (inner, queue) = actor.queue.drain(..).partition(descends);
                actor.inner = inner;
                actor.queue = queue;
            }
            return true;
        }
        if actor.queue.is_empty() && actor.ahead == 0 {
            self.reign.actors.remove(name);
            if self.reign.cache.len() > env.limits.cached_actors_max {
                self.reign.cache.remove(name);
            }
        }
        false
    }

    /// Dispatches an invocation that holds its actor, if nothing else holds it back.
    fn try_start(&mut self, env: &mut Env, uuid: Uuid) {
        let Some(item) = self.reign.items.get(&uuid) else { return };
        if !matches!(item.stage, ItemStage::Queued) {
            return;
        }
        if self.reign.released {
            return;
        }
        let root = item.is_root();
        if !item.started && item.invocation.deadline.is_some_and(|at| at <= env.now) {
            env.cover(Transition::QueuedEnd);
            return self.end_unstarted(env, uuid, Outcome::Expired);
        }
        // Waits for children first of all: while it does, calls of its flow get in (rule T2).
        if env.rules.child_wait && self.has_open_children(uuid) {
            env.cover(Transition::QueuedWaitChildren);
            return self.set_stage(uuid, ItemStage::WaitChildren);
        }
        let Some(item) = self.reign.items.get(&uuid) else { return };
        // Without a lease another node may reign already, and its grace be over (rule L6).
        let wait = self.reign.barriers > 0
            || !env.lease_valid
            || env.now < self.reign.dispatch_after
            || item.retry_at > env.now
            || (root && self.no_roots(env))
            || (!root && self.leaves_nested(env))
            || self.reign.leaving_cancelled;
        let Some(session) = env.session_for(&self.id.kind) else { return };
        if wait {
            if !root && self.leaves_nested(env) {
                env.cover(Transition::HandOverLeft);
            }
            return;
        }
        let Some(item) = self.reign.items.get(&uuid) else { return };
        if item.started && !item.cleared {
            if self.log_attempt(env, uuid) {
                return;
            }
        } else if !item.started
            && !item.cleared
            && !env.may_speculate()
            && self.must_commit(env, uuid)
        {
            return;
        }
        if root && !env.take_slot(&self.id, uuid) {
            env.cover(Transition::QueuedWaitSlot);
            return self.set_stage(uuid, ItemStage::WaitSlot);
        }
        self.dispatch(env, session, uuid, root);
    }

    /// Logs a new attempt (rule T3); it starts when that is committed.
    fn log_attempt(&mut self, env: &mut Env, uuid: Uuid) -> bool {
        let Some(item) = self.reign.items.get_mut(&uuid) else { return true };
        let (sender, number) = (item.sender.clone(), item.number);
        item.attempt += 1;
        let attempt = item.attempt;
        let logged = item.logged;
        if !logged {
            env.cover(Transition::AttemptFresh);
            self.log_held(env, &sender, number);
        }
        self.push(env, Op::Attempt { uuid, attempt });
        let invocation = InvocationId { home: self.id.clone(), uuid };
        env.notice(Notice::Retried { invocation, attempt });
        if !env.rules.settled_proposals {
            return false;
        }
        env.cover(Transition::QueuedWaitAttempt);
        self.set_stage(uuid, ItemStage::WaitCommit);
        self.gate(env, Gated::Start { uuid });
        true
    }

    /// Without speculation a root starts when its acceptance is committed, a nested call when what its actor did before
    /// is. True: it has to wait.
    fn must_commit(&mut self, env: &mut Env, uuid: Uuid) -> bool {
        let Some(item) = self.reign.items.get(&uuid) else { return true };
        let (sender, number) = (item.sender.clone(), item.number);
        if !item.logged && matches!(sender, crate::ids::Sender::Node(_)) {
            self.log_held(env, &sender, number);
        }
        if !self.reign.in_flight() {
            return false;
        }
        env.cover(Transition::QueuedWaitStrict);
        self.set_stage(uuid, ItemStage::WaitCommit);
        self.gate(env, Gated::Start { uuid });
        true
    }

    pub(super) fn set_stage(&mut self, uuid: Uuid, stage: ItemStage) {
        if let Some(item) = self.reign.items.get_mut(&uuid) {
            item.stage = stage;
        }
    }

    fn dispatch(&mut self, env: &mut Env, session: SessionId, uuid: Uuid, slot: bool) {
        let epoch = self.reign.epoch;
        let Some(item) = self.reign.items.get_mut(&uuid) else { return };
        env.cover(Transition::QueuedRunning);
        item.started = true;
        item.cleared = false;
        item.stage = ItemStage::Running(Box::new(Turn::new(session, slot)));
        let invocation = item.invocation.clone();
        let token = TurnToken {
            invocation: InvocationId { home: self.id.clone(), uuid },
            attempt: item.attempt,
            epoch,
        };
        self.reign.idle.remove(&uuid);
        if let Some(deadline) = invocation.deadline {
            self.reign.deadlines.remove(&(deadline, uuid));
        }
        let turn = crate::effect::Turn {
            token,
            kind: self.id.kind.clone(),
            actor: invocation.actor.clone(),
            method: invocation.method.clone(),
            payload: invocation.payload.clone(),
            mode: invocation.mode,
            deadline: invocation.deadline,
            trace: invocation.trace.clone(),
            slot,
        };
        env.emit(Effect::Dispatch { session, turn });
    }

    pub(super) fn token(&self, uuid: Uuid, attempt: u32, epoch: Epoch) -> TurnToken {
        let invocation = InvocationId { home: self.id.clone(), uuid };
        TurnToken { invocation, attempt, epoch }
    }
}

// What turns ask for.
impl Partition {
    /// Whether a token names a turn that runs now.
    pub(crate) fn check_turn(&self, env: &Env, token: &TurnToken) -> Result<Uuid, RequestError> {
        let superseded = || RequestError::TurnSuperseded(Box::new(token.clone()));
        let uuid = token.invocation.uuid;
        let item = self.reign.items.get(&uuid).ok_or_else(superseded)?;
        let current = item.attempt == token.attempt && self.reign.epoch == token.epoch;
        if !current && env.rules.turn_token {
            return Err(superseded());
        }
        match item.running() {
            Some(turn) if turn.cancelled => Err(superseded()),
            Some(turn) if turn.result.is_some() => {
                Err(RequestError::TurnEnded(Box::new(token.clone())))
            }
            Some(_) => Ok(uuid),
            None => Err(superseded()),
        }
    }

    /// A nested call or a tell.
    pub(crate) fn turn_invoke(
        &mut self,
        env: &mut Env,
        request: RequestId,
        token: &TurnToken,
        invoke: TurnInvoke,
    ) {
        let uuid = match self.check_turn(env, token) {
            Ok(uuid) => uuid,
            Err(error) => return env.respond(request, Err(error)),
        };
        let owed = self.state.owed.plus(self.reign.buffered);
        let Some(item) = self.reign.items.get_mut(&uuid) else { return };
        let caller = item.invocation.clone();
        let Some(turn) = item.turn() else { return };
        let mut chain = Vec::new();
        if invoke.mode == Mode::Call {
            chain.extend(caller.chain.iter().copied());
            chain.push(uuid);
        }
        if chain.len() >= env.limits.depth_max {
            let hit = env.limit("depth_max", env.limits.depth_max);
            return env.respond(request, Err(RequestError::Limit(hit)));
        }
        let child = InvocationId { home: invoke.to.clone(), uuid: invoke.uuid };
        let call = invoke.mode == Mode::Call;
        let obligation = Obligation {
            to: invoke.to,
            invocation: Arc::new(Invocation {
                uuid: invoke.uuid,
                mode: invoke.mode,
                actor: invoke.actor,
                method: invoke.method,
                payload: invoke.payload,
                chain: chain.into(),
                deadline: invoke.deadline,
                trace: invoke.trace,
            }),
            parent: Some(uuid),
        };
        let bytes = obligation.size();
        if call && turn.calls.len() >= env.limits.calls_per_turn_max {
            let hit = env.limit("calls_per_turn_max", env.limits.calls_per_turn_max);
            return env.respond(request, Err(RequestError::Limit(hit)));
        }
        if turn.sends.len() >= env.limits.segment_sends_max {
            let hit = env.limit("segment_sends_max", env.limits.segment_sends_max);
            return env.respond(request, Err(RequestError::Limit(hit)));
        }
        if turn.bytes + bytes > env.limits.segment_bytes_max {
            let hit = env.limit("segment_bytes_max", env.limits.segment_bytes_max);
            return env.respond(request, Err(RequestError::Limit(hit)));
        }
        if owed.count >= env.limits.outbox_per_partition_max {
            let hit = env.limit("outbox_per_partition_max", env.limits.outbox_per_partition_max);
            return env.respond(request, Err(RequestError::Limit(hit)));
        }
        if owed.bytes + bytes > env.limits.outbox_bytes_per_partition_max {
            let limit = env.limits.outbox_bytes_per_partition_max;
            let hit = env.limit("outbox_bytes_per_partition_max", limit);
            return env.respond(request, Err(RequestError::Limit(hit)));
        }
        let to = obligation.to.clone();
        turn.sends.push(obligation);
        turn.bytes += bytes;
        self.reign.buffered.add(bytes);
        if !call {
            return env.respond(request, Ok(Response::Accepted { invocation: child }));
        }
        let Some(number) = self.progress(env, uuid) else { return };
        let Some(item) = self.reign.items.get_mut(&uuid) else { return };
        let actor = item.invocation.actor.clone();
        if let Some(turn) = item.turn() {
            turn.calls.insert((to, number), request);
            if std::mem::take(&mut turn.slot) {
                env.free_slot();
            }
        }
        if self.reign.leaving.is_some() {
            // Nested calls may start now.
            self.pump_all(env);
        } else if let Some(actor) = actor {
            self.pump_actor(env, &actor);
        }
    }

    /// Flushes the segment (P5); returns the number of the last obligation, if there is one.
    fn progress(&mut self, env: &mut Env, uuid: Uuid) -> Option<Number> {
        let item = self.reign.items.get_mut(&uuid)?;
        let (sender, number, attempt) = (item.sender.clone(), item.number, item.attempt);
        if !item.logged {
            self.log_held(env, &sender, number);
        }
        let turn = self.reign.items.get_mut(&uuid)?.turn()?;
        let state = std::mem::take(&mut turn.state);
        let sends = std::mem::take(&mut turn.sends);
        let mut settled = std::mem::take(&mut turn.received);
        // The partition may have been quicker.
        let owed = &self.state.outbound;
        settled.retain(|(to, n)| owed.get(to).is_some_and(|out| out.open.contains_key(n)));
        turn.bytes = 0;
        self.reign.buffered.remove_all(sends.iter().map(Obligation::size));
        let sends = self.number(sends);
        let gates: Vec<_> = sends.iter().map(|s| (s.obligation.to.clone(), s.number)).collect();
        let last = gates.last().map(|(_, number)| *number);
        let closed = settled.clone();
        self.push(env, Op::Progress { uuid, attempt, state, sends, settled });
        self.gate_sends(env, gates);
        self.gate_closed(env, closed);
        last
    }

    /// Buffers changes to the turn's actor (P5).
    pub(crate) fn state_apply(
        &mut self,
        env: &mut Env,
        request: RequestId,
        token: &TurnToken,
        ops: Vec<StateOp>,
    ) {
        let uuid = match self.check_turn(env, token) {
            Ok(uuid) => uuid,
            Err(error) => return env.respond(request, Err(error)),
        };
        let Some(item) = self.reign.items.get_mut(&uuid) else { return };
        if item.invocation.actor.is_none() {
            let error = RequestError::Invalid("services have no actor state");
            return env.respond(request, Err(error));
        }
        let Some(turn) = item.turn() else { return };
        let bytes: usize = ops.iter().map(StateOp::size).sum();
        if turn.bytes + bytes > env.limits.segment_bytes_max {
            let hit = env.limit("segment_bytes_max", env.limits.segment_bytes_max);
            return env.respond(request, Err(RequestError::Limit(hit)));
        }
        turn.bytes += bytes;
        turn.state.extend(ops);
        env.respond(request, Ok(Response::Ok));
    }

    /// Makes everything that the turn did durable.
    pub(crate) fn turn_flush(&mut self, env: &mut Env, request: RequestId, token: &TurnToken) {
        let uuid = match self.check_turn(env, token) {
            Ok(uuid) => uuid,
            Err(error) => return env.respond(request, Err(error)),
        };
        self.progress(env, uuid);
        self.gate_flush(env, request, token.clone());
    }

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
            env.cover(Transition::ReturnedWaits);
            return;
        }
        let stage = std::mem::replace(&mut item.stage, ItemStage::Queued);
        let ItemStage::Running(mut turn) = stage else { return };
        let Some(outcome) = turn.result.take() else { return };
        env.cover(Transition::RunningEnd);
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
        env.cover(Transition::RunningQueued);
        self.reign.buffered.remove_all(turn.sends.iter().map(Obligation::size));
        if let Some(pause) = retry_pause(attempt) {
            env.cover(Transition::RetryPaused);
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
            let attempt = item.attempt;
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
            let waits = |i: &super::reign::Item| {
                !i.started && matches!(i.stage, ItemStage::Queued | ItemStage::WaitSlot)
            };
            if self.reign.items.get(&uuid).is_some_and(waits) {
                let slot = matches!(self.reign.items[&uuid].stage, ItemStage::WaitSlot);
                env.cover(if slot { Transition::WaitSlotEnd } else { Transition::QueuedEnd });
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
    fn end_unstarted(&mut self, env: &mut Env, uuid: Uuid, outcome: Outcome) {
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
            let held = self.reign.held.get(&item.sender).and_then(|h| h.front());
            if held.is_some_and(|(number, _)| *number < item.number) {
                env.cover(Transition::HeldBelow);
            }
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
    fn tell_outcome(&mut self, env: &mut Env, item: &super::reign::Item, outcome: Outcome) {
        if item.invocation.mode == Mode::Tell && !matches!(outcome, Outcome::Done(_)) {
            let uuid = item.invocation.uuid;
            let invocation = InvocationId { home: self.id.clone(), uuid };
            env.notice(Notice::DeadLetter { invocation, outcome: outcome.clone() });
        }
        if !self.reign.withheld.is_empty()
            && self.reign.withheld.remove(&(item.sender.clone(), item.number)).is_some()
            && let Some((to, _)) = item.reply_to
        {
            env.cover(Transition::WithheldTold);
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

    /// How much it holds.
    pub(crate) fn held(&self) -> Held {
        let outbox = self.state.owed.plus(self.reign.buffered);
        let (kept, results) = (self.state.kept.tally(), self.state.results.tally());
        Held {
            unfinished: self.reign.items.len(),
            unfinished_bytes: self.reign.items_bytes,
            outbox: outbox.count,
            outbox_bytes: outbox.bytes,
            kept: kept.count,
            kept_bytes: kept.bytes,
            results: results.count,
            results_bytes: results.bytes,
            ..Held::default()
        }
    }

    /// What people and tools may see.
    pub(crate) fn view(&self) -> PartitionView {
        let invocations = self.reign.items.iter().map(|(uuid, item)| InvocationView {
            uuid: *uuid,
            actor: item.invocation.actor.clone(),
            method: item.invocation.method.clone(),
            mode: item.invocation.mode,
            phase: match &item.stage {
                ItemStage::Running(turn) if turn.calls.is_empty() => Phase::Running,
                ItemStage::Running(_) => Phase::Suspended,
                _ if item.started => Phase::Retrying,
                _ => Phase::Queued,
            },
            attempt: item.attempt,
        });
        let actors = self.reign.actors.iter().map(|(name, actor)| {
            (name.clone(), actor.queue.len() + actor.inner.len(), !actor.stack.is_empty())
        });
        PartitionView {
            id: self.id.clone(),
            epoch: self.state.epoch,
            invocations: invocations.collect(),
            actors: actors.collect(),
            owed: self.state.outbound.values().map(|out| out.open.len()).sum(),
            kept: self.state.kept.tally().count,
            closed_channels: self.state.closed_nodes.len(),
        }
    }
}

/// How long the next attempt waits after this one failed, ms: what keeps failing, or keeps killing its host, gives
/// others time. 10 ms after the third attempt, doubling up to 10 s.
pub(super) fn retry_pause(attempt: u32) -> Option<Millis> {
    (attempt >= 3).then(|| (10 << (attempt - 3).min(10)).min(10_000))
}

impl Turn {
    fn new(session: SessionId, slot: bool) -> Self {
        Self {
            session,
            state: Vec::new(),
            sends: Vec::new(),
            bytes: 0,
            calls: Default::default(),
            received: Vec::new(),
            returned: false,
            result: None,
            slot,
            cancelled: false,
        }
    }
}
