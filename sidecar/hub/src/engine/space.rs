//! How much of the log's files still lives, and what is to be done about the rest. Memory only.

use std::collections::BTreeMap;

use crate::wal::index::Place;
use crate::wal::segment::{DATA, Segment};

/// Copying so little costs next to nothing, bytes.
const SMALL: u64 = 64 << 10;
/// A file of which no more than this part lives is cheap to compact: one over this.
const CHEAP: u64 = 16;
/// With so many files more than twice what lives, compaction is not held to its rate.
const HURRY_FILES: u64 = 4;
/// So many successive small files are made one, even if that frees next to nothing.
const SMALL_FILES_MAX: usize = 8;
/// A compaction frees this at least, or what it copies if that is more, bytes.
const GAIN_MIN: u64 = 64 << 10;

/// The log's files.
pub(super) struct Files {
    files: BTreeMap<u64, Use>,
    /// A compacted file gets no more records than this, bytes.
    bytes_max: u64,
}

#[derive(Clone, Copy)]
struct Use {
    segment: Segment,
    /// Bytes of durable records that are not trimmed.
    live: u64,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Chore {
    /// Remove the files that end at or before this address: nothing in them lives.
    Remove { below: u64 },
    /// Compact these files; `next` is the one after them. `hurry`: the disk holds far too much.
    Compact { run: Vec<Segment>, next: Segment, hurry: bool },
}

// === impl Files ===

impl Files {
    pub(super) fn new(segments: &[Segment], bytes_max: u64) -> Self {
        let files = segments.iter().map(|&segment| (segment.base, Use { segment, live: 0 }));
        Self { files: files.collect(), bytes_max }
    }

    pub(super) fn add(&mut self, segment: Segment) {
        self.files.insert(segment.base, Use { segment, live: 0 });
    }

    /// A record is durable.
    pub(super) fn lives(&mut self, address: u64, bytes: u64) {
        if let Some(found) = self.at(address) {
            found.live += bytes;
        }
    }

    /// Records, by ascending addresses, are durable.
    pub(super) fn live_all(&mut self, places: impl Iterator<Item = Place>) {
        self.sum(places, |found, bytes| found.live += bytes);
    }

    /// Records, by ascending addresses, are not needed any more.
    pub(super) fn die_all(&mut self, places: impl Iterator<Item = Place>) {
        self.sum(places, |found, bytes| found.live = found.live.saturating_sub(bytes));
    }

    /// There may be a million of them, and they lie in few files: each is looked up once.
    fn sum(&mut self, places: impl Iterator<Item = Place>, change: impl Fn(&mut Use, u64)) {
        let mut places = places.peekable();
        while let Some(place) = places.next() {
            let Some(found) = self.at(place.address) else { continue };
            let (end, mut bytes) = (found.segment.end(), place.bytes);
            while let Some(next) = places.next_if(|next| next.address < end) {
                bytes += next.bytes;
            }
            change(found, bytes);
        }
    }

    fn at(&mut self, address: u64) -> Option<&mut Use> {
        self.files.range_mut(..=address).next_back().map(|(_, found)| found)
    }

    /// Files that end at or before an address are gone; returns how many they were.
    pub(super) fn removed_below(&mut self, address: u64) -> usize {
        let before = self.files.len();
        self.files.retain(|_, found| found.segment.end() > address);
        before - self.files.len()
    }

    /// A compacted file has taken the place of those that it stands for.
    pub(super) fn compacted(&mut self, by: Segment) {
        let range = by.base..by.end();
        let live = self.files.range(range.clone()).map(|(_, found)| found.live).sum();
        self.files.retain(|base, _| !range.contains(base));
        self.files.insert(by.base, Use { segment: by, live });
    }

    pub(super) fn count(&self) -> usize {
        self.files.len()
    }

    /// Bytes of all files.
    pub(super) fn stored(&self) -> u64 {
        self.files.values().map(|found| found.segment.stored()).sum()
    }

    /// Bytes of records that live.
    pub(super) fn live(&self) -> u64 {
        self.files.values().map(|found| found.live).sum()
    }

    /// The most useful thing to do with files that end at or before `durable`, the beginning of the
    /// file that commits go to.
    pub(super) fn chore(&self, durable: u64) -> Option<Chore> {
        let all: Vec<_> = self.files.values().copied().collect();
        let full = all.iter().take_while(|found| found.segment.end() <= durable).count();
        let (full, rest) = all.split_at(full);
        let dead = full.iter().take_while(|found| found.live == 0).count();
        if let Some(last) = full[..dead].last() {
            return Some(Chore::Remove { below: last.segment.end() });
        }
        // What lives in a young file is often dead a moment later, and then costs nothing. So files
        // are compacted only when they hold much more than what lives.
        let stored: u64 = full.iter().map(|found| found.segment.stored()).sum();
        let live: u64 = full.iter().map(|found| found.live).sum();
        let over = stored > 2 * live + self.bytes_max;
        let cheap = |found: &Use| found.live <= SMALL.max(found.segment.stored() / CHEAP);
        let worn =
            |found: &Use| found.live <= SMALL || found.segment.stored() >= DATA + 2 * found.live;
        let (begin, end) = self
            .best(full, cheap, over)
            .or_else(|| over.then(|| self.best(full, worn, over)).flatten())?;
        let next = full.get(end).or(rest.first())?.segment;
        let run = full[begin..end].iter().map(|found| found.segment).collect();
        let hurry = self.is_far_too_much(stored, live);
        Some(Chore::Compact { run, next, hurry })
    }

    /// Whether the files that end at or before `durable` have come to hold far too much.
    pub(super) fn hurries(&self, durable: u64) -> bool {
        let full = self.files.values().take_while(|found| found.segment.end() <= durable);
        let sum = |(stored, live): (u64, u64), found: &Use| {
            (stored + found.segment.stored(), live + found.live)
        };
        let (stored, live) = full.fold((0, 0), sum);
        self.is_far_too_much(stored, live)
    }

    fn is_far_too_much(&self, stored: u64, live: u64) -> bool {
        stored > 2 * live + HURRY_FILES * self.bytes_max
    }

    /// Of the runs of files that all may be compacted the one that frees most, if it is worth it.
    fn best(&self, full: &[Use], may: impl Fn(&Use) -> bool, over: bool) -> Option<(usize, usize)> {
        let mut best: Option<(u64, usize, usize)> = None;
        let mut begin = 0;
        while begin < full.len() {
            let mut live = 0;
            let takes = |found: &&Use| {
                live += found.live;
                may(found) && live <= self.bytes_max
            };
            let end = begin + full[begin..].iter().take_while(takes).count();
            if let Some(gain) = worth(&full[begin..end], over)
                && best.is_none_or(|(most, ..)| gain > most)
            {
                best = Some((gain, begin, end));
            }
            begin = end.max(begin + 1);
        }
        best.map(|(_, begin, end)| (begin, end))
    }
}

/// What making one of these files frees, bytes; `None`: too little.
fn worth(group: &[Use], over: bool) -> Option<u64> {
    let stored: u64 = group.iter().map(|found| found.segment.stored()).sum();
    let live: u64 = group.iter().map(|found| found.live).sum();
    let gain = stored.saturating_sub(DATA + live);
    let enough = over && gain >= live.max(GAIN_MIN);
    (enough || group.len() >= SMALL_FILES_MAX).then_some(gain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::segment::Kind;

    const MIB: u64 = 1 << 20;
    const SIZE: u64 = 32 * MIB;

    /// Files of which so much lives; the last one is being written.
    fn files(live: &[u64]) -> (Files, u64) {
        let segments: Vec<_> =
            (0..live.len() as u64).map(|n| Segment::whole(n as u32 + 1, n * SIZE, SIZE)).collect();
        let mut files = Files::new(&segments, SIZE);
        for (segment, &live) in segments.iter().zip(live) {
            files.lives(segment.data(), live);
        }
        (files, segments.last().unwrap().base)
    }

    fn numbers(chore: Option<Chore>) -> (Vec<u32>, u32) {
        match chore {
            Some(Chore::Compact { run, next, .. }) => {
                (run.iter().map(|s| s.number).collect(), next.number)
            }
            other => panic!("no compaction: {other:?}"),
        }
    }

    #[test]
    fn what_is_dead_at_the_front_is_removed_first() {
        for (live, below) in [
            (&[0, 0, MIB, 0, 0][..], Some(2)),
            (&[0], None),
            (&[0, 0], Some(1)),
            (&[20 * MIB, 20 * MIB, 0], None),
        ] {
            let (files, durable) = files(live);
            let wanted = below.map(|n| Chore::Remove { below: n * SIZE });
            assert_eq!(files.chore(durable), wanted, "{live:?}");
        }
    }

    #[test]
    fn worn_files_are_made_one_with_their_neighbours() {
        for (live, run, next) in [
            // One idle record keeps a file; what is dead behind it goes with it.
            (&[100, 0, 0, 0][..], &[1, 2, 3][..], 4),
            // Full ones stay.
            (&[30 * MIB, 100, 0, 0, 0, 30 * MIB, 0], &[2, 3, 4, 5], 6),
            // Only as much as a file takes.
            (&[9 * MIB, 9 * MIB, 9 * MIB, 9 * MIB, 0], &[1, 2, 3], 4),
            // What costs little goes first.
            (&[8 * MIB, 31 * MIB, MIB, MIB, 0], &[3, 4], 5),
            // The youngest will die by itself.
            (&[100, 0, 0, 9 * MIB, 0], &[1, 2, 3], 4),
        ] {
            let (files, durable) = files(live);
            let (found, after) = numbers(files.chore(durable));
            assert_eq!((&found[..], after), (run, next), "{live:?}");
        }
    }

    #[test]
    fn what_is_no_more_than_twice_what_lives_is_left_alone() {
        for live in [
            &[17 * MIB, 31 * MIB, 16 * MIB, MIB][..],
            &[15 * MIB, 31 * MIB, MIB, 0],
            &[100, 0],
            &[100],
        ] {
            let (files, durable) = files(live);
            assert_eq!(files.chore(durable), None, "{live:?}");
        }
    }

    #[test]
    fn far_too_much_is_dealt_with_in_a_hurry() {
        for (count, wanted) in [(3, false), (5, false), (6, true)] {
            let mut live = vec![0; count];
            live[0] = 100;
            let (files, durable) = files(&live);
            let Some(Chore::Compact { hurry, .. }) = files.chore(durable) else { panic!() };
            assert_eq!(hurry, wanted, "{count} files");
        }
    }

    #[test]
    fn compacted_files_do_not_pile_up_and_are_not_done_again_for_nothing() {
        let (mut files, mut durable) = files(&[100, 0]);
        let mut copied = 0;
        for round in 0..1_000 {
            while let Some(chore) = files.chore(durable) {
                let Chore::Compact { run, .. } = chore else { panic!("{chore:?}") };
                let (first, last) = (run[0], run[run.len() - 1]);
                let of_run = files.files.range(first.base..last.end());
                let live: u64 = of_run.map(|(_, found)| found.live).sum();
                let kind = Kind::Compacted { last: last.last(), bytes: DATA + live * 6 / 5 };
                let size = last.end() - first.base;
                files.compacted(Segment { number: first.number, base: first.base, size, kind });
                copied += live;
            }
            // The next file, in which every fourth time a little more stays for ever.
            let number = 3 + round as u32;
            let next = Segment::whole(number, durable + SIZE, SIZE);
            files.lives(durable + DATA, if round % 4 == 0 { 10_000 } else { 0 });
            files.add(next);
            durable = next.base;
        }
        let (count, stored, live) = (files.count(), files.stored(), files.live());
        assert!(stored <= SIZE * 3 + live * 2 + MIB, "{stored} bytes for {live}");
        assert!(count < 80, "{count} files");
        assert!(copied < 40 * live, "{copied} bytes copied, {live} live");
    }
}
