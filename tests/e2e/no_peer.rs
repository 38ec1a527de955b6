//! Sidecars without a peer plane (`--no-peer`): everything goes through inboxes, and nobody notices.

use kar_proto::v1::{
    AwaitRequest, CancelRequest, InvocationOptions, InvokeRequest, ListInvocationsRequest,
    StartRequest, TellRequest, await_response, invoke_response,
};
use kar_tests::component::{Component, actor, hello, service, tail_call};
use kar_tests::grpc::{json as bytes, value};
use kar_tests::{Client, Node, NodeOptions, World, process, test};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

type Answer = Result<Result<Value, kar_proto::v1::ApplicationError>, tonic::Status>;

const NO_PEER: &[&str] = &["--no-peer"];

/// A bare sidecar with or without a peer plane.
async fn bare(world: &World, name: &str, args: &[&str]) -> Node {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    world.start(NodeOptions { name: name.into(), args, ..NodeOptions::default() }).await
}

async fn host(node: &Node, services: &[&str], actors: &[&str]) -> Component {
    Component::connect(&node.client().await, hello(services, actors)).await.expect("welcome")
}

fn call(client: &Client, kind: &'static str, method: &'static str) -> JoinHandle<Answer> {
    let client = client.clone();
    tokio::spawn(async move { client.call((kind, "x"), method, &json!(null)).await })
}

async fn answer(call: JoinHandle<Answer>) -> Value {
    call.await.expect("no panic").expect("answered").expect("no error")
}

async fn tell(client: &Client, kind: &str, argument: &Value) {
    let request = TellRequest {
        target: Some(actor(kind, "x")),
        method: "m".into(),
        payload: Some(bytes(argument)),
        ..TellRequest::default()
    };
    client.invocation().tell(request).await.expect("accepted");
}

/// Nobody is told of an address but of the node's that has one.
async fn assert_reachable(world: &World, reachable: &[&str]) {
    let listed = world.kar_here("get nodes", &["-o", "json"]).await;
    let nodes: Vec<Value> = serde_json::from_str(&listed.stdout).expect("JSON");
    let named = nodes.iter().filter(|node| node["address"] != json!(""));
    let names: Vec<_> = named.filter_map(|node| node["name"].as_str()).collect();
    // The command has a node of its own.
    let mut found: Vec<_> = names.into_iter().filter(|name| !name.starts_with("cli-")).collect();
    found.sort_unstable();
    assert_eq!(found, reachable, "{}", listed.stdout);
}

#[test]
fn calls_tells_tail_calls_and_starts_need_no_peers() {
    test(async {
        let world = World::new("nopeer");
        let (left, right) =
            (bare(&world, "left", NO_PEER).await, bare(&world, "right", NO_PEER).await);
        let front = bare(&world, "front", NO_PEER).await;
        assert_reachable(&world, &[]).await;
        let (mut a, mut b) = (host(&left, &[], &["A"]).await, host(&right, &["s"], &["B"]).await);
        let client = front.client().await;

        // A call, with a nested one and a tell of its turn, which comes when it has ended.
        let outer_call = call(&client, "A", "outer");
        let outer = a.next_turn().await;
        let nested = tokio::spawn({
            let outer = outer.clone();
            async move { outer.call(("B", "y"), "inner", &json!(null)).await }
        });
        b.next_turn().await.finish(&json!("in")).await;
        assert_eq!(nested.await.expect("no panic").expect("answered"), Ok(json!("in")));
        outer.tell(actor("B", "y"), "told", &json!(1)).await.expect("buffered");
        outer.finish(&json!("out")).await;
        assert_eq!(answer(outer_call).await, json!("out"));
        let told = b.next_turn().await;
        assert_eq!((told.method(), told.argument()), ("told", json!(1)));
        told.finish(&json!(null)).await;

        // A chain of tail calls that comes home.
        let chain = call(&client, "A", "first");
        let first = a.next_turn().await;
        first.tail(tail_call(actor("B", "y"), "second", &json!(2))).await;
        let second = b.next_turn().await;
        assert_eq!(second.argument(), json!(2));
        second.finish(&json!("end")).await;
        assert_eq!(answer(chain).await, json!("end"));

        // A start, asked for elsewhere.
        let start = StartRequest {
            target: Some(service("s")),
            method: "m".into(),
            payload: Some(bytes(&json!(3))),
            options: None,
        };
        let id = client.invocation().start(start).await.expect("accepted").into_inner();
        let await_ = AwaitRequest { invocation_id: id.invocation_id };
        let waiting = tokio::spawn({
            let mut client = left.client().await.invocation();
            async move { client.r#await(await_).await }
        });
        b.next_turn().await.finish(&json!("started")).await;
        let ended = waiting.await.expect("no panic").expect("answered").into_inner();
        let Some(await_response::Result::Payload(payload)) = ended.result else { panic!() };
        assert_eq!(value(&payload), json!("started"));
        let read = front.client().await.figure("inbox_appends").await.expect("figures");
        assert!(read.is_some_and(|count| count > 0), "{read:?}");
    });
}

#[test]
fn keys_and_cancelling_need_no_peers() {
    test(async {
        let world = World::new("nopeer2");
        let (node, front) =
            (bare(&world, "host", NO_PEER).await, bare(&world, "front", NO_PEER).await);
        let mut host = host(&node, &["pay"], &["A"]).await;
        let client = front.client().await;
        let charge = || {
            let options = InvocationOptions { idempotency_key: "k".into(), ..Default::default() };
            let request = InvokeRequest {
                service: "pay".into(),
                method: "charge".into(),
                payload: Some(bytes(&json!(10))),
                options: Some(options),
                ..InvokeRequest::default()
            };
            let client = client.clone();
            tokio::spawn(async move { client.invocation().invoke(request).await })
        };
        let first = charge();
        host.next_turn().await.finish(&json!("receipt")).await;
        for call in [first, charge()] {
            let paid = call.await.expect("no panic").expect("answered").into_inner();
            let Some(invoke_response::Result::Payload(paid)) = paid.result else { panic!() };
            assert_eq!(value(&paid), json!("receipt"));
        }
        // The one that runs is asked to stop, the one behind it never runs.
        tell(&client, "A", &json!(1)).await;
        let running = host.next_turn().await;
        let start = StartRequest {
            target: Some(actor("A", "x")),
            method: "m".into(),
            payload: Some(bytes(&json!(2))),
            options: None,
        };
        let id = client.invocation().start(start).await.expect("accepted").into_inner();
        let cancel = CancelRequest { invocation_id: id.invocation_id.clone() };
        client.invocation().cancel(cancel).await.expect("done");
        running.finish(&json!(null)).await;
        let ended = AwaitRequest { invocation_id: id.invocation_id };
        let ended = client.invocation().r#await(ended).await;
        assert!(ended.is_err(), "it was cancelled: {ended:?}");
    });
}

#[test]
fn what_nodes_without_peers_serve_is_listed_and_who_does_not_answer_is_named() {
    test(async {
        let world = World::new("nopeer4");
        let (node, front) =
            (bare(&world, "host", NO_PEER).await, bare(&world, "front", NO_PEER).await);
        let mut host = host(&node, &[], &["A"]).await;
        let client = front.client().await;
        let running = call(&client, "A", "outer");
        let turn = host.next_turn().await;
        let list = async || {
            let mut client = client.invocation();
            let listed = client.list_invocations(ListInvocationsRequest::default()).await;
            listed.expect("listed").into_inner()
        };
        let listed = list().await;
        assert_eq!(listed.left_out, None);
        let rows: Vec<_> = listed.invocations.iter().map(|i| (&*i.method, &*i.node)).collect();
        assert_eq!(rows, [("outer", "host")]);
        // By a command, too, whose own sidecar has peers.
        let shown = world.kar_here("get actors", &["-o", "json"]).await;
        let actors: Value = serde_json::from_str(&shown.stdout).expect("JSON");
        assert_eq!(actors[0]["node"], json!("host"), "{actors}");
        process::signal(node.pid(), Signal::STOP);
        let left_out = list().await.left_out.expect("it is told");
        process::signal(node.pid(), Signal::CONT);
        assert_eq!(left_out.nodes[0].name, "host", "{left_out:?}");
        assert!(left_out.nodes[0].cause.contains("inbox"), "{left_out:?}");
        turn.finish(&json!("out")).await;
        assert_eq!(answer(running).await, json!("out"));
    });
}

#[test]
fn an_owner_killed_in_mid_call_is_followed_by_another_one() {
    test(async {
        let world = World::new("nopeer3");
        let one = bare(&world, "one", NO_PEER).await;
        let front = bare(&world, "front", NO_PEER).await;
        let mut first = host(&one, &[], &["A", "B"]).await;
        let client = front.client().await;
        let outer_call = call(&client, "A", "outer");
        let outer = first.next_turn().await;
        outer.set(&[("x", json!(1))]).await.expect("buffered");
        outer.flush().await.expect("flushed");
        let two = bare(&world, "two", NO_PEER).await;
        one.kill_sidecar();
        let mut second = host(&two, &[], &["A", "B"]).await;
        let again = second.next_turn().await;
        assert_eq!((again.method(), again.frame.attempt), ("outer", 2));
        assert_eq!(again.get("x").await.expect("read"), json!(1));
        again.finish(&json!("done")).await;
        assert_eq!(answer(outer_call).await, json!("done"));
    });
}

#[test]
fn one_with_and_one_without_a_peer_plane_work_together() {
    test(async {
        let world = World::new("mixed");
        let (left, right) = (bare(&world, "left", &[]).await, bare(&world, "right", NO_PEER).await);
        assert_reachable(&world, &["left"]).await;
        let (mut a, mut b) = (host(&left, &[], &["A"]).await, host(&right, &[], &["B"]).await);
        for client in [left.client().await, right.client().await] {
            let outer_call = call(&client, "A", "outer");
            let outer = a.next_turn().await;
            let nested = tokio::spawn({
                let outer = outer.clone();
                async move { outer.call(("B", "x"), "inner", &json!(null)).await }
            });
            b.next_turn().await.finish(&json!("in")).await;
            assert_eq!(nested.await.expect("no panic").expect("answered"), Ok(json!("in")));
            outer.finish(&json!("out")).await;
            assert_eq!(answer(outer_call).await, json!("out"));
            let back = call(&client, "B", "back");
            b.next_turn().await.finish(&json!("back")).await;
            assert_eq!(answer(back).await, json!("back"));
        }
    });
}
