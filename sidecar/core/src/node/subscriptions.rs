//! Subscriptions as a component asks for them.

use std::sync::Arc;

use super::Node;
use crate::assign;
use crate::effect::RequestError;
use crate::event::Operation;
use crate::ids::{Kind, PartitionId, RequestId, Uuid};
use crate::invocation::{Obligation, Owed, Target};
use crate::subscription::{SubscriptionAsk, SubscriptionCommand};

impl Node {
    /// Subscribes, or changes a subscription: an obligation to its owner, who carries it out once.
    pub(super) fn subscription(&mut self, request: RequestId, operation: Operation) {
        let limits = &self.env.limits;
        if let Operation::Subscribe { spec } = &operation {
            let bytes_max = limits.subscriptions_bytes_per_partition_max / 2;
            if let Err(error) = spec.check(limits.subscription_in_flight_max, bytes_max) {
                return self.env.respond(request, Err(RequestError::Subscription(error)));
            }
        }
        if self.env.leaving {
            return self.env.respond(request, Err(RequestError::Draining));
        }
        let (parked, limit) = (self.parked(), self.env.limits.roots_per_node_max);
        if self.roots.open() + parked >= limit {
            let hit = self.env.limit("roots_per_node_max", limit);
            return self.env.respond(request, Err(RequestError::Limit(hit)));
        }
        let kinds = &self.env.members.kinds;
        let (name, ask) = match &operation {
            Operation::Subscribe { spec } => {
                // An event goes to the same partition for ever, so their number is part of the subscription.
                let Some(target_partitions) = kinds.get(&spec.target.kind()).copied() else {
                    return self.park(request, operation);
                };
                let ask = SubscriptionAsk::Subscribe { spec: spec.clone(), target_partitions };
                (&spec.name, ask)
            }
            Operation::ChangeSubscription { name, change } => {
                (name, SubscriptionAsk::Change { name: name.clone(), change: *change })
            }
            _ => return,
        };
        let Some(to) = self.home_of_subscription(name) else {
            return self.park(request, operation);
        };
        let command = SubscriptionCommand { uuid: self.env.uuid(), ask };
        let owed = Owed::Subscription(Arc::new(command));
        let obligation = Obligation { to, owed, parent: None, step_key: None };
        self.roots.add(&mut self.env, request, obligation, false);
    }

    /// The partition of a subscription, if anybody has ever subscribed.
    pub(super) fn home_of_subscription(&self, name: &Arc<str>) -> Option<PartitionId> {
        let kind = Kind::subscriptions();
        let count = *self.env.members.kinds.get(&kind)?;
        let target = Target { kind, actor: Some(name.clone()), affinity: None };
        let index = assign::partition_index(&target, Uuid::default(), count);
        Some(PartitionId::new(target.kind, index))
    }
}
