//! `kar get invocation ID`: all that is known of one invocation.

use kar_proto::v1::{GetInvocationRequest, InvocationEnd, InvocationInfo};

use super::args::{Format, ListArgs};
use super::client::with_session;
use super::exit::{Code, Failure, Outcome};
use super::get::{NOTHING, cause, invocation_json, mode, read, standing, target_text};
use super::output::{Table, age};
use super::payload;

/// `kar get invocation ID`.
pub(crate) async fn show(args: ListArgs, invocation_id: String) -> Outcome {
    with_session(&args.reach, NOTHING, async |session| {
        let request = GetInvocationRequest { invocation_id };
        let answer = session.invocations().get_invocation(request).await.map_err(not_found)?;
        let info = answer.into_inner().invocation;
        let info =
            info.ok_or_else(|| Failure::internal("the sidecar's answer holds no invocation"))?;
        match args.output {
            Format::Json => payload::line(&format!("{:#}", invocation_json(&info))),
            Format::Table => payload::line(&table(&info).render()),
        }
    })
    .await
}

fn not_found(status: tonic::Status) -> Failure {
    let failure = read(status);
    match failure.code {
        Code::NotFound => failure.advise(
            "is the id right? an invocation is known while it is unfinished or a dead letter, and \
             for a time if somebody may ask for its outcome (`kar start`, idempotency keys)",
        ),
        _ => failure,
    }
}

/// What there is to say, a line for each.
fn table(info: &InvocationInfo) -> Table {
    let mut table = Table::new(&["WHAT", "VALUE"]);
    let mut row = |what: &str, value: String| {
        if !value.is_empty() && value != "-" {
            table.row(vec![what.to_owned(), value]);
        }
    };
    let ago = |time: Option<&prost_types::Timestamp>| match time {
        Some(when) => format!("{when} ({} ago)", age(time)),
        None => String::new(),
    };
    row("invocation", info.invocation_id.clone());
    row("target", target_text(info.target.as_ref()));
    row("method", info.method.clone());
    row("mode", mode(info.mode()).into());
    row("state", standing(info.state()).into());
    row("node", info.node.clone());
    row("attempt", if info.attempt == 0 { String::new() } else { info.attempt.to_string() });
    row("created", ago(info.create_time.as_ref()));
    row("cancel asked for", if info.cancel_requested { "yes".into() } else { String::new() });
    if let Some(end) = &info.last_attempt_end {
        let text = match end.message.as_str() {
            "" => cause(end.cause()).to_owned(),
            message => format!("{}: {message}", cause(end.cause())),
        };
        row("last attempt", text);
    }
    row("next attempt", info.retry_time.as_ref().map(ToString::to_string).unwrap_or_default());
    row("waits behind", info.behind_invocation_id.clone());
    row("ended", ago(info.end_time.as_ref()));
    row("end", ending(info.end()).into());
    if let Some(error) = &info.error {
        row("error", format!("{}: {}", error.code, error.message));
        row("detail", error.detail.trim_end().to_owned());
    }
    table
}

/// How it ended; empty if it has not.
pub(super) fn ending(end: InvocationEnd) -> &'static str {
    match end {
        InvocationEnd::Unspecified => "",
        InvocationEnd::Done => "done",
        InvocationEnd::Failed => "failed",
        InvocationEnd::Refused => "refused",
        InvocationEnd::Expired => "expired",
        InvocationEnd::Cancelled => "cancelled",
        InvocationEnd::Deadlock => "deadlock",
        InvocationEnd::Withdrawn => "withdrawn",
    }
}

#[cfg(test)]
mod tests {
    use kar_proto::v1::{ApplicationError, InvocationState};

    use super::*;

    #[test]
    fn only_what_is_known_is_shown() {
        let mut info = InvocationInfo { invocation_id: "s.g/0/u".into(), ..Default::default() };
        info.set_state(InvocationState::Completed);
        info.set_end(InvocationEnd::Failed);
        let (code, message) = ("broke".into(), "no\u{1b}[2Jmoney".into());
        info.error = Some(ApplicationError { code, message, ..Default::default() });
        let shown = table(&info).render();
        let lines: Vec<&str> = shown.lines().skip(1).collect();
        let wanted = [
            "invocation  s.g/0/u",
            "state       completed",
            "end         failed",
            "error       broke: no\\u{1b}[2Jmoney",
        ];
        assert_eq!(lines, wanted);
    }
}
