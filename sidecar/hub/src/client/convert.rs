//! Between the words of the crate and those of the wire.

use std::time::Duration;

use kar_proto::hub::v1 as wire;
use wire::store_op::Op;

use crate::types::{
    ActorOps, FenceCell, MemberInfo, StateDelete, StateEntry, StateSet, StoreOp, Value,
};

/// What an operation costs on the wire besides its texts and bytes, bytes; a rough guess.
const OP_BYTES: usize = 16;

pub(crate) fn value(value: Value) -> wire::Value {
    wire::Value { data: value.data, content_type: value.content_type }
}

pub(crate) fn value_back(value: Option<wire::Value>) -> Value {
    let value = value.unwrap_or_default();
    Value { data: value.data, content_type: value.content_type }
}

pub(crate) fn cell(cell: Option<wire::Cell>) -> FenceCell {
    let cell = cell.unwrap_or_default();
    FenceCell { epoch: cell.epoch, offset: cell.offset }
}

pub(crate) fn state_entry(entry: wire::KeyValue) -> StateEntry {
    let expires_ms = (entry.expires_ms > 0).then_some(entry.expires_ms);
    StateEntry { key: entry.key, value: value_back(entry.value), etag: entry.etag, expires_ms }
}

/// As the wire has it. Nothing lives for less than a millisecond.
pub(crate) fn state_set(set: StateSet, request_id: String) -> wire::SetState {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    wire::SetState {
        key: set.key,
        value: Some(value(set.value)),
        etag: set.etag.unwrap_or_default(),
        request_id,
        time_to_live_ms: set.time_to_live.map_or(0, millis),
    }
}

pub(crate) fn state_delete(delete: StateDelete, request_id: String) -> wire::DeleteState {
    wire::DeleteState { key: delete.key, etag: delete.etag.unwrap_or_default(), request_id }
}

pub(crate) fn member(member: wire::Member) -> MemberInfo {
    MemberInfo {
        incarnation: member.incarnation,
        name: member.name,
        address: member.address,
        process_id: member.process_id,
        kinds: member.kinds,
        leaving: member.leaving,
        transient: member.transient,
    }
}

/// Operations as the wire has them, and roughly their size.
pub(crate) fn actor_ops(ops: Vec<ActorOps>) -> (Vec<wire::ActorOps>, usize) {
    let mut bytes = 0;
    let ops = ops
        .into_iter()
        .map(|actor| {
            bytes += actor.actor.len() + OP_BYTES;
            let ops = actor.ops.into_iter().map(|op| store_op(op, &mut bytes)).collect();
            wire::ActorOps { actor: actor.actor, ops }
        })
        .collect();
    (ops, bytes)
}

fn store_op(op: StoreOp, bytes: &mut usize) -> wire::StoreOp {
    *bytes += OP_BYTES;
    let op = match op {
        StoreOp::Set { key, value: v } => {
            *bytes += key.len() + v.data.len() + v.content_type.len();
            Op::Set(wire::KeyValue { key, value: Some(value(v)), ..Default::default() })
        }
        StoreOp::Remove { key } => {
            *bytes += key.len();
            Op::Remove(key)
        }
        StoreOp::RemoveRange { from, to } => {
            *bytes += from.len() + to.len();
            Op::RemoveRange(wire::KeyRange { from, to })
        }
        StoreOp::Clear => Op::Clear(true),
    };
    wire::StoreOp { op: Some(op) }
}
