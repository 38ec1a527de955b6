//! Latency and rate of appends through the hub's socket, beside the bare limit of the disk:
//! `cargo run --release -p kar-hub --example hub_bench [SECONDS] [os] [trim]`. With `trim` all logs but
//! one are trimmed all the time, so that files are compacted while records are appended.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kar_hub::{ClientConfig, HubClient, HubEvent, LogName, SpawnHub, bare_append_probe};

/// Bytes of a record.
const RECORD: usize = 1024;
/// Logs that the producers share.
const LOGS: u64 = 8;
/// Records of a log between two trims.
const TRIM_EVERY: u64 = 1_000;
/// Messages from the hub that wait; more than there are producers.
const QUEUE: usize = 4_096;

fn main() {
    let mut args = std::env::args().skip(1);
    let seconds: u64 = args.next().map_or(3, |s| s.parse().expect("seconds"));
    let options: Vec<_> = args.collect();
    let (os, trim) = (options.iter().any(|a| a == "os"), options.iter().any(|a| a == "trim"));
    let dir = std::env::temp_dir().join(format!("kar-hub-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary directory");
    let mut bare = bare_append_probe(&dir, 2_000).expect("the disk works");
    report("bare append + fdatasync", &mut bare, Duration::ZERO);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let hub = runtime.block_on(async {
        let client = connect(&dir, os).await;
        for producers in [1, 16, 64, 256] {
            run(&client, producers, Duration::from_secs(seconds), trim).await;
        }
        client.lock().await.client.hub_process_id()
    });
    drop(runtime);
    // The hub ends by itself when its client is gone; the lock is its last file to be let go.
    let begun = Instant::now();
    while Path::new("/proc").join(hub.to_string()).join("fd").read_dir().is_ok()
        && begun.elapsed() < Duration::from_secs(10)
    {
        std::thread::yield_now();
    }
    std::fs::remove_dir_all(&dir).expect("the temporary directory can be removed");
}

struct Bench {
    client: Arc<HubClient>,
    events: tokio::sync::mpsc::Receiver<Vec<HubEvent>>,
}

async fn connect(dir: &Path, os: bool) -> tokio::sync::Mutex<Bench> {
    let (sender, events) = tokio::sync::mpsc::channel(QUEUE);
    let mut config = ClientConfig::new(dir, "bench", "bench");
    let mut args = vec![dir.into(), "idle-ms=1".into()];
    if os {
        args.push("os".into());
    }
    config.spawn = Some(SpawnHub { program: sibling("hub"), args });
    let client = HubClient::connect(config, move |events| {
        sender.try_send(events).expect("no more messages than records in flight");
    });
    let client = Arc::new(client.await.expect("a hub"));
    for log in 0..LOGS {
        client.read_log(log_name(log), 1);
    }
    tokio::sync::Mutex::new(Bench { client, events })
}

fn log_name(n: u64) -> LogName {
    LogName::from(format!("a.Bench/{n}"))
}

async fn run(bench: &tokio::sync::Mutex<Bench>, producers: u64, time: Duration, trim: bool) {
    let mut bench = bench.lock().await;
    let before = bench.client.stats().await.expect("stats");
    let cpu_before = cpu(before.process_id);
    let record = Bytes::from(vec![7; RECORD]);
    let begun = Instant::now();
    let mut starts = vec![begun; producers as usize];
    for (id, start) in starts.iter_mut().enumerate() {
        *start = Instant::now();
        bench.client.append(log_name(id as u64 % LOGS), id as u64, record.clone());
    }
    let mut latencies = Vec::new();
    let mut open = producers;
    while open > 0 {
        let events = bench.events.recv().await.expect("the client lives");
        for event in events {
            let HubEvent::Own { id, offset, .. } = event else { continue };
            if trim && id % LOGS != 0 && offset.is_multiple_of(TRIM_EVERY) {
                bench.client.trim_log(log_name(id % LOGS), offset - TRIM_EVERY / 2);
            }
            let start = &mut starts[id as usize];
            latencies.push(start.elapsed());
            if begun.elapsed() < time {
                *start = Instant::now();
                bench.client.append(log_name(id % LOGS), id, record.clone());
            } else {
                open -= 1;
            }
        }
    }
    let took = begun.elapsed();
    let after = bench.client.stats().await.expect("stats");
    let records = (after.records - before.records) as f64;
    let commits = (after.commits - before.commits).max(1) as f64;
    report(&format!("{producers} producers"), &mut latencies, took);
    println!(
        "    {:.1} records a commit, hub {:.1} us CPU a record, commit p50 {:?} p99 {:?} (so far)",
        records / commits,
        (cpu(after.process_id) - cpu_before).as_secs_f64() * 1e6 / records,
        after.commit_p50,
        after.commit_p99,
    );
    if trim {
        println!(
            "    {} compactions copied {} KiB, {} files removed; {} MiB in {} files, {} MiB live",
            after.compactions - before.compactions,
            (after.compacted_bytes - before.compacted_bytes) >> 10,
            after.files_removed - before.files_removed,
            after.log_bytes >> 20,
            after.log_files,
            after.log_live_bytes >> 20,
        );
    }
}

/// CPU time of all threads of a process.
fn cpu(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the hub lives");
    let nanos = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

fn report(name: &str, latencies: &mut [Duration], took: Duration) {
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    print!("{name}: p50 {:?} p99 {:?} p99.9 {:?}", at(0.5), at(0.99), at(0.999));
    if !took.is_zero() {
        print!(", {:.0}/s", latencies.len() as f64 / took.as_secs_f64());
    }
    println!();
}

/// The example program beside this one.
fn sibling(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("this program has a path");
    own.with_file_name(name)
}
