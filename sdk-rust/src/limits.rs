//! Every bound of the SDK, by name.

use std::time::Duration;

/// Frames packed into one stream message: enough to share the cost of a message, few enough that
/// the receiving core can start on the first ones while the rest is still being written.
pub const FRAMES_PER_MESSAGE_MAX: usize = 16;

/// Bytes after which no further frame is packed into a message. A single longer frame travels
/// alone.
pub const MESSAGE_BYTES_TARGET: usize = 256 << 10;

/// Longest stream message accepted from the sidecar, bytes: no sidecar starts with bounds that make longer ones, and
/// it tells its own in its welcome. The longest turn has an argument and what its steps recorded, 8 MiB together by
/// default.
pub const MESSAGE_BYTES_DECODE_MAX: usize = 64 << 20;

/// Requests outside turns that may wait or be under way on one connection, unless the builder says
/// otherwise. Beyond it a request fails with [`CallError::Limit`](crate::CallError::Limit) named
/// `client-requests`.
pub const CLIENT_REQUESTS_MAX: usize = 20_000;

/// Events that may come ahead of [`Consumer::next`](crate::Consumer::next), unless
/// [`Consume::ahead`](crate::Consume::ahead) says otherwise.
pub const CONSUMER_EVENTS_AHEAD: u16 = 256;

/// Operations of one turn that may be under way at once; limit `turn-requests`.
pub const TURN_REQUESTS_MAX: usize = 1_024;

/// Bytes of state changes that a turn gathers before the next operation sends them; limit
/// `turn-write-bytes`.
pub const TURN_WRITE_BYTES_MAX: usize = 8 << 20;

/// Bytes of state changes sent in one frame.
pub const APPLY_BYTES_TARGET: usize = 256 << 10;

/// Longest key of a state, bytes.
pub const STATE_KEY_BYTES_MAX: usize = 512;

/// Messages read, and commands taken, before the connection's task looks at the other side.
pub const BATCH_MAX: usize = 64;

/// Rounds of reading and writing before the connection's task lets others run.
pub const ROUNDS_PER_POLL_MAX: usize = 8;

/// How long the first connection is tried.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a broken connection is tried again before the client or host gives up.
pub const RECONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// First pause between two attempts to connect.
pub const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// Longest pause between two attempts to connect.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How long the sidecar may take to answer `hello`.
pub const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a leaving host waits for its turns and for the hand-over.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a closed stream may take to end.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long aborted turns may take to stop before the host registers again. Code stops at its next
/// `await`; code that computes on cannot be stopped, and whatever it asks for is refused as
/// superseded.
pub const ABORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval of HTTP/2 pings over TCP, and how long an answer may take. A Unix socket needs none:
/// the kernel tells.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
