//! How the guest learns of its processors and interrupt lines: the MP table for kernels without ACPI,
//! ACPI tables of reduced hardware for all others. Both say the same.

pub mod acpi;
pub mod mptable;

/// A virtio-mmio device, as the guest is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MmioDevice {
    /// Its registers' guest-physical address.
    pub base: u64,
    /// Its interrupt line.
    pub irq: u32,
}
