//! Logs through real sockets: order, tail, end and barrier, group commit, slow readers.

mod common;

use bytes::Bytes;
use common::{Node, attach, config, log, node};
use kar_hub::{HubEvent, RECORD_BYTES_MAX, SEGMENT_BYTES_MIN};

/// Waits for an own record; returns its offset.
async fn own(node: &mut Node, wanted: u64) -> u64 {
    node.find(|event| match event {
        HubEvent::Own { offset, id, .. } if *id == wanted => Some(*offset),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn own_and_foreign_records_come_in_one_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    let mut b = node(dir.path(), "b").await;
    assert_eq!(a.read(&log(1), 1).await, []);
    assert_eq!(b.read(&log(1), 1).await, []);
    for id in 1..=200 {
        a.client.append(log(1), id, Bytes::from(format!("a{id}")));
        b.client.append(log(1), id, Bytes::from(format!("b{id}")));
    }
    let mut orders = Vec::new();
    for (node, name) in [(&mut a, 'a'), (&mut b, 'b')] {
        let mut order = Vec::new();
        while order.len() < 400 {
            let (offset, record) = node
                .find(|event| match event {
                    HubEvent::Own { offset, id, .. } => Some((*offset, format!("{name}{id}"))),
                    HubEvent::Entry { offset, record, .. } => {
                        Some((*offset, String::from_utf8(record.to_vec()).unwrap()))
                    }
                    _ => None,
                })
                .await;
            assert_eq!(offset, order.len() as u64 + 1, "no gaps");
            order.push(record);
        }
        orders.push(order);
    }
    assert_eq!(orders[0], orders[1], "one order for all");
    for name in ['a', 'b'] {
        let ids: Vec<_> = orders[0].iter().filter(|r| r.starts_with(name)).collect();
        let wanted: Vec<_> = (1..=200).map(|id| format!("{name}{id}")).collect();
        assert_eq!(ids, wanted.iter().collect::<Vec<_>>(), "each in its own order");
    }
}

#[tokio::test]
async fn a_reading_begins_anywhere_ends_and_follows() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    a.read(&log(1), 1).await;
    for id in 1..=1_000_u64 {
        a.client.append(log(id % 3), id, Bytes::from(id.to_string()));
    }
    own(&mut a, 1_000).await;
    let mut b = node(dir.path(), "b").await;
    let all = b.read(&log(1), 1).await;
    assert_eq!(all.len(), 334);
    assert_eq!(all[0], (1, Bytes::from("1")));
    assert_eq!(all[333], (334, Bytes::from("1000")));
    let part = b.read(&log(1), 200).await;
    assert_eq!(part, all[199..]);
    assert_eq!(b.read(&log(1), 335).await, [], "from after the end");
    a.client.append(log(1), 1_001, Bytes::from("live"));
    let event = b.find(|e| matches!(e, HubEvent::Entry { .. }).then(|| e.clone())).await;
    let wanted = HubEvent::Entry { log: log(1), offset: 335, record: Bytes::from("live") };
    assert_eq!(event, wanted);
    b.client.stop_log(log(1));
    a.client.append(log(1), 1_002, Bytes::from("not told"));
    a.client.append(log(2), 1_003, Bytes::from("x"));
    b.client.read_log(log(2), 334);
    // Before or after its end, since another client appends it.
    b.wait(HubEvent::Entry { log: log(2), offset: 334, record: Bytes::from("x") }).await;
    assert!(!b.seen.iter().any(|e| matches!(e, HubEvent::Entry { offset: 336, .. })));
}

#[tokio::test]
async fn a_barrier_comes_after_what_was_appended_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    a.read(&log(1), 1).await;
    for round in 1..=50 {
        a.client.append(log(1), round, Bytes::from_static(b"x"));
        a.client.barrier(log(1));
        let first = a
            .find(|event| match event {
                HubEvent::Own { id, .. } => Some(*id),
                HubEvent::End { .. } => Some(0),
                _ => None,
            })
            .await;
        assert_eq!(first, round, "the record, then the end");
        a.wait(HubEvent::End { log: log(1) }).await;
    }
    a.client.barrier(log(7));
    a.wait(HubEvent::LogLost { log: log(7) }).await;
}

#[tokio::test]
async fn records_that_arrive_together_are_committed_together() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    a.read(&log(1), 1).await;
    let before = a.client.stats().await.unwrap();
    for id in 1..=5_000 {
        a.client.append(log(id % 8), id, Bytes::from(vec![1; 100]));
    }
    for n in 0..8 {
        a.client.read_log(log(n), 1);
        a.wait(HubEvent::End { log: log(n) }).await;
    }
    let after = a.client.stats().await.unwrap();
    // Eight logs are new: each has its name written once.
    assert_eq!(after.records - before.records, 5_008);
    let commits = after.commits - before.commits;
    assert!(commits < 1_000, "{commits} commits for 5,000 records");
    assert_eq!(after.logs, 8);
    assert!(after.commit_p99 >= after.commit_p50);
}

#[tokio::test]
async fn large_records_fill_files_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    a.read(&log(1), 1).await;
    let sizes = [0, 1, 31, 32, 33, 4_096, 1 << 20, RECORD_BYTES_MAX, 5, RECORD_BYTES_MAX - 1];
    for round in 0..4_u64 {
        for (nth, size) in sizes.into_iter().enumerate() {
            let record = Bytes::from(vec![(round as u8) * 16 + nth as u8; size]);
            a.client.append(log(1), round * 10 + nth as u64 + 1, record);
        }
    }
    own(&mut a, 40).await;
    let files = std::fs::read_dir(dir.path().join("log")).unwrap().count();
    assert!(files > 3, "{files} files of the log");
    let check = |entries: &[(u64, Bytes)]| {
        assert_eq!(entries.len(), 40);
        for (offset, record) in entries {
            let (round, nth) = ((offset - 1) / 10, ((offset - 1) % 10) as usize);
            assert_eq!(record.len(), sizes[nth], "record {offset}");
            assert!(record.iter().all(|&b| b == (round as u8) * 16 + nth as u8));
        }
    };
    let mut b = node(dir.path(), "b").await;
    check(&b.read(&log(1), 1).await);
    common::kill(common::hub_pid(dir.path())).await;
    b.wait(HubEvent::Reconnected).await;
    check(&b.read(&log(1), 1).await);
}

#[tokio::test]
async fn durability_os_keeps_what_the_process_loses() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = attach(config(dir.path(), "a", &["os"])).await.unwrap();
    a.read(&log(1), 1).await;
    for id in 1..=100 {
        a.client.append(log(1), id, Bytes::from(id.to_string()));
    }
    own(&mut a, 100).await;
    let stats = a.client.stats().await.unwrap();
    assert!(stats.commits > 0 && stats.syncs == 0, "{stats:?}");
    common::kill(common::hub_pid(dir.path())).await;
    a.wait(HubEvent::Reconnected).await;
    assert_eq!(a.read(&log(1), 1).await.len(), 100);
}

#[tokio::test]
async fn with_durability_fsync_each_commit_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    a.read(&log(1), 1).await;
    for id in 1..=10 {
        a.client.append(log(1), id, Bytes::from_static(b"one at a time"));
        own(&mut a, id).await;
    }
    let stats = a.client.stats().await.unwrap();
    assert!(stats.commits >= 10 && stats.syncs >= stats.commits, "{stats:?}");
}

/// `first_segment_bytes`, `segment_bytes`: what does not fit in any more begins the next file, and nothing else is held
/// up or lost by it.
#[tokio::test]
async fn a_record_that_does_not_fit_into_a_file_begins_the_next_one() {
    let (first, later) = (64 << 10, SEGMENT_BYTES_MIN);
    let dir = tempfile::tempdir().unwrap();
    let args = [format!("segment={first}"), format!("segments={later}")];
    let mut a =
        attach(config(dir.path(), "a", &args.each_ref().map(String::as_str))).await.unwrap();
    for n in 1..=2 {
        a.read(&log(n), 1).await;
    }
    let length = |n: u32| {
        let path = dir.path().join(format!("log/{n:08}.seg"));
        std::fs::metadata(path).map(|found| found.len()).ok()
    };
    assert_eq!(length(1), Some(first));
    a.client.append(log(2), 1, Bytes::from_static(b"before"));
    own(&mut a, 1).await;
    assert_eq!(a.client.stats().await.unwrap().log_files, 1);
    // Longer than the whole first file; then one that the second file has no room for.
    let long = [first as usize + 1, RECORD_BYTES_MAX];
    for (id, length) in (2..).zip(long) {
        a.client.append(log(1), id, Bytes::from(vec![id as u8; length]));
        a.client.append(log(2), 10 + id, Bytes::from_static(b"meanwhile"));
        own(&mut a, 10 + id).await;
    }
    a.client.append(log(1), 4, Bytes::from(vec![4; RECORD_BYTES_MAX]));
    own(&mut a, 4).await;
    assert_eq!(a.client.stats().await.unwrap().log_files, 3);
    assert_eq!((length(1), length(2), length(3)), (Some(first), Some(later), Some(later)));
    common::kill(common::hub_pid(dir.path())).await;
    a.wait(HubEvent::Reconnected).await;
    let lengths = a.read(&log(1), 1).await.into_iter().map(|(_, record)| record.len());
    assert_eq!(lengths.collect::<Vec<_>>(), [long[0], long[1], RECORD_BYTES_MAX]);
    assert_eq!(a.read(&log(2), 1).await.len(), 3);
}
