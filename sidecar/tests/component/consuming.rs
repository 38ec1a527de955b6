//! How far a consumer is read ahead for, by a topic that notes what is read of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kar::bus::{
    Bus, BusFuture, ConsumerSession, EventPlace, Fetch, Fetched, Landed, NewEvent, SessionName,
    TopicId, TopicInfo, TopicPage, TopicPartition, TopicSettings, TopicView,
};
use kar::config::Bounds;
use kar::convert::event::encode_event;
use kar_core::events::{CloudEvent, ConsumerPosition, EventTime};
use kar_core::ids::{Millis, Uuid};
use kar_core::invocation::Payload;
use kar_proto::v1 as pb;
use pb::event_service_client::EventServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::memory::no_bus::NoBus;
use crate::memory::{PATIENCE, TestNode};

/// Its partitions.
const PARTITIONS: u32 = 2;
/// Events of each partition.
const EVENTS: u64 = 10;
/// Bytes of an event's data.
const LONG: usize = 4_000;

/// Topics with long events; it notes how many of them were read, by topic and partition.
#[derive(Default)]
struct Noting {
    read: Mutex<BTreeMap<(TopicId, u32), usize>>,
}

fn event(offset: u64) -> Bytes {
    encode_event(&CloudEvent {
        id: offset.to_string(),
        source: "/s".into(),
        kind: "k".into(),
        subject: String::new(),
        time: EventTime::default(),
        data_schema: String::new(),
        data: Payload { data: vec![7; LONG].into(), content_type: "".into() },
        attributes: BTreeMap::default(),
    })
}

impl Bus for Noting {
    fn topic(&self, name: String) -> BusFuture<TopicView> {
        let id = name.as_str().into();
        let settings =
            TopicSettings { name, partitions: PARTITIONS, retention: None, retention_bytes: None };
        let topic = TopicInfo { id, settings, created: 0 };
        let partition = TopicPartition { start: 1, end: EVENTS + 1, bytes: 0 };
        let partitions = vec![partition; PARTITIONS as usize];
        let view = TopicView { topic, partitions, consumers: Vec::new(), consumers_left_out: 0 };
        Box::pin(async { Ok(view) })
    }

    fn fetch(&self, topic: TopicId, fetch: Fetch) -> BusFuture<Fetched> {
        let (mut events, mut bytes) = (Vec::new(), 0);
        for offset in fetch.first..=EVENTS {
            if bytes >= fetch.bytes_max as usize {
                break;
            }
            let event = event(offset);
            bytes += event.len();
            events.push((0, event));
        }
        if events.is_empty() {
            // Nothing more ever comes.
            return Box::pin(std::future::pending());
        }
        let mut read = self.read.lock().expect("nobody panics with it");
        *read.entry((topic, fetch.partition)).or_default() += events.len();
        let fetched = Fetched { first: fetch.first, events, end: EVENTS + 1 };
        Box::pin(async { Ok(fetched) })
    }

    fn create_topic(&self, settings: TopicSettings) -> BusFuture<(TopicInfo, bool)> {
        NoBus.create_topic(settings)
    }

    fn delete_topic(&self, name: String, id: Option<String>) -> BusFuture<bool> {
        NoBus.delete_topic(name, id)
    }

    fn topics(&self, page_size: u32, after: String) -> BusFuture<TopicPage> {
        NoBus.topics(page_size, after)
    }

    fn publish(&self, topic: TopicId, events: Vec<NewEvent>) -> BusFuture<Vec<EventPlace>> {
        NoBus.publish(topic, events)
    }

    fn append(
        &self,
        topic: TopicId,
        partition: u32,
        channel: Uuid,
        events: Vec<(u64, Bytes)>,
    ) -> BusFuture<Landed> {
        NoBus.append(topic, partition, channel, events)
    }

    fn learn(
        &self,
        topic: TopicId,
        partition: u32,
        channel: Uuid,
        since: u64,
    ) -> BusFuture<Landed> {
        NoBus.learn(topic, partition, channel, since)
    }

    fn seek(&self, topic: TopicId, partition: u32, time: Millis) -> BusFuture<u64> {
        NoBus.seek(topic, partition, time)
    }

    fn open_consumer(
        &self,
        topic: TopicId,
        name: String,
        begin: Vec<u64>,
    ) -> BusFuture<ConsumerSession> {
        NoBus.open_consumer(topic, name, begin)
    }

    fn commit_consumer(
        &self,
        topic: TopicId,
        session: SessionName,
        positions: Vec<(u32, ConsumerPosition)>,
    ) -> BusFuture<()> {
        NoBus.commit_consumer(topic, session, positions)
    }

    fn delete_consumer(&self, topic: TopicId, name: String) -> BusFuture<bool> {
        NoBus.delete_consumer(topic, name)
    }
}

/// A consumer without a name.
struct Consumer {
    says: mpsc::Sender<pb::ConsumeRequest>,
    answers: Streaming<pb::ConsumeResponse>,
}

impl Consumer {
    /// Of a topic, with credit for so many events.
    async fn open(node: &TestNode, topic: &str, credits: i32) -> Self {
        let (says, said) = mpsc::channel(16);
        let first = pb::ConsumeRequest { topic: topic.into(), credits, ..Default::default() };
        says.send(first).await.expect("open");
        let mut client = EventServiceClient::new(node.channel().await);
        let answers = client.consume(ReceiverStream::new(said)).await.expect("it may consume");
        let mut answers = answers.into_inner();
        let first = answers.message().await.expect("open").expect("open");
        assert!(first.opened.is_some(), "{first:?}");
        Self { says, answers }
    }

    /// The next event's place: partition, offset.
    async fn next(&mut self) -> (u32, u64) {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await;
        let position = answer.expect("it comes").expect("open").expect("open").position;
        let (partition, offset) = position.split_once('/').expect("a place");
        (partition.parse().expect("a number"), offset.parse().expect("a number"))
    }

    async fn all(&mut self, count: u64) -> BTreeMap<u32, Vec<u64>> {
        let mut all: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for _ in 0..count {
            let (partition, offset) = self.next().await;
            all.entry(partition).or_default().push(offset);
        }
        all
    }
}

/// `consume_fetch_bytes`: of each partition so much is read, and one event more at most, before it is given; who takes
/// nothing holds up neither other consumers nor, when it goes on, itself.
#[tokio::test]
async fn no_more_is_read_ahead_for_a_consumer_than_the_bound_and_others_go_on() {
    let bus = Arc::new(Noting::default());
    let bounds = Bounds { consume_fetch_bytes: 10_000, ..Bounds::default() };
    let node = TestNode::start_on(bus.clone(), bounds, None).await;
    let mut slow = Consumer::open(&node, "slow", 1).await;
    let mut given: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for taken in 1..=u64::from(PARTITIONS) * EVENTS {
        let (partition, offset) = slow.next().await;
        given.entry(partition).or_default().push(offset);
        for ((topic, partition), read) in bus.read.lock().expect("nobody panics with it").iter() {
            if **topic != *"slow" {
                continue;
            }
            let ahead = read - given.get(partition).map_or(0, Vec::len);
            assert!(ahead <= 3, "{ahead} events of {LONG} bytes were read ahead");
        }
        if taken == 4 {
            // It has no credit now. Another one has all at once.
            let mut quick = Consumer::open(&node, "quick", i32::MAX).await;
            let all = quick.all(u64::from(PARTITIONS) * EVENTS).await;
            assert!(all.values().all(|offsets| *offsets == (1..=EVENTS).collect::<Vec<_>>()));
        }
        let more = pb::ConsumeRequest { credits: 1, ..Default::default() };
        slow.says.send(more).await.expect("open");
    }
    assert_eq!(given.len(), PARTITIONS as usize);
    assert!(given.values().all(|offsets| *offsets == (1..=EVENTS).collect::<Vec<_>>()));
}
