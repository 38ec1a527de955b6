//! A bank that is right only if KAR is: money moves by nested calls between actors of two components.
//!
//! A retried transfer calls its accounts again; an account knows the transfers that it has applied, so that each takes
//! effect once. Its balance and that list change in one segment: if KAR tore them apart, the sum would not be constant.

use kar_proto::v1::ApplicationError;
use kar_tests::component::{Turn, error, failed};
use serde_json::{Value, json};

/// Methods of an account. State: `balance`, and a key for each transfer applied.
pub(crate) async fn account(turn: &Turn, id: &str) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    let balance = turn.get("balance").await.map_err(|e| failed(&e))?.as_i64();
    let signed = argument["amount"].as_i64().unwrap_or(0);
    let amount = match turn.method() {
        "open" => {
            turn.set(&[("balance", json!(signed))]).await.map_err(|e| failed(&e))?;
            return Ok(json!(signed));
        }
        "balance" => return Ok(json!(balance)),
        "deposit" => signed,
        "withdraw" => -signed,
        method => return Err(error("UnknownMethod", method)),
    };
    let balance = balance.ok_or_else(|| error("NoAccount", id))?;
    let key = format!("{}/{}", turn.method(), argument["transfer"].as_str().unwrap_or("none"));
    if turn.get(&key).await.map_err(|e| failed(&e))? != Value::Null {
        return Ok(json!(balance));
    }
    if balance + amount < 0 {
        return Err(error("NotCovered", id));
    }
    let changes = [("balance", json!(balance + amount)), (key.as_str(), json!(1))];
    turn.set(&changes).await.map_err(|e| failed(&e))?;
    Ok(json!(balance + amount))
}

/// `transfer{transfer, from, to, amount}`: withdraws, then deposits. An actor remembers which transfer it did.
pub(crate) async fn teller(turn: &Turn) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    let text = |key: &str| argument[key].as_str().unwrap_or_default().to_owned();
    let part = json!({ "transfer": text("transfer"), "amount": argument["amount"] });
    for (account, method) in [(text("from"), "withdraw"), (text("to"), "deposit")] {
        turn.call(("Account", &account), method, &part).await.map_err(|e| failed(&e))??;
    }
    if !turn.target().1.is_empty() {
        let done = turn.get("done").await.map_err(|e| failed(&e))?.as_i64().unwrap_or(0) + 1;
        turn.set(&[("done", json!(done))]).await.map_err(|e| failed(&e))?;
    }
    Ok(json!(text("transfer")))
}
