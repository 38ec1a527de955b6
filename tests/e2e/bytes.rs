//! Bounds in bytes: what is accepted fits on its way, and a burst is spread, not dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kar_proto::v1::{Hello, Payload, StateChange, StateEntry, TellRequest, state_change};
use kar_tests::component::{Component, Turn, TurnResult, actor, failed, hello};
use kar_tests::errors::{assert_error, metadata};
use kar_tests::grpc::json as bytes;
use kar_tests::{Client, World, test, wait};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::Code;

const MIB: usize = 1 << 20;

/// How long a burst may take to be worked off, on a machine that does much else.
const BURST_LIMIT: Duration = Duration::from_secs(90);

/// A JSON string that is so long with its quotes.
fn long(length: usize) -> Value {
    json!("x".repeat(length - 2))
}

fn set(key: &str, length: usize) -> StateChange {
    let entry = StateEntry { key: key.into(), value: Some(bytes(&long(length))) };
    StateChange { change: Some(state_change::Change::Set(entry)) }
}

async fn figure(client: &Client, name: &str) -> i64 {
    client.figure(name).await.expect("answered").unwrap_or_else(|| panic!("there is no {name}"))
}

fn call(client: &Client, id: &str, argument: Value) -> JoinHandle<Value> {
    let (client, id) = (client.clone(), id.to_owned());
    tokio::spawn(async move {
        let answer = client.call(("A", &id), "m", &argument).await;
        answer.expect("answered").expect("no error")
    })
}

#[test]
fn the_longest_turn_fits_into_the_log_and_a_longer_one_is_refused_when_it_buffers() {
    test(async {
        let world = World::new("longest");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let segment = usize::try_from(figure(&client, "segment_bytes_max").await).expect("sane");
        let result = usize::try_from(figure(&client, "message_bytes_max").await).expect("sane");
        let longest = call(&client, "longest", json!(null));
        // Other actors' small decisions are pending when the long one is made.
        let others: Vec<_> =
            (0..50).map(|n| call(&client, &format!("other-{n}"), json!(n))).collect();
        let mut turns = Vec::new();
        while turns.len() < 1 + others.len() {
            turns.push(host.next_turn().await);
        }
        let at = turns.iter().position(|turn| turn.target().1 == "longest").expect("it runs");
        let turn = turns.swap_remove(at);
        turn.apply(vec![set("a", segment / 2)]).await.expect("buffered");
        let refused = turn.apply(vec![set("b", segment / 2)]).await;
        let status = assert_error(refused, Code::ResourceExhausted, "LIMIT_REACHED");
        assert_eq!(metadata(&status, "limit"), "segment_bytes_max");
        turn.apply(vec![set("b", segment / 2 - 1024)]).await.expect("buffered");
        for other in turns {
            other.finish(&json!(null)).await;
        }
        turn.finish(&long(result)).await;
        assert_eq!(longest.await.expect("no panic"), long(result));
        for other in others {
            other.await.expect("no panic");
        }
        assert_eq!(figure(&client, "reigns_dropped").await, 0, "no reign ended over it");
    });
}

/// How often each argument was run.
type Runs = Arc<Mutex<BTreeMap<u64, u32>>>;

fn count(runs: &Runs, turn: &Turn) {
    let number = turn.argument()["number"].as_u64().expect("a number");
    *runs.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_default() += 1;
}

fn numbered(number: usize, length: usize) -> Value {
    json!({ "number": number, "filler": "x".repeat(length) })
}

/// Tells that wait for a host, so many of so many bytes, are then run once each, on one stream.
async fn burst(name: &str, hello: Hello, tells: usize, length: usize) {
    let world = World::new(name);
    let node = world.bare("host").await;
    let client = node.client().await;
    for number in 0..tells {
        let request = TellRequest {
            target: Some(actor("A", &format!("a{number}"))),
            method: "m".into(),
            payload: Some(bytes(&numbered(number, length))),
            ..Default::default()
        };
        client.invocation().tell(request).await.expect("accepted");
    }
    let runs = Runs::default();
    let component = Component::connect(&client, hello).await.expect("welcome");
    let served = tokio::spawn(component.serve({
        let runs = runs.clone();
        move |turn| {
            count(&runs, &turn);
            async move { Ok(Payload::default()) }
        }
    }));
    wait::until_true("every tell to be run", BURST_LIMIT, async || {
        assert!(!served.is_finished(), "the host's stream was ended");
        runs.lock().unwrap_or_else(PoisonError::into_inner).len() == tells
    })
    .await;
    let runs = runs.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(runs.values().all(|times| *times == 1), "some ran more than once");
    assert_eq!(figure(&client, "retries").await, 0);
}

#[test]
fn a_burst_of_turns_beyond_the_bytes_of_the_hosts_queue_is_run_on_one_stream() {
    test(burst("burst", hello(&[], &["A"]), 1_200, 100 << 10));
}

#[test]
fn a_few_of_the_longest_turns_are_run_on_one_stream() {
    test(burst("long", hello(&[], &["A"]), 20, 4 * MIB - 64));
}

#[test]
fn turns_that_wait_for_credit_may_be_long() {
    let hello = Hello { invocation_credits: 1, ..hello(&[], &["A"]) };
    test(async move {
        // One credit is used by one turn and never given back: all others would wait. So credit is given at once for
        // all of them, and what is tested is that holding them until then did not end the stream.
        let world = World::new("credit");
        let node = world.bare("host").await;
        let client = node.client().await;
        let tells = 20_usize;
        for number in 0..tells {
            let request = TellRequest {
                target: Some(actor("A", &format!("a{number}"))),
                method: "m".into(),
                payload: Some(bytes(&numbered(number, 4 * MIB - 64))),
                ..Default::default()
            };
            client.invocation().tell(request).await.expect("accepted");
        }
        let mut host = Component::connect(&client, hello).await.expect("welcome");
        for _ in 0..tells {
            // The next one comes because this one ended.
            host.next_turn().await.finish(&json!(null)).await;
        }
        assert_eq!(figure(&client, "retries").await, 0);
    });
}

#[test]
fn a_join_of_many_long_nested_calls_ends() {
    const JOINED: usize = 1_000;
    const LENGTH: usize = 100 << 10;
    async fn handle(turn: Turn) -> TurnResult {
        if turn.method() == "inner" {
            return Ok(bytes(&turn.argument()["number"]));
        }
        let calls: Vec<_> = (0..JOINED)
            .map(|number| {
                let turn = turn.clone();
                tokio::spawn(async move {
                    let id = format!("inner-{number}");
                    turn.call(("A", &id), "inner", &numbered(number, LENGTH)).await
                })
            })
            .collect();
        let mut sum = 0;
        for call in calls {
            let answer = call.await.expect("no panic").map_err(|status| failed(&status))?;
            sum += answer?.as_u64().expect("a number");
        }
        Ok(bytes(&json!(sum)))
    }
    test(async {
        let world = World::new("join");
        let node = world.bare("host").await;
        let client = node.client().await;
        let component = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let served = tokio::spawn(component.serve(handle));
        let root = call(&client, "outer", json!(null));
        wait::until_true("the join to end", BURST_LIMIT, async || {
            assert!(!served.is_finished(), "the host's stream was ended");
            root.is_finished()
        })
        .await;
        assert_eq!(root.await.expect("no panic"), json!(JOINED * (JOINED - 1) / 2));
        assert_eq!(figure(&client, "retries").await, 0);
    });
}

/// Calls under way between two nodes: together far more than a queue to a peer takes here.
const CALLS: usize = 300;
const CALL_BYTES: usize = 50 << 10;
/// Frames that a queue to a peer takes: fewer than calls are under way.
const QUEUE_FRAMES_MAX: usize = 120;

/// Small queues, and windows of eight partitions that fit into them together.
const SMALL_QUEUES: [&str; 6] = [
    "--peer-queue-bytes-max",
    "4194304",
    "--peer-queue-frames-max",
    "120",
    "--window-requests-max",
    "8",
];

/// How often a node's queue to a peer or component was full. (Its own sidecar's log only: the other end of a link has
/// queues, too.)
fn full_queues(world: &World, node: &str) -> usize {
    let logs = world.logs();
    let of_node = logs.iter().filter(|(name, _)| name.starts_with(node));
    of_node.map(|(_, text)| text.matches("does not read").count()).sum()
}

#[test]
fn requests_that_pile_up_while_a_peer_is_frozen_go_by_the_window_when_it_is_back() {
    test(async {
        let world = World::new("thaw");
        world.add_run_args(&SMALL_QUEUES);
        let (host, front) = (world.app("host", &["echo"]).await, world.bare("front").await);
        host.hosts("echo").await;
        let client = front.client().await;
        let warm = client.call(("Echo", "warm"), "echo", &json!(1)).await;
        assert_eq!(warm.expect("answered"), Ok(json!(1)));
        host.signal(Signal::STOP);
        let calls: Vec<_> = (0..CALLS)
            .map(|number| {
                let client = client.clone();
                tokio::spawn(async move {
                    let (id, argument) = (format!("e{number}"), numbered(number, CALL_BYTES));
                    let answer = client.call(("Echo", &id), "echo", &argument).await;
                    assert_eq!(answer.expect("answered"), Ok(argument));
                })
            })
            .collect();
        wait::until_true("all calls to be open", BURST_LIMIT, async || {
            figure(&client, "roots_open_now").await == CALLS as i64
        })
        .await;
        host.signal(Signal::CONT);
        for call in calls {
            call.await.expect("answered");
        }
        assert_eq!(full_queues(&world, "front"), 0, "what waits for the window fills no queue");
    });
}

#[test]
fn outcomes_that_pile_up_while_a_peer_is_frozen_go_by_the_window_when_it_is_back() {
    test(async {
        let world = World::new("kept");
        world.add_run_args(&SMALL_QUEUES);
        let (host, front) = (world.bare("host").await, world.bare("front").await);
        let owner = host.client().await;
        let mut component = Component::connect(&owner, hello(&[], &["A"])).await.expect("welcome");
        let client = front.client().await;
        let calls: Vec<_> = (0..CALLS).map(|n| call(&client, &format!("a{n}"), json!(n))).collect();
        let mut turns = Vec::new();
        while turns.len() < CALLS {
            turns.push(component.next_turn().await);
        }
        front.signal(Signal::STOP);
        for turn in turns {
            turn.finish(&long(CALL_BYTES)).await;
        }
        wait::until_true("all turns to have ended", BURST_LIMIT, async || {
            figure(&owner, "unfinished_now").await == 0
        })
        .await;
        // Turns have ended before all of their outcomes are on their way.
        wait::until_true("the link to be full", BURST_LIMIT, async || {
            full_queues(&world, "host") > 0
        })
        .await;
        front.signal(Signal::CONT);
        for call in calls {
            assert_eq!(call.await.expect("answered"), long(CALL_BYTES));
        }
        // Fresh outcomes fill the link as often as there are enough of them; those sent again never do.
        assert!(full_queues(&world, "host") <= CALLS / QUEUE_FRAMES_MAX);
    });
}
