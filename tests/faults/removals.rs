//! Actors that are removed and used again all the time, while their hosts, owners and the hub are killed: each life
//! begins with nothing, counts what it was told once, and leaves nothing; a removed reminder never rings again.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kar_proto::v1::ActorTarget;
use kar_tests::fire::{Fire, Load, PROGRESS_LIMIT, nothing_left};
use kar_tests::reminders::{actor, beat};
use kar_tests::{Client, Random, World, test_within, wait};
use serde_json::{Value, json};
use tokio::task::LocalSet;

/// Processes that are killed.
const KILLS: u32 = 30;

/// Actors, each with a client of its own.
const ACTORS: u64 = 6;

/// How long a call works, ms; so that kills land there.
const WORK_MS: u64 = 15;

/// Calls of each life.
const CALLS: i64 = 3;

/// Period of each life's reminder; long enough that actors are idle between two of its due times.
const PERIOD: Duration = Duration::from_millis(100);

/// Longest pause before a kill, ms.
const PAUSE_MAX_MS: u64 = 300;

const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn removed_actors_leave_nothing_under_random_kills() {
    test_within(LIMIT, async {
        let random = Random::seeded("removals");
        let world = World::new("removals");
        // Some become passive between two calls, and their hosts are told.
        world.add_run_args(&["--actor-idle-ms", "10"]);
        world.journal_turns();
        let front = world.bare("front").await;
        let client = front.client().await;
        let load = Rc::new(Load::default());
        let rested = Rc::new(Cell::new(0));
        let mut fire = Fire::new(&world, random);
        for name in ["ringer-1", "ringer-2", "ringer-3"] {
            fire.host(world.app_options(name, &["ringer"]), "Ringer").await;
        }
        let local = LocalSet::new();
        let clients = (0..ACTORS)
            .map(|n| local.spawn_local(lives(client.clone(), load.clone(), rested.clone(), n)))
            .collect::<Vec<_>>();
        local.run_until(fire.burn(&load, clients, KILLS, PAUSE_MAX_MS)).await;
        nothing_left(&world).await;
        for n in 0..ACTORS {
            let ringer = ringer(n);
            assert_eq!(client.committed(&ringer).await, BTreeMap::new(), "actor {n}");
            assert_eq!(client.reminders(&ringer).await.expect("listed"), [], "actor {n}");
        }
        let lives = load.finished.get();
        println!(
            "{lives} lives, {} deactivations that were durable; {:?}",
            rested.get(),
            fire.kills
        );
        assert!(rested.get() > 0, "no actor was ever idle");
        fire.hits().assert("removals");
    });
}

fn ringer(n: u64) -> ActorTarget {
    actor("Ringer", &format!("r{n}"))
}

/// One life of an actor after the other until all kills are through.
async fn lives(client: Client, load: Rc<Load>, rested: Rc<Cell<u64>>, n: u64) {
    let own = ringer(n);
    for life in 0.. {
        if load.over.get() {
            return;
        }
        let (called, rung) = (format!("called-{life}"), format!("rung-{life}"));
        client.schedule(beat(&own, &rung, PERIOD)).await.expect("its own sidecar lives");
        for count in 1..=CALLS {
            let argument = json!({ "key": called, "milliseconds": WORK_MS });
            let answer = client.call((&own.r#type, &own.id), "ring", &argument).await;
            assert_eq!(answer.expect("its own sidecar lives"), Ok(json!(count)), "{called}");
        }
        let state = wait::until("the reminder to ring", PROGRESS_LIMIT, async || {
            let state = client.committed(&own).await;
            state.contains_key(&rung).then_some(state)
        })
        .await;
        assert_eq!(state[&called], json!(CALLS));
        let own_keys = [called.as_str(), rung.as_str(), "again", "rested"];
        let strange = |key: &&String| !own_keys.contains(&key.as_str());
        let strange: Vec<_> = state.keys().filter(strange).collect();
        assert_eq!(strange, Vec::<&String>::new(), "of another life than {life}");
        rested.set(rested.get() + state.get("rested").and_then(Value::as_u64).unwrap_or(0));
        client.remove(&own).await.expect("its own sidecar lives");
        let left: BTreeMap<String, Value> = client.committed(&own).await;
        assert_eq!(left, BTreeMap::new(), "life {life} is over");
        assert_eq!(client.reminders(&own).await.expect("listed"), [], "life {life} is over");
        load.done();
    }
}
