//! What lies behind a disk and what was done with it, for whoever serves the disk and whoever manages
//! it: neither waits for the other, however slow a file is.

use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::DiskId;
use super::ranges::{RangeError, Ranges, SECTOR};
use super::request::Outcome;
use crate::bus::lock;
use crate::metrics::Counter;
use crate::virtio::Metric;
use crate::virtio::interrupt::Interrupt;

/// A disk's ranges and counters.
#[derive(Debug)]
pub struct Backing {
    pub(super) id: DiskId,
    pub(super) read_only: bool,
    /// The fixed size in bytes, if there is one.
    size: Option<u64>,
    /// Replaced as a whole: a request under way goes on with the table that it has.
    ranges: Mutex<Arc<Ranges>>,
    generation: AtomicU32,
    /// How to tell the driver of a new capacity, while there is one.
    driver: Mutex<Option<Interrupt>>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    reads: Counter,
    read_bytes: Counter,
    writes: Counter,
    written_bytes: Counter,
    flushes: Counter,
    others: Counter,
    errors: Counter,
}

impl Backing {
    pub(super) fn new(id: DiskId, size: Option<u64>, read_only: bool) -> Self {
        Self {
            id,
            read_only,
            size: size.map(|size| size - size % SECTOR),
            ranges: Mutex::default(),
            generation: AtomicU32::new(0),
            driver: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// Lets `file` back `length` bytes from `offset` on; without `length`, the file's length
    /// rounded up to a sector. On a disk that grows, a running guest is told of the new capacity.
    ///
    /// # Errors
    /// When the range is not possible; then nothing has changed.
    pub fn add_range(
        &self,
        offset: u64,
        length: Option<u64>,
        file: File,
    ) -> Result<(), RangeError> {
        let mut current = lock(&self.ranges);
        let before = self.capacity_of(&current);
        let mut ranges = Ranges::clone(&current);
        ranges.add(offset, length, file, self.read_only, self.size)?;
        let grown = self.capacity_of(&ranges) != before;
        *current = Arc::new(ranges);
        drop(current);
        if grown {
            self.generation.fetch_add(1, Ordering::SeqCst);
            if let Some(interrupt) = &*lock(&self.driver) {
                interrupt.configuration();
            }
        }
        Ok(())
    }

    /// The disk's capacity in bytes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity_of(&self.ranges())
    }

    /// Whether the guest may not write to it.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Counters for `GET /metrics`.
    #[must_use]
    pub fn metrics(&self) -> Vec<Metric> {
        let counters = &self.counters;
        [
            ("reads", &counters.reads),
            ("read_bytes", &counters.read_bytes),
            ("writes", &counters.writes),
            ("written_bytes", &counters.written_bytes),
            ("flushes", &counters.flushes),
            ("other_requests", &counters.others),
            ("errors", &counters.errors),
        ]
        .map(|(name, counter)| (name, counter.get()))
        .into()
    }

    pub(super) fn capacity_of(&self, ranges: &Ranges) -> u64 {
        self.size.unwrap_or_else(|| ranges.end())
    }

    /// The table as it is now.
    pub(super) fn ranges(&self) -> Arc<Ranges> {
        lock(&self.ranges).clone()
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Sets whom to tell of a new capacity.
    pub(super) fn tell(&self, driver: Option<Interrupt>) {
        *lock(&self.driver) = driver;
    }

    pub(super) fn count(&self, outcome: Outcome) {
        let counters = &self.counters;
        match outcome {
            Outcome::Read(bytes) => {
                counters.reads.count();
                counters.read_bytes.add(bytes as u64);
            }
            Outcome::Written(bytes) => {
                counters.writes.count();
                counters.written_bytes.add(bytes as u64);
            }
            Outcome::Flushed => counters.flushes.count(),
            Outcome::Identified(_) | Outcome::Cleared => counters.others.count(),
            Outcome::Failed => counters.errors.count(),
        }
    }

    /// Notes requests that were none.
    pub(super) fn count_malformed(&self, chains: u64) {
        self.counters.errors.add(chains);
    }
}
