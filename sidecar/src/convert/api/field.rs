//! Single fields of the public API. Every refusal names its field.

use std::sync::Arc;

use kar_core::ids::{InvocationId, Kind, Millis, TurnToken, is_name};
use kar_core::invocation::{Payload, Target as CoreTarget};
use kar_proto::v1 as pb;
use tonic::Status;

use super::DIRECT_PREFIX;
use crate::convert::error::{invalid_field, too_large};
use crate::convert::{json, shared, taken_out};

/// Longest method name, bytes.
const METHOD_BYTES_MAX: usize = 256;
/// Longest actor id, state key or affinity key, bytes.
pub(super) const KEY_BYTES_MAX: usize = 512;
/// Longest content type, trace context or etag, bytes.
pub(super) const SHORT_BYTES_MAX: usize = 256;

/// Longest duration, seconds: 10,000 years, the bound that `google.protobuf.Duration` states for itself.
const DURATION_SECONDS_MAX: u64 = 315_576_000_000;
/// Nanoseconds are the part of a duration below a second.
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Parses a payload of at most `max` bytes; tells whether it came in the form for people.
pub(super) fn payload_from(
    field: &str,
    payload: Option<pb::Payload>,
    max: usize,
) -> Result<(Payload, bool), Status> {
    use pb::payload::Body;
    let payload = payload.unwrap_or_default();
    if payload.content_type.len() > SHORT_BYTES_MAX {
        return Err(invalid_field(&format!("{field}.content_type"), "is too long"));
    }
    let (payload, json) = match payload.body {
        Some(Body::Json(value)) => {
            let data = json::to_text(&value);
            (Payload { data, content_type: json::CONTENT_TYPE.into() }, true)
        }
        Some(Body::Data(data)) => {
            let data = taken_out(data);
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

pub(super) fn name<'a>(field: &str, text: &'a str) -> Result<&'a str, Status> {
    if is_name(text) {
        return Ok(text);
    }
    let what = "must be 1 to 128 of A-Z a-z 0-9 _ - . and must not start with . or -";
    Err(invalid_field(field, what))
}

pub(super) fn method(text: String) -> Result<Arc<str>, Status> {
    match text.len() {
        1..=METHOD_BYTES_MAX => Ok(text.into()),
        0 => Err(invalid_field("method", "is missing")),
        _ => Err(invalid_field("method", "must have at most 256 bytes")),
    }
}

pub(super) fn key(field: &str, text: &str) -> Result<Arc<str>, Status> {
    if (1..=KEY_BYTES_MAX).contains(&text.len()) {
        return Ok(text.into());
    }
    Err(invalid_field(field, "must have 1 to 512 bytes"))
}

pub(super) fn affinity(text: &str) -> Result<Option<Arc<str>>, Status> {
    if text.is_empty() { Ok(None) } else { key("affinity_key", text).map(Some) }
}

/// The key under which a turn's call keeps its outcome; empty is none.
pub(super) fn step_key(text: &str, in_turn: bool) -> Result<Option<Arc<str>>, Status> {
    match (text.is_empty(), in_turn) {
        (true, _) => Ok(None),
        (false, true) => key("step_key", text).map(Some),
        (false, false) => Err(invalid_field("step_key", "must be empty outside turns")),
    }
}

pub(super) fn bounded(field: &str, text: String, max: usize) -> Result<String, Status> {
    if text.len() <= max {
        return Ok(text);
    }
    Err(invalid_field(field, &format!("must have at most {max} bytes")))
}

pub(super) fn optional(field: &str, text: String) -> Result<Option<String>, Status> {
    let text = bounded(field, text, SHORT_BYTES_MAX)?;
    Ok((!text.is_empty()).then_some(text))
}

pub(super) fn core_target(target: Option<pb::Target>) -> Result<CoreTarget, Status> {
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

pub(super) fn actor_target(
    field: &str,
    actor: Option<&pb::ActorTarget>,
) -> Result<CoreTarget, Status> {
    let actor = actor.ok_or_else(|| invalid_field(field, "is missing"))?;
    let kind = Kind::actor(name(&format!("{field}.type"), &actor.r#type)?);
    let id = key(&format!("{field}.id"), &actor.id)?;
    Ok(CoreTarget { kind, actor: Some(id), affinity: None })
}

/// Parses an invocation's id.
///
/// # Errors
///
/// The status that says what is wrong with it.
pub fn invocation_id(text: &str) -> Result<InvocationId, Status> {
    let parsed = text.parse::<InvocationId>();
    parsed.map_err(|e| invalid_field("invocation_id", &e.to_string()))
}

/// A length of time of at least a millisecond, in milliseconds; what is below one is cut off.
pub(super) fn duration(field: &str, duration: &prost_types::Duration) -> Result<Millis, Status> {
    let wrong = |what| invalid_field(field, what);
    let too_short = |_| wrong("must be at least 1 ms");
    let seconds = u64::try_from(duration.seconds).map_err(too_short)?;
    let nanos = u64::try_from(duration.nanos).map_err(|_| wrong("nanos must not be negative"))?;
    if nanos >= NANOS_PER_SECOND {
        return Err(wrong("nanos must be below 1,000,000,000: the rest belongs into seconds"));
    }
    if seconds > DURATION_SECONDS_MAX || (seconds == DURATION_SECONDS_MAX && nanos > 0) {
        return Err(wrong("must be at most 10,000 years (315,576,000,000 s)"));
    }
    match seconds * 1_000 + nanos / 1_000_000 {
        0 => Err(wrong("must be at least 1 ms")),
        millis => Ok(millis),
    }
}

/// The token of a turn; empty is none. An at-most-once turn has none to give: what it asks for is a root.
pub(super) fn turn(text: &str) -> Result<Option<TurnToken>, Status> {
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

pub(super) fn required_turn(text: &str) -> Result<TurnToken, Status> {
    turn(text)?.ok_or_else(|| invalid_field("turn_token", "is missing"))
}
