//! How a command ends when it does not succeed: an exit code of its own for each kind of cause, one
//! line that says what happened, and one that says what to do next.

use std::fmt;
use std::process::ExitCode;

use kar_proto::v1::ApplicationError;
use tonic_types::StatusExt as _;

/// Exit codes; the table of `docs/cli.md` and of `kar --help`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Code {
    /// The application's method failed by its own will; or a check (`doctor`, `demo`) found
    /// something wrong.
    Application = 1,
    /// The command line, a file it names or a value in it is wrong.
    Usage = 2,
    /// The hub, the sidecar or (direct invokes) a host was not reached.
    Unavailable = 3,
    /// No such invocation, key or method.
    NotFound = 4,
    /// The deadline passed before the start: it never runs. Or somebody cancelled it.
    Expired = 5,
    /// Whether it was carried out cannot be known.
    Unknown = 6,
    /// A named bound was hit.
    Limit = 7,
    /// Refused as things stand: wrong token, a condition that did not hold, nodes that are still
    /// alive.
    Refused = 8,
    /// A defect of KAR.
    Internal = 70,
    /// `kar run`'s command is there and cannot be executed, as in shells.
    NotExecutable = 126,
    /// `kar run`'s command does not exist, as in shells.
    NoCommand = 127,
    /// Ended by Ctrl-C.
    Interrupted = 130,
}

/// The table of exit codes, as `kar --help` shows it.
pub(crate) const TABLE: &str = "\
Exit codes:
    0  done
    1  the application's method returned an error; a check found something wrong
    2  wrong use
    3  hub, sidecar or host not reached
    4  not found
    5  the deadline passed before the start, or it was cancelled
    6  outcome unknown
    7  a named bound was hit
    8  refused as things stand (token, condition, live nodes)
   70  a defect of KAR
  130  interrupted
  `kar run` exits with its command's code; 128 + n if signal n ended it; 126 or 127 if it
  could not be started.";

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) code: Code,
    /// One line: what happened.
    pub(crate) message: String,
    /// One line: what to do next.
    pub(crate) advice: Option<String>,
}

/// What every command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// What a request does, for the question of what a lost connection means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// Nothing: it can be asked again.
    Reads,
    /// It may have been carried out though no answer came.
    Writes,
}

// === impl Failure ===

impl Failure {
    /// A failure without advice.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), advice: None }
    }

    /// Wrong use.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// A defect, or a system call that should not fail.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// Adds what to do next.
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// What the application's method returned.
    pub(crate) fn application(error: &ApplicationError) -> Self {
        let name = if error.code.is_empty() { "error" } else { &error.code };
        let failure = Self::new(Code::Application, format!("{name}: {}", error.message));
        if error.detail.is_empty() { failure } else { failure.advise(error.detail.clone()) }
    }

    /// What a sidecar answered instead of a result.
    pub(crate) fn from_status(status: &tonic::Status, effect: Effect) -> Self {
        let details = status.get_error_details();
        let Some(info) = details.error_info().filter(|info| info.domain == "kar") else {
            return Self::from_bare_status(status, effect);
        };
        let (code, advice) = by_reason(&info.reason);
        let failure = Self::new(code, status.message());
        match advice {
            Some(text) => failure.advise(text),
            None => failure,
        }
    }

    /// A status without KAR's detail: made by the transport, not by a sidecar.
    fn from_bare_status(status: &tonic::Status, effect: Effect) -> Self {
        let lost = matches!(
            status.code(),
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled
        );
        if lost && effect == Effect::Writes {
            return Self::new(
                Code::Unknown,
                format!("the sidecar went away: {}", status.message()),
            )
            .advise(
                "it may have been accepted, and is then carried out; look at `kar get invocations`",
            );
        }
        if lost {
            return Self::new(
                Code::Unavailable,
                format!("the sidecar went away: {}", status.message()),
            )
            .advise("try again; `kar doctor` says what is wrong");
        }
        let code = match status.code() {
            tonic::Code::InvalidArgument => Code::Usage,
            tonic::Code::NotFound => Code::NotFound,
            tonic::Code::DeadlineExceeded => Code::Unknown,
            tonic::Code::ResourceExhausted => Code::Limit,
            tonic::Code::OutOfRange => Code::Limit,
            tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => Code::Refused,
            tonic::Code::Aborted | tonic::Code::FailedPrecondition => Code::Refused,
            tonic::Code::Unimplemented => Code::Refused,
            _ => Code::Internal,
        };
        Self::new(code, format!("{}: {}", status.code(), status.message()))
    }
}

/// The exit code and the next step for a reason of [`kar_proto::v1::ErrorReason`].
fn by_reason(reason: &str) -> (Code, Option<&'static str>) {
    match reason {
        "INVALID_FIELD" => {
            (Code::Usage, Some("`kar help COMMAND` says what form its arguments have"))
        }
        "MALFORMED_MESSAGE" | "PROTOCOL_VIOLATION" => (
            Code::Internal,
            Some("are `kar` and the sidecar of different versions? see `kar version`"),
        ),
        "LIMIT_REACHED" => (
            Code::Limit,
            Some(
                "send less at a time, or start the nodes with a higher value of that flag (see \
                 `kar run --help`)",
            ),
        ),
        "MESSAGE_TOO_LARGE" => (
            Code::Limit,
            Some(
                "send a smaller payload, or raise `--message-bytes-max` on every node and go \
                 through one of them (`--socket`)",
            ),
        ),
        "EXPIRED" => (
            Code::Expired,
            Some(
                "it never runs; is there a host for it (`kar get nodes`)? allow more time with \
                 `--start-within`",
            ),
        ),
        "CANCELLED" => (Code::Expired, Some("it has ended; send it again to have it done")),
        "DEADLOCK" => (
            Code::Refused,
            Some("it never ran: send it again, or let methods call actors in one order everywhere"),
        ),
        "IDEMPOTENCY_KEY_REUSED" => (
            Code::Refused,
            Some("it was used for another method or argument: give each request a key of its own"),
        ),
        "NOT_PARKED" => (Code::Refused, Some("`kar get invocations` says where it stands")),
        "OUTCOME_UNKNOWN" => (
            Code::Unknown,
            Some(
                "it may have been carried out; look at the application's state before sending it \
                 again",
            ),
        ),
        "NO_HOST" => (
            Code::Unavailable,
            Some(
                "start a component that offers it (`kar run --app …`), or use `kar call`, which \
                 waits for one",
            ),
        ),
        "UNKNOWN_INVOCATION" => {
            let advice = "is the id right? what has ended is gone, but for results of `kar start`, \
                          which are kept for a time";
            (Code::NotFound, Some(advice))
        }
        "UNKNOWN_TYPE" => (
            Code::NotFound,
            Some("is the type spelt right? it has no instances: no host and no call has used it"),
        ),
        "UNKNOWN_TOPIC" => (
            Code::NotFound,
            Some("`kar get topics` lists the topics, `kar topic create` makes one"),
        ),
        "TOPIC_EXISTS" => (
            Code::Refused,
            Some("`kar get topics -o json` shows its settings; use those, or another name"),
        ),
        "UNKNOWN_SUBSCRIPTION" => (
            Code::NotFound,
            Some("`kar get subscriptions` lists them, `kar subscription create` makes one"),
        ),
        "SUBSCRIPTION_EXISTS" => (
            Code::Refused,
            Some(
                "`kar get subscriptions -o json` shows its settings; use those, or another name, or \
                 end it first with `kar subscription delete`",
            ),
        ),
        "CONSUMER_TAKEN_OVER" => {
            (Code::Refused, Some("somebody else consumes under this name; choose another one"))
        }
        "UNKNOWN_METHOD" => (
            Code::NotFound,
            Some("does the component that offers it have this method by this name?"),
        ),
        "WRONG_API_TOKEN" => (
            Code::Refused,
            Some("set KAR_API_TOKEN to the token that the sidecar was started with"),
        ),
        "DRAINING" => (Code::Unavailable, Some("the sidecar is leaving; use another one")),
        "BACKEND_UNAVAILABLE" => (Code::Unavailable, Some("`kar doctor` says what is wrong")),
        "CONDITION_FAILED" => (Code::Refused, Some("read it again and repeat with the new etag")),
        "ALREADY_HOSTING"
        | "TURN_SUPERSEDED"
        | "TURN_ENDED"
        | "NOT_IMPLEMENTED"
        | "STEP_KEY_REUSED"
        | "SHARED_TURN"
        | "SHARED_TO_EXCLUSIVE" => (Code::Refused, None),
        _ => (Code::Internal, None),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kar: {}", self.message)?;
        match &self.advice {
            Some(advice) => write!(f, "\n  {}", advice.trim_end().replace('\n', "\n  ")),
            None => Ok(()),
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use kar_proto::v1::ErrorReason;
    use tonic_types::ErrorDetails;

    use super::*;

    fn typed(code: tonic::Code, reason: &str) -> tonic::Status {
        let details = ErrorDetails::with_error_info(reason, "kar", HashMap::new());
        tonic::Status::with_error_details(code, "what happened", details)
    }

    /// The code of every reason: one that is added to the contract has to be added here.
    fn expected(reason: ErrorReason) -> Code {
        use ErrorReason as R;
        match reason {
            R::InvalidField => Code::Usage,
            R::NoHost | R::Draining | R::BackendUnavailable => Code::Unavailable,
            R::UnknownInvocation | R::UnknownMethod | R::UnknownType => Code::NotFound,
            R::UnknownTopic | R::UnknownSubscription => Code::NotFound,
            R::Expired | R::Cancelled => Code::Expired,
            R::OutcomeUnknown => Code::Unknown,
            R::LimitReached | R::MessageTooLarge => Code::Limit,
            R::TurnSuperseded | R::TurnEnded | R::StepKeyReused => Code::Refused,
            R::SharedTurn | R::SharedToExclusive | R::Deadlock => Code::Refused,
            R::WrongApiToken | R::AlreadyHosting | R::NotImplemented => Code::Refused,
            R::ConditionFailed | R::NotParked | R::IdempotencyKeyReused => Code::Refused,
            R::TopicExists | R::ConsumerTakenOver | R::SubscriptionExists => Code::Refused,
            R::Unspecified | R::ProtocolViolation | R::MalformedMessage => Code::Internal,
        }
    }

    #[test]
    fn every_reason_has_its_code() {
        let reasons = (0..1_000).filter_map(|number| ErrorReason::try_from(number).ok());
        let mut seen = 0;
        for reason in reasons {
            let name = reason.as_str_name().trim_start_matches("ERROR_REASON_");
            let failure = Failure::from_status(&typed(tonic::Code::Internal, name), Effect::Writes);
            assert_eq!(failure.code, expected(reason), "{name}");
            assert_eq!(failure.message, "what happened");
            seen += 1;
        }
        assert!(seen > 30, "only {seen} reasons were looked at");
    }

    #[test]
    fn a_lost_connection_is_unknown_only_for_writes() {
        let lost = tonic::Status::unavailable("broken pipe");
        assert_eq!(Failure::from_status(&lost, Effect::Writes).code, Code::Unknown);
        assert_eq!(Failure::from_status(&lost, Effect::Reads).code, Code::Unavailable);
    }

    #[test]
    fn details_of_other_domains_do_not_count() {
        let details = ErrorDetails::with_error_info("EXPIRED", "other", HashMap::new());
        let status = tonic::Status::with_error_details(tonic::Code::NotFound, "x", details);
        assert_eq!(Failure::from_status(&status, Effect::Reads).code, Code::NotFound);
    }

    #[test]
    fn a_failure_is_printed_with_its_next_step() {
        let failure = Failure::usage("no such flag").advise("see\nhelp\n");
        assert_eq!(failure.to_string(), "kar: no such flag\n  see\n  help");
    }
}
