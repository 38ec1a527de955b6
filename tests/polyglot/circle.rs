//! Actors in four languages that wait for each other in a circle: the youngest of their calls is refused, by a typed
//! error that names them all, in whichever language its caller is written, and within a bound.

use std::fs;
use std::time::{Duration, Instant};

use kar_proto::v1::{InvocationInfo, InvocationState, ListInvocationsRequest};
use kar_tests::python::{Install, script};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, NodeOptions, World, binaries, test, wait};
use serde_json::{Value, json};

use crate::language::word;
use crate::{java, js};

/// Who waits for whom: each for the next one, and the last one for the first.
const KINDS: [&str; 4] = ["ChainRust", "ChainPython", "ChainJs", "ChainJava"];

/// A circle is looked for when a call has waited for `deadlock-probe-ms` (1 s), and believed when it is still there at
/// the next look; the rest is for a machine that does much else.
const FOUND_WITHIN: Duration = Duration::from_secs(2 + 3);

#[test]
fn a_circle_over_four_languages_is_broken_in_each_of_them() {
    test(async {
        let world = World::new("circle");
        let front = world.bare("front").await;
        let client = front.client().await;
        let programs = [
            vec![word(&binaries::test_app()), "chain".to_owned()],
            script(Install::Wheel, "conformance/chain.py"),
            js::program("conformance/chain.js"),
            java::program("chain"),
        ];
        let mut nodes = Vec::new();
        for (kind, command) in KINDS.into_iter().zip(programs) {
            let options = NodeOptions { name: kind.into(), command, ..NodeOptions::default() };
            let node = world.start(options).await;
            node.hosts(kind).await;
            nodes.push(node);
        }
        for youngest in 0..KINDS.len() {
            circle(&world, &client, youngest).await;
        }
        let mut found = 0;
        for node in nodes {
            let deadlocks = node.client().await.figure("deadlocks").await.expect("answered");
            found += deadlocks.unwrap_or(0);
        }
        assert_eq!(usize::try_from(found), Ok(KINDS.len()), "one call of each circle ended");
    });
}

/// Lets actors of all kinds wait for each other; this one begins to wait last.
async fn circle(world: &World, client: &Client, youngest: usize) {
    let id = format!("c{youngest}");
    let next = |at: usize| (at + 1) % KINDS.len();
    let gate = |at: usize| world.path().join(format!("gate-{youngest}-{at}"));
    let begin = |at: usize| {
        let argument = json!({ "gate": word(&gate(at)), "next": [KINDS[next(at)], id] });
        let (client, id) = (client.clone(), id.clone());
        tokio::spawn(async move { client.call((KINDS[at], &id), "hold", &argument).await })
    };
    let calls = [0, 1, 2, 3].map(begin);
    until(client, InvocationState::Running, KINDS.len()).await;
    let order = [1, 2, 3, 4].map(|after| (youngest + after) % KINDS.len());
    for (waiting, at) in order.into_iter().enumerate() {
        // What waits behind an actor of a later one is older than what that one asks for.
        until(client, InvocationState::Queued, waiting).await;
        fs::write(gate(at), "").expect("written");
    }
    let begun = Instant::now();
    let mut answers: Vec<Value> = Vec::new();
    for call in calls {
        let answer = tokio::time::timeout(FOUND_WITHIN, call).await.expect("the circle is broken");
        answers.push(answer.expect("no panic").expect("answered").expect("no error"));
    }
    let took = begun.elapsed();
    println!("the call of {} was refused, and all was over, after {took:?}", KINDS[youngest]);
    assert!(took < FOUND_WITHIN, "the circle was there for {took:?}");
    for (at, answer) in answers.into_iter().enumerate() {
        if at == youngest {
            assert_eq!(answer["reason"], json!("DEADLOCK"), "{answer}");
            let cycle = answer["cycle"].as_str().expect("text");
            assert!(rounds(&id).iter().any(|round| round == cycle), "{cycle}");
        } else {
            assert_eq!(answer, json!({ "reason": "", "cycle": "" }), "{}", KINDS[at]);
        }
    }
}

/// The circle in words, from whichever of them one begins.
fn rounds(id: &str) -> [String; KINDS.len()] {
    let kind = |at: usize| KINDS[at % KINDS.len()];
    [0, 1, 2, 3].map(|first| {
        let round = (first..=first + KINDS.len()).map(|at| format!("{}/{id}", kind(at)));
        round.collect::<Vec<_>>().join(" -> ")
    })
}

/// Waits until so many invocations are in this state.
async fn until(client: &Client, state: InvocationState, count: usize) {
    wait::until_true(&format!("{count} to be {state:?}"), READY_LIMIT, async || {
        let listed = client.invocation().list_invocations(ListInvocationsRequest::default()).await;
        let listed: Vec<InvocationInfo> = listed.expect("listed").into_inner().invocations;
        listed.iter().filter(|info| info.state() == state).count() == count
    })
    .await;
}
