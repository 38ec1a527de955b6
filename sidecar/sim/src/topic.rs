//! Simulated topics: appends travel, are lost, come late and are answered by nobody; topics are away for a while, and
//! are deleted and created anew. One bus in two tells numbers apart, as the hub does; the others append whatever comes,
//! as Kafka does, and only learning protects them: it fences what was sent before.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use kar_core::event::Event;
use kar_core::events::{EventOrigin, Publication, PublishResult};
use kar_core::ids::{Number, Offset, PartitionId, TopicPartition, Uuid};

use crate::explore::Print;
use crate::history::Seen;
use crate::plan::{HORIZON, MS, Profile, Us};
use crate::rng::{Rng, join};
use crate::script::{Script, Step};
use crate::world::{Due, Input, World};

/// Topics that turns publish to; behind them comes the one of dead letters.
const TOPICS: usize = 2;
/// Partitions of each.
const PARTITIONS: u32 = 2;

/// The channel from a partition's log into a partition of a topic.
type Channel = (TopicPartition, Uuid);

/// A node's session, and the serial of the request that it came with.
type Session = (u64, u64);

/// All topics, and who may append.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimTopics {
    /// How often each was created anew.
    created: [u64; TOPICS + 1],
    /// Until when each cannot be reached.
    away: [Us; TOPICS + 1],
    /// What is in them, by channel: the highest number, and where it is.
    landed: BTreeMap<Channel, (Number, Offset)>,
    /// The last offset of each partition.
    last: BTreeMap<TopicPartition, Offset>,
    /// The session that may append for a channel, where numbers are not told apart.
    writer: BTreeMap<Channel, u64>,
    /// Sessions of nodes' drivers, by slot and incarnation.
    sessions: HashMap<(usize, u64, Channel), Session>,
    next_session: u64,
}

/// A request to the bus.
#[derive(Clone, Debug)]
pub(crate) struct ToTopic {
    pub(crate) partition: PartitionId,
    pub(crate) to: TopicPartition,
    pub(crate) channel: Uuid,
    pub(crate) serial: u64,
    /// Nothing: it asks what has landed.
    pub(crate) events: Vec<(Number, Bytes)>,
}

/// A request on its way.
#[derive(Clone, Debug)]
pub(crate) struct TopicLanding {
    pub(crate) slot: usize,
    pub(crate) inst: u64,
    pub(crate) hub: u64,
    /// The session of whoever sent it, as it was then.
    session: Option<u64>,
    asked: ToTopic,
}

/// Something happens to a topic.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TopicFault {
    /// It is deleted, and another one is created under its name.
    Recreated(usize),
    /// It cannot be reached for so long.
    Away(usize, Us),
}

impl SimTopics {
    fn id(&self, topic: usize) -> Arc<str> {
        self.id_before(topic, 0)
    }

    /// The id that a topic had before it was created anew so often.
    fn id_before(&self, topic: usize, times: u64) -> Arc<str> {
        format!("t{topic}#{}", self.created[topic].saturating_sub(times)).into()
    }

    /// Which topic an id stands for, if it still does.
    fn topic(&self, id: &str) -> Option<usize> {
        (0..=TOPICS).find(|topic| *self.id(*topic) == *id)
    }

    /// What can matter later, for the fingerprint of an explored world: sessions by who has them only.
    pub(crate) fn add_to(&self, print: &mut Print) {
        print.add(&(&self.landed, &self.last, &self.created));
        for (channel, session) in &self.writer {
            let holders =
                self.sessions.iter().filter(|((.., of), s)| of == channel && s.0 == *session);
            let mut holders: Vec<_> = holders.map(|((slot, inst, _), _)| (slot, inst)).collect();
            holders.sort_unstable();
            print.add(&(channel, holders));
        }
    }

    /// A partition of a topic, both by number; `times`: as it was known before it was created anew so often.
    fn place(&self, topic: usize, partition: u32, times: u64) -> TopicPartition {
        let (topic, partition) = (topic % TOPICS, partition % PARTITIONS);
        TopicPartition { id: self.id_before(topic, times), partition }
    }

    /// Where dead letters go.
    pub(crate) fn dead_letters(&self) -> TopicPartition {
        TopicPartition { id: self.id(TOPICS), partition: 0 }
    }
}

/// Draws what happens to topics; apart, so that the rest of a seed's plan does not depend on it.
pub(crate) fn draw_faults(seed: u64, profile: &Profile) -> Vec<(Us, TopicFault)> {
    let mut rng = Rng::new(seed ^ 0x746f_7069_6373);
    let count = rng.range(0, profile.topic_faults_max);
    let mut draw = || {
        let (at, topic) = (rng.range(20 * MS, HORIZON), rng.index(TOPICS + 1));
        if rng.chance(300) {
            (at, TopicFault::Recreated(topic))
        } else {
            (at, TopicFault::Away(topic, rng.range(10 * MS, 400 * MS)))
        }
    };
    (0..count).map(|_| draw()).collect()
}

/// Lets some turns publish; drawn apart from the rest of a script.
pub(crate) fn add(script: &mut Script, seed: u64, profile: &Profile) {
    let mut rng = Rng::new(seed ^ 0x7075_626c);
    for _ in 0..2 {
        if !rng.chance(profile.publishes) {
            continue;
        }
        let count = if rng.chance(300) { rng.range(2, 4) } else { 1 };
        let to = (0..count).map(|_| (rng.index(TOPICS), rng.index(PARTITIONS as usize) as u32));
        let step = Step::Publish(to.collect());
        let at = rng.index(script.steps.len() + 1);
        script.steps.insert(at, step);
    }
}

/// An event that no other turn publishes.
pub(crate) fn event(run: usize, item: usize, place: usize) -> Bytes {
    let number = join(join(run as u64, item as u64), place as u64);
    Bytes::copy_from_slice(&number.to_le_bytes())
}

impl World {
    /// What a turn publishes, by the numbers of topics and partitions.
    pub(crate) fn publications(
        &self,
        (run, item): (usize, usize),
        to: &[(usize, u32)],
    ) -> Vec<Publication> {
        // Some sidecars have looked a topic's id up before it was deleted.
        let times = u64::from((run + item).is_multiple_of(4));
        let publication = |(place, (topic, partition)): (usize, &(usize, u32))| Publication {
            to: self.topics.place(*topic, *partition, times),
            event: event(run, item, place),
        };
        to.iter().enumerate().map(publication).collect()
    }

    /// Where a delivered event is from.
    pub(crate) fn origin(&self, tag: u64) -> Arc<EventOrigin> {
        let buries = tag & 7 != 0;
        Arc::new(EventOrigin {
            subscription: "sub".into(),
            topic: "source".into(),
            place: TopicPartition { id: "source#0".into(), partition: 0 },
            offset: tag | 1,
            dead_letter: buries.then(|| self.topics.dead_letters()),
            event: None,
        })
    }

    /// Sends a request to the bus on its way.
    pub(crate) fn ask_topic(&mut self, slot: usize, asked: ToTopic) {
        let (inst, hub) = (self.slots[slot].inst, self.hub);
        let channel = (asked.to.clone(), asked.channel);
        let session = self.topics.sessions.get(&(slot, inst, channel)).map(|session| session.0);
        let fate = match self.hooks.topic.as_mut() {
            Some(hook) => hook(slot, &asked),
            None => TopicFate::Chance,
        };
        let fate = if fate == TopicFate::Chance { self.draw_topic_fate() } else { fate };
        self.say(|| format!("n{slot} asks a topic {asked:?} {fate:?}"));
        let at = self.now + self.rng.range(100, 900) + self.hiccup();
        let at = if let TopicFate::Late(us) = fate { at + us } else { at };
        if fate != TopicFate::Lost {
            let is_answered = fate != TopicFate::Unanswered;
            let landing = TopicLanding { slot, inst, hub, session, asked };
            self.push(at, Due::Topic { landing, is_answered });
        }
    }

    fn draw_topic_fate(&mut self) -> TopicFate {
        let chance = self.plan.profile.topic_trouble;
        if !self.faults_on || chance == 0 || !self.rng.chance(chance) {
            return TopicFate::Arrives;
        }
        match self.rng.below(3) {
            0 => TopicFate::Lost,
            1 => TopicFate::Unanswered,
            _ => TopicFate::Late(self.rng.range(MS, 1_500 * MS)),
        }
    }

    /// The bus takes a request, and answers.
    pub(crate) fn at_topic(&mut self, landing: TopicLanding, is_answered: bool) {
        let TopicLanding { slot, inst, hub, session, asked } = landing;
        let orphan = self.slots[slot].inst != inst || self.hub != hub;
        if orphan && self.rng.chance(500) {
            return;
        }
        let ToTopic { partition, to, channel, serial, events } = asked;
        let result = self.topic_says((slot, inst, session), (&to, channel), (serial, events));
        self.say(|| format!("topic {to} says {result:?} to n{slot}"));
        if orphan || !is_answered || self.slots[slot].node.is_none() {
            return;
        }
        let at = self.now + self.rng.range(50, 400) + self.hiccup();
        let event = Event::Published { partition, to, serial, result };
        self.push(at, Due::Input { slot, inst, input: Input::Event(event) });
    }

    fn topic_says(
        &mut self,
        (slot, inst, session): (usize, u64, Option<u64>),
        (to, channel): (&TopicPartition, Uuid),
        (serial, events): (u64, Vec<(Number, Bytes)>),
    ) -> PublishResult {
        let Some(topic) = self.topics.topic(&to.id) else { return PublishResult::Gone };
        if self.topics.away[topic] > self.now && self.faults_on {
            return PublishResult::Unavailable;
        }
        let key = (to.clone(), channel);
        let tells_numbers = self.plan.topics_tell_numbers;
        // Who has no session gets one with its first request.
        if events.is_empty() || session.is_none() {
            self.topics.next_session += 1;
            let new = self.topics.next_session;
            self.topics.writer.insert(key.clone(), new);
            // A request that was late fences, too, but who sent it goes by the answer to the one after it.
            let held = self.topics.sessions.entry((slot, inst, key.clone())).or_default();
            if held.1 <= serial {
                *held = (new, serial);
            }
        } else if !tells_numbers && self.topics.writer.get(&key) != session.as_ref() {
            return PublishResult::Unavailable;
        }
        for (number, event) in events {
            let highest = self.topics.landed.get(&key).map_or(0, |(number, _)| *number);
            if tells_numbers && number <= highest {
                continue;
            }
            let last = self.topics.last.entry(to.clone()).or_default();
            *last += 1;
            let offset = *last;
            self.topics.landed.insert(key.clone(), (number.max(highest), offset));
            let to = to.clone();
            self.note(Seen::InTopic { to, offset, channel, number, event });
        }
        let (upto, offset) = self.topics.landed.get(&key).copied().unwrap_or_default();
        PublishResult::Landed { upto, offset }
    }

    /// Something happens to a topic.
    pub(crate) fn topic_fault(&mut self, index: usize) {
        if !self.faults_on {
            return;
        }
        let fault = self.plan.topic_faults[index].1;
        self.say(|| format!("FAULT {fault:?}"));
        match fault {
            TopicFault::Away(topic, us) => self.topics.away[topic] = self.now + us,
            TopicFault::Recreated(topic) => self.recreate(topic),
        }
    }

    /// A topic is deleted, and another one is created under its name.
    pub(crate) fn recreate(&mut self, topic: usize) {
        let id = self.topics.id(topic);
        self.topics.created[topic] += 1;
        self.note(Seen::TopicGone { id });
    }
}

/// What becomes of a request to the bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TopicFate {
    /// As chance has it.
    Chance,
    Arrives,
    Lost,
    /// It arrives, and its answer does not.
    Unanswered,
    /// It arrives so much later.
    Late(Us),
}
