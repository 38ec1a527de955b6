//! Topics: what was acknowledged is there whenever the hub is killed, once, in order; retention; consumers.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{Choices, PATIENCE, attach, config, hub_pid, kill, node};
use kar_hub::{
    ConsumerPosition, EventPlace, HubClient, HubError, NewEvent, TopicInfo, TopicSettings,
};
use tokio::time::timeout;

fn settings(name: &str, partitions: u32) -> TopicSettings {
    TopicSettings { name: name.into(), partitions, retention: None, retention_bytes: None }
}

async fn topic(client: &HubClient, name: &str, partitions: u32) -> TopicInfo {
    client.create_topic(settings(name, partitions)).await.expect("created").0
}

fn event(partition: u32, request: u128, text: impl Into<String>) -> NewEvent {
    NewEvent { partition, request, event: Bytes::from(text.into()) }
}

async fn publish(client: &HubClient, id: &str, events: Vec<NewEvent>) -> Vec<EventPlace> {
    client.publish(id, events).await.expect("published")
}

fn places(places: &[EventPlace]) -> Vec<(u64, bool)> {
    places.iter().map(|place| (place.offset, place.again)).collect()
}

/// All events of a partition from an offset.
async fn read(client: &HubClient, id: &str, partition: u32, from: u64) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    let mut next = from;
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
async fn a_topic_is_created_once_and_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(dir.path(), "a").await.client;
    let (first, created) = a.create_topic(settings("orders", 3)).await.unwrap();
    assert!(created && first.partitions == 3 && first.created_ms > 0);
    assert_eq!(a.create_topic(settings("orders", 3)).await.unwrap(), (first.clone(), false));
    let error = a.create_topic(settings("orders", 4)).await.unwrap_err();
    assert!(
        matches!(&error, HubError::TopicExists { setting, value: 3, .. } if setting == "partitions")
    );
    assert!(a.create_topic(settings("orders", 0)).await.is_err());
    assert!(a.create_topic(settings("", 1)).await.is_err());
    topic(&a, "other", 1).await;
    for _ in 0..2 {
        restart(dir.path()).await;
        assert_eq!(a.topic("orders").await.unwrap().topic, first);
    }
    let page = a.topics(1, "").await.unwrap();
    assert_eq!(page.topics[0].topic.name, "orders");
    let page = a.topics(1, &page.next_after.unwrap()).await.unwrap();
    assert_eq!((page.topics.len(), page.next_after), (1, None));
    assert!(matches!(a.topic("none").await, Err(HubError::UnknownTopic(_))));
    let stats = a.stats().await.unwrap();
    assert_eq!(stats.topics, 2);
}

#[tokio::test]
async fn a_topic_that_is_created_anew_is_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(dir.path(), "a").await.client;
    let old = topic(&a, "t", 2).await;
    publish(&a, &old.id, vec![event(0, 1, "old"), event(1, 2, "old")]).await;
    let waits = {
        let (a, id) = (a.clone(), old.id.clone());
        tokio::spawn(async move { a.fetch(&id, (0, 2), 1, Duration::from_secs(20), None).await })
    };
    // It waits when it is counted.
    timeout(PATIENCE, async { while a.stats().await.unwrap().fetches_waiting == 0 {} })
        .await
        .unwrap();
    assert!(!a.delete_topic("t", Some("another")).await.unwrap());
    assert!(a.delete_topic("t", Some(&old.id)).await.unwrap());
    assert!(matches!(waits.await.unwrap(), Err(HubError::UnknownTopic(_))));
    assert!(!a.delete_topic("t", None).await.unwrap());
    let new = topic(&a, "t", 2).await;
    assert_ne!(new.id, old.id);
    for _ in 0..2 {
        let gone = a.publish(&old.id, vec![event(0, 3, "lost")]).await;
        assert!(matches!(gone, Err(HubError::UnknownTopic(_))));
        assert_eq!(read(&a, &new.id, 0, 1).await, []);
        restart(dir.path()).await;
    }
    assert_eq!(places(&publish(&a, &new.id, vec![event(0, 1, "new")]).await), [(1, false)]);
}

#[tokio::test]
async fn a_request_that_is_repeated_appends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(dir.path(), "a").await.client;
    let id = topic(&a, "t", 2).await.id;
    let batch = || vec![event(0, 1, "a"), event(1, 2, "b"), event(0, 3, "c")];
    assert_eq!(places(&publish(&a, &id, batch()).await), [(1, false), (1, false), (2, false)]);
    for _ in 0..2 {
        assert_eq!(places(&publish(&a, &id, batch()).await), [(1, true), (1, true), (2, true)]);
        restart(dir.path()).await;
    }
    // What is missing of a batch is appended.
    let longer = vec![event(0, 3, "c"), event(0, 4, "d"), event(0, 4, "d")];
    assert_eq!(places(&publish(&a, &id, longer).await), [(2, true), (3, false), (3, true)]);
    let wanted = [(1, "a".into()), (2, "c".into()), (3, "d".into())];
    assert_eq!(read(&a, &id, 0, 1).await, wanted);
    for wrong in [vec![], vec![event(2, 9, "no such partition")]] {
        assert!(matches!(a.publish(&id, wrong).await, Err(HubError::Invalid(_))));
    }
}

/// Publishers go on while the hub is killed again and again: each event is there once, those of one publisher in
/// order, and what was acknowledged is where it was said to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_there_once_whenever_the_hub_is_killed() {
    const PUBLISHERS: u128 = 4;
    let dir = tempfile::tempdir().unwrap();
    let args = &["segment=1048576", "segments=16777216"];
    let a = attach(config(dir.path(), "a", args)).await.unwrap().client;
    let id = topic(&a, "t", 2).await.id;
    let mut choices = Choices::new();
    let over = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|who| {
            let (dir, id, over) = (dir.path().to_owned(), id.clone(), Arc::clone(&over));
            let name = format!("p{who}");
            tokio::spawn(async move {
                let client = attach(config(&dir, &name, &[])).await.unwrap().client;
                let mut acknowledged = Vec::new();
                for n in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let partition = (n % 2) as u32;
                    let request = who << 64 | n;
                    let events = vec![event(partition, request, format!("{who} {n}"))];
                    let place = publish(&client, &id, events).await[0];
                    acknowledged.push((partition, place.offset, format!("{who} {n}")));
                }
                acknowledged
            })
        })
        .collect();
    let mut published = 0;
    for _ in 0..12 {
        // Somewhere in the middle of what goes on.
        let wanted = published + 50 + choices.below(400);
        timeout(PATIENCE, async {
            loop {
                let view = a.topic("t").await.unwrap();
                published = view.partitions.iter().map(|p| p.end - 1).sum();
                if published >= wanted {
                    break;
                }
            }
        })
        .await
        .expect("publishing goes on");
        restart(dir.path()).await;
    }
    over.store(true, Ordering::Relaxed);
    let mut found = BTreeMap::new();
    let mut last = BTreeMap::new();
    let mut acknowledged = Vec::new();
    for publisher in publishers {
        acknowledged.extend(publisher.await.unwrap());
    }
    for partition in 0..2 {
        for (offset, text) in read(&a, &id, partition, 1).await {
            let (who, n) = text.split_once(' ').expect("two numbers");
            let n: u64 = n.parse().expect("a number");
            let before = last.insert((partition, who.to_owned()), n);
            assert!(before.is_none_or(|before| before < n), "{text} follows {before:?}");
            assert_eq!(found.insert(text.clone(), (partition, offset)), None, "{text} twice");
        }
    }
    for (partition, offset, text) in &acknowledged {
        assert_eq!(found.get(text), Some(&(*partition, *offset)), "{text}");
    }
    assert_eq!(found.len(), acknowledged.len());
}

#[tokio::test]
async fn old_events_go_by_bytes_and_by_time() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(dir.path(), "a").await.client;
    let bounded = TopicSettings { retention_bytes: Some(100 << 10), ..settings("bytes", 1) };
    let bytes = a.create_topic(bounded).await.unwrap().0.id;
    let timed = TopicSettings { retention: Some(Duration::from_secs(1)), ..settings("time", 1) };
    let time = a.create_topic(timed).await.unwrap().0.id;
    publish(&a, &time, vec![event(0, 1, "old"), event(0, 2, "old")]).await;
    for n in 0..40 {
        publish(&a, &bytes, vec![event(0, n, "x".repeat(10 << 10))]).await;
    }
    let start = |name: &'static str| {
        let a = a.clone();
        async move { a.topic(name).await.unwrap().partitions[0] }
    };
    let wait = async {
        while start("bytes").await.start < 31 || start("time").await.start < 3 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, wait).await.expect("old events go");
    for _ in 0..2 {
        let kept = start("bytes").await;
        assert!((31..=33).contains(&kept.start) && kept.end == 41, "{kept:?}");
        assert!(kept.bytes <= 100 << 10 && kept.bytes >= 80 << 10, "{kept:?}");
        let gone = start("time").await;
        assert_eq!((gone.start, gone.end, gone.bytes), (3, 3, 0));
        // Whoever wants what is gone is told where it goes on.
        let at = a.fetch(&bytes, (0, 1), 1, Duration::ZERO, None).await.unwrap();
        assert_eq!((at.first, at.events.len()), (kept.start, 0));
        restart(dir.path()).await;
    }
    assert_eq!(places(&publish(&a, &time, vec![event(0, 3, "new")]).await), [(3, false)]);
}

#[tokio::test]
async fn an_event_is_found_by_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(dir.path(), "a").await.client;
    let id = topic(&a, "t", 1).await.id;
    for n in 0..50 {
        publish(&a, &id, vec![event(0, n, n.to_string())]).await;
    }
    let mut times = Vec::new();
    while times.len() < 50 {
        let at = (0, times.len() as u64 + 1);
        let part = a.fetch(&id, at, 1 << 20, Duration::ZERO, None).await.unwrap();
        times.extend(part.events.into_iter().map(|(time, _)| time));
    }
    assert!(times.is_sorted());
    for time in [0, times[0], times[20] + 1, times[49], times[49] + 1] {
        let wanted = times.iter().filter(|t| **t < time).count() as u64 + 1;
        assert_eq!(a.seek(&id, 0, time).await.unwrap(), wanted, "time {time}");
    }
}

#[tokio::test]
async fn a_fetch_waits_for_the_next_event() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(dir.path(), "a").await.client;
    let id = topic(&a, "t", 1).await.id;
    let nothing = a.fetch(&id, (0, 1), 1, Duration::from_millis(1), None).await.unwrap();
    assert_eq!((nothing.first, nothing.events.len()), (1, 0));
    let waits = a.fetch(&id, (0, 1), 1, Duration::from_secs(20), None);
    let publishes = async {
        while a.stats().await.unwrap().fetches_waiting == 0 {}
        publish(&a, &id, vec![event(0, 1, "e")]).await
    };
    let (fetched, _) = tokio::join!(waits, publishes);
    assert_eq!(fetched.unwrap().events[0].1, "e");
    // One that waits for events far away goes on waiting when others come.
    let far = a.fetch(&id, (0, 4), 1, Duration::from_secs(20), None);
    let publishes = async {
        while a.stats().await.unwrap().fetches_waiting == 0 {}
        for n in 2..=4 {
            publish(&a, &id, vec![event(0, n, n.to_string())]).await;
        }
    };
    let (fetched, ()) = tokio::join!(far, publishes);
    assert_eq!(fetched.unwrap().events[0].1, "4");
}

/// Whoever reads on and on, and stops, leaves nothing behind: fetches that wait are bounded for all clients together.
#[tokio::test]
async fn a_fetch_that_nobody_waits_for_any_more_ends() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(dir.path(), "a").await.client;
    let id = topic(&a, "t", 2).await.id;
    let fetch = |partition| {
        let (a, id) = (a.clone(), id.clone());
        let wait = Duration::from_secs(20);
        tokio::spawn(async move { a.fetch(&id, (partition, 1), 1, wait, None).await })
    };
    // No hub answers while it is replaced.
    let waiting = async |count| {
        while !a.stats().await.is_ok_and(|stats| stats.fetches_waiting == count) {
            tokio::task::yield_now().await;
        }
    };
    let (stays, goes) = (fetch(0), fetch(1));
    timeout(PATIENCE, waiting(2)).await.unwrap();
    goes.abort();
    timeout(Duration::from_secs(5), waiting(1)).await.expect("long before its time is over");
    // One that is given up while the hub is away is not asked for again.
    let goes = fetch(1);
    timeout(PATIENCE, waiting(2)).await.unwrap();
    restart(dir.path()).await;
    goes.abort();
    timeout(PATIENCE, waiting(1)).await.expect("the other one is");
    publish(&a, &id, vec![event(0, 1, "e"), event(1, 2, "f")]).await;
    assert_eq!(stays.await.unwrap().unwrap().events[0].1, "e");
}

#[tokio::test]
async fn a_consumer_has_one_session_and_keeps_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(dir.path(), "a").await.client;
    let id = topic(&a, "t", 2).await.id;
    let place = |floor, acknowledged: &[(u64, u64)]| ConsumerPosition {
        floor,
        acknowledged: acknowledged.to_vec(),
    };
    let first = a.open_consumer(&id, "c", vec![5, 0]).await.unwrap();
    assert!(first.created);
    assert_eq!(first.positions, [place(5, &[]), place(1, &[])]);
    let committed = place(7, &[(9, 9), (11, 12)]);
    let commit = |session, position| a.commit_consumer(&id, ("c", session), vec![(0, position)]);
    commit(first.session, committed.clone()).await.unwrap();
    // Never back.
    commit(first.session, place(6, &[])).await.unwrap();
    let waits = {
        let (a, id) = (a.clone(), id.clone());
        let session = first.session;
        let wait = Duration::from_secs(20);
        tokio::spawn(async move { a.fetch(&id, (0, 1), 1, wait, Some(("c", session))).await })
    };
    timeout(PATIENCE, async { while a.stats().await.unwrap().fetches_waiting == 0 {} })
        .await
        .unwrap();
    let second = a.open_consumer(&id, "c", vec![1, 1]).await.unwrap();
    assert!(!second.created && second.session > first.session);
    assert_eq!(second.positions, [committed.clone(), place(1, &[])]);
    assert!(matches!(waits.await.unwrap(), Err(HubError::ConsumerSuperseded(_))));
    for _ in 0..2 {
        let late = commit(first.session, place(9, &[])).await;
        assert!(matches!(late, Err(HubError::ConsumerSuperseded(_))));
        restart(dir.path()).await;
    }
    commit(second.session, place(8, &[])).await.unwrap();
    assert!(a.delete_consumer(&id, "c").await.unwrap());
    assert!(!a.delete_consumer(&id, "c").await.unwrap());
    restart(dir.path()).await;
    let third = a.open_consumer(&id, "c", vec![1, 1]).await.unwrap();
    assert!(third.created && third.session > second.session);
    let late = commit(second.session, place(9, &[])).await;
    assert!(matches!(late, Err(HubError::ConsumerSuperseded(_))));
}

#[tokio::test]
async fn bounds_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let args = &["topics=2", "topic-partitions=5", "consumers=1"];
    let a = attach(config(dir.path(), "a", args)).await.unwrap().client;
    let bound = |error: HubError| match error {
        HubError::TopicLimit { bound, limit, .. } => (bound, limit),
        other => panic!("{other:?}"),
    };
    let id = topic(&a, "one", 3).await.id;
    let error = a.create_topic(settings("two", 3)).await.unwrap_err();
    assert_eq!(bound(error), ("topic_partitions_max".into(), 5));
    topic(&a, "two", 2).await;
    let error = a.create_topic(settings("three", 1)).await.unwrap_err();
    assert_eq!(bound(error), ("topics_max".into(), 2));
    a.open_consumer(&id, "c", vec![1; 3]).await.unwrap();
    let error = a.open_consumer(&id, "d", vec![1; 3]).await.unwrap_err();
    assert_eq!(bound(error), ("consumers_max".into(), 1));
    // What is deleted makes room.
    assert!(a.delete_topic("one", None).await.unwrap());
    let id = topic(&a, "three", 1).await.id;
    a.open_consumer(&id, "d", vec![1]).await.unwrap();
}

#[tokio::test]
async fn topics_outlive_applications_and_their_consumers_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(dir.path(), "a").await.client;
    let id = topic(&a, "t", 1).await.id;
    publish(&a, &id, vec![event(0, 1, "e")]).await;
    a.open_consumer(&id, "c", vec![1]).await.unwrap();
    drop(a);
    let mut other = config(dir.path(), "b", &[]);
    other.application = "other".into();
    let other = attach(other).await.unwrap().client;
    other.open_consumer(&id, "c", vec![1]).await.unwrap();
    let mut observer = config(dir.path(), "o", &[]);
    observer.observer = true;
    let observer = attach(observer).await.unwrap().client;
    timeout(PATIENCE, async { while observer.purge_application().await.is_err() {} })
        .await
        .unwrap();
    for _ in 0..2 {
        let view = other.topic("t").await.unwrap();
        let owners: Vec<_> = view.consumers.iter().map(|c| c.application.as_str()).collect();
        assert_eq!(owners, ["other"]);
        assert_eq!(read(&other, &id, 0, 1).await, [(1, "e".into())]);
        restart(dir.path()).await;
    }
}

#[tokio::test]
async fn the_logs_of_topics_are_nobodys_application() {
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = config(dir.path(), "a", &[]);
    wrong.application = "$topics".into();
    wrong.connect_timeout = Duration::from_secs(1);
    assert!(attach(wrong).await.is_err());
}
