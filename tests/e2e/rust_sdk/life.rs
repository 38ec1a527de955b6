//! Reminders, actor life, and what operators ask for, in Rust.

use std::time::{Duration, SystemTime};

use kar_sdk::{
    ActorContext, AttemptEndCause, CallError, CatchUp, Client, Error, Host, InvocationEnd,
    InvocationMode, InvocationState, InvocationTarget, InvocationView, Kar, NewTopic, Recurs,
    Reminder, Started,
};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Node, NodeOptions, World, test, wait};

use super::stage::Stage;

/// Two minutes and some: two due times of a cron expression for each minute have passed.
const SOME_MINUTES: Duration = Duration::from_secs(150);

/// An actor that is reminded.
struct Clock(Stage);

#[kar_sdk::actor]
impl Clock {
    async fn ring(&self, ctx: &mut ActorContext, what: String) -> Result<(), Error> {
        assert!(ctx.is_tell());
        let rung: u32 = ctx.state().get("rung").await?.unwrap_or(0);
        ctx.state().set("rung", &(rung + 1))?;
        self.0.note(what);
        Ok(())
    }

    /// Sets its own reminders, and fails if it is to.
    async fn wind(&self, ctx: &mut ActorContext, fails: bool) -> Result<usize, Error> {
        let hour = Duration::from_secs(3_600);
        let own = Reminder::new("own", "ring").argument("own").after(hour).every(hour);
        ctx.reminders().schedule(own).await?;
        if fails {
            return Err(Error::new("broken", "the spring"));
        }
        Ok(ctx.reminders().list().await?.len())
    }

    async fn work(&self, _ctx: &mut ActorContext) -> Result<String, Error> {
        self.0.note("works");
        self.0.pass("work").await;
        Ok("done".to_owned())
    }

    #[kar(deactivate)]
    async fn rest(&self, ctx: &mut ActorContext) -> Result<(), Error> {
        self.0.note(format!("{} rests", ctx.id()));
        Ok(())
    }
}

async fn hosted(node: &Node) -> (Host, Client, Stage) {
    let stage = Stage::default();
    let host = Host::builder().actor(Clock(stage.clone())).socket(&node.socket);
    let host = host.start().await.expect("hosted");
    let client = host.client();
    (host, client, stage)
}

#[test]
fn reminders_ring_once_again_by_cron_and_for_what_was_missed() {
    test(async {
        let world = World::new("sdkclock");
        let node = world.bare("a").await;
        let (_host, client, stage) = hosted(&node).await;
        let reminders = client.actor("Clock", "c").reminders();
        let reminder = |id: &str| Reminder::new(id, "ring").argument(id);
        reminders.schedule(reminder("once")).await.expect("scheduled");
        let soon = Duration::from_millis(20);
        reminders.schedule(reminder("again").every(soon)).await.expect("scheduled");
        stage.until("once", 1).await;
        stage.until("again", 3).await;
        // It is replaced by another one of its name.
        let later = SystemTime::now() + Duration::from_secs(3_600);
        let due = reminders.schedule(reminder("again").at(later)).await.expect("replaced");
        assert!(due.duration_since(later).unwrap_or_default() < Duration::from_millis(1));
        // Of those that were due in the last minutes, each one, one of them, none.
        let past = SystemTime::now() - SOME_MINUTES;
        let policies = [("each", CatchUp::Each), ("one", CatchUp::Once), ("none", CatchUp::Skip)];
        for (id, policy) in policies {
            let missed = reminder(id).cron("* * * * *", "Europe/Zurich").at(past).catch_up(policy);
            reminders.schedule(missed).await.expect("scheduled");
        }
        stage.until("each", 3).await;
        stage.until("one", 1).await;
        let now = SystemTime::now();
        let listed = wait::until("the next due times", READY_LIMIT, async || {
            let listed = reminders.list().await.expect("listed");
            listed.iter().all(|reminder| reminder.due > now).then_some(listed)
        })
        .await;
        let ids: Vec<_> = listed.iter().map(|reminder| reminder.id.as_str()).collect();
        assert_eq!(ids, ["again", "each", "none", "one"], "by id; `once` is over");
        let each = &listed[1];
        assert_eq!(
            (each.catch_up, each.argument::<String>().as_deref()),
            (CatchUp::Each, Ok("each"))
        );
        let zone = Recurs::Cron {
            expression: "* * * * *".to_owned(),
            time_zone: "Europe/Zurich".to_owned(),
        };
        assert_eq!(each.recurs, Some(zone));
        assert_eq!(stage.count("none"), 0, "{:?}", stage.log());
        assert!(stage.count("one") <= 2, "a minute may have passed meanwhile: {:?}", stage.log());
        // Wrong ones are told by their field.
        let wrong = reminders.schedule(reminder("x").cron("* * * *", "")).await;
        assert!(
            matches!(&wrong, Err(CallError::Rejected(r)) if r.reason == "INVALID_FIELD"
                && r.metadata["field"].contains("cron")),
            "{wrong:?}"
        );
        assert_eq!(reminders.cancel("each").await, Ok(true));
        assert_eq!(reminders.cancel("each").await, Ok(false));
        assert_eq!(reminders.cancel_all().await, Ok(3));
        assert_eq!(reminders.list().await.expect("listed"), []);
    });
}

#[test]
fn reminders_of_a_method_are_part_of_it() {
    test(async {
        let world = World::new("sdkwind");
        let node = world.bare("a").await;
        let (_host, client, _stage) = hosted(&node).await;
        let clock = ClockClient::new(&client, "c");
        let reminders = client.actor("Clock", "c").reminders();
        clock.wind(true).await.expect_err("the spring");
        assert_eq!(reminders.list().await.expect("listed"), [], "nothing of it has stayed");
        assert_eq!(clock.wind(false).await.expect("wound"), 1, "it sees its own");
        assert_eq!(reminders.list().await.expect("listed")[0].id, "own");
    });
}

#[test]
fn an_actor_rests_when_it_is_idle_and_is_removed_with_all_that_it_has() {
    test(async {
        let world = World::new("sdklife");
        world.add_run_args(&["--actor-idle-ms", "100"]);
        let node = world.bare("a").await;
        let (_host, client, stage) = hosted(&node).await;
        let clock = ClockClient::new(&client, "c");
        clock.ring("called".to_owned()).tell().await.expect("told");
        assert_eq!(clock.wind(false).await.expect("wound"), 1);
        stage.until("c rests", 1).await;
        let actor = client.actor("Clock", "c");
        assert_eq!(actor.committed_state().await.expect("read").len(), 1);
        assert_eq!(actor.committed::<u32>("rung").await, Ok(Some(1)));
        assert_eq!(actor.committed::<u32>("nothing").await, Ok(None));
        actor.remove().await.expect("removed");
        assert!(actor.committed_state().await.expect("read").is_empty());
        assert_eq!(actor.reminders().list().await.expect("listed"), []);
        let nobody = client.actor("Nobody", "n").remove().await;
        assert!(
            matches!(&nobody, Err(CallError::Rejected(r)) if r.reason == "UNKNOWN_TYPE"),
            "{nobody:?}"
        );
    });
}

/// The one unfinished invocation of a method, as the listing has it.
async fn listed(client: &Client, method: &str) -> InvocationView {
    let mut all = client.operator().invocations().of("Clock").page_size(1);
    while let Some(view) = all.next().await.expect("listed") {
        if view.method == method {
            return view;
        }
    }
    panic!("no {method} is listed; left out: {:?}", all.left_out());
}

#[test]
fn operators_see_what_is_unfinished_and_how_it_ended() {
    test(async {
        let world = World::new("sdksee");
        let node = world.bare("a").await;
        let (_host, client, stage) = hosted(&node).await;
        let operator = client.operator();
        let clock = ClockClient::new(&client, "c");
        let working: Started<String> = clock.work().start().await.expect("started");
        stage.until("works", 1).await;
        clock.ring("told".to_owned()).tell().await.expect("told");
        let running = listed(&client, "work").await;
        assert_eq!((&running.id, running.state), (working.id(), InvocationState::Running));
        let single = operator.invocation(working.id()).await.expect("found");
        assert_eq!(single, running, "alone as in the listing");
        assert_eq!((single.mode, single.node.as_str()), (Some(InvocationMode::Start), "a"));
        let target = InvocationTarget::Actor { actor_type: "Clock".into(), id: "c".into() };
        assert_eq!((single.target, single.attempt), (Some(target), 1));
        assert!(
            single.created.is_some_and(|time| time <= SystemTime::now()) && single.end.is_none()
        );
        assert_eq!(listed(&client, "ring").await.state, InvocationState::Queued);
        let busy = operator.actors().of("Clock").up_to(9).await.expect("listed");
        assert_eq!((busy.len(), busy[0].queued, busy[0].is_busy), (1, 1, true), "{busy:?}");
        assert!(matches!(client.resume(working.id()).await,
            Err(CallError::Rejected(r)) if r.reason == "NOT_PARKED"));
        stage.open("work");
        assert_eq!(working.outcome().await.expect("its result"), "done");
        let ended = operator.invocation(working.id()).await.expect("its result is kept");
        assert_eq!(
            (ended.state, ended.end),
            (InvocationState::Completed, Some(InvocationEnd::Done))
        );
        let info = operator.info().await.expect("told");
        assert_eq!((info.application.as_str(), info.faults.len()), ("sdksee", 0));
        assert!(info.limits.contains_key("actor_idle_ms") && !info.partitions.is_empty());
        let nodes = operator.nodes().await.expect("listed");
        assert_eq!((nodes.len(), info.node.as_ref()), (1, nodes.first()));
        // It hands over what it owns, to somebody.
        let _heir = world.bare("b").await;
        operator.drain().await.expect("handed over");
        assert_eq!(operator.info().await.expect("told").partitions, Vec::<String>::new());
    });
}

#[test]
fn operators_send_dead_letters_again_or_drop_them() {
    test(async {
        let world = World::new("sdkdead");
        let node = world.bare("a").await;
        let (_host, client, _stage) = hosted(&node).await;
        let operator = client.operator();
        let told = ClockClient::new(&client, "c").wind(true).tell().await.expect("told");
        let mut letters = Vec::new();
        wait::until_true("a dead letter", READY_LIMIT, async || {
            letters = operator.dead_letters().of("Clock").up_to(9).await.expect("listed");
            !letters.is_empty()
        })
        .await;
        let letter = &letters[0];
        assert_eq!((&letter.id, letter.method.as_str(), letter.attempts), (&told, "wind", 1));
        let error = letter.error.as_ref().expect("it failed");
        assert_eq!((error.code.as_str(), letter.ended.is_some()), ("broken", true));
        let view = operator.invocation(&told).await.expect("known");
        assert_eq!((view.end, view.ended), (Some(InvocationEnd::Failed), letter.ended));
        let again = operator.redrive(&told).await.expect("sent again");
        assert!(matches!(operator.redrive(&told).await, Err(CallError::UnknownInvocation(_))));
        wait::until_true("the new one to fail", READY_LIMIT, async || {
            let letters = operator.dead_letters().up_to(9).await.expect("listed");
            letters.iter().any(|letter| letter.id == again)
        })
        .await;
        operator.discard(&again).await.expect("dropped");
        assert!(matches!(operator.discard(&again).await, Err(CallError::UnknownInvocation(_))));
        assert_eq!(operator.dead_letters().up_to(9).await.expect("listed"), []);
    });
}

#[test]
fn topics_are_listed_by_pages() {
    test(async {
        let world = World::new("sdktopics");
        let node = world.bare("a").await;
        let client = Kar::builder().socket(&node.socket).connect().await.expect("connected");
        for (name, partitions) in [("b", 2), ("a", 1)] {
            let settings = NewTopic::default().partitions(partitions);
            client.topic(name).create(settings).await.expect("created");
        }
        let mut listing = client.topics().page_size(1);
        let topics = listing.up_to(9).await.expect("listed");
        let told: Vec<_> = topics.iter().map(|t| (t.name.as_str(), t.partitions.len())).collect();
        assert_eq!(told, [("a", 1), ("b", 2)], "by name");
    });
}

#[test]
fn what_kills_its_hosts_is_parked_and_resumed() {
    test(async {
        let world = World::new("sdkpark");
        world.add_run_args(&["--park-after-attempts", "2"]);
        let front = world.bare("front").await;
        let client = Kar::builder().socket(&front.socket).connect().await.expect("connected");
        let args = vec!["--restart".to_owned()];
        let options = world.app_options("host", &["errands"]);
        let _host = world.start(NodeOptions { args, ..options }).await;
        let cure = world.path().join("cure");
        let argument = serde_json::json!({ "run": "r", "cure": cure });
        let poison = client.actor("Poison", "p");
        let swallowed = poison.start::<u64>("swallow", &argument).await.expect("started");
        let operator = client.operator();
        let parked = wait::until("it to be parked", READY_LIMIT, async || {
            let view = operator.invocation(swallowed.id()).await.expect("unfinished");
            (view.state == InvocationState::Parked).then_some(view)
        })
        .await;
        let end = parked.last_attempt_end.expect("an attempt was lost");
        assert_eq!(end.cause, AttemptEndCause::HostLost, "{}", end.message);
        std::fs::write(&cure, "").expect("written");
        client.resume(swallowed.id()).await.expect("resumed");
        assert_eq!(swallowed.outcome().await.expect("it goes on"), 1);
    });
}
