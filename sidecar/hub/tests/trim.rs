//! Trimming: what readers are told, what survives kills, and that the disk stays bounded.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use common::{
    Choices, Mounted, Node, Signal, attach, bytes_below, config, hub_pid, kill, log, node, signal,
};
use kar_hub::{HubEvent, HubStats, SEGMENT_BYTES_MIN};

/// Appends records and waits until they are durable.
async fn append(node: &mut Node, n: u64, ids: std::ops::RangeInclusive<u64>) {
    let last = *ids.end();
    for id in ids {
        node.client.append(log(n), id, Bytes::from(id.to_string()));
    }
    node.find(|event| matches!(event, HubEvent::Own { id, .. } if *id == last).then_some(())).await;
}

/// The offsets that a reading tells.
async fn offsets(node: &mut Node, n: u64, from: u64) -> Vec<u64> {
    node.read(&log(n), from).await.into_iter().map(|(offset, _)| offset).collect()
}

#[tokio::test]
async fn a_trimmed_log_says_where_it_starts() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    a.client.read_log(log(1), 1);
    a.wait(HubEvent::LogStart { log: log(1), start: 1 }).await;
    append(&mut a, 1, 1..=100).await;
    for (below, start) in [
        (41, 41),
        // Again, and less.
        (41, 41),
        (7, 41),
        (0, 41),
        (100, 100),
        // All of it; more than there is.
        (101, 101),
        (5_000, 101),
    ] {
        assert_eq!(a.trim(&log(1), below).await, start, "below {below}");
        for from in [0, 1, start - 1] {
            a.client.read_log(log(1), from);
            a.wait(HubEvent::LogTrimmed { log: log(1), start }).await;
        }
        let wanted: Vec<_> = (start..=100).collect();
        assert_eq!(offsets(&mut a, 1, start).await, wanted);
    }
    // It goes on where it was, and a log without records has nothing to be trimmed.
    append(&mut a, 1, 101..=103).await;
    assert_eq!(offsets(&mut a, 1, 101).await, [101, 102, 103]);
    assert_eq!(a.trim(&log(9), 10).await, 1);
    assert_eq!(a.trim(&log(1), 102).await, 102);
    for _ in 0..2 {
        kill(hub_pid(dir.path())).await;
        a.wait(HubEvent::Reconnected).await;
        assert_eq!(a.start_of(&log(1)).await, 102, "also after a kill");
        assert_eq!(offsets(&mut a, 1, 102).await, [102, 103]);
    }
    assert_eq!(a.client.stats().await.unwrap().trims, 0, "of this hub");
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_told_and_skips_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    a.read(&log(1), 1).await;
    // Far more than a reading sends ahead, so that the trim comes in the middle of it.
    let record = Bytes::from(vec![1; 256 << 10]);
    for id in 1..=200 {
        a.client.append(log(1), id, record.clone());
    }
    a.find(|e| matches!(e, HubEvent::Own { id: 200, .. }).then_some(())).await;
    let mut b = node(dir.path(), "b").await;
    b.client.read_log(log(1), 1);
    assert_eq!(a.trim(&log(1), 200).await, 200);
    let mut next = 1;
    loop {
        match b.next().await {
            HubEvent::Entry { offset, .. } => {
                assert_eq!(offset, next, "no jump");
                next += 1;
            }
            HubEvent::LogTrimmed { start, .. } => {
                assert_eq!(start, 200);
                assert!(next < 200, "told only if something is missing");
                break;
            }
            // All of it had been sent before.
            HubEvent::End { .. } => break,
            _ => {}
        }
    }
    // A follower that has everything is not told of trims below it.
    assert_eq!(offsets(&mut b, 1, 200).await, [200]);
    append(&mut a, 1, 201..=201).await;
    assert_eq!(a.trim(&log(1), 201).await, 201);
    b.find(|event| match event {
        HubEvent::LogTrimmed { .. } | HubEvent::LogLost { .. } => panic!("{event:?}"),
        HubEvent::Entry { offset: 201, .. } => Some(()),
        _ => None,
    })
    .await;
}

/// A log as the test knows it: what was acknowledged.
#[derive(Default)]
struct Known {
    /// By offset, the id of the record.
    records: BTreeMap<u64, u64>,
    start: u64,
    asked: u64,
}

fn record(id: u64) -> Bytes {
    // Many a file in a short time, and some records of which many fit into one.
    let length = if id.is_multiple_of(3) { 96 << 10 } else { 200 };
    let mut record = vec![id as u8; length];
    record[..8].copy_from_slice(&id.to_le_bytes());
    Bytes::from(record)
}

/// Everything that was acknowledged and not asked to be trimmed is there; returns the next offset.
async fn check(node: &mut Node, n: u64, known: &mut Known) -> u64 {
    let start = node.start_of(&log(n)).await;
    assert!(
        (known.start.max(1)..=known.asked.max(1)).contains(&start),
        "log {n} starts at {start}, which is not from {} to {}",
        known.start,
        known.asked
    );
    known.start = start;
    let found: BTreeMap<_, _> = node.read(&log(n), start).await.into_iter().collect();
    let last = found.keys().next_back().copied().unwrap_or(start - 1);
    assert!(found.keys().copied().eq(start..=last), "no gaps");
    for (offset, id) in known.records.range(start..) {
        assert!(found.get(offset) == Some(&record(*id)), "log {n}, offset {offset}, id {id}");
    }
    known.records.retain(|offset, _| *offset >= start);
    last + 1
}

/// Kills at random moments while three logs are written and two of them trimmed; files are
/// compacted and removed all the time.
async fn survives_kills(dir: &Path, durability: &[&str], rounds: usize, chores: u64) {
    let mut choices = Choices::new();
    let segments = format!("segments={SEGMENT_BYTES_MIN}");
    let mut args = vec!["segment=65536", &segments, "compaction-rate=67108864"];
    args.extend(durability);
    let mut a = attach(config(dir, "a", &args)).await.expect("a hub");
    let mut known: [Known; 4] = Default::default();
    let mut id = 0_u64;
    let mut compactions = 0;
    for round in 0.. {
        // How far the background work comes before a kill is chance: it goes on until enough was under way.
        if round >= rounds && compactions > chores {
            break;
        }
        assert!(round < 10 * rounds, "{compactions} files were compacted or removed");
        for n in 0..4 {
            // From there on, so that no trim is ahead of the reading.
            let next = check(&mut a, n, &mut known[n as usize]).await;
            a.client.read_log(log(n), next);
        }
        let enough = 50 + choices.below(900);
        let mut owned = 0;
        let mut flying = 0;
        let own = |known: &mut [Known; 4], event: HubEvent| match event {
            HubEvent::Own { log: name, offset, id } => {
                let n = (0..4).find(|n| log(*n) == name).expect("one of ours");
                known[n as usize].records.insert(offset, id);
                1
            }
            HubEvent::LogStart { log: name, start } => {
                let n = (0..4).find(|n| log(*n) == name).expect("one of ours");
                known[n as usize].start = known[n as usize].start.max(start);
                0
            }
            _ => 0,
        };
        while owned < enough {
            while flying < 32 {
                id += 1;
                flying += 1;
                // Log 0 gets a record now and then, and keeps all of them.
                let n = if id.is_multiple_of(40) { 0 } else { 1 + id % 3 };
                a.client.append(log(n), id, record(id));
                if id.is_multiple_of(30) {
                    let n = 1 + choices.below(2);
                    let Known { records, asked, .. } = &mut known[n as usize];
                    let last = records.keys().next_back().copied().unwrap_or(0);
                    let below = last.saturating_sub(choices.below(30));
                    *asked = below.max(*asked);
                    a.client.trim_log(log(n), below);
                }
                if id.is_multiple_of(700) {
                    // The third one is trimmed rarely, by much.
                    let last = known[3].records.keys().next_back().copied().unwrap_or(0);
                    known[3].asked = last.max(known[3].asked);
                    a.client.trim_log(log(3), last);
                }
            }
            let done = own(&mut known, a.next().await);
            owned += done;
            flying -= done;
        }
        let stats = a.client.stats().await.expect("a hub");
        compactions += stats.compactions + stats.files_removed;
        assert_eq!(stats.compaction_failures, 0, "round {round}");
        signal(Signal::KILL, hub_pid(dir));
        loop {
            match a.next().await {
                HubEvent::Reconnected => break,
                HubEvent::Unavailable { message } => panic!("round {round}: {message}"),
                event => own(&mut known, event),
            };
        }
    }
    for n in 0..4 {
        check(&mut a, n, &mut known[n as usize]).await;
    }
}

#[tokio::test]
async fn kills_in_the_middle_of_trims_and_compactions_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    survives_kills(dir.path(), &[], 20, 10).await;
}

#[tokio::test]
async fn kills_lose_nothing_with_durability_os_either() {
    let dir = tempfile::tempdir().unwrap();
    survives_kills(dir.path(), &["os"], 10, 5).await;
}

/// The hub's counters, once they are as wanted.
async fn stats_when(node: &Node, what: &str, holds: impl Fn(&HubStats) -> bool) -> HubStats {
    let wait = async {
        loop {
            let stats = node.client.stats().await.expect("a hub answers");
            if holds(&stats) {
                return stats;
            }
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(common::PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("waited for {what}"))
}

#[tokio::test]
async fn an_endless_run_keeps_the_disk_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let segments = format!("segments={SEGMENT_BYTES_MIN}");
    let mut a = attach(config(dir.path(), "a", &[&segments])).await.unwrap();
    // An idle log holds one old record for ever, and another one gets a small one now and then.
    a.read(&log(0), 1).await;
    append(&mut a, 0, 1..=1).await;
    a.read(&log(1), 1).await;
    a.read(&log(2), 1).await;
    let body = Bytes::from(vec![7; 128 << 10]);
    let (mut written, mut most, mut files_most) = (0_u64, 0, 0);
    for id in 1..=4_000_u64 {
        a.client.append(log(1), id, body.clone());
        if id.is_multiple_of(50) {
            a.client.append(log(2), 1_000_000 + id, Bytes::from_static(b"kept"));
        }
        written += body.len() as u64;
        if id.is_multiple_of(40) {
            let offset = a
                .find(|event| match event {
                    HubEvent::Own { offset, id: own, .. } if *own == id => Some(*offset),
                    _ => None,
                })
                .await;
            assert_eq!(a.trim(&log(1), offset - 20).await, offset - 20);
            most = most.max(bytes_below(&dir.path().join("log")));
            files_most = files_most.max(std::fs::read_dir(dir.path().join("log")).unwrap().count());
        }
    }
    // What lives twice, the file being written, the one made ahead, four that wait to be compacted
    // and those that come while this is done, without a pause between the appends.
    let bound = 9 * SEGMENT_BYTES_MIN;
    assert!(written > 30 * SEGMENT_BYTES_MIN);
    let stats = a.client.stats().await.unwrap();
    assert!(most < bound, "{most} bytes at most, {written} written: {stats:?}");
    let stats =
        stats_when(&a, "the files to be tidied", |stats| stats.log_bytes < 3 * SEGMENT_BYTES_MIN)
            .await;
    println!("{written} bytes written, {most} on disk at most in {files_most} files; {stats:?}");
    assert!(stats.log_live_bytes < 4 << 20, "{stats:?}");
    assert!(stats.compacted_bytes < 8 << 20, "what lives is not copied again and again: {stats:?}");
    // Nothing that lives was touched, before and after a kill; and the start reads little.
    for _ in 0..2 {
        assert_eq!(a.read(&log(0), 1).await, [(1, Bytes::from_static(b"1"))]);
        assert_eq!(offsets(&mut a, 2, 1).await, (1..=80).collect::<Vec<_>>());
        kill(hub_pid(dir.path())).await;
        a.wait(HubEvent::Reconnected).await;
    }
    // What lives can be trimmed away, too.
    assert_eq!(a.trim(&log(0), 2).await, 2);
    let start = a.start_of(&log(1)).await;
    assert_eq!(a.trim(&log(1), start + 100).await, 4_001);
    assert_eq!(a.trim(&log(2), 81).await, 81);
    let last = stats_when(&a, "all to be removed", |stats| stats.log_files == 1).await;
    assert_eq!(last.log_live_bytes, 0);
}

#[tokio::test]
async fn a_full_disk_stops_compaction_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    // Three full files, the one being written, one made ahead; too little for what is to be copied.
    let Some(mounted) = Mounted::tmpfs(root.path(), "size=84m") else {
        common::skip("SKIPPED: a full file system needs the right to mount a tmpfs");
        return;
    };
    let dir = mounted.path.join("data");
    let segments = format!("segments={SEGMENT_BYTES_MIN}");
    let mut a = attach(config(&dir, "a", &["segment=65536", &segments])).await.unwrap();
    a.read(&log(1), 1).await;
    a.read(&log(2), 1).await;
    let body = Bytes::from(vec![3; 100 << 10]);
    for id in 1..=542_u64 {
        // A quarter stays.
        a.client.append(log(1 + u64::from(id.is_multiple_of(4))), id, body.clone());
        a.find(|e| matches!(e, HubEvent::Own { id: own, .. } if *own == id).then_some(())).await;
    }
    let ahead = dir.join("log/00000006.seg");
    common::wait_for("the next file to be made ahead", || ahead.exists()).await;
    a.client.trim_log(log(1), 1_000);
    let failed = stats_when(&a, "a compaction to fail", |stats| stats.compaction_failures > 0);
    let failed = failed.await;
    assert_eq!(failed.compactions, 0, "{failed:?}");
    // The hub goes on.
    append(&mut a, 2, 1_001..=1_010).await;
    mounted.resize("200m");
    stats_when(&a, "a compaction", |stats| stats.compactions > 0).await;
    let wanted: Vec<_> = (1..=145).collect();
    assert_eq!(offsets(&mut a, 2, 1).await, wanted);
    kill(hub_pid(&dir)).await;
    a.wait(HubEvent::Reconnected).await;
    assert_eq!(offsets(&mut a, 2, 1).await, wanted);
    drop(a);
    kill(hub_pid(&dir)).await;
}

#[tokio::test]
async fn damage_found_while_compacting_ends_the_hub_loudly() {
    use std::os::unix::fs::FileExt as _;
    let dir = tempfile::tempdir().unwrap();
    let segments = format!("segments={SEGMENT_BYTES_MIN}");
    let args = ["segment=65536", &segments];
    let mut a = attach(config(dir.path(), "a", &args)).await.unwrap();
    a.read(&log(1), 1).await;
    a.read(&log(2), 1).await;
    let body = Bytes::from(vec![3; 100 << 10]);
    for id in 1..=400_u64 {
        let body = if id == 30 { Bytes::from(vec![9; 100 << 10]) } else { body.clone() };
        a.client.append(log(1 + u64::from(id == 30)), id, body);
    }
    a.find(|e| matches!(e, HubEvent::Own { id: 400, .. }).then_some(())).await;
    let path = dir.path().join("log/00000002.seg");
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(1_000).position(|w| w == [9; 1_000]).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"garbage", at as u64 + 50_000).unwrap();
    a.client.trim_log(log(1), 390);
    let said = a
        .find(|event| match event {
            HubEvent::Fault { message } => Some(message.clone()),
            _ => None,
        })
        .await;
    assert!(said.contains("the log is damaged") && said.contains("00000002.seg"), "{said}");
    let said = a
        .find(|event| match event {
            HubEvent::Unavailable { message } => Some(message.clone()),
            _ => None,
        })
        .await;
    assert!(said.contains("the log is damaged"), "the next hub does not start: {said}");
}

/// Appends records of two logs, of which every fourth one stays, until a compaction has made a file that is not whole.
async fn held_compaction(a: &mut Node, dir: &Path) {
    a.read(&log(1), 1).await;
    a.read(&log(2), 1).await;
    let body = Bytes::from(vec![3; 100 << 10]);
    for id in 1..=400_u64 {
        a.client.append(log(1 + u64::from(id.is_multiple_of(4))), id, body.clone());
    }
    a.find(|e| matches!(e, HubEvent::Own { id: 400, .. }).then_some(())).await;
    a.client.trim_log(log(1), 1_000);
    let is_begun = || {
        let files = std::fs::read_dir(dir.join("log")).into_iter().flatten().flatten();
        files.map(|file| file.path()).any(|path| path.extension().is_some_and(|end| end == "new"))
    };
    common::wait_for("a compaction to begin", is_begun).await;
}

/// `compaction_bytes_per_second`: what has spent all of it is held, for days here, and nobody waits for it: neither
/// appends and readings nor the hub's end.
#[tokio::test]
async fn a_compaction_that_is_held_to_its_rate_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let segments = format!("segments={SEGMENT_BYTES_MIN}");
    let args = ["segment=65536", &segments, "compaction-rate=1"];
    let mut a = attach(config(dir.path(), "a", &args)).await.unwrap();
    held_compaction(&mut a, dir.path()).await;
    append(&mut a, 2, 1_001..=1_010).await;
    let wanted: Vec<_> = (1..=110).collect();
    assert_eq!(offsets(&mut a, 2, 1).await, wanted);
    assert_eq!(a.client.stats().await.unwrap().compactions, 0);
    let first = hub_pid(dir.path());
    signal(Signal::TERM, first);
    a.wait(HubEvent::Reconnected).await;
    common::wait_for("the hub's end", || !common::alive(first)).await;
    assert_eq!(offsets(&mut a, 2, 1).await, wanted, "what was cut short has changed nothing");
}

/// … but while it is held the disk does not fill up: one that is under way is not held any longer when there is far too
/// much.
#[tokio::test]
async fn a_compaction_that_is_held_goes_on_when_the_disk_holds_far_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let segments = format!("segments={SEGMENT_BYTES_MIN}");
    let args = ["segment=65536", &segments, "compaction-rate=1"];
    let mut a = attach(config(dir.path(), "a", &args)).await.unwrap();
    held_compaction(&mut a, dir.path()).await;
    let body = Bytes::from(vec![7; 128 << 10]);
    let files = SEGMENT_BYTES_MIN / body.len() as u64;
    for id in 1_001..=1_000 + 12 * files {
        a.client.append(log(1), id, body.clone());
        if id.is_multiple_of(40) {
            let own = |event: &HubEvent| match event {
                HubEvent::Own { offset, id: own, .. } if *own == id => Some(*offset),
                _ => None,
            };
            let offset = a.find(own).await;
            a.trim(&log(1), offset).await;
        }
    }
    let tidied = stats_when(&a, "the files to be tidied", |stats| {
        stats.compactions > 0 && stats.files_removed > 0
    });
    let tidied = tidied.await;
    assert!(tidied.log_bytes < 9 * SEGMENT_BYTES_MIN, "{tidied:?}");
    assert_eq!(offsets(&mut a, 2, 1).await, (1..=100).collect::<Vec<_>>());
}
