//! The component's server: the same services on the Unix socket and on loopback.

use std::sync::Arc;

use kar_proto::FILE_DESCRIPTOR_SET;
use kar_proto::v1::actor_state_service_server::{ActorStateServiceServer, SERVICE_NAME as ACTOR};
use kar_proto::v1::component_service_server::{ComponentServiceServer, SERVICE_NAME as COMPONENT};
use kar_proto::v1::event_service_server::{EventServiceServer, SERVICE_NAME as EVENT};
use kar_proto::v1::invocation_service_server::{
    InvocationServiceServer, SERVICE_NAME as INVOCATION,
};
use kar_proto::v1::reminder_service_server::{ReminderServiceServer, SERVICE_NAME as REMINDER};
use kar_proto::v1::state_service_server::{SERVICE_NAME as STATE, StateServiceServer};
use kar_proto::v1::system_service_server::{SERVICE_NAME as SYSTEM, SystemServiceServer};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::{Router, TcpIncoming};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::layer::util::{Identity, Stack};

use super::api::Api;
use super::auth::BearerToken;
use super::connect::Connect;
use super::events::EventRpcs;
use super::system::System;
use super::typed::TypedErrors;
use super::unary::Unary;
use crate::net::{CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, STREAM_WINDOW_BYTES};

/// RPCs that may be under way on one connection, streams included.
const RPCS_PER_CONNECTION_MAX: u32 = 4_096;

/// Every public service; health and reflection answer for these.
const SERVICES: [&str; 7] = [ACTOR, COMPONENT, EVENT, INVOCATION, REMINDER, STATE, SYSTEM];

/// What every RPC passes through.
type Layers = Stack<TypedErrors, Identity>;

/// What is served.
#[derive(Clone)]
pub struct Services {
    /// Streams.
    pub connect: Connect,
    /// Unary operations.
    pub api: Api,
    /// Topics.
    pub events: EventRpcs,
    /// The sidecar as a whole.
    pub system: System,
    /// Who may.
    pub token: BearerToken,
    /// Longest message that the transport takes, bytes.
    pub message_bytes_max: usize,
}

/// Serves on both sockets until `closing` turns true and every RPC has ended.
///
/// # Errors
///
/// If the descriptors do not fit reflection, or a socket breaks.
pub async fn run(
    services: Services,
    unix: UnixListener,
    tcp: TcpListener,
    connected: watch::Receiver<bool>,
    closing: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("grpc.health.v1.Health");
        SERVICES.iter().fold(builder, |builder, name| builder.with_service_name(*name))
    };
    let errors = TypedErrors { message_bytes_max: services.message_bytes_max };
    let server = || -> Result<Router<Layers>, tonic_reflection::server::Error> {
        let router = public(&mut builder().layer(errors), &services);
        Ok(router
            .add_service(health_service.clone())
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?))
    };
    let on_unix = server()?;
    let on_tcp = server()?;
    let incoming = TcpIncoming::from(tcp).with_nodelay(Some(true));
    tokio::select! {
        result = async {
            tokio::try_join!(
                on_unix.serve_with_incoming_shutdown(
                    kar_unix::incoming(unix),
                    closed(closing.clone()),
                ),
                on_tcp.serve_with_incoming_shutdown(incoming, closed(closing.clone())),
            )
        } => { result?; }
        () = report(health, connected) => {}
    }
    Ok(())
}

fn builder() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(RPCS_PER_CONNECTION_MAX)
}

/// The services that need the token.
fn public(builder: &mut Server<Layers>, services: &Services) -> Router<Layers> {
    let token = &services.token;
    let max = services.message_bytes_max;
    let unary = Arc::new(Unary(services.api.clone()));
    /// A generated server with its limits, behind the token.
    macro_rules! guarded {
        ($server:ident, $service:expr) => {
            InterceptedService::new(
                $server::from_arc($service)
                    .max_decoding_message_size(max)
                    .max_encoding_message_size(usize::MAX),
                token.clone(),
            )
        };
    }
    builder
        .add_service(guarded!(ComponentServiceServer, Arc::new(services.connect.clone())))
        .add_service(guarded!(InvocationServiceServer, unary.clone()))
        .add_service(guarded!(ActorStateServiceServer, unary.clone()))
        .add_service(guarded!(StateServiceServer, unary.clone()))
        .add_service(guarded!(ReminderServiceServer, unary))
        .add_service(guarded!(SystemServiceServer, Arc::new(services.system.clone())))
        .add_service(guarded!(EventServiceServer, Arc::new(services.events.clone())))
}

/// Returns when the flag turns true, or nobody can turn it any more.
pub async fn closed(mut flag: watch::Receiver<bool>) {
    // An error means that the sender is gone: the sidecar was dropped.
    let _ = flag.wait_for(|closing| *closing).await;
}

/// Reports whether the sidecar can do its work: while the hub is away nothing can be made durable.
async fn report(health: HealthReporter, mut connected: watch::Receiver<bool>) {
    loop {
        let is_connected = *connected.borrow_and_update();
        let status = if is_connected { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES.iter().copied().chain([""]) {
            health.set_service_status(service, status).await;
        }
        if connected.changed().await.is_err() {
            // The sidecar ends: the servers end by themselves.
            std::future::pending::<()>().await;
        }
    }
}
