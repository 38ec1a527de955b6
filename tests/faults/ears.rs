//! Events under kills: 50,000 of them, through 4 partitions of a topic, to 500 actors in two languages. Each actor
//! keeps a journal of what it was told; in the end that is every event of its key, once, and in the order of
//! publishing.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use kar_proto::v1::{
    ActorTarget, AttributeValues, Event, EventFilter, GetAllRequest, ListSubscriptionsRequest,
    PublishBatchRequest, PublishRequest, SubscribeRequest, Subscription, Target, event_filter,
    target,
};
use kar_tests::fire::{Fire, Load, nothing_left};
use kar_tests::grpc::{json, value};
use kar_tests::python::{Install, script, test_within};
use kar_tests::{Client, NodeOptions, Random, World, wait};
use serde_json::json;
use tokio::task::LocalSet;

/// Kinds of actors: the one is hosted in Rust, the other one in Python.
const KINDS: [&str; 2] = ["Ear", "EarPython"];

/// Actors, half of each kind.
const EARS: u64 = 500;

/// Events that each of them is told.
const NUMBERS: u64 = 100;

const EVENTS: u64 = EARS * NUMBERS;

const PARTITIONS: i32 = 4;

/// Who publishes; each has its own actors, and waits for one number of theirs before it goes on to the next.
const PUBLISHERS: u64 = 10;

/// Kills while that goes on.
const KILLS: u32 = 100;

/// Longest pause before a kill, ms.
const PAUSE_MAX_MS: u64 = 200;

/// Longest time from the last kill until everything is delivered, on a machine that does much else.
const DELIVERED_LIMIT: Duration = Duration::from_secs(180);

/// Longest time that all may take: Python takes half a second to start.
const LIMIT: Duration = Duration::from_secs(900);

/// What everybody looks at.
struct Stage {
    client: Client,
    load: Load,
    /// Events that may be published by now, so that they last until the last kill.
    allowed: Cell<u64>,
    published: Cell<u64>,
}

#[test]
fn events_reach_each_actor_once_and_in_order_under_100_kills() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("ears");
        let world = World::new("ears");
        world.journal_turns();
        let front = world.bare("front").await;
        let mut fire = Fire::new(&world, random.fork());
        for number in 1..=2 {
            fire.host(world.app_options(&format!("rust-{number}"), &["ears"]), KINDS[0]).await;
            let command = script(Install::Source, "conformance/ear.py");
            let name = format!("python-{number}");
            fire.host(NodeOptions { name, command, ..NodeOptions::default() }, KINDS[1]).await;
        }
        let client = front.client().await;
        client.create_topic("words", PARTITIONS).await.expect("created");
        for kind in KINDS {
            subscribe(&client, kind).await;
        }
        let stage = Rc::new(Stage {
            client,
            load: Load::default(),
            allowed: Cell::new(0),
            published: Cell::new(0),
        });
        let local = LocalSet::new();
        let publishers =
            (0..PUBLISHERS).map(|first| local.spawn_local(publish(stage.clone(), first)));
        let publishers: Vec<_> = publishers.collect();
        local
            .run_until(async {
                while fire.kills.total() < KILLS {
                    let kills = u64::from(fire.kills.total());
                    let allowed = EVENTS * (kills + 1) / u64::from(KILLS);
                    let before = stage.published.get();
                    stage.allowed.set(allowed);
                    wait::until_true("events to be published", DELIVERED_LIMIT, async || {
                        stage.published.get() > before || stage.published.get() >= allowed
                    })
                    .await;
                    wait::moment(Duration::from_millis(random.below(PAUSE_MAX_MS))).await;
                    fire.strike().await;
                }
                stage.allowed.set(EVENTS);
                for publisher in publishers {
                    publisher.await.expect("it found nothing wrong");
                }
            })
            .await;
        assert_eq!(stage.published.get(), EVENTS);
        all_delivered(&stage.client).await;
        nothing_left(&world).await;
        judge(&stage.client).await;
        println!("{EVENTS} events; {:?}", fire.kills);
        fire.hits().assert("ears");
    });
}

/// Tells actors of a kind of the events of their kind.
async fn subscribe(client: &Client, kind: &str) {
    let of_kind = AttributeValues { attributes: [("type".to_owned(), kind.to_owned())].into() };
    let target = target::Kind::Actor(ActorTarget { r#type: kind.into(), id: String::new() });
    let subscription = Subscription {
        name: kind.into(),
        topic: "words".into(),
        target: Some(Target { kind: Some(target) }),
        method: "hear".into(),
        instance_attribute: "subject".into(),
        filter: Some(EventFilter { dialect: Some(event_filter::Dialect::Exact(of_kind)) }),
        ..Subscription::default()
    };
    let request = SubscribeRequest { subscription: Some(subscription) };
    client.event().subscribe(request).await.expect("subscribed");
}

/// The name of an actor, and its kind.
fn ear(number: u64) -> (String, &'static str) {
    (format!("ear-{number}"), KINDS[usize::from(number % 2 == 1)])
}

/// Publishes the numbers of this publisher's actors, one batch for each number.
async fn publish(stage: Rc<Stage>, first: u64) {
    let ears: Vec<u64> = (0..EARS).filter(|ear| ear % PUBLISHERS == first).collect();
    for number in 0..NUMBERS {
        while stage.published.get() >= stage.allowed.get() {
            // Whoever kills lets it go on.
            wait::moment(Duration::from_millis(5)).await;
        }
        let event = |number_of_ear: &u64| {
            let (id, kind) = ear(*number_of_ear);
            PublishRequest {
                topic: "words".into(),
                event: Some(Event {
                    r#type: kind.into(),
                    subject: id.clone(),
                    data: Some(json(&json!(number))),
                    ..Event::default()
                }),
                partition_key: id,
                ..PublishRequest::default()
            }
        };
        let request = PublishBatchRequest {
            events: ears.iter().map(event).collect(),
            request_id: format!("{first}/{number}"),
        };
        let published = stage.client.publish_batch_until_told(request, DELIVERED_LIMIT).await;
        published.expect("its own sidecar lives");
        stage.published.set(stage.published.get() + ears.len() as u64);
        stage.load.done();
    }
}

/// Waits until no subscription has anything left to deliver.
async fn all_delivered(client: &Client) {
    wait::until_true("every event to be delivered", DELIVERED_LIMIT, async || {
        let Ok(listed) =
            client.event().list_subscriptions(ListSubscriptionsRequest::default()).await
        else {
            return false;
        };
        let listed = listed.into_inner().subscriptions;
        listed.len() == KINDS.len() && listed.iter().all(|subscription| subscription.lag == 0)
    })
    .await;
}

/// Reads every actor's journal.
async fn judge(client: &Client) {
    let right = json!((0..NUMBERS).collect::<Vec<_>>());
    for number in 0..EARS {
        let (id, kind) = ear(number);
        let actor = ActorTarget { r#type: kind.into(), id: id.clone() };
        let request = GetAllRequest { actor: Some(actor), turn_token: String::new() };
        let state = client.actor_state().get_all(request).await.expect("read").into_inner();
        let journal = state.entries.get("journal").map(value);
        assert_eq!(journal.as_ref(), Some(&right), "the journal of {kind} {id}");
    }
}
