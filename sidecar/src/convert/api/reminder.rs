//! Reminders as components ask for them.

use std::sync::Arc;

use kar_core::event::{Operation, ReminderAsk, ReminderSpec};
use kar_core::ids::{Kind, Millis};
use kar_core::limits::Limits;
use kar_core::reminder::{CatchUp, Reminder};
use kar_core::schedule::{CRON_BYTES_MAX, DUE_MAX, Schedule, ZONE_BYTES_MAX};
use kar_proto::v1 as pb;
use pb::reminder::Recurrence;
use tonic::Status;

use super::field::{actor_target, bounded, duration, key, method, payload_from, turn};
use super::{payload_to, timestamp};
use crate::convert::error::invalid_field;

/// `Schedule`.
pub(super) fn schedule(r: pb::ScheduleRequest, limits: &Limits) -> Result<Operation, Status> {
    let turn = turn(&r.turn_token)?;
    let wanted = r.reminder.ok_or_else(|| invalid_field("reminder", "is missing"))?;
    let (kind, actor) = target("reminder.actor", wanted.actor.as_ref())?;
    let catch_up = match pb::CatchUpPolicy::try_from(wanted.catch_up_policy) {
        Ok(pb::CatchUpPolicy::Unspecified | pb::CatchUpPolicy::Once) => CatchUp::Once,
        Ok(pb::CatchUpPolicy::Each) => CatchUp::Each,
        Ok(pb::CatchUpPolicy::Skip) => CatchUp::Skip,
        Err(_) => return Err(invalid_field("reminder.catch_up_policy", "is none that is known")),
    };
    let schedule = match wanted.recurrence {
        None => Schedule::Once,
        Some(Recurrence::Period(period)) => Schedule::Every(duration("reminder.period", &period)?),
        Some(Recurrence::Cron(cron)) => {
            let expression = bounded("reminder.cron.expression", cron.expression, CRON_BYTES_MAX)?;
            let zone = bounded("reminder.cron.time_zone", cron.time_zone, ZONE_BYTES_MAX)?;
            Schedule::Cron { expression: expression.into(), zone: zone.into() }
        }
    };
    let due = wanted.due_time.map(|time| due("reminder.due_time", &time)).transpose()?;
    let max = limits.message_bytes_max;
    let (payload, _) = payload_from("reminder.payload", wanted.payload, max)?;
    let ask = ReminderAsk::Schedule(ReminderSpec {
        id: key("reminder.id", &wanted.id)?,
        method: method(wanted.method)?,
        payload,
        due,
        schedule,
        catch_up,
    });
    Ok(Operation::Remind { turn, kind, actor, ask })
}

/// `Cancel`.
pub(super) fn cancel(r: &pb::ReminderServiceCancelRequest) -> Result<Operation, Status> {
    let turn = turn(&r.turn_token)?;
    let (kind, actor) = target("actor", r.actor.as_ref())?;
    let ask = if r.id.is_empty() {
        ReminderAsk::CancelAll
    } else {
        ReminderAsk::Cancel(key("id", &r.id)?)
    };
    Ok(Operation::Remind { turn, kind, actor, ask })
}

/// `List`.
pub(super) fn list(r: &pb::ReminderServiceListRequest) -> Result<Operation, Status> {
    let turn = turn(&r.turn_token)?;
    let (kind, actor) = target("actor", r.actor.as_ref())?;
    Ok(Operation::Reminders { turn, kind, actor })
}

/// A reminder for people and components.
pub(super) fn reminder_to(reminder: &Reminder, actor: &pb::ActorTarget) -> pb::Reminder {
    let recurrence = match &reminder.schedule {
        Schedule::Once => None,
        Schedule::Every(millis) => Some(Recurrence::Period(prost_types::Duration {
            seconds: i64::try_from(millis / 1_000).unwrap_or(i64::MAX),
            nanos: (millis % 1_000) as i32 * 1_000_000,
        })),
        Schedule::Cron { expression, zone } => Some(Recurrence::Cron(pb::CronSchedule {
            expression: expression.to_string(),
            time_zone: zone.to_string(),
        })),
    };
    let policy = match reminder.catch_up {
        CatchUp::Once => pb::CatchUpPolicy::Once,
        CatchUp::Each => pb::CatchUpPolicy::Each,
        CatchUp::Skip => pb::CatchUpPolicy::Skip,
    };
    pb::Reminder {
        id: reminder.id.to_string(),
        actor: Some(actor.clone()),
        method: reminder.method.to_string(),
        payload: Some(payload_to(reminder.payload.clone(), false)),
        due_time: Some(timestamp(reminder.due)),
        catch_up_policy: policy.into(),
        recurrence,
    }
}

fn target(field: &str, actor: Option<&pb::ActorTarget>) -> Result<(Kind, Arc<str>), Status> {
    let target = actor_target(field, actor)?;
    let actor = target.actor.ok_or_else(|| invalid_field(field, "is missing"))?;
    Ok((target.kind, actor))
}

/// A time since 1970, in milliseconds; what is below one is cut off.
fn due(field: &str, time: &prost_types::Timestamp) -> Result<Millis, Status> {
    let wrong = |what: &str| invalid_field(field, what);
    let seconds = u64::try_from(time.seconds).map_err(|_| wrong("must not be before 1970"))?;
    let nanos = u64::try_from(time.nanos).map_err(|_| wrong("nanos must not be negative"))?;
    if nanos >= 1_000_000_000 {
        return Err(wrong("nanos must be below 1,000,000,000: the rest belongs into seconds"));
    }
    let millis = seconds.checked_mul(1_000).map(|millis| millis + nanos / 1_000_000);
    millis.filter(|millis| *millis <= DUE_MAX).ok_or_else(|| wrong("must be before the year 10000"))
}
