//! What a sidecar makes of its surroundings when it starts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use kar_tests::{NodeOptions, World, test};
use serde_json::json;

#[test]
fn the_data_directory_is_for_the_user_alone() {
    test(async {
        let world = World::new("modes");
        let node = world.start(NodeOptions { name: "a".into(), ..NodeOptions::default() }).await;
        let mode = |path: &std::path::Path| {
            fs::metadata(path).expect("it is there").permissions().mode() & 0o777
        };
        assert_eq!(mode(&world.data_dir()), 0o700);
        drop(node);
        // Without `--socket`, the socket lies in it.
        let data = world.data_dir();
        let data = data.to_str().expect("UTF-8");
        let script = "echo $KAR_SOCKET";
        let args = ["run", "--app", "modes", "--data-dir", data, "--", "sh", "-c", script];
        let output = world.kar(&args).await;
        assert!(output.stdout.contains(data), "{output:?}");
        assert_eq!(mode(&world.data_dir().join("run")), 0o700);
    });
}

#[test]
fn a_data_directory_with_a_long_path_works() {
    // Unix sockets have paths of at most 107 bytes; folders do not.
    test(async {
        let world = World::new("long");
        let data = world.path().join("d".repeat(60)).join("e".repeat(80));
        let data = data.to_str().expect("UTF-8");
        let app = kar_tests::binaries::test_app();
        let app = app.to_str().expect("UTF-8");
        let args = ["up", "--data-dir", data, "app.yaml"];
        let file = format!("app: long\ncomponents:\n  echo:\n    command: [{app}, echo]\n");
        fs::write(world.path().join("app.yaml"), file).expect("written");
        let up = world.spawn_kar("up", &args);
        let call = ["call", "--app", "long", "--data-dir", data, "echo", "echo", "7"];
        let output = world.kar(&call).await;
        assert_eq!((output.code, output.stdout.trim()), (0, "7"), "{output:?}");
        drop(up);
    });
}

#[test]
fn a_socket_that_is_taken_is_refused() {
    test(async {
        let world = World::new("taken");
        let first = world.bare("a").await;
        let socket = first.socket.to_str().expect("UTF-8");
        let args = ["run", "--app", "taken", "--data-dir", "data", "--socket", socket];
        let output = world.kar(&args).await;
        assert_eq!(output.code, 2, "{output:?}");
        assert!(output.stderr.contains(socket), "it names the socket: {output:?}");
        assert!(output.stderr.contains("--socket"), "it says what to do: {output:?}");
        first.info().await;
        // One that a dead sidecar left behind is not in the way.
        first.kill_sidecar();
        drop(first);
        let again = world.bare("a").await;
        again.info().await;
    });
}

#[test]
fn a_port_that_is_taken_is_refused() {
    test(async {
        let world = World::new("port");
        let first = world.bare("a").await;
        let port = first.port().await.to_string();
        let args = ["run", "--app", "port", "--data-dir", "data", "--grpc-port", &port];
        let output = world.kar(&args).await;
        assert!([2, 3].contains(&output.code), "{output:?}");
        assert!(output.stderr.contains(&port), "it names the port: {output:?}");
    });
}

#[test]
fn sidecars_reach_each_other_by_tcp_where_they_listen() {
    test(async {
        let world = World::new("peers");
        world.add_run_args(&["--peer-listen", "127.0.0.1:0", "--durability", "os"]);
        let (host, front) = (world.app("host", &["echo"]).await, world.bare("front").await);
        host.hosts("echo").await;
        let client = front.client().await;
        for n in 1..=10 {
            let counted = client.call(("Echo", "x"), "count", &json!(null)).await;
            assert_eq!(counted.expect("answered"), Ok(json!(n)));
        }
    });
}

#[test]
fn applications_on_one_data_directory_do_not_see_each_other() {
    test(async {
        let world = World::new("one");
        let host = world.app("host", &["echo"]).await;
        host.hosts("echo").await;
        let data = world.data_dir();
        let data = data.to_str().expect("UTF-8");
        let other = |words: &[&str]| {
            let mut args = vec![words[0], "--app", "two", "--data-dir", data];
            args.extend(&words[1..]);
            args.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let run = async |words: &[&str]| {
            let args = other(words);
            world.kar(&args.iter().map(String::as_str).collect::<Vec<_>>()).await
        };
        assert_eq!(run(&["invoke", "echo", "echo", "1"]).await.code, 3, "no host in that one");
        let expired = run(&["call", "--start-within", "100ms", "echo", "echo"]).await;
        assert_eq!(expired.code, 5, "{expired:?}");
        let set = world.kar_here("state set", &["k", "1"]).await;
        assert_eq!(set.code, 0, "{set:?}");
        let args = ["state", "get", "--app", "two", "--data-dir", data, "k"];
        assert_eq!(world.kar(&args).await.code, 4, "the key belongs to the other application");
    });
}
