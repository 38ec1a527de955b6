//! The store: actor state with fence cells, and application state, in SQLite, on a thread of its
//! own.
//!
//! Steps are gathered into transactions. A transaction with writes of application state is synced
//! (if the hub's durability asks for it) before it is answered; others only reach the operating
//! system, since the logs can rebuild what they hold: before a log is trimmed, all is synced.

mod actors;
mod state;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use kar_proto::hub::v1 as wire;
use rusqlite::{Connection, Transaction};
use wire::hub_frame::Frame;
use wire::state_request::Request;

use crate::engine::{ConnId, Hub, LogId};
use crate::error::HubError;
use crate::options::Durability;

/// Jobs in one transaction.
const JOBS_MAX: usize = 256;
/// SQLite's page cache, KiB.
const CACHE_KIB: u32 = 1_024;
/// SQLite writes its log back when it has so many pages of 4 KiB.
const CHECKPOINT_PAGES: u32 = 4_000;
/// Version of the tables.
const VERSION: u32 = 1;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS log (
        id INTEGER PRIMARY KEY,
        app TEXT NOT NULL,
        name TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        upto INTEGER NOT NULL,
        UNIQUE (app, name)
    );
    CREATE TABLE IF NOT EXISTS actor (
        log INTEGER NOT NULL,
        actor TEXT NOT NULL,
        key TEXT NOT NULL,
        type TEXT NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (log, actor, key)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS state (
        app TEXT NOT NULL,
        key TEXT NOT NULL,
        etag INTEGER NOT NULL,
        type TEXT NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (app, key)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS request (
        app TEXT NOT NULL,
        id TEXT NOT NULL,
        number INTEGER NOT NULL,
        answer BLOB NOT NULL,
        PRIMARY KEY (app, id)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX IF NOT EXISTS request_number ON request (app, number);
    CREATE TABLE IF NOT EXISTS counter (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        value INTEGER NOT NULL
    );
    INSERT OR IGNORE INTO counter VALUES (1, 0);
";

/// Something for the store to do.
pub(crate) enum StoreJob {
    /// A step on a log's actors.
    Step { conn: ConnId, handle: u32, app: Arc<str>, log: String, step: StoreStep },
    /// A request about application state.
    State { conn: ConnId, number: u64, app: Arc<str>, request: Request },
    /// Deletes all of an application.
    Purge { conn: ConnId, number: u64, app: Arc<str> },
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
    Frames { conn: ConnId, frames: Vec<(Frame, usize)> },
    Purged { conn: ConnId, number: u64, app: Arc<str> },
    Synced { log: LogId, start: u64 },
}

/// The open store.
pub(crate) struct Store {
    connection: Connection,
    durability: Durability,
    /// The next commit is synced.
    synced: bool,
}

// === impl Store ===

impl Store {
    pub(crate) fn open(path: &Path, durability: Durability) -> Result<Self, HubError> {
        let connection = Connection::open(path).map_err(failed)?;
        let pragma =
            |name: &str, value: &str| connection.pragma_update(None, name, value).map_err(failed);
        // No other process ever opens it: no shared memory, no locks to take again and again.
        pragma("locking_mode", "EXCLUSIVE")?;
        pragma("journal_mode", "WAL")?;
        pragma("synchronous", "NORMAL")?;
        pragma("cache_size", &format!("-{CACHE_KIB}"))?;
        pragma("wal_autocheckpoint", &CHECKPOINT_PAGES.to_string())?;
        let found: u32 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(failed)?;
        if found > VERSION {
            return Err(HubError::Version { file: path.to_owned(), found });
        }
        connection.execute_batch(TABLES).map_err(failed)?;
        pragma("user_version", &VERSION.to_string())?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(Self { connection, durability, synced: false })
    }

    /// The thread's loop.
    pub(crate) fn run(mut self, jobs: &Receiver<StoreJob>, hub: &Hub) {
        while let Ok(first) = jobs.recv() {
            let mut batch = vec![first];
            batch.extend(jobs.try_iter().take(JOBS_MAX - 1));
            let stop = batch.iter().any(|job| matches!(job, StoreJob::Stop));
            match self.transact(batch) {
                Ok(answers) => hub.with(|engine| {
                    for answer in answers {
                        match answer {
                            Answer::Frames { conn, frames } => engine.stored(conn, frames),
                            Answer::Synced { log, start } => engine.store_synced(log, start),
                            Answer::Purged { conn, number, app } => {
                                engine.store_purged(conn, number, &app);
                            }
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

    /// Carries out jobs in one transaction, durable as they need it.
    fn transact(&mut self, jobs: Vec<StoreJob>) -> rusqlite::Result<Vec<Answer>> {
        let synced = self.durability == Durability::Fsync && jobs.iter().any(StoreJob::needs_sync);
        if synced != self.synced {
            let level = if synced { "FULL" } else { "NORMAL" };
            self.connection.pragma_update(None, "synchronous", level)?;
            self.synced = synced;
        }
        let transaction = self.connection.transaction()?;
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            answers.extend(carry_out(&transaction, job)?);
        }
        transaction.commit()?;
        Ok(answers)
    }
}

fn carry_out(tx: &Transaction<'_>, job: StoreJob) -> rusqlite::Result<Option<Answer>> {
    Ok(Some(match job {
        StoreJob::Step { conn, handle, app, log, step } => {
            let frames = actors::step(tx, handle, &app, &log, step)?;
            Answer::Frames { conn, frames }
        }
        StoreJob::State { conn, number, app, request } => {
            let (response, bytes) = state::answer(tx, &app, request)?;
            let frame = Frame::State(wire::StateResponse { number, response: Some(response) });
            Answer::Frames { conn, frames: vec![(frame, bytes)] }
        }
        StoreJob::Purge { conn, number, app } => {
            actors::purge(tx, &app)?;
            state::purge(tx, &app)?;
            Answer::Purged { conn, number, app }
        }
        StoreJob::Sync { log, start } => {
            // Only a commit with changes is synced, and all before it with it.
            tx.prepare_cached("UPDATE counter SET value = value")?.execute([])?;
            Answer::Synced { log, start }
        }
        StoreJob::Stop => return Ok(None),
    }))
}

impl StoreJob {
    /// Whether what it does must survive power loss before it is answered.
    fn needs_sync(&self) -> bool {
        match self {
            Self::State { request, .. } => {
                matches!(request, Request::Set(_) | Request::Delete(_))
            }
            Self::Purge { .. } | Self::Sync { .. } => true,
            Self::Step { .. } | Self::Stop => false,
        }
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
            HubError::Corrupt { file, at: 0, what: error.to_string() }
        }
        _ => HubError::Store(error.to_string()),
    }
}
