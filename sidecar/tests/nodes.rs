//! Several sidecars in one process, joined by a real hub: what they do together, and when one of them goes.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use kar::config::{HubCommand, SidecarConfig};
use kar::sidecar::{Sidecar, StartError};
use kar_hub::HubError;
use kar_proto::v1 as pb;
use pb::actor_state_service_client::ActorStateServiceClient;
use pb::component_frame::Frame as Out;
use pb::component_service_client::ComponentServiceClient;
use pb::invocation_service_client::InvocationServiceClient;
use pb::payload::Body;
use pb::sidecar_frame::Frame as In;
use pb::state_service_client::StateServiceClient;
use pb::system_service_client::SystemServiceClient;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Nothing in these tests takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Frames on their way from a host.
const FRAMES_MAX: usize = 1_024;

async fn start(dir: &Path, name: &str) -> Sidecar {
    start_with(dir, name, |_| {}).await
}

async fn start_with(dir: &Path, name: &str, change: impl FnOnce(&mut SidecarConfig)) -> Sidecar {
    let mut config = SidecarConfig::new("nodes").expect("a name");
    config.data_dir = dir.to_owned();
    config.node_name = Some(name.to_owned());
    config.hub = Some(HubCommand {
        program: env!("CARGO_BIN_EXE_kar").into(),
        args: ["hub", "--data-dir"]
            .map(String::from)
            .into_iter()
            .chain([dir.display().to_string()])
            .chain(["--durability", "os", "--idle-exit", "1s"].map(String::from))
            .collect(),
    });
    change(&mut config);
    Sidecar::start(config).await.expect("it starts")
}

async fn channel(sidecar: &Sidecar) -> Channel {
    let path = sidecar.socket().to_owned();
    let connect = move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    };
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(connect))
        .await
        .expect("the sidecar listens")
}

/// Hosts the actor type `Account` on a sidecar: `who` answers the host's name; `set` writes the argument under the key
/// `k` first; `never` does not answer.
async fn host(sidecar: &Sidecar, name: &'static str) -> tokio::task::AbortHandle {
    let (frames, stream) = mpsc::channel(FRAMES_MAX);
    let send = move |frame: Out| {
        let frames = frames.clone();
        async move {
            let frames_of = vec![pb::ComponentFrame { frame: Some(frame) }];
            // The end of the stream is the end of the host: the test notices by what is missing.
            drop(frames.send(pb::ConnectRequest { frames: frames_of }).await);
        }
    };
    let actor_types = vec![pb::HostedActorType { name: "Account".into(), ..Default::default() }];
    let hello = pb::Hello { protocol_version: 1, actor_types, ..pb::Hello::default() };
    send(Out::Hello(hello)).await;
    let mut client = ComponentServiceClient::new(channel(sidecar).await);
    let inbound = client.connect(ReceiverStream::new(stream)).await.expect("it may host");
    let mut inbound = inbound.into_inner();
    let first = inbound.message().await.expect("open").expect("open").frames;
    assert!(matches!(first[0].frame, Some(In::Welcome(_))), "{first:?}");
    let task = tokio::spawn(async move {
        while let Ok(Some(message)) = inbound.message().await {
            for frame in message.frames {
                let Some(In::Invocation(turn)) = frame.frame else { continue };
                run(&send, *turn, name).await;
            }
        }
    });
    task.abort_handle()
}

async fn run<F: Future<Output = ()>>(
    send: &impl Fn(Out) -> F,
    turn: pb::InvocationFrame,
    name: &'static str,
) {
    let turn_token = turn.turn_token;
    if turn.method == "never" {
        return;
    }
    if turn.method == "set" {
        let set = pb::StateEntry { key: "k".into(), value: turn.payload };
        let change = pb::StateChange { change: Some(pb::state_change::Change::Set(set)) };
        let turn_token = turn_token.clone();
        let apply = pb::ApplyRequest { turn_token, changes: vec![change] };
        let operation = Some(pb::request::Operation::ActorStateApply(apply));
        send(Out::Request(Box::new(pb::Request { id: 1, operation }))).await;
    }
    let result = Some(pb::turn_outcome::Result::Payload(text(name)));
    send(Out::TurnResult(pb::TurnOutcome { turn_token, result })).await;
}

fn text(text: &'static str) -> pb::Payload {
    pb::Payload { body: Some(Body::Data(text.into())), content_type: "text/plain".into() }
}

fn actor(id: &str) -> pb::ActorTarget {
    pb::ActorTarget { r#type: "Account".into(), id: id.into() }
}

/// Calls an actor through a sidecar; returns the text of the answer.
async fn call(sidecar: &Sidecar, id: &str, method: &str) -> Result<String, Status> {
    let mut client = InvocationServiceClient::new(channel(sidecar).await);
    let request = pb::CallActorRequest {
        actor: Some(actor(id)),
        method: method.into(),
        payload: Some(text("7")),
        ..pb::CallActorRequest::default()
    };
    let answer = tokio::time::timeout(PATIENCE, client.call_actor(request)).await;
    let answer = answer.expect("no call hangs")?.into_inner();
    match answer.result {
        Some(pb::call_actor_response::Result::Payload(payload)) => match payload.body {
            Some(Body::Data(data)) => Ok(String::from_utf8(data.to_vec()).expect("text")),
            other => panic!("not bytes: {other:?}"),
        },
        other => panic!("not a payload: {other:?}"),
    }
}

/// Waits until a condition holds.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let reached = async {
        while !holds().await {
            // Between two looks at the condition; what is waited for is the condition, within PATIENCE.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect("the condition comes to hold");
}

#[tokio::test]
async fn a_call_crosses_from_one_node_to_another() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let front = start(dir.path(), "front").await;
    let back = start(dir.path(), "back").await;
    host(&back, "back").await;
    for id in ["a", "b", "c", "d"] {
        assert_eq!(call(&front, id, "who").await.expect("an answer"), "back");
    }
    let mut system = SystemServiceClient::new(channel(&front).await);
    let nodes = system.list_nodes(pb::ListNodesRequest {}).await.expect("a list").into_inner();
    let names: Vec<_> = nodes.nodes.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["front", "back"]);
    assert_eq!(nodes.nodes[1].actor_types, ["Account"]);
}

#[tokio::test]
async fn peers_may_talk_over_tcp() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let tcp = |config: &mut SidecarConfig| {
        config.peer_listen = Some(([127, 0, 0, 1], 0).into());
    };
    let front = start_with(dir.path(), "front", tcp).await;
    let back = start_with(dir.path(), "back", tcp).await;
    host(&back, "back").await;
    assert_eq!(call(&front, "a", "who").await.expect("an answer"), "back");
    let mut system = SystemServiceClient::new(channel(&front).await);
    let nodes = system.list_nodes(pb::ListNodesRequest {}).await.expect("a list").into_inner();
    assert!(nodes.nodes.iter().all(|n| n.address.starts_with("tcp:127.0.0.1:")), "{nodes:?}");
}

#[tokio::test]
async fn when_a_host_goes_its_calls_are_answered_by_another_one() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let front = start(dir.path(), "front").await;
    let (one, two) = (start(dir.path(), "one").await, start(dir.path(), "two").await);
    host(&one, "one").await;
    host(&two, "two").await;
    let mut owned_by_one = None;
    until(async || {
        for id in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            if call(&front, id, "who").await.expect("an answer") == "one" {
                owned_by_one = Some(id);
            }
        }
        owned_by_one.is_some()
    })
    .await;
    let id = owned_by_one.expect("it was just found");
    // The call is under way on the one when that goes without a word.
    let never = call(&front, id, "never");
    let mut never = std::pin::pin!(never);
    let turns = one.counters()["turns"];
    tokio::select! {
        answer = &mut never => panic!("nobody answers that: {answer:?}"),
        () = until(async || one.counters()["turns"] > turns) => {}
    }
    let turns = two.counters()["turns"];
    drop(one);
    assert_eq!(call(&front, "z", "who").await.expect("an answer"), "two");
    // Counted by turns, not by retries: if the one went before it had logged the call, nobody knows of a first attempt.
    until(async || two.counters()["turns"] >= turns + 2).await;
}

#[tokio::test]
async fn a_drained_node_owns_nothing_and_nobody_notices() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let front = start(dir.path(), "front").await;
    let (one, two) = (start(dir.path(), "one").await, start(dir.path(), "two").await);
    host(&one, "one").await;
    host(&two, "two").await;
    let ids: Vec<_> = (0..16).map(|n| format!("actor-{n}")).collect();
    for id in &ids {
        call(&front, id, "who").await.expect("an answer");
    }
    assert!(one.drain().await, "the hand-over ends in time");
    let mut system = SystemServiceClient::new(channel(&one).await);
    let info = system.get_info(pb::GetInfoRequest {}).await.expect("info").into_inner();
    assert_eq!(info.partitions, Vec::<String>::new());
    assert!(info.node.expect("it is a member").leaving);
    for id in &ids {
        assert_eq!(call(&front, id, "who").await.expect("an answer"), "two");
    }
    one.shutdown().await;
    let mut system = SystemServiceClient::new(channel(&front).await);
    until(async || {
        let nodes = system.list_nodes(pb::ListNodesRequest {}).await.expect("a list");
        nodes.into_inner().nodes.len() == 2
    })
    .await;
}

#[tokio::test]
async fn what_an_actor_wrote_can_be_read_from_any_node() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let front = start(dir.path(), "front").await;
    let back = start(dir.path(), "back").await;
    host(&back, "back").await;
    call(&front, "alice", "set").await.expect("an answer");
    let mut states = ActorStateServiceClient::new(channel(&front).await);
    let request = pb::GetAllRequest { actor: Some(actor("alice")), turn_token: String::new() };
    let state = states.get_all(request).await.expect("a state").into_inner();
    assert_eq!(state.entries, [("k".to_owned(), text("7"))].into());
    let nobody = pb::ActorTarget { r#type: "Unused".into(), id: "x".into() };
    let request = pb::GetAllRequest { actor: Some(nobody), turn_token: String::new() };
    let state = states.get_all(request).await.expect("a state").into_inner();
    assert!(state.entries.is_empty());
}

#[tokio::test]
async fn unfinished_invocations_and_busy_actors_are_listed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let front = start(dir.path(), "front").await;
    let back = start(dir.path(), "back").await;
    host(&back, "back").await;
    let mut client = InvocationServiceClient::new(channel(&front).await);
    let target = pb::Target { kind: Some(pb::target::Kind::Actor(actor("alice"))) };
    let tell = pb::TellRequest {
        target: Some(target.clone()),
        method: "never".into(),
        ..pb::TellRequest::default()
    };
    let id = client.tell(tell).await.expect("it is accepted").into_inner().invocation_id;
    let mut listed = Vec::new();
    until(async || {
        let list = pb::ListInvocationsRequest::default();
        let list = client.list_invocations(list).await.expect("a list").into_inner();
        listed = list.invocations;
        listed.first().is_some_and(|i| i.state() == pb::InvocationState::Running)
    })
    .await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].invocation_id, id);
    assert_eq!(listed[0].target, Some(target));
    assert_eq!((listed[0].node.as_str(), listed[0].method.as_str()), ("back", "never"));
    let mut system = SystemServiceClient::new(channel(&front).await);
    let actors = system.list_actors(pb::ListActorsRequest::default()).await.expect("a list");
    let actors = actors.into_inner().actors;
    assert_eq!(actors.len(), 1);
    assert!(actors[0].busy);
}

#[tokio::test]
async fn the_applications_state_is_shared_and_conditional() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (one, two) = (start(dir.path(), "one").await, start(dir.path(), "two").await);
    let mut first = StateServiceClient::new(channel(&one).await);
    let mut second = StateServiceClient::new(channel(&two).await);
    let set = |value, etag: &str| pb::SetRequest {
        key: "k".into(),
        value: Some(text(value)),
        etag: etag.into(),
        ..pb::SetRequest::default()
    };
    let etag = first.set(set("1", "*")).await.expect("it was absent").into_inner().etag;
    let refused = second.set(set("2", "*")).await.expect_err("it is there");
    assert_eq!(refused.code(), Code::Aborted);
    second.set(set("3", &etag)).await.expect("nobody wrote in between");
    let get = pb::StateServiceGetRequest { key: "k".into() };
    let value = first.get(get).await.expect("it is there").into_inner().value;
    assert_eq!(value, Some(text("3")));
    let delete = pb::DeleteRequest { key: "k".into(), ..pb::DeleteRequest::default() };
    assert!(first.delete(delete).await.expect("it may").into_inner().existed);
}

#[tokio::test]
async fn a_shutdown_that_is_asked_for_is_the_callers_to_carry_out() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let one = start(dir.path(), "one").await;
    let mut system = SystemServiceClient::new(channel(&one).await);
    system.shutdown(pb::ShutdownRequest {}).await.expect("it is taken");
    tokio::time::timeout(PATIENCE, one.ended()).await.expect("the caller learns of it");
    let socket = one.socket().to_owned();
    one.shutdown().await;
    assert!(!socket.exists(), "the socket is removed");
}

#[tokio::test]
async fn an_unusable_data_folder_is_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("it can be written");
    let mut config = SidecarConfig::new("nodes").expect("a name");
    config.data_dir = file.clone();
    let error = Sidecar::start(config).await.expect_err("it is a file");
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
}

/// `start_timeout_ms`: who finds no hub in time says so, nobody is held up by that, and who may wait longer finds it.
#[tokio::test]
async fn a_start_without_a_hub_ends_in_time_by_name() {
    let (dir, other) = (tempfile::tempdir(), tempfile::tempdir());
    let (dir, other) = (dir.expect("a temporary folder"), other.expect("a temporary folder"));
    let waiting = |patience| {
        let mut config = SidecarConfig::new("nodes").expect("a name");
        config.data_dir = dir.path().to_owned();
        config.bounds.start_timeout_ms = patience;
        tokio::spawn(Sidecar::start(config))
    };
    let (hasty, patient) = (waiting(200), waiting(3_600_000));
    let elsewhere = start(other.path(), "elsewhere").await;
    host(&elsewhere, "elsewhere").await;
    assert_eq!(call(&elsewhere, "a", "who").await.expect("an answer"), "elsewhere");
    let ended = tokio::time::timeout(PATIENCE, hasty).await.expect("in time").expect("no panic");
    let error = ended.expect_err("there is no hub");
    assert!(matches!(error, StartError::Hub(HubError::Unavailable { .. })), "{error}");
    assert!(error.to_string().contains("no hub at"), "{error}");
    assert!(!patient.is_finished(), "that one waits for longer");
    let _brings_it = start(dir.path(), "brings it").await;
    let patient = tokio::time::timeout(PATIENCE, patient).await.expect("it comes");
    let patient = patient.expect("no panic").expect("it starts");
    host(&patient, "patient").await;
    assert_eq!(call(&patient, "a", "who").await.expect("an answer"), "patient");
}

/// `backend_timeout_ms`: who asks a hub that is away is told by name, what needs no hub goes on, and who may wait for
/// longer has the answer when there is one again.
#[tokio::test]
async fn requests_to_a_hub_that_is_away_end_in_time_by_name() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let of =
        |patience| move |config: &mut SidecarConfig| config.bounds.backend_timeout_ms = patience;
    let hasty = start_with(dir.path(), "hasty", of(200)).await;
    let patient = start_with(dir.path(), "patient", of(3_600_000)).await;
    let mut there = StateServiceClient::new(channel(&hasty).await);
    let set = pb::SetRequest { key: "k".into(), value: Some(text("1")), ..Default::default() };
    there.set(set).await.expect("the hub is there");
    freeze_hub(dir.path());
    let get = || pb::StateServiceGetRequest { key: "k".into() };
    let mut waiting = StateServiceClient::new(channel(&patient).await);
    let waiting = tokio::spawn(async move { waiting.get(get()).await });
    let asked = tokio::time::timeout(PATIENCE, there.get(get())).await.expect("in time");
    let status = asked.expect_err("the hub is away");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().expect("a reason").reason, "BACKEND_UNAVAILABLE");
    let mut system = SystemServiceClient::new(channel(&hasty).await);
    let nodes = system.list_nodes(pb::ListNodesRequest {}).await.expect("it needs no hub");
    assert_eq!(nodes.into_inner().nodes.len(), 2);
    // A hub that hangs is replaced.
    let answer = tokio::time::timeout(PATIENCE, waiting).await.expect("in time");
    let answer = answer.expect("no panic").expect("an answer").into_inner();
    assert_eq!(answer.value, Some(text("1")));
    until(async || there.get(get()).await.is_ok()).await;
}

/// Stops the process of a folder's hub; it does not end by that.
fn freeze_hub(dir: &Path) {
    let recorded = std::fs::read_to_string(dir.join("hub.pid")).expect("a hub runs");
    let pid = recorded.split(' ').next().and_then(|pid| pid.parse().ok());
    let pid = pid.and_then(Pid::from_raw).expect("its process id");
    kill_process(pid, Signal::STOP).expect("it is there");
}
