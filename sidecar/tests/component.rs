//! The component's side of a sidecar, over real sockets, on a backend in memory.

mod memory;

use kar::config::Bounds;
use kar_proto::v1 as pb;
use memory::{PATIENCE, TestNode, bytes, hello};
use pb::component_frame::Frame as Out;
use pb::invocation_service_client::InvocationServiceClient;
use pb::payload::Body;
use pb::request::Operation as Ask;
use pb::response::Result as Reply;
use pb::sidecar_frame::Frame as In;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|i| i.reason.clone()).unwrap_or_default()
}

fn invoke(method: &str) -> pb::InvokeRequest {
    pb::InvokeRequest {
        service: "greeter".into(),
        method: method.into(),
        payload: Some(bytes("Alan")),
        ..pb::InvokeRequest::default()
    }
}

fn call_actor(method: &str) -> pb::CallActorRequest {
    let actor = pb::ActorTarget { r#type: "Account".into(), id: "alice".into() };
    pb::CallActorRequest {
        actor: Some(actor),
        method: method.into(),
        payload: Some(bytes("10")),
        ..pb::CallActorRequest::default()
    }
}

#[tokio::test]
async fn a_call_made_before_any_host_waits_and_then_succeeds() {
    let node = TestNode::start().await;
    let mut client = InvocationServiceClient::new(node.channel().await);
    let call = tokio::spawn(async move { client.invoke(invoke("hello")).await });
    let mut host = node.connect(hello()).await.expect("it may host");
    let turn = host.next_turn().await;
    assert_eq!((turn.method.as_str(), turn.attempt), ("hello", 1));
    assert_eq!(turn.payload, Some(bytes("Alan")));
    host.finish(&turn.turn_token, "hello Alan").await;
    let answer = tokio::time::timeout(PATIENCE, call).await.expect("it ends").expect("no panic");
    let answer = answer.expect("a good answer").into_inner();
    assert_eq!(answer.result, Some(pb::invoke_response::Result::Payload(bytes("hello Alan"))));
    assert!(answer.invocation_id.starts_with("s.greeter/"), "{}", answer.invocation_id);
}

#[tokio::test]
async fn a_turn_reads_its_own_writes_and_the_next_one_what_was_flushed() {
    let node = TestNode::start().await;
    let mut host = node.connect(hello()).await.expect("it may host");
    host.ask(1, Ask::CallActor(call_actor("deposit"))).await;
    let turn_token = host.next_turn().await.turn_token;
    let set = pb::StateEntry { key: "balance".into(), value: Some(bytes("10")) };
    let change = pb::StateChange { change: Some(pb::state_change::Change::Set(set)) };
    let turn = || turn_token.clone();
    host.ask(
        2,
        Ask::ActorStateApply(pb::ApplyRequest { turn_token: turn(), changes: vec![change] }),
    )
    .await;
    assert_eq!(host.answer(2).await, Reply::ActorStateApply(pb::ApplyResponse {}));
    let contains = pb::ContainsRequest { turn_token: turn(), key: "balance".into(), actor: None };
    host.ask(3, Ask::ActorStateContains(contains)).await;
    let exists = Reply::ActorStateContains(pb::ContainsResponse { exists: true });
    assert_eq!(host.answer(3).await, exists);
    host.ask(4, Ask::Flush(pb::FlushRequest { turn_token: turn() })).await;
    assert_eq!(host.answer(4).await, Reply::Flush(pb::FlushResponse {}));
    host.finish(&turn_token, "ok").await;
    let Reply::CallActor(_) = host.answer(1).await else { panic!("not the call's answer") };

    host.ask(5, Ask::CallActor(call_actor("balance"))).await;
    let turn = host.next_turn().await;
    let keys = vec!["balance".to_owned(), "absent".to_owned()];
    let turn_token = turn.turn_token;
    let get = pb::ActorStateServiceGetRequest { turn_token: turn_token.clone(), keys, actor: None };
    host.ask(6, Ask::ActorStateGet(get)).await;
    let Reply::ActorStateGet(state) = host.answer(6).await else { panic!("not the state") };
    assert_eq!(state.entries, [("balance".to_owned(), bytes("10"))].into());
}

#[tokio::test]
async fn payloads_given_as_json_are_answered_as_json() {
    let node = TestNode::start().await;
    let mut host = node.connect(hello()).await.expect("it may host");
    let json = |text: &str| {
        let value = kar::convert::json::from_text(text.as_bytes()).expect("JSON");
        pb::Payload { body: Some(Body::Json(value)), content_type: String::new() }
    };
    let request = pb::InvokeRequest { payload: Some(json(r#"{"name":"Alan"}"#)), ..invoke("hi") };
    host.ask(1, Ask::Invoke(request)).await;
    let turn = host.next_turn().await;
    let payload = turn.payload.expect("there is one");
    assert_eq!(payload.body, Some(Body::Data(r#"{"name":"Alan"}"#.into())));
    assert_eq!(payload.content_type, "application/json");
    let result = pb::turn_outcome::Result::Payload(pb::Payload {
        body: Some(Body::Data(r#"{"n":1}"#.into())),
        content_type: "application/json".into(),
    });
    let outcome = pb::TurnOutcome { turn_token: turn.turn_token, result: Some(result) };
    host.send([Out::TurnResult(outcome)]).await;
    let Reply::Invoke(answer) = host.answer(1).await else { panic!("not the answer") };
    let Some(pb::invoke_response::Result::Payload(payload)) = answer.result else {
        panic!("not a payload")
    };
    assert_eq!(payload.body, json(r#"{"n":1}"#).body);
}

#[tokio::test]
async fn application_errors_travel_inside_the_answer() {
    let node = TestNode::start().await;
    let mut host = node.connect(hello()).await.expect("it may host");
    host.ask(1, Ask::CallActor(call_actor("withdraw"))).await;
    let turn_token = host.next_turn().await.turn_token;
    let error = pb::ApplicationError {
        code: "Overdrawn".into(),
        message: "not enough".into(),
        ..pb::ApplicationError::default()
    };
    let result = Some(pb::turn_outcome::Result::Error(error.clone()));
    host.send([Out::TurnResult(pb::TurnOutcome { turn_token, result })]).await;
    let Reply::CallActor(answer) = host.answer(1).await else { panic!("not the answer") };
    assert_eq!(answer.result, Some(pb::call_actor_response::Result::Error(error)));
}

#[tokio::test]
async fn direct_calls_need_a_host_and_pass_the_log_by() {
    let node = TestNode::start().await;
    let direct =
        || pb::InvokeRequest { delivery_mode: pb::DeliveryMode::Direct.into(), ..invoke("peek") };
    let mut client = InvocationServiceClient::new(node.channel().await);
    let refused = client.invoke(direct()).await.expect_err("nobody hosts it");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "NO_HOST"));
    let mut host = node.connect(hello()).await.expect("it may host");
    host.ask(1, Ask::Invoke(direct())).await;
    let appends = node.driver.counters()["appends"];
    let turn = host.next_turn().await;
    assert_eq!(turn.mode(), pb::InvocationMode::Direct);
    host.finish(&turn.turn_token, "seen").await;
    let Reply::Invoke(answer) = host.answer(1).await else { panic!("not the answer") };
    assert_eq!(answer.result, Some(pb::invoke_response::Result::Payload(bytes("seen"))));
    assert_eq!(answer.invocation_id, "");
    assert_eq!(node.driver.counters()["appends"], appends, "nothing was logged");
}

#[tokio::test]
async fn wrong_fields_are_named() {
    let node = TestNode::start().await;
    let mut client = InvocationServiceClient::new(node.channel().await);
    let cases = [
        ("service", pb::InvokeRequest { service: ".x".into(), ..invoke("m") }),
        ("method", invoke("")),
        ("turn_token", pb::InvokeRequest { turn_token: "x".into(), ..invoke("m") }),
        ("delivery_mode", pb::InvokeRequest { delivery_mode: 9, ..invoke("m") }),
        (
            "options.start_within",
            pb::InvokeRequest {
                options: Some(pb::InvocationOptions {
                    start_within: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
                    ..pb::InvocationOptions::default()
                }),
                ..invoke("m")
            },
        ),
    ];
    for (field, request) in cases {
        let status = client.invoke(request).await.expect_err(field);
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, "INVALID_FIELD")
        );
        let details = status.get_error_details();
        let info = details.error_info().expect("the reason came with it");
        assert_eq!(info.metadata["field"], field);
    }
}

#[tokio::test]
async fn a_payload_over_the_limit_is_refused_by_name() {
    let node = TestNode::start().await;
    let mut client = InvocationServiceClient::new(node.channel().await);
    let payload = |bytes: usize| {
        let body = Some(Body::Data(vec![7; bytes].into()));
        Some(pb::Payload { body, content_type: String::new() })
    };
    let request = pb::InvokeRequest { payload: payload(5 << 20), ..invoke("m") };
    let status = client.invoke(request).await.expect_err("5 MiB are too much");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "MESSAGE_TOO_LARGE")
    );
    let request = pb::InvokeRequest { payload: payload(9 << 20), ..invoke("m") };
    let status = client.invoke(request).await.expect_err("9 MiB are too much");
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status}");
}

#[tokio::test]
async fn a_deadline_without_hosts_expires() {
    let node = TestNode::start().await;
    let mut client = InvocationServiceClient::new(node.channel().await);
    let request = pb::InvokeRequest {
        options: Some(pb::InvocationOptions {
            start_within: Some(prost_types::Duration { seconds: 0, nanos: 50_000_000 }),
            ..pb::InvocationOptions::default()
        }),
        ..invoke("m")
    };
    let call = tokio::time::timeout(PATIENCE, client.invoke(request)).await.expect("it ends");
    let status = call.expect_err("nobody hosts it");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "EXPIRED"));
}

#[tokio::test]
async fn a_second_host_stream_is_refused_and_the_first_one_lives_on() {
    let node = TestNode::start().await;
    let mut host = node.connect(hello()).await.expect("it may host");
    let refused = node.connect(hello()).await.err().expect("there is a host");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::AlreadyExists, "ALREADY_HOSTING")
    );
    let client_only = pb::Hello { protocol_version: 1, ..pb::Hello::default() };
    node.connect(client_only).await.expect("a stream that hosts nothing is welcome");
    host.ask(1, Ask::Invoke(invoke("still"))).await;
    assert_eq!(host.next_turn().await.method, "still");
    drop(host);
    let again = async {
        loop {
            match node.connect(hello()).await {
                Ok(host) => return host,
                // The end of the first stream is still on its way.
                Err(status) => assert_eq!(reason(&status), "ALREADY_HOSTING"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("a host may come back");
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_stream_with_a_reason() {
    let node = TestNode::start().await;
    let credit = |count| Out::Credit(pb::Credit { count });
    let status = node.open(credit(1)).await.err().expect("hello must come first");
    assert_eq!(reason(&status), "PROTOCOL_VIOLATION");
    let ended_by = async |frames: Vec<Option<Out>>| {
        let client = pb::Hello { protocol_version: 1, ..pb::Hello::default() };
        let mut stream = node.connect(client).await.expect("welcome");
        let frames = frames.into_iter().map(|frame| pb::ComponentFrame { frame }).collect();
        stream.frames.send(pb::ConnectRequest { frames }).await.expect("the stream is open");
        loop {
            if let Err(status) = stream.next().await {
                return (status.code(), reason(&status));
            }
        }
    };
    let violation = (Code::InvalidArgument, "PROTOCOL_VIOLATION".to_owned());
    let request =
        |id| Some(Out::Request(pb::Request { id, operation: Some(Ask::Invoke(invoke("m"))) }));
    assert_eq!(ended_by(vec![None]).await, violation, "empty frame");
    assert_eq!(ended_by(vec![Some(credit(0))]).await, violation, "no credit at all");
    assert_eq!(ended_by(vec![Some(Out::Goodbye(pb::Goodbye {}))]).await, violation, "no host");
    assert_eq!(ended_by(vec![request(1), request(1)]).await, violation, "id in use");
    let many = (0..=u64::from(Bounds::default().request_credits)).map(request).collect();
    assert_eq!(ended_by(many).await, violation, "credit overrun");
    assert_eq!(node.driver.counters()["requests_open_now"], 0, "all were abandoned");
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off() {
    let bounds = Bounds { session_queue_bytes_max: 1 << 20, ..Bounds::default() };
    let node = TestNode::start_with(bounds, None).await;
    let mut host = node.connect(hello()).await.expect("it may host");
    let client = pb::Hello { protocol_version: 1, ..pb::Hello::default() };
    let mut greedy = node.connect(client).await.expect("welcome");
    // The host answers 64 KiB to everything that the other stream asks.
    tokio::spawn(async move {
        while let Ok(In::Invocation(turn)) = host.next().await {
            let body = Some(Body::Data(vec![7; 64 << 10].into()));
            let payload = pb::Payload { body, content_type: String::new() };
            let result = Some(pb::turn_outcome::Result::Payload(payload));
            let turn_token = turn.turn_token;
            host.send([Out::TurnResult(pb::TurnOutcome { turn_token, result })]).await;
        }
    });
    const ASKED: u64 = 64;
    for id in 0..ASKED {
        greedy.ask(id, Ask::Invoke(invoke("m"))).await;
    }
    let counter = |name: &str| node.driver.counters()[name];
    let all_done = async {
        while counter("requests") < ASKED as i64 || counter("requests_open_now") > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all_done).await.expect("the core does not wait for the reader");
    // Now it reads: it gets what had left already, and then learns why there is no more.
    let mut answers = 0;
    let status = loop {
        match greedy.next().await {
            Ok(_) => answers += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(answers < ASKED, "everything was buffered");
}

#[tokio::test]
async fn credit_bounds_the_turns_under_way() {
    let node = TestNode::start().await;
    let mut host =
        node.connect(pb::Hello { invocation_credits: 1, ..hello() }).await.expect("it may host");
    for id in 1..=3 {
        host.ask(id, Ask::Invoke(invoke("m"))).await;
    }
    let first = host.next_turn().await;
    // A request that is answered at once shows that no second turn was sent before it.
    host.ask(9, Ask::Flush(pb::FlushRequest { turn_token: "x".into() })).await;
    let Reply::Status(_) = host.answer(9).await else { panic!("not the answer") };
    host.send([Out::Credit(pb::Credit { count: 1 })]).await;
    host.next_turn().await;
    host.finish(&first.turn_token, "done").await;
    let mut seen = [host.next().await, host.next().await].map(|f| match f.expect("open") {
        In::Response(_) => "response",
        In::Invocation(_) => "turn",
        other => panic!("unexpected: {other:?}"),
    });
    seen.sort_unstable();
    assert_eq!(seen, ["response", "turn"]);
}

#[tokio::test]
async fn an_old_turn_token_is_superseded() {
    let node = TestNode::start().await;
    let mut host = node.connect(hello()).await.expect("it may host");
    host.ask(1, Ask::CallActor(call_actor("m"))).await;
    let turn = host.next_turn().await;
    host.finish(&turn.turn_token, "done").await;
    host.answer(1).await;
    host.ask(2, Ask::Flush(pb::FlushRequest { turn_token: turn.turn_token })).await;
    let Reply::Status(status) = host.answer(2).await else { panic!("it was taken") };
    assert_eq!(status.code, Code::Aborted as i32, "{}", status.message);
}

#[tokio::test]
async fn the_api_token_is_asked_for_everywhere() {
    let node = TestNode::start_with(Bounds::default(), Some("s3cret")).await;
    let mut client = InvocationServiceClient::new(node.channel().await);
    let refused = client.invoke(invoke("m")).await.expect_err("no token was given");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unauthenticated, "WRONG_API_TOKEN")
    );
    assert_eq!(node.connect(hello()).await.err().map(|s| s.code()), Some(Code::Unauthenticated));
}

#[tokio::test]
async fn goodbye_is_answered_when_nothing_is_owned() {
    let node = TestNode::start().await;
    let mut host = node.connect(hello()).await.expect("it may host");
    host.ask(1, Ask::Invoke(invoke("m"))).await;
    let turn = host.next_turn().await;
    host.send([Out::Goodbye(pb::Goodbye {})]).await;
    host.finish(&turn.turn_token, "done").await;
    host.answer(1).await;
    assert!(matches!(host.next().await, Ok(In::Drained(_))));
}

#[tokio::test]
async fn over_tcp_everything_is_there_by_reflection_alone() {
    use tonic_reflection::pb;
    let node = TestNode::start().await;
    let address = format!("http://127.0.0.1:{}", node.grpc_port);
    let endpoint = Endpoint::from_shared(address).expect("a URI");
    let channel = endpoint.connect().await.expect("it listens on TCP");
    let mut client = pb::v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    use pb::v1::server_reflection_request::MessageRequest;
    use pb::v1::server_reflection_response::MessageResponse;
    let ask =
        |what| pb::v1::ServerReflectionRequest { host: String::new(), message_request: Some(what) };
    let requests = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("kar.v1.InvocationService".into())),
    ]);
    let mut answers =
        client.server_reflection_info(requests).await.expect("reflection v1").into_inner();
    let mut next = async || {
        let answer = answers.message().await.expect("an answer").expect("one for each request");
        answer.message_response.expect("never empty")
    };
    let MessageResponse::ListServicesResponse(services) = next().await else {
        panic!("not the services")
    };
    let names: Vec<_> = services.service.into_iter().map(|s| s.name).collect();
    assert!(names.contains(&"kar.v1.ComponentService".to_owned()), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health".to_owned()), "{names:?}");
    assert!(!names.iter().any(|n| n.starts_with("kar.hub") || n.starts_with("kar.peer")));
    assert!(matches!(next().await, MessageResponse::FileDescriptorResponse(_)));

    let mut old = pb::v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    use pb::v1alpha::server_reflection_request::MessageRequest as OldRequest;
    let request = pb::v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(OldRequest::ListServices(String::new())),
    };
    let answers = old.server_reflection_info(tokio_stream::iter([request])).await;
    let mut answers = answers.expect("reflection v1alpha").into_inner();
    assert!(answers.message().await.expect("an answer").is_some());
}

#[tokio::test]
async fn health_tells_whether_anything_can_be_made_durable() {
    use tonic_health::ServingStatus;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    let node = TestNode::start().await;
    let mut client = HealthClient::new(node.channel().await);
    let request = HealthCheckRequest { service: "kar.v1.InvocationService".into() };
    let mut watch = client.watch(request).await.expect("it is known").into_inner();
    let mut until = async |wanted: ServingStatus| {
        let reached = async {
            loop {
                let status = watch.message().await.expect("open").expect("open").status;
                if status == wanted as i32 {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("it changes");
    };
    until(ServingStatus::Serving).await;
    node.connected.send_replace(false);
    until(ServingStatus::NotServing).await;
    node.connected.send_replace(true);
    until(ServingStatus::Serving).await;
}

#[tokio::test]
async fn what_is_not_there_yet_says_so() {
    let node = TestNode::start().await;
    let mut client = pb::event_service_client::EventServiceClient::new(node.channel().await);
    let status = client.publish(pb::PublishRequest::default()).await.expect_err("not yet");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unimplemented, "NOT_IMPLEMENTED"));
    let details = status.get_error_details();
    let info = details.error_info().expect("the reason came with it");
    assert_eq!(info.metadata["operation"], "EventService.Publish");
}

#[tokio::test]
async fn the_requests_of_a_component_are_bounded() {
    let bounds = Bounds { requests_max: 2, ..Bounds::default() };
    let node = TestNode::start_with(bounds, None).await;
    let mut host = node.connect(hello()).await.expect("it may host");
    let asks = (1..=3)
        .map(|id| Out::Request(pb::Request { id, operation: Some(Ask::Invoke(invoke("m"))) }));
    host.send(asks).await;
    let mut turns = Vec::new();
    let refused = loop {
        match host.next().await.expect("open") {
            In::Invocation(turn) => turns.push(turn),
            In::Response(response) => break response,
            other => panic!("unexpected: {other:?}"),
        }
    };
    let Some(Reply::Status(status)) = refused.result else { panic!("it was taken") };
    assert_eq!((refused.id, status.code), (3, Code::ResourceExhausted as i32));
    assert!(status.message.contains("requests-max"), "{}", status.message);
    while turns.len() < 2 {
        turns.push(host.next_turn().await);
    }
    for turn in turns {
        host.finish(&turn.turn_token, "done").await;
    }
    for _ in 0..2 {
        assert!(matches!(host.next().await, Ok(In::Response(_))));
    }
    host.ask(4, Ask::Invoke(invoke("m"))).await;
    host.next_turn().await;
}

#[tokio::test]
async fn a_node_that_was_struck_out_answers_everybody_and_sends_its_host_away() {
    let node = TestNode::start().await;
    let mut host = node.connect(hello()).await.expect("it may host");
    let mut client = InvocationServiceClient::new(node.channel().await);
    let call = tokio::spawn(async move { client.invoke(invoke("hello")).await });
    host.next_turn().await;
    node.driver.join(kar_core::ids::NodeId(2));
    let ended = host.next().await.expect_err("the host has to register anew");
    assert_eq!(reason(&ended), "OUTCOME_UNKNOWN");
    let answer = tokio::time::timeout(PATIENCE, call).await.expect("it ends").expect("no panic");
    let status = answer.expect_err("nobody can tell");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unknown, "OUTCOME_UNKNOWN"));
    assert_eq!(node.driver.counters()["evictions"], 1);
    let again = async {
        while let Err(status) = node.connect(hello()).await {
            assert_eq!(reason(&status), "ALREADY_HOSTING");
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("the new node takes a host");
}

#[tokio::test]
async fn a_process_that_was_away_reads_its_logs_first() {
    let node = TestNode::start().await;
    assert_eq!(node.driver.counters()["resumptions"], 0);
    // The runtime has one thread: while it is held, no timer comes round.
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_millis(1_700) {
        std::hint::spin_loop();
    }
    node.driver.batch();
    assert_eq!(node.driver.counters()["resumptions"], 1);
}
