//! The dining philosophers of `kar_sdk::samples::philosophers`: hosts them, or sits them down and
//! waits until all have eaten. The README beside this file says what to try.
//!
//! ```text
//! kar run --app table --actors Philosopher -- philosophers philosophers
//! kar run --app table --actors Fork        -- philosophers forks
//! kar run --app table                      -- philosophers dinner --seats 5 --meals 200
//! ```
//!
//! `philosophers both` hosts everything in one process. `dinner` prints its report as one line of
//! JSON and exits with 1 if somebody did not eat, or something went wrong.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kar_sdk::samples::philosophers::{self, DinnerOptions, Parts};
use kar_sdk::{Host, Kar};

const USAGE: &str = "usage: philosophers [philosophers|forks|both] | philosophers dinner \
                     [--seats N] [--meals N] [--meal-ms N] [--think-ms N]";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours).init();
    let mut words = std::env::args().skip(1);
    let parts = words.next().unwrap_or_else(|| "both".to_owned());
    if parts == "dinner" {
        return dinner(words).await;
    }
    let parts: Parts = parts.parse().map_err(anyhow::Error::msg).context(USAGE)?;
    parts.host(Host::builder()).serve().await?;
    Ok(ExitCode::SUCCESS)
}

async fn dinner(words: impl Iterator<Item = String>) -> anyhow::Result<ExitCode> {
    let options = options(words)?;
    let client = Kar::connect().await?;
    let report = philosophers::dine(&client, options).await?;
    println!("{}", serde_json::to_string(&report)?);
    client.close();
    Ok(if report.all_ate { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn options(mut words: impl Iterator<Item = String>) -> anyhow::Result<DinnerOptions> {
    let mut options = DinnerOptions::default();
    while let Some(flag) = words.next() {
        let value = words.next().with_context(|| format!("{flag} needs a value; {USAGE}"))?;
        let number = || value.parse::<u32>().with_context(|| format!("{flag} {value}; {USAGE}"));
        match flag.as_str() {
            "--seats" => options.seats = number()?,
            "--meals" => options.meals = number()?,
            "--meal-ms" => options.meal = Duration::from_millis(number()?.into()),
            "--think-ms" => options.think = Duration::from_millis(number()?.into()),
            _ => bail!("no such option: {flag}; {USAGE}"),
        }
    }
    Ok(options)
}
