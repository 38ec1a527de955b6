//! The component's one stream: every request and every turn travels on it.
//!
//! One task, the [`driver`], owns the stream and everything that is under way on it; nothing of
//! that is shared or locked. Others reach it by sending a [`Command`] through a [`Handle`]; the
//! order of commands is the order on the stream (see [`session`] for where credits may change it).
//! What it wants to send it puts into the [`outbox`], from where the HTTP/2 task takes as many
//! frames for a message as are ready.

pub(crate) mod driver;
mod operation;
pub(crate) mod outbox;
pub(crate) mod queue;
pub(crate) mod session;
mod slab;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use kar_proto::v1::turn_outcome::Result as TurnResult;
pub(crate) use kar_proto::v1::{request::Operation, response::Result as Answer};
use tokio::sync::{mpsc, oneshot};

use crate::error::CallError;
use crate::transport::Sidecar;
use crate::turn::Turn;

/// What a request comes to.
pub(crate) type Reply = Result<Answer, CallError>;

/// What others ask of the driver.
pub(crate) enum Command {
    /// Send a request.
    Request(Box<Outgoing>),
    /// Nobody waits for a request any more.
    GivenUp(Arc<Place>),
    /// A turn ended; nothing of it runs any more. `None`: it was aborted or has to stop.
    TurnDone {
        /// Number of the stream that it came on.
        session: u64,
        /// The turn.
        token: String,
        /// What it came to.
        result: Option<TurnResult>,
    },
    /// Leave in order.
    Leave,
    /// Leave at once: the host is gone.
    Stop,
}

/// A request on its way.
pub(crate) struct Outgoing {
    pub(crate) operation: Operation,
    pub(crate) sender: Sender,
    pub(crate) reply: ReplyTo,
}

/// Who asks; decides about queues, credits, and what becomes of the request when the stream breaks.
pub(crate) enum Sender {
    /// The component outside turns. The guard counts the request for its bound.
    Root(#[allow(dead_code)] Counted),
    /// A turn of this stream number.
    Turn(u64),
}

/// Where the answer goes.
pub(crate) enum ReplyTo {
    /// Somebody waits for it, and gives it up by its place.
    Caller(oneshot::Sender<Reply>, Arc<Place>),
    /// State changes: the turn notes whether they were taken.
    Write(Arc<Turn>),
}

/// Where the driver notes which number a request has. Nobody else looks.
#[derive(Default)]
pub(crate) struct Place(AtomicU64);

/// Somebody waits for the answer to a request. Dropped before that has come, it says that nobody
/// does any more.
pub(crate) struct Waiting<'a> {
    handle: &'a Handle,
    answer: oneshot::Receiver<Reply>,
    place: Arc<Place>,
    is_over: bool,
}

/// The way to the driver. Cheap to clone. The connection ends when the last one is gone.
#[derive(Clone)]
pub(crate) struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
}

/// As [`Handle`], but doesn't keep the connection.
pub(crate) struct WeakHandle {
    commands: mpsc::WeakUnboundedSender<Command>,
    shared: Arc<Shared>,
}

/// What handles and the driver share.
pub(crate) struct Shared {
    /// Requests outside turns that exist now.
    roots: AtomicUsize,
    roots_max: usize,
    /// Why the connection ended for good.
    closed: OnceLock<String>,
    sidecar: Arc<Sidecar>,
}

/// One request outside turns, until it is dropped.
pub(crate) struct Counted(Arc<Shared>);

// === impl Handle ===

impl Handle {
    /// A handle and the driver's end of it. The channel has no bound of its own: requests are
    /// counted ([`Counted`], and per turn), turns are bounded by what the sidecar lets in.
    #[allow(clippy::disallowed_methods)] // Bounded as just said; a turn's end must never wait or get lost.
    pub(crate) fn new(
        roots_max: usize,
        sidecar: Arc<Sidecar>,
    ) -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (roots, closed) = (AtomicUsize::new(0), OnceLock::new());
        let shared = Shared { roots, roots_max, closed, sidecar };
        (Self { commands, shared: Arc::new(shared) }, receiver)
    }

    pub(crate) fn downgrade(&self) -> WeakHandle {
        WeakHandle { commands: self.commands.downgrade(), shared: self.shared.clone() }
    }

    /// The sidecar, for what does not go through the stream.
    pub(crate) fn sidecar(&self) -> &Arc<Sidecar> {
        &self.shared.sidecar
    }

    /// Makes a request outside turns.
    pub(crate) async fn request(&self, operation: Operation) -> Reply {
        let sender = Sender::Root(self.count()?);
        let (reply, waiting) = self.wait();
        self.send(Command::Request(Box::new(Outgoing { operation, sender, reply })))?;
        waiting.answer().await.unwrap_or_else(|| Err(self.closed()))
    }

    /// Where the answer to a request goes, and who waits for it.
    pub(crate) fn wait(&self) -> (ReplyTo, Waiting<'_>) {
        let (reply, answer) = oneshot::channel();
        let place = Arc::new(Place::default());
        let reply = ReplyTo::Caller(reply, place.clone());
        (reply, Waiting { handle: self, answer, place, is_over: false })
    }

    /// Hands something to the driver.
    pub(crate) fn send(&self, command: Command) -> Result<(), CallError> {
        self.commands.send(command).map_err(|_| self.closed())
    }

    fn count(&self) -> Result<Counted, CallError> {
        let max = self.shared.roots_max;
        // Relaxed: the number guards memory, nothing is published by it.
        if self.shared.roots.fetch_add(1, Ordering::Relaxed) >= max {
            self.shared.roots.fetch_sub(1, Ordering::Relaxed);
            return Err(CallError::limit("client-requests", max));
        }
        Ok(Counted(self.shared.clone()))
    }

    fn closed(&self) -> CallError {
        let reason = self.shared.closed.get().map_or("the connection was shut down", |r| r);
        CallError::Closed(reason.to_owned())
    }
}

impl WeakHandle {
    /// The full handle, unless all are gone.
    pub(crate) fn upgrade(&self) -> Option<Handle> {
        let commands = self.commands.upgrade()?;
        Some(Handle { commands, shared: self.shared.clone() })
    }

    /// Notes why the connection ended for good.
    pub(crate) fn set_closed(&self, reason: &str) {
        let _first_wins = self.shared.closed.set(reason.to_owned());
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.roots.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("roots", &self.shared.roots).finish_non_exhaustive()
    }
}

// === impl Waiting ===

impl Waiting<'_> {
    /// The answer; `None` if none will come.
    pub(crate) async fn answer(mut self) -> Option<Reply> {
        let answer = (&mut self.answer).await;
        self.is_over = true;
        answer.ok()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Closed first, so that who is told finds it closed.
        self.answer.close();
        if !self.is_over && self.answer.try_recv().is_err() {
            // Without a driver there is nothing to give up.
            let _ = self.handle.send(Command::GivenUp(self.place.clone()));
        }
    }
}

// === impl Place ===

impl Place {
    /// The request has a number now.
    pub(crate) fn set(&self, number: u64) {
        // Relaxed: only the driver looks.
        self.0.store(number + 1, Ordering::Relaxed);
    }

    /// The number that it had last, if it was ever sent.
    pub(crate) fn get(&self) -> Option<u64> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }
}

// === impl Outgoing ===

impl Outgoing {
    /// Whether the answer would go nowhere.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.reply.is_abandoned()
    }
}

impl ReplyTo {
    /// Whether nobody waits any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Self::Caller(reply, _) => reply.is_closed(),
            Self::Write(_) => false,
        }
    }

    /// Where its number is noted, if somebody may give it up.
    pub(crate) fn place(&self) -> Option<&Arc<Place>> {
        match self {
            Self::Caller(_, place) => Some(place),
            Self::Write(_) => None,
        }
    }

    pub(crate) fn send(self, reply: Reply) {
        match self {
            // An error means that nobody waits any more, which is their choice.
            Self::Caller(caller, _) => drop(caller.send(reply)),
            Self::Write(turn) => turn.write_answered(reply),
        }
    }
}
