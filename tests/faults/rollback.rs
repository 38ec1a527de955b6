//! The store goes back in time under live owners: its file is put back as it was, as a restored backup would do it.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use kar_proto::v1::{ActorTarget, GetAllRequest};
use kar_tests::grpc::value;
use kar_tests::wait::until_true;
use kar_tests::{Client, Node, World, process, test_within};
use rustix::process::Signal;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(120);

/// How long the store may take to follow the log.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(30);

const ACTORS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// The store's files: what SQLite needs to open it as it was.
fn store_files(world: &World) -> Vec<PathBuf> {
    let dir = world.data_dir();
    ["store.db", "store.db-wal"].iter().map(|name| dir.join(name)).collect()
}

/// Does something with the store's files while nothing runs that would open them.
async fn with_closed_store(world: &Rc<World>, node: &Node, act: impl FnOnce()) {
    process::signal(node.pid(), Signal::STOP);
    let hub = world.hub().await;
    process::kill(hub);
    process::gone(hub, CATCH_UP_LIMIT).await;
    act();
    process::signal(node.pid(), Signal::CONT);
}

fn copy(files: &[PathBuf], to: &Path) {
    for file in files.iter().filter(|file| file.exists()) {
        let name = file.file_name().expect("a file");
        std::fs::copy(file, to.join(name)).expect("copied");
    }
}

/// Puts the files back as they were copied; those that did not exist are removed.
fn put_back(files: &[PathBuf], from: &Path) {
    for file in files {
        let saved = from.join(file.file_name().expect("a file"));
        if file.exists() {
            std::fs::remove_file(file).expect("removed");
        }
        if saved.exists() {
            std::fs::copy(saved, file).expect("copied");
        }
    }
}

async fn count(client: &Client, expected: u32) {
    for actor in ACTORS {
        let answer = client.call(("Echo", actor), "count", &json!(null)).await;
        assert_eq!(answer.expect("answered"), Ok(json!(expected)), "{actor}");
    }
}

/// Waits until the store holds the count of every actor.
async fn caught_up(client: &Client, expected: u32) {
    for actor in ACTORS {
        until_true("the store has caught up", CATCH_UP_LIMIT, async || {
            let actor = ActorTarget { r#type: "Echo".into(), id: actor.into() };
            let request = GetAllRequest { actor: Some(actor), turn_token: String::new() };
            let answer = client.actor_state().get_all(request).await.expect("answered");
            let state: Value =
                answer.into_inner().entries.iter().map(|(k, v)| (k.clone(), value(v))).collect();
            state == json!({ "count": expected })
        })
        .await;
    }
}

async fn rolled_back(cached: &str) {
    let world = World::new("rollback");
    world.add_run_args(&["--cached-actors-max", cached]);
    let node = world.app("host", &["echo"]).await;
    let client = node.client().await;
    let files = store_files(&world);
    let backup = tempfile::tempdir().expect("a folder");
    count(&client, 1).await;
    caught_up(&client, 1).await;
    with_closed_store(&world, &node, || copy(&files, backup.path())).await;
    count(&client, 2).await;
    count(&client, 3).await;
    caught_up(&client, 3).await;
    with_closed_store(&world, &node, || put_back(&files, backup.path())).await;
    // Nothing of the second and third count is in the store, and it was acknowledged long ago.
    count(&client, 4).await;
    caught_up(&client, 4).await;
    let seen = client.figure("store_rollbacks").await.expect("answered").expect("a counter");
    assert!(seen > 0, "nobody noticed");
}

#[test]
fn passive_actors_are_not_read_from_a_store_that_went_back() {
    test_within(LIMIT, rolled_back("0"));
}

#[test]
fn cached_actors_are_not_written_to_a_store_that_went_back() {
    test_within(LIMIT, rolled_back("1000"));
}
