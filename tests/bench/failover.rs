//! From `kill -9` of an owner in mid-call to the answer of the retry on another host; and what
//! callers of the other owner notice meanwhile (P8).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use kar_sdk::{ActorRef, Client, Kar, Root};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Node, NodeOptions, World, wait};
use serde::Serialize;
use tokio::sync::watch;

/// Longest failover that is waited for.
const LIMIT: Duration = Duration::from_secs(30);

/// How long the other owner's calls are watched before and after each kill.
const WATCH: Duration = Duration::from_millis(600);

/// Actors among which some of the other owner's are looked for.
const PROBES: u32 = 32;

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Failovers {
    /// Each failover's length, ms, ascending.
    pub(crate) ms: Vec<f64>,
    /// Calls to the other owner before the kills.
    pub(crate) before: Bystanders,
    /// The same from each kill until a while after the answer.
    pub(crate) after: Bystanders,
}

/// What callers of the other owner saw.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Bystanders {
    pub(crate) p99_us: f64,
    /// The slowest call, which is the longest pause: calls are made one after the other.
    pub(crate) max_us: f64,
}

impl Bystanders {
    fn of(latencies: &Histogram<u64>) -> Self {
        Self { p99_us: latencies.value_at_quantile(0.99) as f64, max_us: latencies.max() as f64 }
    }
}

/// Kills an owner so many times; what was found is there also if one of them fails.
pub(crate) async fn measure(count: u32, found: &mut Failovers) -> Result<()> {
    let world = World::new("failover");
    let front = world.bare("front").await;
    let client = Kar::builder().socket(&front.socket).connect().await?;
    let mut hosts = [host(&world, "a").await?, host(&world, "b").await?];
    let mut bystanders = [histogram()?, histogram()?];
    for round in 0..count {
        let id = format!("held-{round}");
        let length = once(&client, &mut hosts, &id, &mut bystanders).await;
        found.ms.push(length.with_context(|| format!("failover {} of {count}", round + 1))?);
        found.ms.sort_by(f64::total_cmp);
        [found.before, found.after] = bystanders.each_ref().map(Bystanders::of);
        for node in &mut hosts {
            if node.component_now().is_none() {
                node.ended(READY_LIMIT).await;
                let name = node.name.clone();
                *node = host(&world, &name).await?;
            }
        }
    }
    Ok(())
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}

/// Some actors that do not live in process `avoided`.
async fn others(client: &Client, avoided: u32) -> Result<Vec<ActorRef<Root>>> {
    let mut actors = Vec::new();
    for n in 0..PROBES {
        let actor = client.actor("Echo", format!("probe-{n}"));
        if actor.call::<u32>("process", &()).await? != avoided {
            actors.push(actor);
        }
    }
    anyhow::ensure!(!actors.is_empty(), "one host owns everything");
    Ok(actors)
}

/// Calls them one after the other, until told to end.
async fn bystand(
    actors: Vec<ActorRef<Root>>,
    end: watch::Receiver<bool>,
) -> Result<Histogram<u64>> {
    let mut latencies = histogram()?;
    for actor in actors.iter().cycle() {
        let start = Instant::now();
        actor.call::<u32>("process", &()).await?;
        latencies.saturating_record(u64::try_from(start.elapsed().as_micros())?);
        if *end.borrow() {
            break;
        }
    }
    Ok(latencies)
}

async fn host(world: &World, name: &str) -> Result<Node> {
    let own = std::env::current_exe()?.to_string_lossy().into_owned();
    let command = vec![own, "host".to_owned()];
    let node = world.start(NodeOptions { name: name.into(), command, ..Default::default() }).await;
    node.hosts("Echo").await;
    Ok(node)
}

async fn once(
    client: &Client,
    hosts: &mut [Node],
    id: &str,
    bystanders: &mut [Histogram<u64>; 2],
) -> Result<f64> {
    let actor = client.actor("Echo", id);
    let call = tokio::spawn({
        let actor = actor.clone();
        async move { actor.call::<u32>("hold", &()).await }
    });
    let holder = wait::until("the method to hold", LIMIT, async || {
        let state = actor.committed_state().await.ok()?;
        serde_json::from_slice::<u32>(&state.get("holder")?.data).ok()
    })
    .await;
    let owner = hosts.iter().find(|node| node.component_now() == Some(holder));
    let owner = owner.context("the holder is one of the hosts")?;
    let actors = others(client, holder).await?;
    let (end, ended) = watch::channel(false);
    let before = tokio::spawn(bystand(actors.clone(), ended));
    wait::moment(WATCH).await;
    end.send(true)?;
    bystanders[0].add(before.await??)?;
    let (end, ended) = watch::channel(false);
    let after = tokio::spawn(bystand(actors, ended));
    let start = Instant::now();
    owner.kill_sidecar();
    let answered = tokio::time::timeout(LIMIT, call).await.context("no answer")???;
    anyhow::ensure!(answered != holder, "the dead answered");
    let length = start.elapsed().as_secs_f64() * 1_000.0;
    wait::moment(WATCH).await;
    end.send(true)?;
    bystanders[1].add(after.await??)?;
    Ok(length)
}
