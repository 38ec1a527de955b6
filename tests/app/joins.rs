//! Joins: a turn that makes several calls at once, of which some fail.
//!
//! A branch works visibly, and then counts itself or fails. A join waits for all of its branches and answers with their
//! outcomes; or it is one that throws: it ends with the first error while its other branches run on.

use std::time::Instant;

use kar_proto::v1::ApplicationError;
use kar_tests::component::{Turn, error, failed};
use serde_json::{Value, json};

use crate::App;
use crate::errands::count;

/// Branches of a join; those with even numbers are keyed, so that they are made once, whatever becomes of the join's
/// attempts.
const BRANCHES: u64 = 4;

/// Code of the error of a branch that fails.
const FAILED: &str = "BranchFailed";

/// `join{join, fails, throws, milliseconds}`: makes all branches at once; `fails` are the numbers of those that fail.
pub(crate) async fn join(app: &App, turn: &Turn) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    let join = argument["join"].as_str().unwrap_or_default();
    let attempt = app.attempt();
    let write = |what: &str| app.journal.write(what, join, &attempt, turn.frame.attempt);
    write("start");
    let call = async |at: u64| {
        let order = json!({
            "join": join, "at": at, "by": attempt, "milliseconds": argument["milliseconds"],
            "fails": argument["fails"].as_array().is_some_and(|fails| fails.contains(&json!(at))),
        });
        let key = if at.is_multiple_of(2) { format!("branch-{at}") } else { String::new() };
        let branch = ("Branch", format!("b{at}"));
        let called = turn.call_keyed(&key, (branch.0, &branch.1), "branch", &order).await;
        called.map_err(|e| failed(&e))
    };
    let thrown = async |at: u64| call(at).await?;
    if argument["throws"] == json!(true) {
        let all = async { tokio::try_join!(thrown(0), thrown(1), thrown(2), thrown(3)) };
        let all = app.ticking(&write, all).await;
        write("end");
        return all.map(|(a, b, c, d)| json!([a, b, c, d]));
    }
    let all = async { tokio::try_join!(call(0), call(1), call(2), call(3)) };
    let (a, b, c, d) = app.ticking(&write, all).await?;
    let outcomes: Vec<Value> = [a, b, c, d].into_iter().map(outcome).collect();
    count(turn, &format!("joined/{join}")).await?;
    write("end");
    Ok(json!(outcomes))
}

/// What a branch answered, or the message of its error.
fn outcome(branch: Result<Value, ApplicationError>) -> Value {
    branch.unwrap_or_else(|error| json!({ "code": error.code, "by": error.message }))
}

/// `branch{join, at, by, fails, milliseconds}`: works, and counts in its state, or fails; what it would have counted is
/// gone then. Its answer, or its error, names its attempt.
pub(crate) async fn branch(app: &App, turn: &Turn) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    let text = |key: &str| argument[key].as_str().unwrap_or_default().to_owned();
    let at = argument["at"].as_u64().filter(|at| *at < BRANCHES).unwrap_or_default();
    // A keyed one is the same for all attempts of its join.
    let by = if at.is_multiple_of(2) { String::new() } else { format!("@{}", text("by")) };
    let key = format!("{}/{at}{by}", text("join"));
    let attempt = app.attempt();
    let write = |what: &str| app.journal.write(what, &key, &attempt, turn.frame.attempt);
    write("start");
    // The others are still at work when the first one fails.
    let length = turn.length() * u32::try_from(at + 1).unwrap_or(1);
    app.tick(Instant::now() + length, &write).await;
    count(turn, &key).await?;
    write("end");
    if argument["fails"] == json!(true) {
        return Err(error(FAILED, &attempt));
    }
    Ok(json!({ "by": attempt }))
}
