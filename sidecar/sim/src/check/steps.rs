//! Durable steps: a retry has what committed records recorded, neither less nor more; a keyed call is made once.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kar_core::effect::RequestError;
use kar_core::ids::{InvocationId, Number, Offset, Uuid};
use kar_core::invocation::{Outcome, Payload};
use kar_core::record::{RecordedStep, Segment};

use super::Judge;
use crate::history::{Item, ItemKind, Run};

/// Durable steps of one step of an invocation, by its log.
#[derive(Clone, Debug, Default)]
pub(crate) struct StepModel {
    values: BTreeMap<Arc<str>, Payload>,
    /// Calls by key, in the order they were made: where, and which.
    calls: HashMap<Arc<str>, Vec<(usize, Uuid)>>,
}

/// A log's durable steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct StepsModel {
    by_turn: HashMap<(Uuid, u32), StepModel>,
    /// Keyed calls whose outcome was not logged yet.
    open: BTreeMap<(usize, Number), Uuid>,
}

impl Judge<'_> {
    /// A turn's record takes effect: what it recorded, and the keyed calls that it made.
    pub(super) fn steps_logged(
        &mut self,
        (log, offset): (usize, Offset),
        turn: (Uuid, u32),
        segment: &Segment,
        steps: &[RecordedStep],
    ) {
        let mut wrong = Vec::new();
        let calls = segment.sends.iter().filter_map(|send| {
            let key = send.obligation.step_key.clone()?;
            Some((key, self.log_of(&send.obligation.to), send.number, send.obligation.owed.uuid()))
        });
        let calls: Vec<_> = calls.collect();
        for (key, to, number, child) in calls {
            let model = self.logs[log].steps.by_turn.entry(turn).or_default();
            if model.values.contains_key(&key) {
                wrong.push(format!("call {child} has the key of a value, {key}"));
            }
            let before = model.calls.entry(key.clone()).or_default();
            let earlier = before.last().copied();
            before.push((to, child));
            self.logs[log].steps.open.insert((to, number), child);
            if let Some((place, earlier)) = earlier {
                let ended = self.logs[place].outcome(earlier).map(|ended| &ended.outcome);
                if !is_free_again(ended) {
                    wrong.push(format!("{key} calls {child}, and called {earlier}: {ended:?}"));
                }
            }
        }
        let called = |key: &Arc<str>| {
            let calls = self.logs[log].steps.by_turn.get(&turn).and_then(|m| m.calls.get(key));
            calls.and_then(|calls| calls.last()).is_some_and(|(place, call)| {
                !is_free_again(self.logs[*place].outcome(*call).map(|ended| &ended.outcome))
            })
        };
        let called: Vec<_> = steps.iter().map(|step| called(&step.key)).collect();
        let model = self.logs[log].steps.by_turn.entry(turn).or_default();
        for (RecordedStep { key, payload }, called) in steps.iter().zip(called) {
            if called || model.values.contains_key(key) {
                wrong.push(format!("{key} is recorded again"));
            }
            model.values.entry(key.clone()).or_insert_with(|| payload.clone());
        }
        for text in wrong {
            let id = &self.logs[log].id;
            let text = format!("{id}@{offset} {} step {}: {text}", turn.0, turn.1);
            self.wrong("P3 a step is done once", text);
        }
    }

    /// The outcome of a keyed call is logged with its caller: the one that its callee has logged.
    pub(super) fn step_done(
        &mut self,
        (log, offset): (usize, Offset),
        (to, number): (usize, Number),
        outcome: &Outcome,
    ) {
        let child = self.logs[log].steps.open.remove(&(to, number));
        let ended = child.and_then(|child| self.logs[to].outcome(child));
        if ended.is_none_or(|ended| ended.outcome != *outcome) {
            let text = format!("{}@{offset}: {child:?} ended as {outcome:?}", self.logs[log].id);
            self.wrong("P3 result of a keyed call", text);
        }
    }

    /// A call is settled without its outcome: only its caller's end may do that to a keyed one.
    pub(super) fn check_unkeyed(&mut self, log: usize, to: usize, number: Number) {
        if let Some(child) = self.logs[log].steps.open.remove(&(to, number)) {
            let text = format!("{} settles {child} without its outcome", self.logs[log].id);
            self.wrong("P3 result of a keyed call", text);
        }
    }

    /// Whether a call that a log has made, and not settled, has a step key.
    pub(super) fn is_keyed(&self, log: usize, call: (usize, Number)) -> bool {
        self.logs[log].steps.open.contains_key(&call)
    }

    /// What a turn is dispatched with is what its log holds.
    pub(super) fn check_recorded(&mut self, run: usize, record: &Run, log: usize) {
        let token = &record.token;
        let model = &self.logs[log];
        let logged = model.steps.by_turn.get(&(token.invocation.uuid, token.step));
        let logged = logged.map(|steps| steps.values.clone()).unwrap_or_default();
        let same = if model.epoch == token.epoch {
            record.recorded == logged
        } else {
            // A successor may have gone on.
            record.recorded.iter().all(|(key, value)| logged.get(key) == Some(value))
        };
        self.counts.steps_recalled += record.recorded.len() as u64;
        if !same {
            let text = format!("r{run} {token} has {:?}, logged {logged:?}", record.recorded);
            self.wrong("P3 recorded steps", text);
        }
    }

    /// A value is answered when it is logged, and as it is.
    pub(super) fn check_step_answer(&mut self, run: usize, item: usize, value: &Payload) {
        let (record, ItemKind::Once(key)) =
            (&self.history.runs[run], &self.history.runs[run].items[item].what)
        else {
            return self.wrong("answers", format!("r{run}.{item}: {value:?}"));
        };
        let token = &record.token;
        let log = self.log_of(&token.invocation.home);
        let steps = self.logs[log].steps.by_turn.get(&(token.invocation.uuid, token.step));
        let logged = steps.and_then(|steps| steps.values.get(key)).cloned();
        if logged.as_ref() != Some(value) {
            let text = format!("r{run}.{item} {key} is {value:?}, logged {logged:?}");
            self.wrong("P5 steps are durable", text);
        }
    }

    /// A keyed call that was not made is answered with the outcome of the one that was.
    pub(super) fn check_kept_answer(
        &mut self,
        (run, item): (usize, usize),
        id: &InvocationId,
        outcome: &Outcome,
    ) {
        let record = &self.history.runs[run];
        let token = &record.token;
        let log = self.log_of(&token.invocation.home);
        let steps = self.logs[log].steps.by_turn.get(&(token.invocation.uuid, token.step));
        let key = record.items[item].key.as_ref();
        let calls = key.and_then(|key| steps?.calls.get(key));
        let made = calls.and_then(|calls| calls.last()).copied();
        let to = self.log_of(&id.home);
        let ended = self.logs[to].outcome(id.uuid);
        self.counts.calls_recalled += 1;
        if made != Some((to, id.uuid)) || ended.is_none_or(|ended| ended.outcome != *outcome) {
            let text = format!("r{run}.{item} {key:?} gets {outcome:?} of {id}, made {made:?}");
            self.wrong("P3 result of a keyed call", text);
        }
    }

    /// "Reused" is said only of a key that this step of the invocation has used before.
    pub(super) fn check_reused(&mut self, run: usize, item: usize) {
        let record = &self.history.runs[run];
        let key = key_of(&record.items[item]);
        let token = &record.token;
        let log = self.log_of(&token.invocation.home);
        let steps = self.logs[log].steps.by_turn.get(&(token.invocation.uuid, token.step));
        let logged = steps.zip(key).is_some_and(|(steps, key)| {
            steps.values.contains_key(key) || steps.calls.contains_key(key)
        });
        let own = record.items[..item].iter().any(|other| key_of(other) == key);
        if key.is_none() || !(logged || own) {
            self.wrong("P9 errors", format!("r{run}.{item}: the key {key:?} is not in use"));
        }
    }

    /// A run as its log shows it: what records a step, and a call that is answered from what is kept, are flushes.
    pub(super) fn with_flushes<'r>(&self, record: &'r Run) -> Cow<'r, Run> {
        let flushes = |item: &Item| match (&item.what, &item.key) {
            (ItemKind::Once(_), _) => true,
            (ItemKind::Call(tag, _), Some(_)) => {
                let refused = matches!(item.answer, Some(Err(_)));
                !refused && !self.uuid_of_tag.contains_key(tag)
            }
            _ => false,
        };
        if !record.items.iter().any(flushes) {
            return Cow::Borrowed(record);
        }
        let mut record = record.clone();
        for item in record.items.iter_mut().filter(|item| flushes(item)) {
            item.what = ItemKind::Flush;
        }
        Cow::Owned(record)
    }
}

fn key_of(item: &Item) -> Option<&Arc<str>> {
    match &item.what {
        ItemKind::Once(key) => Some(key),
        _ => item.key.as_ref(),
    }
}

/// A request that had no effect, and whose turn went on at once.
pub(super) fn is_turned_away(item: &Item) -> bool {
    let error = item.answer.as_ref().and_then(|answer| answer.as_ref().err());
    matches!(error, Some(RequestError::Limit(_) | RequestError::StepKeyReused(_)))
}

/// A call that came to nothing leaves its key to others (section 18, decision 8).
fn is_free_again(outcome: Option<&Outcome>) -> bool {
    matches!(
        outcome,
        Some(
            Outcome::Refused(_)
                | Outcome::Deadlock(_)
                | Outcome::Expired
                | Outcome::Cancelled
                | Outcome::Withdrawn
        )
    )
}
