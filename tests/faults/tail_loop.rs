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
use kar_tests::fire::{Fire, Load, nothing_left};
use kar_tests::grpc::{json as bytes, value};
use kar_tests::journal::Attempt;
use kar_tests::{Client, Random, World, test_within};
use serde_json::{Value, json};
use tokio::task::LocalSet;

/// Processes that are killed.
const KILLS: u32 = 30;

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

const LIMIT: Duration = Duration::from_secs(240);

/// What everybody looks at.
struct Walk {
    front: Client,
    begun: Cell<u64>,
    load: Load,
}

#[test]
fn a_loop_of_tail_calls_under_random_kills() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("tail loop");
        let world = World::new("loop");
        let front = world.bare("front").await;
        let walk = Rc::new(Walk {
            front: front.client().await,
            begun: Cell::new(0),
            load: Load::default(),
        });
        let mut fire = Fire::new(&world, random.fork());
        for (role, kind) in [("walker", "Walker"), ("hopper", "Hopper")] {
            for number in 1..=2 {
                let options = world.app_options(&format!("{role}-{number}"), &[role]);
                fire.host(options, kind).await;
            }
        }
        let local = LocalSet::new();
        let clients = (0..CLIENTS).map(|_| local.spawn_local(client(walk.clone()))).collect();
        local.run_until(fire.burn(&walk.load, clients, KILLS, PAUSE_MAX_MS)).await;
        nothing_left(&world).await;
        judge(&world, &walk).await;
        println!("{:?}", fire.kills);
        fire.hits().assert("tail loop");
    });
}

/// Begins chains until all kills are through, in each way that there is.
async fn client(walk: Rc<Walk>) {
    while !walk.load.over.get() {
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
        walk.load.done();
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

/// Looks at what the chains left behind.
async fn judge(world: &World, walk: &Walk) {
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
    println!("{chains} chains of {STEPS} steps, {repeated} attempts cut off");
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
