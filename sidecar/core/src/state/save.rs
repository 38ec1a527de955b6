//! The state as a snapshot, and back. Every struct is taken apart and put together field by field, so that a new field
//! does not compile until it is in both, and in the stored form.

use std::collections::BTreeMap;

use super::{ClosedNodes, Entry, Inbound, LogState, Outbound, Outcomes};
use crate::dead::{DeadLetter, DeadLetters};
use crate::ids::{PartitionId, Sender, Uuid};
use crate::invocation::Outcome;
use crate::record::Send;
use crate::size::Tally;
use crate::snapshot::{
    SavedClosedNodes, SavedDeadLetter, SavedEntry, SavedInbound, SavedOutbound, SavedTrouble,
    Snapshot,
};
use crate::steps::Steps;
use crate::trouble::Trouble;

impl LogState {
    /// Everything that the log comes to.
    pub(crate) fn save(&self, partition: &PartitionId) -> Snapshot {
        let Self {
            offset,
            epoch,
            owner,
            released,
            seq,
            log,
            entries,
            kept,
            results,
            results_by_age,
            inbound,
            outbound,
            // Counted anew.
            owed: _,
            closed_nodes,
            dead,
            order,
            clock,
            last_write,
            snapshots,
        } = self;
        Snapshot {
            partition: partition.clone(),
            offset: *offset,
            epoch: *epoch,
            owner: *owner,
            released: *released,
            seq: *seq,
            log: *log,
            clock: *clock,
            order: *order,
            last_write: *last_write,
            entries: entries.values().map(Entry::save).collect(),
            kept: kept.save(),
            results: results.save(),
            results_by_age: results_by_age.iter().copied().collect(),
            inbound: inbound.iter().map(|(sender, inbound)| inbound.save(sender)).collect(),
            outbound: outbound.iter().map(|(to, outbound)| outbound.save(to)).collect(),
            closed_nodes: closed_nodes.save(),
            dead: dead.iter().map(DeadLetter::save).collect(),
            snapshots: snapshots.clone(),
        }
    }

    /// The state that a snapshot holds.
    pub(crate) fn restore(snapshot: Snapshot) -> Self {
        let Snapshot {
            partition: _,
            offset,
            epoch,
            owner,
            released,
            seq,
            log,
            clock,
            order,
            last_write,
            entries,
            kept,
            results,
            results_by_age,
            inbound,
            outbound,
            closed_nodes,
            dead,
            snapshots,
        } = snapshot;
        let entries = entries.into_iter().map(|e| (e.invocation.uuid, Entry::restore(e)));
        let outbound: BTreeMap<_, _> = outbound.into_iter().map(Outbound::restore).collect();
        let mut owed = Tally::default();
        for obligation in outbound.values().flat_map(|outbound| outbound.open.values()) {
            owed.add(obligation.size());
        }
        let mut letters = DeadLetters::default();
        dead.into_iter().for_each(|letter| letters.insert(DeadLetter::restore(letter)));
        Self {
            offset,
            epoch,
            owner,
            released,
            seq,
            log,
            entries: entries.collect(),
            kept: Outcomes::restore(kept),
            results: Outcomes::restore(results),
            results_by_age: results_by_age.into(),
            inbound: inbound.into_iter().map(Inbound::restore).collect(),
            outbound,
            owed,
            closed_nodes: ClosedNodes::restore(closed_nodes),
            dead: letters,
            order,
            clock,
            last_write,
            snapshots,
        }
    }
}

impl Entry {
    fn save(&self) -> SavedEntry {
        let Self {
            invocation,
            sender,
            number,
            order,
            attempt,
            ran,
            holds,
            children,
            steps,
            unwanted,
            moved,
            trouble,
            cancel,
            parked,
        } = self;
        SavedEntry {
            invocation: invocation.clone(),
            sender: sender.clone(),
            number: *number,
            order: *order,
            attempt: *attempt,
            ran: *ran,
            holds: *holds,
            children: children.iter().cloned().collect(),
            steps: steps.save(),
            unwanted: *unwanted,
            moved: *moved,
            trouble: trouble.save(),
            cancel: *cancel,
            parked: *parked,
        }
    }

    fn restore(saved: SavedEntry) -> Self {
        let SavedEntry {
            invocation,
            sender,
            number,
            order,
            attempt,
            ran,
            holds,
            children,
            steps,
            unwanted,
            moved,
            trouble,
            cancel,
            parked,
        } = saved;
        Self {
            invocation,
            sender,
            number,
            order,
            attempt,
            ran,
            holds,
            children: children.into_iter().collect(),
            steps: Steps::restore(steps),
            unwanted,
            moved,
            trouble: Trouble::restore(trouble),
            cancel,
            parked,
        }
    }
}

impl Trouble {
    fn save(&self) -> SavedTrouble {
        let Self { failures, losses, last } = self;
        SavedTrouble { failures: *failures, losses: *losses, last: last.clone() }
    }

    fn restore(saved: SavedTrouble) -> Self {
        let SavedTrouble { failures, losses, last } = saved;
        Self { failures, losses, last }
    }
}

impl Outcomes {
    fn save(&self) -> Vec<(Uuid, Outcome)> {
        let Self { by_uuid, tally: _ } = self;
        by_uuid.iter().map(|(uuid, outcome)| (*uuid, outcome.clone())).collect()
    }

    fn restore(saved: Vec<(Uuid, Outcome)>) -> Self {
        let mut outcomes = Self::default();
        saved.into_iter().for_each(|(uuid, outcome)| outcomes.insert(uuid, outcome));
        outcomes
    }
}

impl Inbound {
    fn save(&self, sender: &Sender) -> SavedInbound {
        let Self { next, live } = self;
        let live = live.iter().map(|(number, uuid)| (*number, *uuid)).collect();
        SavedInbound { sender: sender.clone(), next: *next, live }
    }

    fn restore(saved: SavedInbound) -> (Sender, Self) {
        let SavedInbound { sender, next, live } = saved;
        (sender, Self { next, live: live.into_iter().collect() })
    }
}

impl Outbound {
    fn save(&self, to: &PartitionId) -> SavedOutbound {
        let Self { next, open } = self;
        let send = |(number, obligation): (&u64, &crate::invocation::Obligation)| Send {
            number: *number,
            obligation: obligation.clone(),
        };
        SavedOutbound { to: to.clone(), next: *next, open: open.iter().map(send).collect() }
    }

    fn restore(saved: SavedOutbound) -> (PartitionId, Self) {
        let SavedOutbound { to, next, open } = saved;
        let open = open.into_iter().map(|send| (send.number, send.obligation)).collect();
        (to, Self { next, open })
    }
}

impl ClosedNodes {
    fn save(&self) -> SavedClosedNodes {
        let Self { floor, open, above } = self;
        SavedClosedNodes {
            floor: *floor,
            open: open.iter().copied().collect(),
            above: above.iter().copied().collect(),
        }
    }

    fn restore(saved: SavedClosedNodes) -> Self {
        let SavedClosedNodes { floor, open, above } = saved;
        Self { floor, open: open.into_iter().collect(), above: above.into_iter().collect() }
    }
}

impl DeadLetter {
    fn save(&self) -> SavedDeadLetter {
        let Self { invocation, sender, number, outcome, attempts, time } = self;
        SavedDeadLetter {
            invocation: invocation.clone(),
            sender: sender.clone(),
            number: *number,
            outcome: outcome.clone(),
            attempts: *attempts,
            time: *time,
        }
    }

    fn restore(saved: SavedDeadLetter) -> Self {
        let SavedDeadLetter { invocation, sender, number, outcome, attempts, time } = saved;
        Self { invocation, sender, number, outcome, attempts, time }
    }
}
