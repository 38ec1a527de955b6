//! Idempotency keys: what a client sends again is the same invocation, by whichever sidecar.

use kar_core::events::EventPosition;
use kar_core::ids::{Class, Uuid};
use kar_core::invocation::{Payload, Target};
use kar_core::keys::RequestKey;
use sha2::{Digest, Sha256};
use tonic::Status;

use crate::convert::error::invalid_field;

/// The key of a request, if it has one.
///
/// # Errors
///
/// In a turn: what a turn sends is durable with it, and goes by step keys.
pub(super) fn request_key(
    in_turn: bool,
    (target, method, payload): (&Target, &str, &Payload),
    key: Option<String>,
) -> Result<Option<Box<RequestKey>>, Status> {
    let Some(key) = key else { return Ok(None) };
    if in_turn {
        let what = "is for clients: in a turn, use a step key";
        return Err(invalid_field("options.idempotency_key", what));
    }
    let class = match target.kind.class {
        Class::Actor => "actor",
        Class::Service => "service",
        Class::System => "system",
    };
    let part = |part: &Option<std::sync::Arc<str>>| match part {
        Some(text) => format!("={text}"),
        None => String::new(),
    };
    let (actor, affinity) = (part(&target.actor), part(&target.affinity));
    let name = digest(&[class, &target.kind.name, &actor, &affinity, &key].map(str::as_bytes));
    let asked = [method.as_bytes(), payload.content_type.as_bytes(), &payload.data];
    Ok(Some(Box::new(RequestKey { uuid: named(name), digest: digest(&asked) })))
}

/// The key under which an event of a dead-letter topic is told again.
pub fn redrive_key(topic_id: &str, place: &EventPosition) -> Box<RequestKey> {
    let place = place.to_string();
    let name = digest(&["redrive", topic_id, &place].map(str::as_bytes));
    Box::new(RequestKey { uuid: named(name), digest: 0 })
}

/// A UUID of version 8 (RFC 9562) made of a digest.
fn named(digest: u128) -> Uuid {
    let version = (digest & !(0xf << 76)) | (8 << 76);
    Uuid((version & !(0b11 << 62)) | (0b10 << 62))
}

/// The first half of the SHA-256 of parts, each with its length before it.
fn digest(parts: &[&[u8]]) -> u128 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut first = [0; 16];
    first.copy_from_slice(&hash.finalize()[..16]);
    u128::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kar_core::ids::Kind;

    fn key(actor: &str, method: &str, data: &'static [u8], key: &str) -> Box<RequestKey> {
        let target = Target { kind: Kind::actor("A"), actor: Some(actor.into()), affinity: None };
        let payload = Payload { data: data.into(), content_type: "".into() };
        let key = request_key(false, (&target, method, &payload), Some(key.into()));
        key.expect("outside turns").expect("there is one")
    }

    #[test]
    fn a_key_names_a_target_and_stands_for_one_request() {
        let one = key("a", "m", b"1", "k");
        assert_eq!(one, key("a", "m", b"1", "k"));
        for other in [key("b", "m", b"1", "k"), key("a", "m", b"1", "l")] {
            assert_ne!(one.uuid, other.uuid);
        }
        for other in [key("a", "n", b"1", "k"), key("a", "m", b"2", "k")] {
            assert_eq!(one.uuid, other.uuid);
            assert_ne!(one.digest, other.digest);
        }
        // Where one part ends and the next one begins counts.
        assert_ne!(key("a", "m", b"1", "k").digest, key("a", "", b"m1", "k").digest);
    }

    #[test]
    fn names_are_stable_and_of_version_8() {
        let uuid = key("a", "m", b"1", "k").uuid.to_string();
        assert_eq!(uuid.as_bytes()[14], b'8', "{uuid}");
        assert!(b"89ab".contains(&uuid.as_bytes()[19]), "{uuid}");
    }
}
