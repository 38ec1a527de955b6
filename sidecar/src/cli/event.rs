//! `kar topic`, `kar publish`, `kar get topics`.

use kar_proto::v1::{
    CreateTopicRequest, DeleteConsumerRequest, DeleteTopicRequest, Event, ListTopicsRequest,
    PublishRequest, TopicDescription,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::args::{CreateArgs, Format, ListArgs, PublishArgs, TopicCommand};
use super::client::{of_any_application, with_session};
use super::exit::{Code, Effect, Failure, Outcome};
use super::get::NOTHING;
use super::listing::{Page, listed};
use super::output::{Table, age, exact};
use super::payload::{self, line};

/// What Ctrl-C means for a change that was sent.
const UNKNOWN: &str = "whether it was done is unknown: `kar get topics` shows it";

/// `kar topic …`.
pub(crate) async fn topic(command: TopicCommand) -> Outcome {
    match command {
        TopicCommand::Create(args) => create(*args).await,
        TopicCommand::Delete { reach, topic } => {
            with_session(&of_any_application(&reach), UNKNOWN, async |session| {
                let request = DeleteTopicRequest { topic: topic.clone(), ..Default::default() };
                let answer = session.events().delete_topic(request).await.map_err(written)?;
                match answer.into_inner().existed {
                    true => line("deleted"),
                    false => Err(Failure::new(Code::NotFound, format!("no topic '{topic}'"))
                        .advise("`kar get topics` lists them")),
                }
            })
            .await
        }
        TopicCommand::Forget { reach, topic, consumer } => {
            with_session(&reach, UNKNOWN, async |session| {
                let request =
                    DeleteConsumerRequest { topic: topic.clone(), consumer: consumer.clone() };
                let answer = session.events().delete_consumer(request).await.map_err(written)?;
                match answer.into_inner().existed {
                    true => line("forgotten"),
                    false => {
                        let text = format!("topic '{topic}' has no consumer '{consumer}' here");
                        Err(Failure::new(Code::NotFound, text)
                            .advise("`kar get topics -o json` lists consumers by application"))
                    }
                }
            })
            .await
        }
    }
}

async fn create(args: CreateArgs) -> Outcome {
    let too_long = |_| Failure::usage("--retention: too long");
    let request = CreateTopicRequest {
        topic: args.topic,
        partitions: args.partitions,
        retention_time: args.retention.map(|time| time.try_into().map_err(too_long)).transpose()?,
        retention_bytes: args.retention_bytes.unwrap_or(0),
        keep_forever: args.keep_forever,
    };
    with_session(&of_any_application(&args.reach), UNKNOWN, async |session| {
        let answer = session.events().create_topic(request).await.map_err(written)?.into_inner();
        let topic = answer.topic.unwrap_or_default();
        match args.output {
            Format::Json => line(&json!({ "id": topic.id, "created": answer.created }).to_string()),
            Format::Table if answer.created => line("created"),
            Format::Table => line("it was there, with the same settings"),
        }
    })
    .await
}

/// `kar publish`.
pub(crate) async fn publish(args: PublishArgs) -> Outcome {
    let data = match (&args.data, &args.file) {
        (None, None) => None,
        (text, file) => Some(payload::read(text.as_deref(), file.as_deref(), &args.content_type)?),
    };
    let event = Event {
        id: args.id.unwrap_or_default(),
        source: args.source.unwrap_or_default(),
        r#type: args.kind.unwrap_or_default(),
        subject: args.subject.unwrap_or_default(),
        time: args.time,
        data,
        data_schema: args.data_schema.unwrap_or_default(),
        attributes: args.attribute.into_iter().collect(),
    };
    let request = PublishRequest {
        topic: args.topic,
        event: Some(event),
        partition_key: args.key.unwrap_or_default(),
        request_id: args.request_id.unwrap_or_else(|| Uuid::now_v7().to_string()),
        ..Default::default()
    };
    with_session(&args.reach, "whether it was published is unknown", async |session| {
        let answer = session.events().publish(request).await.map_err(written)?.into_inner();
        match args.output {
            Format::Table => line(&answer.position),
            Format::Json => line(&format!(
                "{:#}",
                json!({
                    "id": answer.event_id,
                    "position": answer.position,
                    "repeated_request": answer.repeated_request,
                })
            )),
        }
    })
    .await
}

/// `kar get topics`.
pub(crate) async fn topics(args: ListArgs) -> Outcome {
    with_session(&of_any_application(&args.reach), NOTHING, async |session| {
        let headings =
            &["TOPIC", "PARTITIONS", "EVENTS", "BYTES", "RETENTION", "CONSUMERS", "LAG", "AGE"];
        let show = |topic: TopicDescription| (topic_row(&topic), topic_json(&topic));
        listed(&args, Table::new(headings), show, async |page_size, page_token| {
            let request = ListTopicsRequest { page_size, page_token };
            let page = session.events().list_topics(request).await?.into_inner();
            let (rows, next_page_token) = (page.topics, page.next_page_token);
            Ok(Page { rows, left_out: None, next_page_token })
        })
        .await
    })
    .await
}

fn events(topic: &TopicDescription) -> i64 {
    topic.partitions.iter().map(|partition| partition.end - partition.start).sum()
}

/// How many consumers there are, those included that are not told.
fn consumers(topic: &TopicDescription) -> i64 {
    topic.consumers.len() as i64 + i64::from(topic.consumers_left_out)
}

fn topic_row(description: &TopicDescription) -> Vec<String> {
    let topic = description.topic.clone().unwrap_or_default();
    let bytes: i64 = description.partitions.iter().map(|partition| partition.bytes).sum();
    let lag = description.consumers.iter().map(|consumer| consumer.lag).max();
    let time = topic.retention_time.map_or_else(|| "-".to_owned(), |time| exact(&time));
    vec![
        topic.name,
        topic.partitions.to_string(),
        events(description).to_string(),
        bytes.to_string(),
        time,
        consumers(description).to_string(),
        lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string()),
        age(topic.create_time.as_ref()),
    ]
}

fn topic_json(description: &TopicDescription) -> Value {
    let topic = description.topic.clone().unwrap_or_default();
    let partitions = description.partitions.iter().map(|partition| {
        json!({ "start": partition.start, "end": partition.end, "bytes": partition.bytes })
    });
    let consumers = description.consumers.iter().map(|consumer| {
        json!({
            "application": consumer.application, "name": consumer.name, "lag": consumer.lag,
            "offsets": consumer.offsets,
        })
    });
    json!({
        "name": topic.name,
        "id": topic.id,
        "retention_time": topic.retention_time.map(|time| time.to_string()),
        "retention_bytes": topic.retention_bytes,
        "create_time": topic.create_time.map(|time| time.to_string()),
        "events": events(description),
        "partitions": partitions.collect::<Vec<_>>(),
        "consumers": consumers.collect::<Vec<_>>(),
        "consumers_left_out": description.consumers_left_out,
    })
}

fn written(status: tonic::Status) -> Failure {
    Failure::from_status(&status, Effect::Writes)
}
