//! Snapshots, as a client puts and gets them: in parts, each of which is asked for again after a
//! replacement of the hub.

use bytes::{Bytes, BytesMut};
use kar_proto::hub::v1 as wire;
use wire::state_request::Request;
use wire::state_response::Response;

use super::{HubClient, unexpected};
use crate::error::HubError;
use crate::options::{PAGE_SIZE_MAX, SNAPSHOT_PART_BYTES_MAX};
use crate::types::{SnapshotInfo, SnapshotPage};

/// How often putting a snapshot is begun anew because the hub was replaced meanwhile.
const ATTEMPTS: usize = 8;

// === impl HubClient ===

impl HubClient {
    /// Stores an immutable blob under a key of the application (1 to
    /// [`NAME_BYTES_MAX`](crate::NAME_BYTES_MAX) bytes); returns when it is durable. The same blob
    /// under the same key may be put again.
    ///
    /// # Errors
    /// [`HubError::SnapshotExists`] if the key has another blob, [`HubError::SnapshotLimit`],
    /// [`HubError::SnapshotIo`], or [`HubError::Unavailable`] when no hub answered in time: then it
    /// may be stored, and putting it again is safe.
    pub async fn put_snapshot(&self, key: &str, data: Bytes) -> Result<(), HubError> {
        let checksum = crc32c::crc32c(&data);
        let mut attempt = 1;
        loop {
            match self.put_parts(key, &data, checksum).await {
                Err(HubError::SnapshotRestart(_)) if attempt < ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    async fn put_parts(&self, key: &str, data: &Bytes, checksum: u32) -> Result<(), HubError> {
        let mut position = 0;
        loop {
            let end = data.len().min(position + SNAPSHOT_PART_BYTES_MAX);
            let put = wire::PutSnapshot {
                key: key.to_owned(),
                length: data.len() as u64,
                checksum,
                position: position as u64,
                data: data.slice(position..end),
            };
            match self.request(Request::PutSnapshot(put)).await? {
                Response::SnapshotTaken(taken) if taken.complete => return Ok(()),
                Response::SnapshotTaken(_) if end < data.len() => position = end,
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Reads a snapshot; `None`: there is none under the key.
    ///
    /// # Errors
    /// [`HubError::SnapshotDamaged`] if it is not as it was written, [`HubError::SnapshotIo`], or
    /// [`HubError::Unavailable`].
    pub async fn get_snapshot(&self, key: &str) -> Result<Option<Bytes>, HubError> {
        let mut whole = BytesMut::new();
        loop {
            let position = whole.len() as u64;
            let get = wire::GetSnapshot { key: key.to_owned(), position };
            let part = match self.request(Request::GetSnapshot(get)).await? {
                Response::SnapshotPart(part) => part,
                other => return Err(unexpected(&other)),
            };
            // Deleted meanwhile, perhaps.
            if !part.found {
                return Ok(None);
            }
            whole.extend_from_slice(&part.data);
            let length = whole.len() as u64;
            if length < part.length && !part.data.is_empty() {
                continue;
            }
            if length != part.length || crc32c::crc32c(&whole) != part.checksum {
                let text = format!("the snapshot '{key}' does not have its checksum");
                return Err(HubError::SnapshotDamaged(text));
            }
            return Ok(Some(whole.freeze()));
        }
    }

    /// Deletes a snapshot; tells whether it existed, when that is durable.
    ///
    /// # Errors
    /// [`HubError::SnapshotIo`] or [`HubError::Unavailable`]; deleting again is safe.
    pub async fn delete_snapshot(&self, key: &str) -> Result<bool, HubError> {
        let delete = wire::DeleteSnapshot { key: key.to_owned() };
        match self.request(Request::DeleteSnapshot(delete)).await? {
            Response::SnapshotDeleted(deleted) => Ok(deleted.existed),
            other => Err(unexpected(&other)),
        }
    }

    /// Lists the snapshots whose keys start with `prefix`, in byte order, after the key `after` if
    /// one is given; at most [`PAGE_SIZE_MAX`].
    ///
    /// # Errors
    /// [`HubError::Unavailable`].
    pub async fn list_snapshots(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<SnapshotPage, HubError> {
        let list = wire::ListSnapshots {
            prefix: prefix.to_owned(),
            page_size: PAGE_SIZE_MAX,
            after: after.unwrap_or_default().to_owned(),
        };
        let list = match self.request(Request::ListSnapshots(list)).await? {
            Response::SnapshotList(list) => list,
            other => return Err(unexpected(&other)),
        };
        let info = |info: wire::SnapshotInfo| SnapshotInfo {
            key: info.key,
            length: info.length,
            checksum: info.checksum,
        };
        let snapshots: Vec<_> = list.snapshots.into_iter().map(info).collect();
        let next_after = snapshots.last().filter(|_| list.more).map(|last| last.key.clone());
        Ok(SnapshotPage { snapshots, next_after })
    }
}
