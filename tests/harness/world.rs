//! One application in a data directory of its own, with all its processes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use kar_proto::v1::{GetInfoRequest, GetInfoResponse};
use tempfile::TempDir;

use crate::{Client, Journal, binaries, journal, process, wait};

/// How long a process may take to be ready on a machine that does much else.
pub const READY_LIMIT: Duration = Duration::from_secs(30);

/// Lines of each log that a failed test prints.
const LOG_TAIL_LINES: usize = 60;

/// One application in a temporary data directory. See the crate's documentation.
#[derive(Debug)]
pub struct World {
    dir: TempDir,
    /// The application's name.
    pub app: String,
    /// Arguments of every `kar run`.
    run_args: RefCell<Vec<String>>,
    /// Components write of every turn in the journal.
    journals_turns: Cell<bool>,
    groups: RefCell<Vec<u32>>,
    logs: RefCell<BTreeMap<String, u32>>,
    panics_expected: Cell<bool>,
}

/// What one `kar run` is started with.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// Name of the node, of its socket and its log.
    pub name: String,
    /// The component's command; none: a bare sidecar.
    pub command: Vec<String>,
    /// More arguments of `kar run`.
    pub args: Vec<String>,
    /// More environment.
    pub environment: Vec<(String, String)>,
    /// Its application; empty: the world's.
    pub application: String,
}

/// One `kar run`.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The component's socket.
    pub socket: PathBuf,
    child: Child,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Exit code; 128 + n if signal n ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

// === impl World ===

impl World {
    /// A new application in a new directory.
    ///
    /// # Panics
    ///
    /// If there is no place for it.
    pub fn new(app: &str) -> Rc<Self> {
        // Short, because the paths of Unix sockets are.
        let dir = tempfile::Builder::new().prefix("kar-").tempdir().expect("a temporary folder");
        Self::in_dir(app, dir)
    }

    /// A new application whose data directory lies in this folder.
    ///
    /// # Panics
    ///
    /// If the folder cannot be used.
    pub fn in_dir(app: &str, dir: TempDir) -> Rc<Self> {
        fs::create_dir(dir.path().join("logs")).expect("a folder for logs");
        Rc::new(Self {
            dir,
            app: app.into(),
            run_args: RefCell::default(),
            journals_turns: Cell::new(false),
            groups: RefCell::default(),
            logs: RefCell::default(),
            panics_expected: Cell::new(false),
        })
    }

    /// Adds arguments to every later `kar run`.
    pub fn add_run_args(&self, args: &[&str]) {
        self.run_args.borrow_mut().extend(args.iter().map(|arg| (*arg).to_owned()));
    }

    /// Lets every later `kar-test-app` write of all its turns in the journal.
    pub fn journal_turns(&self) {
        self.journals_turns.set(true);
    }

    /// The temporary folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// KAR's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The side-effect journal of this application's components.
    pub fn journal(&self) -> Journal {
        Journal::new(&self.dir.path().join("journal"))
    }

    /// Starts a bare sidecar and waits until it is ready.
    pub async fn bare(&self, name: &str) -> Node {
        self.start(NodeOptions { name: name.into(), ..NodeOptions::default() }).await
    }

    /// Starts a `kar-test-app` in these roles, and waits until its sidecar is ready.
    pub async fn app(&self, name: &str, roles: &[&str]) -> Node {
        self.start(self.app_options(name, roles)).await
    }

    /// What [`World::app`] starts.
    pub fn app_options(&self, name: &str, roles: &[&str]) -> NodeOptions {
        let mut command = vec![binaries::test_app().to_string_lossy().into_owned()];
        command.extend(roles.iter().map(|role| (*role).to_owned()));
        NodeOptions { name: name.into(), command, ..NodeOptions::default() }
    }

    /// Starts a node and waits until it is ready.
    pub async fn start(&self, options: NodeOptions) -> Node {
        let mut node = self.spawn(&options);
        node.ready().await;
        node
    }

    /// Starts a node without waiting.
    ///
    /// # Panics
    ///
    /// If the program cannot be started.
    pub fn spawn(&self, options: &NodeOptions) -> Node {
        let socket = self.dir.path().join(format!("{}.sock", options.name));
        let mut command = self.command(&options.name);
        let application =
            if options.application.is_empty() { &self.app } else { &options.application };
        command.args(["run", "--app", application, "--name", &options.name, "--data-dir"]);
        command.arg(self.data_dir()).arg("--socket").arg(&socket);
        command.args(self.run_args.borrow().iter()).args(&options.args);
        if !options.command.is_empty() {
            command.arg("--").args(&options.command);
        }
        if self.journals_turns.get() {
            command.env(journal::TURNS_VARIABLE, "1");
        }
        command.envs(options.environment.iter().map(|(k, v)| (k, v)));
        let child = command.spawn().expect("kar can be started");
        self.groups.borrow_mut().push(child.id());
        Node { name: options.name.clone(), socket, child }
    }

    /// A `kar` command whose output goes to a log of this name, in a process group of its own.
    fn command(&self, name: &str) -> Command {
        let number = {
            let mut logs = self.logs.borrow_mut();
            let number = logs.entry(name.to_owned()).or_default();
            *number += 1;
            *number
        };
        let log = self.dir.path().join(format!("logs/{name}.{number}.log"));
        let log = File::create(log).expect("a log can be made");
        let mut command = self.plain_command();
        command.process_group(0);
        command.stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        command
    }

    fn plain_command(&self) -> Command {
        let mut command = process::command(binaries::kar());
        for name in ["KAR_SOCKET", "KAR_APP", "KAR_API_TOKEN", "KAR_DATA_DIR", "KAR_LOG"] {
            command.env_remove(name);
        }
        command
            .current_dir(self.dir.path())
            .env("RUST_BACKTRACE", "1")
            .env(journal::PATH_VARIABLE, self.journal().path())
            .stdin(Stdio::null());
        command
    }

    /// Starts another `kar` command in the background; its output goes to a log of this name.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn spawn_kar(&self, name: &str, args: &[&str]) -> Node {
        let child = self.command(name).args(args).spawn().expect("kar can be started");
        self.groups.borrow_mut().push(child.id());
        Node { name: name.into(), socket: PathBuf::new(), child }
    }

    /// Runs a `kar` command to its end.
    pub async fn kar(&self, args: &[&str]) -> Output {
        self.kar_with(args, &[]).await
    }

    /// Runs a `kar` command to its end with more environment.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub async fn kar_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = self.plain_command();
        command.args(args).envs(environment.iter().copied());
        capture(command).await
    }

    /// `kar COMMAND --app … --data-dir …` with further words.
    pub async fn kar_here(&self, command: &str, words: &[&str]) -> Output {
        let data_dir = self.data_dir();
        let mut args: Vec<&str> = command.split(' ').collect();
        args.extend(["--app", &self.app, "--data-dir"]);
        args.push(data_dir.to_str().expect("the path is UTF-8"));
        args.extend(words);
        self.kar(&args).await
    }

    /// Process id of the hub.
    pub async fn hub(&self) -> u32 {
        let file = self.data_dir().join("hub.pid");
        wait::until("a living hub", READY_LIMIT, async || {
            let text = fs::read_to_string(&file).ok()?;
            let pid: u32 = text.split_whitespace().next()?.parse().ok()?;
            process::alive(pid).then_some(pid)
        })
        .await
    }

    /// Every log as text, by name.
    pub fn logs(&self) -> BTreeMap<String, String> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.dir.path().join("logs"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .collect();
        files.push(self.data_dir().join("hub.log"));
        let read = |path: PathBuf| {
            let text = String::from_utf8_lossy(&fs::read(&path).ok()?).into_owned();
            Some((path.file_name()?.to_string_lossy().into_owned(), text))
        };
        files.into_iter().filter_map(read).collect()
    }

    /// This test makes a process panic on purpose.
    pub fn expect_panics(&self) {
        self.panics_expected.set(true);
    }

    fn print_logs(&self) {
        for (name, text) in self.logs() {
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
            println!("──── {name}: last {} of {} lines", tail.len(), lines.len());
            println!("{}", tail.join("\n"));
        }
        if std::env::var_os("KAR_TESTS_KEEP").is_some() {
            println!("kept: {}", self.dir.path().display());
        }
    }

    fn kill_everything(&self) {
        // First the sidecars, so that nobody starts a new hub; then whatever names this folder.
        for leader in self.groups.borrow().iter() {
            process::kill_group(*leader);
        }
        for pid in process::all() {
            if process::command_line(pid).contains(self.dir.path().to_string_lossy().as_ref()) {
                process::kill(pid);
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill_everything();
        let mut panicked: Vec<String> = Vec::new();
        for (name, text) in self.logs() {
            if text.contains("panicked at") {
                panicked.push(name);
            }
        }
        let bad = !panicked.is_empty() && !self.panics_expected.get();
        if thread::panicking() || bad {
            self.print_logs();
            if std::env::var_os("KAR_TESTS_KEEP").is_some() {
                self.dir.disable_cleanup(true);
            }
        }
        assert!(thread::panicking() || !bad, "panics in {panicked:?}; see the logs above");
    }
}

/// Runs a command to its end and returns what it printed.
///
/// # Panics
///
/// If it cannot be started.
pub async fn capture(command: Command) -> Output {
    use std::os::unix::process::ExitStatusExt as _;
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    let output = command.output().await.expect("the program can be started");
    Output {
        code: output.status.code().or(output.status.signal().map(|s| 128 + s)).unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

// === impl Node ===

impl Node {
    /// Waits until the sidecar answers.
    ///
    /// # Panics
    ///
    /// If it ends or takes too long.
    pub async fn ready(&mut self) {
        let (name, socket) = (self.name.clone(), self.socket.clone());
        let child = &mut self.child;
        wait::until_true(&format!("sidecar {name} to be ready"), READY_LIMIT, async || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("kar run of {name} ended with {status}");
            }
            info_of(&socket).await.is_some()
        })
        .await;
    }

    /// Waits until somebody listens on the socket; for sidecars that answer only those who have a token.
    pub async fn listens(&self) {
        wait::until_true(&format!("{} to listen", self.name), READY_LIMIT, async || {
            Client::unix(&self.socket).await.is_ok()
        })
        .await;
    }

    /// Waits until the component has registered this service or actor type.
    pub async fn hosts(&self, kind: &str) {
        wait::until_true(&format!("{} to host {kind}", self.name), READY_LIMIT, async || {
            let node = info_of(&self.socket).await.and_then(|info| info.node).unwrap_or_default();
            node.services.iter().chain(&node.actor_types).any(|k| k == kind)
        })
        .await;
    }

    /// What the sidecar says about itself.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub async fn info(&self) -> GetInfoResponse {
        info_of(&self.socket).await.expect("the sidecar answers")
    }

    /// A client over the Unix socket.
    ///
    /// # Panics
    ///
    /// If nobody listens.
    pub async fn client(&self) -> Client {
        Client::unix(&self.socket).await.expect("the sidecar listens")
    }

    /// A client over TCP.
    ///
    /// # Panics
    ///
    /// If nobody listens.
    pub async fn tcp_client(&self) -> Client {
        Client::tcp(self.port().await).await.expect("the sidecar listens")
    }

    /// The port on loopback.
    pub async fn port(&self) -> u16 {
        u16::try_from(self.info().await.grpc_port).expect("a port")
    }

    /// Process id of `kar run`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Process id of the component (not of the supervisor between it and the sidecar).
    pub async fn component_pid(&self) -> u32 {
        wait::until("the component's process", READY_LIMIT, async || self.component_now()).await
    }

    /// As [`Node::component_pid`], if it is there now.
    pub fn component_now(&self) -> Option<u32> {
        let kar = binaries::kar().to_string_lossy().into_owned();
        // A program that was built anew since it was started shows as `… (deleted)`; a process
        // that is about to be gone,
        // as a hub that finds another one running, shows nothing.
        let is_component = |pid: &u32| {
            fs::read_link(format!("/proc/{pid}/exe"))
                .is_ok_and(|exe| exe.to_string_lossy().trim_end_matches(" (deleted)") != kar)
        };
        process::descendants(self.pid()).into_iter().find(is_component)
    }

    /// `kill -9` of the sidecar; the kernel and `kar` see to it that the component dies.
    pub fn kill_sidecar(&self) {
        process::kill(self.pid());
    }

    /// Sends a signal to `kar run`.
    pub fn signal(&self, signal: rustix::process::Signal) {
        process::signal(self.pid(), signal);
    }

    /// Whether `kar run` still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until `kar run` has ended; its exit code, 128 + n for signal n.
    pub async fn ended(&mut self, limit: Duration) -> i32 {
        use std::os::unix::process::ExitStatusExt as _;
        let child = &mut self.child;
        let status = wait::until(&format!("{} to end", self.name), limit, async || {
            child.try_wait().expect("the process is ours")
        })
        .await;
        status.code().or(status.signal().map(|s| 128 + s)).unwrap_or(-1)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        process::kill_group(self.child.id());
        process::kill(self.child.id());
        let _reaped = self.child.wait();
    }
}

async fn info_of(socket: &Path) -> Option<GetInfoResponse> {
    let client = Client::unix(socket).await.ok()?;
    let mut system = client.system();
    let answer = tokio::time::timeout(Duration::from_secs(5), system.get_info(GetInfoRequest {}));
    Some(answer.await.ok()?.ok()?.into_inner())
}
