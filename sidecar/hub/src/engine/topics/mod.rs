//! Topics: logs of events that belong to no application, one for each partition.
//!
//! That a topic exists, where its consumers stand, and that it is deleted, are records of the hub's
//! own, repeated at the start of every file. What requests have appended is read back from the
//! partitions' newest records when somebody publishes for the first time ([`publish`]).

mod consumers;
mod expire;
mod fetch;
mod publish;
mod requests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kar_proto::hub::v1 as wire;
use wire::meta::Meta;
use wire::state_request::Request;
use wire::state_response::Response;

use super::conn::ConnId;
use super::{App, Engine, Log, LogId, Then};
use crate::options::{PAGE_SIZE_MAX, TOPIC_NAME_BYTES_MAX, TOPIC_PARTITIONS_MAX};
use crate::store::{TimeSource, system_time};
use consumers::Consumer;
pub(crate) use expire::Probe;
use expire::Search;
pub(crate) use fetch::FetchJob;
use fetch::Waiting;
use publish::Memory;
pub(crate) use publish::{RecallJob, Recalled};
use requests::Requests;

/// Stands for the application of topics' logs: no application may have this name.
pub(super) const TOPICS_APP: &str = "$topics";

/// Id of a topic.
pub(crate) type TopicId = Arc<str>;

/// Every topic.
pub(super) struct Topics {
    clock: TimeSource,
    by_id: BTreeMap<TopicId, Topic>,
    ids: BTreeMap<String, TopicId>,
    /// Deletions that are not durable: records of their logs are needed until they are.
    deleting: usize,
    /// Logs with new events that somebody waits for.
    pub(super) due: Vec<LogId>,
    /// Partitions by their logs.
    by_log: HashMap<LogId, (TopicId, u32)>,
    /// Bytes of events that wait until it is known what was appended before.
    pub(super) held_bytes: usize,
    searches: BTreeMap<u64, Search>,
    next_search: u64,
    ticks: u32,
    pub(super) stats: TopicStats,
}

/// Counters since the hub's start.
#[derive(Default)]
pub(super) struct TopicStats {
    pub(super) published: u64,
    pub(super) repeated: u64,
    pub(super) expired: u64,
    /// Fetches that wait, now.
    pub(super) waiting: u64,
}

/// A topic.
pub(super) struct Topic {
    info: wire::TopicInfo,
    /// That it exists is durable.
    durable: bool,
    partitions: Vec<Partition>,
    memory: Memory,
    /// By application and name.
    consumers: BTreeMap<(Arc<str>, String), Consumer>,
}

/// A partition of a topic.
struct Partition {
    log: LogId,
    requests: Requests,
    /// Time of the newest event, so that times never go back.
    newest_ms: u64,
    waiting: Vec<Waiting>,
    /// No event is too old before this time.
    next_expiry_ms: u64,
    expiring: bool,
}

/// A topic as the write-ahead log tells it.
pub(super) struct HeldTopic {
    pub(super) info: wire::TopicInfo,
    pub(super) consumers: BTreeMap<(String, String), wire::ConsumerState>,
}

/// Name of a partition's log.
pub(super) fn log_name(id: &str, partition: u32) -> String {
    format!("{id}/{partition}")
}

/// Why a request about topics was refused.
fn refused(reason: wire::RefusedReason, message: impl Into<String>) -> Response {
    let (reason, message) = (reason.into(), message.into());
    Response::Refused(wire::Refused { reason, message, ..Default::default() })
}

fn invalid(message: impl Into<String>) -> Response {
    refused(wire::RefusedReason::Invalid, message)
}

fn unknown_topic(what: &str) -> Response {
    refused(wire::RefusedReason::UnknownTopic, format!("there is no topic '{what}'"))
}

fn over(bound: &str, limit: usize, what: &str) -> Response {
    Response::Refused(wire::Refused {
        reason: wire::RefusedReason::TopicLimit.into(),
        message: format!("{what} ({bound} is {limit})"),
        bound: bound.to_owned(),
        limit: limit as u64,
    })
}

// === impl Engine ===

impl Engine {
    /// Carries out a request if it is about topics; else gives it back.
    pub(super) fn topic_request(
        &mut self,
        conn: ConnId,
        number: u64,
        app: &Arc<str>,
        request: Request,
    ) -> Option<Request> {
        match request {
            Request::CreateTopic(create) => self.create_topic(conn, number, create),
            Request::DeleteTopic(delete) => self.delete_topic(conn, number, &delete),
            Request::ListTopics(list) => {
                let list = self.list_topics(&list);
                self.answer(conn, number, Response::TopicList(list));
            }
            Request::PublishEvents(publish) => self.publish_events(conn, number, publish),
            Request::FetchEvents(fetch) => self.fetch_events(conn, number, app, fetch),
            Request::SeekEvents(seek) => self.seek_events(conn, number, &seek),
            Request::OpenConsumer(open) => self.open_consumer(conn, number, app, open),
            Request::CommitConsumer(commit) => self.commit_consumer(conn, number, app, commit),
            Request::DeleteConsumer(delete) => self.delete_consumer(conn, number, app, delete),
            other => return Some(other),
        }
        None
    }

    fn create_topic(&mut self, conn: ConnId, number: u64, create: wire::CreateTopic) {
        let mut info = create.topic.unwrap_or_default();
        if info.name.is_empty() || info.name.len() > TOPIC_NAME_BYTES_MAX {
            let text = format!("a topic's name has 1 to {TOPIC_NAME_BYTES_MAX} bytes");
            return self.answer(conn, number, invalid(text));
        }
        if !(1..=TOPIC_PARTITIONS_MAX).contains(&info.partitions) {
            let text = format!("a topic has 1 to {TOPIC_PARTITIONS_MAX} partitions");
            return self.answer(conn, number, invalid(text));
        }
        if let Some(id) = self.topics.ids.get(&info.name) {
            let id = TopicId::clone(id);
            return self.topic_exists(conn, number, &id, &info);
        }
        let partitions: usize = self.topics.by_id.values().map(|t| t.partitions.len()).sum();
        let limits = &self.limits;
        let hit = if self.topics.by_id.len() >= limits.topics_max {
            Some(("topics_max", limits.topics_max, "there are as many topics as there may be"))
        } else if partitions + info.partitions as usize > limits.topic_partitions_max {
            let what = "all topics together have as many partitions as they may have";
            Some(("topic_partitions_max", limits.topic_partitions_max, what))
        } else {
            None
        };
        if let Some((bound, limit, what)) = hit {
            return self.answer(conn, number, over(bound, limit, what));
        }
        info.id = uuid::Uuid::new_v4().simple().to_string();
        info.created_ms = self.topics.now();
        let id: TopicId = info.id.as_str().into();
        let app: Arc<str> = TOPICS_APP.into();
        let logs: Vec<_> = (0..info.partitions)
            .map(|n| self.new_log(Arc::clone(&app), log_name(&id, n)))
            .collect();
        for &log in &logs {
            self.define(log);
        }
        self.topics.insert(Topic::new(info.clone(), logs, false));
        let response = wire::TopicCreated { topic: Some(info.clone()), created: true };
        let then = Then::TopicCreated { conn, number, topic: id, response };
        self.append_meta(Meta::TopicDefined(info), Some(then));
    }

    fn topic_exists(&mut self, conn: ConnId, number: u64, id: &TopicId, wanted: &wire::TopicInfo) {
        let Some(topic) = self.topics.by_id.get(id) else { return };
        let (there, durable) = (topic.info.clone(), topic.durable);
        let differs = if there.partitions != wanted.partitions {
            Some(("partitions", u64::from(there.partitions)))
        } else if there.retention_ms != wanted.retention_ms {
            Some(("retention_time", there.retention_ms))
        } else if there.retention_bytes != wanted.retention_bytes {
            Some(("retention_bytes", there.retention_bytes))
        } else {
            None
        };
        if let Some((setting, value)) = differs {
            return self.answer(
                conn,
                number,
                Response::Refused(wire::Refused {
                    reason: wire::RefusedReason::TopicExists.into(),
                    message: format!("there is a topic '{}' with other settings", there.name),
                    bound: setting.to_owned(),
                    limit: value,
                }),
            );
        }
        let response = wire::TopicCreated { topic: Some(there.clone()), created: false };
        if durable {
            self.answer(conn, number, Response::TopicCreated(response));
        } else {
            let then = Then::TopicCreated { conn, number, topic: TopicId::clone(id), response };
            self.append_meta(Meta::TopicDefined(there), Some(then));
        }
    }

    /// That a topic exists is durable.
    pub(super) fn topic_created(
        &mut self,
        conn: ConnId,
        number: u64,
        topic: &TopicId,
        response: wire::TopicCreated,
    ) {
        if let Some(topic) = self.topics.by_id.get_mut(topic) {
            topic.durable = true;
        }
        self.answer(conn, number, Response::TopicCreated(response));
    }

    fn delete_topic(&mut self, conn: ConnId, number: u64, delete: &wire::DeleteTopic) {
        let id = self.topics.ids.get(&delete.name);
        let id = id.filter(|id| delete.id.is_empty() || delete.id == ***id).cloned();
        let topic = id.as_ref().and_then(|id| self.topics.remove(id, &delete.name));
        let Some(topic) = topic else {
            let gone = Response::TopicDeleted(wire::TopicDeleted { existed: false });
            if self.topics.deleting == 0 {
                return self.answer(conn, number, gone);
            }
            // Perhaps it is this one that is being deleted: not answered before that is durable.
            let then = Then::Answer { conn, number, response: Box::new(gone) };
            return self.append_meta(Meta::TopicDeleted(String::new()), Some(then));
        };
        for partition in topic.partitions {
            for waiting in partition.waiting {
                self.topics.stats.waiting -= 1;
                self.answer(waiting.conn, waiting.number, unknown_topic(&delete.name));
            }
            if let Some(log) = self.logs.remove(&partition.log) {
                self.condemned.push(log.index);
            }
        }
        if let Memory::Loading { held, .. } = topic.memory {
            for held in held {
                self.topics.held_bytes -= held.bytes;
                self.answer(held.conn, held.number, unknown_topic(&delete.name));
            }
        }
        self.topics.deleting += 1;
        let then = Then::TopicDeleted { conn, number };
        self.append_meta(Meta::TopicDeleted(topic.info.id), Some(then));
    }

    /// That a topic is deleted is durable.
    pub(super) fn topic_deleted(&mut self, conn: ConnId, number: u64) {
        self.topics.deleting -= 1;
        self.bury();
        self.answer(conn, number, Response::TopicDeleted(wire::TopicDeleted { existed: true }));
    }

    /// Deletions of topics are on their way.
    pub(super) fn deletes_topics(&self) -> bool {
        self.topics.deleting > 0
    }

    fn list_topics(&self, list: &wire::ListTopics) -> wire::TopicList {
        let size = match list.page_size {
            0 => PAGE_SIZE_MAX,
            size => size.min(PAGE_SIZE_MAX),
        };
        let wanted = |name: &str| list.name.is_empty() || list.name == name;
        let after = |name: &str| list.after.is_empty() || name > list.after.as_str();
        let mut found = self.topics.ids.iter().filter(|(name, _)| wanted(name) && after(name));
        let topics = found
            .by_ref()
            .take(size as usize)
            .filter_map(|(_, id)| self.topics.by_id.get(id))
            .map(|topic| self.topic_view(topic))
            .collect();
        wire::TopicList { topics, more: found.next().is_some() }
    }

    fn topic_view(&self, topic: &Topic) -> wire::TopicView {
        let partition = |partition: &Partition| {
            let log = self.logs.get(&partition.log)?;
            let (start, end, bytes) = (log.start, log.index.last() + 1, log.bytes);
            Some(wire::TopicPartition { start, end, bytes })
        };
        let consumers = topic.consumers.iter();
        wire::TopicView {
            topic: Some(topic.info.clone()),
            partitions: topic.partitions.iter().filter_map(partition).collect(),
            consumers: consumers
                .map(|((app, name), consumer)| consumer.state(&topic.info.id, app, name))
                .collect(),
        }
    }

    /// What holds of topics.
    pub(super) fn topic_metas(&self, metas: &mut Vec<Meta>) {
        for topic in self.topics.by_id.values() {
            metas.push(Meta::TopicDefined(topic.info.clone()));
            for ((app, name), consumer) in &topic.consumers {
                metas.push(Meta::ConsumerMoved(consumer.state(&topic.info.id, app, name)));
            }
        }
    }

    /// Consumers with a name.
    pub(super) fn consumers(&self) -> usize {
        self.topics.by_id.values().map(|topic| topic.consumers.len()).sum()
    }

    pub(super) fn topics(&self) -> usize {
        self.topics.by_id.len()
    }

    fn new_log(&mut self, app: Arc<str>, name: String) -> LogId {
        let log = self.next_log;
        self.next_log += 1;
        self.logs.insert(log, Log::new(app, name));
        log
    }

    /// Half a second has passed.
    pub(super) fn tick_topics(&mut self) {
        self.topics.ticks = self.topics.ticks.wrapping_add(1);
        self.tick_fetches();
        if self.topics.ticks.is_multiple_of(4) {
            let now = self.topics.now();
            for topic in self.topics.by_id.values_mut() {
                topic.partitions.iter_mut().for_each(|partition| partition.requests.age(now));
            }
            self.expire(now);
        }
    }
}

// === impl Topics ===

impl Topics {
    fn new() -> Self {
        Self {
            clock: system_time(),
            by_id: BTreeMap::new(),
            ids: BTreeMap::new(),
            deleting: 0,
            due: Vec::new(),
            by_log: HashMap::new(),
            held_bytes: 0,
            searches: BTreeMap::new(),
            next_search: 0,
            ticks: 0,
            stats: TopicStats::default(),
        }
    }

    /// The time, milliseconds since the Unix epoch.
    fn now(&self) -> u64 {
        (self.clock)()
    }

    /// Topics as the write-ahead log tells them. Takes their logs' ids from the application that stands for
    /// theirs; a log that no topic has is left over from a creation that came to nothing.
    pub(super) fn restore(
        held: BTreeMap<String, HeldTopic>,
        app: Option<App>,
        logs: &mut HashMap<LogId, Log>,
        next_log: &mut LogId,
    ) -> Self {
        let mut topics = Self::new();
        let mut ids = app.map(|app| app.logs).unwrap_or_default();
        for HeldTopic { info, consumers } in held.into_values() {
            let of = (0..info.partitions).map(|n| {
                let name = log_name(&info.id, n);
                ids.remove(&name).unwrap_or_else(|| {
                    let log = *next_log;
                    *next_log += 1;
                    logs.insert(log, Log::new(TOPICS_APP.into(), name));
                    log
                })
            });
            let of = of.collect();
            let mut topic = Topic::new(info, of, true);
            topic.consumers = consumers
                .into_iter()
                .map(|((app, name), state)| ((app.into(), name), Consumer::restore(state)))
                .collect();
            topics.insert(topic);
        }
        for log in ids.into_values() {
            logs.remove(&log);
        }
        topics
    }

    fn insert(&mut self, topic: Topic) {
        let id: TopicId = topic.info.id.as_str().into();
        for (n, partition) in topic.partitions.iter().enumerate() {
            self.by_log.insert(partition.log, (TopicId::clone(&id), n as u32));
        }
        self.ids.insert(topic.info.name.clone(), TopicId::clone(&id));
        self.by_id.insert(id, topic);
    }

    fn remove(&mut self, id: &TopicId, name: &str) -> Option<Topic> {
        let topic = self.by_id.remove(id)?;
        self.ids.remove(name);
        for partition in &topic.partitions {
            self.by_log.remove(&partition.log);
        }
        Some(topic)
    }

    fn partition(&mut self, topic: &str, partition: u32) -> Option<&mut Partition> {
        self.by_id.get_mut(topic)?.partitions.get_mut(partition as usize)
    }
}

// === impl Topic ===

impl Topic {
    fn new(info: wire::TopicInfo, logs: Vec<LogId>, durable: bool) -> Self {
        let partition = |log| Partition {
            log,
            requests: Requests::since(0),
            newest_ms: 0,
            waiting: Vec::new(),
            next_expiry_ms: 0,
            expiring: false,
        };
        // What is new has nothing to be read back.
        let memory = if durable { Memory::Cold } else { Memory::Ready };
        let partitions = logs.into_iter().map(partition).collect();
        Self { info, durable, partitions, memory, consumers: BTreeMap::new() }
    }
}
