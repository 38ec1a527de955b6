//! Flows that wait for each other in a circle: one call ends, with the actors' names, and everybody else goes on.

use std::time::{Duration, Instant};

use kar_tests::component::{Component, Turn, hello};
use kar_tests::errors::{assert_error, metadata};
use kar_tests::{Client, World, test, wait};
use serde_json::json;
use tonic::{Code, Status};

/// Two looks for a circle, 0.2 s each; the rest is for a machine that does much else.
const FOUND_WITHIN: Duration = Duration::from_secs(5);

async fn host(client: &Client, kind: &str) -> Component {
    Component::connect(client, hello(&[], &[kind])).await.expect("welcome")
}

/// A turn that calls an actor and tells what came of it.
async fn crossing(turn: &Turn, kind: &str) -> Result<serde_json::Value, Status> {
    turn.call((kind, "1"), "inner", &json!(null)).await.map(|outcome| outcome.expect("no error"))
}

#[test]
fn two_nodes_actors_that_call_each_other_do_not_wait_for_ever() {
    test(async {
        let world = World::new("circle");
        world.add_run_args(&["--deadlock-probe-ms", "200"]);
        let (left, right) = (world.bare("left").await, world.bare("right").await);
        let (left, right) = (left.client().await, right.client().await);
        let (mut a, mut b) = (host(&left, "A").await, host(&right, "B").await);
        let root = |client: &Client, kind: &'static str| {
            let client = client.clone();
            tokio::spawn(async move { client.call((kind, "1"), "outer", &json!(null)).await })
        };
        let calls = [root(&left, "A"), root(&right, "B")];
        let (outer_a, outer_b) = (a.next_turn().await, b.next_turn().await);
        let begun = Instant::now();
        let both = tokio::time::timeout(FOUND_WITHIN, async {
            // Whichever ends as deadlocked lets its caller end, and that the other one in.
            let on_a = async {
                let outcome = crossing(&outer_a, "B").await;
                outer_a.finish(&json!("a")).await;
                outcome
            };
            let on_b = async {
                let outcome = crossing(&outer_b, "A").await;
                outer_b.finish(&json!("b")).await;
                outcome
            };
            let inner = async {
                tokio::select! {
                    turn = a.next_turn() => turn.finish(&json!("inner")).await,
                    turn = b.next_turn() => turn.finish(&json!("inner")).await,
                }
            };
            tokio::join!(on_a, on_b, inner)
        });
        let (on_a, on_b, ()) = both.await.expect("the circle is broken");
        println!("the circle was broken within {:?}", begun.elapsed());
        let (deadlocked, other) = if on_a.is_err() { (on_a, on_b) } else { (on_b, on_a) };
        assert_eq!(other.expect("it was let in"), json!("inner"));
        let error = deadlocked.expect_err("one of them ends");
        let cycle = metadata(&error, "cycle");
        assert!(cycle == "A/1 -> B/1 -> A/1" || cycle == "B/1 -> A/1 -> B/1", "{cycle}");
        assert_error(Err::<(), _>(error), Code::Aborted, "DEADLOCK");
        for call in calls {
            call.await.expect("no panic").expect("answered").expect("no error");
        }
        let figures = [left.figure("deadlocks").await, right.figure("deadlocks").await];
        let ended: i64 = figures.into_iter().map(|f| f.expect("answered").unwrap_or(0)).sum();
        assert_eq!(ended, 1);
        wait::until_true("nothing to be left", FOUND_WITHIN, async || {
            left.figure("unfinished_now").await.expect("answered") == Some(0)
        })
        .await;
    });
}
