//! Topics: creating them, publishing, and a consumer's stream in the words of the contract.

use std::time::Duration;

use kar_proto::v1::request::Operation;
use kar_proto::v1::response::Result as Answer;
use kar_proto::v1::{
    ApplicationError, ConsumeOpened, ConsumeRequest, ConsumeResponse, CreateTopicRequest,
    DescribeTopicRequest, Event, ListSubscriptionsRequest, PublishBatchRequest, PublishRequest,
    SubscribeRequest, Subscription, SubscriptionInfo, Topic, TopicDescription, turn_outcome,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::component::{Turn, actor, error, service};
use crate::errors::reason;
use crate::grpc::{json, value};
use crate::{Client, wait};

/// Nothing in a test takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages of a consumer on their way.
const REQUESTS_MAX: usize = 10_000;

/// One consumer's stream.
#[derive(Debug)]
pub struct TestConsumer {
    /// Where it began.
    pub opened: ConsumeOpened,
    requests: mpsc::Sender<ConsumeRequest>,
    answers: Streaming<ConsumeResponse>,
}

/// A request to publish a JSON value.
pub fn publication(topic: &str, key: &str, data: &serde_json::Value) -> PublishRequest {
    PublishRequest {
        topic: topic.into(),
        event: Some(Event { data: Some(json(data)), ..Event::default() }),
        partition_key: key.into(),
        ..PublishRequest::default()
    }
}

/// A subscription of a topic to a method of the instances of a type that the events name in an attribute.
pub fn to_actors(name: &str, topic: &str, of: (&str, &str), method: &str) -> Subscription {
    Subscription {
        name: name.into(),
        topic: topic.into(),
        target: Some(actor(of.0, "")),
        instance_attribute: of.1.into(),
        method: method.into(),
        ..Subscription::default()
    }
}

/// A subscription of a topic to a method of a service.
pub fn to_service(name: &str, topic: &str, to: &str, method: &str) -> Subscription {
    Subscription {
        name: name.into(),
        topic: topic.into(),
        target: Some(service(to)),
        method: method.into(),
        ..Subscription::default()
    }
}

/// The first message of a consumer with a name (empty: none) that begins with the earliest event and wants to know
/// what of its acknowledgements is durable.
pub fn consume(topic: &str, consumer: &str) -> ConsumeRequest {
    let (topic, consumer) = (topic.into(), consumer.into());
    ConsumeRequest { topic, consumer, confirm: true, ..ConsumeRequest::default() }
}

/// What a publisher knows now; `None`: its starved sidecar heard nothing of the hub for `backend-timeout-ms`.
fn was_told(answer: Result<(), Status>) -> Option<Result<(), Status>> {
    let Err(status) = answer else { return Some(Ok(())) };
    let again = ["BACKEND_UNAVAILABLE", "OUTCOME_UNKNOWN"].contains(&reason(&status).as_str());
    let again = again && status.message().contains("no answer");
    (!again).then_some(Err(status))
}

// === impl Client ===

impl Client {
    /// Creates a topic that keeps everything.
    ///
    /// # Errors
    ///
    /// The sidecar's.
    pub async fn create_topic(&self, name: &str, partitions: i32) -> Result<Topic, Status> {
        let (topic, keep_forever) = (name.into(), true);
        let request =
            CreateTopicRequest { topic, partitions, keep_forever, ..CreateTopicRequest::default() };
        let answer = self.event().create_topic(request).await?.into_inner();
        Ok(answer.topic.unwrap_or_default())
    }

    /// Creates a topic that lets events go after a time.
    ///
    /// # Errors
    ///
    /// The sidecar's.
    pub async fn create_topic_for(
        &self,
        name: &str,
        partitions: i32,
        retention: Duration,
    ) -> Result<Topic, Status> {
        let request = CreateTopicRequest {
            topic: name.into(),
            partitions,
            retention_time: retention.try_into().ok(),
            ..CreateTopicRequest::default()
        };
        let answer = self.event().create_topic(request).await?.into_inner();
        Ok(answer.topic.unwrap_or_default())
    }

    /// What there is of a topic.
    ///
    /// # Errors
    ///
    /// The sidecar's.
    pub async fn topic(&self, name: &str) -> Result<TopicDescription, Status> {
        let request = DescribeTopicRequest { topic: name.into() };
        let answer = self.event().describe_topic(request).await?.into_inner();
        Ok(answer.topic.unwrap_or_default())
    }

    /// Publishes; tells where the event is.
    ///
    /// # Errors
    ///
    /// The sidecar's.
    pub async fn publish(&self, request: PublishRequest) -> Result<String, Status> {
        Ok(self.event().publish(request).await?.into_inner().position)
    }

    /// Publishes a batch, again under its request id where it was told nothing: that appends nothing twice. Other
    /// errors are none of a publisher whose own sidecar lives.
    ///
    /// # Errors
    ///
    /// Those.
    ///
    /// # Panics
    ///
    /// If it is not published within `limit`.
    pub async fn publish_batch_until_told(
        &self,
        request: PublishBatchRequest,
        limit: Duration,
    ) -> Result<(), Status> {
        wait::until("events to be published", limit, async || {
            let answer = self.event().publish_batch(request.clone()).await;
            was_told(answer.map(drop))
        })
        .await
    }

    /// The same for one event by itself.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Panics
    ///
    /// As there.
    pub async fn publish_until_told(
        &self,
        request: PublishRequest,
        limit: Duration,
    ) -> Result<(), Status> {
        wait::until("an event to be published", limit, async || {
            was_told(self.publish(request.clone()).await.map(drop))
        })
        .await
    }

    /// Subscribes; whether it is new.
    ///
    /// # Errors
    ///
    /// The sidecar's.
    pub async fn subscribe(&self, subscription: Subscription) -> Result<bool, Status> {
        let request = SubscribeRequest { subscription: Some(subscription) };
        Ok(self.event().subscribe(request).await?.into_inner().created)
    }

    /// The subscriptions of the application.
    ///
    /// # Errors
    ///
    /// The sidecar's.
    pub async fn subscriptions(&self) -> Result<Vec<SubscriptionInfo>, Status> {
        let request = ListSubscriptionsRequest::default();
        Ok(self.event().list_subscriptions(request).await?.into_inner().subscriptions)
    }

    /// Begins to consume.
    ///
    /// # Errors
    ///
    /// The sidecar's.
    pub async fn consume(&self, first: ConsumeRequest) -> Result<TestConsumer, Status> {
        let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
        requests.try_send(first).map_err(|_| Status::internal("a new queue has no room"))?;
        let answer = self.event().consume(ReceiverStream::new(outgoing)).await?;
        let mut answers = answer.into_inner();
        let first = answers.message().await?.and_then(|answer| answer.opened);
        let opened = first.ok_or_else(|| Status::internal("the first answer is another one"))?;
        Ok(TestConsumer { opened, requests, answers })
    }
}

// === impl Turn ===

impl Turn {
    /// Publishes a JSON value with the turn; the event's id.
    ///
    /// # Errors
    ///
    /// The sidecar's.
    pub async fn publish(
        &self,
        topic: &str,
        key: &str,
        data: &serde_json::Value,
    ) -> Result<String, Status> {
        let turn_token = self.token.clone();
        let request = PublishRequest { turn_token, ..publication(topic, key, data) };
        match self.handle.request(Operation::Publish(request)).await? {
            Answer::Publish(answer) => Ok(answer.event_id),
            other => Err(Status::internal(format!("wrong answer: {other:?}"))),
        }
    }

    /// Ends with an error of this code.
    pub async fn fail(self, code: &str) {
        let error = turn_outcome::Result::Error(error(code, "as it was asked for"));
        self.handle.finish(&self.token, error).await;
    }

    /// Ends with an error of this code that another attempt may mend.
    pub async fn fail_for_now(self, code: &str) {
        let error = ApplicationError { retryable: true, ..error(code, "as it was asked for") };
        self.handle.finish(&self.token, turn_outcome::Result::Error(error)).await;
    }
}

// === impl TestConsumer ===

impl TestConsumer {
    /// The next answer.
    ///
    /// # Errors
    ///
    /// What ended the stream.
    ///
    /// # Panics
    ///
    /// If none comes.
    pub async fn answer(&mut self) -> Result<ConsumeResponse, Status> {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await;
        let answer = answer.expect("nothing comes any more")?;
        answer.ok_or_else(|| Status::cancelled("the stream ended without a status"))
    }

    /// The next event: its position and its data.
    ///
    /// # Errors
    ///
    /// What ended the stream.
    pub async fn event(&mut self) -> Result<(String, serde_json::Value), Status> {
        loop {
            let answer = self.answer().await?;
            if let Some(event) = answer.event {
                return Ok((answer.position, value(&event.data.unwrap_or_default())));
            }
        }
    }

    /// The next events, in the order in which they come.
    ///
    /// # Errors
    ///
    /// What ended the stream.
    pub async fn events(
        &mut self,
        count: usize,
    ) -> Result<Vec<(String, serde_json::Value)>, Status> {
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            events.push(self.event().await?);
        }
        Ok(events)
    }

    /// Says something.
    pub async fn say(&self, request: ConsumeRequest) {
        // If the stream is over its end tells more.
        let _ = self.requests.send(request).await;
    }

    /// Acknowledges, without waiting.
    pub async fn acknowledge(&self, positions: &[&str]) {
        let acknowledged = positions.iter().map(|position| (*position).to_owned()).collect();
        self.say(ConsumeRequest { acknowledged, ..ConsumeRequest::default() }).await;
    }

    /// Acknowledges, and waits until all of it is durable; events that come meanwhile are passed over.
    ///
    /// # Errors
    ///
    /// What ended the stream.
    pub async fn acknowledge_durably(&mut self, positions: &[&str]) -> Result<(), Status> {
        self.acknowledge(positions).await;
        let mut open: Vec<_> = positions.to_vec();
        while !open.is_empty() {
            let answer = self.answer().await?;
            open.retain(|position| !answer.acknowledged.iter().any(|told| told == position));
        }
        Ok(())
    }
}
