//! Snapshots: immutable blobs by key, each in a file of its own, on a thread of its own.
//!
//! They are files, not rows of the store: a blob of many megabytes would be written twice there
//! (log and pages), would hold up the actors' steps meanwhile, and would leave a file that never
//! shrinks. A file says itself what it is, so there is no catalogue on disk that could disagree
//! with it; the one in memory is read from the files at the start.

mod file;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use kar_proto::hub::v1 as wire;
use wire::RefusedReason;
use wire::hub_frame::Frame;
use wire::state_request::Request;
use wire::state_response::Response;

use crate::engine::{ConnId, Hub};
use crate::error::HubError;
use crate::options::{
    Durability, HubLimits, NAME_BYTES_MAX, PAGE_SIZE_MAX, SNAPSHOT_PART_BYTES_MAX,
};
use file::{Damage, Header, Upload};

/// Snapshots that are being put at the same time, all clients together.
const UPLOADS_MAX: usize = 64;

/// Something for the thread to do.
pub(crate) enum SnapshotJob {
    Request {
        conn: ConnId,
        number: u64,
        app: Arc<str>,
        request: SnapshotRequest,
    },
    /// A connection that has asked for something is gone.
    Gone(ConnId),
    /// Deletes all of an application.
    Purge {
        conn: ConnId,
        number: u64,
        app: Arc<str>,
    },
    /// Ends the thread.
    Stop,
}

/// What is asked for.
pub(crate) enum SnapshotRequest {
    Put(wire::PutSnapshot),
    Get(wire::GetSnapshot),
    Delete(wire::DeleteSnapshot),
    List(wire::ListSnapshots),
}

/// All snapshots of a hub.
pub(crate) struct Snapshots {
    dir: PathBuf,
    durability: Durability,
    bytes_max: u64,
    count_max: usize,
    stored: BTreeMap<(Arc<str>, String), Stored>,
    bytes: u64,
    uploads: HashMap<(ConnId, String), Upload>,
    next: u64,
}

/// A stored one.
#[derive(Clone, Copy)]
struct Stored {
    number: u64,
    length: u64,
    checksum: u32,
}

/// Why something was not done.
struct Refusal(RefusedReason, String);

// === impl SnapshotRequest ===

impl SnapshotRequest {
    /// The request, if it is about snapshots; else it is left where it is.
    pub(crate) fn take(asked: &mut Option<Request>) -> Option<Self> {
        Some(match asked.take()? {
            Request::PutSnapshot(put) => Self::Put(put),
            Request::GetSnapshot(get) => Self::Get(get),
            Request::DeleteSnapshot(delete) => Self::Delete(delete),
            Request::ListSnapshots(list) => Self::List(list),
            other => {
                *asked = Some(other);
                return None;
            }
        })
    }
}

// === impl Refusal ===

impl Refusal {
    fn io(error: &HubError) -> Self {
        Self(RefusedReason::SnapshotIo, error.to_string())
    }
}

// === impl Snapshots ===

impl Snapshots {
    /// Those of a directory, which is made if absent. What was being put is removed.
    pub(crate) fn open(
        dir: &Path,
        durability: Durability,
        limits: &HubLimits,
    ) -> Result<Self, HubError> {
        fs::create_dir_all(dir).map_err(|e| HubError::io("make", dir, e))?;
        let mut snapshots = Self {
            dir: dir.to_owned(),
            durability,
            bytes_max: limits.snapshot_bytes_max,
            count_max: limits.snapshots_max,
            stored: BTreeMap::new(),
            bytes: 0,
            uploads: HashMap::new(),
            next: 1,
        };
        let failed = |source| HubError::io("list", dir, source);
        for entry in fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|e| e == "new") {
                fs::remove_file(&path).map_err(|e| HubError::io("remove", &path, e))?;
            } else if let Some(number) = file::number(&path) {
                snapshots.next = snapshots.next.max(number + 1);
                snapshots.take(number, &path)?;
            }
        }
        Ok(snapshots)
    }

    fn take(&mut self, number: u64, path: &Path) -> Result<(), HubError> {
        match file::header(path)? {
            Ok(Header { application, key, length, checksum }) => {
                let app = self.app_name(&application);
                let stored = Stored { number, length, checksum };
                self.bytes += length;
                if let Some(twin) = self.stored.insert((app, key), stored) {
                    // Cannot come about; were it so, either is whole.
                    self.bytes -= twin.length;
                }
            }
            Err(Damage(what)) => {
                // Its key is not known. Whoever asks for it is told that there is none.
                tracing::error!(file = %path.display(), what, "a snapshot is damaged");
            }
        }
        Ok(())
    }

    fn app_name(&self, name: &str) -> Arc<str> {
        let same = self.stored.keys().map(|(app, _)| app).find(|app| app.as_ref() == name);
        same.cloned().unwrap_or_else(|| name.into())
    }

    /// The thread's loop.
    pub(crate) fn run(mut self, jobs: &Receiver<SnapshotJob>, hub: &Hub) {
        hub.with(|engine| engine.snapshots(self.stored.len() as u64, self.bytes));
        while let Ok(job) = jobs.recv() {
            match job {
                SnapshotJob::Stop => return,
                SnapshotJob::Gone(gone) => self.uploads.retain(|(conn, _), _| *conn != gone),
                SnapshotJob::Request { conn, number, app, request } => {
                    let (response, bytes) = self.answer(conn, &app, request);
                    let response = Some(response);
                    let frame = Frame::State(wire::StateResponse { number, response });
                    hub.with(|engine| {
                        engine.snapshots(self.stored.len() as u64, self.bytes);
                        engine.stored(conn, vec![(frame, bytes)]);
                    });
                }
                SnapshotJob::Purge { conn, number, app } => {
                    if let Err(error) = self.purge(&app) {
                        hub.with(|engine| engine.fail(error));
                        return;
                    }
                    hub.with(|engine| {
                        engine.snapshots(self.stored.len() as u64, self.bytes);
                        engine.snapshots_purged(conn, number, &app);
                    });
                }
            }
        }
    }

    /// Answers a request; returns the answer's size, too.
    fn answer(
        &mut self,
        conn: ConnId,
        app: &Arc<str>,
        request: SnapshotRequest,
    ) -> (Response, usize) {
        let answered = match request {
            SnapshotRequest::Put(put) => {
                let key = put.key.clone();
                let put = self.put(conn, app, put);
                if !matches!(put, Ok(false)) {
                    self.uploads.remove(&(conn, key));
                }
                put.map(|complete| (Response::SnapshotTaken(wire::SnapshotTaken { complete }), 0))
            }
            SnapshotRequest::Get(get) => self.get(app, get).map(|part| {
                let bytes = part.data.len();
                (Response::SnapshotPart(part), bytes)
            }),
            SnapshotRequest::Delete(delete) => self
                .delete(app, delete.key)
                .map(|existed| (Response::SnapshotDeleted(wire::SnapshotDeleted { existed }), 0)),
            SnapshotRequest::List(list) => {
                let list = self.list(app, &list);
                let bytes = prost::Message::encoded_len(&list);
                Ok((Response::SnapshotList(list), bytes))
            }
        };
        answered.unwrap_or_else(|Refusal(reason, message)| {
            (
                Response::Refused(wire::Refused {
                    reason: reason.into(),
                    message,
                    ..Default::default()
                }),
                0,
            )
        })
    }

    /// Takes a part; true: the whole is durable.
    fn put(
        &mut self,
        conn: ConnId,
        app: &Arc<str>,
        put: wire::PutSnapshot,
    ) -> Result<bool, Refusal> {
        self.check(&put)?;
        if let Some(stored) = self.stored.get(&(Arc::clone(app), put.key.clone())) {
            if (stored.length, stored.checksum) == (put.length, put.checksum) {
                return Ok(true);
            }
            let text = format!("there is another snapshot '{}': choose another key", put.key);
            return Err(Refusal(RefusedReason::SnapshotExists, text));
        }
        let name = (conn, put.key.clone());
        if put.position == 0 {
            self.uploads.remove(&name);
            self.room()?;
            let header = Header {
                application: app.to_string(),
                key: put.key.clone(),
                length: put.length,
                checksum: put.checksum,
            };
            let number = self.next;
            self.next += 1;
            let upload = Upload::new(&self.dir, number, header, self.durability);
            self.uploads.insert(name.clone(), upload.map_err(|e| Refusal::io(&e))?);
        }
        let restart = |what: &str| Refusal(RefusedReason::SnapshotRestart, what.to_owned());
        let upload = self.uploads.get_mut(&name).ok_or_else(|| restart("no part came before"))?;
        if upload.position() != put.position || put.length != upload.header().length {
            return Err(restart("the part does not follow the one before"));
        }
        upload.write(&put.data).map_err(|e| Refusal::io(&e))?;
        if upload.position() < put.length {
            return Ok(false);
        }
        let upload = self.uploads.remove(&name).ok_or_else(|| restart("no part came before"))?;
        if !upload.is_sound() {
            return Err(restart("the whole does not have its checksum"));
        }
        let (number, length, checksum) = (upload.number(), put.length, put.checksum);
        upload.finish().map_err(|e| Refusal::io(&e))?;
        let stored = Stored { number, length, checksum };
        self.stored.insert((Arc::clone(app), put.key), stored);
        self.bytes += length;
        Ok(true)
    }

    fn check(&self, put: &wire::PutSnapshot) -> Result<(), Refusal> {
        let (key, data) = (put.key.len(), put.data.len());
        if key == 0 || key > NAME_BYTES_MAX {
            let text = format!("a snapshot's key has 1 to {NAME_BYTES_MAX} bytes, not {key}");
            return Err(Refusal(RefusedReason::Invalid, text));
        }
        if put.length > self.bytes_max {
            let text = format!(
                "a snapshot of {} bytes is longer than {} (kar hub --snapshot-bytes-max)",
                put.length, self.bytes_max
            );
            return Err(Refusal(RefusedReason::SnapshotLimit, text));
        }
        let end = put.position.checked_add(data as u64);
        if data > SNAPSHOT_PART_BYTES_MAX || end.is_none_or(|end| end > put.length) {
            let text = format!(
                "a part of a snapshot has at most {SNAPSHOT_PART_BYTES_MAX} bytes, and ends within \
                 the whole"
            );
            return Err(Refusal(RefusedReason::Invalid, text));
        }
        if data == 0 && put.length > 0 {
            return Err(Refusal(RefusedReason::Invalid, "an empty part of a snapshot".into()));
        }
        Ok(())
    }

    fn room(&self) -> Result<(), Refusal> {
        let text = if self.stored.len() >= self.count_max {
            format!("there are {} snapshots already (kar hub --snapshots-max)", self.count_max)
        } else if self.uploads.len() >= UPLOADS_MAX {
            format!("{UPLOADS_MAX} snapshots are being put already: try again")
        } else {
            return Ok(());
        };
        Err(Refusal(RefusedReason::SnapshotLimit, text))
    }

    fn get(&self, app: &Arc<str>, get: wire::GetSnapshot) -> Result<wire::SnapshotPart, Refusal> {
        let Some(stored) = self.stored.get(&(Arc::clone(app), get.key)) else {
            return Ok(wire::SnapshotPart::default());
        };
        let path = file::path(&self.dir, stored.number);
        let read = file::read(&path, stored.length, get.position, SNAPSHOT_PART_BYTES_MAX);
        match read.map_err(|e| Refusal::io(&e))? {
            Ok(data) => Ok(wire::SnapshotPart {
                found: true,
                length: stored.length,
                checksum: stored.checksum,
                data: data.into(),
            }),
            Err(Damage(what)) => {
                let text = format!("'{}' is damaged: {what}", path.display());
                Err(Refusal(RefusedReason::SnapshotDamaged, text))
            }
        }
    }

    fn delete(&mut self, app: &Arc<str>, key: String) -> Result<bool, Refusal> {
        let name = (Arc::clone(app), key);
        let Some(&stored) = self.stored.get(&name) else { return Ok(false) };
        file::delete(&self.dir, &[stored.number], self.durability).map_err(|e| Refusal::io(&e))?;
        self.stored.remove(&name);
        self.bytes -= stored.length;
        Ok(true)
    }

    fn purge(&mut self, app: &Arc<str>) -> Result<(), HubError> {
        self.uploads.retain(|_, upload| upload.header().application != app.as_ref());
        let names = (Arc::clone(app), String::new())..;
        let of_app: Vec<_> = self
            .stored
            .range(names)
            .take_while(|((of, _), _)| of == app)
            .map(|(name, stored)| (name.clone(), *stored))
            .collect();
        let numbers: Vec<_> = of_app.iter().map(|(_, stored)| stored.number).collect();
        file::delete(&self.dir, &numbers, self.durability)?;
        for (name, stored) in of_app {
            self.stored.remove(&name);
            self.bytes -= stored.length;
        }
        Ok(())
    }

    fn list(&self, app: &Arc<str>, list: &wire::ListSnapshots) -> wire::SnapshotList {
        let size = match list.page_size {
            0 => PAGE_SIZE_MAX,
            size => size.min(PAGE_SIZE_MAX),
        };
        let from = (Arc::clone(app), list.prefix.clone().max(list.after.clone()));
        let mut page = wire::SnapshotList::default();
        for ((of, key), stored) in self.stored.range(from..) {
            if of != app || !key.starts_with(&list.prefix) {
                break;
            }
            if !list.after.is_empty() && *key <= list.after {
                continue;
            }
            if page.snapshots.len() == size as usize {
                page.more = true;
                break;
            }
            let (key, length, checksum) = (key.clone(), stored.length, stored.checksum);
            page.snapshots.push(wire::SnapshotInfo { key, length, checksum });
        }
        page
    }
}
