//! Calls, tells and starts: who hosts what is asked for, what waits, and where outcomes go.

use std::collections::{BTreeMap, HashMap, VecDeque};

use kar_proto::v1 as proto;
use kar_proto::v1::request::Operation;
use kar_proto::v1::response::Result as Answer;
use kar_proto::v1::sidecar_frame::Frame as ToComponent;
use kar_proto::v1::target::Kind;
use kar_proto::v1::turn_outcome::Result as Outcome;

use super::world::{Actor, Invocation, Origin, TurnState, World, send, status};

impl World {
    pub(super) fn on_operation(&mut self, origin: Origin, operation: Operation) -> Option<Answer> {
        match operation {
            Operation::RecordStep(r) => {
                let method = self.turns[&r.turn_token].invocation.method.clone();
                self.flush(&r.turn_token);
                self.log.push(format!("record {}", r.key));
                let given = r.payload.unwrap_or_default();
                let payload = self.recorded.entry((method, r.key)).or_insert(given).clone();
                Some(Answer::RecordStep(proto::RecordStepResponse { payload: Some(payload) }))
            }
            Operation::Invoke(r) => {
                self.flush(&r.turn_token);
                self.log.push(format!("invoke {}", r.method));
                let direct = r.delivery_mode() == proto::DeliveryMode::Direct;
                let mode = match direct {
                    true => proto::InvocationMode::Direct,
                    false => proto::InvocationMode::Call,
                };
                if direct && self.host_of_service(&r.service).is_none() {
                    return Some(status(tonic::Code::Unavailable, "NO_HOST"));
                }
                let service =
                    proto::ServiceTarget { name: r.service, affinity_key: r.affinity_key };
                let target = Kind::Service(service);
                self.invoke(Some(origin), target, r.method, r.payload, mode, r.options);
                None
            }
            Operation::CallActor(r) => {
                if self.superseded(&r.turn_token) {
                    return Some(status(tonic::Code::Aborted, "TURN_SUPERSEDED"));
                }
                self.flush(&r.turn_token);
                self.log.push(format!("call {}", r.method));
                if !r.step_key.is_empty() {
                    self.log.push(format!("keyed {}", r.step_key));
                }
                if r.step_key == "reused" {
                    return Some(status(tonic::Code::FailedPrecondition, "STEP_KEY_REUSED"));
                }
                let origin = Some(Origin { actor: true, ..origin });
                let (target, mode) = (Kind::Actor(r.actor.unwrap()), proto::InvocationMode::Call);
                self.invoke(origin, target, r.method, r.payload, mode, r.options);
                None
            }
            Operation::Tell(r) => {
                self.log.push(format!("tell {}", r.method));
                let (target, mode) = (r.target.unwrap().kind.unwrap(), proto::InvocationMode::Tell);
                let id = self.invoke(None, target, r.method, r.payload, mode, r.options);
                Some(Answer::Tell(proto::TellResponse { invocation_id: id }))
            }
            Operation::Start(r) => {
                self.log.push(format!("start {}", r.method));
                let (target, mode) =
                    (r.target.unwrap().kind.unwrap(), proto::InvocationMode::Start);
                let id = self.invoke(None, target, r.method, r.payload, mode, r.options);
                self.started.entry(id.clone()).or_default();
                Some(Answer::Start(proto::StartResponse { invocation_id: id }))
            }
            Operation::AwaitOutcome(r) => {
                self.log.push("await".to_owned());
                match self.started.get(&r.invocation_id) {
                    None => Some(status(tonic::Code::NotFound, "UNKNOWN_INVOCATION")),
                    Some(Some(outcome)) => Some(awaited(outcome.clone())),
                    Some(None) => {
                        self.awaiting.push((r.invocation_id, origin));
                        None
                    }
                }
            }
            Operation::RedriveDeadLetter(r) => {
                self.log.push(format!("redrive {}", r.invocation_id));
                let invocation_id = format!("{}, again", r.invocation_id);
                let answer = proto::RedriveDeadLetterResponse { invocation_id };
                (r.invocation_id != "held").then_some(Answer::RedriveDeadLetter(answer))
            }
            Operation::DiscardDeadLetter(_) => {
                Some(status(tonic::Code::NotFound, "UNKNOWN_INVOCATION"))
            }
            other => Some(self.on_state_operation(other)),
        }
    }

    pub(super) fn invoke(
        &mut self,
        origin: Option<Origin>,
        target: Kind,
        method: String,
        payload: Option<proto::Payload>,
        mode: proto::InvocationMode,
        options: Option<proto::InvocationOptions>,
    ) -> String {
        self.next += 1;
        let id = format!("i{}", self.next);
        let trace_parent = options.unwrap_or_default().trace_parent;
        let invocation = Invocation {
            id: id.clone(),
            target,
            method,
            payload,
            mode,
            origin,
            trace_parent,
            step: 1,
        };
        self.dispatch(invocation);
        id
    }

    pub(super) fn dispatch(&mut self, invocation: Invocation) {
        if let Kind::Actor(_) = &invocation.target
            && let Some(queue) = self.busy.get_mut(&actor(&invocation))
        {
            queue.push_back(invocation);
            return;
        }
        let host = match &invocation.target {
            Kind::Service(service) => self.host_of_service(&service.name),
            Kind::Actor(actor) => self
                .host(|hello| hello.actor_types.iter().any(|hosted| hosted.name == actor.r#type)),
        };
        let Some(stream) = host else {
            self.waiting.push_back(invocation);
            return;
        };
        if let Kind::Actor(_) = &invocation.target {
            self.busy.insert(actor(&invocation), VecDeque::new());
        }
        self.next += 1;
        let turn_token = format!("t{}", self.next);
        let frame = proto::InvocationFrame {
            turn_token: turn_token.clone(),
            target: Some(proto::Target { kind: Some(invocation.target.clone()) }),
            method: invocation.method.clone(),
            payload: invocation.payload.clone(),
            mode: invocation.mode.into(),
            attempt: 1,
            start_before_time: None,
            trace_parent: invocation.trace_parent.clone(),
            step: invocation.step,
            recorded_steps: self.recorded_of(&invocation.method),
            activation: self.next,
            event: None,
        };
        let turn = TurnState { stream, invocation, overlay: BTreeMap::new(), cancelled: false };
        self.turns.insert(turn_token, turn);
        send(&self.streams[&stream], ToComponent::Invocation(Box::new(frame)));
    }

    fn recorded_of(&self, method: &str) -> HashMap<String, proto::Payload> {
        let own = self.recorded.iter().filter(|((of, _), _)| of == method);
        own.map(|((_, key), payload)| (key.clone(), payload.clone())).collect()
    }

    fn host_of_service(&self, name: &str) -> Option<u64> {
        self.host(|hello| hello.services.iter().any(|hosted| hosted.name == name))
    }

    fn host(&self, offers: impl Fn(&proto::Hello) -> bool) -> Option<u64> {
        self.streams.iter().find(|(_, s)| !s.leaving && offers(&s.hello)).map(|(id, _)| *id)
    }

    pub(super) fn on_outcome(&mut self, outcome: proto::TurnOutcome) -> Result<(), String> {
        let token = outcome.turn_token;
        let result = outcome.result.ok_or("a turn without result")?;
        if !self.turns.contains_key(&token) {
            return Err(format!("a result of no turn: {token}"));
        }
        let what = match &result {
            Outcome::Payload(_) => "done",
            Outcome::Error(_) => "failed",
            Outcome::Cancelled(_) => "cancelled",
            Outcome::TailCall(_) => "went on from",
        };
        if let Outcome::Payload(_) | Outcome::TailCall(_) = result {
            self.flush(&token);
        }
        let turn = self.turns.remove(&token).unwrap();
        let mut invocation = turn.invocation;
        self.log.push(format!("{what} {}", invocation.method));
        if let Outcome::TailCall(next) = result {
            if next.keep_lock {
                self.log.push("keeps the lock".to_owned());
            }
            let queued = self.busy.remove(&actor(&invocation)).unwrap_or_default();
            invocation.target = next.target.and_then(|t| t.kind).ok_or("a tail call to nobody")?;
            (invocation.method, invocation.payload) = (next.method, next.payload);
            invocation.step += 1;
            // Locked again before anybody else gets in, or behind everybody.
            let mut order: Vec<Invocation> = queued.into();
            order.insert(if next.keep_lock { 0 } else { order.len() }, invocation);
            for next in order {
                self.dispatch(next);
            }
            return Ok(());
        }
        if let Kind::Actor(_) = invocation.target {
            for next in self.busy.remove(&actor(&invocation)).unwrap_or_default() {
                self.dispatch(next);
            }
        }
        self.drain();
        if turn.cancelled || matches!(result, Outcome::Cancelled(_)) {
            return Ok(()); // Another attempt would come; no test needs it.
        }
        if invocation.mode == proto::InvocationMode::Start {
            self.started.insert(invocation.id.clone(), Some(result.clone()));
            let waiters = std::mem::take(&mut self.awaiting);
            for (id, origin) in waiters {
                match id == invocation.id {
                    true => self.answer(origin, awaited(result.clone())),
                    false => self.awaiting.push((id, origin)),
                }
            }
        }
        if let Some(origin) = invocation.origin {
            let answer = called(origin.actor, invocation.id, result);
            self.answer(origin, answer);
        }
        Ok(())
    }

    /// Lets leaving hosts go that have no turns.
    pub(super) fn drain(&mut self) {
        if self.hold_drained {
            return;
        }
        for (id, stream) in &self.streams {
            if stream.leaving && !self.turns.values().any(|turn| turn.stream == *id) {
                send(stream, ToComponent::Drained(proto::Drained {}));
            }
        }
    }
}

pub(super) fn actor(invocation: &Invocation) -> Actor {
    match &invocation.target {
        Kind::Actor(actor) => (actor.r#type.clone(), actor.id.clone()),
        Kind::Service(service) => ("service".to_owned(), service.name.clone()),
    }
}

fn called(to_actor: bool, invocation_id: String, outcome: Outcome) -> Answer {
    use proto::{call_actor_response, invoke_response};
    if to_actor {
        let result = Some(match outcome {
            Outcome::Payload(payload) => call_actor_response::Result::Payload(payload),
            Outcome::Error(error) => call_actor_response::Result::Error(error),
            Outcome::Cancelled(_) | Outcome::TailCall(_) => unreachable!(),
        });
        Answer::CallActor(proto::CallActorResponse { result, invocation_id })
    } else {
        let result = Some(match outcome {
            Outcome::Payload(payload) => invoke_response::Result::Payload(payload),
            Outcome::Error(error) => invoke_response::Result::Error(error),
            Outcome::Cancelled(_) | Outcome::TailCall(_) => unreachable!(),
        });
        Answer::Invoke(proto::InvokeResponse { result, invocation_id })
    }
}

fn awaited(outcome: Outcome) -> Answer {
    let result = Some(match outcome {
        Outcome::Payload(payload) => proto::await_response::Result::Payload(payload),
        Outcome::Error(error) => proto::await_response::Result::Error(error),
        Outcome::Cancelled(_) | Outcome::TailCall(_) => unreachable!(),
    });
    Answer::AwaitOutcome(proto::AwaitResponse { result })
}
