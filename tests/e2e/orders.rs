//! The sample of events: every order that was taken is told to its customer once and in order, and booked once by
//! another application in another language, though hosts of every part and the hub are killed in the middle of it.

use std::time::Duration;

use kar_tests::fire::{Fire, nothing_left};
use kar_tests::python::{Install, sample, test};
use kar_tests::world::READY_LIMIT;
use kar_tests::{NodeOptions, Random, World, binaries, wait};
use serde_json::{Value, json};

const ORDERS: u32 = 3_000;

/// At least so many kills must be dealt while orders are placed; else the test shows nothing. Its turns are too short
/// to count those that land in them.
const KILLS_MIN: u32 = 4;

/// Longest pause before a kill, ms.
const PAUSE_MAX_MS: u64 = 300;

/// Longest time after the last order until it is booked, on a machine that does much else.
const BOOKED_LIMIT: Duration = Duration::from_secs(60);

fn options(name: &str, words: &[&str]) -> NodeOptions {
    let mut command = vec![binaries::example("orders").to_string_lossy().into_owned()];
    command.extend(words.iter().map(|word| (*word).to_owned()));
    let args = vec!["--no-prefix".to_owned()];
    NodeOptions { name: name.into(), command, args, ..NodeOptions::default() }
}

fn ledger(name: &str) -> NodeOptions {
    NodeOptions {
        name: name.into(),
        command: sample(Install::Wheel, "orders/ledger.py"),
        application: "accounts".into(),
        ..NodeOptions::default()
    }
}

#[test]
fn orders_are_told_and_booked_once_though_processes_are_killed() {
    test(async {
        let mut random = Random::seeded("orders");
        let world = World::new("shop");
        let front = world.bare("front").await;
        front.client().await.create_topic("orders", 4).await.expect("created");
        let elsewhere = NodeOptions {
            name: "auditor".into(),
            application: "accounts".into(),
            ..NodeOptions::default()
        };
        let elsewhere = world.start(elsewhere).await;
        let auditor = elsewhere.client().await;
        let mut fire = Fire::new(&world, random.fork());
        for (options, kind) in [
            (options("shop-1", &["shop"]), "shop"),
            (options("shop-2", &["shop"]), "shop"),
            (options("customers-1", &["customers"]), "Customer"),
            (options("customers-2", &["customers"]), "Customer"),
            (ledger("ledger-1"), "Ledger"),
            (ledger("ledger-2"), "Ledger"),
        ] {
            fire.host(options, kind).await;
        }
        let mut place =
            world.start(options("place", &["place", "--orders", &ORDERS.to_string()])).await;
        while place.alive() {
            wait::moment(Duration::from_millis(random.below(PAUSE_MAX_MS))).await;
            fire.strike().await;
        }
        let code = place.ended(READY_LIMIT).await;
        let log = world.logs().remove("place.1.log").expect("its log");
        let line = log.lines().rev().find(|line| line.starts_with('{')).unwrap_or("null");
        let report: Value = serde_json::from_str(line).expect("its report is JSON");
        let kills = fire.kills.total();
        println!("{kills} kills; {report}");
        assert_eq!((code, &report["wrong"]), (0, &json!([])), "{report}");
        let count = |name: &str| report[name].as_u64().expect("a number");
        assert_eq!(count("taken") + count("declined"), u64::from(ORDERS), "{report}");
        assert_ne!(count("declined"), 0, "nothing was taken back: {report}");
        assert!(kills >= KILLS_MIN, "only {kills} kills were dealt");
        let day = report["day"].as_str().expect("a day");
        let books = wait::until("every order to be booked", BOOKED_LIMIT, async || {
            let books = auditor.call(("Ledger", day), "books", &json!(null)).await;
            let books = books.expect("its own sidecar lives").expect("no error");
            (books["orders"].as_u64()? >= count("taken")).then_some(books)
        })
        .await;
        assert_eq!(books, json!({ "orders": report["taken"], "cents": report["cents"] }));
        nothing_left(&world).await;
    });
}
