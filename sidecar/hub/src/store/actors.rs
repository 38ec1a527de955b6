//! Actor state and fence cells.

use kar_proto::hub::v1 as wire;
use rusqlite::{OptionalExtension, Transaction, params};
use wire::hub_frame::Frame;
use wire::store_op::Op;

use super::StoreStep;
use super::expiry::Room;

/// Bytes of keys and values after which an actor's state is told in another frame.
const PART_BYTES: usize = 1 << 20;

/// A log in the store.
struct Row {
    id: i64,
    epoch: u64,
    upto: u64,
}

// === impl Row ===

impl Row {
    fn cell(&self) -> wire::Cell {
        wire::Cell { epoch: self.epoch, offset: self.upto }
    }
}

/// Carries out a step; returns the frames that answer it with their sizes.
pub(super) fn step(
    tx: &Transaction<'_>,
    handle: u32,
    app: &str,
    log: &str,
    step: StoreStep,
) -> rusqlite::Result<Vec<(Frame, usize)>> {
    let row = find(tx, app, log)?;
    let refused = |row: &Row, epoch: u64| {
        let cell = Some(row.cell());
        Ok(vec![(Frame::StoreRefused(wire::StoreRefused { log: handle, epoch, cell }), 0)])
    };
    Ok(match step {
        StoreStep::Cell => {
            let cell = Some(row.as_ref().map(Row::cell).unwrap_or_default());
            vec![(Frame::StoreCell(wire::StoreCell { log: handle, cell }), 0)]
        }
        StoreStep::Load { actor, epoch } => load(tx, handle, row, actor, epoch)?,
        StoreStep::Fence { epoch } => {
            let row = or_insert(tx, row, app, log)?;
            if row.epoch > epoch {
                return refused(&row, epoch);
            }
            set_cell(tx, &row, epoch, row.upto)?;
            let cell = Some(row.cell());
            vec![(Frame::StoreFenced(wire::StoreFenced { log: handle, cell, epoch }), 0)]
        }
        StoreStep::Write { expected, upto, ops } => {
            let epoch = expected.epoch;
            let row = or_insert(tx, row, app, log)?;
            if row.cell() != expected {
                return refused(&row, epoch);
            }
            for actor in ops {
                apply(tx, row.id, actor)?;
            }
            set_cell(tx, &row, epoch, upto)?;
            vec![(Frame::StoreWritten(wire::StoreWritten { log: handle, upto, epoch }), 0)]
        }
    })
}

/// Deletes some of an application's logs; true: there are none any more.
pub(super) fn purge(tx: &Transaction<'_>, app: &str, room: &mut Room) -> rusqlite::Result<bool> {
    loop {
        let log: Option<i64> = tx
            .prepare_cached("SELECT id FROM log WHERE app = ?1 LIMIT 1")?
            .query_row([app], |row| row.get(0))
            .optional()?;
        let Some(log) = log else { return Ok(true) };
        let mut keys = Vec::new();
        {
            let mut select =
                tx.prepare_cached("SELECT actor, key, length(data) FROM actor WHERE log = ?1")?;
            let mut rows = select.query([log])?;
            while room.is_left()
                && let Some(row) = rows.next()?
            {
                keys.push((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
                room.take(row.get(2)?);
            }
        }
        for (actor, key) in keys {
            tx.prepare_cached("DELETE FROM actor WHERE log = ?1 AND actor = ?2 AND key = ?3")?
                .execute(params![log, actor, key])?;
        }
        if !room.is_left() {
            return Ok(false);
        }
        room.take(0);
        tx.prepare_cached("DELETE FROM log WHERE id = ?1")?.execute([log])?;
    }
}

fn find(tx: &Transaction<'_>, app: &str, log: &str) -> rusqlite::Result<Option<Row>> {
    tx.prepare_cached("SELECT id, epoch, upto FROM log WHERE app = ?1 AND name = ?2")?
        .query_row(params![app, log], |row| {
            Ok(Row {
                id: row.get(0)?,
                epoch: row.get::<_, i64>(1)? as u64,
                upto: row.get::<_, i64>(2)? as u64,
            })
        })
        .optional()
}

fn or_insert(
    tx: &Transaction<'_>,
    row: Option<Row>,
    app: &str,
    log: &str,
) -> rusqlite::Result<Row> {
    if let Some(row) = row {
        return Ok(row);
    }
    tx.prepare_cached("INSERT INTO log (app, name, epoch, upto) VALUES (?1, ?2, 0, 0)")?
        .execute(params![app, log])?;
    Ok(Row { id: tx.last_insert_rowid(), epoch: 0, upto: 0 })
}

fn set_cell(tx: &Transaction<'_>, row: &Row, epoch: u64, upto: u64) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE log SET epoch = ?2, upto = ?3 WHERE id = ?1")?.execute(params![
        row.id,
        epoch as i64,
        upto as i64
    ])?;
    Ok(())
}

fn apply(tx: &Transaction<'_>, log: i64, actor: wire::ActorOps) -> rusqlite::Result<()> {
    let name = actor.actor;
    for op in actor.ops.into_iter().filter_map(|op| op.op) {
        match op {
            Op::Set(set) => {
                let value = set.value.unwrap_or_default();
                tx.prepare_cached(
                    "INSERT INTO actor (log, actor, key, type, data) VALUES (?1, ?2, ?3, ?4, ?5) \
                     ON CONFLICT DO UPDATE SET type = excluded.type, data = excluded.data",
                )?
                .execute(params![
                    log,
                    name,
                    set.key,
                    value.content_type,
                    &value.data[..]
                ])?;
            }
            Op::Remove(key) => {
                tx.prepare_cached("DELETE FROM actor WHERE log = ?1 AND actor = ?2 AND key = ?3")?
                    .execute(params![log, name, key])?;
            }
            Op::RemoveRange(range) => {
                tx.prepare_cached(
                    "DELETE FROM actor WHERE log = ?1 AND actor = ?2 AND key >= ?3 \
                     AND (?4 = '' OR key < ?4)",
                )?
                .execute(params![log, name, range.from, range.to])?;
            }
            Op::Clear(_) => {
                tx.prepare_cached("DELETE FROM actor WHERE log = ?1 AND actor = ?2")?
                    .execute(params![log, name])?;
            }
        }
    }
    Ok(())
}

fn load(
    tx: &Transaction<'_>,
    handle: u32,
    row: Option<Row>,
    actor: String,
    epoch: u64,
) -> rusqlite::Result<Vec<(Frame, usize)>> {
    let mut frames = Vec::new();
    let mut part = wire::ActorLoaded { log: handle, actor, epoch, ..Default::default() };
    let mut bytes = 0;
    if let Some(row) = row {
        part.cell = Some(row.cell());
        let mut select = tx.prepare_cached(
            "SELECT key, type, data FROM actor WHERE log = ?1 AND actor = ?2 ORDER BY key",
        )?;
        let mut rows = select.query(params![row.id, part.actor])?;
        while let Some(found) = rows.next()? {
            let key: String = found.get(0)?;
            let data: Vec<u8> = found.get(2)?;
            let size = key.len() + data.len();
            if bytes + size > PART_BYTES && bytes > 0 {
                let whole = wire::ActorLoaded { more: true, ..part.clone() };
                frames.push((Frame::ActorLoaded(whole), bytes));
                part.entries.clear();
                bytes = 0;
            }
            bytes += size;
            let value = Some(wire::Value { data: data.into(), content_type: found.get(1)? });
            part.entries.push(wire::KeyValue { key, value, ..Default::default() });
        }
    }
    frames.push((Frame::ActorLoaded(part), bytes));
    Ok(frames)
}
