//! Reminders: invocations of an actor at due times (design section 6, item 10).

use std::sync::Arc;

use crate::ids::{Millis, Uuid};
use crate::invocation::Payload;
use crate::schedule::Schedule;

/// A reminder of an actor, named by its id within it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reminder {
    /// Its name within its actor.
    pub id: Arc<str>,
    /// Method invoked.
    pub method: Arc<str>,
    /// Argument.
    pub payload: Payload,
    /// Next due time.
    pub due: Millis,
    /// When it comes again.
    pub schedule: Schedule,
    /// What to do about due times that were missed.
    pub catch_up: CatchUp,
}

/// What to do about due times that nobody could fire at: those that passed longer than `Limits::reminder_lateness_ms`
/// ago. Without a host of its kind a reminder has one firing that waits, and the next due time waits with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum CatchUp {
    /// Fire once for all of them.
    #[default]
    Once,
    /// Fire for each of them.
    Each,
    /// Do not fire for them.
    Skip,
}

/// A change to the reminders of one actor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReminderChange {
    /// Schedules one, or replaces the one with the same id.
    Set(Arc<Reminder>),
    /// Cancels one.
    Cancel(Arc<str>),
    /// Cancels all.
    CancelAll,
}

/// A change that was asked for from outside the actor's turns: an invocation that the owner itself carries out, at
/// once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remind {
    /// Unique part of its id.
    pub uuid: Uuid,
    /// The instance.
    pub actor: Arc<str>,
    /// What changes.
    pub change: ReminderChange,
}
