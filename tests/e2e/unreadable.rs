//! What a newer version may have written, and this one does not understand: nothing is passed over silently, and
//! whoever asks is told where it stands still.

use bytes::Bytes;
use kar_hub::{ClientConfig, HubClient, LogName, NewEvent};
use kar_proto::v1::SubscriptionState;
use kar_tests::component::{Component, hello};
use kar_tests::errors::{assert_error, metadata};
use kar_tests::events::{consume, publication, to_service};
use kar_tests::world::READY_LIMIT;
use kar_tests::{World, test, wait};
use serde_json::json;
use tonic::Code;

/// No message of any kind.
const NONSENSE: Bytes = Bytes::from_static(&[0xff]);

/// Somebody who writes to the hub as sidecars do.
async fn writer(world: &World) -> HubClient {
    let mut config = ClientConfig::new(world.data_dir(), world.app.clone(), "writer");
    config.observer = true;
    HubClient::connect(config, |_| {}).await.expect("attached")
}

#[test]
fn an_event_that_is_not_understood_is_waited_at_and_named() {
    test(async {
        let world = World::new("unreadable");
        let node = world.bare("a").await;
        let client = node.client().await;
        let topic = client.create_topic("orders", 1).await.expect("created");
        let mut host = Component::connect(&client, hello(&["audit"], &[])).await.expect("welcome");
        client.publish(publication("orders", "k", &json!(1))).await.expect("durable");
        let event = NewEvent { partition: 0, request: 1, event: NONSENSE };
        let written = writer(&world).await.publish(&topic.id, vec![event]).await.expect("written");
        assert_eq!(written[0].offset, 2);
        client.publish(publication("orders", "k", &json!(3))).await.expect("durable");
        let audit = to_service("audit", "orders", "audit", "record");
        client.subscribe(audit).await.expect("subscribed");
        let turn = host.next_turn().await;
        assert_eq!(turn.argument(), json!(1), "what is before it is delivered");
        turn.finish(&json!(null)).await;
        wait::until_true("the subscription to say where it stands", READY_LIMIT, async || {
            let all = client.subscriptions().await.expect("listed");
            all[0].state() == SubscriptionState::Blocked && all[0].partitions[0].unreadable == 2
        })
        .await;
        assert_eq!(node.info().await.counters["events_unreadable"], 1);
        // Consumers are told, too, when they have what is before it.
        let mut consumer = client.consume(consume("orders", "")).await.expect("begun");
        assert_eq!(consumer.event().await.expect("there").1, json!(1));
        let error = consumer.event().await;
        let error = assert_error(error, Code::Unimplemented, "NOT_IMPLEMENTED");
        assert_eq!(metadata(&error, "position"), "0/2");
        let listed = world.kar_here("get subscriptions", &[]).await;
        assert!(listed.stdout.contains("blocked"), "{}", listed.stdout);
    });
}

#[test]
fn an_inbox_entry_that_is_not_understood_is_named() {
    test(async {
        let world = World::new("unreadable");
        let node = world.bare("a").await;
        let client = node.client().await;
        let host = Component::connect(&client, hello(&["audit"], &[])).await.expect("welcome");
        let partition = wait::until("a partition", READY_LIMIT, async || {
            node.info().await.partitions.into_iter().find(|name| name.starts_with("s.audit/"))
        })
        .await;
        assert!(node.info().await.faults.is_empty());
        let log = LogName::from(format!("{partition}.inbox"));
        writer(&world).await.append(log, 1, NONSENSE);
        let fault = wait::until("the fault", READY_LIMIT, async || {
            node.info().await.faults.into_iter().next()
        })
        .await;
        assert!(fault.contains(&partition) && fault.contains("entry 1"), "{fault}");
        assert_eq!(node.info().await.counters["inbox_entries_unreadable"], 1);
        let socket = node.socket.to_str().expect("the path is UTF-8");
        let data_dir = world.data_dir();
        let data_dir = data_dir.to_str().expect("the path is UTF-8");
        let doctor = world.kar(&["doctor", "--data-dir", data_dir, "--socket", socket]).await;
        assert!(doctor.code == 1 && doctor.stdout.contains(&fault), "{}", doctor.stdout);
        drop(host);
    });
}
