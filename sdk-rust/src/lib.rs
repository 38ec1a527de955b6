//! Rust SDK of KAR: write services, actors and clients as ordinary async code; the runtime makes
//! them survive crashes.
//!
//! A program that uses this crate is a *component*: it runs beside its *sidecar*, which `kar run`
//! starts and which does everything durable. All that the two say to each other travels on one gRPC
//! stream over a Unix socket; no inbound port is needed, and nothing has to start first.
//!
//! # Hosting
//!
//! A [`service`](macro@service) takes any call on any host; an [`actor`](macro@actor) instance (a
//! type and an id) takes one call at a time, and has state. Methods are `async`, take a context and
//! at most one argument that serde can read, and return a `Result`:
//!
//! ```no_run
//! use kar_sdk::{ActorContext, Error, Host, ServiceContext};
//!
//! struct Account;
//!
//! #[kar_sdk::actor]
//! impl Account {
//!     /// Puts money in.
//!     async fn deposit(&self, ctx: &mut ActorContext, amount: i64) -> Result<i64, Error> {
//!         let state = ctx.state();
//!         let balance: i64 = state.get("balance").await?.unwrap_or(0);
//!         if balance + amount < 0 {
//!             return Err(Error::new("insufficient_funds", "there is too little"));
//!         }
//!         state.set("balance", &(balance + amount))?;
//!         Ok(balance + amount)
//!     }
//! }
//!
//! struct Teller;
//!
//! #[kar_sdk::service(name = "teller")]
//! impl Teller {
//!     /// Gives the day's interest.
//!     async fn interest(&self, ctx: &mut ServiceContext, id: String) -> Result<i64, Error> {
//!         // A nested call: part of this turn. `?` passes the account's error on to the caller.
//!         Ok(AccountClient::new(ctx, id).deposit(1).await?)
//!     }
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), kar_sdk::HostError> {
//!     Host::builder().actor(Account).service(Teller).serve().await
//! }
//! ```
//!
//! The attribute also makes the typed client `AccountClient` above. A type without attribute macro
//! can implement [`Service`] or [`Actor`] itself.
//!
//! # Calling
//!
//! ```no_run
//! # use std::time::Duration;
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use kar_sdk::{CallError, Kar};
//!
//! let client = Kar::connect().await?; // the environment of `kar run` says where
//! let account = client.actor("Account", "alan");
//! let balance: i64 = account.call("deposit", &5).await?; // waits for the result
//! account.tell("deposit", &5).await?; // waits until it is durable
//! let started = account.start::<i64>("deposit", &5).await?; // the same; its result is kept
//! let balance: i64 = client.awaiting(started.id()).await?;
//!
//! let late = account.call::<i64>("deposit", &-1_000).start_within(Duration::from_secs(1)).await;
//! match late {
//!     Ok(balance) => println!("{balance}"),
//!     Err(CallError::Application(error)) => println!("refused: {}", error.code),
//!     Err(CallError::Expired(_)) => println!("not started in time, and never will be"),
//!     Err(error) if error.is_unknown() => println!("lost the sidecar: maybe done, maybe not"),
//!     Err(error) => return Err(error.into()),
//! }
//! # let _ = balance;
//! # Ok(()) }
//! ```
//!
//! # What a method must know
//!
//! - A turn that was cut off by a failure runs again **from its start**, on this or another host.
//!   What it did in its durable segments stays; a segment ends with each nested call, with
//!   [`flush`](TurnContext::flush), and with the turn. So state and the calls between two of these
//!   points belong together.
//! - An error that a method returns is a completion: it goes back to the caller and is not retried,
//!   and what was written since the last flush is dropped. Any [`std::error::Error`] becomes one by
//!   `?`; a panic becomes one of code `panic`.
//! - Code may run for a call that was never accepted, or on state that never commits. Neither
//!   escapes through KAR; before IO of your own, [`flush`](TurnContext::flush), and pass the
//!   [token](TurnContext::token) as a fence.
//! - A turn that another attempt has superseded is dropped at its next `await`. Code that never
//!   awaits cannot be stopped.
//!
//! # Payloads
//!
//! JSON by default, protobuf by [`Prost`], anything as [`Payload`].
//!
//! # Map
//!
//! [`Kar`], [`Client`]: connecting and asking · [`Host`]: hosting · [`Caller`], [`InTurn`], [`ReadsState`],
//! [`WritesState`]: capabilities of contexts · [`Call`]: calls on their way · [`StateWriter`], [`SubMapWriter`],
//! [`ApplicationState`]: state, [`Write`]: changes of it · [`RetryPolicy`]: of methods and calls · [`Reminders`]:
//! invocations at due times ·
//! [`Topic`], [`NewEvent`], [`Subscription`], [`Event`], [`Consumer`]: events · [`TopologyWatch`]: who is there ·
//! [`Operator`], [`Listing`]: what is unfinished, dead letters, handing over · [`CallError`], [`Error`]: errors ·
//! [`limits`]: every bound.

// The macros' code names this crate as its users do; the samples are such users in here.
#[cfg(feature = "samples")]
extern crate self as kar_sdk;

mod application_state;
mod call;
mod client;
mod codec;
mod context;
mod error;
mod event;
mod host;
mod hosted;
pub mod limits;
mod operator;
#[doc(hidden)]
pub mod private;
mod reminder;
#[cfg(feature = "samples")]
pub mod samples;
mod state;
mod stream;
mod topology;
mod transport;
mod turn;

pub use application_state::{ApplicationState, Etag, Page, Versioned, Write, Written};
pub use call::{ActorRef, Call, InvocationId, RetryPolicy, ServiceRef, Started};
pub use client::{Cancelling, Client, Kar, KarBuilder};
pub use codec::{CodecError, Decode, Encode, JSON, PROTOBUF, Payload, Prost};
pub use context::{
    ActorContext, Caller, InTurn, Nested, ReadsState, Root, ServiceContext, TurnContext,
    WritesState,
};
pub use error::{ApplicationError, CallError, Conflict, ConnectError, Error, HostError, Rejection};
pub use event::{
    Consume, Consumer, Delivery, Event, EventFilter, NewEvent, NewTopic, Published, Received,
    Start, Subscribed, Subscription, SubscriptionState, Topic, TopicConsumer, TopicDescription,
    TopicPartition,
};
pub use host::{Host, HostBuilder, ShutdownHandle};
pub use hosted::{Actor, Method, MethodFuture, Service};
pub use kar_sdk_macros::{actor, service};
pub use operator::{
    AttemptEnd, AttemptEndCause, BusyActor, DeadLetter, InvocationEnd, InvocationMode,
    InvocationState, InvocationTarget, InvocationView, LeftOut, Listing, Operator, SidecarInfo,
};
pub use reminder::{CatchUp, Recurs, Reminder, Reminders, Scheduled};
pub use state::{StateReader, StateWriter, SubMapEntries, SubMapReader, SubMapWriter};
pub use topology::{Topology, TopologyNode, TopologyWatch};
pub use transport::{ENV_PORT, ENV_SOCKET, ENV_TOKEN};
