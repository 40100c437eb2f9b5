//! What every file has besides its bytes: mode, owner, time, extended attributes.

use std::collections::BTreeMap;

use crate::{Error, format};

/// A moment, as an inode stores it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Time {
    /// Seconds since the Unix epoch; negative before it.
    pub(crate) seconds: i64,
    /// 0 to 999 999 999.
    pub(crate) nanoseconds: u32,
}

/// Mode, owner, time and extended attributes of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) xattrs: Xattrs,
}

impl Attributes {
    /// Permission bits (with set-uid, set-gid and sticky; the rest of `mode` is ignored), owned by
    /// root, last changed at the epoch.
    #[must_use]
    pub fn new(mode: u32) -> Self {
        Self { mode: (mode & 0o7777) as u16, ..Self::default() }
    }

    /// With this owner.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// With this modification time. More nanoseconds than a second has count as the last of it.
    #[must_use]
    pub fn mtime(mut self, seconds: i64, nanoseconds: u32) -> Self {
        self.mtime = Time { seconds, nanoseconds: nanoseconds.min(999_999_999) };
        self
    }

    /// With these extended attributes.
    #[must_use]
    pub fn xattrs(mut self, xattrs: Xattrs) -> Self {
        self.xattrs = xattrs;
        self
    }
}

/// Whether a device transfers characters or blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// `mknod c`.
    Character,
    /// `mknod b`.
    Block,
}

/// A device node's kind and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    pub(crate) kind: DeviceKind,
    pub(crate) number: u32,
}

impl Device {
    /// overlayfs's mark that a name is deleted.
    pub(crate) const WHITEOUT: Self = Self { kind: DeviceKind::Character, number: 0 };

    /// The device `major`:`minor`.
    ///
    /// # Errors
    /// [`Error::DeviceNumber`] beyond Linux's 12 and 20 bits.
    pub fn new(kind: DeviceKind, major: u32, minor: u32) -> Result<Self, Error> {
        if major >= 1 << 12 || minor >= 1 << 20 {
            return Err(Error::DeviceNumber { major, minor });
        }
        Ok(Self { kind, number: format::encode_device(major, minor) })
    }
}

/// The most bytes that one entry's extended attributes may take: Linux's limit for a list of
/// names and for a value alike.
const MAX_XATTRS: usize = 64 << 10;
/// `struct erofs_xattr_ibody_header`.
const HEADER: usize = 12;

type Bytes = Box<[u8]>;

/// Extended attributes by their full names (`security.capability`), stored inline behind their
/// inode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Xattrs {
    /// By name index and the rest of the name, so that the order on disk is fixed.
    entries: BTreeMap<(u8, Bytes), Bytes>,
    /// Bytes of the entries on disk.
    size: usize,
}

impl Xattrs {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an attribute, or replaces the one of that name.
    ///
    /// # Errors
    /// [`Error::Xattr`] if EROFS has no index for the name's namespace, if name or value are too
    /// long, or if the entry's attributes are over 64 KiB with it.
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        let refuse = |problem| {
            let name = String::from_utf8_lossy(&name[..name.len().min(100)]).into_owned();
            Err(Error::Xattr { name, problem })
        };
        let Some((index, rest)) = split(name) else {
            return refuse("only user, trusted, security and system.posix_acl names can be stored");
        };
        if rest.len() > 255 || rest.contains(&0) {
            return refuse("the name is longer than 255 bytes or contains a zero byte");
        }
        let key = (index, rest.into());
        let replaced = self.entries.get(&key).map_or(0, |old| entry_size(rest.len(), old.len()));
        let size = self.size - replaced + entry_size(rest.len(), value.len());
        if value.len() > usize::from(u16::MAX) || size > MAX_XATTRS {
            return refuse("the entry's attributes are over the limit of 64 KiB");
        }
        self.entries.insert(key, value.into());
        self.size = size;
        Ok(())
    }

    /// overlayfs's mark that a directory hides what lies below it.
    pub(crate) fn set_opaque(&mut self) -> Result<(), Error> {
        self.set(b"trusted.overlay.opaque", b"y")
    }

    /// The full name of an attribute that means something to overlayfs, if there is one.
    pub(crate) fn overlay_name(&self) -> Option<String> {
        self.entries.keys().find_map(|(index, name)| {
            let namespace = match index {
                1 => "user",
                4 => "trusted",
                _ => return None,
            };
            let overlay = name.starts_with(b"overlay.");
            overlay.then(|| format!("{namespace}.{}", name.escape_ascii()))
        })
    }

    /// Bytes on disk; a multiple of four, or none at all.
    pub(crate) fn size(&self) -> usize {
        if self.entries.is_empty() { 0 } else { HEADER + self.size }
    }

    /// The inode's `i_xattr_icount`.
    pub(crate) fn icount(&self) -> u16 {
        match self.size() {
            0 => 0,
            size => u16::try_from((size - HEADER) / 4 + 1).unwrap_or(u16::MAX),
        }
    }

    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        if self.entries.is_empty() {
            return;
        }
        out.extend([0; HEADER]);
        for ((index, name), value) in &self.entries {
            let end = out.len() + entry_size(name.len(), value.len());
            out.push(name.len() as u8);
            out.push(*index);
            out.extend((value.len() as u16).to_le_bytes());
            out.extend(name);
            out.extend(value);
            out.resize(end, 0);
        }
    }
}

fn entry_size(name: usize, value: usize) -> usize {
    (4 + name + value).next_multiple_of(4)
}

/// The namespace's index (`EROFS_XATTR_INDEX_*`) and the rest of the name.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => return Some((2, b"")),
        b"system.posix_acl_default" => return Some((3, b"")),
        _ => {}
    }
    [(1, &b"user."[..]), (4, b"trusted."), (6, b"security.")].into_iter().find_map(
        |(index, prefix)| {
            let rest = name.strip_prefix(prefix)?;
            (!rest.is_empty()).then_some((index, rest))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_an_attribute_counts_it_once() {
        let mut xattrs = Xattrs::new();
        assert_eq!((xattrs.size(), xattrs.icount()), (0, 0));
        xattrs.set(b"user.a", b"12345").unwrap();
        xattrs.set(b"user.a", b"1").unwrap();
        assert_eq!((xattrs.size(), xattrs.icount()), (12 + 8, 3));
        let mut bytes = Vec::new();
        xattrs.encode_into(&mut bytes);
        assert_eq!(bytes.len(), xattrs.size());
        assert_eq!(&bytes[12..], b"\x01\x01\x01\0a1\0\0");
    }

    #[test]
    fn what_cannot_be_stored_is_refused_by_name() {
        let mut xattrs = Xattrs::new();
        for name in [&b"com.apple.quarantine"[..], b"user.", b"system.nfs4_acl", b"user.\0"] {
            assert!(matches!(xattrs.set(name, b""), Err(Error::Xattr { .. })));
        }
        assert!(xattrs.set(b"user.big", &[0; 65_536]).is_err());
        xattrs.set(b"user.half", &[0; 40_000]).unwrap();
        assert!(xattrs.set(b"user.other", &[0; 40_000]).is_err());
    }
}
