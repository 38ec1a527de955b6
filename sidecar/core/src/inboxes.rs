//! The inboxes that a node reads and writes: where it stands in each, and what it has put there and not read back.
//!
//! ```text
//! (absent) --(a channel of this node takes this way)--> Sender: from where the inbox begins, or the first entry unseen
//! (absent), Sender --(this node's reign begins)--> Owner: behind what the log says was taken
//! Owner    --(the reign ends)--> Sender, if channels of this node need it, else (absent)
//! ```
//!
//! Who appends reads, too: only what was read back is durable, and only so does a sender see whether its channel was
//! closed before (rule C6). That stays so, so nothing is read for it twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::ids::{Offset, PartitionId, ProposalId, Sender};
use crate::inbox::InboxEntry;

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inboxes {
    tails: BTreeMap<PartitionId, Tail>,
    /// Inboxes that are not read now: the first offset that this node has not seen.
    unseen: BTreeMap<PartitionId, Offset>,
    /// The own inbox: the next offset wanted; 0 before it is read.
    pub(crate) node: Offset,
    /// Bytes of it that were read since it was trimmed, and where that was.
    pub(crate) node_read: usize,
    pub(crate) node_mark: Offset,
}

/// Where a node stands in the inbox of a partition.
#[derive(Clone, Debug, Default)]
struct Tail {
    /// This node owns the partition.
    owner: bool,
    /// Channels of this node that take this way.
    senders: BTreeSet<Sender>,
    /// The next offset wanted.
    next: Offset,
    /// The first offset that this node has not seen: an owner may begin above it.
    unseen: Offset,
    /// What was appended and not read back, in order.
    own: VecDeque<(ProposalId, Arc<InboxEntry>)>,
}

/// What an event about an inbox comes to.
#[derive(Debug)]
pub(crate) enum Read {
    /// Here is the next entry.
    Entry(Arc<InboxEntry>),
    /// The inbox is to be read from here, again.
    From(Offset),
    /// Nothing: it is of a reading that has ended.
    Old,
}

impl Inboxes {
    /// A channel takes this way. Where the reading is to begin, if it does not go on already.
    pub(crate) fn follow(&mut self, inbox: &PartitionId, sender: &Sender) -> Option<Offset> {
        let tail = self.tail(inbox);
        tail.senders.insert(sender.clone());
        tail.begin(tail.unseen)
    }

    fn tail(&mut self, inbox: &PartitionId) -> &mut Tail {
        let Self { tails, unseen, .. } = self;
        tails.entry(inbox.clone()).or_insert_with(|| {
            let unseen = unseen.remove(inbox).unwrap_or(1);
            Tail { unseen, ..Tail::default() }
        })
    }

    fn drop_tail(&mut self, inbox: &PartitionId) {
        if let Some(tail) = self.tails.remove(inbox) {
            self.unseen.insert(inbox.clone(), tail.unseen);
        }
    }

    /// A channel takes it no more; tells whether the reading is to end.
    pub(crate) fn leave(&mut self, inbox: &PartitionId, sender: &Sender) -> bool {
        let Some(tail) = self.tails.get_mut(inbox) else { return false };
        tail.senders.remove(sender);
        let is_over = tail.senders.is_empty() && !tail.owner;
        if is_over {
            self.drop_tail(inbox);
        }
        is_over
    }

    /// A reign begins: what follows `taken` is to be read.
    pub(crate) fn own(&mut self, inbox: &PartitionId, taken: Offset) {
        let tail = self.tail(inbox);
        tail.owner = true;
        tail.next = taken + 1;
    }

    /// The reign is over. Whether the reading is to end, or where it is to begin again: marks of before the reign were
    /// in the log.
    pub(crate) fn disown(&mut self, inbox: &PartitionId) -> Option<Option<Offset>> {
        let tail = self.tails.get_mut(inbox).filter(|tail| tail.owner)?;
        tail.owner = false;
        if tail.senders.is_empty() {
            self.drop_tail(inbox);
            return Some(None);
        }
        tail.next = tail.unseen;
        Some(Some(tail.next))
    }

    /// Something was appended.
    pub(crate) fn appended(
        &mut self,
        inbox: &PartitionId,
        id: ProposalId,
        entry: &Arc<InboxEntry>,
    ) {
        if let Some(tail) = self.tails.get_mut(inbox) {
            tail.own.push_back((id, entry.clone()));
        }
    }

    /// An entry was read.
    pub(crate) fn read(
        &mut self,
        inbox: &PartitionId,
        offset: Offset,
        entry: Arc<InboxEntry>,
    ) -> Read {
        let Some(tail) = self.tails.get_mut(inbox).filter(|tail| tail.next == offset) else {
            return Read::Old;
        };
        tail.advance();
        Read::Entry(entry)
    }

    /// Something that was appended was read back.
    pub(crate) fn read_own(&mut self, inbox: &PartitionId, offset: Offset, id: ProposalId) -> Read {
        let Some(tail) = self.tails.get_mut(inbox).filter(|tail| tail.next == offset) else {
            return Read::Old;
        };
        let Some(at) = tail.own.iter().position(|(own, _)| *own == id) else {
            // It came late, and is no longer held here: it is read as everybody reads it.
            return Read::From(offset);
        };
        // What was appended before it was lost, or comes late.
        tail.own.drain(..at);
        tail.advance();
        tail.own.pop_front().map_or(Read::Old, |(_, entry)| Read::Entry(entry))
    }

    /// Reading and appending broke off; where to go on.
    pub(crate) fn lost(&mut self, inbox: &PartitionId) -> Option<Offset> {
        let tail = self.tails.get_mut(inbox)?;
        tail.own.clear();
        Some(tail.next)
    }

    /// What was to be read next was trimmed. A sender goes on where the inbox begins now; an owner does not: tells
    /// whether this is one.
    pub(crate) fn trimmed(&mut self, inbox: &PartitionId, start: Offset) -> Option<bool> {
        let tail = self.tails.get_mut(inbox).filter(|tail| tail.next < start)?;
        if !tail.owner {
            tail.next = start;
            // The mark there repeats what was closed before.
            tail.unseen = tail.unseen.max(start);
        }
        Some(tail.owner)
    }
}

impl Tail {
    fn advance(&mut self) {
        if self.unseen == self.next {
            self.unseen += 1;
        }
        self.next += 1;
    }

    fn begin(&mut self, from: Offset) -> Option<Offset> {
        (self.next == 0).then(|| {
            self.next = from;
            from
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Kind, NodeId};
    use crate::inbox::{InboxBody, Mark};

    fn inbox() -> PartitionId {
        PartitionId::new(Kind::actor("Account"), 0)
    }

    fn read(inboxes: &mut Inboxes, offset: Offset) -> bool {
        let body = InboxBody::Mark(Mark::default());
        let entry = Arc::new(InboxEntry { from: NodeId(1), body });
        matches!(inboxes.read(&inbox(), offset, entry), Read::Entry(_))
    }

    #[test]
    fn what_was_seen_once_is_not_read_for_a_sender_again() {
        let (mut inboxes, sender) = (Inboxes::default(), Sender::Node(NodeId(1)));
        assert_eq!(inboxes.follow(&inbox(), &sender), Some(1));
        assert!((1..=3).all(|offset| read(&mut inboxes, offset)));
        assert!(inboxes.leave(&inbox(), &sender));
        assert_eq!(inboxes.follow(&inbox(), &sender), Some(4));
        // An owner begins where the log says: below what was seen, or above.
        inboxes.own(&inbox(), 2);
        assert!((3..=5).all(|offset| read(&mut inboxes, offset)));
        assert_eq!(inboxes.disown(&inbox()), Some(Some(6)));
        inboxes.own(&inbox(), 7);
        assert!(!read(&mut inboxes, 6) && read(&mut inboxes, 8));
        assert_eq!(inboxes.disown(&inbox()), Some(Some(6)), "marks may be among them");
        assert_eq!(inboxes.trimmed(&inbox(), 8), Some(false));
        assert!(inboxes.leave(&inbox(), &sender));
        assert_eq!(inboxes.follow(&inbox(), &sender), Some(8));
    }
}
