//! Topics with real processes: publishing, consuming, and what is refused.

mod consuming;
mod delivery;
mod killed;
mod people;
mod publishing;
mod rust_consumer;
mod subscriptions;
mod terminal;

use kar_proto::v1::request::Operation;
use kar_proto::v1::response::Result as Answer;
use kar_proto::v1::{
    CreateTopicRequest, DeleteTopicRequest, Event, ListTopicsRequest, Payload, PublishBatchRequest,
    PublishRequest,
};
use kar_sdk::{Host, HostBuilder};
use kar_tests::component::{Component, hello};
use kar_tests::errors::{assert_error, metadata};
use kar_tests::events::{consume, publication};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, World, test, wait};
use serde_json::{Value, json};
use tonic::Code;

/// A node whose component hosts customers, and a topic `orders`.
async fn customers(world: &World, partitions: i32) -> (Node, Client, Component) {
    let node = world.bare("a").await;
    let client = node.client().await;
    client.create_topic("orders", partitions).await.expect("created");
    let host = Component::connect(&client, hello(&[], &["Customer"])).await.expect("welcome");
    (node, client, host)
}

/// A node beside which the Rust SDK hosts this, a client of it, and a topic `orders`.
async fn beside(world: &World, host: HostBuilder) -> (Node, Host, kar_sdk::Client) {
    let node = world.bare("a").await;
    node.client().await.create_topic("orders", 1).await.expect("created");
    let host = host.socket(&node.socket).start().await.expect("it hosts");
    let client = host.client();
    (node, host, client)
}

/// A request to publish an order of somebody.
fn about(subject: &str, data: &Value) -> PublishRequest {
    let mut request = publication("orders", subject, data);
    let event = request.event.get_or_insert_with(Event::default);
    event.subject = subject.into();
    event.r#type = "order.created".into();
    request
}

/// Waits until every subscription has this lag.
async fn lag(client: &Client, wanted: i64) {
    wait::until("the lag", READY_LIMIT, async || {
        let all = client.subscriptions().await.expect("listed");
        all.iter().all(|info| info.lag == wanted).then_some(())
    })
    .await;
}

#[test]
fn what_one_node_publishes_another_one_consumes() {
    test(async {
        let world = World::new("across");
        let (a, b) = (world.bare("a").await, world.bare("b").await);
        let (a, b) = (a.client().await, b.client().await);
        let topic = a.create_topic("orders", 2).await.expect("created");
        let mut consumer = b.consume(consume("orders", "")).await.expect("opened");
        assert_eq!(consumer.opened.topic_id, topic.id);
        assert_eq!(consumer.opened.positions, ["0/1", "1/1"]);
        let mut published = Vec::new();
        for n in 0..10 {
            published
                .push(a.publish(publication("orders", "k", &json!(n))).await.expect("durable"));
        }
        let got = consumer.events(10).await.expect("they come");
        let wanted: Vec<_> = published.into_iter().zip(0..).map(|(at, n)| (at, json!(n))).collect();
        assert_eq!(got, wanted, "one key: one partition, in order");
        // An event that says nothing is filled in.
        let mut first = consume("orders", "");
        first.json = true;
        let mut again = b.consume(first).await.expect("opened");
        let event = again.answer().await.expect("it comes").event.expect("an event");
        assert_eq!((event.source.as_str(), event.r#type.as_str()), ("/across/a", "kar.event"));
        assert_eq!(event.attributes["partitionkey"], "k");
        assert!(!event.id.is_empty() && event.time.is_some());
    });
}

#[test]
fn topics_are_created_listed_and_deleted() {
    test(async {
        let world = World::new("topics");
        let node = world.bare("a").await;
        let client = node.client().await;
        let orders = client.create_topic("orders", 3).await.expect("created");
        let again = client.create_topic("orders", 3).await.expect("there is one like it");
        assert_eq!(again, orders);
        let other = client.create_topic("orders", 4).await;
        let status = assert_error(other, Code::AlreadyExists, "TOPIC_EXISTS");
        assert_eq!(metadata(&status, "setting"), "partitions");
        let plain = CreateTopicRequest { topic: "plain".into(), ..Default::default() };
        let plain = client.event().create_topic(plain).await.expect("created").into_inner();
        let plain = plain.topic.expect("told");
        assert_eq!((plain.partitions, plain.retention_bytes), (4, 1 << 30));
        assert_eq!(plain.retention_time.expect("seven days").seconds, 604_800);
        let listed = client.event().list_topics(ListTopicsRequest::default()).await;
        let listed = listed.expect("listed").into_inner().topics;
        let names: Vec<_> = listed.iter().flat_map(|t| &t.topic).map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["orders", "plain"]);
        let mut consumer = client.consume(consume("orders", "c")).await.expect("opened");
        let delete = |id: &str| DeleteTopicRequest { topic: "orders".into(), id: id.into() };
        let deleted = client.event().delete_topic(delete("another")).await.expect("answered");
        assert!(!deleted.into_inner().existed);
        let deleted = client.event().delete_topic(delete(&orders.id)).await.expect("answered");
        assert!(deleted.into_inner().existed);
        assert_error(consumer.event().await, Code::NotFound, "UNKNOWN_TOPIC");
        let gone = client.publish(publication("orders", "", &json!(1))).await;
        assert_error(gone, Code::NotFound, "UNKNOWN_TOPIC");
        // One that is created anew is another one, for who had the old one in mind, too.
        let new = client.create_topic("orders", 1).await.expect("created");
        assert_ne!(new.id, orders.id);
        assert_eq!(client.publish(publication("orders", "", &json!(1))).await.expect("new"), "0/1");
    });
}

#[test]
fn a_request_id_makes_a_retry_safe_from_every_node() {
    test(async {
        let world = World::new("requests");
        let (a, b) = (world.bare("a").await, world.bare("b").await);
        let (a, b) = (a.client().await, b.client().await);
        a.create_topic("t", 4).await.expect("created");
        let request =
            |id: &str| PublishRequest { request_id: id.into(), ..publication("t", "", &json!(id)) };
        let first = a.publish(request("r1")).await.expect("durable");
        let again = b.event().publish(request("r1")).await.expect("durable").into_inner();
        assert_eq!((again.position, again.repeated_request), (first.clone(), true));
        let batch = || PublishBatchRequest {
            events: vec![request("r1"), request(""), request(""), request("r2")],
            request_id: "whole".into(),
        };
        let done = a.event().publish_batch(batch()).await.expect("durable").into_inner().events;
        let repeated: Vec<_> = done.iter().map(|event| event.repeated_request).collect();
        assert_eq!(repeated, [true, false, false, false]);
        assert_eq!(done[0].position, first);
        let again = b.event().publish_batch(batch()).await.expect("durable").into_inner().events;
        assert!(again.iter().all(|event| event.repeated_request));
        let places = |events: &[kar_proto::v1::PublishResponse]| {
            events.iter().map(|event| event.position.clone()).collect::<Vec<_>>()
        };
        assert_eq!(places(&again), places(&done));
        let view = a.topic("t").await.expect("it is there");
        assert_eq!(view.partitions.iter().map(|p| p.end - 1).sum::<i64>(), 4);
        assert_eq!(a.figure("events_published").await.expect("counted"), Some(4));
    });
}

#[test]
fn what_is_no_event_is_refused_by_its_field() {
    test(async {
        let world = World::new("malformed");
        let node = world.bare("a").await;
        let client = node.client().await;
        client.create_topic("t", 1).await.expect("created");
        let with =
            |event: Event| PublishRequest { event: Some(event), ..publication("t", "", &json!(1)) };
        let attribute = |name: &str, value: &str| {
            with(Event { attributes: [(name.into(), value.into())].into(), ..Event::default() })
        };
        let late = prost_types::Timestamp { seconds: 253_402_300_800, nanos: 0 };
        let content_type = Payload { content_type: "json".into(), ..Payload::default() };
        for (request, field) in [
            (with(Event { source: "no uri".into(), ..Event::default() }), "event.source"),
            (with(Event { r#type: "a\nb".into(), ..Event::default() }), "event.type"),
            (
                with(Event { data: Some(content_type), ..Event::default() }),
                "event.data.content_type",
            ),
            (with(Event { data_schema: "x".into(), ..Event::default() }), "event.data_schema"),
            (with(Event { id: "i".repeat(1_025), ..Event::default() }), "event.id"),
            (with(Event { subject: "a\0".into(), ..Event::default() }), "event.subject"),
            (with(Event { time: Some(late), ..Event::default() }), "event.time"),
            (attribute("x", &"v".repeat(1_025)), "event.attributes.x"),
            (attribute("Not-Lower", "x"), "event.attributes"),
            (attribute("specversion", "1.0"), "event.attributes"),
            (attribute("empty", ""), "event.attributes.empty"),
            (PublishRequest { topic: "-bad-".into(), ..Default::default() }, "topic"),
            (
                PublishRequest { request_id: "r".repeat(129), ..with(Event::default()) },
                "request_id",
            ),
        ] {
            let status = assert_error(
                client.publish(request.clone()).await,
                Code::InvalidArgument,
                "INVALID_FIELD",
            );
            assert_eq!(metadata(&status, "field"), field, "{status:?}");
            // Nothing of a batch is published if one of it is none.
            let events = vec![publication("t", "", &json!(1)), request];
            let batch = PublishBatchRequest { events, ..Default::default() };
            let status = client.event().publish_batch(batch).await;
            let status = assert_error(status, Code::InvalidArgument, "INVALID_FIELD");
            assert_eq!(metadata(&status, "field"), format!("events[1].{field}"), "{status:?}");
        }
        let large = json!("x".repeat(4 << 20));
        let large = client.publish(publication("t", "", &large)).await;
        let status = assert_error(large, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        assert_eq!(metadata(&status, "limit"), "message_bytes_max");
        // Each of them would fit.
        let batch = vec![publication("t", "", &json!("x".repeat(3 << 20))); 6];
        let batch = PublishBatchRequest { events: batch, ..Default::default() };
        let status = client.event().publish_batch(batch).await;
        let status = assert_error(status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        assert_eq!(metadata(&status, "limit"), "transport_message_bytes_max");
        assert!(status.message().contains("send less at once"), "{status:?}");
        let many = vec![publication("t", "", &json!(1)); 1_001];
        let many = PublishBatchRequest { events: many, ..Default::default() };
        let status = client.event().publish_batch(many).await;
        let status = assert_error(status, Code::ResourceExhausted, "LIMIT_REACHED");
        assert_eq!(metadata(&status, "limit"), "publish_batch_events_max");
        let unknown = client.publish(publication("nothing", "", &json!(1))).await;
        let status = assert_error(unknown, Code::NotFound, "UNKNOWN_TOPIC");
        assert_eq!(metadata(&status, "topic"), "nothing");
        // Nothing of a batch is published if a topic of one is none.
        let events = vec![publication("t", "", &json!(1)), publication("nothing", "", &json!(1))];
        let batch = PublishBatchRequest { events, ..Default::default() };
        let status = client.event().publish_batch(batch).await;
        assert_error(status, Code::NotFound, "UNKNOWN_TOPIC");
        for request in [
            CreateTopicRequest { topic: "x".into(), partitions: 257, ..Default::default() },
            CreateTopicRequest { topic: "x".into(), partitions: -1, ..Default::default() },
            CreateTopicRequest { topic: "x".into(), retention_bytes: 5, ..Default::default() },
            CreateTopicRequest { topic: String::new(), ..Default::default() },
        ] {
            let answer = client.event().create_topic(request).await;
            assert_error(answer, Code::InvalidArgument, "INVALID_FIELD");
        }
        assert_eq!(client.topic("t").await.expect("it is there").partitions[0].end, 1);
    });
}

#[test]
fn topics_are_used_on_the_components_stream_too() {
    test(async {
        let world = World::new("stream");
        let node = world.bare("a").await;
        let client = node.client().await;
        let stream = Component::connect(&client, hello(&[], &[])).await.expect("welcome");
        let handle = stream.handle();
        let create = CreateTopicRequest { topic: "t".into(), partitions: 1, ..Default::default() };
        let answer = handle.request(Operation::CreateTopic(create)).await.expect("created");
        assert!(matches!(answer, Answer::CreateTopic(created) if created.created));
        let publish = publication("t", "k", &json!("hello"));
        let answer = handle.request(Operation::Publish(publish.clone())).await.expect("durable");
        assert!(matches!(answer, Answer::Publish(published) if published.position == "0/1"));
        let batch = PublishBatchRequest { events: vec![publish; 2], ..Default::default() };
        let answer = handle.request(Operation::PublishBatch(batch)).await.expect("durable");
        assert!(matches!(answer, Answer::PublishBatch(published) if published.events.len() == 2));
        let wrong = handle.request(Operation::Publish(publication("none", "", &json!(1)))).await;
        assert_error(wrong, Code::NotFound, "UNKNOWN_TOPIC");
    });
}
