//! One open connection to a peer, whoever dialled it.

use std::sync::Arc;

use futures_util::FutureExt as _;
use kar_core::Event;
use kar_core::ids::NodeId;
use kar_core::message::Message;
use kar_proto::peer::v1 as pb;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use crate::convert::Malformed;
use crate::convert::peer::{message_from, message_size, message_to};
use crate::driver::Driver;
use crate::driver::outlets::Peer;
use crate::outbox::Outbox;

/// Frames to a peer.
pub type PeerOutbox = Outbox<pb::PeerFrame>;

/// Lets the core send on a connection.
pub struct Outlet(pub Arc<PeerOutbox>);

impl Peer for Outlet {
    fn send(&self, message: Message) {
        let (frame, bytes) = (message_to(&message), message_size(&message));
        match message {
            // The core holds an obligation until it is answered, and an outcome until its sender has it: what is in
            // these frames takes no memory of its own, however many of them wait.
            Message::Request { .. } | Message::Reply { .. } => {
                self.0.push_shared(frame, bytes, SHARED_BYTES_COUNTED);
            }
            _ => self.0.push(frame, bytes),
        }
    }

    fn close(&self) {
        self.0.end(None);
    }
}

/// What a request or a reply counts in the queue to a peer, bytes: its names, and the frame itself.
const SHARED_BYTES_COUNTED: usize = 512;

/// Stream messages whose frames are given to the core at once, if they are there at once.
const MESSAGES_AT_ONCE_MAX: usize = 16;

/// How reading a connection ended.
enum End {
    /// It is not the current one any more, or the other side closed it.
    Over,
    /// It broke.
    Broken(Status),
    /// A message is not understood.
    Malformed(Malformed),
}

/// Runs an open connection until it breaks from either side: gives what comes in to the core, in order. Both ends learn
/// of the end, whoever caused it.
pub async fn run<S>(driver: &Driver, peer: NodeId, outbox: Arc<PeerOutbox>, mut inbound: S)
where
    S: Stream<Item = Result<Vec<pb::PeerFrame>, Status>> + Unpin,
{
    let link = driver.batch().peer_up(peer, Arc::new(Outlet(outbox.clone())));
    tracing::debug!(peer = peer.0, "peer connected");
    let mut ended = std::pin::pin!(outbox.ended());
    let end = loop {
        let message = tokio::select! {
            biased;
            message = inbound.next() => message,
            () = &mut ended => break End::Over,
        };
        if let Err(end) = take(driver, (peer, link), message, &mut inbound) {
            break end;
        }
    };
    let status = match end {
        End::Over => None,
        End::Broken(status) => {
            tracing::debug!(peer = peer.0, %status, "peer disconnected");
            None
        }
        End::Malformed(malformed) => {
            tracing::error!(peer = peer.0, %malformed, "a peer's message is not understood");
            Some(Status::invalid_argument(malformed.to_string()))
        }
    };
    outbox.end(status);
    driver.batch().peer_down(peer, link);
}

/// Gives a message to the core, and those behind it that are there already: what they cause travels together.
fn take<S>(
    driver: &Driver,
    (peer, link): (NodeId, u64),
    first: Option<Result<Vec<pb::PeerFrame>, Status>>,
    inbound: &mut S,
) -> Result<(), End>
where
    S: Stream<Item = Result<Vec<pb::PeerFrame>, Status>> + Unpin,
{
    let mut batch = driver.batch();
    let mut message = first;
    for left in (0..MESSAGES_AT_ONCE_MAX).rev() {
        let frames = message.ok_or(End::Over)?.map_err(End::Broken)?;
        if !batch.is_current(peer, link) {
            return Err(End::Over);
        }
        for frame in frames {
            let message = message_from(frame).map_err(End::Malformed)?;
            batch.event(Event::Peer { from: peer, message });
        }
        if left == 0 {
            break;
        }
        // The stream is polled again before the task sleeps, so no wake-up is lost.
        let Some(next) = inbound.next().now_or_never() else { break };
        message = next;
    }
    Ok(())
}
