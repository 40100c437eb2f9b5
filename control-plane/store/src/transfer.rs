//! A SQLite store read as a whole while another process has it open, and a new one made of objects
//! that lie elsewhere: what backups take.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use crate::{Entry, Result, Revision, SqliteStore, StoreError, log};

/// How a new store's file is named until it is whole.
const PARTIAL: &str = "partial";

/// The objects of a store, as of one revision.
#[derive(Debug)]
pub struct SqliteSnapshot {
    db: Connection,
}

impl SqliteSnapshot {
    /// Opens the store at `path`. What is written to it from now on is not seen.
    ///
    /// # Errors
    /// If there is no such store.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(StoreError::Backend(format!("{}: no such file", path.display()).into()));
        }
        let db = log::open_reader(path)?;
        // The first read fixes what is seen, until the connection ends.
        db.execute_batch("BEGIN")?;
        log::newest(&db)?;
        Ok(Self { db })
    }

    /// The revision.
    ///
    /// # Errors
    /// If the database fails.
    pub fn revision(&self) -> Result<Revision> {
        log::newest(&self.db)
    }

    /// Gives the entries by key to `take`, until it returns false.
    ///
    /// # Errors
    /// If the database fails.
    pub fn entries(&self, mut take: impl FnMut(Entry) -> bool) -> Result<()> {
        let mut query = self.db.prepare(
            "SELECT live.key, log.value, log.revision FROM live
             JOIN log ON log.revision = live.revision ORDER BY live.key",
        )?;
        for entry in query.query_map([], log::entry)? {
            if !take(entry?) {
                break;
            }
        }
        Ok(())
    }
}

/// A new store, of entries with revisions of their own.
#[derive(Debug)]
pub struct SqliteImport {
    db: Connection,
    path: PathBuf,
    start: Revision,
}

impl SqliteImport {
    /// Begins the store that will be at `path`, whose revisions go on after `start`; nothing before
    /// that can be read.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(path: &Path, start: Revision) -> Result<Self> {
        let partial = path.with_extension(PARTIAL);
        remove(&partial)?;
        let db = log::open(&partial)?;
        db.execute_batch("BEGIN IMMEDIATE")?;
        Ok(Self { db, path: path.into(), start })
    }

    /// Adds an entry, with its revision, which must be before the start and no other's.
    ///
    /// # Errors
    /// If the database fails, or the revision is not so.
    pub fn add(&self, entry: &Entry) -> Result<()> {
        if entry.revision > self.start {
            let why = format!("{} is of revision {}, in the future", entry.key, entry.revision);
            return Err(StoreError::Backend(why.into()));
        }
        let revision = log::to_sql(entry.revision);
        self.db
            .prepare_cached("INSERT INTO log (revision, key, value) VALUES (?, ?, ?)")?
            .execute(params![revision, entry.key, &*entry.value])?;
        self.db
            .prepare_cached("INSERT INTO live (key, revision) VALUES (?, ?)")?
            .execute(params![entry.key, revision])?;
        Ok(())
    }

    /// Makes it durable, and puts it in its place.
    ///
    /// # Errors
    /// If the database or the file system fails.
    pub fn finish(self) -> Result<()> {
        self.db.execute("UPDATE compaction SET revision = ?", [log::to_sql(self.start)])?;
        self.db.execute_batch("COMMIT")?;
        // Into one file, which a rename can move.
        self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        self.db.close().map_err(|(_, error)| error)?;
        let moved = std::fs::rename(self.path.with_extension(PARTIAL), &self.path);
        moved.map_err(|error| failed(&self.path, &error))
    }
}

impl SqliteStore {
    /// Deletes the store at `path`, which nobody has open; fine if there is none.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub fn destroy(path: &Path) -> Result<()> {
        remove(path)
    }
}

/// Removes a database and what SQLite keeps beside it.
fn remove(path: &Path) -> Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(path, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn failed(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Backend(format!("{}: {error}", path.display()).into())
}
