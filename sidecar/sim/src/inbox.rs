//! Simulated inboxes: lists of entries that everybody may append to, with appends that travel, are lost and come late,
//! and readers that lag.

use std::collections::VecDeque;
use std::sync::Arc;

use kar_core::event::Event;
use kar_core::ids::{Offset, ProposalId};
use kar_core::inbox::{InboxEntry, InboxId};

use crate::history::Seen;
use crate::log::{Fate, Reader};
use crate::plan::MS;
use crate::world::{Due, Input, World};

/// An entry in an inbox.
#[derive(Clone, Debug)]
struct Stored {
    slot: usize,
    inst: u64,
    issue: u64,
    proposal: ProposalId,
    entry: Arc<InboxEntry>,
}

/// An inbox with its readers, by slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimInbox {
    entries: VecDeque<Stored>,
    /// Offset of the last entry that was trimmed.
    trimmed: Offset,
    readers: Vec<Reader>,
}

/// An append under way.
#[derive(Clone, Debug)]
pub(crate) struct InboxLanding {
    pub(crate) slot: usize,
    pub(crate) inst: u64,
    pub(crate) hub: u64,
    pub(crate) inbox: InboxId,
    issue: u64,
    proposal: ProposalId,
    entry: Arc<InboxEntry>,
}

impl SimInbox {
    fn last(&self) -> Offset {
        self.trimmed + self.entries.len() as Offset
    }

    fn at(&self, offset: Offset) -> Option<&Stored> {
        self.entries.get(offset.checked_sub(self.trimmed + 1)? as usize)
    }
}

impl World {
    /// Whether this is an explored world that does not explore inboxes.
    fn quick_inboxes(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.quick_inboxes)
    }

    fn inbox(&mut self, inbox: &InboxId) -> &mut SimInbox {
        let slots = self.slots.len();
        let new = || SimInbox { readers: vec![Reader::default(); slots], ..SimInbox::default() };
        self.inboxes.entry(inbox.clone()).or_insert_with(new)
    }

    /// Sends an entry on its way.
    pub(crate) fn append_inbox(
        &mut self,
        slot: usize,
        inbox: InboxId,
        proposal: ProposalId,
        entry: Arc<InboxEntry>,
    ) {
        self.slots[slot].issue += 1;
        let issue = self.slots[slot].issue;
        let fate = match self.hooks.inbox.as_mut() {
            Some(hook) => hook(slot, &inbox, &entry),
            None => Fate::Chance,
        };
        let fate = if fate == Fate::Chance { self.draw_fate() } else { fate };
        self.say(|| format!("n{slot} puts into {inbox:?} {entry:?} {fate:?}"));
        let node = self.slots[slot].id;
        self.note(Seen::Put { node, entry: entry.clone() });
        let (inst, hub) = (self.slots[slot].inst, self.hub);
        let shared = matches!(inbox, InboxId::Nodes(_));
        let landing =
            InboxLanding { slot, inst, hub, inbox: inbox.clone(), issue, proposal, entry };
        if self.quick_inboxes() {
            // Explored worlds have one kind of choice less.
            return self.inbox_lands(landing);
        }
        let wanted = self.now + self.rng.range(100, 900) + self.hiccup();
        match fate {
            Fate::Chance | Fate::Lands | Fate::Slow(_) => {
                let more = if let Fate::Slow(us) = fate { us } else { 0 };
                let lane = &mut self.inbox(&inbox).readers[slot].append_lane;
                let at = lane.arrive(wanted + more);
                self.push(at, Due::InboxLand(landing));
            }
            Fate::Late(us) => self.push(wanted + us, Due::InboxLand(landing)),
            // What is lost on the way to a node is always told: nothing else would tell it.
            Fate::Lost(told) => {
                let told = told.or(shared.then_some(50 * MS));
                if let Some(us) = told {
                    self.push(wanted + us, Due::InboxLost { slot, inst, inbox });
                }
            }
        }
    }

    /// An entry arrives.
    pub(crate) fn inbox_lands(&mut self, landing: InboxLanding) {
        let InboxLanding { slot, inst, hub, inbox, issue, proposal, entry } = landing;
        let orphan = self.slots[slot].inst != inst || self.hub != hub;
        if orphan && !self.hooks.lands_orphaned && self.rng.chance(500) {
            return;
        }
        let node = self.slots[slot].ids[inst as usize];
        let stored = Stored { slot, inst, issue, proposal, entry: entry.clone() };
        let of = self.inbox(&inbox);
        of.entries.push_back(stored);
        let offset = of.last();
        self.say(|| format!("{inbox:?} @{offset} {node:?} {entry:?}"));
        self.note(Seen::InInbox { inbox: inbox.clone(), offset, entry });
        for reader in 0..self.slots.len() {
            if self.inbox(&inbox).readers[reader].active {
                self.show_inbox(reader, &inbox, offset);
            }
        }
    }

    fn show_inbox(&mut self, slot: usize, inbox: &InboxId, offset: Offset) {
        let inst = self.slots[slot].inst;
        let of = self.inbox(inbox);
        let since = of.readers[slot].since;
        let Some(stored) = of.at(offset) else { return };
        let own = stored.slot == slot && stored.inst == inst && stored.issue > since;
        let (entry, proposal, inbox) = (stored.entry.clone(), stored.proposal, inbox.clone());
        let event = if own {
            Event::InboxOwn { inbox: inbox.clone(), offset, proposal }
        } else {
            Event::InboxRead { inbox: inbox.clone(), offset, entry }
        };
        self.tell_inbox_reader(slot, inbox, event);
    }

    fn tell_inbox_reader(&mut self, slot: usize, inbox: InboxId, event: Event) {
        let wanted = self.now + self.rng.range(50, 400) + self.hiccup();
        let reader = &mut self.inbox(&inbox).readers[slot];
        let at = reader.lane.arrive(wanted);
        let generation = reader.generation;
        self.input(at, slot, Input::Inbox { inbox, generation, event });
    }

    /// A node asks to read an inbox.
    pub(crate) fn read_inbox(&mut self, slot: usize, inbox: InboxId, from: Offset) {
        let (since, inst) = (self.slots[slot].issue, self.slots[slot].inst);
        let reader = &mut self.inbox(&inbox).readers[slot];
        reader.generation += 1;
        reader.wanted = true;
        reader.active = false;
        reader.since = since;
        let generation = reader.generation;
        if self.quick_inboxes() {
            return self.serve_inbox(slot, &inbox, generation, from);
        }
        let wanted = self.now + self.rng.range(50, 400);
        let at = self.slots[slot].log_lane.arrive(wanted);
        self.push(at, Due::InboxServe { slot, inst, inbox, generation, from });
    }

    /// An inbox takes up what was asked of it.
    pub(crate) fn serve_inbox(
        &mut self,
        slot: usize,
        inbox: &InboxId,
        generation: u64,
        from: Offset,
    ) {
        let of = self.inbox(inbox);
        let (start, last) = (of.trimmed + 1, of.last());
        let reader = &mut of.readers[slot];
        if reader.generation != generation || !reader.wanted {
            return;
        }
        if from < start {
            reader.wanted = false;
            let event = Event::InboxTrimmed { inbox: inbox.clone(), start };
            return self.tell_inbox_reader(slot, inbox.clone(), event);
        }
        reader.active = true;
        for offset in from..=last {
            self.show_inbox(slot, inbox, offset);
        }
    }

    /// Whether an event of a reading still counts.
    pub(crate) fn inbox_counts(&self, slot: usize, inbox: &InboxId, generation: u64) -> bool {
        self.inboxes.get(inbox).is_some_and(|i| i.readers[slot].generation == generation)
    }

    /// A node follows an inbox no longer.
    pub(crate) fn stop_inbox(&mut self, slot: usize, inbox: &InboxId) {
        let reader = &mut self.inbox(inbox).readers[slot];
        reader.generation += 1;
        reader.wanted = false;
        reader.active = false;
    }

    /// The entries below an offset go.
    pub(crate) fn trim_inbox(&mut self, inbox: &InboxId, below: Offset) {
        let of = self.inbox(inbox);
        let gone = (below.saturating_sub(of.trimmed + 1) as usize).min(of.entries.len());
        of.entries.drain(..gone);
        of.trimmed += gone as Offset;
        if gone > 0 {
            let inbox = inbox.clone();
            self.say(|| format!("{inbox:?} starts @{below}"));
            self.note(Seen::InboxTrimmed { inbox, below });
        }
    }

    /// Reading or appending breaks off, and the node is told.
    pub(crate) fn lose_inbox(&mut self, slot: usize, inbox: InboxId) {
        if self.slots[slot].node.is_some() {
            self.stop_inbox(slot, &inbox);
            self.input(self.now, slot, Input::Event(Event::InboxLost { inbox }));
        }
    }

    /// A node is no more, or the hub is: nothing is read any more. Tells which were read.
    pub(crate) fn inboxes_read(&self, slot: usize) -> Vec<InboxId> {
        let wanted = self.inboxes.iter().filter(|(_, inbox)| inbox.readers[slot].wanted);
        wanted.map(|(id, _)| id.clone()).collect()
    }
}
