//! What people and tools may see of a partition.

use super::Partition;
use super::reign::{Item, ItemStage};
use crate::dead::DeadLetter;
use crate::ids::Uuid;
use crate::invocation::{Outcome, Payload, Work};
use crate::message::Found;
use crate::node::{DeadLetterView, Held, InvocationView, PartitionView, Phase};
use crate::trouble::Ended;

/// A dead letter, for people and tools.
fn dead_view(letter: &DeadLetter) -> DeadLetterView {
    DeadLetterView {
        uuid: letter.invocation.uuid,
        actor: letter.invocation.actor.clone(),
        method: letter.invocation.method.clone(),
        outcome: letter.outcome.clone(),
        attempts: letter.attempts,
        time: letter.time,
    }
}

impl Partition {
    /// How much it holds.
    pub(crate) fn held(&self) -> Held {
        let outbox = self.outbox();
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
            dead: self.state.dead.tally().count,
            dead_bytes: self.state.dead.tally().bytes,
            unstored_bytes: self.reign.unstored_bytes,
            awake: self.reign.awake.len(),
            reminders: self.state.agenda.tally().count,
            reminders_bytes: self.state.agenda.tally().bytes,
            ..Held::default()
        }
    }

    /// How the last attempt of an invocation ended that did not end it, by the log.
    fn last_end(&self, uuid: &Uuid) -> Option<Ended> {
        let (_, ended) = self.state.entries.get(uuid)?.trouble.last.as_ref()?;
        Some(ended.clone())
    }

    /// What is known of one invocation.
    pub(super) fn find(&self, uuid: Uuid) -> Option<Found> {
        if let Some(item) = self.reign.items.get(&uuid) {
            return Some(Found::Unfinished(self.view_of(&uuid, item)));
        }
        if let Some(letter) = self.state.dead.get(uuid) {
            return Some(Found::Dead(dead_view(letter)));
        }
        let outcome = self.state.kept.get(&uuid).or_else(|| self.result_of(&uuid))?;
        Some(Found::Ended(match outcome {
            Outcome::Done(_) => Outcome::Done(Payload::default()),
            other => other.clone(),
        }))
    }

    fn view_of(&self, uuid: &Uuid, item: &Item) -> InvocationView {
        InvocationView {
            uuid: *uuid,
            actor: item.invocation.actor.clone(),
            // What has no method is shown as what it is.
            method: match item.invocation.work {
                Work::Method => item.invocation.method.clone(),
                Work::Remove => "(removal)".into(),
                Work::Deactivate => "(deactivation)".into(),
            },
            mode: item.invocation.mode,
            phase: match &item.stage {
                ItemStage::Running(turn) if turn.calls.is_empty() => Phase::Running,
                ItemStage::Running(_) => Phase::Suspended,
                ItemStage::Moved => Phase::Moved,
                ItemStage::Parked => Phase::Parked,
                _ if item.started => Phase::Retrying,
                _ => Phase::Queued,
            },
            attempt: item.attempt,
            cancel: item.cancel,
            ended: item.ended.clone().or_else(|| self.last_end(uuid)),
            retry_at: item.retry_at,
            behind: self.parked_before(*uuid, item),
        }
    }

    /// The parked invocation that keeps the actor of one that waits for it.
    fn parked_before(&self, uuid: Uuid, item: &Item) -> Option<Uuid> {
        let name = item.invocation.actor.as_ref()?;
        let lock = &self.reign.actors.get(name)?.lock;
        let holders = lock.holders_before(uuid, &item.invocation.chain)?;
        let rests = |uuid: &Uuid| {
            let stage = self.reign.items.get(uuid).map(|item| &item.stage);
            matches!(stage, Some(ItemStage::Parked))
        };
        holders.into_iter().find(rests)
    }

    /// What people and tools may see.
    pub(crate) fn view(&self) -> PartitionView {
        let invocations = self.reign.items.iter().map(|(uuid, item)| self.view_of(uuid, item));
        let actors = self
            .reign
            .actors
            .iter()
            .map(|(name, actor)| (name.clone(), actor.lock.waiting(), !actor.lock.is_free()));
        PartitionView {
            id: self.id.clone(),
            epoch: self.state.epoch,
            invocations: invocations.collect(),
            actors: actors.collect(),
            owed: self.state.owed.plus(self.state.topics.owed()).count,
            kept: self.state.kept.tally().count,
            dead: self.state.dead.iter().map(dead_view).collect(),
            closed_channels: self.state.closed_nodes.len(),
            senders: self.reign.senders.len(),
        }
    }
}
