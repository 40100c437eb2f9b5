//! Backups: all that a cluster's control plane is made of, at one revision, in one file.
//!
//! Objects are taken as they are stored, so secrets stay sealed; but the keys are in the file as
//! well, with the authority's and the admin's. Who has the file has the cluster.
//!
//! A restore puts the objects into SQLite or etcd, whichever they came from, and the files into a
//! cluster's directory. Resource versions go on from far beyond the backup's, and what was before
//! counts as compacted: who comes back with an older one is told `Expired`, and lists anew.

mod format;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_store::{
    Entry, EtcdStore, Range, Revision, SqliteStore, Store as _, StoreError, Write as StoreWrite,
};
use serde_json::Value;
use tokio::task::JoinSet;

pub use format::{FormatError, Reader, Record, Writer};

use crate::Boxed;
use crate::encryption::{self, EncryptionError};
use crate::storage::{Storage, StorageError};

/// By so much the first revision after a restore is beyond the backup's. Clients may have seen
/// revisions that came after the backup; none comes near this many.
const LEAP: u64 = 1_000_000_000;
/// Objects that are written to etcd at once.
const AT_ONCE: usize = 64;
/// etcd is read in pages of so many objects.
const PAGE: usize = 500;
/// What lies beside `pki/` and belongs to the cluster: the kernel that it was given.
const FILES: [&str; 2] = ["kernel", "initrd"];
/// The lease of who leads the servers that run now.
const ELECTION: &str = "/registry/leases/kube-system/bulkhead-control-plane";

/// A backup or restore failed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file is not a backup, or not whole.
    #[error("{0}: {1}")]
    Format(PathBuf, FormatError),
    /// A file of the cluster cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// The backup cannot be written.
    #[error("writing the backup: {0}")]
    Output(io::Error),
    /// The objects cannot be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The objects cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keys of secrets cannot be read.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    /// The keys of secrets changed in the middle.
    #[error("the key of secrets was changed while the backup was made; make another")]
    Rotated,
    /// There is a cluster already.
    #[error("{0} is there already, and would be overwritten")]
    Exists(PathBuf),
    /// etcd has one already.
    #[error("{0} in etcd is not empty; name another prefix, or delete what is there")]
    NotEmpty(String),
}

type Result<T> = std::result::Result<T, BackupError>;

/// Writes a backup of the cluster in `dir`, whose objects are in `storage`, to `out`; `about` is
/// what its reader is told of it. The cluster may be running.
///
/// # Errors
/// If something of it cannot be read, or `out` not be written.
pub fn backup<'a>(
    dir: &'a Path,
    storage: &'a Storage,
    about: &'a Value,
    out: &'a mut (dyn Write + Send),
) -> Boxed<'a, Result<()>> {
    Box::pin(write(dir, storage, about, out))
}

async fn write(
    dir: &Path,
    storage: &Storage,
    about: &Value,
    out: &mut (dyn Write + Send),
) -> Result<()> {
    let pki = dir.join("pki");
    let before = keys(&pki)?;
    let mut used = BTreeSet::new();
    let mut out = Some(out);
    let mut writer = None;
    let take = |part: Part| {
        match (part, &mut writer) {
            (Part::Revision(revision), _) => {
                if let Some(out) = out.take() {
                    writer = Some(Writer::new(out, about, revision)?);
                }
            }
            (Part::Entry(entry), Some(writer)) if entry.key != ELECTION => {
                if entry.key.starts_with(encryption::PREFIX) {
                    used.extend(bulkhead_store::encryption::key_name(&entry.value));
                }
                writer.entry(&entry.key, &entry.value, entry.revision)?;
            }
            _ => {}
        }
        Ok(())
    };
    read(storage, take).await?;
    let Some(mut writer) = writer else { return Ok(()) };
    for entry in std::fs::read_dir(&pki).map_err(|error| BackupError::File(pki.clone(), error))? {
        let entry = entry.map_err(|error| BackupError::File(pki.clone(), error))?;
        let Some(name) = entry.file_name().to_str().filter(|name| is_kept(name)).map(String::from)
        else {
            continue;
        };
        put(&mut writer, &format!("pki/{name}"), &entry.path())?;
    }
    // Whichever has the keys of all that was read: they may have been changed in between.
    let has_all = |(_, names): &&(Vec<u8>, BTreeSet<String>)| names.is_superset(&used);
    let after = keys(&pki)?;
    let (keys, _) = [&after, &before].into_iter().find(has_all).ok_or(BackupError::Rotated)?;
    let path = format!("pki/{}", encryption::FILE);
    writer.file(&path, &keys[..]).map_err(BackupError::Output)?;
    for name in FILES {
        let path = dir.join(name);
        if path.exists() {
            put(&mut writer, name, &path)?;
        }
    }
    writer.finish().map(drop).map_err(BackupError::Output)
}

/// The file of secrets' keys, and their names.
fn keys(pki: &Path) -> Result<(Vec<u8>, BTreeSet<String>)> {
    let path = pki.join(encryption::FILE);
    let names = encryption::names(pki)?;
    let text = std::fs::read(&path).map_err(|error| BackupError::File(path, error))?;
    Ok((text, names))
}

/// Whether a file of `pki/` is the cluster's, other than the keys of secrets.
fn is_kept(name: &str) -> bool {
    name != encryption::FILE && (name.ends_with(".crt") || name.ends_with(".key"))
}

fn put<W: Write>(writer: &mut Writer<W>, name: &str, path: &Path) -> Result<()> {
    let file = File::open(path).map_err(|error| BackupError::File(path.into(), error))?;
    writer.file(name, file).map_err(BackupError::Output)
}

enum Part {
    /// That of all the entries that follow.
    Revision(Revision),
    Entry(Entry),
}

/// Gives all of a store's objects, at one revision, to `take`.
async fn read(storage: &Storage, mut take: impl FnMut(Part) -> io::Result<()>) -> Result<()> {
    let store = match storage {
        Storage::Sqlite(path) => {
            let snapshot = bulkhead_store::SqliteSnapshot::open(path)?;
            take(Part::Revision(snapshot.revision()?)).map_err(BackupError::Output)?;
            let mut failed = None;
            snapshot.entries(|entry| match take(Part::Entry(entry)) {
                Ok(()) => true,
                Err(error) => {
                    failed = Some(error);
                    false
                }
            })?;
            return failed.map_or(Ok(()), |error| Err(BackupError::Output(error)));
        }
        Storage::Etcd(_) => storage.open().await?,
    };
    let mut range = Range { limit: Some(PAGE), ..Range::default() };
    loop {
        let page = store.list(range.clone()).await?;
        if range.at.is_none() {
            take(Part::Revision(page.revision)).map_err(BackupError::Output)?;
            range.at = Some(page.revision);
        }
        range.after = page.entries.last().map(|entry| entry.key.clone());
        for entry in page.entries {
            take(Part::Entry(entry)).map_err(BackupError::Output)?;
        }
        if page.remaining == 0 {
            return Ok(());
        }
    }
}

/// Reads the backup at `path` through, and returns what it says of itself.
///
/// # Errors
/// If it is not a whole backup.
pub fn inspect(path: &Path) -> Result<Value> {
    let wrong = |error| BackupError::Format(path.into(), error);
    let (about, _) = Reader::open(path).map_err(wrong)?.about().map_err(wrong)?;
    Ok(about)
}

/// Restores the backup at `path` into the directory `dir` and into `storage`, which have no cluster;
/// with `replace`, what they have is deleted.
///
/// # Errors
/// If it is not a whole backup, or cannot be restored there; then `dir` has part of it.
pub fn restore<'a>(
    path: &'a Path,
    dir: &'a Path,
    storage: &'a Storage,
    replace: bool,
) -> Boxed<'a, Result<()>> {
    Box::pin(put_back(path, dir, storage, replace))
}

async fn put_back(path: &Path, dir: &Path, storage: &Storage, replace: bool) -> Result<()> {
    let wrong = |error| BackupError::Format(path.into(), error);
    let mut reader = Reader::open(path).map_err(wrong)?;
    let (_, revision) = reader.about().map_err(wrong)?;
    clear(dir, replace)?;
    let start = Revision(revision.0.saturating_add(LEAP));
    let mut target = Target::open(storage, start, replace).await?;
    while let Some(record) = reader.record().map_err(wrong)? {
        match record {
            Record::Entry(entry) => target.entry(entry).await?,
            Record::File(name, piece) => append(dir, &name, &piece, path)?,
            Record::End(_) => {}
            Record::About(..) => return Err(wrong(FormatError::Malformed("it begins twice"))),
        }
    }
    target.finish().await
}

/// Sees to it that none of the files is there that a backup has.
fn clear(dir: &Path, replace: bool) -> Result<()> {
    for name in FILES.iter().chain(&["pki"]) {
        let path = dir.join(name);
        let removed = match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Ok(_) if !replace => return Err(BackupError::Exists(path)),
            Ok(file) if file.is_dir() => std::fs::remove_dir_all(&path),
            Ok(_) => std::fs::remove_file(&path),
            Err(error) => Err(error),
        };
        removed.map_err(|error| BackupError::File(path, error))?;
    }
    Ok(())
}

/// Appends a piece to a file of the cluster's directory, which is made private.
fn append(dir: &Path, name: &str, piece: &[u8], backup: &Path) -> Result<()> {
    let allowed = match name.split_once('/') {
        Some(("pki", file)) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            file.chars().all(plain) && (is_kept(file) || file == encryption::FILE)
        }
        _ => FILES.contains(&name),
    };
    if !allowed {
        let error = FormatError::Malformed("it has a file that no cluster has");
        return Err(BackupError::Format(backup.into(), error));
    }
    let path = dir.join(name);
    let mode = if name.ends_with(".crt") { 0o644 } else { 0o600 };
    let write = || {
        if let Some(parent) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).append(true).mode(mode).open(&path)?;
        file.write_all(piece)?;
        file.sync_all()
    };
    write().map_err(|error| BackupError::File(path.clone(), error))
}

/// Where the objects of a restore go.
enum Target {
    Sqlite(bulkhead_store::SqliteImport),
    Etcd { store: Arc<EtcdStore>, writes: JoinSet<bulkhead_store::Result<Revision>> },
}

impl Target {
    async fn open(storage: &Storage, start: Revision, replace: bool) -> Result<Self> {
        match storage {
            Storage::Sqlite(path) => {
                if replace {
                    SqliteStore::destroy(path)?;
                } else if path.exists() {
                    return Err(BackupError::Exists(path.clone()));
                }
                Ok(Self::Sqlite(bulkhead_store::SqliteImport::create(path, start)?))
            }
            Storage::Etcd(config) => {
                if replace {
                    EtcdStore::destroy(config).await?;
                }
                EtcdStore::begin_after(config, start).await.map_err(|error| match error {
                    StoreError::Exists(root) => BackupError::NotEmpty(root),
                    other => other.into(),
                })?;
                let store = Arc::new(EtcdStore::open(config).await?);
                Ok(Self::Etcd { store, writes: JoinSet::new() })
            }
        }
    }

    async fn entry(&mut self, entry: Entry) -> Result<()> {
        match self {
            Self::Sqlite(import) => Ok(import.add(&entry)?),
            Self::Etcd { store, writes } => {
                if writes.len() >= AT_ONCE {
                    joined(writes.join_next().await)?;
                }
                let store = Arc::clone(store);
                let write = StoreWrite::Create { key: entry.key, value: entry.value.to_vec() };
                writes.spawn(async move { store.write(write).await });
                Ok(())
            }
        }
    }

    async fn finish(self) -> Result<()> {
        match self {
            Self::Sqlite(import) => Ok(import.finish()?),
            Self::Etcd { store, mut writes } => {
                while let Some(written) = writes.join_next().await {
                    joined(Some(written))?;
                }
                // Nobody may see the cluster half restored.
                let newest = store.revision().await?;
                Ok(store.compact(newest).await?)
            }
        }
    }
}

type Joined = std::result::Result<bulkhead_store::Result<Revision>, tokio::task::JoinError>;

fn joined(written: Option<Joined>) -> Result<()> {
    match written {
        Some(Err(error)) => Err(StoreError::Backend(error.to_string().into()).into()),
        Some(Ok(written)) => Ok(written.map(drop)?),
        None => Ok(()),
    }
}
