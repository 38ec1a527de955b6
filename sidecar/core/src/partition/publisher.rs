//! Events on their way into topics (ADR 9): what is sent, and what a topic says of it.
//!
//! A channel goes from this partition's log to a partition of a topic. A reign first learns the highest number that has
//! landed, then sends what is above it, in order, one window at a time; without an answer it learns again, so that
//! nothing is in the topic twice, whether its bus tells numbers apart or not. What has landed is settled lazily.

use std::collections::{BTreeMap, BTreeSet};

use super::Partition;
use crate::cover::Transition;
use crate::effect::{Effect, Notice};
use crate::env::Env;
use crate::events::PublishResult;
use crate::ids::{Millis, Number, Offset, TopicPartition};
use crate::record::Op;
use crate::timers::Timers;

/// Tries without an answer, one after the other, after which people are told that events wait.
const TRIES_BEFORE_NOTICE: u32 = 3;

/// Other channels that each one looks after when it is used first, and each turn that is refused for want of one: more
/// than one, so that those whose topics are gone are found sooner than new ones come.
const LOOKS_EACH: usize = 2;

/// The channels into topics, as a reign uses them.
#[derive(Clone, Debug, Default)]
pub(super) struct Publishing {
    publishers: BTreeMap<TopicPartition, Publisher>,
    /// When an answer is late, or a pause over.
    timers: Timers<TopicPartition>,
    /// Those with something that has landed and is not settled.
    unsettled: BTreeSet<TopicPartition>,
    /// The channel that was looked after last.
    looked_after: Option<TopicPartition>,
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
    /// An answer is waited for: to events, or to the question what has landed.
    Asked { serial: u64, sends: bool },
    /// Nobody could answer: it is tried again later.
    Rests,
    /// There is no such topic any more.
    Gone,
}

impl Publishing {
    pub(super) fn timeout(&self) -> Option<Millis> {
        self.timers.first()
    }

    /// Whether a topic has said in this reign that it is no more.
    pub(super) fn is_gone(&self, to: &TopicPartition) -> bool {
        self.publishers.get(to).is_some_and(|publisher| matches!(publisher.stage, Stage::Gone))
    }
}

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
        let publishers = &mut self.reign.publishing.publishers;
        let is_first = !publishers.contains_key(to);
        let publisher = publishers.entry(to.clone()).or_insert_with(new);
        publisher.committed = publisher.committed.max(upto);
        if matches!(publisher.stage, Stage::Asked { .. }) {
            env.cover(Transition::PublishMore);
        }
        self.publish(env, to);
        if is_first {
            self.look_after_topics(env);
        }
    }

    /// Asks for a few of the channels that nothing is owed on, in turn, once there are many: nobody else would notice
    /// that their topics are gone, and they would be remembered for ever.
    pub(super) fn look_after_topics(&mut self, env: &mut Env) {
        if self.reign.released
            || 2 * self.state.topics.len() < env.limits.topic_channels_per_partition_max
        {
            return;
        }
        let after = self.reign.publishing.looked_after.take();
        let next = self.state.topics.after(after.as_ref()).take(LOOKS_EACH);
        let next: Vec<_> = next.map(|(to, channel)| (to.clone(), channel.idle_at())).collect();
        for (to, idle_at) in next {
            self.reign.publishing.looked_after = Some(to.clone());
            let Some(landed) = idle_at else { continue };
            let new =
                || Publisher { committed: landed.0, landed, stage: Stage::Unknown, failures: 0 };
            let publisher = self.reign.publishing.publishers.entry(to.clone()).or_insert_with(new);
            if let Stage::Known = publisher.stage {
                publisher.stage = Stage::Unknown;
            }
            if let Stage::Unknown = publisher.stage {
                env.cover(Transition::PublishLooks);
                self.publish(env, &to);
            }
        }
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
        let serial = self.ask_topic(env, to, false);
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
        if events.is_empty() {
            return;
        }
        env.cover(Transition::PublishSends);
        let serial = self.ask_topic(env, to, true);
        if !env.rules.settle_landed
            && let Some((last, _)) = events.last()
        {
            self.settle_sent(env, to, *last);
        }
        env.emit(Effect::Publish {
            partition: self.id.clone(),
            to: to.clone(),
            channel: self.state.log.unwrap_or_default(),
            epoch: self.state.epoch,
            serial,
            events,
        });
    }

    /// A rule switched off: what is sent counts as landed.
    fn settle_sent(&mut self, env: &mut Env, to: &TopicPartition, last: Number) {
        let publishing = &mut self.reign.publishing;
        let Some(publisher) = publishing.publishers.get_mut(to) else { return };
        publisher.landed.0 = last;
        publishing.unsettled.insert(to.clone());
        self.reign.settle_at.get_or_insert(env.now);
    }

    /// Waits for an answer from here on.
    fn ask_topic(&mut self, env: &mut Env, to: &TopicPartition, sends: bool) -> u64 {
        let serial = env.proposal().0;
        let late = env.now + env.limits.append_timeout_ms;
        let publishing = &mut self.reign.publishing;
        if let Some(publisher) = publishing.publishers.get_mut(to) {
            publisher.stage = Stage::Asked { serial, sends };
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
            Stage::Asked { serial: asked, sends } if asked == serial => Some((publisher, sends)),
            _ => None,
        });
        let Some((publisher, sends)) = asked else { return env.cover(Transition::PublishStale) };
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
            if sends {
                // It has taken nothing: that is no reason to ask again at once.
                env.cover(Transition::PublishShort);
                return self.rest_published(env, to);
            }
        } else {
            if !sends {
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
        if self.state.topics.get(to).is_none_or(|channel| channel.open.is_empty()) {
            // It was looked after only: whoever publishes there next learns for himself.
            publishing.publishers.remove(to);
            return publishing.timers.set(to, None);
        }
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
