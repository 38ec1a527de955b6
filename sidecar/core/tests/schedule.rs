//! When things come again: periods, cron expressions, time zones and their changes.

use kar_core::ids::Millis;
use kar_core::schedule::{DUE_MAX, PERIOD_MS_MIN, Schedule, ScheduleError};

/// Milliseconds of a time in UTC, written `2026-03-29T01:00:00Z`.
fn at(text: &str) -> Millis {
    let timestamp: jiff::Timestamp = text.parse().expect("a time");
    timestamp.as_millisecond() as Millis
}

fn cron(expression: &str, zone: &str) -> Schedule {
    Schedule::Cron { expression: expression.into(), zone: zone.into() }
}

/// The times of an expression after one, as many as are given.
fn check(expression: &str, zone: &str, after: &str, expected: &[&str]) {
    let schedule = cron(expression, zone);
    let mut due = at(after);
    for (place, wanted) in expected.iter().enumerate() {
        let next = schedule.after(due).unwrap_or_else(|| panic!("{expression} ends"));
        let found = jiff::Timestamp::from_millisecond(next as i64).expect("in range");
        assert_eq!(found.to_string(), *wanted, "'{expression}' in '{zone}', place {place}");
        due = next;
    }
}

#[test]
fn fields_are_read_as_in_vixie_cron() {
    let from = "2026-01-01T00:00:30Z"; // A Thursday.
    check("* * * * *", "", from, &["2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"]);
    check("*/20 3 * * *", "UTC", from, &["2026-01-01T03:00:00Z", "2026-01-01T03:20:00Z"]);
    check("5-7,50 0 * * *", "", from, &["2026-01-01T00:05:00Z", "2026-01-01T00:06:00Z"]);
    check("0 0 1 JAN,jul *", "", from, &["2026-07-01T00:00:00Z", "2027-01-01T00:00:00Z"]);
    check("0 12 * * mon-Wed", "", from, &["2026-01-05T12:00:00Z", "2026-01-06T12:00:00Z"]);
    check("0 12 * * 7", "", from, &["2026-01-04T12:00:00Z"]);
    check("0 12 * * 0", "", from, &["2026-01-04T12:00:00Z"]);
    check("10/25 1 * * *", "", from, &["2026-01-01T01:10:00Z", "2026-01-01T01:35:00Z"]);
    // Either day will do if both are restricted; with a star both have to fit.
    check("0 0 3 * 1", "", from, &["2026-01-03T00:00:00Z", "2026-01-05T00:00:00Z"]);
    check("0 0 */2 * 1", "", from, &["2026-01-05T00:00:00Z", "2026-01-19T00:00:00Z"]);
    check("0 0 29 2 *", "", from, &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]);
    check("0 0 31 * *", "", from, &["2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z"]);
}

#[test]
fn particular_hours_mean_local_time() {
    // Summer time in Zurich begins on 2026-03-29 and ends on 2026-10-25, both at 01:00 UTC.
    let zone = "Europe/Zurich";
    let spring = "2026-03-28T00:00:00Z";
    let expected = ["2026-03-28T08:00:00Z", "2026-03-29T07:00:00Z", "2026-03-30T07:00:00Z"];
    check("0 9 * * *", zone, spring, &expected);
    // 02:30 does not exist on that day: it is made up for when the clock has jumped.
    let expected = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
    check("30 2 * * *", zone, spring, &expected);
    // 02:30 exists twice on that day, and counts once.
    let expected = ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"];
    check("30 2 * * *", zone, "2026-10-24T00:00:00Z", &expected);
    // Midnight does not exist on this day in Cairo.
    let expected = ["2026-04-22T22:00:00Z", "2026-04-23T22:00:00Z", "2026-04-24T21:00:00Z"];
    check("0 0 * * *", "Africa/Cairo", "2026-04-22T00:00:00Z", &expected);
}

#[test]
fn every_hour_means_elapsed_time() {
    let zone = "Europe/Zurich";
    let expected = ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"];
    check("*/30 * * * *", zone, "2026-03-29T00:00:00Z", &expected);
    let expected = [
        "2026-10-25T00:00:00Z",
        "2026-10-25T00:30:00Z",
        "2026-10-25T01:00:00Z",
        "2026-10-25T01:30:00Z",
    ];
    check("*/30 * * * *", zone, "2026-10-24T23:40:00Z", &expected);
    // A zone that shifts by half an hour, at 15:00 UTC.
    let expected = ["2026-04-04T14:00:00Z", "2026-04-04T15:30:00Z", "2026-04-04T16:30:00Z"];
    check("0 * * * *", "Australia/Lord_Howe", "2026-04-04T13:30:00Z", &expected);
    check("0 * 1 6 *", zone, "2026-01-01T00:00:00Z", &["2026-05-31T22:00:00Z"]);
}

#[test]
fn what_is_wrong_is_said() {
    let now = at("2026-01-01T00:00:00Z");
    for expression in [
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "a * * * *",
        "*/0 * * * *",
        "5-3 * * * *",
        "1, * * * *",
        "+1 * * * *",
        "1-2-3 * * * *",
        "@daily",
        "* * * foo *",
        "-1 * * * *",
        "*/x * * * *",
    ] {
        let error = cron(expression, "").first(None, now).unwrap_err();
        assert!(matches!(error, ScheduleError::Cron(_)), "{expression}: {error}");
    }
    for expression in ["0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
        let error = cron(expression, "").first(None, now).unwrap_err();
        assert_eq!(error, ScheduleError::Never(expression.into()));
    }
    let error = cron("* * * * *", "Europe/Nowhere").first(None, now).unwrap_err();
    assert_eq!(error, ScheduleError::Zone("Europe/Nowhere".into()));
    assert_eq!(Schedule::Once.first(None, now), Err(ScheduleError::NoDue));
    assert_eq!(Schedule::Once.first(Some(DUE_MAX + 1), now), Err(ScheduleError::Due));
    let short = Schedule::Every(PERIOD_MS_MIN - 1);
    assert_eq!(short.first(None, now), Err(ScheduleError::Period));
    assert_eq!(Schedule::Every(Millis::MAX).first(None, now), Err(ScheduleError::Period));
}

#[test]
fn the_first_due_time_is_given_or_found() {
    let now = at("2026-01-01T00:00:30Z");
    assert_eq!(Schedule::Once.first(Some(5), now), Ok(5));
    assert_eq!(Schedule::Every(1_000).first(None, now), Ok(now + 1_000));
    assert_eq!(Schedule::Every(1_000).first(Some(7), now), Ok(7));
    let daily = cron("0 9 * * *", "Asia/Tokyo");
    assert_eq!(daily.first(None, now), Ok(at("2026-01-02T00:00:00Z")));
    assert_eq!(daily.first(Some(now + 5), now), Ok(now + 5));
}

#[test]
fn missed_due_times_are_passed_in_one_step() {
    let period = Schedule::Every(1_000);
    assert_eq!(period.from(10_500, 10_500), Some(10_500));
    assert_eq!(period.from(10_500, 10_501), Some(11_500));
    assert_eq!(period.from(10_500, 99_999_999_500), Some(99_999_999_500));
    assert_eq!(Schedule::Once.from(5, 6), None);
    assert_eq!(period.after(DUE_MAX), None);
    let hourly = cron("0 * * * *", "");
    let missed = at("2026-01-01T00:00:00Z");
    let now = at("2026-06-01T10:30:00Z");
    assert_eq!(hourly.from(missed, now), Some(at("2026-06-01T11:00:00Z")));
    let sharp = at("2026-06-01T11:00:00Z");
    assert_eq!(hourly.from(missed, sharp), Some(sharp));
}

/// Against a plain reading of expressions: every minute of a day in UTC.
#[test]
fn a_slow_reading_agrees() {
    let start = at("2026-02-27T00:00:00Z");
    for (minute, hour, day) in [(0, 3, 28), (59, 23, 1), (17, 0, 2), (30, 12, 27)] {
        let schedule = cron(&format!("{minute} {hour} {day} * *"), "");
        let found = schedule.after(start).expect("it comes again");
        let slow = (1..=50_000).map(|m| start + m * 60_000).find(|ms| {
            let local = jiff::Timestamp::from_millisecond(*ms as i64).expect("in range");
            let local = jiff::tz::TimeZone::UTC.to_datetime(local);
            (local.minute(), local.hour(), local.day()) == (minute, hour, day)
        });
        assert_eq!(Some(found), slow);
    }
}
