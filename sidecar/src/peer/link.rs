//! One open connection to a peer, whoever dialled it.

use std::sync::Arc;

use kar_core::Event;
use kar_core::ids::NodeId;
use kar_core::message::Message;
use kar_proto::peer::v1 as pb;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

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
        self.0.push(message_to(&message), message_size(&message));
    }

    fn close(&self) {
        self.0.end(None);
    }
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
    let status = loop {
        let frames = tokio::select! {
            biased;
            message = inbound.next() => match message {
                Some(Ok(frames)) => frames,
                Some(Err(status)) => break Some(status),
                None => break None,
            },
            () = &mut ended => break None,
        };
        let mut batch = driver.batch();
        if !batch.is_current(peer, link) {
            break None;
        }
        match frames.into_iter().try_for_each(|frame| {
            batch.event(Event::Peer { from: peer, message: message_from(frame)? });
            Ok::<_, crate::convert::Malformed>(())
        }) {
            Ok(()) => {}
            Err(malformed) => {
                drop(batch);
                tracing::error!(peer = peer.0, %malformed, "a peer's message is not understood");
                outbox.end(Some(Status::invalid_argument(malformed.to_string())));
                break None;
            }
        }
    };
    if let Some(status) = status {
        tracing::debug!(peer = peer.0, %status, "peer disconnected");
    }
    outbox.end(None);
    driver.batch().peer_down(peer, link);
}
