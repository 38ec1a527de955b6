//! Durable steps: what a turn records, and what keyed calls return, is there for the next attempt (design section 1).

mod script;

use std::collections::BTreeMap;

use kar_core::Event;
use kar_core::effect::{RequestError, Response, Turn};
use kar_core::event::{Operation, TailCall, TurnResult};
use kar_core::ids::{Kind, RequestId, SessionId};
use kar_core::invocation::{ApplicationError, Mode, Outcome, Owed, Payload, Target};
use kar_core::limits::Limits;
use kar_core::record::{Op, Record, RecordedStep};

use script::{Script, done, filled, text};

/// Longer than every grace.
const LONG_MS: u64 = 40_000;

fn kinds() -> [Kind; 2] {
    [Kind::actor("Account"), Kind::service("ledger")]
}

fn script() -> Script {
    Script::new(&kinds())
}

fn record(script: &mut Script, turn: &Turn, key: &str, payload: Payload) -> RequestId {
    let step = RecordedStep { key: key.into(), payload };
    script.request(Operation::RecordStep { turn: turn.token.clone(), step })
}

fn account(actor: &str) -> Target {
    Target { kind: Kind::actor("Account"), actor: Some(actor.into()), affinity: None }
}

/// A keyed call to an account, or to the service if none is named; with the key "late" it must start within 50 ms.
fn call(
    script: &mut Script,
    turn: &Turn,
    key: &str,
    (to, method): (Option<&str>, &str),
) -> RequestId {
    let service = Target { kind: Kind::service("ledger"), actor: None, affinity: None };
    let deadline = (key == "late").then_some(script.now + 50);
    script.request(Operation::Invoke {
        turn: Some(turn.token.clone()),
        mode: Mode::Call,
        target: to.map_or(service, account),
        method: method.into(),
        payload: text("in"),
        deadline,
        trace: "".into(),
        retry: None,
        step_key: Some(key.into()),
        key: None,
    })
}

#[track_caller]
fn assert_reused(script: &mut Script, request: RequestId, key: &str) {
    let expected = Err(RequestError::StepKeyReused(key.into()));
    assert_eq!(script.answers.remove(&request), Some(expected));
}

#[track_caller]
fn assert_limit(script: &mut Script, request: RequestId, name: &str) {
    match script.answers.remove(&request) {
        Some(Err(RequestError::Limit(hit))) => assert_eq!(hit.name, name),
        other => panic!("expected the limit {name}, got {other:?}"),
    }
}

/// The next attempt of a turn whose owner is gone.
fn retried(script: &mut Script, method: &str) -> Turn {
    script.replace(&kinds());
    script.advance(LONG_MS);
    let turn = script.turn(method);
    assert!(turn.token.attempt > 1);
    turn
}

/// How often a method of the service or of an account other than alice's has been asked for.
fn calls_logged(script: &Script, method: &str) -> usize {
    let ops = script.logs.values().flatten().filter_map(|record| match &**record {
        Record::Batch { ops, .. } => Some(ops),
        _ => None,
    });
    let sends = ops.flatten().filter_map(|op| match op {
        Op::Progress { segment, .. } => Some(&segment.sends),
        _ => None,
    });
    let invocations = sends.flatten().filter(|send| match &send.obligation.owed {
        Owed::Invocation(i) => &*i.method == method,
        _ => false,
    });
    invocations.count()
}

#[test]
fn a_step_is_durable_when_it_is_answered_and_a_retry_gets_it() {
    let mut script = script();
    let start = script.invoke(None, Mode::Start, "alice", "m");
    assert!(script.answers.contains_key(&start));
    let turn = script.turn("m");
    assert!(turn.recorded_steps.is_empty());
    script.set(&turn, "k", "before");
    script.hold = true;
    let step = record(&mut script, &turn, "charge", text("receipt"));
    assert_eq!(script.answers.get(&step), None, "not before it is in the log");
    script.let_go();
    assert_eq!(script.answers.remove(&step), Some(Ok(Response::Step(text("receipt")))));
    let again = retried(&mut script, "m");
    assert_eq!(again.recorded_steps, BTreeMap::from([("charge".into(), text("receipt"))]));
    // What came before the step is durable with it.
    assert_eq!(script.read(&again).expect("loaded").get("k"), Some(&text("before")));
    script.finish(&again, done(""));
    script.assert_idle();
}

#[test]
fn a_retry_in_the_same_reign_gets_its_steps_too() {
    let mut script = script();
    let call = script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    record(&mut script, &turn, "a", text("1"));
    script.event(Event::HostDown { session: SessionId(1), dead: true });
    let offer =
        kar_core::event::Offer { kinds: kinds().into(), concurrency: 4, ..Default::default() };
    script.event(Event::HostUp { session: SessionId(9), offer });
    let again = script.turn("m");
    assert_eq!(again.recorded_steps.get("a"), Some(&text("1")));
    let stale = record(&mut script, &turn, "b", text("2"));
    assert!(matches!(script.answers.remove(&stale), Some(Err(RequestError::TurnSuperseded(_)))));
    script.finish(&again, done("ok"));
    assert_eq!(script.outcome(call), done("ok"));
    script.assert_idle();
}

#[test]
fn the_first_value_of_a_key_wins() {
    let mut script = script();
    script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    for value in ["first", "second"] {
        let step = record(&mut script, &turn, "k", text(value));
        assert_eq!(script.answers.remove(&step), Some(Ok(Response::Step(text("first")))));
    }
    script.finish(&turn, done(""));
    script.assert_idle();
}

#[test]
fn a_keyed_call_is_made_once_whatever_becomes_of_its_caller() {
    let error = || Outcome::Failed(ApplicationError { code: "No".into(), ..Default::default() });
    for (target, outcome) in [(Some("bob"), done("paid")), (None, done("paid")), (None, error())] {
        let mut script = script();
        let start = script.invoke(None, Mode::Start, "alice", "m");
        assert!(script.answers.contains_key(&start));
        let turn = script.turn("m");
        let first = call(&mut script, &turn, "pay", (target, "pay"));
        let child = script.turn("pay");
        script.finish(&child, outcome.clone());
        assert_eq!(script.outcome(first), outcome);
        for _ in 0..2 {
            let turn = retried(&mut script, "m");
            assert!(turn.recorded_steps.is_empty(), "results of calls are asked for by calling");
            let again = call(&mut script, &turn, "pay", (target, "pay"));
            assert_eq!(script.outcome(again), outcome);
            assert!(script.turns.is_empty(), "it ran again");
        }
        assert_eq!(calls_logged(&script, "pay"), 1);
    }
}

#[test]
fn a_retry_waits_for_a_keyed_call_and_gets_its_result() {
    let mut script = script();
    script.invoke(None, Mode::Start, "alice", "m");
    let turn = script.turn("m");
    call(&mut script, &turn, "pay", (Some("bob"), "pay"));
    script.turn("pay");
    // Both are lost; the caller's retry waits for the callee's.
    script.replace(&kinds());
    script.advance(LONG_MS);
    let child = script.turn("pay");
    assert!(script.turns.is_empty(), "T2: the call has no outcome yet");
    script.finish(&child, done("late"));
    let again = script.turn("m");
    let result = call(&mut script, &again, "pay", (Some("bob"), "pay"));
    assert_eq!(script.outcome(result), done("late"));
    script.finish(&again, done(""));
    script.assert_idle();
}

#[test]
fn a_call_that_expired_is_made_again() {
    let mut script = script();
    script.invoke(None, Mode::Call, "bob", "busy");
    let busy = script.turn("busy");
    script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    let first = call(&mut script, &turn, "late", (Some("bob"), "pay"));
    script.advance(100);
    assert_eq!(script.outcome(first), Outcome::Expired);
    script.finish(&busy, done(""));
    let second = call(&mut script, &turn, "late", (Some("bob"), "pay"));
    let child = script.turn("pay");
    script.finish(&child, done("paid"));
    assert_eq!(script.outcome(second), done("paid"));
    assert_eq!(calls_logged(&script, "pay"), 2);
    script.finish(&turn, done(""));
    script.assert_idle();
}

#[test]
fn a_call_from_what_is_kept_flushes_like_one_that_is_made() {
    let mut script = script();
    script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    call(&mut script, &turn, "pay", (Some("bob"), "pay"));
    let child = script.turn("pay");
    script.finish(&child, done("paid"));
    script.set(&turn, "k", "v");
    script.hold = true;
    let again = call(&mut script, &turn, "pay", (Some("bob"), "pay"));
    assert_eq!(script.answers.get(&again), None);
    script.let_go();
    assert_eq!(script.outcome(again), done("paid"));
    // It failed, and what was flushed stays.
    script.finish(&turn, Outcome::Failed(ApplicationError::default()));
    script.invoke(None, Mode::Call, "alice", "look");
    let look = script.turn("look");
    assert_eq!(script.read(&look).expect("cached").get("k"), Some(&text("v")));
}

#[test]
fn a_key_names_one_step() {
    let mut script = script();
    script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    record(&mut script, &turn, "value", text("1"));
    let as_call = call(&mut script, &turn, "value", (Some("bob"), "pay"));
    assert_reused(&mut script, as_call, "value");
    let first = call(&mut script, &turn, "call", (Some("bob"), "pay"));
    // It is under way.
    let beside = call(&mut script, &turn, "call", (Some("bob"), "pay"));
    assert_reused(&mut script, beside, "call");
    let child = script.turn("pay");
    script.finish(&child, done("paid"));
    assert_eq!(script.outcome(first), done("paid"));
    for (to, method) in [(Some("carol"), "pay"), (Some("bob"), "refund"), (None, "pay")] {
        let other = call(&mut script, &turn, "call", (to, method));
        assert_reused(&mut script, other, "call");
    }
    let as_value = record(&mut script, &turn, "call", text("1"));
    assert_reused(&mut script, as_value, "call");
    assert!(script.turns.is_empty());
    script.finish(&turn, done(""));
    script.assert_idle();
}

#[test]
fn keys_are_for_calls_of_turns() {
    let mut script = script();
    let root = |turn: Option<&Turn>, mode| Operation::Invoke {
        turn: turn.map(|turn| turn.token.clone()),
        mode,
        target: account("bob"),
        method: "m".into(),
        payload: text(""),
        deadline: None,
        trace: "".into(),
        retry: None,
        step_key: Some("k".into()),
        key: None,
    };
    let outside = script.request(root(None, Mode::Call));
    script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    let tell = script.request(root(Some(&turn), Mode::Tell));
    for request in [outside, tell] {
        let answer = script.answers.remove(&request);
        assert!(matches!(answer, Some(Err(RequestError::Invalid(_)))), "{answer:?}");
    }
    assert!(script.turns.is_empty());
}

#[test]
fn a_tail_call_begins_without_steps() {
    let mut script = script();
    script.invoke(None, Mode::Start, "alice", "first");
    let first = script.turn("first");
    record(&mut script, &first, "k", text("1"));
    let tail = TailCall {
        target: account("alice"),
        method: "second".into(),
        payload: text(""),
        keeps_lock: true,
    };
    let token = first.token.clone();
    script.event(Event::TurnResult { token, result: TurnResult::TailCall(tail) });
    let second = script.turn("second");
    assert!(second.recorded_steps.is_empty());
    let step = record(&mut script, &second, "k", text("2"));
    assert_eq!(script.answers.remove(&step), Some(Ok(Response::Step(text("2")))));
    let again = retried(&mut script, "second");
    assert_eq!(again.recorded_steps, BTreeMap::from([("k".into(), text("2"))]));
    script.finish(&again, done(""));
    script.assert_idle();
}

#[test]
fn steps_are_bounded_in_number_and_bytes() {
    let limits = Limits {
        steps_per_invocation_max: 3,
        step_bytes_per_invocation_max: 1_000,
        ..Limits::default()
    };
    let mut script = Script::with(&kinds(), limits);
    script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    let long = record(&mut script, &turn, "a", filled(1_000));
    assert_limit(&mut script, long, "step_bytes_per_invocation_max");
    let fits = record(&mut script, &turn, "a", filled(500));
    assert!(matches!(script.answers.remove(&fits), Some(Ok(Response::Step(_)))));
    let second = record(&mut script, &turn, "b", filled(500));
    assert_limit(&mut script, second, "step_bytes_per_invocation_max");
    let paid = call(&mut script, &turn, "c", (Some("bob"), "pay"));
    let child = script.turn("pay");
    script.finish(&child, Outcome::Done(filled(600)));
    assert!(matches!(script.outcome(paid), Outcome::Done(_)), "it was under way");
    let third = call(&mut script, &turn, "d", (Some("bob"), "pay"));
    assert_limit(&mut script, third, "step_bytes_per_invocation_max");
    script.finish(&turn, done(""));

    let limits = Limits { steps_per_invocation_max: 1, ..Limits::default() };
    let mut script = Script::with(&kinds(), limits);
    script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    record(&mut script, &turn, "a", text("1"));
    let call = call(&mut script, &turn, "b", (Some("bob"), "pay"));
    assert_limit(&mut script, call, "steps_per_invocation_max");
    let step = record(&mut script, &turn, "c", text("1"));
    assert_limit(&mut script, step, "steps_per_invocation_max");
    // What is recorded is answered all the same.
    let again = record(&mut script, &turn, "a", text("2"));
    assert_eq!(script.answers.remove(&again), Some(Ok(Response::Step(text("1")))));
}
