//! P9 about events: what operators are told of them is so, and what is so they are told of, by whoever decided it, if
//! that one lives.

use std::collections::HashMap;
use std::sync::Arc;

use kar_core::ids::{Epoch, NodeId, Offset, PartitionId, TopicPartition};
use kar_core::record::SubscriptionOp;

use super::Judge;

/// What operators are to be told, and were.
#[derive(Clone, Debug, Default)]
pub(crate) struct ToldModel {
    /// Nobody was told of it yet.
    untold: Vec<(What, usize, Epoch)>,
    /// What is said to have gone by retention, by log and subscription.
    skipped: HashMap<(usize, Arc<str>), Vec<Skipped>>,
}

/// Partition of a topic, and from where to where its events are gone.
type Skipped = (u32, Offset, Offset);

/// What a log says that is to be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum What {
    /// Events are lost with their topic.
    Lost(TopicPartition, usize),
    /// A subscription has ended with its actor.
    Removed(Arc<str>),
}

impl Judge<'_> {
    /// A log says something that operators are to be told of.
    pub(super) fn is_to_be_told(&mut self, log: usize, what: What) {
        let epoch = self.logs[log].epoch;
        self.told.untold.push((what, log, epoch));
    }

    /// They are told.
    pub(super) fn is_told(&mut self, node: NodeId, partition: &PartitionId, what: &What) {
        let log = self.log_of(partition);
        // By whoever decided it: the same may have been decided before, by a reign that was lost.
        let own = |(untold, of, epoch): &(What, usize, Epoch)| {
            let by = self.logs[log].reigns.iter().find(|reign| reign.epoch == *epoch);
            (untold, *of) == (what, log) && by.is_some_and(|reign| reign.node == node)
        };
        match self.told.untold.iter().rposition(own) {
            Some(at) => drop(self.told.untold.swap_remove(at)),
            None => {
                self.wrong("P5 gate for notices", format!("{node:?} {partition}: {what:?}"));
            }
        }
    }

    /// A removal ends subscriptions.
    pub(super) fn removal_ends(&mut self, log: usize, change: &SubscriptionOp) {
        let SubscriptionOp::End { names } = change else { return };
        for name in names {
            self.is_to_be_told(log, What::Removed(name.clone()));
        }
    }

    /// A node says that events are gone.
    pub(super) fn told_skipped(
        &mut self,
        (node, partition): (NodeId, &PartitionId),
        name: &Arc<str>,
        (index, from, to): Skipped,
    ) {
        let log = self.log_of(partition);
        if let Some(topic) = self.topic_of(log, name)
            && !(from..to).all(|offset| self.is_event_gone(&topic, index, offset))
        {
            let text = format!("{node:?}: {index}/{from} to {to} of {name} are gone");
            self.wrong("P9 notices", text);
        }
        self.told.skipped.entry((log, name.clone())).or_default().push((index, from, to));
    }

    /// A node says that the topic of a subscription is gone.
    pub(super) fn told_gone(&mut self, node: NodeId, partition: &PartitionId, name: &Arc<str>) {
        let topic = self.topic_of(self.log_of(partition), name);
        if topic.is_some_and(|topic| !self.topic_is_gone(&topic)) {
            self.wrong("P9 notices", format!("{node:?}: the topic of {name} is gone"));
        }
    }

    /// Whether somebody was told that an event has gone that a subscription has not delivered.
    pub(super) fn is_skip_told(
        &self,
        (log, name): (usize, &Arc<str>),
        index: u32,
        offset: Offset,
    ) -> bool {
        let told = self.told.skipped.get(&(log, name.clone()));
        let holds = |(of, from, to): &Skipped| *of == index && (*from..*to).contains(&offset);
        told.is_some_and(|told| told.iter().any(holds))
    }

    /// There is a new subscription of a name: what was told of others is not told of it.
    pub(super) fn forget_skips(&mut self, log: usize, name: &Arc<str>) {
        self.told.skipped.remove(&(log, name.clone()));
    }

    /// When everything has come to rest: who still reigns has told what it decided.
    pub(super) fn check_told(&mut self) {
        let is_there = |log: usize, epoch: Epoch| {
            let model = &self.logs[log];
            let reign = model.reigns.last().filter(|reign| reign.epoch == epoch);
            let node = reign.and_then(|reign| Some((reign.node, self.nodes.get(&reign.node)?)));
            node.is_some_and(|(_, node)| {
                node.gone.is_none() && !node.dropped.contains(&(log, epoch)) && !model.released
            })
        };
        let untold = self.told.untold.iter().filter(|(_, log, epoch)| is_there(*log, *epoch));
        let untold: Vec<_> = untold.cloned().collect();
        for (what, log, epoch) in untold {
            let text = format!("{} of {epoch}: {what:?} was not told", self.logs[log].id);
            self.wrong("P9 notices", text);
        }
    }
}
