//! Where the objects are kept: SQLite in the cluster's directory, or etcd.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_store::{EtcdConfig, EtcdStore, EtcdTls, SqliteStore, Store, StoreError};
use tokio::time::Instant;

/// What every key begins with, whatever etcd's prefix.
const KEYS: &str = "/registry";
/// How long an etcd that does not answer is waited for at the start.
const PATIENCE: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_millis(500);

/// The storage cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The database cannot be opened.
    #[error("{0}: {1}")]
    Sqlite(PathBuf, StoreError),
    /// etcd cannot be used.
    #[error("{0}")]
    Etcd(StoreError),
    /// A certificate or key cannot be read.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    /// Options contradict each other.
    #[error("{0}")]
    Options(&'static str),
}

type Result<T> = std::result::Result<T, StorageError>;

/// The command line's options, which are kube-apiserver's.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct StorageOptions {
    /// URLs of etcd's members, with commas between, to keep objects there instead of in `store.db`;
    /// servers with the same ones serve one cluster.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// The authorities of etcd's certificates, PEM; for https:// URLs.
    #[arg(long, value_name = "FILE", requires = "etcd_servers")]
    pub etcd_cafile: Option<PathBuf>,
    /// The certificate to show to etcd, PEM.
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile", requires = "etcd_cafile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// What the cluster's keys in etcd begin with [default: /registry].
    #[arg(long, value_name = "PREFIX", requires = "etcd_servers")]
    pub etcd_prefix: Option<String>,
}

/// Where the objects are kept.
#[derive(Debug, Clone)]
pub enum Storage {
    /// In this database.
    Sqlite(PathBuf),
    /// In etcd.
    Etcd(EtcdConfig),
}

impl Storage {
    /// As `options` say, for the cluster in `dir`.
    ///
    /// # Errors
    /// If a file that they name cannot be read.
    pub fn new(options: &StorageOptions, dir: &Path) -> Result<Self> {
        if options.etcd_servers.is_empty() {
            return Ok(Self::Sqlite(dir.join("store.db")));
        }
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| StorageError::File(path.clone(), error))
        };
        let identity = match (&options.etcd_certfile, &options.etcd_keyfile) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            (None, None) => None,
            _ => {
                return Err(StorageError::Options(
                    "--etcd-certfile and --etcd-keyfile go together",
                ));
            }
        };
        let tls = match &options.etcd_cafile {
            Some(path) => Some(EtcdTls { authorities: read(path)?, identity }),
            None => None,
        };
        Ok(Self::Etcd(EtcdConfig {
            servers: options.etcd_servers.clone(),
            tls,
            prefix: options.etcd_prefix.clone().unwrap_or_else(|| KEYS.into()),
            replaces: KEYS.into(),
        }))
    }

    /// Whether other servers may write to it as well.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        matches!(self, Self::Etcd(_))
    }

    /// Opens it. An etcd that does not answer is waited for, as it may be about to start.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn open(&self) -> Result<Arc<dyn Store>> {
        let config = match self {
            Self::Sqlite(path) => {
                let store = SqliteStore::open(path);
                return match store {
                    Ok(store) => Ok(Arc::new(store)),
                    Err(error) => Err(StorageError::Sqlite(path.clone(), error)),
                };
            }
            Self::Etcd(config) => config,
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match EtcdStore::open(config).await {
                Ok(store) => return Ok(Arc::new(store)),
                Err(error @ StoreError::Unavailable(_)) if Instant::now() < deadline => {
                    tracing::warn!(%error, "waiting");
                }
                Err(error) => return Err(StorageError::Etcd(error)),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}
