//! Vaults whose sum is the same at every moment, and auditors who see that.
//!
//! An audit is one flow: the auditor calls the first vault, which tells it what it holds by calling *back* (the auditor
//! waits for that vault: re-entrancy), and calls the next vault, which does the same. At the deepest point every vault
//! is held by the flow, so that what was noted must sum up. Money moves meanwhile, from a vault to a later one: all go
//! through them in one order, so nobody waits in a circle.

use std::time::Instant;

use kar_proto::v1::ApplicationError;
use kar_tests::component::{Turn, error, failed};
use serde_json::{Map, Value, json};

use crate::App;

/// Methods of a vault. State: `balance`, and `changes`, how many there were.
pub(crate) async fn vault(app: &App, turn: &Turn, id: &str) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    let amount = argument["amount"].as_i64().unwrap_or(0);
    match turn.method() {
        "open" => {
            let opened = [("balance", json!(amount)), ("changes", json!(0))];
            turn.set(&opened).await.map_err(|e| failed(&e))?;
            Ok(json!(amount))
        }
        "take" => change(turn, amount).await,
        "exchange" => {
            let with = argument["with"].as_str().unwrap_or_default();
            // Kept with this invocation: whatever becomes of its attempts, the other vault changes once.
            let taken = turn.call_keyed("take", ("Vault", with), "take", &argument).await;
            taken.map_err(|e| failed(&e))??;
            change(turn, -amount).await
        }
        "report" => report(app, turn, id).await,
        method => Err(error("UnknownMethod", method)),
    }
}

async fn change(turn: &Turn, amount: i64) -> Result<Value, ApplicationError> {
    let balance = number(turn, "balance").await? + amount;
    let changes = number(turn, "changes").await? + 1;
    let changed = [("balance", json!(balance)), ("changes", json!(changes))];
    turn.set(&changed).await.map_err(|e| failed(&e))?;
    Ok(json!(balance))
}

async fn number(turn: &Turn, key: &str) -> Result<i64, ApplicationError> {
    let value = turn.get(key).await.map_err(|e| failed(&e))?;
    value.as_i64().ok_or_else(|| error("NoVault", turn.target().1))
}

/// `report{audit, auditor, rest, milliseconds}`: tells the auditor what is here, and lets the rest of the vaults do the
/// same. Answers with what the last of them was told.
async fn report(app: &App, turn: &Turn, id: &str) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    let text = |key: &str| argument[key].as_str().unwrap_or_default().to_owned();
    let (audit, auditor) = (text("audit"), text("auditor"));
    let (key, attempt) = (format!("{audit}@{id}"), app.attempt());
    let write = |what: &str| app.journal.write(what, &key, &attempt, turn.frame.attempt);
    write("start");
    let balance = number(turn, "balance").await?;
    let note = json!({ "audit": audit, "vault": id, "balance": balance });
    let auditor = ("Auditor", auditor.as_str());
    let rest = app.ticking(&write, async {
        turn.call(auditor, "note", &note).await.map_err(|e| failed(&e))??;
        app.tick(Instant::now() + turn.length(), &write).await;
        let mut next = argument.clone();
        let vaults = next["rest"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let answer = match vaults.split_first() {
            None => turn.call(auditor, "sum", &json!({ "audit": audit })).await,
            Some((vault, rest)) => {
                next["rest"] = json!(rest);
                turn.call(("Vault", vault.as_str().unwrap_or_default()), "report", &next).await
            }
        };
        answer.map_err(|e| failed(&e))?
    });
    let answer = rest.await?;
    let now = number(turn, "balance").await?;
    write("end");
    if now == balance {
        return Ok(answer);
    }
    Err(error("Intruder", &format!("{key}: {balance} became {now} while the audit held it")))
}

/// Methods of an auditor. State: `notes`, what the vaults told it, and in which audit.
pub(crate) async fn auditor(app: &App, turn: &Turn, id: &str) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    let audit = argument["audit"].as_str().unwrap_or_default();
    let notes = turn.get("notes").await.map_err(|e| failed(&e))?;
    let mut notes = notes.as_object().cloned().unwrap_or_default();
    match turn.method() {
        "audit" => whole_audit(app, turn, id).await,
        "note" => {
            let vault = argument["vault"].as_str().unwrap_or_default();
            notes.insert(vault.into(), json!([audit, argument["balance"]]));
            turn.set(&[("notes", Value::Object(notes))]).await.map_err(|e| failed(&e))?;
            Ok(Value::Null)
        }
        "sum" => Ok(sum(&notes, audit)),
        method => Err(error("UnknownMethod", method)),
    }
}

fn sum(notes: &Map<String, Value>, audit: &str) -> Value {
    let of_this = notes.values().filter(|note| note[0] == audit);
    let amounts: Vec<i64> = of_this.filter_map(|note| note[1].as_i64()).collect();
    json!({ "vaults": amounts.len(), "sum": amounts.iter().sum::<i64>() })
}

/// `audit{audit, vaults, milliseconds}`: what is in these vaults at one moment.
async fn whole_audit(app: &App, turn: &Turn, id: &str) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    let audit = argument["audit"].as_str().unwrap_or_default().to_owned();
    let attempt = app.attempt();
    let write = |what: &str| app.journal.write(what, &audit, &attempt, turn.frame.attempt);
    write("start");
    let vaults = argument["vaults"].as_array().cloned().unwrap_or_default();
    let (first, rest) = vaults.split_first().ok_or_else(|| error("NoVaults", &audit))?;
    let first = ("Vault", first.as_str().unwrap_or_default());
    let milliseconds = argument["milliseconds"].clone();
    let ask = json!({
        "audit": audit, "auditor": id, "rest": rest, "milliseconds": milliseconds,
    });
    let called = app.ticking(&write, turn.call(first, "report", &ask)).await;
    let answer = called.map_err(|e| failed(&e))??;
    // What the vaults told, later turns of this flow have written: it is there for this one as well.
    let notes = turn.get("notes").await.map_err(|e| failed(&e))?;
    let told = sum(notes.as_object().unwrap_or(&Map::new()), &audit);
    write("end");
    if told == answer {
        return Ok(answer);
    }
    Err(error("Torn", &format!("{audit}: {answer} became {told}")))
}
