//! Snapshots through real sockets: durable, checked, found again.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use common::{Choices, Mounted, Signal, attach, config, hub_pid, kill, log, node, signal};
use kar_hub::{HubClient, HubError, HubEvent};

fn blob(seed: u64, length: usize) -> Bytes {
    let mut state = seed * 2 + 1;
    let bytes = (0..length).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    });
    bytes.collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("snapshots")).expect("a hub has run");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.sort();
    paths
}

async fn keys(client: &HubClient, prefix: &str) -> Vec<String> {
    let page = client.list_snapshots(prefix, None).await.expect("a hub answers");
    assert_eq!(page.next_after, None);
    page.snapshots.into_iter().map(|info| info.key).collect()
}

#[tokio::test]
async fn snapshots_are_put_got_listed_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    let lengths = [0, 1, 1_000, 256 << 10, 1 << 20, (1 << 20) + 1, 5_000_000];
    for (n, length) in lengths.into_iter().enumerate() {
        let key = format!("a.Account/1/{n}");
        assert_eq!(a.client.get_snapshot(&key).await.unwrap(), None);
        a.client.put_snapshot(&key, blob(n as u64, length)).await.unwrap();
    }
    a.client.put_snapshot("a.Account/10/1", blob(9, 9)).await.unwrap();
    a.client.put_snapshot("a.Other/1/1", blob(8, 8)).await.unwrap();
    for round in 0..2 {
        for (n, length) in lengths.into_iter().enumerate() {
            let found = a.client.get_snapshot(&format!("a.Account/1/{n}")).await.unwrap();
            assert!(found == Some(blob(n as u64, length)), "{n} in round {round}");
        }
        let wanted: Vec<_> = (0..7).map(|n| format!("a.Account/1/{n}")).collect();
        assert_eq!(keys(&a.client, "a.Account/1/").await, wanted);
        assert_eq!(keys(&a.client, "").await.len(), 9);
        assert_eq!(keys(&a.client, "a.Z").await, Vec::<String>::new());
        let page = a.client.list_snapshots("a.Account/1/", Some("a.Account/1/4")).await.unwrap();
        let after: Vec<_> = page.snapshots.iter().map(|info| (&*info.key, info.length)).collect();
        assert_eq!(after, [("a.Account/1/5", (1 << 20) + 1), ("a.Account/1/6", 5_000_000)]);
        let stats = a.client.stats().await.unwrap();
        let bytes: usize = lengths.iter().sum::<usize>() + 17;
        assert_eq!((stats.snapshots, stats.snapshot_bytes), (9, bytes as u64));
        kill(hub_pid(dir.path())).await;
        a.wait(HubEvent::Reconnected).await;
    }
    // Immutable: the same again is fine, another one is refused.
    a.client.put_snapshot("a.Account/1/2", blob(2, 1_000)).await.unwrap();
    let error = a.client.put_snapshot("a.Account/1/2", blob(3, 1_000)).await.unwrap_err();
    assert!(matches!(error, HubError::SnapshotExists(_)), "{error}");
    assert!(a.client.delete_snapshot("a.Account/1/2").await.unwrap());
    assert!(!a.client.delete_snapshot("a.Account/1/2").await.unwrap());
    a.client.put_snapshot("a.Account/1/2", blob(3, 1_000)).await.unwrap();
    assert_eq!(a.client.get_snapshot("a.Account/1/2").await.unwrap(), Some(blob(3, 1_000)));
    assert_eq!(files(dir.path()).len(), 9);
    // Other applications have their own.
    let mut other = config(dir.path(), "b", &[]);
    other.application = "other".into();
    let b = attach(other).await.unwrap();
    assert_eq!(b.client.get_snapshot("a.Account/1/2").await.unwrap(), None);
    b.client.put_snapshot("a.Account/1/2", blob(4, 4)).await.unwrap();
    assert_eq!(keys(&b.client, "").await, ["a.Account/1/2"]);
    assert!(a.client.get_snapshot("a.Account/1/2").await.unwrap() == Some(blob(3, 1_000)));
}

#[tokio::test]
async fn bounds_are_typed_errors() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["snapshot-bytes=2000000", "snapshots=3"];
    let a = attach(config(dir.path(), "a", &args)).await.unwrap();
    let key = |n: u64| format!("{}{n}", "k".repeat(1_023));
    // Exactly those that were put are there, as they were.
    let stay = async |wanted: &[u64]| {
        let names: Vec<_> = wanted.iter().map(|n| key(*n)).collect();
        assert_eq!(keys(&a.client, "").await, names);
        for (n, name) in wanted.iter().zip(&names) {
            let found = a.client.get_snapshot(name).await.unwrap();
            assert!(found == Some(blob(*n, 2_000_000)), "snapshot {n}");
        }
        assert_eq!(files(dir.path()).len(), wanted.len(), "nothing half is left");
    };
    for n in 0..2 {
        a.client.put_snapshot(&key(n), blob(n, 2_000_000)).await.unwrap();
    }
    // Under a key of its own, and under one that is there.
    for name in ["k", &key(1)] {
        let error = a.client.put_snapshot(name, blob(1, 2_000_001)).await.unwrap_err();
        assert!(matches!(error, HubError::SnapshotLimit(_)), "{error}");
        assert!(error.to_string().contains("--snapshot-bytes-max"), "{error}");
        stay(&[0, 1]).await;
    }
    for name in ["", &"k".repeat(1_025)] {
        let error = a.client.put_snapshot(name, blob(1, 1)).await.unwrap_err();
        assert!(matches!(error, HubError::Invalid(_)), "{error}");
        stay(&[0, 1]).await;
    }
    a.client.put_snapshot(&key(2), blob(2, 2_000_000)).await.unwrap();
    let error = a.client.put_snapshot("one more", blob(1, 1)).await.unwrap_err();
    assert!(matches!(error, HubError::SnapshotLimit(_)), "{error}");
    assert!(error.to_string().contains("--snapshots-max"), "{error}");
    stay(&[0, 1, 2]).await;
    // What is there may be put again, and deleting makes room.
    a.client.put_snapshot(&key(1), blob(1, 2_000_000)).await.unwrap();
    stay(&[0, 1, 2]).await;
    assert!(a.client.delete_snapshot(&key(1)).await.unwrap());
    stay(&[0, 2]).await;
    a.client.put_snapshot("one more", blob(1, 1)).await.unwrap();
    assert_eq!(keys(&a.client, "").await, [key(0), key(2), "one more".to_owned()]);
}

#[tokio::test]
async fn damage_is_a_typed_error_and_the_others_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    for n in 1..=3 {
        a.client.put_snapshot(&format!("k{n}"), blob(n, 3_000_000)).await.unwrap();
    }
    let paths = files(dir.path());
    let mut bytes = std::fs::read(&paths[1]).unwrap();
    bytes[2_500_000] ^= 1;
    std::fs::write(&paths[1], bytes).unwrap();
    for _ in 0..2 {
        let error = a.client.get_snapshot("k2").await.unwrap_err();
        assert!(matches!(error, HubError::SnapshotDamaged(_)), "{error}");
        assert!(error.to_string().contains(".snap"), "{error}");
        assert!(a.client.get_snapshot("k1").await.unwrap() == Some(blob(1, 3_000_000)));
        kill(hub_pid(dir.path())).await;
        a.wait(HubEvent::Reconnected).await;
    }
    assert!(a.client.delete_snapshot("k2").await.unwrap(), "it can still be deleted");
    std::fs::remove_file(&paths[2]).unwrap();
    let error = a.client.get_snapshot("k3").await.unwrap_err();
    assert!(matches!(error, HubError::SnapshotDamaged(_)), "{error}");
    assert!(a.client.delete_snapshot("k3").await.unwrap());
}

#[tokio::test]
async fn kills_lose_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut choices = Choices::new();
    let mut a = node(dir.path(), "a").await;
    let mut known: BTreeMap<String, (u64, usize)> = BTreeMap::new();
    for round in 0..20_u64 {
        let steps = 1 + choices.below(12);
        let killer = choices.below(steps);
        for step in 0..steps {
            let delete = known.len() > 3 && choices.below(3) == 0;
            if step == killer {
                // While the next step is under way: its client asks again.
                signal(Signal::KILL, hub_pid(dir.path()));
            }
            if delete {
                let nth = choices.below(known.len() as u64) as usize;
                let key = known.keys().nth(nth).unwrap().clone();
                a.client.delete_snapshot(&key).await.unwrap();
                known.remove(&key);
            } else {
                let key = format!("a.Account/{}/{round}-{step}", choices.below(3));
                let (seed, length) = (choices.below(1 << 40), choices.below(4_000_000) as usize);
                a.client.put_snapshot(&key, blob(seed, length)).await.unwrap();
                known.insert(key, (seed, length));
            }
        }
        let wanted: Vec<_> = known.keys().cloned().collect();
        assert_eq!(keys(&a.client, "").await, wanted, "round {round}");
        for (key, &(seed, length)) in &known {
            let found = a.client.get_snapshot(key).await.unwrap();
            assert!(found == Some(blob(seed, length)), "{key} in round {round}");
        }
        assert_eq!(files(dir.path()).len(), known.len(), "nothing half is left");
        a.wait(HubEvent::Reconnected).await;
    }
}

#[tokio::test]
async fn purging_deletes_the_snapshots_of_the_application_only() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(dir.path(), "a").await;
    a.client.put_snapshot("k", blob(1, 100)).await.unwrap();
    let mut other = config(dir.path(), "b", &[]);
    other.application = "other".into();
    let b = attach(other).await.unwrap();
    b.client.put_snapshot("k", blob(2, 100)).await.unwrap();
    drop(a);
    let mut observer = config(dir.path(), "tool", &[]);
    observer.observer = true;
    let mut tool = attach(observer).await.unwrap();
    tool.members(&[]).await;
    tool.client.purge_application().await.unwrap();
    assert_eq!(keys(&tool.client, "").await, Vec::<String>::new());
    assert_eq!(files(dir.path()).len(), 1);
    assert_eq!(b.client.get_snapshot("k").await.unwrap(), Some(blob(2, 100)));
}

#[tokio::test]
async fn a_snapshot_that_does_not_fit_on_the_disk_leaves_the_hub_alone() {
    let root = tempfile::tempdir().unwrap();
    let Some(mounted) = Mounted::tmpfs(root.path(), "size=64m") else {
        common::skip("SKIPPED: a full file system needs the right to mount a tmpfs");
        return;
    };
    let dir = mounted.path.join("data");
    let mut a = attach(config(&dir, "a", &["segment=65536"])).await.unwrap();
    let error = a.client.put_snapshot("k", blob(1, 80_000_000)).await.unwrap_err();
    assert!(matches!(error, HubError::SnapshotIo(_)), "{error}");
    assert!(error.to_string().contains("no space left"), "{error}");
    assert_eq!(files(&dir), Vec::<PathBuf>::new(), "what was written of it is removed");
    a.client.put_snapshot("k", blob(1, 1_000)).await.unwrap();
    a.read(&log(1), 1).await;
    a.client.append(log(1), 1, Bytes::from_static(b"x"));
    a.find(|e| matches!(e, HubEvent::Own { .. }).then_some(())).await;
    drop(a);
    kill(hub_pid(&dir)).await;
}
