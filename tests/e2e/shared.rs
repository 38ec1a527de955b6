//! Shared methods: beside each other, never beside an exclusive one, and without writes.

use kar_proto::v1 as pb;
use kar_tests::component::{Component, hello};
use kar_tests::errors::assert_error;
use kar_tests::{Client, World, test};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

type Outcome = Result<Result<Value, pb::ApplicationError>, Status>;

fn call(client: &Client, method: &'static str) -> JoinHandle<Outcome> {
    let client = client.clone();
    tokio::spawn(async move { client.call(("A", "1"), method, &json!(null)).await })
}

/// Actors of type `A` with a shared method `look`.
fn looking() -> pb::Hello {
    let mut hello = hello(&[], &["A"]);
    let look = pb::HostedMethod { name: "look".into(), shared: true, ..Default::default() };
    hello.actor_types[0].methods =
        vec![look, pb::HostedMethod { name: "m".into(), ..Default::default() }];
    hello
}

#[test]
fn shared_methods_run_together_and_exclusive_ones_alone() {
    test(async {
        let world = World::new("shared");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, looking()).await.expect("welcome");
        let looks = [call(&client, "look"), call(&client, "look")];
        let (first, second) = (host.next_turn().await, host.next_turn().await);
        assert_eq!((first.method(), second.method()), ("look", "look"));
        let refused = first.set(&[("k", json!(1))]).await;
        assert_error(refused, Code::FailedPrecondition, "SHARED_TURN");
        let inner = first.call(("A", "1"), "m", &json!(null)).await;
        assert_error(inner, Code::FailedPrecondition, "SHARED_TO_EXCLUSIVE");
        let alone = call(&client, "m");
        first.finish(&json!(1)).await;
        second.finish(&json!(2)).await;
        let exclusive = host.next_turn().await;
        assert_eq!(exclusive.method(), "m");
        exclusive.set(&[("k", json!(1))]).await.expect("buffered");
        let late = call(&client, "look");
        exclusive.finish(&json!(3)).await;
        let last = host.next_turn().await;
        assert_eq!(last.get("k").await.expect("read"), json!(1));
        last.finish(&json!(4)).await;
        for call in looks.into_iter().chain([alone, late]) {
            call.await.expect("no panic").expect("answered").expect("no error");
        }
    });
}
