//! Topics on the command line, and through the Rust SDK.

use std::time::Duration;

use kar_sdk::{CallError, EventFilter, Kar, NewEvent, NewTopic, Start};
use kar_tests::{World, process, test};
use serde_json::{Value, json};

/// What a command printed, a JSON document a line.
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON document a line")).collect()
}

#[test]
fn people_publish_and_subscribe_on_the_terminal() {
    test(async {
        let world = World::new("terminal");
        let unknown = world.kar_here("publish", &["orders", "1"]).await;
        assert_eq!(unknown.code, 4, "{unknown:?}");
        let created = world.kar_here("topic create", &["orders", "--partitions", "1"]).await;
        assert_eq!((created.code, created.stdout.trim()), (0, "created"), "{created:?}");
        let again = world.kar_here("topic create", &["orders", "--partitions", "2"]).await;
        assert_eq!(again.code, 8, "{again:?}");
        for (n, kind) in [("1", "order.created"), ("2", "order.deleted"), ("3", "order.created")] {
            let data = format!(r#"{{"id":{n}}}"#);
            let words =
                ["orders", &data, "--type", kind, "--key", "alice", "--attribute", "country=ch"];
            let published = world.kar_here("publish", &words).await;
            assert_eq!(published.stdout.trim(), format!("0/{n}"), "{published:?}");
        }
        let wrong = world.kar_here("publish", &["orders", "1", "--attribute", "No-Name=x"]).await;
        assert_eq!(wrong.code, 2, "{wrong:?}");
        let all = ["orders", "--from", "earliest", "--limit", "3", "-o", "json"];
        let got = world.kar_here("subscribe", &all).await;
        let events = lines(&got.stdout);
        assert_eq!((got.code, events.len()), (0, 3), "{got:?}");
        assert_eq!(events[1]["type"], "order.deleted");
        assert_eq!(events[2]["data"], json!({"id": 3}));
        assert_eq!(events[0]["karPosition"], "0/1");
        assert_eq!(events[0]["country"], "ch");
        // With a name it goes on where it was.
        let exact = "type=order.created";
        let named = ["orders", "--from", "earliest", "--consumer", "me", "--exact", exact];
        for n in ["1", "3"] {
            let got = world.kar_here("subscribe", &[&named[..], &["--limit", "1"]].concat()).await;
            assert!(got.stdout.contains(&format!(r#"{{"id":{n}}}"#)), "{got:?}");
        }
        let listed = world.kar_here("get topics", &["-o", "json"]).await;
        let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
        assert_eq!((&listed[0]["name"], &listed[0]["events"]), (&json!("orders"), &json!(3)));
        assert_eq!(listed[0]["consumers"][0]["lag"], 0);
        let table = world.kar_here("get topics", &[]).await;
        assert!(table.stdout.starts_with("TOPIC"), "{table:?}");
        let forgotten = world.kar_here("topic forget", &["orders", "me"]).await;
        assert_eq!(forgotten.code, 0, "{forgotten:?}");
        let deleted = world.kar_here("topic delete", &["orders"]).await;
        assert_eq!(deleted.code, 0, "{deleted:?}");
        assert_eq!(world.kar_here("topic delete", &["orders"]).await.code, 4);
    });
}

#[test]
fn the_rust_sdk_publishes_and_follows() {
    test(async {
        let world = World::new("sdk");
        let a = world.bare("a").await;
        let client = Kar::builder().socket(&a.socket).connect().await.expect("connected");
        let topic = client.topic("orders");
        let settings = || NewTopic::default().partitions(2).keep_forever();
        assert!(topic.create(settings()).await.expect("created"));
        assert!(!topic.create(settings()).await.expect("it is there"));
        let other = topic.create(settings().partitions(3)).await.expect_err("another one");
        assert!(
            matches!(&other, CallError::Rejected(r) if r.metadata["setting"] == "partitions"),
            "{other}"
        );
        let event = |n: i64| NewEvent::new("order.created", &n).key("alice").attribute("n", "x");
        let first = topic.publish(event(0).request_id("r")).await.expect("durable");
        let again = topic.publish(event(0).request_id("r")).await.expect("durable");
        assert!(again.again && again.position == first.position);
        let more = topic.publish_all((1..4).map(event)).await.expect("durable");
        assert_eq!(more.len(), 3);
        let mut plain = topic.consume().open().await.expect("opened");
        let mut named = topic.consume().named("c").open().await.expect("opened");
        for n in 0..4 {
            for consumer in [&mut plain, &mut named] {
                let received = consumer.next().await.expect("it comes");
                assert_eq!(received.event.data::<i64>().expect("a number"), n);
                assert_eq!(received.event.kind, "order.created");
                consumer.acknowledge(&received);
                consumer.flush().await.expect("durable");
            }
        }
        let view = topic.describe().await.expect("it is there");
        assert_eq!(view.partitions.iter().map(|one| one.end - one.start).sum::<u64>(), 4);
        assert_eq!((&*view.consumers[0].name, view.consumers[0].lag), ("c", 0));
        // Both go on by themselves when the hub is lost.
        let hub = world.hub().await;
        process::kill(hub);
        process::gone(hub, Duration::from_secs(10)).await;
        topic.publish(event(4)).await.expect("durable");
        for consumer in [&mut plain, &mut named] {
            let received = consumer.next().await.expect("it comes");
            assert_eq!(received.event.data::<i64>().expect("a number"), 4);
        }
        let filter = EventFilter::exact("type", "other").or(EventFilter::exact("n", "x").not());
        let filtered = topic.consume().filter(filter).start(Start::Latest).open().await;
        let mut filtered = filtered.expect("opened");
        topic.publish_all([event(5), NewEvent::new("other", &6)]).await.expect("durable");
        let received = filtered.next().await.expect("it comes");
        assert_eq!(received.event.data::<i64>().expect("a number"), 6);
        let other = topic.consume().named("c").open().await.expect("opened");
        let over = loop {
            if let Err(error) = named.next().await {
                break error;
            }
        };
        assert!(
            matches!(&over, CallError::Rejected(r) if r.reason == "CONSUMER_TAKEN_OVER"),
            "{over}"
        );
        drop(other);
        assert!(topic.forget("c").await.expect("ok") && !topic.forget("c").await.expect("ok"));
        assert!(topic.delete().await.expect("ok") && !topic.delete().await.expect("ok"));
        let unknown = client.topic("none").publish(event(0)).await.expect_err("unknown");
        assert!(
            matches!(&unknown, CallError::Rejected(r) if r.reason == "UNKNOWN_TOPIC"),
            "{unknown}"
        );
    });
}
