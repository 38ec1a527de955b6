//! Calls that are given up: their credits come back though their answers never do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use kar_sdk::{Client, Error, Host, InvocationId, Kar, Payload, ServiceContext};
use tokio::sync::Notify;

use crate::common::Fake;
use crate::{GreeterClient, bounded, host};

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
    let _host = host(&fake).await;
    let client = client(&fake).await;
    // Nobody answers this one, but the sidecar would, soon.
    let held = client.clone();
    let redrive = tokio::spawn(async move {
        held.operator().redrive(&InvocationId("held".to_owned())).await.ok()
    });
    fake.until("it is under way", |f| count(f, "redrive held") == 1).await;
    redrive.abort();
    assert!(redrive.await.unwrap_err().is_cancelled());
    // This one is answered, and given up by somebody who has not looked yet.
    let answered = GreeterClient::new(&client).strict_parse("7".to_owned());
    let mut answered = Box::pin(answered.into_future());
    assert!((&mut answered).now_or_never().is_none());
    fake.until("it is answered", |f| count(f, "done strict_parse") == 1).await;
    // What is answered behind it has found its answer there.
    bounded(client.service("nobody").tell("first", &()).into_future()).await.unwrap();
    // Another call has got its number meanwhile.
    let target = client.service("nobody");
    let next = tokio::spawn(async move { target.call::<()>("x", &()).await });
    fake.until("that is under way", |f| count(f, "invoke x") == 1).await;
    drop(answered);
    bounded(client.service("nobody").tell("second", &()).into_future()).await.unwrap();
    assert_eq!(count(&fake, "forget"), 0);
    next.abort();
    assert!(next.await.unwrap_err().is_cancelled());
    bounded(client.service("nobody").tell("last", &()).into_future()).await.unwrap();
    assert_eq!((count(&fake, "forget"), fake.violations()), (1, vec![]));
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

#[tokio::test]
async fn what_is_given_up_while_a_stream_is_under_way_does_not_count_after_it() {
    let fake = Fake::start().await;
    fake.know_no_forget();
    let builder = Kar::builder().socket(&fake.socket).requests_max(3);
    let client = builder.connect().await.unwrap();
    let started = client.service("nobody").start::<()>("y", &()).await.unwrap();
    let awaiting = tokio::spawn(async move { started.outcome().await });
    fake.until("it is awaited", |f| count(f, "await") == 1).await;
    awaiting.abort();
    assert!(awaiting.await.unwrap_err().is_cancelled());
    let target = client.service("nobody");
    let lost = tokio::spawn(async move { target.call::<()>("x", &()).await });
    fake.until("another call is under way", |f| count(f, "invoke x") == 1).await;

    let elsewhere = fake.socket.with_extension("elsewhere");
    std::fs::rename(&fake.socket, &elsewhere).unwrap();
    fake.break_streams();
    assert!(bounded(lost).await.unwrap().unwrap_err().is_unknown());
    let targets = [(); 3].map(|()| client.service("nobody"));
    let tells = targets.each_ref().map(|target| target.tell("later", &()).into_future());
    let mut tells = Box::pin(futures_util::future::try_join_all(tells));
    assert_eq!((&mut tells).now_or_never().map(|told| told.is_ok()), None, "all wait");
    std::fs::rename(&elsewhere, &fake.socket).unwrap();
    bounded(tells).await.unwrap();
    assert_eq!((count(&fake, "tell later"), count(&fake, "await")), (3, 1));
}

/// One of a kind that is counted for as long as anybody keeps it.
struct Kept(Arc<AtomicUsize>);

impl Kept {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        b"kept"
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Clone, Default)]
struct Impatient {
    enough: Arc<Notify>,
    asked: Arc<Notify>,
    /// Arguments that somebody keeps.
    kept: Arc<AtomicUsize>,
}

#[kar_sdk::service(name = "impatient")]
impl Impatient {
    /// Gives its call up when it is told to.
    async fn calls(&self, ctx: &mut ServiceContext) -> Result<bool, Error> {
        let call = ctx.service("nobody").call::<()>("x", &()).into_future();
        tokio::select! {
            _ = call => Ok(false),
            () = self.enough.notified() => Ok(true),
        }
    }

    async fn tells(&self, ctx: &mut ServiceContext) -> Result<(), Error> {
        self.asks_for_tells(ctx, 1).await
    }

    async fn asks_for_tells(&self, ctx: &mut ServiceContext, count: usize) -> Result<(), Error> {
        let target = ctx.service("nobody");
        let tells = (0..count).map(|_| target.tell("waits", &()).into_future());
        futures_util::future::try_join_all(tells).await?;
        Ok(())
    }

    /// Gives its tell up when it is told to.
    async fn tells_once(&self, ctx: &mut ServiceContext) -> Result<bool, Error> {
        let target = ctx.service("nobody");
        let tell = target.tell("never sent", &()).into_future();
        tokio::select! {
            _ = tell => Ok(false),
            () = self.asked.notified() => Ok(true),
        }
    }

    async fn asks_for_nothing(&self, _ctx: &mut ServiceContext) -> Result<(), Error> {
        Ok(())
    }

    /// Asks for many things, by calls or by tells, and gives each up at once.
    async fn asks_many(&self, ctx: &mut ServiceContext, calls: bool) -> Result<(), Error> {
        for _ in 0..200 {
            let argument = Payload::new("text/plain", Bytes::from_owner(Kept::new(&self.kept)));
            let service = ctx.service("nobody");
            let waits = match calls {
                true => {
                    let call = service.call::<()>("never sent", &argument).into_future();
                    call.now_or_never().is_none()
                }
                false => {
                    let tell = service.tell("never sent", &argument).into_future();
                    tell.now_or_never().is_none()
                }
            };
            assert!(waits);
            // The connection's task gets its turn.
            tokio::task::yield_now().await;
        }
        self.asked.notify_one();
        Ok(())
    }
}

#[tokio::test]
async fn what_turns_give_up_while_it_waits_for_a_credit_does_not_gather() {
    for (calls, behind_a_tell) in [(true, false), (false, false), (false, true)] {
        let fake = Fake::start().await;
        fake.set_credits(1);
        fake.know_no_forget();
        let impatient = Impatient::default();
        let (asked, kept) = (impatient.asked.clone(), impatient.kept.clone());
        let host = Host::builder().service(impatient).socket(&fake.socket);
        let _host = host.start().await.unwrap();
        let client = client(&fake).await;
        client.service("impatient").tell("calls", &()).await.unwrap();
        fake.until("the only credit is used", |f| count(f, "invoke x") == 1).await;
        if behind_a_tell {
            client.service("impatient").tell("tells", &()).await.unwrap();
        }
        client.service("impatient").tell("asks_many", &calls).await.unwrap();
        bounded(asked.notified()).await;
        let kept = kept.load(Ordering::SeqCst);
        assert!(kept <= 8, "{kept} of 200 are kept, calls: {calls}");
        if !behind_a_tell {
            let done = |f: &Fake| count(f, "done asks_many") == 1;
            fake.until("nothing is in the way of its result", done).await;
        }
        assert_eq!((count(&fake, "invoke never sent"), count(&fake, "tell never sent")), (0, 0));
    }
}

#[tokio::test]
async fn a_turn_gives_its_calls_up_too() {
    let fake = Fake::start().await;
    fake.set_credits(8);
    let impatient = Impatient::default();
    let enough = impatient.enough.clone();
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

#[tokio::test]
async fn a_result_goes_when_what_it_waits_behind_is_given_up() {
    let fake = Fake::start().await;
    fake.set_credits(1);
    fake.know_no_forget();
    let impatient = Impatient::default();
    let asked = impatient.asked.clone();
    let _host = Host::builder().service(impatient).socket(&fake.socket).start().await.unwrap();
    let client = client(&fake).await;
    client.service("impatient").tell("calls", &()).await.unwrap();
    fake.until("the only credit is used", |f| count(f, "invoke x") == 1).await;
    client.service("impatient").tell("tells_once", &()).await.unwrap();
    client.service("impatient").tell("asks_for_nothing", &()).await.unwrap();
    // So many wait that one which is given up is not worth looking for.
    client.service("impatient").tell("asks_for_tells", &20).await.unwrap();
    assert_eq!(count(&fake, "done asks_for_nothing"), 0);
    asked.notify_one();
    let done = |f: &Fake| count(f, "done asks_for_nothing") == 1;
    fake.until("the result has gone", done).await;
    assert_eq!((count(&fake, "tell never sent"), fake.violations()), (0, vec![]));
}
