//! The store's file is lost or cut off while nothing runs: it is made again from the log where that reaches back far
//! enough, and otherwise nothing is served from it, and everybody is told.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use kar_proto::v1::ActorTarget;
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, World, process, test, wait};
use serde_json::json;

/// Actors that count; over several partitions.
const ACTORS: u64 = 12;

/// One partition, whose log is trimmed behind snapshots that are taken after so few records.
const OFTEN: [&str; 4] = ["--partitions", "1", "--snapshot-after-records", "20"];

fn store_files(world: &World) -> [PathBuf; 3] {
    ["store.db", "store.db-wal", "store.db-shm"].map(|name| world.data_dir().join(name))
}

async fn figure(client: &Client, name: &str) -> i64 {
    client.figure(name).await.expect("answered").unwrap_or_default()
}

/// Lets every actor count; each says that it is the `count`th time.
async fn count(client: &Client, count: u64) {
    for number in 0..ACTORS {
        let id = format!("e{number}");
        let answer = client.call(("Echo", &id), "count", &json!(null)).await;
        assert_eq!(answer.expect("answered"), Ok(json!(count)), "{id}");
    }
}

/// Everything ends at once.
async fn kill_all(world: &Rc<World>, node: Node) {
    let hub = world.hub().await;
    process::kill(hub);
    node.kill_sidecar();
    process::gone(node.pid(), READY_LIMIT).await;
    process::gone(hub, READY_LIMIT).await;
}

async fn start(world: &Rc<World>, name: &str) -> (Node, Client) {
    let node = world.app(name, &["echo"]).await;
    node.hosts("Echo").await;
    let client = node.client().await;
    (node, client)
}

/// An actor is in the store, and not in memory only.
async fn stored(client: &Client) {
    wait::until_true("the store to have everything", READY_LIMIT, async || {
        figure(client, "unstored_bytes_now").await == 0
    })
    .await;
}

/// What is read of an actor from outside its turns.
async fn committed(client: &Client, id: &str) -> serde_json::Value {
    let actor = ActorTarget { r#type: "Echo".into(), id: id.into() };
    client.committed(&actor).await.remove("count").unwrap_or_default()
}

#[test]
fn a_store_that_is_gone_is_made_again_from_the_log_and_that_is_told() {
    test(async {
        let world = World::new("gone");
        let (node, client) = start(&world, "one").await;
        for round in 1..=3 {
            count(&client, round).await;
        }
        kill_all(&world, node).await;
        for file in store_files(&world).iter().filter(|file| file.exists()) {
            fs::remove_file(file).expect("removed");
        }
        let (node, client) = start(&world, "two").await;
        // Read, and written, as if nothing had been.
        assert_eq!(committed(&client, "e0").await, json!(3));
        count(&client, 4).await;
        let told = world.logs().remove("hub.log").unwrap_or_default();
        assert!(told.contains("store") && told.contains("gone"), "nobody was told: {told}");
        // By now the new file has it all: it is enough by itself.
        kill_all(&world, node).await;
        let (_node, client) = start(&world, "three").await;
        count(&client, 5).await;
    });
}

#[test]
fn a_store_that_is_gone_and_that_the_log_cannot_make_again_is_not_served() {
    test(async {
        let world = World::new("trimmed");
        world.add_run_args(&OFTEN);
        let (node, client) = start(&world, "one").await;
        let mut rounds = 0;
        wait::until_true("logs to be trimmed", READY_LIMIT, async || {
            rounds += 1;
            count(&client, rounds).await;
            figure(&client, "log_trims").await > 0
        })
        .await;
        kill_all(&world, node).await;
        let kept = tempfile::tempdir().expect("a folder");
        for file in store_files(&world).iter().filter(|file| file.exists()) {
            fs::copy(file, kept.path().join(file.file_name().expect("a file"))).expect("copied");
            fs::remove_file(file).expect("removed");
        }
        let (node, client) = start(&world, "two").await;
        wait::until_true("the loss to be told", READY_LIMIT, async || {
            figure(&client, "partitions_unreadable").await > 0
        })
        .await;
        let told = world.logs().remove("two.1.log").unwrap_or_default();
        assert!(told.contains("the partition is not served"), "{told}");
        // Nobody counts from nothing: a call waits.
        let called = client.call(("Echo", "e0"), "count", &json!(null));
        let waiting = tokio::time::timeout(Duration::from_secs(2), called).await;
        assert!(waiting.is_err(), "it was served without its state: {waiting:?}");
        kill_all(&world, node).await;
        put_back(&world, kept.path());
        let (_node, client) = start(&world, "three").await;
        // The call that was not waited for may have been accepted, and is done then.
        let first = client.call(("Echo", "e0"), "count", &json!(null)).await;
        let first = first.expect("answered").expect("no error").as_u64().expect("a number");
        assert!((rounds + 1..=rounds + 2).contains(&first), "{first} after {rounds}");
        assert_eq!(committed(&client, "e1").await, json!(rounds));
    });
}

#[test]
fn a_store_that_is_cut_off_is_refused_by_name_and_healed_when_it_is_taken_away() {
    test(async {
        let world = World::new("cut");
        let (node, client) = start(&world, "one").await;
        count(&client, 1).await;
        stored(&client).await;
        // In order, so that everything is in the file itself.
        let hub = world.hub().await;
        node.signal(rustix::process::Signal::TERM);
        process::gone(node.pid(), READY_LIMIT).await;
        process::signal(hub, rustix::process::Signal::TERM);
        process::gone(hub, READY_LIMIT).await;
        let [store, ..] = store_files(&world);
        let length = fs::metadata(&store).expect("it is there").len();
        let file = fs::OpenOptions::new().write(true).open(&store).expect("opened");
        file.set_len(length / 2).expect("cut off");
        let mut node = world.spawn(&world.app_options("two", &["echo"]));
        assert_ne!(node.ended(READY_LIMIT * 2).await, 0, "it must not serve");
        let told = world.logs().into_values().collect::<Vec<_>>().join("\n");
        assert!(told.contains("store.db") && told.contains("damaged"), "{told}");
        for file in store_files(&world).iter().filter(|file| file.exists()) {
            fs::remove_file(file).expect("removed");
        }
        let (_node, client) = start(&world, "three").await;
        count(&client, 2).await;
    });
}

/// Puts files back as they were copied.
fn put_back(world: &World, from: &Path) {
    for file in store_files(world) {
        let saved = from.join(file.file_name().expect("a file"));
        if file.exists() {
            fs::remove_file(&file).expect("removed");
        }
        if saved.exists() {
            fs::copy(saved, file).expect("copied");
        }
    }
}
