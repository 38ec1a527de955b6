//! Names of what is counted. A new operation, message, notice or error gets a line here: a run that sees one asks for
//! it, and fails; a test asks for those that no run sees.

use kar_core::effect::{Notice, RequestError, Response};
use kar_core::invocation::{Outcome, Refusal, Work};
use kar_core::message::{
    AwaitResult, Control, ControlResult, Controlled, DirectResult, Message, ReadResult,
};
use kar_core::record::{End, Op, Record, SubscriptionOp};
use kar_core::select::Selected;
use kar_core::snapshot::SnapshotFault;

/// Makes a list of names and the function that finds a value's place in it.
macro_rules! names {
    ($list:ident, $place:ident, $type:ty, $($pattern:pat $(if $guard:expr)? => $name:literal,)*) => {
        pub(super) const $list: &[&str] = &[$($name,)*];

        /// Place in the list; nothing for what is to be added to it.
        pub(super) fn $place(value: &$type) -> Option<usize> {
            let mut place = 0;
            $(
                if matches!(value, $pattern $(if $guard)?) {
                    return Some(place);
                }
                place += 1;
            )*
            debug_assert_eq!(place, $list.len());
            None
        }
    };
}

/// The same for a type that the compiler knows whole: a new variant has to get its line.
macro_rules! all_names {
    ($list:ident, $place:ident, $type:ty, $($pattern:pat => $name:literal,)*) => {
        pub(super) const $list: &[&str] = &[$($name,)*];

        /// Place in the list.
        pub(super) fn $place(value: &$type) -> Option<usize> {
            let name = match value {
                $($pattern => $name,)*
            };
            $list.iter().position(|listed| *listed == name)
        }
    };
}

names! { RECORDS, record_place, Record,
    Record::Claim { .. } => "claim",
    Record::Release { .. } => "release",
    Record::Batch { .. } => "batch",
}

names! { OPS, op_place, Op,
    Op::Accept { invocation, .. } if invocation.work == Work::Remove => "accept a removal",
    Op::Accept { .. } => "accept",
    Op::Progress { steps, .. } if !steps.is_empty() => "progress with recorded steps",
    Op::Progress { .. } => "progress",
    Op::Complete { end: End::Outcome(Outcome::Withdrawn), accept: None, .. } => "withdrawn",
    Op::Complete { end: End::Outcome(Outcome::Withdrawn), .. } => "withdrawn with accept",
    Op::Complete { accept: None, end: End::Outcome(_), .. } => "complete",
    Op::Complete { accept: Some(_), end: End::Outcome(_), .. } => "complete with accept",
    Op::Complete { end: End::Next { keeps_lock: true, .. }, .. } => "next step, lock kept",
    Op::Complete { end: End::Next { .. }, .. } => "next step",
    Op::Complete { end: End::Passed, .. } => "passed on",
    Op::Outcome { .. } => "outcome come home",
    Op::StepDone { .. } => "keyed call done",
    Op::Cancel { .. } => "cancel",
    Op::Park { .. } => "park",
    Op::Resume { .. } => "resume",
    Op::Discard { .. } => "discard",
    Op::Redrive { .. } => "redrive",
    Op::Attempt { ended: None, .. } => "attempt",
    Op::Attempt { ended: Some(_), .. } => "attempt, the last one ended",
    Op::Settle { .. } => "settle",
    Op::Closed { .. } => "closed",
    Op::Inbox { .. } => "inbox taken",
    Op::CloseChannel { floor, .. } if floor.0 == 0 => "close channel",
    Op::CloseChannel { .. } => "close channels below a floor",
    Op::Again { .. } => "again",
    Op::ForgetKeys { .. } => "forget keys",
    Op::Forget { .. } => "forget",
    Op::Snapshot { .. } => "snapshot",
    Op::Deactivate { .. } => "deactivate",
    Op::Subscription { change: SubscriptionOp::Nothing, .. } => "a command that changes nothing",
    Op::Subscription { change: SubscriptionOp::Create(_), .. } => "subscribe",
    Op::Subscription { change: SubscriptionOp::End { .. }, .. } => "unsubscribe",
    Op::Subscription { change: SubscriptionOp::Pause { paused: true, .. }, .. } => "pause",
    Op::Subscription { change: SubscriptionOp::Pause { .. }, .. } => "go on",
    Op::Delivered { publishes, .. } if publishes.is_empty() => "delivered",
    Op::Delivered { .. } => "delivered, and dead letters",
    Op::Fence { .. } => "fence",
    Op::Published { .. } => "published",
    Op::TopicGone { .. } => "topic gone",
    Op::Fire { uuid: Some(_), next: Some(_), .. } => "fire, and again later",
    Op::Fire { uuid: Some(_), next: None, .. } => "fire for the last time",
    Op::Fire { uuid: None, next: Some(_), .. } => "skip due times",
    Op::Fire { uuid: None, next: None, .. } => "skip the last due time",
}

names! { MESSAGES, message_place, Message,
    Message::Open { .. } => "open",
    Message::Opened { .. } => "opened",
    Message::Known { .. } => "known",
    Message::Request { .. } => "request",
    Message::Reply { .. } => "reply",
    Message::Accepted { .. } => "accepted",
    Message::Gone { .. } => "gone",
    Message::Gap { .. } => "gap",
    Message::ChannelClosed { .. } => "channel closed",
    Message::NotOwner { epoch: 0, .. } => "not owner, nothing known",
    Message::NotOwner { hint: None, .. } => "not owner, no hint",
    Message::NotOwner { .. } => "not owner",
    Message::Await { .. } => "await",
    Message::Awaited { result: AwaitResult::Done(_), .. } => "awaited: done",
    Message::Awaited { result: AwaitResult::Unknown, .. } => "awaited: unknown",
    Message::Awaited { result: AwaitResult::NotOwner(_), .. } => "awaited: not owner",
    Message::Read { .. } => "read",
    Message::ReadDone { result: ReadResult::State(Selected::Entries(_)), .. } => "read: state",
    Message::ReadDone { result: ReadResult::State(Selected::Page { .. }), .. } => "read: page",
    Message::ReadDone { result: ReadResult::State(Selected::Count(_)), .. } => "read: count",
    Message::ReadDone { result: ReadResult::TooLong(_), .. } => "read: too long",
    Message::ReadDone { result: ReadResult::NotOwner(_), .. } => "read: not owner",
    Message::ListReminders { .. } => "list reminders",
    Message::ReadDone { result: ReadResult::Reminders(_), .. } => "read: reminders",
    Message::ListSubscriptions { .. } => "list subscriptions",
    Message::ReadDone { result: ReadResult::Subscriptions(_), .. } => "read: subscriptions",
    Message::Control { control: Control::Cancel(_), .. } => "control: cancel",
    Message::Control { control: Control::Resume(_), .. } => "control: resume",
    Message::Control { control: Control::Redrive(_), .. } => "control: redrive",
    Message::Control { control: Control::Discard(_), .. } => "control: discard",
    Message::Control { control: Control::Inspect(_), .. } => "control: inspect",
    Message::ControlDone { result: ControlResult::Done(_), .. } => "control: done",
    Message::ControlDone { result: ControlResult::Unknown, .. } => "control: unknown",
    Message::ControlDone { result: ControlResult::NotOwner(_), .. } => "control: not owner",
    Message::Withdraw { .. } => "withdraw",
    Message::Probe { .. } => "probe",
    Message::Confirm { .. } => "confirm",
    Message::Climb { .. } => "climb",
    Message::Inspect { .. } => "inspect",
    Message::Inspected { .. } => "inspected",
    Message::Direct { .. } => "direct",
    Message::DirectReply { result: DirectResult::Ended(_), .. } => "direct: ended",
    Message::DirectReply { result: DirectResult::Lost, .. } => "direct: lost",
    Message::DirectReply { result: DirectResult::NoHost, .. } => "direct: no host",
    Message::DirectReply { result: DirectResult::Limit(_), .. } => "direct: limit",
}

names! { NOTICES, notice_place, Notice,
    Notice::Owned { unfinished: 0, .. } => "owned, nothing unfinished",
    Notice::Owned { .. } => "owned, with unfinished ones",
    Notice::Released { .. } => "released",
    Notice::Dropped { reason, .. } if *reason == "a record was lost" => "dropped: a record was lost",
    Notice::Dropped { reason, .. } if *reason == "another node claimed the partition" => "dropped: another claim",
    Notice::Dropped { reason, .. } if reason.starts_with("the log broke off") => "dropped: the log broke off",
    Notice::Dropped { reason, .. } if reason.starts_with("an append was not") => "dropped: an append timed out",
    Notice::Dropped { reason, .. } if reason.starts_with("the host did not") => "dropped: the host did not stop",
    Notice::Dropped { reason, .. } if reason.starts_with("the store was rolled") => "dropped: the store went back",
    Notice::Dropped { reason, .. } if reason.starts_with("the store knows") => "dropped: the store knows more",
    Notice::Dropped { reason, .. } if reason.starts_with("an open call's") => "dropped: a call retired",
    Notice::Dropped { reason, .. } if reason.starts_with("a record was longer") => "dropped: too long a record",
    Notice::Deadlock { .. } => "deadlock",
    Notice::Dropped { reason, .. } if reason.starts_with("another reign has") => "dropped: the log was trimmed",
    Notice::SnapshotTaken { .. } => "snapshot taken",
    Notice::SnapshotUsed { .. } => "snapshot used",
    Notice::SnapshotFailed { key: None, .. } => "snapshots not listed",
    Notice::SnapshotFailed { fault: SnapshotFault::Damaged(_), .. } => "snapshot damaged",
    Notice::SnapshotFailed { .. } => "snapshot failed",
    Notice::SnapshotUnusable { .. } => "snapshot unusable",
    Notice::Unreadable { .. } => "unreadable",
    Notice::Parked { .. } => "parked",
    Notice::DeadLettersDropped { .. } => "dead letters dropped",
    Notice::ChannelClosed { .. } => "channel closed",
    Notice::KindRefused(_) => "kind refused",
    Notice::Retried { .. } => "retried",
    Notice::DeadLetter { outcome: Outcome::Failed(_), .. } => "dead letter: failed",
    Notice::DeadLetter { outcome: Outcome::Expired, .. } => "dead letter: expired",
    Notice::RemindersMissed { next: Some(_), .. } => "reminders missed",
    Notice::RemindersMissed { next: None, .. } => "reminders missed, the last ones",
    Notice::RemindersWait { actor: Some(_), .. } => "reminders wait for an actor",
    Notice::RemindersWait { actor: None, .. } => "reminders wait for the partition",
    Notice::EventsSkipped { .. } => "events skipped",
    Notice::Undeliverable { dead_letter: true, .. } => "undeliverable, to dead letters",
    Notice::Undeliverable { dead_letter: false, .. } => "undeliverable",
    Notice::TopicGone { .. } => "topic gone",
    Notice::SubscriptionRemoved { .. } => "subscription removed",
    Notice::EventUnreadable { .. } => "event unreadable",
    Notice::ReadingWaits { .. } => "reading waits",
    Notice::PublishWaits { .. } => "events wait",
    Notice::EventsLost { .. } => "events lost",
    Notice::Passivated { .. } => "passivated",
    Notice::DeactivationFailed { .. } => "deactivation failed",
    Notice::Removed { .. } => "removed",
    Notice::Limit(_) => "limit",
    Notice::RecordTooLong { .. } => "record too long",
    Notice::StoreRolledBack { .. } => "store rolled back",
    Notice::StoreAhead { .. } => "store ahead",
    Notice::BrokenInvariant { .. } => "broken invariant",
}

pub(super) type Answer = Result<Response, RequestError>;

names! { ANSWERS, answer_place, Answer,
    Ok(Response::Outcome { outcome: Outcome::Done(_), .. }) => "done",
    Ok(Response::Outcome { outcome: Outcome::Failed(_), .. }) => "failed",
    Ok(Response::Outcome { outcome: Outcome::Expired, .. }) => "expired",
    Ok(Response::Outcome { outcome: Outcome::Refused(_), .. }) => "refused",
    Ok(Response::Outcome { outcome: Outcome::Deadlock(_), .. }) => "deadlock",
    Ok(Response::Outcome { outcome: Outcome::Cancelled, .. }) => "cancelled",
    Ok(Response::Outcome { outcome: Outcome::Withdrawn, .. }) => "withdrawn",
    Ok(Response::Step(_)) => "step",
    Ok(Response::Controlled(Controlled::Cancelled)) => "controlled: cancelled",
    Ok(Response::Controlled(Controlled::CancelRequested)) => "controlled: cancel requested",
    Ok(Response::Controlled(Controlled::CancelMoved)) => "controlled: cancel moved",
    Ok(Response::Controlled(Controlled::Ended)) => "controlled: ended",
    Ok(Response::Controlled(Controlled::Resumed)) => "controlled: resumed",
    Ok(Response::Controlled(Controlled::NotParked)) => "controlled: not parked",
    Ok(Response::Controlled(Controlled::Redriven(_))) => "controlled: redriven",
    Ok(Response::Controlled(Controlled::Discarded)) => "controlled: discarded",
    Ok(Response::Controlled(Controlled::Found(_))) => "controlled: found",
    Err(RequestError::StepKeyReused(_)) => "step key reused",
    Err(RequestError::SharedTurn) => "shared turn",
    Err(RequestError::TopicGone(_)) => "topic gone",
    Err(RequestError::Limit(hit)) if hit.name == "topic_channels_per_partition_max" => "limit: channels into topics",
    Ok(Response::Accepted { .. }) => "accepted",
    Ok(Response::Scheduled { .. }) => "scheduled",
    Ok(Response::Cancelled { .. }) => "reminders cancelled",
    Ok(Response::Reminders(_)) => "reminders",
    Ok(Response::Subscribed { created: true, .. }) => "subscribed",
    Ok(Response::Subscribed { created: false, .. }) => "subscribed before",
    Ok(Response::SubscriptionChanged { changed: true }) => "subscription changed",
    Ok(Response::SubscriptionChanged { changed: false }) => "subscription as it was",
    Ok(Response::Subscriptions(_)) => "subscriptions",
    Err(RequestError::SubscriptionDiffers(_)) => "subscription differs",
    Err(RequestError::UnknownSubscription(_)) => "unknown subscription",
    Ok(Response::View(_)) => "view",
    Ok(Response::State(Selected::Entries(_))) => "state",
    Ok(Response::State(Selected::Page { more: true, .. })) => "state: page, more follow",
    Ok(Response::State(Selected::Page { .. })) => "state: last page",
    Ok(Response::State(Selected::Count(_))) => "state: count",
    Err(RequestError::ConditionFailed(_)) => "condition failed",
    Ok(Response::Ok) => "ok",
    Err(RequestError::TurnSuperseded(_)) => "turn superseded",
    Err(RequestError::TurnEnded(_)) => "turn ended",
    Err(RequestError::Limit(hit)) if hit.name == "depth_max" => "limit: depth",
    Err(RequestError::Limit(hit)) if hit.name == "calls_per_turn_max" => "limit: calls per turn",
    Err(RequestError::Limit(hit)) if hit.name == "segment_sends_max" => "limit: segment sends",
    Err(RequestError::Limit(hit)) if hit.name == "segment_bytes_max" => "limit: segment bytes",
    Err(RequestError::Limit(hit)) if hit.name == "outbox_per_partition_max" => "limit: outbox",
    Err(RequestError::Limit(hit)) if hit.name == "step_bytes_per_invocation_max" => "limit: bytes of steps",
    Err(RequestError::Limit(hit)) if hit.name == "steps_per_invocation_max" => "limit: steps",
    Err(RequestError::Limit(hit)) if hit.name == "state_bytes_per_actor_max" => "limit: state of an actor",
    Err(RequestError::Limit(hit)) if hit.name == "unstored_bytes_per_partition_max" => "limit: what the store lacks",
    Err(RequestError::Limit(hit)) if hit.name == "outbox_bytes_per_partition_max" => "limit: outbox bytes",
    Err(RequestError::Limit(hit)) if hit.name == "roots_per_node_max" => "limit: roots",
    Err(RequestError::Limit(hit)) if hit.name == "concurrency" => "limit: concurrency of direct calls",
    Err(RequestError::Limit(hit)) if hit.name == "direct_bytes_max" => "limit: bytes of direct calls",
    Err(RequestError::Limit(hit)) if hit.name == "state_read_bytes_max" => "limit: state read",
    Err(RequestError::Limit(hit)) if hit.name == "reminders_per_actor_max" => "limit: reminders of an actor",
    Err(RequestError::Limit(hit)) if hit.name == "reminders_per_partition_max" => "limit: reminders",
    Err(RequestError::Limit(hit)) if hit.name == "reminders_bytes_per_partition_max" => "limit: bytes of reminders",
    Err(RequestError::Invalid(_)) => "invalid",
    Err(RequestError::Schedule(_)) => "schedule",
    Err(RequestError::Subscription(_)) => "no subscription",
    Err(RequestError::Unknown(_)) => "unknown",
    Err(RequestError::ChannelClosed(_)) => "channel closed",
    Err(RequestError::KindRefused(_)) => "kind refused",
    Err(RequestError::NoHost(_)) => "no host",
    Err(RequestError::UnknownInvocation(_)) => "unknown invocation",
    Err(RequestError::Draining) => "draining",
    Err(RequestError::UnknownKind(_)) => "unknown kind",
    Err(RequestError::Unavailable(_)) => "unavailable",
}

all_names! { REFUSALS, refusal_place, Refusal,
    Refusal::ActorQueueFull => "actor queue full",
    Refusal::PartitionFull => "partition full",
    Refusal::PartitionBytesFull => "bytes full",
    Refusal::TooDeep => "too deep",
    Refusal::KeyReused => "key reused",
    Refusal::KeysFull => "keys",
    Refusal::KeysBytesFull => "bytes under keys",
    Refusal::SharedToExclusive => "to exclusive",
    Refusal::ActorRemindersFull => "own reminders",
    Refusal::RemindersFull => "reminders",
    Refusal::RemindersBytesFull => "reminder bytes",
    Refusal::SubscriptionDiffers => "subscription differs",
    Refusal::SubscriptionUnknown => "subscription unknown",
    Refusal::SubscriptionsFull => "subscriptions",
    Refusal::SubscriptionsBytesFull => "bytes of subscriptions",
    Refusal::ChannelClosed => "channel closed",
}

#[cfg(test)]
mod tests {
    /// Variants of an enum of the core, as its source lists them.
    fn variants(source: &str, name: &str) -> Vec<String> {
        let begin = source.find(&format!("pub enum {name} {{")).expect("it is in that file");
        let body = source[begin..].lines().skip(1).take_while(|line| *line != "}");
        let variants = body.filter_map(|line| line.strip_prefix("    "));
        let named = variants.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
        let word = |line: &str| line.chars().take_while(char::is_ascii_alphanumeric).collect();
        named.map(word).collect()
    }

    /// A variant that never occurs asks for no line by itself.
    #[test]
    fn every_variant_has_a_line() {
        let own = include_str!("names.rs");
        let (effect, message) = (
            include_str!("../../../core/src/effect.rs"),
            include_str!("../../../core/src/message.rs"),
        );
        let record = include_str!("../../../core/src/record.rs");
        let enums = [
            (effect, "RequestError"),
            (effect, "Response"),
            (effect, "Notice"),
            (message, "Message"),
            (message, "Controlled"),
            (record, "Op"),
            (record, "Record"),
        ];
        for (source, name) in enums {
            let variants = variants(source, name);
            assert!(variants.len() > 2, "{name}: {variants:?}");
            for variant in variants {
                let wanted = format!("{name}::{variant}");
                assert!(own.contains(&wanted), "{wanted} has no line in coverage/names.rs");
            }
        }
    }

    /// Bounds of what nodes ask each other: operators are told of them, and nobody is answered so.
    const ONLY_TOLD: [&str; 2] = ["deadlock_path_max", "deadlock_visits_max"];

    /// A bound that is told by its name is one answer of many.
    #[test]
    fn every_bound_that_is_told_has_a_line() {
        let core = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/src");
        let (mut folders, mut found) = (vec![core], 0);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("the core's source is here") {
                let path = entry.expect("it can be listed").path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let source = std::fs::read_to_string(&path).expect("it is text");
                for told in source.split("env.limit(\"").skip(1) {
                    let name = told.split('"').next().unwrap_or_default();
                    let line = format!("hit.name == \"{name}\"");
                    let is_listed =
                        include_str!("names.rs").contains(&line) || ONLY_TOLD.contains(&name);
                    assert!(is_listed, "{}: {name} has no line", path.display());
                    found += 1;
                }
            }
        }
        assert!(found > 10, "bounds are told by another name now: {found}");
    }
}
