//! What the tests with real processes and sockets share.
#![allow(dead_code, unreachable_pub, missing_docs)] // Every test file uses a part of it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kar_hub::{ClientConfig, HubClient, HubError, HubEvent, LogName, SpawnHub};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Nothing in these tests takes so long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Messages that a test has not looked at yet.
const QUEUE: usize = 100_000;

pub struct Node {
    pub client: HubClient,
    events: mpsc::Receiver<HubEvent>,
    /// Events taken while looking for others.
    pub seen: Vec<HubEvent>,
}

/// Says that a test cannot run here, or not all of it, past the test runner's capture: `cargo xtask test` lists it.
pub fn skip(words: &str) {
    use std::io::Write as _;
    // Nobody to tell is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{words}");
}

/// The example program that is a hub.
pub fn hub_program() -> PathBuf {
    let mut dir = std::env::current_exe().expect("the test has a path");
    dir.pop();
    dir.pop();
    let program = dir.join("examples").join("hub");
    assert!(program.exists(), "cargo builds examples with tests: {}", program.display());
    program
}

pub fn config(dir: &Path, name: &str, args: &[&str]) -> ClientConfig {
    let mut config = ClientConfig::new(dir, "app", name);
    let mut all = vec![dir.as_os_str().to_owned()];
    all.extend(args.iter().map(Into::into));
    config.spawn = Some(SpawnHub { program: hub_program(), args: all });
    config
}

pub async fn node(dir: &Path, name: &str) -> Node {
    attach(config(dir, name, &[])).await.expect("a hub")
}

pub async fn attach(config: ClientConfig) -> Result<Node, HubError> {
    let (sender, events) = mpsc::channel(QUEUE);
    let client = HubClient::connect(config, move |events| {
        for event in events {
            // A test that is over does not listen any more.
            let _ = sender.try_send(event);
        }
    });
    Ok(Node { client: client.await?, events, seen: Vec::new() })
}

impl Node {
    /// The next event.
    pub async fn next(&mut self) -> HubEvent {
        match timeout(PATIENCE, self.events.recv()).await {
            Ok(event) => event.expect("the client lives"),
            Err(_) => panic!("nothing comes any more; before: {:?}", self.tail()),
        }
    }

    /// The first event that `pick` makes something of; the others go to `seen`.
    pub async fn find<T>(&mut self, mut pick: impl FnMut(&HubEvent) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let event = self.next().await;
            if let Some(found) = pick(&event) {
                return found;
            }
            self.seen.push(event);
            assert!(
                Instant::now() < deadline,
                "what is waited for does not come: {:?}",
                self.tail()
            );
        }
    }

    pub async fn wait(&mut self, wanted: HubEvent) {
        self.find(|event| (*event == wanted).then_some(())).await;
    }

    /// Waits until the names of the live members are these.
    pub async fn members(&mut self, wanted: &[&str]) {
        self.find(|event| {
            let HubEvent::Members { nodes, .. } = event else { return None };
            let names: Vec<_> = nodes.iter().map(|n| n.name.as_str()).collect();
            (names == wanted).then_some(())
        })
        .await;
    }

    /// Everything that a reading tells up to its end.
    pub async fn read(&mut self, log: &LogName, from: u64) -> Vec<(u64, Bytes)> {
        self.client.read_log(log.clone(), from);
        let mut entries = Vec::new();
        let name = log.clone();
        self.find(|event| match event {
            HubEvent::Entry { log, offset, record } if *log == name => {
                entries.push((*offset, record.clone()));
                None
            }
            HubEvent::End { log } if *log == name => Some(()),
            _ => None,
        })
        .await;
        entries
    }

    /// Where a log starts, by reading it from 1; the reading is ended.
    pub async fn start_of(&mut self, log: &LogName) -> u64 {
        self.client.read_log(log.clone(), 1);
        let name = log.clone();
        let start = self
            .find(|event| match event {
                HubEvent::LogStart { log, start } | HubEvent::LogTrimmed { log, start }
                    if *log == name =>
                {
                    Some(*start)
                }
                _ => None,
            })
            .await;
        self.client.stop_log(log.clone());
        start
    }

    /// Trims a log; returns where it starts when that is durable.
    pub async fn trim(&mut self, log: &LogName, below: u64) -> u64 {
        self.client.trim_log(log.clone(), below);
        let name = log.clone();
        self.find(|event| match event {
            HubEvent::LogStart { log, start } if *log == name => Some(*start),
            _ => None,
        })
        .await
    }

    fn tail(&self) -> &[HubEvent] {
        &self.seen[self.seen.len().saturating_sub(20)..]
    }
}

pub fn log(n: u64) -> LogName {
    LogName::from(format!("a.Account/{n}"))
}

/// Kills a process and waits until it is gone.
pub async fn kill(pid: u32) {
    signal(Signal::KILL, pid);
    wait_for("the process to be gone", || !alive(pid)).await;
}

pub fn signal(signal: Signal, pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("the process is there");
}

/// Whether a process runs (the dead whom nobody has waited for do not).
pub fn alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}

pub async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let poll = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, poll).await.unwrap_or_else(|_| panic!("waited for {what}"));
}

/// Process id of the hub that last served a directory.
pub fn hub_pid(dir: &Path) -> u32 {
    let text = std::fs::read_to_string(dir.join("hub.pid")).expect("a hub has run");
    text.split(' ').next().and_then(|pid| pid.parse().ok()).expect("its process id")
}

/// Starts a hub as a child of the test; its output is piped.
pub fn start_hub(dir: &Path, args: &[&str]) -> Child {
    Command::new(hub_program())
        .arg(dir)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the example runs")
}

/// The same, and it listens: whoever connects from now on finds it.
pub async fn serving_hub(dir: &Path) -> Child {
    let hub = start_hub(dir, &[]);
    let socket = dir.join("hub.sock");
    let listens = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
    wait_for("the hub to listen", listens).await;
    hub
}

/// Bytes of all files below a directory, as their lengths are.
pub fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_below(&entry.path()),
        Ok(found) => found.len(),
        // Removed meanwhile.
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(size).sum()
}

/// A small generator of choices, whose seed is printed.
pub struct Choices(u64);

impl Choices {
    pub fn new() -> Self {
        let given = std::env::var("KAR_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.expect("after 1970").as_nanos() as u64
        });
        println!("KAR_TEST_SEED={seed}");
        Self(seed | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

/// A file system that is there as long as this is.
pub struct Mounted {
    pub path: PathBuf,
}

impl Mounted {
    /// `None`: this user may not.
    pub fn tmpfs(path: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(path).expect("a directory in a temporary one");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(path)
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success()).then(|| Self { path: path.to_owned() })
    }

    /// Gives it another size.
    pub fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.path).status();
        assert!(status.expect("mount").success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A process that still has files there keeps it until it ends.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// Waits for a hub that was started; its exit code and its last words.
pub fn end(child: Child) -> (i32, String) {
    let output = child.wait_with_output().expect("the child can be waited for");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or(-1), words)
}

/// The hub of a directory ends when its last client has left.
pub async fn wait_for_end(dir: &Path) {
    let pid = hub_pid(dir);
    wait_for("the hub's end", || !alive(pid)).await;
}
