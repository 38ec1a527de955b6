//! The shadow model: judges a run from its history alone. It shares the data types with the core,
//! and nothing else: it reads the logs by its own understanding of rules L2, L3 and T3.

mod counts;
mod deadlock;
mod end;
mod events;
mod expiry;
mod gate;
mod inbox;
mod life;
mod lists;
mod logs;
mod model;
mod order;
mod overlap;
mod policies;
mod readings;
mod reads;
mod reminders;
mod shared;
mod snapshots;
mod starts;
mod state;
mod steps;
mod told;
mod topics;
mod turns;
mod withdraw;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kar_core::ids::{Epoch, Kind, NodeId, Number, PartitionId, Sender, Uuid};

pub(crate) use counts::Counts;
pub(crate) use logs::LogModel;

use kar_core::message::Message;

use crate::history::{History, Seen};
use crate::plan::Us;

/// A promise that was not kept.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// The promise or rule.
    pub(crate) rule: &'static str,
    /// When.
    pub(crate) at: Us,
    /// What happened.
    pub(crate) text: String,
}

/// Greatest number of violations that are collected; the first one tells most.
const VIOLATIONS_MAX: usize = 20;

/// Events of a livelock that are judged; the busiest good run has fewer.
const LIVELOCK_EVENTS_JUDGED: usize = 20_000;

/// What is known of a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeModel {
    pub(crate) gone: Option<Us>,
    /// It was struck out of the membership.
    pub(crate) struck_out: bool,
    pub(crate) drain_told: bool,
    /// When it last woke from standing still.
    pub(crate) woke: Us,
    /// Logs it must read to the end before it acts on them (it was told that it was away).
    pub(crate) unread: BTreeSet<usize>,
    /// It knows that its lease is not valid.
    pub(crate) lapsed: bool,
    /// Reigns that it says it dropped in disorder.
    pub(crate) dropped: BTreeSet<(usize, u64)>,
    /// Valid claims that it has read, with the time: log, epoch.
    pub(crate) claims: BTreeMap<(usize, u64), Us>,
    /// Kinds that it has ever hosted, and since when it does not; absent: it does.
    pub(crate) hosted: BTreeMap<Kind, Option<Us>>,
}

impl NodeModel {
    fn host_up(&mut self, kinds: &[Kind]) {
        self.hosted.extend(kinds.iter().map(|kind| (kind.clone(), None)));
    }

    fn host_down(&mut self, now: Us) {
        for until in self.hosted.values_mut() {
            until.get_or_insert(now);
        }
    }
}

/// The model while it goes through the history.
pub(crate) struct Judge<'h> {
    pub(crate) history: &'h History,
    pub(crate) logs: Vec<LogModel>,
    pub(crate) log_numbers: BTreeMap<PartitionId, usize>,
    pub(crate) nodes: BTreeMap<NodeId, NodeModel>,
    pub(crate) now: Us,
    pub(crate) violations: Vec<Violation>,
    pub(crate) counts: Counts,
    /// The callers of every invocation that was ever seen, root first.
    pub(crate) chains: HashMap<Uuid, Arc<[Uuid]>>,
    /// Where the newest step of every invocation that partitions sent was sent: which actor of which log.
    pub(crate) targets: HashMap<Uuid, (u32, usize, Arc<str>)>,
    /// Tags of the payloads, by invocation and the other way round.
    pub(crate) uuid_of_tag: HashMap<u64, Uuid>,
    pub(crate) tag_of_uuid: HashMap<Uuid, u64>,
    /// Dead letters that operators were told of.
    pub(crate) dead_told: BTreeSet<Uuid>,
    /// What each step of an invocation was sent as, by the log it was sent to: by which reign of its sender, to which
    /// reign.
    pub(crate) sends: HashMap<(usize, Uuid, u32), BTreeSet<(Epoch, Epoch)>>,
    /// Dead letters that were sent again: what each was when it was told first.
    pub(crate) redriven: HashMap<Uuid, Uuid>,
    /// Where a tag was issued by a turn: run and item.
    pub(crate) issued: HashMap<u64, (usize, usize)>,
    /// Where a tag was issued by a client.
    pub(crate) asked: HashMap<u64, usize>,
    /// Requests (of turns and clients) answered so far.
    pub(crate) answered: BTreeSet<(usize, usize)>,
    /// Turns dispatched, by token: log, invocation, step, attempt, epoch.
    pub(crate) dispatched: HashMap<(usize, Uuid, u32, u32, u64), usize>,
    /// Numbers of node senders and what they stand for, as requested or accepted.
    pub(crate) node_numbers: HashMap<(Sender, usize, Number), Uuid>,
    pub(crate) snapshots: snapshots::SnapshotsModel,
    pub(crate) inboxes: inbox::InboxesModel,
    /// How many writes to its actor were durable when a read was asked for.
    pub(crate) read_floors: HashMap<usize, usize>,
    /// Tags of reminders, and who scheduled them: all their firings carry them.
    pub(crate) reminder_tags: HashMap<u64, reminders::Asked>,
    pub(crate) life: life::LifeModel,
    pub(crate) starts: starts::StartsModel,
    pub(crate) topics: topics::TopicsModel,
    pub(crate) events: events::EventsModel,
    pub(crate) told: told::ToldModel,
    pub(crate) readings: readings::ReadingsModel,
}

/// Judges a run; also counts what really happened in it.
pub(crate) fn judge(history: &History) -> (Vec<Violation>, Counts) {
    let mut judge = Judge::new(history);
    // The whole history of a livelock takes too long to judge, and tells no more.
    let most = if history.finish.livelock { LIVELOCK_EVENTS_JUDGED } else { usize::MAX };
    for (at, seen) in history.events.iter().take(most) {
        judge.now = *at;
        judge.see(seen);
    }
    judge.now = history.finish.at;
    if history.finish.livelock {
        judge.wrong("bounded", "too many events or effects: a livelock".into());
        return (judge.violations, judge.counts);
    }
    if history.heeding {
        judge.check_overlaps();
    }
    judge.check_turns();
    judge.check_deadlines();
    judge.check_reminders_done();
    judge.check_end();
    (judge.violations, judge.counts)
}

/// Judges a run that is not over: what was seen so far, not what is still to come.
pub(crate) fn judge_so_far(history: &History) -> Vec<Violation> {
    let mut judge = Judge::new(history);
    for (at, seen) in &history.events {
        judge.now = *at;
        judge.see(seen);
    }
    judge.check_overlaps();
    judge.check_turns();
    judge.violations
}

impl<'h> Judge<'h> {
    fn new(history: &'h History) -> Self {
        let mut ids = Vec::new();
        for (kind, count) in history.names.kinds.iter().zip(&history.names.counts) {
            ids.extend((0..*count).map(|index| PartitionId::new(kind.clone(), index)));
        }
        let mut issued = HashMap::new();
        for (run, record) in history.runs.iter().enumerate() {
            for (item, what) in record.items.iter().enumerate() {
                if let Some(tag) = what.what.tag() {
                    issued.insert(tag, (run, item));
                }
            }
        }
        let own = |r: &crate::history::Req| {
            let is_asked = r.awaits.is_some() || r.control.is_some() || r.reads.is_some();
            !is_asked && !r.removes && r.subscription.is_none()
        };
        let clients = history.reqs.iter().enumerate().filter(|(_, r)| own(r));
        Self {
            history,
            logs: ids.iter().map(|id| LogModel::new(id.clone())).collect(),
            log_numbers: ids.into_iter().enumerate().map(|(i, p)| (p, i)).collect(),
            nodes: BTreeMap::new(),
            now: 0,
            violations: Vec::new(),
            counts: Counts::default(),
            chains: HashMap::new(),
            targets: HashMap::new(),
            uuid_of_tag: HashMap::new(),
            tag_of_uuid: HashMap::new(),
            dead_told: BTreeSet::new(),
            sends: HashMap::new(),
            redriven: HashMap::new(),
            issued,
            // The first one, where it is sent again.
            asked: clients.rev().map(|(i, r)| (r.tag, i)).collect(),
            answered: BTreeSet::new(),
            dispatched: HashMap::new(),
            node_numbers: HashMap::new(),
            snapshots: snapshots::SnapshotsModel::of(history),
            inboxes: inbox::InboxesModel::default(),
            read_floors: HashMap::new(),
            reminder_tags: reminders::asked(history),
            life: life::LifeModel::default(),
            starts: starts::StartsModel::default(),
            topics: topics::TopicsModel::default(),
            events: events::EventsModel::default(),
            told: told::ToldModel::default(),
            readings: readings::ReadingsModel::default(),
        }
    }

    /// Notes that something is not as promised.
    pub(crate) fn wrong(&mut self, rule: &'static str, text: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { rule, at: self.now, text });
        }
    }

    pub(crate) fn log_of(&self, partition: &PartitionId) -> usize {
        self.log_numbers[partition]
    }

    fn see(&mut self, seen: &Seen) {
        match seen {
            Seen::Landed { log, offset, node, record } => {
                self.landed(*log, *offset, *node, record);
            }
            Seen::Sent { from, message, .. } => {
                self.counts.coverage.sent(message);
                self.check_sent(*from, message);
                if let Message::Request { sender, to, number, .. } = message {
                    self.way(sender, self.log_of(to), *number, 1);
                }
            }
            Seen::Arrived { to, sent } => self.count_arrival(*to, *sent),
            Seen::Dispatched { run } => self.check_dispatch(*run),
            Seen::Reads { req } if self.history.reqs[*req].remind.is_some() => {
                self.list_asked(*req);
            }
            Seen::Reads { req } => self.read_asked(*req),
            Seen::Responded { node, to, answer } => {
                self.counts.coverage.answer(answer);
                self.check_answer(*node, *to, answer);
            }
            Seen::Noticed { node, notice } => {
                self.counts.coverage.notice(notice);
                self.check_notice(*node, notice);
            }
            Seen::ClaimRead { node, log, offset } => self.claim_read(*node, *log, *offset),
            Seen::NodeUp { node } => {
                self.nodes.insert(*node, NodeModel::default());
            }
            Seen::NodeGone { node } => self.node(*node).gone = Some(self.now),
            Seen::StruckOut { node } => self.node(*node).struck_out = true,
            Seen::Woke { node, resumed } => self.woke(*node, *resumed),
            Seen::ReadToEnd { node, log } => {
                self.node(*node).unread.remove(log);
            }
            Seen::Lease { node, valid } => self.node(*node).lapsed = !valid,
            Seen::HostUp { node, kinds } => self.node(*node).host_up(kinds),
            Seen::HostDown { node, session, dead } => {
                let now = self.now;
                self.node(*node).host_down(now);
                self.count_host_down(*node, *session, *dead);
            }
            Seen::DrainTold { node } => {
                self.node(*node).drain_told = true;
                self.count_drain(*node);
            }
            Seen::Drained { node } => self.check_drained(*node),
            Seen::RolledBack => self.counts.store_rollback += 1,
            Seen::Put { node, entry } => self.put(*node, entry),
            Seen::InInbox { inbox, offset, entry } => self.in_inbox(inbox, *offset, entry),
            Seen::InboxTrimmed { inbox, below } => self.inbox_trimmed(inbox, *below),
            Seen::InTopic { to, offset, channel, number, event } => {
                self.in_topic((to, *offset), (*channel, *number), event);
            }
            Seen::TopicGone { id } => self.topic_gone(id),
            Seen::SourceEvent { id, partition, event } => {
                self.source_event(id, *partition, event);
            }
            Seen::SourceTrimmed { id, partition, start } => {
                self.source_trimmed(id, *partition, *start);
            }
            Seen::Reading { node, id, is_open } => self.reading_seen(*node, id, *is_open),
            Seen::Saved { log, key, snapshot } => self.snapshot_saved(*log, *key, snapshot),
            Seen::Trimmed { log, start, store, snapshots } => {
                self.trimmed((*log, *start), *store, snapshots);
            }
        }
    }

    pub(crate) fn node(&mut self, node: NodeId) -> &mut NodeModel {
        self.nodes.entry(node).or_default()
    }

    fn woke(&mut self, node: NodeId, resumed: bool) {
        let owned: Vec<usize> = (0..self.logs.len()).filter(|l| self.believes(node, *l)).collect();
        let now = self.now;
        let model = self.node(node);
        model.woke = now;
        if resumed {
            model.unread.extend(owned);
        }
    }

    /// Whether a node may believe that it reigns over a partition: its last reign there is neither
    /// released nor followed by one that it knows of.
    pub(crate) fn believes(&self, node: NodeId, log: usize) -> bool {
        let Some(last) = self.logs[log].reigns.iter().rev().find(|r| r.node == node) else {
            return false;
        };
        let model = &self.nodes[&node];
        let newer = model.claims.range((log, last.epoch + 1)..(log + 1, 0)).next();
        last.released.is_none() && newer.is_none() && !model.dropped.contains(&(log, last.epoch))
    }

    fn claim_read(&mut self, node: NodeId, log: usize, offset: u64) {
        let Some(reign) = self.logs[log].reigns.iter().find(|r| r.epoch == offset) else { return };
        let (now, from, own) = (self.now, reign.from, reign.node == node);
        let model = self.node(node);
        model.claims.entry((log, offset)).or_insert(now);
        if own && from > model.woke {
            // A claim made since it woke is valid only if it follows what the log then held.
            model.unread.remove(&log);
        }
    }

    /// A node that was told to leave says that it owns nothing: then no reign of its own may be
    /// open.
    fn check_drained(&mut self, node: NodeId) {
        if !self.node(node).drain_told {
            return;
        }
        for log in 0..self.logs.len() {
            let model = &self.logs[log];
            let of_node = &self.nodes[&node];
            let dropped = of_node.dropped.contains(&(log, model.epoch));
            // Of a claim whose answer was lost with the log's connection it does not know; its successor's claim is
            // valid all the same.
            let knows = of_node.claims.contains_key(&(log, model.epoch));
            if model.owner == Some(node) && knows && !model.released && !dropped {
                let text = format!("{node:?} is drained and still reigns over {}", model.id);
                self.wrong("drain", text);
            }
        }
    }
}
