//! What follows an attempt whose calls have not started: they are withdrawn, and the retry does not wait for them.

use std::time::Duration;

use kar_proto::v1::{ListActorsRequest, ListInvocationsRequest};
use kar_tests::component::{Component, Turn, hello};
use kar_tests::{Client, World, test, wait};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

type Answer = Result<Result<Value, kar_proto::v1::ApplicationError>, tonic::Status>;

fn nested(turn: &Turn, target: (&'static str, &'static str)) -> JoinHandle<Answer> {
    let turn = turn.clone();
    tokio::spawn(async move { turn.call(target, "child", &json!(null)).await })
}

/// Waits until so many invocations wait for an actor of the type.
async fn queued(client: &Client, kind: &str, count: i32) {
    wait::until_true("the call to wait for its actor", PATIENCE, async || {
        let listed = client.system().list_actors(ListActorsRequest::default()).await;
        let actors = listed.expect("answered").into_inner().actors;
        let of_kind =
            actors.iter().filter(|a| a.actor.as_ref().is_some_and(|target| target.r#type == kind));
        of_kind.map(|a| a.queued).sum::<i32>() == count
    })
    .await;
}

#[test]
fn a_retry_does_not_wait_for_an_actor_that_is_held_for_long() {
    test(async {
        let world = World::new("withdraw");
        let front = world.bare("front").await;
        let client = front.client().await;
        let holder = world.bare("holder").await;
        let mut held = Component::connect(&holder.client().await, hello(&[], &["Held"]))
            .await
            .expect("welcome");
        let holding = tokio::spawn({
            let client = client.clone();
            async move { client.call(("Held", "x"), "hold", &json!(null)).await }
        });
        let hold = held.next_turn().await;
        let calling;
        {
            let node = world.bare("first").await;
            let mut host = Component::connect(&node.client().await, hello(&[], &["Caller"]))
                .await
                .expect("welcome");
            calling = tokio::spawn({
                let client = client.clone();
                async move { client.call(("Caller", "a"), "m", &json!(null)).await }
            });
            let turn = host.next_turn().await;
            nested(&turn, ("Held", "x"));
            queued(&client, "Held", 1).await;
            // Dropped here: killed with SIGKILL.
        }
        let node = world.bare("second").await;
        let mut host = Component::connect(&node.client().await, hello(&[], &["Caller"]))
            .await
            .expect("welcome");
        let turn = host.next_turn().await;
        assert_eq!(turn.frame.attempt, 2, "while the actor is held");
        let again = nested(&turn, ("Held", "x"));
        queued(&client, "Held", 1).await;
        hold.finish(&json!("held")).await;
        assert_eq!(holding.await.expect("no panic").expect("answered"), Ok(json!("held")));
        let child = held.next_turn().await;
        assert_eq!(child.method(), "child");
        child.finish(&json!("once")).await;
        assert_eq!(again.await.expect("no panic").expect("answered"), Ok(json!("once")));
        turn.finish(&json!("done")).await;
        assert_eq!(calling.await.expect("no panic").expect("answered"), Ok(json!("done")));
        // The first child is over, and never runs.
        wait::until_true("every invocation to be over", PATIENCE, async || {
            let request = ListInvocationsRequest::default();
            let listed = client.invocation().list_invocations(request).await.expect("answered");
            listed.into_inner().invocations.is_empty()
        })
        .await;
        let probing = tokio::spawn({
            let client = client.clone();
            async move { client.call(("Held", "x"), "probe", &json!(null)).await }
        });
        let probe = held.next_turn().await;
        assert_eq!(probe.method(), "probe");
        probe.finish(&json!(null)).await;
        probing.await.expect("no panic").expect("answered").expect("no error");
    });
}
