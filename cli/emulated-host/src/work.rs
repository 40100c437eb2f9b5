//! The directory that a machine for one command has its files in, below the system's temporary one.
//!
//! It goes with the command. What a `kill -9` left, the next command removes: a directory belongs to
//! nobody once its file `lock` is locked no more, which the kernel sees to.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

const PREFIX: &str = "bulkhead-emulated-";
const LOCK: &str = "lock";

/// A directory of this process's own.
#[derive(Debug)]
pub(crate) struct Work {
    directory: TempDir,
    _lock: Flock<File>,
}

impl Work {
    /// Makes one below `parent`, and removes what killed commands left there.
    pub(crate) fn new(parent: &Path) -> io::Result<Self> {
        sweep(parent);
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        // It is locked when it gets the name by which others look for it.
        let path = directory.path().join("lock.new");
        let lock = Flock::lock(File::create(&path)?, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| io::Error::from(errno))?;
        fs::rename(path, directory.path().join(LOCK))?;
        Ok(Self { directory, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Removes the directories whose process is gone. Those of other users cannot be opened.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(file) = File::open(entry.path().join(LOCK)) else { continue };
        if Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok() {
            // One that cannot be removed is tried again by the next command.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_command_left_goes_and_what_is_in_use_stays() {
        let parent = tempfile::tempdir().unwrap();
        let used = Work::new(parent.path()).unwrap();
        let left = parent.path().join("bulkhead-emulated-left");
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        fs::write(left.join("disk.img"), "").unwrap();
        let other = parent.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join(LOCK), "").unwrap();

        drop(Work::new(parent.path()).unwrap());
        assert!(used.path().exists() && other.exists());
        assert!(!left.exists());
        drop(used);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}
