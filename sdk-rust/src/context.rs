//! What a method is given: its context, whose capabilities are traits, so that a helper says by its
//! signature what it may do.
//!
//! | trait | allows | [`Client`](crate::Client) | [`ServiceContext`] | [`ActorContext`] |
//! |---|---|---|---|---|
//! | [`Caller`] | calls and tells | yes | yes | yes |
//! | [`InTurn`] | knowing the turn, `flush`, `once` | | yes | yes |
//! | [`Caller::topic`] | publishing events | yes | with the turn | with the turn |
//! | [`ReadsState`] | reading the actor's state | | | yes |
//! | [`WritesState`] | changing it | | | yes |

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

use kar_proto::v1 as proto;

use crate::call::{ActorRef, ServiceRef};
use crate::client::Client;
use crate::codec::{Decode, Encode};
use crate::error::{CallError, Error};
use crate::event::{Delivery, Topic};
use crate::reminder::Reminders;
use crate::state::{StateReader, StateWriter};
use crate::stream::{Answer, Operation};
use crate::turn::Turn;

/// Outside turns: what is called is the root of a flow of its own.
#[derive(Clone, Copy, Debug)]
pub enum Root {}

/// Inside a turn: what is called belongs to the turn's flow, and what is told is durable with the
/// turn's segment.
#[derive(Clone, Copy, Debug)]
pub enum Nested {}

/// What calls can be made from: a [`Client`], or a turn's context. Sealed.
pub trait Caller: sealed::Sealed {
    /// [`Root`] or [`Nested`].
    type Scope: Send + Sync + 'static;

    /// A service by its name.
    fn service(&self, name: &str) -> ServiceRef<Self::Scope> {
        ServiceRef::new(self.origin(), name)
    }

    /// An actor by its type and id. It exists by being named.
    fn actor(&self, actor_type: &str, id: impl Into<String>) -> ActorRef<Self::Scope> {
        ActorRef::new(self.origin(), actor_type, id.into())
    }

    /// A topic by its name. In a turn what is published belongs to it: it is there once, when the
    /// turn's segment is durable, or never.
    fn topic(&self, name: impl Into<String>) -> Topic<Self::Scope> {
        Topic::new(self.origin(), name.into())
    }
}

/// A turn: what it knows of itself, and `flush`. Sealed.
pub trait InTurn: Caller<Scope = Nested> + Deref<Target = TurnContext> {}

/// May read the state of the turn's actor. Sealed.
///
/// ```
/// async fn seen(ctx: &impl kar_sdk::ReadsState) -> Result<Option<u32>, kar_sdk::CallError> {
///     ctx.read_state().get("seen").await
/// }
/// ```
///
/// What may only read cannot write:
///
/// ```compile_fail,E0599
/// fn forget(ctx: &impl kar_sdk::ReadsState) -> Result<(), kar_sdk::CallError> {
///     ctx.state().remove("seen")
/// }
/// ```
pub trait ReadsState: InTurn {
    /// The state, for reading.
    fn read_state(&self) -> StateReader<'_>;
}

/// May change the state of the turn's actor. Sealed.
///
/// ```
/// fn forget(ctx: &impl kar_sdk::WritesState) -> Result<(), kar_sdk::CallError> {
///     ctx.state().remove("seen")
/// }
/// ```
pub trait WritesState: ReadsState {
    /// The state.
    fn state(&self) -> StateWriter<'_>;
}

/// What every turn has.
pub struct TurnContext {
    turn: Arc<Turn>,
}

/// Context of a service's method.
pub struct ServiceContext {
    inner: TurnContext,
}

/// Context of an actor's method.
pub struct ActorContext {
    inner: TurnContext,
}

/// Where a call comes from.
#[derive(Clone)]
pub(crate) enum Source {
    Root(crate::stream::Handle),
    Turn(Arc<Turn>),
}

pub(crate) mod sealed {
    /// Only for this crate; carries where a call comes from.
    #[derive(Clone)]
    pub struct Origin(pub(crate) super::Source);

    /// Keeps the capability traits closed, so that they can grow.
    pub trait Sealed {
        /// Where a call comes from.
        #[doc(hidden)]
        fn origin(&self) -> Origin;
    }

    impl<T: Sealed + ?Sized> Sealed for &T {
        fn origin(&self) -> Origin {
            (**self).origin()
        }
    }

    impl<T: Sealed + ?Sized> Sealed for &mut T {
        fn origin(&self) -> Origin {
            (**self).origin()
        }
    }
}

impl<T: Caller + ?Sized> Caller for &T {
    type Scope = T::Scope;
}

impl<T: Caller + ?Sized> Caller for &mut T {
    type Scope = T::Scope;
}

// === impl TurnContext ===

impl TurnContext {
    /// The turn's token. Pass it on as a fence to systems that should refuse superseded attempts;
    /// empty for direct invocations, which have none.
    #[must_use]
    pub fn token(&self) -> &str {
        if self.turn.is_direct() { "" } else { &self.turn.token }
    }

    /// Attempt, from 1; greater after a failure.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.turn.attempt
    }

    /// Resolves when somebody asks for the end of the invocation (`kar cancel`,
    /// [`Client::cancel`](crate::Client::cancel)). A method that never calls this is stopped at its
    /// next `.await` then; one that has called it goes on and decides by itself, also against it: what
    /// it returns counts. Either way the invocation is not tried again.
    pub fn cancel_requested(&self) -> impl Future<Output = ()> + Send + use<> {
        self.turn.heed_cancel();
        let turn = self.turn.clone();
        async move { turn.cancel_requested().await }
    }

    /// Step of the invocation, from 1; greater after tail calls.
    #[must_use]
    pub fn step(&self) -> u32 {
        self.turn.step
    }

    /// Name of the method.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.turn.method
    }

    /// Whether somebody waits for the result.
    #[must_use]
    pub fn is_tell(&self) -> bool {
        self.turn.mode == proto::InvocationMode::Tell
    }

    /// Whether this is a direct invocation: at most once, past all logs.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.turn.is_direct()
    }

    /// W3C `traceparent` of the invocation; empty if there is none. Nested calls carry it on.
    #[must_use]
    pub fn trace_parent(&self) -> &str {
        &self.turn.trace_parent
    }

    /// Where the event is from that this turn delivers; `None`: it delivers none. A method that wants
    /// the event itself takes it as its argument: see [`Event`](crate::Event).
    #[must_use]
    pub fn delivery(&self) -> Option<Delivery> {
        self.event().map(Delivery::from_proto)
    }

    pub(crate) fn event(&self) -> Option<&proto::EventDelivery> {
        self.turn.event.as_deref()
    }

    /// Makes everything that the turn did so far durable; returns when it is. Do this before IO of
    /// your own: code may run on state that is never committed. In a direct invocation there is
    /// nothing to flush.
    ///
    /// # Errors
    /// [`CallError::Superseded`] if another attempt took over: pass it on with `?`.
    pub async fn flush(&self) -> Result<(), CallError> {
        if self.turn.is_direct() {
            return Ok(());
        }
        let request = proto::FlushRequest { turn_token: self.turn.request_token() };
        match self.turn.request(Operation::Flush(request)).await? {
            Answer::Flush(_) => Ok(()),
            _ => Err(CallError::mismatch("flush")),
        }
    }

    /// A durable step: runs `f` and records its result under `key`, durably and with everything that
    /// the turn did before. A retry of the method gets the recorded result instead of running `f`
    /// again: `f` runs at least once, its recorded result is one. If `f` fails nothing is recorded.
    /// The key names the step within this method call (a tail call begins without any); a nested
    /// call keeps its result by [`Call::step_key`](crate::Call::step_key). A direct invocation has
    /// no retries: it just runs `f`.
    ///
    /// ```no_run
    /// # async fn pay(_: u64) -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn method(ctx: &mut kar_sdk::ActorContext) -> Result<(), kar_sdk::Error> {
    /// let receipt: String = ctx.once("pay", || pay(30)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What `f` failed with; [`CallError::StepKeyReused`] if the key is that of a call;
    /// [`CallError::Limit`] if there are too many steps, or too long ones.
    pub async fn once<T, E, F>(&self, key: &str, f: impl FnOnce() -> F) -> Result<T, Error>
    where
        T: Encode + Decode,
        F: Future<Output = Result<T, E>>,
        Error: From<E>,
    {
        if self.turn.is_direct() {
            return Ok(f().await?);
        }
        if let Some(recorded) = self.turn.recorded(key) {
            return Ok(T::decode(recorded)?);
        }
        let value = f().await?.encode()?;
        Ok(T::decode(self.turn.record(key, value).await?)?)
    }

    /// A client for what is **not** part of the turn: application state, and calls that are roots
    /// of their own, carried out even if this turn is cut off and runs again.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::detached(self.turn.handle.clone())
    }
}

impl fmt::Debug for TurnContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnContext")
            .field("kind", &self.turn.kind)
            .field("id", &self.turn.id)
            .field("method", &self.turn.method)
            .field("attempt", &self.turn.attempt)
            .finish_non_exhaustive()
    }
}

// === impl ServiceContext ===

impl ServiceContext {
    pub(crate) fn new(turn: Arc<Turn>) -> Self {
        Self { inner: TurnContext { turn } }
    }

    /// A service by its name.
    #[must_use]
    pub fn service(&self, name: &str) -> ServiceRef<Nested> {
        Caller::service(self, name)
    }

    /// An actor by its type and id.
    #[must_use]
    pub fn actor(&self, actor_type: &str, id: impl Into<String>) -> ActorRef<Nested> {
        Caller::actor(self, actor_type, id)
    }

    /// A topic by its name, to publish to it with the turn.
    ///
    /// ```no_run
    /// # use kar_sdk::{Error, NewEvent};
    /// # async fn method(ctx: &mut kar_sdk::ServiceContext) -> Result<(), Error> {
    /// let paid = NewEvent::new("order.paid", &30).key("alice");
    /// ctx.topic("orders").publish(paid).await?;
    /// // From here on it is as good as published: with the method's success, or not at all.
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn topic(&self, name: impl Into<String>) -> Topic<Nested> {
        Caller::topic(self, name)
    }
}

impl Deref for ServiceContext {
    type Target = TurnContext;

    fn deref(&self) -> &TurnContext {
        &self.inner
    }
}

impl fmt::Debug for ServiceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl sealed::Sealed for ServiceContext {
    fn origin(&self) -> sealed::Origin {
        sealed::Origin(Source::Turn(self.inner.turn.clone()))
    }
}

impl Caller for ServiceContext {
    type Scope = Nested;
}

impl InTurn for ServiceContext {}

// === impl ActorContext ===

impl ActorContext {
    pub(crate) fn new(turn: Arc<Turn>) -> Self {
        Self { inner: TurnContext { turn } }
    }

    /// Id of the instance.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.inner.turn.id
    }

    /// Type of the actor.
    #[must_use]
    pub fn actor_type(&self) -> &str {
        &self.inner.turn.kind
    }

    /// Names the instance's activation: while it is the same, this process has had every turn of the
    /// instance, and all of them have taken effect. So what a program keeps in memory of an instance
    /// may be used in a turn of the activation that it was kept in, and in no other: compare before.
    #[must_use]
    pub fn activation(&self) -> u64 {
        self.inner.turn.activation
    }

    /// The state of this actor.
    #[must_use]
    pub fn state(&self) -> StateWriter<'_> {
        StateWriter::new(&self.inner.turn)
    }

    /// The reminders of this actor.
    #[must_use]
    pub fn reminders(&self) -> Reminders<Nested> {
        Reminders::new(sealed::Sealed::origin(self), self.actor_type(), self.id())
    }

    /// A service by its name.
    #[must_use]
    pub fn service(&self, name: &str) -> ServiceRef<Nested> {
        Caller::service(self, name)
    }

    /// An actor by its type and id.
    #[must_use]
    pub fn actor(&self, actor_type: &str, id: impl Into<String>) -> ActorRef<Nested> {
        Caller::actor(self, actor_type, id)
    }

    /// A topic by its name, to publish to it with the turn.
    ///
    /// ```no_run
    /// # use kar_sdk::{Error, NewEvent};
    /// # async fn method(ctx: &mut kar_sdk::ActorContext) -> Result<(), Error> {
    /// let paid = NewEvent::new("order.paid", &30).key("alice");
    /// ctx.topic("orders").publish(paid).await?;
    /// // From here on it is as good as published: with the method's success, or not at all.
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn topic(&self, name: impl Into<String>) -> Topic<Nested> {
        Caller::topic(self, name)
    }
}

impl Deref for ActorContext {
    type Target = TurnContext;

    fn deref(&self) -> &TurnContext {
        &self.inner
    }
}

impl fmt::Debug for ActorContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl sealed::Sealed for ActorContext {
    fn origin(&self) -> sealed::Origin {
        sealed::Origin(Source::Turn(self.inner.turn.clone()))
    }
}

impl Caller for ActorContext {
    type Scope = Nested;
}

impl InTurn for ActorContext {}

impl ReadsState for ActorContext {
    fn read_state(&self) -> StateReader<'_> {
        StateReader::new(&self.inner.turn)
    }
}

impl WritesState for ActorContext {
    fn state(&self) -> StateWriter<'_> {
        StateWriter::new(&self.inner.turn)
    }
}
