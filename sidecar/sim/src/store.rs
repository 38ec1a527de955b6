//! The simulated store: a fence cell and actors' maps per partition.

use std::collections::BTreeMap;
use std::sync::Arc;

use kar_core::event::Cell;
use kar_core::ids::{Epoch, Offset};
use kar_core::invocation::{ActorOps, StateOp};
use kar_core::snapshot::{Snapshot, SnapshotKey, SnapshotProof};

use crate::history::Keys;
use crate::plan::Us;

/// What the store holds of one partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct StorePartition {
    pub(crate) cell: Cell,
    pub(crate) actors: BTreeMap<Arc<str>, Keys>,
    pub(crate) snapshots: Snapshots,
}

/// Stored snapshots of a partition.
pub(crate) type Snapshots = BTreeMap<SnapshotKey, Arc<Snapshot>>;

/// A step asked of the store.
#[derive(Clone, Debug)]
pub(crate) enum StoreStep {
    Cell,
    Load { epoch: Epoch, actor: Arc<str> },
    Fence { epoch: Epoch },
    Write { expected: Cell, upto: Offset, ops: Vec<ActorOps> },
}

/// What is asked about snapshots.
#[derive(Clone, Debug)]
pub(crate) enum SnapshotStep {
    Put(SnapshotKey, Arc<Snapshot>),
    Get(SnapshotKey),
    Delete(SnapshotKey),
    List,
}

/// What the store says to it.
#[derive(Clone, Debug)]
pub(crate) enum StoreSays {
    Cell { cell: Cell },
    Loaded { epoch: Epoch, actor: Arc<str>, cell: Cell, state: Keys },
    Fenced { epoch: Epoch, cell: Cell },
    Written { epoch: Epoch, upto: Offset },
    Refused { epoch: Epoch, cell: Cell },
}

/// One partition of the store, with what it was, for rollbacks.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimStore {
    pub(crate) now: StorePartition,
    pub(crate) past: Vec<(Us, StorePartition)>,
    /// Versions are kept only where a rollback may come.
    pub(crate) keep_past: bool,
    /// The reign that has fenced it since it last went back: that one knows where it stands.
    pub(crate) known_to: Option<Epoch>,
}

/// Applies operations to an actor's keys.
pub(crate) fn apply(state: &mut Keys, op: &StateOp) {
    match op {
        StateOp::Set { key, value } => {
            state.insert(key.clone(), value.clone());
        }
        StateOp::Remove { key } => {
            state.remove(key);
        }
        StateOp::RemoveRange(range) => state.retain(|key, _| !range.contains(key)),
        StateOp::Clear => state.clear(),
    }
}

impl SimStore {
    /// Carries out a step; `strict`: a write must find the cell that it expects.
    pub(crate) fn carry_out(&mut self, at: Us, step: StoreStep, strict: bool) -> StoreSays {
        let cell = self.now.cell;
        match step {
            StoreStep::Cell => StoreSays::Cell { cell },
            StoreStep::Load { epoch, actor } => {
                let state = self.now.actors.get(&actor).cloned().unwrap_or_default();
                StoreSays::Loaded { epoch, actor, cell, state }
            }
            StoreStep::Fence { epoch } if cell.epoch > epoch => StoreSays::Refused { epoch, cell },
            StoreStep::Fence { epoch } => {
                self.remember(at);
                self.now.cell.epoch = epoch;
                self.known_to = Some(epoch);
                StoreSays::Fenced { epoch, cell }
            }
            StoreStep::Write { expected: Cell { epoch, .. }, .. } if cell.epoch > epoch => {
                StoreSays::Refused { epoch, cell }
            }
            StoreStep::Write { expected, .. } if strict && cell != expected => {
                StoreSays::Refused { epoch: expected.epoch, cell }
            }
            StoreStep::Write { expected: Cell { epoch, .. }, upto, ops } => {
                self.remember(at);
                for ops in ops {
                    let state = self.now.actors.entry(ops.actor).or_default();
                    ops.ops.iter().for_each(|op| apply(state, op));
                }
                self.now.cell = Cell { epoch, offset: upto };
                StoreSays::Written { epoch, upto }
            }
        }
    }

    pub(crate) fn snapshots(&self) -> &Snapshots {
        &self.now.snapshots
    }

    /// Stores a snapshot; there is never another one under its key.
    pub(crate) fn put(&mut self, at: Us, key: SnapshotKey, snapshot: Arc<Snapshot>) -> bool {
        self.remember(at);
        *self.now.snapshots.entry(key).or_insert_with(|| snapshot.clone()) == snapshot
    }

    pub(crate) fn delete(&mut self, at: Us, key: SnapshotKey) {
        self.remember(at);
        self.now.snapshots.remove(&key);
    }

    fn remember(&mut self, at: Us) {
        if self.keep_past {
            self.past.push((at, self.now.clone()));
        }
    }

    /// Goes back to what was there at a time; says whether that was something else.
    pub(crate) fn roll_back(&mut self, to: Us) -> bool {
        let Some(at) = self.past.iter().position(|(t, _)| *t > to) else { return false };
        let (_, past) = self.past.swap_remove(at);
        self.past.truncate(at);
        let changed = past.cell != self.now.cell;
        self.known_to = None;
        self.now = past;
        changed
    }
}

/// What stands for a stored snapshot; a real one is told by its bytes.
pub(crate) fn proof(snapshot: &Snapshot) -> SnapshotProof {
    let checksum = crate::explore::Print::of(snapshot) as u32;
    SnapshotProof { bytes: 64 * snapshot.entries.len() as u64, checksum }
}
