//! What clients say.

use std::sync::Arc;

use kar_proto::hub::v1 as wire;
use tonic::Status;
use wire::client_frame::Frame as ClientFrame;
use wire::hub_frame::Frame;
use wire::state_request::Request;
use wire::state_response::Response;

use super::conn::{ConnId, Reading};
use super::{App, Engine, Log, LogId, Then};
use crate::options::{NAME_BYTES_MAX, PARTITIONS_MAX, RECORD_BYTES_MAX};
use crate::snapshots::{SnapshotJob, SnapshotRequest};
use crate::store::{StoreJob, StoreStep};
use crate::types::LogName;
use crate::wal::index::LogIndex;

// === impl Engine ===

impl Engine {
    /// Takes the frames of one message. An error ends the connection.
    pub(crate) fn handle(
        &mut self,
        id: ConnId,
        frames: Vec<wire::ClientFrame>,
    ) -> Result<(), Status> {
        let Some(conn) = self.conns.get_mut(&id) else {
            return Err(Status::aborted("struck out"));
        };
        if conn.is_closed() {
            // Of an application that is being purged, say: nothing more of it is to be written.
            return Err(Status::aborted("the connection is closed"));
        }
        conn.silent_ticks = 0;
        for frame in frames {
            let frame = frame.frame.ok_or_else(|| Status::invalid_argument("an empty frame"))?;
            self.frame(id, frame)?;
        }
        Ok(())
    }

    fn frame(&mut self, id: ConnId, frame: ClientFrame) -> Result<(), Status> {
        let Some(conn) = self.conns.get_mut(&id) else {
            return Err(Status::aborted("struck out"));
        };
        let app = match (&frame, &conn.app) {
            (ClientFrame::Hello(_), Some(_)) => {
                return Err(Status::invalid_argument("a second hello"));
            }
            (ClientFrame::Hello(_), None) => Arc::from(""),
            (_, Some(app)) => Arc::clone(app),
            (_, None) => return Err(Status::invalid_argument("no hello")),
        };
        match frame {
            ClientFrame::Hello(hello) => self.hello(id, hello)?,
            ClientFrame::Alive(_) => {}
            ClientFrame::OpenLog(open) => self.open_log(id, &app, open)?,
            ClientFrame::Append(append) => {
                if append.record.len() > RECORD_BYTES_MAX {
                    let text = format!("a record is longer than {RECORD_BYTES_MAX} bytes");
                    return Err(Status::invalid_argument(text));
                }
                let log = self.log_of(id, append.log)?;
                self.append(id, log, append.id, append.record);
            }
            ClientFrame::ReadLog(read) => self.read_log(id, &read)?,
            ClientFrame::Barrier(barrier) => self.barrier(id, &barrier)?,
            ClientFrame::StopLog(stop) => {
                let log = self.log_of(id, stop.log)?;
                self.stop_reading(id, log);
            }
            ClientFrame::Offer(offer) => self.offer(id, &app, offer)?,
            ClientFrame::EnsureKind(ensure) => self.ensure_kind(id, &app, ensure)?,
            ClientFrame::LoadActor(load) => {
                let step = StoreStep::Load { actor: load.actor, epoch: load.epoch };
                self.store_step(id, &app, load.log, step)?;
            }
            ClientFrame::FenceStore(fence) => {
                let step = StoreStep::Fence { epoch: fence.epoch };
                self.store_step(id, &app, fence.log, step)?;
            }
            ClientFrame::WriteStore(write) => {
                let expected = write.expected.unwrap_or_default();
                let (upto, ops) = (write.upto, write.ops);
                self.store_step(id, &app, write.log, StoreStep::Write { expected, upto, ops })?;
            }
            ClientFrame::ReadCell(read) => {
                self.store_step(id, &app, read.log, StoreStep::Cell)?;
            }
            ClientFrame::State(request) => self.state(id, &app, request)?,
            ClientFrame::TrimLog(trim) => self.trim_log(id, &trim)?,
            ClientFrame::CancelFetch(cancel) => self.cancel_fetch(id, &cancel),
        }
        Ok(())
    }

    fn open_log(&mut self, id: ConnId, app: &Arc<str>, open: wire::OpenLog) -> Result<(), Status> {
        if open.name.is_empty() || open.name.len() > LogName::BYTES_MAX {
            let text = format!("a log's name has 1 to {} bytes", LogName::BYTES_MAX);
            return Err(Status::invalid_argument(text));
        }
        let log = self.log_named(app, &open.name)?;
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.handles.insert(open.log, (open.name, log));
        }
        Ok(())
    }

    /// The log of a name, made if there is none; nothing is written before its first record.
    fn log_named(&mut self, app: &Arc<str>, name: &str) -> Result<LogId, Status> {
        let entry = self.apps.entry(Arc::clone(app)).or_default();
        if let Some(&log) = entry.logs.get(name) {
            return Ok(log);
        }
        if entry.logs.len() >= self.limits.logs_max {
            let text = format!("the application has {} logs already", self.limits.logs_max);
            return Err(Status::resource_exhausted(text));
        }
        let log = self.next_log;
        self.next_log += 1;
        entry.logs.insert(name.to_owned(), log);
        self.logs.insert(log, Log::new(Arc::clone(app), name.to_owned()));
        Ok(log)
    }

    /// The log that a client's number means now: after a purge it is another one.
    pub(super) fn log_of(&mut self, id: ConnId, handle: u32) -> Result<LogId, Status> {
        let Some(conn) = self.conns.get(&id) else { return Err(Status::aborted("struck out")) };
        let Some((name, log)) = conn.handles.get(&handle) else {
            return Err(Status::invalid_argument("a log that was not opened"));
        };
        if self.logs.contains_key(log) {
            return Ok(*log);
        }
        let (name, app) = (name.clone(), conn.app.clone());
        let app = app.ok_or_else(|| Status::invalid_argument("no hello"))?;
        let log = self.log_named(&app, &name)?;
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.handles.insert(handle, (name, log));
        }
        Ok(log)
    }

    fn read_log(&mut self, id: ConnId, read: &wire::ReadLog) -> Result<(), Status> {
        let log = self.log_of(id, read.log)?;
        self.stop_reading(id, log);
        self.next_conn += 1;
        let serial = self.next_conn;
        let (Some(conn), Some(state)) = (self.conns.get_mut(&id), self.logs.get_mut(&log)) else {
            return Ok(());
        };
        // Whoever asks for what is not there yet waits for it, and has all that there is.
        let from = read.from.max(1);
        let (handle, number, start) = (read.log, read.reading, state.start);
        if from < start {
            conn.send(Frame::LogTrimmed(wire::LogTrimmed { log: handle, reading: number, start }));
            return Ok(());
        }
        conn.send(Frame::LogStart(wire::LogStart { log: handle, reading: number, start }));
        let mut reading = Reading::new(read.log, read.reading, serial, from);
        reading.ends.push_back(state.assigned);
        conn.readings.insert(log, reading);
        state.readers.push(id);
        conn.due(log);
        Ok(())
    }

    fn barrier(&mut self, id: ConnId, barrier: &wire::Barrier) -> Result<(), Status> {
        let log = self.log_of(id, barrier.log)?;
        let Some(conn) = self.conns.get_mut(&id) else { return Ok(()) };
        let assigned = self.logs.get(&log).map_or(0, |state| state.assigned);
        match conn.readings.get_mut(&log).filter(|r| r.number == barrier.reading) {
            Some(reading) => {
                reading.ends.push_back(assigned);
                conn.due(log);
            }
            None => conn
                .send(Frame::LogLost(wire::LogLost { log: barrier.log, reading: barrier.reading })),
        }
        Ok(())
    }

    pub(super) fn stop_reading(&mut self, id: ConnId, log: LogId) {
        if let Some(conn) = self.conns.get_mut(&id)
            && let Some(reading) = conn.readings.remove(&log)
        {
            conn.own -= reading.own();
            if let Some(state) = self.logs.get_mut(&log) {
                state.readers.retain(|reader| *reader != id);
            }
        }
    }

    fn ensure_kind(
        &mut self,
        id: ConnId,
        app: &Arc<str>,
        ensure: wire::EnsureKind,
    ) -> Result<(), Status> {
        let kind = ensure.kind.unwrap_or_default();
        let length = kind.name.len();
        if length == 0
            || length > NAME_BYTES_MAX
            || !(1..=PARTITIONS_MAX).contains(&kind.partitions)
        {
            let text = format!(
                "a kind has a name of 1 to {NAME_BYTES_MAX} bytes and 1 to {PARTITIONS_MAX} \
                 partitions"
            );
            return Err(Status::invalid_argument(text));
        }
        let kinds = &mut self.apps.entry(Arc::clone(app)).or_default().kinds;
        if kinds.contains_key(&kind.name) {
            // Whoever asks wants to see it, even if everybody else has.
            self.show_members(app);
            return Ok(());
        }
        let partitions: usize = kinds.values().map(|count| *count as usize).sum();
        let partitions_max = self.limits.partitions_max();
        let hit = match &self.limits {
            limits if kinds.len() >= limits.kinds_max => Some(("kinds_max", limits.kinds_max)),
            limits if partitions + kind.partitions as usize > partitions_max => {
                Some(("logs_max", limits.logs_max))
            }
            _ => None,
        };
        if let Some((bound, limit)) = hit {
            // Not an end of the connection: the client would ask again on the next one.
            tracing::error!(
                application = %app, kind = kind.name, partitions = kind.partitions,
                kinds = kinds.len(), kinds_max = self.limits.kinds_max, logs_max = self.limits.logs_max,
                "a kind is not registered: the application has as many kinds, or partitions of all kinds, as \
                 it may; use fewer names of services and actor types, or fewer partitions (kar run --partitions)"
            );
            if let Some(conn) = self.conns.get_mut(&id) {
                let (bound, limit) = (bound.to_owned(), limit as u64);
                conn.send(Frame::KindRefused(wire::KindRefused { kind: kind.name, bound, limit }));
            }
            return Ok(());
        }
        kinds.insert(kind.name.clone(), kind.partitions);
        let defined = wire::KindDefined { application: app.to_string(), kind: Some(kind) };
        let then = Then::ShowKinds { app: Arc::clone(app) };
        self.append_meta(wire::meta::Meta::KindDefined(defined), Some(then));
        Ok(())
    }

    fn store_step(
        &mut self,
        id: ConnId,
        app: &Arc<str>,
        handle: u32,
        step: StoreStep,
    ) -> Result<(), Status> {
        let log = self.log_of(id, handle)?;
        let Some(name) = self.logs.get(&log).map(|state| state.name.clone()) else {
            return Ok(());
        };
        let app = Arc::clone(app);
        self.store_job(id, StoreJob::Step { conn: id, handle, app, log: name, step });
        Ok(())
    }

    pub(super) fn store_job(&mut self, id: ConnId, job: StoreJob) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.store_steps += 1;
        }
        // If the store is gone the hub is ending.
        let _ = self.threads.store.send(job);
    }

    pub(super) fn snapshot_job(&mut self, id: ConnId, job: SnapshotJob) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.store_steps += 1;
            conn.snapshots = true;
        }
        // If the thread is gone the hub is ending.
        let _ = self.threads.snapshots.send(job);
    }

    /// What there is of snapshots now: their number, their bytes.
    pub(crate) fn snapshots(&mut self, count: u64, bytes: u64) {
        self.stats.snapshots = (count, bytes);
    }

    /// The store has done something for a client.
    pub(crate) fn stored(&mut self, id: ConnId, frames: Vec<(Frame, usize)>) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.store_steps = conn.store_steps.saturating_sub(1);
        for (frame, bytes) in frames {
            conn.send_sized(frame, bytes);
        }
        if let Some(waker) = conn.input_waker.take() {
            waker.wake();
        }
    }

    fn state(
        &mut self,
        id: ConnId,
        app: &Arc<str>,
        request: wire::StateRequest,
    ) -> Result<(), Status> {
        let number = request.number;
        let mut asked = request.request;
        let app = Arc::clone(app);
        if let Some(request) = SnapshotRequest::take(&mut asked) {
            self.snapshot_job(id, SnapshotJob::Request { conn: id, number, app, request });
            return Ok(());
        }
        let request = asked.ok_or_else(|| Status::invalid_argument("an empty request"))?;
        let Some(request) = self.topic_request(id, number, &app, request) else { return Ok(()) };
        match request {
            Request::Purge(purge) => self.purge(id, number, &app, &purge),
            request => self.store_job(id, StoreJob::State { conn: id, number, app, request }),
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, id: ConnId, number: u64, response: Response) {
        self.answer_sized(id, number, response, 0);
    }

    /// The same with so many bytes that are worth counting.
    pub(super) fn answer_sized(
        &mut self,
        id: ConnId,
        number: u64,
        response: Response,
        bytes: usize,
    ) {
        if let Some(conn) = self.conns.get_mut(&id) {
            let response = Some(response);
            conn.send_sized(Frame::State(wire::StateResponse { number, response }), bytes);
        }
    }
}

// === impl Log ===

impl Log {
    pub(super) fn new(app: Arc<str>, name: String) -> Self {
        Self {
            app,
            name,
            index: LogIndex::default(),
            assigned: 0,
            start: 1,
            start_assigned: 1,
            trim_wanted: 1,
            trim_waiters: Vec::new(),
            defined: false,
            readers: Vec::new(),
            recent: Default::default(),
            bytes: 0,
            awaited: false,
            due: false,
        }
    }
}

// === impl App ===

impl App {
    /// There is nothing of it.
    pub(super) fn is_empty(&self) -> bool {
        let Self { kinds, members, logs, purging, purged, purge: _ } = self;
        kinds.is_empty() && members.is_empty() && logs.is_empty() && !purging && !purged
    }

    /// What its members see.
    pub(super) fn view(&self) -> wire::Members {
        wire::Members {
            nodes: self.members.values().map(|member| member.info.clone()).collect(),
            kinds: self
                .kinds
                .iter()
                .map(|(name, &partitions)| wire::Kind { name: name.clone(), partitions })
                .collect(),
        }
    }
}
