//! Snapshots: they are what the log comes to, they are durable before they are named, and nothing is trimmed that is
//! not in one that can be used, and in the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kar_core::ids::{Number, Offset, Sender, Uuid};
use kar_core::reminder::Reminder;
use kar_core::snapshot::{NamedSnapshot, Snapshot, SnapshotKey};

use super::Judge;
use super::lists::shown;
use crate::history::{History, Seen};
use crate::store::{Snapshots, proof};

/// Snapshots of a run by log and place.
#[derive(Clone, Debug, Default)]
pub(crate) struct SnapshotsModel {
    /// Those that will be stored: what they hold is compared when the log has come to their place.
    coming: HashMap<(usize, Offset), Vec<Arc<Snapshot>>>,
    /// Those that were stored.
    stored: BTreeMap<(usize, SnapshotKey), Arc<Snapshot>>,
    /// Those that a valid record names.
    named: BTreeSet<(usize, SnapshotKey)>,
    /// How often a log was trimmed.
    pub(crate) trims: u64,
}

impl SnapshotsModel {
    pub(crate) fn of(history: &History) -> Self {
        let mut model = Self::default();
        for (_, seen) in &history.events {
            if let Seen::Saved { log, key, snapshot } = seen {
                let here = model.coming.entry((*log, key.position)).or_default();
                if !here.iter().any(|known| Arc::ptr_eq(known, snapshot)) {
                    here.push(snapshot.clone());
                }
            }
        }
        model
    }
}

impl Judge<'_> {
    pub(crate) fn snapshot_saved(&mut self, log: usize, key: SnapshotKey, saved: &Arc<Snapshot>) {
        if self.logs[log].last < key.position {
            let text = format!("{}: {key} is ahead of the log", self.logs[log].id);
            self.wrong("snapshot is committed", text);
        }
        self.snapshots.stored.entry((log, key)).or_insert_with(|| saved.clone());
    }

    /// The log has come to a place of which there will be snapshots.
    pub(crate) fn compare_snapshots(&mut self, log: usize, offset: Offset) {
        for snapshot in self.snapshots.coming.remove(&(log, offset)).unwrap_or_default() {
            if let Err(what) = self.compare(log, offset, &snapshot) {
                let text = format!("{}@{offset}: {what}", self.logs[log].id);
                self.wrong("snapshot is what the log comes to", text);
            }
        }
    }

    fn compare(&self, log: usize, offset: Offset, snapshot: &Snapshot) -> Result<(), String> {
        let model = &self.logs[log];
        let head = (model.epoch, model.owner, model.seq, model.released, model.uuid);
        let s = snapshot;
        let saved = (s.epoch, s.owner, s.seq, s.released, s.log);
        if head != saved || s.offset != offset || s.partition != model.id {
            return Err(format!("{saved:?} at {}, not {head:?}", s.offset));
        }
        let written = model.writes.last().map_or(0, |(at, _, _)| *at);
        if s.last_write != written {
            return Err(format!("last write at {}, not {written}", s.last_write));
        }
        let open = model.held.iter().filter(|(_, held)| held.ended.is_none() && !held.gone);
        let open: BTreeMap<Uuid, u32> = open.map(|(uuid, held)| (*uuid, held.attempt)).collect();
        let entries = s.entries.iter().filter(|e| !e.moved);
        let entries: BTreeMap<_, _> = entries.map(|e| (e.invocation.uuid, e.attempt)).collect();
        let moved: BTreeSet<Uuid> =
            s.entries.iter().filter(|e| e.moved).map(|e| e.invocation.uuid).collect();
        let known = |uuid: &Uuid| entries.contains_key(uuid) || moved.contains(uuid);
        if let Some(lost) = open.keys().find(|uuid| !known(uuid)) {
            return Err(format!("{lost} is missing"));
        }
        let differs = |(uuid, attempt): &(&Uuid, &u32)| open.get(uuid) != Some(attempt);
        if let Some((uuid, attempt)) = entries.iter().find(differs) {
            return Err(format!("{uuid} at attempt {attempt}, not {:?}", open.get(uuid)));
        }
        let of = |(actor, r): &(Arc<str>, Arc<Reminder>)| (actor.clone(), shown(r, r.due));
        let reminders: Vec<_> = s.reminders.iter().map(of).collect();
        if reminders != model.reminders.shown() {
            return Err(format!("{reminders:?}, not {:?}", model.reminders.shown()));
        }
        let fires = |uuid: &Uuid| model.reminders.firings.contains_key(uuid) && known(uuid);
        if let Some((name, uuid)) = s.firings.iter().find(|(_, uuid)| !fires(uuid)) {
            return Err(format!("{uuid} is no firing of {name:?}"));
        }
        let owed = model.owed.iter().filter(|(_, owed)| !owed.settled);
        let owed: BTreeSet<(usize, Number)> = owed.map(|(at, _)| *at).collect();
        let out = s.outbound.iter().flat_map(|out| {
            let to = self.log_of(&out.to);
            out.open.iter().map(move |send| (to, send.number))
        });
        let out: BTreeSet<_> = out.collect();
        if out != owed {
            return Err(format!("owes {out:?}, not {owed:?}"));
        }
        self.same_topics(log, s)?;
        let next: HashMap<&Sender, Number> =
            s.inbound.iter().map(|inbound| (&inbound.sender, inbound.next)).collect();
        let closed = |sender: &Sender| match sender {
            Sender::Node(node) => {
                let nodes = &s.closed_nodes;
                let below = *node < nodes.floor && !nodes.open.contains(node);
                below || nodes.above.contains(node)
            }
            Sender::Log { .. } => false,
            Sender::Subscription { partition, subscription, .. } => {
                let fence = s.fences.iter().find(|(from, _)| from == partition);
                fence.is_some_and(|(_, fence)| fence.closes(*subscription))
            }
        };
        let forgotten = |(sender, number): &&(Sender, Number)| {
            next.get(sender).is_none_or(|next| next <= number) && !closed(sender)
        };
        match model.numbers.keys().find(forgotten) {
            Some((sender, number)) => Err(format!("{number} of {sender:?} is not known")),
            None => Ok(()),
        }
    }

    /// A valid record names a snapshot.
    pub(crate) fn snapshot_named(&mut self, log: usize, offset: Offset, named: &NamedSnapshot) {
        let stored = self.snapshots.stored.get(&(log, named.key));
        if stored.is_none_or(|stored| proof(stored) != named.proof) {
            let text = format!("{}@{offset} names {}", self.logs[log].id, named.key);
            self.wrong("snapshot is durable before it is named", text);
        }
        self.snapshots.named.insert((log, named.key));
    }

    /// A log was trimmed: what is gone must be in snapshots that can be used, two of them unless the store went back.
    pub(crate) fn trimmed(
        &mut self,
        (log, start): (usize, Offset),
        store: Offset,
        snapshots: &Snapshots,
    ) {
        self.snapshots.trims += 1;
        let usable = snapshots.iter().filter(|(key, snapshot)| {
            self.snapshots.named.contains(&(log, **key))
                && key.position + 1 >= start
                && snapshot.last_write <= store
        });
        let usable = usable.count();
        let wanted = if self.history.goes_back { 1 } else { 2 };
        if usable < wanted {
            let text = format!("{} starts @{start}: {usable} snapshots left", self.logs[log].id);
            self.wrong("trimmed after snapshots", text);
        }
        let id = &self.logs[log].id;
        let lost = self.logs[log].writes.iter().find(|(at, _, _)| *at < start && *at > store);
        if let Some((at, actor, _)) = lost {
            let text = format!("{id} starts @{start}: {actor}'s @{at} is not stored");
            self.wrong("trimmed after the store", text);
        }
    }
}
