//! The on-disk structures of `fs/erofs/erofs_fs.h`, as far as this crate writes them.

use crate::attributes::{Attributes, Time};

/// Bytes in a block.
pub(crate) const BLOCK: usize = 4096;
/// What inodes are aligned to, and what a nid counts.
pub(crate) const SLOT: u64 = 32;
/// Bytes of an extended inode.
pub(crate) const INODE: usize = 64;
/// Bytes of a directory entry, without its name.
pub(crate) const DIRENT: usize = 12;
/// Where the superblock lies.
pub(crate) const SUPERBLOCK: usize = 1024;
/// Where the root directory's inode lies: right behind the superblock, because its nid is a
/// `u16` and nothing else is known to lie low enough.
pub(crate) const ROOT: u64 = SUPERBLOCK as u64 + 128;

const MAGIC: u32 = 0xe0f5_e1e2;
const COMPAT_CHECKSUM: u32 = 1;
const COMPAT_MTIME: u32 = 2;

/// The kernel's `new_encode_dev`.
pub(crate) fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// What a directory entry says of its inode's type (`FT_*`), and the inode's `S_IF*` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileType {
    Regular,
    Directory,
    Character,
    Block,
    Fifo,
    Socket,
    Symlink,
}

impl FileType {
    pub(crate) fn dirent(self) -> u8 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::Character => 3,
            Self::Block => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
        }
    }

    fn mode(self) -> u16 {
        match self {
            Self::Fifo => 0o010_000,
            Self::Character => 0o020_000,
            Self::Directory => 0o040_000,
            Self::Block => 0o060_000,
            Self::Regular => 0o100_000,
            Self::Symlink => 0o120_000,
            Self::Socket => 0o140_000,
        }
    }
}

/// Where a file's bytes lie.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Data {
    /// All of them in blocks from this one on (`EROFS_INODE_FLAT_PLAIN`).
    Blocks(u32),
    /// Whole blocks from this one on, and the rest behind the inode
    /// (`EROFS_INODE_FLAT_INLINE`).
    BlocksAndTail(u32),
    /// There are none: a device, FIFO or socket with this device number.
    Device(u32),
}

/// An inode, but for its extended attributes.
pub(crate) struct Inode<'a> {
    pub(crate) file_type: FileType,
    pub(crate) attributes: &'a Attributes,
    pub(crate) size: u64,
    pub(crate) data: Data,
    pub(crate) links: u32,
    /// Shown as `st_ino` on 32-bit systems only.
    pub(crate) number: u32,
}

/// Where [`Inode::encode`] puts the link count, from the inode's start.
pub(crate) const LINKS_AT: u64 = 44;

impl Inode<'_> {
    pub(crate) fn encode(&self) -> [u8; INODE] {
        let (layout, union) = match self.data {
            Data::Blocks(block) => (0, block),
            Data::BlocksAndTail(block) => (2, block),
            Data::Device(number) => (0, number),
        };
        let Time { seconds, nanoseconds } = self.attributes.mtime;
        let mode = self.file_type.mode() | self.attributes.mode;
        let format: u16 = 1 | layout << 1;
        let mut inode = Fields::new();
        inode.put(format.to_le_bytes());
        inode.put(self.attributes.xattrs.icount().to_le_bytes());
        inode.put(mode.to_le_bytes());
        inode.put([0; 2]);
        inode.put(self.size.to_le_bytes());
        inode.put(union.to_le_bytes());
        inode.put(self.number.to_le_bytes());
        inode.put(self.attributes.uid.to_le_bytes());
        inode.put(self.attributes.gid.to_le_bytes());
        inode.put(seconds.to_le_bytes());
        inode.put(nanoseconds.to_le_bytes());
        inode.put(self.links.to_le_bytes());
        inode.0
    }
}

/// The superblock.
pub(crate) struct Superblock {
    pub(crate) inodes: u64,
    pub(crate) blocks: u32,
}

impl Superblock {
    /// Writes the superblock into the image's first block, which holds the root inode already,
    /// and seals the block with its checksum.
    pub(crate) fn seal(&self, first: &mut [u8; BLOCK]) {
        let mut fields = Fields::<128>::new();
        fields.put(MAGIC.to_le_bytes());
        fields.put([0; 4]);
        fields.put((COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        fields.put([BLOCK.ilog2() as u8, 0]);
        fields.put(((ROOT / SLOT) as u16).to_le_bytes());
        fields.put(self.inodes.to_le_bytes());
        fields.put([0; 12]);
        fields.put(self.blocks.to_le_bytes());
        first[SUPERBLOCK..SUPERBLOCK + 128].copy_from_slice(&fields.0);
        // The kernel's crc32c neither inverts its start value nor its result.
        let checksum = !crc32c::crc32c(&first[SUPERBLOCK..]);
        first[SUPERBLOCK + 4..SUPERBLOCK + 8].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// A structure of `N` bytes, filled field by field; what is not filled is zero.
struct Fields<const N: usize>([u8; N], usize);

impl<const N: usize> Fields<N> {
    fn new() -> Self {
        Self([0; N], 0)
    }

    fn put<const M: usize>(&mut self, field: [u8; M]) {
        self.0[self.1..self.1 + M].copy_from_slice(&field);
        self.1 += M;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_encoded_as_the_kernel_does() {
        assert_eq!(encode_device(1, 3), 0x103);
        assert_eq!(encode_device(0xfff, 0xf_ffff), 0xffff_ffff);
        assert_eq!(encode_device(8, 0x123), 0x0010_0823);
    }
}
