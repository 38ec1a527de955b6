//! Errors of the public API: a gRPC status with a `google.rpc.ErrorInfo` of domain `kar` and one reason for each cause;
//! the same details travel in unary answers and on the component's stream.

use std::collections::HashMap;

use kar_core::effect::RequestError;
use kar_core::events::EventPosition;
use kar_core::limits::LimitHit;
use kar_core::schedule::ScheduleError;
use kar_core::subscription::SubscriptionError;
use kar_proto::google::rpc;
use kar_proto::v1::ErrorReason;
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::api::actor_state::shown;

/// Domain of every error of KAR.
const DOMAIN: &str = "kar";

/// The gRPC code of a reason.
fn code_of(reason: ErrorReason) -> Code {
    match reason {
        ErrorReason::Unspecified => Code::Internal,
        ErrorReason::InvalidField
        | ErrorReason::ProtocolViolation
        | ErrorReason::MalformedMessage => Code::InvalidArgument,
        ErrorReason::LimitReached | ErrorReason::MessageTooLarge => Code::ResourceExhausted,
        ErrorReason::TurnSuperseded
        | ErrorReason::ConditionFailed
        | ErrorReason::Deadlock
        | ErrorReason::Cancelled
        | ErrorReason::ConsumerTakenOver => Code::Aborted,
        ErrorReason::TurnEnded
        | ErrorReason::StepKeyReused
        | ErrorReason::IdempotencyKeyReused
        | ErrorReason::SharedTurn
        | ErrorReason::SharedToExclusive
        | ErrorReason::NotParked => Code::FailedPrecondition,
        ErrorReason::Expired => Code::DeadlineExceeded,
        ErrorReason::OutcomeUnknown => Code::Unknown,
        ErrorReason::NoHost | ErrorReason::Draining | ErrorReason::BackendUnavailable => {
            Code::Unavailable
        }
        ErrorReason::UnknownInvocation
        | ErrorReason::UnknownMethod
        | ErrorReason::UnknownType
        | ErrorReason::UnknownTopic
        | ErrorReason::UnknownSubscription => Code::NotFound,
        ErrorReason::WrongApiToken => Code::Unauthenticated,
        ErrorReason::AlreadyHosting
        | ErrorReason::TopicExists
        | ErrorReason::SubscriptionExists => Code::AlreadyExists,
        ErrorReason::NotImplemented => Code::Unimplemented,
    }
}

/// A status with its reason and metadata.
pub fn status<const N: usize>(
    reason: ErrorReason,
    message: impl Into<String>,
    metadata: [(&str, String); N],
) -> Status {
    status_as(code_of(reason), reason, message, metadata)
}

/// The same with another gRPC code than the reason's own: where gRPC itself wants one.
pub fn status_as<const N: usize>(
    code: Code,
    reason: ErrorReason,
    message: impl Into<String>,
    metadata: [(&str, String); N],
) -> Status {
    let name = reason.as_str_name();
    let name = name.strip_prefix("ERROR_REASON_").unwrap_or(name);
    let metadata: HashMap<String, String> =
        metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let details = ErrorDetails::with_error_info(name, DOMAIN, metadata);
    Status::with_error_details(code, message.into(), details)
}

/// A field is missing or malformed.
pub fn invalid_field(field: &str, what: &str) -> Status {
    let message = format!("{field}: {what}");
    status(ErrorReason::InvalidField, message, [("field", field.to_owned())])
}

/// A payload is longer than the limit.
pub fn too_large(field: &str, bytes: usize, limit: usize) -> Status {
    let message = format!("{field} has {bytes} bytes, the limit is {limit}: send less at once");
    let metadata = [
        ("field", field.to_owned()),
        ("limit", "message_bytes_max".to_owned()),
        ("value", limit.to_string()),
    ];
    status(ErrorReason::MessageTooLarge, message, metadata)
}

/// A stream frame breaks the protocol.
pub fn protocol_violation(frame: &str, what: &str) -> Status {
    let message = format!("frame {frame}: {what}");
    status(ErrorReason::ProtocolViolation, message, [("frame", frame.to_owned())])
}

/// An event is not one that this version understands.
pub fn not_understood(topic: &str, place: EventPosition, error: &dyn std::fmt::Display) -> Status {
    let message = format!(
        "the event at {place} of topic '{topic}' is not understood by this version of the sidecar ({error}): use the \
         newer one, or begin behind it"
    );
    let metadata = [("topic", topic.to_owned()), ("position", place.to_string())];
    status(ErrorReason::NotImplemented, message, metadata)
}

/// A named bound was hit.
pub fn limit_reached(hit: LimitHit) -> Status {
    let metadata = [("limit", hit.name.to_owned()), ("value", hit.limit.to_string())];
    status(ErrorReason::LimitReached, hit.to_string(), metadata)
}

/// Why the core did not carry out a request.
pub fn request_error(error: &RequestError) -> Status {
    let message = error.to_string();
    match error {
        RequestError::TurnSuperseded(token) => {
            status(ErrorReason::TurnSuperseded, message, [("turn", token.to_string())])
        }
        RequestError::TurnEnded(token) => {
            status(ErrorReason::TurnEnded, message, [("turn", token.to_string())])
        }
        RequestError::Limit(hit) => limit_reached(*hit),
        RequestError::KindRefused(refused) => {
            let metadata = [
                ("limit", refused.hit.name.to_owned()),
                ("value", refused.hit.limit.to_string()),
                ("target", refused.kind.name.to_string()),
            ];
            status(ErrorReason::LimitReached, message, metadata)
        }
        RequestError::Schedule(error) => {
            let field = match error {
                ScheduleError::Period => "reminder.period",
                ScheduleError::Cron(_) | ScheduleError::Never(_) => "reminder.cron.expression",
                ScheduleError::Zone(_) => "reminder.cron.time_zone",
                _ => "reminder.due_time",
            };
            invalid_field(field, &message)
        }
        RequestError::Invalid(_) => status(ErrorReason::InvalidField, message, []),
        RequestError::Unknown(_) => status(ErrorReason::OutcomeUnknown, message, []),
        RequestError::NoHost(kind) => {
            status(ErrorReason::NoHost, message, [("target", kind.name.to_string())])
        }
        RequestError::UnknownInvocation(id) => {
            status(ErrorReason::UnknownInvocation, message, [("invocation", id.to_string())])
        }
        RequestError::UnknownKind(kind) => {
            status(ErrorReason::UnknownType, message, [("type", kind.name.to_string())])
        }
        RequestError::Subscription(error) => {
            let field = match error {
                SubscriptionError::InFlight(_) => "subscription.in_flight",
                SubscriptionError::Filter(_) => "subscription.filter",
                _ => "subscription",
            };
            invalid_field(field, &message)
        }
        RequestError::SubscriptionDiffers(name) => {
            let named = [("subscription", name.to_string())];
            status(ErrorReason::SubscriptionExists, message, named)
        }
        RequestError::UnknownSubscription(name) => {
            let named = [("subscription", name.to_string())];
            status(ErrorReason::UnknownSubscription, message, named)
        }
        RequestError::TopicGone(to) => {
            status(ErrorReason::UnknownTopic, message, [("topic", to.id.to_string())])
        }
        RequestError::ConditionFailed(key) => {
            let (sub_map, key) = shown(key);
            let whose = match sub_map {
                "" => String::new(),
                name => format!(" of the sub-map '{name}'"),
            };
            let message =
                format!("the condition on key '{key}'{whose} does not hold: nothing was changed");
            let metadata = [("key", key.to_owned()), ("sub_map", sub_map.to_owned())];
            status(ErrorReason::ConditionFailed, message, metadata)
        }
        RequestError::SharedTurn => status(ErrorReason::SharedTurn, message, []),
        RequestError::StepKeyReused(key) => {
            status(ErrorReason::StepKeyReused, message, [("key", key.to_string())])
        }
        RequestError::ChannelClosed(partition) => {
            let metadata =
                [("cause", "channel_closed".to_owned()), ("partition", partition.to_string())];
            status(ErrorReason::BackendUnavailable, message, metadata)
        }
        RequestError::Unavailable(_) => status(ErrorReason::BackendUnavailable, message, []),
        RequestError::Draining => status(ErrorReason::Draining, message, []),
        other => {
            // A variant added to the core gets its reason here; until then it is not passed off as another one.
            tracing::error!(error = %other, "the core reported an error that has no reason yet");
            Status::internal(message)
        }
    }
}

/// A status as it travels on the component's stream.
pub fn on_stream(status: &Status) -> rpc::Status {
    let details = rpc::Status::decode(status.details()).map(|s| s.details).unwrap_or_default();
    rpc::Status { code: status.code() as i32, message: status.message().to_owned(), details }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_code_and_its_short_name() {
        for number in 1..=23 {
            let reason = ErrorReason::try_from(number).expect("reasons are numbered without gaps");
            let status = status(reason, "m", [("key", "value".to_owned())]);
            assert_ne!(status.code(), Code::Internal, "{reason:?} has no code");
            let details = status.get_error_details();
            let info = details.error_info().expect("it was put there");
            assert_eq!(info.domain, "kar");
            assert_eq!(format!("ERROR_REASON_{}", info.reason), reason.as_str_name());
            assert_eq!(info.metadata["key"], "value");
        }
        assert!(ErrorReason::try_from(24).is_err(), "extend the loop");
        for reason in [
            ErrorReason::Deadlock,
            ErrorReason::UnknownType,
            ErrorReason::UnknownTopic,
            ErrorReason::TopicExists,
            ErrorReason::ConsumerTakenOver,
        ] {
            assert_ne!(status(reason, "m", []).code(), Code::Internal, "{reason:?} has no code");
        }
    }

    #[test]
    fn details_survive_the_stream() {
        let status = invalid_field("method", "is missing");
        let wire = on_stream(&status);
        assert_eq!((wire.code, wire.message.as_str()), (3, "method: is missing"));
        assert_eq!(wire.details.len(), 1);
        assert_eq!(wire.details[0].type_url, "type.googleapis.com/google.rpc.ErrorInfo");
    }
}
