//! Connecting, and everything that can be asked outside turns.

use std::path::PathBuf;
use std::time::Duration;

use kar_proto::v1::{self as proto, Hello};

use crate::application_state::ApplicationState;
use crate::call::{ActorRef, InvocationId, ServiceRef, Started};
use crate::codec::Decode;
use crate::context::sealed::{Origin, Sealed};
use crate::context::{Caller, Root, Source};
use crate::error::{CallError, ConnectError};
use crate::event::{Subscribed, Subscription, Topic, TopicDescription, subscription};
use crate::operator::{Listing, Operator};
use crate::stream::driver::{self, Node};
use crate::stream::{Answer, Command, Handle, Operation};
use crate::topology::TopologyWatch;
use crate::transport::{Address, Settings};

/// Entry to everything: `Kar::connect()` for a client, [`Host::builder`](crate::Host::builder) for
/// a host.
#[derive(Clone, Copy, Debug)]
pub struct Kar;

/// How to reach the sidecar. What is not said comes from the environment, which `kar run` sets:
/// `KAR_SOCKET`, else `KAR_GRPC_PORT`; and `KAR_API_TOKEN`.
#[derive(Clone, Debug, Default)]
pub struct KarBuilder {
    settings: Settings,
}

/// A component's connection to its sidecar, for what is asked outside turns. Cheap to clone.
///
/// When the connection breaks, it is made again with growing pauses. Requests that were under way
/// then fail with [`CallError::Unknown`], unless doing them twice does no harm (reads, `awaiting`,
/// application state): those are sent again, as are requests that had not been sent.
#[derive(Clone, Debug)]
pub struct Client {
    handle: Handle,
    node: Option<Node>,
}

/// What a request for an invocation's end came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Cancelling {
    /// It has ended as cancelled, and does not run (again).
    Cancelled,
    /// It runs and was told, or waits for calls that it made: it ends when it stops or they have ended.
    Requested,
    /// It has gone on elsewhere by a tail call, where this id does not reach it; it ends if it comes back.
    Moved,
    /// It had ended before.
    Ended,
}

impl Kar {
    /// Connects to the sidecar that the environment names, trying for ten seconds.
    ///
    /// # Errors
    /// The environment names none, it cannot be reached, or it refuses.
    pub async fn connect() -> Result<Client, ConnectError> {
        Self::builder().connect().await
    }

    /// Connects in another way than the environment says.
    #[must_use]
    pub fn builder() -> KarBuilder {
        KarBuilder::default()
    }
}

impl KarBuilder {
    /// Unix socket of the sidecar, instead of `KAR_SOCKET`.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.address = Some(Address::Socket(path.into()));
        self
    }

    /// Port of the sidecar on 127.0.0.1, instead of `KAR_GRPC_PORT`.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.settings.address = Some(Address::Port(port));
        self
    }

    /// Bearer token, instead of `KAR_API_TOKEN`.
    #[must_use]
    pub fn api_token(mut self, token: impl Into<String>) -> Self {
        self.settings.api_token = Some(token.into());
        self
    }

    /// How long the first connection is tried; 10 s if not said.
    #[must_use]
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.settings.connect_timeout = time;
        self
    }

    /// How long a broken connection is tried again before the client is closed; 60 s if not said.
    #[must_use]
    pub fn reconnect_timeout(mut self, time: Duration) -> Self {
        self.settings.reconnect_timeout = time;
        self
    }

    /// Requests that may wait or be under way, 20,000 if not said. Beyond it they fail with
    /// [`CallError::Limit`] named `client-requests`.
    #[must_use]
    pub fn requests_max(mut self, count: usize) -> Self {
        self.settings.requests_max = count;
        self
    }

    /// Connects. The client lives on the runtime that this is called on.
    ///
    /// # Errors
    /// There is no sidecar to connect to, it cannot be reached, or it refuses.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let connected = driver::connect(self.settings, None, Hello::default()).await?;
        Ok(Client::new(connected.handle, connected.node))
    }
}

impl Client {
    pub(crate) fn new(handle: Handle, node: Node) -> Self {
        Self { handle, node: Some(node) }
    }

    /// A client on a turn's connection.
    pub(crate) fn detached(handle: Handle) -> Self {
        Self { handle, node: None }
    }

    /// A service by its name.
    #[must_use]
    pub fn service(&self, name: &str) -> ServiceRef<Root> {
        Caller::service(self, name)
    }

    /// An actor by its type and id. It exists by being named.
    #[must_use]
    pub fn actor(&self, actor_type: &str, id: impl Into<String>) -> ActorRef<Root> {
        Caller::actor(self, actor_type, id)
    }

    /// Waits for the outcome of a started invocation, maybe one of another process. Survives the
    /// loss of the connection.
    ///
    /// # Errors
    /// What the invocation came to; [`CallError::UnknownInvocation`] if there is none, or its
    /// result is not kept any more.
    pub async fn awaiting<R: Decode>(&self, id: &InvocationId) -> Result<R, CallError> {
        Started::new(id.clone(), self.handle.clone()).outcome().await
    }

    /// Asks for the end of an invocation. One that does not run ends at once; one that runs is told,
    /// and stops at its next `.await` if its SDK stops it there, as this one does. It is not tried
    /// again.
    ///
    /// # Errors
    /// [`CallError::UnknownInvocation`] if there is none, or it has ended and left nothing.
    pub async fn cancel(&self, id: &InvocationId) -> Result<Cancelling, CallError> {
        let request = proto::CancelRequest { invocation_id: id.0.clone() };
        match self.handle.request(Operation::Cancel(request)).await? {
            Answer::Cancel(answer) => match answer.result() {
                proto::CancelResult::Cancelled => Ok(Cancelling::Cancelled),
                proto::CancelResult::Requested => Ok(Cancelling::Requested),
                proto::CancelResult::Moved => Ok(Cancelling::Moved),
                proto::CancelResult::Ended => Ok(Cancelling::Ended),
                proto::CancelResult::Unspecified => Err(CallError::mismatch("cancel")),
            },
            _ => Err(CallError::mismatch("cancel")),
        }
    }

    /// Lets an invocation go on that is parked because it has lost too many hosts.
    ///
    /// # Errors
    /// [`CallError::Rejected`] with reason `NOT_PARKED` if it is not; [`CallError::UnknownInvocation`] if there is
    /// none.
    pub async fn resume(&self, id: &InvocationId) -> Result<(), CallError> {
        let request = proto::ResumeRequest { invocation_id: id.0.clone() };
        match self.handle.request(Operation::Resume(request)).await? {
            Answer::Resume(_) => Ok(()),
            _ => Err(CallError::mismatch("resume")),
        }
    }

    /// What operators and their tools ask for: what is unfinished, dead letters, who is busy.
    #[must_use]
    pub fn operator(&self) -> Operator {
        Operator::new(self.handle.clone())
    }

    /// Follows who is there, and which node owns which partition, as it changes. Nothing is sent before
    /// [`TopologyWatch::next`] is called.
    #[must_use]
    pub fn watch_topology(&self) -> TopologyWatch {
        TopologyWatch::new(self.handle.sidecar().clone())
    }

    /// State of the application as a whole.
    #[must_use]
    pub fn state(&self) -> ApplicationState {
        ApplicationState::new(self.handle.clone())
    }

    /// A topic by its name: to publish to it, and to follow it.
    #[must_use]
    pub fn topic(&self, name: impl Into<String>) -> Topic {
        Caller::topic(self, name)
    }

    /// All topics of the data directory by name, with what is in them.
    #[must_use]
    pub fn topics(&self) -> Listing<TopicDescription> {
        Listing::new(self.handle.sidecar().clone())
    }

    /// Subscribes a method of an actor or a service to a topic; tells whether that is new, when it is
    /// durable. A subscription outlives this process; one of the same name and settings is left as it
    /// is.
    ///
    /// # Errors
    /// [`CallError::Rejected`] with reason `SUBSCRIPTION_EXISTS` (with other settings), `UNKNOWN_TOPIC`
    /// or `INVALID_FIELD`, say.
    pub async fn subscribe(&self, subscription: Subscription) -> Result<bool, CallError> {
        subscription::subscribe(&self.handle, subscription).await
    }

    /// Ends a subscription; whether it existed. Events that were accepted are carried through.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn unsubscribe(&self, name: impl Into<String>) -> Result<bool, CallError> {
        subscription::unsubscribe(&self.handle, name.into()).await
    }

    /// Pauses a subscription, which keeps its place; whether it was active.
    ///
    /// # Errors
    /// [`CallError::Rejected`] with reason `UNKNOWN_SUBSCRIPTION`, say.
    pub async fn pause_subscription(&self, name: impl Into<String>) -> Result<bool, CallError> {
        subscription::pause(&self.handle, name.into()).await
    }

    /// Lets a paused subscription go on where it was; whether it was paused.
    ///
    /// # Errors
    /// [`CallError::Rejected`] with reason `UNKNOWN_SUBSCRIPTION`, say.
    pub async fn resume_subscription(&self, name: impl Into<String>) -> Result<bool, CallError> {
        subscription::resume(&self.handle, name.into()).await
    }

    /// Sends events of a subscription's dead-letter topic back to it, each once, at most 1,000; how many.
    /// None: there were no more.
    ///
    /// # Errors
    /// [`CallError::Rejected`] with reason `UNKNOWN_SUBSCRIPTION`, or `INVALID_FIELD` if it has no such
    /// topic.
    pub async fn redrive_subscription(&self, name: impl Into<String>) -> Result<usize, CallError> {
        subscription::redrive(&self.handle, name.into()).await
    }

    /// The subscriptions of the application by name, with how far they have come.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn subscriptions(&self) -> Result<Vec<Subscribed>, CallError> {
        subscription::list(&self.handle).await
    }

    /// Name of the sidecar's node, as it was when the component connected first. Empty in a turn's
    /// client.
    #[must_use]
    pub fn node(&self) -> &str {
        self.node.as_ref().map_or("", |node| &node.name)
    }

    /// Name of the application. Empty in a turn's client.
    #[must_use]
    pub fn application(&self) -> &str {
        self.node.as_ref().map_or("", |node| &node.application)
    }

    /// Closes the connection, also for other clones, when the requests under way are answered, or
    /// after 15 s. Without this the connection ends at once with the last clone.
    pub fn close(&self) {
        // A closed one stays closed.
        let _ = self.handle.send(Command::Leave);
    }
}

impl Sealed for Client {
    fn origin(&self) -> Origin {
        Origin(Source::Root(self.handle.clone()))
    }
}

impl Caller for Client {
    type Scope = Root;
}
