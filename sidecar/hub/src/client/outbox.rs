//! What the callers of a client and its task share: the queue towards the hub, and what is known
//! of logs and requests. Everything is under one lock that is held for moments only.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use kar_proto::hub::v1 as wire;
use tokio::sync::{Notify, oneshot};
use wire::client_frame::Frame;
use wire::hub_frame::Frame as HubFrame;
use wire::state_request::Request;
use wire::state_response::Response;

use super::convert;
use super::requests::Requests;
use crate::error::HubError;
use crate::options::{FRAMES_PER_MESSAGE_MAX, MESSAGE_BYTES_TARGET};
use crate::types::{HubEvent, LogName, Value};

/// One over the part of the queue that requests may take which wait for their answers.
const REQUESTS_PART: usize = 2;
/// What a frame costs in the queue besides its bytes, bytes.
const FRAME_BYTES: usize = 64;

/// Shared between callers and the client's task.
pub(crate) struct Shared {
    state: Mutex<State>,
    closed: Notify,
    queue_bytes_max: usize,
}

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
    /// Kinds asked for that no view has shown yet, and that were not refused, unless they are offered.
    kinds: BTreeMap<String, u32>,
    requests: Requests,
    /// The data directory that this client belongs to, once it is known.
    directory: Directory,
    /// Actor states of which not every part has come, by log and actor.
    parts: HashMap<(u32, String), Vec<(String, Value)>>,
}

struct Log {
    name: LogName,
    reading: Option<u32>,
}

/// A data directory, as hubs name it.
#[derive(Default)]
struct Directory {
    /// Empty until the first welcome.
    id: String,
    /// It is gone: no other one will do.
    lost: bool,
}

/// A request whose answer somebody waits for. Dropped before it came, it is forgotten.
pub(crate) struct Wish {
    shared: Arc<Shared>,
    number: u64,
    /// What ends it at the hub.
    cancel: Option<wire::CancelFetch>,
    /// The answer is still to come.
    open: bool,
}

/// The frames of one connection, as the request stream of the call.
pub(crate) struct Outgoing {
    shared: Arc<Shared>,
    generation: u64,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(queue_bytes_max: usize) -> Self {
        let state = State::new(Requests::new(queue_bytes_max / REQUESTS_PART));
        Self { state: Mutex::new(state), closed: Notify::new(), queue_bytes_max }
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

    /// Queues a request; it is repeated on later connections until it is answered, or forgotten.
    pub(crate) fn request(
        self: &Arc<Self>,
        request: Request,
    ) -> Result<(Wish, oneshot::Receiver<Response>), HubError> {
        let mut state = self.lock();
        if state.closed {
            return Err(HubError::Closed);
        }
        let (number, bytes, answered) = state.requests.add(request.clone())?;
        let cancel = cancel_of(number, &request);
        if state.online {
            self.push(&mut state, request_frame(number, request), bytes);
        }
        Ok((Wish { shared: Arc::clone(self), number, cancel, open: true }, answered))
    }

    /// Nobody waits for the answer to a request any more. What waits at the hub for long is told to end.
    fn forget(&self, number: u64, cancel: Option<wire::CancelFetch>) {
        let mut state = self.lock();
        if state.requests.forget(number)
            && state.online
            && let Some(cancel) = cancel
        {
            self.push(&mut state, Frame::CancelFetch(cancel), 0);
        }
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

    /// There will be no connection any more, and no answers.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.go_offline();
        state.closed = true;
        state.requests.abandon();
    }

    /// Whether the data directory was lost, as its hub told.
    pub(crate) fn is_directory_lost(&self) -> bool {
        self.lock().directory.lost
    }

    /// Id of the data directory; empty before the first welcome.
    pub(crate) fn directory_id(&self) -> String {
        self.lock().directory.id.clone()
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

    /// The connection is attached to a data directory: repeats what outlives connections.
    pub(crate) fn welcomed(&self, directory_id: &str) {
        let mut state = self.lock();
        state.online = true;
        directory_id.clone_into(&mut state.directory.id);
        if let Some(offer) = state.offer.clone() {
            self.push(&mut state, Frame::Offer(offer), 0);
        }
        for (name, partitions) in state.kinds.clone() {
            self.push(&mut state, ensure_frame(wire::Kind { name, partitions }), 0);
        }
        for (number, request, bytes) in state.requests.again() {
            self.push(&mut state, request_frame(number, request), bytes);
        }
    }

    /// What a frame means to the handler; answers to requests go to those who wait for them.
    pub(crate) fn events(&self, frames: Vec<wire::HubFrame>) -> Vec<HubEvent> {
        let mut state = self.lock();
        frames.into_iter().filter_map(|f| f.frame).filter_map(|f| state.event(f)).collect()
    }
}

// === impl State ===

impl State {
    fn new(requests: Requests) -> Self {
        Self {
            online: false,
            closed: false,
            overflow: false,
            generation: 0,
            queue: VecDeque::new(),
            queue_bytes: 0,
            waker: None,
            numbers: HashMap::new(),
            logs: Vec::new(),
            next_reading: 0,
            offer: None,
            kinds: BTreeMap::new(),
            requests,
            directory: Directory::default(),
            parts: HashMap::new(),
        }
    }

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
            HubFrame::Fault(f) if f.reason() == wire::FaultReason::DirectoryLost => {
                self.directory.lost = true;
                HubEvent::DirectoryLost { message: f.message }
            }
            HubFrame::Fault(f) => HubEvent::Fault { message: f.message },
            HubFrame::KindRefused(f) => {
                // Another hub may have room for what is offered. Of others there is no end.
                if !self.offer.as_ref().is_some_and(|offer| offer.kinds.contains(&f.kind)) {
                    self.kinds.remove(&f.kind);
                }
                HubEvent::KindRefused { kind: f.kind, bound: f.bound, limit: f.limit }
            }
            HubFrame::State(f) => {
                self.requests.answer(f.number, f.response);
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

/// What ends a request at the hub, if it may wait there for long.
fn cancel_of(number: u64, request: &Request) -> Option<wire::CancelFetch> {
    match request {
        Request::FetchEvents(fetch) if fetch.wait_ms > 0 => {
            let (topic_id, partition) = (fetch.topic_id.clone(), fetch.partition);
            Some(wire::CancelFetch { number, topic_id, partition })
        }
        _ => None,
    }
}

fn request_frame(number: u64, request: Request) -> Frame {
    Frame::State(wire::StateRequest { number, request: Some(request) })
}

// === impl Wish ===

impl Wish {
    /// The answer has come.
    pub(crate) fn granted(mut self) {
        self.open = false;
    }
}

impl Drop for Wish {
    fn drop(&mut self) {
        if self.open {
            self.shared.forget(self.number, self.cancel.take());
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The kinds that a new connection asks for.
    fn asked_again(shared: &Arc<Shared>) -> Vec<String> {
        drop(shared.begin(wire::Hello::default()));
        shared.welcomed("id");
        let state = shared.lock();
        let frames = state.queue.iter().filter_map(|(frame, _)| match frame {
            Frame::EnsureKind(ensure) => ensure.kind.as_ref().map(|kind| kind.name.clone()),
            _ => None,
        });
        frames.collect()
    }

    /// There is no end of names that clients may call; those of a host are few, and another hub may have room.
    #[test]
    fn kinds_that_were_refused_are_asked_for_again_only_if_they_are_offered() {
        let shared = Arc::new(Shared::new(1 << 20));
        shared.offer(wire::Offer { kinds: vec!["a.Offered".into()], leaving: false });
        for name in ["a.Offered", "a.Called", "a.Unanswered"] {
            shared.ensure_kind(wire::Kind { name: name.into(), partitions: 1 });
        }
        let refused = |kind: &str| wire::HubFrame {
            frame: Some(HubFrame::KindRefused(wire::KindRefused {
                kind: kind.into(),
                ..Default::default()
            })),
        };
        assert_eq!(shared.events(vec![refused("a.Offered"), refused("a.Called")]).len(), 2);
        assert_eq!(asked_again(&shared), ["a.Offered", "a.Unanswered"]);
    }
}
