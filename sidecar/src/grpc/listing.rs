//! Listings over all nodes, by pages, for people and tools.

use std::sync::Arc;

use kar_core::assign::desired_owner;
use kar_core::ids::{Class, PartitionId, Uuid};
use kar_core::message::Found;
use kar_proto::log::v1 as log;
use kar_proto::peer::v1 as peer;
use kar_proto::v1 as pb;
use prost::Message;
use tonic::Status;

use super::api::Api;
use crate::convert::api::{invocation_id, timestamp};
use crate::convert::error::invalid_field;
use crate::convert::log::{class_from, outcome_to, partition_to, uuid_from};
use crate::convert::peer::invocation_view_to;
use crate::convert::policy::dead_letter_to;
use crate::driver::Driver;
use crate::peer::inspect;

/// Rows of a page, where the request does not say.
const PAGE_DEFAULT: usize = 100;
/// Most rows of a page.
const PAGE_MAX: usize = 10_000;
/// A page ends when its rows have so many bytes: clients of other makers take messages of 4 MiB, and no longer ones.
const PAGE_BYTES_MAX: usize = 2 << 20;

/// Unfinished invocations of the application, oldest first.
///
/// # Errors
///
/// If a field is wrong.
pub async fn invocations(
    driver: &Arc<Driver>,
    request: pb::ListInvocationsRequest,
) -> Result<pb::ListInvocationsResponse, Status> {
    let size = page_size(request.page_size)?;
    let told = inspect::settled(driver).await;
    let mut left_out = LeftOut::new(&told, &request.kind);
    let mut rows = Vec::new();
    for (card, view) in told.views {
        for partition in view.partitions {
            let id = partition.partition.unwrap_or_default();
            if !request.kind.is_empty() && id.kind != request.kind {
                continue;
            }
            left_out.rows(partition.invocations_left_out);
            for invocation in partition.invocations {
                rows.push(invocation_info(&id, invocation, &card.name)?);
            }
        }
    }
    let (invocations, next_page_token) =
        page(rows, size, &request.page_token, |row| by_age(&row.invocation_id));
    let left_out = left_out.told();
    Ok(pb::ListInvocationsResponse { invocations, next_page_token, left_out })
}

/// What is known of one invocation.
///
/// # Errors
///
/// If the id is wrong, nothing is known of it, or its owner did not answer.
pub async fn invocation(
    api: &Api,
    request: pb::GetInvocationRequest,
) -> Result<pb::GetInvocationResponse, Status> {
    let id = invocation_id(&request.invocation_id)?;
    let partition = partition_to(&id.home);
    let info = match api.find(id.clone()).await? {
        Found::Unfinished(view) => {
            let node = owner(&api.driver, &id.home);
            invocation_info(&partition, invocation_view_to(&view), &node)?
        }
        Found::Ended(outcome) => pb::InvocationInfo {
            invocation_id: id.to_string(),
            state: pb::InvocationState::Completed.into(),
            create_time: made_at(id.uuid),
            ..ended(Some(outcome_to(&outcome)))
        },
        Found::Dead(view) => {
            let view = dead_letter_to(&view);
            let (invocation_id, target) = names(&partition, id.uuid, view.actor)?;
            pb::InvocationInfo {
                invocation_id,
                target: Some(target),
                method: view.method,
                mode: pb::InvocationMode::Tell.into(),
                state: pb::InvocationState::Completed.into(),
                attempt: i32::try_from(view.attempts).unwrap_or(i32::MAX),
                create_time: made_at(id.uuid),
                end_time: Some(timestamp(view.time_ms)),
                ..ended(view.outcome)
            }
        }
    };
    Ok(pb::GetInvocationResponse { invocation: Some(info) })
}

/// Name of the node that a partition belongs to; empty if there is none.
fn owner(driver: &Driver, partition: &PartitionId) -> String {
    let (directory, members) = driver.topology();
    let owner = desired_owner(&members, partition).and_then(|node| directory.get(&node));
    owner.map(|card| card.name.clone()).unwrap_or_default()
}

/// How an invocation ended, and with which error.
fn ended(outcome: Option<log::Outcome>) -> pb::InvocationInfo {
    use log::outcome::Outcome as O;
    let (end, error) = match outcome.and_then(|outcome| outcome.outcome) {
        None => (pb::InvocationEnd::Unspecified, None),
        Some(O::Done(_)) => (pb::InvocationEnd::Done, None),
        Some(O::Failed(error)) => (pb::InvocationEnd::Failed, Some(error_in_short(error))),
        Some(O::Refused(_)) => (pb::InvocationEnd::Refused, None),
        Some(O::Deadlock(_)) => (pb::InvocationEnd::Deadlock, None),
        Some(O::Expired(_)) => (pb::InvocationEnd::Expired, None),
        Some(O::Cancelled(_)) => (pb::InvocationEnd::Cancelled, None),
        Some(O::Withdrawn(_)) => (pb::InvocationEnd::Withdrawn, None),
    };
    pb::InvocationInfo { end: end.into(), error, ..pb::InvocationInfo::default() }
}

fn error_in_short(error: log::Failure) -> pb::ApplicationError {
    pb::ApplicationError {
        code: error.code,
        message: error.message,
        detail: error.detail,
        payload: None,
        retryable: error.retryable,
    }
}

/// Dead letters of the application, oldest first.
///
/// # Errors
///
/// If a field is wrong.
pub async fn dead_letters(
    driver: &Arc<Driver>,
    request: pb::ListDeadLettersRequest,
) -> Result<pb::ListDeadLettersResponse, Status> {
    let size = page_size(request.page_size)?;
    let told = inspect::settled(driver).await;
    let mut left_out = LeftOut::new(&told, &request.kind);
    let mut rows = Vec::new();
    for (_, view) in told.views {
        for partition in view.partitions {
            let id = partition.partition.unwrap_or_default();
            if !request.kind.is_empty() && id.kind != request.kind {
                continue;
            }
            left_out.rows(partition.dead_letters_left_out);
            for letter in partition.dead_letters {
                rows.push(dead_letter(&id, letter)?);
            }
        }
    }
    let (dead_letters, next_page_token) =
        page(rows, size, &request.page_token, |row| by_age(&row.invocation_id));
    let left_out = left_out.told();
    Ok(pb::ListDeadLettersResponse { dead_letters, next_page_token, left_out })
}

fn dead_letter(
    id: &log::PartitionId,
    view: peer::DeadLetterView,
) -> Result<pb::DeadLetter, Status> {
    let malformed = |e: crate::convert::Malformed| Status::internal(e.to_string());
    let uuid = uuid_from(&view.uuid).map_err(malformed)?;
    let (invocation_id, target) = names(id, uuid, view.actor)?;
    let error = match view.outcome.and_then(|outcome| outcome.outcome) {
        Some(log::outcome::Outcome::Failed(error)) => Some(error_in_short(error)),
        _ => None,
    };
    Ok(pb::DeadLetter {
        invocation_id,
        target: Some(target),
        method: view.method,
        error,
        attempts: i32::try_from(view.attempts).unwrap_or(i32::MAX),
        create_time: made_at(uuid),
        end_time: Some(timestamp(view.time_ms)),
    })
}

/// An invocation's id and target.
fn names(id: &log::PartitionId, uuid: Uuid, actor: String) -> Result<(String, pb::Target), Status> {
    use pb::target::Kind as K;
    let malformed = |e: crate::convert::Malformed| Status::internal(e.to_string());
    let (prefix, target) = match class_from(id.class).map_err(malformed)? {
        Class::Service => {
            let name = id.kind.clone();
            ('s', K::Service(pb::ServiceTarget { name, affinity_key: String::new() }))
        }
        Class::Actor => ('a', K::Actor(pb::ActorTarget { r#type: id.kind.clone(), id: actor })),
        // Nothing is invoked there.
        Class::System => return Err(malformed(crate::convert::Malformed::Field("class"))),
    };
    let text = format!("{prefix}.{}/{}/{uuid}", id.kind, id.index);
    Ok((text, pb::Target { kind: Some(target) }))
}

/// Busy actors of the application, by type and id.
///
/// # Errors
///
/// If a field is wrong.
pub async fn actors(
    driver: &Arc<Driver>,
    request: pb::ListActorsRequest,
) -> Result<pb::ListActorsResponse, Status> {
    let size = page_size(request.page_size)?;
    let told = inspect::settled(driver).await;
    let mut left_out = LeftOut::new(&told, &request.r#type);
    let mut rows = Vec::new();
    for (card, view) in told.views {
        for partition in view.partitions {
            let id = partition.partition.unwrap_or_default();
            if !request.r#type.is_empty() && id.kind != request.r#type {
                continue;
            }
            left_out.rows(partition.actors_left_out);
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
    let left_out = left_out.told();
    Ok(pb::ListActorsResponse { actors, next_page_token, left_out })
}

/// What a listing leaves out.
struct LeftOut(pb::LeftOut);

// === impl LeftOut ===

impl LeftOut {
    /// What was not told of a kind; of all, if it has no name.
    fn new(told: &inspect::Told, kind: &str) -> Self {
        let silent = told.silent.iter();
        let silent = silent
            .map(|(card, cause)| pb::SilentNode { name: card.name.clone(), cause: cause.clone() });
        let missing = told.missing.iter();
        let missing = missing.filter(|id| kind.is_empty() || *id.kind.name == *kind);
        let partitions: Vec<String> = missing.map(ToString::to_string).collect();
        // A node that serves nothing of what is asked for is not missed.
        let nodes = if partitions.is_empty() { Vec::new() } else { silent.collect() };
        Self(pb::LeftOut { nodes, partitions, rows: 0 })
    }

    fn rows(&mut self, count: u64) {
        self.0.rows = self.0.rows.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// `None`: nothing is left out.
    fn told(self) -> Option<pb::LeftOut> {
        Some(self.0).filter(|left_out| *left_out != pb::LeftOut::default())
    }
}

fn page_size(asked: i32) -> Result<usize, Status> {
    match usize::try_from(asked) {
        Ok(0) => Ok(PAGE_DEFAULT),
        Ok(size) => Ok(size.min(PAGE_MAX)),
        Err(_) => Err(invalid_field("page_size", "must not be negative")),
    }
}

/// The rows after the one with the key `after`, in the order of their keys, and the token of the next page. No two rows
/// have the same key.
pub(super) fn page<T: Message>(
    rows: Vec<T>,
    size: usize,
    after: &str,
    key: impl Fn(&T) -> String,
) -> (Vec<T>, String) {
    let mut rows: Vec<(String, T)> = rows.into_iter().map(|row| (key(&row), row)).collect();
    rows.retain(|(key, _)| key.as_str() > after || after.is_empty());
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    let mut bytes = 0;
    let mut fits = |(_, row): &(String, T)| {
        let is_first = bytes == 0;
        bytes += row.encoded_len();
        is_first || bytes <= PAGE_BYTES_MAX
    };
    let shown = rows.iter().take(size).take_while(|row| fits(row)).count();
    let more = rows.len() > shown;
    rows.truncate(shown);
    let token = rows.last().filter(|_| more).map(|(key, _)| key.clone()).unwrap_or_default();
    (rows.into_iter().map(|(_, row)| row).collect(), token)
}

/// Orders invocations by age. The unique part of an id begins with the time it was made at; a chain of tail calls has
/// it twice, at its home and where it runs.
fn by_age(invocation_id: &str) -> String {
    let unique = invocation_id.rsplit('/').next().unwrap_or_default();
    format!("{unique} {invocation_id}")
}

fn invocation_info(
    id: &log::PartitionId,
    view: peer::InvocationView,
    node: &str,
) -> Result<pb::InvocationInfo, Status> {
    let malformed = |e: crate::convert::Malformed| Status::internal(e.to_string());
    let uuid = uuid_from(&view.uuid).map_err(malformed)?;
    let (invocation_id, target) = names(id, uuid, view.actor.clone())?;
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
        peer::Phase::Parked => pb::InvocationState::Parked,
    };
    let behind = match &view.behind[..] {
        [] => String::new(),
        uuid => names(id, uuid_from(uuid).map_err(malformed)?, view.actor.clone())?.0,
    };
    Ok(pb::InvocationInfo {
        invocation_id,
        target: Some(target),
        method: view.method,
        mode: mode.into(),
        state: state.into(),
        attempt: i32::try_from(view.attempt).unwrap_or(i32::MAX),
        create_time: made_at(uuid),
        node: node.to_owned(),
        cancel_requested: view.cancel,
        last_attempt_end: view.ended.map(attempt_end),
        retry_time: (view.retry_at_ms > 0).then(|| timestamp(view.retry_at_ms)),
        behind_invocation_id: behind,
        ..pb::InvocationInfo::default()
    })
}

fn attempt_end(ended: log::AttemptEnd) -> pb::AttemptEnd {
    use pb::AttemptEndCause as C;
    let cause = match ended.cause() {
        log::Cause::Unspecified => C::Unspecified,
        log::Cause::HostLost => C::HostLost,
        log::Cause::ReignLost => C::OwnerLost,
        log::Cause::HandOver => C::HandOver,
        log::Cause::ApplicationError => C::ApplicationError,
        log::Cause::Stopped => C::Stopped,
    };
    pb::AttemptEnd { cause: cause.into(), message: ended.error }
}

/// When an invocation was made, if its id says so: one that was derived from an idempotency key does not.
fn made_at(uuid: Uuid) -> Option<prost_types::Timestamp> {
    let version = (uuid.0 >> 76) & 0xf;
    (version == 7).then(|| timestamp((uuid.0 >> 80) as u64))
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
    fn both_entries_of_a_chain_are_listed_wherever_a_page_ends() {
        let ids = ["a.Home/1/0199-1", "a.Other/7/0199-1", "a.Other/7/0199-2"];
        let row = |id: &str| pb::InvocationInfo { invocation_id: id.into(), ..Default::default() };
        let rows: Vec<_> = ids.into_iter().map(row).collect();
        let (mut listed, mut token) = (Vec::new(), String::new());
        loop {
            let rows = rows.clone();
            let (next, after) = page(rows, 1, &token, |row| by_age(&row.invocation_id));
            listed.extend(next.into_iter().map(|row| row.invocation_id));
            if after.is_empty() {
                break;
            }
            token = after;
        }
        assert_eq!(listed, ids);
    }

    #[test]
    fn pages_are_as_short_as_every_client_takes_them() {
        let rows: Vec<String> = (0..30).map(|n| format!("{n:02}{}", "x".repeat(300_000))).collect();
        let (mut listed, mut token) = (0, String::new());
        while listed < rows.len() {
            let (next, after) = page(rows.clone(), 100, &token, |row| row[..2].to_owned());
            let bytes: usize = next.iter().map(Message::encoded_len).sum();
            assert!(!next.is_empty() && bytes <= PAGE_BYTES_MAX, "{bytes} bytes");
            assert_eq!(next[0], rows[listed]);
            listed += next.len();
            token = after;
        }
        assert_eq!(token, "");
        let long = vec!["x".repeat(2 * PAGE_BYTES_MAX)];
        assert_eq!(page(long, 1, "", |_| "k".into()).0.len(), 1, "one is told in any case");
    }

    #[test]
    fn the_time_is_in_the_id() {
        let made = made_at(Uuid::v7(1_700_000_000_123, 77));
        assert_eq!(made, Some(timestamp(1_700_000_000_123)));
        // As those of idempotency keys are.
        let derived = Uuid(!(0xf << 76) | (8 << 76));
        assert_eq!(made_at(derived), None);
    }
}
