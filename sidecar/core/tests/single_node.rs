//! One node against a log that answers at once: the main paths, step by step.

mod script;

use std::collections::BTreeMap;

use kar_core::Event;
use kar_core::effect::{RequestError, Response};
use kar_core::event::{Member, Offer, Operation};
use kar_core::ids::{Kind, NodeId, RequestId, SessionId};
use kar_core::invocation::{ApplicationError, Mode, Outcome, Payload, StateOp, Target};
use kar_core::limits::Limits;
use kar_core::record::{Op, Record};
use kar_core::select::{Select, Selected};

use script::{Script, done, text};

#[test]
fn a_root_call_is_answered_once_it_is_committed() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    script.hold = true;
    let call = script.invoke(None, Mode::Call, "alice", "deposit");
    let turn = script.turn("deposit");
    script.finish(&turn, done("ok"));
    assert!(script.answers.is_empty(), "answered before the commit (rule L5)");
    script.hold = false;
    for event in std::mem::take(&mut script.held) {
        script.event(event);
    }
    assert_eq!(script.outcome(call), done("ok"));
    script.assert_idle();
}

#[test]
fn calls_of_one_actor_run_one_at_a_time_and_in_order() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    let calls: Vec<_> = ["a", "b", "c"].map(|m| script.invoke(None, Mode::Call, "alice", m)).into();
    for (call, method) in calls.into_iter().zip(["a", "b", "c"]) {
        let turn = script.turn(method);
        assert!(script.turns.is_empty(), "two turns of one actor at once (P4)");
        script.finish(&turn, done(method));
        assert_eq!(script.outcome(call), done(method));
    }
    script.assert_idle();
}

#[test]
fn without_speculation_a_record_takes_waiting_calls_along() {
    let mut script = Script::new(&[]);
    let offer = Offer {
        kinds: vec![Kind::actor("Account")],
        concurrency: 4,
        strict: true,
        ..Offer::default()
    };
    script.event(Event::HostUp { session: SessionId(1), offer });
    let first = script.invoke(None, Mode::Call, "alice", "first");
    let turn = script.turn("first");
    let second = script.invoke(None, Mode::Call, "alice", "second");
    let before: usize = script.logs.values().map(Vec::len).sum();
    script.finish(&turn, done("1"));
    // One record: the next turn need not wait for another one of its own.
    assert_eq!(script.outcome(first), done("1"));
    let turn = script.turn("second");
    assert_eq!(script.logs.values().map(Vec::len).sum::<usize>(), before + 1);
    script.finish(&turn, done("2"));
    assert_eq!(script.outcome(second), done("2"));
    script.assert_idle();
}

#[test]
fn a_nested_call_may_come_back_to_its_actor() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    let root = script.invoke(None, Mode::Call, "alice", "outer");
    let outer = script.turn("outer");
    let middle = script.invoke(Some(&outer), Mode::Call, "bob", "middle");
    let bob = script.turn("middle");
    let other = script.invoke(None, Mode::Call, "alice", "other");
    let inner = script.invoke(Some(&bob), Mode::Call, "alice", "inner");
    let inner_turn = script.turn("inner");
    assert!(script.turns.is_empty(), "a stranger was let in");
    script.finish(&inner_turn, done("1"));
    assert_eq!(script.outcome(inner), done("1"));
    script.finish(&bob, done("2"));
    assert_eq!(script.outcome(middle), done("2"));
    script.finish(&outer, done("3"));
    assert_eq!(script.outcome(root), done("3"));
    let stranger = script.turn("other");
    script.finish(&stranger, done("4"));
    assert_eq!(script.outcome(other), done("4"));
    script.assert_idle();
}

#[test]
fn state_is_seen_by_later_turns_and_dropped_with_an_error() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    for (value, outcome) in [
        ("1", done("")),
        ("2", Outcome::Failed(ApplicationError { code: "no".into(), ..Default::default() })),
    ] {
        let call = script.invoke(None, Mode::Call, "alice", "set");
        let turn = script.turn("set");
        let set = StateOp::Set { key: "k".into(), value: text(value) };
        let apply = script.request(Operation::StateApply {
            turn: turn.token.clone(),
            ops: vec![set],
            conditions: Vec::new(),
        });
        assert_eq!(script.answers.remove(&apply), Some(Ok(Response::Ok)));
        let read = script
            .request(Operation::StateRead { turn: turn.token.clone(), select: Select::all() });
        let seen = BTreeMap::from([("k".into(), text(value))]);
        assert_eq!(
            script.answers.remove(&read),
            Some(Ok(Response::State(Selected::Entries(seen))))
        );
        script.finish(&turn, outcome.clone());
        assert_eq!(script.outcome(call), outcome);
    }
    let call = script.invoke(None, Mode::Call, "alice", "get");
    let turn = script.turn("get");
    let select = Select::Keys(vec!["k".into(), "absent".into()]);
    let read = script.request(Operation::StateRead { turn: turn.token.clone(), select });
    let seen = BTreeMap::from([("k".into(), text("1"))]);
    assert_eq!(script.answers.remove(&read), Some(Ok(Response::State(Selected::Entries(seen)))));
    script.finish(&turn, done(""));
    script.outcome(call);
    script.assert_idle();
}

#[test]
fn a_dead_host_is_replaced_and_its_turn_tried_again() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    let call = script.invoke(None, Mode::Call, "alice", "slow");
    let first = script.turn("slow");
    script.event(Event::HostDown { session: SessionId(1), dead: true });
    let offer = Offer { kinds: vec![Kind::actor("Account")], concurrency: 4, ..Offer::default() };
    script.event(Event::HostUp { session: SessionId(2), offer });
    let second = script.turn("slow");
    assert_eq!((first.token.attempt, second.token.attempt), (1, 2));
    let stale =
        script.request(Operation::StateRead { turn: first.token.clone(), select: Select::all() });
    assert!(matches!(script.answers.remove(&stale), Some(Err(RequestError::TurnSuperseded(_)))));
    script.finish(&first, done("late"));
    assert!(script.answers.is_empty(), "a superseded turn ended the invocation");
    script.finish(&second, done("ok"));
    assert_eq!(script.outcome(call), done("ok"));
    script.assert_idle();
}

#[test]
fn tells_and_starts_are_acknowledged_when_durable() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    let tell = script.invoke(None, Mode::Tell, "alice", "note");
    assert!(matches!(script.answers.remove(&tell), Some(Ok(Response::Accepted { .. }))));
    let start = script.invoke(None, Mode::Start, "bob", "work");
    let Some(Ok(Response::Accepted { invocation })) = script.answers.remove(&start) else {
        panic!("not accepted")
    };
    let awaiting = script.request(Operation::Await { invocation: invocation.clone() });
    assert!(script.answers.is_empty());
    let note = script.turn("note");
    script.finish(&note, done(""));
    let work = script.turn("work");
    script.finish(&work, done("result"));
    assert_eq!(script.outcome(awaiting), done("result"));
    let again = script.request(Operation::Await { invocation });
    assert_eq!(script.outcome(again), done("result"));
    script.assert_idle();
}

#[test]
fn without_a_host_a_call_waits_or_expires() {
    let mut script = Script::new(&[]);
    let call = script.invoke(None, Mode::Call, "alice", "later");
    let target = Target { kind: Kind::actor("Account"), actor: Some("bob".into()), affinity: None };
    let hasty = script.request(Operation::Invoke {
        turn: None,
        mode: Mode::Call,
        target,
        method: "soon".into(),
        payload: text(""),
        deadline: Some(script.now + 50),
        trace: "".into(),
        step_key: None,
        retry: None,
        key: None,
    });
    script.advance(200);
    assert_eq!(script.outcome(hasty), Outcome::Expired);
    let offer = Offer { kinds: vec![Kind::actor("Account")], concurrency: 4, ..Offer::default() };
    script.event(Event::HostUp { session: SessionId(1), offer });
    let turn = script.turn("later");
    script.finish(&turn, done("ok"));
    assert_eq!(script.outcome(call), done("ok"));
    script.assert_idle();
}

#[test]
fn slots_bound_roots_and_are_given_back_by_suspended_turns() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    for n in 0..6 {
        script.invoke(None, Mode::Call, &format!("a{n}"), "root");
    }
    assert_eq!(script.turns.len(), 4, "concurrency is 4");
    let first = script.turn("root");
    script.invoke(Some(&first), Mode::Call, "z", "nested");
    assert_eq!(script.turns.len(), 5, "a nested turn and one more root");
    while let Some(turn) = script.turns.pop_back() {
        script.finish(&turn, done(""));
    }
    script.finish(&first, done(""));
    script.assert_idle();
}

#[test]
fn draining_releases_every_partition() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    let call = script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    script.event(Event::Drain);
    assert!(!script.drained, "a turn still runs");
    let refused = script.invoke(None, Mode::Call, "alice", "m");
    assert_eq!(script.answers.remove(&refused), Some(Err(RequestError::Draining)));
    script.finish(&turn, done("ok"));
    assert_eq!(script.outcome(call), done("ok"));
    assert!(script.drained);
    assert!(script.node.partitions().is_empty());
}

#[test]
fn a_direct_call_waits_a_moment_for_the_connection_to_a_live_host() {
    let kind = Kind::service("reads");
    let mut script = Script::new(&[]);
    let ask = |script: &mut Script, number| {
        let operation = Operation::InvokeDirect {
            kind: kind.clone(),
            method: "get".into(),
            payload: Payload::default(),
            trace: "".into(),
        };
        let request = RequestId(number);
        script.event(Event::Request { request, operation });
        request
    };
    let none = ask(&mut script, 101);
    assert_eq!(script.answers.remove(&none), Some(Err(RequestError::NoHost(kind.clone()))));
    // A host is a member, but not connected yet.
    let member = Member { kinds: vec![kind.clone()], ..Member::default() };
    script.members.nodes.insert(NodeId(2), member);
    script.event(Event::Members(script.members.clone()));
    let sent = ask(&mut script, 102);
    assert!(script.answers.is_empty(), "it waits");
    script.event(Event::PeerUp { node: NodeId(2) });
    assert_eq!(script.direct_sent, 1);
    script.event(Event::PeerDown { node: NodeId(2) });
    let lost = script.answers.remove(&sent);
    assert!(
        matches!(lost, Some(Err(RequestError::Unknown(_)))),
        "it was sent, then lost: {lost:?}"
    );
    // Nor does it wait for ever.
    let late = ask(&mut script, 103);
    assert!(script.answers.is_empty(), "it waits");
    script.now = script.node.poll_timeout().expect("it is waited for");
    script.event(Event::Tick);
    while script.answers.is_empty() {
        script.now = script.node.poll_timeout().expect("it is waited for");
        script.event(Event::Tick);
    }
    assert_eq!(script.answers.remove(&late), Some(Err(RequestError::NoHost(kind))));
    assert!(script.now <= 2_000 + 1, "it gave up at {}", script.now);
}

/// What a turn buffers is bounded when it is buffered, so that its end always fits into a record and into a write to
/// the store; small decisions are gathered up to a target, and a long one gets a record of its own.
#[test]
fn no_record_and_no_write_to_the_store_is_longer_than_the_bound() {
    let limits = Limits {
        message_bytes_max: 40_000,
        segment_bytes_max: 60_000,
        record_bytes_target: 10_000,
        store_batch_bytes: 10_000,
        results_per_partition_max: 100,
        unfinished_per_partition_max: 100,
        roots_per_node_max: 100,
        calls_per_turn_max: 10,
        ..Limits::default()
    };
    let most = limits.record_bytes_max();
    let mut script = Script::with(&[Kind::actor("Account")], limits);
    script.hold = true;
    let payload = |n: usize| Payload { data: vec![7; n].into(), content_type: "t".into() };
    let mut calls = Vec::new();
    for actor in ["a", "b", "c", "d"] {
        let call = script.invoke(None, Mode::Call, actor, "fill");
        let turn = script.turn("fill");
        let mut refused = 0;
        for n in 0..100 {
            let op = StateOp::Set { key: format!("k{n}").into(), value: payload(1_000) };
            let apply = Operation::StateApply {
                turn: turn.token.clone(),
                ops: vec![op],
                conditions: Vec::new(),
            };
            let apply = script.request(apply);
            match script.answers.remove(&apply) {
                Some(Ok(Response::Ok)) => assert_eq!(refused, 0),
                Some(Err(RequestError::Limit(hit))) => {
                    assert_eq!(hit.name, "segment_bytes_max");
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(refused > 40);
        script.finish(&turn, Outcome::Done(payload(40_000)));
        calls.push(call);
    }
    script.hold = false;
    for event in std::mem::take(&mut script.held) {
        script.event(event);
    }
    for call in calls {
        assert!(matches!(script.outcome(call), Outcome::Done(_)));
    }
    let sizes = script.logs.values().flatten().filter_map(|record| match &**record {
        Record::Batch { ops, .. } => Some(ops.iter().map(Op::size).sum::<usize>()),
        _ => None,
    });
    let sizes: Vec<_> = sizes.collect();
    assert!(sizes.iter().all(|n| *n <= most), "{sizes:?} of {most}");
    assert!(sizes.iter().any(|n| *n > 90_000), "{sizes:?}: the turns were not that large");
    let writes = &script.store_writes;
    assert!(writes.iter().all(|n| *n <= most) && !writes.is_empty(), "{writes:?} of {most}");
}

#[test]
fn a_read_from_outside_shows_what_is_committed() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    let read = script.read_outside("Account", "alice", None);
    assert_eq!(script.state(read), BTreeMap::new());
    script.hold = true;
    script.deposit("alice", "7");
    // Decided, and not committed: neither the old state (a call may have been told already of what follows it) nor the
    // new one (it may never be) can be shown.
    let reads = [None, Some(&["balance", "owner"][..]), Some(&["owner"][..])]
        .map(|keys| script.read_outside("Account", "alice", keys));
    let untouched = script.read_outside("Account", "bob", None);
    assert!(!reads.iter().any(|read| script.answers.contains_key(read)), "{:?}", script.answers);
    script.let_go();
    let balance = BTreeMap::from([("balance".into(), text("7"))]);
    assert_eq!(reads.map(|read| script.state(read)), [balance.clone(), balance, BTreeMap::new()]);
    assert_eq!(script.state(untouched), BTreeMap::new());
    script.assert_idle();
}

#[test]
fn without_a_lease_a_read_waits_and_is_given_up_in_time() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    script.deposit("alice", "7");
    script.answers.clear();
    script.event(Event::Lease { valid: false });
    let read = script.read_outside("Account", "alice", None);
    script.advance(2_000);
    assert!(script.answers.is_empty(), "a successor may reign: {:?}", script.answers);
    script.event(Event::Lease { valid: true });
    // Refused again and again, it asks once in the channels' period.
    script.advance(Limits::default().channel_timer_ms);
    assert_eq!(script.state(read).len(), 1);
    script.event(Event::Lease { valid: false });
    let read = script.read_outside("Account", "alice", None);
    script.advance(Limits::default().accept_timeout_ms + 100);
    let answer = script.answers.remove(&read);
    assert!(matches!(answer, Some(Err(RequestError::Unavailable(_)))), "{answer:?}");
    let idle = 1_000 + Limits::default().actor_idle_ms;
    assert_eq!(script.node.poll_timeout(), Some(idle), "nothing is asked any more");
}

#[test]
fn a_read_of_a_kind_that_nobody_uses_does_not_make_it() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    let read = script.read_outside("Acount", "alice", None);
    assert!(script.answers.is_empty(), "somebody may just be making it");
    script.advance(1_100);
    assert_eq!(script.state(read), BTreeMap::new());
    let id = "a.Acount/0/0192aaaa-0000-7000-8000-000000000000";
    let invocation = id.parse().expect("an id");
    let awaiting = script.request(Operation::Await { invocation });
    assert!(script.answers.is_empty());
    script.advance(1_100);
    let answer = script.answers.remove(&awaiting);
    assert!(matches!(answer, Some(Err(RequestError::UnknownInvocation(_)))), "{answer:?}");
    assert_eq!(script.members.kinds.keys().collect::<Vec<_>>(), [&Kind::actor("Account")]);
}

#[test]
fn a_state_too_long_for_one_answer_is_refused_with_the_limits_name() {
    let limits = Limits { state_read_bytes_max: 100, ..Limits::default() };
    let mut script = Script::with(&[Kind::actor("Account")], limits);
    script.deposit("alice", &"x".repeat(100));
    let read = script.read_outside("Account", "alice", None);
    match script.answers.remove(&read) {
        Some(Err(RequestError::Limit(hit))) => {
            assert_eq!((hit.name, hit.limit), ("state_read_bytes_max", 100));
        }
        other => panic!("no limit but {other:?}"),
    }
    let read = script.read_outside("Account", "alice", Some(&["owner"]));
    assert_eq!(script.state(read), BTreeMap::new());
}
