//! The fake sidecar's `kar.v1.SystemService`: who asks is told what a test says.

use std::collections::VecDeque;
use std::pin::Pin;

use kar_proto::v1 as proto;
use kar_proto::v1::system_service_server::SystemService;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status};

use super::Fake;

type Told = Result<proto::WatchTopologyResponse, Status>;

/// Those who follow, and what they are told first.
#[derive(Default)]
pub(crate) struct Watchers {
    open: Vec<mpsc::UnboundedSender<Told>>,
    topology: proto::WatchTopologyResponse,
    /// How many have begun.
    begun: usize,
    /// What whoever begins is refused with.
    refusal: Option<Status>,
}

/// What operators are answered, one after the other, and what they asked for.
#[derive(Default)]
pub(crate) struct Operators {
    pub(crate) actors: VecDeque<Result<proto::ListActorsResponse, Status>>,
    pub(crate) actors_asked: Vec<proto::ListActorsRequest>,
    pub(crate) drains: VecDeque<Result<(), Status>>,
}

impl Fake {
    /// What operators will be answered.
    pub(crate) fn script(&self, write: impl FnOnce(&mut Operators)) {
        write(&mut self.lock().operators);
    }

    /// For which pages of actors they asked, by type, size and token.
    pub(crate) fn actors_asked(&self) -> Vec<(String, i32, String)> {
        let world = self.lock();
        let asked = world.operators.actors_asked.iter();
        asked.map(|a| (a.r#type.clone(), a.page_size, a.page_token.clone())).collect()
    }

    /// The topology is another one now.
    pub(crate) fn tell_topology(&self, topology: proto::WatchTopologyResponse) {
        let mut world = self.lock();
        let watchers = &mut world.watchers;
        watchers.open.retain(|watcher| watcher.send(Ok(topology.clone())).is_ok());
        watchers.topology = topology;
    }

    /// Ends every stream that follows, as a sidecar does that leaves.
    pub(crate) fn end_watches(&self) {
        let open = std::mem::take(&mut self.lock().watchers.open);
        for watcher in open {
            let _ = watcher.send(Err(Status::unavailable("the sidecar leaves")));
        }
    }

    pub(crate) fn refuse_watches(&self, refusal: Option<Status>) {
        self.lock().watchers.refusal = refusal;
    }

    pub(crate) fn watches_begun(&self) -> usize {
        self.lock().watchers.begun
    }
}

#[tonic::async_trait]
impl SystemService for Fake {
    type WatchTopologyStream = Pin<Box<dyn Stream<Item = Told> + Send>>;

    async fn watch_topology(
        &self,
        request: Request<proto::WatchTopologyRequest>,
    ) -> Result<Response<Self::WatchTopologyStream>, Status> {
        self.check_token(&request)?;
        #[allow(clippy::disallowed_methods)] // A test's load is its bound.
        let (watcher, receiver) = mpsc::unbounded_channel();
        let mut world = self.lock();
        let watchers = &mut world.watchers;
        watchers.begun += 1;
        if let Some(refusal) = watchers.refusal.clone() {
            return Err(refusal);
        }
        let _ = watcher.send(Ok(watchers.topology.clone()));
        watchers.open.push(watcher);
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }

    async fn get_info(
        &self,
        _: Request<proto::GetInfoRequest>,
    ) -> Result<Response<proto::GetInfoResponse>, Status> {
        Err(Status::unimplemented("not in tests"))
    }

    async fn list_nodes(
        &self,
        _: Request<proto::ListNodesRequest>,
    ) -> Result<Response<proto::ListNodesResponse>, Status> {
        Err(Status::unimplemented("not in tests"))
    }

    async fn list_actors(
        &self,
        request: Request<proto::ListActorsRequest>,
    ) -> Result<Response<proto::ListActorsResponse>, Status> {
        self.check_token(&request)?;
        let operators = &mut self.lock().operators;
        operators.actors_asked.push(request.into_inner());
        let answer = operators.actors.pop_front();
        answer.unwrap_or_else(|| Err(Status::internal("not scripted"))).map(Response::new)
    }

    async fn remove_actor(
        &self,
        _: Request<proto::RemoveActorRequest>,
    ) -> Result<Response<proto::RemoveActorResponse>, Status> {
        Err(Status::unimplemented("not in tests"))
    }

    async fn drain(
        &self,
        _: Request<proto::DrainRequest>,
    ) -> Result<Response<proto::DrainResponse>, Status> {
        let answer = self.lock().operators.drains.pop_front();
        let answer = answer.unwrap_or_else(|| Err(Status::internal("not scripted")));
        answer.map(|()| Response::new(proto::DrainResponse {}))
    }

    async fn shutdown(
        &self,
        _: Request<proto::ShutdownRequest>,
    ) -> Result<Response<proto::ShutdownResponse>, Status> {
        Err(Status::unimplemented("not in tests"))
    }
}
