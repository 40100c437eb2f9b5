//! What can go wrong with an image, in Kubernetes' classes.

use std::{fmt, io, path::PathBuf};

use crate::Digest;

/// Kubernetes' reasons for a container that waits for its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The image could not be pulled.
    ErrImagePull,
    /// The image's name is not one.
    InvalidImageName,
    /// It is not here, and may not be pulled.
    ErrImageNeverPull,
    /// The registry cannot be reached.
    RegistryUnavailable,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why an image could not be had, listed or removed. Each message is one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not an image's name.
    #[error("invalid image name {name:?}: {problem}")]
    InvalidName {
        /// What was given.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Not certificates of authorities.
    #[error("certificate authorities: {0}")]
    Authorities(String),
    /// The registry did not answer, or not with sense.
    #[error("cannot reach registry {registry} for {image}: {problem}")]
    RegistryUnavailable {
        /// Host and port.
        registry: String,
        /// The image.
        image: String,
        /// The failure.
        problem: String,
    },
    /// The registry answered, but there is no image of it.
    #[error("cannot pull {image}: {problem}")]
    Pull {
        /// The image.
        image: String,
        /// The failure.
        problem: String,
    },
    /// An archive that is not an image, or a damaged one.
    #[error("cannot load the image: {0}")]
    Load(String),
    /// There is no such image in the store.
    #[error("image {0} is not in the store: pull or load it first")]
    NotFound(String),
    /// An image that nodes use cannot be removed.
    #[error("image {image} is in use by {users}: remove its pods first")]
    InUse {
        /// As it was given.
        image: String,
        /// Who, separated by commas.
        users: String,
    },
    /// The store's own files.
    #[error("image store: {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The store's index.
    #[error("image store's index: {0}")]
    Index(#[from] rusqlite::Error),
    /// A later version of this program has written the index.
    #[error("image store's index {} is of version {version}: a newer bulkhead made it", .path.display())]
    Version {
        /// The index's file.
        path: PathBuf,
        /// Its version.
        version: i64,
    },
    /// A task of the store ended by panicking.
    #[error("image store: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// The reason that a waiting container's status shows.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::InvalidName { .. } => Reason::InvalidImageName,
            Self::RegistryUnavailable { .. } => Reason::RegistryUnavailable,
            Self::NotFound(_) => Reason::ErrImageNeverPull,
            _ => Reason::ErrImagePull,
        }
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// What is wrong with an image's content, wherever it comes from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentError {
    #[error("{what} has digest {found}, not {expected}")]
    Digest { what: &'static str, expected: Digest, found: Digest },
    #[error("layer {0}: {1}")]
    Layer(Digest, #[source] bulkhead_erofs::Error),
    #[error("layer {0} cannot be read: {1}")]
    Read(Digest, #[source] io::Error),
    #[error("{what} is over the limit of {limit} {unit}")]
    Limit { what: &'static str, limit: u64, unit: &'static str },
    #[error("{what} is malformed: {problem}")]
    Malformed { what: &'static str, problem: String },
    #[error("{what} {value:?} is not supported")]
    Unsupported { what: &'static str, value: String },
    #[error("there is no {0}")]
    Missing(String),
    #[error("{0}")]
    Store(Box<Error>),
}

impl From<Error> for ContentError {
    fn from(error: Error) -> Self {
        Self::Store(Box::new(error))
    }
}
