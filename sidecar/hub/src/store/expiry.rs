//! What goes in rounds: keys that have expired, what is purged, and the space that they leave.

use rusqlite::{OptionalExtension, Transaction, params};

/// Rows removed in one round.
const ROUND_ROWS_MAX: usize = 1_024;
/// Bytes of values after which a round ends: SQLite reads what it frees.
const ROUND_BYTES_MAX: i64 = 8 << 20;
/// Free pages that are kept for later, 4 MiB of them.
const FREE_PAGES_KEPT: i64 = 1_024;
/// … or one in so many, if that is more: what a store that comes and goes will need again.
const FREE_PART_KEPT: i64 = 4;
/// Pages given back in one round.
const ROUND_PAGES_MAX: i64 = 1_024;

/// What a round may still remove.
pub(super) struct Room {
    rows: usize,
    bytes: i64,
}

// === impl Room ===

impl Room {
    pub(super) fn new() -> Self {
        Self { rows: ROUND_ROWS_MAX, bytes: ROUND_BYTES_MAX }
    }

    /// Rows that were removed.
    pub(super) fn taken(&self) -> u64 {
        (ROUND_ROWS_MAX - self.rows) as u64
    }

    pub(super) fn is_left(&self) -> bool {
        self.rows > 0 && self.bytes > 0
    }

    /// A row with a value of so many bytes is removed.
    pub(super) fn take(&mut self, bytes: i64) {
        self.rows = self.rows.saturating_sub(1);
        self.bytes -= bytes;
    }
}

/// When the next key expires.
pub(super) fn next(tx: &Transaction<'_>) -> rusqlite::Result<Option<u64>> {
    tx.prepare_cached(
        "SELECT expires FROM state WHERE expires IS NOT NULL ORDER BY expires LIMIT 1",
    )?
    .query_row([], |row| Ok(row.get::<_, i64>(0)? as u64))
    .optional()
}

/// Removes some of the keys that have expired, whoever's they are.
pub(super) fn remove(tx: &Transaction<'_>, now: u64) -> rusqlite::Result<()> {
    let mut due = Vec::new();
    let mut room = Room::new();
    {
        let mut select = tx.prepare_cached(
            "SELECT app, key, length(data) FROM state WHERE expires <= ?1 ORDER BY expires",
        )?;
        let mut rows = select.query([now as i64])?;
        while room.is_left()
            && let Some(row) = rows.next()?
        {
            due.push((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
            room.take(row.get(2)?);
        }
    }
    for (app, key) in due {
        tx.prepare_cached("DELETE FROM state WHERE app = ?1 AND key = ?2")?
            .execute(params![app, key])?;
    }
    Ok(())
}

/// Stores that a time has been told, so that no later hub tells an earlier one.
pub(super) fn tell_time(tx: &Transaction<'_>, now: u64) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE clock SET ms = max(ms, ?1)")?.execute([now as i64])?;
    Ok(())
}

/// Gives pages that are free back to the file system, some at a time; true: there are more.
pub(super) fn give_back(tx: &Transaction<'_>) -> rusqlite::Result<bool> {
    let figure = |name| tx.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (free, all) = (figure("freelist_count")?, figure("page_count")?);
    let spare = free - FREE_PAGES_KEPT.max((all - free) / FREE_PART_KEPT);
    if spare <= 0 {
        return Ok(false);
    }
    // A row for each page: it goes on only as far as it is read.
    tx.pragma(None, "incremental_vacuum", spare.min(ROUND_PAGES_MAX), |_| Ok(()))?;
    // None, if an earlier version made the file: it keeps its pages, and uses them again.
    let freed = free - figure("freelist_count")?;
    Ok(freed > 0 && spare > freed)
}
