//! Frozen processes (SIGSTOP): declared dead while they live, they wake up as zombies. Nothing that they do then
//! counts.

use std::rc::Rc;
use std::time::Duration;

use kar_tests::world::READY_LIMIT;
use kar_tests::{Node, World, process, test_within};
use rustix::process::Signal;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(180);

/// Longest time from the freezing to the answer: the silence after which the hub strikes a client out (3 s), the grace,
/// and time for a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);

async fn host(world: &Rc<World>, name: &str) -> Node {
    let node = world.app(name, &["slow", "echo"]).await;
    node.hosts("slow").await;
    node
}

/// Starts `work` on an actor and says which host runs it.
async fn start_work(
    world: &Rc<World>,
    client: &kar_tests::Client,
    hosts: &[Node],
    key: &'static str,
    milliseconds: u64,
) -> (tokio::task::JoinHandle<Value>, usize) {
    let client = client.clone();
    let call = tokio::spawn(async move {
        let argument = json!({ "key": key, "milliseconds": milliseconds });
        let answer = client.call(("Slow", key), "work", &argument).await;
        answer.expect("answered").expect("no error")
    });
    let journal = world.journal();
    let pid = kar_tests::wait::until("the code to start", READY_LIMIT, async || {
        journal.of(key).first().and_then(|a| a.id.split('-').next()?.parse::<u32>().ok())
    })
    .await;
    let at = hosts.iter().position(|host| host.component_now() == Some(pid)).expect("a host");
    (call, at)
}

#[test]
fn a_frozen_sidecar_loses_its_turns_and_its_late_results_count_for_nothing() {
    test_within(LIMIT, async {
        let world = World::new("frozen");
        let front = world.bare("front").await;
        let client = front.client().await;
        let hosts = [host(&world, "a").await, host(&world, "b").await];
        let (call, owner) = start_work(&world, &client, &hosts, "k1", 1_500).await;
        let frozen = &hosts[owner];
        process::signal(frozen.pid(), Signal::STOP);
        let answer = tokio::time::timeout(ANSWER_LIMIT, call).await.expect("in time").expect("ok");
        assert_eq!(answer["done"], json!(1), "{answer}");
        // It wakes up, with a result of the first attempt in its socket, and must find out that it owns nothing.
        process::signal(frozen.pid(), Signal::CONT);
        for n in 1..=20 {
            let counted = client.call(("Echo", "after"), "count", &json!(null)).await;
            assert_eq!(counted.expect("answered"), Ok(json!(n)));
        }
        let done = client.call(("Slow", "k1"), "work", &json!({"key": "k2"})).await;
        let done = done.expect("answered").expect("no error");
        assert_eq!(done["done"], json!(2), "the zombie's turn took effect: {done}");
        // It serves again, as a new incarnation.
        frozen.hosts("slow").await;
        assert!(frozen.client().await.invoke("slow", "pid", &json!(null)).await.is_ok());
    });
}

#[test]
fn a_frozen_component_holds_up_its_own_turns_only() {
    test_within(LIMIT, async {
        let world = World::new("ice");
        let front = world.bare("front").await;
        let client = front.client().await;
        let hosts = [host(&world, "a").await, host(&world, "b").await];
        let (call, owner) = start_work(&world, &client, &hosts, "k1", 500).await;
        let frozen = hosts[owner].component_pid().await;
        process::signal(frozen, Signal::STOP);
        // What the other host owns goes on meanwhile: some of many actors must be there.
        let mut answered = 0;
        for n in 0..32 {
            let id = format!("other-{n}");
            let count = client.call(("Echo", &id), "count", &json!(null));
            if tokio::time::timeout(Duration::from_millis(300), count).await.is_ok() {
                answered += 1;
            }
        }
        assert!(answered >= 4, "only {answered} of 32 actors answered");
        process::signal(frozen, Signal::CONT);
        let answer = tokio::time::timeout(ANSWER_LIMIT, call).await.expect("in time").expect("ok");
        assert_eq!(answer["done"], json!(1), "{answer}");
    });
}

#[test]
fn a_frozen_hub_is_replaced_and_can_write_no_more() {
    test_within(LIMIT, async {
        let world = World::new("hang");
        let node = host(&world, "a").await;
        let client = node.client().await;
        for n in 1..=5 {
            let counted = client.call(("Echo", "x"), "count", &json!(null)).await;
            assert_eq!(counted.expect("answered"), Ok(json!(n)));
        }
        let hub = world.hub().await;
        process::signal(hub, Signal::STOP);
        let counted = client.call(("Echo", "x"), "count", &json!(null));
        let counted = tokio::time::timeout(ANSWER_LIMIT, counted).await.expect("in time");
        assert_eq!(counted.expect("answered"), Ok(json!(6)));
        assert_ne!(world.hub().await, hub, "a new hub has taken over");
        assert!(!process::alive(hub), "two hubs on one directory");
    });
}
