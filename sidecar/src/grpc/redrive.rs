//! Sending events of a dead-letter topic back to the subscription that they were delivered for.
//!
//! The subscription is a consumer of the topic, whose position says what has been sent back. An event is told to the
//! subscription's target as an invocation whose id follows from the event's place: should the position be lost with
//! this sidecar, it is known to the target for as long as it remembers keys (`key-retention-ms`).

use std::sync::Arc;
use std::time::Duration;

use kar_core::effect::{RequestError, Response};
use kar_core::event::{Operation, SubscriptionsOf};
use kar_core::events::origin::DEAD_LETTER_ATTRIBUTES;
use kar_core::events::{CloudEvent, ConsumerPosition, EventOrigin, EventPosition, partition_of};
use kar_core::ids::TopicPartition;
use kar_core::invocation::Payload;
use kar_core::subscription::SubscriptionView;
use kar_proto::v1 as pb;
use pb::ErrorReason;
use pb::response::Result as Reply;
use tonic::Status;

use super::api::Api;
use super::subscriptions::unfit;
use crate::bus::{Fetch, SessionName, TopicView};
use crate::convert::api::{REDRIVE, bus_error, redrive_key};
use crate::convert::error::{invalid_field, not_understood, request_error, status};
use crate::convert::event::{decode_event, encode_event};

/// Bytes of events read at once.
const READ_BYTES: u32 = 256 << 10;
/// Longest name of a consumer, bytes.
const NAME_BYTES_MAX: usize = 128;

/// What is sent back, and from where.
struct Redrive<'a> {
    view: &'a SubscriptionView,
    letters: &'a TopicView,
    max: usize,
    redriven: usize,
    passed_over: usize,
}

// === impl Api ===

impl Api {
    /// Sends events of a subscription's dead-letter topic back to it, those that came first before others.
    ///
    /// # Errors
    ///
    /// The status that says why no more were sent back; those that were stay so.
    pub(super) async fn redrive(&self, name: Arc<str>, max: usize) -> Result<Reply, Status> {
        let view = self.subscription(name).await?;
        let spec = &view.subscription.spec;
        let Some(topic) = &spec.dead_letter else {
            let what = "the subscription has no dead-letter topic: what fails is among the dead letters of its target";
            return Err(invalid_field("name", what));
        };
        let letters = self.events.view(&topic.name).await?;
        if letters.topic.id != topic.id {
            let message = format!("topic '{}' of the dead letters was deleted", topic.name);
            let named = [("topic", topic.name.to_string())];
            return Err(status(ErrorReason::UnknownTopic, message, named));
        }
        let begin = letters.partitions.iter().map(|partition| partition.start).collect();
        let consumer = consumer_name(&spec.name);
        let failed = |error| bus_error(&error, &topic.name, &consumer);
        let bus = self.events.bus();
        let opened = bus.open_consumer(topic.id.clone(), consumer.clone(), begin).await;
        let opened = opened.map_err(failed)?;
        let session = SessionName { consumer: consumer.as_str().into(), session: opened.session };
        let mut redrive =
            Redrive { view: &view, letters: &letters, max, redriven: 0, passed_over: 0 };
        let mut more = false;
        for (partition, position) in (0..).zip(opened.positions) {
            more |=
                self.redrive_partition(&mut redrive, &session, partition, position.floor).await?;
        }
        let counted = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        Ok(Reply::RedriveSubscription(pb::RedriveSubscriptionResponse {
            redriven: counted(redrive.redriven),
            passed_over: counted(redrive.passed_over),
            more,
        }))
    }

    /// The same of one partition, up to what is there now; tells whether there are more than were wanted.
    async fn redrive_partition(
        &self,
        redrive: &mut Redrive<'_>,
        session: &SessionName,
        partition: u32,
        mut next: u64,
    ) -> Result<bool, Status> {
        let (bus, topic) = (self.events.bus(), &redrive.letters.topic);
        let failed = |error| bus_error(&error, &topic.settings.name, &session.consumer);
        let end = redrive.letters.partitions.get(partition as usize).map_or(0, |p| p.end);
        while next < end {
            if redrive.redriven >= redrive.max {
                return Ok(true);
            }
            let fetch = Fetch {
                partition,
                first: next,
                bytes_max: READ_BYTES,
                wait: Duration::ZERO,
                session: Some(session.clone()),
            };
            let fetched = bus.fetch(topic.id.clone(), fetch).await.map_err(failed)?;
            let first = fetched.first.max(next);
            let before = std::mem::replace(&mut next, first);
            let mut sent = Ok(());
            for (_, stored) in fetched.events {
                if next >= end || redrive.redriven >= redrive.max {
                    break;
                }
                sent = self
                    .send_back(redrive, EventPosition { partition, offset: next }, stored)
                    .await;
                if sent.is_err() {
                    break;
                }
                next += 1;
            }
            if next > before {
                let position = ConsumerPosition { floor: next, acknowledged: Vec::new() };
                let positions = vec![(partition, position)];
                let commit = bus.commit_consumer(topic.id.clone(), session.clone(), positions);
                commit.await.map_err(failed)?;
            }
            sent?;
            if next == before {
                // Nothing comes any more: the topic was deleted, say.
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn send_back(
        &self,
        redrive: &mut Redrive<'_>,
        place: EventPosition,
        stored: bytes::Bytes,
    ) -> Result<(), Status> {
        let topic = &redrive.letters.topic.settings.name;
        let event = decode_event(stored).map_err(|e| not_understood(topic, place, &e))?;
        let Some(operation) = redrive.operation(place, event) else {
            redrive.passed_over += 1;
            return Ok(());
        };
        match self.asked(operation).await {
            Ok(Response::Accepted { .. }) => {
                redrive.redriven += 1;
                Ok(())
            }
            other => Err(unfit(other)),
        }
    }

    /// The subscription of a name.
    async fn subscription(&self, name: Arc<str>) -> Result<SubscriptionView, Status> {
        let operation = Operation::Subscriptions { of: SubscriptionsOf::Name(name.clone()) };
        match self.asked(operation).await {
            Ok(Response::Subscriptions(mut found)) => {
                let unknown = || request_error(&RequestError::UnknownSubscription(name));
                found.pop().ok_or_else(unknown)
            }
            other => Err(unfit(other)),
        }
    }
}

// === impl Redrive ===

impl Redrive<'_> {
    /// How an event is told again; `None`: it is another subscription's, or still names no instance.
    fn operation(&self, place: EventPosition, mut event: CloudEvent) -> Option<Operation> {
        let spec = &self.view.subscription.spec;
        let [_, _, subscription, _, position] = DEAD_LETTER_ATTRIBUTES;
        if event.attribute(subscription).as_deref() != Some(&*spec.name) {
            return None;
        }
        // Where it was first; that of the dead letter if somebody else has written it.
        let first = event.attribute(position).and_then(|text| text.parse().ok()).unwrap_or(place);
        for attribute in DEAD_LETTER_ATTRIBUTES {
            event.attributes.remove(attribute);
        }
        let target = spec.target_of(&event).ok()?;
        let dead_letter = spec.dead_letter.as_ref().map(|topic| {
            let key = event.partition_key().map_or(event.id.as_bytes(), str::as_bytes);
            TopicPartition { id: topic.id.clone(), partition: partition_of(key, topic.partitions) }
        });
        let EventPosition { partition, offset } = first;
        let origin = EventOrigin {
            subscription: spec.name.clone(),
            topic: spec.topic.name.clone(),
            place: TopicPartition { id: spec.topic.id.clone(), partition },
            offset,
            dead_letter,
            event: None,
        };
        Some(Operation::Deliver {
            target,
            method: spec.method.clone(),
            payload: Payload { data: encode_event(&event), content_type: Arc::default() },
            deadline: None,
            retry: spec.retry,
            origin: origin.into(),
            key: Some(redrive_key(&self.letters.topic.id, &place)),
        })
    }
}

/// The subscription as a consumer of its dead letters: no other consumer can have this name.
fn consumer_name(subscription: &str) -> String {
    let name = format!("{REDRIVE}{subscription}");
    if name.len() <= NAME_BYTES_MAX {
        return name;
    }
    format!(
        "{REDRIVE}{}",
        redrive_key(subscription, &EventPosition { partition: 0, offset: 0 }).uuid
    )
}
