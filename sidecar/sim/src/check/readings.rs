//! Readings of topics: whoever decides that a subscription pauses or ends takes back what waits there for it. A wait
//! for nothing keeps others from waiting, and its answer would be thrown away.

use std::collections::BTreeMap;

use kar_core::ids::{Epoch, NodeId, Uuid};
use kar_core::subscription::FetchId;

use super::Judge;

/// Readings under way, by who reads, with the reign that asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadingsModel(BTreeMap<(NodeId, FetchId), Epoch>);

impl Judge<'_> {
    /// A node asks for events, is answered, or wants no answer any more.
    pub(super) fn reading_seen(&mut self, node: NodeId, id: &FetchId, is_open: bool) {
        let epoch = self.logs[self.log_of(&id.partition)].epoch;
        match is_open {
            true => drop(self.readings.0.insert((node, id.clone()), epoch)),
            false => drop(self.readings.0.remove(&(node, id.clone()))),
        }
    }

    /// A log says that a subscription pauses or ends: its owner has nothing under way for it. What an earlier reign has
    /// asked ends with that.
    pub(super) fn nothing_is_read(&mut self, log: usize, subscription: Uuid) {
        let (owner, epoch) = (self.logs[log].owner, self.logs[log].epoch);
        let all = self.readings.0.iter();
        let wrong = all.filter(|((node, id), of)| {
            owner == Some(*node) && **of == epoch && id.subscription == subscription
        });
        let wrong: Vec<_> = wrong.map(|((node, id), _)| format!("{node:?} reads {id:?}")).collect();
        for text in wrong {
            self.wrong("readings end with what they are for", text);
        }
    }
}
