//! What needs both topics and the core: publishing in a turn, where the topic has to be looked up first, and
//! subscriptions.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::try_join_all;
use kar_core::effect::{RequestError, Response};
use kar_core::event::{Operation, SubscriptionsOf};
use kar_core::ids::{Kind, RequestId};
use kar_core::subscription::{
    SubscriptionChange, SubscriptionSpec, SubscriptionStart, SubscriptionView, TopicRef,
};
use kar_proto::v1 as pb;
use pb::ErrorReason;
use pb::response::Result as Reply;
use tokio::sync::oneshot;
use tonic::Status;

use super::api::{Api, Done, Open};
use super::listing::page;
use crate::bus::{BusError, TopicView};
use crate::convert::api::{
    SubscriptionOperation, TurnEvents, Wanted, bus_error, refused, subscription_to,
};
use crate::convert::error::{request_error, status};
use crate::driver::Batch;
use crate::driver::outlets::Answer;
use crate::events::TurnEvent;

/// Times that the topics of a turn's events are looked up, should they be deleted and created anew meanwhile.
const LOOK_UPS_MAX: usize = 3;

/// Events of a turn, complete.
struct Publishing {
    asked: TurnEvents,
    events: Vec<TurnEvent>,
}

// === impl Api ===

impl Api {
    /// Publishes events with a turn: within the batch if their topics are known.
    pub(super) fn publish_in_turn(
        &self,
        batch: &mut Batch<'_>,
        asked: TurnEvents,
        open: Open,
        done: Done,
    ) -> Option<RequestId> {
        let events = match self.events.completed(&asked.publications, batch.now()) {
            Ok(events) => events,
            Err(status) => {
                drop(open);
                done(Err(status));
                return None;
            }
        };
        let publishing = Publishing { asked, events };
        let Some(operation) = self.placed(&publishing) else {
            self.publish_when_known(publishing, open, done);
            return None;
        };
        let api = self.clone();
        let responder = move |answer: Answer| match answer {
            // It was another topic than there is now under the name, perhaps.
            Err(RequestError::TopicGone(_)) => api.publish_when_known(publishing, open, done),
            answer => {
                drop(open);
                done(publishing.answer(answer));
            }
        };
        Some(batch.request(operation, Box::new(responder)))
    }

    fn placed(&self, publishing: &Publishing) -> Option<Operation> {
        let events = self.events.placed(&publishing.events)?;
        Some(Operation::Publish { turn: publishing.asked.turn.clone(), events })
    }

    /// The same in a task, after the topics were looked up.
    fn publish_when_known(&self, publishing: Publishing, open: Open, done: Done) {
        let api = self.clone();
        tokio::spawn(async move {
            let answer = api.look_up_and_publish(&publishing).await;
            drop(open);
            done(answer);
        });
    }

    async fn look_up_and_publish(&self, publishing: &Publishing) -> Result<Reply, Status> {
        for _ in 0..LOOK_UPS_MAX {
            self.events.look_up(&publishing.events).await?;
            let Some(operation) = self.placed(publishing) else { continue };
            match self.asked(operation).await {
                Err(RequestError::TopicGone(_)) => {}
                answer => return publishing.answer(answer),
            }
        }
        let topics = publishing.events.iter().map(TurnEvent::topic).collect::<Vec<_>>().join(", ");
        let message = format!("topics {topics} are deleted and created all the time: try again");
        Err(status(ErrorReason::UnknownTopic, message, [("topic", topics)]))
    }

    /// Asks the core and waits.
    pub(super) async fn asked(&self, operation: Operation) -> Answer {
        let (sender, receiver) = oneshot::channel();
        // If nobody waits any more the answer is dropped.
        self.driver.batch().request(operation, Box::new(move |answer| drop(sender.send(answer))));
        let ended = RequestError::Unknown("the sidecar ended while it was under way");
        receiver.await.unwrap_or(Err(ended))
    }

    /// Carries out a request about subscriptions.
    ///
    /// # Errors
    ///
    /// The status that says why it was not carried out.
    pub(super) async fn subscriptions(
        &self,
        operation: SubscriptionOperation,
    ) -> Result<Reply, Status> {
        match operation {
            SubscriptionOperation::Subscribe(wanted) => self.subscribe(*wanted).await,
            SubscriptionOperation::Change { name, change } => {
                let operation = Operation::ChangeSubscription { name, change };
                let changed = match self.asked(operation).await {
                    Ok(Response::SubscriptionChanged { changed }) => changed,
                    other => return Err(unfit(other)),
                };
                Ok(match change {
                    SubscriptionChange::Unsubscribe => {
                        Reply::Unsubscribe(pb::UnsubscribeResponse { existed: changed })
                    }
                    SubscriptionChange::Pause => {
                        Reply::PauseSubscription(pb::PauseSubscriptionResponse { changed })
                    }
                    SubscriptionChange::Resume => {
                        Reply::ResumeSubscription(pb::ResumeSubscriptionResponse { changed })
                    }
                })
            }
            SubscriptionOperation::Redrive { name, max } => self.redrive(name, max).await,
            SubscriptionOperation::List { name, page_size, after } => {
                let of = name.map(SubscriptionsOf::Name);
                self.list_subscriptions(of, page_size, &after).await
            }
        }
    }

    async fn subscribe(&self, wanted: Wanted) -> Result<Reply, Status> {
        self.hosted.check(&wanted.target.kind(), &wanted.method)?;
        let view = self.events.view(&wanted.topic).await?;
        let dead_letter = match &wanted.dead_letter {
            Some(topic) => Some(reference(&self.events.view(topic).await?)),
            None => None,
        };
        let offsets = self.begin(&wanted, &view).await?;
        let spec = Arc::new(SubscriptionSpec {
            name: wanted.name,
            topic: reference(&view),
            target: wanted.target,
            method: wanted.method,
            filter: wanted.filter,
            start: wanted.start,
            offsets,
            in_flight: wanted.in_flight,
            retry: wanted.retry,
            dead_letter,
        });
        match self.asked(Operation::Subscribe { spec: Arc::clone(&spec) }).await {
            Ok(Response::Subscribed { created, .. }) => {
                Ok(Reply::Subscribe(pb::SubscribeResponse { created }))
            }
            Err(error @ RequestError::SubscriptionDiffers(_)) => {
                Err(self.differs(&spec).await.unwrap_or_else(|| request_error(&error)))
            }
            other => Err(unfit(other)),
        }
    }

    /// In which setting there is another subscription of the name; `None`: it cannot be told, or is over by now.
    async fn differs(&self, wanted: &SubscriptionSpec) -> Option<Status> {
        let of = SubscriptionsOf::Name(wanted.name.clone());
        let Ok(Response::Subscriptions(found)) = self.asked(Operation::Subscriptions { of }).await
        else {
            return None;
        };
        let setting = found.first()?.subscription.spec.difference(wanted)?;
        let name = &wanted.name;
        let message = format!(
            "there is a subscription '{name}' with another {setting}: choose another name, or unsubscribe it first"
        );
        let metadata = [("subscription", name.to_string()), ("setting", setting.to_owned())];
        Some(status(ErrorReason::SubscriptionExists, message, metadata))
    }

    /// The first offset of each partition.
    async fn begin(&self, wanted: &Wanted, view: &TopicView) -> Result<Vec<u64>, Status> {
        let SubscriptionStart::Time(time) = wanted.start else {
            let earliest = wanted.start == SubscriptionStart::Earliest;
            let first = |p: &crate::bus::TopicPartition| if earliest { p.start } else { p.end };
            return Ok(view.partitions.iter().map(first).collect());
        };
        let mut begin = Vec::with_capacity(view.partitions.len());
        for partition in 0..view.topic.settings.partitions {
            let sought = self.events.bus().seek(view.topic.id.clone(), partition, time).await;
            begin.push(sought.map_err(|error| bus_error(&error, &wanted.topic, ""))?);
        }
        Ok(begin)
    }

    async fn list_subscriptions(
        &self,
        of: Option<SubscriptionsOf>,
        page_size: usize,
        after: &str,
    ) -> Result<Reply, Status> {
        let all: Vec<_> = match of {
            Some(one) => vec![one],
            None => {
                let kinds = self.driver.kinds();
                let subscriptions = Kind::subscriptions();
                let count = kinds.iter().find(|(kind, _)| *kind == subscriptions);
                let count = count.map_or(0, |(_, count)| *count);
                (0..count).map(SubscriptionsOf::Partition).collect()
            }
        };
        let asked = all.into_iter().map(|of| async move {
            match self.asked(Operation::Subscriptions { of }).await {
                Ok(Response::Subscriptions(found)) => Ok(found),
                other => Err(unfit(other)),
            }
        });
        let mut found: Vec<_> = try_join_all(asked).await?.into_iter().flatten().collect();
        let name = |view: &SubscriptionView| view.subscription.spec.name.clone();
        found.retain(|view| *name(view) > *after || after.is_empty());
        found.sort_by_key(name);
        // So many at most have their topics looked up.
        let more = found.len() > page_size;
        found.truncate(page_size);
        let topics = self.topics_of(&found).await?;
        let rows = found.iter().map(|view| {
            let topic = &view.subscription.spec.topic;
            let now = topics.get(&*topic.name).and_then(Option::as_ref);
            subscription_to(view, now.filter(|now| now.topic.id == topic.id))
        });
        let key = |row: &pb::SubscriptionInfo| {
            row.subscription.as_ref().map(|s| s.name.clone()).unwrap_or_default()
        };
        let (subscriptions, mut next_page_token) = page(rows.collect(), page_size, "", key);
        if next_page_token.is_empty() && more {
            next_page_token = subscriptions.last().map(key).unwrap_or_default();
        }
        Ok(Reply::ListSubscriptions(pb::ListSubscriptionsResponse {
            subscriptions,
            next_page_token,
        }))
    }

    /// The topics of subscriptions by name, as they are now; `None`: there is none any more.
    async fn topics_of(
        &self,
        found: &[SubscriptionView],
    ) -> Result<BTreeMap<String, Option<TopicView>>, Status> {
        let mut topics = BTreeMap::new();
        for view in found {
            let name = view.subscription.spec.topic.name.to_string();
            if topics.contains_key(&name) {
                continue;
            }
            let now = match self.events.bus().topic(name.clone()).await {
                Ok(now) => Some(now),
                Err(BusError::UnknownTopic) => None,
                Err(error) => return Err(bus_error(&error, &name, "")),
            };
            topics.insert(name, now);
        }
        Ok(topics)
    }
}

// === impl Publishing ===

impl Publishing {
    fn answer(&self, answer: Answer) -> Result<Reply, Status> {
        match answer {
            Ok(Response::Ok) => {}
            other => return Err(unfit(other)),
        }
        let answer = |event: &TurnEvent| pb::PublishResponse {
            event_id: event.id().to_owned(),
            ..Default::default()
        };
        let mut events: Vec<_> = self.events.iter().map(answer).collect();
        if self.asked.is_batch {
            return Ok(Reply::PublishBatch(pb::PublishBatchResponse { events }));
        }
        let one = events.pop().ok_or_else(|| Status::internal("an event has no answer"))?;
        Ok(Reply::Publish(one))
    }
}

fn reference(view: &TopicView) -> TopicRef {
    TopicRef {
        name: view.topic.settings.name.as_str().into(),
        id: view.topic.id.clone(),
        partitions: view.topic.settings.partitions,
    }
}

/// Why an answer is not what was asked for.
pub(super) fn unfit(answer: Answer) -> Status {
    match answer {
        Err(error) => request_error(&error),
        Ok(Response::Outcome { outcome, .. }) => refused(outcome),
        Ok(other) => {
            tracing::error!(?other, "the core's answer does not fit the request");
            Status::internal("the answer does not fit the request")
        }
    }
}
