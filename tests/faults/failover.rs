//! `kill -9` of whoever serves a call, in the middle of it: the call answers from another host or
//! the restarted one, the code of two attempts never overlaps beyond the grace, and exactly one
//! attempt takes effect.

use std::rc::Rc;
use std::time::Duration;

use kar_tests::journal::Attempt;
use kar_tests::toll::{Hits, Toll};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, Random, World, process, test_within, wait};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Times that each kind of death is tried.
const ROUNDS: u64 = 24;

/// Of so many rounds one kills the retry, too.
const AGAIN_EVERY: u64 = 2;

/// Applications in which the rounds run side by side.
const WORLDS: u64 = 4;

/// How long the code works, ms: long against a failover, so that a kill at a random moment lands in it.
const WORK_MS: u64 = 2_000;

/// P3: code of a cut-off attempt may run on for so long.
const GRACE: Duration = Duration::from_millis(100);

/// Longest time from a kill to the answer, on a machine that does much else.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Sidecar,
    Component,
    Both,
    Hub,
}

#[test]
fn the_servers_sidecar_is_killed_in_mid_call() {
    rounds(Victim::Sidecar);
}

#[test]
fn the_servers_component_is_killed_in_mid_call() {
    rounds(Victim::Component);
}

#[test]
fn the_servers_sidecar_and_component_are_killed_in_mid_call() {
    rounds(Victim::Both);
}

#[test]
fn the_hub_is_killed_in_mid_call() {
    rounds(Victim::Hub);
}

fn rounds(victim: Victim) {
    test_within(Duration::from_secs(300), async {
        let mut random = Random::seeded(&format!("killed: {victim:?}"));
        let local = tokio::task::LocalSet::new();
        let mut worlds = JoinSet::new();
        for number in 0..WORLDS {
            let random = random.fork();
            worlds.spawn_local_on(in_one_world(victim, number, random), &local);
        }
        let mut hits = Hits::default();
        local
            .run_until(async {
                while let Some(done) = worlds.join_next().await {
                    match done {
                        Ok(of_world) => hits = hits.and(of_world),
                        Err(error) => std::panic::resume_unwind(error.into_panic()),
                    }
                }
            })
            .await;
        let test = format!("failover, {victim:?}");
        match victim {
            // The code runs on.
            Victim::Hub => hits.assert_in_turns(&test),
            _ => hits.assert(&test),
        }
    });
}

/// Two hosts and a client's sidecar, through several rounds. What was hit.
async fn in_one_world(victim: Victim, number: u64, mut random: Random) -> Hits {
    let world = World::new(&format!("fail{number}"));
    let front = world.bare("front").await;
    let client = front.client().await;
    let mut hosts = [host(&world, "a").await, host(&world, "b").await];
    let mut toll = Toll::default();
    for round in 0..ROUNDS / WORLDS {
        let (key, actor) = (format!("{victim:?}-{number}-{round}"), random.below(2) == 0);
        let call = tokio::spawn(work(client.clone(), key.clone(), actor));
        let journal = world.journal();
        wait::until_true("the code to start", ANSWER_LIMIT, async || !journal.of(&key).is_empty())
            .await;
        wait::moment(Duration::from_millis(random.below(WORK_MS * 2 / 3))).await;
        let struck = strike(victim, &world, &hosts, &journal.of(&key), &mut toll).await;
        // The dead write no more: if its code had not ended, somebody has to run it again.
        let cut_off = struck && journal.of(&key).last().is_some_and(|attempt| !attempt.ended);
        if cut_off && round % AGAIN_EVERY == 1 {
            wait::until_true("the retry to start", ANSWER_LIMIT, async || {
                matches!(victim, Victim::Hub) || journal.of(&key).len() > 1
            })
            .await;
            wait::moment(Duration::from_millis(random.below(WORK_MS * 2 / 3))).await;
            strike(victim, &world, &hosts, &journal.of(&key), &mut toll).await;
            // It may have been the last one that was left.
            revive(&world, &mut hosts).await;
        }
        let answer = tokio::time::timeout(ANSWER_LIMIT, call).await;
        let answer = answer.expect("answered in time").expect("no panic");
        judge(&journal.of(&key), &answer, actor);
        if cut_off && !matches!(victim, Victim::Hub) {
            assert!(journal.of(&key).len() > 1, "{:?}", journal.of(&key));
        }
        revive(&world, &mut hosts).await;
    }
    // P2: what completed is not run again, by whoever took over since.
    let settled = world.journal().attempts();
    for host in &mut hosts {
        host.kill_sidecar();
        host.ended(READY_LIMIT).await;
    }
    revive(&world, &mut hosts).await;
    let probe = work(client.clone(), "probe".into(), false).await;
    assert!(probe["attempt"].is_string());
    for (key, attempts) in world.journal().attempts() {
        let before = settled.get(&key).map_or(1, Vec::len);
        assert_eq!(attempts.len(), before, "{key} ran again after it completed");
    }
    world.journal().assert_no_overlap(GRACE);
    toll.hits(&world.journal())
}

async fn host(world: &Rc<World>, name: &str) -> Node {
    let node = world.app(name, &["slow"]).await;
    node.hosts("slow").await;
    node
}

/// One call; each key is an actor of its own.
async fn work(client: Client, key: String, actor: bool) -> Value {
    let argument = json!({ "key": key, "milliseconds": WORK_MS });
    let answer = if actor {
        client.call(("Slow", &key), "work", &argument).await
    } else {
        client.invoke("slow", "work", &argument).await
    };
    match answer {
        Ok(Ok(value)) => value,
        other => panic!("{key}: {other:?}"),
    }
}

/// Kills whoever runs the call, or the hub. Returns false if nobody runs it any more.
async fn strike(
    victim: Victim,
    world: &World,
    hosts: &[Node],
    attempts: &[Attempt],
    toll: &mut Toll,
) -> bool {
    let pid = attempts.last().expect("it has started").pid();
    let server = hosts.iter().find(|host| host.component_now() == Some(pid));
    let Some(server) = server else { return false };
    let is_hub = matches!(victim, Victim::Hub);
    let hub = if is_hub { Some(world.hub().await) } else { None };
    toll.strike([Some(pid).filter(|_| !is_hub)], is_hub);
    match victim {
        Victim::Sidecar => server.kill_sidecar(),
        Victim::Component => process::kill(pid),
        Victim::Both => {
            server.kill_sidecar();
            process::kill(pid);
        }
        Victim::Hub => hub.into_iter().for_each(process::kill),
    }
    if !is_hub {
        process::gone(pid, GRACE * 20).await;
    }
    true
}

/// Starts again what has died.
async fn revive(world: &Rc<World>, hosts: &mut [Node; 2]) {
    for host_node in hosts {
        if host_node.component_now().is_none() {
            // A sidecar whose component died ends by itself.
            host_node.ended(READY_LIMIT).await;
            let name = host_node.name.clone();
            *host_node = host(world, &name).await;
        }
    }
}

fn judge(attempts: &[Attempt], answer: &Value, actor: bool) {
    // The answer is that of the last attempt, and that one reached its end.
    let last = attempts.last().expect("it has started");
    assert_eq!(answer["attempt"], json!(last.id), "{attempts:?}");
    assert!(last.ended, "{attempts:?}");
    // The attempts are numbered as they began. A number comes twice where code ran for a call whose acceptance was lost
    // with the hub (rule L6): nobody was told of that one.
    let numbers: Vec<u32> = attempts.iter().map(|a| a.number).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    for pair in attempts.windows(2) {
        let overlap = pair[0].last.saturating_sub(pair[1].start);
        assert!(overlap <= GRACE, "overlap of {overlap:?}: {attempts:?}");
    }
    // However many attempts there were, one took effect.
    if actor {
        assert_eq!(answer["done"], json!(1), "{attempts:?}");
    }
}
