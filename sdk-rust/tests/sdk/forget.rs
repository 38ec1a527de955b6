//! Calls that are given up: their credits come back though their answers never do.

use std::sync::Arc;

use futures_util::FutureExt as _;
use kar_sdk::{Client, Error, Host, InvocationId, Kar, ServiceContext};
use tokio::sync::Notify;

use crate::bounded;
use crate::common::Fake;

async fn client(fake: &Fake) -> Client {
    Kar::builder().socket(&fake.socket).connect().await.unwrap()
}

fn count(fake: &Fake, word: &str) -> usize {
    fake.log().iter().filter(|w| *w == word).count()
}

/// Calls what is never answered, and gives that up once it is under way.
async fn give_up(fake: &Fake, client: &Client) {
    let before = count(fake, "invoke x");
    let target = client.service("nobody");
    let call = tokio::spawn(async move { target.call::<()>("x", &()).await });
    fake.until("the call is under way", |f| count(f, "invoke x") > before).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn calls_that_are_given_up_give_their_credits_back() {
    let fake = Fake::start().await;
    fake.set_credits(2);
    let client = client(&fake).await;
    for _ in 0..10 {
        give_up(&fake, &client).await;
    }
    bounded(client.service("nobody").tell("last", &()).into_future()).await.unwrap();
    fake.until("all are forgotten", |f| count(f, "forget") == 10).await;
    assert_eq!((fake.violations(), fake.streams()), (vec![], 1));
}

#[tokio::test]
async fn a_sidecar_that_does_not_know_forget_is_not_sent_it() {
    let fake = Fake::start().await;
    fake.know_no_forget();
    let client = client(&fake).await;
    give_up(&fake, &client).await;
    bounded(client.service("nobody").tell("last", &()).into_future()).await.unwrap();
    assert_eq!((count(&fake, "forget"), fake.violations()), (0, vec![]));
}

#[tokio::test]
async fn only_calls_are_forgotten_and_only_those_without_an_answer() {
    let fake = Fake::start().await;
    let client = client(&fake).await;
    // Nobody answers this one, but the sidecar would, soon.
    let held = client.clone();
    let redrive = tokio::spawn(async move {
        held.operator().redrive(&InvocationId("held".to_owned())).await.ok()
    });
    fake.until("it is under way", |f| count(f, "redrive held") == 1).await;
    redrive.abort();
    assert!(redrive.await.unwrap_err().is_cancelled());
    bounded(client.service("nobody").tell("first", &()).into_future()).await.unwrap();
    give_up(&fake, &client).await;
    bounded(client.service("nobody").tell("last", &()).into_future()).await.unwrap();
    assert_eq!(count(&fake, "forget"), 1);
}

#[tokio::test]
async fn what_is_given_up_before_it_is_sent_does_not_gather() {
    let fake = Fake::start().await;
    fake.set_credits(1);
    fake.know_no_forget();
    let builder = Kar::builder().socket(&fake.socket).requests_max(16);
    let client = builder.connect().await.unwrap();
    let target = client.service("nobody");
    let held = tokio::spawn(async move { target.call::<()>("x", &()).await });
    fake.until("the only credit is used", |f| count(f, "invoke x") == 1).await;
    for round in 0..200 {
        let mut call =
            Box::pin(client.service("nobody").call::<()>("never sent", &()).into_future());
        assert!((&mut call).now_or_never().is_none(), "refused in round {round}");
        drop(call);
        // The connection's task gets its turn.
        tokio::task::yield_now().await;
    }
    assert_eq!(count(&fake, "invoke never sent"), 0);
    held.abort();
}

#[derive(Clone, Default)]
struct Impatient(Arc<Notify>);

#[kar_sdk::service(name = "impatient")]
impl Impatient {
    /// Gives its call up when it is told to.
    async fn calls(&self, ctx: &mut ServiceContext) -> Result<bool, Error> {
        let call = ctx.service("nobody").call::<()>("x", &()).into_future();
        tokio::select! {
            _ = call => Ok(false),
            () = self.0.notified() => Ok(true),
        }
    }
}

#[tokio::test]
async fn a_turn_gives_its_calls_up_too() {
    let fake = Fake::start().await;
    fake.set_credits(8);
    let impatient = Impatient::default();
    let enough = impatient.0.clone();
    let host = Host::builder().service(impatient).socket(&fake.socket).start().await.unwrap();
    for round in 1..=20 {
        let service = host.client().service("impatient");
        let call = tokio::spawn(async move { service.call::<bool>("calls", &()).await });
        fake.until("its call is under way", |f| count(f, "invoke x") == round).await;
        enough.notify_one();
        assert!(bounded(call).await.unwrap().unwrap());
        fake.until("it is forgotten", |f| count(f, "forget") == round).await;
    }
    assert_eq!(fake.violations(), [""; 0]);
}
