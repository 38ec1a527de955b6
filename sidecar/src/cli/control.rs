//! `kar cancel`, `kar resume`, `kar redrive`, `kar discard`: what is done to an invocation.

use kar_proto::v1::{
    CancelRequest, CancelResult, DiscardDeadLetterRequest, RedriveDeadLetterRequest, ResumeRequest,
};

use serde_json::{Value, json};

use super::args::{Format, InvocationIdArgs};
use super::client::with_session;
use super::exit::{Code, Effect, Failure, Outcome};
use super::payload;

/// What Ctrl-C means.
const UNKNOWN: &str = "whether it was done is unknown (`kar get invocations`); it can be repeated";

/// The same for dead letters.
const REDRIVEN: &str =
    "whether it was done is unknown: see whether it is in `kar get dead-letters`";

/// `kar cancel`.
pub(crate) async fn cancel(args: InvocationIdArgs) -> Outcome {
    let request = CancelRequest { invocation_id: args.id };
    with_session(&args.reach, UNKNOWN, async |session| {
        let answer = session.invocations().cancel(request).await.map_err(failed)?;
        let (result, text) = match answer.into_inner().result() {
            CancelResult::Unspecified => ("done", "done"),
            CancelResult::Cancelled => {
                ("cancelled", "cancelled: it has ended, and does not run again")
            }
            CancelResult::Requested => {
                ("requested", "told to stop: it ends when it does, and is not tried again")
            }
            CancelResult::Moved => (
                "moved",
                "it has gone on elsewhere by a tail call: it ends if it comes back; \
                 `kar get invocations` shows where it runs, under an id that reaches it",
            ),
            CancelResult::Ended => ("ended", "it had ended before"),
        };
        print(args.output, text, json!({ "result": result }))
    })
    .await
}

/// `kar resume`.
pub(crate) async fn resume(args: InvocationIdArgs) -> Outcome {
    let request = ResumeRequest { invocation_id: args.id };
    with_session(&args.reach, UNKNOWN, async |session| {
        session.invocations().resume(request).await.map_err(failed)?;
        print(args.output, "resumed", json!({ "result": "resumed" }))
    })
    .await
}

/// `kar redrive`.
pub(crate) async fn redrive(args: InvocationIdArgs) -> Outcome {
    let request = RedriveDeadLetterRequest { invocation_id: args.id };
    with_session(&args.reach, REDRIVEN, async |session| {
        let answer = session.invocations().redrive_dead_letter(request).await;
        let id = answer.map_err(failed_letter)?.into_inner().invocation_id;
        print(args.output, &id, json!({ "invocation_id": id }))
    })
    .await
}

/// `kar discard`.
pub(crate) async fn discard(args: InvocationIdArgs) -> Outcome {
    let request = DiscardDeadLetterRequest { invocation_id: args.id };
    with_session(&args.reach, REDRIVEN, async |session| {
        session.invocations().discard_dead_letter(request).await.map_err(failed_letter)?;
        print(args.output, "discarded", json!({ "result": "discarded" }))
    })
    .await
}

fn print(format: Format, text: &str, json: Value) -> Outcome {
    match format {
        Format::Table => payload::line(text),
        Format::Json => payload::line(&json.to_string()),
    }
}

fn failed(status: tonic::Status) -> Failure {
    Failure::from_status(&status, Effect::Writes)
}

fn failed_letter(status: tonic::Status) -> Failure {
    let failure = failed(status);
    match failure.code {
        Code::NotFound => failure.advise(
            "`kar get dead-letters` lists them; one that was sent again or discarded is none any \
             more, and they go by themselves after a time",
        ),
        _ => failure,
    }
}
