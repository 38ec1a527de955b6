//! The physical limits of this machine in this run.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, wait};
use serde::Serialize;
use tokio::process::{Child, Command};

use crate::echo;
use crate::load::PAYLOAD_BYTES;

/// Size of the file that records are written to, pre-zeroed, as the hub does it.
const FILE_BYTES: u64 = 16 << 20;

/// What nothing built on these parts can beat.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Limits {
    /// One stream round trip, median, µs.
    pub(crate) echo_us: f64,
    /// One round trip through two relays to a third process, median, µs: the way of a direct call.
    pub(crate) chain_us: f64,
    /// Round trips per second with 64 under way.
    pub(crate) echo_per_second: f64,
    /// The same through two relays to a third process.
    pub(crate) chain_per_second: f64,
    /// One write of 1 KiB and `fdatasync`, median, µs.
    pub(crate) append_us: f64,
    /// The same, 99th percentile, µs.
    pub(crate) append_p99_us: f64,
}

/// The limits where the promises were made (`BASELINES.md`, the skeleton's session; where it has a range, its slow
/// end).
mod reference {
    /// One stream round trip, µs.
    pub(super) const ECHO_US: f64 = 50.0;
    /// Round trips per second with 64 under way.
    pub(super) const ECHO_PER_SECOND: f64 = 370_000.0;
    /// One write of 1 KiB and `fdatasync`, µs.
    pub(super) const APPEND_US: f64 = 100.0;
    /// Three stream round trips and an append through the hub, µs: the promise of 450 µs is 1.5 times this.
    pub(super) const DURABLE_US: f64 = 300.0;
}

impl Limits {
    /// How many times slower one call after the other is here than where the promises were made; at least 1.
    pub(crate) fn slower_alone(self) -> f64 {
        (self.durable_us() / reference::DURABLE_US).max(1.0)
    }

    /// How many times slower many calls are here than where the promises were made, whose throughput and CPU are one
    /// figure on two busy cores; at least 1.
    pub(crate) fn slower_together(self, one_by_one: bool) -> f64 {
        let there = match one_by_one {
            true => 1e6 / (2.0 * reference::ECHO_US + reference::APPEND_US) / self.per_second(true),
            false => reference::ECHO_PER_SECOND / self.echo_per_second.max(f64::MIN_POSITIVE),
        };
        there.max(1.0)
    }

    /// Three stream round trips in a chain: client → sidecar → sidecar → app and back. Three times
    /// [`Self::echo_us`] would be too little: two processes alone share a core and its cache, four
    /// have to wake each other across cores.
    pub(crate) fn direct_us(self) -> f64 {
        self.chain_us
    }

    /// What many clients can get at once, calls per second: the chain of a direct call, since appends are shared. Where
    /// one turn has to be committed before the next begins, that is a round trip to the component, one to the hub
    /// and an append.
    pub(crate) fn per_second(self, one_by_one: bool) -> f64 {
        match one_by_one {
            true => 1e6 / (2.0 * self.echo_us + self.append_us).max(f64::MIN_POSITIVE),
            false => self.chain_per_second,
        }
    }

    /// Three stream round trips and an append through the hub, which is one more round trip and one write.
    pub(crate) fn durable_us(self) -> f64 {
        self.direct_us() + self.echo_us + self.append_us
    }

    /// An event to an actor whose event comes back: four things that are durable one after the other (the event, that
    /// it is accepted, the end of its turn, the event that this publishes), and the chain to the component and back.
    pub(crate) fn event_us(self) -> f64 {
        self.direct_us() + 4.0 * (self.echo_us + self.append_us)
    }
}

/// Measures all of them.
pub(crate) async fn measure(folder: &Path, seconds: f64) -> Result<Limits> {
    let length = Duration::from_secs_f64(seconds);
    let [socket, relay, front] = ["echo", "relay", "front"].map(|name| folder.join(name));
    let mut server = echo_process(&socket, None).await?;
    let (echo_us, _) = echo::measure(&socket, 1, length).await?;
    let (_, echo_per_second) = echo::measure(&socket, 64, length).await?;
    let mut relays =
        [echo_process(&relay, Some(&socket)).await?, echo_process(&front, Some(&relay)).await?];
    let (chain_us, _) = echo::measure(&front, 1, length).await?;
    let (_, chain_per_second) = echo::measure(&front, 64, length).await?;
    for relay in &mut relays {
        relay.kill().await?;
    }
    server.kill().await?;
    let (append_us, append_p99_us) = append(&folder.join("append"), length)?;
    Ok(Limits { echo_us, chain_us, echo_per_second, chain_per_second, append_us, append_p99_us })
}

/// An echo, or a relay to `next`, that listens.
async fn echo_process(socket: &Path, next: Option<&Path>) -> Result<Child> {
    let server = Command::from(kar_tests::process::command(std::env::current_exe()?))
        .arg("echo")
        .arg(socket)
        .args(next)
        .kill_on_drop(true)
        .spawn()
        .context("start the echo")?;
    wait::until_true("the echo to listen", READY_LIMIT, async || {
        Client::unix(socket).await.is_ok()
    })
    .await;
    Ok(server)
}

fn append(path: &Path, length: Duration) -> Result<(f64, f64)> {
    let file = OpenOptions::new().create_new(true).write(true).open(path)?;
    zero(&file)?;
    let (record, begin) = (vec![7_u8; PAYLOAD_BYTES], Instant::now());
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
    let mut at = 0;
    while begin.elapsed() < length {
        let start = Instant::now();
        file.write_all_at(&record, at)?;
        file.sync_data()?;
        histogram.saturating_record(u64::try_from(start.elapsed().as_micros())?);
        at = (at + PAYLOAD_BYTES as u64) % FILE_BYTES;
    }
    std::fs::remove_file(path)?;
    Ok((histogram.value_at_quantile(0.5) as f64, histogram.value_at_quantile(0.99) as f64))
}

fn zero(file: &File) -> Result<()> {
    let zeros = vec![0; 1 << 20];
    for at in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at)?;
    }
    Ok(file.sync_all()?)
}
