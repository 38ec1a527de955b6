//! The benchmark ends with everything that it started, however it ends.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use kar_tests::{binaries, process, test, wait};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(30);

/// Runs the benchmark until its nodes do, ends it by a signal, and waits until everything has ended; returns the folder
/// that it used.
async fn ended_by(signal: Signal) -> PathBuf {
    // Builds the programs, if nobody did.
    binaries::folder();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_kar-bench"))
        .args(["--seconds", "0.1", "--rounds", "99", "--failovers", "0", "--only", "durable"])
        .stdout(Stdio::null())
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
    let socket = socket.expect("a sidecar has a socket");
    socket.parent().expect("it is in a folder").to_owned()
}

#[test]
fn a_benchmark_that_is_killed_leaves_no_processes() {
    test(async {
        let folder = ended_by(Signal::KILL).await;
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
        let folder = ended_by(Signal::TERM).await;
        assert!(!folder.exists() && process::find("hub", &folder).is_empty());
    });
}
