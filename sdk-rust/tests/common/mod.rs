//! A fake sidecar in this process: speaks `kar.v1.ComponentService/Connect` over a Unix socket as
//! the contract says, with everything in memory. One application, any number of streams. It is
//! strict about the protocol: a violation ends the stream and is in [`Fake::violations`].
#![allow(dead_code)] // Each test binary uses its part.
#![allow(clippy::unwrap_used)] // All of this is test code.

mod actor_state;
mod invocations;
mod state;
mod system;
mod world;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kar_proto::v1 as proto;
use kar_proto::v1::component_service_server::{ComponentService, ComponentServiceServer};
use kar_proto::v1::sidecar_frame::Frame as ToComponent;
use kar_proto::v1::system_service_server::SystemServiceServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use world::{World, send};

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
impl Fake {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("kar.sock");
        let world = World {
            credits: 100,
            message_bytes_max: 4 << 20,
            takes_forget: true,
            ..World::default()
        };
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
        let system = SystemServiceServer::new(fake.clone());
        let server = || {
            let server = tonic::transport::Server::builder().add_service(service.clone());
            server.add_service(system.clone())
        };
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

    /// From now on it is of a version that does not know `forget`.
    pub(crate) fn know_no_forget(&self) {
        self.lock().takes_forget = false;
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

    /// Somebody asks for the end of every running turn of the method: it is still the current attempt.
    pub(crate) fn ask_to_stop(&self, method: &str) {
        let world = self.lock();
        for (token, turn) in world.turns.iter().filter(|(_, t)| t.invocation.method == method) {
            let cancel = proto::CancelTurn {
                turn_token: token.clone(),
                reason: proto::CancelReason::Requested.into(),
            };
            send(&world.streams[&turn.stream], ToComponent::CancelTurn(cancel));
        }
    }

    /// Tells the host of an actor that it has been idle.
    pub(crate) fn deactivate(&self, actor_type: &str, id: &str) {
        let actor = proto::ActorTarget { r#type: actor_type.to_owned(), id: id.to_owned() };
        let (target, mode) = (proto::target::Kind::Actor(actor), proto::InvocationMode::Deactivate);
        self.lock().invoke(None, target, String::new(), None, mode, None);
        self.notify();
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

    /// The committed keys of an actor's own.
    pub(crate) fn actor_keys(&self, actor_type: &str, id: &str) -> Vec<String> {
        let actor = (actor_type.to_owned(), id.to_owned());
        let world = self.lock();
        let places = world.actors.get(&actor).into_iter().flat_map(|entries| entries.keys());
        places.filter(|(sub_map, _)| sub_map.is_empty()).map(|(_, key)| key.clone()).collect()
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

    fn check_token<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let given = request.metadata().get("authorization").map(|v| v.to_str().unwrap());
        match &self.lock().token {
            Some(token) if given != Some(&format!("Bearer {token}")) => {
                Err(Status::unauthenticated("wrong API token"))
            }
            _ => Ok(()),
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
        self.check_token(&request)?;
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
