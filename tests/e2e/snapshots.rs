//! Logs stay bounded, whatever was done: snapshots stand for what was before them, and whoever takes over begins with
//! one.

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use kar_proto::v1::{Payload, TellRequest, payload};
use kar_tests::component::actor;
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, World, process, test_within, wait};
use serde_json::json;
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(300);

/// Snapshots after so few records that there are dozens of them. What is on the disk need not survive the machine.
const ARGS: [&str; 4] = ["--snapshot-after-records", "100", "--durability", "os"];

/// Actors that count, and how often each is told to in a round.
const ACTORS: usize = 16;
const TELLS: u64 = 40;

/// Bytes of each tell: they are in the log until it is trimmed.
const PADDING: usize = 60_000;

async fn count(client: &Client, id: &str) -> u64 {
    let answer = client.call(("Echo", id), "count", &json!(null)).await;
    answer.expect("answered").expect("counted").as_u64().expect("a number")
}

async fn tell(client: &Client, id: &str, padding: usize) {
    let body = Some(payload::Body::Data(vec![b'x'; padding].into()));
    let request = TellRequest {
        target: Some(actor("Echo", id)),
        method: "count".into(),
        payload: Some(Payload { body, content_type: String::new() }),
        ..Default::default()
    };
    client.invocation().tell(request).await.expect("accepted");
}

/// Tells every actor so often to count, and checks that each has done it as often.
async fn round(client: &Client, done: &mut u64, padding: usize) {
    let from = *done;
    let mut actors = JoinSet::new();
    for n in 0..ACTORS {
        let client = client.clone();
        actors.spawn(async move {
            let id = format!("a{n}");
            for _ in 0..TELLS {
                tell(&client, &id, padding).await;
            }
            // What one connection sends to one actor comes in order.
            assert_eq!(count(&client, &id).await, from + TELLS + 1, "{id}");
        });
    }
    while let Some(actor) = actors.join_next().await {
        actor.expect("counted right");
    }
    *done += TELLS + 1;
}

/// Bytes below a folder.
fn bytes_below(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
        Ok(meta) => meta.len(),
        // It was removed meanwhile.
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

async fn figure(client: &Client, name: &str) -> i64 {
    client.figure(name).await.expect("answered").expect("a figure")
}

/// Everything ends at once.
async fn kill_all(world: &Rc<World>, nodes: Vec<Node>) {
    let hub = world.hub().await;
    process::kill(hub);
    nodes.iter().for_each(Node::kill_sidecar);
    for node in &nodes {
        process::gone(node.pid(), READY_LIMIT).await;
    }
    process::gone(hub, READY_LIMIT).await;
}

#[test]
fn logs_stay_bounded_and_everything_goes_on_from_snapshots() {
    test_within(LIMIT, async {
        let world = World::new("snapshots");
        world.add_run_args(&ARGS);
        let (mut done, mut most) = (0, 0);
        for life in 0..3 {
            let nodes = vec![
                world.app(&format!("one{life}"), &["echo"]).await,
                world.app(&format!("two{life}"), &["echo"]).await,
            ];
            let client = nodes[0].client().await;
            for _ in 0..4 {
                round(&client, &mut done, PADDING).await;
                most = most.max(bytes_below(&world.data_dir()));
            }
            let (mut taken, mut used, mut trims, mut read) = (0, 0, 0, 0);
            for node in &nodes {
                let client = node.client().await;
                taken += figure(&client, "snapshots_taken").await;
                used += figure(&client, "snapshots_used").await;
                trims += figure(&client, "log_trims").await;
                read += figure(&client, "records_read").await;
                for name in ["snapshots_unusable", "partitions_unreadable", "broken_invariants"] {
                    assert_eq!(figure(&client, name).await, 0, "{name}");
                }
            }
            println!("life {life}: {taken} taken, {used} used, {trims} trims, {read} records read");
            assert!(taken > 8 && trims > 0, "{taken} taken, {trims} trims");
            assert!(life == 0 || used > 0, "every log was read from its start in life {life}");
            kill_all(&world, nodes).await;
        }
        let told = done * ACTORS as u64 * PADDING as u64;
        println!("{} MiB told, at most {} MiB on the disk", told >> 20, most >> 20);
        // Files of 32 MiB, of which some wait to be compacted, one is written and one is made ahead.
        assert!(told > 400 << 20 && most < 300 << 20, "{most} bytes on the disk, {told} told");
    });
}

/// The newest snapshots are lost or damaged: the older ones and the log make them good; with none of them left, the
/// partition is not served, and says so.
#[test]
fn damaged_snapshots_are_healed_or_refused() {
    test_within(LIMIT, async {
        let world = World::new("damaged");
        world.add_run_args(&ARGS);
        let node = world.app("one", &["echo"]).await;
        let client = node.client().await;
        let mut done = 0;
        for _ in 0..3 {
            round(&client, &mut done, 10).await;
        }
        kill_all(&world, vec![node]).await;
        let dir = world.data_dir().join("snapshots");
        let mut files: Vec<_> = fs::read_dir(&dir).expect("snapshots").flatten().collect();
        // They are numbered as they are made.
        files.sort_by_key(fs::DirEntry::file_name);
        assert!(files.len() > 4, "{files:?}");
        // The youngest of all is the newest of its partition.
        let youngest = files.pop().expect("there are some").path();
        let mut bytes = fs::read(&youngest).expect("read");
        // Behind the header, and before the last checksum.
        let at = bytes.len() - 6;
        bytes[at] ^= 1;
        fs::write(&youngest, bytes).expect("written");
        let node = world.app("two", &["echo"]).await;
        let client = node.client().await;
        round(&client, &mut done, 10).await;
        assert!(figure(&client, "snapshots_failed").await > 0, "the damage was not noticed");
        assert_eq!(figure(&client, "partitions_unreadable").await, 0);
        kill_all(&world, vec![node]).await;
        let saved = tempfile::tempdir().expect("a folder");
        let kept = saved.path().join("snapshots");
        fs::rename(&dir, &kept).expect("put away");
        let node = world.app("three", &["echo"]).await;
        let client = node.client().await;
        wait::until_true("the loss to be reported", READY_LIMIT, async || {
            figure(&client, "partitions_unreadable").await > 0
        })
        .await;
        // Put back, everything is there again.
        kill_all(&world, vec![node]).await;
        if dir.exists() {
            fs::remove_dir_all(&dir).expect("removed");
        }
        fs::rename(&kept, &dir).expect("put back");
        let node = world.app("four", &["echo"]).await;
        round(&node.client().await, &mut done, 10).await;
    });
}
