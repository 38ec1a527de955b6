//! Disks that are read-only, full or damaged: a clear error, and nothing that was acknowledged is lost.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use kar_proto::v1::{Payload, TellRequest, payload};
use kar_tests::component::{Component, actor, hello};
use kar_tests::mount::Mount;
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, World, process, test, wait};
use serde_json::json;
use tonic::Status;

async fn tell(client: &Client, number: u32, bytes: usize) -> Result<(), Status> {
    let request = TellRequest {
        target: Some(actor("A", &format!("a{number}"))),
        method: "m".into(),
        payload: Some(Payload {
            body: Some(payload::Body::Data(vec![b'x'; bytes].into())),
            content_type: number.to_string(),
        }),
        ..Default::default()
    };
    client.invocation().tell(request).await.map(drop)
}

/// Hosts the actors and waits until the tells of these numbers have come, each once. Others may come, too: those whose
/// outcome was unknown.
async fn assert_carried_out(client: &Client, numbers: &[u32]) {
    let mut host = Component::connect(client, hello(&[], &["A"])).await.expect("welcome");
    let mut missing: std::collections::BTreeSet<u32> = numbers.iter().copied().collect();
    let mut seen = std::collections::BTreeSet::new();
    while !missing.is_empty() {
        let turn = host.next_turn().await;
        let payload = turn.frame.payload.clone().unwrap_or_default();
        let number: u32 = payload.content_type.parse().expect("its number");
        assert!(seen.insert(number), "{number} came twice");
        missing.remove(&number);
        turn.finish(&json!(null)).await;
    }
}

#[test]
fn a_read_only_data_directory_is_refused_with_its_name() {
    test(async {
        let world = World::new("readonly");
        let data_dir = world.data_dir();
        fs::create_dir_all(&data_dir).expect("a folder");
        let root = rustix::process::geteuid().is_root();
        let mount = if root {
            // Permissions do not bind root; a read-only file system does.
            let Some(mount) = Mount::tmpfs(&data_dir, "size=8m") else { return };
            mount.remount("ro");
            Some(mount)
        } else {
            fs::set_permissions(&data_dir, fs::Permissions::from_mode(0o500)).expect("permitted");
            None
        };
        for command in ["run", "hub", "call"] {
            let words: &[&str] = if command == "call" { &["s", "m"] } else { &[] };
            let mut args = vec![command];
            if command != "hub" {
                args.extend(["--app", "readonly"]);
            }
            args.extend(["--data-dir", data_dir.to_str().expect("UTF-8")]);
            args.extend(words);
            let output = tokio::time::timeout(READY_LIMIT, world.kar(&args)).await;
            let output = output.unwrap_or_else(|_| panic!("{command} did not give up"));
            assert!([2, 3].contains(&output.code), "{command}: {output:?}");
            assert!(output.stderr.contains("data"), "{command} names the folder: {output:?}");
            assert!(!output.stderr.contains("panicked"), "{output:?}");
        }
        drop(mount);
        if !root {
            fs::set_permissions(&data_dir, fs::Permissions::from_mode(0o700)).expect("permitted");
        }
    });
}

#[test]
fn a_full_disk_refuses_what_is_new_and_keeps_what_was_acknowledged() {
    test(async {
        let world = World::new("full");
        let Some(mount) = Mount::tmpfs(&world.data_dir(), "size=24m,mode=700") else { return };
        let node = world.bare("node").await;
        let client = node.client().await;
        let (mut accepted, mut refused) = (Vec::new(), None);
        for number in 0..400 {
            let answer =
                tokio::time::timeout(Duration::from_secs(60), tell(&client, number, 256 << 10));
            match answer.await.expect("answered, one way or the other") {
                Ok(()) => accepted.push(number),
                Err(status) => {
                    refused = Some(status);
                    break;
                }
            }
        }
        let status = refused.expect("24 MiB cannot hold 100 MiB");
        let reason = kar_tests::errors::reason(&status);
        let typed = ["BACKEND_UNAVAILABLE", "OUTCOME_UNKNOWN", "LIMIT_REACHED"];
        assert!(typed.contains(&reason.as_str()), "{status:?}");
        println!("{} tells accepted, then: {status:?}", accepted.len());
        assert!(accepted.len() > 4, "only {} accepted", accepted.len());
        let logs = world.logs().into_values().collect::<String>().to_lowercase();
        assert!(logs.contains("space") || logs.contains("full"), "no log line says why");
        // Room is made: everything acknowledged is carried out, by the same sidecar or a new one.
        mount.remount("size=400m");
        let other = world.bare("other").await;
        assert_carried_out(&other.client().await, &accepted).await;
    });
}

/// Files of the hub's log, oldest first.
fn segments(world: &World) -> Vec<PathBuf> {
    let folder = world.data_dir().join("log");
    let entries = fs::read_dir(&folder).expect("the hub's log").flatten();
    let mut files: Vec<_> = entries.map(|e| e.path()).filter(|p| p.is_file()).collect();
    files.sort();
    files
}

/// Where a segment's records end: behind them there are only zeros.
fn end_of_records(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1)
}

/// Twenty tells, acknowledged; then everything is killed.
async fn twenty_tells_then_death(world: &World) -> Vec<u32> {
    let mut node = world.bare("before").await;
    let client = node.client().await;
    for number in 0..20 {
        tell(&client, number, 100).await.expect("accepted");
    }
    let hub = world.hub().await;
    node.kill_sidecar();
    process::kill(hub);
    node.ended(READY_LIMIT).await;
    process::gone(hub, READY_LIMIT).await;
    (0..20).collect()
}

#[test]
fn a_torn_tail_of_the_log_is_cut_off_and_nothing_acknowledged_is_lost() {
    test(async {
        for garbage in [&[0xff_u8; 64][..], &[0x01, 0x00, 0x00, 0x00, 0x55], &[0xa5; 5000]] {
            let world = World::new("torn");
            let acknowledged = twenty_tells_then_death(&world).await;
            let last = segments(&world).pop().expect("a segment");
            let bytes = fs::read(&last).expect("readable");
            // As a crash in mid-write leaves it: behind the last record, part of one that nobody was told of.
            let end = end_of_records(&bytes) as u64;
            let file = OpenOptions::new().write(true).open(&last).expect("writable");
            file.write_all_at(garbage, end + 1).expect("written");
            let node = world.bare("after").await;
            assert_carried_out(&node.client().await, &acknowledged).await;
        }
    });
}

#[test]
fn damage_in_the_middle_of_the_log_is_refused_loudly() {
    test(async {
        let world = World::new("damage");
        twenty_tells_then_death(&world).await;
        let first = segments(&world).swap_remove(0);
        let bytes = fs::read(&first).expect("readable");
        // Inside the payload of the first tell.
        let middle = bytes.windows(50).position(|w| w.iter().all(|b| *b == b'x')).expect("a tell");
        let file = OpenOptions::new().write(true).open(&first).expect("writable");
        let flipped = bytes[middle] ^ 0xff;
        file.write_all_at(&[flipped], middle as u64).expect("written");
        // Valid records lie behind the damage, so this is no torn tail: acknowledged records would be lost.
        let data_dir = world.data_dir();
        let args = ["hub", "--data-dir", data_dir.to_str().expect("UTF-8")];
        let output = tokio::time::timeout(READY_LIMIT, world.kar(&args)).await;
        let output = output.expect("the hub must refuse to start");
        assert_ne!(output.code, 0);
        let text = output.stderr.to_lowercase();
        let words = ["corrupt", "damage", "checksum", "broken"];
        assert!(words.iter().any(|w| text.contains(w)), "it says what is wrong: {output:?}");
        assert!(!text.contains("panicked"), "{output:?}");
    });
}

#[test]
fn a_second_hub_on_the_same_directory_is_refused() {
    test(async {
        let world = World::new("second");
        let _node = world.bare("node").await;
        let data_dir = world.data_dir();
        let args = ["hub", "--data-dir", data_dir.to_str().expect("UTF-8")];
        let output = world.kar(&args).await;
        assert!(![0, 70].contains(&output.code), "{output:?}");
        assert!(!output.stderr.is_empty() && !output.stderr.contains("panicked"), "{output:?}");
        wait::until_true("the first hub to be there still", READY_LIMIT, async || {
            process::alive(world.hub().await)
        })
        .await;
    });
}
