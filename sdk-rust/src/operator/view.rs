//! What is told of invocations, dead letters and actors.

use std::fmt;
use std::time::SystemTime;

use kar_proto::v1 as proto;

use crate::call::InvocationId;
use crate::error::ApplicationError;

/// What is known of an invocation.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct InvocationView {
    /// Its id.
    pub id: InvocationId,
    /// Whom it is for; `None` if only its end is known.
    pub target: Option<InvocationTarget>,
    /// Its method; empty if only its end is known.
    pub method: String,
    /// How it was invoked; `None` if that is not known.
    pub mode: Option<InvocationMode>,
    /// Where it stands.
    pub state: InvocationState,
    /// Attempts begun.
    pub attempt: u32,
    /// When it was created; `None` if it has an idempotency key: its id is made of that, and of no time.
    pub created: Option<SystemTime>,
    /// Name of the node that owns it now; empty if there is none.
    pub node: String,
    /// Somebody asked for its end.
    pub is_cancel_requested: bool,
    /// How the last attempt ended that did not end it.
    pub last_attempt_end: Option<AttemptEnd>,
    /// The next attempt starts at this time at the earliest; `None`: as soon as it can.
    pub retry_at: Option<SystemTime>,
    /// How it ended; `None` if it has not.
    pub end: Option<InvocationEnd>,
    /// What its method failed with, without its payload.
    pub error: Option<ApplicationError>,
    /// When it ended; only of dead letters.
    pub ended: Option<SystemTime>,
    /// The parked invocation that keeps its actor: it waits until that one is resumed or cancelled.
    pub behind: Option<InvocationId>,
}

/// Whom an invocation is for.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum InvocationTarget {
    /// A service.
    Service(String),
    /// An actor.
    Actor {
        /// Its type.
        actor_type: String,
        /// Which instance.
        id: String,
    },
}

/// How something is invoked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum InvocationMode {
    /// The caller waits for the outcome.
    Call,
    /// Nobody waits.
    Tell,
    /// The outcome is kept, and fetched by id.
    Start,
    /// At most once, past all logs.
    Direct,
    /// The actor has been idle, and is told so.
    Deactivate,
}

/// Where an invocation stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum InvocationState {
    /// It waits for its turn, a slot or a host.
    Queued,
    /// Its code runs.
    Running,
    /// Its code waits for a call.
    Suspended,
    /// Its last attempt failed; the next one waits for what that one began.
    Retrying,
    /// It ended; its outcome is kept.
    Completed,
    /// It goes on elsewhere by a tail call; its outcome comes back here.
    Moved,
    /// It has lost too many hosts, and rests until somebody resumes or cancels it.
    Parked,
    /// In a state that a later version of the sidecar knows.
    Other,
}

/// How an invocation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum InvocationEnd {
    /// Its method returned.
    Done,
    /// Its method failed by the application's own will.
    Failed,
    /// Its owner did not take it.
    Refused,
    /// Its deadline passed before it started.
    Expired,
    /// Somebody asked for its end.
    Cancelled,
    /// It waited in a circle of flows that wait for each other.
    Deadlock,
    /// The attempt that had called it was over before it started.
    Withdrawn,
    /// In a way that a later version of the sidecar knows.
    Other,
}

/// How an attempt ended that did not end its invocation.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct AttemptEnd {
    /// Why.
    pub cause: AttemptEndCause,
    /// One line for people.
    pub message: String,
}

/// Why an attempt ended without ending its invocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AttemptEndCause {
    /// The host's process or stream, or its whole node, was lost. These count for parking.
    HostLost,
    /// Its owner dropped the partition; the host may well have lived.
    OwnerLost,
    /// It was told to stop because its partition was handed over.
    HandOver,
    /// The method returned an error that it marked retryable. These count for the retry policy.
    ApplicationError,
    /// The component stopped it without having been told to.
    Stopped,
    /// For a cause that a later version of the sidecar knows.
    Other,
}

/// A tell that ended without success.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Its id.
    pub id: InvocationId,
    /// Whom it was for.
    pub target: Option<InvocationTarget>,
    /// Its method.
    pub method: String,
    /// What it failed with, without its payload; `None` if its deadline passed before it started.
    pub error: Option<ApplicationError>,
    /// Attempts made.
    pub attempts: u32,
    /// When it was told; `None` if that had an idempotency key.
    pub created: Option<SystemTime>,
    /// When it ended.
    pub ended: Option<SystemTime>,
}

/// An actor that is busy, or has invocations queued.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct BusyActor {
    /// Its type.
    pub actor_type: String,
    /// Which instance.
    pub id: String,
    /// Name of its owner.
    pub node: String,
    /// Invocations waiting for it.
    pub queued: u32,
    /// A turn holds it.
    pub is_busy: bool,
}

// === impl InvocationView ===

impl InvocationView {
    pub(super) fn from_proto(info: proto::InvocationInfo) -> Self {
        use proto::{InvocationEnd as E, InvocationMode as M, InvocationState as S};
        let mode = match info.mode() {
            M::Unspecified => None,
            M::Call => Some(InvocationMode::Call),
            M::Tell => Some(InvocationMode::Tell),
            M::Start => Some(InvocationMode::Start),
            M::Direct => Some(InvocationMode::Direct),
            M::Deactivate => Some(InvocationMode::Deactivate),
        };
        let state = match info.state() {
            S::Unspecified => InvocationState::Other,
            S::Queued => InvocationState::Queued,
            S::Running => InvocationState::Running,
            S::Suspended => InvocationState::Suspended,
            S::Retrying => InvocationState::Retrying,
            S::Completed => InvocationState::Completed,
            S::Moved => InvocationState::Moved,
            S::Parked => InvocationState::Parked,
        };
        let end = match info.end() {
            // A number that is not known here reads as unspecified, but it has ended.
            E::Unspecified => (info.end != 0).then_some(InvocationEnd::Other),
            E::Done => Some(InvocationEnd::Done),
            E::Failed => Some(InvocationEnd::Failed),
            E::Refused => Some(InvocationEnd::Refused),
            E::Expired => Some(InvocationEnd::Expired),
            E::Cancelled => Some(InvocationEnd::Cancelled),
            E::Deadlock => Some(InvocationEnd::Deadlock),
            E::Withdrawn => Some(InvocationEnd::Withdrawn),
        };
        let behind = Some(info.behind_invocation_id).filter(|id| !id.is_empty());
        Self {
            id: InvocationId(info.invocation_id),
            target: info.target.and_then(InvocationTarget::from_proto),
            method: info.method,
            mode,
            state,
            attempt: u32::try_from(info.attempt).unwrap_or_default(),
            created: time(info.create_time),
            node: info.node,
            is_cancel_requested: info.cancel_requested,
            last_attempt_end: info.last_attempt_end.map(AttemptEnd::from_proto),
            retry_at: time(info.retry_time),
            end,
            error: info.error.map(ApplicationError::from_proto),
            ended: time(info.end_time),
            behind: behind.map(InvocationId),
        }
    }
}

// === impl InvocationTarget ===

impl InvocationTarget {
    fn from_proto(target: proto::Target) -> Option<Self> {
        Some(match target.kind? {
            proto::target::Kind::Service(service) => Self::Service(service.name),
            proto::target::Kind::Actor(actor) => {
                Self::Actor { actor_type: actor.r#type, id: actor.id }
            }
        })
    }
}

impl fmt::Display for InvocationTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => f.write_str(name),
            Self::Actor { actor_type, id } => write!(f, "{actor_type}/{id}"),
        }
    }
}

// === impl AttemptEnd ===

impl AttemptEnd {
    fn from_proto(end: proto::AttemptEnd) -> Self {
        use proto::AttemptEndCause as C;
        let cause = match end.cause() {
            C::Unspecified => AttemptEndCause::Other,
            C::HostLost => AttemptEndCause::HostLost,
            C::OwnerLost => AttemptEndCause::OwnerLost,
            C::HandOver => AttemptEndCause::HandOver,
            C::ApplicationError => AttemptEndCause::ApplicationError,
            C::Stopped => AttemptEndCause::Stopped,
        };
        Self { cause, message: end.message }
    }
}

// === impl DeadLetter ===

impl DeadLetter {
    pub(super) fn from_proto(letter: proto::DeadLetter) -> Self {
        Self {
            id: InvocationId(letter.invocation_id),
            target: letter.target.and_then(InvocationTarget::from_proto),
            method: letter.method,
            error: letter.error.map(ApplicationError::from_proto),
            attempts: u32::try_from(letter.attempts).unwrap_or_default(),
            created: time(letter.create_time),
            ended: time(letter.end_time),
        }
    }
}

// === impl BusyActor ===

impl BusyActor {
    pub(super) fn from_proto(info: proto::ActorInfo) -> Self {
        let actor = info.actor.unwrap_or_default();
        Self {
            actor_type: actor.r#type,
            id: actor.id,
            node: info.node,
            queued: u32::try_from(info.queued).unwrap_or_default(),
            is_busy: info.busy,
        }
    }
}

fn time(time: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    time.and_then(|time| SystemTime::try_from(time).ok())
}
