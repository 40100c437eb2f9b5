//! Where everything lies under the daemon's home, and the lock that makes it the only one there.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bulkhead_host_api::ClusterName;

/// Why the home could not be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HomeError {
    #[error("another host daemon already runs on {0}")]
    Taken(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// The daemon's state directory, locked for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Home {
    root: PathBuf,
    _lock: File,
}

impl Home {
    /// Creates the directory if need be (mode 0700) and takes its lock.
    pub(crate) fn open(root: &Path) -> Result<Self, HomeError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| HomeError::Io { path, source }
        };
        create_private(root).map_err(at(root))?;
        let root = root.canonicalize().map_err(at(root))?;
        let path = root.join("host.lock");
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(at(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(HomeError::Taken(root)),
            Err(std::fs::TryLockError::Error(source)) => return Err(at(&path)(source)),
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(at(&path))?;
        let clusters = root.join("clusters");
        create_private(&clusters).map_err(at(&clusters))?;
        Ok(Self { root, _lock: lock })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("host.db")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.root.join("host.sock")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn node_images(&self) -> PathBuf {
        self.root.join("node-image")
    }

    pub(crate) fn clusters(&self) -> PathBuf {
        self.root.join("clusters")
    }

    /// Where the consoles of a cluster's nodes that did not come up are kept.
    pub(crate) fn failed(&self, name: &ClusterName) -> PathBuf {
        self.root.join("failed").join(name.as_str())
    }

    pub(crate) fn cluster(&self, name: &ClusterName) -> ClusterDir {
        ClusterDir(self.clusters().join(name.as_str()))
    }
}

/// One cluster's directory.
#[derive(Debug, Clone)]
pub(crate) struct ClusterDir(PathBuf);

impl ClusterDir {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }

    /// The kernel that the cluster was given, if it was.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.0.join("kernel")
    }

    /// The initrd that goes with it, if one does.
    pub(crate) fn initrd(&self) -> PathBuf {
        self.0.join("initrd")
    }

    pub(crate) fn api_server_log(&self) -> PathBuf {
        self.0.join("api-server.log")
    }

    /// What the proxy of Ingresses serves.
    pub(crate) fn ingress(&self) -> PathBuf {
        self.0.join("ingress")
    }

    pub(crate) fn ingress_log(&self) -> PathBuf {
        self.0.join("ingress.log")
    }

    pub(crate) fn name_server(&self) -> PathBuf {
        self.0.join("dns")
    }

    pub(crate) fn name_server_log(&self) -> PathBuf {
        self.0.join("dns.log")
    }

    pub(crate) fn node(&self, node: &str) -> PathBuf {
        self.0.join("nodes").join(node)
    }
}

/// Creates a directory and its parents, each readable by its owner alone.
pub(crate) fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes a directory with all it holds; fine if it is not there.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes a file; fine if it is not there.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_has_one_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        assert!(matches!(Home::open(dir.path()), Err(HomeError::Taken(_))));
        drop(home);
        Home::open(dir.path()).unwrap();
    }
}
