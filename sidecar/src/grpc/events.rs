//! `EventService`: topics, publishing, subscriptions, consuming.

use std::future::Future;
use std::pin::Pin;

use kar_proto::v1 as pb;
use pb::event_service_server::EventService;
use pb::request::Operation as Ask;
use pb::response::Result as Reply;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::api::Api;
use super::consume::{ConsumeStream, consume};
use super::typed::TypedErrors;
use super::unary::{Unary, twin};

/// `EventService` of one node.
#[derive(Clone)]
pub struct EventRpcs {
    unary: Unary,
    errors: TypedErrors,
    closing: watch::Receiver<bool>,
}

// === impl EventRpcs ===

impl EventRpcs {
    /// The way in; streams end when `closing` turns true.
    pub fn new(api: Api, errors: TypedErrors, closing: watch::Receiver<bool>) -> Self {
        Self { unary: Unary(api), errors, closing }
    }

    async fn ask<T>(
        &self,
        ask: Ask,
        take: impl FnOnce(Reply) -> Option<T>,
    ) -> Result<Response<T>, Status> {
        self.unary.ask(ask, take).await
    }
}

#[tonic::async_trait]
impl EventService for EventRpcs {
    type ConsumeStream = ConsumeStream;

    twin!(create_topic, CreateTopicRequest, CreateTopic -> CreateTopicResponse);
    twin!(delete_topic, DeleteTopicRequest, DeleteTopic -> DeleteTopicResponse);
    twin!(describe_topic, DescribeTopicRequest, DescribeTopic -> DescribeTopicResponse);
    twin!(list_topics, ListTopicsRequest, ListTopics -> ListTopicsResponse);
    twin!(publish, PublishRequest, Publish -> PublishResponse);
    twin!(publish_batch, PublishBatchRequest, PublishBatch -> PublishBatchResponse);
    twin!(subscribe, SubscribeRequest, Subscribe -> SubscribeResponse);
    twin!(unsubscribe, UnsubscribeRequest, Unsubscribe -> UnsubscribeResponse);
    twin!(pause_subscription, PauseSubscriptionRequest, PauseSubscription -> PauseSubscriptionResponse);
    twin!(resume_subscription, ResumeSubscriptionRequest, ResumeSubscription -> ResumeSubscriptionResponse);
    twin!(list_subscriptions, ListSubscriptionsRequest, ListSubscriptions -> ListSubscriptionsResponse);
    twin!(redrive_subscription, RedriveSubscriptionRequest, RedriveSubscription -> RedriveSubscriptionResponse);
    twin!(delete_consumer, DeleteConsumerRequest, DeleteConsumer -> DeleteConsumerResponse);

    async fn consume(
        &self,
        request: Request<Streaming<pb::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let events = self.unary.0.events.clone();
        let closing = self.closing.clone();
        consume(events, self.errors, request.into_inner(), closing).await.map(Response::new)
    }
}
