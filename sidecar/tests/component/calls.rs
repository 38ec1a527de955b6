//! Calls, their answers, and the state of actors.

use kar_proto::v1 as pb;
use pb::component_frame::Frame as Out;
use pb::invocation_service_client::InvocationServiceClient;
use pb::payload::Body;
use pb::request::Operation as Ask;
use pb::response::Result as Reply;
use tonic::Code;

use crate::memory::{Component, PATIENCE, TestNode, bytes, hello};
use crate::{call_actor, invoke, reason};

#[tokio::test]
async fn a_call_made_before_any_host_waits_and_then_succeeds() {
    let node = TestNode::start().await;
    let mut client = InvocationServiceClient::new(node.channel().await);
    let call = tokio::spawn(async move { client.invoke(invoke("hello")).await });
    let mut host = node.connect(hello()).await.expect("it may host");
    let turn = host.next_turn().await;
    assert_eq!((turn.method.as_str(), turn.attempt), ("hello", 1));
    assert_eq!(turn.payload, Some(bytes("Alan")));
    host.finish(&turn.turn_token, "hello Alan").await;
    let answer = tokio::time::timeout(PATIENCE, call).await.expect("it ends").expect("no panic");
    let answer = answer.expect("a good answer").into_inner();
    assert_eq!(answer.result, Some(pb::invoke_response::Result::Payload(bytes("hello Alan"))));
    assert!(answer.invocation_id.starts_with("s.greeter/"), "{}", answer.invocation_id);
}

#[tokio::test]
async fn a_turn_reads_its_own_writes_and_the_next_one_what_was_flushed() {
    let node = TestNode::start().await;
    let mut host = node.connect(hello()).await.expect("it may host");
    host.ask(1, Ask::CallActor(call_actor("deposit"))).await;
    let turn_token = host.next_turn().await.turn_token;
    let set = pb::StateEntry { key: "balance".into(), value: Some(bytes("10")) };
    let change = pb::StateChange { change: Some(pb::state_change::Change::Set(set)) };
    let turn = || turn_token.clone();
    host.ask(
        2,
        Ask::ActorStateApply(pb::ApplyRequest { turn_token: turn(), changes: vec![change] }),
    )
    .await;
    assert_eq!(host.answer(2).await, Reply::ActorStateApply(pb::ApplyResponse {}));
    let contains =
        pb::ContainsRequest { turn_token: turn(), key: "balance".into(), ..Default::default() };
    host.ask(3, Ask::ActorStateContains(contains)).await;
    let exists = Reply::ActorStateContains(pb::ContainsResponse { exists: true });
    assert_eq!(host.answer(3).await, exists);
    host.ask(4, Ask::Flush(pb::FlushRequest { turn_token: turn() })).await;
    assert_eq!(host.answer(4).await, Reply::Flush(pb::FlushResponse {}));
    host.finish(&turn_token, "ok").await;
    let Reply::CallActor(_) = host.answer(1).await else { panic!("not the call's answer") };

    host.ask(5, Ask::CallActor(call_actor("balance"))).await;
    let turn = host.next_turn().await;
    let keys = vec!["balance".to_owned(), "absent".to_owned()];
    let turn_token = turn.turn_token;
    let get = pb::ActorStateServiceGetRequest {
        turn_token: turn_token.clone(),
        keys,
        ..Default::default()
    };
    host.ask(6, Ask::ActorStateGet(get)).await;
    let Reply::ActorStateGet(state) = host.answer(6).await else { panic!("not the state") };
    assert_eq!(state.entries, [("balance".to_owned(), bytes("10"))].into());
}

/// In the turn and, once it is committed, from outside.
#[tokio::test]
async fn sub_maps_are_apart_from_each_other_and_from_own_keys() {
    use pb::state_change::Change;
    let node = TestNode::start().await;
    let mut host = node.connect(hello()).await.expect("it may host");
    host.ask(1, Ask::CallActor(call_actor("deposit"))).await;
    let turn_token = host.next_turn().await.turn_token;
    let set = |sub_map: &'static str, key: &str| {
        let at = pb::SubMapKey { sub_map: sub_map.into(), key: key.into() };
        let value = Some(bytes(sub_map));
        let change = if sub_map.is_empty() {
            Change::Set(pb::StateEntry { key: key.into(), value })
        } else {
            Change::SetInSubMap(pb::SubMapEntry { key: Some(at), value })
        };
        pb::StateChange { change: Some(change) }
    };
    let absent = |key: &str| {
        let condition = pb::StateCondition { key: key.into(), sub_map: "m".into(), value: None };
        pb::StateChange { change: Some(Change::Require(condition)) }
    };
    let apply = |changes| {
        let turn_token = turn_token.clone();
        Ask::ActorStateApply(pb::ApplyRequest { turn_token, changes })
    };
    let all = [("", "a"), ("m", "b"), ("m", "a"), ("mm", "a"), ("n", "a")];
    let changes = all.iter().map(|(sub_map, key)| set(sub_map, key));
    host.ask(2, apply([absent("a")].into_iter().chain(changes).collect())).await;
    assert_eq!(host.answer(2).await, Reply::ActorStateApply(pb::ApplyResponse {}));
    host.ask(3, apply(vec![set("", "z"), absent("a")])).await;
    let Reply::Status(status) = host.answer(3).await else { panic!("a condition that fails") };
    assert!(status.message.contains("'a' of the sub-map 'm' does not hold"), "{status:?}");
    let clear = pb::StateChange { change: Some(Change::ClearSubMap("n".into())) };
    host.ask(4, apply(vec![clear])).await;
    assert_eq!(host.answer(4).await, Reply::ActorStateApply(pb::ApplyResponse {}));
    assert_sub_maps(&mut host, 10, turn_token.clone(), None).await;
    host.finish(&turn_token, "ok").await;
    let Reply::CallActor(_) = host.answer(1).await else { panic!("not the call's answer") };
    let outside = pb::ActorTarget { r#type: "Account".into(), id: "alice".into() };
    assert_sub_maps(&mut host, 20, String::new(), Some(outside)).await;
}

/// What every read of the sub-maps shows, in a turn or of an actor from outside.
async fn assert_sub_maps(
    host: &mut Component,
    id: u64,
    turn_token: String,
    actor: Option<pb::ActorTarget>,
) {
    let (token, of) = (|| turn_token.clone(), || actor.clone());
    let get = |sub_map: &str| {
        let (keys, sub_map) = (vec!["a".to_owned(), "z".to_owned()], sub_map.to_owned());
        let get =
            pb::ActorStateServiceGetRequest { turn_token: token(), keys, actor: of(), sub_map };
        Ask::ActorStateGet(get)
    };
    for (n, sub_map) in (0..).zip(["", "m", "mm"]) {
        host.ask(id + n, get(sub_map)).await;
        let Reply::ActorStateGet(got) = host.answer(id + n).await else { panic!("no entries") };
        assert_eq!(got.entries, [("a".to_owned(), bytes(sub_map))].into(), "{sub_map:?}");
    }
    host.ask(id + 3, Ask::ActorStateGetAll(pb::GetAllRequest { turn_token: token(), actor: of() }))
        .await;
    let Reply::ActorStateGetAll(all) = host.answer(id + 3).await else { panic!("no entries") };
    assert_eq!(all.entries.keys().collect::<Vec<_>>(), ["a"], "own keys only");
    let mut page = pb::ListSubMapRequest {
        turn_token: token(),
        actor: of(),
        sub_map: "m".into(),
        page_size: 1,
        ..Default::default()
    };
    for (n, (key, next)) in (4..).zip([("a", "a"), ("b", "")]) {
        host.ask(id + n, Ask::ActorStateListSubMap(page.clone())).await;
        let answer = host.answer(id + n).await;
        let Reply::ActorStateListSubMap(listed) = answer else { panic!("{answer:?}") };
        let keys: Vec<_> = listed.entries.iter().map(|entry| &*entry.key).collect();
        assert_eq!((keys, &*listed.next_page_token), (vec![key], next));
        page.page_token = listed.next_page_token;
    }
    for (n, (sub_map, size)) in (6..).zip([("m", 2), ("mm", 1), ("n", 0), ("none", 0)]) {
        let (turn_token, actor, sub_map) = (token(), of(), sub_map.to_owned());
        let count = pb::GetSubMapSizeRequest { turn_token, actor, sub_map };
        host.ask(id + n, Ask::ActorStateSubMapSize(count)).await;
        let counted = Reply::ActorStateSubMapSize(pb::GetSubMapSizeResponse { size });
        assert_eq!(host.answer(id + n).await, counted);
    }
}

#[tokio::test]
async fn payloads_given_as_json_are_answered_as_json() {
    let node = TestNode::start().await;
    let mut host = node.connect(hello()).await.expect("it may host");
    let json = |text: &str| {
        let value = kar::convert::json::from_text(text.as_bytes()).expect("JSON");
        pb::Payload { body: Some(Body::Json(value)), content_type: String::new() }
    };
    let request = pb::InvokeRequest { payload: Some(json(r#"{"name":"Alan"}"#)), ..invoke("hi") };
    host.ask(1, Ask::Invoke(request)).await;
    let turn = host.next_turn().await;
    let payload = turn.payload.expect("there is one");
    assert_eq!(payload.body, Some(Body::Data(r#"{"name":"Alan"}"#.into())));
    assert_eq!(payload.content_type, "application/json");
    let result = pb::turn_outcome::Result::Payload(pb::Payload {
        body: Some(Body::Data(r#"{"n":1}"#.into())),
        content_type: "application/json".into(),
    });
    let outcome = pb::TurnOutcome { turn_token: turn.turn_token, result: Some(result) };
    host.send([Out::TurnResult(outcome)]).await;
    let Reply::Invoke(answer) = host.answer(1).await else { panic!("not the answer") };
    let Some(pb::invoke_response::Result::Payload(payload)) = answer.result else {
        panic!("not a payload")
    };
    assert_eq!(payload.body, json(r#"{"n":1}"#).body);
}

#[tokio::test]
async fn application_errors_travel_inside_the_answer() {
    let node = TestNode::start().await;
    let mut host = node.connect(hello()).await.expect("it may host");
    host.ask(1, Ask::CallActor(call_actor("withdraw"))).await;
    let turn_token = host.next_turn().await.turn_token;
    let error = pb::ApplicationError {
        code: "Overdrawn".into(),
        message: "not enough".into(),
        ..pb::ApplicationError::default()
    };
    let result = Some(pb::turn_outcome::Result::Error(error.clone()));
    host.send([Out::TurnResult(pb::TurnOutcome { turn_token, result })]).await;
    let Reply::CallActor(answer) = host.answer(1).await else { panic!("not the answer") };
    assert_eq!(answer.result, Some(pb::call_actor_response::Result::Error(error)));
}

#[tokio::test]
async fn direct_calls_need_a_host_and_pass_the_log_by() {
    let node = TestNode::start().await;
    let direct =
        || pb::InvokeRequest { delivery_mode: pb::DeliveryMode::Direct.into(), ..invoke("peek") };
    let mut client = InvocationServiceClient::new(node.channel().await);
    let refused = client.invoke(direct()).await.expect_err("nobody hosts it");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "NO_HOST"));
    let mut host = node.connect(hello()).await.expect("it may host");
    host.ask(1, Ask::Invoke(direct())).await;
    let appends = node.driver.counters()["appends"];
    let turn = host.next_turn().await;
    assert_eq!(turn.mode(), pb::InvocationMode::Direct);
    host.finish(&turn.turn_token, "seen").await;
    let Reply::Invoke(answer) = host.answer(1).await else { panic!("not the answer") };
    assert_eq!(answer.result, Some(pb::invoke_response::Result::Payload(bytes("seen"))));
    assert_eq!(answer.invocation_id, "");
    assert_eq!(node.driver.counters()["appends"], appends, "nothing was logged");
}

#[tokio::test]
async fn a_deadline_without_hosts_expires() {
    let node = TestNode::start().await;
    let mut client = InvocationServiceClient::new(node.channel().await);
    let request = pb::InvokeRequest {
        options: Some(pb::InvocationOptions {
            start_within: Some(prost_types::Duration { seconds: 0, nanos: 50_000_000 }),
            ..pb::InvocationOptions::default()
        }),
        ..invoke("m")
    };
    let call = tokio::time::timeout(PATIENCE, client.invoke(request)).await.expect("it ends");
    let status = call.expect_err("nobody hosts it");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "EXPIRED"));
}

#[tokio::test]
async fn an_old_turn_token_is_superseded() {
    let node = TestNode::start().await;
    let mut host = node.connect(hello()).await.expect("it may host");
    host.ask(1, Ask::CallActor(call_actor("m"))).await;
    let turn = host.next_turn().await;
    host.finish(&turn.turn_token, "done").await;
    host.answer(1).await;
    host.ask(2, Ask::Flush(pb::FlushRequest { turn_token: turn.turn_token })).await;
    let Reply::Status(status) = host.answer(2).await else { panic!("it was taken") };
    assert_eq!(status.code, Code::Aborted as i32, "{}", status.message);
}
