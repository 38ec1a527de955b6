//! What the own component does and asks for: hosting, requests, turns, direct calls.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::assign;
use crate::cover::Transition;
use crate::effect::{Effect, RequestError};
use crate::env::{DirectTurn, Env, Host, SlotQueue};
use crate::event::{Offer, Operation, TurnResult};
use crate::ids::{Kind, NodeId, PartitionId, RequestId, SessionId, TurnToken};
use crate::invocation::{ApplicationError, Invocation, Mode, Obligation, Outcome, Owed, Work};
use crate::message::{DirectResult, Message};
use crate::partition::{Partition, TurnEnd, TurnInvoke};

use super::{DIRECT_WAIT_MS, DirectCall, Node};

impl Node {
    pub(super) fn host_up(&mut self, session: SessionId, offer: Offer) {
        for kind in &offer.kinds {
            if !self.env.members.kinds.contains_key(kind) {
                self.env.emit(Effect::EnsureKind { kind: kind.clone() });
            }
        }
        self.host_gone_at = None;
        self.last_session = Some(session);
        let kinds = offer.kinds.clone();
        self.env.host = Some(Host {
            session,
            offer,
            leaving: false,
            slots_used: 0,
            waiting: SlotQueue::default(),
            direct: BTreeMap::new(),
            direct_bytes: 0,
        });
        if !self.env.leaving {
            self.offer(kinds);
        }
        self.each(|p, env| p.pump_all(env));
    }

    pub(super) fn host_down(&mut self, session: SessionId, dead: bool) {
        if self.env.host.as_ref().is_none_or(|h| h.session != session) {
            if dead && self.last_session == Some(session) {
                // Known only now: nothing of it can still run.
                self.env.cover(Transition::HostDeadLater);
                self.env.host_grace_until = 0;
                if self.host_gone_at.take().is_some() {
                    self.offer(Vec::new());
                }
                self.each(|p, env| {
                    p.end_cancelled(env);
                    p.pump_all(env);
                });
            }
            return;
        }
        let Some(host) = self.env.host.take() else { return };
        // Nobody is left to be told that a host's own leaving is complete.
        self.drain_asked &= self.env.leaving;
        for DirectTurn { from, request, .. } in host.direct.into_values() {
            let result = DirectResult::Lost;
            self.env.send(from, Message::DirectReply { request, result });
        }
        self.env.granted.clear();
        if !dead && self.env.rules.host_grace {
            self.env.cover(Transition::HostGrace);
            self.env.host_grace_until = self.env.now + self.env.limits.grace_ms;
        }
        self.each(|p, env| p.session_lost(env, session));
        if dead || host.leaving {
            self.offer(Vec::new());
        } else {
            self.host_gone_at = Some(self.env.now + self.env.limits.host_return_ms);
        }
    }

    pub(super) fn host_leaving(&mut self, session: SessionId) {
        let Some(host) = self.env.host.as_mut() else { return };
        if host.session != session {
            return;
        }
        host.leaving = true;
        self.drain_asked = true;
        self.offer(Vec::new());
        self.each(|p, env| p.review(env));
    }

    pub(super) fn request(&mut self, request: RequestId, operation: Operation) {
        if let Some(token) = turn_of(&operation)
            && (self.waiting_turns.contains_key(token) || self.is_covered(token))
        {
            return self.wait_in_turn(request, operation);
        }
        match operation {
            Operation::Invoke { .. } => self.invoke(request, operation),
            Operation::Deliver { .. } => self.deliver(request, operation),
            Operation::InvokeDirect { kind, method, payload, trace } => {
                self.invoke_direct(request, DirectCall { kind, method, payload, trace });
            }
            Operation::ViewOf { node } => self.ask_view(request, node),
            Operation::Await { invocation } => self.await_outcome(request, invocation),
            Operation::Control { home, control } => self.control(request, home, control),
            Operation::StateOf { kind, actor, select } => {
                self.read_state(request, kind, actor, select);
            }
            Operation::StateRead { turn, select } => {
                self.in_turn(request, &turn, |p, env| p.state_read(env, request, &turn, select));
            }
            Operation::StateApply { turn, ops, conditions } if self.awaits_state(&turn) => {
                self.wait_in_turn(request, Operation::StateApply { turn, ops, conditions });
            }
            Operation::StateApply { turn, ops, conditions } => {
                let changes = (ops, conditions);
                self.in_turn(request, &turn, |p, env| p.state_apply(env, request, &turn, changes));
            }
            Operation::Publish { turn, events } => {
                self.in_turn(request, &turn, |p, env| p.turn_publish(env, request, &turn, events));
            }
            Operation::Flush { turn } => {
                self.in_turn(request, &turn, |p, env| p.turn_flush(env, request, &turn));
            }
            Operation::RecordStep { turn, step } => {
                self.in_turn(request, &turn, |p, env| p.record_step(env, request, &turn, step));
            }
            Operation::Remind { .. } => self.remind(request, operation),
            Operation::Subscribe { .. } | Operation::ChangeSubscription { .. } => {
                self.subscription(request, operation);
            }
            Operation::Subscriptions { of } => self.list_subscriptions(request, of),
            Operation::RemoveActor { kind, actor } => self.remove_actor(request, kind, actor),
            Operation::Reminders { turn, kind, actor } => {
                self.reminders(request, turn, kind, actor);
            }
        }
    }

    /// Whether a turn that wants to write waits for its actor's state.
    pub(super) fn awaits_state(&mut self, token: &TurnToken) -> bool {
        let partition = self.partitions.get_mut(&token.invocation.home);
        partition.is_some_and(|p| p.awaits_state(&mut self.env, token))
    }

    /// Lets the partition that a turn belongs to act; a turn of a partition that is not served here is superseded.
    pub(super) fn in_turn(
        &mut self,
        request: RequestId,
        token: &TurnToken,
        act: impl FnOnce(&mut Partition, &mut Env),
    ) {
        let home = &token.invocation.home;
        if self.partitions.get(home).is_some_and(|p| p.serving()) {
            self.with(home, act);
        } else {
            let error = RequestError::TurnSuperseded(Box::new(token.clone()));
            self.env.respond(request, Err(error));
        }
    }

    pub(super) fn invoke(&mut self, request: RequestId, operation: Operation) {
        let Operation::Invoke { turn, mode, target, step_key, key, .. } = &operation else {
            return;
        };
        if turn.is_none() && step_key.is_some() {
            let error = RequestError::Invalid("a step key is for calls of turns");
            return self.env.respond(request, Err(error));
        }
        if turn.is_some() && matches!(&operation, Operation::Invoke { key: Some(_), .. }) {
            let error = RequestError::Invalid(
                "an idempotency key is for clients; in a turn, use a step key",
            );
            return self.env.respond(request, Err(error));
        }
        if turn.is_none() && self.env.leaving {
            return self.env.respond(request, Err(RequestError::Draining));
        }
        if turn.is_some() && *mode == Mode::Start {
            let error = RequestError::Invalid("start is for clients; in a turn, tell");
            return self.env.respond(request, Err(error));
        }
        let parked = self.parked();
        let limit = self.env.limits.roots_per_node_max;
        if parked >= limit || (self.roots.open() + parked >= limit && turn.is_none()) {
            let hit = self.env.limit("roots_per_node_max", limit);
            return self.env.respond(request, Err(RequestError::Limit(hit)));
        }
        let Some(count) = self.env.members.kinds.get(&target.kind).copied() else {
            return self.park(request, operation);
        };
        let uuid = key.as_ref().map_or_else(|| self.env.uuid(), |key| key.uuid);
        let index = assign::partition_index(target, uuid, count);
        let to = PartitionId::new(target.kind.clone(), index);
        let Operation::Invoke {
            turn,
            mode,
            target,
            method,
            payload,
            deadline,
            trace,
            step_key,
            retry,
            key,
        } = operation
        else {
            return;
        };
        let actor = target.actor;
        if let Some(turn) = turn {
            let invoke = TurnInvoke {
                to,
                uuid,
                mode,
                actor,
                method,
                payload,
                deadline,
                trace,
                step_key,
                retry,
            };
            self.in_turn(request, &turn, |p, env| p.turn_invoke(env, request, &turn, invoke));
            return;
        }
        // The outcome of a call with a key may be asked for again, so it is kept like that of a start.
        let awaits = key.is_some() && mode == Mode::Call;
        let invocation = Invocation {
            uuid,
            work: Work::Method,
            mode: if awaits { Mode::Start } else { mode },
            actor,
            method,
            payload,
            chain: [].into(),
            deadline,
            trace,
            step: 1,
            home: None,
            retry,
            key: key.map(|key| key.digest),
            event: None,
        };
        let owed = Owed::Invocation(Arc::new(invocation));
        let obligation = Obligation { to, owed, parent: None, step_key: None };
        self.roots.add(&mut self.env, request, obligation, awaits);
    }

    /// Tells a method of an event: a root like any other tell.
    fn deliver(&mut self, request: RequestId, operation: Operation) {
        let Operation::Deliver { target, .. } = &operation else { return };
        if self.env.leaving {
            return self.env.respond(request, Err(RequestError::Draining));
        }
        let limit = self.env.limits.roots_per_node_max;
        if self.roots.open() + self.parked() >= limit {
            let hit = self.env.limit("roots_per_node_max", limit);
            return self.env.respond(request, Err(RequestError::Limit(hit)));
        }
        let Some(count) = self.env.members.kinds.get(&target.kind).copied() else {
            return self.park(request, operation);
        };
        let Operation::Deliver { target, method, payload, deadline, retry, origin, key } =
            operation
        else {
            return;
        };
        let uuid = key.as_ref().map_or_else(|| self.env.uuid(), |key| key.uuid);
        let index = assign::partition_index(&target, uuid, count);
        let invocation = Invocation {
            uuid,
            work: Work::Method,
            mode: Mode::Tell,
            actor: target.actor,
            method,
            payload,
            chain: [].into(),
            deadline,
            trace: Arc::default(),
            step: 1,
            home: None,
            retry,
            key: key.map(|key| key.digest),
            event: Some(origin),
        };
        let to = PartitionId::new(target.kind, index);
        let owed = Owed::Invocation(Arc::new(invocation));
        let obligation = Obligation { to, owed, parent: None, step_key: None };
        self.roots.add(&mut self.env, request, obligation, false);
    }

    /// Requests that wait for a kind, and operations of turns that wait.
    pub(super) fn parked(&self) -> usize {
        debug_assert_eq!(
            self.parked_count,
            self.parked.values().map(VecDeque::len).sum::<usize>()
                + self.waiting_turns.values().map(|turn| turn.operations.len()).sum::<usize>()
        );
        self.parked_count
    }

    /// Keeps an invocation until its kind is known.
    pub(super) fn park(&mut self, request: RequestId, operation: Operation) {
        let kind = match &operation {
            Operation::Invoke { target, .. } | Operation::Deliver { target, .. } => {
                target.kind.clone()
            }
            Operation::Remind { kind, .. } => kind.clone(),
            Operation::Subscribe { spec } => {
                // It needs two kinds: the one after the other.
                let known = |kind: &Kind| self.env.members.kinds.contains_key(kind);
                Some(Kind::subscriptions())
                    .filter(|kind| !known(kind))
                    .unwrap_or_else(|| spec.target.kind())
            }
            Operation::ChangeSubscription { .. } => Kind::subscriptions(),
            _ => return,
        };
        if turn_of(&operation).is_some() {
            self.env.cover(Transition::TurnKindWaits);
            self.wait_in_turn(request, operation);
            return self.env.emit(Effect::EnsureKind { kind });
        }
        self.env.cover(Transition::RootKindWaits);
        let queue = self.parked.entry(kind.clone()).or_default();
        queue.push_back((request, operation));
        self.parked_count += 1;
        if queue.len() == 1 {
            self.env.emit(Effect::EnsureKind { kind });
        }
    }

    /// Whether calls that were let in run above a turn.
    pub(super) fn is_covered(&self, token: &TurnToken) -> bool {
        self.env.rules.only_top
            && self.partitions.get(&token.invocation.home).is_some_and(|p| p.is_covered(token))
    }

    /// A turn that waited below others, and need not any more.
    pub(super) fn uncovered(&mut self) -> Option<TurnToken> {
        let token = self.covered.iter().find(|token| !self.is_covered(token))?.clone();
        self.covered.remove(&token);
        self.env.cover(Transition::TurnUncovered);
        Some(token)
    }

    /// Keeps an operation of a turn until its turn comes, if the turn is still the current attempt.
    pub(super) fn wait_in_turn(&mut self, request: RequestId, operation: Operation) {
        let Some(token) = turn_of(&operation).cloned() else { return };
        let served = self.partitions.get(&token.invocation.home).filter(|p| p.serving());
        let superseded = || RequestError::TurnSuperseded(Box::new(token.clone()));
        let checked = served.ok_or_else(superseded).and_then(|p| p.check_turn(&self.env, &token));
        if let Err(error) = checked {
            return self.env.respond(request, Err(error));
        }
        if self.waiting_turns.get(&token).is_some_and(|turn| turn.result.is_some()) {
            return self.env.respond(request, Err(RequestError::TurnEnded(Box::new(token))));
        }
        let limit = self.env.limits.roots_per_node_max;
        if self.parked() >= limit {
            let hit = self.env.limit("roots_per_node_max", limit);
            return self.env.respond(request, Err(RequestError::Limit(hit)));
        }
        if self.is_covered(&token) {
            self.env.cover(Transition::TurnCovered);
            self.covered.insert(token.clone());
        } else if self.waiting_turns.contains_key(&token) {
            self.env.cover(Transition::TurnQueues);
        }
        let waiting = self.waiting_turns.entry(token).or_default();
        waiting.operations.push_back((request, operation));
        self.parked_count += 1;
    }

    /// Goes on with a turn, up to the next operation that has to wait.
    pub(super) fn resume_turn(&mut self, token: &TurnToken) {
        let Some(mut waiting) = self.waiting_turns.remove(token) else { return };
        self.parked_count -= waiting.operations.len();
        while let Some((request, operation)) = waiting.operations.pop_front() {
            // What was asked for just before may have to wait again.
            if !self.waiting_turns.contains_key(token)
                && let Operation::Invoke { target, .. } = &operation
                && !self.env.members.kinds.contains_key(&target.kind)
            {
                let kind = target.kind.clone();
                waiting.operations.push_front((request, operation));
                self.parked_count += waiting.operations.len();
                self.waiting_turns.insert(token.clone(), waiting);
                return self.env.emit(Effect::EnsureKind { kind });
            }
            self.request(request, operation);
        }
        if let Some(result) = waiting.result {
            self.turn_result(token, result);
        }
    }

    pub(super) fn turn_result(&mut self, token: &TurnToken, result: TurnResult) {
        if let (Some(waiting), false) =
            (self.waiting_turns.get_mut(token), result == TurnResult::Cancelled)
        {
            waiting.result.get_or_insert(result);
            self.env.cover(Transition::ReturnedBehind);
            return self.with(&token.invocation.home, |p, _| p.turn_returned(token));
        }
        let end = match result {
            TurnResult::Ended(outcome) => TurnEnd::Outcome(outcome),
            TurnResult::Cancelled => TurnEnd::Cancelled,
            TurnResult::TailCall(call) => {
                let kind = call.target.kind.clone();
                let Some(count) = self.env.members.kinds.get(&kind).copied() else {
                    return self.wait_for_kind(token, TurnResult::TailCall(call));
                };
                let uuid = token.invocation.uuid;
                let index = assign::partition_index(&call.target, uuid, count);
                TurnEnd::TailCall(PartitionId::new(kind, index), call)
            }
        };
        self.supersede(token);
        self.with(&token.invocation.home, |p, env| p.turn_result(env, token, end));
    }

    /// A turn ended with a tail call to a kind that is not known yet.
    pub(super) fn wait_for_kind(&mut self, token: &TurnToken, result: TurnResult) {
        let TurnResult::TailCall(call) = &result else { return };
        let served = self.partitions.get(&token.invocation.home).filter(|p| p.serving());
        if served.is_none_or(|p| p.check_turn(&self.env, token).is_err()) {
            return;
        }
        self.env.cover(Transition::TailKindWaits);
        self.env.emit(Effect::EnsureKind { kind: call.target.kind.clone() });
        self.waiting_turns.entry(token.clone()).or_default().result = Some(result);
        self.with(&token.invocation.home, |p, _| p.turn_returned(token));
    }

    /// What a turn asked for and waits outside is not carried out any more.
    pub(super) fn supersede(&mut self, token: &TurnToken) {
        let waiting = self.waiting_turns.remove(token).unwrap_or_default();
        self.parked_count -= waiting.operations.len();
        for (request, _) in waiting.operations {
            let error = RequestError::TurnSuperseded(Box::new(token.clone()));
            self.env.respond(request, Err(error));
        }
    }

    pub(super) fn abandoned(&mut self, request: RequestId) {
        self.roots.abandon(request);
        self.asks.end(request);
        self.views.end(request);
        self.direct.remove(&request);
        self.direct_waiting.remove(&request);
        self.direct_timers.set(&request, None);
        for queue in self.parked.values_mut() {
            // Operations of turns are not here: their turns count on them.
            let before = queue.len();
            queue.retain(|(id, _)| *id != request);
            self.parked_count -= before - queue.len();
        }
    }

    pub(super) fn invoke_direct(&mut self, request: RequestId, call: DirectCall) {
        let env = &self.env;
        let hosts =
            || env.members.nodes.iter().filter(|(_, m)| m.kinds.contains(&call.kind) && !m.leaving);
        let connected = || hosts().map(|(id, _)| *id).filter(|id| env.reachable(*id));
        let turn = self.next_direct.checked_rem(connected().count() as u64).unwrap_or(0);
        let own = env.session_for(&call.kind).map(|_| env.id);
        if let Some(node) = own.or_else(|| connected().nth(turn as usize)) {
            let DirectCall { kind, method, payload, trace } = call;
            self.next_direct += 1;
            self.direct.insert(request, (node, kind.clone()));
            if self.env.by_inbox(node) {
                // Nobody tells whether the answer was lost on its way.
                let until = self.env.now + self.env.limits.accept_timeout_ms;
                self.direct_timers.set(&request, Some(until));
            }
            self.env.send(node, Message::Direct { request, kind, method, payload, trace });
        } else if hosts().next().is_some()
            && self.direct_waiting.len() < env.limits.roots_per_node_max
        {
            let until = env.now + DIRECT_WAIT_MS;
            self.direct_waiting.insert(request, (until, call));
            self.direct_timers.set(&request, Some(until));
        } else {
            self.env.respond(request, Err(RequestError::NoHost(call.kind)));
        }
    }

    /// Peers or members changed: sends direct calls that waited for a connection.
    pub(super) fn send_waiting_direct(&mut self) {
        for (request, (until, call)) in std::mem::take(&mut self.direct_waiting) {
            self.direct_timers.set(&request, None);
            self.invoke_direct(request, call);
            if let Some((at, _)) = self.direct_waiting.get_mut(&request) {
                *at = until;
                self.direct_timers.set(&request, Some(until));
            }
        }
    }

    /// Gives up direct calls that have waited for a connection, or for an answer through an inbox, for too long.
    pub(super) fn give_up_direct(&mut self) {
        for request in self.direct_timers.due(self.env.now) {
            self.direct_timers.set(&request, None);
            if let Some((_, call)) = self.direct_waiting.remove(&request) {
                self.env.respond(request, Err(RequestError::NoHost(call.kind)));
            }
            if self.direct.remove(&request).is_some() {
                self.env.cover(Transition::DirectUnanswered);
                let error = RequestError::Unknown("no answer came through the inbox in time");
                self.env.respond(request, Err(error));
            }
        }
    }

    /// Direct calls to nodes that are gone are lost.
    pub(super) fn lose_direct(&mut self, lost: Option<NodeId>) {
        let env = &self.env;
        let lost: Vec<_> = self
            .direct
            .iter()
            .filter(|(_, (node, _))| lost == Some(*node) || !env.reachable(*node))
            .map(|(request, _)| *request)
            .collect();
        for request in lost {
            self.direct.remove(&request);
            self.direct_timers.set(&request, None);
            let error = RequestError::Unknown("the connection to the host broke");
            self.env.respond(request, Err(error));
        }
    }

    pub(super) fn direct_result(&mut self, turn: u64, result: TurnResult) {
        let Some(host) = self.env.host.as_mut() else { return };
        let Some(DirectTurn { from, request, bytes }) = host.direct.remove(&turn) else { return };
        host.direct_bytes -= bytes;
        let result = match result {
            TurnResult::Ended(outcome) => DirectResult::Ended(outcome),
            TurnResult::Cancelled => DirectResult::Lost,
            TurnResult::TailCall(_) => DirectResult::Ended(Outcome::Failed(
                ApplicationError::of_kar("kar.INVALID_TAIL_CALL", "a direct call cannot go on"),
            )),
        };
        self.env.send(from, Message::DirectReply { request, result });
    }
}

/// The turn that an operation belongs to.
fn turn_of(operation: &Operation) -> Option<&TurnToken> {
    match operation {
        Operation::Invoke { turn, .. }
        | Operation::Remind { turn, .. }
        | Operation::Reminders { turn, .. } => turn.as_ref(),
        Operation::StateRead { turn, .. }
        | Operation::StateApply { turn, .. }
        | Operation::RecordStep { turn, .. }
        | Operation::Publish { turn, .. }
        | Operation::Flush { turn } => Some(turn),
        Operation::InvokeDirect { .. }
        | Operation::Deliver { .. }
        | Operation::Await { .. }
        | Operation::ViewOf { .. }
        | Operation::Control { .. }
        | Operation::RemoveActor { .. }
        | Operation::Subscribe { .. }
        | Operation::ChangeSubscription { .. }
        | Operation::Subscriptions { .. }
        | Operation::StateOf { .. } => None,
    }
}
