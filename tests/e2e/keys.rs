//! Idempotency keys: what a client sends again is one invocation, whoever dies meanwhile.

use kar_proto::v1::{InvocationOptions, InvokeRequest, InvokeResponse, invoke_response};
use kar_tests::component::{Component, hello};
use kar_tests::errors::{assert_error, metadata};
use kar_tests::grpc::json as bytes;
use kar_tests::{Client, World, test};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

fn request(key: &str, argument: &Value) -> InvokeRequest {
    let options = InvocationOptions { idempotency_key: key.into(), ..Default::default() };
    InvokeRequest {
        service: "pay".into(),
        method: "charge".into(),
        payload: Some(bytes(argument)),
        options: Some(options),
        ..InvokeRequest::default()
    }
}

fn charge(
    client: &Client,
    key: &str,
    argument: Value,
) -> JoinHandle<Result<InvokeResponse, Status>> {
    let (client, request) = (client.clone(), request(key, &argument));
    tokio::spawn(async move { Ok(client.invocation().invoke(request).await?.into_inner()) })
}

#[test]
fn a_client_that_asks_another_sidecar_pays_once() {
    test(async {
        let world = World::new("keys");
        let (host, first, second) =
            (world.bare("host").await, world.bare("first").await, world.bare("second").await);
        let owner = host.client().await;
        let mut component =
            Component::connect(&owner, hello(&["pay"], &[])).await.expect("welcome");
        let (one, two) = (first.client().await, second.client().await);
        let lost = charge(&one, "order-7", json!(10));
        let turn = component.next_turn().await;
        first.kill_sidecar();
        assert!(lost.await.expect("no panic").is_err(), "its sidecar is gone");
        let again = charge(&two, "order-7", json!(10));
        let other = charge(&two, "order-8", json!(10));
        let second_turn = component.next_turn().await;
        turn.finish(&json!("receipt 7")).await;
        second_turn.finish(&json!("receipt 8")).await;
        let payload = |response: InvokeResponse| match response.result {
            Some(invoke_response::Result::Payload(payload)) => kar_tests::grpc::value(&payload),
            other => panic!("{other:?}"),
        };
        let again = again.await.expect("no panic").expect("answered");
        assert_eq!(payload(again), json!("receipt 7"));
        let other = other.await.expect("no panic").expect("answered");
        assert_eq!(payload(other), json!("receipt 8"));
        // Long after: from what is kept, without a turn.
        let late = charge(&two, "order-7", json!(10)).await.expect("no panic").expect("answered");
        assert_eq!(payload(late), json!("receipt 7"));
        let changed = charge(&two, "order-7", json!(11)).await.expect("no panic");
        assert_error(changed, Code::FailedPrecondition, "IDEMPOTENCY_KEY_REUSED");
        let long = charge(&two, &"k".repeat(513), json!(10)).await.expect("no panic");
        let field = metadata(long.as_ref().expect_err("too long"), "field");
        assert_eq!(field, "options.idempotency_key");
        assert_error(long, Code::InvalidArgument, "INVALID_FIELD");
    });
}
