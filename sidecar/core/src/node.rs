//! The decisions of one node: everything a sidecar decides, behind one `handle`.

use crate::effect::{Append, Effect};
use crate::event::Event;
use crate::ids::{Epoch, Kind, Millis, NodeId, PartitionId, Uuid};
use crate::invocation::Mode;
use crate::limits::{Limits, Rules};

/// What a node is made from.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Incarnation granted by the membership service.
    pub id: NodeId,
    /// Seed of all ids that the node makes; must differ between incarnations (a driver passes 128 random bits).
    pub seed: u128,
    /// Bounds.
    pub limits: Limits,
    /// Rules switched off, for the simulator only.
    pub rules: Rules,
}

/// All decisions of one sidecar. See the crate's documentation for how to drive it.
#[derive(Debug)]
pub struct Node {}

/// What a node knows of a partition, for people and tools.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionView {
    /// The partition.
    pub id: PartitionId,
    /// Its reign; only partitions that the node serves are shown.
    pub epoch: Epoch,
    /// Invocations that are not finished.
    pub invocations: Vec<InvocationView>,
    /// Actors that are busy or have invocations queued: instance, queued, busy.
    pub actors: Vec<(std::sync::Arc<str>, usize, bool)>,
    /// Obligations to others that are not settled.
    pub owed: usize,
    /// Completed invocations whose outcome is kept.
    pub kept: usize,
}

/// An unfinished invocation, for people and tools.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InvocationView {
    /// Unique part of its id.
    pub uuid: Uuid,
    /// The instance, for actors.
    pub actor: Option<std::sync::Arc<str>>,
    /// Method.
    pub method: std::sync::Arc<str>,
    /// How it was invoked.
    pub mode: Mode,
    /// Where it stands.
    pub phase: Phase,
    /// Attempts begun.
    pub attempt: u32,
}

/// Where an unfinished invocation stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Waits for its turn, a slot or a host.
    Queued,
    /// Its code runs.
    Running,
    /// Its code waits for a call.
    Suspended,
    /// Its last attempt failed; the next one waits.
    Retrying,
}

impl Node {
    /// A node that knows nothing yet; the first event should be [`Event::Members`].
    pub fn new(config: NodeConfig) -> Self {
        let _ = config;
        Self {}
    }

    /// The node's incarnation.
    pub fn id(&self) -> NodeId {
        NodeId(0)
    }

    /// Takes one event in. `now` must never run back.
    pub fn handle(&mut self, now: Millis, event: Event) {
        let _ = (now, event);
    }

    /// Next record to append. Drain these before the other effects.
    pub fn poll_append(&mut self) -> Option<Append> {
        None
    }

    /// Next visible effect.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        None
    }

    /// When [`Event::Tick`] is wanted at the latest; `None`: nothing is waited for.
    pub fn poll_timeout(&self) -> Option<Millis> {
        None
    }

    /// The partitions that the node serves, for people and tools.
    pub fn partitions(&self) -> Vec<PartitionView> {
        Vec::new()
    }

    /// Who owns a partition as far as this node knows, and the kinds' partition counts it knows of.
    pub fn known_kinds(&self) -> Vec<(Kind, u32)> {
        Vec::new()
    }

    /// Root invocations that are not finished.
    pub fn roots_open(&self) -> usize {
        0
    }
}
