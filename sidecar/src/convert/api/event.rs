//! Requests about topics and events, and the answers.

use kar_core::events::{Draft, EventError, EventPosition, EventTime, Filter};
use kar_core::ids::{Millis, TurnToken, is_name};
use kar_core::limits::{LimitHit, Limits};
use kar_proto::v1 as pb;
use pb::ErrorReason;
use pb::request::Operation as Ask;
use tonic::Status;

use super::field::{bounded, duration, payload_from, required_turn};
use super::timestamp;
use crate::bus::{BusError, TopicInfo, TopicSettings, TopicView};
use crate::convert::error::{invalid_field, limit_reached, status};

/// Partitions of a topic, unless told otherwise.
const PARTITIONS: u32 = 4;
/// Most partitions of a topic.
const PARTITIONS_MAX: u32 = 256;
/// How long events are kept, unless told otherwise, ms: seven days.
const RETENTION_MS: Millis = 7 * 24 * 3_600_000;
/// Shortest time for which events are kept, ms.
const RETENTION_MS_MIN: Millis = 1_000;
/// Bytes that the events of a partition may take, unless told otherwise.
const RETENTION_BYTES: u64 = 1 << 30;
/// Fewest bytes that the events of a partition may take.
const RETENTION_BYTES_MIN: u64 = 1 << 20;
/// Begins the names of consumers of dead letters: those that send them back to a subscription.
pub const REDRIVE: &str = "redrive/";
/// Longest request id, bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Topics on a page, unless told otherwise, and at most.
const PAGE_SIZE: (u32, u32) = (100, 1_000);

/// A request about topics, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Named after the requests.
pub enum EventOperation {
    CreateTopic(TopicSettings),
    DeleteTopic { topic: String, id: Option<String> },
    DescribeTopic { topic: String },
    ListTopics { page_size: u32, after: String },
    Publish(Box<Publication>),
    PublishBatch { publications: Vec<Publication> },
    DeleteConsumer { topic: String, consumer: String },
}

/// Events that a turn publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnEvents {
    /// The turn.
    pub turn: TurnToken,
    /// In order.
    pub publications: Vec<Publication>,
    /// They came as a batch, and are answered as one.
    pub is_batch: bool,
}

/// An event to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Topic.
    pub topic: String,
    /// The event, with what is to be filled in.
    pub draft: Draft,
    /// Makes a retry safe.
    pub request: Option<String>,
    /// Begins the names of its fields.
    pub field: String,
    /// What the whole event may take, bytes: it may be the argument of an invocation.
    pub bytes_max: usize,
}

/// The first message of a consumer, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumeOpen {
    /// Topic.
    pub topic: String,
    /// Name of the consumer.
    pub consumer: Option<String>,
    /// Where it begins.
    pub start: ConsumeStart,
    /// Which events it wants.
    pub filter: Option<Filter>,
    /// How many events may come; `None`: any number.
    pub credits: Option<u64>,
    /// Durable acknowledgements are told.
    pub confirm: bool,
    /// Data that is JSON comes in the form for people.
    pub json: bool,
}

/// Where a consumer begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsumeStart {
    /// With the earliest event there is.
    Earliest,
    /// With the next one.
    Latest,
    /// With the first one of this time or later.
    Time(Millis),
    /// With these; with the earliest one of other partitions.
    Positions(Vec<EventPosition>),
}

/// Whether a request publishes in a turn.
pub(super) fn is_in_turn(ask: &Ask) -> bool {
    match ask {
        Ask::Publish(r) => !r.turn_token.is_empty(),
        Ask::PublishBatch(r) => r.events.iter().any(|event| !event.turn_token.is_empty()),
        _ => false,
    }
}

/// Parses a request to publish in a turn.
pub(super) fn in_turn(
    ask: Ask,
    limits: &Limits,
    batch_events_max: usize,
) -> Result<TurnEvents, Status> {
    match ask {
        Ask::Publish(r) => {
            let turn = required_turn(&r.turn_token)?;
            let one = turns_own(publication("", r, limits)?)?;
            Ok(TurnEvents { turn, publications: vec![one], is_batch: false })
        }
        Ask::PublishBatch(mut r) => {
            let turn = r.events.first().map(|event| event.turn_token.clone()).unwrap_or_default();
            for (at, event) in r.events.iter().enumerate() {
                if event.turn_token != turn || event.turn_token.is_empty() {
                    let field = format!("events[{at}].turn_token");
                    let what = "must be the same in every event: all belong to one turn, or none";
                    return Err(invalid_field(&field, what));
                }
            }
            if !std::mem::take(&mut r.request_id).is_empty() {
                return Err(invalid_field("request_id", NO_REQUEST_ID));
            }
            let turn = required_turn(&turn)?;
            let EventOperation::PublishBatch { publications } =
                publish_batch(r, limits, batch_events_max)?
            else {
                return Err(Status::internal("a batch is another request"));
            };
            let publications = publications.into_iter().map(turns_own).collect::<Result<_, _>>()?;
            Ok(TurnEvents { turn, publications, is_batch: true })
        }
        _ => Err(Status::internal("no request to publish")),
    }
}

/// Why there is none.
const NO_REQUEST_ID: &str = "must be empty in a turn: what it publishes is there once anyway";

fn turns_own(publication: Publication) -> Result<Publication, Status> {
    match publication.request {
        None => Ok(publication),
        Some(_) => Err(invalid_field(&format!("{}request_id", publication.field), NO_REQUEST_ID)),
    }
}

/// Parses a request about topics.
pub(super) fn operation(
    ask: Ask,
    limits: &Limits,
    batch_events_max: usize,
) -> Result<EventOperation, Status> {
    Ok(match ask {
        Ask::CreateTopic(r) => EventOperation::CreateTopic(settings(r)?),
        Ask::DeleteTopic(r) => {
            let id = bounded("id", r.id, 128)?;
            let id = (!id.is_empty()).then_some(id);
            EventOperation::DeleteTopic { topic: topic("topic", r.topic)?, id }
        }
        Ask::DescribeTopic(r) => EventOperation::DescribeTopic { topic: topic("topic", r.topic)? },
        Ask::ListTopics(r) => {
            let page_size = u32::try_from(r.page_size)
                .map_err(|_| invalid_field("page_size", "must not be negative"))?;
            let page_size = if page_size == 0 { PAGE_SIZE.0 } else { page_size.min(PAGE_SIZE.1) };
            EventOperation::ListTopics {
                page_size,
                after: bounded("page_token", r.page_token, 128)?,
            }
        }
        Ask::Publish(r) => EventOperation::Publish(Box::new(publication("", r, limits)?)),
        Ask::PublishBatch(r) => publish_batch(r, limits, batch_events_max)?,
        Ask::DeleteConsumer(r) => EventOperation::DeleteConsumer {
            topic: topic("topic", r.topic)?,
            consumer: forgotten("consumer", r.consumer)?,
        },
        _ => return Err(Status::internal("no request about topics")),
    })
}

/// The name of a topic or a consumer.
pub(super) fn topic(field: &str, name: String) -> Result<String, Status> {
    if is_name(&name) {
        return Ok(name);
    }
    let what = "must be 1 to 128 of A-Z a-z 0-9 _ - . and must not start with . or -";
    Err(invalid_field(field, what))
}

/// The name of a consumer to be forgotten: also of one that subscriptions are.
fn forgotten(field: &str, name: String) -> Result<String, Status> {
    match name.strip_prefix(REDRIVE) {
        Some(subscription) => {
            topic(field, subscription.to_owned())?;
            Ok(name)
        }
        None => topic(field, name),
    }
}

fn settings(r: pb::CreateTopicRequest) -> Result<TopicSettings, Status> {
    let name = topic("topic", r.topic)?;
    let partitions = match u32::try_from(r.partitions) {
        Ok(0) => PARTITIONS,
        Ok(count) if count <= PARTITIONS_MAX => count,
        _ => {
            let what = format!("must be 1 to {PARTITIONS_MAX}, or 0 for {PARTITIONS}");
            return Err(invalid_field("partitions", &what));
        }
    };
    let retention = match r.retention_time {
        None => (!r.keep_forever).then_some(RETENTION_MS),
        Some(time) => match duration("retention_time", &time)? {
            time if time >= RETENTION_MS_MIN => Some(time),
            _ => return Err(invalid_field("retention_time", "must be at least 1 s")),
        },
    };
    let retention_bytes = match u64::try_from(r.retention_bytes) {
        Ok(0) => (!r.keep_forever).then_some(RETENTION_BYTES),
        Ok(bytes) if bytes >= RETENTION_BYTES_MIN => Some(bytes),
        _ => {
            let what =
                format!("must be at least {RETENTION_BYTES_MIN}, or 0 for {RETENTION_BYTES}");
            return Err(invalid_field("retention_bytes", &what));
        }
    };
    Ok(TopicSettings { name, partitions, retention, retention_bytes })
}

fn publish_batch(
    r: pb::PublishBatchRequest,
    limits: &Limits,
    max: usize,
) -> Result<EventOperation, Status> {
    if r.events.len() > max {
        let name = "publish_batch_events_max";
        return Err(limit_reached(LimitHit { name, limit: max as u64 }));
    }
    if r.events.is_empty() {
        return Err(invalid_field("events", "is empty"));
    }
    let whole = bounded("request_id", r.request_id, REQUEST_ID_BYTES_MAX)?;
    let mut publications = Vec::with_capacity(r.events.len());
    for (at, event) in r.events.into_iter().enumerate() {
        let mut one = publication(&format!("events[{at}]."), event, limits)?;
        if one.request.is_none() && !whole.is_empty() {
            // No id of a request on its own has this form.
            one.request = Some(format!("{whole}\n{at}"));
        }
        publications.push(one);
    }
    Ok(EventOperation::PublishBatch { publications })
}

fn publication(field: &str, r: pb::PublishRequest, limits: &Limits) -> Result<Publication, Status> {
    let topic = topic(&format!("{field}topic"), r.topic)?;
    let request_field = format!("{field}request_id");
    let request = bounded(&request_field, r.request_id, REQUEST_ID_BYTES_MAX)?;
    if request.contains('\n') {
        return Err(invalid_field(&request_field, "must be one line"));
    }
    let event = r.event.unwrap_or_default();
    let data_field = format!("{field}event.data");
    let time = event.time.map(|time| {
        let nanos = u32::try_from(time.nanos).map_err(|_| {
            invalid_field(&format!("{field}event.time"), "nanos must not be negative")
        });
        nanos.map(|nanos| EventTime { seconds: time.seconds, nanos })
    });
    let draft = Draft {
        id: event.id,
        source: event.source,
        kind: event.r#type,
        subject: event.subject,
        time: time.transpose()?,
        data_schema: event.data_schema,
        data: payload_from(&data_field, event.data, limits.message_bytes_max)?.0,
        attributes: event.attributes.into_iter().collect(),
        partition_key: r.partition_key,
    };
    let request = (!request.is_empty()).then_some(request);
    let (field, bytes_max) = (field.to_owned(), limits.message_bytes_max);
    Ok(Publication { topic, draft, request, field, bytes_max })
}

/// Parses the first message of a consumer.
///
/// # Errors
///
/// The status that names the wrong field.
pub fn consume_open(r: pb::ConsumeRequest) -> Result<ConsumeOpen, Status> {
    let filter = r.filter.map(|f| -> Result<Filter, Status> {
        let filter = filter("filter", f)?;
        filter.check().map_err(|error| invalid_field("filter", &error.to_string()))?;
        Ok(filter)
    });
    let credits =
        u64::try_from(r.credits).map_err(|_| invalid_field("credits", "must not be negative"))?;
    let consumer = match r.consumer {
        name if name.is_empty() => None,
        name => Some(topic("consumer", name)?),
    };
    if !r.acknowledged.is_empty() {
        return Err(invalid_field("acknowledged", "must be empty: nothing has come yet"));
    }
    Ok(ConsumeOpen {
        topic: topic("topic", r.topic)?,
        consumer,
        start: start(r.start)?,
        filter: filter.transpose()?,
        credits: (credits > 0).then_some(credits),
        confirm: r.confirm,
        json: r.json,
    })
}

/// Parses acknowledged positions.
///
/// # Errors
///
/// The status that names the one that is none.
pub fn acknowledged(positions: &[String]) -> Result<Vec<EventPosition>, Status> {
    positions.iter().map(|text| position("acknowledged", text)).collect()
}

fn position(field: &str, text: &str) -> Result<EventPosition, Status> {
    let parsed = text.parse::<EventPosition>();
    parsed.map_err(|error| invalid_field(field, &error.to_string()))
}

fn start(start: Option<pb::ConsumeStart>) -> Result<ConsumeStart, Status> {
    use pb::consume_start::Start as S;
    let Some(start) = start else { return Ok(ConsumeStart::Earliest) };
    match start.start {
        Some(S::Earliest(true)) => Ok(ConsumeStart::Earliest),
        Some(S::Latest(true)) => Ok(ConsumeStart::Latest),
        Some(S::Earliest(false)) => Err(invalid_field("start.earliest", "must be true")),
        Some(S::Latest(false)) => Err(invalid_field("start.latest", "must be true")),
        Some(S::Time(time)) => {
            let seconds = u64::try_from(time.seconds).unwrap_or(0);
            let millis = u64::try_from(time.nanos).unwrap_or(0) / 1_000_000;
            Ok(ConsumeStart::Time(seconds.saturating_mul(1_000).saturating_add(millis)))
        }
        Some(S::Positions(places)) => {
            let field = "start.positions";
            let places = places.positions.iter().map(|text| position(field, text));
            let places: Vec<_> = places.collect::<Result<_, _>>()?;
            let mut partitions: Vec<_> = places.iter().map(|place| place.partition).collect();
            partitions.sort_unstable();
            partitions.dedup();
            if partitions.len() < places.len() {
                return Err(invalid_field(field, "names a partition twice"));
            }
            Ok(ConsumeStart::Positions(places))
        }
        None => Err(invalid_field("start", "must say where: earliest, latest, time or positions")),
    }
}

/// As deep as it is given: the transport bounds that, and the core checks it.
pub(super) fn filter(field: &str, filter: pb::EventFilter) -> Result<Filter, Status> {
    use pb::event_filter::Dialect as D;
    let compared = |values: pb::AttributeValues| {
        let mut pairs: Vec<_> = values.attributes.into_iter().collect();
        pairs.sort();
        pairs
    };
    let each = |field: &str, filters: pb::EventFilters| {
        filters.filters.into_iter().map(|f| self::filter(field, f)).collect::<Result<_, _>>()
    };
    match filter.dialect {
        Some(D::Exact(values)) => Ok(Filter::Exact(compared(values))),
        Some(D::Prefix(values)) => Ok(Filter::Prefix(compared(values))),
        Some(D::Suffix(values)) => Ok(Filter::Suffix(compared(values))),
        Some(D::All(filters)) => Ok(Filter::All(each(&format!("{field}.all"), filters)?)),
        Some(D::Any(filters)) => Ok(Filter::Any(each(&format!("{field}.any"), filters)?)),
        Some(D::NotMatching(inner)) => {
            Ok(Filter::Not(Box::new(self::filter(&format!("{field}.not_matching"), *inner)?)))
        }
        None => {
            let what = "must be one of exact, prefix, suffix, all, any, not_matching";
            Err(invalid_field(field, what))
        }
    }
}

/// A filter for people and components.
pub(super) fn filter_to(filter: &Filter) -> pb::EventFilter {
    use pb::event_filter::Dialect as D;
    let compared = |pairs: &Vec<(String, String)>| pb::AttributeValues {
        attributes: pairs.iter().cloned().collect(),
    };
    let each = |filters: &Vec<Filter>| pb::EventFilters {
        filters: filters.iter().map(filter_to).collect(),
    };
    let dialect = match filter {
        Filter::Exact(pairs) => D::Exact(compared(pairs)),
        Filter::Prefix(pairs) => D::Prefix(compared(pairs)),
        Filter::Suffix(pairs) => D::Suffix(compared(pairs)),
        Filter::All(filters) => D::All(each(filters)),
        Filter::Any(filters) => D::Any(each(filters)),
        Filter::Not(inner) => D::NotMatching(Box::new(filter_to(inner))),
    };
    pb::EventFilter { dialect: Some(dialect) }
}

/// The event of a publication.
///
/// # Errors
///
/// The status that names the field that is wrong.
pub fn event_error(field: &str, error: &EventError) -> Status {
    let event = if error.field == "partition_key" { "" } else { "event." };
    invalid_field(&format!("{field}{event}{}", error.field), &error.what)
}

/// Why a bus did not do what it was asked for, about a topic and perhaps a consumer.
pub fn bus_error(error: &BusError, topic: &str, consumer: &str) -> Status {
    let message = format!("topic '{topic}': {error}");
    let named = ("topic", topic.to_owned());
    match error {
        BusError::UnknownTopic => status(ErrorReason::UnknownTopic, message, [named]),
        BusError::TopicExists { setting, .. } => {
            status(ErrorReason::TopicExists, message, [named, ("setting", setting.clone())])
        }
        BusError::Limit { bound, limit, .. } => {
            let metadata = [("limit", bound.clone()), ("value", limit.to_string()), named];
            status(ErrorReason::LimitReached, message, metadata)
        }
        BusError::Superseded(_) => {
            let metadata = [named, ("consumer", consumer.to_owned())];
            status(ErrorReason::ConsumerTakenOver, message, metadata)
        }
        BusError::Invalid(_) => status(ErrorReason::InvalidField, message, [named]),
        BusError::Unknown(_) => status(ErrorReason::OutcomeUnknown, message, [named]),
        BusError::Unavailable(_) => status(ErrorReason::BackendUnavailable, message, [named]),
    }
}

/// A topic for a component.
pub fn topic_to(info: &TopicInfo) -> pb::Topic {
    let settings = &info.settings;
    pb::Topic {
        name: settings.name.clone(),
        id: info.id.to_string(),
        partitions: signed32(settings.partitions),
        retention_time: settings.retention.map(|millis| prost_types::Duration {
            seconds: signed(millis / 1_000),
            nanos: (millis % 1_000) as i32 * 1_000_000,
        }),
        retention_bytes: signed(settings.retention_bytes.unwrap_or(0)),
        create_time: Some(timestamp(info.created)),
    }
}

/// A topic with what is in it for a component.
pub fn description_to(view: &TopicView) -> pb::TopicDescription {
    let partitions = view.partitions.iter().map(|p| pb::TopicPartition {
        start: signed(p.start),
        end: signed(p.end),
        bytes: signed(p.bytes),
    });
    let consumers = view.consumers.iter().map(|consumer| pb::TopicConsumer {
        application: consumer.application.clone(),
        name: consumer.name.clone(),
        lag: signed(consumer.lag),
        offsets: consumer.floors.iter().map(|floor| signed(*floor)).collect(),
    });
    pb::TopicDescription {
        topic: Some(topic_to(&view.topic)),
        partitions: partitions.collect(),
        consumers: consumers.collect(),
        consumers_left_out: signed32(view.consumers_left_out),
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn signed32(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
