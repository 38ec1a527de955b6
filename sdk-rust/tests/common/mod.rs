//! A fake sidecar in this process: speaks `kar.v1.ComponentService/Connect` over a Unix socket as
//! the contract says, with everything in memory. One application, any number of streams. It is
//! strict about the protocol: a violation ends the stream and is in [`Fake::violations`].
#![allow(dead_code)] // Each test binary uses its part.
#![allow(clippy::unwrap_used)] // All of this is test code.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kar_proto::google::rpc;
use kar_proto::v1 as proto;
use kar_proto::v1::component_frame::Frame as FromComponent;
use kar_proto::v1::component_service_server::{ComponentService, ComponentServiceServer};
use kar_proto::v1::request::Operation;
use kar_proto::v1::response::Result as Answer;
use kar_proto::v1::sidecar_frame::Frame as ToComponent;
use kar_proto::v1::target::Kind;
use kar_proto::v1::turn_outcome::Result as Outcome;
use prost::Message as _;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

/// How long a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The fake sidecar; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) socket: PathBuf,
    pub(crate) port: u16,
    world: Arc<Mutex<World>>,
    /// Counts what happened, so that tests can wait for more to happen.
    changed: watch::Sender<u64>,
    _folder: Arc<tempfile::TempDir>,
}

type Responses = mpsc::UnboundedSender<Result<proto::ConnectResponse, Status>>;
type Actor = (String, String);

#[derive(Default)]
struct World {
    credits: i32,
    message_bytes_max: i64,
    token: Option<String>,
    refuse_applies: bool,
    hold_drained: bool,
    next: u64,
    streams: BTreeMap<u64, StreamState>,
    turns: HashMap<String, TurnState>,
    waiting: VecDeque<Invocation>,
    busy: HashMap<Actor, VecDeque<Invocation>>,
    actors: HashMap<Actor, BTreeMap<String, proto::Payload>>,
    state: BTreeMap<String, proto::Payload>,
    started: HashMap<String, Option<Outcome>>,
    awaiting: Vec<(String, Origin)>,
    /// What components sent, one word each.
    log: Vec<String>,
    violations: Vec<String>,
    messages: usize,
}

struct StreamState {
    responses: Responses,
    hello: proto::Hello,
    under_way: HashMap<u64, ()>,
    leaving: bool,
}

/// Who waits for an answer.
#[derive(Clone, Copy)]
struct Origin {
    stream: u64,
    request: u64,
    actor: bool,
}

#[derive(Clone)]
struct Invocation {
    id: String,
    target: Kind,
    method: String,
    payload: Option<proto::Payload>,
    mode: proto::InvocationMode,
    origin: Option<Origin>,
    trace_parent: String,
}

struct TurnState {
    stream: u64,
    invocation: Invocation,
    overlay: BTreeMap<String, Option<proto::Payload>>,
    cancelled: bool,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("kar.sock");
        let world = World { credits: 100, message_bytes_max: 4 << 20, ..World::default() };
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let fake = Self {
            socket,
            port,
            world: Arc::new(Mutex::new(world)),
            changed: watch::channel(0).0,
            _folder: Arc::new(folder),
        };
        let listener = UnixListener::bind(&fake.socket).unwrap();
        let service = ComponentServiceServer::new(fake.clone())
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(64 << 20);
        let server = || tonic::transport::Server::builder().add_service(service.clone());
        tokio::spawn(server().serve_with_incoming(UnixListenerStream::new(listener)));
        tokio::spawn(server().serve_with_incoming(TcpListenerStream::new(tcp)));
        fake
    }

    pub(crate) fn set_credits(&self, credits: i32) {
        self.lock().credits = credits;
    }

    pub(crate) fn set_message_bytes_max(&self, bytes: i64) {
        self.lock().message_bytes_max = bytes;
    }

    pub(crate) fn set_token(&self, token: &str) {
        self.lock().token = Some(token.to_owned());
    }

    pub(crate) fn refuse_applies(&self) {
        self.lock().refuse_applies = true;
    }

    pub(crate) fn hold_drained(&self) {
        self.lock().hold_drained = true;
    }

    /// Ends every stream with a status, as the death of the sidecar would.
    pub(crate) fn break_streams(&self) {
        let mut world = self.lock();
        for (_, stream) in std::mem::take(&mut world.streams) {
            let _ = stream.responses.send(Err(Status::unavailable("broken by the test")));
        }
        world.turns.clear();
        world.waiting.clear();
        world.busy.clear();
        drop(world);
        self.notify();
    }

    /// Cancels every running turn of the method.
    pub(crate) fn cancel_turns(&self, method: &str) {
        let mut world = self.lock();
        let World { turns, streams, .. } = &mut *world;
        for (token, turn) in turns.iter_mut().filter(|(_, t)| t.invocation.method == method) {
            turn.cancelled = true;
            let cancel = proto::CancelTurn {
                turn_token: token.clone(),
                reason: proto::CancelReason::Superseded.into(),
            };
            send(&streams[&turn.stream], ToComponent::CancelTurn(cancel));
        }
    }

    /// Makes requests of every running turn of the method superseded, without telling.
    pub(crate) fn supersede(&self, method: &str) {
        for turn in self.lock().turns.values_mut().filter(|t| t.invocation.method == method) {
            turn.cancelled = true;
        }
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    pub(crate) fn messages(&self) -> usize {
        self.lock().messages
    }

    pub(crate) fn hellos(&self) -> Vec<proto::Hello> {
        self.lock().streams.values().map(|s| s.hello.clone()).collect()
    }

    pub(crate) fn actor_keys(&self, actor_type: &str, id: &str) -> Vec<String> {
        let actor = (actor_type.to_owned(), id.to_owned());
        self.lock().actors.get(&actor).map(|s| s.keys().cloned().collect()).unwrap_or_default()
    }

    pub(crate) fn streams(&self) -> usize {
        self.lock().streams.len()
    }

    pub(crate) fn running(&self, method: &str) -> usize {
        self.lock().turns.values().filter(|t| t.invocation.method == method).count()
    }

    /// Waits until something holds.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Fake) -> bool) {
        let mut changes = self.changed.subscribe();
        let waiting = async {
            while !holds(self) {
                changes.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("not within {PATIENCE:?}: {what}; log {:?}", self.log());
        }
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn end_stream(&self, stream: u64) {
        let mut world = self.lock();
        world.streams.remove(&stream);
        world.turns.retain(|_, turn| turn.stream != stream);
        drop(world);
        self.notify();
    }
}

#[tonic::async_trait]
impl ComponentService for Fake {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<proto::ConnectResponse, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<proto::ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        if let Some(token) = &self.lock().token {
            let given = request.metadata().get("authorization").map(|v| v.to_str().unwrap());
            if given != Some(&format!("Bearer {token}")) {
                return Err(Status::unauthenticated("wrong API token"));
            }
        }
        #[allow(clippy::disallowed_methods)] // A test's load is its bound.
        let (responses, receiver) = mpsc::unbounded_channel();
        let (fake, mut inbound) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            let stream = {
                let mut world = fake.lock();
                world.next += 1;
                world.next
            };
            while let Some(Ok(message)) = inbound.next().await {
                assert!(message.frames.len() <= 16, "{} frames in a message", message.frames.len());
                let mut world = fake.lock();
                world.messages += 1;
                for frame in message.frames {
                    if let Err(violation) = world.on_frame(stream, &responses, frame.frame) {
                        world.violations.push(violation.clone());
                        let _ = responses.send(Err(Status::invalid_argument(violation)));
                    }
                }
                drop(world);
                fake.notify();
            }
            drop(responses);
            fake.end_stream(stream);
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }
}

fn send(stream: &StreamState, frame: ToComponent) {
    let frames = vec![proto::SidecarFrame { frame: Some(frame) }];
    let _ = stream.responses.send(Ok(proto::ConnectResponse { frames }));
}

pub(crate) fn status(code: tonic::Code, reason: &str) -> Answer {
    let info = tonic_types::pb::ErrorInfo {
        reason: reason.to_owned(),
        domain: "kar".to_owned(),
        metadata: HashMap::from([("limit".to_owned(), "segment-bytes-max".to_owned())]),
    };
    let any = prost_types::Any {
        type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(),
        value: info.encode_to_vec(),
    };
    let message = format!("said by the test: {reason}");
    Answer::Status(rpc::Status { code: code as i32, message, details: vec![any] })
}

impl World {
    fn on_frame(
        &mut self,
        stream: u64,
        responses: &Responses,
        frame: Option<FromComponent>,
    ) -> Result<(), String> {
        if let Some(FromComponent::Hello(hello)) = frame {
            return self.on_hello(stream, responses, hello);
        }
        if !self.streams.contains_key(&stream) {
            // Broken by the test: what still comes is lost.
            return Ok(());
        }
        match frame {
            Some(FromComponent::Request(request)) => {
                let id = request.id;
                let credits = self.credits as usize;
                let state = self.streams.get_mut(&stream).unwrap();
                if state.under_way.insert(id, ()).is_some() {
                    return Err(format!("request number {id} used twice"));
                }
                if state.under_way.len() > credits {
                    return Err("requests overrun the credits".to_owned());
                }
                let operation = request.operation.ok_or("a request without operation")?;
                let origin = Origin { stream, request: id, actor: false };
                if let Some(answer) = self.on_operation(origin, operation) {
                    self.answer(origin, answer);
                }
            }
            Some(FromComponent::TurnResult(outcome)) => self.on_outcome(outcome)?,
            Some(FromComponent::Goodbye(_)) => {
                self.log.push("goodbye".to_owned());
                self.streams.get_mut(&stream).unwrap().leaving = true;
                self.drain();
            }
            Some(FromComponent::Credit(_)) | None => {}
            Some(FromComponent::Hello(_)) => unreachable!(),
        }
        Ok(())
    }

    fn on_hello(
        &mut self,
        stream: u64,
        responses: &Responses,
        hello: proto::Hello,
    ) -> Result<(), String> {
        if self.streams.contains_key(&stream) {
            return Err("a second hello".to_owned());
        }
        let hosts = |h: &proto::Hello| !h.services.is_empty() || !h.actor_types.is_empty();
        if hosts(&hello) && self.streams.values().any(|s| hosts(&s.hello)) {
            let _ = responses.send(Err(Status::already_exists("there is a host stream")));
            return Ok(());
        }
        self.log.push("hello".to_owned());
        let state = StreamState {
            responses: responses.clone(),
            hello,
            under_way: HashMap::new(),
            leaving: false,
        };
        let welcome = proto::Welcome {
            protocol_version: 1,
            node: "fake".to_owned(),
            incarnation: stream,
            application: "test".to_owned(),
            sidecar_version: "0".to_owned(),
            message_bytes_max: self.message_bytes_max,
            request_credits: self.credits,
        };
        send(&state, ToComponent::Welcome(welcome));
        self.streams.insert(stream, state);
        for invocation in std::mem::take(&mut self.waiting) {
            self.dispatch(invocation);
        }
        Ok(())
    }

    fn on_operation(&mut self, origin: Origin, operation: Operation) -> Option<Answer> {
        match operation {
            Operation::Invoke(r) => {
                self.flush(&r.turn_token);
                self.log.push(format!("invoke {}", r.method));
                let direct = r.delivery_mode() == proto::DeliveryMode::Direct;
                let mode = match direct {
                    true => proto::InvocationMode::Direct,
                    false => proto::InvocationMode::Call,
                };
                if direct && self.host_of_service(&r.service).is_none() {
                    return Some(status(tonic::Code::Unavailable, "NO_HOST"));
                }
                let service =
                    proto::ServiceTarget { name: r.service, affinity_key: r.affinity_key };
                let target = Kind::Service(service);
                self.invoke(Some(origin), target, r.method, r.payload, mode, r.options);
                None
            }
            Operation::CallActor(r) => {
                if self.superseded(&r.turn_token) {
                    return Some(status(tonic::Code::Aborted, "TURN_SUPERSEDED"));
                }
                self.flush(&r.turn_token);
                self.log.push(format!("call {}", r.method));
                let origin = Some(Origin { actor: true, ..origin });
                let (target, mode) = (Kind::Actor(r.actor.unwrap()), proto::InvocationMode::Call);
                self.invoke(origin, target, r.method, r.payload, mode, r.options);
                None
            }
            Operation::Tell(r) => {
                self.log.push(format!("tell {}", r.method));
                let (target, mode) = (r.target.unwrap().kind.unwrap(), proto::InvocationMode::Tell);
                let id = self.invoke(None, target, r.method, r.payload, mode, r.options);
                Some(Answer::Tell(proto::TellResponse { invocation_id: id }))
            }
            Operation::Start(r) => {
                self.log.push(format!("start {}", r.method));
                let (target, mode) =
                    (r.target.unwrap().kind.unwrap(), proto::InvocationMode::Start);
                let id = self.invoke(None, target, r.method, r.payload, mode, r.options);
                self.started.entry(id.clone()).or_default();
                Some(Answer::Start(proto::StartResponse { invocation_id: id }))
            }
            Operation::AwaitOutcome(r) => {
                self.log.push("await".to_owned());
                match self.started.get(&r.invocation_id) {
                    None => Some(status(tonic::Code::NotFound, "UNKNOWN_INVOCATION")),
                    Some(Some(outcome)) => Some(awaited(outcome.clone())),
                    Some(None) => {
                        self.awaiting.push((r.invocation_id, origin));
                        None
                    }
                }
            }
            other => Some(self.on_state_operation(other)),
        }
    }

    fn on_state_operation(&mut self, operation: Operation) -> Answer {
        match operation {
            Operation::ActorStateGet(r) => {
                self.log.push("get".to_owned());
                let all = self.view(&r.turn_token);
                let entries = all.into_iter().filter(|(k, _)| r.keys.contains(k)).collect();
                Answer::ActorStateGet(proto::ActorStateServiceGetResponse { entries })
            }
            Operation::ActorStateGetAll(r) => {
                let entries = match r.actor {
                    Some(a) => self.actors.get(&(a.r#type, a.id)).cloned().unwrap_or_default(),
                    None => self.view(&r.turn_token),
                };
                let entries = entries.into_iter().collect();
                Answer::ActorStateGetAll(proto::GetAllResponse { entries })
            }
            Operation::ActorStateContains(r) => {
                let exists = self.view(&r.turn_token).contains_key(&r.key);
                Answer::ActorStateContains(proto::ContainsResponse { exists })
            }
            Operation::ActorStateApply(r) => {
                self.log.push(format!("apply {}", r.changes.len()));
                if self.refuse_applies {
                    return status(tonic::Code::ResourceExhausted, "LIMIT_REACHED");
                }
                for change in r.changes {
                    self.apply(&r.turn_token, change.change.unwrap());
                }
                Answer::ActorStateApply(proto::ApplyResponse {})
            }
            Operation::Flush(r) => {
                self.log.push("flush".to_owned());
                self.flush(&r.turn_token);
                Answer::Flush(proto::FlushResponse {})
            }
            Operation::StateGet(r) => {
                let value = self.state.get(&r.key).cloned();
                let etag = value.as_ref().map_or(String::new(), etag);
                Answer::StateGet(proto::StateServiceGetResponse { value, etag })
            }
            Operation::StateSet(r) => {
                assert!(!r.request_id.is_empty());
                let now = self.state.get(&r.key).map(etag);
                let holds = match r.etag.as_str() {
                    "" => true,
                    "*" => now.is_none(),
                    wanted => now.as_deref() == Some(wanted),
                };
                if !holds {
                    return status(tonic::Code::Aborted, "CONDITION_FAILED");
                }
                let value = r.value.unwrap();
                let etag = etag(&value);
                self.state.insert(r.key, value);
                Answer::StateSet(proto::SetResponse { etag })
            }
            Operation::StateDelete(r) => {
                let existed = self.state.remove(&r.key).is_some();
                Answer::StateDelete(proto::DeleteResponse { existed })
            }
            Operation::StateList(r) => {
                let size = if r.page_size == 0 { 100 } else { r.page_size as usize };
                let mut entries: Vec<_> = self
                    .state
                    .iter()
                    .filter(|(k, _)| k.starts_with(&r.prefix) && **k > r.page_token)
                    .map(|(k, v)| proto::StateEntry { key: k.clone(), value: Some(v.clone()) })
                    .take(size + 1)
                    .collect();
                let more = entries.len() > size;
                entries.truncate(size);
                let next_page_token = match entries.last() {
                    Some(last) if more => last.key.clone(),
                    _ => String::new(),
                };
                Answer::StateList(proto::ListResponse { entries, next_page_token })
            }
            other => panic!("no state operation: {other:?}"),
        }
    }

    fn superseded(&self, token: &str) -> bool {
        !token.is_empty() && self.turns.get(token).is_none_or(|turn| turn.cancelled)
    }

    fn view(&self, token: &str) -> BTreeMap<String, proto::Payload> {
        let turn = &self.turns[token];
        let mut view = self.actors.get(&actor(&turn.invocation)).cloned().unwrap_or_default();
        for (key, value) in &turn.overlay {
            match value {
                Some(value) => view.insert(key.clone(), value.clone()),
                None => view.remove(key),
            };
        }
        view
    }

    fn apply(&mut self, token: &str, change: proto::state_change::Change) {
        use proto::state_change::Change;
        let keys: Vec<String> = self.view(token).into_keys().collect();
        let overlay = &mut self.turns.get_mut(token).unwrap().overlay;
        match change {
            Change::Set(entry) => drop(overlay.insert(entry.key, entry.value)),
            Change::Remove(key) => drop(overlay.insert(key, None)),
            Change::Clear(_) => overlay.extend(keys.into_iter().map(|key| (key, None))),
        }
    }

    /// Makes the turn's segment durable.
    fn flush(&mut self, token: &str) {
        if token.is_empty() || !self.turns.contains_key(token) {
            return;
        }
        let view = self.view(token);
        let turn = self.turns.get_mut(token).unwrap();
        turn.overlay.clear();
        if matches!(turn.invocation.target, Kind::Actor(_)) {
            self.actors.insert(actor(&turn.invocation), view);
        }
    }

    fn invoke(
        &mut self,
        origin: Option<Origin>,
        target: Kind,
        method: String,
        payload: Option<proto::Payload>,
        mode: proto::InvocationMode,
        options: Option<proto::InvocationOptions>,
    ) -> String {
        self.next += 1;
        let id = format!("i{}", self.next);
        let trace_parent = options.unwrap_or_default().trace_parent;
        let invocation =
            Invocation { id: id.clone(), target, method, payload, mode, origin, trace_parent };
        self.dispatch(invocation);
        id
    }

    fn dispatch(&mut self, invocation: Invocation) {
        if let Kind::Actor(_) = &invocation.target
            && let Some(queue) = self.busy.get_mut(&actor(&invocation))
        {
            queue.push_back(invocation);
            return;
        }
        let host = match &invocation.target {
            Kind::Service(service) => self.host_of_service(&service.name),
            Kind::Actor(actor) => self
                .host(|hello| hello.actor_types.iter().any(|hosted| hosted.name == actor.r#type)),
        };
        let Some(stream) = host else {
            self.waiting.push_back(invocation);
            return;
        };
        if let Kind::Actor(_) = &invocation.target {
            self.busy.insert(actor(&invocation), VecDeque::new());
        }
        self.next += 1;
        let turn_token = format!("t{}", self.next);
        let frame = proto::InvocationFrame {
            turn_token: turn_token.clone(),
            target: Some(proto::Target { kind: Some(invocation.target.clone()) }),
            method: invocation.method.clone(),
            payload: invocation.payload.clone(),
            mode: invocation.mode.into(),
            attempt: 1,
            start_before_time: None,
            trace_parent: invocation.trace_parent.clone(),
        };
        let turn = TurnState { stream, invocation, overlay: BTreeMap::new(), cancelled: false };
        self.turns.insert(turn_token, turn);
        send(&self.streams[&stream], ToComponent::Invocation(frame));
    }

    fn host_of_service(&self, name: &str) -> Option<u64> {
        self.host(|hello| hello.services.iter().any(|hosted| hosted.name == name))
    }

    fn host(&self, offers: impl Fn(&proto::Hello) -> bool) -> Option<u64> {
        self.streams.iter().find(|(_, s)| !s.leaving && offers(&s.hello)).map(|(id, _)| *id)
    }

    fn on_outcome(&mut self, outcome: proto::TurnOutcome) -> Result<(), String> {
        let token = outcome.turn_token;
        let result = outcome.result.ok_or("a turn without result")?;
        if !self.turns.contains_key(&token) {
            return Err(format!("a result of no turn: {token}"));
        }
        let what = match &result {
            Outcome::Payload(_) => "done",
            Outcome::Error(_) => "failed",
            Outcome::Cancelled(_) => "cancelled",
        };
        if let Outcome::Payload(_) = result {
            self.flush(&token);
        }
        let turn = self.turns.remove(&token).unwrap();
        let invocation = turn.invocation;
        self.log.push(format!("{what} {}", invocation.method));
        if let Kind::Actor(_) = invocation.target {
            for next in self.busy.remove(&actor(&invocation)).unwrap_or_default() {
                self.dispatch(next);
            }
        }
        self.drain();
        if turn.cancelled || matches!(result, Outcome::Cancelled(_)) {
            return Ok(()); // Another attempt would come; no test needs it.
        }
        if invocation.mode == proto::InvocationMode::Start {
            self.started.insert(invocation.id.clone(), Some(result.clone()));
            let waiters = std::mem::take(&mut self.awaiting);
            for (id, origin) in waiters {
                match id == invocation.id {
                    true => self.answer(origin, awaited(result.clone())),
                    false => self.awaiting.push((id, origin)),
                }
            }
        }
        if let Some(origin) = invocation.origin {
            let answer = called(origin.actor, invocation.id, result);
            self.answer(origin, answer);
        }
        Ok(())
    }

    /// Lets leaving hosts go that have no turns.
    fn drain(&mut self) {
        if self.hold_drained {
            return;
        }
        for (id, stream) in &self.streams {
            if stream.leaving && !self.turns.values().any(|turn| turn.stream == *id) {
                send(stream, ToComponent::Drained(proto::Drained {}));
            }
        }
    }

    fn answer(&mut self, origin: Origin, answer: Answer) {
        let Some(stream) = self.streams.get_mut(&origin.stream) else { return };
        stream.under_way.remove(&origin.request);
        let response = proto::Response { id: origin.request, result: Some(answer) };
        send(stream, ToComponent::Response(response));
    }
}

fn actor(invocation: &Invocation) -> Actor {
    match &invocation.target {
        Kind::Actor(actor) => (actor.r#type.clone(), actor.id.clone()),
        Kind::Service(service) => ("service".to_owned(), service.name.clone()),
    }
}

fn etag(value: &proto::Payload) -> String {
    format!("{:x}", value.encode_to_vec().iter().map(|b| u32::from(*b)).sum::<u32>())
}

fn called(to_actor: bool, invocation_id: String, outcome: Outcome) -> Answer {
    use proto::{call_actor_response, invoke_response};
    if to_actor {
        let result = Some(match outcome {
            Outcome::Payload(payload) => call_actor_response::Result::Payload(payload),
            Outcome::Error(error) => call_actor_response::Result::Error(error),
            Outcome::Cancelled(_) => unreachable!(),
        });
        Answer::CallActor(proto::CallActorResponse { result, invocation_id })
    } else {
        let result = Some(match outcome {
            Outcome::Payload(payload) => invoke_response::Result::Payload(payload),
            Outcome::Error(error) => invoke_response::Result::Error(error),
            Outcome::Cancelled(_) => unreachable!(),
        });
        Answer::Invoke(proto::InvokeResponse { result, invocation_id })
    }
}

fn awaited(outcome: Outcome) -> Answer {
    let result = Some(match outcome {
        Outcome::Payload(payload) => proto::await_response::Result::Payload(payload),
        Outcome::Error(error) => proto::await_response::Result::Error(error),
        Outcome::Cancelled(_) => unreachable!(),
    });
    Answer::AwaitOutcome(proto::AwaitResponse { result })
}
