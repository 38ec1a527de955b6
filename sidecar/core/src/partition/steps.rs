//! Durable steps (design section 1): values that turns record, and nested calls whose outcomes are kept with them.

use std::sync::Arc;

use super::Partition;
use super::gate::Gated;
use super::turns::TurnInvoke;
use crate::effect::{RequestError, Response};
use crate::env::Env;
use crate::ids::{Number, PartitionId, RequestId, TurnToken, Uuid};
use crate::invocation::{Mode, Outcome, Payload};
use crate::record::{Op, RecordedStep};
use crate::steps::{Recall, Steps};

impl Partition {
    /// A turn records a step's value: durable, with everything before it, when it is answered, because a step is for
    /// effects that KAR does not see. A key that is recorded keeps its value, and answers with it.
    pub(crate) fn record_step(
        &mut self,
        env: &mut Env,
        request: RequestId,
        token: &TurnToken,
        step: RecordedStep,
    ) {
        let uuid = match self.check_turn(env, token) {
            Ok(uuid) => uuid,
            Err(error) => return env.respond(request, Err(error)),
        };
        let recorded = match self.steps(uuid).map_or(Ok(None), |steps| steps.value(&step.key)) {
            Ok(recorded) => recorded.cloned(),
            Err(()) => {
                return env.respond(request, Err(RequestError::StepKeyReused(step.key)));
            }
        };
        let (steps, value) = match recorded {
            Some(value) => (Vec::new(), value),
            None => {
                if let Err(error) = self.room_for_step(env, uuid, step.size()) {
                    return env.respond(request, Err(error));
                }
                let value = step.payload.clone();
                (vec![step], value)
            }
        };
        self.progress(env, uuid, steps);
        self.gate_answer(env, request, token, Response::Step(value));
    }

    /// A nested call with a key: tells whether it was answered from what is kept (or refused), and is not to be made.
    pub(super) fn answer_keyed(
        &mut self,
        env: &mut Env,
        request: RequestId,
        token: &TurnToken,
        invoke: &TurnInvoke,
    ) -> bool {
        let Some(key) = &invoke.step_key else { return false };
        let uuid = token.invocation.uuid;
        if invoke.mode != Mode::Call {
            let error = RequestError::Invalid("a step key is for calls");
            env.respond(request, Err(error));
            return true;
        }
        let actor = invoke.actor.as_ref();
        let recall = |steps: &Steps| steps.recall(key, &invoke.to, actor, &invoke.method);
        match self.steps(uuid).map_or(Recall::New, recall) {
            Recall::New => match self.room_for_step(env, uuid, key.len()) {
                Ok(()) => return false,
                Err(error) => env.respond(request, Err(error)),
            },
            Recall::Ended(child, outcome) => {
                // As a call that is made: what came before it in the program is durable first (P5).
                if env.rules.kept_flushes {
                    self.flush_turn(env, uuid);
                }
                let answer = Response::Outcome { invocation: Some(child), outcome };
                self.gate_answer(env, request, token, answer);
            }
            Recall::UnderWay | Recall::Other => {
                env.respond(request, Err(RequestError::StepKeyReused(key.clone())));
            }
        }
        true
    }

    /// The outcome of a keyed call came: it is settled with it at once, so that no reign's end loses it.
    pub(super) fn settle_keyed(
        &mut self,
        env: &mut Env,
        (to, number): (&PartitionId, Number),
        outcome: Outcome,
    ) {
        self.push(env, Op::StepDone { to: to.clone(), number, outcome });
        self.gate_closed(env, [(to.clone(), number)]);
    }

    /// Values that earlier attempts of the current step have recorded.
    pub(super) fn recorded_steps(
        &self,
        env: &Env,
        uuid: Uuid,
    ) -> std::collections::BTreeMap<Arc<str>, Payload> {
        let steps = self.steps(uuid).filter(|_| env.rules.recorded_steps);
        steps.map(Steps::values).unwrap_or_default()
    }

    fn steps(&self, uuid: Uuid) -> Option<&Steps> {
        self.state.entries.get(&uuid).map(|entry| &entry.steps)
    }

    /// Bounds act when a step is begun. Outcomes of calls under way may go beyond the one in bytes.
    fn room_for_step(&self, env: &mut Env, uuid: Uuid, bytes: usize) -> Result<(), RequestError> {
        let (count, held) = self.steps(uuid).map_or((0, 0), |steps| (steps.len(), steps.bytes()));
        let limits = &env.limits;
        let (name, limit) = if count >= limits.steps_per_invocation_max {
            ("steps_per_invocation_max", limits.steps_per_invocation_max)
        } else if held + bytes > limits.step_bytes_per_invocation_max {
            ("step_bytes_per_invocation_max", limits.step_bytes_per_invocation_max)
        } else {
            return Ok(());
        };
        Err(RequestError::Limit(env.limit(name, limit)))
    }

    /// Logs what the turn has buffered, if anything.
    fn flush_turn(&mut self, env: &mut Env, uuid: Uuid) {
        let turn = self.reign.items.get(&uuid).and_then(|item| item.running());
        if turn.is_some_and(|turn| !turn.unflushed.is_empty()) {
            self.progress(env, uuid, Vec::new());
        }
    }

    /// Answers a turn once everything decided so far is committed.
    fn gate_answer(
        &mut self,
        env: &mut Env,
        request: RequestId,
        token: &TurnToken,
        answer: Response,
    ) {
        self.gate(env, Gated::Flushed { request, token: token.clone(), answer });
    }
}
