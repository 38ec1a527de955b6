//! `kar subscribe` and `kar publish` as people use them: followed until Ctrl-C, read by something that has enough,
//! killed, and with everything that events and filters can say.

use std::process::Stdio;

use kar_tests::component::{Component, hello};
use kar_tests::events::publication;
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, World, binaries, process, test, wait};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// `kar subscribe` with these words.
fn words(world: &World, words: &[&str]) -> Vec<String> {
    let data_dir = world.data_dir();
    let data_dir = data_dir.to_str().expect("the path is UTF-8");
    let all = ["subscribe", "--app", &world.app, "--data-dir", data_dir, "-o", "json"];
    all.iter().chain(words).map(|word| (*word).to_owned()).collect()
}

/// The same in the background, in a log of this name.
fn follow(world: &World, log: &str, more: &[&str]) -> Node {
    let words = words(world, more);
    world.spawn_kar(log, &words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Waits until so many events are in the log; their data.
async fn printed(world: &World, log: &str, count: usize) -> Vec<Value> {
    wait::until("so many events to be printed", READY_LIMIT, async || {
        let logs = world.logs();
        let lines = logs.get(&format!("{log}.1.log"))?.lines().filter(|line| line.starts_with('{'));
        let events: Option<Vec<Value>> =
            lines.map(|line| serde_json::from_str(line).ok()).collect();
        let data: Vec<_> = events?.into_iter().map(|event| event["data"].clone()).collect();
        (data.len() >= count).then_some(data)
    })
    .await
}

async fn publish(client: &Client, numbers: std::ops::RangeInclusive<i32>) {
    for n in numbers {
        client.publish(publication("orders", "", &json!(n))).await.expect("durable");
    }
}

async fn orders(world: &World) -> (Node, Client) {
    let node = world.bare("a").await;
    let client = node.client().await;
    client.create_topic("orders", 1).await.expect("created");
    (node, client)
}

#[test]
fn ctrl_c_ends_it_behind_what_was_printed() {
    test(async {
        let world = World::new("terminal");
        let (_node, client) = orders(&world).await;
        publish(&client, 1..=3).await;
        let mut plain = follow(&world, "plain", &["orders", "--from", "earliest"]);
        let mut named =
            follow(&world, "named", &["orders", "--from", "earliest", "--consumer", "me"]);
        for log in ["plain", "named"] {
            assert_eq!(printed(&world, log, 3).await, [json!(1), json!(2), json!(3)]);
        }
        publish(&client, 4..=4).await;
        for log in ["plain", "named"] {
            assert_eq!(printed(&world, log, 4).await[3], json!(4), "it goes on");
        }
        for follower in [&mut plain, &mut named] {
            follower.signal(Signal::INT);
            assert_eq!(follower.ended(READY_LIMIT).await, 130);
        }
        let logs = world.logs();
        assert!(logs["plain.1.log"].ends_with("kar: interrupted\n"), "{}", logs["plain.1.log"]);
        let said = "interrupted; 'me' goes on behind what was printed";
        assert!(logs["named.1.log"].contains(said), "{}", logs["named.1.log"]);
        assert_eq!(client.topic("orders").await.expect("it is there").consumers[0].lag, 0);
        publish(&client, 5..=5).await;
        let next =
            world.kar_here("subscribe", &["orders", "--consumer", "me", "--limit", "1"]).await;
        assert!(next.stdout.starts_with("0/5  "), "{next:?}");
    });
}

#[test]
fn one_that_is_killed_loses_nothing() {
    test(async {
        let world = World::new("killed");
        let (_node, client) = orders(&world).await;
        publish(&client, 1..=3).await;
        let words = ["orders", "--from", "earliest", "--consumer", "me"];
        let mut first = follow(&world, "first", &words);
        printed(&world, "first", 3).await;
        process::kill(first.pid());
        first.ended(READY_LIMIT).await;
        publish(&client, 4..=6).await;
        let mut second = follow(&world, "second", &words);
        let last = wait::until("the last event to be printed", READY_LIMIT, async || {
            let data = printed(&world, "second", 3).await;
            (data.last() == Some(&json!(6))).then_some(data)
        })
        .await;
        // What had not been acknowledged durably by then comes again, in order.
        let from = last[0].as_i64().expect("a number");
        assert!((1..=4).contains(&from), "{last:?}");
        assert_eq!(last, (from..=6).map(|n| json!(n)).collect::<Vec<_>>());
        second.signal(Signal::INT);
        assert_eq!(second.ended(READY_LIMIT).await, 130);
    });
}

/// As in `kar subscribe … | head -1`: what nobody reads any more is neither printed nor acknowledged.
#[test]
fn it_ends_when_its_reader_has_enough() {
    test(async {
        let world = World::new("piped");
        let (_node, client) = orders(&world).await;
        publish(&client, 1..=1).await;
        let mut command = tokio::process::Command::new(binaries::kar());
        command.args(words(&world, &["orders", "--from", "earliest", "--consumer", "me"]));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut follower = command.spawn().expect("kar can be started");
        let mut lines = BufReader::new(follower.stdout.take().expect("it is piped")).lines();
        let line = lines.next_line().await.expect("read").expect("a line");
        assert_eq!(serde_json::from_str::<Value>(&line).expect("JSON")["data"], json!(1));
        drop(lines);
        publish(&client, 2..=2).await;
        let ended = tokio::time::timeout(READY_LIMIT, follower.wait()).await.expect("it ends");
        assert!(ended.expect("it can be waited for").success());
        let next =
            world.kar_here("subscribe", &["orders", "--consumer", "me", "--limit", "1"]).await;
        assert!(next.stdout.starts_with("0/2  "), "{next:?}");
    });
}

#[test]
fn filters_are_written_as_they_are_listed() {
    test(async {
        let world = World::new("filters");
        let (_node, client) = orders(&world).await;
        for (n, kind) in [("1", "order.created"), ("2", "order.deleted"), ("3", "item.created")] {
            let published = world.kar_here("publish", &["orders", n, "--type", kind]).await;
            assert_eq!(published.code, 0, "{published:?}");
        }
        let any =
            r#"{"any":[{"exact":{"type":"order.deleted"}},{"not":{"prefix":{"type":"order."}}}]}"#;
        let both = r#"{"all":[{"prefix":{"type":"order."}},{"suffix":{"type":".created"}}]}"#;
        let negated = r#"{"not":{"exact":{"type":"order.created"}}}"#;
        for (filter, positions) in [
            (&["--filter", any][..], "23"),
            (&["--filter", both], "1"),
            (&["--prefix", "type=order.", "--filter", negated], "2"),
        ] {
            let limit = positions.len().to_string();
            let words = ["orders", "--from", "earliest", "--limit", &limit];
            let got = world.kar_here("subscribe", &[&words[..], filter].concat()).await;
            let told: String = got.stdout.lines().flat_map(|line| line.chars().nth(2)).collect();
            assert_eq!((got.code, &*told), (0, positions), "{filter:?}: {got:?}");
        }
        let _host = Component::connect(&client, hello(&["audit"], &[])).await.expect("welcome");
        let words =
            ["audit", "orders", "--service", "audit", "--method", "record", "--filter", any];
        let created = world.kar_here("subscription create", &words).await;
        assert_eq!(created.stdout.trim(), "created", "{created:?}");
        let listed = world.kar_here("get subscriptions", &["-o", "json"]).await;
        let rows: Value = serde_json::from_str(&listed.stdout).expect("JSON");
        assert_eq!(rows[0]["filter"].to_string(), any, "{listed:?}");
        for (wrong, said) in [
            ("type=x", "not JSON"),
            (r#"{"exact":{}}"#, "filter"),
            (r#"{"sql":"a"}"#, "exact, prefix, suffix, all, any, not"),
        ] {
            let refused = world.kar_here("subscribe", &["orders", "--filter", wrong]).await;
            assert_eq!(refused.code, 2, "{refused:?}");
            assert!(refused.stderr.contains(said), "{said}: {refused:?}");
        }
        // The same settings again are the same, others are not.
        let again = world.kar_here("subscription create", &words).await;
        assert_eq!((again.code, again.stdout.trim()), (0, "it was there, with the same settings"));
        let other = [&words[..6], &["--filter", both]].concat();
        let other = world.kar_here("subscription create", &other).await;
        assert_eq!(other.code, 8, "{other:?}");
        assert!(other.stderr.contains("filter"), "it says what is another one: {other:?}");
    });
}

#[test]
fn every_attribute_of_an_event_can_be_said() {
    test(async {
        let world = World::new("attributes");
        let (_node, _client) = orders(&world).await;
        let said = json!({
            "id": "e1", "source": "/me", "type": "t", "subject": "s", "dataschema": "https://kar.dev/s",
            "time": "2030-01-31T09:30:00Z", "country": "ch", "partitionkey": "k",
        });
        let text = |name: &str| said[name].as_str().expect("a text");
        let words = [
            "orders",
            r#"{"a":1}"#,
            "--id",
            text("id"),
            "--source",
            text("source"),
            "--type",
            text("type"),
            "--subject",
            text("subject"),
            "--data-schema",
            text("dataschema"),
            "--time",
            text("time"),
            "--attribute",
            "country=ch",
            "--key",
            "k",
            "-o",
            "json",
        ];
        let published = world.kar_here("publish", &words).await;
        let told: Value = serde_json::from_str(&published.stdout).expect("JSON");
        let wanted = json!({ "id": "e1", "position": "0/1", "repeated_request": false });
        assert_eq!(told, wanted, "{published:?}");
        let words = ["orders", "--from", "earliest", "--limit", "1", "-o", "json"];
        let got = world.kar_here("subscribe", &words).await;
        let event: Value = serde_json::from_str(&got.stdout).expect("JSON");
        for (name, value) in said.as_object().expect("an object") {
            assert_eq!(&event[name], value, "{event}");
        }
        assert_eq!((&event["specversion"], &event["data"]), (&json!("1.0"), &json!({ "a": 1 })));
        let words = ["orders", "1", "--time", "soon"];
        let wrong = world.kar_here("publish", &words).await;
        assert_eq!(wrong.code, 2, "{wrong:?}");
        assert!(wrong.stderr.contains("2030-01-31T09:30:00Z"), "{wrong:?}");
    });
}
