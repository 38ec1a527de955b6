//! A bank under fire: transfers by nested calls between actors of two components while processes are
//! killed at random. Sum constant, every transfer applied once, none lost; clients see no error but
//! "unknown" where their own sidecar died.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use kar_proto::v1::{ActorTarget, GetAllRequest};
use kar_tests::grpc::value;
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, Random, World, process, test_within, wait};
use serde_json::{Value, json};
use tokio::task::LocalSet;
use tonic::{Code, Status};

/// Transfers, all in all.
const TRANSFERS: usize = 2_000;

/// Kills, spread evenly over the transfers.
const KILLS: usize = 200;

/// Transfers under way at once.
const CLIENTS: usize = 24;

/// Accounts, each opened with so much.
const ACCOUNTS: usize = 20;
const OPENING: i64 = 1_000;

/// Longest time that all may take.
const LIMIT: Duration = Duration::from_secs(420);

/// What everybody looks at.
struct Bank {
    world: Rc<World>,
    started: Cell<usize>,
    finished: Cell<usize>,
    unknown: Cell<usize>,
    /// The clients' own sidecars: odd from the kill to the restart, then even again. Only clients whose connection
    /// was made before the last change, or while it is odd, may see "unknown".
    fronts: [Cell<usize>; 2],
}

#[test]
fn a_bank_stays_balanced_under_200_random_kills() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("bank");
        let world = World::new("bank");
        let bank = Rc::new(Bank {
            world: world.clone(),
            started: Cell::new(0),
            finished: Cell::new(0),
            unknown: Cell::new(0),
            fronts: [Cell::new(0), Cell::new(0)],
        });
        let mut nodes = Vec::new();
        for (name, role) in [
            ("accounts-1", "accounts"),
            ("accounts-2", "accounts"),
            ("tellers-1", "teller"),
            ("tellers-2", "teller"),
            ("front-0", ""),
            ("front-1", ""),
        ] {
            nodes.push(start(&world, name, role).await);
        }
        open_accounts(&nodes[4].client().await).await;
        let local = LocalSet::new();
        for number in 0..CLIENTS {
            local.spawn_local(client(bank.clone(), number, random.fork()));
        }
        local.run_until(fire(&bank, &mut nodes, &mut random)).await;
        let unknown = bank.unknown.get();
        println!("{TRANSFERS} transfers, {KILLS} kills, {unknown} answers unknown and asked again");
        audit(&nodes[4].client().await).await;
    });
}

async fn start(world: &World, name: &str, role: &str) -> Node {
    if role.is_empty() { world.bare(name).await } else { world.app(name, &[role]).await }
}

async fn open_accounts(client: &Client) {
    for account in 0..ACCOUNTS {
        let id = format!("account-{account}");
        let opened = client.call(("Account", &id), "open", &json!({ "amount": OPENING })).await;
        assert_eq!(opened.expect("answered"), Ok(json!(OPENING)));
    }
}

/// Takes transfers until there are none left.
async fn client(bank: Rc<Bank>, number: usize, mut random: Random) {
    let front = number % bank.fronts.len();
    let socket = bank.world.path().join(format!("front-{front}.sock"));
    let mut connection = None;
    while bank.started.get() < TRANSFERS {
        let transfer = bank.started.get();
        bank.started.set(transfer + 1);
        let from = random.below(ACCOUNTS as u64);
        let to = (from + 1 + random.below(ACCOUNTS as u64 - 1)) % ACCOUNTS as u64;
        let order = json!({
            "transfer": format!("t{transfer}"),
            "from": format!("account-{from}"),
            "to": format!("account-{to}"),
            "amount": 1 + random.below(5),
        });
        // "Unknown" is answered by asking again: accounts know the transfers that they have applied.
        loop {
            let (client, since) = match connection.take() {
                Some(connection) => connection,
                None => {
                    let since = bank.fronts[front].get();
                    (connect(&socket).await, since)
                }
            };
            match send(&client, transfer, &order).await {
                Ok(answer) => {
                    assert_eq!(answer, Ok(json!(format!("t{transfer}"))));
                    connection = Some((client, since));
                    break;
                }
                Err(status) => {
                    let died = since % 2 == 1 || bank.fronts[front].get() != since;
                    assert!(died, "t{transfer}: the client's own sidecar lives, but: {status:?}");
                    assert_unknown(&status);
                    bank.unknown.set(bank.unknown.get() + 1);
                }
            }
        }
        bank.finished.set(bank.finished.get() + 1);
    }
}

async fn connect(socket: &std::path::Path) -> Client {
    wait::until("the client's sidecar", READY_LIMIT, async || Client::unix(socket).await.ok()).await
}

async fn send(
    client: &Client,
    transfer: usize,
    order: &Value,
) -> Result<Result<Value, kar_proto::v1::ApplicationError>, Status> {
    if transfer.is_multiple_of(2) {
        let teller = format!("teller-{}", transfer % 7);
        client.call(("Teller", &teller), "transfer", order).await
    } else {
        client.invoke("teller", "transfer", order).await
    }
}

/// What a plain gRPC client sees when the sidecar at the other end of its socket dies.
#[track_caller]
fn assert_unknown(status: &Status) {
    let broken = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal];
    assert!(broken.contains(&status.code()), "{status:?}");
    let reason = kar_tests::errors::reason(status);
    assert!(["", "OUTCOME_UNKNOWN"].contains(&reason.as_str()), "{status:?}");
}

/// Kills somebody whenever so many transfers are through, and starts again what has died.
async fn fire(bank: &Rc<Bank>, nodes: &mut [Node], random: &mut Random) {
    for kill in 0..KILLS {
        let due = (kill + 1) * TRANSFERS / (KILLS + 1);
        wait::until_true("transfers to go on", Duration::from_secs(60), async || {
            bank.finished.get() >= due
        })
        .await;
        strike(bank, nodes, random).await;
    }
    wait::until_true("the last transfers", Duration::from_secs(60), async || {
        bank.finished.get() == TRANSFERS
    })
    .await;
}

async fn strike(bank: &Rc<Bank>, nodes: &mut [Node], random: &mut Random) {
    match random.below(10) {
        0 => process::kill(bank.world.hub().await),
        1 => {
            let front = random.below(2) as usize;
            let state = &bank.fronts[front];
            state.set(state.get() + 1);
            restart(bank, &mut nodes[4 + front], "").await;
            state.set(state.get() + 1);
        }
        n => {
            let victim = random.below(4) as usize;
            let role = if victim < 2 { "accounts" } else { "teller" };
            if n < 6
                && let Some(pid) = nodes[victim].component_now()
            {
                process::kill(pid);
                nodes[victim].ended(READY_LIMIT).await;
            }
            restart(bank, &mut nodes[victim], role).await;
        }
    }
}

/// Kills a node if it still lives, and starts it again.
async fn restart(bank: &Rc<Bank>, node: &mut Node, role: &str) {
    node.kill_sidecar();
    node.ended(READY_LIMIT).await;
    let name = node.name.clone();
    *node = start(&bank.world, &name, role).await;
}

/// The sum is what it was, and every transfer left one account once and reached another once.
async fn audit(client: &Client) {
    let (mut sum, mut withdrawn, mut deposited) = (0, BTreeSet::new(), BTreeSet::new());
    for account in 0..ACCOUNTS {
        let id = format!("account-{account}");
        let balance = client.call(("Account", &id), "balance", &json!(null)).await;
        let balance = balance.expect("answered").expect("no error");
        let actor = ActorTarget { r#type: "Account".into(), id: id.clone() };
        let request = GetAllRequest { actor: Some(actor), turn_token: String::new() };
        let state = client.actor_state().get_all(request).await.expect("read").into_inner();
        let stored = state.entries.get("balance").map(value);
        assert_eq!(stored, Some(balance.clone()), "{id}: its turn and its state differ");
        sum += balance.as_i64().expect("a number");
        for key in state.entries.keys() {
            if let Some(transfer) = key.strip_prefix("withdraw/") {
                assert!(withdrawn.insert(transfer.to_owned()), "{transfer} left twice");
            }
            if let Some(transfer) = key.strip_prefix("deposit/") {
                assert!(deposited.insert(transfer.to_owned()), "{transfer} arrived twice");
            }
        }
    }
    assert_eq!(sum, OPENING * ACCOUNTS as i64, "money was made or lost");
    let all: BTreeSet<String> = (0..TRANSFERS).map(|n| format!("t{n}")).collect();
    assert!(withdrawn == all && deposited == all, "transfers were lost");
}
