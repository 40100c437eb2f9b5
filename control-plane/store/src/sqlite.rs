//! The embedded store: SQLite in WAL mode.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use crate::ring::{Read, Ring};
use crate::writer::{self, Request};
use crate::{Entry, Event, Page, Range, Result, Revision, Store, StoreError, Watch, Write, log};

/// A watcher that reads from the log table is given at most this many events at once.
const LOG_BATCH: usize = 256;
/// Reading connections kept for reuse; each costs a page cache.
const IDLE_READERS: usize = 4;

/// A [`Store`] in one SQLite database. One process may have it open at a time.
pub struct SqliteStore {
    inner: Arc<Inner>,
    writer: mpsc::Sender<Request>,
}

struct Inner {
    path: PathBuf,
    ring: Arc<Ring>,
    readers: Mutex<Vec<Connection>>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the database at `path`, creating it if need be.
    ///
    /// # Errors
    /// If it cannot be opened or is not such a database.
    pub fn open(path: &Path) -> Result<Self> {
        let db = log::open(path)?;
        let ring = Arc::new(Ring::new(log::newest(&db)?));
        let (writer, _thread) = writer::start(db, Arc::clone(&ring))?;
        let inner = Inner { path: path.to_owned(), ring, readers: Mutex::default() };
        Ok(Self { inner: Arc::new(inner), writer })
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T>>) -> Request,
    ) -> Result<T> {
        let gone = |()| StoreError::Backend("the writer has ended".into());
        let (reply, answer) = oneshot::channel();
        self.writer.send(request(reply)).await.map_err(|_| gone(()))?;
        answer.await.map_err(|_| gone(()))?
    }
}

impl Inner {
    /// Runs `read` on a pooled connection, off the async threads.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let pooled = inner.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut db = match pooled {
                Some(db) => db,
                None => log::open_reader(&inner.path)?,
            };
            let result = read(&mut db);
            let mut readers = inner.readers.lock().unwrap_or_else(PoisonError::into_inner);
            if readers.len() < IDLE_READERS {
                readers.push(db);
            }
            result
        });
        task.await.map_err(|error| StoreError::Backend(format!("read: {error}").into()))?
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn revision(&self) -> Result<Revision> {
        Ok(self.inner.ring.newest())
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let key = key.to_owned();
        self.inner.read(move |db| log::get(db, &key)).await
    }

    async fn list(&self, range: Range) -> Result<Page> {
        self.inner.read(move |db| log::list(db, &range)).await
    }

    async fn write(&self, write: Write) -> Result<Revision> {
        self.ask(|reply| Request::Write(write, reply)).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>> {
        let current = self.inner.ring.newest();
        if after > current {
            return Err(StoreError::Future { requested: after, current });
        }
        let compacted = self.inner.read(|db| log::compacted(db)).await?;
        if after < compacted {
            return Err(StoreError::Compacted { requested: after, compacted });
        }
        Ok(Box::new(SqliteWatch {
            newest: self.inner.ring.subscribe(),
            inner: Arc::clone(&self.inner),
            prefix: prefix.to_owned(),
            position: after,
        }))
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.ask(|reply| Request::Compact(revision, reply)).await
    }
}

struct SqliteWatch {
    inner: Arc<Inner>,
    newest: watch::Receiver<Revision>,
    prefix: String,
    position: Revision,
}

#[async_trait]
impl Watch for SqliteWatch {
    async fn next(&mut self) -> Result<Vec<Arc<Event>>> {
        loop {
            let (events, reached) = match self.inner.ring.read(&self.prefix, self.position) {
                Read::Events(events, reached) => (events, reached),
                Read::TooOld => {
                    let (prefix, position) = (self.prefix.clone(), self.position);
                    let read =
                        move |db: &mut Connection| log::events(db, &prefix, position, LOG_BATCH);
                    self.inner.read(read).await?
                }
                Read::UpToDate => {
                    let position = self.position;
                    self.newest
                        .wait_for(|newest| *newest > position)
                        .await
                        .map_err(|_| StoreError::Backend("the store was closed".into()))?;
                    continue;
                }
            };
            self.position = reached;
            return Ok(events);
        }
    }

    fn revision(&self) -> Revision {
        self.position
    }
}
