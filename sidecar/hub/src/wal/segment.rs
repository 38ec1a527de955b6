//! Segment files: made whole before they are used, named by number. What becomes of one when most of
//! its records are trimmed is in `compact`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::compact::{self, Head};
use crate::error::HubError;

/// Where the records of a file begin, bytes.
pub(crate) const DATA: u64 = 4096;
/// Bytes of zeros written at once.
const ZEROS: usize = 256 << 10;
/// Bytes of zeros synced at once: a file is made while another one is written and synced, whose
/// commits should not wait behind the whole of it.
const SYNC_EVERY: u64 = 2 << 20;
const MAGIC: &[u8; 8] = b"KARHUBWL";
/// Version of a file that is as it was written.
const WHOLE: u32 = 1;
/// Version of a compacted file.
const COMPACTED: u32 = 2;
/// Bytes of a file's header.
pub(super) const FILE_HEADER: usize = 36;

/// What a segment file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    pub(crate) number: u32,
    /// Address of its first byte.
    pub(crate) base: u64,
    /// How many addresses it covers; its length, unless it is compacted.
    pub(crate) size: u64,
    pub(crate) kind: Kind,
}

/// What is in a segment file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Everything as it was written.
    Whole,
    /// What lived, when it was made, of one file or of several successive ones.
    Compacted {
        /// Number of the last of them.
        last: u32,
        /// Length of the file.
        bytes: u64,
    },
}

// === impl Segment ===

impl Segment {
    pub(crate) fn whole(number: u32, base: u64, size: u64) -> Self {
        Self { number, base, size, kind: Kind::Whole }
    }

    pub(crate) fn is_compacted(&self) -> bool {
        matches!(self.kind, Kind::Compacted { .. })
    }

    /// Number of the last file that it stands for.
    pub(crate) fn last(&self) -> u32 {
        match self.kind {
            Kind::Whole => self.number,
            Kind::Compacted { last, .. } => last,
        }
    }

    /// Length of the file.
    pub(crate) fn stored(&self) -> u64 {
        match self.kind {
            Kind::Whole => self.size,
            Kind::Compacted { bytes, .. } => bytes,
        }
    }

    /// Address at which its first record is.
    pub(crate) fn data(&self) -> u64 {
        self.base + DATA
    }

    /// Address after it.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.size
    }

    pub(crate) fn next(&self, size: u64) -> Self {
        Self::whole(self.last() + 1, self.end(), size)
    }

    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{:08}.seg", self.number))
    }

    /// Makes the file: header, zeros up to its size, all of it on disk before it has its name.
    pub(crate) fn create(&self, dir: &Path) -> Result<File, HubError> {
        let path = self.path(dir);
        let unnamed = path.with_extension("new");
        let make = || -> io::Result<File> {
            let file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .mode(0o600)
                .open(&unnamed)?;
            let zeros = vec![0_u8; ZEROS];
            let mut at = 0;
            while at < self.size {
                let length = (self.size - at).min(ZEROS as u64);
                file.write_all_at(&zeros[..length as usize], at)?;
                at += length;
                if at.is_multiple_of(SYNC_EVERY) {
                    file.sync_data()?;
                }
            }
            file.write_all_at(&self.encode(), 0)?;
            file.sync_all()?;
            fs::rename(&unnamed, &path)?;
            File::open(dir)?.sync_all()?;
            Ok(file)
        };
        make().map_err(|source| {
            // What was made of it takes the space that is missing.
            let _ = fs::remove_file(&unnamed);
            HubError::io("make", &path, source)
        })
    }

    /// Opens the file for reading, and for writing if asked.
    pub(crate) fn open(&self, dir: &Path, write: bool) -> Result<File, HubError> {
        let path = self.path(dir);
        OpenOptions::new()
            .read(true)
            .write(write)
            .open(&path)
            .map_err(|source| HubError::io("open", &path, source))
    }

    pub(super) fn encode(&self) -> [u8; FILE_HEADER] {
        let mut header = [0; FILE_HEADER];
        let version = if self.is_compacted() { COMPACTED } else { WHOLE };
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&version.to_le_bytes());
        header[12..16].copy_from_slice(&self.number.to_le_bytes());
        header[16..24].copy_from_slice(&self.base.to_le_bytes());
        header[24..32].copy_from_slice(&self.size.to_le_bytes());
        let checksum = crc32c::crc32c(&header[..32]);
        header[32..].copy_from_slice(&checksum.to_le_bytes());
        header
    }

    fn decode(path: &Path, header: &[u8; FILE_HEADER]) -> Result<Self, HubError> {
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) | (u64::from(word(at + 4)) << 32);
        if &header[..8] != MAGIC {
            return Err(HubError::corrupt(path, 0, "it does not begin as a log file of the hub"));
        }
        if word(8) > COMPACTED {
            return Err(HubError::Version { file: path.to_owned(), found: word(8) });
        }
        if word(32) != crc32c::crc32c(&header[..32]) {
            return Err(HubError::corrupt(path, 0, "its header does not have its checksum"));
        }
        let mut segment = Self::whole(word(12), long(16), long(24));
        if word(8) == COMPACTED {
            // What its own head says is filled in by whoever has read it.
            segment.kind = Kind::Compacted { last: segment.number, bytes: 0 };
        }
        Ok(segment)
    }
}

/// Removes what a killed hub was writing: compacted files, files made ahead, summaries. Nobody may be writing now.
pub(crate) fn remove_unfinished(dir: &Path) -> Result<(), HubError> {
    let failed = |source| HubError::io("list", dir, source);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|e| e == "new" || e == "sum-new") {
            fs::remove_file(&path).map_err(|e| HubError::io("remove", &path, e))?;
        }
    }
    Ok(())
}

/// The segment files of a directory, in order.
pub(crate) fn list(dir: &Path) -> Result<Vec<Segment>, HubError> {
    let failed = |source| HubError::io("list", dir, source);
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|e| e == "seg") {
            segments.push(examine(&path)?);
        }
    }
    segments.sort_by_key(|s| s.number);
    let segments = without_leftovers(dir, segments)?;
    for pair in segments.windows(2) {
        if pair[0].last() + 1 != pair[1].number || pair[0].end() != pair[1].base {
            let what = "the log file before this one is missing";
            return Err(HubError::corrupt(&pair[1].path(dir), 0, what));
        }
    }
    Ok(segments)
}

/// Removes files that a compacted one stands for: the hub was killed before it had done so.
fn without_leftovers(dir: &Path, segments: Vec<Segment>) -> Result<Vec<Segment>, HubError> {
    let mut kept: Vec<Segment> = Vec::with_capacity(segments.len());
    for segment in segments {
        match kept.last() {
            Some(before) if segment.number <= before.last() => remove(dir, segment)?,
            _ => kept.push(segment),
        }
    }
    Ok(kept)
}

/// Removes a file with its summary.
pub(crate) fn remove(dir: &Path, segment: Segment) -> Result<(), HubError> {
    super::summary::distrust(dir, segment)?;
    let path = segment.path(dir);
    fs::remove_file(&path).map_err(|e| HubError::io("remove", &path, e))
}

fn examine(path: &Path) -> Result<Segment, HubError> {
    let failed = |source| HubError::io("read", path, source);
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut header = [0; FILE_HEADER];
    if length < DATA {
        return Err(HubError::corrupt(path, length, "it is shorter than its own header"));
    }
    file.read_exact_at(&mut header, 0).map_err(failed)?;
    let mut segment = Segment::decode(path, &header)?;
    if segment.path(path.parent().unwrap_or(path)) != path {
        return Err(HubError::corrupt(path, 12, "it was another file once"));
    }
    if segment.is_compacted() {
        let Head { last, bytes, .. } = compact::head(&file, path)?;
        segment.kind = Kind::Compacted { last, bytes };
    }
    let stored = segment.stored();
    if length != stored {
        let what = format!("it should have {stored} bytes and has {length}");
        return Err(HubError::corrupt(path, length.min(stored), what));
    }
    Ok(segment)
}
