//! The component's stream: hosting, and every other operation multiplexed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use kar_core::Event;
use kar_core::event::TurnResult;
use kar_core::ids::SessionId;
use kar_core::limits::LimitHit;
use kar_proto::v1 as pb;
use kar_proto::v1::ErrorReason;
use kar_proto::v1::component_frame::Frame as In;
use kar_proto::v1::component_service_server::ComponentService;
use kar_proto::v1::sidecar_frame::Frame as Out;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::api::Api;
use super::serve::closed;
use super::session::Session;
use super::typed::TypedErrors;
use crate::config::{ApplicationName, Bounds, stream_message_bytes_max};
use crate::convert::api::{TurnRef, methods, offer, turn_outcome, turn_ref};
use crate::convert::error;
use crate::driver::{AlreadyHosting, Batch};
use crate::outbox::{OutboxBounds, OutboxStream};

/// Newest version of the protocol that this sidecar speaks.
const PROTOCOL_VERSION: i32 = 1;

/// Path of the RPC.
const METHOD: &str = "/kar.v1.ComponentService/Connect";

/// Stream messages whose frames are given to the core at once, if they are there at once.
const MESSAGES_AT_ONCE_MAX: usize = 16;

/// Serves component streams.
#[derive(Clone)]
pub struct Connect {
    shared: Arc<Shared>,
}

struct Shared {
    api: Api,
    errors: TypedErrors,
    bounds: Bounds,
    node_name: String,
    application: ApplicationName,
    /// Turns true when the sidecar ends.
    closing: watch::Receiver<bool>,
    /// Streams open now.
    open: AtomicUsize,
}

/// One stream from the first frame on.
struct Stream {
    shared: Arc<Shared>,
    session: Arc<Session>,
    /// Its name as a host, if it hosts.
    host: Option<SessionId>,
}

// === impl Connect ===

impl Connect {
    /// Streams of a node; they end when `closing` turns true.
    pub fn new(
        api: Api,
        bounds: Bounds,
        node_name: String,
        application: ApplicationName,
        closing: watch::Receiver<bool>,
    ) -> Self {
        let open = AtomicUsize::new(0);
        let errors = TypedErrors { message_bytes_max: bounds.transport_message_bytes_max };
        let shared = Shared { api, errors, bounds, node_name, application, closing, open };
        Self { shared: Arc::new(shared) }
    }

    /// The first message of a stream. Whoever opens one and says nothing does not hold it for ever.
    async fn first(
        &self,
        inbound: &mut Streaming<pb::ConnectRequest>,
    ) -> Result<pb::ConnectRequest, Status> {
        let patience = Duration::from_millis(self.shared.bounds.hello_timeout_ms);
        match tokio::time::timeout(patience, inbound.message()).await {
            Ok(Ok(message)) => Ok(message.unwrap_or_default()),
            Ok(Err(status)) => Err(self.shared.errors.typed(&status, METHOD).unwrap_or(status)),
            Err(_) => {
                let what = format!("did not come within {patience:?} (hello_timeout_ms)");
                Err(error::protocol_violation("hello", &what))
            }
        }
    }
}

#[tonic::async_trait]
impl ComponentService for Connect {
    type ConnectStream = OutboxStream<pb::SidecarFrame, pb::ConnectResponse>;

    async fn connect(
        &self,
        request: Request<Streaming<pb::ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut inbound = request.into_inner();
        let first = self.first(&mut inbound).await?;
        let mut frames = first.frames.into_iter().map(|f| f.frame);
        let Some(Some(In::Hello(hello))) = frames.next() else {
            return Err(error::protocol_violation("hello", "must come first"));
        };
        let stream = Stream::open(self.shared.clone(), &hello)?;
        let outbox = stream.session.outbox().clone();
        let response = OutboxStream::new(outbox, None, |frames| pb::ConnectResponse { frames });
        stream.take(&mut stream.shared.api.driver.batch(), frames)?;
        tokio::spawn(stream.run(inbound));
        Ok(Response::new(response))
    }
}

// === impl Stream ===

impl Stream {
    /// Answers `hello`.
    fn open(shared: Arc<Shared>, hello: &pb::Hello) -> Result<Self, Status> {
        if hello.protocol_version < 1 {
            return Err(error::invalid_field("hello.protocol_version", "must be at least 1"));
        }
        let credits = u32::try_from(hello.invocation_credits).map_err(|_| {
            error::invalid_field("hello.invocation_credits", "must not be negative")
        })?;
        let offer = offer(hello, &shared.api.limits)?;
        let bounds = OutboxBounds {
            queue: "session_queue",
            frames_max: shared.bounds.session_queue_frames_max,
            bytes_max: shared.bounds.session_queue_bytes_max,
            frames_per_message_max: shared.bounds.frames_per_message_max,
        };
        let driver = shared.api.driver.clone();
        let session = Session::new(driver.clone(), bounds, shared.bounds.request_credits, credits);
        let open = shared.open.fetch_add(1, Ordering::Relaxed);
        // From here on dropping the stream counts it off again.
        let mut stream = Self { shared, session, host: None };
        let max = stream.shared.bounds.sessions_max;
        if open >= max {
            let hit = LimitHit { name: "sessions_max", limit: max as u64 };
            return Err(error::limit_reached(hit));
        }
        stream.welcome(hello);
        if let Some(offer) = offer {
            let up = driver.batch().host_up(offer, stream.session.clone());
            let id = up.map_err(|AlreadyHosting| {
                let what = "this sidecar has a host stream already; end that one first";
                error::status(ErrorReason::AlreadyHosting, what, [])
            })?;
            stream.host = Some(id);
            stream.shared.api.hosted.begin(id, methods(hello));
        }
        Ok(stream)
    }

    fn welcome(&self, hello: &pb::Hello) {
        let shared = &self.shared;
        let limits = &shared.api.limits;
        let incarnation = shared.api.driver.incarnation().unwrap_or_default().0;
        let welcome = pb::Welcome {
            protocol_version: PROTOCOL_VERSION.min(hello.protocol_version),
            node: shared.node_name.clone(),
            incarnation,
            application: shared.application.to_string(),
            sidecar_version: env!("CARGO_PKG_VERSION").to_owned(),
            message_bytes_max: i64::try_from(limits.message_bytes_max).unwrap_or(i64::MAX),
            request_credits: i32::try_from(shared.bounds.request_credits).unwrap_or(i32::MAX),
            stream_message_bytes_max: i64::try_from(stream_message_bytes_max(limits))
                .unwrap_or(i64::MAX),
            takes_forget: true,
        };
        self.session.send(Out::Welcome(welcome), 256);
    }

    /// Reads until either side ends the stream.
    async fn run(self, mut inbound: Streaming<pb::ConnectRequest>) {
        let outbox = self.session.outbox().clone();
        let mut ended = std::pin::pin!(outbox.ended());
        let mut closing = std::pin::pin!(closed(self.shared.closing.clone()));
        loop {
            let message = tokio::select! {
                biased;
                message = inbound.message() => message,
                () = &mut ended => break,
                () = &mut closing => {
                    let what = "the sidecar ended";
                    self.session.end(Some(error::status(ErrorReason::Draining, what, [])));
                    break;
                }
            };
            match self.take_ready(message, &mut inbound) {
                Ok(true) => {}
                Ok(false) => break,
                Err(status) => {
                    tracing::warn!(message = status.message(), "a component's stream is ended");
                    self.session.end(Some(status));
                    break;
                }
            }
        }
        self.session.end(None);
    }

    /// Takes a message, and those behind it that are there already: what they cause travels together. Tells whether the
    /// component may send more.
    fn take_ready(
        &self,
        first: Result<Option<pb::ConnectRequest>, Status>,
        inbound: &mut Streaming<pb::ConnectRequest>,
    ) -> Result<bool, Status> {
        let mut batch = self.shared.api.driver.batch();
        let mut message = first;
        for left in (0..MESSAGES_AT_ONCE_MAX).rev() {
            match message {
                Ok(Some(message)) => {
                    self.take(&mut batch, message.frames.into_iter().map(|f| f.frame))?;
                }
                // The component closed its side, or vanished.
                Ok(None) => return Ok(false),
                Err(status) => {
                    if let Some(typed) = self.shared.errors.typed(&status, METHOD) {
                        return Err(typed);
                    }
                    tracing::debug!(%status, "a component's stream broke");
                    return Ok(false);
                }
            }
            if left == 0 {
                break;
            }
            // The stream is polled again before the task sleeps, so no wake-up is lost.
            let Some(next) = inbound.message().now_or_never() else { break };
            message = next;
        }
        Ok(true)
    }

    /// Takes the frames of one message, in order.
    fn take(
        &self,
        batch: &mut Batch<'_>,
        frames: impl Iterator<Item = Option<In>>,
    ) -> Result<(), Status> {
        for frame in frames {
            let empty = || error::protocol_violation("(empty)", "is empty or not known");
            self.take_frame(batch, frame.ok_or_else(empty)?)?;
        }
        Ok(())
    }

    fn take_frame(&self, batch: &mut Batch<'_>, frame: In) -> Result<(), Status> {
        match frame {
            In::Hello(_) => return Err(error::protocol_violation("hello", "comes once")),
            In::Request(request) => {
                let what = "has no operation, or one that this version does not know";
                let violation = || error::protocol_violation("request", what);
                let ask = request.operation.ok_or_else(violation)?;
                let ticket = self.session.begin(request.id)?;
                let session = self.session.clone();
                let done = Box::new(move |reply| session.answer(ticket, reply));
                if let Some(request) = self.shared.api.submit(batch, ask, done) {
                    self.session.known_as(ticket, request);
                }
            }
            In::Forget(pb::Forget { id }) => {
                if let Some(request) = self.session.forget(id) {
                    batch.abandon(request);
                }
            }
            In::TurnResult(pb::TurnOutcome { turn_token: token, result }) => {
                self.must_host("turn_result")?;
                let result = turn_outcome(result, &self.shared.api.limits);
                let Some(turn) = self.session.turn_ended(&token) else {
                    turn_ref(&token)?;
                    return match result? {
                        // The turn had ended by itself when `cancel_turn` reached the component: answered twice, said
                        // once.
                        TurnResult::Cancelled => Ok(()),
                        TurnResult::Ended(_) | TurnResult::TailCall(_) => {
                            let what = format!("the stream does not hold turn {token}");
                            Err(error::protocol_violation("turn_result", &what))
                        }
                    };
                };
                let result = result?;
                batch.event(match turn {
                    TurnRef::Durable(token) => Event::TurnResult { token, result },
                    TurnRef::Direct(turn) => Event::DirectResult { turn, result },
                });
            }
            In::Credit(credit) => match u32::try_from(credit.count) {
                Ok(count) if count > 0 => self.session.allow(count),
                _ => return Err(error::protocol_violation("credit", "must be at least 1")),
            },
            In::Goodbye(_) => {
                let session = self.must_host("goodbye")?;
                self.session.leave();
                batch.event(Event::HostLeaving { session });
            }
        }
        Ok(())
    }

    fn must_host(&self, frame: &str) -> Result<SessionId, Status> {
        let what = "this stream hosts nothing";
        self.host.ok_or_else(|| error::protocol_violation(frame, what))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
        let mut batch = self.shared.api.driver.batch();
        for request in self.session.take_requests() {
            batch.abandon(request);
        }
        if let Some(host) = self.host {
            self.shared.api.hosted.end(host);
            batch.host_down(host, false);
        }
    }
}
