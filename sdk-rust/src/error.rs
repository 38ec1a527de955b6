//! Errors: what a method returns ([`Error`]), what a caller gets ([`CallError`]), and what
//! connecting and hosting can come to ([`ConnectError`], [`HostError`]).

use std::any::type_name;
use std::collections::BTreeMap;
use std::fmt;

use kar_proto::google::rpc::Status;
use kar_proto::v1 as proto;
use prost::Message as _;

use crate::application_state::Etag;
use crate::codec::{CodecError, Encode, Payload};

/// Domain of KAR's typed error details.
const DOMAIN: &str = "kar";

/// An error that a method returned: a completion, which goes back to the caller and is not retried unasked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ApplicationError {
    /// Short machine-readable name, for example `insufficient_funds`.
    pub code: String,
    /// One line for people.
    pub message: String,
    /// Causes or other detail, as text; may be empty.
    pub detail: String,
    /// Typed detail for the caller's program.
    pub payload: Option<Payload>,
    /// Trying again may help: another attempt is made if the retry policy of the call, the method or the sidecar asks
    /// for it. A caller gets the last attempt's error.
    pub retryable: bool,
}

/// How a call, or any other request, failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The method returned an error.
    #[error(transparent)]
    Application(Box<ApplicationError>),
    /// The connection to the sidecar broke, or the sidecar cannot tell: the request may or may not
    /// have been carried out. Ask the application, or send it again if doing it twice is harmless.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The turn that asked is not the current attempt any more. Inside a turn: pass it on with `?`.
    #[error("the turn is superseded: another attempt took over")]
    Superseded,
    /// The turn that asked has already returned its result: something of it outlived it.
    #[error("the turn has already ended")]
    TurnEnded,
    /// The invocation did not start within the time given, and never will.
    #[error("expired before it started: {0}")]
    Expired(String),
    /// Somebody asked for the invocation's end, and it has ended so; it will not run again.
    #[error("cancelled: {0}")]
    Cancelled(String),
    /// A named bound was hit. Send less at once, or raise it.
    #[error("limit {name} ({value}) reached")]
    Limit {
        /// Name of the bound, as in the documentation and the sidecar's flags.
        name: String,
        /// Its value; empty if unknown.
        value: String,
    },
    /// A direct call found no live host.
    #[error("no host: {0}")]
    NoHost(String),
    /// There is no such invocation, or its result is not kept any more.
    #[error("unknown invocation: {0}")]
    UnknownInvocation(String),
    /// The step key names another step of the method, or a call with it is under way: give each step
    /// a key of its own.
    #[error("step key reused: {0}")]
    StepKeyReused(String),
    /// Flows waited for each other's actors in a circle, and this call, the youngest one that waited,
    /// has ended: it never ran. Let the method fail, and try it again as a whole; or call actors in one
    /// order everywhere.
    #[error("deadlock ({cycle}): {message}")]
    Deadlock {
        /// The actors, such as `Account/a -> Account/b -> Account/a`.
        cycle: String,
        /// For people.
        message: String,
    },
    /// The idempotency key was used for another method or argument of the same target: each request
    /// needs a key of its own.
    #[error("idempotency key reused: {0}")]
    IdempotencyKeyReused(String),
    /// A condition (etag) did not hold; nothing was written.
    #[error("condition failed: {}", .0.message)]
    ConditionFailed(Box<Conflict>),
    /// The sidecar or something behind it is away or leaving; nothing was done. Worth trying again
    /// later.
    #[error("unavailable ({}): {}", .0.reason, .0.message)]
    Unavailable(Box<Rejection>),
    /// The sidecar refused the request; nothing was done.
    #[error("{0}")]
    Rejected(Box<Rejection>),
    /// The argument could not be written (nothing was sent), or the result not be read.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The client is closed: it was shut down, or its sidecar went away for good. Nothing was done.
    #[error("closed: {0}")]
    Closed(String),
}

/// The condition that did not hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Conflict {
    /// The key that it was on; of a transaction the first one.
    pub key: String,
    /// The key's version now; `None`: there is no such key.
    pub etag: Option<Etag>,
    /// For people.
    pub message: String,
}

/// A refusal of the sidecar.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Rejection {
    /// gRPC status code, by number.
    pub code: i32,
    /// Cause: a name of `kar.v1.ErrorReason` without its prefix; empty if the sidecar named none.
    pub reason: String,
    /// For people.
    pub message: String,
    /// What the refusal is about: `field`, `limit`, `target`, …
    pub metadata: BTreeMap<String, String>,
}

/// What a method fails with. Made from any [`std::error::Error`] by `?`, or by [`Error::new`].
///
/// An error of a nested call passes on: an application error as it is; that the turn is superseded
/// stops the turn, and nobody gets to see it. It also carries a tail call
/// ([`Call::tail`](crate::Call::tail)) out of the method.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Application(Box<ApplicationError>),
    /// The turn is not the current attempt, or its connection is gone: it ends as `cancelled`.
    Stop,
    /// No error: the turn ends with a tail call.
    TailCall(Box<proto::TailCall>),
}

/// The sidecar could not be reached.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The environment names no sidecar.
    #[error("no sidecar to talk to: run this program under `kar run`, or set KAR_SOCKET")]
    NotConfigured,
    /// `KAR_GRPC_PORT` is not a port.
    #[error("KAR_GRPC_PORT is not a port number: {0:?}")]
    InvalidPort(String),
    /// The API token has characters that no gRPC metadata may have.
    #[error("KAR_API_TOKEN has characters that are not allowed in gRPC metadata")]
    InvalidToken,
    /// Nothing answers there.
    #[error("no sidecar answers at {address}: {cause}")]
    Unreachable {
        /// The socket or address tried.
        address: String,
        /// What the last attempt came to.
        cause: String,
    },
    /// The sidecar ended the stream instead of welcoming the component.
    #[error("the sidecar refused the connection: {0}")]
    Refused(Box<Rejection>),
    /// What answered does not speak this protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
}

/// Hosting failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The sidecar could not be reached at the start.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Two services, or two actor types, of the same name.
    #[error("{0} is hosted twice")]
    Duplicate(String),
    /// A retry policy is for a method that is not hosted.
    #[error("there is a retry policy for {0}")]
    RetryPolicy(String),
    /// The connection broke and could not be made again in time.
    #[error("the sidecar went away for good: {0}")]
    Lost(String),
    /// The signal handlers could not be installed.
    #[error("cannot listen for signals: {0}")]
    Signals(String),
}

// === impl ApplicationError ===

impl ApplicationError {
    /// An error with a code and a message for people.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), ..Self::default() }
    }

    pub(crate) fn into_proto(self) -> proto::ApplicationError {
        proto::ApplicationError {
            code: self.code,
            message: self.message,
            detail: self.detail,
            payload: self.payload.map(Payload::into_proto),
            retryable: self.retryable,
        }
    }

    pub(crate) fn from_proto(error: proto::ApplicationError) -> Self {
        Self {
            code: error.code,
            message: error.message,
            detail: error.detail,
            payload: error.payload.map(|p| Payload::from_proto(Some(p))),
            retryable: error.retryable,
        }
    }
}

impl fmt::Display for ApplicationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for ApplicationError {}

// === impl CallError ===

impl CallError {
    /// The application's error, if it is one.
    #[must_use]
    pub fn application(&self) -> Option<&ApplicationError> {
        match self {
            Self::Application(error) => Some(error),
            _ => None,
        }
    }

    /// Whether the request may have been carried out although it failed.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    pub(crate) fn limit(name: &str, value: usize) -> Self {
        Self::Limit { name: name.to_owned(), value: value.to_string() }
    }

    /// An answer of a kind that does not fit the request.
    pub(crate) fn mismatch(operation: &str) -> Self {
        Self::Unknown(format!("the sidecar's answer does not fit the request ({operation})"))
    }

    /// Of an RPC apart from the component's stream.
    pub(crate) fn from_grpc(status: &tonic::Status) -> Self {
        // What the library says of a connection that broke; the sidecar's own words have details.
        let is_broken = matches!(status.code(), tonic::Code::Cancelled | tonic::Code::Internal);
        if is_broken && status.details().is_empty() {
            return Self::Unknown(status.message().to_owned());
        }
        Self::from_rejection(Rejection::from_grpc(status))
    }

    pub(crate) fn from_status(status: Status) -> Self {
        Self::from_rejection(Rejection::from_status(status))
    }

    fn from_rejection(rejection: Rejection) -> Self {
        let message = rejection.message.clone();
        match rejection.reason.as_str() {
            "TURN_SUPERSEDED" => Self::Superseded,
            "TURN_ENDED" => Self::TurnEnded,
            "EXPIRED" => Self::Expired(message),
            "CANCELLED" => Self::Cancelled(message),
            "OUTCOME_UNKNOWN" => Self::Unknown(message),
            "NO_HOST" => Self::NoHost(message),
            "UNKNOWN_INVOCATION" => Self::UnknownInvocation(message),
            "CONDITION_FAILED" => Self::ConditionFailed(Box::new(Conflict {
                key: rejection.metadata.get("key").cloned().unwrap_or_default(),
                etag: rejection.metadata.get("etag").filter(|e| !e.is_empty()).cloned().map(Etag),
                message,
            })),
            "DEADLOCK" => {
                let cycle = rejection.metadata.get("cycle").cloned().unwrap_or_default();
                Self::Deadlock { cycle, message }
            }
            "IDEMPOTENCY_KEY_REUSED" => Self::IdempotencyKeyReused(message),
            "STEP_KEY_REUSED" => Self::StepKeyReused(message),
            "LIMIT_REACHED" | "MESSAGE_TOO_LARGE" => Self::Limit {
                name: rejection.metadata.get("limit").cloned().unwrap_or(rejection.reason),
                value: rejection.metadata.get("value").cloned().unwrap_or_default(),
            },
            "DRAINING" | "BACKEND_UNAVAILABLE" => Self::Unavailable(Box::new(rejection)),
            _ if rejection.code == tonic::Code::Unavailable as i32 => {
                Self::Unavailable(Box::new(rejection))
            }
            _ if rejection.code == tonic::Code::Unknown as i32 => Self::Unknown(message),
            _ => Self::Rejected(Box::new(rejection)),
        }
    }

    /// Short name of the cause, for an application error made of it.
    fn code(&self) -> &'static str {
        match self {
            Self::Application(_) => "application",
            Self::Unknown(_) => "unknown",
            Self::Superseded => "superseded",
            Self::TurnEnded => "turn_ended",
            Self::Expired(_) => "expired",
            Self::Cancelled(_) => "cancelled",
            Self::Limit { .. } => "limit",
            Self::NoHost(_) => "no_host",
            Self::UnknownInvocation(_) => "unknown_invocation",
            Self::Deadlock { .. } => "deadlock",
            Self::IdempotencyKeyReused(_) => "idempotency_key_reused",
            Self::ConditionFailed(_) => "condition_failed",
            Self::StepKeyReused(_) => "step_key_reused",
            Self::Unavailable(_) => "unavailable",
            Self::Rejected(_) => "rejected",
            Self::Codec(_) => "codec",
            Self::Closed(_) => "closed",
        }
    }
}

impl From<ApplicationError> for CallError {
    fn from(error: ApplicationError) -> Self {
        Self::Application(Box::new(error))
    }
}

// === impl Rejection ===

impl Rejection {
    pub(crate) fn from_status(status: Status) -> Self {
        let info = status
            .details
            .iter()
            .filter(|any| any.type_url.ends_with("/google.rpc.ErrorInfo"))
            .filter_map(|any| tonic_types::pb::ErrorInfo::decode(any.value.as_slice()).ok())
            .find(|info| info.domain == DOMAIN);
        let (reason, metadata) = info.map(|i| (i.reason, i.metadata)).unwrap_or_default();
        let metadata = metadata.into_iter().collect();
        Self { code: status.code, reason, message: status.message, metadata }
    }

    /// Takes the status that ended a stream: its details are an encoded `google.rpc.Status`.
    pub(crate) fn from_grpc(status: &tonic::Status) -> Self {
        let details = Status::decode(status.details()).map(|s| s.details).unwrap_or_default();
        Self::from_status(Status {
            code: status.code() as i32,
            message: status.message().to_owned(),
            details,
        })
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason.is_empty() {
            write!(f, "{}: {}", tonic::Code::from_i32(self.code), self.message)
        } else {
            write!(f, "{}: {}", self.reason, self.message)
        }
    }
}

// === impl Error ===

impl Error {
    /// An application error with a code and a message for people.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        ApplicationError::new(code, message).into()
    }

    /// An application error that may pass: another attempt is made if a retry policy asks for it (of the call, see
    /// [`Call::retry`](crate::Call::retry), or of the sidecar). What was flushed stays; the rest of the attempt's
    /// effects are dropped.
    pub fn retryable(code: impl Into<String>, message: impl Into<String>) -> Self {
        ApplicationError { retryable: true, ..ApplicationError::new(code, message) }.into()
    }

    /// Adds detail for people, for example a stack trace.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        if let Kind::Application(error) = &mut self.kind {
            error.detail = detail.into();
        }
        self
    }

    /// Adds typed detail for the caller's program.
    ///
    /// # Errors
    /// Becomes an application error of code `codec` if the value cannot be encoded.
    #[must_use]
    pub fn with_payload<T: Encode + ?Sized>(mut self, value: &T) -> Self {
        if let Kind::Application(error) = &mut self.kind {
            match value.encode() {
                Ok(payload) => error.payload = Some(payload),
                Err(codec) => return codec.into(),
            }
        }
        self
    }

    /// The application's error; `None` if this only says that the turn has to stop, or goes on by
    /// a tail call.
    #[must_use]
    pub fn application(&self) -> Option<&ApplicationError> {
        match &self.kind {
            Kind::Application(error) => Some(error),
            Kind::Stop | Kind::TailCall(_) => None,
        }
    }

    /// How a turn ends with it; `None` if it only has to stop.
    pub(crate) fn into_result(self) -> Option<proto::turn_outcome::Result> {
        match self.kind {
            Kind::Application(error) => {
                Some(proto::turn_outcome::Result::Error(error.into_proto()))
            }
            Kind::TailCall(call) => Some(proto::turn_outcome::Result::TailCall(*call)),
            Kind::Stop => None,
        }
    }

    /// The turn ends with a tail call.
    pub(crate) fn tail_call(call: proto::TailCall) -> Self {
        Self { kind: Kind::TailCall(Box::new(call)) }
    }

    /// Whether the turn ends with a tail call, with which everything that it did takes effect.
    pub(crate) fn is_tail_call(&self) -> bool {
        matches!(self.kind, Kind::TailCall(_))
    }

    fn from_call(error: CallError) -> Self {
        match error {
            CallError::Application(error) => Self { kind: Kind::Application(error) },
            // Where the turn's own connection is closed it is over; another one's tells nothing of it.
            CallError::Superseded => Self { kind: Kind::Stop },
            other => {
                let error = ApplicationError::new(other.code(), other.to_string());
                Self { kind: Kind::Application(Box::new(error)) }
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Application(error) => error.fmt(f),
            Kind::Stop => f.write_str("the turn has to stop: another attempt took over"),
            Kind::TailCall(call) => {
                write!(f, "the turn goes on with a tail call to {}", call.method)
            }
        }
    }
}

/// `Error` is no [`std::error::Error`] itself, which is what makes this possible (as in `anyhow`).
impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
        let boxed = match boxed.downcast::<CallError>() {
            Ok(call) => return Self::from_call(*call),
            Err(other) => other,
        };
        let other = match boxed.downcast::<ApplicationError>() {
            Ok(error) => return Self { kind: Kind::Application(error) },
            Err(other) => other,
        };
        let mut detail = format!("{other:?} ({})", type_name::<E>());
        let mut cause = other.source();
        while let Some(error) = cause {
            detail.push_str("\ncaused by: ");
            detail.push_str(&error.to_string());
            cause = error.source();
        }
        let code = crate::codec::name::<E>().to_owned();
        let message = other.to_string();
        let error = ApplicationError { code, message, detail, ..ApplicationError::default() };
        Self { kind: Kind::Application(Box::new(error)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: i32, reason: &str, metadata: &[(&str, &str)]) -> Status {
        let info = tonic_types::pb::ErrorInfo {
            reason: reason.to_owned(),
            domain: DOMAIN.to_owned(),
            metadata: metadata.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect(),
        };
        let any = prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(),
            value: info.encode_to_vec(),
        };
        Status { code, message: "text".to_owned(), details: vec![any] }
    }

    #[test]
    fn reasons_become_variants() {
        let of = |code, reason| CallError::from_status(status(code, reason, &[]));
        assert_eq!(of(10, "TURN_SUPERSEDED"), CallError::Superseded);
        assert_eq!(of(9, "TURN_ENDED"), CallError::TurnEnded);
        assert_eq!(of(4, "EXPIRED"), CallError::Expired("text".into()));
        assert!(of(2, "OUTCOME_UNKNOWN").is_unknown());
        assert!(matches!(of(14, "DRAINING"), CallError::Unavailable(_)));
        assert!(matches!(of(12, "NOT_IMPLEMENTED"), CallError::Rejected(r) if r.code == 12));
        let deadlock = status(10, "DEADLOCK", &[("cycle", "A/1 -> A/1")]);
        let error = CallError::from_status(deadlock);
        assert_eq!(error.to_string(), "deadlock (A/1 -> A/1): text");
        assert!(matches!(of(9, "IDEMPOTENCY_KEY_REUSED"), CallError::IdempotencyKeyReused(_)));
        let limit = status(8, "LIMIT_REACHED", &[("limit", "depth-max"), ("value", "64")]);
        let error = CallError::from_status(limit);
        assert_eq!(error.to_string(), "limit depth-max (64) reached");
        let broken = tonic::Status::cancelled("h2 protocol error");
        assert!(CallError::from_grpc(&broken).is_unknown());
        let bare = Status { code: 14, ..Status::default() };
        assert!(matches!(CallError::from_status(bare), CallError::Unavailable(_)));
    }

    #[test]
    fn any_error_becomes_an_application_error() {
        let error = Error::from("x".parse::<i32>().unwrap_err());
        let error = error.application().unwrap();
        assert_eq!(error.code, "ParseIntError");
        assert_eq!(error.message, "invalid digit found in string");
        assert!(error.detail.starts_with("ParseIntError { kind: InvalidDigit }"), "{error:?}");
    }

    #[test]
    fn errors_of_nested_calls_pass_on() {
        let inner = ApplicationError::new("insufficient_funds", "no");
        let error = Error::from(CallError::from(inner.clone()));
        assert_eq!(error.application(), Some(&inner));
        assert!(Error::from(CallError::Superseded).application().is_none());
        let error = Error::from(CallError::Closed("of another client".into()));
        assert_eq!(error.application().unwrap().code, "closed", "the turn is not superseded");
        let error = Error::from(CallError::Expired("late".into()));
        assert_eq!(error.application().unwrap().code, "expired");
    }
}
