//! Reminders: invocations of an actor at due times, which survive everything.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

use kar_proto::v1 as proto;
use kar_proto::v1::reminder::Recurrence;

use crate::codec::{CodecError, Decode, Encode, Payload};
use crate::context::Source;
use crate::context::sealed::Origin;
use crate::error::{CallError, Rejection};
use crate::stream::{Answer, Operation};

/// The reminders of one actor. In a turn ([`ActorContext::reminders`](crate::ActorContext::reminders))
/// they are those of its own actor, and what it does with them is durable with its segment; for a
/// client ([`ActorRef::reminders`](crate::ActorRef::reminders)) every change is durable when it is
/// answered.
pub struct Reminders<S> {
    origin: Origin,
    actor_type: String,
    id: String,
    scope: PhantomData<fn() -> S>,
}

/// A reminder that is to be scheduled: what is called, and when.
///
/// ```no_run
/// # use std::time::Duration;
/// # use kar_sdk::{ActorContext, CatchUp, Error, Reminder};
/// # async fn method(ctx: &mut ActorContext) -> Result<(), Error> {
/// let reminders = ctx.reminders();
/// // Once, in a minute.
/// let tea = Reminder::new("tea", "pour").argument(&2).after(Duration::from_secs(60));
/// reminders.schedule(tea).await?;
/// // Every morning, and for each one that was missed.
/// let news = Reminder::new("news", "read").cron("30 7 * * *", "Europe/Zurich");
/// reminders.schedule(news.catch_up(CatchUp::Each)).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a reminder is scheduled by `Reminders::schedule`"]
pub struct Reminder {
    id: String,
    method: String,
    argument: Result<Payload, CodecError>,
    due: Option<Due>,
    recurrence: Option<Recurs>,
    catch_up: CatchUp,
}

/// When something comes again.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Recurs {
    /// So long after each due time.
    Every(Duration),
    /// At the times of a cron expression.
    Cron {
        /// Minute, hour, day of month, month, day of week.
        expression: String,
        /// IANA time zone; empty: UTC.
        time_zone: String,
    },
}

/// What to do about due times that were missed because nobody could fire at them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum CatchUp {
    /// Call once for all of them.
    #[default]
    Once,
    /// Call for each of them.
    Each,
    /// Do not call for them.
    Skip,
}

/// A reminder that there is.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Scheduled {
    /// Its name within its actor.
    pub id: String,
    /// The method called.
    pub method: String,
    /// Its argument.
    pub argument: Payload,
    /// Next due time.
    pub due: SystemTime,
    /// When it comes again; `None`: not at all.
    pub recurs: Option<Recurs>,
    /// What to do about missed due times.
    pub catch_up: CatchUp,
}

#[derive(Clone, Copy, Debug)]
enum Due {
    At(SystemTime),
    After(Duration),
}

// === impl Reminder ===

impl Reminder {
    /// Calls `method` without an argument, by default as soon as possible and once. `id` names the
    /// reminder within its actor: scheduling another one of the same id replaces it.
    pub fn new(id: impl Into<String>, method: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            method: method.into(),
            argument: Ok(Payload::default()),
            due: None,
            recurrence: None,
            catch_up: CatchUp::default(),
        }
    }

    /// The method's argument.
    pub fn argument(mut self, argument: &(impl Encode + ?Sized)) -> Self {
        self.argument = argument.encode();
        self
    }

    /// The first due time. Without one, what comes again is due after one period, or at the next time
    /// of its cron expression. A time in the past is due at once, and may count as missed.
    pub fn at(mut self, due: SystemTime) -> Self {
        self.due = Some(Due::At(due));
        self
    }

    /// The first due time, so long after it is scheduled.
    pub fn after(mut self, time: Duration) -> Self {
        self.due = Some(Due::After(time));
        self
    }

    /// Comes again so long after each due time; at least 10 ms.
    pub fn every(mut self, period: Duration) -> Self {
        self.recurrence = Some(Recurs::Every(period));
        self
    }

    /// Comes again at the times of a cron expression (minute, hour, day of month, month, day of week)
    /// in an IANA time zone; an empty one means UTC.
    pub fn cron(mut self, expression: impl Into<String>, time_zone: impl Into<String>) -> Self {
        let (expression, time_zone) = (expression.into(), time_zone.into());
        self.recurrence = Some(Recurs::Cron { expression, time_zone });
        self
    }

    /// What to do about missed due times; [`CatchUp::Once`] if not said.
    pub fn catch_up(mut self, policy: CatchUp) -> Self {
        self.catch_up = policy;
        self
    }

    fn into_proto(self, actor: proto::ActorTarget) -> Result<proto::Reminder, CallError> {
        let due = match (self.due, &self.recurrence) {
            (Some(Due::At(time)), _) => Some(time),
            (Some(Due::After(time)), _) => Some(
                SystemTime::now().checked_add(time).ok_or_else(|| wrong("due_time", "too far"))?,
            ),
            (None, None) => Some(SystemTime::now()),
            (None, Some(_)) => None,
        };
        let recurrence = match self.recurrence {
            None => None,
            Some(Recurs::Every(period)) => {
                let period = period.try_into().map_err(|_| wrong("period", "too long"))?;
                Some(Recurrence::Period(period))
            }
            Some(Recurs::Cron { expression, time_zone }) => {
                Some(Recurrence::Cron(proto::CronSchedule { expression, time_zone }))
            }
        };
        let policy = match self.catch_up {
            CatchUp::Once => proto::CatchUpPolicy::Once,
            CatchUp::Each => proto::CatchUpPolicy::Each,
            CatchUp::Skip => proto::CatchUpPolicy::Skip,
        };
        Ok(proto::Reminder {
            id: self.id,
            actor: Some(actor),
            method: self.method,
            payload: Some(self.argument?.into_proto()),
            due_time: due.map(Into::into),
            catch_up_policy: policy.into(),
            recurrence,
        })
    }
}

// === impl Scheduled ===

impl Scheduled {
    /// Reads the argument.
    ///
    /// # Errors
    /// It is none of `T`.
    pub fn argument<T: Decode>(&self) -> Result<T, CodecError> {
        T::decode(self.argument.clone())
    }

    fn from_proto(reminder: proto::Reminder) -> Result<Self, CallError> {
        let catch_up = match reminder.catch_up_policy() {
            proto::CatchUpPolicy::Each => CatchUp::Each,
            proto::CatchUpPolicy::Skip => CatchUp::Skip,
            proto::CatchUpPolicy::Unspecified | proto::CatchUpPolicy::Once => CatchUp::Once,
        };
        let recurs = match reminder.recurrence {
            None => None,
            Some(Recurrence::Period(period)) => {
                Some(Recurs::Every(period.try_into().map_err(|_| mismatch())?))
            }
            Some(Recurrence::Cron(proto::CronSchedule { expression, time_zone })) => {
                Some(Recurs::Cron { expression, time_zone })
            }
        };
        Ok(Self {
            due: time(reminder.due_time)?,
            argument: Payload::from_proto(reminder.payload),
            id: reminder.id,
            method: reminder.method,
            recurs,
            catch_up,
        })
    }
}

// === impl Reminders ===

impl<S> Reminders<S> {
    pub(crate) fn new(origin: Origin, actor_type: &str, id: &str) -> Self {
        let (actor_type, id) = (actor_type.to_owned(), id.to_owned());
        Self { origin, actor_type, id, scope: PhantomData }
    }

    /// Schedules a reminder, or replaces the one with the same id, whose calls that have not started
    /// are dropped; its first due time. In a turn it is durable with the segment.
    ///
    /// # Errors
    /// [`CallError::Rejected`] if its schedule is wrong: reason `INVALID_FIELD`, the field in the
    /// metadata. [`CallError::Limit`] if there are too many reminders. [`CallError::Unknown`] if the
    /// connection broke: list them, or schedule it again.
    pub async fn schedule(&self, reminder: Reminder) -> Result<SystemTime, CallError> {
        let reminder = Some(reminder.into_proto(self.target())?);
        let request = proto::ScheduleRequest { reminder, turn_token: self.token() };
        match self.origin.0.request(Operation::ReminderSchedule(request)).await? {
            Answer::ReminderSchedule(answer) => time(answer.due_time),
            _ => Err(mismatch()),
        }
    }

    /// Cancels a reminder, with its calls that have not started; whether there was one.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn cancel(&self, id: &str) -> Result<bool, CallError> {
        if id.is_empty() {
            return Err(wrong("id", "is empty: `cancel_all` cancels all of them"));
        }
        Ok(self.cancel_those(id).await? > 0)
    }

    /// Cancels all reminders of the actor, with their calls that have not started; how many.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn cancel_all(&self) -> Result<usize, CallError> {
        self.cancel_those("").await
    }

    /// The reminders of the actor, by id: in a turn as the turn has made them, else what is durable.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn list(&self) -> Result<Vec<Scheduled>, CallError> {
        let (actor, turn_token) = (Some(self.target()), self.token());
        let request = proto::ReminderServiceListRequest { actor, turn_token };
        match self.origin.0.request(Operation::ReminderList(request)).await? {
            Answer::ReminderList(all) => {
                all.reminders.into_iter().map(Scheduled::from_proto).collect()
            }
            _ => Err(mismatch()),
        }
    }

    async fn cancel_those(&self, id: &str) -> Result<usize, CallError> {
        let (actor, turn_token) = (Some(self.target()), self.token());
        let request = proto::ReminderServiceCancelRequest { actor, id: id.to_owned(), turn_token };
        match self.origin.0.request(Operation::ReminderCancel(request)).await? {
            Answer::ReminderCancel(answer) => {
                usize::try_from(answer.cancelled).map_err(|_| mismatch())
            }
            _ => Err(mismatch()),
        }
    }

    fn target(&self) -> proto::ActorTarget {
        proto::ActorTarget { r#type: self.actor_type.clone(), id: self.id.clone() }
    }

    fn token(&self) -> String {
        match &self.origin.0 {
            Source::Root(_) => String::new(),
            Source::Turn(turn) => turn.request_token(),
        }
    }
}

impl<S> fmt::Debug for Reminders<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reminders").field(&self.actor_type).field(&self.id).finish()
    }
}

fn time(time: Option<prost_types::Timestamp>) -> Result<SystemTime, CallError> {
    time.and_then(|time| SystemTime::try_from(time).ok()).ok_or_else(mismatch)
}

fn mismatch() -> CallError {
    CallError::mismatch("reminders")
}

/// What would be refused by the sidecar as well.
fn wrong(field: &str, what: &str) -> CallError {
    CallError::Rejected(Box::new(Rejection {
        code: tonic::Code::InvalidArgument as i32,
        reason: "INVALID_FIELD".to_owned(),
        message: format!("{field}: {what}"),
        metadata: [("field".to_owned(), field.to_owned())].into(),
    }))
}
