//! Reads an image back, straight from the format's description and sharing nothing with the
//! writer: superblock, inodes, both flat layouts, directories, inline extended attributes.

#![allow(dead_code, reason = "every test binary uses a part of it")]

mod fuzz;

use std::collections::BTreeMap;

#[allow(unused_imports, reason = "every test binary uses a part of it")]
pub(crate) use fuzz::fuzz_layer;

/// Everything an image says of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) nid: u64,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) links: u32,
    pub(crate) rdev: u32,
    /// A file's bytes or a link's target.
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub(crate) fn read(image: &[u8]) -> BTreeMap<String, File> {
    let image = Image(image);
    assert_eq!(image.0.len() % 4096, 0);
    assert_eq!(image.u32(1024), 0xe0f5_e1e2);
    assert_eq!(u64::from(image.u32(1024 + 36)) * 4096, image.0.len() as u64, "blocks");
    assert_eq!(image.u32(1024 + 80), 0, "no incompatible feature");
    let mut block = image.0[1024..4096].to_vec();
    block[4..8].fill(0);
    assert_eq!(!crc32c::crc32c(&block), image.u32(1028), "checksum");
    let root = u64::from(image.u16(1024 + 14));
    let mut files = BTreeMap::new();
    image.walk(root, root, String::new(), &mut files);
    let mut nids: Vec<_> = files.values().map(|file| file.nid).collect();
    nids.sort_unstable();
    nids.dedup();
    assert_eq!(image.u64(1024 + 16), nids.len() as u64, "inode count");
    files
}

struct Image<'a>(&'a [u8]);

impl Image<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0[at..at + N].try_into().unwrap()
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }

    fn walk(&self, nid: u64, parent: u64, path: String, files: &mut BTreeMap<String, File>) {
        let file = self.inode(nid);
        let directory = file.mode & 0o170_000 == 0o040_000;
        let content = file.content.clone();
        files.insert(if path.is_empty() { "/".into() } else { path.clone() }, file);
        if !directory {
            return;
        }
        let mut previous: Option<Vec<u8>> = None;
        let mut special = 0;
        for block in content.chunks(4096) {
            let count = usize::from(u16::from_le_bytes([block[8], block[9]])) / 12;
            for index in 0..count {
                let entry = &block[index * 12..];
                let child = u64::from_le_bytes(entry[..8].try_into().unwrap());
                let start = usize::from(u16::from_le_bytes([entry[8], entry[9]]));
                let name = if index + 1 < count {
                    &block[start..usize::from(u16::from_le_bytes([entry[20], entry[21]]))]
                } else {
                    block[start..].split(|byte| *byte == 0).next().unwrap()
                };
                assert!(previous.as_deref() < Some(name), "entries are sorted");
                previous = Some(name.to_vec());
                let kind = match self.inode(child).mode & 0o170_000 {
                    0o100_000 => 1,
                    0o040_000 => 2,
                    0o020_000 => 3,
                    0o060_000 => 4,
                    0o010_000 => 5,
                    0o140_000 => 6,
                    _ => 7,
                };
                assert_eq!(entry[10], kind, "type in {path}");
                match name {
                    b"." => assert_eq!(child, nid),
                    b".." => assert_eq!(child, parent),
                    name => {
                        let path = format!("{path}/{}", String::from_utf8_lossy(name));
                        self.walk(child, nid, path, files);
                        continue;
                    }
                }
                special += 1;
            }
        }
        assert_eq!(special, 2, "`.` and `..` in {path}");
    }

    fn inode(&self, nid: u64) -> File {
        let at = nid as usize * 32;
        let format = self.u16(at);
        assert_eq!(format & 1, 1, "extended inodes");
        let mode = self.u16(at + 4);
        let size = self.u64(at + 8) as usize;
        let union = self.u32(at + 16);
        let icount = usize::from(self.u16(at + 2));
        let xattrs_size = if icount == 0 { 0 } else { 12 + 4 * (icount - 1) };
        let has_data = matches!(mode & 0o170_000, 0o100_000 | 0o040_000 | 0o120_000);
        let mut content = Vec::new();
        if has_data {
            let blocks = union as usize * 4096;
            match format >> 1 {
                0 => content.extend(&self.0[blocks..blocks + size]),
                2 => {
                    let whole = size / 4096 * 4096;
                    content.extend(&self.0[blocks..blocks + whole]);
                    let tail = at + 64 + xattrs_size;
                    assert!(tail % 4096 + size % 4096 <= 4096, "a tail lies in one block");
                    content.extend(&self.0[tail..tail + size % 4096]);
                }
                layout => panic!("layout {layout}"),
            }
        }
        File {
            nid,
            mode,
            uid: self.u32(at + 24),
            gid: self.u32(at + 28),
            mtime: (self.u64(at + 32).cast_signed(), self.u32(at + 40)),
            links: self.u32(at + 44),
            rdev: if has_data { 0 } else { union },
            content,
            xattrs: self.xattrs(at + 64, xattrs_size),
        }
    }

    fn xattrs(&self, at: usize, size: usize) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut xattrs = BTreeMap::new();
        let mut position = at + 12;
        while position < at + size {
            let length = usize::from(self.0[position]);
            let prefix: &[u8] = match self.0[position + 1] {
                1 => b"user.",
                2 => b"system.posix_acl_access",
                3 => b"system.posix_acl_default",
                4 => b"trusted.",
                6 => b"security.",
                index => panic!("name index {index}"),
            };
            let value = usize::from(self.u16(position + 2));
            let name = [prefix, &self.0[position + 4..position + 4 + length]].concat();
            let start = position + 4 + length;
            xattrs.insert(name, self.0[start..start + value].to_vec());
            position = (start + value).next_multiple_of(4);
        }
        xattrs
    }
}
