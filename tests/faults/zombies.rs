//! Frozen under load (SIGSTOP), for longer than their leases, and woken (SIGCONT): sidecars, components, both together,
//! and the hub, at random moments. Each client's actor counts its calls: nothing is lost, nothing happens twice, and
//! what a zombie still does counts for nothing. (`frozen` has what each of them does in detail.)

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kar_tests::fire::PROGRESS_LIMIT;
use kar_tests::journal::Frozen;
use kar_tests::{Client, Node, Random, World, process, test_within, wait};
use rustix::process::Signal;
use serde_json::json;
use tokio::task::{JoinSet, LocalSet};

/// Times that each kind of process is frozen.
const ROUNDS: u64 = 20;

/// Applications in which the rounds run side by side: they mostly wait.
const WORLDS: u64 = 4;

/// Calls under way at once in one of them, each of an actor of its own.
const CLIENTS: usize = 6;

/// Longest time that a call works, ms: far below the lease, so that code has ended before others take over.
const WORK_MAX_MS: u64 = 120;

/// Longest pause before a freeze, ms.
const PAUSE_MAX_MS: u64 = 400;

/// The hub strikes out who is silent for 3 s, and is replaced when it is; a freeze lasts from here up to so much
/// longer.
const FREEZE_MS: u64 = 3_200;
const FREEZE_MORE_MS: u64 = 2_000;

/// P3: code of a cut-off attempt may run on for so long.
const GRACE: Duration = Duration::from_millis(100);

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
    over: Cell<bool>,
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
        let taken_over = local.run_until(async {
            let mut taken_over = 0;
            while let Some(done) = worlds.join_next().await {
                taken_over += done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
            }
            taken_over
        });
        let taken_over = taken_over.await;
        println!("{victim:?}: everybody went on during {taken_over} of {ROUNDS} freezes");
        // Nobody takes over from a component whose sidecar lives: it has no lease.
        assert!(taken_over > 0 || victim == Victim::Component, "nobody ever took over");
    });
}

/// Freezes somebody several times; during how many of the freezes all clients went on.
async fn in_one_world(victim: Victim, number: u64, mut random: Random) -> u64 {
    let world = World::new(&format!("ice{number}"));
    let front = world.bare("front").await;
    let hosts = [host(&world, "a").await, host(&world, "b").await];
    let load = Rc::new(Load {
        client: front.client().await,
        finished: RefCell::new(vec![0; CLIENTS]),
        over: Cell::new(false),
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| tokio::task::spawn_local(client(load.clone(), n, random.fork())))
        .collect();
    let (mut frozen, mut taken_over) = (Vec::new(), 0);
    for _ in 0..ROUNDS / WORLDS {
        let failed = || clients.iter().any(tokio::task::JoinHandle::is_finished);
        let all_went_on =
            |since: &[u64]| load.finished.borrow().iter().zip(since).all(|(now, then)| now > then);
        wait::moment(Duration::from_millis(random.below(PAUSE_MAX_MS))).await;
        let since = load.finished.borrow().clone();
        let host = &hosts[usize::from(random.below(2) == 1)];
        let pids = match victim {
            Victim::Sidecar => vec![host.pid()],
            Victim::Component => vec![host.component_pid().await],
            Victim::Both => vec![host.pid(), host.component_pid().await],
            Victim::Hub => vec![world.hub().await],
        };
        pids.iter().for_each(|pid| process::signal(*pid, Signal::STOP));
        // Code whose sidecar is frozen does not know it either, until that answers.
        let asleep = [Some(host.pid()), host.component_now()].into_iter().flatten();
        let from = now();
        let length = FREEZE_MS + random.below(FREEZE_MORE_MS);
        wait::moment(Duration::from_millis(length)).await;
        taken_over += u64::from(all_went_on(&since));
        let since = load.finished.borrow().clone();
        let until = now();
        pids.iter().for_each(|pid| process::signal(*pid, Signal::CONT));
        frozen.extend(asleep.map(|pid| Frozen { pid, from, until }));
        for node in &hosts {
            node.hosts("slow").await;
        }
        wait::until_true("all clients to go on", PROGRESS_LIMIT, async || {
            all_went_on(&since) || failed()
        })
        .await;
        if failed() {
            break;
        }
    }
    load.over.set(true);
    for client in clients {
        client.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
    world.journal().assert_no_overlap_but(GRACE, &frozen);
    taken_over
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970")
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
        let argument = json!({ "key": format!("{id}-{count}"), "milliseconds": milliseconds });
        let answer = load.client.call(("Slow", &id), "work", &argument).await;
        let answer = answer.expect("its own sidecar lives").expect("no error");
        assert_eq!(answer["done"], json!(count), "{id}: {answer}");
        load.finished.borrow_mut()[number] = count;
        if load.over.get() {
            break;
        }
    }
}
