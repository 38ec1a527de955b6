//! The store: fence cells, actor state, purging.

mod common;

use bytes::Bytes;
use common::{Node, attach, config, log, node};
use kar_hub::{ActorOps, FenceCell, HubError, HubEvent, StateSet, StoreOp, Value};

fn value(text: &str) -> Value {
    Value { data: Bytes::from(text.to_owned()), content_type: "text/plain".into() }
}

fn set(actor: &str, key: &str, text: &str) -> ActorOps {
    let op = StoreOp::Set { key: key.into(), value: value(text) };
    ActorOps { actor: actor.into(), ops: vec![op] }
}

async fn load(node: &mut Node, actor: &str) -> (FenceCell, Vec<(String, Value)>) {
    node.client.load_actor(log(1), 3, actor.into());
    node.find(|event| match event {
        HubEvent::ActorLoaded {
            log: _,
            actor: found,
            cell_epoch,
            cell_offset,
            state,
            epoch: 3,
        } if found == actor => {
            Some((FenceCell { epoch: *cell_epoch, offset: *cell_offset }, state.clone()))
        }
        _ => None,
    })
    .await
}

fn cell(epoch: u64, offset: u64) -> FenceCell {
    FenceCell { epoch, offset }
}

#[tokio::test]
async fn a_newer_fence_keeps_older_epochs_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    assert_eq!(load(&mut a, "x").await, (cell(0, 0), vec![]));
    a.client.read_cell(log(1));
    a.wait(HubEvent::StoreCell { log: log(1), cell: cell(0, 0) }).await;
    a.client.fence_store(log(1), 5);
    a.wait(HubEvent::StoreFenced { log: log(1), epoch: 5, cell: cell(0, 0) }).await;
    let ops = vec![set("x", "k", "v1"), set("y", "k", "other")];
    a.client.write_store(log(1), cell(5, 0), 10, ops);
    a.wait(HubEvent::StoreWritten { log: log(1), epoch: 5, upto: 10 }).await;
    a.client.fence_store(log(1), 9);
    a.wait(HubEvent::StoreFenced { log: log(1), epoch: 9, cell: cell(5, 10) }).await;
    a.client.write_store(log(1), cell(5, 10), 11, vec![set("x", "k", "stale")]);
    a.wait(HubEvent::StoreRefused { log: log(1), epoch: 5, cell: cell(9, 10) }).await;
    a.client.fence_store(log(1), 8);
    a.wait(HubEvent::StoreRefused { log: log(1), epoch: 8, cell: cell(9, 10) }).await;
    let found = load(&mut a, "x").await;
    assert_eq!(found, (cell(9, 10), vec![("k".into(), value("v1"))]));
    a.client.read_cell(log(1));
    a.wait(HubEvent::StoreCell { log: log(1), cell: cell(9, 10) }).await;
}

/// What a store holds is a function of its cell, so a write onto any other cell than it follows would leave
/// operations out, or apply some twice.
#[tokio::test]
async fn a_write_onto_another_cell_than_it_follows_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    // A store that was lost altogether: there is not even a fence.
    a.client.write_store(log(1), cell(5, 20), 30, vec![set("x", "k", "v30")]);
    a.wait(HubEvent::StoreRefused { log: log(1), epoch: 5, cell: cell(0, 0) }).await;
    a.client.fence_store(log(1), 5);
    a.client.write_store(log(1), cell(5, 0), 10, vec![set("x", "k", "v10")]);
    a.wait(HubEvent::StoreWritten { log: log(1), epoch: 5, upto: 10 }).await;
    // Behind what the writer knows: it went back. Ahead of it: the same write landed before.
    for expected in [cell(5, 20), cell(5, 0), cell(4, 10), cell(6, 10)] {
        a.client.write_store(log(1), expected, 30, vec![set("x", "k", "v30")]);
        let epoch = expected.epoch;
        a.wait(HubEvent::StoreRefused { log: log(1), epoch, cell: cell(5, 10) }).await;
    }
    assert_eq!(load(&mut a, "x").await, (cell(5, 10), vec![("k".into(), value("v10"))]));
}

#[tokio::test]
async fn operations_apply_in_order_and_survive_the_hub() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    let ops = vec![
        set("x", "a", "1"),
        set("x", "b", "2"),
        ActorOps { actor: "x".into(), ops: vec![StoreOp::Clear] },
        set("x", "c", "3"),
        set("x", "d", "4"),
        ActorOps { actor: "x".into(), ops: vec![StoreOp::Remove { key: "d".into() }] },
    ];
    a.client.fence_store(log(1), 1);
    a.client.write_store(log(1), cell(1, 0), 7, ops);
    let big = Value { data: Bytes::from(vec![9; 3 << 20]), content_type: String::new() };
    for n in 0..5_u64 {
        let op = StoreOp::Set { key: format!("big{n}"), value: big.clone() };
        let ops = vec![ActorOps { actor: "large".into(), ops: vec![op] }];
        a.client.write_store(log(1), cell(1, 7 + n), 8 + n, ops);
    }
    a.wait(HubEvent::StoreWritten { log: log(1), epoch: 1, upto: 12 }).await;
    common::kill(common::hub_pid(dir.path())).await;
    a.wait(HubEvent::Reconnected).await;
    let (found, state) = load(&mut a, "x").await;
    assert_eq!(found, cell(1, 12));
    assert_eq!(state, [("c".to_owned(), value("3"))]);
    let (_, state) = load(&mut a, "large").await;
    assert_eq!(state.len(), 5, "an actor larger than a message");
    assert!(state.iter().all(|(_, v)| *v == big));
}

/// As sub-maps are stored: U+0000 in a key is a character as any other.
#[tokio::test]
async fn a_range_of_keys_is_removed_in_byte_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    let removal = |actor: &str, from: &str, to: &str| {
        let op = StoreOp::RemoveRange { from: from.into(), to: to.into() };
        ActorOps { actor: actor.into(), ops: vec![op] }
    };
    let keys = ["\0m\0a", "\0m\0b", "\0mm\0a", "\0n\0a", "a", "b", "\u{10ffff}"];
    let mut ops: Vec<_> = keys.iter().map(|key| set("x", key, "1")).collect();
    ops.extend([set("y", "\0m\0a", "1"), removal("x", "\0m\0", "\0m\u{1}")]);
    ops.push(set("x", "\0m\0c", "2"));
    a.client.fence_store(log(1), 1);
    a.client.write_store(log(1), cell(1, 0), 7, ops);
    let keys = |state: Vec<(String, Value)>| state.into_iter().map(|(k, _)| k).collect::<Vec<_>>();
    let (_, state) = load(&mut a, "x").await;
    assert_eq!(keys(state), ["\0m\0c", "\0mm\0a", "\0n\0a", "a", "b", "\u{10ffff}"]);
    let ops = vec![removal("x", "b", ""), removal("x", "\0n", "\0n"), removal("x", "b", "a")];
    a.client.write_store(log(1), cell(1, 7), 8, ops);
    let (_, state) = load(&mut a, "x").await;
    assert_eq!(keys(state), ["\0m\0c", "\0mm\0a", "\0n\0a", "a"]);
    let (_, state) = load(&mut a, "y").await;
    assert_eq!(keys(state), ["\0m\0a"]);
}

#[tokio::test]
async fn an_application_is_purged_when_nobody_lives() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    a.client.ensure_kind("a.Account".into(), 8);
    a.client.append(log(1), 1, Bytes::from_static(b"x"));
    a.read(&log(1), 1).await;
    a.client.fence_store(log(1), 3);
    a.client.write_store(log(1), cell(3, 0), 1, vec![set("x", "k", "v")]);
    a.wait(HubEvent::StoreWritten { log: log(1), epoch: 3, upto: 1 }).await;
    let state = StateSet { key: "k".into(), value: value("v"), ..Default::default() };
    a.client.state_set(state, None).await.unwrap();
    let mut config = config(dir.path(), "tool", &[]);
    config.observer = true;
    let mut tool = attach(config).await.unwrap();
    let error = tool.client.purge_application().await.unwrap_err();
    assert!(matches!(error, HubError::MembersAlive(_)), "{error}");
    assert!(error.to_string().contains("(a)"), "{error}");
    drop(a);
    tool.members(&[]).await;
    tool.client.purge_application().await.unwrap();
    for killed in [false, true] {
        if killed {
            common::kill(common::hub_pid(dir.path())).await;
        }
        let mut b = node(dir.path(), "b").await;
        assert!(b.client.incarnation() > 1);
        assert_eq!(b.read(&log(1), 1).await, []);
        assert_eq!(load(&mut b, "x").await, (FenceCell::default(), vec![]));
        assert_eq!(b.client.state_get("k").await.unwrap(), None);
        let mut kinds = None;
        b.seen.iter().for_each(|event| {
            if let HubEvent::Members { kinds: found, .. } = event {
                kinds = Some(found.clone());
            }
        });
        assert_eq!(kinds, Some(vec![]));
    }
}

#[tokio::test]
async fn the_files_of_purged_logs_are_removed_and_the_rest_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["segment=65536"];
    let mut a = attach(config(dir.path(), "a", &args)).await.unwrap();
    a.client.append(log(1), 1, Bytes::from_static(b"first"));
    a.read(&log(1), 1).await;
    let fill = async |node: &mut Node| {
        // Each of these takes more than half a file.
        for id in 10..15 {
            node.client.append(log(2), id, Bytes::from(vec![1; 7 << 20]));
        }
        node.client.read_log(log(2), 1);
        node.wait(HubEvent::End { log: log(2) }).await;
    };
    fill(&mut a).await;
    let files = || {
        let files = std::fs::read_dir(dir.path().join("log")).unwrap();
        files.filter(|f| f.as_ref().unwrap().path().extension().is_some_and(|e| e == "seg")).count()
    };
    let before = files();
    let mut other = config(dir.path(), "o", &args);
    other.application = "other".into();
    let mut other = attach(other).await.unwrap();
    other.read(&log(1), 1).await;
    other.client.append(log(1), 1, Bytes::from_static(b"kept"));
    other.wait(HubEvent::Own { log: log(1), offset: 1, id: 1 }).await;
    drop(a);
    let mut tool = config(dir.path(), "tool", &[]);
    tool.observer = true;
    let mut tool = attach(tool).await.unwrap();
    tool.members(&[]).await;
    tool.client.purge_application().await.unwrap();
    common::wait_for("old files to go", || files() < before).await;
    fill(&mut other).await;
    common::kill(common::hub_pid(dir.path())).await;
    other.wait(HubEvent::Reconnected).await;
    assert_eq!(other.read(&log(1), 1).await, [(1, Bytes::from_static(b"kept"))]);
    assert_eq!(other.read(&log(2), 1).await.len(), 5);
}
