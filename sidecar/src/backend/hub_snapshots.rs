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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kar_hub::{ClientConfig, HubOptions, run_hub};

    use super::*;

    fn partition(name: &str) -> PartitionId {
        name.parse().expect("a partition")
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
        let data = Bytes::from_static(b"state");
        for (partition, key) in [(&one, "7"), (&one, "9"), (&ten, "7")] {
            let request = Request::Put(key.into(), data.clone());
            let told = carry_out(&client, partition.clone(), request).await;
            let (partition, key) = (partition.clone(), key.into());
            assert_eq!(told, Told::SnapshotPut { partition, key, result: Ok(()) });
        }
        let told = carry_out(&client, one.clone(), Request::List).await;
        let result = Ok(vec!["7".into(), "9".into()]);
        assert_eq!(told, Told::SnapshotsListed { partition: one.clone(), result });
        let told = carry_out(&client, one.clone(), Request::Delete("7".into())).await;
        let (partition, key) = (one.clone(), "7".into());
        assert_eq!(told, Told::SnapshotDeleted { partition, key, result: Ok(true) });
        for (partition, found) in [(&one, None), (&ten, Some(data))] {
            let told = carry_out(&client, partition.clone(), Request::Get("7".into())).await;
            let partition = partition.clone();
            assert_eq!(told, Told::SnapshotGot { partition, key: "7".into(), result: Ok(found) });
        }
        for (key, length, wanted) in [("9", 6, "Exists"), ("8", 101, "Limit")] {
            let request = Request::Put(key.into(), vec![0; length].into());
            let told = carry_out(&client, one.clone(), request).await;
            assert!(format!("{told:?}").contains(wanted), "{told:?}");
        }
        drop(client);
        hub.join().unwrap().unwrap();
    }
}
