//! The simulated store: a fence cell and actors' maps per partition.

use std::collections::BTreeMap;
use std::sync::Arc;

use kar_core::event::Cell;
use kar_core::ids::{Epoch, Offset};
use kar_core::invocation::{ActorOps, StateOp};

use crate::history::Keys;
use crate::plan::Us;

/// What the store holds of one partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct StorePartition {
    pub(crate) cell: Cell,
    pub(crate) actors: BTreeMap<Arc<str>, Keys>,
}

/// A step asked of the store.
#[derive(Clone, Debug)]
pub(crate) enum StoreStep {
    Load { actor: Arc<str> },
    Fence { epoch: Epoch },
    Write { epoch: Epoch, upto: Offset, ops: Vec<ActorOps> },
}

/// What the store says to it.
#[derive(Clone, Debug)]
pub(crate) enum StoreSays {
    Loaded { actor: Arc<str>, cell: Cell, state: Keys },
    Fenced { cell: Cell },
    Written { upto: Offset },
    Stale,
}

/// One partition of the store, with what it was, for rollbacks.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimStore {
    pub(crate) now: StorePartition,
    pub(crate) past: Vec<(Us, StorePartition)>,
    /// Versions are kept only where a rollback may come.
    pub(crate) keep_past: bool,
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
        StateOp::Clear => state.clear(),
    }
}

impl SimStore {
    /// Carries out a step.
    pub(crate) fn carry_out(&mut self, at: Us, step: StoreStep) -> StoreSays {
        let cell = self.now.cell;
        match step {
            StoreStep::Load { actor } => {
                let state = self.now.actors.get(&actor).cloned().unwrap_or_default();
                StoreSays::Loaded { actor, cell, state }
            }
            StoreStep::Fence { epoch } | StoreStep::Write { epoch, .. } if cell.epoch > epoch => {
                StoreSays::Stale
            }
            StoreStep::Fence { epoch } => {
                self.remember(at);
                self.now.cell.epoch = epoch;
                StoreSays::Fenced { cell }
            }
            StoreStep::Write { epoch, upto, ops } => {
                self.remember(at);
                for ops in ops {
                    let state = self.now.actors.entry(ops.actor).or_default();
                    ops.ops.iter().for_each(|op| apply(state, op));
                }
                self.now.cell = Cell { epoch, offset: upto };
                StoreSays::Written { upto }
            }
        }
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
        self.now = past;
        changed
    }
}
