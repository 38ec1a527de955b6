//! How much of the log's files still lives, and what is to be done about the rest. Memory only.

use std::collections::BTreeMap;

use crate::wal::segment::{DATA, Segment};

/// A file in which less than this lives is copied together with its neighbours, bytes.
const SMALL: u64 = 64 << 10;
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
    /// Compact these files; `next` is the one after them.
    Compact { run: Vec<Segment>, next: Segment, live: u64 },
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

    /// A record is not needed any more.
    pub(super) fn dies(&mut self, address: u64, bytes: u64) {
        if let Some(found) = self.at(address) {
            found.live = found.live.saturating_sub(bytes);
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
        let next_of = |end: usize| full.get(end).or(rest.first()).map(|found| found.segment);
        let mut best: Option<(u64, usize, usize)> = None;
        let mut begin = 0;
        while begin < full.len() {
            let end = begin + self.group(&full[begin..]);
            let group = &full[begin..end];
            if let Some(gain) = worth(group)
                && best.is_none_or(|(most, ..)| gain > most)
            {
                best = Some((gain, begin, end));
            }
            begin = end.max(begin + 1);
        }
        let (_, begin, end) = best?;
        Some(Chore::Compact {
            run: full[begin..end].iter().map(|found| found.segment).collect(),
            next: next_of(end)?,
            live: full[begin..end].iter().map(|found| found.live).sum(),
        })
    }

    /// How many of these files, from the first on, could be made one.
    fn group(&self, files: &[Use]) -> usize {
        let mut live = 0;
        let takes = |found: &&Use| {
            live += found.live;
            let worn = found.segment.stored() >= DATA + 2 * found.live;
            (worn || found.live <= SMALL) && live <= self.bytes_max
        };
        files.iter().take_while(takes).count()
    }
}

/// What making one of these files frees, bytes; `None`: too little.
fn worth(group: &[Use]) -> Option<u64> {
    let stored: u64 = group.iter().map(|found| found.segment.stored()).sum();
    let live: u64 = group.iter().map(|found| found.live).sum();
    let gain = stored.saturating_sub(DATA + live);
    let enough = gain >= live.max(GAIN_MIN) || group.len() >= SMALL_FILES_MAX;
    (enough && !group.is_empty()).then_some(gain)
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

    fn numbers(chore: Option<Chore>) -> (Vec<u32>, u32, u64) {
        match chore {
            Some(Chore::Compact { run, next, live }) => {
                (run.iter().map(|s| s.number).collect(), next.number, live)
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
            (&[30 * MIB, 100, 0, 30 * MIB, 0], &[2, 3], 4),
            // Only as much as a file takes.
            (&[14 * MIB, 14 * MIB, 14 * MIB, 14 * MIB, 0], &[1, 2], 3),
            // What frees most goes first.
            (&[15 * MIB, 31 * MIB, MIB, 0], &[3], 4),
        ] {
            let (files, durable) = files(live);
            let (found, after, _) = numbers(files.chore(durable));
            assert_eq!((&found[..], after), (run, next), "{live:?}");
        }
    }

    #[test]
    fn half_full_files_are_left_alone() {
        let (files, durable) = files(&[17 * MIB, 31 * MIB, 16 * MIB, MIB]);
        assert_eq!(files.chore(durable), None);
    }

    #[test]
    fn compacted_files_do_not_pile_up_and_are_not_done_again_for_nothing() {
        let (mut files, mut durable) = files(&[100, 0]);
        let mut copied = 0;
        for round in 0..1_000 {
            while let Some(chore) = files.chore(durable) {
                let Chore::Compact { run, live, .. } = chore else { panic!("{chore:?}") };
                let (first, last) = (run[0], run[run.len() - 1]);
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
        assert!(stored <= SIZE * 2 + live * 2 + MIB, "{stored} bytes for {live}");
        assert!(count < 80, "{count} files");
        assert!(copied < 40 * live, "{copied} bytes copied, {live} live");
    }
}
