//! Sockets: addresses of peers, paths of Unix sockets, folders only the own user can enter.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// HTTP/2 window of one stream, bytes: several long messages, so that a burst needs no round trip for permission.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// HTTP/2 window of one connection, bytes.
pub const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Longest HTTP/2 frame, bytes: a message travels in one, so it costs one system call to send and few to receive.
pub const FRAME_BYTES_MAX: u32 = 256 << 10;

/// A TCP connection is asked for a sign of life so often …
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// … and is given up if none comes within this time.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long making a connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A socket that nobody listens on is taken for dead at this age.
const DEAD_SOCKET_AGE: Duration = Duration::from_secs(10);

/// Longest path of a Unix socket that the system takes, bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Where a sidecar's peer plane listens, as the membership carries it: `unix:PATH` or `tcp:HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAddress {
    /// A Unix socket of this machine.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

/// A text that is no peer address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no peer address (unix:PATH or tcp:HOST:PORT)")]
pub struct PeerAddressError(String);

// === impl PeerAddress ===

impl PeerAddress {
    /// Connects.
    ///
    /// # Errors
    ///
    /// If nobody listens there.
    pub async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        // The URI only fills the `:authority` header: the connector decides where to.
        let endpoint = Endpoint::from_static("http://localhost")
            .connect_timeout(CONNECT_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        match self.clone() {
            Self::Unix(path) => {
                let connect = move |_: Uri| {
                    let path = path.clone();
                    async move { kar_unix::connect(path).await.map(TokioIo::new) }
                };
                endpoint.connect_with_connector(tower::service_fn(connect)).await
            }
            Self::Tcp(address) => {
                let connect = move |_: Uri| async move {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    Ok::<_, io::Error>(TokioIo::new(stream))
                };
                endpoint.connect_with_connector(tower::service_fn(connect)).await
            }
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl FromStr for PeerAddress {
    type Err = PeerAddressError;

    fn from_str(text: &str) -> Result<Self, PeerAddressError> {
        let wrong = || PeerAddressError(text.to_owned());
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("tcp", address)) => address.parse().map(Self::Tcp).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

// === folders and paths ===

/// Makes a folder that only the own user can enter; one that is there must be the own user's.
///
/// # Errors
///
/// If it cannot be made, is no folder, or belongs to somebody else.
pub fn private_folder(path: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        // "File exists" would be true, and help nobody.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        other => other?,
    }
    let metadata = std::fs::metadata(path)?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the folder belongs to another user",
        ));
    }
    if metadata.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// The folder for the sockets of a data directory: its `run`, or, if paths in there would be too long for the system,
/// one in the folder for temporary files that is named after it.
///
/// `name_bytes` is the length of the longest name that will be put there.
pub fn socket_folder(data_dir: &Path, name_bytes: usize) -> PathBuf {
    let near = data_dir.join("run");
    if near.as_os_str().len() + 1 + name_bytes <= SOCKET_PATH_BYTES_MAX {
        return near;
    }
    let user = rustix::process::geteuid().as_raw();
    let hash = fnv(data_dir.as_os_str().as_encoded_bytes());
    std::env::temp_dir().join(format!("kar-{user}-{hash:016x}"))
}

/// Whether the system takes a path for a Unix socket.
pub fn is_socket_path(path: &Path) -> bool {
    path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX
}

/// Removes the sockets that killed sidecars left in a folder. Young ones stay: their owners may be about to listen.
pub fn clear_dead_sockets(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        let is_ours = path.extension().is_some_and(|e| e == "sock" || e == "peer");
        if is_ours {
            clear_if_dead(&path, DEAD_SOCKET_AGE);
        }
    }
}

/// Removes a Unix socket of at least this age that nobody listens on.
pub fn clear_if_dead(path: &Path, age: Duration) {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return };
    let is_old = metadata.modified().ok().and_then(|m| m.elapsed().ok()).is_some_and(|a| a >= age);
    if !metadata.file_type().is_socket() || !is_old {
        return;
    }
    let refused = std::os::unix::net::UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused && let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "a dead socket was not removed");
    }
}

/// FNV-1a: the same in every process, so that all sidecars of a data directory find the same folder.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_a_round_trip() {
        for text in ["unix:/a b/c.sock", "tcp:127.0.0.1:80", "tcp:[::1]:80"] {
            assert_eq!(text.parse::<PeerAddress>().map(|a| a.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "unix:", "tcp:80", "http://x", "127.0.0.1:80"] {
            assert!(text.parse::<PeerAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn long_paths_move_to_a_short_folder() {
        let near = socket_folder(Path::new("/data"), 10);
        assert_eq!(near, Path::new("/data/run"));
        let long = format!("/{}", "x".repeat(120));
        let far = socket_folder(Path::new(&long), 10);
        assert!(is_socket_path(&far.join("0123456789")), "{}", far.display());
        assert_eq!(far, socket_folder(Path::new(&long), 10));
    }

    #[test]
    fn folders_are_private() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a/b");
        private_folder(&path).expect("it can be made");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("own");
        private_folder(&path).expect("it is there");
        assert_eq!(std::fs::metadata(&path).expect("it is there").mode() & 0o777, 0o700);
    }
}
