//! `kar cancel`, `kar resume`, `kar redrive`, `kar discard`: what is done to an invocation.

use kar_proto::v1::{
    CancelRequest, CancelResult, DiscardDeadLetterRequest, RedriveDeadLetterRequest, ResumeRequest,
};

use super::args::InvocationIdArgs;
use super::client::with_session;
use super::exit::{Effect, Failure, Outcome};
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
        payload::line(match answer.into_inner().result() {
            CancelResult::Unspecified => "done",
            CancelResult::Cancelled => "cancelled: it has ended, and does not run again",
            CancelResult::Requested => "told to stop: it ends when it does, and is not tried again",
            CancelResult::Moved => {
                "it has gone on elsewhere by a tail call: it ends if it comes back; \
                 `kar get invocations` shows where it runs, under an id that reaches it"
            }
            CancelResult::Ended => "it had ended before",
        })
    })
    .await
}

/// `kar resume`.
pub(crate) async fn resume(args: InvocationIdArgs) -> Outcome {
    let request = ResumeRequest { invocation_id: args.id };
    with_session(&args.reach, UNKNOWN, async |session| {
        session.invocations().resume(request).await.map_err(failed)?;
        payload::line("resumed")
    })
    .await
}

/// `kar redrive`.
pub(crate) async fn redrive(args: InvocationIdArgs) -> Outcome {
    let request = RedriveDeadLetterRequest { invocation_id: args.id };
    with_session(&args.reach, REDRIVEN, async |session| {
        let answer = session.invocations().redrive_dead_letter(request).await.map_err(failed)?;
        payload::line(&answer.into_inner().invocation_id)
    })
    .await
}

/// `kar discard`.
pub(crate) async fn discard(args: InvocationIdArgs) -> Outcome {
    let request = DiscardDeadLetterRequest { invocation_id: args.id };
    with_session(&args.reach, REDRIVEN, async |session| {
        session.invocations().discard_dead_letter(request).await.map_err(failed)?;
        payload::line("discarded")
    })
    .await
}

fn failed(status: tonic::Status) -> Failure {
    Failure::from_status(&status, Effect::Writes)
}
