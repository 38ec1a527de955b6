//! The unary twins of the stream's operations.

use std::future::Future;
use std::pin::Pin;

use kar_proto::v1 as pb;
use kar_proto::v1::request::Operation as Ask;
use kar_proto::v1::response::Result as Reply;
use pb::actor_state_service_server::ActorStateService;
use pb::invocation_service_server::InvocationService;
use pb::reminder_service_server::ReminderService;
use pb::state_service_server::StateService;
use tonic::{Request, Response, Status};

use super::api::Api;
use super::listing;

/// `InvocationService`, `ActorStateService`, `ReminderService` and `StateService`.
#[derive(Clone)]
pub struct Unary(pub Api);

impl Unary {
    /// Asks, and takes the answer out of its shape.
    pub(super) async fn ask<T>(
        &self,
        ask: Ask,
        take: impl FnOnce(Reply) -> Option<T>,
    ) -> Result<Response<T>, Status> {
        let reply = take(self.0.ask(ask).await?);
        let reply = reply.ok_or_else(|| Status::internal("the answer does not fit the request"))?;
        Ok(Response::new(reply))
    }
}

/// A unary RPC that asks for an operation of the same shape: what `async fn` becomes under `async_trait`, which does
/// not see inside macros.
macro_rules! twin {
    ($name:ident, $request:ident, $ask:ident -> $response:ident) => {
        fn $name<'a, 'f>(
            &'a self,
            request: Request<pb::$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<pb::$response>, Status>> + Send + 'f>>
        where
            'a: 'f,
            Self: 'f,
        {
            let take = |reply| match reply {
                Reply::$ask(response) => Some(response),
                _ => None,
            };
            Box::pin(self.ask(Ask::$ask(request.into_inner()), take))
        }
    };
}

pub(super) use twin;

#[tonic::async_trait]
impl InvocationService for Unary {
    twin!(invoke, InvokeRequest, Invoke -> InvokeResponse);
    twin!(call_actor, CallActorRequest, CallActor -> CallActorResponse);
    twin!(tell, TellRequest, Tell -> TellResponse);
    twin!(start, StartRequest, Start -> StartResponse);
    twin!(record_step, RecordStepRequest, RecordStep -> RecordStepResponse);
    twin!(r#await, AwaitRequest, AwaitOutcome -> AwaitResponse);

    twin!(cancel, CancelRequest, Cancel -> CancelResponse);
    twin!(resume, ResumeRequest, Resume -> ResumeResponse);
    twin!(redrive_dead_letter, RedriveDeadLetterRequest, RedriveDeadLetter -> RedriveDeadLetterResponse);
    twin!(discard_dead_letter, DiscardDeadLetterRequest, DiscardDeadLetter -> DiscardDeadLetterResponse);

    async fn list_dead_letters(
        &self,
        request: Request<pb::ListDeadLettersRequest>,
    ) -> Result<Response<pb::ListDeadLettersResponse>, Status> {
        listing::dead_letters(&self.0.driver, request.into_inner()).await.map(Response::new)
    }

    async fn get_invocation(
        &self,
        request: Request<pb::GetInvocationRequest>,
    ) -> Result<Response<pb::GetInvocationResponse>, Status> {
        listing::invocation(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn list_invocations(
        &self,
        request: Request<pb::ListInvocationsRequest>,
    ) -> Result<Response<pb::ListInvocationsResponse>, Status> {
        listing::invocations(&self.0.driver, request.into_inner()).await.map(Response::new)
    }
}

#[tonic::async_trait]
impl ActorStateService for Unary {
    twin!(get, ActorStateServiceGetRequest, ActorStateGet -> ActorStateServiceGetResponse);
    twin!(get_all, GetAllRequest, ActorStateGetAll -> GetAllResponse);
    twin!(apply, ApplyRequest, ActorStateApply -> ApplyResponse);
    twin!(contains, ContainsRequest, ActorStateContains -> ContainsResponse);
    twin!(flush, FlushRequest, Flush -> FlushResponse);
    twin!(list_sub_map, ListSubMapRequest, ActorStateListSubMap -> ListSubMapResponse);
    twin!(get_sub_map_size, GetSubMapSizeRequest, ActorStateSubMapSize -> GetSubMapSizeResponse);
}

#[tonic::async_trait]
impl ReminderService for Unary {
    twin!(schedule, ScheduleRequest, ReminderSchedule -> ScheduleResponse);
    twin!(cancel, ReminderServiceCancelRequest, ReminderCancel -> ReminderServiceCancelResponse);
    twin!(list, ReminderServiceListRequest, ReminderList -> ReminderServiceListResponse);
}

#[tonic::async_trait]
impl StateService for Unary {
    twin!(get, StateServiceGetRequest, StateGet -> StateServiceGetResponse);
    twin!(set, SetRequest, StateSet -> SetResponse);
    twin!(delete, DeleteRequest, StateDelete -> DeleteResponse);
    twin!(list, ListRequest, StateList -> ListResponse);
    twin!(transact, TransactRequest, StateTransact -> TransactResponse);
}
