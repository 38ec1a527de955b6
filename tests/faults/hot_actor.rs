//! L6: turns of a hot actor run ahead of the log. Whatever is killed, what callers are told is what was committed.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use kar_tests::fire::{DOUBLE_EVERY, RECOVERY_MAX_MS};
use kar_tests::toll::{HITS_MIN, Hits, Toll};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, Random, World, process, test_within, wait};
use serde_json::json;
use tokio::task::JoinSet;

/// Calls of the one actor between two kills.
const CALLS: i64 = 30;

/// How long a turn works, ms; so that kills land in turns.
const WORK_MS: u64 = 4;

/// Calls under way at once: turns run ahead only if there are some to run.
const CLIENTS: i64 = 16;

/// Times that they are killed at least, and at most, until enough of that lands in turns.
const KILLS: usize = 24;
const KILLS_MAX: usize = 4 * KILLS;

const LIMIT: Duration = Duration::from_secs(240);

/// What clients and who kills tell each other.
#[derive(Default)]
struct Load {
    done: AtomicI64,
    over: AtomicBool,
}

#[test]
fn a_hot_actor_counts_right_while_the_hub_is_killed() {
    count_under_fire("hub", async |world, _hosts, _random, toll| {
        let hub = world.hub().await;
        toll.strike([], true);
        process::kill(hub);
    });
}

#[test]
fn a_hot_actor_counts_right_while_its_hosts_are_killed() {
    count_under_fire("hosts", async |world, hosts, random, toll| {
        // Mostly the owner.
        let last = world.journal().last().expect("it was called").pid();
        let owner = hosts.iter().position(|host| host.component_now() == Some(last));
        let first = owner.filter(|_| random.below(8) > 0).unwrap_or(random.below(2) as usize);
        let both = random.below(DOUBLE_EVERY) == 0;
        let victims = [Some(first), Some(1 - first).filter(|_| both)];
        for victim in victims.into_iter().flatten() {
            toll.strike([hosts[victim].component_now()], false);
            hosts[victim].kill_sidecar();
            if both {
                wait::moment(Duration::from_millis(random.below(RECOVERY_MAX_MS))).await;
            }
        }
        for victim in victims.into_iter().flatten() {
            hosts[victim].ended(READY_LIMIT).await;
            let name = hosts[victim].name.clone();
            hosts[victim] = host(world, &name).await;
        }
    });
}

#[test]
fn a_hot_actor_counts_right_while_everything_is_killed_at_once() {
    count_under_fire("everything", async |world, hosts, random, toll| {
        let hub = world.hub().await;
        toll.strike(hosts.iter().map(Node::component_now), true);
        for node in hosts.iter() {
            node.kill_sidecar();
        }
        process::kill(hub);
        let again = random.below(DOUBLE_EVERY) == 0;
        for node in hosts.iter_mut() {
            node.ended(READY_LIMIT).await;
            let name = node.name.clone();
            if again {
                // Killed anew while it begins to do what was cut off.
                *node = world.app(&name, &["echo"]).await;
                wait::moment(Duration::from_millis(random.below(RECOVERY_MAX_MS))).await;
                toll.strike([node.component_now()], false);
                node.kill_sidecar();
                node.ended(READY_LIMIT).await;
            }
            *node = host(world, &name).await;
        }
    });
}

/// Each call adds one and answers with the sum. Answers must all differ, and the last one is the number of calls: one
/// lost would leave a hole, one repeated would make the sum too great, and an answer from a turn that never committed
/// would come twice.
fn count_under_fire(
    name: &str,
    strike: impl AsyncFn(&Rc<World>, &mut [Node; 2], &mut Random, &mut Toll),
) {
    test_within(LIMIT, async {
        let mut random = Random::seeded(&format!("hot actor, {name}"));
        let world = World::new("hot");
        // Where only the hub is killed the code runs on.
        let is_enough =
            |hits: &Hits| hits.are_enough() || (name == "hub" && hits.in_turns >= HITS_MIN);
        world.journal_turns();
        let mut toll = Toll::default();
        let front = world.bare("front").await;
        let client = front.client().await;
        let mut hosts = [host(&world, "a").await, host(&world, "b").await];
        let mut clients = JoinSet::new();
        let load = Arc::new(Load::default());
        for _ in 0..CLIENTS {
            clients.spawn(counts(client.clone(), load.clone()));
        }
        let mut kills = 0;
        while kills < KILLS || (kills < KILLS_MAX && !is_enough(&toll.hits(&world.journal()))) {
            let due = load.done.load(Ordering::Relaxed) + CALLS;
            wait::until_true("the calls to go on", Duration::from_secs(60), async || {
                load.done.load(Ordering::Relaxed) >= due
            })
            .await;
            wait::moment(Duration::from_millis(random.below(20))).await;
            strike(&world, &mut hosts, &mut random, &mut toll).await;
            kills += 1;
        }
        load.over.store(true, Ordering::Relaxed);
        let mut answers = BTreeSet::new();
        while let Some(some) = clients.join_next().await {
            for answer in some.expect("no call failed") {
                assert!(answers.insert(answer), "two callers were told {answer}");
            }
        }
        let count = answers.len() as i64;
        assert_eq!(answers, (1..=count).collect(), "{name}: a hole, or one too many");
        let last = client.call(("Echo", "hot"), "count", &json!(null)).await.expect("answered");
        assert_eq!(last, Ok(json!(count + 1)));
        println!("{count} calls, {kills} times {name} killed");
        let (test, hits) = (format!("hot actor, {name}"), toll.hits(&world.journal()));
        if name == "hub" { hits.assert_in_turns(&test) } else { hits.assert(&test) }
    });
}

/// One client's answers, which must rise: it makes one call after the other.
async fn counts(client: Client, load: Arc<Load>) -> Vec<i64> {
    let mut answers = Vec::new();
    while !load.over.load(Ordering::Relaxed) {
        let argument = json!({ "milliseconds": WORK_MS });
        let answer = client.call(("Echo", "hot"), "count", &argument).await;
        let answer = answer.expect("no call fails").expect("no error").as_i64().expect("a number");
        assert!(answers.last().is_none_or(|last| *last < answer), "{answers:?}, then {answer}");
        answers.push(answer);
        load.done.fetch_add(1, Ordering::Relaxed);
    }
    answers
}

async fn host(world: &Rc<World>, name: &str) -> Node {
    let node = world.app(name, &["echo"]).await;
    node.hosts("Echo").await;
    node
}
