//! Counters, written by the threads that count and read by the API.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// So many until now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// vCPUs' exits to the monitor. What KVM settles in the kernel (a queue's notification, the local
/// APIC, HLT) is not among them.
#[derive(Debug, Default)]
pub struct VcpuExits {
    /// Reads of an I/O port.
    pub io_in: Counter,
    /// Writes to an I/O port.
    pub io_out: Counter,
    /// Reads of a device's memory.
    pub mmio_read: Counter,
    /// Writes to a device's memory.
    pub mmio_write: Counter,
    /// Signals, pauses among them.
    pub interrupted: Counter,
    /// Any others that the guest goes on from.
    pub other: Counter,
}
