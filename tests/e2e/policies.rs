//! What follows an attempt that did not end well: retries of errors, parking, cancelling; on the contract and on the
//! command line.

use std::time::Duration;

use kar_proto::v1::{
    ActorTarget, ApplicationError, AttemptEndCause, CallActorRequest, CallActorResponse,
    CancelReason, CancelRequest, CancelResult, GetInvocationRequest, Hello, HostedActorType,
    HostedMethod, InvocationEnd, InvocationInfo, InvocationOptions, InvocationState,
    ListInvocationsRequest, ResumeRequest, RetryPolicy, TellRequest, call_actor_response,
    turn_outcome,
};
use kar_tests::component::{Component, Incoming, Turn, actor, hello};
use kar_tests::errors::assert_error;
use kar_tests::grpc::{json as bytes, value};
use kar_tests::{Client, World, test, wait};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::{Code, Response, Status};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn millis(ms: u64) -> Option<prost_types::Duration> {
    Some(Duration::from_millis(ms).try_into().expect("short"))
}

fn policy(max_attempts: i32) -> RetryPolicy {
    RetryPolicy {
        max_attempts,
        initial_backoff: millis(10),
        max_backoff: millis(20),
        multiplier: 2.0,
    }
}

type Called = JoinHandle<Result<Response<CallActorResponse>, Status>>;

/// Calls an actor in the background.
fn call(client: &Client, id: &str, method: &str, retry: Option<RetryPolicy>) -> Called {
    let options = InvocationOptions { retry_policy: retry, ..Default::default() };
    let request = CallActorRequest {
        actor: Some(ActorTarget { r#type: "A".into(), id: id.into() }),
        step_key: String::new(),
        method: method.into(),
        payload: Some(bytes(&json!(null))),
        options: Some(options),
        turn_token: String::new(),
    };
    let mut client = client.invocation();
    tokio::spawn(async move { client.call_actor(request).await })
}

async fn ended(call: Called) -> Result<Result<Value, ApplicationError>, Status> {
    let answer = call.await.expect("no panic")?.into_inner();
    Ok(match answer.result.expect("a result") {
        call_actor_response::Result::Payload(payload) => Ok(value(&payload)),
        call_actor_response::Result::Error(error) => Err(error),
    })
}

async fn fail(turn: &Turn, host: &Component, retryable: bool) {
    let (code, message) = ("busy".into(), turn.frame.attempt.to_string());
    let error = ApplicationError { code, message, retryable, ..Default::default() };
    host.handle().finish(&turn.token, turn_outcome::Result::Error(error)).await;
}

/// The one unfinished invocation of a method, once it is as wanted.
async fn listed(
    client: &Client,
    method: &str,
    wanted: impl Fn(&InvocationInfo) -> bool,
) -> InvocationInfo {
    wait::until(&format!("{method} to be listed as wanted"), PATIENCE, async || {
        let request = ListInvocationsRequest::default();
        let answer = client.invocation().list_invocations(request).await.ok()?.into_inner();
        answer.invocations.into_iter().find(|info| info.method == method && wanted(info))
    })
    .await
}

#[test]
fn a_retryable_error_is_retried_as_the_call_asks() {
    test(async {
        let world = World::new("retry");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let calling = call(&client, "x", "m", Some(policy(3)));
        for attempt in 1..=3 {
            let turn = host.next_turn().await;
            assert_eq!(turn.frame.attempt, attempt);
            turn.set(&[("dropped", json!(attempt))]).await.expect("buffered");
            fail(&turn, &host, true).await;
        }
        let error = ended(calling).await.expect("answered").expect_err("the last one's error");
        assert_eq!((error.code.as_str(), error.message.as_str()), ("busy", "3"));
        // Not marked, or not asked for: not retried. Nothing of the failed attempts has stayed.
        for (retry, retryable) in [(Some(policy(3)), false), (None, true)] {
            let calling = call(&client, "x", "m", retry);
            let turn = host.next_turn().await;
            assert_eq!(turn.get("dropped").await.expect("read"), json!(null));
            fail(&turn, &host, retryable).await;
            ended(calling).await.expect("answered").expect_err("at once");
        }
    });
}

#[test]
fn a_methods_policy_holds_and_the_pause_survives_the_sidecar() {
    test(async {
        let world = World::new("pause");
        let front = world.bare("front").await;
        let client = front.client().await;
        let slow = RetryPolicy { initial_backoff: millis(3_000), max_backoff: None, ..policy(2) };
        let method = HostedMethod { name: "m".into(), retry_policy: Some(slow), shared: false };
        let hosted =
            HostedActorType { name: "A".into(), methods: vec![method], deactivates: false };
        let hello = || Hello {
            protocol_version: 1,
            actor_types: vec![hosted.clone()],
            ..Default::default()
        };
        let calling;
        {
            let node = world.bare("first").await;
            let mut host = Component::connect(&node.client().await, hello()).await.expect("ok");
            calling = call(&client, "x", "m", None);
            fail(&host.next_turn().await, &host, true).await;
            let info = listed(&client, "m", |i| i.last_attempt_end.is_some()).await;
            assert_eq!(info.state(), InvocationState::Retrying);
            let end = info.last_attempt_end.expect("just seen");
            assert_eq!(end.cause(), AttemptEndCause::ApplicationError);
            assert_eq!(end.message, "busy: 1");
            assert!(info.retry_time.is_some());
            // Dropped here: killed with SIGKILL, in the middle of the pause.
        }
        let node = world.bare("second").await;
        let mut host = Component::connect(&node.client().await, hello()).await.expect("ok");
        let info = listed(&client, "m", |i| i.node == "second").await;
        // What the log says holds for the new owner: it has not forgotten why it waits.
        let end = info.last_attempt_end.expect("it survived");
        assert_eq!(end.cause(), AttemptEndCause::ApplicationError);
        let turn = host.next_turn().await;
        assert_eq!(turn.frame.attempt, 2);
        fail(&turn, &host, true).await;
        let error = ended(calling).await.expect("answered").expect_err("the last one's error");
        assert_eq!(error.message, "2");
    });
}

#[test]
fn what_keeps_killing_its_host_is_parked_until_somebody_resumes_it() {
    test(async {
        let world = World::new("park");
        world.add_run_args(&["--park-after-attempts", "2"]);
        let front = world.bare("front").await;
        let client = front.client().await;
        let node = world.bare("host").await;
        let own = node.client().await;
        let tell = TellRequest {
            target: Some(actor("A", "x")),
            method: "killer".into(),
            payload: Some(bytes(&json!(null))),
            ..Default::default()
        };
        let id = client.invocation().tell(tell).await.expect("accepted").into_inner();
        for attempt in 1..=2 {
            // The stream breaks with the turn under way, as when a process dies of it.
            let mut host = Component::connect(&own, hello(&[], &["A"])).await.expect("welcome");
            let turn = host.next_turn().await;
            assert_eq!((turn.method(), turn.frame.attempt), ("killer", attempt));
        }
        let info = listed(&client, "killer", |i| i.state() == InvocationState::Parked).await;
        assert_eq!(info.invocation_id, id.invocation_id);
        let end = info.last_attempt_end.expect("it ended");
        assert_eq!(end.cause(), AttemptEndCause::HostLost);
        // It is counted once it is durable (rule L5).
        wait::until_true("the parked one to be counted", PATIENCE, async || {
            own.figure("parked").await.expect("answered") == Some(1)
        })
        .await;
        // Others pass it.
        let mut host = Component::connect(&own, hello(&[], &["A"])).await.expect("welcome");
        let behind = call(&client, "x", "behind", None);
        let turn = host.next_turn().await;
        assert_eq!(turn.method(), "behind");
        turn.finish(&json!("passed")).await;
        assert_eq!(ended(behind).await.expect("answered"), Ok(json!("passed")));
        // People see it, and resume it.
        let shown = world.kar_here("get invocations", &["-o", "json"]).await;
        let rows: Value = serde_json::from_str(&shown.stdout).expect("JSON");
        assert_eq!(rows[0]["state"], "parked", "{rows}");
        assert_eq!(rows[0]["last_attempt_end"]["cause"], "host-lost", "{rows}");
        let resumed = world.kar_here("resume", &[&id.invocation_id]).await;
        assert_eq!(resumed.code, 0, "{}", resumed.stderr);
        let turn = host.next_turn().await;
        assert_eq!((turn.method(), turn.frame.attempt), ("killer", 3));
        let again = ResumeRequest { invocation_id: id.invocation_id.clone() };
        let answer = client.invocation().resume(again).await;
        assert_error(answer, Code::FailedPrecondition, "NOT_PARKED");
        turn.finish(&json!(null)).await;
    });
}

#[test]
fn what_does_not_run_ends_at_once_when_it_is_cancelled() {
    test(async {
        let world = World::new("cancel");
        let front = world.bare("front").await;
        let client = front.client().await;
        // Nobody hosts it.
        let calling = call(&client, "x", "m", None);
        let id = listed(&client, "m", |_| true).await.invocation_id;
        let cancelled = world.kar_here("cancel", &[&id]).await;
        assert_eq!(cancelled.code, 0, "{}", cancelled.stderr);
        assert!(cancelled.stdout.starts_with("cancelled"), "{}", cancelled.stdout);
        let status = assert_error(ended(calling).await, Code::Aborted, "CANCELLED");
        assert_eq!(kar_tests::errors::metadata(&status, "invocation"), id);
        let request = CancelRequest { invocation_id: id };
        wait::until_true("it to be forgotten", PATIENCE, async || {
            let answer = client.invocation().cancel(request.clone()).await;
            answer.is_err_and(|status| status.code() == Code::NotFound)
        })
        .await;
        let answer = client.invocation().cancel(request).await;
        assert_error(answer, Code::NotFound, "UNKNOWN_INVOCATION");
        // It never runs.
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let next = call(&client, "x", "next", None);
        let turn = host.next_turn().await;
        assert_eq!(turn.method(), "next");
        turn.finish(&json!(1)).await;
        assert_eq!(ended(next).await.expect("answered"), Ok(json!(1)));
    });
}

#[test]
fn what_runs_is_told_and_may_stop_or_go_on() {
    test(async {
        let world = World::new("told");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        for stops in [true, false] {
            let calling = call(&client, "x", "m", Some(policy(5)));
            let turn = host.next_turn().await;
            let id = listed(&client, "m", |_| true).await.invocation_id;
            let request = CancelRequest { invocation_id: id };
            let answer = client.invocation().cancel(request).await.expect("done").into_inner();
            assert_eq!(answer.result(), CancelResult::Requested);
            match host.next().await {
                Incoming::Cancel(token, reason) => {
                    assert_eq!((token.as_str(), reason), (&*turn.token, CancelReason::Requested));
                }
                other => panic!("expected to be told, got {other:?}"),
            }
            assert!(listed(&client, "m", |_| true).await.cancel_requested);
            // It is still the current attempt.
            turn.set(&[("k", json!(stops))]).await.expect("buffered");
            if stops {
                let cancelled = turn_outcome::Result::Cancelled(Default::default());
                host.handle().finish(&turn.token, cancelled).await;
                assert_error(ended(calling).await, Code::Aborted, "CANCELLED");
            } else {
                turn.finish(&json!("went on")).await;
                assert_eq!(ended(calling).await.expect("answered"), Ok(json!("went on")));
            }
        }
        let calling = call(&client, "x", "look", None);
        let turn = host.next_turn().await;
        assert_eq!(turn.get("k").await.expect("read"), json!(false));
        turn.finish(&json!(null)).await;
        ended(calling).await.expect("answered").expect("no error");
    });
}

#[test]
fn a_cancelled_invocation_is_not_tried_again_when_its_sidecar_dies() {
    test(async {
        let world = World::new("cancel2");
        let front = world.bare("front").await;
        let client = front.client().await;
        let calling;
        {
            let node = world.bare("first").await;
            let mut host =
                Component::connect(&node.client().await, hello(&[], &["A"])).await.expect("ok");
            calling = call(&client, "x", "m", None);
            let _turn = host.next_turn().await;
            let id = listed(&client, "m", |_| true).await.invocation_id;
            let request = CancelRequest { invocation_id: id };
            let answer = client.invocation().cancel(request).await.expect("done").into_inner();
            assert_eq!(answer.result(), CancelResult::Requested);
            // Dropped here: killed with SIGKILL.
        }
        assert_error(ended(calling).await, Code::Aborted, "CANCELLED");
    });
}

#[test]
fn wrong_policies_are_typed_errors() {
    test(async {
        let world = World::new("wrong");
        let node = world.bare("host").await;
        let client = node.client().await;
        for wrong in [
            RetryPolicy { max_attempts: -1, ..Default::default() },
            RetryPolicy { multiplier: 0.1, ..Default::default() },
            RetryPolicy { initial_backoff: millis(20), max_backoff: millis(10), ..policy(2) },
        ] {
            let answer = ended(call(&client, "x", "m", Some(wrong))).await;
            let status = assert_error(answer, Code::InvalidArgument, "INVALID_FIELD");
            let field = kar_tests::errors::metadata(&status, "field");
            assert!(field.starts_with("options.retry_policy."), "{field}");
        }
        for id in ["", "nonsense"] {
            let request = CancelRequest { invocation_id: id.into() };
            let answer = client.invocation().cancel(request).await;
            assert_error(answer, Code::InvalidArgument, "INVALID_FIELD");
        }
    });
}

#[test]
fn a_dead_letter_is_listed_sent_again_and_discarded() {
    test(async {
        let world = World::new("dead");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let tell = TellRequest {
            target: Some(actor("A", "x")),
            method: "m".into(),
            payload: Some(bytes(&json!("told"))),
            ..Default::default()
        };
        let id = client.invocation().tell(tell).await.expect("accepted").into_inner().invocation_id;
        let get = async |id: &str| {
            let request = GetInvocationRequest { invocation_id: id.into() };
            client.invocation().get_invocation(request).await
        };
        let turn = host.next_turn().await;
        let info = get(&id).await.expect("known").into_inner().invocation.expect("found");
        assert_eq!((info.state(), info.attempt), (InvocationState::Running, 1));
        assert_eq!((info.method.as_str(), info.end()), ("m", InvocationEnd::Unspecified));
        fail(&turn, &host, false).await;
        let rows = async || {
            let listed = world.kar_here("get dead-letters", &["-o", "json"]).await;
            let rows: Value = serde_json::from_str(&listed.stdout).expect("JSON");
            rows.as_array().cloned().unwrap_or_default()
        };
        let listed = wait::until("the dead letter", PATIENCE, async || rows().await.pop()).await;
        assert_eq!((&listed["invocation_id"], &listed["target"]), (&json!(id), &json!("A/x")));
        assert_eq!((&listed["error"]["code"], &listed["attempts"]), (&json!("busy"), &json!(1)));
        let info = get(&id).await.expect("known").into_inner().invocation.expect("found");
        assert_eq!((info.state(), info.end()), (InvocationState::Completed, InvocationEnd::Failed));
        assert_eq!(info.error.map(|error| error.code), Some("busy".into()));
        let again = world.kar_here("redrive", &[&id]).await;
        assert_eq!(again.code, 0, "{}", again.stderr);
        let turn = host.next_turn().await;
        assert_eq!((turn.method(), turn.argument()), ("m", json!("told")));
        assert!(rows().await.is_empty());
        let twice = world.kar_here("redrive", &[&id]).await;
        assert_eq!(twice.code, 4, "{}", twice.stderr);
        // It fails again, under the id that was printed; somebody gives it up.
        fail(&turn, &host, false).await;
        let listed = wait::until("the dead letter", PATIENCE, async || rows().await.pop()).await;
        assert_eq!(listed["invocation_id"], json!(again.stdout.trim()));
        assert_error(get(&id).await, Code::NotFound, "UNKNOWN_INVOCATION");
        let dropped = world.kar_here("discard", &[again.stdout.trim()]).await;
        assert_eq!(dropped.code, 0, "{}", dropped.stderr);
        assert!(rows().await.is_empty());
    });
}
