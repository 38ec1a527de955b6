//! The stream itself: made, made again, packed, left.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use futures_util::FutureExt as _;
use kar_sdk::{CallError, ConnectError, Error, Host, HostError, Kar, RetryPolicy, ServiceContext};
use tokio::sync::Notify;

use crate::common::Fake;
use crate::{Counter, Greeter, GreeterClient, Person, bounded, host};

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
    let methods = <Greeter as kar_sdk::Service>::METHODS.len();
    assert_eq!((hello.concurrency, hello.strict), (3, true));
    assert_eq!(hello.services[0].methods.len(), methods);
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
async fn a_host_that_is_dropped_is_gone_though_it_has_clients() {
    let fake = Fake::start().await;
    let greeter = Greeter::default();
    let (entered, dropped) = (greeter.entered.clone(), greeter.dropped.clone());
    let host = Host::builder().service(greeter).socket(&fake.socket).start().await.unwrap();
    let client = host.client();
    let caller = Kar::builder().socket(&fake.socket).connect().await.unwrap();
    let calling = tokio::spawn(GreeterClient::new(&caller).hangs().into_future());
    bounded(entered.notified()).await;
    drop(host);
    fake.until("the host is gone", |f| f.streams() == 1).await;
    let closed = bounded(client.service("nobody").call::<()>("x", &()).into_future()).await;
    assert!(matches!(closed, Err(CallError::Closed(_))), "{closed:?}");
    assert_eq!(dropped.load(Ordering::SeqCst), 1, "its turns have stopped");
    calling.abort();
}

/// Computes until it is let go: nothing stops it.
struct Computes {
    entered: Arc<Notify>,
    let_go: Mutex<mpsc::Receiver<()>>,
}

#[kar_sdk::service(name = "computes")]
impl Computes {
    async fn on(&self, _ctx: &mut ServiceContext) -> Result<(), Error> {
        self.entered.notify_one();
        tokio::task::block_in_place(|| self.let_go.lock().unwrap().recv())?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_dropped_while_the_turns_of_a_broken_stream_stop_is_gone() {
    let fake = Fake::start().await;
    let entered = Arc::new(Notify::new());
    let (let_go, gate) = mpsc::sync_channel(1);
    let service = Computes { entered: entered.clone(), let_go: Mutex::new(gate) };
    let host = Host::builder().service(service).socket(&fake.socket).start().await.unwrap();
    let client = host.client();
    client.service("computes").tell("on", &()).await.unwrap();
    bounded(entered.notified()).await;
    let lost = tokio::spawn(client.service("nobody").call::<()>("x", &()).into_future());
    fake.until("a call is under way", |f| f.log().contains(&"invoke x".to_owned())).await;
    fake.break_streams();
    let lost = bounded(lost).await.unwrap().unwrap_err();
    assert!(lost.is_unknown(), "{lost:?}");
    // It waits for the turn now.
    drop(host);
    let_go.send(()).unwrap();
    let closed = bounded(client.service("nobody").tell("y", &()).into_future()).await;
    assert!(matches!(closed, Err(CallError::Closed(_))), "{closed:?}");
    assert_eq!(fake.log().iter().filter(|w| *w == "hello").count(), 1);
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

struct Flaky;

#[kar_sdk::service]
impl Flaky {
    #[kar(retry = RetryPolicy::attempts(5).backoff(MOMENT, MINUTE, 3.0))]
    async fn work(&self, _ctx: &mut ServiceContext) -> Result<(), Error> {
        Ok(())
    }

    async fn plain(&self, _ctx: &mut ServiceContext) -> Result<(), Error> {
        Ok(())
    }
}

const MOMENT: Duration = Duration::from_millis(10);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn hosts_register_the_policies_of_their_methods() {
    let fake = Fake::start().await;
    let host = Host::builder().service(Flaky).socket(&fake.socket);
    let host = host.start().await.unwrap();
    let methods = fake.hellos()[0].services[0].methods.clone();
    let policy = methods[0].retry_policy.as_ref().unwrap();
    assert_eq!((policy.max_attempts, policy.multiplier), (5, 3.0));
    assert_eq!(policy.initial_backoff.unwrap().nanos, 10_000_000);
    assert_eq!(policy.max_backoff.unwrap().seconds, 60);
    assert_eq!(methods[1].retry_policy, None);
    drop(host);
    fake.until("it has left", |f| f.streams() == 0).await;
    let host = Host::builder().service(Flaky).socket(&fake.socket);
    let host = host.service_retry::<Flaky>("plain", RetryPolicy::attempts(2)).start().await;
    let _host = host.unwrap();
    let hello = fake.hellos().into_iter().find(|hello| !hello.services.is_empty()).unwrap();
    let policy = hello.services[0].methods[1].retry_policy.as_ref().unwrap();
    assert_eq!((policy.max_attempts, policy.initial_backoff), (2, None));
}
