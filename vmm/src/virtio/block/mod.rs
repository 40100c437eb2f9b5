//! The block device (§5.2): a disk whose content is a table of ranges, each a file.
//!
//! Ranges may be added while the guest runs ([`Block::add_range`]), which is how an image's layer or
//! a volume arrives. What no range covers answers with `VIRTIO_BLK_S_IOERR`.
//!
//! Requests are served in order, on a thread of the disk's own, with `preadv` and `pwritev` straight on
//! guest memory. The files are in the host's page cache as a rule, where that is the shortest way; where
//! they are not, nothing but this disk waits.

use std::sync::Arc;

pub use self::backing::Backing;
pub use self::ranges::{RangeError, SECTOR};

use self::request::{Disk, ID_BYTES};
use crate::event_loop::Sources;
use crate::virtio::queue::{QueueError, VirtQueue};
use crate::virtio::{
    ActivateError, Activation, DeviceType, Metric, Progress, VirtioDevice, feature,
    read_config_space,
};

mod backing;
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

struct Active {
    queue: VirtQueue,
    write_through: bool,
    /// Malformed chains that are counted already.
    malformed: u64,
}

/// The device.
pub struct Block {
    backing: Arc<Backing>,
    active: Option<Active>,
}

impl Block {
    /// A disk without ranges. Its capacity is `size` bytes, rounded down to a sector, or without
    /// `size` the end of its last range.
    #[must_use]
    pub fn new(id: DiskId, size: Option<u64>, read_only: bool) -> Self {
        Self { backing: Arc::new(Backing::new(id, size, read_only)), active: None }
    }

    /// What lies behind it: for its manager, who need not wait for requests under way.
    #[must_use]
    pub const fn backing(&self) -> &Arc<Backing> {
        &self.backing
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        let access =
            if self.backing.is_read_only() { F_RO } else { F_FLUSH | F_DISCARD | F_WRITE_ZEROES };
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
        put(0, &(self.backing.capacity() / SECTOR).to_le_bytes());
        put(12, &SEGMENTS_MAX.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        if !self.backing.is_read_only() {
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
        self.backing.generation()
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let queues = <[VirtQueue; 1]>::try_from(activation.queues);
        let [queue] = queues.map_err(|queues| ActivateError::Queues(queues.len()))?;
        let write_through = !self.backing.is_read_only() && activation.features & F_FLUSH == 0;
        self.backing.tell(Some(activation.interrupt));
        self.active = Some(Active { queue, write_through, malformed: 0 });
        Ok(())
    }

    fn reset(&mut self) {
        self.backing.tell(None);
        self.active = None;
    }

    fn queue_event(
        &mut self,
        _index: usize,
        _sources: &mut Sources<'_>,
    ) -> Result<Progress, QueueError> {
        let Some(active) = &mut self.active else { return Ok(Progress::Done) };
        let backing = &*self.backing;
        let ranges = backing.ranges();
        let disk = Disk {
            ranges: &ranges,
            capacity: backing.capacity_of(&ranges),
            read_only: backing.is_read_only(),
            write_through: active.write_through,
            id: &backing.id.0,
        };
        let result = active.queue.serve(BUDGET, |chain| {
            let (used, outcome) = disk.execute(chain);
            backing.count(outcome);
            Some(used)
        });
        let malformed = active.queue.malformed();
        backing.count_malformed(malformed - active.malformed);
        active.malformed = malformed;
        result
    }

    fn halt(&mut self, _sources: &mut Sources<'_>) {
        self.reset();
    }

    fn metrics(&self) -> Vec<Metric> {
        self.backing.metrics()
    }
}
