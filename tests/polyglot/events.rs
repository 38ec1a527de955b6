//! Events: what one language publishes every other one follows, and each goes on where it was; and hosts in each are
//! told of it, once, though they are killed.

use std::process::Command;
use std::time::Duration;

use kar_proto::v1::{Event, ListDeadLettersRequest, PublishRequest, target};
use kar_tests::events::publication;
use kar_tests::fire::nothing_left;
use kar_tests::python::{Install, sample};
use kar_tests::world::{Output, READY_LIMIT, capture};
use kar_tests::{Client, Node, NodeOptions, World, process, test, test_within, wait};
use rustix::process::Signal;
use serde_json::json;

use crate::language::{TRANSPORTS, Transport, component, words};
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
        let other = publication("numbers", "k", &json!("x"));
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

/// Numbers that a host is told of, and how often it is killed meanwhile.
const TOLD: i64 = 120;
const KILLS: i64 = 4;

/// Whom they are for.
const KEYS: [&str; 3] = ["alice", "bob", "carol"];

/// The whole test: a JVM takes a second to start where two cores do much else.
const TOLD_LIMIT: Duration = Duration::from_secs(240);

#[test]
fn a_host_in_python_is_told_of_every_event_once() {
    told(sample(Install::Wheel, "events/sums.py"));
}

#[test]
fn a_host_in_js_is_told_of_every_event_once() {
    told(js::program("samples/events/sums.js"));
}

#[test]
fn a_host_in_java_is_told_of_every_event_once() {
    told(java::program("sums"));
}

/// A number that the sample wants.
async fn publish(client: &Client, key: &str, data: &serde_json::Value) {
    let mut request: PublishRequest = publication("numbers", key, data);
    request.event.get_or_insert_with(Event::default).r#type = "number".into();
    client.publish(request).await.expect("durable");
}

fn told(mut program: Vec<String>) {
    program.push("numbers".into());
    test_within(TOLD_LIMIT, async {
        let world = World::new("told");
        let front = world.bare("front").await;
        let client = front.client().await;
        client.create_topic("numbers", 4).await.expect("created");
        // One from before there was a subscription.
        publish(&client, KEYS[0], &json!(1_000)).await;
        let options = NodeOptions {
            name: "host".into(),
            command: program,
            args: words(&["--restart", "--actors", "Sum"]),
            ..NodeOptions::default()
        };
        let mut host = world.start(options).await;
        host.hosts("Sum").await;
        for (name, program) in programs() {
            let words = ["publish", "numbers", KEYS[0], "1", "2", "3"];
            let output = run(&program, &words, &front, Transport::Unix).await;
            assert_eq!(output.code, 0, "{name}: {output:?}");
        }
        for n in 0..TOLD {
            publish(&client, KEYS[usize::try_from(n % 3).expect("an index")], &json!(n)).await;
            if n % (TOLD / KILLS) == TOLD / KILLS / 2 {
                let component = host.component_pid().await;
                process::kill(component);
                process::gone(component, READY_LIMIT).await;
                host.hosts("Sum").await;
            }
        }
        publish(&client, "mallory", &json!("x")).await;
        wait::until_true("everything to be delivered", PROGRAM_LIMIT, async || {
            let all = client.subscriptions().await.expect("listed");
            matches!(&all[..], [info] if info.lag == 0)
        })
        .await;
        nothing_left(&world).await;
        for (first, key) in (0_i64..).zip(KEYS) {
            let numbers = (first..TOLD).step_by(3).sum::<i64>();
            // Each language has published its three.
            let more = if first == 0 { 1_000 + 6 * 3 } else { 0 };
            let total = client.call(("Sum", key), "total", &json!(null)).await;
            assert_eq!(total.expect("answered"), Ok(json!(numbers + more)), "{key}");
        }
        // What its method refuses is a dead letter, as other tells are.
        let listed = client.invocation().list_dead_letters(ListDeadLettersRequest::default()).await;
        let letters = listed.expect("listed").into_inner().dead_letters;
        let [letter] = &letters[..] else { panic!("one of them is no number: {letters:?}") };
        let whose = letter.target.as_ref().and_then(|target| target.kind.as_ref());
        assert!(matches!(whose, Some(target::Kind::Actor(a)) if a.id == "mallory"), "{letter:?}");
        assert_ne!(letter.error.as_ref().expect("told").code, "", "{letter:?}");
        host.signal(Signal::TERM);
        assert_eq!(host.ended(READY_LIMIT).await, 0, "it leaves in order");
    });
}

/// A topic that is not there ends the program with the reason.
#[test]
fn a_host_without_its_topic_says_so() {
    test(async {
        let world = World::new("topicless");
        let node = world.bare("node").await;
        for (name, program) in [
            ("python", sample(Install::Wheel, "events/sums.py")),
            ("js", js::program("samples/events/sums.js")),
            ("java", java::program("sums")),
        ] {
            let output = run(&program, &["nowhere"], &node, Transport::Unix).await;
            assert_eq!(output.code, 1, "{name}: {output:?}");
            assert!(output.stderr.contains("UNKNOWN_TOPIC"), "{name}: {output:?}");
        }
    });
}
