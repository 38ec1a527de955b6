//! The one way in for everything that a component asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kar_core::effect::Response;
use kar_core::event::Operation;
use kar_core::ids::{InvocationId, Millis, RequestId};
use kar_core::limits::{LimitHit, Limits};
use kar_core::message::{Control, Controlled, Found};
use kar_proto::v1::ErrorReason;
use kar_proto::v1::request::Operation as Ask;
use kar_proto::v1::response::Result as Reply;
use tokio::sync::oneshot;
use tonic::Status;

use super::hosted::Hosted;
use crate::application_state::{ApplicationState, StateOperation};
use crate::config::Bounds;
use crate::convert::api::{Prepared, answer, prepare, state_answer};
use crate::convert::error;
use crate::driver::{Batch, Driver};
use crate::events::Events;

/// Takes the answer to one request.
pub type Done = Box<dyn FnOnce(Result<Reply, Status>) + Send>;

/// The way in.
#[derive(Clone)]
pub struct Api {
    /// Decides.
    pub driver: Arc<Driver>,
    /// Bounds that requests are checked against.
    pub limits: Arc<Limits>,
    state: Arc<dyn ApplicationState>,
    /// Topics.
    pub events: Events,
    /// What the component beside this sidecar hosts.
    pub(super) hosted: Arc<Hosted>,
    requests_max: usize,
    /// Requests under way.
    open: Arc<AtomicUsize>,
}

/// Counts one request while it is under way.
pub(super) struct Open(Arc<AtomicUsize>);

/// Abandons a request when whoever waits for it goes away.
struct Waiting {
    driver: Arc<Driver>,
    request: Option<RequestId>,
}

// === impl Api ===

impl Api {
    /// A way in to a driver, to the application's state and to topics.
    pub fn new(
        driver: Arc<Driver>,
        state: Arc<dyn ApplicationState>,
        events: Events,
        limits: Limits,
        bounds: &Bounds,
    ) -> Self {
        let requests_max = bounds.requests_max;
        let (limits, hosted, open) = (Arc::new(limits), Arc::default(), Arc::default());
        Self { driver, limits, state, events, hosted, requests_max, open }
    }

    /// Parses a request and hands it to the core or to the application's state. `done` gets the answer, at once or
    /// later. The id is for abandoning it; there is none if the core does not have it.
    pub fn submit(&self, batch: &mut Batch<'_>, ask: Ask, done: Done) -> Option<RequestId> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let open = Open(self.open.clone());
        if before >= self.requests_max {
            let hit = LimitHit { name: "requests_max", limit: self.requests_max as u64 };
            done(Err(error::limit_reached(hit)));
            return None;
        }
        let now = batch.now();
        match prepare(ask, now, &self.limits, self.events.bounds().publish_batch_events_max) {
            Ok(Prepared::Core(operation, shape)) => {
                let responder = move |a| {
                    drop(open);
                    done(answer(shape, a));
                };
                Some(batch.request(*operation, Box::new(responder)))
            }
            Ok(Prepared::State(operation)) => {
                self.run_state(operation, open, done);
                None
            }
            Ok(Prepared::Event(operation)) => {
                let answer = self.events.clone().run(operation, now);
                tokio::spawn(async move {
                    let answer = answer.await;
                    drop(open);
                    done(answer);
                });
                None
            }
            Ok(Prepared::TurnEvents(asked)) => self.publish_in_turn(batch, asked, open, done),
            Ok(Prepared::Subscription(operation)) => {
                let api = self.clone();
                tokio::spawn(async move {
                    let answer = api.subscriptions(operation).await;
                    drop(open);
                    done(answer);
                });
                None
            }
            Err(status) => {
                done(Err(status));
                None
            }
        }
    }

    /// Asks and waits; whoever stops waiting abandons the request.
    ///
    /// # Errors
    ///
    /// The status that says why the request was not carried out.
    pub async fn ask(&self, ask: Ask) -> Result<Reply, Status> {
        let (sender, receiver) = oneshot::channel();
        // If nobody waits any more the answer is dropped: that is what abandoning means.
        let done: Done = Box::new(move |reply| drop(sender.send(reply)));
        let request = self.submit(&mut self.driver.batch(), ask, done);
        let mut waiting = Waiting { driver: self.driver.clone(), request };
        let reply = receiver.await;
        waiting.request = None;
        reply.unwrap_or_else(|_| {
            let what = "the sidecar ended while it was under way";
            Err(error::status(kar_proto::v1::ErrorReason::OutcomeUnknown, what, []))
        })
    }

    /// What is known of an invocation.
    ///
    /// # Errors
    ///
    /// The status that says why nothing is.
    pub async fn find(&self, id: InvocationId) -> Result<Found, Status> {
        let control = Control::Inspect(id.uuid);
        let (sender, receiver) = oneshot::channel();
        // If nobody waits any more the answer is dropped.
        let done = Box::new(move |answer| drop(sender.send(answer)));
        let operation = Operation::Control { home: id.home, control };
        let request = Some(self.driver.batch().request(operation, done));
        let mut waiting = Waiting { driver: self.driver.clone(), request };
        let answer = receiver.await;
        waiting.request = None;
        match answer.map(|answer| answer.map_err(|error| error::request_error(&error))) {
            Ok(Ok(Response::Controlled(Controlled::Found(found)))) => Ok(*found),
            Ok(Ok(_)) => Err(Status::internal("the answer does not fit the request")),
            Ok(Err(status)) => Err(status),
            Err(_) => {
                let what = "the sidecar ended while it was under way";
                Err(error::status(ErrorReason::BackendUnavailable, what, []))
            }
        }
    }

    /// The time.
    pub fn now(&self) -> Millis {
        self.driver.now()
    }

    /// The application's state is not the core's business: it is asked past it, in a task of its own.
    fn run_state(&self, operation: StateOperation, open: Open, done: Done) {
        let answer = self.state.run(operation);
        tokio::spawn(async move {
            let answer = answer.await;
            drop(open);
            done(state_answer(answer));
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(request) = self.request {
            self.driver.batch().abandon(request);
        }
    }
}
