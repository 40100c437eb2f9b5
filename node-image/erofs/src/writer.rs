//! Builds one image, entry by entry.
//!
//! Entries come in any order; a later one of the same path replaces the earlier, a directory with
//! all that is in it, as when a tar stream is unpacked. Missing parents are made, owned by root
//! with mode 0755.

use std::{
    collections::BTreeMap,
    io::{Read, Seek, Write},
};

use crate::{
    Attributes, Device, DeviceKind, EntryPath, Error,
    directory::{Entry, Layout},
    format::{BLOCK, Data, FileType, INODE, Inode, LINKS_AT, ROOT, SLOT, Superblock},
    space::Space,
};

/// A file's last bytes go behind its inode if they are at most so many. Above half a block, the
/// gaps that keeping them in one block costs would outweigh what is saved.
const LARGEST_TAIL: usize = BLOCK / 2;
/// How much of a file is read at once.
const CHUNK: usize = 64 << 10;
/// What an entry costs in memory beyond its name and attributes, roughly.
const ENTRY_OVERHEAD: u64 = 96;

/// Bounds for images from untrusted input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many entries may be added, replaced ones included.
    pub entries: u64,
    /// Bytes of memory that entries may keep until the image is finished: names, and directories'
    /// extended attributes.
    pub memory: u64,
    /// Bytes of the image.
    pub size: u64,
}

impl Default for Limits {
    /// A million entries, 256 MiB of memory, an image of 20 GiB.
    fn default() -> Self {
        Self { entries: 1_000_000, memory: 256 << 20, size: 20 << 30 }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the image; a multiple of [`BLOCK_SIZE`](crate::BLOCK_SIZE).
    pub size: u64,
    /// Files of every kind, the root included; hard links count once.
    pub inodes: u64,
}

/// An image being written.
pub struct Writer<W> {
    space: Space<W>,
    limits: Limits,
    directories: Vec<Directory>,
    /// Inodes that hard links were made to.
    linked: BTreeMap<u64, u32>,
    entries: u64,
    memory: u64,
    chunk: Vec<u8>,
}

struct Directory {
    attributes: Attributes,
    opaque: bool,
    children: BTreeMap<Box<[u8]>, Child>,
}

#[derive(Clone, Copy)]
enum Child {
    /// An index into [`Writer::directories`].
    Directory(usize),
    Leaf(Leaf),
}

#[derive(Clone, Copy)]
struct Leaf {
    nid: u64,
    file_type: FileType,
    whiteout: bool,
}

impl<W: Write + Seek> Writer<W> {
    /// Starts an image in `out`, which must be empty.
    pub fn new(out: W, limits: Limits) -> Self {
        Self {
            // Block numbers have 32 bits, whatever the caller allows.
            space: Space::new(out, limits.size.min((u64::from(u32::MAX)) * BLOCK as u64)),
            limits,
            directories: vec![Directory::new(Attributes::new(0o755))],
            linked: BTreeMap::new(),
            entries: 0,
            memory: 0,
            chunk: vec![0; CHUNK],
        }
    }

    /// Adds a directory, or gives an existing one these attributes.
    ///
    /// # Errors
    /// [`Error::NotADirectory`] if something else is where a parent should be; [`Error::Limit`].
    pub fn directory(&mut self, path: &EntryPath, attributes: Attributes) -> Result<(), Error> {
        self.count(attributes.xattrs.size())?;
        let index = match self.child(path)? {
            Place::Root => 0,
            Place::At(_, _, Some(Child::Directory(index))) => index,
            Place::At(parent, name, old) => {
                let index = self.make_directory(parent, name)?;
                // A whiteout beside a directory of its name: the lower one's content is gone.
                self.directories[index].opaque =
                    matches!(old, Some(Child::Leaf(Leaf { whiteout: true, .. })));
                index
            }
        };
        self.directories[index].attributes = attributes;
        Ok(())
    }

    /// Adds a file of `size` bytes, which are read from `content`.
    ///
    /// # Errors
    /// [`Error::Content`] if `content` fails or ends early; [`Error::NotADirectory`];
    /// [`Error::Limit`]; [`Error::Output`].
    pub fn file(
        &mut self,
        path: &EntryPath,
        attributes: &Attributes,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<(), Error> {
        self.check_place(path)?;
        self.space.expect(size)?;
        let layout = DataLayout::of(size, attributes);
        let data = layout.data(self.space.next_block()?);
        let failed = |source| Error::Content { path: path.clone(), source };
        let mut left = layout.in_blocks;
        while left > 0 {
            let length = left.min(CHUNK as u64) as usize;
            let chunk = &mut self.chunk[..length];
            content.read_exact(chunk).map_err(failed)?;
            self.space.append(chunk)?;
            left -= length as u64;
        }
        let mut tail = [0; LARGEST_TAIL];
        let tail = &mut tail[..layout.tail];
        content.read_exact(tail).map_err(failed)?;
        let nid = self.inode(FileType::Regular, attributes, size, data, tail)?;
        self.place(path, FileType::Regular, nid, false)
    }

    /// Adds a symbolic link. Its target is text, whatever it names.
    ///
    /// # Errors
    /// [`Error::SymlinkTarget`] if it is empty or over 4095 bytes; [`Error::NotADirectory`];
    /// [`Error::Limit`]; [`Error::Output`].
    pub fn symlink(
        &mut self,
        path: &EntryPath,
        attributes: &Attributes,
        target: &[u8],
    ) -> Result<(), Error> {
        if target.is_empty() || target.len() >= BLOCK || target.contains(&0) {
            return Err(Error::SymlinkTarget { path: path.clone(), length: target.len() });
        }
        self.check_place(path)?;
        let size = target.len() as u64;
        let layout = DataLayout::of(size, attributes);
        let data = layout.data(self.space.next_block()?);
        let (blocks, tail) = target.split_at(layout.in_blocks as usize);
        self.space.append(blocks)?;
        let nid = self.inode(FileType::Symlink, attributes, size, data, tail)?;
        self.place(path, FileType::Symlink, nid, false)
    }

    /// Adds a device node.
    ///
    /// # Errors
    /// [`Error::NotADirectory`]; [`Error::Limit`]; [`Error::Output`].
    pub fn device(
        &mut self,
        path: &EntryPath,
        attributes: &Attributes,
        device: Device,
    ) -> Result<(), Error> {
        let file_type = match device.kind {
            DeviceKind::Character => FileType::Character,
            DeviceKind::Block => FileType::Block,
        };
        self.special(path, attributes, file_type, device.number, device == Device::WHITEOUT)
    }

    /// Adds a FIFO.
    ///
    /// # Errors
    /// As [`Self::device`].
    pub fn fifo(&mut self, path: &EntryPath, attributes: &Attributes) -> Result<(), Error> {
        self.special(path, attributes, FileType::Fifo, 0, false)
    }

    /// Adds a socket's node.
    ///
    /// # Errors
    /// As [`Self::device`].
    pub fn socket(&mut self, path: &EntryPath, attributes: &Attributes) -> Result<(), Error> {
        self.special(path, attributes, FileType::Socket, 0, false)
    }

    /// Adds another name for the file at `target`.
    ///
    /// # Errors
    /// [`Error::LinkTargetMissing`] unless `target` was added before;
    /// [`Error::LinkToDirectory`]; [`Error::NotADirectory`]; [`Error::Limit`].
    pub fn hard_link(&mut self, path: &EntryPath, target: &EntryPath) -> Result<(), Error> {
        self.check_place(path)?;
        match self.child(target)? {
            Place::At(_, _, Some(Child::Leaf(leaf))) => {
                self.linked.insert(leaf.nid, 0);
                self.place(path, leaf.file_type, leaf.nid, leaf.whiteout)
            }
            Place::At(_, _, None) => {
                Err(Error::LinkTargetMissing { path: path.clone(), target: target.clone() })
            }
            Place::Root | Place::At(_, _, Some(Child::Directory(_))) => {
                Err(Error::LinkToDirectory { path: path.clone(), target: target.clone() })
            }
        }
    }

    /// Marks `path` as deleted from the layers below. What this image itself has there stays: a
    /// directory then shows none of the lower one's content.
    ///
    /// # Errors
    /// As [`Self::device`].
    pub fn whiteout(&mut self, path: &EntryPath) -> Result<(), Error> {
        match self.child(path)? {
            Place::Root => Err(Error::RootNotADirectory),
            Place::At(_, _, Some(Child::Directory(_))) => self.opaque(path),
            Place::At(_, _, Some(Child::Leaf(_))) => self.count(0),
            Place::At(_, _, None) => self.device(path, &Attributes::default(), Device::WHITEOUT),
        }
    }

    /// Hides what the layers below have in the directory `path`.
    ///
    /// # Errors
    /// [`Error::Whiteout`] for the root, whose mark overlayfs does not look at;
    /// [`Error::NotADirectory`]; [`Error::Limit`].
    pub fn opaque(&mut self, path: &EntryPath) -> Result<(), Error> {
        self.count(0)?;
        let index = match self.child(path)? {
            Place::Root => {
                let problem = "overlayfs cannot hide all of the layers below";
                return Err(Error::Whiteout { path: path.clone(), problem });
            }
            Place::At(_, _, Some(Child::Directory(index))) => index,
            Place::At(_, _, Some(Child::Leaf(Leaf { whiteout: false, .. }))) => {
                return Err(Error::NotADirectory { path: path.clone(), parent: path.clone() });
            }
            Place::At(parent, name, _) => self.make_directory(parent, name)?,
        };
        self.directories[index].opaque = true;
        Ok(())
    }

    /// Writes what is left and gives the output back.
    ///
    /// # Errors
    /// [`Error::Output`]; [`Error::Limit`]; [`Error::Xattr`] if the root has more extended
    /// attributes than its place holds.
    pub fn finish(mut self) -> Result<(W, Summary), Error> {
        for directory in self.directories.iter_mut().filter(|directory| directory.opaque) {
            directory.attributes.xattrs.set_opaque()?;
        }
        let order = self.reachable();
        let mut nids = vec![0; self.directories.len()];
        let mut layouts = Vec::with_capacity(order.len());
        for (index, _) in &order {
            let directory = &self.directories[*index];
            let layout = directory.layout();
            let mut data = DataLayout::of(layout.size, &directory.attributes);
            let at = if *index == 0 {
                data = DataLayout::all_in_blocks(layout.size);
                if INODE + directory.attributes.xattrs.size() > BLOCK - ROOT as usize {
                    let problem = "the root's attributes are over the limit of 2880 bytes";
                    return Err(Error::Xattr { name: "/".into(), problem });
                }
                ROOT
            } else {
                let length = INODE + directory.attributes.xattrs.size() + data.tail;
                self.space.reserve(length, data.tail > 0)?
            };
            nids[*index] = at / SLOT;
            layouts.push((layout, data));
        }
        self.space.close_run()?;

        let mut inodes = order.len() as u64;
        let mut first = [0; BLOCK];
        for ((index, parent), (layout, data)) in order.iter().zip(layouts) {
            let directory = &self.directories[*index];
            let entries = directory.entries(nids[*index], nids[*parent], &nids);
            for entry in &entries {
                if let Some(links) = self.linked.get_mut(&entry.nid) {
                    *links += 1;
                    inodes += u64::from(*links == 1);
                } else if entry.file_type != FileType::Directory {
                    inodes += 1;
                }
            }
            let location = data.data(self.space.next_block()?);
            let mut tail = Vec::new();
            let mut left = data.in_blocks;
            for block in layout.blocks(&entries) {
                if left == 0 {
                    tail = block;
                } else {
                    left = left.saturating_sub(BLOCK as u64);
                    self.space.append(&block)?;
                }
            }
            let subdirectories =
                entries.iter().filter(|entry| entry.file_type == FileType::Directory).count();
            let at = nids[*index] * SLOT;
            let inode = Inode {
                file_type: FileType::Directory,
                attributes: &directory.attributes,
                size: layout.size,
                data: location,
                // Its name (counted here as `..`), its `.`, and each subdirectory's `..`.
                links: u32::try_from(subdirectories).unwrap_or(u32::MAX),
                number: number(at),
            };
            let mut bytes = inode.encode().to_vec();
            directory.attributes.xattrs.encode_into(&mut bytes);
            bytes.extend(tail);
            if at == ROOT {
                first[ROOT as usize..ROOT as usize + bytes.len()].copy_from_slice(&bytes);
            } else {
                self.space.fill(at, &bytes)?;
            }
        }
        for (nid, links) in &self.linked {
            self.space.fill(nid * SLOT + LINKS_AT, &links.to_le_bytes())?;
        }
        let blocks = self.space.next_block()?;
        Superblock { inodes, blocks }.seal(&mut first);
        let summary = Summary { size: u64::from(blocks) * BLOCK as u64, inodes };
        Ok((self.space.finish(&first)?, summary))
    }

    /// Directories that a path leads to, parents first, each with its parent.
    fn reachable(&self) -> Vec<(usize, usize)> {
        let mut order = Vec::new();
        let mut stack = vec![(0, 0)];
        while let Some((index, parent)) = stack.pop() {
            order.push((index, parent));
            for child in self.directories[index].children.values().rev() {
                if let Child::Directory(child) = child {
                    stack.push((*child, index));
                }
            }
        }
        order
    }

    fn special(
        &mut self,
        path: &EntryPath,
        attributes: &Attributes,
        file_type: FileType,
        number: u32,
        whiteout: bool,
    ) -> Result<(), Error> {
        self.check_place(path)?;
        let nid = self.inode(file_type, attributes, 0, Data::Device(number), &[])?;
        self.place(path, file_type, nid, whiteout)
    }

    fn inode(
        &mut self,
        file_type: FileType,
        attributes: &Attributes,
        size: u64,
        data: Data,
        tail: &[u8],
    ) -> Result<u64, Error> {
        let length = INODE + attributes.xattrs.size() + tail.len();
        let at = self.space.reserve(length, !tail.is_empty())?;
        let inode = Inode { file_type, attributes, size, data, links: 1, number: number(at) };
        let mut bytes = Vec::with_capacity(length);
        bytes.extend(inode.encode());
        attributes.xattrs.encode_into(&mut bytes);
        bytes.extend(tail);
        self.space.fill(at, &bytes)?;
        Ok(at / SLOT)
    }

    /// Fails before anything is written for an entry that has no place.
    fn check_place(&mut self, path: &EntryPath) -> Result<(), Error> {
        self.count(0)?;
        match self.child(path)? {
            Place::Root => Err(Error::RootNotADirectory),
            Place::At(..) => Ok(()),
        }
    }

    fn place(
        &mut self,
        path: &EntryPath,
        file_type: FileType,
        nid: u64,
        whiteout: bool,
    ) -> Result<(), Error> {
        let Place::At(parent, name, _) = self.child(path)? else {
            return Err(Error::RootNotADirectory);
        };
        let leaf = Leaf { nid, file_type, whiteout };
        self.insert(parent, name, Child::Leaf(leaf))
    }

    fn make_directory(&mut self, parent: usize, name: Box<[u8]>) -> Result<usize, Error> {
        let index = self.directories.len();
        self.directories.push(Directory::new(Attributes::new(0o755)));
        self.remember(size_of::<Directory>() as u64)?;
        self.insert(parent, name, Child::Directory(index))?;
        Ok(index)
    }

    fn insert(&mut self, parent: usize, name: Box<[u8]>, child: Child) -> Result<(), Error> {
        self.remember(name.len() as u64 + ENTRY_OVERHEAD)?;
        self.directories[parent].children.insert(name, child);
        Ok(())
    }

    /// Finds an entry's place, making its parents.
    fn child(&mut self, path: &EntryPath) -> Result<Place, Error> {
        let Some((parents, name)) = path.split() else { return Ok(Place::Root) };
        let mut current = 0;
        for (depth, component) in parents.components().enumerate() {
            current = match self.directories[current].children.get(component) {
                Some(Child::Directory(index)) => *index,
                Some(Child::Leaf(Leaf { whiteout: false, .. })) => {
                    let parent = path.ancestor(depth + 1);
                    return Err(Error::NotADirectory { path: path.clone(), parent });
                }
                old => {
                    let opaque = old.is_some();
                    self.count(0)?;
                    let index = self.make_directory(current, component.into())?;
                    self.directories[index].opaque = opaque;
                    index
                }
            };
        }
        let old = self.directories[current].children.get(name).copied();
        Ok(Place::At(current, name.into(), old))
    }

    fn count(&mut self, memory: usize) -> Result<(), Error> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Error::Limit { what: "entries", limit: self.limits.entries });
        }
        self.remember(memory as u64)
    }

    fn remember(&mut self, bytes: u64) -> Result<(), Error> {
        self.memory = self.memory.saturating_add(bytes);
        if self.memory > self.limits.memory {
            return Err(Error::Limit {
                what: "bytes of names and attributes",
                limit: self.limits.memory,
            });
        }
        Ok(())
    }
}

/// Where an entry goes.
enum Place {
    Root,
    /// The directory, the name in it, and what is there now.
    At(usize, Box<[u8]>, Option<Child>),
}

impl Directory {
    fn new(attributes: Attributes) -> Self {
        Self { attributes, opaque: false, children: BTreeMap::new() }
    }

    /// How the entries lie, from their names alone.
    fn layout(&self) -> Layout {
        Layout::new(self.entries(0, 0, &[]).iter().map(|entry| entry.name.len()))
    }

    /// The entries in order, `.` and `..` among them. A directory that `nids` does not know gets
    /// nid 0.
    fn entries(&self, own: u64, parent: u64, nids: &[u64]) -> Vec<Entry<'_>> {
        let directory = |name, nid| Entry { name, nid, file_type: FileType::Directory };
        let mut entries = vec![directory(&b"."[..], own), directory(b"..", parent)];
        entries.extend(self.children.iter().map(|(name, child)| match child {
            Child::Directory(index) => directory(name, nids.get(*index).copied().unwrap_or(0)),
            Child::Leaf(leaf) => Entry { name, nid: leaf.nid, file_type: leaf.file_type },
        }));
        entries.sort_unstable_by_key(|entry| entry.name);
        entries
    }
}

/// How a file's bytes are divided.
struct DataLayout {
    /// So many lie in blocks of their own …
    in_blocks: u64,
    /// … and so many behind the inode.
    tail: usize,
}

impl DataLayout {
    fn of(size: u64, attributes: &Attributes) -> Self {
        let tail = (size % BLOCK as u64) as usize;
        if tail > LARGEST_TAIL || INODE + attributes.xattrs.size() + tail > BLOCK {
            return Self::all_in_blocks(size);
        }
        Self { in_blocks: size - tail as u64, tail }
    }

    fn all_in_blocks(size: u64) -> Self {
        Self { in_blocks: size, tail: 0 }
    }

    /// Where the bytes lie, if those in blocks start at `next`. Bytes that need no block name none:
    /// `next` may be a block that is given back when the image is finished.
    fn data(&self, next: u32) -> Data {
        let block = if self.in_blocks > 0 { next } else { 0 };
        if self.tail > 0 { Data::BlocksAndTail(block) } else { Data::Blocks(block) }
    }
}

/// An inode's number for 32-bit systems.
fn number(at: u64) -> u32 {
    (at / SLOT) as u32
}
