//! When what is due, the soonest first.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::Millis;

/// One time for each key.
#[derive(Clone, Debug)]
pub(crate) struct Timers<K> {
    times: BTreeMap<K, Millis>,
    order: BTreeSet<(Millis, K)>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { times: BTreeMap::new(), order: BTreeSet::new() }
    }
}

impl<K: Ord + Clone> Timers<K> {
    /// Sets the time of a key, or takes it away.
    pub(crate) fn set(&mut self, key: &K, at: Option<Millis>) {
        let before = self.times.get(key).copied();
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.order.remove(&(before, key.clone()));
        }
        match at {
            Some(at) => {
                self.times.insert(key.clone(), at);
                self.order.insert((at, key.clone()));
            }
            None => {
                self.times.remove(key);
            }
        }
    }

    /// The soonest time.
    pub(crate) fn first(&self) -> Option<Millis> {
        self.order.first().map(|(at, _)| *at)
    }

    /// What is due by now, by key. It stays due until its time is set anew.
    pub(crate) fn due(&self, now: Millis) -> Vec<K> {
        let due = self.order.iter().take_while(|(at, _)| *at <= now);
        let mut keys: Vec<_> = due.map(|(_, key)| key.clone()).collect();
        keys.sort_unstable();
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soonest_is_first_however_times_are_changed() {
        let mut timers = Timers::default();
        let table = [
            ('a', Some(5), Some(5), ""),
            ('b', Some(3), Some(3), "b"),
            ('b', Some(9), Some(5), ""),
            ('c', Some(4), Some(4), "c"),
            ('b', Some(1), Some(1), "bc"),
            ('b', None, Some(4), "c"),
            ('b', None, Some(4), "c"),
            ('c', None, Some(5), ""),
            ('a', None, None, ""),
        ];
        for (key, at, first, due_at_4) in table {
            timers.set(&key, at);
            assert_eq!(timers.first(), first, "after {key} {at:?}");
            assert_eq!(timers.due(4), due_at_4.chars().collect::<Vec<_>>(), "after {key} {at:?}");
        }
        assert!(timers.times.is_empty() && timers.order.is_empty());
    }
}
