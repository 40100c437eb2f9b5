//! Claims: which clusters are of no use once the command that is making or using them is gone.
//!
//! A claim is a file named after the cluster, under the home, that its command holds locked. The
//! kernel drops the lock with the process, however that ends, so a claim that can be locked is an
//! orphan, and the next command removes its cluster. No process id is written down that could
//! come to mean another process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::home;
use bulkhead_host_api::ClusterName;

/// The claim's content once the cluster under its name is the claimant's own.
const ARMED: &str = "delete this cluster\n";

/// A held claim. Dropped, its file is gone, so nobody will remove the cluster any more.
#[derive(Debug)]
pub(crate) struct Claim {
    path: PathBuf,
    file: File,
    abandoned: bool,
}

fn directory(home: &Path) -> PathBuf {
    home.join("claims")
}

impl Claim {
    /// Claims `name`; not yet armed: the cluster of that name may be somebody else's still.
    pub(crate) fn take(home: &Path, name: &ClusterName) -> Result<Self> {
        let directory = directory(home);
        home::create(&directory)?;
        let path = directory.join(name.as_str());
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .map_err(|error| home::refused(&path, error))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => bail!(
                    "cluster {name} is being created by another command; wait for it, or take \
                     another name"
                ),
                Err(TryLockError::Error(error)) => return Err(home::refused(&path, error)),
            }
            // Whoever held it before may have removed the file between opening and locking.
            if is_still(&path, &file) {
                file.set_len(0).map_err(|error| home::refused(&path, error))?;
                return Ok(Self { path, file, abandoned: false });
            }
        }
    }

    /// From here on the cluster of this name is the claimant's own.
    pub(crate) fn arm(&mut self) -> Result<()> {
        self.file
            .write_all(ARMED.as_bytes())
            .and_then(|()| self.file.sync_data())
            .map_err(|error| home::refused(&self.path, error))
    }

    /// A file that goes with the claim, for the cluster's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.path.with_extension("kubeconfig")
    }

    /// Gives the claim up with its cluster still there, for the next command to remove.
    pub(crate) fn abandon(mut self) {
        self.abandoned = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.abandoned {
            // What cannot be removed is an orphan of a cluster that is gone: harmless.
            let _ = std::fs::remove_file(self.kubeconfig());
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The names whose claimant is gone, each with the claim, taken over.
pub(crate) fn orphans(home: &Path) -> Vec<(ClusterName, Claim)> {
    let Ok(entries) = std::fs::read_dir(directory(home)) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let name: ClusterName = entry.file_name().to_str()?.parse().ok()?;
            let path = entry.path();
            let mut file = OpenOptions::new().read(true).write(true).open(&path).ok()?;
            file.try_lock().ok()?;
            if !is_still(&path, &file) {
                return None;
            }
            let mut content = String::new();
            file.read_to_string(&mut content).ok()?;
            let claim = Claim { path, file, abandoned: false };
            // Unarmed, it goes with its file and touches no cluster.
            (content == ARMED).then_some((name, claim))
        })
        .collect()
}

fn is_still(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (std::fs::metadata(path), file.metadata()) {
        (Ok(there), Ok(held)) => (there.dev(), there.ino()) == (held.dev(), held.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ClusterName {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_is_claimed_once() {
        let home = tempfile::tempdir().unwrap();
        let held = Claim::take(home.path(), &name("a")).unwrap();
        let error = Claim::take(home.path(), &name("a")).unwrap_err().to_string();
        assert!(error.contains("cluster a is being created"), "{error}");
        Claim::take(home.path(), &name("b")).unwrap();
        drop(held);
        Claim::take(home.path(), &name("a")).unwrap();
    }

    #[test]
    fn only_armed_claims_of_the_dead_are_orphans() {
        let home = tempfile::tempdir().unwrap();
        let mut alive = Claim::take(home.path(), &name("alive")).unwrap();
        alive.arm().unwrap();
        let mut dead = Claim::take(home.path(), &name("dead")).unwrap();
        dead.arm().unwrap();
        std::fs::write(dead.kubeconfig(), "").unwrap();
        dead.abandon();
        Claim::take(home.path(), &name("undecided")).unwrap().abandon();

        let found = orphans(home.path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, name("dead"));
        assert!(orphans(home.path()).is_empty(), "it is held by whoever removes the cluster");
        drop(found);
        let left: Vec<_> = std::fs::read_dir(directory(home.path())).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
