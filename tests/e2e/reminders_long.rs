//! Reminders that take long, or that are many: a cron expression really fires, a passive actor is woken by it, and
//! 100,000 of them cost so much memory and no more, also for who takes over from the dead.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kar_proto::v1::reminder::Recurrence;
use kar_proto::v1::{ActorTarget, CronSchedule, InvocationMode, Reminder};
use kar_tests::component::{Component, Turn, hello};
use kar_tests::reminders::{actor, once};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, World, process, test_within, wait};
use serde_json::json;
use tokio::task::{JoinHandle, JoinSet};

/// Longer than everything here takes.
const LATER: Duration = Duration::from_secs(3_600);

/// The shortest time between two due times of a cron expression.
const MINUTE: Duration = Duration::from_secs(60);

/// Longest time from a due time until it rings, on a machine that does much else.
const LATE_MAX: Duration = Duration::from_secs(5);

/// Reminders, and the actors that they belong to.
const REMINDERS: usize = 100_000;
const ACTORS: usize = 100;

/// Some of them ring so long after everything was killed.
const DOWN: Duration = Duration::from_secs(10);

/// Longest time until all of them are there again after everything was killed: a start, and reading what they take.
const BACK_MAX: Duration = Duration::from_secs(30);

/// What one of them may cost a sidecar, KiB: the reminder itself and two places where it is found, twice and more.
const KIB_EACH_MAX: u64 = 2;

async fn host(world: &World) -> (Node, Client, Component) {
    let node = world.bare("host").await;
    let client = node.client().await;
    let component = Component::connect(&client, hello(&[], &["Clock"])).await.expect("welcome");
    (node, client, component)
}

fn call(client: &Client, id: &str, method: &'static str) -> JoinHandle<()> {
    let (client, id) = (client.clone(), id.to_owned());
    tokio::spawn(async move {
        let answer = client.call(("Clock", &id), method, &json!(null)).await;
        answer.expect("answered").expect("no error");
    })
}

async fn figure(client: &Client, name: &str) -> i64 {
    client.figure(name).await.expect("answered").unwrap_or_default()
}

#[test]
fn a_cron_expression_fires_at_the_full_minute_and_wakes_a_passive_actor() {
    test_within(MINUTE * 3, async {
        let world = World::new("minute");
        world.add_run_args(&["--actor-idle-ms", "100"]);
        let (_node, client, mut host) = host(&world).await;
        let own = actor("Clock", "tower");
        let set = call(&client, "tower", "set");
        let turn = host.next_turn().await;
        let activation = turn.frame.activation;
        turn.set(&[("bells", json!(3))]).await.expect("buffered");
        turn.finish(&json!(null)).await;
        set.await.expect("answered");
        let due = client.schedule(minutely(&own)).await.expect("scheduled");
        let since = due.duration_since(UNIX_EPOCH).expect("later");
        assert_eq!(since.as_secs() % 60, 0, "a full minute");
        let (mut due, mut activation) = (due, activation);
        if due < SystemTime::now() + READY_LIMIT / 3 {
            // Too near for the actor to be passive for certain: the next one.
            let rung = ring(&mut host, due).await;
            (due, activation) = (due + MINUTE, rung.frame.activation);
            rung.finish(&json!(null)).await;
        }
        wait::until_true("the actor to be passive", READY_LIMIT, async || {
            figure(&client, "actors_awake_now").await == 0
        })
        .await;
        let rung = ring(&mut host, due).await;
        assert_eq!(rung.get("bells").await.expect("read"), json!(3), "its state is there");
        assert_ne!(rung.frame.activation, activation, "it was passive meanwhile");
        rung.finish(&json!(null)).await;
        let listed = client.reminders(&own).await.expect("listed");
        assert_eq!(listed[0].due_time, Some((due + MINUTE).into()), "the next full minute");
    });
}

fn minutely(of: &ActorTarget) -> Reminder {
    let (expression, time_zone) = ("* * * * *".into(), "UTC".into());
    let cron = CronSchedule { expression, time_zone };
    let reminder = once(of, "minutely", LATER, &json!(null));
    Reminder { due_time: None, recurrence: Some(Recurrence::Cron(cron)), ..reminder }
}

/// The turn of a due time.
async fn ring(host: &mut Component, due: SystemTime) -> Turn {
    let turn = host.next_turn().await;
    assert_eq!((turn.method(), turn.frame.mode()), ("ring", InvocationMode::Tell));
    let late = SystemTime::now().duration_since(due).expect("not too early");
    println!("rung {late:?} after the full minute");
    assert!(late < LATE_MAX, "it rang {late:?} late");
    turn
}

#[test]
fn a_hundred_thousand_reminders_cost_no_more_memory_than_they_may() {
    test_within(Duration::from_secs(300), async {
        let world = World::new("crowd");
        let (mut node, client, mut clocks) = host(&world).await;
        let first = call(&client, "warm", "fill");
        clocks.next_turn().await.finish(&json!(null)).await;
        first.await.expect("answered");
        let (before, begun) = (resident(&node), Instant::now());
        for number in 0..ACTORS {
            let id = format!("c{number}");
            let filled = call(&client, &id, "fill");
            fill(clocks.next_turn().await).await;
            filled.await.expect("answered");
        }
        println!("{REMINDERS} reminders in {:?}", begun.elapsed());
        assert_bounded(&node, before);
        // They are there, and one that is due does not wait for them.
        let listed = client.reminders(&actor("Clock", "c7")).await.expect("listed");
        assert_eq!(listed.len(), REMINDERS / ACTORS);
        ring_now(&client, &mut clocks).await;
        // A few of them are to ring soon; before it does everything is killed.
        for number in (0..ACTORS).step_by(10) {
            let of = actor("Clock", &format!("c{number}"));
            client.schedule(once(&of, "r7", DOWN, &json!(7))).await.expect("scheduled anew");
        }
        let hub = world.hub().await;
        node.kill_sidecar();
        process::kill(hub);
        node.ended(READY_LIMIT).await;
        process::gone(hub, READY_LIMIT).await;
        drop((client, clocks));
        let (begun, due) = (Instant::now(), SystemTime::now() + DOWN);
        let (node, client, mut clocks) = host(&world).await;
        // All of them are found again, whole.
        for number in 0..ACTORS {
            let listed = client.reminders(&actor("Clock", &format!("c{number}"))).await;
            let mut ids: Vec<_> = listed.expect("listed").into_iter().map(|r| r.id).collect();
            ids.sort();
            let rings = usize::from(number % 10 == 0 && ids.len() == REMINDERS / ACTORS - 1);
            assert_eq!(ids.len() + rings, REMINDERS / ACTORS, "of c{number}");
            ids.dedup();
            assert_eq!(ids.len() + rings, REMINDERS / ACTORS, "twice, of c{number}");
        }
        println!("listed again {:?} after the kill", begun.elapsed());
        assert!(begun.elapsed() < BACK_MAX, "listed {:?} after the kill", begun.elapsed());
        let mut rung = BTreeSet::new();
        for _ in (0..ACTORS).step_by(10) {
            let turn = clocks.next_turn().await;
            assert_eq!((turn.method(), turn.argument()), ("ring", json!(7)));
            assert!(rung.insert(turn.target().1.to_owned()), "{:?} rang twice", turn.target());
            turn.finish(&json!(null)).await;
        }
        let late = SystemTime::now().duration_since(due).unwrap_or_default();
        println!(
            "the last one rang {late:?} after its due time, {:?} after the kill",
            begun.elapsed()
        );
        assert!(begun.elapsed() < BACK_MAX.max(DOWN + LATE_MAX), "rang {late:?} late");
        ring_now(&client, &mut clocks).await;
        assert_bounded(&node, before);
    });
}

fn resident(node: &Node) -> u64 {
    process::resident_kib(node.pid()).expect("it lives")
}

/// All of the reminders together cost so much memory and no more, beside a sidecar that has none.
#[track_caller]
fn assert_bounded(node: &Node, before: u64) {
    let after = resident(node);
    let each = after.saturating_sub(before) * 1024 / REMINDERS as u64;
    println!("{before} KiB became {after} KiB, {each} bytes each");
    assert!(each < KIB_EACH_MAX * 1024, "a reminder costs {each} bytes");
}

/// One that is due at once rings at once.
async fn ring_now(client: &Client, clocks: &mut Component) {
    let due = client.schedule(once(&actor("Clock", "now"), "now", Duration::ZERO, &json!(1)));
    let due = due.await.expect("scheduled");
    ring(clocks, due).await.finish(&json!(null)).await;
}

/// Schedules an actor's share in one segment.
async fn fill(turn: Turn) {
    let mut tasks = JoinSet::new();
    for number in 0..REMINDERS / ACTORS {
        let turn = turn.clone();
        let reminder = once(&turn.own(), &format!("r{number}"), LATER, &json!(number));
        tasks.spawn(async move { turn.schedule(reminder).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no panic").expect("buffered");
    }
    turn.finish(&json!(null)).await;
}
