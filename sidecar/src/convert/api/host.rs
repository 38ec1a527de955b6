//! Hosting: what a component offers, the turns it runs, and how they end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kar_core::effect::Turn;
use kar_core::event::{Offer, TailCall, TurnResult};
use kar_core::events::{EventOrigin, EventPosition};
use kar_core::ids::{Kind, TurnToken};
use kar_core::invocation::{ApplicationError, Mode, Outcome, Payload, RetryPolicy, Work};
use kar_core::limits::{LimitHit, Limits};
use kar_proto::v1 as pb;
use tonic::Status;

use super::field::{core_target, method, name, payload_from, required_turn};
use super::retry::retry_policy;
use super::{DIRECT_PREFIX, payload_to, target_to, timestamp};
use crate::convert::error::{invalid_field, limit_reached, too_large};
use crate::convert::event::{decode_event, event_to};
use crate::convert::{owned, written};
use crate::driver::outlets::DirectCall;

/// Kinds that one component may host.
const KINDS_MAX: usize = 1_024;
/// Root turns at once, where a component does not say.
const CONCURRENCY_DEFAULT: u32 = 1_000;

/// Which turn a component means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TurnRef {
    /// A durable one.
    Durable(TurnToken),
    /// An at-most-once one.
    Direct(u64),
}

/// What a component hosts; `None`: nothing.
///
/// # Errors
///
/// The status that names the wrong field.
pub fn offer(hello: &pb::Hello, limits: &Limits) -> Result<Option<Offer>, Status> {
    let (mut kinds, mut shared) = (Vec::new(), BTreeMap::<_, BTreeSet<_>>::new());
    let mut deactivates = BTreeSet::new();
    for service in &hello.services {
        kinds.push(Kind::service(name("hello.services.name", &service.name)?));
    }
    for actor_type in &hello.actor_types {
        let kind = Kind::actor(name("hello.actor_types.name", &actor_type.name)?);
        for hosted in actor_type.methods.iter().filter(|method| method.shared) {
            shared.entry(kind.clone()).or_default().insert(method(hosted.name.clone())?);
        }
        if actor_type.deactivates {
            deactivates.insert(kind.clone());
        }
        kinds.push(kind);
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
    let retries = retries(hello, limits)?;
    let strict = hello.strict;
    let offer = Offer { kinds, concurrency, strict, shared, retries, deactivates };
    Ok((!offer.kinds.is_empty()).then_some(offer))
}

/// Names of the methods of what a component hosts, where it says which there are.
pub fn methods(hello: &pb::Hello) -> BTreeMap<Kind, BTreeSet<String>> {
    let services = hello.services.iter().map(|s| (Kind::service(&s.name), &s.methods));
    let actors = hello.actor_types.iter().map(|a| (Kind::actor(&a.name), &a.methods));
    let told = services.chain(actors).filter(|(_, methods)| !methods.is_empty());
    told.map(|(kind, methods)| (kind, methods.iter().map(|m| m.name.clone()).collect())).collect()
}

/// How errors of methods are retried, where the component says so.
fn retries(
    hello: &pb::Hello,
    limits: &Limits,
) -> Result<BTreeMap<(Kind, Arc<str>), RetryPolicy>, Status> {
    let services = hello.services.iter().map(|s| (Kind::service(&s.name), &s.methods));
    let actors = hello.actor_types.iter().map(|a| (Kind::actor(&a.name), &a.methods));
    let mut retries = BTreeMap::new();
    for (kind, methods) in services.chain(actors) {
        for hosted in methods {
            let Some(policy) = &hosted.retry_policy else { continue };
            let policy = retry_policy("hello.methods.retry_policy", policy, limits)?;
            retries.insert((kind.clone(), method(hosted.name.clone())?), policy);
        }
    }
    Ok(retries)
}

/// A turn for the component.
pub fn turn_to(turn: Turn) -> pb::InvocationFrame {
    let mode = match (turn.work, turn.mode) {
        (Work::Deactivate, _) => pb::InvocationMode::Deactivate,
        (_, Mode::Call) => pb::InvocationMode::Call,
        (_, Mode::Tell) => pb::InvocationMode::Tell,
        (_, Mode::Start) => pb::InvocationMode::Start,
    };
    let (payload, event) = match turn.event {
        Some(origin) => delivered(turn.payload, &origin),
        None => (turn.payload, None),
    };
    let recorded = turn.recorded_steps.into_iter();
    let recorded = recorded.map(|(key, value)| (key.to_string(), payload_to(value, false)));
    pb::InvocationFrame {
        turn_token: written(&turn.token),
        target: Some(target_to(&turn.kind, turn.actor.as_deref())),
        method: owned(&turn.method),
        payload: Some(payload_to(payload, false)),
        event: event.map(Box::new),
        mode: mode.into(),
        attempt: i32::try_from(turn.token.attempt).unwrap_or(i32::MAX),
        start_before_time: turn.deadline.map(timestamp),
        trace_parent: owned(&turn.trace),
        step: i32::try_from(turn.token.step).unwrap_or(i32::MAX),
        recorded_steps: recorded.collect(),
        activation: turn.activation,
    }
}

/// An event that is delivered, taken apart: its data are the payload. What is no event, which no topic has, goes as it
/// is.
fn delivered(payload: Payload, origin: &EventOrigin) -> (Payload, Option<pb::EventDelivery>) {
    let mut event = match decode_event(payload.data.clone()) {
        Ok(event) => event,
        Err(error) => {
            tracing::error!(%error, "an event that is delivered cannot be read by this version");
            return (payload, None);
        }
    };
    let data = std::mem::take(&mut event.data);
    let position = EventPosition { partition: origin.place.partition, offset: origin.offset };
    let delivery = pb::EventDelivery {
        event: Some(pb::Event { data: None, ..event_to(event, false) }),
        subscription: origin.subscription.to_string(),
        topic: origin.topic.to_string(),
        position: position.to_string(),
    };
    (data, Some(delivery))
}

/// What a turn takes on its way to the component at most, bytes: for what goes into one message.
pub fn turn_size(turn: &Turn) -> usize {
    let steps = turn.recorded_steps.iter();
    let steps: usize = steps.map(|(key, value)| key.len() + payload_size(value)).sum();
    let actor = turn.actor.as_ref().map_or(0, |actor| actor.len());
    let event = turn
        .event
        .as_ref()
        .map_or(0, |origin| origin.subscription.len() + origin.topic.len() + EVENT_BYTES);
    let names = actor + turn.method.len() + turn.trace.len() + event;
    payload_size(&turn.payload) + names + steps + TURN_BYTES
}

/// The same of an at-most-once turn.
pub fn direct_size(call: &DirectCall) -> usize {
    payload_size(&call.payload) + call.method.len() + call.trace.len() + TURN_BYTES
}

fn payload_size(payload: &Payload) -> usize {
    payload.data.len() + payload.content_type.len() + PAYLOAD_BYTES
}

/// What a turn takes besides: its token, the name of its kind, tags and lengths.
const TURN_BYTES: usize = 512;
/// What an event takes besides its names and what is stored of it: where it is from, tags and lengths, which grow a
/// little, as each attribute becomes an entry of a map.
const EVENT_BYTES: usize = 1_024;
/// What a payload takes besides: tags and lengths.
const PAYLOAD_BYTES: usize = 32;

/// An at-most-once turn for the component.
pub fn direct_to(turn: u64, call: DirectCall) -> pb::InvocationFrame {
    pb::InvocationFrame {
        turn_token: format!("{DIRECT_PREFIX}{turn}"),
        target: Some(target_to(&call.kind, None)),
        method: owned(&call.method),
        payload: Some(payload_to(call.payload, false)),
        mode: pb::InvocationMode::Direct.into(),
        attempt: 1,
        start_before_time: None,
        trace_parent: owned(&call.trace),
        step: 1,
        recorded_steps: HashMap::new(),
        activation: 0,
        event: None,
    }
}

/// Which turn a component means.
///
/// # Errors
///
/// The status that names the wrong field.
pub fn turn_ref(turn_token: &str) -> Result<TurnRef, Status> {
    Ok(match turn_token.strip_prefix(DIRECT_PREFIX) {
        Some(number) => TurnRef::Direct(
            number.parse().map_err(|_| invalid_field("turn_token", "is none that was given"))?,
        ),
        None => TurnRef::Durable(required_turn(turn_token)?),
    })
}

/// How a turn ended. A result that is too long, or a tail call to nobody, becomes an application error: the
/// turn did end, and nothing else could be told to its caller. Ending the stream for it would make the next attempt do
/// the same to the next stream.
///
/// # Errors
///
/// The status that names the wrong field.
pub fn turn_outcome(
    result: Option<pb::turn_outcome::Result>,
    limits: &Limits,
) -> Result<TurnResult, Status> {
    use pb::turn_outcome::Result as R;
    let max = limits.message_bytes_max;
    let result = match result {
        None => return Err(invalid_field("turn_result.result", "is missing")),
        Some(R::Payload(payload)) => match payload_from("result", Some(payload), max) {
            Ok((payload, _)) => Outcome::Done(payload),
            Err(status) => too_long(&status),
        },
        Some(R::Error(mut error)) => match payload_from("error.payload", error.payload.take(), max)
        {
            Ok((payload, _)) if error_bytes(&error, &payload) <= max => {
                Outcome::Failed(ApplicationError {
                    code: error.code.into(),
                    message: error.message.into(),
                    detail: error.detail.into(),
                    payload,
                    retryable: error.retryable,
                })
            }
            Ok((payload, _)) => too_long(&too_large("error", error_bytes(&error, &payload), max)),
            Err(status) => too_long(&status),
        },
        Some(R::Cancelled(_)) => return Ok(TurnResult::Cancelled),
        Some(R::TailCall(call)) => match tail_call(call, max) {
            Ok(call) => return Ok(TurnResult::TailCall(call)),
            Err(error) => Outcome::Failed(error),
        },
    };
    Ok(TurnResult::Ended(result))
}

fn tail_call(call: pb::TailCall, max: usize) -> Result<TailCall, ApplicationError> {
    let wrong = |status: Status| ApplicationError {
        code: "kar.INVALID_TAIL_CALL".into(),
        message: status.message().into(),
        ..ApplicationError::default()
    };
    let payload = payload_from("tail_call.payload", call.payload, max);
    let (payload, _) = payload.map_err(|status| too_long_error(&status))?;
    let target = core_target(call.target).map_err(wrong)?;
    let method = method(call.method).map_err(wrong)?;
    Ok(TailCall { target, method, payload, keeps_lock: call.keep_lock })
}

/// What an error takes, all together.
fn error_bytes(error: &pb::ApplicationError, payload: &Payload) -> usize {
    error.code.len() + error.message.len() + error.detail.len() + payload.data.len()
}

fn too_long(status: &Status) -> Outcome {
    Outcome::Failed(too_long_error(status))
}

fn too_long_error(status: &Status) -> ApplicationError {
    ApplicationError {
        code: "kar.MESSAGE_TOO_LARGE".into(),
        message: status.message().into(),
        ..ApplicationError::default()
    }
}

#[cfg(test)]
mod tests {
    use kar_core::events::{Draft, EventTime};
    use kar_core::ids::{InvocationId, PartitionId, TopicPartition, Uuid};
    use kar_core::limits::Limits;
    use kar_core::record::RecordedStep;
    use prost::Message as _;

    use super::*;
    use crate::convert::event::encode_event;

    /// Messages are packed by these sizes, and components take no longer ones.
    #[test]
    fn turns_are_no_longer_than_they_are_counted() {
        let (name, text): (String, Arc<str>) = ("k".repeat(128), "t".repeat(512).into());
        let payload = Payload { data: vec![7; 5_000].into(), content_type: text.clone() };
        let home = PartitionId::new(Kind::actor(&name), u32::MAX);
        let invocation = InvocationId { home, uuid: Uuid(u128::MAX) };
        let token = TurnToken { invocation, step: u32::MAX, attempt: u32::MAX, epoch: u64::MAX };
        let step = |n: usize| (format!("{n}{text}").into(), payload.clone());
        for steps in [0, 1, 200] {
            let turn = Turn {
                token: token.clone(),
                kind: Kind::actor(&name),
                actor: Some(text.clone()),
                method: text.clone(),
                payload: payload.clone(),
                mode: Mode::Start,
                work: Work::Deactivate,
                activation: u64::MAX,
                deadline: Some(u64::MAX / 2),
                event: None,
                trace: text.clone(),
                recorded_steps: (0..steps).map(step).collect(),
                slot: true,
            };
            let counted = turn_size(&turn);
            // What `Limits::turn_bytes_max` promises to every component, if bounds are just what this turn has.
            let recorded = turn.recorded_steps.iter().map(|(key, payload)| {
                RecordedStep { key: key.clone(), payload: payload.clone() }.size()
            });
            let limits = Limits {
                message_bytes_max: turn.payload.data.len(),
                step_bytes_per_invocation_max: recorded.sum(),
                ..Limits::default()
            };
            let encoded = turn_to(turn).encoded_len();
            assert!(encoded <= counted, "{steps} steps: {encoded} > {counted}");
            assert!(encoded <= limits.turn_bytes_max(), "{steps} steps: {encoded}");
        }
    }

    /// The same of turns that deliver events, whose data are the argument and the rest goes beside it.
    #[test]
    fn events_are_no_longer_than_they_are_counted() {
        let long: Arc<str> = "t".repeat(128).into();
        let attributes = (0..64).map(|n| (format!("a{n}"), "v".repeat(1_024)));
        let draft = Draft {
            kind: "k".repeat(1_024),
            subject: "s".repeat(1_024),
            time: Some(EventTime { seconds: -1, nanos: 999_999_999 }),
            data: Payload { data: vec![7; 5_000].into(), content_type: "text/plain".into() },
            attributes: attributes.collect(),
            ..Draft::default()
        };
        let event = draft.complete(|| "1".into(), "/s", EventTime::default()).expect("an event");
        let origin = EventOrigin {
            subscription: long.clone(),
            topic: long,
            place: TopicPartition { id: "i".into(), partition: 255 },
            offset: u64::MAX,
            dead_letter: None,
            event: None,
        };
        let home = PartitionId::new(Kind::actor("A"), 0);
        let invocation = InvocationId { home, uuid: Uuid(u128::MAX) };
        let turn = Turn {
            token: TurnToken { invocation, step: 1, attempt: 1, epoch: 1 },
            kind: Kind::actor("A"),
            actor: Some("1".into()),
            method: "m".into(),
            payload: Payload { data: encode_event(&event), content_type: Arc::default() },
            mode: Mode::Tell,
            work: Work::Method,
            activation: 1,
            deadline: None,
            trace: Arc::default(),
            recorded_steps: BTreeMap::new(),
            event: Some(origin.into()),
            slot: true,
        };
        let counted = turn_size(&turn);
        let limits = Limits {
            message_bytes_max: turn.payload.data.len(),
            step_bytes_per_invocation_max: 0,
            ..Limits::default()
        };
        let frame = turn_to(turn);
        let encoded = frame.encoded_len();
        assert!(encoded <= counted && encoded <= limits.turn_bytes_max(), "{encoded} > {counted}");
        let payload = frame.payload.expect("its data");
        assert_eq!(payload.content_type, "text/plain");
        assert_eq!(payload.body, Some(pb::payload::Body::Data(vec![7; 5_000].into())));
        let delivery = frame.event.expect("it delivers one");
        assert_eq!(delivery.position, format!("255/{}", u64::MAX));
        let told = delivery.event.expect("told");
        assert_eq!((told.attributes.len(), told.data), (64, None));
    }
}
