//! The component's one stream: every request and every turn travels on it.
//!
//! One task, the [`driver`], owns the stream and everything that is under way on it; nothing of
//! that is shared or locked. Others reach it by sending a [`Command`] through a [`Handle`]; the
//! order of commands is the order on the stream (see [`session`] for where credits may change it).
//! What it wants to send it puts into the [`outbox`], from where the HTTP/2 task takes as many
//! frames for a message as are ready.

pub(crate) mod driver;
pub(crate) mod outbox;
pub(crate) mod session;
mod slab;

use std::sync::atomic::{AtomicUsize, Ordering};
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
    /// Somebody waits for it.
    Caller(oneshot::Sender<Reply>),
    /// State changes: the turn notes whether they were taken.
    Write(Arc<Turn>),
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
        let (reply, answer) = oneshot::channel();
        let reply = ReplyTo::Caller(reply);
        self.send(Command::Request(Box::new(Outgoing { operation, sender, reply })))?;
        answer.await.unwrap_or_else(|_| Err(self.closed()))
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
            Self::Caller(reply) => reply.is_closed(),
            Self::Write(_) => false,
        }
    }

    pub(crate) fn send(self, reply: Reply) {
        match self {
            // An error means that nobody waits any more, which is their choice.
            Self::Caller(caller) => drop(caller.send(reply)),
            Self::Write(turn) => turn.write_answered(reply),
        }
    }
}
