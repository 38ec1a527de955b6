//! Kills sidecars, components and the hub at random.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use super::hosts::{Hosts, hub_of, kill};
use super::rng::Rng;

/// Of a hundred kills, so many go to sidecars (their components die with them) and to components
/// alone; the rest to the hub.
const SIDECARS_PERCENT: u64 = 40;
const COMPONENTS_PERCENT: u64 = 45;

/// Processes killed.
#[derive(Debug, Default)]
pub(super) struct Kills {
    /// Sidecars, with their components.
    pub(super) sidecars: Cell<u32>,
    /// Components alone.
    pub(super) components: Cell<u32>,
    /// Hubs.
    pub(super) hubs: Cell<u32>,
}

impl Kills {
    /// All together.
    pub(super) fn total(&self) -> u32 {
        self.sidecars.get() + self.components.get() + self.hubs.get()
    }
}

/// Kills `per_second` processes on average, for ever.
pub(super) async fn kill_at_random(
    hosts: &Hosts,
    host_count: usize,
    dir: &Path,
    kills: &Kills,
    per_second: f64,
    mut rng: Rng,
) {
    if per_second <= 0.0 {
        return std::future::pending().await;
    }
    loop {
        // Between half and one and a half of the mean, so that kills fall into recoveries too.
        sleep(Duration::from_secs_f64((0.5 + rng.fraction()) / per_second)).await;
        let index = usize::try_from(rng.below(host_count as u64)).unwrap_or(0);
        let (victim, count) = match rng.below(100) {
            0..SIDECARS_PERCENT => (hosts.sidecar(index), &kills.sidecars),
            SIDECARS_PERCENT.. if rng.below(100 - SIDECARS_PERCENT) < COMPONENTS_PERCENT => {
                (hosts.component(index), &kills.components)
            }
            _ => (hub_of(dir), &kills.hubs),
        };
        // One that is just being started again cannot be killed; the next one can.
        if victim.is_some_and(kill) {
            count.set(count.get() + 1);
        }
    }
}
