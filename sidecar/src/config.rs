//! What a sidecar is started with: every setting and every bound, parsed once.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use kar_core::ids::is_name;
use kar_core::limits::Limits;
use kar_hub::{MESSAGE_BYTES_MAX, RECORD_BYTES_MAX};

use crate::outbox::MESSAGE_BYTES_TARGET;

/// Folder in which local mode keeps everything, unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = ".kar";

/// Partitions of a new kind, unless told otherwise. Fixed for a kind once it is used.
pub const DEFAULT_PARTITIONS: u32 = 8;

/// Greatest number of partitions of a kind: each one has a log and a reign of its own.
pub const PARTITIONS_MAX: u32 = 1024;

/// Ranges of acknowledged events above the first one that is not, and of events that are open, together, in one
/// partition of a consumer: what is kept of it is bounded.
pub const CONSUMER_RANGES_MAX: usize = kar_hub::ACKNOWLEDGED_RANGES_MAX;

/// Everything a sidecar is started with. [`SidecarConfig::new`] has defaults for all but the application.
#[derive(Clone, Debug)]
pub struct SidecarConfig {
    /// The namespace: sidecars of one application on one data directory work together.
    pub application: ApplicationName,
    /// Name of the node, for people; `None`: made from the process id.
    pub node_name: Option<String>,
    /// Folder of local mode; created with mode 0700.
    pub data_dir: PathBuf,
    /// Path of the component's Unix socket; `None`: a new one in a folder `run` of the data directory.
    pub socket: Option<PathBuf>,
    /// TCP port on loopback for the component; 0: any free one.
    pub grpc_port: u16,
    /// Where other sidecars reach this one besides its Unix socket; `None`: by the Unix socket alone.
    pub peer_listen: Option<SocketAddr>,
    /// There is no peer plane: it neither listens nor dials, and everything goes through inboxes.
    pub no_peer: bool,
    /// Bearer token that every request must carry (`authorization: Bearer …`); `None`: the socket's folder, which
    /// only the own user can enter, is protection enough.
    pub api_token: Option<String>,
    /// How the hub is started if there is none; `None`: it is only connected to, and the start fails without one.
    pub hub: Option<HubCommand>,
    /// It lives for a short while only, as a command that makes one call: others own what nobody hosts.
    pub transient: bool,
    /// Partitions of kinds that this node is the first to use.
    pub partitions: PartitionCount,
    /// Bounds of the decisions.
    pub limits: Limits,
    /// Bounds of the connections.
    pub bounds: Bounds,
}

/// Name of an application; see [`is_name`] for its form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApplicationName(String);

/// Number of partitions of a kind: 1 to [`PARTITIONS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartitionCount(u32);

/// The command that runs a hub in the foreground (`kar hub …`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubCommand {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

/// Bounds of connections: what is over one of them is disconnected or refused with its name, never buffered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Frames waiting to be written to one component stream, without turns, which the core bounds; beyond it the
    /// stream is ended.
    pub session_queue_frames_max: usize,
    /// Bytes of payload waiting to be written to one component stream, without turns; beyond it the stream is ended.
    pub session_queue_bytes_max: usize,
    /// Frames waiting to be written to one peer; beyond it the connection is cut and made anew.
    pub peer_queue_frames_max: usize,
    /// Bytes waiting to be written to one peer, without those that the core holds anyway (payloads of obligations,
    /// outcomes); beyond it the connection is cut and made anew.
    pub peer_queue_bytes_max: usize,
    /// Frames in one stream message.
    pub frames_per_message_max: usize,
    /// Requests that may be under way on one component stream. A turn's call takes one until it is answered, so a chain
    /// of calls within a component must be shorter than this; with 1 alone, what is called there can ask for nothing,
    /// and both wait for ever.
    pub request_credits: u32,
    /// Requests of the component under way, on all its streams and connections together; beyond it they are refused.
    pub requests_max: usize,
    /// Component streams open at once.
    pub sessions_max: usize,
    /// Clients that follow the topology at once (`SystemService.WatchTopology`); beyond it they are refused.
    pub topology_watchers_max: usize,
    /// Events that are published at once (`EventService.PublishBatch`).
    pub publish_batch_events_max: usize,
    /// Consumers' streams open at once (`EventService.Consume`); beyond it they are refused.
    pub consume_streams_max: usize,
    /// Events given to a consumer with a name that it has not acknowledged; beyond it no more are given.
    pub consume_unacknowledged_max: usize,
    /// Events read ahead for one consumer from one partition, bytes, but for the last one.
    pub consume_fetch_bytes: u32,
    /// Longest message that the transport takes, bytes; above [`Limits::message_bytes_max`], so that a payload that
    /// is a little too long is refused by name.
    pub transport_message_bytes_max: usize,
    /// How long a component may take to say hello on a stream that it opened, ms.
    pub hello_timeout_ms: u64,
    /// How long the start waits for the hub, ms.
    pub start_timeout_ms: u64,
    /// How long requests to the store wait for a hub that is away, ms.
    pub backend_timeout_ms: u64,
}

/// A setting that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The application's name is malformed.
    #[error(
        "'{0}' is no application name: 1 to 128 of A-Z a-z 0-9 _ - . and not starting with . or -"
    )]
    ApplicationName(String),
    /// A peer plane is wanted and not wanted.
    #[error("--peer-listen and --no-peer contradict each other: leave one of them out")]
    Peer,
    /// The number of partitions is out of range.
    #[error("{0} partitions: it must be 1 to {PARTITIONS_MAX}")]
    Partitions(u32),
    /// A turn could make a record that no log takes.
    #[error(
        "records could have {bytes} bytes with these bounds, and a log takes {max}: lower segment-bytes-max \
         ({segment}), message-bytes-max ({message}), calls-per-turn-max, record-bytes-target or store-batch-bytes"
    )]
    Records {
        /// The longest record.
        bytes: usize,
        /// The longest that a log takes.
        max: usize,
        /// The bound that it most depends on.
        segment: usize,
        /// The other one.
        message: usize,
    },
    /// An actor could hold more than can be read, or loaded, at once.
    #[error(
        "state-bytes-per-actor-max ({state}) must be {room} below what one message carries: {message}, by \
         transport-message-bytes-max and the hub"
    )]
    State {
        /// The longest state.
        state: usize,
        /// What a message carries.
        message: usize,
        /// Room for what goes with it.
        room: usize,
    },
    /// A component's transport would not take the longest message of its stream.
    #[error(
        "messages to components could have {bytes} bytes with these bounds, and clients take {max}: lower \
         message-bytes-max ({message}), step-bytes-per-invocation-max ({steps}) or state-read-bytes-max ({state})"
    )]
    Stream {
        /// The longest message.
        bytes: usize,
        /// What clients take.
        max: usize,
        /// Longest argument.
        message: usize,
        /// What an invocation's steps keep.
        steps: usize,
        /// Longest answer to a read.
        state: usize,
    },
    /// The transport would not carry the longest payload.
    #[error(
        "transport-message-bytes-max ({transport}) must be above message-bytes-max ({message}) by {room} at least"
    )]
    Transport {
        /// What the transport takes.
        transport: usize,
        /// The longest payload.
        message: usize,
        /// Room for what goes with a payload.
        room: usize,
    },
}

/// Bytes of a message besides its payload, at most.
const MESSAGE_ROOM_BYTES: usize = 64 << 10;

/// Longest message of a component's stream that every client takes, bytes. The SDKs have the same number.
pub const STREAM_MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The longest message that a component gets on its stream with these bounds, bytes: what is packed into one, and the
/// longest frame after it, which is a turn with its recorded steps or the answer to a read; of the application's state
/// that is one value at least, however long those are that other nodes let in.
pub fn stream_message_bytes_max(limits: &Limits) -> usize {
    let read = limits.state_read_bytes_max.max(limits.state_bytes_per_actor_max);
    let frame = limits.turn_bytes_max().max(read).max(RECORD_BYTES_MAX);
    frame.saturating_add(MESSAGE_BYTES_TARGET + MESSAGE_ROOM_BYTES)
}

// === impl SidecarConfig ===

impl SidecarConfig {
    /// The defaults, in `.kar` of the working directory, without a command for the hub.
    ///
    /// # Errors
    ///
    /// If the application's name is malformed.
    pub fn new(application: &str) -> Result<Self, ConfigError> {
        Ok(Self {
            application: application.parse()?,
            node_name: None,
            data_dir: DEFAULT_DATA_DIR.into(),
            socket: None,
            grpc_port: 0,
            peer_listen: None,
            no_peer: false,
            api_token: None,
            hub: None,
            transient: false,
            partitions: PartitionCount::default(),
            limits: Limits::default(),
            bounds: Bounds::default(),
        })
    }

    /// Checks that the bounds go together: what is accepted fits into every message and record on its way.
    ///
    /// # Errors
    ///
    /// The bounds that do not, with what to change.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.no_peer && self.peer_listen.is_some() {
            return Err(ConfigError::Peer);
        }
        let (bytes, max) = (self.limits.record_bytes_max(), RECORD_BYTES_MAX);
        let (segment, message) = (self.limits.segment_bytes_max, self.limits.message_bytes_max);
        if bytes > max {
            return Err(ConfigError::Records { bytes, max, segment, message });
        }
        let (bytes, max) = (stream_message_bytes_max(&self.limits), STREAM_MESSAGE_BYTES_MAX);
        if bytes > max {
            let (steps, state) =
                (self.limits.step_bytes_per_invocation_max, self.limits.state_read_bytes_max);
            return Err(ConfigError::Stream { bytes, max, message, steps, state });
        }
        let (transport, room) = (self.bounds.transport_message_bytes_max, MESSAGE_ROOM_BYTES);
        if transport < message + room {
            return Err(ConfigError::Transport { transport, message, room });
        }
        let (state, message) =
            (self.limits.state_bytes_per_actor_max, transport.min(MESSAGE_BYTES_MAX));
        if message < state.saturating_add(room) {
            return Err(ConfigError::State { state, message, room });
        }
        Ok(())
    }
}

// === impl ApplicationName ===

impl ApplicationName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ApplicationName {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        if is_name(text) {
            Ok(Self(text.into()))
        } else {
            Err(ConfigError::ApplicationName(text.into()))
        }
    }
}

impl fmt::Display for ApplicationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl PartitionCount ===

impl PartitionCount {
    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for PartitionCount {
    type Error = ConfigError;

    fn try_from(count: u32) -> Result<Self, ConfigError> {
        if (1..=PARTITIONS_MAX).contains(&count) {
            Ok(Self(count))
        } else {
            Err(ConfigError::Partitions(count))
        }
    }
}

impl Default for PartitionCount {
    fn default() -> Self {
        Self(DEFAULT_PARTITIONS)
    }
}

// === impl Bounds ===

impl Default for Bounds {
    fn default() -> Self {
        Self {
            session_queue_frames_max: 65_536,
            session_queue_bytes_max: 64 << 20,
            peer_queue_frames_max: 262_144,
            peer_queue_bytes_max: 256 << 20,
            frames_per_message_max: 32,
            request_credits: 4_096,
            requests_max: 65_536,
            sessions_max: 1_024,
            topology_watchers_max: 100,
            publish_batch_events_max: 1_000,
            consume_streams_max: 100,
            consume_unacknowledged_max: 1_000,
            consume_fetch_bytes: 64 << 10,
            transport_message_bytes_max: 8 << 20,
            hello_timeout_ms: 10_000,
            start_timeout_ms: 10_000,
            backend_timeout_ms: 10_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_parsed_once() {
        assert!(SidecarConfig::new("shop.eu-1").is_ok());
        assert_eq!(
            SidecarConfig::new("a b").err(),
            Some(ConfigError::ApplicationName("a b".into()))
        );
        assert_eq!(PartitionCount::try_from(0), Err(ConfigError::Partitions(0)));
        assert_eq!(PartitionCount::try_from(1024).map(PartitionCount::get), Ok(1024));
    }

    #[test]
    fn bounds_that_let_records_grow_beyond_the_log_are_refused() {
        let mut config = SidecarConfig::new("shop").unwrap();
        assert_eq!(config.check(), Ok(()));
        config.limits.segment_bytes_max = RECORD_BYTES_MAX;
        let error = config.check().unwrap_err();
        assert!(matches!(error, ConfigError::Records { .. }), "{error}");
        let mut config = SidecarConfig::new("shop").unwrap();
        config.bounds.transport_message_bytes_max = config.limits.message_bytes_max;
        let error = config.check().unwrap_err();
        assert!(matches!(error, ConfigError::Transport { .. }), "{error}");
        for raise in [
            |limits: &mut Limits| limits.step_bytes_per_invocation_max = 60 << 20,
            |limits: &mut Limits| limits.state_read_bytes_max = 64 << 20,
        ] {
            let mut config = SidecarConfig::new("shop").unwrap();
            raise(&mut config.limits);
            let error = config.check().unwrap_err();
            assert!(matches!(error, ConfigError::Stream { .. }), "{error}");
        }
        let mut config = SidecarConfig::new("shop").unwrap();
        config.limits.state_bytes_per_actor_max = config.bounds.transport_message_bytes_max;
        let error = config.check().unwrap_err();
        assert!(matches!(error, ConfigError::State { .. }), "{error}");
    }
}
