//! A re-entrant audit under random kills: an auditor calls vaults that call it back, through each other, while money
//! moves between them. Every audit finds every vault and the right sum, every exchange changed two vaults once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kar_proto::v1::{ActorTarget, GetAllRequest};
use kar_tests::fire::{Fire, Load, nothing_left};
use kar_tests::grpc::value;
use kar_tests::{Client, Random, World, test_within};
use serde_json::{Value, json};
use tokio::task::LocalSet;

/// Processes that are killed.
const KILLS: u32 = 30;

/// Vaults, each opened with so much.
const VAULTS: u64 = 6;
const OPENING: i64 = 1_000;

/// Exchanges under way at once.
const CLIENTS: u64 = 6;

/// Audits under way at once, each of an auditor of its own.
const AUDITORS: u64 = 2;

/// How long each vault works in an audit, ms; so that kills land in audits.
const WORK_MS: u64 = 15;

/// Longest pause before a kill, ms.
const PAUSE_MAX_MS: u64 = 250;

/// P3: code of a cut-off attempt may run on for so long.
const GRACE: Duration = Duration::from_millis(100);

const LIMIT: Duration = Duration::from_secs(240);

/// What everybody looks at.
struct Treasury {
    front: Client,
    /// Its progress is that of the audits: they are what takes long.
    load: Load,
    exchanges: Cell<u64>,
    /// What each vault must hold in the end, and how many changes it must have seen.
    expected: RefCell<BTreeMap<u64, (i64, u64)>>,
}

#[test]
fn an_audit_that_is_called_back_is_always_right_under_random_kills() {
    test_within(LIMIT, async {
        let random = Random::seeded("audit");
        let world = World::new("audit");
        let front = world.bare("front").await;
        let treasury = Rc::new(Treasury {
            front: front.client().await,
            load: Load::default(),
            exchanges: Cell::new(0),
            expected: RefCell::default(),
        });
        let mut fire = Fire::new(&world, random.clone());
        for (name, role, kind) in [
            ("vaults-1", "vaults", "Vault"),
            ("vaults-2", "vaults", "Vault"),
            ("auditors-1", "auditors", "Auditor"),
            ("auditors-2", "auditors", "Auditor"),
        ] {
            fire.host(world.app_options(name, &[role]), kind).await;
        }
        for vault in 0..VAULTS {
            let id = format!("v{vault}");
            let amount = json!({ "amount": OPENING });
            let opened = treasury.front.call(("Vault", &id), "open", &amount).await;
            assert_eq!(opened.expect("answered"), Ok(json!(OPENING)));
            treasury.expected.borrow_mut().insert(vault, (OPENING, 0));
        }
        let local = LocalSet::new();
        let mut random = random;
        let exchanges = (0..CLIENTS)
            .map(|_| local.spawn_local(exchanges(treasury.clone(), random.fork())))
            .collect::<Vec<_>>();
        let audits = (0..AUDITORS).map(|n| local.spawn_local(audits(treasury.clone(), n)));
        let clients = audits.chain(exchanges).collect();
        local.run_until(fire.burn(&treasury.load, clients, KILLS, PAUSE_MAX_MS)).await;
        nothing_left(&world).await;
        judge(&treasury).await;
        world.journal().assert_no_overlap(GRACE);
        let (audits, exchanges) = (treasury.load.finished.get(), treasury.exchanges.get());
        println!("{audits} audits, {exchanges} exchanges; {:?}", fire.kills);
        fire.hits().assert("audit");
    });
}

/// Moves money from a vault to a later one until all kills are through.
async fn exchanges(treasury: Rc<Treasury>, mut random: Random) {
    while !treasury.load.over.get() {
        let from = random.below(VAULTS - 1);
        let to = from + 1 + random.below(VAULTS - 1 - from);
        let amount = i64::try_from(random.below(100)).expect("small") - 50;
        let argument = json!({ "with": format!("v{to}"), "amount": amount });
        let id = format!("v{from}");
        let answer = treasury.front.call(("Vault", &id), "exchange", &argument).await;
        let answer = answer.expect("its own sidecar lives");
        assert!(answer.is_ok(), "{answer:?}");
        treasury.exchanges.set(treasury.exchanges.get() + 1);
        for (vault, amount) in [(from, -amount), (to, amount)] {
            let mut expected = treasury.expected.borrow_mut();
            let (balance, changes) = expected.get_mut(&vault).expect("it was opened");
            (*balance, *changes) = (*balance + amount, *changes + 1);
        }
    }
}

/// One audit after the other until all kills are through.
async fn audits(treasury: Rc<Treasury>, auditor: u64) {
    let vaults: Vec<String> = (0..VAULTS).map(|vault| format!("v{vault}")).collect();
    let right = json!({ "vaults": VAULTS, "sum": OPENING * VAULTS.cast_signed() });
    for number in 0.. {
        if treasury.load.over.get() {
            break;
        }
        let audit = format!("audit-{auditor}-{number}");
        let argument = json!({ "audit": audit, "vaults": vaults, "milliseconds": WORK_MS });
        let id = format!("a{auditor}");
        let answer = treasury.front.call(("Auditor", &id), "audit", &argument).await;
        assert_eq!(answer.expect("its own sidecar lives"), Ok(right.clone()), "{audit}");
        treasury.load.done();
    }
}

/// Every vault holds what the exchanges made of it, by as many changes as they asked for.
async fn judge(treasury: &Treasury) {
    let expected = treasury.expected.borrow().clone();
    for (vault, (balance, changes)) in expected {
        let actor = ActorTarget { r#type: "Vault".into(), id: format!("v{vault}") };
        let request = GetAllRequest { actor: Some(actor), turn_token: String::new() };
        let state = treasury.front.actor_state().get_all(request).await.expect("read").into_inner();
        let state: Value = state.entries.iter().map(|(key, v)| (key.clone(), value(v))).collect();
        assert_eq!(state, json!({ "balance": balance, "changes": changes }), "v{vault}");
    }
}
