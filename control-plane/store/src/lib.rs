//! The revisioned key-value store behind the API server.
//!
//! A [`Store`] keeps every write as a revision: a number that grows with each write to any key,
//! which is what Kubernetes calls `resourceVersion`. Writes compare and swap, reads see
//! one revision, watches replay from one. [`Store::compact`] forgets the past, after which a read
//! or watch of it answers [`StoreError::Compacted`].
//!
//! [`SqliteStore`] is the embedded implementation: one SQLite database in WAL mode, one writer
//! thread that groups the writes which wait for it into one transaction, so that many clients
//! share one fsync. A write is acknowledged, and seen by watchers, only after that fsync.
//!
//! [`EtcdStore`] keeps it in etcd, which several processes may share: none of them holds anything
//! that the others need. Watchers are fed from one watch per process.
//!
//! [`SqliteSnapshot`] and [`SqliteImport`] read and make a SQLite store as a whole, for backups.
//! [`encryption`] seals values, over any store.
//!
//! [`conformance`] is the suite that every implementation passes.

#![forbid(unsafe_code)]

pub mod conformance;
pub mod encryption;
mod etcd;
mod log;
mod ring;
mod sqlite;
mod transfer;
mod writer;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

pub use etcd::{EtcdConfig, EtcdStore, EtcdTls};
pub use sqlite::SqliteStore;
pub use transfer::{SqliteImport, SqliteSnapshot};

/// A point in the store's history. Zero is before the first write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Revision {
    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A key with its value, as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Arc<[u8]>,
    /// The write that made this value.
    pub revision: Revision,
}

/// A read of several keys.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// Only keys that start with this.
    pub prefix: String,
    /// Only keys after this one, in byte order: where the last page ended.
    pub after: Option<String>,
    /// At most so many entries; unlimited if unset.
    pub limit: Option<usize>,
    /// As of this revision; the newest if unset.
    pub at: Option<Revision>,
}

/// What a [`Range`] read found.
#[derive(Debug, Clone)]
pub struct Page {
    /// The entries, by key.
    pub entries: Vec<Entry>,
    /// The revision of which this is the state.
    pub revision: Revision,
    /// How many more entries of the prefix follow the last one.
    pub remaining: u64,
}

/// A single-key write. Each succeeds only if the key is as the writer believes it to be.
#[derive(Debug, Clone)]
pub enum Write {
    /// Succeeds if the key is absent.
    Create {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
    },
    /// Succeeds if the key's value was written by `expected`.
    Update {
        /// The key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
        /// The revision of the value it replaces.
        expected: Revision,
    },
    /// Succeeds if the key's value was written by `expected`.
    Delete {
        /// The key.
        key: String,
        /// The revision of the value it removes.
        expected: Revision,
    },
}

impl Write {
    /// The key that is written.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Create { key, .. } | Self::Update { key, .. } | Self::Delete { key, .. } => key,
        }
    }
}

/// One write, as watchers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The write's revision.
    pub revision: Revision,
    /// The key.
    pub key: String,
    /// What the key holds now; `None` if it was deleted.
    pub value: Option<Arc<[u8]>>,
    /// What it held before; `None` if it was created.
    pub previous: Option<Arc<[u8]>>,
}

/// Why the store did not do as asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A create found the key present.
    #[error("key {0} already exists")]
    Exists(String),
    /// An update or delete found the key absent.
    #[error("key {0} does not exist")]
    Absent(String),
    /// An update or delete found a newer value; this is its revision.
    #[error("key {key} was written at revision {current}")]
    Changed {
        /// The key.
        key: String,
        /// The revision of its value.
        current: Revision,
    },
    /// The revision's past has been compacted away.
    #[error("revision {requested} is older than {compacted}, the oldest that is kept")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that can be read.
        compacted: Revision,
    },
    /// The revision has not happened yet.
    #[error("revision {requested} is in the future: the newest is {current}")]
    Future {
        /// What was asked for.
        requested: Revision,
        /// The newest.
        current: Revision,
    },
    /// The value is larger than the backend takes.
    #[error("the object is larger than the store takes")]
    TooLarge,
    /// The backend cannot be reached, or cannot answer now; the write may or may not have happened.
    #[error("{0}")]
    Unavailable(Arc<str>),
    /// The database failed; the write may or may not have happened.
    #[error("store: {0}")]
    Backend(Arc<str>),
}

/// The result of a store's operation.
pub type Result<T> = std::result::Result<T, StoreError>;

/// A revisioned key-value store. See the crate's documentation for what holds.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest revision.
    async fn revision(&self) -> Result<Revision>;

    /// The newest value of `key`.
    async fn get(&self, key: &str) -> Result<Option<Entry>>;

    /// The entries of a range as of one revision. Fails with `Compacted` or `Future` if that
    /// revision cannot be read.
    async fn list(&self, range: Range) -> Result<Page>;

    /// Applies `write` and returns its revision, after it is durable.
    async fn write(&self, write: Write) -> Result<Revision>;

    /// Watches the keys that start with `prefix`, from the first write after `after`. Fails with
    /// `Compacted` if those writes are no longer all known.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>>;

    /// Forgets values that were overwritten or deleted at or before `revision`, which itself
    /// stays readable.
    async fn compact(&self, revision: Revision) -> Result<()>;
}

/// A running watch.
#[async_trait]
pub trait Watch: Send {
    /// Waits for writes and returns them, oldest first. An empty batch says that the watch's
    /// [`revision`](Watch::revision) moved on without a write to a watched key. Cancel-safe: what
    /// a dropped call would have returned, the next call returns. Fails with `Compacted` if the
    /// watcher was so slow that writes it has not seen were compacted.
    async fn next(&mut self) -> Result<Vec<Arc<Event>>>;

    /// Every watched write up to this revision has been returned.
    fn revision(&self) -> Revision;
}

/// The first string after every string that starts with `prefix`. Every key is below U+10FFFF
/// repeated, so appending that character bounds the prefix.
pub(crate) fn prefix_end(prefix: &str) -> String {
    format!("{prefix}\u{10FFFF}")
}
