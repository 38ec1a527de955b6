//! Listings: a table for people, one JSON document for programs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::args::Format;
use super::exit::Outcome;
use super::payload::line;

/// Rows under headings.
#[derive(Debug)]
pub(crate) struct Table {
    headings: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(headings: &'static [&'static str]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    /// Adds a row with a cell for each heading.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.headings.len());
        self.rows.push(cells);
    }

    /// The table as text: columns two blanks apart, control characters made visible, no blanks at
    /// the end of a line.
    pub(crate) fn render(&self) -> String {
        let shown = |cell: &str| cell.chars().flat_map(visible).collect::<String>();
        let mut lines: Vec<Vec<String>> = vec![self.headings.iter().map(|h| shown(h)).collect()];
        lines.extend(self.rows.iter().map(|row| row.iter().map(|cell| shown(cell)).collect()));
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|i| lines.iter().map(|cells| cells[i].chars().count()).max().unwrap_or(0))
            .collect();
        let text = |cells: &Vec<String>| {
            let padded: Vec<String> =
                cells.iter().zip(&widths).map(|(c, w)| format!("{c:w$}")).collect();
            padded.join("  ").trim_end().to_owned()
        };
        lines.iter().map(text).collect::<Vec<_>>().join("\n")
    }
}

/// Prints a listing in the wanted form; an empty table says so on standard error.
pub(crate) fn print(format: Format, table: &Table, json: &Value) -> Outcome {
    match format {
        Format::Json => line(&format!("{json:#}")),
        Format::Table if table.rows.is_empty() => {
            eprintln!("nothing to list");
            Ok(())
        }
        Format::Table => line(&table.render()),
    }
}

/// How long ago a time was, for people: `850ms`, `12s`, `5m`, `3h`, `2d`.
pub(crate) fn age(time: Option<&prost_types::Timestamp>) -> String {
    let Some(time) = time else { return "-".into() };
    let since = Duration::new(
        u64::try_from(time.seconds).unwrap_or(0),
        u32::try_from(time.nanos).unwrap_or(0),
    );
    let age =
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(since);
    match age.as_secs() {
        0 => format!("{}ms", age.as_millis()),
        s if s < 120 => format!("{s}s"),
        s if s < 7_200 => format!("{}m", s / 60),
        s if s < 172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

/// A length of time that somebody has set, for people: exact, in the largest unit that it is a multiple of.
pub(crate) fn exact(time: &prost_types::Duration) -> String {
    let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm')];
    let unit = units.into_iter().find(|(seconds, _)| time.seconds % seconds == 0);
    match unit.filter(|_| time.nanos == 0 && time.seconds != 0) {
        Some((seconds, unit)) => format!("{}{unit}", time.seconds / seconds),
        None => time.to_string(),
    }
}

/// Names come from applications and must not steer the terminal.
fn visible(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control().then(|| c.escape_default());
    let plain = (!c.is_control()).then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", "HOSTS"]);
        table.row(vec!["a".into(), "greeter".into()]);
        table.row(vec!["longer".into(), String::new()]);
        assert_eq!(table.render(), "NAME    HOSTS\na       greeter\nlonger");
    }

    #[test]
    fn control_characters_are_shown_not_sent() {
        let mut table = Table::new(&["ID"]);
        table.row(vec!["\x1b[2Jé".into()]);
        assert_eq!(table.render(), "ID\n\\u{1b}[2Jé");
    }

    #[test]
    fn settings_are_exact() {
        let told = |seconds, nanos| exact(&prost_types::Duration { seconds, nanos });
        assert_eq!(told(604_800, 0), "7d");
        assert_eq!(told(129_600, 0), "36h");
        assert_eq!(told(5_400, 0), "90m");
        assert_eq!(told(61, 0), "61s");
        assert_eq!(told(60, 500_000_000), "60.500s");
    }

    #[test]
    fn ages_are_short() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let at = |seconds: u64| prost_types::Timestamp {
            seconds: i64::try_from(now - seconds).expect("in range"),
            nanos: 0,
        };
        assert_eq!(age(Some(&at(3_000))), "50m");
        assert_eq!(age(Some(&at(400_000))), "4d");
        assert_eq!(age(None), "-");
    }
}
