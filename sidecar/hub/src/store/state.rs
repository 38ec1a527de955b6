//! Application state.
//!
//! Changes are remembered by the ids of their requests, with their answers: so a client that lost
//! its hub before it was answered asks again, and nothing is done twice. A transaction looks at all
//! its conditions before it changes anything.

use std::collections::BTreeSet;

use kar_proto::hub::v1 as wire;
use prost::Message as _;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use wire::state_request::Request;
use wire::state_response::Response;

use super::At;
use super::expiry::Room;
use crate::options::{
    NAME_BYTES_MAX, PAGE_SIZE_MAX, RECORD_BYTES_MAX, REQUESTS_REMEMBERED, TRANSACTION_CHANGES_MAX,
};

/// Bytes after which a page ends early.
const PAGE_BYTES: usize = 4 << 20;
/// Keys that have expired and are not removed yet after which a page ends early.
const PASSED_OVER_MAX: usize = 4_096;

/// Answers a request; returns the answer's size, too.
pub(super) fn answer(
    tx: &Transaction<'_>,
    at: &At,
    app: &str,
    request: Request,
) -> rusqlite::Result<(Response, usize)> {
    if let Err(message) = check(&request) {
        return Ok((refused(message), 0));
    }
    let table = Table { tx, at, app };
    Ok(match request {
        Request::Get(get) => {
            let entry = table.find(&get.key)?;
            let bytes = entry.as_ref().map_or(0, wire::KeyValue::encoded_len);
            (Response::Got(wire::GotState { entry }), bytes)
        }
        Request::Set(_) | Request::Delete(_) | Request::Transact(_) => (table.once(request)?, 0),
        Request::List(list) => table.list(&list)?,
        Request::Purge(_)
        | Request::PutSnapshot(_)
        | Request::GetSnapshot(_)
        | Request::DeleteSnapshot(_)
        | Request::ListSnapshots(_) => (refused("not a request for the store".into()), 0),
    })
}

/// Deletes some state of an application; true: there is none any more.
pub(super) fn purge(tx: &Transaction<'_>, app: &str, room: &mut Room) -> rusqlite::Result<bool> {
    for (select, delete) in [
        (
            "SELECT key, length(data) FROM state WHERE app = ?1",
            "DELETE FROM state WHERE app = ?1 AND key = ?2",
        ),
        (
            "SELECT id, length(answer) FROM request WHERE app = ?1",
            "DELETE FROM request WHERE app = ?1 AND id = ?2",
        ),
    ] {
        let mut keys: Vec<String> = Vec::new();
        {
            let mut select = tx.prepare_cached(select)?;
            let mut rows = select.query([app])?;
            while room.is_left()
                && let Some(row) = rows.next()?
            {
                keys.push(row.get(0)?);
                room.take(row.get(1)?);
            }
        }
        for key in keys {
            tx.prepare_cached(delete)?.execute(params![app, key])?;
        }
        if !room.is_left() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn refused(message: String) -> Response {
    let reason = wire::RefusedReason::Invalid.into();
    Response::Refused(wire::Refused { reason, message })
}

fn check(request: &Request) -> Result<(), String> {
    match request {
        Request::Get(get) => check_key(&get.key),
        Request::Set(set) => check_set(set).map(|_| ()),
        Request::Delete(delete) => check_key(&delete.key),
        Request::Transact(transact) => check_transact(transact),
        // The others have no key here.
        _ => Ok(()),
    }
}

fn check_key(key: &str) -> Result<(), String> {
    if key.is_empty() || key.len() > NAME_BYTES_MAX {
        return Err(format!("a key has 1 to {NAME_BYTES_MAX} bytes, not {}", key.len()));
    }
    Ok(())
}

/// Returns the bytes of the value.
fn check_set(set: &wire::SetState) -> Result<usize, String> {
    check_key(&set.key)?;
    let value = set.value.as_ref().map_or(0, |v| v.data.len() + v.content_type.len());
    if value > RECORD_BYTES_MAX {
        return Err(format!("a value has at most {RECORD_BYTES_MAX} bytes, not {value}"));
    }
    Ok(value)
}

fn check_transact(transact: &wire::TransactState) -> Result<(), String> {
    let changes = transact.sets.len() + transact.deletes.len();
    if changes > TRANSACTION_CHANGES_MAX {
        let max = TRANSACTION_CHANGES_MAX;
        return Err(format!("a transaction has at most {max} changes, not {changes}"));
    }
    let mut bytes = 0;
    let mut keys = BTreeSet::new();
    for set in &transact.sets {
        bytes += check_set(set)? + set.key.len();
        if !keys.insert(&set.key) {
            return Err(format!("a transaction names a key once, not '{}' again", set.key));
        }
    }
    for delete in &transact.deletes {
        check_key(&delete.key)?;
        bytes += delete.key.len();
        if !keys.insert(&delete.key) {
            return Err(format!("a transaction names a key once, not '{}' again", delete.key));
        }
    }
    if bytes > RECORD_BYTES_MAX {
        return Err(format!("a transaction has at most {RECORD_BYTES_MAX} bytes, not {bytes}"));
    }
    Ok(())
}

/// The state of an application in a transaction.
struct Table<'a> {
    tx: &'a Transaction<'a>,
    at: &'a At,
    app: &'a str,
}

// === impl Table ===

impl Table<'_> {
    /// Makes a change once per request id; a repetition gets the first answer.
    fn once(&self, request: Request) -> rusqlite::Result<Response> {
        let id = match &request {
            Request::Set(set) => set.request_id.clone(),
            Request::Delete(delete) => delete.request_id.clone(),
            Request::Transact(transact) => transact.request_id.clone(),
            _ => String::new(),
        };
        if id.is_empty() {
            return self.change(request);
        }
        let (tx, app) = (self.tx, self.app);
        let former: Option<Vec<u8>> = tx
            .prepare_cached("SELECT answer FROM request WHERE app = ?1 AND id = ?2")?
            .query_row(params![app, id], |row| row.get(0))
            .optional()?;
        if let Some(former) = former.and_then(|answer| remembered(&answer, &request)) {
            return Ok(former.unwrap_or_else(|| {
                refused(format!("the request id '{id}' was used for another request"))
            }));
        }
        let number = digest(&request);
        let response = self.change(request)?;
        let answer = wire::StateResponse { number, response: Some(shortened(response.clone())) };
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

    fn change(&self, request: Request) -> rusqlite::Result<Response> {
        let (sets, deletes) = match request {
            Request::Set(set) => {
                if let Some(failed) = self.violated(&set.key, &set.etag)? {
                    return Ok(failed);
                }
                let etag = self.set(set)?;
                return Ok(Response::Wrote(wire::WroteState { etag }));
            }
            Request::Delete(delete) => {
                if let Some(failed) = self.violated(&delete.key, &delete.etag)? {
                    return Ok(failed);
                }
                let existed = self.delete(&delete.key)?;
                return Ok(Response::Deleted(wire::DeletedState { existed }));
            }
            Request::Transact(transact) => (transact.sets, transact.deletes),
            _ => return Ok(refused("not a change".into())),
        };
        let conditions = sets.iter().map(|set| (&set.key, &set.etag));
        let conditions = conditions.chain(deletes.iter().map(|d| (&d.key, &d.etag)));
        for (key, etag) in conditions {
            if let Some(failed) = self.violated(key, etag)? {
                return Ok(failed);
            }
        }
        let etags = sets.into_iter().map(|set| self.set(set)).collect::<Result<_, _>>()?;
        let existed = deletes.iter().map(|d| self.delete(&d.key)).collect::<Result<_, _>>()?;
        Ok(Response::Transacted(wire::TransactedState { etags, existed }))
    }

    /// What is answered if a condition does not hold.
    fn violated(&self, key: &str, wanted: &str) -> rusqlite::Result<Option<Response>> {
        if wanted.is_empty() {
            return Ok(None);
        }
        let current = self.etag(key)?;
        let holds = match (wanted, &current) {
            ("*", current) => current.is_none(),
            (wanted, Some(current)) => wanted == current,
            (_, None) => false,
        };
        let etag = current.unwrap_or_default();
        let failed = wire::ConditionFailed { etag, key: key.to_owned() };
        Ok((!holds).then_some(Response::ConditionFailed(failed)))
    }

    /// Returns the new etag.
    fn set(&self, set: wire::SetState) -> rusqlite::Result<String> {
        let etag: i64 = self
            .tx
            .prepare_cached("UPDATE counter SET value = value + 1 RETURNING value")?
            .query_row([], |row| row.get(0))?;
        let value = set.value.unwrap_or_default();
        let expires = (set.time_to_live_ms > 0)
            .then(|| self.at.now.saturating_add(set.time_to_live_ms).min(i64::MAX as u64) as i64);
        self.tx
            .prepare_cached(
                "INSERT INTO state (app, key, etag, type, data, expires) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET \
                 etag = excluded.etag, type = excluded.type, data = excluded.data, \
                 expires = excluded.expires",
            )?
            .execute(params![
                self.app,
                set.key,
                etag,
                value.content_type,
                &value.data[..],
                expires
            ])?;
        Ok(etag.to_string())
    }

    /// Tells whether it was there.
    fn delete(&self, key: &str) -> rusqlite::Result<bool> {
        let deleted: Option<Option<i64>> = self
            .tx
            .prepare_cached("DELETE FROM state WHERE app = ?1 AND key = ?2 RETURNING expires")?
            .query_row(params![self.app, key], |row| row.get(0))
            .optional()?;
        Ok(deleted.is_some_and(|expires| self.at.is_there(expires)))
    }

    fn list(&self, list: &wire::ListState) -> rusqlite::Result<(Response, usize)> {
        let page_size = list.page_size.clamp(1, PAGE_SIZE_MAX) as usize;
        let mut select = self.tx.prepare_cached(
            "SELECT key, expires, type, data, etag FROM state \
             WHERE app = ?1 AND key >= ?2 AND key > ?3 ORDER BY key",
        )?;
        let mut rows = select.query(params![self.app, list.prefix, list.after])?;
        let mut page = wire::StateList::default();
        let (mut bytes, mut passed_over) = (0, 0);
        let mut last = String::new();
        while let Some(row) = rows.next()? {
            let key: String = row.get(0)?;
            if !key.starts_with(&list.prefix) {
                break;
            }
            if !self.at.is_there(row.get(1)?) {
                passed_over += 1;
                last = key;
                if passed_over == PASSED_OVER_MAX {
                    (page.more, page.next_after) = (true, last);
                    break;
                }
                continue;
            }
            let entry = entry(row)?;
            let size = entry.encoded_len();
            if page.entries.len() == page_size || (bytes > 0 && bytes + size > PAGE_BYTES) {
                (page.more, page.next_after) = (true, last);
                break;
            }
            bytes += size;
            last = key;
            page.entries.push(entry);
        }
        Ok((Response::List(page), bytes))
    }

    fn find(&self, key: &str) -> rusqlite::Result<Option<wire::KeyValue>> {
        let found = self
            .tx
            .prepare_cached(
                "SELECT key, expires, type, data, etag FROM state WHERE app = ?1 AND key = ?2",
            )?
            .query_row(params![self.app, key], entry)
            .optional()?;
        Ok(found.filter(|entry| {
            let expires = (entry.expires_ms > 0).then_some(entry.expires_ms as i64);
            self.at.is_there(expires)
        }))
    }

    fn etag(&self, key: &str) -> rusqlite::Result<Option<String>> {
        let found: Option<(i64, Option<i64>)> = self
            .tx
            .prepare_cached("SELECT etag, expires FROM state WHERE app = ?1 AND key = ?2")?
            .query_row(params![self.app, key], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        Ok(found
            .filter(|(_, expires)| self.at.is_there(*expires))
            .map(|(etag, _)| etag.to_string()))
    }
}

/// Tells whether a request is the one that was answered: its length and its checksum, in one number, never 0.
fn digest(request: &Request) -> u64 {
    let whole = wire::StateRequest { number: 0, request: Some(request.clone()) }.encode_to_vec();
    (whole.len() as u64) << 32 | u64::from(crc32c::crc32c(&whole))
}

/// What was answered to a request before, by what is stored of it; the inner `None`: it was another request.
fn remembered(answer: &[u8], request: &Request) -> Option<Option<Response>> {
    let answer = wire::StateResponse::decode(answer).ok()?;
    let response = answer.response?;
    // Earlier versions did not store of what it was the answer.
    let is_same = answer.number == 0 || answer.number == digest(request);
    Some((is_same && answers(&response, request)).then(|| lengthened(response, request)))
}

/// An answer as it is stored: the etags of a transaction follow each other, so that the first one tells all.
fn shortened(mut response: Response) -> Response {
    if let Response::Transacted(done) = &mut response {
        done.etags.truncate(1);
    }
    response
}

fn lengthened(mut response: Response, request: &Request) -> Response {
    if let (Response::Transacted(done), Request::Transact(transact)) = (&mut response, request)
        && let [first] = &done.etags[..]
        && let Ok(first) = first.parse::<i64>()
    {
        done.etags = (first..).take(transact.sets.len()).map(|etag| etag.to_string()).collect();
    }
    response
}

/// Whether an answer is one to such a request.
fn answers(response: &Response, request: &Request) -> bool {
    matches!(
        (response, request),
        (Response::ConditionFailed(_), _)
            | (Response::Wrote(_), Request::Set(_))
            | (Response::Deleted(_), Request::Delete(_))
            | (Response::Transacted(_), Request::Transact(_))
    )
}

fn entry(row: &Row<'_>) -> rusqlite::Result<wire::KeyValue> {
    let data: Vec<u8> = row.get(3)?;
    Ok(wire::KeyValue {
        key: row.get(0)?,
        value: Some(wire::Value { data: data.into(), content_type: row.get(2)? }),
        etag: row.get::<_, i64>(4)?.to_string(),
        expires_ms: row.get::<_, Option<i64>>(1)?.unwrap_or(0) as u64,
    })
}
