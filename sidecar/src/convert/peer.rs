//! The core's messages to `kar.peer.v1` and back.

use std::sync::Arc;

use kar_core::ids::{Kind, NodeId, PartitionId, RequestId};
use kar_core::invocation::{Mode, Owed};
use kar_core::limits::LimitHit;
use kar_core::message::{AwaitResult, DirectResult, Message, ReadResult};
use kar_core::node::{DIRECT_CONCURRENCY, InvocationView, Phase};
use kar_core::select::{Entries, Select, Selected};
use kar_proto::log::v1 as log;
use kar_proto::peer::v1 as pb;
use pb::peer_frame::Frame;

use super::api::actor_state::own;
use super::log::{
    chain_outcome_from, chain_outcome_to, invocation_from, invocation_to, key_range_from,
    key_range_to, outcome_from, outcome_to, partition_from, partition_to, payload_from, payload_to,
    sender_from, sender_to, text_from, text_to, uuid_from, uuid_to,
};
use super::reminder::{remind_from, remind_to, reminder_from, reminder_to};
use super::{Malformed, owned, policy, probe, shared, subscription};

/// A message for the wire.
pub fn message_to(message: &Message) -> pb::PeerFrame {
    let frame = match message {
        Message::Open { sender, from_epoch, to, highest, open, answered, serial } => {
            Frame::Open(pb::Open {
                sender: Some(sender_to(sender)),
                from_epoch: *from_epoch,
                to: Some(partition_to(to)),
                highest: *highest,
                open: open.clone(),
                answered: answered.clone(),
                serial: *serial,
            })
        }
        Message::Opened { sender, to, epoch, next, resume_at } => Frame::Opened(pb::Opened {
            sender: Some(sender_to(sender)),
            to: Some(partition_to(to)),
            epoch: *epoch,
            next: *next,
            resume_at: resume_at.unwrap_or_default(),
        }),
        Message::Known { sender, from, epoch, next } => Frame::Known(pb::Known {
            sender: Some(sender_to(sender)),
            from: Some(partition_to(from)),
            epoch: *epoch,
            next: *next,
        }),
        Message::Request {
            sender,
            from_epoch,
            to,
            epoch,
            number,
            floor,
            closed_from,
            asks,
            promised,
            again,
            owed,
        } => Frame::Request(Box::new(pb::Request {
            sender: Some(sender_to(sender)),
            from_epoch: *from_epoch,
            to: Some(partition_to(to)),
            epoch: *epoch,
            number: *number,
            floor: *floor,
            owed: Some(match owed {
                Owed::Invocation(i) => pb::request::Owed::Invocation(invocation_to(i)),
                Owed::Outcome(done) => pb::request::Owed::Outcome(chain_outcome_to(done)),
                Owed::Remind(remind) => pb::request::Owed::Remind(remind_to(remind)),
                Owed::Subscription(command) => {
                    pb::request::Owed::Subscription(Box::new(subscription::command_to(command)))
                }
                Owed::Fence(over) => pb::request::Owed::Fence(subscription::over_to(over)),
            }),
            closed_from: closed_from.unwrap_or_default(),
            asks: *asks,
            promised: *promised,
            again: *again,
        })),
        Message::Reply { sender, from, number, outcome } => Frame::Reply(pb::Reply {
            sender: Some(sender_to(sender)),
            from: Some(partition_to(from)),
            number: *number,
            outcome: Some(outcome_to(outcome)),
        }),
        Message::Accepted { sender, from, numbers } => Frame::Accepted(pb::Accepted {
            sender: Some(sender_to(sender)),
            from: Some(partition_to(from)),
            numbers: numbers.clone(),
        }),
        Message::Gone { sender, from, number } => Frame::Gone(pb::Gone {
            sender: Some(sender_to(sender)),
            from: Some(partition_to(from)),
            number: *number,
        }),
        Message::Gap { sender, from, epoch, expected } => Frame::Gap(pb::Gap {
            sender: Some(sender_to(sender)),
            from: Some(partition_to(from)),
            epoch: *epoch,
            expected: *expected,
        }),
        Message::ChannelClosed { sender, from } => Frame::ChannelClosed(pb::ChannelClosed {
            sender: Some(sender_to(sender)),
            from: Some(partition_to(from)),
        }),
        Message::NotOwner { sender, partition, epoch, hint } => Frame::NotOwner(pb::NotOwner {
            sender: Some(sender_to(sender)),
            partition: Some(partition_to(partition)),
            epoch: *epoch,
            hint: hint_to(*hint),
        }),
        Message::Await { request, partition, uuid } => Frame::Await(pb::Await {
            request: request.0,
            partition: Some(partition_to(partition)),
            uuid: uuid_to(*uuid),
        }),
        Message::Awaited { request, result } => Frame::Awaited(awaited_to(*request, result)),
        Message::Read { request, partition, actor, select } => {
            Frame::Read(read_to(*request, partition, actor, select))
        }
        Message::ListReminders { request, partition, actor } => {
            Frame::ListReminders(pb::ListReminders {
                request: request.0,
                partition: Some(partition_to(partition)),
                actor: actor.to_string(),
            })
        }
        Message::ListSubscriptions { request, partition, name } => {
            Frame::ListSubscriptions(pb::ListSubscriptions {
                request: request.0,
                partition: Some(partition_to(partition)),
                name: text_to(name),
            })
        }
        Message::ReadDone { request, result } => Frame::ReadDone(read_done_to(*request, result)),
        Message::Control { request, partition, control } => {
            Frame::Control(policy::control_to(*request, partition, control))
        }
        Message::ControlDone { request, result } => {
            Frame::ControlDone(policy::control_done_to(*request, result))
        }
        Message::Withdraw { sender, to, calls } => {
            Frame::Withdraw(probe::withdraw_to(sender, to, calls))
        }
        Message::Probe(probe) => Frame::Probe(probe::probe_to(probe)),
        Message::Confirm(confirm) => Frame::Confirm(probe::confirm_to(confirm)),
        Message::Climb(climb) => Frame::Climb(probe::climb_to(climb)),
        Message::Inspect { request } => Frame::Inspect(pb::Inspect { request: request.0 }),
        Message::Inspected { request, view } => {
            Frame::Inspected(pb::Inspected { request: request.0, view: view.to_vec().into() })
        }
        Message::Direct { request, kind, method, payload, trace } => Frame::Direct(pb::Direct {
            request: request.0,
            service: owned(&kind.name),
            method: owned(method),
            payload: Some(payload_to(payload)),
            trace_parent: owned(trace),
        }),
        Message::DirectReply { request, result } => {
            Frame::DirectReply(direct_reply_to(*request, result))
        }
    };
    pb::PeerFrame { frame: Some(frame) }
}

/// A message from the wire.
///
/// # Errors
///
/// If it is empty, or a part of it is not understood.
pub fn message_from(frame: pb::PeerFrame) -> Result<Message, Malformed> {
    Ok(match frame.frame.ok_or(Malformed::Field("frame"))? {
        Frame::Open(m) => Message::Open {
            sender: sender_from(m.sender)?,
            from_epoch: m.from_epoch,
            to: partition_from(m.to)?,
            highest: m.highest,
            open: m.open,
            answered: m.answered,
            serial: m.serial,
        },
        Frame::Opened(m) => Message::Opened {
            sender: sender_from(m.sender)?,
            to: partition_from(m.to)?,
            epoch: m.epoch,
            next: m.next,
            // Numbers begin with 1.
            resume_at: (m.resume_at != 0).then_some(m.resume_at),
        },
        Frame::Known(m) => Message::Known {
            sender: sender_from(m.sender)?,
            from: partition_from(m.from)?,
            epoch: m.epoch,
            next: m.next,
        },
        Frame::Request(m) => Message::Request {
            sender: sender_from(m.sender)?,
            from_epoch: m.from_epoch,
            to: partition_from(m.to)?,
            epoch: m.epoch,
            number: m.number,
            floor: m.floor,
            asks: m.asks,
            promised: m.promised,
            again: m.again,
            owed: match m.owed.ok_or(Malformed::Field("owed"))? {
                pb::request::Owed::Invocation(i) => {
                    Owed::Invocation(Arc::new(invocation_from(Some(i))?))
                }
                pb::request::Owed::Outcome(done) => {
                    Owed::Outcome(Arc::new(chain_outcome_from(Some(done))?))
                }
                pb::request::Owed::Remind(remind) => {
                    Owed::Remind(Arc::new(remind_from(Some(remind))?))
                }
                pb::request::Owed::Subscription(command) => {
                    Owed::Subscription(subscription::command_from(*command)?)
                }
                pb::request::Owed::Fence(over) => Owed::Fence(subscription::over_from(over)?),
            },
            // Numbers begin with 1.
            closed_from: (m.closed_from != 0).then_some(m.closed_from),
        },
        Frame::Reply(m) => Message::Reply {
            sender: sender_from(m.sender)?,
            from: partition_from(m.from)?,
            number: m.number,
            outcome: outcome_from(m.outcome)?,
        },
        Frame::Accepted(m) => Message::Accepted {
            sender: sender_from(m.sender)?,
            from: partition_from(m.from)?,
            numbers: m.numbers,
        },
        Frame::Gone(m) => Message::Gone {
            sender: sender_from(m.sender)?,
            from: partition_from(m.from)?,
            number: m.number,
        },
        Frame::Gap(m) => Message::Gap {
            sender: sender_from(m.sender)?,
            from: partition_from(m.from)?,
            epoch: m.epoch,
            expected: m.expected,
        },
        Frame::ChannelClosed(m) => {
            Message::ChannelClosed { sender: sender_from(m.sender)?, from: partition_from(m.from)? }
        }
        Frame::NotOwner(m) => Message::NotOwner {
            sender: sender_from(m.sender)?,
            partition: partition_from(m.partition)?,
            epoch: m.epoch,
            hint: hint_from(m.hint),
        },
        Frame::Await(m) => Message::Await {
            request: RequestId(m.request),
            partition: partition_from(m.partition)?,
            uuid: uuid_from(&m.uuid)?,
        },
        Frame::Awaited(m) => awaited_from(m)?,
        Frame::Read(m) => read_from(m)?,
        Frame::ListReminders(m) => Message::ListReminders {
            request: RequestId(m.request),
            partition: partition_from(m.partition)?,
            actor: m.actor.into(),
        },
        Frame::ListSubscriptions(m) => Message::ListSubscriptions {
            request: RequestId(m.request),
            partition: partition_from(m.partition)?,
            name: text_from(&m.name),
        },
        Frame::ReadDone(m) => read_done_from(m)?,
        Frame::Control(m) => policy::control_from(m)?,
        Frame::ControlDone(m) => policy::control_done_from(m)?,
        Frame::Withdraw(m) => probe::withdraw_from(m)?,
        Frame::Probe(m) => Message::Probe(Box::new(probe::probe_from(m)?)),
        Frame::Confirm(m) => Message::Confirm(Box::new(probe::confirm_from(m)?)),
        Frame::Climb(m) => Message::Climb(Box::new(probe::climb_from(m)?)),
        Frame::Inspect(m) => Message::Inspect { request: RequestId(m.request) },
        Frame::Inspected(m) => {
            Message::Inspected { request: RequestId(m.request), view: m.view.as_ref().into() }
        }
        Frame::Direct(m) => Message::Direct {
            request: RequestId(m.request),
            kind: Kind::service(&m.service),
            method: m.method.into(),
            payload: payload_from(m.payload.unwrap_or_default()),
            trace: shared(m.trace_parent),
        },
        Frame::DirectReply(m) => direct_reply_from(m)?,
    })
}

/// Bytes that a message holds, roughly: for the bound of a send queue.
pub fn message_size(message: &Message) -> usize {
    let content = match message {
        Message::Request { owed, .. } => owed.size(),
        Message::Reply { outcome, .. } => outcome.size(),
        Message::Awaited { result: AwaitResult::Done(outcome), .. } => outcome.size(),
        Message::Direct { payload, .. } => payload.data.len(),
        Message::ReadDone { result: ReadResult::State(read), .. } => {
            let entries = read.entries().into_iter().flatten();
            entries.map(|(k, v)| k.len() + v.data.len() + 32).sum()
        }
        Message::ReadDone { result: ReadResult::Reminders(all), .. } => {
            all.iter().map(|reminder| reminder.size()).sum()
        }
        Message::Read { select: Select::Keys(keys), .. } => keys.iter().map(|k| k.len() + 16).sum(),
        Message::DirectReply { result: DirectResult::Ended(outcome), .. } => outcome.size(),
        // Each with its number and its id.
        Message::Withdraw { calls, .. } => calls.len() * 40,
        Message::Open { open, answered, .. } => (open.len() + answered.len()) * 8,
        Message::Accepted { numbers, .. } => numbers.len() * 8,
        _ => 0,
    };
    content + 64
}

/// An unfinished invocation for the wire.
pub fn invocation_view_to(view: &InvocationView) -> pb::InvocationView {
    let mode = match view.mode {
        Mode::Call => log::Mode::Call,
        Mode::Tell => log::Mode::Tell,
        Mode::Start => log::Mode::Start,
    };
    let phase = match view.phase {
        Phase::Queued => pb::Phase::Queued,
        Phase::Running => pb::Phase::Running,
        Phase::Suspended => pb::Phase::Suspended,
        Phase::Retrying => pb::Phase::Retrying,
        Phase::Moved => pb::Phase::Moved,
        Phase::Parked => pb::Phase::Parked,
    };
    pb::InvocationView {
        uuid: uuid_to(view.uuid),
        actor: view.actor.as_deref().unwrap_or_default().to_owned(),
        method: owned(&view.method),
        mode: mode.into(),
        phase: phase.into(),
        attempt: view.attempt,
        cancel: view.cancel,
        ended: view.ended.as_ref().map(policy::attempt_end_to),
        retry_at_ms: view.retry_at,
        behind: view.behind.map(uuid_to).unwrap_or_default(),
    }
}

fn awaited_to(request: RequestId, result: &AwaitResult) -> pb::Awaited {
    use pb::awaited::Result as R;
    let result = match result {
        AwaitResult::Done(outcome) => R::Outcome(outcome_to(outcome)),
        AwaitResult::Unknown => R::Unknown(true),
        AwaitResult::NotOwner(hint) => {
            R::OwnedElsewhere(pb::OwnedElsewhere { hint: hint_to(*hint) })
        }
    };
    pb::Awaited { request: request.0, result: Some(result) }
}

fn awaited_from(awaited: pb::Awaited) -> Result<Message, Malformed> {
    use pb::awaited::Result as R;
    let result = match awaited.result.ok_or(Malformed::Field("result"))? {
        R::Outcome(outcome) => AwaitResult::Done(outcome_from(Some(outcome))?),
        R::Unknown(true) => AwaitResult::Unknown,
        R::Unknown(false) => return Err(Malformed::Field("unknown")),
        R::OwnedElsewhere(o) => AwaitResult::NotOwner(hint_from(o.hint)),
    };
    Ok(Message::Awaited { request: RequestId(awaited.request), result })
}

fn read_to(request: RequestId, partition: &PartitionId, actor: &str, select: &Select) -> pb::Read {
    let mut read = pb::Read {
        request: request.0,
        partition: Some(partition_to(partition)),
        actor: actor.to_owned(),
        ..Default::default()
    };
    match select {
        Select::Keys(keys) => read.keys = keys.iter().map(|key| owned(key)).collect(),
        Select::Range(range) => {
            read.range = Some(key_range_to(range));
            read.all = true;
        }
        Select::Page { range, entries, bytes } => {
            read.range = Some(key_range_to(range));
            read.page = Some(pb::PageBounds { entries: *entries as u64, bytes: *bytes as u64 });
        }
        Select::Count(range) => {
            read.range = Some(key_range_to(range));
            read.count = true;
        }
    }
    read
}

fn read_from(read: pb::Read) -> Result<Message, Malformed> {
    // Who knows no ranges knows no sub-maps either.
    let every = read.all.then(own);
    let range = read.range.map(key_range_from).or(every);
    let select = match (range, read.page, read.count) {
        (None, None, false) => Select::Keys(read.keys.into_iter().map(Into::into).collect()),
        (Some(range), None, false) => Select::Range(range),
        (Some(range), Some(page), false) => Select::Page {
            range,
            entries: page.entries.try_into().unwrap_or(usize::MAX),
            bytes: page.bytes.try_into().unwrap_or(usize::MAX),
        },
        (Some(range), None, true) => Select::Count(range),
        (None, Some(_), _) | (_, _, true) => return Err(Malformed::Field("range")),
    };
    let partition = partition_from(read.partition)?;
    let (request, actor) = (RequestId(read.request), read.actor.into());
    Ok(Message::Read { request, partition, actor, select })
}

fn state_to(entries: &Entries) -> pb::ActorState {
    let entries = entries.iter().map(|(k, v)| (owned(k), payload_to(v)));
    pb::ActorState { entries: entries.collect() }
}

fn state_from(state: pb::ActorState) -> Entries {
    state.entries.into_iter().map(|(k, v)| (k.into(), payload_from(v))).collect()
}

fn read_done_to(request: RequestId, result: &ReadResult) -> pb::ReadDone {
    use pb::read_done::Result as R;
    let result = match result {
        ReadResult::State(Selected::Entries(entries)) => R::State(state_to(entries)),
        ReadResult::State(Selected::Page { entries, more }) => {
            R::Page(pb::ActorStatePage { state: Some(state_to(entries)), more: *more })
        }
        ReadResult::State(Selected::Count(count)) => R::Count(*count),
        ReadResult::Reminders(all) => {
            let reminders = all.iter().map(|reminder| reminder_to(reminder)).collect();
            R::Reminders(pb::ReminderList { reminders })
        }
        ReadResult::Subscriptions(all) => {
            let subscriptions = all.iter().map(subscription::view_to).collect();
            R::Subscriptions(pb::SubscriptionList { subscriptions })
        }
        ReadResult::TooLong(limit) => R::TooLong(*limit),
        ReadResult::NotOwner(hint) => {
            R::OwnedElsewhere(pb::OwnedElsewhere { hint: hint_to(*hint) })
        }
    };
    pb::ReadDone { request: request.0, result: Some(result) }
}

fn read_done_from(done: pb::ReadDone) -> Result<Message, Malformed> {
    use pb::read_done::Result as R;
    let result = match done.result.ok_or(Malformed::Field("result"))? {
        R::State(state) => ReadResult::State(Selected::Entries(state_from(state))),
        R::Page(page) => {
            let entries = state_from(page.state.unwrap_or_default());
            ReadResult::State(Selected::Page { entries, more: page.more })
        }
        R::Count(count) => ReadResult::State(Selected::Count(count)),
        R::Reminders(list) => {
            let all = list.reminders.into_iter().map(|r| reminder_from(r).map(Arc::new));
            ReadResult::Reminders(all.collect::<Result<_, _>>()?)
        }
        R::Subscriptions(list) => {
            let all = list.subscriptions.into_iter().map(subscription::view_from);
            ReadResult::Subscriptions(all.collect::<Result<_, _>>()?)
        }
        R::TooLong(limit) => ReadResult::TooLong(limit),
        R::OwnedElsewhere(o) => ReadResult::NotOwner(hint_from(o.hint)),
    };
    Ok(Message::ReadDone { request: RequestId(done.request), result })
}

fn direct_reply_to(request: RequestId, result: &DirectResult) -> pb::DirectReply {
    let mut reply = pb::DirectReply { request: request.0, ..pb::DirectReply::default() };
    let refusal = match result {
        DirectResult::Ended(outcome) => {
            reply.outcome = Some(outcome_to(outcome));
            return reply;
        }
        DirectResult::Lost => return reply,
        DirectResult::NoHost => pb::DirectRefusal::NoHost,
        DirectResult::Limit(hit) => {
            reply.limit = hit.limit;
            if hit.name == DIRECT_CONCURRENCY {
                pb::DirectRefusal::Concurrency
            } else {
                pb::DirectRefusal::Bytes
            }
        }
    };
    reply.set_refusal(refusal);
    reply
}

fn direct_reply_from(reply: pb::DirectReply) -> Result<Message, Malformed> {
    let limit = |name| DirectResult::Limit(LimitHit { name, limit: reply.limit });
    let result = match (pb::DirectRefusal::try_from(reply.refusal), reply.outcome) {
        (Ok(pb::DirectRefusal::Unspecified), Some(outcome)) => {
            DirectResult::Ended(outcome_from(Some(outcome))?)
        }
        (Ok(pb::DirectRefusal::Unspecified), None) => DirectResult::Lost,
        (Ok(pb::DirectRefusal::NoHost), None) => DirectResult::NoHost,
        (Ok(pb::DirectRefusal::Concurrency), None) => limit(DIRECT_CONCURRENCY),
        (Ok(pb::DirectRefusal::Bytes), None) => limit("direct_bytes_max"),
        (Ok(_), Some(_)) | (Err(_), _) => return Err(Malformed::Field("refusal")),
    };
    Ok(Message::DirectReply { request: RequestId(reply.request), result })
}

/// 0 is no incarnation: the first one is 1.
pub(super) fn hint_to(hint: Option<NodeId>) -> u64 {
    hint.map_or(0, |node| node.0)
}

pub(super) fn hint_from(hint: u64) -> Option<NodeId> {
    (hint != 0).then_some(NodeId(hint))
}
