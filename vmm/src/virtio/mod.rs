//! virtio 1.2 devices behind the MMIO transport (§4.2, version 2 only).
//!
//! A device is two halves around one lock:
//!
//! - [`mmio::MmioTransport`] is the register machine. vCPU threads call it through the bus; it
//!   negotiates features, takes the queues' addresses and starts and resets the device. It holds the
//!   device's lock only for configuration reads, activation and reset, never for an interrupt's
//!   acknowledgement, so a vCPU does not wait for a disk.
//! - [`worker::Worker`] is the event loop's half: it waits for queue notifications and calls
//!   the [`VirtioDevice`], which does all work on queues there.
//!
//! Everything a driver writes is hostile. Three places read it: [`mmio`] registers, [`queue`]
//! rings and descriptors, and each device its request headers, by value through [`buffers`]. None
//! of them panics on it, allocates by a number in it, or does unbounded work for one event.
//!
//! A driver that breaks the ring protocol itself (an available index that runs ahead by more than
//! the queue, a head that is no descriptor) has its device stopped with `DEVICE_NEEDS_RESET` (§2.1.1).
//! A chain that is malformed is completed unused, with length 0, and counted.

pub mod block;
pub mod buffers;
pub mod entropy;
#[cfg(any(test, feature = "hostile-driver"))]
pub mod hostile;
pub mod interrupt;
pub mod mmio;
pub mod net;
pub mod queue;
#[cfg(any(test, feature = "hostile-driver"))]
pub(crate) mod testing;
pub mod vsock;
pub mod worker;

use std::io;

use crate::event_loop::{EventSet, Sources};
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::{QueueError, VirtQueue};

/// Feature bits that belong to the ring and the transport, not to a device (§6).
pub mod feature {
    /// `VIRTIO_F_INDIRECT_DESC`: descriptors may name tables of descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// `VIRTIO_F_EVENT_IDX`: notifications are suppressed by index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// `VIRTIO_F_VERSION_1`: not a legacy device. Mandatory here.
    pub const VERSION_1: u64 = 1 << 32;
}

/// A kind of device (§5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceType {
    /// §5.1.
    Net = 1,
    /// §5.2.
    Block = 2,
    /// §5.4.
    Entropy = 4,
    /// §5.10.
    Vsock = 19,
}

/// What a driver has set up when it says `DRIVER_OK`.
pub struct Activation {
    /// The queues in the device's order; all are ready and lie in guest memory.
    pub queues: Vec<VirtQueue>,
    /// The features that device and driver agreed on.
    pub features: u64,
    /// How to interrupt the driver.
    pub interrupt: Interrupt,
}

/// Why a device could not be started; the driver sees `DEVICE_NEEDS_RESET`.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The host refused something.
    #[error("cannot {action}: {error}")]
    Host {
        /// What was tried.
        action: &'static str,
        /// The host's reason.
        error: io::Error,
    },
    /// The transport handed over another number of queues than the device has.
    #[error("the device was activated with {0} queues")]
    Queues(usize),
}

/// Whether a queue's work was finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The queue is empty, or waits for an event that the device has registered.
    Done,
    /// The budget of one event is used up: come back after the others.
    More,
}

/// A counter's name, in snake case and with its unit, and its value since the monitor started.
pub type Metric = (&'static str, u64);

/// A device without its transport.
///
/// `activate`, `reset` and the configuration space are called on vCPU threads, the rest on the
/// thread of its event loop; the lock around the device keeps them apart. A device is inactive until
/// `activate` and again after `reset`; in between no queue event reaches it.
pub trait VirtioDevice: Send {
    /// The kind of device.
    fn device_type(&self) -> DeviceType;

    /// What the device offers. [`feature::VERSION_1`] is added by the transport.
    fn features(&self) -> u64;

    /// The largest size of each queue: a power of two up to 32768.
    fn queue_sizes(&self) -> &[u16];

    /// Reads the configuration space at `offset`. Bytes past its end stay as they are: zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Counts up when the configuration space has changed (§2.5).
    fn config_generation(&self) -> u32 {
        0
    }

    /// Takes the queues and starts. The queues' first notifications come as queue events.
    ///
    /// # Errors
    /// When the host refuses what the negotiated features need. The device stays inactive.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Gives the queues up and forgets the driver. What needs [`Sources`] waits for
    /// [`VirtioDevice::update_sources`], which follows.
    fn reset(&mut self);

    /// Called on the event loop after `activate` and `reset`, to watch or no longer watch the
    /// descriptors that the device has beside its queues. Tokens below 256 are the worker's.
    fn update_sources(&mut self, _sources: &mut Sources<'_>) {}

    /// The driver has notified queue `index`, or the last event ended with [`Progress::More`].
    ///
    /// # Errors
    /// When the ring itself is broken; the worker then asks the driver for a reset.
    fn queue_event(
        &mut self,
        index: usize,
        sources: &mut Sources<'_>,
    ) -> Result<Progress, QueueError>;

    /// A descriptor added in [`VirtioDevice::update_sources`] is ready. When there is more to do
    /// than one event allows, all queues' events follow.
    ///
    /// # Errors
    /// As [`VirtioDevice::queue_event`].
    fn source_event(
        &mut self,
        _token: u32,
        _events: EventSet,
        _sources: &mut Sources<'_>,
    ) -> Result<Progress, QueueError> {
        Ok(Progress::Done)
    }

    /// The ring is broken: do nothing until the next reset.
    fn halt(&mut self, sources: &mut Sources<'_>);

    /// Counters for `GET /metrics`.
    fn metrics(&self) -> Vec<Metric>;
}

/// Copies from a configuration space `space` at `offset` into `data`, as far as it goes.
pub(crate) fn read_config_space(space: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|offset| space.get(offset..));
    for (to, from) in data.iter_mut().zip(rest.unwrap_or_default()) {
        *to = *from;
    }
}
