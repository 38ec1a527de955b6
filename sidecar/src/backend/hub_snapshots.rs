//! Snapshots of partitions in the hub: blobs whose keys begin with the partition.
//!
//! They are encoded, decoded and checked on a thread of their own: a large one would hold up everything that the
//! sidecar does.

use std::sync::Arc;

use kar_core::Event;
use kar_core::ids::PartitionId;
use kar_core::snapshot::{Snapshot, SnapshotFault, SnapshotKey, SnapshotProof};
use kar_hub::{HubClient, HubError};

use crate::convert::snapshot::{decode_snapshot, encode_snapshot};

/// What is asked for.
pub(super) enum Request {
    Put(SnapshotKey, Arc<Snapshot>),
    Get(SnapshotKey),
    Delete(SnapshotKey),
    List,
}

/// What a get comes to.
type Got = Result<Option<(Box<Snapshot>, SnapshotProof)>, SnapshotFault>;

/// Carries out a request, however long it takes, and says what became of it.
pub(super) async fn carry_out(
    client: &HubClient,
    partition: PartitionId,
    request: Request,
) -> Event {
    // No name of a partition begins with another one and this.
    let prefix = format!("{partition}/");
    match request {
        Request::Put(key, snapshot) => {
            let result = put(client, &format!("{prefix}{key}"), snapshot).await;
            Event::SnapshotPut { partition, key, result }
        }
        Request::Get(key) => {
            let result = get(client, &format!("{prefix}{key}")).await;
            Event::SnapshotGot { partition, key, result }
        }
        Request::Delete(key) => {
            let result = client.delete_snapshot(&format!("{prefix}{key}")).await;
            Event::SnapshotDeleted { partition, key, result: result.map(drop).map_err(fault) }
        }
        Request::List => {
            let result = list(client, &prefix).await;
            Event::SnapshotsListed { partition, result: result.map_err(fault) }
        }
    }
}

async fn put(
    client: &HubClient,
    key: &str,
    snapshot: Arc<Snapshot>,
) -> Result<SnapshotProof, SnapshotFault> {
    let encode = move || {
        let data = encode_snapshot(&snapshot);
        let proof = proof_of(&data);
        (data, proof)
    };
    let (data, proof) = aside(encode).await?;
    client.put_snapshot(key, data).await.map_err(fault)?;
    Ok(proof)
}

async fn get(client: &HubClient, key: &str) -> Got {
    let Some(data) = client.get_snapshot(key).await.map_err(fault)? else { return Ok(None) };
    aside(move || {
        let proof = proof_of(&data);
        let snapshot = decode_snapshot(data);
        let snapshot = snapshot.map_err(|error| SnapshotFault::Damaged(error.to_string().into()))?;
        Ok(Some((Box::new(snapshot), proof)))
    })
    .await?
}

fn proof_of(data: &[u8]) -> SnapshotProof {
    SnapshotProof { bytes: data.len() as u64, checksum: crc32c::crc32c(data) }
}

/// Does something that takes long elsewhere.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SnapshotFault> {
    let done = tokio::task::spawn_blocking(work).await;
    // It panics or is cancelled only when the process ends.
    done.map_err(|error| SnapshotFault::Unavailable(error.to_string().into()))
}

async fn list(client: &HubClient, prefix: &str) -> Result<Vec<SnapshotKey>, HubError> {
    let mut keys = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = client.list_snapshots(prefix, after.as_deref()).await?;
        for info in &page.snapshots {
            match info.key.strip_prefix(prefix).unwrap_or_default().parse() {
                Ok(key) => keys.push(key),
                Err(error) => tracing::warn!(key = info.key, %error, "a snapshot of nobody"),
            }
        }
        after = page.next_after;
        if after.is_none() {
            return Ok(keys);
        }
    }
}

fn fault(error: HubError) -> SnapshotFault {
    let text = error.to_string().into();
    match error {
        HubError::SnapshotExists(_) | HubError::SnapshotLimit(_) | HubError::Invalid(_) => {
            SnapshotFault::Refused(text)
        }
        HubError::SnapshotDamaged(_) => SnapshotFault::Damaged(text),
        _ => SnapshotFault::Unavailable(text),
    }
}
