//! P4, P5: segments are atomic and hold what the turn asked for, in order; reads see what a
//! sequential execution would have shown; outcomes seen by turns are the logged ones.

use kar_core::effect::{RequestError, Response};
use kar_core::invocation::Outcome;

use super::Judge;
use super::logs::{Closing, TurnRecord};
use super::steps::is_turned_away;
use crate::history::{End, Item, ItemKind, Keys, Run};
use crate::remind::Remind;
use crate::store::apply;
use crate::topic;

/// Which items of a turn a record covers: from, to.
type Range = (usize, usize);

impl Judge<'_> {
    /// Checks every turn that had an effect.
    pub(crate) fn check_turns(&mut self) {
        for log in 0..self.logs.len() {
            let turns = std::mem::take(&mut self.logs[log].turns);
            let mut keys: Vec<_> = turns.keys().copied().collect();
            keys.sort_unstable();
            for key in keys {
                let Some(run) = self.dispatched.get(&(log, key.0, key.1, key.2, key.3)).copied()
                else {
                    let text =
                        format!("{}: {} has effects and never ran", self.logs[log].id, key.0);
                    self.wrong("P5 effects of no turn", text);
                    continue;
                };
                self.check_turn(run, &turns[&key]);
            }
            self.logs[log].turns = turns;
        }
    }

    fn check_turn(&mut self, run: usize, records: &[TurnRecord]) {
        let history = self.history;
        let record = self.with_flushes(&history.runs[run]);
        let record = record.as_ref();
        let mut cut = 0;
        let mut ranges = Vec::with_capacity(records.len());
        for piece in records {
            match cover(run, &record.items, cut, piece) {
                Ok(end) => {
                    ranges.push((cut, end));
                    cut = end;
                }
                Err(why) => {
                    let text =
                        format!("r{run} {} @{}: {why} at item {cut}", record.token, piece.offset);
                    return self.wrong("P5 segments", text);
                }
            }
        }
        if let Some(closing) = records.last().and_then(|r| r.complete.as_ref()) {
            let same = match closing {
                Closing::Outcome(outcome) => record.end == End::Ended(outcome.clone()),
                Closing::Tail(tag, keeps) => record.end == End::Tail(*tag, *keeps),
                Closing::Stopped => matches!(record.end, End::Tail(..)),
            };
            if !same {
                let text = format!(
                    "r{run} {} ended as {:?}, logged {closing:?}",
                    record.token, record.end
                );
                self.wrong("P3 outcome is the turn's", text);
            }
        }
        self.check_reads(run, record, records, &ranges);
        self.check_outcomes(run, record, cut);
    }

    /// Reads in a stretch between two calls show the state at the stretch's first record, and own
    /// writes.
    fn check_reads(&mut self, run: usize, record: &Run, records: &[TurnRecord], ranges: &[Range]) {
        let mut start = 0;
        let mut own: Option<Keys> = None;
        for (index, item) in record.items.iter().enumerate() {
            let base = || {
                let first = ranges.iter().position(|(_, end)| *end > start)?;
                Some(records[first].before.clone())
            };
            match &item.what {
                ItemKind::Call(..) if !is_turned_away(item) => {
                    start = index + 1;
                    own = None;
                }
                ItemKind::State(op) if !refused(item) => {
                    if own.is_none() {
                        own = base();
                    }
                    if let Some(state) = own.as_mut() {
                        apply(state, op);
                    }
                }
                ItemKind::If(key, op) => {
                    if own.is_none() {
                        own = base();
                    }
                    let branched = record.items.iter().any(|i| i.beside);
                    let covered = || covered_state(&record.items, records, ranges, index);
                    let state = if branched { covered() } else { own.clone() };
                    let Some(expected) = state else { return };
                    let wrong = match &item.answer {
                        Some(Ok(_)) => expected.contains_key(key),
                        Some(Err(RequestError::ConditionFailed(of))) => {
                            of != key || !expected.contains_key(key)
                        }
                        Some(Err(_)) | None => false,
                    };
                    if wrong {
                        let text = format!("r{run}.{index}: {:?} of {expected:?}", item.answer);
                        return self.wrong("P5 conditions", text);
                    }
                    if let (Some(state), false) = (own.as_mut(), refused(item)) {
                        apply(state, op);
                    }
                }
                ItemKind::Read(reading) => {
                    if own.is_none() {
                        own = base();
                    }
                    // Calls of its flow may change the state before its turn's next record: what another branch read
                    // before them is as old as what the turn itself read before it called.
                    if item.beside {
                        continue;
                    }
                    let branched = record.items.iter().any(|i| i.beside);
                    let covered = || covered_state(&record.items, records, ranges, index);
                    let state = if branched { covered() } else { own.clone() };
                    let Some(state) = state else { return };
                    let Some(Ok(Response::State(seen))) = &item.answer else { continue };
                    let expected = reading.of(&self.history.names, &state);
                    if *seen != expected {
                        let text = format!(
                            "r{run}.{index} {} read {seen:?}, not {expected:?}",
                            record.token
                        );
                        return self.wrong("P4 reads", text);
                    }
                }
                _ => {}
            }
        }
    }

    /// Outcomes that a turn with later effects saw are those of the callee's log.
    fn check_outcomes(&mut self, run: usize, record: &Run, cut: usize) {
        for (index, item) in record.items.iter().take(cut).enumerate() {
            let (ItemKind::Call(tag, _), Some(Ok(Response::Outcome { outcome, .. }))) =
                (&item.what, &item.answer)
            else {
                continue;
            };
            let later = index + 1 < cut || matches!(record.end, End::Ended(_) | End::Tail(..));
            let Some(uuid) = self.uuid_of_tag.get(tag) else { continue };
            let ended = self.logs.iter().find_map(|l| l.outcome(*uuid));
            if later && ended.is_none_or(|e| e.outcome != *outcome) {
                let text = format!("r{run}.{index} saw {outcome:?}, logged {ended:?}");
                self.wrong("P5 answers", text);
            }
        }
    }
}

/// The state that an item sees when no call is under way: what was before the record that it is part of, and what the
/// turn did since the record before that. (Another branch may have flushed in the middle of a stretch.)
fn covered_state(
    items: &[Item],
    records: &[TurnRecord],
    ranges: &[Range],
    index: usize,
) -> Option<Keys> {
    let at = ranges.iter().position(|(_, end)| *end > index)?;
    let mut state = records[at].before.clone();
    for item in &items[ranges[at].0..index] {
        if let (ItemKind::State(op) | ItemKind::If(_, op), false) = (&item.what, refused(item)) {
            apply(&mut state, op);
        }
    }
    Some(state)
}

fn refused(item: &Item) -> bool {
    matches!(item.answer, Some(Err(_)))
}

/// Finds which items a record covers; it must be whole segments.
fn cover(
    run: usize,
    items: &[Item],
    from: usize,
    record: &TurnRecord,
) -> Result<usize, &'static str> {
    let mut state = record.state.iter();
    let mut sends = record.sends.iter();
    let mut reminders = record.reminders.iter();
    let mut publishes = record.publishes.iter();
    let mut at = from;
    let done = matches!(
        record.complete,
        Some(Closing::Outcome(Outcome::Done(_)) | Closing::Tail(..) | Closing::Stopped)
    );
    if record.complete.is_some() && !done {
        return Ok(from);
    }
    let is_empty = record.state.is_empty() && record.sends.is_empty();
    if !done && is_empty && record.reminders.is_empty() && record.publishes.is_empty() {
        return Ok(from);
    }
    let mut at_boundary = false;
    while at < items.len() {
        let item = &items[at];
        let more = state.len() + sends.len() + reminders.len() + publishes.len() > 0;
        match &item.what {
            ItemKind::Read(_) | ItemKind::Tail(..) | ItemKind::Remind(Remind::List) => {}
            // A refused operation has no effect; a call may have been made and its answer lost with
            // the attempt.
            ItemKind::Call(tag, _) if refused(item) && sends.clone().next() != Some(tag) => {
                // … and one that was answered from what is kept has flushed what came before it.
                at_boundary |= matches!(item.answer, Some(Err(RequestError::TurnSuperseded(_))));
                if at_boundary && !more && !done {
                    return Ok(at + 1);
                }
            }
            ItemKind::State(_)
            | ItemKind::If(..)
            | ItemKind::Tell(..)
            | ItemKind::Remind(_)
            | ItemKind::Publish(_)
                if refused(item) => {}
            ItemKind::Flush | ItemKind::Once(_) => {
                at_boundary = true;
                if !more && !done {
                    return Ok(at + 1);
                }
            }
            _ if !more && !done => break,
            ItemKind::State(op) | ItemKind::If(_, op) => {
                at_boundary = false;
                if state.next() != Some(op) {
                    return Err("a state operation differs");
                }
            }
            ItemKind::Remind(remind) => {
                at_boundary = false;
                if !reminders.next().is_some_and(|change| remind.is(change)) {
                    return Err("a change to reminders differs");
                }
            }
            ItemKind::Publish(to) => {
                at_boundary = false;
                for place in 0..to.len() {
                    if publishes.next() != Some(&topic::event(run, at, place)) {
                        return Err("an event differs");
                    }
                }
            }
            ItemKind::Tell(tag, _) => {
                at_boundary = false;
                if sends.next() != Some(tag) {
                    return Err("a tell differs");
                }
            }
            ItemKind::Call(tag, _) => {
                if sends.next() != Some(tag) {
                    return Err("a call differs");
                }
                at_boundary = true;
                let more = state.len() + sends.len() + reminders.len() + publishes.len() > 0;
                if !more && !done {
                    return Ok(at + 1);
                }
            }
        }
        at += 1;
    }
    let more = state.len() + sends.len() + reminders.len() + publishes.len();
    match (more, at_boundary || done) {
        (0, true) => Ok(at),
        (0, false) => Err("the segment is torn"),
        _ => Err("more than the turn asked for"),
    }
}
