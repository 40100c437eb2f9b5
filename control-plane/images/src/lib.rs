//! The host's images: pulled from a registry or loaded from a file, kept as EROFS layers.
//!
//! A layer is converted once, while it arrives ([`bulkhead_erofs::convert`]); neither its
//! compressed nor its unpacked form ever lies on disk. Nodes map the resulting files, so that an
//! image costs its bytes once however many nodes use it.
//!
//! ```text
//! DIR/index.db                     SQLite: references, images, who uses them
//! DIR/layers/sha256-DIFFID.erofs   one file per layer, whichever images have it
//! DIR/tmp/                         what is being written; emptied when the store is opened
//! DIR/lock                         shared by writers of layers, exclusive to their removal
//! ```
//!
//! A file appears under its final name only when all its bytes are on disk, and an image in the
//! index only when all its layers are. So the store is consistent after a crash at any point, and
//! several processes may use one.
//!
//! Everything that a registry or an archive says is checked: every digest, JSON documents of at
//! most 4 MiB, and [`Limits`]. The formats are those of the OCI image and distribution
//! specifications 1.1, Docker's image manifest version 2 schema 2, and `docker save`.

#![forbid(unsafe_code)]

mod archive;
mod compression;
mod digest;
mod error;
mod image;
mod index;
mod keyring;
mod layer;
mod lock;
mod manifest;
mod reference;
mod registry;
mod store;

pub use digest::Digest;
pub use error::{Error, Reason};
pub use image::{Image, Layer, Limits, Progress, ProgressFn, PullOptions};
pub use keyring::{Keyring, KeyringError};
pub use oci_client::secrets::RegistryAuth;
pub use reference::Name;
pub use store::Store;
