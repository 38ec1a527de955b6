//! What every part of a node's machine shares: time, bounds, the membership, the host, and the queues of effects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use crate::assign;
use crate::cover::{Covered, Transition};
use crate::effect::{Append, Effect, Notice, RequestError, Response};
use crate::event::{Member, Members, Offer};
use crate::ids::{
    InvocationId, Kind, Millis, NodeId, Offset, PartitionId, ProposalId, RequestId, SessionId,
    TurnToken, Uuid,
};
use crate::inbox::{InboxBody, InboxEntry, InboxId};
use crate::inboxes::Inboxes;
use crate::limits::{LimitHit, Limits, Rules};
use crate::message::Message;
use crate::node::NodeConfig;

/// Shared by a node and its partitions; it decides nothing about them.
#[derive(Clone, Debug)]
pub(crate) struct Env {
    pub(crate) id: NodeId,
    pub(crate) now: Millis,
    pub(crate) limits: Limits,
    pub(crate) rules: Rules,
    pub(crate) members: Members,
    /// Peers that messages can be sent to.
    pub(crate) peers: BTreeSet<NodeId>,
    /// There is no peer plane here.
    no_peer: bool,
    /// The newest member that was ever seen: who is newer may be one, and not be known here yet.
    newest: NodeId,
    /// Members that are not connected, since when.
    unreached: BTreeMap<NodeId, Millis>,
    pub(crate) inboxes: Inboxes,
    pub(crate) lease_valid: bool,
    pub(crate) host: Option<Host>,
    /// No turn of the host starts before this: code of an earlier stream may still run (P3).
    pub(crate) host_grace_until: Millis,
    /// The whole node is leaving.
    pub(crate) leaving: bool,
    pub(crate) appends: VecDeque<Append>,
    pub(crate) effects: VecDeque<Effect>,
    /// Messages to this node itself.
    pub(crate) local: VecDeque<Message>,
    /// Turns that waited for their actors' states, and need not any more.
    pub(crate) resumable: VecDeque<TurnToken>,
    /// Calls with idempotency keys that are accepted, and whose outcomes are to be asked for.
    pub(crate) to_await: VecDeque<(RequestId, InvocationId)>,
    /// Root turns that got a free slot.
    pub(crate) granted: VecDeque<(PartitionId, Uuid)>,
    random: u128,
    next_proposal: u64,
    next_fetch: u64,
    activations: Activations,
    pub(crate) covered: Covered,
}

/// How many activations there were: names that are to be different, and decide nothing.
#[derive(Clone, Copy, Default)]
struct Activations(u64);

impl fmt::Debug for Activations {
    /// Worlds that differ in names only are the same to whoever compares them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}

/// The component that hosts.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) session: SessionId,
    pub(crate) offer: Offer,
    /// It said goodbye.
    pub(crate) leaving: bool,
    /// Root turns that hold a slot (design section 6, item 7).
    pub(crate) slots_used: u32,
    /// Root turns that wait for one, in the order in which they came.
    pub(crate) waiting: SlotQueue,
    /// Direct turns under way.
    pub(crate) direct: BTreeMap<u64, DirectTurn>,
    /// Bytes of their payloads.
    pub(crate) direct_bytes: usize,
}

/// A direct turn under way.
#[derive(Clone, Debug)]
pub(crate) struct DirectTurn {
    /// Who asked.
    pub(crate) from: NodeId,
    pub(crate) request: RequestId,
    /// Bytes of its payload.
    pub(crate) bytes: usize,
}

/// Who waits for a slot, in order; each may leave before its time.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlotQueue {
    next: u64,
    by_ticket: BTreeMap<u64, (PartitionId, Uuid)>,
    tickets: BTreeMap<Uuid, u64>,
}

impl SlotQueue {
    fn push(&mut self, partition: PartitionId, uuid: Uuid) {
        self.remove(uuid);
        self.next += 1;
        self.by_ticket.insert(self.next, (partition, uuid));
        self.tickets.insert(uuid, self.next);
    }

    fn pop(&mut self) -> Option<(PartitionId, Uuid)> {
        let (_, next) = self.by_ticket.pop_first()?;
        self.tickets.remove(&next.1);
        Some(next)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_ticket.len()
    }

    fn remove(&mut self, uuid: Uuid) {
        if let Some(ticket) = self.tickets.remove(&uuid) {
            self.by_ticket.remove(&ticket);
        }
    }
}

impl Env {
    pub(crate) fn new(config: NodeConfig) -> Self {
        let NodeConfig { id, seed, limits, rules, no_peer } = config;
        Self {
            id,
            now: 0,
            limits: limits.within_time(),
            rules,
            members: Members::default(),
            peers: BTreeSet::new(),
            no_peer,
            newest: NodeId::default(),
            unreached: BTreeMap::new(),
            inboxes: Inboxes::default(),
            lease_valid: true,
            host: None,
            host_grace_until: 0,
            leaving: false,
            appends: VecDeque::new(),
            effects: VecDeque::new(),
            local: VecDeque::new(),
            resumable: VecDeque::new(),
            to_await: VecDeque::new(),
            granted: VecDeque::new(),
            random: seed ^ 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834,
            next_proposal: 0,
            next_fetch: 0,
            activations: Activations::default(),
            covered: Covered::default(),
        }
    }

    /// A fresh UUID. The generator is a 128-bit LCG with an output mix: not for secrets.
    pub(crate) fn uuid(&mut self) -> Uuid {
        self.random = self
            .random
            .wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645)
            .wrapping_add(0x5851_f42d_4c95_7f2d_1405_7b7e_f767_814f);
        let x = self.random;
        let x = (x ^ (x >> 67)).wrapping_mul(0xda94_2042_e4dd_58b5_94d0_49bb_1331_11eb);
        Uuid::v7(self.now, x ^ (x >> 61))
    }

    pub(crate) fn proposal(&mut self) -> ProposalId {
        self.next_proposal += 1;
        ProposalId(self.next_proposal)
    }

    /// Names a read of a topic.
    pub(crate) fn fetch_serial(&mut self) -> u64 {
        self.next_fetch += 1;
        self.next_fetch
    }

    /// A number that no activation of any node had before: incarnations grow, and are below 2^32.
    pub(crate) fn activation(&mut self) -> u64 {
        self.activations.0 += 1;
        (self.id.0 << 32).wrapping_add(self.activations.0)
    }

    /// A transition was taken: the simulator counts them.
    pub(crate) fn cover(&self, transition: Transition) {
        self.covered.take(transition);
    }

    pub(crate) fn emit(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.emit(Effect::Notice(notice));
    }

    /// Sends to a node, itself included: by peers, else through its inbox. Without a way the message is lost, as
    /// connections lose messages.
    pub(crate) fn send(&mut self, to: NodeId, message: Message) {
        if to == self.id {
            self.local.push_back(message);
        } else if self.peers.contains(&to) {
            self.emit(Effect::Send { to, message });
        } else if self.by_inbox(to) {
            self.cover(Transition::NodeInbox);
            self.append_inbox(InboxId::of_node(to), InboxBody::Node { to, message });
        }
    }

    /// Whether messages to a node have a way now.
    pub(crate) fn reachable(&self, node: NodeId) -> bool {
        self.connected(node) || self.by_inbox(node)
    }

    /// Whether peers carry messages to a node.
    pub(crate) fn connected(&self, node: NodeId) -> bool {
        node == self.id || self.peers.contains(&node)
    }

    /// Whether one of two nodes has no peer plane.
    pub(crate) fn apart(&self, node: NodeId) -> bool {
        let has_none = |member: &Member| self.no_peer || member.no_peer;
        node != self.id && self.members.nodes.get(&node).is_some_and(has_none)
    }

    /// Whether messages to a member go through its inbox: nobody waits for a connection (any more).
    pub(crate) fn by_inbox(&self, node: NodeId) -> bool {
        let patience = self.limits.inbox_after_ms;
        let waited = |since: &Millis| since.saturating_add(patience) <= self.now;
        !self.connected(node)
            && self.members.nodes.contains_key(&node)
            && (self.apart(node) || self.unreached.get(&node).is_some_and(waited))
    }

    /// Who is connected, or a member, has changed.
    pub(crate) fn review_reach(&mut self) {
        let seen = self.members.nodes.keys().next_back().copied().unwrap_or_default();
        self.newest = self.newest.max(seen);
        let (own, peers, members) = (self.id, &self.peers, &self.members.nodes);
        let lacks = |node: &NodeId| *node != own && !peers.contains(node);
        self.unreached.retain(|node, _| members.contains_key(node) && lacks(node));
        for node in members.keys().filter(|node| lacks(node)) {
            self.unreached.entry(*node).or_insert(self.now);
        }
    }

    /// Whether a node was a member, and is none any more.
    pub(crate) fn has_departed(&self, node: NodeId) -> bool {
        node <= self.newest && !self.members.nodes.contains_key(&node)
    }

    /// Appends to an inbox.
    pub(crate) fn append_inbox(&mut self, inbox: InboxId, body: InboxBody) -> ProposalId {
        let proposal = self.proposal();
        let entry = Arc::new(InboxEntry { from: self.id, body });
        if let InboxId::Partition(partition) = &inbox {
            self.inboxes.appended(partition, proposal, &entry);
        }
        self.emit(Effect::AppendInbox { inbox, proposal, entry });
        proposal
    }

    /// Reads the inbox of a partition.
    pub(crate) fn read_inbox(&mut self, partition: &PartitionId, from: Offset) {
        let inbox = InboxId::Partition(partition.clone());
        self.emit(Effect::ReadInbox { inbox, from });
    }

    /// Stops reading it.
    pub(crate) fn stop_inbox(&mut self, partition: &PartitionId) {
        let inbox = InboxId::Partition(partition.clone());
        self.emit(Effect::StopInbox { inbox });
    }

    pub(crate) fn respond(&mut self, request: RequestId, response: Result<Response, RequestError>) {
        self.emit(Effect::Respond { request, response });
    }

    /// The node that should own a partition, by the current view.
    pub(crate) fn desired_owner(&self, partition: &PartitionId) -> Option<NodeId> {
        assign::desired_owner(&self.members, partition)
    }

    /// The host's session, if turns of the kind can start now.
    pub(crate) fn session_for(&self, kind: &Kind) -> Option<SessionId> {
        let host = self.host.as_ref()?;
        (host.offer.kinds.contains(kind) && self.now >= self.host_grace_until)
            .then_some(host.session)
    }

    /// Whether a kind has a host here.
    pub(crate) fn hosts(&self, kind: &Kind) -> bool {
        self.host.as_ref().is_some_and(|host| host.offer.kinds.contains(kind))
    }

    /// Whether the host said goodbye for a kind, and the membership does not show it yet.
    pub(crate) fn host_leaves(&self, kind: &Kind) -> bool {
        let shown = self.members.nodes.get(&self.id).is_some_and(|m| m.kinds.contains(kind));
        shown && self.host.as_ref().is_some_and(|h| h.leaving && h.offer.kinds.contains(kind))
    }

    /// Grants the next free slot to whoever waits first.
    pub(crate) fn pass_slot(&mut self) {
        let promised = self.granted.len() as u32;
        let Some(host) = self.host.as_mut() else { return };
        if host.slots_used + promised < host.offer.concurrency
            && let Some(next) = host.waiting.pop()
        {
            self.granted.push_back(next);
            self.cover(Transition::SlotPassed);
        }
    }

    /// Whether turns may run ahead of the log (rule L6).
    pub(crate) fn may_speculate(&self) -> bool {
        let has_lease = self.lease_valid || !self.rules.lease;
        let is_strict = |host: &Host| host.offer.strict && self.rules.strict;
        has_lease && self.host.as_ref().is_some_and(|host| !is_strict(host))
    }

    /// Takes a slot for a root turn, or queues it for one.
    pub(crate) fn take_slot(&mut self, partition: &PartitionId, uuid: Uuid) -> bool {
        // Slots that were granted and not taken yet are not free.
        let promised = self.granted.len() as u32;
        let Some(host) = self.host.as_mut() else { return false };
        if host.slots_used + promised < host.offer.concurrency || !self.rules.slots {
            host.slots_used += 1;
            return true;
        }
        host.waiting.push(partition.clone(), uuid);
        false
    }

    /// An invocation that waited for a slot waits no more.
    pub(crate) fn leave_queue(&mut self, uuid: Uuid) {
        if let Some(host) = self.host.as_mut() {
            host.waiting.remove(uuid);
        }
    }

    /// Gives a slot back; whoever waits first is granted it.
    pub(crate) fn free_slot(&mut self) {
        let Some(host) = self.host.as_mut() else { return };
        host.slots_used = host.slots_used.saturating_sub(1);
        self.pass_slot();
    }

    pub(crate) fn limit(&mut self, name: &'static str, limit: usize) -> LimitHit {
        let hit = LimitHit { name, limit: limit as u64 };
        self.notice(Notice::Limit(hit));
        hit
    }
}
