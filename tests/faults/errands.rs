//! Durable steps, keyed calls, errors with a retry policy, cancelling and parking under random kills: a step that was
//! recorded is not done again, what was cancelled never starts again, what was parked waits for a person.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kar_proto::v1::{
    ActorTarget, ApplicationError, AwaitRequest, CancelRequest, CancelResult, GetAllRequest,
    InvocationInfo, InvocationOptions, InvocationState, ListInvocationsRequest, ResumeRequest,
    RetryPolicy, StartRequest, TellRequest, await_response,
};
use kar_tests::component::actor;
use kar_tests::errors::reason;
use kar_tests::fire::{Fire, Load, PROGRESS_LIMIT, nothing_left};
use kar_tests::grpc::{json as bytes, value};
use kar_tests::toll::now;
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Random, World, test_within, wait};
use serde_json::{Value, json};
use tokio::task::LocalSet;
use tonic::Status;

/// Processes that are killed.
const KILLS: u32 = 30;

/// Errands under way at once.
const CLIENTS: u64 = 8;

/// Instances that errands are sent to; they queue there.
const INSTANCES: u64 = 4;

/// How long each step works, ms.
const WORK_MS: u64 = 20;

/// Longest pause before a kill, ms.
const PAUSE_MAX_MS: u64 = 250;

/// Losses of a host before an invocation is parked.
const PARK_AFTER: u64 = 3;

/// A turn that was on its way to the component when its end was asked for may still begin there.
const GRACE: Duration = Duration::from_millis(100);

const LIMIT: Duration = Duration::from_secs(240);

/// What everybody looks at.
struct Errands {
    front: Client,
    load: Load,
    begun: Cell<u64>,
    /// What each step of those that were carried out has recorded, as their answers say.
    done: RefCell<BTreeMap<u64, Value>>,
    /// When the answer came that it had ended so, by the journal's clock.
    cancelled: RefCell<BTreeMap<u64, Duration>>,
}

#[test]
fn steps_errors_cancelling_and_parking_under_random_kills() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("errands");
        let world = World::new("errands");
        world.add_run_args(&["--park-after-attempts", &PARK_AFTER.to_string()]);
        let front = world.bare("front").await;
        let errands = Rc::new(Errands {
            front: front.client().await,
            load: Load::default(),
            begun: Cell::new(0),
            done: RefCell::default(),
            cancelled: RefCell::default(),
        });
        let mut fire = Fire::new(&world, random.fork());
        for (name, role, kind) in [
            ("errands-1", "errands", "Errand"),
            ("errands-2", "errands", "Errand"),
            ("shops-1", "shops", "Shop"),
            ("shops-2", "shops", "Shop"),
        ] {
            fire.host(world.app_options(name, &[role]), kind).await;
        }
        let cure = world.path().join("cure");
        let poison = swallow_poison(&errands.front, cure.to_str().expect("UTF-8")).await;
        let fatal = world.journal().of("poison").len();
        let local = LocalSet::new();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| local.spawn_local(client(errands.clone(), random.fork())))
            .collect();
        let operator = local.spawn_local(operator(errands.clone(), poison.clone()));
        local.run_until(fire.burn(&errands.load, clients, KILLS, PAUSE_MAX_MS)).await;
        operator.abort();
        assert_eq!(world.journal().of("poison").len(), fatal, "what is parked was started");
        std::fs::write(&cure, "").expect("written");
        let request = ResumeRequest { invocation_id: poison };
        errands.front.invocation().resume(request).await.expect("resumed");
        nothing_left(&world).await;
        assert_eq!(state_of(&errands.front, "Poison", "p").await["survived"], json!(1));
        judge(&world, &errands).await;
        println!("{:?}", fire.kills);
        fire.hits().assert("errands");
    });
}

/// Tells somebody to do what kills its host, and waits until that is parked; its id.
async fn swallow_poison(client: &Client, cure: &str) -> String {
    let request = TellRequest {
        target: Some(actor("Poison", "p")),
        method: "swallow".into(),
        payload: Some(bytes(&json!({ "run": "poison", "cure": cure }))),
        ..TellRequest::default()
    };
    let id = client.invocation().tell(request).await.expect("accepted").into_inner().invocation_id;
    wait::until_true("the poison to be parked", READY_LIMIT, async || {
        parked(client).await.iter().any(|info| info.invocation_id == id)
    })
    .await;
    id
}

async fn parked(client: &Client) -> Vec<InvocationInfo> {
    // A node that dies just now cannot be asked.
    let listed = client.invocation().list_invocations(ListInvocationsRequest::default()).await;
    let all = listed.map(|listed| listed.into_inner().invocations).unwrap_or_default();
    all.into_iter().filter(|info| info.state() == InvocationState::Parked).collect()
}

/// Takes up again what was parked because kills hit it by chance.
async fn operator(errands: Rc<Errands>, poison: String) {
    loop {
        for info in parked(&errands.front).await {
            if info.invocation_id != poison {
                let request = ResumeRequest { invocation_id: info.invocation_id };
                // It may have been taken up, or its owner be gone: the next look tells.
                let _again = errands.front.invocation().resume(request).await;
            }
        }
        wait::moment(Duration::from_millis(200)).await;
    }
}

/// Starts errands until all kills are through; asks for the end of some of them.
async fn client(errands: Rc<Errands>, mut random: Random) {
    while !errands.load.over.get() {
        let number = errands.begun.get();
        errands.begun.set(number + 1);
        let id = start(&errands.front, number, random.below(3)).await;
        let mut ended = None;
        if random.below(3) == 0 {
            wait::moment(Duration::from_millis(random.below(200))).await;
            ended = cancel(&errands.front, &id).await;
        }
        match outcome(&errands.front, &id).await {
            Ok(Ok(answer)) => {
                assert_eq!(answer["done"], json!(1), "errand {number}: {answer}");
                assert_ne!(ended, Some(CancelResult::Cancelled), "errand {number} went on");
                errands.done.borrow_mut().insert(number, answer["recorded"].clone());
            }
            // It failed before it noticed that its end was asked for: what would be tried again is its outcome then.
            Ok(Err(error)) => {
                assert_eq!(error.code, "Busy", "errand {number}: {error:?}");
                assert_eq!(ended, Some(CancelResult::Requested), "errand {number}: {error:?}");
                errands.cancelled.borrow_mut().insert(number, now());
            }
            Err(status) => {
                assert_eq!(reason(&status), "CANCELLED", "errand {number}: {status:?}");
                assert!(ended.is_some(), "errand {number}: nobody asked for that");
                errands.cancelled.borrow_mut().insert(number, now());
            }
        }
        errands.load.done();
    }
}

async fn start(client: &Client, number: u64, fails: u64) -> String {
    let millis = |ms| Duration::from_millis(ms).try_into().ok();
    let policy = RetryPolicy {
        // Far more than it ever fails.
        max_attempts: 10,
        initial_backoff: millis(10),
        max_backoff: millis(50),
        multiplier: 2.0,
    };
    let errand = format!("e{number}");
    let argument =
        json!({ "errand": errand, "run": errand, "fails": fails, "milliseconds": WORK_MS });
    let request = StartRequest {
        target: Some(actor("Errand", &format!("i{}", number % INSTANCES))),
        method: "run".into(),
        payload: Some(bytes(&argument)),
        options: Some(InvocationOptions { retry_policy: Some(policy), ..Default::default() }),
    };
    client.invocation().start(request).await.expect("accepted").into_inner().invocation_id
}

/// Asks for an invocation's end until somebody who has it answers.
async fn cancel(client: &Client, id: &str) -> Option<CancelResult> {
    let result = wait::until("an answer to a cancellation", PROGRESS_LIMIT, async || {
        let request = CancelRequest { invocation_id: id.into() };
        Some(client.invocation().cancel(request).await.ok()?.into_inner().result())
    });
    Some(result.await)
}

async fn outcome(client: &Client, id: &str) -> Result<Result<Value, ApplicationError>, Status> {
    let request = AwaitRequest { invocation_id: id.into() };
    match client.invocation().r#await(request).await?.into_inner().result {
        Some(await_response::Result::Payload(payload)) => Ok(Ok(value(&payload))),
        Some(await_response::Result::Error(error)) => Ok(Err(error)),
        None => panic!("{id} has no result"),
    }
}

async fn state_of(client: &Client, kind: &str, id: &str) -> Value {
    let actor = ActorTarget { r#type: kind.into(), id: id.into() };
    let request = GetAllRequest { actor: Some(actor), turn_token: String::new() };
    let all = client.actor_state().get_all(request).await.expect("read").into_inner();
    all.entries.iter().map(|(key, payload)| (key.clone(), value(payload))).collect()
}

/// Looks at what the errands left behind.
async fn judge(world: &World, errands: &Errands) {
    let mut counts = BTreeMap::new();
    for (kind, id) in (0..INSTANCES)
        .map(|n| ("Errand", format!("i{n}")))
        .chain([0, 1].map(|n| ("Shop", format!("s{n}"))))
    {
        for (key, count) in state_of(&errands.front, kind, &id).await.as_object().expect("a map") {
            assert!(counts.insert(key.clone(), count.clone()).is_none(), "{key}: in two actors");
        }
    }
    let attempts = world.journal().attempts();
    world.journal().assert_no_overlap(GRACE);
    let (mut retried, mut never_began) = (0, 0);
    for number in 0..errands.begun.get() {
        let recorded = errands.done.borrow().get(&number).cloned();
        let done = recorded.is_some();
        let (of, one) = (|what: &str| counts.get(&format!("{what}/e{number}")), json!(1));
        assert_eq!(of("done"), done.then_some(&one), "errand {number}");
        let bought = of("bought");
        assert!(bought == Some(&one) || (!done && bought.is_none()), "{number}: {bought:?}");
        for (at, step) in ["ask", "pack"].into_iter().enumerate() {
            let of_step = attempts.get(&format!("e{number}/{step}"));
            let of_step = of_step.map(Vec::as_slice).unwrap_or_default();
            let known = of_step.iter().position(|a| a.ended);
            assert!(known.is_none_or(|known| known + 1 == of_step.len()), "again: {of_step:?}");
            // Also where nobody was told that it is recorded: whoever did it last did it for good.
            let last = of_step.last().map(|a| json!(a.id));
            let kept = recorded.as_ref().map(|recorded| recorded[at].clone());
            assert!(!done || kept == last, "{number}: {step} has {kept:?} of {of_step:?}");
            retried += of_step.len().saturating_sub(1);
        }
        let runs = attempts.get(&format!("e{number}")).map(Vec::as_slice).unwrap_or_default();
        if let Some(told) = errands.cancelled.borrow().get(&number) {
            never_began += usize::from(runs.is_empty());
            assert!(runs.iter().all(|a| a.start <= *told), "{number} started again: {runs:?}");
        }
    }
    let (done, cancelled) = (errands.done.borrow().len(), errands.cancelled.borrow().len());
    println!(
        "{done} done, {cancelled} cancelled ({never_began} before they began), {retried} steps cut off"
    );
    assert!(done > 0 && cancelled > 0 && never_began > 0, "the test shows nothing");
    assert!(retried > 0, "no kill landed in a step");
}
