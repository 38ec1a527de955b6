//! Consumers of the Rust SDK whose sidecars are killed under them.

use std::time::Duration;

use kar_sdk::{CallError, Consumer, Kar, NewEvent};
use kar_tests::events::publication;
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, World, test};
use serde_json::json;

/// How often its sidecar is killed.
const KILLS: i64 = 4;
/// Numbers that are published before a kill, and again as many after it.
const HALF: i64 = 50;
/// Events that may be ahead of the program.
const AHEAD: u16 = 8;

/// A topic of one partition, a consumer of it at a node of its own, and a client of another node.
struct Following {
    world: std::rc::Rc<World>,
    client: Client,
    node: Node,
    consumer: Consumer,
    _front: Node,
}

impl Following {
    async fn begin(name: &str) -> Self {
        let world = World::new("follow");
        let front = world.bare("front").await;
        let client = front.client().await;
        client.create_topic("numbers", 1).await.expect("created");
        let node = world.bare("node").await;
        let kar = Kar::builder().socket(&node.socket).connect().await.expect("connected");
        let consume = kar.topic("numbers").consume().named(name).ahead(AHEAD);
        let consumer = consume.open().await.expect("opened");
        Self { world, client, node, consumer, _front: front }
    }

    async fn publish(&self, numbers: std::ops::Range<i64>) {
        for number in numbers {
            let request = publication("numbers", "", &json!(number));
            self.client.publish(request).await.expect("durable");
        }
    }

    /// Takes these numbers, and acknowledges them.
    async fn take(&mut self, numbers: std::ops::Range<i64>) {
        for number in numbers {
            let received = self.expect(number).await;
            self.consumer.acknowledge(&received);
        }
    }

    async fn expect(&mut self, number: i64) -> kar_sdk::Received {
        let received = tokio::time::timeout(READY_LIMIT, self.consumer.next()).await;
        let received = received.expect("it goes on").expect("it comes");
        assert_eq!(received.event.data::<i64>().expect("a number"), number, "once, and in order");
        received
    }

    async fn kill(&mut self) {
        self.node.kill_sidecar();
        self.node.ended(READY_LIMIT).await;
    }

    async fn come_back(&mut self) {
        self.node = self.world.bare("node").await;
    }
}

#[test]
fn a_consumer_is_given_each_event_once_though_its_sidecar_is_killed() {
    for name in ["audit", ""] {
        test(followed_under_kills(name));
    }
}

async fn followed_under_kills(name: &str) {
    let mut following = Following::begin(name).await;
    let mut next = 0;
    for _ in 0..KILLS {
        let (middle, end) = (next + HALF, next + 2 * HALF);
        following.publish(next..middle).await;
        following.take(next..middle - 10).await;
        // Two are with the program while the sidecar is lost, some are acknowledged and not known to be durable.
        let held = [following.expect(middle - 10).await, following.expect(middle - 9).await];
        following.kill().await;
        following.consumer.acknowledge(&held[1]);
        following.publish(middle..end).await;
        following.come_back().await;
        following.take(middle - 8..end).await;
        following.consumer.acknowledge(&held[0]);
        next = end;
    }
    following.consumer.flush().await.expect("durable");
    if !name.is_empty() {
        let topic = following.client.topic("numbers").await.expect("it is there");
        assert_eq!(topic.consumers[0].lag, 0, "flushed is durable");
    }
}

/// What was acknowledged before the sidecar was lost is not lost with it, and what was not comes to the next one.
#[test]
fn another_consumer_of_the_name_gets_what_is_not_acknowledged_and_nothing_else() {
    test(async {
        let mut following = Following::begin("audit").await;
        following.publish(0..4).await;
        following.take(0..1).await;
        let _unacknowledged = following.expect(1).await;
        following.take(2..3).await;
        following.kill().await;
        following.come_back().await;
        following.consumer.flush().await.expect("durable");
        let kar = Kar::builder().socket(&following.node.socket).connect().await;
        let topic = kar.expect("connected").topic("numbers");
        let mut second = topic.consume().named("audit").open().await.expect("opened");
        for number in [1, 3] {
            let received = second.next().await.expect("it comes");
            assert_eq!(received.event.data::<i64>().expect("a number"), number);
        }
        // It is over for the first one, maybe after what it had been given before; it does not take the name back,
        // however often it is asked.
        let first = match following.consumer.next().await {
            Ok(_) => following.consumer.next().await,
            over => over,
        };
        for over in [first, following.consumer.next().await] {
            let over = over.expect_err("taken over");
            assert!(
                matches!(&over, CallError::Rejected(r) if r.reason == "CONSUMER_TAKEN_OVER"),
                "{over}"
            );
        }
        topic.publish(NewEvent::new("e", &4)).await.expect("durable");
        let received = second.next().await.expect("it comes");
        assert_eq!(received.event.data::<i64>().expect("a number"), 4);
    });
}

/// A topic that is created anew while nobody looks is not taken for the old one.
#[test]
fn a_topic_that_is_created_anew_is_another_one() {
    for name in ["audit", ""] {
        test(async {
            let mut following = Following::begin(name).await;
            following.publish(0..2).await;
            following.take(0..2).await;
            following.kill().await;
            let delete =
                kar_proto::v1::DeleteTopicRequest { topic: "numbers".into(), ..Default::default() };
            following.client.event().delete_topic(delete).await.expect("deleted");
            following.client.create_topic("numbers", 1).await.expect("created");
            following.publish(10..14).await;
            following.come_back().await;
            for _ in 0..2 {
                let next = tokio::time::timeout(READY_LIMIT, following.consumer.next()).await;
                let over = next.expect("it is told").expect_err("gone");
                assert!(
                    matches!(&over, CallError::Rejected(r) if r.reason == "UNKNOWN_TOPIC"),
                    "{over}"
                );
            }
        });
    }
}

/// Whoever comes too late is told how much it has missed.
#[test]
fn what_was_let_go_is_counted() {
    test(async {
        let world = World::new("late");
        let node = world.bare("a").await;
        let client = node.client().await;
        let topic = kar_proto::v1::CreateTopicRequest {
            topic: "numbers".into(),
            partitions: 1,
            retention_bytes: 1 << 20,
            ..Default::default()
        };
        client.event().create_topic(topic).await.expect("created");
        let kar = Kar::builder().socket(&node.socket).connect().await.expect("connected");
        let consume = || kar.topic("numbers").consume().named("c");
        drop(consume().open().await.expect("opened"));
        for n in 0..40 {
            let data = json!([n, "x".repeat(100 << 10)]);
            client.publish(publication("numbers", "", &data)).await.expect("durable");
        }
        kar_tests::wait::until_true("old events to go", Duration::from_secs(30), async || {
            client.topic("numbers").await.expect("it is there").partitions[0].start > 20
        })
        .await;
        let mut consumer = consume().open().await.expect("opened");
        let received = consumer.next().await.expect("it comes");
        let data: (u64, String) = received.event.data().expect("as published");
        assert_eq!(consumer.skipped(), data.0, "all before it");
    });
}
