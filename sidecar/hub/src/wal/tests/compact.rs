//! Compacting, and what the next start makes of it when it was cut short or damaged.

use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::wal::compact::{self, Draft, Plan};
use crate::wal::index::{LogIndex, Place};
use crate::wal::segment;

/// A log with two logs in it, and all their records.
struct Mixed {
    log: Log,
    /// By log and offset: address, text.
    all: BTreeMap<(u32, u64), (u64, String)>,
}

/// What a start found, by log and offset: addresses.
type Addresses = BTreeMap<(u32, u64), u64>;

impl Mixed {
    /// Some six files; log 2 has a record after every third one of log 1.
    fn new() -> Self {
        let mut log = Log::new();
        let mut all = BTreeMap::new();
        let mut last = [0, 0, 0];
        for n in 0..240_usize {
            let mut add = |log: &mut Log, id: u32, length: usize| {
                last[id as usize] += 1;
                let offset = last[id as usize];
                let text = format!("{id}:{offset:0length$}");
                if !log.writer.fits(text.len()) {
                    let end = log.writer.roll(0);
                    log.start(end);
                }
                let address = log.writer.append(id, offset, text.as_bytes());
                all.insert((id, offset), (address, text));
            };
            add(&mut log, 1, 10 + n * 13 % 1_200);
            if n % 3 == 0 {
                add(&mut log, 2, 50);
            }
            log.commit();
        }
        Self { log, all }
    }

    fn segments(&self) -> Vec<Segment> {
        let all = segment::list(self.log.path()).unwrap();
        // Without the one that was made ahead.
        let end = self.log.writer.segment().end();
        all.into_iter().filter(|segment| segment.end() <= end).collect()
    }

    /// What is kept by these starts: all from a log's start on, and what is not in the run.
    fn kept(&self, run: &[Segment], starts: &[(u32, u64)]) -> Addresses {
        let starts: HashMap<_, _> = starts.iter().copied().collect();
        let (from, to) = (run[0].base, run[run.len() - 1].end());
        let all = self.all.iter().map(|(&name, (address, _))| (name, *address));
        all.filter(|((log, offset), address)| {
            !(from..to).contains(address) || starts.get(log).is_some_and(|s| offset >= s)
        })
        .collect()
    }

    /// Where what is kept of a run is.
    fn wanted(&self, run: &[Segment], starts: &[(u32, u64)]) -> Vec<Place> {
        let range = run[0].base..run[run.len() - 1].end();
        let kept = self.kept(run, starts).into_iter();
        let kept = kept.filter(|(_, address)| range.contains(address));
        let place = |(name, address)| {
            let bytes = format::record_bytes(self.all[&name].1.len());
            Place { address, bytes }
        };
        let mut places: Vec<_> = kept.map(place).collect();
        places.sort_by_key(|place| place.address);
        places
    }

    fn compact(&self, files: std::ops::Range<usize>, starts: &[(u32, u64)]) -> compact::Compacted {
        let segments = self.segments();
        let (run, next) = (segments[files.clone()].to_vec(), segments[files.end]);
        let plan = Plan { wanted: self.wanted(&run, starts), run, next, hurry: false };
        compact::compact(self.log.path(), plan, |_| true).unwrap().unwrap()
    }

    fn found(&self) -> Result<Addresses, HubError> {
        let (_, mark) = MarkFile::open(self.log.path(), Durability::Fsync)?;
        let mut found = BTreeMap::new();
        recover(self.log.path(), mark, |what| {
            if let Visit::Record { log, offset, address, .. } = *what {
                assert_eq!(found.insert((log, offset), address), None, "told once");
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Every one of these records is read as it was written.
    fn expect_read(&self, reader: &mut Reader, kept: &Addresses) {
        for log in [1, 2] {
            let of: Vec<_> = kept.iter().filter(|((of, _), _)| *of == log).collect();
            // Stretches of successive offsets.
            for stretch in of.chunk_by(|a, b| a.0.1 + 1 == b.0.1) {
                let addresses: Vec<_> = stretch.iter().map(|(_, address)| **address).collect();
                let first = stretch[0].0.1;
                let mut read = Vec::new();
                while read.len() < addresses.len() {
                    let at = read.len();
                    let more = reader.read(log, first + at as u64, &addresses[at..], 3_000);
                    read.extend(more.unwrap());
                }
                for (nth, record) in read.into_iter().enumerate() {
                    let (_, text) = &self.all[&(log, first + nth as u64)];
                    assert_eq!(record, text.as_bytes());
                }
            }
        }
    }
}

#[test]
fn plans_are_gathered_in_pieces() {
    const LOGS: u64 = 5_000;
    let mut indexes: BTreeMap<u32, LogIndex> = BTreeMap::new();
    let mut places = Vec::new();
    let mut add = |log: u64, places: &mut Vec<Place>| {
        let place = Place { address: (places.len() as u64 + 1) * 128, bytes: 64 };
        indexes.entry(log as u32).or_default().push(place);
        places.push(place);
    };
    for round in 0..4 {
        (0..LOGS).filter(|log| log % 3 != round % 3).for_each(|log| add(log, &mut places));
    }
    (0..20_000).for_each(|_| add(77, &mut places));
    let size = (places.len() as u64 + 1) * 128;
    // The first and the last tenth are in other files.
    let (base, end) = (size / 10 / 4096 * 4096, size / 10 * 9 / 4096 * 4096);
    let run = vec![Segment::whole(2, base, end - base)];
    let mut draft = Draft::new(run, Segment::whole(3, end, size), true);
    let mut holds = 1;
    while !draft.gather(LOGS as u32 + 1, |log| indexes.get(&log)) {
        holds += 1;
    }
    let wanted: Vec<_> =
        places.iter().filter(|p| (base..end).contains(&p.address)).map(|p| p.address).collect();
    let plan = draft.plan();
    assert_eq!(plan.wanted.iter().map(|p| p.address).collect::<Vec<_>>(), wanted);
    assert!(holds >= wanted.len() / 4_096 && holds <= 15, "{holds} holds");
}

#[test]
fn what_lives_is_kept_where_it_was() {
    for (files, starts) in [
        (0..1, &[(1, 30), (2, 1)][..]),
        (0..3, &[(1, 1_000), (2, 2)]),
        (1..4, &[(1, 100), (2, 20)]),
        (1..3, &[(1, 1), (2, 1)]),
        // A purged log; all of it; nothing to be read at all.
        (0..2, &[(2, 1)]),
        (2..3, &[]),
    ] {
        let mixed = Mixed::new();
        let segments = mixed.segments();
        let kept = mixed.kept(&segments[files.clone()], starts);
        let before: u64 = segments.iter().map(Segment::stored).sum();
        let mut reader = Reader::new(mixed.log.path().to_owned(), Arc::clone(&mixed.log.segments));
        // So that files are open when they are replaced.
        mixed.expect_read(&mut reader, &mixed.kept(&segments[..1], &[(1, 1), (2, 1)]));
        reader.install(mixed.compact(files.clone(), starts)).unwrap();
        let after = mixed.segments();
        assert_eq!(after.len(), segments.len() - files.len() + 1);
        let all = kept.len() == mixed.all.len();
        assert!(all || after.iter().map(Segment::stored).sum::<u64>() < before);
        for with_summary in [true, false] {
            if !with_summary {
                after.iter().for_each(|&s| summary::distrust(mixed.log.path(), s).unwrap());
            }
            assert_eq!(mixed.found().unwrap(), kept, "{files:?} {starts:?} {with_summary}");
        }
        mixed.expect_read(&mut reader, &kept);
        let mut fresh = Reader::new(mixed.log.path().to_owned(), Arc::clone(&mixed.log.segments));
        mixed.expect_read(&mut fresh, &kept);
    }
}

#[test]
fn a_compacted_file_is_compacted_again_with_others() {
    let mixed = Mixed::new();
    let mut reader = Reader::new(mixed.log.path().to_owned(), Arc::clone(&mixed.log.segments));
    reader.install(mixed.compact(0..2, &[(1, 10), (2, 1)])).unwrap();
    reader.install(mixed.compact(1..2, &[(1, 60), (2, 1)])).unwrap();
    let segments = mixed.segments();
    assert!(segments[0].is_compacted() && segments[1].is_compacted());
    let starts = [(1, 90), (2, 3)];
    let wanted = mixed.kept(&segments[0..3], &starts);
    reader.install(mixed.compact(0..3, &starts)).unwrap();
    assert_eq!(mixed.found().unwrap(), wanted);
    mixed.expect_read(&mut reader, &wanted);
    let first = mixed.segments()[0];
    assert_eq!((first.number, first.last()), (1, 4));
    // Nothing lives any more.
    reader.remove_below(first.end()).unwrap();
    let wanted = mixed.kept(&[first], &[]);
    assert_eq!(mixed.found().unwrap(), wanted);
}

#[test]
fn cut_short_at_any_instant_it_leaves_the_old_files_or_the_new_one() {
    let starts = [(1, 100), (2, 20)];
    for instant in 0..5 {
        let mixed = Mixed::new();
        let segments = mixed.segments();
        let compacted = mixed.compact(0..3, &starts);
        let path = |n: usize| segments[n].path(mixed.log.path());
        match instant {
            0 => fs::write(&compacted.unnamed, b"half").unwrap(),
            1 => {}
            _ => compact::name(mixed.log.path(), &compacted).unwrap(),
        }
        if instant >= 3 {
            fs::remove_file(path(1)).unwrap();
        }
        if instant >= 4 {
            fs::remove_file(path(2)).unwrap();
        }
        let wanted = match instant {
            0 | 1 => mixed.all.iter().map(|(&name, (address, _))| (name, *address)).collect(),
            _ => mixed.kept(&segments[0..3], &starts),
        };
        for _ in 0..2 {
            assert_eq!(mixed.found().unwrap(), wanted, "instant {instant}");
        }
        assert!(!compacted.unnamed.exists());
        assert_eq!(path(1).exists(), instant < 2, "what it stands for is gone");
    }
}

#[test]
fn a_hub_that_ends_leaves_no_half_file() {
    let mixed = Mixed::new();
    let segments = mixed.segments();
    let (run, next) = (segments[0..2].to_vec(), segments[2]);
    let plan = Plan { wanted: mixed.wanted(&run, &[(1, 1)]), run, next, hurry: false };
    assert!(compact::compact(mixed.log.path(), plan, |_| false).unwrap().is_none());
    assert!(!mixed.log.path().join("00000001.new").exists());
}

#[test]
fn damage_in_a_compacted_file_is_refused() {
    let length = {
        let mixed = Mixed::new();
        mixed.compact(0..3, &[(1, 100), (2, 20)]).segment.stored()
    };
    // Header, head, the first record's header and payload, the table.
    for at in [0, 9, 13, 20, 33, 36, 44, 60, 70, 85, 4096, 4100, 4130, 4_200, length - 3] {
        let mixed = Mixed::new();
        let compacted = mixed.compact(0..3, &[(1, 100), (2, 20)]);
        compact::name(mixed.log.path(), &compacted).unwrap();
        compact::replace(mixed.log.path(), &compacted).unwrap();
        let path = compacted.segment.path(mixed.log.path());
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
        match mixed.found() {
            Err(HubError::Corrupt { file, .. } | HubError::Version { file, .. }) => {
                assert_eq!(file, path, "byte {at}");
            }
            other => panic!("byte {at}: not refused: {other:?}"),
        }
    }
}

#[test]
fn a_compacted_file_without_the_one_after_it_is_refused() {
    let mixed = Mixed::new();
    let mut reader = Reader::new(mixed.log.path().to_owned(), Arc::clone(&mixed.log.segments));
    let segments = mixed.segments();
    reader.install(mixed.compact(0..2, &[(1, 10)])).unwrap();
    for entry in fs::read_dir(mixed.log.path()).unwrap() {
        let path = entry.unwrap().path();
        let later = path.file_stem().is_some_and(|stem| stem > "00000001");
        if later && path.extension().is_some_and(|e| e == "seg") {
            fs::remove_file(path).unwrap();
        }
    }
    assert!(segments.len() > 3);
    assert!(matches!(mixed.found(), Err(HubError::Corrupt { .. })));
}

#[test]
fn the_layout_of_a_compacted_file_is_stored_for_ever() {
    let mixed = Mixed::new();
    let segments = mixed.segments();
    let compacted = mixed.compact(0..2, &[(2, 5)]);
    let bytes = fs::read(&compacted.unnamed).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(&bytes[..8], b"KARHUBWL");
    assert_eq!((word(8), word(12), long(16), long(24)), (2, 1, 0, 2 * SEGMENT));
    assert_eq!(word(32), crc32c::crc32c(&bytes[..32]));
    let next = super::super::recover::start(mixed.log.path(), segments[2]).unwrap().unwrap();
    assert_eq!((word(36), long(40), long(48)), (2, 0, next.previous_end));
    let (length, table, table_bytes) = (long(56), long(64) as usize, long(72) as usize);
    assert_eq!((length as usize, table + table_bytes), (bytes.len(), bytes.len()));
    assert_eq!(word(80), crc32c::crc32c(&bytes[table..]));
    assert_eq!(word(84), crc32c::crc32c(&bytes[36..84]));
    // Records as they were written, each with a stretch of its own in the table.
    let (address, text) = &mixed.all[&(2, 5)];
    let header = format::decode(&bytes[4096..], *address).unwrap();
    assert_eq!((header.log, header.offset), (2, 5));
    assert!(bytes[4096 + HEADER..].starts_with(text.as_bytes()));
    assert_eq!(long(table), *address);
    assert_eq!(u64::from(word(table + 8)) * 32, format::record_bytes(text.len()));
    fs::remove_file(&compacted.unnamed).unwrap();
}

#[test]
fn a_file_whose_beginning_was_cut_short_was_never_used() {
    // It announces three records that repeat what holds, and has fewer of them, or torn ones.
    for whole in 0..3 {
        let mut log = Log::new();
        log.add(5, 300);
        log.commit();
        let end = log.writer.roll(0);
        let start = wire::SegmentStart { previous_end: end, holding: 3, ..Default::default() };
        let meta = wire::Meta { meta: Some(wire::meta::Meta::SegmentStart(start)) };
        log.writer.append(0, 0, &meta.encode_to_vec());
        for _ in 1..whole {
            log.writer.append(0, 0, &meta.encode_to_vec());
        }
        let _unwritten = (whole > 0).then(|| log.write_torn(|_| true));
        let found = log.expect(5);
        assert_eq!((found.segments.len(), found.address), (1, end), "{whole} of 3");
    }
}
