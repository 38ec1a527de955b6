//! Retry policies, how attempts ended, and what is done to invocations: the core's to `kar.log.v1` and `kar.peer.v1`,
//! and back.

use std::sync::Arc;

use kar_core::ids::{RequestId, Uuid};
use kar_core::invocation::{ApplicationError, Mode, Outcome, Payload, RetryPolicy};
use kar_core::message::{Control, ControlResult, Controlled, Found, Message};
use kar_core::node::{DeadLetterView, InvocationView, Phase};
use kar_core::trouble::{Cause, Ended, LAST_ERROR_BYTES_MAX};
use kar_proto::log::v1 as log;
use kar_proto::peer::v1 as peer;

use super::Malformed;
use super::log::{outcome_from, outcome_to, partition_from, partition_to, uuid_from, uuid_to};
use super::peer::{hint_from, hint_to, invocation_view_to};

pub(super) fn to(policy: RetryPolicy) -> log::RetryPolicy {
    log::RetryPolicy {
        attempts_max: policy.attempts_max,
        initial_ms: policy.initial_ms,
        max_ms: policy.max_ms,
        multiplier_percent: policy.multiplier_percent,
    }
}

pub(super) fn from(policy: log::RetryPolicy) -> RetryPolicy {
    RetryPolicy {
        attempts_max: policy.attempts_max,
        initial_ms: policy.initial_ms,
        max_ms: policy.max_ms,
        multiplier_percent: policy.multiplier_percent,
    }
}

/// How an attempt ended, for the wire.
pub(super) fn attempt_end_to(ended: &Ended) -> log::AttemptEnd {
    let cause = match ended.cause {
        Cause::HostLost => log::Cause::HostLost,
        Cause::ReignLost => log::Cause::ReignLost,
        Cause::HandOver => log::Cause::HandOver,
        Cause::ApplicationError => log::Cause::ApplicationError,
        Cause::Stopped => log::Cause::Stopped,
    };
    log::AttemptEnd {
        cause: cause.into(),
        not_before_ms: ended.not_before,
        error: ended.error.to_string(),
    }
}

/// How an attempt ended, from the wire.
///
/// # Errors
///
/// If the cause is not understood.
pub(super) fn attempt_end_from(ended: log::AttemptEnd) -> Result<Ended, Malformed> {
    let cause = match log::Cause::try_from(ended.cause) {
        Ok(log::Cause::HostLost) => Cause::HostLost,
        Ok(log::Cause::ReignLost) => Cause::ReignLost,
        Ok(log::Cause::HandOver) => Cause::HandOver,
        Ok(log::Cause::ApplicationError) => Cause::ApplicationError,
        Ok(log::Cause::Stopped) => Cause::Stopped,
        Ok(log::Cause::Unspecified) | Err(_) => return Err(Malformed::Field("cause")),
    };
    Ok(Ended { cause, not_before: ended.not_before_ms, error: ended.error.into() })
}

pub(super) fn control_to(
    request: RequestId,
    partition: &kar_core::ids::PartitionId,
    control: &Control,
) -> peer::Control {
    use peer::control::Control as C;
    let control = match control {
        Control::Cancel(uuid) => C::Cancel(uuid_to(*uuid)),
        Control::Resume(uuid) => C::Resume(uuid_to(*uuid)),
        Control::Redrive(uuid) => C::Redrive(uuid_to(*uuid)),
        Control::Discard(uuid) => C::Discard(uuid_to(*uuid)),
        Control::Inspect(uuid) => C::Inspect(uuid_to(*uuid)),
    };
    let partition = Some(partition_to(partition));
    peer::Control { request: request.0, partition, control: Some(control) }
}

pub(super) fn control_from(control: peer::Control) -> Result<Message, Malformed> {
    use peer::control::Control as C;
    let uuid = |bytes: &[u8]| -> Result<Uuid, Malformed> { uuid_from(bytes) };
    Ok(Message::Control {
        request: RequestId(control.request),
        partition: partition_from(control.partition)?,
        control: match control.control.ok_or(Malformed::Field("control"))? {
            C::Cancel(bytes) => Control::Cancel(uuid(&bytes)?),
            C::Resume(bytes) => Control::Resume(uuid(&bytes)?),
            C::Redrive(bytes) => Control::Redrive(uuid(&bytes)?),
            C::Discard(bytes) => Control::Discard(uuid(&bytes)?),
            C::Inspect(bytes) => Control::Inspect(uuid(&bytes)?),
        },
    })
}

pub(super) fn control_done_to(request: RequestId, result: &ControlResult) -> peer::ControlDone {
    use peer::control_done::Result as R;
    let result = match result {
        ControlResult::Done(Controlled::Redriven(uuid)) => R::Redriven(uuid_to(*uuid)),
        ControlResult::Done(Controlled::Found(found)) => match &**found {
            Found::Unfinished(view) => R::Unfinished(invocation_view_to(view)),
            Found::Ended(outcome) => R::Ended(outcome_to(&in_short(outcome))),
            Found::Dead(letter) => R::Dead(dead_letter_to(letter)),
        },
        ControlResult::Done(done) => {
            let done = match done {
                Controlled::Cancelled => peer::Controlled::Cancelled,
                Controlled::CancelRequested => peer::Controlled::CancelRequested,
                Controlled::CancelMoved => peer::Controlled::CancelMoved,
                Controlled::Ended => peer::Controlled::Ended,
                Controlled::Resumed => peer::Controlled::Resumed,
                Controlled::NotParked => peer::Controlled::NotParked,
                Controlled::Discarded => peer::Controlled::Discarded,
                Controlled::Redriven(_) | Controlled::Found(_) => {
                    unreachable!("they have arms of their own")
                }
            };
            R::Done(done.into())
        }
        ControlResult::Unknown => R::Unknown(true),
        ControlResult::NotOwner(hint) => {
            R::OwnedElsewhere(peer::OwnedElsewhere { hint: hint_to(*hint) })
        }
    };
    peer::ControlDone { request: request.0, result: Some(result) }
}

pub(super) fn control_done_from(done: peer::ControlDone) -> Result<Message, Malformed> {
    use peer::control_done::Result as R;
    let result = match done.result.ok_or(Malformed::Field("result"))? {
        R::Done(done) => ControlResult::Done(match peer::Controlled::try_from(done) {
            Ok(peer::Controlled::Cancelled) => Controlled::Cancelled,
            Ok(peer::Controlled::CancelRequested) => Controlled::CancelRequested,
            Ok(peer::Controlled::CancelMoved) => Controlled::CancelMoved,
            Ok(peer::Controlled::Ended) => Controlled::Ended,
            Ok(peer::Controlled::Resumed) => Controlled::Resumed,
            Ok(peer::Controlled::NotParked) => Controlled::NotParked,
            Ok(peer::Controlled::Discarded) => Controlled::Discarded,
            Ok(peer::Controlled::Unspecified) | Err(_) => return Err(Malformed::Field("done")),
        }),
        R::Redriven(uuid) => ControlResult::Done(Controlled::Redriven(uuid_from(&uuid)?)),
        R::Unfinished(view) => found(Found::Unfinished(invocation_view_from(view)?)),
        R::Ended(outcome) => found(Found::Ended(outcome_from(Some(outcome))?)),
        R::Dead(letter) => found(Found::Dead(dead_letter_from(letter)?)),
        R::Unknown(true) => ControlResult::Unknown,
        R::Unknown(false) => return Err(Malformed::Field("unknown")),
        R::OwnedElsewhere(o) => ControlResult::NotOwner(hint_from(o.hint)),
    };
    Ok(Message::ControlDone { request: RequestId(done.request), result })
}

/// A dead letter for people: its outcome without payload, its texts cut.
pub fn dead_letter_to(view: &DeadLetterView) -> peer::DeadLetterView {
    let outcome = in_short(&view.outcome);
    peer::DeadLetterView {
        uuid: uuid_to(view.uuid),
        actor: view.actor.as_deref().unwrap_or_default().to_owned(),
        method: view.method.to_string(),
        outcome: Some(outcome_to(&outcome)),
        attempts: view.attempts,
        time_ms: view.time,
    }
}

/// At most as much of a text as is stored of attempts' errors.
fn cut(text: &Arc<str>) -> Arc<str> {
    let mut end = text.len().min(LAST_ERROR_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    if end == text.len() { text.clone() } else { text[..end].into() }
}

/// An outcome for people: without payload, its texts cut.
fn in_short(outcome: &Outcome) -> Outcome {
    match outcome {
        Outcome::Done(_) => Outcome::Done(Payload::default()),
        Outcome::Failed(error) => Outcome::Failed(ApplicationError {
            payload: Payload::default(),
            code: cut(&error.code),
            message: cut(&error.message),
            detail: cut(&error.detail),
            retryable: error.retryable,
        }),
        other => other.clone(),
    }
}

fn found(found: Found) -> ControlResult {
    ControlResult::Done(Controlled::Found(Box::new(found)))
}

fn dead_letter_from(view: peer::DeadLetterView) -> Result<DeadLetterView, Malformed> {
    Ok(DeadLetterView {
        uuid: uuid_from(&view.uuid)?,
        actor: (!view.actor.is_empty()).then(|| view.actor.into()),
        method: view.method.into(),
        outcome: outcome_from(view.outcome)?,
        attempts: view.attempts,
        time: view.time_ms,
    })
}

fn invocation_view_from(view: peer::InvocationView) -> Result<InvocationView, Malformed> {
    let mode = match view.mode() {
        log::Mode::Call => Mode::Call,
        log::Mode::Tell => Mode::Tell,
        log::Mode::Start => Mode::Start,
        log::Mode::Unspecified => return Err(Malformed::Field("mode")),
    };
    let phase = match view.phase() {
        peer::Phase::Queued => Phase::Queued,
        peer::Phase::Running => Phase::Running,
        peer::Phase::Suspended => Phase::Suspended,
        peer::Phase::Retrying => Phase::Retrying,
        peer::Phase::Moved => Phase::Moved,
        peer::Phase::Parked => Phase::Parked,
        peer::Phase::Unspecified => return Err(Malformed::Field("phase")),
    };
    Ok(InvocationView {
        uuid: uuid_from(&view.uuid)?,
        actor: (!view.actor.is_empty()).then(|| view.actor.into()),
        method: view.method.into(),
        mode,
        phase,
        attempt: view.attempt,
        cancel: view.cancel,
        ended: view.ended.map(attempt_end_from).transpose()?,
        retry_at: view.retry_at_ms,
        behind: match &view.behind[..] {
            [] => None,
            uuid => Some(uuid_from(uuid)?),
        },
    })
}
