//! The public API (`kar.v1`) to the core's operations and back: parses every field once, names the wrong one.

pub(super) mod actor_state;
mod answer;
mod event;
mod field;
mod host;
mod key;
mod reminder;
mod request;
mod retry;
mod state;
mod subscription;

use kar_core::ids::{Kind, Millis};
use kar_core::invocation::Payload;
use kar_proto::v1 as pb;

pub use answer::{answer, refused, reply_size, state_answer};
pub use event::{
    ConsumeOpen, ConsumeStart, EventOperation, Publication, REDRIVE, TurnEvents, acknowledged,
    bus_error, consume_open, description_to, event_error, topic_to,
};
pub use field::invocation_id;
pub use host::{
    TurnRef, direct_size, direct_to, methods, offer, turn_outcome, turn_ref, turn_size, turn_to,
};
pub use key::redrive_key;
pub use request::{Prepared, Shape, prepare};
pub use subscription::{SubscriptionOperation, Wanted, subscription_to};

use super::{json, owned};

/// Begins the tokens of at-most-once turns, which only name the turn.
const DIRECT_PREFIX: &str = "direct/";

/// A target for people and components.
pub fn target_to(kind: &Kind, actor: Option<&str>) -> pb::Target {
    use pb::target::Kind as K;
    let kind = match actor {
        Some(id) => K::Actor(pb::ActorTarget { r#type: owned(&kind.name), id: id.to_owned() }),
        None => {
            K::Service(pb::ServiceTarget { name: owned(&kind.name), affinity_key: String::new() })
        }
    };
    pb::Target { kind: Some(kind) }
}

/// The last time that protobuf has, and most languages: the end of the year 9999, ms since the Unix epoch.
const TIME_MAX: Millis = 253_402_300_799_999;

/// A time for people and components; the last there is, if it is later.
pub fn timestamp(time: Millis) -> prost_types::Timestamp {
    let time = time.min(TIME_MAX);
    prost_types::Timestamp {
        seconds: (time / 1_000) as i64,
        nanos: (time % 1_000) as i32 * 1_000_000,
    }
}

/// A payload for a component; with `json` in the form for people if it is JSON.
pub(in crate::convert) fn payload_to(payload: Payload, json: bool) -> pb::Payload {
    use pb::payload::Body;
    let content_type = owned(&payload.content_type);
    let value =
        if json && json::is_json(&content_type) { json::from_text(&payload.data) } else { None };
    let body = match value {
        Some(value) => Body::Json(value),
        None => Body::Data(payload.data),
    };
    pb::Payload { body: Some(body), content_type }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_that_protobuf_has() {
        let last = timestamp(Millis::MAX);
        assert_eq!(last.to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(timestamp(1_500), prost_types::Timestamp { seconds: 1, nanos: 500_000_000 });
    }
}
