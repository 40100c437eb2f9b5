//! The block device (§5.2): a disk whose content is a table of ranges, each a file.
//!
//! Ranges may be added while the guest runs ([`Block::add_range`]), which is how an image's layer or
//! a volume arrives. What no range covers answers with `VIRTIO_BLK_S_IOERR`.
//!
//! Requests are served in order on the device thread, with `preadv` and `pwritev` straight on guest
//! memory. The files are in the host's page cache as a rule, where that is the shortest way.

use std::fs::File;

pub use self::ranges::{RangeError, SECTOR};

use self::ranges::Ranges;
use self::request::{Disk, ID_BYTES, Outcome};
use crate::event_loop::Sources;
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::{QueueError, VirtQueue};
use crate::virtio::{
    ActivateError, Activation, DeviceType, Metric, Progress, VirtioDevice, feature,
    read_config_space,
};

mod ranges;
mod request;
#[cfg(test)]
mod tests;

const QUEUE_SIZE: u16 = 256;
/// Data segments of a request: a queue's descriptors without header and status.
const SEGMENTS_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Requests served for one event.
const BUDGET: usize = 64;

const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

/// What names a disk: its virtio serial, 1 to 20 bytes of `[a-zA-Z0-9._-]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskId([u8; ID_BYTES]);

/// A string that names no disk.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("disk id {0:?}: it must be 1 to 20 bytes of [a-zA-Z0-9._-]")]
pub struct InvalidDiskId(pub String);

impl TryFrom<&str> for DiskId {
    type Error = InvalidDiskId;

    fn try_from(id: &str) -> Result<Self, Self::Error> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let mut bytes = [0; ID_BYTES];
        match bytes.get_mut(..id.len()) {
            Some(part) if !id.is_empty() && id.bytes().all(legal) => {
                part.copy_from_slice(id.as_bytes());
                Ok(Self(bytes))
            }
            _ => Err(InvalidDiskId(id.to_owned())),
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    reads: u64,
    read_bytes: u64,
    writes: u64,
    written_bytes: u64,
    flushes: u64,
    others: u64,
    errors: u64,
}

struct Active {
    queue: VirtQueue,
    interrupt: Interrupt,
    write_through: bool,
}

/// The device.
pub struct Block {
    id: DiskId,
    /// The fixed size in bytes, if there is one.
    size: Option<u64>,
    read_only: bool,
    ranges: Ranges,
    active: Option<Active>,
    generation: u32,
    counters: Counters,
}

impl Block {
    /// A disk without ranges. Its capacity is `size` bytes, rounded down to a sector, or without
    /// `size` the end of its last range.
    #[must_use]
    pub fn new(id: DiskId, size: Option<u64>, read_only: bool) -> Self {
        Self {
            id,
            size: size.map(|size| size - size % SECTOR),
            read_only,
            ranges: Ranges::default(),
            active: None,
            generation: 0,
            counters: Counters::default(),
        }
    }

    /// Lets `file` back `length` bytes from `offset` on; without `length`, the file's length
    /// rounded up to a sector. On a disk that grows, a running guest is told of the new capacity.
    ///
    /// # Errors
    /// When the range is not possible; then nothing has changed.
    pub fn add_range(
        &mut self,
        offset: u64,
        length: Option<u64>,
        file: File,
    ) -> Result<(), RangeError> {
        let before = self.capacity();
        self.ranges.add(offset, length, file, self.read_only, self.size)?;
        if self.capacity() != before {
            self.generation = self.generation.wrapping_add(1);
            if let Some(active) = &self.active {
                active.interrupt.configuration();
            }
        }
        Ok(())
    }

    /// The disk's capacity in bytes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.size.unwrap_or_else(|| self.ranges.end())
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        let access = if self.read_only { F_RO } else { F_FLUSH | F_DISCARD | F_WRITE_ZEROES };
        feature::INDIRECT_DESC | feature::EVENT_IDX | F_SEG_MAX | F_BLK_SIZE | access
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // `struct virtio_blk_config`, §5.2.4.
        let mut space = [0; 60];
        let mut put = |offset: usize, bytes: &[u8]| {
            space[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &(self.capacity() / SECTOR).to_le_bytes());
        put(12, &SEGMENTS_MAX.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        if !self.read_only {
            let extents = request::MAX_EXTENTS as u32;
            put(36, &request::MAX_EXTENT_SECTORS.to_le_bytes());
            put(40, &extents.to_le_bytes());
            // Discards are aligned to 4096 bytes: less frees no block of a file system.
            put(44, &8_u32.to_le_bytes());
            put(48, &request::MAX_EXTENT_SECTORS.to_le_bytes());
            put(52, &extents.to_le_bytes());
            // A write of zeroes may deallocate.
            put(56, &[1]);
        }
        read_config_space(&space, offset, data);
    }

    fn config_generation(&self) -> u32 {
        self.generation
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queues = <[VirtQueue; 1]>::try_from(activation.queues);
        let [queue] = queues.map_err(|queues| ActivateError::Queues(queues.len()))?;
        let write_through = !self.read_only && activation.features & F_FLUSH == 0;
        self.active = Some(Active { queue, interrupt: activation.interrupt, write_through });
        Ok(())
    }

    fn reset(&mut self) {
        self.counters.errors += self.active.take().map_or(0, |active| active.queue.malformed());
    }

    fn queue_event(
        &mut self,
        _index: usize,
        _sources: &mut Sources<'_>,
    ) -> Result<Progress, QueueError> {
        let capacity = self.capacity();
        let Some(active) = &mut self.active else { return Ok(Progress::Done) };
        let mut disk = Disk {
            ranges: &mut self.ranges,
            capacity,
            read_only: self.read_only,
            write_through: active.write_through,
            id: &self.id.0,
        };
        let counters = &mut self.counters;
        active.queue.serve(BUDGET, |chain| {
            let (used, outcome) = disk.execute(chain);
            counters.count(outcome);
            Some(used)
        })
    }

    fn halt(&mut self, _sources: &mut Sources<'_>) {
        self.reset();
    }

    fn metrics(&self) -> Vec<Metric> {
        let malformed = self.active.as_ref().map_or(0, |active| active.queue.malformed());
        let counters = &self.counters;
        vec![
            ("reads", counters.reads),
            ("read_bytes", counters.read_bytes),
            ("writes", counters.writes),
            ("written_bytes", counters.written_bytes),
            ("flushes", counters.flushes),
            ("other_requests", counters.others),
            ("errors", counters.errors + malformed),
        ]
    }
}

impl Counters {
    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Read(bytes) => {
                self.reads += 1;
                self.read_bytes += bytes as u64;
            }
            Outcome::Written(bytes) => {
                self.writes += 1;
                self.written_bytes += bytes as u64;
            }
            Outcome::Flushed => self.flushes += 1,
            Outcome::Identified(_) | Outcome::Cleared => self.others += 1,
            Outcome::Failed => self.errors += 1,
        }
    }
}
