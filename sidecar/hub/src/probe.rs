//! The physical limit of an append.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::HubError;
use crate::wal::segment::Segment;
use std::os::unix::fs::FileExt;

/// Bytes of one append.
const RECORD: usize = 1024;

/// Appends `n` records of 1 KiB, one after the other, to a file filled with zeros before, with one
/// `fdatasync` each, and tells how long each took: what any durable log on this disk costs at
/// least. The file, in a directory of its own below `dir`, is removed afterwards.
///
/// # Errors
/// The file cannot be made, written or synced.
pub fn bare_append_probe(dir: &Path, n: usize) -> Result<Vec<Duration>, HubError> {
    let dir = dir.join(format!("probe-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|e| HubError::io("make", &dir, e))?;
    let measured = probe(&dir, n);
    std::fs::remove_dir_all(&dir).map_err(|e| HubError::io("remove", &dir, e))?;
    measured
}

fn probe(dir: &Path, n: usize) -> Result<Vec<Duration>, HubError> {
    let size = ((n + 8) * RECORD) as u64;
    let segment = Segment::whole(1, 0, size);
    let file = segment.create(dir)?;
    let record = [7_u8; RECORD];
    let mut durations = Vec::with_capacity(n);
    for nth in 0..n {
        let begun = Instant::now();
        file.write_all_at(&record, ((nth + 4) * RECORD) as u64)
            .and_then(|()| file.sync_data())
            .map_err(|e| HubError::io("write", &segment.path(dir), e))?;
        durations.push(begun.elapsed());
    }
    Ok(durations)
}
