//! The state as a snapshot, and back. Every struct is taken apart and put together field by field, so that a new field
//! does not compile until it is in both, and in the stored form.
//!
//! Longer than most: two functions for each struct of the state, there and back, side by side.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::topics::TopicChannel;
use super::{ClosedNodes, Entry, Inbound, LogState, Origin, Outbound, Outcomes, Topics};
use crate::agenda::{Agenda, Key};
use crate::dead::{DeadLetter, DeadLetters};
use crate::ids::{PartitionId, Sender, TopicPartition, Uuid};
use crate::invocation::Outcome;
use crate::keys::Keys;
use crate::record::Send;
use crate::reminder::{Reminder, ReminderChange};
use crate::size::Tally;
use crate::snapshot::{
    SavedClosedNodes, SavedDeadLetter, SavedEntry, SavedInbound, SavedOrigin, SavedOutbound,
    SavedReminderName, SavedTopicChannel, SavedTrouble, Snapshot,
};
use crate::steps::Steps;
use crate::subscriptions::{Fences, Subscriptions};
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
            keys,
            inbound,
            outbound,
            topics,
            // Counted anew.
            owed: _,
            closed_nodes,
            dead,
            order,
            clock,
            last_write,
            inbox: taken,
            snapshots,
            agenda,
            subscriptions,
            fences,
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
            inbox: *taken,
            entries: entries.values().map(|entry| entry.save()).collect(),
            kept: kept.save(),
            results: results.save(),
            results_by_age: results_by_age.iter().copied().collect(),
            inbound: inbound.iter().map(|(sender, inbound)| inbound.save(sender)).collect(),
            outbound: outbound.iter().map(|(to, outbound)| outbound.save(to)).collect(),
            topics: topics.iter().map(|(to, channel)| channel.save(to)).collect(),
            closed_nodes: closed_nodes.save(),
            dead: dead.iter().map(DeadLetter::save).collect(),
            keys: keys.save(),
            keys_by_age: keys.save_by_age(),
            snapshots: snapshots.clone(),
            reminders: agenda.save(),
            firings: agenda.save_firings(),
            subscriptions: subscriptions.save(),
            newest_subscription: subscriptions.newest(),
            fences: fences.save(),
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
            inbox,
            entries,
            kept,
            results,
            results_by_age,
            inbound,
            outbound,
            topics: saved_topics,
            closed_nodes,
            dead,
            keys,
            keys_by_age,
            snapshots,
            reminders,
            firings,
            subscriptions,
            newest_subscription,
            fences,
        } = snapshot;
        let entries = entries.into_iter().map(|e| (e.invocation.uuid, Box::new(Entry::restore(e))));
        let outbound: BTreeMap<_, _> = outbound.into_iter().map(Outbound::restore).collect();
        let mut owed = Tally::default();
        for obligation in outbound.values().flat_map(|outbound| outbound.open.values()) {
            owed.add(obligation.size());
        }
        let mut topics = Topics::default();
        for (to, channel) in saved_topics.into_iter().map(TopicChannel::restore) {
            topics.insert(to, channel);
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
            keys: Keys::restore(keys, keys_by_age),
            inbound: inbound.into_iter().map(Inbound::restore).collect(),
            outbound,
            topics,
            owed,
            closed_nodes: ClosedNodes::restore(closed_nodes),
            dead: letters,
            order,
            clock,
            last_write,
            inbox,
            snapshots,
            agenda: Agenda::restore(reminders, firings),
            subscriptions: Subscriptions::restore(subscriptions, newest_subscription),
            fences: Fences::restore(fences),
        }
    }
}

impl Entry {
    fn save(&self) -> SavedEntry {
        let Self {
            invocation,
            origin,
            order,
            attempt,
            ran,
            suspected,
            holds,
            shared,
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
            origin: origin.save(),
            order: *order,
            attempt: *attempt,
            ran: *ran,
            suspected: *suspected,
            holds: *holds,
            shared: *shared,
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
            origin,
            order,
            attempt,
            ran,
            suspected,
            holds,
            shared,
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
            origin: Origin::restore(origin),
            order,
            attempt,
            ran,
            suspected,
            holds,
            shared,
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

impl Origin {
    fn save(&self) -> SavedOrigin {
        match self {
            Self::Channel { sender, number } => {
                SavedOrigin::Channel { sender: sender.clone(), number: *number }
            }
            Self::Reminder(key) => SavedOrigin::Reminder(name(key)),
            Self::Idle => SavedOrigin::Idle,
        }
    }

    fn restore(saved: SavedOrigin) -> Self {
        match saved {
            SavedOrigin::Channel { sender, number } => Self::Channel { sender, number },
            SavedOrigin::Reminder(SavedReminderName { actor, id }) => Self::Reminder((actor, id)),
            SavedOrigin::Idle => Self::Idle,
        }
    }
}

fn name((actor, id): &Key) -> SavedReminderName {
    SavedReminderName { actor: actor.clone(), id: id.clone() }
}

impl Agenda {
    fn save(&self) -> Vec<(Arc<str>, Arc<Reminder>)> {
        self.iter().map(|((actor, _), reminder)| (actor.clone(), reminder.clone())).collect()
    }

    fn save_firings(&self) -> Vec<(SavedReminderName, Uuid)> {
        self.all_firings().map(|(key, uuid)| (name(key), uuid)).collect()
    }

    fn restore(
        reminders: Vec<(Arc<str>, Arc<Reminder>)>,
        firings: Vec<(SavedReminderName, Uuid)>,
    ) -> Self {
        let mut agenda = Self::default();
        for (actor, reminder) in reminders {
            agenda.change(&actor, &ReminderChange::Set(reminder));
        }
        for (SavedReminderName { actor, id }, uuid) in firings {
            agenda.fired((actor, id), uuid);
        }
        agenda
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
        by_uuid.iter().map(|(uuid, outcome)| (*uuid, (**outcome).clone())).collect()
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

impl TopicChannel {
    fn save(&self, to: &TopicPartition) -> SavedTopicChannel {
        let Self { next, landed, since, open } = self;
        let open = open.iter().map(|(number, event)| (*number, event.clone())).collect();
        SavedTopicChannel { to: to.clone(), next: *next, landed: *landed, since: *since, open }
    }

    fn restore(saved: SavedTopicChannel) -> (TopicPartition, Self) {
        let SavedTopicChannel { to, next, landed, since, open } = saved;
        (to, Self { next, landed, since, open: open.into_iter().collect() })
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
        let Self { invocation, origin, outcome, attempts, time } = self;
        SavedDeadLetter {
            invocation: invocation.clone(),
            origin: origin.save(),
            outcome: outcome.clone(),
            attempts: *attempts,
            time: *time,
        }
    }

    fn restore(saved: SavedDeadLetter) -> Self {
        let SavedDeadLetter { invocation, origin, outcome, attempts, time } = saved;
        Self { invocation, origin: Origin::restore(origin), outcome, attempts, time }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::events::Publication;
    use crate::ids::{Kind, NodeId};
    use crate::invocation::{
        ActorOps, ApplicationError, ChainOutcome, Invocation, Mode, Obligation, Owed, Payload,
        StateOp, Work,
    };
    use crate::limits::Rules;
    use crate::record::{
        AcceptInBrief, End, Op, Publish, Record, RecordedStep, ReminderOp, Segment, SubscriptionOp,
    };
    use crate::reminder::CatchUp;
    use crate::schedule::Schedule;
    use crate::snapshot::{NamedSnapshot, SnapshotKey, SnapshotProof};
    use crate::subscription::{
        Subscription, SubscriptionFence, SubscriptionSpec, SubscriptionStart, SubscriptionTarget,
        TopicRef,
    };
    use crate::trouble::{Cause, Ended};

    fn partition(index: u32) -> PartitionId {
        PartitionId::new(Kind::actor("A"), index)
    }

    fn payload(text: &'static str) -> Payload {
        Payload { data: text.into(), content_type: "text/plain".into() }
    }

    fn invocation(uuid: u128, mode: Mode) -> Arc<Invocation> {
        Arc::new(Invocation {
            uuid: Uuid(uuid),
            work: Work::Method,
            mode,
            actor: Some("x".into()),
            method: "m".into(),
            payload: payload("argument"),
            chain: [Uuid(90), Uuid(91)].into(),
            deadline: Some(7),
            trace: "trace".into(),
            step: 1,
            home: None,
            retry: None,
            key: (10..20).contains(&uuid).then_some(uuid + 500),
            event: None,
        })
    }

    fn accept(number: u64, mode: Mode) -> Op {
        let (sender, invocation) = (Sender::Node(NodeId(5)), invocation(number.into(), mode));
        Op::Accept { sender, number, invocation }
    }

    fn complete(uuid: u128, end: End) -> Op {
        let segment = Segment::default();
        Op::Complete {
            uuid: Uuid(uuid),
            attempt: 1,
            accept: None,
            end,
            segment,
            time: 40 + uuid as u64,
        }
    }

    fn send(number: u64, owed: Owed, key: Option<&str>) -> Send {
        let (parent, step_key) = (Some(Uuid(1)), key.map(Into::into));
        Send { number, obligation: Obligation { to: partition(3), owed, parent, step_key } }
    }

    fn topic(id: &str) -> TopicPartition {
        TopicPartition { id: id.into(), partition: 3 }
    }

    fn publish(number: u64, id: &str) -> Publish {
        let publication = Publication { to: topic(id), event: "event".into() };
        Publish { number, publication }
    }

    /// Decisions that leave something in every part of the state.
    fn ops() -> Vec<Op> {
        let failed = Outcome::Failed(ApplicationError::default());
        let done = || End::Outcome(Outcome::Done(payload("done")));
        let ended = Ended { cause: Cause::HostLost, not_before: 9, error: "lost".into() };
        let call = |uuid| Owed::Invocation(invocation(uuid, Mode::Call));
        let home = ChainOutcome { uuid: Uuid(70), outcome: Outcome::Expired };
        let sends = vec![
            send(1, call(60), Some("k1")),
            send(2, call(61), None),
            send(3, Owed::Outcome(Arc::new(home)), None),
            send(4, call(62), Some("k2")),
        ];
        let key = SnapshotKey { position: 1, epoch: 1 };
        let proof = SnapshotProof { bytes: 5, checksum: 6 };
        let named = NamedSnapshot { key, proof, stored: 3, time: 4 };
        let log = Sender::Log { partition: partition(2), log: Uuid(80) };
        vec![
            accept(1, Mode::Call),
            accept(2, Mode::Tell),
            accept(3, Mode::Start),
            accept(4, Mode::Call),
            accept(5, Mode::Start),
            accept(6, Mode::Call),
            accept(10, Mode::Start),
            accept(11, Mode::Tell),
            accept(12, Mode::Start),
            Op::Progress {
                uuid: Uuid(1),
                attempt: 1,
                segment: Segment {
                    state: vec![StateOp::Clear],
                    sends,
                    reminders: reminders(),
                    publishes: vec![
                        publish(1, "t"),
                        publish(2, "t"),
                        publish(1, "u"),
                        publish(3, "t"),
                    ],
                },
                settled: Vec::new(),
                steps: vec![RecordedStep { key: "k3".into(), payload: payload("value") }],
                shared: true,
            },
            Op::Published { to: topic("t"), upto: 2, offset: 9 },
            Op::TopicGone { to: topic("u") },
            Op::StepDone { to: partition(3), number: 1, outcome: Outcome::Done(payload("r")) },
            Op::Attempt { uuid: Uuid(1), attempt: 2, ended: Some(ended), unmarked: false },
            complete(2, End::Outcome(failed)),
            complete(3, done()),
            complete(4, done()),
            complete(5, End::Passed),
            complete(10, done()),
            complete(11, End::Passed),
            Op::Cancel { uuid: Uuid(6) },
            Op::Park { uuid: Uuid(1) },
            Op::Complete {
                uuid: Uuid(9),
                attempt: 1,
                accept: Some(AcceptInBrief { sender: log, number: 8, actor: None }),
                end: done(),
                segment: Segment::default(),
                time: 50,
            },
            Op::CloseChannel { node: NodeId(3), floor: NodeId(3), open: vec![NodeId(1)] },
            Op::CloseChannel { node: NodeId(8), floor: NodeId(0), open: Vec::new() },
            Op::Inbox { taken: 12 },
            Op::Snapshot { named, keeps: Vec::new() },
            fire("often", 30, 200, Some(90)),
            fire("once", 20, 201, None),
            complete(201, End::Outcome(Outcome::Expired)),
            subscribed(20, SubscriptionOp::Create(Arc::new(subscription(300, "kept")))),
            subscribed(21, SubscriptionOp::Create(Arc::new(subscription(301, "over")))),
            subscribed(22, SubscriptionOp::End { names: vec!["over".into()] }),
            subscribed(23, SubscriptionOp::Pause { name: "kept".into(), paused: true }),
            Op::Delivered {
                subscription: Uuid(300),
                topic_partition: 1,
                floor: 9,
                publishes: Vec::new(),
            },
            Op::Fence {
                sender: Sender::Log { partition: partition(2), log: Uuid(80) },
                number: 9,
                fence: SubscriptionFence { floor: Uuid(5), open: vec![Uuid(3)] },
            },
        ]
    }

    fn subscribed(number: u64, change: SubscriptionOp) -> Op {
        let (sender, uuid) = (Sender::Node(NodeId(5)), Uuid(u128::from(number) + 400));
        let outcome = Some(Outcome::Done(payload("done")));
        Op::Subscription { sender, number, uuid, change, outcome, sends: Vec::new() }
    }

    fn subscription(uuid: u128, name: &str) -> Subscription {
        let topic = TopicRef { name: "t".into(), id: "t1".into(), partitions: 2 };
        let spec = SubscriptionSpec {
            name: name.into(),
            topic,
            target: SubscriptionTarget::Service { name: "s".into(), affinity: None },
            method: "m".into(),
            filter: None,
            start: SubscriptionStart::Earliest,
            offsets: vec![1, 4],
            in_flight: 3,
            retry: None,
            dead_letter: None,
        };
        Subscription { uuid: Uuid(uuid), target_partitions: 2, created: 8, spec }
    }

    /// One that comes again, one that does not.
    fn reminders() -> Vec<ReminderOp> {
        let one = |id: &str, due, schedule| {
            let (method, payload, catch_up) = ("m".into(), payload("r"), CatchUp::Each);
            Arc::new(Reminder { id: id.into(), method, payload, due, schedule, catch_up })
        };
        let both = [one("often", 30, Schedule::Every(60)), one("once", 20, Schedule::Once)];
        let change =
            |reminder| ReminderOp { change: ReminderChange::Set(reminder), dropped: Vec::new() };
        both.map(change).into()
    }

    fn fire(id: &str, due: u64, uuid: u128, next: Option<u64>) -> Op {
        Op::Fire { actor: "x".into(), id: id.into(), due, uuid: Some(Uuid(uuid)), next }
    }

    fn state() -> LogState {
        let (rules, mut state) = (Rules::default(), LogState::default());
        let claim = Record::Claim { after: 0, node: NodeId(4), id: Uuid(77) };
        state.admit(&rules, 1, &claim);
        let batch = Record::Batch { epoch: 1, seq: 1, time: 1_000, ops: ops() };
        state.admit(&rules, 2, &batch);
        state.admit(&rules, 3, &Record::Release { epoch: 1, seq: 2 });
        state
    }

    /// What is counted, too: all of it is in the text.
    #[test]
    fn a_restored_state_is_the_state() {
        let state = state();
        let saved = state.save(&partition(0));
        let again = LogState::restore(saved.clone());
        assert_eq!(format!("{again:?}"), format!("{state:?}"));
        assert_eq!(again.save(&partition(0)), saved);
    }

    /// Nothing of the sample is what it would be by default: what is left out shows.
    #[test]
    fn the_sample_has_something_in_every_part() {
        let saved = state().save(&partition(0));
        let Snapshot { partition: _, offset, epoch, seq, clock, order, last_write, inbox, .. } =
            saved;
        for number in [offset, epoch, seq, clock, order, last_write, inbox] {
            assert!(number > 0);
        }
        assert!(saved.owner.is_some() && saved.log.is_some() && saved.released);
        let parts = [
            saved.entries.len(),
            saved.kept.len(),
            saved.results.len(),
            saved.results_by_age.len(),
            saved.inbound.len(),
            saved.outbound.len(),
            saved.topics.len(),
            saved.closed_nodes.open.len(),
            saved.closed_nodes.above.len(),
            saved.dead.len(),
            saved.keys.len(),
            saved.keys_by_age.len(),
            saved.snapshots.len(),
            saved.reminders.len(),
            saved.subscriptions.len(),
            saved.fences.len(),
            saved.firings.len(),
        ];
        assert!(parts.iter().all(|count| *count > 0), "{parts:?}");
        assert!(saved.inbound.iter().any(|inbound| !inbound.live.is_empty()));
        let [channel] = saved.topics.as_slice() else { panic!("{:?}", saved.topics) };
        assert_eq!((channel.next, channel.landed, channel.since, channel.open.len()), (4, 2, 9, 1));
        assert!(saved.keys.iter().any(|key| key.outcome.is_some()));
        assert!(saved.keys.len() > saved.keys_by_age.len(), "one has not ended");
        let entries = &saved.entries;
        assert!(entries.iter().any(|e| e.holds && e.shared && e.parked && e.steps.len() == 3));
        assert!(entries.iter().any(|e| e.trouble.last.is_some() && !e.children.is_empty()));
        let fired = |origin: &SavedOrigin| matches!(origin, SavedOrigin::Reminder(_));
        assert!(entries.iter().any(|e| fired(&e.origin)));
        assert!(saved.dead.iter().any(|letter| fired(&letter.origin)));
        assert!(entries.iter().any(|e| e.moved) && entries.iter().any(|e| e.cancel));
    }

    /// A log goes on from a restored state as from its own.
    #[test]
    fn what_follows_is_the_same() {
        let rules = Rules::default();
        let (mut one, mut stored) = (LogState::default(), Vec::<ActorOps>::new());
        one.begin_reign(1, NodeId(4), Uuid(77));
        for (at, op) in ops().iter().enumerate() {
            let mut other = LogState::restore(one.save(&partition(0)));
            for rest in &ops()[at..] {
                other.apply(&rules, rest, &mut stored);
            }
            one.apply(&rules, op, &mut stored);
            let mut whole = one.clone();
            for rest in &ops()[at + 1..] {
                whole.apply(&rules, rest, &mut stored);
            }
            assert_eq!(format!("{other:?}"), format!("{whole:?}"), "from {at}");
        }
    }
}
