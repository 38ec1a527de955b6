//! What turns publish (ADR 9): part of their segment (P5), numbered in the channels to topics, and owed when its
//! decision is committed; and the events of deliveries that end without success, which are owed to a topic by the same
//! decision.

use std::collections::{BTreeMap, BTreeSet};

use super::Partition;
use super::gate::Gated;
use super::reign::{Unflushed, carried};
use crate::cover::Transition;
use crate::effect::{RequestError, Response};
use crate::env::Env;
use crate::events::{Publication, dead_letter};
use crate::ids::{Number, RequestId, TopicPartition, TurnToken, Uuid};
use crate::invocation::{Invocation, Outcome};
use crate::limits::{LimitHit, Limits};
use crate::record::{Op, Publish, Segment};
use crate::size::Tally;

impl Partition {
    /// A turn publishes: with its segment, all of it or nothing.
    pub(crate) fn turn_publish(
        &mut self,
        env: &mut Env,
        request: RequestId,
        token: &TurnToken,
        events: Vec<Publication>,
    ) {
        let refused = match self.check_turn(env, token) {
            Ok(uuid) => self.buffer_events(env, uuid, events).err(),
            Err(error) => Some(error),
        };
        env.respond(request, refused.map_or(Ok(Response::Ok), Err));
    }

    fn buffer_events(
        &mut self,
        env: &mut Env,
        uuid: Uuid,
        events: Vec<Publication>,
    ) -> Result<(), RequestError> {
        let publishing = &self.reign.publishing;
        if let Some(gone) = events.iter().find(|event| publishing.is_gone(&event.to)) {
            env.cover(Transition::PublishRefused);
            return Err(RequestError::TopicGone(gone.to.clone()));
        }
        if let Some(hit) = self.no_room_to_publish(&env.limits, uuid, &events) {
            // Some of the topics that there are channels to may be gone.
            self.look_after_topics(env);
            let hit = env.limit(hit.name, hit.limit as usize);
            return Err(RequestError::Limit(hit));
        }
        let turn = self.reign.items.get_mut(&uuid).and_then(|item| item.turn());
        let Some(turn) = turn else { return Ok(()) };
        for event in events {
            let bytes = event.size();
            turn.unflushed.bytes += bytes;
            self.reign.buffered.add(bytes);
            turn.unflushed.publishes.push(event);
        }
        Ok(())
    }

    /// The bound that leaves no room for what a turn publishes (rule C7).
    fn no_room_to_publish(
        &self,
        limits: &Limits,
        uuid: Uuid,
        events: &[Publication],
    ) -> Option<LimitHit> {
        let turn = self.reign.items.get(&uuid)?.running()?;
        let owed = self.outbox();
        let bytes = events.iter().map(Publication::size).sum::<usize>();
        let is_new = |event: &Publication| self.state.topics.get(&event.to).is_none();
        let new: BTreeSet<_> = events.iter().filter(|e| is_new(e)).map(|e| &e.to).collect();
        let (name, limit) = if turn.unflushed.told() + events.len() > limits.segment_sends_max {
            ("segment_sends_max", limits.segment_sends_max)
        } else if turn.unflushed.bytes + bytes > limits.segment_bytes_max {
            ("segment_bytes_max", limits.segment_bytes_max)
        } else if owed.count + events.len() > limits.outbox_per_partition_max {
            ("outbox_per_partition_max", limits.outbox_per_partition_max)
        } else if owed.bytes + bytes > limits.outbox_bytes_per_partition_max {
            ("outbox_bytes_per_partition_max", limits.outbox_bytes_per_partition_max)
        } else if !new.is_empty()
            && self.state.topics.len() + new.len() > limits.topic_channels_per_partition_max
        {
            ("topic_channels_per_partition_max", limits.topic_channels_per_partition_max)
        } else {
            return None;
        };
        Some(LimitHit { name, limit: limit as u64 })
    }

    /// An event whose delivery ends without success goes to its dead-letter topic, in the same decision. Bounds do not
    /// act: the event is owed (rule C7).
    pub(super) fn bury(
        &mut self,
        env: &mut Env,
        uuid: Uuid,
        outcome: &Outcome,
        unflushed: &mut Unflushed,
    ) {
        let Some(item) = self.reign.items.get(&uuid) else { return };
        let has_run = item.attempt_ran() || item.is_parked();
        let attempts = if has_run { item.attempt } else { item.attempt - 1 };
        let Some(event) = dead_letter(&item.invocation, outcome, attempts) else { return };
        env.cover(Transition::DeadLetterTopic);
        if item.invocation.step > 1 {
            env.cover(Transition::DeadLetterStep);
        }
        if !env.rules.bury_with_end {
            return self.bury_apart(env, uuid, event);
        }
        self.reign.buffered.add(event.size());
        unflushed.publishes.push(event);
    }

    /// A rule switched off: the event goes in a record of its own, before the one that ends its invocation.
    fn bury_apart(&mut self, env: &mut Env, uuid: Uuid, event: Publication) {
        self.log_item(env, uuid);
        let attempt = self.state.entries.get(&uuid).map_or(0, |entry| entry.attempt);
        let publishes = self.number_published(vec![event]);
        let segment = Segment { publishes, ..Segment::default() };
        let (settled, steps, published) = (vec![], vec![], Self::last_published(&segment));
        self.push(env, Op::Progress { uuid, attempt, segment, settled, steps, shared: false });
        self.gate_published(env, published);
        self.cut(env);
    }

    /// Whether a delivery that may end in a topic waits, because too much is on its way there already: topics that are
    /// away must not fill the memory. Only what is owed to topics counts, which settles whatever partitions do: they do
    /// not wait for each other in a circle.
    pub(super) fn waits_to_bury(&mut self, env: &mut Env, uuid: Uuid) -> bool {
        let Tally { count, bytes } = self.state.topics.owed();
        let limits = &env.limits;
        if count < limits.outbox_per_partition_max && bytes < limits.outbox_bytes_per_partition_max
        {
            return false;
        }
        let Some(item) = self.reign.items.get_mut(&uuid) else { return false };
        if !item.invocation.goes_to_topic() || item.retry_at > env.now {
            return false;
        }
        env.cover(Transition::BuryWaits);
        item.retry_at = env.now + limits.channel_timer_ms;
        self.reign.retries.insert((item.retry_at, uuid));
        true
    }

    /// Whether a tail call cannot take the event along that its chain delivers.
    pub(super) fn is_too_long_to_carry(&self, env: &Env, before: &Invocation) -> bool {
        let Some(event) = &before.event else { return false };
        if event.dead_letter.is_some() {
            env.cover(Transition::EventCarried);
        }
        carried(event, before) > env.limits.segment_bytes_max
    }

    /// Numbers events in their channels: the numbers are used up with the decision that carries them.
    pub(super) fn number_published(&self, publications: Vec<Publication>) -> Vec<Publish> {
        let mut used = BTreeMap::new();
        let mut publishes = Vec::with_capacity(publications.len());
        for publication in publications {
            let first = self.state.topics.get(&publication.to).map_or(1, |channel| channel.next);
            let next = used.entry(publication.to.clone()).or_insert(first);
            publishes.push(Publish { number: *next, publication });
            *next += 1;
        }
        publishes
    }

    /// The last number of each channel that a segment publishes to.
    pub(super) fn last_published(segment: &Segment) -> BTreeMap<TopicPartition, Number> {
        let publishes = segment.publishes.iter();
        publishes.map(|publish| (publish.publication.to.clone(), publish.number)).collect()
    }

    /// Lets events go once they are committed.
    pub(super) fn gate_published(
        &mut self,
        env: &mut Env,
        published: BTreeMap<TopicPartition, Number>,
    ) {
        for (to, upto) in published {
            self.gate(env, Gated::Publish { to, upto });
        }
    }
}
