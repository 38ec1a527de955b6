//! Requests about the application's state.

use std::collections::BTreeSet;
use std::sync::Arc;

use kar_core::limits::{LimitHit, Limits};
use kar_proto::v1 as pb;
use pb::request::Operation as Ask;
use tonic::Status;

use super::field::{KEY_BYTES_MAX, bounded, duration, key, optional, payload_from};
use crate::application_state::{StateDelete, StateOperation, StateSet};
use crate::convert::error::{invalid_field, limit_reached};

/// Parses a request about the application's state.
pub(super) fn operation(ask: Ask, limits: &Limits) -> Result<StateOperation, Status> {
    Ok(match ask {
        Ask::StateGet(r) => StateOperation::Get { key: key("key", &r.key)? },
        Ask::StateSet(mut r) => {
            let request_id = optional("request_id", std::mem::take(&mut r.request_id))?;
            StateOperation::Set { set: set("", r, limits)?, request_id }
        }
        Ask::StateDelete(mut r) => {
            let request_id = optional("request_id", std::mem::take(&mut r.request_id))?;
            StateOperation::Delete { delete: delete("", r)?, request_id }
        }
        Ask::StateTransact(r) => transact(r, limits)?,
        Ask::StateList(r) => StateOperation::List {
            prefix: bounded("prefix", r.prefix, KEY_BYTES_MAX)?,
            page_size: u32::try_from(r.page_size)
                .map_err(|_| invalid_field("page_size", "must not be negative"))?,
            page_token: bounded("page_token", r.page_token, KEY_BYTES_MAX)?,
        },
        _ => return Err(Status::internal("no request about the application's state")),
    })
}

/// A key to be set; `of` begins the names of its fields, and its own request id must be gone.
fn set(of: &str, r: pb::SetRequest, limits: &Limits) -> Result<StateSet, Status> {
    let time_to_live = r.time_to_live.map(|time| duration(&format!("{of}time_to_live"), &time));
    Ok(StateSet {
        key: key(&format!("{of}key"), &r.key)?,
        value: payload_from(&format!("{of}value"), r.value, limits.message_bytes_max)?.0,
        etag: optional(&format!("{of}etag"), r.etag)?,
        time_to_live: time_to_live.transpose()?,
    })
}

fn delete(of: &str, r: pb::DeleteRequest) -> Result<StateDelete, Status> {
    Ok(StateDelete {
        key: key(&format!("{of}key"), &r.key)?,
        etag: optional(&format!("{of}etag"), r.etag)?,
    })
}

fn transact(r: pb::TransactRequest, limits: &Limits) -> Result<StateOperation, Status> {
    let max = limits.state_transaction_changes_max;
    if r.sets.len() + r.deletes.len() > max {
        let name = "state_transaction_changes_max";
        return Err(limit_reached(LimitHit { name, limit: max as u64 }));
    }
    let own_id = |field: &str, id: &str| match id {
        "" => Ok(()),
        _ => Err(invalid_field(field, "must be empty: the transaction has one for all")),
    };
    let mut bytes = 0;
    let mut keys = BTreeSet::new();
    let mut once = |field: &str, key: &Arc<str>| match keys.insert(Arc::clone(key)) {
        true => Ok(()),
        false => Err(invalid_field(field, &format!("'{key}' is named twice: change a key once"))),
    };
    let mut sets = Vec::with_capacity(r.sets.len());
    for request in r.sets {
        own_id("sets.request_id", &request.request_id)?;
        let set = set("sets.", request, limits)?;
        once("sets.key", &set.key)?;
        bytes += set.key.len() + set.value.data.len() + set.value.content_type.len();
        sets.push(set);
    }
    let mut deletes = Vec::with_capacity(r.deletes.len());
    for request in r.deletes {
        own_id("deletes.request_id", &request.request_id)?;
        let delete = delete("deletes.", request)?;
        once("deletes.key", &delete.key)?;
        bytes += delete.key.len();
        deletes.push(delete);
    }
    let max = limits.state_transaction_bytes_max;
    if bytes > max {
        let name = "state_transaction_bytes_max";
        return Err(limit_reached(LimitHit { name, limit: max as u64 }));
    }
    let request_id = optional("request_id", r.request_id)?;
    Ok(StateOperation::Transact { sets, deletes, request_id })
}
