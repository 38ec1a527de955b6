//! Wire types and core types say the same: every variant survives a round trip, and records that an earlier version
//! wrote are still understood.
//!
//! Longer than most: every record and message of the contract stands here once.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kar::convert::Malformed;
use kar::convert::inbox::{decode_entry, encode_entry};
use kar::convert::log::{decode_record, encode_record};
use kar::convert::peer::{message_from, message_to};
use kar_core::events::{DEAD_LETTER_BYTES_MAX, EventOrigin, Filter, Publication};
use kar_core::ids::{Kind, NodeId, PartitionId, RequestId, Sender, TopicPartition, Uuid};
use kar_core::inbox::{InboxBody, InboxEntry, Mark};
use kar_core::invocation::{
    ApplicationError, ChainOutcome, Fence, Invocation, Mode, Obligation, Outcome, Owed, Payload,
    Refusal, RetryPolicy, StateOp, Work,
};
use kar_core::limits::{LimitHit, Limits};
use kar_core::message::{
    AwaitResult, Control, ControlResult, Controlled, DirectResult, Found, Message, ReadResult,
};
use kar_core::node::{DIRECT_CONCURRENCY, DeadLetterView, InvocationView, Phase};
use kar_core::probe::{Climb, Confirm, Place, Probe};
use kar_core::record::{
    AcceptInBrief, End, Op, Publish, Record, RecordedStep, ReminderOp, Segment, Send,
    SubscriptionOp,
};
use kar_core::reminder::{CatchUp, Remind, Reminder, ReminderChange};
use kar_core::schedule::Schedule;
use kar_core::select::{KeyRange, Select, Selected};
use kar_core::snapshot::{NamedSnapshot, SnapshotKey, SnapshotProof};
use kar_core::subscription::{
    Instance, Subscription, SubscriptionAsk, SubscriptionChange, SubscriptionCommand,
    SubscriptionFence, SubscriptionProgress, SubscriptionSpec, SubscriptionStart,
    SubscriptionTarget, SubscriptionView, TopicRef,
};
use kar_core::trouble::{Cause, Ended};
use kar_hub::RECORD_BYTES_MAX;
use kar_proto::peer::v1::PeerFrame;
use kar_proto::peer::v1::peer_frame::Frame;
use prost::Message as _;

/// Records written by the first version, one per line: `NAME HEX`.
const GOLDEN: &str = include_str!("golden/records_v1.txt");

fn actor_partition() -> PartitionId {
    PartitionId::new(Kind::actor("Account"), 3)
}

fn service_partition() -> PartitionId {
    PartitionId::new(Kind::service("greeter"), 0)
}

fn payload(text: &'static str) -> Payload {
    Payload { data: text.into(), content_type: "text/plain".into() }
}

fn uuid(n: u128) -> Uuid {
    Uuid((n << 80) | 0x7_8000_0000_0000_0001)
}

fn log_sender() -> Sender {
    Sender::Log { partition: actor_partition(), log: uuid(9) }
}

/// Every field set, or every optional field empty.
fn invocation(mode: Mode, is_full: bool) -> Invocation {
    Invocation {
        uuid: uuid(1),
        work: Work::Method,
        mode,
        actor: is_full.then(|| "alice".into()),
        method: "deposit".into(),
        payload: if is_full { payload("10") } else { Payload::default() },
        chain: if is_full { [uuid(2), uuid(3)].into() } else { [].into() },
        deadline: is_full.then_some(1_700_000_000_000),
        trace: if is_full { "00-1-2-03".into() } else { Arc::default() },
        step: 1,
        home: None,
        retry: None,
        key: None,
        event: None,
    }
}

fn application_error() -> ApplicationError {
    ApplicationError {
        code: "Overdrawn".into(),
        message: "not enough".into(),
        detail: "at line 3".into(),
        payload: payload("{}"),
        retryable: false,
    }
}

fn outcomes() -> Vec<Outcome> {
    let refusals =
        [Refusal::ActorQueueFull, Refusal::PartitionFull, Refusal::TooDeep, Refusal::ChannelClosed];
    let mut outcomes = vec![
        Outcome::Done(payload("ok")),
        Outcome::Done(Payload::default()),
        Outcome::Failed(application_error()),
        Outcome::Failed(ApplicationError::default()),
        Outcome::Expired,
    ];
    outcomes.extend(refusals.map(Outcome::Refused));
    outcomes
}

fn state_ops() -> Vec<StateOp> {
    vec![
        StateOp::Set { key: "balance".into(), value: payload("7") },
        StateOp::Remove { key: "owner".into() },
        StateOp::Clear,
    ]
}

fn owed(invocation: Invocation) -> Owed {
    Owed::Invocation(Arc::new(invocation))
}

/// A step of a chain of tail calls whose home is elsewhere.
fn step() -> Invocation {
    Invocation { step: 3, home: Some(service_partition()), ..invocation(Mode::Start, true) }
}

fn chain_outcome() -> Arc<ChainOutcome> {
    Arc::new(ChainOutcome { uuid: uuid(1), outcome: Outcome::Done(payload("end")) })
}

fn sends() -> Vec<Send> {
    let send = |number, to, mode, parent| Send {
        number,
        obligation: Obligation { to, owed: owed(invocation(mode, true)), parent, step_key: None },
    };
    vec![
        send(1, service_partition(), Mode::Tell, None),
        send(2, actor_partition(), Mode::Call, Some(uuid(4))),
    ]
}

fn brief() -> AcceptInBrief {
    AcceptInBrief { sender: Sender::Node(NodeId(5)), number: 8, actor: Some("alice".into()) }
}

fn complete(outcome: Outcome, accept: Option<AcceptInBrief>) -> Op {
    let segment =
        Segment { state: state_ops(), sends: sends(), reminders: vec![], publishes: vec![] };
    let (end, time) = (End::Outcome(outcome), 1_700_000_000_001);
    Op::Complete { uuid: uuid(1), attempt: 2, accept, end, segment, time }
}

fn ops() -> Vec<Op> {
    let accept = |sender, mode, is_full| Op::Accept {
        sender,
        number: 7,
        invocation: Arc::new(invocation(mode, is_full)),
    };
    let (a, b) = (actor_partition(), service_partition());
    let mut ops = vec![
        accept(Sender::Node(NodeId(5)), Mode::Call, true),
        accept(log_sender(), Mode::Tell, false),
        accept(log_sender(), Mode::Start, true),
        Op::Progress {
            uuid: uuid(1),
            attempt: 1,
            segment: Segment {
                state: state_ops(),
                sends: sends(),
                reminders: vec![],
                publishes: vec![],
            },
            settled: vec![(a.clone(), 1), (a.clone(), 4), (b, 2), (a.clone(), 3)],
            steps: vec![],
            shared: false,
        },
        Op::Attempt { uuid: uuid(1), attempt: 3, ended: None, unmarked: false },
        Op::Settle { to: a, numbers: vec![1, 2, 300] },
        Op::Closed { sender: log_sender(), below: 12, open: vec![3, 9] },
        Op::CloseChannel { node: NodeId(5), floor: NodeId(0), open: vec![] },
        Op::Forget { uuids: vec![uuid(1), uuid(2)] },
        complete(Outcome::Done(payload("ok")), Some(brief())),
        complete(
            Outcome::Done(payload("ok")),
            Some(AcceptInBrief { sender: log_sender(), number: 1, actor: None }),
        ),
    ];
    ops.extend(outcomes().into_iter().map(|outcome| complete(outcome, None)));
    ops
}

/// Decisions about chains of tail calls (P6).
fn tail_calls() -> [(&'static str, Op); 4] {
    let complete = |end, sends| Op::Complete {
        uuid: uuid(1),
        attempt: 1,
        accept: None,
        end,
        segment: Segment { state: state_ops(), sends, reminders: vec![], publishes: vec![] },
        time: 1_700_000_000_001,
    };
    let send = |owed| {
        vec![Send {
            number: 3,
            obligation: Obligation { to: service_partition(), owed, parent: None, step_key: None },
        }]
    };
    let (sender, number, time) = (log_sender(), 7, 1_700_000_000_001);
    [
        (
            "tail-next",
            complete(End::Next { invocation: Arc::new(step()), keeps_lock: true }, vec![]),
        ),
        ("tail-hop", complete(End::Passed, send(owed(step())))),
        ("tail-home", complete(End::Passed, send(Owed::Outcome(chain_outcome())))),
        ("home-outcome", Op::Outcome { sender, number, done: chain_outcome(), time }),
    ]
}

/// Decisions about durable steps.
fn steps() -> [(&'static str, Op); 2] {
    let to = service_partition();
    let obligation = Obligation {
        to: to.clone(),
        owed: owed(invocation(Mode::Call, true)),
        parent: Some(uuid(1)),
        step_key: Some("pay".into()),
    };
    let step = RecordedStep { key: "receipt".into(), payload: payload("42") };
    let progress = Op::Progress {
        uuid: uuid(1),
        attempt: 2,
        segment: Segment { sends: vec![Send { number: 3, obligation }], ..Segment::default() },
        settled: vec![],
        steps: vec![step],
        shared: false,
    };
    let outcome = Outcome::Done(payload("paid"));
    [("steps-recorded", progress), ("step-done", Op::StepDone { to, number: 3, outcome })]
}

/// Decisions about shared methods, deadlocks and idempotency keys.
fn shared() -> [(&'static str, Op); 9] {
    let (segment, settled, steps) = (Segment::default(), vec![], vec![]);
    let progress =
        Op::Progress { uuid: uuid(1), attempt: 1, segment, settled, steps, shared: true };
    let refused = complete(Outcome::Refused(Refusal::SharedToExclusive), Some(brief()));
    let deadlock = complete(Outcome::Deadlock("A/a -> A/b -> A/a".into()), Some(brief()));
    let again = Op::Again { sender: Sender::Node(NodeId(5)), number: 7, uuid: uuid(1) };
    let forget = Op::ForgetKeys { uuids: vec![uuid(1), uuid(2)] };
    let keyed = Invocation { key: Some(u128::MAX - 1), ..invocation(Mode::Start, true) };
    let accept =
        Op::Accept { sender: Sender::Node(NodeId(5)), number: 7, invocation: Arc::new(keyed) };
    let refusals = [Refusal::KeyReused, Refusal::KeysFull, Refusal::KeysBytesFull]
        .map(|r| complete(Outcome::Refused(r), Some(brief())));
    let [reused, full, bytes_full] = refusals;
    [
        ("accept-with-key", accept),
        ("key-again", again),
        ("keys-forgotten", forget),
        ("refused-key-reused", reused),
        ("refused-keys-full", full),
        ("refused-keys-bytes-full", bytes_full),
        ("progress-shared", progress),
        ("refused-shared-to-exclusive", refused),
        ("ended-deadlocked", deadlock),
    ]
}

const RETRY: RetryPolicy = RetryPolicy {
    attempts_max: u32::MAX,
    initial_ms: u64::MAX,
    max_ms: u64::MAX,
    multiplier_percent: u32::MAX,
};

/// Decisions about retries, parking and cancelling.
fn policies() -> Vec<(String, Op)> {
    let uuid = uuid(1);
    let causes = [
        Cause::HostLost,
        Cause::ReignLost,
        Cause::HandOver,
        Cause::ApplicationError,
        Cause::Stopped,
    ];
    let ended = |cause| Ended { cause, not_before: 1_700_000_000_003, error: "no luck".into() };
    let attempts = causes.into_iter().enumerate().map(|(index, cause)| {
        let op = Op::Attempt { uuid, attempt: 4, ended: Some(ended(cause)), unmarked: false };
        (format!("attempt-ended-{index}"), op)
    });
    let (key, proof) =
        (SnapshotKey { position: 17, epoch: 4 }, SnapshotProof { bytes: 99, checksum: 5 });
    let named = NamedSnapshot { key, proof, stored: 16, time: 1_700_000_000_004 };
    let error = ApplicationError { retryable: true, ..application_error() };
    let retried = Invocation { retry: Some(RETRY), ..invocation(Mode::Call, true) };
    let accept = Op::Accept { sender: log_sender(), number: 8, invocation: Arc::new(retried) };
    let named = [
        ("cancel", Op::Cancel { uuid }),
        ("park", Op::Park { uuid }),
        ("resume", Op::Resume { uuid }),
        ("cancelled", complete(Outcome::Cancelled, None)),
        ("withdrawn", complete(Outcome::Withdrawn, None)),
        ("failed-retryable", complete(Outcome::Failed(error), None)),
        ("accept-retry", accept),
        ("discard", Op::Discard { uuids: vec![uuid, Uuid(7)] }),
        ("redrive", Op::Redrive { uuid, new: Uuid(7) }),
        ("snapshot", Op::Snapshot { named, keeps: vec![3, 9] }),
    ];
    attempts.chain(named.into_iter().map(|(name, op)| (name.to_owned(), op))).collect()
}

fn reminder(schedule: Schedule, catch_up: CatchUp) -> Arc<Reminder> {
    let (id, method, due) = ("tea".into(), "ring".into(), 1_700_000_000_003);
    Arc::new(Reminder { id, method, payload: payload("{}"), due, schedule, catch_up })
}

fn changes() -> [ReminderChange; 5] {
    let cron = Schedule::Cron { expression: "0 9 * * 1".into(), zone: "Europe/Zurich".into() };
    [
        ReminderChange::Set(reminder(Schedule::Once, CatchUp::Once)),
        ReminderChange::Set(reminder(Schedule::Every(60_000), CatchUp::Each)),
        ReminderChange::Set(reminder(cron, CatchUp::Skip)),
        ReminderChange::Cancel("tea".into()),
        ReminderChange::CancelAll,
    ]
}

/// Decisions about reminders.
fn reminders() -> [(&'static str, Op); 7] {
    let op = |change| ReminderOp { change, dropped: vec![uuid(8), uuid(9)] };
    let segment = Segment { reminders: changes().map(op).into(), ..Segment::default() };
    let fire = |uuid, next| Op::Fire {
        actor: "alice".into(),
        id: "tea".into(),
        due: 1_700_000_000_003,
        uuid,
        next,
    };
    let refused = |refusal| complete(Outcome::Refused(refusal), Some(brief()));
    let (attempt, settled, steps) = (1, vec![], vec![]);
    let progress = Op::Progress { uuid: uuid(1), attempt, segment, settled, steps, shared: false };
    [
        ("reminders-changed", progress),
        ("reminder-fired", fire(Some(uuid(8)), Some(1_700_000_060_003))),
        ("reminder-fired-last", fire(Some(uuid(8)), None)),
        ("reminder-skipped", fire(None, Some(1_700_000_060_003))),
        ("refused-actor-reminders", refused(Refusal::ActorRemindersFull)),
        ("refused-reminders", refused(Refusal::RemindersFull)),
        ("refused-reminder-bytes", refused(Refusal::RemindersBytesFull)),
    ]
}

/// Decisions about actors as a whole.
fn life() -> [(&'static str, Op); 3] {
    let of = |work| Arc::new(Invocation { work, ..invocation(Mode::Call, true) });
    let accept =
        |work| Op::Accept { sender: Sender::Node(NodeId(5)), number: 9, invocation: of(work) };
    [
        ("accept-removal", accept(Work::Remove)),
        ("accept-deactivation", accept(Work::Deactivate)),
        ("deactivate", Op::Deactivate { actor: "alice".into(), uuid: uuid(8) }),
    ]
}

fn topic_partition(partition: u32) -> TopicPartition {
    TopicPartition { id: "0198c0de".into(), partition }
}

fn publish(number: u64, partition: u32, event: &'static str) -> Publish {
    let publication = Publication { to: topic_partition(partition), event: event.into() };
    Publish { number, publication }
}

/// Where an event is from that is delivered; every field set, or every optional one empty.
fn event_origin(is_full: bool) -> EventOrigin {
    EventOrigin {
        subscription: "billing".into(),
        topic: "orders".into(),
        place: topic_partition(3),
        offset: 42,
        dead_letter: is_full.then(|| topic_partition(0)),
        event: is_full.then(|| "event".into()),
    }
}

/// Decisions about events.
fn events() -> [(&'static str, Op); 6] {
    let segment =
        || Segment { publishes: vec![publish(1, 0, "a"), publish(2, 0, "")], ..Segment::default() };
    let accept = |is_full| {
        let event = Some(Arc::new(event_origin(is_full)));
        let invocation = Arc::new(Invocation { event, ..invocation(Mode::Tell, true) });
        Op::Accept { sender: log_sender(), number: 42, invocation }
    };
    let (attempt, settled, steps) = (1, vec![], vec![]);
    let (uuid, accepts, time) = (uuid(1), None, 1_700_000_000_001);
    let end = End::Outcome(Outcome::Failed(application_error()));
    let segment_of = segment();
    [
        (
            "events-flushed",
            Op::Progress { uuid, attempt, segment: segment(), settled, steps, shared: false },
        ),
        (
            "event-buried",
            Op::Complete { uuid, attempt, accept: accepts, end, segment: segment_of, time },
        ),
        ("accept-event", accept(true)),
        ("accept-event-plain", accept(false)),
        ("published", Op::Published { to: topic_partition(7), upto: 300, offset: 301 }),
        ("topic-gone", Op::TopicGone { to: topic_partition(7) }),
    ]
}

fn spec(target: SubscriptionTarget, is_full: bool) -> SubscriptionSpec {
    let topic = |name: &str| TopicRef { name: name.into(), id: "0198c0de".into(), partitions: 2 };
    let pairs = |name: &str| vec![(name.to_owned(), "x".to_owned()), ("a".into(), "y".into())];
    let filters = vec![
        Filter::Exact(pairs("type")),
        Filter::Any(vec![Filter::Prefix(pairs("source")), Filter::Suffix(pairs("id"))]),
        Filter::Not(Box::new(Filter::Exact(pairs("subject")))),
    ];
    SubscriptionSpec {
        name: "billing".into(),
        topic: topic("orders"),
        target,
        method: "bill".into(),
        filter: is_full.then_some(Filter::All(filters)),
        start: match is_full {
            true => SubscriptionStart::Time(1_700_000_000_004),
            false => SubscriptionStart::Latest,
        },
        offsets: vec![1, 300],
        in_flight: 100,
        retry: is_full.then_some(RETRY),
        dead_letter: is_full.then(|| topic("dead")),
    }
}

fn specs() -> [SubscriptionSpec; 4] {
    let service = |affinity: Option<&str>| SubscriptionTarget::Service {
        name: "mail".into(),
        affinity: affinity.map(Into::into),
    };
    let actor = |instance| SubscriptionTarget::Actor { name: "Account".into(), instance };
    let earliest = SubscriptionStart::Earliest;
    [
        spec(service(None), false),
        SubscriptionSpec { start: earliest, ..spec(service(Some("customer")), false) },
        spec(actor(Instance::Attribute("customer".into())), true),
        spec(actor(Instance::Fixed("alice".into())), true),
    ]
}

fn subscription_sender() -> Sender {
    let partition = PartitionId::new(Kind::subscriptions(), 1);
    Sender::Subscription { partition, subscription: uuid(4), topic_partition: 3 }
}

fn subscriptions() -> Vec<Arc<Subscription>> {
    let (target_partitions, created) = (16, 1_700_000_000_005);
    let one = |spec| Subscription { uuid: uuid(4), target_partitions, created, spec };
    specs().map(one).map(Arc::new).into()
}

fn commands() -> Vec<SubscriptionCommand> {
    let change = |change| SubscriptionAsk::Change { name: "billing".into(), change };
    let subscribe =
        |spec| SubscriptionAsk::Subscribe { spec: Arc::new(spec), target_partitions: 16 };
    let (kind, time) = (Kind::actor("Account"), 1_700_000_000_006);
    let asks = [
        change(SubscriptionChange::Unsubscribe),
        change(SubscriptionChange::Pause),
        change(SubscriptionChange::Resume),
        SubscriptionAsk::ActorRemoved { kind, actor: "alice".into(), time },
    ];
    let asks = asks.into_iter().chain(specs().map(subscribe));
    asks.map(|ask| SubscriptionCommand { uuid: uuid(3), ask }).collect()
}

fn fence() -> SubscriptionFence {
    SubscriptionFence { floor: uuid(9), open: vec![uuid(4), uuid(5)] }
}

/// Decisions about subscriptions.
fn subscribing() -> Vec<(String, Op)> {
    let done = |change, outcome, sends| Op::Subscription {
        sender: Sender::Node(NodeId(5)),
        number: 9,
        uuid: uuid(3),
        change,
        outcome,
        sends,
    };
    let owed = |owed| Send {
        number: 4,
        obligation: Obligation { to: actor_partition(), owed, parent: None, step_key: None },
    };
    let over = Owed::Fence(Arc::new(Fence { uuid: uuid(8), fence: fence() }));
    let ok = || Some(Outcome::Done(payload("changed")));
    let pause = |paused| SubscriptionOp::Pause { name: "billing".into(), paused };
    let names = vec!["billing".into(), "mail".into()];
    let refused = |refusal| complete(Outcome::Refused(refusal), Some(brief()));
    let tell = Op::Accept {
        sender: subscription_sender(),
        number: 42,
        invocation: Arc::new(invocation(Mode::Tell, true)),
    };
    let delivered = |publishes| Op::Delivered {
        subscription: uuid(4),
        topic_partition: 3,
        floor: 300,
        publishes,
    };
    let named = [
        ("subscription-nothing", done(SubscriptionOp::Nothing, None, vec![])),
        ("subscriptions-end", done(SubscriptionOp::End { names }, ok(), vec![owed(over)])),
        ("subscription-pauses", done(pause(true), ok(), vec![])),
        ("subscription-resumes", done(pause(false), ok(), vec![])),
        ("accept-from-subscription", tell),
        ("delivered", delivered(vec![])),
        ("delivered-and-buried", delivered(vec![publish(1, 0, "a"), publish(2, 0, "b")])),
        ("fence", Op::Fence { sender: log_sender(), number: 8, fence: fence() }),
        ("refused-subscription-differs", refused(Refusal::SubscriptionDiffers)),
        ("refused-subscription-unknown", refused(Refusal::SubscriptionUnknown)),
        ("refused-subscriptions", refused(Refusal::SubscriptionsFull)),
        ("refused-subscription-bytes", refused(Refusal::SubscriptionsBytesFull)),
    ];
    let mut all: Vec<_> = named.into_iter().map(|(name, op)| (name.to_owned(), op)).collect();
    for (at, subscription) in subscriptions().into_iter().enumerate() {
        let op = done(SubscriptionOp::Create(subscription), ok(), vec![]);
        all.push((format!("subscription-created-{at}"), op));
    }
    for (at, command) in commands().into_iter().enumerate() {
        let sends = vec![owed(Owed::Subscription(Arc::new(command)))];
        let op = done(SubscriptionOp::Nothing, ok(), sends);
        all.push((format!("subscription-command-{at}"), op));
    }
    all
}

/// Messages about subscriptions.
fn about_subscriptions() -> Vec<Message> {
    let (request, to) = (RequestId(7), PartitionId::new(Kind::subscriptions(), 1));
    let ask = |sender, closed_from, owed| Message::Request {
        sender,
        from_epoch: 2,
        to: to.clone(),
        epoch: 3,
        number: 42,
        floor: 2,
        closed_from,
        asks: false,
        promised: false,
        again: false,
        owed,
    };
    let over = Owed::Fence(Arc::new(Fence { uuid: uuid(8), fence: fence() }));
    let tell = owed(invocation(Mode::Tell, true));
    let mut messages = vec![
        ask(log_sender(), None, over),
        ask(subscription_sender(), Some(40), tell),
        Message::ListSubscriptions { request, partition: to.clone(), name: None },
        Message::ListSubscriptions { request, partition: to.clone(), name: Some("x".into()) },
    ];
    let commands = commands().into_iter();
    messages.extend(
        commands.map(|command| {
            ask(Sender::Node(NodeId(5)), None, Owed::Subscription(Arc::new(command)))
        }),
    );
    let progress =
        SubscriptionProgress { floor: 4, end: 9, under_way: 2, skipped: 1, unreadable: 5 };
    let view = |subscription| SubscriptionView {
        subscription,
        paused: true,
        topic_gone: true,
        partitions: vec![progress, SubscriptionProgress::default()],
    };
    let all: Vec<_> = subscriptions().into_iter().map(view).collect();
    for result in [ReadResult::Subscriptions(all), ReadResult::Subscriptions(vec![])] {
        messages.push(Message::ReadDone { request, result });
    }
    messages
}

/// Every record by name; the names are those of the golden file.
fn records() -> BTreeMap<String, Record> {
    let mut records = BTreeMap::from([
        ("claim".to_owned(), Record::Claim { after: 4, node: NodeId(5), id: uuid(6) }),
        ("release".to_owned(), Record::Release { epoch: 4, seq: 17 }),
        ("batch-empty".to_owned(), Record::Batch { epoch: 1, seq: 1, time: 0, ops: vec![] }),
        ("batch-all".to_owned(), Record::Batch { epoch: u64::MAX, seq: 2, time: 0, ops: ops() }),
    ]);
    let close =
        Op::CloseChannel { node: NodeId(9), floor: NodeId(10), open: vec![NodeId(3), NodeId(7)] };
    let close = Record::Batch { epoch: 3, seq: 1, time: 0, ops: vec![close] };
    records.insert("close-channel-floor".to_owned(), close);
    let taken = Record::Batch { epoch: 3, seq: 1, time: 0, ops: vec![Op::Inbox { taken: 300 }] };
    records.insert("inbox-taken".to_owned(), taken);
    let unmarked = Op::Attempt { uuid: uuid(1), attempt: 1, ended: None, unmarked: true };
    let unmarked = Record::Batch { epoch: 3, seq: 1, time: 0, ops: vec![unmarked] };
    records.insert("attempt-unmarked".to_owned(), unmarked);
    let ranges = [("a", Some("b")), ("\0m\0", None)].map(|(from, to)| {
        StateOp::RemoveRange(KeyRange { from: from.into(), to: to.map(Into::into) })
    });
    let segment = Segment { state: ranges.to_vec(), ..Segment::default() };
    let ranges = Op::Progress {
        uuid: uuid(1),
        attempt: 2,
        segment,
        settled: vec![],
        steps: vec![],
        shared: false,
    };
    let ranges = Record::Batch { epoch: 3, seq: 1, time: 0, ops: vec![ranges] };
    records.insert("ranges-removed".to_owned(), ranges);
    let full = complete(Outcome::Refused(Refusal::PartitionBytesFull), Some(brief()));
    let full = Record::Batch { epoch: 3, seq: 1, time: 0, ops: vec![full] };
    records.insert("refused-partition-bytes".to_owned(), full);
    let named = tail_calls().into_iter().chain(steps()).chain(shared()).chain(reminders());
    for (name, op) in named.chain(life()).chain(events()) {
        let record = Record::Batch { epoch: 3, seq: 1, time: 1_700_000_000_002, ops: vec![op] };
        records.insert(name.to_owned(), record);
    }
    for (name, op) in policies().into_iter().chain(subscribing()) {
        let record = Record::Batch { epoch: 3, seq: 1, time: 1_700_000_000_002, ops: vec![op] };
        records.insert(name, record);
    }
    for (index, op) in ops().into_iter().enumerate() {
        records.insert(
            format!("op-{index:02}"),
            Record::Batch { epoch: 3, seq: index as u64 + 1, time: 0, ops: vec![op] },
        );
    }
    records
}

/// Messages about reminders.
fn about_reminders() -> Vec<Message> {
    let request = RequestId(7);
    let mut messages: Vec<_> = changes()
        .map(|change| Message::Request {
            sender: Sender::Node(NodeId(5)),
            from_epoch: 0,
            to: actor_partition(),
            epoch: 3,
            number: 4,
            floor: 2,
            closed_from: None,
            asks: false,
            promised: false,
            again: false,
            owed: Owed::Remind(Arc::new(Remind { uuid: uuid(3), actor: "alice".into(), change })),
        })
        .into();
    messages.push(Message::ListReminders {
        request,
        partition: actor_partition(),
        actor: "alice".into(),
    });
    let all = vec![reminder(Schedule::Once, CatchUp::Skip)];
    for result in [ReadResult::Reminders(all), ReadResult::Reminders(vec![])] {
        messages.push(Message::ReadDone { request, result });
    }
    messages
}

fn messages() -> Vec<Message> {
    let (sender, from, to) = (log_sender(), actor_partition(), service_partition());
    let node = Sender::Node(NodeId(5));
    let hint = Some(NodeId(6));
    let opened = |resume_at| Message::Opened {
        sender: sender.clone(),
        to: to.clone(),
        epoch: 4,
        next: 10,
        resume_at,
    };
    let control =
        |control| Message::Control { request: RequestId(5), partition: to.clone(), control };
    let controlled = |result| Message::ControlDone { request: RequestId(5), result };
    let found = |found| controlled(ControlResult::Done(Controlled::Found(Box::new(found))));
    let view = |actor: Option<&str>| InvocationView {
        uuid: uuid(3),
        actor: actor.map(Into::into),
        method: "deposit".into(),
        mode: Mode::Start,
        phase: Phase::Parked,
        attempt: 21,
        cancel: true,
        ended: Some(Ended { cause: Cause::HostLost, not_before: 7, error: "gone".into() }),
        retry_at: 9,
        behind: actor.map(|_| uuid(9)),
    };
    let letter = DeadLetterView {
        uuid: uuid(3),
        actor: Some("alice".into()),
        method: "deposit".into(),
        outcome: Outcome::Failed(ApplicationError { code: "no".into(), ..Default::default() }),
        attempts: 3,
        time: 1_700_000_000_003,
    };
    let place = Place {
        partition: actor_partition(),
        epoch: 4,
        uuid: uuid(7),
        actor: "alice".into(),
        holder: uuid(8),
    };
    let probe = Probe {
        to: to.clone(),
        uuid: uuid(3),
        origin: uuid(4),
        chain: [uuid(5), uuid(6)].into(),
        round: 9,
        path: vec![place.clone()],
    };
    let confirm = Confirm { places: vec![place.clone(), place], at: 1 };
    let climb = |at| Climb { to: to.clone(), uuid: uuid(3), at };
    let direct = |result| Message::DirectReply { request: RequestId(5), result };
    let bound = |name| DirectResult::Limit(LimitHit { name, limit: 7 });
    let mut messages = vec![
        Message::Open {
            sender: sender.clone(),
            from_epoch: 4,
            to: to.clone(),
            highest: 9,
            open: vec![1, 9],
            answered: vec![9],
            serial: 3,
        },
        opened(None),
        opened(Some(9)),
        Message::Known { sender: sender.clone(), from: to.clone(), epoch: 4, next: 10 },
        Message::Request {
            sender: node.clone(),
            from_epoch: 0,
            to: to.clone(),
            epoch: 7,
            number: 2,
            floor: 1,
            closed_from: None,
            asks: true,
            promised: true,
            again: true,
            owed: owed(invocation(Mode::Call, true)),
        },
        Message::Request {
            sender: sender.clone(),
            from_epoch: 3,
            to: to.clone(),
            epoch: 7,
            number: 3,
            floor: 1,
            closed_from: None,
            asks: false,
            promised: false,
            again: false,
            owed: Owed::Outcome(chain_outcome()),
        },
        Message::Inspect { request: RequestId(6) },
        Message::Inspected { request: RequestId(6), view: b"view"[..].into() },
        control(Control::Cancel(uuid(3))),
        control(Control::Resume(uuid(3))),
        controlled(ControlResult::Done(Controlled::Cancelled)),
        controlled(ControlResult::Done(Controlled::CancelRequested)),
        controlled(ControlResult::Done(Controlled::CancelMoved)),
        controlled(ControlResult::Done(Controlled::Ended)),
        controlled(ControlResult::Done(Controlled::Resumed)),
        controlled(ControlResult::Done(Controlled::NotParked)),
        control(Control::Redrive(uuid(3))),
        control(Control::Discard(uuid(3))),
        control(Control::Inspect(uuid(3))),
        found(Found::Unfinished(view(Some("alice")))),
        found(Found::Unfinished(view(None))),
        found(Found::Ended(Outcome::Done(Payload::default()))),
        found(Found::Ended(Outcome::Cancelled)),
        Message::Withdraw {
            sender: sender.clone(),
            to: to.clone(),
            calls: vec![(3, uuid(7)), (4, uuid(8))],
        },
        found(Found::Dead(letter)),
        controlled(ControlResult::Done(Controlled::Redriven(uuid(4)))),
        controlled(ControlResult::Done(Controlled::Discarded)),
        controlled(ControlResult::Unknown),
        Message::Probe(Box::new(probe)),
        Message::Confirm(Box::new(confirm)),
        Message::Climb(Box::new(climb(None))),
        Message::Climb(Box::new(climb(Some(actor_partition())))),
        controlled(ControlResult::NotOwner(hint)),
        Message::Accepted { sender: sender.clone(), from: from.clone(), numbers: vec![1, 2] },
        Message::Gone { sender: sender.clone(), from: from.clone(), number: 3 },
        Message::Gap { sender: sender.clone(), from: from.clone(), epoch: 2, expected: 5 },
        Message::ChannelClosed { sender: sender.clone(), from: from.clone() },
        Message::NotOwner { sender: sender.clone(), partition: to.clone(), epoch: 3, hint },
        Message::NotOwner { sender: sender.clone(), partition: to.clone(), epoch: 0, hint: None },
        Message::Await { request: RequestId(4), partition: from.clone(), uuid: uuid(1) },
        Message::Direct {
            request: RequestId(5),
            kind: Kind::service("greeter"),
            method: "hello".into(),
            payload: payload("Alan"),
            trace: "00-1-2-03".into(),
        },
        direct(DirectResult::Lost),
        direct(DirectResult::NoHost),
        direct(bound(DIRECT_CONCURRENCY)),
        direct(bound("direct_bytes_max")),
    ];
    let range = KeyRange { from: "a".into(), to: Some("b".into()) };
    for select in [
        Select::all(),
        Select::Range(range.clone()),
        Select::Keys(vec![]),
        Select::Keys(vec!["a".into(), "b".into()]),
        Select::Page { range: range.clone(), entries: 7, bytes: 1 << 20 },
        Select::Page { range: KeyRange::all(), entries: 1, bytes: usize::MAX },
        Select::Count(range),
    ] {
        let (partition, actor) = (to.clone(), "alice".into());
        messages.push(Message::Read { request: RequestId(6), partition, actor, select });
    }
    let state = BTreeMap::from([("a".into(), payload("1")), ("b".into(), Payload::default())]);
    messages.extend(
        [
            ReadResult::State(Selected::Entries(BTreeMap::new())),
            ReadResult::State(Selected::Entries(state.clone())),
            ReadResult::State(Selected::Page { entries: state.clone(), more: true }),
            ReadResult::State(Selected::Page { entries: state, more: false }),
            ReadResult::State(Selected::Count(0)),
            ReadResult::State(Selected::Count(7)),
            ReadResult::TooLong(100),
            ReadResult::NotOwner(hint),
        ]
        .map(|result| Message::ReadDone { request: RequestId(6), result }),
    );
    let results = [AwaitResult::Unknown, AwaitResult::NotOwner(hint), AwaitResult::NotOwner(None)];
    let awaited = |result| Message::Awaited { request: RequestId(4), result };
    messages.extend(results.map(awaited));
    let full = Outcome::Refused(Refusal::PartitionBytesFull);
    for outcome in outcomes().into_iter().chain([full]) {
        messages.push(Message::Reply {
            sender: node.clone(),
            from: from.clone(),
            number: 2,
            outcome: outcome.clone(),
        });
        messages.push(awaited(AwaitResult::Done(outcome.clone())));
        messages.push(direct(DirectResult::Ended(outcome)));
    }
    messages
}

fn stored(record: &Record) -> Bytes {
    encode_record(record, &mut BytesMut::new())
}

#[test]
fn every_record_survives_a_round_trip() {
    for (name, record) in records() {
        assert_eq!(decode_record(stored(&record)).as_ref(), Ok(&record), "{name}");
    }
}

/// A node of before knows no ranges, and asks for all: what it shows are the actor's own keys, not those of sub-maps.
#[test]
fn who_asks_for_all_keys_gets_the_actors_own() {
    let asked = Message::Read {
        request: RequestId(6),
        partition: actor_partition(),
        actor: "alice".into(),
        select: Select::all(),
    };
    let mut frame = message_to(&asked);
    let Some(Frame::Read(read)) = &mut frame.frame else { panic!("{frame:?}") };
    assert!(read.all, "it would not understand");
    read.range = None;
    let Ok(Message::Read { select: Select::Range(range), .. }) = message_from(frame) else {
        panic!("a range was asked for");
    };
    assert!(range.contains("a") && range.contains("\u{1}") && !range.contains("\0m\0a"));
}

#[test]
fn every_message_survives_a_round_trip() {
    let all = messages().into_iter().chain(about_reminders()).chain(about_subscriptions());
    for message in all {
        let bytes = message_to(&message).encode_to_vec();
        let frame = PeerFrame::decode(bytes.as_slice()).expect("it was just encoded");
        assert_eq!(message_from(frame).as_ref(), Ok(&message));
    }
}

#[test]
fn golden_records_still_say_what_they_said() {
    let golden: BTreeMap<&str, &str> =
        GOLDEN.lines().filter_map(|line| line.split_once(' ')).collect();
    let mut missing = Vec::new();
    for (name, record) in records() {
        let Some(hex) = golden.get(name.as_str()) else {
            missing.push(format!("{name} {}", to_hex(&stored(&record))));
            continue;
        };
        assert_eq!(decode_record(from_hex(hex).into()).as_ref(), Ok(&record), "{name}");
    }
    assert!(missing.is_empty(), "append to records_v1.txt:\n{}", missing.join("\n"));
    assert_eq!(golden.len(), records().len(), "a golden record is never removed");
}

/// Bytes of a record besides its decisions.
const RECORD_BYTES: usize = 64;

#[test]
fn nothing_is_stored_in_more_bytes_than_it_was_counted_for() {
    for record in records().into_values() {
        let Record::Batch { ops, .. } = &record else { continue };
        let counted: usize = ops.iter().map(Op::size).sum();
        let bytes = stored(&record).len();
        assert!(bytes <= counted + RECORD_BYTES, "{bytes} bytes, counted {counted}: {record:?}");
    }
}

/// Everything that has a bound, at its bound, and small values where what goes with a value weighs most.
#[test]
fn the_longest_record_fits_into_the_log_and_into_a_message_of_the_hub() {
    let limits = Limits::default();
    let most = limits.record_bytes_max();
    assert!(most <= RECORD_BYTES_MAX, "{most}");
    let long = |n: usize| -> Arc<str> { "x".repeat(n).into() };
    let kind = Kind { class: kar_core::ids::Class::Actor, name: long(128) };
    let to = PartitionId { kind, index: u32::MAX };
    let sender = Sender::Log { partition: to.clone(), log: Uuid(u128::MAX) };
    let value = |n: usize| Payload { data: vec![7; n].into(), content_type: long(256) };
    let set = |n: usize| StateOp::Set { key: long(512), value: value(n) };
    let tiny = || StateOp::Set { key: "k".into(), value: Payload::default() };
    let tell = |n: usize| Obligation {
        to: to.clone(),
        step_key: Some(long(512)),
        owed: owed(Invocation {
            uuid: Uuid(u128::MAX),
            work: Work::Deactivate,
            mode: Mode::Call,
            actor: Some(long(512)),
            method: long(256),
            payload: value(n),
            chain: vec![Uuid(u128::MAX); limits.depth_max].into(),
            deadline: Some(u64::MAX),
            trace: long(256),
            step: u32::MAX,
            home: Some(to.clone()),
            retry: Some(RETRY),
            key: None,
            event: None,
        }),
        parent: Some(Uuid(u128::MAX)),
    };
    // As a turn buffers them: as many as are let in.
    let filled = |size: &dyn Fn(usize) -> usize| {
        let mut bytes = 0;
        let upto = |n: &usize| {
            bytes += size(*n);
            bytes <= limits.segment_bytes_max
        };
        (0..).take_while(upto).count()
    };
    let states = [
        vec![tiny(); filled(&|_| tiny().size())],
        vec![set(0); filled(&|_| set(0).size())],
        vec![StateOp::Clear; filled(&|_| StateOp::Clear.size())],
        vec![set(limits.message_bytes_max); filled(&|_| set(limits.message_bytes_max).size())],
    ];
    let sends = |count: usize, n: usize| -> Vec<Send> {
        vec![Send { number: u64::MAX, obligation: tell(n) }; count]
    };
    let sends = [
        sends(filled(&|_| tell(0).size()).min(limits.segment_sends_max), 0),
        sends(filled(&|_| tell(1 << 20).size()), 1 << 20),
    ];
    let settled = vec![(to.clone(), u64::MAX); limits.calls_per_turn_max];
    let accept = Some(AcceptInBrief { sender, number: u64::MAX, actor: Some(long(512)) });
    let (uuid, attempt, time) = (Uuid(u128::MAX), u32::MAX, u64::MAX);
    let outcome = End::Outcome(Outcome::Done(value(limits.message_bytes_max)));
    let Owed::Invocation(invocation) = tell(limits.message_bytes_max).owed else { unreachable!() };
    let ends = [outcome, End::Next { invocation, keeps_lock: true }];
    let mut ops = Vec::new();
    for (state, sends) in states
        .into_iter()
        .map(|state| (state, vec![]))
        .chain(sends.into_iter().map(|sends| (vec![], sends)))
    {
        let segment = Segment { state, sends, reminders: vec![], publishes: vec![] };
        for end in &ends {
            let (accept, end, segment) = (accept.clone(), end.clone(), segment.clone());
            ops.push(Op::Complete { uuid, attempt, accept, end, segment, time });
        }
        let step = RecordedStep { key: long(512), payload: value(limits.message_bytes_max) };
        let (settled, steps) = (settled.clone(), vec![step]);
        ops.push(Op::Progress { uuid, attempt, segment, settled, steps, shared: true });
    }
    // A delivery that fails with the longest error, and its event, which goes to its dead-letter topic.
    let event = vec![7; limits.message_bytes_max + DEAD_LETTER_BYTES_MAX].into();
    let buried = TopicPartition { id: long(64), partition: u32::MAX };
    let publication = Publication { to: buried, event };
    let publishes = vec![Publish { number: u64::MAX, publication }];
    let segment = Segment { publishes, ..Segment::default() };
    let payload = value(limits.message_bytes_max);
    let end = End::Outcome(Outcome::Failed(ApplicationError { payload, ..application_error() }));
    ops.push(Op::Complete { uuid, attempt, accept, end, segment, time });
    let mut longest = 0;
    for op in ops {
        let counted = op.size() + RECORD_BYTES;
        let record = Record::Batch { epoch: u64::MAX, seq: u64::MAX, time: 0, ops: vec![op] };
        let bytes = stored(&record).len();
        assert!(bytes <= counted && counted <= most, "{bytes} <= {counted} <= {most}");
        longest = longest.max(bytes);
    }
    // It is a bound worth having: a turn can come close to it.
    assert!(longest > most * 4 / 5, "{longest} of {most}");
}

#[test]
fn what_is_not_understood_is_refused() {
    // An op of a later version: field 99 of `Op`, inside a batch.
    let later = [0x1a, 0x09, 0x08, 0x01, 0x10, 0x01, 0x1a, 0x03, 0x9a, 0x06, 0x00];
    assert_eq!(decode_record(later.to_vec().into()), Err(Malformed::Field("op")));
    assert_eq!(decode_record(Vec::new().into()), Err(Malformed::Field("record")));
    assert!(matches!(decode_record(vec![0xff].into()), Err(Malformed::Protobuf(_))));
    let claim_without_id = [0x0a, 0x04, 0x08, 0x01, 0x10, 0x01];
    assert_eq!(decode_record(claim_without_id.to_vec().into()), Err(Malformed::Field("uuid")));
    assert_eq!(message_from(PeerFrame::default()), Err(Malformed::Field("frame")));
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.trim().as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).expect("hex is ASCII");
        u8::from_str_radix(pair, 16).expect("golden lines are hex")
    };
    digits.map(byte).collect()
}

#[test]
fn entries_of_inboxes_survive_a_round_trip() {
    let mark = Mark {
        nodes: vec![NodeId(4), NodeId(6)],
        floor: NodeId(3),
        open: vec![NodeId(1)],
        is_base: true,
    };
    let mut bodies = vec![InboxBody::Mark(mark), InboxBody::Mark(Mark::default())];
    for message in messages() {
        if matches!(message, Message::Open { .. } | Message::Request { .. }) {
            let message = message.clone();
            bodies.push(InboxBody::Channel { message, closed_from: 3, run: 7 });
        }
        bodies.push(InboxBody::Node { to: NodeId(9), message });
    }
    for body in bodies {
        let entry = InboxEntry { from: NodeId(5), body };
        assert_eq!(decode_entry(encode_entry(&entry)), Ok(entry));
    }
    let (message, run) =
        (Message::Gone { sender: log_sender(), from: actor_partition(), number: 1 }, 1);
    let body = InboxBody::Channel { message, closed_from: 0, run };
    let refused = decode_entry(encode_entry(&InboxEntry { from: NodeId(5), body }));
    assert!(refused.is_err(), "only statements and requests go to a partition: {refused:?}");
}
