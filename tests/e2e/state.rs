//! State of actors and of the application.

use std::time::Duration;

use kar_proto::v1::{
    ActorStateServiceGetRequest, ActorTarget, ContainsRequest, DeleteRequest, GetAllRequest,
    ListRequest, SetRequest, StateChange, StateServiceGetRequest, state_change, turn_outcome,
};
use kar_tests::component::{Component, error, hello};
use kar_tests::errors::{assert_error, metadata};
use kar_tests::grpc::{json as bytes, value};
use kar_tests::wait::until_true;
use kar_tests::{Client, World, process, test};
use serde_json::{Value, json};
use tonic::Code;

/// The committed state of an actor, read from outside.
async fn committed(client: &Client, kind: &str, id: &str) -> Value {
    let actor = ActorTarget { r#type: kind.into(), id: id.into() };
    let request = GetAllRequest { actor: Some(actor), turn_token: String::new() };
    let answer = client.actor_state().get_all(request).await.expect("answered").into_inner();
    answer.entries.iter().map(|(k, v)| (k.clone(), value(v))).collect()
}

#[test]
fn actor_state_survives_the_death_of_everything() {
    test(async {
        let world = World::new("survive");
        for round in 1..=3 {
            let node = world.app("host", &["echo"]).await;
            let client = node.client().await;
            for n in 0..5 {
                let id = format!("a{n}");
                let answer = client.call(("Echo", &id), "count", &json!(null)).await;
                assert_eq!(answer.expect("answered"), Ok(json!(round)), "{id}");
            }
            process::kill(world.hub().await);
        }
        let node = world.bare("reader").await;
        let client = node.client().await;
        // It waits for whoever takes the partition over.
        assert_eq!(committed(&client, "Echo", "a4").await, json!({"count": 3}));
    });
}

#[test]
fn whoever_got_a_calls_answer_reads_what_it_wrote_through_any_node() {
    test(async {
        let world = World::new("reads");
        let hosts = [world.app("h1", &["echo"]).await, world.app("h2", &["echo"]).await];
        let mut clients = Vec::new();
        for node in &hosts {
            node.hosts("Echo").await;
            clients.push(node.client().await);
        }
        let bare = world.bare("bare").await;
        clients.push(bare.client().await);
        for n in 0..200 {
            // New actors and known ones, written and read through every pair of nodes.
            let id = format!("a{}", n % 67);
            let writer = &clients[n % 3];
            let count = writer.call(("Echo", &id), "count", &json!(null)).await;
            let count = count.expect("answered").expect("counted");
            for (at, reader) in clients.iter().enumerate() {
                let read = committed(reader, "Echo", &id).await;
                assert_eq!(read, json!({ "count": count }), "call {n}, read through node {at}");
            }
        }
    });
}

#[test]
fn keys_are_read_from_outside_by_name_too() {
    test(async {
        let world = World::new("named");
        let node = world.app("host", &["echo"]).await;
        let client = node.client().await;
        let answer = client.call(("Echo", "a"), "count", &json!(null)).await;
        assert_eq!(answer.expect("answered"), Ok(json!(1)));
        let actor = Some(ActorTarget { r#type: "Echo".into(), id: "a".into() });
        let get = |turn_token: &str, actor: &Option<ActorTarget>| ActorStateServiceGetRequest {
            turn_token: turn_token.into(),
            keys: vec!["count".into(), "other".into()],
            actor: actor.clone(),
            ..Default::default()
        };
        let mut state = client.actor_state();
        let found = state.get(get("", &actor)).await.expect("read").into_inner().entries;
        assert_eq!(found.keys().collect::<Vec<_>>(), ["count"]);
        for (key, exists) in [("count", true), ("other", false)] {
            let actor = actor.clone();
            let contains = ContainsRequest { key: key.into(), actor, ..Default::default() };
            let answer = state.contains(contains).await.expect("read").into_inner();
            assert_eq!(answer.exists, exists, "{key}");
        }
        // One or the other, so that nobody reads another actor than the one meant.
        let neither = state.get(get("", &None)).await;
        let neither = assert_error(neither, Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(metadata(&neither, "field"), "turn_token");
    });
}

#[test]
fn an_orderly_restart_keeps_state_too() {
    test(async {
        let world = World::new("orderly");
        for round in 1..=2 {
            let mut node = world.app("host", &["echo"]).await;
            let answer = node.client().await.call(("Echo", "a"), "count", &json!(null)).await;
            assert_eq!(answer.expect("answered"), Ok(json!(round)));
            node.signal(rustix::process::Signal::TERM);
            node.ended(std::time::Duration::from_secs(30)).await;
        }
    });
}

#[test]
fn a_turn_sees_its_own_writes_and_others_only_what_is_committed() {
    test(async {
        let world = World::new("segments");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let caller = client.clone();
        let call = tokio::spawn(async move { caller.call(("A", "1"), "m", &json!(null)).await });
        let turn = host.next_turn().await;
        turn.set(&[("x", json!(1)), ("y", json!("why"))]).await.expect("buffered");
        assert_eq!(turn.get("x").await.expect("read"), json!(1));
        assert_eq!(committed(&client, "A", "1").await, json!({}), "nothing is committed yet");
        turn.flush().await.expect("flushed");
        assert_eq!(committed(&client, "A", "1").await, json!({"x": 1, "y": "why"}));
        let remove = state_change::Change::Remove("y".into());
        turn.apply(vec![StateChange { change: Some(remove) }]).await.expect("buffered");
        assert_eq!(turn.get("y").await.expect("read"), Value::Null);
        turn.finish(&json!(null)).await;
        call.await.expect("no panic").expect("answered").expect("no error");
        assert_eq!(committed(&client, "A", "1").await, json!({"x": 1}));
    });
}

#[test]
fn an_application_error_drops_the_unflushed_segment_and_keeps_the_flushed_one() {
    test(async {
        let world = World::new("dropped");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let caller = client.clone();
        let call = tokio::spawn(async move { caller.call(("A", "1"), "m", &json!(null)).await });
        let turn = host.next_turn().await;
        turn.set(&[("kept", json!(1))]).await.expect("buffered");
        turn.flush().await.expect("flushed");
        turn.set(&[("kept", json!(2)), ("dropped", json!(1))]).await.expect("buffered");
        host.handle().finish(&turn.token, turn_outcome::Result::Error(error("E", "no"))).await;
        assert!(call.await.expect("no panic").expect("answered").is_err());
        assert_eq!(committed(&client, "A", "1").await, json!({"kept": 1}));
        // The next turn sees the same.
        let caller = client.clone();
        let call = tokio::spawn(async move { caller.call(("A", "1"), "n", &json!(null)).await });
        let turn = host.next_turn().await;
        assert_eq!(turn.get("kept").await.expect("read"), json!(1));
        assert_eq!(turn.get("dropped").await.expect("read"), Value::Null);
        turn.finish(&json!(null)).await;
        call.await.expect("no panic").expect("answered").expect("no error");
    });
}

#[test]
fn clearing_removes_every_key() {
    test(async {
        let world = World::new("clear");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let caller = client.clone();
        let call = tokio::spawn(async move { caller.call(("A", "1"), "m", &json!(null)).await });
        let turn = host.next_turn().await;
        turn.set(&[("a", json!(1)), ("b", json!(2))]).await.expect("buffered");
        turn.flush().await.expect("flushed");
        let clear = StateChange { change: Some(state_change::Change::Clear(true)) };
        turn.apply(vec![clear]).await.expect("buffered");
        turn.set(&[("c", json!(3))]).await.expect("buffered");
        turn.finish(&json!(null)).await;
        call.await.expect("no panic").expect("answered").expect("no error");
        assert_eq!(committed(&client, "A", "1").await, json!({"c": 3}));
    });
}

/// P5: what a turn may buffer always fits into one record, with the longest result, and into one write to the store.
#[test]
fn the_largest_turn_is_one_record_and_a_larger_one_is_refused_where_it_grows() {
    test(async {
        let world = World::new("large");
        let node = world.bare("host").await;
        let client = node.client().await;
        let segment = client.figure("segment_bytes_max").await.expect("answered").expect("known");
        let message = client.figure("message_bytes_max").await.expect("answered").expect("known");
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        let caller = client.clone();
        let call = tokio::spawn(async move { caller.call(("A", "1"), "m", &json!(null)).await });
        let turn = host.next_turn().await;
        let value = "v".repeat(1 << 20);
        let fits = segment >> 20;
        let mut refused = None;
        for n in 0..=fits {
            if let Err(status) = turn.set(&[(&format!("k{n}"), json!(value))]).await {
                refused = Some((n, status));
                break;
            }
        }
        let (kept, status) = refused.expect("more than a segment may hold");
        assert_eq!(kept, fits - 1, "as many as the bound says");
        let status = assert_error(Err::<(), _>(status), Code::ResourceExhausted, "LIMIT_REACHED");
        assert!(status.message().contains("segment-bytes-max"), "{status:?}");
        // JSON adds two quotes.
        let result = json!("r".repeat(usize::try_from(message).expect("small") - 2));
        turn.finish(&result).await;
        let answer = call.await.expect("no panic").expect("answered").expect("no error");
        assert_eq!(answer, result);
        let state = committed(&client, "A", "1").await;
        let keys = state.as_object().map_or(0, serde_json::Map::len);
        assert_eq!(i64::try_from(keys), Ok(kept));
        // The hub's connection survives the write to the store: what it is asked after that is answered.
        until_true("the store is written", Duration::from_secs(30), async || {
            client.figure("store_writes").await.expect("answered") > Some(0)
        })
        .await;
        client.state().set(set("after", &json!(1))).await.expect("set");
        for counter in ["reigns_dropped", "logs_lost", "retries"] {
            assert_eq!(client.figure(counter).await.expect("answered"), Some(0), "{counter}");
        }
    });
}

fn set(key: &str, new: &Value) -> SetRequest {
    SetRequest { key: key.into(), value: Some(bytes(new)), ..Default::default() }
}

#[test]
fn application_state_is_shared_conditional_and_durable() {
    test(async {
        let world = World::new("store");
        let etag;
        {
            let (a, b) = (world.bare("a").await, world.bare("b").await);
            let (mut a, mut b) = (a.client().await.state(), b.client().await.state());
            let first = a.set(set("k", &json!(1))).await.expect("set").into_inner().etag;
            let got = b.get(StateServiceGetRequest { key: "k".into() }).await.expect("read");
            let got = got.into_inner();
            assert_eq!((value(&got.value.expect("there")), &got.etag), (json!(1), &first));
            // First write wins.
            let request = SetRequest { etag: first.clone(), ..set("k", &json!(2)) };
            etag = b.set(request.clone()).await.expect("the etag holds").into_inner().etag;
            assert_ne!(etag, first);
            assert_error(a.set(request).await, Code::Aborted, "CONDITION_FAILED");
            let only_new = SetRequest { etag: "*".into(), ..set("k", &json!(3)) };
            assert_error(a.set(only_new).await, Code::Aborted, "CONDITION_FAILED");
            let delete = DeleteRequest { key: "k".into(), etag: first, request_id: String::new() };
            assert_error(a.delete(delete).await, Code::Aborted, "CONDITION_FAILED");
            process::kill(world.hub().await);
        }
        let node = world.bare("c").await;
        let mut client = node.client().await.state();
        let got = client.get(StateServiceGetRequest { key: "k".into() }).await.expect("read");
        let got = got.into_inner();
        assert_eq!((value(&got.value.expect("there")), got.etag), (json!(2), etag));
        let delete = DeleteRequest { key: "k".into(), ..Default::default() };
        assert!(client.delete(delete.clone()).await.expect("deleted").into_inner().existed);
        assert!(!client.delete(delete).await.expect("deleted").into_inner().existed);
        let got = client.get(StateServiceGetRequest { key: "k".into() }).await.expect("read");
        assert_eq!(got.into_inner().value, None);
    });
}

#[test]
fn a_repeated_request_id_does_nothing_and_gets_the_first_answer() {
    test(async {
        let world = World::new("again");
        let node = world.bare("a").await;
        let mut client = node.client().await.state();
        let request = SetRequest { request_id: "r1".into(), ..set("k", &json!("first")) };
        let first = client.set(request.clone()).await.expect("set").into_inner().etag;
        client.set(set("k", &json!("between"))).await.expect("set");
        let again = client.set(request).await.expect("answered").into_inner().etag;
        assert_eq!(again, first);
        let got = client.get(StateServiceGetRequest { key: "k".into() }).await.expect("read");
        assert_eq!(value(&got.into_inner().value.expect("there")), json!("between"));
    });
}

#[test]
fn keys_are_listed_by_prefix_in_pages() {
    test(async {
        let world = World::new("pages");
        let node = world.bare("a").await;
        let mut client = node.client().await.state();
        for n in 0..25 {
            client.set(set(&format!("p/{n:02}"), &json!(n))).await.expect("set");
        }
        client.set(set("q", &json!("other"))).await.expect("set");
        let (mut found, mut pages, mut token) = (Vec::new(), 0, String::new());
        loop {
            let request = ListRequest { prefix: "p/".into(), page_size: 10, page_token: token };
            let page = client.list(request).await.expect("listed").into_inner();
            found.extend(page.entries.iter().map(|e| e.key.clone()));
            (pages, token) = (pages + 1, page.next_page_token);
            if token.is_empty() {
                break;
            }
        }
        let expected: Vec<_> = (0..25).map(|n| format!("p/{n:02}")).collect();
        assert_eq!((found, pages), (expected, 3));
    });
}

#[test]
fn keys_are_checked() {
    test(async {
        let world = World::new("keys");
        let node = world.bare("a").await;
        let mut client = node.client().await.state();
        for key in [String::new(), "k".repeat(513)] {
            let answer = client.set(set(&key, &json!(1))).await;
            assert_error(answer, Code::InvalidArgument, "INVALID_FIELD");
        }
        client.set(set(&"k".repeat(512), &json!(1))).await.expect("512 bytes are allowed");
    });
}
