//! Compacted files: what still lives of one segment file or of several successive ones, byte for
//! byte as it was written, in a file of its own that takes their place.
//!
//! Addresses stay what they were. So nothing in memory changes when a file is compacted, a record
//! is checked as before (its checksum contains its address), and a kill at any instant leaves
//! either the old files or the new one. The hub's own records are not kept: a later file repeats
//! all that holds.
//!
//! ```text
//!   0  header as of every file, version 2
//!  36  number of the last file that this one stands for
//!  40  address at which the records of the file before the first of them end
//!  48  address at which the records of the last of them end
//!  56  length of this file
//!  64  where the table is
//!  72  length of the table
//!  80  checksum of the table
//!  84  checksum of bytes 36..84
//! DATA  records
//!   …  the table: of each stretch of records without a gap, its address (8 bytes) and its length
//!      in units of ALIGN (4 bytes)
//! ```
//! All little-endian. The header is written last, and the file gets its name when all of it is on
//! disk.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::format::{self, ALIGN};
use super::index::{LogIndex, Place};
use super::recover::{self, Raw, Visit};
use super::segment::{DATA, FILE_HEADER, Kind, Segment};
use super::summary::{self, Summary};
use crate::error::HubError;

/// Bytes of the part of the header that only compacted files have.
const HEAD: usize = 52;
/// Bytes of an entry of the table.
const ENTRY: usize = 12;
/// Records are written when so many bytes have gathered, bytes.
const PIECE: usize = 256 << 10;
/// Bytes written between two syncs: commits should not wait behind more.
const SYNC_EVERY: u64 = 1 << 20;

/// What is to be compacted.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Successive files that are full and durable.
    pub(crate) run: Vec<Segment>,
    /// The file after them, whose beginning is durable.
    pub(crate) next: Segment,
    /// Where what lives in them is, by ascending addresses.
    pub(crate) wanted: Vec<Place>,
    /// The disk holds far more than it should: no holding back.
    pub(crate) hurry: bool,
}

/// A plan being made. What lives is gathered in pieces, so that nobody waits long for the lock meanwhile.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) run: Vec<Segment>,
    pub(crate) next: Segment,
    pub(crate) hurry: bool,
    /// What was gathered, log by log.
    wanted: Vec<Place>,
    /// The log that is next …
    log: u32,
    /// … and the address in it.
    from: u64,
}

/// Records gathered at a time.
const GATHERED_MAX: usize = 4_096;
/// Logs looked at at a time.
const LOOKED_AT_MAX: u32 = 1_024;

// === impl Draft ===

impl Draft {
    pub(crate) fn new(run: Vec<Segment>, next: Segment, hurry: bool) -> Self {
        let from = run[0].base;
        Self { run, next, hurry, wanted: Vec::new(), log: 0, from }
    }

    /// Gathers some more from the logs below a number, as `index` finds them; true: that is all. What dies meanwhile is
    /// copied for nothing, no more; new records go to other files.
    pub(crate) fn gather<'a>(
        &mut self,
        logs: u32,
        index: impl Fn(u32) -> Option<&'a LogIndex>,
    ) -> bool {
        let enough = self.wanted.len() + GATHERED_MAX;
        let last = logs.min(self.log.saturating_add(LOOKED_AT_MAX));
        while self.log < last {
            if let Some(index) = index(self.log) {
                for place in index.places_in(self.from, self.next.base) {
                    if self.wanted.len() == enough {
                        self.from = place.address;
                        return false;
                    }
                    self.wanted.push(place);
                }
            }
            self.log += 1;
            self.from = self.run[0].base;
        }
        self.log >= logs
    }

    pub(crate) fn plan(mut self) -> Plan {
        self.wanted.sort_unstable_by_key(|place| place.address);
        Plan { run: self.run, next: self.next, wanted: self.wanted, hurry: self.hurry }
    }
}

/// A compacted file that is whole and has no name yet.
pub(crate) struct Compacted {
    pub(crate) unnamed: PathBuf,
    pub(crate) segment: Segment,
    /// The files whose place it takes.
    pub(crate) run: Vec<Segment>,
    pub(crate) summary: Summary,
    /// Address at which the records end.
    pub(crate) end: u64,
    /// Bytes of records copied.
    pub(crate) copied: u64,
}

/// What only the headers of compacted files say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub(crate) last: u32,
    pub(crate) previous_end: u64,
    pub(crate) end: u64,
    pub(crate) bytes: u64,
    table: u64,
    table_bytes: u64,
    table_crc: u32,
}

/// A stretch of records without a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    /// Where it is in the file.
    pub(crate) position: u64,
}

/// Reads the head of a compacted file.
pub(crate) fn head(file: &File, path: &Path) -> Result<Head, HubError> {
    let mut bytes = [0; HEAD];
    file.read_exact_at(&mut bytes, FILE_HEADER as u64)
        .map_err(|e| HubError::io("read", path, e))?;
    let word = |at: usize| {
        let bytes: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes)
    };
    let long = |at: usize| u64::from(word(at)) | (u64::from(word(at + 4)) << 32);
    if word(HEAD - 4) != crc32c::crc32c(&bytes[..HEAD - 4]) {
        let what = "its head does not have its checksum";
        return Err(HubError::corrupt(path, FILE_HEADER as u64, what));
    }
    Ok(Head {
        last: word(0),
        previous_end: long(4),
        end: long(12),
        bytes: long(20),
        table: long(28),
        table_bytes: long(36),
        table_crc: word(44),
    })
}

/// Reads the table of a compacted file.
pub(crate) fn table(file: &File, path: &Path) -> Result<Vec<Extent>, HubError> {
    let head = head(file, path)?;
    let mut bytes = vec![0; usize::try_from(head.table_bytes).unwrap_or(0)];
    file.read_exact_at(&mut bytes, head.table).map_err(|e| HubError::io("read", path, e))?;
    if crc32c::crc32c(&bytes) != head.table_crc {
        return Err(HubError::corrupt(path, head.table, "its table does not have its checksum"));
    }
    let mut position = DATA;
    let entries = bytes.chunks_exact(ENTRY).map(|entry| {
        let (address, units) = entry.split_at(8);
        let address = u64::from_le_bytes(address.try_into().expect("eight bytes"));
        let units = u32::from_le_bytes(units.try_into().expect("four bytes"));
        let extent = Extent { address, bytes: u64::from(units) * ALIGN, position };
        position += extent.bytes;
        extent
    });
    Ok(entries.collect())
}

/// The stretch that a record at this address is in.
pub(crate) fn find(table: &[Extent], address: u64) -> Option<Extent> {
    let after = table.partition_point(|extent| extent.address <= address);
    let extent = table[..after].last().copied()?;
    (address < extent.address + extent.bytes).then_some(extent)
}

/// Writes a compacted file. `spend` is told of bytes read and written, and holds up whoever is too
/// fast; when it says false the hub ends, and there is no file.
pub(crate) fn compact(
    dir: &Path,
    plan: Plan,
    mut spend: impl FnMut(u64) -> bool,
) -> Result<Option<Compacted>, HubError> {
    let first = plan.run[0];
    let unnamed = first.path(dir).with_extension("new");
    let written = write(dir, &plan, &unnamed, &mut spend);
    if !matches!(written, Ok(Some(_))) {
        // What was made of it takes the space that may be missing.
        let _ = fs::remove_file(&unnamed);
    }
    Ok(written?.map(|(segment, summary, end, copied)| Compacted {
        unnamed,
        segment,
        run: plan.run,
        summary,
        end,
        copied,
    }))
}

type Written = (Segment, Summary, u64, u64);

fn write(
    dir: &Path,
    plan: &Plan,
    unnamed: &Path,
    spend: &mut impl FnMut(u64) -> bool,
) -> Result<Option<Written>, HubError> {
    let (first, last) = (plan.run[0], plan.run[plan.run.len() - 1]);
    let missing = |segment: Segment| {
        HubError::corrupt(&segment.path(dir), DATA, "it does not begin as a log file does")
    };
    let previous_end = recover::start(dir, first)?.ok_or_else(|| missing(first))?.previous_end;
    let end = recover::start(dir, plan.next)?.ok_or_else(|| missing(plan.next))?.previous_end;
    let mut segment = Segment {
        number: first.number,
        base: first.base,
        size: last.end() - first.base,
        kind: Kind::Compacted { last: last.last(), bytes: 0 },
    };
    let mut out = Out::new(unnamed)?;
    let mut summary = Summary::new(segment);
    for &source in &plan.run {
        let begin = plan.wanted.partition_point(|place| place.address < source.base);
        let end = plan.wanted.partition_point(|place| place.address < source.end());
        if !copy(dir, source, &plan.wanted[begin..end], &mut out, &mut summary, spend)? {
            return Ok(None);
        }
    }
    let copied = out.position + out.buffer.len() as u64 - DATA;
    let bytes = out.finish(&mut segment, previous_end, end)?;
    segment.kind = Kind::Compacted { last: last.last(), bytes };
    Ok(Some((segment, summary.of(segment), end, copied)))
}

/// Copies records of a file; false: the hub ends.
fn copy(
    dir: &Path,
    source: Segment,
    wanted: &[Place],
    out: &mut Out<'_>,
    summary: &mut Summary,
    spend: &mut impl FnMut(u64) -> bool,
) -> Result<bool, HubError> {
    if wanted.is_empty() {
        return Ok(true);
    }
    let path = source.path(dir);
    let file = source.open(dir, false)?;
    let table = if source.is_compacted() { table(&file, &path)? } else { Vec::new() };
    let mut buffer = Vec::new();
    let mut unspent = 0;
    for &Place { address, bytes } in wanted {
        let position = match find(&table, address) {
            Some(extent) => extent.position + (address - extent.address),
            None => address - source.base,
        };
        let damaged = |what| HubError::corrupt(&path, position, what);
        buffer.resize(bytes as usize, 0);
        file.read_exact_at(&mut buffer, position).map_err(|e| HubError::io("read", &path, e))?;
        let header = format::decode(&buffer, address)
            .ok_or_else(|| damaged("a record's header does not have its checksum"))?;
        let payload = buffer.get(format::HEADER..format::HEADER + header.length as usize);
        let payload = payload.filter(|payload| crc32c::crc32c(payload) == header.payload_crc);
        let payload = payload.ok_or_else(|| damaged("a record does not have its checksum"))?;
        out.record(&Raw { header, address, payload })?;
        let (log, offset) = (header.log, header.offset);
        summary.add(&Visit::Record { log, offset, address, bytes, payload: None });
        unspent += 2 * bytes;
        if unspent >= PIECE as u64 && !spend(std::mem::take(&mut unspent)) {
            return Ok(false);
        }
    }
    Ok(spend(unspent))
}

/// A compacted file being written.
struct Out<'a> {
    file: File,
    path: &'a Path,
    buffer: Vec<u8>,
    /// Where the buffer goes.
    position: u64,
    unsynced: u64,
    table: Vec<Extent>,
}

// === impl Out ===

impl<'a> Out<'a> {
    fn new(path: &'a Path) -> Result<Self, HubError> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| HubError::io("make", path, e))?;
        let buffer = Vec::with_capacity(PIECE);
        Ok(Self { file, path, buffer, position: DATA, unsynced: 0, table: Vec::new() })
    }

    fn record(&mut self, raw: &Raw<'_>) -> Result<(), HubError> {
        let header = raw.header;
        let position = self.position + self.buffer.len() as u64;
        let (address, batch) = (raw.address, header.batch);
        format::encode(&mut self.buffer, address, batch, header.log, header.offset, raw.payload);
        let bytes = format::record_bytes(raw.payload.len());
        match self.table.last_mut() {
            Some(extent) if extent.address + extent.bytes == address => extent.bytes += bytes,
            _ => self.table.push(Extent { address, bytes, position }),
        }
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), HubError> {
        let written = self.file.write_all_at(&self.buffer, self.position);
        written.map_err(|e| HubError::io("write", self.path, e))?;
        self.position += self.buffer.len() as u64;
        self.unsynced += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(PIECE);
        if self.unsynced >= SYNC_EVERY {
            self.unsynced = 0;
            self.file.sync_data().map_err(|e| HubError::io("sync", self.path, e))?;
        }
        Ok(())
    }

    /// Writes the table and the header, and makes all of it durable; returns the file's length.
    fn finish(
        mut self,
        segment: &mut Segment,
        previous_end: u64,
        end: u64,
    ) -> Result<u64, HubError> {
        self.flush()?;
        let (table, mut table_bytes) = (self.position, Vec::new());
        for extent in &self.table {
            table_bytes.extend_from_slice(&extent.address.to_le_bytes());
            let units = u32::try_from(extent.bytes / ALIGN).expect("less than the files it is of");
            table_bytes.extend_from_slice(&units.to_le_bytes());
        }
        let bytes = table + table_bytes.len() as u64;
        let mut header = segment.encode().to_vec();
        header.extend_from_slice(&segment.last().to_le_bytes());
        for number in [previous_end, end, bytes, table, table_bytes.len() as u64] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        header.extend_from_slice(&crc32c::crc32c(&table_bytes).to_le_bytes());
        let checksum = crc32c::crc32c(&header[FILE_HEADER..]);
        header.extend_from_slice(&checksum.to_le_bytes());
        self.file
            .set_len(bytes)
            .and_then(|()| self.file.write_all_at(&table_bytes, table))
            .and_then(|()| self.file.write_all_at(&header, 0))
            .and_then(|()| self.file.sync_all())
            .map_err(|e| HubError::io("write", self.path, e))?;
        Ok(bytes)
    }
}

/// Gives a compacted file its name, which is that of the first of those that it stands for; from
/// then on it counts. Cut short at any instant, the next start finds either them or it, perhaps
/// with some of them, which it removes.
pub(crate) fn name(dir: &Path, compacted: &Compacted) -> Result<(), HubError> {
    let path = compacted.segment.path(dir);
    summary::distrust(dir, compacted.run[0])?;
    fs::rename(&compacted.unnamed, &path).map_err(|e| HubError::io("name", &path, e))
}

/// Removes the other files that a compacted one stands for, once its name is on disk.
pub(crate) fn replace(dir: &Path, compacted: &Compacted) -> Result<(), HubError> {
    let synced = File::open(dir).and_then(|file| file.sync_all());
    synced.map_err(|e| HubError::io("sync", dir, e))?;
    compacted.run[1..].iter().try_for_each(|&replaced| super::segment::remove(dir, replaced))
}
