//! Dancers who ask each other: a circle of them ends with a refusal, and every dance is counted on both sides or on
//! none. And tills, which count what they are paid.

use std::time::Instant;

use kar_proto::v1::ApplicationError;
use kar_tests::component::{Turn, error, failed};
use kar_tests::errors::reason;
use serde_json::{Value, json};

use crate::App;
use crate::errands::count;

/// Methods of a dancer. `dance{dance, with, milliseconds}`: works, then asks the other one to `follow`; answers whether
/// that came about, or was refused because everybody in a circle waited for the next.
pub(crate) async fn dancer(app: &App, turn: &Turn) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    let text = |key: &str| argument[key].as_str().unwrap_or_default().to_owned();
    let (dance, with) = (text("dance"), text("with"));
    match turn.method() {
        "follow" => Ok(json!(count(turn, &format!("followed/{dance}")).await?)),
        "dance" => {
            let attempt = app.attempt();
            let write = |what: &str| app.journal.write(what, &dance, &attempt, turn.frame.attempt);
            write("start");
            app.tick(Instant::now() + turn.length(), &write).await;
            // Kept with this invocation: a later attempt gets the same answer, or the same refusal.
            let asked = turn.call_keyed("follow", ("Dancer", &with), "follow", &argument);
            let danced = match app.ticking(&write, asked).await {
                Ok(followed) => followed.map(|_| true)?,
                Err(status) if reason(&status) == "DEADLOCK" => false,
                Err(status) => return Err(failed(&status)),
            };
            let what = if danced { "danced" } else { "refused" };
            count(turn, &format!("{what}/{dance}")).await?;
            write("end");
            Ok(json!(danced))
        }
        method => Err(error("UnknownMethod", method)),
    }
}

/// `charge{order, milliseconds}`: counts it, without asking whether it was before; the receipt names the attempt.
pub(crate) async fn charge(app: &App, turn: &Turn) -> Result<Value, ApplicationError> {
    let argument = turn.argument();
    let order = argument["order"].as_str().unwrap_or_default();
    let attempt = app.attempt();
    let write = |what: &str| app.journal.write(what, order, &attempt, turn.frame.attempt);
    write("start");
    app.tick(Instant::now() + turn.length(), &write).await;
    count(turn, &format!("charged/{order}")).await?;
    write("end");
    Ok(json!(attempt))
}
