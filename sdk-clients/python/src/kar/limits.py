"""Every bound of the SDK, by name. Times are in seconds."""

from typing import Final

FRAMES_PER_MESSAGE_MAX: Final = 64
"""Frames packed into one stream message. An `await` of the gRPC library costs as much as half a
dozen frames, so more than in the Rust SDK (16)."""

MESSAGE_BYTES_TARGET: Final = 256 << 10
"""Bytes after which no further frame is packed into a message. A longer frame travels alone."""

MESSAGE_BYTES_DECODE_MAX: Final = 64 << 20
"""Longest stream message accepted from the sidecar, bytes: no sidecar starts with bounds that make longer
ones, and it tells its own in its welcome. The longest turn has an argument and what its steps recorded,
8 MiB together by default."""

CLIENT_REQUESTS_MAX: Final = 20_000
"""Requests outside turns that may wait or be under way on one connection, unless `connect` says
otherwise. Beyond it a request fails with `LimitReached` named `client-requests`."""

TURN_REQUESTS_MAX: Final = 1_024
"""Operations of one turn that may be under way at once; limit `turn-requests`."""

TURN_WRITE_BYTES_MAX: Final = 8 << 20
"""Bytes of state changes that a turn gathers before the next operation sends them; limit
`turn-write-bytes`."""

APPLY_BYTES_TARGET: Final = 256 << 10
"""Bytes of state changes sent in one frame."""

CONSUMER_EVENTS_AHEAD: Final = 256
"""Events that may come to a consumer before they are asked for, unless `Topic.consume` says otherwise."""

STATE_KEY_BYTES_MAX: Final = 512
"""Longest key of a state."""

DETAIL_BYTES_MAX: Final = 16 << 10
"""Bytes of a stack trace that travel with an error; of a longer one the end is kept."""

CONNECT_TIMEOUT: Final = 10.0
"""How long the first connection is tried."""

PREDECESSOR_TIMEOUT: Final = 1.0
"""How long the first connection of a host waits for the sidecar to notice that its predecessor,
which has just died, does not host any more."""

RECONNECT_TIMEOUT: Final = 60.0
"""How long a broken connection is tried again before the client or host gives up."""

BACKOFF_MIN: Final = 0.01
"""First pause between two attempts to connect."""

BACKOFF_MAX: Final = 1.0
"""Longest pause between two attempts to connect."""

WELCOME_TIMEOUT: Final = 10.0
"""How long the sidecar may take to answer `hello`."""

DRAIN_TIMEOUT: Final = 15.0
"""How long a leaving host waits for its turns and for the hand-over."""

CLOSE_TIMEOUT: Final = 1.0
"""How long a closed stream may take to end."""

ABORT_TIMEOUT: Final = 5.0
"""How long cancelled turns may take to stop before the host registers again. Code stops at its
next `await`; code that computes on cannot be stopped, and what it asks for is refused."""

KEEP_ALIVE: Final = 5.0
"""Interval of HTTP/2 pings over TCP, and how long an answer may take. A Unix socket needs none:
the kernel tells."""
