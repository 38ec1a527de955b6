//! The life of hubs and members: starting, replacing, racing, ending.

mod common;

use std::io::{self, BufRead as _, BufReader, Lines};
use std::iter::MapWhile;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Signal, attach, config, hub_pid, kill, log, node, signal, wait_for_end};
use kar_hub::{HubError, HubEvent, exit_code};

#[tokio::test]
async fn members_come_and_go_with_their_connections() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    a.members(&["a"]).await;
    let b = node(dir.path(), "b").await;
    a.members(&["a", "b"]).await;
    assert!(b.client.incarnation() > a.client.incarnation());
    b.client.offer(vec!["a.Account".into()], false);
    b.client.ensure_kind("a.Account".into(), 8);
    a.client.ensure_kind("a.Account".into(), 64);
    let kinds = a
        .find(|event| match event {
            HubEvent::Members { nodes, kinds } if !kinds.is_empty() => {
                Some((nodes.clone(), kinds.clone()))
            }
            _ => None,
        })
        .await;
    assert_eq!(kinds.0[1].kinds, ["a.Account"]);
    let partitions = kinds.1[0].1;
    assert!(partitions == 8 || partitions == 64);
    let former = b.client.incarnation();
    drop(b);
    a.members(&["a"]).await;
    let mut b = node(dir.path(), "b").await;
    assert!(b.client.incarnation() > former, "incarnations grow");
    let kinds = b
        .find(|event| match event {
            HubEvent::Members { kinds, .. } => Some(kinds.clone()),
            _ => None,
        })
        .await;
    assert_eq!(kinds, [("a.Account".to_owned(), partitions)], "fixed at the first creation");
}

#[tokio::test]
async fn kinds_beyond_the_bounds_are_not_registered_and_end_no_connection() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    // Of as many partitions as there are, this is one more than an application may have logs.
    for n in 0..2 {
        a.client.ensure_kind(format!("a.Wide{n}"), 40_000);
    }
    for n in 0..1_100 {
        a.client.ensure_kind(format!("a.Narrow{n}"), 1);
    }
    let mut refused = Vec::new();
    let kinds = a
        .find(|event| match event {
            HubEvent::Members { kinds, .. } => (kinds.len() == 1_024).then(|| kinds.clone()),
            HubEvent::KindRefused { kind, bound, limit } => {
                refused.push((kind.clone(), bound.clone(), *limit));
                None
            }
            HubEvent::Disconnected => panic!("the hub ended the connection"),
            _ => None,
        })
        .await;
    // Whoever asked is told, and what was hit: a partition has two logs, and nodes share a few.
    let most = 2 * 65_536 + 64;
    assert_eq!(refused.first(), Some(&("a.Wide1".to_owned(), "logs_max".to_owned(), most)));
    a.client.ensure_kind("a.Late".into(), 1);
    a.wait(HubEvent::KindRefused {
        kind: "a.Late".into(),
        bound: "kinds_max".into(),
        limit: 1_024,
    })
    .await;
    let is_wide = |(name, _): &&(String, u32)| name.starts_with("a.Wide");
    assert_eq!(kinds.iter().filter(is_wide).count(), 1);
    assert!(a.read(&log(1), 1).await.is_empty(), "the connection goes on");
}

#[tokio::test]
async fn a_killed_hub_is_replaced_and_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    let mut b = node(dir.path(), "b").await;
    a.client.offer(vec!["a.Account".into()], false);
    a.client.ensure_kind("a.Account".into(), 8);
    let incarnation = a.client.incarnation();
    let mut acknowledged = Vec::new();
    let mut id = 0;
    let mut took = Vec::new();
    for round in 0..12 {
        for n in 0..4 {
            a.client.read_log(log(n), 1);
        }
        // A kill in the middle of a stream of appends, at another place in every round.
        for _ in 0..300 {
            id += 1;
            a.client.append(log(id % 4), id, Bytes::from(id.to_string()));
        }
        let enough = 1 + round * 20;
        let mut owned = 0;
        while owned < enough {
            let own = a
                .find(|event| match event {
                    HubEvent::Own { log, offset, id } => Some((log.clone(), *offset, *id)),
                    _ => None,
                })
                .await;
            acknowledged.push(own);
            owned += 1;
        }
        let begun = Instant::now();
        signal(Signal::KILL, hub_pid(dir.path()));
        loop {
            match a.next().await {
                HubEvent::Own { log, offset, id } => acknowledged.push((log, offset, id)),
                HubEvent::Welcome { incarnation: granted, resumed } => {
                    assert!(resumed, "within the grace it keeps its incarnation");
                    assert_eq!(granted, incarnation);
                }
                HubEvent::Reconnected => break,
                HubEvent::Evicted => panic!("struck out"),
                _ => {}
            }
        }
        took.push(begun.elapsed());
        b.wait(HubEvent::Reconnected).await;
    }
    for n in 0..4 {
        let entries = b.read(&log(n), 1).await;
        for (name, offset, id) in acknowledged.iter().filter(|(name, ..)| *name == log(n)) {
            let wanted = (*offset, Bytes::from(id.to_string()));
            assert_eq!(entries[*offset as usize - 1], wanted, "{name}");
        }
    }
    assert!(acknowledged.len() >= 12 * 100);
    took.sort();
    println!("replaced within {:?} (median), {:?} (longest)", took[6], took[11]);
    let mut c = node(dir.path(), "c").await;
    let (nodes, kinds) = c
        .find(|event| match event {
            HubEvent::Members { nodes, kinds } => Some((nodes.clone(), kinds.clone())),
            _ => None,
        })
        .await;
    let names: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(nodes[0].kinds, ["a.Account"]);
    assert_eq!(kinds, [("a.Account".to_owned(), 8)]);
}

#[tokio::test]
async fn a_member_that_does_not_come_back_is_dropped_after_the_grace() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    let mut b = Member::start(dir.path());
    a.members(&["a", "member"]).await;
    signal(Signal::STOP, hub_pid(dir.path()));
    // The hub cannot see b leave.
    b.end();
    kill(hub_pid(dir.path())).await;
    a.wait(HubEvent::Reconnected).await;
    let begun = Instant::now();
    a.members(&["a", "member"]).await;
    a.members(&["a"]).await;
    assert!(begun.elapsed() > Duration::from_millis(500), "{:?}", begun.elapsed());
}

/// A machine that does much else may not let a process come back within the grace.
#[tokio::test]
async fn a_member_whose_process_lives_may_be_slow_to_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    let (mut slow, mut dead) = (Member::start(dir.path()), Member::start(dir.path()));
    a.members(&["a", "member", "member"]).await;
    signal(Signal::STOP, slow.id());
    signal(Signal::STOP, hub_pid(dir.path()));
    dead.end();
    kill(hub_pid(dir.path())).await;
    a.wait(HubEvent::Reconnected).await;
    a.members(&["a", "member", "member"]).await;
    // The grace is over.
    a.members(&["a", "member"]).await;
    signal(Signal::CONT, slow.id());
    let next = slow.words.find(|word| word != "disconnected");
    assert_eq!(next, Some(slow.welcome.clone()), "it comes back under its incarnation");
    // Who comes back in no time is not waited for any longer than who is silent.
    signal(Signal::STOP, slow.id());
    kill(hub_pid(dir.path())).await;
    a.wait(HubEvent::Reconnected).await;
    let begun = Instant::now();
    a.members(&["a"]).await;
    assert!(begun.elapsed() > Duration::from_millis(1_500), "{:?}", begun.elapsed());
    slow.end();
}

#[tokio::test]
async fn a_hub_that_hangs_is_killed_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    let first = hub_pid(dir.path());
    signal(Signal::STOP, first);
    a.wait(HubEvent::Disconnected).await;
    a.wait(HubEvent::Reconnected).await;
    assert_ne!(hub_pid(dir.path()), first);
    assert!(!common::alive(first));
}

#[tokio::test]
async fn a_silent_client_is_struck_out_and_gets_a_new_incarnation() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = node(dir.path(), "a").await;
    // A client in a process of its own, so that it can be stopped.
    let mut b = Member::start(dir.path());
    a.members(&["a", "member"]).await;
    signal(Signal::STOP, b.id());
    a.members(&["a"]).await;
    signal(Signal::CONT, b.id());
    a.members(&["a", "member"]).await;
    assert!(b.words.any(|word| word == "evicted"), "it is told that it was struck out");
    let next = b.words.next().expect("it goes on");
    assert!(next.starts_with("welcome") && next != b.welcome, "a new incarnation: {next}");
    b.end();
    a.members(&["a"]).await;
}

#[tokio::test]
async fn racing_starters_end_with_one_hub() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let names = ["a", "b", "c", "d"];
        let nodes = names.map(|name| attach(config(dir.path(), name, &[])));
        let mut nodes = futures_util::future::try_join_all(nodes).await.unwrap();
        nodes[0]
            .find(|event| match event {
                HubEvent::Members { nodes, .. } => (nodes.len() == 4).then_some(()),
                _ => None,
            })
            .await;
        let (code, words) = common::end(common::start_hub(dir.path(), &[]));
        assert_eq!(code, i32::from(exit_code::ALREADY_RUNNING), "{words}");
        assert!(words.contains("another hub already serves"), "{words}");
    }
}

#[tokio::test]
async fn an_idle_hub_ends_and_the_next_client_starts_another() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["idle-ms=50"];
    let a = attach(config(dir.path(), "a", &args)).await.unwrap();
    let first = hub_pid(dir.path());
    drop(a);
    wait_for_end(dir.path()).await;
    let a = attach(config(dir.path(), "a", &args)).await.unwrap();
    assert_ne!(hub_pid(dir.path()), first);
    assert!(a.client.incarnation() > 1, "the counter outlives the hub");
}

#[tokio::test]
async fn a_terminated_hub_ends_in_order_and_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut hub = common::serving_hub(dir.path()).await;
    let mut a = node(dir.path(), "a").await;
    assert_eq!(a.client.hub_process_id(), hub.id());
    signal(Signal::TERM, hub.id());
    a.wait(HubEvent::Reconnected).await;
    assert!(hub.wait().unwrap().success());
    assert_ne!(hub_pid(dir.path()), hub.id());
}

#[tokio::test]
async fn a_hub_whose_directory_was_removed_leaves_the_next_ones_socket_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut first = common::serving_hub(&data).await;
    let a = node(&data, "a").await;
    assert_eq!(a.client.hub_process_id(), first.id());
    std::fs::remove_dir_all(&data).unwrap();
    let mut b = node(&data, "b").await;
    let second = b.client.hub_process_id();
    assert_ne!(second, first.id(), "the old hub cannot be found any more");
    signal(Signal::TERM, first.id());
    assert!(first.wait().unwrap().success());
    // Whoever comes next finds the second one.
    let c = node(&data, "c").await;
    assert_eq!(c.client.hub_process_id(), second);
    b.members(&["b", "c"]).await;
    drop(a);
    kill(second).await;
}

#[tokio::test]
async fn a_socket_path_that_is_too_long_is_put_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(100)).join("e".repeat(30));
    let mut a = node(&deep, "a").await;
    a.members(&["a"]).await;
    let socket = std::fs::read_to_string(deep.join("hub.socket")).unwrap();
    assert!(socket.len() <= 107);
    drop(a);
    kill(hub_pid(&deep)).await;
    std::fs::remove_dir_all(std::path::Path::new(&socket).parent().unwrap()).unwrap();
}

#[tokio::test]
async fn without_a_hub_and_a_way_to_start_one_the_error_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), "a", &[]);
    config.spawn = None;
    config.connect_timeout = Duration::from_millis(100);
    let error = attach(config).await.err().unwrap();
    assert!(matches!(error, HubError::Unavailable { .. }));
    assert!(error.to_string().contains("start one with 'kar hub'"), "{error}");
}

#[tokio::test]
async fn the_data_directory_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("data");
    let _a = node(&inner, "a").await;
    let mode = std::fs::metadata(&inner).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    kill(hub_pid(&inner)).await;
}

/// Removed, moved or replaced under everybody: nobody goes on as if nothing was, and nobody begins another directory.
#[tokio::test]
async fn a_data_directory_that_is_lost_ends_hub_and_clients() {
    for hub_is_killed in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let (dir, moved) = (root.path().join("data"), root.path().join("moved"));
        let mut a = attach(config(&dir, "a", &["idle-ms=100"])).await.expect("a hub");
        a.client.append(log(1), 1, Bytes::from_static(b"x"));
        a.read(&log(1), 1).await;
        let pid = hub_pid(&dir);
        std::fs::rename(&dir, &moved).unwrap();
        if hub_is_killed {
            // Nobody tells the client: it finds the hub of another directory.
            kill(pid).await;
        }
        let message = a
            .find(|event| match event {
                HubEvent::DirectoryLost { message } => Some(message.clone()),
                _ => None,
            })
            .await;
        assert!(message.contains("was removed, moved or replaced"), "{message}");
        let refused = a.client.state_get("k").await;
        assert!(matches!(refused, Err(HubError::Closed)), "{refused:?}");
        common::wait_for("the hub to end", || !common::alive(pid)).await;
        assert!(hub_is_killed || !dir.exists(), "another one was begun");
        // Put back, it is the same one.
        if hub_is_killed {
            wait_for_end(&dir).await;
            std::fs::remove_dir_all(&dir).unwrap();
        }
        std::fs::rename(&moved, &dir).unwrap();
        let mut b = node(&dir, "b").await;
        assert_eq!(b.read(&log(1), 1).await.len(), 1);
    }
}

#[tokio::test]
async fn a_log_that_is_lost_alone_ends_hub_and_clients_and_the_next_ones_are_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = attach(config(dir.path(), "a", &["idle-ms=100"])).await.expect("a hub");
    a.client.append(log(1), 1, Bytes::from_static(b"x"));
    a.read(&log(1), 1).await;
    let (pid, id) = (hub_pid(dir.path()), dir.path().join("hub.id"));
    let before = std::fs::read_to_string(&id).unwrap();
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    let message = a
        .find(|event| match event {
            HubEvent::DirectoryLost { message } => Some(message.clone()),
            _ => None,
        })
        .await;
    assert!(message.contains("/log' was removed, moved or replaced"), "{message}");
    common::wait_for("the hub to end", || !common::alive(pid)).await;
    let mut b = node(dir.path(), "b").await;
    assert_eq!(b.read(&log(1), 1).await.len(), 0);
    assert_ne!(std::fs::read_to_string(&id).unwrap(), before, "what the first ones know is gone");
}

/// A client in a process of its own, which says what it is told.
/// A line that could be read.
type Word = fn(io::Result<String>) -> Option<String>;

/// A member in a process of its own.
struct Member {
    process: Child,
    /// What it said when it was taken in.
    welcome: String,
    /// What it says after that.
    words: MapWhile<Lines<BufReader<ChildStdout>>, Word>,
}

impl Member {
    /// Starts one, and waits until it knows that it was taken in. The hub and others know that before: if the hub is
    /// killed in between, what it said is lost, and the member joins as a new one.
    fn start(dir: &Path) -> Self {
        let mut command = Command::new(common::hub_program().with_file_name("member"));
        let mut process =
            command.arg(dir).stdout(Stdio::piped()).spawn().expect("it can be started");
        let words = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let mut words = words.map_while(Result::ok as Word);
        let welcome = words.next().expect("it says what it is granted");
        assert!(welcome.starts_with("welcome"), "{welcome}");
        Self { process, welcome, words }
    }

    fn id(&self) -> u32 {
        self.process.id()
    }

    fn end(&mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it is ours");
    }
}
