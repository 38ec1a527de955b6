//! Cron expressions of five fields: minute, hour, day of month, month, day of week. As in Vixie cron: lists, ranges,
//! steps, names of months and days; 0 and 7 are Sunday; if both days are restricted, either will do.

use jiff::civil::{Date, DateTime, Time};

/// The fields of an expression, as sets of numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    /// Sunday is 0.
    weekdays: u64,
    /// The day of the month, or of the week, begins with a star: then both have to fit.
    any_day: bool,
    /// Every hour counts.
    pub(super) every_hour: bool,
}

/// What a field may hold.
struct Range {
    what: &'static str,
    min: u32,
    max: u32,
    /// Names of the numbers from `min` on.
    names: &'static [&'static str],
}

const MINUTE: Range = Range { what: "minute", min: 0, max: 59, names: &[] };
const HOUR: Range = Range { what: "hour", min: 0, max: 23, names: &[] };
const DAY: Range = Range { what: "day of month", min: 1, max: 31, names: &[] };
const MONTH: Range = Range {
    what: "month",
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAY: Range = Range {
    what: "day of week",
    min: 0,
    max: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

/// Every hour of the day.
const ALL_HOURS: u64 = (1 << 24) - 1;

impl Fields {
    /// Reads an expression; the error says what is wrong with it.
    pub(super) fn parse(expression: &str) -> Result<Self, String> {
        let fields: Vec<&str> = expression.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            let found = fields.len();
            return Err(format!(
                "'{expression}' has {found} fields, not 5: minute, hour, day of month, month, day of week"
            ));
        };
        let hours = HOUR.parse(hour)?;
        let weekdays = WEEKDAY.parse(weekday)?;
        Ok(Self {
            minutes: MINUTE.parse(minute)?,
            hours,
            days: DAY.parse(day)?,
            months: MONTH.parse(month)?,
            // Both 0 and 7 are Sunday.
            weekdays: (weekdays | (weekdays >> 7)) & 0x7f,
            any_day: day.starts_with('*') || weekday.starts_with('*'),
            every_hour: hours == ALL_HOURS,
        })
    }

    /// The first time from a local one on, with full minutes, that counts, up to a year.
    pub(super) fn next_from(&self, from: DateTime, last_year: i16) -> Option<DateTime> {
        let mut local = full_minute(from);
        if local < from {
            local = super::plus_minute(local)?;
        }
        while local.year() <= last_year {
            let date = local.date();
            if !has(self.months, date.month()) {
                let next = date.last_of_month().tomorrow().ok()?;
                local = next.to_datetime(Time::midnight());
            } else if !self.has_day(date) || !self.fits_from(local) {
                local = date.tomorrow().ok()?.to_datetime(Time::midnight());
            } else if !has(self.hours, local.hour()) {
                let hour = local.date().at(local.hour(), 0, 0, 0);
                local = hour.checked_add(jiff::SignedDuration::from_hours(1)).ok()?;
            } else if self.has_minute(local) {
                return Some(local);
            } else {
                local = super::plus_minute(local)?;
            }
        }
        None
    }

    /// Whether a day counts.
    pub(super) fn has_day(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let either = if self.any_day { day && weekday } else { day || weekday };
        has(self.months, date.month()) && either
    }

    /// Whether a minute of the day counts.
    pub(super) fn has_minute(&self, local: DateTime) -> bool {
        has(self.hours, local.hour()) && has(self.minutes, local.minute())
    }

    /// Whether any hour from this one on counts, in its day.
    fn fits_from(&self, local: DateTime) -> bool {
        self.hours >> local.hour() != 0
    }
}

impl Range {
    /// The numbers of a field, as bits.
    fn parse(&self, field: &str) -> Result<u64, String> {
        let mut bits = 0;
        for part in field.split(',') {
            bits |= self.part(part)?;
        }
        Ok(bits)
    }

    /// `*`, a number or a range, each with or without a step.
    fn part(&self, part: &str) -> Result<u64, String> {
        let what = self.what;
        let (span, step) = match part.split_once('/') {
            None => (part, None),
            Some((span, step)) => {
                let number = step.parse::<u32>().ok().filter(|step| *step > 0);
                let wrong = || format!("'{part}' is no {what}: the step must be a number above 0");
                (span, Some(number.ok_or_else(wrong)?))
            }
        };
        let (first, last) = match span.split_once('-') {
            // Sunday is there only once.
            None if span == "*" => (self.min, if self.max == 7 { 6 } else { self.max }),
            None => {
                let first = self.number(span)?;
                (first, if step.is_some() { self.max } else { first })
            }
            Some((first, last)) => (self.number(first)?, self.number(last)?),
        };
        if first > last {
            return Err(format!("'{part}' is no {what}: the range runs backwards"));
        }
        let numbers = (first..=last).step_by(step.unwrap_or(1) as usize);
        Ok(numbers.fold(0, |bits, number| bits | (1 << number)))
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let Self { what, min, max, names } = self;
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let number = named.map(|at| at as u32 + min).or_else(|| digits(text));
        number.filter(|number| (min..=max).contains(&number)).ok_or_else(|| {
            let names =
                if names.is_empty() { "" } else { ", or its English name of three letters" };
            format!("'{text}' is no {what}: {min} to {max}{names}")
        })
    }
}

/// A number of digits only: no sign.
fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn has(bits: u64, number: i8) -> bool {
    u32::try_from(number).is_ok_and(|number| bits >> number & 1 == 1)
}

fn full_minute(local: DateTime) -> DateTime {
    let time = local.time();
    let (hour, minute) = (time.hour(), time.minute());
    local.date().at(hour, minute, 0, 0)
}
