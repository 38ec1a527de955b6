//! Requests that nobody waits for any more: their credits come back, once, and what they asked for goes on.

use kar::config::Bounds;
use kar_core::ids::Kind;
use kar_proto::v1 as pb;
use pb::component_frame::Frame as Out;
use pb::invocation_service_client::InvocationServiceClient;
use pb::request::Operation as Ask;
use pb::response::Result as Reply;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::memory::{Component, PATIENCE, TestNode, bytes, hello};
use crate::{call_actor, invoke, reason};

/// More than there are credits.
const GIVEN_UP: usize = 20;

/// A stream that hosts nothing.
async fn client(node: &TestNode) -> Component {
    let hello = pb::Hello { protocol_version: 1, ..pb::Hello::default() };
    node.connect(hello).await.expect("welcome")
}

fn forget(id: u64) -> Out {
    Out::Forget(pb::Forget { id })
}

fn request(id: u64, operation: Ask) -> Out {
    Out::Request(Box::new(pb::Request { id, operation: Some(operation) }))
}

/// The kind is known from here on, so that calls to it are not only waiting to be owed.
async fn known(stream: &mut Component, node: &TestNode) {
    let target = pb::Target {
        kind: Some(pb::target::Kind::Service(pb::ServiceTarget {
            name: "greeter".into(),
            affinity_key: String::new(),
        })),
    };
    let tell = pb::TellRequest {
        target: Some(target),
        method: "told".into(),
        ..pb::TellRequest::default()
    };
    stream.ask(0, Ask::Tell(tell)).await;
    let Reply::Tell(_) = stream.answer(0).await else { panic!("not told") };
    let kinds = node.driver.topology().1.kinds;
    assert!(kinds.keys().any(|kind: &Kind| &*kind.name == "greeter"), "{kinds:?}");
}

/// The answer to a request that was forgotten before it had another one.
fn assert_forgotten(reply: &Reply) {
    let Reply::Status(status) = reply else { panic!("another answer: {reply:?}") };
    assert_eq!(status.code, Code::Cancelled as i32, "{status:?}");
    let details = prost::Message::encode_to_vec(status);
    let status = tonic::Status::with_details(Code::Cancelled, "", details.into());
    assert_eq!(reason(&status), "OUTCOME_UNKNOWN", "{:?}", status.get_error_details());
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let holds = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[tokio::test]
async fn what_is_given_up_gives_its_credit_back_and_goes_on() {
    let bounds = Bounds { request_credits: 2, requests_max: 2, ..Bounds::default() };
    let node = TestNode::start_with(bounds, None).await;
    let mut stream = client(&node).await;
    known(&mut stream, &node).await;
    for round in 0..GIVEN_UP {
        let id = round as u64 % 2;
        stream.send([request(id, Ask::Invoke(invoke("given up"))), forget(id)]).await;
        assert_forgotten(&stream.answer(id).await);
    }
    assert_eq!(node.driver.counters()["requests_open_now"], 0, "nothing is kept of them");
    // All of them are owed, and are carried out once there is a host.
    let mut host = node.connect(hello()).await.expect("it may host");
    let mut ran = 0;
    while ran < GIVEN_UP {
        let turn = host.next_turn().await;
        ran += usize::from(turn.method == "given up");
        host.finish(&turn.turn_token, "done").await;
    }
    stream.ask(1, Ask::Invoke(invoke("last"))).await;
    let turn = host.next_turn().await;
    assert_eq!(turn.method, "last", "none is run twice");
    host.finish(&turn.turn_token, "done").await;
    let Reply::Invoke(_) = stream.answer(1).await else { panic!("not the call's answer") };
}

#[tokio::test]
async fn what_was_answered_or_never_asked_for_cannot_be_forgotten() {
    let bounds = Bounds { request_credits: 1, ..Bounds::default() };
    let node = TestNode::start_with(bounds, None).await;
    let mut host = node.connect(hello()).await.expect("it may host");
    for round in 0..3 {
        host.ask(1, Ask::Invoke(invoke("m"))).await;
        let turn = host.next_turn().await;
        host.finish(&turn.turn_token, "done").await;
        let Reply::Invoke(_) = host.answer(1).await else { panic!("not the call's answer") };
        // The answer was on its way when it was given up; the next request has the same number.
        host.send([forget(1), forget(99), request(1, Ask::CallActor(call_actor("m")))]).await;
        let turn = host.next_turn().await;
        host.finish(&turn.turn_token, "done").await;
        let reply = host.answer(1).await;
        assert!(matches!(reply, Reply::CallActor(_)), "round {round}: {reply:?}");
    }
    // One credit came back for each, and no more: the second one of these is one too many.
    host.send([request(1, Ask::Invoke(invoke("m"))), request(2, Ask::Invoke(invoke("m")))]).await;
    let ended = loop {
        if let Err(status) = host.next().await {
            break status;
        }
    };
    assert_eq!(reason(&ended), "PROTOCOL_VIOLATION");
}

#[tokio::test]
async fn a_late_outcome_is_no_answer_to_the_next_request_of_its_number() {
    let node = TestNode::start().await;
    let mut stream = client(&node).await;
    // In one message: application state is asked in a task of its own, which has not begun when it is forgotten.
    let get = || Ask::StateGet(pb::StateServiceGetRequest { key: "k".into() });
    let delete = pb::DeleteRequest { key: "k".into(), ..pb::DeleteRequest::default() };
    let delete = request(1, Ask::StateDelete(delete));
    stream.send([request(1, get()), forget(1), delete]).await;
    assert_forgotten(&stream.answer(1).await);
    let reply = stream.answer(1).await;
    assert!(matches!(reply, Reply::StateDelete(_)), "{reply:?}");
    stream.ask(2, get()).await;
    assert!(matches!(stream.answer(2).await, Reply::StateGet(_)), "and no other answer came");
}

#[tokio::test]
async fn a_turn_ends_when_the_call_that_it_gave_up_has_its_outcome() {
    let node = TestNode::start().await;
    let mut host = node.connect(hello()).await.expect("it may host");
    host.ask(1, Ask::CallActor(call_actor("gives up"))).await;
    let outer = host.next_turn().await;
    let nested = pb::InvokeRequest { turn_token: outer.turn_token.clone(), ..invoke("slow") };
    host.ask(2, Ask::Invoke(nested)).await;
    let slow = host.next_turn().await;
    assert_eq!(slow.method, "slow");
    host.send([forget(2)]).await;
    assert_forgotten(&host.answer(2).await);
    host.finish(&outer.turn_token, "done").await;
    // Whatever else is asked for meanwhile has its answer, the turn has not (rule T1).
    host.ask(3, Ask::Invoke(invoke("quick"))).await;
    let quick = host.next_turn().await;
    assert_eq!(quick.method, "quick");
    host.finish(&quick.turn_token, "done").await;
    let Reply::Invoke(_) = host.answer(3).await else { panic!("not the call's answer") };
    host.finish(&slow.turn_token, "done").await;
    let Reply::CallActor(answer) = host.answer(1).await else { panic!("not the turn's end") };
    assert_eq!(answer.result, Some(pb::call_actor_response::Result::Payload(bytes("done"))));
}

#[tokio::test]
async fn a_unary_call_that_is_given_up_leaves_nothing_behind() {
    let bounds = Bounds { requests_max: 1, ..Bounds::default() };
    let node = TestNode::start_with(bounds, None).await;
    let channel = node.channel().await;
    for round in 1..=GIVEN_UP as i64 {
        let mut client = InvocationServiceClient::new(channel.clone());
        let call = tokio::spawn(async move { client.invoke(invoke("given up")).await });
        until("the call is under way", || node.driver.counters()["requests"] == round).await;
        assert!(!call.is_finished(), "refused in round {round}");
        call.abort();
        until("it is forgotten", || node.driver.counters()["requests_open_now"] == 0).await;
    }
    let mut host = node.connect(hello()).await.expect("it may host");
    let mut client = InvocationServiceClient::new(channel);
    let last = tokio::spawn(async move { client.invoke(invoke("last")).await });
    loop {
        let turn = host.next_turn().await;
        host.finish(&turn.turn_token, "done").await;
        if turn.method == "last" {
            break;
        }
    }
    let answer = tokio::time::timeout(PATIENCE, last).await.expect("it ends").expect("no panic");
    answer.expect("there is room for it");
}
