//! The thread that works on full log files: summarises them, compacts them, has them removed. It
//! holds itself to a rate, and nothing waits for it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::engine::{DiskJob, Hub};
use crate::error::HubError;
use crate::options::Durability;
use crate::wal::compact::{self, Draft};
use crate::wal::read::Segments;
use crate::wal::segment::Segment;
use crate::wal::summary;

/// How often whoever is held looks whether there is a hurry now.
const LOOK: Duration = Duration::from_millis(200);

/// Something for the thread to do.
pub(crate) enum TidyJob {
    /// A file is full.
    Summarise(Segment),
    /// Nothing lives in the files that end at or before this address.
    Remove { below: u64 },
    /// Little lives in some files.
    Compact(Draft),
    /// Ends the thread.
    Stop,
}

/// Set once, when the hub ends.
#[derive(Default)]
pub(crate) struct Ending {
    is: Mutex<bool>,
    changed: Condvar,
}

/// What the thread has.
pub(crate) struct Tidier {
    pub(crate) dir: PathBuf,
    pub(crate) durability: Durability,
    pub(crate) segments: Arc<Segments>,
    pub(crate) disk: Sender<DiskJob>,
    pub(crate) ending: Arc<Ending>,
    /// Bytes that a compaction reads and writes in a second, at most.
    pub(crate) bytes_per_second: u64,
}

/// Holds whoever spends to a rate.
struct Pace<'a> {
    ending: &'a Ending,
    bytes_per_second: u64,
    begun: Instant,
    spent: u64,
}

// === impl Ending ===

impl Ending {
    pub(crate) fn set(&self) {
        *self.is.lock().expect("no holder of this lock panics") = true;
        self.changed.notify_all();
    }

    /// Waits; true: the hub ends.
    fn within(&self, time: Duration) -> bool {
        let is = self.is.lock().expect("no holder of this lock panics");
        let waited = self.changed.wait_timeout_while(is, time, |is| !*is);
        *waited.expect("no holder of this lock panics").0
    }
}

// === impl Pace ===

impl Pace<'_> {
    /// Holds up whoever has spent more than is due, unless there comes to be a hurry: everything else that the thread
    /// is there for waits behind it. False: the hub ends.
    fn spend(&mut self, bytes: u64, hurries: impl Fn() -> bool) -> bool {
        self.spent += bytes;
        loop {
            let held = self.held(self.begun.elapsed());
            if self.ending.within(held.min(LOOK)) {
                return false;
            }
            if held <= LOOK {
                return true;
            }
            if hurries() {
                self.bytes_per_second = u64::MAX;
            }
        }
    }

    /// How much longer it takes until what was spent is due.
    fn held(&self, elapsed: Duration) -> Duration {
        let due = Duration::from_secs_f64(self.spent as f64 / self.bytes_per_second as f64);
        due.saturating_sub(elapsed)
    }
}

// === impl Tidier ===

impl Tidier {
    /// The thread's loop. Summaries wait for everything else: what they are of may go first.
    pub(crate) fn run(self, jobs: &Receiver<TidyJob>, hub: &Hub) {
        let mut full: VecDeque<Segment> = VecDeque::new();
        loop {
            let job = match full.pop_front() {
                None => jobs.recv().ok(),
                Some(segment) => match jobs.try_recv() {
                    Ok(job) => {
                        full.push_front(segment);
                        Some(job)
                    }
                    Err(_) => {
                        self.summarise(segment);
                        continue;
                    }
                },
            };
            let done = match job {
                Some(TidyJob::Stop) | None => return,
                Some(TidyJob::Summarise(segment)) => {
                    full.push_back(segment);
                    Ok(())
                }
                Some(TidyJob::Remove { below }) => {
                    full.retain(|segment| segment.base >= below);
                    self.settle(below).map(|()| {
                        // If the disk reader is gone the hub is ending.
                        let _ = self.disk.send(DiskJob::Remove { below });
                    })
                }
                Some(TidyJob::Compact(draft)) => {
                    // A summary must not be made while its file is exchanged.
                    full.retain(|segment| !draft.run.contains(segment));
                    self.compact(draft, hub)
                }
            };
            if let Err(error) = done {
                hub.with(|engine| engine.tidy_failed(error));
            }
        }
    }

    fn summarise(&self, segment: Segment) {
        // It may have been removed meanwhile.
        if self.segments.at(segment.base) != Some(segment) {
            return;
        }
        if let Err(error) = summary::summarise(&self.dir, segment) {
            // Without a summary the next start takes longer, that is all.
            tracing::warn!(%error, "a log file could not be summarised");
        }
    }

    fn compact(&self, mut draft: Draft, hub: &Hub) -> Result<(), HubError> {
        loop {
            match hub.with(|engine| engine.gather(&mut draft)) {
                Some(true) => break,
                // Whoever waits for the lock gets it in between.
                Some(false) => std::thread::yield_now(),
                None => return Ok(()),
            }
        }
        let plan = draft.plan();
        let run = plan.run.clone();
        let end = run.last().map_or(0, Segment::end);
        let bytes_per_second = if plan.hurry { u64::MAX } else { self.bytes_per_second.max(1) };
        let mut pace =
            Pace { ending: &self.ending, bytes_per_second, begun: Instant::now(), spent: 0 };
        let hurries = || hub.with(|engine| engine.hurries());
        let compacted = compact::compact(&self.dir, plan, |bytes| pace.spend(bytes, hurries));
        if let Err(HubError::Corrupt { .. }) = &compacted {
            // The next start reads the files themselves, and says what is wrong with them.
            for segment in run {
                summary::distrust(&self.dir, segment)?;
            }
        }
        // `None`: the hub ends.
        let Some(compacted) = compacted? else { return Ok(()) };
        self.settle(end)?;
        // If the disk reader is gone the hub is ending.
        let _ = self.disk.send(DiskJob::Install(Box::new(compacted)));
        Ok(())
    }

    /// Before anything below an address is let go, what makes it superfluous (trims, and what later
    /// files repeat) is on disk, also if commits do not see to that.
    fn settle(&self, end: u64) -> Result<(), HubError> {
        if self.durability == Durability::Fsync {
            return Ok(());
        }
        for segment in self.segments.whole_from(end) {
            let file = segment.open(&self.dir, true)?;
            file.sync_data().map_err(|e| HubError::io("sync", &segment.path(&self.dir), e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `compaction_bytes_per_second`
    #[test]
    fn whoever_spends_more_than_the_rate_is_held_until_it_is_due() {
        let ending = Ending::default();
        let (begun, second) = (Instant::now(), Duration::from_secs(1));
        let mut pace = Pace { ending: &ending, bytes_per_second: 1_000, begun, spent: 0 };
        assert_eq!(pace.held(Duration::ZERO), Duration::ZERO);
        pace.spent = 2_500;
        assert_eq!(pace.held(Duration::ZERO), second * 5 / 2);
        assert_eq!(pace.held(second), second * 3 / 2);
        assert_eq!(pace.held(second * 3), Duration::ZERO);
        // What was not spent in time is not lost …
        pace.spent += 500;
        assert_eq!(pace.held(second * 3), Duration::ZERO);
        // … and nobody is held in a hurry, or when the hub ends.
        assert!(pace.spend(u64::from(u32::MAX), || true));
        pace.bytes_per_second = 1;
        ending.set();
        assert!(!pace.spend(u64::from(u32::MAX), || false));
    }
}
