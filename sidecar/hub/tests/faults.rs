//! Directories and disks that do not do what a hub needs: typed errors, nothing lost.

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use common::{Mounted, Node, attach, config, hub_pid, kill, log, node};
use kar_hub::{HubError, HubEvent, exit_code};

/// User and group without rights.
const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// Appends until the hub says that it cannot go on; what it said, and the last offset that it had
/// acknowledged.
async fn fill(node: &mut Node) -> (String, u64) {
    node.read(&log(1), 1).await;
    let record = Bytes::from(vec![7; 256 << 10]);
    let mut acknowledged = 0;
    node.client.append(log(1), 1, record.clone());
    let client = node.client.clone();
    let said = node.find(|event| match event {
        HubEvent::Own { offset, id, .. } => {
            acknowledged = *offset;
            client.append(log(1), id + 1, record.clone());
            None
        }
        HubEvent::Fault { message } => Some(Some(message.clone())),
        HubEvent::Disconnected => Some(None),
        _ => None,
    });
    (said.await.expect("the hub says why it ends"), acknowledged)
}

#[tokio::test]
async fn a_full_file_system_is_a_typed_error_and_nothing_acknowledged_is_lost() {
    let root = tempfile::tempdir().unwrap();
    let mounted = Mounted::tmpfs(root.path(), "size=18m");
    let Some(mounted) = mounted else {
        common::skip("SKIPPED: a full file system needs the right to mount a tmpfs");
        return;
    };
    let dir = mounted.path.join("data");
    let mut config = config(&dir, "a", &["segment=1048576"]);
    config.connect_timeout = std::time::Duration::from_millis(500);
    let mut a = attach(config.clone()).await.unwrap();
    let (said, acknowledged) = fill(&mut a).await;
    assert!(said.contains("no space left"), "{said}");
    drop(a);
    common::wait_for_end(&dir).await;
    mounted.resize("100m");
    let mut a = attach(config).await.unwrap();
    let found = a.read(&log(1), 1).await.len() as u64;
    assert!(found >= acknowledged && acknowledged > 0, "{found} of {acknowledged}");
    drop(a);
    kill(hub_pid(&dir)).await;
}

#[tokio::test]
async fn a_file_size_limit_is_a_typed_error_and_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    // The shell sets the limit (in units of 1,024 bytes) for the hub alone.
    let script = format!(
        "ulimit -f 4096; exec '{}' '{}' segment=1048576",
        common::hub_program().display(),
        dir.path().display()
    );
    let hub = Command::new("bash")
        .args(["-c", &script])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut own = config(dir.path(), "a", &[]);
    own.spawn = None;
    let mut a = attach(own).await.unwrap();
    let (said, acknowledged) = fill(&mut a).await;
    assert!(said.contains("no space left"), "{said}");
    let (code, words) = common::end(hub);
    assert_eq!(code, i32::from(exit_code::DISK_FULL), "{words}");
    assert!(words.contains("no space left"), "{words}");
    drop(a);
    let mut a = node(dir.path(), "b").await;
    let found = a.read(&log(1), 1).await.len() as u64;
    assert!(found >= acknowledged && acknowledged > 0, "{found} of {acknowledged}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_a_typed_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for unusable in [file.clone(), file.join("below")] {
        let error = attach(config(&unusable, "a", &[])).await.err().unwrap();
        assert!(matches!(error, HubError::DataDir { .. }), "{error}");
        assert!(error.to_string().contains("choose another one (--data-dir)"), "{error}");
        let (code, words) = common::end(common::start_hub(&unusable, &[]));
        assert_eq!(code, i32::from(exit_code::DATA_DIR), "{words}");
    }
    let locked = dir.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(copied_program(dir.path()));
    command.arg(&locked).stderr(Stdio::piped());
    if is_root() {
        // Modes do not bind root.
        command.uid(NOBODY).gid(NOBODY);
    }
    let (code, words) = common::end(command.spawn().unwrap());
    assert_eq!(code, i32::from(exit_code::DATA_DIR), "{words}");
    assert!(words.contains("cannot be used") && words.contains("--data-dir"), "{words}");
    let mounted = Mounted::tmpfs(&dir.path().join("ro"), "ro");
    let Some(mounted) = mounted else {
        common::skip("SKIPPED in part: a read-only file system needs the right to mount one");
        return;
    };
    let error = attach(config(&mounted.path, "a", &[])).await.err().unwrap();
    assert!(matches!(error, HubError::DataDir { .. }), "{error}");
    assert!(error.to_string().to_lowercase().contains("read-only"), "{error}");
}

/// The hub's program where everybody may run it.
fn copied_program(dir: &Path) -> PathBuf {
    let copy = dir.join("hub");
    fs::copy(common::hub_program(), &copy).expect("the program can be copied");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("it is ours");
    copy
}

#[tokio::test]
async fn a_damaged_log_is_refused_and_the_client_is_told_where() {
    for at_end in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut a = node(dir.path(), "a").await;
        a.read(&log(1), 1).await;
        for id in 1..=20 {
            a.client.append(log(1), id, Bytes::from(vec![id as u8; 200]));
            a.find(|e| matches!(e, HubEvent::Own { .. }).then_some(())).await;
        }
        drop(a);
        kill(hub_pid(dir.path())).await;
        let path = dir.path().join("log/00000001.seg");
        let bytes = fs::read(&path).unwrap();
        let victim = if at_end { 20 } else { 10 };
        let at = bytes.windows(200).position(|w| w == [victim; 200]).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"garbage", at as u64 + 50).unwrap();
        let error = attach(config(dir.path(), "a", &[])).await.err().unwrap().to_string();
        assert!(error.contains("the log is damaged"), "{error}");
        assert!(error.contains("00000001.seg"), "{error}");
        assert!(error.contains(&format!("byte {}", at - 32)), "{error}");
        let (code, _) = common::end(common::start_hub(dir.path(), &[]));
        assert_eq!(code, i32::from(exit_code::CORRUPT));
    }
}

#[tokio::test]
async fn damage_found_while_reading_ends_the_hub_loudly() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    a.client.append(log(1), 1, Bytes::from(vec![3; 500]));
    a.read(&log(1), 1).await;
    let path = dir.path().join("log/00000001.seg");
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(500).position(|w| w == [3; 500]).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"garbage", at as u64).unwrap();
    a.client.read_log(log(1), 1);
    let said = a
        .find(|event| match event {
            HubEvent::Fault { message } => Some(message.clone()),
            _ => None,
        })
        .await;
    assert!(said.contains("the log is damaged"), "{said}");
    a.wait(HubEvent::Disconnected).await;
    let said = a
        .find(|event| match event {
            HubEvent::Unavailable { message } => Some(message.clone()),
            _ => None,
        })
        .await;
    assert!(said.contains("the log is damaged"), "the next hub does not start: {said}");
}

#[tokio::test]
async fn a_missing_first_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = attach(config(dir.path(), "a", &["segment=65536"])).await.unwrap();
    a.read(&log(1), 1).await;
    // The first of these fits into the first file, the second does not.
    for (id, size) in [(1, 30 << 10), (2, 7 << 20)] {
        a.client.append(log(1), id, Bytes::from(vec![1; size]));
        a.find(|e| matches!(e, HubEvent::Own { .. }).then_some(())).await;
    }
    drop(a);
    kill(hub_pid(dir.path())).await;
    fs::remove_file(dir.path().join("log/00000001.seg")).unwrap();
    let error = attach(config(dir.path(), "a", &[])).await.err().unwrap().to_string();
    assert!(error.contains("the first 1 records of log 'a.Account/1' are missing"), "{error}");
}
