//! What lies behind a disk: a table of ranges, each backed by a file from its start on.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of a sector: the unit of every address and length on a virtio disk (§5.2.4).
pub const SECTOR: u64 = 512;

/// Ranges of one disk at most.
pub(super) const MAX_RANGES: usize = 16384;

/// Why a range was not added. The table is as before.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    /// Offset or length are not whole sectors, or the length is 0, or the end overflows.
    #[error("range {offset}+{length}: offset and length must be multiples of 512, and not empty")]
    Unaligned {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// It passes the end of a disk of fixed size.
    #[error("range {offset}+{length} passes the end of the disk at {size}")]
    PastEnd {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// The disk's size.
        size: u64,
    },
    /// It meets a range that is there.
    #[error("range {offset}+{length} overlaps the range at {other}")]
    Overlap {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// The other range's first byte.
        other: u64,
    },
    /// The file does not back the whole range. Up to 511 bytes of its last sector may be missing;
    /// they read as zero.
    #[error("range {offset}+{length} is backed by a file of {file} bytes: it is too short")]
    FileTooShort {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// The file's length.
        file: u64,
    },
    /// The file cannot be used as asked.
    #[error("range at {offset}: the file cannot be {action}: {error}")]
    File {
        /// First byte.
        offset: u64,
        /// "measured", "read" or "written".
        action: &'static str,
        /// The host's reason.
        error: io::Error,
    },
    /// The table is full.
    #[error("the disk has {MAX_RANGES} ranges already, the most that are possible")]
    Full,
}

/// One range.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) file: File,
    /// Whether the file was written since it was last synchronised.
    dirty: AtomicBool,
}

impl Range {
    fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// Notes that the file is about to be written.
    pub(super) fn taint(&self) {
        self.dirty.store(true, Ordering::Relaxed);
    }
}

/// The ranges of a disk, by offset, without overlaps. A clone is the table as it is now.
#[derive(Debug, Default, Clone)]
pub(super) struct Ranges(Vec<Arc<Range>>);

impl Ranges {
    /// Adds a range of `length` bytes, or of the file's length rounded up to a sector.
    pub(super) fn add(
        &mut self,
        offset: u64,
        length: Option<u64>,
        mut file: File,
        read_only: bool,
        size: Option<u64>,
    ) -> Result<(), RangeError> {
        let host = |action| move |error| RangeError::File { offset, action, error };
        // Also right for a block device, whose metadata say 0.
        let available = file.seek(SeekFrom::End(0)).map_err(host("measured"))?;
        check_access(&file, read_only).map_err(host(if read_only { "read" } else { "written" }))?;
        let rounded = available.checked_next_multiple_of(SECTOR);
        let length = length.or(rounded).unwrap_or(u64::MAX);
        let aligned = offset.is_multiple_of(SECTOR) && length.is_multiple_of(SECTOR) && length > 0;
        // Above this, sums of offsets could not be told to the kernel, whose are signed.
        let end = offset.checked_add(length).filter(|end| *end <= i64::MAX as u64);
        let Some(end) = end.filter(|_| aligned) else {
            return Err(RangeError::Unaligned { offset, length });
        };
        if let Some(size) = size.filter(|size| *size < end) {
            return Err(RangeError::PastEnd { offset, length, size });
        }
        if rounded.is_none_or(|rounded| rounded < length) {
            return Err(RangeError::FileTooShort { offset, length, file: available });
        }
        if self.0.len() == MAX_RANGES {
            return Err(RangeError::Full);
        }
        let index = self.0.partition_point(|range| range.end() <= offset);
        if let Some(other) = self.0.get(index).filter(|other| other.offset < end) {
            return Err(RangeError::Overlap { offset, length, other: other.offset });
        }
        let range = Range { offset, length, file, dirty: AtomicBool::new(false) };
        self.0.insert(index, Arc::new(range));
        Ok(())
    }

    /// The first byte after the last range.
    pub(super) fn end(&self) -> u64 {
        self.0.last().map_or(0, |range| range.end())
    }

    /// The range that covers the byte at `position`, and how many bytes it has from there on.
    pub(super) fn find(&self, position: u64) -> Option<(&Range, u64)> {
        let index = self.0.partition_point(|range| range.end() <= position);
        let range = self.0.get(index).filter(|range| range.offset <= position)?;
        let left = range.end() - position;
        Some((range, left))
    }

    /// Whether ranges cover all of the `length` bytes from `position` on.
    pub(super) fn covers(&self, mut position: u64, mut length: u64) -> bool {
        while length > 0 {
            let Some((_, left)) = self.find(position) else { return false };
            let step = left.min(length);
            position += step;
            length -= step;
        }
        true
    }

    /// Makes what was written durable. Every dirty file is tried, and stays dirty if it fails.
    pub(super) fn flush(&self) -> io::Result<()> {
        let mut result = Ok(());
        for range in &self.0 {
            if range.dirty.swap(false, Ordering::Relaxed)
                && let Err(error) = range.file.sync_data()
            {
                range.taint();
                result = Err(error);
            }
        }
        result
    }
}

/// Fails unless `file` was opened for what the disk does with it.
fn check_access(file: &File, read_only: bool) -> io::Result<()> {
    // SAFETY: F_GETFL takes no argument and only reports on a descriptor that `file` owns.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    let mode = flags & libc::O_ACCMODE;
    let fits = mode == libc::O_RDWR || (read_only && mode == libc::O_RDONLY);
    if fits && flags & libc::O_PATH == 0 {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "it was not opened for that"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(length: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        file
    }

    #[test]
    fn overlaps_are_refused_and_neighbours_are_not() {
        let mut ranges = Ranges::default();
        ranges.add(4096, Some(4096), file(4096), false, None).unwrap();
        for (offset, length) in [(4096, 512), (0, 4608), (7680, 512), (0, 16384), (7680, 4096)] {
            let result = ranges.add(offset, Some(length), file(16384), false, None);
            assert!(matches!(result, Err(RangeError::Overlap { other: 4096, .. })), "{offset}");
        }
        ranges.add(0, Some(4096), file(4096), false, None).unwrap();
        ranges.add(8192, None, file(1000), false, None).unwrap();
        assert_eq!(ranges.end(), 8192 + 1024);
        assert!(ranges.covers(0, 9216));
        assert!(!ranges.covers(0, 9217));
        let (range, left) = ranges.find(4097).unwrap();
        assert_eq!((range.offset, left), (4096, 4095));
        assert!(ranges.find(9216).is_none());
    }

    #[test]
    fn impossible_ranges_are_refused() {
        let mut ranges = Ranges::default();
        for (offset, length) in [(1, 512), (0, 0), (0, 513), (u64::MAX - 511, 512), (1 << 63, 512)]
        {
            let result = ranges.add(offset, Some(length), file(1024), true, None);
            assert!(matches!(result, Err(RangeError::Unaligned { .. })), "{offset} {length}");
        }
        let result = ranges.add(0, None, file(0), true, None);
        assert!(matches!(result, Err(RangeError::Unaligned { .. })));
        let result = ranges.add(512, Some(1024), file(1024), true, Some(1024));
        assert!(matches!(result, Err(RangeError::PastEnd { size: 1024, .. })));
        let result = ranges.add(0, Some(1536), file(1024), true, None);
        assert!(matches!(result, Err(RangeError::FileTooShort { file: 1024, .. })));
        assert_eq!(ranges.end(), 0);
    }

    #[test]
    fn a_writable_disk_needs_writable_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, [0; 512]).unwrap();
        let mut ranges = Ranges::default();
        let result = ranges.add(0, None, File::open(&path).unwrap(), false, None);
        assert!(matches!(result, Err(RangeError::File { action: "written", .. })));
        ranges.add(0, None, File::open(&path).unwrap(), true, None).unwrap();
    }
}
