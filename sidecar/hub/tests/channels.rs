//! Numbered events: each is in its topic once, whenever the hub is killed and however often it is sent.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{Choices, PATIENCE, attach, config, hub_pid, kill, node};
use kar_hub::{ChannelMark, HubClient, HubError, NewEvent, TopicSettings};
use tokio::time::timeout;

async fn topic(client: &HubClient, name: &str, partitions: u32) -> String {
    let settings =
        TopicSettings { name: name.into(), partitions, retention: None, retention_bytes: None };
    client.create_topic(settings).await.expect("created").0.id
}

/// Events that say their numbers.
fn events(numbers: impl IntoIterator<Item = u64>) -> Vec<(u64, Bytes)> {
    numbers.into_iter().map(|number| (number, Bytes::from(number.to_string()))).collect()
}

async fn append(
    client: &HubClient,
    id: &str,
    channel: u128,
    numbers: impl IntoIterator<Item = u64>,
) -> (u64, u64) {
    pair(client.append_events(id, 0, channel, events(numbers)).await.expect("appended"))
}

async fn learn(client: &HubClient, id: &str, channel: u128) -> (u64, u64) {
    pair(client.learn_channel(id, 0, channel).await.expect("learnt"))
}

fn pair(mark: ChannelMark) -> (u64, u64) {
    (mark.number, mark.offset)
}

/// All events of a partition that are kept.
async fn read(client: &HubClient, id: &str, partition: u32) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    let mut next = 1;
    loop {
        let at = (partition, next);
        let part = client.fetch(id, at, 64 << 10, Duration::ZERO, None).await.expect("fetched");
        if part.events.is_empty() && part.first == next {
            return found;
        }
        next = part.first;
        for (_, event) in part.events {
            found.push((next, String::from_utf8(event.to_vec()).expect("text")));
            next += 1;
        }
    }
}

async fn restart(dir: &Path) {
    kill(hub_pid(dir)).await;
}

#[tokio::test]
async fn an_event_of_a_channel_is_appended_once() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(dir.path(), "a").await.client;
    let id = topic(&a, "t", 2).await;
    assert_eq!(learn(&a, &id, 1).await, (0, 0));
    for _ in 0..2 {
        assert_eq!(append(&a, &id, 1, 1..=3).await, (3, 3));
        restart(dir.path()).await;
        assert_eq!(append(&a, &id, 1, [2]).await, (3, 3));
        assert_eq!(learn(&a, &id, 1).await, (3, 3));
    }
    // What is new of what is sent; other channels, partitions and requests are apart.
    assert_eq!(append(&a, &id, 2, [1]).await, (1, 4));
    assert_eq!(append(&a, &id, 1, 2..=5).await, (5, 6));
    let other = a.append_events(&id, 1, 1, events(1..=2)).await.unwrap();
    assert_eq!(pair(other), (2, 2));
    let request = NewEvent { partition: 0, request: 1, event: Bytes::from("r") };
    let published = a.publish(&id, vec![request.clone()]).await.unwrap()[0];
    assert!(published.offset == 7 && !published.again);
    for _ in 0..2 {
        restart(dir.path()).await;
        assert_eq!(learn(&a, &id, 1).await, (5, 6));
        assert_eq!(learn(&a, &id, 2).await, (1, 4));
        assert!(a.publish(&id, vec![request.clone()]).await.unwrap()[0].again);
        let texts: Vec<_> = read(&a, &id, 0).await.into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["1", "2", "3", "1", "4", "5", "r"]);
        assert_eq!(a.stats().await.unwrap().topic_channels, 3);
    }
    // A topic that was created anew knows nothing of it.
    a.delete_topic("t", None).await.unwrap();
    let new = topic(&a, "t", 2).await;
    for _ in 0..2 {
        let gone = a.append_events(&id, 0, 1, events([6])).await;
        assert!(matches!(gone, Err(HubError::UnknownTopic(_))), "{gone:?}");
        assert_eq!(learn(&a, &new, 1).await, (0, 0));
        restart(dir.path()).await;
    }
    assert_eq!(append(&a, &new, 1, [1]).await, (1, 1));
}

#[tokio::test]
async fn what_is_malformed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(dir.path(), "a").await.client;
    let id = topic(&a, "t", 1).await;
    for (partition, numbers) in
        [(0, vec![]), (0, vec![0]), (0, vec![2, 2]), (0, vec![3, 2]), (1, vec![1])]
    {
        let refused = a.append_events(&id, partition, 1, events(numbers.clone())).await;
        assert!(matches!(refused, Err(HubError::Invalid(_))), "{numbers:?}: {refused:?}");
    }
    assert!(matches!(a.learn_channel(&id, 1, 1).await, Err(HubError::Invalid(_))));
    let unknown = a.learn_channel("none", 0, 1).await;
    assert!(matches!(unknown, Err(HubError::UnknownTopic(_))));
    assert_eq!(a.stats().await.unwrap().topic_channels, 0);
}

/// Senders go on while the hub is killed again and again. As owners of partitions do when they have taken over, they
/// sometimes ask what has landed, and sometimes send again what they have sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_numbered_event_is_there_once_whenever_the_hub_is_killed() {
    const SENDERS: u128 = 3;
    /// So that files of the log are soon full.
    const FILLING: usize = 16 << 10;
    let dir = tempfile::tempdir().unwrap();
    let args = &["segment=262144", "segments=16777216"];
    let a = attach(config(dir.path(), "a", args)).await.unwrap().client;
    let id = topic(&a, "t", 1).await;
    let mut choices = Choices::new();
    let over = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (1..=SENDERS)
        .map(|channel| {
            let (dir, id, over) = (dir.path().to_owned(), id.clone(), Arc::clone(&over));
            let name = format!("p{channel}");
            tokio::spawn(async move {
                let client = attach(config(&dir, &name, &[])).await.unwrap().client;
                let mut highest = 0;
                for round in 0_u64.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    if round % 7 == 0 {
                        assert_eq!(learn(&client, &id, channel).await.0, highest);
                    }
                    let first = highest + 1 - (round % 3).min(highest);
                    let events = (first..=highest + 1 + round % 4).map(|number| {
                        let text = format!("{channel} {number} {}", "x".repeat(FILLING));
                        (number, Bytes::from(text))
                    });
                    let events: Vec<_> = events.collect();
                    let last = events[events.len() - 1].0;
                    let mark = client.append_events(&id, 0, channel, events).await.unwrap();
                    assert_eq!(mark.number, last);
                    highest = last;
                }
                (channel, highest)
            })
        })
        .collect();
    let mut appended = 0;
    for _ in 0..12 {
        // Somewhere in the middle of what goes on.
        let wanted = appended + 50 + choices.below(200);
        timeout(PATIENCE, async {
            while appended < wanted {
                appended = a.topic("t").await.unwrap().partitions[0].end - 1;
            }
        })
        .await
        .expect("appending goes on");
        restart(dir.path()).await;
    }
    over.store(true, Ordering::Relaxed);
    let mut highest = BTreeMap::new();
    for sender in senders {
        let (channel, number) = sender.await.unwrap();
        highest.insert(channel.to_string(), number);
    }
    let files = a.stats().await.unwrap().log_files;
    assert!(files > 1, "channels were repeated at the start of a file");
    let mut found = BTreeMap::new();
    for (_, text) in read(&a, &id, 0).await {
        let mut words = text.split(' ');
        let (Some(channel), Some(number)) = (words.next(), words.next()) else { panic!("{text}") };
        let number: u64 = number.parse().expect("a number");
        let before = found.insert(channel.to_owned(), number).unwrap_or(0);
        assert_eq!(number, before + 1, "of channel {channel}");
    }
    assert_eq!(found, highest);
}

/// The events of a channel are gone with the files that they were in: its number stays.
#[tokio::test]
async fn a_channel_is_known_when_its_events_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let args = &["segment=262144", "segments=16777216"];
    let a = attach(config(dir.path(), "a", args)).await.unwrap().client;
    let settings = TopicSettings {
        name: "t".into(),
        partitions: 1,
        retention: None,
        retention_bytes: Some(64 << 10),
    };
    let id = a.create_topic(settings).await.unwrap().0.id;
    append(&a, &id, 1, 1..=3).await;
    let filling = Bytes::from(vec![b'x'; 1 << 20]);
    let mut number = 0;
    let fill = async {
        while a.stats().await.unwrap().files_removed == 0 {
            number += 1;
            a.append_events(&id, 0, 2, vec![(number, filling.clone())]).await.unwrap();
        }
    };
    timeout(PATIENCE, fill).await.expect("the first file goes");
    for _ in 0..2 {
        assert_eq!(learn(&a, &id, 1).await, (3, 3));
        assert_eq!(append(&a, &id, 1, 1..=3).await, (3, 3));
        assert_eq!(learn(&a, &id, 2).await.0, number);
        restart(dir.path()).await;
    }
    let trimmed = async { while a.topic("t").await.unwrap().partitions[0].start <= number {} };
    timeout(PATIENCE, trimmed).await.expect("all that is too much goes");
    assert!(read(&a, &id, 0).await.iter().all(|(_, text)| text.len() > 3));
}

#[tokio::test]
async fn channels_are_bounded_and_end_with_topics_and_applications() {
    let dir = tempfile::tempdir().unwrap();
    // Whoever starts the hub anew.
    let args = &["channels=2"];
    let a = attach(config(dir.path(), "a", args)).await.unwrap().client;
    let (one, two) = (topic(&a, "one", 1).await, topic(&a, "two", 1).await);
    let mut other = config(dir.path(), "b", args);
    other.application = "other".into();
    let other = attach(other).await.unwrap().client;
    append(&a, &one, 1, [1]).await;
    append(&other, &two, 2, [1]).await;
    for _ in 0..2 {
        let refused = a.append_events(&one, 0, 3, events([1])).await.unwrap_err();
        let HubError::TopicLimit { message, bound, limit } = refused else { panic!("{refused:?}") };
        assert_eq!((&*bound, limit), ("topic_channels_max", 2));
        assert!(message.contains("purge"), "{message}");
        restart(dir.path()).await;
        // Those there are go on.
        append(&a, &one, 1, 1..=2).await;
    }
    a.delete_topic("one", None).await.unwrap();
    let one = topic(&a, "one", 1).await;
    append(&a, &one, 3, [1]).await;
    // The channel of the other application goes with it; of this one nothing does.
    drop(other);
    let mut observer = config(dir.path(), "o", args);
    (observer.observer, observer.application) = (true, "other".into());
    let observer = attach(observer).await.unwrap().client;
    timeout(PATIENCE, async { while observer.purge_application().await.is_err() {} })
        .await
        .unwrap();
    for _ in 0..2 {
        assert_eq!(learn(&a, &one, 3).await, (1, 1));
        assert_eq!(a.stats().await.unwrap().topic_channels, 1);
        assert_eq!(learn(&a, &two, 2).await, (0, 0));
        restart(dir.path()).await;
    }
    append(&a, &two, 4, [1]).await;
}
