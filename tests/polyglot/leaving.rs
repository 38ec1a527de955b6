//! Hosts leave in order: SIGTERM in the middle of a turn.

use std::time::Duration;

use kar_tests::world::READY_LIMIT;
use kar_tests::{World, process, test, wait};
use rustix::process::Signal;
use serde_json::json;

use crate::kills::running;
use crate::language::{Language, Transport};
use crate::rust::RUST;

/// How long a process may take to end on a machine that does much else; its own bound is 15 s.
const END_LIMIT: Duration = Duration::from_secs(20);

/// A host that is told to end says goodbye, finishes its turn, hands over and ends with 0: the call's only attempt is
/// the first one.
pub(crate) fn in_order(language: &'static Language) {
    test(async {
        let world = World::new("leaves");
        let front = world.bare("front").await;
        let client = front.client().await;
        let mut host = language.host(&world, "leaving", Transport::Unix).await;
        let call = tokio::spawn({
            let client = client.clone();
            let argument = json!({ "name": "Alan", "millis": 1_500 });
            async move { client.invoke("greeter", "slow", &argument).await }
        });
        wait::until("the code to run", READY_LIMIT, async || running(&client).await).await;
        // Not through its sidecar, which would hand over by itself: the component alone is told.
        process::signal(host.component_pid().await, Signal::TERM);
        let answer = call.await.expect("no panic").expect("no error of KAR");
        assert_eq!(answer, Ok(json!("Hello, Alan!")));
        assert_eq!(host.ended(END_LIMIT).await, 0);
        // Nobody hosts any more; a call waits durably for the next one.
        let next = tokio::spawn({
            let client = client.clone();
            async move { client.invoke("greeter", "hello", &json!({ "name": "Bob" })).await }
        });
        let _other = RUST.host(&world, "other", Transport::Unix).await;
        let answer = next.await.expect("no panic").expect("no error of KAR");
        assert_eq!(answer, Ok(json!("Hello, Bob!")));
    });
}

/// A turn that outlasts the hand-over is cancelled: its code stops, the host says so, and another one runs it again.
pub(crate) fn with_a_cancelled_turn(language: &'static Language) {
    test(async {
        let world = World::new("cancels");
        world.add_run_args(&["--drain-timeout-ms", "300"]);
        let front = world.bare("front").await;
        let client = front.client().await;
        let mut host = language.host(&world, "leaving", Transport::Unix).await;
        let call = tokio::spawn({
            let client = client.clone();
            let argument = json!({ "name": "Alan", "millis": 8_000 });
            async move { client.invoke("greeter", "slow", &argument).await }
        });
        let first =
            wait::until("the code to run", READY_LIMIT, async || running(&client).await).await;
        host.signal(Signal::TERM);
        assert_eq!(host.ended(END_LIMIT).await, 0, "it leaves in order, with nothing left to run");
        assert!(!call.is_finished(), "its code was stopped");
        let _other = RUST.host(&world, "other", Transport::Unix).await;
        let second = wait::until("the other host to run it", READY_LIMIT, async || {
            running(&client).await.filter(|i| i.node == "other")
        })
        .await;
        assert_eq!(second.invocation_id, first.invocation_id);
        assert!(second.attempt > first.attempt, "{second:?} after {first:?}");
        let answer = call.await.expect("no panic").expect("no error of KAR");
        assert_eq!(answer, Ok(json!("Hello, Alan!")));
    });
}
