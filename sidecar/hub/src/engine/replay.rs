//! The engine as the write-ahead log tells it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use kar_proto::hub::v1 as wire;
use prost::Message as _;
use wire::meta::Meta;

use super::{App, CommitterState, Engine, Log, LogId, Member, Stats, Threads};
use crate::options::HubLimits;
use crate::wal::recover::Visit;
use crate::wal::writer::Writer;

/// What records say, in order.
pub(crate) struct Replay {
    apps: BTreeMap<Arc<str>, App>,
    logs: HashMap<LogId, Log>,
    next_log: LogId,
    next_incarnation: u64,
    /// Logs whose first records are in files that are gone: they must turn out to be purged.
    incomplete: BTreeMap<LogId, String>,
}

// === impl Replay ===

impl Replay {
    pub(crate) fn new() -> Self {
        Self {
            apps: BTreeMap::new(),
            logs: HashMap::new(),
            next_log: 1,
            next_incarnation: 1,
            incomplete: BTreeMap::new(),
        }
    }

    /// Takes what the log contains; the error says what is wrong with it.
    pub(crate) fn visit(&mut self, what: &Visit<'_>) -> Result<(), String> {
        let (id, offset, address) = match *what {
            Visit::Meta(payload) => {
                let meta = wire::Meta::decode(payload)
                    .map_err(|e| format!("one of the hub's own records cannot be read: {e}"))?;
                // A kind of record that is unknown was written by a newer version.
                let meta = meta.meta.ok_or("a record of an unknown kind: use the newer version")?;
                return self.meta(meta);
            }
            Visit::Record { log, offset, address } => (log, offset, address),
        };
        // Records of purged logs stay until their file goes.
        let Some(log) = self.logs.get_mut(&id) else { return Ok(()) };
        if offset != log.assigned + 1 {
            let (name, last) = (&log.name, log.assigned);
            return Err(format!("record {offset} of log '{name}' follows record {last}"));
        }
        log.assigned += 1;
        if !self.incomplete.contains_key(&id) {
            log.index.push(address);
        }
        Ok(())
    }

    fn meta(&mut self, meta: Meta) -> Result<(), String> {
        match meta {
            Meta::SegmentStart(start) => {
                self.next_incarnation = self.next_incarnation.max(start.next_incarnation);
                self.next_log = self.next_log.max(start.next_log);
            }
            Meta::LogDefined(defined) => self.log(defined)?,
            Meta::MemberJoined(joined) => {
                let info = joined.member.unwrap_or_default();
                let incarnation = info.incarnation;
                self.next_incarnation = self.next_incarnation.max(incarnation + 1);
                let members = &mut self.app(&joined.application).members;
                members.insert(incarnation, Member { info, conn: None });
            }
            Meta::MemberLeft(incarnation) => {
                for app in self.apps.values_mut() {
                    app.members.remove(&incarnation);
                }
            }
            Meta::MemberOffered(offered) => {
                let offer = offered.offer.unwrap_or_default();
                for app in self.apps.values_mut() {
                    if let Some(member) = app.members.get_mut(&offered.incarnation) {
                        member.info.kinds.clone_from(&offer.kinds);
                        member.info.leaving = offer.leaving;
                    }
                }
            }
            Meta::KindDefined(defined) => {
                let kind = defined.kind.unwrap_or_default();
                self.app(&defined.application).kinds.insert(kind.name, kind.partitions);
            }
            Meta::ApplicationPurged(app) => {
                if let Some(app) = self.apps.remove(app.as_str()) {
                    for log in app.logs.into_values() {
                        self.logs.remove(&log);
                        self.incomplete.remove(&log);
                    }
                }
            }
        }
        Ok(())
    }

    fn log(&mut self, defined: wire::LogDefined) -> Result<(), String> {
        let id = defined.log;
        self.next_log = self.next_log.max(id + 1);
        if let Some(log) = self.logs.get(&id) {
            if log.assigned != defined.records {
                return Err(format!(
                    "log '{}' has {} records before this place and should have {}",
                    log.name, log.assigned, defined.records
                ));
            }
            return Ok(());
        }
        if defined.records != 0 {
            let what = format!(
                "the first {} records of log '{}' are missing",
                defined.records, defined.name
            );
            self.incomplete.insert(id, what);
        }
        let app = self.app_name(&defined.application);
        let mut log = Log::new(Arc::clone(&app), defined.name.clone());
        log.defined = true;
        log.assigned = defined.records;
        self.logs.insert(id, log);
        self.app(&app).logs.insert(defined.name, id);
        Ok(())
    }

    /// What is missing when everything has been visited.
    pub(crate) fn missing(&self) -> Option<&str> {
        self.incomplete.values().next().map(String::as_str)
    }

    fn app_name(&self, name: &str) -> Arc<str> {
        self.apps.get_key_value(name).map_or_else(|| name.into(), |(name, _)| Arc::clone(name))
    }

    fn app(&mut self, name: &str) -> &mut App {
        let name = self.app_name(name);
        self.apps.entry(name).or_default()
    }

    /// The engine that goes on from here.
    pub(crate) fn engine(self, limits: HubLimits, writer: Writer, threads: Threads) -> Engine {
        Engine {
            limits,
            writer,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            apps: self.apps,
            logs: self.logs,
            next_log: self.next_log,
            next_incarnation: self.next_incarnation,
            conns: BTreeMap::new(),
            next_conn: 0,
            threads,
            committer: CommitterState::Busy,
            stats: Stats::default(),
            fault: None,
            stopping: false,
            idle_since: Some(Instant::now()),
        }
    }
}
