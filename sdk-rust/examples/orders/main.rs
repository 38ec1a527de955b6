//! The shop of `kar_sdk::samples::orders`: hosts it, or places orders and checks what customers were told. The README
//! beside this file says what to try.
//!
//! ```text
//! kar topic create --app shop orders
//! kar run --app shop --service shop    -- orders shop
//! kar run --app shop --actors Customer -- orders customers
//! kar run --app shop                   -- orders place --orders 2000
//! ```
//!
//! `orders both` hosts everything in one process. `place` prints its report as one line of JSON and exits with 1 if a
//! customer was not told of an order, twice, or in another order.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use kar_sdk::samples::orders::{self, LoadOptions, Parts};
use kar_sdk::{Host, Kar};

const USAGE: &str =
    "usage: orders [shop|customers|both] | orders place [--orders N] [--customers N]";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours).init();
    let mut words = std::env::args().skip(1);
    let parts = words.next().unwrap_or_else(|| "both".to_owned());
    if parts == "place" {
        return place(words).await;
    }
    let parts: Parts = parts.parse().map_err(anyhow::Error::msg).context(USAGE)?;
    let host = parts.host(Host::builder()).start().await?;
    parts.subscribe(&host.client()).await?;
    host.wait_for_signals().await?;
    Ok(ExitCode::SUCCESS)
}

async fn place(words: impl Iterator<Item = String>) -> anyhow::Result<ExitCode> {
    let options = options(words)?;
    let client = Kar::connect().await?;
    let report = orders::place(&client, options).await?;
    println!("{}", serde_json::to_string(&report)?);
    client.close();
    Ok(if report.right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn options(mut words: impl Iterator<Item = String>) -> anyhow::Result<LoadOptions> {
    let mut options = LoadOptions::default();
    while let Some(flag) = words.next() {
        let value = words.next().with_context(|| format!("{flag} needs a value; {USAGE}"))?;
        let number = || value.parse::<u64>().with_context(|| format!("{flag} {value}; {USAGE}"));
        match flag.as_str() {
            "--orders" => options.orders = number()?,
            "--customers" => options.customers = number()?,
            _ => bail!("no such option: {flag}; {USAGE}"),
        }
    }
    Ok(options)
}
