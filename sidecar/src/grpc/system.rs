//! `SystemService`: the sidecar and its application as a whole.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kar_core::ids::Class;
use kar_core::limits::Limits;
use kar_proto::v1 as pb;
use pb::ErrorReason;
use pb::system_service_server::SystemService;
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::listing;
use crate::config::{ApplicationName, Bounds};
use crate::convert::error::{not_implemented, status};
use crate::driver::Driver;
use crate::driver::outlets::NodeCard;

/// `SystemService` of one node.
#[derive(Clone)]
pub struct System {
    /// Decides.
    pub driver: Arc<Driver>,
    /// What does not change while the sidecar runs.
    pub facts: Arc<Facts>,
    /// Set to true when somebody asks the sidecar to end.
    pub ended: watch::Sender<bool>,
}

/// What does not change while the sidecar runs.
#[derive(Debug)]
pub struct Facts {
    /// Application.
    pub application: ApplicationName,
    /// Path of the component's Unix socket.
    pub socket: PathBuf,
    /// The component's TCP port.
    pub grpc_port: u16,
    /// How long a hand-over may take.
    pub drain_timeout: Duration,
    /// Bounds of the core.
    pub limits: Limits,
    /// Bounds of the connections.
    pub bounds: Bounds,
}

#[tonic::async_trait]
impl SystemService for System {
    type WatchTopologyStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchTopologyResponse, Status>> + Send>>;

    async fn get_info(
        &self,
        _: Request<pb::GetInfoRequest>,
    ) -> Result<Response<pb::GetInfoResponse>, Status> {
        let own = self.driver.incarnation().unwrap_or_default();
        let directory = self.driver.directory();
        let mut partitions: Vec<_> =
            self.driver.partitions().iter().map(|view| view.id.to_string()).collect();
        partitions.sort();
        Ok(Response::new(pb::GetInfoResponse {
            application: self.facts.application.to_string(),
            node: directory.get(&own).map(node_info),
            sidecar_version: env!("CARGO_PKG_VERSION").to_owned(),
            socket_path: self.facts.socket.display().to_string(),
            grpc_port: self.facts.grpc_port.into(),
            partitions,
            limits: limits(&self.facts.limits, &self.facts.bounds),
            counters: self.driver.counters().into_iter().collect(),
        }))
    }

    async fn list_nodes(
        &self,
        _: Request<pb::ListNodesRequest>,
    ) -> Result<Response<pb::ListNodesResponse>, Status> {
        let nodes = self.driver.directory().values().map(node_info).collect();
        Ok(Response::new(pb::ListNodesResponse { nodes }))
    }

    async fn list_actors(
        &self,
        request: Request<pb::ListActorsRequest>,
    ) -> Result<Response<pb::ListActorsResponse>, Status> {
        listing::actors(&self.driver, request.into_inner()).await.map(Response::new)
    }

    async fn watch_topology(
        &self,
        _: Request<pb::WatchTopologyRequest>,
    ) -> Result<Response<Self::WatchTopologyStream>, Status> {
        Err(not_implemented("SystemService.WatchTopology"))
    }

    async fn remove_actor(
        &self,
        _: Request<pb::RemoveActorRequest>,
    ) -> Result<Response<pb::RemoveActorResponse>, Status> {
        Err(not_implemented("SystemService.RemoveActor"))
    }

    async fn drain(
        &self,
        _: Request<pb::DrainRequest>,
    ) -> Result<Response<pb::DrainResponse>, Status> {
        let timeout = self.facts.drain_timeout;
        match tokio::time::timeout(timeout, self.driver.drain()).await {
            Ok(()) => Ok(Response::new(pb::DrainResponse {})),
            Err(_) => {
                let what = format!("partitions are still owned after {timeout:?}; ask again");
                Err(status(ErrorReason::Draining, what, []))
            }
        }
    }

    async fn shutdown(
        &self,
        _: Request<pb::ShutdownRequest>,
    ) -> Result<Response<pb::ShutdownResponse>, Status> {
        self.ended.send_replace(true);
        Ok(Response::new(pb::ShutdownResponse {}))
    }
}

fn node_info(card: &NodeCard) -> pb::NodeInfo {
    let of_class = |class: Class| {
        let kinds = card.kinds.iter().filter(move |kind| kind.class == class);
        kinds.map(|kind| kind.name.to_string()).collect()
    };
    pb::NodeInfo {
        name: card.name.clone(),
        incarnation: card.id.0,
        services: of_class(Class::Service),
        actor_types: of_class(Class::Actor),
        address: card.address.clone(),
        process_id: i32::try_from(card.process_id).unwrap_or_default(),
        leaving: card.leaving,
    }
}

/// Every bound by its name.
fn limits(core: &Limits, bounds: &Bounds) -> HashMap<String, i64> {
    [
        ("message_bytes_max", core.message_bytes_max as u64),
        ("queue_per_actor_max", core.queue_per_actor_max as u64),
        ("unfinished_per_partition_max", core.unfinished_per_partition_max as u64),
        ("unfinished_bytes_per_partition_max", core.unfinished_bytes_per_partition_max as u64),
        ("outbox_per_partition_max", core.outbox_per_partition_max as u64),
        ("outbox_bytes_per_partition_max", core.outbox_bytes_per_partition_max as u64),
        ("window_requests_max", core.window_requests_max as u64),
        ("window_bytes_max", core.window_bytes_max as u64),
        ("direct_bytes_max", core.direct_bytes_max as u64),
        ("results_bytes_per_partition_max", core.results_bytes_per_partition_max as u64),
        ("depth_max", core.depth_max as u64),
        ("roots_per_node_max", core.roots_per_node_max as u64),
        ("segment_bytes_max", core.segment_bytes_max as u64),
        ("segment_sends_max", core.segment_sends_max as u64),
        ("calls_per_turn_max", core.calls_per_turn_max as u64),
        ("steps_per_invocation_max", core.steps_per_invocation_max as u64),
        ("step_bytes_per_invocation_max", core.step_bytes_per_invocation_max as u64),
        ("closed_channels_max", core.closed_channels_max as u64),
        ("speculation_per_actor_max", core.speculation_per_actor_max.into()),
        ("records_in_flight_max", core.records_in_flight_max as u64),
        ("record_bytes_target", core.record_bytes_target as u64),
        ("results_per_partition_max", core.results_per_partition_max as u64),
        ("result_retention_ms", core.result_retention_ms),
        ("accept_delay_ms", core.accept_delay_ms),
        ("grace_ms", core.grace_ms),
        ("append_timeout_ms", core.append_timeout_ms),
        ("channel_timer_ms", core.channel_timer_ms),
        ("settle_delay_ms", core.settle_delay_ms),
        ("departed_grace_ms", core.departed_grace_ms),
        ("drain_timeout_ms", core.drain_timeout_ms),
        ("store_batch_bytes", core.store_batch_bytes as u64),
        ("unstored_bytes_per_partition_max", core.unstored_bytes_per_partition_max as u64),
        ("state_bytes_per_actor_max", core.state_bytes_per_actor_max as u64),
        ("cached_actors_max", core.cached_actors_max as u64),
        ("state_read_bytes_max", core.state_read_bytes_max as u64),
        ("reminders_per_actor_max", core.reminders_per_actor_max as u64),
        ("reminders_per_partition_max", core.reminders_per_partition_max as u64),
        ("reminders_bytes_per_partition_max", core.reminders_bytes_per_partition_max as u64),
        ("reminder_firings_per_record_max", core.reminder_firings_per_record_max as u64),
        ("reminder_lateness_ms", core.reminder_lateness_ms),
        ("host_return_ms", core.host_return_ms),
        ("accept_timeout_ms", core.accept_timeout_ms),
        ("session_queue_frames_max", bounds.session_queue_frames_max as u64),
        ("session_queue_bytes_max", bounds.session_queue_bytes_max as u64),
        ("peer_queue_frames_max", bounds.peer_queue_frames_max as u64),
        ("peer_queue_bytes_max", bounds.peer_queue_bytes_max as u64),
        ("frames_per_message_max", bounds.frames_per_message_max as u64),
        ("request_credits", bounds.request_credits.into()),
        ("requests_max", bounds.requests_max as u64),
        ("sessions_max", bounds.sessions_max as u64),
        ("transport_message_bytes_max", bounds.transport_message_bytes_max as u64),
        ("hello_timeout_ms", bounds.hello_timeout_ms),
        ("start_timeout_ms", bounds.start_timeout_ms),
        ("backend_timeout_ms", bounds.backend_timeout_ms),
    ]
    .map(|(name, value)| (name.to_owned(), i64::try_from(value).unwrap_or(i64::MAX)))
    .into()
}
