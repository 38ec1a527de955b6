//! P1: a call is carried out, whether or not a host is there when it comes.

use kar_proto::v1::{
    DeliveryMode, GetInfoRequest, InvocationMode, InvocationOptions, InvokeRequest, Payload,
    payload,
};
use kar_tests::component::{Component, hello};
use kar_tests::errors::assert_error;
use kar_tests::grpc::{json as bytes, value};
use kar_tests::{World, test, wait};
use serde_json::json;
use std::time::Duration;
use tonic::Code;

#[test]
fn a_service_in_another_process_answers() {
    test(async {
        let world = World::new("calls");
        let (host, front) = (world.app("host", &["echo"]).await, world.bare("front").await);
        host.hosts("echo").await;
        let answer = front.client().await.invoke("echo", "echo", &json!({"n": 1})).await;
        assert_eq!(answer.expect("answered").expect("no error"), json!({"n": 1}));
        let answer = front.tcp_client().await.call(("Echo", "a"), "count", &json!(null)).await;
        assert_eq!(answer.expect("answered").expect("no error"), json!(1));
    });
}

#[test]
fn a_call_made_before_any_host_exists_waits_for_one() {
    test(async {
        let world = World::new("early");
        let front = world.bare("front").await;
        let client = front.client().await;
        let early = tokio::spawn({
            let client = client.clone();
            async move { client.invoke("echo", "echo", &json!("early")).await }
        });
        let actor = tokio::spawn({
            let client = client.clone();
            async move { client.call(("Echo", "x"), "count", &json!(null)).await }
        });
        // It waits as an accepted invocation, visibly, not as a request that somebody polls.
        wait::until_true("both calls to be accepted", Duration::from_secs(20), async || {
            let request = kar_proto::v1::ListInvocationsRequest::default();
            let listed = client.invocation().list_invocations(request).await;
            listed.is_ok_and(|l| l.into_inner().invocations.len() == 2)
        })
        .await;
        assert!(!early.is_finished() && !actor.is_finished());
        let _host = world.app("host", &["echo"]).await;
        let answer = early.await.expect("no panic").expect("answered");
        assert_eq!(answer.expect("no error"), json!("early"));
        let answer = actor.await.expect("no panic").expect("answered");
        assert_eq!(answer.expect("no error"), json!(1));
    });
}

#[test]
fn an_application_error_is_a_completion_and_is_not_retried() {
    test(async {
        let world = World::new("errors");
        let front = world.bare("front").await;
        let client = front.client().await;
        let mut host = Component::connect(&client, hello(&["s"], &[])).await.expect("welcome");
        let call = tokio::spawn(async move { client.invoke("s", "m", &json!(7)).await });
        let turn = host.next_turn().await;
        assert_eq!((turn.method(), turn.argument(), turn.frame.attempt), ("m", json!(7), 1));
        assert_eq!(turn.frame.mode(), InvocationMode::Call);
        let error = kar_proto::v1::ApplicationError {
            code: "NotCovered".into(),
            message: "too little".into(),
            detail: "line 7".into(),
            payload: Some(bytes(&json!({"missing": 3}))),
            // Nobody asked for retries.
            retryable: true,
        };
        let result = kar_proto::v1::turn_outcome::Result::Error(error.clone());
        host.handle().finish(&turn.token, result).await;
        assert_eq!(call.await.expect("no panic").expect("answered"), Err(error));
        // The next turn that comes is the next call's, not a retry.
        let client = front.client().await;
        let call = tokio::spawn(async move { client.invoke("s", "next", &json!(null)).await });
        let turn = host.next_turn().await;
        assert_eq!(turn.method(), "next");
        turn.finish(&json!(1)).await;
        assert_eq!(call.await.expect("no panic").expect("answered"), Ok(json!(1)));
    });
}

#[test]
fn a_deadline_expires_what_has_not_started() {
    test(async {
        let world = World::new("deadline");
        let client = world.bare("front").await;
        let client = client.client().await;
        let start_within = Duration::from_millis(150).try_into().expect("short");
        let options = InvocationOptions { start_within: Some(start_within), ..Default::default() };
        let request = InvokeRequest {
            service: "nobody".into(),
            method: "m".into(),
            options: Some(options),
            ..Default::default()
        };
        let answer = client.invocation().invoke(request).await;
        assert_error(answer, Code::DeadlineExceeded, "EXPIRED");
    });
}

#[test]
fn a_direct_call_reaches_a_live_host_or_says_that_there_is_none() {
    test(async {
        let world = World::new("direct");
        let front = world.bare("front").await;
        let client = front.client().await;
        let request = InvokeRequest {
            service: "echo".into(),
            method: "echo".into(),
            payload: Some(bytes(&json!([1, 2]))),
            delivery_mode: DeliveryMode::Direct.into(),
            ..Default::default()
        };
        let none = client.invocation().invoke(request.clone()).await;
        assert_error(none, Code::Unavailable, "NO_HOST");
        let host = world.app("host", &["echo"]).await;
        host.hosts("echo").await;
        let answer = wait::until("a direct answer", Duration::from_secs(20), async || {
            client.invocation().invoke(request.clone()).await.ok()
        })
        .await
        .into_inner();
        assert_eq!(answer.invocation_id, "", "a direct call has no id");
        let Some(kar_proto::v1::invoke_response::Result::Payload(payload)) = answer.result else {
            panic!("no payload: {answer:?}")
        };
        assert_eq!(value(&payload), json!([1, 2]));
    });
}

#[test]
fn payloads_go_through_untouched_up_to_the_limit() {
    test(async {
        let world = World::new("payloads");
        let node = world.app("host", &[]).await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&["s"], &[])).await.expect("welcome");
        let limit = usize::try_from(host.welcome.message_bytes_max).expect("positive");
        assert_eq!(limit, 4 << 20, "the default of DESIGN section 13");
        for length in [0, 1, 1 << 20, limit] {
            let data: bytes::Bytes = (0..length).map(|i| (i * 7 % 251) as u8).collect();
            let payload = Payload {
                body: Some(payload::Body::Data(data)),
                content_type: "application/x-anything".into(),
            };
            let request = InvokeRequest {
                service: "s".into(),
                method: "m".into(),
                payload: Some(payload.clone()),
                ..Default::default()
            };
            let mut caller = client.invocation();
            let call = tokio::spawn(async move { caller.invoke(request).await });
            let turn = host.next_turn().await;
            assert!(turn.frame.payload == Some(payload.clone()), "{length} bytes there");
            let result = kar_proto::v1::turn_outcome::Result::Payload(payload.clone());
            host.handle().finish(&turn.token, result).await;
            let answer = call.await.expect("no panic").expect("answered").into_inner();
            let expected = kar_proto::v1::invoke_response::Result::Payload(payload);
            assert!(answer.result == Some(expected), "{length} bytes back");
        }
    });
}

#[test]
fn json_in_proto_form_is_answered_in_proto_form() {
    test(async {
        let world = World::new("values");
        let node = world.app("host", &["echo"]).await;
        node.hosts("echo").await;
        let number = prost_types::value::Kind::NumberValue(7.0);
        let list =
            prost_types::ListValue { values: vec![prost_types::Value { kind: Some(number) }] };
        let given = prost_types::Value { kind: Some(prost_types::value::Kind::ListValue(list)) };
        let request = InvokeRequest {
            service: "echo".into(),
            method: "echo".into(),
            payload: Some(Payload {
                body: Some(payload::Body::Json(given.clone())),
                content_type: String::new(),
            }),
            ..Default::default()
        };
        let answer = node.client().await.invocation().invoke(request).await.expect("answered");
        let Some(kar_proto::v1::invoke_response::Result::Payload(payload)) =
            answer.into_inner().result
        else {
            panic!("no payload")
        };
        assert_eq!(payload.body, Some(payload::Body::Json(given)));
    });
}

#[test]
fn many_calls_at_once_are_each_answered_with_their_own_result() {
    test(async {
        let world = World::new("many");
        let (a, b) = (world.app("a", &["echo"]).await, world.app("b", &["echo"]).await);
        a.hosts("echo").await;
        b.hosts("echo").await;
        let front = world.bare("front").await;
        let client = front.client().await;
        let calls = (0..500_i64).map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                let answer = if n % 2 == 0 {
                    client.invoke("echo", "echo", &json!(n)).await
                } else {
                    client.call(("Echo", &format!("a{}", n % 17)), "echo", &json!(n)).await
                };
                assert_eq!(answer.expect("answered"), Ok(json!(n)));
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.expect("no panic");
        }
    });
}

#[test]
fn an_actor_takes_one_call_at_a_time_in_the_order_sent() {
    // P4 and P7: calls of one connection to one actor arrive in the order in which they were sent.
    test(async {
        let world = World::new("order");
        let front = world.bare("front").await;
        let host_node = world.bare("host").await;
        let client = host_node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let caller = Component::connect(&front.client().await, hello(&[], &[])).await.expect("ok");
        let (handle, count) = (caller.handle(), 50_i64);
        let calls: Vec<_> = (0..count)
            .map(|n| {
                // The stream keeps order; each request is on it before the next one is made.
                let request = kar_proto::v1::CallActorRequest {
                    actor: Some(kar_proto::v1::ActorTarget { r#type: "A".into(), id: "1".into() }),
                    method: "m".into(),
                    payload: Some(bytes(&json!(n))),
                    ..Default::default()
                };
                let handle = handle.clone();
                let operation = kar_proto::v1::request::Operation::CallActor(request);
                tokio::spawn(async move { handle.request(operation).await })
            })
            .collect();
        for expected in 0..count {
            let turn = host.next_turn().await;
            assert_eq!(turn.argument(), json!(expected));
            turn.finish(&json!(null)).await;
        }
        for call in calls {
            call.await.expect("no panic").expect("answered");
        }
    });
}

#[test]
fn health_and_information_are_served() {
    test(async {
        let world = World::new("info");
        let node = world.app("host", &["echo"]).await;
        node.hosts("echo").await;
        let info = node.client().await.system().get_info(GetInfoRequest {}).await;
        let info = info.expect("answered").into_inner();
        assert_eq!(info.application, "info");
        let own = info.node.expect("a node");
        assert_eq!(own.name, "host");
        assert_eq!((own.services, own.actor_types), (vec!["echo".into()], vec!["Echo".into()]));
        assert_eq!(u32::try_from(own.process_id), Ok(node.pid()));
        assert_eq!(std::path::PathBuf::from(info.socket_path), node.socket);
        assert_eq!(info.limits.get("message_bytes_max"), Some(&(4 << 20)));
        let listed =
            node.client().await.system().list_nodes(kar_proto::v1::ListNodesRequest {}).await;
        assert_eq!(listed.expect("answered").into_inner().nodes.len(), 1);
    });
}
