//! Tells and started invocations: acknowledged when they are durable, then carried to completion.

use std::time::Duration;

use kar_proto::v1::{
    AwaitRequest, InvocationMode, StartRequest, TellRequest, await_response, turn_outcome,
};
use kar_tests::component::{Component, actor, error, hello, service};
use kar_tests::errors::assert_error;
use kar_tests::grpc::{json as bytes, value};
use kar_tests::{Client, World, test, wait};
use serde_json::{Value, json};
use tonic::Code;

async fn start(client: &Client, argument: &Value) -> String {
    let request = StartRequest {
        target: Some(service("s")),
        method: "m".into(),
        payload: Some(bytes(argument)),
        options: None,
    };
    client.invocation().start(request).await.expect("accepted").into_inner().invocation_id
}

#[test]
fn a_tell_is_carried_out_after_the_teller_is_gone() {
    test(async {
        let world = World::new("tell");
        {
            let front = world.bare("front").await;
            let request = TellRequest {
                target: Some(actor("A", "x")),
                method: "m".into(),
                payload: Some(bytes(&json!("told"))),
                ..Default::default()
            };
            let answer = front.client().await.invocation().tell(request).await;
            assert!(!answer.expect("accepted").into_inner().invocation_id.is_empty());
            // Dropped here: killed with SIGKILL.
        }
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let turn = host.next_turn().await;
        assert_eq!((turn.argument(), turn.frame.mode()), (json!("told"), InvocationMode::Tell));
        turn.finish(&json!(null)).await;
    });
}

#[test]
fn an_acknowledged_tell_survives_the_death_of_everything() {
    test(async {
        let world = World::new("survive");
        {
            let front = world.bare("front").await;
            let client = front.client().await;
            for n in 0..20 {
                let request = TellRequest {
                    target: Some(actor("A", &format!("a{n}"))),
                    method: "m".into(),
                    payload: Some(bytes(&json!(n))),
                    ..Default::default()
                };
                client.invocation().tell(request).await.expect("accepted");
            }
            kar_tests::process::kill(world.hub().await);
        }
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 20 {
            let turn = host.next_turn().await;
            assert!(seen.insert(turn.argument().as_i64()), "twice: {:?}", turn.argument());
            turn.finish(&json!(null)).await;
        }
    });
}

#[test]
fn the_result_of_a_started_invocation_is_fetched_by_id() {
    test(async {
        let world = World::new("start");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&["s"], &[])).await.expect("welcome");
        let id = start(&client, &json!(1)).await;
        let waiting = tokio::spawn({
            let (mut client, id) = (client.invocation(), id.clone());
            async move { client.r#await(AwaitRequest { invocation_id: id }).await }
        });
        let turn = host.next_turn().await;
        assert_eq!(turn.frame.mode(), InvocationMode::Start);
        turn.finish(&json!("done")).await;
        let answer = waiting.await.expect("no panic").expect("answered").into_inner();
        let Some(await_response::Result::Payload(payload)) = answer.result else { panic!() };
        assert_eq!(value(&payload), json!("done"));
        // Again, from another sidecar: the result is kept.
        let other = world.bare("other").await;
        let mut client = other.client().await.invocation();
        let again = client.r#await(AwaitRequest { invocation_id: id }).await.expect("kept");
        assert_eq!(again.into_inner().result, Some(await_response::Result::Payload(payload)));
    });
}

#[test]
fn the_result_of_a_started_invocation_is_kept_across_sidecars_and_hubs() {
    test(async {
        let world = World::new("kept");
        let id;
        {
            let node = world.bare("host").await;
            let client = node.client().await;
            let mut host = Component::connect(&client, hello(&["s"], &[])).await.expect("welcome");
            id = start(&client, &json!(1)).await;
            let turn = host.next_turn().await;
            host.handle().finish(&turn.token, turn_outcome::Result::Error(error("E", "no"))).await;
            // Its completion is durable once it is told to somebody.
            let request = AwaitRequest { invocation_id: id.clone() };
            client.invocation().r#await(request).await.expect("answered");
            kar_tests::process::kill(world.hub().await);
        }
        let other = world.bare("other").await;
        let client = other.client().await;
        let request = AwaitRequest { invocation_id: id };
        let answer = client.invocation().r#await(request).await.expect("answered").into_inner();
        let Some(await_response::Result::Error(error)) = answer.result else { panic!() };
        assert_eq!((error.code.as_str(), error.message.as_str()), ("E", "no"));
    });
}

#[test]
fn an_unknown_invocation_is_a_typed_error() {
    test(async {
        let world = World::new("unknown");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&["s"], &[])).await.expect("welcome");
        let id = start(&client, &json!(1)).await;
        host.next_turn().await.finish(&json!(null)).await;
        // The id's unique part ends in hex digits: another one names an invocation that never was.
        let last = id.chars().next_back().expect("not empty");
        let other = if last == '0' { '1' } else { '0' };
        let wrong = format!("{}{other}", &id[..id.len() - 1]);
        let answer = client.invocation().r#await(AwaitRequest { invocation_id: wrong }).await;
        assert_error(answer, Code::NotFound, "UNKNOWN_INVOCATION");
        for malformed in ["", "nonsense", "s.s/0/xyz"] {
            let request = AwaitRequest { invocation_id: malformed.into() };
            let answer = client.invocation().r#await(request).await;
            assert_error(answer, Code::InvalidArgument, "INVALID_FIELD");
        }
    });
}

#[test]
fn tells_of_a_turn_leave_with_its_segment_or_not_at_all() {
    // P5: a turn that ends in an error drops what it has not flushed.
    test(async {
        let world = World::new("segment");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A", "B"])).await.expect("ok");
        let caller = client.clone();
        let call = tokio::spawn(async move { caller.call(("A", "1"), "keep", &json!(0)).await });
        let turn = host.next_turn().await;
        turn.tell(actor("B", "keep"), "told", &json!("keep")).await.expect("buffered");
        turn.finish(&json!(null)).await;
        call.await.expect("no panic").expect("answered").expect("no error");
        let turn = host.next_turn().await;
        assert_eq!(turn.argument(), json!("keep"));
        turn.finish(&json!(null)).await;

        let caller = client.clone();
        let call = tokio::spawn(async move { caller.call(("A", "1"), "drop", &json!(0)).await });
        let turn = host.next_turn().await;
        turn.tell(actor("B", "drop"), "told", &json!("drop")).await.expect("buffered");
        let result = turn_outcome::Result::Error(error("No", "drop it"));
        host.handle().finish(&turn.token, result).await;
        call.await.expect("no panic").expect("answered").expect_err("as it was told");
        // A call to the actor that must not have been told comes first in its queue.
        let caller = client.clone();
        let call = tokio::spawn(async move { caller.call(("B", "drop"), "x", &json!(0)).await });
        let turn = host.next_turn().await;
        assert_eq!(turn.method(), "x");
        turn.finish(&json!(null)).await;
        call.await.expect("no panic").expect("answered").expect("no error");
    });
}

#[test]
fn a_tell_whose_deadline_passes_is_a_dead_letter_that_shows() {
    test(async {
        let world = World::new("letter");
        let node = world.bare("host").await;
        let client = node.client().await;
        let options = kar_proto::v1::InvocationOptions {
            start_within: Some(Duration::from_millis(50).try_into().expect("short")),
            ..Default::default()
        };
        let request = TellRequest {
            target: Some(service("nobody")),
            method: "m".into(),
            options: Some(options),
            ..Default::default()
        };
        client.invocation().tell(request).await.expect("accepted");
        // P9: a metric and a log line.
        wait::until_true("the dead letter to be counted", Duration::from_secs(20), async || {
            client.figure("dead_letters").await.expect("answered") == Some(1)
        })
        .await;
        let line = |log: &String| log.contains("WARN") && log.contains("reason=\"expired\"");
        assert!(world.logs().values().any(line), "no log line says so");
    });
}

#[test]
fn what_waits_behind_a_lost_turn_expires_and_the_turn_does_not() {
    // Nobody hosts for a while: what had started waits for a host, what had not ends at its deadline.
    test(async {
        let world = World::new("behind");
        let front = world.bare("front").await;
        let client = front.client().await;
        let tell = async |method: &str| {
            let options = kar_proto::v1::InvocationOptions {
                start_within: Some(Duration::from_secs(2).try_into().expect("short")),
                ..Default::default()
            };
            let request = TellRequest {
                target: Some(actor("A", "x")),
                method: method.into(),
                options: Some(options),
                ..Default::default()
            };
            client.invocation().tell(request).await.expect("accepted");
        };
        {
            let node = world.bare("host").await;
            let mut host =
                Component::connect(&node.client().await, hello(&[], &["A"])).await.expect("ok");
            tell("first").await;
            let turn = host.next_turn().await;
            assert_eq!((turn.method(), turn.frame.attempt), ("first", 1));
            tell("second").await;
            // Dropped here: killed with SIGKILL.
        }
        wait::until_true("the second one to expire", Duration::from_secs(20), async || {
            client.figure("dead_letters").await.expect("answered") == Some(1)
        })
        .await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("ok");
        let turn = host.next_turn().await;
        assert_eq!((turn.method(), turn.frame.attempt), ("first", 2));
        turn.finish(&json!(null)).await;
        assert_eq!(client.figure("dead_letters").await.expect("answered"), Some(1));
    });
}
