//! Frozen under load (SIGSTOP), for longer than their leases, and woken (SIGCONT): sidecars, components, both together,
//! and the hub, each in the middle of turns. Each client's actor counts its calls: nothing is lost, nothing happens
//! twice, and what a zombie still does counts for nothing. (`frozen` has what each of them does in detail.)

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kar_tests::fire::PROGRESS_LIMIT;
use kar_tests::journal::{Attempt, Frozen};
use kar_tests::toll::{HITS_MIN, now};
use kar_tests::{Client, Node, Random, World, process, test_within, wait};
use rustix::process::Signal;
use serde_json::json;
use tokio::task::{JoinHandle, JoinSet, LocalSet};

/// Times that each kind of process is frozen: some more than have to hit something.
const ROUNDS: u64 = 28;

/// Applications in which the rounds run side by side: they mostly wait.
const WORLDS: u64 = 4;

/// Calls under way at once in one of them, each of an actor of its own.
const CLIENTS: usize = 6;

/// Longest time that a call works, ms: far below the lease, so that code has ended before others take over.
const WORK_MAX_MS: u64 = 120;

/// Longest pause before a freeze, ms.
const PAUSE_MAX_MS: u64 = 400;

/// The hub strikes out who is silent for 3 s, and is replaced when it is; a freeze lasts from here up to so much
/// longer, and until others have taken over.
const FREEZE_MS: u64 = 3_000;
const FREEZE_MORE_MS: u64 = 1_500;

/// Of so many freezes one ends when it ends: maybe just when somebody is about to take over.
const CLOSE_EVERY: u64 = 8;

/// P3: code of a cut-off attempt may run on for so long.
const GRACE: Duration = Duration::from_millis(100);

/// What a sidecar says when it learns that others have taken over.
const SUPERSEDED: &str = "this node was struck out";

const LIMIT: Duration = Duration::from_secs(240);

/// Who is frozen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    Sidecar,
    Component,
    Both,
    Hub,
}

/// What the clients of a world share.
struct Load {
    client: Client,
    /// Calls that each of them has finished.
    finished: RefCell<Vec<u64>>,
    /// Which attempt of a key took effect, by its answer.
    effective: RefCell<BTreeMap<String, String>>,
    over: Cell<bool>,
}

/// An application under load.
struct Ice {
    victim: Victim,
    world: Rc<World>,
    hosts: [Node; 2],
    load: Rc<Load>,
    clients: Vec<JoinHandle<()>>,
}

/// One freeze of a host, or of the hub while the host ran a turn.
struct Freeze {
    sidecar: u32,
    component: u32,
    from: Duration,
    woken: Duration,
    /// When it was seen that whoever woke up knew what had become of it.
    known: Duration,
    /// All clients went on meanwhile.
    taken_over: bool,
    /// Whoever woke up was told, or ended, because somebody else had taken its place.
    superseded: bool,
}

/// What freezes came to.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    freezes: u64,
    /// Those during which all clients went on.
    taken_over: u64,
    /// Those after which the woken one was superseded.
    superseded: u64,
    /// Those that hit something: see [`Freeze::hit`].
    hits: usize,
}

#[test]
fn sidecars_are_frozen_past_their_leases() {
    rounds(Victim::Sidecar);
}

#[test]
fn components_are_frozen() {
    rounds(Victim::Component);
}

#[test]
fn sidecars_and_their_components_are_frozen_past_their_leases() {
    rounds(Victim::Both);
}

#[test]
fn hubs_are_frozen_until_they_are_replaced() {
    rounds(Victim::Hub);
}

fn rounds(victim: Victim) {
    test_within(LIMIT, async {
        let mut random = Random::seeded(&format!("frozen: {victim:?}"));
        let local = LocalSet::new();
        let mut worlds = JoinSet::new();
        for number in 0..WORLDS {
            worlds.spawn_local_on(in_one_world(victim, number, random.fork()), &local);
        }
        let figures = local.run_until(async {
            let mut all = Figures::default();
            while let Some(done) = worlds.join_next().await {
                all.add(done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())));
            }
            all
        });
        let figures = figures.await;
        let Figures { freezes, taken_over, superseded, hits } = figures;
        println!(
            "zombies, {victim:?}: {freezes} freezes, everybody went on during {taken_over}, \
             {superseded} woke up superseded, {hits} hit turns"
        );
        assert!(hits >= HITS_MIN, "only {hits} of {freezes} freezes hit turns");
    });
}

/// Freezes somebody several times.
async fn in_one_world(victim: Victim, number: u64, mut random: Random) -> Figures {
    let world = World::new(&format!("ice{number}"));
    let front = world.bare("front").await;
    let hosts = [host(&world, "a").await, host(&world, "b").await];
    let load = Rc::new(Load {
        client: front.client().await,
        finished: RefCell::new(vec![0; CLIENTS]),
        effective: RefCell::default(),
        over: Cell::new(false),
    });
    let clients = (0..CLIENTS)
        .map(|n| tokio::task::spawn_local(client(load.clone(), n, random.fork())))
        .collect();
    let ice = Ice { victim, world: world.clone(), hosts, load: load.clone(), clients };
    let (mut freezes, mut frozen) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS / WORLDS {
        wait::moment(Duration::from_millis(random.below(PAUSE_MAX_MS))).await;
        let length = Duration::from_millis(FREEZE_MS + random.below(FREEZE_MORE_MS));
        let close = (number * ROUNDS / WORLDS + round).is_multiple_of(CLOSE_EVERY);
        let freeze = ice.freeze(length, close).await;
        let Freeze { sidecar, component, from, known: until, .. } = freeze;
        // Code whose sidecar is frozen does not know it either, until that answers.
        frozen.extend([sidecar, component].map(|pid| Frozen { pid, from, until }));
        freezes.push(freeze);
        if ice.failed() {
            break;
        }
    }
    load.over.set(true);
    for client in ice.clients {
        client.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
    world.journal().assert_no_overlap_but(GRACE, &frozen);
    let (attempts, effective) = (world.journal().attempts(), load.effective.borrow());
    let mut figures = Figures::default();
    for freeze in freezes {
        figures.add(Figures {
            freezes: 1,
            taken_over: u64::from(freeze.taken_over),
            superseded: u64::from(freeze.superseded),
            hits: usize::from(freeze.hit(victim, &attempts, &effective)),
        });
    }
    figures
}

// === impl Ice ===

impl Ice {
    /// Freezes somebody in the middle of a turn for so long, and until others have taken over, unless it is to be
    /// `close`; wakes it up, and waits until everything goes on.
    async fn freeze(&self, length: Duration, close: bool) -> Freeze {
        let Self { world, hosts, load, .. } = self;
        let components = [hosts[0].component_pid().await, hosts[1].component_pid().await];
        let hub = world.hub().await;
        let at = wait::until("code to run", PROGRESS_LIMIT, async || {
            let running = world.journal().running()?;
            components.iter().position(|pid| *pid == running)
        });
        let at = at.await;
        let (host, component) = (&hosts[at], components[at]);
        let pids = match self.victim {
            Victim::Sidecar => vec![host.pid()],
            Victim::Component => vec![component],
            Victim::Both => vec![host.pid(), component],
            Victim::Hub => vec![hub],
        };
        let (since, from, told) = (load.finished(), now(), times_told(world, host));
        pids.iter().for_each(|pid| process::signal(*pid, Signal::STOP));
        wait::moment(length).await;
        // Nobody takes over from a component whose sidecar lives: it has no lease.
        let has_lease = self.victim != Victim::Component;
        if has_lease && !close {
            self.all_go_on(&since, "others to take over").await;
        }
        let taken_over = load.all_went_on(&since);
        let (since, woken) = (load.finished(), now());
        pids.iter().for_each(|pid| process::signal(*pid, Signal::CONT));
        let is_superseded = || match self.victim {
            Victim::Hub => !process::alive(hub),
            _ => times_told(world, host) > told,
        };
        // On a machine that does much else it is not let run at once.
        wait::until_true("the zombie to know", PROGRESS_LIMIT, async || {
            is_superseded() || (self.failed() || !has_lease || !taken_over) && self.is_on(&since)
        })
        .await;
        let known = now();
        for node in hosts {
            node.hosts("slow").await;
        }
        self.all_go_on(&since, "all clients to go on").await;
        let superseded = is_superseded();
        Freeze { sidecar: host.pid(), component, from, woken, known, taken_over, superseded }
    }

    /// Waits until every client has finished a call since then, or one has found something wrong.
    async fn all_go_on(&self, since: &[u64], what: &str) {
        wait::until_true(what, PROGRESS_LIMIT, async || self.is_on(since)).await;
    }

    fn is_on(&self, since: &[u64]) -> bool {
        self.load.all_went_on(since) || self.failed()
    }

    fn failed(&self) -> bool {
        self.clients.iter().any(JoinHandle::is_finished)
    }
}

/// How often a node has learnt that it had been struck out.
fn times_told(world: &World, node: &Node) -> usize {
    let own = format!("{}.", node.name);
    let logs = world.logs().into_iter().filter(|(name, _)| name.starts_with(&own));
    logs.map(|(_, log)| log.matches(SUPERSEDED).count()).sum()
}

// === impl Freeze ===

impl Freeze {
    /// Whether it hit what this test is about. Of a sidecar: a turn was under way there; another host ran it while the
    /// first one was frozen; and what the first one made of it counted for nothing. Of a component alone: a turn was
    /// under way in it, went on when it was woken, and that counted. Of the hub: code ran, and another hub took over.
    fn hit(
        &self,
        victim: Victim,
        attempts: &BTreeMap<String, Vec<Attempt>>,
        effective: &BTreeMap<String, String>,
    ) -> bool {
        attempts.iter().any(|(key, of_key)| {
            of_key.iter().any(|attempt| {
                let here = victim == Victim::Hub || attempt.pid() == self.component;
                let counted = effective.get(key) == Some(&attempt.id);
                let mut later =
                    of_key.iter().filter(|a| self.from < a.start && a.start < self.woken);
                here && attempt.is_open_at(self.from)
                    && match victim {
                        Victim::Hub => self.superseded,
                        Victim::Component => counted && attempt.last > self.woken,
                        Victim::Sidecar | Victim::Both => {
                            let elsewhere = later.any(|a| a.pid() != self.component);
                            self.superseded && elsewhere && !counted
                        }
                    }
            })
        })
    }
}

// === impl Load ===

impl Load {
    fn finished(&self) -> Vec<u64> {
        self.finished.borrow().clone()
    }

    fn all_went_on(&self, since: &[u64]) -> bool {
        self.finished.borrow().iter().zip(since).all(|(now, then)| now > then)
    }
}

// === impl Figures ===

impl Figures {
    fn add(&mut self, other: Self) {
        self.freezes += other.freezes;
        self.taken_over += other.taken_over;
        self.superseded += other.superseded;
        self.hits += other.hits;
    }
}

async fn host(world: &Rc<World>, name: &str) -> Node {
    let node = world.app(name, &["slow"]).await;
    node.hosts("slow").await;
    node
}

/// Calls its actor again and again; each answer says how many calls took effect so far.
async fn client(load: Rc<Load>, number: usize, mut random: Random) {
    let id = format!("s{number}");
    for count in 1.. {
        let milliseconds = random.below(WORK_MAX_MS);
        let key = format!("{id}-{count}");
        let argument = json!({ "key": key, "milliseconds": milliseconds });
        let answer = load.client.call(("Slow", &id), "work", &argument).await;
        let answer = answer.expect("its own sidecar lives").expect("no error");
        assert_eq!(answer["done"], json!(count), "{id}: {answer}");
        let attempt = answer["attempt"].as_str().expect("it names its attempt").to_owned();
        load.effective.borrow_mut().insert(key, attempt);
        load.finished.borrow_mut()[number] = count;
        if load.over.get() {
            break;
        }
    }
}
