//! The SDK's own bank under fire: typed clients, reconnection, nested calls, and a ledger that counts tells without any
//! ids: one counted twice is a repeated turn, one missing is a lost one.

use std::time::Duration;

use kar_tests::world::READY_LIMIT;
use kar_tests::{Node, NodeOptions, Random, World, binaries, process, test_within, wait};
use serde_json::Value;

/// Transfers, all in all.
const TRANSFERS: &str = "4000";

/// At least so many kills must land in the load; else the test shows nothing.
const KILLS_MIN: u32 = 6;

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
        let mut kills = 0;
        while load.alive() {
            wait::moment(Duration::from_millis(random.below(PAUSE_MAX_MS))).await;
            strike(&world, &mut hosts, &mut random).await;
            kills += 1;
        }
        let code = load.ended(READY_LIMIT).await;
        let report = report(&world);
        println!("{kills} kills; {report}");
        assert_eq!(code, 0, "{report}");
        for name in ["lost", "repeated", "torn", "errors", "unknown"] {
            assert_eq!(report[name], 0, "{name}: {report}");
        }
        assert_eq!(report["sum_before"], report["sum_after"]);
        assert_eq!(report["balanced"], true);
        assert!(kills >= KILLS_MIN, "only {kills} kills landed");
    });
}

/// The last line that `bank load` printed.
fn report(world: &World) -> Value {
    let log = world.logs().remove("load.1.log").expect("its log");
    let line = log.lines().rev().find(|line| line.starts_with('{')).unwrap_or("null");
    serde_json::from_str(line).expect("its report is JSON")
}

async fn strike(world: &World, hosts: &mut [Node], random: &mut Random) {
    if random.below(8) == 0 {
        return process::kill(world.hub().await);
    }
    let victim = &mut hosts[random.below(4) as usize];
    match (random.below(2), victim.component_now()) {
        (0, Some(component)) => process::kill(component),
        _ => victim.kill_sidecar(),
    }
    victim.ended(READY_LIMIT).await;
    let name = victim.name.clone();
    *victim = host(world, &name).await;
}
