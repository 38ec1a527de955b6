//! Events: what one language publishes every other one follows, and each goes on where it was.

use std::process::Command;
use std::time::Duration;

use kar_tests::python::{Install, sample};
use kar_tests::world::{Output, capture};
use kar_tests::{Node, World, test};
use serde_json::json;

use crate::language::{TRANSPORTS, Transport, component};
use crate::{java, js};

/// How long one program may take on a machine that does much else.
const PROGRAM_LIMIT: Duration = Duration::from_secs(60);

/// What a program publishes.
const NUMBERS: [i64; 4] = [1, -2, 3, 9_007_199_254_740_991];

/// The sample `events` of each language that has one; the Rust SDK's consumers are in the end-to-end tests.
fn programs() -> [(&'static str, Vec<String>); 3] {
    [
        ("python", sample(Install::Wheel, "events/events.py")),
        ("js", js::program("samples/events/events.js")),
        ("java", java::program("events")),
    ]
}

async fn run(program: &[String], words: &[&str], node: &Node, transport: Transport) -> Output {
    let mut command: Command = component(program.to_vec(), node, transport).await;
    command.args(words);
    let output = tokio::time::timeout(PROGRAM_LIMIT, capture(command)).await;
    output.unwrap_or_else(|_| panic!("{program:?} {words:?} takes too long"))
}

#[test]
fn every_language_follows_what_every_language_has_published() {
    test(async {
        let world = World::new("languages");
        let (a, b) = (world.bare("a").await, world.bare("b").await);
        let client = a.client().await;
        client.create_topic("numbers", 4).await.expect("created");
        let numbers = NUMBERS.map(|number| number.to_string());
        let mut published = Vec::new();
        for ((name, program), transport) in programs().into_iter().zip(TRANSPORTS.iter().cycle()) {
            let words: Vec<&str> = ["publish", "numbers", "k"]
                .into_iter()
                .chain(numbers.iter().map(|n| &**n))
                .collect();
            let output = run(&program, &words, &a, *transport).await;
            assert_eq!(output.code, 0, "{name}: {output:?}");
            let positions = output.stdout.lines().map(str::to_owned);
            let told: Vec<_> = positions.zip(NUMBERS).collect();
            assert_eq!(told.len(), NUMBERS.len(), "{name}: {output:?}");
            published.extend(told);
        }
        // It is no number by its type, so nobody wants it.
        let other = kar_tests::events::publication("numbers", "k", &json!("x"));
        client.publish(other).await.expect("durable");
        let lines: Vec<_> =
            published.iter().map(|(position, number)| format!("{position} {number}")).collect();
        for ((name, program), transport) in programs().into_iter().zip(TRANSPORTS.iter().cycle()) {
            // In two goes: the second one gets what the first one has not acknowledged.
            let (first, second) = lines.split_at(5);
            for lines in [first, second] {
                let count = lines.len().to_string();
                let output =
                    run(&program, &["follow", "numbers", name, &count], &b, *transport).await;
                assert_eq!(output.code, 0, "{name}: {output:?}");
                assert_eq!(output.stdout.lines().collect::<Vec<_>>(), lines, "{name}");
            }
        }
        let topic = client.topic("numbers").await.expect("it is there");
        let mut lags: Vec<_> = topic.consumers.into_iter().map(|c| (c.name, c.lag)).collect();
        lags.sort_unstable();
        // The last event is passed over, maybe not yet durably.
        assert!(lags.iter().all(|(_, lag)| *lag <= 1), "{lags:?}");
        assert_eq!(
            lags.into_iter().map(|(name, _)| name).collect::<Vec<_>>(),
            ["java", "js", "python"]
        );
    });
}

#[test]
fn a_topic_that_is_not_there_is_told_with_its_reason() {
    test(async {
        let world = World::new("nowhere");
        let node = world.bare("a").await;
        for (name, program) in programs() {
            for words in [["publish", "nowhere", "k", "1"], ["follow", "nowhere", "c", "1"]] {
                let output = run(&program, &words, &node, Transport::Unix).await;
                assert_eq!(output.code, 1, "{name}: {output:?}");
                assert!(output.stderr.contains("UNKNOWN_TOPIC"), "{name}: {output:?}");
            }
        }
    });
}
