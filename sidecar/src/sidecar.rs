//! One running sidecar: everything wired together, and its life from the start to the hand-over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::SidecarConfig;

/// A running sidecar. Dropping it ends it at once, like a crash; see [`Sidecar::shutdown`] for leaving in order.
#[derive(Debug)]
pub struct Sidecar {
    socket: PathBuf,
    grpc_port: u16,
    node_name: String,
}

/// Why a sidecar did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
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
    /// A Unix socket's path is longer than the system takes (107 bytes); choose a shorter data directory.
    #[error("the socket path {} is too long: choose a data directory with a shorter path", .0.display())]
    PathTooLong(PathBuf),
    /// The port is taken, or not to be had.
    #[error("cannot listen on port {port}: {source}")]
    Port {
        /// The port.
        port: u16,
        /// What the system said.
        source: std::io::Error,
    },
    /// The hub was not reached, and could not be started.
    #[error("{0}")]
    Hub(String),
}

impl Sidecar {
    /// Joins the application and serves: returns when the sockets listen and the node is a member.
    ///
    /// Needs a current-thread runtime; its tasks run on it until the sidecar is dropped.
    ///
    /// # Errors
    ///
    /// If the folder, the sockets or the hub are not to be had.
    pub async fn start(config: SidecarConfig) -> Result<Self, StartError> {
        let _ = config;
        Err(StartError::Hub("the sidecar is being written".into()))
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

    /// Hands every partition over. Returns true when none is owned, false if the bound
    /// ([`drain_timeout_ms`](kar_core::limits::Limits::drain_timeout_ms) twice) was reached first.
    pub async fn drain(&self) -> bool {
        true
    }

    /// The component's process is known to be dead: nothing of it can still run, so its turns are retried without
    /// waiting for the grace time. Call it after the process was waited for.
    pub fn component_died(&self) {}

    /// Hands over, then ends.
    pub async fn shutdown(self) {}

    /// Returns when somebody asked the sidecar to end (`SystemService.Shutdown`); the hand-over is the caller's
    /// ([`Sidecar::shutdown`]).
    pub async fn ended(&self) {}

    /// Counters since the start, by name, as `SystemService.GetInfo` shows them.
    pub fn counters(&self) -> BTreeMap<String, i64> {
        BTreeMap::new()
    }
}
