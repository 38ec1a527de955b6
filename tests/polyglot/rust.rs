//! Rust: the SDK's examples; and what no SDK would do, on the bare stream.

use bytes::{Bytes, BytesMut};
use kar_proto::v1::component_frame::Frame as Up;
use kar_proto::v1::request::Operation;
use kar_proto::v1::response::Result as Answer;
use kar_proto::v1::sidecar_frame::Frame as Down;
use kar_proto::v1::{
    ComponentFrame, ConnectRequest, ConnectResponse, Credit, FlushRequest, InvokeRequest, Payload,
    Request, TurnOutcome, payload, turn_outcome,
};
use kar_tests::component::hello;
use kar_tests::errors::reason;
use kar_tests::{Client, binaries, grpc};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::hello::hosted_by;
use crate::language::{Language, word};
use crate::nonsense::{self, Culprit};

pub(crate) const RUST: Language = Language {
    name: "rust",
    host: || vec![word(&binaries::example("hello"))],
    client: || vec![word(&binaries::example("hello_client"))],
};

const MIB: usize = 1 << 20;

#[test]
fn hosts_are_called_from_every_language() {
    hosted_by(&RUST);
}

#[test]
fn nonsense_is_answered_with_a_reason() {
    nonsense::every_case(RUST.name, Culprit::InProcess);
}

/// Misbehaves as the case says, and tells what it got for it, as the programs of other languages print it.
pub(crate) async fn misbehave(case: &str, client: &Client) -> String {
    match converse(case, client).await {
        Ok(answered) => said("answered", &answered),
        Err(ended) => said("ended", &ended),
    }
}

fn said(what: &str, status: &Status) -> String {
    let mut code = String::new();
    for letter in format!("{:?}", status.code()).chars() {
        if letter.is_uppercase() && !code.is_empty() {
            code.push('_');
        }
        code.push(letter.to_ascii_uppercase());
    }
    format!("{what} {code} {}", reason(status))
}

/// The status of an answer, or the one that ended the stream.
async fn converse(case: &str, client: &Client) -> Result<Status, Status> {
    let hosted: &[&str] = match case {
        "made-up-token" | "second-result" | "ended-turn" => &["nonsense"],
        _ => &[],
    };
    let greeting = message(vec![Up::Hello(hello(hosted, &[]))]);
    let client = if case == "wrong-api-token" { client.with_token("no") } else { client.clone() };
    // As many as the longest case sends.
    let (sender, outgoing) = mpsc::channel(8192);
    let send = async |bytes: Bytes| {
        // A stream that has ended says why by itself.
        let _ended = sender.send(bytes).await;
    };
    match case {
        "silence" => {}
        "no-hello" => send(message(vec![Up::Credit(Credit { count: 1 })])).await,
        _ => send(greeting.clone()).await,
    }
    let method = "/kar.v1.ComponentService/Connect";
    let mut incoming = grpc::raw_bidi(&client, method, ReceiverStream::new(outgoing)).await?;
    while let Some(bytes) = incoming.message().await? {
        let frames = ConnectResponse::decode(bytes).expect("the sidecar sends messages").frames;
        for frame in frames {
            match frame.frame {
                Some(Down::Welcome(welcome)) => {
                    let credits = u64::try_from(welcome.request_credits).expect("positive");
                    for bytes in when_welcomed(case, credits, &greeting) {
                        send(bytes).await;
                    }
                }
                Some(Down::Invocation(turn)) => send(when_invoked(case, &turn.turn_token)).await,
                Some(Down::Response(response)) => {
                    if let Some(Answer::Status(status)) = response.result {
                        let (code, text) = (status.code.into(), status.message.clone());
                        return Ok(Status::with_details(code, text, status.encode_to_vec().into()));
                    }
                }
                _ => {}
            }
        }
    }
    Err(Status::ok("without a word"))
}

fn when_welcomed(case: &str, credits: u64, greeting: &Bytes) -> Vec<Bytes> {
    match case {
        "two-hellos" => vec![greeting.clone()],
        // `ConnectRequest{frames: [ComponentFrame{99: ""}]}`.
        "unknown-frame" => vec![Bytes::from_static(&[0x0a, 0x03, 0x9a, 0x06, 0x00])],
        "garbage" => vec![Bytes::from_static(&[0xff; 40])],
        "no-operation" => vec![message(vec![request(1, None)])],
        "credit-overrun" => {
            (0..=credits).map(|id| message(vec![request(id, Some(call(0)))])).collect()
        }
        "credit-of-nothing" => vec![message(vec![Up::Credit(Credit { count: 0 })])],
        "made-up-token" | "result-of-a-client" => vec![message(vec![finish("made/up")])],
        "large-payload" => vec![message(vec![request(1, Some(call(5 * MIB)))])],
        "large-message" => vec![message(vec![request(1, Some(call(9 * MIB)))])],
        "second-result" | "ended-turn" => Vec::new(),
        _ => panic!("no such case: {case}"),
    }
}

fn when_invoked(case: &str, token: &str) -> Bytes {
    let after = match case {
        "second-result" => finish(token),
        _ => request(1, Some(Operation::Flush(FlushRequest { turn_token: token.to_owned() }))),
    };
    message(vec![finish(token), after])
}

fn message(frames: Vec<Up>) -> Bytes {
    let frames = frames.into_iter().map(|frame| ComponentFrame { frame: Some(frame) }).collect();
    ConnectRequest { frames }.encode_to_vec().into()
}

fn request(id: u64, operation: Option<Operation>) -> Up {
    Up::Request(Box::new(Request { id, operation }))
}

/// A call that stays under way: nobody hosts that service.
fn call(payload_bytes: usize) -> Operation {
    let data = BytesMut::zeroed(payload_bytes).freeze();
    let payload = Payload { body: Some(payload::Body::Data(data)), content_type: String::new() };
    Operation::Invoke(InvokeRequest {
        service: "nobody".into(),
        method: "m".into(),
        payload: Some(payload),
        ..Default::default()
    })
}

fn finish(token: &str) -> Up {
    let result = turn_outcome::Result::Payload(grpc::json(&serde_json::json!(1)));
    Up::TurnResult(TurnOutcome { turn_token: token.to_owned(), result: Some(result) })
}
