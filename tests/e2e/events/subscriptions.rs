//! Subscriptions: events that are delivered to actors and services.

use std::collections::BTreeMap;

use kar_proto::v1::event_filter::Dialect;
use kar_proto::v1::{
    AttributeValues, DeleteConsumerRequest, EventFilter, InvocationMode, PauseSubscriptionRequest,
    RedriveSubscriptionRequest, ResumeSubscriptionRequest, Subscription, SubscriptionState,
    UnsubscribeRequest,
};
use kar_sdk::{ActorContext, Host, NewEvent};
use kar_tests::component::{Component, actor, hello};
use kar_tests::errors::{assert_error, metadata};
use kar_tests::events::{consume, publication, to_actors, to_service};
use kar_tests::world::READY_LIMIT;
use kar_tests::{World, process, test, wait};
use serde_json::{Value, json};
use tonic::Code;

use super::{about, beside, customers, lag};

#[test]
fn events_are_delivered_to_the_actors_that_they_name_and_to_services() {
    test(async {
        let world = World::new("deliver");
        let node = world.bare("a").await;
        let client = node.client().await;
        client.create_topic("orders", 2).await.expect("created");
        let offer = hello(&["audit"], &["Customer"]);
        let mut host = Component::connect(&client, offer).await.expect("welcome");
        // One before the subscription, which begins with it.
        client.publish(about("alice", &json!(0))).await.expect("durable");
        let to_customers = to_actors("totals", "orders", ("Customer", "subject"), "ordered");
        assert!(client.subscribe(to_customers.clone()).await.expect("subscribed"));
        assert!(!client.subscribe(to_customers).await.expect("it is there"));
        let audit = to_service("audit", "orders", "audit", "record");
        let exact = AttributeValues { attributes: [("subject".into(), "bob".into())].into() };
        let filter = Some(EventFilter { dialect: Some(Dialect::Exact(exact)) });
        client.subscribe(Subscription { filter, ..audit }).await.expect("subscribed");
        for n in 1..5 {
            let subject = if n % 2 == 0 { "alice" } else { "bob" };
            client.publish(about(subject, &json!(n))).await.expect("durable");
        }
        let mut got: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for _ in 0..7 {
            let turn = host.next_turn().await;
            let (kind, id) = turn.target();
            let delivery = turn.frame.event.clone().expect("it delivers an event");
            let event = delivery.event.expect("told");
            assert_eq!((&*delivery.topic, &*event.r#type), ("orders", "order.created"));
            assert!(event.data.is_none() && !event.id.is_empty(), "the data are the argument");
            assert_eq!(turn.frame.mode(), InvocationMode::Tell);
            if kind == "Customer" {
                assert_eq!((&*event.subject, turn.method()), (id, "ordered"));
                assert_eq!(delivery.subscription, "totals");
            } else {
                assert_eq!((kind, turn.method()), ("audit", "record"));
                assert_eq!((&*event.subject, &*delivery.subscription), ("bob", "audit"));
            }
            got.entry(format!("{kind}/{id}")).or_default().push(turn.argument());
            turn.finish(&json!(null)).await;
        }
        assert_eq!(got["Customer/alice"], [json!(0), json!(2), json!(4)]);
        assert_eq!(got["Customer/bob"], [json!(1), json!(3)]);
        got.get_mut("audit/").expect("it has some").sort_by_key(Value::as_i64);
        assert_eq!(got["audit/"], [json!(1), json!(3)]);
        lag(&client, 0).await;
        let listed = client.subscriptions().await.expect("listed");
        let names: Vec<_> =
            listed.iter().flat_map(|info| &info.subscription).map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["audit", "totals"]);
        assert!(listed.iter().all(|info| info.state() == SubscriptionState::Active));
    });
}

#[test]
fn a_paused_subscription_keeps_its_place_also_when_everything_is_killed() {
    test(async {
        let world = World::new("paused");
        let (mut node, client, mut host) = customers(&world, 1).await;
        let to_customers = to_actors("totals", "orders", ("Customer", "subject"), "ordered");
        client.subscribe(to_customers).await.expect("subscribed");
        client.publish(about("alice", &json!(1))).await.expect("durable");
        let turn = host.next_turn().await;
        assert_eq!(turn.argument(), json!(1));
        turn.finish(&json!(null)).await;
        lag(&client, 0).await;
        let name = || "totals".to_owned();
        let pause = PauseSubscriptionRequest { name: name() };
        assert!(
            client
                .event()
                .pause_subscription(pause.clone())
                .await
                .expect("ok")
                .into_inner()
                .changed
        );
        assert!(!client.event().pause_subscription(pause).await.expect("ok").into_inner().changed);
        client.publish(about("alice", &json!(2))).await.expect("durable");
        client.publish(about("alice", &json!(3))).await.expect("durable");
        lag(&client, 2).await;
        let hub = world.hub().await;
        node.kill_sidecar();
        process::kill(hub);
        node.ended(READY_LIMIT).await;
        process::gone(hub, READY_LIMIT).await;
        let node = world.bare("b").await;
        let client = node.client().await;
        let mut host =
            Component::connect(&client, hello(&[], &["Customer"])).await.expect("welcome");
        lag(&client, 2).await;
        let listed = client.subscriptions().await.expect("listed");
        assert_eq!(listed[0].state(), SubscriptionState::Paused);
        let resume = ResumeSubscriptionRequest { name: name() };
        assert!(client.event().resume_subscription(resume).await.expect("ok").into_inner().changed);
        for n in [2, 3] {
            let turn = host.next_turn().await;
            assert_eq!(turn.argument(), json!(n), "what was accepted before is done");
            turn.finish(&json!(null)).await;
        }
        lag(&client, 0).await;
        let end = UnsubscribeRequest { name: name() };
        assert!(client.event().unsubscribe(end.clone()).await.expect("ok").into_inner().existed);
        assert!(!client.event().unsubscribe(end).await.expect("ok").into_inner().existed);
        assert_eq!(client.subscriptions().await.expect("listed"), []);
    });
}

#[test]
fn what_cannot_be_delivered_goes_to_the_dead_letter_topic_and_holds_up_nobody() {
    test(async {
        let world = World::new("poison");
        let (_node, client, mut host) = customers(&world, 1).await;
        client.create_topic("failed", 1).await.expect("created");
        let to_customers = Subscription {
            dead_letter_topic: "failed".into(),
            ..to_actors("totals", "orders", ("Customer", "subject"), "ordered")
        };
        client.subscribe(to_customers).await.expect("subscribed");
        client.publish(about("alice", &json!("poison"))).await.expect("durable");
        client.publish(publication("orders", "k", &json!("nobody's"))).await.expect("durable");
        let too_long = "x".repeat(600);
        client.publish(about(&too_long, &json!("no actor's"))).await.expect("durable");
        client.publish(about("bob", &json!("fine"))).await.expect("durable");
        for _ in 0..2 {
            let turn = host.next_turn().await;
            match turn.argument() {
                argument if argument == json!("poison") => turn.fail("Poison").await,
                argument => {
                    assert_eq!((turn.target(), argument), (("Customer", "bob"), json!("fine")));
                    turn.finish(&json!(null)).await;
                }
            }
        }
        let mut consumer = client.consume(consume("failed", "")).await.expect("opened");
        let mut reasons = BTreeMap::new();
        while reasons.len() < 3 {
            let answer = consumer.answer().await.expect("they come");
            let Some(event) = answer.event else { continue };
            let attribute = |name: &str| event.attributes[name].clone();
            assert_eq!(attribute("kardeadlettersubscription"), "totals");
            assert_eq!(attribute("kardeadlettertopic"), "orders");
            let told = (attribute("kardeadletterreason"), attribute("kardeadletterattempts"));
            reasons.insert(attribute("kardeadletterposition"), told);
        }
        let (why, attempts) = &reasons["0/1"];
        assert_eq!((why.as_str(), attempts.as_str()), ("failed: Poison: as it was asked for", "1"));
        let (why, attempts) = &reasons["0/2"];
        assert!(why.contains("attribute"), "{why}");
        assert_eq!(attempts, "0");
        assert!(reasons["0/3"].0.contains("no actor id"), "{reasons:?}");
        lag(&client, 0).await;
        // Sent back once, as it was, to this subscription only; what still names nobody is passed over.
        let redrive = async || {
            let request = RedriveSubscriptionRequest { name: "totals".into(), max_events: 0 };
            let answer = client.event().redrive_subscription(request).await;
            let answer = answer.expect("sent back").into_inner();
            (answer.redriven, answer.passed_over, answer.more)
        };
        assert_eq!(redrive().await, (1, 2, false));
        assert_eq!(redrive().await, (0, 0, false));
        let turn = host.next_turn().await;
        let delivery = turn.frame.event.clone().expect("it delivers an event");
        assert_eq!((&*delivery.position, &*delivery.subscription), ("0/1", "totals"));
        let attributes = delivery.event.expect("told").attributes;
        assert!(!attributes.keys().any(|name| name.starts_with("kardead")), "{attributes:?}");
        assert_eq!((turn.target(), turn.argument()), (("Customer", "alice"), json!("poison")));
        // What fails again is there again.
        turn.fail("Poison").await;
        wait::until("it to be there again", READY_LIMIT, async || {
            (client.topic("failed").await.expect("it is there").partitions[0].end == 5)
                .then_some(())
        })
        .await;
        let sent = world.kar_here("subscription redrive", &["totals"]).await;
        assert_eq!(
            (sent.code, sent.stdout.trim()),
            (0, "sent back: 1, passed over: 0"),
            "{sent:?}"
        );
        let turn = host.next_turn().await;
        assert_eq!(turn.argument(), json!("poison"));
        turn.finish(&json!(null)).await;
        // It is a consumer that can be forgotten, so that it does not count any more when nobody needs it.
        let (topic, consumer) = ("failed".into(), "redrive/totals".into());
        let forget = DeleteConsumerRequest { topic, consumer };
        let forgotten = client.event().delete_consumer(forget).await.expect("there is one");
        assert!(forgotten.into_inner().existed);
        let none = RedriveSubscriptionRequest { name: "none".into(), max_events: 0 };
        let answer = client.event().redrive_subscription(none).await;
        assert_error(answer, Code::NotFound, "UNKNOWN_SUBSCRIPTION");
    });
}

#[test]
fn what_is_wrong_with_a_subscription_is_said() {
    test(async {
        let world = World::new("wrong");
        let (_node, client, _host) = customers(&world, 1).await;
        let good = || to_actors("totals", "orders", ("Customer", "subject"), "ordered");
        let refused = async |wrong: Subscription, code: Code, reason: &str| {
            assert_error(client.subscribe(wrong).await, code, reason)
        };
        let unknown = Subscription { topic: "none".into(), ..good() };
        let status = refused(unknown, Code::NotFound, "UNKNOWN_TOPIC").await;
        assert_eq!(metadata(&status, "topic"), "none");
        let unknown = Subscription { dead_letter_topic: "none".into(), ..good() };
        refused(unknown, Code::NotFound, "UNKNOWN_TOPIC").await;
        let empty = Some(EventFilter { dialect: None });
        for (wrong, field) in [
            (Subscription { filter: empty, ..good() }, "subscription.filter"),
            (Subscription { method: String::new(), ..good() }, "subscription.method"),
            (Subscription { in_flight: 1_000_000, ..good() }, "subscription.in_flight"),
            (
                Subscription { target: Some(actor("Customer", "x")), ..good() },
                "subscription.target.actor.id",
            ),
        ] {
            let status = refused(wrong, Code::InvalidArgument, "INVALID_FIELD").await;
            assert_eq!(metadata(&status, "field"), field, "{status:?}");
        }
        client.subscribe(good()).await.expect("subscribed");
        let other = Subscription { method: "other".into(), ..good() };
        let status = refused(other, Code::AlreadyExists, "SUBSCRIPTION_EXISTS").await;
        assert_eq!(metadata(&status, "subscription"), "totals");
        assert_eq!(metadata(&status, "setting"), "method");
        assert!(status.message().contains("another method"), "{status:?}");
        let none = PauseSubscriptionRequest { name: "none".into() };
        let status = client.event().pause_subscription(none).await;
        let status = assert_error(status, Code::NotFound, "UNKNOWN_SUBSCRIPTION");
        assert_eq!(metadata(&status, "subscription"), "none");
        // One to a topic that is deleted says so.
        let delete =
            kar_proto::v1::DeleteTopicRequest { topic: "orders".into(), id: String::new() };
        client.event().delete_topic(delete).await.expect("deleted");
        let listed = client.subscriptions().await.expect("listed");
        assert_eq!(listed[0].state(), SubscriptionState::TopicDeleted);
    });
}

#[test]
fn people_subscribe_on_the_terminal() {
    test(async {
        let world = World::new("terminal");
        let node = world.bare("a").await;
        let client = node.client().await;
        client.create_topic("orders", 1).await.expect("created");
        let _host = Component::connect(&client, hello(&["audit"], &[])).await.expect("welcome");
        let words = ["audit", "orders", "--service", "audit", "--method", "record"];
        let created = world.kar_here("subscription create", &words).await;
        assert_eq!((created.code, created.stdout.trim()), (0, "created"), "{created:?}");
        let other = ["audit", "orders", "--service", "audit", "--method", "other"];
        let other = world.kar_here("subscription create", &other).await;
        assert_eq!(other.code, 8, "{other:?}");
        for whom in [&["--id", "x", "--id-from", "subject"][..], &[]] {
            let words = ["audit", "orders", "--actor", "Customer", "--method", "m"];
            let wrong = world.kar_here("subscription create", &[&words, whom].concat()).await;
            assert_eq!(wrong.code, 2, "{wrong:?}");
            assert!(wrong.stderr.contains("--id-from <ATTRIBUTE>"), "{wrong:?}");
        }
        let none = world.kar_here("subscription pause", &["none"]).await;
        assert_eq!(none.code, 4, "{none:?}");
        let paused = world.kar_here("subscription pause", &["audit"]).await;
        assert_eq!((paused.code, paused.stdout.trim()), (0, "paused"), "{paused:?}");
        client.publish(about("alice", &json!(1))).await.expect("durable");
        let listed = world.kar_here("get subscriptions", &["-o", "json"]).await;
        let rows: Value = serde_json::from_str(&listed.stdout).expect("JSON");
        let row = &rows[0];
        assert_eq!((&row["state"], &row["lag"]), (&json!("paused"), &json!(1)), "{listed:?}");
        assert_eq!(row["target"], json!({"service": "audit"}));
        let table = world.kar_here("get subscriptions", &[]).await;
        assert!(table.stdout.contains("paused"), "{table:?}");
        let resumed = world.kar_here("subscription resume", &["audit"]).await;
        assert_eq!((resumed.code, resumed.stdout.trim()), (0, "resumed"), "{resumed:?}");
        let deleted = world.kar_here("subscription delete", &["audit"]).await;
        assert_eq!((deleted.code, deleted.stdout.trim()), (0, "deleted"), "{deleted:?}");
        let again = world.kar_here("subscription delete", &["audit"]).await;
        assert_eq!(again.code, 4, "{again:?}");
    });
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Order {
    amount: i64,
}

struct Customer;

#[kar_sdk::actor]
impl Customer {
    async fn ordered(
        &self,
        ctx: &mut ActorContext,
        order: kar_sdk::Event<Order>,
    ) -> Result<(), kar_sdk::Error> {
        let delivery = ctx.delivery().ok_or_else(|| kar_sdk::Error::new("none", "no delivery"))?;
        let total: i64 = ctx.state().get("total").await?.unwrap_or(0);
        ctx.state().set("total", &(total + order.data.amount))?;
        ctx.state().set("last", &format!("{} {}", delivery.position, order.kind))?;
        Ok(())
    }

    #[kar(shared)]
    async fn total(&self, ctx: &mut ActorContext) -> Result<(i64, String), kar_sdk::Error> {
        let total = ctx.state().get("total").await?.unwrap_or(0);
        Ok((total, ctx.state().get("last").await?.unwrap_or_default()))
    }
}

#[test]
fn the_rust_sdk_subscribes_and_takes_events_as_arguments() {
    test(async {
        let world = World::new("sdk");
        let (_node, _host, client) = beside(&world, Host::builder().actor(Customer)).await;
        let totals = kar_sdk::Subscription::new("totals", "orders")
            .to_actors("Customer", "subject", "ordered");
        assert!(client.subscribe(totals.clone()).await.expect("subscribed"));
        assert!(!client.subscribe(totals).await.expect("it is there"));
        let topic = client.topic("orders");
        for amount in [3, 4] {
            let order = NewEvent::new("order.created", &Order { amount }).subject("alice");
            topic.publish(order).await.expect("durable");
        }
        let alice = CustomerClient::new(&client, "alice");
        wait::until("both to be counted", READY_LIMIT, async || {
            let (total, last) = alice.total().await.expect("answered");
            (total == 7 && last == "0/2 order.created").then_some(())
        })
        .await;
        // What is no event is none.
        let error =
            client.actor("Customer", "alice").call::<()>("ordered", &Order { amount: 1 }).await;
        let kar_sdk::CallError::Application(error) = error.expect_err("no event") else { panic!() };
        assert_eq!(error.code, "invalid_argument");
        // What was accepted is settled a moment later.
        let all = wait::until("nothing to be left", READY_LIMIT, async || {
            let all = client.subscriptions().await.expect("listed");
            all.iter().all(|subscription| subscription.lag == 0).then_some(all)
        })
        .await;
        assert_eq!((all.len(), &*all[0].name), (1, "totals"));
        assert!(client.unsubscribe("totals").await.expect("ok"));
    });
}
