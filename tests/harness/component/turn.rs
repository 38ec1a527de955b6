//! What a running turn can ask for.

use std::sync::Arc;
use std::time::Duration;

use kar_proto::v1::request::Operation;
use kar_proto::v1::response::Result as Answer;
use kar_proto::v1::{
    ActorStateServiceGetRequest, ActorTarget, ApplicationError, ApplyRequest, CallActorRequest,
    FlushRequest, InvocationFrame, InvokeRequest, Payload, RecordStepRequest, ServiceTarget,
    StateChange, StateEntry, TailCall, Target, TellRequest, call_actor_response, invoke_response,
    payload, state_change, target, turn_outcome,
};
use serde_json::Value;
use tonic::Status;

use super::Shared;
use crate::grpc::{json, value};

/// How a turn ends that does not go on with a tail call.
pub type TurnResult = Result<Payload, ApplicationError>;

/// How a turn ends.
#[derive(Debug)]
pub struct Ending(pub turn_outcome::Result);

/// Makes requests on a component's stream.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

/// A running turn.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Names it.
    pub token: String,
    /// What the sidecar said.
    pub frame: InvocationFrame,
    /// The stream it runs on.
    pub handle: Handle,
}

/// An actor as a target.
pub fn actor(kind: &str, id: &str) -> Target {
    let actor = ActorTarget { r#type: kind.into(), id: id.into() };
    Target { kind: Some(target::Kind::Actor(actor)) }
}

/// A service as a target.
pub fn service(name: &str) -> Target {
    let service = ServiceTarget { name: name.into(), affinity_key: String::new() };
    Target { kind: Some(target::Kind::Service(service)) }
}

/// An application error.
pub fn error(code: &str, message: &str) -> ApplicationError {
    ApplicationError { code: code.into(), message: message.into(), ..Default::default() }
}

/// KAR's own errors in a handler end the turn as an application error that says so.
pub fn failed(status: &Status) -> ApplicationError {
    error("KarError", &format!("{:?}: {}", status.code(), status.message()))
}

/// A tail call with JSON that lets the actor go.
pub fn tail_call(to: Target, method: &str, argument: &Value) -> TailCall {
    let (target, payload) = (Some(to), Some(json(argument)));
    TailCall { target, method: method.into(), payload, keep_lock: false }
}

impl From<TurnResult> for Ending {
    fn from(result: TurnResult) -> Self {
        Self(match result {
            Ok(payload) => turn_outcome::Result::Payload(payload),
            Err(error) => turn_outcome::Result::Error(error),
        })
    }
}

impl From<TailCall> for Ending {
    fn from(call: TailCall) -> Self {
        Self(turn_outcome::Result::TailCall(call))
    }
}

impl Turn {
    pub(crate) fn new(frame: InvocationFrame, handle: Handle) -> Self {
        Self { token: frame.turn_token.clone(), frame, handle }
    }

    /// The method.
    pub fn method(&self) -> &str {
        &self.frame.method
    }

    /// The argument; `null` if there is none.
    pub fn argument(&self) -> Value {
        self.frame.payload.as_ref().map_or(Value::Null, value)
    }

    /// The kind (service or actor type), and the instance for actors.
    pub fn target(&self) -> (&str, &str) {
        match self.frame.target.as_ref().and_then(|t| t.kind.as_ref()) {
            Some(target::Kind::Service(service)) => (&service.name, ""),
            Some(target::Kind::Actor(actor)) => (&actor.r#type, &actor.id),
            None => ("", ""),
        }
    }

    /// Nested call of an actor.
    ///
    /// # Errors
    ///
    /// The outer one is KAR's, the inner one the application's.
    pub async fn call(
        &self,
        actor: (&str, &str),
        method: &str,
        argument: &Value,
    ) -> Result<Result<Value, ApplicationError>, Status> {
        self.call_keyed("", actor, method, argument).await
    }

    /// Nested call of an actor whose outcome is kept under a key with the invocation that makes it; not with an
    /// empty one.
    ///
    /// # Errors
    ///
    /// The outer one is KAR's, the inner one the application's.
    pub async fn call_keyed(
        &self,
        key: &str,
        (kind, id): (&str, &str),
        method: &str,
        argument: &Value,
    ) -> Result<Result<Value, ApplicationError>, Status> {
        let request = CallActorRequest {
            actor: Some(ActorTarget { r#type: kind.into(), id: id.into() }),
            method: method.into(),
            payload: Some(json(argument)),
            turn_token: self.token.clone(),
            step_key: key.into(),
            ..Default::default()
        };
        match self.handle.request(Operation::CallActor(request)).await? {
            Answer::CallActor(answer) => match answer.result {
                Some(call_actor_response::Result::Payload(payload)) => Ok(Ok(value(&payload))),
                Some(call_actor_response::Result::Error(error)) => Ok(Err(error)),
                None => Err(Status::internal("no result")),
            },
            other => Err(Status::internal(format!("wrong answer: {other:?}"))),
        }
    }

    /// Nested call of a service.
    ///
    /// # Errors
    ///
    /// The outer one is KAR's, the inner one the application's.
    pub async fn invoke(
        &self,
        service: &str,
        method: &str,
        argument: &Value,
    ) -> Result<Result<Value, ApplicationError>, Status> {
        let request = InvokeRequest {
            service: service.into(),
            method: method.into(),
            payload: Some(json(argument)),
            turn_token: self.token.clone(),
            ..Default::default()
        };
        match self.handle.request(Operation::Invoke(request)).await? {
            Answer::Invoke(answer) => match answer.result {
                Some(invoke_response::Result::Payload(payload)) => Ok(Ok(value(&payload))),
                Some(invoke_response::Result::Error(error)) => Ok(Err(error)),
                None => Err(Status::internal("no result")),
            },
            other => Err(Status::internal(format!("wrong answer: {other:?}"))),
        }
    }

    /// Tells an actor, with the turn's segment.
    ///
    /// # Errors
    ///
    /// If KAR refuses.
    pub async fn tell(&self, to: Target, method: &str, argument: &Value) -> Result<(), Status> {
        let request = TellRequest {
            target: Some(to),
            method: method.into(),
            payload: Some(json(argument)),
            turn_token: self.token.clone(),
            options: None,
        };
        self.handle.request(Operation::Tell(request)).await.map(drop)
    }

    /// A durable step: what was recorded under the key by an earlier attempt, or what `f` yields and is recorded now.
    ///
    /// # Errors
    ///
    /// If KAR refuses.
    pub async fn once(&self, key: &str, f: impl AsyncFnOnce() -> Value) -> Result<Value, Status> {
        if let Some(recorded) = self.frame.recorded_steps.get(key) {
            return Ok(value(recorded));
        }
        let payload = Some(json(&f().await));
        let (turn_token, key) = (self.token.clone(), key.to_owned());
        let request = RecordStepRequest { turn_token, key, payload };
        match self.handle.request(Operation::RecordStep(request)).await? {
            Answer::RecordStep(answer) => Ok(value(&answer.payload.unwrap_or_default())),
            other => Err(Status::internal(format!("wrong answer: {other:?}"))),
        }
    }

    /// Reads one key of the actor's state; `null` if it is absent.
    ///
    /// # Errors
    ///
    /// If KAR refuses.
    pub async fn get(&self, key: &str) -> Result<Value, Status> {
        let request = ActorStateServiceGetRequest {
            turn_token: self.token.clone(),
            keys: vec![key.into()],
            ..Default::default()
        };
        match self.handle.request(Operation::ActorStateGet(request)).await? {
            Answer::ActorStateGet(answer) => Ok(answer.entries.get(key).map_or(Value::Null, value)),
            other => Err(Status::internal(format!("wrong answer: {other:?}"))),
        }
    }

    /// Sets keys of the actor's state, with the turn's segment.
    ///
    /// # Errors
    ///
    /// If KAR refuses.
    pub async fn set(&self, entries: &[(&str, Value)]) -> Result<(), Status> {
        let change = |(key, new): &(&str, Value)| {
            let entry = StateEntry { key: (*key).into(), value: Some(json(new)) };
            StateChange { change: Some(state_change::Change::Set(entry)) }
        };
        self.apply(entries.iter().map(change).collect()).await
    }

    /// Changes the actor's state, with the turn's segment.
    ///
    /// # Errors
    ///
    /// If KAR refuses.
    pub async fn apply(&self, changes: Vec<StateChange>) -> Result<(), Status> {
        let request = ApplyRequest { turn_token: self.token.clone(), changes };
        self.handle.request(Operation::ActorStateApply(request)).await.map(drop)
    }

    /// Makes everything so far durable.
    ///
    /// # Errors
    ///
    /// If KAR refuses.
    pub async fn flush(&self) -> Result<(), Status> {
        let request = FlushRequest { turn_token: self.token.clone() };
        self.handle.request(Operation::Flush(request)).await.map(drop)
    }

    /// Ends the turn with a JSON result.
    pub async fn finish(self, result: &Value) {
        self.handle.finish(&self.token, turn_outcome::Result::Payload(json(result))).await;
    }

    /// Ends the turn with a tail call.
    pub async fn tail(self, call: TailCall) {
        self.handle.finish(&self.token, turn_outcome::Result::TailCall(call)).await;
    }

    /// How long the argument's `milliseconds` are; nothing if it has none, or is padding instead of JSON.
    pub fn length(&self) -> Duration {
        let body = self.frame.payload.as_ref().and_then(|payload| payload.body.as_ref());
        let argument = match body {
            Some(payload::Body::Data(data)) => serde_json::from_slice(data).unwrap_or(Value::Null),
            _ => Value::Null,
        };
        Duration::from_millis(argument["milliseconds"].as_u64().unwrap_or(0))
    }
}
