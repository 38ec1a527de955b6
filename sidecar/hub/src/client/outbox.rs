//! What the callers of a client and its task share: the queue towards the hub, and what is known
//! of logs and requests. Everything is under one lock that is held for moments only.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use futures_util::Stream;
use kar_proto::hub::v1 as wire;
use tokio::sync::{Notify, oneshot};
use wire::client_frame::Frame;
use wire::hub_frame::Frame as HubFrame;
use wire::state_request::Request;
use wire::state_response::Response;

use super::convert;
use crate::error::HubError;
use crate::options::{FRAMES_PER_MESSAGE_MAX, MESSAGE_BYTES_TARGET};
use crate::types::{HubEvent, LogName, Value};

/// Requests about application state that wait for their answers, per client.
const REQUESTS_MAX: usize = 10_000;
/// What a frame costs in the queue besides its bytes, bytes.
const FRAME_BYTES: usize = 64;

/// Shared between callers and the client's task.
pub(crate) struct Shared {
    state: Mutex<State>,
    closed: Notify,
    queue_bytes_max: usize,
}

#[derive(Default)]
struct State {
    /// There is a connection and its `Welcome` has come.
    online: bool,
    closed: bool,
    /// The queue grew too long; the connection must end.
    overflow: bool,
    /// Names the connection; frames go out on the newest only.
    generation: u64,
    queue: VecDeque<(Frame, usize)>,
    queue_bytes: usize,
    waker: Option<Waker>,
    numbers: HashMap<LogName, u32>,
    logs: Vec<Log>,
    next_reading: u32,
    offer: Option<wire::Offer>,
    /// Kinds asked for that no view has shown yet.
    kinds: BTreeMap<String, u32>,
    requests: BTreeMap<u64, Asked>,
    next_request: u64,
    /// Actor states of which not every part has come, by log and actor.
    parts: HashMap<(u32, String), Vec<(String, Value)>>,
}

/// A request that waits for its answer.
struct Asked {
    request: Request,
    answer: oneshot::Sender<Response>,
    since: Instant,
}

struct Log {
    name: LogName,
    reading: Option<u32>,
}

/// The frames of one connection, as the request stream of the call.
pub(crate) struct Outgoing {
    shared: Arc<Shared>,
    generation: u64,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(queue_bytes_max: usize) -> Self {
        Self { state: Mutex::default(), closed: Notify::new(), queue_bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Queues a frame about a log.
    pub(crate) fn log_frame(&self, log: &LogName, bytes: usize, make: impl FnOnce(u32) -> Frame) {
        let mut state = self.lock();
        if state.online {
            let number = state.number(log);
            self.push(&mut state, make(number), bytes);
        }
    }

    pub(crate) fn read_log(&self, log: &LogName, from: u64) {
        let mut state = self.lock();
        if !state.online {
            return;
        }
        let number = state.number(log);
        state.next_reading = state.next_reading.wrapping_add(1);
        let reading = state.next_reading;
        state.log(number).reading = Some(reading);
        let frame = wire::ReadLog { log: number, reading, from };
        self.push(&mut state, Frame::ReadLog(frame), 0);
    }

    pub(crate) fn barrier(&self, log: &LogName) {
        let mut state = self.lock();
        if !state.online {
            return;
        }
        let number = state.number(log);
        // Without a reading the hub answers that it is lost, under the number that is kept here.
        let reading = *state.log(number).reading.get_or_insert(0);
        self.push(&mut state, Frame::Barrier(wire::Barrier { log: number, reading }), 0);
    }

    pub(crate) fn stop_log(&self, log: &LogName) {
        let mut state = self.lock();
        if !state.online {
            return;
        }
        let number = state.number(log);
        if state.log(number).reading.take().is_some() {
            self.push(&mut state, Frame::StopLog(wire::StopLog { log: number }), 0);
        }
    }

    pub(crate) fn offer(&self, offer: wire::Offer) {
        let mut state = self.lock();
        state.offer = Some(offer.clone());
        if state.online {
            self.push(&mut state, Frame::Offer(offer), 0);
        }
    }

    pub(crate) fn ensure_kind(&self, kind: wire::Kind) {
        let mut state = self.lock();
        state.kinds.insert(kind.name.clone(), kind.partitions);
        if state.online {
            self.push(&mut state, ensure_frame(kind), 0);
        }
    }

    /// Queues a request; it is repeated on later connections until it is answered.
    pub(crate) fn request(
        &self,
        request: Request,
    ) -> Result<oneshot::Receiver<Response>, HubError> {
        let (answer, answered) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(HubError::Closed);
        }
        if state.requests.len() >= REQUESTS_MAX {
            state.requests.retain(|_, asked| !asked.answer.is_closed());
            if state.requests.len() >= REQUESTS_MAX {
                let text = format!("{REQUESTS_MAX} requests are waiting for the hub already");
                return Err(HubError::Invalid(text));
            }
        }
        state.next_request += 1;
        let number = state.next_request;
        let asked = Asked { request: request.clone(), answer, since: Instant::now() };
        state.requests.insert(number, asked);
        if state.online {
            let bytes = request.encoded_len();
            self.push(&mut state, request_frame(number, request), bytes);
        }
        Ok(answered)
    }

    fn push(&self, state: &mut State, frame: Frame, bytes: usize) {
        let bytes = bytes + FRAME_BYTES;
        state.queue_bytes += bytes;
        if state.queue_bytes > self.queue_bytes_max {
            state.overflow = true;
        }
        if !state.overflow {
            state.queue.push_back((frame, bytes));
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Queues a sign of life if nothing else is on its way.
    pub(crate) fn alive(&self) {
        let mut state = self.lock();
        if state.online && state.queue.is_empty() {
            self.push(&mut state, Frame::Alive(wire::Alive {}), 0);
        }
    }

    /// Lets what is queued go out, then closes for good.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        self.closed.notify_one();
    }

    /// Returns when the client was closed.
    pub(crate) async fn closed(&self) {
        while !self.lock().closed {
            self.closed.notified().await;
        }
    }

    /// Begins a connection with its first frame; earlier ones are cut off.
    pub(crate) fn begin(self: &Arc<Self>, hello: wire::Hello) -> Outgoing {
        let mut state = self.lock();
        state.go_offline();
        state.forget_numbers();
        state.queue.push_back((Frame::Hello(hello), 0));
        Outgoing { shared: Arc::clone(self), generation: state.generation }
    }

    /// The connection broke: forgets what was on it. Returns what the handler is to be told.
    pub(crate) fn broken(&self) -> Vec<HubEvent> {
        let mut state = self.lock();
        let was_online = state.online;
        state.go_offline();
        if !was_online {
            return Vec::new();
        }
        let mut events = Vec::new();
        for log in &mut state.logs {
            if log.reading.take().is_some() {
                events.push(HubEvent::LogLost { log: log.name.clone() });
            }
        }
        events.push(HubEvent::Disconnected);
        events
    }

    /// The connection is attached: repeats what outlives connections.
    pub(crate) fn welcomed(&self) {
        let mut state = self.lock();
        state.online = true;
        if let Some(offer) = state.offer.clone() {
            self.push(&mut state, Frame::Offer(offer), 0);
        }
        for (name, partitions) in state.kinds.clone() {
            self.push(&mut state, ensure_frame(wire::Kind { name, partitions }), 0);
        }
        state.requests.retain(|_, asked| !asked.answer.is_closed());
        let requests: Vec<_> =
            state.requests.iter().map(|(&number, asked)| (number, asked.again())).collect();
        for (number, request) in requests {
            let bytes = request.encoded_len();
            self.push(&mut state, request_frame(number, request), bytes);
        }
    }

    /// What a frame means to the handler; answers to requests go to those who wait for them.
    pub(crate) fn events(&self, frames: Vec<wire::HubFrame>) -> Vec<HubEvent> {
        let mut state = self.lock();
        frames.into_iter().filter_map(|f| f.frame).filter_map(|f| state.event(f)).collect()
    }
}

// === impl Asked ===

impl Asked {
    /// The request as it is repeated on a later connection.
    fn again(&self) -> Request {
        let mut request = self.request.clone();
        if let Request::PublishEvents(publish) = &mut request {
            let ago = self.since.elapsed().as_millis();
            publish.sent_ms_ago = u64::try_from(ago).unwrap_or(u64::MAX).max(1);
        }
        request
    }
}

// === impl State ===

impl State {
    /// The number of a log, made known to the hub at its first use on the connection.
    fn number(&mut self, log: &LogName) -> u32 {
        if let Some(&number) = self.numbers.get(log) {
            return number;
        }
        let number = u32::try_from(self.logs.len()).expect("fewer logs than numbers");
        self.numbers.insert(log.clone(), number);
        self.logs.push(Log { name: log.clone(), reading: None });
        let open = wire::OpenLog { log: number, name: log.as_str().to_owned() };
        self.queue.push_back((Frame::OpenLog(open), 0));
        number
    }

    fn log(&mut self, number: u32) -> &mut Log {
        &mut self.logs[number as usize]
    }

    fn name(&self, number: u32) -> Option<LogName> {
        self.logs.get(number as usize).map(|log| log.name.clone())
    }

    /// The log's name, if this is its current reading.
    fn reading(&self, number: u32, reading: u32) -> Option<LogName> {
        let log = self.logs.get(number as usize)?;
        (log.reading == Some(reading)).then(|| log.name.clone())
    }

    fn go_offline(&mut self) {
        self.online = false;
        self.overflow = false;
        self.generation += 1;
        self.queue.clear();
        self.queue_bytes = 0;
        self.parts.clear();
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Log numbers belong to a connection; they are forgotten when the next one begins, so that
    /// the readings of the old one could be named until then.
    fn forget_numbers(&mut self) {
        self.numbers.clear();
        self.logs.clear();
    }

    fn event(&mut self, frame: HubFrame) -> Option<HubEvent> {
        Some(match frame {
            HubFrame::Entry(f) => {
                let log = self.reading(f.log, f.reading)?;
                HubEvent::Entry { log, offset: f.offset, record: f.record }
            }
            HubFrame::Own(f) => {
                let log = self.reading(f.log, f.reading)?;
                HubEvent::Own { log, offset: f.offset, id: f.id }
            }
            HubFrame::LogStart(f) if f.reading == 0 => {
                HubEvent::LogStart { log: self.name(f.log)?, start: f.start }
            }
            HubFrame::LogStart(f) => {
                HubEvent::LogStart { log: self.reading(f.log, f.reading)?, start: f.start }
            }
            HubFrame::LogTrimmed(f) => {
                let log = self.reading(f.log, f.reading)?;
                self.log(f.log).reading = None;
                HubEvent::LogTrimmed { log, start: f.start }
            }
            HubFrame::End(f) => HubEvent::End { log: self.reading(f.log, f.reading)? },
            HubFrame::LogLost(f) => {
                let log = self.reading(f.log, f.reading)?;
                self.log(f.log).reading = None;
                HubEvent::LogLost { log }
            }
            HubFrame::Members(f) => self.members(f),
            HubFrame::ActorLoaded(f) => self.actor_loaded(f)?,
            HubFrame::StoreCell(f) => {
                HubEvent::StoreCell { log: self.name(f.log)?, cell: convert::cell(f.cell) }
            }
            HubFrame::StoreFenced(f) => {
                let (epoch, cell) = (f.epoch, convert::cell(f.cell));
                HubEvent::StoreFenced { log: self.name(f.log)?, epoch, cell }
            }
            HubFrame::StoreWritten(f) => {
                HubEvent::StoreWritten { log: self.name(f.log)?, epoch: f.epoch, upto: f.upto }
            }
            HubFrame::StoreRefused(f) => {
                let (epoch, cell) = (f.epoch, convert::cell(f.cell));
                HubEvent::StoreRefused { log: self.name(f.log)?, epoch, cell }
            }
            HubFrame::Fault(f) => HubEvent::Fault { message: f.message },
            HubFrame::KindRefused(f) => {
                HubEvent::KindRefused { kind: f.kind, bound: f.bound, limit: f.limit }
            }
            HubFrame::State(f) => {
                if let (Some(asked), Some(response)) = (self.requests.remove(&f.number), f.response)
                {
                    // Whoever asked may have stopped waiting; that is their right.
                    let _ = asked.answer.send(response);
                }
                return None;
            }
            HubFrame::Welcome(_) | HubFrame::Alive(_) => return None,
        })
    }

    fn members(&mut self, view: wire::Members) -> HubEvent {
        let kinds: Vec<_> = view.kinds.into_iter().map(|k| (k.name, k.partitions)).collect();
        for (name, _) in &kinds {
            self.kinds.remove(name);
        }
        HubEvent::Members { nodes: view.nodes.into_iter().map(convert::member).collect(), kinds }
    }

    fn actor_loaded(&mut self, part: wire::ActorLoaded) -> Option<HubEvent> {
        let log = self.name(part.log)?;
        let entries = part.entries.into_iter().map(|e| (e.key, convert::value_back(e.value)));
        let key = (part.log, part.actor);
        if part.more {
            self.parts.entry(key).or_default().extend(entries);
            return None;
        }
        let mut state = self.parts.remove(&key).unwrap_or_default();
        state.extend(entries);
        let cell = part.cell.unwrap_or_default();
        Some(HubEvent::ActorLoaded {
            log,
            actor: key.1,
            cell_epoch: cell.epoch,
            cell_offset: cell.offset,
            state,
            epoch: part.epoch,
        })
    }
}

fn ensure_frame(kind: wire::Kind) -> Frame {
    Frame::EnsureKind(wire::EnsureKind { kind: Some(kind) })
}

fn request_frame(number: u64, request: Request) -> Frame {
    Frame::State(wire::StateRequest { number, request: Some(request) })
}

// === impl Outgoing ===

impl Stream for Outgoing {
    type Item = wire::AttachRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.shared.lock();
        if state.generation != self.generation || state.overflow {
            return Poll::Ready(None);
        }
        if state.queue.is_empty() {
            if state.closed {
                return Poll::Ready(None);
            }
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut frames = Vec::with_capacity(state.queue.len().min(FRAMES_PER_MESSAGE_MAX));
        let mut bytes = 0;
        while frames.len() < FRAMES_PER_MESSAGE_MAX && bytes < MESSAGE_BYTES_TARGET {
            let fits = state
                .queue
                .front()
                .is_some_and(|(_, next)| frames.is_empty() || bytes + next <= MESSAGE_BYTES_TARGET);
            let Some((frame, size)) = fits.then(|| state.queue.pop_front()).flatten() else {
                break;
            };
            frames.push(wire::ClientFrame { frame: Some(frame) });
            bytes += size;
        }
        state.queue_bytes = state.queue_bytes.saturating_sub(bytes);
        Poll::Ready(Some(wire::AttachRequest { frames }))
    }
}
