//! Rules L1, C3, C6 of inboxes: what is said to be taken is in the log, what was promised is done, and nothing is
//! closed without a mark.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use kar_core::ids::{NodeId, Number, Offset, Sender, Uuid};
use kar_core::inbox::{InboxBody, InboxEntry, InboxId, Mark};
use kar_core::invocation::{Mode, Outcome, Owed};
use kar_core::message::Message;

use super::Judge;

/// What is known of inboxes.
#[derive(Clone, Debug, Default)]
pub(crate) struct InboxesModel {
    /// By log: everything that was ever put there.
    entries: BTreeMap<usize, Vec<Arc<InboxEntry>>>,
    /// By log: how far it was taken.
    taken: BTreeMap<usize, Offset>,
    /// By log: the lowest number of each sender that was not known when that was said.
    next: HashMap<(usize, Sender), Number>,
    /// Tells that are in an inbox, with no mark of their node before them.
    durable: HashSet<(usize, Uuid)>,
    /// Those of them that were told to be accepted before the log had them.
    promised: HashMap<Uuid, usize>,
    /// By which ways a number was sent: 1 by peers, 2 by the inbox.
    ways: HashMap<(Sender, usize, Number), u8>,
}

impl Judge<'_> {
    /// A node puts something into an inbox: as if it was sent.
    pub(crate) fn put(&mut self, node: NodeId, entry: &InboxEntry) {
        let (InboxBody::Channel { message, .. } | InboxBody::Node { message, .. }) = &entry.body
        else {
            return;
        };
        self.counts.coverage.sent(message);
        self.check_sent(node, message);
    }

    /// It is there.
    pub(crate) fn in_inbox(&mut self, inbox: &InboxId, offset: Offset, entry: &Arc<InboxEntry>) {
        let InboxId::Partition(partition) = inbox else { return };
        let log = self.log_of(partition);
        let entries = self.inboxes.entries.entry(log).or_default();
        entries.push(entry.clone());
        debug_assert_eq!(entries.len() as Offset, offset);
        let Some((sender, number, owed)) = request(entry) else { return };
        self.way(sender, log, number, 2);
        self.count_late(log, (sender, number), offset);
        let is_tell =
            matches!(owed, Owed::Invocation(i) if i.mode == Mode::Tell && i.key.is_none());
        if let (Sender::Node(node), true) = (sender, is_tell)
            && !self.is_marked(log, *node, offset)
        {
            self.inboxes.durable.insert((log, owed.uuid()));
        }
    }

    /// Counts what was sent by both ways.
    pub(crate) fn way(&mut self, sender: &Sender, log: usize, number: Number, bit: u8) {
        let ways = self.inboxes.ways.entry((sender.clone(), log, number)).or_default();
        let before = *ways;
        *ways |= bit;
        if before != 3 && *ways == 3 {
            self.counts.route_flip += 1;
        }
    }

    /// Counts what comes to an inbox when it has long been done, or when its node has been given up.
    fn count_late(&mut self, log: usize, (sender, number): (&Sender, Number), at: Offset) {
        let uuid = self.logs[log].numbers.get(&(sender.clone(), number));
        let held = uuid.and_then(|uuid| self.logs[log].held.get(uuid));
        if held.is_some_and(|held| held.ended.is_some()) {
            self.counts.accept_after_forget += 1;
        }
        if let Sender::Node(node) = sender
            && self.is_marked(log, *node, at)
        {
            self.counts.accept_after_mark += 1;
        }
    }

    /// Whether a mark closes a node's channel before an offset.
    fn is_marked(&self, log: usize, node: NodeId, before: Offset) -> bool {
        self.marks(log, before).any(|mark| mark.closes(node))
    }

    fn marks(&self, log: usize, before: Offset) -> impl Iterator<Item = &Mark> {
        let entries = self.inboxes.entries.get(&log).into_iter().flatten();
        let entries = entries.take(before.saturating_sub(1) as usize);
        entries.filter_map(|entry| match &entry.body {
            InboxBody::Mark(mark) => Some(mark),
            _ => None,
        })
    }

    /// A log says that its inbox was taken.
    pub(super) fn taken(&mut self, log: usize, offset: Offset, taken: Offset) {
        let before = self.inboxes.taken.insert(log, taken).unwrap_or(0);
        let here = self.inboxes.entries.get(&log).map_or(0, Vec::len) as Offset;
        if taken < before || taken > here {
            let text = format!(
                "{}@{offset}: inbox taken up to {taken}, after {before}, of {here}",
                self.logs[log].id
            );
            return self.wrong("L1 taken once", text);
        }
        self.counts.inbox_taken += taken - before;
        if let Some(text) = self.left_out(log, before, taken, None) {
            self.wrong("L1 taken once", format!("{}@{offset}: {text}", self.logs[log].id));
        }
        for (sender, number) in self.logs[log].numbers.keys() {
            let next = self.inboxes.next.entry((log, sender.clone())).or_insert(1);
            *next = (*next).max(number + 1);
        }
    }

    /// An entry that had to be taken, and that the log does not know.
    fn left_out(
        &self,
        log: usize,
        after: Offset,
        upto: Offset,
        of: Option<NodeId>,
    ) -> Option<String> {
        let entries = self.inboxes.entries.get(&log)?;
        // Where an entry is missing, none behind it is taken.
        let mut in_order: HashMap<&Sender, Number> = HashMap::new();
        let part = entries.iter().enumerate().take(upto as usize).skip(after as usize);
        for (at, entry) in part {
            let (InboxBody::Channel { closed_from, .. }, Some((sender, number, _))) =
                (&entry.body, request(entry))
            else {
                continue;
            };
            let node = if let Sender::Node(node) = sender { Some(*node) } else { None };
            let is_closed = node.is_some_and(|n| self.is_marked(log, n, at as Offset + 1));
            let known = self.inboxes.next.get(&(log, sender.clone())).filter(|_| of.is_none());
            let before = || known.copied().unwrap_or(1);
            let next = in_order.entry(sender).or_insert_with(before);
            // Events that are gone, and channels of subscriptions that are over.
            let is_over = self.is_channel_over(log, sender, number);
            if is_closed || is_over || closed_from > next || of.is_some_and(|of| node != Some(of)) {
                continue;
            }
            *next = (*next).max(number + 1);
            if !self.logs[log].numbers.contains_key(&(sender.clone(), number)) {
                return Some(format!("{sender:?}/{number} at {} is not known", at + 1));
            }
        }
        None
    }

    /// A channel is closed (rule C6).
    pub(super) fn closed_by_mark(&mut self, log: usize, offset: Offset, node: NodeId) {
        let entries = self.inboxes.entries.get(&log).into_iter().flatten();
        let marked = entries.enumerate().find(
            |(_, entry)| matches!(&entry.body, InboxBody::Mark(mark) if mark.nodes.contains(&node)),
        );
        let wrong = match marked {
            None => Some("without a mark in the inbox".into()),
            Some((at, _)) => self.left_out(log, 0, at as Offset, Some(node)),
        };
        if let Some(text) = wrong {
            let text = format!("{}@{offset}: channel of {node:?}: {text}", self.logs[log].id);
            self.wrong("C6 closed by a mark", text);
        }
    }

    /// Entries are gone.
    pub(crate) fn inbox_trimmed(&mut self, inbox: &InboxId, below: Offset) {
        let InboxId::Partition(partition) = inbox else { return };
        let log = self.log_of(partition);
        let taken = self.inboxes.taken.get(&log).copied().unwrap_or(0);
        let base = self.inboxes.entries.get(&log).and_then(|all| all.get(below as usize - 1));
        let base = base.and_then(|entry| match &entry.body {
            InboxBody::Mark(mark) => Some(mark),
            _ => None,
        });
        let repeats = base.is_some_and(|base| {
            let closed = self.marks(log, below).flat_map(|mark| mark.nodes.iter());
            closed.into_iter().all(|node| base.closes(*node))
        });
        if below > taken || !repeats {
            let text = format!("{partition}: below {below}, taken {taken}, repeats {repeats}");
            self.wrong("L1 trimmed when taken", text);
        }
    }

    /// A tell is said to be accepted: it is durable in the inbox, though not in the log yet.
    pub(super) fn is_promised(&mut self, log: usize, uuid: Uuid) -> bool {
        let is_durable = self.inboxes.durable.contains(&(log, uuid));
        if is_durable {
            self.counts.inbox_promised += 1;
            self.inboxes.promised.insert(uuid, log);
        }
        is_durable
    }

    /// At the end: what was promised is done (P1).
    pub(super) fn check_promised(&mut self) {
        let mut lost: Vec<(usize, Uuid)> = Vec::new();
        for (uuid, log) in &self.inboxes.promised {
            let held = self.logs[*log].held.get(uuid);
            let refused = |held: &super::logs::Held| {
                held.ended.as_ref().is_some_and(|e| matches!(e.outcome, Outcome::Refused(_)))
            };
            if held.is_none_or(refused) {
                lost.push((*log, *uuid));
            }
        }
        lost.sort_unstable();
        for (log, uuid) in lost {
            let text = format!("{uuid}, promised by the inbox of {}", self.logs[log].id);
            self.wrong("P1 accepted means done", text);
        }
    }
}

fn request(entry: &InboxEntry) -> Option<(&Sender, Number, &Owed)> {
    match &entry.body {
        InboxBody::Channel { message: Message::Request { sender, number, owed, .. }, .. } => {
            Some((sender, *number, owed))
        }
        _ => None,
    }
}
