//! Consumers: where they begin, what they want, credits, names.

use std::time::SystemTime;

use kar_proto::v1::consume_start::Start;
use kar_proto::v1::event_filter::Dialect;
use kar_proto::v1::{
    AttributeValues, ConsumeRequest, ConsumeStart, CreateTopicRequest, DeleteConsumerRequest,
    Event, EventFilter, EventFilters, PublishRequest, StartPositions,
};
use kar_tests::errors::{assert_error, metadata};
use kar_tests::events::{consume, publication};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, World, test, wait};
use serde_json::json;
use tonic::Code;

/// A topic of one partition with these numbers.
async fn numbers(client: &Client, topic: &str, numbers: std::ops::Range<i32>) {
    client.create_topic(topic, 1).await.expect("created");
    for n in numbers {
        client.publish(publication(topic, "", &json!(n))).await.expect("durable");
    }
}

fn starting(topic: &str, start: Start) -> ConsumeRequest {
    ConsumeRequest { start: Some(ConsumeStart { start: Some(start) }), ..consume(topic, "") }
}

#[test]
fn a_consumer_begins_where_it_wants() {
    test(async {
        let world = World::new("begin");
        let node = world.bare("a").await;
        let client = node.client().await;
        numbers(&client, "t", 0..5).await;
        let mut all = client.consume(consume("t", "")).await.expect("opened");
        let mut third = None;
        for _ in 0..3 {
            third = all.answer().await.expect("it comes").publish_time;
        }
        let at = |text: &str| Start::Positions(StartPositions { positions: vec![text.into()] });
        let future: prost_types::Timestamp = (SystemTime::now() + READY_LIMIT * 100).into();
        for (start, positions) in [
            (Start::Earliest(true), "0/1"),
            (Start::Latest(true), "0/6"),
            (at("0/4"), "0/4"),
            (Start::Time(prost_types::Timestamp::default()), "0/1"),
            (Start::Time(future), "0/6"),
        ] {
            let consumer = client.consume(starting("t", start.clone())).await.expect("opened");
            assert_eq!(consumer.opened.positions, [positions], "{start:?}");
        }
        let third = third.expect("told");
        let mut consumer = client.consume(starting("t", Start::Time(third))).await.expect("opened");
        // Several events may have come in one millisecond.
        let answer = consumer.answer().await.expect("it comes");
        let time = |t: prost_types::Timestamp| (t.seconds, t.nanos);
        assert!(time(answer.publish_time.expect("told")) >= time(third));
        let mut latest = client.consume(starting("t", Start::Latest(true))).await.expect("opened");
        client.publish(publication("t", "", &json!(99))).await.expect("durable");
        assert_eq!(latest.event().await.expect("it comes"), ("0/6".into(), json!(99)));
        for (start, field) in [
            (Start::Earliest(false), "start.earliest"),
            (at("7/1"), "start.positions"),
            (at("0/0"), "start.positions"),
            (at("x"), "start.positions"),
        ] {
            let status = client.consume(starting("t", start)).await;
            let status = assert_error(status, Code::InvalidArgument, "INVALID_FIELD");
            assert_eq!(metadata(&status, "field"), field);
        }
    });
}

#[test]
fn no_more_comes_than_there_are_credits_for() {
    test(async {
        let world = World::new("credits");
        let node = world.bare("a").await;
        let client = node.client().await;
        numbers(&client, "t", 0..6).await;
        let first = ConsumeRequest { credits: 2, ..consume("t", "c") };
        let mut consumer = client.consume(first).await.expect("opened");
        let two = consumer.events(2).await.expect("they come");
        // An acknowledgement is answered, and no event comes before it: there is no credit.
        consumer.acknowledge(&[&two[0].0]).await;
        let answer = consumer.answer().await.expect("told");
        assert_eq!((answer.event, answer.acknowledged.len()), (None, 1));
        consumer.say(ConsumeRequest { credits: 3, ..Default::default() }).await;
        let more = consumer.events(3).await.expect("they come");
        assert_eq!(more.iter().map(|(_, n)| n.clone()).collect::<Vec<_>>(), [2, 3, 4]);
        consumer.say(ConsumeRequest { credits: -1, ..Default::default() }).await;
        assert_error(consumer.event().await, Code::InvalidArgument, "INVALID_FIELD");
    });
}

#[test]
fn only_what_is_wanted_comes() {
    test(async {
        let world = World::new("filters");
        let node = world.bare("a").await;
        let client = node.client().await;
        client.create_topic("t", 1).await.expect("created");
        for (n, kind) in [(0, "order.created"), (1, "order.deleted"), (2, "item.created")] {
            let data = Some(kar_tests::grpc::json(&json!(n)));
            let event = Event { r#type: kind.into(), data, ..Default::default() };
            let event = Some(event);
            let request = PublishRequest { event, ..publication("t", "", &json!(n)) };
            client.publish(request).await.expect("durable");
        }
        let values =
            |value: &str| AttributeValues { attributes: [("type".into(), value.into())].into() };
        let of = |dialect| EventFilter { dialect: Some(dialect) };
        let both = |a, b| EventFilters { filters: vec![a, b] };
        let order = || of(Dialect::Prefix(values("order.")));
        let created = || of(Dialect::Suffix(values(".created")));
        for (filter, wanted) in [
            (of(Dialect::Exact(values("order.deleted"))), vec![1]),
            (order(), vec![0, 1]),
            (created(), vec![0, 2]),
            (of(Dialect::All(both(order(), created()))), vec![0]),
            (of(Dialect::Any(both(order(), created()))), vec![0, 1, 2]),
            (of(Dialect::NotMatching(Box::new(order()))), vec![2]),
        ] {
            let first = ConsumeRequest { filter: Some(filter.clone()), ..consume("t", "") };
            let mut consumer = client.consume(first).await.expect("opened");
            let got = consumer.events(wanted.len()).await.expect("they come");
            assert_eq!(got.into_iter().map(|(_, n)| n).collect::<Vec<_>>(), wanted, "{filter:?}");
        }
        let deep = (0..20).fold(order(), |f, _| of(Dialect::NotMatching(Box::new(f))));
        let wrong = AttributeValues { attributes: [("no-name".into(), "x".into())].into() };
        for (filter, field) in [
            (EventFilter::default(), "filter"),
            (of(Dialect::Exact(AttributeValues::default())), "filter"),
            (of(Dialect::Exact(wrong)), "filter"),
            (of(Dialect::All(EventFilters::default())), "filter"),
            (of(Dialect::NotMatching(Box::default())), "filter.not_matching"),
            (deep, "filter"),
        ] {
            let first = ConsumeRequest { filter: Some(filter), ..consume("t", "") };
            let status =
                assert_error(client.consume(first).await, Code::InvalidArgument, "INVALID_FIELD");
            assert_eq!(metadata(&status, "field"), field, "{status:?}");
        }
        // What is passed over is done with.
        let first = ConsumeRequest { filter: Some(order()), ..consume("t", "c") };
        let mut consumer = client.consume(first).await.expect("opened");
        let two = consumer.events(2).await.expect("they come");
        consumer.acknowledge_durably(&[&two[0].0, &two[1].0]).await.expect("durable");
        wait::until_true("the lag to be nothing", READY_LIMIT, async || {
            client.topic("t").await.expect("it is there").consumers[0].lag == 0
        })
        .await;
    });
}

#[test]
fn a_name_has_one_consumer_which_keeps_its_place() {
    test(async {
        let world = World::new("names");
        let (a, b) = (world.bare("a").await, world.bare("b").await);
        let (a, b) = (a.client().await, b.client().await);
        numbers(&a, "t", 0..6).await;
        let mut first = a.consume(consume("t", "c")).await.expect("opened");
        assert!(!first.opened.resumed);
        let got = first.events(6).await.expect("they come");
        let at = |n: usize| got[n].0.as_str();
        // In any order: 0, 1 and 4 do not come again.
        first.acknowledge_durably(&[at(4), at(1)]).await.expect("durable");
        first.acknowledge_durably(&[at(0)]).await.expect("durable");
        let view = a.topic("t").await.expect("it is there");
        assert_eq!((view.consumers[0].lag, view.consumers[0].offsets[0]), (3, 3));
        let mut second = b.consume(consume("t", "c")).await.expect("opened");
        assert!(second.opened.resumed);
        let status = assert_error(first.event().await, Code::Aborted, "CONSUMER_TAKEN_OVER");
        assert_eq!(metadata(&status, "consumer"), "c");
        let rest = second.events(3).await.expect("they come");
        assert_eq!(rest.iter().map(|(_, n)| n.clone()).collect::<Vec<_>>(), [2, 3, 5]);
        // Another name, and no name, have places of their own.
        for name in ["d", ""] {
            let mut other = a.consume(consume("t", name)).await.expect("opened");
            assert_eq!(other.events(6).await.expect("they come").len(), 6, "{name}");
        }
        let delete = DeleteConsumerRequest { topic: "t".into(), consumer: "c".into() };
        let deleted = a.event().delete_consumer(delete).await.expect("answered").into_inner();
        assert!(deleted.existed);
        assert_error(second.event().await, Code::Aborted, "CONSUMER_TAKEN_OVER");
        let third = a.consume(consume("t", "c")).await.expect("opened");
        assert!(!third.opened.resumed);
    });
}

#[test]
fn a_consumer_that_acknowledges_nothing_gets_a_bounded_number() {
    test(async {
        let world = World::new("window");
        world.add_run_args(&["--consume-unacknowledged-max", "3", "--consume-streams-max", "1"]);
        let node = world.bare("a").await;
        let client = node.client().await;
        numbers(&client, "t", 0..5).await;
        let mut consumer = client.consume(consume("t", "c")).await.expect("opened");
        let three = consumer.events(3).await.expect("they come");
        consumer.acknowledge(&[&three[1].0]).await;
        // The next one comes because of the acknowledgement, not before it.
        assert_eq!(consumer.event().await.expect("it comes").1, json!(3));
        let status = client.consume(consume("t", "d")).await;
        let status = assert_error(status, Code::ResourceExhausted, "LIMIT_REACHED");
        assert_eq!(metadata(&status, "limit"), "consume_streams_max");
        drop(consumer);
        wait::until("the stream to be counted off", READY_LIMIT, async || {
            client.consume(consume("t", "d")).await.ok()
        })
        .await;
    });
}

#[test]
fn what_was_let_go_is_told() {
    test(async {
        let world = World::new("skipped");
        let node = world.bare("a").await;
        let client = node.client().await;
        let topic = CreateTopicRequest {
            topic: "t".into(),
            partitions: 1,
            retention_bytes: 1 << 20,
            ..Default::default()
        };
        client.event().create_topic(topic).await.expect("created");
        let consumer = client.consume(consume("t", "c")).await.expect("opened");
        drop(consumer);
        for n in 0..40 {
            let data = json!([n, "x".repeat(100 << 10)]);
            client.publish(publication("t", "", &data)).await.expect("durable");
        }
        wait::until_true("old events to go", READY_LIMIT, async || {
            client.topic("t").await.expect("it is there").partitions[0].start > 20
        })
        .await;
        let mut consumer = client.consume(consume("t", "c")).await.expect("opened");
        let skipped = consumer.answer().await.expect("told").skipped.expect("some are gone");
        assert_eq!((skipped.partition, skipped.first), (0, 1));
        let (position, _) = consumer.event().await.expect("it comes");
        assert_eq!(position, format!("0/{}", skipped.count + 1));
        let counted = client.figure("consumer_events_skipped").await.expect("counted");
        assert_eq!(counted, Some(skipped.count));
    });
}
