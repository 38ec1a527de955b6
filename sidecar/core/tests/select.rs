//! Ranges of an actor's state, and conditions: a turn sees its own writes in all of them (P4), they are committed or
//! dropped with it (P5), and they are the same after any loss of memory, owner or store (DESIGN 7).

mod script;

use std::collections::BTreeMap;
use std::sync::Arc;

use kar_core::effect::{RequestError, Response, Turn};
use kar_core::event::Operation;
use kar_core::ids::{Kind, RequestId};
use kar_core::invocation::{ApplicationError, Mode, Outcome, Payload, StateCondition, StateOp};
use kar_core::limits::Limits;
use kar_core::select::{KeyRange, Select, Selected};

use script::{Script, done, text};

const RECOVERED_MS: u64 = 2_000;

fn account() -> Script {
    Script::new(&[Kind::actor("Account")])
}

fn set(key: &str, value: &str) -> StateOp {
    StateOp::Set { key: key.into(), value: text(value) }
}

fn range(from: &str, to: &str) -> KeyRange {
    KeyRange { from: from.into(), to: Some(to.into()) }
}

fn apply(
    script: &mut Script,
    turn: &Turn,
    ops: Vec<StateOp>,
    conditions: Vec<StateCondition>,
) -> Result<Response, RequestError> {
    let turn = turn.token.clone();
    let request = script.request(Operation::StateApply { turn, ops, conditions });
    script.answers.remove(&request).expect("the state is loaded")
}

fn must_be(after: usize, key: &str, value: Option<&str>) -> StateCondition {
    StateCondition { after, key: key.into(), value: value.map(text) }
}

fn read(script: &mut Script, turn: &Turn, select: Select) -> Selected {
    let request = script.request(Operation::StateRead { turn: turn.token.clone(), select });
    selected(script, request)
}

fn read_outside(script: &mut Script, select: Select) -> Selected {
    let (kind, actor) = (Kind::actor("Account"), "alice".into());
    let request = script.request(Operation::StateOf { kind, actor, select });
    script.advance(10);
    selected(script, request)
}

fn selected(script: &mut Script, request: RequestId) -> Selected {
    match script.answers.remove(&request) {
        Some(Ok(Response::State(selected))) => selected,
        other => panic!("no state but {other:?}"),
    }
}

fn entries(pairs: &[(&str, &str)]) -> BTreeMap<Arc<str>, Payload> {
    pairs.iter().map(|(k, v)| (Arc::from(*k), text(v))).collect()
}

fn page(from: &str, to: &str, entries: usize) -> Select {
    Select::Page { range: range(from, to), entries, bytes: usize::MAX }
}

/// A turn that does things to alice's state, and ends well.
fn write(script: &mut Script, ops: Vec<StateOp>) {
    let call = script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    assert_eq!(apply(script, &turn, ops, Vec::new()), Ok(Response::Ok));
    script.finish(&turn, done(""));
    assert_eq!(script.outcome(call), done(""));
}

fn failed() -> Outcome {
    Outcome::Failed(ApplicationError { code: "no".into(), ..ApplicationError::default() })
}

#[test]
fn a_turn_sees_ranges_with_its_own_writes_and_drops_them_when_it_fails() {
    let mut script = account();
    write(&mut script, vec![set("a", "1"), set("m1", "1"), set("m2", "2"), set("m3", "3")]);
    let call = script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    let ops = vec![StateOp::RemoveRange(range("m1", "m3")), set("m22", "new"), set("z", "9")];
    assert_eq!(apply(&mut script, &turn, ops, Vec::new()), Ok(Response::Ok));
    let first = Selected::Page { entries: entries(&[("m22", "new")]), more: true };
    assert_eq!(read(&mut script, &turn, page("m", "n", 1)), first);
    let rest = Selected::Page { entries: entries(&[("m3", "3")]), more: false };
    assert_eq!(read(&mut script, &turn, page("m22\0", "n", 9)), rest);
    let count = Select::Count(KeyRange::all());
    assert_eq!(read(&mut script, &turn, count.clone()), Selected::Count(4));
    // Nobody else does.
    assert_eq!(read_outside(&mut script, Select::Count(range("m", "n"))), Selected::Count(3));
    script.finish(&turn, failed());
    assert_eq!(script.outcome(call), failed());
    assert_eq!(read_outside(&mut script, count), Selected::Count(4));
    let page = read_outside(&mut script, page("m1", "m3", 2));
    assert_eq!(page, Selected::Page { entries: entries(&[("m1", "1"), ("m2", "2")]), more: false });
    script.assert_idle();
}

#[test]
fn a_removed_range_stays_removed_whatever_is_lost() {
    for cached in [0, 10] {
        let limits = Limits { cached_actors_max: cached, ..Limits::default() };
        let mut script = Script::with(&[Kind::actor("Account")], limits);
        write(&mut script, vec![set("a", "1"), set("m1", "1"), set("m2", "2"), set("n", "3")]);
        // The store learns of it late: what it loads meanwhile is made right by what it lacks.
        script.hold_writes = true;
        write(&mut script, vec![StateOp::RemoveRange(range("m", "n")), set("m2", "4")]);
        let left = Selected::Entries(entries(&[("a", "1"), ("m2", "4"), ("n", "3")]));
        assert_eq!(read_outside(&mut script, Select::all()), left);
        script.store_back();
        assert_eq!(read_outside(&mut script, Select::all()), left);
        let stored: Vec<_> = script.store.values().cloned().collect();
        assert_eq!(stored, [entries(&[("a", "1"), ("m2", "4"), ("n", "3")])]);
        // A new owner reads it from the log, and from the store.
        script.replace(&[Kind::actor("Account")]);
        script.advance(RECOVERED_MS);
        assert_eq!(read_outside(&mut script, Select::all()), left);
    }
}

#[test]
fn changes_are_made_if_every_condition_holds_where_it_stands_and_else_none_is() {
    let mut script = account();
    write(&mut script, vec![set("a", "1"), set("m1", "1")]);
    let call = script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    let ops = || vec![set("a", "2"), StateOp::RemoveRange(range("m", "n")), set("b", "1")];
    let fails = |key: &str| Err(RequestError::ConditionFailed(key.into()));
    let table = [
        (vec![must_be(0, "a", Some("2"))], fails("a")),
        (vec![must_be(1, "a", Some("1"))], fails("a")),
        (vec![must_be(0, "a", None)], fails("a")),
        (vec![must_be(1, "m1", None)], fails("m1")),
        (vec![must_be(3, "b", Some("2"))], fails("b")),
        (vec![must_be(0, "b", None), must_be(2, "m1", Some("1"))], fails("m1")),
        (vec![must_be(2, "m1", None), must_be(3, "b", None)], fails("b")),
    ];
    for (conditions, answer) in table {
        assert_eq!(apply(&mut script, &turn, ops(), conditions.clone()), answer, "{conditions:?}");
        let seen = read(&mut script, &turn, Select::all());
        assert_eq!(seen, Selected::Entries(entries(&[("a", "1"), ("m1", "1")])), "{conditions:?}");
    }
    let hold = vec![
        must_be(0, "a", Some("1")),
        must_be(0, "b", None),
        must_be(1, "a", Some("2")),
        must_be(2, "m1", None),
        must_be(3, "b", Some("1")),
    ];
    assert_eq!(apply(&mut script, &turn, ops(), hold), Ok(Response::Ok));
    // What the turn has buffered counts.
    let again = apply(&mut script, &turn, vec![set("a", "3")], vec![must_be(0, "a", Some("1"))]);
    assert_eq!(again, fails("a"));
    let again = apply(&mut script, &turn, vec![set("a", "3")], vec![must_be(0, "a", Some("2"))]);
    assert_eq!(again, Ok(Response::Ok));
    script.finish(&turn, done(""));
    assert_eq!(script.outcome(call), done(""));
    let left = Selected::Entries(entries(&[("a", "3"), ("b", "1")]));
    assert_eq!(read_outside(&mut script, Select::all()), left);
}

#[test]
fn a_condition_waits_for_the_state_that_it_is_about() {
    let limits = Limits { cached_actors_max: 0, ..Limits::default() };
    let mut script = Script::with(&[Kind::actor("Account")], limits);
    write(&mut script, vec![set("a", "1")]);
    // More are awake than may be: it becomes passive.
    script.advance(1);
    script.hold_loads = true;
    let call = script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    let mut ask = |value: Option<&str>| {
        let (turn, conditions) = (turn.token.clone(), vec![must_be(0, "a", value)]);
        script.request(Operation::StateApply { turn, ops: vec![set("a", "2")], conditions })
    };
    let (wrong, right) = (ask(None), ask(Some("1")));
    assert!(script.answers.is_empty(), "answered before: {:?}", script.answers);
    script.store_back();
    let refused = Some(Err(RequestError::ConditionFailed("a".into())));
    assert_eq!(script.answers.remove(&wrong), refused);
    assert_eq!(script.answers.remove(&right), Some(Ok(Response::Ok)));
    script.finish(&turn, done(""));
    assert_eq!(script.outcome(call), done(""));
}
