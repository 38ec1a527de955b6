//! Drives the core: feeds it what happened, and carries out what it decides.
//!
//! One [`Driver`] owns one [`Node`]. Readers of connections call it straight from their tasks with everything that one
//! message brought ([`Driver::batch`]), so that all of it travels in one record. The lock is never held across an
//! `await`, and on the single-threaded runtime nobody ever waits for it. Effects go to the [`outlets`]: queues, never
//! sockets.
//!
//! Longer than most: one `match` carries out every effect, beside the state that they change under its one lock.

pub mod clock;
pub mod counters;
pub mod meter;
pub mod outlets;
pub mod timer;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kar_core::effect::RequestError;
use kar_core::event::{Members, Offer, Operation};
use kar_core::events::PublishResult;
use kar_core::ids::{Kind, Millis, NodeId, Offset, PartitionId, RequestId, SessionId};
use kar_core::inbox::InboxId;
use kar_core::limits::{Limits, Rules};
use kar_core::node::PartitionView;
use kar_core::subscription::FetchResult;
use kar_core::{Effect, Event, Node, NodeConfig};
use tokio::sync::{Notify, watch};

use self::clock::Clock;
use self::counters::Counters;
use self::meter::Meter;
use self::outlets::{
    Backend, DirectCall, Directory, Host, Peer, PublishAsk, RecordTooLong, Responder, Topics,
};

/// The timer comes round at least so often, ms; see [`AWAY_AFTER_MS`].
const HEARTBEAT_MS: Millis = 500;

/// If the timer is so late, ms, the process was away: stopped, swapped out or asleep.
const AWAY_AFTER_MS: Millis = HEARTBEAT_MS + 1_000;

/// Faults that are told.
const FAULTS_MAX: usize = 100;

/// Owns the core's node; see the module.
pub struct Driver {
    state: Mutex<State>,
    /// Wakes the timer when something is due sooner than it thinks.
    sooner: Notify,
    /// Wakes those who wait for the hand-over.
    drained: Notify,
    /// Wakes those who wait, while the node leaves, until no request is under way.
    answered: Notify,
    /// Grows whenever the membership says something new.
    topology: watch::Sender<u64>,
}

/// What a driver is made from.
#[derive(Clone, Debug)]
pub struct DriverConfig {
    /// Bounds of the core.
    pub limits: Limits,
    /// Partitions of kinds that this node is the first to use.
    pub partitions: u32,
    /// There is no peer plane: everything goes through inboxes.
    pub no_peer: bool,
    /// How what the node serves is told to others through their inboxes.
    pub describe: fn(NodeId, &[PartitionView]) -> Arc<[u8]>,
}

/// There is a host stream already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlreadyHosting;

/// Several events for the core at once. When it is dropped, what the core decided on them is carried out.
pub struct Batch<'a> {
    driver: &'a Driver,
    state: MutexGuard<'a, State>,
    now: Millis,
}

struct State {
    config: DriverConfig,
    clock: Clock,
    /// Absent until the membership has granted an incarnation.
    node: Option<Node>,
    /// Absent until joined.
    backend: Option<Box<dyn Backend>>,
    /// Without them events wait.
    topics: Option<Box<dyn Topics>>,
    /// Everybody, as the membership last said.
    directory: Arc<Directory>,
    host: Option<(SessionId, Arc<dyn Host>)>,
    /// The newest host stream, also when it has ended: its process may be reported dead later.
    last_host: Option<SessionId>,
    peers: HashMap<NodeId, (u64, Arc<dyn Peer>)>,
    responders: HashMap<RequestId, Responder>,
    next_id: u64,
    counters: Counters,
    meter: Meter,
    /// What stands still until somebody mends it, for people.
    faults: BTreeMap<Stuck, String>,
    /// When the timer wakes.
    armed: Millis,
    /// When the timer last came round.
    heartbeat: Millis,
    /// The hand-over was asked for; a node that replaces this one is to leave, too.
    is_leaving: bool,
    is_drained: bool,
}

/// What cannot be read on.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Stuck {
    Log(PartitionId),
    Inbox(InboxId),
}

// === impl Driver ===

impl Driver {
    /// A driver without a node; see [`Driver::join`].
    pub fn new(config: DriverConfig) -> Arc<Self> {
        let clock = Clock::new();
        let now = clock.now();
        let state = State {
            config,
            clock,
            node: None,
            backend: None,
            topics: None,
            directory: Arc::default(),
            host: None,
            last_host: None,
            peers: HashMap::new(),
            responders: HashMap::new(),
            next_id: 0,
            counters: Counters::default(),
            meter: Meter::default(),
            faults: BTreeMap::new(),
            armed: now,
            heartbeat: now,
            is_leaving: false,
            is_drained: false,
        };
        let (sooner, drained, answered) = (Notify::new(), Notify::new(), Notify::new());
        let topology = watch::Sender::new(0);
        Arc::new(Self { state: Mutex::new(state), sooner, drained, answered, topology })
    }

    /// Takes what durable effects go to. Events before this are lost.
    pub fn attach(&self, backend: Box<dyn Backend>) {
        let mut state = self.lock();
        state.backend = Some(backend);
        // Joining may have taken long; the timer starts now.
        state.heartbeat = state.clock.now();
    }

    /// Takes what is asked of topics.
    pub fn attach_topics(&self, topics: Box<dyn Topics>) {
        self.lock().topics = Some(topics);
    }

    /// Starts the node of an incarnation. A node there was is replaced: it was struck out, so nobody can tell how what
    /// it sent has ended, and its host has to register anew. What it never sent, and what only asks, goes on.
    pub fn join(&self, incarnation: NodeId) {
        let mut state = self.lock();
        let config = NodeConfig {
            id: incarnation,
            seed: uuid::Uuid::new_v4().as_u128(),
            limits: state.config.limits.clone(),
            rules: Rules::default(),
            no_peer: state.config.no_peer,
        };
        let Some(mut old) = state.node.replace(Node::new(config)) else { return };
        state.counters.evictions += 1;
        // The new node hosts nothing yet, whatever the old one offered.
        let is_leaving = state.is_leaving;
        if let Some(backend) = &state.backend {
            backend.offer(&[], is_leaving);
        }
        if let Some((_, host)) = state.host.take() {
            host.replaced();
        }
        for (_, (_, peer)) in state.peers.drain() {
            peer.close();
        }
        let again = state.end(&mut old);
        drop(state);
        let mut batch = self.batch();
        if is_leaving {
            batch.event(Event::Drain);
        }
        for (request, operation) in again {
            batch.event(Event::Request { request, operation });
        }
    }

    /// Begins a batch.
    pub fn batch(&self) -> Batch<'_> {
        let state = self.lock();
        let now = state.clock.now();
        let mut batch = Batch { driver: self, state, now };
        batch.notice_absence();
        batch
    }

    /// One event.
    pub fn handle(&self, event: Event) {
        self.batch().event(event);
    }

    /// Whether the hand-over that was asked for last is complete.
    pub fn is_drained(&self) -> bool {
        self.lock().is_drained
    }

    /// Asks for the hand-over and returns when no partition is owned.
    pub async fn drain(&self) {
        let mut drained = std::pin::pin!(self.drained.notified());
        // Registered before the question: the answer may come within it.
        drained.as_mut().enable();
        self.begin_drain();
        while !self.is_drained() {
            drained.as_mut().await;
            drained.set(self.drained.notified());
            drained.as_mut().enable();
        }
    }

    /// Returns when no request is under way. None is taken while the node leaves, so after [`drain`](Self::drain) those
    /// end that others still work on.
    pub async fn answered(&self) {
        let mut answered = std::pin::pin!(self.answered.notified());
        // Registered before the question, as above.
        answered.as_mut().enable();
        while self.requests_open() > 0 {
            answered.as_mut().await;
            answered.set(self.answered.notified());
            answered.as_mut().enable();
        }
    }

    /// Requests under way.
    pub fn requests_open(&self) -> usize {
        self.lock().responders.len()
    }

    fn begin_drain(&self) {
        let mut batch = self.batch();
        batch.state.is_leaving = true;
        batch.event(Event::Drain);
    }

    /// The process of the newest host stream is known to be dead.
    pub fn component_died(&self) {
        let mut batch = self.batch();
        if let Some(session) = batch.state.last_host {
            batch.host_down(session, true);
        }
    }

    /// Incarnation of the node; `None` before it has joined.
    pub fn incarnation(&self) -> Option<NodeId> {
        self.lock().node.as_ref().map(Node::id)
    }

    /// Ends everything: nothing is decided or carried out any more.
    pub fn detach(&self) {
        let mut state = self.lock();
        let old = (state.node.take(), state.backend.take(), state.topics.take(), state.host.take());
        let peers = std::mem::take(&mut state.peers);
        let responders = std::mem::take(&mut state.responders);
        // What they hold may come back to the driver when it is dropped.
        drop(state);
        drop((old, peers, responders));
    }

    /// Everybody, as the membership last said.
    pub fn directory(&self) -> Arc<Directory> {
        self.lock().directory.clone()
    }

    /// Whether peers carry what is said to a node: not if this one or that one has no peer plane.
    pub fn has_peers(&self) -> bool {
        !self.lock().config.no_peer
    }

    /// What this node serves.
    pub fn partitions(&self) -> Vec<PartitionView> {
        self.lock().node.as_ref().map(Node::partitions).unwrap_or_default()
    }

    /// The kinds that this node knows, with their numbers of partitions.
    pub fn kinds(&self) -> Vec<(Kind, u32)> {
        self.lock().node.as_ref().map(Node::known_kinds).unwrap_or_default()
    }

    /// Everybody, as the membership last said: for people, and for computing who owns what.
    pub fn topology(&self) -> (Arc<Directory>, Members) {
        let state = self.lock();
        let members = state.node.as_ref().map(|node| node.membership().clone()).unwrap_or_default();
        (state.directory.clone(), members)
    }

    /// Tells when the membership has said something new.
    pub fn topology_changes(&self) -> watch::Receiver<u64> {
        self.topology.subscribe()
    }

    /// What stands still until somebody mends it, for people; some of it, if there is much.
    pub fn faults(&self) -> Vec<String> {
        self.lock().faults.values().take(FAULTS_MAX).cloned().collect()
    }

    /// Counters by name.
    pub fn counters(&self) -> BTreeMap<String, i64> {
        let state = self.lock();
        let mut counters = state.counters.by_name();
        let open = state.node.as_ref().map_or(0, Node::roots_open);
        counters.insert("roots_open_now".into(), i64::try_from(open).unwrap_or(i64::MAX));
        let held = state.node.as_ref().map(Node::held).unwrap_or_default();
        let unsaved = state.node.as_ref().map(Node::unsaved).unwrap_or_default();
        for (name, value) in [("unsaved_records_now", unsaved.0), ("unsaved_bytes_now", unsaved.1)]
        {
            counters.insert(name.into(), i64::try_from(value).unwrap_or(i64::MAX));
        }
        for (name, value) in [
            ("core_cpu_us", usize::try_from(state.meter.micros()).unwrap_or(usize::MAX)),
            ("requests_open_now", state.responders.len()),
            ("unfinished_now", held.unfinished),
            ("unfinished_bytes_now", held.unfinished_bytes),
            ("outbox_now", held.outbox),
            ("outbox_bytes_now", held.outbox_bytes),
            ("kept_now", held.kept),
            ("kept_bytes_now", held.kept_bytes),
            ("results_now", held.results),
            ("actors_awake_now", held.awake),
            ("reminders_now", held.reminders),
            ("reminders_bytes_now", held.reminders_bytes),
            ("results_bytes_now", held.results_bytes),
            ("dead_letters_now", held.dead),
            ("dead_letters_bytes_now", held.dead_bytes),
            ("unstored_bytes_now", held.unstored_bytes),
            ("direct_bytes_now", held.direct_bytes),
            ("slots_waited_for_now", held.slots_waited_for),
            ("topology_watchers_now", self.topology.receiver_count()),
        ] {
            counters.insert(name.into(), i64::try_from(value).unwrap_or(i64::MAX));
        }
        counters
    }

    /// The time.
    pub fn now(&self) -> Millis {
        self.lock().clock.now()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|_: PoisonError<_>| {
            // The core panicked in the middle of a decision. Going on could break a promise; a crash cannot.
            tracing::error!("the core panicked; this process ends, and others take over");
            std::process::abort()
        })
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("incarnation", &self.incarnation()).finish_non_exhaustive()
    }
}

// === impl Batch ===

impl Batch<'_> {
    /// One more event.
    pub fn event(&mut self, event: Event) {
        match &event {
            Event::LogRead { .. } | Event::LogOwn { .. } => self.state.counters.records_read += 1,
            Event::Peer { .. } => self.state.counters.messages_received += 1,
            Event::InboxRead { .. } | Event::InboxOwn { .. } => {
                self.state.counters.inbox_entries_read += 1;
            }
            Event::LogLost { .. } => self.state.counters.logs_lost += 1,
            Event::LogTrimmed { .. } => self.state.counters.logs_trimmed_unread += 1,
            _ => {}
        }
        let now = self.now;
        let State { node, meter, .. } = &mut *self.state;
        if let Some(node) = node {
            meter.run(|| node.handle(now, event));
        }
    }

    /// A request of the component. The responder gets the answer, at once or later; never if it is abandoned first.
    pub fn request(&mut self, operation: Operation, responder: Responder) -> RequestId {
        let request = RequestId(self.next_id());
        self.state.counters.requests += 1;
        if self.state.node.is_none() {
            let what = "the sidecar has not joined its application yet, or is ending";
            responder(Err(RequestError::Unavailable(what)));
            return request;
        }
        self.state.responders.insert(request, responder);
        self.event(Event::Request { request, operation });
        request
    }

    /// Nobody waits for the answer any more.
    pub fn abandon(&mut self, request: RequestId) {
        if self.state.responders.remove(&request).is_some() {
            self.event(Event::Abandoned { request });
            self.note_answered();
        }
    }

    /// The component registers as a host.
    ///
    /// # Errors
    ///
    /// If it has a host stream already.
    pub fn host_up(
        &mut self,
        offer: Offer,
        host: Arc<dyn Host>,
    ) -> Result<SessionId, AlreadyHosting> {
        if self.state.host.is_some() {
            return Err(AlreadyHosting);
        }
        let session = SessionId(self.next_id());
        self.state.host = Some((session, host));
        self.state.last_host = Some(session);
        self.event(Event::HostUp { session, offer });
        Ok(session)
    }

    /// The host's stream ended; `dead`: its process is known to be dead.
    pub fn host_down(&mut self, session: SessionId, dead: bool) {
        if self.state.host.as_ref().is_some_and(|(current, _)| *current == session) {
            self.state.host = None;
        }
        self.event(Event::HostDown { session, dead });
    }

    /// A connection to a peer is open. One that was open before is closed. The number names the connection.
    pub fn peer_up(&mut self, node: NodeId, peer: Arc<dyn Peer>) -> u64 {
        let link = self.next_id();
        if let Some((_, old)) = self.state.peers.insert(node, (link, peer)) {
            old.close();
            self.event(Event::PeerDown { node });
        }
        self.event(Event::PeerUp { node });
        link
    }

    /// Whether a connection is the current one to its peer.
    pub fn is_current(&self, node: NodeId, link: u64) -> bool {
        self.state.peers.get(&node).is_some_and(|(current, _)| *current == link)
    }

    /// A connection to a peer broke; nothing happens if it is not the current one.
    pub fn peer_down(&mut self, node: NodeId, link: u64) {
        if self.is_current(node, link) {
            self.state.peers.remove(&node);
            self.event(Event::PeerDown { node });
        }
    }

    /// A departed node's connection ends at once.
    pub fn peer_gone(&mut self, node: NodeId) {
        if let Some((_, peer)) = self.state.peers.remove(&node) {
            peer.close();
            self.event(Event::PeerDown { node });
        }
    }

    /// Everybody, as the membership now says.
    pub fn set_directory(&mut self, directory: Arc<Directory>) {
        self.state.directory = directory;
        // Whoever wakes waits for the end of this batch, and sees what the membership says in it.
        self.driver.topology.send_modify(|version| *version += 1);
    }

    /// A log record is not understood by this version: the log is not followed any more, so that its partition is not
    /// served here.
    pub fn refuse_record(
        &mut self,
        partition: &PartitionId,
        offset: Offset,
        error: &dyn std::fmt::Display,
    ) {
        tracing::error!(
            %partition, offset, %error,
            "a log record is not understood by this version; the partition is not served here"
        );
        self.state.counters.log_records_unreadable += 1;
        let what = format!(
            "partition {partition} is not served: record {offset} of its log is not understood by this version \
             ({error}); use the newer version"
        );
        self.state.faults.insert(Stuck::Log(partition.clone()), what);
        if let Some(backend) = &self.state.backend {
            backend.stop(partition);
        }
    }

    /// An entry of a partition's inbox is not understood by this version. It would be lost if it was skipped, so
    /// nothing behind it is taken here.
    pub fn refuse_entry(&mut self, inbox: &InboxId, offset: Offset, error: &dyn std::fmt::Display) {
        tracing::error!(
            %inbox, offset, %error,
            "an entry of an inbox is not understood by this version; nothing behind it is taken"
        );
        self.state.counters.inbox_entries_unreadable += 1;
        let what = format!(
            "inbox {inbox} stands still: entry {offset} is not understood by this version ({error}); use the newer \
             version"
        );
        self.state.faults.insert(Stuck::Inbox(inbox.clone()), what);
    }

    /// Time of this batch.
    pub fn now(&self) -> Millis {
        self.now
    }

    fn next_id(&mut self) -> u64 {
        self.state.next_id += 1;
        self.state.next_id
    }

    /// If the timer is much too late the process was away (rule L4).
    fn notice_absence(&mut self) {
        if self.now > self.state.heartbeat + AWAY_AFTER_MS {
            let away = self.now - self.state.heartbeat;
            tracing::warn!(away_ms = away, "this process was away; reading the logs to their end");
            self.state.counters.resumptions += 1;
            self.state.heartbeat = self.now;
            self.event(Event::Resumed);
        }
    }

    /// Carries out what the core decided: appends first, then everything else, then the timer.
    fn drain(&mut self) {
        let state = &mut *self.state;
        let (Some(node), Some(backend)) = (&mut state.node, &state.backend) else { return };
        while let Some(append) = state.meter.run(|| node.poll_append()) {
            state.counters.appends += 1;
            let (partition, proposal) = (append.partition.clone(), append.proposal);
            if let Err(RecordTooLong { bytes, bytes_max }) = backend.append(append) {
                let refused = Event::AppendRefused { partition, proposal, bytes, bytes_max };
                node.handle(self.now, refused);
            }
        }
        while let Some(effect) = self.state.node.as_mut().and_then(Node::poll_effect) {
            self.carry_out(effect);
        }
        let due = self.state.node.as_ref().and_then(Node::poll_timeout);
        if due.is_some_and(|due| due < self.state.armed) {
            self.state.armed = due.unwrap_or(self.state.armed);
            self.driver.sooner.notify_one();
        }
    }

    /// A request is answered, or nobody waits for it: if it was the last one, who waits for that is told.
    fn note_answered(&self) {
        if self.state.is_leaving && self.state.responders.is_empty() {
            self.driver.answered.notify_waiters();
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let state = &mut *self.state;
        match effect {
            Effect::Send { to, message } => {
                if let Some((_, peer)) = state.peers.get(&to) {
                    state.counters.messages_sent += 1;
                    peer.send(message);
                }
            }
            Effect::Dispatch { session, turn } => {
                state.counters.turns += 1;
                if let Some(host) = state.host(session) {
                    host.dispatch(turn);
                }
            }
            Effect::DispatchDirect { session, turn, kind, method, payload, trace } => {
                state.counters.turns_direct += 1;
                if let Some(host) = state.host(session) {
                    host.dispatch_direct(turn, DirectCall { kind, method, payload, trace });
                }
            }
            Effect::Cancel { session, token, reason } => {
                state.counters.turns_cancelled += 1;
                if let Some(host) = state.host(session) {
                    host.cancel(token, reason);
                }
            }
            Effect::Respond { request, response } => {
                state.counters.requests_failed += u64::from(response.is_err());
                if let Some(responder) = state.responders.remove(&request) {
                    responder(response);
                    self.note_answered();
                }
            }
            Effect::Inspect { to, request } => {
                let Some(node) = &state.node else { return };
                let view = (state.config.describe)(node.id(), &node.partitions());
                self.event(Event::Inspected { to, request, view });
            }
            Effect::Drained => {
                state.is_drained = true;
                if let Some((_, host)) = &state.host {
                    host.drained();
                }
                self.driver.drained.notify_waiters();
            }
            Effect::Publish { partition, to, channel, serial, events, .. } => {
                self.ask_topics(PublishAsk { partition, to, channel, serial }, |topics, ask| {
                    topics.append(ask, events);
                });
            }
            Effect::LearnPublished { partition, to, channel, serial, since, .. } => {
                self.ask_topics(PublishAsk { partition, to, channel, serial }, |topics, ask| {
                    topics.learn(ask, since);
                });
            }
            Effect::Fetch { id, topic_id, from, events_max, bytes_max } => match &state.topics {
                Some(topics) => topics.fetch(id, topic_id, from, (events_max, bytes_max)),
                None => self.event(Event::Fetched { id, result: FetchResult::Unavailable }),
            },
            Effect::StopFetch { id } => {
                if let Some(topics) = &state.topics {
                    topics.stop_fetch(&id);
                }
            }
            Effect::Notice(notice) => state.counters.notice(self.now, notice),
            durable => state.ask_backend(durable),
        }
    }
}

impl Batch<'_> {
    fn ask_topics(&mut self, ask: PublishAsk, act: impl FnOnce(&dyn Topics, PublishAsk)) {
        if let Some(topics) = &self.state.topics {
            return act(&**topics, ask);
        }
        let (PublishAsk { partition, to, serial, .. }, result) = (ask, PublishResult::Unavailable);
        self.event(Event::Published { partition, to, serial, result });
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.drain();
        }
    }
}

// === impl State ===

impl State {
    /// Ends a node that was replaced: answers its requests, but for those that the next node takes over.
    fn end(&mut self, old: &mut Node) -> Vec<(RequestId, Operation)> {
        let mut again = old.end();
        while let Some(effect) = old.poll_effect() {
            let Effect::Respond { request, response } = effect else { continue };
            self.counters.requests_failed += u64::from(response.is_err());
            if let Some(responder) = self.responders.remove(&request) {
                responder(response);
            }
        }
        again.retain(|(request, _)| self.responders.contains_key(request));
        let kept: HashSet<_> = again.iter().map(|(request, _)| *request).collect();
        for (request, responder) in std::mem::take(&mut self.responders) {
            if kept.contains(&request) {
                self.responders.insert(request, responder);
            } else {
                // The core answers everything; whatever it forgot must not wait for ever.
                tracing::error!(?request, "a request ended with its node and was not answered");
                responder(Err(RequestError::Unknown("the sidecar's node was struck out")));
            }
        }
        again
    }

    fn host(&self, session: SessionId) -> Option<&Arc<dyn Host>> {
        self.host.as_ref().filter(|(current, _)| *current == session).map(|(_, host)| host)
    }

    fn ask_backend(&mut self, effect: Effect) {
        let Some(backend) = &self.backend else { return };
        match effect {
            Effect::ReadLog { partition, from } => {
                self.faults.remove(&Stuck::Log(partition.clone()));
                backend.read(&partition, from);
            }
            Effect::ReadBarrier { partition } => backend.barrier(&partition),
            Effect::StopLog { partition } => {
                self.faults.remove(&Stuck::Log(partition.clone()));
                backend.stop(&partition);
                if let Some(topics) = &self.topics {
                    topics.stop(&partition);
                }
            }
            Effect::ReadCell { partition } => backend.read_cell(&partition),
            Effect::LoadActor { partition, epoch, actor } => {
                self.counters.store_loads += 1;
                backend.load_actor(&partition, epoch, &actor);
            }
            Effect::FenceStore { partition, epoch } => backend.fence(&partition, epoch),
            Effect::WriteStore { partition, expected, upto, ops } => {
                self.counters.store_writes += 1;
                backend.write(&partition, expected, upto, ops);
            }
            Effect::TrimLog { partition, below } => {
                self.counters.log_trims += 1;
                backend.trim(&partition, below);
            }
            Effect::AppendInbox { inbox, proposal, entry } => {
                self.counters.inbox_appends += 1;
                backend.append_inbox(&inbox, proposal, &entry);
            }
            Effect::ReadInbox { inbox, from } => {
                self.faults.remove(&Stuck::Inbox(inbox.clone()));
                backend.read_inbox(&inbox, from);
            }
            Effect::StopInbox { inbox } => {
                self.faults.remove(&Stuck::Inbox(inbox.clone()));
                backend.stop_inbox(&inbox);
            }
            Effect::TrimInbox { inbox, below } => backend.trim_inbox(&inbox, below),
            Effect::PutSnapshot { partition, key, snapshot } => {
                backend.put_snapshot(&partition, key, snapshot);
            }
            Effect::GetSnapshot { partition, key } => backend.get_snapshot(&partition, key),
            Effect::DeleteSnapshot { partition, key } => backend.delete_snapshot(&partition, key),
            Effect::ListSnapshots { partition } => backend.list_snapshots(&partition),
            Effect::EnsureKind { kind } => backend.ensure_kind(&kind, self.config.partitions),
            Effect::Offer { kinds, leaving } => backend.offer(&kinds, leaving),
            _ => unreachable!("every other effect is carried out by the batch"),
        }
    }
}
