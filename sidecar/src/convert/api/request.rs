//! Requests of components.

use std::sync::Arc;

use kar_core::event::Operation;
use kar_core::ids::{InvocationId, Kind, Millis};
use kar_core::invocation::{Mode, Payload, RetryPolicy, Target as CoreTarget};
use kar_core::limits::Limits;
use kar_core::message::Control;
use kar_core::record::RecordedStep;
use kar_proto::v1 as pb;
use pb::request::Operation as Ask;
use tonic::Status;

use super::actor_state;
use super::event::{self, EventOperation, TurnEvents};
use super::field::{
    KEY_BYTES_MAX, SHORT_BYTES_MAX, actor_target, affinity, bounded, core_target, duration,
    invocation_id, key, method, name, payload_from, required_turn, step_key, turn,
};
use super::key::request_key;
use super::reminder;
use super::retry::retry_policy;
use super::state;
use super::subscription::{self, SubscriptionOperation};
use crate::application_state::StateOperation;
use crate::convert::error::invalid_field;
use crate::convert::shared;

/// A request, parsed.
#[derive(Debug)]
pub enum Prepared {
    /// For the core.
    Core(Box<Operation>, Shape),
    /// For the application's state.
    State(StateOperation),
    /// For topics.
    Event(EventOperation),
    /// For the core, when topics were looked up: what a turn publishes.
    TurnEvents(TurnEvents),
    /// For the core, when topics were looked up.
    Subscription(SubscriptionOperation),
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
    StateListSubMap,
    StateSubMapSize,
    Flush,
    RecordStep,
    Cancel,
    Resume { id: Box<InvocationId> },
    Redrive { id: Box<InvocationId> },
    Discard,
    ReminderSchedule,
    ReminderCancel,
    ReminderList { actor: Box<pb::ActorTarget> },
    RemoveActor,
}

/// Parses a request at the time `now`; at most `batch_events_max` events are published at once.
///
/// # Errors
///
/// The status that names the wrong field, the limit or what is not implemented.
pub fn prepare(
    ask: Ask,
    now: Millis,
    limits: &Limits,
    batch_events_max: usize,
) -> Result<Prepared, Status> {
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
        Ask::AwaitOutcome(r) => {
            let invocation = invocation_id(&r.invocation_id)?;
            (Operation::Await { invocation }, Shape::Await)
        }
        Ask::Cancel(r) => {
            let id = invocation_id(&r.invocation_id)?;
            let control = Control::Cancel(id.uuid);
            (Operation::Control { home: id.home, control }, Shape::Cancel)
        }
        Ask::Resume(r) => {
            let id = invocation_id(&r.invocation_id)?;
            let (home, control) = (id.home.clone(), Control::Resume(id.uuid));
            (Operation::Control { home, control }, Shape::Resume { id: Box::new(id) })
        }
        Ask::RedriveDeadLetter(r) => {
            let id = invocation_id(&r.invocation_id)?;
            let (home, control) = (id.home.clone(), Control::Redrive(id.uuid));
            (Operation::Control { home, control }, Shape::Redrive { id: Box::new(id) })
        }
        Ask::DiscardDeadLetter(r) => {
            let id = invocation_id(&r.invocation_id)?;
            let control = Control::Discard(id.uuid);
            (Operation::Control { home: id.home, control }, Shape::Discard)
        }
        Ask::ActorStateGet(_)
        | Ask::ActorStateGetAll(_)
        | Ask::ActorStateApply(_)
        | Ask::ActorStateContains(_)
        | Ask::ActorStateListSubMap(_)
        | Ask::ActorStateSubMapSize(_) => actor_state::operation(ask, limits)?,
        Ask::Flush(r) => (Operation::Flush { turn: required_turn(&r.turn_token)? }, Shape::Flush),
        Ask::RecordStep(r) => {
            let turn = required_turn(&r.turn_token)?;
            let (key, payload) = (key("key", &r.key)?, parser.payload("payload", r.payload)?.0);
            let step = RecordedStep { key, payload };
            (Operation::RecordStep { turn, step }, Shape::RecordStep)
        }
        Ask::ReminderSchedule(r) => (reminder::schedule(r, limits)?, Shape::ReminderSchedule),
        Ask::ReminderCancel(r) => (reminder::cancel(&r)?, Shape::ReminderCancel),
        Ask::ReminderList(r) => {
            let operation = reminder::list(&r)?;
            (operation, Shape::ReminderList { actor: Box::new(r.actor.unwrap_or_default()) })
        }
        Ask::RemoveActor(r) => {
            let target = actor_target("actor", r.actor.as_ref())?;
            let actor = target.actor.ok_or_else(|| invalid_field("actor.id", "is missing"))?;
            (Operation::RemoveActor { kind: target.kind, actor }, Shape::RemoveActor)
        }
        Ask::StateGet(_)
        | Ask::StateSet(_)
        | Ask::StateDelete(_)
        | Ask::StateTransact(_)
        | Ask::StateList(_) => return state::operation(ask, limits).map(Prepared::State),
        Ask::Subscribe(_)
        | Ask::Unsubscribe(_)
        | Ask::PauseSubscription(_)
        | Ask::ResumeSubscription(_)
        | Ask::ListSubscriptions(_)
        | Ask::RedriveSubscription(_) => {
            return subscription::operation(ask, limits).map(Prepared::Subscription);
        }
        Ask::Publish(_) | Ask::PublishBatch(_) if event::is_in_turn(&ask) => {
            return event::in_turn(ask, limits, batch_events_max).map(Prepared::TurnEvents);
        }
        Ask::Publish(_)
        | Ask::PublishBatch(_)
        | Ask::CreateTopic(_)
        | Ask::DeleteTopic(_)
        | Ask::DescribeTopic(_)
        | Ask::ListTopics(_)
        | Ask::DeleteConsumer(_) => {
            let operation = event::operation(ask, limits, batch_events_max)?;
            return Ok(Prepared::Event(operation));
        }
    };
    Ok(Prepared::Core(Box::new(operation), shape))
}

type SendParts =
    (Option<pb::Target>, String, Option<pb::Payload>, Option<pb::InvocationOptions>, String);

/// What every invocation may carry.
#[derive(Default)]
struct Options {
    deadline: Option<Millis>,
    trace: Arc<str>,
    retry: Option<RetryPolicy>,
    key: Option<String>,
}

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
        let Options { deadline, trace, retry, key } = self.options(r.options)?;
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
            if !r.step_key.is_empty() {
                return Err(invalid_field("step_key", "is for durable calls only"));
            }
            if retry.is_some() {
                return Err(invalid_field("options.retry_policy", "is for durable calls only"));
            }
            if key.is_some() {
                return Err(invalid_field("options.idempotency_key", "is for durable calls only"));
            }
            return Ok((Operation::InvokeDirect { kind, method, payload, trace }, shape));
        }
        let affinity = affinity(&r.affinity_key)?;
        let target = CoreTarget { kind, actor: None, affinity };
        let turn = turn(&r.turn_token)?;
        let step_key = step_key(&r.step_key, turn.is_some())?;
        let mode = Mode::Call;
        let key = request_key(turn.is_some(), (&target, &method, &payload), key)?;
        let operation = Operation::Invoke {
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
        };
        Ok((operation, shape))
    }

    fn call_actor(&self, r: pb::CallActorRequest) -> Result<(Operation, Shape), Status> {
        let target = actor_target("actor", r.actor.as_ref())?;
        let method = method(r.method)?;
        let (payload, json) = self.payload("payload", r.payload)?;
        let Options { deadline, trace, retry, key } = self.options(r.options)?;
        let turn = turn(&r.turn_token)?;
        let step_key = step_key(&r.step_key, turn.is_some())?;
        let mode = Mode::Call;
        let key = request_key(turn.is_some(), (&target, &method, &payload), key)?;
        let operation = Operation::Invoke {
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
        };
        Ok((operation, Shape::CallActor { json }))
    }

    fn send(&self, mode: Mode, parts: SendParts) -> Result<Operation, Status> {
        let (target, method_name, payload, options, turn_token) = parts;
        let target = core_target(target)?;
        let (payload, _) = self.payload("payload", payload)?;
        let Options { deadline, trace, retry, key } = self.options(options)?;
        let turn = turn(&turn_token)?;
        let method = method(method_name)?;
        let step_key = None;
        let key = request_key(turn.is_some(), (&target, &method, &payload), key)?;
        Ok(Operation::Invoke {
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

    fn options(&self, options: Option<pb::InvocationOptions>) -> Result<Options, Status> {
        let Some(options) = options else { return Ok(Options::default()) };
        let key = bounded("options.idempotency_key", options.idempotency_key, KEY_BYTES_MAX)?;
        let key = (!key.is_empty()).then_some(key);
        let trace = bounded("options.trace_parent", options.trace_parent, SHORT_BYTES_MAX)?;
        let within = options.start_within.map(|d| duration("options.start_within", &d));
        let deadline = within.transpose()?.map(|millis| self.now.saturating_add(millis));
        let policy = options.retry_policy.as_ref();
        let retry = policy.map(|p| retry_policy("options.retry_policy", p, self.limits));
        Ok(Options { deadline, trace: shared(trace), retry: retry.transpose()?, key })
    }
}
