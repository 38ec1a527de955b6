//! Hosting services and actors.

use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use crate::call::RetryPolicy;
use crate::client::Client;
use crate::error::HostError;
use crate::hosted::{Actor, Class, Service, Table};
use crate::stream::driver;
use crate::stream::{Command, Handle};
use crate::transport::{Address, Settings};

/// A component that hosts services and actors, registered at its sidecar.
///
/// Dropping it leaves at once; [`ShutdownHandle::shutdown`] leaves in order.
#[derive(Debug)]
pub struct Host {
    client: Client,
    handle: Handle,
    task: JoinHandle<Result<(), String>>,
}

/// What to host, and how.
#[must_use = "a host starts with `serve()` or `start()`"]
#[derive(Default)]
pub struct HostBuilder {
    settings: Settings,
    table: Table,
    /// The first mistake; told when the host starts.
    mistake: Option<HostError>,
    concurrency: i32,
    strict: bool,
    invocation_credits: i32,
}

/// Asks a host to leave.
#[derive(Clone, Debug)]
pub struct ShutdownHandle {
    handle: Handle,
}

/// What asks a process to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Host {
    /// Says what to host.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    /// A client on the same connection, for what the component asks outside turns.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Asks this host to leave, from anywhere.
    #[must_use]
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        ShutdownHandle { handle: self.handle.clone() }
    }

    /// Waits until the host has left.
    ///
    /// # Errors
    /// [`HostError::Lost`] if the sidecar went away and did not come back in time.
    pub async fn wait(mut self) -> Result<(), HostError> {
        match (&mut self.task).await {
            Ok(result) => result.map_err(HostError::Lost),
            Err(stopped) => Err(HostError::Lost(stopped.to_string())),
        }
    }

    /// Waits until the host has left, which SIGTERM and SIGINT ask it to do.
    ///
    /// # Errors
    /// As [`wait`](Self::wait); or the signals cannot be listened to.
    pub async fn wait_for_signals(self) -> Result<(), HostError> {
        self.wait_for(Signals::new()?).await
    }

    async fn wait_for(self, mut signals: Signals) -> Result<(), HostError> {
        let shutdown = self.shutdown_handle();
        let mut waiting = std::pin::pin!(self.wait());
        tokio::select! {
            result = &mut waiting => return result,
            () = signals.received() => {}
        }
        tracing::info!("leaving: finishing turns and handing over");
        shutdown.shutdown();
        tokio::select! {
            result = &mut waiting => result,
            () = signals.received() => {
                tracing::warn!("asked to leave once more: ending at once");
                Ok(())
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Clients on the same connection may outlive it. One that has ended needs no asking.
        let _ = self.handle.send(Command::Stop);
    }
}

impl Signals {
    fn new() -> Result<Self, HostError> {
        let failed = |e: std::io::Error| HostError::Signals(e.to_string());
        let terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        Ok(Self { terminate, interrupt })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl ShutdownHandle {
    /// Says goodbye to the sidecar: no new root turns come, running ones are finished, everything
    /// is handed over, and then the host ends; after the drain timeout it ends in any case.
    pub fn shutdown(&self) {
        // A host that has ended needs no asking.
        let _ = self.handle.send(Command::Leave);
    }
}

impl HostBuilder {
    /// Hosts a service.
    pub fn service<S: Service>(mut self, service: S) -> Self {
        let added = self.table.add_service(service);
        self.mistake = self.mistake.take().or(added.err());
        self
    }

    /// Hosts an actor type.
    pub fn actor<A: Actor>(mut self, actor: A) -> Self {
        let added = self.table.add_actor(actor);
        self.mistake = self.mistake.take().or(added.err());
        self
    }

    /// How errors of a service's method are retried that it marks retryable, unless a call says otherwise; instead of
    /// the policy that the method has itself (`#[kar(retry = …)]`), for what is only known when the program runs.
    pub fn service_retry<S: Service>(
        mut self,
        method: impl Into<String>,
        policy: RetryPolicy,
    ) -> Self {
        self.table.set_retry(Class::Service, S::NAME, method.into(), policy);
        self
    }

    /// The same for a method of an actor type.
    pub fn actor_retry<A: Actor>(mut self, method: impl Into<String>, policy: RetryPolicy) -> Self {
        self.table.set_retry(Class::Actor, A::NAME, method.into(), policy);
        self
    }

    /// Greatest number of root turns at once, 1,000 if not said. Turns that wait for a call do not
    /// count.
    pub fn concurrency(mut self, turns: u32) -> Self {
        self.concurrency = i32::try_from(turns).unwrap_or(i32::MAX);
        self
    }

    /// Turns speculation off: code runs only for what is committed. Costs latency.
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Root turns that may be under way to this process without having ended, also those that wait for
    /// a call; no bound but [`concurrency`](Self::concurrency) if not said.
    pub fn invocation_credits(mut self, turns: u32) -> Self {
        self.invocation_credits = i32::try_from(turns).unwrap_or(i32::MAX);
        self
    }

    /// Unix socket of the sidecar, instead of `KAR_SOCKET`.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.address = Some(Address::Socket(path.into()));
        self
    }

    /// Port of the sidecar on 127.0.0.1, instead of `KAR_GRPC_PORT`.
    pub fn port(mut self, port: u16) -> Self {
        self.settings.address = Some(Address::Port(port));
        self
    }

    /// Bearer token, instead of `KAR_API_TOKEN`.
    pub fn api_token(mut self, token: impl Into<String>) -> Self {
        self.settings.api_token = Some(token.into());
        self
    }

    /// How long the first connection is tried; 10 s if not said.
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.settings.connect_timeout = time;
        self
    }

    /// How long a broken connection is tried again before the host gives up; 60 s if not said.
    pub fn reconnect_timeout(mut self, time: Duration) -> Self {
        self.settings.reconnect_timeout = time;
        self
    }

    /// How long a leaving host waits for its turns and the hand-over; 15 s if not said.
    pub fn drain_timeout(mut self, time: Duration) -> Self {
        self.settings.drain_timeout = time;
        self
    }

    /// Requests outside turns that may wait or be under way, 20,000 if not said.
    pub fn requests_max(mut self, count: usize) -> Self {
        self.settings.requests_max = count;
        self
    }

    /// Connects, registers, and hosts in the background, on the runtime that this is called on.
    ///
    /// # Errors
    /// The sidecar cannot be reached or refuses, something is hosted twice, or there is a retry policy for what is not
    /// hosted.
    pub async fn start(self) -> Result<Host, HostError> {
        if let Some(mistake) = self.mistake {
            return Err(mistake);
        }
        self.table.check()?;
        let mut hello = self.table.hello();
        hello.concurrency = self.concurrency;
        hello.strict = self.strict;
        hello.invocation_credits = self.invocation_credits;
        let table = (!self.table.is_empty()).then_some(self.table);
        let connected = driver::connect(self.settings, table, hello).await?;
        let client = Client::new(connected.handle.clone(), connected.node);
        Ok(Host { client, handle: connected.handle, task: connected.task })
    }

    /// Hosts until SIGTERM or SIGINT, then leaves in order.
    ///
    /// # Errors
    /// As [`start`](Self::start) and [`Host::wait`].
    pub async fn serve(self) -> Result<(), HostError> {
        // From here on a signal ends the program in order, also while it still connects.
        let mut signals = Signals::new()?;
        let host = tokio::select! {
            host = self.start() => host?,
            () = signals.received() => return Ok(()),
        };
        host.wait_for(signals).await
    }
}

impl std::fmt::Debug for HostBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}
