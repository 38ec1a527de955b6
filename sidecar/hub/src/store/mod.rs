//! The store: actor state with fence cells, and application state, in SQLite, on a thread of its
//! own.
//!
//! Steps are gathered into transactions. A transaction with writes of application state is synced
//! (if the hub's durability asks for it) before it is answered; others only reach the operating
//! system, since the logs can rebuild what they hold: before a log is trimmed, all is synced.
//!
//! Keys of application state that have expired are absent at once, for whoever asks, and are removed
//! a little later, in rounds between other work; found by an index, never by a scan.

mod actors;
mod clock;
mod expiry;
mod state;
mod tables;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use kar_proto::hub::v1 as wire;
use rusqlite::{Connection, Transaction};
use wire::hub_frame::Frame;
use wire::state_request::Request;

use crate::engine::{ConnId, Hub, LogId};
use crate::error::HubError;
use crate::options::Durability;
use clock::{Clock, Source};
pub(crate) use clock::{Source as TimeSource, system as system_time};
use expiry::Room;

/// Jobs in one transaction.
const JOBS_MAX: usize = 256;
/// SQLite's page cache, KiB.
const CACHE_KIB: u32 = 1_024;
/// SQLite writes its log back when it has so many pages of 4 KiB.
const CHECKPOINT_PAGES: u32 = 4_000;
/// Between two rounds of removing what has expired, if the first one did not finish …
const ROUND_PACE: Duration = Duration::from_millis(20);
/// … or did: what expires meanwhile goes together.
const ROUND_INTERVAL: Duration = Duration::from_millis(250);

/// Something for the store to do.
pub(crate) enum StoreJob {
    /// A step on a log's actors.
    Step { conn: ConnId, handle: u32, app: Arc<str>, log: String, step: StoreStep },
    /// A request about application state.
    State { conn: ConnId, number: u64, app: Arc<str>, request: Request },
    /// Deletes all of an application.
    /// `entries`: so many were deleted in earlier rounds of it.
    Purge { conn: ConnId, number: u64, app: Arc<str>, entries: u64 },
    /// Makes everything that was told durable, so that a log can be trimmed.
    Sync { log: LogId, start: u64 },
    /// Ends the thread.
    Stop,
}

/// A step on a log's actors.
pub(crate) enum StoreStep {
    Cell,
    Load { actor: String, epoch: u64 },
    Fence { epoch: u64 },
    Write { expected: wire::Cell, upto: u64, ops: Vec<wire::ActorOps> },
}

/// What is told when the transaction is done.
enum Answer {
    Frames {
        conn: ConnId,
        frames: Vec<(Frame, usize)>,
    },
    Purged {
        conn: ConnId,
        number: u64,
        app: Arc<str>,
        entries: u64,
    },
    Synced {
        log: LogId,
        start: u64,
    },
    /// A round of it is done; others come first.
    Again(StoreJob),
}

/// The open store.
pub(crate) struct Store {
    connection: Connection,
    durability: Durability,
    /// The next commit is synced.
    synced: bool,
    clock: Clock,
    /// When the next key expires.
    next_expiry: Option<u64>,
    /// There may be pages to be given back.
    loose: bool,
    /// When the next round of removing may begin.
    next_round: Instant,
    /// What is done in rounds, and goes on.
    again: Vec<StoreJob>,
}

/// The time of a transaction, and whether somebody was told that a key has expired by it.
struct At {
    now: u64,
    told: Cell<bool>,
}

// === impl Store ===

impl Store {
    pub(crate) fn open(
        path: &Path,
        durability: Durability,
        time: Source,
    ) -> Result<Self, HubError> {
        let mut connection = Connection::open(path).map_err(failed)?;
        let pragma =
            |name: &str, value: &str| connection.pragma_update(None, name, value).map_err(failed);
        // First: it holds for files that have nothing yet. Older ones keep their free pages for themselves.
        pragma("auto_vacuum", "INCREMENTAL")?;
        // No other process ever opens it: no shared memory, no locks to take again and again.
        pragma("locking_mode", "EXCLUSIVE")?;
        pragma("journal_mode", "WAL")?;
        pragma("synchronous", "NORMAL")?;
        pragma("cache_size", &format!("-{CACHE_KIB}"))?;
        pragma("wal_autocheckpoint", &CHECKPOINT_PAGES.to_string())?;
        let found: u32 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(failed)?;
        if found > tables::VERSION {
            return Err(HubError::Version { file: path.to_owned(), found });
        }
        connection.set_prepared_statement_cache_capacity(32);
        let (told, next_expiry) = tables::make(&mut connection).map_err(failed)?;
        Ok(Self {
            connection,
            durability,
            synced: false,
            clock: Clock::new(time, told),
            next_expiry,
            loose: true,
            next_round: Instant::now(),
            again: Vec::new(),
        })
    }

    /// The thread's loop.
    pub(crate) fn run(mut self, jobs: &Receiver<StoreJob>, hub: &Hub) {
        while let Some(batch) = self.next(jobs) {
            let stop = batch.iter().any(|job| matches!(job, StoreJob::Stop));
            let done = self.transact(batch).and_then(|answers| {
                self.round_if_due()?;
                Ok(answers)
            });
            match done {
                Ok(answers) => hub.with(|engine| {
                    for answer in answers {
                        match answer {
                            Answer::Frames { conn, frames } => engine.stored(conn, frames),
                            Answer::Synced { log, start } => engine.store_synced(log, start),
                            Answer::Purged { conn, number, app, entries } => {
                                engine.store_purged(conn, number, &app, entries);
                            }
                            Answer::Again(job) => self.again.push(job),
                        }
                    }
                }),
                Err(error) => {
                    hub.with(|engine| engine.fail(failed(error)));
                    return;
                }
            }
            if stop {
                return;
            }
        }
    }

    /// The next jobs, none if a round is due before there are any; `None`: the hub is gone.
    fn next(&mut self, jobs: &Receiver<StoreJob>) -> Option<Vec<StoreJob>> {
        if !self.again.is_empty() {
            let mut batch: Vec<_> = jobs.try_iter().take(JOBS_MAX).collect();
            batch.append(&mut self.again);
            return Some(batch);
        }
        let first = match self.until_round() {
            None => jobs.recv().ok()?,
            Some(wait) => match jobs.recv_timeout(wait) {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => return Some(Vec::new()),
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        };
        let mut batch = vec![first];
        batch.extend(jobs.try_iter().take(JOBS_MAX - 1));
        Some(batch)
    }

    /// Carries out jobs in one transaction, durable as they need it.
    fn transact(&mut self, jobs: Vec<StoreJob>) -> rusqlite::Result<Vec<Answer>> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let synced = jobs.iter().any(StoreJob::needs_sync);
        let changes = jobs.iter().any(StoreJob::changes_state);
        self.loose |= jobs.iter().any(|job| matches!(job, StoreJob::Purge { .. }));
        self.sync_next(synced)?;
        let at = At { now: self.clock.now(), told: Cell::new(false) };
        let transaction = self.connection.transaction()?;
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            answers.extend(carry_out(&transaction, &at, job)?);
        }
        if changes {
            self.next_expiry = expiry::next(&transaction)?;
        }
        let told = at.told.get();
        if told || (changes && self.next_expiry.is_some()) {
            expiry::tell_time(&transaction, at.now)?;
        }
        transaction.commit()?;
        if told && !synced && self.durability == Durability::Fsync {
            // What somebody was told to be absent stays so, also if power is lost and clocks with it.
            self.sync_next(true)?;
            let transaction = self.connection.transaction()?;
            touch(&transaction)?;
            transaction.commit()?;
        }
        Ok(answers)
    }

    /// Whether the next commit is synced, if the hub's durability asks for any of that.
    fn sync_next(&mut self, synced: bool) -> rusqlite::Result<()> {
        let synced = synced && self.durability == Durability::Fsync;
        if synced != self.synced {
            let level = if synced { "FULL" } else { "NORMAL" };
            self.connection.pragma_update(None, "synchronous", level)?;
            self.synced = synced;
        }
        Ok(())
    }

    /// How long until a round is to begin; `None`: nothing asks for one.
    fn until_round(&self) -> Option<Duration> {
        let due = match self.next_expiry {
            _ if self.loose => Duration::ZERO,
            None => return None,
            Some(expires) => Duration::from_millis(expires.saturating_sub(self.clock.now())),
        };
        Some(due.max(self.next_round.saturating_duration_since(Instant::now())))
    }

    fn round_if_due(&mut self) -> rusqlite::Result<()> {
        if self.until_round() != Some(Duration::ZERO) {
            return Ok(());
        }
        let now = self.clock.now();
        let due = |next: Option<u64>| next.is_some_and(|expires| expires <= now);
        self.sync_next(due(self.next_expiry))?;
        let transaction = self.connection.transaction()?;
        if due(self.next_expiry) {
            expiry::tell_time(&transaction, now)?;
            expiry::remove(&transaction, now)?;
            self.next_expiry = expiry::next(&transaction)?;
            self.loose = true;
        } else {
            self.loose = expiry::give_back(&transaction)?;
        }
        transaction.commit()?;
        let more = due(self.next_expiry) || self.loose;
        self.next_round = Instant::now() + if more { ROUND_PACE } else { ROUND_INTERVAL };
        Ok(())
    }
}

/// Only a commit with changes is synced, and all before it with it.
fn touch(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE counter SET value = value")?.execute([])?;
    Ok(())
}

fn carry_out(tx: &Transaction<'_>, at: &At, job: StoreJob) -> rusqlite::Result<Option<Answer>> {
    Ok(Some(match job {
        StoreJob::Step { conn, handle, app, log, step } => {
            let frames = actors::step(tx, handle, &app, &log, step)?;
            Answer::Frames { conn, frames }
        }
        StoreJob::State { conn, number, app, request } => {
            let (response, bytes) = state::answer(tx, at, &app, request)?;
            let frame = Frame::State(wire::StateResponse { number, response: Some(response) });
            Answer::Frames { conn, frames: vec![(frame, bytes)] }
        }
        StoreJob::Purge { conn, number, app, entries } => {
            let mut room = Room::new();
            let is_done = actors::purge(tx, &app, &mut room)? && state::purge(tx, &app, &mut room)?;
            let entries = entries + room.taken();
            if is_done {
                Answer::Purged { conn, number, app, entries }
            } else {
                Answer::Again(StoreJob::Purge { conn, number, app, entries })
            }
        }
        StoreJob::Sync { log, start } => {
            touch(tx)?;
            Answer::Synced { log, start }
        }
        StoreJob::Stop => return Ok(None),
    }))
}

impl StoreJob {
    /// Whether what it does must survive power loss before it is answered.
    fn needs_sync(&self) -> bool {
        match self {
            Self::Sync { .. } => true,
            _ => self.changes_state(),
        }
    }

    /// Whether it may change application state.
    fn changes_state(&self) -> bool {
        match self {
            Self::State { request, .. } => {
                matches!(request, Request::Set(_) | Request::Delete(_) | Request::Transact(_))
            }
            Self::Purge { .. } => true,
            Self::Step { .. } | Self::Sync { .. } | Self::Stop => false,
        }
    }
}

// === impl At ===

impl At {
    /// Whether a key is there that expires then; that it is not is remembered.
    fn is_there(&self, expires: Option<i64>) -> bool {
        let there = expires.is_none_or(|expires| expires as u64 > self.now);
        if !there {
            self.told.set(true);
        }
        there
    }
}

/// The hub's error for an error of SQLite.
fn failed(error: rusqlite::Error) -> HubError {
    use rusqlite::ErrorCode::{DatabaseCorrupt, DiskFull, NotADatabase};
    let file = std::path::PathBuf::from("store.db");
    match error.sqlite_error_code() {
        Some(DiskFull) => HubError::DiskFull {
            file,
            source: std::io::Error::new(std::io::ErrorKind::StorageFull, error),
        },
        Some(DatabaseCorrupt | NotADatabase) => {
            HubError::StoreDamaged { file, what: error.to_string() }
        }
        _ => HubError::Store(error.to_string()),
    }
}
