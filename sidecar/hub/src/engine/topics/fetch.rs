//! Reading events: from the disk, or from memory as soon as there are any.
//!
//! What is read from the disk for a client that does not take it would fill the memory, however many fetches it has
//! under way: so no more is read for it than its queue may hold, and the other fetches wait for their turns.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use kar_proto::hub::v1 as wire;
use wire::state_response::Response;

use super::super::conn::ConnId;
use super::super::{DiskJob, Engine, LogId};
use super::{TopicId, invalid, over, unknown_topic};
use crate::error::HubError;
use crate::options::{FETCH_WAIT_MS_MAX, MESSAGE_BYTES_TARGET};
use crate::topic::EventRecord;

/// Events read for one fetch.
const EVENTS_MAX: usize = 256;
/// Milliseconds of a tick.
const TICK_MS: u32 = 500;

/// A fetch that waits for an event.
pub(super) struct Waiting {
    pub(super) conn: ConnId,
    pub(super) number: u64,
    pub(super) first: u64,
    bytes_max: usize,
    /// The consumer and its session.
    pub(super) consumer: Option<(Arc<str>, String, u64)>,
    ticks: u32,
}

/// What is read from the disk for a client.
#[derive(Default)]
pub(super) struct Fetches {
    /// Bytes that are being read.
    reading: u64,
    /// Waiting for their turns.
    held: VecDeque<(TopicId, LogId, Waiting)>,
}

/// Events to be read.
pub(crate) struct FetchJob {
    pub(crate) conn: ConnId,
    pub(crate) number: u64,
    pub(crate) topic: TopicId,
    pub(crate) log: LogId,
    pub(crate) first: u64,
    pub(crate) addresses: Vec<u64>,
    pub(crate) bytes_max: usize,
    /// What its records take.
    bytes: u64,
}

// === impl Engine ===

impl Engine {
    pub(super) fn fetch_events(
        &mut self,
        conn: ConnId,
        number: u64,
        app: &Arc<str>,
        fetch: wire::FetchEvents,
    ) {
        if fetch.wait_ms > FETCH_WAIT_MS_MAX {
            let text = format!("a fetch waits for {FETCH_WAIT_MS_MAX} ms at most");
            return self.answer(conn, number, invalid(text));
        }
        let id = self.topics.by_id.get_key_value(fetch.topic_id.as_str());
        let Some((id, topic)) = id.map(|(id, topic)| (TopicId::clone(id), topic)) else {
            return self.answer(conn, number, unknown_topic(&fetch.topic_id));
        };
        let consumer = (!fetch.consumer.is_empty())
            .then(|| (Arc::clone(app), fetch.consumer.clone(), fetch.session));
        if let Some(response) = consumer.as_ref().and_then(|consumer| topic.superseded(consumer)) {
            return self.answer(conn, number, response);
        }
        let Some(partition) = topic.partitions.get(fetch.partition as usize) else {
            let text = format!("the topic has {} partitions", topic.partitions.len());
            return self.answer(conn, number, invalid(text));
        };
        let log = partition.log;
        let Some(state) = self.logs.get(&log) else { return };
        let first = fetch.first.max(1);
        if first < state.start {
            let (first, end) = (state.start, state.index.last() + 1);
            return self.answer(conn, number, nothing(first, end));
        }
        let bytes_max = (fetch.bytes_max as usize).min(MESSAGE_BYTES_TARGET);
        let ticks = fetch.wait_ms.div_ceil(TICK_MS);
        let waiting = Waiting { conn, number, first, bytes_max, consumer, ticks };
        let is_there = first <= state.index.last();
        if is_there && self.may_read(conn) {
            return self.read_events(id, log, waiting);
        }
        if ticks == 0 && !is_there {
            let end = state.index.last() + 1;
            return self.answer(conn, number, nothing(first, end));
        }
        if !self.may_wait(conn, is_there) {
            let what = "as many fetches wait for events as may";
            return self.answer(conn, number, over("fetches_max", self.limits.fetches_max, what));
        }
        self.topics.stats.waiting += 1;
        if is_there {
            return self.hold_fetch(id, log, waiting);
        }
        if let Some(state) = self.logs.get_mut(&log)
            && let Some(partition) = self.topics.partition(&id, fetch.partition)
        {
            state.awaited = true;
            partition.waiting.push(waiting);
        }
    }

    /// Whether one more fetch may wait: for events, of all clients; or, if they are there, until its own client takes
    /// what it is told, of that client. Those do not take up anybody else's room.
    fn may_wait(&self, conn: ConnId, is_there: bool) -> bool {
        let (max, waiting) = (self.limits.fetches_max, self.topics.stats.waiting);
        let fetches = &self.topics.fetches;
        if is_there {
            return fetches.get(&conn).is_none_or(|fetches| fetches.held.len() < max);
        }
        let held = || fetches.values().map(|fetches| fetches.held.len() as u64).sum::<u64>();
        waiting < max as u64 || waiting - held() < max as u64
    }

    /// Whether a client takes what it is told, so that more may be read for it.
    fn may_read(&self, conn: ConnId) -> bool {
        let reading = self.topics.fetches.get(&conn).map_or(0, |fetches| fetches.reading);
        let Some(conn) = self.conns.get(&conn) else { return true };
        conn.outbox_bytes as u64 + reading < self.limits.outbox_bytes_max as u64
    }

    fn hold_fetch(&mut self, topic: TopicId, log: LogId, fetch: Waiting) {
        let fetches = self.topics.fetches.entry(fetch.conn).or_default();
        fetches.held.push_back((topic, log, fetch));
    }

    /// A client may have taken something: reads for its fetches that waited for that.
    pub(in super::super) fn read_held(&mut self, conn: ConnId) {
        while self.may_read(conn)
            && let Some(fetches) = self.topics.fetches.get_mut(&conn)
        {
            let Some((topic, log, fetch)) = fetches.held.pop_front() else {
                if fetches.reading == 0 {
                    self.topics.fetches.remove(&conn);
                }
                return;
            };
            self.topics.stats.waiting -= 1;
            self.read_events(topic, log, fetch);
        }
    }

    /// A client is gone.
    pub(in super::super) fn drop_fetches(&mut self, conn: ConnId) {
        let gone = self.topics.fetches.remove(&conn);
        self.topics.stats.waiting -= gone.map_or(0, |fetches| fetches.held.len() as u64);
    }

    fn read_events(&mut self, topic: TopicId, log: LogId, fetch: Waiting) {
        let Waiting { conn, number, first, bytes_max, .. } = fetch;
        // A fetch that waited for its turn may come too late.
        let Some(state) = self.logs.get(&log) else {
            return self.answer(conn, number, unknown_topic(&topic));
        };
        if first < state.start {
            let (first, end) = (state.start, state.index.last() + 1);
            return self.answer(conn, number, nothing(first, end));
        }
        let mut cursor = state.index.cursor(first);
        let (mut addresses, mut bytes) = (Vec::new(), 0);
        while addresses.len() < EVENTS_MAX
            && (addresses.is_empty() || bytes < bytes_max as u64)
            && let Some(place) = state.index.next(&mut cursor)
        {
            addresses.push(place.address);
            bytes += place.bytes;
        }
        self.topics.fetches.entry(conn).or_default().reading += bytes;
        let job = FetchJob { conn, number, topic, log, first, addresses, bytes_max, bytes };
        // If the disk reader is gone the hub is ending.
        let _ = self.threads.disk.send(DiskJob::Fetch(job));
    }

    /// A client's events are read, or cannot be.
    fn read_ended(&mut self, job: &FetchJob) {
        if let Some(fetches) = self.topics.fetches.get_mut(&job.conn) {
            fetches.reading = fetches.reading.saturating_sub(job.bytes);
            self.read_held(job.conn);
        }
    }

    /// Events have been read.
    pub(crate) fn fetched(&mut self, job: &FetchJob, records: &[Bytes]) {
        self.tell_events(job, records);
        self.read_ended(job);
    }

    fn tell_events(&mut self, job: &FetchJob, records: &[Bytes]) {
        let events: Result<Vec<_>, String> = records
            .iter()
            .map(|record| {
                let EventRecord { time_ms, event, .. } = EventRecord::decode(record)?;
                Ok(wire::FetchedEvent { time_ms, event })
            })
            .collect();
        let Ok(events) = events.map_err(|what| self.answer(job.conn, job.number, invalid(what)))
        else {
            return;
        };
        let end = self.logs.get(&job.log).map_or(0, |log| log.index.last() + 1);
        let bytes = records.iter().map(Bytes::len).sum();
        let fetched = wire::EventsFetched { first: job.first, events, end };
        self.answer_sized(job.conn, job.number, Response::EventsFetched(fetched), bytes);
    }

    /// The events cannot be read.
    pub(crate) fn fetch_failed(&mut self, job: &FetchJob, error: HubError) {
        self.tell_failed(job, error);
        self.read_ended(job);
    }

    fn tell_failed(&mut self, job: &FetchJob, error: HubError) {
        let Some(log) = self.logs.get(&job.log) else {
            return self.answer(job.conn, job.number, unknown_topic(&job.topic));
        };
        if log.start <= job.first {
            self.fail(error);
            return;
        }
        // They were let go meanwhile.
        let (first, end) = (log.start, log.index.last() + 1);
        self.answer(job.conn, job.number, nothing(first, end));
    }

    /// New events are durable: tells them those who wait, from memory if they are all there.
    pub(in super::super) fn feed(&mut self) {
        for log in std::mem::take(&mut self.topics.due) {
            let Some(state) = self.logs.get_mut(&log) else { continue };
            let last = state.index.last();
            state.due = false;
            let recent = std::mem::take(&mut state.recent);
            let Some((id, n)) = self.topics.by_log.get(&log).cloned() else { continue };
            let Some(partition) = self.topics.partition(&id, n) else { continue };
            let ready: Vec<_> = partition.waiting.extract_if(.., |w| w.first <= last).collect();
            state.awaited = !partition.waiting.is_empty();
            self.topics.stats.waiting -= ready.len() as u64;
            let kept_from = last + 1 - recent.len() as u64;
            for waiting in ready {
                let id = TopicId::clone(&id);
                match waiting.first.checked_sub(kept_from) {
                    Some(skip) => {
                        self.tell_recent(id, log, waiting, recent.iter().skip(skip as usize))
                    }
                    None => self.read_events(id, log, waiting),
                }
            }
        }
    }

    /// Tells events that are in memory, as many as one reading would.
    fn tell_recent<'a>(
        &mut self,
        topic: TopicId,
        log: LogId,
        fetch: Waiting,
        recent: impl Iterator<Item = &'a Bytes>,
    ) {
        let Waiting { conn, number, first, bytes_max, .. } = fetch;
        let mut bytes = 0;
        let fits = |record: &&Bytes| {
            let before = bytes;
            bytes += record.len();
            before == 0 || before < bytes_max
        };
        let records: Vec<_> = recent.take_while(fits).cloned().collect();
        let addresses = Vec::new();
        // In memory they are there once for all who want them.
        let job = FetchJob { conn, number, topic, log, first, addresses, bytes_max, bytes: 0 };
        self.tell_events(&job, &records);
    }

    /// A client does not want events any more that it waits for.
    pub(in super::super) fn cancel_fetch(&mut self, conn: ConnId, cancel: &wire::CancelFetch) {
        let is_it = |w: &Waiting| w.conn == conn && w.number == cancel.number;
        if let Some(fetches) = self.topics.fetches.get_mut(&conn)
            && let Some(at) = fetches.held.iter().position(|(.., fetch)| is_it(fetch))
        {
            fetches.held.remove(at);
            self.topics.stats.waiting -= 1;
            return;
        }
        let partition = self.topics.partition(&cancel.topic_id, cancel.partition);
        // It was answered meanwhile, or its topic is gone.
        let Some(partition) = partition else { return };
        let Some(at) = partition.waiting.iter().position(is_it) else { return };
        partition.waiting.swap_remove(at);
        self.topics.stats.waiting -= 1;
    }

    /// Ends waiting: by time, or for a consumer whose session is over.
    pub(super) fn end_waiting(
        &mut self,
        topic: &TopicId,
        mut ends: impl FnMut(&Waiting) -> Option<Response>,
    ) {
        let mut ended = Vec::new();
        for fetches in self.topics.fetches.values_mut() {
            fetches.held.retain(|(of, _, fetch)| {
                let response = if of == topic { ends(fetch) } else { None };
                let is_kept = response.is_none();
                ended.extend(response.map(|response| (fetch.conn, fetch.number, response)));
                is_kept
            });
        }
        let partitions = self.topics.by_id.get_mut(topic).map(|topic| &mut topic.partitions);
        for partition in partitions.into_iter().flatten() {
            partition.waiting.retain(|waiting| match ends(waiting) {
                Some(response) => {
                    ended.push((waiting.conn, waiting.number, response));
                    false
                }
                None => true,
            });
        }
        self.topics.stats.waiting -= ended.len() as u64;
        for (conn, number, response) in ended {
            self.answer(conn, number, response);
        }
    }

    /// Half a second has passed: answers who has waited for long enough.
    pub(super) fn tick_fetches(&mut self) {
        if self.topics.stats.waiting == 0 {
            return;
        }
        let mut ended = Vec::new();
        for topic in self.topics.by_id.values_mut() {
            for partition in &mut topic.partitions {
                let over = |waiting: &mut Waiting| {
                    let over = waiting.ticks == 0 || !self.conns.contains_key(&waiting.conn);
                    waiting.ticks = waiting.ticks.saturating_sub(1);
                    over
                };
                let log = partition.log;
                ended.extend(partition.waiting.extract_if(.., over).map(|waiting| (log, waiting)));
            }
        }
        self.topics.stats.waiting -= ended.len() as u64;
        for (log, Waiting { conn, number, first, .. }) in ended {
            let end = self.logs.get(&log).map_or(first, |log| log.index.last() + 1);
            self.answer(conn, number, nothing(first, end));
        }
    }
}

/// Nothing has come at or behind `first`.
fn nothing(first: u64, end: u64) -> Response {
    Response::EventsFetched(wire::EventsFetched { first, events: Vec::new(), end })
}
