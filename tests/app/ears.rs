//! Actors that keep a journal of the events that they are told, or count them, and publish some.

use std::time::Instant;

use kar_proto::v1::ApplicationError;
use kar_tests::component::{Turn, failed};
use serde_json::{Value, json};

use crate::App;
use crate::errands::count;

/// `hear(number)`: one more in the journal, without asking whether it is there.
pub(crate) async fn hear(turn: &Turn) -> Result<Value, ApplicationError> {
    let mut journal = turn.get("journal").await.map_err(|e| failed(&e))?;
    if journal.is_null() {
        journal = json!([]);
    }
    if let Some(journal) = journal.as_array_mut() {
        journal.push(turn.argument());
    }
    turn.set(&[("journal", journal)]).await.map_err(|e| failed(&e))?;
    Ok(Value::Null)
}

/// `follow{from, number}`: remembers the last number of each publisher, and counts those that are missing before it
/// (`gap/FROM`) and those that came when they were not to (`again/FROM`): a journal that does not grow.
pub(crate) async fn follow(turn: &Turn) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    let from = argument["from"].as_str().unwrap_or_default();
    let number = argument["number"].as_u64().unwrap_or_default();
    let last = format!("last/{from}");
    let known = turn.get(&last).await.map_err(|e| failed(&e))?.as_u64().unwrap_or(0);
    if number <= known {
        return Ok(json!(count(turn, &format!("again/{from}")).await?));
    }
    for _ in known + 1..number {
        count(turn, &format!("gap/{from}")).await?;
    }
    turn.set(&[(&last, json!(number))]).await.map_err(|e| failed(&e))?;
    Ok(json!(number))
}

/// `speak{topic, key, from, events, milliseconds}`: publishes so many events with the turn, numbered as the actor
/// counts them; how many that were so far.
pub(crate) async fn speak(app: &App, turn: &Turn) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    let text = |key: &str| argument[key].as_str().unwrap_or_default().to_owned();
    let mut spoken = 0;
    for _ in 0..argument["events"].as_u64().unwrap_or_default() {
        spoken = count(turn, "spoken").await?;
        let event = json!({ "from": text("from"), "number": spoken });
        turn.publish(&text("topic"), &text("key"), &event).await.map_err(|e| failed(&e))?;
    }
    let (key, attempt) = (format!("{}-{spoken}", turn.target().1), app.attempt());
    let write = |what: &str| app.journal.write(what, &key, &attempt, turn.frame.attempt);
    write("start");
    app.tick(Instant::now() + turn.length(), write).await;
    write("end");
    Ok(json!(spoken))
}
