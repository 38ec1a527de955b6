//! The core's records and their parts to `kar.log.v1` and back.
//!
//! Stored records are read by every later version. What this version does not understand is refused, never skipped:
//! a reader that skipped a record would disagree with one that did not (rule L3).
//!
//! Longer than most: two functions for each type of `kar.log.v1`, there and back, side by side.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kar_core::ids::{Class, Kind, NodeId, Number, PartitionId, Sender, Uuid};
use kar_core::invocation::{
    ApplicationError, ChainOutcome, Invocation, Mode, Obligation, Outcome, Owed, Payload, Refusal,
    StateOp, Work,
};
use kar_core::record::{AcceptInBrief, End, Op, Record, RecordedStep, Segment, Send};
use kar_core::select::KeyRange;
use kar_proto::log::v1 as pb;
use prost::Message as _;

use super::event::{
    event_origin_from, event_origin_to, publish_from, publish_to, topic_partition_from,
    topic_partition_to,
};
use super::policy::{self, attempt_end_from, attempt_end_to};
use super::reminder::{op_of_reminders_from, op_of_reminders_to, remind_from, remind_to};
use super::snapshot;
use super::subscription;
use super::{Malformed, owned, shared, taken_out};

/// A record as it is stored, written where `block` has room: records that are written one after the other share memory.
pub fn encode_record(record: &Record, block: &mut BytesMut) -> Bytes {
    let record = record_to(record);
    block.reserve(record.encoded_len());
    // It has room; `encode` would measure it once more to find that out.
    record.encode_raw(block);
    block.split().freeze()
}

/// A record from what is stored.
///
/// # Errors
///
/// If the bytes are no record that this version understands.
pub fn decode_record(bytes: Bytes) -> Result<Record, Malformed> {
    record_from(pb::Record::decode(bytes)?)
}

// === records ===

fn record_to(record: &Record) -> pb::Record {
    use pb::record::Record as R;
    let record = match record {
        Record::Claim { after, node, id } => {
            R::Claim(pb::Claim { after: *after, node: node.0, id: uuid_to(*id) })
        }
        Record::Release { epoch, seq } => R::Release(pb::Release { epoch: *epoch, seq: *seq }),
        Record::Batch { epoch, seq, time, ops } => R::Batch(pb::Batch {
            epoch: *epoch,
            seq: *seq,
            ops: ops.iter().map(op_to).collect(),
            time_ms: *time,
        }),
    };
    pb::Record { record: Some(record) }
}

fn record_from(record: pb::Record) -> Result<Record, Malformed> {
    use pb::record::Record as R;
    Ok(match record.record.ok_or(Malformed::Field("record"))? {
        R::Claim(c) => {
            Record::Claim { after: c.after, node: NodeId(c.node), id: uuid_from(&c.id)? }
        }
        R::Release(r) => Record::Release { epoch: r.epoch, seq: r.seq },
        R::Batch(b) => {
            let ops = b.ops.into_iter().map(op_from).collect::<Result<_, _>>()?;
            Record::Batch { epoch: b.epoch, seq: b.seq, time: b.time_ms, ops }
        }
    })
}

fn op_to(op: &Op) -> pb::Op {
    use pb::op::Op as O;
    let op = match op {
        Op::Accept { sender, number, invocation } => O::Accept(pb::Accept {
            sender: Some(sender_to(sender)),
            number: *number,
            invocation: Some(invocation_to(invocation)),
        }),
        Op::Progress { uuid, attempt, segment, settled, steps, shared } => {
            O::Progress(pb::Progress {
                uuid: uuid_to(*uuid),
                attempt: *attempt,
                state: segment.state.iter().map(state_op_to).collect(),
                sends: segment.sends.iter().map(send_to).collect(),
                settled: settled_to(settled),
                steps: steps.iter().map(step_to).collect(),
                shared: *shared,
                reminders: segment.reminders.iter().map(op_of_reminders_to).collect(),
                publishes: segment.publishes.iter().map(publish_to).collect(),
            })
        }
        Op::Complete { uuid, attempt, accept, end, segment, time } => O::Complete(pb::Complete {
            uuid: uuid_to(*uuid),
            attempt: *attempt,
            accept: accept.as_ref().map(brief_to),
            end: Some(end_to(end)),
            state: segment.state.iter().map(state_op_to).collect(),
            sends: segment.sends.iter().map(send_to).collect(),
            time_ms: *time,
            reminders: segment.reminders.iter().map(op_of_reminders_to).collect(),
            publishes: segment.publishes.iter().map(publish_to).collect(),
        }),
        Op::Outcome { sender, number, done, time } => O::Outcome(pb::HomeOutcome {
            sender: Some(sender_to(sender)),
            number: *number,
            done: Some(chain_outcome_to(done)),
            time_ms: *time,
        }),
        Op::Attempt { uuid, attempt, ended, unmarked } => O::Attempt(pb::Attempt {
            uuid: uuid_to(*uuid),
            attempt: *attempt,
            ended: ended.as_ref().map(attempt_end_to),
            unmarked: *unmarked,
        }),
        Op::Cancel { uuid } => O::Cancel(pb::Cancel { uuid: uuid_to(*uuid) }),
        Op::Park { uuid } => O::Park(pb::Park { uuid: uuid_to(*uuid) }),
        Op::Resume { uuid } => O::Resume(pb::Resume { uuid: uuid_to(*uuid) }),
        Op::Discard { uuids } => {
            O::Discard(pb::Discard { uuids: uuids.iter().map(|u| uuid_to(*u)).collect() })
        }
        Op::Inbox { taken } => O::InboxTaken(pb::InboxTaken { offset: *taken }),
        Op::Redrive { uuid, new } => {
            O::Redrive(pb::Redrive { uuid: uuid_to(*uuid), new: uuid_to(*new) })
        }
        Op::Settle { to, numbers } => {
            O::Settle(pb::Settle { to: Some(partition_to(to)), numbers: numbers.clone() })
        }
        Op::StepDone { to, number, outcome } => O::StepDone(pb::StepDone {
            to: Some(partition_to(to)),
            number: *number,
            outcome: Some(outcome_to(outcome)),
        }),
        Op::Closed { sender, below, open } => O::Closed(pb::Closed {
            sender: Some(sender_to(sender)),
            below: *below,
            open: open.clone(),
        }),
        Op::CloseChannel { node, floor, open } => O::CloseChannel(pb::CloseChannel {
            node: node.0,
            floor: floor.0,
            open: open.iter().map(|node| node.0).collect(),
        }),
        Op::Again { sender, number, uuid } => O::Again(pb::Again {
            sender: Some(sender_to(sender)),
            number: *number,
            uuid: uuid_to(*uuid),
        }),
        Op::ForgetKeys { uuids } => {
            O::ForgetKeys(pb::ForgetKeys { uuids: uuids.iter().map(|u| uuid_to(*u)).collect() })
        }
        Op::Snapshot { named, keeps } => O::Snapshot(pb::SnapshotNamed {
            name: Some(snapshot::name_to(named)),
            keeps: keeps.clone(),
        }),
        Op::Forget { uuids } => {
            O::Forget(pb::Forget { uuids: uuids.iter().map(|u| uuid_to(*u)).collect() })
        }
        Op::Fire { actor, id, due, uuid, next } => O::Fire(pb::Fire {
            actor: actor.to_string(),
            id: id.to_string(),
            due_ms: *due,
            uuid: uuid.map(uuid_to).unwrap_or_default(),
            next_ms: next.unwrap_or_default(),
        }),
        Op::Published { to, upto, offset } => O::Published(pb::Published {
            to: Some(topic_partition_to(to)),
            upto: *upto,
            offset: *offset,
        }),
        Op::TopicGone { to } => O::TopicGone(pb::TopicGone { to: Some(topic_partition_to(to)) }),
        Op::Deactivate { actor, uuid } => {
            O::Deactivate(pb::Deactivate { actor: actor.to_string(), uuid: uuid_to(*uuid) })
        }
        Op::Subscription { .. } | Op::Delivered { .. } | Op::Fence { .. } => {
            return pb::Op { op: subscription::op_to(op) };
        }
    };
    pb::Op { op: Some(op) }
}

fn op_from(op: pb::Op) -> Result<Op, Malformed> {
    use pb::op::Op as O;
    Ok(match op.op.ok_or(Malformed::Field("op"))? {
        O::Accept(a) => Op::Accept {
            sender: sender_from(a.sender)?,
            number: a.number,
            invocation: Arc::new(invocation_from(a.invocation)?),
        },
        O::Progress(p) => Op::Progress {
            uuid: uuid_from(&p.uuid)?,
            attempt: p.attempt,
            segment: segment_from(p.state, p.sends, p.reminders, p.publishes)?,
            settled: settled_from(p.settled)?,
            steps: p.steps.into_iter().map(step_from).collect(),
            shared: p.shared,
        },
        O::Complete(c) => Op::Complete {
            uuid: uuid_from(&c.uuid)?,
            attempt: c.attempt,
            accept: c.accept.map(brief_from).transpose()?,
            end: end_from(c.end)?,
            segment: segment_from(c.state, c.sends, c.reminders, c.publishes)?,
            time: c.time_ms,
        },
        O::Outcome(h) => Op::Outcome {
            sender: sender_from(h.sender)?,
            number: h.number,
            done: Arc::new(chain_outcome_from(h.done)?),
            time: h.time_ms,
        },
        O::Attempt(a) => Op::Attempt {
            uuid: uuid_from(&a.uuid)?,
            attempt: a.attempt,
            ended: a.ended.map(attempt_end_from).transpose()?,
            unmarked: a.unmarked,
        },
        O::Cancel(c) => Op::Cancel { uuid: uuid_from(&c.uuid)? },
        O::Park(p) => Op::Park { uuid: uuid_from(&p.uuid)? },
        O::Resume(r) => Op::Resume { uuid: uuid_from(&r.uuid)? },
        O::Discard(d) => {
            let uuids = d.uuids.iter().map(|u| uuid_from(u)).collect::<Result<_, _>>()?;
            Op::Discard { uuids }
        }
        O::Redrive(r) => Op::Redrive { uuid: uuid_from(&r.uuid)?, new: uuid_from(&r.new)? },
        O::Settle(s) => Op::Settle { to: partition_from(s.to)?, numbers: s.numbers },
        O::StepDone(s) => Op::StepDone {
            to: partition_from(s.to)?,
            number: s.number,
            outcome: outcome_from(s.outcome)?,
        },
        O::Closed(c) => Op::Closed { sender: sender_from(c.sender)?, below: c.below, open: c.open },
        O::InboxTaken(t) => Op::Inbox { taken: t.offset },
        O::CloseChannel(c) => Op::CloseChannel {
            node: NodeId(c.node),
            floor: NodeId(c.floor),
            open: c.open.into_iter().map(NodeId).collect(),
        },
        O::Again(a) => Op::Again {
            sender: sender_from(a.sender)?,
            number: a.number,
            uuid: uuid_from(&a.uuid)?,
        },
        O::ForgetKeys(f) => {
            let uuids = f.uuids.iter().map(|u| uuid_from(u)).collect::<Result<_, _>>()?;
            Op::ForgetKeys { uuids }
        }
        O::Snapshot(s) => Op::Snapshot {
            named: snapshot::name_from(s.name.ok_or(Malformed::Field("name"))?),
            keeps: s.keeps,
        },
        O::Forget(f) => {
            let uuids = f.uuids.iter().map(|u| uuid_from(u)).collect::<Result<_, _>>()?;
            Op::Forget { uuids }
        }
        O::Fire(f) => Op::Fire {
            actor: f.actor.into(),
            id: f.id.into(),
            due: f.due_ms,
            uuid: if f.uuid.is_empty() { None } else { Some(uuid_from(&f.uuid)?) },
            next: (f.next_ms != 0).then_some(f.next_ms),
        },
        O::Subscription(done) => subscription::done_from(*done)?,
        O::Delivered(delivered) => subscription::delivered_from(delivered)?,
        O::Fence(taken) => subscription::fence_taken_from(taken)?,
        O::Published(p) => {
            Op::Published { to: topic_partition_from(p.to)?, upto: p.upto, offset: p.offset }
        }
        O::TopicGone(g) => Op::TopicGone { to: topic_partition_from(g.to)? },
        O::Deactivate(d) => Op::Deactivate { actor: d.actor.into(), uuid: uuid_from(&d.uuid)? },
    })
}

fn segment_from(
    state: Vec<pb::StateOp>,
    sends: Vec<pb::Send>,
    reminders: Vec<pb::ReminderOp>,
    publishes: Vec<pb::Publish>,
) -> Result<Segment, Malformed> {
    Ok(Segment {
        state: state.into_iter().map(state_op_from).collect::<Result<_, _>>()?,
        sends: sends.into_iter().map(send_from).collect::<Result<_, _>>()?,
        reminders: reminders.into_iter().map(op_of_reminders_from).collect::<Result<_, _>>()?,
        publishes: publishes.into_iter().map(publish_from).collect::<Result<_, _>>()?,
    })
}

fn end_to(end: &End) -> pb::complete::End {
    use pb::complete::End as E;
    match end {
        End::Outcome(outcome) => E::Outcome(outcome_to(outcome)),
        End::Next { invocation, keeps_lock } => E::Next(Box::new(pb::NextStep {
            invocation: Some(invocation_to(invocation)),
            keeps_lock: *keeps_lock,
        })),
        End::Passed => E::Passed(true),
    }
}

fn end_from(end: Option<pb::complete::End>) -> Result<End, Malformed> {
    use pb::complete::End as E;
    Ok(match end.ok_or(Malformed::Field("end"))? {
        E::Outcome(outcome) => End::Outcome(outcome_from(Some(outcome))?),
        E::Next(next) => End::Next {
            invocation: Arc::new(invocation_from(next.invocation)?),
            keeps_lock: next.keeps_lock,
        },
        E::Passed(true) => End::Passed,
        E::Passed(false) => return Err(Malformed::Field("passed")),
    })
}

fn brief_to(brief: &AcceptInBrief) -> pb::AcceptInBrief {
    pb::AcceptInBrief {
        sender: Some(sender_to(&brief.sender)),
        number: brief.number,
        actor: text_to(&brief.actor),
    }
}

fn brief_from(brief: pb::AcceptInBrief) -> Result<AcceptInBrief, Malformed> {
    Ok(AcceptInBrief {
        sender: sender_from(brief.sender)?,
        number: brief.number,
        actor: text_from(&brief.actor),
    })
}

/// Neighbours that go to one partition share a `Settle`; their order stays.
pub(super) fn settled_to(settled: &[(PartitionId, Number)]) -> Vec<pb::Settle> {
    let neighbours = settled.chunk_by(|a, b| a.0 == b.0);
    let settle = |group: &[(PartitionId, Number)]| pb::Settle {
        to: group.first().map(|(to, _)| partition_to(to)),
        numbers: group.iter().map(|(_, number)| *number).collect(),
    };
    neighbours.map(settle).collect()
}

pub(super) fn settled_from(
    settles: Vec<pb::Settle>,
) -> Result<Vec<(PartitionId, Number)>, Malformed> {
    let mut settled = Vec::new();
    for settle in settles {
        let to = partition_from(settle.to)?;
        settled.extend(settle.numbers.into_iter().map(|number| (to.clone(), number)));
    }
    Ok(settled)
}

pub(super) fn send_to(send: &Send) -> pb::Send {
    use pb::send::Owed as O;
    let Obligation { to, owed, parent, step_key } = &send.obligation;
    pb::Send {
        number: send.number,
        to: Some(partition_to(to)),
        owed: Some(match owed {
            Owed::Invocation(invocation) => O::Invocation(invocation_to(invocation)),
            Owed::Outcome(done) => O::Outcome(chain_outcome_to(done)),
            Owed::Remind(remind) => O::Remind(remind_to(remind)),
            Owed::Subscription(command) => O::Subscription(subscription::command_to(command)),
            Owed::Fence(over) => O::Fence(subscription::over_to(over)),
        }),
        parent: parent.map(uuid_to).unwrap_or_default(),
        step_key: text_to(step_key),
    }
}

pub(super) fn send_from(send: pb::Send) -> Result<Send, Malformed> {
    use pb::send::Owed as O;
    let parent = if send.parent.is_empty() { None } else { Some(uuid_from(&send.parent)?) };
    let obligation = Obligation {
        to: partition_from(send.to)?,
        owed: match send.owed.ok_or(Malformed::Field("owed"))? {
            O::Invocation(i) => Owed::Invocation(Arc::new(invocation_from(Some(i))?)),
            O::Outcome(done) => Owed::Outcome(Arc::new(chain_outcome_from(Some(done))?)),
            O::Remind(remind) => Owed::Remind(Arc::new(remind_from(Some(remind))?)),
            O::Subscription(command) => Owed::Subscription(subscription::command_from(command)?),
            O::Fence(over) => Owed::Fence(subscription::over_from(over)?),
        },
        parent,
        step_key: text_from(&send.step_key),
    };
    Ok(Send { number: send.number, obligation })
}

pub(super) fn step_to(step: &RecordedStep) -> pb::RecordedStep {
    pb::RecordedStep { key: step.key.to_string(), payload: Some(payload_to(&step.payload)) }
}

pub(super) fn step_from(step: pb::RecordedStep) -> RecordedStep {
    RecordedStep { key: step.key.into(), payload: payload_from(step.payload.unwrap_or_default()) }
}

// === parts that the peer plane shares ===

/// An invocation for the wire.
pub fn invocation_to(invocation: &Invocation) -> pb::Invocation {
    let mode = match invocation.mode {
        Mode::Call => pb::Mode::Call,
        Mode::Tell => pb::Mode::Tell,
        Mode::Start => pb::Mode::Start,
    };
    let mut chain = Vec::with_capacity(invocation.chain.len() * UUID_BYTES);
    for uuid in invocation.chain.iter() {
        chain.extend_from_slice(&uuid.0.to_be_bytes());
    }
    pb::Invocation {
        uuid: uuid_to(invocation.uuid),
        mode: mode.into(),
        actor: text_to(&invocation.actor),
        method: owned(&invocation.method),
        payload: Some(payload_to(&invocation.payload)),
        chain: chain.into(),
        deadline_ms: invocation.deadline.unwrap_or(0),
        trace_parent: owned(&invocation.trace),
        // Most have one step only.
        step: if invocation.step == 1 { 0 } else { invocation.step },
        home: invocation.home.as_ref().map(partition_to),
        retry: invocation.retry.map(policy::to),
        key_digest: invocation.key.map(digest_to).unwrap_or_default(),
        work: match invocation.work {
            Work::Method => pb::Work::Unspecified,
            Work::Remove => pb::Work::Remove,
            Work::Deactivate => pb::Work::Deactivate,
        }
        .into(),
        event: invocation.event.as_deref().map(event_origin_to).map(Box::new),
    }
}

/// An invocation from the wire.
///
/// # Errors
///
/// If it is absent, or a part of it is not understood.
pub fn invocation_from(invocation: Option<pb::Invocation>) -> Result<Invocation, Malformed> {
    let i = invocation.ok_or(Malformed::Field("invocation"))?;
    let mode = match i.mode() {
        pb::Mode::Call => Mode::Call,
        pb::Mode::Tell => Mode::Tell,
        pb::Mode::Start => Mode::Start,
        pb::Mode::Unspecified => return Err(Malformed::Field("mode")),
    };
    let work = match pb::Work::try_from(i.work) {
        Ok(pb::Work::Unspecified) => Work::Method,
        Ok(pb::Work::Remove) => Work::Remove,
        Ok(pb::Work::Deactivate) => Work::Deactivate,
        Err(_) => return Err(Malformed::Field("work")),
    };
    if i.chain.len() % UUID_BYTES != 0 {
        return Err(Malformed::Field("chain"));
    }
    Ok(Invocation {
        uuid: uuid_from(&i.uuid)?,
        work,
        mode,
        actor: text_from(&i.actor),
        method: i.method.into(),
        payload: payload_from(i.payload.unwrap_or_default()),
        chain: i.chain.chunks(UUID_BYTES).map(uuid_from).collect::<Result<_, _>>()?,
        deadline: (i.deadline_ms != 0).then_some(i.deadline_ms),
        trace: shared(i.trace_parent),
        step: i.step.max(1),
        home: i.home.map(|home| partition_from(Some(home))).transpose()?,
        retry: i.retry.map(policy::from),
        key: (!i.key_digest.is_empty()).then(|| digest_from(&i.key_digest)).transpose()?,
        event: i.event.map(|event| event_origin_from(*event)).transpose()?.map(Arc::new),
    })
}

pub(super) fn digest_to(digest: u128) -> Bytes {
    uuid_to(Uuid(digest))
}

pub(super) fn digest_from(bytes: &[u8]) -> Result<u128, Malformed> {
    let digest = uuid_from(bytes).map_err(|_| Malformed::Field("key_digest"))?;
    Ok(digest.0)
}

/// The outcome of a chain of tail calls for the wire.
pub fn chain_outcome_to(done: &ChainOutcome) -> pb::ChainOutcome {
    pb::ChainOutcome { uuid: uuid_to(done.uuid), outcome: Some(outcome_to(&done.outcome)) }
}

/// The outcome of a chain of tail calls from the wire.
///
/// # Errors
///
/// If it is absent, or a part of it is not understood.
pub fn chain_outcome_from(done: Option<pb::ChainOutcome>) -> Result<ChainOutcome, Malformed> {
    let done = done.ok_or(Malformed::Field("chain outcome"))?;
    Ok(ChainOutcome { uuid: uuid_from(&done.uuid)?, outcome: outcome_from(done.outcome)? })
}

/// An outcome for the wire.
pub fn outcome_to(outcome: &Outcome) -> pb::Outcome {
    use pb::outcome::Outcome as O;
    let outcome = match outcome {
        Outcome::Done(payload) => O::Done(payload_to(payload)),
        Outcome::Failed(e) => O::Failed(pb::Failure {
            code: owned(&e.code),
            message: owned(&e.message),
            detail: owned(&e.detail),
            payload: Some(payload_to(&e.payload)),
            retryable: e.retryable,
        }),
        Outcome::Refused(refusal) => O::Refused(
            match refusal {
                Refusal::ActorQueueFull => pb::Refusal::ActorQueueFull,
                Refusal::PartitionFull => pb::Refusal::PartitionFull,
                Refusal::PartitionBytesFull => pb::Refusal::PartitionBytesFull,
                Refusal::TooDeep => pb::Refusal::TooDeep,
                Refusal::ChannelClosed => pb::Refusal::ChannelClosed,
                Refusal::SharedToExclusive => pb::Refusal::SharedToExclusive,
                Refusal::KeyReused => pb::Refusal::KeyReused,
                Refusal::KeysFull => pb::Refusal::KeysFull,
                Refusal::KeysBytesFull => pb::Refusal::KeysBytesFull,
                Refusal::ActorRemindersFull => pb::Refusal::ActorRemindersFull,
                Refusal::RemindersFull => pb::Refusal::RemindersFull,
                Refusal::RemindersBytesFull => pb::Refusal::RemindersBytesFull,
                Refusal::SubscriptionsBytesFull => pb::Refusal::SubscriptionsBytesFull,
                Refusal::SubscriptionsFull => pb::Refusal::SubscriptionsFull,
                Refusal::SubscriptionUnknown => pb::Refusal::SubscriptionUnknown,
                Refusal::SubscriptionDiffers => pb::Refusal::SubscriptionDiffers,
            }
            .into(),
        ),
        Outcome::Deadlock(cycle) => O::Deadlock(cycle.to_string()),
        Outcome::Expired => O::Expired(true),
        Outcome::Cancelled => O::Cancelled(true),
        Outcome::Withdrawn => O::Withdrawn(true),
    };
    pb::Outcome { outcome: Some(outcome) }
}

/// An outcome from the wire.
///
/// # Errors
///
/// If it is absent or not understood.
pub fn outcome_from(outcome: Option<pb::Outcome>) -> Result<Outcome, Malformed> {
    use pb::outcome::Outcome as O;
    let absent = Malformed::Field("outcome");
    Ok(match outcome.and_then(|o| o.outcome).ok_or(absent)? {
        O::Done(payload) => Outcome::Done(payload_from(payload)),
        O::Failed(f) => Outcome::Failed(ApplicationError {
            code: f.code.into(),
            message: f.message.into(),
            detail: f.detail.into(),
            payload: payload_from(f.payload.unwrap_or_default()),
            retryable: f.retryable,
        }),
        O::Refused(refusal) => Outcome::Refused(match pb::Refusal::try_from(refusal) {
            Ok(pb::Refusal::ActorQueueFull) => Refusal::ActorQueueFull,
            Ok(pb::Refusal::PartitionFull) => Refusal::PartitionFull,
            Ok(pb::Refusal::PartitionBytesFull) => Refusal::PartitionBytesFull,
            Ok(pb::Refusal::TooDeep) => Refusal::TooDeep,
            Ok(pb::Refusal::ChannelClosed) => Refusal::ChannelClosed,
            Ok(pb::Refusal::SharedToExclusive) => Refusal::SharedToExclusive,
            Ok(pb::Refusal::KeyReused) => Refusal::KeyReused,
            Ok(pb::Refusal::KeysFull) => Refusal::KeysFull,
            Ok(pb::Refusal::KeysBytesFull) => Refusal::KeysBytesFull,
            Ok(pb::Refusal::ActorRemindersFull) => Refusal::ActorRemindersFull,
            Ok(pb::Refusal::RemindersFull) => Refusal::RemindersFull,
            Ok(pb::Refusal::RemindersBytesFull) => Refusal::RemindersBytesFull,
            Ok(pb::Refusal::SubscriptionsBytesFull) => Refusal::SubscriptionsBytesFull,
            Ok(pb::Refusal::SubscriptionsFull) => Refusal::SubscriptionsFull,
            Ok(pb::Refusal::SubscriptionUnknown) => Refusal::SubscriptionUnknown,
            Ok(pb::Refusal::SubscriptionDiffers) => Refusal::SubscriptionDiffers,
            Ok(pb::Refusal::Unspecified) | Err(_) => return Err(Malformed::Field("refused")),
        }),
        O::Deadlock(cycle) => Outcome::Deadlock(cycle.into()),
        O::Expired(true) => Outcome::Expired,
        O::Cancelled(true) => Outcome::Cancelled,
        O::Withdrawn(true) => Outcome::Withdrawn,
        O::Withdrawn(false) => return Err(Malformed::Field("withdrawn")),
        O::Cancelled(false) => return Err(Malformed::Field("cancelled")),
        O::Expired(false) => return Err(Malformed::Field("expired")),
    })
}

/// A channel's sender for the wire.
pub fn sender_to(sender: &Sender) -> pb::Sender {
    use pb::sender::Sender as S;
    let sender = match sender {
        Sender::Node(node) => S::Node(node.0),
        Sender::Log { partition, log } => {
            S::Log(pb::LogSender { partition: Some(partition_to(partition)), log: uuid_to(*log) })
        }
        Sender::Subscription { partition, subscription, topic_partition } => {
            S::Subscription(pb::SubscriptionSender {
                partition: Some(partition_to(partition)),
                subscription: uuid_to(*subscription),
                topic_partition: *topic_partition,
            })
        }
    };
    pb::Sender { sender: Some(sender) }
}

/// A channel's sender from the wire.
///
/// # Errors
///
/// If it is absent or not understood.
pub fn sender_from(sender: Option<pb::Sender>) -> Result<Sender, Malformed> {
    use pb::sender::Sender as S;
    Ok(match sender.and_then(|s| s.sender).ok_or(Malformed::Field("sender"))? {
        S::Node(node) => Sender::Node(NodeId(node)),
        S::Log(l) => {
            Sender::Log { partition: partition_from(l.partition)?, log: uuid_from(&l.log)? }
        }
        S::Subscription(s) => Sender::Subscription {
            partition: partition_from(s.partition)?,
            subscription: uuid_from(&s.subscription)?,
            topic_partition: s.topic_partition,
        },
    })
}

/// A partition's name for the wire.
pub fn partition_to(partition: &PartitionId) -> pb::PartitionId {
    pb::PartitionId {
        class: class_to(partition.kind.class).into(),
        kind: owned(&partition.kind.name),
        index: partition.index,
    }
}

/// A partition's name from the wire.
///
/// # Errors
///
/// If it is absent or not understood.
pub fn partition_from(partition: Option<pb::PartitionId>) -> Result<PartitionId, Malformed> {
    let p = partition.ok_or(Malformed::Field("partition"))?;
    let class = class_from(p.class)?;
    Ok(PartitionId { kind: Kind { class, name: p.kind.into() }, index: p.index })
}

/// A class for the wire.
pub fn class_to(class: Class) -> pb::Class {
    match class {
        Class::Service => pb::Class::Service,
        Class::Actor => pb::Class::Actor,
        Class::System => pb::Class::System,
    }
}

/// A class from the wire.
///
/// # Errors
///
/// If it is not understood.
pub fn class_from(class: i32) -> Result<Class, Malformed> {
    match pb::Class::try_from(class) {
        Ok(pb::Class::Service) => Ok(Class::Service),
        Ok(pb::Class::Actor) => Ok(Class::Actor),
        Ok(pb::Class::System) => Ok(Class::System),
        Ok(pb::Class::Unspecified) | Err(_) => Err(Malformed::Field("class")),
    }
}

/// A payload for the wire.
pub fn payload_to(payload: &Payload) -> pb::Payload {
    pb::Payload { data: payload.data.clone(), content_type: owned(&payload.content_type) }
}

/// A payload from the wire.
pub fn payload_from(payload: pb::Payload) -> Payload {
    Payload { data: taken_out(payload.data), content_type: shared(payload.content_type) }
}

/// A UUID for the wire.
pub fn uuid_to(uuid: Uuid) -> Bytes {
    Bytes::copy_from_slice(&uuid.0.to_be_bytes())
}

/// A UUID from the wire.
///
/// # Errors
///
/// If it has not 16 bytes.
pub fn uuid_from(bytes: &[u8]) -> Result<Uuid, Malformed> {
    let bytes: [u8; UUID_BYTES] = bytes.try_into().map_err(|_| Malformed::Field("uuid"))?;
    Ok(Uuid(u128::from_be_bytes(bytes)))
}

/// Bytes of a UUID.
const UUID_BYTES: usize = 16;

fn state_op_to(op: &StateOp) -> pb::StateOp {
    use pb::state_op::Op as O;
    let op = match op {
        StateOp::Set { key, value } => {
            O::Set(pb::Set { key: owned(key), value: Some(payload_to(value)) })
        }
        StateOp::Remove { key } => O::Remove(owned(key)),
        StateOp::RemoveRange(range) => O::RemoveRange(key_range_to(range)),
        StateOp::Clear => O::Clear(true),
    };
    pb::StateOp { op: Some(op) }
}

fn state_op_from(op: pb::StateOp) -> Result<StateOp, Malformed> {
    use pb::state_op::Op as O;
    Ok(match op.op.ok_or(Malformed::Field("state"))? {
        O::Set(s) => {
            StateOp::Set { key: s.key.into(), value: payload_from(s.value.unwrap_or_default()) }
        }
        O::Remove(key) => StateOp::Remove { key: key.into() },
        O::RemoveRange(range) => StateOp::RemoveRange(key_range_from(range)),
        O::Clear(true) => StateOp::Clear,
        O::Clear(false) => return Err(Malformed::Field("clear")),
    })
}

/// No range ends before the empty text: it says that there is no end.
pub(super) fn key_range_to(range: &KeyRange) -> pb::KeyRange {
    pb::KeyRange { from: owned(&range.from), to: text_to(&range.to) }
}

pub(super) fn key_range_from(range: pb::KeyRange) -> KeyRange {
    KeyRange { from: range.from.into(), to: text_from(&range.to) }
}

/// `None` is the empty text: no actor has it as its id, and no step as its key.
pub(super) fn text_to(text: &Option<Arc<str>>) -> String {
    text.as_deref().unwrap_or_default().to_owned()
}

pub(super) fn text_from(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| text.into())
}
