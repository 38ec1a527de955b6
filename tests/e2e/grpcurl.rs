//! What people do by hand: grpcurl with nothing but server reflection.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kar_tests::component::{Component, hello};
use kar_tests::world::{Output, READY_LIMIT, capture};
use kar_tests::{Node, NodeOptions, World, binaries, process, test};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// Visibly skipped where grpcurl is not installed; `cargo xtask test` installs it if Go is there.
fn grpcurl() -> Option<PathBuf> {
    let found = binaries::grpcurl();
    if found.is_none() {
        kar_tests::skip("grpcurl is not installed; see `cargo xtask test`");
    }
    found
}

/// Both ways to reach a sidecar.
async fn ways(node: &Node) -> [Vec<String>; 2] {
    let socket = node.socket.to_string_lossy().into_owned();
    [vec!["-unix".into(), socket], vec![format!("127.0.0.1:{}", node.port().await)]]
}

async fn curl(program: &PathBuf, options: &[&str], way: &[String], words: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.arg("-plaintext").args(["-max-time", "20"]).args(options).args(way).args(words);
    capture(command).await
}

#[test]
fn services_are_listed_and_called_by_reflection_only() {
    test(async {
        let Some(program) = grpcurl() else { return };
        let world = World::new("curl");
        let node = world.app("host", &["echo"]).await;
        node.hosts("echo").await;
        for way in ways(&node).await {
            let listed = curl(&program, &[], &way, &["list"]).await;
            assert_eq!(listed.code, 0, "{listed:?}");
            for service in ["kar.v1.InvocationService", "grpc.health.v1.Health"] {
                assert!(listed.stdout.lines().any(|line| line == service), "{listed:?}");
            }
            let described = curl(&program, &[], &way, &["describe", "kar.v1.InvokeRequest"]).await;
            assert!(described.stdout.contains("string service = 1"), "{described:?}");
            let request = r#"{"service":"echo","method":"echo","payload":{"json":{"name":"Alan","n":[1,null]}}}"#;
            let words = ["kar.v1.InvocationService/Invoke"];
            let answer = curl(&program, &["-d", request], &way, &words).await;
            assert_eq!(answer.code, 0, "{answer:?}");
            let answer: Value = serde_json::from_str(&answer.stdout).expect("JSON");
            assert_eq!(answer["payload"]["json"], json!({"name": "Alan", "n": [1, null]}));
            let health = curl(&program, &[], &way, &["grpc.health.v1.Health/Check"]).await;
            assert!(health.stdout.contains("SERVING"), "{health:?}");
        }
    });
}

#[test]
fn actors_tells_and_state_work_by_hand() {
    test(async {
        let Some(program) = grpcurl() else { return };
        let world = World::new("hand");
        let node = world.app("host", &["echo"]).await;
        node.hosts("Echo").await;
        for (way, expected) in ways(&node).await.iter().zip([1, 2]) {
            let request = r#"{"actor":{"type":"Echo","id":"a"},"method":"count"}"#;
            let words = ["kar.v1.InvocationService/CallActor"];
            let answer = curl(&program, &["-d", request], way, &words).await;
            assert_eq!(answer.code, 0, "{answer:?}");
            let answer: Value = serde_json::from_str(&answer.stdout).expect("JSON");
            let payload = &answer["payload"];
            // `null` was not said, so the answer may come as bytes: base64 of JSON.
            let expected_bytes = if expected == 1 { "MQ==" } else { "Mg==" };
            let right = payload["json"] == json!(expected) || payload["data"] == expected_bytes;
            assert!(right, "{answer}");
        }
        let way = &ways(&node).await[0];
        let request = r#"{"target":{"service":{"name":"echo"}},"method":"echo"}"#;
        let told = curl(&program, &["-d", request], way, &["kar.v1.InvocationService/Tell"]).await;
        assert!(told.stdout.contains("invocationId"), "{told:?}");
        let request = r#"{"key":"k","value":{"json":{"x":1}}}"#;
        let set = curl(&program, &["-d", request], way, &["kar.v1.StateService/Set"]).await;
        assert!(set.stdout.contains("etag"), "{set:?}");
    });
}

#[test]
fn errors_come_with_their_typed_detail() {
    test(async {
        let Some(program) = grpcurl() else { return };
        let world = World::new("details");
        let node = world.bare("node").await;
        let way = &ways(&node).await[0];
        let request = r#"{"service":"nobody","method":"m","options":{"startWithin":"0.2s"}}"#;
        let words = ["kar.v1.InvocationService/Invoke"];
        let answer = curl(&program, &["-d", request], way, &words).await;
        assert_ne!(answer.code, 0);
        for word in ["DeadlineExceeded", "EXPIRED", "google.rpc.ErrorInfo"] {
            assert!(answer.stderr.contains(word), "{word}: {answer:?}");
        }
    });
}

#[test]
fn topics_work_by_hand() {
    test(async {
        let Some(program) = grpcurl() else { return };
        let world = World::new("topics");
        let node = world.bare("node").await;
        let way = &ways(&node).await[0];
        let ask = async |method: &str, request: &str| {
            let method = format!("kar.v1.EventService/{method}");
            curl(&program, &["-d", request], way, &[&method]).await
        };
        let created = ask("CreateTopic", r#"{"topic":"t","partitions":1}"#).await;
        assert!(created.stdout.contains(r#""created": true"#), "{created:?}");
        for n in 0..2 {
            let request = format!(
                r#"{{"topic":"t","partitionKey":"k","requestId":"r{n}",
                    "event":{{"type":"order.created","data":{{"json":{{"id":{n}}}}}}}}}"#
            );
            let published = ask("Publish", &request).await;
            assert!(published.stdout.contains(&format!("0/{}", n + 1)), "{published:?}");
        }
        // It goes on until somebody ends it, here the time.
        let request =
            r#"{"topic":"t","json":true,"filter":{"prefix":{"attributes":{"type":"order."}}}}"#;
        let words = ["kar.v1.EventService/Consume"];
        let got = curl(&program, &["-max-time", "2", "-d", request], way, &words).await;
        for word in [r#""id": 0"#, r#""id": 1"#, r#""position": "0/2""#, r#""topicId""#] {
            assert!(got.stdout.contains(word), "{word}: {got:?}");
        }
        let host = Component::connect(&node.client().await, hello(&["audit"], &[])).await;
        let _host = host.expect("welcome");
        let request = r#"{"subscription":{"name":"s","topic":"t","method":"record",
            "start":{"latest":true},"target":{"service":{"name":"audit"}}}}"#;
        let subscribed = ask("Subscribe", request).await;
        assert!(subscribed.stdout.contains(r#""created": true"#), "{subscribed:?}");
        let paused = ask("PauseSubscription", r#"{"name":"s"}"#).await;
        assert!(paused.stdout.contains(r#""changed": true"#), "{paused:?}");
        let listed = ask("ListSubscriptions", "{}").await;
        for word in [r#""name": "s""#, r#""SUBSCRIPTION_STATE_PAUSED""#, r#""latest": true"#] {
            assert!(listed.stdout.contains(word), "{word}: {listed:?}");
        }
        let wrong = ask("Publish", r#"{"topic":"none"}"#).await;
        assert!(wrong.stderr.contains("UNKNOWN_TOPIC"), "{wrong:?}");
    });
}

/// The fenced blocks of a page that are for a shell.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in page.lines() {
        match (&mut block, line) {
            (None, "```sh") => block = Some(String::new()),
            (Some(_), "```") => blocks.extend(block.take()),
            (Some(text), line) => *text += &format!("{line}\n"),
            (None, _) => {}
        }
    }
    blocks
}

/// The commands of a block: lines that go on behind a backslash, or within quotes, are one.
fn commands(block: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in block.lines() {
        match commands.last_mut().filter(|_| goes_on) {
            Some(command) => *command += &format!("\n{line}"),
            None => commands.push(line.to_owned()),
        }
        let command = commands.last().expect("one was begun");
        goes_on = command.ends_with('\\') || command.matches('\'').count() % 2 == 1;
    }
    commands
}

/// A shell in the world's folder in which the programs are on the path, and `kar` finds its data directory as `.kar`.
fn shell(world: &World, grpcurl: &Path, script: &str) -> Command {
    let own = std::env::var("PATH").unwrap_or_default();
    let folders = [Some(binaries::folder()), grpcurl.parent()];
    let path: String = folders.iter().flatten().map(|f| format!("{}:", f.display())).collect();
    let mut command = Command::new("bash");
    command.args(["-c", script]).current_dir(world.path()).env("PATH", path + &own);
    for name in ["KAR_SOCKET", "KAR_GRPC_PORT", "KAR_APP", "KAR_API_TOKEN", "KAR_DATA_DIR"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Whoever copies a command from the page gets what it is there for.
#[test]
fn topics_and_subscriptions_work_as_the_page_has_them() {
    test(async {
        let Some(program) = grpcurl() else { return };
        let world = World::new("typed");
        let node = world.bare("node").await;
        let host = Component::connect(&node.client().await, hello(&[], &["Customer"])).await;
        let _host = host.expect("welcome");
        let typed = |command: &str| {
            let mut command = shell(&world, &program, command);
            command.env("KAR_SOCKET", &node.socket);
            command
        };
        let page = include_str!("../../docs/cli.md");
        let commands = blocks(page).iter().flat_map(|block| commands(block)).collect::<Vec<_>>();
        let mut tried = Vec::new();
        for command in commands.iter().filter(|command| command.starts_with("grpcurl ")) {
            let method = command.rsplit('/').next().expect("a method");
            tried.push(method);
            if method == "Consume" {
                // It goes on until Ctrl-C.
                let mut command = tokio::process::Command::from(typed(command));
                command.stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
                let mut consumer = command.spawn().expect("a shell can be started");
                let mut lines =
                    BufReader::new(consumer.stdout.take().expect("it is piped")).lines();
                let mut told = String::new();
                while !told.contains(r#""position""#) {
                    let line = tokio::time::timeout(READY_LIMIT, lines.next_line()).await;
                    told += &line.expect("it goes on").expect("read").expect("it does not end");
                }
                assert!(told.contains(r#""type": "order.created""#), "{told}");
                process::kill_group(consumer.id().expect("it goes on"));
                continue;
            }
            let output = capture(typed(command)).await;
            assert_eq!(output.code, 0, "{command}: {output:?}");
            let said = match method {
                "CreateTopic" | "Subscribe" => r#""created": true"#,
                "Publish" => r#""position""#,
                "PauseSubscription" => r#""changed": true"#,
                "ListSubscriptions" => r#""SUBSCRIPTION_STATE_PAUSED""#,
                other => panic!("say what {other} is to answer"),
            };
            assert!(output.stdout.contains(said), "{command}: {output:?}");
        }
        let wanted = [
            "CreateTopic",
            "Publish",
            "Consume",
            "Subscribe",
            "PauseSubscription",
            "ListSubscriptions",
        ];
        assert_eq!(tried, wanted);
    });
}

#[test]
fn the_tour_works_as_it_is_typed() {
    test(async {
        let Some(program) = grpcurl() else { return };
        let world = World::new("hello");
        let greeter = binaries::example("hello").to_string_lossy().into_owned();
        let options =
            NodeOptions { name: "host".into(), command: vec![greeter], ..NodeOptions::default() };
        let node = world.start(options).await;
        node.hosts("greeter").await;
        std::os::unix::fs::symlink(world.data_dir(), world.path().join(".kar")).expect("a link");
        let readme = blocks(include_str!("../../README.md"));
        let tour = readme.iter().find(|block| block.contains("grpcurl ")).expect("it is there");
        // One that nobody uses; freed for the sidecar.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let tour = tour.replace("7700", &port.port().to_string());
        // As a shell that somebody types into: jobs have numbers, and the next line comes a moment later.
        let moment = "&\nuntil grpcurl -plaintext -unix \"$KAR_SOCKET\" list >/dev/null 2>&1; do sleep 0.1; done\n";
        let script = format!("set -em\n{}", tour.replace("&\n", moment));
        let output = capture(shell(&world, &program, &script)).await;
        assert_eq!(output.code, 0, "{output:?}");
        assert!(output.stdout.contains("kar.v1.InvocationService.Invoke\n"), "{output:?}");
        assert_eq!(output.stdout.matches(r#""json": "Hello, Alan!""#).count(), 2, "{output:?}");
    });
}
