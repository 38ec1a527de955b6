//! Subscriptions to `kar.log.v1` and `kar.peer.v1` and back.
//!
//! Longer than most: two functions for each type, there and back, side by side.

use std::sync::Arc;

use kar_core::events::Filter;
use kar_core::events::filter::Comparisons;
use kar_core::ids::{Kind, Uuid};
use kar_core::invocation::Fence;
use kar_core::record::{Op, SubscriptionOp};
use kar_core::snapshot::SavedSubscription;
use kar_core::subscription::{
    Instance, Subscription, SubscriptionAsk, SubscriptionChange, SubscriptionCommand,
    SubscriptionFence, SubscriptionProgress, SubscriptionSpec, SubscriptionStart,
    SubscriptionTarget, SubscriptionView, TopicRef,
};
use kar_proto::log::v1 as pb;
use kar_proto::peer::v1 as peer;

use super::event::{publish_from, publish_to};
use super::log::{
    outcome_from, outcome_to, send_from, send_to, sender_from, sender_to, text_from, text_to,
    uuid_from, uuid_to,
};
use super::{Malformed, policy};

/// Deepest filter that is read: deeper ones are refused when somebody subscribes.
const FILTER_DEPTH_MAX: usize = 64;

fn topic_to(topic: &TopicRef) -> pb::TopicRef {
    pb::TopicRef {
        name: topic.name.to_string(),
        id: topic.id.to_string(),
        partitions: topic.partitions,
    }
}

fn topic_from(topic: pb::TopicRef) -> TopicRef {
    TopicRef { name: topic.name.into(), id: topic.id.into(), partitions: topic.partitions }
}

fn filter_to(filter: &Filter) -> pb::EventFilter {
    use pb::event_filter::Filter as F;
    let comparisons = |compared: &Comparisons| pb::EventComparisons {
        comparisons: compared
            .iter()
            .map(|(name, value)| pb::EventComparison { name: name.clone(), value: value.clone() })
            .collect(),
    };
    let all =
        |filters: &[Filter]| pb::EventFilters { filters: filters.iter().map(filter_to).collect() };
    let filter = match filter {
        Filter::Exact(compared) => F::Exact(comparisons(compared)),
        Filter::Prefix(compared) => F::Prefix(comparisons(compared)),
        Filter::Suffix(compared) => F::Suffix(comparisons(compared)),
        Filter::All(filters) => F::All(all(filters)),
        Filter::Any(filters) => F::Any(all(filters)),
        Filter::Not(filter) => F::NotMatching(Box::new(filter_to(filter))),
    };
    pb::EventFilter { filter: Some(filter) }
}

fn filter_from(filter: pb::EventFilter, depth: usize) -> Result<Filter, Malformed> {
    use pb::event_filter::Filter as F;
    if depth > FILTER_DEPTH_MAX {
        return Err(Malformed::Field("filter"));
    }
    let comparisons = |compared: pb::EventComparisons| {
        compared.comparisons.into_iter().map(|c| (c.name, c.value)).collect()
    };
    let all = |filters: pb::EventFilters| {
        filters
            .filters
            .into_iter()
            .map(|filter| filter_from(filter, depth + 1))
            .collect::<Result<_, _>>()
    };
    Ok(match filter.filter.ok_or(Malformed::Field("filter"))? {
        F::Exact(compared) => Filter::Exact(comparisons(compared)),
        F::Prefix(compared) => Filter::Prefix(comparisons(compared)),
        F::Suffix(compared) => Filter::Suffix(comparisons(compared)),
        F::All(filters) => Filter::All(all(filters)?),
        F::Any(filters) => Filter::Any(all(filters)?),
        F::NotMatching(filter) => Filter::Not(Box::new(filter_from(*filter, depth + 1)?)),
    })
}

fn spec_to(spec: &SubscriptionSpec) -> pb::SubscriptionSpec {
    use pb::subscription_spec::{Start, Target};
    let target = match &spec.target {
        SubscriptionTarget::Service { name, affinity } => Target::Service(pb::ServiceTarget {
            name: name.to_string(),
            affinity: text_to(affinity),
        }),
        SubscriptionTarget::Actor { name, instance } => {
            use pb::actor_target::Instance as I;
            let instance = match instance {
                Instance::Fixed(actor) => I::Fixed(actor.to_string()),
                Instance::Attribute(name) => I::Attribute(name.to_string()),
            };
            Target::Actor(pb::ActorTarget { name: name.to_string(), instance: Some(instance) })
        }
    };
    let start = match spec.start {
        SubscriptionStart::Earliest => Start::Earliest(true),
        SubscriptionStart::Latest => Start::Latest(true),
        SubscriptionStart::Time(time) => Start::TimeMs(time),
    };
    pb::SubscriptionSpec {
        name: spec.name.to_string(),
        topic: Some(topic_to(&spec.topic)),
        target: Some(target),
        method: spec.method.to_string(),
        filter: spec.filter.as_ref().map(filter_to),
        start: Some(start),
        offsets: spec.offsets.clone(),
        in_flight: spec.in_flight,
        retry: spec.retry.map(policy::to),
        dead_letter: spec.dead_letter.as_ref().map(topic_to),
    }
}

fn spec_from(spec: Option<pb::SubscriptionSpec>) -> Result<SubscriptionSpec, Malformed> {
    use pb::subscription_spec::{Start, Target};
    let spec = spec.ok_or(Malformed::Field("spec"))?;
    let target = match spec.target.ok_or(Malformed::Field("target"))? {
        Target::Service(service) => SubscriptionTarget::Service {
            name: service.name.into(),
            affinity: text_from(&service.affinity),
        },
        Target::Actor(actor) => {
            use pb::actor_target::Instance as I;
            let instance = match actor.instance.ok_or(Malformed::Field("instance"))? {
                I::Fixed(actor) => Instance::Fixed(actor.into()),
                I::Attribute(name) => Instance::Attribute(name.into()),
            };
            SubscriptionTarget::Actor { name: actor.name.into(), instance }
        }
    };
    Ok(SubscriptionSpec {
        name: spec.name.into(),
        topic: topic_from(spec.topic.ok_or(Malformed::Field("topic"))?),
        target,
        method: spec.method.into(),
        filter: spec.filter.map(|filter| filter_from(filter, 0)).transpose()?,
        start: match spec.start.ok_or(Malformed::Field("start"))? {
            Start::Earliest(true) => SubscriptionStart::Earliest,
            Start::Latest(true) => SubscriptionStart::Latest,
            Start::TimeMs(time) => SubscriptionStart::Time(time),
            Start::Earliest(false) | Start::Latest(false) => return Err(Malformed::Field("start")),
        },
        offsets: spec.offsets,
        in_flight: spec.in_flight,
        retry: spec.retry.map(policy::from),
        dead_letter: spec.dead_letter.map(topic_from),
    })
}

fn subscription_to(subscription: &Subscription) -> pb::Subscription {
    pb::Subscription {
        uuid: uuid_to(subscription.uuid),
        target_partitions: subscription.target_partitions,
        created_ms: subscription.created,
        spec: Some(spec_to(&subscription.spec)),
    }
}

fn subscription_from(
    subscription: Option<pb::Subscription>,
) -> Result<Arc<Subscription>, Malformed> {
    let subscription = subscription.ok_or(Malformed::Field("subscription"))?;
    Ok(Arc::new(Subscription {
        uuid: uuid_from(&subscription.uuid)?,
        target_partitions: subscription.target_partitions,
        created: subscription.created_ms,
        spec: spec_from(subscription.spec)?,
    }))
}

/// A command for the wire.
pub fn command_to(command: &SubscriptionCommand) -> pb::SubscriptionCommand {
    use pb::subscription_command::Ask as A;
    let ask = match &command.ask {
        SubscriptionAsk::Subscribe { spec, target_partitions } => A::Subscribe(pb::Subscribe {
            spec: Some(spec_to(spec)),
            target_partitions: *target_partitions,
        }),
        SubscriptionAsk::Change { name, change } => match change {
            SubscriptionChange::Unsubscribe => A::Unsubscribe(name.to_string()),
            SubscriptionChange::Pause => A::Pause(name.to_string()),
            SubscriptionChange::Resume => A::Resume(name.to_string()),
        },
        SubscriptionAsk::ActorRemoved { kind, actor, time } => A::ActorRemoved(pb::ActorRemoved {
            r#type: kind.name.to_string(),
            actor: actor.to_string(),
            time_ms: *time,
        }),
    };
    pb::SubscriptionCommand { uuid: uuid_to(command.uuid), ask: Some(ask) }
}

/// A command from the wire.
///
/// # Errors
///
/// If a part of it is not understood.
pub fn command_from(
    command: pb::SubscriptionCommand,
) -> Result<Arc<SubscriptionCommand>, Malformed> {
    use pb::subscription_command::Ask as A;
    let change = |name: String, change| SubscriptionAsk::Change { name: name.into(), change };
    let ask = match command.ask.ok_or(Malformed::Field("ask"))? {
        A::Subscribe(subscribe) => SubscriptionAsk::Subscribe {
            spec: Arc::new(spec_from(subscribe.spec)?),
            target_partitions: subscribe.target_partitions,
        },
        A::Unsubscribe(name) => change(name, SubscriptionChange::Unsubscribe),
        A::Pause(name) => change(name, SubscriptionChange::Pause),
        A::Resume(name) => change(name, SubscriptionChange::Resume),
        A::ActorRemoved(removed) => SubscriptionAsk::ActorRemoved {
            kind: Kind::actor(&removed.r#type),
            actor: removed.actor.into(),
            time: removed.time_ms,
        },
    };
    Ok(Arc::new(SubscriptionCommand { uuid: uuid_from(&command.uuid)?, ask }))
}

fn fence_to(fence: &SubscriptionFence) -> pb::SubscriptionFence {
    pb::SubscriptionFence {
        floor: uuid_to(fence.floor),
        open: fence.open.iter().map(|uuid| uuid_to(*uuid)).collect(),
    }
}

fn fence_from(fence: Option<pb::SubscriptionFence>) -> Result<SubscriptionFence, Malformed> {
    let fence = fence.ok_or(Malformed::Field("fence"))?;
    Ok(SubscriptionFence {
        floor: uuid_from(&fence.floor)?,
        open: fence.open.iter().map(|uuid| uuid_from(uuid)).collect::<Result<_, _>>()?,
    })
}

/// What a partition says of its subscriptions, for the wire.
pub fn over_to(over: &Fence) -> pb::SubscriptionsOver {
    pb::SubscriptionsOver { uuid: uuid_to(over.uuid), fence: Some(fence_to(&over.fence)) }
}

/// What a partition says of its subscriptions, from the wire.
///
/// # Errors
///
/// If a part of it is not understood.
pub fn over_from(over: pb::SubscriptionsOver) -> Result<Arc<Fence>, Malformed> {
    Ok(Arc::new(Fence { uuid: uuid_from(&over.uuid)?, fence: fence_from(over.fence)? }))
}

/// A decision about subscriptions for the log; `None`: it is about something else.
pub(super) fn op_to(op: &Op) -> Option<pb::op::Op> {
    use pb::op::Op as O;
    use pb::subscription_done::Change as C;
    Some(match op {
        Op::Subscription { sender, number, uuid, change, outcome, sends } => {
            let change = match change {
                SubscriptionOp::Nothing => None,
                SubscriptionOp::Create(subscription) => {
                    Some(C::Create(subscription_to(subscription)))
                }
                SubscriptionOp::End { names } => {
                    let names = names.iter().map(ToString::to_string).collect();
                    Some(C::End(pb::SubscriptionNames { names }))
                }
                SubscriptionOp::Pause { name, paused: true } => Some(C::Pause(name.to_string())),
                SubscriptionOp::Pause { name, paused: false } => Some(C::Resume(name.to_string())),
            };
            O::Subscription(Box::new(pb::SubscriptionDone {
                sender: Some(sender_to(sender)),
                number: *number,
                uuid: uuid_to(*uuid),
                change,
                outcome: outcome.as_ref().map(outcome_to),
                sends: sends.iter().map(send_to).collect(),
            }))
        }
        Op::Delivered { subscription, topic_partition, floor, publishes } => {
            O::Delivered(pb::Delivered {
                subscription: uuid_to(*subscription),
                topic_partition: *topic_partition,
                floor: *floor,
                publishes: publishes.iter().map(publish_to).collect(),
            })
        }
        Op::Fence { sender, number, fence } => O::Fence(pb::FenceTaken {
            sender: Some(sender_to(sender)),
            number: *number,
            fence: Some(fence_to(fence)),
        }),
        _ => return None,
    })
}

/// A command that was carried out, from the log.
pub(super) fn done_from(done: pb::SubscriptionDone) -> Result<Op, Malformed> {
    use pb::subscription_done::Change as C;
    let change = match done.change {
        None => SubscriptionOp::Nothing,
        Some(C::Create(subscription)) => {
            SubscriptionOp::Create(subscription_from(Some(subscription))?)
        }
        Some(C::End(ends)) => {
            SubscriptionOp::End { names: ends.names.into_iter().map(Into::into).collect() }
        }
        Some(C::Pause(name)) => SubscriptionOp::Pause { name: name.into(), paused: true },
        Some(C::Resume(name)) => SubscriptionOp::Pause { name: name.into(), paused: false },
    };
    Ok(Op::Subscription {
        sender: sender_from(done.sender)?,
        number: done.number,
        uuid: uuid_from(&done.uuid)?,
        change,
        outcome: done.outcome.map(|outcome| outcome_from(Some(outcome))).transpose()?,
        sends: done.sends.into_iter().map(send_from).collect::<Result<_, _>>()?,
    })
}

/// How far a subscription has come, from the log.
pub(super) fn delivered_from(delivered: pb::Delivered) -> Result<Op, Malformed> {
    Ok(Op::Delivered {
        subscription: uuid_from(&delivered.subscription)?,
        topic_partition: delivered.topic_partition,
        floor: delivered.floor,
        publishes: delivered.publishes.into_iter().map(publish_from).collect::<Result<_, _>>()?,
    })
}

/// Channels that were closed, from the log.
pub(super) fn fence_taken_from(taken: pb::FenceTaken) -> Result<Op, Malformed> {
    Ok(Op::Fence {
        sender: sender_from(taken.sender)?,
        number: taken.number,
        fence: fence_from(taken.fence)?,
    })
}

/// A subscription of a snapshot.
pub(super) fn saved_to(saved: &SavedSubscription) -> pb::SnapshotSubscription {
    let SavedSubscription { subscription, paused, floors } = saved;
    pb::SnapshotSubscription {
        subscription: Some(subscription_to(subscription)),
        paused: *paused,
        floors: floors.clone(),
    }
}

/// A subscription from a snapshot.
pub(super) fn saved_from(saved: pb::SnapshotSubscription) -> Result<SavedSubscription, Malformed> {
    let pb::SnapshotSubscription { subscription, paused, floors } = saved;
    Ok(SavedSubscription { subscription: subscription_from(subscription)?, paused, floors })
}

/// The newest subscription of a snapshot: before the first one it is no id.
pub(super) fn newest_to(newest: Uuid) -> bytes::Bytes {
    if newest == Uuid::default() { bytes::Bytes::new() } else { uuid_to(newest) }
}

/// The newest subscription from a snapshot.
pub(super) fn newest_from(newest: &[u8]) -> Result<Uuid, Malformed> {
    if newest.is_empty() { Ok(Uuid::default()) } else { uuid_from(newest) }
}

/// Closed channels of a snapshot.
pub(super) fn saved_fence_to(
    (partition, fence): &(kar_core::ids::PartitionId, SubscriptionFence),
) -> pb::SnapshotFence {
    pb::SnapshotFence {
        partition: Some(super::log::partition_to(partition)),
        fence: Some(fence_to(fence)),
    }
}

/// Closed channels from a snapshot.
pub(super) fn saved_fence_from(
    saved: pb::SnapshotFence,
) -> Result<(kar_core::ids::PartitionId, SubscriptionFence), Malformed> {
    Ok((super::log::partition_from(saved.partition)?, fence_from(saved.fence)?))
}

/// A subscription and how far it has come, for a peer.
pub(super) fn view_to(view: &SubscriptionView) -> peer::SubscriptionView {
    let progress = |p: &SubscriptionProgress| peer::SubscriptionProgress {
        floor: p.floor,
        end: p.end,
        under_way: p.under_way,
        skipped: p.skipped,
        unreadable: p.unreadable,
    };
    peer::SubscriptionView {
        subscription: Some(subscription_to(&view.subscription)),
        paused: view.paused,
        topic_gone: view.topic_gone,
        partitions: view.partitions.iter().map(progress).collect(),
    }
}

/// A subscription and how far it has come, from a peer.
pub(super) fn view_from(view: peer::SubscriptionView) -> Result<SubscriptionView, Malformed> {
    let progress = |p: peer::SubscriptionProgress| SubscriptionProgress {
        floor: p.floor,
        end: p.end,
        under_way: p.under_way,
        skipped: p.skipped,
        unreadable: p.unreadable,
    };
    Ok(SubscriptionView {
        subscription: subscription_from(view.subscription)?,
        paused: view.paused,
        topic_gone: view.topic_gone,
        partitions: view.partitions.into_iter().map(progress).collect(),
    })
}
