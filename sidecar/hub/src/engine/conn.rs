//! A client's connection: what is to be sent on it, and the readings of logs.
//!
//! Nothing is pushed: when the stream has room it asks for the next message, which is made then,
//! first from the queue of answers, then from the readings in turn. So a client that reads slowly
//! costs what is queued for it and one read-ahead per reading, and no more.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use kar_proto::hub::v1 as wire;
use tonic::Status;
use wire::hub_frame::Frame;

use super::{App, DiskJob, Engine, Log, LogId, ReadJob, Threads};
use crate::error::HubError;
use crate::options::{FRAMES_PER_MESSAGE_MAX, MESSAGE_BYTES_TARGET};
use crate::snapshots::SnapshotJob;

/// Names a connection; never used twice.
pub(crate) type ConnId = u64;

/// Records asked of the disk reader at once.
const READ_RECORDS: usize = 256;
/// Own records not yet told per reading; beyond it the client is not heard.
pub(super) const OWN_MAX: usize = 65_536;
/// What a frame costs besides its bytes, bytes.
const FRAME_BYTES: usize = 32;

pub(super) struct Conn {
    /// Set by `Hello`.
    pub(super) app: Option<Arc<str>>,
    /// 0 for observers, and until it is granted.
    pub(super) incarnation: u64,
    pub(super) welcomed: bool,
    outbox: VecDeque<(Frame, usize)>,
    pub(super) outbox_bytes: usize,
    pub(super) view_due: bool,
    waker: Option<Waker>,
    pub(super) input_waker: Option<Waker>,
    /// What the client calls a log: its name, its id.
    pub(super) handles: HashMap<u32, (String, LogId)>,
    pub(super) readings: HashMap<LogId, Reading>,
    /// Readings that may have something to send, in turn.
    due: VecDeque<LogId>,
    pub(super) store_steps: usize,
    /// It has asked for snapshots: parts of one may be kept for it.
    pub(super) snapshots: bool,
    /// Own records not yet told, over all readings.
    pub(super) own: usize,
    pub(super) silent_ticks: u32,
    sent: bool,
    closed: Option<Status>,
}

/// The reading of a log by a client.
pub(super) struct Reading {
    /// What the client calls the log and the reading.
    pub(super) handle: u32,
    pub(super) number: u32,
    /// Names it for the disk reader.
    pub(super) serial: u64,
    /// Offset of the next record to send.
    pub(super) next: u64,
    /// `End` is due when everything up to here has been sent; ascending.
    pub(super) ends: VecDeque<u64>,
    /// The client's own records that are durable: offset, id.
    own: VecDeque<(u64, u64)>,
    /// Records from disk, the first of which is `next`.
    ahead: VecDeque<Bytes>,
    disk_busy: bool,
    due: bool,
}

/// A message being made.
#[derive(Default)]
struct Message {
    frames: Vec<wire::HubFrame>,
    bytes: usize,
}

// === impl Message ===

impl Message {
    fn full(&self) -> bool {
        self.frames.len() >= FRAMES_PER_MESSAGE_MAX || self.bytes >= MESSAGE_BYTES_TARGET
    }

    fn push(&mut self, frame: Frame, bytes: usize) {
        self.bytes += bytes + FRAME_BYTES;
        self.frames.push(wire::HubFrame { frame: Some(frame) });
    }
}

// === impl Reading ===

impl Reading {
    pub(super) fn new(handle: u32, number: u32, serial: u64, next: u64) -> Self {
        Self {
            handle,
            number,
            serial,
            next,
            ends: VecDeque::new(),
            own: VecDeque::new(),
            ahead: VecDeque::new(),
            disk_busy: false,
            due: false,
        }
    }

    /// How many own records have not been told.
    pub(super) fn own(&self) -> usize {
        self.own.len()
    }

    /// Puts what can be sent now into the message. True: there is more for the next message.
    fn pump(
        &mut self,
        conn: ConnId,
        log: LogId,
        state: &Log,
        to: &mut Message,
        io: &mut Io<'_>,
    ) -> bool {
        let (handle, number) = (self.handle, self.number);
        loop {
            while self.ends.front().is_some_and(|&end| end < self.next) {
                self.ends.pop_front();
                to.push(Frame::End(wire::End { log: handle, reading: number }), 0);
            }
            if self.next > state.index.last() {
                return false;
            }
            if to.full() {
                return true;
            }
            let offset = self.next;
            if let Some((_, id)) = self.own.pop_front_if(|(own, _)| *own == offset) {
                *io.own -= 1;
                let own = wire::Own { log: handle, reading: number, offset, id };
                to.push(Frame::Own(own), 0);
            } else if let Some(record) = self.ahead.pop_front().or_else(|| state.recent_at(offset))
            {
                let bytes = record.len();
                let entry = wire::Entry { log: handle, reading: number, offset, record };
                to.push(Frame::Entry(entry), bytes);
            } else {
                self.read_ahead(conn, log, state, io);
                return false;
            }
            self.next += 1;
        }
    }

    /// Has the next records read, up to the next own one.
    fn read_ahead(&mut self, conn: ConnId, log: LogId, state: &Log, io: &mut Io<'_>) {
        if std::mem::replace(&mut self.disk_busy, true) {
            return;
        }
        let last = self.own.front().map_or(u64::MAX, |(offset, _)| offset - 1);
        let wanted = last.saturating_sub(self.next - 1).min(READ_RECORDS as u64) as usize;
        let mut cursor = state.index.cursor(self.next);
        let mut addresses = Vec::new();
        while addresses.len() < wanted
            && let Some(place) = state.index.next(&mut cursor)
        {
            addresses.push(place.address);
        }
        // If the disk reader is gone the hub is ending.
        let _ = io.threads.disk.send(DiskJob::Read(ReadJob {
            conn,
            log,
            serial: self.serial,
            first: self.next,
            addresses,
            bytes_max: io.bytes_max,
        }));
    }
}

/// What a reading needs of its surroundings.
struct Io<'a> {
    threads: &'a Threads,
    bytes_max: usize,
    /// Own records of the connection that have not been told.
    own: &'a mut usize,
}

// === impl Log ===

impl Log {
    /// A record, if it is still in memory.
    pub(super) fn recent_at(&self, offset: u64) -> Option<Bytes> {
        let first = self.index.last() + 1 - self.recent.len() as u64;
        self.recent.get(usize::try_from(offset.checked_sub(first)?).ok()?).cloned()
    }
}

// === impl Conn ===

impl Conn {
    pub(super) fn new() -> Self {
        Self {
            app: None,
            incarnation: 0,
            welcomed: false,
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            view_due: false,
            waker: None,
            input_waker: None,
            handles: HashMap::new(),
            readings: HashMap::new(),
            due: VecDeque::new(),
            store_steps: 0,
            snapshots: false,
            own: 0,
            silent_ticks: 0,
            sent: false,
            closed: None,
        }
    }

    /// Queues an answer.
    pub(super) fn send(&mut self, frame: Frame) {
        self.send_sized(frame, 0);
    }

    pub(super) fn send_sized(&mut self, frame: Frame, bytes: usize) {
        self.outbox.push_back((frame, bytes + FRAME_BYTES));
        self.outbox_bytes += bytes + FRAME_BYTES;
        self.wake();
    }

    /// Ends the connection once what is queued has been sent.
    pub(super) fn close(&mut self, why: Status) {
        self.closed.get_or_insert(why);
        self.wake();
        if let Some(waker) = self.input_waker.take() {
            waker.wake();
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// A log that is read here has a new durable record, own if it has an id. False: the reader
    /// will want its bytes.
    pub(super) fn advance(&mut self, log: LogId, offset: u64, own: Option<u64>) -> bool {
        let Some(reading) = self.readings.get_mut(&log) else { return true };
        if reading.next > offset {
            return true;
        }
        if let Some(id) = own {
            reading.own.push_back((offset, id));
            self.own += 1;
        }
        self.due(log);
        own.is_some()
    }

    /// A reading may have something to send.
    pub(super) fn due(&mut self, log: LogId) {
        if let Some(reading) = self.readings.get_mut(&log)
            && !std::mem::replace(&mut reading.due, true)
        {
            self.due.push_back(log);
        }
        self.wake();
    }

    /// Half a second has passed; true: the client has been silent for too long. Who is not heard cannot speak: that
    /// does not count while the hub is `busy`, nor while the client at least takes what it is told.
    pub(super) fn tick(&mut self, silent_max: u32, busy: bool, unread: bool) -> bool {
        let takes = std::mem::take(&mut self.sent);
        if self.welcomed && !takes {
            self.send(Frame::Alive(wire::Alive {}));
        }
        if busy || (unread && takes) {
            self.silent_ticks = 0;
        }
        self.silent_ticks += 1;
        self.silent_ticks > silent_max
    }
}

// === impl Engine ===

impl Engine {
    pub(crate) fn attach(&mut self) -> Result<ConnId, Status> {
        if self.stopping || self.fault.is_some() {
            return Err(Status::unavailable("the hub ends"));
        }
        if self.conns.len() >= self.limits.clients_max {
            let max = self.limits.clients_max;
            let text = format!("as many clients are attached as may (clients_max is {max})");
            return Err(Status::resource_exhausted(text));
        }
        self.next_conn += 1;
        self.conns.insert(self.next_conn, Conn::new());
        self.idle_since = None;
        Ok(self.next_conn)
    }

    /// The connection is gone.
    pub(crate) fn detach(&mut self, id: ConnId) {
        let Some(mut conn) = self.conns.remove(&id) else { return };
        self.drop_fetches(id);
        conn.wake();
        for log in conn.readings.keys() {
            if let Some(state) = self.logs.get_mut(log) {
                state.readers.retain(|reader| *reader != id);
            }
        }
        if conn.snapshots {
            // If the thread is gone the hub is ending.
            let _ = self.threads.snapshots.send(SnapshotJob::Gone(id));
        }
        if let Some(app) = &conn.app {
            self.leave(app, conn.incarnation, id);
            self.forget_if_empty(app);
        }
        if self.conns.is_empty() {
            self.idle_since = Some(Instant::now());
        }
    }

    /// An application that was only looked at leaves nothing behind.
    fn forget_if_empty(&mut self, app: &Arc<str>) {
        let is_used = |conn: &Conn| conn.app.as_ref() == Some(app);
        if self.apps.get(app).is_some_and(App::is_empty) && !self.conns.values().any(is_used) {
            self.apps.remove(app);
        }
    }

    /// Ends a connection.
    pub(crate) fn close(&mut self, id: ConnId, why: Status) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.close(why);
        }
    }

    /// The next message for a client.
    pub(crate) fn poll_message(
        &mut self,
        id: ConnId,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<wire::AttachResponse, Status>>> {
        self.read_held(id);
        let Some(conn) = self.conns.get_mut(&id) else { return Poll::Ready(None) };
        let mut to = Message::default();
        while !to.full()
            && let Some((frame, bytes)) = conn.outbox.pop_front()
        {
            conn.outbox_bytes -= bytes;
            to.push(frame, bytes);
        }
        if conn.closed.is_none() {
            if conn.view_due
                && !to.full()
                && let Some(app) = conn.app.as_ref().and_then(|app| self.apps.get(app))
            {
                conn.view_due = false;
                let view = app.view();
                let bytes = prost::Message::encoded_len(&view);
                to.push(Frame::Members(view), bytes);
            }
            let bytes_max = self.limits.read_ahead_bytes;
            let mut io = Io { threads: &self.threads, bytes_max, own: &mut conn.own };
            for _ in 0..conn.due.len() {
                let Some(log) = conn.due.pop_front() else { break };
                let (Some(reading), Some(state)) =
                    (conn.readings.get_mut(&log), self.logs.get(&log))
                else {
                    continue;
                };
                reading.due = reading.pump(id, log, state, &mut to, &mut io);
                if reading.due {
                    conn.due.push_back(log);
                }
                if to.full() {
                    break;
                }
            }
        }
        if let Some(waker) = conn.input_waker.take() {
            waker.wake();
        }
        if !to.frames.is_empty() {
            conn.sent = true;
            return Poll::Ready(Some(Ok(wire::AttachResponse { frames: to.frames })));
        }
        match &conn.closed {
            Some(status) => Poll::Ready(Some(Err(status.clone()))),
            None => {
                conn.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether a client may be heard now; otherwise its task is woken when it may.
    pub(crate) fn poll_input(&mut self, id: ConnId, cx: &mut Context<'_>) -> Poll<()> {
        let paused = self.paused(id);
        let Some(conn) = self.conns.get_mut(&id) else { return Poll::Ready(()) };
        if paused && conn.closed.is_none() {
            conn.input_waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    pub(super) fn paused(&self, id: ConnId) -> bool {
        self.conns.get(&id).is_some_and(|conn| self.is_behind(conn) || self.is_unread(conn))
    }

    /// A client is not heard because the hub has too much to do …
    pub(super) fn is_behind(&self, conn: &Conn) -> bool {
        self.in_flight_bytes + self.topics.held_bytes > self.limits.uncommitted_bytes_max
            || conn.store_steps > self.limits.store_steps_max
    }

    /// … or because it does not take what it was told.
    pub(super) fn is_unread(&self, conn: &Conn) -> bool {
        conn.outbox_bytes > self.limits.outbox_bytes_max || conn.own > OWN_MAX
    }

    pub(super) fn wake_inputs(&mut self) {
        for conn in self.conns.values_mut() {
            if let Some(waker) = conn.input_waker.take() {
                waker.wake();
            }
        }
    }

    /// Records that were asked for cannot be read.
    pub(crate) fn unreadable(&mut self, job: &ReadJob, error: HubError) {
        // A purged log's files may be gone, and those of records that were trimmed meanwhile.
        if self.logs.get(&job.log).is_some_and(|log| log.start <= job.first) {
            self.fail(error);
        }
    }

    /// Records that were asked for have been read.
    pub(crate) fn read(&mut self, job: &ReadJob, records: Vec<Bytes>) {
        let Some(conn) = self.conns.get_mut(&job.conn) else { return };
        let Some(reading) = conn.readings.get_mut(&job.log) else { return };
        if reading.serial == job.serial {
            reading.disk_busy = false;
            reading.ahead.extend(records);
            conn.due(job.log);
        }
    }
}
