//! Appending events, each request once; and the memory that all appending waits for.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use kar_proto::hub::v1 as wire;
use wire::meta::Meta;
use wire::state_response::Response;

use super::super::conn::ConnId;
use super::super::{DiskJob, Engine, InFlight, LogId, Then};
use super::channels::no_such_partition;
use super::requests::{AGE_MAX_MS, BYTES_MAX, EVENTS_MAX, Requests};
use super::{TopicId, invalid, refused, unknown_topic};
use crate::error::HubError;
use crate::options::{EVENT_BYTES_MAX, PUBLISH_EVENTS_MAX};
use crate::topic::{EventRecord, Origin, RequestKey};

/// Whether it is known what requests have appended.
pub(super) enum Memory {
    /// Nobody has published since the hub's start.
    Cold,
    /// The newest records are being read.
    Loading {
        /// Partitions that have not been read.
        left: usize,
        /// What is to be published then.
        held: VecDeque<Held>,
    },
    Ready,
}

/// Events that wait.
pub(super) struct Held {
    pub(super) conn: ConnId,
    pub(super) number: u64,
    pub(super) bytes: usize,
    wanted: Wanted,
    /// When it came, by the hub's own clock ([`Topics::uptime`](super::Topics::uptime)).
    came_ms: u64,
}

/// What is to be appended.
pub(super) enum Wanted {
    Published(wire::PublishEvents),
    /// … by this application.
    Numbered {
        app: Arc<str>,
        append: wire::AppendEvents,
    },
}

/// The newest records of a partition, to be read for their requests.
pub(crate) struct RecallJob {
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
    pub(crate) log: LogId,
    pub(crate) first: u64,
    pub(crate) addresses: Vec<u64>,
}

/// What a record says, without the event.
pub(crate) struct Recalled {
    pub(crate) origin: Origin,
    pub(crate) time_ms: u64,
    pub(crate) bytes: u64,
}

// === impl Engine ===

impl Engine {
    pub(super) fn publish_events(
        &mut self,
        conn: ConnId,
        number: u64,
        publish: wire::PublishEvents,
    ) {
        if let Err(what) = checked(&publish) {
            return self.answer(conn, number, invalid(what));
        }
        self.append_soon(conn, number, Wanted::Published(publish));
    }

    /// Appends when the topic's newest records are known.
    pub(super) fn append_soon(&mut self, conn: ConnId, number: u64, wanted: Wanted) {
        let came_ms = self.topics.uptime();
        let Some(topic) = self.topics.by_id.get_mut(wanted.topic_id()) else {
            return self.answer(conn, number, unknown_topic(wanted.topic_id()));
        };
        if let Some(partition) = wanted.missing_partition(topic.info.partitions) {
            let text = no_such_partition(topic.partitions.len(), partition);
            return self.answer(conn, number, invalid(text));
        }
        match &mut topic.memory {
            Memory::Ready => self.append_now(conn, number, wanted, came_ms),
            Memory::Loading { held, .. } => {
                let bytes = wanted.bytes();
                self.topics.held_bytes += bytes;
                held.push_back(Held { conn, number, bytes, wanted, came_ms });
            }
            Memory::Cold => {
                let id: TopicId = wanted.topic_id().into();
                let left = topic.partitions.len();
                topic.memory = Memory::Loading { left, held: VecDeque::new() };
                self.append_soon(conn, number, wanted);
                self.recall(&id);
            }
        }
    }

    fn append_now(&mut self, conn: ConnId, number: u64, wanted: Wanted, came_ms: u64) {
        match wanted {
            Wanted::Published(publish) => self.append_published(conn, number, publish, came_ms),
            Wanted::Numbered { app, append } => self.append_numbered(conn, number, &app, append),
        }
    }

    /// Has the newest records of a topic read.
    fn recall(&mut self, id: &TopicId) {
        let Some(topic) = self.topics.by_id.get(id) else { return };
        let logs: Vec<_> = topic.partitions.iter().map(|partition| partition.log).collect();
        for (partition, log) in (0..).zip(logs) {
            self.recall_partition(TopicId::clone(id), partition, log);
        }
    }

    fn recall_partition(&self, topic: TopicId, partition: u32, log: LogId) {
        let Some(state) = self.logs.get(&log) else { return };
        let index = &state.index;
        let first = (index.last() + 1).saturating_sub(EVENTS_MAX as u64).max(index.first());
        let mut cursor = index.cursor(first);
        let mut places = VecDeque::new();
        let mut bytes = 0;
        while let Some(place) = index.next(&mut cursor) {
            bytes += place.bytes;
            places.push_back(place);
            while bytes > BYTES_MAX && places.len() > 1 {
                bytes -= places.pop_front().map_or(0, |place| place.bytes);
            }
        }
        let first = index.last() + 1 - places.len() as u64;
        let addresses = places.iter().map(|place| place.address).collect();
        let job = RecallJob { topic, partition, log, first, addresses };
        // If the disk reader is gone the hub is ending.
        let _ = self.threads.disk.send(DiskJob::Recall(job));
    }

    /// The newest records of a partition have been read.
    pub(crate) fn recalled(&mut self, job: &RecallJob, records: Vec<Recalled>) {
        let (now, uptime) = (self.topics.now(), self.topics.uptime());
        let trimmed = self.logs.get(&job.log).is_some_and(|log| log.start > 1);
        let topic = self.topics.by_id.get(&job.topic);
        let kept_ms = topic.map_or(0, |topic| topic.info.retention_ms);
        let Some(partition) = self.topics.partition(&job.topic, job.partition) else { return };
        // Compared with each other, not with the time there is now: the clock may have been set meanwhile.
        let newest_ms = records.last().map_or(0, |record| record.time_ms);
        let old = records.partition_point(|record| record.time_ms + AGE_MAX_MS < newest_ms);
        let forgotten_ms = match old.checked_sub(1).and_then(|last| records.get(last)) {
            Some(last) => Some(last.time_ms),
            None => match records.first() {
                // What was before may have been appended in the same millisecond.
                Some(first) if job.first > 1 => Some(first.time_ms),
                // Whatever there was is gone, which only their age does to all of them.
                None if trimmed => Some(now.saturating_sub(kept_ms)),
                _ => None,
            },
        };
        let since = |time_ms| Requests::since(uptime.saturating_sub(now.saturating_sub(time_ms)));
        partition.requests = forgotten_ms.map(since).unwrap_or_default();
        partition.newest_ms = newest_ms;
        for (offset, Recalled { origin, bytes, .. }) in (job.first..).zip(records).skip(old) {
            if let Origin::Request(request) = origin {
                partition.requests.remember(request, offset, uptime, bytes);
            }
        }
        let count = partition.requests.len();
        self.topics.remembered(count);
        self.recalled_one(&job.topic);
    }

    /// The records cannot be read.
    pub(crate) fn recall_failed(&mut self, job: &RecallJob, error: HubError) {
        let log = self.logs.get(&job.log);
        if log.is_some_and(|log| log.start <= job.first) {
            self.fail(error);
            return;
        }
        // They were trimmed meanwhile: begun anew with what there is. If the topic is gone nobody waits.
        if log.is_some() {
            self.recall_partition(TopicId::clone(&job.topic), job.partition, job.log);
        }
    }

    fn recalled_one(&mut self, id: &TopicId) {
        let Some(topic) = self.topics.by_id.get_mut(id) else { return };
        let Memory::Loading { left, held } = &mut topic.memory else { return };
        *left -= 1;
        if *left > 0 {
            return;
        }
        let held = std::mem::take(held);
        topic.memory = Memory::Ready;
        for held in held {
            self.topics.held_bytes -= held.bytes;
            self.append_now(held.conn, held.number, held.wanted, held.came_ms);
        }
        self.wake_inputs();
    }

    fn append_published(
        &mut self,
        conn: ConnId,
        number: u64,
        publish: wire::PublishEvents,
        came_ms: u64,
    ) {
        let Some(topic) = self.topics.by_id.get_mut(publish.topic_id.as_str()) else {
            return self.answer(conn, number, unknown_topic(&publish.topic_id));
        };
        let sent_ms = came_ms.saturating_sub(publish.sent_ms_ago);
        let forgotten = publish.sent_ms_ago > 0
            && publish.events.iter().any(|event| {
                let requests = &topic.partitions[event.partition as usize].requests;
                requests.offset(key(event)).is_none() && !requests.reaches_back_to(sent_ms)
            });
        if forgotten {
            let text = format!(
                "events were sent again after {} ms, and what was appended then is not \
                 remembered any more: they may have been",
                publish.sent_ms_ago
            );
            let reason = wire::RefusedReason::Forgotten;
            return self.answer(conn, number, refused(reason, text));
        }
        let info = topic.info.clone();
        let (now, uptime) = (self.topics.now(), self.topics.uptime());
        let mut places = Vec::with_capacity(publish.events.len());
        let mut last_new = None;
        let mut pending = false;
        for event in publish.events {
            let Some(partition) = self.topics.partition(&info.id, event.partition) else { return };
            let (log, request) = (partition.log, key(&event));
            if let Some(offset) = partition.requests.offset(request) {
                pending |= self.logs.get(&log).is_some_and(|log| offset > log.index.last());
                self.topics.stats.repeated += 1;
                places.push(wire::EventPlace { offset, again: true });
                continue;
            }
            let time_ms = now.max(partition.newest_ms);
            partition.newest_ms = time_ms;
            let origin = Origin::Request(request);
            let record = EventRecord { time_ms, origin, event: event.event }.encode();
            let bytes = record.len() as u64;
            let Some(offset) = self.append_event(log, record) else { return };
            if let Some(partition) = self.topics.partition(&info.id, event.partition) {
                partition.requests.remember(request, offset, uptime, bytes);
            }
            self.topics.remembered(1);
            last_new = Some(self.in_flight.len() - 1);
            places.push(wire::EventPlace { offset, again: false });
        }
        let response = Response::EventsPublished(wire::EventsPublished { places });
        let then = Then::Answer { conn, number, response: Box::new(response) };
        self.when_durable(&info.id, last_new, pending, then);
    }

    /// Carries on when a record in flight is durable, or all that were appended to a topic before
    /// (`pending`: some are not).
    pub(super) fn when_durable(
        &mut self,
        topic_id: &str,
        in_flight: Option<usize>,
        pending: bool,
        then: Then,
    ) {
        match in_flight.and_then(|at| self.in_flight.get_mut(at)) {
            Some(InFlight::Event { then: slot, .. }) => *slot = Some(Box::new(then)),
            _ => match self.topics.by_id.get(topic_id).filter(|_| pending) {
                // Something that says nothing new, to be told when what is before it is durable.
                Some(topic) => {
                    let meta = Meta::TopicDefined(topic.info.clone());
                    self.append_meta(meta, Some(then));
                }
                None => self.carry_on(then),
            },
        }
    }

    /// Appends a record; tells its offset.
    pub(super) fn append_event(&mut self, log: LogId, record: Bytes) -> Option<u64> {
        self.define(log);
        self.make_room(record.len());
        let state = self.logs.get_mut(&log)?;
        state.assigned += 1;
        let offset = state.assigned;
        let address = self.writer.append(log, offset, &record);
        self.in_flight_bytes += record.len();
        self.in_flight.push_back(InFlight::Event { log, address, record, then: None });
        self.topics.stats.published += 1;
        Some(offset)
    }
}

// === impl Wanted ===

impl Wanted {
    fn topic_id(&self) -> &str {
        match self {
            Self::Published(publish) => &publish.topic_id,
            Self::Numbered { append, .. } => &append.topic_id,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Published(publish) => publish.events.iter().map(|e| e.event.len()).sum(),
            Self::Numbered { append, .. } => append.events.iter().map(|e| e.event.len()).sum(),
        }
    }

    /// A partition that it is for, and that a topic with so many does not have.
    fn missing_partition(&self, partitions: u32) -> Option<u32> {
        let missing = |partition: &u32| *partition >= partitions;
        match self {
            Self::Published(publish) => publish.events.iter().map(|e| e.partition).find(missing),
            Self::Numbered { append, .. } => Some(append.partition).filter(missing),
        }
    }
}

fn key(event: &wire::NewEvent) -> RequestKey {
    let bytes = <[u8; 16]>::try_from(&event.request[..]).expect("requests were checked");
    RequestKey::from_le_bytes(bytes)
}

fn checked(publish: &wire::PublishEvents) -> Result<(), String> {
    if publish.events.is_empty() || publish.events.len() > PUBLISH_EVENTS_MAX {
        return Err(format!("1 to {PUBLISH_EVENTS_MAX} events are published at once"));
    }
    for event in &publish.events {
        if event.request.len() != 16 {
            return Err("the name of a request has 16 bytes".into());
        }
        if event.event.len() > EVENT_BYTES_MAX {
            return Err(format!("an event has at most {EVENT_BYTES_MAX} bytes"));
        }
    }
    Ok(())
}
