//! A set of offsets, as ranges.

use std::collections::BTreeMap;

/// Offsets, as first and last ones of what is successive.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

// === impl Ranges ===

impl Ranges {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn contains(&self, offset: u64) -> bool {
        self.0.range(..=offset).next_back().is_some_and(|(_, &last)| offset <= last)
    }

    /// How many there are from `first` up to below `end`.
    pub(super) fn count(&self, first: u64, end: u64) -> u64 {
        let begun = self.0.range(..end).rev();
        let near = begun.take_while(|(_, last)| **last >= first);
        near.map(|(&from, &last)| last.saturating_add(1).min(end) - from.max(first)).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(&first, &last)| (first, last))
    }

    /// Adds what is from `first` to `last`.
    pub(super) fn insert(&mut self, mut first: u64, mut last: u64) {
        // What it touches becomes part of it.
        while let Some((&before, &end)) = self.0.range(..=last.saturating_add(1)).next_back() {
            if end.saturating_add(1) < first {
                break;
            }
            self.0.remove(&before);
            first = first.min(before);
            last = last.max(end);
        }
        self.0.insert(first, last);
    }

    /// Takes what begins at an offset or below it; tells the offset behind it.
    pub(super) fn take_from(&mut self, mut floor: u64) -> u64 {
        while let Some((&first, &last)) = self.0.first_key_value()
            && first <= floor
        {
            self.0.remove(&first);
            floor = floor.max(last.saturating_add(1));
        }
        floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(parts: &[(u64, u64)]) -> Ranges {
        let mut ranges = Ranges::default();
        parts.iter().for_each(|&(first, last)| ranges.insert(first, last));
        ranges
    }

    #[test]
    fn what_is_among_them_is_counted_without_looking_at_each() {
        let ranges = ranges(&[(3, 5), (8, 8), (20, u64::MAX - 1)]);
        let counts = [(1, 3), (1, 4), (4, 9), (5, 20), (6, 8), (9, 9), (1, u64::MAX)];
        let counts = counts.map(|(first, end)| ranges.count(first, end));
        assert_eq!(counts, [0, 1, 3, 2, 0, 0, u64::MAX - 1 - 20 + 1 + 4]);
    }

    #[test]
    fn what_touches_is_one() {
        let told = |parts: &[(u64, u64)]| ranges(parts).iter().collect::<Vec<_>>();
        assert_eq!(told(&[(5, 5), (7, 7)]), [(5, 5), (7, 7)]);
        assert_eq!(told(&[(5, 5), (7, 7), (6, 6)]), [(5, 7)]);
        assert_eq!(told(&[(1, 1), (3, 3), (9, 9), (2, 8)]), [(1, 9)]);
        assert_eq!(told(&[(4, 8), (5, 6)]), [(4, 8)]);
        let set = ranges(&[(4, 8), (10, 10)]);
        assert!([4, 8, 10].iter().all(|&n| set.contains(n)));
        assert!([3, 9, 11].iter().all(|&n| !set.contains(n)));
    }

    #[test]
    fn a_floor_goes_over_what_begins_there() {
        let mut set = ranges(&[(4, 8), (10, 12), (20, 20)]);
        assert_eq!(set.take_from(3), 3);
        assert_eq!(set.take_from(4), 9);
        assert_eq!(set.take_from(11), 13);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(20, 20)]);
    }
}
