//! `kar topic`, `kar publish`, `kar subscribe`, `kar get topics`.

use kar_proto::v1::consume_start::Start;
use kar_proto::v1::event_filter::Dialect;
use kar_proto::v1::{
    AttributeValues, ConsumeRequest, ConsumeResponse, ConsumeStart, CreateTopicRequest,
    DeleteConsumerRequest, DeleteTopicRequest, Event, EventFilter, EventFilters, ListTopicsRequest,
    PublishRequest, StartPositions, TopicDescription,
};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::args::{
    CreateArgs, FilterArgs, Format, ListArgs, PublishArgs, SubscribeArgs, TopicCommand,
};
use super::client::{Session, with_session};
use super::exit::{Code, Effect, Failure, Outcome};
use super::get::{NOTHING, read};
use super::output::{self, Table, age};
use super::payload::{self, line};

/// What Ctrl-C means for a change that was sent.
const UNKNOWN: &str = "whether it was done is unknown: `kar get topics` shows it";
/// Topics asked for at a time.
const PAGE_SIZE: usize = 500;
/// Events that may come before those that were printed are acknowledged.
const CREDITS: i32 = 256;

/// `kar topic …`.
pub(crate) async fn topic(command: TopicCommand) -> Outcome {
    match command {
        TopicCommand::Create(args) => create(*args).await,
        TopicCommand::Delete { reach, topic } => {
            with_session(&reach, UNKNOWN, async |session| {
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
    with_session(&args.reach, UNKNOWN, async |session| {
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
        data,
        attributes: args.attribute.into_iter().collect(),
        ..Default::default()
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

/// `kar subscribe`: until it is interrupted, or has printed as many events as were wanted.
pub(crate) async fn subscribe(args: SubscribeArgs) -> Outcome {
    let first = ConsumeRequest {
        topic: args.topic.clone(),
        credits: CREDITS,
        consumer: args.consumer.clone().unwrap_or_default(),
        start: Some(start(&args.from)?),
        filter: filter(&args.filter),
        confirm: args.consumer.is_some(),
        ..Default::default()
    };
    with_session(&args.reach, NOTHING, async |session| follow(session, &args, first).await).await
}

async fn follow(session: &Session, args: &SubscribeArgs, first: ConsumeRequest) -> Outcome {
    let (sender, requests) = mpsc::channel(CREDITS as usize);
    let gone = |_| Failure::internal("the connection to the sidecar has no use for more");
    sender.try_send(first).map_err(|_| Failure::internal("a new queue has no room"))?;
    let answer = session.events().consume(ReceiverStream::new(requests)).await.map_err(read)?;
    let mut answers = answer.into_inner();
    let mut printed = 0;
    let mut unconfirmed = 0_usize;
    loop {
        let Some(told) = answers.message().await.map_err(read)? else {
            return Err(Failure::new(Code::Unavailable, "the sidecar ended")
                .advise("follow the topic through another one"));
        };
        unconfirmed = unconfirmed.saturating_sub(told.acknowledged.len());
        if let Some(skipped) = &told.skipped {
            eprintln!(
                "kar: {} events of partition {} are not there any more, from {}/{} on",
                skipped.count, skipped.partition, skipped.partition, skipped.first
            );
        }
        if told.event.is_some() && args.limit.is_none_or(|limit| printed < limit) {
            print(&told, args.output)?;
            printed += 1;
            let mut next = ConsumeRequest { credits: 1, ..Default::default() };
            if args.consumer.is_some() {
                next.acknowledged.push(told.position);
                unconfirmed += 1;
            }
            sender.send(next).await.map_err(gone)?;
        }
        // What was printed is not to come again.
        if args.limit.is_some_and(|limit| printed >= limit) && unconfirmed == 0 {
            return Ok(());
        }
    }
}

fn start(text: &str) -> Outcome<ConsumeStart> {
    let start = match text {
        "earliest" => Start::Earliest(true),
        "latest" => Start::Latest(true),
        text if text.contains('/') => {
            Start::Positions(StartPositions { positions: vec![text.to_owned()] })
        }
        text => {
            let time = text.parse::<prost_types::Timestamp>();
            Start::Time(time.map_err(|_| {
                Failure::usage(format!("--from: '{text}' is no place to begin")).advise(
                    "earliest, latest, a time such as 2030-01-31T09:30:00Z, or PARTITION/OFFSET",
                )
            })?)
        }
    };
    Ok(ConsumeStart { start: Some(start) })
}

/// The filter that the command line describes.
pub(super) fn filter(args: &FilterArgs) -> Option<EventFilter> {
    let compared = |pairs: &[(String, String)], dialect: fn(AttributeValues) -> Dialect| {
        // One for each, so that an attribute can be named twice.
        let filter = |pair: &(String, String)| {
            let attributes = [pair.clone()].into();
            EventFilter { dialect: Some(dialect(AttributeValues { attributes })) }
        };
        pairs.iter().map(filter).collect::<Vec<_>>()
    };
    let filters = [
        compared(&args.exact, Dialect::Exact),
        compared(&args.prefix, Dialect::Prefix),
        compared(&args.suffix, Dialect::Suffix),
    ]
    .concat();
    (!filters.is_empty())
        .then_some(EventFilter { dialect: Some(Dialect::All(EventFilters { filters })) })
}

/// A filter in the form of the CloudEvents Subscriptions API.
pub(super) fn filter_json(filter: &EventFilter) -> Value {
    let compared = |values: &AttributeValues| {
        let mut pairs: Vec<_> = values.attributes.iter().collect();
        pairs.sort();
        pairs.into_iter().map(|(name, value)| (name.clone(), value.clone().into())).collect()
    };
    let compared = |values: &AttributeValues| Value::Object(compared(values));
    let each =
        |filters: &EventFilters| -> Value { filters.filters.iter().map(filter_json).collect() };
    match &filter.dialect {
        Some(Dialect::Exact(values)) => json!({ "exact": compared(values) }),
        Some(Dialect::Prefix(values)) => json!({ "prefix": compared(values) }),
        Some(Dialect::Suffix(values)) => json!({ "suffix": compared(values) }),
        Some(Dialect::All(filters)) => json!({ "all": each(filters) }),
        Some(Dialect::Any(filters)) => json!({ "any": each(filters) }),
        Some(Dialect::NotMatching(inner)) => json!({ "not": filter_json(inner) }),
        None => Value::Null,
    }
}

fn print(told: &ConsumeResponse, format: Format) -> Outcome {
    let event = told.event.clone().unwrap_or_default();
    match format {
        Format::Json => line(&cloud_event(told, event).to_string()),
        Format::Table => {
            let data = event.data.as_ref().map_or(Value::Null, payload::to_json);
            let subject = if event.subject.is_empty() { "-" } else { &event.subject };
            let head = [&*told.position, &*event.r#type, &*event.source, subject];
            let head = head.map(|text| text.escape_debug().to_string()).join("  ");
            line(&format!("{head}  {data}"))
        }
    }
}

/// The JSON form of CloudEvents, and where the event is.
fn cloud_event(told: &ConsumeResponse, event: Event) -> Value {
    let mut shown = Map::new();
    let mut set = |name: &str, value: Value| {
        shown.insert(name.to_owned(), value);
    };
    set("specversion", "1.0".into());
    set("id", event.id.into());
    set("source", event.source.into());
    set("type", event.r#type.into());
    if !event.subject.is_empty() {
        set("subject", event.subject.into());
    }
    if let Some(time) = event.time {
        set("time", time.to_string().into());
    }
    if !event.data_schema.is_empty() {
        set("dataschema", event.data_schema.into());
    }
    if let Some(data) = &event.data {
        if !data.content_type.is_empty() {
            set("datacontenttype", data.content_type.clone().into());
        }
        if let Some((name, value)) = payload::to_event_data(data) {
            set(name, value);
        }
    }
    for (name, value) in event.attributes {
        set(&name, value.into());
    }
    // No attribute of an event can have a name with a capital.
    set("karPosition", told.position.clone().into());
    if let Some(time) = told.publish_time {
        set("karPublishTime", time.to_string().into());
    }
    Value::Object(shown)
}

/// `kar get topics`.
pub(crate) async fn topics(args: ListArgs) -> Outcome {
    with_session(&args.reach, NOTHING, async |session| {
        let headings =
            &["TOPIC", "PARTITIONS", "EVENTS", "BYTES", "RETENTION", "CONSUMERS", "LAG", "AGE"];
        let mut table = Table::new(headings);
        let mut listed = Vec::new();
        let mut request = ListTopicsRequest::default();
        let mut more = false;
        loop {
            let wanted = args.limit.saturating_sub(listed.len()).min(PAGE_SIZE);
            request.page_size = i32::try_from(wanted).unwrap_or(i32::MAX);
            let answer = session.events().list_topics(request.clone()).await.map_err(read)?;
            let page = answer.into_inner();
            for topic in &page.topics {
                table.row(topic_row(topic));
                listed.push(topic_json(topic));
            }
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
            if listed.len() >= args.limit {
                more = true;
                break;
            }
        }
        output::print(args.output, &table, &Value::Array(listed))?;
        if more {
            eprintln!("left out: there are more than {} (--limit)", args.limit);
        }
        Ok(())
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
    let time = topic.retention_time.map_or_else(|| "-".to_owned(), |time| time.to_string());
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

#[cfg(test)]
mod tests {
    use kar_proto::v1::Payload;
    use kar_proto::v1::payload::Body;

    use super::*;

    #[test]
    fn where_to_begin_is_understood() {
        let told = |text| start(text).map(|start| start.start.expect("never empty"));
        assert_eq!(told("earliest").expect("known"), Start::Earliest(true));
        assert_eq!(told("latest").expect("known"), Start::Latest(true));
        assert!(
            matches!(told("3/17"), Ok(Start::Positions(places)) if places.positions == ["3/17"])
        );
        assert!(matches!(told("2030-01-31T09:30:00Z"), Ok(Start::Time(_))));
        assert_eq!(told("yesterday").expect_err("not understood").code, Code::Usage);
    }

    #[test]
    fn events_are_printed_as_cloud_events() {
        let data = |bytes: &'static [u8], content_type: &str| Payload {
            body: Some(Body::Data(bytes.into())),
            content_type: content_type.into(),
        };
        let event = |data| Event {
            id: "1".into(),
            source: "/s".into(),
            r#type: "t".into(),
            data,
            attributes: [("customer".to_owned(), "alice".to_owned())].into(),
            ..Default::default()
        };
        let told = ConsumeResponse { position: "0/1".into(), ..Default::default() };
        let shown = cloud_event(&told, event(Some(data(b"{\"a\":1}", "application/json"))));
        assert_eq!(
            shown,
            json!({
                "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "customer": "alice",
                "datacontenttype": "application/json", "data": { "a": 1 }, "karPosition": "0/1",
            })
        );
        let shown = cloud_event(&told, event(Some(data(&[0xff], "image/png"))));
        assert_eq!(shown["data_base64"], json!("/w=="));
        let shown = cloud_event(&told, event(Some(data(b"hello", "text/plain"))));
        assert_eq!(shown["data"], json!("hello"));
        assert_eq!(cloud_event(&told, event(None)).get("data"), None);
    }
}
