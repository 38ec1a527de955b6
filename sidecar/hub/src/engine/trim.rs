//! Trimming logs, and having the files tidied that it leaves behind.

use kar_proto::hub::v1 as wire;
use tonic::Status;
use wire::hub_frame::Frame;

use super::conn::ConnId;
use super::space::Chore;
use super::{Engine, Log, LogId, Then};
use crate::error::HubError;
use crate::store::StoreJob;
use crate::tidy::TidyJob;
use crate::wal::compact::Draft;
use crate::wal::segment::Segment;

/// Ticks (of half a second) before a compaction or removal that failed is tried again.
const RETRY_TICKS: u32 = 10;

/// Whether the files are being tidied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Tidying {
    #[default]
    Idle,
    /// One chore at a time.
    Busy,
    /// The last one failed; another is tried after so many ticks.
    Failed(u32),
}

/// Who waits for a trim to be durable.
pub(super) struct TrimWaiter {
    conn: ConnId,
    /// What the client calls the log.
    handle: u32,
    start: u64,
}

// === impl Log ===

impl Log {
    /// The records below an offset were let go; nothing happens if that has been said before.
    pub(super) fn trimmed_to(&mut self, start: u64) {
        self.start = self.start.max(start);
        self.start_assigned = self.start;
        self.trim_wanted = self.start;
        // Only what is durable is ever trimmed.
        self.assigned = self.assigned.max(self.start - 1);
    }
}

// === impl Engine ===

impl Engine {
    pub(super) fn trim_log(&mut self, id: ConnId, trim: &wire::TrimLog) -> Result<(), Status> {
        let log = self.log_of(id, trim.log)?;
        let Some(state) = self.logs.get_mut(&log) else { return Ok(()) };
        // What is not durable yet stays: nobody has seen it.
        let start = trim.below.min(state.index.last() + 1);
        if start <= state.start {
            let start = state.start;
            self.tell_start(id, trim.log, start);
            return Ok(());
        }
        // One answer for all that a client asked for: the newest has the others in it.
        state.trim_waiters.retain(|waiter| waiter.conn != id);
        state.trim_waiters.push(TrimWaiter { conn: id, handle: trim.log, start });
        if start > state.trim_wanted {
            state.trim_wanted = start;
            // If the thread is gone the hub is ending.
            let _ = self.threads.store.send(StoreJob::Sync { log, start });
        }
        Ok(())
    }

    /// What the store has told is durable: it does not need the records that are to go.
    pub(crate) fn store_synced(&mut self, log: LogId, start: u64) {
        // The log may have been purged meanwhile.
        let Some(state) = self.logs.get_mut(&log) else { return };
        if start > state.start_assigned {
            state.start_assigned = start;
            let meta = wire::meta::Meta::LogTrimmed(wire::LogTrimmedTo { log, start });
            self.append_meta(meta, Some(Then::Trimmed { log, start }));
        }
    }

    fn tell_start(&mut self, id: ConnId, handle: u32, start: u64) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.send(Frame::LogStart(wire::LogStart { log: handle, reading: 0, start }));
        }
    }

    /// A trim is durable: forgets the records, ends readings that wanted some of them, answers.
    pub(super) fn trimmed(&mut self, log: LogId, start: u64) {
        // The log may have been purged meanwhile.
        let Some(state) = self.logs.get_mut(&log) else { return };
        state.start = start;
        self.files.die_all(state.index.places_below(start));
        state.bytes -= state.index.places_below(start).map(|place| place.bytes).sum::<u64>();
        state.index.trim(start);
        let kept = state.index.last() + 1 - start;
        state.recent.drain(..state.recent.len().saturating_sub(kept as usize));
        self.stats.trims += 1;
        let waiters = &mut state.trim_waiters;
        let done: Vec<_> = waiters.extract_if(.., |waiter| waiter.start <= start).collect();
        let behind: Vec<_> = state
            .readers
            .iter()
            .copied()
            .filter(|reader| {
                let conn = self.conns.get(reader);
                conn.and_then(|c| c.readings.get(&log)).is_some_and(|r| r.next < start)
            })
            .collect();
        for reader in behind {
            self.refuse_reading(reader, log, start);
        }
        for waiter in done {
            self.tell_start(waiter.conn, waiter.handle, start);
        }
        self.tidy();
    }

    /// Ends a reading whose next record was trimmed.
    fn refuse_reading(&mut self, id: ConnId, log: LogId, start: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let Some(reading) = conn.readings.get(&log) else { return };
        let (handle, number) = (reading.handle, reading.number);
        conn.send(Frame::LogTrimmed(wire::LogTrimmed { log: handle, reading: number, start }));
        self.stop_reading(id, log);
    }

    /// Has something done about files of which little or nothing lives, unless that is being done.
    pub(crate) fn tidy(&mut self) {
        let ready = self.tidying == Tidying::Idle
            // The records of a log that is being purged are needed until that is durable.
            && self.condemned.is_empty()
            && !self.stopping
            && self.fault.is_none()
            // What older files say of logs and members is needed until a later one repeats it.
            && self.holding_from.is_some_and(|from| from <= self.durable_base);
        if !ready {
            return;
        }
        let job = match self.files.chore(self.durable_base) {
            None => return,
            Some(Chore::Remove { below }) => TidyJob::Remove { below },
            Some(Chore::Compact { run, next, hurry }) => {
                TidyJob::Compact(Draft::new(run, next, hurry))
            }
        };
        self.tidying = Tidying::Busy;
        // If the thread is gone the hub is ending.
        let _ = self.threads.tidy.send(job);
    }

    /// Adds some more to the plan of a compaction; true: it has all. `None`: nothing comes of it, because a log is
    /// being purged, whose records are needed until that is durable and are not to be found here any more.
    pub(crate) fn gather(&mut self, draft: &mut Draft) -> Option<bool> {
        if !self.condemned.is_empty() {
            // Tried again when the purge is done.
            self.tidying = Tidying::Idle;
            return None;
        }
        let logs = &self.logs;
        Some(draft.gather(self.next_log, |log| logs.get(&log).map(|log| &log.index)))
    }

    /// Whether the files hold far too much: a compaction that is under way is held no longer.
    pub(crate) fn hurries(&self) -> bool {
        self.files.hurries(self.durable_base)
    }

    /// Files were removed.
    pub(crate) fn files_removed(&mut self, below: u64) {
        self.stats.files_removed += self.files.removed_below(below) as u64;
        self.tidied();
    }

    /// A compacted file has taken the place of others.
    pub(crate) fn files_compacted(&mut self, by: Segment, copied: u64) {
        self.files.compacted(by);
        self.stats.compactions += 1;
        self.stats.compacted_bytes += copied;
        self.tidied();
    }

    fn tidied(&mut self) {
        self.tidying = Tidying::Idle;
        self.tidy();
    }

    /// A chore could not be done. Damage ends the hub, so that the next start says what is wrong;
    /// for anything else the files are as good as before.
    pub(crate) fn tidy_failed(&mut self, error: HubError) {
        if matches!(error, HubError::Corrupt { .. }) {
            self.fail(error);
            return;
        }
        tracing::warn!(%error, "the log's files could not be tidied, trying again");
        self.stats.compaction_failures += 1;
        self.tidying = Tidying::Failed(RETRY_TICKS);
    }

    /// Half a second has passed.
    pub(super) fn tick_tidy(&mut self) {
        match self.tidying {
            Tidying::Failed(0) => self.tidied(),
            Tidying::Failed(ticks) => self.tidying = Tidying::Failed(ticks - 1),
            Tidying::Idle => self.tidy(),
            Tidying::Busy => {}
        }
    }
}
