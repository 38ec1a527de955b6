//! Chains of tail calls that go round actors and services of two components while owners, components and the hub are
//! killed at random: the answer is right, every step took effect exactly once, a kept lock let nobody in, and nothing
//! is left over.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kar_proto::v1::{
    ActorTarget, AwaitRequest, GetAllRequest, StartRequest, TellRequest, await_response,
};
use kar_tests::component::actor;
use kar_tests::grpc::{json as bytes, value};
use kar_tests::journal::Attempt;
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, Random, World, process, test_within, wait};
use serde_json::{Value, json};
use tokio::task::LocalSet;

/// Processes that are killed.
const KILLS: u32 = 24;

/// Chains under way at once, apart from those that were begun by tells.
const CLIENTS: usize = 6;

/// Steps of a chain: three rounds.
const STEPS: u64 = 18;

/// How long a step works, ms; so that kills land in steps.
const WORK_MS: u64 = 10;

/// Longest pause before a kill, ms.
const PAUSE_MAX_MS: u64 = 250;

/// Instances of each actor type, as `kar-test-app` has it.
const INSTANCES: usize = 3;

/// P3: code of a cut-off attempt may run on for so long.
const GRACE: Duration = Duration::from_millis(100);

/// Longest time from a kill to the end of the next chain, on a machine that does much else.
const PROGRESS_LIMIT: Duration = Duration::from_secs(30);

const LIMIT: Duration = Duration::from_secs(240);

/// What everybody looks at.
struct Walk {
    front: Client,
    begun: Cell<u64>,
    finished: Cell<u64>,
    over: Cell<bool>,
}

#[test]
fn a_loop_of_tail_calls_under_random_kills() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("tail loop");
        let world = World::new("loop");
        let front = world.bare("front").await;
        let mut nodes = Vec::new();
        for name in ["walker-1", "walker-2", "hopper-1", "hopper-2"] {
            nodes.push(host(&world, name).await);
        }
        let walk = Rc::new(Walk {
            front: front.client().await,
            begun: Cell::new(0),
            finished: Cell::new(0),
            over: Cell::new(false),
        });
        let local = LocalSet::new();
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| local.spawn_local(client(walk.clone()))).collect();
        local
            .run_until(async {
                let mut kills = 0;
                let failed = || clients.iter().any(tokio::task::JoinHandle::is_finished);
                while kills < KILLS && !failed() {
                    wait::moment(Duration::from_millis(random.below(PAUSE_MAX_MS))).await;
                    let finished = walk.finished.get();
                    kills += strike(&world, &mut nodes, &mut random).await;
                    wait::until_true("chains to go on", PROGRESS_LIMIT, async || {
                        walk.finished.get() > finished || failed()
                    })
                    .await;
                }
                walk.over.set(true);
                for client in clients {
                    client.await.expect("no client found anything wrong");
                }
                judge(&world, &walk).await;
            })
            .await;
    });
}

async fn host(world: &World, name: &str) -> Node {
    let role = name.split('-').next().expect("split yields something");
    world.app(name, &[role]).await
}

/// Begins chains until all kills are through, in each way that there is.
async fn client(walk: Rc<Walk>) {
    while !walk.over.get() {
        let chain = walk.begun.get();
        walk.begun.set(chain + 1);
        let argument = json!({
            "chain": chain, "at": 0, "steps": STEPS, "sum": 0, "milliseconds": WORK_MS,
        });
        let id = format!("w{}", chain % INSTANCES as u64);
        let answer = match chain % 3 {
            0 => {
                let answer = walk.front.call(("Walker", &id), "step", &argument).await;
                answer.expect("its own sidecar lives").expect("no error")
            }
            1 => start_and_await(&walk.front, &id, &argument).await,
            _ => {
                tell(&walk.front, &id, &argument).await;
                continue;
            }
        };
        assert_eq!(answer, json!({ "sum": STEPS * (STEPS + 1) / 2, "step": STEPS }));
        walk.finished.set(walk.finished.get() + 1);
    }
}

async fn start_and_await(client: &Client, id: &str, argument: &Value) -> Value {
    let request = StartRequest {
        target: Some(actor("Walker", id)),
        method: "step".into(),
        payload: Some(bytes(argument)),
        options: None,
    };
    let started = client.invocation().start(request).await.expect("accepted").into_inner();
    let request = AwaitRequest { invocation_id: started.invocation_id };
    match client.invocation().r#await(request).await.expect("answered").into_inner().result {
        Some(await_response::Result::Payload(payload)) => value(&payload),
        other => panic!("{other:?}"),
    }
}

async fn tell(client: &Client, id: &str, argument: &Value) {
    let request = TellRequest {
        target: Some(actor("Walker", id)),
        method: "step".into(),
        payload: Some(bytes(argument)),
        ..TellRequest::default()
    };
    client.invocation().tell(request).await.expect("accepted");
}

/// Kills somebody, and starts again what has died; how many were killed.
async fn strike(world: &World, nodes: &mut [Node], random: &mut Random) -> u32 {
    let mut killed = 0;
    let choice = random.below(8);
    if choice < 2 {
        process::kill(world.hub().await);
        killed += 1;
    }
    if choice != 0 {
        let victim = &mut nodes[usize::try_from(random.below(4)).expect("small")];
        match (choice % 2, victim.component_now()) {
            (0, Some(component)) => process::kill(component),
            _ => victim.kill_sidecar(),
        }
        killed += 1;
        victim.ended(READY_LIMIT).await;
        let name = victim.name.clone();
        *victim = host(world, &name).await;
    }
    killed
}

/// Waits until nothing is under way, and looks at what the chains left behind.
async fn judge(world: &World, walk: &Walk) {
    wait::until_true("every invocation to be over", PROGRESS_LIMIT, async || {
        let listed = world.kar_here("get invocations", &["-o", "json"]).await;
        assert_eq!(listed.code, 0, "{listed:?}");
        listed.stdout.trim() == "[]"
    })
    .await;
    let chains = walk.begun.get();
    let mut counts = BTreeMap::new();
    for (kind, letter) in [("Walker", 'w'), ("Hopper", 'h'), ("Tally", 't')] {
        for number in 0..INSTANCES {
            let state = state_of(&walk.front, kind, &format!("{letter}{number}")).await;
            for (key, count) in state {
                if key == "held" {
                    assert_eq!(count, Value::Null, "{kind} {letter}{number} is still held");
                } else {
                    assert!(counts.insert(key.clone(), count).is_none(), "{key}: in two actors");
                }
            }
        }
    }
    let once: BTreeMap<String, Value> = (0..chains)
        .flat_map(|chain| (0..STEPS).map(move |at| (format!("{chain}@{at}"), json!(1))))
        .collect();
    let differ: Vec<_> = once
        .keys()
        .chain(counts.keys())
        .filter(|key| once.get(*key) != counts.get(*key))
        .map(|key| (key, counts.get(key)))
        .collect();
    assert!(differ.is_empty(), "not once: {differ:?}");
    let repeated = journal(world, chains);
    println!("{chains} chains of {STEPS} steps, {KILLS} kills, {repeated} attempts cut off");
    assert!(repeated > 0, "no kill landed in a step");
}

async fn state_of(client: &Client, kind: &str, id: &str) -> Vec<(String, Value)> {
    let actor = ActorTarget { r#type: kind.into(), id: id.into() };
    let request = GetAllRequest { actor: Some(actor), turn_token: String::new() };
    let all = client.actor_state().get_all(request).await.expect("read").into_inner();
    all.entries.iter().map(|(key, payload)| (key.clone(), value(payload))).collect()
}

/// Attempts of one chain never overlap, whatever their steps; no step began before its predecessor had reached its end.
/// How many attempts were more than one for their step.
fn journal(world: &World, chains: u64) -> usize {
    world.journal().assert_no_overlap(GRACE);
    let all = world.journal().attempts();
    let mut repeated = 0;
    for chain in 0..chains {
        let attempts = all.get(&format!("chain-{chain}")).expect("it ran");
        let mut steps: BTreeMap<u64, Vec<&Attempt>> = BTreeMap::new();
        for attempt in attempts {
            let at = attempt.id.split('@').nth(1).and_then(|at| at.parse().ok());
            steps.entry(at.expect("its step")).or_default().push(attempt);
        }
        assert!(steps.keys().copied().eq(0..STEPS), "chain {chain}: {:?}", steps.keys());
        for at in 1..STEPS {
            let ended = steps[&(at - 1)].iter().find(|a| a.ended).expect("it reached its end");
            assert!(ended.last <= steps[&at][0].start, "chain {chain} step {at}: {attempts:?}");
        }
        assert!(steps[&(STEPS - 1)].iter().any(|a| a.ended), "chain {chain}: {attempts:?}");
        repeated += attempts.len() - steps.len();
    }
    repeated
}
