//! One stream from its welcome to its end.
//!
//! Credits: the sidecar says how many requests may be under way. Calls may wait long, and what they
//! wait for may need requests of this very stream (a nested call to an actor hosted here, which
//! reads its state). So requests outside turns use at most half of the credits of a host's stream,
//! nested calls leave an eighth free, at least one, and the short operations of turns, which the sidecar answers
//! by itself, may use all. Results of turns need no credit but stay behind the operations that
//! their turns asked for. Only where credits are short can a nested call be overtaken by a later
//! tell of the same turn that did not wait for it.
//!
//! Calls that are given up: their answer may never come, so the sidecar is told that nobody waits
//! for it (`forget`). It answers at once, and that answer gives the credit back, as any other does;
//! until then the number is in use. What a call has begun goes on: a root call is carried to
//! completion, and one of a turn is still waited for by the sidecar before the turn's end takes
//! effect (rule T1), so a turn may forget as well. Everything but calls is answered soon anyway.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::{FutureExt as _, Stream as _};
use kar_proto::v1 as proto;
use kar_proto::v1::component_frame::Frame;
use kar_proto::v1::sidecar_frame::Frame as SidecarFrame;
use kar_proto::v1::turn_outcome::Result as TurnResult;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep};
use tonic::Streaming;

use super::operation::{is_call, is_repeatable, shares};
use super::outbox::Outbox;
use super::queue::{Abandon, Queue};
use super::slab::Slab;
use super::{Answer, Command, Operation, Outgoing, Place, Reply, ReplyTo, Sender, WeakHandle};
use crate::error::{ApplicationError, CallError, Rejection};
use crate::hosted::{Running, Table};
use crate::limits::{BATCH_MAX, CLOSE_TIMEOUT, ROUNDS_PER_POLL_MAX};
use crate::transport::{Session, Settings};

/// What outlives a stream.
pub(crate) struct Lasting {
    pub(crate) settings: Settings,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) handle: WeakHandle,
    /// What is hosted; `None` for a mere client.
    pub(crate) table: Option<Arc<Table>>,
    /// Requests outside turns that have not been sent.
    pub(crate) roots: Queue<Box<Outgoing>>,
    /// Number of the present stream.
    pub(crate) number: u64,
    /// The component wants to leave.
    pub(crate) leaving: bool,
    /// Nobody needs a stream any more: the host is gone, or no command will ever come again.
    pub(crate) unneeded: bool,
}

/// How a stream ended.
pub(crate) enum End {
    /// In order, or because nobody needs it any more.
    Closed,
    /// Not by our will; the reason.
    Broken(String),
}

/// A stream.
pub(crate) struct Live<'a> {
    lasting: &'a mut Lasting,
    /// Frames that came with the welcome.
    first: Vec<proto::SidecarFrame>,
    inbound: Streaming<proto::ConnectResponse>,
    outbox: Arc<Outbox>,
    /// Frames made in this round.
    ready: Vec<proto::ComponentFrame>,
    batch: Vec<Command>,
    /// Requests under way. Each holds a credit.
    pending: Slab<Pending>,
    /// Requests that may be under way.
    credits: usize,
    message_bytes_max: usize,
    /// The sidecar knows `forget`; one of an earlier version would end the stream.
    takes_forget: bool,
    /// Nested calls that wait for a credit.
    nested: Queue<Box<Outgoing>>,
    /// Short operations of turns that wait for a credit, and results behind them.
    ordered: Queue<Ordered>,
    turns: HashMap<String, Running>,
    stage: Stage,
    /// When the present stage ends whatever happens.
    deadline: Option<Pin<Box<Sleep>>>,
}

enum Ordered {
    Request(Box<Outgoing>),
    Done(String, Option<TurnResult>),
}

struct Pending {
    sender: Sender,
    reply: ReplyTo,
    /// Its answer may take any time.
    is_call: bool,
    /// For requests that do no harm when they are carried out twice.
    again: Option<Operation>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// Said goodbye.
    Leaving,
    /// As `Leaving`, and everything is handed over.
    Drained,
    /// Closed this side.
    Closing,
}

impl Abandon for Ordered {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Request(request) => request.is_abandoned(),
            Self::Done(..) => false,
        }
    }
}

impl<'a> Live<'a> {
    pub(crate) fn new(lasting: &'a mut Lasting, session: Session) -> Self {
        lasting.number += 1;
        let welcome = session.welcome;
        Self {
            lasting,
            first: session.first,
            inbound: session.inbound,
            outbox: session.outbox,
            ready: Vec::new(),
            batch: Vec::with_capacity(BATCH_MAX),
            pending: Slab::new(),
            credits: usize::try_from(welcome.request_credits).unwrap_or(0),
            message_bytes_max: usize::try_from(welcome.message_bytes_max).unwrap_or(usize::MAX),
            takes_forget: welcome.takes_forget,
            nested: Queue::new(),
            ordered: Queue::new(),
            turns: HashMap::new(),
            stage: Stage::Open,
            deadline: None,
        }
    }

    /// Runs the stream until it ends.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..ROUNDS_PER_POLL_MAX {
            let read = match self.poll_inbound(cx) {
                Ok(read) => read,
                Err(end) => return Poll::Ready(end),
            };
            let taken = self.poll_commands(cx);
            self.pump();
            if let Some(end) = self.poll_stage(cx) {
                return Poll::Ready(end);
            }
            self.outbox.push(&mut self.ready);
            if !read && !taken {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads what is there; tells whether there may be more.
    fn poll_inbound(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        for frame in std::mem::take(&mut self.first) {
            self.on_frame(frame).map_err(End::Broken)?;
        }
        for _ in 0..BATCH_MAX {
            match Pin::new(&mut self.inbound).poll_next(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Some(Ok(message))) => {
                    for frame in message.frames {
                        self.on_frame(frame).map_err(End::Broken)?;
                    }
                }
                Poll::Ready(_) if self.stage == Stage::Closing => return Err(End::Closed),
                Poll::Ready(None) => {
                    return Err(End::Broken("the sidecar closed the stream".to_owned()));
                }
                Poll::Ready(Some(Err(status))) => {
                    return Err(End::Broken(Rejection::from_grpc(&status).to_string()));
                }
            }
        }
        Ok(true)
    }

    /// Takes the commands that are there; tells whether there may be more.
    fn poll_commands(&mut self, cx: &mut Context<'_>) -> bool {
        if self.lasting.unneeded {
            return false;
        }
        let mut batch = std::mem::take(&mut self.batch);
        let count = self.lasting.commands.poll_recv_many(cx, &mut batch, BATCH_MAX);
        for command in batch.drain(..) {
            self.on_command(command);
        }
        self.batch = batch;
        match count {
            Poll::Pending => false,
            Poll::Ready(0) => {
                self.lasting.unneeded = true;
                false
            }
            Poll::Ready(_) => true,
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Request(request) => match request.sender {
                Sender::Root(_) => self.lasting.roots.push_back(request),
                // A turn of an earlier stream: it is being aborted, nobody waits.
                Sender::Turn(session) if session != self.lasting.number => {}
                Sender::Turn(_) if is_call(&request.operation) => self.nested.push_back(request),
                Sender::Turn(_) => self.ordered.push_back(Ordered::Request(request)),
            },
            Command::GivenUp(place) => self.on_given_up(&place),
            Command::TurnDone { session, token, result } => {
                if session == self.lasting.number {
                    self.turns.remove(&token);
                    self.ordered.push_back(Ordered::Done(token, result));
                }
            }
            Command::Leave => self.lasting.leaving = true,
            Command::Stop => self.lasting.unneeded = true,
        }
    }

    /// Nobody waits for a request any more.
    fn on_given_up(&mut self, place: &Arc<Place>) {
        // The number may be another one's by now, or an earlier stream's.
        let of_place = |pending: &&Pending| {
            pending.reply.place().is_some_and(|other| Arc::ptr_eq(other, place))
        };
        let number = place.get();
        match number.and_then(|number| self.pending.get(number)).filter(of_place) {
            Some(pending) => {
                if let (true, true, Some(id)) = (pending.is_call, self.takes_forget, number) {
                    let forget = Frame::Forget(proto::Forget { id });
                    self.ready.push(proto::ComponentFrame { frame: Some(forget) });
                }
            }
            None => {
                self.lasting.roots.given_up();
                self.nested.given_up();
                // Nor would it have been sent: the turn's order stays what it is.
                self.ordered.given_up();
            }
        }
    }

    fn on_frame(&mut self, frame: proto::SidecarFrame) -> Result<(), String> {
        match frame.frame {
            Some(SidecarFrame::Response(response)) => {
                let Some(pending) = self.pending.remove(response.id) else {
                    return Err(format!("an answer to no request ({})", response.id));
                };
                pending.reply.send(reply(response.result));
            }
            Some(SidecarFrame::Invocation(invocation)) => self.on_invocation(*invocation),
            Some(SidecarFrame::CancelTurn(cancel)) => {
                // Its result goes out when the turn has stopped. One that has ended needs no
                // answer.
                match self.turns.get(&cancel.turn_token) {
                    Some(turn) if cancel.reason() == proto::CancelReason::Requested => {
                        turn.request_cancel();
                    }
                    Some(turn) => turn.abort(),
                    None => {}
                }
            }
            Some(SidecarFrame::Credit(credit)) => {
                let Some(count) = usize::try_from(credit.count).ok().filter(|c| *c > 0) else {
                    return Err("a credit of less than one".to_owned());
                };
                self.credits = self.credits.saturating_add(count);
            }
            Some(SidecarFrame::Drained(_)) if self.stage == Stage::Leaving => {
                self.stage = Stage::Drained;
            }
            Some(SidecarFrame::Welcome(_)) => return Err("a second welcome".to_owned()),
            // Nobody asked; or a frame of a later version, which the sidecar sends only if it needs
            // no answer.
            Some(SidecarFrame::Drained(_)) | None => {}
        }
        Ok(())
    }

    fn on_invocation(&mut self, invocation: proto::InvocationFrame) {
        // Without handles nobody keeps the connection; it is about to close.
        let Some(handle) = self.lasting.handle.upgrade() else { return };
        let token = invocation.turn_token.clone();
        let started = match &self.lasting.table {
            Some(table) => table.start(handle, self.lasting.number, invocation),
            None => {
                let text = "this component hosts nothing";
                Err(Box::new(ApplicationError::new("kar.UNKNOWN_METHOD", text)))
            }
        };
        match started {
            Ok(turn) => drop(self.turns.insert(token, turn)),
            Err(error) => {
                let result = Some(TurnResult::Error(error.into_proto()));
                self.ordered.push_back(Ordered::Done(token, result));
            }
        }
    }

    /// Makes frames of everything that may go.
    fn pump(&mut self) {
        while let Some(next) = self.ordered.front() {
            let takes_credit = matches!(next, Ordered::Request(_)) && !next.is_abandoned();
            if takes_credit && self.pending.len() >= self.credits {
                break;
            }
            match self.ordered.pop_front() {
                Some(Ordered::Request(request)) => self.send(*request),
                Some(Ordered::Done(token, result)) => self.send_result(token, result),
                None => break,
            }
        }
        let (nested_max, roots_max) = shares(self.credits, self.lasting.table.is_some());
        while self.pending.len() < nested_max {
            let Some(request) = self.nested.pop_front() else { break };
            self.send(*request);
        }
        while self.pending.len() < roots_max {
            let Some(request) = self.lasting.roots.pop_front() else { break };
            self.send(*request);
        }
    }

    fn send(&mut self, request: Outgoing) {
        if request.is_abandoned() {
            return;
        }
        let Outgoing { operation, sender, reply } = request;
        if operation.encoded_len() > self.message_bytes_max {
            return reply.send(Err(CallError::limit("message-bytes-max", self.message_bytes_max)));
        }
        let again = is_repeatable(&operation).then(|| operation.clone());
        let (place, is_call) = (reply.place().cloned(), is_call(&operation));
        let id = self.pending.insert(Pending { sender, reply, is_call, again });
        if let Some(place) = place {
            place.set(id);
        }
        let request = proto::Request { id, operation: Some(operation) };
        self.ready.push(proto::ComponentFrame { frame: Some(Frame::Request(Box::new(request))) });
    }

    fn send_result(&mut self, turn_token: String, result: Option<TurnResult>) {
        let result = result.unwrap_or(TurnResult::Cancelled(proto::Cancelled {}));
        let mut outcome = proto::TurnOutcome { turn_token, result: Some(result) };
        if outcome.encoded_len() > self.message_bytes_max {
            let max = self.message_bytes_max;
            let text = format!("the result is longer than message-bytes-max ({max})");
            let error = ApplicationError::new("message_too_large", text).into_proto();
            outcome.result = Some(TurnResult::Error(error));
        }
        self.ready.push(proto::ComponentFrame { frame: Some(Frame::TurnResult(outcome)) });
    }

    /// Moves on with leaving and closing.
    fn poll_stage(&mut self, cx: &mut Context<'_>) -> Option<End> {
        if self.lasting.leaving && self.stage == Stage::Open {
            self.deadline = Some(Box::pin(sleep(self.lasting.settings.drain_timeout)));
            self.stage = match self.lasting.table {
                Some(_) => {
                    let goodbye = Frame::Goodbye(proto::Goodbye {});
                    self.ready.push(proto::ComponentFrame { frame: Some(goodbye) });
                    Stage::Leaving
                }
                None => Stage::Drained,
            };
        }
        let finished = self.stage == Stage::Drained && self.is_idle();
        if self.stage != Stage::Closing && (self.lasting.unneeded || finished) {
            self.outbox.push(&mut self.ready);
            self.outbox.finish();
            self.stage = Stage::Closing;
            self.deadline = Some(Box::pin(sleep(CLOSE_TIMEOUT)));
        }
        if self.deadline.as_mut()?.poll_unpin(cx).is_ready() {
            if self.stage != Stage::Closing {
                let turns = self.turns.len();
                tracing::warn!(turns, "leaving with turns unfinished or not handed over");
            }
            return Some(End::Closed);
        }
        None
    }

    fn is_idle(&self) -> bool {
        self.turns.is_empty()
            && self.ordered.is_empty()
            && self.nested.is_empty()
            && self.lasting.roots.is_empty()
            // What aborted turns, and callers that went away, had asked for is waited for by
            // nobody.
            && self.pending.iter().all(|pending| {
                matches!(pending.sender, Sender::Turn(_)) || pending.reply.is_abandoned()
            })
    }

    /// Gives up what was under way: aborts the turns, answers what may have been carried out with
    /// "unknown", and takes back what was not written, and what does no harm twice, for the next
    /// stream, if somebody still waits for it. Returns when all turns have stopped.
    pub(crate) async fn give_up(mut self, reason: &str) {
        // First, so that none of them gets to see what its requests come to.
        for turn in self.turns.values() {
            turn.abort();
        }
        let mut again = VecDeque::new();
        let mut unwritten = self.outbox.abandon();
        unwritten.extend(self.ready.drain(..));
        for frame in unwritten {
            let Some(Frame::Request(request)) = frame.frame else { continue };
            let (Some(pending), Some(operation)) =
                (self.pending.remove(request.id), request.operation)
            else {
                continue;
            };
            again.push_back((pending, operation));
        }
        for mut pending in self.pending.drain() {
            match pending.again.take() {
                Some(operation) => again.push_back((pending, operation)),
                None => pending.reply.send(Err(CallError::Unknown(reason.to_owned()))),
            }
        }
        for (pending, operation) in again.into_iter().rev() {
            let Pending { sender, reply, .. } = pending;
            if matches!(sender, Sender::Root(_)) {
                let request = Outgoing { operation, sender, reply };
                self.lasting.roots.push_front(Box::new(request));
            }
        }
        self.nested.clear();
        self.ordered.clear();
        let stopped = tokio::time::timeout(crate::limits::ABORT_TIMEOUT, self.turns_stopped());
        if stopped.await.is_err() {
            let turns = self.turns.len();
            tracing::warn!(turns, "turns go on computing after their abort");
        }
    }

    async fn turns_stopped(&mut self) {
        while !self.turns.is_empty() {
            match self.lasting.commands.recv().await {
                Some(command) => self.on_command(command),
                None => return,
            }
        }
    }
}

fn reply(result: Option<Answer>) -> Reply {
    match result {
        Some(Answer::Status(status)) => Err(CallError::from_status(status)),
        Some(answer) => Ok(answer),
        None => Err(CallError::mismatch("an empty answer")),
    }
}
