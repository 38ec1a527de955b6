//! What methods in Rust can do in a turn: hand on, join, do things once, share, be retried, be cancelled.

use std::future::pending;
use std::time::Duration;

use kar_sdk::{
    ActorContext, CallError, Cancelling, Client, Error, Host, InvocationId, RetryPolicy,
    ServiceContext, Started,
};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Node, World, test, wait};

use super::stage::Stage;

const QUICK: RetryPolicy =
    RetryPolicy::attempts(3).backoff(Duration::from_millis(1), Duration::from_millis(5), 2.0);

/// An actor that goes on by tail calls, in every form.
struct Walker(Stage);

#[kar_sdk::actor]
impl Walker {
    async fn first(&self, ctx: &mut ActorContext, keep_lock: bool) -> Result<(u32, u32), Error> {
        ctx.state().set("at", "first")?;
        self.0.note("first");
        self.0.pass("first").await;
        let next = WalkerClient::new(&ctx, ctx.id()).second();
        if keep_lock { next.tail_keeping_lock() } else { next.tail() }
    }

    async fn second(&self, ctx: &mut ActorContext) -> Result<(u32, u32), Error> {
        ctx.state().set("at", "second")?;
        self.0.note("second");
        WalkerClient::new(&ctx, "another").third(ctx.step()).tail()
    }

    async fn third(&self, ctx: &mut ActorContext, second: u32) -> Result<(u32, u32), Error> {
        assert_eq!((ctx.id(), second, ctx.step()), ("another", 2, 3));
        ctx.service("walk").call("last", &ctx.step()).tail()
    }

    async fn look(&self, ctx: &mut ActorContext) -> Result<String, Error> {
        self.0.note("look");
        Ok(ctx.state().get("at").await?.unwrap_or_default())
    }

    async fn endless(&self, _ctx: &mut ActorContext) -> Result<String, Error> {
        self.0.note("endless");
        pending().await
    }

    async fn tidy(&self, ctx: &mut ActorContext) -> Result<String, Error> {
        let asked = ctx.cancel_requested();
        self.0.note("tidy");
        asked.await;
        Ok("tidied".to_owned())
    }

    /// Two of them, each other's partners, wait for each other.
    async fn dance(&self, ctx: &mut ActorContext, partner: String) -> Result<String, Error> {
        self.0.note("dance");
        self.0.pass("dance").await;
        match WalkerClient::new(&ctx, partner).look().await {
            Ok(_) => Ok(String::new()),
            Err(CallError::Deadlock { cycle, .. }) => Ok(cycle),
            Err(other) => Err(other.into()),
        }
    }
}

struct Walk;

#[kar_sdk::service(name = "walk")]
impl Walk {
    async fn last(&self, ctx: &mut ServiceContext, third: u32) -> Result<(u32, u32), Error> {
        Ok((third, ctx.step()))
    }
}

/// An actor with a sum.
struct Cell(Stage);

#[kar_sdk::actor]
impl Cell {
    async fn add(&self, ctx: &mut ActorContext, amount: i64) -> Result<i64, Error> {
        let sum = ctx.state().get::<i64>("sum").await?.unwrap_or(0) + amount;
        ctx.state().set("sum", &sum)?;
        if amount == 13 {
            return Err(Error::new("unlucky", "13 is not added"));
        }
        Ok(sum)
    }

    /// Adds to two others at once.
    async fn spread(&self, ctx: &mut ActorContext, amount: i64) -> Result<i64, Error> {
        let add = |id: &str, amount| CellClient::new(&ctx, id).add(amount).into_future();
        let (left, right) = tokio::join!(add("left", 1), add("right", amount));
        ctx.state().set("spread", &amount)?;
        Ok(left? + right?)
    }

    async fn pay(&self, ctx: &mut ActorContext) -> Result<(usize, i64), Error> {
        let pay = async || {
            self.0.note("paid");
            Ok::<_, Error>(self.0.count("paid"))
        };
        let receipt = ctx.once("pay", pay).await?;
        let credited = CellClient::new(&ctx, "shop").add(30).step_key("credit").await?;
        if ctx.attempt() < 3 {
            return Err(Error::retryable("busy", "try again"));
        }
        Ok((receipt, credited))
    }

    async fn mix_up(&self, ctx: &mut ActorContext) -> Result<i64, Error> {
        let _: u32 = ctx.once("key", async || Ok::<_, Error>(1)).await?;
        Ok(CellClient::new(&ctx, "shop").add(1).step_key("key").await?)
    }

    /// Fails behind a flush.
    async fn segments(&self, ctx: &mut ActorContext) -> Result<(), Error> {
        ctx.state().set("flushed", &1)?;
        CellClient::new(&ctx, "told").add(1).tell().await?;
        ctx.flush().await?;
        ctx.state().set("dropped", &1)?;
        CellClient::new(&ctx, "told").add(10).tell().await?;
        self.0.note("flushed");
        self.0.pass("fail").await;
        Err(Error::new("broken", "behind the flush"))
    }

    #[kar(shared)]
    async fn read(&self, ctx: &mut ActorContext) -> Result<i64, Error> {
        self.0.note("reads");
        self.0.pass("read").await;
        Ok(ctx.state().get("sum").await?.unwrap_or(0))
    }

    #[kar(shared)]
    async fn scribble(&self, ctx: &mut ActorContext) -> Result<(), Error> {
        Ok(ctx.state().set("sum", &-1)?)
    }
}

async fn hosted(node: &Node) -> (Host, Client, Stage) {
    let stage = Stage::default();
    let host = Host::builder().actor(Walker(stage.clone())).actor(Cell(stage.clone()));
    let host = host.service(Walk).socket(&node.socket).start().await.expect("hosted");
    let client = host.client();
    (host, client, stage)
}

/// Waits until an actor has so many invocations queued.
async fn queued(client: &Client, id: &str, count: u32) {
    wait::until_true(&format!("{count} queued at {id}"), READY_LIMIT, async || {
        let busy = client.operator().actors().of("Walker").up_to(100).await.expect("listed");
        busy.iter().any(|actor| actor.id == id && actor.queued == count && actor.is_busy)
    })
    .await;
}

#[test]
fn a_method_hands_on_in_every_form() {
    test(async {
        let world = World::new("sdktail");
        let node = world.bare("a").await;
        for keep_lock in [true, false] {
            let (_host, client, stage) = hosted(&node).await;
            let id = format!("keeps-{keep_lock}");
            let walker = WalkerClient::new(&client, id.clone());
            let walking = tokio::spawn(walker.first(keep_lock).into_future());
            stage.until("first", 1).await;
            let looking = tokio::spawn(walker.look().into_future());
            queued(&client, &id, 1).await;
            stage.open("first");
            let (third, last) = walking.await.expect("no panic").expect("it got there");
            assert_eq!((third, last), (3, 4), "the caller gets the last step's outcome");
            let seen = looking.await.expect("no panic").expect("looked");
            let wanted = match keep_lock {
                true => (["first", "second", "look"], "second"),
                false => (["first", "look", "second"], "first"),
            };
            assert_eq!(
                (stage.log(), seen.as_str()),
                (wanted.0.map(str::to_owned).into(), wanted.1)
            );
        }
    });
}

#[test]
fn branches_are_joined_also_where_one_fails() {
    test(async {
        let world = World::new("sdkjoin");
        let node = world.bare("a").await;
        let (_host, client, _stage) = hosted(&node).await;
        let home = CellClient::new(&client, "home");
        let failed = home.spread(13).await.expect_err("the right one");
        assert_eq!(failed.application().expect("its own").code, "unlucky");
        let state = client.actor("Cell", "home").committed_state().await.expect("read");
        assert!(state.is_empty(), "what it wrote itself is dropped: {state:?}");
        let sum = home.spread(5).await.expect("both add");
        assert_eq!(sum, 2 + 5, "what the other branch had done has stayed");
    });
}

#[test]
fn what_is_flushed_stays_and_what_comes_behind_goes_with_the_turn() {
    test(async {
        let world = World::new("sdkflush");
        let node = world.bare("a").await;
        let (_host, client, stage) = hosted(&node).await;
        let broken = CellClient::new(&client, "broken");
        let failing = tokio::spawn(broken.segments().into_future());
        stage.until("flushed", 1).await;
        // The turn still runs, and the world knows already.
        let told = CellClient::new(&client, "told");
        let sum = async |id: &str| {
            let cell = client.actor("Cell", id);
            cell.committed::<i64>("sum").await.expect("read").unwrap_or_default()
        };
        wait::until_true("what was told to be done", READY_LIMIT, async || sum("told").await == 1)
            .await;
        let keys = async || {
            let state = client.actor("Cell", "broken").committed_state().await.expect("read");
            state.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(keys().await, ["flushed"]);
        stage.open("fail");
        let failed = failing.await.expect("no panic").expect_err("it is broken");
        assert_eq!(failed.application().expect("its own").code, "broken");
        assert_eq!(keys().await, ["flushed"]);
        assert_eq!(told.add(0).await.expect("added"), 1, "nothing came behind it");
    });
}

#[test]
fn steps_and_keyed_calls_are_done_once_over_retries() {
    test(async {
        let world = World::new("sdkonce");
        let node = world.bare("a").await;
        let (_host, client, stage) = hosted(&node).await;
        let home = CellClient::new(&client, "home");
        let paid = home.pay().retry(QUICK).await.expect("in the third attempt");
        assert_eq!((paid, stage.count("paid")), ((1, 30), 1));
        // The last one's error, where no attempt helps.
        let other = CellClient::new(&client, "other").pay().retry(RetryPolicy::attempts(2));
        let error = other.await.expect_err("two attempts are too few");
        assert_eq!(error.application().expect("its own").code, "busy");
        assert_eq!(CellClient::new(&client, "shop").add(0).await.expect("added"), 60);
        let error = home.mix_up().await.expect_err("the key is that of a value");
        assert_eq!(error.application().expect("its own").code, "step_key_reused");
    });
}

#[test]
fn shared_methods_run_beside_each_other_and_change_nothing() {
    test(async {
        let world = World::new("sdkshared");
        let node = world.bare("a").await;
        let (_host, client, stage) = hosted(&node).await;
        let cell = CellClient::new(&client, "c");
        assert_eq!(cell.add(7).await.expect("added"), 7);
        let both = [(), ()].map(|()| tokio::spawn(cell.read().into_future()));
        stage.until("reads", 2).await;
        let adding = tokio::spawn(cell.add(1).into_future());
        stage.open("read");
        for reading in both {
            assert_eq!(reading.await.expect("no panic").expect("read"), 7);
        }
        assert_eq!(adding.await.expect("no panic").expect("added"), 8);
        let error = cell.scribble().await.expect_err("it only reads");
        assert!(error.to_string().contains("SHARED_TURN"), "{error}");
    });
}

#[test]
fn what_runs_is_cancelled_and_what_waits_ends_at_once() {
    test(async {
        let world = World::new("sdkcancel");
        let node = world.bare("a").await;
        let (_host, client, stage) = hosted(&node).await;
        let walker = WalkerClient::new(&client, "w");
        let endless: Started<String> = walker.endless().start().await.expect("started");
        stage.until("endless", 1).await;
        let waits: Started<String> = walker.look().start().await.expect("started");
        let late = walker.look().start_within(Duration::from_millis(50)).await;
        assert!(matches!(late, Err(CallError::Expired(_))), "{late:?}");
        assert_eq!(client.cancel(waits.id()).await, Ok(Cancelling::Cancelled));
        assert!(matches!(waits.outcome().await, Err(CallError::Cancelled(_))));
        assert_eq!(client.cancel(endless.id()).await, Ok(Cancelling::Requested));
        assert!(matches!(endless.outcome().await, Err(CallError::Cancelled(_))));
        assert_eq!(client.cancel(endless.id()).await, Ok(Cancelling::Ended));
        assert_eq!((stage.count("endless"), stage.count("look")), (1, 0), "{:?}", stage.log());
        // A method may heed it, and what it returns counts.
        let tidy: Started<String> = walker.tidy().start().await.expect("started");
        stage.until("tidy", 1).await;
        assert_eq!(client.cancel(tidy.id()).await, Ok(Cancelling::Requested));
        assert_eq!(tidy.outcome().await.expect("its result"), "tidied");
        let nobody = InvocationId("s.walk/0/0192aaaa-0000-7000-8000-000000000000".to_owned());
        let unknown = client.cancel(&nobody).await;
        assert!(matches!(unknown, Err(CallError::UnknownInvocation(_))), "{unknown:?}");
    });
}

#[test]
fn one_key_is_one_invocation_and_another_argument_is_told() {
    test(async {
        let world = World::new("sdkkeys");
        let (node, other) = (world.bare("a").await, world.bare("b").await);
        let (_host, client, _stage) = hosted(&node).await;
        let elsewhere = kar_sdk::Kar::builder().socket(&other.socket).connect().await;
        let elsewhere = elsewhere.expect("connected");
        for client in [&client, &elsewhere, &client] {
            let add = CellClient::new(client, "c").add(5).idempotency_key("k1");
            assert_eq!(add.await.expect("added"), 5, "once");
        }
        let changed = CellClient::new(&client, "c").add(6).idempotency_key("k1").await;
        assert!(matches!(changed, Err(CallError::IdempotencyKeyReused(_))), "{changed:?}");
    });
}

#[test]
fn who_waits_in_a_circle_is_told_which() {
    test(async {
        let world = World::new("sdkdance");
        let node = world.bare("a").await;
        let (_host, client, stage) = hosted(&node).await;
        let pairs = [("x", "y"), ("y", "x")];
        let dances = pairs.map(|(id, partner)| {
            let dance = WalkerClient::new(&client, id).dance(partner.to_owned());
            tokio::spawn(dance.into_future())
        });
        stage.until("dance", 2).await;
        stage.open("dance");
        let mut cycles = Vec::new();
        for dance in dances {
            cycles.push(dance.await.expect("no panic").expect("both go on"));
        }
        let told: Vec<_> = cycles.iter().filter(|cycle| !cycle.is_empty()).collect();
        assert_eq!(told.len(), 1, "one of them gives way: {cycles:?}");
        assert!(told[0].contains("Walker/x") && told[0].contains("Walker/y"), "{told:?}");
    });
}
