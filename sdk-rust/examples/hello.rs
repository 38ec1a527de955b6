//! The service `greeter`. Run it under a sidecar, and call it:
//!
//! ```text
//! kar run --app hello --service greeter -- cargo run --example hello
//! kar call --app hello greeter hello '{"name":"Alan"}'
//! ```
//!
//! `KAR_EXAMPLE_JOURNAL`, if set, names a file to which `slow` appends a line when it starts, ends
//! or is cut off: `start|end|cancel TOKEN PID UNIX_MS`.

use std::fs::OpenOptions;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kar_sdk::{Error, Host, ServiceContext};
use serde::{Deserialize, Serialize};

struct Greeter {
    journal: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct Person {
    name: String,
}

#[derive(Serialize, Deserialize)]
struct Patient {
    name: String,
    millis: u64,
}

/// Notes the start of a turn, and its end, of whichever kind.
struct Entry<'a> {
    journal: Option<&'a PathBuf>,
    token: String,
    end: &'static str,
}

#[kar_sdk::service(name = "greeter")]
impl Greeter {
    /// Greets.
    async fn hello(&self, _ctx: &mut ServiceContext, who: Person) -> Result<String, Error> {
        Ok(greeting(&who.name))
    }

    /// Greets after a while.
    async fn slow(&self, ctx: &mut ServiceContext, who: Patient) -> Result<String, Error> {
        let token = ctx.token().to_owned();
        let mut entry = Entry { journal: self.journal.as_ref(), token, end: "cancel" };
        entry.write("start")?;
        tokio::time::sleep(Duration::from_millis(who.millis)).await;
        entry.end = "end";
        Ok(greeting(&who.name))
    }
}

fn greeting(name: &str) -> String {
    format!("Hello, {name}!")
}

impl Entry<'_> {
    fn write(&self, what: &str) -> std::io::Result<()> {
        let Some(journal) = self.journal else { return Ok(()) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        let line = format!("{what} {} {} {now}\n", self.token, std::process::id());
        // One write in append mode: lines of several processes do not mix.
        OpenOptions::new().create(true).append(true).open(journal)?.write_all(line.as_bytes())
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.write(self.end) {
            eprintln!("cannot write the journal: {error}");
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours).init();
    let journal = std::env::var_os("KAR_EXAMPLE_JOURNAL").map(PathBuf::from);
    Host::builder().service(Greeter { journal }).serve().await?;
    Ok(())
}
