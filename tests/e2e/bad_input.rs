//! Bad input: a clear typed error each, no panic (every test ends with a look for panics in all logs), and whoever
//! behaves goes on undisturbed.

use bytes::Bytes;
use kar_proto::v1::component_frame::Frame as Up;
use kar_proto::v1::{
    ActorTarget, CallActorRequest, ComponentFrame, ConnectRequest, Credit, GetInfoRequest, Hello,
    InvocationOptions, InvokeRequest, Payload, Request, SetRequest, TellRequest, payload,
};
use kar_tests::component::{Component, Incoming, hello};
use kar_tests::errors::{assert_error, metadata, reason};
use kar_tests::grpc::{raw_bidi, raw_stream, raw_unary};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, World, test, wait};
use prost::Message as _;
use serde_json::json;
use tonic::Code;

/// The sidecar still does its work.
async fn assert_well(client: &Client) {
    let answer = client.invoke("echo", "echo", &json!("well")).await;
    assert_eq!(answer.expect("answered"), Ok(json!("well")));
}

async fn echo() -> (std::rc::Rc<World>, kar_tests::Node, Client) {
    let world = World::new("bad");
    let node = world.app("host", &["echo"]).await;
    node.hosts("echo").await;
    let client = node.client().await;
    (world, node, client)
}

#[test]
fn malformed_protobuf_is_refused() {
    test(async {
        let (_world, node, client) = echo().await;
        let method = "/kar.v1.InvocationService/Invoke";
        for garbage in [&[0xff; 40][..], &[0x0a, 0xff, 0xff, 0xff, 0x7f], &[0x0a, 0x02, 0xc3, 0x28]]
        {
            let answer = raw_unary(&client, method, Bytes::copy_from_slice(garbage)).await;
            let status = assert_error(answer, Code::InvalidArgument, "MALFORMED_MESSAGE");
            assert_eq!(metadata(&status, "method"), method, "{status:?}");
        }
        // The same on the stream, as its first message …
        let connect = "/kar.v1.ComponentService/Connect";
        let garbage = Bytes::from_static(&[0xff; 40]);
        let answer = raw_stream(&client, connect, vec![garbage.clone()]).await;
        let status = assert_error(answer, Code::InvalidArgument, "MALFORMED_MESSAGE");
        assert_eq!(metadata(&status, "method"), connect, "{status:?}");
        // … and as a later one.
        let first = ConnectRequest { frames: vec![up(Up::Hello(hello(&[], &[])))] };
        let messages = vec![first.encode_to_vec().into(), garbage];
        let answer = raw_stream(&client, connect, messages).await;
        let status = assert_error(answer, Code::InvalidArgument, "MALFORMED_MESSAGE");
        assert_eq!(metadata(&status, "method"), connect, "{status:?}");
        assert_well(&client).await;
        assert_well(&node.tcp_client().await).await;
    });
}

#[test]
fn garbage_instead_of_http_is_refused() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    test(async {
        let (_world, node, client) = echo().await;
        for garbage in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0; 100],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff",
        ] {
            let mut stream =
                tokio::net::UnixStream::connect(&node.socket).await.expect("connected");
            stream.write_all(garbage).await.expect("written");
            stream.shutdown().await.expect("closed");
            let mut answer = Vec::new();
            // It hangs up; what it says before does not matter, nor whether it resets.
            let _reset = stream.read_to_end(&mut answer).await;
        }
        assert_well(&client).await;
    });
}

#[test]
fn a_message_of_5_mib_is_refused_with_the_limits_name() {
    test(async {
        let (_world, _node, client) = echo().await;
        let payload = Payload {
            body: Some(payload::Body::Data(vec![7; 5 << 20].into())),
            content_type: String::new(),
        };
        let request = InvokeRequest {
            service: "echo".into(),
            method: "echo".into(),
            payload: Some(payload.clone()),
            ..Default::default()
        };
        let answer = client.invocation().invoke(request.clone()).await;
        let status = assert_error(answer, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        assert!(metadata(&status, "limit").contains("message"), "{status:?}");
        assert_eq!(metadata(&status, "value"), (4 << 20).to_string());
        let set = SetRequest { key: "k".into(), value: Some(payload), ..Default::default() };
        let answer = client.state().set(set).await;
        assert_error(answer, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        let stream = Component::connect(&client, hello(&[], &[])).await.expect("welcome");
        let operation = kar_proto::v1::request::Operation::Invoke(request);
        let answer = stream.handle().request(operation).await;
        assert_error(answer, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        // The stream goes on.
        let small =
            kar_proto::v1::request::Operation::StateGet(kar_proto::v1::StateServiceGetRequest {
                key: "k".into(),
            });
        stream.handle().request(small).await.expect("answered");
        assert_well(&client).await;
    });
}

#[test]
fn a_message_far_over_the_limit_is_refused_before_it_is_read() {
    test(async {
        let (_world, node, client) = echo().await;
        let before = kar_tests::process::resident_kib(node.pid()).expect("alive");
        let request = InvokeRequest {
            service: "echo".into(),
            method: "echo".into(),
            payload: Some(Payload {
                body: Some(payload::Body::Data(vec![7; 60 << 20].into())),
                content_type: String::new(),
            }),
            ..Default::default()
        };
        let answer = client.invocation().invoke(request.clone()).await;
        let status = assert_error(answer, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        assert_eq!(metadata(&status, "limit"), "transport_message_bytes_max", "{status:?}");
        assert_eq!(metadata(&status, "value"), (8 << 20).to_string(), "{status:?}");
        let operation = Some(kar_proto::v1::request::Operation::Invoke(request));
        let frames = vec![Up::Request(Box::new(Request { id: 1, operation }))];
        let status = end_after(&client, hello(&[], &[]), frames).await;
        assert_error::<()>(Err(status), Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        let after = kar_tests::process::resident_kib(node.pid()).expect("alive");
        assert!(after < before + (40 << 10), "{before} KiB before, {after} after");
        assert_well(&client).await;
    });
}

#[test]
fn an_unknown_rpc_is_unimplemented() {
    test(async {
        let (_world, _node, client) = echo().await;
        for method in ["/kar.v1.InvocationService/Nonsense", "/kar.v9.Service/Invoke", "/nonsense"]
        {
            let answer = raw_unary(&client, method, Bytes::new()).await;
            let status = assert_error(answer, Code::Unimplemented, "NOT_IMPLEMENTED");
            assert_eq!(metadata(&status, "operation"), method, "{status:?}");
        }
        assert_well(&client).await;
    });
}

#[test]
fn missing_and_malformed_fields_are_named() {
    test(async {
        let (_world, _node, client) = echo().await;
        let mut invocation = client.invocation();
        let long = "x".repeat(129);
        for service in ["", ".hidden", "-dash", "with space", "ünicode", long.as_str()] {
            let request =
                InvokeRequest { service: service.into(), method: "m".into(), ..Default::default() };
            let answer = invocation.invoke(request).await;
            let status = assert_error(answer, Code::InvalidArgument, "INVALID_FIELD");
            assert_eq!(metadata(&status, "field"), "service", "{status:?}");
        }
        let request = InvokeRequest { service: "echo".into(), ..Default::default() };
        let answer = invocation.invoke(request).await;
        let status = assert_error(answer, Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(metadata(&status, "field"), "method");
        for id in [String::new(), "i".repeat(513)] {
            let actor = Some(ActorTarget { r#type: "Echo".into(), id });
            let request = CallActorRequest { actor, method: "m".into(), ..Default::default() };
            let answer = invocation.call_actor(request).await;
            assert_error(answer, Code::InvalidArgument, "INVALID_FIELD");
        }
        let answer = invocation.call_actor(CallActorRequest::default()).await;
        assert_error(answer, Code::InvalidArgument, "INVALID_FIELD");
        let answer =
            invocation.tell(TellRequest { method: "m".into(), ..Default::default() }).await;
        assert_error(answer, Code::InvalidArgument, "INVALID_FIELD");
        let request = InvokeRequest {
            service: "echo".into(),
            method: "m".into(),
            delivery_mode: 77,
            ..Default::default()
        };
        assert_error(invocation.invoke(request).await, Code::InvalidArgument, "INVALID_FIELD");
        assert_well(&client).await;
    });
}

#[test]
fn a_start_within_that_is_no_length_of_time_is_refused() {
    test(async {
        let (_world, _node, client) = echo().await;
        let too_long = 10_000 * 366 * 24 * 3600;
        for (seconds, nanos) in [
            (1, 1_000_000_000),
            (1, -1),
            (-1, 0),
            (-1, 1),
            (0, 0),
            (0, 999_999),
            (0, i32::MAX),
            (too_long, 0),
            (i64::MAX, 999_999_999),
            (i64::MIN, i32::MIN),
        ] {
            let start_within = Some(prost_types::Duration { seconds, nanos });
            let options = InvocationOptions { start_within, ..Default::default() };
            let request = InvokeRequest {
                service: "echo".into(),
                method: "echo".into(),
                options: Some(options),
                ..Default::default()
            };
            let answer = client.invocation().invoke(request).await;
            let status = assert_error(answer, Code::InvalidArgument, "INVALID_FIELD");
            assert_eq!(metadata(&status, "field"), "options.start_within", "{seconds} s {nanos}");
        }
        assert_well(&client).await;
    });
}

#[test]
fn a_missing_or_wrong_api_token_is_refused_everywhere() {
    test(async {
        let world = World::new("token");
        world.add_run_args(&["--api-token", "secret"]);
        let node = world.spawn(&world.app_options("host", &["echo"]));
        node.listens().await;
        let good = node.client().await.with_token("secret");
        kar_tests::wait::until_true("the host", kar_tests::world::READY_LIMIT, async || {
            let info = good.system().get_info(GetInfoRequest {}).await.expect("answered");
            info.into_inner().node.is_some_and(|n| n.services.contains(&"echo".to_owned()))
        })
        .await;
        assert_well(&good).await;
        let port = good.system().get_info(GetInfoRequest {}).await.expect("answered");
        let port = u16::try_from(port.into_inner().grpc_port).expect("a port");
        let by_tcp = Client::tcp(port).await.expect("it listens");
        assert_well(&by_tcp.with_token("secret")).await;
        for none in [node.client().await, by_tcp] {
            for client in [none.clone(), none.with_token("Secret"), none.with_token("")] {
                assert_refused_without_token(&client).await;
            }
        }
        // The command line finds it in the environment.
        let args =
            ["invoke", "--socket", node.socket.to_str().expect("UTF-8"), "echo", "echo", "1"];
        assert_eq!(world.kar(&args).await.code, 8);
        assert_eq!(world.kar_with(&args, &[("KAR_API_TOKEN", "secret")]).await.code, 0);
    });
}

/// Everything is refused but what says whether the sidecar works, and in which form it is asked.
async fn assert_refused_without_token(client: &Client) {
    let answer = client.system().get_info(GetInfoRequest {}).await;
    assert_error(answer, Code::Unauthenticated, "WRONG_API_TOKEN");
    let answer = client.invoke("echo", "echo", &json!(1)).await;
    assert_error(answer, Code::Unauthenticated, "WRONG_API_TOKEN");
    let answer = Component::connect(client, hello(&[], &[])).await;
    assert_error(answer, Code::Unauthenticated, "WRONG_API_TOKEN");
    for service in ["ActorState", "Event", "Reminder", "State"] {
        let method = format!("/kar.v1.{service}Service/Get");
        let answer = raw_unary(client, &method, Bytes::new()).await;
        assert_error(answer, Code::Unauthenticated, "WRONG_API_TOKEN");
    }
    let health = raw_unary(client, "/grpc.health.v1.Health/Check", Bytes::new()).await;
    // `status: SERVING`.
    assert_eq!(health.expect("health needs no token"), Bytes::from_static(&[0x08, 0x01]));
    for version in ["v1", "v1alpha"] {
        let method = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        // `list_services: ""`.
        let question = tokio_stream::once(Bytes::from_static(&[0x3a, 0x00]));
        let mut answers = raw_bidi(client, &method, question).await.expect("nor does reflection");
        let answer = answers.message().await.expect("it answers").expect("with a message");
        assert!(String::from_utf8_lossy(&answer).contains("kar.v1.InvocationService"));
    }
}

#[test]
fn a_second_host_stream_is_refused() {
    test(async {
        let (_world, _node, client) = echo().await;
        let second = Component::connect(&client, hello(&["other"], &[])).await;
        assert_error(second, Code::AlreadyExists, "ALREADY_HOSTING");
        // Streams that host nothing are welcome.
        let third = Component::connect(&client, hello(&[], &[])).await.expect("welcome");
        assert_well(&client).await;
        drop(third);
    });
}

#[test]
fn streams_beyond_the_bound_are_refused_by_its_name_until_one_ends() {
    test(async {
        let world = World::new("streams");
        world.add_run_args(&["--sessions-max", "2"]);
        let node = world.bare("node").await;
        let client = node.client().await;
        let mut first = Component::connect(&client, hello(&["echo"], &[])).await.expect("welcome");
        let second = Component::connect(&client, hello(&[], &[])).await.expect("welcome");
        let third = Component::connect(&client, hello(&[], &[])).await;
        let status = assert_error(third, Code::ResourceExhausted, "LIMIT_REACHED");
        assert_eq!(metadata(&status, "limit"), "sessions_max");
        // Those that are there go on.
        let caller = client.clone();
        let call = tokio::spawn(async move { caller.invoke("echo", "echo", &json!(7)).await });
        first.next_turn().await.finish(&json!(7)).await;
        assert_eq!(call.await.expect("no panic").expect("answered"), Ok(json!(7)));
        drop(second);
        wait::until_true("a stream to be let in again", READY_LIMIT, async || {
            Component::connect(&client, hello(&[], &[])).await.is_ok()
        })
        .await;
    });
}

/// Sends frames on a stream of its own and returns how the stream ends.
async fn end_after(client: &Client, first: Hello, frames: Vec<Up>) -> tonic::Status {
    let mut component = Component::connect(client, first).await.expect("welcome");
    for frame in frames {
        component.handle().send(frame).await;
    }
    loop {
        match component.next().await {
            Incoming::Ended(Some(status)) => return status,
            Incoming::Ended(None) => panic!("the stream ended without a status"),
            _ => {}
        }
    }
}

#[test]
fn frames_that_break_the_protocol_end_the_stream_with_a_reason() {
    test(async {
        let (_world, _node, client) = echo().await;
        let empty_request = Request { id: 1, operation: None };
        let cases: Vec<(&str, Vec<Up>)> = vec![
            ("a second hello", vec![Up::Hello(hello(&[], &[]))]),
            ("a request without operation", vec![Up::Request(Box::new(empty_request))]),
            ("a credit of nothing", vec![Up::Credit(Credit { count: 0 })]),
            ("a negative credit", vec![Up::Credit(Credit { count: -5 })]),
        ];
        for (what, frames) in cases {
            let status = end_after(&client, hello(&[], &[]), frames).await;
            assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
            let known = ["PROTOCOL_VIOLATION", "INVALID_FIELD"];
            assert!(known.contains(&reason(&status).as_str()), "{what}: {status:?}");
        }
        assert_well(&client).await;
    });
}

#[test]
fn a_frame_that_is_not_known_ends_the_stream_with_a_reason() {
    test(async {
        let (_world, _node, client) = echo().await;
        let first = ConnectRequest { frames: vec![up(Up::Hello(hello(&[], &[])))] };
        // `frames` with one frame that has field 99 only, as a component of a later version may send it.
        let later = Bytes::from_static(&[0x0a, 0x03, 0x98, 0x06, 0x01]);
        let messages = vec![first.encode_to_vec().into(), later];
        let answer = raw_stream(&client, "/kar.v1.ComponentService/Connect", messages).await;
        let status = assert_error(answer, Code::InvalidArgument, "PROTOCOL_VIOLATION");
        assert!(status.message().contains("not known"), "{status:?}");
        // So does a frame that has nothing at all.
        let empty = ComponentFrame { frame: None };
        let messages = [vec![up(Up::Hello(hello(&[], &[])))], vec![empty]]
            .map(|frames| ConnectRequest { frames }.encode_to_vec().into());
        let answer = raw_stream(&client, "/kar.v1.ComponentService/Connect", messages.into()).await;
        assert_error(answer, Code::InvalidArgument, "PROTOCOL_VIOLATION");
        assert_well(&client).await;
    });
}

fn up(frame: Up) -> ComponentFrame {
    ComponentFrame { frame: Some(frame) }
}

#[test]
fn a_stream_must_begin_with_a_sound_hello() {
    test(async {
        let (_world, _node, client) = echo().await;
        let old = Hello { protocol_version: 0, ..hello(&[], &[]) };
        let answer = Component::connect(&client, old).await.expect_err("no such version");
        assert_eq!(answer.code(), Code::InvalidArgument, "{answer:?}");
        let bad = Component::connect(&client, hello(&["not a name"], &[])).await;
        assert_eq!(bad.expect_err("not a name").code(), Code::InvalidArgument);
        // Another frame first.
        let frames = vec![up(Up::Credit(Credit { count: 1 }))];
        let first = tokio_stream::iter([ConnectRequest { frames }]);
        let status = match client.component().connect(first).await {
            Err(status) => status,
            Ok(stream) => stream.into_inner().message().await.expect_err("no hello"),
        };
        assert_error::<()>(Err(status), Code::InvalidArgument, "PROTOCOL_VIOLATION");
        assert_well(&client).await;
    });
}

#[test]
fn more_requests_than_credits_end_the_stream() {
    test(async {
        let (_world, _node, client) = echo().await;
        let stream = Component::connect(&client, hello(&[], &[])).await.expect("welcome");
        let credits = stream.welcome.request_credits;
        assert!(credits > 0, "a bound is stated");
        let request = |id| {
            // Calls of a service without hosts stay under way.
            let invoke = InvokeRequest {
                service: "nobody".into(),
                method: "m".into(),
                ..Default::default()
            };
            let operation = Some(kar_proto::v1::request::Operation::Invoke(invoke));
            Up::Request(Box::new(Request { id, operation }))
        };
        let frames = (1..=u64::try_from(credits).expect("positive") + 1).map(request).collect();
        let status = end_after(&client, hello(&[], &[]), frames).await;
        assert_error::<()>(Err(status), Code::InvalidArgument, "PROTOCOL_VIOLATION");
        assert_well(&client).await;
    });
}
