//! `published-once`: each event of a committed segment is in its topic once and in its channel's order, and none of a
//! dropped one. `dead-lettered`: what was delivered and ended without success is in the topic for that, once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use kar_core::events::Publication;
use kar_core::ids::{Epoch, Number, Offset, TopicPartition, Uuid};
use kar_core::invocation::{Invocation, Outcome};
use kar_core::record::{Publish, Segment};
use kar_core::snapshot::Snapshot;

use super::Judge;
use super::told::What;

/// Length of what an event that is delivered consists of.
const SPEC_BYTES: usize = 18;

/// Topics, and what logs owe them.
#[derive(Clone, Debug, Default)]
pub(crate) struct TopicsModel {
    /// By log and topic: what the log has published, and has not forgotten.
    channels: BTreeMap<(usize, TopicPartition), ChannelModel>,
    /// Ids of topics that exist no more.
    gone: BTreeSet<Arc<str>>,
    /// What invocations deliver: where it goes without success, and the event.
    delivered: HashMap<Uuid, (Option<TopicPartition>, Bytes)>,
    /// Dead letters that are owed, by their event; those in a topic; how many each.
    buried: BTreeMap<Bytes, u64>,
    letters: BTreeMap<Bytes, u64>,
}

#[derive(Clone, Debug, Default)]
struct ChannelModel {
    owed: BTreeMap<Number, Bytes>,
    /// Settled up to here.
    settled: Number,
    /// What is in the topic, with the offset, and whose reign it was then.
    landed: BTreeMap<Number, (Offset, Epoch)>,
}

impl Judge<'_> {
    /// What an invocation delivers is known from its first step.
    pub(super) fn meet_event(&mut self, invocation: &Invocation) {
        let Some(event) = &invocation.event else { return };
        self.meet_delivery(invocation.uuid);
        let data = event.event.as_ref().unwrap_or(&invocation.payload.data);
        let known = self.topics.delivered.entry(invocation.uuid);
        let known = known.or_insert_with(|| (event.dead_letter.clone(), data.clone()));
        let is_lost = event.dead_letter.is_some() && known.1 != *data;
        if is_lost || known.0 != event.dead_letter {
            let text = format!("{} carries another event along", invocation.uuid);
            self.wrong("dead-lettered", text);
        }
    }

    /// Whether an invocation's event goes to a topic without success.
    pub(super) fn is_buried(&self, uuid: Uuid) -> bool {
        self.topics.delivered.get(&uuid).is_some_and(|(to, _)| to.is_some())
    }

    /// How many events of the record that ends an invocation are no turn's.
    pub(super) fn letters_of(&self, uuid: Uuid, outcome: &Outcome) -> usize {
        usize::from(self.is_buried(uuid) && !matches!(outcome, Outcome::Done(_)))
    }

    /// An invocation ends with a record.
    pub(super) fn check_buried(
        &mut self,
        (log, offset): (usize, Offset),
        uuid: Uuid,
        outcome: &Outcome,
        segment: &Segment,
    ) {
        let Some((Some(to), event)) = self.topics.delivered.get(&uuid).cloned() else { return };
        if matches!(outcome, Outcome::Done(_)) {
            return;
        }
        let last = segment.publishes.last().map(|publish| &publish.publication);
        if last.is_none_or(|last| last.to != to || !last.event.starts_with(&event)) {
            let text = format!("{}@{offset}: {uuid} ends as {outcome:?}", self.logs[log].id);
            return self.wrong("dead-lettered", text);
        }
        self.counts.dead_lettered += 1;
        let is_poison = matches!(outcome, Outcome::Failed(error) if error.retryable);
        self.counts.poison_event += u64::from(is_poison && self.subscribed_policy(uuid).is_some());
        if !self.topics.gone.contains(&to.id) {
            *self.topics.buried.entry(event).or_default() += 1;
        }
    }

    /// A record that takes effect publishes.
    pub(super) fn publishes(&mut self, log: usize, offset: Offset, publishes: &[Publish]) {
        for Publish { number, publication } in publishes {
            let key = (log, publication.to.clone());
            let channel = self.topics.channels.entry(key).or_default();
            let last = channel.owed.last_key_value().map_or(0, |(number, _)| *number);
            channel.owed.insert(*number, publication.event.clone());
            if *number != last + 1 {
                let (id, to) = (&self.logs[log].id, &publication.to);
                let text = format!("{id}@{offset}: number {number} to {to} follows {last}");
                self.wrong("C1 numbers are used once", text);
            }
        }
    }

    /// An event is in a topic.
    pub(crate) fn in_topic(
        &mut self,
        (to, offset): (&TopicPartition, Offset),
        (channel, number): (Uuid, Number),
        event: &Bytes,
    ) {
        self.counts.published += 1;
        let Some(log) = self.logs.iter().position(|log| log.uuid == Some(channel)) else {
            return self.wrong("published-once", format!("{to}@{offset} is of no log"));
        };
        let (from, epoch) = (self.logs[log].id.clone(), self.logs[log].epoch);
        let model = self.topics.channels.entry((log, to.clone())).or_default();
        let is_owed = model.owed.get(&number) == Some(event);
        let last = model.landed.last_key_value().map_or(0, |(number, _)| *number);
        let before = model.landed.insert(number, (offset, epoch));
        if let Some((before, _)) = before {
            let text = format!("{from}: number {number} is in {to} @{before} and @{offset}");
            return self.wrong("published-once", text);
        }
        if !is_owed {
            let text = format!("{from}: number {number} is in {to} @{offset}, and is not owed");
            return self.wrong("published-once", text);
        }
        if number != last + 1 {
            let text = format!("{from}: number {number} is in {to} @{offset}, after {last}");
            self.wrong("published-once", text);
        }
        let letter = self.topics.delivered.values().find(|(at, data)| {
            at.as_ref() == Some(to) && event.starts_with(data) && event.len() > data.len()
        });
        if let Some((_, data)) = letter {
            *self.topics.letters.entry(data.clone()).or_default() += 1;
        }
    }

    /// A topic exists no more.
    pub(crate) fn topic_gone(&mut self, id: &Arc<str>) {
        self.counts.recreated_topic +=
            u64::from(self.topics.channels.iter().any(|((_, to), c)| to.id == *id && c.is_open()));
        self.topics.gone.insert(id.clone());
    }

    /// A log says that events are in their topic.
    pub(super) fn published(
        &mut self,
        (log, at): (usize, Offset),
        to: &TopicPartition,
        (upto, offset): (Number, Offset),
    ) {
        let model = self.topics.channels.entry((log, to.clone())).or_default();
        model.settled = model.settled.max(upto);
        let last = model.landed.last_key_value().map_or(0, |(number, _)| *number);
        let passed =
            |(number, (at, _)): (&Number, &(Offset, Epoch))| *number > upto && *at <= offset;
        let is_passed = model.landed.iter().any(passed);
        let by = model.landed.get(&upto).map_or(0, |(_, epoch)| *epoch);
        self.counts.publisher_dies_after_append += u64::from(by < self.logs[log].epoch);
        if last < upto || is_passed {
            let id = &self.logs[log].id;
            let text = format!("{id}@{at} settles {upto} @{offset} of {to}, which has {last}");
            self.wrong("C2 settled only when durable", text);
        }
    }

    /// A log says that a topic is gone.
    pub(super) fn forgets(&mut self, log: usize, at: Offset, to: &TopicPartition) {
        if !self.topics.gone.contains(&to.id) {
            let text = format!("{}@{at} forgets {to}, which exists", self.logs[log].id);
            self.wrong("published-once", text);
        }
        let model = self.topics.channels.remove(&(log, to.clone())).unwrap_or_default();
        let open = model.owed.range(model.settled + 1..).count();
        if open > 0 {
            self.is_to_be_told(log, What::Lost(to.clone(), open));
        }
    }

    /// A log owes a topic an event that could not be delivered.
    pub(super) fn letter_owed(&mut self, delivery: Uuid, publication: &Publication) {
        let event = publication.event.slice(..SPEC_BYTES);
        self.counts.dead_lettered += 1;
        let known = (Some(publication.to.clone()), event.clone());
        self.topics.delivered.insert(delivery, known);
        if !self.topics.gone.contains(&publication.to.id) {
            *self.topics.buried.entry(event).or_default() += 1;
        }
    }

    /// Whether a topic with this id exists no more.
    pub(super) fn topic_is_gone(&self, id: &Arc<str>) -> bool {
        self.topics.gone.contains(id)
    }

    /// Whether a topic exists no more.
    pub(super) fn is_gone(&self, to: &TopicPartition) -> bool {
        self.topics.gone.contains(&to.id)
    }

    /// What a snapshot holds of channels into topics is what its log comes to.
    pub(super) fn same_topics(&self, log: usize, snapshot: &Snapshot) -> Result<(), String> {
        let channels = self.topics.channels.iter();
        let own = channels.filter(|((from, _), channel)| *from == log && !channel.owed.is_empty());
        let wanted: BTreeMap<_, _> = own
            .map(|((_, to), channel)| {
                let next = channel.owed.last_key_value().map_or(1, |(number, _)| number + 1);
                let open: Vec<_> = channel.owed.range(channel.settled + 1..).collect();
                (to, (next, channel.settled, open))
            })
            .collect();
        let saved: BTreeMap<_, _> = snapshot
            .topics
            .iter()
            .map(|saved| {
                let open = saved.open.iter().map(|(number, event)| (number, event)).collect();
                (&saved.to, (saved.next, saved.landed, open))
            })
            .collect();
        if saved == wanted { Ok(()) } else { Err(format!("topics {saved:?}, not {wanted:?}")) }
    }

    /// At the end: what was published is in its topic, and so are dead letters.
    pub(super) fn check_published(&mut self) {
        let mut wrong = Vec::new();
        for ((log, to), channel) in &self.topics.channels {
            let lost = channel.owed.keys().find(|number| !channel.landed.contains_key(number));
            if let (Some(number), false) = (lost, self.topics.gone.contains(&to.id)) {
                let text = format!("{}: number {number} is not in {to}", self.logs[*log].id);
                wrong.push(("published-once", text));
            }
        }
        for (event, count) in &self.topics.letters {
            // One whose topic has gone since may be in that.
            let owed = self.topics.buried.get(event).copied().unwrap_or(0);
            if *count > 1 || owed == 0 {
                wrong.push(("dead-lettered", format!("{event:?} is a dead letter {count} times")));
            }
        }
        for (rule, text) in wrong {
            self.wrong(rule, text);
        }
    }
}

impl ChannelModel {
    fn is_open(&self) -> bool {
        self.owed.range(self.settled + 1..).next().is_some()
    }
}
