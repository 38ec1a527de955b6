//! The store goes back in time, or holds more than the log: nothing that was committed is lost, and nothing else is
//! served.

mod script;

use std::collections::BTreeMap;
use std::sync::Arc;

use kar_core::effect::{Notice, RequestError, Response};
use kar_core::event::{Cell, Operation};
use kar_core::ids::{Kind, PartitionId};
use kar_core::invocation::{Mode, Payload};
use kar_core::limits::Limits;
use kar_core::select::Select;

use script::{Script, done, text};

type Store =
    (BTreeMap<(PartitionId, Arc<str>), BTreeMap<Arc<str>, Payload>>, BTreeMap<PartitionId, Cell>);

/// Long enough for a reign that was dropped to be followed by one that dispatches.
const RECOVERED_MS: u64 = 2_000;

fn account(cached: usize) -> Script {
    let limits = Limits { cached_actors_max: cached, ..Limits::default() };
    Script::with(&[Kind::actor("Account")], limits)
}

/// A turn that sets a key, done and materialised.
fn write(script: &mut Script, key: &str, value: &str) {
    let call = script.invoke(None, Mode::Call, "alice", "set");
    let turn = script.turn("set");
    let set = script.set(&turn, key, value);
    assert_eq!(script.answers.remove(&set), Some(Ok(Response::Ok)));
    script.finish(&turn, done(""));
    script.outcome(call);
}

fn saved(script: &Script) -> Store {
    (script.store.clone(), script.cells.clone())
}

fn roll_back(script: &mut Script, to: Store) {
    (script.store, script.cells) = to;
}

fn rollbacks(script: &Script) -> usize {
    script.notices.iter().filter(|n| matches!(n, Notice::StoreRolledBack { .. })).count()
}

fn state(pairs: &[(&str, &str)]) -> BTreeMap<Arc<str>, Payload> {
    pairs.iter().map(|(k, v)| (Arc::from(*k), text(v))).collect()
}

/// All that the store holds of the one actor.
fn stored(script: &Script) -> BTreeMap<Arc<str>, Payload> {
    script.store.values().next().cloned().unwrap_or_default()
}

#[test]
fn a_write_after_a_rollback_waits_until_the_log_has_healed_the_store() {
    let mut script = account(10);
    write(&mut script, "a", "1");
    let before = saved(&script);
    write(&mut script, "b", "2");
    roll_back(&mut script, before);
    // The actor is cached: the owner learns of it only when it writes.
    write(&mut script, "c", "3");
    assert_eq!(rollbacks(&script), 1);
    script.advance(RECOVERED_MS);
    assert_eq!(stored(&script), state(&[("a", "1"), ("b", "2"), ("c", "3")]));
    script.assert_idle();
}

#[test]
fn a_store_that_was_lost_altogether_is_made_anew_from_the_log() {
    let mut script = account(10);
    write(&mut script, "a", "1");
    write(&mut script, "b", "2");
    roll_back(&mut script, Store::default());
    write(&mut script, "c", "3");
    script.advance(RECOVERED_MS);
    assert_eq!(stored(&script), state(&[("a", "1"), ("b", "2"), ("c", "3")]));
}

#[test]
fn a_passive_actor_is_not_read_from_a_store_that_went_back() {
    let mut script = account(0);
    write(&mut script, "a", "1");
    let before = saved(&script);
    // Long acknowledged, and dropped from memory with the actor.
    write(&mut script, "a", "2");
    script.advance(RECOVERED_MS);
    roll_back(&mut script, before);
    let call = script.invoke(None, Mode::Call, "alice", "get");
    // Its acceptance is logged.
    script.advance(10);
    let turn = script.turn("get");
    let read =
        script.request(Operation::StateRead { turn: turn.token.clone(), select: Select::all() });
    let answer = script.answers.remove(&read);
    assert!(!matches!(answer, Some(Ok(Response::State(_)))), "served from the past: {answer:?}");
    assert_eq!(rollbacks(&script), 1);
    script.advance(RECOVERED_MS);
    let again = script.turn("get");
    assert_eq!(again.token.attempt, 2);
    assert_eq!(script.read(&again), Some(state(&[("a", "2")])));
    script.finish(&again, done("2"));
    assert_eq!(script.outcome(call), done("2"));
    script.assert_idle();
}

#[test]
fn a_rollback_that_loses_no_operation_is_no_rollback() {
    let mut script = account(10);
    write(&mut script, "a", "1");
    // Only the fence is lost.
    for cell in script.cells.values_mut() {
        cell.epoch = 0;
    }
    write(&mut script, "b", "2");
    assert_eq!(rollbacks(&script), 0);
    assert_eq!(stored(&script), state(&[("a", "1"), ("b", "2")]));
}

#[test]
fn an_owner_after_a_rollback_goes_on_from_where_the_store_is() {
    let mut script = account(10);
    write(&mut script, "a", "1");
    let before = saved(&script);
    write(&mut script, "b", "2");
    roll_back(&mut script, before);
    script.replace(&[Kind::actor("Account")]);
    script.advance(RECOVERED_MS);
    assert_eq!(rollbacks(&script), 0, "a new owner has nothing to compare with");
    assert_eq!(stored(&script), state(&[("a", "1"), ("b", "2")]));
}

#[test]
fn a_store_that_holds_more_than_the_log_is_not_used() {
    let mut script = account(0);
    write(&mut script, "a", "1");
    let good = saved(&script);
    for cell in script.cells.values_mut() {
        cell.offset += 1_000;
    }
    script.replace(&[Kind::actor("Account")]);
    script.advance(RECOVERED_MS);
    let ahead = |n: &&Notice| matches!(n, Notice::StoreAhead { .. });
    assert!(script.notices.iter().any(|n| ahead(&n)), "{:?}", script.notices);
    let call = script.invoke(None, Mode::Call, "alice", "get");
    let turn = script.turn("get");
    let read =
        script.request(Operation::StateRead { turn: turn.token.clone(), select: Select::all() });
    script.advance(RECOVERED_MS);
    assert!(script.answers.is_empty(), "served from another store: {:?}", script.answers);
    // The operator puts the right one back: what was taken to be in the store is read from the log again.
    roll_back(&mut script, good);
    script.advance(60_000);
    let answer = script.answers.remove(&read);
    assert!(matches!(answer, Some(Err(RequestError::TurnSuperseded(_)))), "{answer:?}");
    let again = script.turn("get");
    assert_eq!(script.read(&again), Some(state(&[("a", "1")])));
    script.finish(&again, done(""));
    script.outcome(call);
    script.assert_idle();
}
