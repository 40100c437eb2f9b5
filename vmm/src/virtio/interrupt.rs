//! A device's way to its driver: the interrupt status register and the irqfd (§4.2.2, §2.3).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// `InterruptStatus` bit: the device has used a buffer.
const USED_BUFFER: u32 = 1;
/// `InterruptStatus` bit: the configuration, or `DEVICE_NEEDS_RESET`, has changed.
const CONFIGURATION: u32 = 2;

/// The interrupt of one device. Clones are the same interrupt; no lock is involved.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    status: AtomicU32,
    needs_reset: AtomicBool,
    line: EventFd,
}

impl Interrupt {
    /// An interrupt that is not raised.
    ///
    /// # Errors
    /// As `eventfd`.
    pub fn new() -> io::Result<Self> {
        let line = EventFd::new(EFD_NONBLOCK)?;
        Ok(Self(Arc::new(Shared {
            status: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            line,
        })))
    }

    /// The eventfd to register with KVM as an irqfd.
    #[must_use]
    pub fn line(&self) -> &EventFd {
        &self.0.line
    }

    /// Tells the driver of used buffers.
    pub fn used_buffer(&self) {
        self.raise(USED_BUFFER);
    }

    /// Tells the driver that the configuration space has changed.
    pub fn configuration(&self) {
        self.raise(CONFIGURATION);
    }

    /// Sets `DEVICE_NEEDS_RESET` and tells the driver.
    pub fn needs_reset(&self) {
        self.0.needs_reset.store(true, Ordering::SeqCst);
        self.raise(CONFIGURATION);
    }

    fn raise(&self, bit: u32) {
        self.0.status.fetch_or(bit, Ordering::SeqCst);
        // The only failure of a non-blocking eventfd is a full counter: an interrupt is pending
        // then, and one more would change nothing.
        let _ = self.0.line.write(1);
    }

    pub(crate) fn status(&self) -> u32 {
        self.0.status.load(Ordering::SeqCst)
    }

    pub(crate) fn acknowledge(&self, bits: u32) {
        self.0.status.fetch_and(!bits, Ordering::SeqCst);
    }

    pub(crate) fn is_reset_needed(&self) -> bool {
        self.0.needs_reset.load(Ordering::SeqCst)
    }

    pub(crate) fn reset(&self) {
        self.0.needs_reset.store(false, Ordering::SeqCst);
        self.0.status.store(0, Ordering::SeqCst);
    }
}
