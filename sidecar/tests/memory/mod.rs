//! A node on a backend in memory, with its component's sockets: everything of a sidecar but the hub and the peers.

pub(crate) mod no_bus;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use kar::application_state::{
    ApplicationState, StateAnswer, StateEntry, StateError, StateFuture, StateOperation, StateSet,
};
use kar::bus::Bus;
use kar::config::{Bounds, SidecarConfig};
use kar::convert::snapshot::{decode_snapshot, encode_snapshot};
use kar::driver::outlets::{
    Backend, Directory, Inboxes, Log, Membership, NodeCard, RecordTooLong, Store,
};
use kar::driver::{Driver, DriverConfig, timer};
use kar::events::Events;
use kar::grpc::api::Api;
use kar::grpc::auth::BearerToken;
use kar::grpc::connect::Connect;
use kar::grpc::events::EventRpcs;
use kar::grpc::serve::{self, Services};
use kar::grpc::system::{Facts, System};
use kar::grpc::topology::Watchers;
use kar::grpc::typed::TypedErrors;
use kar_core::Event;
use kar_core::effect::{Append, RefusedKind};
use kar_core::event::{Cell, Member, Members};
use kar_core::ids::{Epoch, Kind, NodeId, Offset, PartitionId, ProposalId};
use kar_core::inbox::{InboxEntry, InboxId};
use kar_core::invocation::{ActorOps, Payload, StateOp};
use kar_core::limits::{LimitHit, Limits};
use kar_core::record::Record;
use kar_core::snapshot::{Snapshot, SnapshotKey, SnapshotProof};
use kar_proto::v1 as pb;
use no_bus::NoBus;
use pb::component_frame::Frame as Out;
use pb::component_service_client::ComponentServiceClient;
use pb::sidecar_frame::Frame as In;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

/// A name that this backend registers for no service and no actor type.
pub(crate) const REFUSED: &str = "refused";

/// Nothing in these tests takes longer unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Events on their way to the core.
const EVENTS_MAX: usize = 1 << 16;

/// The only node.
const NODE: NodeId = NodeId(1);

#[derive(Default)]
struct Memory {
    logs: HashMap<PartitionId, MemoryLog>,
    snapshots: BTreeMap<(PartitionId, SnapshotKey), Bytes>,
    actors: HashMap<(PartitionId, Arc<str>), BTreeMap<Arc<str>, Payload>>,
    cells: HashMap<PartitionId, Cell>,
    kinds: BTreeMap<Kind, u32>,
    member: Member,
    application: BTreeMap<Arc<str>, (Payload, u64)>,
    /// How much is in each.
    inboxes: BTreeMap<InboxId, Offset>,
}

/// Records from offset `trimmed + 1` on.
#[derive(Default)]
struct MemoryLog {
    trimmed: Offset,
    records: Vec<Arc<Record>>,
}

/// Logs, store and membership of one node, which answers from a task as a real one does.
#[derive(Clone)]
struct MemoryBackend {
    memory: Arc<Mutex<Memory>>,
    said: mpsc::Sender<Event>,
}

/// A running node.
pub(crate) struct TestNode {
    pub(crate) driver: Arc<Driver>,
    pub(crate) socket: PathBuf,
    pub(crate) grpc_port: u16,
    /// The hub is there.
    pub(crate) connected: watch::Sender<bool>,
    _closing: watch::Sender<bool>,
    _dir: tempfile::TempDir,
}

/// A component's stream.
pub(crate) struct Component {
    pub(crate) frames: mpsc::Sender<pb::ConnectRequest>,
    pub(crate) inbound: Streaming<pb::ConnectResponse>,
    ready: std::collections::VecDeque<In>,
}

// === impl MemoryBackend ===

impl MemoryBackend {
    fn tell(&self, event: Event) {
        self.said.try_send(event).expect("the forwarding task keeps up, and lives with the node");
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("no test panics while it holds the memory")
    }

    fn members(&self, memory: &Memory) -> Event {
        let nodes = BTreeMap::from([(NODE, memory.member.clone())]);
        Event::Members(Members { nodes, kinds: memory.kinds.clone() })
    }
}

impl Backend for MemoryBackend {}

impl Log for MemoryBackend {
    fn append(&self, append: Append) -> Result<(), RecordTooLong> {
        let mut memory = self.memory();
        let log = memory.logs.entry(append.partition.clone()).or_default();
        log.records.push(append.record);
        let offset = log.trimmed + log.records.len() as Offset;
        let Append { partition, proposal, .. } = append;
        self.tell(Event::LogOwn { partition, offset, proposal });
        Ok(())
    }

    fn read(&self, log: &PartitionId, from: Offset) {
        let mut memory = self.memory();
        let MemoryLog { trimmed, records } = memory.logs.entry(log.clone()).or_default();
        let (from, start) = (from.max(1), *trimmed + 1);
        if from < start {
            return self.tell(Event::LogTrimmed { partition: log.clone(), start });
        }
        for (offset, record) in (start..).zip(records).skip((from - start) as usize) {
            self.tell(Event::LogRead {
                partition: log.clone(),
                offset,
                record: Record::clone(record),
            });
        }
        self.tell(Event::LogEnd { partition: log.clone() });
    }

    fn barrier(&self, log: &PartitionId) {
        self.tell(Event::LogEnd { partition: log.clone() });
    }

    fn stop(&self, _: &PartitionId) {}

    fn trim(&self, log: &PartitionId, below: Offset) {
        let mut memory = self.memory();
        let MemoryLog { trimmed, records } = memory.logs.entry(log.clone()).or_default();
        let gone = below.saturating_sub(*trimmed + 1).min(records.len() as Offset);
        records.drain(..gone as usize);
        *trimmed += gone;
    }
}

/// With one node there is nobody to put anything there but itself: marks of nodes that are gone.
impl Inboxes for MemoryBackend {
    fn append_inbox(&self, inbox: &InboxId, proposal: ProposalId, _: &InboxEntry) {
        let mut memory = self.memory();
        let offset = memory.inboxes.entry(inbox.clone()).or_default();
        *offset += 1;
        let (inbox, offset) = (inbox.clone(), *offset);
        self.tell(Event::InboxOwn { inbox, offset, proposal });
    }

    fn read_inbox(&self, _: &InboxId, _: Offset) {}

    fn stop_inbox(&self, _: &InboxId) {}

    fn trim_inbox(&self, _: &InboxId, _: Offset) {}
}

impl Store for MemoryBackend {
    fn read_cell(&self, partition: &PartitionId) {
        let cell = self.memory().cells.get(partition).copied().unwrap_or_default();
        self.tell(Event::StoreCell { partition: partition.clone(), cell });
    }

    fn load_actor(&self, partition: &PartitionId, epoch: Epoch, actor: &Arc<str>) {
        let memory = self.memory();
        let key = (partition.clone(), actor.clone());
        self.tell(Event::ActorLoaded {
            partition: partition.clone(),
            epoch,
            actor: actor.clone(),
            cell: memory.cells.get(partition).copied().unwrap_or_default(),
            state: memory.actors.get(&key).cloned().unwrap_or_default(),
        });
    }

    fn fence(&self, partition: &PartitionId, epoch: Epoch) {
        let mut memory = self.memory();
        let stored = memory.cells.entry(partition.clone()).or_default();
        let cell = *stored;
        stored.epoch = epoch;
        self.tell(Event::StoreFenced { partition: partition.clone(), epoch, cell });
    }

    fn write(&self, partition: &PartitionId, expected: Cell, upto: Offset, ops: Vec<ActorOps>) {
        let (epoch, partition) = (expected.epoch, partition.clone());
        let mut memory = self.memory();
        let cell = memory.cells.get(&partition).copied().unwrap_or_default();
        if cell != expected {
            return self.tell(Event::StoreRefused { partition, epoch, cell });
        }
        for actor in ops {
            let state = memory.actors.entry((partition.clone(), actor.actor)).or_default();
            for op in actor.ops {
                match op {
                    StateOp::Set { key, value } => drop(state.insert(key, value)),
                    StateOp::Remove { key } => drop(state.remove(&key)),
                    StateOp::RemoveRange(range) => state.retain(|key, _| !range.contains(key)),
                    StateOp::Clear => state.clear(),
                }
            }
        }
        memory.cells.insert(partition.clone(), Cell { epoch, offset: upto });
        self.tell(Event::StoreWritten { partition, epoch, upto });
    }

    fn put_snapshot(&self, partition: &PartitionId, key: SnapshotKey, snapshot: Arc<Snapshot>) {
        let data = encode_snapshot(&snapshot);
        let result = Ok(proof(&data));
        self.memory().snapshots.insert((partition.clone(), key), data);
        self.tell(Event::SnapshotPut { partition: partition.clone(), key, result });
    }

    fn get_snapshot(&self, partition: &PartitionId, key: SnapshotKey) {
        let found = self.memory().snapshots.get(&(partition.clone(), key)).cloned();
        let decode = |data: Bytes| {
            let proof = proof(&data);
            (Box::new(decode_snapshot(&data).expect("it is as it was encoded")), proof)
        };
        let result = Ok(found.map(decode));
        self.tell(Event::SnapshotGot { partition: partition.clone(), key, result });
    }

    fn delete_snapshot(&self, partition: &PartitionId, key: SnapshotKey) {
        self.memory().snapshots.remove(&(partition.clone(), key));
        self.tell(Event::SnapshotDeleted { partition: partition.clone(), key, result: Ok(()) });
    }

    fn list_snapshots(&self, partition: &PartitionId) {
        let memory = self.memory();
        let keys = memory.snapshots.keys().filter(|(of, _)| of == partition);
        let result = Ok(keys.map(|(_, key)| *key).collect());
        self.tell(Event::SnapshotsListed { partition: partition.clone(), result });
    }
}

fn proof(data: &Bytes) -> SnapshotProof {
    SnapshotProof { bytes: data.len() as u64, checksum: 0 }
}

impl Membership for MemoryBackend {
    fn offer(&self, kinds: &[Kind], leaving: bool) {
        let mut memory = self.memory();
        memory.member = Member { kinds: kinds.to_vec(), leaving, ..Member::default() };
        self.tell(self.members(&memory));
    }

    fn ensure_kind(&self, kind: &Kind, partitions: u32) {
        if &*kind.name == REFUSED {
            let hit = LimitHit { name: "kinds_max", limit: 3 };
            return self.tell(Event::KindRefused(RefusedKind { kind: kind.clone(), hit }));
        }
        let mut memory = self.memory();
        memory.kinds.entry(kind.clone()).or_insert(partitions);
        self.tell(self.members(&memory));
    }
}

impl ApplicationState for MemoryBackend {
    fn run(&self, operation: StateOperation) -> StateFuture {
        let mut memory = self.memory();
        let answer = match operation {
            StateOperation::Get { key } => {
                let entry = memory.application.get(&key).map(|(value, version)| StateEntry {
                    key: key.to_string(),
                    value: value.clone(),
                    etag: version.to_string(),
                    expires: None,
                });
                Ok(StateAnswer::Entry(entry))
            }
            StateOperation::Set { set: StateSet { key, value, etag, .. }, .. } => {
                let version = memory.application.get(&key).map_or(0, |(_, version)| *version);
                match etag {
                    Some(etag) if etag != version.to_string() => {
                        let (key, etag) = (key.to_string(), version.to_string());
                        Err(StateError::ConditionFailed { key, etag })
                    }
                    _ => {
                        memory.application.insert(key, (value, version + 1));
                        Ok(StateAnswer::Written { etag: (version + 1).to_string() })
                    }
                }
            }
            StateOperation::Delete { delete, .. } => {
                let existed = memory.application.remove(&delete.key).is_some();
                Ok(StateAnswer::Deleted { existed })
            }
            _ => Err(StateError::Unavailable("not in memory".into())),
        };
        Box::pin(async move { answer })
    }
}

// === impl TestNode ===

impl TestNode {
    /// A node with the defaults.
    pub(crate) async fn start() -> Self {
        Self::start_with(Bounds::default(), None).await
    }

    pub(crate) async fn start_with(bounds: Bounds, token: Option<&str>) -> Self {
        Self::start_on(Arc::new(NoBus), bounds, token).await
    }

    /// A node beside a bus.
    pub(crate) async fn start_on(bus: Arc<dyn Bus>, bounds: Bounds, token: Option<&str>) -> Self {
        let limits = Limits::default();
        let config = DriverConfig {
            limits: limits.clone(),
            partitions: 2,
            no_peer: false,
            describe: kar::convert::view::describe,
        };
        let driver = Driver::new(config);
        let (said, mut told) = mpsc::channel(EVENTS_MAX);
        let backend = MemoryBackend { memory: Arc::default(), said };
        driver.attach(Box::new(backend.clone()));
        driver.join(NODE);
        let forward = driver.clone();
        tokio::spawn(async move {
            while let Some(said) = told.recv().await {
                forward.handle(said);
            }
        });
        driver.batch().set_directory(Arc::new(Directory::from([(NODE, card())])));
        backend.tell(backend.members(&Memory::default()));
        tokio::spawn(timer::run(driver.clone()));

        let dir = tempfile::tempdir().expect("a temporary folder");
        let socket = dir.path().join("kar.sock");
        let unix = UnixListener::bind(&socket).expect("the path is free");
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let grpc_port = tcp.local_addr().expect("it is bound").port();
        let application = SidecarConfig::new("test").expect("a name").application;
        let (closing, closed) = watch::channel(false);
        let (connected, is_connected) = watch::channel(true);
        let events = Events::new(bus, application.clone(), "test-node", bounds.clone());
        let state = Arc::new(backend);
        let api = Api::new(driver.clone(), state, events, limits.clone(), &bounds);
        let message_bytes_max = bounds.transport_message_bytes_max;
        let errors = TypedErrors { message_bytes_max };
        let facts = Facts {
            application: application.clone(),
            socket: socket.clone(),
            grpc_port,
            drain_timeout: PATIENCE,
            limits,
            bounds: bounds.clone(),
        };
        let services = Services {
            connect: Connect::new(
                api.clone(),
                bounds.clone(),
                "test-node".into(),
                application,
                closed.clone(),
            ),
            api: api.clone(),
            events: EventRpcs::new(api.clone(), errors, closed.clone()),
            system: System {
                driver: driver.clone(),
                api,
                facts: Arc::new(facts),
                ended: watch::Sender::new(false),
                watchers: Watchers::new(closed.clone()),
            },
            token: BearerToken::new(token),
            message_bytes_max,
        };
        tokio::spawn(async move {
            serve::run(services, unix, tcp, is_connected, closed).await.expect("it serves");
        });
        Self { driver, socket, grpc_port, connected, _closing: closing, _dir: dir }
    }

    /// A connection over the Unix socket.
    pub(crate) async fn channel(&self) -> Channel {
        let path = self.socket.clone();
        let connect = move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        };
        Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(connect))
            .await
            .expect("the node listens")
    }

    /// Opens a component's stream that hosts `kinds` and takes its `welcome`.
    pub(crate) async fn connect(&self, hello: pb::Hello) -> Result<Component, tonic::Status> {
        let mut component = self.open(Out::Hello(hello)).await?;
        match component.next().await? {
            In::Welcome(_) => Ok(component),
            other => panic!("not a welcome: {other:?}"),
        }
    }

    /// Opens a component's stream with any first frame.
    pub(crate) async fn open(&self, first: Out) -> Result<Component, tonic::Status> {
        let (frames, stream) = mpsc::channel(16);
        let first = pb::ConnectRequest { frames: vec![pb::ComponentFrame { frame: Some(first) }] };
        frames.send(first).await.expect("the channel is open");
        let mut client = ComponentServiceClient::new(self.channel().await);
        let inbound = client.connect(ReceiverStream::new(stream)).await?.into_inner();
        Ok(Component { frames, inbound, ready: Default::default() })
    }
}

fn card() -> NodeCard {
    NodeCard {
        id: NODE,
        name: "test-node".into(),
        address: "unix:/nowhere".into(),
        process_id: 0,
        kinds: vec![],
        leaving: false,
        transient: false,
    }
}

/// A `hello` that hosts the service `greeter` and the actor type `Account`.
pub(crate) fn hello() -> pb::Hello {
    pb::Hello {
        protocol_version: 1,
        sdk: "test".into(),
        services: vec![pb::HostedService { name: "greeter".into(), methods: vec![] }],
        actor_types: vec![pb::HostedActorType { name: "Account".into(), ..Default::default() }],
        ..pb::Hello::default()
    }
}

// === impl Component ===

impl Component {
    /// The next frame, within [`PATIENCE`].
    pub(crate) async fn next(&mut self) -> Result<In, tonic::Status> {
        while self.ready.is_empty() {
            let message = tokio::time::timeout(PATIENCE, self.inbound.message()).await;
            let message = message.expect("a frame comes in time")?;
            let ended = || tonic::Status::cancelled("the stream ended in order");
            let frames = message.ok_or_else(ended)?.frames;
            self.ready.extend(frames.into_iter().filter_map(|f| f.frame));
        }
        Ok(self.ready.pop_front().expect("it was filled"))
    }

    /// The next frame, which must be a turn.
    pub(crate) async fn next_turn(&mut self) -> pb::InvocationFrame {
        match self.next().await.expect("the stream is open") {
            In::Invocation(turn) => *turn,
            other => panic!("not a turn: {other:?}"),
        }
    }

    /// The next frame, which must answer request `id`.
    pub(crate) async fn answer(&mut self, id: u64) -> pb::response::Result {
        match self.next().await.expect("the stream is open") {
            In::Response(response) if response.id == id => response.result.expect("never empty"),
            other => panic!("not the answer to {id}: {other:?}"),
        }
    }

    /// Sends frames in one message.
    pub(crate) async fn send(&self, frames: impl IntoIterator<Item = Out>) {
        let frames = frames.into_iter().map(|f| pb::ComponentFrame { frame: Some(f) }).collect();
        self.frames.send(pb::ConnectRequest { frames }).await.expect("the stream is open");
    }

    pub(crate) async fn ask(&self, id: u64, operation: pb::request::Operation) {
        self.send([Out::Request(Box::new(pb::Request { id, operation: Some(operation) }))]).await;
    }

    pub(crate) async fn finish(&self, turn_token: &str, text: &'static str) {
        let result = Some(pb::turn_outcome::Result::Payload(bytes(text)));
        let turn_token = turn_token.to_owned();
        self.send([Out::TurnResult(pb::TurnOutcome { turn_token, result })]).await;
    }
}

/// A text payload.
pub(crate) fn bytes(text: &'static str) -> pb::Payload {
    let body = Some(pb::payload::Body::Data(text.into()));
    pb::Payload { body, content_type: "text/plain".into() }
}
