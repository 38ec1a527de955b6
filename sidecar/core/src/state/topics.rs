//! Channels into topics: what a partition owes them, as its log tells it.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::events::Publication;
use crate::ids::{Number, Offset, TopicPartition};
use crate::record::Publish;
use crate::size::Tally;

/// The channels of a partition. One is remembered as long as its topic exists, because its numbers go on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topics {
    channels: BTreeMap<TopicPartition, TopicChannel>,
    /// What is open in them.
    owed: Tally,
}

/// The sending end of one: numbers up to `landed` are in the topic, those above it are open.
#[derive(Clone, Debug)]
pub(crate) struct TopicChannel {
    pub(crate) next: Number,
    pub(crate) landed: Number,
    /// Everything above `landed` comes after this offset of the topic's partition.
    pub(crate) since: Offset,
    pub(crate) open: BTreeMap<Number, Bytes>,
}

impl Default for TopicChannel {
    fn default() -> Self {
        Self { next: 1, landed: 0, since: 0, open: BTreeMap::new() }
    }
}

impl TopicChannel {
    /// The last number and where it is, if nothing is owed.
    pub(crate) fn idle_at(&self) -> Option<(Number, Offset)> {
        self.open.is_empty().then_some((self.landed, self.since))
    }
}

impl Topics {
    pub(crate) fn get(&self, to: &TopicPartition) -> Option<&TopicChannel> {
        self.channels.get(to)
    }

    /// What is owed to all of them.
    pub(crate) fn owed(&self) -> Tally {
        self.owed
    }

    pub(crate) fn len(&self) -> usize {
        self.channels.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &TopicChannel)> {
        self.channels.iter()
    }

    /// All of them, beginning behind one of them and ending with it.
    pub(crate) fn after(
        &self,
        last: Option<&TopicPartition>,
    ) -> impl Iterator<Item = (&TopicPartition, &TopicChannel)> {
        let behind = last.map_or(Bound::Unbounded, Bound::Excluded);
        let before = last.map(|last| self.channels.range(..=last));
        let behind = self.channels.range::<TopicPartition, _>((behind, Bound::Unbounded));
        behind.chain(before.into_iter().flatten())
    }

    /// Events are published by a decision.
    pub(super) fn owe(&mut self, publishes: &[Publish]) {
        for Publish { number, publication } in publishes {
            let Publication { to, event } = publication;
            let channel = self.channels.entry(to.clone()).or_default();
            channel.next = channel.next.max(number + 1);
            self.owed.add(publication.size());
            if let Some(old) = channel.open.insert(*number, event.clone()) {
                self.owed.remove(to.publication_size(&old));
            }
        }
    }

    /// Everything up to a number is in the topic.
    pub(super) fn settle(&mut self, to: &TopicPartition, upto: Number, offset: Offset) {
        let Some(channel) = self.channels.get_mut(to) else { return };
        let above = channel.open.split_off(&(upto + 1));
        let landed = std::mem::replace(&mut channel.open, above);
        self.owed.remove_all(landed.values().map(|event| to.publication_size(event)));
        channel.landed = channel.landed.max(upto);
        channel.since = channel.since.max(offset);
    }

    /// The topic does not exist any more.
    pub(super) fn forget(&mut self, to: &TopicPartition) {
        let Some(channel) = self.channels.remove(to) else { return };
        self.owed.remove_all(channel.open.values().map(|event| to.publication_size(event)));
    }

    /// Puts back one that was saved.
    pub(super) fn insert(&mut self, to: TopicPartition, channel: TopicChannel) {
        channel.open.values().for_each(|event| self.owed.add(to.publication_size(event)));
        self.channels.insert(to, channel);
    }
}
