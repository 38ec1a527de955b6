//! Requests on the state of actors.
//!
//! The core knows keys and ranges of them. The actor's own keys are keys as they are; an entry of a sub-map is the key
//! `U+0000 SUB_MAP U+0000 KEY`. Names and keys have no U+0000, so that no two of them meet, and a sub-map is a range in
//! which its entries are in the order of their keys.

use std::sync::Arc;

use kar_core::event::Operation;
use kar_core::invocation::{StateCondition, StateOp};
use kar_core::limits::Limits;
use kar_core::select::{Entries, KeyRange, Select};
use kar_proto::v1 as pb;
use pb::request::Operation as Ask;
use pb::state_change::Change;
use tonic::Status;

use super::field::{KEY_BYTES_MAX, actor_target, payload_from, required_turn, turn};
use super::payload_to;
use super::request::Shape;
use crate::convert::error::invalid_field;

/// Entries on a page, unless told otherwise, and at most.
const PAGE_SIZE: (usize, usize) = (100, 1_000);
/// Bytes after which a page ends.
const PAGE_BYTES: usize = 4 << 20;

/// A request on an actor's state.
pub(super) fn operation(ask: Ask, limits: &Limits) -> Result<(Operation, Shape), Status> {
    Ok(match ask {
        Ask::ActorStateGet(r) => {
            let keys = r.keys.iter().map(|k| stored("keys", &r.sub_map, k));
            let select = Select::Keys(keys.collect::<Result<_, _>>()?);
            (read(&r.turn_token, r.actor.as_ref(), select)?, Shape::StateGet)
        }
        Ask::ActorStateGetAll(r) => {
            (read(&r.turn_token, r.actor.as_ref(), Select::Range(own()))?, Shape::StateGetAll)
        }
        Ask::ActorStateApply(r) => (apply(r, limits)?, Shape::StateApply),
        Ask::ActorStateContains(r) => {
            let key = stored("key", &r.sub_map, &r.key)?;
            let select = Select::Keys(vec![key.clone()]);
            (read(&r.turn_token, r.actor.as_ref(), select)?, Shape::StateContains { key })
        }
        Ask::ActorStateListSubMap(r) => {
            let mut range = entries_of("sub_map", &r.sub_map)?;
            if !r.page_token.is_empty() {
                checked("page_token", &r.page_token)?;
                // No key comes between one and the same with U+0000 behind it.
                range.from = format!("{}{}\0", range.from, r.page_token).into();
            }
            let entries = match usize::try_from(r.page_size) {
                Ok(0) => PAGE_SIZE.0,
                Ok(size) => size.min(PAGE_SIZE.1),
                Err(_) => return Err(invalid_field("page_size", "must not be negative")),
            };
            let select = Select::Page { range, entries, bytes: PAGE_BYTES };
            (read(&r.turn_token, r.actor.as_ref(), select)?, Shape::StateListSubMap)
        }
        Ask::ActorStateSubMapSize(r) => {
            let select = Select::Count(entries_of("sub_map", &r.sub_map)?);
            (read(&r.turn_token, r.actor.as_ref(), select)?, Shape::StateSubMapSize)
        }
        _ => return Err(Status::internal("no request about an actor's state")),
    })
}

/// Reads in a turn, or of an actor from outside its turns.
fn read(
    turn_token: &str,
    actor: Option<&pb::ActorTarget>,
    select: Select,
) -> Result<Operation, Status> {
    match (turn(turn_token)?, actor) {
        (Some(turn), None) => Ok(Operation::StateRead { turn, select }),
        (Some(_), Some(_)) => {
            let what = "must be absent in a turn: a turn reads its own actor";
            Err(invalid_field("actor", what))
        }
        (None, None) => {
            let what = "is missing (or, outside turns, actor)";
            Err(invalid_field("turn_token", what))
        }
        (None, actor) => {
            let target = actor_target("actor", actor)?;
            let id = target.actor.ok_or_else(|| invalid_field("actor.id", "is missing"))?;
            Ok(Operation::StateOf { kind: target.kind, actor: id, select })
        }
    }
}

fn apply(r: pb::ApplyRequest, limits: &Limits) -> Result<Operation, Status> {
    let turn = required_turn(&r.turn_token)?;
    let (mut ops, mut conditions) = (Vec::with_capacity(r.changes.len()), Vec::new());
    let value = |field: &str, value| {
        payload_from(field, value, limits.message_bytes_max).map(|(payload, _)| payload)
    };
    for change in r.changes {
        let op = match change.change.ok_or_else(|| invalid_field("changes", "one is empty"))? {
            Change::Set(entry) => StateOp::Set {
                key: stored("changes.set.key", "", &entry.key)?,
                value: value("changes.set.value", entry.value)?,
            },
            Change::Remove(key) => StateOp::Remove { key: stored("changes.remove", "", &key)? },
            Change::Clear(true) => StateOp::Clear,
            Change::Clear(false) => return Err(invalid_field("changes.clear", "must be true")),
            Change::SetInSubMap(entry) => StateOp::Set {
                key: entry_key("changes.set_in_sub_map.key", entry.key)?,
                value: value("changes.set_in_sub_map.value", entry.value)?,
            },
            Change::RemoveFromSubMap(key) => {
                StateOp::Remove { key: entry_key("changes.remove_from_sub_map", Some(key))? }
            }
            Change::ClearSubMap(name) => {
                StateOp::RemoveRange(entries_of("changes.clear_sub_map", &name)?)
            }
            Change::Require(condition) => {
                let key = stored("changes.require.key", &condition.sub_map, &condition.key)?;
                let wanted = condition.value.map(|v| value("changes.require.value", Some(v)));
                let (after, value) = (ops.len(), wanted.transpose()?);
                conditions.push(StateCondition { after, key, value });
                continue;
            }
        };
        ops.push(op);
    }
    Ok(Operation::StateApply { turn, ops, conditions })
}

/// The key of an entry of a sub-map as the core knows it.
fn entry_key(field: &str, key: Option<pb::SubMapKey>) -> Result<Arc<str>, Status> {
    let key = key.ok_or_else(|| invalid_field(field, "is missing"))?;
    checked(&format!("{field}.sub_map"), &key.sub_map)?;
    stored(&format!("{field}.key"), &key.sub_map, &key.key)
}

/// A key as the core knows it; of the actor's own if the sub-map has no name.
fn stored(field: &str, sub_map: &str, key: &str) -> Result<Arc<str>, Status> {
    checked(field, key)?;
    if sub_map.is_empty() {
        return Ok(key.into());
    }
    checked("sub_map", sub_map)?;
    Ok(format!("\0{sub_map}\0{key}").into())
}

/// The sub-map of a key as the core knows it, empty if it is none's, and its key there.
pub(in crate::convert) fn shown(stored: &str) -> (&str, &str) {
    stored.strip_prefix('\0').and_then(|rest| rest.split_once('\0')).unwrap_or(("", stored))
}

/// Entries for the wire, with the keys that they were given.
pub(super) fn entries(read: Entries) -> Vec<pb::StateEntry> {
    let entry = |(key, value): (Arc<str>, _)| pb::StateEntry {
        key: shown(&key).1.to_owned(),
        value: Some(payload_to(value, false)),
    };
    read.into_iter().map(entry).collect()
}

/// The actor's own keys.
pub(in crate::convert) fn own() -> KeyRange {
    KeyRange { from: "\u{1}".into(), to: None }
}

/// The entries of a sub-map.
fn entries_of(field: &str, sub_map: &str) -> Result<KeyRange, Status> {
    checked(field, sub_map)?;
    let to = Some(format!("\0{sub_map}\u{1}").into());
    Ok(KeyRange { from: format!("\0{sub_map}\0").into(), to })
}

/// Refuses what is no key, and no name of a sub-map.
fn checked(field: &str, text: &str) -> Result<(), Status> {
    if !(1..=KEY_BYTES_MAX).contains(&text.len()) {
        return Err(invalid_field(field, "must have 1 to 512 bytes"));
    }
    if text.contains('\0') {
        return Err(invalid_field(field, "must not have U+0000 in it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_sub_maps_and_own_keys_never_meet() {
        let names = ["a", "b", "ab", "\u{1}", "a\u{1}", "\u{10ffff}"];
        let mut seen = std::collections::BTreeSet::new();
        for sub_map in ["", "a", "b", "ab", "\u{1}", "a\u{1}"] {
            for key in names {
                let stored = stored("key", sub_map, key).expect("a key");
                assert_eq!(shown(&stored), (sub_map, key));
                assert_eq!(own().contains(&stored), sub_map.is_empty(), "{stored:?}");
                for other in ["a", "b", "ab", "\u{1}", "a\u{1}"] {
                    let range = entries_of("sub_map", other).expect("a name");
                    assert_eq!(range.contains(&stored), sub_map == other, "{stored:?} {other:?}");
                }
                assert!(seen.insert(stored));
            }
        }
    }

    #[test]
    fn names_that_would_meet_others_are_refused() {
        for text in ["", "\0", "a\0b", &"x".repeat(513)] {
            assert!(entries_of("sub_map", text).is_err(), "{text:?}");
            assert!(stored("key", "", text).is_err() && stored("key", "m", text).is_err());
        }
        assert!(stored("key", "a\0", "k").is_err());
    }
}
