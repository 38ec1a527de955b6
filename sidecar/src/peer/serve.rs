//! The answering side of the peer plane.

use std::sync::Arc;

use kar_core::ids::NodeId;
use kar_proto::peer::v1 as pb;
use pb::peer_service_server::PeerService;
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};

use super::{PEER_MESSAGE_BYTES_MAX, PROTOCOL_VERSION, link};
use crate::convert::view::node_view_to;
use crate::driver::Driver;
use crate::outbox::{Outbox, OutboxBounds, OutboxStream};

/// Bytes of rows that one `Inspect` answers with: a message holds them, with what goes with each partition.
const INSPECT_BYTES_MAX: usize = PEER_MESSAGE_BYTES_MAX / 2;

/// Answers other sidecars.
pub struct PeerServer {
    driver: Arc<Driver>,
    application: String,
    bounds: OutboxBounds,
}

// === impl PeerServer ===

impl PeerServer {
    /// The peer plane of a driver.
    pub fn new(driver: Arc<Driver>, application: String, bounds: OutboxBounds) -> Self {
        Self { driver, application, bounds }
    }

    /// Refuses whoever looks for somebody else, or has been struck out.
    fn check(&self, hello: &pb::PeerHello, own: NodeId) -> Result<NodeId, Status> {
        let peer = NodeId(hello.incarnation);
        if hello.protocol_version < 1 {
            return Err(Status::invalid_argument("hello.protocol_version must be at least 1"));
        }
        if hello.application != self.application || hello.expected_incarnation != own.0 {
            return Err(Status::failed_precondition(format!(
                "this is incarnation {} of application {}",
                own.0, self.application
            )));
        }
        let directory = self.driver.directory();
        let newest = directory.keys().next_back().copied().unwrap_or_default();
        if peer <= newest && !directory.contains_key(&peer) {
            return Err(Status::failed_precondition(format!(
                "incarnation {} was struck out",
                peer.0
            )));
        }
        Ok(peer)
    }
}

#[tonic::async_trait]
impl PeerService for PeerServer {
    type ConnectStream = OutboxStream<pb::PeerFrame, pb::ConnectResponse>;

    async fn connect(
        &self,
        request: Request<Streaming<pb::ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?.unwrap_or_default();
        let hello = first.hello.ok_or_else(|| Status::invalid_argument("hello must come first"))?;
        let joined = self.driver.incarnation();
        let own = joined.ok_or_else(|| Status::unavailable("this node has not joined yet"))?;
        let peer = self.check(&hello, own)?;
        let answer = pb::PeerHello {
            protocol_version: PROTOCOL_VERSION.min(hello.protocol_version),
            application: self.application.clone(),
            incarnation: own.0,
            expected_incarnation: peer.0,
        };
        let outbox = Outbox::new(self.bounds);
        let first = pb::ConnectResponse { hello: Some(answer), frames: Vec::new() };
        let stream = OutboxStream::new(outbox.clone(), Some(first), |frames| pb::ConnectResponse {
            hello: None,
            frames,
        });
        let driver = self.driver.clone();
        tokio::spawn(async move {
            let frames = inbound.map(|message| message.map(|m| m.frames));
            link::run(&driver, peer, outbox, frames).await;
        });
        Ok(Response::new(stream))
    }

    async fn inspect(
        &self,
        _: Request<pb::InspectRequest>,
    ) -> Result<Response<pb::InspectResponse>, Status> {
        Ok(Response::new(inspect(&self.driver)))
    }
}

/// What this node serves: of each partition as many rows as its part of a message takes.
pub fn inspect(driver: &Driver) -> pb::InspectResponse {
    let own = driver.incarnation().unwrap_or_default();
    node_view_to(own, &driver.partitions(), INSPECT_BYTES_MAX)
}
