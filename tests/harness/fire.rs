//! Hosts under fire: killed at random, and started again, while a load goes on.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinHandle;

use crate::world::READY_LIMIT;
use crate::{Client, Node, NodeOptions, Random, World, process, wait};

/// Longest time from a kill to the next thing that the load finishes, on a machine that does much else.
pub const PROGRESS_LIMIT: Duration = Duration::from_secs(40);

/// What the clients of a load tell those who kill.
#[derive(Debug, Default)]
pub struct Load {
    /// How much is done.
    pub finished: Cell<u64>,
    /// Nothing new is to begin.
    pub over: Cell<bool>,
}

/// Hosts with their supervisors (`--restart`), and the hub.
#[derive(Debug)]
pub struct Fire {
    world: Rc<World>,
    hosts: Vec<Host>,
    random: Random,
    /// Kills so far.
    pub kills: Kills,
}

/// How many processes of each kind were killed.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Kills {
    /// Components whose sidecars lived on.
    pub components: u32,
    /// Sidecars; their components died with them.
    pub sidecars: u32,
    /// Hubs.
    pub hubs: u32,
}

/// One of the hosts.
#[derive(Debug)]
struct Host {
    node: Node,
    options: NodeOptions,
    /// What it hosts: a service or actor type that says that it is there; empty: nothing.
    kind: String,
}

// === impl Load ===

impl Load {
    /// Something was finished.
    pub fn done(&self) {
        self.finished.set(self.finished.get() + 1);
    }
}

// === impl Kills ===

impl Kills {
    /// All of them.
    pub fn total(&self) -> u32 {
        self.components + self.sidecars + self.hubs
    }
}

// === impl Fire ===

impl Fire {
    /// No hosts yet.
    pub fn new(world: &Rc<World>, random: Random) -> Self {
        Self { world: world.clone(), hosts: Vec::new(), random, kills: Kills::default() }
    }

    /// Starts a host; `kind` is a service or actor type that it registers.
    pub async fn host(&mut self, mut options: NodeOptions, kind: &str) {
        options.args.push("--restart".into());
        let node = self.world.start(options.clone()).await;
        node.hosts(kind).await;
        self.hosts.push(Host { node, options, kind: kind.into() });
    }

    /// Starts a node without a component, which clients use; they must expect that it dies.
    pub async fn front(&mut self, name: &str) -> Client {
        let options = NodeOptions { name: name.into(), ..NodeOptions::default() };
        let node = self.world.start(options.clone()).await;
        let client = node.client().await;
        self.hosts.push(Host { node, options, kind: String::new() });
        client
    }

    /// The hosts.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.hosts.iter().map(|host| &host.node)
    }

    /// Kills a host's component, a host's sidecar, the hub, or two of them at once; what died is there again
    /// afterwards.
    pub async fn strike(&mut self) {
        let choice = self.random.below(8);
        if choice < 2 {
            process::kill(self.world.hub().await);
            self.kills.hubs += 1;
        }
        if choice == 0 {
            return;
        }
        let index = self.random.below(self.hosts.len() as u64);
        let host = &mut self.hosts[usize::try_from(index).expect("small")];
        match host.node.component_now() {
            Some(component) if choice.is_multiple_of(2) => {
                self.kills.components += 1;
                process::kill(component);
                process::gone(component, READY_LIMIT).await;
                host.node.component_pid().await;
            }
            _ => {
                self.kills.sidecars += 1;
                host.node.kill_sidecar();
                host.node.ended(READY_LIMIT).await;
                host.node = self.world.start(host.options.clone()).await;
            }
        }
        if !host.kind.is_empty() {
            host.node.hosts(&host.kind).await;
        }
    }

    /// Kills at random moments, so often, each time after the load went on; then lets the clients end.
    ///
    /// # Panics
    ///
    /// If a client found something wrong, or the load stands still.
    pub async fn burn(
        &mut self,
        load: &Load,
        clients: Vec<JoinHandle<()>>,
        kills: u32,
        pause_max_ms: u64,
    ) {
        let failed = || clients.iter().any(JoinHandle::is_finished);
        while self.kills.total() < kills && !failed() {
            wait::moment(Duration::from_millis(self.random.below(pause_max_ms))).await;
            let finished = load.finished.get();
            self.strike().await;
            wait::until_true("the load to go on", PROGRESS_LIMIT, async || {
                load.finished.get() > finished || failed()
            })
            .await;
        }
        load.over.set(true);
        for client in clients {
            if let Err(error) = client.await {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// Waits until no invocation of the application is unfinished.
///
/// # Panics
///
/// If some are left after [`PROGRESS_LIMIT`].
pub async fn nothing_left(world: &World) {
    wait::until_true("every invocation to be over", PROGRESS_LIMIT, async || {
        let listed = world.kar_here("get invocations", &["-o", "json"]).await;
        // A node that has just been started again may not answer yet; that is no list.
        listed.code == 0 && listed.stdout.trim() == "[]"
    })
    .await;
}
