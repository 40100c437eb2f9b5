//! Writes initial RAM disks: the "newc" cpio format that
//! `Documentation/driver-api/early-userspace/buffer-format.rst` describes.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
/// The archive's last entry, which has no file behind it.
const TRAILER: &str = "TRAILER!!!";

/// Writes entries to `out` in the order in which they are given: a directory before what lies in it.
pub(crate) struct Archive<W> {
    out: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY | 0o755, &[])
    }

    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR | permissions, content)
    }

    /// Ends the archive and returns what it was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry(TRAILER, 0, &[])?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(|_| {
            io::Error::new(io::ErrorKind::FileTooLarge, format!("{path}: 4 GiB or more"))
        })?;
        let name_size = path.len() as u32 + 1;
        self.entries += 1;
        // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name's size, checksum
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut header = b"070701".to_vec();
        for field in fields {
            write!(header, "{field:08x}")?;
        }
        header.extend_from_slice(path.as_bytes());
        header.push(0);
        self.padded(&header)?;
        self.padded(content)
    }

    /// Every header and every content starts at a multiple of four.
    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.write_all(&[0; 3][..bytes.len().next_multiple_of(4) - bytes.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.directory("dir").unwrap();
        archive.file("dir/odd", 0o755, b"abc").unwrap();
        archive.file("even", 0o600, b"abcd").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn entries_are_aligned_and_named() {
        let bytes = sample();
        assert_eq!(bytes.len() % 4, 0);
        let magic = b"070701";
        let starts: Vec<_> =
            (0..bytes.len() - 6).filter(|at| &bytes[*at..at + 6] == magic).collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|start| start % 4 == 0));
        assert_eq!(&bytes[110..114], b"dir\0");
    }

    #[test]
    fn another_implementation_reads_it() {
        let tool = Command::new("busybox")
            .args(["cpio", "-tv"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut tool) = tool else { return };
        tool.stdin.take().unwrap().write_all(&sample()).unwrap();
        let output = tool.wait_with_output().unwrap();
        let listing = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        assert!(listing.contains("-rwxr-xr-x"), "{listing}");
        assert!(
            listing.lines().any(|line| line.ends_with("dir/odd") && line.contains(" 3 ")),
            "{listing}"
        );
    }
}
