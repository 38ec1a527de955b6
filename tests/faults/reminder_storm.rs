//! Thousands of reminders that are due at once, while whoever owns them is killed at random: each due time leads to one
//! invocation, which takes effect once, and none is left over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use kar_proto::v1::{GetAllRequest, Reminder};
use kar_tests::errors::unanswered;
use kar_tests::fire::{DOUBLE_EVERY, RECOVERY_MAX_MS};
use kar_tests::grpc::value;
use kar_tests::reminders::{actor, once};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, Random, Toll, World, process, test_within, wait};
use serde_json::json;
use tokio::task::JoinSet;

/// Reminders of one storm, all due in the same millisecond.
const REMINDERS: u64 = 10_000;

/// Actors that they belong to.
const ACTORS: u64 = 200;

/// Kills in one storm at least, in the end: more than `--park-after-attempts` (20). What waits for an owner that is
/// killed has lost no host, and is not parked for it.
const KILLS_MIN: u32 = 25;

/// Kills in one storm at most.
const KILLS_PER_STORM_MAX: u32 = 30;

/// How long it takes to ring, ms: a storm lasts as long as it takes to kill so often.
const RING_MS: u64 = 400;

/// P3: code of a cut-off attempt may run on for so long.
const GRACE: Duration = Duration::from_millis(100);

/// Longest pause before a kill, ms.
const PAUSE_MAX_MS: u64 = 150;

/// Longest time from a kill until more has rung, on a machine that does much else.
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);

/// Requests under way while reminders are scheduled.
const CLIENTS: u64 = 64;

/// Longer than everything here takes.
const FAR: Duration = Duration::from_secs(3_600);

/// Longest time from the last kill until everything has rung, on a machine that does much else.
const RINGING_LIMIT: Duration = Duration::from_secs(120);

const LIMIT: Duration = Duration::from_secs(360);

#[test]
fn a_storm_of_reminders_under_random_kills() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("reminder storm");
        let world = World::new("storm");
        world.journal_turns();
        let mut toll = Toll::default();
        let front = world.bare("front").await;
        let client = front.client().await;
        let mut nodes = Vec::new();
        for name in ["ringer-1", "ringer-2", "ringer-3"] {
            nodes.push(world.app(name, &["ringer"]).await);
        }
        let begun = Instant::now();
        let (mut kills, mut storms, mut again, mut most) = (0, 0, 0, 0);
        while most < KILLS_MIN {
            let due = gather(&client, storms).await;
            wait::until_true("the due time", LIMIT, async || SystemTime::now() >= due).await;
            let struck = strike(&world, &mut nodes, &client, &mut random, storms, &mut toll).await;
            (kills, most) = (kills + struck, most.max(struck));
            storms += 1;
            again = judge(&world, &client, storms).await;
            let since = begun.elapsed();
            println!("{storms} storms, {kills} kills, {again} attempts cut off, {since:?}");
        }
        let due = storms * REMINDERS;
        println!("{due} due times in {storms} storms, {kills} kills, {again} attempts cut off");
        let attempts = world.journal().attempts().len() as u64;
        assert!(attempts >= due, "the journal has {attempts} turns only");
        world.journal().assert_no_overlap(GRACE);
        toll.hits(&world.journal()).assert("reminder storm");
    });
}

fn ringer(number: u64) -> String {
    format!("r{}", number % ACTORS)
}

fn key(storm: u64, number: u64) -> String {
    format!("{storm}-{number}")
}

fn reminder(storm: u64, number: u64, due: SystemTime) -> Reminder {
    let key = key(storm, number);
    let of = actor("Ringer", &ringer(number));
    let reminder = once(&of, &key, Duration::ZERO, &json!({ "key": key, "milliseconds": RING_MS }));
    Reminder { due_time: Some(due.into()), ..reminder }
}

/// Schedules a storm far ahead, and then anew for one moment that is near; that moment.
async fn gather(client: &Client, storm: u64) -> SystemTime {
    let begun = Instant::now();
    schedule(client, storm, SystemTime::now() + FAR).await;
    // As long again, and to spare.
    let due = SystemTime::now() + begun.elapsed() * 2 + Duration::from_secs(1);
    schedule(client, storm, due).await;
    assert!(SystemTime::now() < due, "not all of them are due at once");
    println!("scheduled in {:?}", begun.elapsed());
    due
}

/// Schedules all reminders of a storm, by many clients.
async fn schedule(client: &Client, storm: u64, due: SystemTime) {
    let mut tasks = JoinSet::new();
    for first in 0..CLIENTS {
        let client = client.clone();
        tasks.spawn(async move {
            for number in (first..REMINDERS).step_by(CLIENTS as usize) {
                let scheduled = client.schedule(reminder(storm, number, due)).await;
                scheduled.expect("its own sidecar lives");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no client panics");
    }
}

/// Kills somebody and starts it again, until nearly everything has rung; how often.
async fn strike(
    world: &World,
    nodes: &mut [Node],
    client: &Client,
    random: &mut Random,
    storm: u64,
    toll: &mut Toll,
) -> u32 {
    let (mut seen, mut kills) = (0, 0);
    while kills < KILLS_PER_STORM_MAX {
        // None of them is left alone with its losses.
        seen = wait::until("more to ring", PROGRESS_LIMIT, async || {
            let now = rung(client, storm).await;
            (now > seen).then_some(now)
        })
        .await;
        if seen > REMINDERS * 9 / 10 {
            return kills;
        }
        wait::moment(Duration::from_millis(random.below(PAUSE_MAX_MS))).await;
        kills += 1;
        let choice = random.below(8);
        if choice == 0 {
            let hub = world.hub().await;
            toll.strike([], true);
            process::kill(hub);
            continue;
        }
        let mut victims = vec![usize::try_from(random.below(3)).expect("small")];
        // Another one, while what the first has lost is taken up again.
        if random.below(DOUBLE_EVERY) == 0 {
            victims.push((victims[0] + 1) % 3);
            kills += 1;
        }
        for victim in &victims {
            let component = nodes[*victim].component_now();
            toll.strike([component], false);
            match (choice, component) {
                (1, Some(component)) => process::kill(component),
                _ => nodes[*victim].kill_sidecar(),
            }
            if victims.len() > 1 {
                wait::moment(Duration::from_millis(random.below(RECOVERY_MAX_MS))).await;
            }
        }
        for victim in victims {
            nodes[victim].ended(READY_LIMIT).await;
            let name = nodes[victim].name.clone();
            nodes[victim] = world.app(&name, &["ringer"]).await;
        }
    }
    kills
}

/// How many reminders of a storm have rung.
async fn rung(client: &Client, storm: u64) -> u64 {
    let mut tasks = JoinSet::new();
    for number in 0..ACTORS {
        let (client, prefix) = (client.clone(), format!("{storm}-"));
        tasks.spawn(async move {
            let state = state_of(&client, number).await;
            state.keys().filter(|key| key.starts_with(&prefix)).count() as u64
        });
    }
    tasks.join_all().await.into_iter().sum()
}

async fn state_of(client: &Client, number: u64) -> BTreeMap<String, u64> {
    let request =
        GetAllRequest { actor: Some(actor("Ringer", &ringer(number))), turn_token: String::new() };
    // While two of three nodes are down on a machine that does much else there may be no owner for long.
    let deadline = Instant::now() + PROGRESS_LIMIT;
    let all = loop {
        match client.actor_state().get_all(request.clone()).await {
            Ok(all) => break all.into_inner(),
            Err(status) => {
                let again = unanswered(&status) && Instant::now() < deadline;
                assert!(again, "read: {status:?}");
            }
        }
    };
    let count = |payload| value(payload).as_u64().expect("a number");
    all.entries.iter().map(|(key, payload)| (key.clone(), count(payload))).collect()
}

/// Waits until nothing is under way, and counts: every due time of every storm so far took effect once. How many turns
/// were tried again.
async fn judge(world: &World, client: &Client, storms: u64) -> u64 {
    wait::until_true("everything to ring", RINGING_LIMIT, async || {
        rung(client, storms - 1).await == REMINDERS
    })
    .await;
    // What rang twice would ring on.
    wait::until_true("every invocation to be over", RINGING_LIMIT, async || {
        let listed = world.kar_here("get invocations", &["-o", "json"]).await;
        assert_eq!(listed.code, 0, "{listed:?}");
        listed.stdout.trim() == "[]"
    })
    .await;
    let mut again = 0;
    for number in 0..ACTORS {
        let mut state = state_of(client, number).await;
        again += state.remove("again").unwrap_or(0);
        let own = (0..storms).flat_map(|storm| {
            (number..REMINDERS).step_by(ACTORS as usize).map(move |n| (key(storm, n), 1))
        });
        assert_eq!(state, own.collect(), "{}", ringer(number));
        let left = client.reminders(&actor("Ringer", &ringer(number))).await.expect("listed");
        assert_eq!(left, [], "{}", ringer(number));
    }
    again
}
