//! Shared methods (P4): beside each other, never beside an exclusive one of another flow, in the order of arrival.

mod script;

use std::collections::BTreeSet;

use kar_core::Event;
use kar_core::effect::{RequestError, Response, Turn};
use kar_core::event::{Offer, Operation, TailCall, TurnResult};
use kar_core::ids::{Kind, RequestId, SessionId};
use kar_core::invocation::{Mode, Outcome, Refusal, Target};
use kar_core::record::RecordedStep;

use script::{Script, done, text};

/// Longer than every grace.
const LONG_MS: u64 = 40_000;

fn kinds() -> [Kind; 1] {
    [Kind::actor("Account")]
}

fn offer() -> Offer {
    let shared = ["look", "peek"].map(Into::into).into_iter().collect::<BTreeSet<_>>();
    let shared = [(Kind::actor("Account"), shared)].into();
    Offer { kinds: kinds().into(), concurrency: 4, shared, ..Offer::default() }
}

/// A host whose accounts have the shared methods `look` and `peek`.
fn script() -> Script {
    let mut script = Script::new(&kinds());
    script.offer = Some(offer());
    script.event(Event::HostUp { session: SessionId(100), offer: offer() });
    script
}

fn call(script: &mut Script, method: &str) -> RequestId {
    script.invoke(None, Mode::Call, "alice", method)
}

fn nested(script: &mut Script, turn: &Turn, actor: &str, method: &str) -> RequestId {
    script.invoke(Some(turn), Mode::Call, actor, method)
}

#[track_caller]
fn assert_refused(script: &mut Script, request: RequestId) {
    assert_eq!(script.outcome(request), Outcome::Refused(Refusal::SharedToExclusive));
}

#[test]
fn shared_turns_run_beside_each_other_and_pass_nobody() {
    let mut script = script();
    let (a, b) = (call(&mut script, "look"), call(&mut script, "peek"));
    let (first, second) = (script.turn("look"), script.turn("peek"));
    let alone = call(&mut script, "m");
    let late = call(&mut script, "look");
    assert!(script.turns.is_empty(), "the exclusive one waits, and the shared one behind it");
    script.finish(&first, done("a"));
    assert!(script.turns.is_empty());
    script.finish(&second, done("b"));
    let exclusive = script.turn("m");
    assert!(script.turns.is_empty());
    script.finish(&exclusive, done("m"));
    let last = script.turn("look");
    script.finish(&last, done("c"));
    for (request, value) in [(a, "a"), (b, "b"), (alone, "m"), (late, "c")] {
        assert_eq!(script.outcome(request), done(value));
    }
    script.assert_idle();
}

#[test]
fn a_shared_turn_does_everything_but_write() {
    let mut script = script();
    script.deposit("alice", "7");
    call(&mut script, "look");
    let turn = script.turn("look");
    let state = script.read(&turn).expect("cached");
    assert_eq!(state.get("balance"), Some(&text("7")));
    let set = script.set(&turn, "k", "v");
    assert_eq!(script.answers.remove(&set), Some(Err(RequestError::SharedTurn)));
    let step = RecordedStep { key: "k".into(), payload: text("1") };
    let step = script.request(Operation::RecordStep { turn: turn.token.clone(), step });
    assert_eq!(script.answers.remove(&step), Some(Ok(Response::Step(text("1")))));
    let told = script.invoke(Some(&turn), Mode::Tell, "bob", "told");
    assert!(matches!(script.answers.remove(&told), Some(Ok(Response::Accepted { .. }))));
    let inner = nested(&mut script, &turn, "bob", "inner");
    let told = script.turn("told");
    script.finish(&told, done(""));
    let turn_inner = script.turn("inner");
    script.finish(&turn_inner, done("in"));
    assert_eq!(script.outcome(inner), done("in"));
    script.finish(&turn, done(""));
}

#[test]
fn a_flow_cannot_go_from_shared_to_exclusive() {
    let mut script = script();
    call(&mut script, "look");
    let outer = script.turn("look");
    let direct = nested(&mut script, &outer, "alice", "m");
    assert_refused(&mut script, direct);
    let around = nested(&mut script, &outer, "bob", "middle");
    let middle = script.turn("middle");
    let back = nested(&mut script, &middle, "alice", "m");
    assert_refused(&mut script, back);
    script.finish(&middle, done("mid"));
    assert_eq!(script.outcome(around), done("mid"));
    script.finish(&outer, done(""));
    script.assert_idle();
}

#[test]
fn what_ran_as_shared_is_refused_once_its_method_is_exclusive() {
    let mut script = script();
    call(&mut script, "look");
    let peek = |script: &mut Script, turn: &Turn| {
        script.request(Operation::Invoke {
            turn: Some(turn.token.clone()),
            mode: Mode::Call,
            target: Target {
                kind: Kind::actor("Account"),
                actor: Some("alice".into()),
                affinity: None,
            },
            method: "peek".into(),
            payload: text("in"),
            deadline: None,
            trace: "".into(),
            retry: None,
            step_key: Some("k".into()),
            key: None,
        })
    };
    let outer = script.turn("look");
    peek(&mut script, &outer);
    script.turn("peek");
    // The next version of the host has made it an exclusive one.
    let mut next = offer();
    next.shared = [(Kind::actor("Account"), ["look".into()].into())].into();
    script.offer = Some(next);
    script.replace(&kinds());
    script.advance(LONG_MS);
    let outer = script.turn("look");
    let again = peek(&mut script, &outer);
    assert!(script.turns.is_empty());
    assert_refused(&mut script, again);
    script.finish(&outer, done(""));
    script.assert_idle();
}

#[test]
fn shared_calls_of_a_holding_flow_pass_the_queue() {
    let mut script = script();
    call(&mut script, "look");
    let outer = script.turn("look");
    // An exclusive one waits, and would wait for ever if what its holder calls waited behind it.
    let waiting = call(&mut script, "m");
    let again = nested(&mut script, &outer, "alice", "peek");
    let inner = script.turn("peek");
    script.finish(&inner, done("in"));
    assert_eq!(script.outcome(again), done("in"));
    script.finish(&outer, done("out"));
    let exclusive = script.turn("m");
    script.finish(&exclusive, done("m"));
    assert_eq!(script.outcome(waiting), done("m"));
    script.assert_idle();
}

#[test]
fn a_flow_that_holds_the_actor_alone_lets_its_shared_calls_in() {
    let mut script = script();
    call(&mut script, "m");
    let outer = script.turn("m");
    call(&mut script, "look");
    script.set(&outer, "k", "v");
    let inside = nested(&mut script, &outer, "alice", "peek");
    let inner = script.turn("peek");
    assert!(script.turns.is_empty(), "others wait");
    assert_eq!(script.read(&inner).expect("cached").get("k"), Some(&text("v")));
    let set = script.set(&inner, "k", "w");
    assert_eq!(script.answers.remove(&set), Some(Err(RequestError::SharedTurn)));
    // From here the flow holds the actor alone, so it may go on alone.
    let deeper = nested(&mut script, &inner, "alice", "n");
    let deep = script.turn("n");
    script.finish(&deep, done("deep"));
    assert_eq!(script.outcome(deeper), done("deep"));
    script.finish(&inner, done("in"));
    assert_eq!(script.outcome(inside), done("in"));
    script.finish(&outer, done("out"));
    let other = script.turn("look");
    script.finish(&other, done(""));
    script.assert_idle();
}

#[test]
fn another_owner_restores_all_who_held_it_together() {
    let mut script = script();
    for method in ["look", "peek"] {
        script.invoke(None, Mode::Start, "alice", method);
    }
    let (look, peek) = (script.turn("look"), script.turn("peek"));
    nested(&mut script, &look, "bob", "b");
    nested(&mut script, &peek, "carol", "c");
    script.turn("b");
    script.turn("c");
    script.invoke(None, Mode::Tell, "alice", "m");
    script.replace(&kinds());
    script.advance(LONG_MS);
    // Their calls first; the exclusive one waits for both.
    let mut calls =
        [script.turns.pop_front(), script.turns.pop_front()].map(|t| t.expect("a call"));
    calls.sort_by_key(|turn| turn.method.clone());
    assert_eq!([&*calls[0].method, &*calls[1].method], ["b", "c"]);
    assert!(script.turns.is_empty());
    // The one that was let in last goes on first: nothing keeps either from going on without the other.
    script.finish(&calls[1], done(""));
    let peek = script.turn("peek");
    // What it calls of itself does not wait for the other one.
    let again = nested(&mut script, &peek, "alice", "look");
    let inner = script.turn("look");
    script.finish(&inner, done("in"));
    assert_eq!(script.outcome(again), done("in"));
    script.finish(&peek, done(""));
    assert!(script.turns.is_empty());
    script.finish(&calls[0], done(""));
    let look = script.turn("look");
    assert_eq!(look.token.attempt, 2);
    script.finish(&look, done(""));
    let exclusive = script.turn("m");
    script.finish(&exclusive, done(""));
    script.assert_idle();
}

#[test]
fn what_waited_without_a_host_runs_together_when_one_comes() {
    let mut script = script();
    script.replace(&[]);
    for method in ["look", "peek", "look"] {
        script.invoke(None, Mode::Tell, "alice", method);
    }
    script.advance(1_000);
    assert!(script.turns.is_empty());
    script.event(Event::HostUp { session: SessionId(101), offer: offer() });
    let turns: Vec<_> = script.turns.drain(..).collect();
    assert_eq!(turns.len(), 3, "{turns:?}");
    for turn in &turns {
        script.finish(turn, done(""));
    }
    script.assert_idle();
}

#[test]
fn slots_bound_shared_roots_too() {
    let mut script = script();
    for _ in 0..6 {
        call(&mut script, "look");
    }
    let running: Vec<_> = script.turns.drain(..).collect();
    assert_eq!(running.len(), 4);
    for turn in &running {
        script.finish(turn, done(""));
    }
    let rest: Vec<_> = script.turns.drain(..).collect();
    assert_eq!(rest.len(), 2);
    for turn in &rest {
        script.finish(turn, done(""));
    }
    script.assert_idle();
}

#[test]
fn a_shared_turn_has_no_lock_to_keep() {
    let mut script = script();
    let request = call(&mut script, "look");
    let turn = script.turn("look");
    let target =
        Target { kind: Kind::actor("Account"), actor: Some("alice".into()), affinity: None };
    let tail = TailCall { target, method: "m".into(), payload: text(""), keeps_lock: true };
    let token = turn.token.clone();
    script.event(Event::TurnResult { token, result: TurnResult::TailCall(tail) });
    match script.outcome(request) {
        Outcome::Failed(error) => assert_eq!(&*error.code, "kar.INVALID_TAIL_CALL"),
        other => panic!("{other:?}"),
    }
    script.assert_idle();
}
