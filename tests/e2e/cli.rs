//! The command line as `docs/cli.md` describes it: exit codes, JSON output, the original's flags.

use std::fs;
use std::process::Command;
use std::time::Duration;

use kar_proto::v1::state_change::Change;
use kar_proto::v1::{StateChange, SubMapEntry, SubMapKey};
use kar_tests::component::{Component, hello};
use kar_tests::grpc::json as payload;
use kar_tests::world::{READY_LIMIT, capture};
use kar_tests::{NodeOptions, World, process, test, wait};
use rustix::process::Signal;
use serde_json::{Value, json};

/// What a command printed as one JSON document.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("no JSON ({e}): {text}"))
}

fn shell(name: &str, script: &str) -> NodeOptions {
    NodeOptions {
        name: name.into(),
        command: vec!["sh".into(), "-c".into(), script.into()],
        ..NodeOptions::default()
    }
}

#[test]
fn results_go_to_standard_output_and_errors_have_codes_of_their_own() {
    test(async {
        let world = World::new("codes");
        let node = world.app("host", &["echo"]).await;
        node.hosts("echo").await;
        let ok = world.kar_here("call", &["echo", "echo", r#"{"a":[1,2]}"#]).await;
        assert_eq!((ok.code, parsed(&ok.stdout)), (0, json!({"a": [1, 2]})), "{ok:?}");
        let actor = world.kar_here("call", &["--actor", "Echo", "x", "count"]).await;
        assert_eq!((actor.code, actor.stdout.trim()), (0, "1"), "{actor:?}");
        let direct = world.kar_here("invoke", &["echo", "echo", "7"]).await;
        assert_eq!((direct.code, direct.stdout.trim()), (0, "7"), "{direct:?}");

        let failed = world.kar_here("call", &["echo", "fail"]).await;
        assert_eq!((failed.code, failed.stdout.as_str()), (1, ""), "{failed:?}");
        assert!(failed.stderr.contains("Refused: as you wish"), "{failed:?}");
        let expired = world.kar_here("call", &["--start-within", "100ms", "nobody", "m"]).await;
        assert_eq!(expired.code, 5, "{expired:?}");
        let no_host = world.kar_here("invoke", &["nobody", "m"]).await;
        assert_eq!(no_host.code, 3, "{no_host:?}");
        let waited = world.kar_here("call", &["--timeout", "200ms", "nobody", "m"]).await;
        assert_eq!(waited.code, 6, "{waited:?}");
        let bad_json = world.kar_here("call", &["echo", "echo", "{"]).await;
        assert_eq!(bad_json.code, 2, "{bad_json:?}");
        let bad_name = world.kar_here("call", &["-bad", "m"]).await;
        assert_eq!(bad_name.code, 2, "{bad_name:?}");
        let unknown = world.kar(&["nonsense"]).await;
        assert_eq!(unknown.code, 2, "{unknown:?}");
        let unreachable = world.kar(&["call", "--socket", "/nonexistent.sock", "s", "m"]).await;
        assert_eq!(unreachable.code, 3, "{unreachable:?}");
        for failure in [failed, expired, no_host, waited, bad_json, unreachable] {
            assert!(!failure.stderr.trim().is_empty(), "no message: {failure:?}");
        }
    });
}

#[test]
fn start_and_await_meet_by_the_id() {
    test(async {
        let world = World::new("ids");
        let node = world.app("host", &["echo"]).await;
        node.hosts("echo").await;
        let started = world.kar_here("start", &["echo", "echo", r#""later""#]).await;
        assert_eq!(started.code, 0, "{started:?}");
        let awaited = world.kar_here("await", &[started.stdout.trim()]).await;
        assert_eq!((awaited.code, awaited.stdout.trim()), (0, r#""later""#), "{awaited:?}");
        let told = world.kar_here("tell", &["-o", "json", "echo", "echo"]).await;
        assert_eq!(told.code, 0, "{told:?}");
        assert!(parsed(&told.stdout).to_string().len() > 10, "{told:?}");
        let id = started.stdout.trim();
        let other = if id.ends_with('0') { '1' } else { '0' };
        let wrong = format!("{}{other}", &id[..id.len() - 1]);
        let missing = world.kar_here("await", &[&wrong]).await;
        assert_eq!(missing.code, 4, "{missing:?}");
    });
}

#[test]
fn application_state_is_read_and_written() {
    test(async {
        let world = World::new("state");
        let set = world.kar_here("state set", &["k", r#"{"x":1}"#]).await;
        assert_eq!(set.code, 0, "{set:?}");
        let got = world.kar_here("state get", &["k"]).await;
        assert_eq!((got.code, parsed(&got.stdout)), (0, json!({"x": 1})), "{got:?}");
        let listed = world.kar_here("state list", &["-o", "json"]).await;
        assert!(listed.code == 0 && parsed(&listed.stdout).to_string().contains("\"k\""));
        let conflict = world.kar_here("state set", &["k", "2", "--etag", "wrong"]).await;
        assert_eq!(conflict.code, 8, "{conflict:?}");
        let args = [
            "--set", "a", "1", "--set", "b", "-2", "--delete", "k", "--etag", "a", "*", "-o",
            "json",
        ];
        let done = world.kar_here("state transact", &args).await;
        let rows = parsed(&done.stdout);
        assert_eq!(
            (done.code, &rows[2]["key"], &rows[2]["existed"]),
            (0, &json!("k"), &json!(true))
        );
        let conflict =
            world.kar_here("state transact", &["--set", "a", "3", "--etag", "a", "*"]).await;
        assert!(conflict.code == 8 && conflict.stderr.contains("'a'"), "{conflict:?}");
        let set = world.kar_here("state set", &["k", "1", "--ttl", "1h"]).await;
        assert_eq!(set.code, 0, "{set:?}");
        let got = parsed(&world.kar_here("state get", &["k", "-o", "json"]).await.stdout);
        assert!(got["expire_time"].is_string(), "{got}");
        let deleted = world.kar_here("state delete", &["k"]).await;
        assert_eq!(deleted.code, 0, "{deleted:?}");
        let missing = world.kar_here("state get", &["k"]).await;
        assert_eq!(missing.code, 4, "{missing:?}");
    });
}

#[test]
fn an_actors_committed_state_is_shown() {
    test(async {
        let world = World::new("actor");
        let node = world.app("host", &["echo"]).await;
        node.hosts("Echo").await;
        world.kar_here("call", &["--actor", "Echo", "x", "count"]).await;
        let shown = world.kar_here("state actor", &["Echo", "x", "-o", "json"]).await;
        assert!(
            shown.code == 0 && parsed(&shown.stdout).to_string().contains("count"),
            "{shown:?}"
        );
    });
}

#[test]
fn an_actors_sub_map_is_listed_by_all_its_pages() {
    const COUNT: usize = 1_203;
    test(async {
        let world = World::new("submap");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let caller = client.clone();
        let call = tokio::spawn(async move { caller.call(("A", "1"), "m", &json!(null)).await });
        let turn = host.next_turn().await;
        turn.set(&[("own", json!(1))]).await.expect("buffered");
        let set = |n: usize| {
            let key = Some(SubMapKey { sub_map: "stock".into(), key: format!("k{n:04}") });
            let entry = SubMapEntry { key, value: Some(payload(&json!({ "n": n }))) };
            StateChange { change: Some(Change::SetInSubMap(entry)) }
        };
        turn.apply((0..COUNT).rev().map(set).collect()).await.expect("buffered");
        turn.finish(&json!(null)).await;
        call.await.expect("no panic").expect("answered").expect("no error");

        let of = async |words: &[&str]| {
            let words = [&["A", "1"], words].concat();
            world.kar_here("state actor", &words).await
        };
        let listed = of(&["--sub-map", "stock", "-o", "json"]).await;
        let row = |n: usize| json!({ "key": format!("k{n:04}"), "value": { "n": n } });
        assert_eq!((listed.code, listed.stderr.as_str()), (0, ""));
        let rows: Value = (0..COUNT).map(row).collect();
        assert!(parsed(&listed.stdout) == rows, "not each one, in order: {}", listed.stdout);
        let table = of(&["--sub-map", "stock"]).await;
        let lines: Vec<Vec<_>> =
            table.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!((table.code, lines.len()), (0, 1 + COUNT), "{}", table.stderr);
        assert_eq!(
            (&lines[0][..], &lines[1][..]),
            (&["KEY", "VALUE"][..], &["k0000", r#"{"n":0}"#][..])
        );
        // The actor's own keys are apart.
        let own = of(&["-o", "json"]).await;
        assert_eq!((own.code, parsed(&own.stdout)), (0, json!({ "own": 1 })), "{own:?}");
        let none = of(&["--sub-map", "own"]).await;
        assert_eq!((none.code, none.stdout.as_str()), (0, ""), "{none:?}");
        assert!(none.stderr.contains("A 1 has no sub-map 'own'"), "{none:?}");
        let none = of(&["--sub-map", "own", "-o", "json"]).await;
        assert_eq!((none.code, none.stdout.trim()), (0, "[]"), "{none:?}");
        for name in [String::new(), "k".repeat(513)] {
            let wrong = of(&["--sub-map", &name]).await;
            assert_eq!((wrong.code, wrong.stdout.as_str()), (2, ""), "{wrong:?}");
            assert!(wrong.stderr.contains("sub_map"), "{wrong:?}");
        }
    });
}

#[test]
fn listings_are_json_where_asked() {
    test(async {
        let world = World::new("lists");
        let node = world.app("host", &["echo", "slow"]).await;
        node.hosts("echo").await;
        let nodes = world.kar_here("get nodes", &["-o", "json"]).await;
        let text = parsed(&nodes.stdout).to_string();
        assert!(nodes.code == 0 && text.contains("host") && text.contains("echo"), "{nodes:?}");
        let client = node.client().await;
        let long = tokio::spawn(async move {
            let argument = json!({"key": "k", "milliseconds": 20_000});
            client.call(("Slow", "s1"), "work", &argument).await
        });
        wait::until_true("the actor to be busy", READY_LIMIT, async || {
            let actors = world.kar_here("get actors", &["-o", "json"]).await;
            actors.code == 0 && parsed(&actors.stdout).to_string().contains("s1")
        })
        .await;
        let invocations = world.kar_here("get invocations", &["-o", "json"]).await;
        assert!(parsed(&invocations.stdout).to_string().contains("work"), "{invocations:?}");
        for table in ["get nodes", "get actors", "get invocations"] {
            let table = world.kar_here(table, &[]).await;
            assert!(table.code == 0 && table.stdout.lines().count() >= 2, "{table:?}");
        }
        long.abort();
        let version = world.kar(&["version", "-o", "json"]).await;
        assert!(version.code == 0 && parsed(&version.stdout).is_object(), "{version:?}");
        let doctor = world.kar(&["doctor", "-o", "json", "--data-dir", "data"]).await;
        assert_eq!(doctor.code, 0, "{doctor:?}");
        parsed(&doctor.stdout);
    });
}

#[test]
fn the_doctor_shows_a_sidecars_figures() {
    test(async {
        let world = World::new("figures");
        let node = world.app("host", &["slow", "echo"]).await;
        node.hosts("Slow").await;
        world.kar_here("call", &["echo", "echo", "1"]).await;
        let argument = r#"{"key":"k","milliseconds":600000}"#;
        let started = world.kar_here("start", &["--actor", "Slow", "x", "work", argument]).await;
        assert_eq!(started.code, 0, "{started:?}");
        let socket = node.socket.to_str().expect("UTF-8");
        let doctor = ["doctor", "--data-dir", "data", "--socket", socket, "-o", "json"];
        wait::until_true("the figures to tell of the call", READY_LIMIT, async || {
            let output = world.kar(&doctor).await;
            assert_eq!(output.code, 0, "{output:?}");
            let rows = parsed(&output.stdout);
            let found = |check: &str| {
                let row = rows.as_array().expect("a list").iter().find(|row| row["check"] == check);
                row.unwrap_or_else(|| panic!("no '{check}': {rows}"))["found"].to_string()
            };
            assert!(found("sidecar").contains("node host of application figures"), "{rows}");
            let (now, counted) = (found("it has now"), found("since its start"));
            assert!(!format!("{now}{counted}").contains(" 0"), "what is 0 is noise: {rows}");
            now.contains("unfinished 1,")
                && now.contains("actors awake 1")
                && counted.contains("turns 2")
        })
        .await;
        let table = world.kar(&doctor[..doctor.len() - 2]).await;
        assert!(table.stdout.lines().any(|line| line.starts_with("it has now")), "{table:?}");
    });
}

#[test]
fn output_lines_are_prefixed_and_the_environment_is_set() {
    test(async {
        let world = World::new("prefix");
        let script = "echo one; echo two >&2; echo $KAR_APP $KAR_SOCKET; \
                      test -n \"$KAR_GRPC_PORT\" || exit 9; exit 3";
        let data = world.data_dir();
        let data = data.to_str().expect("UTF-8");
        let run = ["run", "--app", "prefix", "--data-dir", data];
        let command = ["--", "sh", "-c", script];
        let output = world.kar(&[&run[..], &["--name", "web"], &command].concat()).await;
        assert_eq!(output.code, 3, "it exits with its command's code: {output:?}");
        assert!(output.stdout.lines().any(|l| l == "web | one"), "{output:?}");
        let all = format!("{}{}", output.stdout, output.stderr);
        assert!(all.lines().any(|l| l == "web | two"), "{output:?}");
        assert!(output.stdout.lines().any(|l| l.starts_with("web | prefix /")), "{output:?}");
        let plain = world.kar(&[&run[..], &["--no-prefix"], &command].concat()).await;
        assert!(plain.stdout.lines().any(|l| l == "one"), "{plain:?}");
    });
}

#[test]
fn codes_of_commands_that_cannot_run_are_those_of_shells() {
    test(async {
        let world = World::new("shell");
        let run = ["run", "--app", "shell", "--data-dir", "data", "--"];
        let missing = world.kar(&[&run[..], &["/nonexistent/program"]].concat()).await;
        assert_eq!(missing.code, 127, "{missing:?}");
        fs::write(world.path().join("text"), "no program").expect("written");
        let text = world.kar(&[&run[..], &["./text"]].concat()).await;
        assert_eq!(text.code, 126, "{text:?}");
        let killed = world.kar(&[&run[..], &["sh", "-c", "kill -9 $$"]].concat()).await;
        assert_eq!(killed.code, 137, "{killed:?}");
    });
}

#[test]
fn the_originals_flags_with_one_dash_work() {
    test(async {
        let world = World::new("flags");
        let command = ["sh", "-c", "echo app=$KAR_APP service=$KAR_SERVICE"];
        for flags in [
            &["run", "-app", "hello", "-service", "greeter"][..],
            &["run", "-app=hello", "-service=greeter", "-app_port", "8080"],
            &["run", "-app", "hello", "-service", "greeter", "-v", "info"],
        ] {
            let output = world.kar(&[flags, &command].concat()).await;
            assert_eq!(output.code, 0, "{output:?}");
            assert!(output.stdout.contains("app=hello service=greeter"), "{output:?}");
        }
    });
}

#[test]
fn no_process_of_a_component_outlives_its_sidecar() {
    test(async {
        let world = World::new("orphans");
        // A child in a session of its own, and a grandchild: all must go.
        let script = "setsid sh -c 'sleep 1000' & sh -c 'sleep 1000 & wait' & echo up; wait";
        let mut node = world.start(shell("parent", script)).await;
        wait::until_true("all processes to be up", READY_LIMIT, async || {
            let children = process::descendants(node.pid());
            children.iter().filter(|pid| process::command_line(**pid) == "sleep 1000").count() == 2
        })
        .await;
        // Below the sidecar is also the hub, if this node started it, and that is to stay.
        let mut children = process::descendants(node.pid());
        children.retain(|pid| !process::command_line(*pid).split(' ').any(|word| word == "hub"));
        node.kill_sidecar();
        node.ended(READY_LIMIT).await;
        for pid in children {
            process::gone(pid, Duration::from_secs(5)).await;
        }
    });
}

#[test]
fn a_component_dies_with_its_sidecar_even_without_its_supervisor() {
    test(async {
        let world = World::new("alone");
        let node = world.app("host", &["echo"]).await;
        node.hosts("echo").await;
        let component = node.component_pid().await;
        let supervisor = process::stat(component).expect("alive").parent;
        process::kill(supervisor);
        process::gone(component, Duration::from_secs(5)).await;
    });
}

#[test]
fn draining_a_node_moves_what_it_owns_and_fails_nothing() {
    test(async {
        let world = World::new("drain");
        let (a, b) = (world.app("a", &["echo"]).await, world.app("b", &["echo"]).await);
        a.hosts("echo").await;
        b.hosts("echo").await;
        let client = b.client().await;
        for n in 0..20 {
            let id = format!("x{n}");
            client.call(("Echo", &id), "count", &json!(null)).await.expect("ok").expect("ok");
        }
        let drained = world.kar_here("drain", &["a"]).await;
        assert_eq!(drained.code, 0, "{drained:?}");
        assert_eq!(a.info().await.partitions, Vec::<String>::new());
        for n in 0..20 {
            let id = format!("x{n}");
            let answer = client.call(("Echo", &id), "count", &json!(null)).await;
            assert_eq!(answer.expect("answered"), Ok(json!(2)), "{id}");
        }
        let unknown = world.kar_here("drain", &["nobody"]).await;
        assert_eq!(unknown.code, 4, "{unknown:?}");
    });
}

#[test]
fn purging_deletes_an_application_and_is_refused_while_it_lives() {
    test(async {
        let world = World::new("purge");
        let node = world.app("host", &["echo"]).await;
        node.hosts("Echo").await;
        world.kar_here("call", &["--actor", "Echo", "x", "count"]).await;
        let refused = world.kar_here("purge", &[]).await;
        assert_eq!(refused.code, 8, "{refused:?}");
        let mut node = node;
        node.signal(Signal::TERM);
        node.ended(READY_LIMIT).await;
        let purged = world.kar_here("purge", &[]).await;
        assert_eq!(purged.code, 0, "{purged:?}");
        // What there was is told: kinds, their logs, the actor's key.
        let said = &purged.stderr;
        assert!(said.contains("deleted: services and actor types "), "{said}");
        let counts: Vec<u32> = said.split([' ', ',', ';']).filter_map(|w| w.parse().ok()).collect();
        let [kinds, logs, entries, consumers] = counts[..] else { panic!("{said}") };
        assert!(kinds > 0 && logs > 0 && entries > 0 && consumers == 0, "{said}");
        assert!(said.contains("nothing of application 'purge' is stored"), "{said}");
        // Another time, or by a name that was mistyped, there is nothing.
        let data = world.data_dir();
        let mistyped = ["purge", "--app", "prge", "--data-dir", data.to_str().expect("UTF-8")];
        for nothing in [world.kar_here("purge", &[]).await, world.kar(&mistyped).await] {
            assert_eq!(nothing.code, 0, "{nothing:?}");
            assert!(
                nothing.stderr.contains("nothing was deleted: is the name right?"),
                "{nothing:?}"
            );
        }
        let node = world.app("again", &["echo"]).await;
        node.hosts("Echo").await;
        let counted = world.kar_here("call", &["--actor", "Echo", "x", "count"]).await;
        assert_eq!(counted.stdout.trim(), "1", "it begins anew: {counted:?}");
    });
}

#[test]
fn up_runs_all_components_of_a_file() {
    test(async {
        let world = World::new("shop");
        let app = kar_tests::binaries::test_app();
        let file = format!(
            "app: shop\ndata-dir: data\ncomponents:\n  carts:\n    actors: [Echo]\n    command: [{0}, \
             echo]\n    replicas: 2\n  money:\n    actors: [Account]\n    command: {0} accounts\n",
            app.display()
        );
        fs::write(world.path().join("app.yaml"), file).expect("written");
        let mut up = world.spawn_kar("up", &["up", "app.yaml"]);
        wait::until_true("three nodes", READY_LIMIT, async || {
            let nodes = world.kar_here("get nodes", &["-o", "json"]).await;
            let text = nodes.stdout;
            text.matches("Echo").count() >= 2 && text.contains("Account")
        })
        .await;
        let counted = world.kar_here("call", &["--actor", "Echo", "x", "count"]).await;
        assert_eq!(counted.stdout.trim(), "1", "{counted:?}");
        // All but the hub, which stays for a while in case somebody needs it.
        let hub = world.hub().await;
        let all: Vec<u32> =
            process::descendants(up.pid()).into_iter().filter(|pid| *pid != hub).collect();
        assert!(all.len() >= 3, "{all:?}");
        up.signal(Signal::INT);
        up.ended(READY_LIMIT).await;
        for pid in all {
            process::gone(pid, Duration::from_secs(5)).await;
        }
    });
}

#[test]
fn completions_are_printed_for_every_shell() {
    test(async {
        let world = World::new("shells");
        // What tells each shell whose words these are.
        for (shell, header) in [
            ("bash", "complete -F _kar "),
            ("elvish", "set edit:completion:arg-completer[kar] = "),
            ("fish", "complete -c kar "),
            ("powershell", "Register-ArgumentCompleter -Native -CommandName 'kar'"),
            ("zsh", "#compdef kar"),
        ] {
            let output = world.kar(&["completions", shell]).await;
            assert_eq!(output.code, 0, "{shell}: {output:?}");
            for wanted in [header, "dead-letters", "idempotency-key"] {
                assert!(output.stdout.contains(wanted), "{shell} lacks {wanted}");
            }
        }
        let unknown = world.kar(&["completions", "tcsh"]).await;
        assert_eq!(unknown.code, 2, "{unknown:?}");
    });
}

#[test]
fn bash_completes_what_is_begun() {
    test(async {
        let world = World::new("bash");
        let script = world.kar(&["completions", "bash"]).await;
        fs::write(world.path().join("kar.bash"), &script.stdout).expect("written");
        for (words, expected) in [
            (&["get", "no"][..], "nodes"),
            (&["doc"], "doctor"),
            (&["subscription", "red"], "redrive"),
            (&["call", "--idem"], "--idempotency-key"),
        ] {
            // As bash itself calls the function when somebody presses the tabulator key.
            let (line, place) = (words.join(" "), words.len());
            let (begun, before) = (words[place - 1], [&["kar"][..], words].concat()[place - 1]);
            let source = format!(
                "source ./kar.bash; COMP_WORDS=(kar {line}); COMP_CWORD={place}; \
                 _kar kar '{begun}' '{before}'; echo \"${{COMPREPLY[*]}}\""
            );
            let mut bash = Command::new("bash");
            bash.args(["--norc", "-c", &source]).current_dir(world.path());
            let output = capture(bash).await;
            // Aliases may come behind it.
            let first = output.stdout.split_whitespace().next();
            assert_eq!((output.code, first), (0, Some(expected)), "{line}: {output:?}");
        }
    });
}
