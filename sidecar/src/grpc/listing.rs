//! Listings over all nodes, by pages, for people and tools.

use std::sync::Arc;

use kar_core::ids::{Class, Uuid};
use kar_proto::log::v1 as log;
use kar_proto::peer::v1 as peer;
use kar_proto::v1 as pb;
use tonic::Status;

use crate::convert::api::timestamp;
use crate::convert::error::invalid_field;
use crate::convert::log::{class_from, uuid_from};
use crate::driver::Driver;
use crate::peer::inspect;

/// Rows of a page, where the request does not say.
const PAGE_DEFAULT: usize = 100;
/// Most rows of a page.
const PAGE_MAX: usize = 10_000;

/// Unfinished invocations of the application, oldest first.
///
/// # Errors
///
/// If a field is wrong, or a node did not answer.
pub async fn invocations(
    driver: &Arc<Driver>,
    request: pb::ListInvocationsRequest,
) -> Result<pb::ListInvocationsResponse, Status> {
    let size = page_size(request.page_size)?;
    let mut rows = Vec::new();
    for (card, view) in inspect::settled(driver).await? {
        for partition in view.partitions {
            let id = partition.partition.unwrap_or_default();
            if !request.kind.is_empty() && id.kind != request.kind {
                continue;
            }
            for invocation in partition.invocations {
                rows.push(invocation_info(&id, invocation, &card.name)?);
            }
        }
    }
    // The unique part of an id begins with the time it was made at.
    let (invocations, next_page_token) =
        page(rows, size, &request.page_token, |row| unique_part(&row.invocation_id).to_owned());
    Ok(pb::ListInvocationsResponse { invocations, next_page_token })
}

/// Busy actors of the application, by type and id.
///
/// # Errors
///
/// If a field is wrong, or a node did not answer.
pub async fn actors(
    driver: &Arc<Driver>,
    request: pb::ListActorsRequest,
) -> Result<pb::ListActorsResponse, Status> {
    let size = page_size(request.page_size)?;
    let mut rows = Vec::new();
    for (card, view) in inspect::settled(driver).await? {
        for partition in view.partitions {
            let id = partition.partition.unwrap_or_default();
            if !request.r#type.is_empty() && id.kind != request.r#type {
                continue;
            }
            rows.extend(partition.actors.into_iter().map(|actor| pb::ActorInfo {
                actor: Some(pb::ActorTarget { r#type: id.kind.clone(), id: actor.actor }),
                node: card.name.clone(),
                queued: i32::try_from(actor.queued).unwrap_or(i32::MAX),
                busy: actor.busy,
            }));
        }
    }
    // Names of types have no slash.
    let (actors, next_page_token) = page(rows, size, &request.page_token, |row| {
        row.actor.as_ref().map(|a| format!("{}/{}", a.r#type, a.id)).unwrap_or_default()
    });
    Ok(pb::ListActorsResponse { actors, next_page_token })
}

fn page_size(asked: i32) -> Result<usize, Status> {
    match usize::try_from(asked) {
        Ok(0) => Ok(PAGE_DEFAULT),
        Ok(size) => Ok(size.min(PAGE_MAX)),
        Err(_) => Err(invalid_field("page_size", "must not be negative")),
    }
}

/// The rows after the one with the key `after`, in the order of their keys, and the token of the next page.
fn page<T>(rows: Vec<T>, size: usize, after: &str, key: impl Fn(&T) -> String) -> (Vec<T>, String) {
    let mut rows: Vec<(String, T)> = rows.into_iter().map(|row| (key(&row), row)).collect();
    rows.retain(|(key, _)| key.as_str() > after || after.is_empty());
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    let more = rows.len() > size;
    rows.truncate(size);
    let token = rows.last().filter(|_| more).map(|(key, _)| key.clone()).unwrap_or_default();
    (rows.into_iter().map(|(_, row)| row).collect(), token)
}

fn unique_part(invocation_id: &str) -> &str {
    invocation_id.rsplit('/').next().unwrap_or_default()
}

fn invocation_info(
    id: &log::PartitionId,
    view: peer::InvocationView,
    node: &str,
) -> Result<pb::InvocationInfo, Status> {
    use pb::target::Kind as K;
    let malformed = |e: crate::convert::Malformed| Status::internal(e.to_string());
    let uuid = uuid_from(&view.uuid).map_err(malformed)?;
    let (prefix, target) = match class_from(id.class).map_err(malformed)? {
        Class::Service => {
            let name = id.kind.clone();
            ('s', K::Service(pb::ServiceTarget { name, affinity_key: String::new() }))
        }
        Class::Actor => {
            let actor = pb::ActorTarget { r#type: id.kind.clone(), id: view.actor.clone() };
            ('a', K::Actor(actor))
        }
    };
    let mode = match view.mode() {
        log::Mode::Unspecified => pb::InvocationMode::Unspecified,
        log::Mode::Call => pb::InvocationMode::Call,
        log::Mode::Tell => pb::InvocationMode::Tell,
        log::Mode::Start => pb::InvocationMode::Start,
    };
    let state = match view.phase() {
        peer::Phase::Unspecified => pb::InvocationState::Unspecified,
        peer::Phase::Queued => pb::InvocationState::Queued,
        peer::Phase::Running => pb::InvocationState::Running,
        peer::Phase::Suspended => pb::InvocationState::Suspended,
        peer::Phase::Retrying => pb::InvocationState::Retrying,
        peer::Phase::Moved => pb::InvocationState::Moved,
    };
    Ok(pb::InvocationInfo {
        invocation_id: format!("{prefix}.{}/{}/{uuid}", id.kind, id.index),
        target: Some(pb::Target { kind: Some(target) }),
        method: view.method,
        mode: mode.into(),
        state: state.into(),
        attempt: i32::try_from(view.attempt).unwrap_or(i32::MAX),
        create_time: Some(timestamp(made_at(uuid))),
        node: node.to_owned(),
    })
}

/// When a version 7 UUID was made.
fn made_at(uuid: Uuid) -> u64 {
    (uuid.0 >> 80) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_without_gaps() {
        let rows: Vec<u32> = (0..25).rev().collect();
        let key = |row: &u32| format!("{row:03}");
        let (first, token) = page(rows.clone(), 10, "", key);
        assert_eq!((first, token.as_str()), ((0..10).collect(), "009"));
        let (second, token) = page(rows.clone(), 10, &token, key);
        assert_eq!((second, token.as_str()), ((10..20).collect(), "019"));
        let (third, token) = page(rows, 10, &token, key);
        assert_eq!((third, token.as_str()), ((20..25).collect(), ""));
    }

    #[test]
    fn the_time_is_in_the_id() {
        assert_eq!(made_at(Uuid::v7(1_700_000_000_123, 77)), 1_700_000_000_123);
    }
}
