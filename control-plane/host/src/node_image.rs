//! What nodes boot: the node image's kernel and root image, copied once into the home, or a kernel
//! that a cluster was given, copied into its directory.
//!
//! They may come from where reading is slow (a 9p share) or from a build directory that changes;
//! the copy is neither. The node image's is named by the sources' paths, sizes and times.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_host_api::{ApiError, ClusterConfig};
use sha2::{Digest as _, Sha256};

use crate::fault;
use crate::home::ClusterDir;

const NODE_IMAGE: &str = "node image";

/// Why there is no node image.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NodeImageError {
    #[error(
        "no node image: name one with --kernel and --root, or put vmlinux and root.erofs beside \
         the program or into $BULKHEAD_NODE_IMAGE_DIR"
    )]
    None,
    #[error("{what} {path}: {problem}")]
    Unusable { what: &'static str, path: PathBuf, problem: String },
    #[error("{path}: {source}: free space there")]
    Full { path: PathBuf, source: Arc<io::Error> },
}

impl From<NodeImageError> for ApiError {
    fn from(error: NodeImageError) -> Self {
        match error {
            NodeImageError::Full { .. } => fault::insufficient(error),
            _ => fault::invalid(error),
        }
    }
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
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) root: PathBuf,
}

impl NodeImage {
    /// Copies the sources into `dir` unless that was done before, and removes older copies:
    /// running nodes hold theirs open.
    pub(crate) fn prepare(sources: &Sources, dir: &Path) -> Result<Self, NodeImageError> {
        let mut hash = Sha256::new();
        for path in [&sources.kernel, &sources.root] {
            let meta = std::fs::metadata(path).map_err(failed(NODE_IMAGE, path))?;
            let path = path.canonicalize().map_err(failed(NODE_IMAGE, path))?;
            hash.update(format!("{}\0{}\0", path.display(), meta.len()));
            hash.update(format!("{}\0{}\0", meta.mtime(), meta.mtime_nsec()));
        }
        let digest = hash.finalize();
        let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let place = dir.join(&name);
        let image = Self { kernel: place.join("kernel"), initrd: None, root: place.join("root") };
        if !place.exists() {
            let partial = dir.join(format!("{name}.partial"));
            crate::home::remove_tree(&partial).map_err(failed(NODE_IMAGE, &partial))?;
            crate::home::create_private(&partial).map_err(failed(NODE_IMAGE, &partial))?;
            let copied = copy(NODE_IMAGE, &sources.kernel, &partial.join("kernel"))
                .and_then(|()| copy(NODE_IMAGE, &sources.root, &partial.join("root")))
                .and_then(|()| {
                    std::fs::rename(&partial, &place).map_err(failed(NODE_IMAGE, &place))
                });
            if let Err(error) = copied {
                // What cannot be removed now is removed before the next copy.
                drop(crate::home::remove_tree(&partial));
                return Err(error);
            }
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

    /// With the kernel that was kept for the cluster in `dir`, if one was.
    pub(crate) fn of_cluster(self, dir: &ClusterDir) -> Self {
        let kept = |path: PathBuf| Some(path).filter(|path| path.exists());
        match kept(dir.kernel()) {
            Some(kernel) => Self { kernel, initrd: kept(dir.initrd()), ..self },
            None => self,
        }
    }
}

/// Copies the kernel and initrd that a cluster was given into its directory, unless that was done
/// before.
pub(crate) fn keep_kernel(config: &ClusterConfig, dir: &ClusterDir) -> Result<(), NodeImageError> {
    crate::home::create_private(dir.path()).map_err(failed("cluster", dir.path()))?;
    for (what, source, kept) in
        [("initrd", &config.initrd, dir.initrd()), ("kernel", &config.kernel, dir.kernel())]
    {
        let Some(source) = source.as_ref().filter(|_| !kept.exists()) else { continue };
        let partial = kept.with_extension("partial");
        crate::home::remove_file(&partial).map_err(failed(what, &partial))?;
        copy(what, source, &partial)?;
        std::fs::rename(&partial, &kept).map_err(failed(what, &kept))?;
    }
    Ok(())
}

fn copy(what: &'static str, from: &Path, to: &Path) -> Result<(), NodeImageError> {
    let mut source = File::open(from).map_err(failed(what, from))?;
    if !source.metadata().map_err(failed(what, from))?.is_file() {
        let (path, problem) = (from.to_owned(), "is not a regular file".to_owned());
        return Err(NodeImageError::Unusable { what, path, problem });
    }
    let mut target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(failed(what, to))?;
    let copied = io::copy(&mut source, &mut target).and_then(|_| target.sync_all());
    copied.map_err(|error| {
        let path = if is_full(&error) { to } else { from };
        failed(what, path)(error)
    })
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NodeImageError {
    let path = path.to_owned();
    move |error| {
        if is_full(&error) {
            NodeImageError::Full { path, source: Arc::new(error) }
        } else {
            NodeImageError::Unusable { what, path, problem: error.to_string() }
        }
    }
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
