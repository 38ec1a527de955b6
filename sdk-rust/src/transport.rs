//! Where the sidecar is, and how to open a stream to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use kar_proto::v1::component_service_client::ComponentServiceClient;
use kar_proto::v1::sidecar_frame::Frame;
use kar_proto::v1::{
    ComponentFrame, ConnectResponse, Hello, SidecarFrame, Welcome, component_frame,
};
use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};

use crate::error::{ConnectError, Rejection};
use crate::limits::{
    CLIENT_REQUESTS_MAX, CONNECT_TIMEOUT, DRAIN_TIMEOUT, KEEP_ALIVE, MESSAGE_BYTES_DECODE_MAX,
    RECONNECT_TIMEOUT, WELCOME_TIMEOUT,
};
use crate::stream::outbox::{Messages, Outbox};

/// Path of the sidecar's Unix socket.
pub const ENV_SOCKET: &str = "KAR_SOCKET";
/// The sidecar's port on 127.0.0.1; used where `KAR_SOCKET` is not set.
pub const ENV_PORT: &str = "KAR_GRPC_PORT";
/// Bearer token of the sidecar's API, if it wants one.
pub const ENV_TOKEN: &str = "KAR_API_TOKEN";

/// Newest version of the stream's protocol that is spoken here.
const PROTOCOL_VERSION: i32 = 1;

/// Flow-control window, bytes: several of the longest messages, so that a window never is what
/// limits throughput.
const WINDOW_BYTES: u32 = 16 << 20;

/// Longest HTTP/2 frame, bytes: a message of many turns travels in one.
const FRAME_BYTES_MAX: u32 = 256 << 10;

/// How to reach the sidecar, and with what patience.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) address: Option<Address>,
    pub(crate) api_token: Option<String>,
    pub(crate) connect_timeout: Duration,
    pub(crate) reconnect_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) requests_max: usize,
}

/// Where a sidecar listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Address {
    Socket(PathBuf),
    Port(u16),
}

/// A sidecar that can be connected to, any number of times.
pub(crate) struct Dialer {
    address: Address,
    authorization: Option<MetadataValue<Ascii>>,
}

/// A sidecar, for what has a connection of its own.
pub(crate) struct Sidecar {
    pub(crate) dialer: Dialer,
    /// How long it is tried to reach it again.
    pub(crate) patience: Duration,
}

/// A stream on which the component was welcomed.
pub(crate) struct Session {
    pub(crate) welcome: Welcome,
    /// Frames that came with the welcome.
    pub(crate) first: Vec<SidecarFrame>,
    pub(crate) inbound: Streaming<ConnectResponse>,
    pub(crate) outbox: Arc<Outbox>,
    /// Keeps the connection.
    _client: ComponentServiceClient<Channel>,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: None,
            api_token: None,
            connect_timeout: CONNECT_TIMEOUT,
            reconnect_timeout: RECONNECT_TIMEOUT,
            drain_timeout: DRAIN_TIMEOUT,
            requests_max: CLIENT_REQUESTS_MAX,
        }
    }
}

impl Settings {
    /// Fills in from the environment what was not said, and checks it.
    pub(crate) fn dialer(&self) -> Result<Dialer, ConnectError> {
        self.dialer_with(|name| std::env::var(name).ok())
    }

    fn dialer_with(&self, env: impl Fn(&str) -> Option<String>) -> Result<Dialer, ConnectError> {
        let env = |name| env(name).filter(|value| !value.is_empty());
        let address = match &self.address {
            Some(address) => address.clone(),
            None => match (env(ENV_SOCKET), env(ENV_PORT)) {
                (Some(path), _) => Address::Socket(path.into()),
                (None, Some(port)) => match port.parse() {
                    Ok(number) if number != 0 => Address::Port(number),
                    _ => return Err(ConnectError::InvalidPort(port)),
                },
                (None, None) => return Err(ConnectError::NotConfigured),
            },
        };
        let authorization = match self.api_token.clone().or_else(|| env(ENV_TOKEN)) {
            None => None,
            Some(token) => {
                let value = format!("Bearer {token}").parse();
                Some(value.map_err(|_| ConnectError::InvalidToken)?)
            }
        };
        Ok(Dialer { address, authorization })
    }
}

// === impl Dialer ===

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the token.
        f.debug_struct("Dialer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Dialer {
    /// Connects and registers; one attempt.
    pub(crate) async fn open(&self, hello: Hello) -> Result<Session, ConnectError> {
        let opening = self.open_unbounded(hello);
        timeout(WELCOME_TIMEOUT, opening)
            .await
            .unwrap_or_else(|_| Err(self.unreachable("no welcome in time")))
    }

    async fn open_unbounded(&self, hello: Hello) -> Result<Session, ConnectError> {
        let channel = self.channel().await.map_err(|e| self.unreachable(&describe(&e)))?;
        let mut client = ComponentServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_DECODE_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_DECODE_MAX);
        let outbox = Arc::new(Outbox::default());
        let hello = component_frame::Frame::Hello(Hello {
            protocol_version: PROTOCOL_VERSION,
            sdk: concat!("kar-sdk-rust/", env!("CARGO_PKG_VERSION")).to_owned(),
            ..hello
        });
        outbox.push(&mut vec![ComponentFrame { frame: Some(hello) }]);
        let request = self.authorized(Messages(outbox.clone()));
        let refused =
            |status: tonic::Status| ConnectError::Refused(Box::new(Rejection::from_grpc(&status)));
        let mut inbound = client.connect(request).await.map_err(refused)?.into_inner();
        loop {
            let Some(message) = inbound.message().await.map_err(refused)? else {
                return Err(ConnectError::Protocol("the stream ended before a welcome".into()));
            };
            let mut frames = message.frames.into_iter();
            let Some(frame) = frames.next() else { continue };
            let Some(Frame::Welcome(welcome)) = frame.frame else {
                return Err(ConnectError::Protocol("the first frame is not a welcome".into()));
            };
            if welcome.protocol_version != PROTOCOL_VERSION {
                let theirs = welcome.protocol_version;
                let text = format!("the sidecar speaks version {theirs}, this SDK speaks 1");
                return Err(ConnectError::Protocol(text));
            }
            if welcome.request_credits < 1 || welcome.message_bytes_max < 1 {
                return Err(ConnectError::Protocol("the welcome allows no requests".into()));
            }
            if welcome.stream_message_bytes_max > MESSAGE_BYTES_DECODE_MAX as i64 {
                let theirs = welcome.stream_message_bytes_max;
                let text = format!(
                    "the sidecar's messages may have {theirs} bytes, and this SDK takes \
                     {MESSAGE_BYTES_DECODE_MAX}: lower step-bytes-per-invocation-max or message-bytes-max"
                );
                return Err(ConnectError::Protocol(text));
            }
            let first = frames.collect();
            return Ok(Session { welcome, first, inbound, outbox, _client: client });
        }
    }

    /// A request with the token.
    pub(crate) fn authorized<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(value) = &self.authorization {
            request.metadata_mut().insert("authorization", value.clone());
        }
        request
    }

    /// Connects; one attempt.
    pub(crate) async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        match &self.address {
            Address::Socket(path) => {
                let path = path.clone();
                let connector = tower::service_fn(move |_: tonic::transport::Uri| {
                    let path = path.clone();
                    async move { kar_unix::connect(path).await.map(TokioIo::new) }
                });
                // The address is only a name: some servers insist on an authority.
                endpoint("http://localhost".to_owned())?.connect_with_connector(connector).await
            }
            Address::Port(port) => {
                endpoint(format!("http://127.0.0.1:{port}"))?
                    .tcp_nodelay(true)
                    .http2_keep_alive_interval(KEEP_ALIVE)
                    .keep_alive_timeout(KEEP_ALIVE)
                    .keep_alive_while_idle(true)
                    .connect()
                    .await
            }
        }
    }

    pub(crate) fn unreachable(&self, cause: &str) -> ConnectError {
        let address = match &self.address {
            Address::Socket(path) => path.display().to_string(),
            Address::Port(port) => format!("127.0.0.1:{port}"),
        };
        ConnectError::Unreachable { address, cause: cause.to_owned() }
    }
}

impl std::fmt::Debug for Sidecar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the token.
        f.debug_struct("Sidecar").field("address", &self.dialer.address).finish_non_exhaustive()
    }
}

fn endpoint(uri: String) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(uri)?
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX))
}

/// The innermost cause: "No such file or directory" rather than "transport error".
fn describe(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(env: &[(&str, &str)]) -> Result<Address, ConnectError> {
        let lookup =
            |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Settings::default().dialer_with(lookup).map(|dialer| dialer.address)
    }

    #[test]
    fn the_environment_names_the_sidecar() {
        let both = [(ENV_SOCKET, "/x/kar.sock"), (ENV_PORT, "9")];
        assert_eq!(address(&both), Ok(Address::Socket("/x/kar.sock".into())));
        assert_eq!(address(&[(ENV_SOCKET, ""), (ENV_PORT, "9")]), Ok(Address::Port(9)));
        assert_eq!(address(&[(ENV_PORT, "x")]), Err(ConnectError::InvalidPort("x".into())));
        let error = address(&[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no sidecar to talk to: run this program under `kar run`, or set KAR_SOCKET"
        );
        let bad = address(&[(ENV_PORT, "9"), (ENV_TOKEN, "a\nb")]);
        assert_eq!(bad, Err(ConnectError::InvalidToken));
    }
}
