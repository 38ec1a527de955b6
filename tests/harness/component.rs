//! A component's stream in the words of the contract: registers, runs turns, makes requests.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kar_proto::v1::component_frame::Frame as Up;
use kar_proto::v1::request::Operation;
use kar_proto::v1::response::Result as Answer;
use kar_proto::v1::sidecar_frame::Frame as Down;
use kar_proto::v1::{
    CancelReason, Cancelled, ComponentFrame, ConnectRequest, ConnectResponse, Goodbye, Hello,
    HostedActorType, HostedService, InvocationFrame, Payload, Request, TurnOutcome, Welcome,
    turn_outcome,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::Client;
pub use crate::component::turn::{
    Ending, Handle, Turn, TurnResult, actor, error, failed, service, tail_call,
};

mod turn;

/// Frames under way to the sidecar, and turns under way to the component.
const QUEUE_MAX: usize = 8192;

/// What comes from the sidecar, apart from answers.
#[derive(Debug)]
pub enum Incoming {
    /// A turn to run.
    Invocation(Box<InvocationFrame>),
    /// A turn to stop, and why.
    Cancel(String, CancelReason),
    /// Everything is handed over.
    Drained,
    /// The stream ended; with a status if it was not in order.
    Ended(Option<Status>),
}

/// A component's stream.
#[derive(Debug)]
pub struct Component {
    /// How the sidecar welcomed it.
    pub welcome: Welcome,
    handle: Handle,
    incoming: mpsc::Receiver<Incoming>,
    _reader: Reader,
}

/// The task that reads the stream. Stopping it resets the stream, as the death of a process does.
#[derive(Debug)]
struct Reader(AbortHandle);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the reader and the requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) frames: mpsc::Sender<ConnectRequest>,
    pub(crate) waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    pub(crate) numbers: AtomicU64,
}

/// A `hello` for these services and actor types; both may be empty.
pub fn hello(services: &[&str], actor_types: &[&str]) -> Hello {
    let service = |name: &&str| HostedService { name: (*name).into(), methods: Vec::new() };
    let actor_type =
        |name: &&str| HostedActorType { name: (*name).into(), ..HostedActorType::default() };
    Hello {
        protocol_version: 1,
        sdk: "kar-tests".into(),
        services: services.iter().map(service).collect(),
        actor_types: actor_types.iter().map(actor_type).collect(),
        ..Default::default()
    }
}

impl Component {
    /// Opens a stream and registers.
    ///
    /// # Errors
    ///
    /// If the sidecar refuses.
    pub async fn connect(client: &Client, hello: Hello) -> Result<Self, Status> {
        let (frames, outgoing) = mpsc::channel(QUEUE_MAX);
        let first = ConnectRequest { frames: vec![frame(Up::Hello(hello))] };
        frames.send(first).await.map_err(|_| Status::internal("the stream is closed"))?;
        let mut stream =
            client.component().connect(ReceiverStream::new(outgoing)).await?.into_inner();
        let message = stream.message().await?;
        let mut frames_in = message.map(|m| m.frames).unwrap_or_default().into_iter();
        let welcome = match frames_in.next().and_then(|f| f.frame) {
            Some(Down::Welcome(welcome)) => welcome,
            other => return Err(Status::internal(format!("no welcome but {other:?}"))),
        };
        let shared =
            Arc::new(Shared { frames, waiting: Mutex::default(), numbers: AtomicU64::new(1) });
        let (sender, incoming) = mpsc::channel(QUEUE_MAX);
        for rest in frames_in {
            deliver(&shared, &sender, rest.frame).await;
        }
        let handle = Handle { shared: shared.clone() };
        let reader = Reader(tokio::spawn(read(shared, sender, stream)).abort_handle());
        Ok(Self { welcome, handle, incoming, _reader: reader })
    }

    /// For requests of the component's own.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// What comes next from the sidecar.
    pub async fn next(&mut self) -> Incoming {
        self.incoming.recv().await.unwrap_or(Incoming::Ended(None))
    }

    /// The next turn.
    ///
    /// # Panics
    ///
    /// If something else comes.
    pub async fn next_turn(&mut self) -> Turn {
        match self.next().await {
            Incoming::Invocation(frame) => Turn::new(*frame, self.handle()),
            other => panic!("expected a turn, got {other:?}"),
        }
    }

    /// Asks to leave in order, and waits until everything is handed over. Turns that come meanwhile are lost: for
    /// components that are idle.
    pub async fn goodbye(mut self) {
        self.handle.send(Up::Goodbye(Goodbye {})).await;
        while !matches!(self.next().await, Incoming::Drained | Incoming::Ended(_)) {}
    }

    /// Runs turns until the stream ends. Each runs in a task of its own; a cancelled one is stopped there and then.
    pub async fn serve<F, R>(mut self, handler: F) -> Option<Status>
    where
        F: Fn(Turn) -> R + Clone + Send + 'static,
        R: Future<Output: Into<Ending>> + Send + 'static,
    {
        let mut running: HashMap<String, JoinHandle<()>> = HashMap::new();
        loop {
            match self.next().await {
                Incoming::Invocation(frame) => {
                    running.retain(|_, task| !task.is_finished());
                    let turn = Turn::new(*frame, self.handle());
                    let token = turn.token.clone();
                    running.insert(token, tokio::spawn(run(handler.clone(), turn)));
                }
                Incoming::Cancel(token, _) => {
                    if let Some(task) = running.remove(&token) {
                        task.abort();
                        tokio::spawn(confirm(self.handle(), token, task));
                    }
                }
                Incoming::Drained => {}
                Incoming::Ended(status) => {
                    running.values().for_each(JoinHandle::abort);
                    return status;
                }
            }
        }
    }
}

/// Says that a cancelled turn has stopped, once it has; nothing if it had sent its own result by then.
async fn confirm(handle: Handle, token: String, task: JoinHandle<()>) {
    if task.await.is_err() {
        let result = turn_outcome::Result::Cancelled(Cancelled {});
        handle.finish(&token, result).await;
    }
}

async fn run<F, R>(handler: F, turn: Turn)
where
    F: Fn(Turn) -> R,
    R: Future<Output: Into<Ending>>,
{
    let (token, handle) = (turn.token.clone(), turn.handle.clone());
    let Ending(result) = handler(turn).await.into();
    handle.finish(&token, result).await;
}

async fn read(
    shared: Arc<Shared>,
    incoming: mpsc::Sender<Incoming>,
    mut stream: Streaming<ConnectResponse>,
) {
    let end = loop {
        match stream.message().await {
            Ok(Some(message)) => {
                for frame in message.frames {
                    deliver(&shared, &incoming, frame.frame).await;
                }
            }
            Ok(None) => break None,
            Err(status) => break Some(status),
        }
    };
    // Whoever waits for an answer learns that none will come.
    shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let _nobody_listens = incoming.send(Incoming::Ended(end)).await;
}

async fn deliver(shared: &Shared, incoming: &mpsc::Sender<Incoming>, frame: Option<Down>) {
    let event = match frame {
        Some(Down::Response(response)) => {
            let mut waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if let (Some(waiter), Some(result)) = (waiting.remove(&response.id), response.result) {
                let _gave_up = waiter.send(result);
            }
            return;
        }
        Some(Down::Invocation(frame)) => Incoming::Invocation(frame),
        Some(Down::CancelTurn(cancel)) => {
            let reason = cancel.reason();
            Incoming::Cancel(cancel.turn_token, reason)
        }
        Some(Down::Drained(_)) => Incoming::Drained,
        Some(Down::Welcome(_) | Down::Credit(_)) | None => return,
    };
    let _nobody_listens = incoming.send(event).await;
}

fn frame(frame: Up) -> ComponentFrame {
    ComponentFrame { frame: Some(frame) }
}

impl Handle {
    /// Sends one frame as it is; for tests that break the rules.
    pub async fn send(&self, up: Up) {
        let _stream_ended =
            self.shared.frames.send(ConnectRequest { frames: vec![frame(up)] }).await;
    }

    /// Asks for something on the stream.
    ///
    /// # Errors
    ///
    /// The status that the sidecar answered; `UNAVAILABLE` if the stream ended before it answered.
    pub async fn request(&self, operation: Operation) -> Result<Answer, Status> {
        let id = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        self.send(Up::Request(Box::new(Request { id, operation: Some(operation) }))).await;
        match answer.await {
            Ok(Answer::Status(status)) => Err(Status::with_details(
                Code::from_i32(status.code),
                status.message.clone(),
                prost_encode(&status),
            )),
            Ok(answer) => Ok(answer),
            Err(_) => Err(Status::unavailable("the stream ended before the answer came")),
        }
    }

    /// Ends a turn.
    pub async fn finish(&self, token: &str, result: turn_outcome::Result) {
        let outcome = TurnOutcome { turn_token: token.into(), result: Some(result) };
        self.send(Up::TurnResult(outcome)).await;
    }
}

/// The status as `grpc-status-details-bin` carries it, so that typed details are read the same way on both paths.
fn prost_encode(status: &kar_proto::google::rpc::Status) -> bytes::Bytes {
    prost::Message::encode_to_vec(status).into()
}

/// An empty payload.
pub fn nothing() -> Payload {
    Payload::default()
}
