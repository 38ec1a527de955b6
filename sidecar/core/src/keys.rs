//! Idempotency keys (section 5): a root invocation that its client may send again. Its uuid is derived from the key, so
//! whoever sends it again means the same one; the partition remembers it from its acceptance until some time after its
//! end, with what was asked (as a digest) and, where somebody may ask for it, the outcome.

use std::collections::{BTreeMap, VecDeque};

use crate::ids::{Millis, Uuid};
use crate::invocation::Outcome;
use crate::size::Tally;
use crate::snapshot::SavedKey;

/// What a key takes without its outcome, at least what is stored, bytes.
const KEY_BYTES: usize = 64;

/// A request that may be sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestKey {
    /// Of the invocation, derived from the application, the target and the key.
    pub uuid: Uuid,
    /// Of the method and its argument: the same key with another one is an error.
    pub digest: u128,
}

/// All keys of a partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    by_uuid: BTreeMap<Uuid, Known>,
    /// Those whose time has begun, in that order.
    by_age: VecDeque<(Millis, Uuid)>,
    /// Those of them that have outcomes, in the same order.
    with_outcome: VecDeque<Uuid>,
    tally: Tally,
}

/// What is known under a key.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// What was asked.
    pub(crate) digest: u128,
    /// How it ended, if it did and may be asked for.
    pub(crate) outcome: Option<Outcome>,
    /// Its time has begun.
    has_ended: bool,
}

impl Known {
    fn size(&self) -> usize {
        KEY_BYTES + self.outcome.as_ref().map_or(0, Outcome::size)
    }
}

impl Keys {
    /// An invocation with a key was accepted.
    pub(crate) fn accept(&mut self, uuid: Uuid, digest: u128) {
        let known = Known { digest, outcome: None, has_ended: false };
        self.tally.add(known.size());
        if let Some(old) = self.by_uuid.insert(uuid, known) {
            self.tally.remove(old.size());
        }
    }

    /// An invocation ended, with an outcome that may be asked for, or has left for good. Tells whether it has a key.
    pub(crate) fn end(&mut self, uuid: Uuid, outcome: Option<&Outcome>, time: Millis) -> bool {
        let Some(known) = self.by_uuid.get_mut(&uuid) else { return false };
        self.tally.remove(known.size());
        known.outcome = outcome.cloned();
        self.tally.add(known.size());
        // A chain of tail calls that had left may have come back, and end here.
        if !std::mem::replace(&mut known.has_ended, true) {
            self.by_age.push_back((time, uuid));
        }
        if outcome.is_some() {
            self.with_outcome.push_back(uuid);
        }
        true
    }

    /// An outcome is kept no longer; its key is.
    pub(crate) fn drop_outcome(&mut self, uuid: Uuid) {
        if let Some(known) = self.by_uuid.get_mut(&uuid) {
            self.tally.remove(known.size());
            known.outcome = None;
            self.tally.add(known.size());
        }
        self.tidy();
    }

    fn tidy(&mut self) {
        let by_uuid = &self.by_uuid;
        while self.by_age.front().is_some_and(|(_, uuid)| !by_uuid.contains_key(uuid)) {
            self.by_age.pop_front();
        }
        let has_outcome = |uuid: &Uuid| by_uuid.get(uuid).is_some_and(|k| k.outcome.is_some());
        while self.with_outcome.front().is_some_and(|uuid| !has_outcome(uuid)) {
            self.with_outcome.pop_front();
        }
    }

    /// The oldest outcomes, so many that without them the rest takes no more than `bytes_max`, as far as outcomes go.
    /// The last one stays, however long: whoever made it may be about to ask for it.
    pub(crate) fn surplus_outcomes(&self, bytes_max: usize) -> Vec<Uuid> {
        let mut bytes = self.tally.bytes;
        let mut surplus = Vec::new();
        for uuid in self.with_outcome.iter().take(self.with_outcome.len().saturating_sub(1)) {
            if bytes <= bytes_max {
                break;
            }
            bytes = bytes.saturating_sub(self.outcome(uuid).map_or(0, Outcome::size));
            surplus.push(*uuid);
        }
        surplus
    }

    /// Whether there is something to be dropped beyond so many bytes.
    pub(crate) fn has_surplus(&self, bytes_max: usize) -> bool {
        self.tally.bytes > bytes_max && self.with_outcome.len() > 1
    }

    /// A key's time is over.
    pub(crate) fn forget(&mut self, uuid: Uuid) {
        if let Some(known) = self.by_uuid.remove(&uuid) {
            self.tally.remove(known.size());
        }
        self.tidy();
    }

    /// All of them, for a snapshot.
    pub(crate) fn save(&self) -> Vec<SavedKey> {
        let saved = |(uuid, known): (&Uuid, &Known)| {
            let Known { digest, outcome, has_ended: _ } = known;
            SavedKey { uuid: *uuid, digest: *digest, outcome: outcome.clone() }
        };
        self.by_uuid.iter().map(saved).collect()
    }

    /// Those that have ended, in that order.
    pub(crate) fn save_by_age(&self) -> Vec<(Millis, Uuid)> {
        self.by_age.iter().copied().collect()
    }

    /// What a snapshot holds.
    pub(crate) fn restore(saved: Vec<SavedKey>, by_age: Vec<(Millis, Uuid)>) -> Self {
        let mut keys = Self { by_age: by_age.into(), ..Self::default() };
        for SavedKey { uuid, digest, outcome } in saved {
            let known = Known { digest, outcome, has_ended: false };
            keys.tally.add(known.size());
            keys.by_uuid.insert(uuid, known);
        }
        for (_, uuid) in &keys.by_age {
            if let Some(known) = keys.by_uuid.get_mut(uuid) {
                known.has_ended = true;
                keys.with_outcome.extend(known.outcome.is_some().then_some(*uuid));
            }
        }
        keys
    }

    pub(crate) fn get(&self, uuid: &Uuid) -> Option<&Known> {
        self.by_uuid.get(uuid)
    }

    /// How an invocation with a key ended.
    pub(crate) fn outcome(&self, uuid: &Uuid) -> Option<&Outcome> {
        self.by_uuid.get(uuid)?.outcome.as_ref()
    }

    /// How many there are, and of how many bytes.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// When the first one of them ended.
    pub(crate) fn oldest(&self) -> Option<Millis> {
        self.by_age.front().map(|(at, _)| *at)
    }

    /// Those that ended by a time, the first ones first.
    pub(crate) fn ended_by(&self, time: Millis) -> impl Iterator<Item = Uuid> + use<'_> {
        self.by_age.iter().take_while(move |(at, _)| *at <= time).map(|(_, uuid)| *uuid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_from_acceptance_until_they_are_forgotten() {
        let (a, b) = (Uuid(1), Uuid(2));
        let mut keys = Keys::default();
        keys.accept(a, 7);
        keys.accept(b, 8);
        assert_eq!(keys.get(&a).map(|known| known.digest), Some(7));
        assert_eq!((keys.outcome(&a), keys.oldest()), (None, None));
        assert!(keys.end(b, None, 10));
        assert!(keys.end(a, Some(&Outcome::Cancelled), 20));
        assert!(!keys.end(Uuid(3), Some(&Outcome::Expired), 20));
        assert_eq!(keys.outcome(&a), Some(&Outcome::Cancelled));
        assert_eq!(keys.ended_by(10).collect::<Vec<_>>(), [b]);
        assert_eq!(keys.ended_by(20).collect::<Vec<_>>(), [b, a]);
        assert!(keys.tally().bytes > 2 * KEY_BYTES);
        keys.forget(b);
        assert_eq!((keys.get(&b).is_none(), keys.oldest()), (true, Some(20)));
        keys.forget(a);
        assert_eq!((keys.tally(), keys.oldest()), (Tally::default(), None));
    }
}
