//! What the next start makes of a log that was damaged in every kind of place.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kar_proto::hub::v1 as wire;
use prost::Message as _;

use super::commit::Committer;
use super::format::{self, HEADER};
use super::mark::MarkFile;
use super::read::{Reader, Segments};
use super::recover::{End, Visit, recover};
use super::segment::Segment;
use super::summary;
use super::writer::{Batch, Writer};
use crate::error::HubError;
use crate::options::Durability;

mod compact;

/// Bytes of the test's files; small, so that they are many.
const SEGMENT: u64 = 32 << 10;

/// A log being written.
struct Log {
    dir: tempfile::TempDir,
    writer: Writer,
    committer: Committer,
    segments: Arc<Segments>,
    offset: u64,
    /// Address, length and text of every record of log 1, in order.
    records: Vec<(u64, String)>,
}

/// What a start found: addresses of records.
type Found = Result<(Vec<u64>, Option<End>), HubError>;

impl Log {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let first = Segment::whole(1, 0, SEGMENT);
        first.create(dir.path()).unwrap();
        let segments = Arc::new(Segments::default());
        segments.insert(first);
        let (mark, _) = MarkFile::open(dir.path(), Durability::Fsync).unwrap();
        let committer = Committer::new(
            dir.path(),
            Durability::Fsync,
            mark,
            Arc::clone(&segments),
            first,
            SEGMENT,
            // Damage must be found in the files themselves.
            Box::new(|_| ()),
        );
        let writer = Writer::new(first, first.data(), SEGMENT);
        let committer = committer.unwrap();
        let mut log = Self { dir, writer, committer, segments, offset: 0, records: Vec::new() };
        log.start(0);
        log
    }

    fn start(&mut self, previous_end: u64) {
        let start = wire::SegmentStart { previous_end, holding: 1, ..Default::default() };
        let meta = wire::Meta { meta: Some(wire::meta::Meta::SegmentStart(start)) };
        self.writer.append(0, 0, &meta.encode_to_vec());
    }

    /// Adds records without committing them.
    fn add(&mut self, n: usize, length: usize) {
        for _ in 0..n {
            self.offset += 1;
            let text = format!("{:0length$}", self.offset);
            if !self.writer.fits(text.len()) {
                let end = self.writer.roll(0);
                self.start(end);
            }
            let address = self.writer.append(1, self.offset, text.as_bytes());
            self.records.push((address, text));
        }
    }

    fn commit(&mut self) {
        let batch = self.writer.take();
        self.committer.commit(&batch).unwrap();
        self.committer.settle();
    }

    /// Writes a part of a batch as the system might before a power cut: nothing is acknowledged.
    fn write_torn(&mut self, keep: impl Fn(usize) -> bool) -> Batch {
        let batch = self.writer.take();
        for (nth, chunk) in batch.chunks.iter().enumerate() {
            // A file's part is durable before the next file's part is begun.
            let whole = nth + 1 < batch.chunks.len();
            let path = chunk.segment.path(self.dir.path());
            if !path.exists() {
                chunk.segment.create(self.dir.path()).unwrap();
            }
            let file = OpenOptions::new().write(true).open(path).unwrap();
            let at = chunk.address - chunk.segment.base;
            for (n, sector) in chunk.buffer.chunks(512).enumerate() {
                if whole || keep(n) {
                    file.write_all_at(sector, at + (n * 512) as u64).unwrap();
                }
            }
        }
        batch
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// File and place in it of a record.
    fn place(&self, nth: usize) -> (PathBuf, u64) {
        let address = self.records[nth].0;
        let segment = Segment::whole((address / SEGMENT) as u32 + 1, 0, 0);
        (segment.path(self.path()), address % SEGMENT)
    }

    fn garble(&self, nth: usize, byte: u64) {
        let (path, at) = self.place(nth);
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut old = [0];
        file.read_exact_at(&mut old, at + byte).unwrap();
        file.write_all_at(&[old[0] ^ 0x55], at + byte).unwrap();
    }

    fn recover(&self) -> Found {
        let (_, mark) = MarkFile::open(self.path(), Durability::Fsync)?;
        let mut found = Vec::new();
        let end = recover(self.path(), mark, |what| {
            if let Visit::Record { log: 1, offset, address, .. } = *what {
                assert_eq!(offset, found.len() as u64 + 1);
                found.push(address);
            }
            Ok(())
        })?;
        Ok((found, end))
    }

    fn forget_mark(&self) {
        fs::remove_file(self.path().join("mark")).unwrap();
    }

    /// Everything there was must be found.
    fn expect(&self, records: usize) -> End {
        let (found, end) = self.recover().unwrap();
        let wanted: Vec<_> = self.records[..records].iter().map(|(a, _)| *a).collect();
        assert_eq!(found, wanted);
        end.unwrap()
    }

    /// The start must be refused, naming the record's place.
    fn expect_refused(&self, nth: usize) {
        let (path, place) = self.place(nth);
        let before = fs::read(&path).unwrap();
        match self.recover() {
            Err(HubError::Corrupt { file, at, what }) => {
                assert_eq!((file, at), (path.clone(), place), "{what}");
            }
            other => panic!("not refused: {other:?}"),
        }
        assert_eq!(fs::read(&path).unwrap(), before, "nothing was changed");
    }
}

#[test]
fn a_whole_log_is_found_over_many_files() {
    let mut log = Log::new();
    assert_eq!(log.recover().unwrap().0, Vec::<u64>::new());
    for n in 1..200 {
        log.add(n % 7 + 1, 10 + n * 13 % 900);
        log.commit();
    }
    let end = log.expect(log.records.len());
    assert!(end.segments.len() > 5, "{} files", end.segments.len());
    let mut reader = Reader::new(log.path().to_owned(), Arc::clone(&log.segments));
    let addresses: Vec<_> = log.records.iter().map(|(address, _)| *address).collect();
    let mut read = Vec::new();
    while read.len() < addresses.len() {
        let more = reader.read(1, read.len() as u64 + 1, &addresses[read.len()..], 4_000);
        read.extend(more.unwrap());
    }
    let texts: Vec<_> = log.records.iter().map(|(_, text)| text.as_bytes()).collect();
    assert_eq!(read, texts);
}

#[test]
fn full_files_are_summarised_and_the_summary_is_not_trusted_blindly() {
    let mut log = Log::new();
    while log.records.last().is_none_or(|(address, _)| *address < 3 * SEGMENT) {
        log.add(4, 900);
        log.commit();
    }
    log.expect(log.records.len());
    let summaries = |log: &Log| {
        let names = fs::read_dir(log.path()).unwrap().map(|e| e.unwrap().path());
        names.filter(|p| p.extension().is_some_and(|e| e == "sum")).collect::<Vec<_>>()
    };
    assert_eq!(summaries(&log).len(), 3, "of all but the last");
    // Damage keeps the time of the file here, so only a start without the summary sees it.
    let (path, at) = log.place(2);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"garbage", at + 100).unwrap();
    file.set_modified(modified).unwrap();
    log.expect(log.records.len());
    let mut reader = Reader::new(log.path().to_owned(), Arc::clone(&log.segments));
    let addresses = [log.records[2].0];
    assert!(matches!(reader.read(1, 3, &addresses, 1), Err(HubError::Corrupt { .. })));
    reader.distrust(&addresses);
    log.expect_refused(2);
    // A file that was changed since is read itself.
    let text = log.records[2].1.as_bytes()[68..75].to_vec();
    file.write_all_at(&text, at + 100).unwrap();
    log.expect(log.records.len());
    log.garble(3, 100);
    file.set_modified(modified + std::time::Duration::from_nanos(1)).unwrap();
    log.expect_refused(3);
    log.garble(3, 100);
    // A damaged summary is made anew.
    for summary in summaries(&log) {
        fs::write(&summary, b"garbage").unwrap();
    }
    log.expect(log.records.len());
    assert!(summaries(&log).iter().all(|path| fs::read(path).unwrap() != b"garbage"));
}

#[test]
fn a_start_removes_what_a_killed_hub_was_writing() {
    let mut log = Log::new();
    log.add(3, 100);
    log.commit();
    let leftovers = ["0000000007.sum-new", "0000000003.new"].map(|name| log.path().join(name));
    leftovers.iter().for_each(|path| fs::write(path, b"half of it").unwrap());
    log.expect(3);
    assert!(leftovers.iter().all(|path| !path.exists()));
}

#[test]
fn a_record_is_not_found_in_anothers_place() {
    let mut log = Log::new();
    log.add(3, 100);
    log.commit();
    let mut reader = Reader::new(log.path().to_owned(), Arc::clone(&log.segments));
    let second = [log.records[1].0];
    assert!(matches!(reader.read(1, 1, &second, 1), Err(HubError::Corrupt { .. })));
    assert!(matches!(reader.read(2, 2, &second, 1), Err(HubError::Corrupt { .. })));
    log.garble(1, HEADER as u64 + 50);
    assert!(matches!(reader.read(1, 2, &second, 1), Err(HubError::Corrupt { .. })));
}

#[test]
fn an_end_that_was_never_acknowledged_is_cut_off() {
    // Which sectors of the last batch reached the disk: none, one, a prefix, a suffix, holes.
    let patterns: [fn(usize) -> bool; 7] =
        [|_| false, |n| n == 0, |n| n < 3, |n| n > 0, |n| n > 4, |n| n % 2 == 0, |n| n % 3 == 2];
    for (nth, pattern) in patterns.into_iter().enumerate() {
        for with_mark in [true, false] {
            let mut log = Log::new();
            log.add(5, 300);
            log.commit();
            log.add(12, 700);
            log.write_torn(pattern);
            if !with_mark {
                log.forget_mark();
            }
            let (found, end) = log.recover().unwrap_or_else(|e| panic!("pattern {nth}: {e}"));
            let address = end.unwrap().address;
            assert!(found.len() >= 5, "pattern {nth}: what was acknowledged is there");
            let whole: Vec<_> = log.records[..found.len()].iter().map(|(a, _)| *a).collect();
            assert_eq!(found, whole);
            let file = fs::read(log.place(0).0).unwrap();
            assert!(file[address as usize..].iter().all(|&b| b == 0), "zeros after the end");
            assert_eq!(log.recover().unwrap().0, found, "the same again");
        }
    }
}

#[test]
fn an_unacknowledged_batch_over_the_end_of_a_file_is_cut_off() {
    let patterns: [fn(usize) -> bool; 4] = [|_| true, |n| n != 0, |n| n == 0, |n| n % 2 == 1];
    for pattern in patterns {
        let mut log = Log::new();
        while log.writer.fits(3_000) {
            log.add(1, 1_000);
            log.commit();
        }
        let committed = log.records.len();
        log.add(10, 1_000);
        log.write_torn(pattern);
        let (found, _) = log.recover().unwrap();
        assert!(found.len() >= committed);
        assert_eq!(log.recover().unwrap().0, found, "the same again");
    }
}

#[test]
fn a_file_made_ahead_and_never_used_is_no_harm() {
    let mut log = Log::new();
    log.add(5, 300);
    log.commit();
    let next = Segment::whole(2, SEGMENT, SEGMENT);
    next.create(log.path()).unwrap();
    fs::write(log.path().join("00000003.new"), b"half").unwrap();
    let end = log.expect(5);
    assert_eq!(end.segments.len(), 1);
    assert_eq!(fs::read_dir(log.path()).unwrap().count(), 2, "one file and the mark");
}

#[test]
fn damage_in_the_middle_is_refused() {
    // Of the record's header, payload, padding's neighbour; with the mark and without.
    for byte in [0, 4, 8, 12, 16, 24, 28, 32, 33, 331] {
        for with_mark in [true, false] {
            for victim in [0, 2, 4, 5, 8] {
                let mut log = Log::new();
                for _ in 0..3 {
                    log.add(3, 300);
                    log.commit();
                }
                log.add(1, 300);
                log.commit();
                log.garble(victim, byte);
                if !with_mark {
                    log.forget_mark();
                }
                log.expect_refused(victim);
            }
        }
    }
}

#[test]
fn damage_at_the_acknowledged_end_is_refused() {
    for byte in [0, 8, 40, 331] {
        let mut log = Log::new();
        for _ in 0..3 {
            log.add(3, 300);
            log.commit();
        }
        log.garble(8, byte);
        log.expect_refused(8);
    }
}

#[test]
fn zeros_where_acknowledged_records_were_are_refused() {
    for (victim, count) in [(8, 1), (6, 3), (4, 1), (2, 4)] {
        let mut log = Log::new();
        for _ in 0..3 {
            log.add(3, 300);
            log.commit();
        }
        let (path, at) = log.place(victim);
        let zeros = vec![0; format::record_bytes(300) as usize * count];
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(&zeros, at).unwrap();
        log.expect_refused(victim);
    }
}

#[test]
fn a_file_that_is_shorter_or_missing_is_refused() {
    let build = || {
        let mut log = Log::new();
        while log.records.last().is_none_or(|(address, _)| *address < 2 * SEGMENT) {
            log.add(4, 900);
            log.commit();
        }
        log
    };
    for number in 1..=3 {
        let log = build();
        let path = log.path().join(format!("{number:08}.seg"));
        OpenOptions::new().write(true).open(&path).unwrap().set_len(SEGMENT - 1).unwrap();
        let error = log.recover().unwrap_err();
        assert!(matches!(&error, HubError::Corrupt { file, .. } if *file == path), "{error}");
    }
    for number in 2..=3 {
        let log = build();
        fs::remove_file(log.path().join(format!("{number:08}.seg"))).unwrap();
        if number == 3 {
            // Perhaps there was one made ahead.
            let _ = fs::remove_file(log.path().join("00000004.seg"));
        }
        assert!(matches!(log.recover(), Err(HubError::Corrupt { .. })), "file {number}");
    }
    let log = build();
    for entry in fs::read_dir(log.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "seg") {
            fs::remove_file(path).unwrap();
        }
    }
    assert!(matches!(log.recover(), Err(HubError::Corrupt { .. })), "all files");
}

#[test]
fn the_end_of_a_full_file_is_checked_by_the_next() {
    let mut log = Log::new();
    while log.records.last().is_none_or(|(address, _)| *address < SEGMENT) {
        log.add(1, 900);
        log.commit();
    }
    log.forget_mark();
    let last = log.records.iter().rposition(|(address, _)| *address < SEGMENT).unwrap();
    let (path, at) = log.place(last);
    let zeros = vec![0; format::record_bytes(900) as usize];
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(&zeros, at).unwrap();
    log.expect_refused(last);
}

#[test]
fn other_files_are_refused() {
    for (at, byte) in [(0, b'X'), (13, 9), (20, 1), (33, 1)] {
        let mut log = Log::new();
        log.add(1, 10);
        log.commit();
        let path = log.path().join("00000001.seg");
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[byte], at).unwrap();
        assert!(matches!(log.recover(), Err(HubError::Corrupt { .. })), "byte {at}");
    }
}
