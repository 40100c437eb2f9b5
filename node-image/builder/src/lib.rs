//! Builds and caches what a node boots: a kernel and a root image.
//!
//! - The kernel is Debian's `linux-source-6.12` with the fragments of `node-image/kernel`, every line
//!   of which must hold in the final configuration ([`Wanted`]).
//! - The root image is an EROFS file with the static agent and the mount points that it needs.
//!
//! [`build`] returns what is there already, in this order:
//!
//! 1. `vmlinux` and `root.erofs` in `$BULKHEAD_NODE_IMAGE_DIR`, when that is set;
//! 2. the same beside the running program: an installed Bulkhead has no source tree;
//! 3. `kernel-HASH` and `root-HASH` in the cache, made first when the sources have changed.
//!
//! The hashes are of everything that goes in, so an unchanged tree runs neither make nor cargo.
//! Nothing needs root: packages are downloaded and unpacked, not installed.

#![forbid(unsafe_code)]

mod agent;
mod cache;
mod command;
mod config;
mod kernel;
mod root;

use std::path::{Path, PathBuf};

use thiserror::Error;

pub use command::CommandError;
pub use config::{ConfigError, Unmet, Wanted};

/// Names the directory that holds a ready-made `vmlinux` and `root.erofs`.
pub const DIRECTORY_VARIABLE: &str = "BULKHEAD_NODE_IMAGE_DIR";

const KERNEL: &str = "vmlinux";
const ROOT: &str = "root.erofs";

/// Why there is no node image.
#[derive(Debug, Error)]
pub enum BuildError {
    /// A ready-made image lacks a file.
    #[error("{} has no {missing}; {DIRECTORY_VARIABLE} must name a directory with {KERNEL} and {ROOT}", directory.display())]
    Incomplete {
        /// Where it was looked for.
        directory: PathBuf,
        /// What is not there.
        missing: &'static str,
    },
    /// There is neither an image nor a source tree.
    #[error(
        "there is no node image: neither {KERNEL} and {ROOT} beside this program nor a source tree; set {DIRECTORY_VARIABLE}"
    )]
    NoSource,
    /// A program failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The kernel's configuration is not what was wanted.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The root image could not be written.
    #[error("cannot write the root image: {0}")]
    Erofs(#[from] bulkhead_erofs::Error),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A step has begun, in words for the user.
    Step(&'a str),
    /// Of the step that has begun, so many of so many parts are done.
    Parts {
        /// Done.
        done: u64,
        /// In all, as far as is known.
        total: u64,
    },
}

/// What a node boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeImage {
    /// An uncompressed ELF kernel with a PVH entry.
    pub kernel: PathBuf,
    /// The EROFS root image.
    pub root: PathBuf,
}

impl NodeImage {
    /// The image in `directory`, if both files are there.
    ///
    /// # Errors
    /// Names the file that is missing.
    pub fn in_directory(directory: &Path) -> Result<Self, BuildError> {
        let image = Self { kernel: directory.join(KERNEL), root: directory.join(ROOT) };
        for (path, missing) in [(&image.kernel, KERNEL), (&image.root, ROOT)] {
            if !path.is_file() {
                return Err(BuildError::Incomplete { directory: directory.to_owned(), missing });
            }
        }
        Ok(image)
    }
}

/// Where an image is looked for and made.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// A directory that must hold a ready-made image.
    pub directory: Option<PathBuf>,
    /// A directory that may hold a ready-made image.
    pub beside: Option<PathBuf>,
    /// The source tree: the folder of the workspace's `Cargo.toml`.
    pub workspace: Option<PathBuf>,
    /// Where cargo builds the agent.
    pub target_directory: PathBuf,
    /// Where results are kept.
    pub cache: PathBuf,
}

impl BuildOptions {
    /// From the environment: the variables, the running program's folder, and the tree that this
    /// crate was built from, if it is still there.
    pub fn discover() -> Self {
        let path_of = |name| std::env::var_os(name).map(PathBuf::from);
        let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let workspace = tree.canonicalize().ok().filter(|tree| tree.join("Cargo.toml").is_file());
        let target =
            path_of("CARGO_TARGET_DIR").or_else(|| Some(workspace.as_ref()?.join("target")));
        let cache = path_of("XDG_CACHE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| Some(path_of("HOME")?.join(".cache")))
            .unwrap_or_else(|| PathBuf::from("/var/cache"));
        Self {
            directory: path_of(DIRECTORY_VARIABLE),
            beside: std::env::current_exe().ok().and_then(|path| Some(path.parent()?.to_owned())),
            target_directory: target.unwrap_or_default(),
            cache: cache.join("bulkhead/node-image"),
            workspace,
        }
    }
}

/// Returns the node image, building what is missing or out of date.
///
/// # Errors
/// When it cannot be found, or a part cannot be built.
pub fn build(
    options: &BuildOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<NodeImage, BuildError> {
    if let Some(image) = ready_made(options)? {
        return Ok(image);
    }
    let workspace = options.workspace.as_deref().ok_or(BuildError::NoSource)?;
    // The agent first: a mistake in it shows in seconds.
    let root = root::build(workspace, options, progress)?;
    let kernel = kernel::build(&options.cache, progress)?;
    Ok(NodeImage { kernel, root })
}

/// Returns the node image that [`build`] would return without building anything, if it could.
///
/// # Errors
/// As [`build`], where that would fail at once.
pub fn find(options: &BuildOptions) -> Result<Option<NodeImage>, BuildError> {
    if let Some(image) = ready_made(options)? {
        return Ok(Some(image));
    }
    let workspace = options.workspace.as_deref().ok_or(BuildError::NoSource)?;
    let image = NodeImage {
        kernel: options.cache.join(kernel::name()?),
        root: options.cache.join(root::name(workspace)?),
    };
    Ok(Some(image).filter(|image| image.kernel.is_file() && image.root.is_file()))
}

fn ready_made(options: &BuildOptions) -> Result<Option<NodeImage>, BuildError> {
    match &options.directory {
        Some(directory) => NodeImage::in_directory(directory).map(Some),
        None => {
            Ok(options.beside.as_deref().and_then(|beside| NodeImage::in_directory(beside).ok()))
        }
    }
}

pub(crate) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> BuildError {
    let path = path.to_owned();
    |source| BuildError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: Progress<'_>) {
        panic!("nothing was to be built");
    }

    fn options(directory: Option<&Path>, beside: Option<&Path>) -> BuildOptions {
        BuildOptions {
            directory: directory.map(Path::to_owned),
            beside: beside.map(Path::to_owned),
            workspace: None,
            target_directory: PathBuf::new(),
            cache: PathBuf::new(),
        }
    }

    #[test]
    fn a_ready_made_image_comes_first() {
        let ready = tempfile::tempdir().unwrap();
        std::fs::write(ready.path().join(KERNEL), "").unwrap();
        let error = build(&options(Some(ready.path()), None), &mut nothing).unwrap_err();
        assert!(error.to_string().contains("has no root.erofs"), "{error}");
        std::fs::write(ready.path().join(ROOT), "").unwrap();
        let image = build(&options(Some(ready.path()), None), &mut nothing).unwrap();
        assert_eq!(image.kernel, ready.path().join(KERNEL));
        assert_eq!(build(&options(None, Some(ready.path())), &mut nothing).unwrap(), image);
    }

    #[test]
    fn without_image_or_sources_the_user_is_told_what_to_set() {
        let error = build(&options(None, None), &mut nothing).unwrap_err();
        assert!(error.to_string().contains(DIRECTORY_VARIABLE), "{error}");
        assert!(matches!(find(&options(None, None)), Err(BuildError::NoSource)));
    }

    #[test]
    fn an_image_is_found_where_a_build_would_leave_it() {
        let cache = tempfile::tempdir().unwrap();
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let options = BuildOptions {
            workspace: Some(workspace.clone()),
            cache: cache.path().to_owned(),
            ..options(None, None)
        };
        std::fs::write(cache.path().join("kernel-0123"), "an older one").unwrap();
        assert_eq!(find(&options).unwrap(), None);
        let kernel = cache.path().join(kernel::name().unwrap());
        std::fs::write(&kernel, "").unwrap();
        assert_eq!(find(&options).unwrap(), None, "the root image is not there");
        let root = cache.path().join(root::name(&workspace).unwrap());
        std::fs::write(&root, "").unwrap();
        assert_eq!(find(&options).unwrap(), Some(NodeImage { kernel, root }));
    }
}
