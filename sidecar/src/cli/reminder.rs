//! `kar reminder`: what calls an actor at due times.

use std::time::SystemTime;

use kar_proto::v1::reminder::Recurrence;
use kar_proto::v1::{
    ActorTarget, CatchUpPolicy, CronSchedule, Reminder, ReminderServiceCancelRequest,
    ReminderServiceListRequest, ScheduleRequest,
};
use serde_json::{Value, json};

use super::args::{ActorArgs, CatchUp, Format, ReminderCommand, SetArgs};
use super::client::{Session, with_session};
use super::exit::{Effect, Failure, Outcome};
use super::output::{self, Table};
use super::payload;

/// What Ctrl-C means for a change that was sent.
const UNKNOWN: &str = "whether it was done is unknown: `kar reminder list` shows it";

/// `kar reminder …`.
pub(crate) async fn reminder(command: ReminderCommand) -> Outcome {
    match command {
        ReminderCommand::Set(args) => {
            let (reach, format) = (args.reach.clone(), args.output);
            let request = ScheduleRequest { reminder: Some(wanted(*args)?), ..Default::default() };
            with_session(&reach, UNKNOWN, async |s| set(s, request, format).await).await
        }
        ReminderCommand::List { reach, actor, output } => {
            with_session(&reach, "nothing was changed", async |s| list(s, actor, output).await)
                .await
        }
        ReminderCommand::Cancel { reach, actor, name, all: _ } => {
            let what =
                name.as_ref().map_or("reminders".into(), |name| format!("reminder '{name}'"));
            // Without a name all of them are meant: the command line insists on one of both.
            let (id, actor) = (name.unwrap_or_default(), Some(target(actor)));
            let request = ReminderServiceCancelRequest { actor, id, ..Default::default() };
            with_session(&reach, UNKNOWN, async |session| {
                let answer = session.reminders().cancel(request).await.map_err(written)?;
                let cancelled = answer.into_inner().cancelled;
                if cancelled == 0 {
                    eprintln!("no {what}; nothing to cancel");
                }
                payload::line(&format!("cancelled: {cancelled}"))
            })
            .await
        }
    }
}

/// The reminder that the command line describes.
fn wanted(args: SetArgs) -> Outcome<Reminder> {
    let now = SystemTime::now();
    let due_time = match (args.at, args.after) {
        (Some(time), _) => Some(time),
        (None, Some(after)) => {
            let due = now.checked_add(after);
            Some(due.ok_or_else(|| Failure::usage("--in: too far in the future"))?.into())
        }
        (None, None) if args.every.is_none() && args.cron.is_none() => Some(now.into()),
        (None, None) => None,
    };
    let recurrence = match (args.every, args.cron) {
        (Some(period), _) => {
            let period = period.try_into().map_err(|_| Failure::usage("--every: too long"))?;
            Some(Recurrence::Period(period))
        }
        (None, Some(expression)) => {
            let time_zone = args.zone.unwrap_or_default();
            Some(Recurrence::Cron(CronSchedule { expression, time_zone }))
        }
        (None, None) => None,
    };
    let policy = match args.catch_up {
        CatchUp::Once => CatchUpPolicy::Once,
        CatchUp::Each => CatchUpPolicy::Each,
        CatchUp::Skip => CatchUpPolicy::Skip,
    };
    Ok(Reminder {
        id: args.name,
        actor: Some(target(args.actor)),
        method: args.method,
        payload: Some(payload::read(args.argument.as_deref(), None, "")?),
        due_time,
        catch_up_policy: policy.into(),
        recurrence,
    })
}

async fn set(session: &Session, request: ScheduleRequest, format: Format) -> Outcome {
    let answer = session.reminders().schedule(request).await.map_err(written)?.into_inner();
    let due = answer.due_time.map(|time| time.to_string()).unwrap_or_default();
    match format {
        Format::Table => payload::line(&format!("due at {due}")),
        Format::Json => payload::line(&format!("{:#}", json!({ "due_time": due }))),
    }
}

async fn list(session: &Session, actor: ActorArgs, format: Format) -> Outcome {
    let request = ReminderServiceListRequest { actor: Some(target(actor)), ..Default::default() };
    let failed = |status| Failure::from_status(&status, Effect::Reads);
    let all = session.reminders().list(request).await.map_err(failed)?.into_inner().reminders;
    let mut table = Table::new(&["NAME", "DUE", "AGAIN", "METHOD", "CATCH-UP"]);
    let mut rows = Vec::with_capacity(all.len());
    for reminder in &all {
        let due = reminder.due_time.map(|time| time.to_string()).unwrap_or_default();
        let policy = match reminder.catch_up_policy() {
            CatchUpPolicy::Each => "each",
            CatchUpPolicy::Skip => "skip",
            CatchUpPolicy::Unspecified | CatchUpPolicy::Once => "once",
        };
        rows.push(json!({
            "name": reminder.id,
            "due_time": due,
            "period": match &reminder.recurrence {
                Some(Recurrence::Period(period)) => json!(period.to_string()),
                _ => Value::Null,
            },
            "cron": match &reminder.recurrence {
                Some(Recurrence::Cron(cron)) => {
                    json!({ "expression": cron.expression, "time_zone": cron.time_zone })
                }
                _ => Value::Null,
            },
            "method": reminder.method,
            "argument": reminder.payload.as_ref().map_or(Value::Null, payload::to_json),
            "catch_up": policy,
        }));
        table.row(vec![
            reminder.id.clone(),
            due,
            again(reminder.recurrence.as_ref()),
            reminder.method.clone(),
            policy.to_owned(),
        ]);
    }
    output::print(format, &table, &Value::Array(rows))
}

fn again(recurrence: Option<&Recurrence>) -> String {
    match recurrence {
        None => "-".to_owned(),
        Some(Recurrence::Period(period)) => format!("every {period}"),
        Some(Recurrence::Cron(cron)) if cron.time_zone.is_empty() => cron.expression.clone(),
        Some(Recurrence::Cron(cron)) => format!("{} ({})", cron.expression, cron.time_zone),
    }
}

fn target(ActorArgs { kind, id }: ActorArgs) -> ActorTarget {
    ActorTarget { r#type: kind, id }
}

fn written(status: tonic::Status) -> Failure {
    Failure::from_status(&status, Effect::Writes)
}
