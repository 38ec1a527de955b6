//! Durable steps: what is recorded is not done again, what failed is not recorded, and calls carry their keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kar_sdk::{ActorContext, CallError, Error, Host, ServiceContext};

use crate::common::Fake;
use crate::{Counter, CounterClient};

/// Pays, and counts how often.
#[derive(Default)]
struct Till {
    paid: Arc<AtomicU32>,
}

#[kar_sdk::actor]
impl Till {
    async fn pay(&self, ctx: &mut ActorContext, amount: u32) -> Result<(u32, u32), Error> {
        ctx.state().set("before", &amount)?;
        let pay = async || {
            self.paid.fetch_add(1, Ordering::SeqCst);
            Ok::<_, std::num::ParseIntError>(amount)
        };
        let first: u32 = ctx.once("pay", pay).await?;
        Ok((first, ctx.once("pay", pay).await?))
    }

    /// Records as much as an invocation may keep.
    async fn hoard(&self, ctx: &mut ActorContext, argument: String) -> Result<usize, Error> {
        let mut bytes = argument.len();
        for n in 0..4 {
            let value = async || Ok::<_, Error>("v".repeat(1 << 20));
            let value: String = ctx.once(&format!("k{n}"), value).await?;
            bytes += value.len();
        }
        Ok(bytes)
    }

    async fn stumble(&self, ctx: &mut ActorContext) -> Result<u32, Error> {
        let failed = ctx.once("try", async || "x".parse::<u32>()).await;
        assert!(failed.is_err());
        ctx.once("try", async || "7".parse::<u32>()).await
    }

    async fn call(&self, ctx: &mut ActorContext, key: String) -> Result<i64, Error> {
        Ok(CounterClient::new(ctx, "c").add(3).step_key(key).await?)
    }
}

struct Once;

#[kar_sdk::service]
impl Once {
    async fn direct(&self, ctx: &mut ServiceContext) -> Result<u32, Error> {
        ctx.once("k", async || Ok::<_, Error>(5)).await
    }
}

async fn host(fake: &Fake, till: Till) -> Host {
    let builder = Host::builder().service(Once).actor(till).actor(Counter);
    builder.socket(&fake.socket).start().await.unwrap()
}

#[tokio::test]
async fn a_step_runs_once() {
    let fake = Fake::start().await;
    let till = Till::default();
    let paid = till.paid.clone();
    let host = host(&fake, till).await;
    let client = host.client();
    let till = TillClient::new(&client, "t");
    assert_eq!(till.pay(30).await.unwrap(), (30, 30));
    assert_eq!(paid.load(Ordering::SeqCst), 1, "the second one had it");
    let log = fake.log();
    let recorded = log.iter().position(|word| word == "record pay").unwrap();
    assert_eq!(log[recorded - 1], "apply 1", "what was written before goes before: {log:?}");
    // As a retry: the turn comes with what is recorded.
    assert_eq!(till.pay(99).await.unwrap(), (30, 30));
    assert_eq!(paid.load(Ordering::SeqCst), 1);
    assert_eq!(fake.log().iter().filter(|word| *word == "record pay").count(), 1);
    assert_eq!(fake.violations(), [""; 0]);
}

#[tokio::test]
async fn a_failure_is_not_recorded() {
    let fake = Fake::start().await;
    let host = host(&fake, Till::default()).await;
    assert_eq!(TillClient::new(&host.client(), "t").stumble().await.unwrap(), 7);
    assert_eq!(fake.log().iter().filter(|word| *word == "record try").count(), 1);
}

#[tokio::test]
async fn calls_carry_their_keys() {
    let fake = Fake::start().await;
    let host = host(&fake, Till::default()).await;
    let client = host.client();
    let till = TillClient::new(&client, "t");
    assert_eq!(till.call("add".into()).await.unwrap(), 3);
    assert!(fake.log().contains(&"keyed add".to_owned()), "{:?}", fake.log());
    let error = till.call("reused".into()).await.unwrap_err();
    assert_eq!(error.application().unwrap().code, "step_key_reused");
    assert!(matches!(error, CallError::Application(_)));
}

#[tokio::test]
async fn a_direct_invocation_just_runs_it() {
    let fake = Fake::start().await;
    let host = host(&fake, Till::default()).await;
    let service = host.client().service("Once");
    assert_eq!(service.call_direct::<u32>("direct", &()).await.unwrap(), 5);
    assert!(!fake.log().iter().any(|word| word.starts_with("record")));
}

/// The longest turn there is: the longest argument, and all that its steps may have recorded.
#[tokio::test]
async fn the_longest_turn_is_taken() {
    let fake = Fake::start().await;
    fake.set_message_bytes_max(4 << 20);
    let host = host(&fake, Till::default()).await;
    let client = host.client();
    let till = TillClient::new(&client, "t");
    assert_eq!(till.hoard("a".into()).await.unwrap(), (4 << 20) + 1);
    let argument = "a".repeat((4 << 20) - 1_000);
    let bytes = till.hoard(argument.clone()).await.unwrap();
    assert_eq!(bytes, (4 << 20) + argument.len(), "a retry that has everything with it");
    let recorded = fake.log().iter().filter(|word| word.starts_with("record k")).count();
    assert_eq!(recorded, 4, "nothing was recorded again");
    assert_eq!(fake.violations(), [""; 0]);
}
