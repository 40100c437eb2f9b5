//! Block requests (§5.2.6): a header, data, and a status byte, with any framing (§2.7.4).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::virtio::block::ranges::{Range, Ranges, SECTOR};
use crate::virtio::buffers::Buffers;
use crate::virtio::queue::Chain;

/// Bytes of data in one request at most: what bounds the time a request takes.
pub(super) const MAX_DATA: usize = 64 << 20;
/// Segments of one discard or write-zeroes request at most.
pub(super) const MAX_EXTENTS: usize = 16;
/// Sectors that one segment of a discard or write-zeroes request may name.
pub(super) const MAX_EXTENT_SECTORS: u32 = 1 << 21;

const HEADER: usize = 16;
const EXTENT: usize = 16;
const FLAG_UNMAP: u32 = 1;

/// The disk, as a request sees it.
pub(super) struct Disk<'a> {
    pub(super) ranges: &'a Ranges,
    /// Bytes.
    pub(super) capacity: u64,
    pub(super) read_only: bool,
    /// Whether a write must be durable when it completes: the driver does not know of flushes.
    pub(super) write_through: bool,
    pub(super) id: &'a [u8; ID_BYTES],
}

/// Bytes of a device id (§5.2.6).
pub(super) const ID_BYTES: usize = 20;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Read(usize),
    Written(usize),
    Flushed,
    Identified(usize),
    Cleared,
    Failed,
}

/// Why a request was not done; becomes its status byte.
#[derive(Debug)]
enum Refusal {
    /// `VIRTIO_BLK_S_IOERR`.
    Io,
    /// `VIRTIO_BLK_S_UNSUPP`.
    Unsupported,
}

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

impl Disk<'_> {
    /// Executes the request in `chain`. Returns how many bytes of the chain were written.
    pub(super) fn execute(&self, chain: &mut Chain) -> (usize, Outcome) {
        let Some(data_length) = chain.writable.len().checked_sub(1) else {
            // Not even room for the status.
            return (0, Outcome::Failed);
        };
        let header = chain.readable.read_array::<HEADER>();
        chain.readable.advance(HEADER);
        let result = match header {
            Some(header) => self.dispatch(header, chain, data_length),
            None => Err(Refusal::Io),
        };
        let (read, outcome, status) = match result {
            Ok(outcome @ (Outcome::Read(bytes) | Outcome::Identified(bytes))) => {
                (bytes, outcome, 0)
            }
            Ok(outcome) => (0, outcome, 0),
            Err(Refusal::Io) => (0, Outcome::Failed, 1),
            Err(Refusal::Unsupported) => (0, Outcome::Failed, 2),
        };
        // What was read into has been dropped from the list's front.
        chain.writable.write_at(chain.writable.len().saturating_sub(1), &[status]);
        // The length covers a prefix of the list (§2.7.8.2): the status is known to be written only
        // when the data before it is.
        let used = if read == data_length { read + 1 } else { read };
        (used, outcome)
    }

    fn dispatch(
        &self,
        header: [u8; HEADER],
        chain: &mut Chain,
        data_length: usize,
    ) -> Result<Outcome, Refusal> {
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([a, b, c, d]) {
            0 => self.read(sector, &mut chain.writable, data_length),
            1 => self.write(sector, &mut chain.readable),
            4 if self.read_only => Ok(Outcome::Flushed),
            4 => {
                self.ranges.flush()?;
                Ok(Outcome::Flushed)
            }
            8 => {
                // A shorter buffer gets what it has room for.
                let id = self.id.get(..data_length.min(ID_BYTES)).unwrap_or_default();
                let bytes = chain.writable.write_at(0, id);
                chain.writable.advance(bytes);
                Ok(Outcome::Identified(bytes))
            }
            11 => self.extents(&chain.readable, false),
            13 => self.extents(&chain.readable, true),
            _ => Err(Refusal::Unsupported),
        }
    }

    /// The first byte of a transfer that must lie on the disk.
    fn locate(&self, sector: u64, length: u64) -> Result<u64, Refusal> {
        let start = sector.checked_mul(SECTOR).ok_or(Refusal::Io)?;
        let end = start.checked_add(length).ok_or(Refusal::Io)?;
        if length.is_multiple_of(SECTOR) && end <= self.capacity {
            Ok(start)
        } else {
            Err(Refusal::Io)
        }
    }

    fn read(&self, sector: u64, data: &mut Buffers, length: usize) -> Result<Outcome, Refusal> {
        if length > MAX_DATA {
            return Err(Refusal::Io);
        }
        let mut position = self.locate(sector, length as u64)?;
        let mut left = length;
        while left > 0 {
            let (range, available) = self.ranges.find(position).ok_or(Refusal::Io)?;
            let piece = usize::try_from(available).unwrap_or(left).min(left);
            let count = read_piece(range, position - range.offset, data, piece)?;
            data.advance(count);
            position += count as u64;
            left -= count;
        }
        Ok(Outcome::Read(length))
    }

    fn write(&self, sector: u64, data: &mut Buffers) -> Result<Outcome, Refusal> {
        let length = data.len();
        if self.read_only || length > MAX_DATA {
            return Err(Refusal::Io);
        }
        let mut position = self.locate(sector, length as u64)?;
        if !self.ranges.covers(position, length as u64) {
            return Err(Refusal::Io);
        }
        let mut left = length;
        while left > 0 {
            let (range, available) = self.ranges.find(position).ok_or(Refusal::Io)?;
            let piece = usize::try_from(available).unwrap_or(left).min(left);
            range.taint();
            let offset = position - range.offset;
            let count = retry(|| data.write_file(range.file.as_fd(), offset, piece))?;
            if count == 0 {
                return Err(Refusal::Io);
            }
            data.advance(count);
            position += count as u64;
            left -= count;
        }
        if self.write_through {
            self.ranges.flush()?;
        }
        Ok(Outcome::Written(length))
    }

    /// Discards or clears the extents that `list` names.
    fn extents(&self, list: &Buffers, zero: bool) -> Result<Outcome, Refusal> {
        if self.read_only || list.is_empty() || !list.len().is_multiple_of(EXTENT) {
            return Err(Refusal::Io);
        }
        if list.len() > MAX_EXTENTS * EXTENT {
            return Err(Refusal::Io);
        }
        for offset in (0..list.len()).step_by(EXTENT) {
            let mut extent = [0; EXTENT];
            list.read_at(offset, &mut extent);
            let [sector @ .., a, b, c, d, e, f, g, h] = extent;
            let sectors = u32::from_le_bytes([a, b, c, d]);
            let flags = u32::from_le_bytes([e, f, g, h]);
            // A discard must not ask for unmapping, it is one (§5.2.6.2).
            if flags & !FLAG_UNMAP != 0 || (!zero && flags != 0) {
                return Err(Refusal::Unsupported);
            }
            if sectors > MAX_EXTENT_SECTORS {
                return Err(Refusal::Io);
            }
            let length = u64::from(sectors) * SECTOR;
            let position = self.locate(u64::from_le_bytes(sector), length)?;
            if !self.ranges.covers(position, length) {
                return Err(Refusal::Io);
            }
            let unmap = !zero || flags & FLAG_UNMAP != 0;
            self.clear(position, length, zero, unmap)?;
        }
        if self.write_through {
            self.ranges.flush()?;
        }
        Ok(Outcome::Cleared)
    }

    fn clear(
        &self,
        mut position: u64,
        mut left: u64,
        zero: bool,
        unmap: bool,
    ) -> Result<(), Refusal> {
        while left > 0 {
            let (range, available) = self.ranges.find(position).ok_or(Refusal::Io)?;
            let piece = available.min(left);
            range.taint();
            match deallocate(range, position - range.offset, piece, unmap) {
                // A discard is a hint; a file system that cannot follow it loses nothing.
                Err(error) if !zero && error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    return Err(Refusal::Unsupported);
                }
                result => result?,
            }
            position += piece;
            left -= piece;
        }
        Ok(())
    }
}

/// Reads up to `length` bytes of `range` from `offset` on. Returns how many, at least 1.
fn read_piece(
    range: &Range,
    offset: u64,
    data: &mut Buffers,
    length: usize,
) -> Result<usize, Refusal> {
    match retry(|| data.read_file(range.file.as_fd(), offset, length))? {
        // The end of the file. Only the rest of its last sector may be missing.
        0 if (length as u64) < SECTOR && !offset.is_multiple_of(SECTOR) => {
            data.fill_zero(length);
            Ok(length)
        }
        // A whole sector is missing: the file was cut short under the disk.
        0 => Err(Refusal::Io),
        count => Ok(count),
    }
}

/// Clears part of a file; with `unmap`, also gives its blocks back.
fn deallocate(range: &Range, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
    let how = if unmap { libc::FALLOC_FL_PUNCH_HOLE } else { libc::FALLOC_FL_ZERO_RANGE };
    let mode = how | libc::FALLOC_FL_KEEP_SIZE;
    let signed = |value| libc::off64_t::try_from(value).map_err(io::Error::other);
    let (offset, length) = (signed(offset)?, signed(length)?);
    retry(|| {
        // SAFETY: a plain call on a descriptor that the range owns; no pointers are passed.
        match unsafe { libc::fallocate64(range.file.as_raw_fd(), mode, offset, length) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    })
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
