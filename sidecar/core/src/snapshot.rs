//! Snapshots: what a partition's log comes to up to a place in it, so that what is before that place need not be read,
//! nor kept. Drivers convert these types to `kar.log.v1` and back.
//!
//! What is in a snapshot is a fact of the log, whoever stored it and however late: it is taken only of records that
//! were read back valid, and it is stored only when the store of actors' states has everything up to there. So nothing
//! that a reign does with it after its end can do harm. That it is *durable* is said by a record of the log that names
//! it; only then may the log be trimmed ([`Op::Snapshot`](crate::record::Op::Snapshot)).

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

use crate::ids::{
    Epoch, InvocationId, Millis, NodeId, Number, Offset, ParseError, PartitionId, Sender,
    TopicPartition, Uuid,
};
use crate::invocation::{Invocation, Outcome};
use crate::record::{RecordedStep, Send};
use crate::reminder::Reminder;
use crate::subscription::{Subscription, SubscriptionFence};
use crate::trouble::Ended;

/// Names a snapshot within its partition: no two reigns ever have the same one, and one reign has the same state at one
/// place. Later places are greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SnapshotKey {
    /// Offset of the last record that it has in it.
    pub position: Offset,
    /// The reign that took it.
    pub epoch: Epoch,
}

/// What tells one stored form of a snapshot from any other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SnapshotProof {
    /// Its length.
    pub bytes: u64,
    /// CRC-32C of it.
    pub checksum: u32,
}

/// A snapshot that a record of the log names: it is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NamedSnapshot {
    /// Its key.
    pub key: SnapshotKey,
    /// What is stored under the key.
    pub proof: SnapshotProof,
    /// The store has to have everything up to here for whoever goes on from the snapshot.
    pub stored: Offset,
    /// When it was named; the store had everything by then.
    pub time: Millis,
}

/// Why nothing came of a request about snapshots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SnapshotFault {
    /// It is not stored as it was written, or this version does not understand it: another one has to do.
    Damaged(Arc<str>),
    /// Nobody could answer, and perhaps it was done: it can be asked for again.
    Unavailable(Arc<str>),
    /// It is refused, and will be: a bound, or something else under the key.
    Refused(Arc<str>),
}

/// What a log comes to: every part of it that a reign is built from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Whose log.
    pub partition: PartitionId,
    /// Offset of the last record in it.
    pub offset: Offset,
    /// Current reign.
    pub epoch: Epoch,
    /// Whose reign.
    pub owner: Option<NodeId>,
    /// The reign has ended in order.
    pub released: bool,
    /// Last sequence number used up in the reign.
    pub seq: u64,
    /// The log's name as a sender.
    pub log: Option<Uuid>,
    /// The partition's clock.
    pub clock: Millis,
    /// Acceptances so far.
    pub order: u64,
    /// Offset of the last record with state operations: the store has to have come so far.
    pub last_write: Offset,
    /// Offset in the inbox up to which everything has been taken over.
    pub inbox: Offset,
    /// Unfinished invocations.
    pub entries: Vec<SavedEntry>,
    /// Outcomes kept for their senders.
    pub kept: Vec<(Uuid, Outcome)>,
    /// Results of `start`.
    pub results: Vec<(Uuid, Outcome)>,
    /// The same in the order they ended; some may be gone.
    pub results_by_age: Vec<(Millis, Uuid)>,
    /// Channels in.
    pub inbound: Vec<SavedInbound>,
    /// Channels out.
    pub outbound: Vec<SavedOutbound>,
    /// Channels into topics.
    pub topics: Vec<SavedTopicChannel>,
    /// Channels of departed nodes.
    pub closed_nodes: SavedClosedNodes,
    /// Tells that ended without success.
    pub dead: Vec<SavedDeadLetter>,
    /// Idempotency keys.
    pub keys: Vec<SavedKey>,
    /// Those whose invocations have ended, in that order.
    pub keys_by_age: Vec<(Millis, Uuid)>,
    /// Snapshots that are named and kept, oldest first.
    pub snapshots: Vec<NamedSnapshot>,
    /// Reminders, with the actors whose they are.
    pub reminders: Vec<(Arc<str>, Arc<Reminder>)>,
    /// Firings that have not ended, and are dropped with their reminders if they have not started.
    pub firings: Vec<(SavedReminderName, Uuid)>,
    /// Subscriptions, by name.
    pub subscriptions: Vec<SavedSubscription>,
    /// The subscription that was created last, also if it is over.
    pub newest_subscription: Uuid,
    /// Channels of subscriptions that are closed, by the partitions that sent them.
    pub fences: Vec<(PartitionId, SubscriptionFence)>,
}

/// A subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedSubscription {
    /// The subscription.
    pub subscription: Arc<Subscription>,
    /// It reads nothing.
    pub paused: bool,
    /// By partition of its topic: every lower offset is done with.
    pub floors: Vec<Offset>,
}

/// An idempotency key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedKey {
    /// Its invocation.
    pub uuid: Uuid,
    /// Digest of what was asked.
    pub digest: u128,
    /// How it ended, if it did and may be asked for.
    pub outcome: Option<Outcome>,
}

/// An unfinished invocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedEntry {
    /// The invocation, at its current step.
    pub invocation: Arc<Invocation>,
    /// Where it came from.
    pub origin: SavedOrigin,
    /// Place among all acceptances.
    pub order: u64,
    /// The current attempt.
    pub attempt: u32,
    /// It is known to have been dispatched.
    pub ran: bool,
    /// It may have been by a reign that was lost, and nothing else tells so.
    pub suspected: bool,
    /// It holds its actor.
    pub holds: bool,
    /// It holds its actor together with other turns of shared methods.
    pub shared: bool,
    /// Calls that are not settled.
    pub children: Vec<(PartitionId, Number)>,
    /// Durable steps.
    pub steps: Vec<SavedStep>,
    /// Its sender no longer wants the outcome.
    pub unwanted: bool,
    /// Its chain of tail calls goes on elsewhere.
    pub moved: bool,
    /// What went wrong so far.
    pub trouble: SavedTrouble,
    /// Somebody asked for its end.
    pub cancel: bool,
    /// It rests.
    pub parked: bool,
}

/// Where an invocation came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SavedOrigin {
    /// Somebody owed it.
    Channel {
        /// The channel it came on.
        sender: Sender,
        /// Its number there.
        number: Number,
    },
    /// A reminder of the partition fired.
    Reminder(SavedReminderName),
    /// Its actor has been idle, and its host is told so.
    Idle,
}

/// Names a reminder in its partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedReminderName {
    /// The actor whose it is.
    pub actor: Arc<str>,
    /// Its id.
    pub id: Arc<str>,
}

/// A durable step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SavedStep {
    /// A value that the program recorded.
    Value(RecordedStep),
    /// A keyed call.
    Call {
        /// Its key.
        key: Arc<str>,
        /// The child.
        child: InvocationId,
        /// Its number in the channel.
        number: Number,
        /// The instance called, for actors.
        actor: Option<Arc<str>>,
        /// The method called.
        method: Arc<str>,
        /// How it ended; absent while it is under way.
        outcome: Option<Outcome>,
    },
}

/// What went wrong with an invocation's current step.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SavedTrouble {
    /// Attempts that ended with a retryable error.
    pub failures: u32,
    /// Attempts lost with their hosts.
    pub losses: u32,
    /// The last attempt that ended so, and how.
    pub last: Option<(u32, Ended)>,
}

/// The receiving end of a channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedInbound {
    /// Who sends.
    pub sender: Sender,
    /// Lower numbers are known.
    pub next: Number,
    /// Calls whose sender may still ask.
    pub live: Vec<(Number, Uuid)>,
}

/// The sending end of a channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedOutbound {
    /// Who receives.
    pub to: PartitionId,
    /// The next number.
    pub next: Number,
    /// What is owed.
    pub open: Vec<Send>,
}

/// The sending end of a channel into a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedTopicChannel {
    /// The topic's partition.
    pub to: TopicPartition,
    /// The next number.
    pub next: Number,
    /// Numbers up to this are in the topic …
    pub landed: Number,
    /// … and all higher ones come after this offset.
    pub since: Offset,
    /// What is owed.
    pub open: Vec<(Number, Bytes)>,
}

/// Nodes whose channels are closed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SavedClosedNodes {
    /// Lower incarnations are closed …
    pub floor: NodeId,
    /// … but for these.
    pub open: Vec<NodeId>,
    /// Closed ones from the floor on.
    pub above: Vec<NodeId>,
}

/// A tell that ended without success.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedDeadLetter {
    /// As its last step was to run.
    pub invocation: Arc<Invocation>,
    /// Where it came from.
    pub origin: SavedOrigin,
    /// How it ended.
    pub outcome: Outcome,
    /// Attempts of its last step.
    pub attempts: u32,
    /// When it ended.
    pub time: Millis,
}

/// What is to become of the earlier snapshots when another one is named.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Plan {
    /// These stay, oldest first.
    pub(crate) keeps: Vec<Offset>,
    /// Lower records may go.
    pub(crate) below: Option<Offset>,
}

/// Parts of the delay that lie between two kept snapshots, at least: a store that went back is healed from the newest
/// one that it reaches up to, so some between the oldest and the newest save reading.
const KEPT_IN_DELAY: Millis = 4;

impl Plan {
    /// The log is cut below the newest snapshot that is old enough: the store may go back by the delay and is healed.
    /// The one before the new one always stays, for the case that the new one is damaged. `known`: since when the store
    /// was known to hold everything, and when that was seen to be so last.
    pub(crate) fn new(
        earlier: &[NamedSnapshot],
        known: RangeInclusive<Millis>,
        delay: Millis,
    ) -> Self {
        let is_old = |named: &NamedSnapshot| {
            named.time.max(*known.start()).saturating_add(delay) <= *known.end()
        };
        let base = earlier.iter().rposition(is_old);
        let from = base.unwrap_or(0);
        let mut keeps: Vec<&NamedSnapshot> = Vec::new();
        for (at, named) in earlier.iter().enumerate().skip(from) {
            let apart = |last: &&NamedSnapshot| named.time >= last.time + delay / KEPT_IN_DELAY;
            if at + 1 == earlier.len() || keeps.last().is_none_or(apart) {
                keeps.push(named);
            }
        }
        Self {
            keeps: keeps.iter().map(|named| named.key.position).collect(),
            below: base.map(|base| earlier[base].key.position + 1),
        }
    }
}

impl Snapshot {
    /// Its key, as stored by a reign.
    pub fn fits(&self, partition: &PartitionId, key: SnapshotKey) -> bool {
        self.partition == *partition && self.offset == key.position && self.epoch == key.epoch
    }
}

impl fmt::Display for SnapshotKey {
    /// Sorts as bytes as it does as a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}-{:020}", self.position, self.epoch)
    }
}

impl FromStr for SnapshotKey {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError {
            text: text.into(),
            wanted: "the key of a snapshot (POSITION-EPOCH, 20 digits each)",
        };
        let (position, epoch) = text.split_once('-').ok_or_else(wrong)?;
        let number = |text: &str| text.parse().map_err(|_| wrong());
        let key = Self { position: number(position)?, epoch: number(epoch)? };
        if key.to_string() == text { Ok(key) } else { Err(wrong()) }
    }
}

impl fmt::Display for SnapshotFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(text) | Self::Unavailable(text) | Self::Refused(text) => {
                f.write_str(text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(position: Offset, time: Millis) -> NamedSnapshot {
        let key = SnapshotKey { position, epoch: 1 };
        NamedSnapshot { key, time, ..NamedSnapshot::default() }
    }

    #[test]
    fn without_a_delay_the_one_before_stays_and_the_log_begins_behind_it() {
        assert_eq!(Plan::new(&[], 0..=9, 0), Plan::default());
        let plan = Plan::new(&[named(10, 1), named(20, 2), named(30, 3)], 0..=9, 0);
        assert_eq!(plan, Plan { keeps: vec![30], below: Some(31) });
    }

    #[test]
    fn with_a_delay_the_log_reaches_back_by_it() {
        let earlier = [named(10, 100), named(20, 200), named(30, 300)];
        assert_eq!(
            Plan::new(&earlier, 0..=399, 300),
            Plan { keeps: vec![10, 20, 30], below: None }
        );
        let plan = Plan::new(&earlier, 0..=500, 300);
        assert_eq!(plan, Plan { keeps: vec![20, 30], below: Some(21) });
        // A reign that has known the store for a shorter time cannot tell that it did not go back before.
        let all = vec![10, 20, 30];
        assert_eq!(Plan::new(&earlier, 201..=500, 300), Plan { keeps: all, below: None });
    }

    #[test]
    fn however_many_there_are_few_stay() {
        let (mut kept, delay) = (Vec::new(), 1_000);
        for time in 0..10_000 {
            let plan = Plan::new(&kept, 0..=time, delay);
            kept.retain(|named: &NamedSnapshot| plan.keeps.contains(&named.key.position));
            kept.push(named(time + 1, time));
            assert!(kept.len() <= 2 * KEPT_IN_DELAY as usize + 2, "{}", kept.len());
            let reach = time - kept[0].time;
            assert!(reach >= delay.min(time), "a store that went back at {time} is not healed");
            assert!(reach <= 2 * delay, "at {time} the log reaches back by {reach}");
        }
    }

    #[test]
    fn keys_are_read_as_they_are_written_and_sort_as_text() {
        let keys = [(1, 1), (9, 3), (10, 2), (u64::MAX, u64::MAX)];
        let keys = keys.map(|(position, epoch)| SnapshotKey { position, epoch });
        let texts = keys.map(|key| key.to_string());
        assert!(texts.is_sorted());
        for (key, text) in keys.iter().zip(&texts) {
            assert_eq!(text.parse(), Ok(*key));
        }
        for text in ["", "1-1", "x", "00000000000000000001", &format!("+{}", &texts[0][1..])] {
            assert!(text.parse::<SnapshotKey>().is_err(), "{text}");
        }
    }
}
