//! Snapshots as their owner takes them, and what may go from the log then (design section 7).
//!
//! ```text
//! Idle --(the log has grown)--> Taken --(its last record is committed)--> Waits --(the store has as much)-->
//! Putting --(it is durable)--> Checking --(the store has not gone back)--> named by a record
//! --(that is committed)--> the log is trimmed, older ones are deleted
//! ```
//!
//! It is taken when a record is cut: what has been decided then is what the log will come to with that record, if it
//! is read back valid; if not, all of it is dropped with the reign (rule L4). So nothing has to stand still for it,
//! however much is under way.

use std::sync::Arc;

use super::Partition;
use super::gate::Gated;
use crate::cover::Transition;
use crate::effect::{Effect, Notice};
use crate::env::Env;
use crate::event::Cell;
use crate::ids::{Millis, Offset};
use crate::record::{Op, Record};
use crate::snapshot::{NamedSnapshot, Plan, Snapshot, SnapshotFault, SnapshotKey, SnapshotProof};

/// Doublings of what the log grows by between snapshots that were not stored, one after the other: each one is a copy
/// of the whole state, and what was refused for its length will be refused again.
const DOUBLINGS_MAX: u32 = 4;

/// What of the log is in no snapshot, as far as it was read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unsaved {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

/// Where a snapshot stands that the reign takes.
#[derive(Clone, Debug, Default)]
pub(super) enum Saving {
    #[default]
    Idle,
    /// Its last record is not committed.
    Taken,
    /// The store lacks operations of its records.
    Waits(Arc<Snapshot>),
    /// It is being stored.
    Putting(SnapshotKey, Arc<Snapshot>),
    /// It is durable; the store of actors' states is asked where it stands.
    Checking(Check),
}

/// A snapshot that is durable and about to be named.
#[derive(Clone, Debug)]
pub(super) struct Check {
    key: SnapshotKey,
    proof: SnapshotProof,
    last_write: Offset,
    /// When the store was asked last.
    asked: Millis,
    /// What it must hold.
    known: Offset,
}

/// What may go when a record that names a snapshot is committed.
#[derive(Clone, Debug)]
pub(super) struct Dispensable {
    key: SnapshotKey,
    bytes: u64,
    /// Lower records.
    below: Option<Offset>,
    /// Snapshots.
    keys: Vec<SnapshotKey>,
}

impl Unsaved {
    /// Another record was read; what only names a snapshot is no reason for the next one.
    pub(super) fn add(&mut self, record: &Record) {
        let names = |op: &Op| matches!(op, Op::Snapshot { .. });
        match record {
            Record::Batch { ops, .. } if ops.iter().all(names) => {}
            record => {
                self.records += 1;
                self.bytes += record.size() as u64;
            }
        }
    }
}

impl Partition {
    /// Takes a snapshot if it is time: of everything decided, all of which is in a record by now.
    pub(super) fn take_snapshot(&mut self, env: &mut Env) {
        if !matches!(self.reign.saving, Saving::Idle) || !self.is_snapshot_due(env) {
            return;
        }
        if self.reign.released || !self.reign.pending.is_empty() {
            return;
        }
        let mut snapshot = self.state.save(&self.id);
        if !env.rules.snapshot_complete {
            snapshot.inbound.clear();
            snapshot.kept.clear();
        }
        if !self.reign.inflight.is_empty() {
            env.cover(Transition::SnapshotAhead);
        }
        self.reign.saving = Saving::Taken;
        self.gate(env, Gated::Saved(Box::new(snapshot)));
    }

    /// Not before the log has grown by what the last one took, so that a large state is not written all the time.
    fn is_snapshot_due(&self, env: &Env) -> bool {
        let Unsaved { records, bytes } = self.unsaved;
        let last = self.state.snapshots.last().map_or(0, |named| named.proof.bytes);
        let times = 1 << self.reign.puts_failed.min(DOUBLINGS_MAX);
        let after = |growth: u64| growth.saturating_mul(times);
        (records >= after(env.limits.snapshot_after_records)
            || bytes >= after(env.limits.snapshot_after_bytes))
            && bytes >= last
    }

    /// The last record of a snapshot was read back valid: it is what the log comes to here.
    pub(super) fn saved(&mut self, env: &mut Env, mut snapshot: Snapshot) {
        snapshot.offset = self.state.offset;
        snapshot.last_write = self.state.last_write;
        self.unsaved = Unsaved::default();
        self.reign.saving = Saving::Waits(Arc::new(snapshot));
        self.put_snapshot(env);
    }

    /// Has a snapshot stored as soon as the store of actors' states has everything up to it: what is missing there is
    /// still in the log then, and in no snapshot that anybody could begin with.
    pub(super) fn put_snapshot(&mut self, env: &mut Env) {
        let Saving::Waits(snapshot) = &self.reign.saving else { return };
        let has_all = self.reign.fenced && self.reign.cell.offset >= snapshot.last_write;
        if !has_all && env.rules.trim_after_stored {
            env.cover(Transition::SnapshotWaits);
            return;
        }
        let (partition, snapshot) = (self.id.clone(), snapshot.clone());
        let key = SnapshotKey { position: snapshot.offset, epoch: snapshot.epoch };
        self.stored.insert(key);
        self.reign.saving = Saving::Putting(key, snapshot.clone());
        if !env.rules.trim_after_snapshot {
            env.emit(Effect::TrimLog { partition: partition.clone(), below: key.position + 1 });
        }
        env.emit(Effect::PutSnapshot { partition, key, snapshot });
    }

    /// Steps at the store are lost: a snapshot that was being stored is stored again.
    pub(super) fn put_again(&mut self, env: &mut Env) {
        match &self.reign.saving {
            Saving::Putting(_, snapshot) => {
                env.cover(Transition::SnapshotPutAgain);
                self.reign.saving = Saving::Waits(snapshot.clone());
            }
            Saving::Checking(_) => self.check_store(env),
            Saving::Idle | Saving::Taken | Saving::Waits(_) => {}
        }
    }

    /// A snapshot is durable; or it is not, and another one will be taken.
    pub(crate) fn snapshot_put(
        &mut self,
        env: &mut Env,
        key: SnapshotKey,
        result: Result<SnapshotProof, SnapshotFault>,
    ) {
        let last_write = match &self.reign.saving {
            Saving::Putting(wanted, snapshot) if self.serving() && *wanted == key => {
                snapshot.last_write
            }
            _ => return,
        };
        self.reign.saving = Saving::Idle;
        let proof = match result {
            Ok(proof) => proof,
            Err(fault) => {
                env.cover(Transition::SnapshotNotPut);
                self.reign.puts_failed = self.reign.puts_failed.saturating_add(1);
                return self.snapshot_failed(env, Some(key), fault);
            }
        };
        self.reign.puts_failed = 0;
        let check = Check { key, proof, last_write, asked: 0, known: 0 };
        self.reign.saving = Saving::Checking(check);
        self.check_store(env);
    }

    /// The store may have gone back since it said to hold this or that, and nobody has looked. What is trimmed now
    /// could not heal it. First which snapshots are there: those named before may be gone with it.
    fn check_store(&mut self, env: &mut Env) {
        if let Saving::Checking(check) = &mut self.reign.saving {
            check.asked = env.now;
            env.emit(Effect::ListSnapshots { partition: self.id.clone() });
        }
    }

    /// The store has said which snapshots it has; then where it stands.
    pub(super) fn snapshots_checked(
        &mut self,
        env: &mut Env,
        result: Result<Vec<SnapshotKey>, SnapshotFault>,
    ) {
        let known = self.reign.cell.offset;
        let Saving::Checking(check) = &mut self.reign.saving else { return };
        let key = check.key;
        match result {
            Ok(keys) if keys.contains(&key) => {
                check.known = known;
                self.stored = keys.into_iter().collect();
                env.emit(Effect::ReadCell { partition: self.id.clone() });
            }
            Ok(keys) => {
                env.cover(Transition::SnapshotCheckFails);
                self.stored = keys.into_iter().collect();
                self.reign.saving = Saving::Idle;
            }
            Err(fault) => {
                self.reign.saving = Saving::Idle;
                self.snapshot_failed(env, None, fault);
            }
        }
    }

    /// The store has said where it stands: a snapshot that is durable is named.
    pub(super) fn store_checked(&mut self, env: &mut Env, cell: Cell) {
        let Saving::Checking(check) = &self.reign.saving else { return };
        let Check { key, proof, last_write, asked, known } = check.clone();
        if cell.epoch != self.reign.epoch || cell.offset < known {
            // A fence tells what it is. (Mostly the store has been replaced, and one is on its way.)
            env.cover(Transition::SnapshotCheckFails);
            self.reign.saving = Saving::Idle;
            self.reign.store_since = 0;
            return self.fence(env);
        }
        self.reign.saving = Saving::Idle;
        if self.reign.released {
            return;
        }
        let time = env.now.max(self.state.clock);
        let named = NamedSnapshot { key, proof, stored: last_write, time };
        let delay = if env.rules.trim_delay { env.limits.trim_delay_ms } else { 0 };
        // Those that were named and are gone, whoever took them away, are good for nothing. One that is there since
        // before the delay is there also in a store that goes back by the delay.
        let earlier = self.state.snapshots.iter().filter(|named| self.stored.contains(&named.key));
        let earlier: Vec<NamedSnapshot> = earlier.copied().collect();
        let plan = Plan::new(&earlier, self.reign.store_since..=asked, delay);
        let stays =
            |k: &SnapshotKey| plan.keeps.contains(&k.position) || k.position >= key.position;
        let keys = self.stored.iter().filter(|k| !stays(k)).copied().collect();
        self.push(env, Op::Snapshot { named, keeps: plan.keeps.clone() });
        let goes = Dispensable { key, bytes: proof.bytes, below: plan.below, keys };
        self.gate(env, Gated::Named(Box::new(goes)));
    }

    /// The log names a snapshot: what it makes dispensable goes. All of this holds for ever, so it harms nobody if it
    /// is carried out late, after the reign.
    pub(super) fn named(&mut self, env: &mut Env, goes: Dispensable) {
        let Dispensable { key, bytes, below, keys } = goes;
        let partition = self.id.clone();
        env.notice(Notice::SnapshotTaken { partition: partition.clone(), key, bytes });
        if let Some(below) = below {
            env.cover(Transition::Trims);
            env.emit(Effect::TrimLog { partition: partition.clone(), below });
        }
        for key in keys {
            let partition = partition.clone();
            env.emit(Effect::DeleteSnapshot { partition, key });
        }
    }

    /// A reign begins: snapshots of earlier ones that the log does not name will never be named. A partition that rests
    /// takes no other one, with which they would go.
    pub(super) fn drop_orphans(&mut self, env: &mut Env) {
        let named = |key: &SnapshotKey| self.state.snapshots.iter().any(|named| named.key == *key);
        let orphans = self.stored.iter().filter(|key| key.epoch < self.state.epoch && !named(key));
        for key in orphans.copied() {
            env.cover(Transition::SnapshotOrphan);
            env.emit(Effect::DeleteSnapshot { partition: self.id.clone(), key });
        }
    }

    /// A snapshot is gone; one that is not is deleted later.
    pub(crate) fn snapshot_deleted(
        &mut self,
        env: &mut Env,
        key: SnapshotKey,
        result: Result<(), SnapshotFault>,
    ) {
        match result {
            Ok(()) => {
                self.stored.remove(&key);
            }
            Err(fault) => self.snapshot_failed(env, Some(key), fault),
        }
    }
}
