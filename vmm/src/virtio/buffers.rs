//! The guest memory behind one side of a descriptor chain, as a scatter list.
//!
//! The addresses were checked when the list was made, so what remains are host pointers for the
//! kernel to read and write. Copies through the monitor are for headers only.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::memory::GuestMemory;

/// Segments of one list at most: what one `preadv` takes (`IOV_MAX`).
pub const MAX_SEGMENTS: usize = 1024;

/// A scatter list over guest memory. It can be shortened at both ends.
///
/// The list does not keep the memory mapped; [`crate::virtio::queue::Chain`], the only one to
/// make and fill one, does.
#[derive(Debug, Default)]
pub struct Buffers {
    segments: Vec<libc::iovec>,
    first: usize,
    length: usize,
}

// SAFETY: the pointers are to guest memory, which no thread owns and which is only accessed by
// system calls and volatile copies; the vector is an ordinary owned value.
unsafe impl Send for Buffers {}

/// A list would have more than [`MAX_SEGMENTS`] segments, or leave guest memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OutOfBounds;

impl Buffers {
    /// Bytes in the list.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn clear(&mut self) {
        self.segments.clear();
        self.first = 0;
        self.length = 0;
    }

    /// Appends `length` bytes of guest memory from `address` on.
    pub(super) fn push(
        &mut self,
        memory: &GuestMemory,
        address: GuestAddress,
        length: usize,
    ) -> Result<(), OutOfBounds> {
        for slice in memory.get_slices(address, length) {
            let slice = slice.map_err(|_| OutOfBounds)?;
            let base = slice.ptr_guard_mut().as_ptr();
            let full = self.segments.len() == MAX_SEGMENTS;
            match self.segments.last_mut() {
                Some(last) if last.iov_base.wrapping_byte_add(last.iov_len) == base.cast() => {
                    last.iov_len += slice.len();
                }
                _ if full => return Err(OutOfBounds),
                _ => {
                    self.segments.push(libc::iovec { iov_base: base.cast(), iov_len: slice.len() })
                }
            }
            self.length += slice.len();
        }
        Ok(())
    }

    /// Drops the first `count` bytes, or all when there are fewer.
    pub fn advance(&mut self, count: usize) {
        let mut left = count.min(self.length);
        self.length -= left;
        for segment in self.segments.iter_mut().skip(self.first) {
            if left < segment.iov_len {
                segment.iov_base = segment.iov_base.wrapping_byte_add(left);
                segment.iov_len -= left;
                return;
            }
            left -= segment.iov_len;
            self.first += 1;
        }
    }

    /// Keeps the first `length` bytes only.
    pub fn truncate(&mut self, length: usize) {
        let mut surplus = self.length.saturating_sub(length);
        self.length -= surplus;
        while let Some(last) = self.segments.last_mut().filter(|_| surplus > 0) {
            if surplus < last.iov_len {
                last.iov_len -= surplus;
                return;
            }
            surplus -= last.iov_len;
            self.segments.pop();
        }
    }

    /// Copies bytes from `offset` on into `data`. Returns how many there were.
    pub fn read_at(&self, offset: usize, data: &mut [u8]) -> usize {
        let mut done = 0;
        self.for_each_slice(offset, data.len(), |slice| {
            if let Some(to) = data.get_mut(done..) {
                done += slice.copy_to(to);
            }
        });
        done
    }

    /// Copies the first `N` bytes, when there are as many.
    #[must_use]
    pub fn read_array<const N: usize>(&self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        (self.read_at(0, &mut bytes) == N).then_some(bytes)
    }

    /// Copies `data` to `offset`. Returns how many bytes there was room for.
    pub fn write_at(&self, offset: usize, data: &[u8]) -> usize {
        let mut done = 0;
        self.for_each_slice(offset, data.len(), |slice| {
            if let Some(from) = data.get(done..) {
                let count = slice.len().min(from.len());
                slice.copy_from(from);
                done += count;
            }
        });
        done
    }

    /// Clears the first `length` bytes.
    pub fn fill_zero(&self, length: usize) {
        const ZEROES: [u8; 4096] = [0; 4096];
        self.for_each_slice(0, length, |slice| {
            let mut offset = 0;
            while offset < slice.len() {
                let count = (slice.len() - offset).min(ZEROES.len());
                if let Ok(part) = slice.subslice(offset, count) {
                    part.copy_from(&ZEROES[..count]);
                }
                offset += count;
            }
        });
    }

    /// Reads up to `length` bytes of the file from `offset` on into the list's start.
    ///
    /// # Errors
    /// As `preadv`.
    pub fn read_file(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        length: usize,
    ) -> io::Result<usize> {
        let offset = file_offset(offset)?;
        self.with_prefix(length, |segments, count| {
            // SAFETY: `segments` are `count` valid iovecs over mapped guest memory, and the
            // kernel checks the rest.
            unsafe { libc::preadv64(file.as_raw_fd(), segments, count, offset) }
        })
    }

    /// Writes up to `length` bytes from the list's start to the file at `offset`.
    ///
    /// # Errors
    /// As `pwritev`.
    pub fn write_file(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        length: usize,
    ) -> io::Result<usize> {
        let offset = file_offset(offset)?;
        self.with_prefix(length, |segments, count| {
            // SAFETY: as in `read_file`.
            unsafe { libc::pwritev64(file.as_raw_fd(), segments, count, offset) }
        })
    }

    /// Reads once from a stream, at most `length` bytes, into the list from `offset` on.
    ///
    /// # Errors
    /// As `readv`.
    pub fn read_stream(
        &mut self,
        stream: BorrowedFd<'_>,
        offset: usize,
        length: usize,
    ) -> io::Result<usize> {
        self.with_window(offset, length, |segments, count| {
            // SAFETY: as in `read_file`.
            unsafe { libc::readv(stream.as_raw_fd(), segments, count) }
        })
    }

    /// Writes once to a device, at most `length` bytes from the list's start.
    ///
    /// # Errors
    /// As `writev`.
    pub fn write_stream(&mut self, stream: BorrowedFd<'_>, length: usize) -> io::Result<usize> {
        self.with_prefix(length, |segments, count| {
            // SAFETY: as in `read_file`.
            unsafe { libc::writev(stream.as_raw_fd(), segments, count) }
        })
    }

    /// Sends once on a socket, at most `length` bytes from the list's start. A peer that has gone
    /// is an error, never a signal.
    ///
    /// # Errors
    /// As `sendmsg`.
    pub fn send(&mut self, socket: BorrowedFd<'_>, length: usize) -> io::Result<usize> {
        self.with_prefix(length, |segments, count| {
            // SAFETY: all-zero is a valid `msghdr`: no name, no control data, no flags.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_iov = segments.cast_mut();
            message.msg_iovlen = count as usize;
            // SAFETY: `message` names valid iovecs, which the call only reads.
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) }
        })
    }

    /// Number of segments.
    pub(super) fn segments(&self) -> usize {
        self.segments.len() - self.first
    }

    /// Calls `call` on the segments that make up the first `length` bytes.
    fn with_prefix(
        &mut self,
        length: usize,
        call: impl FnOnce(*const libc::iovec, libc::c_int) -> isize,
    ) -> io::Result<usize> {
        self.with_window(0, length, call)
    }

    /// Calls `call` on the segments that make up `length` bytes, or what there is, from `offset`
    /// on.
    fn with_window(
        &mut self,
        offset: usize,
        length: usize,
        call: impl FnOnce(*const libc::iovec, libc::c_int) -> isize,
    ) -> io::Result<usize> {
        let mut active = self.segments.get_mut(self.first..).unwrap_or_default();
        let mut skip = offset;
        while let Some(first) = active.first()
            && first.iov_len <= skip
        {
            skip -= first.iov_len;
            active = active.get_mut(1..).unwrap_or_default();
        }
        // The call needs the first and the last segment cut to size; both are restored.
        let whole_first = active.first().copied();
        if let Some(first) = active.first_mut() {
            first.iov_base = first.iov_base.wrapping_byte_add(skip);
            first.iov_len -= skip;
        }
        let mut left = length;
        let mut count = 0;
        let mut whole_last = None;
        for segment in active.iter_mut() {
            if left == 0 {
                break;
            }
            if left < segment.iov_len {
                whole_last = Some((count, segment.iov_len));
                segment.iov_len = left;
            }
            count += 1;
            left -= segment.iov_len;
        }
        // A list never has more than `MAX_SEGMENTS` of them.
        let result = call(active.as_ptr(), count as libc::c_int);
        let error = io::Error::last_os_error();
        if let Some((index, length)) = whole_last
            && let Some(segment) = active.get_mut(index)
        {
            segment.iov_len = length;
        }
        if let Some((segment, whole)) = active.first_mut().zip(whole_first) {
            *segment = whole;
        }
        usize::try_from(result).map_err(|_| error)
    }

    fn for_each_slice(
        &self,
        offset: usize,
        length: usize,
        mut visit: impl FnMut(VolatileSlice<'_>),
    ) {
        let mut skip = offset;
        let mut left = length;
        for segment in self.segments.iter().skip(self.first) {
            if skip >= segment.iov_len {
                skip -= segment.iov_len;
                continue;
            }
            if left == 0 {
                return;
            }
            let count = (segment.iov_len - skip).min(left);
            let base = segment.iov_base.wrapping_byte_add(skip).cast();
            // SAFETY: the segment lies in mapped guest memory, and `skip + count` within it.
            visit(unsafe { VolatileSlice::new(base, count) });
            left -= count;
            skip = 0;
        }
    }
}

/// Reads packets into several lists, one after the other.
#[derive(Debug, Default)]
pub(super) struct PacketReader {
    // Only filled for the time of a call; kept for its allocation.
    segments: Vec<libc::iovec>,
}

// SAFETY: between calls there are no pointers in it.
unsafe impl Send for PacketReader {}

impl PacketReader {
    /// Reads one packet from `link` into `lists`, which have [`MAX_SEGMENTS`] − 1 segments in all
    /// at most. Returns its length, which is larger than the lists' when it did not fit.
    pub(super) fn read<'a>(
        &mut self,
        link: BorrowedFd<'_>,
        lists: impl Iterator<Item = &'a Buffers>,
    ) -> io::Result<usize> {
        for list in lists {
            self.segments.extend_from_slice(list.segments.get(list.first..).unwrap_or_default());
        }
        let mut surplus = 0_u8;
        self.segments.push(libc::iovec { iov_base: (&raw mut surplus).cast(), iov_len: 1 });
        let count = self.segments.len().min(MAX_SEGMENTS) as libc::c_int;
        // SAFETY: the segments lie in guest memory that the lists' owner keeps mapped, but the
        // last, which is `surplus`; `count` is not more than there are.
        let length = unsafe { libc::readv(link.as_raw_fd(), self.segments.as_ptr(), count) };
        let error = io::Error::last_os_error();
        self.segments.clear();
        usize::try_from(length).map_err(|_| error)
    }
}

fn file_offset(offset: u64) -> io::Result<libc::off64_t> {
    libc::off64_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use vm_memory::Bytes;

    use super::*;

    fn memory() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(0), 0x4000), (GuestAddress(0x4000), 0x4000)])
            .unwrap()
    }

    fn list(memory: &GuestMemory, parts: &[(u64, usize)]) -> Buffers {
        let mut buffers = Buffers::default();
        for (address, length) in parts {
            buffers.push(memory, GuestAddress(*address), *length).unwrap();
        }
        buffers
    }

    #[test]
    fn bytes_are_found_across_segments() {
        let memory = memory();
        memory.write_slice(b"hello ", GuestAddress(0x100)).unwrap();
        memory.write_slice(b"world", GuestAddress(0x3000)).unwrap();
        let mut buffers = list(&memory, &[(0x100, 6), (0x3000, 5)]);
        let mut text = [0; 32];
        assert_eq!(buffers.read_at(0, &mut text), 11);
        assert_eq!(&text[..11], b"hello world");
        assert_eq!(buffers.read_at(4, &mut text[..4]), 4);
        assert_eq!(&text[..4], b"o wo");
        assert_eq!(buffers.read_at(11, &mut text), 0);

        buffers.advance(7);
        buffers.truncate(3);
        assert_eq!(buffers.read_array::<3>().unwrap(), *b"orl");
        assert!(buffers.read_array::<4>().is_none());
        assert_eq!(buffers.write_at(1, b"NGER"), 2);
        let mut world = [0; 5];
        memory.read_slice(&mut world, GuestAddress(0x3000)).unwrap();
        assert_eq!(&world, b"woNGd");
        buffers.advance(100);
        assert!(buffers.is_empty());
    }

    #[test]
    fn a_list_stays_within_guest_memory() {
        let memory = memory();
        let mut buffers = list(&memory, &[(0x3ff0, 0x20)]);
        assert_eq!(buffers.len(), 0x20);
        for (address, length) in [(0x7fff, 2), (0x8000, 1), (u64::MAX, 1), (0, 0x10_0000)] {
            assert_eq!(buffers.push(&memory, GuestAddress(address), length), Err(OutOfBounds));
        }
    }

    #[test]
    fn the_number_of_segments_is_bounded() {
        let memory = memory();
        let mut buffers = Buffers::default();
        for index in 0..MAX_SEGMENTS as u64 {
            buffers.push(&memory, GuestAddress(index * 2 % 0x4000), 1).unwrap();
        }
        assert_eq!(buffers.push(&memory, GuestAddress(0x4001), 1), Err(OutOfBounds));
    }

    #[test]
    fn files_are_read_and_written_at_the_front() {
        let memory = memory();
        let file = tempfile::tempfile().unwrap();
        memory.write_slice(b"abcdef", GuestAddress(0)).unwrap();
        let mut buffers = list(&memory, &[(0, 2), (4, 2), (2, 2)]);
        assert_eq!(buffers.write_file(file.as_fd(), 10, 5).unwrap(), 5);
        assert_eq!(buffers.len(), 6);
        let mut back = list(&memory, &[(0x100, 3), (0x200, 9)]);
        assert_eq!(back.read_file(file.as_fd(), 9, 12).unwrap(), 6);
        let mut text = [0; 6];
        back.read_at(0, &mut text);
        assert_eq!(&text, b"\0abefc");
        back.fill_zero(4);
        back.read_at(0, &mut text);
        assert_eq!(&text, b"\0\0\0\0fc");
        assert!(back.read_file(file.as_fd(), u64::MAX, 1).is_err());
    }
}
