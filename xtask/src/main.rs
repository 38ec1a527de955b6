//! `cargo xtask`: everything that a person or CI runs. See `CONTRIBUTING.md`.

mod count;
mod java;
mod js;
mod plan;
mod python;
mod step;
mod tidy;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// Everything that a person or CI runs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs what the tests need, and runs everything: format, lints, unit tests, simulator, end-to-end tests. What
    /// needs a tool that is missing (a language, grpcurl, cargo-deny) or the right to mount is skipped, does not count
    /// as passed, and is listed at the end with the reason.
    Test {
        /// Run only steps whose name contains this (may be given several times).
        #[arg(long)]
        only: Vec<String>,
        /// Random schedules that the simulator runs.
        #[arg(long, default_value_t = plan::SEEDS)]
        seeds: u32,
        /// Fails at once where a language's tools are missing, instead of skipping its tests.
        #[arg(long)]
        every_language: bool,
    },
    /// Format, clippy and the house rules, without tests.
    Lint,
    /// Builds the Python SDK into `target/python`, and checks it: types, unit tests. Its end-to-end tests need this.
    Python,
    /// Measures throughput, latency, CPU and failover, each beside its physical limit (release build).
    Bench {
        /// Options of the benchmark; `--help` shows them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// A mixed load for minutes while processes are killed: nothing lost, nothing repeated, memory and disk over time.
    Soak {
        /// A debug build: slower, with all its assertions. Comes before other options.
        #[arg(long)]
        debug: bool,
        /// Options of the soak: `--minutes 30`, …; `-- --help` shows them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Shows the point of it all: `kar demo` from a release build.
    Demo {
        /// Options of `kar demo`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> Result<ExitCode> {
    let task = Args::parse().task;
    std::env::set_current_dir(root()?).context("enter the workspace")?;
    match task {
        Task::Test { only, seeds, every_language } => plan::test(&only, seeds, every_language),
        Task::Lint => plan::lint(),
        Task::Python => Ok(python::task()),
        Task::Bench { args } => plan::bench(&args),
        Task::Soak { debug, args } => plan::soak(debug, &args),
        Task::Demo { args } => plan::demo(&args),
    }
}

/// The workspace's folder.
fn root() -> Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(own.parent().context("xtask lies in the workspace")?.to_owned())
}
