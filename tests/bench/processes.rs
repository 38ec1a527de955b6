//! What processes use.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use hyper_util::rt::TokioIo;
use kar_proto::hub::v1::hub_service_client::HubServiceClient;
use kar_proto::hub::v1::{GetStatsRequest, GetStatsResponse};
use tonic::transport::Endpoint;

/// CPU time of some processes between two moments.
pub(crate) struct Meter<'a> {
    pids: &'a [(&'static str, u32)],
    before: BTreeMap<&'static str, u64>,
}

impl<'a> Meter<'a> {
    /// Begins.
    pub(crate) fn start(pids: &'a [(&'static str, u32)]) -> Result<Self> {
        Ok(Self { pids, before: read(pids)? })
    }

    /// CPU time used since the beginning, µs, by name.
    pub(crate) fn stop(self) -> Result<BTreeMap<&'static str, f64>> {
        let after = read(self.pids)?;
        let used = |(name, now): (&'static str, u64)| {
            (name, now.saturating_sub(self.before[name]) as f64 / 1_000.0)
        };
        Ok(after.into_iter().map(used).collect())
    }
}

fn read(pids: &[(&'static str, u32)]) -> Result<BTreeMap<&'static str, u64>> {
    pids.iter().map(|(name, pid)| Ok((*name, cpu_nanos(*pid).context(*name)?))).collect()
}

/// CPU time that all threads of a process have used, ns, from `schedstat`: clock ticks would be too coarse.
fn cpu_nanos(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let nanos = text.split(' ').next().context("schedstat has numbers")?;
        sum += nanos.parse::<u64>()?;
    }
    Ok(sum)
}

/// Processes that wanted to run in the last minute.
pub(crate) fn load_average() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().context("a number")?.parse()?)
}

/// What the hub counts.
pub(crate) async fn hub_stats(data_dir: &Path) -> Result<GetStatsResponse> {
    let socket = data_dir.join("hub.sock");
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .context("connect to the hub")?;
    Ok(HubServiceClient::new(channel).get_stats(GetStatsRequest {}).await?.into_inner())
}
