//! Local mode: the hub behind the backend traits. Translates and remembers what is followed, and decides nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::BytesMut;
use kar_core::Event;
use kar_core::effect::{Append, RefusedKind};
use kar_core::event::{Cell, Member, Members};
use kar_core::ids::{Epoch, Kind, NodeId, Offset, PartitionId, ProposalId};
use kar_core::inbox::{InboxEntry, InboxId};
use kar_core::invocation::{ActorOps, Payload, StateOp};
use kar_core::limits::LimitHit;
use kar_core::select::KeyRange;
use kar_core::snapshot::{Snapshot, SnapshotKey};
use kar_hub::{
    ClientConfig, FenceCell, HubClient, HubError, HubEvent, LogName, MemberInfo, RECORD_BYTES_MAX,
    SpawnHub, StoreOp, Value,
};
use tokio::sync::{Semaphore, watch};

use super::hub_bus::HubBus;
use super::hub_inboxes::{self, FollowedInboxes};
use super::hub_snapshots;
use super::hub_state::HubState;
use crate::config::SidecarConfig;
use crate::convert::log::{decode_record, encode_record};
use crate::convert::shared;
use crate::driver::outlets::{
    Backend, Directory, Inboxes, Log, Membership, NodeCard, RecordTooLong, Store,
};
use crate::driver::{Batch, Driver};
use crate::topics::BusTopics;

/// A joined hub.
pub struct Joined {
    /// The application's state.
    pub state: HubState,
    /// Topics.
    pub bus: HubBus,
    /// The members, whenever they change.
    pub members: watch::Receiver<Arc<Directory>>,
    /// Whether the hub can be reached.
    pub connected: watch::Receiver<bool>,
    /// Why there will be no hub any more, once that is so.
    pub lost: watch::Receiver<Option<String>>,
}

/// Joins the application through the hub of the data directory, and feeds the driver from it.
///
/// # Errors
///
/// If no hub is to be had, or the data directory cannot be used.
pub async fn join(
    driver: &Arc<Driver>,
    config: &SidecarConfig,
    node_name: &str,
    peer_address: &str,
) -> Result<Joined, HubError> {
    let client_config = client_config(config, node_name, peer_address);
    let (followed, inboxes) = (Followed::default(), FollowedInboxes::default());
    let (members_sender, members) = watch::channel(Arc::default());
    let (connected_sender, connected) = watch::channel(true);
    let (lost_sender, lost) = watch::channel(None);
    let translator = Arc::new(Mutex::new(Translator {
        driver: driver.clone(),
        followed: followed.clone(),
        inboxes: inboxes.clone(),
        members: members_sender,
        connected: connected_sender,
        lost: lost_sender,
        partitions: HashMap::new(),
        early: Some(Vec::new()),
    }));
    let handler = {
        let translator = translator.clone();
        move |events| lock(&translator).take_in(events)
    };
    let client = HubClient::connect(client_config, handler).await?;
    driver.attach(Box::new(HubBackend {
        client: client.clone(),
        names: RefCell::default(),
        block: RefCell::new(BytesMut::with_capacity(BLOCK_BYTES)),
        followed,
        inboxes,
        driver: Arc::downgrade(driver),
        saving: Arc::new(Semaphore::new(SNAPSHOTS_SAVED_MAX)),
        reading: Arc::new(Semaphore::new(SNAPSHOTS_READ_MAX)),
    }));
    let (state, bus) = (HubState::new(client.clone()), HubBus::new(client));
    let timeout = Duration::from_millis(config.bounds.backend_timeout_ms);
    driver.attach_topics(Box::new(BusTopics::new(Arc::new(bus.clone()), driver, timeout)));
    lock(&translator).start();
    Ok(Joined { state, bus, members, connected, lost })
}

fn client_config(config: &SidecarConfig, node_name: &str, peer_address: &str) -> ClientConfig {
    let application = config.application.as_str();
    let mut client = ClientConfig::new(&config.data_dir, application, node_name);
    client.peer_address = peer_address.to_owned();
    client.transient = config.transient;
    client.connect_timeout = Duration::from_millis(config.bounds.start_timeout_ms);
    client.request_timeout = Duration::from_millis(config.bounds.backend_timeout_ms);
    client.spawn = config.hub.as_ref().map(|hub| SpawnHub {
        program: hub.program.clone(),
        args: hub.args.iter().map(Into::into).collect(),
    });
    client
}

/// Logs that the core follows: they are lost together when the hub is.
type Followed = Arc<Mutex<BTreeSet<PartitionId>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of this module's locks is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === from the driver to the hub ===

/// Snapshots that are stored or deleted at the same time; the others wait.
const SNAPSHOTS_SAVED_MAX: usize = 2;

/// Snapshots that are looked for or read at the same time: a take-over waits for them, and not behind what is stored.
const SNAPSHOTS_READ_MAX: usize = 8;

/// Memory that records share on their way to the hub, bytes.
const BLOCK_BYTES: usize = 32 << 10;

/// The hub as the driver sees it.
struct HubBackend {
    client: HubClient,
    /// Is told of snapshots. It holds this backend, so it is not held here.
    driver: Weak<Driver>,
    saving: Arc<Semaphore>,
    reading: Arc<Semaphore>,
    /// Names of logs: made once for each partition.
    names: RefCell<HashMap<PartitionId, LogName>>,
    /// What records are written into, on their way to the client's queue.
    block: RefCell<BytesMut>,
    followed: Followed,
    inboxes: FollowedInboxes,
}

impl HubBackend {
    fn name(&self, partition: &PartitionId) -> LogName {
        if let Some(name) = self.names.borrow().get(partition) {
            return name.clone();
        }
        let name = LogName::from(partition.to_string());
        self.names.borrow_mut().insert(partition.clone(), name.clone());
        name
    }

    /// Carries out a request about a snapshot beside everything else, and tells the driver.
    fn snapshot(&self, partition: &PartitionId, request: hub_snapshots::Request) {
        let (client, driver) = (self.client.clone(), self.driver.clone());
        let turn = if request.saves() { &self.saving } else { &self.reading };
        let (partition, turn) = (partition.clone(), turn.clone());
        tokio::spawn(async move {
            // It is never closed.
            let _turn = turn.acquire().await;
            let event = hub_snapshots::carry_out(&client, partition, request).await;
            // A sidecar that has ended meanwhile does not want to know.
            if let Some(driver) = driver.upgrade() {
                driver.handle(event);
            }
        });
    }
}

impl Backend for HubBackend {}

impl Log for HubBackend {
    fn append(&self, append: Append) -> Result<(), RecordTooLong> {
        let record = encode_record(&append.record, &mut self.block.borrow_mut());
        if record.len() > RECORD_BYTES_MAX {
            return Err(RecordTooLong { bytes: record.len(), bytes_max: RECORD_BYTES_MAX });
        }
        self.client.append(self.name(&append.partition), append.proposal.0, record);
        Ok(())
    }

    fn read(&self, log: &PartitionId, from: Offset) {
        lock(&self.followed).insert(log.clone());
        self.client.read_log(self.name(log), from);
    }

    fn barrier(&self, log: &PartitionId) {
        self.client.barrier(self.name(log));
    }

    fn stop(&self, log: &PartitionId) {
        lock(&self.followed).remove(log);
        self.client.stop_log(self.name(log));
    }

    fn trim(&self, log: &PartitionId, below: Offset) {
        self.client.trim_log(self.name(log), below);
    }
}

impl Inboxes for HubBackend {
    fn append_inbox(&self, inbox: &InboxId, proposal: ProposalId, entry: &InboxEntry) {
        hub_inboxes::append(&self.client, inbox, proposal, entry);
    }

    fn read_inbox(&self, inbox: &InboxId, from: Offset) {
        lock(&self.inboxes).insert(inbox.clone());
        self.client.read_log(hub_inboxes::name(inbox), from);
    }

    fn stop_inbox(&self, inbox: &InboxId) {
        lock(&self.inboxes).remove(inbox);
        self.client.stop_log(hub_inboxes::name(inbox));
    }

    fn trim_inbox(&self, inbox: &InboxId, below: Offset) {
        self.client.trim_log(hub_inboxes::name(inbox), below);
    }
}

impl Store for HubBackend {
    fn read_cell(&self, partition: &PartitionId) {
        self.client.read_cell(self.name(partition));
    }

    fn load_actor(&self, partition: &PartitionId, epoch: Epoch, actor: &Arc<str>) {
        self.client.load_actor(self.name(partition), epoch, actor.to_string());
    }

    fn fence(&self, partition: &PartitionId, epoch: Epoch) {
        self.client.fence_store(self.name(partition), epoch);
    }

    fn write(&self, partition: &PartitionId, expected: Cell, upto: Offset, ops: Vec<ActorOps>) {
        let expected = FenceCell { epoch: expected.epoch, offset: expected.offset };
        let ops = ops.into_iter().map(|actor| kar_hub::ActorOps {
            actor: actor.actor.to_string(),
            ops: actor.ops.into_iter().map(store_op).collect(),
        });
        self.client.write_store(self.name(partition), expected, upto, ops.collect());
    }

    fn put_snapshot(&self, partition: &PartitionId, key: SnapshotKey, snapshot: Arc<Snapshot>) {
        self.snapshot(partition, hub_snapshots::Request::Put(key, snapshot));
    }

    fn get_snapshot(&self, partition: &PartitionId, key: SnapshotKey) {
        self.snapshot(partition, hub_snapshots::Request::Get(key));
    }

    fn delete_snapshot(&self, partition: &PartitionId, key: SnapshotKey) {
        self.snapshot(partition, hub_snapshots::Request::Delete(key));
    }

    fn list_snapshots(&self, partition: &PartitionId) {
        self.snapshot(partition, hub_snapshots::Request::List);
    }
}

impl Membership for HubBackend {
    fn offer(&self, kinds: &[Kind], leaving: bool) {
        self.client.offer(kinds.iter().map(Kind::to_string).collect(), leaving);
    }

    fn ensure_kind(&self, kind: &Kind, partitions: u32) {
        self.client.ensure_kind(kind.to_string(), partitions);
    }
}

fn cell_from(cell: FenceCell) -> Cell {
    Cell { epoch: cell.epoch, offset: cell.offset }
}

fn store_op(op: StateOp) -> StoreOp {
    match op {
        StateOp::Set { key, value } => {
            StoreOp::Set { key: key.to_string(), value: value_to(value) }
        }
        StateOp::Remove { key } => StoreOp::Remove { key: key.to_string() },
        StateOp::RemoveRange(KeyRange { from, to }) => StoreOp::RemoveRange {
            from: from.to_string(),
            to: to.as_deref().unwrap_or_default().to_owned(),
        },
        StateOp::Clear => StoreOp::Clear,
    }
}

pub(super) fn value_to(payload: Payload) -> Value {
    Value { data: payload.data, content_type: payload.content_type.to_string() }
}

pub(super) fn value_from(value: Value) -> Payload {
    Payload { data: value.data, content_type: shared(value.content_type) }
}

// === from the hub to the driver ===

/// Turns what the hub tells into the core's events.
struct Translator {
    driver: Arc<Driver>,
    followed: Followed,
    inboxes: FollowedInboxes,
    members: watch::Sender<Arc<Directory>>,
    connected: watch::Sender<bool>,
    lost: watch::Sender<Option<String>>,
    /// Partitions by the names of their logs: parsed once.
    partitions: HashMap<LogName, PartitionId>,
    /// What came before the driver could ask the hub for anything; `None` from then on.
    early: Option<Vec<HubEvent>>,
}

impl Translator {
    /// From now on the driver has its backend.
    fn start(&mut self) {
        let early = self.early.take().unwrap_or_default();
        self.take_in(early);
    }

    /// Takes what one message of the hub brought.
    fn take_in(&mut self, events: Vec<HubEvent>) {
        if let Some(early) = &mut self.early {
            early.extend(events);
            return;
        }
        let driver = self.driver.clone();
        let mut batch = driver.batch();
        for event in events {
            match event {
                HubEvent::Welcome { incarnation, resumed } => {
                    drop(batch);
                    self.welcome(incarnation, resumed);
                    batch = driver.batch();
                }
                event => self.translate(&mut batch, event),
            }
        }
    }

    /// A new incarnation means a new node: the old one was struck out, with all that it followed.
    fn welcome(&mut self, incarnation: u64, resumed: bool) {
        let incarnation = NodeId(incarnation);
        if self.driver.incarnation() == Some(incarnation) {
            return;
        }
        tracing::info!(incarnation = incarnation.0, resumed, "joined");
        lock(&self.followed).clear();
        lock(&self.inboxes).clear();
        self.driver.join(incarnation);
    }

    fn translate(&mut self, batch: &mut Batch<'_>, event: HubEvent) {
        let Some(event) = self.inbox(batch, event) else { return };
        match event {
            HubEvent::Members { nodes, kinds } => self.members(batch, nodes, kinds),
            HubEvent::Disconnected => {
                tracing::warn!("the hub is gone; connecting again");
                self.connected.send_replace(false);
                batch.event(Event::Lease { valid: false });
            }
            HubEvent::Reconnected => self.reconnected(batch),
            HubEvent::Evicted => {
                tracing::warn!("this node was struck out; it begins anew");
            }
            HubEvent::KindRefused { kind: name, bound, limit } => {
                let name_of_bound = match &*bound {
                    "kinds_max" => "kinds_max",
                    _ => "logs_max",
                };
                let hit = LimitHit { name: name_of_bound, limit };
                if let Some(kind) = kind(&name) {
                    batch.event(Event::KindRefused(RefusedKind { kind, hit }));
                }
            }
            HubEvent::Fault { message } => tracing::error!(%message, "the hub is about to end"),
            HubEvent::DirectoryLost { message } => {
                // Nothing that this node does is of any use from now on, and what it knows is of no other directory.
                batch.event(Event::Lease { valid: false });
                self.lost.send_replace(Some(message));
            }
            HubEvent::Unavailable { message } => tracing::error!(%message, "no hub to be had"),
            HubEvent::LogLost { .. } if !*self.connected.borrow() => {
                // Told to the core when there is somebody to read from again.
            }
            // Comes first in every reading, and when a trim is durable: nobody waits for that.
            HubEvent::LogStart { log, start } => tracing::trace!(?log, start, "a log's start"),
            HubEvent::LogTrimmed { log, start } => {
                if let Some(partition) = self.partition(&log) {
                    lock(&self.followed).remove(&partition);
                    batch.event(Event::LogTrimmed { partition, start });
                }
            }
            event => {
                if let Some(event) = self.log_or_store(batch, event) {
                    batch.event(event);
                }
            }
        }
    }

    /// Takes what is about an inbox; gives back what is not.
    fn inbox(&mut self, batch: &mut Batch<'_>, event: HubEvent) -> Option<HubEvent> {
        let is_connected = *self.connected.borrow();
        match hub_inboxes::translate(batch, event) {
            Ok(Event::InboxLost { .. }) if !is_connected => {
                // Told to the core when there is somebody to read from again.
            }
            Ok(event) => {
                if let Event::InboxLost { inbox } | Event::InboxTrimmed { inbox, .. } = &event {
                    lock(&self.inboxes).remove(inbox);
                }
                batch.event(event);
            }
            Err(other) => return other,
        }
        None
    }

    /// Readings, appends and store steps of the old connection are lost.
    fn reconnected(&mut self, batch: &mut Batch<'_>) {
        tracing::info!("connected to the hub again");
        self.connected.send_replace(true);
        batch.event(Event::Lease { valid: true });
        let lost = std::mem::take(&mut *lock(&self.followed));
        for partition in lost {
            batch.event(Event::LogLost { partition });
        }
        // What was appended and not read back may be lost as well.
        let lost = std::mem::take(&mut *lock(&self.inboxes));
        for inbox in lost {
            batch.event(Event::InboxLost { inbox });
        }
        batch.event(Event::StoreReset);
    }

    fn members(
        &mut self,
        batch: &mut Batch<'_>,
        nodes: Vec<MemberInfo>,
        kinds: Vec<(String, u32)>,
    ) {
        let directory: Directory = nodes.into_iter().map(card).map(|c| (c.id, c)).collect();
        let kinds: BTreeMap<Kind, u32> =
            kinds.iter().filter_map(|(name, count)| Some((kind(name)?, *count))).collect();
        let nodes = directory.iter().map(|(id, card)| (*id, member(card)));
        let members = Members { nodes: nodes.collect(), kinds };
        let directory = Arc::new(directory);
        batch.set_directory(directory.clone());
        self.members.send_replace(directory);
        batch.event(Event::Members(members));
    }

    /// An event about one log; `None` if it is not one that this version knows.
    fn log_or_store(&mut self, batch: &mut Batch<'_>, event: HubEvent) -> Option<Event> {
        Some(match event {
            HubEvent::Own { log, offset, id } => {
                let partition = self.partition(&log)?;
                Event::LogOwn { partition, offset, proposal: ProposalId(id) }
            }
            HubEvent::Entry { log, offset, record } => {
                let partition = self.partition(&log)?;
                match decode_record(record) {
                    Ok(record) => Event::LogRead { partition, offset, record },
                    Err(error) => {
                        batch.refuse_record(&partition, offset, &error);
                        return None;
                    }
                }
            }
            HubEvent::End { log } => Event::LogEnd { partition: self.partition(&log)? },
            HubEvent::LogLost { log } => Event::LogLost { partition: self.partition(&log)? },
            HubEvent::ActorLoaded { log, actor, cell_epoch, cell_offset, state, epoch } => {
                Event::ActorLoaded {
                    partition: self.partition(&log)?,
                    epoch,
                    actor: actor.into(),
                    cell: Cell { epoch: cell_epoch, offset: cell_offset },
                    state: state.into_iter().map(|(k, v)| (k.into(), value_from(v))).collect(),
                }
            }
            HubEvent::StoreCell { log, cell } => {
                Event::StoreCell { partition: self.partition(&log)?, cell: cell_from(cell) }
            }
            HubEvent::StoreFenced { log, epoch, cell } => Event::StoreFenced {
                partition: self.partition(&log)?,
                epoch,
                cell: cell_from(cell),
            },
            HubEvent::StoreWritten { log, epoch, upto } => {
                Event::StoreWritten { partition: self.partition(&log)?, epoch, upto }
            }
            HubEvent::StoreRefused { log, epoch, cell } => Event::StoreRefused {
                partition: self.partition(&log)?,
                epoch,
                cell: cell_from(cell),
            },
            other => {
                tracing::error!(event = ?other, "the hub told something that is not known");
                return None;
            }
        })
    }

    fn partition(&mut self, log: &LogName) -> Option<PartitionId> {
        if let Some(partition) = self.partitions.get(log) {
            return Some(partition.clone());
        }
        match log.as_str().parse::<PartitionId>() {
            Ok(partition) => {
                self.partitions.insert(log.clone(), partition.clone());
                Some(partition)
            }
            Err(error) => {
                tracing::error!(%error, "the hub told of a log that is none of ours");
                None
            }
        }
    }
}

fn card(member: MemberInfo) -> NodeCard {
    NodeCard {
        id: NodeId(member.incarnation),
        name: member.name,
        address: member.address,
        process_id: member.process_id,
        kinds: member.kinds.iter().filter_map(|name| kind(name)).collect(),
        leaving: member.leaving,
        transient: member.transient,
    }
}

fn member(card: &NodeCard) -> Member {
    Member {
        kinds: card.kinds.clone(),
        leaving: card.leaving,
        transient: card.transient,
        no_peer: card.address.is_empty(),
    }
}

fn kind(name: &str) -> Option<Kind> {
    let kind = name.parse();
    kind.inspect_err(|error| tracing::error!(%error, "the membership names a kind that is none"))
        .ok()
}
