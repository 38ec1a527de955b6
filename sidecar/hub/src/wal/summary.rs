//! Summaries of full segment files: a start reads them instead of the files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kar_proto::hub::v1 as wire;
use prost::Message as _;

use super::format::ALIGN;
use super::recover::{self, Visit};
use super::segment::Segment;
use crate::error::HubError;

/// Gathers what a file contains.
pub(crate) struct Summary {
    segment: Segment,
    metas: Vec<bytes::Bytes>,
    runs: BTreeMap<u32, Run>,
}

struct Run {
    first: u64,
    last: u64,
    distances: Vec<u64>,
    lengths: Vec<u64>,
}

// === impl Summary ===

impl Summary {
    pub(crate) fn new(segment: Segment) -> Self {
        Self { segment, metas: Vec::new(), runs: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, visit: &Visit<'_>) {
        match *visit {
            Visit::Meta(payload) => self.metas.push(bytes::Bytes::copy_from_slice(payload)),
            Visit::Record { log, offset, address, bytes, .. } => {
                let last = self.segment.base;
                let new =
                    || Run { first: offset, last, distances: Vec::new(), lengths: Vec::new() };
                let run = self.runs.entry(log).or_insert_with(new);
                run.distances.push((address - run.last) / ALIGN);
                run.lengths.push(bytes / ALIGN);
                run.last = address;
            }
        }
    }

    /// The same, of a file that has got its length.
    pub(crate) fn of(self, segment: Segment) -> Self {
        Self { segment, ..self }
    }

    /// Writes the summary beside its file, which ends at `end`. It is not synced: a damaged one
    /// is noticed and made anew.
    pub(crate) fn write(self, dir: &Path, end: u64) -> Result<(), HubError> {
        let path = path(dir, self.segment);
        let runs = self.runs.into_iter().map(|(log, run)| wire::LogRun {
            log,
            first: run.first,
            distances: run.distances,
            lengths: run.lengths,
        });
        let index = wire::SegmentIndex {
            base: self.segment.base,
            end,
            modified_ns: modified(dir, self.segment)?,
            metas: self.metas,
            runs: runs.collect(),
        };
        let mut bytes = index.encode_to_vec();
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let unnamed = path.with_extension("sum-new");
        fs::write(&unnamed, &bytes)
            .and_then(|()| fs::rename(&unnamed, &path))
            .map_err(|e| HubError::io("write", &path, e))
    }
}

/// Summarises a full file.
pub(crate) fn summarise(dir: &Path, segment: Segment) -> Result<(), HubError> {
    let mut summary = Summary::new(segment);
    let end = recover::records_end(dir, segment, |visit| summary.add(visit))?;
    summary.write(dir, end)
}

/// Visits what a file contains as its summary tells, and returns the address at which its records
/// end; `None`: there is no summary of the file as it is now.
pub(crate) fn read(
    dir: &Path,
    segment: Segment,
    mut visit: impl FnMut(&Visit<'_>) -> Result<(), String>,
) -> Result<Option<u64>, HubError> {
    let Some(index) = load(&path(dir, segment)) else { return Ok(None) };
    if index.base != segment.base || index.modified_ns != modified(dir, segment)? {
        return Ok(None);
    }
    // An earlier version wrote no lengths.
    if index.runs.iter().any(|run| run.lengths.len() != run.distances.len()) {
        return Ok(None);
    }
    let mut visit = |what: &Visit<'_>| {
        visit(what).map_err(|what| HubError::corrupt(&segment.path(dir), 0, what))
    };
    // Names before records; what is purged within the file has no records then.
    for meta in &index.metas {
        visit(&Visit::Meta(meta))?;
    }
    for run in index.runs {
        let mut address = segment.base;
        let (log, places) = (run.log, run.distances.into_iter().zip(run.lengths));
        for (offset, (distance, length)) in (run.first..).zip(places) {
            address += distance * ALIGN;
            let bytes = length * ALIGN;
            visit(&Visit::Record { log, offset, address, bytes, payload: None })?;
        }
    }
    Ok(Some(index.end))
}

/// Removes a file's summary: the next start reads the file itself.
pub(crate) fn distrust(dir: &Path, segment: Segment) -> Result<(), HubError> {
    let path = path(dir, segment);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(HubError::io("remove", &path, e)),
        _ => Ok(()),
    }
}

fn load(path: &Path) -> Option<wire::SegmentIndex> {
    let bytes = fs::read(path).ok()?;
    let (body, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body).to_le_bytes() != *checksum {
        return None;
    }
    wire::SegmentIndex::decode(body).ok()
}

fn path(dir: &Path, segment: Segment) -> PathBuf {
    segment.path(dir).with_extension("sum")
}

fn modified(dir: &Path, segment: Segment) -> Result<u64, HubError> {
    let path = segment.path(dir);
    let found = fs::metadata(&path).map_err(|e| HubError::io("examine", &path, e))?;
    Ok(found.mtime() as u64 * 1_000_000_000 + found.mtime_nsec() as u64)
}
