//! How much an actor may hold, and how far the store may stay behind: said by name to whoever goes beyond, and nothing
//! is lost.

mod script;

use std::collections::BTreeMap;

use kar_core::effect::{Notice, RequestError, Response, Turn};
use kar_core::event::Operation;
use kar_core::ids::{Kind, RequestId};
use kar_core::invocation::{Mode, StateOp};
use kar_core::limits::Limits;
use kar_core::select::Select;

use script::{Script, done, filled};

const UNSTORED: &str = "unstored_bytes_per_partition_max";
const STATE: &str = "state_bytes_per_actor_max";

fn host(limits: Limits) -> Script {
    Script::with(&[Kind::actor("Account")], limits)
}

fn set(key: &str, bytes: usize) -> StateOp {
    StateOp::Set { key: key.into(), value: filled(bytes) }
}

fn apply(script: &mut Script, turn: &Turn, ops: Vec<StateOp>) -> RequestId {
    script.request(Operation::StateApply { turn: turn.token.clone(), ops, conditions: Vec::new() })
}

fn begin(script: &mut Script, actor: &str) -> (RequestId, Turn) {
    let call = script.invoke(None, Mode::Call, actor, "m");
    (call, script.turn("m"))
}

/// A turn that sets a key, done.
fn write(script: &mut Script, actor: &str, key: &str, bytes: usize) {
    let (call, turn) = begin(script, actor);
    let applied = apply(script, &turn, vec![set(key, bytes)]);
    assert_eq!(script.answers.remove(&applied), Some(Ok(Response::Ok)));
    script.finish(&turn, done(""));
    script.outcome(call);
}

#[track_caller]
fn assert_limit(script: &mut Script, request: RequestId, name: &str) {
    match script.answers.remove(&request) {
        Some(Err(RequestError::Limit(hit))) => assert_eq!(hit.name, name),
        other => panic!("expected the limit {name}, got {other:?}"),
    }
}

fn told(script: &Script, name: &str) -> usize {
    script.notices.iter().filter(|n| matches!(n, Notice::Limit(hit) if hit.name == name)).count()
}

fn stored(script: &Script) -> usize {
    script.store.values().flat_map(BTreeMap::values).map(|value| value.data.len()).sum()
}

#[test]
fn while_the_store_is_too_far_behind_no_turn_starts_and_nothing_is_lost() {
    let mut script = host(Limits { unstored_bytes_per_partition_max: 1_000, ..Limits::default() });
    write(&mut script, "alice", "a", 1);
    script.hold_writes = true;
    for key in ["b", "c", "d"] {
        write(&mut script, "alice", key, 200);
    }
    assert_eq!(told(&script, UNSTORED), 0, "it may lack that much");
    let (call, running) = begin(&mut script, "alice");
    write_in(&mut script, &running, "e", 200);
    script.finish(&running, done("ok"));
    assert_eq!(script.outcome(call), done("ok"), "what runs ends");
    assert_eq!(told(&script, UNSTORED), 1);
    let waiting = script.invoke(None, Mode::Call, "alice", "waits");
    let tell = script.invoke(None, Mode::Tell, "alice", "told");
    assert!(matches!(script.answers.remove(&tell), Some(Ok(Response::Accepted { .. }))));
    script.advance(5_000);
    assert!(script.turns.is_empty(), "{:?}", script.turns);
    assert!(script.answers.is_empty(), "{:?}", script.answers);
    script.store_back();
    let turn = script.turn("waits");
    script.finish(&turn, done("at last"));
    assert_eq!(script.outcome(waiting), done("at last"));
    let turn = script.turn("told");
    script.finish(&turn, done(""));
    assert_eq!(told(&script, UNSTORED), 1, "told once");
    assert_eq!(stored(&script), 1 + 4 * 200);
    assert_eq!(script.node.held().unstored_bytes, 0);
    script.assert_idle();
}

fn write_in(script: &mut Script, turn: &Turn, key: &str, bytes: usize) {
    let applied = apply(script, turn, vec![set(key, bytes)]);
    assert_eq!(script.answers.remove(&applied), Some(Ok(Response::Ok)));
}

#[test]
fn a_turn_that_runs_on_may_write_twice_the_bound_and_no_more() {
    let mut script = host(Limits { unstored_bytes_per_partition_max: 1_000, ..Limits::default() });
    write(&mut script, "alice", "a", 1);
    script.hold_writes = true;
    let (call, turn) = begin(&mut script, "alice");
    let mut written = 1;
    let refused = loop {
        let applied = apply(&mut script, &turn, vec![set("b", 300)]);
        if !matches!(script.answers.get(&applied), Some(Ok(_))) {
            break applied;
        }
        script.answers.remove(&applied);
        written += 1;
        let flush = script.request(Operation::Flush { turn: turn.token.clone() });
        assert_eq!(script.answers.remove(&flush), Some(Ok(Response::Ok)));
        assert!(written < 10, "without end");
    };
    assert_limit(&mut script, refused, UNSTORED);
    assert!((1_000..=2_000).contains(&script.node.held().unstored_bytes));
    script.finish(&turn, done(""));
    script.outcome(call);
    script.store_back();
    write(&mut script, "alice", "c", 300);
    assert_eq!(stored(&script), 1 + 300 + 300);
    script.assert_idle();
}

#[test]
fn a_new_owner_counts_what_the_store_lacks() {
    let limits = Limits { unstored_bytes_per_partition_max: 1_000, ..Limits::default() };
    let mut script = host(limits);
    write(&mut script, "alice", "a", 1);
    script.hold_writes = true;
    for key in ["b", "c", "d", "e"] {
        if key == "e" {
            assert!(script.node.held().unstored_bytes > 600);
        }
        write(&mut script, "alice", key, 200);
    }
    let before = script.node.held().unstored_bytes;
    script.store_steps.clear();
    script.replace(&[Kind::actor("Account")]);
    script.advance(1_000);
    assert_eq!(script.node.held().unstored_bytes, before);
    script.invoke(None, Mode::Tell, "alice", "waits");
    script.advance(1_000);
    assert!(script.turns.is_empty(), "{:?}", script.turns);
    script.store_back();
    let turn = script.turn("waits");
    script.finish(&turn, done(""));
    assert_eq!(stored(&script), 1 + 4 * 200);
    assert_eq!(script.node.held().unstored_bytes, 0);
}

#[test]
fn an_actor_that_would_hold_too_much_is_refused_the_write_and_keeps_what_it_has() {
    let mut script = host(Limits { state_bytes_per_actor_max: 1_000, ..Limits::default() });
    write(&mut script, "alice", "a", 400);
    let (call, turn) = begin(&mut script, "alice");
    write_in(&mut script, &turn, "b", 300);
    let over = apply(&mut script, &turn, vec![set("c", 300)]);
    assert_limit(&mut script, over, STATE);
    assert_eq!(told(&script, STATE), 1);
    // What replaces something, or comes after a removal, is counted as what it comes to.
    write_in(&mut script, &turn, "a", 420);
    let fits = vec![StateOp::Remove { key: "b".into() }, set("c", 300)];
    let applied = apply(&mut script, &turn, fits);
    assert_eq!(script.answers.remove(&applied), Some(Ok(Response::Ok)));
    let applied = apply(&mut script, &turn, vec![StateOp::Clear, set("d", 800)]);
    assert_eq!(script.answers.remove(&applied), Some(Ok(Response::Ok)));
    script.finish(&turn, done(""));
    script.outcome(call);
    assert_eq!(stored(&script), 800);
    // Another actor of the partition has its own bound.
    write(&mut script, "bob", "a", 800);
    script.assert_idle();
}

#[test]
fn what_an_actor_holds_in_the_store_counts_before_it_is_in_memory() {
    let limits =
        Limits { state_bytes_per_actor_max: 1_000, cached_actors_max: 0, ..Limits::default() };
    let mut script = host(limits);
    write(&mut script, "alice", "a", 700);
    // More are awake than may be: it becomes passive.
    script.advance(1);
    script.hold_loads = true;
    let (call, turn) = begin(&mut script, "alice");
    let over = apply(&mut script, &turn, vec![set("b", 700)]);
    let fits = apply(&mut script, &turn, vec![set("c", 10)]);
    let tell = script.invoke(Some(&turn), Mode::Tell, "bob", "later");
    let flush = script.request(Operation::Flush { turn: turn.token.clone() });
    let read =
        script.request(Operation::StateRead { turn: turn.token.clone(), select: Select::all() });
    script.finish(&turn, done("ok"));
    assert!(script.answers.is_empty(), "in order, when its size is known: {:?}", script.answers);
    script.store_back();
    assert_limit(&mut script, over, STATE);
    assert_eq!(script.answers.remove(&fits), Some(Ok(Response::Ok)));
    assert!(matches!(script.answers.remove(&tell), Some(Ok(Response::Accepted { .. }))));
    assert_eq!(script.answers.remove(&flush), Some(Ok(Response::Ok)));
    assert_eq!(script.state(read).len(), 2);
    assert_eq!(script.outcome(call), done("ok"));
    assert_eq!(stored(&script), 700 + 10);
    let later = script.turn("later");
    script.finish(&later, done(""));
    script.assert_idle();
}

#[test]
fn a_turn_that_waits_to_write_is_told_when_the_reign_ends() {
    let mut script = host(Limits::default());
    script.invoke(None, Mode::Tell, "alice", "m");
    let turn = script.turn("m");
    script.hold_loads = true;
    let waits = apply(&mut script, &turn, vec![set("a", 1)]);
    let after = script.request(Operation::Flush { turn: turn.token.clone() });
    assert!(!script.answers.contains_key(&waits));
    let log = turn.token.invocation.home.clone();
    let claim = script.claimed_by(&log, kar_core::ids::NodeId(9));
    script.event(claim);
    for request in [waits, after] {
        let answer = script.answers.remove(&request);
        assert!(matches!(answer, Some(Err(RequestError::TurnSuperseded(_)))), "{answer:?}");
    }
}

#[test]
fn an_actor_over_a_bound_that_was_lowered_can_be_cut_down() {
    let mut script = host(Limits::default());
    write(&mut script, "alice", "a", 700);
    write(&mut script, "alice", "b", 700);
    script.limits.state_bytes_per_actor_max = 1_000;
    script.replace(&[Kind::actor("Account")]);
    script.advance(1_000);
    let (call, turn) = begin(&mut script, "alice");
    let more = apply(&mut script, &turn, vec![set("c", 1)]);
    assert_limit(&mut script, more, STATE);
    write_in(&mut script, &turn, "a", 600);
    script.finish(&turn, done(""));
    script.outcome(call);
    assert_eq!(stored(&script), 600 + 700);
}

/// A parallel branch of a turn has written before a call of its flow came back to the actor.
#[test]
fn what_turns_below_have_buffered_counts_too() {
    let mut script = host(Limits { state_bytes_per_actor_max: 1_000, ..Limits::default() });
    let (call, turn) = begin(&mut script, "alice");
    let away = script.invoke(Some(&turn), Mode::Call, "bob", "away");
    let bob = script.turn("away");
    write_in(&mut script, &turn, "a", 500);
    let back = script.invoke(Some(&bob), Mode::Call, "alice", "back");
    let top = script.turn("back");
    let over = apply(&mut script, &top, vec![set("b", 500)]);
    assert_limit(&mut script, over, STATE);
    write_in(&mut script, &top, "b", 200);
    write_in(&mut script, &top, "a", 600);
    for (turn, call) in [(&top, back), (&bob, away), (&turn, call)] {
        script.finish(turn, done(""));
        script.outcome(call);
    }
    assert_eq!(stored(&script), 500 + 200, "the turn below has the last word");
    script.assert_idle();
}
