//! What the sidecar holds about one component stream: frames to it, its requests under way, the turns it may be sent.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kar_core::Event;
use kar_core::effect::{CancelReason, Turn};
use kar_core::event::TurnResult;
use kar_core::ids::{RequestId, TurnToken};
use kar_proto::v1 as pb;
use kar_proto::v1::ErrorReason;
use kar_proto::v1::response::Result as Reply;
use kar_proto::v1::sidecar_frame::Frame;
use tonic::{Code, Status};

use super::requests::{Requests, Ticket};
use crate::convert::api::{TurnRef, direct_size, direct_to, reply_size, turn_size, turn_to};
use crate::convert::error;
use crate::driver::Driver;
use crate::driver::outlets::{DirectCall, Host};
use crate::outbox::{Outbox, OutboxBounds};

/// Frames to a component.
pub type SessionOutbox = Outbox<pb::SidecarFrame>;

/// One component stream.
pub struct Session {
    driver: Arc<Driver>,
    outbox: Arc<SessionOutbox>,
    requests: Mutex<Requests>,
    window: Mutex<Window>,
}

/// Turns that the component allows. Only those that hold a slot need credit: a turn that another one waits for must not
/// wait for that one's credit.
#[derive(Debug, Default)]
struct Window {
    /// How many that need credit may be under way; `None`: the core's slots are the only bound.
    allowed: Option<u64>,
    /// How many of them are.
    used: u64,
    /// All turns that were sent and have no result yet, by token as it was written, so that it need not be parsed when
    /// it comes back; with whether they use a credit.
    under_way: HashMap<String, (TurnRef, bool)>,
    /// Waiting for credit, in order.
    held: VecDeque<Work>,
    /// It asked to leave.
    is_leaving: bool,
}

/// A turn for the component.
#[derive(Debug)]
struct Work {
    turn: TurnRef,
    frame: Box<pb::InvocationFrame>,
    bytes: usize,
}

// === impl Session ===

impl Session {
    /// A stream whose component allows `invocation_credits` turns at once (0: any number), and may have `requests_max`
    /// requests under way.
    pub fn new(
        driver: Arc<Driver>,
        bounds: OutboxBounds,
        requests_max: u32,
        invocation_credits: u32,
    ) -> Arc<Self> {
        let allowed = (invocation_credits > 0).then_some(invocation_credits.into());
        Arc::new(Self {
            driver,
            outbox: Outbox::new(bounds),
            requests: Mutex::new(Requests::new(requests_max as usize)),
            window: Mutex::new(Window { allowed, ..Window::default() }),
        })
    }

    /// The queue that the transport reads.
    pub fn outbox(&self) -> &Arc<SessionOutbox> {
        &self.outbox
    }

    /// Sends a frame of about `bytes` bytes.
    pub fn send(&self, frame: Frame, bytes: usize) {
        self.outbox.push(pb::SidecarFrame { frame: Some(frame) }, bytes);
    }

    /// Ends the stream.
    pub fn end(&self, status: Option<Status>) {
        self.outbox.end(status);
    }

    /// A request comes in.
    ///
    /// # Errors
    ///
    /// If its number is in use, or more requests are under way than were allowed.
    pub fn begin(&self, id: u64) -> Result<Ticket, Status> {
        self.requests().begin(id)
    }

    /// The core knows it as `request`; nothing happens if it was answered meanwhile.
    pub fn known_as(&self, ticket: Ticket, request: RequestId) {
        self.requests().known_as(ticket, request);
    }

    /// A request has come to something. It is answered, unless it was forgotten, which answered it.
    pub fn answer(&self, ticket: Ticket, reply: Result<Reply, Status>) {
        if self.requests().end(ticket) {
            self.respond(ticket.id, reply);
        }
    }

    /// The component waits for a request no longer: it is answered at once, unless it has been meanwhile. Returns what
    /// the core knows it as, which is to be abandoned.
    pub fn forget(&self, id: u64) -> Option<RequestId> {
        let request = self.requests().forget(id)?;
        let what = "it was forgotten before it had its outcome: what was accepted goes on";
        let code = Code::Cancelled;
        self.respond(id, Err(error::status_as(code, ErrorReason::OutcomeUnknown, what, [])));
        request
    }

    fn respond(&self, id: u64, reply: Result<Reply, Status>) {
        let result = reply.unwrap_or_else(|status| Reply::Status(error::on_stream(&status)));
        let bytes = reply_size(&result);
        self.send(Frame::Response(pb::Response { id, result: Some(result) }), bytes);
    }

    /// The requests that nobody waits for any more once the stream has ended.
    pub fn take_requests(&self) -> Vec<RequestId> {
        self.requests().take()
    }

    /// The component allows `count` more turns.
    pub fn allow(&self, count: u32) {
        let mut window = self.window();
        if let Some(allowed) = &mut window.allowed {
            *allowed = allowed.saturating_add(count.into());
        }
        self.release(&mut window);
    }

    /// A turn ended at the component; tells which one, if it was under way there.
    pub fn turn_ended(&self, turn_token: &str) -> Option<TurnRef> {
        let mut window = self.window();
        let (turn, credit) = window.under_way.remove(turn_token)?;
        window.used -= u64::from(credit);
        self.release(&mut window);
        Some(turn)
    }

    /// The component asked to leave.
    pub fn leave(&self) {
        self.window().is_leaving = true;
    }

    /// Sends a turn, or holds it until there is credit. What waits, here or in the outbox, counts against no bound
    /// of the
    /// stream: the core holds these turns' payloads anyway, and a burst of turns must not end the stream, since all of
    /// them would then be tried again, at once.
    fn invoke(&self, work: Work, credit: bool) {
        let mut window = self.window();
        if !credit || (window.held.is_empty() && window.has_credit()) {
            return self.send_work(&mut window, work, credit);
        }
        window.held.push_back(work);
    }

    fn send_work(&self, window: &mut Window, work: Work, credit: bool) {
        let Work { turn, frame, bytes } = work;
        window.used += u64::from(credit);
        window.under_way.insert(frame.turn_token.clone(), (turn, credit));
        let frame = Frame::Invocation(frame);
        self.outbox.push_work(pb::SidecarFrame { frame: Some(frame) }, bytes);
    }

    fn release(&self, window: &mut Window) {
        while window.has_credit() {
            let Some(work) = window.held.pop_front() else { return };
            self.send_work(window, work, true);
        }
    }

    /// Takes a turn back that has not been sent yet; tells whether there was one.
    fn recall(&self, turn_token: &str) -> bool {
        let mut window = self.window();
        let held = window.held.iter().position(|work| work.frame.turn_token == turn_token);
        if held.and_then(|at| window.held.remove(at)).is_some() {
            return true;
        }
        let wanted = |frame: &pb::SidecarFrame| match &frame.frame {
            Some(Frame::Invocation(invocation)) => invocation.turn_token == turn_token,
            _ => false,
        };
        if self.outbox.recall(wanted).is_none() {
            return false;
        }
        if let Some((_, credit)) = window.under_way.remove(turn_token) {
            window.used -= u64::from(credit);
        }
        self.release(&mut window);
        true
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        // Nothing panics while it is held.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        // Nothing panics while it is held.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    fn has_credit(&self) -> bool {
        self.allowed.is_none_or(|allowed| self.used < allowed)
    }
}

impl Host for Session {
    fn dispatch(&self, turn: Turn) {
        let (bytes, credit) = (turn_size(&turn), turn.slot);
        let named = TurnRef::Durable(turn.token.clone());
        self.invoke(Work { turn: named, frame: Box::new(turn_to(turn)), bytes }, credit);
    }

    fn dispatch_direct(&self, turn: u64, call: DirectCall) {
        let bytes = direct_size(&call);
        let frame = Box::new(direct_to(turn, call));
        self.invoke(Work { turn: TurnRef::Direct(turn), frame, bytes }, true);
    }

    fn cancel(&self, token: TurnToken, reason: CancelReason) {
        let turn_token = token.to_string();
        if self.recall(&turn_token) {
            // The component never saw it. The core is told in a task: it is in the middle of deciding just now.
            let driver = self.driver.clone();
            let result = TurnResult::Cancelled;
            tokio::spawn(async move { driver.handle(Event::TurnResult { token, result }) });
            return;
        }
        // In the lane of the turn, so that it does not come before it.
        let reason = match reason {
            CancelReason::Superseded => pb::CancelReason::Superseded,
            CancelReason::Requested => pb::CancelReason::Requested,
        };
        let frame = Frame::CancelTurn(pb::CancelTurn { turn_token, reason: reason.into() });
        self.outbox.push_work(pb::SidecarFrame { frame: Some(frame) }, 128);
    }

    fn drained(&self) {
        if self.window().is_leaving {
            self.send(Frame::Drained(pb::Drained {}), 16);
        }
    }

    fn replaced(&self) {
        let what = "the sidecar's node was struck out and replaced: connect again";
        self.end(Some(error::status(ErrorReason::OutcomeUnknown, what, [])));
    }
}
