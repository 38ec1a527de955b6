//! The subscriptions of a partition, and which subscriptions of others are over, as its log tells it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::{Offset, PartitionId, Sender, Uuid};
use crate::record::SubscriptionOp;
use crate::size::Tally;
use crate::snapshot::SavedSubscription;
use crate::subscription::{Subscription, SubscriptionFence};

/// Subscriptions of a partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subscriptions {
    by_name: BTreeMap<Arc<str>, Box<Subscribed>>,
    names: BTreeMap<Uuid, Arc<str>>,
    /// The one that was created last, also if it is over.
    newest: Uuid,
    tally: Tally,
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Subscribed {
    pub(crate) subscription: Arc<Subscription>,
    pub(crate) paused: bool,
    /// By partition of its topic: every lower offset is done with.
    pub(crate) floors: Vec<Offset>,
}

impl Subscriptions {
    pub(crate) fn get(&self, name: &Arc<str>) -> Option<&Subscribed> {
        self.by_name.get(name).map(|one| &**one)
    }

    /// The one with this id.
    pub(crate) fn of(&self, subscription: Uuid) -> Option<&Subscribed> {
        self.get(self.names.get(&subscription)?)
    }

    /// By name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Subscribed> {
        self.by_name.values().map(|one| &**one)
    }

    /// Their ids, ascending.
    pub(crate) fn ids(&self) -> impl Iterator<Item = Uuid> {
        self.names.keys().copied()
    }

    pub(crate) fn newest(&self) -> Uuid {
        self.newest
    }

    /// How many there are, and how many bytes they have.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// Applies a command.
    pub(crate) fn change(&mut self, change: &SubscriptionOp) {
        match change {
            SubscriptionOp::Nothing => {}
            SubscriptionOp::Create(subscription) => {
                let floors = subscription.spec.offsets.clone();
                let (subscription, paused) = (subscription.clone(), false);
                self.insert(Subscribed { subscription, paused, floors });
            }
            SubscriptionOp::End { names } => names.iter().for_each(|name| self.remove(name)),
            SubscriptionOp::Pause { name, paused } => {
                if let Some(one) = self.by_name.get_mut(name) {
                    one.paused = *paused;
                }
            }
        }
    }

    fn insert(&mut self, one: Subscribed) {
        let (name, uuid) = (one.subscription.spec.name.clone(), one.subscription.uuid);
        self.remove(&name);
        self.newest = self.newest.max(uuid);
        self.tally.add(one.subscription.size());
        self.names.insert(uuid, name.clone());
        self.by_name.insert(name, Box::new(one));
    }

    fn remove(&mut self, name: &Arc<str>) {
        if let Some(old) = self.by_name.remove(name) {
            self.tally.remove(old.subscription.size());
            self.names.remove(&old.subscription.uuid);
        }
    }

    /// Events below an offset are done with. Tells whether there is such a subscription.
    pub(crate) fn move_floor(&mut self, subscription: Uuid, index: u32, floor: Offset) -> bool {
        let name = self.names.get(&subscription);
        let Some(one) = name.and_then(|name| self.by_name.get_mut(name)) else { return false };
        let Some(own) = one.floors.get_mut(index as usize) else { return false };
        *own = floor.max(*own);
        true
    }

    /// What closes the channels of all that are over.
    pub(crate) fn fence(&self, ends: &[Uuid]) -> SubscriptionFence {
        let floor = Uuid(self.newest.0.saturating_add(1));
        SubscriptionFence { floor, open: self.ids().filter(|uuid| !ends.contains(uuid)).collect() }
    }

    pub(crate) fn save(&self) -> Vec<SavedSubscription> {
        let save = |one: &Subscribed| SavedSubscription {
            subscription: one.subscription.clone(),
            paused: one.paused,
            floors: one.floors.clone(),
        };
        self.iter().map(save).collect()
    }

    pub(crate) fn restore(saved: Vec<SavedSubscription>, newest: Uuid) -> Self {
        let mut all = Self { newest, ..Self::default() };
        for SavedSubscription { subscription, paused, floors } in saved {
            all.insert(Subscribed { subscription, paused, floors });
        }
        all
    }
}

/// Channels of subscriptions that are closed for ever, by the partitions that sent them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fences(BTreeMap<PartitionId, SubscriptionFence>);

impl Fences {
    /// Whether a channel is closed.
    pub(crate) fn close(&self, sender: &Sender) -> bool {
        matches!(sender, Sender::Subscription { partition, subscription, .. }
            if self.0.get(partition).is_some_and(|fence| fence.closes(*subscription)))
    }

    /// A partition says what is over. It says so on its own channel, so what comes later knows more.
    pub(crate) fn raise(&mut self, partition: &PartitionId, fence: &SubscriptionFence) {
        self.0.insert(partition.clone(), fence.clone());
    }

    pub(crate) fn save(&self) -> Vec<(PartitionId, SubscriptionFence)> {
        self.0.iter().map(|(partition, fence)| (partition.clone(), fence.clone())).collect()
    }

    pub(crate) fn restore(saved: Vec<(PartitionId, SubscriptionFence)>) -> Self {
        Self(saved.into_iter().collect())
    }
}
