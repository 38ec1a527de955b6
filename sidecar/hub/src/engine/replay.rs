//! The engine as the write-ahead log tells it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use kar_proto::hub::v1 as wire;
use prost::Message as _;
use wire::meta::Meta;

use super::space::Files;
use super::topics::{Channels, HeldTopic, Mark, TOPICS_APP, Topics, channel_key, log_name};
use super::trim::Tidying;
use super::{
    App, CommitterState, Engine, Log, LogId, Member, PurgeName, Purges, Stats, Threads, purge,
};
use crate::options::HubLimits;
use crate::topic::{self, Origin};
use crate::wal::index::{LogIndex, Place};
use crate::wal::recover::Visit;
use crate::wal::segment::Segment;
use crate::wal::writer::Writer;

/// What records say, in order.
#[derive(Default)]
pub(crate) struct Replay {
    held: Held,
    /// Where the records of logs are, also of those that turn out to be purged.
    indexes: HashMap<LogId, LogIndex>,
    next_log: LogId,
    next_incarnation: u64,
    /// A file repeats all that holds: how many records of that are left, and what they said.
    repeated: Option<(u32, Held)>,
}

/// What the hub's own records say.
#[derive(Default)]
struct Held {
    apps: BTreeMap<Arc<str>, App>,
    logs: HashMap<LogId, Log>,
    /// By id.
    topics: BTreeMap<String, HeldTopic>,
    /// Channels into partitions of topics, by the partitions' logs.
    channels: HashMap<LogId, Channels>,
    purges: Purges,
}

// === impl Replay ===

impl Replay {
    pub(crate) fn new() -> Self {
        Self { next_log: 1, next_incarnation: 1, ..Self::default() }
    }

    /// Takes what the log contains; the error says what is wrong with it.
    pub(crate) fn visit(&mut self, what: &Visit<'_>) -> Result<(), String> {
        let (id, offset, place) = match *what {
            Visit::Meta(payload) => {
                let meta = wire::Meta::decode(payload)
                    .map_err(|e| format!("one of the hub's own records cannot be read: {e}"))?;
                // A kind of record that is unknown was written by a newer version.
                let meta = meta.meta.ok_or("a record of an unknown kind: use the newer version")?;
                return self.meta(meta);
            }
            Visit::Record { log, offset, address, bytes, payload } => {
                // What a summary tells of is followed by a file that begins with all marks.
                if let Some(payload) = payload {
                    self.held.advance_channel(log, offset, payload)?;
                }
                (log, offset, Place { address, bytes })
            }
        };
        let index = self.indexes.entry(id).or_insert_with(|| LogIndex::starting(offset));
        if offset <= index.last() {
            let (name, last) = (self.held.logs.get(&id).map_or("", |log| &log.name), index.last());
            return Err(format!("record {offset} of log '{name}' follows record {last}"));
        }
        if offset > index.last() + 1 {
            // What is missing was trimmed, or `check` finds that it was not.
            *index = LogIndex::starting(offset);
        }
        index.push(place);
        if let Some(log) = self.held.logs.get_mut(&id) {
            log.assigned = log.assigned.max(offset);
        }
        Ok(())
    }

    fn meta(&mut self, meta: Meta) -> Result<(), String> {
        if let Meta::SegmentStart(start) = &meta {
            self.next_incarnation = self.next_incarnation.max(start.next_incarnation);
            self.next_log = self.next_log.max(start.next_log);
            self.repeated = start.holding.checked_sub(1).map(|left| (left, Held::default()));
        } else if let Some((left, held)) = &mut self.repeated {
            *left -= 1;
            held.take(&meta, &mut self.next_log, &mut self.next_incarnation);
        } else {
            if let Meta::LogDefined(defined) = &meta {
                self.check_defined(defined)?;
            }
            self.held.take(&meta, &mut self.next_log, &mut self.next_incarnation);
        }
        if let Some((0, held)) = &mut self.repeated {
            // Older files do not count any more; some of what they said may be compacted away.
            self.held = std::mem::take(held);
            self.repeated = None;
            let logs = &self.held.logs;
            self.indexes.retain(|id, _| logs.contains_key(id));
        }
        Ok(())
    }

    /// A file of an earlier version repeats logs one by one.
    fn check_defined(&self, defined: &wire::LogDefined) -> Result<(), String> {
        match self.held.logs.get(&defined.log) {
            Some(log) if log.assigned != defined.records => Err(format!(
                "log '{}' has {} records before this place and should have {}",
                log.name, log.assigned, defined.records
            )),
            _ => Ok(()),
        }
    }

    /// What is missing when everything has been visited.
    pub(crate) fn missing(&self) -> Option<String> {
        self.held.logs.iter().find_map(|(id, log)| {
            let (first, last) = match self.indexes.get(id) {
                Some(index) => (index.first(), index.last()),
                None => (log.assigned + 1, log.assigned),
            };
            let name = &log.name;
            if log.assigned < log.start || (first <= log.start && last == log.assigned) {
                return None;
            }
            Some(match first {
                first if last < log.assigned => {
                    let missing = last.max(first - 1) + 1;
                    format!("records {missing} to {} of log '{name}' are missing", log.assigned)
                }
                first if log.start == 1 => {
                    format!("the first {} records of log '{name}' are missing", first - 1)
                }
                first => {
                    let start = log.start;
                    format!("records {start} to {} of log '{name}' are missing", first - 1)
                }
            })
        })
    }

    /// The engine that goes on from here.
    pub(crate) fn engine(
        mut self,
        limits: HubLimits,
        directory_id: String,
        writer: Writer,
        segments: &[Segment],
        holding_from: Option<u64>,
        threads: Threads,
    ) -> Engine {
        let mut files = Files::new(segments, limits.segment_bytes);
        let app = self.held.apps.remove(TOPICS_APP);
        let (held, next_log) = (std::mem::take(&mut self.held.topics), &mut self.next_log);
        let channels = std::mem::take(&mut self.held.channels);
        let topics = Topics::restore(held, app, channels, &mut self.held.logs, next_log);
        for (id, log) in &mut self.held.logs {
            let end = log.assigned + 1;
            log.index = self.indexes.remove(id).unwrap_or_else(|| LogIndex::starting(end));
            if log.index.last() < log.assigned {
                // All that there is of it was trimmed.
                log.index = LogIndex::starting(end);
            }
            log.index.trim(log.start);
            log.bytes = log.index.places().map(|place| place.bytes).sum();
            files.live_all(log.index.places());
        }
        Engine {
            limits,
            directory_id,
            durable_base: writer.segment().base,
            writer,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            apps: self.held.apps,
            logs: self.held.logs,
            next_log: self.next_log,
            next_incarnation: self.next_incarnation,
            conns: BTreeMap::new(),
            next_conn: 0,
            topics,
            purges: self.held.purges,
            files,
            holding_from,
            tidying: Tidying::Idle,
            condemned: Vec::new(),
            threads,
            committer: CommitterState::Busy,
            stats: Stats::default(),
            fault: None,
            stopping: false,
            idle_since: Some(Instant::now()),
        }
    }
}

// === impl Held ===

impl Held {
    fn take(&mut self, meta: &Meta, next_log: &mut LogId, next_incarnation: &mut u64) {
        match meta {
            // The caller has taken it.
            Meta::SegmentStart(_) => {}
            Meta::LogDefined(defined) => {
                *next_log = (*next_log).max(defined.log + 1);
                self.define(defined);
            }
            Meta::LogTrimmed(trimmed) => {
                // Of a log that was purged meanwhile, perhaps.
                if let Some(log) = self.logs.get_mut(&trimmed.log) {
                    log.trimmed_to(trimmed.start);
                }
            }
            Meta::MemberJoined(joined) => {
                let info = joined.member.clone().unwrap_or_default();
                let incarnation = info.incarnation;
                *next_incarnation = (*next_incarnation).max(incarnation + 1);
                let members = &mut self.app(&joined.application).members;
                members.insert(incarnation, Member { info, conn: None });
            }
            Meta::MemberLeft(incarnation) => {
                for app in self.apps.values_mut() {
                    app.members.remove(incarnation);
                }
            }
            Meta::MemberOffered(offered) => {
                let offer = offered.offer.clone().unwrap_or_default();
                for app in self.apps.values_mut() {
                    if let Some(member) = app.members.get_mut(&offered.incarnation) {
                        member.info.kinds.clone_from(&offer.kinds);
                        member.info.leaving = offer.leaving;
                    }
                }
            }
            Meta::KindDefined(defined) => {
                let kind = defined.kind.clone().unwrap_or_default();
                self.app(&defined.application).kinds.insert(kind.name, kind.partitions);
            }
            Meta::ApplicationPurging(app) => self.app(app).purging = true,
            Meta::PurgeBegun(begun) => {
                let app = self.app(&begun.application);
                (app.purging, app.purge) = (true, PurgeName::try_from(&begun.request[..]).ok());
            }
            Meta::PurgeRemembered(purged) => {
                if let Ok(request) = PurgeName::try_from(&purged.request[..]) {
                    let app = purged.application.as_str().into();
                    purge::remember(&mut self.purges, app, request);
                }
            }
            Meta::ApplicationPurged(app) => {
                if let Some(entry) = self.apps.remove(app.as_str()) {
                    if let Some(request) = entry.purge {
                        purge::remember(&mut self.purges, app.as_str().into(), request);
                    }
                    for log in entry.logs.into_values() {
                        self.logs.remove(&log);
                    }
                }
                for topic in self.topics.values_mut() {
                    topic.consumers.retain(|(owner, _), _| owner != app);
                }
                self.channels.values_mut().for_each(|channels| _ = channels.purge(app));
            }
            Meta::TopicDefined(info) => {
                let held = self.topics.entry(info.id.clone());
                held.or_insert_with(|| HeldTopic {
                    info: info.clone(),
                    consumers: BTreeMap::new(),
                });
            }
            Meta::TopicDeleted(id) => self.delete_topic(id),
            Meta::ConsumerMoved(state) => {
                *next_incarnation = (*next_incarnation).max(state.session + 1);
                // The topic may have been deleted meanwhile.
                if let Some(topic) = self.topics.get_mut(&state.topic_id) {
                    let key = (state.application.clone(), state.name.clone());
                    topic.consumers.insert(key, state.clone());
                }
            }
            Meta::ChannelOpened(opened) => {
                let app = self.app_name(&opened.application);
                // The topic may have been deleted meanwhile.
                if let Some(channel) = channel_key(&opened.channel)
                    && self.logs.contains_key(&opened.log)
                {
                    self.channels.entry(opened.log).or_default().open(app, channel);
                }
            }
            Meta::ChannelMarks(marks) => {
                let app = self.app_name(&marks.application);
                self.channels.entry(marks.log).or_default().take(&app, &marks.marks);
            }
            Meta::ConsumerDeleted(name) => {
                if let Some(topic) = self.topics.get_mut(&name.topic_id) {
                    topic.consumers.remove(&(name.application.clone(), name.name.clone()));
                }
            }
        }
    }

    /// A record of a log: of a topic's, perhaps, and then perhaps with a number.
    fn advance_channel(&mut self, log: LogId, offset: u64, record: &[u8]) -> Result<(), String> {
        let Some(state) = self.logs.get(&log).filter(|log| &*log.app == TOPICS_APP) else {
            return Ok(());
        };
        let Origin::Channel { channel, number } = topic::head(record)?.1 else { return Ok(()) };
        let mark = Mark { number, offset };
        if self.channels.get_mut(&log).is_some_and(|channels| channels.advance(channel, mark)) {
            return Ok(());
        }
        let name = &state.name;
        Err(format!("nothing says whose channel record {offset} of log '{name}' is of"))
    }

    fn delete_topic(&mut self, id: &str) {
        let Some(topic) = self.topics.remove(id) else { return };
        let Some(app) = self.apps.get_mut(TOPICS_APP) else { return };
        for partition in 0..topic.info.partitions {
            if let Some(log) = app.logs.remove(&log_name(id, partition)) {
                self.logs.remove(&log);
                self.channels.remove(&log);
            }
        }
    }

    fn define(&mut self, defined: &wire::LogDefined) {
        let id = defined.log;
        let app = self.app_name(&defined.application);
        self.app(&app).logs.insert(defined.name.clone(), id);
        let log = self.logs.entry(id).or_insert_with(|| {
            let mut log = Log::new(app, defined.name.clone());
            log.defined = true;
            log.assigned = defined.records;
            log
        });
        log.trimmed_to(defined.start);
    }

    fn app_name(&self, name: &str) -> Arc<str> {
        self.apps.get_key_value(name).map_or_else(|| name.into(), |(name, _)| Arc::clone(name))
    }

    fn app(&mut self, name: &str) -> &mut App {
        let name = self.app_name(name);
        self.apps.entry(name).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step of a log's contents.
    enum Step {
        /// A file begins and repeats these logs: number, records, start.
        File(&'static [(u32, u64, u64)]),
        /// The same, as an earlier version wrote it.
        OldFile(&'static [(u32, u64, u64)]),
        Defined(u32),
        /// Records of a log.
        Records(u32, std::ops::RangeInclusive<u64>),
        Trimmed(u32, u64),
        Purging,
        Purged,
    }
    use Step::{Defined, File, OldFile, Purged, Purging, Records, Trimmed};

    fn defined(&(log, records, start): &(u32, u64, u64)) -> Meta {
        let (application, name) = ("app".to_owned(), format!("log{log}"));
        Meta::LogDefined(wire::LogDefined { log, application, name, records, start })
    }

    fn metas(step: &Step) -> Vec<Meta> {
        let file = |logs: &[_], holding| {
            let start = wire::SegmentStart { holding, ..Default::default() };
            let start = std::iter::once(Meta::SegmentStart(start));
            start.chain(logs.iter().map(defined)).collect()
        };
        match step {
            File(logs) => file(logs, 1 + logs.len() as u32),
            OldFile(logs) => file(logs, 0),
            Defined(log) => vec![defined(&(*log, 0, 0))],
            Trimmed(log, start) => {
                vec![Meta::LogTrimmed(wire::LogTrimmedTo { log: *log, start: *start })]
            }
            Purging => vec![Meta::ApplicationPurging("app".into())],
            Purged => vec![Meta::ApplicationPurged("app".into())],
            Records(..) => Vec::new(),
        }
    }

    /// Number of a log, its start, its records, the last offset given.
    type Replayed = (u32, u64, Vec<u64>, u64);

    /// What is wrong, or what there is of each log.
    fn replayed(steps: &[Step]) -> Result<Vec<Replayed>, String> {
        let mut replay = Replay::new();
        let mut address = 4096;
        for step in steps {
            for meta in metas(step) {
                replay.visit(&Visit::Meta(&wire::Meta { meta: Some(meta) }.encode_to_vec()))?;
            }
            if let Records(log, offsets) = step {
                for offset in offsets.clone() {
                    replay.visit(&Visit::Record {
                        log: *log,
                        offset,
                        address,
                        bytes: 64,
                        payload: None,
                    })?;
                    address += 64;
                }
            }
        }
        if let Some(missing) = replay.missing() {
            return Err(missing);
        }
        let mut logs: Vec<_> = replay
            .held
            .logs
            .iter()
            .map(|(&id, log)| {
                let index = replay.indexes.get(&id).cloned();
                let kept = index.map_or(Vec::new(), |mut index| {
                    index.trim(log.start.min(index.last() + 1));
                    (index.first()..=index.last()).collect()
                });
                (id, log.start, kept, log.assigned)
            })
            .collect();
        logs.sort();
        Ok(logs)
    }

    #[test]
    fn what_files_say_adds_up() {
        for (steps, wanted) in [
            (vec![File(&[]), Defined(1), Records(1, 1..=3)], vec![(1, 1, vec![1, 2, 3], 3)]),
            // Trimmed in the file, and the next file says so, too.
            (
                vec![
                    File(&[]),
                    Defined(1),
                    Records(1, 1..=3),
                    Trimmed(1, 3),
                    File(&[(1, 3, 3)]),
                    Records(1, 4..=4),
                ],
                vec![(1, 3, vec![3, 4], 4)],
            ),
            // A compacted file has neither names nor trims; the one after it has.
            (
                vec![Records(1, 5..=6), Records(2, 1..=1), File(&[(1, 6, 5), (2, 1, 1)])],
                vec![(1, 5, vec![5, 6], 6), (2, 1, vec![1], 1)],
            ),
            // Two of them: what was trimmed of the first is trimmed more in the second.
            (
                vec![Records(1, 2..=3), Records(1, 8..=9), File(&[(1, 9, 8)])],
                vec![(1, 8, vec![8, 9], 9)],
            ),
            // The trim that makes it right comes last.
            (
                vec![Records(1, 2..=3), Records(1, 8..=9), File(&[(1, 9, 2)]), Trimmed(1, 8)],
                vec![(1, 8, vec![8, 9], 9)],
            ),
            // Everything was trimmed, and no record is left anywhere.
            (vec![File(&[(1, 9, 10)]), Records(1, 10..=10)], vec![(1, 10, vec![10], 10)]),
            (vec![File(&[(1, 9, 10)])], vec![(1, 10, vec![], 9)]),
            // The record of a purge is in a file that was compacted.
            (
                vec![File(&[]), Defined(1), Records(1, 1..=3), File(&[(2, 0, 1)])],
                vec![(2, 1, vec![], 0)],
            ),
            // A purge, with records that were on their way.
            (vec![File(&[]), Defined(1), Records(1, 1..=3), Purged, Records(1, 4..=5)], vec![]),
            // One that was begun, and goes on: its logs are there until it is done.
            (
                vec![File(&[]), Defined(1), Records(1, 1..=3), Purging],
                vec![(1, 1, vec![1, 2, 3], 3)],
            ),
            (vec![File(&[]), Defined(1), Records(1, 1..=3), Purging, Purged], vec![]),
            // Files of an earlier version add up one by one.
            (
                vec![
                    OldFile(&[]),
                    Defined(1),
                    Records(1, 1..=2),
                    OldFile(&[(1, 2, 0)]),
                    Defined(2),
                    Records(1, 3..=3),
                ],
                vec![(1, 1, vec![1, 2, 3], 3), (2, 1, vec![], 0)],
            ),
        ] {
            assert_eq!(replayed(&steps), Ok(wanted));
        }
    }

    #[test]
    fn what_is_missing_is_told() {
        for (steps, wanted) in [
            (vec![File(&[(1, 3, 1)])], "the first 3 records of log 'log1' are missing"),
            (vec![File(&[(1, 3, 2)])], "records 2 to 3 of log 'log1' are missing"),
            (
                vec![File(&[(1, 3, 1)]), Records(1, 4..=4)],
                "the first 3 records of log 'log1' are missing",
            ),
            (
                vec![File(&[]), Defined(1), Records(1, 1..=3), File(&[(1, 5, 2)])],
                "records 4 to 5 of log 'log1' are missing",
            ),
            // Of a compacted file something is gone that was not trimmed.
            (
                vec![Records(1, 5..=6), File(&[(1, 6, 4)])],
                "records 4 to 4 of log 'log1' are missing",
            ),
            (
                vec![Records(1, 3..=3), Records(1, 5..=6), File(&[(1, 6, 3)])],
                "records 3 to 4 of log 'log1' are missing",
            ),
            (
                vec![File(&[]), Defined(1), Records(1, 1..=3), Records(1, 3..=4)],
                "record 3 of log 'log1' follows record 3",
            ),
            (
                vec![OldFile(&[]), Defined(1), Records(1, 1..=3), OldFile(&[(1, 4, 0)])],
                "log 'log1' has 3 records before this place and should have 4",
            ),
        ] {
            assert_eq!(replayed(&steps), Err(wanted.to_owned()));
        }
    }
}
