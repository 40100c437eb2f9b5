//! Writes EROFS images: read-only file systems that a kernel mounts without unpacking anything.
//!
//! An image comes from one of two places, and both go through the same [`Writer`]:
//!
//! - [`Tree`]: a file system described in code, such as a node's root image;
//! - [`convert`]: an OCI layer's tar stream, whose whiteouts become overlayfs's.
//!
//! The images are uncompressed, with 4096-byte blocks and 64-byte inodes, and use no incompatible
//! feature: any kernel since 5.4 mounts them. The same input gives the same bytes.
//!
//! A file's bytes go to the output as they are read, followed by its inode; only directories stay
//! in memory until the end, and [`Limits`] bound them. The format is the kernel's
//! `fs/erofs/erofs_fs.h` and `Documentation/filesystems/erofs.rst`.
//!
//! ```
//! use bulkhead_erofs::{Source, Tree};
//!
//! let image = Tree::new()
//!     .dir("/sbin", 0o755)
//!     .file("/sbin/hello", 0o755, Source::bytes("#!/bin/sh\necho hello\n"))
//!     .symlink("/init", "sbin/hello")
//!     .write(std::io::Cursor::new(Vec::new()))?;
//! # Ok::<(), bulkhead_erofs::Error>(())
//! ```

#![forbid(unsafe_code)]

mod attributes;
mod directory;
mod error;
mod format;
mod layer;
mod path;
mod space;
mod tar_stream;
mod tree;
mod writer;

pub use attributes::{Attributes, Device, DeviceKind, Xattrs};
pub use error::Error;
pub use layer::convert;
pub use path::{EntryPath, PathError};
pub use tar_stream::{Member, MemberKind, TarError, TarStream};
pub use tree::{Source, Tree};
pub use writer::{Limits, Summary, Writer};

/// An image's block size, in bytes. Its length is a multiple of it.
pub const BLOCK_SIZE: u64 = format::BLOCK as u64;
