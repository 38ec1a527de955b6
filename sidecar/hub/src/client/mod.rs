//! The client: what a sidecar uses of a hub.

mod convert;
mod link;
mod outbox;
mod requests;
mod snapshots;
mod start;
mod topics;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use kar_proto::hub::v1 as wire;
use kar_proto::hub::v1::client_frame::Frame;
use kar_proto::hub::v1::state_request::Request;
use kar_proto::hub::v1::state_response::Response;
use tokio::sync::oneshot;
use wire::RefusedReason;

use crate::error::HubError;
use crate::options::{PAGE_SIZE_MAX, RECORD_BYTES_MAX};
use crate::types::{
    ActorOps, FenceCell, HubEvent, LogName, PurgeCount, StateDelete, StateEntry, StatePage,
    StateSet, Transacted,
};
use outbox::Shared;

/// How a client finds or starts its hub, and who it is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ClientConfig {
    /// The hub's data directory; made if absent.
    pub data_dir: PathBuf,
    /// Application: the namespace of everything.
    pub application: String,
    /// Name of this node.
    pub node_name: String,
    /// Where peers reach this node.
    pub peer_address: String,
    /// Process id of this node.
    pub process_id: u32,
    /// How to start a hub; `None`: one must be running.
    pub spawn: Option<SpawnHub>,
    /// Does not join the members: gets incarnation 0, sees the members, may do the rest.
    pub observer: bool,
    /// Joins for a short while only: the others let it own only what nobody else can.
    pub transient: bool,
    /// How long the first connection may take, the start of a hub included.
    pub connect_timeout: Duration,
    /// A hub from which nothing has come for so long hangs: it is killed and replaced.
    pub silence: Duration,
    /// How long a request about application state may take, replacements of the hub included.
    pub request_timeout: Duration,
    /// Bytes of what was asked for and not yet sent; beyond it the connection counts as broken.
    pub queue_bytes_max: usize,
}

/// How to start a hub: `program args`, which must call [`run_hub`](crate::run_hub) for the same
/// data directory and end with [`HubError::exit_code`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpawnHub {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// A connection to the hub that survives the hub. Cheap to clone; when the last clone is dropped,
/// the connection closes and the member is gone.
///
/// The methods without `async` never block and have no answer of their own: what becomes of them
/// comes to the handler as [`HubEvent`]s. They are carried out in the order of the calls. While
/// there is no connection (between [`HubEvent::Disconnected`] and [`HubEvent::Reconnected`]) they
/// are dropped, but for [`offer`](Self::offer) and [`ensure_kind`](Self::ensure_kind).
#[derive(Clone)]
pub struct HubClient {
    handle: Arc<Handle>,
}

/// Closes the client when the last clone goes.
struct Handle {
    shared: Arc<Shared>,
    welcome: Mutex<(u64, u32)>,
    config: ClientConfig,
}

// === impl ClientConfig ===

impl ClientConfig {
    /// A member with the defaults, which starts no hub.
    pub fn new(
        data_dir: impl Into<PathBuf>,
        application: impl Into<String>,
        node_name: impl Into<String>,
    ) -> Self {
        Self {
            data_dir: data_dir.into(),
            application: application.into(),
            node_name: node_name.into(),
            peer_address: String::new(),
            process_id: std::process::id(),
            spawn: None,
            observer: false,
            transient: false,
            connect_timeout: Duration::from_secs(10),
            silence: Duration::from_secs(3),
            request_timeout: Duration::from_secs(30),
            queue_bytes_max: 256 << 20,
        }
    }
}

// === impl HubClient ===

impl HubClient {
    /// Connects, starting a hub if there is none, and returns when it is attached. `handler` is
    /// called by the client's task, once per message of the stream, with what happened in order;
    /// the first event is [`HubEvent::Welcome`]. It must not block.
    ///
    /// Must be called inside a tokio runtime, which then runs the client's task.
    ///
    /// # Errors
    /// The data directory cannot be used, the hub refuses to start (the error says why), or none
    /// answers within `connect_timeout`.
    pub async fn connect(
        config: ClientConfig,
        handler: impl FnMut(Vec<HubEvent>) + Send + 'static,
    ) -> Result<Self, HubError> {
        let shared = Arc::new(Shared::new(config.queue_bytes_max));
        let (ready, attached) = oneshot::channel();
        let task = link::run(config.clone(), Arc::clone(&shared), Box::new(handler), ready);
        tokio::spawn(task);
        let welcome = attached.await.map_err(|_| HubError::Closed)??;
        Ok(Self { handle: Arc::new(Handle { shared, welcome: Mutex::new(welcome), config }) })
    }

    /// The incarnation that the first [`HubEvent::Welcome`] granted.
    pub fn incarnation(&self) -> u64 {
        self.welcome().0
    }

    /// Process id of the hub that was attached to first.
    pub fn hub_process_id(&self) -> u32 {
        self.welcome().1
    }

    fn welcome(&self) -> MutexGuard<'_, (u64, u32)> {
        self.handle.welcome.lock().expect("no holder of this lock panics")
    }

    /// Appends a record. If this client reads the log, it comes back as [`HubEvent::Own`] with
    /// `id` when it is durable; appends to one log keep their order.
    ///
    /// # Panics
    /// If the record is longer than [`RECORD_BYTES_MAX`]: whoever makes records bounds them.
    pub fn append(&self, log: LogName, id: u64, record: Bytes) {
        assert!(record.len() <= RECORD_BYTES_MAX, "a record of {} bytes", record.len());
        let bytes = record.len();
        self.shared().log_frame(&log, bytes, |log| Frame::Append(wire::Append { log, id, record }));
    }

    /// Reads a log from an offset (the first there ever was has 1) and follows it: first
    /// [`HubEvent::LogStart`] (or [`HubEvent::LogTrimmed`], if what is wanted is gone), then
    /// [`HubEvent::Entry`]s, then [`HubEvent::End`], then whatever is appended. An earlier reading
    /// of the log ends; nothing of it comes any more once the first event of this one has come.
    pub fn read_log(&self, log: LogName, from: u64) {
        self.shared().read_log(&log, from);
    }

    /// Asks for [`HubEvent::End`] once everything that is in the log now has been told.
    pub fn barrier(&self, log: LogName) {
        self.shared().barrier(&log);
    }

    /// Lets the records of a log below an offset go, for good. [`HubEvent::LogStart`] tells when
    /// that is durable, and where the log starts then: never lower than before, and no higher than
    /// after the last durable record. Readings that want some of them end with
    /// [`HubEvent::LogTrimmed`].
    pub fn trim_log(&self, log: LogName, below: u64) {
        self.shared().log_frame(&log, 0, |log| Frame::TrimLog(wire::TrimLog { log, below }));
    }

    /// Ends the reading of a log.
    pub fn stop_log(&self, log: LogName) {
        self.shared().stop_log(&log);
    }

    /// Says what this member offers; the newest offer is repeated to a replaced hub.
    pub fn offer(&self, kinds: Vec<String>, leaving: bool) {
        self.shared().offer(wire::Offer { kinds, leaving });
    }

    /// Registers a kind unless it exists. The count that holds comes with
    /// [`HubEvent::Members`]; it is repeated to a replaced hub until it has come.
    pub fn ensure_kind(&self, kind: String, partitions: u32) {
        self.shared().ensure_kind(wire::Kind { name: kind, partitions });
    }

    /// Reads a log's fence cell: [`HubEvent::StoreCell`].
    pub fn read_cell(&self, log: LogName) {
        self.shared().log_frame(&log, 0, |log| Frame::ReadCell(wire::ReadCell { log }));
    }

    /// Loads an actor's state: [`HubEvent::ActorLoaded`], which repeats `epoch`, the reign that
    /// asks (0 if none does).
    pub fn load_actor(&self, log: LogName, epoch: u64, actor: String) {
        let bytes = actor.len();
        self.shared()
            .log_frame(&log, bytes, |log| Frame::LoadActor(wire::LoadActor { log, actor, epoch }));
    }

    /// Sets the epoch of a log's fence cell: [`HubEvent::StoreFenced`] with the cell as it was, or
    /// [`HubEvent::StoreRefused`] if it has a newer one.
    pub fn fence_store(&self, log: LogName, epoch: u64) {
        self.shared().log_frame(&log, 0, |log| Frame::FenceStore(wire::FenceStore { log, epoch }));
    }

    /// If the cell is exactly the expected one, applies operations and sets its offset to `upto`,
    /// in one step: [`HubEvent::StoreWritten`]; else changes nothing:
    /// [`HubEvent::StoreRefused`]. Written survives the end of any process; after power loss the
    /// store may be back at an earlier cell.
    pub fn write_store(&self, log: LogName, expected: FenceCell, upto: u64, ops: Vec<ActorOps>) {
        let (ops, bytes) = convert::actor_ops(ops);
        let expected = Some(wire::Cell { epoch: expected.epoch, offset: expected.offset });
        self.shared().log_frame(&log, bytes, |log| {
            Frame::WriteStore(wire::WriteStore { log, expected, upto, ops })
        });
    }

    /// Reads a key of the application's state.
    ///
    /// # Errors
    /// As [`state_set`](Self::state_set), but for the condition.
    pub async fn state_get(&self, key: &str) -> Result<Option<StateEntry>, HubError> {
        let get = wire::GetState { key: key.to_owned() };
        match self.request(Request::Get(get)).await? {
            Response::Got(got) => Ok(got.entry.map(convert::state_entry)),
            other => Err(unexpected(&other)),
        }
    }

    /// Sets a key of the application's state; returns its new etag, when it is durable. A second request with
    /// the same `request_id` does nothing and gets the answer of the first one (the newest
    /// [`REQUESTS_REMEMBERED`](crate::REQUESTS_REMEMBERED) of an application are remembered);
    /// without one the client makes one, so that its own retries are safe.
    ///
    /// # Errors
    /// [`HubError::ConditionFailed`], [`HubError::Invalid`], or [`HubError::Unavailable`] when no
    /// hub answered within the configured time: then it is unknown whether it was done.
    pub async fn state_set(
        &self,
        set: StateSet,
        request_id: Option<&str>,
    ) -> Result<String, HubError> {
        let set = convert::state_set(set, request_id_or_new(request_id));
        match self.request(Request::Set(set)).await? {
            Response::Wrote(wrote) => Ok(wrote.etag),
            other => Err(unexpected(&other)),
        }
    }

    /// Deletes a key of the application's state; tells whether it existed, when that is durable.
    ///
    /// # Errors
    /// As [`state_set`](Self::state_set).
    pub async fn state_delete(
        &self,
        delete: StateDelete,
        request_id: Option<&str>,
    ) -> Result<bool, HubError> {
        let delete = convert::state_delete(delete, request_id_or_new(request_id));
        match self.request(Request::Delete(delete)).await? {
            Response::Deleted(deleted) => Ok(deleted.existed),
            other => Err(unexpected(&other)),
        }
    }

    /// Applies changes to the application's state, all or none, when that is durable. No key may be
    /// named twice, and there may be [`TRANSACTION_CHANGES_MAX`](crate::TRANSACTION_CHANGES_MAX)
    /// changes of [`RECORD_BYTES_MAX`] bytes together.
    ///
    /// # Errors
    /// As [`state_set`](Self::state_set); [`HubError::ConditionFailed`] names the first key whose
    /// condition does not hold.
    pub async fn state_transact(
        &self,
        sets: Vec<StateSet>,
        deletes: Vec<StateDelete>,
        request_id: Option<&str>,
    ) -> Result<Transacted, HubError> {
        let sets = sets.into_iter().map(|set| convert::state_set(set, String::new())).collect();
        let deletes =
            deletes.into_iter().map(|d| convert::state_delete(d, String::new())).collect();
        let request_id = request_id_or_new(request_id);
        let transact = wire::TransactState { sets, deletes, request_id };
        match self.request(Request::Transact(transact)).await? {
            Response::Transacted(done) => {
                Ok(Transacted { etags: done.etags, existed: done.existed })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Lists keys that start with `prefix`, in byte order. `page_size` 0 means 100, at most
    /// [`PAGE_SIZE_MAX`]; a page is shorter if values are large, or many keys have expired. The `page_token` of
    /// the first page is empty.
    ///
    /// # Errors
    /// As [`state_get`](Self::state_get).
    pub async fn state_list(
        &self,
        prefix: &str,
        page_size: u32,
        page_token: &str,
    ) -> Result<StatePage, HubError> {
        let page_size = if page_size == 0 { 100 } else { page_size.min(PAGE_SIZE_MAX) };
        let list =
            wire::ListState { prefix: prefix.to_owned(), page_size, after: page_token.to_owned() };
        match self.request(Request::List(list)).await? {
            Response::List(list) => {
                let entries = list.entries.into_iter().map(convert::state_entry).collect();
                let next_page_token = if list.more { list.next_after } else { String::new() };
                Ok(StatePage { entries, next_page_token })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Deletes the application's logs, store, state, snapshots and kinds, for good. Only an observer can do
    /// it, since a member is itself alive. Returns how much that was; `None`: nobody knows any more.
    ///
    /// # Errors
    /// [`HubError::MembersAlive`] while there are members; else as [`state_get`](Self::state_get).
    pub async fn purge_application(&self) -> Result<Option<PurgeCount>, HubError> {
        self.purge_application_once(uuid::Uuid::new_v4().into_bytes()).await
    }

    /// The same by a request that has a name: one that has purged it before deletes nothing that came since.
    ///
    /// # Errors
    /// As [`purge_application`](Self::purge_application).
    pub async fn purge_application_once(
        &self,
        request: [u8; 16],
    ) -> Result<Option<PurgeCount>, HubError> {
        let request = request.to_vec().into();
        match self.request(Request::Purge(wire::Purge { request })).await? {
            Response::Purged(purged) => Ok(purged.count.map(|count| PurgeCount {
                kinds: count.kinds,
                logs: count.logs,
                entries: count.entries,
                consumers: count.consumers,
            })),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks for the hub's counters, on a connection of its own.
    ///
    /// # Errors
    /// [`HubError::Unavailable`] if no hub answers.
    pub async fn stats(&self) -> Result<HubStats, HubError> {
        start::stats(&self.handle.config.data_dir).await
    }

    async fn request(&self, request: Request) -> Result<Response, HubError> {
        let (wish, answer) = self.handle.shared.request(request)?;
        let limit = self.handle.config.request_timeout;
        let response = match tokio::time::timeout(limit, answer).await {
            Ok(Ok(response)) => {
                wish.granted();
                response
            }
            Ok(Err(_)) => return Err(HubError::Closed),
            Err(_) => {
                return Err(HubError::Unavailable {
                    dir: self.handle.config.data_dir.clone(),
                    reason: format!("no answer to a request within {limit:?}"),
                });
            }
        };
        match response {
            Response::ConditionFailed(failed) => {
                Err(HubError::ConditionFailed { key: failed.key, etag: failed.etag })
            }
            Response::Refused(refused) => Err(match refused.reason() {
                RefusedReason::MembersAlive => HubError::MembersAlive(refused.message),
                RefusedReason::SnapshotExists => HubError::SnapshotExists(refused.message),
                RefusedReason::SnapshotLimit => HubError::SnapshotLimit(refused.message),
                RefusedReason::SnapshotDamaged => HubError::SnapshotDamaged(refused.message),
                RefusedReason::SnapshotIo => HubError::SnapshotIo(refused.message),
                RefusedReason::SnapshotRestart => HubError::SnapshotRestart(refused.message),
                RefusedReason::UnknownTopic => HubError::UnknownTopic(refused.message),
                RefusedReason::TopicExists => HubError::TopicExists {
                    message: refused.message,
                    setting: refused.bound,
                    value: refused.limit,
                },
                RefusedReason::TopicLimit => HubError::TopicLimit {
                    message: refused.message,
                    bound: refused.bound,
                    limit: refused.limit,
                },
                RefusedReason::ConsumerSuperseded => HubError::ConsumerSuperseded(refused.message),
                RefusedReason::Forgotten => HubError::Forgotten(refused.message),
                _ => HubError::Invalid(refused.message),
            }),
            other => Ok(other),
        }
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }
}

impl std::fmt::Debug for HubClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubClient").field("config", &self.handle.config).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

fn request_id_or_new(given: Option<&str>) -> String {
    match given {
        Some(id) if !id.is_empty() => id.to_owned(),
        _ => uuid::Uuid::new_v4().to_string(),
    }
}

/// An answer of another kind than was asked for: the hub speaks another version.
fn unexpected(response: &Response) -> HubError {
    HubError::Invalid(format!("the hub gave an answer of another kind: {response:?}"))
}

/// Counters of a hub since it started, and gauges.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct HubStats {
    /// Process id of the hub.
    pub process_id: u32,
    /// Records committed, the hub's own included.
    pub records: u64,
    /// Commits (each one write, and one fdatasync with [`Durability::Fsync`](crate::Durability)).
    pub commits: u64,
    /// Calls of fdatasync on files of the log; none with [`Durability::Os`](crate::Durability).
    pub syncs: u64,
    /// Bytes written, framing included.
    pub bytes: u64,
    /// Median duration of a commit, within 19 %.
    pub commit_p50: Duration,
    /// 99th percentile of the duration of a commit, within 19 %.
    pub commit_p99: Duration,
    /// Clients attached.
    pub clients: u32,
    /// Logs that have, or had, records.
    pub logs: u32,
    /// Files of the log now.
    pub log_files: u32,
    /// Bytes of these files now, the one being written in full.
    pub log_bytes: u64,
    /// Bytes of records in them that are not trimmed, now.
    pub log_live_bytes: u64,
    /// Trims that moved a log's start.
    pub trims: u64,
    /// Files removed because nothing in them lived.
    pub files_removed: u64,
    /// Compactions that were finished.
    pub compactions: u64,
    /// Bytes of records that compactions have copied.
    pub compacted_bytes: u64,
    /// Compactions and removals that failed and are tried again.
    pub compaction_failures: u64,
    /// Snapshots now.
    pub snapshots: u64,
    /// Bytes of snapshots now.
    pub snapshot_bytes: u64,
    /// Topics now.
    pub topics: u64,
    /// Events appended to topics.
    pub events_published: u64,
    /// Events not appended because they had been before.
    pub events_repeated: u64,
    /// Events let go because of their topic's retention.
    pub events_expired: u64,
    /// Consumers with a name now.
    pub consumers: u64,
    /// Fetches that wait for events now.
    pub fetches_waiting: u64,
    /// Channels into partitions of topics now.
    pub topic_channels: u64,
}
