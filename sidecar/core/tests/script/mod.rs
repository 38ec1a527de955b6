//! A node whose logs and store answer at once.

#![allow(dead_code)] // Each test binary uses a part of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use kar_core::effect::{CancelReason, Notice, RequestError, Response, Turn};
use kar_core::event::{Cell, Member, Members, Offer, Operation, TurnResult};
use kar_core::ids::{Kind, NodeId, PartitionId, RequestId, SessionId, TurnToken, Uuid};
use kar_core::inbox::{InboxEntry, InboxId};
use kar_core::invocation::{ActorOps, Invocation, Mode, Outcome, Payload, StateOp, Target, Work};
use kar_core::limits::{Limits, Rules};
use kar_core::message::Message;
use kar_core::record::Record;
use kar_core::select::{Select, Selected};
use kar_core::snapshot::{Snapshot, SnapshotFault, SnapshotKey, SnapshotProof};
use kar_core::subscription::FetchId;
use kar_core::{Effect, Event, Node, NodeConfig};

/// A node with logs and a store that answer at once, and whatever came out of it.
pub(crate) struct Script {
    pub(crate) node: Node,
    pub(crate) id: NodeId,
    pub(crate) limits: Limits,
    pub(crate) notices: Vec<Notice>,
    /// What hosts register, if not just kinds.
    pub(crate) offer: Option<Offer>,
    /// Kinds are not registered while this is set.
    pub(crate) hold_kinds: bool,
    pub(crate) now: u64,
    pub(crate) logs: BTreeMap<PartitionId, Vec<Arc<Record>>>,
    pub(crate) store: BTreeMap<(PartitionId, Arc<str>), BTreeMap<Arc<str>, Payload>>,
    pub(crate) cells: BTreeMap<PartitionId, Cell>,
    pub(crate) members: Members,
    pub(crate) turns: VecDeque<Turn>,
    pub(crate) answers: BTreeMap<RequestId, Result<Response, RequestError>>,
    pub(crate) next_request: u64,
    /// Appends are kept back while this is set.
    pub(crate) hold: bool,
    pub(crate) held: VecDeque<Event>,
    /// Barriers are not answered while this is set.
    pub(crate) hold_barriers: bool,
    /// Writes to the store are not carried out while this is set.
    pub(crate) hold_writes: bool,
    /// Loads from the store are not carried out while this is set.
    pub(crate) hold_loads: bool,
    /// Steps of the store that were asked for and not carried out.
    pub(crate) store_steps: VecDeque<Effect>,
    /// Barriers that were asked for and not answered.
    pub(crate) barriers: VecDeque<PartitionId>,
    pub(crate) drained: bool,
    /// Sizes of the writes to the store, bytes.
    pub(crate) store_writes: Vec<usize>,
    pub(crate) direct_sent: usize,
    pub(crate) sent: Vec<(NodeId, Message)>,
    /// Turns that were told to stop.
    pub(crate) cancelled: Vec<(TurnToken, CancelReason)>,
    sessions: u64,
    /// What topics were asked, and have not answered.
    pub(crate) topics: VecDeque<Effect>,
    /// Reads that were not wanted any more.
    pub(crate) stopped: Vec<FetchId>,
    pub(crate) snapshots: BTreeMap<(PartitionId, SnapshotKey), Snapshot>,
    /// Snapshots are refused while this is set.
    pub(crate) refuse_snapshots: bool,
    /// Snapshots that were to be stored.
    pub(crate) snapshots_put: usize,
    /// Where trimmed logs start.
    pub(crate) starts: BTreeMap<PartitionId, u64>,
    pub(crate) records_read: usize,
    /// What was ever put into inboxes, and which of them are read.
    pub(crate) inboxes: BTreeMap<InboxId, Vec<Arc<InboxEntry>>>,
    pub(crate) inboxes_read: BTreeSet<InboxId>,
    /// Entries below these are gone.
    pub(crate) inbox_starts: BTreeMap<InboxId, u64>,
    /// What is put into inboxes does not arrive while this is set.
    pub(crate) lose_entries: bool,
    /// How many did not.
    pub(crate) entries_lost: u32,
}

impl Script {
    pub(crate) fn new(kinds: &[Kind]) -> Self {
        Self::with(kinds, Limits::default())
    }

    pub(crate) fn with(kinds: &[Kind], limits: Limits) -> Self {
        let mut script = Self::unseen(limits);
        script.begin(kinds);
        script
    }

    /// A node that has not seen the membership.
    pub(crate) fn unseen(limits: Limits) -> Self {
        Self {
            node: node(1, limits.clone()),
            id: NodeId(1),
            limits,
            notices: Vec::new(),
            offer: None,
            hold_kinds: false,
            now: 1_000,
            logs: BTreeMap::new(),
            store: BTreeMap::new(),
            cells: BTreeMap::new(),
            members: Members::default(),
            turns: VecDeque::new(),
            answers: BTreeMap::new(),
            next_request: 0,
            hold: false,
            held: VecDeque::new(),
            hold_barriers: false,
            hold_writes: false,
            hold_loads: false,
            store_steps: VecDeque::new(),
            barriers: VecDeque::new(),
            drained: false,
            store_writes: Vec::new(),
            direct_sent: 0,
            sent: Vec::new(),
            topics: VecDeque::new(),
            stopped: Vec::new(),
            snapshots: BTreeMap::new(),
            refuse_snapshots: false,
            snapshots_put: 0,
            starts: BTreeMap::new(),
            records_read: 0,
            inboxes: BTreeMap::new(),
            inboxes_read: BTreeSet::new(),
            inbox_starts: BTreeMap::new(),
            lose_entries: false,
            entries_lost: 0,
            cancelled: Vec::new(),
            sessions: 1,
        }
    }

    /// The node is gone at once, and another one comes: with a host, or without one for no kinds.
    pub(crate) fn replace(&mut self, kinds: &[Kind]) {
        self.members.nodes.remove(&self.id);
        self.id = NodeId(self.id.0 + 1);
        self.node = node(self.id.0, self.limits.clone());
        self.inboxes_read.clear();
        self.turns.clear();
        self.topics.clear();
        self.drained = false;
        self.begin(kinds);
    }

    fn begin(&mut self, kinds: &[Kind]) {
        self.members.nodes.insert(self.id, Member::default());
        self.event(Event::Members(self.members.clone()));
        if !kinds.is_empty() {
            let plain = Offer { kinds: kinds.to_vec(), concurrency: 4, ..Offer::default() };
            let offer = self.offer.clone().unwrap_or(plain);
            self.event(Event::HostUp { session: SessionId(self.id.0), offer });
        }
    }

    pub(crate) fn event(&mut self, event: Event) {
        let mut queue = VecDeque::from([event]);
        while let Some(event) = queue.pop_front() {
            self.node.handle(self.now, event);
            while let Some(append) = self.node.poll_append() {
                let log = self.logs.entry(append.partition.clone()).or_default();
                log.push(append.record);
                let offset = log.len() as u64;
                let own = Event::LogOwn {
                    partition: append.partition,
                    offset,
                    proposal: append.proposal,
                };
                if self.hold { self.held.push_back(own) } else { queue.push_back(own) }
            }
            while let Some(effect) = self.node.poll_effect() {
                self.carry_out(effect, &mut queue);
            }
        }
    }

    pub(crate) fn carry_out(&mut self, effect: Effect, queue: &mut VecDeque<Event>) {
        match effect {
            Effect::ReadLog { partition, from } => {
                let start = self.starts.get(&partition).copied().unwrap_or(1);
                if from < start {
                    return queue.push_back(Event::LogTrimmed { partition, start });
                }
                let log = self.logs.entry(partition.clone()).or_default();
                for (at, record) in log.iter().enumerate().skip(from as usize - 1) {
                    let (partition, record) = (partition.clone(), (**record).clone());
                    self.records_read += 1;
                    queue.push_back(Event::LogRead { partition, offset: at as u64 + 1, record });
                }
                queue.push_back(Event::LogEnd { partition });
            }
            Effect::WriteStore { .. } if self.hold_writes => self.store_steps.push_back(effect),
            Effect::LoadActor { .. } if self.hold_loads => self.store_steps.push_back(effect),
            Effect::Fetch { .. } => self.topics.push_back(effect),
            Effect::StopFetch { id } => self.stopped.push(id),
            Effect::ReadBarrier { partition } if self.hold_barriers => {
                self.barriers.push_back(partition);
            }
            Effect::ReadBarrier { partition } => queue.push_back(Event::LogEnd { partition }),
            Effect::EnsureKind { .. } if self.hold_kinds => {}
            Effect::EnsureKind { kind } => {
                self.members.kinds.insert(kind, 2);
                queue.push_back(Event::Members(self.members.clone()));
            }
            Effect::Offer { kinds, leaving } => {
                self.members.nodes.insert(self.id, Member { kinds, leaving, ..Member::default() });
                queue.push_back(Event::Members(self.members.clone()));
            }
            Effect::Dispatch { turn, .. } => self.turns.push_back(turn),
            Effect::Respond { request, response } => {
                assert!(self.answers.insert(request, response).is_none(), "answered twice");
            }
            Effect::ReadCell { partition } => {
                let cell = self.cells.get(&partition).copied().unwrap_or_default();
                queue.push_back(Event::StoreCell { partition, cell });
            }
            Effect::FenceStore { partition, epoch } => {
                let cell = self.cells.entry(partition.clone()).or_default();
                let before = *cell;
                cell.epoch = epoch;
                queue.push_back(Event::StoreFenced { partition, epoch, cell: before });
            }
            Effect::WriteStore { partition, expected, upto, ops } => {
                let epoch = expected.epoch;
                let cell = self.cells.entry(partition.clone()).or_default();
                if *cell != expected {
                    let cell = *cell;
                    return queue.push_back(Event::StoreRefused { partition, epoch, cell });
                }
                cell.offset = upto;
                self.store_writes.push(ops.iter().map(ActorOps::size).sum());
                for actor in ops {
                    let state = self.store.entry((partition.clone(), actor.actor)).or_default();
                    for op in actor.ops {
                        match op {
                            StateOp::Set { key, value } => drop(state.insert(key, value)),
                            StateOp::Remove { key } => drop(state.remove(&key)),
                            StateOp::RemoveRange(range) => {
                                state.retain(|key, _| !range.contains(key));
                            }
                            StateOp::Clear => state.clear(),
                        }
                    }
                }
                queue.push_back(Event::StoreWritten { partition, epoch, upto });
            }
            Effect::LoadActor { partition, epoch, actor } => {
                let key = (partition.clone(), actor.clone());
                let state = self.store.get(&key).cloned().unwrap_or_default();
                let cell = self.cells.get(&partition).copied().unwrap_or_default();
                queue.push_back(Event::ActorLoaded { partition, epoch, actor, cell, state });
            }
            Effect::TrimLog { partition, below } => {
                let start = self.starts.entry(partition).or_insert(1);
                *start = below.max(*start);
            }
            Effect::PutSnapshot { partition, key, .. } if self.refuse_snapshots => {
                self.snapshots_put += 1;
                let result = Err(SnapshotFault::Refused("too long".into()));
                queue.push_back(Event::SnapshotPut { partition, key, result });
            }
            Effect::PutSnapshot { partition, key, snapshot } => {
                self.snapshots_put += 1;
                self.snapshots.insert((partition.clone(), key), (*snapshot).clone());
                let result = Ok(proof(&snapshot));
                queue.push_back(Event::SnapshotPut { partition, key, result });
            }
            Effect::GetSnapshot { partition, key } => {
                let found = self.snapshots.get(&(partition.clone(), key)).cloned();
                let result = Ok(found.map(|snapshot| {
                    let proof = proof(&snapshot);
                    (Box::new(snapshot), proof)
                }));
                queue.push_back(Event::SnapshotGot { partition, key, result });
            }
            Effect::DeleteSnapshot { partition, key } => {
                self.snapshots.remove(&(partition.clone(), key));
                queue.push_back(Event::SnapshotDeleted { partition, key, result: Ok(()) });
            }
            Effect::ListSnapshots { partition } => {
                let here = self.snapshots.keys().filter(|(of, _)| *of == partition);
                let result = Ok(here.map(|(_, key)| *key).collect());
                queue.push_back(Event::SnapshotsListed { partition, result });
            }
            Effect::AppendInbox { .. } if self.lose_entries => self.entries_lost += 1,
            Effect::AppendInbox { inbox, entry, proposal } => {
                let entries = self.inboxes.entry(inbox.clone()).or_default();
                entries.push(entry);
                let offset = entries.len() as u64;
                if self.inboxes_read.contains(&inbox) {
                    queue.push_back(Event::InboxOwn { inbox, offset, proposal });
                }
            }
            Effect::ReadInbox { inbox, from } => {
                let start = self.inbox_starts.get(&inbox).copied().unwrap_or(1);
                if from < start {
                    return queue.push_back(Event::InboxTrimmed { inbox, start });
                }
                self.inboxes_read.insert(inbox.clone());
                let entries = self.inboxes.entry(inbox.clone()).or_default();
                for (at, entry) in entries.iter().enumerate().skip(from as usize - 1) {
                    let (inbox, entry, offset) = (inbox.clone(), entry.clone(), at as u64 + 1);
                    queue.push_back(Event::InboxRead { inbox, offset, entry });
                }
            }
            Effect::Inspect { to, request } => {
                queue.push_back(Event::Inspected { to, request, view: b"served"[..].into() });
            }
            Effect::StopInbox { inbox } => drop(self.inboxes_read.remove(&inbox)),
            Effect::TrimInbox { inbox, below } => drop(self.inbox_starts.insert(inbox, below)),
            Effect::Notice(notice) => self.notices.push(notice),
            Effect::Cancel { token, reason, .. } => self.cancelled.push((token, reason)),
            Effect::Publish { .. } | Effect::LearnPublished { .. } => self.topics.push_back(effect),
            Effect::StopLog { .. } | Effect::DispatchDirect { .. } => {}
            Effect::Drained => self.drained = true,
            Effect::Send { message: Message::Direct { .. }, .. } => self.direct_sent += 1,
            Effect::Send { to, message } => self.sent.push((to, message)),
        }
    }

    /// The session of the next host's stream; the one before it has the number before.
    pub(crate) fn next_session(&mut self) -> SessionId {
        self.sessions = self.sessions.max(self.id.0) + 1;
        SessionId(self.sessions)
    }

    pub(crate) fn request(&mut self, operation: Operation) -> RequestId {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        self.event(Event::Request { request, operation });
        request
    }

    pub(crate) fn invoke(
        &mut self,
        turn: Option<&Turn>,
        mode: Mode,
        actor: &str,
        method: &str,
    ) -> RequestId {
        let target =
            Target { kind: Kind::actor("Account"), actor: Some(actor.into()), affinity: None };
        self.request(Operation::Invoke {
            turn: turn.map(|t| t.token.clone()),
            mode,
            target,
            method: method.into(),
            payload: text("in"),
            deadline: None,
            trace: "".into(),
            step_key: None,
            retry: None,
            key: None,
        })
    }

    /// Reads an account from outside its turns.
    pub(crate) fn read_outside(
        &mut self,
        kind: &str,
        actor: &str,
        keys: Option<&[&str]>,
    ) -> RequestId {
        let keys = keys.map(|keys| Select::Keys(keys.iter().map(|k| (*k).into()).collect()));
        let select = keys.unwrap_or_else(Select::all);
        self.request(Operation::StateOf { kind: Kind::actor(kind), actor: actor.into(), select })
    }

    /// What a read from outside was answered with.
    pub(crate) fn state(&mut self, request: RequestId) -> BTreeMap<Arc<str>, Payload> {
        match self.answers.remove(&request) {
            Some(Ok(Response::State(Selected::Entries(state)))) => state,
            other => panic!("no state but {other:?}"),
        }
    }

    /// A call that sets a key of an account.
    pub(crate) fn deposit(&mut self, actor: &str, value: &str) -> RequestId {
        let call = self.invoke(None, Mode::Call, actor, "deposit");
        let turn = self.turn("deposit");
        let ops = vec![StateOp::Set { key: "balance".into(), value: text(value) }];
        let apply = self.request(Operation::StateApply {
            turn: turn.token.clone(),
            ops,
            conditions: Vec::new(),
        });
        assert_eq!(self.answers.remove(&apply), Some(Ok(Response::Ok)));
        self.finish(&turn, done("ok"));
        call
    }

    /// The store is back: it does what it was asked.
    pub(crate) fn store_back(&mut self) {
        (self.hold_writes, self.hold_loads) = (false, false);
        let mut events = VecDeque::new();
        for step in std::mem::take(&mut self.store_steps) {
            self.carry_out(step, &mut events);
        }
        events.into_iter().for_each(|event| self.event(event));
    }

    /// Answers the oldest barrier.
    pub(crate) fn read_end(&mut self) {
        let partition = self.barriers.pop_front().expect("a barrier was asked for");
        self.event(Event::LogEnd { partition });
    }

    /// Another node claims the partition, and this one does not know yet: what it will read.
    pub(crate) fn claimed_by(&mut self, partition: &PartitionId, node: NodeId) -> Event {
        let after = self.epoch(partition);
        let log = self.logs.get_mut(partition).expect("it is served");
        let record = Record::Claim { after, node, id: kar_core::ids::Uuid(u128::from(node.0)) };
        log.push(Arc::new(record.clone()));
        Event::LogRead { partition: partition.clone(), offset: log.len() as u64, record }
    }

    /// The epoch in which the node serves a partition.
    pub(crate) fn epoch(&self, partition: &PartitionId) -> u64 {
        let served = self.node.partitions();
        served.iter().find(|view| view.id == *partition).expect("it is served").epoch
    }

    /// Another node is alive, connected, and hosts kinds.
    pub(crate) fn peer(&mut self, node: NodeId, kinds: &[Kind]) {
        let member = Member { kinds: kinds.to_vec(), ..Member::default() };
        self.members.nodes.insert(node, member);
        self.event(Event::PeerUp { node });
        self.event(Event::Members(self.members.clone()));
    }

    pub(crate) fn let_go(&mut self) {
        // What is appended meanwhile is read after what was appended before.
        while let Some(event) = self.held.pop_front() {
            self.event(event);
        }
        self.hold = false;
    }

    pub(crate) fn turn(&mut self, method: &str) -> Turn {
        let turn = self.turns.pop_front().unwrap_or_else(|| panic!("no turn for {method}"));
        assert_eq!(&*turn.method, method);
        turn
    }

    pub(crate) fn finish(&mut self, turn: &Turn, outcome: Outcome) {
        let (token, result) = (turn.token.clone(), TurnResult::Ended(outcome));
        self.event(Event::TurnResult { token, result });
    }

    /// What a read of the turn shows, if it was answered.
    pub(crate) fn read(&mut self, turn: &Turn) -> Option<BTreeMap<Arc<str>, Payload>> {
        let read =
            self.request(Operation::StateRead { turn: turn.token.clone(), select: Select::all() });
        match self.answers.remove(&read) {
            Some(Ok(Response::State(Selected::Entries(state)))) => Some(state),
            None => None,
            other => panic!("no state but {other:?}"),
        }
    }

    pub(crate) fn set(&mut self, turn: &Turn, key: &str, value: &str) -> RequestId {
        let ops = vec![StateOp::Set { key: key.into(), value: text(value) }];
        self.request(Operation::StateApply {
            turn: turn.token.clone(),
            ops,
            conditions: Vec::new(),
        })
    }

    pub(crate) fn outcome(&mut self, request: RequestId) -> Outcome {
        match self.answers.remove(&request) {
            Some(Ok(Response::Outcome { outcome, .. })) => outcome,
            other => panic!("no outcome but {other:?}"),
        }
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        let until = self.now + ms;
        for _ in 0..10_000 {
            match self.node.poll_timeout() {
                Some(at) if at <= until => {
                    self.now = at.max(self.now);
                    self.event(Event::Tick);
                }
                _ => {
                    self.now = until;
                    return;
                }
            }
        }
        panic!("the node asks for ticks without end");
    }

    pub(crate) fn assert_idle(&mut self) {
        self.advance(5_000);
        assert_eq!(self.node.roots_open(), 0);
        for view in self.node.partitions() {
            assert!(view.invocations.is_empty(), "{view:?}");
            assert_eq!((view.owed, view.kept, view.actors.len()), (0, 0, 0), "{view:?}");
        }
    }
}

fn node(id: u64, limits: Limits) -> Node {
    let seed = u128::from(id) + 6;
    Node::new(NodeConfig { id: NodeId(id), seed, limits, rules: Rules::default(), no_peer: false })
}

pub(crate) fn text(text: &str) -> Payload {
    Payload { data: Bytes::copy_from_slice(text.as_bytes()), content_type: "text/plain".into() }
}

/// A payload of so many bytes.
pub(crate) fn filled(bytes: usize) -> Payload {
    Payload { data: vec![7; bytes].into(), content_type: "".into() }
}

/// A call of a method by nobody's turn, of whatever takes it: what a test does not say of an invocation.
pub(crate) fn invocation() -> Invocation {
    Invocation {
        uuid: Uuid(1),
        work: Work::Method,
        mode: Mode::Call,
        actor: None,
        method: "m".into(),
        payload: text(""),
        chain: [].into(),
        deadline: None,
        trace: "".into(),
        step: 1,
        home: None,
        retry: None,
        key: None,
        event: None,
    }
}

pub(crate) fn done(value: &str) -> Outcome {
    Outcome::Done(text(value))
}

/// What stands for a stored snapshot.
fn proof(snapshot: &Snapshot) -> SnapshotProof {
    let text = format!("{snapshot:?}");
    let checksum = text.bytes().fold(7, |sum: u32, b| sum.wrapping_mul(31).wrapping_add(b.into()));
    SnapshotProof { bytes: text.len() as u64, checksum }
}
