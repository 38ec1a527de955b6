//! Reminders: they ring at their times whoever was killed meanwhile; they are part of a turn's segment; what was
//! missed is caught up as asked; and what is wrong with them is said in words that help.

use std::time::{Duration, SystemTime};

use kar_proto::v1::reminder::Recurrence;
use kar_proto::v1::request::Operation;
use kar_proto::v1::{
    ActorTarget, CatchUpPolicy, CronSchedule, InvocationMode, Reminder,
    ReminderServiceCancelRequest, ReminderServiceListRequest, ScheduleRequest, turn_outcome,
};
use kar_tests::component::{Component, Turn, error, hello};
use kar_tests::errors::{assert_error, metadata};
use kar_tests::grpc::{json as bytes, value};
use kar_tests::reminders::{actor, every, once, schedule};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, World, process, test, wait};
use serde_json::{Value, json};
use tonic::Code;

/// Far away: nothing of a test comes near.
const LATER: Duration = Duration::from_secs(3_600);

fn clock() -> ActorTarget {
    actor("Clock", "tower")
}

/// A node whose component hosts `Clock`.
async fn host(world: &World, name: &str) -> (Node, Client, Component) {
    let node = world.bare(name).await;
    let client = node.client().await;
    let component = Component::connect(&client, hello(&[], &["Clock"])).await.expect("welcome");
    (node, client, component)
}

/// The next turn, which a reminder made.
async fn rung(host: &mut Component) -> Turn {
    let turn = host.next_turn().await;
    assert_eq!((turn.method(), turn.target()), ("ring", ("Clock", "tower")));
    assert_eq!(turn.frame.mode(), InvocationMode::Tell);
    turn
}

/// The id of a turn's invocation.
fn invocation(turn: &Turn) -> &str {
    turn.token.rsplit_once('/').expect("a token names it first").0
}

/// Every process of the application is killed at once.
async fn kill_all(world: &World, nodes: Vec<Node>) {
    let hub = world.hub().await;
    for mut node in nodes {
        node.kill_sidecar();
        process::kill(hub);
        node.ended(READY_LIMIT).await;
    }
    process::gone(hub, READY_LIMIT).await;
}

#[test]
fn a_one_shot_rings_once_at_its_time() {
    test(async {
        let world = World::new("once");
        let (_node, client, mut host) = host(&world, "host").await;
        let reminder = once(&clock(), "tea", Duration::from_millis(600), &json!({"cups": 2}));
        let wanted = SystemTime::try_from(reminder.due_time.expect("set")).expect("in range");
        let due = client.schedule(reminder.clone()).await.expect("scheduled");
        // What is below a millisecond is cut off.
        assert!(
            due <= wanted && wanted.duration_since(due).expect("so") < Duration::from_millis(1)
        );
        let listed = client.reminders(&clock()).await.expect("listed");
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].due_time, Some(due.into()));
        assert_eq!(value(&listed[0].payload.clone().expect("it has one")), json!({"cups": 2}));
        assert_eq!((&*listed[0].id, &*listed[0].method), ("tea", "ring"));
        let turn = rung(&mut host).await;
        assert!(SystemTime::now() >= due, "too early");
        assert_eq!(turn.argument(), json!({"cups": 2}));
        turn.finish(&json!(null)).await;
        assert_eq!(client.reminders(&clock()).await.expect("listed"), []);
    });
}

#[test]
fn a_period_goes_on_after_everything_was_killed() {
    test(async {
        let world = World::new("restart");
        let period = Duration::from_millis(300);
        let (node, client, mut component) = host(&world, "first").await;
        client.schedule(every(&clock(), "beat", period, CatchUpPolicy::Each)).await.expect("ok");
        client.schedule(once(&clock(), "far", LATER, &json!(1))).await.expect("ok");
        // One of them has ended, the other has not, and both are to be known after that.
        let done = rung(&mut component).await;
        let mut seen = vec![invocation(&done).to_owned()];
        done.finish(&json!(null)).await;
        let cut = rung(&mut component).await;
        let listed = client.reminders(&clock()).await.expect("listed");
        assert_eq!(listed.iter().map(|r| &*r.id).collect::<Vec<_>>(), ["beat", "far"]);
        kill_all(&world, vec![node]).await;
        let (_node, client, mut component) = host(&world, "second").await;
        // The turn that was cut off comes first, as another attempt, then what was missed, then the rest.
        let retry = rung(&mut component).await;
        assert_eq!(invocation(&retry), invocation(&cut));
        assert_eq!(retry.frame.attempt, 2);
        seen.push(invocation(&retry).to_owned());
        retry.finish(&json!(null)).await;
        for _ in 0..4 {
            let turn = rung(&mut component).await;
            assert!(!seen.iter().any(|id| id == invocation(&turn)), "twice");
            seen.push(invocation(&turn).to_owned());
            turn.finish(&json!(null)).await;
        }
        assert_eq!(client.cancel_reminder(&clock(), "beat").await.expect("ok"), 1);
        assert_eq!(client.cancel_reminder(&clock(), "beat").await.expect("ok"), 0);
        let listed = client.reminders(&clock()).await.expect("listed");
        assert_eq!(listed.iter().map(|r| &*r.id).collect::<Vec<_>>(), ["far"]);
        assert_eq!(client.cancel_reminder(&clock(), "").await.expect("ok"), 1);
    });
}

#[test]
fn reminders_of_a_turn_are_part_of_its_segment() {
    test(async {
        let world = World::new("segment");
        let (_node, client, mut host) = host(&world, "host").await;
        client.schedule(once(&clock(), "old", LATER, &json!(1))).await.expect("scheduled");
        let call = {
            let client = client.clone();
            async move |method: &'static str| {
                client.call(("Clock", "tower"), method, &json!(null)).await.expect("answered")
            }
        };
        // An error drops it all.
        let failing = tokio::spawn({
            let call = call.clone();
            async move { call("fail").await }
        });
        let turn = host.next_turn().await;
        turn.schedule(once(&clock(), "new", LATER, &json!(2))).await.expect("buffered");
        assert_eq!(turn.cancel_reminder("old").await.expect("buffered"), 1);
        assert_eq!(turn.reminders().await.expect("listed"), ["new"]);
        let ids = |all: Vec<Reminder>| all.into_iter().map(|r| r.id).collect::<Vec<_>>();
        assert_eq!(ids(client.reminders(&clock()).await.expect("listed")), ["old"]);
        let refused = turn_outcome::Result::Error(error("No", "as you wish"));
        host.handle().finish(&turn.token, refused).await;
        failing.await.expect("no panic").expect_err("it failed");
        assert_eq!(ids(client.reminders(&clock()).await.expect("listed")), ["old"]);
        // Success keeps it all.
        let going = tokio::spawn(async move { call("plan").await });
        let turn = host.next_turn().await;
        turn.schedule(once(&clock(), "new", Duration::ZERO, &json!(2))).await.expect("buffered");
        assert_eq!(turn.cancel_reminder("").await.expect("buffered"), 2);
        turn.schedule(once(&clock(), "soon", Duration::ZERO, &json!(3))).await.expect("buffered");
        let token = turn.token.clone();
        turn.finish(&json!(null)).await;
        going.await.expect("no panic").expect("it went well");
        assert_eq!(rung(&mut host).await.argument(), json!(3));
        // That turn is over.
        let late = schedule(once(&clock(), "late", LATER, &json!(4)), &token);
        let answer = client.reminder().schedule(late).await;
        assert_error(answer, Code::Aborted, "TURN_SUPERSEDED");
    });
}

#[test]
fn an_actor_that_nobody_hosts_is_reminded_when_somebody_does() {
    test(async {
        let world = World::new("nobody");
        let node = world.bare("front").await;
        let client = node.client().await;
        client.schedule(once(&clock(), "tea", Duration::ZERO, &json!(1))).await.expect("ok");
        // The owner takes it as due, and it is one invocation from then on.
        let tell = wait::until("the firing to be listed", READY_LIMIT, async || {
            let listed = world.kar_here("get invocations", &["-o", "json"]).await;
            let rows: Value = serde_json::from_str(&listed.stdout).ok()?;
            rows.get(0).cloned()
        })
        .await;
        assert_eq!((&tell["method"], &tell["mode"]), (&json!("ring"), &json!("tell")), "{tell}");
        let mut host = Component::connect(&client, hello(&[], &["Clock"])).await.expect("welcome");
        let turn = rung(&mut host).await;
        assert_eq!(tell["invocation_id"], json!(invocation(&turn)));
        turn.finish(&json!(null)).await;
    });
}

#[test]
fn what_was_missed_is_caught_up_as_asked() {
    test(async {
        let world = World::new("missed");
        world.add_run_args(&["--reminder-lateness-ms", "100"]);
        let period = Duration::from_millis(200);
        let (node, client, component) = host(&world, "first").await;
        let first = SystemTime::now() + Duration::from_millis(400);
        for (id, policy) in [
            ("once", CatchUpPolicy::Once),
            ("each", CatchUpPolicy::Each),
            ("skip", CatchUpPolicy::Skip),
        ] {
            let mut reminder = every(&actor("Clock", id), id, period, policy);
            reminder.due_time = Some(first.into());
            client.schedule(reminder.clone()).await.expect("scheduled");
            reminder.recurrence = None;
            reminder.actor = Some(actor("Clock", &format!("single-{id}")));
            client.schedule(reminder).await.expect("scheduled");
        }
        drop(component);
        kill_all(&world, vec![node]).await;
        // Long enough for seven due times, of which six are missed for sure.
        let over = first + period * 6 + Duration::from_millis(150);
        wait::until_true("the due times to pass", READY_LIMIT, async || SystemTime::now() > over)
            .await;
        let node = world.bare("second").await;
        let client = node.client().await;
        let missed = async || client.figure("reminders_missed").await.expect("answered");
        wait::until_true("three to be missed", READY_LIMIT, async || missed().await >= Some(3))
            .await;
        // Nobody hosts them: what was fired waits, and can be counted. One of each is enough.
        let later = SystemTime::now() + period * 4;
        wait::until_true("more to be due", READY_LIMIT, async || SystemTime::now() > later).await;
        let listed = async || {
            let listed = world.kar_here("get invocations", &["-o", "json"]).await;
            serde_json::from_str::<Vec<Value>>(&listed.stdout).unwrap_or_default()
        };
        let rows = listed().await;
        assert_eq!(["each", "once", "skip"].map(|id| count(&rows, id)), [1, 1, 1]);
        // A host does not end them: what comes then is behind what waited. Every due time leads to one, in its own
        // time.
        let _host = Component::connect(&client, hello(&[], &["Clock"])).await.expect("welcome");
        let rows = wait::until("all to be fired", READY_LIMIT, async || {
            let rows = listed().await;
            (count(&rows, "each") >= 7 && count(&rows, "once") >= 2).then_some(rows)
        })
        .await;
        let since = SystemTime::now().duration_since(first).unwrap_or_default();
        let most = usize::try_from(since.as_millis() / period.as_millis()).expect("few") + 1;
        let [each, once, skip] = ["each", "once", "skip"].map(|id| count(&rows, id));
        assert!(each <= most, "{each} of {most}");
        // The others began with what was not missed, and one of them with one for all that was.
        assert!(once + 5 <= each && skip <= once, "{once} and {skip} of {each}");
        let single = ["single-each", "single-once", "single-skip"].map(|id| count(&rows, id));
        assert_eq!(single, [1, 1, 0]);
    });
}

/// Invocations of one clock.
fn count(rows: &[Value], id: &str) -> usize {
    let target = json!(format!("Clock/{id}"));
    rows.iter().filter(|row| row["target"] == target).count()
}

#[test]
fn a_cron_expression_is_kept_with_its_zone() {
    test(async {
        let world = World::new("cron");
        let node = world.bare("front").await;
        let client = node.client().await;
        let mut reminder = once(&clock(), "daily", LATER, &json!(1));
        reminder.due_time = None;
        let cron =
            CronSchedule { expression: "30 9 * * 1-5".into(), time_zone: "Asia/Tokyo".into() };
        reminder.recurrence = Some(Recurrence::Cron(cron.clone()));
        let due = client.schedule(reminder).await.expect("scheduled");
        let seconds = due.duration_since(SystemTime::UNIX_EPOCH).expect("later").as_secs();
        // 09:30 in Tokyo, which has no summer time, is 00:30 in UTC.
        assert_eq!(seconds % 86_400, 1_800);
        // The 1st of January 1970 was a Thursday; Tokyo is nine hours ahead.
        let weekday = ((seconds + 9 * 3_600) / 86_400 + 3) % 7;
        assert!(weekday < 5, "{weekday}");
        let listed = client.reminders(&clock()).await.expect("listed");
        assert_eq!(listed[0].recurrence, Some(Recurrence::Cron(cron)));
        assert_eq!(listed[0].due_time, Some(due.into()));
        // Replaced by a minutely one in local time: the next full minute.
        let mut reminder = listed[0].clone();
        let cron = CronSchedule { expression: "* * * * *".into(), time_zone: String::new() };
        reminder.recurrence = Some(Recurrence::Cron(cron));
        reminder.due_time = None;
        let before = SystemTime::now();
        let due = client.schedule(reminder).await.expect("replaced");
        assert_eq!(due.duration_since(SystemTime::UNIX_EPOCH).expect("later").as_secs() % 60, 0);
        assert!(due > before && due.duration_since(before).expect("so") <= Duration::from_secs(60));
        assert_eq!(client.reminders(&clock()).await.expect("listed").len(), 1);
    });
}

/// A change to a good reminder that makes it a bad one, and the field that is at fault.
type Spoil = (fn(&mut Reminder), &'static str);

fn cron(expression: &str, time_zone: &str) -> Option<Recurrence> {
    let (expression, time_zone) = (expression.into(), time_zone.into());
    Some(Recurrence::Cron(CronSchedule { expression, time_zone }))
}

fn period(seconds: i64, nanos: i32) -> Option<Recurrence> {
    Some(Recurrence::Period(prost_types::Duration { seconds, nanos }))
}

const SPOILS: &[Spoil] = &[
    (|r| r.id = String::new(), "reminder.id"),
    (|r| r.id = "x".repeat(513), "reminder.id"),
    (|r| r.actor = None, "reminder.actor"),
    (|r| r.method = String::new(), "method"),
    (|r| r.due_time = None, "reminder.due_time"),
    (|r| r.due_time = Some(at(-1, 0)), "reminder.due_time"),
    (|r| r.due_time = Some(at(1, -1)), "reminder.due_time"),
    (|r| r.due_time = Some(at(1, 1_000_000_000)), "reminder.due_time"),
    // The year 10000, and as far as numbers go.
    (|r| r.due_time = Some(at(253_402_300_800, 0)), "reminder.due_time"),
    (|r| r.due_time = Some(at(i64::MAX, 0)), "reminder.due_time"),
    (|r| r.recurrence = period(0, 0), "reminder.period"),
    (|r| r.recurrence = period(0, 9_999_999), "reminder.period"),
    (|r| r.recurrence = period(-1, 0), "reminder.period"),
    (|r| r.recurrence = period(315_576_000_001, 0), "reminder.period"),
    (|r| r.recurrence = cron("", ""), "reminder.cron.expression"),
    (|r| r.recurrence = cron("* * * *", ""), "reminder.cron.expression"),
    (|r| r.recurrence = cron("* * * * * *", ""), "reminder.cron.expression"),
    (|r| r.recurrence = cron("60 * * * *", ""), "reminder.cron.expression"),
    (|r| r.recurrence = cron("5-1 * * * *", ""), "reminder.cron.expression"),
    (|r| r.recurrence = cron("*/0 * * * *", ""), "reminder.cron.expression"),
    (|r| r.recurrence = cron("* * * MAI *", ""), "reminder.cron.expression"),
    (|r| r.recurrence = cron("0 0 30 2 *", ""), "reminder.cron.expression"),
    (|r| r.recurrence = cron(&"1,".repeat(200), ""), "reminder.cron.expression"),
    (|r| r.recurrence = cron("* * * * *", "Europe/Atlantis"), "reminder.cron.time_zone"),
    (|r| r.recurrence = cron("* * * * *", &"x".repeat(65)), "reminder.cron.time_zone"),
    (|r| r.catch_up_policy = 17, "reminder.catch_up_policy"),
];

fn at(seconds: i64, nanos: i32) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos }
}

#[test]
fn what_is_wrong_with_a_reminder_is_said_by_field() {
    test(async {
        let world = World::new("bad");
        let (_node, client, host) = host(&world, "host").await;
        for (number, (spoil, field)) in SPOILS.iter().enumerate() {
            let mut reminder = once(&clock(), "tea", LATER, &json!(1));
            spoil(&mut reminder);
            let request = schedule(reminder, "");
            let on_stream = Operation::ReminderSchedule(request.clone());
            let unary = client.reminder().schedule(request).await.map(drop);
            for answer in [unary, host.handle().request(on_stream).await.map(drop)] {
                let status = assert_error(answer, Code::InvalidArgument, "INVALID_FIELD");
                assert_eq!(metadata(&status, "field"), *field, "case {number}: {status:?}");
                let names = status.message().split(':').next().expect("a word");
                assert_eq!(names, *field, "case {number}: {status:?}");
            }
        }
        let answer = client.reminder().schedule(ScheduleRequest::default()).await;
        let status = assert_error(answer, Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(metadata(&status, "field"), "reminder");
        for actor in [None, Some(ActorTarget { r#type: "Clock".into(), id: String::new() })] {
            let request = ReminderServiceListRequest { actor: actor.clone(), ..Default::default() };
            let answer = client.reminder().list(request).await;
            assert_error(answer, Code::InvalidArgument, "INVALID_FIELD");
            let request = ReminderServiceCancelRequest { actor, ..Default::default() };
            let answer = client.reminder().cancel(request).await;
            assert_error(answer, Code::InvalidArgument, "INVALID_FIELD");
        }
        assert_eq!(client.reminders(&clock()).await.expect("listed"), [], "none was taken");
    });
}

#[test]
fn a_turn_has_its_own_actors_reminders_and_no_others() {
    test(async {
        let world = World::new("others");
        let (_node, client, mut host) = host(&world, "host").await;
        let calling = tokio::spawn({
            let client = client.clone();
            async move { client.call(("Clock", "tower"), "plan", &json!(null)).await }
        });
        let turn = host.next_turn().await;
        let other = once(&actor("Clock", "church"), "tea", LATER, &json!(1));
        let status =
            assert_error(turn.schedule(other).await, Code::InvalidArgument, "INVALID_FIELD");
        assert!(status.message().contains("turn token"), "{status:?}");
        turn.finish(&json!(null)).await;
        calling.await.expect("no panic").expect("answered").expect("no error");
    });
}

#[test]
fn more_reminders_than_allowed_are_refused_by_the_bounds_name() {
    test(async {
        let world = World::new("many");
        world.add_run_args(&["--reminders-per-actor-max", "2"]);
        world.add_run_args(&["--reminders-bytes-per-partition-max", "4000"]);
        let (_node, client, _host) = host(&world, "host").await;
        for id in ["a", "b", "b"] {
            client.schedule(once(&clock(), id, LATER, &json!(1))).await.expect("scheduled");
        }
        let answer = client.schedule(once(&clock(), "c", LATER, &json!(1))).await;
        let status = assert_error(answer, Code::ResourceExhausted, "LIMIT_REACHED");
        assert_eq!(metadata(&status, "limit"), "reminders_per_actor_max", "{status:?}");
        let mut long = once(&clock(), "b", LATER, &json!(1));
        long.payload = Some(bytes(&json!("x".repeat(4_000))));
        let answer = client.schedule(long).await;
        let status = assert_error(answer, Code::ResourceExhausted, "LIMIT_REACHED");
        assert_eq!(metadata(&status, "limit"), "reminders_bytes_per_partition_max", "{status:?}");
        // What was there stays, and makes room.
        assert_eq!(client.cancel_reminder(&clock(), "a").await.expect("ok"), 1);
        client.schedule(once(&clock(), "c", LATER, &json!(1))).await.expect("scheduled");
    });
}

#[test]
fn the_command_line_sets_lists_and_cancels() {
    test(async {
        let world = World::new("cli");
        let (_node, client, mut host) = host(&world, "host").await;
        let kar = async |words: &[&str]| {
            let (command, words) = words.split_first().expect("a word");
            world.kar_here(&format!("reminder {command}"), words).await
        };
        let now = kar(&["set", "Clock", "tower", "now", "ring", r#"{"cups":2}"#]).await;
        assert_eq!(now.code, 0, "{now:?}");
        assert_eq!(rung(&mut host).await.argument(), json!({"cups": 2}));
        let far = ["set", "Clock", "tower", "far", "ring", "--at", "2999-01-31T09:30:00Z"];
        let set = kar(&[&far[..], &["--every", "1h", "--catch-up", "skip"]].concat()).await;
        assert_eq!((set.code, set.stdout.trim()), (0, "due at 2999-01-31T09:30:00Z"), "{set:?}");
        let cron = ["set", "Clock", "tower", "daily", "ring", "--cron", "30 9 * * *"];
        let set = kar(&[&cron[..], &["--zone", "Asia/Tokyo", "-o", "json"]].concat()).await;
        let due: Value = serde_json::from_str(&set.stdout).expect("JSON");
        assert!(due["due_time"].as_str().is_some_and(|due| due.ends_with("T00:30:00Z")), "{due}");
        let listed = kar(&["list", "Clock", "tower", "-o", "json"]).await;
        let rows: Value = serde_json::from_str(&listed.stdout).expect("JSON");
        assert_eq!((&rows[0]["name"], &rows[1]["name"]), (&json!("daily"), &json!("far")));
        let expected = json!({ "expression": "30 9 * * *", "time_zone": "Asia/Tokyo" });
        assert_eq!(rows[0]["cron"], expected);
        assert_eq!(
            (&rows[1]["period"], &rows[1]["catch_up"], &rows[1]["argument"]),
            (&json!("3600s"), &json!("skip"), &Value::Null)
        );
        let table = kar(&["list", "Clock", "tower"]).await.stdout;
        assert!(table.contains("30 9 * * * (Asia/Tokyo)"), "{table}");
        // What is wrong is said in the words of the contract, or of the command line.
        let bad = kar(&["set", "Clock", "tower", "x", "ring", "--cron", "30 9 * *"]).await;
        assert_eq!(bad.code, 2, "{bad:?}");
        assert!(bad.stderr.contains("reminder.cron.expression"), "{bad:?}");
        let neither = kar(&["cancel", "Clock", "tower"]).await;
        assert_eq!(neither.code, 2, "{neither:?}");
        let cancelled = kar(&["cancel", "Clock", "tower", "far"]).await;
        assert_eq!((cancelled.code, cancelled.stdout.trim()), (0, "cancelled: 1"));
        let cancelled = kar(&["cancel", "Clock", "tower", "--all"]).await;
        assert_eq!((cancelled.code, cancelled.stdout.trim()), (0, "cancelled: 1"));
        assert_eq!(client.reminders(&clock()).await.expect("listed"), []);
    });
}
