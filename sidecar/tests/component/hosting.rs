//! Who hosts: one stream at a time, its credit, its leave, and nodes that were given up or away.

use kar_proto::v1 as pb;
use pb::component_frame::Frame as Out;
use pb::invocation_service_client::InvocationServiceClient;
use pb::request::Operation as Ask;
use pb::response::Result as Reply;
use pb::sidecar_frame::Frame as In;
use tonic::Code;

use crate::memory::{PATIENCE, TestNode, hello};
use crate::{invoke, reason};

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
