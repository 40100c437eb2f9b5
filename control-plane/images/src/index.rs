//! The index: which images there are, by which names, and who uses them.

use std::{collections::HashSet, path::Path, sync::Mutex, time::Duration};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::{Digest, Error};

/// How long to wait for another process's write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The schema's version, kept in `user_version`.
const VERSION: i64 = 1;

const SCHEMA: &str = "
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS images (id TEXT PRIMARY KEY, config BLOB NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS layers (
        image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        diff_id TEXT NOT NULL,
        size INTEGER NOT NULL,
        PRIMARY KEY (image, position)
    ) STRICT;
    CREATE TABLE IF NOT EXISTS names (
        name TEXT PRIMARY KEY,
        image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE
    ) STRICT;
    CREATE TABLE IF NOT EXISTS pins (
        image TEXT NOT NULL REFERENCES images (id),
        owner TEXT NOT NULL,
        PRIMARY KEY (image, owner)
    ) STRICT;
    PRAGMA user_version = 1;
    COMMIT;
";

/// An image as the index has it.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: Digest,
    /// The config, as it came.
    pub(crate) config: Vec<u8>,
    /// Lowest first, with the sizes of their files.
    pub(crate) layers: Vec<(Digest, u64)>,
    /// Sorted.
    pub(crate) names: Vec<String>,
}

/// What a change survives once it is made.
#[derive(Debug, Clone, Copy)]
enum Durability {
    /// The end of this process.
    Process,
    /// The host's loss of power.
    Power,
}

impl Durability {
    /// SQLite's `synchronous`, in WAL mode.
    const fn level(self) -> &'static str {
        match self {
            Self::Process => "NORMAL",
            Self::Power => "FULL",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Index(Mutex<Connection>);

type Result<T> = std::result::Result<T, Error>;

impl Index {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match version {
            VERSION => {}
            0 => connection.execute_batch(SCHEMA)?,
            newer => return Err(Error::Version { path: path.into(), version: newer }),
        }
        Ok(Self(Mutex::new(connection)))
    }

    /// Adds an image, or gives a known one more names. A name that another image had moves.
    pub(crate) fn put(
        &self,
        id: Digest,
        config: &[u8],
        layers: &[(Digest, u64)],
        names: &[String],
    ) -> Result<()> {
        self.write(|transaction| {
            let id = id.to_string();
            transaction
                .execute("INSERT OR IGNORE INTO images VALUES (?1, ?2)", params![id, config])?;
            for (position, (diff_id, size)) in (0_i64..).zip(layers) {
                transaction.execute(
                    "INSERT OR REPLACE INTO layers VALUES (?1, ?2, ?3, ?4)",
                    params![id, position, diff_id.to_string(), size.cast_signed()],
                )?;
            }
            for name in names {
                transaction
                    .execute("INSERT OR REPLACE INTO names VALUES (?1, ?2)", params![name, id])?;
            }
            Ok(())
        })
    }

    /// The image of a full name, or of an id.
    pub(crate) fn find(&self, name_or_id: &str) -> Result<Option<Record>> {
        self.read(|connection| {
            let id: Option<String> = connection
                .query_row(
                    "SELECT image FROM names WHERE name = ?1
                     UNION SELECT id FROM images WHERE id = ?1",
                    [name_or_id],
                    |row| row.get(0),
                )
                .optional()?;
            id.map(|id| record(connection, &id)).transpose()
        })
    }

    pub(crate) fn list(&self) -> Result<Vec<Record>> {
        self.read(|connection| {
            let mut statement = connection.prepare("SELECT id FROM images ORDER BY id")?;
            let ids = statement.query_map([], |row| row.get::<_, String>(0))?;
            ids.map(|id| record(connection, &id?)).collect()
        })
    }

    /// Forgets a name, or with an id all names of that image.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::InUse`] if the image would have no name left and is pinned.
    pub(crate) fn remove(&self, name_or_id: &str) -> Result<()> {
        let (known, users) = self.write(|transaction| {
            let known: bool = transaction.query_row(
                "SELECT EXISTS (SELECT 1 FROM names WHERE name = ?1)
                     OR EXISTS (SELECT 1 FROM images WHERE id = ?1)",
                [name_or_id],
                |row| row.get(0),
            )?;
            let mut users = transaction.prepare(
                "SELECT owner FROM pins WHERE image = ?1 OR image =
                     (SELECT image FROM names AS own WHERE name = ?1 AND NOT EXISTS
                         (SELECT 1 FROM names WHERE image = own.image AND name <> ?1))
                 ORDER BY owner",
            )?;
            let users = users.query_map([name_or_id], |row| row.get(0))?;
            let users = users.collect::<std::result::Result<Vec<String>, _>>()?;
            if users.is_empty() {
                transaction
                    .execute("DELETE FROM names WHERE name = ?1 OR image = ?1", [name_or_id])?;
            }
            Ok((known, users))
        })?;
        if !users.is_empty() {
            return Err(Error::InUse { image: name_or_id.into(), users: users.join(", ") });
        }
        if known { Ok(()) } else { Err(Error::NotFound(name_or_id.into())) }
    }

    /// Notes that `owner` uses an image. Gives `false` if there is no such image.
    /// Without waiting for the disk: who pins does so again when the host's power comes back.
    pub(crate) fn pin(&self, image: Digest, owner: &str) -> Result<bool> {
        self.write_with(Durability::Process, |transaction| {
            transaction.execute(
                "INSERT OR IGNORE INTO pins SELECT id, ?2 FROM images WHERE id = ?1",
                [&image.to_string(), owner],
            )?;
            transaction.query_row(
                "SELECT EXISTS (SELECT 1 FROM pins WHERE image = ?1 AND owner = ?2)",
                [&image.to_string(), owner],
                |row| row.get(0),
            )
        })
    }

    pub(crate) fn unpin(&self, image: Digest, owner: &str) -> Result<()> {
        self.write(|transaction| {
            transaction.execute(
                "DELETE FROM pins WHERE image = ?1 AND owner = ?2",
                [&image.to_string(), owner],
            )
        })?;
        Ok(())
    }

    /// Forgets everything that `owner`, or an owner below it, uses.
    pub(crate) fn unpin_all(&self, owner: &str) -> Result<()> {
        self.write(|transaction| {
            transaction.execute(
                "DELETE FROM pins
                     WHERE owner = ?1 OR substr(owner, 1, length(?1) + 1) = ?1 || '/'",
                [owner],
            )
        })?;
        Ok(())
    }

    /// Forgets images without a name that nobody uses, and gives the layers of the others.
    pub(crate) fn collect(&self) -> Result<HashSet<Digest>> {
        self.write(|transaction| {
            transaction.execute(
                "DELETE FROM images WHERE id NOT IN (SELECT image FROM names)
                     AND id NOT IN (SELECT image FROM pins)",
                [],
            )?;
            let mut statement = transaction.prepare("SELECT DISTINCT diff_id FROM layers")?;
            let layers = statement.query_map([], |row| digest(row, 0))?;
            layers.collect()
        })
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> std::result::Result<T, rusqlite::Error>,
    ) -> Result<T> {
        Ok(query(&self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))?)
    }

    fn write<T>(
        &self,
        change: impl FnOnce(&Connection) -> std::result::Result<T, rusqlite::Error>,
    ) -> Result<T> {
        self.write_with(Durability::Power, change)
    }

    fn write_with<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&Connection) -> std::result::Result<T, rusqlite::Error>,
    ) -> Result<T> {
        let mut connection = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        connection.pragma_update(None, "synchronous", durability.level())?;
        // Taking the write lock at once: a read that turns into a write cannot wait for another.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let result = change(&transaction)?;
        transaction.commit()?;
        Ok(result)
    }
}

fn record(connection: &Connection, id: &str) -> std::result::Result<Record, rusqlite::Error> {
    let (id, config) =
        connection.query_row("SELECT id, config FROM images WHERE id = ?1", [id], |row| {
            Ok((digest(row, 0)?, row.get(1)?))
        })?;
    let mut layers = connection
        .prepare("SELECT diff_id, size FROM layers WHERE image = ?1 ORDER BY position")?;
    let layers = layers.query_map([id.to_string()], |row| {
        Ok((digest(row, 0)?, row.get::<_, i64>(1)?.cast_unsigned()))
    })?;
    let mut names = connection.prepare("SELECT name FROM names WHERE image = ?1 ORDER BY name")?;
    let names = names.query_map([id.to_string()], |row| row.get(0))?;
    Ok(Record {
        id,
        config,
        layers: layers.collect::<std::result::Result<_, _>>()?,
        names: names.collect::<std::result::Result<_, _>>()?,
    })
}

fn digest(row: &rusqlite::Row<'_>, column: usize) -> std::result::Result<Digest, rusqlite::Error> {
    row.get::<_, String>(column)?.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            Box::new(error),
        )
    })
}
