//! Application state.

use kar_proto::hub::v1 as wire;
use prost::Message as _;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use wire::state_request::Request;
use wire::state_response::Response;

use crate::options::{NAME_BYTES_MAX, PAGE_SIZE_MAX, RECORD_BYTES_MAX, REQUESTS_REMEMBERED};

/// Bytes after which a page ends early.
const PAGE_BYTES: usize = 4 << 20;

/// Answers a request; returns the answer's size, too.
pub(super) fn answer(
    tx: &Transaction<'_>,
    app: &str,
    request: Request,
) -> rusqlite::Result<(Response, usize)> {
    if let Err(message) = check(&request) {
        let reason = wire::RefusedReason::Invalid.into();
        return Ok((Response::Refused(wire::Refused { reason, message }), 0));
    }
    Ok(match request {
        Request::Get(get) => {
            let entry = find(tx, app, &get.key)?;
            let bytes = entry.as_ref().map_or(0, wire::KeyValue::encoded_len);
            (Response::Got(wire::GotState { entry }), bytes)
        }
        Request::Set(set) => {
            let id = set.request_id.clone();
            (once(tx, app, &id, || self::set(tx, app, set))?, 0)
        }
        Request::Delete(delete) => {
            let id = delete.request_id.clone();
            (once(tx, app, &id, || self::delete(tx, app, &delete))?, 0)
        }
        Request::List(list) => self::list(tx, app, &list)?,
        Request::Purge(_)
        | Request::PutSnapshot(_)
        | Request::GetSnapshot(_)
        | Request::DeleteSnapshot(_)
        | Request::ListSnapshots(_) => {
            let (reason, message) =
                (wire::RefusedReason::Invalid.into(), "not a request for the store".to_owned());
            (Response::Refused(wire::Refused { reason, message }), 0)
        }
    })
}

/// Deletes all state of an application.
pub(super) fn purge(tx: &Transaction<'_>, app: &str) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM state WHERE app = ?1", [app])?;
    tx.execute("DELETE FROM request WHERE app = ?1", [app])?;
    Ok(())
}

fn check(request: &Request) -> Result<(), String> {
    let (key, value) = match request {
        Request::Get(get) => (&get.key, 0),
        Request::Set(set) => {
            let value = set.value.as_ref().map_or(0, |v| v.data.len() + v.content_type.len());
            (&set.key, value)
        }
        Request::Delete(delete) => (&delete.key, 0),
        // The others have no key here.
        _ => return Ok(()),
    };
    if key.is_empty() || key.len() > NAME_BYTES_MAX {
        return Err(format!("a key has 1 to {NAME_BYTES_MAX} bytes, not {}", key.len()));
    }
    if value > RECORD_BYTES_MAX {
        return Err(format!("a value has at most {RECORD_BYTES_MAX} bytes, not {value}"));
    }
    Ok(())
}

/// Does something once per request id; a repetition gets the first answer.
fn once(
    tx: &Transaction<'_>,
    app: &str,
    id: &str,
    act: impl FnOnce() -> rusqlite::Result<Response>,
) -> rusqlite::Result<Response> {
    if id.is_empty() {
        return act();
    }
    let former: Option<Vec<u8>> = tx
        .prepare_cached("SELECT answer FROM request WHERE app = ?1 AND id = ?2")?
        .query_row(params![app, id], |row| row.get(0))
        .optional()?;
    if let Some(former) = former
        && let Ok(wire::StateResponse { response: Some(response), .. }) =
            wire::StateResponse::decode(&former[..])
    {
        return Ok(response);
    }
    let response = act()?;
    let answer = wire::StateResponse { number: 0, response: Some(response.clone()) };
    let newest: Option<i64> = tx
        .prepare_cached("SELECT max(number) FROM request WHERE app = ?1")?
        .query_row([app], |row| row.get(0))?;
    let number = newest.unwrap_or(0) + 1;
    tx.prepare_cached("INSERT INTO request (app, id, number, answer) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![app, id, number, answer.encode_to_vec()])?;
    tx.prepare_cached("DELETE FROM request WHERE app = ?1 AND number <= ?2")?
        .execute(params![app, number - REQUESTS_REMEMBERED as i64])?;
    Ok(response)
}

fn set(tx: &Transaction<'_>, app: &str, set: wire::SetState) -> rusqlite::Result<Response> {
    if !set.etag.is_empty() {
        let current = etag(tx, app, &set.key)?;
        let holds = match (set.etag.as_str(), &current) {
            ("*", current) => current.is_none(),
            (wanted, Some(current)) => wanted == current,
            (_, None) => false,
        };
        if !holds {
            let etag = current.unwrap_or_default();
            return Ok(Response::ConditionFailed(wire::ConditionFailed { etag }));
        }
    }
    let etag: i64 = tx
        .prepare_cached("UPDATE counter SET value = value + 1 RETURNING value")?
        .query_row([], |row| row.get(0))?;
    let value = set.value.unwrap_or_default();
    tx.prepare_cached(
        "INSERT INTO state (app, key, etag, type, data) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT DO UPDATE SET \
         etag = excluded.etag, type = excluded.type, data = excluded.data",
    )?
    .execute(params![app, set.key, etag, value.content_type, &value.data[..]])?;
    Ok(Response::Wrote(wire::WroteState { etag: etag.to_string() }))
}

fn delete(
    tx: &Transaction<'_>,
    app: &str,
    delete: &wire::DeleteState,
) -> rusqlite::Result<Response> {
    if !delete.etag.is_empty() {
        let current = etag(tx, app, &delete.key)?;
        if current.as_ref() != Some(&delete.etag) {
            let etag = current.unwrap_or_default();
            return Ok(Response::ConditionFailed(wire::ConditionFailed { etag }));
        }
    }
    let deleted = tx
        .prepare_cached("DELETE FROM state WHERE app = ?1 AND key = ?2")?
        .execute(params![app, delete.key])?;
    Ok(Response::Deleted(wire::DeletedState { existed: deleted > 0 }))
}

fn list(
    tx: &Transaction<'_>,
    app: &str,
    list: &wire::ListState,
) -> rusqlite::Result<(Response, usize)> {
    let page_size = list.page_size.clamp(1, PAGE_SIZE_MAX) as usize;
    let mut select = tx.prepare_cached(
        "SELECT key, type, data, etag FROM state \
         WHERE app = ?1 AND key >= ?2 AND key > ?3 ORDER BY key",
    )?;
    let mut rows = select.query(params![app, list.prefix, list.after])?;
    let mut page = wire::StateList::default();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let entry = entry(row)?;
        if !entry.key.starts_with(&list.prefix) {
            break;
        }
        let size = entry.encoded_len();
        if page.entries.len() == page_size || (bytes > 0 && bytes + size > PAGE_BYTES) {
            page.more = true;
            break;
        }
        bytes += size;
        page.entries.push(entry);
    }
    Ok((Response::List(page), bytes))
}

fn find(tx: &Transaction<'_>, app: &str, key: &str) -> rusqlite::Result<Option<wire::KeyValue>> {
    tx.prepare_cached("SELECT key, type, data, etag FROM state WHERE app = ?1 AND key = ?2")?
        .query_row(params![app, key], entry)
        .optional()
}

fn etag(tx: &Transaction<'_>, app: &str, key: &str) -> rusqlite::Result<Option<String>> {
    tx.prepare_cached("SELECT etag FROM state WHERE app = ?1 AND key = ?2")?
        .query_row(params![app, key], |row| Ok(row.get::<_, i64>(0)?.to_string()))
        .optional()
}

fn entry(row: &Row<'_>) -> rusqlite::Result<wire::KeyValue> {
    let data: Vec<u8> = row.get(2)?;
    Ok(wire::KeyValue {
        key: row.get(0)?,
        value: Some(wire::Value { data: data.into(), content_type: row.get(1)? }),
        etag: row.get::<_, i64>(3)?.to_string(),
    })
}
