//! What can go wrong while an image is written.

use std::{io, path::PathBuf};

use crate::{EntryPath, PathError, tar_stream::TarError};

/// Why an image could not be written. Whatever was written of it is useless.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The output could not be written.
    #[error("cannot write the image: {0}")]
    Output(#[source] io::Error),
    /// A file's bytes could not be read.
    #[error("cannot read the content of {path}: {source}")]
    Content {
        /// The file, in the image.
        path: EntryPath,
        /// Why.
        source: io::Error,
    },
    /// A file of the host that was to go into the image could not be opened.
    #[error("cannot open {}: {source}", .file.display())]
    Open {
        /// The file, on the host.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A path that cannot be in an image.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The tar stream is broken.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// Something else than a directory is in the way.
    #[error("cannot place {path}: {parent} is not a directory")]
    NotADirectory {
        /// The entry.
        path: EntryPath,
        /// What it would lie in.
        parent: EntryPath,
    },
    /// An entry for `/` that is not a directory.
    #[error("the root of an image must be a directory")]
    RootNotADirectory,
    /// A hard link to nothing.
    #[error("{path} is a hard link to {target}, which is not in the image before it")]
    LinkTargetMissing {
        /// The link.
        path: EntryPath,
        /// What it names.
        target: EntryPath,
    },
    /// A hard link to a directory.
    #[error("{path} is a hard link to {target}, which is a directory")]
    LinkToDirectory {
        /// The link.
        path: EntryPath,
        /// What it names.
        target: EntryPath,
    },
    /// A symbolic link without a target, or with one longer than a kernel takes.
    #[error(
        "the target of the symbolic link {path} is {length} bytes long: 1 to 4095 are possible"
    )]
    SymlinkTarget {
        /// The link.
        path: EntryPath,
        /// The target's length.
        length: usize,
    },
    /// A device number that Linux does not have.
    #[error("device {major}:{minor} is out of range: 4095:1048575 is the largest")]
    DeviceNumber {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// An extended attribute that cannot be stored.
    #[error("extended attribute {name:?}: {problem}")]
    Xattr {
        /// Its full name.
        name: String,
        /// Why not.
        problem: &'static str,
    },
    /// A whiteout that overlayfs has no form for.
    #[error("whiteout {path}: {problem}")]
    Whiteout {
        /// The whiteout's own path.
        path: EntryPath,
        /// Why not.
        problem: &'static str,
    },
    /// One of the [`Limits`](crate::Limits).
    #[error("the image is over the limit of {limit} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: u64,
    },
}
