//! The command line in the hands of a stranger: every mistake has its exit code, says what is wrong and what to do
//! next, and nothing panics.

use std::fs;
use std::time::Duration;

use kar_tests::world::READY_LIMIT;
use kar_tests::{World, test, wait};

/// Words of a command, its exit code, and what its standard error must contain.
type Case<'a> = (&'a [&'a str], i32, &'a [&'a str]);

async fn check(world: &World, cases: &[Case<'_>]) {
    for (words, code, parts) in cases {
        let output = tokio::time::timeout(READY_LIMIT, world.kar(words)).await;
        let output = output.unwrap_or_else(|_| panic!("{words:?} did not end"));
        assert_eq!(output.code, *code, "{words:?}: {output:?}");
        for part in *parts {
            assert!(output.stderr.contains(part), "{words:?} does not say '{part}': {output:?}");
        }
        assert!(!output.stderr.contains("panicked"), "{words:?}: {output:?}");
    }
}

#[test]
fn wrong_use_is_told_apart_and_says_what_would_be_right() {
    test(async {
        let world = World::new("wrong");
        fs::write(world.path().join("bad.yaml"), "app: x\ncomponents:\n  a:\n    comand: foo\n")
            .expect("written");
        fs::write(world.path().join("none.yaml"), "app: x\ncomponents: {}\n").expect("written");
        let cases: &[Case<'_>] = &[
            (&[], 2, &["Usage: kar", "Exit codes:"]),
            (&["nonsense"], 2, &["nonsense", "try '-h'"]),
            (&["call", "s", "m"], 2, &["which application?", "--app"]),
            (&["call", "--app", "a b", "s", "m"], 2, &["'a b'", "A-Z"]),
            (&["call", "--app", "x", "s"], 2, &["SERVICE METHOD"]),
            (&["call", "--app", "x", "s", "m", "{oops"], 2, &["not JSON", "--content-type"]),
            (&["call", "--app", "x", "--timeout", "soon", "s", "m"], 2, &["250ms"]),
            (
                &["call", "--app", "x", "--file", "absent", "s", "m"],
                2,
                &["absent", "path of a file"],
            ),
            (&["get", "nodes", "--app", "x", "-o", "yaml"], 2, &["json", "try '-h'"]),
            (&["run", "--app", "x", "--partitions", "many"], 2, &["many", "try '-h'"]),
            (&["run", "true"], 2, &["--app"]),
            (&["run", "--app", "x", "--bogus", "--", "true"], 2, &["--bogus", "kar run -h"]),
            (&["run", "-app", "x", "-service", "s", "no-such", "a.js"], 127, &["no-such", "PATH"]),
            (&["up"], 2, &["app.yaml", "kar up"]),
            (&["up", "bad.yaml"], 2, &["comand", "kar up --help"]),
            (&["up", "none.yaml"], 2, &["no components", "kar up --help"]),
        ];
        check(&world, cases).await;
    });
}

#[test]
fn what_cannot_be_reached_or_found_is_told_apart() {
    test(async {
        let world = World::new("absent");
        fs::write(world.path().join("file"), "no folder").expect("written");
        let x = ["--app", "x", "--data-dir", "data"];
        let with = |words: &[&'static str]| [words, &x].concat();
        let no_such = "s.g/0/0192aaaa-0000-7000-8000-000000000000";
        let cases: &[Case<'_>] = &[
            (&["get", "nodes", "--socket", "absent.sock"], 3, &["absent.sock", "KAR_SOCKET"]),
            (
                &["get", "nodes", "--app", "x", "--data-dir", "file/data"],
                3,
                &["file/data", "--data-dir"],
            ),
            (&["hub", "--data-dir", "file/data"], 3, &["file/data", "--data-dir"]),
            (&with(&["invoke", "nobody", "m"]), 3, &["s.nobody", "kar run"]),
            (&with(&["state", "get", "nothing"]), 4, &["nothing", "kar state list"]),
            (&with(&["await", no_such]), 4, &[no_such, "kar start"]),
            (&with(&["await", "nonsense"]), 2, &["nonsense", "KIND/INDEX/UUID"]),
            (&with(&["drain", "nobody"]), 4, &["nobody", "alive"]),
            (
                &with(&["call", "--start-within", "200ms", "nobody", "m"]),
                5,
                &["deadline", "kar get nodes"],
            ),
            (
                &with(&["call", "--timeout", "200ms", "nobody", "m"]),
                6,
                &["unknown", "kar get invocations"],
            ),
        ];
        check(&world, cases).await;
    });
}

#[test]
fn what_is_deleted_twice_ends_as_the_exit_codes_say() {
    test(async {
        let world = World::new("twice");
        let x = ["--app", "x", "--data-dir", "data"];
        let with = |words: &[&'static str]| [words, &x].concat();
        let no_such = "s.g/0/0192aaaa-0000-7000-8000-000000000000";
        let cases: &[Case<'_>] = &[
            // What programs delete: that it is gone is what was wanted.
            (&with(&["state", "delete", "k"]), 0, &["no key 'k'; nothing to delete"]),
            (&with(&["state", "transact", "--delete", "k"]), 0, &[]),
            (&with(&["reminder", "cancel", "T", "i", "r"]), 0, &["no reminder 'r'"]),
            (&with(&["reminder", "cancel", "T", "i", "--all"]), 0, &["no reminders"]),
            (&with(&["actor", "remove", "T", "i"]), 0, &[]),
            (&with(&["actor", "remove", "T", "i"]), 0, &[]),
            // What people name: a name that is mistyped is not taken for one that is gone.
            (&with(&["topic", "delete", "t"]), 4, &["no topic 't'", "kar get topics"]),
            (&with(&["topic", "forget", "t", "c"]), 4, &["'t'", "kar get topics"]),
            (&with(&["subscription", "delete", "s"]), 4, &["'s'", "kar get subscriptions"]),
            (&with(&["cancel", no_such]), 4, &[no_such]),
            (&with(&["discard", no_such]), 4, &[no_such]),
        ];
        check(&world, cases).await;
    });
}

#[test]
fn topics_are_the_data_directorys_and_need_no_application() {
    test(async {
        let world = World::new("topics");
        let dir = ["--data-dir", "data"];
        let with = |words: &[&'static str]| [words, &dir].concat();
        check(&world, &[(&with(&["topic", "create", "orders"]), 0, &[])]).await;
        let listed = world.kar(&with(&["get", "topics", "-o", "json"])).await;
        assert!(listed.code == 0 && listed.stdout.contains("orders"), "{listed:?}");
        // … and are the same of each application.
        let listed = world.kar(&with(&["get", "topics", "--app", "x", "-o", "json"])).await;
        assert!(listed.code == 0 && listed.stdout.contains("orders"), "{listed:?}");
        let deletions: &[Case<'_>] = &[
            (&with(&["topic", "delete", "orders"]), 0, &[]),
            (&with(&["topic", "delete", "orders"]), 4, &["no topic 'orders'"]),
            // What is of an application still asks for it.
            (&with(&["get", "nodes"]), 2, &["which application?", "--app"]),
        ];
        check(&world, deletions).await;
    });
}

#[test]
fn payloads_that_are_too_large_hit_a_bound_by_name() {
    test(async {
        let world = World::new("large");
        let file = |name: &str, mib: usize| {
            fs::write(world.path().join(name), vec![b'a'; mib << 20]).expect("written");
        };
        file("over", 5);
        file("transport", 20);
        file("huge", 40);
        let call = |name| {
            ["call", "--app", "x", "--data-dir", "data", "--content-type", "text/plain", "--file"]
                .into_iter()
                .chain([name, "s", "m"])
                .collect::<Vec<&str>>()
        };
        let cases: &[Case<'_>] = &[
            (&call("over"), 7, &["4194304", "--message-bytes-max"]),
            (&call("transport"), 7, &["8388608", "smaller payload"]),
            (&call("huge"), 7, &["huge", "smaller payload"]),
        ];
        check(&world, cases).await;
    });
}

#[test]
fn every_listing_is_json_where_asked_also_when_there_is_nothing() {
    test(async {
        let world = World::new("empty");
        // Whoever is in the wrong folder is told.
        let first = world.kar_here("get nodes", &[]).await;
        assert!(first.stderr.contains("nothing has run in it yet"), "{first:?}");
        for what in ["get nodes", "get actors", "get invocations", "state list"] {
            let output = world.kar_here(what, &["-o", "json"]).await;
            assert_eq!((output.code, output.stdout.trim()), (0, "[]"), "{what}: {output:?}");
        }
        let actor = world.kar_here("state actor", &["T", "i", "-o", "json"]).await;
        assert_eq!((actor.code, actor.stdout.trim()), (0, "{}"), "{actor:?}");
        let doctor = ["doctor", "--data-dir", "data", "-o", "json"];
        let doctor = world.kar(&doctor).await;
        let rows: serde_json::Value = serde_json::from_str(&doctor.stdout).expect("JSON");
        assert!(rows.as_array().is_some_and(|rows| rows.len() > 3), "{doctor:?}");
        // Looking leaves nothing behind.
        let kinds = world.kar_here("get nodes", &[]).await;
        assert_eq!(kinds.stderr.trim(), "nothing to list", "{kinds:?}");
    });
}

#[test]
fn a_call_says_what_it_waits_for_and_what_ctrl_c_means() {
    test(async {
        let world = World::new("interrupt");
        let data_dir = world.data_dir();
        let dir = data_dir.to_str().expect("UTF-8");
        let mut call =
            world.spawn_kar("call", &["call", "--app", "x", "--data-dir", dir, "s", "m"]);
        let list = ["get", "invocations", "--app", "x", "--data-dir", dir, "-o", "json"];
        wait::until_true("the call to be accepted", READY_LIMIT, async || {
            world.kar(&list).await.stdout.contains("\"method\": \"m\"")
        })
        .await;
        wait::until_true("the call to say what it waits for", READY_LIMIT, async || {
            world.logs()["call.1.log"].contains("waiting for a host of service 's'")
        })
        .await;
        call.signal(rustix::process::Signal::INT);
        assert_eq!(call.ended(Duration::from_secs(20)).await, 130);
        let logs = world.logs();
        let said = &logs["call.1.log"];
        assert!(said.contains("interrupted") && said.contains("kar get invocations"), "{said}");
        // As it says: it was accepted, so it is still there.
        assert!(world.kar(&list).await.stdout.contains("\"method\": \"m\""));
    });
}
