//! The component's side of a sidecar, over real sockets, on a backend in memory.

#[path = "../memory/mod.rs"]
mod memory;

mod calls;
mod consuming;
mod forget;
mod hosting;
mod limits;
mod refusals;
mod surface;
mod topology;

use kar_proto::v1 as pb;
use memory::bytes;
use tonic::Status;
use tonic_types::StatusExt as _;

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|i| i.reason.clone()).unwrap_or_default()
}

fn invoke(method: &str) -> pb::InvokeRequest {
    pb::InvokeRequest {
        service: "greeter".into(),
        method: method.into(),
        payload: Some(bytes("Alan")),
        ..pb::InvokeRequest::default()
    }
}

fn call_actor(method: &str) -> pb::CallActorRequest {
    let actor = pb::ActorTarget { r#type: "Account".into(), id: "alice".into() };
    pb::CallActorRequest {
        actor: Some(actor),
        method: method.into(),
        payload: Some(bytes("10")),
        ..pb::CallActorRequest::default()
    }
}
