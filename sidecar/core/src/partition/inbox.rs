//! The partition's inbox at its owner (rules L1, C6): entries are taken over in order, the log says how far, and what
//! was taken over goes.

use super::Partition;
use super::gate::Gated;
use super::inbound::{Incoming, Stated};
use crate::cover::Transition;
use crate::env::Env;
use crate::ids::{Millis, NodeId, Number, Offset, PartitionId, Sender};
use crate::inbox::{InboxBody, InboxEntry, InboxId, Mark};
use crate::message::Message;
use crate::record::Op;
use crate::route::ReadBack;

/// How far a reign has come with the inbox.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taking {
    /// Everything up to here was taken; 0: nothing by this reign.
    taken: Offset,
    /// When that is logged at the latest.
    pub(super) at: Option<Millis>,
    /// Entries taken since the last trim was begun, and their bytes.
    entries: u64,
    bytes: usize,
}

impl Partition {
    /// The reign begins: the inbox goes on where the log says that it was taken.
    pub(super) fn begin_inbox(&mut self, env: &mut Env) {
        // What earlier reigns have taken and not trimmed counts: short ones would leave more and more.
        let most = env.limits.inbox_trim_entries.saturating_sub(1);
        self.reign.taking.entries = self.state.inbox.min(most);
        env.inboxes.own(&self.id, self.state.inbox);
        if self.state.closed_nodes.contains(env.id) {
            // What a zombie has put there is not taken, and the mark that says so may not be read any more.
            let (sender, from) = (Sender::Node(env.id), self.id.clone());
            env.send(env.id, Message::ChannelClosed { sender, from });
        }
        env.read_inbox(&self.id, self.state.inbox + 1);
    }

    /// The reign is over.
    pub(super) fn end_inbox(&mut self, env: &mut Env) {
        match env.inboxes.disown(&self.id) {
            Some(Some(from)) => env.read_inbox(&self.id, from),
            Some(None) => env.stop_inbox(&self.id),
            None => {}
        }
    }

    /// The next entry.
    pub(crate) fn take_entry(&mut self, env: &mut Env, offset: Offset, entry: &InboxEntry) {
        // After a `Release` nothing is decided any more: the next owner takes it.
        if !self.serving() || self.reign.released {
            return;
        }
        let epoch = self.reign.epoch;
        let from = entry.from;
        let mut may_trim = false;
        match &entry.body {
            InboxBody::Channel { message, closed_from, .. } => {
                self.take_said(env, from, message.clone(), *closed_from);
                self.note_sender(env, message);
            }
            InboxBody::Mark(mark) => may_trim = self.take_mark(env, mark),
            InboxBody::Node { .. } => {}
        }
        if !self.serving() || self.reign.epoch != epoch {
            return;
        }
        let taking = &mut self.reign.taking;
        taking.taken = offset;
        taking.at.get_or_insert(env.now + env.limits.settle_delay_ms);
        taking.entries += 1;
        taking.bytes += entry.size();
        if may_trim {
            self.log_taken(env);
            self.gate(env, Gated::Taken { below: offset });
        }
        self.review_inbox(env);
    }

    /// What a sender says on its channel.
    fn take_said(&mut self, env: &mut Env, from: NodeId, message: Message, closed_from: Number) {
        match message {
            Message::Open { sender, from_epoch, to, highest, open, answered, serial }
                if to == self.id =>
            {
                env.cover(Transition::InboxOpen);
                let stated = Stated { from_epoch, highest, open, answered, serial };
                self.open(env, from, sender, stated);
            }
            Message::Request {
                sender, from_epoch, to, epoch, number, floor, again, owed, ..
            } if to == self.id => {
                env.cover(Transition::InboxRequest);
                let promised =
                    matches!(sender, Sender::Node(_)) && crate::route::is_promised(&owed);
                let incoming = Incoming {
                    from,
                    sender: sender.clone(),
                    from_epoch,
                    epoch,
                    number,
                    floor,
                    asks: false,
                    promised: promised && env.rules.inbox_promise,
                    by_inbox: true,
                    closed_from: Some(closed_from),
                    // Another owner may have taken it before, without telling the log.
                    again: again || env.rules.inbox_again,
                    owed,
                };
                self.request(env, incoming);
                if self.serving() {
                    // The log will say that it was taken, so it has to say what it was.
                    self.log_held(env, &sender, number);
                }
            }
            _ => {}
        }
    }

    /// Its sender may be gone already: nobody else tells that its channel is to be closed.
    fn note_sender(&mut self, env: &Env, message: &Message) {
        let (Message::Open { sender, .. } | Message::Request { sender, .. }) = message else {
            return;
        };
        if let Sender::Node(node) = sender
            && env.has_departed(*node)
            && !self.state.closed_nodes.contains(*node)
        {
            env.cover(Transition::InboxDeparted);
            self.reign.departed.entry(*node).or_insert(env.now);
        }
    }

    /// Everything before the mark has been taken: the channels close. Tells whether what was before it may go.
    fn take_mark(&mut self, env: &mut Env, mark: &Mark) -> bool {
        for node in &mark.nodes {
            self.reign.departed.remove(node);
            if self.state.closed_nodes.contains(*node) {
                continue;
            }
            env.cover(Transition::InboxMark);
            let sender = Sender::Node(*node);
            self.log_held(env, &sender, Number::MAX);
            self.reign.statements.remove(&sender);
            self.reign.senders.remove(&sender);
            let (node, floor, open) = (*node, mark.floor, mark.open.clone());
            self.push(env, Op::CloseChannel { node, floor, open });
        }
        // Who reads the inbox from there has to find all that is closed.
        mark.is_base && *mark == self.state.closed_nodes.as_mark()
    }

    /// Has the channel of a departed node closed, and perhaps those of all lower incarnations.
    pub(super) fn mark_departed(&self, env: &mut Env, node: NodeId, floor: NodeId) {
        let open = if floor.0 > 0 { self.open_below(env, floor) } else { Vec::new() };
        self.append_mark(env, Mark { nodes: vec![node], floor, open, is_base: false });
    }

    fn append_mark(&self, env: &mut Env, mark: Mark) {
        env.append_inbox(InboxId::Partition(self.id.clone()), InboxBody::Mark(mark));
    }

    /// Begins to trim the inbox when there is enough to be trimmed: behind a mark that repeats all marks.
    fn review_inbox(&mut self, env: &mut Env) {
        let (taking, limits) = (&mut self.reign.taking, &env.limits);
        if taking.entries < limits.inbox_trim_entries && taking.bytes < limits.inbox_trim_bytes {
            return;
        }
        (taking.entries, taking.bytes) = (0, 0);
        self.append_mark(env, self.state.closed_nodes.as_mark());
    }

    /// It is in the log that everything below was taken.
    pub(super) fn trim_inbox(&self, env: &mut Env, below: Offset) {
        env.cover(Transition::InboxTrims);
        let inbox = InboxId::Partition(self.id.clone());
        env.emit(crate::effect::Effect::TrimInbox { inbox, below });
    }

    /// Logs how far the inbox was taken: behind everything that was decided about it.
    pub(super) fn log_taken(&mut self, env: &mut Env) {
        self.reign.taking.at = None;
        // With the rule off: the log says more than was taken.
        let more = u64::from(!env.rules.inbox_offset);
        let taken = self.reign.taking.taken + more;
        if self.reign.taking.taken > 0 && taken > self.state.inbox {
            env.cover(Transition::InboxTaken);
            // Who begins behind it does not hear what was closed before it.
            self.log_closings(env);
            self.push(env, Op::Inbox { taken });
        }
    }

    /// A request of this partition was read back from another one's inbox.
    pub(crate) fn read_back(&mut self, env: &mut Env, to: &PartitionId, what: ReadBack) {
        if self.serving() {
            let (route, out) = self.route_parts(to);
            route.read_back(env, out, what);
        }
    }

    /// What was appended to another partition's inbox may be lost.
    pub(crate) fn inbox_lost(&mut self, env: &Env, to: &PartitionId) {
        if let Some(route) = self.reign.routes.get_mut(to) {
            route.break_run(env);
        }
        self.reign.deliveries.inbox_lost(env, to);
    }
}
