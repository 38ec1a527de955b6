//! Dead letters: tells that ended without success, kept for a time so that people can look at them, and send them again
//! once they have mended the cause.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ids::{Millis, Uuid};
use crate::invocation::{Invocation, Outcome};
use crate::size::Tally;
use crate::state::Origin;

/// A tell that ended without success.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetter {
    /// As its last step was to run.
    pub(crate) invocation: Arc<Invocation>,
    pub(crate) origin: Origin,
    pub(crate) outcome: Outcome,
    /// Attempts of its last step.
    pub(crate) attempts: u32,
    /// When it ended.
    pub(crate) time: Millis,
}

/// Those of a partition, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeadLetters {
    by_uuid: BTreeMap<Uuid, DeadLetter>,
    by_age: BTreeSet<(Millis, Uuid)>,
    tally: Tally,
}

impl DeadLetter {
    /// Whether a tell that ended so is one. Nobody is to look at what somebody cancelled.
    pub(crate) fn is_one(outcome: &Outcome) -> bool {
        !matches!(outcome, Outcome::Done(_) | Outcome::Cancelled)
    }

    fn size(&self) -> usize {
        self.invocation.size() + self.outcome.size()
    }
}

impl DeadLetters {
    pub(crate) fn insert(&mut self, letter: DeadLetter) {
        let uuid = letter.invocation.uuid;
        self.remove(uuid);
        self.tally.add(letter.size());
        self.by_age.insert((letter.time, uuid));
        self.by_uuid.insert(uuid, letter);
    }

    pub(crate) fn remove(&mut self, uuid: Uuid) -> Option<DeadLetter> {
        let letter = self.by_uuid.remove(&uuid)?;
        self.tally.remove(letter.size());
        self.by_age.remove(&(letter.time, uuid));
        Some(letter)
    }

    pub(crate) fn get(&self, uuid: Uuid) -> Option<&DeadLetter> {
        self.by_uuid.get(&uuid)
    }

    pub(crate) fn contains(&self, uuid: Uuid) -> bool {
        self.by_uuid.contains_key(&uuid)
    }

    /// How many there are, and of how many bytes.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// When the oldest one ended.
    pub(crate) fn oldest(&self) -> Option<Millis> {
        self.by_age.first().map(|(time, _)| *time)
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &DeadLetter> {
        self.by_age.iter().filter_map(|(_, uuid)| self.by_uuid.get(uuid))
    }

    /// The oldest ones that are to go: those that ended before a time, and as many as exceed the bounds.
    pub(crate) fn surplus(&self, before: Millis, count_max: usize, bytes_max: usize) -> Vec<Uuid> {
        let Tally { mut count, mut bytes } = self.tally;
        let mut uuids = Vec::new();
        for letter in self.iter() {
            if letter.time >= before && count <= count_max && bytes <= bytes_max {
                break;
            }
            count -= 1;
            bytes -= letter.size();
            uuids.push(letter.invocation.uuid);
        }
        uuids
    }
}
