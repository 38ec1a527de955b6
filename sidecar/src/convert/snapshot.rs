//! The core's snapshots to `kar.log.v1` and back. Every struct is taken apart and put together field by field, in both
//! forms, so that a new field does not compile until it is stored and read.

use std::sync::Arc;

use bytes::Bytes;
use kar_core::ids::{InvocationId, Millis, NodeId, Number, Uuid};
use kar_core::invocation::Outcome;
use kar_core::reminder::Reminder;
use kar_core::snapshot::{
    NamedSnapshot, SavedClosedNodes, SavedDeadLetter, SavedEntry, SavedInbound, SavedKey,
    SavedOrigin, SavedOutbound, SavedReminderName, SavedStep, SavedTopicChannel, SavedTrouble,
    Snapshot, SnapshotKey, SnapshotProof,
};
use kar_proto::log::v1 as pb;
use prost::Message as _;

use super::Malformed;
use super::event::{topic_partition_from, topic_partition_to};
use super::log::{
    digest_from, digest_to, invocation_from, invocation_to, outcome_from, outcome_to,
    partition_from, partition_to, send_from, send_to, sender_from, sender_to, settled_from,
    settled_to, step_from, step_to, text_from, text_to, uuid_from, uuid_to,
};
use super::policy::{attempt_end_from, attempt_end_to};
use super::reminder::{reminder_from, reminder_to};
use super::subscription;

/// The form that this version writes.
const VERSION: u32 = 1;

/// A snapshot as it is stored.
pub fn encode_snapshot(snapshot: &Snapshot) -> Bytes {
    snapshot_to(snapshot).encode_to_vec().into()
}

/// A snapshot from what is stored, with memory of its own: a result that is kept for a day must not keep all of it.
///
/// # Errors
///
/// If the bytes are no snapshot that this version understands.
pub fn decode_snapshot(bytes: &[u8]) -> Result<Snapshot, Malformed> {
    snapshot_from(pb::Snapshot::decode(bytes)?)
}

/// The name of a snapshot for the log.
pub(super) fn name_to(named: &NamedSnapshot) -> pb::SnapshotName {
    let NamedSnapshot { key, proof, stored, time } = *named;
    let SnapshotKey { position, epoch } = key;
    let SnapshotProof { bytes, checksum } = proof;
    pb::SnapshotName { position, epoch, bytes, checksum, stored, time_ms: time }
}

/// The name of a snapshot from the log.
pub(super) fn name_from(name: pb::SnapshotName) -> NamedSnapshot {
    let pb::SnapshotName { position, epoch, bytes, checksum, stored, time_ms } = name;
    let (key, proof) = (SnapshotKey { position, epoch }, SnapshotProof { bytes, checksum });
    NamedSnapshot { key, proof, stored, time: time_ms }
}

fn snapshot_to(snapshot: &Snapshot) -> pb::Snapshot {
    let Snapshot {
        partition,
        offset,
        epoch,
        owner,
        released,
        seq,
        log,
        clock,
        order,
        last_write,
        inbox,
        entries,
        kept,
        results,
        results_by_age,
        inbound,
        outbound,
        topics,
        closed_nodes: SavedClosedNodes { floor, open, above },
        dead,
        keys,
        keys_by_age,
        snapshots,
        reminders,
        firings,
        subscriptions,
        newest_subscription,
        fences,
    } = snapshot;
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    pb::Snapshot {
        version: VERSION,
        partition: Some(partition_to(partition)),
        offset: *offset,
        epoch: *epoch,
        owner: owner.map_or(0, |node| node.0),
        released: *released,
        seq: *seq,
        log: log.map(uuid_to).unwrap_or_default(),
        clock_ms: *clock,
        order: *order,
        last_write: *last_write,
        inbox_taken: *inbox,
        entries: entries.iter().map(entry_to).collect(),
        kept: kept.iter().map(kept_to).collect(),
        results: results.iter().map(kept_to).collect(),
        results_by_age: results_by_age.iter().map(ended_to).collect(),
        inbound: inbound.iter().map(inbound_to).collect(),
        outbound: outbound.iter().map(outbound_to).collect(),
        topics: topics.iter().map(topic_channel_to).collect(),
        closed_floor: floor.0,
        closed_open: numbers(open),
        closed_above: numbers(above),
        dead: dead.iter().map(dead_to).collect(),
        keys: keys.iter().map(key_to).collect(),
        keys_by_age: keys_by_age.iter().map(ended_to).collect(),
        snapshots: snapshots.iter().map(name_to).collect(),
        reminders: reminders.iter().map(saved_reminder_to).collect(),
        firings: firings.iter().map(firing_to).collect(),
        subscriptions: subscriptions.iter().map(subscription::saved_to).collect(),
        newest_subscription: subscription::newest_to(*newest_subscription),
        fences: fences.iter().map(subscription::saved_fence_to).collect(),
    }
}

fn snapshot_from(snapshot: pb::Snapshot) -> Result<Snapshot, Malformed> {
    let pb::Snapshot {
        version,
        partition,
        offset,
        epoch,
        owner,
        released,
        seq,
        log,
        clock_ms,
        order,
        last_write,
        inbox_taken,
        entries,
        kept,
        results,
        results_by_age,
        inbound,
        outbound,
        closed_floor,
        closed_open,
        closed_above,
        dead,
        keys,
        keys_by_age,
        snapshots,
        reminders,
        firings,
        subscriptions,
        newest_subscription,
        fences,
        topics,
    } = snapshot;
    if version != VERSION {
        return Err(Malformed::Field("version"));
    }
    let nodes = |numbers: Vec<u64>| numbers.into_iter().map(NodeId).collect();
    let ended = |ended: pb::SnapshotEnded| {
        let pb::SnapshotEnded { uuid, time_ms } = ended;
        Ok::<_, Malformed>((time_ms, uuid_from(&uuid)?))
    };
    Ok(Snapshot {
        partition: partition_from(partition)?,
        offset,
        epoch,
        owner: (owner != 0).then_some(NodeId(owner)),
        released,
        seq,
        log: if log.is_empty() { None } else { Some(uuid_from(&log)?) },
        clock: clock_ms,
        order,
        last_write,
        inbox: inbox_taken,
        entries: all(entries, entry_from)?,
        kept: all(kept, kept_from)?,
        results: all(results, kept_from)?,
        results_by_age: all(results_by_age, ended)?,
        inbound: all(inbound, inbound_from)?,
        outbound: all(outbound, outbound_from)?,
        topics: all(topics, topic_channel_from)?,
        closed_nodes: SavedClosedNodes {
            floor: NodeId(closed_floor),
            open: nodes(closed_open),
            above: nodes(closed_above),
        },
        dead: all(dead, dead_from)?,
        keys: all(keys, key_from)?,
        keys_by_age: all(keys_by_age, ended)?,
        snapshots: snapshots.into_iter().map(name_from).collect(),
        reminders: all(reminders, saved_reminder_from)?,
        firings: all(firings, firing_from)?,
        subscriptions: all(subscriptions, subscription::saved_from)?,
        newest_subscription: subscription::newest_from(&newest_subscription)?,
        fences: all(fences, subscription::saved_fence_from)?,
    })
}

fn ended_to((time, uuid): &(Millis, Uuid)) -> pb::SnapshotEnded {
    pb::SnapshotEnded { uuid: uuid_to(*uuid), time_ms: *time }
}

fn key_to(key: &SavedKey) -> pb::SnapshotKey {
    let SavedKey { uuid, digest, outcome } = key;
    pb::SnapshotKey {
        uuid: uuid_to(*uuid),
        digest: digest_to(*digest),
        outcome: outcome.as_ref().map(outcome_to),
    }
}

fn key_from(key: pb::SnapshotKey) -> Result<SavedKey, Malformed> {
    let pb::SnapshotKey { uuid, digest, outcome } = key;
    let outcome = outcome.map(|outcome| outcome_from(Some(outcome))).transpose()?;
    Ok(SavedKey { uuid: uuid_from(&uuid)?, digest: digest_from(&digest)?, outcome })
}

fn all<A, B>(many: Vec<A>, from: impl Fn(A) -> Result<B, Malformed>) -> Result<Vec<B>, Malformed> {
    many.into_iter().map(from).collect()
}

fn entry_to(entry: &SavedEntry) -> pb::SnapshotEntry {
    let SavedEntry {
        invocation,
        origin,
        order,
        attempt,
        ran,
        suspected,
        holds,
        shared,
        children,
        steps,
        unwanted,
        moved,
        trouble: SavedTrouble { failures, losses, last },
        cancel,
        parked,
    } = entry;
    use pb::snapshot_entry::Origin as O;
    let (origin, number) = match origin {
        SavedOrigin::Channel { sender, number } => (O::Sender(sender_to(sender)), *number),
        SavedOrigin::Reminder(name) => (O::Reminder(reminder_name_to(name)), 0),
        SavedOrigin::Idle => (O::Idle(true), 0),
    };
    pb::SnapshotEntry {
        invocation: Some(invocation_to(invocation)),
        origin: Some(origin),
        number,
        order: *order,
        attempt: *attempt,
        ran: *ran,
        suspected: *suspected,
        holds: *holds,
        shared: *shared,
        children: settled_to(children),
        steps: steps.iter().map(saved_step_to).collect(),
        unwanted: *unwanted,
        moved: *moved,
        failures: *failures,
        losses: *losses,
        last_ended: last.as_ref().map(|(attempt, ended)| pb::Attempt {
            uuid: uuid_to(invocation.uuid),
            attempt: *attempt,
            ended: Some(attempt_end_to(ended)),
            unmarked: false,
        }),
        cancel: *cancel,
        parked: *parked,
    }
}

fn entry_from(entry: pb::SnapshotEntry) -> Result<SavedEntry, Malformed> {
    use pb::snapshot_entry::Origin as O;
    let pb::SnapshotEntry {
        invocation,
        origin,
        number,
        order,
        attempt,
        ran,
        suspected,
        holds,
        shared,
        children,
        steps,
        unwanted,
        moved,
        failures,
        losses,
        last_ended,
        cancel,
        parked,
    } = entry;
    let ended = |last: pb::Attempt| {
        let ended = last.ended.ok_or(Malformed::Field("ended"))?;
        Ok::<_, Malformed>((last.attempt, attempt_end_from(ended)?))
    };
    let origin = match origin.ok_or(Malformed::Field("origin"))? {
        O::Sender(sender) => SavedOrigin::Channel { sender: sender_from(Some(sender))?, number },
        O::Reminder(name) => SavedOrigin::Reminder(reminder_name_from(name)),
        O::Idle(_) => SavedOrigin::Idle,
    };
    Ok(SavedEntry {
        invocation: Arc::new(invocation_from(invocation)?),
        origin,
        order,
        attempt,
        ran,
        suspected,
        holds,
        shared,
        children: settled_from(children)?,
        steps: all(steps, saved_step_from)?,
        unwanted,
        moved,
        trouble: SavedTrouble { failures, losses, last: last_ended.map(ended).transpose()? },
        cancel,
        parked,
    })
}

fn saved_step_to(step: &SavedStep) -> pb::SnapshotStep {
    use pb::snapshot_step::Step as S;
    let step = match step {
        SavedStep::Value(step) => S::Value(step_to(step)),
        SavedStep::Call { key, child, number, actor, method, outcome } => S::Call(pb::KeyedCall {
            key: key.to_string(),
            to: Some(partition_to(&child.home)),
            uuid: uuid_to(child.uuid),
            number: *number,
            actor: text_to(actor),
            method: method.to_string(),
            outcome: outcome.as_ref().map(outcome_to),
        }),
    };
    pb::SnapshotStep { step: Some(step) }
}

fn saved_step_from(step: pb::SnapshotStep) -> Result<SavedStep, Malformed> {
    use pb::snapshot_step::Step as S;
    Ok(match step.step.ok_or(Malformed::Field("step"))? {
        S::Value(step) => SavedStep::Value(step_from(step)),
        S::Call(pb::KeyedCall { key, to, uuid, number, actor, method, outcome }) => {
            let child = InvocationId { home: partition_from(to)?, uuid: uuid_from(&uuid)? };
            SavedStep::Call {
                key: key.into(),
                child,
                number,
                actor: text_from(&actor),
                method: method.into(),
                outcome: outcome.map(|outcome| outcome_from(Some(outcome))).transpose()?,
            }
        }
    })
}

fn kept_to((uuid, outcome): &(Uuid, Outcome)) -> pb::SnapshotOutcome {
    pb::SnapshotOutcome { uuid: uuid_to(*uuid), outcome: Some(outcome_to(outcome)) }
}

fn kept_from(kept: pb::SnapshotOutcome) -> Result<(Uuid, Outcome), Malformed> {
    let pb::SnapshotOutcome { uuid, outcome } = kept;
    Ok((uuid_from(&uuid)?, outcome_from(outcome)?))
}

fn inbound_to(inbound: &SavedInbound) -> pb::SnapshotInbound {
    let SavedInbound { sender, next, live } = inbound;
    let live = live
        .iter()
        .map(|(number, uuid)| pb::SnapshotLive { number: *number, uuid: uuid_to(*uuid) });
    pb::SnapshotInbound { sender: Some(sender_to(sender)), next: *next, live: live.collect() }
}

fn inbound_from(inbound: pb::SnapshotInbound) -> Result<SavedInbound, Malformed> {
    let pb::SnapshotInbound { sender, next, live } = inbound;
    let live = all(live, |live| Ok((live.number, uuid_from(&live.uuid)?)))?;
    Ok(SavedInbound { sender: sender_from(sender)?, next, live })
}

fn outbound_to(outbound: &SavedOutbound) -> pb::SnapshotOutbound {
    let SavedOutbound { to, next, open } = outbound;
    let open = open.iter().map(send_to).collect();
    pb::SnapshotOutbound { to: Some(partition_to(to)), next: *next, open }
}

fn outbound_from(outbound: pb::SnapshotOutbound) -> Result<SavedOutbound, Malformed> {
    let pb::SnapshotOutbound { to, next, open } = outbound;
    Ok(SavedOutbound { to: partition_from(to)?, next, open: all(open, send_from)? })
}

fn topic_channel_to(channel: &SavedTopicChannel) -> pb::SnapshotTopicChannel {
    let SavedTopicChannel { to, next, landed, since, open } = channel;
    let owed = |(number, event): &(Number, Bytes)| pb::SnapshotOwedEvent {
        number: *number,
        event: event.clone(),
    };
    pb::SnapshotTopicChannel {
        to: Some(topic_partition_to(to)),
        next: *next,
        landed: *landed,
        since_offset: *since,
        open: open.iter().map(owed).collect(),
    }
}

fn topic_channel_from(channel: pb::SnapshotTopicChannel) -> Result<SavedTopicChannel, Malformed> {
    let pb::SnapshotTopicChannel { to, next, landed, since_offset, open } = channel;
    Ok(SavedTopicChannel {
        to: topic_partition_from(to)?,
        next,
        landed,
        since: since_offset,
        open: open.into_iter().map(|owed| (owed.number, owed.event)).collect(),
    })
}

fn dead_to(letter: &SavedDeadLetter) -> pb::SnapshotDeadLetter {
    use pb::snapshot_dead_letter::Origin as O;
    let SavedDeadLetter { invocation, origin, outcome, attempts, time } = letter;
    let (origin, number) = match origin {
        SavedOrigin::Channel { sender, number } => (O::Sender(sender_to(sender)), *number),
        SavedOrigin::Reminder(name) => (O::Reminder(reminder_name_to(name)), 0),
        SavedOrigin::Idle => (O::Idle(true), 0),
    };
    pb::SnapshotDeadLetter {
        invocation: Some(invocation_to(invocation)),
        origin: Some(origin),
        number,
        outcome: Some(outcome_to(outcome)),
        attempts: *attempts,
        time_ms: *time,
    }
}

fn dead_from(letter: pb::SnapshotDeadLetter) -> Result<SavedDeadLetter, Malformed> {
    use pb::snapshot_dead_letter::Origin as O;
    let pb::SnapshotDeadLetter { invocation, origin, number, outcome, attempts, time_ms } = letter;
    let origin = match origin.ok_or(Malformed::Field("origin"))? {
        O::Sender(sender) => SavedOrigin::Channel { sender: sender_from(Some(sender))?, number },
        O::Reminder(name) => SavedOrigin::Reminder(reminder_name_from(name)),
        O::Idle(_) => SavedOrigin::Idle,
    };
    Ok(SavedDeadLetter {
        invocation: Arc::new(invocation_from(invocation)?),
        origin,
        outcome: outcome_from(outcome)?,
        attempts,
        time: time_ms,
    })
}

fn reminder_name_to(SavedReminderName { actor, id }: &SavedReminderName) -> pb::ReminderName {
    pb::ReminderName { actor: actor.to_string(), id: id.to_string() }
}

fn reminder_name_from(pb::ReminderName { actor, id }: pb::ReminderName) -> SavedReminderName {
    SavedReminderName { actor: actor.into(), id: id.into() }
}

fn saved_reminder_to((actor, reminder): &(Arc<str>, Arc<Reminder>)) -> pb::SnapshotReminder {
    pb::SnapshotReminder { actor: actor.to_string(), reminder: Some(reminder_to(reminder)) }
}

fn saved_reminder_from(
    saved: pb::SnapshotReminder,
) -> Result<(Arc<str>, Arc<Reminder>), Malformed> {
    let reminder = saved.reminder.ok_or(Malformed::Field("reminder"))?;
    Ok((saved.actor.into(), Arc::new(reminder_from(reminder)?)))
}

fn firing_to((name, uuid): &(SavedReminderName, Uuid)) -> pb::SnapshotFiring {
    pb::SnapshotFiring { name: Some(reminder_name_to(name)), uuid: uuid_to(*uuid) }
}

fn firing_from(firing: pb::SnapshotFiring) -> Result<(SavedReminderName, Uuid), Malformed> {
    let name = firing.name.ok_or(Malformed::Field("name"))?;
    Ok((reminder_name_from(name), uuid_from(&firing.uuid)?))
}
