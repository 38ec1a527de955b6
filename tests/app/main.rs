//! A component that does what the tests ask of it; its roles are its arguments.
//!
//! | role | offers |
//! |---|---|
//! | `slow` | service `slow` and actor type `Slow`: method `work{key, milliseconds}` writes the journal while it runs |
//! | `accounts` | actor type `Account`: `open`, `withdraw`, `deposit`, `balance` |
//! | `teller` | actor type `Teller` and service `teller`: `transfer` by nested calls of two accounts |
//! | `echo` | service `echo` and actor type `Echo`: `echo`, `fail`, `count` |
//!
//! Method `pid` of any of them answers with the process id.

mod bank;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kar_tests::component::{Component, Turn, TurnResult, error, failed, hello};
use kar_tests::grpc::json;
use kar_tests::journal::JournalWriter;
use kar_tests::{Client, wait};
use serde_json::{Value, json as object};

/// How often running code shows in the journal that it runs.
const TICK: Duration = Duration::from_millis(5);

/// How long joining the sidecar again is tried.
const RECONNECT_LIMIT: Duration = Duration::from_secs(10);

/// What all turns share.
#[derive(Debug)]
struct App {
    journal: JournalWriter,
    attempts: AtomicU64,
}

fn main() -> Result<()> {
    let roles: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(&roles))
}

async fn run(roles: &[String]) -> Result<()> {
    let socket = PathBuf::from(std::env::var_os("KAR_SOCKET").context("KAR_SOCKET is not set")?);
    let mut client = Client::unix(&socket).await.context("connect to the sidecar")?;
    if let Ok(token) = std::env::var("KAR_API_TOKEN") {
        client = client.with_token(&token);
    }
    let (mut services, mut actor_types) = (Vec::new(), Vec::new());
    for role in roles {
        match role.as_str() {
            "slow" => (services.push("slow"), actor_types.push("Slow")),
            "accounts" => ((), actor_types.push("Account")),
            "teller" => (services.push("teller"), actor_types.push("Teller")),
            "echo" => (services.push("echo"), actor_types.push("Echo")),
            other => anyhow::bail!("no such role: {other}"),
        };
    }
    let journal = JournalWriter::from_environment().context("open the journal")?;
    let app = Arc::new(App { journal, attempts: AtomicU64::new(0) });
    loop {
        // A node that was struck out ends the stream; it is to be joined again, as SDKs do it.
        let component = join(&client, &services, &actor_types).await?;
        let app = app.clone();
        let end = component
            .serve(move |turn| {
                let app = app.clone();
                async move { handle(&app, turn).await }
            })
            .await;
        eprintln!("the stream ended: {end:?}");
        if end.is_none() {
            return Ok(());
        }
    }
}

/// Registers, trying for a while: the old stream may not be forgotten yet.
async fn join(client: &Client, services: &[&str], actor_types: &[&str]) -> Result<Component> {
    let deadline = Instant::now() + RECONNECT_LIMIT;
    loop {
        match Component::connect(client, hello(services, actor_types)).await {
            Ok(component) => return Ok(component),
            Err(status) if Instant::now() > deadline => return Err(status.into()),
            Err(_) => wait::moment(TICK).await,
        }
    }
}

async fn handle(app: &App, turn: Turn) -> TurnResult {
    let (kind, id) = turn.target();
    let result = match (kind, turn.method()) {
        (_, "pid") => Ok(object!(std::process::id())),
        ("slow" | "Slow", "work") => work(app, &turn).await,
        ("Account", _) => bank::account(&turn, id).await,
        ("Teller" | "teller", _) => bank::teller(&turn).await,
        ("echo" | "Echo", "echo") => Ok(turn.argument()),
        ("echo" | "Echo", "fail") => Err(error("Refused", "as you wish")),
        ("Echo", "count") => count(&turn).await,
        (kind, method) => Err(error("UnknownMethod", &format!("{kind} has no method {method}"))),
    };
    result.map(|value| json(&value))
}

/// Works for a while, visibly; an actor counts the times that this took effect.
async fn work(app: &App, turn: &Turn) -> Result<Value, kar_proto::v1::ApplicationError> {
    let argument = turn.argument();
    let key = argument["key"].as_str().unwrap_or("none").to_owned();
    let id = format!("{}-{}", std::process::id(), app.attempts.fetch_add(1, Ordering::Relaxed));
    let write = |what| app.journal.write(what, &key, &id, turn.frame.attempt);
    write("start");
    let is_actor = !turn.target().1.is_empty();
    let mut done = 0;
    if is_actor {
        done = turn.get("done").await.map_err(|e| failed(&e))?.as_i64().unwrap_or(0) + 1;
        turn.set(&[("done", object!(done))]).await.map_err(|e| failed(&e))?;
    }
    let end = Instant::now() + turn.length();
    while Instant::now() < end {
        wait::moment(TICK).await;
        write("tick");
    }
    write("end");
    Ok(object!({ "attempt": id, "number": turn.frame.attempt, "done": done }))
}

async fn count(turn: &Turn) -> Result<Value, kar_proto::v1::ApplicationError> {
    let count = turn.get("count").await.map_err(|e| failed(&e))?.as_i64().unwrap_or(0) + 1;
    turn.set(&[("count", object!(count))]).await.map_err(|e| failed(&e))?;
    Ok(object!(count))
}
