//! Refusals that no random run comes near: by bounds of subscriptions, and of schedules that make no sense.

mod script;

use std::sync::Arc;

use kar_core::effect::{RequestError, Response};
use kar_core::event::{Operation, ReminderAsk, ReminderSpec};
use kar_core::ids::Kind;
use kar_core::invocation::{Outcome, Payload, Refusal};
use kar_core::limits::Limits;
use kar_core::reminder::CatchUp;
use kar_core::schedule::{Schedule, ScheduleError};
use kar_core::subscription::{
    Instance, SubscriptionSpec, SubscriptionStart, SubscriptionTarget, TopicRef,
};

use script::Script;

/// More subscriptions than the bounds of these tests have room for, in all partitions.
const MANY: usize = 100;

fn kind() -> Kind {
    Kind::actor("Customer")
}

fn spec(name: String) -> SubscriptionSpec {
    SubscriptionSpec {
        name: name.into(),
        topic: TopicRef { name: "orders".into(), id: "t1".into(), partitions: 1 },
        target: SubscriptionTarget::Actor {
            name: "Customer".into(),
            instance: Instance::Attribute("who".into()),
        },
        method: "add".into(),
        filter: None,
        start: SubscriptionStart::Earliest,
        offsets: vec![1],
        in_flight: 3,
        retry: None,
        dead_letter: None,
    }
}

/// Subscribes under one name after the other; gives how many were taken, and why the next one was not.
fn subscribe_until_refused(limits: Limits) -> (usize, Refusal) {
    let mut script = Script::with(&[kind()], limits);
    for taken in 0..MANY {
        let spec = Arc::new(spec(format!("s{taken}")));
        let request = script.request(Operation::Subscribe { spec });
        match script.answers.remove(&request).expect("it is answered") {
            Ok(Response::Subscribed { created: true, .. }) => {}
            Ok(Response::Outcome { outcome: Outcome::Refused(why), .. }) => return (taken, why),
            other => panic!("{other:?}"),
        }
    }
    panic!("{MANY} were taken");
}

#[test]
fn subscriptions_of_a_partition_are_bounded_in_number() {
    let few = Limits { subscriptions_per_partition_max: 2, ..Limits::default() };
    let (taken, why) = subscribe_until_refused(few);
    assert_eq!(why, Refusal::SubscriptionsFull);
    assert!(taken >= 2, "{taken}");
}

#[test]
fn settings_of_subscriptions_of_a_partition_are_bounded_in_bytes() {
    let few = Limits { subscriptions_bytes_per_partition_max: 800, ..Limits::default() };
    let (taken, why) = subscribe_until_refused(few);
    assert_eq!(why, Refusal::SubscriptionsBytesFull);
    assert!(taken > 0, "one has room");
}

#[test]
fn a_schedule_that_makes_no_sense_is_refused_by_what_is_wrong() {
    let mut script = Script::new(&[kind()]);
    let zone: Arc<str> = "Mars/Olympus".into();
    let cron = |expression: &str, zone: &Arc<str>| Schedule::Cron {
        expression: expression.into(),
        zone: zone.clone(),
    };
    let never: Arc<str> = "0 0 30 2 *".into();
    let table = [
        (Schedule::Once, ScheduleError::NoDue),
        (Schedule::Every(0), ScheduleError::Period),
        (cron(&never, &"".into()), ScheduleError::Never(never.clone())),
        (cron("* * * * *", &zone), ScheduleError::Zone(zone.clone())),
    ];
    for (schedule, error) in table {
        let ask = ReminderAsk::Schedule(ReminderSpec {
            id: "r".into(),
            method: "m".into(),
            payload: Payload::default(),
            due: None,
            schedule,
            catch_up: CatchUp::Once,
        });
        let actor: Arc<str> = "alice".into();
        let request = script.request(Operation::Remind { turn: None, kind: kind(), actor, ask });
        let answer = script.answers.remove(&request);
        assert_eq!(answer, Some(Err(RequestError::Schedule(error))));
    }
}
