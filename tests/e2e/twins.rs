//! Every operation exists twice, as a unary RPC and as a request on the stream, and both enter the same code.

use kar_proto::v1::request::Operation;
use kar_proto::v1::response::Result as Answer;
use kar_proto::v1::{
    ActorStateServiceGetRequest, ActorTarget, ApplyRequest, AwaitRequest, CallActorRequest,
    CancelRequest, CancelResult, ContainsRequest, DeleteRequest, DeliveryMode,
    DiscardDeadLetterRequest, FlushRequest, GetAllRequest, GetSubMapSizeRequest, InvokeRequest,
    ListRequest, ListSubMapRequest, RedriveDeadLetterRequest, ResumeRequest, SetRequest,
    StartRequest, StateChange, StateEntry, StateServiceGetRequest, SubMapEntry, SubMapKey,
    TellRequest, TransactRequest, state_change,
};
use kar_tests::component::{Component, hello, service};
use kar_tests::errors::assert_error;
use kar_tests::grpc::{json as bytes, value};
use kar_tests::{Client, Turn, World, test};
use serde_json::json;
use tonic::Code;

/// One sidecar with a component of the role `echo`, and a stream of a component that hosts nothing.
async fn echo() -> (std::rc::Rc<World>, kar_tests::Node, Client, Component) {
    let world = World::new("twins");
    let node = world.app("host", &["echo"]).await;
    node.hosts("echo").await;
    let client = node.client().await;
    let stream = Component::connect(&client, hello(&[], &[])).await.expect("welcome");
    (world, node, client, stream)
}

#[test]
fn calls_are_the_same_on_both_ways() {
    test(async {
        let (_world, _node, client, stream) = echo().await;
        for mode in [DeliveryMode::Durable, DeliveryMode::Direct] {
            let request = InvokeRequest {
                service: "echo".into(),
                method: "echo".into(),
                payload: Some(bytes(&json!("x"))),
                delivery_mode: mode.into(),
                ..Default::default()
            };
            let unary = client.invocation().invoke(request.clone()).await.expect("answered");
            let answer =
                stream.handle().request(Operation::Invoke(request)).await.expect("answered");
            let Answer::Invoke(twin) = answer else { panic!("{answer:?}") };
            assert_eq!(unary.into_inner().result, twin.result);
        }
        let request = CallActorRequest {
            actor: Some(ActorTarget { r#type: "Echo".into(), id: "a".into() }),
            method: "fail".into(),
            ..Default::default()
        };
        let unary = client.invocation().call_actor(request.clone()).await.expect("answered");
        let answer =
            stream.handle().request(Operation::CallActor(request)).await.expect("answered");
        let Answer::CallActor(twin) = answer else { panic!("{answer:?}") };
        assert_eq!(unary.into_inner().result, twin.result);
    });
}

#[test]
fn tell_start_and_await_work_on_the_stream() {
    test(async {
        let (_world, _node, client, stream) = echo().await;
        let request = TellRequest {
            target: Some(service("echo")),
            method: "echo".into(),
            ..Default::default()
        };
        let answer = stream.handle().request(Operation::Tell(request)).await.expect("accepted");
        assert!(matches!(answer, Answer::Tell(tell) if !tell.invocation_id.is_empty()));
        let request = StartRequest {
            target: Some(service("echo")),
            method: "echo".into(),
            payload: Some(bytes(&json!("later"))),
            options: None,
        };
        let answer = stream.handle().request(Operation::Start(request)).await.expect("accepted");
        let Answer::Start(started) = answer else { panic!("{answer:?}") };
        let request = AwaitRequest { invocation_id: started.invocation_id };
        let unary = client.invocation().r#await(request.clone()).await.expect("answered");
        let answer =
            stream.handle().request(Operation::AwaitOutcome(request)).await.expect("answered");
        let Answer::AwaitOutcome(twin) = answer else { panic!("{answer:?}") };
        assert_eq!(unary.into_inner().result, twin.result);
    });
}

#[test]
fn what_is_done_to_invocations_is_the_same_on_both_ways() {
    test(async {
        let (_world, _node, client, stream) = echo().await;
        let tell = async || {
            let request = TellRequest {
                target: Some(service("nobody")),
                method: "m".into(),
                ..Default::default()
            };
            client.invocation().tell(request).await.expect("accepted").into_inner().invocation_id
        };
        let cancel = CancelRequest { invocation_id: tell().await };
        let answer = stream.handle().request(Operation::Cancel(cancel)).await.expect("done");
        let Answer::Cancel(twin) = answer else { panic!("{answer:?}") };
        let cancel = CancelRequest { invocation_id: tell().await };
        let unary = client.invocation().cancel(cancel).await.expect("done").into_inner();
        assert_eq!(unary.result(), CancelResult::Cancelled);
        assert_eq!(unary, twin);
        let id = tell().await;
        let resume = ResumeRequest { invocation_id: id.clone() };
        let unary = client.invocation().resume(resume.clone()).await;
        assert_error(unary, Code::FailedPrecondition, "NOT_PARKED");
        let twin = stream.handle().request(Operation::Resume(resume)).await;
        assert_error(twin, Code::FailedPrecondition, "NOT_PARKED");
        let redrive = RedriveDeadLetterRequest { invocation_id: id.clone() };
        let unary = client.invocation().redrive_dead_letter(redrive.clone()).await;
        assert_error(unary, Code::NotFound, "UNKNOWN_INVOCATION");
        let twin = stream.handle().request(Operation::RedriveDeadLetter(redrive)).await;
        assert_error(twin, Code::NotFound, "UNKNOWN_INVOCATION");
        let discard = DiscardDeadLetterRequest { invocation_id: id };
        let unary = client.invocation().discard_dead_letter(discard.clone()).await;
        assert_error(unary, Code::NotFound, "UNKNOWN_INVOCATION");
        let twin = stream.handle().request(Operation::DiscardDeadLetter(discard)).await;
        assert_error(twin, Code::NotFound, "UNKNOWN_INVOCATION");
    });
}

#[test]
fn application_state_is_the_same_on_both_ways() {
    test(async {
        let (_world, _node, client, stream) = echo().await;
        let set =
            SetRequest { key: "k".into(), value: Some(bytes(&json!(1))), ..Default::default() };
        let answer = stream.handle().request(Operation::StateSet(set)).await.expect("set");
        let Answer::StateSet(set) = answer else { panic!("{answer:?}") };
        let get = StateServiceGetRequest { key: "k".into() };
        let unary = client.state().get(get.clone()).await.expect("read").into_inner();
        assert_eq!(unary.etag, set.etag);
        let answer = stream.handle().request(Operation::StateGet(get)).await.expect("read");
        assert_eq!(answer, Answer::StateGet(unary));
        let list = ListRequest { prefix: "k".into(), ..Default::default() };
        let unary = client.state().list(list.clone()).await.expect("listed").into_inner();
        let answer = stream.handle().request(Operation::StateList(list)).await.expect("listed");
        assert_eq!(answer, Answer::StateList(unary));
        let transact = TransactRequest::default();
        let unary = client.state().transact(transact.clone()).await.expect("done").into_inner();
        let answer = stream.handle().request(Operation::StateTransact(transact)).await;
        assert_eq!(answer.expect("done"), Answer::StateTransact(unary));
        let delete = DeleteRequest { key: "k".into(), ..Default::default() };
        let answer =
            stream.handle().request(Operation::StateDelete(delete)).await.expect("deleted");
        assert!(matches!(answer, Answer::StateDelete(deleted) if deleted.existed));
    });
}

#[test]
fn actor_state_is_the_same_on_both_ways() {
    test(async {
        let world = World::new("both");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let caller = client.clone();
        let call = tokio::spawn(async move { caller.call(("A", "1"), "m", &json!(null)).await });
        let turn = host.next_turn().await;
        let mut unary = client.actor_state();
        // Written by the unary way, read by the stream, and the other way round.
        unary.apply(apply(&turn, "u", 1)).await.expect("buffered");
        assert_eq!(turn.get("u").await.expect("read"), json!(1));
        turn.set(&[("s", json!(2))]).await.expect("buffered");
        let get = ActorStateServiceGetRequest {
            turn_token: turn.token.clone(),
            keys: vec!["s".into(), "absent".into()],
            ..Default::default()
        };
        let entries = unary.get(get).await.expect("read").into_inner().entries;
        assert_eq!(entries.keys().collect::<Vec<_>>(), ["s"]);
        let contains = |key: &str| ContainsRequest {
            turn_token: turn.token.clone(),
            key: key.into(),
            ..Default::default()
        };
        assert!(unary.contains(contains("u")).await.expect("read").into_inner().exists);
        let answer = turn.handle.request(Operation::ActorStateContains(contains("nope"))).await;
        assert!(matches!(answer, Ok(Answer::ActorStateContains(c)) if !c.exists));
        let all = GetAllRequest { turn_token: turn.token.clone(), actor: None };
        let twin = unary.get_all(all.clone()).await.expect("read").into_inner();
        assert_eq!(twin.entries.values().map(value).collect::<Vec<_>>().len(), 2);
        let answer = turn.handle.request(Operation::ActorStateGetAll(all)).await.expect("read");
        assert_eq!(answer, Answer::ActorStateGetAll(twin));
        // Sub-maps, and what belongs to them only.
        for (sub_map, key, new) in [("m", "b", 3), ("m", "a", 4), ("n", "a", 5)] {
            unary.apply(apply_in(&turn, (sub_map, key), new)).await.expect("buffered");
        }
        let list = |sub_map: &str, page_size, page_token: &str| ListSubMapRequest {
            turn_token: turn.token.clone(),
            sub_map: sub_map.into(),
            page_size,
            page_token: page_token.into(),
            ..Default::default()
        };
        let first = unary.list_sub_map(list("m", 1, "")).await.expect("read").into_inner();
        assert_eq!((&*first.entries[0].key, &*first.next_page_token), ("a", "a"));
        let next = Operation::ActorStateListSubMap(list("m", 1, &first.next_page_token));
        let answer = turn.handle.request(next).await.expect("read");
        let Answer::ActorStateListSubMap(rest) = answer else { panic!("{answer:?}") };
        assert_eq!((&*rest.entries[0].key, &*rest.next_page_token), ("b", ""));
        let size = |sub_map: &str| GetSubMapSizeRequest {
            turn_token: turn.token.clone(),
            sub_map: sub_map.into(),
            ..Default::default()
        };
        let counted = unary.get_sub_map_size(size("m")).await.expect("read").into_inner();
        assert_eq!(counted.size, 2);
        let answer = turn.handle.request(Operation::ActorStateSubMapSize(size("none"))).await;
        assert!(matches!(answer, Ok(Answer::ActorStateSubMapSize(s)) if s.size == 0));
        unary.flush(FlushRequest { turn_token: turn.token.clone() }).await.expect("flushed");
        turn.finish(&json!(null)).await;
        call.await.expect("no panic").expect("answered").expect("no error");
    });
}

fn apply_in(turn: &Turn, (sub_map, key): (&str, &str), new: i64) -> ApplyRequest {
    let key = SubMapKey { sub_map: sub_map.into(), key: key.into() };
    let entry = SubMapEntry { key: Some(key), value: Some(bytes(&json!(new))) };
    let change = StateChange { change: Some(state_change::Change::SetInSubMap(entry)) };
    ApplyRequest { turn_token: turn.token.clone(), changes: vec![change] }
}

fn apply(turn: &Turn, key: &str, new: i64) -> ApplyRequest {
    let entry = StateEntry { key: key.into(), value: Some(bytes(&json!(new))) };
    let change = StateChange { change: Some(state_change::Change::Set(entry)) };
    ApplyRequest { turn_token: turn.token.clone(), changes: vec![change] }
}

#[test]
fn errors_are_the_same_on_both_ways() {
    test(async {
        let (_world, _node, client, stream) = echo().await;
        let request = InvokeRequest { service: "-bad-".into(), ..Default::default() };
        let unary = client.invocation().invoke(request.clone()).await;
        let unary = assert_error(unary, Code::InvalidArgument, "INVALID_FIELD");
        let twin = stream.handle().request(Operation::Invoke(request)).await;
        let twin = assert_error(twin, Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(unary.message(), twin.message());
        let field = |status| kar_tests::errors::metadata(status, "field");
        assert_eq!((field(&unary), field(&twin)), ("service".into(), "service".into()));
    });
}
