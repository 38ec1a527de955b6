//! What every node of the application serves, for people and tools.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kar_proto::peer::v1 as pb;
use kar_proto::v1::ErrorReason;
use pb::peer_service_client::PeerServiceClient;
use tokio::time::Instant;
use tonic::Status;

use super::{PEER_MESSAGE_BYTES_MAX, serve};
use crate::convert::error::status;
use crate::driver::Driver;
use crate::driver::outlets::NodeCard;
use crate::net::PeerAddress;

/// How long a node may take to tell what it serves.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long is waited for partitions that nobody serves just now, because they are changing hands …
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// … and how long between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Asks every member, again until every partition is served by somebody: what is in one that is changing hands would
/// seem not to be there. If that takes too long, what there is.
///
/// # Errors
///
/// As [`all`].
pub async fn settled(driver: &Arc<Driver>) -> Result<Vec<(NodeCard, pb::InspectResponse)>, Status> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let views = all(driver).await?;
        let served: usize = views.iter().map(|(_, view)| view.partitions.len()).sum();
        if served >= driver.partitions_known() || Instant::now() >= deadline {
            return Ok(views);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Asks every member.
///
/// # Errors
///
/// The first member's that did not answer: a listing that leaves out a node would be taken for complete.
pub async fn all(driver: &Arc<Driver>) -> Result<Vec<(NodeCard, pb::InspectResponse)>, Status> {
    let own = driver.incarnation();
    let directory = driver.directory();
    let ask = |card: NodeCard| async move {
        if Some(card.id) == own {
            return Ok((card, serve::inspect(driver)));
        }
        if card.address.is_empty() {
            let what = format!(
                "node {} has no peer plane, so it cannot be asked what it serves: ask it by its own socket, or \
                 for single invocations by their ids",
                card.name
            );
            return Err(status(ErrorReason::NotImplemented, what, []));
        }
        let view = tokio::time::timeout(INSPECT_TIMEOUT, one(&card.address)).await;
        let view = view.unwrap_or_else(|_| Err(Status::unavailable("no answer in time")));
        match view {
            Ok(view) => Ok((card, view)),
            Err(found) => {
                let what = found.message();
                let what = format!("node {} did not tell what it serves ({what})", card.name);
                Err(status(ErrorReason::BackendUnavailable, what + "; try again", []))
            }
        }
    };
    join_all(directory.values().cloned().map(ask)).await.into_iter().collect()
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
