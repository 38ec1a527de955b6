//! A purge is all or nothing, whenever the hub is killed.

mod common;

use std::path::Path;

use bytes::Bytes;
use common::{Node, attach, config, log, node};
use kar_hub::{ActorOps, FenceCell, HubError, HubEvent, PurgeCount, StateSet, StoreOp, Value};

/// Of each kind of thing.
const THINGS: usize = 1_500;

/// What there is of the application: records, actors' keys, state, snapshots, kinds.
type Found = (usize, usize, usize, usize, usize);
const ALL: Found = (1, THINGS, THINGS, THINGS, 1);
const NOTHING: Found = (0, 0, 0, 0, 0);

async fn fill(dir: &Path) {
    let mut a = attach(config(dir, "a", &["os"])).await.expect("carried out");
    a.client.ensure_kind("a.Account".into(), 8);
    a.client.append(log(1), 1, Bytes::from_static(b"x"));
    a.read(&log(1), 1).await;
    let value = Value { data: Bytes::from(vec![1; 2_000]), content_type: String::new() };
    let ops = (0..THINGS).map(|n| StoreOp::Set { key: format!("k{n}"), value: value.clone() });
    let ops = vec![ActorOps { actor: "x".into(), ops: ops.collect() }];
    a.client.fence_store(log(1), 3);
    a.client.write_store(log(1), FenceCell { epoch: 3, offset: 0 }, 1, ops);
    a.wait(HubEvent::StoreWritten { log: log(1), epoch: 3, upto: 1 }).await;
    let sets: Vec<_> = (0..THINGS)
        .map(|n| StateSet { key: format!("k{n:04}"), value: value.clone(), ..Default::default() })
        .collect();
    a.client.state_transact(sets, vec![], None).await.expect("carried out");
    for n in 0..THINGS {
        a.client
            .put_snapshot(&format!("k{n:04}"), Bytes::from_static(b"s"))
            .await
            .expect("carried out");
    }
}

async fn found(node: &mut Node) -> Found {
    let records = node.read(&log(1), 1).await.len();
    node.client.load_actor(log(1), 7, "x".into());
    let keys = node
        .find(|event| match event {
            HubEvent::ActorLoaded { state, epoch: 7, .. } => Some(state.len()),
            _ => None,
        })
        .await;
    let (mut state, mut token) = (0, String::new());
    loop {
        let page = node.client.state_list("", 1_000, &token).await.expect("carried out");
        state += page.entries.len();
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let (mut snapshots, mut after) = (0, None::<String>);
    loop {
        let page = node.client.list_snapshots("", after.as_deref()).await.expect("carried out");
        snapshots += page.snapshots.len();
        after = page.next_after;
        if after.is_none() {
            break;
        }
    }
    let kinds = node.seen.iter().rev().find_map(|event| match event {
        HubEvent::Members { kinds, .. } => Some(kinds.len()),
        _ => None,
    });
    (records, keys, state, snapshots, kinds.expect("the first view has come"))
}

fn snapshot_files(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("snapshots")).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_purge_is_all_or_nothing_whenever_the_hub_is_killed() {
    let mut halves = 0;
    // Where the kill comes: when so many of the snapshots are left, or some moments after the last one.
    let moments =
        [(THINGS, 0), (THINGS - 1, 0), (THINGS / 2, 0), (1, 0), (0, 0), (0, 200), (0, 2_000)];
    for (left, later) in moments {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path()).await;
        let mut other = config(dir.path(), "other", &["os"]);
        other.application = "other".into();
        let mut other = attach(other).await.expect("carried out");
        let mut tool = config(dir.path(), "tool", &["os"]);
        tool.observer = true;
        let mut tool = attach(tool).await.expect("carried out");
        tool.members(&[]).await;
        let purger = tool.client.clone();
        let purge = tokio::spawn(async move { purger.purge_application().await });
        let reached = || snapshot_files(dir.path()) <= left;
        common::wait_for("the purge to get so far", reached).await;
        for _ in 0..later {
            tokio::task::yield_now().await;
        }
        common::kill(common::hub_pid(dir.path())).await;
        halves += usize::from((1..THINGS).contains(&snapshot_files(dir.path())));
        // Nobody repeats the purge: what the next hub finds is what it makes of it.
        purge.abort();
        drop(tool);
        other.wait(HubEvent::Reconnected).await;
        let mut b = node(dir.path(), "b").await;
        let found = found(&mut b).await;
        assert!(found == ALL || found == NOTHING, "half a purge: {found:?}, killed at {left}");
        assert!(left == THINGS || found == NOTHING, "it had begun: {found:?}, killed at {left}");
    }
    assert!(halves >= 2, "too few kills came in the middle: {halves}");
}

/// The other application goes on while one is purged, and whoever asked gets the answer from the next hub.
#[tokio::test]
async fn a_purge_is_answered_by_the_next_hub() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let mut tool = config(dir.path(), "tool", &["os"]);
    tool.observer = true;
    let mut tool = attach(tool).await.expect("carried out");
    tool.members(&[]).await;
    let purger = tool.client.clone();
    let purge = tokio::spawn(async move { purger.purge_application().await });
    let begun = || snapshot_files(dir.path()) < THINGS;
    common::wait_for("the purge to begin", begun).await;
    common::kill(common::hub_pid(dir.path())).await;
    purge.await.expect("carried out").expect("the next hub answers");
    assert_eq!(snapshot_files(dir.path()), 0);
    let mut b = node(dir.path(), "b").await;
    assert_eq!(found(&mut b).await, NOTHING);
    let again = tool.client.purge_application().await;
    assert!(matches!(again, Err(HubError::MembersAlive(_))), "{again:?}");
}

/// The answer was lost with the hub, and others have written since.
#[tokio::test]
async fn a_purge_that_is_asked_for_again_deletes_nothing_that_came_since() {
    let dir = tempfile::tempdir().unwrap();
    let mut tool = config(dir.path(), "tool", &["os"]);
    tool.observer = true;
    let write = async || {
        let a = attach(config(dir.path(), "a", &["os"])).await.expect("carried out");
        let value = Value { data: Bytes::from_static(b"v"), content_type: String::new() };
        let set = StateSet { key: "k".into(), value, ..Default::default() };
        a.client.state_transact(vec![set], vec![], None).await.expect("carried out");
    };
    let tool = attach(tool).await.expect("carried out").client;
    let is_there = async || tool.state_get("k").await.expect("carried out").is_some();
    // Refused until the member is known to be gone.
    let purge = async |name| {
        let purged = async {
            loop {
                if let Ok(count) = tool.purge_application_once(name).await {
                    return count;
                }
            }
        };
        tokio::time::timeout(common::PATIENCE, purged).await.expect("carried out")
    };
    let nothing = tool.purge_application_once([6; 16]).await.expect("there is nobody");
    assert_eq!(nothing, Some(PurgeCount::default()), "an application without anything");
    write().await;
    let count = purge([7; 16]).await.expect("this hub has deleted it");
    assert!(count.entries > 0, "{count:?}");
    assert!(!is_there().await);
    for kills in 0..2 {
        write().await;
        common::kill(common::hub_pid(dir.path())).await;
        let count = tool.purge_application_once([7; 16]).await.expect("known");
        assert_eq!(count, None, "nothing was deleted now, and what was is not known any more");
        assert!(is_there().await, "after {kills} other hubs");
    }
    purge([8; 16]).await;
    assert!(!is_there().await);
}
