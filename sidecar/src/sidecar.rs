//! One running sidecar: everything wired together, and its life from the start to the hand-over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kar_hub::HubError;
use kar_proto::peer::v1::peer_service_server::PeerServiceServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::backend::hub::{self, Joined};
use crate::config::{ConfigError, SidecarConfig};
use crate::driver::{Driver, DriverConfig, timer};
use crate::events::Events;
use crate::grpc::api::Api;
use crate::grpc::auth::BearerToken;
use crate::grpc::connect::Connect;
use crate::grpc::events::EventRpcs;
use crate::grpc::serve::{self, Services, closed};
use crate::grpc::system::{Facts, System};
use crate::grpc::topology::Watchers;
use crate::grpc::typed::TypedErrors;
use crate::net;
use crate::peer::dial::Dialler;
use crate::peer::serve::PeerServer;
use crate::peer::{PEER_MESSAGE_BYTES_MAX, outbox_bounds};

/// How long the sockets are given to say goodbye at the end.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// A running sidecar. Dropping it ends it at once, like a crash; see [`Sidecar::shutdown`] for leaving in order.
#[derive(Debug)]
pub struct Sidecar {
    socket: PathBuf,
    grpc_port: u16,
    node_name: String,
    drain_timeout: Duration,
    driver: Arc<Driver>,
    /// Turns true when the sockets close.
    closing: watch::Sender<bool>,
    /// Turns true when somebody asks the sidecar to end.
    ended: watch::Sender<bool>,
    /// Why it cannot go on, once that is so.
    lost: watch::Receiver<Option<String>>,
    tasks: JoinSet<()>,
    /// Files to remove at the end.
    files: Vec<PathBuf>,
}

/// Why a sidecar did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Settings do not go together; the text says which.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file, folder or socket could not be made.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The component's socket cannot be where it was asked for: it is in use, say; choose another path.
    #[error("cannot listen on {}: {source}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A Unix socket's path is longer than the system takes (107 bytes); choose a shorter one.
    #[error("the socket path {} is too long (at most 107 bytes)", .0.display())]
    PathTooLong(PathBuf),
    /// The port is taken, or not to be had.
    #[error("cannot listen on port {port}: {source}")]
    Port {
        /// The port.
        port: u16,
        /// What the system said.
        source: std::io::Error,
    },
    /// The hub was not reached, and could not be started; the text says what to do.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The hub took this node in, but did not list it as a member in time.
    #[error("the hub did not list this node as a member within {0:?}")]
    NotListed(Duration),
}

/// The sockets of a sidecar, bound before it joins: whoever finds it in the membership can reach it.
struct Sockets {
    component: UnixListener,
    component_tcp: TcpListener,
    /// Where peers connect; none of it without a peer plane.
    peer: Option<UnixListener>,
    peer_tcp: Option<TcpListener>,
    socket: PathBuf,
    grpc_port: u16,
    peer_address: Option<net::PeerAddress>,
    files: Vec<PathBuf>,
}

// === impl Sidecar ===

impl Sidecar {
    /// Joins the application and serves: returns when the sockets listen and the node is a member.
    ///
    /// Needs a current-thread runtime; its tasks run on it until the sidecar is dropped.
    ///
    /// # Errors
    ///
    /// If the folder, the sockets or the hub are not to be had.
    pub async fn start(mut config: SidecarConfig) -> Result<Self, StartError> {
        config.check()?;
        let short = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
        config.data_dir = data_dir(&config.data_dir)?;
        let mut sockets = Sockets::bind(&config, &short).await?;
        let node_name = match &config.node_name {
            Some(name) => name.clone(),
            None => format!("node-{}-{}", std::process::id(), &short[..4]),
        };
        let driver = Driver::new(DriverConfig {
            limits: config.limits.clone(),
            partitions: config.partitions.get(),
            no_peer: config.no_peer,
            describe: crate::convert::view::describe,
        });
        let mut sidecar = Self {
            socket: sockets.socket.clone(),
            grpc_port: sockets.grpc_port,
            node_name,
            drain_timeout: 2 * Duration::from_millis(config.limits.drain_timeout_ms),
            driver,
            closing: watch::Sender::new(false),
            ended: watch::Sender::new(false),
            lost: watch::channel(None).1,
            tasks: JoinSet::new(),
            files: std::mem::take(&mut sockets.files),
        };
        let address = sockets.peer_address.as_ref().map(ToString::to_string).unwrap_or_default();
        let joined = hub::join(&sidecar.driver, &config, &sidecar.node_name, &address).await?;
        sidecar.lost = joined.lost.clone();
        sidecar.serve(&config, sockets, &joined);
        let patience = Duration::from_millis(config.bounds.start_timeout_ms);
        sidecar.listed(joined.members, patience).await?;
        Ok(sidecar)
    }

    /// Path of the component's Unix socket, absolute (`KAR_SOCKET`).
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The component's TCP port on loopback (`KAR_GRPC_PORT`).
    pub fn grpc_port(&self) -> u16 {
        self.grpc_port
    }

    /// Name of the node.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// Incarnation of the node; it changes if the node is struck out although it lives.
    pub fn incarnation(&self) -> u64 {
        self.driver.incarnation().unwrap_or_default().0
    }

    /// Hands every partition over. Returns true when none is owned, false if the bound
    /// ([`drain_timeout_ms`](kar_core::limits::Limits::drain_timeout_ms) twice) was reached first.
    pub async fn drain(&self) -> bool {
        tokio::time::timeout(self.drain_timeout, self.driver.drain()).await.is_ok()
    }

    /// The component's process is known to be dead: nothing of it can still run, so its turns are retried without
    /// waiting for the grace time. Call it after the process was waited for.
    pub fn component_died(&self) {
        self.driver.component_died();
    }

    /// Hands over, waits until what its clients have asked for is answered, then ends. What could not be handed over
    /// within the bound of [`Sidecar::drain`] is taken over by others, as after a crash; what others have not answered
    /// within it goes on, and is unknown to whoever asked.
    pub async fn shutdown(mut self) {
        let end = Instant::now() + self.drain_timeout;
        if !self.drain().await {
            tracing::warn!("partitions are still owned at the end; others take them over");
        }
        if tokio::time::timeout_at(end, self.driver.answered()).await.is_err() {
            let requests = self.driver.requests_open();
            tracing::warn!(
                requests,
                "not all requests are answered at the end: their outcomes are unknown"
            );
        }
        self.closing.send_replace(true);
        let goodbye = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await.is_err() {
            tracing::debug!("some connections did not end in time");
        }
    }

    /// Returns when somebody asked the sidecar to end (`SystemService.Shutdown`); the hand-over is the caller's
    /// ([`Sidecar::shutdown`]).
    pub async fn ended(&self) {
        closed(self.ended.subscribe()).await;
    }

    /// Returns when the sidecar cannot go on, with the reason and what to do: its data directory is gone. Everything
    /// that it offered has ended by itself then; there is nothing to be handed over, and nobody to hand it to.
    pub async fn failed(&self) -> String {
        let mut lost = self.lost.clone();
        let why = lost.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        match why {
            Some(why) => why,
            // The hub's client has ended without a word: with the sidecar.
            None => std::future::pending().await,
        }
    }

    /// Counters since the start, by name, as `SystemService.GetInfo` shows them.
    pub fn counters(&self) -> BTreeMap<String, i64> {
        self.driver.counters()
    }

    /// Starts every task.
    fn serve(&mut self, config: &SidecarConfig, sockets: Sockets, joined: &Joined) {
        let closing = self.closing.subscribe();
        let application = config.application.to_string();
        let peer_bounds = outbox_bounds(&config.bounds);
        self.until_closed(timer::run(self.driver.clone()));
        let (mut lost, leave) = (joined.lost.clone(), self.closing.clone());
        self.until_closed(async move {
            if lost.wait_for(Option::is_some).await.is_ok() {
                leave.send_replace(true);
            }
        });
        if !config.no_peer {
            let dialler = Dialler::new(self.driver.clone(), application.clone(), peer_bounds);
            self.until_closed(dialler.run(joined.members.clone()));
        }

        let server = Arc::new(PeerServer::new(self.driver.clone(), application, peer_bounds));
        if let Some(unix) = sockets.peer {
            let unix = kar_unix::incoming(unix);
            let peers =
                peer_router(&server).serve_with_incoming_shutdown(unix, closed(closing.clone()));
            self.tasks.spawn(async move { log_end("the peer socket", peers.await) });
        }
        if let Some(tcp) = sockets.peer_tcp {
            let tcp = TcpIncoming::from(tcp).with_nodelay(Some(true));
            let peers =
                peer_router(&server).serve_with_incoming_shutdown(tcp, closed(closing.clone()));
            self.tasks.spawn(async move { log_end("the peer port", peers.await) });
        }

        let services = self.services(config, joined, closing.clone());
        let connected = joined.connected.clone();
        let (unix, tcp) = (sockets.component, sockets.component_tcp);
        let component = serve::run(services, unix, tcp, connected, closing);
        self.tasks.spawn(async move { log_end("the component's sockets", component.await) });
    }

    fn services(
        &self,
        config: &SidecarConfig,
        joined: &Joined,
        closing: watch::Receiver<bool>,
    ) -> Services {
        let state = Arc::new(joined.state.clone());
        let bus = Arc::new(joined.bus.clone());
        let application = config.application.clone();
        let events = Events::new(bus, application, &self.node_name, config.bounds.clone());
        let (driver, limits) = (self.driver.clone(), config.limits.clone());
        let api = Api::new(driver, state, events, limits, &config.bounds);
        let message_bytes_max = config.bounds.transport_message_bytes_max;
        let errors = TypedErrors { message_bytes_max };
        let facts = Facts {
            application: config.application.clone(),
            socket: self.socket.clone(),
            grpc_port: self.grpc_port,
            drain_timeout: self.drain_timeout,
            limits: config.limits.clone(),
            bounds: config.bounds.clone(),
        };
        Services {
            connect: Connect::new(
                api.clone(),
                config.bounds.clone(),
                self.node_name.clone(),
                config.application.clone(),
                closing.clone(),
            ),
            api: api.clone(),
            events: EventRpcs::new(api.clone(), errors, closing.clone()),
            system: System {
                driver: self.driver.clone(),
                api,
                facts: Arc::new(facts),
                ended: self.ended.clone(),
                watchers: Watchers::new(closing),
            },
            token: BearerToken::new(config.api_token.as_deref()),
            message_bytes_max,
        }
    }

    /// Runs a task that would run for ever.
    fn until_closed(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let closing = closed(self.closing.subscribe());
        self.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = closing => {}
            }
        });
    }

    /// Waits until the members include this node.
    async fn listed(
        &self,
        mut members: watch::Receiver<Arc<crate::driver::outlets::Directory>>,
        patience: Duration,
    ) -> Result<(), StartError> {
        let is_listed = members.wait_for(|directory| {
            self.driver.incarnation().is_some_and(|own| directory.contains_key(&own))
        });
        match tokio::time::timeout(patience, is_listed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(StartError::Hub(HubError::Closed)),
            Err(_) => Err(StartError::NotListed(patience)),
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.closing.send_replace(true);
        self.driver.detach();
        for file in &self.files {
            // Whoever starts next clears away what is left.
            if let Err(error) = std::fs::remove_file(file) {
                tracing::debug!(file = %file.display(), %error, "a socket was not removed");
            }
        }
    }
}

fn peer_router(server: &Arc<PeerServer>) -> tonic::transport::server::Router {
    let service = PeerServiceServer::from_arc(server.clone())
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX);
    Server::builder()
        .initial_stream_window_size(net::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(net::CONNECTION_WINDOW_BYTES)
        .max_frame_size(net::FRAME_BYTES_MAX)
        .http2_keepalive_interval(Some(net::KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(net::KEEP_ALIVE_TIMEOUT))
        .add_service(service)
}

fn log_end<E: std::fmt::Display>(what: &str, result: Result<(), E>) {
    if let Err(error) = result {
        tracing::error!(%error, "{what} broke");
    }
}

fn data_dir(path: &Path) -> Result<PathBuf, StartError> {
    let fail = |source| StartError::File { what: "cannot use", path: path.to_owned(), source };
    net::private_folder(path).map_err(fail)?;
    path.canonicalize().map_err(fail)
}

// === impl Sockets ===

impl Sockets {
    async fn bind(config: &SidecarConfig, short: &str) -> Result<Self, StartError> {
        let (component_name, peer_name) = (format!("{short}.sock"), format!("{short}.peer"));
        let folder = net::socket_folder(&config.data_dir, component_name.len());
        net::private_folder(&folder).map_err(|source| StartError::File {
            what: "cannot use",
            path: folder.clone(),
            source,
        })?;
        net::clear_dead_sockets(&folder);
        let socket = match &config.socket {
            Some(path) => std::path::absolute(path).map_err(|source| StartError::File {
                what: "cannot use",
                path: path.clone(),
                source,
            })?,
            None => folder.join(component_name),
        };
        let peer_path = folder.join(peer_name);
        let component_tcp = bind_tcp(([127, 0, 0, 1], config.grpc_port).into()).await?;
        let peer_tcp = match config.peer_listen {
            Some(address) => Some(bind_tcp(address).await?),
            None => None,
        };
        let no_port = |source| StartError::Port { port: config.grpc_port, source };
        let grpc_port = component_tcp.local_addr().map_err(no_port)?.port();
        let peer_address = match &peer_tcp {
            _ if config.no_peer => None,
            Some(listener) => Some(net::PeerAddress::Tcp(listener.local_addr().map_err(no_port)?)),
            None => Some(net::PeerAddress::Unix(peer_path.clone())),
        };
        let own: fn(_, _) -> _ =
            |path, source| StartError::File { what: "cannot listen on", path, source };
        let chosen: fn(_, _) -> _ = |path, source| StartError::Socket { path, source };
        let component_error = if config.socket.is_some() { chosen } else { own };
        let peer = if config.no_peer { None } else { Some(bind_unix(&peer_path, own)?) };
        let peer_path = peer.is_some().then_some(peer_path);
        Ok(Self {
            component: bind_unix(&socket, component_error)?,
            component_tcp,
            peer,
            peer_tcp,
            files: [socket.clone()].into_iter().chain(peer_path).collect(),
            socket,
            grpc_port,
            peer_address,
        })
    }
}

fn bind_unix(
    path: &Path,
    error: fn(PathBuf, std::io::Error) -> StartError,
) -> Result<UnixListener, StartError> {
    if !net::is_socket_path(path) {
        return Err(StartError::PathTooLong(path.to_owned()));
    }
    net::clear_if_dead(path, Duration::ZERO);
    UnixListener::bind(path).map_err(|source| error(path.to_owned(), source))
}

async fn bind_tcp(address: std::net::SocketAddr) -> Result<TcpListener, StartError> {
    let fail = |source| StartError::Port { port: address.port(), source };
    TcpListener::bind(address).await.map_err(fail)
}
