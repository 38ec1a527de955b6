//! Idempotency keys under random kills, those of the clients' own sidecars included: a client that is told nothing asks
//! again, anywhere, and pays once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kar_proto::v1::{
    ActorTarget, CallActorRequest, GetAllRequest, InvocationOptions, call_actor_response,
};
use kar_tests::errors::assert_error;
use kar_tests::fire::{Fire, Load, PROGRESS_LIMIT, nothing_left};
use kar_tests::grpc::{json as bytes, value};
use kar_tests::{Client, Random, World, test_within, wait};
use serde_json::{Value, json};
use tokio::task::LocalSet;
use tonic::{Code, Status};

/// Processes that are killed.
const KILLS: u32 = 40;

/// Instances that are paid; orders queue there.
const TILLS: u64 = 4;

/// Orders under way at once.
const CLIENTS: u64 = 6;

/// How long charging takes, ms; so that kills land in it.
const WORK_MS: u64 = 15;

/// Longest pause before a kill, ms.
const PAUSE_MAX_MS: u64 = 200;

/// P3: code of a cut-off attempt may run on for so long.
const GRACE: Duration = Duration::from_millis(100);

const LIMIT: Duration = Duration::from_secs(240);

struct Street {
    fronts: Vec<Client>,
    load: Load,
    begun: Cell<u64>,
    /// Times that a client was told nothing and asked again.
    asked_again: Cell<u64>,
    /// What each order's client was given.
    receipts: RefCell<BTreeMap<u64, Value>>,
}

#[test]
fn what_is_asked_again_with_a_key_is_paid_once_under_random_kills() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("receipts");
        let world = World::new("receipts");
        let mut fire = Fire::new(&world, random.fork());
        for name in ["tills-1", "tills-2"] {
            fire.host(world.app_options(name, &["tills"]), "Till").await;
        }
        let fronts = vec![fire.front("front-1").await, fire.front("front-2").await];
        let street = Rc::new(Street {
            fronts,
            load: Load::default(),
            begun: Cell::new(0),
            asked_again: Cell::new(0),
            receipts: RefCell::default(),
        });
        let local = LocalSet::new();
        let clients = (0..CLIENTS)
            .map(|_| local.spawn_local(client(street.clone(), random.fork())))
            .collect::<Vec<_>>();
        local.run_until(fire.burn(&street.load, clients, KILLS, PAUSE_MAX_MS)).await;
        nothing_left(&world).await;
        judge(&world, &street).await;
        let (orders, again) = (street.begun.get(), street.asked_again.get());
        println!("{orders} orders, {again} asked again; {:?}", fire.kills);
        assert!(again > 0, "no client had to ask again");
        fire.hits().assert("receipts");
    });
}

/// Pays for orders until all kills are through.
async fn client(street: Rc<Street>, mut random: Random) {
    while !street.load.over.get() {
        let number = street.begun.get();
        street.begun.set(number + 1);
        let mut asked = 0;
        let receipt = wait::until("a receipt", PROGRESS_LIMIT, async || {
            asked += 1;
            let at = usize::try_from(random.below(street.fronts.len() as u64)).expect("small");
            charge(&street.fronts[at], number, number).await.ok()
        });
        let receipt = receipt.await;
        street.asked_again.set(street.asked_again.get() + asked - 1);
        street.receipts.borrow_mut().insert(number, receipt);
        street.load.done();
    }
}

/// Charges an order, under the key of `number`; the receipt.
async fn charge(client: &Client, number: u64, order: u64) -> Result<Value, Status> {
    let key = format!("order-{number}");
    let argument = json!({ "order": format!("o{order}"), "milliseconds": WORK_MS });
    let request = CallActorRequest {
        actor: Some(till(number)),
        method: "charge".into(),
        payload: Some(bytes(&argument)),
        options: Some(InvocationOptions { idempotency_key: key, ..Default::default() }),
        ..Default::default()
    };
    match client.invocation().call_actor(request).await?.into_inner().result {
        Some(call_actor_response::Result::Payload(payload)) => Ok(value(&payload)),
        other => panic!("order {number}: {other:?}"),
    }
}

fn till(number: u64) -> ActorTarget {
    ActorTarget { r#type: "Till".into(), id: format!("t{}", number % TILLS) }
}

/// Every order was charged once, by the attempt on its receipt; whoever asks now is given the same receipt.
async fn judge(world: &World, street: &Street) {
    let attempts = world.journal().attempts();
    world.journal().assert_no_overlap(GRACE);
    let (mut charged, mut expected) = (BTreeMap::new(), BTreeMap::new());
    for number in 0..TILLS {
        let request = GetAllRequest { actor: Some(till(number)), turn_token: String::new() };
        let all = street.fronts[0].actor_state().get_all(request).await.expect("read");
        let entries = all.into_inner().entries;
        charged.extend(entries.iter().map(|(key, payload)| (key.clone(), value(payload))));
    }
    for (number, receipt) in &street.receipts.take() {
        expected.insert(format!("charged/o{number}"), json!(1));
        let last = attempts[&format!("o{number}")].last().map(|attempt| json!(attempt.id));
        assert_eq!(Some(receipt), last.as_ref(), "order {number} was done again");
        for front in &street.fronts {
            let again = charge(front, *number, *number).await.expect("kept");
            assert_eq!(again, *receipt, "order {number}");
        }
    }
    assert_eq!(charged, expected);
    let changed = charge(&street.fronts[0], 0, 1).await;
    assert_error(changed, Code::FailedPrecondition, "IDEMPOTENCY_KEY_REUSED");
}
