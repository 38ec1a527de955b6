//! The tour of the README, with the SDK's example `hello`.

use kar_tests::world::READY_LIMIT;
use kar_tests::{Node, NodeOptions, World, binaries, process, test, wait};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Where `hello` says what it does, if told to: a line `start …` when a method begins, `end …` when it ends.
const JOURNAL: &str = "KAR_EXAMPLE_JOURNAL";

fn journal(world: &World) -> PathBuf {
    world.path().join("hello-journal")
}

fn options(world: &World, name: &str) -> NodeOptions {
    NodeOptions {
        name: name.into(),
        command: vec![binaries::example("hello").to_string_lossy().into_owned()],
        args: vec!["--service".into(), "greeter".into()],
        environment: vec![(JOURNAL.into(), journal(world).to_string_lossy().into_owned())],
        ..NodeOptions::default()
    }
}

async fn hello(world: &World, name: &str) -> Node {
    let node = world.start(options(world, name)).await;
    node.hosts("greeter").await;
    node
}

#[test]
fn a_greeting_is_printed() {
    test(async {
        let world = World::new("hello");
        let _node = hello(&world, "server").await;
        let words = ["greeter", "hello", r#"{"name":"Alan"}"#];
        let output = world.kar_here("call", &words).await;
        assert_eq!((output.code, output.stdout.trim()), (0, r#""Hello, Alan!""#), "{output:?}");
    });
}

#[test]
fn a_call_made_before_anybody_serves_is_answered_once_somebody_does() {
    test(async {
        let world = World::new("early");
        let call = world.kar_here("call", &["greeter", "hello", r#"{"name":"Alan"}"#]);
        let serve = async {
            // The caller's own sidecar waits with an accepted call.
            wait::until_true("the call to be accepted", READY_LIMIT, async || {
                let listed = world.kar_here("get invocations", &["-o", "json"]).await;
                listed.code == 0 && listed.stdout.contains("greeter")
            })
            .await;
            hello(&world, "server").await
        };
        let (output, _node) = tokio::join!(call, serve);
        assert_eq!((output.code, output.stdout.trim()), (0, r#""Hello, Alan!""#), "{output:?}");
    });
}

#[test]
fn a_slow_call_is_answered_by_another_host_when_the_first_is_killed() {
    test(async {
        let world = World::new("kill");
        let (mut a, mut b) = (hello(&world, "a").await, hello(&world, "b").await);
        let call = world.kar_here("call", &["greeter", "slow", r#"{"name":"Alan","millis":2000}"#]);
        let kill = async {
            let text = wait::until("the method to start", READY_LIMIT, async || {
                fs::read_to_string(journal(&world)).ok().filter(|text| text.contains("start"))
            })
            .await;
            let components = [a.component_now(), b.component_now()];
            let runs = |pid: Option<u32>| pid.is_some_and(|pid| text.contains(&pid.to_string()));
            let server = if runs(components[0]) { &mut a } else { &mut b };
            assert!(
                runs(components[0]) || runs(components[1]),
                "the journal names no host: {text}"
            );
            let component = server.component_pid().await;
            server.kill_sidecar();
            process::gone(component, Duration::from_secs(2)).await;
        };
        let (output, ()) = tokio::join!(call, kill);
        assert_eq!(output.code, 0, "{output:?}");
        assert!(output.stdout.contains("Alan"), "{output:?}");
        let text = fs::read_to_string(journal(&world)).expect("the journal");
        let count = |word| text.lines().filter(|line| line.starts_with(word)).count();
        assert_eq!((count("start"), count("end")), (2, 1), "{text}");
    });
}

#[test]
fn a_method_that_does_not_exist_is_a_typed_error() {
    test(async {
        let world = World::new("method");
        let _node = hello(&world, "server").await;
        let output = world.kar_here("call", &["greeter", "nonsense"]).await;
        assert!([1, 4].contains(&output.code), "{output:?}");
        assert!(output.stderr.contains("nonsense"), "it names the method: {output:?}");
    });
}
