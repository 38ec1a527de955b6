//! The public API (`kar.v1`) to the core's operations and back: parses every field once, names the wrong one.

use std::collections::HashMap;
use std::sync::Arc;

use kar_core::effect::{Response, Turn};
use kar_core::event::{Offer, Operation, TurnResult};
use kar_core::ids::{InvocationId, Kind, Millis, TurnToken, is_name};
use kar_core::invocation::{
    ApplicationError, Mode, Outcome, Payload, Refusal, StateOp, Target as CoreTarget,
};
use kar_core::limits::{LimitHit, Limits};
use kar_proto::v1 as pb;
use pb::ErrorReason;
use pb::request::Operation as Ask;
use pb::response::Result as Reply;
use tonic::Status;

use super::error::{
    invalid_field, limit_reached, not_implemented, request_error, status, too_large,
};
use super::{json, shared};
use crate::backend::{StateAnswer, StateError, StateOperation};
use crate::driver::outlets::{Answer, DirectCall};

/// Longest method name, bytes.
const METHOD_BYTES_MAX: usize = 256;
/// Longest actor id, state key or affinity key, bytes.
const KEY_BYTES_MAX: usize = 512;
/// Longest content type, trace context or etag, bytes.
const SHORT_BYTES_MAX: usize = 256;
/// Kinds that one component may host.
const KINDS_MAX: usize = 1_024;
/// Root turns at once, where a component does not say.
const CONCURRENCY_DEFAULT: u32 = 1_000;
/// Begins the tokens of at-most-once turns, which only name the turn.
const DIRECT_PREFIX: &str = "direct/";

/// A request, parsed.
#[derive(Debug)]
pub enum Prepared {
    /// For the core.
    Core(Operation, Shape),
    /// For the application's state.
    State(StateOperation),
}

/// What the answer to a request looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Named after the requests.
pub enum Shape {
    Invoke { json: bool },
    CallActor { json: bool },
    Tell,
    Start,
    Await,
    StateGet,
    StateGetAll,
    StateApply,
    StateContains { key: Arc<str> },
    Flush,
}

/// Which turn a component means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TurnRef {
    /// A durable one.
    Durable(TurnToken),
    /// An at-most-once one.
    Direct(u64),
}

// === requests ===

/// Parses a request at the time `now`.
///
/// # Errors
///
/// The status that names the wrong field, the limit or what is not implemented.
pub fn prepare(ask: Ask, now: Millis, limits: &Limits) -> Result<Prepared, Status> {
    let parser = Parser { now, limits };
    let (operation, shape) = match ask {
        Ask::Invoke(r) => parser.invoke(r)?,
        Ask::CallActor(r) => parser.call_actor(r)?,
        Ask::Tell(r) => {
            let parts = (r.target, r.method, r.payload, r.options, r.turn_token);
            (parser.send(Mode::Tell, parts)?, Shape::Tell)
        }
        Ask::Start(r) => {
            let parts = (r.target, r.method, r.payload, r.options, String::new());
            (parser.send(Mode::Start, parts)?, Shape::Start)
        }
        Ask::Await(r) => {
            let invocation = invocation_id(&r.invocation_id)?;
            (Operation::Await { invocation }, Shape::Await)
        }
        Ask::ActorStateGet(r) => {
            let keys = r.keys.iter().map(|k| key("keys", k)).collect::<Result<_, _>>()?;
            let turn = required_turn(&r.turn_token)?;
            (Operation::StateRead { turn, keys: Some(keys) }, Shape::StateGet)
        }
        Ask::ActorStateGetAll(r) => return parser.get_all(r),
        Ask::ActorStateApply(r) => (parser.apply(r)?, Shape::StateApply),
        Ask::ActorStateContains(r) => {
            let key = key("key", &r.key)?;
            let turn = required_turn(&r.turn_token)?;
            let operation = Operation::StateRead { turn, keys: Some(vec![key.clone()]) };
            (operation, Shape::StateContains { key })
        }
        Ask::Flush(r) => (Operation::Flush { turn: required_turn(&r.turn_token)? }, Shape::Flush),
        Ask::StateGet(_) | Ask::StateSet(_) | Ask::StateDelete(_) | Ask::StateList(_) => {
            return parser.state(ask).map(Prepared::State);
        }
    };
    Ok(Prepared::Core(operation, shape))
}

type SendParts =
    (Option<pb::Target>, String, Option<pb::Payload>, Option<pb::InvocationOptions>, String);

struct Parser<'a> {
    now: Millis,
    limits: &'a Limits,
}

impl Parser<'_> {
    fn invoke(&self, r: pb::InvokeRequest) -> Result<(Operation, Shape), Status> {
        let kind = Kind::service(name("service", &r.service)?);
        let method = method(r.method)?;
        let (payload, json) = self.payload("payload", r.payload)?;
        let shape = Shape::Invoke { json };
        let (deadline, trace) = self.options(r.options)?;
        let is_direct = match pb::DeliveryMode::try_from(r.delivery_mode) {
            Ok(pb::DeliveryMode::Unspecified | pb::DeliveryMode::Durable) => false,
            Ok(pb::DeliveryMode::Direct) => true,
            Err(_) => return Err(invalid_field("delivery_mode", "is none that is known")),
        };
        if is_direct {
            // An at-most-once call is handed over at once: neither field could have an effect.
            if deadline.is_some() {
                return Err(invalid_field("options.start_within", "is for durable calls only"));
            }
            if !r.affinity_key.is_empty() {
                return Err(invalid_field("affinity_key", "is for durable calls only"));
            }
            return Ok((Operation::InvokeDirect { kind, method, payload, trace }, shape));
        }
        let affinity = affinity(&r.affinity_key)?;
        let target = CoreTarget { kind, actor: None, affinity };
        let turn = turn(&r.turn_token)?;
        let mode = Mode::Call;
        Ok((Operation::Invoke { turn, mode, target, method, payload, deadline, trace }, shape))
    }

    fn call_actor(&self, r: pb::CallActorRequest) -> Result<(Operation, Shape), Status> {
        let target = actor_target("actor", r.actor.as_ref())?;
        let method = method(r.method)?;
        let (payload, json) = self.payload("payload", r.payload)?;
        let (deadline, trace) = self.options(r.options)?;
        let turn = turn(&r.turn_token)?;
        let mode = Mode::Call;
        let operation = Operation::Invoke { turn, mode, target, method, payload, deadline, trace };
        Ok((operation, Shape::CallActor { json }))
    }

    fn send(&self, mode: Mode, parts: SendParts) -> Result<Operation, Status> {
        let (target, method_name, payload, options, turn_token) = parts;
        let target = core_target(target)?;
        let (payload, _) = self.payload("payload", payload)?;
        let (deadline, trace) = self.options(options)?;
        let turn = turn(&turn_token)?;
        let method = method(method_name)?;
        Ok(Operation::Invoke { turn, mode, target, method, payload, deadline, trace })
    }

    fn get_all(&self, r: pb::GetAllRequest) -> Result<Prepared, Status> {
        if let Some(turn) = turn(&r.turn_token)? {
            let operation = Operation::StateRead { turn, keys: None };
            return Ok(Prepared::Core(operation, Shape::StateGetAll));
        }
        let target = actor_target("actor", r.actor.as_ref())?;
        let actor = target.actor.ok_or_else(|| invalid_field("actor.id", "is missing"))?;
        Ok(Prepared::State(StateOperation::Actor { kind: target.kind, actor }))
    }

    fn apply(&self, r: pb::ApplyRequest) -> Result<Operation, Status> {
        use pb::state_change::Change;
        let turn = required_turn(&r.turn_token)?;
        let op = |change: pb::StateChange| {
            Ok(match change.change.ok_or_else(|| invalid_field("changes", "one is empty"))? {
                Change::Set(entry) => StateOp::Set {
                    key: key("changes.set.key", &entry.key)?,
                    value: self.payload("changes.set.value", entry.value)?.0,
                },
                Change::Remove(k) => StateOp::Remove { key: key("changes.remove", &k)? },
                Change::Clear(true) => StateOp::Clear,
                Change::Clear(false) => {
                    return Err(invalid_field("changes.clear", "must be true"));
                }
            })
        };
        let ops = r.changes.into_iter().map(op).collect::<Result<_, _>>()?;
        Ok(Operation::StateApply { turn, ops })
    }

    fn state(&self, ask: Ask) -> Result<StateOperation, Status> {
        Ok(match ask {
            Ask::StateGet(r) => StateOperation::Get { key: key("key", &r.key)? },
            Ask::StateSet(r) => {
                if r.time_to_live.is_some() {
                    return Err(not_implemented("time_to_live"));
                }
                StateOperation::Set {
                    key: key("key", &r.key)?,
                    value: self.payload("value", r.value)?.0,
                    etag: optional("etag", r.etag)?,
                    request_id: optional("request_id", r.request_id)?,
                }
            }
            Ask::StateDelete(r) => StateOperation::Delete {
                key: key("key", &r.key)?,
                etag: optional("etag", r.etag)?,
                request_id: optional("request_id", r.request_id)?,
            },
            Ask::StateList(r) => StateOperation::List {
                prefix: bounded("prefix", r.prefix, KEY_BYTES_MAX)?,
                page_size: u32::try_from(r.page_size)
                    .map_err(|_| invalid_field("page_size", "must not be negative"))?,
                page_token: bounded("page_token", r.page_token, KEY_BYTES_MAX)?,
            },
            _ => return Err(Status::internal("no request about the application's state")),
        })
    }

    /// The payload, and whether it came in the form for people.
    fn payload(
        &self,
        field: &str,
        payload: Option<pb::Payload>,
    ) -> Result<(Payload, bool), Status> {
        payload_from(field, payload, self.limits.message_bytes_max)
    }

    fn options(
        &self,
        options: Option<pb::InvocationOptions>,
    ) -> Result<(Option<Millis>, Arc<str>), Status> {
        let Some(options) = options else { return Ok((None, Arc::default())) };
        if !options.idempotency_key.is_empty() {
            return Err(not_implemented("options.idempotency_key"));
        }
        let trace = bounded("options.trace_parent", options.trace_parent, SHORT_BYTES_MAX)?;
        let deadline = match options.start_within {
            None => None,
            Some(within) => {
                let wrong = || invalid_field("options.start_within", "must be at least 1 ms");
                let seconds = u64::try_from(within.seconds).map_err(|_| wrong())?;
                let nanos = u64::try_from(within.nanos).map_err(|_| wrong())?;
                let millis = seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000);
                if millis == 0 {
                    return Err(wrong());
                }
                Some(self.now.saturating_add(millis))
            }
        };
        Ok((deadline, shared(trace)))
    }
}

/// Parses a payload of at most `max` bytes; tells whether it came in the form for people.
fn payload_from(
    field: &str,
    payload: Option<pb::Payload>,
    max: usize,
) -> Result<(Payload, bool), Status> {
    use pb::payload::Body;
    let payload = payload.unwrap_or_default();
    let (payload, json) = match payload.body {
        Some(Body::Json(value)) => {
            let data = json::to_text(&value);
            (Payload { data, content_type: json::CONTENT_TYPE.into() }, true)
        }
        Some(Body::Data(data)) => {
            if payload.content_type.len() > SHORT_BYTES_MAX {
                return Err(invalid_field(&format!("{field}.content_type"), "is too long"));
            }
            (Payload { data, content_type: shared(payload.content_type) }, false)
        }
        None => {
            (Payload { content_type: shared(payload.content_type), ..Payload::default() }, false)
        }
    };
    if payload.data.len() > max {
        return Err(too_large(field, payload.data.len(), max));
    }
    Ok((payload, json))
}

fn name<'a>(field: &str, text: &'a str) -> Result<&'a str, Status> {
    if is_name(text) {
        return Ok(text);
    }
    let what = "must be 1 to 128 of A-Z a-z 0-9 _ - . and must not start with . or -";
    Err(invalid_field(field, what))
}

fn method(text: String) -> Result<Arc<str>, Status> {
    match text.len() {
        1..=METHOD_BYTES_MAX => Ok(text.into()),
        0 => Err(invalid_field("method", "is missing")),
        _ => Err(invalid_field("method", "must have at most 256 bytes")),
    }
}

fn key(field: &str, text: &str) -> Result<Arc<str>, Status> {
    if (1..=KEY_BYTES_MAX).contains(&text.len()) {
        return Ok(text.into());
    }
    Err(invalid_field(field, "must have 1 to 512 bytes"))
}

fn affinity(text: &str) -> Result<Option<Arc<str>>, Status> {
    if text.is_empty() { Ok(None) } else { key("affinity_key", text).map(Some) }
}

fn bounded(field: &str, text: String, max: usize) -> Result<String, Status> {
    if text.len() <= max {
        return Ok(text);
    }
    Err(invalid_field(field, &format!("must have at most {max} bytes")))
}

fn optional(field: &str, text: String) -> Result<Option<String>, Status> {
    let text = bounded(field, text, SHORT_BYTES_MAX)?;
    Ok((!text.is_empty()).then_some(text))
}

fn core_target(target: Option<pb::Target>) -> Result<CoreTarget, Status> {
    use pb::target::Kind as K;
    match target.and_then(|t| t.kind) {
        None => Err(invalid_field("target", "is missing")),
        Some(K::Service(service)) => Ok(CoreTarget {
            kind: Kind::service(name("target.service.name", &service.name)?),
            actor: None,
            affinity: affinity(&service.affinity_key)?,
        }),
        Some(K::Actor(actor)) => actor_target("target.actor", Some(&actor)),
    }
}

fn actor_target(field: &str, actor: Option<&pb::ActorTarget>) -> Result<CoreTarget, Status> {
    let actor = actor.ok_or_else(|| invalid_field(field, "is missing"))?;
    let kind = Kind::actor(name(&format!("{field}.type"), &actor.r#type)?);
    let id = key(&format!("{field}.id"), &actor.id)?;
    Ok(CoreTarget { kind, actor: Some(id), affinity: None })
}

fn invocation_id(text: &str) -> Result<InvocationId, Status> {
    let parsed = text.parse::<InvocationId>();
    parsed.map_err(|e| invalid_field("invocation_id", &e.to_string()))
}

/// The token of a turn; empty is none. An at-most-once turn has none to give: what it asks for is a root.
fn turn(text: &str) -> Result<Option<TurnToken>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.starts_with(DIRECT_PREFIX) {
        let what = "must be empty: what an at-most-once turn asks for does not belong to it";
        return Err(invalid_field("turn_token", what));
    }
    text.parse()
        .map(Some)
        .map_err(|e: kar_core::ids::ParseError| invalid_field("turn_token", &e.to_string()))
}

fn required_turn(text: &str) -> Result<TurnToken, Status> {
    turn(text)?.ok_or_else(|| invalid_field("turn_token", "is missing"))
}

// === answers ===

/// The core's answer in the shape that was asked for.
///
/// # Errors
///
/// The status that says why the request was not carried out.
pub fn answer(shape: Shape, answer: Answer) -> Result<Reply, Status> {
    let response = answer.map_err(|error| request_error(&error))?;
    Ok(match (shape, response) {
        (Shape::Invoke { json }, Response::Outcome { invocation, outcome }) => {
            use pb::invoke_response::Result as R;
            let result = match ended(outcome, &invocation)? {
                Ok(payload) => R::Payload(payload_to(payload, json)),
                Err(error) => R::Error(error),
            };
            let invocation_id = invocation.map(|i| i.to_string()).unwrap_or_default();
            Reply::Invoke(pb::InvokeResponse { result: Some(result), invocation_id })
        }
        (Shape::CallActor { json }, Response::Outcome { invocation, outcome }) => {
            use pb::call_actor_response::Result as R;
            let result = match ended(outcome, &invocation)? {
                Ok(payload) => R::Payload(payload_to(payload, json)),
                Err(error) => R::Error(error),
            };
            let invocation_id = invocation.map(|i| i.to_string()).unwrap_or_default();
            Reply::CallActor(pb::CallActorResponse { result: Some(result), invocation_id })
        }
        (Shape::Await, Response::Outcome { invocation, outcome }) => {
            use pb::await_response::Result as R;
            let result = match ended(outcome, &invocation)? {
                Ok(payload) => R::Payload(payload_to(payload, false)),
                Err(error) => R::Error(error),
            };
            Reply::Await(pb::AwaitResponse { result: Some(result) })
        }
        (Shape::Tell, Response::Accepted { invocation }) => {
            Reply::Tell(pb::TellResponse { invocation_id: invocation.to_string() })
        }
        (Shape::Start, Response::Accepted { invocation }) => {
            Reply::Start(pb::StartResponse { invocation_id: invocation.to_string() })
        }
        (Shape::StateGet, Response::State(state)) => {
            Reply::ActorStateGet(pb::ActorStateServiceGetResponse { entries: entries(state) })
        }
        (Shape::StateGetAll, Response::State(state)) => {
            Reply::ActorStateGetAll(pb::GetAllResponse { entries: entries(state) })
        }
        (Shape::StateContains { key }, Response::State(state)) => {
            let exists = state.contains_key(&key);
            Reply::ActorStateContains(pb::ContainsResponse { exists })
        }
        (Shape::StateApply, Response::Ok) => Reply::ActorStateApply(pb::ApplyResponse {}),
        (Shape::Flush, Response::Ok) => Reply::Flush(pb::FlushResponse {}),
        (shape, _) => {
            tracing::error!(?shape, "the core's answer does not fit the request");
            return Err(Status::internal("the answer does not fit the request"));
        }
    })
}

/// The answer of the application's state.
///
/// # Errors
///
/// The status that says why the request was not carried out.
pub fn state_answer(answer: Result<StateAnswer, StateError>) -> Result<Reply, Status> {
    Ok(match answer.map_err(state_error)? {
        StateAnswer::Entry(entry) => {
            let (value, etag) = match entry {
                Some(entry) => (Some(payload_to(entry.value, false)), entry.etag),
                None => (None, String::new()),
            };
            Reply::StateGet(pb::StateServiceGetResponse { value, etag })
        }
        StateAnswer::Written { etag } => Reply::StateSet(pb::SetResponse { etag }),
        StateAnswer::Deleted { existed } => Reply::StateDelete(pb::DeleteResponse { existed }),
        StateAnswer::Page { entries, next_page_token } => {
            let entries = entries
                .into_iter()
                .map(|e| pb::StateEntry { key: e.key, value: Some(payload_to(e.value, false)) });
            let entries = entries.collect();
            Reply::StateList(pb::ListResponse { entries, next_page_token })
        }
        StateAnswer::Actor(state) => {
            Reply::ActorStateGetAll(pb::GetAllResponse { entries: entries(state) })
        }
    })
}

fn state_error(error: StateError) -> Status {
    match error {
        StateError::ConditionFailed { etag } => {
            let message = format!("the condition does not hold: the key's etag is '{etag}'");
            status(ErrorReason::ConditionFailed, message, [("etag", etag)])
        }
        StateError::Invalid(what) => status(ErrorReason::InvalidField, what, []),
        StateError::Unavailable(what) => status(ErrorReason::BackendUnavailable, what, []),
        StateError::Unknown(what) => status(ErrorReason::OutcomeUnknown, what, []),
    }
}

/// What the application said, or the status for an invocation that never ran.
fn ended(
    outcome: Outcome,
    invocation: &Option<InvocationId>,
) -> Result<Result<Payload, pb::ApplicationError>, Status> {
    let id = || invocation.as_ref().map(ToString::to_string).unwrap_or_default();
    match outcome {
        Outcome::Done(payload) => Ok(Ok(payload)),
        Outcome::Failed(error) => Ok(Err(application_error_to(error))),
        Outcome::Refused(Refusal::ChannelClosed) => {
            let message = "the sidecar was gone for too long; the outcome is unknown";
            Err(status(ErrorReason::OutcomeUnknown, message, [("invocation", id())]))
        }
        Outcome::Refused(refusal) => {
            // The value is the owner's; nodes may be configured differently.
            let limit = bound_of(refusal);
            let message =
                format!("limit {} of the target's owner reached", limit.replace('_', "-"));
            let metadata = [("limit", limit.to_owned()), ("invocation", id())];
            Err(status(ErrorReason::LimitReached, message, metadata))
        }
        Outcome::Expired => {
            let message = "the deadline passed before the invocation started; it never will";
            Err(status(ErrorReason::Expired, message, [("invocation", id())]))
        }
    }
}

/// Name of the bound behind a refusal, as in `Limits`.
fn bound_of(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::ActorQueueFull => "queue_per_actor_max",
        Refusal::PartitionFull => "unfinished_per_partition_max",
        Refusal::TooDeep => "depth_max",
        Refusal::ChannelClosed => "departed_grace_ms",
    }
}

fn entries(state: std::collections::BTreeMap<Arc<str>, Payload>) -> HashMap<String, pb::Payload> {
    let entries = state.into_iter().map(|(k, v)| (k.to_string(), payload_to(v, false)));
    entries.collect()
}

fn application_error_to(error: ApplicationError) -> pb::ApplicationError {
    let payload = error.payload;
    let has_payload = !payload.data.is_empty() || !payload.content_type.is_empty();
    pb::ApplicationError {
        code: error.code.to_string(),
        message: error.message.to_string(),
        detail: error.detail.to_string(),
        payload: has_payload.then(|| payload_to(payload, false)),
    }
}

/// A payload for a component; with `json` in the form for people if it is JSON.
fn payload_to(payload: Payload, json: bool) -> pb::Payload {
    use pb::payload::Body;
    let content_type = payload.content_type.to_string();
    let value =
        if json && json::is_json(&content_type) { json::from_text(&payload.data) } else { None };
    let body = match value {
        Some(value) => Body::Json(value),
        None => Body::Data(payload.data),
    };
    pb::Payload { body: Some(body), content_type }
}

// === hosting ===

/// What a component hosts; `None`: nothing.
///
/// # Errors
///
/// The status that names the wrong field.
pub fn offer(hello: &pb::Hello) -> Result<Option<Offer>, Status> {
    let mut kinds = Vec::new();
    for service in &hello.services {
        kinds.push(Kind::service(name("hello.services.name", &service.name)?));
    }
    for actor_type in &hello.actor_types {
        kinds.push(Kind::actor(name("hello.actor_types.name", &actor_type.name)?));
    }
    if kinds.len() > KINDS_MAX {
        let hit = LimitHit { name: "kinds_max", limit: KINDS_MAX as u64 };
        return Err(limit_reached(hit));
    }
    let concurrency = match u32::try_from(hello.concurrency) {
        Ok(0) => CONCURRENCY_DEFAULT,
        Ok(concurrency) => concurrency,
        Err(_) => return Err(invalid_field("hello.concurrency", "must not be negative")),
    };
    kinds.sort();
    kinds.dedup();
    let offer = Offer { kinds, concurrency, strict: hello.strict };
    Ok((!offer.kinds.is_empty()).then_some(offer))
}

/// A turn for the component.
pub fn turn_to(turn: Turn) -> pb::InvocationFrame {
    let mode = match turn.mode {
        Mode::Call => pb::InvocationMode::Call,
        Mode::Tell => pb::InvocationMode::Tell,
        Mode::Start => pb::InvocationMode::Start,
    };
    pb::InvocationFrame {
        turn_token: turn.token.to_string(),
        target: Some(target_to(&turn.kind, turn.actor.as_deref())),
        method: turn.method.to_string(),
        payload: Some(payload_to(turn.payload, false)),
        mode: mode.into(),
        attempt: i32::try_from(turn.token.attempt).unwrap_or(i32::MAX),
        start_before_time: turn.deadline.map(timestamp),
        trace_parent: turn.trace.to_string(),
    }
}

/// An at-most-once turn for the component.
pub fn direct_to(turn: u64, call: DirectCall) -> pb::InvocationFrame {
    pb::InvocationFrame {
        turn_token: format!("{DIRECT_PREFIX}{turn}"),
        target: Some(target_to(&call.kind, None)),
        method: call.method.to_string(),
        payload: Some(payload_to(call.payload, false)),
        mode: pb::InvocationMode::Direct.into(),
        attempt: 1,
        start_before_time: None,
        trace_parent: call.trace.to_string(),
    }
}

/// Which turn ended, and how. A result that is too long becomes an application error: the turn did end, and nothing
/// else could be told to its caller.
///
/// # Errors
///
/// The status that names the wrong field.
pub fn turn_outcome(
    outcome: pb::TurnOutcome,
    limits: &Limits,
) -> Result<(TurnRef, TurnResult), Status> {
    use pb::turn_outcome::Result as R;
    let turn = match outcome.turn_token.strip_prefix(DIRECT_PREFIX) {
        Some(number) => TurnRef::Direct(
            number.parse().map_err(|_| invalid_field("turn_token", "is none that was given"))?,
        ),
        None => TurnRef::Durable(required_turn(&outcome.turn_token)?),
    };
    let max = limits.message_bytes_max;
    let result = match outcome.result {
        None => return Err(invalid_field("turn_result.result", "is missing")),
        Some(R::Payload(payload)) => match payload_from("result", Some(payload), max) {
            Ok((payload, _)) => Outcome::Done(payload),
            Err(status) => too_long(&status),
        },
        Some(R::Error(error)) => match payload_from("error.payload", error.payload, max) {
            Ok((payload, _)) if text_fits(&error.message, &error.detail, max) => {
                Outcome::Failed(ApplicationError {
                    code: error.code.into(),
                    message: error.message.into(),
                    detail: error.detail.into(),
                    payload,
                })
            }
            Ok(_) => too_long(&too_large("error", error.message.len() + error.detail.len(), max)),
            Err(status) => too_long(&status),
        },
        Some(R::Cancelled(_)) => return Ok((turn, TurnResult::Cancelled)),
    };
    Ok((turn, TurnResult::Ended(result)))
}

fn text_fits(message: &str, detail: &str, max: usize) -> bool {
    message.len() + detail.len() <= max
}

fn too_long(status: &Status) -> Outcome {
    Outcome::Failed(ApplicationError {
        code: "kar.MESSAGE_TOO_LARGE".into(),
        message: status.message().into(),
        ..ApplicationError::default()
    })
}

/// A target for people and components.
pub fn target_to(kind: &Kind, actor: Option<&str>) -> pb::Target {
    use pb::target::Kind as K;
    let kind = match actor {
        Some(id) => K::Actor(pb::ActorTarget { r#type: kind.name.to_string(), id: id.to_owned() }),
        None => K::Service(pb::ServiceTarget {
            name: kind.name.to_string(),
            affinity_key: String::new(),
        }),
    };
    pb::Target { kind: Some(kind) }
}

/// A time for people and components.
pub fn timestamp(time: Millis) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(time / 1_000).unwrap_or(i64::MAX),
        nanos: (time % 1_000) as i32 * 1_000_000,
    }
}

/// Bytes that an answer holds, roughly: for the bound of a send queue.
pub fn reply_size(reply: &Reply) -> usize {
    use pb::payload::Body;
    let size = |payload: &pb::Payload| match &payload.body {
        Some(Body::Data(data)) => data.len(),
        // Only people ask for this form.
        Some(Body::Json(value)) => prost::Message::encoded_len(value),
        None => 0,
    };
    let entries = |e: &HashMap<String, pb::Payload>| -> usize {
        e.iter().map(|(k, v)| k.len() + size(v) + 16).sum()
    };
    let content = match reply {
        Reply::Invoke(r) => match &r.result {
            Some(pb::invoke_response::Result::Payload(p)) => size(p),
            _ => 256,
        },
        Reply::CallActor(r) => match &r.result {
            Some(pb::call_actor_response::Result::Payload(p)) => size(p),
            _ => 256,
        },
        Reply::Await(r) => match &r.result {
            Some(pb::await_response::Result::Payload(p)) => size(p),
            _ => 256,
        },
        Reply::ActorStateGet(r) => entries(&r.entries),
        Reply::ActorStateGetAll(r) => entries(&r.entries),
        Reply::StateGet(r) => r.value.as_ref().map_or(0, size),
        Reply::StateList(r) => {
            r.entries.iter().map(|e| e.key.len() + e.value.as_ref().map_or(0, size)).sum()
        }
        _ => 0,
    };
    content + 64
}
