//! Appending events that their senders have numbered, each once, for ever.
//!
//! The highest number that a channel has appended to a partition is kept in memory; every file of
//! the write-ahead log begins with all of them, and the events that are written to it later say
//! theirs themselves. So a start knows them when it has read the last file.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kar_proto::hub::v1 as wire;
use wire::meta::Meta;
use wire::state_response::Response;

use super::super::conn::ConnId;
use super::super::{Engine, LogId, Then};
use super::publish::Wanted;
use super::{invalid, over, unknown_topic};
use crate::options::{EVENT_BYTES_MAX, PUBLISH_EVENTS_MAX};
use crate::topic::{ChannelKey, EventRecord, Origin};

/// Bytes of a mark as it is stored.
const MARK_BYTES: usize = 32;
/// Marks in one record.
const MARKS_MAX: usize = 8_192;

/// Channels into a partition.
#[derive(Default)]
pub(in super::super) struct Channels(HashMap<ChannelKey, Channel>);

struct Channel {
    /// Application of whoever appends.
    app: Arc<str>,
    mark: Mark,
}

/// How far a channel has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in super::super) struct Mark {
    /// The highest number that was appended; 0: none.
    pub(in super::super) number: u64,
    /// Offset of its event; 0: none.
    pub(in super::super) offset: u64,
}

// === impl Channels ===

impl Channels {
    /// There is such a channel.
    pub(in super::super) fn open(&mut self, app: Arc<str>, channel: ChannelKey) {
        self.0.entry(channel).or_insert(Channel { app, mark: Mark::default() });
    }

    /// How far a channel has come; `None`: there is no such channel.
    pub(in super::super) fn mark(&self, channel: ChannelKey) -> Option<Mark> {
        self.0.get(&channel).map(|channel| channel.mark)
    }

    /// An event of a channel has been appended; says whether there is such a channel.
    pub(in super::super) fn advance(&mut self, channel: ChannelKey, to: Mark) -> bool {
        let Some(Channel { mark, .. }) = self.0.get_mut(&channel) else { return false };
        if to.number > mark.number {
            *mark = to;
        }
        true
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets those of an application; returns how many they were.
    pub(in super::super) fn purge(&mut self, app: &str) -> usize {
        let before = self.0.len();
        self.0.retain(|_, channel| &*channel.app != app);
        before - self.0.len()
    }

    /// All of them, in records.
    pub(super) fn marks(&self, log: LogId) -> Vec<wire::ChannelMarks> {
        let mut by_app: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        for (key, Channel { app, mark }) in &self.0 {
            let marks = by_app.entry(app).or_default();
            marks.extend_from_slice(&key.to_le_bytes());
            marks.extend_from_slice(&mark.number.to_le_bytes());
            marks.extend_from_slice(&mark.offset.to_le_bytes());
        }
        let mut records = Vec::new();
        for (app, marks) in by_app {
            for part in marks.chunks(MARKS_MAX * MARK_BYTES) {
                let (application, marks) = (app.to_owned(), bytes::Bytes::copy_from_slice(part));
                records.push(wire::ChannelMarks { log, application, marks });
            }
        }
        records
    }

    /// Takes what a record says of channels of an application.
    pub(in super::super) fn take(&mut self, app: &Arc<str>, marks: &[u8]) {
        for mark in marks.chunks_exact(MARK_BYTES) {
            let long = |at: usize| {
                let bytes: [u8; 8] = mark[at..at + 8].try_into().expect("eight bytes");
                u64::from_le_bytes(bytes)
            };
            let channel = ChannelKey::from(long(0)) | ChannelKey::from(long(8)) << 64;
            self.open(Arc::clone(app), channel);
            self.advance(channel, Mark { number: long(16), offset: long(24) });
        }
    }
}

/// The channel that 16 bytes name.
pub(in super::super) fn key(bytes: &[u8]) -> Option<ChannelKey> {
    bytes.try_into().ok().map(ChannelKey::from_le_bytes)
}

// === impl Engine ===

impl Engine {
    pub(super) fn append_events(
        &mut self,
        conn: ConnId,
        number: u64,
        app: &Arc<str>,
        append: wire::AppendEvents,
    ) {
        if let Err(what) = checked(&append) {
            return self.answer(conn, number, invalid(what));
        }
        let wanted = Wanted::Numbered { app: Arc::clone(app), append };
        self.append_soon(conn, number, wanted);
    }

    /// Appends what is new of events of a channel.
    pub(super) fn append_numbered(
        &mut self,
        conn: ConnId,
        number: u64,
        app: &Arc<str>,
        append: wire::AppendEvents,
    ) {
        let Some(channel) = key(&append.channel) else { return };
        let Some(partition) = self.topics.partition(&append.topic_id, append.partition) else {
            return self.answer(conn, number, unknown_topic(&append.topic_id));
        };
        let log = partition.log;
        let known = partition.channels.mark(channel);
        if known.is_none() && !self.open_channel(log, app, channel) {
            let limit = self.limits.topic_channels_max;
            let what = "there are as many channels into topics as there may be: purge \
                        applications or delete topics that are not used any more";
            return self.answer(conn, number, over("topic_channels_max", limit, what));
        }
        let now = self.topics.now();
        let mut mark = known.unwrap_or_default();
        let mut last_new = None;
        for event in append.events {
            if event.number <= mark.number {
                self.topics.stats.repeated += 1;
                continue;
            }
            let Some(partition) = self.topics.partition(&append.topic_id, append.partition) else {
                return;
            };
            let time_ms = now.max(partition.newest_ms);
            partition.newest_ms = time_ms;
            let origin = Origin::Channel { channel, number: event.number };
            let record = EventRecord { time_ms, origin, event: event.event }.encode();
            let Some(offset) = self.append_event(log, record) else { return };
            mark = Mark { number: event.number, offset };
            // At once: the next event may be the first one of a file, which begins with all marks.
            if let Some(partition) = self.topics.partition(&append.topic_id, append.partition) {
                partition.channels.advance(channel, mark);
            }
            last_new = Some(self.in_flight.len() - 1);
        }
        let Mark { number: highest, offset } = mark;
        let response = wire::EventsAppended { number: highest, offset };
        let response = Box::new(Response::EventsAppended(response));
        let pending = self.logs.get(&log).is_some_and(|log| offset > log.index.last());
        let then = Then::Answer { conn, number, response };
        self.when_durable(&append.topic_id, last_new, pending, then);
    }

    /// Begins a channel; false: there are as many as there may be.
    fn open_channel(&mut self, log: LogId, app: &Arc<str>, channel: ChannelKey) -> bool {
        if self.topics.channels >= self.limits.topic_channels_max {
            return false;
        }
        let bytes = channel.to_le_bytes();
        let opened = wire::ChannelOpened {
            log,
            application: app.to_string(),
            channel: bytes::Bytes::copy_from_slice(&bytes),
        };
        self.append_meta(Meta::ChannelOpened(opened), None);
        let Some((id, n)) = self.topics.by_log.get(&log).cloned() else { return false };
        if let Some(partition) = self.topics.partition(&id, n) {
            partition.channels.open(Arc::clone(app), channel);
            self.topics.channels += 1;
        }
        true
    }

    pub(super) fn learn_channel(&mut self, conn: ConnId, number: u64, learn: &wire::LearnChannel) {
        let Some(channel) = key(&learn.channel) else {
            return self.answer(conn, number, invalid("the name of a channel has 16 bytes"));
        };
        let Some(topic) = self.topics.by_id.get(learn.topic_id.as_str()) else {
            return self.answer(conn, number, unknown_topic(&learn.topic_id));
        };
        let Some(partition) = topic.partitions.get(learn.partition as usize) else {
            let text = no_such_partition(topic.partitions.len(), learn.partition);
            return self.answer(conn, number, invalid(text));
        };
        let mark = partition.channels.mark(channel).unwrap_or_default();
        let Mark { number: highest, offset } = mark;
        let pending = self.logs.get(&partition.log).is_some_and(|log| offset > log.index.last());
        let response = wire::ChannelLearned { number: highest, offset };
        let response = Box::new(Response::ChannelLearned(response));
        let then = Then::Answer { conn, number, response };
        self.when_durable(&learn.topic_id, None, pending, then);
    }

    /// An application is purged: its channels go with it.
    pub(super) fn purge_channels(&mut self, app: &str) {
        for topic in self.topics.by_id.values_mut() {
            for partition in &mut topic.partitions {
                self.topics.channels -= partition.channels.purge(app);
            }
        }
    }
}

pub(super) fn no_such_partition(partitions: usize, partition: u32) -> String {
    format!("the topic has {partitions} partitions: there is no partition {partition}")
}

fn checked(append: &wire::AppendEvents) -> Result<(), String> {
    if append.events.is_empty() || append.events.len() > PUBLISH_EVENTS_MAX {
        return Err(format!("1 to {PUBLISH_EVENTS_MAX} events are appended at once"));
    }
    if key(&append.channel).is_none() {
        return Err("the name of a channel has 16 bytes".into());
    }
    let mut before = 0;
    for event in &append.events {
        if event.number <= before {
            return Err("numbers of events ascend from 1".into());
        }
        before = event.number;
        if event.event.len() > EVENT_BYTES_MAX {
            return Err(format!("an event has at most {EVENT_BYTES_MAX} bytes"));
        }
    }
    Ok(())
}
