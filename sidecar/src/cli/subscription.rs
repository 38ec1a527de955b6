//! `kar subscription`, `kar get subscriptions`.

use kar_proto::v1::subscription_start::Start;
use kar_proto::v1::target::Kind;
use kar_proto::v1::{
    ActorTarget, ListSubscriptionsRequest, PauseSubscriptionRequest, RedriveSubscriptionRequest,
    ResumeSubscriptionRequest, RetryPolicy, ServiceTarget, SubscribeRequest, Subscription,
    SubscriptionInfo, SubscriptionStart, SubscriptionState, Target, UnsubscribeRequest,
};
use serde_json::{Value, json};

use super::args::{Format, ListArgs, NewSubscription, SubscriptionCommand};
use super::client::with_session;
use super::exit::{Code, Effect, Failure, Outcome};
use super::filter::{self, filter};
use super::get::NOTHING;
use super::listing::{Page, listed};
use super::output::{Table, age};
use super::payload::line;

/// What Ctrl-C means for a change that was sent.
const UNKNOWN: &str = "whether it was done is unknown: `kar get subscriptions` shows it";

/// `kar subscription …`.
pub(crate) async fn subscription(command: SubscriptionCommand) -> Outcome {
    match command {
        SubscriptionCommand::Create(args) => create(*args).await,
        SubscriptionCommand::Delete { reach, name } => {
            with_session(&reach, UNKNOWN, async |session| {
                let request = UnsubscribeRequest { name: name.clone() };
                let answer = session.events().unsubscribe(request).await.map_err(written)?;
                match answer.into_inner().existed {
                    true => line("deleted"),
                    false => {
                        let text = format!("no subscription '{name}'");
                        Err(Failure::new(Code::NotFound, text)
                            .advise("`kar get subscriptions` lists them"))
                    }
                }
            })
            .await
        }
        SubscriptionCommand::Pause { reach, name } => {
            with_session(&reach, UNKNOWN, async |session| {
                let request = PauseSubscriptionRequest { name };
                let answer = session.events().pause_subscription(request).await.map_err(written)?;
                line(if answer.into_inner().changed { "paused" } else { "it was paused" })
            })
            .await
        }
        SubscriptionCommand::Redrive(args) => {
            with_session(&args.reach, "asking again sends nothing twice", async |session| {
                let (name, max_events) = (args.name.clone(), args.limit);
                let request = RedriveSubscriptionRequest { name, max_events };
                let answer = session.events().redrive_subscription(request).await;
                let answer = answer.map_err(written)?.into_inner();
                let (redriven, passed_over) = (answer.redriven, answer.passed_over);
                if args.output == Format::Json {
                    let told =
                        json!({ "redriven": redriven, "passed_over": passed_over, "more": answer.more });
                    return line(&told.to_string());
                }
                let more = if answer.more { "; there are more" } else { "" };
                line(&format!("sent back: {redriven}, passed over: {passed_over}{more}"))
            })
            .await
        }
        SubscriptionCommand::Resume { reach, name } => {
            with_session(&reach, UNKNOWN, async |session| {
                let request = ResumeSubscriptionRequest { name };
                let answer =
                    session.events().resume_subscription(request).await.map_err(written)?;
                line(if answer.into_inner().changed { "resumed" } else { "it was not paused" })
            })
            .await
        }
    }
}

async fn create(args: NewSubscription) -> Outcome {
    let (reach, format) = (args.reach.clone(), args.output);
    let subscription = Some(wanted(args)?);
    with_session(&reach, UNKNOWN, async |session| {
        let request = SubscribeRequest { subscription };
        let answer = session.events().subscribe(request).await.map_err(written)?.into_inner();
        match format {
            Format::Json => line(&json!({ "created": answer.created }).to_string()),
            Format::Table if answer.created => line("created"),
            Format::Table => line("it was there, with the same settings"),
        }
    })
    .await
}

/// The subscription that the command line describes.
fn wanted(args: NewSubscription) -> Outcome<Subscription> {
    let kind = match (args.service, args.actor) {
        (Some(name), _) => Kind::Service(ServiceTarget { name, affinity_key: String::new() }),
        // The command line insists on one of both.
        (None, actor) => Kind::Actor(ActorTarget {
            r#type: actor.unwrap_or_default(),
            id: args.id.unwrap_or_default(),
        }),
    };
    let start = match &*args.from {
        "earliest" => Start::Earliest(true),
        "latest" => Start::Latest(true),
        text => {
            let time = text.parse::<prost_types::Timestamp>();
            Start::Time(time.map_err(|_| {
                Failure::usage(format!("--from: '{text}' is no place to begin"))
                    .advise("earliest, latest, or a time such as 2030-01-31T09:30:00Z")
            })?)
        }
    };
    Ok(Subscription {
        name: args.name,
        topic: args.topic,
        target: Some(Target { kind: Some(kind) }),
        method: args.method,
        instance_attribute: args.id_from.unwrap_or_default(),
        affinity_attribute: args.affinity_from.unwrap_or_default(),
        filter: filter(&args.filter),
        start: Some(SubscriptionStart { start: Some(start) }),
        in_flight: args.in_flight.unwrap_or(0),
        retry_policy: args
            .attempts
            .map(|max_attempts| RetryPolicy { max_attempts, ..RetryPolicy::default() }),
        dead_letter_topic: args.dead_letter_topic.unwrap_or_default(),
    })
}

/// `kar get subscriptions`.
pub(crate) async fn subscriptions(args: ListArgs) -> Outcome {
    with_session(&args.reach, NOTHING, async |session| {
        let headings =
            &["SUBSCRIPTION", "TOPIC", "TARGET", "METHOD", "STATE", "LAG", "IN FLIGHT", "AGE"];
        let show = |info: SubscriptionInfo| (row(&info), to_json(&info));
        listed(&args, Table::new(headings), show, async |page_size, page_token| {
            let request = ListSubscriptionsRequest { name: String::new(), page_size, page_token };
            let page = session.events().list_subscriptions(request).await?.into_inner();
            let (rows, next_page_token) = (page.subscriptions, page.next_page_token);
            Ok(Page { rows, left_out: None, next_page_token })
        })
        .await
    })
    .await
}

fn state(info: &SubscriptionInfo) -> &'static str {
    match info.state() {
        SubscriptionState::Active => "active",
        SubscriptionState::Paused => "paused",
        SubscriptionState::TopicDeleted => "topic deleted",
        SubscriptionState::Blocked => "blocked",
        SubscriptionState::Unspecified => "unknown",
    }
}

fn row(info: &SubscriptionInfo) -> Vec<String> {
    let settings = info.subscription.clone().unwrap_or_default();
    let target = match settings.target.and_then(|target| target.kind) {
        Some(Kind::Service(service)) => service.name,
        Some(Kind::Actor(actor)) if actor.id.is_empty() => {
            format!("{}/<{}>", actor.r#type, settings.instance_attribute)
        }
        Some(Kind::Actor(actor)) => format!("{}/{}", actor.r#type, actor.id),
        None => "-".to_owned(),
    };
    let in_flight: i64 = info.partitions.iter().map(|partition| partition.in_flight).sum();
    vec![
        settings.name,
        settings.topic,
        target,
        settings.method,
        state(info).to_owned(),
        info.lag.to_string(),
        in_flight.to_string(),
        age(info.create_time.as_ref()),
    ]
}

fn to_json(info: &SubscriptionInfo) -> Value {
    let settings = info.subscription.clone().unwrap_or_default();
    let target = match settings.target.and_then(|target| target.kind) {
        Some(Kind::Service(service)) => json!({ "service": service.name }),
        Some(Kind::Actor(actor)) => json!({ "type": actor.r#type, "id": actor.id }),
        None => Value::Null,
    };
    let start = match settings.start.and_then(|start| start.start) {
        Some(Start::Earliest(_)) => "earliest".to_owned(),
        Some(Start::Latest(_)) => "latest".to_owned(),
        Some(Start::Time(time)) => time.to_string(),
        None => String::new(),
    };
    let partitions = info.partitions.iter().map(|partition| {
        json!({
            "floor": partition.floor, "lag": partition.lag, "in_flight": partition.in_flight,
            "skipped": partition.skipped, "unreadable": partition.unreadable,
        })
    });
    json!({
        "name": settings.name,
        "topic": settings.topic,
        "topic_id": info.topic_id,
        "target": target,
        "instance_attribute": settings.instance_attribute,
        "affinity_attribute": settings.affinity_attribute,
        "method": settings.method,
        "filter": settings.filter.as_ref().map(filter::to_json),
        "start": start,
        "in_flight_max": settings.in_flight,
        "max_attempts": settings.retry_policy.map(|policy| policy.max_attempts),
        "dead_letter_topic": settings.dead_letter_topic,
        "state": state(info),
        "lag": info.lag,
        "create_time": info.create_time.map(|time| time.to_string()),
        "partitions": partitions.collect::<Vec<_>>(),
    })
}

fn written(status: tonic::Status) -> Failure {
    Failure::from_status(&status, Effect::Writes)
}
