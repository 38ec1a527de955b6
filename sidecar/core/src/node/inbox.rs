//! What comes from inboxes: to partitions that the node owns, to those who have put something there, and to the node.

use std::sync::Arc;

use super::Node;
use crate::cover::Transition;
use crate::effect::Effect;
use crate::ids::{NodeId, Offset, PartitionId, ProposalId, Sender};
use crate::inbox::{InboxBody, InboxEntry, InboxId};
use crate::inboxes::Read;
use crate::message::Message;
use crate::route::{ReadBack, Said};

impl Node {
    /// An entry was read.
    pub(super) fn inbox_read(&mut self, inbox: InboxId, offset: Offset, entry: Arc<InboxEntry>) {
        match inbox {
            InboxId::Partition(partition) => {
                let read = self.env.inboxes.read(&partition, offset, entry);
                self.go_on(&partition, offset, read);
            }
            InboxId::Nodes(_) if inbox == self.own_inbox() => self.node_inbox(offset, &entry),
            InboxId::Nodes(_) => {}
        }
    }

    /// Something that this node has appended was read back.
    pub(super) fn inbox_own(&mut self, inbox: InboxId, offset: Offset, proposal: ProposalId) {
        match inbox {
            InboxId::Partition(partition) => {
                let read = self.env.inboxes.read_own(&partition, offset, proposal);
                self.go_on(&partition, offset, read);
            }
            // It is meant for a node that shares the inbox.
            InboxId::Nodes(_) if inbox == self.own_inbox() => {
                if self.env.inboxes.node == offset {
                    self.env.inboxes.node += 1;
                }
            }
            InboxId::Nodes(_) => {}
        }
    }

    fn go_on(&mut self, partition: &PartitionId, offset: Offset, read: Read) {
        match read {
            Read::Entry(entry) => self.partition_inbox(partition, offset, &entry),
            Read::From(from) => {
                self.env.cover(Transition::InboxOwnLate);
                self.env.read_inbox(partition, from);
            }
            Read::Old => {}
        }
    }

    /// The next entry of a partition's inbox. Whoever has put it there learns that it is durable, and whether its
    /// channel was closed before (rule C6); the owner takes it.
    fn partition_inbox(&mut self, partition: &PartitionId, offset: Offset, entry: &InboxEntry) {
        let own = self.env.id;
        match &entry.body {
            InboxBody::Mark(mark) if mark.closes(own) && self.env.rules.inbox_mark => {
                self.env.cover(Transition::InboxMarked);
                self.roots.channel_closed(&mut self.env, partition);
            }
            InboxBody::Channel { message, run, .. } if entry.from == own => {
                let (sender, from_epoch, said) = match message {
                    Message::Request { sender, from_epoch, number, .. } => {
                        (sender, *from_epoch, Said::Request(*number))
                    }
                    Message::Open { sender, from_epoch, serial, .. } => {
                        (sender, *from_epoch, Said::Statement(*serial))
                    }
                    // No partition's inbox has anything else.
                    _ => return,
                };
                let what = ReadBack { from_epoch, run: *run, said };
                match sender {
                    Sender::Node(_) => self.roots.read_back(&mut self.env, partition, what),
                    Sender::Log { partition: from, .. } => {
                        self.with(from, |p, env| p.read_back(env, partition, what));
                    }
                    Sender::Subscription { partition: from, subscription, topic_partition } => {
                        let name = (*subscription, *topic_partition);
                        self.with(from, |p, env| p.delivery_read_back(env, name, partition, what));
                    }
                }
            }
            _ => {}
        }
        self.with(partition, |p, env| p.take_entry(env, offset, entry));
    }

    fn own_inbox(&self) -> InboxId {
        InboxId::of_node(self.env.id)
    }

    /// Begins to read the own inbox, if it is not read yet.
    pub(super) fn follow_own_inbox(&mut self) {
        if self.env.inboxes.node == 0 {
            self.read_own_inbox(1);
        }
    }

    fn read_own_inbox(&mut self, from: Offset) {
        self.env.inboxes.node = from;
        let inbox = self.own_inbox();
        self.env.emit(Effect::ReadInbox { inbox, from });
    }

    /// The next entry of the own inbox. Several nodes read it, so what is trimmed stays for as long again as it took
    /// this node to read so much: who is slower loses its place, and with it what was meant for it.
    fn node_inbox(&mut self, offset: Offset, entry: &InboxEntry) {
        let inboxes = &mut self.env.inboxes;
        if inboxes.node != offset {
            return;
        }
        inboxes.node += 1;
        inboxes.node_read += entry.size();
        if inboxes.node_read >= self.env.limits.inbox_trim_bytes {
            inboxes.node_read = 0;
            let below = std::mem::replace(&mut inboxes.node_mark, offset + 1);
            if below > 0 {
                let inbox = self.own_inbox();
                self.env.emit(Effect::TrimInbox { inbox, below });
            }
        }
        if let InboxBody::Node { to, message } = &entry.body
            && *to == self.env.id
        {
            self.message(entry.from, message.clone());
        }
    }

    /// Reading or appending broke off.
    pub(super) fn inbox_lost(&mut self, inbox: InboxId) {
        match inbox {
            InboxId::Partition(partition) => {
                if let Some(from) = self.env.inboxes.lost(&partition) {
                    self.env.cover(Transition::InboxLost);
                    self.env.read_inbox(&partition, from);
                }
                self.roots.inbox_lost(&self.env, &partition);
                self.each(|p, env| p.inbox_lost(env, &partition));
            }
            InboxId::Nodes(_) if inbox == self.own_inbox() => {
                self.read_own_inbox(self.env.inboxes.node.max(1));
                self.lose_links(|_| true);
            }
            InboxId::Nodes(_) => self.lose_links(|node| InboxId::of_node(node) == inbox),
        }
    }

    /// What was to be read next was trimmed.
    pub(super) fn inbox_trimmed(&mut self, inbox: InboxId, start: Offset) {
        match inbox {
            InboxId::Partition(partition) => match self.env.inboxes.trimmed(&partition, start) {
                Some(true) => self.with(&partition, |p, env| {
                    // Only a later reign has taken what this one has not.
                    p.drop_all(env, "another reign has trimmed the inbox", (0, None));
                }),
                Some(false) => self.env.read_inbox(&partition, start),
                None => {}
            },
            InboxId::Nodes(_) if inbox == self.own_inbox() && start > self.env.inboxes.node => {
                let is_new = self.env.inboxes.node <= 1;
                self.read_own_inbox(start);
                if !is_new {
                    self.env.cover(Transition::NodeInboxTrimmed);
                    self.lose_links(|_| true);
                }
            }
            InboxId::Nodes(_) => {}
        }
    }

    /// What was under way to nodes that are reached by inboxes, or from them, may be lost.
    fn lose_links(&mut self, which: impl Fn(NodeId) -> bool) {
        let members = self.env.members.nodes.keys().copied();
        let nodes: Vec<_> =
            members.filter(|node| which(*node) && self.env.by_inbox(*node)).collect();
        for node in nodes {
            self.env.cover(Transition::NodeInboxLost);
            self.routes(Some(node));
        }
    }
}
