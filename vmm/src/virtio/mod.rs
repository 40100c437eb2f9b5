//! virtio 1.2 over MMIO.
