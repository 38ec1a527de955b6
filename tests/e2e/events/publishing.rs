//! Publishing in a turn: once with its segment, or never.

use kar_proto::v1::request::Operation;
use kar_proto::v1::response::Result as Answer;
use kar_proto::v1::{PublishBatchRequest, PublishRequest};
use kar_sdk::{ActorContext, Host, NewEvent};
use kar_tests::component::{Component, hello};
use kar_tests::errors::{assert_error, metadata};
use kar_tests::events::{consume, publication};
use kar_tests::world::READY_LIMIT;
use kar_tests::{World, process, test, wait};
use serde_json::{Value, json};
use tonic::Code;

use super::beside;

#[test]
fn what_a_turn_publishes_is_there_once_when_it_succeeds_and_never_when_it_fails() {
    test(async {
        let world = World::new("turns");
        let node = world.bare("a").await;
        let client = node.client().await;
        client.create_topic("t", 1).await.expect("created");
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let call = |method: &'static str| {
            let client = client.clone();
            tokio::spawn(async move { client.call(("A", "1"), method, &json!(null)).await })
        };
        // An error drops what came after the last flush, and nothing else.
        let failing = call("fail");
        let turn = host.next_turn().await;
        turn.publish("t", "k", &json!("kept")).await.expect("buffered");
        turn.flush().await.expect("durable");
        turn.publish("t", "k", &json!("dropped")).await.expect("buffered");
        turn.fail("No").await;
        failing.await.expect("no panic").expect("answered").expect_err("it failed");
        // Success keeps all of it, in order; a batch is answered as one.
        let going = call("go");
        let turn = host.next_turn().await;
        let id = turn.publish("t", "k", &json!(1)).await.expect("buffered");
        assert!(!id.is_empty());
        let turn_token = turn.token.clone();
        let event = |n: i32| PublishRequest {
            turn_token: turn_token.clone(),
            ..publication("t", "k", &json!(n))
        };
        let batch = PublishBatchRequest { events: vec![event(2), event(3)], ..Default::default() };
        let answer = turn.handle.request(Operation::PublishBatch(batch)).await.expect("buffered");
        let Answer::PublishBatch(answer) = answer else { panic!("{answer:?}") };
        assert!(answer.events.iter().all(|event| event.position.is_empty()), "{answer:?}");
        turn.finish(&json!(null)).await;
        going.await.expect("no panic").expect("answered").expect("it went well");
        let mut consumer = client.consume(consume("t", "")).await.expect("opened");
        let got = consumer.events(4).await.expect("they come");
        let data: Vec<Value> = got.into_iter().map(|(_, data)| data).collect();
        assert_eq!(data, [json!("kept"), json!(1), json!(2), json!(3)]);
        // Nothing comes behind them, also after everything was killed.
        let hub = world.hub().await;
        let mut node = node;
        node.kill_sidecar();
        process::kill(hub);
        node.ended(READY_LIMIT).await;
        process::gone(hub, READY_LIMIT).await;
        let node = world.bare("b").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let last = tokio::spawn({
            let client = client.clone();
            async move { client.call(("A", "1"), "last", &json!(null)).await }
        });
        let turn = host.next_turn().await;
        assert_eq!(turn.method(), "last");
        turn.publish("t", "k", &json!("last")).await.expect("buffered");
        turn.finish(&json!(null)).await;
        last.await.expect("no panic").expect("answered").expect("it went well");
        let mut consumer = client.consume(consume("t", "")).await.expect("opened");
        let got = consumer.events(5).await.expect("they come");
        assert_eq!(got[4], ("0/5".to_owned(), json!("last")));
    });
}

/// Events of a batch, as the test bounds them.
const BATCH_MAX: usize = 5;

#[test]
fn a_batch_has_as_many_events_as_it_may_and_no_more_also_in_a_turn() {
    test(async {
        let world = World::new("batches");
        world.add_run_args(&["--publish-batch-events-max", &BATCH_MAX.to_string()]);
        let (node, other) = (world.bare("a").await, world.bare("b").await);
        let (client, other) = (node.client().await, other.client().await);
        client.create_topic("t", 1).await.expect("created");
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let batch = |count: usize, token: &str| {
            let event = |n| PublishRequest {
                turn_token: token.to_owned(),
                ..publication("t", "k", &json!(n))
            };
            PublishBatchRequest { events: (0..count).map(event).collect(), ..Default::default() }
        };
        let refused = |answer: Result<(), tonic::Status>| {
            let status = assert_error(answer, Code::ResourceExhausted, "LIMIT_REACHED");
            let told = (metadata(&status, "limit"), metadata(&status, "value"));
            assert_eq!(told, ("publish_batch_events_max".into(), BATCH_MAX.to_string()));
        };
        let published = async || {
            let view = client.topic("t").await.expect("it is there");
            usize::try_from(view.partitions[0].end - 1).expect("it begins with 1")
        };
        // One too many is refused, and nothing of it is there; as many as may be are taken.
        refused(client.event().publish_batch(batch(BATCH_MAX + 1, "")).await.map(drop));
        assert_eq!(published().await, 0);
        let taken = client.event().publish_batch(batch(BATCH_MAX, "")).await.expect("durable");
        let places: Vec<_> =
            taken.into_inner().events.into_iter().map(|event| event.position).collect();
        assert_eq!(places, ["0/1", "0/2", "0/3", "0/4", "0/5"]);
        // Others are not held up, whoever was refused.
        refused(client.event().publish_batch(batch(BATCH_MAX + 1, "")).await.map(drop));
        let one = other.publish(publication("t", "k", &json!("other"))).await;
        assert_eq!(one.expect("durable"), "0/6");
        // The same in a turn, which goes on.
        let caller = client.clone();
        let call = tokio::spawn(async move { caller.call(("A", "1"), "go", &json!(null)).await });
        let turn = host.next_turn().await;
        let token = turn.token.clone();
        let ask = async |count| {
            let asked = Operation::PublishBatch(batch(count, &token));
            turn.handle.request(asked).await.map(drop)
        };
        refused(ask(BATCH_MAX + 1).await);
        ask(BATCH_MAX).await.expect("buffered");
        refused(ask(BATCH_MAX + 1).await);
        turn.finish(&json!(null)).await;
        call.await.expect("no panic").expect("answered").expect("it went well");
        wait::until_true("the turn's batch", READY_LIMIT, async || {
            published().await > 2 * BATCH_MAX
        })
        .await;
        let last = other.publish(publication("t", "k", &json!("last"))).await;
        assert_eq!(last.expect("durable"), "0/12", "nothing of those that were refused");
    });
}

#[test]
fn what_a_turn_cannot_publish_is_refused_by_name() {
    test(async {
        let world = World::new("refused");
        let node = world.bare("a").await;
        let client = node.client().await;
        client.create_topic("t", 1).await.expect("created");
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let going = tokio::spawn({
            let client = client.clone();
            async move { client.call(("A", "1"), "go", &json!(null)).await }
        });
        let turn = host.next_turn().await;
        let unknown = turn.publish("none", "", &json!(1)).await;
        let status = assert_error(unknown, Code::NotFound, "UNKNOWN_TOPIC");
        assert_eq!(metadata(&status, "topic"), "none");
        let publish = |request: PublishRequest| {
            let request = PublishRequest { turn_token: turn.token.clone(), ..request };
            turn.handle.request(Operation::Publish(request))
        };
        let mut wrong = publication("t", "", &json!(1));
        wrong.request_id = "r".into();
        let status = assert_error(publish(wrong).await, Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(metadata(&status, "field"), "request_id");
        let mut wrong = publication("t", "", &json!(1));
        wrong.event.as_mut().expect("it has one").source = " ".into();
        let status = assert_error(publish(wrong).await, Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(metadata(&status, "field"), "event.source");
        let long = publication("t", "", &json!("x".repeat(5 << 20)));
        assert_error(publish(long).await, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        let mixed = vec![
            PublishRequest { turn_token: turn.token.clone(), ..publication("t", "", &json!(1)) },
            publication("t", "", &json!(2)),
        ];
        let batch = PublishBatchRequest { events: mixed, ..Default::default() };
        let answer = turn.handle.request(Operation::PublishBatch(batch)).await;
        let status = assert_error(answer, Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(metadata(&status, "field"), "events[1].turn_token");
        turn.publish("t", "", &json!("taken")).await.expect("buffered");
        turn.flush().await.expect("durable");
        let token = turn.token.clone();
        turn.finish(&json!(null)).await;
        going.await.expect("no panic").expect("answered").expect("it went well");
        let late = PublishRequest { turn_token: token, ..publication("t", "", &json!(1)) };
        let late = client.event().publish(late).await;
        assert_error(late, Code::Aborted, "TURN_SUPERSEDED");
        // It is in the topic soon after it is durable; nothing else ever is.
        wait::until_true("what was taken to be in the topic", READY_LIMIT, async || {
            client.topic("t").await.expect("it is there").partitions[0].end == 2
        })
        .await;
    });
}

struct Shop;

#[kar_sdk::actor]
impl Shop {
    async fn sell(&self, ctx: &mut ActorContext, amount: i64) -> Result<(), kar_sdk::Error> {
        let sold = NewEvent::new("order.sold", &amount).key(ctx.id());
        ctx.topic("orders").publish(sold).await?;
        if amount < 0 {
            return Err(kar_sdk::Error::new("negative", "nobody sells less than nothing"));
        }
        Ok(())
    }
}

#[test]
fn the_rust_sdk_publishes_with_its_turns() {
    test(async {
        let world = World::new("sdk");
        let (node, _host, client) = beside(&world, Host::builder().actor(Shop)).await;
        let shop = client.actor("Shop", "corner");
        shop.call::<()>("sell", &3).await.expect("sold");
        shop.call::<()>("sell", &-1).await.expect_err("refused");
        shop.call::<()>("sell", &5).await.expect("sold");
        let mut consumer = node.client().await.consume(consume("orders", "")).await.expect("ok");
        let got = consumer.events(2).await.expect("they come");
        assert_eq!(got, [("0/1".to_owned(), json!(3)), ("0/2".to_owned(), json!(5))]);
    });
}
