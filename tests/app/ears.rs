//! Actors that keep a journal of the events that they are told.

use kar_proto::v1::ApplicationError;
use kar_tests::component::{Turn, failed};
use serde_json::{Value, json};

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
