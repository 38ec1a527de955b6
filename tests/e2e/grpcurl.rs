//! What people do by hand: grpcurl with nothing but server reflection.

use std::path::PathBuf;
use std::process::Command;

use kar_tests::component::{Component, hello};
use kar_tests::world::{Output, capture};
use kar_tests::{Node, World, binaries, test};
use serde_json::{Value, json};

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
