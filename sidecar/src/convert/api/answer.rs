//! Answers to components.

use std::collections::HashMap;
use std::sync::Arc;

use kar_core::effect::Response;
use kar_core::ids::InvocationId;
use kar_core::invocation::{ApplicationError, Outcome, Payload, Refusal};
use kar_core::limits::{LimitHit, Limits};
use kar_core::message::Controlled;
use kar_core::select::{Entries, Selected};
use kar_proto::v1 as pb;
use pb::ErrorReason;
use pb::response::Result as Reply;
use tonic::Status;

use super::{Shape, actor_state, payload_to, reminder, timestamp};
use crate::application_state::{StateAnswer, StateError};
use crate::convert::error::{request_error, status};
use crate::convert::written;
use crate::driver::outlets::Answer;

/// Code of the error with which hosts end turns of methods that they do not have.
const UNKNOWN_METHOD: &str = "kar.UNKNOWN_METHOD";

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
            let invocation_id = invocation.map(|i| written(&i)).unwrap_or_default();
            Reply::Invoke(pb::InvokeResponse { result: Some(result), invocation_id })
        }
        (Shape::CallActor { json }, Response::Outcome { invocation, outcome }) => {
            use pb::call_actor_response::Result as R;
            let result = match ended(outcome, &invocation)? {
                Ok(payload) => R::Payload(payload_to(payload, json)),
                Err(error) => R::Error(error),
            };
            let invocation_id = invocation.map(|i| written(&i)).unwrap_or_default();
            Reply::CallActor(pb::CallActorResponse { result: Some(result), invocation_id })
        }
        (Shape::Await, Response::Outcome { invocation, outcome }) => {
            use pb::await_response::Result as R;
            let result = match ended(outcome, &invocation)? {
                Ok(payload) => R::Payload(payload_to(payload, false)),
                Err(error) => R::Error(error),
            };
            Reply::AwaitOutcome(pb::AwaitResponse { result: Some(result) })
        }
        (Shape::Tell, Response::Accepted { invocation }) => {
            Reply::Tell(pb::TellResponse { invocation_id: written(&invocation) })
        }
        (Shape::Start, Response::Accepted { invocation }) => {
            Reply::Start(pb::StartResponse { invocation_id: written(&invocation) })
        }
        (Shape::StateGet, Response::State(Selected::Entries(state))) => {
            Reply::ActorStateGet(pb::ActorStateServiceGetResponse { entries: entries(state) })
        }
        (Shape::StateGetAll, Response::State(Selected::Entries(state))) => {
            Reply::ActorStateGetAll(pb::GetAllResponse { entries: entries(state) })
        }
        (Shape::StateContains { key }, Response::State(Selected::Entries(state))) => {
            let exists = state.contains_key(&key);
            Reply::ActorStateContains(pb::ContainsResponse { exists })
        }
        (Shape::StateListSubMap, Response::State(Selected::Page { entries, more })) => {
            let entries = actor_state::entries(entries);
            let last = entries.last().filter(|_| more).map(|entry| entry.key.clone());
            let next_page_token = last.unwrap_or_default();
            Reply::ActorStateListSubMap(pb::ListSubMapResponse { entries, next_page_token })
        }
        (Shape::StateSubMapSize, Response::State(Selected::Count(count))) => {
            let size = i64::try_from(count).unwrap_or(i64::MAX);
            Reply::ActorStateSubMapSize(pb::GetSubMapSizeResponse { size })
        }
        (Shape::Cancel, Response::Controlled(done)) => Reply::Cancel(cancelled(done)?),
        (Shape::Resume { id }, Response::Controlled(done)) => {
            resumed(done, &id)?;
            Reply::Resume(pb::ResumeResponse {})
        }
        (Shape::Redrive { id }, Response::Controlled(Controlled::Redriven(uuid))) => {
            let invocation_id = InvocationId { home: id.home, uuid }.to_string();
            Reply::RedriveDeadLetter(pb::RedriveDeadLetterResponse { invocation_id })
        }
        (Shape::Discard, Response::Controlled(Controlled::Discarded)) => {
            Reply::DiscardDeadLetter(pb::DiscardDeadLetterResponse {})
        }
        (Shape::StateApply, Response::Ok) => Reply::ActorStateApply(pb::ApplyResponse {}),
        (Shape::Flush, Response::Ok) => Reply::Flush(pb::FlushResponse {}),
        (Shape::RecordStep, Response::Step(payload)) => {
            let payload = Some(payload_to(payload, false));
            Reply::RecordStep(pb::RecordStepResponse { payload })
        }
        (Shape::ReminderSchedule, Response::Scheduled { due }) => {
            let due_time = Some(timestamp(due));
            Reply::ReminderSchedule(pb::ScheduleResponse { due_time })
        }
        (Shape::ReminderCancel, Response::Cancelled { count }) => {
            let cancelled = i32::try_from(count).unwrap_or(i32::MAX);
            Reply::ReminderCancel(pb::ReminderServiceCancelResponse { cancelled })
        }
        (Shape::ReminderList { actor }, Response::Reminders(all)) => {
            let reminders = all.iter().map(|r| reminder::reminder_to(r, &actor)).collect();
            Reply::ReminderList(pb::ReminderServiceListResponse { reminders })
        }
        (Shape::RemoveActor, Response::Outcome { invocation, outcome }) => {
            // Its outcome is no method's: there is nothing in it.
            ended(outcome, &invocation)?.map_err(|_| unfit(&Shape::RemoveActor))?;
            Reply::RemoveActor(pb::RemoveActorResponse {})
        }
        // Only a refusal comes as an outcome.
        (
            shape @ (Shape::ReminderSchedule | Shape::ReminderCancel),
            Response::Outcome { outcome, .. },
        ) => {
            return Err(ended(outcome, &None).err().unwrap_or_else(|| unfit(&shape)));
        }
        // What was taken is told as accepted: only a refusal is told as an outcome.
        (shape @ (Shape::Tell | Shape::Start), Response::Outcome { invocation, outcome }) => {
            return Err(ended(outcome, &invocation).err().unwrap_or_else(|| unfit(&shape)));
        }
        (shape, _) => return Err(unfit(&shape)),
    })
}

fn unfit(shape: &Shape) -> Status {
    tracing::error!(?shape, "the core's answer does not fit the request");
    Status::internal("the answer does not fit the request")
}

/// The answer of the application's state.
///
/// # Errors
///
/// The status that says why the request was not carried out.
pub fn state_answer(answer: Result<StateAnswer, StateError>) -> Result<Reply, Status> {
    Ok(match answer.map_err(state_error)? {
        StateAnswer::Entry(entry) => {
            let answer = entry.map(|entry| pb::StateServiceGetResponse {
                value: Some(payload_to(entry.value, false)),
                etag: entry.etag,
                expire_time: entry.expires.map(timestamp),
            });
            Reply::StateGet(answer.unwrap_or_default())
        }
        StateAnswer::Written { etag } => Reply::StateSet(pb::SetResponse { etag }),
        StateAnswer::Deleted { existed } => Reply::StateDelete(pb::DeleteResponse { existed }),
        StateAnswer::Transacted { etags, existed } => {
            Reply::StateTransact(pb::TransactResponse { etags, existed })
        }
        StateAnswer::Page { entries, next_page_token } => {
            let entries = entries
                .into_iter()
                .map(|e| pb::StateEntry { key: e.key, value: Some(payload_to(e.value, false)) });
            let entries = entries.collect();
            Reply::StateList(pb::ListResponse { entries, next_page_token })
        }
    })
}

fn state_error(error: StateError) -> Status {
    match error {
        StateError::ConditionFailed { key, etag } => {
            let message = if etag.is_empty() {
                format!("the condition on key '{key}' does not hold: there is no such key")
            } else {
                format!("the condition on key '{key}' does not hold: its etag is '{etag}'")
            };
            status(ErrorReason::ConditionFailed, message, [("key", key), ("etag", etag)])
        }
        StateError::Invalid(what) => status(ErrorReason::InvalidField, what, []),
        StateError::Unavailable(what) => status(ErrorReason::BackendUnavailable, what, []),
        StateError::Unknown(what) => status(ErrorReason::OutcomeUnknown, what, []),
    }
}

/// Why something that is no call was refused.
pub fn refused(outcome: Outcome) -> Status {
    let internal = || Status::internal("the answer does not fit the request");
    ended(outcome, &None).err().unwrap_or_else(internal)
}

/// What the application said, or the status for an invocation that never ran.
fn ended(
    outcome: Outcome,
    invocation: &Option<InvocationId>,
) -> Result<Result<Payload, pb::ApplicationError>, Status> {
    let id = || invocation.as_ref().map(ToString::to_string).unwrap_or_default();
    match outcome {
        Outcome::Done(payload) => Ok(Ok(payload)),
        Outcome::Failed(error) if &*error.code == UNKNOWN_METHOD => {
            let message = error.message.to_string();
            Err(status(ErrorReason::UnknownMethod, message, [("invocation", id())]))
        }
        Outcome::Failed(error) => Ok(Err(application_error_to(error))),
        Outcome::Refused(refusal) => Err(turned_away(refusal, id())),
        Outcome::Deadlock(cycle) => {
            let message = format!(
                "flows wait for each other: {cycle}; this call, the youngest, never runs: let its \
                 caller fail and be tried again, or call these actors in one order everywhere"
            );
            let metadata = [("invocation", id()), ("cycle", cycle.to_string())];
            Err(status(ErrorReason::Deadlock, message, metadata))
        }
        Outcome::Cancelled => {
            let message = "somebody asked for the invocation's end; it has ended";
            Err(status(ErrorReason::Cancelled, message, [("invocation", id())]))
        }
        Outcome::Withdrawn => {
            let message =
                "the turn that made this call is over, and the call had not started; it never will";
            Err(status(ErrorReason::TurnSuperseded, message, [("invocation", id())]))
        }
        Outcome::Expired => {
            let message = "the deadline passed before the invocation started; it never will";
            Err(status(ErrorReason::Expired, message, [("invocation", id())]))
        }
    }
}

fn cancelled(done: Controlled) -> Result<pb::CancelResponse, Status> {
    let result = match done {
        Controlled::Cancelled => pb::CancelResult::Cancelled,
        Controlled::CancelRequested => pb::CancelResult::Requested,
        Controlled::CancelMoved => pb::CancelResult::Moved,
        Controlled::Ended => pb::CancelResult::Ended,
        Controlled::Resumed
        | Controlled::NotParked
        | Controlled::Redriven(_)
        | Controlled::Found(_)
        | Controlled::Discarded => {
            return Err(Status::internal("the answer does not fit the request"));
        }
    };
    Ok(pb::CancelResponse { result: result.into() })
}

fn resumed(done: Controlled, id: &InvocationId) -> Result<(), Status> {
    match done {
        Controlled::Resumed => Ok(()),
        Controlled::NotParked | Controlled::Ended => {
            let message = format!("invocation {id} is not parked: there is nothing to resume");
            Err(status(ErrorReason::NotParked, message, [("invocation", id.to_string())]))
        }
        Controlled::Cancelled
        | Controlled::CancelRequested
        | Controlled::CancelMoved
        | Controlled::Redriven(_)
        | Controlled::Found(_)
        | Controlled::Discarded => Err(Status::internal("the answer does not fit the request")),
    }
}

fn turned_away(refusal: Refusal, invocation: String) -> Status {
    let invocation = ("invocation", invocation);
    // The value is the owner's; nodes may be configured differently.
    if let Some(LimitHit { name, .. }) = Limits::default().behind(refusal) {
        let message = format!("limit {} of the target's owner reached", name.replace('_', "-"));
        return status(
            ErrorReason::LimitReached,
            message,
            [("limit", name.to_owned()), invocation],
        );
    }
    if refusal == Refusal::KeyReused {
        let message = "the idempotency key was used for another method or argument: use a new one";
        return status(ErrorReason::IdempotencyKeyReused, message, [invocation]);
    }
    if refusal == Refusal::SharedToExclusive {
        let message = "the flow holds the actor by a shared method, so an exclusive one would \
                       wait for ever: make the caller exclusive, or this one shared";
        return status(ErrorReason::SharedToExclusive, message, [invocation]);
    }
    let message = "the sidecar was gone for too long; the outcome is unknown";
    status(ErrorReason::OutcomeUnknown, message, [invocation])
}

fn entries(state: Entries) -> HashMap<String, pb::Payload> {
    let entry = |(key, value): (Arc<str>, _)| {
        (actor_state::shown(&key).1.to_owned(), payload_to(value, false))
    };
    state.into_iter().map(entry).collect()
}

fn application_error_to(error: ApplicationError) -> pb::ApplicationError {
    let payload = error.payload;
    let has_payload = !payload.data.is_empty() || !payload.content_type.is_empty();
    pb::ApplicationError {
        code: error.code.to_string(),
        message: error.message.to_string(),
        detail: error.detail.to_string(),
        payload: has_payload.then(|| payload_to(payload, false)),
        retryable: error.retryable,
    }
}

/// Bytes that an answer holds, roughly: for the bound of a send queue, and for what goes into one message.
pub fn reply_size(reply: &Reply) -> usize {
    use pb::payload::Body;
    let size = |payload: &pb::Payload| match &payload.body {
        Some(Body::Data(data)) => data.len() + payload.content_type.len(),
        // Only people ask for this form.
        Some(Body::Json(value)) => prost::Message::encoded_len(value) + payload.content_type.len(),
        None => 0,
    };
    let error_size = |error: &pb::ApplicationError| {
        let texts = error.code.len() + error.message.len() + error.detail.len();
        texts + error.payload.as_ref().map_or(0, size)
    };
    let entries = |e: &HashMap<String, pb::Payload>| -> usize {
        e.iter().map(|(k, v)| k.len() + size(v) + ENTRY_BYTES).sum()
    };
    let listed = |entries: &[pb::StateEntry]| -> usize {
        let entry = |e: &pb::StateEntry| e.key.len() + e.value.as_ref().map_or(0, size);
        entries.iter().map(|e| entry(e) + ENTRY_BYTES).sum()
    };
    let content = match reply {
        Reply::Invoke(r) => match &r.result {
            Some(pb::invoke_response::Result::Payload(p)) => size(p),
            Some(pb::invoke_response::Result::Error(e)) => error_size(e),
            None => 0,
        },
        Reply::CallActor(r) => match &r.result {
            Some(pb::call_actor_response::Result::Payload(p)) => size(p),
            Some(pb::call_actor_response::Result::Error(e)) => error_size(e),
            None => 0,
        },
        Reply::AwaitOutcome(r) => match &r.result {
            Some(pb::await_response::Result::Payload(p)) => size(p),
            Some(pb::await_response::Result::Error(e)) => error_size(e),
            None => 0,
        },
        Reply::ActorStateGet(r) => entries(&r.entries),
        Reply::ActorStateGetAll(r) => entries(&r.entries),
        Reply::RecordStep(r) => r.payload.as_ref().map_or(0, size),
        Reply::ReminderList(r) => r.reminders.iter().map(prost::Message::encoded_len).sum(),
        Reply::StateGet(r) => r.value.as_ref().map_or(0, size),
        Reply::ActorStateListSubMap(r) => listed(&r.entries),
        Reply::StateList(r) => listed(&r.entries),
        Reply::DescribeTopic(r) => prost::Message::encoded_len(r),
        Reply::ListTopics(r) => prost::Message::encoded_len(r),
        Reply::ListSubscriptions(r) => prost::Message::encoded_len(r),
        Reply::CreateTopic(r) => prost::Message::encoded_len(r),
        Reply::Publish(r) => r.event_id.len(),
        Reply::PublishBatch(r) => r.events.iter().map(|e| e.event_id.len() + ENTRY_BYTES * 2).sum(),
        Reply::StateTransact(r) => r.etags.iter().map(|e| e.len() + ENTRY_BYTES).sum(),
        Reply::Status(status) => {
            let details = status.details.iter().map(|d| d.type_url.len() + d.value.len());
            status.message.len() + details.sum::<usize>()
        }
        _ => 0,
    };
    content + REPLY_BYTES
}

/// What a key takes besides its text and its value, and an answer besides its content: the id of an invocation, tags
/// and lengths.
const ENTRY_BYTES: usize = 32;
const REPLY_BYTES: usize = 320;

#[cfg(test)]
mod tests {
    use kar_core::ids::{Kind, PartitionId, Uuid};
    use tonic_types::StatusExt as _;

    use super::*;

    fn ended_as(shape: Shape, outcome: Outcome) -> Result<Reply, Status> {
        let home = PartitionId::new(Kind::service("s"), 0);
        let invocation = Some(InvocationId { home, uuid: Uuid(1) });
        answer(shape, Ok(Response::Outcome { invocation, outcome }))
    }

    #[test]
    fn whatever_is_refused_is_refused_by_the_bounds_name() {
        let shapes = [Shape::Invoke { json: false }, Shape::CallActor { json: false }];
        for shape in shapes.into_iter().chain([Shape::Await, Shape::Tell, Shape::Start]) {
            let refused = Outcome::Refused(Refusal::ActorQueueFull);
            let status = ended_as(shape.clone(), refused).expect_err("refused");
            let info = status.get_details_error_info().expect("typed");
            assert_eq!(info.reason, "LIMIT_REACHED", "{shape:?}");
            assert_eq!(info.metadata["limit"], "queue_per_actor_max", "{shape:?}");
        }
    }

    /// Messages are packed by these sizes, and clients take no longer ones.
    #[test]
    fn answers_are_no_longer_than_they_are_counted() {
        let text = "t".repeat(1_000);
        let payload = Payload { data: text.clone().into(), content_type: text.as_str().into() };
        let failed = Outcome::Failed(ApplicationError {
            code: text.as_str().into(),
            message: text.as_str().into(),
            detail: text.as_str().into(),
            payload: payload.clone(),
            retryable: true,
        });
        let mut replies = Vec::new();
        for outcome in [Outcome::Done(payload.clone()), failed] {
            let shapes = [Shape::Invoke { json: false }, Shape::CallActor { json: false }];
            for shape in shapes.into_iter().chain([Shape::Await]) {
                replies.push(ended_as(shape, outcome.clone()).expect("it ended"));
            }
        }
        let state: Entries =
            (0..100).map(|n| (format!("{n}{text}").into(), payload.clone())).collect();
        replies.push(
            answer(Shape::StateGetAll, Ok(Response::State(Selected::Entries(state))))
                .expect("read"),
        );
        let refused = ended_as(Shape::Tell, Outcome::Refused(Refusal::PartitionFull));
        let status = crate::convert::error::on_stream(&refused.expect_err("refused"));
        replies.push(Reply::Status(status));
        for reply in replies {
            let counted = reply_size(&reply);
            let response = pb::Response { id: u64::MAX, result: Some(reply) };
            let encoded = prost::Message::encoded_len(&response);
            assert!(encoded <= counted, "{encoded} > {counted}");
        }
    }
}
