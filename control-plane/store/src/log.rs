//! The SQLite schema and the reads of it.
//!
//! `log` has one row per write that is kept; a deletion's value is NULL. `live` points from each
//! key that exists to its row in `log`, so that a read of the present touches no history.
//! `compaction` has one row: the oldest revision that can still be read. The newest revision
//! is the greater of that and the newest row's: compaction may remove a deletion that made it.

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use crate::{Entry, Event, Page, Range, Result, Revision, StoreError, prefix_end};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS log (
        revision INTEGER PRIMARY KEY,
        key      TEXT NOT NULL,
        value    BLOB
    );
    CREATE INDEX IF NOT EXISTS log_by_key ON log (key, revision);
    CREATE TABLE IF NOT EXISTS live (
        key      TEXT PRIMARY KEY,
        revision INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS compaction (
        id       INTEGER PRIMARY KEY CHECK (id = 0),
        revision INTEGER NOT NULL
    );
    INSERT OR IGNORE INTO compaction VALUES (0, 0);
";

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Backend(error.to_string().into())
    }
}

/// Opens the database for writing, creating it if need be.
pub(crate) fn open(path: &Path) -> Result<Connection> {
    let db = connect(path)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    // What is deleted is overwritten: a secret that was sealed anew leaves nothing of its past.
    db.pragma_update(None, "secure_delete", true)?;
    db.execute_batch(SCHEMA)?;
    Ok(db)
}

/// Opens another connection for reads.
pub(crate) fn open_reader(path: &Path) -> Result<Connection> {
    let db = connect(path)?;
    db.pragma_update(None, "query_only", true)?;
    Ok(db)
}

fn connect(path: &Path) -> Result<Connection> {
    let db = Connection::open(path).map_err(|error| {
        StoreError::Backend(format!("cannot open {}: {error}", path.display()).into())
    })?;
    db.busy_timeout(std::time::Duration::from_secs(10))?;
    Ok(db)
}

/// SQLite's integers are signed; revisions never come near their end.
pub(crate) fn to_sql(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn from_sql(row: &Row<'_>, column: usize) -> rusqlite::Result<Revision> {
    Ok(Revision(u64::try_from(row.get::<_, i64>(column)?).unwrap_or_default()))
}

pub(crate) fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let value: Vec<u8> = row.get(1)?;
    Ok(Entry { key: row.get(0)?, value: value.into(), revision: from_sql(row, 2)? })
}

pub(crate) fn newest(db: &Connection) -> Result<Revision> {
    let sql = "SELECT max((SELECT revision FROM compaction),
                          coalesce((SELECT max(revision) FROM log), 0))";
    Ok(db.prepare_cached(sql)?.query_row([], |row| from_sql(row, 0))?)
}

pub(crate) fn compacted(db: &Connection) -> Result<Revision> {
    let sql = "SELECT revision FROM compaction";
    Ok(db.prepare_cached(sql)?.query_row([], |row| from_sql(row, 0))?)
}

pub(crate) fn get(db: &Connection, key: &str) -> Result<Option<Entry>> {
    let sql = "SELECT live.key, log.value, log.revision FROM live
               JOIN log ON log.revision = live.revision WHERE live.key = ?";
    Ok(db.prepare_cached(sql)?.query_row([key], entry).optional()?)
}

pub(crate) fn list(db: &mut Connection, range: &Range) -> Result<Page> {
    // One transaction: revision, entries and count are of one state.
    let db = db.transaction()?;
    let current = newest(&db)?;
    let revision = range.at.unwrap_or(current);
    if revision > current {
        return Err(StoreError::Future { requested: revision, current });
    }
    let compacted = compacted(&db)?;
    if revision < compacted {
        return Err(StoreError::Compacted { requested: revision, compacted });
    }
    let keys = if revision == current {
        "SELECT key, revision FROM live WHERE key >= :prefix AND key > :after AND key < :end
         AND :at = :at"
    } else {
        "SELECT key, max(revision) AS revision FROM log
         WHERE key >= :prefix AND key > :after AND key < :end AND revision <= :at GROUP BY key"
    };
    let end = prefix_end(&range.prefix);
    let after = range.after.as_deref().unwrap_or("");
    let limit = range.limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let entries = db
        .prepare_cached(&format!(
            "SELECT k.key, log.value, log.revision FROM ({keys}) k
             JOIN log ON log.revision = k.revision
             WHERE log.value IS NOT NULL ORDER BY k.key LIMIT :limit"
        ))?
        .query_map(
            named_params! {":prefix": range.prefix, ":after": after, ":end": end,
            ":at": to_sql(revision), ":limit": limit},
            entry,
        )?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let last = entries.last().map(|entry| entry.key.as_str());
    let remaining = match last {
        Some(last) if range.limit == Some(entries.len()) => db
            .prepare_cached(&format!(
                "SELECT count(*) FROM ({keys}) k JOIN log ON log.revision = k.revision
                 WHERE log.value IS NOT NULL"
            ))?
            .query_row(
                named_params! {":prefix": range.prefix, ":after": last, ":end": end,
                ":at": to_sql(revision)},
                |row| row.get::<_, i64>(0),
            )?,
        _ => 0,
    };
    Ok(Page { entries, revision, remaining: u64::try_from(remaining).unwrap_or_default() })
}

/// At most `limit` events with `prefix` after `position`, and the revision that they reach.
pub(crate) fn events(
    db: &mut Connection,
    prefix: &str,
    position: Revision,
    limit: usize,
) -> Result<(Vec<Arc<Event>>, Revision)> {
    let db = db.transaction()?;
    let compacted = compacted(&db)?;
    if position < compacted {
        return Err(StoreError::Compacted { requested: position, compacted });
    }
    let sql = "SELECT key, value, revision,
                   (SELECT value FROM log AS p WHERE p.key = log.key AND p.revision < log.revision
                    ORDER BY p.revision DESC LIMIT 1)
               FROM log WHERE revision > ? AND key >= ? AND key < ? ORDER BY revision LIMIT ?";
    let sql_limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let events = db
        .prepare_cached(sql)?
        .query_map(params![to_sql(position), prefix, prefix_end(prefix), sql_limit], |row| {
            Ok(Arc::new(Event {
                key: row.get(0)?,
                value: row.get::<_, Option<Vec<u8>>>(1)?.map(Into::into),
                revision: from_sql(row, 2)?,
                previous: row.get::<_, Option<Vec<u8>>>(3)?.map(Into::into),
            }))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let reached = match events.last() {
        Some(last) if events.len() == limit => last.revision,
        _ => newest(&db)?,
    };
    Ok((events, reached))
}

/// Removes rows that no read at or after `revision` needs: those overwritten at or before it, and
/// deletions.
pub(crate) fn compact(db: &Connection, revision: Revision) -> Result<()> {
    db.execute(
        "DELETE FROM log WHERE revision <= ?1 AND (
             value IS NULL OR EXISTS (SELECT 1 FROM log AS n WHERE n.key = log.key
                 AND n.revision > log.revision AND n.revision <= ?1))",
        [to_sql(revision)],
    )?;
    db.execute("UPDATE compaction SET revision = ?", [to_sql(revision)])?;
    Ok(())
}
