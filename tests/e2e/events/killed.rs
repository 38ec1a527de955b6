//! Nodes and hubs killed while events go through.

use std::collections::BTreeMap;
use std::time::Duration;

use kar_proto::v1::PublishRequest;
use kar_tests::events::{consume, publication};
use kar_tests::{Client, World, process, test, test_within};
use serde_json::json;

/// Kills the hub and waits until it is gone.
async fn kill_hub(world: &World) {
    let hub = world.hub().await;
    process::kill(hub);
    process::gone(hub, Duration::from_secs(10)).await;
}

#[test]
fn a_consumer_goes_on_when_the_hub_or_its_node_is_killed() {
    test(async {
        let world = World::new("resume");
        let a = world.bare("a").await;
        let (b, c) = (world.bare("b").await, world.bare("c").await);
        let (publisher, first) = (a.client().await, b.client().await);
        publisher.create_topic("t", 1).await.expect("created");
        let publish = async |n: i32| {
            publisher.publish(publication("t", "", &json!(n))).await.expect("durable");
        };
        for n in 0..4 {
            publish(n).await;
        }
        let mut consumer = first.consume(consume("t", "c")).await.expect("opened");
        let got = consumer.events(4).await.expect("they come");
        consumer.acknowledge_durably(&[&got[0].0, &got[2].0]).await.expect("durable");
        // The hub is lost, and the stream goes on as if nothing had been.
        kill_hub(&world).await;
        publish(4).await;
        let (position, n) = consumer.event().await.expect("it comes");
        assert_eq!(n, json!(4));
        consumer.acknowledge_durably(&[&position]).await.expect("durable");
        // The node is lost: what was not acknowledged comes again at another one, and nothing else.
        b.kill_sidecar();
        assert!(consumer.event().await.is_err());
        publish(5).await;
        let second = c.client().await;
        let mut consumer = second.consume(consume("t", "c")).await.expect("opened");
        let rest = consumer.events(3).await.expect("they come");
        assert_eq!(rest.iter().map(|(_, n)| n.clone()).collect::<Vec<_>>(), [1, 3, 5]);
        let all: Vec<_> = rest.iter().map(|(position, _)| position.as_str()).collect();
        consumer.acknowledge_durably(&all).await.expect("durable");
        drop(consumer);
        kill_hub(&world).await;
        publish(6).await;
        let mut consumer = second.consume(consume("t", "c")).await.expect("opened");
        assert_eq!(consumer.event().await.expect("it comes").1, json!(6));
    });
}

const EVENTS: i64 = 600;
const KEYS: i64 = 5;
const KILLS: i64 = 6;

/// Publishes numbers, each by a request of its own id, again whenever the outcome is unknown.
async fn publish_all(client: &Client) {
    for n in 0..EVENTS {
        let request = PublishRequest {
            request_id: format!("r{n}"),
            ..publication("t", &format!("k{}", n % KEYS), &json!(n))
        };
        while let Err(status) = client.publish(request.clone()).await {
            let reason = kar_tests::errors::reason(&status);
            assert!(
                ["OUTCOME_UNKNOWN", "BACKEND_UNAVAILABLE"].contains(&reason.as_str()),
                "{status:?}"
            );
        }
    }
}

/// The hub is killed again and again while one node publishes and another one consumes: every event is consumed, once
/// each unless it was not acknowledged, and those of a key in order.
#[test]
fn nothing_is_lost_or_repeated_while_the_hub_is_killed() {
    test_within(Duration::from_secs(120), async {
        let world = World::new("storm");
        let (a, b) = (world.bare("a").await, world.bare("b").await);
        let (publisher, client) = (a.client().await, b.client().await);
        publisher.create_topic("t", 3).await.expect("created");
        let publishing = publish_all(&publisher);
        let consuming = async {
            let mut consumer = client.consume(consume("t", "c")).await.expect("opened");
            let mut seen: BTreeMap<i64, i64> = BTreeMap::new();
            let mut kills = 0;
            for count in 1..=EVENTS {
                let (position, n) = consumer.event().await.expect("it comes");
                let n = n.as_i64().expect("a number");
                let before = seen.insert(n % KEYS, n);
                assert_eq!(before.unwrap_or(n % KEYS - KEYS) + KEYS, n, "once, and in order");
                consumer.acknowledge(&[&position]).await;
                if kills < KILLS && count % (EVENTS / KILLS) == EVENTS / KILLS / 2 {
                    kills += 1;
                    kill_hub(&world).await;
                }
            }
            assert_eq!(kills, KILLS);
        };
        tokio::join!(publishing, consuming);
        let view = client.topic("t").await.expect("it is there");
        assert_eq!(view.partitions.iter().map(|p| p.end - 1).sum::<i64>(), EVENTS);
    });
}
