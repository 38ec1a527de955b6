//! A chain of nested calls through three languages and back through the same actors (re-entrancy across components),
//! while hosts in all of them and the hub are killed at random.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kar_proto::v1::{ActorTarget, GetAllRequest};
use kar_tests::fire::{Fire, Load, nothing_left};
use kar_tests::grpc::value;
use kar_tests::journal::{Attempt, assert_happens_before};
use kar_tests::python::{Install, script};
use kar_tests::{Client, NodeOptions, Random, World, binaries, test_within};
use serde_json::{Value, json};
use tokio::task::LocalSet;

use crate::js;
use crate::language::word;

/// Processes that are killed.
const KILLS: u32 = 30;

/// Chains under way at once; those of one instance queue.
const CLIENTS: u64 = 6;

/// Instances of each actor type.
const INSTANCES: u64 = 3;

/// Whom a chain goes through, twice.
const KINDS: [&str; 3] = ["ChainRust", "ChainPython", "ChainJs"];
const LINKS: usize = 2 * KINDS.len();

/// How long a link works, ms; so that kills land in links.
const WORK_MS: u64 = 20;

/// Longest pause before a kill, ms.
const PAUSE_MAX_MS: u64 = 250;

/// P3: code of a cut-off attempt may run on for so long.
const GRACE: Duration = Duration::from_millis(100);

const LIMIT: Duration = Duration::from_secs(300);

/// What everybody looks at.
struct Chains {
    front: Client,
    load: Load,
    begun: std::cell::Cell<u64>,
    trails: std::cell::RefCell<BTreeMap<u64, Value>>,
}

fn hosts() -> [(&'static str, Vec<String>); 3] {
    [
        (KINDS[0], vec![word(&binaries::test_app()), "chain".to_owned()]),
        (KINDS[1], script(Install::Wheel, "conformance/chain.py")),
        (KINDS[2], js::program("conformance/chain.js")),
    ]
}

#[test]
fn a_nested_chain_over_three_languages_under_random_kills() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("chain");
        let world = World::new("chain");
        let front = world.bare("front").await;
        let mut fire = Fire::new(&world, random.fork());
        for (kind, command) in hosts() {
            for number in 1..=2 {
                let name = format!("{kind}-{number}");
                let options = NodeOptions { name, command: command.clone(), ..Default::default() };
                fire.host(options, kind).await;
            }
        }
        let chains = Rc::new(Chains {
            front: front.client().await,
            load: Load::default(),
            begun: Default::default(),
            trails: Default::default(),
        });
        let local = LocalSet::new();
        let clients = (0..CLIENTS).map(|_| local.spawn_local(client(chains.clone()))).collect();
        local.run_until(fire.burn(&chains.load, clients, KILLS, PAUSE_MAX_MS)).await;
        nothing_left(&world).await;
        judge(&world, &chains).await;
        println!("{:?}", fire.kills);
        fire.hits().assert("chain");
    });
}

fn instance(chain: u64) -> String {
    format!("i{}", chain % INSTANCES)
}

/// Makes chains until all kills are through.
async fn client(chains: Rc<Chains>) {
    while !chains.load.over.get() {
        let chain = chains.begun.get();
        chains.begun.set(chain + 1);
        // All of one instance's chains take its actors in this order, so that none waits in a circle.
        let id = instance(chain);
        let path: Vec<_> = KINDS.iter().chain(&KINDS).map(|kind| [*kind, &id]).collect();
        let argument = json!({
            "chain": chain, "at": 0, "path": path, "trail": [], "milliseconds": WORK_MS,
        });
        let trail = chains.front.call((KINDS[0], &id), "link", &argument).await;
        let trail = trail.expect("its own sidecar lives").expect("no error");
        chains.trails.borrow_mut().insert(chain, trail);
        chains.load.done();
    }
}

/// Every link took effect once; its code ran one attempt after the other, and none while it was waited for by an
/// attempt that had been replaced.
async fn judge(world: &World, chains: &Chains) {
    let mut counts = BTreeMap::new();
    for kind in KINDS {
        for id in (0..INSTANCES).map(instance) {
            let actor = ActorTarget { r#type: kind.into(), id };
            let request = GetAllRequest { actor: Some(actor), turn_token: String::new() };
            let state = chains.front.actor_state().get_all(request).await.expect("read");
            let entries = state.into_inner().entries;
            counts.extend(entries.iter().map(|(key, count)| ((kind, key.clone()), value(count))));
        }
    }
    let once = (0..chains.begun.get())
        .flat_map(|chain| (0..LINKS).map(move |at| (KINDS[at % 3], format!("{chain}@{at}"))))
        .map(|link| (link, json!(1)));
    assert_eq!(counts, once.collect(), "not once");
    world.journal().assert_no_overlap(GRACE);
    let attempts = world.journal().attempts();
    let mut repeated = 0;
    for (chain, trail) in chains.trails.borrow().iter() {
        let drawn: Vec<&str> =
            trail.as_array().expect("a trail").iter().flat_map(Value::as_str).collect();
        assert_eq!(drawn.len(), LINKS, "{chain}: {trail}");
        let links: Vec<&[Attempt]> =
            (0..LINKS).map(|at| attempts[&format!("{chain}@{at}")].as_slice()).collect();
        for (at, own) in links.iter().enumerate() {
            assert!(own.iter().any(|a| a.id == drawn[at]), "{chain}@{at}: {own:?} in {trail}");
            assert!(own.last().is_some_and(|a| a.ended), "{chain}@{at}: {own:?}");
            repeated += own.len() - 1;
        }
        for pair in links.windows(2) {
            assert_happens_before(pair[0], pair[1], GRACE);
        }
    }
    println!("{} chains, {repeated} links cut off", chains.begun.get());
}
