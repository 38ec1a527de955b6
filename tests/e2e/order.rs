//! The sample of a saga: orders are carried out completely or not at all, though hosts of every part and the hub are
//! killed in the middle of them.

use std::time::Duration;

use kar_tests::fire::{Fire, nothing_left};
use kar_tests::world::READY_LIMIT;
use kar_tests::{NodeOptions, Random, World, binaries, test, wait};
use serde_json::{Value, json};

const ORDERS: u32 = 300;

/// At least so many kills must land where turns of the orders run; else the test shows nothing.
const HITS_MIN: usize = 4;

/// Longest pause before a kill, ms.
const PAUSE_MAX_MS: u64 = 300;

fn options(name: &str, words: &[&str]) -> NodeOptions {
    let mut command = vec![binaries::example("order").to_string_lossy().into_owned()];
    command.extend(words.iter().map(|word| (*word).to_owned()));
    let args = vec!["--no-prefix".to_owned()];
    NodeOptions { name: name.into(), command, args, ..NodeOptions::default() }
}

#[test]
fn orders_are_carried_out_or_undone_though_processes_are_killed() {
    test(async {
        let mut random = Random::seeded("order");
        let world = World::new("shop");
        let mut fire = Fire::new(&world, random.fork());
        for (name, parts, kind) in [
            ("orders-1", "orders", "Order"),
            ("orders-2", "orders", "Order"),
            ("backend-1", "backend", "Stock"),
            ("backend-2", "backend", "Stock"),
        ] {
            fire.host(options(name, &[parts]), kind).await;
        }
        let words = ["shop", "--orders", &ORDERS.to_string(), "--number-ms", "100"];
        let mut shop = world.start(options("shop", &words)).await;
        fire.watch(shop.client().await);
        while shop.alive() {
            wait::moment(Duration::from_millis(random.below(PAUSE_MAX_MS))).await;
            fire.strike().await;
        }
        let code = shop.ended(READY_LIMIT).await;
        let log = world.logs().remove("shop.1.log").expect("its log");
        let line = log.lines().rev().find(|line| line.starts_with('{')).unwrap_or("null");
        let report: Value = serde_json::from_str(line).expect("its report is JSON");
        let (kills, hits) = (fire.kills.total(), fire.hits());
        println!("{kills} kills, {hits:?}; {report}");
        assert_eq!((code, &report["wrong"]), (0, &json!([])), "{report}");
        assert_eq!((&report["right"], &report["orders"]), (&json!(true), &json!(ORDERS)));
        for reason in ["sold_out", "declined", "no_route"] {
            assert_ne!(report["rejected"][reason], json!(0), "nothing to undo: {report}");
        }
        assert!(hits.in_turns >= HITS_MIN, "of {kills} kills only these landed: {hits:?}");
        nothing_left(&world).await;
    });
}
