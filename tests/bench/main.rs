//! `cargo xtask bench`: what a call costs, beside the physical limits measured in the same run.
//!
//! Processes: this one (judge, idle meanwhile), a load client with its sidecar, a host with its sidecar, the hub. The
//! load client is a closed loop: each of its clients makes the next call when it has the answer to the last one.
//! Payloads are 1 KiB both ways. CPU is the time that all five processes used, from `/proc`, per call.

mod budget;
mod echo;
mod failover;
mod host;
mod languages;
mod limits;
mod load;
mod processes;
mod report;
mod stream;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use kar_proto::v1::CreateTopicRequest;
use kar_tests::{Node, NodeOptions, World};

use crate::budget::Scenario;
use crate::processes::{Meter, hub_stats};
use crate::report::{Report, Row};

/// Measures KAR in local mode on this machine, each figure beside its physical limit.
#[derive(Parser)]
#[command(name = "kar-bench", bin_name = "cargo xtask bench")]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// How to print
    #[arg(short, long, default_value = "table")]
    output: Format,
    /// Length of each measurement, seconds
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Measurements of each kind; the median is printed
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Only scenarios whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Failovers measured; 0: none
    #[arg(long, default_value_t = 5)]
    failovers: u32,
    /// What the hub waits for: `fsync` or `os`
    #[arg(long, default_value = "fsync")]
    durability: String,
    /// Measures hosts and clients in other languages instead, which have to be built
    #[arg(long)]
    languages: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// The programs that the judge starts; not for people.
#[derive(Subcommand)]
enum Part {
    /// Hosts what is called.
    #[command(hide = true)]
    Host {
        /// Only what is committed is run.
        #[arg(long)]
        strict: bool,
    },
    /// Calls.
    #[command(hide = true)]
    Load(load::LoadArgs),
    /// Echoes frames on a stream of the same kind, without KAR.
    #[command(hide = true)]
    Echo {
        /// Where it listens.
        socket: PathBuf,
        /// Whom it passes messages on to, instead of answering.
        next: Option<PathBuf>,
    },
}

fn main() -> Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match args.part {
            Some(Part::Host { strict }) => host::run(strict).await,
            Some(Part::Load(load)) => load::run(load).await,
            Some(Part::Echo { socket, next }) => echo::serve(&socket, next.as_deref()).await,
            None => {
                kar_tests::process::tie();
                let judged = kar_tests::process::until_ended(judge(&args)).await?;
                judged.unwrap_or_else(|| bail!("ended before the end: there is no report"))
            }
        }
    })
}

/// Runs everything and prints the report.
async fn judge(args: &Args) -> Result<()> {
    kar_tests::binaries::assume_built();
    let mut report = Report { load_average: processes::load_average()?, ..Report::default() };
    let world = World::new("bench");
    world.add_run_args(&["--durability", &args.durability]);
    say("physical limits");
    report.limits = limits::measure(world.path(), args.seconds).await?;
    if args.languages {
        languages::measure_all(args, &world, &mut report).await?;
        return print(args, &report);
    }
    let (host, front) = start(&world, "host", &own_host(&[])?).await?;
    create_topics(&front).await?;
    report.idle_sidecar_kib = kar_tests::process::resident_kib(front.pid()).context("front")?;
    report.idle_hub_kib = kar_tests::process::resident_kib(world.hub().await).context("hub")?;
    for scenario in Scenario::ALL.iter().filter(|s| !s.strict && wanted(args, s)) {
        report.rows.push(measure(args, &world, (&host, &front), &load::own()?, scenario).await?);
    }
    drop((host, front));
    if Scenario::ALL.iter().any(|s| s.strict && wanted(args, s)) {
        let (host, front) = start(&world, "strict", &own_host(&["--strict"])?).await?;
        for scenario in Scenario::ALL.iter().filter(|s| s.strict && wanted(args, s)) {
            report
                .rows
                .push(measure(args, &world, (&host, &front), &load::own()?, scenario).await?);
        }
    }
    drop(world);
    if args.failovers > 0 {
        say("failover");
        report.failovers = failover::measure(args.failovers).await?;
    }
    print(args, &report)
}

fn print(args: &Args, report: &Report) -> Result<()> {
    match args.output {
        Format::Table => print!("{}", report.table()),
        Format::Json => println!("{}", serde_json::to_string_pretty(report)?),
    }
    Ok(())
}

fn wanted(args: &Args, scenario: &Scenario) -> bool {
    args.only.as_ref().is_none_or(|only| scenario.name.contains(only.as_str()))
}

fn say(what: &str) {
    eprintln!("measuring: {what}");
}

/// A host with its sidecar, and the load client's sidecar.
async fn start(world: &World, name: &str, command: &[String]) -> Result<(Node, Node)> {
    let command = command.to_vec();
    let host = NodeOptions { name: name.into(), command, ..NodeOptions::default() };
    let host = world.start(host).await;
    host.hosts("bench").await;
    let front = world.bare(&format!("{name}-front")).await;
    Ok((host, front))
}

/// The topics that events go through, which keep little.
async fn create_topics(node: &Node) -> Result<()> {
    let client = node.client().await;
    for topic in [host::QUESTIONS, host::ANSWERS, host::STREAM] {
        let (topic, partitions, retention_bytes) = (topic.to_owned(), 4, 32 << 20);
        let request =
            CreateTopicRequest { topic, partitions, retention_bytes, ..Default::default() };
        client.event().create_topic(request).await?;
    }
    Ok(())
}

/// The command of this program as host.
fn own_host(args: &[&str]) -> Result<Vec<String>> {
    let own = std::env::current_exe()?.to_string_lossy().into_owned();
    let words = ["host"].into_iter().chain(args.iter().copied()).map(str::to_owned);
    Ok([own].into_iter().chain(words).collect())
}

/// The median of several measurements.
async fn measure(
    args: &Args,
    world: &World,
    (host, front): (&Node, &Node),
    client: &[String],
    scenario: &Scenario,
) -> Result<Row> {
    say(scenario.name);
    let mut rows = Vec::new();
    for _ in 0..args.rounds {
        rows.push(once(args, world, (host, front), client, scenario).await?);
    }
    Ok(report::median(rows))
}

async fn once(
    args: &Args,
    world: &World,
    (host, front): (&Node, &Node),
    client: &[String],
    scenario: &Scenario,
) -> Result<Row> {
    let hub = world.hub().await;
    let mut load = load::spawn(client, scenario, args.seconds, &front.socket)?;
    let pids = [
        ("hub", hub),
        ("owner", host.pid()),
        ("front", front.pid()),
        ("app", host.component_pid().await),
        ("client", load.pid()?),
    ];
    load.begun().await?;
    let (meter, before) = (Meter::start(&pids)?, hub_stats(&world.data_dir()).await?);
    let result = load.ended().await?;
    let (cpu, after) = (meter.stop()?, hub_stats(&world.data_dir()).await?);
    load.finish().await?;
    Ok(Row::new(scenario, &result, cpu, &before, &after))
}
