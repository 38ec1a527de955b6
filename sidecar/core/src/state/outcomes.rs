//! Outcomes that are kept, and how many bytes they have.

use std::collections::BTreeMap;

use crate::ids::Uuid;
use crate::invocation::Outcome;
use crate::size::Tally;

/// Outcomes by invocation, and how many bytes they have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcomes {
    pub(super) by_uuid: BTreeMap<Uuid, Box<Outcome>>,
    pub(super) tally: Tally,
}

impl Outcomes {
    pub(crate) fn get(&self, uuid: &Uuid) -> Option<&Outcome> {
        self.by_uuid.get(uuid).map(Box::as_ref)
    }

    /// How many there are, and of how many bytes.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    pub(super) fn insert(&mut self, uuid: Uuid, outcome: Outcome) {
        self.remove(&uuid);
        self.tally.add(outcome.size());
        self.by_uuid.insert(uuid, Box::new(outcome));
    }

    pub(super) fn remove(&mut self, uuid: &Uuid) {
        if let Some(outcome) = self.by_uuid.remove(uuid) {
            self.tally.remove(outcome.size());
        }
    }
}
