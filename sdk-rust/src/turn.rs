//! A turn: one attempt of an invocation in user code, and what it asks the sidecar for.

use std::any::Any;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use kar_proto::v1 as proto;
use kar_proto::v1::turn_outcome::Result as TurnResult;
use prost::Message as _;
use tokio::sync::Notify;

use crate::codec::Payload;
use crate::error::{ApplicationError, CallError, Error};
use crate::limits::{APPLY_BYTES_TARGET, TURN_REQUESTS_MAX, TURN_WRITE_BYTES_MAX};
use crate::stream::{Answer, Command, Handle, Operation, Outgoing, Reply, ReplyTo, Sender};

/// A turn, shared by its context and by what was made from it.
pub(crate) struct Turn {
    pub(crate) handle: Handle,
    /// Number of the stream that it came on.
    pub(crate) session: u64,
    /// Names it towards the sidecar.
    pub(crate) token: String,
    /// Service name or actor type.
    pub(crate) kind: String,
    /// Actor instance; empty for services.
    pub(crate) id: String,
    pub(crate) method: String,
    pub(crate) mode: proto::InvocationMode,
    pub(crate) attempt: u32,
    pub(crate) step: u32,
    pub(crate) activation: u64,
    pub(crate) trace_parent: String,
    /// The event that it delivers.
    pub(crate) event: Option<Box<proto::EventDelivery>>,
    /// Durable steps: recorded by earlier attempts, and by this one.
    steps: Mutex<HashMap<String, proto::Payload>>,
    requests: AtomicUsize,
    writes: Mutex<Writes>,
    settled: Notify,
    cancel: CancelRequest,
}

/// Whether somebody asked for the end of the turn's invocation, and who sees to it.
#[derive(Default)]
struct CancelRequest {
    is_made: AtomicBool,
    /// The method waits for it, and decides by itself.
    is_heeded: AtomicBool,
    made: Notify,
}

/// State changes of a turn on their way.
#[derive(Default)]
struct Writes {
    /// Not sent yet: they go with the next operation.
    changes: Vec<proto::StateChange>,
    bytes: usize,
    /// Frames sent and not answered.
    unanswered: usize,
    /// The first refusal. From then on the turn can only fail.
    error: Option<CallError>,
}

/// Reports the end of a turn when it is dropped, after the turn's code is.
pub(crate) struct TurnEnd {
    turn: Arc<Turn>,
    result: Option<TurnResult>,
}

/// Counts an operation under way.
struct Counted<'a>(&'a AtomicUsize);

impl Turn {
    pub(crate) fn new(handle: Handle, session: u64, frame: proto::InvocationFrame) -> Self {
        let mode = frame.mode();
        let (kind, id) = match frame.target.and_then(|t| t.kind) {
            Some(proto::target::Kind::Actor(actor)) => (actor.r#type, actor.id),
            Some(proto::target::Kind::Service(service)) => (service.name, String::new()),
            None => Default::default(),
        };
        Self {
            handle,
            session,
            token: frame.turn_token,
            kind,
            id,
            method: frame.method,
            mode,
            attempt: u32::try_from(frame.attempt).unwrap_or(1),
            step: u32::try_from(frame.step).unwrap_or(1),
            activation: frame.activation,
            trace_parent: frame.trace_parent,
            event: frame.event,
            steps: Mutex::new(frame.recorded_steps),
            requests: AtomicUsize::new(0),
            writes: Mutex::default(),
            settled: Notify::new(),
            cancel: CancelRequest::default(),
        }
    }

    /// What goes with everything that the turn asks for: nothing where it is a direct one, past all
    /// logs.
    pub(crate) fn request_token(&self) -> String {
        if self.is_direct() { String::new() } else { self.token.clone() }
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.mode == proto::InvocationMode::Direct
    }

    /// Somebody asked for the end of its invocation. Tells whether the method sees to that by itself.
    pub(crate) fn request_cancel(&self) -> bool {
        self.cancel.is_made.store(true, Ordering::SeqCst);
        self.cancel.made.notify_waiters();
        self.cancel.is_heeded.load(Ordering::SeqCst)
    }

    /// From now on the method sees to such requests by itself.
    pub(crate) fn heed_cancel(&self) {
        self.cancel.is_heeded.store(true, Ordering::SeqCst);
    }

    /// Waits until somebody asks for the end of its invocation.
    pub(crate) async fn cancel_requested(&self) {
        let mut made = std::pin::pin!(self.cancel.made.notified());
        // Registered before the question: the request may come within it.
        made.as_mut().enable();
        if !self.cancel.is_made.load(Ordering::SeqCst) {
            made.await;
        }
    }

    /// Sends gathered state changes and then the operation, and waits for its answer.
    pub(crate) async fn request(self: &Arc<Self>, operation: Operation) -> Reply {
        let _counted = self.count()?;
        let (reply, waiting) = self.handle.wait();
        {
            let mut writes = self.writes();
            self.send_writes(&mut writes)?;
            self.send(operation, reply)?;
        }
        // The sender goes away without an answer only when the stream breaks: the turn is over.
        let reply = waiting.answer().await.unwrap_or(Err(CallError::Superseded));
        match &self.writes().error {
            Some(error) => Err(error.clone()),
            None => reply,
        }
    }

    /// The value of a durable step, if it is known to be recorded.
    pub(crate) fn recorded(&self, key: &str) -> Option<Payload> {
        let recorded = self.steps().get(key).cloned()?;
        Some(Payload::from_proto(Some(recorded)))
    }

    /// Records a durable step; gives the value that counts.
    pub(crate) async fn record(
        self: &Arc<Self>,
        key: &str,
        payload: Payload,
    ) -> Result<Payload, CallError> {
        let (turn_token, payload) = (self.request_token(), Some(payload.into_proto()));
        let request = proto::RecordStepRequest { turn_token, key: key.to_owned(), payload };
        let Answer::RecordStep(recorded) = self.request(Operation::RecordStep(request)).await?
        else {
            return Err(CallError::mismatch("record_step"));
        };
        let recorded = recorded.payload.unwrap_or_default();
        self.steps().insert(key.to_owned(), recorded.clone());
        Ok(Payload::from_proto(Some(recorded)))
    }

    fn steps(&self) -> MutexGuard<'_, HashMap<String, proto::Payload>> {
        // Nothing under the lock can panic half-way.
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gathers a state change; it is sent with the next operation, or when the turn ends.
    pub(crate) fn write(&self, change: proto::state_change::Change) -> Result<(), CallError> {
        let mut writes = self.writes();
        if let Some(error) = &writes.error {
            return Err(error.clone());
        }
        let change = proto::StateChange { change: Some(change) };
        let bytes = writes.bytes + change.encoded_len();
        if bytes > TURN_WRITE_BYTES_MAX {
            return Err(CallError::limit("turn-write-bytes", TURN_WRITE_BYTES_MAX));
        }
        writes.bytes = bytes;
        writes.changes.push(change);
        Ok(())
    }

    /// Sends gathered state changes and waits until all are taken.
    async fn settle(self: &Arc<Self>) -> Result<(), CallError> {
        loop {
            {
                let mut writes = self.writes();
                self.send_writes(&mut writes)?;
                if writes.unanswered == 0 {
                    return Ok(());
                }
            }
            self.settled.notified().await;
        }
    }

    /// Takes the answer to a frame of state changes.
    pub(crate) fn write_answered(&self, reply: Reply) {
        let mut writes = self.writes();
        writes.unanswered -= 1;
        if let (Err(error), None) = (reply, &writes.error) {
            writes.error = Some(error);
        }
        if writes.unanswered == 0 {
            self.settled.notify_one();
        }
    }

    fn send_writes(self: &Arc<Self>, writes: &mut Writes) -> Result<(), CallError> {
        if let Some(error) = &writes.error {
            return Err(error.clone());
        }
        if writes.changes.is_empty() {
            return Ok(());
        }
        writes.bytes = 0;
        let mut changes = std::mem::take(&mut writes.changes).into_iter().peekable();
        while changes.peek().is_some() {
            let mut bytes = 0;
            let mut batch = Vec::new();
            while let Some(change) = changes.peek() {
                bytes += change.encoded_len();
                if bytes > APPLY_BYTES_TARGET && !batch.is_empty() {
                    break;
                }
                batch.extend(changes.next());
            }
            let turn_token = self.token.clone();
            let apply = proto::ApplyRequest { turn_token, changes: batch };
            writes.unanswered += 1;
            self.send(Operation::ActorStateApply(apply), ReplyTo::Write(self.clone()))?;
        }
        Ok(())
    }

    fn send(&self, operation: Operation, reply: ReplyTo) -> Result<(), CallError> {
        let sender = Sender::Turn(self.session);
        self.handle.send(Command::Request(Box::new(Outgoing { operation, sender, reply })))
    }

    fn count(&self) -> Result<Counted<'_>, CallError> {
        let counted = Counted(&self.requests);
        if self.requests.fetch_add(1, Ordering::Relaxed) >= TURN_REQUESTS_MAX {
            return Err(CallError::limit("turn-requests", TURN_REQUESTS_MAX));
        }
        Ok(counted)
    }

    fn writes(&self) -> MutexGuard<'_, Writes> {
        // Nothing under the lock can panic half-way.
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TurnEnd {
    pub(crate) fn new(turn: Arc<Turn>) -> Self {
        Self { turn, result: None }
    }
}

impl Drop for TurnEnd {
    fn drop(&mut self) {
        let token = self.turn.token.clone();
        let done =
            Command::TurnDone { session: self.turn.session, token, result: self.result.take() };
        // Without a driver nobody is left to tell.
        let _ = self.turn.handle.send(done);
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a turn's code to its end and reports what it came to. If this is dropped half-way, the turn
/// was aborted; `end` reports that, after the code has been dropped.
pub(crate) async fn run<F>(end: TurnEnd, code: F)
where
    F: Future<Output = Result<Payload, Error>>,
{
    let mut end = end;
    let outcome = AssertUnwindSafe(code).catch_unwind().await;
    let outcome = match outcome {
        Ok(Ok(payload)) => end.turn.settle().await.map(|()| payload).map_err(Error::from),
        Ok(Err(next)) if next.is_tail_call() => {
            end.turn.settle().await.map_err(Error::from).and(Err(next))
        }
        Ok(Err(error)) => Err(error),
        Err(panic) => {
            let message = panic_message(panic.as_ref());
            tracing::error!(kind = end.turn.kind, method = end.turn.method, message, "panic");
            Err(ApplicationError::new("panic", message).into())
        }
    };
    end.result = match outcome {
        Ok(payload) => Some(TurnResult::Payload(payload.into_proto())),
        Err(error) => error.into_result(),
    };
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "the method panicked with something that is not text".to_owned()
    }
}
