//! A file system described in code.

use std::{
    fs::File,
    io::{Seek, Write},
    path::PathBuf,
};

use crate::{Attributes, Device, EntryPath, Error, Limits, Summary, Writer};

/// Where a file's bytes come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// From memory.
    Bytes(Vec<u8>),
    /// From a file of the host, opened when the image is written.
    Path(PathBuf),
}

impl Source {
    /// These bytes.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Bytes(bytes.into())
    }

    /// The content of a file of the host.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self::Path(path.into())
    }
}

/// A description of an image, written with [`Tree::write`]. Everything is owned by root and has the
/// tree's modification time unless it comes with [`Attributes`] of its own.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Tree {
    mtime: i64,
    entries: Vec<(String, Option<Attributes>, Node)>,
}

#[derive(Debug, Clone)]
enum Node {
    Directory { mode: u32 },
    File { mode: u32, source: Source },
    Symlink { target: String },
    HardLink { target: String },
    Device { mode: u32, device: Device },
    Fifo { mode: u32 },
}

impl Tree {
    /// An empty root directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the modification time of everything, in seconds since the epoch; 0 unless set.
    pub fn mtime(mut self, seconds: i64) -> Self {
        self.mtime = seconds;
        self
    }

    /// Adds a directory. Parents that are never added are made, with mode 0755.
    pub fn dir(self, path: impl Into<String>, mode: u32) -> Self {
        self.add(path, Node::Directory { mode })
    }

    /// Adds a file.
    pub fn file(self, path: impl Into<String>, mode: u32, source: Source) -> Self {
        self.add(path, Node::File { mode, source })
    }

    /// Adds a symbolic link.
    pub fn symlink(self, path: impl Into<String>, target: impl Into<String>) -> Self {
        self.add(path, Node::Symlink { target: target.into() })
    }

    /// Adds another name for a file that was added before.
    pub fn hard_link(self, path: impl Into<String>, target: impl Into<String>) -> Self {
        self.add(path, Node::HardLink { target: target.into() })
    }

    /// Adds a device node.
    pub fn device(self, path: impl Into<String>, mode: u32, device: Device) -> Self {
        self.add(path, Node::Device { mode, device })
    }

    /// Adds a FIFO.
    pub fn fifo(self, path: impl Into<String>, mode: u32) -> Self {
        self.add(path, Node::Fifo { mode })
    }

    /// Gives the entry added last these attributes, instead of its mode, root's ownership and the
    /// tree's time.
    pub fn with(mut self, attributes: Attributes) -> Self {
        if let Some((_, last, _)) = self.entries.last_mut() {
            *last = Some(attributes);
        }
        self
    }

    /// Writes the image to `out`, which must be empty.
    ///
    /// # Errors
    /// As the methods of [`Writer`], and [`Error::Open`] if a source cannot be opened.
    pub fn write<W: Write + Seek>(self, out: W) -> Result<(W, Summary), Error> {
        let mut writer = Writer::new(out, Limits { memory: u64::MAX, ..Limits::default() });
        let plain = |mode| Attributes::new(mode).mtime(self.mtime, 0);
        writer.directory(&EntryPath::root(), plain(0o755))?;
        for (path, attributes, node) in self.entries {
            let path = EntryPath::parse(path)?;
            let or = |mode| attributes.unwrap_or_else(|| plain(mode));
            match node {
                Node::Directory { mode } => writer.directory(&path, or(mode))?,
                Node::File { mode, source: Source::Bytes(bytes) } => {
                    writer.file(&path, &or(mode), bytes.len() as u64, &mut &bytes[..])?;
                }
                Node::File { mode, source: Source::Path(file) } => {
                    let opened = File::open(&file).and_then(|f| Ok((f.metadata()?.len(), f)));
                    let (size, mut content) =
                        opened.map_err(|source| Error::Open { file, source })?;
                    writer.file(&path, &or(mode), size, &mut content)?;
                }
                Node::Symlink { target } => writer.symlink(&path, &or(0o777), target.as_bytes())?,
                Node::HardLink { target } => {
                    writer.hard_link(&path, &EntryPath::parse(target)?)?;
                }
                Node::Device { mode, device } => writer.device(&path, &or(mode), device)?,
                Node::Fifo { mode } => writer.fifo(&path, &or(mode))?,
            }
        }
        writer.finish()
    }

    fn add(mut self, path: impl Into<String>, node: Node) -> Self {
        self.entries.push((path.into(), None, node));
        self
    }
}
