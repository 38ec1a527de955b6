//! Everything of a hub that changes in memory, behind one lock that is held for moments: the
//! tasks of the connections, the commit thread, the store's thread and the disk reader all call in
//! here, and nothing in here waits.

mod conn;
mod input;
mod members;
mod purge;
mod replay;
mod space;
#[cfg(test)]
mod tests;
mod topics;
mod trim;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kar_proto::hub::v1 as wire;
use prost::Message as _;
use tokio::sync::Notify;
use wire::hub_frame::Frame;
use wire::state_response::Response;

use crate::error::HubError;
use crate::histogram::Histogram;
use crate::options::HubLimits;
use crate::snapshots::SnapshotJob;
use crate::store::StoreJob;
use crate::tidy::TidyJob;
use crate::wal::compact::Compacted;
use crate::wal::format::record_bytes;
use crate::wal::index::{LogIndex, Place};
use crate::wal::writer::{Batch, Writer};
use conn::Conn;
pub(crate) use conn::ConnId;
pub(crate) use replay::Replay;
use space::Files;
use topics::Topics;
pub(crate) use topics::{FetchJob, Probe, RecallJob, Recalled, TopicId};
use trim::{Tidying, TrimWaiter};

/// Number of a log in the records.
pub(crate) type LogId = u32;

/// Records of one log that are kept in memory for its other readers.
const RECENT_RECORDS_MAX: usize = 32;
/// Stands for whoever has gone, or never was: no connection has this number.
const NOBODY: ConnId = 0;
/// Longest record that is kept so, bytes; longer ones are read from disk.
const RECENT_RECORD_BYTES_MAX: usize = 64 << 10;

/// The engine with the ways to wait for it.
pub(crate) struct Hub {
    engine: Mutex<Engine>,
    /// The commit thread waits here for records.
    work: Condvar,
    /// The main task waits here: a client came or went, or something failed.
    pub(crate) changed: Notify,
}

/// See the module.
pub(crate) struct Engine {
    limits: HubLimits,
    /// Of the data directory: clients that belong to another one are refused.
    directory_id: String,
    writer: Writer,
    /// Records whose commit is not done, in the order of the log.
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    apps: BTreeMap<Arc<str>, App>,
    logs: HashMap<LogId, Log>,
    next_log: LogId,
    next_incarnation: u64,
    conns: BTreeMap<ConnId, Conn>,
    next_conn: ConnId,
    topics: Topics,
    /// Requests that have purged something: repeated, they purge nothing.
    purges: Purges,
    /// The log's files and what lives in them.
    files: Files,
    /// Base of the file that the last commit wrote to: older ones are full and durable.
    durable_base: u64,
    /// Base of the oldest file that begins with all that holds.
    holding_from: Option<u64>,
    tidying: Tidying,
    /// Records of purged logs, until that is durable.
    condemned: Vec<LogIndex>,
    threads: Threads,
    committer: CommitterState,
    stats: Stats,
    fault: Option<HubError>,
    stopping: bool,
    idle_since: Option<Instant>,
}

/// The way to the other threads.
pub(crate) struct Threads {
    pub(crate) store: Sender<StoreJob>,
    pub(crate) disk: Sender<DiskJob>,
    pub(crate) tidy: Sender<TidyJob>,
    pub(crate) snapshots: Sender<SnapshotJob>,
}

/// Something for the disk reader to do.
pub(crate) enum DiskJob {
    Read(ReadJob),
    /// Events of a topic for who asked for them.
    Fetch(FetchJob),
    /// Requests that have appended the newest events of a partition.
    Recall(RecallJob),
    /// When an event was appended.
    Probe(Probe),
    /// Remove the log's files that end at or before this address.
    Remove {
        below: u64,
    },
    /// Put a compacted file in the place of those that it stands for.
    Install(Box<Compacted>),
    /// Ends the thread.
    Stop,
}

/// Records to be read for a reader.
pub(crate) struct ReadJob {
    pub(crate) conn: ConnId,
    pub(crate) log: LogId,
    /// Names the reading, should there be another one when the answer comes.
    pub(crate) serial: u64,
    pub(crate) first: u64,
    pub(crate) addresses: Vec<u64>,
    pub(crate) bytes_max: usize,
}

/// An application.
#[derive(Default)]
struct App {
    kinds: BTreeMap<String, u32>,
    members: BTreeMap<u64, Member>,
    logs: HashMap<String, LogId>,
    /// Everything of it is being deleted, which the write-ahead log says or is about to; nobody may
    /// join.
    purging: bool,
    /// … and it also says, or is about to, that all is gone: what repeats the log's contents must not begin it again.
    purged: bool,
    /// The request that has begun it, if it has a name.
    purge: Option<PurgeName>,
}

/// Name of a request to purge an application.
type PurgeName = [u8; 16];

/// Requests that have purged applications, oldest first.
type Purges = VecDeque<(Arc<str>, PurgeName)>;

/// A member; without a connection it is one of before the hub's start that may come back.
struct Member {
    info: wire::Member,
    conn: Option<ConnId>,
}

/// A log.
struct Log {
    app: Arc<str>,
    name: String,
    /// The records that are durable and not trimmed.
    index: LogIndex,
    /// Offset of the last record that is durable or on its way.
    assigned: u64,
    /// Offset of the first record that is kept.
    start: u64,
    /// The same, when the trims that are on their way are durable.
    start_assigned: u64,
    /// As asked for: the store is synced first.
    trim_wanted: u64,
    trim_waiters: Vec<TrimWaiter>,
    /// Its name is in the write-ahead log.
    defined: bool,
    readers: Vec<ConnId>,
    /// The newest durable records, for readers that did not append them, and, until they have been told, for those who
    /// wait for events.
    recent: VecDeque<Bytes>,
    /// What its records take that are durable and not trimmed, bytes.
    bytes: u64,
    /// Somebody waits for its next record; of topics only.
    awaited: bool,
    /// It has come, and is among those that are due.
    due: bool,
}

/// A record whose commit is not done.
enum InFlight {
    Record { log: LogId, conn: ConnId, id: u64, address: u64, record: Bytes },
    Event { log: LogId, address: u64, record: Bytes, then: Option<Box<Then>> },
    Meta(Option<Then>),
}

/// What happens when a record of the hub's own is durable.
enum Then {
    Joined { conn: ConnId, app: Arc<str>, incarnation: u64 },
    ShowKinds { app: Arc<str> },
    Purging { conn: ConnId, number: u64, app: Arc<str> },
    Purged { conn: ConnId, number: u64, app: Arc<str>, count: wire::PurgeCount },
    Trimmed { log: LogId, start: u64 },
    TopicCreated { conn: ConnId, number: u64, topic: TopicId, response: wire::TopicCreated },
    TopicDeleted { conn: ConnId, number: u64 },
    Answer { conn: ConnId, number: u64, response: Box<Response> },
}

/// What the commit thread is doing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CommitterState {
    /// Waits for anything.
    Idle,
    /// Waits a moment for more.
    Pacing,
    Busy,
}

#[derive(Default)]
struct Stats {
    records: u64,
    commits: u64,
    syncs: u64,
    bytes: u64,
    durations: Histogram,
    trims: u64,
    files_removed: u64,
    compactions: u64,
    compacted_bytes: u64,
    compaction_failures: u64,
    /// Snapshots now, and their bytes.
    snapshots: (u64, u64),
}

/// Longest record that begins a file, bytes: five numbers.
const START_BYTES_MAX: usize = 128;

/// After a commit of so many records the next one waits for more…
const PACED: std::ops::RangeInclusive<usize> = 2..=15;
/// … for so long …
const PACE: Duration = Duration::from_micros(200);
/// … or until there are so many.
const PACE_ENOUGH: usize = 16;

// === impl Hub ===

impl Hub {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine: Mutex::new(engine), work: Condvar::new(), changed: Notify::new() }
    }

    /// The engine; the commit thread and the main task are woken as needed afterwards.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Engine) -> T) -> T {
        let mut engine = self.lock();
        let before = (engine.conns.len(), engine.fault.is_some());
        let result = act(&mut engine);
        let wake = match engine.committer {
            CommitterState::Idle => engine.writer.pending() > 0 || engine.stopping,
            CommitterState::Pacing => engine.writer.pending() >= PACE_ENOUGH || engine.stopping,
            CommitterState::Busy => false,
        };
        if wake {
            // Woken once; until it runs, it counts as busy.
            engine.committer = CommitterState::Busy;
            self.work.notify_one();
        }
        if before != (engine.conns.len(), engine.fault.is_some()) {
            self.changed.notify_one();
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().expect("no holder of this lock panics")
    }

    /// The commit thread's loop: `write` makes a batch durable. Ends when the hub stops and
    /// nothing is left, or at the first error.
    pub(crate) fn commit_loop(&self, mut write: impl FnMut(&Batch) -> Result<u64, HubError>) {
        let mut pace = false;
        loop {
            let mut engine = self.lock();
            if pace && !engine.stopping && engine.writer.pending() < PACE_ENOUGH {
                engine.committer = CommitterState::Pacing;
                let wait = self.work.wait_timeout_while(engine, PACE, |engine| {
                    engine.committer == CommitterState::Pacing
                });
                engine = wait.expect("no holder of this lock panics").0;
            }
            while engine.writer.pending() == 0 {
                if engine.stopping {
                    return;
                }
                engine.committer = CommitterState::Idle;
                engine = self.work.wait(engine).expect("no holder of this lock panics");
            }
            engine.committer = CommitterState::Busy;
            let batch = engine.writer.take();
            drop(engine);
            let begun = Instant::now();
            let written = write(&batch);
            let took = begun.elapsed();
            let syncs = match written {
                Ok(syncs) => syncs,
                Err(error) => return self.with(|engine| engine.fail(error)),
            };
            pace = PACED.contains(&batch.records);
            self.with(|engine| engine.committed(batch, syncs, took));
        }
    }
}

// === impl Engine ===

impl Engine {
    /// Appends a record of a log.
    fn append(&mut self, conn: ConnId, log: LogId, id: u64, record: Bytes) {
        self.define(log);
        self.make_room(record.len());
        let Some(state) = self.logs.get_mut(&log) else { return };
        state.assigned += 1;
        let address = self.writer.append(log, state.assigned, &record);
        self.in_flight_bytes += record.len();
        self.in_flight.push_back(InFlight::Record { log, conn, id, address, record });
    }

    /// Writes a log's name before its first record.
    fn define(&mut self, log: LogId) {
        let Some(state) = self.logs.get_mut(&log).filter(|state| !state.defined) else { return };
        state.defined = true;
        let meta = defined(log, state);
        self.append_meta(wire::meta::Meta::LogDefined(meta), None);
    }

    /// Appends a record of the hub's own.
    fn append_meta(&mut self, meta: wire::meta::Meta, then: Option<Then>) {
        let record = wire::Meta { meta: Some(meta) }.encode_to_vec();
        self.make_room(record.len());
        self.push_meta(&record, then);
    }

    fn push_meta(&mut self, record: &[u8], then: Option<Then>) {
        self.writer.append(0, 0, record);
        self.in_flight_bytes += record.len();
        self.in_flight.push_back(InFlight::Meta(then));
    }

    /// Goes over to the next file if the record does not fit; the file begins with all that holds,
    /// so that older files are needed for their records only. It is as long as that takes.
    fn make_room(&mut self, record: usize) {
        if !self.writer.fits(record) {
            let holding = self.holding();
            let bytes: u64 = holding.iter().map(|record| record_bytes(record.len())).sum();
            let room = record_bytes(START_BYTES_MAX) + bytes + record_bytes(record);
            let previous_end = self.writer.roll(room);
            self.files.add(self.writer.segment());
            self.holding_from.get_or_insert(self.writer.segment().base);
            self.begin_file(previous_end, &holding);
        }
    }

    /// Begins the first file there is.
    pub(crate) fn begin_first_file(&mut self) {
        self.holding_from = Some(self.writer.segment().base);
        let holding = self.holding();
        self.begin_file(0, &holding);
    }

    /// Writes all that holds.
    fn begin_file(&mut self, previous_end: u64, holding: &[Vec<u8>]) {
        let start = wire::meta::Meta::SegmentStart(wire::SegmentStart {
            previous_end,
            next_incarnation: self.next_incarnation,
            next_log: self.next_log,
            holding: 1 + holding.len() as u32,
        });
        self.push_meta(&wire::Meta { meta: Some(start) }.encode_to_vec(), None);
        for record in holding {
            self.push_meta(record, None);
        }
    }

    /// All that holds, in records.
    fn holding(&self) -> Vec<Vec<u8>> {
        use wire::meta::Meta;
        let mut metas = Vec::new();
        for (&log, state) in &self.logs {
            if state.defined {
                metas.push(Meta::LogDefined(defined(log, state)));
            }
        }
        for (name, app) in &self.apps {
            for (kind, &partitions) in &app.kinds {
                let kind = Some(wire::Kind { name: kind.clone(), partitions });
                let application = name.to_string();
                metas.push(Meta::KindDefined(wire::KindDefined { application, kind }));
            }
            for member in app.members.values() {
                let member = Some(member.info.clone());
                let application = name.to_string();
                metas.push(Meta::MemberJoined(wire::MemberJoined { application, member }));
            }
            if app.purging && !app.purged {
                metas.push(purge::begun(name, app.purge));
            }
        }
        for (app, request) in &self.purges {
            metas.push(Meta::PurgeRemembered(purge::named(app, *request)));
        }
        self.topic_metas(&mut metas);
        metas.into_iter().map(|meta| wire::Meta { meta: Some(meta) }.encode_to_vec()).collect()
    }

    /// A batch is durable, after so many syncs: shows its records to the readers.
    pub(crate) fn committed(&mut self, batch: Batch, syncs: u64, took: Duration) {
        self.stats.syncs += syncs;
        self.stats.records += batch.records as u64;
        self.stats.commits += 1;
        self.stats.bytes += batch.bytes as u64;
        self.stats.durations.record(took);
        for _ in 0..batch.records {
            let flown = self.in_flight.pop_front();
            match flown.expect("every record of a batch is in flight") {
                InFlight::Record { log, conn, id, address, record } => {
                    self.in_flight_bytes -= record.len();
                    self.show(log, conn, id, address, record);
                }
                InFlight::Event { log, address, record, then } => {
                    self.in_flight_bytes -= record.len();
                    self.show(log, NOBODY, 0, address, record);
                    if let Some(then) = then {
                        self.carry_on(*then);
                    }
                }
                InFlight::Meta(then) => {
                    if let Some(then) = then {
                        self.carry_on(then);
                    }
                }
            }
        }
        self.feed();
        if self.in_flight.is_empty() {
            // Lengths of the hub's own records are not kept one by one.
            self.in_flight_bytes = 0;
        }
        let base = batch.chunks.last().map_or(self.durable_base, |chunk| chunk.segment.base);
        self.writer.recycle(batch);
        if std::mem::replace(&mut self.durable_base, base) != base {
            self.tidy();
        }
        self.wake_inputs();
    }

    fn carry_on(&mut self, then: Then) {
        match then {
            Then::Joined { conn, app, incarnation } => self.joined(conn, &app, incarnation),
            Then::ShowKinds { app } => self.show_members(&app),
            Then::Purging { conn, number, app } => self.purge_snapshots(conn, number, app),
            Then::Purged { conn, number, app, count } => self.purged(conn, number, &app, count),
            Then::Trimmed { log, start } => self.trimmed(log, start),
            Then::TopicCreated { conn, number, topic, response } => {
                self.topic_created(conn, number, &topic, response);
            }
            Then::TopicDeleted { conn, number } => self.topic_deleted(conn, number),
            Then::Answer { conn, number, response } => self.answer(conn, number, *response),
        }
    }

    /// A record became durable.
    fn show(&mut self, log: LogId, conn: ConnId, id: u64, address: u64, record: Bytes) {
        // The log may have been purged meanwhile.
        let Some(state) = self.logs.get_mut(&log) else { return };
        let place = Place { address, bytes: record_bytes(record.len()) };
        state.index.push(place);
        state.bytes += place.bytes;
        self.files.lives(place.address, place.bytes);
        if state.awaited && !std::mem::replace(&mut state.due, true) {
            self.topics.due.push(log);
        }
        let offset = state.index.last();
        let mut foreign = false;
        for reader in &state.readers {
            let Some(reader_conn) = self.conns.get_mut(reader) else { continue };
            foreign |= !reader_conn.advance(log, offset, (*reader == conn).then_some(id));
        }
        if (foreign || state.awaited) && record.len() <= RECENT_RECORD_BYTES_MAX {
            if state.recent.len() == RECENT_RECORDS_MAX {
                state.recent.pop_front();
            }
            state.recent.push_back(record);
        } else {
            // What is kept must be the newest without gaps.
            state.recent.clear();
        }
    }

    /// Nothing can be written any more: tells every client, and the main task ends the process.
    pub(crate) fn fail(&mut self, error: HubError) {
        let reason = match &error {
            HubError::DiskFull { .. } => wire::FaultReason::DiskFull,
            HubError::Corrupt { .. } | HubError::StoreDamaged { .. } => wire::FaultReason::Corrupt,
            HubError::DirectoryLost { .. } => wire::FaultReason::DirectoryLost,
            _ => wire::FaultReason::Io,
        };
        tracing::error!(%error, "the hub ends");
        for conn in self.conns.values_mut() {
            let message = error.to_string();
            conn.send(Frame::Fault(wire::Fault { reason: reason.into(), message }));
            conn.close(tonic::Status::unavailable("the hub ends because of a fault"));
        }
        self.fault.get_or_insert(error);
    }

    /// What failed, if anything did.
    pub(crate) fn take_fault(&mut self) -> Option<HubError> {
        self.fault.take()
    }

    /// Ends in order: lets what is pending become durable.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
        for conn in self.conns.values_mut() {
            conn.close(tonic::Status::unavailable("the hub ends"));
        }
    }

    pub(crate) fn conns(&self) -> usize {
        self.conns.len()
    }

    /// Since when there has been no client.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        self.idle_since
    }

    /// No client has come yet.
    pub(crate) fn expects_first(&self) -> bool {
        self.next_conn == 0
    }

    pub(crate) fn stats(&self) -> wire::GetStatsResponse {
        let micros = |part| self.stats.durations.quantile(part).as_micros() as u64;
        wire::GetStatsResponse {
            process_id: std::process::id(),
            records: self.stats.records,
            commits: self.stats.commits,
            bytes: self.stats.bytes,
            commit_p50_us: micros(0.5),
            commit_p99_us: micros(0.99),
            clients: self.conns.len() as u32,
            logs: self.logs.values().filter(|log| log.defined).count() as u32,
            log_files: self.files.count() as u32,
            log_bytes: self.files.stored(),
            log_live_bytes: self.files.live(),
            trims: self.stats.trims,
            files_removed: self.stats.files_removed,
            compactions: self.stats.compactions,
            compacted_bytes: self.stats.compacted_bytes,
            compaction_failures: self.stats.compaction_failures,
            snapshots: self.stats.snapshots.0,
            snapshot_bytes: self.stats.snapshots.1,
            syncs: self.stats.syncs,
            topics: self.topics() as u64,
            events_published: self.topics.stats.published,
            events_repeated: self.topics.stats.repeated,
            events_expired: self.topics.stats.expired,
            consumers: self.consumers() as u64,
            fetches_waiting: self.topics.stats.waiting,
            topic_channels: self.topic_channels() as u64,
        }
    }
}

fn defined(log: LogId, state: &Log) -> wire::LogDefined {
    wire::LogDefined {
        log,
        application: state.app.to_string(),
        name: state.name.clone(),
        records: state.assigned,
        start: state.start_assigned,
    }
}
