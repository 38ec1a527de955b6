//! Idempotency keys (design section 5): what a client sends again is one invocation, and each request gets its outcome.

mod script;

use kar_core::Event;
use kar_core::effect::{Notice, RequestError, Response, Turn};
use kar_core::event::{Operation, TailCall, TurnResult};
use kar_core::ids::{InvocationId, Kind, RequestId, Uuid};
use kar_core::invocation::{Mode, Outcome, Refusal, Target};
use kar_core::keys::RequestKey;
use kar_core::limits::{LimitHit, Limits};

use script::{Script, done, text};

const HOUR_MS: u64 = 3_600_000;

fn kinds() -> [Kind; 1] {
    [Kind::actor("Account")]
}

fn send(script: &mut Script, mode: Mode, method: &str, key: (u128, u128)) -> RequestId {
    let (uuid, digest) = (Uuid(key.0), key.1);
    script.request(Operation::Invoke {
        turn: None,
        mode,
        target: Target {
            kind: Kind::actor("Account"),
            actor: Some("alice".into()),
            affinity: None,
        },
        method: method.into(),
        payload: text("in"),
        deadline: None,
        trace: "".into(),
        step_key: None,
        retry: None,
        key: Some(Box::new(RequestKey { uuid, digest })),
    })
}

#[track_caller]
fn accepted(script: &mut Script, request: RequestId) -> InvocationId {
    match script.answers.remove(&request) {
        Some(Ok(Response::Accepted { invocation })) => invocation,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_sent_again_runs_once_whatever_its_state() {
    let mut script = Script::new(&kinds());
    let first = send(&mut script, Mode::Call, "m", (1, 1));
    let turn = script.turn("m");
    let second = send(&mut script, Mode::Call, "m", (1, 1));
    assert!(script.turns.is_empty());
    script.finish(&turn, done("out"));
    let third = send(&mut script, Mode::Call, "m", (1, 1));
    for request in [first, second, third] {
        assert_eq!(script.outcome(request), done("out"));
    }
    assert!(script.turns.is_empty());
    script.assert_idle();
}

#[test]
fn a_key_survives_owners_and_is_forgotten_after_its_time() {
    let mut script = Script::new(&kinds());
    let first = send(&mut script, Mode::Start, "m", (1, 1));
    let id = accepted(&mut script, first);
    let turn = script.turn("m");
    script.finish(&turn, done("out"));
    script.replace(&kinds());
    script.advance(23 * HOUR_MS);
    let again = send(&mut script, Mode::Call, "m", (1, 1));
    assert_eq!(script.outcome(again), done("out"));
    let started = send(&mut script, Mode::Start, "m", (1, 1));
    assert_eq!(accepted(&mut script, started), id);
    script.advance(2 * HOUR_MS);
    let anew = send(&mut script, Mode::Call, "m", (1, 1));
    let turn = script.turn("m");
    script.finish(&turn, done("anew"));
    assert_eq!(script.outcome(anew), done("anew"));
    script.assert_idle();
}

#[test]
fn a_tell_is_told_once() {
    let mut script = Script::new(&kinds());
    let first = send(&mut script, Mode::Tell, "m", (1, 1));
    let turn = script.turn("m");
    let second = send(&mut script, Mode::Tell, "m", (1, 1));
    script.finish(&turn, done(""));
    let third = send(&mut script, Mode::Tell, "m", (1, 1));
    let ids = [first, second, third].map(|request| accepted(&mut script, request));
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert!(script.turns.is_empty());
    script.assert_idle();
}

#[test]
fn a_key_stands_for_one_request() {
    let mut script = Script::new(&kinds());
    let first = send(&mut script, Mode::Call, "m", (1, 1));
    let turn = script.turn("m");
    let other = send(&mut script, Mode::Call, "n", (1, 2));
    assert_eq!(script.outcome(other), Outcome::Refused(Refusal::KeyReused));
    let own = send(&mut script, Mode::Call, "n", (2, 2));
    script.finish(&turn, done("m"));
    let turn = script.turn("n");
    script.finish(&turn, done("n"));
    assert_eq!(script.outcome(first), done("m"));
    assert_eq!(script.outcome(own), done("n"));
    script.assert_idle();
}

#[test]
fn what_cannot_be_remembered_is_refused_and_may_be_sent_again() {
    let limits = Limits { keys_per_partition_max: 1, ..Limits::default() };
    let mut script = Script::with(&kinds(), limits);
    let first = send(&mut script, Mode::Call, "m", (1, 1));
    let turn = script.turn("m");
    script.finish(&turn, done("m"));
    assert_eq!(script.outcome(first), done("m"));
    for _ in 0..2 {
        let other = send(&mut script, Mode::Call, "n", (2, 2));
        assert_eq!(script.outcome(other), Outcome::Refused(Refusal::KeysFull));
    }
    // Known ones are answered all the same.
    let again = send(&mut script, Mode::Call, "m", (1, 1));
    assert_eq!(script.outcome(again), done("m"));
    script.advance(25 * HOUR_MS);
    let other = send(&mut script, Mode::Call, "n", (2, 2));
    let turn = script.turn("n");
    script.finish(&turn, done("n"));
    assert_eq!(script.outcome(other), done("n"));
    script.assert_idle();
}

#[test]
fn long_outcomes_under_keys_are_bounded_and_hold_up_nothing_without_one() {
    let limits = Limits { keys_bytes_per_partition_max: 300, ..Limits::default() };
    let mut script = Script::with(&kinds(), limits);
    let first = send(&mut script, Mode::Call, "m", (1, 1));
    let turn = script.turn("m");
    let long = done(&"o".repeat(400));
    script.finish(&turn, long.clone());
    assert_eq!(script.outcome(first), long);
    let other = send(&mut script, Mode::Call, "n", (2, 2));
    assert_eq!(script.outcome(other), Outcome::Refused(Refusal::KeysBytesFull));
    let hit = Notice::Limit(LimitHit { name: "keys_bytes_per_partition_max", limit: 300 });
    assert!(script.notices.contains(&hit), "{:?}", script.notices);
    let keyless = script.invoke(None, Mode::Call, "alice", "k");
    let turn = script.turn("k");
    script.finish(&turn, done("k"));
    assert_eq!(script.outcome(keyless), done("k"));
    // Its time frees what it took.
    script.advance(25 * HOUR_MS);
    let other = send(&mut script, Mode::Call, "n", (2, 2));
    let turn = script.turn("n");
    script.finish(&turn, done("n"));
    assert_eq!(script.outcome(other), done("n"));
    script.assert_idle();
}

#[test]
fn keys_are_for_clients() {
    let mut script = Script::new(&kinds());
    script.invoke(None, Mode::Call, "bob", "m");
    let turn = script.turn("m");
    let request = script.request(Operation::Invoke {
        turn: Some(turn.token.clone()),
        mode: Mode::Call,
        target: Target {
            kind: Kind::actor("Account"),
            actor: Some("alice".into()),
            affinity: None,
        },
        method: "n".into(),
        payload: text(""),
        deadline: None,
        trace: "".into(),
        step_key: None,
        retry: None,
        key: Some(Box::new(RequestKey { uuid: Uuid(1), digest: 1 })),
    });
    let answer = script.answers.remove(&request);
    assert!(matches!(answer, Some(Err(RequestError::Invalid(_)))), "{answer:?}");
    script.finish(&turn, done(""));
    script.assert_idle();
}

/// Nobody knows when a tell's chain ends that has left: its key's time begins when it leaves.
#[test]
fn a_key_whose_chain_of_steps_has_left_is_forgotten_too() {
    let limits = Limits { keys_per_partition_max: 1, ..Limits::default() };
    for comes_back in [false, true] {
        let mut script = Script::with(&both_kinds(), limits.clone());
        let first = send(&mut script, Mode::Tell, "m", (1, 1));
        accepted(&mut script, first);
        let turn = script.turn("m");
        tail(&mut script, &turn, None);
        let mut last = script.turn("next");
        if comes_back {
            tail(&mut script, &last, Some("alice"));
            last = script.turn("next");
        }
        script.advance(HOUR_MS);
        script.finish(&last, done(""));
        let again = send(&mut script, Mode::Tell, "m", (1, 1));
        accepted(&mut script, again);
        assert!(script.turns.is_empty(), "it is known");
        script.replace(&both_kinds());
        script.advance(24 * HOUR_MS);
        let other = send(&mut script, Mode::Tell, "n", (2, 2));
        accepted(&mut script, other);
        let turn = script.turn("n");
        script.finish(&turn, done(""));
        script.assert_idle();
    }
}

fn both_kinds() -> [Kind; 2] {
    [Kind::actor("Account"), Kind::service("ledger")]
}

/// Ends a turn with a tail call to an account, or to the service.
fn tail(script: &mut Script, turn: &Turn, actor: Option<&str>) {
    let kind = if actor.is_some() { Kind::actor("Account") } else { Kind::service("ledger") };
    let target = Target { kind, actor: actor.map(Into::into), affinity: None };
    let (method, payload) = ("next".into(), text("next"));
    let call = TailCall { target, method, payload, keeps_lock: false };
    let (token, result) = (turn.token.clone(), TurnResult::TailCall(call));
    script.event(Event::TurnResult { token, result });
}

/// How long the outcomes will be of what was accepted is not known then: the oldest go, and their keys stay.
#[test]
fn outcomes_under_keys_are_bounded_whenever_they_come() {
    let limits = Limits { keys_bytes_per_partition_max: 1_000, ..Limits::default() };
    let mut script = Script::with(&kinds(), limits);
    let requests: Vec<_> = (1..=8).map(|n| send(&mut script, Mode::Call, "m", (n, n))).collect();
    let long = done(&"o".repeat(400));
    for request in requests {
        let turn = script.turn("m");
        script.finish(&turn, long.clone());
        assert_eq!(script.outcome(request), long, "whoever waits is told");
        script.advance(1);
    }
    let hit = Notice::Limit(LimitHit { name: "keys_bytes_per_partition_max", limit: 1_000 });
    assert!(script.notices.contains(&hit), "{:?}", script.notices);
    for restored in [false, true] {
        if restored {
            script.replace(&kinds());
            script.advance(1_000);
        }
        let first = send(&mut script, Mode::Call, "m", (1, 1));
        let last = send(&mut script, Mode::Call, "m", (8, 8));
        assert_eq!(script.outcome(last), long);
        let unknown = script.answers.remove(&first);
        assert!(
            matches!(unknown, Some(Err(RequestError::UnknownInvocation(_)))),
            "its outcome is gone: {unknown:?}"
        );
        assert!(script.turns.is_empty(), "it does not run again");
    }
    script.assert_idle();
}
