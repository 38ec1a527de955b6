//! More calls are given up than there are credits, outside turns and inside, at a real sidecar.

use std::future::IntoFuture;
use std::pin::pin;
use std::rc::Rc;

use kar_sdk::{CallError, Client, Error, Host, Kar, ServiceContext};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Node, World, test, wait};
use tokio::time::timeout;

use super::stage::Stage;

/// What one stream may have under way in these tests.
const CREDITS: &str = "32";
const GIVEN_UP: usize = 100;

/// Hosted when others have long given it up.
struct Later(Stage);

#[kar_sdk::service(name = "later")]
impl Later {
    async fn work(&self, _ctx: &mut ServiceContext, of: String) -> Result<(), Error> {
        self.0.note(of);
        Ok(())
    }
}

/// Gives up calls of its turns.
struct Impatient(Stage);

#[kar_sdk::service(name = "impatient")]
impl Impatient {
    async fn gives_up(&self, ctx: &mut ServiceContext) -> Result<(), Error> {
        let call = ctx.service("later").call::<()>("work", "turn").into_future();
        // What was asked for behind it is answered, so it is under way.
        give_up(call, ctx.service("impatient").call::<()>("echoes", &()).into_future()).await?;
        self.0.note("gave up");
        Ok(())
    }

    async fn echoes(&self, _ctx: &mut ServiceContext) -> Result<(), Error> {
        Ok(())
    }
}

/// Makes a call that is not answered, and gives it up when what was asked for behind it has its answer.
async fn give_up<T>(
    call: impl Future<Output = Result<(), CallError>>,
    behind: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let (call, behind) = (pin!(call), pin!(behind));
    tokio::select! {
        biased;
        answer = call => panic!("nobody hosts it: {answer:?}"),
        answer = behind => answer,
    }
}

async fn connected(node: &Node) -> Client {
    Kar::builder().socket(&node.socket).connect().await.expect("connected")
}

fn few_credits(name: &str) -> Rc<World> {
    let world = World::new(name);
    world.add_run_args(&["--request-credits", CREDITS]);
    world
}

/// Nobody is held up: what is awaited here would wait for ever if there were no credit.
async fn bounded<T>(what: &str, work: impl IntoFuture<Output = T>) -> T {
    let work = timeout(READY_LIMIT, work.into_future());
    work.await.unwrap_or_else(|_| panic!("no credit for {what}"))
}

#[test]
fn a_client_that_gives_up_more_calls_than_it_has_credits_can_still_call() {
    test(async {
        let world = few_credits("sdkforget");
        let node = world.bare("a").await;
        let client = connected(&node).await;
        let later = client.service("later");
        // Its kind is known from here on, so that calls to it are owed at once.
        later.tell("work", "tell").await.expect("accepted");
        for round in 0..GIVEN_UP {
            let call = later.call::<()>("work", "client").into_future();
            let state = client.state();
            let given_up = give_up(call, state.get::<String>("nothing"));
            let seen = bounded(&format!("call {round}"), given_up).await;
            assert_eq!(seen.expect("read"), None);
        }
        let stage = Stage::default();
        let host = Host::builder().service(Later(stage.clone())).socket(&node.socket);
        let _host = host.start().await.expect("hosted");
        // They were accepted, so they are carried out; and there is a credit for one more.
        stage.until("client", GIVEN_UP).await;
        bounded("one more", later.call::<()>("work", "last")).await.expect("answered");
        let counts = ["tell", "client", "last"].map(|what| stage.count(what));
        assert_eq!(counts, [1, GIVEN_UP, 1], "each ran once");
    });
}

#[test]
fn turns_that_give_up_more_calls_than_there_are_credits_can_still_call_and_end_with_them() {
    test(async {
        let world = few_credits("sdkforgets");
        let (a, b) = (world.bare("a").await, world.bare("b").await);
        let (stage, last) = (Stage::default(), Stage::default());
        let host = Host::builder().service(Impatient(stage.clone())).socket(&a.socket);
        let _host = host.start().await.expect("hosted");
        let client = connected(&a).await;
        for round in 1..=GIVEN_UP {
            client.service("impatient").tell("gives_up", &()).await.expect("accepted");
            stage.until("gave up", round).await;
        }
        // Their code has ended; they end when what they called has its outcome (rule T1).
        let unfinished = async || {
            let mut all = client.operator().invocations().of("impatient").page_size(1_000);
            let mut count = 0;
            while all.next().await.expect("listed").is_some() {
                count += 1;
            }
            count
        };
        assert_eq!(unfinished().await, GIVEN_UP);
        let later = Host::builder().service(Later(last.clone())).socket(&b.socket);
        let _later = later.start().await.expect("hosted");
        last.until("turn", GIVEN_UP).await;
        wait::until_true("all turns to end", READY_LIMIT, async || unfinished().await == 0).await;
        assert_eq!(last.count("turn"), GIVEN_UP, "each call ran once");
    });
}
