//! Nested calls, re-entrancy, and the turn token.

use std::time::Duration;

use kar_proto::v1::{ListActorsRequest, turn_outcome};
use kar_tests::component::{Component, Incoming, Turn, hello};
use kar_tests::errors::assert_error;
use kar_tests::{Client, World, test, wait};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::Code;

type Answer = Result<Result<Value, kar_proto::v1::ApplicationError>, tonic::Status>;

fn call(
    client: &Client,
    kind: &'static str,
    id: &'static str,
    method: &'static str,
) -> JoinHandle<Answer> {
    let client = client.clone();
    tokio::spawn(async move { client.call((kind, id), method, &json!(null)).await })
}

/// Waits until something is queued at an actor of this type.
async fn queued(client: &Client, kind: &str) {
    wait::until_true("the other call to be queued", Duration::from_secs(20), async || {
        let listed = client.system().list_actors(ListActorsRequest::default()).await;
        let actors = listed.expect("answered").into_inner().actors;
        actors.iter().any(|a| a.actor.as_ref().is_some_and(|t| t.r#type == kind) && a.queued > 0)
    })
    .await;
}

async fn returns(call: JoinHandle<Answer>, value: &str) {
    assert_eq!(call.await.expect("no panic").expect("answered"), Ok(json!(value)));
}

/// The flow has come back to the actor that it holds: the inner turn runs, and whoever called it has its answer.
async fn inner_turn(host: &mut Component, called: JoinHandle<Answer>) {
    let inner = host.next_turn().await;
    assert_eq!(inner.method(), "inner");
    assert_eq!(inner.get("x").await.expect("read"), json!(1), "it sees what was flushed");
    inner.set(&[("x", json!(2))]).await.expect("buffered");
    inner.finish(&json!("in")).await;
    returns(called, "in").await;
}

/// The outer turn ends, and only then the other call, which had been queued before the inner one, is let in.
async fn outer_ends(
    host: &mut Component,
    (outer, outer_call): (Turn, JoinHandle<Answer>),
    other_call: JoinHandle<Answer>,
) {
    assert_eq!(outer.get("x").await.expect("read"), json!(2), "it sees the inner turn's write");
    outer.finish(&json!("out")).await;
    returns(outer_call, "out").await;
    let other = host.next_turn().await;
    assert_eq!(other.method(), "other");
    assert_eq!(other.get("x").await.expect("read"), json!(2));
    other.finish(&json!("late")).await;
    returns(other_call, "late").await;
}

#[test]
fn nested_calls_go_through_components_and_come_back() {
    test(async {
        let world = World::new("bank");
        let (accounts, tellers) =
            (world.app("accounts", &["accounts"]).await, world.app("tellers", &["teller"]).await);
        accounts.hosts("Account").await;
        tellers.hosts("Teller").await;
        let client = world.bare("front").await;
        let client = client.client().await;
        for account in ["alice", "bob"] {
            let opened = client.call(("Account", account), "open", &json!({"amount": 100})).await;
            assert_eq!(opened.expect("answered"), Ok(json!(100)));
        }
        let order = json!({"transfer": "t1", "from": "alice", "to": "bob", "amount": 30});
        let done = client.call(("Teller", "t1"), "transfer", &order).await.expect("answered");
        assert_eq!(done, Ok(json!("t1")));
        for (account, balance) in [("alice", 70), ("bob", 130)] {
            let found = client.call(("Account", account), "balance", &json!(null)).await;
            assert_eq!(found.expect("answered"), Ok(json!(balance)));
        }
        // An error of the inner method reaches the outer one, and from there the caller.
        let order = json!({"transfer": "t2", "from": "alice", "to": "bob", "amount": 71});
        let refused = client.invoke("teller", "transfer", &order).await.expect("answered");
        assert_eq!(refused.expect_err("not covered").code, "NotCovered");
    });
}

#[test]
fn a_turn_that_uses_the_only_credit_may_call_its_own_component() {
    // The nested turn needs no credit; another root does, and waits.
    test(async {
        let world = World::new("credit");
        let node = world.bare("host").await;
        let client = node.client().await;
        let hello = kar_proto::v1::Hello { invocation_credits: 1, ..hello(&[], &["A"]) };
        let mut host = Component::connect(&client, hello).await.expect("ok");
        let outer_call = call(&client, "A", "1", "outer");
        let outer = host.next_turn().await;
        let other_call = call(&client, "A", "2", "other");
        let nested = tokio::spawn({
            let outer = outer.clone();
            async move { outer.call(("A", "3"), "inner", &json!(null)).await }
        });
        let inner = host.next_turn().await;
        assert_eq!(inner.method(), "inner");
        inner.finish(&json!("in")).await;
        assert_eq!(nested.await.expect("no panic").expect("answered"), Ok(json!("in")));
        outer.finish(&json!("out")).await;
        let other = host.next_turn().await;
        assert_eq!(other.method(), "other");
        other.finish(&json!("late")).await;
        for (call, expected) in [(outer_call, "out"), (other_call, "late")] {
            assert_eq!(call.await.expect("no panic").expect("answered"), Ok(json!(expected)));
        }
    });
}

#[test]
fn a_call_chain_may_come_back_to_an_actor_that_it_holds() {
    // P4: a call of the flow that holds the actor is let in; others wait.
    test(async {
        let world = World::new("reentrant");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A", "B"])).await.expect("ok");
        let outer_call = call(&client, "A", "1", "outer");
        let outer = host.next_turn().await;
        outer.set(&[("x", json!(1))]).await.expect("buffered");
        let to_b = tokio::spawn({
            let outer = outer.clone();
            async move { outer.call(("B", "1"), "middle", &json!(null)).await }
        });
        let middle = host.next_turn().await;
        assert_eq!(middle.method(), "middle");
        // Somebody else's call to A is queued before the flow comes back to it, and must not pass.
        let other_call = call(&client, "A", "1", "other");
        queued(&client, "A").await;
        let back_to_a = tokio::spawn({
            let middle = middle.clone();
            async move { middle.call(("A", "1"), "inner", &json!(null)).await }
        });
        inner_turn(&mut host, back_to_a).await;
        middle.finish(&json!("mid")).await;
        assert_eq!(to_b.await.expect("no panic").expect("answered"), Ok(json!("mid")));
        outer_ends(&mut host, (outer, outer_call), other_call).await;
    });
}

#[test]
fn an_actor_may_call_itself() {
    // P4: the shortest chain that comes back. Somebody else waits meanwhile.
    test(async {
        let world = World::new("itself");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("ok");
        let outer_call = call(&client, "A", "1", "outer");
        let outer = host.next_turn().await;
        outer.set(&[("x", json!(1))]).await.expect("buffered");
        let other_call = call(&client, "A", "1", "other");
        queued(&client, "A").await;
        let nested = tokio::spawn({
            let outer = outer.clone();
            async move { outer.call(("A", "1"), "inner", &json!(null)).await }
        });
        inner_turn(&mut host, nested).await;
        outer_ends(&mut host, (outer, outer_call), other_call).await;
    });
}

#[test]
fn a_call_chain_may_come_back_to_its_actor_through_a_service_on_another_node() {
    test(async {
        let world = World::new("through");
        let (node, far) = (world.bare("host").await, world.bare("far").await);
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("ok");
        let greeting = hello(&["s"], &[]);
        let mut services = Component::connect(&far.client().await, greeting).await.expect("ok");
        let outer_call = call(&client, "A", "1", "outer");
        let outer = host.next_turn().await;
        outer.set(&[("x", json!(1))]).await.expect("buffered");
        let to_service = tokio::spawn({
            let outer = outer.clone();
            async move { outer.invoke("s", "middle", &json!(null)).await }
        });
        let middle = services.next_turn().await;
        assert_eq!(middle.method(), "middle");
        let other_call = call(&client, "A", "1", "other");
        queued(&client, "A").await;
        let back_to_a = tokio::spawn({
            let middle = middle.clone();
            async move { middle.call(("A", "1"), "inner", &json!(null)).await }
        });
        inner_turn(&mut host, back_to_a).await;
        middle.finish(&json!("mid")).await;
        assert_eq!(to_service.await.expect("no panic").expect("answered"), Ok(json!("mid")));
        outer_ends(&mut host, (outer, outer_call), other_call).await;
    });
}

#[test]
fn a_turn_that_returned_can_ask_for_nothing_more() {
    test(async {
        let world = World::new("ended");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let first = call(&client, "A", "1", "m");
        let turn = host.next_turn().await;
        let old = turn.clone();
        turn.finish(&json!(null)).await;
        first.await.expect("no panic").expect("answered").expect("no error");
        let result = old.set(&[("x", json!(1))]).await;
        let status = result.expect_err("the turn has ended");
        let reason = kar_tests::errors::reason(&status);
        let expected = [
            (Code::FailedPrecondition, "TURN_ENDED".to_owned()),
            (Code::Aborted, "TURN_SUPERSEDED".to_owned()),
        ];
        assert!(expected.contains(&(status.code(), reason)), "{status:?}");
        // And nothing of it took effect.
        let second = call(&client, "A", "1", "n");
        let turn = host.next_turn().await;
        assert_eq!(turn.get("x").await.expect("read"), Value::Null);
        turn.finish(&json!(null)).await;
        second.await.expect("no panic").expect("answered").expect("no error");
    });
}

#[test]
fn the_token_of_an_earlier_attempt_is_refused_and_its_result_ends_the_stream() {
    // P3: only the current attempt can make anything durable or visible.
    test(async {
        let world = World::new("stale");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let asked = call(&client, "A", "1", "m");
        let first = host.next_turn().await;
        assert_eq!(first.frame.attempt, 1);
        let token = first.token.clone();
        drop((first, host));
        // The old stream may not have been noticed to be gone yet: one host stream at a time.
        let client = node.client().await;
        let again = async || {
            wait::until("the old stream to be gone", Duration::from_secs(20), async || {
                Component::connect(&client, hello(&[], &["A"])).await.ok()
            })
            .await
        };
        let mut host = again().await;
        let second = host.next_turn().await;
        assert_eq!((second.method(), second.frame.attempt), ("m", 2));
        let mut stale = second.clone();
        stale.token = token.clone();
        let refused = stale.set(&[("x", json!("stale"))]).await;
        assert_error(refused, Code::Aborted, "TURN_SUPERSEDED");
        assert_error(stale.get("x").await, Code::Aborted, "TURN_SUPERSEDED");
        let nested = stale.call(("A", "2"), "m", &json!(null)).await;
        assert_error(nested, Code::Aborted, "TURN_SUPERSEDED");
        let wrong = kar_tests::grpc::json(&json!("stale"));
        host.handle().finish(&token, turn_outcome::Result::Payload(wrong)).await;
        let Incoming::Ended(Some(status)) = host.next().await else { panic!("it is let go on") };
        assert_error::<()>(Err(status), Code::InvalidArgument, "PROTOCOL_VIOLATION");
        let mut host = again().await;
        let third = host.next_turn().await;
        assert_eq!((third.method(), third.frame.attempt), ("m", 3));
        third.finish(&json!("current")).await;
        assert_eq!(asked.await.expect("no panic").expect("answered"), Ok(json!("current")));
    });
}

#[test]
fn a_token_that_never_was_is_refused() {
    test(async {
        let world = World::new("nonsense");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let asked = call(&client, "A", "1", "m");
        let turn = host.next_turn().await;
        for token in ["nonsense", "x", &"t".repeat(10_000)] {
            let mut wrong = turn.clone();
            wrong.token = token.to_owned();
            let status = wrong.flush().await.expect_err("no such turn");
            let reason = kar_tests::errors::reason(&status);
            assert!(["INVALID_FIELD", "TURN_SUPERSEDED"].contains(&reason.as_str()), "{status:?}");
        }
        turn.finish(&json!(1)).await;
        assert_eq!(asked.await.expect("no panic").expect("answered"), Ok(json!(1)));
    });
}

#[test]
fn a_chain_that_is_too_deep_is_refused_with_the_limits_name() {
    test(async {
        let world = World::new("deep");
        let node = world.bare("host").await;
        let client = node.client().await;
        let host = Component::connect(&client, hello(&["s"], &[])).await.expect("welcome");
        tokio::spawn(host.serve(|turn| async move {
            match turn.invoke("s", "down", &json!(null)).await {
                Ok(Ok(below)) => Ok(kar_tests::grpc::json(&json!(below.as_i64().unwrap_or(0) + 1))),
                Ok(Err(error)) => Err(error),
                Err(status) => {
                    let limit = kar_tests::errors::metadata(&status, "limit");
                    Err(kar_tests::component::error(&limit, status.message()))
                }
            }
        }));
        let answer = client.invoke("s", "down", &json!(null)).await.expect("answered");
        let error = answer.expect_err("64 deep is enough");
        assert!(error.code.contains("depth"), "{error:?}");
    });
}

#[test]
fn a_host_that_says_goodbye_is_given_nothing_more_and_loses_nothing() {
    test(async {
        let world = World::new("goodbye");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&["s"], &[])).await.expect("welcome");
        let running = tokio::spawn({
            let client = client.clone();
            async move { client.invoke("s", "running", &json!(null)).await }
        });
        let turn = host.next_turn().await;
        let goodbye = kar_proto::v1::Goodbye {};
        host.handle().send(kar_proto::v1::component_frame::Frame::Goodbye(goodbye)).await;
        turn.finish(&json!("finished")).await;
        assert_eq!(running.await.expect("no panic").expect("answered"), Ok(json!("finished")));
        assert!(matches!(host.next().await, Incoming::Drained));
        // A call that comes now waits for the next host.
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.invoke("s", "later", &json!(null)).await }
        });
        drop(host);
        let mut host = wait::until("to host again", Duration::from_secs(20), async || {
            Component::connect(&client, hello(&["s"], &[])).await.ok()
        })
        .await;
        let turn = host.next_turn().await;
        assert_eq!(turn.method(), "later");
        turn.finish(&json!(2)).await;
        assert_eq!(waiting.await.expect("no panic").expect("answered"), Ok(json!(2)));
    });
}
