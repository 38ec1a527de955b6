//! Hosts under fire: killed at random, and started again, while a load goes on.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinHandle;

use crate::toll::{Hits, Toll, runs_turns};
use crate::world::READY_LIMIT;
use crate::{Client, Node, NodeOptions, Random, World, process, wait};

/// Longest time from a kill to the next thing that the load finishes, on a machine that does much else.
pub const PROGRESS_LIMIT: Duration = Duration::from_secs(40);

/// Of so many strikes one is followed by another before what it killed is back.
pub const DOUBLE_EVERY: u64 = 3;

/// Longest time between those two, ms: as long as a failover takes.
pub const RECOVERY_MAX_MS: u64 = 250;

/// A test goes on for so many times its kills at most, until enough of them have landed in turns.
const MORE_MAX: u32 = 4;

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
    toll: Toll,
    witness: Option<Witness>,
}

/// Says what kills hit where components write no journal: who asks a node that nobody kills which turns run, and what
/// that told so far.
#[derive(Debug)]
struct Witness {
    client: Client,
    hits: Hits,
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
    dead: Option<Dead>,
}

/// What of a host was killed, and is not known to be back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dead {
    Component(u32),
    Sidecar,
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

// === impl Host ===

impl Host {
    /// Waits until what was killed is there again; starts it unless its supervisor does.
    async fn revive(&mut self, world: &World) {
        match self.dead.take() {
            None => return,
            Some(Dead::Component(component)) => {
                process::gone(component, READY_LIMIT).await;
                self.node.component_pid().await;
            }
            Some(Dead::Sidecar) => {
                self.node.ended(READY_LIMIT).await;
                self.node = world.start(self.options.clone()).await;
            }
        }
        if !self.kind.is_empty() {
            self.node.hosts(&self.kind).await;
        }
    }
}

// === impl Fire ===

impl Fire {
    /// No hosts yet.
    pub fn new(world: &Rc<World>, random: Random) -> Self {
        let (kills, toll) = (Kills::default(), Toll::default());
        Self { world: world.clone(), hosts: Vec::new(), random, kills, toll, witness: None }
    }

    /// From now on this client is asked, just before each kill, whether its victim runs turns: for components that
    /// write no journal. Kills of the hub alone count as none then.
    pub fn watch(&mut self, client: Client) {
        self.witness = Some(Witness { client, hits: Hits::default() });
    }

    /// Starts a host; `kind` is a service or actor type that it registers.
    pub async fn host(&mut self, mut options: NodeOptions, kind: &str) {
        options.args.push("--restart".into());
        let node = self.world.start(options.clone()).await;
        node.hosts(kind).await;
        self.hosts.push(Host { node, options, kind: kind.into(), dead: None });
    }

    /// Starts a node without a component, which clients use; they must expect that it dies.
    pub async fn front(&mut self, name: &str) -> Client {
        let options = NodeOptions { name: name.into(), ..NodeOptions::default() };
        let node = self.world.start(options.clone()).await;
        let client = node.client().await;
        self.hosts.push(Host { node, options, kind: String::new(), dead: None });
        client
    }

    /// The hosts.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.hosts.iter().map(|host| &host.node)
    }

    /// What the kills hit, as far as the journal knows, or who was asked ([`Fire::watch`]).
    pub fn hits(&self) -> Hits {
        match &self.witness {
            Some(witness) => witness.hits,
            None => self.toll.hits(&self.world.journal()),
        }
    }

    /// Kills a host's component, a host's sidecar, the hub, or two of them at once; now and then another one while the
    /// first is recovered from. What died is there again afterwards.
    pub async fn strike(&mut self) {
        let cut_off = self.kill(false).await;
        if self.random.below(DOUBLE_EVERY) == 0 {
            wait::moment(Duration::from_millis(self.random.below(RECOVERY_MAX_MS))).await;
            self.kill(cut_off).await;
        }
        for host in &mut self.hosts {
            host.revive(&self.world).await;
        }
    }

    /// One strike, after which nobody waits; whether its victim ran turns, as far as somebody was asked. `recovering`:
    /// another one did, and is not back.
    async fn kill(&mut self, recovering: bool) -> bool {
        let choice = self.random.below(8);
        let hub = if choice < 2 { Some(self.world.hub().await) } else { None };
        let index = self.random.below(self.hosts.len() as u64);
        let host = &mut self.hosts[usize::try_from(index).expect("small")];
        let component = host.node.component_now();
        let spared = choice == 0 || host.dead == Some(Dead::Sidecar);
        let mut in_turns = false;
        if let Some(witness) = self.witness.as_mut().filter(|_| !spared && component.is_some()) {
            in_turns = runs_turns(&witness.client, &host.node.name).await;
            witness.hits.add(in_turns, recovering);
        }
        self.toll.strike([component.filter(|_| !spared)], hub.is_some());
        if let Some(hub) = hub {
            process::kill(hub);
            self.kills.hubs += 1;
        }
        if spared {
            return in_turns;
        }
        match component {
            Some(component) if choice.is_multiple_of(2) => {
                self.kills.components += 1;
                process::kill(component);
                host.dead = Some(Dead::Component(component));
            }
            _ => {
                self.kills.sidecars += 1;
                host.node.kill_sidecar();
                host.dead = Some(Dead::Sidecar);
            }
        }
        in_turns
    }

    /// Kills at random moments, so often at least and until enough kills have landed in turns, each time after the load
    /// went on; then lets the clients end.
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
        let enough = |fire: &Self| {
            let so_far = fire.kills.total();
            so_far >= kills && (fire.hits().are_enough() || so_far >= kills * MORE_MAX)
        };
        while !enough(self) && !failed() {
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
