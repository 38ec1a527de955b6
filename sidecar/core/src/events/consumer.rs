//! How far a consumer has come: what it is given next, what it has acknowledged, what of that is to be made durable.
//!
//! Of each partition a piece is read ahead. An event is *done with* when it was acknowledged, or passed over by the
//! filter; below the *floor* everything is. What is done with above the floor is kept as ranges, so that it does not
//! come again. A consumer without a name acknowledges nothing: its events are done with when they are given to it.

use std::collections::{BTreeSet, VecDeque};

use super::EventPosition;
use super::ranges::Ranges;

/// Bounds of a consumer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConsumerLimits {
    /// Events given to it and not acknowledged; beyond it no more are given.
    pub unacknowledged_max: usize,
    /// Ranges above a floor, and events of the partition that are not acknowledged, together; beyond it no more of the
    /// partition is given until an earlier event is acknowledged.
    pub ranges_max: usize,
}

/// How far it has come in a partition, as it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConsumerPosition {
    /// Everything below this offset is done with.
    pub floor: u64,
    /// First and last offsets of what is done with above it.
    pub acknowledged: Vec<(u64, u64)>,
}

/// Events that were let go before the consumer had them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Skipped {
    /// The partition.
    pub partition: u32,
    /// Offset of the first one.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// A consumer of a topic. `E` is an event.
#[derive(Debug)]
pub struct Consumer<E> {
    places: Vec<Place<E>>,
    limits: ConsumerLimits,
    named: bool,
    /// How many more events may be given; `None`: any number.
    credits: Option<u64>,
    unacknowledged: usize,
    /// Partition that is asked first.
    turn: usize,
    /// Something was acknowledged since the last commit began.
    acknowledged: bool,
}

/// A partition of it.
#[derive(Debug)]
struct Place<E> {
    floor: u64,
    done: Ranges,
    /// Given and not acknowledged.
    open: BTreeSet<u64>,
    /// Offset of the first event read ahead.
    next: u64,
    /// `None`: one that is passed over.
    ahead: VecDeque<Option<E>>,
    reading: bool,
    /// More is done with than the last commit said.
    dirty: bool,
}

// === impl Consumer ===

impl<E> Consumer<E> {
    /// A consumer that stands at these places, by number of the partition.
    pub fn new(
        positions: Vec<ConsumerPosition>,
        named: bool,
        credits: Option<u64>,
        limits: ConsumerLimits,
    ) -> Self {
        let places = positions.into_iter().map(Place::new).collect();
        let (unacknowledged, turn, acknowledged) = (0, 0, false);
        Self { places, limits, named, credits, unacknowledged, turn, acknowledged }
    }

    /// Where it stands, by number of the partition.
    pub fn floors(&self) -> impl Iterator<Item = EventPosition> + '_ {
        (0..).zip(&self.places).map(|(partition, p)| EventPosition { partition, offset: p.floor })
    }

    /// A reading to begin, if there is one: the partition and the offset of the first event wanted. It ends with
    /// [`read`](Self::read).
    pub fn begin_reading(&mut self) -> Option<EventPosition> {
        let wants = |place: &&mut Place<E>| !place.reading && place.ahead.is_empty();
        let (partition, place) = (0..).zip(&mut self.places).find(|(_, place)| wants(place))?;
        place.reading = true;
        Some(EventPosition { partition, offset: place.next })
    }

    /// Where the reading of a partition began that is under way, to begin it again.
    pub fn reading_at(&self, partition: u32) -> Option<EventPosition> {
        let place = self.places.get(partition as usize).filter(|place| place.reading)?;
        Some(EventPosition { partition, offset: place.next })
    }

    /// A reading has ended: events from `first` on, `None` for those that the filter passes over. Tells what was let
    /// go before it could be read.
    pub fn read(
        &mut self,
        partition: u32,
        first: u64,
        events: impl IntoIterator<Item = Option<E>>,
    ) -> Option<Skipped> {
        let place = self.places.get_mut(partition as usize)?;
        place.reading = false;
        place.ahead.extend(events);
        let from = std::mem::replace(&mut place.next, first);
        if first <= from {
            return None;
        }
        // What was done with among them was not lost.
        let count = first - from - place.done.count(from, first);
        place.finish(from, first - 1);
        (count > 0).then_some(Skipped { partition, first: from, count })
    }

    /// The next event that it is given, if there is one and it may have one.
    pub fn give(&mut self) -> Option<(EventPosition, E)> {
        let is_full = self.named && self.unacknowledged >= self.limits.unacknowledged_max;
        if self.credits == Some(0) || is_full {
            return None;
        }
        for _ in 0..self.places.len() {
            let partition = self.turn;
            self.turn = (self.turn + 1) % self.places.len();
            let place = &mut self.places[partition];
            let Some((offset, event)) = place.give(self.limits.ranges_max) else { continue };
            if self.named {
                place.open.insert(offset);
                self.unacknowledged += 1;
            } else {
                place.finish(offset, offset);
            }
            self.credits = self.credits.map(|credits| credits - 1);
            let partition = u32::try_from(partition).unwrap_or(u32::MAX);
            return Some((EventPosition { partition, offset }, event));
        }
        None
    }

    /// It may be given so many more events.
    pub fn allow(&mut self, count: u64) {
        self.credits = self.credits.map(|credits| credits.saturating_add(count));
    }

    /// An event is acknowledged; false: it was not given, or is done with already.
    pub fn acknowledge(&mut self, position: EventPosition) -> bool {
        let Some(place) = self.places.get_mut(position.partition as usize) else { return false };
        if !place.open.remove(&position.offset) {
            return false;
        }
        self.unacknowledged -= 1;
        self.acknowledged = true;
        place.finish(position.offset, position.offset);
        true
    }

    /// Something was acknowledged that no commit has said.
    pub fn is_commit_urgent(&self) -> bool {
        self.named && self.acknowledged
    }

    /// What has changed since the last commit, to be made durable; nothing for a consumer without a name.
    pub fn commit(&mut self) -> Vec<(u32, ConsumerPosition)> {
        self.acknowledged = false;
        if !self.named {
            return Vec::new();
        }
        let changed = (0..).zip(&mut self.places).filter(|(_, place)| place.dirty);
        changed
            .map(|(partition, place)| {
                place.dirty = false;
                let acknowledged = place.done.iter().collect();
                (partition, ConsumerPosition { floor: place.floor, acknowledged })
            })
            .collect()
    }
}

// === impl Place ===

impl<E> Place<E> {
    fn new(position: ConsumerPosition) -> Self {
        let floor = position.floor.max(1);
        let mut done = Ranges::default();
        position.acknowledged.into_iter().for_each(|(first, last)| done.insert(first, last));
        let floor = done.take_from(floor);
        Self {
            floor,
            done,
            open: BTreeSet::new(),
            next: floor,
            ahead: VecDeque::new(),
            reading: false,
            dirty: false,
        }
    }

    /// The next event that is not done with.
    fn give(&mut self, ranges_max: usize) -> Option<(u64, E)> {
        // Each event that is open, and the next one, may become a range of its own. If none is open the next one is at
        // the floor, and becomes none.
        while self.open.is_empty() || self.done.len() + self.open.len() < ranges_max {
            let event = self.ahead.pop_front()?;
            let offset = self.next;
            self.next += 1;
            if offset < self.floor || self.done.contains(offset) {
                continue;
            }
            match event {
                Some(event) => return Some((offset, event)),
                None => self.finish(offset, offset),
            }
        }
        None
    }

    fn finish(&mut self, first: u64, last: u64) {
        self.done.insert(first, last);
        self.floor = self.done.take_from(self.floor);
        self.dirty = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ConsumerLimits = ConsumerLimits { unacknowledged_max: 4, ranges_max: 4 };

    fn at(floor: u64, acknowledged: &[(u64, u64)]) -> ConsumerPosition {
        ConsumerPosition { floor, acknowledged: acknowledged.to_vec() }
    }

    fn consumer(positions: Vec<ConsumerPosition>) -> Consumer<u64> {
        Consumer::new(positions, true, None, LIMITS)
    }

    fn position(partition: u32, offset: u64) -> EventPosition {
        EventPosition { partition, offset }
    }

    /// Everything that it is given now.
    fn given(consumer: &mut Consumer<u64>) -> Vec<(u32, u64)> {
        let given = std::iter::from_fn(|| consumer.give());
        given
            .map(|(position, event)| {
                assert_eq!(event, position.offset, "an event is where it was read");
                (position.partition, position.offset)
            })
            .collect()
    }

    /// Reads events `first..=last` of a partition, of which these are passed over.
    fn read(consumer: &mut Consumer<u64>, partition: u32, first: u64, last: u64, not: &[u64]) {
        let events = (first..=last).map(|n| (!not.contains(&n)).then_some(n));
        assert_eq!(consumer.read(partition, first, events), None);
    }

    #[test]
    fn each_partition_is_read_once_at_a_time() {
        let mut c = consumer(vec![at(1, &[]), at(5, &[(5, 7)])]);
        assert_eq!(c.begin_reading(), Some(position(0, 1)));
        assert_eq!(c.begin_reading(), Some(position(1, 8)));
        assert_eq!(c.begin_reading(), None);
        assert_eq!((c.reading_at(1), c.reading_at(2)), (Some(position(1, 8)), None));
        read(&mut c, 0, 1, 2, &[]);
        assert_eq!(c.reading_at(0), None);
        assert_eq!(c.begin_reading(), None, "what was read ahead is given first");
        assert_eq!(given(&mut c), [(0, 1), (0, 2)]);
        assert_eq!(c.begin_reading(), Some(position(0, 3)));
        // Nothing came in time.
        read(&mut c, 0, 3, 2, &[]);
        assert_eq!(c.begin_reading(), Some(position(0, 3)));
    }

    #[test]
    fn what_is_acknowledged_does_not_come_again() {
        let mut c = consumer(vec![at(1, &[])]);
        c.begin_reading();
        read(&mut c, 0, 1, 8, &[]);
        assert_eq!(
            given(&mut c),
            [(0, 1), (0, 2), (0, 3), (0, 4)],
            "no more than unacknowledged_max"
        );
        for offset in [2, 4] {
            assert!(c.acknowledge(position(0, offset)));
            assert!(!c.acknowledge(position(0, offset)), "twice");
        }
        assert!(!c.acknowledge(position(0, 8)) && !c.acknowledge(position(9, 1)), "never given");
        assert!(c.is_commit_urgent());
        let kept = c.commit();
        assert_eq!(kept, [(0, at(1, &[(2, 2), (4, 4)]))]);
        assert!(!c.is_commit_urgent() && c.commit().is_empty());
        let mut again = consumer(vec![kept[0].1.clone()]);
        again.begin_reading();
        read(&mut again, 0, 1, 5, &[]);
        assert_eq!(given(&mut again), [(0, 1), (0, 3)]);
        assert!(again.acknowledge(position(0, 1)) && again.acknowledge(position(0, 3)));
        assert_eq!(again.commit(), [(0, at(5, &[]))]);
        assert_eq!(given(&mut again), [(0, 5)]);
    }

    #[test]
    fn what_is_passed_over_is_done_with() {
        let mut c = consumer(vec![at(1, &[])]);
        c.begin_reading();
        read(&mut c, 0, 1, 5, &[1, 2, 4]);
        assert_eq!(given(&mut c), [(0, 3), (0, 5)]);
        assert!(!c.is_commit_urgent());
        assert_eq!(c.commit(), [(0, at(3, &[(4, 4)]))]);
        c.acknowledge(position(0, 3));
        assert_eq!(c.commit(), [(0, at(5, &[]))]);
    }

    #[test]
    fn ranges_are_bounded() {
        let limits = ConsumerLimits { unacknowledged_max: 100, ..LIMITS };
        let mut c = Consumer::new(vec![at(1, &[])], true, None, limits);
        c.begin_reading();
        read(&mut c, 0, 1, 20, &[2, 4, 6, 8, 10]);
        assert_eq!(given(&mut c), [(0, 1), (0, 3)]);
        assert_eq!(c.commit(), [(0, at(1, &[(2, 2), (4, 4)]))]);
        c.acknowledge(position(0, 1));
        assert_eq!(given(&mut c), [(0, 5)]);
        // Whatever is acknowledged, and in whatever order.
        c.acknowledge(position(0, 5));
        let kept = c.commit();
        assert_eq!(kept, [(0, at(3, &[(4, 6)]))]);
        // One that comes back with as many as there may be goes on at its floor.
        let full = at(2, &[(4, 4), (6, 6), (8, 8), (10, 10)]);
        let mut c = Consumer::new(vec![full], true, None, limits);
        c.begin_reading();
        read(&mut c, 0, 2, 12, &[]);
        for offsets in [&[2][..], &[3], &[5], &[7, 9]] {
            let wanted: Vec<_> = offsets.iter().map(|&offset| (0, offset)).collect();
            assert_eq!(given(&mut c), wanted);
            offsets.iter().for_each(|&offset| assert!(c.acknowledge(position(0, offset))));
            assert!(c.commit()[0].1.acknowledged.len() <= LIMITS.ranges_max);
        }
    }

    #[test]
    fn credits_bound_what_is_given() {
        let mut c = Consumer::new(vec![at(1, &[]), at(1, &[])], false, Some(3), LIMITS);
        read(&mut c, 0, 1, 3, &[]);
        read(&mut c, 1, 1, 3, &[]);
        assert_eq!(given(&mut c), [(0, 1), (1, 1), (0, 2)], "partitions take turns");
        c.allow(1);
        assert_eq!(given(&mut c), [(1, 2)]);
        // Without a name nothing is kept, and nothing waits for acknowledgements.
        assert!(c.commit().is_empty() && !c.acknowledge(position(0, 1)));
        c.allow(10);
        assert_eq!(given(&mut c), [(0, 3), (1, 3)]);
        assert_eq!(c.floors().collect::<Vec<_>>(), [position(0, 4), position(1, 4)]);
    }

    #[test]
    fn what_was_let_go_is_told() {
        let mut c = consumer(vec![at(3, &[(5, 6)])]);
        c.begin_reading();
        let skipped = c.read(0, 9, [Some(9)]);
        assert_eq!(skipped, Some(Skipped { partition: 0, first: 3, count: 4 }));
        assert_eq!(given(&mut c), [(0, 9)]);
        assert_eq!(c.commit(), [(0, at(9, &[]))]);
        // What had been acknowledged is not missed.
        let mut c = consumer(vec![at(3, &[(5, 6)])]);
        read(&mut c, 0, 3, 4, &[]);
        given(&mut c);
        c.acknowledge(position(0, 4));
        c.begin_reading();
        assert_eq!(c.read(0, 7, [None]), None);
    }
}
