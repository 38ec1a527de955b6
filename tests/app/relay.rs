//! A relay: a chain of tail calls that counts steps and remembers nothing else, so that it can run for ever.

use kar_proto::v1::ApplicationError;
use kar_tests::component::{Ending, Turn, actor, tail_call};
use kar_tests::grpc::json;
use serde_json::{Value, json as object};

use crate::errands::count;

/// The method of every step.
pub(crate) const METHOD: &str = "pass";

/// Instances among which the baton goes round.
const INSTANCES: u64 = 3;

/// `pass{left, at, sum}`: counts the step, and hands on, or answers with the sum.
pub(crate) async fn pass(turn: &Turn) -> Result<Ending, ApplicationError> {
    let argument = turn.argument();
    let number = |key: &str| argument[key].as_u64().unwrap_or_default();
    count(turn, "steps").await?;
    let (left, at, sum) = (number("left"), number("at"), number("sum") + number("left"));
    let result: Value = object!({ "left": left.saturating_sub(1), "at": at + 1, "sum": sum });
    if left <= 1 {
        return Ok(Ok(json(&result["sum"])).into());
    }
    let next = actor("Relay", &format!("r{}", (at + 1) % INSTANCES));
    Ok(tail_call(next, METHOD, &result).into())
}
