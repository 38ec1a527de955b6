//! The SDK against a fake sidecar: what is called arrives, what is returned comes back, on either
//! kind of runtime.
#![allow(clippy::unwrap_used)] // All of this is test code.

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod connection;
mod forget;
mod life;
mod operator;
mod steps;
mod sub_maps;
mod topology;
mod turns;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Fake, PATIENCE};
use kar_sdk::{
    ActorContext, CallError, Error, Host, Payload, Prost, ReadsState, ServiceContext, WritesState,
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

    async fn tidies(&self, ctx: &mut ServiceContext) -> Result<String, Error> {
        let asked = ctx.cancel_requested();
        self.entered.notify_one();
        asked.await;
        Ok("tidied".to_owned())
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

    async fn tail_of_direct(&self, ctx: &mut ServiceContext) -> Result<i64, Error> {
        CounterClient::new(ctx, "c").add(1).tail()
    }

    async fn tail_by_direct(&self, ctx: &mut ServiceContext) -> Result<i64, Error> {
        ctx.service("greeter").call_direct("tail_of_direct", &()).tail()
    }

    async fn tail_that_expires(&self, ctx: &mut ServiceContext) -> Result<i64, Error> {
        CounterClient::new(ctx, "c").add(1).start_within(std::time::Duration::from_secs(1)).tail()
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

    /// Writes, tells, and goes on: with itself, locked, or with another.
    async fn go_on(&self, ctx: &mut ActorContext, left: i64) -> Result<(i64, u32), Error> {
        ctx.state().set("value", &left)?;
        if left == 0 {
            return Ok((value(ctx).await?, ctx.step()));
        }
        ctx.actor("Nobody", "hosts this").tell("note", &1).await?;
        ctx.state().set("after", &left)?;
        match left % 2 {
            0 => CounterClient::new(ctx, ctx.id()).go_on(left - 1).tail_keeping_lock(),
            _ => Err(CounterClient::new(ctx, "other").go_on(left - 1).tail().unwrap_err()),
        }
    }

    async fn tail_of_nonsense(&self, ctx: &mut ActorContext) -> Result<(), Error> {
        ctx.state().set("value", &-1)?;
        let keys_are_no_text = std::collections::BTreeMap::from([(vec![1], 1)]);
        ctx.actor("Counter", "other").call("add", &keys_are_no_text).tail()
    }

    async fn activation(&self, ctx: &mut ActorContext) -> Result<u64, Error> {
        Ok(ctx.activation())
    }

    #[kar(deactivate)]
    async fn rests(&self, ctx: &mut ActorContext) -> Result<(), Error> {
        Ok(ctx.state().set("asleep", &ctx.activation())?)
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
