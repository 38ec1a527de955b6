//! Processes: started in groups of their own, looked at through `/proc`, killed for certain.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::future::Future;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use tokio::signal::unix::{SignalKind, signal as listen};

use crate::{binaries, wait};

/// What `/proc/PID/stat` says.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// Its parent.
    pub parent: u32,
    /// One letter; `Z` is a zombie.
    pub state: char,
    /// User and system time used, clock ticks.
    pub cpu_ticks: u64,
}

/// Looks at a process; `None` if there is none. A zombie counts as none: nothing of it runs any more.
pub fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; what follows the last one is regular.
    let rest = &text[text.rfind(')')? + 2..];
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let stat = Stat {
        parent: u32::try_from(number(1)?).ok()?,
        state: fields.first()?.chars().next()?,
        cpu_ticks: number(11)? + number(12)?,
    };
    (stat.state != 'Z').then_some(stat)
}

/// Resident memory, KiB; `None` if there is no such process.
pub fn resident_kib(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Whether a process runs.
pub fn alive(pid: u32) -> bool {
    stat(pid).is_some()
}

/// Every process's id.
pub fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The command line, words separated by spaces; empty if there is no such process.
pub fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}

/// Processes below `root`, each after its parent.
pub fn descendants(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in all() {
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        found.extend(children.remove(&found[next]).unwrap_or_default());
        next += 1;
    }
    found.split_off(1)
}

/// Processes whose command line has both words; how daemons that left their parent are found.
pub fn find(word: &str, path: &Path) -> Vec<u32> {
    let path = path.to_string_lossy();
    let matches = |pid: &u32| {
        let line = command_line(*pid);
        line.contains(path.as_ref()) && line.split(' ').any(|w| w == word)
    };
    all().into_iter().filter(matches).filter(|pid| alive(*pid)).collect()
}

/// Whatever this program starts from now on dies with it, even if it is killed: for programs that people run. Worlds
/// and commands must be used on the main thread, since it is a thread's end that the kernel tells its children of.
pub fn tie() {
    TIED.store(true, Ordering::Relaxed);
}

static TIED: AtomicBool = AtomicBool::new(false);

/// A command that starts a program, which dies with this one if that is [tied](tie).
pub fn command(program: impl AsRef<OsStr>) -> Command {
    if !TIED.load(Ordering::Relaxed) {
        return Command::new(program);
    }
    // As `kar run` does with its component: the program begins as a `kar` that asks the kernel for it.
    let mut command = Command::new(binaries::kar());
    command.arg("__exec").arg(std::process::id().to_string()).arg(program);
    command
}

/// Runs until the end, or until somebody ends this program (SIGINT, SIGTERM, SIGHUP): then everything is dropped, so
/// that it is tidied up. `None`: it was ended.
///
/// # Errors
///
/// If signals cannot be listened to.
pub async fn until_ended<T>(run: impl Future<Output = T>) -> io::Result<Option<T>> {
    let [mut interrupt, mut terminate, mut hangup] = [
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
        listen(SignalKind::hangup())?,
    ];
    Ok(tokio::select! {
        result = run => Some(result),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        _ = hangup.recv() => None,
    })
}

/// Sends a signal; a process that is gone is fine.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _gone = kill_process(pid, signal);
    }
}

/// `kill -9`.
pub fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

/// `kill -9` to a whole group; a group that is gone is fine.
pub fn kill_group(leader: u32) {
    if let Some(pid) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        let _gone = kill_process_group(pid, Signal::KILL);
    }
}

/// Waits until a process has ended.
///
/// # Panics
///
/// If it does not within `limit`.
pub async fn gone(pid: u32, limit: Duration) {
    wait::until_true(&format!("process {pid} to end"), limit, async || !alive(pid)).await;
}
