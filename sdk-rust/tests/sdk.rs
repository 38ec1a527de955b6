//! The SDK against a fake sidecar: what is called arrives, what is returned comes back, on either
//! kind of runtime.
#![allow(clippy::unwrap_used)] // All of this is test code.

mod common;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Fake, PATIENCE};
use futures_util::FutureExt as _;
use kar_sdk::{
    ActorContext, ApplicationError, CallError, ConnectError, Error, Host, HostError, Kar, Payload,
    Prost, ReadsState, ServiceContext, WritesState,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::timeout;

#[derive(Serialize, Deserialize)]
struct Person {
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Point {
    #[prost(int32, tag = "1")]
    x: i32,
}

#[derive(Default)]
struct Greeter {
    entered: Arc<Notify>,
    dropped: Arc<AtomicUsize>,
}

/// Counts when it is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[kar_sdk::service(name = "greeter")]
impl Greeter {
    /// Greets.
    async fn hello(&self, _ctx: &mut ServiceContext, who: Person) -> Result<String, Error> {
        Ok(format!("Hello, {}!", who.name))
    }

    async fn parse(&self, _ctx: &ServiceContext, text: String) -> Result<i32, Error> {
        Ok(text.parse::<i32>()?)
    }

    async fn strict_parse(
        &self,
        _: &ServiceContext,
        text: String,
    ) -> Result<i32, std::num::ParseIntError> {
        text.parse()
    }

    async fn panics(&self, _ctx: &mut ServiceContext) -> Result<(), Error> {
        panic!("at the {}", "disco");
    }

    async fn hangs(&self, _ctx: &mut ServiceContext) -> Result<(), Error> {
        let _dropped = Dropped(self.dropped.clone());
        self.entered.notify_one();
        std::future::pending().await
    }

    async fn mirror(
        &self,
        _ctx: &mut ServiceContext,
        p: Prost<Point>,
    ) -> Result<Prost<Point>, Error> {
        Ok(Prost(Point { x: -p.0.x }))
    }

    async fn raw(&self, _ctx: &mut ServiceContext, p: Payload) -> Result<Payload, Error> {
        Ok(p)
    }

    #[kar(name = "facts.about", shared)]
    async fn facts(&self, ctx: &mut ServiceContext) -> Result<(String, u32, bool, String), Error> {
        let trace = ctx.trace_parent().to_owned();
        Ok((ctx.token().to_owned(), ctx.attempt(), ctx.is_direct(), trace))
    }

    async fn repeat(&self, _ctx: &mut ServiceContext, times: usize) -> Result<String, Error> {
        Ok("y".repeat(times))
    }

    async fn relay(&self, ctx: &mut ServiceContext, id: String) -> Result<i64, Error> {
        let counter = CounterClient::new(ctx, id);
        counter.add(1).tell().await?;
        Ok(counter.add(10).await?)
    }

    async fn relay_failure(&self, ctx: &mut ServiceContext) -> Result<(), Error> {
        Ok(CounterClient::new(&ctx, "c").refuse().await?)
    }
}

struct Counter;

/// What a helper may do is in its signature.
async fn value(ctx: &impl ReadsState) -> Result<i64, CallError> {
    Ok(ctx.read_state().get("value").await?.unwrap_or(0))
}

fn set(ctx: &impl WritesState, value: i64) -> Result<(), CallError> {
    ctx.state().set("value", &value)
}

#[kar_sdk::actor]
impl Counter {
    async fn add(&self, ctx: &mut ActorContext, n: i64) -> Result<i64, Error> {
        let sum = value(ctx).await? + n;
        set(ctx, sum)?;
        Ok(sum)
    }

    async fn scribble(&self, ctx: &mut ActorContext) -> Result<Vec<String>, Error> {
        let state = ctx.state();
        state.set("a", &1)?;
        state.set("b", "two")?;
        state.remove("value")?;
        assert!(state.contains("a").await? && !state.contains("value").await?);
        state.clear()?;
        state.set("c", &[3])?;
        let keys = state.get_all().await?.into_keys().collect();
        state.flush().await?;
        Ok(keys)
    }

    async fn refuse(&self, ctx: &mut ActorContext) -> Result<(), Error> {
        ctx.state().set("value", &-1)?;
        Err(Error::new("insufficient_funds", format!("{} is broke", ctx.id()))
            .with_payload(&Person { name: "Alan".to_owned() }))
    }

    async fn write_then_call(&self, ctx: &mut ActorContext, n: i64) -> Result<i64, Error> {
        ctx.state().set("value", &n)?;
        let there = CounterClient::new(ctx, "other").add(n).await?;
        Ok(there)
    }

    async fn nested_forever(&self, ctx: &mut ActorContext) -> Result<(), Error> {
        Ok(ctx.service("nobody").call("x", &()).await?)
    }

    async fn superseded(&self, ctx: &mut ActorContext) -> Result<(), Error> {
        loop {
            let _: i64 = ctx.actor("Counter", "other").call("add", &1).await?;
        }
    }
}

async fn host(fake: &Fake) -> Host {
    let builder = Host::builder().service(Greeter::default()).actor(Counter);
    builder.socket(&fake.socket).start().await.unwrap()
}

async fn bounded<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("within the test's patience")
}

#[tokio::test]
async fn calls_and_answers() {
    let fake = Fake::start().await;
    let client = Kar::builder().socket(&fake.socket).connect().await.unwrap();
    assert_eq!((client.node(), client.application()), ("fake", "test"));
    // A call made before any host exists waits.
    let early = tokio::spawn({
        let client = client.clone();
        async move {
            client.service("greeter").call::<String>("hello", &Person { name: "Alan".into() }).await
        }
    });
    fake.until("the call waits", |f| f.log().contains(&"invoke hello".to_owned())).await;
    let _host = host(&fake).await;
    assert_eq!(bounded(early).await.unwrap().unwrap(), "Hello, Alan!");

    let greeter = GreeterClient::new(&client);
    assert_eq!(greeter.hello(Person { name: "Ada".into() }).await.unwrap(), "Hello, Ada!");
    assert_eq!(greeter.mirror(Prost(Point { x: 3 })).await.unwrap().0.x, -3);
    let raw = Payload::new("image/png", vec![0, 159]);
    assert_eq!(greeter.raw(raw.clone()).await.unwrap(), raw);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let facts = greeter.facts().trace_parent(trace).start_within(PATIENCE).await.unwrap();
    assert!(facts.0.starts_with('t') && facts.1 == 1 && !facts.2 && facts.3 == trace);
    let facts: (String, u32, bool, String) =
        client.service("greeter").call_direct("facts.about", &()).await.unwrap();
    assert_eq!((facts.0.as_str(), facts.2), ("", true));
    let nobody = client.service("nobody").call_direct::<()>("x", &()).await;
    assert!(matches!(nobody, Err(CallError::NoHost(_))), "{nobody:?}");
    assert_eq!(fake.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_on_threads() {
    let fake = Fake::start().await;
    fake.set_credits(7);
    let host = host(&fake).await;
    let client = host.client();
    let counter = |id: usize| CounterClient::new(&client, format!("c{}", id % 5));
    let calls: Vec<_> = (0..500).map(|i| tokio::spawn(counter(i).add(1).into_future())).collect();
    for call in calls {
        bounded(call).await.unwrap().unwrap();
    }
    for id in 0..5 {
        assert_eq!(counter(id).add(0).await.unwrap(), 100);
    }
    assert_eq!(fake.violations(), [""; 0]);
}

#[tokio::test]
async fn tells_starts_and_awaits() {
    let fake = Fake::start().await;
    let host = host(&fake).await;
    let client = host.client();
    let counter = client.actor("Counter", "c");
    counter.tell("add", &5).await.unwrap();
    let started = counter.start::<i64>("add", &6).await.unwrap();
    assert_eq!(bounded(started.outcome()).await.unwrap(), 11);
    assert_eq!(client.awaiting::<i64>(started.id()).await.unwrap(), 11);
    let unknown = client.awaiting::<i64>(&kar_sdk::InvocationId("x".into())).await;
    assert!(matches!(unknown, Err(CallError::UnknownInvocation(_))));
    let state = counter.committed_state().await.unwrap();
    assert_eq!(state["value"].to_string(), "11");
}

#[tokio::test]
async fn errors_come_back_typed() {
    let fake = Fake::start().await;
    let host = host(&fake).await;
    let client = host.client();
    let greeter = GreeterClient::new(&client);
    let error = |e: CallError| e.application().cloned().unwrap();
    for failed in [
        error(greeter.parse("x".into()).await.unwrap_err()),
        error(greeter.strict_parse("x".into()).await.unwrap_err()),
    ] {
        assert_eq!(
            (failed.code.as_str(), failed.message.as_str()),
            ("ParseIntError", "invalid digit found in string")
        );
    }
    let failed = error(greeter.panics().await.unwrap_err());
    assert_eq!((failed.code.as_str(), failed.message.as_str()), ("panic", "at the disco"));
    let failed = error(client.service("greeter").call::<()>("hello", &7).await.unwrap_err());
    assert_eq!(failed.code, "invalid_argument");
    assert!(failed.message.starts_with("not a JSON value of Person: "), "{failed}");
    let failed = error(client.actor("Counter", "c").call::<()>("sub", &7).await.unwrap_err());
    assert_eq!(
        failed,
        ApplicationError::new(
            "unknown_method",
            "actor type Counter has no method `sub`; it has: add, scribble, refuse, \
             write_then_call, nested_forever, superseded"
        )
    );
    // The error of a nested call passes on, with its payload; what the turn wrote is dropped.
    let failed = error(greeter.relay_failure().await.unwrap_err());
    assert_eq!(
        (failed.code.as_str(), failed.message.as_str()),
        ("insufficient_funds", "c is broke")
    );
    assert_eq!(failed.payload.unwrap().to_string(), r#"{"name":"Alan"}"#);
    assert_eq!(fake.actor_keys("Counter", "c"), [""; 0]);
    // A result of another type than asked for.
    let codec = client.actor("Counter", "c").call::<String>("add", &1).await;
    assert!(matches!(codec, Err(CallError::Codec(_))));
}

#[tokio::test]
async fn turns_write_in_order() {
    let fake = Fake::start().await;
    let host = host(&fake).await;
    let client = host.client();
    let counter = CounterClient::new(&client, "c");
    counter.add(1).await.unwrap();
    assert_eq!(counter.scribble().await.unwrap(), ["c"]);
    assert_eq!(fake.actor_keys("Counter", "c"), ["c"]);
    assert_eq!(bounded(counter.write_then_call(3).into_future()).await.unwrap(), 3);
    let log = fake.log();
    let at = |word: &str| log.iter().rposition(|w| w == word).unwrap();
    let nested = log.iter().rposition(|w| w == "call add").unwrap();
    assert!(at("call write_then_call") < nested);
    assert_eq!(log[nested - 1], "apply 1", "the write goes before the call: {log:?}");
    assert_eq!(
        bounded(GreeterClient::new(&client).relay("r".into()).into_future()).await.unwrap(),
        11
    );
}

#[tokio::test]
async fn a_refused_write_fails_the_turn() {
    let fake = Fake::start().await;
    fake.refuse_applies();
    let host = host(&fake).await;
    let error = CounterClient::new(&host.client(), "c").add(1).await.unwrap_err();
    let error = error.application().unwrap();
    assert_eq!(error.code, "limit");
    assert_eq!(error.message, "limit segment-bytes-max () reached");
}

#[tokio::test]
async fn application_state() {
    let fake = Fake::start().await;
    let client = Kar::builder().socket(&fake.socket).connect().await.unwrap();
    let state = client.state();
    assert_eq!(state.get::<i32>("k1").await.unwrap(), None);
    let etag = state.create("k1", &1).await.unwrap();
    assert!(matches!(state.create("k1", &2).await, Err(CallError::ConditionFailed(_))));
    state.set_if("k1", &2, &etag).await.unwrap();
    assert!(state.set_if("k1", &3, &etag).await.is_err());
    assert_eq!(state.get_versioned::<i32>("k1").await.unwrap().unwrap().value, 2);
    state.set("k2", "x").await.unwrap();
    let page = state.list("k", 1, "").await.unwrap();
    assert_eq!((page.entries[0].0.as_str(), page.next.as_deref()), ("k1", Some("k1")));
    let page = state.list("k", 1, "k1").await.unwrap();
    assert_eq!((page.entries[0].0.as_str(), page.next), ("k2", None));
    assert!(state.delete("k2").await.unwrap() && !state.delete("k2").await.unwrap());
    let error = state.get::<i32>("").await.unwrap_err();
    assert_eq!(error.to_string(), "INVALID_FIELD: a key has 1 to 512 bytes, this has 0");
}

#[tokio::test]
async fn cancelled_turns_stop_and_say_so() {
    let fake = Fake::start().await;
    let greeter = Greeter::default();
    let (entered, dropped) = (greeter.entered.clone(), greeter.dropped.clone());
    let builder = Host::builder().service(greeter).actor(Counter).socket(&fake.socket);
    let host = builder.start().await.unwrap();
    let client = host.client();
    client.service("greeter").tell("hangs", &()).await.unwrap();
    bounded(entered.notified()).await;
    fake.cancel_turns("hangs");
    fake.until("the turn stops", |f| f.log().contains(&"cancelled hangs".to_owned())).await;
    assert_eq!(dropped.load(Ordering::SeqCst), 1, "dropped before it is told");

    // A turn that learns at its next operation that it is superseded.
    client.actor("Counter", "c").tell("superseded", &()).await.unwrap();
    fake.until("it calls", |f| f.log().contains(&"call add".to_owned())).await;
    fake.supersede("superseded");
    fake.until("it stops", |f| f.log().contains(&"cancelled superseded".to_owned())).await;
    assert_eq!(fake.violations(), [""; 0]);
}

#[tokio::test]
async fn a_broken_stream_is_made_again() {
    let fake = Fake::start().await;
    let greeter = Greeter::default();
    let (entered, dropped) = (greeter.entered.clone(), greeter.dropped.clone());
    let builder = Host::builder().service(greeter).socket(&fake.socket);
    let host = builder.concurrency(3).strict(true).start().await.unwrap();
    let client = Kar::builder().socket(&fake.socket).connect().await.unwrap();
    let under_way = GreeterClient::new(&client).hangs();
    let under_way = tokio::spawn(under_way.into_future());
    bounded(entered.notified()).await;
    let started = client.service("nobody").start::<i32>("x", &()).await.unwrap();
    let awaiting = tokio::spawn(async move { started.outcome().await });
    fake.until("awaited", |f| f.log().contains(&"await".to_owned())).await;

    fake.break_streams();
    let lost = bounded(under_way).await.unwrap().unwrap_err();
    assert!(lost.is_unknown(), "{lost:?}");
    fake.until("both are back", |f| f.streams() == 2).await;
    assert_eq!(dropped.load(Ordering::SeqCst), 1, "aborted before the host is back");
    let hello = fake.hellos().into_iter().find(|h| !h.services.is_empty()).unwrap();
    assert_eq!((hello.concurrency, hello.strict, hello.services[0].methods.len()), (3, true, 11));
    // Waiting does no harm twice: it goes on.
    let asked = |f: &Fake| f.log().iter().filter(|w| *w == "await").count() == 2;
    fake.until("asked again", asked).await;
    assert!(!awaiting.is_finished());
    let name = Person { name: "again".into() };
    assert_eq!(GreeterClient::new(&client).hello(name).await.unwrap(), "Hello, again!");
    drop(host);
    fake.until("the host is gone", |f| f.streams() == 1).await;
}

#[tokio::test]
async fn limits_have_names() {
    let fake = Fake::start().await;
    fake.set_credits(2);
    fake.set_message_bytes_max(1000);
    let client = Kar::builder().socket(&fake.socket).requests_max(3).connect().await.unwrap();
    let waiting: Vec<_> = (0..3)
        .map(|_| tokio::spawn(client.service("nobody").call::<()>("x", &()).into_future()))
        .collect();
    fake.until("two are under way", |f| f.log().len() == 3).await;
    let error = client.service("nobody").tell("x", &()).await.unwrap_err();
    assert_eq!(error.to_string(), "limit client-requests (3) reached");
    for call in waiting {
        call.abort();
        let _ = call.await;
    }
    // What nobody waits for any more, and was not sent, is not sent; what was sent keeps its
    // credit.
    assert_eq!(fake.log().len(), 3);
    let roomy = Kar::builder().socket(&fake.socket).connect().await.unwrap();
    let error = roomy.service("nobody").tell("x", &"x".repeat(2000)).await.unwrap_err();
    assert_eq!(error.to_string(), "limit message-bytes-max (1000) reached");
    let _host = host(&fake).await;
    let error = GreeterClient::new(&roomy).repeat(1000).await.unwrap_err();
    assert_eq!(error.application().unwrap().code, "message_too_large");
    assert_eq!(fake.violations(), [""; 0]);
}

#[tokio::test]
async fn leaves_in_order() {
    let fake = Fake::start().await;
    let host = host(&fake).await;
    let client = Kar::builder().socket(&fake.socket).connect().await.unwrap();
    client.actor("Counter", "c").tell("nested_forever", &()).await.unwrap();
    fake.until("it runs", |f| f.running("nested_forever") == 1).await;
    let shutdown = host.shutdown_handle();
    let left = tokio::spawn(host.wait());
    shutdown.shutdown();
    fake.until("goodbye", |f| f.log().contains(&"goodbye".to_owned())).await;
    assert!(!left.is_finished(), "a turn runs");
    fake.cancel_turns("nested_forever");
    bounded(left).await.unwrap().unwrap();
    fake.until("the stream is closed", |f| f.streams() == 1).await;
    client.close();
    fake.until("the client is closed", |f| f.streams() == 0).await;
    let closed = client.service("x").tell("y", &()).await.unwrap_err();
    assert_eq!(closed.to_string(), "closed: the connection was shut down");
}

#[tokio::test]
async fn leaving_is_bounded() {
    let fake = Fake::start().await;
    fake.hold_drained();
    let builder = Host::builder().actor(Counter).socket(&fake.socket);
    let host = builder.drain_timeout(Duration::from_millis(50)).start().await.unwrap();
    host.shutdown_handle().shutdown();
    bounded(host.wait()).await.unwrap();
}

#[tokio::test]
async fn connecting_fails_clearly() {
    let fake = Fake::start().await;
    let missing = fake.socket.with_extension("missing");
    let patience = Duration::from_millis(50);
    let error =
        Kar::builder().socket(&missing).connect_timeout(patience).connect().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "no sidecar answers at {}: No such file or directory (os error 2)",
            missing.display()
        )
    );
    fake.set_token("secret");
    let error = Kar::builder().socket(&fake.socket).connect().await.unwrap_err();
    assert!(matches!(&error, ConnectError::Refused(r) if r.code == 16), "{error:?}");
    let builder = Kar::builder().socket(&fake.socket).api_token("secret");
    builder.connect().await.unwrap();
    let twice = Host::builder().actor(Counter).actor(Counter).start().await.unwrap_err();
    assert_eq!(twice, HostError::Duplicate("actor type Counter".into()));
    let host = Host::builder().actor(Counter).socket(&fake.socket).api_token("secret");
    let _host = host.start().await.unwrap();
    let second = Host::builder().actor(Counter).socket(&fake.socket).api_token("secret");
    let error = second.start().await.unwrap_err();
    assert!(matches!(error, HostError::Connect(ConnectError::Refused(r)) if r.code == 6));
}

#[tokio::test]
async fn gives_up_when_the_sidecar_is_gone_for_good() {
    let fake = Fake::start().await;
    let builder = Host::builder().actor(Counter).socket(&fake.socket);
    let host = builder.reconnect_timeout(Duration::from_millis(50)).start().await.unwrap();
    let client = host.client();
    fake.set_token("changed");
    fake.break_streams();
    let error = bounded(host.wait()).await.unwrap_err();
    assert!(matches!(&error, HostError::Lost(text) if text.contains("wrong API token")), "{error}");
    let error = client.service("x").tell("y", &()).await.unwrap_err();
    assert!(error.to_string().contains("wrong API token"), "{error}");
}

#[tokio::test]
async fn frames_are_packed() {
    let fake = Fake::start().await;
    fake.set_credits(1000);
    let client = Kar::builder().socket(&fake.socket).connect().await.unwrap();
    let before = fake.messages();
    let tells = (0..64).map(|i| {
        let target = client.service("nobody");
        async move { target.tell(&format!("x{i}"), &()).await }
    });
    for told in futures_util::future::join_all(tells).await {
        told.unwrap();
    }
    let messages = fake.messages() - before;
    assert!((4..=16).contains(&messages), "{messages} messages for 64 requests");
    let sent: Vec<_> = (0..64).map(|i| format!("tell x{i}")).collect();
    assert_eq!(fake.log()[1..], sent, "in order");
}

#[tokio::test]
async fn what_was_not_sent_goes_on_the_next_stream() {
    let fake = Fake::start().await;
    fake.set_credits(1);
    let client = Kar::builder().socket(&fake.socket).connect().await.unwrap();
    let sent = tokio::spawn(client.service("nobody").call::<()>("x", &()).into_future());
    fake.until("one is under way", |f| f.log().len() == 2).await;
    let (one, two) = (client.service("nobody"), client.service("nobody"));
    let tells = futures_util::future::join(one.tell("first", &()), two.tell("second", &()));
    let mut tells = std::pin::pin!(tells);
    assert!((&mut tells).now_or_never().is_none(), "there is no credit");
    fake.break_streams();
    assert!(bounded(sent).await.unwrap().unwrap_err().is_unknown());
    let (first, second) = bounded(tells).await;
    first.unwrap();
    second.unwrap();
    assert_eq!(fake.log()[2..], ["hello", "tell first", "tell second"]);
}

#[tokio::test]
async fn over_tcp() {
    let fake = Fake::start().await;
    let host = Host::builder().service(Greeter::default()).port(fake.port).start().await.unwrap();
    let client = Kar::builder().port(fake.port).connect().await.unwrap();
    let name = Person { name: "Ada".into() };
    assert_eq!(GreeterClient::new(&client).hello(name).await.unwrap(), "Hello, Ada!");
    drop(host);
}
