//! Snapshots of partitions in the hub: blobs whose keys begin with the partition.

use bytes::Bytes;
use kar_core::ids::PartitionId;
use kar_hub::{HubClient, HubError};

use crate::driver::outlets::{SnapshotError, SnapshotKey, Told};

/// What is asked for.
pub(super) enum Request {
    Put(SnapshotKey, Bytes),
    Get(SnapshotKey),
    Delete(SnapshotKey),
    List,
}

/// Carries out a request, however long it takes, and says what became of it.
pub(super) async fn carry_out(
    client: &HubClient,
    partition: PartitionId,
    request: Request,
) -> Told {
    // No name of a partition begins with another one and this.
    let prefix = format!("{partition}/");
    match request {
        Request::Put(key, data) => {
            let result = client.put_snapshot(&format!("{prefix}{key}"), data).await;
            Told::SnapshotPut { partition, key, result: result.map_err(error) }
        }
        Request::Get(key) => {
            let result = client.get_snapshot(&format!("{prefix}{key}")).await;
            Told::SnapshotGot { partition, key, result: result.map_err(error) }
        }
        Request::Delete(key) => {
            let result = client.delete_snapshot(&format!("{prefix}{key}")).await;
            Told::SnapshotDeleted { partition, key, result: result.map_err(error) }
        }
        Request::List => {
            let result = list(client, &prefix).await;
            Told::SnapshotsListed { partition, result: result.map_err(error) }
        }
    }
}

async fn list(client: &HubClient, prefix: &str) -> Result<Vec<SnapshotKey>, HubError> {
    let mut keys = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = client.list_snapshots(prefix, after.as_deref()).await?;
        let found = page.snapshots.iter().filter_map(|info| info.key.strip_prefix(prefix));
        keys.extend(found.map(SnapshotKey::from));
        after = page.next_after;
        if after.is_none() {
            return Ok(keys);
        }
    }
}

fn error(error: HubError) -> SnapshotError {
    let text = error.to_string();
    match error {
        HubError::SnapshotExists(_) => SnapshotError::Exists(text),
        HubError::SnapshotLimit(_) | HubError::Invalid(_) => SnapshotError::Limit(text),
        HubError::SnapshotDamaged(_) => SnapshotError::Damaged(text),
        _ => SnapshotError::Unavailable(text),
    }
}
