//! The bank of `kar_sdk::samples::bank`: hosts it, or makes transfers and checks the books.
//!
//! ```text
//! kar run --app bank --actors Account,Ledger -- bank accounts
//! kar run --app bank --service teller        -- bank teller
//! kar run --app bank                         -- bank load --transfers 2000 --clients 64
//! ```
//!
//! `bank both` hosts everything in one process; without a word the environment variable
//! `KAR_BANK_PARTS` decides, else both. `load` prints its report as one line of JSON and exits with
//! 1 if the books do not balance.

use std::convert::Infallible;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kar_sdk::samples::bank::{self, LoadOptions, Parts};
use kar_sdk::{Host, Kar};

const USAGE: &str = "usage: bank [accounts|teller|both] | bank load [--transfers N] \
                     [--accounts N] [--clients N] [--seed N]";

/// How often a load says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours).init();
    let mut words = std::env::args().skip(1);
    let parts = words.next().or_else(|| std::env::var("KAR_BANK_PARTS").ok());
    let parts = parts.unwrap_or_else(|| "both".to_owned());
    if parts == "load" {
        return load(words).await;
    }
    let parts: Parts = parts.parse().map_err(anyhow::Error::msg).context(USAGE)?;
    parts.host(Host::builder()).serve().await?;
    Ok(ExitCode::SUCCESS)
}

async fn load(words: impl Iterator<Item = String>) -> anyhow::Result<ExitCode> {
    let options = options(words)?;
    let client = Kar::connect().await?;
    let report = tokio::select! {
        report = bank::load(&client, &options) => report?,
        never = show(&options) => match never {},
    };
    println!("{}", serde_json::to_string(&report)?);
    client.close();
    Ok(if report.balanced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says now and then how far the load is.
async fn show(options: &LoadOptions) -> Infallible {
    loop {
        tokio::time::sleep(PROGRESS_INTERVAL).await;
        tracing::info!(finished = options.progress.finished(), of = options.transfers, "transfers");
    }
}

fn options(mut words: impl Iterator<Item = String>) -> anyhow::Result<LoadOptions> {
    let mut options = LoadOptions::default();
    while let Some(flag) = words.next() {
        let value = words.next().with_context(|| format!("{flag} needs a value; {USAGE}"))?;
        let number = || value.parse().with_context(|| format!("{flag} {value}; {USAGE}"));
        match flag.as_str() {
            "--transfers" => options.transfers = number()?,
            "--accounts" => options.accounts = number()?,
            "--clients" => options.clients = number()?,
            "--seed" => options.seed = number()?.into(),
            _ => bail!("no such option: {flag}; {USAGE}"),
        }
    }
    Ok(options)
}
