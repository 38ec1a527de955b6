//! Tail calls (P6, C8): a turn hands its invocation on, in one step with everything that it did; the caller gets the
//! outcome of the last step, and a chain of any length is one entry.

use std::sync::Arc;
use std::time::Duration;

use kar_proto::v1::{
    AwaitRequest, GetAllRequest, InvocationMode, StartRequest, Target, TellRequest, await_response,
    turn_outcome,
};
use kar_tests::component::{
    Component, Ending, Incoming, Turn, actor, error, hello, service, tail_call,
};
use kar_tests::errors::reason;
use kar_tests::grpc::{json as bytes, value};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, World, test, wait};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

type Answer = Result<Result<Value, kar_proto::v1::ApplicationError>, tonic::Status>;

/// Calls an actor in the background.
fn call(client: &Client, kind: &'static str, method: &'static str) -> JoinHandle<Answer> {
    let client = client.clone();
    tokio::spawn(async move { client.call((kind, "x"), method, &json!(null)).await })
}

async fn answer(call: JoinHandle<Answer>) -> Result<Value, kar_proto::v1::ApplicationError> {
    call.await.expect("no panic").expect("answered")
}

/// Registers a component; where another one has just died, as soon as the sidecar knows.
async fn connect(client: &Client, services: &[&str], actors: &[&str]) -> Component {
    wait::until("the sidecar to welcome a host", READY_LIMIT, async || {
        match Component::connect(client, hello(services, actors)).await {
            Ok(component) => Some(component),
            Err(status) if reason(&status) == "ALREADY_HOSTING" => None,
            Err(status) => panic!("{status:?}"),
        }
    })
    .await
}

/// As `kar get invocations` lists them: target, state, mode.
async fn invocations(world: &World) -> Vec<(String, String, String)> {
    let listed = world.kar_here("get invocations", &["-o", "json"]).await;
    assert_eq!(listed.code, 0, "{listed:?}");
    let all: Vec<Value> = serde_json::from_str(&listed.stdout).expect("JSON");
    let text = |info: &Value, key: &str| info[key].as_str().unwrap_or_default().to_owned();
    let mut all: Vec<_> = all
        .iter()
        .map(|info| (text(info, "target"), text(info, "state"), text(info, "mode")))
        .collect();
    all.sort();
    all
}

fn entry(target: &str, state: &str, mode: &str) -> (String, String, String) {
    (target.into(), state.into(), mode.into())
}

async fn nothing_is_left(world: &World) {
    wait::until_true("every invocation to be over", READY_LIMIT, async || {
        invocations(world).await.is_empty()
    })
    .await;
}

async fn state_of(client: &Client, kind: &str, key: &str) -> Value {
    let Some(kar_proto::v1::target::Kind::Actor(actor)) = actor(kind, "x").kind else {
        unreachable!("it is an actor")
    };
    let request = GetAllRequest { actor: Some(actor), turn_token: String::new() };
    let all = client.actor_state().get_all(request).await.expect("read").into_inner();
    all.entries.get(key).map_or(Value::Null, value)
}

#[test]
fn a_chain_goes_through_actors_and_a_service_of_two_sidecars() {
    test(async {
        let world = World::new("chain");
        let (a, b, front) =
            (world.bare("a").await, world.bare("b").await, world.bare("front").await);
        let mut first = connect(&a.client().await, &["s"], &["A"]).await;
        let mut other = connect(&b.client().await, &[], &["B"]).await;
        let called = call(&front.client().await, "A", "one");
        let turn = first.next_turn().await;
        assert_eq!((turn.target(), turn.frame.step), (("A", "x"), 1));
        let trace = turn.frame.trace_parent.clone();
        turn.tail(tail_call(actor("B", "y"), "two", &json!("from A"))).await;
        let turn = other.next_turn().await;
        assert_eq!((turn.target(), turn.frame.step), (("B", "y"), 2));
        assert_eq!((turn.method(), turn.argument()), ("two", json!("from A")));
        turn.tail(tail_call(service("s"), "three", &json!("from B"))).await;
        let turn = first.next_turn().await;
        assert_eq!((turn.target(), turn.frame.step), (("s", ""), 3));
        assert_eq!((turn.method(), turn.argument()), ("three", json!("from B")));
        assert_eq!(turn.frame.mode(), InvocationMode::Call);
        assert_eq!((turn.frame.attempt, turn.frame.trace_parent.clone()), (1, trace));
        assert!(!called.is_finished(), "it waits for the last step");
        assert_eq!(
            invocations(&world).await,
            [entry("A/x", "moved", "call"), entry("s", "running", "call")]
        );
        turn.finish(&json!("last")).await;
        assert_eq!(answer(called).await, Ok(json!("last")));
        nothing_is_left(&world).await;

        // An error of the last step is the call's.
        let called = call(&front.client().await, "A", "one");
        first.next_turn().await.tail(tail_call(actor("B", "y"), "two", &json!(null))).await;
        let turn = other.next_turn().await;
        let result = turn_outcome::Result::Error(error("No", "said the last"));
        other.handle().finish(&turn.token, result).await;
        assert_eq!(answer(called).await.expect_err("failed").code, "No");
        nothing_is_left(&world).await;
    });
}

#[test]
fn thousands_of_steps_leave_one_entry() {
    /// Steps of the chain.
    const STEPS: u64 = 2_000;
    /// After so many the chain is looked at, and at its end.
    const LOOK: u64 = 1_000;
    test(async {
        let world = World::new("long");
        let (a, b, front) =
            (world.bare("a").await, world.bare("b").await, world.bare("front").await);
        let (looks, mut looked) = mpsc::channel(1);
        let go_on = Arc::new(Semaphore::new(0));
        let step = {
            let go_on = go_on.clone();
            move |turn: Turn| step(turn, looks.clone(), go_on.clone())
        };
        for (node, kind) in [(&a, "Ping"), (&b, "Pong")] {
            let component = connect(&node.client().await, &[], &[kind]).await;
            tokio::spawn(component.serve(step.clone()));
        }
        let client = front.client().await;
        let called = tokio::spawn(async move {
            client.call(("Ping", "x"), "step", &json!({ "left": STEPS, "look": LOOK })).await
        });
        for _ in 0..STEPS / LOOK {
            let (target, step) = looked.recv().await.expect("the chain goes on");
            let home = entry("Ping/x", "moved", "call");
            let runs = entry(&format!("{target}/x"), "running", "call");
            let expected = if target == "Ping" { vec![runs] } else { vec![home, runs] };
            assert_eq!(invocations(&world).await, expected, "at step {step}");
            assert_eq!(step % LOOK, 0);
            go_on.add_permits(1);
        }
        assert_eq!(answer(called).await, Ok(json!(STEPS)));
        nothing_is_left(&world).await;
    });

    /// A step of a chain that goes to and fro between two actors, and stops now and then to be looked at.
    async fn step(turn: Turn, looks: mpsc::Sender<(String, u64)>, go_on: Arc<Semaphore>) -> Ending {
        let argument = turn.argument();
        let left = argument["left"].as_u64().expect("a number");
        let step = u64::try_from(turn.frame.step).expect("positive");
        if step.is_multiple_of(argument["look"].as_u64().expect("a number")) {
            let kind = turn.target().0.to_owned();
            looks.send((kind, step)).await.expect("the test listens");
            go_on.acquire().await.expect("the test lives").forget();
        }
        if left == 1 {
            return Ok(bytes(&json!(step))).into();
        }
        let to = if turn.target().0 == "Ping" { "Pong" } else { "Ping" };
        let next = json!({ "left": left - 1, "look": argument["look"] });
        tail_call(actor(to, "x"), "step", &next).into()
    }
}

#[test]
fn a_tail_call_can_keep_the_actor_locked() {
    test(async {
        let world = World::new("lock");
        let node = world.bare("a").await;
        let client = node.client().await;
        let mut host = connect(&client, &[], &["A"]).await;
        for keep_lock in [true, false] {
            let called = call(&client, "A", "first");
            let first = host.next_turn().await;
            let other = call(&client, "A", "other");
            wait::until_true("the other call to queue", READY_LIMIT, async || {
                invocations(&world).await.contains(&entry("A/x", "queued", "call"))
            })
            .await;
            let next = tail_call(actor("A", "x"), "second", &json!(null));
            first.tail(kar_proto::v1::TailCall { keep_lock, ..next }).await;
            let expected = if keep_lock { ["second", "other"] } else { ["other", "second"] };
            for method in expected {
                let turn = host.next_turn().await;
                assert_eq!(turn.method(), method, "keep_lock: {keep_lock}");
                let others = invocations(&world).await;
                let waits = others.iter().filter(|e| e.1 == "queued").count();
                assert_eq!(waits, usize::from(method == expected[0]), "{others:?}");
                turn.finish(&json!(method)).await;
            }
            assert_eq!(answer(called).await, Ok(json!("second")));
            assert_eq!(answer(other).await, Ok(json!("other")));
        }
        nothing_is_left(&world).await;
    });
}

#[test]
fn a_tail_call_that_cannot_be_made_fails_its_invocation() {
    test(async {
        let world = World::new("invalid");
        let node = world.bare("a").await;
        let client = node.client().await;
        let mut host = connect(&client, &["s"], &["A"]).await;
        let keeping = |to: Target| {
            let next = tail_call(to, "next", &json!(null));
            kar_proto::v1::TailCall { keep_lock: true, ..next }
        };
        let nobody = Target { kind: None };
        let wrong = [
            (keeping(actor("A", "other")), "the same actor"),
            (keeping(service("s")), "the same actor"),
            (tail_call(actor("A", ""), "next", &json!(null)), "target.actor.id"),
            (tail_call(service("no name"), "next", &json!(null)), "target.service.name"),
            (tail_call(nobody, "next", &json!(null)), "target"),
            (tail_call(service("s"), "", &json!(null)), "method"),
        ];
        for (call_on, says) in wrong {
            let called = call(&client, "A", "first");
            let turn = host.next_turn().await;
            turn.set(&[("k", json!("dropped"))]).await.expect("buffered");
            turn.tell(actor("A", "told"), "dropped", &json!(null)).await.expect("buffered");
            turn.tail(call_on).await;
            let failed = answer(called).await.expect_err("it cannot go on");
            assert_eq!(failed.code, "kar.INVALID_TAIL_CALL", "{failed:?}");
            assert!(failed.message.contains(says), "{failed:?}");
            // An application error: the segment is dropped, and the stream goes on.
            assert_eq!(state_of(&client, "A", "k").await, Value::Null);
        }
        // A service has no lock to keep.
        let invoked = tokio::spawn({
            let client = client.clone();
            async move { client.invoke("s", "first", &json!(null)).await }
        });
        host.next_turn().await.tail(keeping(service("s"))).await;
        let failed = answer(invoked).await.expect_err("it cannot go on");
        assert_eq!(failed.code, "kar.INVALID_TAIL_CALL", "{failed:?}");
        nothing_is_left(&world).await;
    });
}

#[test]
fn a_chain_begun_by_a_tell_needs_no_home() {
    test(async {
        let world = World::new("told");
        let (a, b) = (world.bare("a").await, world.bare("b").await);
        let client = a.client().await;
        let mut first = connect(&client, &[], &["A"]).await;
        let mut other = connect(&b.client().await, &[], &["B"]).await;
        let request = TellRequest {
            target: Some(actor("A", "x")),
            method: "one".into(),
            payload: Some(bytes(&json!("told"))),
            ..Default::default()
        };
        client.invocation().tell(request).await.expect("accepted");
        let turn = first.next_turn().await;
        turn.set(&[("done", json!(1))]).await.expect("buffered");
        turn.tail(tail_call(actor("B", "x"), "two", &json!(2))).await;
        let turn = other.next_turn().await;
        assert_eq!((turn.frame.mode(), turn.frame.step), (InvocationMode::Tell, 2));
        assert_eq!(invocations(&world).await, [entry("B/x", "running", "tell")]);
        turn.set(&[("done", json!(2))]).await.expect("buffered");
        turn.finish(&json!(null)).await;
        nothing_is_left(&world).await;
        assert_eq!(state_of(&client, "A", "done").await, json!(1));
        assert_eq!(state_of(&client, "B", "done").await, json!(2));
    });
}

#[test]
fn the_outcome_of_a_started_chain_is_kept() {
    test(async {
        let world = World::new("started");
        let (a, b) = (world.bare("a").await, world.bare("b").await);
        let client = a.client().await;
        let mut first = connect(&client, &[], &["A"]).await;
        let mut other = connect(&b.client().await, &["s"], &[]).await;
        let request = StartRequest {
            target: Some(actor("A", "x")),
            method: "one".into(),
            payload: Some(bytes(&json!(1))),
            options: None,
        };
        let started = client.invocation().start(request).await.expect("accepted").into_inner();
        let fetch = |client: &Client| {
            let (mut client, id) = (client.invocation(), started.invocation_id.clone());
            tokio::spawn(async move {
                let request = AwaitRequest { invocation_id: id };
                let answer = client.r#await(request).await.expect("answered").into_inner();
                match answer.result {
                    Some(await_response::Result::Payload(payload)) => value(&payload),
                    other => panic!("{other:?}"),
                }
            })
        };
        first.next_turn().await.tail(tail_call(service("s"), "two", &json!(2))).await;
        let turn = other.next_turn().await;
        // Whoever asks while the chain is elsewhere waits for its last step.
        let waits = fetch(&client);
        turn.finish(&json!("end")).await;
        assert_eq!(waits.await.expect("no panic"), json!("end"));
        // Again, by somebody else: it is kept.
        let late = world.bare("late").await;
        assert_eq!(fetch(&late.client().await).await.expect("no panic"), json!("end"));
        nothing_is_left(&world).await;
    });
}

#[test]
fn a_segment_and_its_tail_call_take_effect_together_or_not_at_all() {
    test(async {
        let world = World::new("segment");
        let (a, b) = (world.bare("a").await, world.bare("b").await);
        let client = b.client().await;
        let mut told = connect(&client, &[], &["Told"]).await;
        let called = call(&client, "A", "first");
        // The first attempt gets as far as it can without ending.
        let mut host = connect(&a.client().await, &["s"], &["A"]).await;
        let turn = host.next_turn().await;
        turn.set(&[("by", json!(1))]).await.expect("buffered");
        turn.tell(actor("Told", "x"), "by", &json!(1)).await.expect("buffered");
        drop((host, turn));
        let mut host = connect(&a.client().await, &["s"], &["A"]).await;
        let turn = host.next_turn().await;
        assert_eq!((turn.method(), turn.frame.attempt, turn.frame.step), ("first", 2, 1));
        assert_eq!(turn.get("by").await.expect("read"), Value::Null);
        turn.set(&[("by", json!(2))]).await.expect("buffered");
        turn.tell(actor("Told", "x"), "by", &json!(2)).await.expect("buffered");
        turn.tail(tail_call(service("s"), "second", &json!(null))).await;
        let turn = host.next_turn().await;
        assert_eq!((turn.method(), turn.frame.step), ("second", 2));
        assert_eq!(state_of(&client, "A", "by").await, json!(2));
        let tell = told.next_turn().await;
        assert_eq!(tell.argument(), json!(2), "the first attempt told nobody");
        tell.finish(&json!(null)).await;
        // The next step is retried by itself: what was before it stays as it is.
        drop((host, turn));
        let mut host = connect(&a.client().await, &["s"], &["A"]).await;
        let turn = host.next_turn().await;
        assert_eq!((turn.method(), turn.frame.attempt, turn.frame.step), ("second", 2, 2));
        turn.finish(&json!("end")).await;
        assert_eq!(answer(called).await, Ok(json!("end")));
        nothing_is_left(&world).await;
        let more = tokio::time::timeout(Duration::ZERO, told.next()).await;
        assert!(!matches!(more, Ok(Incoming::Invocation(_))), "told twice");
    });
}
