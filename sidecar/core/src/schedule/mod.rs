//! When something comes again: once, by a period, or by a cron expression in a time zone. Pure: the due time in, the
//! next one out. Due times are stored, never recomputed, so that a newer time zone database moves only what is yet to
//! be decided.

mod cron;

use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

use crate::ids::Millis;
use cron::Fields;

/// Shortest period, ms: every due time is an invocation in a log.
pub const PERIOD_MS_MIN: Millis = 10;

/// Longest period, ms: 10,000 years, as `google.protobuf.Duration` has it.
pub const PERIOD_MS_MAX: Millis = 315_576_000_000_000;

/// Latest due time: the end of the year 9999, which is as far as calendars go here.
pub const DUE_MAX: Millis = 253_402_207_200_000;

/// Longest cron expression, bytes: far more than five fields need.
pub const CRON_BYTES_MAX: usize = 256;

/// Longest name of a time zone, bytes; the longest one in use has 32.
pub const ZONE_BYTES_MAX: usize = 64;

/// How far ahead a cron expression is searched, in years: the 29th of February on one day of the week comes again
/// after 40 years at most.
const YEARS_MAX: i16 = 41;

/// When something comes again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Schedule {
    /// Not at all.
    Once,
    /// So many milliseconds after each due time.
    Every(Millis),
    /// At the times of a cron expression.
    Cron {
        /// Minute, hour, day of month, month, day of week.
        expression: Arc<str>,
        /// IANA time zone; empty: UTC.
        zone: Arc<str>,
    },
}

/// What is wrong with a schedule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// The period is out of bounds.
    #[error("the period must be between {PERIOD_MS_MIN} ms and 10,000 years")]
    Period,
    /// The due time is out of bounds.
    #[error("the due time must not be later than the year 9999")]
    Due,
    /// A one-shot has no due time.
    #[error("the due time is missing: only what comes again has a due time without one")]
    NoDue,
    /// The expression is not one.
    #[error("the cron expression is wrong: {0}")]
    Cron(String),
    /// The expression names a time that never comes.
    #[error("the cron expression '{0}' names no time that ever comes")]
    Never(Arc<str>),
    /// The time zone is not known.
    #[error("there is no time zone '{0}': IANA names are meant, such as Europe/Zurich")]
    Zone(Arc<str>),
}

impl Schedule {
    /// Checks everything that can be wrong with it, and finds the first due time if none is given.
    ///
    /// # Errors
    ///
    /// What is wrong, for whoever made it.
    pub fn first(&self, due: Option<Millis>, now: Millis) -> Result<Millis, ScheduleError> {
        let first = match self {
            Self::Once => due.ok_or(ScheduleError::NoDue)?,
            Self::Every(period) => {
                if !(PERIOD_MS_MIN..=PERIOD_MS_MAX).contains(period) {
                    return Err(ScheduleError::Period);
                }
                due.unwrap_or(now.saturating_add(*period))
            }
            Self::Cron { expression, zone } => {
                let next = cron_after(expression, zone, due.unwrap_or(now))?;
                due.unwrap_or(next)
            }
        };
        if first > DUE_MAX { Err(ScheduleError::Due) } else { Ok(first) }
    }

    /// The due time after one; `None`: it does not come again.
    pub fn after(&self, due: Millis) -> Option<Millis> {
        let next = match self {
            Self::Once => return None,
            // A period of 0 cannot be scheduled; from a log it would be fired without end.
            Self::Every(period) => due.checked_add((*period).max(1))?,
            // It was checked when it was scheduled.
            Self::Cron { expression, zone } => cron_after(expression, zone, due).ok()?,
        };
        (next <= DUE_MAX).then_some(next)
    }

    /// The first due time from `from` on in the sequence that `due` belongs to; `due` if that is late enough.
    pub fn from(&self, due: Millis, from: Millis) -> Option<Millis> {
        if due >= from {
            return Some(due);
        }
        match self {
            Self::Once => None,
            Self::Every(period) => {
                let period = (*period).max(1);
                let next = due.checked_add((from - due).div_ceil(period).checked_mul(period)?)?;
                (next <= DUE_MAX).then_some(next)
            }
            Self::Cron { .. } => self.after(from - 1),
        }
    }
}

/// The first time of a cron expression after `after`.
fn cron_after(
    expression: &Arc<str>,
    zone: &Arc<str>,
    after: Millis,
) -> Result<Millis, ScheduleError> {
    let fields = Fields::parse(expression).map_err(ScheduleError::Cron)?;
    let zone = match &**zone {
        "" => TimeZone::UTC,
        name => TimeZone::get(name).map_err(|_| ScheduleError::Zone(zone.clone()))?,
    };
    let never = || ScheduleError::Never(expression.clone());
    let after = i64::try_from(after.min(DUE_MAX)).map_err(|_| ScheduleError::Due)?;
    let after = Timestamp::from_millisecond(after).map_err(|_| ScheduleError::Due)?;
    let next = if fields.every_hour {
        next_of_elapsed(&fields, &zone, after)
    } else {
        next_of_day(&fields, &zone, after)
    };
    let millis = next.ok_or_else(never)?.as_millisecond();
    Millis::try_from(millis).map_err(|_| never())
}

/// Expressions for particular hours mean local times: one that the clock jumps over is made up for when it has jumped,
/// and one that comes twice counts once.
fn next_of_day(fields: &Fields, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let mut local = zone.to_datetime(after);
    let last = local.year().checked_add(YEARS_MAX)?;
    loop {
        local = fields.next_from(local, last)?;
        let at = instant(zone, local)?;
        if at > after {
            return Some(at);
        }
        local = plus_minute(local)?;
    }
}

/// When a local time is; one that does not exist, because the clock jumps, is when it jumps; of two the first.
fn instant(zone: &TimeZone, local: DateTime) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(local);
    let is_gap = matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. });
    let at = ambiguous.earlier().ok()?;
    if is_gap { Some(zone.following(at).next()?.timestamp()) } else { Some(at) }
}

/// Expressions for every hour mean elapsed time: they go on evenly when the clock is changed.
fn next_of_elapsed(fields: &Fields, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    const MINUTE: i64 = 60;
    let last = zone.to_datetime(after).year().checked_add(YEARS_MAX)?;
    let mut at = after;
    loop {
        // The next full minute of the local clock.
        let local = zone.to_datetime(at);
        at = Timestamp::from_second(at.as_second() + MINUTE - i64::from(local.second())).ok()?;
        let local = zone.to_datetime(at);
        if local.year() > last {
            return None;
        }
        if !fields.has_day(local.date()) {
            // No later than the beginning of the next day that counts, and back to the full minute before it.
            let midnight =
                fields.next_from(local, last)?.date().to_datetime(jiff::civil::Time::midnight());
            let start = instant(zone, midnight)?;
            at = at.max(Timestamp::from_second(start.as_second() - MINUTE).ok()?);
        } else if fields.has_minute(local) {
            return Some(at);
        }
    }
}

fn plus_minute(local: DateTime) -> Option<DateTime> {
    local.checked_add(jiff::SignedDuration::from_secs(60)).ok()
}
