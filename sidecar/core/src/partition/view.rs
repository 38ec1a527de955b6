//! What people and tools may see of a partition.

use super::Partition;
use super::reign::ItemStage;
use crate::node::{Held, InvocationView, PartitionView, Phase};

impl Partition {
    /// How much it holds.
    pub(crate) fn held(&self) -> Held {
        let outbox = self.state.owed.plus(self.reign.buffered);
        let (kept, results) = (self.state.kept.tally(), self.state.results.tally());
        Held {
            unfinished: self.reign.items.len(),
            unfinished_bytes: self.reign.items_bytes,
            outbox: outbox.count,
            outbox_bytes: outbox.bytes,
            kept: kept.count,
            kept_bytes: kept.bytes,
            results: results.count,
            results_bytes: results.bytes,
            reminders: self.state.agenda.tally().count,
            reminders_bytes: self.state.agenda.tally().bytes,
            ..Held::default()
        }
    }

    /// What people and tools may see.
    pub(crate) fn view(&self) -> PartitionView {
        let invocations = self.reign.items.iter().map(|(uuid, item)| InvocationView {
            uuid: *uuid,
            actor: item.invocation.actor.clone(),
            method: item.invocation.method.clone(),
            mode: item.invocation.mode,
            phase: match &item.stage {
                ItemStage::Running(turn) if turn.calls.is_empty() => Phase::Running,
                ItemStage::Running(_) => Phase::Suspended,
                ItemStage::Moved => Phase::Moved,
                _ if item.started => Phase::Retrying,
                _ => Phase::Queued,
            },
            attempt: item.attempt,
        });
        let actors = self.reign.actors.iter().map(|(name, actor)| {
            (name.clone(), actor.queue.len() + actor.inner.len(), !actor.stack.is_empty())
        });
        PartitionView {
            id: self.id.clone(),
            epoch: self.state.epoch,
            invocations: invocations.collect(),
            actors: actors.collect(),
            owed: self.state.outbound.values().map(|out| out.open.len()).sum(),
            kept: self.state.kept.tally().count,
            closed_channels: self.state.closed_nodes.len(),
        }
    }
}
