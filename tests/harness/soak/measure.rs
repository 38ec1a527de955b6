//! Memory and disk over time, and whether they grow.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::{World, process};

/// Flat is what needs, in the mean of a run's last third, no more than so much more than in that of its second third,
/// percent …
const GROWTH_MAX_PERCENT: u64 = 10;
/// … and so much for what an allocator keeps, KiB …
const GROWTH_MEMORY_KIB: u64 = 8 << 10;
/// … or for two files of the hub's log, one that is being written and one that is being compacted, KiB.
const GROWTH_DISK_KIB: u64 = 64 << 10;

/// What is kept for a time gathers at first. From the second third of a run on nothing more may: so the first one is at
/// least so many times as long as anything is kept.
const RETENTIONS: u32 = 2;

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
    /// Mean of the second third, KiB.
    pub second_kib: u64,
    /// Mean of the last third, KiB.
    pub last_kib: u64,
    /// What that may be, KiB.
    pub allowed_kib: u64,
    /// What it means.
    pub verdict: Verdict,
}

/// Whether something grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Verdict {
    /// It does not.
    Flat,
    /// It does.
    Grows,
    /// The run was too short to tell: what is kept for a time still gathered.
    TooShort,
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
        let verdict = match self.verdict {
            Verdict::Flat => "flat",
            Verdict::Grows => "GROWS",
            Verdict::TooShort => "too short a run to tell",
        };
        let (name, second, last) = (self.name, mib(self.second_kib), mib(self.last_kib));
        let allowed = mib(self.allowed_kib);
        write!(
            f,
            "{name:24} {second:8.1} MiB in the second third, {last:8.1} in the last \
             (at most {allowed:.1}): {verdict}"
        )
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

/// Compares the second third of a run with the last one. Nothing can be said of less than six samples.
pub(super) fn trends(samples: &[Sample], retention: Duration) -> Vec<Trend> {
    let third = samples.len() / 3;
    if third < 2 {
        return Vec::new();
    }
    let (second, last) = (&samples[third..2 * third], &samples[samples.len() - third..]);
    let is_settled = second[0].second >= (retention * RETENTIONS).as_secs_f64();
    let trend = |name, of: fn(&Sample) -> u64, more: u64| {
        let mean = |some: &[Sample]| some.iter().map(of).sum::<u64>() / some.len() as u64;
        let (second_kib, last_kib) = (mean(second), mean(last));
        let allowed_kib = second_kib + second_kib * GROWTH_MAX_PERCENT / 100 + more;
        let verdict = match last_kib <= allowed_kib {
            _ if !is_settled => Verdict::TooShort,
            true => Verdict::Flat,
            false => Verdict::Grows,
        };
        Trend { name, second_kib, last_kib, allowed_kib, verdict }
    };
    vec![
        trend("RSS, clients' sidecar", |s| s.front_kib, GROWTH_MEMORY_KIB),
        trend("RSS, largest host", |s| s.host_kib, GROWTH_MEMORY_KIB),
        trend("RSS, hub", |s| s.hub_kib, GROWTH_MEMORY_KIB),
        trend("disk, all of the hub's", |s| s.disk_kib, GROWTH_DISK_KIB),
        trend("disk, the hub's log", |s| s.log_kib, GROWTH_DISK_KIB),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETENTION: Duration = Duration::from_secs(60);

    /// Samples each ten seconds.
    fn samples(front: &[u64]) -> Vec<Sample> {
        let sample = |(number, front_kib): (usize, &u64)| Sample {
            second: number as f64 * 10.0,
            front_kib: *front_kib,
            host_kib: 1,
            hub_kib: 1,
            disk_kib: 1,
            log_kib: 1,
            finished: 0,
        };
        front.iter().enumerate().map(sample).collect()
    }

    fn verdict(front: &[u64]) -> Verdict {
        let trends = trends(&samples(front), RETENTION);
        assert!(trends[1..].iter().all(|trend| trend.verdict != Verdict::Grows));
        trends[0].verdict
    }

    #[test]
    fn growth_is_told_from_noise_and_from_what_gathers_at_first() {
        let gathers = (0..12).map(|n| 5_000 * n);
        let noise = (0..48).map(|n| if n % 4 == 0 { 70_000 } else { 55_000 });
        assert_eq!(verdict(&gathers.chain(noise).collect::<Vec<_>>()), Verdict::Flat);
        // 1 MiB in each ten seconds, of 40: 20 MiB between the middles of the two thirds.
        let growth: Vec<u64> = (0..60).map(|n| 40_000 + 1_000 * n).collect();
        assert_eq!(verdict(&growth), Verdict::Grows);
        assert_eq!(verdict(&growth[..30]), Verdict::TooShort);
        assert!(trends(&samples(&[1; 5]), RETENTION).is_empty());
    }

    #[test]
    fn disks_may_hold_two_files_more() {
        let mut samples = samples(&[1; 60]);
        for sample in &mut samples[40..] {
            sample.log_kib += 60 << 10;
            sample.disk_kib += 70 << 10;
        }
        let trends = trends(&samples, RETENTION);
        assert_eq!((trends[3].verdict, trends[4].verdict), (Verdict::Grows, Verdict::Flat));
    }
}
