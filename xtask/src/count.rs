//! Adds up what the test runners print: cargo test and nextest, Node's, Maven's, and pytest.

use std::ops::AddAssign;

/// Tests that ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Count {
    /// They held.
    pub(crate) passed: u64,
    /// They did not.
    pub(crate) failed: u64,
    /// They cannot run here. Those that are found out as they run are among those that passed, as their runner sees it.
    pub(crate) skipped: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Count {
    /// What one line of output says; `None` if it is no runner's summary.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let line = without_colours(line);
        let line = line.trim();
        if let Some(count) = Self::of_node(line).or_else(|| Self::of_maven(line)) {
            return Some(count);
        }
        let cargo = line.strip_prefix("test result: ");
        let nextest = line.strip_prefix("Summary [").filter(|l| l.contains("tests run:"));
        let summary = cargo.or(nextest).or_else(|| pytest(line))?;
        Some(Self {
            passed: number_before(summary, " passed").unwrap_or(0),
            failed: number_before(summary, " failed").unwrap_or(0),
            skipped: 0,
        })
    }
}

impl Count {
    /// Node says it in two lines, of which each adds its own.
    fn of_node(line: &str) -> Option<Self> {
        let passed = line.strip_prefix("# pass ").map(|n| (n, 1, 0));
        let (number, pass, fail) = passed.or(line.strip_prefix("# fail ").map(|n| (n, 0, 1)))?;
        let number: u64 = number.parse().ok()?;
        Some(Self { passed: number * pass, failed: number * fail, skipped: 0 })
    }

    /// Maven tells of every class with its time, and of all together without one.
    fn of_maven(line: &str) -> Option<Self> {
        let (_, figures) = line.split_once("Tests run: ")?;
        let numbers: Option<Vec<u64>> = figures
            .split(", ")
            .map(|part| part.rsplit(' ').next().and_then(|number| number.parse().ok()))
            .collect();
        let [run, failures, errors, skipped] = numbers?[..] else { return None };
        let failed = failures + errors;
        Some(Self { passed: run.checked_sub(failed + skipped)?, failed, skipped })
    }
}

/// What a test says that cannot run here, or not all of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Skipped {
    /// Why not.
    pub(crate) reason: String,
    /// Nothing of it ran, and it says that it has passed.
    pub(crate) all: bool,
}

impl Skipped {
    /// What one line of output says.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let line = without_colours(line);
        // Where tests run at once, the name of another one may stand before it.
        let (_, said) = line.split_once("SKIPPED")?;
        let all = said.strip_prefix(": ").map(|reason| (true, reason));
        let (all, reason) =
            all.or(said.strip_prefix(" in part: ").map(|reason| (false, reason)))?;
        Some(Self { reason: reason.trim().to_owned(), all })
    }
}

/// `1 failed, 96 passed in 1.83s`.
fn pytest(line: &str) -> Option<&str> {
    let (summary, time) = line.rsplit_once(" in ")?;
    let is_time = time.strip_suffix('s').is_some_and(|t| t.parse::<f64>().is_ok());
    let is_number = summary.split(' ').next().is_some_and(|n| n.parse::<u64>().is_ok());
    (is_time && is_number).then_some(summary)
}

/// `12` of `… 12 passed; …`.
fn number_before(text: &str, word: &str) -> Option<u64> {
    let end = text.find(word)?;
    let start = text[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    text[start..end].parse().ok()
}

/// Takes out ANSI colour sequences.
pub(crate) fn without_colours(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            chars.by_ref().find(|c| c.is_ascii_alphabetic());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(passed: u64, failed: u64) -> Count {
        Count { passed, failed, skipped: 0 }
    }

    #[test]
    fn skipped_tests_say_why() {
        let skipped = |all| Some(Skipped { reason: "no grpcurl".into(), all });
        assert_eq!(Skipped::parse("SKIPPED: no grpcurl"), skipped(true));
        assert_eq!(Skipped::parse("test a::b ... SKIPPED: no grpcurl\n"), skipped(true));
        assert_eq!(Skipped::parse("SKIPPED in part: no grpcurl"), skipped(false));
        assert_eq!(Skipped::parse("test are_SKIPPED_ones_counted ... ok"), None);
        assert_eq!(Count::parse("SKIPPED: no grpcurl"), None);
    }

    #[test]
    fn summaries_of_both_runners_are_read() {
        let cargo = "test result: \u{1b}[32mok\u{1b}[m. 8 passed; 0 failed; 1 ignored; 0 measured";
        assert_eq!(Count::parse(cargo), Some(passed(8, 0)));
        let cargo = "test result: FAILED. 6 passed; 2 failed; 0 ignored; 0 measured";
        assert_eq!(Count::parse(cargo), Some(passed(6, 2)));
        let nextest =
            "     Summary [   0.013s] 3 tests run: 2 passed (1 slow), 1 failed, 4 skipped";
        assert_eq!(Count::parse(nextest), Some(passed(2, 1)));
        let nextest = "     Summary [   0.013s] 3 tests run: 3 passed, 0 skipped";
        assert_eq!(Count::parse(nextest), Some(passed(3, 0)));
        assert_eq!(Count::parse("1 failed, 96 passed in 1.83s"), Some(passed(96, 1)));
        assert_eq!(Count::parse("97 passed in 61.70s"), Some(passed(97, 0)));
    }

    #[test]
    fn other_languages_runners_are_read() {
        assert_eq!(Count::parse("# pass 7"), Some(passed(7, 0)));
        assert_eq!(Count::parse("# fail 2"), Some(passed(0, 2)));
        assert_eq!(Count::parse("# pass in review"), None);
        let all = "[INFO] Tests run: 7, Failures: 0, Errors: 0, Skipped: 0";
        assert_eq!(Count::parse(all), Some(passed(7, 0)));
        let all = "[ERROR] Tests run: 7, Failures: 1, Errors: 1, Skipped: 1";
        assert_eq!(Count::parse(all), Some(Count { passed: 4, failed: 2, skipped: 1 }));
        let class = format!("{all}, Time elapsed: 0.3 s -- in dev.kar.hello.StubsTest");
        assert_eq!(Count::parse(&class), None);
    }

    #[test]
    fn other_lines_are_no_summaries() {
        assert_eq!(Count::parse("5 tests passed in my head"), None);
        assert_eq!(Count::parse("it passed in 3s"), None);
        assert_eq!(Count::parse("test result_is_kept ... ok"), None);
        assert_eq!(Count::parse(""), None);
    }
}
