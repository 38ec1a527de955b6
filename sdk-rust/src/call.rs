//! Calling services and actors: references to them, and calls on their way.

mod tail;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use kar_proto::v1 as proto;

use crate::codec::{CodecError, Decode, Encode, Payload};
use crate::context::sealed::Origin;
use crate::context::{Nested, Root, Source};
use crate::error::{ApplicationError, CallError};
use crate::reminder::Reminders;
use crate::state::{SubMapReader, View};
use crate::stream::{Answer, Operation, Reply};

/// A service, as seen by one caller. `S` is [`Root`] for a client, [`Nested`](crate::Nested) in a
/// turn.
#[derive(Clone)]
pub struct ServiceRef<S> {
    origin: Origin,
    name: String,
    affinity_key: String,
    scope: PhantomData<fn() -> S>,
}

/// An actor instance, as seen by one caller.
#[derive(Clone)]
pub struct ActorRef<S> {
    origin: Origin,
    actor_type: String,
    id: String,
    scope: PhantomData<fn() -> S>,
}

/// A call that has not been made: `.await` makes it and waits for the result; [`tell`](Self::tell)
/// and [`start`](Self::start) do not wait; [`tail`](Self::tail) ends the turn with it.
///
/// Whoever drops the future of a call that was made (a timeout, a `select!`) gives it up: nobody waits
/// any more, and nothing is kept for it. That cancels nothing: a call that was accepted is carried to
/// completion, and in a turn it is still waited for before the turn's end takes effect.
#[must_use = "a call is made by `.await`, `.tell()`, `.start()` or `.tail()`"]
pub struct Call<R, S> {
    origin: Origin,
    kind: proto::target::Kind,
    method: Cow<'static, str>,
    argument: Result<Payload, CodecError>,
    options: proto::InvocationOptions,
    direct: bool,
    step_key: String,
    types: PhantomData<fn() -> (R, S)>,
}

/// How errors that a method marks retryable are retried: with pauses that grow, up to a number of
/// attempts; the last one's error is the outcome. Attempts that were lost with their hosts do not
/// count. An actor stays with the invocation meanwhile: what was sent after it waits.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RetryPolicy {
    max_attempts: u32,
    initial_backoff: Option<Duration>,
    max_backoff: Option<Duration>,
    multiplier: f64,
}

/// Id of an invocation, for `kar await`, logs and people.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct InvocationId(pub String);

/// A started invocation, whose result is kept (a day by default) and can be fetched any number of
/// times.
#[derive(Clone)]
pub struct Started<R> {
    id: InvocationId,
    handle: crate::stream::Handle,
    result: PhantomData<fn() -> R>,
}

// === impl ServiceRef ===

impl<S> ServiceRef<S> {
    pub(crate) fn new(origin: Origin, name: &str) -> Self {
        let (name, affinity_key) = (name.to_owned(), String::new());
        Self { origin, name, affinity_key, scope: PhantomData }
    }

    /// Calls with the same key are handled by the same owner while it lives.
    #[must_use]
    pub fn affinity_key(mut self, key: impl Into<String>) -> Self {
        self.affinity_key = key.into();
        self
    }

    /// A call of a method.
    pub fn call<R>(&self, method: &str, argument: &(impl Encode + ?Sized)) -> Call<R, S> {
        self.invocation(Cow::Owned(method.to_owned()), argument.encode())
    }

    /// A call at most once, past all logs: for reads that can simply be asked again. It is never
    /// part of a turn, and fails with [`CallError::NoHost`] where no host is alive.
    pub fn call_direct<R>(&self, method: &str, argument: &(impl Encode + ?Sized)) -> Call<R, S> {
        Call { direct: true, ..self.call(method, argument) }
    }

    /// Tells without waiting for the outcome. As [`Call::tell`].
    ///
    /// # Errors
    /// As [`Call::tell`].
    pub async fn tell(
        &self,
        method: &str,
        argument: &(impl Encode + ?Sized),
    ) -> Result<InvocationId, CallError> {
        self.call::<()>(method, argument).tell().await
    }

    /// For generated clients.
    #[doc(hidden)]
    pub fn invocation<R>(
        &self,
        method: Cow<'static, str>,
        argument: Result<Payload, CodecError>,
    ) -> Call<R, S> {
        let (name, affinity_key) = (self.name.clone(), self.affinity_key.clone());
        let service = proto::ServiceTarget { name, affinity_key };
        Call::new(&self.origin, proto::target::Kind::Service(service), method, argument)
    }
}

impl ServiceRef<Root> {
    /// Starts an invocation whose result is fetched later. As [`Call::start`].
    ///
    /// # Errors
    /// As [`Call::start`].
    pub async fn start<R>(
        &self,
        method: &str,
        argument: &(impl Encode + ?Sized),
    ) -> Result<Started<R>, CallError> {
        self.call(method, argument).start().await
    }
}

impl<S> fmt::Debug for ServiceRef<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServiceRef").field(&self.name).finish()
    }
}

// === impl ActorRef ===

impl<S> ActorRef<S> {
    pub(crate) fn new(origin: Origin, actor_type: &str, id: String) -> Self {
        Self { origin, actor_type: actor_type.to_owned(), id, scope: PhantomData }
    }

    /// Id of the instance.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A call of a method.
    pub fn call<R>(&self, method: &str, argument: &(impl Encode + ?Sized)) -> Call<R, S> {
        self.invocation(Cow::Owned(method.to_owned()), argument.encode())
    }

    /// Tells without waiting for the outcome. As [`Call::tell`].
    ///
    /// # Errors
    /// As [`Call::tell`].
    pub async fn tell(
        &self,
        method: &str,
        argument: &(impl Encode + ?Sized),
    ) -> Result<InvocationId, CallError> {
        self.call::<()>(method, argument).tell().await
    }

    /// For generated clients.
    #[doc(hidden)]
    pub fn invocation<R>(
        &self,
        method: Cow<'static, str>,
        argument: Result<Payload, CodecError>,
    ) -> Call<R, S> {
        let actor = proto::ActorTarget { r#type: self.actor_type.clone(), id: self.id.clone() };
        Call::new(&self.origin, proto::target::Kind::Actor(actor), method, argument)
    }
}

impl ActorRef<Root> {
    /// Starts an invocation whose result is fetched later. As [`Call::start`].
    ///
    /// # Errors
    /// As [`Call::start`].
    pub async fn start<R>(
        &self,
        method: &str,
        argument: &(impl Encode + ?Sized),
    ) -> Result<Started<R>, CallError> {
        self.call(method, argument).start().await
    }

    /// The reminders of the actor, from outside its turns.
    #[must_use]
    pub fn reminders(&self) -> Reminders<Root> {
        Reminders::new(self.origin.clone(), &self.actor_type, &self.id)
    }

    /// Removes the actor: its state and its reminders, in one step, behind what was accepted before;
    /// what comes behind it begins with an empty actor. Returns when that is durable. An actor that
    /// has nothing is removed, too. In a turn, use [`client`](crate::TurnContext::client); to await
    /// the removal of the turn's own actor there is to wait for oneself: an actor that is to end
    /// itself clears its state and cancels its reminders.
    ///
    /// # Errors
    /// [`CallError::Rejected`] with reason `UNKNOWN_TYPE` if nobody has ever used the type;
    /// [`CallError::Limit`] if the actor's queue is full; [`CallError::Unknown`] if the connection
    /// broke: whoever does it again may remove what was made since.
    pub async fn remove(&self) -> Result<(), CallError> {
        let actor = proto::ActorTarget { r#type: self.actor_type.clone(), id: self.id.clone() };
        let request = proto::RemoveActorRequest { actor: Some(actor) };
        match self.origin.0.request(Operation::RemoveActor(request)).await? {
            Answer::RemoveActor(_) => Ok(()),
            _ => Err(CallError::mismatch("remove_actor")),
        }
    }

    /// A key of the committed state of the actor, from outside its turns; `None` if it is absent.
    ///
    /// # Errors
    /// The sidecar's, or [`CallError::Codec`] if the value is none of `T`.
    pub async fn committed<T: Decode>(&self, key: &str) -> Result<Option<T>, CallError> {
        self.view().get_own(key).await
    }

    /// The committed state of the actor, from outside its turns: every key of its own.
    ///
    /// # Errors
    /// Any that says the sidecar could not do it.
    pub async fn committed_state(&self) -> Result<BTreeMap<String, Payload>, CallError> {
        self.view().get_all_own().await
    }

    /// A sub-map of the committed state of the actor, from outside its turns. It need not exist.
    ///
    /// ```no_run
    /// # async fn f(client: kar_sdk::Client) -> Result<(), kar_sdk::CallError> {
    /// let stock = client.actor("Shop", "corner").committed_sub_map("stock");
    /// let apples: Option<u32> = stock.get("apples").await?;
    /// let first = stock.entries().up_to(10).await?;
    /// # let _ = (apples, first);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn committed_sub_map(&self, name: impl Into<String>) -> SubMapReader<'static> {
        SubMapReader::new(self.view(), name.into())
    }

    fn view(&self) -> View<'static> {
        let actor = proto::ActorTarget { r#type: self.actor_type.clone(), id: self.id.clone() };
        View::Committed(self.origin.0.handle().clone(), actor)
    }
}

impl<S> fmt::Debug for ActorRef<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ActorRef").field(&self.actor_type).field(&self.id).finish()
    }
}

// === impl Call ===

impl<R, S> Call<R, S> {
    fn new(
        origin: &Origin,
        kind: proto::target::Kind,
        method: Cow<'static, str>,
        argument: Result<Payload, CodecError>,
    ) -> Self {
        let trace_parent = match &origin.0 {
            Source::Root(_) => String::new(),
            Source::Turn(turn) => turn.trace_parent.clone(),
        };
        let options = proto::InvocationOptions { trace_parent, ..Default::default() };
        let (origin, types) = (origin.clone(), PhantomData);
        let step_key = String::new();
        Self { origin, kind, method, argument, options, direct: false, step_key, types }
    }

    /// The invocation must start within this time from its acceptance, at least 1 ms; else it never
    /// runs, and the call fails with [`CallError::Expired`]. Without this it waits for ever.
    ///
    /// When its host and sidecar are lost in the very moment in which it starts, it may count as not
    /// started: its code has run, and nothing of that came out of KAR. Not so on
    /// [`strict`](crate::HostBuilder::strict) hosts.
    pub fn start_within(mut self, time: Duration) -> Self {
        // The longest time that protobuf has is longer than any that this could mean.
        self.options.start_within = time.try_into().ok();
        self
    }

    /// How errors of it are retried that the method marks retryable, instead of how the method or
    /// its sidecar would: see [`Error::retryable`](crate::Error::retryable).
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.options.retry_policy = Some(policy.into_proto());
        self
    }

    /// Makes it safe to send the same again, through whichever sidecar: for the same target, method and
    /// argument it is one invocation under this key, and every request gets its one outcome. Known for
    /// 24 hours after its end, unless the nodes say otherwise. At most 512 bytes. Not in turns, where
    /// [`step_key`](Self::step_key) does this.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.options.idempotency_key = key.into();
        self
    }

    /// W3C `traceparent` that the invocation carries, instead of the turn's own.
    pub fn trace_parent(mut self, value: impl Into<String>) -> Self {
        self.options.trace_parent = value.into();
        self
    }

    /// Tells instead of calling: outside turns returns when the invocation is durable, which is
    /// then carried to completion; in a turn returns at once, and is durable with the turn's
    /// segment.
    ///
    /// # Errors
    /// The sidecar did not take it, or ([`CallError::Unknown`]) may have.
    pub async fn tell(self) -> Result<InvocationId, CallError> {
        let request = proto::TellRequest {
            target: Some(proto::Target { kind: Some(self.kind) }),
            method: self.method.into_owned(),
            payload: Some(self.argument?.into_proto()),
            options: Some(self.options),
            turn_token: self.origin.0.turn_token(),
        };
        match self.origin.0.request(Operation::Tell(request)).await? {
            Answer::Tell(answer) => Ok(InvocationId(answer.invocation_id)),
            _ => Err(CallError::mismatch("tell")),
        }
    }

    async fn payload(self) -> Result<Payload, CallError> {
        use proto::target::Kind;
        let payload = Some(self.argument?.into_proto());
        let (method, options) = (self.method.into_owned(), Some(self.options));
        let step_key = self.step_key;
        let operation = match self.kind {
            Kind::Service(service) => {
                let (delivery_mode, turn_token) = match self.direct {
                    true => (proto::DeliveryMode::Direct, String::new()),
                    false => (proto::DeliveryMode::Durable, self.origin.0.turn_token()),
                };
                Operation::Invoke(proto::InvokeRequest {
                    service: service.name,
                    method,
                    payload,
                    delivery_mode: delivery_mode.into(),
                    affinity_key: service.affinity_key,
                    options,
                    turn_token,
                    step_key,
                })
            }
            Kind::Actor(actor) => Operation::CallActor(proto::CallActorRequest {
                actor: Some(actor),
                method,
                payload,
                options,
                turn_token: self.origin.0.turn_token(),
                step_key,
            }),
        };
        match self.origin.0.request(operation).await? {
            Answer::Invoke(proto::InvokeResponse { result: Some(result), .. }) => match result {
                proto::invoke_response::Result::Payload(p) => Ok(Payload::from_proto(Some(p))),
                proto::invoke_response::Result::Error(e) => Err(application(e)),
            },
            Answer::CallActor(proto::CallActorResponse { result: Some(result), .. }) => {
                match result {
                    proto::call_actor_response::Result::Payload(p) => {
                        Ok(Payload::from_proto(Some(p)))
                    }
                    proto::call_actor_response::Result::Error(e) => Err(application(e)),
                }
            }
            _ => Err(CallError::mismatch("call")),
        }
    }
}

impl<R> Call<R, Nested> {
    /// Keeps the outcome under this key with the method that calls, so that a retry of the method
    /// that makes the same call gets it: the call is made once. Results and application errors are
    /// kept; what expired, or was refused, is called again. Has no effect on [`tell`](Self::tell).
    ///
    /// The call fails with [`CallError::StepKeyReused`] if the key stands for another target or
    /// method, for a value that [`once`](crate::TurnContext::once) recorded, or for a call that is
    /// under way.
    pub fn step_key(mut self, key: impl Into<String>) -> Self {
        self.step_key = key.into();
        self
    }
}

impl<R> Call<R, Root> {
    /// Starts instead of calling: returns when the invocation is durable; its result is fetched
    /// later.
    ///
    /// # Errors
    /// The sidecar did not take it, or ([`CallError::Unknown`]) may have.
    pub async fn start(self) -> Result<Started<R>, CallError> {
        let request = proto::StartRequest {
            target: Some(proto::Target { kind: Some(self.kind) }),
            method: self.method.into_owned(),
            payload: Some(self.argument?.into_proto()),
            options: Some(self.options),
        };
        match self.origin.0.request(Operation::Start(request)).await? {
            Answer::Start(answer) => {
                let id = InvocationId(answer.invocation_id);
                Ok(Started::new(id, self.origin.0.handle().clone()))
            }
            _ => Err(CallError::mismatch("start")),
        }
    }
}

impl<R: Decode + 'static, S: 'static> IntoFuture for Call<R, S> {
    type Output = Result<R, CallError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(R::decode(self.payload().await?)?) })
    }
}

impl<R, S> fmt::Debug for Call<R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("target", &self.kind)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

// === impl RetryPolicy ===

impl RetryPolicy {
    /// So many attempts, the first one included; pauses as the sidecar makes them by default.
    #[must_use]
    pub const fn attempts(max: u32) -> Self {
        Self { max_attempts: max, initial_backoff: None, max_backoff: None, multiplier: 0.0 }
    }

    /// Pause before the second attempt, and the longest one; each is `multiplier` times (1 to 100) as
    /// long as the one before.
    #[must_use]
    pub const fn backoff(self, initial: Duration, max: Duration, multiplier: f64) -> Self {
        let (initial_backoff, max_backoff) = (Some(initial), Some(max));
        Self { initial_backoff, max_backoff, multiplier, ..self }
    }

    pub(crate) fn into_proto(self) -> proto::RetryPolicy {
        // The longest time that protobuf has is longer than any that this could mean.
        let wire = |time: Option<Duration>| time.and_then(|time| time.try_into().ok());
        proto::RetryPolicy {
            max_attempts: i32::try_from(self.max_attempts.max(1)).unwrap_or(i32::MAX),
            initial_backoff: wire(self.initial_backoff),
            max_backoff: wire(self.max_backoff),
            multiplier: self.multiplier,
        }
    }
}

// === impl Started ===

impl<R> Started<R> {
    pub(crate) fn new(id: InvocationId, handle: crate::stream::Handle) -> Self {
        Self { id, handle, result: PhantomData }
    }

    /// Id of the invocation, for [`Client::awaiting`](crate::Client::awaiting).
    #[must_use]
    pub fn id(&self) -> &InvocationId {
        &self.id
    }
}

impl<R: Decode> Started<R> {
    /// Waits for the result. Survives the loss of the connection.
    ///
    /// # Errors
    /// What the invocation came to; [`CallError::UnknownInvocation`] if its result is not kept any
    /// more.
    pub async fn outcome(&self) -> Result<R, CallError> {
        let request = proto::AwaitRequest { invocation_id: self.id.0.clone() };
        match self.handle.request(Operation::AwaitOutcome(request)).await? {
            Answer::AwaitOutcome(proto::AwaitResponse { result: Some(result) }) => match result {
                proto::await_response::Result::Payload(p) => {
                    Ok(R::decode(Payload::from_proto(Some(p)))?)
                }
                proto::await_response::Result::Error(e) => Err(application(e)),
            },
            _ => Err(CallError::mismatch("await")),
        }
    }
}

impl<R> fmt::Debug for Started<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Started").field(&self.id).finish()
    }
}

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Source ===

impl Source {
    pub(crate) async fn request(&self, operation: Operation) -> Reply {
        match self {
            Self::Root(handle) => handle.request(operation).await,
            Self::Turn(turn) => turn.request(operation).await,
        }
    }

    fn turn_token(&self) -> String {
        match self {
            Self::Root(_) => String::new(),
            Self::Turn(turn) => turn.request_token(),
        }
    }

    pub(crate) fn handle(&self) -> &crate::stream::Handle {
        match self {
            Self::Root(handle) => handle,
            Self::Turn(turn) => &turn.handle,
        }
    }
}

fn application(error: proto::ApplicationError) -> CallError {
    ApplicationError::from_proto(error).into()
}
