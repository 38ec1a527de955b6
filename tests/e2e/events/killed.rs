//! Nodes and hubs killed while events go through.

use std::collections::BTreeMap;
use std::time::Duration;

use kar_proto::v1::{ActorTarget, GetAllRequest, PublishRequest};
use kar_tests::events::{consume, publication, to_actors};
use kar_tests::fire::nothing_left;
use kar_tests::grpc::value;
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, World, process, test, test_within};
use rustix::process::Signal;
use serde_json::json;

use super::lag;

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

/// Numbers that are published while one node after the other is restarted in order.
const ROLLED: i64 = 200;
/// How many of them between two restarts.
const BETWEEN: i64 = 25;

/// Subscriptions, and whom they deliver to, are handed over: nobody is told twice, late, or in another order.
#[test]
fn a_rolling_restart_loses_and_repeats_nothing() {
    test_within(Duration::from_secs(120), async {
        let world = World::new("rolling");
        let front = world.bare("front").await;
        let client = front.client().await;
        client.create_topic("t", 2).await.expect("created");
        let mut nodes = [world.app("a", &["ears"]).await, world.app("b", &["ears"]).await];
        for node in &nodes {
            node.hosts("Ear").await;
        }
        let to_ears = to_actors("ears", "t", ("Ear", "partitionkey"), "hear");
        client.subscribe(to_ears).await.expect("subscribed");
        for n in 0..ROLLED {
            let request = publication("t", &format!("k{}", n % KEYS), &json!(n));
            client.publish(request).await.expect("durable");
            if n % BETWEEN == BETWEEN / 2 {
                let node = &mut nodes[usize::try_from(n / BETWEEN % 2).expect("an index")];
                node.signal(Signal::TERM);
                node.ended(READY_LIMIT).await;
                *node = world.app(&node.name, &["ears"]).await;
                node.hosts("Ear").await;
            }
        }
        lag(&client, 0).await;
        nothing_left(&world).await;
        for key in 0..KEYS {
            let actor = ActorTarget { r#type: "Ear".into(), id: format!("k{key}") };
            let request = GetAllRequest { actor: Some(actor), turn_token: String::new() };
            let state = client.actor_state().get_all(request).await.expect("read").into_inner();
            let heard = state.entries.get("journal").map(value);
            let wanted: Vec<_> = (0..ROLLED).filter(|n| n % KEYS == key).collect();
            assert_eq!(heard, Some(json!(wanted)), "once, and in order");
        }
    });
}
