//! Bounds in numbers and bytes: each is exceeded here, and says its name; nothing that is owed is refused.

mod script;

use kar_core::Event;
use kar_core::effect::{Notice, RequestError, Response, Turn};
use kar_core::event::{Offer, Operation};
use kar_core::ids::{Kind, NodeId, RequestId, SessionId, Uuid};
use kar_core::invocation::{Mode, Outcome, Refusal, StateOp, Target};
use kar_core::limits::{LimitHit, Limits};
use kar_core::message::{DirectResult, Message};
use kar_core::node::Held;
use kar_core::record::Record;
use script::{Script, done, filled, text};

const ACCOUNT: &str = "Account";

fn host(limits: Limits) -> Script {
    Script::with(&[Kind::actor(ACCOUNT)], limits)
}

fn invoke(
    script: &mut Script,
    turn: Option<&Turn>,
    mode: Mode,
    actor: &str,
    bytes: usize,
) -> RequestId {
    script.request(Operation::Invoke {
        turn: turn.map(|t| t.token.clone()),
        mode,
        target: Target { kind: Kind::actor(ACCOUNT), actor: Some(actor.into()), affinity: None },
        method: "m".into(),
        payload: filled(bytes),
        deadline: None,
        trace: "".into(),
        step_key: None,
        retry: None,
        key: None,
    })
}

#[track_caller]
fn assert_limit(script: &mut Script, request: RequestId, name: &str) {
    match script.answers.remove(&request) {
        Some(Err(RequestError::Limit(hit))) => assert_eq!(hit.name, name),
        other => panic!("expected the limit {name}, got {other:?}"),
    }
    let told = script.notices.iter().any(|n| matches!(n, Notice::Limit(hit) if hit.name == name));
    assert!(told, "nobody was told of {name}");
}

/// Actors may be awake; that costs what the bound of cached actors says.
#[track_caller]
fn assert_nothing_held(script: &Script) {
    let held = Held { awake: 0, ..script.node.held() };
    assert_eq!(held, Held::default());
}

#[test]
fn the_longest_turn_goes_in_a_record_of_its_own_that_the_log_takes() {
    let limits = Limits {
        segment_bytes_max: 70_000,
        message_bytes_max: 40_000,
        record_bytes_target: 10_000,
        ..Limits::default()
    };
    let mut script = host(limits.clone());
    let (long, small) = ("alice", ["b", "c", "d"]);
    let call = script.invoke(None, Mode::Call, long, "m");
    let turn = script.turn("m");
    for actor in small {
        script.invoke(None, Mode::Call, actor, "m");
    }
    let set = |bytes| vec![StateOp::Set { key: "k".into(), value: filled(bytes) }];
    let apply = |script: &mut Script, bytes| {
        script.request(Operation::StateApply {
            turn: turn.token.clone(),
            ops: set(bytes),
            conditions: Vec::new(),
        })
    };
    let first = apply(&mut script, 35_000);
    assert_eq!(script.answers.remove(&first), Some(Ok(Response::Ok)));
    let over = apply(&mut script, 35_000);
    assert_limit(&mut script, over, "segment_bytes_max");
    let second = apply(&mut script, 34_000);
    assert_eq!(script.answers.remove(&second), Some(Ok(Response::Ok)));
    // The small decisions are pending when the long one comes: one batch.
    let others: Vec<_> = script.turns.drain(..).collect();
    for other in &others {
        let result = kar_core::event::TurnResult::Ended(Outcome::Done(filled(3_000)));
        let token = other.token.clone();
        script.node.handle(script.now, Event::TurnResult { token, result });
    }
    script.finish(&turn, Outcome::Done(filled(40_000)));
    assert_eq!(script.outcome(call), Outcome::Done(filled(40_000)));
    let longest = script
        .logs
        .values()
        .flatten()
        .map(|record| match &**record {
            Record::Batch { ops, .. } => ops.iter().map(kar_core::record::Op::size).sum(),
            _ => 0,
        })
        .max();
    let longest = longest.expect("there are records");
    assert!(longest > 100_000, "the long turn is one decision: {longest}");
    assert!(longest <= limits.record_bytes_max(), "{longest}");
}

#[test]
fn the_longest_record_forgets_as_much_at_once_as_there_may_be() {
    const MANY: usize = 1 << 20;
    let few =
        Limits { results_per_partition_max: 1, keys_per_partition_max: 1, ..Limits::default() };
    let forgotten = [
        Limits { results_per_partition_max: MANY, ..few.clone() },
        Limits { keys_per_partition_max: MANY, ..few.clone() },
        Limits { dead_letters_per_partition_max: MANY, ..few },
    ];
    let longest = kar_core::record::Op::Forget { uuids: vec![Uuid(u128::MAX); MANY] }.size();
    for limits in forgotten {
        assert!(limits.record_bytes_max() >= longest, "{limits:?}");
    }
}

#[test]
fn a_record_that_the_log_does_not_take_is_told_and_ends_the_reign() {
    let mut script = host(Limits::default());
    script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    script.hold = true;
    script.finish(&turn, done("x"));
    let Some(Event::LogOwn { partition, proposal, .. }) = script.held.pop_front() else {
        panic!("something was appended")
    };
    script.hold = false;
    let refused =
        Event::AppendRefused { partition: partition.clone(), proposal, bytes: 10, bytes_max: 9 };
    script.event(refused);
    let told = Notice::RecordTooLong { partition: partition.clone(), bytes: 10, bytes_max: 9 };
    assert!(script.notices.contains(&told), "{:?}", script.notices);
    let dropped = |n: &Notice| matches!(n, Notice::Dropped { partition: p, .. } if *p == partition);
    assert!(script.notices.iter().any(dropped), "{:?}", script.notices);
}

#[test]
fn turns_that_send_more_than_the_outbox_holds_are_told_so() {
    let mut script = host(Limits { outbox_per_partition_max: 3, ..Limits::default() });
    let call = script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    for _ in 0..3 {
        let tell = invoke(&mut script, Some(&turn), Mode::Tell, "bob", 1);
        assert!(matches!(script.answers.remove(&tell), Some(Ok(Response::Accepted { .. }))));
    }
    assert_eq!(script.node.held().outbox, 3, "they are buffered");
    for mode in [Mode::Tell, Mode::Call] {
        let over = invoke(&mut script, Some(&turn), mode, "bob", 1);
        assert_limit(&mut script, over, "outbox_per_partition_max");
    }
    // Flushed ones count until they are settled.
    script.hold = true;
    script.request(Operation::Flush { turn: turn.token.clone() });
    let over = invoke(&mut script, Some(&turn), Mode::Tell, "bob", 1);
    assert_limit(&mut script, over, "outbox_per_partition_max");
    script.hold = false;
    for event in std::mem::take(&mut script.held) {
        script.event(event);
    }
    script.advance(200);
    assert_eq!(script.node.held().outbox, 0);
    let tell = invoke(&mut script, Some(&turn), Mode::Tell, "bob", 1);
    assert!(matches!(script.answers.remove(&tell), Some(Ok(Response::Accepted { .. }))));
    script.finish(&turn, done(""));
    script.outcome(call);
    for _ in 0..4 {
        let note = script.turn("m");
        script.finish(&note, done(""));
    }
    script.assert_idle();
    assert_nothing_held(&script);
}

#[test]
fn turns_that_send_more_bytes_than_the_outbox_holds_are_told_so() {
    let mut script = host(Limits { outbox_bytes_per_partition_max: 10_000, ..Limits::default() });
    let call = script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    let tell = invoke(&mut script, Some(&turn), Mode::Tell, "bob", 6_000);
    assert!(matches!(script.answers.remove(&tell), Some(Ok(Response::Accepted { .. }))));
    let over = invoke(&mut script, Some(&turn), Mode::Tell, "bob", 6_000);
    assert_limit(&mut script, over, "outbox_bytes_per_partition_max");
    // What a failed turn had buffered is dropped with it.
    script.finish(&turn, Outcome::Failed(Default::default()));
    script.outcome(call);
    script.assert_idle();
    assert_nothing_held(&script);
}

#[test]
fn an_actor_that_tells_itself_twice_is_stopped_by_the_bound_and_not_by_memory() {
    let limits = Limits {
        unfinished_per_partition_max: 40,
        outbox_per_partition_max: 20,
        ..Limits::default()
    };
    let mut script = host(limits.clone());
    script.invoke(None, Mode::Tell, "alice", "m");
    let (mut refused, mut most) = (0, 0);
    for _ in 0..2_000 {
        let Some(turn) = script.turns.pop_front() else { break };
        for _ in 0..2 {
            let tell = invoke(&mut script, Some(&turn), Mode::Tell, "alice", 1);
            refused += u32::from(!matches!(script.answers.remove(&tell), Some(Ok(_))));
        }
        script.finish(&turn, done(""));
        // Statements of the timer must not make the bound void.
        script.advance(if refused % 10 == 0 { 30 } else { 700 });
        most = most.max(script.node.held().unfinished);
    }
    assert!(refused > 100, "refused {refused} times");
    let bound = limits.unfinished_per_partition_max + limits.outbox_per_partition_max + 2;
    assert!(most <= bound, "{most} unfinished invocations, not {bound}");
}

#[test]
fn what_is_withheld_at_a_take_over_stays_withheld_until_it_has_ended() {
    let limits = Limits {
        unfinished_per_partition_max: 4,
        outbox_per_partition_max: 20,
        ..Limits::default()
    };
    let mut script = host(limits);
    let call = script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    for _ in 0..10 {
        invoke(&mut script, Some(&turn), Mode::Tell, "alice", 1);
    }
    script.finish(&turn, done(""));
    script.outcome(call);
    script.replace(&[Kind::actor(ACCOUNT)]);
    script.advance(3_000);
    let held = script.node.held();
    assert_eq!(held.unfinished, 10);
    assert!(held.outbox >= 5, "{held:?}");
    while let Some(turn) = script.turns.pop_front() {
        script.finish(&turn, done(""));
        script.advance(50);
    }
    // The outcome of the call is kept until its node has been gone for the grace.
    script.advance(script.limits.departed_grace_ms);
    script.assert_idle();
    assert_nothing_held(&script);
}

#[test]
fn roots_are_refused_where_a_partition_holds_too_many_bytes() {
    let limits = Limits { unfinished_bytes_per_partition_max: 10_000, ..Limits::default() };
    let mut script = host(limits);
    let first = invoke(&mut script, None, Mode::Call, "alice", 6_000);
    let turn = script.turn("m");
    let over = invoke(&mut script, None, Mode::Call, "alice", 6_000);
    assert_eq!(script.outcome(over), Outcome::Refused(Refusal::PartitionBytesFull));
    let name = "unfinished_bytes_per_partition_max";
    let told = |n: &Notice| matches!(n, Notice::Limit(hit) if hit.name == name);
    assert!(script.notices.iter().any(told));
    // What a turn owes is taken all the same (C7).
    let nested = invoke(&mut script, Some(&turn), Mode::Call, "alice", 6_000);
    let inner = script.turn("m");
    script.finish(&inner, done("in"));
    assert_eq!(script.outcome(nested), done("in"));
    script.finish(&turn, done(""));
    script.outcome(first);
    script.advance(5_000);
    let again = invoke(&mut script, None, Mode::Call, "alice", 6_000);
    let turn = script.turn("m");
    script.finish(&turn, done("ok"));
    assert_eq!(script.outcome(again), done("ok"));
    script.assert_idle();
}

#[test]
fn results_of_starts_are_kept_by_bytes_the_newest_longest() {
    let limits = Limits { results_bytes_per_partition_max: 10_000, ..Limits::default() };
    let mut script = host(limits);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let start = invoke(&mut script, None, Mode::Start, "alice", 1);
        let Some(Ok(Response::Accepted { invocation })) = script.answers.remove(&start) else {
            panic!("not accepted")
        };
        let turn = script.turn("m");
        script.finish(&turn, Outcome::Done(filled(4_000)));
        script.advance(10);
        ids.push(invocation);
    }
    assert_eq!(script.node.held().results, 2);
    assert!(script.node.held().results_bytes <= 10_000);
    let told: Vec<_> = script.notices.iter().filter(|n| matches!(n, Notice::Limit(_))).collect();
    let (name, limit) = ("results_bytes_per_partition_max", 10_000);
    assert_eq!(told, [&Notice::Limit(LimitHit { name, limit })], "once, of one that went");
    for (invocation, is_known) in ids.into_iter().zip([false, true, true]) {
        let asked = script.request(Operation::Await { invocation: invocation.clone() });
        match script.answers.remove(&asked) {
            Some(Ok(Response::Outcome { outcome, .. })) if is_known => {
                assert_eq!(outcome, Outcome::Done(filled(4_000)));
            }
            Some(Err(RequestError::UnknownInvocation(id))) if !is_known => {
                assert_eq!(*id, invocation);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn who_expires_leaves_the_queue_for_slots() {
    let mut script = Script::with(&[], Limits::default());
    script.event(Event::HostUp {
        session: SessionId(1),
        offer: Offer { kinds: vec![Kind::actor(ACCOUNT)], concurrency: 1, ..Offer::default() },
    });
    let long = script.invoke(None, Mode::Call, "long", "m");
    let turn = script.turn("m");
    for n in 0..50 {
        let target = Target {
            kind: Kind::actor(ACCOUNT),
            actor: Some(format!("a{n}").as_str().into()),
            affinity: None,
        };
        let operation = Operation::Invoke {
            turn: None,
            mode: Mode::Call,
            target,
            method: "m".into(),
            payload: text(""),
            deadline: Some(script.now + 20),
            trace: "".into(),
            step_key: None,
            retry: None,
            key: None,
        };
        let hasty = script.request(operation);
        assert_eq!(script.node.held().slots_waited_for, 1);
        script.advance(30);
        assert_eq!(script.outcome(hasty), Outcome::Expired);
        assert_eq!(script.node.held().slots_waited_for, 0);
    }
    script.finish(&turn, done("ok"));
    assert_eq!(script.outcome(long), done("ok"));
    script.assert_idle();
}

// === direct calls ===

fn direct(script: &mut Script, request: u64, bytes: usize) {
    let message = Message::Direct {
        request: RequestId(request),
        kind: Kind::service("reads"),
        method: "get".into(),
        payload: filled(bytes),
        trace: "".into(),
    };
    script.event(Event::Peer { from: NodeId(2), message });
}

fn direct_replies(script: &mut Script) -> Vec<DirectResult> {
    let replies = script.sent.drain(..).filter_map(|(_, message)| match message {
        Message::DirectReply { result, .. } => Some(result),
        _ => None,
    });
    replies.collect()
}

#[test]
fn direct_calls_are_refused_by_the_bound_that_was_hit_and_without_a_host_by_that() {
    let limits = Limits { direct_bytes_max: 1_000, ..Limits::default() };
    let mut script = Script::with(&[], limits);
    script.event(Event::PeerUp { node: NodeId(2) });
    direct(&mut script, 1, 0);
    assert_eq!(direct_replies(&mut script), [DirectResult::NoHost], "it ran nowhere");
    script.event(Event::HostUp {
        session: SessionId(1),
        offer: Offer { kinds: vec![Kind::service("reads")], concurrency: 2, ..Offer::default() },
    });
    direct(&mut script, 2, 2_000);
    direct(&mut script, 3, 1);
    let replies = direct_replies(&mut script);
    assert!(
        matches!(&replies[..], [DirectResult::Limit(hit)] if hit.name == "direct_bytes_max"),
        "one of any length runs alone, and nothing beside it: {replies:?}"
    );
    direct(&mut script, 4, 0);
    assert!(matches!(&direct_replies(&mut script)[..], [DirectResult::Limit(_)]));
    assert_eq!(script.node.held().direct_bytes, 2_000);
    script.event(Event::HostDown { session: SessionId(1), dead: true });
    assert_eq!(direct_replies(&mut script), [DirectResult::Lost]);
    script.event(Event::HostUp {
        session: SessionId(2),
        offer: Offer { kinds: vec![Kind::service("reads")], concurrency: 2, ..Offer::default() },
    });
    for request in 5..8 {
        direct(&mut script, request, 1);
    }
    let replies = direct_replies(&mut script);
    assert!(
        matches!(&replies[..], [DirectResult::Limit(hit)] if hit.name == "concurrency" && hit.limit == 2),
        "{replies:?}"
    );
}
