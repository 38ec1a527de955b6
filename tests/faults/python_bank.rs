//! The bank over two languages: accounts and ledgers live in Python, transfers are coordinated in Rust, and 200 kills
//! hit their components and sidecars during 2,000 transfers. Sum constant, each transfer applied once, none lost; no
//! client sees any error, because no client's own sidecar dies.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kar_tests::fire::{DOUBLE_EVERY, RECOVERY_MAX_MS};
use kar_tests::python::{Install, sample, test_within};
use kar_tests::toll::{Hits, runs_turns};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, NodeOptions, Random, World, binaries, process, wait};
use serde_json::{Value, json};
use tokio::task::LocalSet;

/// Transfers, all in all.
const TRANSFERS: usize = 2_000;

/// Kills, spread evenly over the transfers.
const KILLS: usize = 200;

/// Transfers that begin for each kill, so that it lands in them.
const TRANSFERS_PER_KILL: usize = TRANSFERS / KILLS;

/// Longest time from the first of them to the kill, ms.
const PAUSE_MAX_MS: u64 = 25;

/// Transfers under way at once.
const CLIENTS: usize = 16;

/// Accounts, each opened with so much.
const ACCOUNTS: u64 = 20;
const OPENING: i64 = 1_000;

/// Actors that the ledger is spread over, as both banks have it.
const LEDGERS: u64 = 8;

/// Longest time that all may take: Python takes half a second to start, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(600);

/// What everybody looks at.
struct Bank {
    world: Rc<World>,
    client: Client,
    /// Transfers that may have begun by now.
    allowed: Cell<usize>,
    started: Cell<usize>,
    finished: Cell<usize>,
    refused: Cell<usize>,
}

#[test]
fn accounts_in_python_and_transfers_in_rust_stay_balanced_under_200_kills() {
    test_within(LIMIT, async {
        let accounts = sample(Install::Source, "bank/bank.py");
        let mut random = Random::seeded("python bank");
        let world = World::new("pybank");
        let front = world.bare("front").await;
        let rust = vec![binaries::example("bank").to_string_lossy().into_owned()];
        let mut nodes = Vec::new();
        for (name, words, part) in [
            ("accounts-1", &accounts, "accounts"),
            ("accounts-2", &accounts, "accounts"),
            ("teller-1", &rust, "teller"),
            ("teller-2", &rust, "teller"),
        ] {
            let mut command = words.clone();
            command.push(part.to_owned());
            let options = NodeOptions { name: name.into(), command, ..NodeOptions::default() };
            nodes.push((world.start(options.clone()).await, options));
        }
        let bank = Rc::new(Bank {
            world: world.clone(),
            client: front.client().await,
            allowed: Cell::new(0),
            started: Cell::new(0),
            finished: Cell::new(0),
            refused: Cell::new(0),
        });
        open_accounts(&bank.client).await;
        let local = LocalSet::new();
        for _ in 0..CLIENTS {
            local.spawn_local(client(bank.clone(), random.fork()));
        }
        let hits = local.run_until(fire(&bank, &mut nodes, &mut random)).await;
        let asked_again = audit(&bank).await;
        println!("{TRANSFERS} transfers, {KILLS} kills, {asked_again} postings asked again");
        assert!(asked_again > 0, "no kill cut a transfer off: the test shows nothing");
        hits.assert("python bank");
    });
}

async fn open_accounts(client: &Client) {
    for account in 0..ACCOUNTS {
        let id = format!("account-{account}");
        let opened = client.call(("Account", &id), "open", &json!(OPENING)).await;
        assert_eq!(opened.expect("answered"), Ok(json!(OPENING)));
    }
}

/// Takes transfers until there are none left.
async fn client(bank: Rc<Bank>, mut random: Random) {
    while bank.started.get() < TRANSFERS {
        if bank.started.get() >= bank.allowed.get() {
            // Whoever kills lets them go on.
            wait::moment(Duration::from_millis(5)).await;
            continue;
        }
        let number = bank.started.get();
        bank.started.set(number + 1);
        let from = random.below(ACCOUNTS);
        let to = (from + 1 + random.below(ACCOUNTS - 1)) % ACCOUNTS;
        let order = json!({
            "id": format!("t{number}"),
            "from": format!("account-{from}"),
            "to": format!("account-{to}"),
            "amount": 1 + random.below(5),
        });
        match bank.client.invoke("teller", "transfer", &order).await {
            Ok(Ok(value)) => assert_eq!(value, Value::Null),
            Ok(Err(error)) if error.code == "insufficient_funds" => {
                bank.refused.set(bank.refused.get() + 1);
            }
            other => panic!("t{number}: {other:?}"),
        }
        bank.finished.set(bank.finished.get() + 1);
    }
}

/// Kills somebody, again and again, now and then another one before the first is back, and starts again what has died.
/// What that hit.
async fn fire(bank: &Rc<Bank>, nodes: &mut [(Node, NodeOptions)], random: &mut Random) -> Hits {
    let (mut hits, mut kill) = (Hits::default(), 0);
    while kill < KILLS {
        bank.allowed.set((kill + 1) * TRANSFERS_PER_KILL);
        wait::until_true("transfers to begin", Duration::from_secs(60), async || {
            bank.started.get() > kill * TRANSFERS_PER_KILL
        })
        .await;
        wait::moment(Duration::from_millis(random.below(PAUSE_MAX_MS))).await;
        let first = random.below(nodes.len() as u64) as usize;
        let in_turns = strike(bank, &nodes[first].0, random).await;
        hits.add(in_turns, false);
        let mut victims = vec![first];
        kill += 1;
        if random.below(DOUBLE_EVERY) == 0 {
            wait::moment(Duration::from_millis(random.below(RECOVERY_MAX_MS))).await;
            let second = (first + 1 + random.below(nodes.len() as u64 - 1) as usize) % nodes.len();
            hits.add(strike(bank, &nodes[second].0, random).await, in_turns);
            victims.push(second);
            kill += 1;
        }
        for victim in victims {
            let (node, options) = &mut nodes[victim];
            node.ended(READY_LIMIT).await;
            *node = bank.world.start(options.clone()).await;
        }
    }
    bank.allowed.set(TRANSFERS);
    wait::until_true("the last transfers", Duration::from_secs(120), async || {
        bank.finished.get() == TRANSFERS
    })
    .await;
    hits
}

/// Kills a node's component or sidecar; whether turns ran there.
async fn strike(bank: &Bank, victim: &Node, random: &mut Random) -> bool {
    let in_turns = runs_turns(&bank.client, &victim.name).await;
    match (random.below(2), victim.component_now()) {
        (0, Some(component)) => process::kill(component),
        _ => victim.kill_sidecar(),
    }
    in_turns
}

/// Checks the books; returns how many postings were asked for more than once.
async fn audit(bank: &Bank) -> i64 {
    let (mut sum, mut asked_again) = (0, 0);
    let (mut paid, mut received) = (BTreeMap::new(), BTreeMap::new());
    for account in 0..ACCOUNTS {
        let id = format!("account-{account}");
        let books = bank.client.call(("Account", &id), "audit", &json!(null)).await;
        let books = books.expect("answered").expect("no error");
        let balance = books["balance"].as_i64().expect("a number");
        sum += balance;
        let mut changes = 0;
        for (transfer, note) in books["notes"].as_object().expect("notes") {
            let amount = note["amount"].as_i64().expect("a number");
            changes += amount;
            asked_again += note["asked"].as_i64().expect("a number") - 1;
            let side = if amount < 0 { &mut paid } else { &mut received };
            assert!(side.insert(transfer.clone(), amount.abs()).is_none(), "{transfer} twice");
        }
        assert_eq!(OPENING + changes, balance, "{id}: its notes and its balance differ");
    }
    assert_eq!(sum, OPENING * ACCOUNTS as i64, "money was made or lost");
    assert_eq!(paid, received, "transfers were torn");
    let done = TRANSFERS - bank.refused.get();
    assert_eq!(paid.len(), done, "transfers were lost, or made although refused");
    assert_eq!(ledger(&bank.client).await, done, "the ledger counts another number");
    asked_again
}

/// How many transfers the ledger knows; each exactly once, though it was told without any ids.
async fn ledger(client: &Client) -> usize {
    let mut known = 0;
    for ledger in 0..LEDGERS {
        let id = ledger.to_string();
        let counts = client.call(("Ledger", &id), "audit", &json!(null)).await;
        let counts = counts.expect("answered").expect("no error");
        for (transfer, count) in counts.as_object().expect("counts") {
            assert_eq!(*count, json!(1), "{transfer} was counted so often");
            known += 1;
        }
    }
    known
}
