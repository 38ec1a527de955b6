//! Subscriptions: where they begin, whom they deliver to, how long they live, and what a slow or failing subscriber
//! does to others.

use std::collections::{BTreeMap, BTreeSet};

use kar_proto::v1::subscription_start::Start;
use kar_proto::v1::{
    CreateTopicRequest, DeleteTopicRequest, InvocationMode, PublishBatchRequest,
    RemoveActorRequest, RetryPolicy, Subscription, SubscriptionStart, SubscriptionState,
    UnsubscribeRequest,
};
use kar_sdk::{ActorContext, Host};
use kar_tests::component::{Component, Turn, actor, hello};
use kar_tests::errors::{assert_error, metadata};
use kar_tests::events::{consume, publication, to_actors, to_service};
use kar_tests::fire::nothing_left;
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, NodeOptions, World, process, test, wait};
use serde_json::{Value, json};
use tonic::Code;

use super::{about, beside, customers, lag};

fn starting(subscription: Subscription, start: Start) -> Subscription {
    Subscription { start: Some(SubscriptionStart { start: Some(start) }), ..subscription }
}

#[test]
fn a_subscription_begins_where_it_wants() {
    test(async {
        let world = World::new("from");
        let node = world.bare("a").await;
        let client = node.client().await;
        client.create_topic("orders", 1).await.expect("created");
        let mut host = Component::connect(&client, hello(&["audit"], &[])).await.expect("welcome");
        let mut consumer = client.consume(consume("orders", "")).await.expect("opened");
        let mut publish = async |n: i32| {
            client.publish(about("alice", &json!(n))).await.expect("durable");
            let published = consumer.answer().await.expect("it comes").publish_time.expect("told");
            (published.seconds, published.nanos)
        };
        // Several may be published in one millisecond: until there is a later one.
        let first = publish(0).await;
        let mut later = 1;
        let (seconds, nanos) = loop {
            let published = publish(later).await;
            if published > first {
                break published;
            }
            later += 1;
        };
        let since = Start::Time(prost_types::Timestamp { seconds, nanos });
        for (name, start) in
            [("all", Start::Earliest(true)), ("since", since), ("new", Start::Latest(true))]
        {
            let to_audit = to_service(name, "orders", "audit", name);
            assert!(client.subscribe(starting(to_audit, start)).await.expect("subscribed"));
        }
        let newest = later + 1;
        publish(newest).await;
        let mut got: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        let wanted: BTreeMap<String, Vec<i64>> = [("all", 0), ("since", later), ("new", newest)]
            .map(|(name, from)| (name.to_owned(), (from..=newest).map(i64::from).collect()))
            .into();
        for _ in 0..wanted.values().map(Vec::len).sum() {
            let turn = host.next_turn().await;
            let number = turn.argument().as_i64().expect("a number");
            got.entry(turn.method().to_owned()).or_default().push(number);
            turn.finish(&json!(null)).await;
        }
        // A service's events have no order.
        got.values_mut().for_each(|numbers| numbers.sort_unstable());
        assert_eq!(got, wanted);
        lag(&client, 0).await;
    });
}

#[test]
fn a_subscription_to_one_actor_ends_with_the_actors_removal() {
    test(async {
        let world = World::new("removed");
        let (_node, client, mut host) = customers(&world, 1).await;
        let to_one = |id: &str| Subscription {
            target: Some(actor("Customer", id)),
            ..to_actors(id, "orders", ("Customer", ""), "ordered")
        };
        let to_all = to_actors("named", "orders", ("Customer", "subject"), "ordered");
        for subscription in [to_one("alice"), to_one("bob"), to_all] {
            assert!(client.subscribe(subscription).await.expect("subscribed"));
        }
        let mut told = async |n: i32, whom: &[(&str, &str)]| {
            client.publish(about("carol", &json!(n))).await.expect("durable");
            let mut got = BTreeSet::new();
            for _ in whom {
                let turn = host.next_turn().await;
                assert_eq!(turn.argument(), json!(n));
                let delivery = turn.frame.event.clone().expect("it delivers an event");
                got.insert((turn.target().1.to_owned(), delivery.subscription));
                turn.finish(&json!(null)).await;
            }
            let wanted = whom.iter().map(|(id, by)| ((*id).to_owned(), (*by).to_owned()));
            assert_eq!(got, wanted.collect());
        };
        told(0, &[("alice", "alice"), ("bob", "bob"), ("carol", "named")]).await;
        let removed = kar_tests::reminders::actor("Customer", "alice");
        let request = RemoveActorRequest { actor: Some(removed) };
        client.system().remove_actor(request).await.expect("removed");
        wait::until("its subscription to be over", READY_LIMIT, async || {
            let listed = client.subscriptions().await.expect("listed");
            let names = listed.into_iter().flat_map(|info| info.subscription).map(|s| s.name);
            (names.collect::<Vec<_>>() == ["bob", "named"]).then_some(())
        })
        .await;
        told(1, &[("bob", "bob"), ("carol", "named")]).await;
        lag(&client, 0).await;
        // The next life of it subscribes anew, and begins as every other subscription.
        assert!(client.subscribe(to_one("alice")).await.expect("subscribed"));
        for n in 0..2 {
            let turn = host.next_turn().await;
            assert_eq!((turn.target(), turn.argument()), (("Customer", "alice"), json!(n)));
            turn.finish(&json!(null)).await;
        }
        nothing_left(&world).await;
    });
}

/// A subscription wakes an actor that was idle, and finds its state.
#[test]
fn an_actor_that_became_passive_is_told_too() {
    test(async {
        let world = World::new("passive");
        world.add_run_args(&["--actor-idle-ms", "100"]);
        let node = world.bare("a").await;
        let client = node.client().await;
        client.create_topic("orders", 1).await.expect("created");
        let mut greeting = hello(&[], &["Customer"]);
        greeting.actor_types[0].deactivates = true;
        let mut host = Component::connect(&client, greeting).await.expect("welcome");
        let to_customers = to_actors("totals", "orders", ("Customer", "subject"), "ordered");
        client.subscribe(to_customers).await.expect("subscribed");
        for n in 1..4 {
            client.publish(about("alice", &json!(n))).await.expect("durable");
            let turn = host.next_turn().await;
            assert_eq!((turn.frame.mode(), turn.argument()), (InvocationMode::Tell, json!(n)));
            let before = turn.get("seen").await.expect("read");
            assert_eq!(before.as_i64().unwrap_or(0), n - 1);
            turn.set(&[("seen", json!(n))]).await.expect("buffered");
            turn.finish(&json!(null)).await;
            let turn = host.next_turn().await;
            assert_eq!(turn.frame.mode(), InvocationMode::Deactivate);
            turn.finish(&json!(null)).await;
        }
        lag(&client, 0).await;
    });
}

const SHARED: usize = 40;

/// A name is a group: all hosts of an application together get each event once, and each application has its own.
#[test]
fn hosts_of_an_application_share_events_and_applications_do_not() {
    test(async {
        let world = World::new("shared");
        let elsewhere = NodeOptions {
            name: "c".into(),
            application: "elsewhere".into(),
            ..NodeOptions::default()
        };
        let (a, b, c) =
            (world.bare("a").await, world.bare("b").await, world.start(elsewhere).await);
        let clients = [a.client().await, b.client().await, c.client().await];
        clients[0].create_topic("orders", 4).await.expect("created");
        let host = async |client: &Client| {
            let host = Component::connect(client, hello(&["audit"], &[])).await;
            host.expect("welcome")
        };
        let [mut first, mut second, mut other] =
            [host(&clients[0]).await, host(&clients[1]).await, host(&clients[2]).await];
        let audit = || to_service("audit", "orders", "audit", "record");
        assert!(clients[0].subscribe(audit()).await.expect("subscribed"));
        assert!(!clients[1].subscribe(audit()).await.expect("it is there"), "one group");
        assert!(clients[2].subscribe(audit()).await.expect("subscribed"), "another application");
        for n in 0..SHARED {
            let request = publication("orders", &n.to_string(), &json!(n));
            clients[n % 3].publish(request).await.expect("durable");
        }
        let mut got = BTreeMap::new();
        let mut shares = [0, 0];
        for _ in 0..SHARED {
            let (turn, share) = tokio::select! {
                turn = first.next_turn() => (turn, 0),
                turn = second.next_turn() => (turn, 1),
            };
            shares[share] += 1;
            count(&mut got, turn).await;
        }
        assert!(shares.iter().all(|count| *count > 0), "{shares:?}");
        let mut elsewhere = BTreeMap::new();
        for _ in 0..SHARED {
            count(&mut elsewhere, other.next_turn().await).await;
        }
        let once: BTreeMap<i64, u32> = (0..).take(SHARED).map(|n| (n, 1)).collect();
        assert_eq!((&got, &elsewhere), (&once, &once));
        for client in &clients {
            lag(client, 0).await;
        }
        nothing_left(&world).await;
    });
}

async fn count(counts: &mut BTreeMap<i64, u32>, turn: Turn) {
    *counts.entry(turn.argument().as_i64().expect("a number")).or_default() += 1;
    turn.finish(&json!(null)).await;
}

const FINE: usize = 5;

/// A method that always fails is tried as often as the subscription says. Its actor's other events wait for that,
/// nobody else's do.
#[test]
fn a_poison_event_holds_up_its_own_key_only() {
    test(async {
        let world = World::new("poison");
        let (_node, client, mut host) = customers(&world, 1).await;
        client.create_topic("failed", 1).await.expect("created");
        let retry_policy = Some(RetryPolicy { max_attempts: 3, ..RetryPolicy::default() });
        let to_customers = Subscription {
            retry_policy,
            dead_letter_topic: "failed".into(),
            ..to_actors("totals", "orders", ("Customer", "subject"), "ordered")
        };
        client.subscribe(to_customers).await.expect("subscribed");
        client.publish(about("alice", &json!("poison"))).await.expect("durable");
        client.publish(about("alice", &json!("fine"))).await.expect("durable");
        let mut poisoned = host.next_turn().await;
        assert_eq!((poisoned.target().1, poisoned.argument()), ("alice", json!("poison")));
        for attempt in 1..=3 {
            assert_eq!((poisoned.frame.attempt, poisoned.argument()), (attempt, json!("poison")));
            // While its code runs, and while it waits to be tried again.
            for n in 0..FINE {
                client.publish(about("bob", &json!(n))).await.expect("durable");
                let turn = host.next_turn().await;
                assert_eq!((turn.target().1, turn.argument()), ("bob", json!(n)));
                turn.finish(&json!(null)).await;
            }
            poisoned.fail_for_now("Poison").await;
            poisoned = host.next_turn().await;
        }
        assert_eq!((poisoned.target().1, poisoned.argument()), ("alice", json!("fine")));
        poisoned.finish(&json!(null)).await;
        let mut letters = client.consume(consume("failed", "")).await.expect("opened");
        let letter = letters.answer().await.expect("it comes").event.expect("an event");
        assert_eq!(letter.attributes["kardeadletterattempts"], "3");
        assert!(letter.attributes["kardeadletterreason"].starts_with("failed: Poison"));
        lag(&client, 0).await;
        assert_eq!(client.topic("failed").await.expect("it is there").partitions[0].end, 2);
    });
}

const SLOW: usize = 800;
const SLOW_BYTES: usize = 64 << 10;
/// Events published at once.
const BATCH: usize = 20;
/// What a node may take on while some 50 MiB of events wait for a subscriber.
const MEMORY_MAX_KIB: u64 = 24 << 10;

/// Whoever does not end its turns has a lag, and not a queue: what waits is in the topic.
#[test]
fn a_slow_subscriber_bounds_memory_and_shows_its_lag() {
    test(async {
        let world = World::new("slow");
        world.add_run_args(&["--deliveries-waiting-max", "10"]);
        let publisher = world.bare("publisher").await;
        let (node, client, mut host) = customers(&world, 1).await;
        let to_customers = Subscription {
            in_flight: 8,
            ..to_actors("totals", "orders", ("Customer", "subject"), "ordered")
        };
        client.subscribe(to_customers).await.expect("subscribed");
        let out = publisher.client().await;
        let publish = async |numbers: std::ops::Range<usize>| {
            let event = |n: usize| about("alice", &json!([n, "x".repeat(SLOW_BYTES)]));
            let events = numbers.map(event).collect();
            let batch = PublishBatchRequest { events, ..Default::default() };
            out.event().publish_batch(batch).await.expect("durable");
        };
        // Buffers for messages of this size are there already when it is measured.
        publish(0..BATCH).await;
        let stuck = host.next_turn().await;
        let resident =
            || [&node, &publisher].map(|node| process::resident_kib(node.pid()).expect("alive"));
        let before = resident();
        for first in (BATCH..SLOW).step_by(BATCH) {
            publish(first..first + BATCH).await;
        }
        let info = wait::until("as many as may to be in flight", READY_LIMIT, async || {
            let [info] = client.subscriptions().await.expect("listed").try_into().ok()?;
            // It reads on when half of them are free, so there may be fewer.
            let is_full = (5..=8).contains(&info.partitions[0].in_flight);
            (is_full && info.lag < SLOW as i64).then_some(info)
        })
        .await;
        // What is accepted and told: those that may wait, and the one that runs.
        let accepted = SLOW - usize::try_from(info.lag).expect("a number");
        assert!((1..=12).contains(&accepted), "{info:?}");
        let after = resident();
        println!("{SLOW} events of {SLOW_BYTES} bytes: {before:?} KiB before, {after:?} after");
        for (before, after) in before.into_iter().zip(after) {
            assert!(after < before + MEMORY_MAX_KIB, "{before} KiB before, {after} after");
        }
        let listed = world.kar_here("get subscriptions", &[]).await;
        let row = listed.stdout.lines().find(|line| line.starts_with("totals")).expect("a row");
        assert!(row.contains(&format!("  {}  ", info.lag)), "{row}");
        // Nothing of it is lost.
        let mut turn = stuck;
        for n in 0..SLOW {
            assert_eq!(turn.argument()[0], json!(n));
            turn.finish(&json!(null)).await;
            if n + 1 == SLOW {
                break;
            }
            turn = host.next_turn().await;
        }
        lag(&client, 0).await;
    });
}

const TRIMMED: usize = 40;

/// What a topic lets go before a slow subscriber had it is told from where to where: in the list, in a figure and in
/// the log. The rest comes, in order.
#[test]
fn what_a_slow_subscriber_lost_to_retention_is_told() {
    test(async {
        let world = World::new("trimmed");
        world.add_run_args(&["--deliveries-waiting-max", "1"]);
        let node = world.bare("a").await;
        let client = node.client().await;
        let topic = CreateTopicRequest {
            topic: "orders".into(),
            partitions: 1,
            retention_bytes: 1 << 20,
            ..Default::default()
        };
        client.event().create_topic(topic).await.expect("created");
        let host = Component::connect(&client, hello(&[], &["Customer"])).await;
        let mut host = host.expect("welcome");
        let to_customers = Subscription {
            in_flight: 2,
            ..to_actors("totals", "orders", ("Customer", "subject"), "ordered")
        };
        client.subscribe(to_customers).await.expect("subscribed");
        let publish = async |n: usize| {
            let data = json!([n, "x".repeat(100 << 10)]);
            client.publish(about("alice", &data)).await.expect("durable");
        };
        publish(0).await;
        let mut turn = host.next_turn().await;
        for n in 1..TRIMMED {
            publish(n).await;
        }
        wait::until_true("old events to go", READY_LIMIT, async || {
            client.topic("orders").await.expect("it is there").partitions[0].start > 20
        })
        .await;
        let start = client.topic("orders").await.expect("it is there").partitions[0].start;
        let mut got = Vec::new();
        loop {
            let n = turn.argument()[0].as_u64().expect("a number");
            turn.finish(&json!(null)).await;
            got.push(n);
            if n + 1 == TRIMMED as u64 {
                break;
            }
            turn = host.next_turn().await;
        }
        lag(&client, 0).await;
        let [info] = client.subscriptions().await.expect("listed").try_into().expect("one");
        let skipped = info.partitions[0].skipped;
        // Some had been read before: offsets begin with 1, numbers with 0.
        let before: Vec<u64> = (0..).take_while(|n| got.contains(n)).collect();
        let first = before.len() as u64 + skipped.unsigned_abs();
        assert!(skipped > 0 && first + 1 == start.unsigned_abs(), "{info:?}, {start}, {got:?}");
        let wanted: Vec<u64> = before.iter().copied().chain(first..TRIMMED as u64).collect();
        assert_eq!(got, wanted, "in order, and nothing else is missing");
        assert_eq!(client.figure("events_skipped").await.expect("counted"), Some(skipped));
        let said = &world.logs()["a.1.log"];
        let line = said.lines().find(|line| line.contains("WARN") && line.contains("totals"));
        assert!(line.is_some_and(|line| line.contains(&format!("{start}"))), "{said}");
        let listed = world.kar_here("get subscriptions", &["-o", "json"]).await;
        let rows: Value = serde_json::from_str(&listed.stdout).expect("JSON");
        assert_eq!(rows[0]["partitions"][0]["skipped"], json!(skipped), "{listed:?}");
    });
}

/// A topic that is created anew is another one: who had subscribed to the old one gets nothing of it, whatever happens
/// to the owner meanwhile, until somebody subscribes to the new one.
#[test]
fn a_topic_that_is_created_anew_has_no_subscribers() {
    test(async {
        let world = World::new("anew");
        let (mut node, client, mut host) = customers(&world, 1).await;
        let to_customers = || to_actors("totals", "orders", ("Customer", "subject"), "ordered");
        client.subscribe(to_customers()).await.expect("subscribed");
        client.publish(about("alice", &json!("old"))).await.expect("durable");
        let turn = host.next_turn().await;
        turn.finish(&json!(null)).await;
        lag(&client, 0).await;
        let delete = DeleteTopicRequest { topic: "orders".into(), id: String::new() };
        client.event().delete_topic(delete).await.expect("deleted");
        client.create_topic("orders", 1).await.expect("created");
        client.publish(about("alice", &json!("new"))).await.expect("durable");
        let is_over = async |client: &Client| {
            let [info] = client.subscriptions().await.expect("listed").try_into().expect("one");
            assert_eq!((info.state(), info.lag), (SubscriptionState::TopicDeleted, 0), "{info:?}");
        };
        is_over(&client).await;
        let again = client.subscribe(to_customers()).await;
        let status = assert_error(again, Code::AlreadyExists, "SUBSCRIPTION_EXISTS");
        assert_eq!(metadata(&status, "setting"), "topic");
        // Nor does the next owner take one for the other.
        node.kill_sidecar();
        node.ended(READY_LIMIT).await;
        let node = world.bare("b").await;
        let client = node.client().await;
        let host = Component::connect(&client, hello(&[], &["Customer"])).await;
        let mut host = host.expect("welcome");
        is_over(&client).await;
        let end = UnsubscribeRequest { name: "totals".into() };
        assert!(client.event().unsubscribe(end).await.expect("ok").into_inner().existed);
        assert!(client.subscribe(to_customers()).await.expect("subscribed"));
        let turn = host.next_turn().await;
        assert_eq!(turn.argument(), json!("new"), "the first thing that is delivered");
        turn.finish(&json!(null)).await;
        lag(&client, 0).await;
        nothing_left(&world).await;
    });
}

struct Ear;

#[kar_sdk::actor]
impl Ear {
    async fn heard(&self, _: &mut ActorContext, _: i64) -> Result<(), kar_sdk::Error> {
        Ok(())
    }
}

/// What methods there are only their hosts know: who asks one for another method is told so at once, what a host gets
/// nevertheless it ends by name.
#[test]
fn a_method_that_does_not_exist_is_named_with_those_that_do() {
    test(async {
        let world = World::new("typo");
        let (node, host, _) = beside(&world, Host::builder().actor(Ear)).await;
        let (client, far) = (node.client().await, world.bare("b").await);
        client.create_topic("failed", 1).await.expect("created");
        let to_ears = || Subscription {
            dead_letter_topic: "failed".into(),
            ..to_actors("ears", "orders", ("Ear", "subject"), "herd")
        };
        let refused = client.subscribe(to_ears()).await;
        let status = assert_error(refused, Code::NotFound, "UNKNOWN_METHOD");
        let named = ["target", "method"].map(|key| metadata(&status, key));
        assert_eq!(named, ["Ear", "herd"]);
        assert!(status.message().contains("it has: heard"), "{status:?}");
        assert_eq!(client.subscriptions().await.expect("listed"), []);
        // Another sidecar does not know what is hosted here.
        assert!(far.client().await.subscribe(to_ears()).await.expect("subscribed"));
        client.publish(about("left", &json!(1))).await.expect("durable");
        let mut letters = client.consume(consume("failed", "")).await.expect("opened");
        let letter = letters.answer().await.expect("it comes").event.expect("an event");
        let reason = &letter.attributes["kardeadletterreason"];
        assert!(reason.starts_with("failed: kar.UNKNOWN_METHOD: "), "{reason}");
        for word in ["Ear", "herd", "it has: heard"] {
            assert!(reason.contains(word), "{word}: {reason}");
        }
        assert_eq!(letter.attributes["kardeadletterattempts"], "1");
        // Who waits for the outcome has it typed; a tell is a dead letter.
        let called = far.client().await.call(("Ear", "left"), "herd", &json!(1)).await;
        let status = assert_error(called, Code::NotFound, "UNKNOWN_METHOD");
        assert!(status.message().contains("it has: heard"), "{status:?}");
        let told = world.kar_here("tell", &["--actor", "Ear", "left", "herd", "1"]).await;
        assert_eq!(told.code, 0, "{told:?}");
        wait::until("a dead letter", READY_LIMIT, async || {
            let listed = world.kar_here("get dead-letters", &["-o", "json"]).await;
            listed.stdout.contains("kar.UNKNOWN_METHOD").then_some(())
        })
        .await;
        // What nobody hosts any more nobody knows.
        drop(host);
        wait::until("the host to be gone", READY_LIMIT, async || {
            let again = Subscription { name: "again".into(), ..to_ears() };
            client.subscribe(again).await.ok()
        })
        .await;
    });
}
