//! A component that does what the tests ask of it; its roles are its arguments.
//!
//! | role | offers |
//! |---|---|
//! | `slow` | service `slow` and actor type `Slow`: method `work{key, milliseconds}` writes the journal while it runs |
//! | `accounts` | actor type `Account`: `open`, `withdraw`, `deposit`, `balance` |
//! | `teller` | actor type `Teller` and service `teller`: `transfer` by nested calls of two accounts |
//! | `echo` | service `echo` and actor type `Echo`: `echo`, `fail`, `count`, `keep` |
//! | `walker` | actor types `Walker` and `Tally`, service `walk`: half of the round of [`walk`] |
//! | `ringer` | actor type `Ringer`: `ring{key, milliseconds}` counts the key, its retries, and idle times |
//! | `hopper` | actor type `Hopper`, service `hop`: the other half |
//! | `vaults` | actor type `Vault`: `open`, `exchange`, `take`, `report` of [`audit`] |
//! | `auditors` | actor type `Auditor`: `audit` |
//! | `errands` | actor types `Errand`, `Poison`: durable steps, errors, death, of [`errands`] |
//! | `ears` | actor type `Ear`: `hear`, `follow`, `speak` of [`ears`] |
//! | `shops` | actor type `Shop`: `buy` |
//! | `chain` | actor type `ChainRust`: `link`, `hold` of [`chain`] |
//! | `dancers` | actor type `Dancer`: `dance`, `follow` of [`dance`] |
//! | `tills` | actor type `Till`: `charge` |
//! | `joiners` | actor type `Joiner`: `join` of [`joins`] |
//! | `branches` | actor type `Branch`: `branch` |
//! | `relay` | actor type `Relay`: `pass` of [`relay`] |
//!
//! Method `pid` of any of them answers with the process id.

mod audit;
mod bank;
mod chain;
mod dance;
mod ears;
mod errands;
mod joins;
mod relay;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kar_tests::component::{Component, Ending, Turn, error, failed, hello};
use kar_tests::grpc::json;
use kar_tests::journal::{self, JournalWriter};
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
    /// All turns are written of, whatever their methods write themselves.
    journals_turns: bool,
    attempts: AtomicU64,
}

impl App {
    /// Names an attempt in the journal.
    fn attempt(&self) -> String {
        format!("{}-{}", std::process::id(), self.attempts.fetch_add(1, Ordering::Relaxed))
    }

    /// Works until the time has come, visibly.
    async fn tick(&self, end: Instant, write: impl Fn(&str)) {
        while Instant::now() < end {
            wait::moment(TICK).await;
            write("tick");
        }
    }

    /// Waits for something, visibly.
    async fn ticking<T>(&self, write: impl Fn(&str), work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = wait::moment(TICK) => write("tick"),
            }
        }
    }
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
        let (of_services, of_actors): (&[&str], &[&str]) = match role.as_str() {
            "slow" => (&["slow"], &["Slow"]),
            "accounts" => (&[], &["Account"]),
            "teller" => (&["teller"], &["Teller"]),
            "echo" => (&["echo"], &["Echo"]),
            "walker" => (&["walk"], &["Walker", "Tally"]),
            "hopper" => (&["hop"], &["Hopper"]),
            "vaults" => (&[], &["Vault"]),
            "auditors" => (&[], &["Auditor"]),
            "errands" => (&[], &["Errand", "Poison"]),
            "shops" => (&[], &["Shop"]),
            "ears" => (&[], &["Ear"]),
            "chain" => (&[], &["ChainRust"]),
            "dancers" => (&[], &["Dancer"]),
            "tills" => (&[], &["Till"]),
            "relay" => (&[], &["Relay"]),
            "joiners" => (&[], &["Joiner"]),
            "branches" => (&[], &["Branch"]),
            "ringer" => (&[], &["Ringer"]),
            other => anyhow::bail!("no such role: {other}"),
        };
        services.extend_from_slice(of_services);
        actor_types.extend_from_slice(of_actors);
    }
    let journal = JournalWriter::from_environment().context("open the journal")?;
    let journals_turns = std::env::var_os(journal::TURNS_VARIABLE).is_some();
    let app = Arc::new(App { journal, journals_turns, attempts: AtomicU64::new(0) });
    loop {
        // A node that was struck out ends the stream; it is to be joined again, as SDKs do it.
        let component = join(&client, &services, &actor_types).await?;
        let app = app.clone();
        let end = component
            .serve(move |turn| {
                let app = app.clone();
                async move { witnessed(&app, turn).await }
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
        let mut greeting = hello(services, actor_types);
        for hosted in &mut greeting.actor_types {
            hosted.deactivates = hosted.name == "Ringer";
        }
        match Component::connect(client, greeting).await {
            Ok(component) => return Ok(component),
            Err(status) if Instant::now() > deadline => return Err(status.into()),
            Err(_) => wait::moment(TICK).await,
        }
    }
}

/// Handles a turn, and writes of it if that is wanted.
async fn witnessed(app: &App, turn: Turn) -> Ending {
    if !app.journals_turns {
        return handle(app, turn).await;
    }
    // A token is an invocation's id, `/`, its step, `.`, and what tells attempts of that step apart.
    let key = turn.token.rsplitn(3, '.').nth(2).unwrap_or_default().to_owned();
    let (attempt, number) = (app.attempt(), turn.frame.attempt);
    app.journal.write("start", &key, &attempt, number);
    let ending = handle(app, turn).await;
    app.journal.write("end", &key, &attempt, number);
    ending
}

async fn handle(app: &App, turn: Turn) -> Ending {
    let (kind, id) = turn.target();
    if turn.method() == walk::METHOD {
        return walk::step(app, &turn).await.unwrap_or_else(|error| Err(error).into());
    }
    if turn.method() == relay::METHOD {
        return relay::pass(&turn).await.unwrap_or_else(|error| Err(error).into());
    }
    let result = match (kind, turn.method()) {
        ("Ringer", "") => add(&turn, "rested").await,
        (_, "pid") => Ok(object!(std::process::id())),
        ("slow" | "Slow", "work") => work(app, &turn).await,
        ("Account", _) => bank::account(&turn, id).await,
        ("Teller" | "teller", _) => bank::teller(&turn).await,
        ("echo" | "Echo", "echo") => Ok(turn.argument()),
        ("echo" | "Echo", "fail") => Err(error("Refused", "as you wish")),
        ("Echo", "count") => count(&turn).await,
        ("Echo", "keep") => keep(&turn).await,
        ("Ringer", "ring") => ring(&turn).await,
        ("Tally", "count") => walk::count(&turn).await,
        ("Vault", _) => audit::vault(app, &turn, id).await,
        ("Auditor", _) => audit::auditor(app, &turn, id).await,
        ("Errand", "run") => errands::run(app, &turn).await,
        ("Shop", "buy") => errands::buy(&turn).await,
        ("Ear", "hear") => ears::hear(&turn).await,
        ("Ear", "follow") => ears::follow(&turn).await,
        ("Ear", "speak") => ears::speak(app, &turn).await,
        ("Poison", "swallow") => errands::swallow(app, &turn).await,
        ("Dancer", _) => dance::dancer(app, &turn).await,
        ("Till", "charge") => dance::charge(app, &turn).await,
        ("Joiner", "join") => joins::join(app, &turn).await,
        ("Branch", "branch") => joins::branch(app, &turn).await,
        ("ChainRust", "hold") => chain::hold(&turn).await,
        ("ChainRust", "link") => chain::link(app, &turn).await,
        (kind, method) => Err(error("UnknownMethod", &format!("{kind} has no method {method}"))),
    };
    result.map(|value| json(&value)).into()
}

/// Works for a while, visibly; an actor counts the times that this took effect.
async fn work(app: &App, turn: &Turn) -> Result<Value, kar_proto::v1::ApplicationError> {
    let argument = turn.argument();
    let key = argument["key"].as_str().unwrap_or("none").to_owned();
    let id = app.attempt();
    let write = |what: &str| app.journal.write(what, &key, &id, turn.frame.attempt);
    write("start");
    let is_actor = !turn.target().1.is_empty();
    let mut done = 0;
    if is_actor {
        done = turn.get("done").await.map_err(|e| failed(&e))?.as_i64().unwrap_or(0) + 1;
        turn.set(&[("done", object!(done))]).await.map_err(|e| failed(&e))?;
    }
    app.tick(Instant::now() + turn.length(), write).await;
    write("end");
    Ok(object!({ "attempt": id, "number": turn.frame.attempt, "done": done }))
}

async fn count(turn: &Turn) -> Result<Value, kar_proto::v1::ApplicationError> {
    wait::moment(turn.length()).await;
    add(turn, "count").await
}

/// Counts, and keeps what it was given.
async fn keep(turn: &Turn) -> Result<Value, kar_proto::v1::ApplicationError> {
    turn.set(&[("kept", turn.argument())]).await.map_err(|e| failed(&e))?;
    add(turn, "count").await
}

/// One more under a key.
async fn add(turn: &Turn, key: &str) -> Result<Value, kar_proto::v1::ApplicationError> {
    let count = turn.get(key).await.map_err(|e| failed(&e))?.as_i64().unwrap_or(0) + 1;
    turn.set(&[(key, object!(count))]).await.map_err(|e| failed(&e))?;
    Ok(object!(count))
}

/// Counts a reminder's due time.
async fn ring(turn: &Turn) -> Result<Value, kar_proto::v1::ApplicationError> {
    let key = turn.argument()["key"].as_str().unwrap_or("none").to_owned();
    let count = turn.get(&key).await.map_err(|e| failed(&e))?.as_i64().unwrap_or(0) + 1;
    let mut changes = vec![(key.as_str(), object!(count))];
    if turn.frame.attempt > 1 {
        let again = turn.get("again").await.map_err(|e| failed(&e))?.as_i64().unwrap_or(0) + 1;
        changes.push(("again", object!(again)));
    }
    wait::moment(turn.length()).await;
    turn.set(&changes).await.map_err(|e| failed(&e))?;
    Ok(object!(count))
}
