//! The data directory and those who live on it: it is taken away, and they say so; the hub takes nothing with it.

use std::fs;
use std::process::{Command, Stdio};

use kar_tests::world::{READY_LIMIT, capture};
use kar_tests::{World, binaries, process, test, wait};

/// What everybody says.
const LOST: &str = "was removed, moved or replaced while it was in use";

#[test]
fn a_data_directory_that_is_taken_away_ends_the_nodes_with_the_reason() {
    test(async {
        let world = World::new("taken-away");
        let mut host = world.app("host", &["echo"]).await;
        host.hosts("echo").await;
        let mut bare = world.bare("bare").await;
        let data = world.data_dir();
        let shown = data.to_str().expect("UTF-8");
        let call = ["call", "--app", "taken-away", "--data-dir", shown, "nobody", "m"];
        let mut caller = world.spawn_kar("caller", &call);
        wait::until_true("the call to wait", READY_LIMIT, async || {
            world.kar_here("get invocations", &[]).await.stdout.contains("nobody")
        })
        .await;
        let component = host.component_pid().await;
        let hub = world.hub().await;
        let aside = world.path().join("aside");
        fs::rename(&data, &aside).expect("moved");
        for node in [&mut host, &mut bare, &mut caller] {
            assert_eq!(node.ended(READY_LIMIT).await, 3, "{}: not reached", node.name);
        }
        process::gone(component, READY_LIMIT).await;
        process::gone(hub, READY_LIMIT).await;
        assert!(!data.exists(), "another one was begun, without anything in it");
        let logs = world.logs();
        for name in ["host.1.log", "bare.1.log", "caller.1.log"] {
            assert!(logs[name].contains(LOST), "{name}: {}", logs[name]);
        }
        let hub_log = fs::read_to_string(aside.join("hub.log")).expect("it moved, too");
        assert!(hub_log.contains(LOST), "{hub_log}");
        // Put back, everything is as it was: the call that was accepted is still owed.
        fs::rename(&aside, &data).expect("moved back");
        let listed = world.kar_here("get invocations", &[]).await;
        assert!(listed.stdout.contains("nobody"), "{listed:?}");
    });
}

/// The output of whatever had the hub started must come to its end before the hub does, and its locks be let go.
#[test]
fn a_hub_on_demand_inherits_nothing() {
    test(async {
        let world = World::new("inherit");
        let mut command = Command::new("sh");
        // As `flock` does, and shells with `exec 7>FILE`.
        command.args(["-c", r#"exec 7>&1; exec "$0" state set --app inherit --data-dir "$1" k 1"#]);
        command.arg(binaries::kar()).arg(world.data_dir()).stdin(Stdio::null());
        for name in ["KAR_SOCKET", "KAR_APP", "KAR_API_TOKEN", "KAR_DATA_DIR", "KAR_LOG"] {
            command.env_remove(name);
        }
        // It reads to the end of the pipe.
        let output = capture(command).await;
        assert_eq!(output.code, 0, "{output:?}");
        let hub = world.hub().await;
        let open = fs::read_dir(format!("/proc/{hub}/fd")).expect("it lives").flatten();
        let links = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        let links: Vec<_> = links.map(|link| link.to_string_lossy().into_owned()).collect();
        assert!(!links.iter().any(|link| link.starts_with("pipe:")), "{links:?}");
    });
}
