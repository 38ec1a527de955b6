//! What turns write, and how they are cancelled.

use std::sync::atomic::Ordering;

use kar_sdk::{Error, Host, Kar, ServiceContext};
use tokio::sync::Barrier;

use crate::common::Fake;
use crate::{Counter, CounterClient, Greeter, GreeterClient, bounded, host};

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

/// Asks at the same time as others.
struct Crowd(Barrier);

#[kar_sdk::service(name = "crowd")]
impl Crowd {
    async fn asks(&self, ctx: &mut ServiceContext, id: usize) -> Result<i64, Error> {
        self.0.wait().await;
        Ok(CounterClient::new(ctx, id.to_string()).add(1).await?)
    }
}

#[tokio::test]
async fn calls_of_turns_leave_a_credit_for_what_is_called() {
    for credits in 2..=8 {
        let fake = Fake::start().await;
        fake.set_credits(i32::try_from(credits).unwrap());
        let crowd = Crowd(Barrier::new(credits));
        let host = Host::builder().service(crowd).actor(Counter).socket(&fake.socket);
        let _host = host.start().await.unwrap();
        let client = Kar::builder().socket(&fake.socket).connect().await.unwrap();
        let crowd = client.service("crowd");
        let calls = (0..credits).map(|id| crowd.call::<i64>("asks", &id).into_future());
        let sums = bounded(futures_util::future::try_join_all(calls)).await.unwrap();
        assert_eq!(sums, vec![1; credits]);
        assert_eq!(fake.violations(), [""; 0]);
    }
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
async fn turns_that_are_asked_to_stop_do_or_see_to_it_themselves() {
    let fake = Fake::start().await;
    let greeter = Greeter::default();
    let entered = greeter.entered.clone();
    let builder = Host::builder().service(greeter).actor(Counter).socket(&fake.socket);
    let host = builder.start().await.unwrap();
    let client = host.client();
    client.service("greeter").tell("hangs", &()).await.unwrap();
    bounded(entered.notified()).await;
    fake.ask_to_stop("hangs");
    fake.until("the turn stops", |f| f.log().contains(&"cancelled hangs".to_owned())).await;
    let service = client.service("greeter");
    let call = tokio::spawn(async move { service.call::<String>("tidies", &()).await });
    bounded(entered.notified()).await;
    fake.ask_to_stop("tidies");
    assert_eq!(bounded(call).await.unwrap().unwrap(), "tidied");
    assert_eq!(fake.violations(), [""; 0]);
}

#[tokio::test]
async fn a_tail_call_ends_the_turn_after_everything_that_it_did() {
    let fake = Fake::start().await;
    let host = host(&fake).await;
    let counter = CounterClient::new(&host.client(), "c");
    assert_eq!(bounded(counter.go_on(3).into_future()).await.unwrap(), (0, 4));
    let step = ["apply 1", "tell note", "apply 1", "went on from go_on"];
    let mut expected = vec!["hello", "call go_on"];
    expected.extend(step.iter().chain(&step).chain(&["keeps the lock"]).chain(&step));
    expected.extend(["apply 1", "get", "done go_on"]);
    assert_eq!(fake.log(), expected);
    assert_eq!(fake.actor_keys("Counter", "c"), ["after", "value"]);
    assert_eq!(fake.actor_keys("Counter", "other"), ["after", "value"]);
    assert_eq!(fake.violations(), [""; 0]);
}

#[tokio::test]
async fn a_tail_call_that_cannot_be_made_is_an_application_error() {
    let fake = Fake::start().await;
    let host = host(&fake).await;
    let client = host.client();
    let error = CounterClient::new(&client, "c").tail_of_nonsense().await.unwrap_err();
    assert_eq!(error.application().unwrap().code, "codec", "{error}");
    let greeter = client.service("greeter");
    let direct = greeter.call_direct::<i64>("tail_of_direct", &()).await.unwrap_err();
    let by_direct = GreeterClient::new(&client).tail_by_direct().await.unwrap_err();
    let late = GreeterClient::new(&client).tail_that_expires().await.unwrap_err();
    for error in [direct, by_direct, late] {
        assert_eq!(error.application().unwrap().code, "tail_call", "{error}");
    }
    assert_eq!(fake.violations(), [""; 0]);
}

#[tokio::test]
async fn a_refused_write_fails_the_turn_that_ends_with_a_tail_call() {
    let fake = Fake::start().await;
    fake.refuse_applies();
    let host = host(&fake).await;
    let error = CounterClient::new(&host.client(), "c").go_on(2).await.unwrap_err();
    assert_eq!(error.application().unwrap().code, "limit", "{error}");
    assert!(!fake.log().iter().any(|w| w.starts_with("went on")), "{:?}", fake.log());
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
