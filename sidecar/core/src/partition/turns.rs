//! What turns ask for (P5).

use std::sync::Arc;

use super::Partition;
use super::reign::Unflushed;
use crate::effect::{RequestError, Response};
use crate::env::Env;
use crate::events::Publication;
use crate::ids::{InvocationId, Number, PartitionId, RequestId, TurnToken, Uuid};
use crate::invocation::{
    Invocation, Mode, Obligation, Owed, RetryPolicy, StateCondition, StateOp, Work,
};
use crate::record::{Op, RecordedStep, Segment};

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
    pub(crate) step_key: Option<Arc<str>>,
    pub(crate) retry: Option<RetryPolicy>,
}

impl Partition {
    /// Whether a token names a turn that runs now.
    pub(crate) fn check_turn(&self, env: &Env, token: &TurnToken) -> Result<Uuid, RequestError> {
        let superseded = || RequestError::TurnSuperseded(Box::new(token.clone()));
        let uuid = token.invocation.uuid;
        let item = self.reign.items.get(&uuid).ok_or_else(superseded)?;
        if !self.is_current(item, token) && env.rules.turn_token {
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
        if self.answer_keyed(env, request, token, &invoke) {
            return;
        }
        let owed = self.outbox();
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
            owed: Owed::Invocation(Arc::new(Invocation {
                uuid: invoke.uuid,
                work: Work::Method,
                mode: invoke.mode,
                actor: invoke.actor,
                method: invoke.method,
                payload: invoke.payload,
                chain: chain.into(),
                deadline: invoke.deadline,
                trace: invoke.trace,
                step: 1,
                home: None,
                retry: invoke.retry,
                key: None,
                event: None,
            })),
            parent: Some(uuid),
            step_key: invoke.step_key,
        };
        let bytes = obligation.size();
        if call && turn.calls.len() >= env.limits.calls_per_turn_max {
            let hit = env.limit("calls_per_turn_max", env.limits.calls_per_turn_max);
            return env.respond(request, Err(RequestError::Limit(hit)));
        }
        if turn.unflushed.told() >= env.limits.segment_sends_max {
            let hit = env.limit("segment_sends_max", env.limits.segment_sends_max);
            return env.respond(request, Err(RequestError::Limit(hit)));
        }
        if turn.unflushed.bytes + bytes > env.limits.segment_bytes_max {
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
        turn.unflushed.sends.push(obligation);
        turn.unflushed.bytes += bytes;
        self.reign.buffered.add(bytes);
        if !call {
            return env.respond(request, Ok(Response::Accepted { invocation: child }));
        }
        let Some(number) = self.progress(env, uuid, Vec::new()) else { return };
        let Some(item) = self.reign.items.get_mut(&uuid) else { return };
        let actor = item.invocation.actor.clone();
        if let Some(turn) = item.turn() {
            turn.calls.insert((to, number), request);
        }
        if env.rules.give_back_slots {
            self.give_back_slot(env, uuid);
        }
        if self.reign.leaving.is_some() {
            // Nested calls may start now.
            self.pump_all(env);
        } else if let Some(actor) = actor {
            self.pump_actor(env, &actor);
        }
    }

    /// Flushes the segment (P5), with steps recorded; returns the number of the last obligation, if there is one.
    pub(super) fn progress(
        &mut self,
        env: &mut Env,
        uuid: Uuid,
        steps: Vec<RecordedStep>,
    ) -> Option<Number> {
        let item = self.reign.items.get_mut(&uuid)?;
        let (attempt, actor) = (item.attempt, item.invocation.actor.clone());
        let (shared, rest) = (item.shared, Unflushed::of(&item.invocation));
        self.log_item(env, uuid);
        let turn = self.reign.items.get_mut(&uuid)?.turn()?;
        let unflushed = std::mem::replace(&mut turn.unflushed, rest);
        turn.reminders = None;
        let mut settled = std::mem::take(&mut turn.received);
        // The partition may have been quicker.
        let owed = &self.state.outbound;
        settled.retain(|(to, n)| owed.get(to).is_some_and(|out| out.open.contains_key(n)));
        let (segment, gates) = self.segment(env, actor.as_ref(), unflushed);
        let last = gates.last().map(|(_, number)| *number);
        let (closed, published) = (settled.clone(), Self::last_published(&segment));
        self.push(env, Op::Progress { uuid, attempt, segment, settled, steps, shared });
        self.note_progress(uuid);
        self.gate_sends(env, gates);
        self.gate_published(env, published);
        self.gate_closed(env, closed);
        last
    }

    /// What a turn buffered as it is logged, and what of it is to be sent then.
    pub(super) fn segment(
        &mut self,
        env: &mut Env,
        actor: Option<&Arc<str>>,
        unflushed: Unflushed,
    ) -> (Segment, Vec<(PartitionId, Number)>) {
        let Unflushed { state, sends, reminders, publishes, .. } = unflushed;
        self.reign.buffered.remove_all(sends.iter().map(Obligation::size));
        self.reign.buffered.remove_all(publishes.iter().map(Publication::size));
        let sends = self.number(sends);
        let publishes = self.number_published(publishes);
        let gates = sends.iter().map(|s| (s.obligation.to.clone(), s.number)).collect();
        self.unbuffer_reminders(&reminders);
        let reminders = self.reminder_ops(env, actor, reminders);
        (Segment { state, sends, reminders, publishes }, gates)
    }

    /// Buffers changes to the turn's actor (P5).
    pub(crate) fn state_apply(
        &mut self,
        env: &mut Env,
        request: RequestId,
        token: &TurnToken,
        (ops, conditions): (Vec<StateOp>, Vec<StateCondition>),
    ) {
        let uuid = match self.check_turn(env, token) {
            Ok(uuid) => uuid,
            Err(error) => return env.respond(request, Err(error)),
        };
        let Some(item) = self.reign.items.get(&uuid) else { return };
        if item.invocation.actor.is_none() {
            let error = RequestError::Invalid("services have no actor state");
            return env.respond(request, Err(error));
        }
        if item.shared {
            return env.respond(request, Err(RequestError::SharedTurn));
        }
        let checked = self.check_conditions(&env.rules, uuid, (&ops, &conditions));
        if let Err(error) = checked.and_then(|()| self.check_state(env, uuid, &ops)) {
            return env.respond(request, Err(error));
        }
        let Some(turn) = self.reign.items.get_mut(&uuid).and_then(|item| item.turn()) else {
            return;
        };
        let bytes: usize = ops.iter().map(StateOp::size).sum();
        if turn.unflushed.bytes + bytes > env.limits.segment_bytes_max {
            let hit = env.limit("segment_bytes_max", env.limits.segment_bytes_max);
            return env.respond(request, Err(RequestError::Limit(hit)));
        }
        turn.unflushed.bytes += bytes;
        turn.unflushed.state.extend(ops);
        env.respond(request, Ok(Response::Ok));
    }

    /// Makes everything that the turn did durable.
    pub(crate) fn turn_flush(&mut self, env: &mut Env, request: RequestId, token: &TurnToken) {
        let uuid = match self.check_turn(env, token) {
            Ok(uuid) => uuid,
            Err(error) => return env.respond(request, Err(error)),
        };
        self.progress(env, uuid, Vec::new());
        self.gate_flush(env, request, token.clone());
    }
}
