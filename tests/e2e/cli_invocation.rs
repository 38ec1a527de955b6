//! One invocation on the command line: what is known of it, what is done to it, and the mistakes that can be made.

use std::collections::BTreeSet;

use kar_tests::world::READY_LIMIT;
use kar_tests::{World, test, wait};
use serde_json::{Value, json};

/// A command's JSON.
async fn asked(world: &World, command: &str, words: &[&str]) -> Value {
    let output = world.kar_here(command, words).await;
    assert_eq!(output.code, 0, "{command} {words:?}: {output:?}");
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// An id that a command printed.
async fn id_of(world: &World, command: &str, words: &[&str]) -> String {
    let output = world.kar_here(command, words).await;
    assert_eq!(output.code, 0, "{command} {words:?}: {output:?}");
    output.stdout.trim().to_owned()
}

#[test]
fn all_that_is_known_of_one_invocation_is_shown() {
    test(async {
        let world = World::new("cliknown");
        let node = world.app("host", &["slow", "echo"]).await;
        node.hosts("Slow").await;
        let long = r#"{"key":"k","milliseconds":600000}"#;
        let slow = id_of(&world, "start", &["--actor", "Slow", "x", "work", long]).await;
        let running = wait::until("it to run", READY_LIMIT, async || {
            let shown = asked(&world, "get invocation", &[&slow, "-o", "json"]).await;
            (shown["state"] == "running").then_some(shown)
        })
        .await;
        let known = json!([running["target"], running["method"], running["mode"], running["node"]]);
        assert_eq!(known, json!(["Slow/x", "work", "start", "host"]), "{running}");
        assert_eq!((&running["attempt"], &running["end"]), (&json!(1), &Value::Null));
        let listed = asked(&world, "get invocations", &["-o", "json"]).await;
        assert_eq!(listed, json!([running]), "alone as in the list");
        let table = world.kar_here("get invocation", &[&slow]).await.stdout;
        for line in ["target      Slow/x", "state       running", "node        host"] {
            assert!(table.contains(line), "no '{line}' in\n{table}");
        }
        assert!(!table.contains("error") && !table.contains("ended"), "{table}");
        // What has failed and nobody waits for.
        let told = id_of(&world, "tell", &["--actor", "Echo", "e", "fail", "null"]).await;
        let letter = wait::until("a dead letter", READY_LIMIT, async || {
            let shown = world.kar_here("get invocation", &[&told, "-o", "json"]).await;
            let shown: Value = serde_json::from_str(&shown.stdout).ok()?;
            (shown["end"] == "failed").then_some(shown)
        })
        .await;
        assert!(letter["error"]["code"].is_string() && letter["end_time"].is_string(), "{letter}");
        let again = asked(&world, "redrive", &[&told, "-o", "json"]).await;
        let again = again["invocation_id"].as_str().expect("its id").to_owned();
        let gone = world.kar_here("redrive", &[&told]).await;
        assert!(gone.code == 4 && gone.stderr.contains("kar get dead-letters"), "{gone:?}");
        wait::until_true("the new one to fail", READY_LIMIT, async || {
            world.kar_here("discard", &[&again]).await.code == 0
        })
        .await;
        let gone = world.kar_here("get invocation", &[&again]).await;
        assert!(gone.code == 4 && gone.stderr.contains("dead letter"), "{gone:?}");
    });
}

#[test]
fn what_was_done_to_an_invocation_is_json_where_asked() {
    test(async {
        let world = World::new("clidone");
        let _node = world.bare("a").await;
        let waits = id_of(&world, "start", &["nobody", "m"]).await;
        let not_parked = world.kar_here("resume", &[&waits, "-o", "json"]).await;
        assert_eq!(not_parked.code, 8, "{not_parked:?}");
        let shown = asked(&world, "get invocation", &[&waits, "-o", "json"]).await;
        assert_eq!((&shown["target"], &shown["state"]), (&json!("nobody"), &json!("queued")));
        for result in ["cancelled", "ended"] {
            let done = asked(&world, "cancel", &[&waits, "-o", "json"]).await;
            assert_eq!(done, json!({ "result": result }));
        }
        let shown = asked(&world, "get invocation", &[&waits, "-o", "json"]).await;
        assert_eq!((&shown["state"], &shown["end"]), (&json!("completed"), &json!("cancelled")));
        assert_eq!((&shown["target"], &shown["mode"]), (&Value::Null, &Value::Null), "{shown}");
    });
}

#[test]
fn one_affinity_key_is_one_owner() {
    test(async {
        let world = World::new("cliaffine");
        let (a, b) = (world.app("a", &["echo"]).await, world.app("b", &["echo"]).await);
        a.hosts("echo").await;
        b.hosts("echo").await;
        let socket = a.socket.to_str().expect("UTF-8");
        let mut answers = BTreeSet::new();
        for _ in 0..12 {
            let words = ["call", "--socket", socket, "--affinity-key", "k", "echo", "pid"];
            let output = world.kar(&words).await;
            assert_eq!(output.code, 0, "{output:?}");
            answers.insert(output.stdout);
        }
        assert_eq!(answers.len(), 1, "{answers:?}");
    });
}

#[test]
fn mistakes_with_one_invocation_are_told_apart() {
    test(async {
        let world = World::new("climistake");
        let node = world.app("host", &["echo"]).await;
        node.hosts("echo").await;
        let no_such = "a.Echo/0/0192aaaa-0000-7000-8000-000000000000";
        let key = ["--idempotency-key", "k", "echo", "echo"];
        assert_eq!(world.kar_here("call", &[&key[..], &["1"]].concat()).await.code, 0);
        let reused = [&key[..], &["2"]].concat();
        // Command, words, exit code, and what standard error must contain.
        let cases: &[(&str, &[&str], i32, &str)] = &[
            ("get invocation", &["nonsense"], 2, "KIND/INDEX/UUID"),
            ("get invocation", &[no_such], 4, "is the id right?"),
            ("get invocation", &[no_such, "--kind", "Echo"], 2, "--kind"),
            ("get invocation", &[no_such, "--limit", "1"], 2, "--limit"),
            ("get invocation", &["a.Nobody/0/0192aaaa-0000-7000-8000-000000000000"], 4, "right?"),
            ("discard", &[no_such], 4, "kar get dead-letters"),
            ("resume", &[no_such], 4, "kar start"),
            ("cancel", &[no_such, "-o", "yaml"], 2, "json"),
            ("call", &["--affinity-key", "k", "--actor", "Echo", "e", "echo"], 2, "--affinity-key"),
            ("call", &["--retry-multiplier", "0.5", "echo", "echo"], 2, "1 to 100"),
            ("call", &reused, 8, "a key of its own"),
        ];
        for (command, words, code, part) in cases {
            let output = world.kar_here(command, words).await;
            assert_eq!(output.code, *code, "{command} {words:?}: {output:?}");
            assert!(output.stderr.contains(part), "{command} {words:?}: {output:?}");
        }
        let unknown = format!("no invocation {no_such} is known, or its retention is over");
        for command in ["get invocation", "await", "cancel", "resume", "redrive", "discard"] {
            let output = world.kar_here(command, &[no_such]).await;
            assert_eq!(output.code, 4, "{command}: {output:?}");
            assert!(output.stderr.contains(&unknown), "{command}: {output:?}");
        }
        let away = world.kar(&["get", "invocation", no_such, "--socket", "absent.sock"]).await;
        assert!(away.code == 3 && away.stderr.contains("absent.sock"), "{away:?}");
    });
}
