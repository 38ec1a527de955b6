//! The tables of the store's file.

use rusqlite::Connection;

use super::expiry;

/// Version of the tables: 2 has keys that expire.
pub(super) const VERSION: u32 = 2;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS log (
        id INTEGER PRIMARY KEY,
        app TEXT NOT NULL,
        name TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        upto INTEGER NOT NULL,
        UNIQUE (app, name)
    );
    CREATE TABLE IF NOT EXISTS actor (
        log INTEGER NOT NULL,
        actor TEXT NOT NULL,
        key TEXT NOT NULL,
        type TEXT NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (log, actor, key)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS state (
        app TEXT NOT NULL,
        key TEXT NOT NULL,
        etag INTEGER NOT NULL,
        type TEXT NOT NULL,
        data BLOB NOT NULL,
        expires INTEGER,
        PRIMARY KEY (app, key)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS state_expires ON state (expires) WHERE expires IS NOT NULL;
    CREATE TABLE IF NOT EXISTS request (
        app TEXT NOT NULL,
        id TEXT NOT NULL,
        number INTEGER NOT NULL,
        answer BLOB NOT NULL,
        PRIMARY KEY (app, id)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX IF NOT EXISTS request_number ON request (app, number);
    CREATE TABLE IF NOT EXISTS counter (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        value INTEGER NOT NULL
    );
    INSERT OR IGNORE INTO counter VALUES (1, 0);
    CREATE TABLE IF NOT EXISTS clock (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        ms INTEGER NOT NULL
    );
    INSERT OR IGNORE INTO clock VALUES (1, 0);
";

/// Makes what is missing; returns the time that was told last, and when the next key expires.
pub(super) fn make(connection: &mut Connection) -> rusqlite::Result<(u64, Option<u64>)> {
    let transaction = connection.transaction()?;
    let columns = transaction
        .prepare("SELECT name FROM pragma_table_info('state')")?
        .query_map([], |row| row.get::<_, String>(0))?
        .collect::<Result<Vec<_>, _>>()?;
    if !columns.is_empty() && !columns.iter().any(|name| name == "expires") {
        // Version 1 made it.
        transaction.execute_batch("ALTER TABLE state ADD COLUMN expires INTEGER")?;
    }
    transaction.execute_batch(TABLES)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    let told: i64 = transaction.query_row("SELECT ms FROM clock", [], |row| row.get(0))?;
    let next = expiry::next(&transaction)?;
    transaction.commit()?;
    Ok((told as u64, next))
}
