//! The dialling side of the peer plane: keeps a connection to every older member.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kar_core::ids::NodeId;
use kar_proto::peer::v1 as pb;
use pb::peer_service_client::PeerServiceClient;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_stream::StreamExt as _;
use tonic::Status;

use super::{PEER_MESSAGE_BYTES_MAX, PROTOCOL_VERSION, link};
use crate::driver::Driver;
use crate::driver::outlets::{Directory, NodeCard};
use crate::net::PeerAddress;
use crate::outbox::{Outbox, OutboxBounds, OutboxStream};

/// First pause after a failed or broken connection; doubled up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// Longest pause between attempts.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Keeps the connections of one node.
pub struct Dialler {
    driver: Arc<Driver>,
    application: String,
    bounds: OutboxBounds,
    /// Dialled by whom, to whom.
    tasks: HashMap<(NodeId, NodeId), AbortHandle>,
    /// Who was a member in the last view.
    known: Arc<Directory>,
}

/// What one dialling task needs.
#[derive(Clone)]
struct Line {
    driver: Arc<Driver>,
    application: String,
    bounds: OutboxBounds,
    own: NodeId,
    peer: NodeId,
    address: PeerAddress,
}

// === impl Dialler ===

impl Dialler {
    /// Without connections.
    pub fn new(driver: Arc<Driver>, application: String, bounds: OutboxBounds) -> Self {
        Self { driver, application, bounds, tasks: HashMap::new(), known: Arc::default() }
    }

    /// Follows the membership; runs until it is dropped.
    pub async fn run(mut self, mut members: watch::Receiver<Arc<Directory>>) {
        loop {
            let directory = members.borrow_and_update().clone();
            self.follow(directory);
            if members.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends the connections of those who left, dials those who are older than this node.
    fn follow(&mut self, directory: Arc<Directory>) {
        for gone in self.known.keys().filter(|id| !directory.contains_key(id)) {
            self.driver.batch().peer_gone(*gone);
        }
        self.known = directory.clone();
        let Some(own) = self.driver.incarnation() else { return };
        self.tasks.retain(|(from, to), task| {
            let keep = *from == own && directory.contains_key(to);
            if !keep {
                task.abort();
            }
            keep
        });
        let older = directory.range(..own).map(|(_, card)| card);
        // Who has no peer plane is reached by its inbox.
        for card in older.filter(|card| !card.address.is_empty()) {
            self.dial(own, card);
        }
    }

    fn dial(&mut self, own: NodeId, card: &NodeCard) {
        if self.tasks.contains_key(&(own, card.id)) {
            return;
        }
        let address = match card.address.parse() {
            Ok(address) => address,
            Err(error) => {
                tracing::error!(node = %card.name, %error, "cannot reach a member");
                return;
            }
        };
        let line = Line {
            driver: self.driver.clone(),
            application: self.application.clone(),
            bounds: self.bounds,
            own,
            peer: card.id,
            address,
        };
        let task = tokio::spawn(line.keep());
        self.tasks.insert((own, card.id), task.abort_handle());
    }
}

impl Drop for Dialler {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

// === impl Line ===

impl Line {
    /// Connects again and again, until the task is aborted because the member left.
    async fn keep(self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            match self.connect_once().await {
                Ok(()) => backoff = BACKOFF_MIN,
                Err(status) => {
                    tracing::debug!(peer = self.peer.0, %status, "peer not reached");
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
            tokio::time::sleep(backoff).await;
        }
    }

    /// One connection, from the first packet to the last.
    async fn connect_once(&self) -> Result<(), Status> {
        let unreachable = |e: tonic::transport::Error| Status::unavailable(e.to_string());
        let channel = self.address.connect().await.map_err(unreachable)?;
        let mut client = PeerServiceClient::new(channel)
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX);
        let hello = pb::PeerHello {
            protocol_version: PROTOCOL_VERSION,
            application: self.application.clone(),
            incarnation: self.own.0,
            expected_incarnation: self.peer.0,
        };
        let outbox = Outbox::new(self.bounds);
        let first = pb::ConnectRequest { hello: Some(hello), frames: Vec::new() };
        let stream = OutboxStream::new(outbox.clone(), Some(first), |frames| pb::ConnectRequest {
            hello: None,
            frames,
        });
        // The status of an outbox that overflowed has been logged; the other side sees the stream end.
        let requests = stream.map_while(Result::ok);
        let mut inbound = client.connect(requests).await?.into_inner();
        let hello = inbound.message().await?.and_then(|m| m.hello);
        let hello = hello.ok_or_else(|| Status::internal("the peer did not say hello"))?;
        if hello.incarnation != self.peer.0 || self.driver.incarnation() != Some(self.own) {
            return Err(Status::failed_precondition("one of the two nodes was replaced"));
        }
        let frames = inbound.map(|message| message.map(|m| m.frames));
        link::run(&self.driver, self.peer, outbox, frames).await;
        Ok(())
    }
}
