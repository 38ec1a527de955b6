//! Hosting on the component's stream: credits, slots, `strict`, affinity, listings, leaving in order.

use std::collections::BTreeSet;
use std::time::Duration;

use kar_proto::v1::component_frame::Frame as Up;
use kar_proto::v1::request::Operation;
use kar_proto::v1::{
    Credit, DrainRequest, GetInfoRequest, Goodbye, Hello, InvocationInfo, InvocationState,
    InvokeRequest, ListActorsRequest, ListInvocationsRequest, ShutdownRequest,
    StateServiceGetRequest, TellRequest, invoke_response,
};
use kar_tests::component::{Component, Incoming, actor, hello, service};
use kar_tests::errors::{assert_error, metadata};
use kar_tests::grpc::{json as bytes, value};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, World, process, test, wait};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tonic::Code;

type Answer = Result<Result<Value, kar_proto::v1::ApplicationError>, tonic::Status>;

/// A call that is under way.
fn calling(client: &Client, service: &str, method: &str) -> JoinHandle<Answer> {
    let (client, service, method) = (client.clone(), service.to_owned(), method.to_owned());
    tokio::spawn(async move { client.invoke(&service, &method, &json!(null)).await })
}

async fn answer(call: JoinHandle<Answer>) -> Value {
    call.await.expect("no panic").expect("answered").expect("returned")
}

async fn unfinished(client: &Client, kind: &str) -> Vec<InvocationInfo> {
    let request = ListInvocationsRequest { kind: kind.into(), ..Default::default() };
    let answer = client.invocation().list_invocations(request).await.expect("listed");
    answer.into_inner().invocations
}

/// Waits until so many invocations are running, and as many queued, for the sidecar's machine.
async fn until_states(client: &Client, kind: &str, running: usize, queued: usize) {
    let what = format!("{running} running and {queued} queued");
    wait::until_true(&what, READY_LIMIT, async || {
        let listed = unfinished(client, kind).await;
        let count = |state| listed.iter().filter(|i| i.state() == state).count();
        (count(InvocationState::Running), count(InvocationState::Queued)) == (running, queued)
    })
    .await;
}

/// Nothing is on its way to the component: whatever was sent before the answer to this request has come before it.
async fn assert_silent(host: &mut Component) {
    let get = Operation::StateGet(StateServiceGetRequest { key: "any".into() });
    host.handle().request(get).await.expect("answered");
    let next = tokio::time::timeout(Duration::ZERO, host.next()).await;
    assert!(next.is_err(), "{next:?} was not allowed yet");
}

async fn tell(client: &Client, to: kar_proto::v1::Target, method: &str) {
    let request = TellRequest { target: Some(to), method: method.into(), ..Default::default() };
    client.invocation().tell(request).await.expect("accepted");
}

#[test]
fn no_more_turns_are_under_way_than_there_are_credits() {
    test(async {
        let world = World::new("credits");
        let node = world.bare("host").await;
        let client = node.client().await;
        let hello = Hello { invocation_credits: 2, ..hello(&["s"], &[]) };
        let mut host = Component::connect(&client, hello).await.expect("welcome");
        let calls: Vec<_> = (0..5).map(|_| calling(&client, "s", "m")).collect();
        let (first, second) = (host.next_turn().await, host.next_turn().await);
        // The machine has given out all five; three of them wait for credit at the stream.
        until_states(&client, "s", 5, 0).await;
        assert_silent(&mut host).await;
        // A result gives its credit back, …
        first.finish(&json!(1)).await;
        let third = host.next_turn().await;
        assert_silent(&mut host).await;
        // … and more can be given.
        host.handle().send(Up::Credit(Credit { count: 1 })).await;
        let fourth = host.next_turn().await;
        assert_silent(&mut host).await;
        for turn in [second, third, fourth] {
            turn.finish(&json!(1)).await;
        }
        host.next_turn().await.finish(&json!(1)).await;
        for call in calls {
            assert_eq!(answer(call).await, json!(1));
        }
    });
}

#[test]
fn a_host_that_never_gives_credit_gets_no_more_and_nothing_is_lost() {
    test(async {
        let world = World::new("stingy");
        // What waits for credit is held and bounded by the machine, so it fills no queue of the stream.
        world.add_run_args(&["--session-queue-frames-max", "20"]);
        let node = world.bare("host").await;
        let client = node.client().await;
        let stingy = Hello { invocation_credits: 1, ..hello(&["s"], &[]) };
        let mut host = Component::connect(&client, stingy).await.expect("welcome");
        for n in 0..40 {
            tell(&client, service("s"), &format!("m{n}")).await;
        }
        host.next_turn().await;
        assert_silent(&mut host).await;
        drop(host);
        // The next one gets all of them.
        let modest = Hello { concurrency: 10, ..hello(&["s"], &[]) };
        let mut host = wait::until("to host again", READY_LIMIT, async || {
            Component::connect(&client, modest.clone()).await.ok()
        })
        .await;
        let mut come = BTreeSet::new();
        while come.len() < 40 {
            let turn = host.next_turn().await;
            come.insert(turn.method().to_owned());
            turn.finish(&json!(null)).await;
        }
    });
}

#[test]
fn root_turns_take_slots_and_turns_that_wait_for_a_call_do_not() {
    test(async {
        let world = World::new("slots");
        let node = world.bare("host").await;
        let client = node.client().await;
        let hello = Hello { concurrency: 2, ..hello(&["s", "inner"], &[]) };
        let mut host = Component::connect(&client, hello).await.expect("welcome");
        let calls: Vec<_> = (0..4).map(|_| calling(&client, "s", "m")).collect();
        let (first, second) = (host.next_turn().await, host.next_turn().await);
        until_states(&client, "s", 2, 2).await;
        assert_silent(&mut host).await;
        // While the first one waits for its call, its slot is free: for the call, and for a third root.
        let nested = tokio::spawn({
            let first = first.clone();
            async move { first.invoke("inner", "i", &json!(null)).await }
        });
        let (a, b) = (host.next_turn().await, host.next_turn().await);
        let (inner, third) = if a.target().0 == "inner" { (a, b) } else { (b, a) };
        assert_eq!((inner.target().0, third.target().0), ("inner", "s"));
        inner.finish(&json!("in")).await;
        assert_eq!(nested.await.expect("no panic").expect("answered"), Ok(json!("in")));
        for turn in [first, second, third] {
            turn.finish(&json!(1)).await;
        }
        host.next_turn().await.finish(&json!(1)).await;
        for call in calls {
            assert_eq!(answer(call).await, json!(1));
        }
    });
}

#[test]
fn strict_code_runs_only_for_what_is_committed() {
    for strict in [false, true] {
        test(async {
            let world = World::new("strict");
            let node = world.bare("host").await;
            let client = node.client().await;
            let hello = Hello { strict, ..hello(&[], &["A"]) };
            let mut host = Component::connect(&client, hello).await.expect("welcome");
            let call = |method: &'static str| {
                let client = client.clone();
                tokio::spawn(async move { client.call(("A", "1"), method, &json!(null)).await })
            };
            // The partition is owned, and the actor known.
            let warm = call("warm");
            host.next_turn().await.finish(&json!(0)).await;
            answer(warm).await;
            let hub = world.hub().await;
            process::signal(hub, rustix::process::Signal::STOP);
            // Nothing can be committed now.
            let waiting = call("m");
            if strict {
                until_states(&client, "A", 0, 1).await;
                assert_silent_without_hub(&mut host).await;
                process::signal(hub, rustix::process::Signal::CONT);
            }
            let turn = host.next_turn().await;
            assert_eq!(turn.method(), "m");
            process::signal(hub, rustix::process::Signal::CONT);
            turn.finish(&json!(1)).await;
            assert_eq!(answer(waiting).await, json!(1));
        });
    }
}

/// As [`assert_silent`], by a request that needs no hub.
async fn assert_silent_without_hub(host: &mut Component) {
    let nonsense =
        Operation::AwaitOutcome(kar_proto::v1::AwaitRequest { invocation_id: "no".into() });
    let refused = host.handle().request(nonsense).await;
    assert_error(refused, Code::InvalidArgument, "INVALID_FIELD");
    let next = tokio::time::timeout(Duration::ZERO, host.next()).await;
    assert!(next.is_err(), "{next:?} runs for what is not committed");
}

/// Which host answers a call with this affinity key.
async fn host_for(client: &Client, key: &str) -> Value {
    let request = InvokeRequest {
        service: "echo".into(),
        method: "pid".into(),
        affinity_key: key.into(),
        payload: Some(bytes(&json!(null))),
        ..Default::default()
    };
    match client.invocation().invoke(request).await.expect("answered").into_inner().result {
        Some(invoke_response::Result::Payload(payload)) => value(&payload),
        other => panic!("no payload: {other:?}"),
    }
}

#[test]
fn calls_with_one_affinity_key_go_to_one_host() {
    test(async {
        let world = World::new("affinity");
        let nodes = [world.app("a", &["echo"]).await, world.app("b", &["echo"]).await];
        let mut clients = Vec::new();
        for node in &nodes {
            node.hosts("echo").await;
            clients.push(node.client().await);
        }
        // Both own partitions before anything is compared.
        wait::until_true("both to own partitions", READY_LIMIT, async || {
            let (a, b) = (nodes[0].info().await.partitions, nodes[1].info().await.partitions);
            let count = |p: &[String]| p.iter().filter(|p| p.starts_with("s.echo/")).count();
            count(&a) > 0 && count(&b) > 0 && count(&a) + count(&b) == 8
        })
        .await;
        let mut hosts = BTreeSet::new();
        for key in 0..32 {
            let key = format!("key {key}");
            let host = host_for(&clients[0], &key).await;
            for n in 0..4 {
                assert_eq!(host_for(&clients[n % 2], &key).await, host, "{key}");
            }
            hosts.insert(host.to_string());
        }
        assert_eq!(hosts.len(), 2, "32 keys, and one host got all");
    });
}

#[test]
fn invocations_are_listed_by_pages() {
    test(async {
        let world = World::new("pages");
        let node = world.bare("node").await;
        let client = node.client().await;
        for n in 0..10 {
            tell(&client, service("nobody"), &format!("m{n}")).await;
        }
        tell(&client, service("other"), "m").await;
        let page = async |kind: &str, page_size, page_token: String| {
            let request = ListInvocationsRequest { kind: kind.into(), page_size, page_token };
            client.invocation().list_invocations(request).await
        };
        let (mut methods, mut sizes, mut token) = (Vec::new(), Vec::new(), String::new());
        loop {
            let answer = page("nobody", 3, token).await.expect("listed").into_inner();
            sizes.push(answer.invocations.len());
            methods.extend(answer.invocations.into_iter().map(|i| i.method));
            token = answer.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(sizes, [3, 3, 3, 1]);
        // Oldest first; those of one millisecond in any order.
        assert_eq!(methods.iter().collect::<BTreeSet<_>>().len(), 10, "{methods:?}");
        let everything = page("", 0, String::new()).await.expect("listed").into_inner();
        assert_eq!((everything.invocations.len(), everything.next_page_token.as_str()), (11, ""));
        let status = page("", -1, String::new()).await;
        let status = assert_error(status, Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(metadata(&status, "field"), "page_size");
    });
}

#[test]
fn busy_actors_are_listed_by_pages() {
    test(async {
        let world = World::new("busy");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&[], &["A"])).await.expect("welcome");
        for n in 0..7 {
            tell(&client, actor("A", &format!("a{n}")), "m").await;
        }
        tell(&client, actor("A", "a3"), "queued").await;
        let mut turns = Vec::new();
        for _ in 0..7 {
            turns.push(host.next_turn().await);
        }
        let (mut ids, mut queued, mut token) = (Vec::new(), 0, String::new());
        loop {
            let request = ListActorsRequest { r#type: "A".into(), page_size: 3, page_token: token };
            let answer = client.system().list_actors(request).await.expect("listed").into_inner();
            assert!(answer.actors.len() <= 3);
            for info in answer.actors {
                assert!(info.busy, "{info:?}");
                assert_eq!(info.node, "host");
                queued += info.queued;
                ids.push(info.actor.unwrap_or_default().id);
            }
            token = answer.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(ids, (0..7).map(|n| format!("a{n}")).collect::<Vec<_>>(), "each once, in order");
        assert_eq!(queued, 1);
    });
}

#[test]
fn shutdown_ends_the_sidecar_and_its_component_in_order() {
    test(async {
        let world = World::new("shutdown");
        let mut leaving = world.app("leaving", &["echo"]).await;
        leaving.hosts("echo").await;
        let component = leaving.component_pid().await;
        let staying = world.app("staying", &["echo"]).await;
        staying.hosts("echo").await;
        let client = staying.client().await;
        leaving.client().await.system().shutdown(ShutdownRequest {}).await.expect("answered");
        for n in 0..50 {
            let answer = client.invoke("echo", "echo", &json!(n)).await;
            assert_eq!(answer.expect("answered"), Ok(json!(n)), "while it leaves");
        }
        // The component was asked to end by SIGTERM; its code is passed on.
        assert_eq!(leaving.ended(READY_LIMIT).await, 143);
        assert!(!process::alive(component));
        let info = staying.info().await;
        assert_eq!(info.counters["retries"], 0, "it left in order: {:?}", info.counters);
        // A bare sidecar has nothing to wait for.
        let mut bare = world.bare("bare").await;
        bare.client().await.system().shutdown(ShutdownRequest {}).await.expect("answered");
        assert_eq!(bare.ended(READY_LIMIT).await, 0);
    });
}

#[test]
fn a_leaving_sidecar_ends_when_its_clients_have_the_answers_of_others() {
    test(async {
        let world = World::new("patient");
        let (mut front, slow) = (world.bare("front").await, world.app("slow", &["slow"]).await);
        slow.hosts("slow").await;
        let client = front.client().await;
        // Longer than sockets are given to say goodbye.
        let running = tokio::spawn({
            let client = client.clone();
            async move { client.invoke("slow", "work", &json!({ "milliseconds": 2_000 })).await }
        });
        let watcher = slow.client().await;
        until_states(&watcher, "slow", 1, 0).await;
        client.system().shutdown(ShutdownRequest {}).await.expect("answered");
        let done = answer(running).await;
        assert_eq!(done["number"], json!(1), "{done}");
        assert_eq!(front.ended(READY_LIMIT).await, 0);
    });
}

#[test]
fn a_drained_node_owns_nothing_takes_nothing_new_and_finishes_what_runs() {
    test(async {
        let world = World::new("drain");
        let (drained, other) = (world.bare("drained").await, world.app("other", &["echo"]).await);
        let client = drained.client().await;
        let mut host =
            Component::connect(&client, hello(&["s", "echo"], &[])).await.expect("welcome");
        other.hosts("echo").await;
        let running = calling(&client, "s", "running");
        let turn = host.next_turn().await;
        let drain = tokio::spawn({
            let client = client.clone();
            async move { client.system().drain(DrainRequest {}).await }
        });
        wait::until_true("the node to be leaving", READY_LIMIT, async || {
            let request = GetInfoRequest {};
            let info = client.system().get_info(request).await.expect("answered").into_inner();
            info.node.is_some_and(|node| node.leaving)
        })
        .await;
        assert!(!drain.is_finished(), "a turn still runs");
        let refused = client.invoke("echo", "echo", &json!(1)).await;
        assert_error(refused, Code::Unavailable, "DRAINING");
        turn.finish(&json!("finished")).await;
        assert_eq!(answer(running).await, json!("finished"));
        drain.await.expect("no panic").expect("drained");
        assert_eq!(drained.info().await.partitions, [] as [&str; 0]);
        // It is there still, and draining it again is fine.
        client.system().drain(DrainRequest {}).await.expect("drained already");
        let client = other.client().await;
        let answer = client.invoke("echo", "echo", &json!(2)).await;
        assert_eq!(answer.expect("answered"), Ok(json!(2)));
    });
}

#[test]
fn drained_comes_after_the_last_turn_and_the_next_host_may_come() {
    test(async {
        let world = World::new("leave");
        let node = world.bare("host").await;
        let client = node.client().await;
        let mut host = Component::connect(&client, hello(&["s"], &[])).await.expect("welcome");
        let running = calling(&client, "s", "running");
        let turn = host.next_turn().await;
        let second = Component::connect(&client, hello(&["s"], &[])).await;
        assert_error(second, Code::AlreadyExists, "ALREADY_HOSTING");
        host.handle().send(Up::Goodbye(Goodbye {})).await;
        let waiting = calling(&client, "s", "waiting");
        until_states(&client, "s", 1, 1).await;
        // Neither the new call nor `drained` comes while the turn runs.
        assert_silent(&mut host).await;
        turn.finish(&json!(1)).await;
        assert_eq!(answer(running).await, json!(1));
        let next = host.next().await;
        assert!(matches!(next, Incoming::Drained), "{next:?}");
        assert_silent(&mut host).await;
        drop(host);
        let mut host = wait::until("to host again", READY_LIMIT, async || {
            Component::connect(&client, hello(&["s"], &[])).await.ok()
        })
        .await;
        let turn = host.next_turn().await;
        assert_eq!(turn.method(), "waiting");
        turn.finish(&json!(2)).await;
        assert_eq!(answer(waiting).await, json!(2));
        host.goodbye().await;
    });
}
