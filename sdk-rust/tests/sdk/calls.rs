//! What is called arrives, and what is returned comes back.

use std::time::Duration;

use kar_sdk::{ApplicationError, CallError, Host, Kar, Payload, Prost, Write, Written};

use crate::common::{Fake, PATIENCE};
use crate::{CounterClient, Greeter, GreeterClient, Person, Point, bounded, host};

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
            "kar.UNKNOWN_METHOD",
            "actor type Counter has no method `sub`; it has: add, scribble, refuse, \
             write_then_call, go_on, tail_of_nonsense, activation, nested_forever, superseded"
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
async fn application_state() {
    let fake = Fake::start().await;
    let client = Kar::builder().socket(&fake.socket).connect().await.unwrap();
    let state = client.state();
    assert_eq!(state.get::<i32>("k1").await.unwrap(), None);
    let etag = state.create("k1", &1).await.unwrap();
    assert!(matches!(state.create("k1", &2).await, Err(CallError::ConditionFailed(_))));
    state.set_if("k1", &2, &etag).await.unwrap();
    assert!(state.set_if("k1", &3, &etag).await.is_err());
    // For the wire an empty version is no condition: it must not become one by mistake.
    let none = kar_sdk::Etag(String::new());
    for refused in [
        state.set_if("k1", &3, &none).await.map(drop),
        state.delete_if("k1", &none).await.map(drop),
        state.transact([Write::set("k1", &3).if_version(&none)]).await.map(drop),
    ] {
        let refused = refused.unwrap_err();
        assert!(matches!(&refused, CallError::Rejected(r) if r.reason == "INVALID_FIELD"));
    }
    assert_eq!(state.get_versioned::<i32>("k1").await.unwrap().unwrap().value, 2);
    state.set("k2", "x").await.unwrap();
    let page = state.list("k", 1, "").await.unwrap();
    assert_eq!((page.entries[0].0.as_str(), page.next.as_deref()), ("k1", Some("k1")));
    let page = state.list("k", 1, "k1").await.unwrap();
    assert_eq!((page.entries[0].0.as_str(), page.next), ("k2", None));
    assert!(state.delete("k2").await.unwrap() && !state.delete("k2").await.unwrap());
    let writes = [
        Write::delete("k1"),
        Write::set("k3", &3).time_to_live(Duration::from_millis(1_500)),
        Write::delete("nothing"),
    ];
    let written = state.transact(writes).await.unwrap();
    let [Written::Deleted { existed: true }, Written::Set(_), Written::Deleted { existed: false }] =
        &written[..]
    else {
        panic!("in the order of the changes: {written:?}")
    };
    assert!(fake.log().iter().any(|l| l.contains("set k3 for Some(Duration { seconds: 1,")));
    assert_eq!(state.transact([]).await.unwrap(), []);
    assert!(state.transact([Write::set("", &1)]).await.is_err());
    let error = state.get::<i32>("").await.unwrap_err();
    assert_eq!(error.to_string(), "INVALID_FIELD: a key has 1 to 512 bytes, this has 0");
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
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    for call in waiting {
        let _ = call.await;
    }
    // What nobody waits for any more, and was not sent, is not sent; what was sent is forgotten.
    client.service("nobody").tell("y", &()).await.unwrap();
    let mut log = fake.log();
    log.sort_unstable();
    assert_eq!(log, ["forget", "forget", "hello", "invoke x", "invoke x", "tell y"]);
    let roomy = Kar::builder().socket(&fake.socket).connect().await.unwrap();
    let error = roomy.service("nobody").tell("x", &"x".repeat(2000)).await.unwrap_err();
    assert_eq!(error.to_string(), "limit message-bytes-max (1000) reached");
    let _host = host(&fake).await;
    let error = GreeterClient::new(&roomy).repeat(1000).await.unwrap_err();
    assert_eq!(error.application().unwrap().code, "message_too_large");
    assert_eq!(fake.violations(), [""; 0]);
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
