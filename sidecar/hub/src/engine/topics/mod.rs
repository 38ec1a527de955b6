//! Topics: logs of events that belong to no application, one for each partition.
//!
//! That a topic exists, where its consumers stand, and that it is deleted, are records of the hub's
//! own, repeated at the start of every file; so are the numbers up to which channels have appended
//! ([`channels`]). What requests have appended is read back from the
//! partitions' newest records when somebody publishes for the first time ([`publish`]).

mod channels;
mod consumers;
mod expire;
mod fetch;
mod life;
mod publish;
mod requests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use kar_proto::hub::v1 as wire;
use prost::Message as _;
use wire::meta::Meta;
use wire::state_request::Request;
use wire::state_response::Response;

use super::conn::ConnId;
use super::{App, Engine, Log, LogId};
use crate::options::{PAGE_SIZE_MAX, TOPIC_VIEW_BYTES_MAX};
use crate::store::{TimeSource, system_time};
pub(super) use channels::{Channels, Mark, key as channel_key};
use consumers::Consumer;
pub(crate) use expire::Probe;
use expire::Search;
pub(crate) use fetch::FetchJob;
use fetch::{Fetches, Waiting};
use publish::Memory;
pub(crate) use publish::{RecallJob, Recalled};
use requests::{ALL_EVENTS_MAX, Requests};

/// Stands for the application of topics' logs: no application may have this name.
pub(super) const TOPICS_APP: &str = "$topics";

/// What the hub's own clock shows at its start, milliseconds: more than anything is old that it finds.
const BEGAN_MS: u64 = 1 << 45;

/// Id of a topic.
pub(crate) type TopicId = Arc<str>;

/// Every topic.
pub(super) struct Topics {
    pub(super) clock: TimeSource,
    began: Instant,
    by_id: BTreeMap<TopicId, Topic>,
    ids: BTreeMap<String, TopicId>,
    /// Deletions that are not durable: records of their logs are needed until they are.
    deleting: usize,
    /// Logs with new events that somebody waits for.
    pub(super) due: Vec<LogId>,
    /// Channels into all partitions.
    channels: usize,
    /// Partitions by their logs.
    by_log: HashMap<LogId, (TopicId, u32)>,
    /// What is read for clients.
    fetches: HashMap<ConnId, Fetches>,
    /// Events that are remembered by their requests, at most: counted when it seems too many.
    remembered: usize,
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
    channels: Channels,
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
            Request::ListTopics(list) => self.list_topics(conn, number, &list),
            Request::PublishEvents(publish) => self.publish_events(conn, number, publish),
            Request::FetchEvents(fetch) => self.fetch_events(conn, number, app, fetch),
            Request::SeekEvents(seek) => self.seek_events(conn, number, &seek),
            Request::OpenConsumer(open) => self.open_consumer(conn, number, app, open),
            Request::CommitConsumer(commit) => self.commit_consumer(conn, number, app, commit),
            Request::DeleteConsumer(delete) => self.delete_consumer(conn, number, app, delete),
            Request::FindConsumer(find) => self.find_consumer(conn, number, app, find),
            Request::AppendEvents(append) => self.append_events(conn, number, app, append),
            Request::LearnChannel(learn) => self.learn_channel(conn, number, &learn),
            other => return Some(other),
        }
        None
    }

    fn list_topics(&mut self, conn: ConnId, number: u64, list: &wire::ListTopics) {
        let size = match list.page_size {
            0 => PAGE_SIZE_MAX,
            size => size.min(PAGE_SIZE_MAX),
        };
        let wanted = |name: &str| list.name.is_empty() || list.name == name;
        let after = |name: &str| list.after.is_empty() || name > list.after.as_str();
        let mut found = self.topics.ids.iter().filter(|(name, _)| wanted(name) && after(name));
        let (mut topics, mut bytes) = (Vec::new(), 0);
        while topics.len() < size as usize
            && bytes < TOPIC_VIEW_BYTES_MAX
            && let Some((_, id)) = found.next()
        {
            if let Some(topic) = self.topics.by_id.get(id) {
                let view = self.topic_view(topic);
                bytes += view.encoded_len();
                topics.push(view);
            }
        }
        let list = wire::TopicList { topics, more: found.next().is_some() };
        self.answer_sized(conn, number, Response::TopicList(list), bytes);
    }

    fn topic_view(&self, topic: &Topic) -> wire::TopicView {
        let partition = |partition: &Partition| {
            let log = self.logs.get(&partition.log)?;
            let (start, end, bytes) = (log.start, log.index.last() + 1, log.bytes);
            Some(wire::TopicPartition { start, end, bytes })
        };
        let partitions: Vec<_> = topic.partitions.iter().filter_map(partition).collect();
        let (mut consumers, mut bytes) = (Vec::new(), 0);
        for ((app, name), consumer) in &topic.consumers {
            let view = consumer.view(app, name, &partitions);
            bytes += view.encoded_len();
            if bytes > TOPIC_VIEW_BYTES_MAX {
                break;
            }
            consumers.push(view);
        }
        let consumers_left_out = (topic.consumers.len() - consumers.len()) as u32;
        let topic = Some(topic.info.clone());
        wire::TopicView { topic, partitions, consumers, consumers_left_out }
    }

    /// What holds of topics.
    pub(super) fn topic_metas(&self, metas: &mut Vec<Meta>) {
        for topic in self.topics.by_id.values() {
            metas.push(Meta::TopicDefined(topic.info.clone()));
            for ((app, name), consumer) in &topic.consumers {
                metas.push(Meta::ConsumerMoved(consumer.state(&topic.info.id, app, name)));
            }
            for partition in &topic.partitions {
                let marks = partition.channels.marks(partition.log);
                metas.extend(marks.into_iter().map(Meta::ChannelMarks));
            }
        }
    }

    /// Consumers with a name.
    pub(super) fn consumers(&self) -> usize {
        self.topics.by_id.values().map(|topic| topic.consumers.len()).sum()
    }

    /// Channels into topics.
    pub(super) fn topic_channels(&self) -> usize {
        self.topics.channels
    }

    pub(super) fn topics(&self) -> usize {
        self.topics.by_id.len()
    }

    /// Half a second has passed.
    pub(super) fn tick_topics(&mut self) {
        self.topics.ticks = self.topics.ticks.wrapping_add(1);
        self.tick_fetches();
        if self.topics.ticks.is_multiple_of(4) {
            let (now, uptime) = (self.topics.now(), self.topics.uptime());
            for topic in self.topics.by_id.values_mut() {
                topic.partitions.iter_mut().for_each(|partition| partition.requests.age(uptime));
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
            began: Instant::now(),
            by_id: BTreeMap::new(),
            ids: BTreeMap::new(),
            deleting: 0,
            channels: 0,
            due: Vec::new(),
            by_log: HashMap::new(),
            fetches: HashMap::new(),
            remembered: 0,
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

    /// Milliseconds by a clock that nobody sets, and that stands still while the machine sleeps, as clients' own do.
    fn uptime(&self) -> u64 {
        BEGAN_MS + self.began.elapsed().as_millis() as u64
    }

    /// Topics as the write-ahead log tells them. Takes their logs' ids from the application that stands for
    /// theirs; a log that no topic has is left over from a creation that came to nothing.
    pub(super) fn restore(
        held: BTreeMap<String, HeldTopic>,
        app: Option<App>,
        mut channels: HashMap<LogId, Channels>,
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
            for partition in &mut topic.partitions {
                partition.channels = channels.remove(&partition.log).unwrap_or_default();
                topics.channels += partition.channels.len();
            }
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
            self.channels -= partition.channels.len();
            self.by_log.remove(&partition.log);
        }
        Some(topic)
    }

    /// Requests of some events more are remembered. All of them together are bounded: the partition that has most
    /// forgets its oldest ones, some at once, so that this is not looked at for each event.
    fn remembered(&mut self, more: usize) {
        self.remembered += more;
        if self.remembered <= ALL_EVENTS_MAX {
            return;
        }
        let all = self.by_id.values_mut().flat_map(|topic| &mut topic.partitions);
        let mut all: Vec<_> = all.map(|partition| &mut partition.requests).collect();
        self.remembered = all.iter().map(|requests| requests.len()).sum();
        while self.remembered > ALL_EVENTS_MAX - ALL_EVENTS_MAX / 16 {
            let Some(most) = all.iter_mut().max_by_key(|requests| requests.len()) else { return };
            let count = most.len().div_ceil(8);
            most.forget(count);
            self.remembered -= count;
        }
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
            requests: Requests::default(),
            channels: Channels::default(),
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

#[cfg(test)]
impl Topics {
    /// The id of the only topic.
    pub(super) fn only_id(&self) -> String {
        self.by_id.keys().next().expect("a topic").to_string()
    }

    /// Gives the only topic so many consumers, each with so many ranges in every partition.
    pub(super) fn crowd(&mut self, consumers: u64, ranges: u64) {
        let topic = self.by_id.values_mut().next().expect("a topic");
        topic.consumers.clear();
        for n in 0..consumers {
            let floor = 1 << 40;
            let range = |at| floor + 2 * at;
            let acknowledged = (1..=ranges).map(range);
            let acknowledged =
                acknowledged.map(|at| wire::AcknowledgedRange { first: at, last: at });
            let acknowledged: Vec<_> = acknowledged.collect();
            let at = |partition| wire::ConsumerPosition {
                partition,
                floor,
                acknowledged: acknowledged.clone(),
            };
            let positions = (0..topic.info.partitions).map(at).collect();
            let state = wire::ConsumerState { session: 1, positions, ..Default::default() };
            topic.consumers.insert(("app".into(), format!("c{n:04}")), Consumer::restore(state));
        }
    }

    /// The consumers of the only topic.
    pub(super) fn only_consumers(&self) -> Vec<wire::ConsumerState> {
        let topic = self.by_id.values().next().expect("a topic");
        let all = topic.consumers.iter();
        all.map(|((app, name), consumer)| consumer.state(&topic.info.id, app, name)).collect()
    }

    /// How far a channel has come in the first partition of the only topic.
    pub(super) fn only_mark(&self, channel: crate::topic::ChannelKey) -> Option<u64> {
        let topic = self.by_id.values().next().expect("a topic");
        topic.partitions[0].channels.mark(channel).map(|mark| mark.number)
    }
}

#[cfg(test)]
mod tests {
    use super::requests::EVENTS_MAX;
    use super::*;

    /// What is remembered of all partitions together is bounded, at the cost of those that have most.
    #[test]
    fn all_partitions_together_remember_a_bounded_number_of_requests() {
        let partitions = 1 + (ALL_EVENTS_MAX / EVENTS_MAX + 2) as u32;
        let info = wire::TopicInfo { id: "t".into(), partitions, ..Default::default() };
        let mut topics = Topics::new();
        topics.insert(Topic::new(info, (1..=partitions).collect(), false));
        let mut request = 0;
        let mut remember = |topics: &mut Topics, partition, count| {
            for _ in 0..count {
                request += 1;
                let of = topics.partition("t", partition).expect("there is one");
                of.requests.remember(request, request as u64, 1, 1);
                topics.remembered(1);
            }
        };
        remember(&mut topics, 0, 10);
        for partition in 1..partitions {
            remember(&mut topics, partition, EVENTS_MAX);
            let all = topics.by_id["t"].partitions.iter();
            let all: Vec<_> = all.map(|partition| partition.requests.len()).collect();
            assert!(all.iter().sum::<usize>() <= ALL_EVENTS_MAX, "{all:?}");
            assert_eq!(all[0], 10, "the small ones keep theirs");
        }
        let first = &topics.by_id["t"].partitions[1].requests;
        assert!(first.offset(11).is_none() && !first.reaches_back_to(1), "the oldest have gone");
        assert!(first.len() > EVENTS_MAX / 2);
    }
}
