//! `kar __child`: stands between a sidecar and its component so that no process of the component
//! outlives the sidecar, however that ends.
//!
//! The kernel's parent-death signal alone would reach only the component's first process: `cargo
//! run` would die and its program live on. So this small process holds a pidfd of the sidecar; when
//! that dies it kills every descendant. As a sub-reaper it stays the ancestor of all of them, also
//! of those that made sessions or groups of their own. The component's first process in turn has
//! the parent-death signal set (by re-executing through [`exec`], since setting it between fork and
//! exec would be unsafe code), so that it ends too when somebody kills this process.
//!
//! All live in one process group, led by this process and apart from the terminal's foreground
//! group: signals reach them from the sidecar alone, when it has handed over.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, getppid, kill_process, pidfd_open,
    set_child_subreaper, set_parent_process_death_signal, waitpid,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::args::ChildArgs;
use super::exit::{Code, Failure, Outcome};

/// First argument that makes this executable [`exec`] a command, before anything else is parsed.
pub(crate) const EXEC: &str = "__exec";

/// What a process killed by SIGKILL is said to exit with.
const KILLED: u8 = 128 + 9;

/// How long processes that the component left behind may take to end by SIGTERM. The sidecar's
/// `--stop-timeout` cuts it shorter where it is shorter.
const LEFTOVERS_GRACE: Duration = Duration::from_secs(5);
/// Between two looks at which descendants are left.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// Rounds of killing: a fork bomb may outrun it, nothing else does.
const KILL_ROUNDS_MAX: u32 = 500;

/// Replaces this process by `args[1..]`, to be killed when its parent, `args[0]`, dies.
pub(crate) fn exec(args: &[OsString]) -> ExitCode {
    let [parent, program, rest @ ..] = args else { return Code::NotExecutable.into() };
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() || parent_is(parent).is_none() {
        return ExitCode::from(KILLED);
    }
    let error = Command::new(program).args(rest).exec();
    let (code, advice) = match error.kind() {
        io::ErrorKind::NotFound => {
            (Code::NoCommand, "is it there, and the interpreter that its first line names?")
        }
        io::ErrorKind::PermissionDenied => (
            Code::NotExecutable,
            "make it executable (chmod +x), or name its interpreter before it",
        ),
        _ => (
            Code::NotExecutable,
            "is it a program for this machine? name its interpreter before it",
        ),
    };
    let message = format!("cannot start {}: {error}", program.display());
    eprintln!("{}", Failure::new(code, message).advise(advice));
    code.into()
}

/// The parent, if it still is the process `pid`. Without this check a parent that died before the
/// signal was set would go unnoticed.
fn parent_is(pid: &OsString) -> Option<Pid> {
    let pid = Pid::from_raw(pid.to_str()?.parse().ok()?)?;
    (getppid() == Some(pid)).then_some(pid)
}

/// The command that runs `command` as a child of this process, so that it dies with it.
pub(crate) fn dying_with_this(command: &[OsString]) -> io::Result<Command> {
    let mut exec = Command::new(own_executable()?);
    exec.arg(EXEC).arg(getpid().as_raw_nonzero().to_string()).args(command);
    Ok(exec)
}

/// This executable; also when it has been replaced on disk since it was started (a new build).
pub(crate) fn own_executable() -> io::Result<std::path::PathBuf> {
    let path = std::env::current_exe()?;
    if path.exists() { Ok(path) } else { Ok("/proc/self/exe".into()) }
}

/// Runs the component until it ended, or the sidecar did. Returns the component's exit code.
pub(crate) async fn supervise(args: ChildArgs) -> Outcome<u8> {
    let failed = |what: &str, e: io::Error| Failure::internal(format!("{what}: {e}"));
    let parent = parent_is(&args.parent.to_string().into()).ok_or_else(orphaned)?;
    let sidecar = pidfd_open(parent, PidfdFlags::empty())
        .map_err(|e| failed("cannot watch the sidecar", e.into()))?;
    if getppid() != Some(parent) {
        return Err(orphaned());
    }
    let sidecar = watch(sidecar).map_err(|e| failed("cannot watch the sidecar", e))?;
    set_child_subreaper(Some(getpid())).map_err(|e| failed("cannot adopt orphans", e.into()))?;
    let mut supervisor =
        Supervisor::new(sidecar).map_err(|e| failed("cannot handle signals", e))?;
    // The `Child` is dropped unwaited: all waiting is `reap`'s, which also takes orphans.
    let component = dying_with_this(&args.command)
        .and_then(|mut command| command.spawn())
        .map_err(|e| failed("cannot start the component", e))?;
    let id = i32::try_from(component.id()).ok().and_then(Pid::from_raw).ok_or_else(orphaned)?;
    supervisor.run(id).await.map_err(|e| failed("cannot wait for the component", e))
}

fn orphaned() -> Failure {
    Failure::internal("the sidecar is gone").advise("this command is started by `kar run`")
}

/// Tells when the process ends. By a thread that waits: registering the descriptor with the runtime
/// would be unsafe code.
fn watch(process: OwnedFd) -> io::Result<oneshot::Receiver<()>> {
    let (gone, watching) = oneshot::channel();
    thread::Builder::new().name("watch".into()).spawn(move || {
        let mut wanted = [PollFd::new(&process, PollFlags::IN)];
        while poll(&mut wanted, None) == Err(rustix::io::Errno::INTR) {}
        // Nobody listens when the component has ended already.
        let _ = gone.send(());
    })?;
    Ok(watching)
}

struct Supervisor {
    sidecar_gone: oneshot::Receiver<()>,
    child_ended: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    /// The whole group was asked to end, and so everything in it was told already.
    asked: bool,
}

impl Supervisor {
    /// Handlers, not `SIG_IGN`: that would be inherited by the component.
    fn new(sidecar_gone: oneshot::Receiver<()>) -> io::Result<Self> {
        Ok(Self {
            sidecar_gone,
            child_ended: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            asked: false,
        })
    }

    async fn run(&mut self, component: Pid) -> io::Result<u8> {
        let code = loop {
            tokio::select! {
                _ = &mut self.sidecar_gone => {
                    // At once; finding all the others takes a moment.
                    let _ = kill_process(component, Signal::KILL);
                    kill_descendants().await;
                    return Ok(KILLED);
                }
                _ = self.child_ended.recv() => {
                    if let Some(code) = reap(component)? {
                        break code;
                    }
                }
                _ = self.terminate.recv() => self.asked = true,
                _ = self.interrupt.recv() => self.asked = true,
                _ = self.hangup.recv() => {}
            }
        };
        self.end_leftovers().await;
        Ok(code)
    }

    /// The component's first process has ended: the rest is asked to, and killed if it doesn't in
    /// time.
    async fn end_leftovers(&mut self) {
        if !self.asked {
            for pid in descendants() {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let deadline = Instant::now() + LEFTOVERS_GRACE;
        while !descendants().is_empty() && Instant::now() < deadline {
            tokio::select! {
                _ = &mut self.sidecar_gone => break,
                _ = timeout(LOOK_INTERVAL * 5, self.child_ended.recv()) => {}
            }
            reap_all();
        }
        kill_descendants().await;
    }
}

/// Takes the status of every child that has ended; returns the exit code of `component` if it is
/// among them.
fn reap(component: Pid) -> io::Result<Option<u8>> {
    let mut code = None;
    loop {
        match waitpid(None, WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == component => {
                code = Some(exit_code(status.exit_status(), status.terminating_signal()));
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(code),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn reap_all() {
    while let Ok(Some(_)) = waitpid(None, WaitOptions::NOHANG) {}
}

/// The exit code as shells give it: 128 + n for signal n.
pub(crate) fn exit_code(status: Option<i32>, signal: Option<i32>) -> u8 {
    let code = status.or(signal.map(|n| 128 + n)).unwrap_or(i32::from(KILLED));
    u8::try_from(code & 0xff).unwrap_or(KILLED)
}

async fn kill_descendants() {
    for _ in 0..KILL_ROUNDS_MAX {
        reap_all();
        let left = descendants();
        if left.is_empty() {
            return;
        }
        for pid in left {
            let _ = kill_process(pid, Signal::KILL);
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Living descendants of this process.
fn descendants() -> Vec<Pid> {
    descendants_of(getpid())
}

/// Living descendants of a process.
pub(crate) fn descendants_of(ancestor: Pid) -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let (Some(pid), Some(parent)) = (pid, living_parent(&stat)) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![ancestor.as_raw_nonzero().get()];
    while let Some(pid) = open.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            open.push(child);
            found.extend(Pid::from_raw(child));
        }
    }
    found
}

/// The parent in a line of `/proc/PID/stat`, unless the process is dead and only waits to be
/// reaped. The name before it is in brackets and may itself contain any character.
fn living_parent(stat: &str) -> Option<i32> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X" | "x")).then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_read_whatever_the_name() {
        assert_eq!(living_parent("12 (a) b) c) S 7 12 12 0"), Some(7));
        assert_eq!(living_parent("12 (sh) Z 7 12 12 0"), None);
        assert_eq!(living_parent(""), None);
    }

    #[test]
    fn exit_codes_are_those_of_shells() {
        assert_eq!(exit_code(Some(3), None), 3);
        assert_eq!(exit_code(None, Some(15)), 143);
        assert_eq!(exit_code(None, Some(9)), 137);
    }
}
