//! Reminders to `kar.log.v1` and back.

use std::sync::Arc;

use bytes::Bytes;
use kar_core::invocation::Payload;
use kar_core::record::ReminderOp;
use kar_core::reminder::{CatchUp, Remind, Reminder, ReminderChange};
use kar_core::schedule::Schedule;
use kar_proto::log::v1 as pb;

use super::Malformed;
use super::log::{payload_from, payload_to, uuid_from, uuid_to};

/// A reminder for the wire.
pub fn reminder_to(reminder: &Reminder) -> pb::Reminder {
    use pb::reminder::Schedule as S;
    let schedule = match &reminder.schedule {
        Schedule::Once => None,
        Schedule::Every(period) => Some(S::PeriodMs(*period)),
        Schedule::Cron { expression, zone } => {
            Some(S::Cron(pb::Cron { expression: expression.to_string(), zone: zone.to_string() }))
        }
    };
    let catch_up = match reminder.catch_up {
        CatchUp::Once => pb::CatchUp::Once,
        CatchUp::Each => pb::CatchUp::Each,
        CatchUp::Skip => pb::CatchUp::Skip,
    };
    pb::Reminder {
        id: reminder.id.to_string(),
        method: reminder.method.to_string(),
        payload: Some(payload_to(&reminder.payload)),
        due_ms: reminder.due,
        catch_up: catch_up.into(),
        schedule,
    }
}

/// A reminder from the wire.
///
/// # Errors
///
/// If a part of it is not understood.
pub fn reminder_from(reminder: pb::Reminder) -> Result<Reminder, Malformed> {
    use pb::reminder::Schedule as S;
    let catch_up = match reminder.catch_up() {
        pb::CatchUp::Once => CatchUp::Once,
        pb::CatchUp::Each => CatchUp::Each,
        pb::CatchUp::Skip => CatchUp::Skip,
        pb::CatchUp::Unspecified => return Err(Malformed::Field("catch_up")),
    };
    let schedule = match reminder.schedule {
        None => Schedule::Once,
        Some(S::PeriodMs(period)) => Schedule::Every(period),
        Some(S::Cron(cron)) => {
            Schedule::Cron { expression: cron.expression.into(), zone: cron.zone.into() }
        }
    };
    let payload = payload_from(reminder.payload.unwrap_or_default());
    // It stays for long: of its own, so that it does not keep the message that it came in.
    let payload = Payload { data: Bytes::copy_from_slice(&payload.data), ..payload };
    Ok(Reminder {
        id: reminder.id.into(),
        method: reminder.method.into(),
        payload,
        due: reminder.due_ms,
        schedule,
        catch_up,
    })
}

fn change_to(change: &ReminderChange) -> pb::ReminderChange {
    use pb::reminder_change::Change as C;
    let change = match change {
        ReminderChange::Set(reminder) => C::Set(reminder_to(reminder)),
        ReminderChange::Cancel(id) => C::Cancel(id.to_string()),
        ReminderChange::CancelAll => C::CancelAll(true),
    };
    pb::ReminderChange { change: Some(change) }
}

fn change_from(change: Option<pb::ReminderChange>) -> Result<ReminderChange, Malformed> {
    use pb::reminder_change::Change as C;
    Ok(match change.and_then(|c| c.change).ok_or(Malformed::Field("change"))? {
        C::Set(reminder) => ReminderChange::Set(Arc::new(reminder_from(reminder)?)),
        C::Cancel(id) => ReminderChange::Cancel(id.into()),
        C::CancelAll(true) => ReminderChange::CancelAll,
        C::CancelAll(false) => return Err(Malformed::Field("cancel_all")),
    })
}

/// A logged change for the wire.
pub fn op_of_reminders_to(op: &ReminderOp) -> pb::ReminderOp {
    let dropped = op.dropped.iter().map(|uuid| uuid_to(*uuid)).collect();
    pb::ReminderOp { change: Some(change_to(&op.change)), dropped }
}

/// A logged change from the wire.
///
/// # Errors
///
/// If a part of it is not understood.
pub fn op_of_reminders_from(op: pb::ReminderOp) -> Result<ReminderOp, Malformed> {
    let dropped = op.dropped.iter().map(|uuid| uuid_from(uuid)).collect::<Result<_, _>>()?;
    Ok(ReminderOp { change: change_from(op.change)?, dropped })
}

/// A change from outside for the wire.
pub fn remind_to(remind: &Remind) -> pb::Remind {
    pb::Remind {
        uuid: uuid_to(remind.uuid),
        actor: remind.actor.to_string(),
        change: Some(change_to(&remind.change)),
    }
}

/// A change from outside from the wire.
///
/// # Errors
///
/// If it is absent, or a part of it is not understood.
pub fn remind_from(remind: Option<pb::Remind>) -> Result<Remind, Malformed> {
    let remind = remind.ok_or(Malformed::Field("remind"))?;
    Ok(Remind {
        uuid: uuid_from(&remind.uuid)?,
        actor: remind.actor.into(),
        change: change_from(remind.change)?,
    })
}
