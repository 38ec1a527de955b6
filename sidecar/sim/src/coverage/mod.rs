//! Which transitions of the machine were ever taken: the core's own count of what only it knows,
//! and a count of what is seen from outside. A new operation, message, notice or error gets a line
//! here: a run that sees one asks for it, and fails.

mod elsewhere;
mod names;

use std::collections::BTreeSet;
use std::fmt;

use kar_core::cover::TRANSITIONS;
use kar_core::effect::{Notice, Response};
use kar_core::invocation::Outcome;
use kar_core::message::Message;
use kar_core::record::Record;

pub use elsewhere::ELSEWHERE;
use names::*;

/// Sections of the table, with the names in each.
const SECTIONS: &[(&str, &[&str])] = &[
    ("", TRANSITIONS),
    ("valid", RECORDS),
    ("void", RECORDS),
    ("valid", OPS),
    ("void", OPS),
    ("sent", MESSAGES),
    ("arrived", MESSAGES),
    ("notice", NOTICES),
    ("answer", ANSWERS),
    ("refused", REFUSALS),
];

/// Most things that are told to be missing from the table, and of how many characters each.
const UNKNOWN_MAX: usize = 20;
const UNKNOWN_CHARS_MAX: usize = 80;

/// The sections' numbers.
const RECORD: usize = 1;
const OP: usize = 3;
const SENT: usize = 5;
const ARRIVED: usize = 6;
const NOTICE: usize = 7;
const ANSWER: usize = 8;
const REFUSED: usize = 9;

/// How often what was taken.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// By section.
    counts: Vec<Vec<u64>>,
    /// What is not in the table, in words.
    unknown: BTreeSet<String>,
}

impl Coverage {
    /// The table: names and counts.
    pub fn table(&self) -> Vec<(String, u64)> {
        let mut table = Vec::new();
        for (section, (prefix, names)) in SECTIONS.iter().enumerate() {
            for (at, name) in names.iter().enumerate() {
                let colon = if prefix.is_empty() { "" } else { ": " };
                let count = self.counts.get(section).and_then(|c| c.get(at)).copied();
                table.push((format!("{prefix}{colon}{name}"), count.unwrap_or(0)));
            }
        }
        table
    }

    /// What was never taken, but for what cannot be.
    pub fn missing(&self) -> Vec<String> {
        let elsewhere = |name: &str| ELSEWHERE.iter().any(|(n, _)| *n == name);
        let never = self.table().into_iter().filter(|(name, n)| *n == 0 && !elsewhere(name));
        let unknown =
            self.unknown.iter().map(|what| format!("(add it to coverage/names.rs) {what}"));
        never.map(|(name, _)| name).chain(unknown).collect()
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (section, counts) in other.counts.iter().enumerate() {
            for (at, count) in counts.iter().enumerate() {
                *self.count(section, at) += count;
            }
        }
        let room = UNKNOWN_MAX.saturating_sub(self.unknown.len());
        self.unknown.extend(other.unknown.iter().take(room).cloned());
    }

    /// Adds what a node counted.
    pub(crate) fn add_node(&mut self, covered: impl Iterator<Item = u32>) {
        for (at, count) in covered.enumerate() {
            *self.count(0, at) += u64::from(count);
        }
    }

    pub(crate) fn record(&mut self, record: &Record, valid: bool) {
        let void = usize::from(!valid);
        self.take(RECORD + void, record_place(record), record);
        if let Record::Batch { ops, .. } = record {
            for op in ops {
                self.take(OP + void, op_place(op), op);
            }
        }
    }

    pub(crate) fn sent(&mut self, message: &Message) {
        self.take(SENT, message_place(message), message);
    }

    pub(crate) fn arrived(&mut self, message: &Message) {
        self.take(ARRIVED, message_place(message), message);
    }

    pub(crate) fn notice(&mut self, notice: &Notice) {
        self.take(NOTICE, notice_place(notice), notice);
    }

    pub(crate) fn answer(&mut self, answer: &Answer) {
        self.take(ANSWER, answer_place(answer), answer);
        if let Ok(Response::Outcome { outcome: Outcome::Refused(why), .. }) = answer {
            self.take(REFUSED, refusal_place(why), why);
        }
    }

    fn take(&mut self, section: usize, place: Option<usize>, what: &impl fmt::Debug) {
        match place {
            Some(at) => *self.count(section, at) += 1,
            None if self.unknown.len() < UNKNOWN_MAX => {
                let mut text = format!("{what:?}");
                text.truncate(text.floor_char_boundary(UNKNOWN_CHARS_MAX));
                self.unknown.insert(text);
            }
            None => {}
        }
    }

    fn count(&mut self, section: usize, at: usize) -> &mut u64 {
        if self.counts.is_empty() {
            self.counts = SECTIONS.iter().map(|(_, names)| vec![0; names.len()]).collect();
        }
        &mut self.counts[section][at]
    }
}
