//! The MMIO transport's registers (§4.2.2) and the initialization sequence behind them (§3.1).
//!
//! An access that the driver must not make (a wrong width, an unknown or misplaced register, a
//! step out of order) changes nothing, and reads as zero.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use virtio_queue::QueueState;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::{BusDevice, lock};
use crate::memory::GuestMemory;
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::{QueueError, VirtQueue};
use crate::virtio::worker::Worker;
use crate::virtio::{Activation, DeviceType, VirtioDevice, feature};

/// Offset of `QueueNotify`: an ioeventfd there, with the queue's index as data match, spares the exit
/// to the monitor.
pub const QUEUE_NOTIFY: u64 = 0x50;

/// "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
/// Not a legacy device.
const VERSION: u32 = 2;
/// "BKHD", little-endian.
const VENDOR: u32 = 0x4448_4b42;
/// Where the device's configuration space starts.
const CONFIG: u64 = 0x100;

/// Bits of the device status register (§2.1).
mod status {
    pub(super) const ACKNOWLEDGE: u32 = 1;
    pub(super) const DRIVER: u32 = 2;
    pub(super) const DRIVER_OK: u32 = 4;
    pub(super) const FEATURES_OK: u32 = 8;
    pub(super) const NEEDS_RESET: u32 = 64;
    pub(super) const FAILED: u32 = 128;
    pub(super) const ALL: u32 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
}

/// What a driver has written of one queue.
#[derive(Debug, Clone, Copy, Default)]
struct QueueRegisters {
    size: u32,
    descriptors: u64,
    available: u64,
    used: u64,
    ready: bool,
}

/// A virtio device's registers, for the bus.
pub struct MmioTransport {
    device: Arc<Mutex<dyn VirtioDevice>>,
    memory: Arc<GuestMemory>,
    interrupt: Interrupt,
    notify: Vec<EventFd>,
    control: EventFd,
    active: Arc<AtomicBool>,
    kind: DeviceType,
    features: u64,
    sizes: Vec<u16>,
    status: u32,
    driver_features: u64,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
    queues: Vec<QueueRegisters>,
}

impl MmioTransport {
    /// The two halves of `device`: its registers for the bus, and its work for the event loop.
    ///
    /// # Errors
    /// When an eventfd cannot be made.
    pub fn new(
        device: Arc<Mutex<dyn VirtioDevice>>,
        memory: GuestMemory,
        interrupt: Interrupt,
    ) -> io::Result<(Self, Worker)> {
        let (kind, features, sizes) = {
            let device = lock(&device);
            let features = device.features() | feature::VERSION_1;
            (device.device_type(), features, device.queue_sizes().to_vec())
        };
        let mut notify = Vec::with_capacity(sizes.len());
        let mut queue_events = Vec::with_capacity(sizes.len());
        for _ in &sizes {
            let event = EventFd::new(EFD_NONBLOCK)?;
            queue_events.push(event.try_clone()?);
            notify.push(event);
        }
        let control = EventFd::new(EFD_NONBLOCK)?;
        let active = Arc::new(AtomicBool::new(false));
        let worker = Worker::new(
            device.clone(),
            interrupt.clone(),
            queue_events,
            control.try_clone()?,
            active.clone(),
        );
        let transport = Self {
            device,
            memory: Arc::new(memory),
            interrupt,
            notify,
            control,
            active,
            kind,
            features,
            queues: vec![QueueRegisters::default(); sizes.len()],
            sizes,
            status: 0,
            driver_features: 0,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
        };
        Ok((transport, worker))
    }

    /// The queues' eventfds, in order, for KVM to write on a store to [`QUEUE_NOTIFY`].
    #[must_use]
    pub fn queue_events(&self) -> &[EventFd] {
        &self.notify
    }

    /// The device's interrupt, whose line is an irqfd.
    #[must_use]
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    fn read_register(&self, offset: u64) -> u32 {
        let queue = self.selected();
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => self.kind as u32,
            0x0c => VENDOR,
            0x10 => match self.device_features_select {
                0 => low(self.features),
                1 => high(self.features),
                _ => 0,
            },
            0x34 => self.sizes.get(self.queue_select as usize).map_or(0, |size| u32::from(*size)),
            0x44 => queue.map_or(0, |queue| u32::from(queue.ready)),
            0x60 => self.interrupt.status(),
            0x70 => self.status(),
            // No shared memory regions: their lengths and bases read as −1 (§4.2.2).
            0xb0..=0xbc => u32::MAX,
            0xfc => lock(&self.device).config_generation(),
            _ => 0,
        }
    }

    fn status(&self) -> u32 {
        if self.interrupt.is_reset_needed() {
            self.status | status::NEEDS_RESET
        } else {
            self.status
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            0x14 => self.device_features_select = value,
            0x20 => self.set_driver_features(value),
            0x24 => self.driver_features_select = value,
            0x30 => self.queue_select = value,
            0x38 => self.configure(|queue| queue.size = value),
            0x44 => self.set_ready(value),
            QUEUE_NOTIFY => self.notify(value),
            0x64 => self.interrupt.acknowledge(value),
            0x70 => self.set_status(value),
            0x80 => self.configure(|queue| set_low(&mut queue.descriptors, value)),
            0x84 => self.configure(|queue| set_high(&mut queue.descriptors, value)),
            0x90 => self.configure(|queue| set_low(&mut queue.available, value)),
            0x94 => self.configure(|queue| set_high(&mut queue.available, value)),
            0xa0 => self.configure(|queue| set_low(&mut queue.used, value)),
            0xa4 => self.configure(|queue| set_high(&mut queue.used, value)),
            _ => {}
        }
    }

    fn selected(&self) -> Option<&QueueRegisters> {
        self.queues.get(self.queue_select as usize)
    }

    /// Whether queues may be set up: the features are agreed on, and the device does not run yet.
    fn is_configurable(&self) -> bool {
        self.status & (status::FEATURES_OK | status::DRIVER_OK | status::FAILED)
            == status::FEATURES_OK
    }

    /// Changes the selected queue, which must not be in use (§4.2.2.2).
    fn configure(&mut self, change: impl FnOnce(&mut QueueRegisters)) {
        let configurable = self.is_configurable();
        if let Some(queue) = self.queues.get_mut(self.queue_select as usize)
            && configurable
            && !queue.ready
        {
            change(queue);
        }
    }

    fn set_ready(&mut self, value: u32) {
        let configurable = self.is_configurable();
        if let Some(queue) = self.queues.get_mut(self.queue_select as usize)
            && configurable
        {
            queue.ready = value == 1;
        }
    }

    fn set_driver_features(&mut self, value: u32) {
        if self.status & (status::DRIVER | status::FEATURES_OK | status::FAILED) != status::DRIVER {
            return;
        }
        match self.driver_features_select {
            0 => set_low(&mut self.driver_features, value),
            1 => set_high(&mut self.driver_features, value),
            // A feature that no device has can only be refused; bit 63 is one.
            _ if value != 0 => self.driver_features |= 1 << 63,
            _ => {}
        }
    }

    /// The way of a notification that no ioeventfd has caught.
    fn notify(&self, index: u32) {
        if self.status & status::DRIVER_OK != 0
            && let Some(event) = self.notify.get(index as usize)
        {
            // Fails only when the counter is full: then it is notified already.
            let _ = event.write(1);
        }
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        // The driver only ever adds bits, and steps need the ones before (§2.1.1, §3.1.1).
        let new = value & status::ALL;
        if self.status & !new != 0 || value & !(status::ALL | status::NEEDS_RESET) != 0 {
            return;
        }
        let added = new & !self.status;
        let needs = |step, before| added & step == 0 || new & before == before;
        let in_order = needs(status::DRIVER, status::ACKNOWLEDGE)
            && needs(status::FEATURES_OK, status::DRIVER)
            && needs(status::DRIVER_OK, status::FEATURES_OK);
        if !in_order || (self.status & status::FAILED != 0) {
            return;
        }
        self.status |= added & !(status::FEATURES_OK | status::DRIVER_OK);
        if added & status::FEATURES_OK != 0 {
            let acceptable = self.driver_features & !self.features == 0
                && self.driver_features & feature::VERSION_1 != 0;
            if !acceptable {
                return;
            }
            self.status |= status::FEATURES_OK;
        }
        if added & status::DRIVER_OK != 0 {
            self.status |= status::DRIVER_OK;
            self.activate();
        }
    }

    fn activate(&mut self) {
        let result = self.build_queues().map_err(|error| error.to_string()).and_then(|queues| {
            let activation = Activation {
                queues,
                features: self.driver_features,
                interrupt: self.interrupt.clone(),
            };
            let mut device = lock(&self.device);
            device.activate(activation).map_err(|error| error.to_string())?;
            self.active.store(true, Ordering::SeqCst);
            Ok(())
        });
        match result {
            Ok(()) => self.wake_worker(),
            Err(error) => {
                eprintln!("bulkhead-vmm: {:?} device does not start: {error}", self.kind);
                self.interrupt.needs_reset();
            }
        }
    }

    fn build_queues(&self) -> Result<Vec<VirtQueue>, QueueError> {
        let mut queues = Vec::with_capacity(self.queues.len());
        for (index, (registers, max_size)) in self.queues.iter().zip(&self.sizes).enumerate() {
            let state = QueueState {
                max_size: *max_size,
                next_avail: 0,
                next_used: 0,
                event_idx_enabled: self.driver_features & feature::EVENT_IDX != 0,
                // 0 is refused as no other size that fits 16 bits.
                size: u16::try_from(registers.size).unwrap_or(0),
                ready: registers.ready,
                desc_table: registers.descriptors,
                avail_ring: registers.available,
                used_ring: registers.used,
            };
            let memory = self.memory.clone();
            queues.push(VirtQueue::new(index, state, memory, self.interrupt.clone())?);
        }
        Ok(queues)
    }

    /// Back to the start, whatever was going on (§4.2.3.1). When this returns, the device touches
    /// the driver's memory no more.
    fn reset(&mut self) {
        if self.status & status::DRIVER_OK != 0 {
            let mut device = lock(&self.device);
            self.active.store(false, Ordering::SeqCst);
            device.reset();
            drop(device);
            self.wake_worker();
        }
        self.status = 0;
        self.driver_features = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.queue_select = 0;
        self.queues.fill(QueueRegisters::default());
        self.interrupt.reset();
    }

    fn wake_worker(&self) {
        // Fails only when the counter is full: then the worker has been woken already.
        let _ = self.control.write(1);
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIG) {
            lock(&self.device).read_config(offset, data);
        } else if let Ok(word) = <&mut [u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
        {
            *word = self.read_register(offset).to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        // No device here has a writable configuration field.
        if let Ok(word) = <[u8; 4]>::try_from(data)
            && offset < CONFIG
            && offset.is_multiple_of(4)
        {
            self.write_register(offset, u32::from_le_bytes(word));
        }
    }
}

impl std::fmt::Debug for MmioTransport {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("MmioTransport")
            .field("kind", &self.kind)
            .field("status", &self.status)
            .field("line", &self.interrupt.line().as_raw_fd())
            .finish_non_exhaustive()
    }
}

const fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

const fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn set_low(register: &mut u64, value: u32) {
    *register = *register & !0xffff_ffff | u64::from(value);
}

fn set_high(register: &mut u64, value: u32) {
    *register = *register & 0xffff_ffff | u64::from(value) << 32;
}

#[cfg(test)]
mod tests;
