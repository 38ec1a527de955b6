//! What is wrong, too long or too much is refused by name.

use kar::config::Bounds;
use kar_proto::v1 as pb;
use pb::component_frame::Frame as Out;
use pb::component_service_client::ComponentServiceClient;
use pb::invocation_service_client::InvocationServiceClient;
use pb::payload::Body;
use pb::request::Operation as Ask;
use pb::response::Result as Reply;
use pb::sidecar_frame::Frame as In;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::memory::{PATIENCE, REFUSED, TestNode, hello};
use crate::{invoke, reason};

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
async fn what_cannot_be_registered_is_refused_by_name() {
    let node = TestNode::start().await;
    let mut client = InvocationServiceClient::new(node.channel().await);
    let request = pb::InvokeRequest { service: REFUSED.into(), ..invoke("m") };
    let status = client.invoke(request).await.expect_err("nobody could ever call it");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "LIMIT_REACHED")
    );
    assert!(status.message().contains("use fewer names"), "{}", status.message());
    let details = status.get_error_details();
    let info = details.error_info().expect("the reason came with it");
    let metadata = |key: &str| info.metadata[key].as_str();
    assert_eq!((metadata("limit"), metadata("target")), ("kinds_max", REFUSED));
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
    let request = |id| {
        Some(Out::Request(Box::new(pb::Request { id, operation: Some(Ask::Invoke(invoke("m"))) })))
    };
    assert_eq!(ended_by(vec![None]).await, violation, "empty frame");
    assert_eq!(ended_by(vec![Some(credit(0))]).await, violation, "no credit at all");
    assert_eq!(ended_by(vec![Some(Out::Goodbye(pb::Goodbye {}))]).await, violation, "no host");
    assert_eq!(ended_by(vec![request(1), request(1)]).await, violation, "id in use");
    let many = (0..=u64::from(Bounds::default().request_credits)).map(request).collect();
    assert_eq!(ended_by(many).await, violation, "credit overrun");
    assert_eq!(node.driver.counters()["requests_open_now"], 0, "all were abandoned");
}

/// `hello_timeout_ms`
#[tokio::test]
async fn who_says_no_hello_is_sent_away_and_others_are_welcome() {
    let bounds = Bounds { hello_timeout_ms: 100, ..Bounds::default() };
    let node = TestNode::start_with(bounds, None).await;
    let (_says_nothing, frames) = mpsc::channel(1);
    let mut silent = ComponentServiceClient::new(node.channel().await);
    let silent = silent.connect(ReceiverStream::new(frames));
    let others = async {
        let mut host = node.connect(hello()).await.expect("it is welcome");
        host.ask(1, Ask::Invoke(invoke("m"))).await;
        let turn = host.next_turn().await;
        host.finish(&turn.turn_token, "done").await;
        assert!(matches!(host.next().await, Ok(In::Response(_))));
        host
    };
    let (silent, mut host) = tokio::join!(tokio::time::timeout(PATIENCE, silent), others);
    let status = silent.expect("it ends in time").expect_err("it said no hello");
    assert_eq!(reason(&status), "PROTOCOL_VIOLATION");
    assert!(status.message().contains("hello_timeout_ms"), "{status}");
    // Who has said hello may be silent.
    host.ask(2, Ask::Invoke(invoke("m"))).await;
    host.next_turn().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off() {
    let bounds = Bounds { session_queue_bytes_max: 1 << 20, ..Bounds::default() };
    never_read(bounds, "session_queue_bytes_max").await;
}

#[tokio::test]
async fn a_client_that_leaves_too_many_frames_unread_is_cut_off() {
    let bounds = Bounds { session_queue_frames_max: 16, ..Bounds::default() };
    never_read(bounds, "session_queue_frames_max").await;
}

/// A client asks for much and takes nothing; it learns which bound it is that ends its stream.
async fn never_read(bounds: Bounds, limit: &str) {
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
    let details = status.get_error_details();
    assert_eq!(details.error_info().expect("a reason").metadata["limit"], limit);
    assert!(answers < ASKED, "everything was buffered");
    // The host has answered it all, and goes on doing so for whoever reads.
    let mut client = InvocationServiceClient::new(node.channel().await);
    let answer = tokio::time::timeout(PATIENCE, client.invoke(invoke("m"))).await;
    answer.expect("in time").expect("answered");
}

#[tokio::test]
async fn the_requests_of_a_component_are_bounded() {
    let bounds = Bounds { requests_max: 2, ..Bounds::default() };
    let node = TestNode::start_with(bounds, None).await;
    let mut host = node.connect(hello()).await.expect("it may host");
    let asks = (1..=3).map(|id| {
        Out::Request(Box::new(pb::Request { id, operation: Some(Ask::Invoke(invoke("m"))) }))
    });
    host.send(asks).await;
    let mut turns = Vec::new();
    let refused = loop {
        match host.next().await.expect("open") {
            In::Invocation(turn) => turns.push(*turn),
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
