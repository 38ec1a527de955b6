//! Inboxes: logs that anybody may append to, and that whoever they are meant for reads in order (rule L1). What peers
//! cannot carry goes through them. Drivers convert these types to `kar.peer.v1` and back.
//!
//! A **partition's** inbox takes what senders say on their channels to it, whoever owns it and also while nobody does.
//! Its owner logs how far it has taken it over. **Nodes'** inboxes take everything else that one node says to another;
//! a few of them are shared by all nodes, each of which reads the one that its incarnation falls to. Nothing in those
//! is owed: as with a connection, what is lost there is asked for again.

use std::fmt;
use std::str::FromStr;

use crate::ids::{NodeId, Number, ParseError, PartitionId};
use crate::message::Message;

/// Inboxes that nodes share. Few enough that none of them is ever to be removed.
pub const NODE_INBOXES: u64 = 16;

/// Names an inbox.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InboxId {
    /// Read by the partition's owner, and by those who append to it.
    Partition(PartitionId),
    /// Read by the nodes whose incarnations leave this rest when they are divided by [`NODE_INBOXES`].
    Nodes(u64),
}

/// What somebody has put into an inbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InboxEntry {
    /// Who did, and gets the answers.
    pub from: NodeId,
    /// What.
    pub body: InboxBody,
}

/// What is in an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InboxBody {
    /// In partitions' inboxes: what a sender says on its channel, [`Message::Open`] or [`Message::Request`].
    Channel {
        /// What.
        message: Message,
        /// For requests: every number from here up to its own is closed, or known to the receiver. It is what the
        /// sender said last on this way, so who takes all entries in order misses nothing.
        closed_from: Number,
        /// Which run of entries it belongs to: the sender begins a new one with all that is open.
        run: u64,
    },
    /// In nodes' inboxes.
    Node {
        /// For whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// In partitions' inboxes: channels of nodes that are gone end here (rule C6).
    Mark(Mark),
}

/// Closes channels of nodes: what they have put behind it is never taken.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mark {
    /// These nodes'.
    pub nodes: Vec<NodeId>,
    /// Those of all lower incarnations …
    pub floor: NodeId,
    /// … but of these.
    pub open: Vec<NodeId>,
    /// It repeats everything that is closed: what was before it may be trimmed.
    pub is_base: bool,
}

// === impl InboxEntry ===

impl InboxEntry {
    /// Size in bytes, roughly what is stored.
    pub fn size(&self) -> usize {
        const FRAME: usize = 64;
        let numbers = |numbers: &[Number]| std::mem::size_of_val(numbers);
        FRAME
            + match &self.body {
                InboxBody::Channel { message, .. } | InboxBody::Node { message, .. } => {
                    match message {
                        Message::Request { owed, .. } => owed.size(),
                        Message::Open { open, answered, .. } => numbers(open) + numbers(answered),
                        Message::Reply { outcome, .. } => outcome.size(),
                        Message::Inspected { view, .. } => view.len(),
                        _ => FRAME,
                    }
                }
                InboxBody::Mark(mark) => (mark.nodes.len() + mark.open.len()) * 8,
            }
    }
}

// === impl Mark ===

impl Mark {
    /// Whether it closes a node's channel.
    pub fn closes(&self, node: NodeId) -> bool {
        self.nodes.contains(&node) || (node < self.floor && !self.open.contains(&node))
    }
}

// === impl InboxId ===

impl InboxId {
    /// The inbox that a node reads.
    pub fn of_node(node: NodeId) -> Self {
        Self::Nodes(node.0 % NODE_INBOXES)
    }
}

impl fmt::Display for InboxId {
    /// No partition's name is one of these: it ends with a number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(partition) => write!(f, "{partition}.inbox"),
            Self::Nodes(number) => write!(f, "nodes/{number}.inbox"),
        }
    }
}

impl fmt::Debug for InboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for InboxId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError { text: text.into(), wanted: "an inbox (PARTITION.inbox)" };
        let name = text.strip_suffix(".inbox").ok_or_else(wrong)?;
        match name.strip_prefix("nodes/") {
            Some(number) => Ok(Self::Nodes(number.parse().map_err(|_| wrong())?)),
            None => Ok(Self::Partition(name.parse().map_err(|_| wrong())?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Kind;

    #[test]
    fn names_survive_a_round_trip_and_are_no_partitions() {
        let partition = PartitionId::new(Kind::actor("nodes.inbox"), 3);
        for id in [InboxId::Partition(partition), InboxId::of_node(NodeId(35))] {
            assert_eq!(id.to_string().parse(), Ok(id.clone()));
            assert!(id.to_string().parse::<PartitionId>().is_err());
        }
        assert_eq!(InboxId::of_node(NodeId(35)), InboxId::Nodes(3));
    }

    #[test]
    fn a_mark_closes_what_it_names_and_what_is_below_its_floor() {
        let mark = Mark {
            nodes: vec![NodeId(9)],
            floor: NodeId(5),
            open: vec![NodeId(3)],
            is_base: false,
        };
        let closed: Vec<_> = (1..=10).filter(|id| mark.closes(NodeId(*id))).collect();
        assert_eq!(closed, [1, 2, 4, 9]);
    }
}
