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

impl Request {
    /// Nobody waits for it.
    pub(super) fn saves(&self) -> bool {
        matches!(self, Self::Put(..) | Self::Delete(_))
    }
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
        let snapshot = decode_snapshot(&data);
        let snapshot =
            snapshot.map_err(|error| SnapshotFault::Damaged(error.to_string().into()))?;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kar_hub::{ClientConfig, HubOptions, run_hub};
    use kar_proto::log::v1 as pb;
    use prost::Message as _;

    use super::*;

    fn partition(name: &str) -> PartitionId {
        name.parse().expect("a partition")
    }

    fn snapshot(partition: &PartitionId, offset: u64) -> Arc<Snapshot> {
        let partition = Some(crate::convert::log::partition_to(partition));
        let log = vec![7; 16].into();
        let stored = pb::Snapshot { version: 1, partition, offset, log, ..Default::default() };
        Arc::new(decode_snapshot(&stored.encode_to_vec()).expect("a snapshot"))
    }

    fn key(position: u64) -> SnapshotKey {
        SnapshotKey { position, epoch: 3 }
    }

    #[tokio::test]
    async fn snapshots_belong_to_their_partition() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = HubOptions::new(dir.path());
        options.idle_exit = Some(Duration::from_millis(50));
        options.limits.snapshot_bytes_max = 100;
        let hub = std::thread::spawn(move || run_hub(options));
        let config = ClientConfig::new(dir.path(), "app", "node");
        let client = HubClient::connect(config, |_| ()).await.unwrap();
        let (one, ten) = (partition("a.Account/1"), partition("a.Account/10"));
        let ask = async |of: &PartitionId, request| carry_out(&client, of.clone(), request).await;
        let mut proofs = Vec::new();
        for (of, at) in [(&one, 7), (&one, 9), (&ten, 7)] {
            match ask(of, Request::Put(key(at), snapshot(of, at))).await {
                Event::SnapshotPut { result: Ok(proof), .. } => proofs.push(proof),
                other => panic!("{other:?}"),
            }
        }
        // What is no key of ours is nobody's.
        client.put_snapshot("a.Account/1/mine", "x".into()).await.unwrap();
        let result = Ok(vec![key(7), key(9)]);
        let listed = Event::SnapshotsListed { partition: one.clone(), result };
        assert_eq!(ask(&one, Request::List).await, listed);
        let deleted =
            Event::SnapshotDeleted { partition: one.clone(), key: key(7), result: Ok(()) };
        assert_eq!(ask(&one, Request::Delete(key(7))).await, deleted);
        let found = (Box::new((*snapshot(&ten, 7)).clone()), proofs[2]);
        for (of, found) in [(&one, None), (&ten, Some(found))] {
            let result = Ok(found);
            let got = Event::SnapshotGot { partition: of.clone(), key: key(7), result };
            assert_eq!(ask(of, Request::Get(key(7))).await, got);
        }
        // Another one under the key is refused, and so is what is too long; what is no snapshot is damaged.
        let other = ask(&one, Request::Put(key(9), snapshot(&one, 8))).await;
        let refused = |event: &Event| {
            matches!(event, Event::SnapshotPut { result: Err(SnapshotFault::Refused(_)), .. })
        };
        assert!(refused(&other), "{other:?}");
        let long = partition(&format!("a.{}/1", "x".repeat(100)));
        let too_long = ask(&one, Request::Put(key(10), snapshot(&long, 10))).await;
        assert!(refused(&too_long), "{too_long:?}");
        client.put_snapshot(&format!("{one}/{}", key(11)), "x".into()).await.unwrap();
        let damaged = ask(&one, Request::Get(key(11))).await;
        let is_damaged =
            matches!(&damaged, Event::SnapshotGot { result: Err(SnapshotFault::Damaged(_)), .. });
        assert!(is_damaged, "{damaged:?}");
        drop(client);
        hub.join().unwrap().unwrap();
    }
}
