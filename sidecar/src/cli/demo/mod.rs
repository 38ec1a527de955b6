//! `kar demo`: a bank of actors under load while its sidecars, components and hub are killed at
//! random, and then the books, which must balance.
//!
//! Everything is real and nothing has to be installed: hosts are `kar run` processes of this
//! executable, the hub is started by whoever needs one, and the load goes through a sidecar in this
//! process, as any client's would.

pub(crate) mod app;
mod chaos;
mod hosts;
mod report;
mod rng;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kar_sdk::samples::bank::{LoadOptions, Progress, Report, load};
use kar_sdk::{Client, Kar};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval, timeout};

use super::args::{DemoArgs, ReachArgs};
use super::client::Session;
use super::exit::{Code, Failure, Outcome};
use super::payload::line;
use chaos::{Kills, kill_at_random};
use hosts::{Hosts, hub_of, kill};
use report::Figures;
use rng::Rng;

/// Application of the demonstration.
const APP: &str = "bank";
/// Hosts of it.
const HOSTS: usize = 3;
/// Between two progress lines on a terminal, and elsewhere.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
const PROGRESS_INTERVAL_PLAIN: Duration = Duration::from_secs(2);
/// What each account holds at first.
const OPENING_BALANCE: i64 = 1_000;
/// How long the books may take to settle after the load.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The load and the audit take longer than asked for by no more than this; else something hangs,
/// which is a failure.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs the demonstration; exit code 1 if the books do not balance.
pub(crate) async fn demo(args: DemoArgs) -> Outcome<u8> {
    if !(0.0..=100.0).contains(&args.kills_per_second) {
        return Err(Failure::usage("--kills-per-second must be 0 to 100"));
    }
    let dir = tempfile::Builder::new().prefix("kar-demo-").tempdir().map_err(|e| {
        Failure::new(Code::Unavailable, format!("cannot make a temporary folder: {e}"))
            .advise("name a folder that is writable by the variable TMPDIR")
    })?;
    let seed = args.seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0 >> 32);
    let hosts = Hosts::start(APP, dir.path(), HOSTS)
        .map_err(|e| Failure::internal(format!("cannot start the hosts: {e}")))?;
    let kills = Kills::default();
    let result = tokio::select! {
        result = perform(&args, seed, dir.path(), &hosts, &kills) => result,
        () = interrupted() => Err(Failure::new(Code::Interrupted, "interrupted; cleaning up")),
    };
    hosts.end().await;
    end_hub(dir.path()).await;
    let good = result.as_ref().is_ok_and(|figures| figures.good());
    let shown = match &result {
        Ok(figures) => line(&figures.text()),
        Err(_) => Ok(()),
    };
    let interrupted = result.as_ref().is_err_and(|failure| failure.code == Code::Interrupted);
    if args.keep || !(good || interrupted) {
        keep(dir);
    }
    shown?;
    result.map(|_| if good { 0 } else { Code::Application as u8 })
}

/// Load and kills at once, then the books.
async fn perform(
    args: &DemoArgs,
    seed: u64,
    dir: &Path,
    hosts: &Hosts,
    kills: &Kills,
) -> Outcome<Figures> {
    introduce(args, seed, dir)?;
    let reach = ReachArgs {
        no_peer: false,
        app: Some(APP.into()),
        socket: None,
        data_dir: Some(dir.into()),
        api_token: None,
    };
    let session = Session::open(&reach).await?;
    let client = connect(&session).await?;
    let progress = Arc::new(Progress::default());
    let length = Duration::from_secs(args.seconds);
    let options = LoadOptions {
        transfers: u32::MAX,
        time_limit: Some(length),
        accounts: args.accounts,
        clients: args.clients,
        opening_balance: OPENING_BALANCE,
        seed,
        settle_timeout: SETTLE_TIMEOUT,
        progress: Arc::clone(&progress),
    };
    // The kills go on while the last transfers end and the books are read: that has to work, too.
    let report: Report = tokio::select! {
        report = timeout(length + PATIENCE, load(&client, &options)) => match report {
            Ok(Ok(report)) => report,
            Ok(Err(error)) => return Err(Failure::new(Code::Application, error.to_string())),
            Err(_) => {
                let text = format!("the load did not end within {PATIENCE:?} after its time");
                return Err(Failure::new(Code::Application, text));
            }
        },
        () = kill_at_random(hosts, HOSTS, dir, kills, args.kills_per_second, Rng::new(seed)) => {
            return Err(Failure::internal("the kills ended before the load"));
        }
        () = show_progress(&progress, kills, length) => {
            return Err(Failure::internal("the progress ended before the load"));
        }
    };
    end_progress_line();
    drop(client);
    session.close().await;
    Ok(Figures::new(report, kills))
}

async fn connect(session: &Session) -> Outcome<Client> {
    let socket = session.own_socket().ok_or_else(|| Failure::internal("no sidecar of its own"))?;
    Kar::builder()
        .socket(socket)
        .connect()
        .await
        .map_err(|e| Failure::internal(format!("cannot connect to the own sidecar: {e}")))
}

fn introduce(args: &DemoArgs, seed: u64, dir: &Path) -> Outcome {
    line(&format!(
        "A bank of {} accounts on {HOSTS} hosts. For {} s, {} clients move money between them,\n\
         each transfer two nested durable calls and a message. Meanwhile {} processes a second\n\
         are killed with SIGKILL: sidecars with their components, components alone, the hub.\n\
         Data and logs: {} · seed {seed}\n",
        args.accounts,
        args.seconds,
        args.clients,
        args.kills_per_second,
        dir.display(),
    ))
}

/// Shows how it goes, on a line of its own where people watch.
async fn show_progress(progress: &Progress, kills: &Kills, length: Duration) {
    let terminal = io::stderr().is_terminal();
    let step = if terminal { PROGRESS_INTERVAL } else { PROGRESS_INTERVAL_PLAIN };
    let begun = Instant::now();
    let (mut last_count, mut last_time) = (0, begun);
    let mut ticks = interval(step);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let (count, now) = (progress.finished(), Instant::now());
        let rate = (count - last_count) as f64 / (now - last_time).as_secs_f64();
        (last_count, last_time) = (count, now);
        let stage = if begun.elapsed() > length { " · reading the books" } else { "" };
        let text = format!(
            "{:5.1} s · {count} transfers · {rate:.0}/s · \
             {} killed ({} sidecars, {} components, {} hubs) · slowest {:.0} ms{stage}",
            begun.elapsed().as_secs_f64(),
            kills.total(),
            kills.sidecars.get(),
            kills.components.get(),
            kills.hubs.get(),
            progress.slowest().as_secs_f64() * 1000.0,
        );
        // Nobody is told of a progress line that cannot be written.
        let _ = match terminal {
            true => write!(io::stderr(), "\r\x1b[K{text}"),
            false => writeln!(io::stderr(), "{text}"),
        };
    }
}

fn end_progress_line() {
    if io::stderr().is_terminal() {
        eprintln!();
    }
}

async fn interrupted() {
    let stream = |kind| signal(kind).ok();
    let (Some(mut interrupt), Some(mut terminate)) =
        (stream(SignalKind::interrupt()), stream(SignalKind::terminate()))
    else {
        // Without handlers the signals end the process outright; the hosts die with it.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Ends the hub; nobody uses it any more.
async fn end_hub(dir: &Path) {
    let mut ticks = interval(Duration::from_millis(20));
    let gone = async {
        while let Some(hub) = hub_of(dir) {
            kill(hub);
            ticks.tick().await;
        }
    };
    if timeout(Duration::from_secs(2), gone).await.is_err() {
        tracing::warn!("the hub is still there; it ends by itself when idle");
    }
}

fn keep(dir: TempDir) {
    eprintln!("data and logs are kept in {}", dir.keep().display());
}
