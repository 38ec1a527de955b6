//! Reminders in the words of the contract.

use std::time::{Duration, SystemTime};

use kar_proto::v1::reminder::Recurrence;
use kar_proto::v1::request::Operation;
use kar_proto::v1::response::Result as Answer;
use kar_proto::v1::{
    ActorTarget, CatchUpPolicy, Reminder, ReminderServiceCancelRequest, ReminderServiceListRequest,
    ScheduleRequest,
};
use serde_json::Value;
use tonic::Status;

use crate::Client;
use crate::component::Turn;
use crate::grpc::json;

/// An actor, as reminders name theirs.
pub fn actor(kind: &str, id: &str) -> ActorTarget {
    ActorTarget { r#type: kind.into(), id: id.into() }
}

/// A one-shot that calls `ring` so long from now.
pub fn once(of: &ActorTarget, id: &str, after: Duration, argument: &Value) -> Reminder {
    Reminder {
        id: id.into(),
        actor: Some(of.clone()),
        method: "ring".into(),
        payload: Some(json(argument)),
        due_time: Some((SystemTime::now() + after).into()),
        ..Reminder::default()
    }
}

/// The same again and again, first after one period.
///
/// # Panics
///
/// If the period is longer than protobuf's durations are.
pub fn every(of: &ActorTarget, id: &str, period: Duration, policy: CatchUpPolicy) -> Reminder {
    let period = period.try_into().expect("it is short");
    Reminder {
        id: id.into(),
        actor: Some(of.clone()),
        method: "ring".into(),
        recurrence: Some(Recurrence::Period(period)),
        catch_up_policy: policy.into(),
        ..Reminder::default()
    }
}

/// A reminder `beat` that `Ringer.ring` counts under a key, once for each due time, missed or not.
pub fn beat(of: &ActorTarget, key: &str, period: Duration) -> Reminder {
    let payload = Some(json(&serde_json::json!({ "key": key })));
    Reminder { payload, ..every(of, "beat", period, CatchUpPolicy::Each) }
}

/// A request of a turn, or with an empty token from outside.
pub fn schedule(reminder: Reminder, turn_token: &str) -> ScheduleRequest {
    ScheduleRequest { reminder: Some(reminder), turn_token: turn_token.into() }
}

impl Client {
    /// Schedules a reminder; its first due time.
    ///
    /// # Errors
    ///
    /// If KAR refuses.
    pub async fn schedule(&self, reminder: Reminder) -> Result<SystemTime, Status> {
        let answer = self.reminder().schedule(schedule(reminder, "")).await?.into_inner();
        let due = answer.due_time.ok_or_else(|| Status::internal("no due time"))?;
        SystemTime::try_from(due).map_err(|error| Status::internal(error.to_string()))
    }

    /// Cancels a reminder, or with an empty id all of an actor; how many there were.
    ///
    /// # Errors
    ///
    /// If KAR refuses.
    pub async fn cancel_reminder(&self, of: &ActorTarget, id: &str) -> Result<i32, Status> {
        let request = ReminderServiceCancelRequest {
            actor: Some(of.clone()),
            id: id.into(),
            turn_token: String::new(),
        };
        Ok(self.reminder().cancel(request).await?.into_inner().cancelled)
    }

    /// The reminders of an actor.
    ///
    /// # Errors
    ///
    /// If KAR refuses.
    pub async fn reminders(&self, of: &ActorTarget) -> Result<Vec<Reminder>, Status> {
        let request =
            ReminderServiceListRequest { actor: Some(of.clone()), turn_token: String::new() };
        Ok(self.reminder().list(request).await?.into_inner().reminders)
    }
}

impl Turn {
    /// Its own actor.
    pub fn own(&self) -> ActorTarget {
        let (kind, id) = self.target();
        actor(kind, id)
    }

    /// Schedules a reminder with the turn's segment.
    ///
    /// # Errors
    ///
    /// If KAR refuses.
    pub async fn schedule(&self, reminder: Reminder) -> Result<(), Status> {
        let request = schedule(reminder, &self.token);
        self.handle.request(Operation::ReminderSchedule(request)).await.map(drop)
    }

    /// Cancels a reminder with the turn's segment; how many there were.
    ///
    /// # Errors
    ///
    /// If KAR refuses.
    pub async fn cancel_reminder(&self, id: &str) -> Result<i32, Status> {
        let (actor, turn_token) = (Some(self.own()), self.token.clone());
        let request = ReminderServiceCancelRequest { actor, id: id.into(), turn_token };
        match self.handle.request(Operation::ReminderCancel(request)).await? {
            Answer::ReminderCancel(answer) => Ok(answer.cancelled),
            other => Err(Status::internal(format!("wrong answer: {other:?}"))),
        }
    }

    /// The ids of the actor's reminders, as the turn has made them.
    ///
    /// # Errors
    ///
    /// If KAR refuses.
    pub async fn reminders(&self) -> Result<Vec<String>, Status> {
        let (actor, turn_token) = (Some(self.own()), self.token.clone());
        let request = ReminderServiceListRequest { actor, turn_token };
        match self.handle.request(Operation::ReminderList(request)).await? {
            Answer::ReminderList(answer) => {
                Ok(answer.reminders.into_iter().map(|reminder| reminder.id).collect())
            }
            other => Err(Status::internal(format!("wrong answer: {other:?}"))),
        }
    }
}
