//! The SDK's own bank under fire: typed clients, reconnection, nested calls, and a ledger that counts tells without any
//! ids: one counted twice is a repeated turn, one missing is a lost one.

use std::time::Duration;

use kar_tests::fire::{DOUBLE_EVERY, RECOVERY_MAX_MS};
use kar_tests::toll::{Hits, runs_turns};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, NodeOptions, Random, World, binaries, process, test_within, wait};
use serde_json::Value;

/// Transfers, all in all.
const TRANSFERS: &str = "6000";

/// Longest time between two kills, ms.
const PAUSE_MAX_MS: u64 = 250;

const LIMIT: Duration = Duration::from_secs(300);

fn options(name: &str, words: &[&str]) -> NodeOptions {
    let mut command = vec![binaries::example("bank").to_string_lossy().into_owned()];
    command.extend(words.iter().map(|word| (*word).to_owned()));
    let args = vec!["--no-prefix".to_owned()];
    NodeOptions { name: name.into(), command, args, ..NodeOptions::default() }
}

async fn host(world: &World, name: &str) -> Node {
    let (part, kind) =
        if name.starts_with("teller") { ("teller", "teller") } else { ("accounts", "Account") };
    let node = world.start(options(name, &[part])).await;
    node.hosts(kind).await;
    node
}

#[test]
fn the_books_balance_and_every_transfer_is_counted_once() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("sdk bank");
        let world = World::new("sdkbank");
        let mut hosts = Vec::new();
        for name in ["accounts-1", "accounts-2", "teller-1", "teller-2"] {
            hosts.push(host(&world, name).await);
        }
        let words = [
            "load",
            "--transfers",
            TRANSFERS,
            "--accounts",
            "40",
            "--clients",
            "32",
            "--seed",
            "7",
        ];
        let mut load = world.spawn(&options("load", &words));
        load.ready().await;
        let (client, mut hits) = (load.client().await, Hits::default());
        while load.alive() {
            wait::moment(Duration::from_millis(random.below(PAUSE_MAX_MS))).await;
            // The rest of the load is to end at last, also on a machine that does much else.
            if !hits.are_enough() {
                strike(&world, &mut hosts, &mut random, &client, &mut hits).await;
            }
        }
        let code = load.ended(READY_LIMIT).await;
        let report = report(&world);
        println!("{report}");
        assert_eq!(code, 0, "{report}");
        for name in ["lost", "repeated", "torn", "errors", "unknown"] {
            assert_eq!(report[name], 0, "{name}: {report}");
        }
        assert_eq!(report["sum_before"], report["sum_after"]);
        assert_eq!(report["balanced"], true);
        hits.assert("sdk bank");
    });
}

/// The last line that `bank load` printed.
fn report(world: &World) -> Value {
    let log = world.logs().remove("load.1.log").expect("its log");
    let line = log.lines().rev().find(|line| line.starts_with('{')).unwrap_or("null");
    serde_json::from_str(line).expect("its report is JSON")
}

/// Kills the hub, or a host's component or sidecar; now and then another host's before the first is back.
async fn strike(
    world: &World,
    hosts: &mut [Node],
    random: &mut Random,
    client: &Client,
    hits: &mut Hits,
) {
    if random.below(8) == 0 {
        return process::kill(world.hub().await);
    }
    let mut victims = vec![random.below(4) as usize];
    if random.below(DOUBLE_EVERY) == 0 {
        victims.push((victims[0] + 1 + random.below(3) as usize) % 4);
    }
    let mut recovering = false;
    for victim in &victims {
        let node = &hosts[*victim];
        let in_turns = runs_turns(client, &node.name).await;
        match (random.below(2), node.component_now()) {
            (0, Some(component)) => process::kill(component),
            _ => node.kill_sidecar(),
        }
        hits.add(in_turns, recovering);
        recovering |= in_turns;
        if victims.len() > 1 {
            wait::moment(Duration::from_millis(random.below(RECOVERY_MAX_MS))).await;
        }
    }
    for victim in victims {
        hosts[victim].ended(READY_LIMIT).await;
        let name = hosts[victim].name.clone();
        hosts[victim] = host(world, &name).await;
    }
}
