//! Simulated logs: one ordered list of records per partition, appends that travel, readers that
//! lag.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use kar_core::effect::Append;
use kar_core::event::Event;
use kar_core::ids::{Offset, ProposalId};
use kar_core::record::{Op, Record};

use crate::explore::Print;
use crate::history::Seen;
use crate::plan::{MS, Us};
use crate::queue::Lane;
use crate::rng::join;
use crate::world::{Due, Input, World};

/// A record in a log.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) slot: usize,
    pub(crate) inst: u64,
    pub(crate) issue: u64,
    pub(crate) proposal: ProposalId,
    pub(crate) record: Arc<Record>,
}

/// How one slot reads one log.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reader {
    /// Events of an older generation no longer come.
    pub(crate) generation: u64,
    /// A reading was asked for and has not been stopped or lost.
    pub(crate) wanted: bool,
    /// The log has begun to serve it.
    pub(crate) active: bool,
    /// Appends issued later than this come back as own ones.
    pub(crate) since: u64,
    pub(crate) lane: Lane,
    pub(crate) append_lane: Lane,
}

/// One partition's log with its readers, by slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimLog {
    /// Those from `trimmed` on.
    entries: VecDeque<Entry>,
    /// Offset of the last record that was trimmed.
    pub(crate) trimmed: Offset,
    /// Offsets of claims.
    pub(crate) claims: BTreeSet<Offset>,
    /// In an explored world: stands for the entries.
    pub(crate) print: u64,
    pub(crate) readers: Vec<Reader>,
}

impl SimLog {
    /// A log that slots may read.
    pub(crate) fn new(slots: usize) -> Self {
        Self { readers: vec![Reader::default(); slots], ..Self::default() }
    }

    /// Offset of the last record.
    pub(crate) fn last(&self) -> Offset {
        self.trimmed + self.entries.len() as Offset
    }

    /// The record at an offset, unless it was trimmed.
    pub(crate) fn at(&self, offset: Offset) -> Option<&Entry> {
        self.entries.get(offset.checked_sub(self.trimmed + 1)? as usize)
    }

    /// The records behind an offset.
    pub(crate) fn behind(&self, offset: Offset) -> impl Iterator<Item = &Entry> {
        self.entries.iter().skip(offset.saturating_sub(self.trimmed) as usize)
    }
}

/// An append under way.
#[derive(Clone, Debug)]
pub(crate) struct Landing {
    pub(crate) slot: usize,
    pub(crate) inst: u64,
    pub(crate) hub: u64,
    pub(crate) log: usize,
    pub(crate) issue: u64,
    pub(crate) proposal: ProposalId,
    pub(crate) record: Arc<Record>,
}

/// What becomes of an append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// As chance has it.
    Chance,
    /// It arrives in order.
    Lands,
    /// It never arrives; the node hears of it in so long, if at all.
    Lost(Option<Us>),
    /// It arrives so much later, out of order.
    Late(Us),
    /// It arrives so much later, and everything after it, too.
    Slow(Us),
}

/// Whether a record holds a flush that makes a call.
fn makes_call(record: &Record) -> bool {
    let calls = |op: &Op| match op {
        Op::Progress { segment, .. } => {
            segment.sends.iter().any(|s| s.obligation.owed.is_awaited())
        }
        _ => false,
    };
    matches!(record, Record::Batch { ops, .. } if ops.iter().any(calls))
}

impl World {
    /// Sends a record on its way.
    pub(crate) fn append(&mut self, slot: usize, append: Append) {
        let log = self.log_of(&append.partition);
        let issue = {
            let slot = &mut self.slots[slot];
            slot.issue += 1;
            slot.issue
        };
        let fate = match self.hooks.append.as_mut() {
            Some(hook) => hook(slot, log, &append.record),
            None => Fate::Chance,
        };
        let fate = if fate == Fate::Chance { self.draw_fate() } else { fate };
        self.say(|| format!("n{slot} append {} {:?} {fate:?}", append.partition, append.record));
        if self.faults_on && makes_call(&append.record) {
            let chance = self.plan.profile.sleep_on_outcall;
            if self.rng.chance(chance) {
                let us = self.rng.range(100 * MS, self.plan.profile.pause_max);
                let inst = self.slots[slot].inst;
                self.push(self.now + 1, Due::Sleep { slot, inst, us });
            }
        }
        let landing = Landing {
            slot,
            inst: self.slots[slot].inst,
            hub: self.hub,
            log,
            issue,
            proposal: append.proposal,
            record: append.record,
        };
        let wanted = self.now + self.rng.range(100, 900) + self.hiccup();
        let lane = &mut self.logs[log].readers[slot].append_lane;
        match fate {
            Fate::Chance | Fate::Lands | Fate::Slow(_) => {
                let more = if let Fate::Slow(us) = fate { us } else { 0 };
                let at = lane.arrive(wanted + more);
                self.push(at, Due::Land(landing));
            }
            Fate::Late(us) => self.push(wanted + us, Due::Land(landing)),
            Fate::Lost(told) => {
                self.history_lost += 1;
                if let Some(us) = told {
                    let inst = self.slots[slot].inst;
                    self.push(wanted + us, Due::LogLost { slot, inst, log });
                }
            }
        }
    }

    pub(crate) fn draw_fate(&mut self) -> Fate {
        if !self.faults_on {
            return Fate::Lands;
        }
        let (lose, late) = (self.plan.profile.lose_append, self.plan.profile.late_append);
        if self.rng.chance(lose) {
            let told = self.rng.chance(700).then(|| self.rng.range(0, 150 * MS));
            return Fate::Lost(told);
        }
        if self.rng.chance(late) {
            return Fate::Late(self.rng.range(MS, 60 * MS));
        }
        Fate::Lands
    }

    /// A record arrives at its log.
    pub(crate) fn land(&mut self, landing: Landing) {
        let Landing { slot, inst, hub, log, issue, proposal, record } = landing;
        let orphan = self.slots[slot].inst != inst || self.hub != hub;
        if orphan && self.rng.chance(500) {
            return;
        }
        let node = self.slots[slot].ids[inst as usize];
        let entry = Entry { slot, inst, issue, proposal, record: record.clone() };
        if self.pending.is_some() {
            self.logs[log].print = join(self.logs[log].print, Print::of(&entry));
        }
        self.logs[log].entries.push_back(entry);
        let offset = self.logs[log].last();
        if let Record::Claim { .. } = *record {
            self.logs[log].claims.insert(offset);
        }
        self.say(|| format!("log {log} @{offset} {node:?} {record:?}"));
        self.note(Seen::Landed { log, offset, node, record });
        for reader in 0..self.slots.len() {
            if self.logs[log].readers[reader].active {
                self.show(reader, log, offset);
            }
        }
    }

    /// Lets a reader see the entry at `offset` after a while.
    fn show(&mut self, slot: usize, log: usize, offset: Offset) {
        let Some(entry) = self.logs[log].at(offset) else { return };
        let reader = &self.logs[log].readers[slot];
        let partition = self.log_ids[log].clone();
        let own =
            entry.slot == slot && entry.inst == self.slots[slot].inst && entry.issue > reader.since;
        let event = if own {
            Event::LogOwn { partition, offset, proposal: entry.proposal }
        } else {
            Event::LogRead { partition, offset, record: (*entry.record).clone() }
        };
        self.tell_reader(slot, log, event);
    }

    fn tell_reader(&mut self, slot: usize, log: usize, event: Event) {
        let wanted = self.now + self.rng.range(50, 400) + self.hiccup();
        let reader = &mut self.logs[log].readers[slot];
        let at = reader.lane.arrive(wanted);
        let generation = reader.generation;
        self.input(at, slot, Input::Log { log, generation, event });
    }

    /// A node asks to read a log.
    pub(crate) fn ask_read(&mut self, slot: usize, log: usize, from: Offset) {
        let since = self.slots[slot].issue;
        let reader = &mut self.logs[log].readers[slot];
        reader.generation += 1;
        reader.wanted = true;
        reader.active = false;
        reader.since = since;
        self.ask_log(slot, log, Some(from));
    }

    /// A node asks to be told when it has read what is there.
    pub(crate) fn ask_barrier(&mut self, slot: usize, log: usize) {
        self.ask_log(slot, log, None);
    }

    fn ask_log(&mut self, slot: usize, log: usize, from: Option<Offset>) {
        let inst = self.slots[slot].inst;
        let wanted = self.now + self.rng.range(50, 400);
        let reader = &mut self.logs[log].readers[slot];
        let generation = reader.generation;
        let at = self.slots[slot].log_lane.arrive(wanted);
        self.push(at, Due::Serve { slot, inst, log, generation, from });
    }

    /// A log takes up what was asked of it.
    pub(crate) fn serve(&mut self, slot: usize, log: usize, generation: u64, from: Option<Offset>) {
        let reader = &mut self.logs[log].readers[slot];
        if reader.generation != generation || !reader.wanted {
            return;
        }
        let partition = self.log_ids[log].clone();
        if let Some(from) = from {
            let start = self.logs[log].trimmed + 1;
            if from < start {
                self.logs[log].readers[slot].wanted = false;
                return self.tell_reader(slot, log, Event::LogTrimmed { partition, start });
            }
            self.logs[log].readers[slot].active = true;
            for offset in from..=self.logs[log].last() {
                self.show(slot, log, offset);
            }
        }
        self.tell_reader(slot, log, Event::LogEnd { partition });
    }

    /// The records below an offset go.
    pub(crate) fn trim(&mut self, log: usize, below: Offset) {
        let gone = below.saturating_sub(self.logs[log].trimmed + 1) as usize;
        let log_of = &mut self.logs[log];
        let gone = gone.min(log_of.entries.len());
        if gone == 0 {
            return;
        }
        log_of.entries.drain(..gone);
        log_of.trimmed += gone as Offset;
        let (start, store) = (log_of.trimmed + 1, self.stores[log].now.cell.offset);
        let snapshots = self.stores[log].snapshots().clone();
        self.say(|| format!("log {log} starts @{start}"));
        self.note(Seen::Trimmed { log, start, store, snapshots });
    }

    /// A node follows a log no longer.
    pub(crate) fn stop_reading(&mut self, slot: usize, log: usize) {
        let reader = &mut self.logs[log].readers[slot];
        reader.generation += 1;
        reader.wanted = false;
        reader.active = false;
    }

    /// Reading (and appending) breaks off, and the node is told.
    pub(crate) fn lose_log(&mut self, slot: usize, log: usize) {
        if self.slots[slot].node.is_none() || !self.logs[log].readers[slot].wanted {
            return;
        }
        self.stop_reading(slot, log);
        let partition = self.log_ids[log].clone();
        self.input(self.now, slot, Input::Event(Event::LogLost { partition }));
    }
}
