//! What is called: an echo, as a service and as an actor; and a method that only a second attempt ends.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use kar_sdk::{ActorContext, Error, Event, Host, NewEvent, Payload, ServiceContext};

/// Topic of events that are delivered.
pub(crate) const QUESTIONS: &str = "bench.questions";
/// Topic of events that come back.
pub(crate) const ANSWERS: &str = "bench.answers";
/// Topic of events that are only counted.
pub(crate) const STREAM: &str = "bench.stream";
/// Attribute of questions and answers: whose they are.
pub(crate) const BACK: &str = "back";

/// Events that actors of this process have noted.
static NOTED: AtomicU64 = AtomicU64::new(0);

struct Bench;

#[kar_sdk::service(name = "bench")]
impl Bench {
    /// Returns what it is given.
    async fn echo(&self, _ctx: &mut ServiceContext, payload: Payload) -> Result<Payload, Error> {
        Ok(payload)
    }

    /// How many events actors of this process have noted.
    async fn noted(&self, _ctx: &mut ServiceContext) -> Result<u64, Error> {
        Ok(NOTED.load(Ordering::Relaxed))
    }
}

struct Echo;

#[kar_sdk::actor(name = "Echo")]
impl Echo {
    /// Returns what it is given.
    async fn echo(&self, _ctx: &mut ActorContext, payload: Payload) -> Result<Payload, Error> {
        Ok(payload)
    }

    /// Publishes what an event brings.
    async fn publish(&self, ctx: &mut ActorContext, event: Event<Payload>) -> Result<(), Error> {
        let back = event.attributes.get(BACK).cloned().unwrap_or_default();
        let answer = NewEvent::new("bench.answer", &event.data).attribute(BACK, back);
        ctx.topic(ANSWERS).publish(answer).await?;
        Ok(())
    }

    /// Counts an event.
    async fn note(&self, _ctx: &mut ActorContext, _event: Event<Payload>) -> Result<(), Error> {
        NOTED.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// In which process it runs.
    async fn process(&self, _ctx: &mut ActorContext) -> Result<u32, Error> {
        Ok(std::process::id())
    }

    /// The first attempt never ends; the next one says in which process it runs.
    async fn hold(&self, ctx: &mut ActorContext) -> Result<u32, Error> {
        if ctx.attempt() == 1 {
            // Tells the judge that this process is the one to kill.
            ctx.state().set("holder", &std::process::id())?;
            ctx.flush().await?;
            std::future::pending::<()>().await;
        }
        Ok(std::process::id())
    }
}

/// Hosts until the sidecar ends.
pub(crate) async fn run(strict: bool) -> Result<()> {
    let host = Host::builder().service(Bench).actor(Echo).strict(strict);
    Ok(host.serve().await?)
}
