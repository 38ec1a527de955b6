//! Which transitions of the machine were ever taken: the core's own count of what only it knows,
//! and a count of what is seen from outside. A new operation, message, notice or error gets a line
//! here: a run that sees one asks for it, and fails.

use std::collections::BTreeSet;
use std::fmt;

use kar_core::cover::TRANSITIONS;
use kar_core::effect::{Notice, RequestError, Response};
use kar_core::invocation::{Outcome, Refusal, Work};
use kar_core::message::{
    AwaitResult, Control, ControlResult, Controlled, DirectResult, Message, ReadResult,
};
use kar_core::record::{End, Op, Record, SubscriptionOp};
use kar_core::snapshot::SnapshotFault;

/// Makes a list of names and the function that finds a value's place in it.
macro_rules! names {
    ($list:ident, $place:ident, $type:ty, $($pattern:pat $(if $guard:expr)? => $name:literal,)*) => {
        const $list: &[&str] = &[$($name,)*];

        /// Place in the list; nothing for what is to be added to it.
        fn $place(value: &$type) -> Option<usize> {
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
    Message::ReadDone { result: ReadResult::State(_), .. } => "read: state",
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

type Answer = Result<Response, RequestError>;

names! { ANSWERS, answer_place, Answer,
    Ok(Response::Outcome { outcome: Outcome::Done(_), .. }) => "done",
    Ok(Response::Outcome { outcome: Outcome::Failed(_), .. }) => "failed",
    Ok(Response::Outcome { outcome: Outcome::Expired, .. }) => "expired",
    Ok(Response::Outcome { outcome: Outcome::Refused(Refusal::ActorQueueFull), .. }) => "refused: actor queue full",
    Ok(Response::Outcome { outcome: Outcome::Refused(Refusal::PartitionFull), .. }) => "refused: partition full",
    Ok(Response::Outcome { outcome: Outcome::Refused(Refusal::PartitionBytesFull), .. }) => "refused: bytes full",
    Ok(Response::Outcome { outcome: Outcome::Refused(Refusal::SharedToExclusive), .. }) => "refused: to exclusive",
    Ok(Response::Outcome { outcome: Outcome::Refused(Refusal::KeysBytesFull), .. }) => "refused: bytes under keys",
    Ok(Response::Outcome { outcome: Outcome::Deadlock(_), .. }) => "deadlock",
    Ok(Response::Outcome { outcome: Outcome::Refused(Refusal::ActorRemindersFull), .. }) => "refused: own reminders",
    Ok(Response::Outcome { outcome: Outcome::Refused(Refusal::RemindersFull), .. }) => "refused: reminders",
    Ok(Response::Outcome { outcome: Outcome::Refused(Refusal::RemindersBytesFull), .. }) => "refused: reminder bytes",
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
    Ok(Response::State(_)) => "state",
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
    Err(RequestError::Unknown(_)) => "unknown",
    Err(RequestError::ChannelClosed(_)) => "channel closed",
    Err(RequestError::KindRefused(_)) => "kind refused",
    Err(RequestError::NoHost(_)) => "no host",
    Err(RequestError::UnknownInvocation(_)) => "unknown invocation",
    Err(RequestError::Draining) => "draining",
    Err(RequestError::UnknownKind(_)) => "unknown kind",
    Err(RequestError::Unavailable(_)) => "unavailable",
}

/// What random runs never come to, and why.
pub const ELSEWHERE: &[(&str, &str)] = &[
    ("notice: broken invariant", ALARM),
    ("notice: kind refused", KINDS),
    ("answer: kind refused", KINDS),
    ("notice: dropped: a call retired", ALARM),
    ("notice: record too long", BYTES),
    ("notice: dropped: too long a record", BYTES),
    ("notice: snapshot unusable", "snapshots of other logs: core/tests/snapshots.rs"),
    ("notice: dropped: the log was trimmed", "once in 10,000 seeds: a zombie reads its log anew"),
    ("notice: reading waits", "topics that stay away for seconds: core/tests/subscriptions.rs"),
    ("notice: store ahead", "a store of another log: core/tests/store.rs"),
    ("store: ahead of the log", "a store of another log: core/tests/store.rs"),
    ("answer: turn ended", "a program that goes on after it returned: core/tests/takeover.rs"),
    ("answer: invalid", "a program that asks for what makes no sense"),
    ("answer: limit: state read", READS),
    ("answer: unavailable", READS),
    ("sent: inspect", VIEWS),
    ("arrived: inspect", VIEWS),
    ("sent: inspected", VIEWS),
    ("arrived: inspected", VIEWS),
    ("view: a node is asked again", VIEWS),
    ("answer: view", VIEWS),
    ("answer: unknown kind", "a typing mistake: core/tests/life.rs"),
    ("sent: read: too long", READS),
    ("arrived: read: too long", READS),
    ("channel: a request after a gap", GAP),
    ("route: opened again after a gap", GAP),
    ("sent: gap", GAP),
    ("arrived: gap", GAP),
    ("channel: a request after closed numbers", "a sender closes only what its receiver has known"),
    ("log: an append of an earlier reign is read back", READING),
    ("log: an own record of an earlier reign, while serving", READING),
    ("actor: calls of a flow that has ended queue up first", "T1: a flow ends after its calls"),
    ("actor: queued calls of a flow that holds it again pass the queue", "kept locks are restored"),
    ("reply: its caller has ended", "T1: what ends settles its calls"),
    (
        "answer: channel closed",
        "asked between being given up and joining anew: core/tests/incarnation.rs",
    ),
    ("tail: keeps a lock that it does not have", "a program that asks for what makes no sense"),
    ("tail: an outcome comes home to nobody", "its home ends only by it: not brought about yet"),
    ("notice: unreadable", "an alarm: trimmed, and no snapshot is left: core/tests/snapshots.rs"),
    (
        "inbox: the own one was trimmed while it was read",
        "nodes that share one, sixteen incarnations apart: core/tests/inbox.rs",
    ),
    (
        "publishing: a topic has taken nothing of what was sent",
        "a bus that refuses: core/tests/publish.rs",
    ),
    (
        "direct: no answer through an inbox",
        "a few in 20,000 seeds, by an answer that is lost: core/tests/inbox.rs",
    ),
    ("void: forget keys", "keys are forgotten when faults are over"),
    ("gone: an open call, the log is asked", DOUBT),
    ("gone: the log has settled it", DOUBT),
];

const ALARM: &str = "an alarm: every run that has one is a violation";
const BYTES: &str = "an alarm of bounds that do not go together: core/tests/bytes.rs";
const KINDS: &str = "no run has more kinds than the membership takes: core/tests/kinds.rs";
const READS: &str = "bounds and times of reads that no run comes near: core/tests/single_node.rs";
const VIEWS: &str = "listings, which change nothing: core/tests/inbox.rs";
const GAP: &str = "routes are FIFO: the hunt of channel-gap loses requests";
const READING: &str = "a new reading shows what was appended before it as everybody's";
const DOUBT: &str = "a few in 20,000 seeds: a reign that is over learns it by its log first";

/// Sections of the table, with the names in each.
const SECTIONS: &[(&str, &[&str])] = &[
    ("", TRANSITIONS),
    ("valid", RECORDS),
    ("void", RECORDS),
    ("valid", OPS),
    ("void", OPS),
    ("sent", MESSAGES),
    ("arrived", MESSAGES),
    ("notice", NOTICES),
    ("answer", ANSWERS),
];

/// Most things that are told to be missing from the table, and of how many characters each.
const UNKNOWN_MAX: usize = 20;
const UNKNOWN_CHARS_MAX: usize = 80;

/// The sections' numbers.
const RECORD: usize = 1;
const OP: usize = 3;
const SENT: usize = 5;
const ARRIVED: usize = 6;
const NOTICE: usize = 7;
const ANSWER: usize = 8;

/// How often what was taken.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// By section.
    counts: Vec<Vec<u64>>,
    /// What is not in the table, in words.
    unknown: BTreeSet<String>,
}

impl Coverage {
    /// The table: names and counts.
    pub fn table(&self) -> Vec<(String, u64)> {
        let mut table = Vec::new();
        for (section, (prefix, names)) in SECTIONS.iter().enumerate() {
            for (at, name) in names.iter().enumerate() {
                let colon = if prefix.is_empty() { "" } else { ": " };
                let count = self.counts.get(section).and_then(|c| c.get(at)).copied();
                table.push((format!("{prefix}{colon}{name}"), count.unwrap_or(0)));
            }
        }
        table
    }

    /// What was never taken, but for what cannot be.
    pub fn missing(&self) -> Vec<String> {
        let elsewhere = |name: &str| ELSEWHERE.iter().any(|(n, _)| *n == name);
        let never = self.table().into_iter().filter(|(name, n)| *n == 0 && !elsewhere(name));
        let unknown = self.unknown.iter().map(|what| format!("(add it to coverage.rs) {what}"));
        never.map(|(name, _)| name).chain(unknown).collect()
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (section, counts) in other.counts.iter().enumerate() {
            for (at, count) in counts.iter().enumerate() {
                *self.count(section, at) += count;
            }
        }
        let room = UNKNOWN_MAX.saturating_sub(self.unknown.len());
        self.unknown.extend(other.unknown.iter().take(room).cloned());
    }

    /// Adds what a node counted.
    pub(crate) fn add_node(&mut self, covered: impl Iterator<Item = u32>) {
        for (at, count) in covered.enumerate() {
            *self.count(0, at) += u64::from(count);
        }
    }

    pub(crate) fn record(&mut self, record: &Record, valid: bool) {
        let void = usize::from(!valid);
        self.take(RECORD + void, record_place(record), record);
        if let Record::Batch { ops, .. } = record {
            for op in ops {
                self.take(OP + void, op_place(op), op);
            }
        }
    }

    pub(crate) fn sent(&mut self, message: &Message) {
        self.take(SENT, message_place(message), message);
    }

    pub(crate) fn arrived(&mut self, message: &Message) {
        self.take(ARRIVED, message_place(message), message);
    }

    pub(crate) fn notice(&mut self, notice: &Notice) {
        self.take(NOTICE, notice_place(notice), notice);
    }

    pub(crate) fn answer(&mut self, answer: &Answer) {
        self.take(ANSWER, answer_place(answer), answer);
    }

    fn take(&mut self, section: usize, place: Option<usize>, what: &impl fmt::Debug) {
        match place {
            Some(at) => *self.count(section, at) += 1,
            None if self.unknown.len() < UNKNOWN_MAX => {
                let mut text = format!("{what:?}");
                text.truncate(text.floor_char_boundary(UNKNOWN_CHARS_MAX));
                self.unknown.insert(text);
            }
            None => {}
        }
    }

    fn count(&mut self, section: usize, at: usize) -> &mut u64 {
        if self.counts.is_empty() {
            self.counts = SECTIONS.iter().map(|(_, names)| vec![0; names.len()]).collect();
        }
        &mut self.counts[section][at]
    }
}
