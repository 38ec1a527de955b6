//! What this version does not have yet: every RPC says so by name.

use std::pin::Pin;

use kar_proto::v1 as pb;
use pb::event_service_server::EventService;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::convert::error::not_implemented;

/// `EventService`.
#[derive(Clone, Copy, Debug)]
pub struct Later;

#[tonic::async_trait]
impl EventService for Later {
    type ConsumeStream = Pin<Box<dyn Stream<Item = Result<pb::ConsumeResponse, Status>> + Send>>;

    async fn create_topic(
        &self,
        _: Request<pb::CreateTopicRequest>,
    ) -> Result<Response<pb::CreateTopicResponse>, Status> {
        Err(not_implemented("EventService.CreateTopic"))
    }

    async fn delete_topic(
        &self,
        _: Request<pb::DeleteTopicRequest>,
    ) -> Result<Response<pb::DeleteTopicResponse>, Status> {
        Err(not_implemented("EventService.DeleteTopic"))
    }

    async fn publish(
        &self,
        _: Request<pb::PublishRequest>,
    ) -> Result<Response<pb::PublishResponse>, Status> {
        Err(not_implemented("EventService.Publish"))
    }

    async fn publish_batch(
        &self,
        _: Request<pb::PublishBatchRequest>,
    ) -> Result<Response<pb::PublishBatchResponse>, Status> {
        Err(not_implemented("EventService.PublishBatch"))
    }

    async fn subscribe(
        &self,
        _: Request<pb::SubscribeRequest>,
    ) -> Result<Response<pb::SubscribeResponse>, Status> {
        Err(not_implemented("EventService.Subscribe"))
    }

    async fn unsubscribe(
        &self,
        _: Request<pb::UnsubscribeRequest>,
    ) -> Result<Response<pb::UnsubscribeResponse>, Status> {
        Err(not_implemented("EventService.Unsubscribe"))
    }

    async fn list_subscriptions(
        &self,
        _: Request<pb::ListSubscriptionsRequest>,
    ) -> Result<Response<pb::ListSubscriptionsResponse>, Status> {
        Err(not_implemented("EventService.ListSubscriptions"))
    }

    async fn consume(
        &self,
        _: Request<Streaming<pb::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        Err(not_implemented("EventService.Consume"))
    }
}
