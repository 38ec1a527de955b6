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
use pb::request::Operation as Ask;
use pb::response::Result as Reply;
use pb::system_service_server::SystemService;
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::api::Api;
use super::listing;
use super::topology::Watchers;
use crate::config::{ApplicationName, Bounds};
use crate::convert::error::status;
use crate::driver::Driver;
use crate::driver::outlets::NodeCard;

/// `SystemService` of one node.
#[derive(Clone)]
pub struct System {
    /// Decides.
    pub driver: Arc<Driver>,
    /// The way in.
    pub api: Api,
    /// What does not change while the sidecar runs.
    pub facts: Arc<Facts>,
    /// Set to true when somebody asks the sidecar to end.
    pub ended: watch::Sender<bool>,
    /// Who follows the topology.
    pub watchers: Watchers,
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
        let counted = self.api.events.counted().map(|(name, count)| (name.to_owned(), count));
        Ok(Response::new(pb::GetInfoResponse {
            application: self.facts.application.to_string(),
            node: directory.get(&own).map(node_info),
            sidecar_version: env!("CARGO_PKG_VERSION").to_owned(),
            socket_path: self.facts.socket.display().to_string(),
            grpc_port: self.facts.grpc_port.into(),
            partitions,
            limits: limits(&self.facts.limits, &self.facts.bounds),
            counters: self.driver.counters().into_iter().chain(counted).collect(),
            faults: self.driver.faults(),
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
        let watch = self.watchers.watch(self.driver.clone(), &self.facts.bounds)?;
        let watch: Self::WatchTopologyStream = Box::pin(watch);
        Ok(Response::new(watch))
    }

    async fn remove_actor(
        &self,
        request: Request<pb::RemoveActorRequest>,
    ) -> Result<Response<pb::RemoveActorResponse>, Status> {
        match self.api.ask(Ask::RemoveActor(request.into_inner())).await? {
            Reply::RemoveActor(response) => Ok(Response::new(response)),
            _ => Err(Status::internal("the answer does not fit the request")),
        }
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

pub(super) fn node_info(card: &NodeCard) -> pb::NodeInfo {
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

/// The fields of a struct with their names; all of them, or it does not compile.
macro_rules! named {
    ($from:expr, $type:ident { $($field:ident),* $(,)? }) => {{
        let $type { $($field),* } = $from;
        [$((stringify!($field), i64::try_from(*$field).unwrap_or(i64::MAX))),*]
    }};
}

/// Every bound by its name.
fn limits(core: &Limits, bounds: &Bounds) -> HashMap<String, i64> {
    let core = named! { core, Limits {
        message_bytes_max, queue_per_actor_max, unfinished_per_partition_max,
        unfinished_bytes_per_partition_max, outbox_per_partition_max,
        outbox_bytes_per_partition_max, window_requests_max, window_bytes_max, direct_bytes_max,
        depth_max, roots_per_node_max, segment_bytes_max, segment_sends_max, calls_per_turn_max,
        steps_per_invocation_max, step_bytes_per_invocation_max, speculation_per_actor_max,
        records_in_flight_max, record_bytes_target, results_per_partition_max,
        results_bytes_per_partition_max, result_retention_ms, keys_per_partition_max,
        keys_bytes_per_partition_max, key_retention_ms, dead_letters_per_partition_max,
        dead_letters_bytes_per_partition_max, dead_letter_retention_ms, accept_delay_ms, grace_ms,
        host_return_ms, accept_timeout_ms, append_timeout_ms, channel_timer_ms, settle_delay_ms,
        topic_channels_per_partition_max, publish_window_events_max, publish_window_bytes_max,
        publish_retry_ms, publish_retry_max_ms,
        subscriptions_per_partition_max, subscriptions_bytes_per_partition_max,
        subscription_in_flight_max, subscription_in_flight_bytes_max,
        deliveries_bytes_per_partition_max, deliveries_waiting_max, departed_grace_ms,
        closed_channels_max, drain_timeout_ms, store_batch_bytes,
        unstored_bytes_per_partition_max, state_bytes_per_actor_max, cached_actors_max,
        actor_idle_ms, deactivations_max,
        park_after_attempts, retry_attempts_max, retry_initial_ms, retry_max_ms,
        retry_multiplier_percent, deadlock_probe_ms, deadlock_probes_max, deadlock_fanout_max,
        deadlock_visits_max, deadlock_path_max, state_read_bytes_max,
        state_transaction_changes_max, state_transaction_bytes_max,
        reminders_per_actor_max, reminders_per_partition_max, reminders_bytes_per_partition_max,
        reminder_firings_per_record_max, reminder_lateness_ms,
        snapshot_after_records, snapshot_after_bytes, trim_delay_ms,
        inbox_after_ms, inbox_trim_entries, inbox_trim_bytes,
    } };
    let bounds = named! { bounds, Bounds {
        session_queue_frames_max, session_queue_bytes_max, peer_queue_frames_max,
        peer_queue_bytes_max, frames_per_message_max, request_credits, requests_max, sessions_max,
        topology_watchers_max, publish_batch_events_max, consume_streams_max,
        consume_unacknowledged_max, consume_fetch_bytes,
        transport_message_bytes_max, hello_timeout_ms, start_timeout_ms, backend_timeout_ms,
    } };
    core.into_iter().chain(bounds).map(|(name, value)| (name.to_owned(), value)).collect()
}
