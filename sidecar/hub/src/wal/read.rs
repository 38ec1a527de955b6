//! Reads records back from the files, each checked.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::format::{self, HEADER};
use super::segment::Segment;
use super::summary;
use crate::error::HubError;

/// Files kept open.
const OPEN_MAX: usize = 8;
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
    open: VecDeque<(Segment, File)>,
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
    pub(crate) fn trim(&mut self, address: u64) -> Result<(), HubError> {
        for segment in self.segments.below(address) {
            self.open.retain(|(open, _)| *open != segment);
            self.segments.remove(segment);
            summary::distrust(&self.dir, segment)?;
            let path = segment.path(&self.dir);
            std::fs::remove_file(&path).map_err(|e| HubError::io("remove", &path, e))?;
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
        let near = addresses
            .iter()
            .take_while(|&&a| a < segment.end() && a - address <= WINDOW)
            .last()
            .map_or(address, |&a| a);
        let end = (near + WINDOW_TAIL).min(segment.end());
        let bytes = self.bytes(segment, address, end - address)?;
        Ok(Window { address, bytes: Bytes::from(bytes) })
    }

    fn segment(&self, address: u64) -> Result<Segment, HubError> {
        self.segments.at(address).ok_or_else(|| {
            HubError::corrupt(&self.dir, address, "no log file contains this address")
        })
    }

    fn bytes(&mut self, segment: Segment, address: u64, length: u64) -> Result<Vec<u8>, HubError> {
        let at = match self.open.iter().position(|(open, _)| *open == segment) {
            Some(at) => at,
            None => {
                let file = segment.open(&self.dir, false)?;
                if self.open.len() >= OPEN_MAX {
                    self.open.pop_front();
                }
                self.open.push_back((segment, file));
                self.open.len() - 1
            }
        };
        let mut bytes = vec![0; length as usize];
        self.open[at]
            .1
            .read_exact_at(&mut bytes, address - segment.base)
            .map_err(|e| HubError::io("read", &segment.path(&self.dir), e))?;
        Ok(bytes)
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
