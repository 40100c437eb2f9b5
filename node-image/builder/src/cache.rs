//! Results kept under the hash of what they were made from.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{BuildError, Progress, at};

/// The hash of everything that goes into a result.
#[derive(Default)]
pub(crate) struct Key(Sha256);

impl Key {
    /// Adds one ingredient. Each is delimited, so that no two lists are mistaken for one another.
    pub(crate) fn add(&mut self, ingredient: &[u8]) {
        self.0.update((ingredient.len() as u64).to_le_bytes());
        self.0.update(ingredient);
    }

    /// Adds the files below `path`, or the file itself, by relative path and content.
    pub(crate) fn add_tree(&mut self, path: &Path) -> Result<(), BuildError> {
        if path.is_file() {
            self.add(path.file_name().unwrap_or_default().as_encoded_bytes());
            self.add(&fs::read(path).map_err(at(path))?);
            return Ok(());
        }
        let entries = fs::read_dir(path).map_err(at(path))?;
        let mut paths = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(at(path))?;
        paths.sort();
        self.add(path.file_name().unwrap_or_default().as_encoded_bytes());
        self.add(&(paths.len() as u64).to_le_bytes());
        paths.iter().try_for_each(|path| self.add_tree(path))
    }

    pub(crate) fn name(self, kind: &str) -> String {
        let hash: String =
            self.0.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        format!("{kind}-{hash}")
    }
}

/// Returns `cache/name`, which `make` fills when it is not there: it is given a directory to work in
/// and leaves the result under the path that it returns. One maker works at a time; the result
/// appears whole or not at all.
pub(crate) fn kept(
    cache: &Path,
    name: &str,
    progress: &mut dyn FnMut(Progress<'_>),
    make: impl FnOnce(&Path, &mut dyn FnMut(Progress<'_>)) -> Result<PathBuf, BuildError>,
) -> Result<PathBuf, BuildError> {
    let result = cache.join(name);
    if result.exists() {
        return Ok(result);
    }
    fs::create_dir_all(cache).map_err(at(cache))?;
    let kind = name.split('-').next().unwrap_or(name);
    let lock_path = cache.join(format!("{kind}.lock"));
    let lock_file = File::create(&lock_path).map_err(at(&lock_path))?;
    let _lock = Flock::lock(lock_file, FlockArg::LockExclusiveNonblock)
        .or_else(|(lock_file, errno)| {
            if errno != Errno::EWOULDBLOCK {
                return Err((lock_file, errno));
            }
            progress(Progress::Step(&format!("Waiting for another build of the {kind}")));
            Flock::lock(lock_file, FlockArg::LockExclusive)
        })
        .map_err(|(_, errno)| BuildError::Io { path: lock_path, source: errno.into() })?;
    if result.exists() {
        return Ok(result);
    }
    clear_abandoned(cache, kind);
    let work = work_directory(cache, kind)?;
    let made = make(work.path(), progress)?;
    fs::rename(&made, &result).map_err(at(&result))?;
    Ok(result)
}

fn work_directory(cache: &Path, kind: &str) -> Result<TempDir, BuildError> {
    tempfile::Builder::new().prefix(&work_prefix(kind)).tempdir_in(cache).map_err(at(cache))
}

fn work_prefix(kind: &str) -> String {
    format!("making-{kind}-")
}

/// Removes what builders that were killed left. The caller holds the lock, so none is at work.
fn clear_abandoned(cache: &Path, kind: &str) {
    let prefix = work_prefix(kind);
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            // What cannot be removed takes space, and harms nothing else.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn write(directory: &Path) -> Result<PathBuf, BuildError> {
        let path = directory.join("made");
        fs::write(&path, "content").map_err(at(&path))?;
        Ok(path)
    }

    #[test]
    fn a_result_is_made_once_by_whoever_comes_first() {
        let cache = tempfile::tempdir().unwrap();
        let [made, waiting] = [const { AtomicU32::new(0) }; 2];
        let wait = |progress: Progress<'_>| {
            assert_eq!(progress, Progress::Step("Waiting for another build of the thing"));
            waiting.fetch_add(1, Ordering::SeqCst);
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    kept(cache.path(), "thing-1", &mut { wait }, |work, _| {
                        made.fetch_add(1, Ordering::SeqCst);
                        // All others have come by then, and say what they do.
                        while waiting.load(Ordering::SeqCst) < 3 {
                            std::thread::yield_now();
                        }
                        write(work)
                    })
                    .unwrap()
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
        assert_eq!(fs::read_to_string(cache.path().join("thing-1")).unwrap(), "content");
    }

    #[test]
    fn a_failure_leaves_nothing_and_an_abandoned_build_is_cleared() {
        let cache = tempfile::tempdir().unwrap();
        let abandoned = cache.path().join("making-thing-x");
        fs::create_dir(&abandoned).unwrap();
        kept(cache.path(), "thing-1", &mut |_| {}, |work, _| {
            write(work)?;
            Err(BuildError::NoSource)
        })
        .unwrap_err();
        let left: Vec<_> =
            fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["thing.lock"]);
    }

    #[test]
    fn a_key_follows_names_and_contents() {
        let tree = tempfile::tempdir().unwrap();
        let key = || {
            let mut key = Key::default();
            key.add_tree(tree.path()).unwrap();
            key.name("k")
        };
        fs::write(tree.path().join("a"), "1").unwrap();
        let first = key();
        assert_eq!(first, key());
        fs::write(tree.path().join("a"), "2").unwrap();
        let second = key();
        fs::rename(tree.path().join("a"), tree.path().join("b")).unwrap();
        let third = key();
        assert!(first != second && second != third && first != third);
    }
}
