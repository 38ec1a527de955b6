//! The peer plane: one connection for each pair of nodes, FIFO both ways. The node with the higher incarnation, which
//! joined later, dials ([`dial`]); the other one answers ([`serve`]). Both then run the same [`link`].

pub mod dial;
pub mod inspect;
pub mod link;
pub mod serve;

use crate::config::Bounds;
use crate::outbox::OutboxBounds;

/// Version of the peer plane.
pub const PROTOCOL_VERSION: i32 = 1;

/// Longest message between peers, bytes: one frame with the longest payload, or many short ones.
pub const PEER_MESSAGE_BYTES_MAX: usize = 32 << 20;

/// Bounds of the queue to one peer.
pub fn outbox_bounds(bounds: &Bounds) -> OutboxBounds {
    OutboxBounds {
        queue: "peer_queue",
        frames_max: bounds.peer_queue_frames_max,
        bytes_max: bounds.peer_queue_bytes_max,
        frames_per_message_max: bounds.frames_per_message_max,
    }
}
