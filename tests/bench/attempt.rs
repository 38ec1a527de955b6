//! A part of the run that may fail: what it came to, or why it has no figures. The other parts have theirs.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

/// Something that was not measured, or not as often as it should.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failure {
    pub(crate) what: String,
    pub(crate) cause: String,
}

/// Does something within a limit; what becomes of it otherwise (an error, a panic of the harness, time) is told at
/// once, and is in the report.
pub(crate) async fn attempt<T>(
    failures: &mut Vec<Failure>,
    what: &str,
    limit: Duration,
    work: impl Future<Output = Result<T>>,
) -> Option<T> {
    let cause = match tokio::time::timeout(limit, caught(work)).await {
        Ok(Ok(Ok(done))) => return Some(done),
        Ok(Ok(Err(error))) => format!("{error:#}"),
        Ok(Err(panic)) => panic,
        Err(_) => format!("did not end within {} s", limit.as_secs()),
    };
    eprintln!("FAILED: {what}: {cause}");
    failures.push(Failure { what: what.to_owned(), cause });
    None
}

/// Runs something; a panic is its message. What it was about to change is not looked at afterwards.
async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
        Err(panic) => Poll::Ready(Err(message(panic.as_ref()))),
    })
    .await
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".to_owned())
}
