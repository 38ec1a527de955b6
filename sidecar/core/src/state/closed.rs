//! Channels of departed nodes (rule C6).

use std::collections::BTreeSet;

use crate::ids::NodeId;
use crate::inbox::Mark;

/// Nodes whose channels are closed (rule C6). Incarnations grow, so that old ones compress to a floor.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClosedNodes {
    /// Lower incarnations are closed …
    pub(super) floor: NodeId,
    /// … but for these: no more than were alive, or had just gone, when the floor was set.
    pub(super) open: BTreeSet<NodeId>,
    /// Closed ones from the floor on.
    pub(super) above: BTreeSet<NodeId>,
}

impl ClosedNodes {
    /// Whether a node's channel is closed.
    pub(crate) fn contains(&self, node: NodeId) -> bool {
        if node < self.floor { !self.open.contains(&node) } else { self.above.contains(&node) }
    }

    /// Marks that are kept one by one.
    pub(crate) fn len(&self) -> usize {
        self.open.len() + self.above.len()
    }

    /// Closed ones that are not below the floor.
    pub(crate) fn above(&self) -> usize {
        self.above.len()
    }

    /// All of it, as a mark that repeats it.
    pub(crate) fn as_mark(&self) -> Mark {
        Mark {
            nodes: self.above.iter().copied().collect(),
            floor: self.floor,
            open: self.open.iter().copied().collect(),
            is_base: true,
        }
    }

    pub(super) fn close(&mut self, node: NodeId) {
        if node < self.floor {
            self.open.remove(&node);
        } else {
            self.above.insert(node);
        }
    }

    /// Closes everything below a floor but for `open`. What was closed stays closed; what was left open below the last
    /// floor and is not named again has gone without ever having used its channel.
    pub(super) fn raise(&mut self, floor: NodeId, open: &[NodeId]) {
        if floor <= self.floor {
            return;
        }
        let kept = open.iter().filter(|n| **n < floor && !self.contains(**n));
        self.open = kept.copied().collect();
        self.above = self.above.split_off(&floor);
        self.floor = floor;
    }
}
