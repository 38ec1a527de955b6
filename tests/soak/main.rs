//! `cargo xtask soak`: a mixed load under kills for minutes, judged in the end. Exits with 1 if anything was lost,
//! repeated, overlapping or refused, if memory or disk grew, or if anything is held in the end that nobody needs.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use kar_tests::soak::{self, Report};

/// Makes a mixed load, kills a process each two seconds, and judges what is left.
#[derive(Parser)]
#[command(name = "kar-soak", bin_name = "cargo xtask soak")]
struct Args {
    /// How long, minutes
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Time from a kill to the next on average, seconds
    #[arg(long, default_value_t = 2.0)]
    kill_every: f64,
    /// Time between two samples of memory and disk, seconds
    #[arg(long, default_value_t = 5.0)]
    sample_every: f64,
    /// How long nodes keep results, idempotency keys and dead letters, and a topic its events (60 at
    /// least), seconds. Memory and disk
    /// are judged in runs that are more than six times as long: in the last third they must not need more than in the
    /// second, but for 10 % and 8 MiB (memory of a process) or 64 MiB (disk). So long a run waits in the end, until
    /// nothing is kept any more
    #[arg(long, default_value_t = 60.0)]
    retention: f64,
    /// Growing memory or disk is no failure
    #[arg(long)]
    may_grow: bool,
    /// Prints the whole report as one line of JSON
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    kar_tests::binaries::assume_built();
    let options = soak::Options {
        length: Duration::try_from_secs_f64(args.minutes * 60.0)?,
        kill_every: Duration::try_from_secs_f64(args.kill_every)?,
        sample_every: Duration::try_from_secs_f64(args.sample_every)?,
        retention: Duration::try_from_secs_f64(args.retention)?,
        hits_min: 0,
        verbose: !args.json,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    kar_tests::process::tie();
    let run = kar_tests::process::until_ended(soak::run(options));
    let report = runtime.block_on(run)?.context("ended before the end: there is no report")?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    let good = report.right() && (args.may_grow || !report.grows());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Report) {
    let Report {
        seconds,
        kills,
        hits,
        lost,
        repeated,
        overlapping,
        errors,
        cut_off,
        asked_again,
        ..
    } = report;
    println!();
    for trend in &report.trends {
        println!("{trend}");
    }
    let every = seconds / f64::from(kills.total().max(1));
    println!(
        "{seconds:.0} s, {} kills ({} components, {} sidecars, {} hubs), one each {every:.1} s, \
         {cut_off} attempts cut off; {} of {} strikes in turns, {} in recoveries",
        kills.total(),
        kills.components,
        kills.sidecars,
        kills.hubs,
        hits.in_turns,
        hits.strikes,
        hits.in_recovery,
    );
    let finished: Vec<_> = report.finished.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    println!("finished: {}", finished.join(", "));
    for (name, (before, now)) in &report.left {
        println!("LEFT: {name} is {now} when all is answered, was {before} before the load");
    }
    report.wrong.iter().for_each(|wrong| println!("WRONG: {wrong}"));
    println!(
        "{lost} lost, {repeated} repeated, {overlapping} overlapping, {errors} errors; \
         {asked_again} reads asked again"
    );
}
