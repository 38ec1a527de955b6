//! Who is there, and who owns what, as it changes ([`TopologyWatch`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use kar_proto::v1 as proto;
use kar_proto::v1::system_service_client::SystemServiceClient;
use tokio::time::{Instant, sleep};
use tonic::Streaming;

use crate::error::{CallError, Rejection};
use crate::limits::{BACKOFF_MAX, BACKOFF_MIN, MESSAGE_BYTES_DECODE_MAX};
use crate::stream::driver::jittered;
use crate::transport::Sidecar;

/// Follows the application's topology: [`Client::watch_topology`](crate::Client::watch_topology).
///
/// It has a connection of its own to the sidecar, made again when it breaks, and holds no more than the
/// topology told last. It ends when it is dropped.
#[derive(Debug)]
pub struct TopologyWatch {
    sidecar: Arc<Sidecar>,
    stream: Option<Streaming<proto::WatchTopologyResponse>>,
    told: Option<Topology>,
}

/// The application as it is now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Topology {
    /// The live nodes, by incarnation.
    pub nodes: Vec<TopologyNode>,
    /// The known services by name: for each of their partitions the incarnation of the node that it belongs to;
    /// `None`: there is none. While one changes hands its former owner may still serve it, or nobody.
    pub services: BTreeMap<String, Vec<Option<u64>>>,
    /// The same of the known actor types.
    pub actor_types: BTreeMap<String, Vec<Option<u64>>>,
}

/// A live node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct TopologyNode {
    /// Its name.
    pub name: String,
    /// Its incarnation: another one is another node, whatever its name.
    pub incarnation: u64,
    /// Services that it hosts.
    pub services: Vec<String>,
    /// Actor types that it hosts.
    pub actor_types: Vec<String>,
    /// Process id of its sidecar, in local mode.
    pub process_id: u32,
    /// It is leaving.
    pub is_leaving: bool,
}

// === impl TopologyWatch ===

impl TopologyWatch {
    pub(crate) fn new(sidecar: Arc<Sidecar>) -> Self {
        Self { sidecar, stream: None, told: None }
    }

    /// The topology: at once the first time, afterwards when it has changed. Changes that come close together
    /// are told as one, and so are those that come while nobody asks: what is told is always the newest.
    ///
    /// Can be dropped and called again without missing anything.
    ///
    /// # Errors
    /// [`CallError::Limit`] if as many follow it already as the sidecar lets (`topology-watchers-max`);
    /// [`CallError::Unavailable`] or [`CallError::Unknown`] if the sidecar cannot be reached for as long as the
    /// client's `reconnect_timeout`; what it refuses. It may be called again after any of them.
    pub async fn next(&mut self) -> Result<Topology, CallError> {
        let (mut lost, mut pause) = (None, BACKOFF_MIN);
        loop {
            match self.message().await {
                Ok(topology) => {
                    (lost, pause) = (None, BACKOFF_MIN);
                    // A stream that was made again begins with what is known, mostly.
                    if self.told.as_ref() != Some(&topology) {
                        self.told = Some(topology.clone());
                        return Ok(topology);
                    }
                }
                Err(error) => {
                    self.stream = None;
                    let since = *lost.get_or_insert_with(Instant::now);
                    let passes = matches!(error, CallError::Unavailable(_) | CallError::Unknown(_));
                    if !passes || since.elapsed() + pause >= self.sidecar.patience {
                        return Err(error);
                    }
                    sleep(jittered(pause)).await;
                    pause = (pause * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    async fn message(&mut self) -> Result<Topology, CallError> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => self.stream.insert(self.sidecar.watch().await?),
        };
        match stream.message().await {
            Ok(Some(topology)) => Ok(Topology::from_proto(topology)),
            Ok(None) => Err(unavailable("the sidecar has ended the stream")),
            Err(status) => Err(CallError::from_grpc(&status)),
        }
    }
}

impl Sidecar {
    async fn watch(&self) -> Result<Streaming<proto::WatchTopologyResponse>, CallError> {
        let channel = self.dialer.channel().await.map_err(|e| unavailable(&e.to_string()))?;
        let mut client =
            SystemServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_DECODE_MAX);
        let request = self.dialer.authorized(proto::WatchTopologyRequest {});
        let answer = client.watch_topology(request).await;
        Ok(answer.map_err(|status| CallError::from_grpc(&status))?.into_inner())
    }
}

pub(crate) fn unavailable(message: &str) -> CallError {
    CallError::Unavailable(Box::new(Rejection {
        code: tonic::Code::Unavailable as i32,
        message: message.to_owned(),
        ..Rejection::default()
    }))
}

// === impl Topology ===

impl Topology {
    /// The node of an incarnation, if it lives.
    #[must_use]
    pub fn node(&self, incarnation: u64) -> Option<&TopologyNode> {
        self.nodes.iter().find(|node| node.incarnation == incarnation)
    }

    fn from_proto(topology: proto::WatchTopologyResponse) -> Self {
        let mut made = Self::default();
        for kind in topology.kinds {
            let owners = kind.owners.into_iter().map(|owner| (owner != 0).then_some(owner));
            // Kinds of a class that this version does not know are nobody's here.
            match kind.kind.split_once('.') {
                Some(("s", name)) => made.services.insert(name.to_owned(), owners.collect()),
                Some(("a", name)) => made.actor_types.insert(name.to_owned(), owners.collect()),
                _ => None,
            };
        }
        made.nodes = topology.nodes.into_iter().map(TopologyNode::from_proto).collect();
        made
    }
}

impl TopologyNode {
    pub(crate) fn from_proto(node: proto::NodeInfo) -> Self {
        Self {
            name: node.name,
            incarnation: node.incarnation,
            services: node.services,
            actor_types: node.actor_types,
            process_id: u32::try_from(node.process_id).unwrap_or_default(),
            is_leaving: node.leaving,
        }
    }
}
