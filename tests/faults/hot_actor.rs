//! L6: turns of a hot actor run ahead of the log. Whatever is killed, what callers are told is what was committed.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, Random, World, process, test_within, wait};
use serde_json::json;
use tokio::task::JoinSet;

/// Calls of the one actor.
const CALLS: i64 = 600;

/// Calls under way at once: turns run ahead only if there are some to run.
const CLIENTS: i64 = 16;

/// Kills while they run.
const KILLS: i64 = 12;

const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn a_hot_actor_counts_right_while_the_hub_is_killed() {
    count_under_fire("hub", async |world, _hosts, _random| {
        process::kill(world.hub().await);
    });
}

#[test]
fn a_hot_actor_counts_right_while_its_hosts_are_killed() {
    count_under_fire("hosts", async |world, hosts, random| {
        let victim = &mut hosts[random.below(2) as usize];
        victim.kill_sidecar();
        victim.ended(READY_LIMIT).await;
        let name = victim.name.clone();
        *victim = host(world, &name).await;
    });
}

#[test]
fn a_hot_actor_counts_right_while_everything_is_killed_at_once() {
    count_under_fire("everything", async |world, hosts, _random| {
        let hub = world.hub().await;
        for node in hosts.iter() {
            node.kill_sidecar();
        }
        process::kill(hub);
        for node in hosts.iter_mut() {
            node.ended(READY_LIMIT).await;
            let name = node.name.clone();
            *node = host(world, &name).await;
        }
    });
}

/// Each call adds one and answers with the sum. Answers must all differ, and the last one is the number of calls: one
/// lost would leave a hole, one repeated would make the sum too great, and an answer from a turn that never committed
/// would come twice.
fn count_under_fire(name: &str, strike: impl AsyncFn(&Rc<World>, &mut [Node; 2], &mut Random)) {
    test_within(LIMIT, async {
        let mut random = Random::seeded(&format!("hot actor, {name}"));
        let world = World::new("hot");
        let front = world.bare("front").await;
        let client = front.client().await;
        let mut hosts = [host(&world, "a").await, host(&world, "b").await];
        let mut clients = JoinSet::new();
        let done = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(0));
        for _ in 0..CLIENTS {
            clients.spawn(counts(client.clone(), done.clone()));
        }
        for kill in 0..KILLS {
            let due = (kill + 1) * CALLS / (KILLS + 1);
            wait::until_true("the calls to go on", Duration::from_secs(60), async || {
                done.load(std::sync::atomic::Ordering::Relaxed) >= due
            })
            .await;
            wait::moment(Duration::from_millis(random.below(20))).await;
            strike(&world, &mut hosts, &mut random).await;
        }
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
        println!("{count} calls, {KILLS} times {name} killed");
    });
}

/// One client's answers, which must rise: it makes one call after the other.
async fn counts(client: Client, done: std::sync::Arc<std::sync::atomic::AtomicI64>) -> Vec<i64> {
    let mut answers = Vec::new();
    while done.load(std::sync::atomic::Ordering::Relaxed) < CALLS {
        let answer = client.call(("Echo", "hot"), "count", &json!(null)).await;
        let answer = answer.expect("no call fails").expect("no error").as_i64().expect("a number");
        assert!(answers.last().is_none_or(|last| *last < answer), "{answers:?}, then {answer}");
        answers.push(answer);
        done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    answers
}

async fn host(world: &Rc<World>, name: &str) -> Node {
    let node = world.app(name, &["echo"]).await;
    node.hosts("Echo").await;
    node
}
