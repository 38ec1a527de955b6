//! Bounds that are exceeded: whoever asks for one more is refused with the typed detail that names the bound's flag,
//! what was there goes on, and there is room again when something has gone.

use kar_proto::v1::{CallActorRequest, Subscription, TellRequest, UnsubscribeRequest};
use kar_tests::component::{Component, actor, hello};
use kar_tests::errors::{assert_error, metadata};
use kar_tests::events::to_actors;
use kar_tests::grpc::json as bytes;
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, World, test, wait};
use serde_json::json;
use tonic::{Code, Status};

async fn host(world: &World) -> (Node, Client, Component) {
    let node = world.bare("host").await;
    let client = node.client().await;
    let component = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
    (node, client, component)
}

async fn tell(client: &Client, id: &str, padding: usize) -> Result<(), Status> {
    let request = TellRequest {
        target: Some(actor("A", id)),
        method: "m".into(),
        payload: Some(bytes(&json!("x".repeat(padding)))),
        ..TellRequest::default()
    };
    client.invocation().tell(request).await.map(drop)
}

/// The refusal names the bound as its flag does.
#[track_caller]
fn assert_over<T: std::fmt::Debug>(result: Result<T, Status>, limit: &str) {
    let status = assert_error(result, Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(metadata(&status, "limit"), limit, "{status:?}");
    let flag = status.message().replace('-', "_");
    assert!(flag.contains(limit), "people are told which: {status:?}");
}

#[test]
fn a_full_queue_and_a_full_partition_name_their_flags() {
    test(async {
        let world = World::new("full");
        world.add_run_args(&["--partitions", "1", "--queue-per-actor-max", "2"]);
        world.add_run_args(&["--unfinished-per-partition-max", "5"]);
        let (_node, client, mut host) = host(&world).await;
        tell(&client, "a", 1).await.expect("it runs");
        let running = host.next_turn().await;
        for _ in 0..2 {
            tell(&client, "a", 1).await.expect("it waits");
        }
        assert_over(tell(&client, "a", 1).await, "queue_per_actor_max");
        // Nobody else is held up by that, until the partition is full as well.
        tell(&client, "b", 1).await.expect("another actor's");
        let other = host.next_turn().await;
        assert_eq!(other.target(), ("A", "b"));
        tell(&client, "b", 1).await.expect("the fifth");
        assert_over(tell(&client, "c", 1).await, "unfinished_per_partition_max");
        running.finish(&json!(null)).await;
        wait::until_true("room for one more", READY_LIMIT, async || {
            tell(&client, "c", 1).await.is_ok()
        })
        .await;
    });
}

#[test]
fn what_is_too_long_is_refused_by_the_name_of_its_flag() {
    test(async {
        let world = World::new("long");
        world.add_run_args(&["--message-bytes-max", "1000"]);
        let (_node, client, mut host) = host(&world).await;
        let status = tell(&client, "a", 2_000).await;
        let status = assert_error(status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        assert_eq!(metadata(&status, "limit"), "message_bytes_max", "{status:?}");
        assert_eq!(metadata(&status, "value"), "1000", "{status:?}");
        tell(&client, "a", 900).await.expect("it is no longer than it may be");
        host.next_turn().await.finish(&json!(null)).await;
    });
}

#[test]
fn more_subscriptions_than_a_partition_may_have_are_refused() {
    test(async {
        let world = World::new("subscriptions");
        world.add_run_args(&["--partitions", "1", "--subscriptions-per-partition-max", "2"]);
        let (_node, client, _host) = host(&world).await;
        client.create_topic("t", 1).await.expect("created");
        let subscribe = async |name: &str| {
            client.subscribe(to_actors(name, "t", ("A", "partitionkey"), "m")).await
        };
        // The topics' own kind may have more partitions: they fill up one by one.
        let mut made = Vec::new();
        let refused = loop {
            let name = format!("s{}", made.len());
            match subscribe(&name).await {
                Ok(_) => made.push(name),
                Err(refused) => break refused,
            }
            assert!(made.len() < 2_000, "nothing is ever refused");
        };
        assert_over(Err::<(), _>(refused), "subscriptions_per_partition_max");
        assert_eq!(client.subscriptions().await.expect("listed").len(), made.len());
        // Settings of what is there can be changed all the same, and what goes makes room.
        subscribe(&made[0]).await.expect("it is there already");
        for name in &made {
            let request = UnsubscribeRequest { name: name.clone() };
            client.event().unsubscribe(request).await.expect("unsubscribed");
        }
        subscribe("again").await.expect("there is room");
    });
}

#[test]
fn settings_of_subscriptions_are_bounded_in_bytes() {
    test(async {
        let world = World::new("settings");
        world.add_run_args(&["--subscriptions-bytes-per-partition-max", "4000"]);
        let (_node, client, _host) = host(&world).await;
        client.create_topic("t", 1).await.expect("created");
        let long = to_actors("", "t", ("A", "partitionkey"), &"m".repeat(200));
        let mut made = 0;
        let refused = loop {
            let one = Subscription { name: format!("long-{made}"), ..long.clone() };
            match client.subscribe(one).await {
                Ok(_) => made += 1,
                Err(refused) => break refused,
            }
            assert!(made < 2_000, "nothing is ever refused");
        };
        assert!(made > 0, "nothing fits in: {refused:?}");
        assert_over(Err::<(), _>(refused), "subscriptions_bytes_per_partition_max");
    });
}

#[test]
fn retries_follow_the_nodes_defaults_where_nobody_says_otherwise() {
    test(async {
        let world = World::new("defaults");
        world.add_run_args(&["--retry-attempts-max", "3", "--retry-initial-ms", "20"]);
        world.add_run_args(&["--retry-multiplier-percent", "300", "--retry-max-ms", "50"]);
        let (_node, client, mut host) = host(&world).await;
        let caller = client.clone();
        let call = tokio::spawn(async move {
            let request = CallActorRequest {
                actor: Some(kar_tests::reminders::actor("A", "a")),
                method: "m".into(),
                payload: Some(bytes(&json!(null))),
                ..CallActorRequest::default()
            };
            caller.invocation().call_actor(request).await
        });
        let mut began = Vec::new();
        for attempt in 1..=3 {
            let turn = host.next_turn().await;
            assert_eq!(turn.frame.attempt, attempt);
            began.push(std::time::Instant::now());
            turn.fail_for_now("Busy").await;
        }
        let answer = call.await.expect("no panic").expect("answered").into_inner();
        let Some(kar_proto::v1::call_actor_response::Result::Error(error)) = answer.result else {
            panic!("{answer:?}")
        };
        assert_eq!(error.code, "Busy", "the third one was the last");
        // 20 ms, then three times as long, but no longer than 50; less by chance, at most by half.
        let pauses: Vec<u128> = began.windows(2).map(|w| (w[1] - w[0]).as_millis()).collect();
        println!("pauses: {pauses:?} ms");
        assert!(pauses[0] >= 10 && pauses[1] >= 25, "{pauses:?}");
    });
}
