//! Components that misbehave: each gets a typed error, or its stream is ended with a reason, and everybody else goes
//! on. The cases stand in `sdk-clients/conformance/nonsense.txt`.

use std::time::Duration;

use kar_proto::v1::GetInfoRequest;
use kar_tests::world::{READY_LIMIT, capture};
use kar_tests::{Client, Node, NodeOptions, World, test, wait};
use serde_json::json;

use crate::language::{Transport, built, component};
use crate::rust;

/// The sidecar's patience with streams that do not say hello, ms.
const HELLO_TIMEOUT_MS: &str = "700";

/// How long one case may take.
const CASE_LIMIT: Duration = Duration::from_secs(30);

const TOKEN: &str = "secret";

/// A case, and what is seen of it.
struct Case {
    name: String,
    seen: String,
}

/// Who misbehaves.
#[derive(Debug)]
pub(crate) enum Culprit {
    /// A program; the case's name comes after these words.
    Program(Vec<String>),
    /// This process.
    InProcess,
}

fn cases() -> Vec<Case> {
    let path = built("conformance/nonsense.txt", "git");
    let text = std::fs::read_to_string(path).expect("the table is text");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let case = |line: &str| {
        let (name, seen) = line.split_once(' ').expect("a case has two columns");
        Case { name: name.to_owned(), seen: seen.trim().to_owned() }
    };
    lines.map(case).collect()
}

/// Runs every case, on a sidecar beside one whose host behaves.
pub(crate) fn every_case(language: &str, culprit: Culprit) {
    test(async {
        let world = World::new("nonsense");
        world.add_run_args(&["--api-token", TOKEN, "--hello-timeout-ms", HELLO_TIMEOUT_MS]);
        // One node that behaves, and one for those that do not: a sidecar has one host stream.
        let good = world.spawn(&world.app_options("good", &["echo"]));
        let bad = world.spawn(&NodeOptions { name: "bad".into(), ..NodeOptions::default() });
        good.listens().await;
        bad.listens().await;
        let client = bad.client().await.with_token(TOKEN);
        let good_client = good.client().await.with_token(TOKEN);
        let mut findings = Vec::new();
        let cases = cases();
        assert!(cases.len() > 10, "the table has lost its cases");
        for case in cases {
            let seen = tokio::time::timeout(CASE_LIMIT, run(&case.name, &culprit, &bad, &client));
            let seen = seen.await.unwrap_or_else(|_| format!("nothing within {CASE_LIMIT:?}"));
            if seen != case.seen {
                findings.push(format!("{}: expected {}, got {seen}", case.name, case.seen));
            }
            for client in [&client, &good_client] {
                let answer = client.invoke("echo", "echo", &json!(case.name)).await;
                assert_eq!(answer.expect("answered"), Ok(json!(case.name)), "after {}", case.name);
            }
            gone(&client).await;
        }
        assert!(findings.is_empty(), "{language}: {}", findings.join("\n"));
    });
}

/// What is seen of a case.
async fn run(case: &str, culprit: &Culprit, bad: &Node, client: &Client) -> String {
    let misbehaving = async {
        match culprit {
            Culprit::InProcess => rust::misbehave(case, client).await,
            Culprit::Program(words) => {
                let words = words.iter().cloned().chain([case.to_owned()]).collect();
                let mut command = component(words, bad, Transport::Unix).await;
                command.env("KAR_API_TOKEN", TOKEN);
                let output = capture(command).await;
                if output.code == 0 {
                    output.stdout.trim().to_owned()
                } else {
                    format!("{output:?}")
                }
            }
        }
    };
    let called = async {
        if ["second-result", "ended-turn"].contains(&case) {
            // They misbehave in a turn, so they are given one. Its first result counts.
            let answer = client.invoke("nonsense", "m", &json!(null)).await;
            assert_eq!(answer.expect("answered"), Ok(json!(1)), "{case}");
        }
    };
    tokio::join!(misbehaving, called).0
}

/// Waits until nobody hosts there, so that the next one may.
async fn gone(client: &Client) {
    wait::until_true("the stream to be gone", READY_LIMIT, async || {
        let info = client.system().get_info(GetInfoRequest {}).await;
        let node = info.expect("answered").into_inner().node.unwrap_or_default();
        !node.services.contains(&"nonsense".to_owned())
    })
    .await;
}
