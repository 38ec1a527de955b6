//! Components that misbehave: each gets a typed error, or its stream is ended with a reason, and everybody else goes
//! on. The cases stand in `sdk-clients/conformance/nonsense.txt`.

use std::time::Duration;

use kar_tests::world::{Output, READY_LIMIT, capture};
use kar_tests::{Client, Node, World, test, wait};
use serde_json::json;

use crate::language::{Transport, built, component};

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

/// Runs every case with this program, on a sidecar whose own host behaves.
pub(crate) fn every_case(language: &str, program: &[String], transport: Transport) {
    test(async {
        let world = World::new("nonsense");
        world.add_run_args(&["--api-token", TOKEN, "--hello-timeout-ms", HELLO_TIMEOUT_MS]);
        // One node that behaves, and one for those that do not: a sidecar has one host stream.
        let good = world.spawn(&world.app_options("good", &["echo"]));
        let bad = world.spawn(&kar_tests::NodeOptions {
            name: "bad".into(),
            ..kar_tests::NodeOptions::default()
        });
        good.listens().await;
        bad.listens().await;
        let client = bad.client().await.with_token(TOKEN);
        let good_client = good.client().await.with_token(TOKEN);
        let mut findings = Vec::new();
        let cases = cases();
        assert!(cases.len() > 10, "the table has lost its cases");
        for case in cases {
            let output = run(&case, program, &bad, transport, &client).await;
            if output.code != 0 || output.stdout.trim() != case.seen {
                findings.push(format!("{}: expected {}, got {output:?}", case.name, case.seen));
            }
            for client in [&client, &good_client] {
                let answer = client.invoke("echo", "echo", &json!(case.name)).await;
                assert_eq!(answer.expect("answered"), Ok(json!(case.name)), "after {}", case.name);
            }
        }
        assert!(findings.is_empty(), "{language}: {}", findings.join("\n"));
    });
}

async fn run(
    case: &Case,
    program: &[String],
    bad: &Node,
    transport: Transport,
    client: &Client,
) -> Output {
    let mut words = program.to_vec();
    words.push(case.name.clone());
    let mut command = component(words, bad, transport).await;
    command.env("KAR_API_TOKEN", TOKEN);
    let finished = capture(command);
    let calls = async {
        if !["second-result", "ended-turn"].contains(&case.name.as_str()) {
            return;
        }
        // They misbehave in a turn, so they are given one. Its first result counts.
        let answer = client.invoke("nonsense", "m", &json!(null)).await;
        assert_eq!(answer.expect("answered"), Ok(json!(1)), "{}", case.name);
    };
    let both = async { tokio::join!(finished, calls).0 };
    let output = tokio::time::timeout(CASE_LIMIT, both).await;
    let output =
        output.unwrap_or_else(|_| panic!("{} takes longer than {CASE_LIMIT:?}", case.name));
    // The next one may host here too.
    wait::until_true("the stream to be gone", READY_LIMIT, async || {
        let info = client.system().get_info(kar_proto::v1::GetInfoRequest {}).await;
        let node = info.expect("answered").into_inner().node.unwrap_or_default();
        !node.services.contains(&"nonsense".to_owned())
    })
    .await;
    output
}
