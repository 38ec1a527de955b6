//! The processes of the demonstration: hosts, each a `kar run` with a component, started again
//! whenever they end; and how to find the others (components, hub) in order to kill them.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::super::child::{descendants_of, dying_with_this, own_executable};

/// Hidden command that the components run.
const COMPONENT: &str = "__demo-app";
/// A host that cannot be started, or ends at once, is started again so much later.
const START_PAUSE: Duration = Duration::from_millis(200);

/// Hosts that are kept running.
#[derive(Debug)]
pub(super) struct Hosts {
    /// Process ids of the sidecars; 0 while one is not running.
    sidecars: Arc<[AtomicI32]>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Hosts {
    /// Starts `count` hosts of `app` on the data directory `dir`.
    pub(super) fn start(app: &str, dir: &Path, count: usize) -> io::Result<Self> {
        let sidecars: Arc<[AtomicI32]> = (0..count).map(|_| AtomicI32::new(0)).collect();
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for index in 0..count {
            let name = format!("host-{}", index + 1);
            let line = command_line(app, &name, dir)?;
            let log = dir.join(format!("{name}.log"));
            let slots = Arc::clone(&sidecars);
            let stopping = stopping.clone();
            tasks.spawn(async move { keep(&line, &log, &slots[index], stopping).await });
        }
        Ok(Self { sidecars, stop, tasks })
    }

    /// The sidecar of a host, if it runs.
    pub(super) fn sidecar(&self, index: usize) -> Option<Pid> {
        Pid::from_raw(self.sidecars.get(index)?.load(Ordering::Relaxed))
    }

    /// The component of a host, if it runs.
    pub(super) fn component(&self, index: usize) -> Option<Pid> {
        let sidecar = self.sidecar(index)?;
        descendants_of(sidecar).into_iter().find(|pid| {
            arguments(*pid).get(1).is_some_and(|argument| argument == COMPONENT.as_bytes())
        })
    }

    /// Kills all of them, and waits until they are gone.
    pub(super) async fn end(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The hub of a data directory, if one runs.
pub(super) fn hub_of(dir: &Path) -> Option<Pid> {
    let dir = dir.as_os_str().as_encoded_bytes();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find_map(|pid: i32| {
        let pid = Pid::from_raw(pid)?;
        let arguments = arguments(pid);
        let is_hub = arguments.get(1).is_some_and(|first| first == b"hub");
        (is_hub && arguments.iter().any(|argument| argument == dir)).then_some(pid)
    })
}

/// Kills a process outright; tells whether it was there.
pub(super) fn kill(pid: Pid) -> bool {
    kill_process(pid, Signal::KILL).is_ok()
}

/// The arguments of a process, the program first; none if it is gone.
fn arguments(pid: Pid) -> Vec<Vec<u8>> {
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    line.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

fn command_line(app: &str, name: &str, dir: &Path) -> io::Result<Vec<OsString>> {
    let program = own_executable()?.into_os_string();
    let mut line: Vec<OsString> = vec![program.clone()];
    line.extend(["run", "--app", app, "--name", name, "--data-dir"].map(Into::into));
    line.push(dir.into());
    line.extend(["--no-prefix", "--restart", "--"].map(Into::into));
    line.extend([program, COMPONENT.into()]);
    Ok(line)
}

/// Runs one host, again and again until told to stop.
async fn keep(line: &[OsString], log: &Path, slot: &AtomicI32, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let mut child = match start(line, log) {
            Ok(child) => child,
            Err(error) => {
                tracing::error!(%error, "a host cannot be started");
                let _ = timeout(START_PAUSE, stop.wait_for(|stop| *stop)).await;
                continue;
            }
        };
        let id = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or(0);
        slot.store(id, Ordering::Relaxed);
        let begun = Instant::now();
        tokio::select! {
            _ = child.wait() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        slot.store(0, Ordering::Relaxed);
        // Has no effect on one that has ended.
        let _ = child.kill().await;
        if begun.elapsed() < START_PAUSE {
            let _ = timeout(START_PAUSE, stop.wait_for(|stop| *stop)).await;
        }
    }
}

fn start(line: &[OsString], log: &Path) -> io::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = dying_with_this(line)?;
    command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Command::from(command).kill_on_drop(true).spawn()
}
