//! A component's process, seen from its sidecar: started under [`super::child`], signalled as a
//! group, waited for.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, PipeWriter};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::child::{exit_code, own_executable};
use super::lines::{Prefix, Pump, Sink};

/// How long the last output may take to be written after the process has ended.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// The command with its arguments.
    pub(crate) command: Vec<OsString>,
    /// Variables set on top of this process's own.
    pub(crate) environment: Vec<(String, OsString)>,
    /// What goes before each output line; `None`: the output is passed through.
    pub(crate) prefix: Option<Prefix>,
}

/// A running component. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Component {
    child: Child,
    group: Pid,
    pumps: Vec<Pump>,
}

impl Component {
    /// Starts it, apart from the terminal's foreground group. Standard input is passed on unless it
    /// is a terminal: a background group that read from one would be stopped by the system.
    ///
    /// Call it on the main thread.
    pub(crate) fn start(launch: &Launch) -> io::Result<Self> {
        let mut command = Command::new(own_executable()?);
        command
            .arg("__child")
            .arg("--parent")
            .arg(getpid().as_raw_nonzero().to_string())
            .arg("--")
            .args(&launch.command)
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .kill_on_drop(true);
        if io::stdin().is_terminal() {
            command.stdin(Stdio::null());
        }
        let mut pumps = Vec::new();
        if let Some(prefix) = &launch.prefix {
            command.stdout(pumped(&mut pumps, prefix, Sink::Stdout)?);
            command.stderr(pumped(&mut pumps, prefix, Sink::Stderr)?);
        }
        let child = command.spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let group = group.ok_or_else(|| io::Error::other("the process has no id"))?;
        Ok(Self { child, group, pumps })
    }

    /// Sends a signal to all its processes; nothing happens if there are none any more.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.child.id().is_some() {
            let _ = kill_process_group(self.group, signal);
        }
    }

    /// Waits for its end; returns the exit code, 128 + n for signal n.
    pub(crate) async fn wait(&mut self) -> io::Result<u8> {
        let status = self.child.wait().await?;
        if status.signal().is_some() {
            // The supervisor itself was killed: what it watched over must not outlive it. The
            // component's first process dies by itself then, its children may be left; the group's
            // id is theirs while there are any.
            let _ = kill_process_group(self.group, Signal::KILL);
        }
        Ok(code_of(status))
    }

    /// Asks it to end, and kills it if it doesn't within `grace`.
    pub(crate) async fn stop(&mut self, signal: Signal, grace: Duration) -> io::Result<u8> {
        self.signal(signal);
        if let Ok(code) = timeout(grace, self.wait()).await {
            return code;
        }
        tracing::warn!(
            grace_s = grace.as_secs(),
            "the component did not end in time and is killed"
        );
        self.signal(Signal::KILL);
        self.wait().await
    }

    /// Waits, within a bound, until its last output is written.
    pub(crate) async fn flush(&mut self) {
        for pump in self.pumps.drain(..) {
            let _ = timeout(OUTPUT_GRACE, pump.finished()).await;
        }
    }
}

/// A pipe's end for the process; the other end is pumped to `sink`.
fn pumped(pumps: &mut Vec<Pump>, prefix: &Prefix, sink: Sink) -> io::Result<PipeWriter> {
    let (reader, writer) = io::pipe()?;
    pumps.push(Pump::start(reader, prefix.clone(), sink)?);
    Ok(writer)
}

/// The exit code of a status, as shells give it.
pub(crate) fn code_of(status: ExitStatus) -> u8 {
    exit_code(status.code(), status.signal())
}
