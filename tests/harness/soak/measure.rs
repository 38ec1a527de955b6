//! Memory and disk over time, and whether they grow.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::{World, process};

/// The last third of a run may need so much more than the first one and still count as flat, percent; and so much
/// anyway, KiB: a segment of the hub's log, caches that fill.
const GROWTH_MAX_PERCENT: u64 = 25;
const GROWTH_KIB: u64 = 4 << 10;

/// What processes and files need at one moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// Since the beginning, seconds.
    pub second: f64,
    /// Resident memory of the clients' sidecar, which nobody kills, KiB.
    pub front_kib: u64,
    /// Resident memory of the largest of the hosts' sidecars, KiB.
    pub host_kib: u64,
    /// Resident memory of the hub, KiB.
    pub hub_kib: u64,
    /// Files of the hub, KiB.
    pub disk_kib: u64,
    /// Those of its log among them, KiB.
    pub log_kib: u64,
    /// What the load has finished so far.
    pub finished: u64,
}

/// How one of them went.
#[derive(Clone, Debug, Serialize)]
pub struct Trend {
    /// What.
    pub name: &'static str,
    /// Median of the first third, KiB.
    pub first_kib: u64,
    /// Median of the last third, KiB.
    pub last_kib: u64,
    /// It does not grow.
    pub flat: bool,
}

impl Sample {
    pub(super) async fn take(
        at: Duration,
        world: &World,
        front: u32,
        hosts: &[u32],
        finished: u64,
    ) -> Self {
        let resident = |pid: u32| process::resident_kib(pid).unwrap_or_default();
        let data = world.data_dir();
        Self {
            second: at.as_secs_f64(),
            front_kib: resident(front),
            host_kib: hosts.iter().map(|pid| resident(*pid)).max().unwrap_or_default(),
            hub_kib: resident(world.hub().await),
            disk_kib: size_kib(&data),
            log_kib: size_kib(&data.join("log")),
            finished,
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |kib: u64| kib as f64 / 1024.0;
        write!(
            f,
            "{:6.0} s  {:8} done  RSS MiB: front {:6.1}, hosts {:6.1}, hub {:6.1}  \
             disk MiB: {:7.1}, log {:7.1}",
            self.second,
            self.finished,
            mib(self.front_kib),
            mib(self.host_kib),
            mib(self.hub_kib),
            mib(self.disk_kib),
            mib(self.log_kib),
        )
    }
}

impl fmt::Display for Trend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |kib: u64| kib as f64 / 1024.0;
        let verdict = if self.flat { "flat" } else { "GROWS" };
        let (name, first, last) = (self.name, mib(self.first_kib), mib(self.last_kib));
        write!(f, "{name:24} {first:8.1} MiB in the first third, {last:8.1} in the last: {verdict}")
    }
}

/// What files of a folder take on the disk; files that are gone meanwhile count nothing.
fn size_kib(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut blocks = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(about) if about.is_dir() => blocks += 2 * size_kib(&entry.path()),
            Ok(about) => blocks += about.blocks(),
            Err(_) => {}
        }
    }
    // Blocks of 512 bytes, whatever the file system has.
    blocks / 2
}

/// Compares the first third of a run with the last one. Nothing can be said of less than six samples.
pub(super) fn trends(samples: &[Sample]) -> Vec<Trend> {
    let third = samples.len() / 3;
    if third < 2 {
        return Vec::new();
    }
    let trend = |name, of: fn(&Sample) -> u64| {
        let median = |some: &[Sample]| {
            let mut values: Vec<u64> = some.iter().map(of).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        let first_kib = median(&samples[..third]);
        let last_kib = median(&samples[samples.len() - third..]);
        let allowed = first_kib + first_kib * GROWTH_MAX_PERCENT / 100 + GROWTH_KIB;
        Trend { name, first_kib, last_kib, flat: last_kib <= allowed }
    };
    vec![
        trend("RSS, clients' sidecar", |s| s.front_kib),
        trend("RSS, largest host", |s| s.host_kib),
        trend("RSS, hub", |s| s.hub_kib),
        trend("disk, all of the hub's", |s| s.disk_kib),
        trend("disk, the hub's log", |s| s.log_kib),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(front_kib: u64) -> Sample {
        let (host_kib, hub_kib, disk_kib, log_kib) = (1, 1, 1, 1);
        Sample { second: 0.0, front_kib, host_kib, hub_kib, disk_kib, log_kib, finished: 0 }
    }

    #[test]
    fn growth_is_told_from_noise() {
        let noise = [40_000, 90_000, 41_000, 5_000, 42_000, 40_500, 10_000, 41_000, 43_000];
        let flat = |values: &[u64]| {
            trends(&values.iter().map(|kib| sample(*kib)).collect::<Vec<_>>())[0].flat
        };
        assert!(flat(&noise));
        let growth: Vec<u64> = (0..30).map(|n| 40_000 + 1_000 * n).collect();
        assert!(!flat(&growth));
        assert!(trends(&[sample(1); 5]).is_empty());
    }
}
