//! Actor life: hooks of idle actors, and removal.

use kar_sdk::Method;

use crate::common::Fake;
use crate::{Counter, CounterClient, bounded, host};

#[tokio::test]
async fn a_hook_is_registered_and_called_as_a_turn_and_is_no_method() {
    let fake = Fake::start().await;
    let host = host(&fake).await;
    let hello = fake.hellos().pop().unwrap();
    let counter = hello.actor_types.iter().find(|hosted| hosted.name == "Counter").unwrap();
    assert!(counter.deactivates);
    let methods = <Counter as kar_sdk::Actor>::METHODS;
    assert!(!methods.contains(&Method::exclusive("rests")));
    let client = CounterClient::new(&host.client(), "c");
    let first = bounded(client.activation().into_future()).await.unwrap();
    assert_ne!(first, 0);
    fake.deactivate("Counter", "c");
    fake.until("the hook has run", |f| f.actor_keys("Counter", "c") == ["asleep"]).await;
    assert_eq!(fake.violations(), [""; 0]);
}

#[tokio::test]
async fn an_actor_is_removed() {
    let fake = Fake::start().await;
    let host = host(&fake).await;
    let client = host.client();
    CounterClient::new(&client, "c").add(1).await.unwrap();
    assert_eq!(fake.actor_keys("Counter", "c"), ["value"]);
    client.actor("Counter", "c").remove().await.unwrap();
    assert_eq!(fake.actor_keys("Counter", "c"), [""; 0]);
    assert_eq!(fake.log().last().unwrap(), "remove");
}
