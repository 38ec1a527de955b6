//! What every node of the application serves, for people and tools.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kar_core::effect::Response;
use kar_core::event::Operation;
use kar_core::ids::{NodeId, PartitionId};
use kar_proto::peer::v1 as pb;
use pb::peer_service_client::PeerServiceClient;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::Status;

use super::{PEER_MESSAGE_BYTES_MAX, serve};
use crate::convert::error::request_error;
use crate::convert::log::partition_from;
use crate::convert::view::view_from;
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
        let is_apart = card.address.is_empty() || !driver.has_peers();
        let view = async {
            if is_apart { by_inbox(driver, card.id).await } else { one(&card.address).await }
        };
        let view = tokio::time::timeout(INSPECT_TIMEOUT, view).await;
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

/// Asks a node that peers do not reach.
async fn by_inbox(driver: &Arc<Driver>, node: NodeId) -> Result<pb::InspectResponse, Status> {
    let (sender, receiver) = oneshot::channel();
    // If nobody waits any more the answer is dropped; the core waits for it no longer than this does.
    let done = Box::new(move |answer| drop(sender.send(answer)));
    driver.batch().request(Operation::ViewOf { node }, done);
    match receiver.await {
        Ok(Ok(Response::View(view))) => {
            view_from(&view).map_err(|error| Status::internal(error.to_string()))
        }
        Ok(Ok(_)) => Err(Status::internal("the answer does not fit the request")),
        Ok(Err(error)) => Err(request_error(&error)),
        Err(_) => Err(Status::unavailable("the sidecar ended")),
    }
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
