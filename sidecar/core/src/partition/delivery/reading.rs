//! Reading topics: when an owner may, how much, and what becomes of each event.

use std::sync::Arc;

use super::{
    Branch, Channels, Deliveries, FETCH_FAILURES_TOLD, FETCH_PAUSE_MAX_MS, FETCH_PAUSE_MS, Reading,
    UnderWay,
};
use crate::cover::Transition;
use crate::effect::{Effect, Notice};
use crate::env::Env;
use crate::events::{CloudEvent, EventOrigin, dead_letter, partition_of};
use crate::ids::{Offset, TopicPartition, Uuid};
use crate::invocation::{ApplicationError, Invocation, Mode, Outcome, Payload, Work};
use crate::partition::Partition;
use crate::subscription::{Destination, FetchId, FetchResult, FetchedEvent, Subscription};

// Reading.
impl Partition {
    /// The reign begins: everything is read on from its floor.
    pub(in crate::partition) fn begin_deliveries(&mut self, env: &mut Env) {
        for subscription in self.state.subscriptions.ids().collect::<Vec<_>>() {
            self.deliver(env, subscription);
        }
    }

    /// Reads a subscription's topic, from where it stands.
    pub(in crate::partition) fn deliver(&mut self, env: &mut Env, subscription: Uuid) {
        self.reign.deliveries.resumed(subscription);
        let Some(one) = self.state.subscriptions.of(subscription) else { return };
        let mut branches = Vec::with_capacity(one.floors.len());
        for (topic_partition, floor) in (0..).zip(&one.floors) {
            let branch = (subscription, topic_partition);
            let new = || Reading::new(one.subscription.clone(), *floor);
            self.reign.deliveries.branches.entry(branch).or_insert_with(new);
            branches.push(branch);
        }
        for branch in branches {
            self.read_more(env, branch);
        }
    }

    /// Reads on wherever that was not allowed, or not possible.
    pub(in crate::partition) fn read_all(&mut self, env: &mut Env) {
        for branch in self.reign.deliveries.branches() {
            self.read_more(env, branch);
        }
    }

    /// Whether a subscription may read: an owner that may have a successor reads its log first (rule L4).
    fn may_read(&self, env: &Env, subscription: Uuid) -> bool {
        let reign = &self.reign;
        self.serving()
            && !reign.released
            && reign.leaving.is_none()
            && reign.barriers == 0
            && env.lease_valid
            && self.state.subscriptions.of(subscription).is_some_and(|one| !one.paused)
            && !reign.deliveries.resuming.contains_key(&subscription)
            && !reign.deliveries.gone.contains(&subscription)
    }

    /// Reads on, as far as the bounds of what is under way go, once half of that is free.
    pub(super) fn read_more(&mut self, env: &mut Env, branch: Branch) {
        let may_read = self.may_read(env, branch.0);
        let partition = self.id.clone();
        let buried = self.state.topics.owed();
        let is_full = buried.count >= env.limits.outbox_per_partition_max
            || buried.bytes >= env.limits.outbox_bytes_per_partition_max;
        let left = deliveries_bytes_max(env).saturating_sub(self.reign.deliveries.bytes);
        let Some(reading) = self.reign.deliveries.branches.get_mut(&branch) else { return };
        if is_full && reading.subscription.spec.dead_letter.is_some() && may_read {
            // A topic for dead letters that is away must not fill the memory.
            env.cover(Transition::BuryWaits);
            reading.not_before = env.now + env.limits.channel_timer_ms;
        }
        if may_read && reading.fetch.is_none() && reading.not_before <= env.now {
            let spec = &reading.subscription.spec;
            let events_max = (spec.in_flight as usize).saturating_sub(reading.open.len());
            let bytes_max = env.limits.subscription_in_flight_bytes_max;
            let bytes_max = bytes_max.saturating_sub(reading.bytes);
            let is_half_free = 2 * events_max >= spec.in_flight as usize
                && 2 * bytes_max >= env.limits.subscription_in_flight_bytes_max;
            if (!is_half_free || left == 0) && !reading.open.is_empty() {
                // Many are read at once, not one for each that is done with.
                env.cover(Transition::ReadFull);
            } else {
                // A slow subscriber must not keep others from reading at all.
                let (events_max, bytes_max) = match left {
                    0 => {
                        env.cover(Transition::ReadCrowded);
                        (1, 1)
                    }
                    left => (events_max, bytes_max.min(left)),
                };
                let serial = env.fetch_serial();
                reading.fetch = Some(serial);
                reading.not_before = 0;
                let (subscription, topic_partition) = branch;
                let id = FetchId { partition, subscription, topic_partition, serial };
                let by_id = env.rules.topic_by_id;
                let topic_id = if by_id { spec.topic.id.clone() } else { spec.topic.name.clone() };
                let from = reading.next;
                env.emit(Effect::Fetch { id, topic_id, from, events_max, bytes_max });
            }
        }
        self.reign.deliveries.note_timer(&branch);
    }

    /// What is read of a subscription's topic is not wanted any more.
    pub(super) fn stop_readings(&mut self, env: &mut Env, subscription: Uuid) {
        let all =
            self.reign.deliveries.branches.range((subscription, 0)..=(subscription, u32::MAX));
        let branches: Vec<_> = all.map(|(branch, _)| *branch).collect();
        for branch in branches {
            self.stop_reading(env, branch);
            self.reign.deliveries.note_timer(&branch);
        }
    }

    /// The same of one branch.
    pub(super) fn stop_reading(&mut self, env: &mut Env, branch: Branch) {
        let (partition, (subscription, topic_partition)) = (self.id.clone(), branch);
        let reading = self.reign.deliveries.branches.get_mut(&branch);
        if let Some(serial) = reading.and_then(|reading| reading.fetch.take()) {
            env.cover(Transition::FetchStopped);
            let id = FetchId { partition, subscription, topic_partition, serial };
            if env.rules.stop_reading {
                env.emit(Effect::StopFetch { id });
            }
        }
    }

    /// Events were read.
    pub(crate) fn fetched(&mut self, env: &mut Env, id: &FetchId, result: FetchResult) {
        let branch = (id.subscription, id.topic_partition);
        let reading = self.reign.deliveries.branches.get_mut(&branch);
        let Some(reading) = reading.filter(|reading| reading.fetch == Some(id.serial)) else {
            return env.cover(Transition::FetchLate);
        };
        reading.fetch = None;
        if !self.may_read(env, branch.0) {
            // It is read again when it may be.
            env.cover(Transition::FetchHeld);
            return;
        }
        let Some(reading) = self.reign.deliveries.branches.get_mut(&branch) else { return };
        match result {
            FetchResult::Events { events, next, start, end } => {
                self.take_events(env, branch, events, (next, start, end));
            }
            FetchResult::Gone => self.topic_gone(env, branch),
            FetchResult::Unreadable(offset) => {
                env.cover(Transition::FetchUnreadable);
                if !env.rules.wait_unreadable {
                    reading.next = reading.next.max(offset + 1);
                }
                let told = std::mem::replace(&mut reading.unreadable, offset);
                let name = reading.subscription.spec.name.clone();
                if told != offset {
                    let (partition, topic_partition) = (self.id.clone(), branch.1);
                    let notice =
                        Notice::EventUnreadable { partition, name, topic_partition, offset };
                    env.notice(notice);
                }
                self.read_later(env, branch);
            }
            FetchResult::Unavailable => {
                env.cover(Transition::FetchUnavailable);
                if reading.failures == FETCH_FAILURES_TOLD {
                    let name = reading.subscription.spec.name.clone();
                    let (partition, topic_partition) = (self.id.clone(), branch.1);
                    env.notice(Notice::ReadingWaits { partition, name, topic_partition });
                }
                self.read_later(env, branch);
            }
        }
    }

    /// A read came to nothing: it is tried again after a pause.
    fn read_later(&mut self, env: &Env, branch: Branch) {
        let Some(reading) = self.reign.deliveries.branches.get_mut(&branch) else { return };
        let pause = FETCH_PAUSE_MAX_MS.min(FETCH_PAUSE_MS << reading.failures.min(16));
        reading.failures = reading.failures.saturating_add(1);
        reading.not_before = env.now + pause;
        self.reign.deliveries.note_timer(&branch);
    }

    fn topic_gone(&mut self, env: &mut Env, branch: Branch) {
        if self.reign.deliveries.gone.insert(branch.0)
            && let Some(one) = self.state.subscriptions.of(branch.0)
        {
            env.cover(Transition::TopicGone);
            let (name, topic) = (&one.subscription.spec.name, &one.subscription.spec.topic.name);
            let partition = self.id.clone();
            env.notice(Notice::TopicGone { partition, name: name.clone(), topic: topic.clone() });
        }
    }

    fn take_events(
        &mut self,
        env: &mut Env,
        branch: Branch,
        events: Vec<FetchedEvent>,
        (next, start, end): (Offset, Offset, Offset),
    ) {
        let (id, epoch) = (self.id.clone(), self.state.epoch);
        let Deliveries { branches, bytes: all, .. } = &mut self.reign.deliveries;
        let Some(reading) = branches.get_mut(&branch) else { return };
        let subscription = reading.subscription.clone();
        (reading.failures, reading.unreadable) = (0, 0);
        reading.end = end;
        if start > reading.next {
            env.cover(Transition::EventsSkipped);
            let (from, to) = (reading.next, start);
            reading.skipped += to - from;
            reading.next = to;
            let (partition, name) = (id.clone(), subscription.spec.name.clone());
            let topic_partition = branch.1;
            env.notice(Notice::EventsSkipped { partition, name, topic_partition, from, to });
        }
        let new = Channels { partition: id, branch, epoch };
        let mut next = next;
        for FetchedEvent { offset, event, stored } in events {
            if offset < reading.next {
                continue;
            }
            if *all >= deliveries_bytes_max(env) && !reading.open.is_empty() {
                // Others have taken what was left: this is read again when something of its own is done with.
                env.cover(Transition::TakeCrowded);
                next = offset;
                break;
            }
            reading.next = offset + 1;
            if subscription.spec.filter.as_ref().is_some_and(|filter| !filter.matches(&event)) {
                env.cover(Transition::EventPassed);
                continue;
            }
            let destination = subscription.destination(branch.1, offset, &event);
            let tell = delivery(&subscription, (branch.1, offset), (&event, stored));
            match destination {
                Ok(Destination { to, actor }) => {
                    let tell = Invocation { actor, ..tell };
                    new.send(env, (reading, all), (to, offset), tell);
                }
                Err(why) => {
                    env.cover(Transition::EventUndeliverable);
                    let error = ApplicationError::of_kar(UNDELIVERABLE, why);
                    let letter = dead_letter(&tell, &Outcome::Failed(error), 0);
                    reading.insert(all, offset, UnderWay::Undeliverable(why, letter));
                }
            }
        }
        reading.next = reading.next.max(next);
        self.note_moved(env, branch);
        self.read_more(env, branch);
    }
}

/// What all branches may have under way, bytes. With the rule off there is no bound.
fn deliveries_bytes_max(env: &Env) -> usize {
    if env.rules.bound_deliveries {
        env.limits.deliveries_bytes_per_partition_max
    } else {
        usize::MAX
    }
}

/// Attribute with the trace context that an event was published in.
const TRACE: &str = "traceparent";

/// Code of the error that an event comes to that names no instance.
const UNDELIVERABLE: &str = "kar.UNDELIVERABLE";

/// The tell that delivers an event, but for its instance.
fn delivery(
    subscription: &Subscription,
    (topic_partition, offset): (u32, Offset),
    (event, stored): (&CloudEvent, bytes::Bytes),
) -> Invocation {
    let spec = &subscription.spec;
    let uuid = subscription.delivery(topic_partition, offset);
    let dead_letter = spec.dead_letter.as_ref().map(|topic| {
        // Dead letters keep their order by key, as the events had it.
        let by_id = uuid.0.to_be_bytes();
        let key = event.partition_key().map_or(&by_id[..], str::as_bytes);
        TopicPartition { id: topic.id.clone(), partition: partition_of(key, topic.partitions) }
    });
    let origin = EventOrigin {
        subscription: spec.name.clone(),
        topic: spec.topic.name.clone(),
        place: TopicPartition { id: spec.topic.id.clone(), partition: topic_partition },
        offset,
        dead_letter,
        event: None,
    };
    let trace = event.attribute(TRACE).map(|trace| Arc::from(&*trace));
    Invocation {
        uuid,
        work: Work::Method,
        mode: Mode::Tell,
        actor: None,
        method: spec.method.clone(),
        payload: Payload { data: stored, content_type: Arc::default() },
        chain: [].into(),
        deadline: None,
        trace: trace.unwrap_or_default(),
        step: 1,
        home: None,
        retry: spec.retry,
        key: None,
        event: Some(Arc::new(origin)),
    }
}
