//! What a component hosts: the traits that `#[kar_sdk::service]` and `#[kar_sdk::actor]` implement,
//! and the table from names to code.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use kar_proto::v1 as proto;
use tokio::task::AbortHandle;

use crate::call::RetryPolicy;
use crate::codec::Payload;
use crate::context::{ActorContext, ServiceContext};
use crate::error::{ApplicationError, Error, HostError};
use crate::stream::Handle;
use crate::turn::{self, Turn, TurnEnd};

/// A method on its way.
pub type MethodFuture<'a> = Pin<Box<dyn Future<Output = Result<Payload, Error>> + Send + 'a>>;

/// A method of a service or an actor type, as the sidecar is told of it.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct Method {
    /// Name.
    pub name: &'static str,
    /// Of actors: it only reads its actor's state, and may run beside other shared methods of the
    /// instance. A change of state is refused (`SHARED_TURN`), and so is a call of an exclusive method
    /// of an actor that the flow holds by a shared one (`SHARED_TO_EXCLUSIVE`).
    pub shared: bool,
    /// How its errors are retried that it marks retryable, unless a call says otherwise; `None`: as
    /// the sidecar does.
    pub retry: Option<RetryPolicy>,
}

/// A service: any host may take any call, several at once. Usually implemented by
/// [`#[kar_sdk::service]`](macro@crate::service).
pub trait Service: Send + Sync + 'static {
    /// Name: 1 to 128 of `A-Z a-z 0-9 _ - .`, not starting with `.` or `-`.
    const NAME: &'static str;
    /// Every method.
    const METHODS: &'static [Method];

    /// Runs a method; `None` if there is no such method.
    fn dispatch<'a>(
        &'a self,
        context: &'a mut ServiceContext,
        method: &'a str,
        argument: Payload,
    ) -> Option<MethodFuture<'a>>;
}

/// An actor type. One value stands for all instances of the type: it holds what they share
/// (configuration, clients); what an instance remembers is in its state. Usually implemented by
/// [`#[kar_sdk::actor]`](macro@crate::actor).
pub trait Actor: Send + Sync + 'static {
    /// Name of the type: 1 to 128 of `A-Z a-z 0-9 _ - .`, not starting with `.` or `-`.
    const NAME: &'static str;
    /// Every method.
    const METHODS: &'static [Method];
    /// [`deactivate`](Self::deactivate) is there to be called.
    const DEACTIVATES: bool = false;

    /// Runs a method; `None` if there is no such method.
    fn dispatch<'a>(
        &'a self,
        context: &'a mut ActorContext,
        method: &'a str,
        argument: Payload,
    ) -> Option<MethodFuture<'a>>;

    /// An instance has been idle, and is about to be passive: lets go of what was kept in memory of
    /// it. A turn like others, which nothing may depend on: it may be left out.
    fn deactivate<'a>(&'a self, _context: &'a mut ActorContext) -> MethodFuture<'a> {
        Box::pin(async { Ok(crate::private::nothing()) })
    }
}

/// What a component hosts, by name.
#[derive(Default)]
pub(crate) struct Table {
    services: BTreeMap<&'static str, Box<dyn Entry>>,
    actors: BTreeMap<&'static str, Box<dyn Entry>>,
    /// Retry policies given when the host was built, by class, name and method.
    policies: BTreeMap<(Class, &'static str, String), RetryPolicy>,
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Class {
    Service,
    Actor,
}

/// A service or an actor type, its type forgotten.
trait Entry: Send + Sync {
    fn methods(&self) -> &'static [Method];
    /// It wants to know when instances become passive.
    fn deactivates(&self) -> bool {
        false
    }
    fn spawn(&self, turn: Arc<Turn>, argument: Payload) -> AbortHandle;
}

/// A turn under way.
pub(crate) struct Running {
    turn: Arc<Turn>,
    task: AbortHandle,
}

struct ServiceEntry<S>(Arc<S>);
struct ActorEntry<A>(Arc<A>);

// === impl Method ===

impl Method {
    /// A method that is alone in its instance while it runs.
    #[must_use]
    pub const fn exclusive(name: &'static str) -> Self {
        Self { name, shared: false, retry: None }
    }

    /// A method that only reads.
    #[must_use]
    pub const fn shared(name: &'static str) -> Self {
        Self { name, shared: true, retry: None }
    }

    /// The same with a retry policy: for errors of it that are
    /// [retryable](crate::Error::retryable), unless a call says otherwise.
    #[must_use]
    pub const fn retry(self, policy: RetryPolicy) -> Self {
        Self { retry: Some(policy), ..self }
    }
}

// === impl Running ===

impl Running {
    /// Stops its code: it is superseded, or its stream is gone.
    pub(crate) fn abort(&self) {
        self.task.abort();
    }

    /// Somebody asked for the end of its invocation: its code stops, unless it sees to that by itself.
    pub(crate) fn request_cancel(&self) {
        if !self.turn.request_cancel() {
            self.task.abort();
        }
    }
}

// === impl Table ===

impl Table {
    pub(crate) fn is_empty(&self) -> bool {
        self.services.is_empty() && self.actors.is_empty()
    }

    pub(crate) fn add_service<S: Service>(&mut self, service: S) -> Result<(), HostError> {
        match self.services.insert(S::NAME, Box::new(ServiceEntry(Arc::new(service)))) {
            None => Ok(()),
            Some(_) => Err(HostError::Duplicate(format!("service {}", S::NAME))),
        }
    }

    pub(crate) fn add_actor<A: Actor>(&mut self, actor: A) -> Result<(), HostError> {
        match self.actors.insert(A::NAME, Box::new(ActorEntry(Arc::new(actor)))) {
            None => Ok(()),
            Some(_) => Err(HostError::Duplicate(format!("actor type {}", A::NAME))),
        }
    }

    /// Gives a method a retry policy, instead of its own.
    pub(crate) fn set_retry(
        &mut self,
        class: Class,
        name: &'static str,
        method: String,
        policy: RetryPolicy,
    ) {
        self.policies.insert((class, name, method), policy);
    }

    /// A policy for something that is not hosted is a mistake.
    pub(crate) fn check(&self) -> Result<(), HostError> {
        for (class, name, method) in self.policies.keys() {
            let (what, entries) = match class {
                Class::Service => ("service", &self.services),
                Class::Actor => ("actor type", &self.actors),
            };
            let Some(entry) = entries.get(name) else {
                let text = format!("{what} {name}, which is not hosted");
                return Err(HostError::RetryPolicy(text));
            };
            if !entry.methods().iter().any(|known| known.name == method) {
                let known = list(entry.methods().iter().map(|known| known.name));
                let text = format!("`{method}` of {what} {name}, which has: {known}");
                return Err(HostError::RetryPolicy(text));
            }
        }
        Ok(())
    }

    fn methods(
        &self,
        class: Class,
        name: &'static str,
        entry: &dyn Entry,
    ) -> Vec<proto::HostedMethod> {
        let hosted = |method: &Method| {
            let given = self.policies.get(&(class, name, method.name.to_owned()));
            let policy = given.copied().or(method.retry);
            proto::HostedMethod {
                name: method.name.to_owned(),
                shared: method.shared,
                retry_policy: policy.map(RetryPolicy::into_proto),
            }
        };
        entry.methods().iter().map(hosted).collect()
    }

    /// As the sidecar is told of it.
    pub(crate) fn hello(&self) -> proto::Hello {
        let services = self.services.iter().map(|(name, entry)| proto::HostedService {
            name: (*name).to_owned(),
            methods: self.methods(Class::Service, name, entry.as_ref()),
        });
        let actor_types = self.actors.iter().map(|(name, entry)| proto::HostedActorType {
            name: (*name).to_owned(),
            methods: self.methods(Class::Actor, name, entry.as_ref()),
            deactivates: entry.deactivates(),
        });
        proto::Hello {
            services: services.collect(),
            actor_types: actor_types.collect(),
            ..proto::Hello::default()
        }
    }

    /// Starts a turn in a task of its own.
    pub(crate) fn start(
        &self,
        handle: Handle,
        session: u64,
        mut frame: proto::InvocationFrame,
    ) -> Result<Running, Box<ApplicationError>> {
        use proto::target::Kind;
        let entry = match frame.target.as_ref().and_then(|target| target.kind.as_ref()) {
            Some(Kind::Service(service)) => find(&self.services, "service", &service.name),
            Some(Kind::Actor(actor)) => find(&self.actors, "actor type", &actor.r#type),
            None => Err(Box::new(unknown_method("the invocation names no target".to_owned()))),
        }?;
        let argument = Payload::from_proto(frame.payload.take());
        let turn = Arc::new(Turn::new(handle, session, frame));
        let task = entry.spawn(turn.clone(), argument);
        Ok(Running { turn, task })
    }
}

fn find<'a>(
    entries: &'a BTreeMap<&'static str, Box<dyn Entry>>,
    what: &str,
    name: &str,
) -> Result<&'a dyn Entry, Box<ApplicationError>> {
    entries.get(name).map(AsRef::as_ref).ok_or_else(|| {
        let known = list(entries.keys().copied());
        Box::new(unknown_method(format!("this host has no {what} `{name}`; it has: {known}")))
    })
}

fn no_such_method(what: &str, name: &str, method: &str, known: &[Method]) -> Error {
    let known = list(known.iter().map(|m| m.name));
    unknown_method(format!("{what} {name} has no method `{method}`; it has: {known}")).into()
}

fn unknown_method(message: String) -> ApplicationError {
    ApplicationError::new("kar.UNKNOWN_METHOD", message)
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

// === impl Entry ===

impl<S: Service> Entry for ServiceEntry<S> {
    fn methods(&self) -> &'static [Method] {
        S::METHODS
    }

    fn spawn(&self, turn: Arc<Turn>, argument: Payload) -> AbortHandle {
        let service = self.0.clone();
        let end = TurnEnd::new(turn.clone());
        let code = async move {
            let mut context = ServiceContext::new(turn.clone());
            match service.dispatch(&mut context, &turn.method, argument) {
                Some(method) => method.await,
                None => Err(no_such_method("service", S::NAME, &turn.method, S::METHODS)),
            }
        };
        tokio::spawn(turn::run(end, code)).abort_handle()
    }
}

impl<A: Actor> Entry for ActorEntry<A> {
    fn methods(&self) -> &'static [Method] {
        A::METHODS
    }

    fn deactivates(&self) -> bool {
        A::DEACTIVATES
    }

    fn spawn(&self, turn: Arc<Turn>, argument: Payload) -> AbortHandle {
        let actor = self.0.clone();
        let end = TurnEnd::new(turn.clone());
        let code = async move {
            let mut context = ActorContext::new(turn.clone());
            if turn.mode == proto::InvocationMode::Deactivate {
                return actor.deactivate(&mut context).await;
            }
            match actor.dispatch(&mut context, &turn.method, argument) {
                Some(method) => method.await,
                None => Err(no_such_method("actor type", A::NAME, &turn.method, A::METHODS)),
            }
        };
        tokio::spawn(turn::run(end, code)).abort_handle()
    }
}
