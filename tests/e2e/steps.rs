//! Durable steps: what a turn recorded, and what its keyed calls returned, is there for the next attempt, whoever died.

use kar_proto::v1 as pb;
use kar_proto::v1::request::Operation;
use kar_proto::v1::response::Result as Answer;
use kar_tests::component::{Component, Turn, hello};
use kar_tests::errors::assert_error;
use kar_tests::grpc::{json, value};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, World, test, wait};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

type Outcome = Result<Result<Value, pb::ApplicationError>, Status>;

/// A call of an actor that goes on while the test does.
fn call(client: &Client, kind: &'static str, method: &'static str) -> JoinHandle<Outcome> {
    let client = client.clone();
    tokio::spawn(async move { client.call((kind, "1"), method, &json!(null)).await })
}

fn step(turn: &Turn, key: &str, content: &Value) -> pb::RecordStepRequest {
    let turn_token = turn.token.clone();
    pb::RecordStepRequest { turn_token, key: key.into(), payload: Some(json(content)) }
}

/// Records a step on the turn's stream.
async fn record(turn: &Turn, key: &str, content: &Value) -> Result<Value, Status> {
    let request = Operation::RecordStep(step(turn, key, content));
    match turn.handle.request(request).await? {
        Answer::RecordStep(answer) => Ok(value(&answer.payload.unwrap_or_default())),
        other => panic!("wrong answer: {other:?}"),
    }
}

/// A keyed call of `Callee/1`.
async fn keyed(turn: Turn, key: &'static str, method: &'static str) -> Result<Value, Status> {
    let request = pb::CallActorRequest {
        actor: Some(pb::ActorTarget { r#type: "Callee".into(), id: "1".into() }),
        method: method.into(),
        turn_token: turn.token.clone(),
        step_key: key.into(),
        ..Default::default()
    };
    match turn.handle.request(Operation::CallActor(request)).await? {
        Answer::CallActor(answer) => match answer.result {
            Some(pb::call_actor_response::Result::Payload(payload)) => Ok(value(&payload)),
            other => panic!("no payload: {other:?}"),
        },
        other => panic!("wrong answer: {other:?}"),
    }
}

fn recorded(turn: &Turn, key: &str) -> Option<Value> {
    turn.frame.recorded_steps.get(key).map(value)
}

#[test]
fn a_retry_has_the_steps_that_were_recorded_when_its_host_died() {
    test(async {
        let world = World::new("once");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let called = call(&client, "A", "m");
        let turn = host.next_turn().await;
        assert!(turn.frame.recorded_steps.is_empty());
        assert_eq!(record(&turn, "stream", &json!(1)).await.expect("recorded"), json!(1));
        // The first value stays, by whichever way it is asked for.
        let again = client.invocation().record_step(step(&turn, "stream", &json!(2))).await;
        let again = again.expect("answered").into_inner().payload.expect("a value");
        assert_eq!(value(&again), json!(1));
        client.invocation().record_step(step(&turn, "unary", &json!("x"))).await.expect("recorded");
        // A turn that is held holds its stream.
        let late = step(&turn, "late", &json!(3));
        drop((turn, host));
        let mut host = wait::until("to host again", READY_LIMIT, async || {
            Component::connect(&client, hello(&[], &["A"])).await.ok()
        })
        .await;
        let retry = host.next_turn().await;
        assert!(retry.frame.attempt > 1);
        assert_eq!(recorded(&retry, "stream"), Some(json!(1)));
        assert_eq!(recorded(&retry, "unary"), Some(json!("x")));
        let stale = client.invocation().record_step(late).await;
        assert_error(stale, Code::Aborted, "TURN_SUPERSEDED");
        retry.finish(&json!("done")).await;
        assert_eq!(called.await.expect("no panic").expect("answered"), Ok(json!("done")));
    });
}

#[test]
fn another_owner_has_the_steps_and_the_results_of_keyed_calls() {
    test(async {
        let world = World::new("keyed");
        let front = world.bare("front").await;
        let front = front.client().await;
        let (first, second) = (world.bare("first").await, world.bare("second").await);
        let callee = world.bare("callee").await;
        let mut callee =
            Component::connect(&callee.client().await, hello(&[], &["Callee"])).await.expect("ok");
        let mut host =
            Component::connect(&first.client().await, hello(&[], &["A"])).await.expect("welcome");
        let called = call(&front, "A", "m");
        let turn = host.next_turn().await;
        record(&turn, "value", &json!(7)).await.expect("recorded");
        let paid = tokio::spawn(keyed(turn.clone(), "pay", "pay"));
        callee.next_turn().await.finish(&json!("receipt")).await;
        assert_eq!(paid.await.expect("no panic").expect("answered"), json!("receipt"));
        let open = tokio::spawn(keyed(turn, "ship", "ship"));
        let shipping = callee.next_turn().await;
        first.kill_sidecar();
        let mut host =
            Component::connect(&second.client().await, hello(&[], &["A"])).await.expect("welcome");
        assert!(open.await.expect("no panic").is_err(), "its sidecar is gone");
        // The retry waits for the call that is under way.
        shipping.finish(&json!("parcel")).await;
        let retry = host.next_turn().await;
        assert!(retry.frame.attempt > 1);
        assert_eq!(recorded(&retry, "value"), Some(json!(7)));
        for (key, result) in [("pay", "receipt"), ("ship", "parcel")] {
            let again = keyed(retry.clone(), key, key).await;
            assert_eq!(again.expect("answered"), json!(result), "it is not called again");
        }
        let fresh = tokio::spawn(keyed(retry.clone(), "other", "other"));
        let turn = callee.next_turn().await;
        assert_eq!(turn.method(), "other", "nothing ran twice");
        turn.finish(&json!(null)).await;
        fresh.await.expect("no panic").expect("answered");
        retry.finish(&json!("done")).await;
        assert_eq!(called.await.expect("no panic").expect("answered"), Ok(json!("done")));
    });
}

#[test]
fn keys_and_bounds_of_steps_are_typed_errors() {
    test(async {
        let world = World::new("keys");
        world.add_run_args(&["--steps-per-invocation-max", "2"]);
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A", "Callee"])).await.expect("ok");
        let called = call(&client, "A", "m");
        let turn = host.next_turn().await;
        record(&turn, "k", &json!(1)).await.expect("recorded");
        let reused = keyed(turn.clone(), "k", "pay").await;
        assert_error(reused, Code::FailedPrecondition, "STEP_KEY_REUSED");
        record(&turn, "l", &json!(1)).await.expect("recorded");
        let third = record(&turn, "m", &json!(1)).await;
        assert_error(third, Code::ResourceExhausted, "LIMIT_REACHED");
        let missing = record(&turn, "", &json!(1)).await;
        assert_error(missing, Code::InvalidArgument, "INVALID_FIELD");
        let outside = pb::CallActorRequest {
            actor: Some(pb::ActorTarget { r#type: "Callee".into(), id: "1".into() }),
            method: "m".into(),
            step_key: "k".into(),
            ..Default::default()
        };
        let outside = client.invocation().call_actor(outside).await;
        assert_error(outside, Code::InvalidArgument, "INVALID_FIELD");
        turn.finish(&json!(null)).await;
        called.await.expect("no panic").expect("answered").expect("no error");
    });
}
