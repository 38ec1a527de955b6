//! Events: as components have them, as topics keep them, as the core knows them.

use bytes::Bytes;
use kar_core::events::{CloudEvent, EventOrigin, EventTime, Publication};
use kar_core::ids::TopicPartition;
use kar_core::invocation::Payload;
use kar_core::record::Publish;
use kar_proto::log::v1 as stored;
use kar_proto::v1 as pb;
use prost::Message as _;

use super::api::payload_to;
use super::{Malformed, owned, shared, taken_out};

/// An event as a topic keeps it.
pub fn encode_event(event: &CloudEvent) -> Bytes {
    let attribute = |(name, value): (&String, &String)| stored::EventAttribute {
        name: name.clone(),
        value: value.clone(),
    };
    let event = stored::StoredEvent {
        id: event.id.clone(),
        source: event.source.clone(),
        r#type: event.kind.clone(),
        subject: event.subject.clone(),
        time_seconds: event.time.seconds,
        time_nanos: event.time.nanos,
        data_schema: event.data_schema.clone(),
        content_type: owned(&event.data.content_type),
        data: event.data.data.clone(),
        attributes: event.attributes.iter().map(attribute).collect(),
    };
    event.encode_to_vec().into()
}

/// An event that a topic has kept.
///
/// # Errors
///
/// If it is none.
pub fn decode_event(bytes: Bytes) -> Result<CloudEvent, Malformed> {
    let event = stored::StoredEvent::decode(bytes)?;
    let content_type = shared(event.content_type);
    Ok(CloudEvent {
        id: event.id,
        source: event.source,
        kind: event.r#type,
        subject: event.subject,
        time: EventTime { seconds: event.time_seconds, nanos: event.time_nanos },
        data_schema: event.data_schema,
        data: Payload { data: event.data, content_type },
        attributes: event.attributes.into_iter().map(|a| (a.name, a.value)).collect(),
    })
}

/// Where an event is from that is delivered, for the wire.
pub(super) fn event_origin_to(origin: &EventOrigin) -> stored::EventOrigin {
    let EventOrigin { subscription, topic, place, offset, dead_letter, event } = origin;
    stored::EventOrigin {
        subscription: owned(subscription),
        topic: owned(topic),
        place: Some(topic_partition_to(place)),
        offset: *offset,
        dead_letter: dead_letter.as_ref().map(topic_partition_to),
        event: event.clone(),
    }
}

/// Where an event is from that is delivered, from the wire.
pub(super) fn event_origin_from(origin: stored::EventOrigin) -> Result<EventOrigin, Malformed> {
    let stored::EventOrigin { subscription, topic, place, offset, dead_letter, event } = origin;
    Ok(EventOrigin {
        subscription: shared(subscription),
        topic: shared(topic),
        place: topic_partition_from(place)?,
        offset,
        dead_letter: dead_letter.map(|to| topic_partition_from(Some(to))).transpose()?,
        event: event.map(taken_out),
    })
}

/// An event that is published, as it is stored.
pub(super) fn publish_to(publish: &Publish) -> stored::Publish {
    let Publish { number, publication: Publication { to, event } } = publish;
    let to = Some(topic_partition_to(to));
    stored::Publish { number: *number, to, event: event.clone() }
}

/// An event that is published, from what is stored.
pub(super) fn publish_from(publish: stored::Publish) -> Result<Publish, Malformed> {
    let stored::Publish { number, to, event } = publish;
    let publication = Publication { to: topic_partition_from(to)?, event: taken_out(event) };
    Ok(Publish { number, publication })
}

/// A topic's partition for the wire.
pub(super) fn topic_partition_to(to: &TopicPartition) -> stored::TopicPartition {
    stored::TopicPartition { topic_id: owned(&to.id), partition: to.partition }
}

/// A topic's partition from the wire.
pub(super) fn topic_partition_from(
    to: Option<stored::TopicPartition>,
) -> Result<TopicPartition, Malformed> {
    let to = to.ok_or(Malformed::Field("topic partition"))?;
    if to.topic_id.is_empty() {
        return Err(Malformed::Field("topic_id"));
    }
    Ok(TopicPartition { id: to.topic_id.into(), partition: to.partition })
}

/// An event for a component; with `json` its data in the form for people if it is JSON.
pub fn event_to(event: CloudEvent, json: bool) -> pb::Event {
    pb::Event {
        id: event.id,
        source: event.source,
        r#type: event.kind,
        subject: event.subject,
        time: Some(prost_types::Timestamp {
            seconds: event.time.seconds,
            nanos: i32::try_from(event.time.nanos).unwrap_or_default(),
        }),
        data: Some(payload_to(event.data, json)),
        attributes: event.attributes.into_iter().collect(),
        data_schema: event.data_schema,
    }
}

#[cfg(test)]
mod tests {
    use kar_core::events::{DEAD_LETTER_BYTES_MAX, Draft, dead_letter, origin};
    use kar_core::invocation::{ApplicationError, Invocation, Mode, Outcome, Work};

    use super::*;

    #[test]
    fn an_event_is_the_same_when_it_was_kept() {
        let draft = Draft {
            id: "1".into(),
            source: "/s".into(),
            kind: "t".into(),
            subject: "u".into(),
            time: Some(EventTime { seconds: -5, nanos: 7 }),
            data_schema: "urn:x".into(),
            data: Payload { data: "d".into(), content_type: "text/plain".into() },
            attributes: [("a".to_owned(), "b".to_owned())].into(),
            partition_key: "k".into(),
        };
        let event = draft.complete(String::new, "", EventTime::default()).expect("an event");
        assert_eq!(decode_event(encode_event(&event)), Ok(event));
        assert!(decode_event(Bytes::from_static(&[0xff])).is_err());
    }

    /// The core puts attributes behind the stored form without knowing it.
    #[test]
    fn a_dead_letter_is_the_event_with_what_became_of_it() {
        let draft = Draft {
            data: Payload { data: "d".into(), content_type: "text/plain".into() },
            attributes: [("a".to_owned(), "b".to_owned())].into(),
            ..Draft::default()
        };
        let event = draft.complete(|| "1".into(), "/s", EventTime::default()).expect("an event");
        let error = ApplicationError {
            code: "Overdrawn".into(),
            // Longer than there is room for, with what no attribute may have.
            message: format!("not\nenough{}", "ö".repeat(1_000)).into(),
            ..ApplicationError::default()
        };
        let bury_stored = |event: Bytes| {
            let outcome = Outcome::Failed(error.clone());
            dead_letter(&delivery(event), &outcome, u32::MAX).expect("it has a topic").event
        };
        let bury = |event: &CloudEvent| bury_stored(encode_event(event));
        let once = bury(&event);
        assert!(once.len() <= encode_event(&event).len() + DEAD_LETTER_BYTES_MAX);
        let mut letter = decode_event(once.clone()).expect("it is an event");
        let reason = letter.attributes.remove(origin::REASON).expect("it has a reason");
        assert!(reason.starts_with("failed: Overdrawn: not enoughö") && reason.len() <= 512);
        let told = [
            (origin::ATTEMPTS, "4294967295"),
            (origin::SUBSCRIPTION, "billing"),
            (origin::TOPIC, "orders"),
            (origin::POSITION, "3/42"),
        ];
        for (name, value) in told {
            assert_eq!(letter.attributes.remove(name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(letter, event, "all else is as it was");
        // One that was a dead letter before says what has become of it last; and everybody may publish it.
        letter.attributes.insert(origin::REASON.into(), "expired".into());
        let draft = Draft { attributes: letter.attributes.clone(), ..Draft::default() };
        assert!(draft.complete(|| "2".into(), "/s", EventTime::default()).is_ok());
        let again = decode_event(bury(&letter)).expect("it is an event");
        assert_eq!(again.attributes.get(origin::REASON), Some(&reason));
        // However often: two topics may be each other's.
        assert_eq!(bury_stored(once.clone()), once);
    }

    fn delivery(event: Bytes) -> Invocation {
        let place = |partition| TopicPartition { id: "id".into(), partition };
        let origin = EventOrigin {
            subscription: "billing".into(),
            topic: "orders".into(),
            place: place(3),
            offset: 42,
            dead_letter: Some(place(0)),
            event: None,
        };
        Invocation {
            uuid: kar_core::ids::Uuid(1),
            work: Work::Method,
            mode: Mode::Tell,
            actor: None,
            method: "m".into(),
            payload: Payload { data: event, content_type: "".into() },
            chain: [].into(),
            deadline: None,
            trace: "".into(),
            step: 1,
            home: None,
            retry: None,
            key: None,
            event: Some(origin.into()),
        }
    }
}
