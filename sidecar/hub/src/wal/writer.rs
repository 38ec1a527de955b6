//! Gives records their addresses and gathers them into batches. Memory only.

use super::format;
use super::segment::{DATA, Segment};

/// A buffer that grew larger is not kept for the next batch, bytes.
const SPARE_MAX: usize = 256 << 10;

/// Where the log ends, and what is to be written there next.
pub(crate) struct Writer {
    segment: Segment,
    segment_bytes: u64,
    /// Address of the next record.
    tail: u64,
    pending: Batch,
    spare: Vec<u8>,
}

/// What one commit writes.
#[derive(Default)]
pub(crate) struct Batch {
    /// In order; each must be durable before the next is written. One, unless a file got full.
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// Successive records in one file.
pub(crate) struct Chunk {
    pub(crate) segment: Segment,
    pub(crate) address: u64,
    pub(crate) buffer: Vec<u8>,
}

// === impl Writer ===

impl Writer {
    pub(crate) fn new(segment: Segment, tail: u64, segment_bytes: u64) -> Self {
        Self { segment, segment_bytes, tail, pending: Batch::default(), spare: Vec::new() }
    }

    /// The current file.
    pub(crate) fn segment(&self) -> Segment {
        self.segment
    }

    /// Whether the current file has room for a record.
    pub(crate) fn fits(&self, payload: usize) -> bool {
        self.tail + format::record_bytes(payload) <= self.segment.end()
    }

    /// Begins the next file, with room for records of so many bytes at least; returns the address at which the records
    /// of the current one end.
    pub(crate) fn roll(&mut self, room: u64) -> u64 {
        let end = self.tail;
        let needed = (DATA + room).next_multiple_of(DATA);
        self.segment = self.segment.next(self.segment_bytes.max(needed));
        self.tail = self.segment.data();
        end
    }

    /// Adds a record, which must fit; returns its address.
    pub(crate) fn append(&mut self, log: u32, offset: u64, payload: &[u8]) -> u64 {
        assert!(self.fits(payload.len()), "the caller rolls first");
        if self.pending.chunks.last().is_none_or(|c| c.segment != self.segment) {
            let buffer = std::mem::take(&mut self.spare);
            let chunk = Chunk { segment: self.segment, address: self.tail, buffer };
            self.pending.chunks.push(chunk);
        }
        let chunk = self.pending.chunks.last_mut().expect("one was just made sure of");
        let address = self.tail;
        format::encode(&mut chunk.buffer, address, chunk.address, log, offset, payload);
        let bytes = format::record_bytes(payload.len());
        self.tail += bytes;
        self.pending.records += 1;
        self.pending.bytes += bytes as usize;
        address
    }

    /// Records that no commit has taken yet.
    pub(crate) fn pending(&self) -> usize {
        self.pending.records
    }

    /// Everything that no commit has taken yet.
    pub(crate) fn take(&mut self) -> Batch {
        std::mem::take(&mut self.pending)
    }

    /// Gives a written batch's buffer back for the next one.
    pub(crate) fn recycle(&mut self, batch: Batch) {
        if let Some(chunk) = batch.chunks.into_iter().next()
            && chunk.buffer.capacity() <= SPARE_MAX
            && self.spare.capacity() == 0
        {
            self.spare = chunk.buffer;
            self.spare.clear();
        }
    }
}
