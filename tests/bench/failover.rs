//! From `kill -9` of an owner in mid-call to the answer of the retry on another host.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kar_sdk::{Client, Kar};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Node, NodeOptions, World, wait};

/// Longest failover that is waited for.
const LIMIT: Duration = Duration::from_secs(30);

/// Each failover's length, ms, ascending.
pub(crate) async fn measure(count: u32) -> Result<Vec<f64>> {
    let world = World::new("failover");
    let front = world.bare("front").await;
    let client = Kar::builder().socket(&front.socket).connect().await?;
    let mut hosts = [host(&world, "a").await?, host(&world, "b").await?];
    let mut lengths = Vec::new();
    for round in 0..count {
        lengths.push(once(&client, &mut hosts, &format!("held-{round}")).await?);
        for node in &mut hosts {
            if node.component_now().is_none() {
                node.ended(READY_LIMIT).await;
                let name = node.name.clone();
                *node = host(&world, &name).await?;
            }
        }
    }
    lengths.sort_by(f64::total_cmp);
    Ok(lengths)
}

async fn host(world: &World, name: &str) -> Result<Node> {
    let own = std::env::current_exe()?.to_string_lossy().into_owned();
    let command = vec![own, "host".to_owned()];
    let node = world.start(NodeOptions { name: name.into(), command, ..Default::default() }).await;
    node.hosts("Echo").await;
    Ok(node)
}

async fn once(client: &Client, hosts: &mut [Node], id: &str) -> Result<f64> {
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
    let start = Instant::now();
    owner.kill_sidecar();
    let answered = tokio::time::timeout(LIMIT, call).await.context("no answer")???;
    anyhow::ensure!(answered != holder, "the dead answered");
    Ok(start.elapsed().as_secs_f64() * 1_000.0)
}
