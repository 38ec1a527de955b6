//! Errands: durable steps, a keyed call, errors that are to be tried again; and what kills whoever runs it.
//!
//! What a step does shows in the journal under the errand's run and its name: `start` when its function begins, `end`
//! when the sidecar has said that its result is recorded. After that it must not start again.

use std::path::Path;
use std::time::Instant;

use kar_proto::v1::ApplicationError;
use kar_tests::component::{Turn, error, failed};
use serde_json::{Value, json};

use crate::App;

/// Steps of an errand, besides its purchase.
const STEPS: [&str; 2] = ["ask", "pack"];

/// `run{errand, run, fails, milliseconds}`: does the steps, buys something, and fails as often as it is to. Counts in
/// its state, and answers with what the steps have recorded. `errand` names it in the books, `run` in the journal.
pub(crate) async fn run(app: &App, turn: &Turn) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    let text = |key: &str| argument[key].as_str().unwrap_or_default().to_owned();
    let (errand, run) = (text("errand"), text("run"));
    let attempt = app.attempt();
    let write = |what: &str| app.journal.write(what, &run, &attempt, turn.frame.attempt);
    write("start");
    let mut recorded = Vec::new();
    for step in STEPS {
        recorded.push(app.ticking(&write, one_step(app, turn, &run, step)).await?);
    }
    let shop = format!("s{}", errand.len() % 2);
    let purchase = json!(errand);
    let bought = turn.call_keyed("buy", ("Shop", &shop), "buy", &purchase);
    app.ticking(&write, bought).await.map_err(|e| failed(&e))??;
    let tries = count(turn, &format!("tries/{errand}")).await?;
    if tries <= argument["fails"].as_u64().unwrap_or(0) {
        // What is flushed stays, though the attempt fails.
        turn.flush().await.map_err(|e| failed(&e))?;
        write("end");
        return Err(ApplicationError { retryable: true, ..error("Busy", &tries.to_string()) });
    }
    turn.set(&[(&format!("tries/{errand}"), Value::Null)]).await.map_err(|e| failed(&e))?;
    let done = count(turn, &format!("done/{errand}")).await?;
    write("end");
    Ok(json!({ "recorded": recorded, "done": done }))
}

async fn one_step(
    app: &App,
    turn: &Turn,
    run: &str,
    step: &str,
) -> Result<Value, ApplicationError> {
    let (key, attempt) = (format!("{run}/{step}"), app.attempt());
    let write = |what: &str| app.journal.write(what, &key, &attempt, turn.frame.attempt);
    let recorded = turn.frame.recorded_steps.contains_key(step);
    let value = turn.once(step, async || {
        write("start");
        app.tick(Instant::now() + turn.length(), &write).await;
        json!(attempt)
    });
    let value = value.await.map_err(|e| failed(&e))?;
    if !recorded {
        write("end");
    }
    Ok(value)
}

/// Adds one to a number in the actor's state.
pub(crate) async fn count(turn: &Turn, key: &str) -> Result<u64, ApplicationError> {
    let count = turn.get(key).await.map_err(|e| failed(&e))?.as_u64().unwrap_or(0) + 1;
    turn.set(&[(key, json!(count))]).await.map_err(|e| failed(&e))?;
    Ok(count)
}

/// `buy(errand)`: counts what was bought, without asking whether it was before.
pub(crate) async fn buy(turn: &Turn) -> Result<Value, ApplicationError> {
    let errand = turn.argument().as_str().unwrap_or_default().to_owned();
    Ok(json!(count(turn, &format!("bought/{errand}")).await?))
}

/// `swallow{run, cure}`: kills the process that runs it, unless the file `cure` is there.
pub(crate) async fn swallow(app: &App, turn: &Turn) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    let text = |key: &str| argument[key].as_str().unwrap_or_default().to_owned();
    app.journal.write("start", &text("run"), &app.attempt(), turn.frame.attempt);
    if !Path::new(&text("cure")).exists() {
        std::process::abort();
    }
    Ok(json!(count(turn, "survived").await?))
}
