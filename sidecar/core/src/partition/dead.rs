//! Dead letters at their owner: bounds, sending again, discarding (design section 6, item 9; P9).

use super::Partition;
use super::gate::Gated;
use super::reign::{Item, ItemStage};
use crate::effect::Notice;
use crate::env::Env;
use crate::ids::{Millis, Uuid};
use crate::message::Controlled;
use crate::record::Op;
use crate::state::Origin;

impl Partition {
    /// Drops dead letters whose time is over, and the oldest ones beyond the bounds. Never silently.
    pub(super) fn drop_dead(&mut self, env: &mut Env) {
        let limits = &env.limits;
        let before = env.now.saturating_sub(limits.dead_letter_retention_ms);
        let (count, bytes) =
            (limits.dead_letters_per_partition_max, limits.dead_letters_bytes_per_partition_max);
        let uuids = self.state.dead.surplus(before, count, bytes);
        if !uuids.is_empty() {
            let (partition, count) = (self.id.clone(), uuids.len());
            self.push(env, Op::Discard { uuids });
            self.gate_notice(env, Notice::DeadLettersDropped { partition, count });
        }
    }

    /// When dead letters are to be dropped.
    pub(super) fn dead_timeout(&self, env: &Env) -> Option<Millis> {
        let tally = self.state.dead.tally();
        let is_full = tally.count > env.limits.dead_letters_per_partition_max
            || tally.bytes > env.limits.dead_letters_bytes_per_partition_max;
        if is_full {
            return Some(env.now);
        }
        // A letter is dropped when its time is over, not at the last millisecond of it.
        self.state.dead.oldest().map(|at| at + env.limits.dead_letter_retention_ms + 1)
    }

    /// Nobody looks at a dead letter any more.
    pub(super) fn discard(&mut self, env: &mut Env, uuid: Uuid) -> Option<Controlled> {
        if !self.state.dead.contains(uuid) {
            return None;
        }
        self.push(env, Op::Discard { uuids: vec![uuid] });
        Some(Controlled::Discarded)
    }

    /// Sends a dead letter again, as a new tell: one decision with its removal, so that it is neither lost nor sent
    /// twice. Bounds do not act: what is kept is bounded itself. It starts when that is committed (rule L6:
    /// speculation is for what clients wait for).
    pub(super) fn redrive(&mut self, env: &mut Env, uuid: Uuid) -> Option<Controlled> {
        if !self.state.dead.contains(uuid) {
            return None;
        }
        let new = env.uuid();
        self.push(env, Op::Redrive { uuid, new });
        let entry = self.state.entries.get(&new)?;
        let origin = entry.origin.clone();
        let item = Item {
            logged: true,
            stage: ItemStage::WaitCommit,
            ..Item::new(entry.invocation.clone(), origin.clone())
        };
        self.insert_item(env, new, item);
        if let Origin::Channel { sender, number } = origin {
            // Its number was reported long ago.
            self.reign.withheld.remove(&(sender, number));
        }
        self.enqueue(env, new);
        self.gate(env, Gated::Start { uuid: new });
        Some(Controlled::Redriven(new))
    }
}
