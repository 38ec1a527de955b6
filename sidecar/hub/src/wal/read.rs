//! Reads records back from the files, each checked.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::compact::{self, Compacted, Extent};
use super::format::{self, HEADER};
use super::segment::{self, Segment};
use super::summary;
use crate::error::HubError;

/// Files kept open.
const OPEN_MAX: usize = 8;
/// Compacted files kept open, each with its table: 12 bytes on disk and 24 in memory for each record
/// that lies by itself.
const TABLES_MAX: usize = 2;
/// Records that lie within so many bytes are read at once.
const WINDOW: u64 = 64 << 10;
/// What is read beyond the beginning of the last record of a window, bytes.
const WINDOW_TAIL: u64 = 4 << 10;

/// The files that there are, by base address.
#[derive(Default)]
pub(crate) struct Segments(Mutex<BTreeMap<u64, Segment>>);

/// Reads records; keeps some files open.
pub(crate) struct Reader {
    dir: PathBuf,
    segments: Arc<Segments>,
    open: VecDeque<Open>,
}

struct Open {
    segment: Segment,
    file: File,
    /// Of a compacted file.
    table: Vec<Extent>,
}

/// A piece of a file in memory.
struct Window {
    address: u64,
    bytes: Bytes,
}

// === impl Segments ===

impl Segments {
    pub(crate) fn insert(&self, segment: Segment) {
        self.0.lock().expect("no holder of this lock panics").insert(segment.base, segment);
    }

    /// Files that end at or before an address, oldest first.
    fn below(&self, address: u64) -> Vec<Segment> {
        let segments = self.0.lock().expect("no holder of this lock panics");
        segments.values().copied().take_while(|segment| segment.end() <= address).collect()
    }

    fn remove(&self, segment: Segment) {
        self.0.lock().expect("no holder of this lock panics").remove(&segment.base);
    }

    /// Files that begin at or after an address and are as they were written, oldest first.
    pub(crate) fn whole_from(&self, address: u64) -> Vec<Segment> {
        let segments = self.0.lock().expect("no holder of this lock panics");
        segments.range(address..).map(|(_, &s)| s).filter(|s| !s.is_compacted()).collect()
    }

    /// Puts a compacted file in the place of those that it stands for.
    fn replace(&self, run: &[Segment], by: Segment) {
        let mut segments = self.0.lock().expect("no holder of this lock panics");
        for segment in run {
            segments.remove(&segment.base);
        }
        segments.insert(by.base, by);
    }

    /// The file that an address lies in.
    pub(crate) fn at(&self, address: u64) -> Option<Segment> {
        let segments = self.0.lock().expect("no holder of this lock panics");
        let (_, &segment) = segments.range(..=address).next_back()?;
        (address < segment.end()).then_some(segment)
    }
}

// === impl Reader ===

impl Reader {
    pub(crate) fn new(dir: PathBuf, segments: Arc<Segments>) -> Self {
        Self { dir, segments, open: VecDeque::new() }
    }

    /// Payloads of successive records of one log, the first of which has offset `first`; at least
    /// one, and no more than `bytes_max` bytes but for the last.
    pub(crate) fn read(
        &mut self,
        log: u32,
        first: u64,
        addresses: &[u64],
        bytes_max: usize,
    ) -> Result<Vec<Bytes>, HubError> {
        let mut found = Vec::with_capacity(addresses.len());
        let mut bytes = 0;
        let mut window: Option<Window> = None;
        for (at, &address) in addresses.iter().enumerate() {
            if window.as_ref().and_then(|w| w.slice(address, HEADER)).is_none() {
                window = Some(self.window(&addresses[at..])?);
            }
            let current = window.as_ref().expect("it was just read");
            let payload = self.record(current, address, log, first + at as u64)?;
            bytes += payload.len();
            found.push(payload);
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(found)
    }

    /// Removes the summaries of the files that these addresses lie in.
    pub(crate) fn distrust(&self, addresses: &[u64]) {
        for segment in addresses.iter().filter_map(|&address| self.segments.at(address)) {
            if let Err(error) = summary::distrust(&self.dir, segment) {
                tracing::warn!(%error, "the summary of a damaged file stays");
            }
        }
    }

    /// Removes the files that hold nothing from `address` on, oldest first, so that those that
    /// remain have no gap between them whenever this is cut short.
    pub(crate) fn remove_below(&mut self, address: u64) -> Result<(), HubError> {
        for segment in self.segments.below(address) {
            self.open.retain(|open| open.segment != segment);
            self.segments.remove(segment);
            segment::remove(&self.dir, segment)?;
        }
        Ok(())
    }

    /// Puts a compacted file in the place of those that it stands for. Here, since nothing is read
    /// meanwhile: readers find files by their names.
    pub(crate) fn install(&mut self, compacted: Compacted) -> Result<(), HubError> {
        self.open.retain(|open| !compacted.run.contains(&open.segment));
        compact::name(&self.dir, &compacted)?;
        self.segments.replace(&compacted.run, compacted.segment);
        if let Err(error) = compact::replace(&self.dir, &compacted) {
            // The next start removes them.
            tracing::warn!(%error, "files that were compacted stay for now");
        }
        if let Err(error) = compacted.summary.write(&self.dir, compacted.end) {
            // Without a summary the next start takes longer, that is all.
            tracing::warn!(%error, "a compacted file could not be summarised");
        }
        Ok(())
    }

    fn record(
        &mut self,
        window: &Window,
        address: u64,
        log: u32,
        offset: u64,
    ) -> Result<Bytes, HubError> {
        let segment = self.segment(address)?;
        let path = segment.path(&self.dir);
        let bad = |what: &str| {
            let what = format!("{what} (log {log}, offset {offset})");
            HubError::corrupt(&path, address - segment.base, what)
        };
        let header = window
            .slice(address, HEADER)
            .and_then(|bytes| format::decode(&bytes, address))
            .ok_or_else(|| bad("a record's header does not have its checksum"))?;
        if (header.log, header.offset) != (log, offset) {
            return Err(bad("another record is in its place"));
        }
        let length = header.length as usize;
        if address + (HEADER + length) as u64 > segment.end() {
            return Err(bad("a record goes beyond its file"));
        }
        let payload = match window.slice(address + HEADER as u64, length) {
            Some(payload) => payload,
            None => {
                let payload = self.bytes(segment, address + HEADER as u64, length as u64)?;
                Bytes::from(payload)
            }
        };
        if crc32c::crc32c(&payload) != header.payload_crc {
            return Err(bad("a record does not have its checksum"));
        }
        Ok(payload)
    }

    /// Reads the first of these records and those that lie near behind it.
    fn window(&mut self, addresses: &[u64]) -> Result<Window, HubError> {
        let address = addresses[0];
        let segment = self.segment(address)?;
        let stretch_end = self.stretch(segment, address)?.1;
        let near = addresses
            .iter()
            .take_while(|&&a| a < stretch_end && a - address <= WINDOW)
            .last()
            .map_or(address, |&a| a);
        let end = (near + WINDOW_TAIL).min(stretch_end);
        let bytes = self.bytes(segment, address, end - address)?;
        Ok(Window { address, bytes: Bytes::from(bytes) })
    }

    fn segment(&self, address: u64) -> Result<Segment, HubError> {
        self.segments.at(address).ok_or_else(|| {
            HubError::corrupt(&self.dir, address, "no log file contains this address")
        })
    }

    /// Where in its file an address is, and the address up to which what follows lies behind it.
    fn stretch(&mut self, segment: Segment, address: u64) -> Result<(u64, u64), HubError> {
        if !segment.is_compacted() {
            return Ok((address - segment.base, segment.end()));
        }
        let open = self.open(segment)?;
        let extent = compact::find(&open.table, address).ok_or_else(|| {
            let what = format!("a record that is wanted was not kept (address {address})");
            HubError::corrupt(&segment.path(&self.dir), 0, what)
        })?;
        Ok((extent.position + (address - extent.address), extent.address + extent.bytes))
    }

    fn bytes(&mut self, segment: Segment, address: u64, length: u64) -> Result<Vec<u8>, HubError> {
        let (at, end) = self.stretch(segment, address)?;
        if address + length > end {
            let what = "a record goes beyond what was kept of its file";
            return Err(HubError::corrupt(&segment.path(&self.dir), at, what));
        }
        let path = segment.path(&self.dir);
        let mut bytes = vec![0; length as usize];
        let read = self.open(segment)?.file.read_exact_at(&mut bytes, at);
        read.map_err(|e| HubError::io("read", &path, e))?;
        Ok(bytes)
    }

    fn open(&mut self, segment: Segment) -> Result<&Open, HubError> {
        let at = match self.open.iter().position(|open| open.segment == segment) {
            Some(at) => at,
            None => {
                let file = segment.open(&self.dir, false)?;
                let table = match segment.is_compacted() {
                    true => compact::table(&file, &segment.path(&self.dir))?,
                    false => Vec::new(),
                };
                self.make_room(segment);
                self.open.push_back(Open { segment, file, table });
                self.open.len() - 1
            }
        };
        Ok(&self.open[at])
    }

    fn make_room(&mut self, segment: Segment) {
        let tables = self.open.iter().filter(|open| open.segment.is_compacted()).count();
        if segment.is_compacted() && tables >= TABLES_MAX {
            let oldest = self.open.iter().position(|open| open.segment.is_compacted());
            oldest.and_then(|at| self.open.remove(at));
        }
        if self.open.len() >= OPEN_MAX {
            self.open.pop_front();
        }
    }
}

// === impl Window ===

impl Window {
    fn slice(&self, address: u64, length: usize) -> Option<Bytes> {
        let from = usize::try_from(address.checked_sub(self.address)?).ok()?;
        let to = from.checked_add(length)?;
        (to <= self.bytes.len()).then(|| self.bytes.slice(from..to))
    }
}
