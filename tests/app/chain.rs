//! A link of a chain of nested calls over several languages; `sdk-clients/*/conformance/chain.*` are the others.
//!
//! `link{chain, at, path, trail, milliseconds}`: draws a value in a durable step, calls the next place of the path with
//! the trail of values so far (keyed: the call is made once), and counts in its last segment. Its answer is the whole
//! trail. A value that was drawn again shows as a trail that does not fit; a link that took effect twice as a count.

use std::time::Instant;

use kar_proto::v1::ApplicationError;
use kar_tests::component::{Turn, error, failed};
use serde_json::{Value, json};

use crate::App;
use crate::errands::count;

pub(crate) async fn link(app: &App, turn: &Turn) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    let at = argument["at"].as_u64().unwrap_or_default();
    let (key, attempt) = (format!("{}@{at}", argument["chain"]), app.attempt());
    let write = |what: &str| app.journal.write(what, &key, &attempt, turn.frame.attempt);
    write("start");
    let own = turn.once("value", async || json!(attempt)).await.map_err(|e| failed(&e))?;
    app.tick(Instant::now() + turn.length(), &write).await;
    let mut trail = argument["trail"].as_array().cloned().unwrap_or_default();
    trail.push(own.clone());
    let index = usize::try_from(at).unwrap_or_default();
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
