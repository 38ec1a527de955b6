//! Events on their way into topics (ADR 9): what turns publish, and what a topic says of it.
//!
//! A channel goes from this partition's log to a partition of a topic. What is published is part of a segment (P5), has
//! the channel's next number, and is owed when its decision is committed. A reign first learns the highest number that
//! has landed, then sends what is above it, in order, one window at a time; without an answer it learns again, so
//! that nothing is in the topic twice, whether its bus tells numbers apart or not. What has landed is settled lazily.

use std::collections::{BTreeMap, BTreeSet};

use super::Partition;
use super::gate::Gated;
use super::reign::{Unflushed, carried};
use crate::cover::Transition;
use crate::effect::{Effect, Notice, RequestError, Response};
use crate::env::Env;
use crate::events::{Publication, PublishResult, dead_letter};
use crate::ids::{Millis, Number, Offset, RequestId, TopicPartition, TurnToken, Uuid};
use crate::invocation::{Invocation, Outcome};
use crate::limits::{LimitHit, Limits};
use crate::record::{Op, Publish, Segment};
use crate::timers::Timers;

/// Tries without an answer, one after the other, after which people are told that events wait.
const TRIES_BEFORE_NOTICE: u32 = 3;

/// The channels into topics, as a reign uses them.
#[derive(Clone, Debug, Default)]
pub(super) struct Publishing {
    publishers: BTreeMap<TopicPartition, Publisher>,
    /// When an answer is late, or a pause over.
    timers: Timers<TopicPartition>,
    /// Those with something that has landed and is not settled.
    unsettled: BTreeSet<TopicPartition>,
}

/// The sending end of a channel.
#[derive(Clone, Debug)]
struct Publisher {
    /// Numbers up to this are committed, and may be sent.
    committed: Number,
    /// Numbers up to this are in the topic; everything above it comes after the offset.
    landed: (Number, Offset),
    stage: Stage,
    /// Tries without an answer, one after the other.
    failures: u32,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// It is to be learned what has landed before anything is sent.
    Unknown,
    /// Everything up to `landed` is known to have landed, and nothing else is under way.
    Known,
    /// An answer is waited for. `sent`: the last number that was sent; `None`: it was asked what has landed.
    Asked { serial: u64, sent: Option<Number> },
    /// Nobody could answer: it is tried again later.
    Rests,
    /// There is no such topic any more.
    Gone,
}

impl Publishing {
    pub(super) fn timeout(&self) -> Option<Millis> {
        self.timers.first()
    }
}

// What turns publish.
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
        let is_gone = |event: &&Publication| {
            let publisher = self.reign.publishing.publishers.get(&event.to);
            publisher.is_some_and(|publisher| matches!(publisher.stage, Stage::Gone))
        };
        if let Some(gone) = events.iter().find(is_gone) {
            env.cover(Transition::PublishRefused);
            return Err(RequestError::TopicGone(gone.to.clone()));
        }
        if let Some(hit) = self.no_room_to_publish(&env.limits, uuid, &events) {
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
        let owed = self.state.owed.plus(self.reign.buffered);
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
        if item.invocation.event.is_none() {
            return;
        }
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

// What is sent, and what is answered.
impl Partition {
    /// A reign begins: what is owed to topics is sent, but for what has landed.
    pub(super) fn restore_publishing(&mut self, env: &mut Env) {
        let owed = self.state.topics.iter().filter(|(_, channel)| !channel.open.is_empty());
        let owed: Vec<_> = owed.map(|(to, channel)| (to.clone(), channel.next - 1)).collect();
        for (to, upto) in owed {
            env.cover(Transition::PublishRestored);
            self.may_publish(env, &to, upto);
        }
    }

    /// Events up to a number are committed.
    pub(super) fn may_publish(&mut self, env: &mut Env, to: &TopicPartition, upto: Number) {
        let channel = self.state.topics.get(to);
        let landed = channel.map_or((0, 0), |channel| (channel.landed, channel.since));
        let stage = if env.rules.learn_published { Stage::Unknown } else { Stage::Known };
        let new = || Publisher { committed: 0, landed, stage, failures: 0 };
        let publisher = self.reign.publishing.publishers.entry(to.clone()).or_insert_with(new);
        publisher.committed = publisher.committed.max(upto);
        if matches!(publisher.stage, Stage::Asked { .. }) {
            env.cover(Transition::PublishMore);
        }
        self.publish(env, to);
    }

    /// Does what a channel waits for, if it waits for nobody.
    fn publish(&mut self, env: &mut Env, to: &TopicPartition) {
        if self.reign.released {
            return;
        }
        match self.reign.publishing.publishers.get(to).map(|publisher| publisher.stage) {
            Some(Stage::Unknown) => self.learn_published(env, to),
            Some(Stage::Known) => self.send_published(env, to),
            Some(Stage::Gone) => self.forget_topic(env, to),
            Some(Stage::Asked { .. } | Stage::Rests) | None => {}
        }
    }

    fn learn_published(&mut self, env: &mut Env, to: &TopicPartition) {
        env.cover(Transition::PublishLearns);
        let Some((upto, since)) = self.reign.publishing.publishers.get(to).map(|p| p.landed) else {
            return;
        };
        let serial = self.ask_topic(env, to, None);
        env.emit(Effect::LearnPublished {
            partition: self.id.clone(),
            to: to.clone(),
            channel: self.state.log.unwrap_or_default(),
            epoch: self.state.epoch,
            serial,
            upto,
            since,
        });
    }

    /// Sends what is committed and has not landed, as much as a window takes.
    fn send_published(&mut self, env: &mut Env, to: &TopicPartition) {
        let Some(publisher) = self.reign.publishing.publishers.get(to) else { return };
        let Some(channel) = self.state.topics.get(to) else { return };
        let first = publisher.landed.0 + 1;
        if first > publisher.committed {
            return;
        }
        let (mut events, mut bytes) = (Vec::new(), 0);
        for (number, event) in channel.open.range(first..=publisher.committed) {
            bytes += event.len();
            let is_full = events.len() >= env.limits.publish_window_events_max
                || bytes > env.limits.publish_window_bytes_max;
            if is_full && !events.is_empty() {
                env.cover(Transition::PublishWindow);
                break;
            }
            events.push((*number, event.clone()));
        }
        let Some((last, _)) = events.last() else { return };
        env.cover(Transition::PublishSends);
        let last = *last;
        let serial = self.ask_topic(env, to, Some(last));
        env.emit(Effect::Publish {
            partition: self.id.clone(),
            to: to.clone(),
            channel: self.state.log.unwrap_or_default(),
            epoch: self.state.epoch,
            serial,
            events,
        });
    }

    /// Waits for an answer from here on.
    fn ask_topic(&mut self, env: &mut Env, to: &TopicPartition, sent: Option<Number>) -> u64 {
        let serial = env.proposal().0;
        let late = env.now + env.limits.append_timeout_ms;
        let publishing = &mut self.reign.publishing;
        if let Some(publisher) = publishing.publishers.get_mut(to) {
            publisher.stage = Stage::Asked { serial, sent };
            publishing.timers.set(to, Some(late));
        }
        serial
    }

    /// What a topic says.
    pub(crate) fn published(
        &mut self,
        env: &mut Env,
        to: &TopicPartition,
        serial: u64,
        result: PublishResult,
    ) {
        let publishing = &mut self.reign.publishing;
        let publisher = publishing.publishers.get_mut(to);
        let asked = publisher.and_then(|publisher| match publisher.stage {
            Stage::Asked { serial: asked, sent } if asked == serial => Some((publisher, sent)),
            _ => None,
        });
        let Some((publisher, sent)) = asked else { return env.cover(Transition::PublishStale) };
        if self.reign.released {
            // The next owner asks for itself.
            return env.cover(Transition::PublishReleased);
        }
        let (upto, offset) = match result {
            PublishResult::Landed { upto, offset } => (upto, offset),
            PublishResult::Gone => {
                publisher.stage = Stage::Gone;
                publishing.timers.set(to, None);
                return self.forget_topic(env, to);
            }
            PublishResult::Unavailable => {
                env.cover(Transition::PublishUnavailable);
                return self.rest_published(env, to);
            }
        };
        if upto <= publisher.landed.0 {
            env.cover(Transition::PublishLanded);
            if sent.is_some() {
                // It has taken nothing: that is no reason to ask again at once.
                env.cover(Transition::PublishShort);
                return self.rest_published(env, to);
            }
        } else {
            if sent.is_none() {
                env.cover(Transition::PublishFound);
            }
            publisher.landed = (upto, offset);
            publishing.unsettled.insert(to.clone());
            let at = env.now + env.limits.settle_delay_ms;
            self.reign.settle_at = Some(self.reign.settle_at.map_or(at, |t| t.min(at)));
        }
        publisher.failures = 0;
        publisher.stage = Stage::Known;
        publishing.timers.set(to, None);
        self.send_published(env, to);
    }

    /// Nobody has answered: what was sent may have landed, and it is asked again later.
    fn rest_published(&mut self, env: &mut Env, to: &TopicPartition) {
        let publishing = &mut self.reign.publishing;
        let Some(publisher) = publishing.publishers.get_mut(to) else { return };
        let limits = &env.limits;
        let longer = 1_u64.checked_shl(publisher.failures).unwrap_or(u64::MAX);
        let pause = limits.publish_retry_ms.saturating_mul(longer).min(limits.publish_retry_max_ms);
        publisher.failures = publisher.failures.saturating_add(1);
        publisher.stage = Stage::Rests;
        publishing.timers.set(to, Some(env.now + pause));
        if publisher.failures == TRIES_BEFORE_NOTICE {
            let waiting = self.state.topics.get(to).map_or(0, |channel| channel.open.len());
            let (partition, to) = (self.id.clone(), to.clone());
            env.notice(Notice::PublishWaits { partition, to, waiting });
        }
    }

    /// Answers that are late, and pauses that are over.
    pub(super) fn publish_due(&mut self, env: &mut Env) {
        for to in self.reign.publishing.timers.due(env.now) {
            let Some(publisher) = self.reign.publishing.publishers.get_mut(&to) else { continue };
            if matches!(publisher.stage, Stage::Asked { .. }) {
                env.cover(Transition::PublishUnanswered);
                self.rest_published(env, &to);
            } else {
                let learns = env.rules.learn_published;
                publisher.stage = if learns { Stage::Unknown } else { Stage::Known };
                self.reign.publishing.timers.set(&to, None);
                self.publish(env, &to);
            }
        }
    }

    /// A topic is gone: what is owed to it is lost, never silently. Not before all of it is committed, because numbers
    /// begin anew when the channel is forgotten.
    fn forget_topic(&mut self, env: &mut Env, to: &TopicPartition) {
        let publishing = &mut self.reign.publishing;
        let Some(publisher) = publishing.publishers.get_mut(to) else { return };
        let Some(channel) = self.state.topics.get(to) else { return };
        if publisher.committed + 1 < channel.next {
            return env.cover(Transition::PublishGoneWaits);
        }
        env.cover(Transition::PublishGone);
        (publisher.committed, publisher.landed) = (0, (0, 0));
        publishing.unsettled.remove(to);
        if publishing.publishers.len() > env.limits.topic_channels_per_partition_max {
            publishing.publishers.retain(|_, other| !matches!(other.stage, Stage::Gone));
        }
        let count = channel.open.len();
        self.push(env, Op::TopicGone { to: to.clone() });
        if count > 0 {
            let (partition, to) = (self.id.clone(), to.clone());
            self.gate_notice(env, Notice::EventsLost { partition, to, count });
        }
    }

    /// Logs what has landed.
    pub(super) fn log_published(&mut self, env: &mut Env) {
        for to in std::mem::take(&mut self.reign.publishing.unsettled) {
            let publisher = self.reign.publishing.publishers.get(&to);
            let Some((upto, offset)) = publisher.map(|publisher| publisher.landed) else {
                continue;
            };
            env.cover(Transition::PublishSettled);
            self.push(env, Op::Published { to, upto, offset });
        }
    }
}
