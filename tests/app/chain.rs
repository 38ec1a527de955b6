//! A link of a chain of nested calls over several languages; `sdk-clients/*/conformance/chain.*` are the others.
//!
//! `link{chain, at, path, trail, milliseconds}`: draws a value in a durable step, calls the next place of the path with
//! the trail of values so far (keyed: the call is made once), and counts in its last segment. Its answer is the whole
//! trail. A value that was drawn again shows as a trail that does not fit; a link that took effect twice as a count.
//! Here a link also waits, before it calls, for the file that `gates` has in its place, if there is one.

use std::path::Path;
use std::time::Instant;

use kar_proto::v1::ApplicationError;
use kar_tests::component::{Turn, error, failed};
use kar_tests::errors::{metadata, reason};
use kar_tests::wait;
use serde_json::{Value, json};

use crate::errands::count;
use crate::{App, TICK};

pub(crate) async fn link(app: &App, turn: &Turn) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    let at = argument["at"].as_u64().unwrap_or_default();
    let (key, attempt) = (format!("{}@{at}", argument["chain"]), app.attempt());
    let write = |what: &str| app.journal.write(what, &key, &attempt, turn.frame.attempt);
    write("start");
    let own = turn.once("value", async || json!(attempt)).await.map_err(|e| failed(&e))?;
    app.tick(Instant::now() + turn.length(), &write).await;
    let index = usize::try_from(at).unwrap_or_default();
    app.ticking(&write, opened(argument["gates"][index].as_str().unwrap_or_default())).await;
    let mut trail = argument["trail"].as_array().cloned().unwrap_or_default();
    trail.push(own.clone());
    let answer = match &argument["path"][index + 1] {
        Value::Array(place) => {
            let word = |n: usize| place.get(n).and_then(Value::as_str).unwrap_or_default();
            let mut next = argument.clone();
            (next["at"], next["trail"]) = (json!(at + 1), json!(trail));
            let call = turn.call_keyed("next", (word(0), word(1)), "link", &next);
            app.ticking(&write, call).await.map_err(|e| failed(&e))??
        }
        _ => json!(trail),
    };
    if answer[index] != own {
        return Err(error("Torn", &format!("{key}: drew {own}, and the trail says {answer}")));
    }
    count(turn, &key).await?;
    write("end");
    Ok(answer)
}

/// `hold{gate, next}`: waits until the file `gate` is there (not with an empty one), and then for a `hold` of `next`
/// (nobody: empty) that waits for nothing. Answers why that was refused, and which actors wait in a circle.
pub(crate) async fn hold(turn: &Turn) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    opened(argument["gate"].as_str().unwrap_or_default()).await;
    let word = |at: usize| argument["next"][at].as_str().unwrap_or_default();
    if !word(0).is_empty() {
        let nothing = json!({ "gate": "", "next": [] });
        match turn.call((word(0), word(1)), "hold", &nothing).await {
            Ok(outcome) => outcome.map(drop)?,
            Err(status) => {
                let cycle = metadata(&status, "cycle");
                return Ok(json!({ "reason": reason(&status), "cycle": cycle }));
            }
        }
    }
    Ok(json!({ "reason": "", "cycle": "" }))
}

/// Waits until a file is there; not with an empty path.
async fn opened(gate: &str) {
    while !gate.is_empty() && !Path::new(gate).exists() {
        wait::moment(TICK).await;
    }
}
