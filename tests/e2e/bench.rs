//! The benchmark ends with everything that it started, however it ends, and says what it could not measure.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use kar_tests::world::capture;
use kar_tests::{binaries, process, test, test_within, wait};
use rustix::process::Signal;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// Runs the benchmark until its nodes do, ends it by a signal, and waits until everything has ended; returns the folder
/// that it used, and what it printed.
async fn ended_by(signal: Signal) -> (PathBuf, String) {
    // Builds the programs, if nobody did.
    binaries::folder();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_kar-bench"))
        .args(["--seconds", "0.1", "--rounds", "99", "--failovers", "0", "--only", "durable"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the benchmark can be started");
    let mut started = Vec::new();
    wait::until_true("the load client to run", LIMIT, async || {
        started = process::descendants(bench.id());
        started.iter().any(|pid| process::command_line(*pid).contains(" load --target"))
    })
    .await;
    let run = started.iter().map(|pid| process::command_line(*pid));
    let socket = run.filter(|line| line.contains(" run --app bench")).find_map(|line| {
        line.split(' ').skip_while(|word| *word != "--socket").nth(1).map(PathBuf::from)
    });
    process::signal(bench.id(), signal);
    let status = bench.wait().expect("it ends");
    assert!(!status.success(), "it was ended: {status}");
    for pid in started {
        process::gone(pid, LIMIT).await;
    }
    let mut printed = String::new();
    bench.stdout.expect("it is piped").read_to_string(&mut printed).expect("it is text");
    let socket = socket.expect("a sidecar has a socket");
    (socket.parent().expect("it is in a folder").to_owned(), printed)
}

#[test]
fn a_benchmark_that_is_killed_leaves_no_processes() {
    test(async {
        let (folder, _) = ended_by(Signal::KILL).await;
        // Its hub ends by itself when it has had no client for some seconds; nobody else could tidy up.
        for hub in process::find("hub", &folder) {
            process::kill(hub);
            process::gone(hub, LIMIT).await;
        }
        std::fs::remove_dir_all(folder).expect("nobody is left who writes there");
    });
}

#[test]
fn a_benchmark_that_is_terminated_tidies_up() {
    test(async {
        let (folder, printed) = ended_by(Signal::TERM).await;
        assert!(!folder.exists() && process::find("hub", &folder).is_empty());
        // What was measured is told, and that it is not all.
        for said in
            ["Physical limits of this run", "FAILED", "the rest: somebody ended this program"]
        {
            assert!(printed.contains(said), "{said}: {printed}");
        }
    });
}

#[test]
fn what_fails_is_told_with_its_cause_and_the_rest_is_measured() {
    test(async {
        // Builds the programs, if nobody did.
        binaries::folder();
        let bench = Command::new(env!("CARGO_BIN_EXE_kar-bench"))
            .args(["--seconds", "0.1", "--rounds", "1", "--failovers", "0", "--only", "direct"])
            .args(["-o", "json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the benchmark can be started");
        let client = wait::until("the first load client to run", LIMIT, async || {
            let is_it = |pid: &u32| {
                process::command_line(*pid).contains(" load --target direct --clients 1 ")
            };
            process::descendants(bench.id()).into_iter().find(is_it)
        })
        .await;
        process::kill(client);
        let output = tokio::task::spawn_blocking(|| bench.wait_with_output());
        let output = output.await.expect("no panic").expect("it ends");
        assert!(!output.status.success(), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        let failures = report["failures"].as_array().expect("a list");
        assert_eq!(failures.len(), 1, "{report}");
        assert_eq!(failures[0]["what"], "direct invoke, 1 client, measurement 1 of 1");
        let cause = failures[0]["cause"].as_str().expect("a text");
        assert!(cause.contains("signal: 9"), "{cause}");
        let rows = report["rows"].as_array().expect("a list");
        assert_eq!(rows.len(), 1, "{report}");
        assert_eq!(rows[0]["name"], "direct invoke, 64 clients");
        assert!(rows[0]["calls_per_second"].as_f64().expect("a number") > 0.0);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("FAILED: direct invoke, 1 client"), "{said}");
    });
}

/// Runs the benchmark as somebody would who asks for these scenarios only.
async fn report_of(only: &str, failovers: &str) -> Value {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_kar-bench"));
    bench.args(["--seconds", "0.2", "--rounds", "1", "--failovers", failovers, "--only", only]);
    bench.args(["-o", "json"]);
    let output = capture(bench).await;
    assert_eq!(output.code, 0, "{output:?}");
    serde_json::from_str(&output.stdout).expect("a report")
}

/// Asserts that `value` has all these figures, each above 0.
fn assert_figures(value: &Value, names: &[&str]) {
    for name in names {
        let figure = value.pointer(&format!("/{name}")).and_then(Value::as_f64);
        assert!(figure.is_some_and(|figure| figure > 0.0), "{name} is {figure:?}: {value:#}");
    }
}

#[test]
fn every_figure_that_is_promised_is_reported() {
    // As long as a machine that does other things may take for a dozen measurements of 0.2 s and what they start.
    test_within(Duration::from_secs(300), async {
        // Builds the programs, if nobody did.
        binaries::folder();
        let durable = report_of("durable actor call", "1").await;
        let hot = report_of("one hot actor", "0").await;
        for (report, expected) in [(&durable, 3), (&hot, 3)] {
            assert_eq!(report["failures"], json!([]));
            let limits = ["echo_us", "chain_us", "echo_per_second", "chain_per_second"];
            assert_figures(&report["limits"], &limits);
            assert_figures(&report["limits"], &["append_us", "append_p99_us"]);
            assert_figures(report, &["idle_sidecar_kib", "idle_hub_kib"]);
            let rows = report["rows"].as_array().expect("a list");
            assert_eq!(rows.len(), expected, "{report:#}");
            for row in rows {
                assert_figures(row, &["calls_per_second", "p50_us", "p99_us", "p999_us", "max_us"]);
                assert_figures(row, &["cpu_us", "machine_us", "commit_p50_us"]);
                assert_figures(row, &["records_per_commit", "calls_per_commit"]);
                let processes = ["app", "client", "front", "hub", "owner"];
                assert_figures(&row["cpu_us_by_process"], &processes);
                let figure = |name: &str| row[name].as_f64().expect("a number");
                assert!(figure("p50_us") <= figure("p99_us"), "{row:#}");
                assert!(figure("machine_us") < figure("cpu_us"), "{row:#}");
            }
        }
        // One failover, and what those saw meanwhile who called somebody else.
        let failovers = &durable["failovers"];
        assert_eq!(failovers["ms"].as_array().map(Vec::len), Some(1), "{failovers}");
        assert_figures(failovers, &["ms/0", "before/p99_us", "before/max_us"]);
        assert_figures(failovers, &["after/p99_us", "after/max_us"]);
        assert_eq!(hot["failovers"]["ms"], json!([]));
    });
}
