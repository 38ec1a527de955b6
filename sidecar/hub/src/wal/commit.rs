//! Writes batches and makes them durable.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::mark::MarkFile;
use super::read::Segments;
use super::segment::Segment;
use super::writer::{Batch, Chunk};
use crate::error::HubError;
use crate::options::Durability;

/// Part of a file after whose use the next one is made ahead: one over this.
const AHEAD: u64 = 4;

/// What the commit thread has.
pub(crate) struct Committer {
    dir: PathBuf,
    durability: Durability,
    mark: MarkFile,
    segments: Arc<Segments>,
    segment: Segment,
    file: File,
    segment_bytes: u64,
    /// A file that is made ahead: as it is expected, mostly.
    ahead: Option<(Segment, JoinHandle<Result<File, HubError>>)>,
    /// Is told of every file that is full.
    sealed: Box<dyn Fn(Segment) + Send>,
}

// === impl Committer ===

impl Committer {
    pub(crate) fn new(
        dir: &Path,
        durability: Durability,
        mark: MarkFile,
        segments: Arc<Segments>,
        segment: Segment,
        segment_bytes: u64,
        sealed: Box<dyn Fn(Segment) + Send>,
    ) -> Result<Self, HubError> {
        let file = segment.open(dir, true)?;
        let dir = dir.to_owned();
        Ok(Self {
            dir,
            durability,
            mark,
            segments,
            segment,
            file,
            segment_bytes,
            ahead: None,
            sealed,
        })
    }

    /// Writes a batch; when this returns it is durable. Returns how many times a file was synced for it. After an error
    /// nothing more may be written: what the failed write left behind is for the next start to judge.
    pub(crate) fn commit(&mut self, batch: &Batch) -> Result<u64, HubError> {
        let mut syncs = 0;
        for chunk in &batch.chunks {
            if chunk.segment != self.segment {
                self.begin(chunk.segment)?;
            }
            syncs += self.write(chunk)?;
        }
        let Some(last) = batch.chunks.last() else { return Ok(syncs) };
        let end = last.address + last.buffer.len() as u64;
        self.mark.set(end)?;
        self.prepare(end);
        Ok(syncs)
    }

    fn write(&self, chunk: &Chunk) -> Result<u64, HubError> {
        let written = self.file.write_all_at(&chunk.buffer, chunk.address - self.segment.base);
        written.map_err(|e| HubError::io("write", &self.segment.path(&self.dir), e))?;
        if self.durability == Durability::Os {
            return Ok(0);
        }
        let synced = self.file.sync_data();
        synced.map_err(|e| HubError::io("sync", &self.segment.path(&self.dir), e))?;
        Ok(1)
    }

    /// Goes over to the next file.
    fn begin(&mut self, segment: Segment) -> Result<(), HubError> {
        // Waited for in any case: it has the name that the file will have.
        let ahead = self.ahead.take().map(|(made, thread)| (made, thread.join()));
        self.file = match ahead {
            Some((made, Ok(Ok(file)))) if made == segment => file,
            Some((_, Ok(Err(error)))) => {
                tracing::warn!(%error, "the next log file could not be made ahead, trying again");
                segment.create(&self.dir)?
            }
            _ => segment.create(&self.dir)?,
        };
        let full = std::mem::replace(&mut self.segment, segment);
        self.segments.insert(segment);
        (self.sealed)(full);
        Ok(())
    }

    /// Has the next file made while this one still has room.
    fn prepare(&mut self, end: u64) {
        if self.ahead.is_some() || end - self.segment.base < self.segment.size / AHEAD {
            return;
        }
        let (dir, next) = (self.dir.clone(), self.segment.next(self.segment_bytes));
        let make = move || next.create(&dir);
        // If there is no thread to be had, the file is made when it is needed.
        let thread = std::thread::Builder::new().name("segment".into()).spawn(make).ok();
        self.ahead = thread.map(|thread| (next, thread));
    }

    /// Waits for the next file, if it is being made: nobody may be writing while a directory is read anew.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        while self.ahead.as_ref().is_some_and(|(_, thread)| !thread.is_finished()) {
            std::thread::yield_now();
        }
    }
}
