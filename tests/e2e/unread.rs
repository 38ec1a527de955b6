//! Clients that do not read: bounded memory, and nobody else notices.

use kar_proto::v1::component_frame::Frame as Up;
use kar_proto::v1::request::Operation;
use kar_proto::v1::{
    ComponentFrame, ConnectRequest, Payload, Request, SetRequest, StateServiceGetRequest, payload,
};
use kar_tests::component::hello;
use kar_tests::world::READY_LIMIT;
use kar_tests::{World, process, test, wait};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Memory that a sidecar may take on for one client that does not read: its queue's bound (64 MiB), and as much again
/// for what the allocator keeps.
const MEMORY_MAX_KIB: u64 = 160 << 10;

/// Bytes of the value that is asked for again and again.
const VALUE_BYTES: usize = 1 << 20;

#[test]
fn a_client_that_never_reads_is_cut_off_and_costs_bounded_memory() {
    test(async {
        let world = World::new("unread");
        let node = world.app("host", &["echo"]).await;
        node.hosts("echo").await;
        let client = node.client().await;
        let value = Payload {
            body: Some(payload::Body::Data(vec![7; VALUE_BYTES].into())),
            content_type: String::new(),
        };
        let set = SetRequest { key: "big".into(), value: Some(value), ..Default::default() };
        client.state().set(set).await.expect("set");
        let before = process::resident_kib(node.pid()).expect("alive");

        let (frames, outgoing) = mpsc::channel(8);
        let frame = |up| ConnectRequest { frames: vec![ComponentFrame { frame: Some(up) }] };
        frames.send(frame(Up::Hello(hello(&[], &[])))).await.expect("open");
        let greedy = node.client().await;
        let stream = greedy.component().connect(ReceiverStream::new(outgoing)).await;
        // From here on nobody looks at what arrives.
        let unread = stream.expect("accepted").into_inner();
        let mut sent: u64 = 0;
        // 4 GiB would be asked for in all; the sidecar must end this long before.
        wait::until_true("the sidecar to cut the client off", READY_LIMIT, async || {
            while sent < 4_000 {
                let get = Operation::StateGet(StateServiceGetRequest { key: "big".into() });
                let request = Request { id: sent + 1, operation: Some(get) };
                match frames.try_send(frame(Up::Request(Box::new(request)))) {
                    Ok(()) => sent += 1,
                    Err(mpsc::error::TrySendError::Full(_)) => break,
                    Err(mpsc::error::TrySendError::Closed(_)) => return true,
                }
            }
            let now = process::resident_kib(node.pid()).expect("alive");
            assert!(now < before + MEMORY_MAX_KIB, "{before} KiB before, {now} after {sent}");
            // Either it is cut off, or it is not heard any more: both are bounds.
            sent >= 64 && frames.capacity() == 0
        })
        .await;
        let now = process::resident_kib(node.pid()).expect("alive");
        println!("{sent} MiB asked for; resident {before} KiB before, {now} KiB after");
        assert!(now < before + MEMORY_MAX_KIB, "{before} KiB before, {now} after");
        // Everybody else is served meanwhile.
        for n in 0..20 {
            let answer = client.invoke("echo", "echo", &json!(n)).await;
            assert_eq!(answer.expect("answered"), Ok(json!(n)));
        }
        drop(unread);
    });
}

#[test]
fn a_host_that_never_answers_holds_up_nobody_else() {
    test(async {
        let world = World::new("mute");
        let (mute, good) = (world.bare("mute").await, world.app("good", &["echo"]).await);
        good.hosts("echo").await;
        let client = mute.client().await;
        let mut host =
            kar_tests::Component::connect(&client, hello(&["mute"], &[])).await.expect("welcome");
        let stuck: Vec<_> = (0..50)
            .map(|n| {
                let client = client_of(&mute);
                tokio::spawn(async move { client.await.invoke("mute", "m", &json!(n)).await })
            })
            .collect();
        host.next_turn().await;
        for n in 0..20 {
            let answer = client.invoke("echo", "echo", &json!(n)).await;
            assert_eq!(answer.expect("answered"), Ok(json!(n)));
        }
        for call in stuck {
            assert!(!call.is_finished());
            call.abort();
        }
    });
}

fn client_of(node: &kar_tests::Node) -> impl Future<Output = kar_tests::Client> + use<> {
    let socket = node.socket.clone();
    async move { kar_tests::Client::unix(&socket).await.expect("it listens") }
}
