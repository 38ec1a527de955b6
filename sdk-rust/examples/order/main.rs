//! The shop of `kar_sdk::samples::order`: hosts it, or places orders and checks the books. The README
//! beside this file says what to try.
//!
//! ```text
//! kar run --app shop --actors Order                -- order orders
//! kar run --app shop --actors Stock,Wallet,Courier -- order backend
//! kar run --app shop                               -- order shop --orders 500
//! ```
//!
//! `order both` hosts everything in one process. `shop` prints its report as one line of JSON and
//! exits with 1 if an order was carried out in part, twice, or not though it was confirmed.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kar_sdk::samples::order::{self, Parts, ShopOptions};
use kar_sdk::{Host, Kar};

const USAGE: &str = "usage: order [orders|backend|both] | order shop [--orders N] [--clients N] \
                     [--number-ms N]";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours).init();
    let mut words = std::env::args().skip(1);
    let parts = words.next().unwrap_or_else(|| "both".to_owned());
    if parts == "shop" {
        return shop(words).await;
    }
    let parts: Parts = parts.parse().map_err(anyhow::Error::msg).context(USAGE)?;
    parts.host(Host::builder()).serve().await?;
    Ok(ExitCode::SUCCESS)
}

async fn shop(words: impl Iterator<Item = String>) -> anyhow::Result<ExitCode> {
    let options = options(words)?;
    let client = Kar::connect().await?;
    let report = order::shop(&client, options).await?;
    println!("{}", serde_json::to_string(&report)?);
    client.close();
    Ok(if report.right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn options(mut words: impl Iterator<Item = String>) -> anyhow::Result<ShopOptions> {
    let mut options = ShopOptions::default();
    while let Some(flag) = words.next() {
        let value = words.next().with_context(|| format!("{flag} needs a value; {USAGE}"))?;
        let number = || value.parse::<u32>().with_context(|| format!("{flag} {value}; {USAGE}"));
        match flag.as_str() {
            "--orders" => options.orders = number()?,
            "--clients" => options.clients = number()?,
            "--number-ms" => options.number = Duration::from_millis(number()?.into()),
            _ => bail!("no such option: {flag}; {USAGE}"),
        }
    }
    Ok(options)
}
