//! The kernel and root image that nodes boot, copied once into the home.
//!
//! They may come from where reading is slow (a 9p share) or from a build directory that changes;
//! the copy is neither. It is named by the sources' paths, sizes and times.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Why there is no node image.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NodeImageError {
    #[error(
        "no node image: name one with --kernel and --root, or put vmlinux and root.erofs beside \
         the program or into $BULKHEAD_NODE_IMAGE_DIR"
    )]
    None,
    #[error("node image {path}: {problem}")]
    Unusable { path: PathBuf, problem: String },
}

/// Where kernel and root image come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sources {
    pub(crate) kernel: PathBuf,
    pub(crate) root: PathBuf,
}

impl Sources {
    /// What was named, else `dir`'s files, else those beside the program.
    pub(crate) fn find(
        kernel: Option<PathBuf>,
        root: Option<PathBuf>,
        dir: Option<PathBuf>,
    ) -> Option<Self> {
        let beside = || Some(std::env::current_exe().ok()?.parent()?.to_owned());
        let dir = dir.or_else(beside);
        let or_in_dir = |named: Option<PathBuf>, name: &str| {
            named.or_else(|| Some(dir.as_ref()?.join(name)).filter(|path| path.exists()))
        };
        Some(Self { kernel: or_in_dir(kernel, "vmlinux")?, root: or_in_dir(root, "root.erofs")? })
    }
}

/// A node image in the home.
#[derive(Debug, Clone)]
pub(crate) struct NodeImage {
    pub(crate) kernel: PathBuf,
    pub(crate) root: PathBuf,
}

impl NodeImage {
    /// Copies the sources into `dir` unless that was done before, and removes older copies:
    /// running nodes hold theirs open.
    pub(crate) fn prepare(sources: &Sources, dir: &Path) -> Result<Self, NodeImageError> {
        let mut hash = Sha256::new();
        for path in [&sources.kernel, &sources.root] {
            let meta = std::fs::metadata(path).map_err(|error| unusable(path, &error))?;
            if !meta.is_file() {
                return Err(NodeImageError::Unusable {
                    path: path.clone(),
                    problem: "is no file".into(),
                });
            }
            let path = path.canonicalize().map_err(|error| unusable(path, &error))?;
            hash.update(format!("{}\0{}\0", path.display(), meta.len()));
            hash.update(format!("{}\0{}\0", meta.mtime(), meta.mtime_nsec()));
        }
        let digest = hash.finalize();
        let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let place = dir.join(&name);
        let image = Self { kernel: place.join("kernel"), root: place.join("root") };
        if !place.exists() {
            let partial = dir.join(format!("{name}.partial"));
            crate::home::remove_tree(&partial).map_err(|error| unusable(&partial, &error))?;
            crate::home::create_private(&partial).map_err(|error| unusable(&partial, &error))?;
            copy(&sources.kernel, &partial.join("kernel"))?;
            copy(&sources.root, &partial.join("root"))?;
            std::fs::rename(&partial, &place).map_err(|error| unusable(&place, &error))?;
        }
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name() != name.as_str()
                && let Err(error) = crate::home::remove_tree(&entry.path())
            {
                tracing::warn!("{}: {error}", entry.path().display());
            }
        }
        Ok(image)
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), NodeImageError> {
    let mut source = File::open(from).map_err(|error| unusable(from, &error))?;
    let mut target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(|error| unusable(to, &error))?;
    io::copy(&mut source, &mut target).map_err(|error| unusable(from, &error))?;
    target.sync_all().map_err(|error| unusable(to, &error))
}

fn unusable(path: &Path, error: &io::Error) -> NodeImageError {
    NodeImageError::Unusable { path: path.to_owned(), problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_image_replaces_the_copy_of_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let sources =
            Sources { kernel: dir.path().join("vmlinux"), root: dir.path().join("root.erofs") };
        std::fs::write(&sources.kernel, "kernel").unwrap();
        std::fs::write(&sources.root, "root").unwrap();
        let copies = dir.path().join("node-image");
        let first = NodeImage::prepare(&sources, &copies).unwrap();
        assert_eq!(std::fs::read(&first.kernel).unwrap(), b"kernel");
        assert_eq!(NodeImage::prepare(&sources, &copies).unwrap().root, first.root);
        std::fs::write(&sources.root, "newer root").unwrap();
        let second = NodeImage::prepare(&sources, &copies).unwrap();
        assert_eq!(std::fs::read(&second.root).unwrap(), b"newer root");
        assert!(!first.root.exists());
    }

    #[test]
    fn a_missing_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let sources = Sources { kernel: dir.path().join("k"), root: dir.path().join("r") };
        let error = NodeImage::prepare(&sources, &dir.path().join("copies")).unwrap_err();
        assert!(error.to_string().contains("/k: "), "{error}");
        assert_eq!(Sources::find(None, None, Some(dir.path().to_owned())), None);
    }
}
