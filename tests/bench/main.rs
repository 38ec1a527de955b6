//! `cargo xtask bench`: what a call costs, beside the physical limits measured in the same run.
//!
//! Processes: this one (judge, idle meanwhile), a load client with its sidecar, a host with its sidecar, the hub. The
//! load client is a closed loop: each of its clients makes the next call when it has the answer to the last one.
//! Payloads are 1 KiB both ways. What fails has no figures, and its cause is in the report; the rest is measured. CPU
//! is the time that all five processes used, from `/proc`, per call.

mod against;
mod attempt;
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
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use kar_proto::v1::CreateTopicRequest;
use kar_tests::{Node, NodeOptions, World};

use crate::against::Earlier;
use crate::attempt::{Failure, attempt};
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
    /// An earlier report, as `-o json` printed it: prints whether anything got worse, the machine's own speed taken out
    #[arg(long, value_name = "FILE", conflicts_with = "languages")]
    against: Option<PathBuf>,
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
                let earlier = args.against.as_deref().map(Earlier::read).transpose()?;
                let mut report = Report::default();
                let judged = kar_tests::process::until_ended(judge(&args, &mut report)).await?;
                let cause = match judged {
                    Some(Ok(())) => None,
                    Some(Err(error)) => Some(format!("{error:#}")),
                    None => Some("somebody ended this program before its end".to_owned()),
                };
                report
                    .failures
                    .extend(cause.map(|cause| Failure { what: "the rest".into(), cause }));
                print(&args, &report, earlier.as_ref())?;
                match report.failures.len() {
                    0 => Ok(()),
                    count => bail!(
                        "{count} parts of the report are missing, see FAILED: {}",
                        report.failed()
                    ),
                }
            }
        }
    })
}

/// Longest time of one measurement, besides the time that it measures: busy machines take long to start anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs everything that can be run.
async fn judge(args: &Args, report: &mut Report) -> Result<()> {
    kar_tests::binaries::assume_built();
    report.load_average = processes::load_average()?;
    let world = World::new("bench");
    world.add_run_args(&["--durability", &args.durability]);
    say("physical limits");
    let limits = limits::measure(world.path(), args.seconds);
    let found = attempt(&mut report.failures, "physical limits", patience(args, 5), limits).await;
    report.limits = found.unwrap_or_default();
    if args.languages {
        return languages::measure_all(args, &world, report).await;
    }
    let all = Scenario::ALL.iter().filter(|scenario| wanted(args, scenario));
    let (strict, plain): (Vec<_>, Vec<_>) = all.partition(|scenario| scenario.strict);
    let own = load::own()?;
    let host = own_host(&[])?;
    let started = async {
        let (host, front) = start(&world, "host", &host).await?;
        create_topics(&front).await?;
        let sidecar = kar_tests::process::resident_kib(front.pid()).context("front")?;
        let hub = kar_tests::process::resident_kib(world.hub().await).context("hub")?;
        Ok(((host, front), sidecar, hub))
    };
    let started = attempt(&mut report.failures, "hosts", patience(args, 2), started).await;
    if let Some((nodes, sidecar, hub)) = started {
        (report.idle_sidecar_kib, report.idle_hub_kib) = (sidecar, hub);
        for scenario in plain {
            measure(args, &world, &nodes, &own, scenario, report).await;
        }
    }
    if !strict.is_empty() {
        let host = own_host(&["--strict"])?;
        let nodes = start(&world, "strict", &host);
        let nodes = attempt(&mut report.failures, "strict host", patience(args, 2), nodes).await;
        for scenario in nodes.iter().flat_map(|_| strict.iter()) {
            let Some(nodes) = &nodes else { break };
            measure(args, &world, nodes, &own, scenario, report).await;
        }
    }
    // Says so if a process has panicked meanwhile.
    let end = async move {
        drop(world);
        anyhow::Ok(())
    };
    attempt(&mut report.failures, "processes", PATIENCE, end).await;
    if args.failovers > 0 {
        say("failover");
        let limit = patience(args, args.failovers);
        let failovers = failover::measure(args.failovers, &mut report.failovers);
        attempt(&mut report.failures, "failover", limit, failovers).await;
    }
    Ok(())
}

/// Longest time of so many measurements.
fn patience(args: &Args, count: u32) -> Duration {
    (PATIENCE + Duration::from_secs_f64(args.seconds)) * count
}

fn print(args: &Args, report: &Report, earlier: Option<&Earlier>) -> Result<()> {
    match args.output {
        Format::Table => {
            print!("{}", report.table());
            let compared = earlier.map(|earlier| earlier.compare(&report.rows, report.limits));
            print!("{}", compared.unwrap_or_default());
        }
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

/// The median of several measurements: of those that there are, if some fail.
async fn measure(
    args: &Args,
    world: &World,
    nodes: &(Node, Node),
    client: &[String],
    scenario: &Scenario,
    report: &mut Report,
) {
    say(scenario.name);
    let mut rows = Vec::new();
    for round in 1..=args.rounds {
        let what = format!("{}, measurement {round} of {}", scenario.name, args.rounds);
        let row = once(args, world, nodes, client, scenario);
        match attempt(&mut report.failures, &what, patience(args, 1), row).await {
            Some(row) => rows.push(row),
            None => tell_logs(world),
        }
    }
    report.rows.extend(report::median(&rows));
}

/// The last warnings in the logs of all processes: the world goes, and its logs with it.
fn tell_logs(world: &World) {
    for (name, text) in world.logs() {
        let is_bad = |line: &&str| ["WARN", "ERROR", "panicked"].iter().any(|w| line.contains(w));
        let bad: Vec<_> = text.lines().rev().filter(is_bad).take(LINES_TOLD).collect();
        bad.iter().rev().for_each(|line| eprintln!("  {name}: {line}"));
    }
}

/// Lines of each log that are told.
const LINES_TOLD: usize = 5;

async fn once(
    args: &Args,
    world: &World,
    (host, front): &(Node, Node),
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
    let core_before = core_cpu_us(host).await?;
    let result = load.ended().await?;
    let (cpu, after) = (meter.stop()?, hub_stats(&world.data_dir()).await?);
    let core = core_cpu_us(host).await? - core_before;
    load.finish().await?;
    Ok(Row::new(scenario, &result, (cpu, core), &before, &after))
}

/// CPU time that the core of a sidecar has used, µs.
async fn core_cpu_us(node: &Node) -> Result<f64> {
    let used = node.client().await.figure("core_cpu_us").await?;
    Ok(used.context("the sidecar tells no core_cpu_us")? as f64)
}
