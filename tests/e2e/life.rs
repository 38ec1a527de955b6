//! Actor life: removal takes everything in its turn, whoever is killed meanwhile; idle actors become passive, and their
//! hosts are told; passive ones cost nothing.

use std::ops::Range;
use std::time::Duration;

use kar_proto::v1::request::Operation;
use kar_proto::v1::response::Result as Answer;
use kar_proto::v1::{ActorTarget, Hello, InvocationMode, RemoveActorRequest};
use kar_tests::component::{Component, Turn, error, hello};
use kar_tests::errors::{assert_error, metadata};
use kar_tests::fire::nothing_left;
use kar_tests::reminders::{actor, once};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, World, process, test, test_within, wait};
use serde_json::json;
use tokio::task::JoinSet;
use tonic::Code;

/// Far away: nothing of a test comes near.
const LATER: Duration = Duration::from_secs(3_600);

/// Actors become passive soon.
const SOON: [&str; 2] = ["--actor-idle-ms", "200"];

/// Actors of the test that counts what passive ones cost, unless the environment asks for more.
const MANY: u64 = 3_000;

/// Calls under way at once in it.
const CLIENTS: u64 = 64;

/// State of all of its actors together, and of one at most, bytes.
const STATE_BYTES: u64 = 48 << 20;
const STATE_EACH_MAX: u64 = 16 << 10;

/// Its partitions' snapshots come after so many records.
const SNAPSHOT_RECORDS: i64 = 50;

/// What a sidecar's memory may grow by while most of them become passive, a tenth at a time, KiB: about 1 MiB was
/// measured, for buffers and what the allocator keeps. If nothing of an actor were given back it would be 38 MiB of
/// state alone.
const GROWTH_MAX_KIB: u64 = 8 << 10;

fn alice() -> ActorTarget {
    actor("Pet", "alice")
}

/// A component that is told of idle actors, or not.
fn greeting(is_told: bool) -> Hello {
    let mut greeting = hello(&[], &["Pet"]);
    greeting.actor_types[0].deactivates = is_told;
    greeting
}

/// A node whose component hosts `Pet`.
async fn host(world: &World, name: &str, is_told: bool) -> (Node, Client, Component) {
    let node = world.bare(name).await;
    let client = node.client().await;
    let component = Component::connect(&client, greeting(is_told)).await.expect("welcome");
    (node, client, component)
}

/// Gives the actor state and a reminder.
async fn furnish(client: &Client, host: &mut Component) {
    let caller = client.clone();
    let call =
        tokio::spawn(async move { caller.call(("Pet", "alice"), "furnish", &json!(null)).await });
    let turn = host.next_turn().await;
    turn.set(&[("food", json!(3)), ("mood", json!("good"))]).await.expect("buffered");
    turn.schedule(once(&alice(), "walk", LATER, &json!(null))).await.expect("buffered");
    turn.finish(&json!(null)).await;
    call.await.expect("it ran").expect("answered").expect("it did not fail");
    assert_eq!(client.committed(&alice()).await.len(), 2);
}

/// The actor has neither state nor reminders.
async fn assert_empty(client: &Client) {
    assert!(client.committed(&alice()).await.is_empty());
    assert_eq!(client.reminders(&alice()).await.expect("listed"), []);
}

/// The turn of a call that the client has made in the background.
async fn called(host: &mut Component, method: &str) -> Turn {
    let turn = host.next_turn().await;
    assert_eq!((turn.method(), turn.target()), (method, ("Pet", "alice")));
    turn
}

/// The turn that tells of an idle actor.
async fn told(host: &mut Component) -> Turn {
    let turn = host.next_turn().await;
    assert_eq!(turn.frame.mode(), InvocationMode::Deactivate);
    assert_eq!((turn.method(), turn.target()), ("", ("Pet", "alice")));
    turn
}

async fn figure(client: &Client, name: &str) -> i64 {
    client.figure(name).await.expect("answered").unwrap_or_default()
}

#[test]
fn an_actor_is_removed_with_state_and_reminders() {
    test(async {
        let world = World::new("removal");
        let (_node, client, mut host) = host(&world, "host", false).await;
        furnish(&client, &mut host).await;
        client.remove(&alice()).await.expect("removed");
        assert_empty(&client).await;
        // It can be used again at once, and removed by the other ways in.
        furnish(&client, &mut host).await;
        let request = RemoveActorRequest { actor: Some(alice()) };
        let answer = host.handle().request(Operation::RemoveActor(request)).await;
        assert!(matches!(answer, Ok(Answer::RemoveActor(_))), "{answer:?}");
        assert_empty(&client).await;
        furnish(&client, &mut host).await;
        let done = world.kar_here("actor remove", &["Pet", "alice"]).await;
        assert_eq!((done.code, done.stdout.trim()), (0, "removed: Pet alice"), "{done:?}");
        assert_empty(&client).await;
        // What has nothing is removed, too.
        client.remove(&alice()).await.expect("removed");
        assert_eq!(figure(&client, "actors_removed").await, 4);
        nothing_left(&world).await;
    });
}

#[test]
fn what_cannot_be_removed_is_said() {
    test(async {
        let world = World::new("typo");
        let (_node, client, _host) = host(&world, "host", false).await;
        let status = client.remove(&actor("Pett", "alice")).await;
        let status = assert_error(status, Code::NotFound, "UNKNOWN_TYPE");
        assert_eq!(metadata(&status, "type"), "Pett");
        let status = client.remove(&actor("Pet", "")).await;
        assert_error(status, Code::InvalidArgument, "INVALID_FIELD");
        let status = client.system().remove_actor(RemoveActorRequest { actor: None }).await;
        assert_error(status, Code::InvalidArgument, "INVALID_FIELD");
        let failed = world.kar_here("actor remove", &["Pett", "alice"]).await;
        assert_eq!(failed.code, 4, "{failed:?}");
        assert!(failed.stderr.contains("spelt"), "{failed:?}");
    });
}

/// The removal waits behind a turn whose owner is killed; the next owner carries both out, in order.
#[test]
fn a_removal_that_waits_survives_its_owner() {
    test(async {
        let world = World::new("waits");
        let front = world.bare("front").await;
        let client = front.client().await;
        let (mut node, _, mut component) = host(&world, "first", false).await;
        furnish(&client, &mut component).await;
        let caller = client.clone();
        let call =
            tokio::spawn(async move { caller.call(("Pet", "alice"), "play", &json!(null)).await });
        let turn = called(&mut component, "play").await;
        turn.set(&[("toy", json!("ball"))]).await.expect("buffered");
        turn.flush().await.expect("durable");
        let remover = client.clone();
        let removal = tokio::spawn(async move { remover.remove(&alice()).await });
        wait::until_true("the removal to be queued", READY_LIMIT, async || {
            let listed = world.kar_here("get invocations", &["-o", "json"]).await;
            let listed: serde_json::Value =
                serde_json::from_str(&listed.stdout).unwrap_or_default();
            listed.as_array().is_some_and(|all| all.len() == 2)
        })
        .await;
        node.kill_sidecar();
        node.ended(READY_LIMIT).await;
        drop(component);
        let (_node, _, mut component) = host(&world, "second", false).await;
        let turn = called(&mut component, "play").await;
        assert_eq!(turn.frame.attempt, 2);
        assert_eq!(turn.get("toy").await.expect("read"), json!("ball"), "it was flushed");
        assert!(!removal.is_finished());
        turn.finish(&json!("tired")).await;
        assert_eq!(call.await.expect("it ran").expect("answered"), Ok(json!("tired")));
        removal.await.expect("it ran").expect("removed");
        assert_empty(&client).await;
        nothing_left(&world).await;
    });
}

/// Everything is killed once the removal has been answered: nothing of before comes back.
#[test]
fn what_is_removed_stays_removed() {
    test(async {
        let world = World::new("stays");
        let (mut node, client, mut component) = host(&world, "first", false).await;
        furnish(&client, &mut component).await;
        client.remove(&alice()).await.expect("removed");
        let hub = world.hub().await;
        node.kill_sidecar();
        process::kill(hub);
        node.ended(READY_LIMIT).await;
        process::gone(hub, READY_LIMIT).await;
        let (_node, client, mut component) = host(&world, "second", false).await;
        assert_empty(&client).await;
        let caller = client.clone();
        let call =
            tokio::spawn(async move { caller.call(("Pet", "alice"), "look", &json!(null)).await });
        let turn = called(&mut component, "look").await;
        assert_eq!(turn.get("food").await.expect("read"), json!(null));
        turn.finish(&json!("nothing")).await;
        assert_eq!(call.await.expect("it ran").expect("answered"), Ok(json!("nothing")));
    });
}

#[test]
fn an_idle_actor_becomes_passive_and_its_host_is_told() {
    test(async {
        let world = World::new("idle");
        world.add_run_args(&SOON);
        let (_node, client, mut component) = host(&world, "host", true).await;
        furnish(&client, &mut component).await;
        let turn = told(&mut component).await;
        let first = turn.frame.activation;
        assert_eq!(turn.get("food").await.expect("read"), json!(3), "its state is there");
        turn.set(&[("mood", json!("asleep"))]).await.expect("buffered");
        // A call that comes meanwhile waits, and is another activation's.
        let caller = client.clone();
        let call =
            tokio::spawn(async move { caller.call(("Pet", "alice"), "look", &json!(null)).await });
        turn.finish(&json!(null)).await;
        let turn = called(&mut component, "look").await;
        assert_ne!(turn.frame.activation, first);
        assert_eq!(turn.get("mood").await.expect("read"), json!("asleep"), "it was durable");
        turn.finish(&json!("hush")).await;
        assert_eq!(call.await.expect("it ran").expect("answered"), Ok(json!("hush")));
        // A hook that fails is told to people, and changes nothing.
        let turn = told(&mut component).await;
        turn.set(&[("mood", json!("lost"))]).await.expect("buffered");
        let failure = kar_proto::v1::turn_outcome::Result::Error(error("Full", "no room"));
        component.handle().finish(&turn.token, failure).await;
        wait::until_true("nobody to be awake", READY_LIMIT, async || {
            figure(&client, "actors_awake_now").await == 0
        })
        .await;
        assert_eq!(figure(&client, "deactivations_failed").await, 1);
        assert_eq!(figure(&client, "actors_passivated").await, 2);
        assert_eq!(client.committed(&alice()).await["mood"], json!("asleep"));
        nothing_left(&world).await;
    });
}

/// A hand-over and a return are another activation, also in the same process: what was remembered may be old.
#[test]
fn an_activation_ends_with_its_owner() {
    test(async {
        let world = World::new("moves");
        let front = world.bare("front").await;
        let client = front.client().await;
        let (_node, _, mut component) = host(&world, "host", true).await;
        let look = async |component: &mut Component| {
            let caller = client.clone();
            let call =
                tokio::spawn(
                    async move { caller.call(("Pet", "alice"), "look", &json!(null)).await },
                );
            let turn = called(component, "look").await;
            let activation = turn.frame.activation;
            turn.finish(&json!(null)).await;
            call.await.expect("it ran").expect("answered").expect("it did not fail");
            activation
        };
        let first = look(&mut component).await;
        assert_eq!(look(&mut component).await, first);
        component.goodbye().await;
        // Others own it now, and it comes back to the same sidecar.
        let sidecar = _node.client().await;
        let mut component = wait::until("the host to be let in again", READY_LIMIT, async || {
            Component::connect(&sidecar, greeting(true)).await.ok()
        })
        .await;
        assert_ne!(look(&mut component).await, first);
    });
}

/// Passive actors have their places in the store, and nothing else: not in the sidecar, not in snapshots, not in
/// what a take-over reads.
#[test]
fn passive_actors_cost_nothing() {
    let many = std::env::var("KAR_TEST_ACTORS").ok().and_then(|text| text.parse().ok());
    let many: u64 = many.unwrap_or(MANY);
    test_within(Duration::from_secs(120 + many / 100), async move {
        let world = World::new("passive");
        world.add_run_args(&["--actor-idle-ms", "500"]);
        world.add_run_args(&["--snapshot-after-records", &SNAPSHOT_RECORDS.to_string()]);
        let state = "s".repeat((STATE_BYTES / many).min(STATE_EACH_MAX) as usize);
        let mut node = world.app("host", &["echo"]).await;
        let mut figures = Vec::new();
        let (few, twice) = (many / 10, many / 5);
        for parts in [[0, few / 2, few], [few, twice, many]] {
            node.hosts("Echo").await;
            let client = node.client().await;
            let at_once = many / 10;
            keep(&client, parts[0]..parts[1], &state, at_once).await;
            let begun = process::resident_kib(node.pid()).expect("it lives");
            keep(&client, parts[1]..parts[2], &state, at_once).await;
            let living = process::resident_kib(node.pid()).expect("it lives");
            println!("{} to {}: {begun} KiB became {living} KiB", parts[1], parts[2]);
            assert!(living < begun + GROWTH_MAX_KIB, "{begun} KiB became {living} KiB");
            let taken = figure(&client, "snapshots_taken").await;
            let trims = figure(&client, "log_trims").await;
            node.kill_sidecar();
            node.ended(READY_LIMIT).await;
            node = world.app("host", &["echo"]).await;
            node.hosts("Echo").await;
            let client = node.client().await;
            let again = client.call(("Echo", "e0"), "echo", &json!(7)).await;
            assert_eq!(again.expect("answered"), Ok(json!(7)));
            let read = figure(&client, "records_read").await;
            let used = figure(&client, "snapshots_used").await;
            let resident = process::resident_kib(node.pid()).unwrap_or_default();
            println!(
                "{} actors: {taken} snapshots, {trims} trims; used {used}, read {read} records, {resident} KiB",
                parts[2]
            );
            figures.push((taken, trims, used, read, resident));
        }
        let (_, _, _, _, resident) = figures[0];
        let (taken, trims, used, read, resident_all) = figures[1];
        assert!(taken > 0 && trims > 0 && used > 0, "{taken} taken, {trims} trims, {used} used");
        assert!(read < 8 * 2 * SNAPSHOT_RECORDS, "a take-over read {read} records");
        assert!(resident_all < resident + GROWTH_MAX_KIB, "{resident} KiB became {resident_all}");
        let client = node.client().await;
        for id in ["e0".to_owned(), format!("e{}", many - 1)] {
            let count = client.call(("Echo", &id), "count", &json!(null)).await;
            assert_eq!(count.expect("answered"), Ok(json!(2)), "its state is there");
            let kept = client.committed(&actor("Echo", &id)).await;
            assert_eq!(kept["kept"], json!(state));
        }
    });
}

/// Uses each of these actors once, so many at most between moments at which none is awake: however fast they are used,
/// no more than these have taken memory at once, which the allocator may keep.
async fn keep(client: &Client, which: Range<u64>, state: &str, at_once: u64) {
    for first in which.clone().step_by(usize::try_from(at_once).expect("it fits")) {
        use_once(client, first..which.end.min(first + at_once), state).await;
        wait::until_true("all to be passive", READY_LIMIT, async || {
            figure(client, "actors_awake_now").await == 0
        })
        .await;
    }
}

async fn use_once(client: &Client, which: Range<u64>, state: &str) {
    let mut calls = JoinSet::new();
    for (under_way, n) in (0..).zip(which) {
        if under_way >= CLIENTS {
            calls.join_next().await.expect("one is under way").expect("it ran");
        }
        let (client, state) = (client.clone(), json!(state));
        calls.spawn(async move {
            let count = client.call(("Echo", &format!("e{n}")), "keep", &state).await;
            assert_eq!(count.expect("answered"), Ok(json!(1)));
        });
    }
    while let Some(done) = calls.join_next().await {
        done.expect("it ran");
    }
}
