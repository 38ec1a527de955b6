//! Letting old events go, and finding events by their time: times never go back in a partition, so a few records
//! tell where a time is.

use kar_proto::hub::v1 as wire;
use wire::meta::Meta;
use wire::state_response::Response;

use super::super::conn::ConnId;
use super::super::{DiskJob, Engine, LogId, Then};
use super::{TopicId, invalid, unknown_topic};
use crate::error::HubError;

/// How long after the end of their time events go at the latest, at least and at most, milliseconds: a 64th of the
/// time, so that it costs little to look.
const SLACK_MS: std::ops::RangeInclusive<u64> = 1_000..=3_600_000;

/// The search for the first event of a time or later.
pub(super) struct Search {
    topic: TopicId,
    partition: u32,
    log: LogId,
    time_ms: u64,
    /// It is at `low` or above, and at `high` or below.
    low: u64,
    high: u64,
    purpose: Purpose,
}

enum Purpose {
    /// A client wants to know.
    Seek { conn: ConnId, number: u64 },
    /// What is before it goes.
    Expire,
}

/// A record to be read for its time.
pub(crate) struct Probe {
    search: u64,
    pub(crate) log: LogId,
    pub(crate) offset: u64,
    pub(crate) address: u64,
}

// === impl Engine ===

impl Engine {
    pub(super) fn seek_events(&mut self, conn: ConnId, number: u64, seek: &wire::SeekEvents) {
        let found = self.topics.by_id.get_key_value(seek.topic_id.as_str());
        let Some((id, topic)) = found else {
            return self.answer(conn, number, unknown_topic(&seek.topic_id));
        };
        let Some(partition) = topic.partitions.get(seek.partition as usize) else {
            let text = format!("the topic has {} partitions", topic.partitions.len());
            return self.answer(conn, number, invalid(text));
        };
        let (topic, log) = (TopicId::clone(id), partition.log);
        let purpose = Purpose::Seek { conn, number };
        self.search(topic, seek.partition, log, seek.time_ms, purpose);
    }

    fn search(
        &mut self,
        topic: TopicId,
        partition: u32,
        log: LogId,
        time_ms: u64,
        purpose: Purpose,
    ) {
        let Some(state) = self.logs.get(&log) else { return };
        let (low, high) = (state.index.first(), state.index.last() + 1);
        self.topics.next_search += 1;
        let number = self.topics.next_search;
        let search = Search { topic, partition, log, time_ms, low, high, purpose };
        self.topics.searches.insert(number, search);
        self.go_on_searching(number);
    }

    fn go_on_searching(&mut self, number: u64) {
        let Some(search) = self.topics.searches.get_mut(&number) else { return };
        let Some(log) = self.logs.get(&search.log) else {
            // The topic was deleted.
            let search = self.topics.searches.remove(&number);
            if let Some(Search { purpose: Purpose::Seek { conn, number }, topic, .. }) = search {
                self.answer(conn, number, unknown_topic(&topic));
            }
            return;
        };
        // Events may have been let go meanwhile.
        search.low = search.low.max(log.index.first());
        search.high = search.high.max(search.low);
        if search.low == search.high {
            return self.found(number);
        }
        let offset = search.low + (search.high - search.low) / 2;
        let mut cursor = log.index.cursor(offset);
        let address = log.index.next(&mut cursor).map_or(0, |place| place.address);
        let probe = Probe { search: number, log: search.log, offset, address };
        // If the disk reader is gone the hub is ending.
        let _ = self.threads.disk.send(DiskJob::Probe(probe));
    }

    /// A record's time is known.
    pub(crate) fn probed(&mut self, probe: &Probe, time_ms: u64) {
        if let Some(search) = self.topics.searches.get_mut(&probe.search) {
            if time_ms >= search.time_ms {
                search.high = probe.offset;
            } else {
                search.low = probe.offset + 1;
            }
        }
        self.go_on_searching(probe.search);
    }

    /// A record cannot be read.
    pub(crate) fn probe_failed(&mut self, probe: &Probe, error: HubError) {
        let log = self.logs.get(&probe.log);
        if log.is_some_and(|log| log.start <= probe.offset) {
            self.fail(error);
            return;
        }
        // It was let go meanwhile, or the topic was deleted.
        self.go_on_searching(probe.search);
    }

    fn found(&mut self, number: u64) {
        let Some(search) = self.topics.searches.remove(&number) else { return };
        let offset = search.low;
        match search.purpose {
            Purpose::Seek { conn, number } => {
                let sought = Response::EventsSought(wire::EventsSought { offset });
                self.answer(conn, number, sought);
            }
            Purpose::Expire => {
                let Some(topic) = self.topics.by_id.get_mut(&search.topic) else { return };
                let slack =
                    (topic.info.retention_ms / 64).clamp(*SLACK_MS.start(), *SLACK_MS.end());
                let kept_ms = topic.info.retention_ms;
                if let Some(partition) = topic.partitions.get_mut(search.partition as usize) {
                    partition.expiring = false;
                    partition.next_expiry_ms = search.time_ms + kept_ms + slack;
                }
                self.let_go(search.log, offset);
            }
        }
    }

    /// Lets go what is too much or too old.
    pub(super) fn expire(&mut self, now_ms: u64) {
        let mut old = Vec::new();
        let mut heavy = Vec::new();
        for (id, topic) in &mut self.topics.by_id {
            let (kept_ms, kept_bytes) = (topic.info.retention_ms, topic.info.retention_bytes);
            for (n, partition) in (0..).zip(&mut topic.partitions) {
                let Some(log) = self.logs.get(&partition.log) else { continue };
                if log.index.first() > log.index.last() {
                    continue;
                }
                if kept_bytes > 0 && log.bytes > kept_bytes {
                    heavy.push((partition.log, kept_bytes));
                }
                if kept_ms > 0 && !partition.expiring && partition.next_expiry_ms <= now_ms {
                    partition.expiring = true;
                    let time_ms = now_ms.saturating_sub(kept_ms);
                    old.push((TopicId::clone(id), n, partition.log, time_ms));
                }
            }
        }
        for (log, kept_bytes) in heavy {
            let Some(state) = self.logs.get(&log) else { continue };
            let mut bytes = state.bytes;
            let mut below = state.index.first();
            for place in state.index.places() {
                // The newest event stays, however long it is.
                if bytes <= kept_bytes || below == state.index.last() {
                    break;
                }
                bytes -= place.bytes;
                below += 1;
            }
            self.let_go(log, below);
        }
        for (id, partition, log, time_ms) in old {
            self.search(id, partition, log, time_ms, Purpose::Expire);
        }
    }

    /// Lets the events of a partition below an offset go.
    fn let_go(&mut self, log: LogId, below: u64) {
        let Some(state) = self.logs.get_mut(&log) else { return };
        if below <= state.start_assigned {
            return;
        }
        self.topics.stats.expired += below - state.start_assigned;
        state.start_assigned = below;
        let meta = Meta::LogTrimmed(wire::LogTrimmedTo { log, start: below });
        self.append_meta(meta, Some(Then::Trimmed { log, start: below }));
    }
}
