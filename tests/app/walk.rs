//! A chain of tail calls that goes round two components, through actors and services, and counts what it does.
//!
//! One round: `Walker` (keeping the lock) → the same `Walker` → `Hopper` → service `hop` → service `walk` → another
//! `Hopper` → the next round. Every actor counts each step of each chain in its state; a service, which has none, tells
//! a `Tally` to count. A step that took effect twice, or left its effects without its tail call, shows as a count other
//! than one.

use std::time::Instant;

use kar_proto::v1::{ApplicationError, TailCall, Target};
use kar_tests::component::{Ending, Turn, actor, error, failed, service, tail_call};
use kar_tests::grpc::json;
use serde_json::{Value, json as object};

use crate::App;

/// The method of every step.
pub(crate) const METHOD: &str = "step";

/// Instances of each actor type; chains meet in them.
const INSTANCES: u64 = 3;

/// Steps of a round.
const ROUND: u64 = 6;

/// Key under which a `Walker` notes which chain holds it.
const HELD: &str = "held";

/// Where a step of a chain runs. The test that judges knows this by itself.
fn place(chain: u64, at: u64) -> Target {
    let number = chain + at / ROUND;
    match at % ROUND {
        0 | 1 => actor("Walker", &format!("w{}", number % INSTANCES)),
        2 => actor("Hopper", &format!("h{}", number % INSTANCES)),
        3 => service("hop"),
        4 => service("walk"),
        _ => actor("Hopper", &format!("h{}", (number + 1) % INSTANCES)),
    }
}

/// `step{chain, at, steps, sum, milliseconds}`: counts, works, and goes on. The last one answers with the sum.
pub(crate) async fn step(app: &App, turn: &Turn) -> Result<Ending, ApplicationError> {
    let argument = turn.argument();
    let number = |key: &str| argument[key].as_u64().unwrap_or_default();
    let (chain, at, sum) = (number("chain"), number("at"), number("sum") + number("at") + 1);
    if u64::try_from(turn.frame.step) != Ok(at + 1) {
        return Err(error("WrongStep", &format!("{} is not {}", turn.frame.step, at + 1)));
    }
    let (key, id) = (format!("chain-{chain}"), format!("{}@{at}", app.attempt()));
    let write = |what: &str| app.journal.write(what, &key, &id, turn.frame.attempt);
    write("start");
    note(turn, chain, at).await?;
    app.tick(Instant::now() + turn.length(), write).await;
    write("end");
    if at + 1 == number("steps") {
        return Ok(Ok(json(&object!({ "sum": sum, "step": turn.frame.step }))).into());
    }
    let mut next = argument.clone();
    (next["at"], next["sum"]) = (object!(at + 1), object!(sum));
    let call = tail_call(place(chain, at + 1), METHOD, &next);
    Ok(TailCall { keep_lock: at.is_multiple_of(ROUND), ..call }.into())
}

/// Counts the step, and sees to it that nobody gets in while a lock is kept.
async fn note(turn: &Turn, chain: u64, at: u64) -> Result<(), ApplicationError> {
    let key = format!("{chain}@{at}");
    let (kind, _) = turn.target();
    if kind == "hop" || kind == "walk" {
        let tally = actor("Tally", &format!("t{}", chain % INSTANCES));
        return turn.tell(tally, "count", &object!(key)).await.map_err(|e| failed(&e));
    }
    let mut changes = Vec::new();
    if kind == "Walker" {
        let held = turn.get(HELD).await.map_err(|e| failed(&e))?;
        let keeps = at.is_multiple_of(ROUND);
        let (expected, next) =
            if keeps { (Value::Null, object!(chain)) } else { (object!(chain), Value::Null) };
        if held != expected {
            return Err(error("Intruder", &format!("{key}: held by {held}, not {expected}")));
        }
        changes.push((HELD, next));
    }
    let count = turn.get(&key).await.map_err(|e| failed(&e))?.as_u64().unwrap_or(0) + 1;
    changes.push((key.as_str(), object!(count)));
    turn.set(&changes).await.map_err(|e| failed(&e))
}

/// `Tally.count(key)`: counts what services did.
pub(crate) async fn count(turn: &Turn) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    let key = argument.as_str().ok_or_else(|| error("NoKey", "a key is text"))?;
    let count = turn.get(key).await.map_err(|e| failed(&e))?.as_u64().unwrap_or(0) + 1;
    turn.set(&[(key, object!(count))]).await.map_err(|e| failed(&e))?;
    Ok(object!(count))
}
