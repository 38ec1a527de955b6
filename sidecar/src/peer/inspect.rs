//! What every node of the application serves, for people and tools.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kar_core::ids::PartitionId;
use kar_proto::peer::v1 as pb;
use pb::peer_service_client::PeerServiceClient;
use tokio::time::Instant;
use tonic::Status;

use super::{PEER_MESSAGE_BYTES_MAX, serve};
use crate::convert::log::partition_from;
use crate::driver::Driver;
use crate::driver::outlets::NodeCard;
use crate::net::PeerAddress;

/// How long a node may take to tell what it serves.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long is waited for partitions that nobody serves just now, because they are changing hands …
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// … and how long between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What the nodes told.
#[derive(Debug, Default)]
pub struct Told {
    /// Of each node that answered, what it serves.
    pub views: Vec<(NodeCard, pb::InspectResponse)>,
    /// Nodes that did not answer, with what happened instead.
    pub silent: Vec<(NodeCard, String)>,
    /// Partitions that nobody told of.
    pub missing: Vec<PartitionId>,
}

/// Asks every member, again until every partition is served by somebody: what is in one that is changing hands would
/// seem not to be there. If that takes too long, what there is, and what is missing.
pub async fn settled(driver: &Arc<Driver>) -> Told {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let mut told = all(driver).await;
        told.missing = missing(driver, &told.views);
        let complete = told.silent.is_empty() && told.missing.is_empty();
        if complete || Instant::now() >= deadline {
            return told;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Partitions that are in no view.
fn missing(driver: &Driver, views: &[(NodeCard, pb::InspectResponse)]) -> Vec<PartitionId> {
    let served = views.iter().flat_map(|(_, view)| &view.partitions);
    let served: BTreeSet<PartitionId> =
        served.filter_map(|view| partition_from(view.partition.clone()).ok()).collect();
    let known = driver.kinds();
    let all = known
        .iter()
        .flat_map(|(kind, count)| (0..*count).map(|index| PartitionId::new(kind.clone(), index)));
    all.filter(|id| !served.contains(id)).collect()
}

/// Asks every member.
async fn all(driver: &Arc<Driver>) -> Told {
    let own = driver.incarnation();
    let directory = driver.directory();
    let ask = |card: NodeCard| async move {
        if Some(card.id) == own {
            return (card, Ok(serve::inspect(driver)));
        }
        if card.address.is_empty() {
            let what =
                "it has no peer plane; ask it by its own socket, or for invocations by their ids";
            return (card, Err(Status::unavailable(what)));
        }
        let view = tokio::time::timeout(INSPECT_TIMEOUT, one(&card.address)).await;
        let view = view.unwrap_or_else(|_| Err(Status::unavailable("no answer in time")));
        (card, view)
    };
    let mut told = Told::default();
    for (card, view) in join_all(directory.values().cloned().map(ask)).await {
        match view {
            Ok(view) => told.views.push((card, view)),
            Err(status) => told.silent.push((card, status.message().to_owned())),
        }
    }
    told
}

async fn one(address: &str) -> Result<pb::InspectResponse, Status> {
    let address: PeerAddress = address
        .parse()
        .map_err(|e: crate::net::PeerAddressError| Status::internal(e.to_string()))?;
    let channel = address.connect().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let mut client =
        PeerServiceClient::new(channel).max_decoding_message_size(PEER_MESSAGE_BYTES_MAX);
    Ok(client.inspect(pb::InspectRequest {}).await?.into_inner())
}
