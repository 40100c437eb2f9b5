//! The half of a device that an event loop serves: queue notifications in, calls of the device out.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use vmm_sys_util::eventfd::EventFd;

use crate::bus::lock;
use crate::event_loop::{EventHandler, EventLoop, EventSet, Sources};
use crate::exit::{Exit, ExitSink};
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::QueueError;
use crate::virtio::{Progress, VirtioDevice};

/// First token that a device may use for descriptors of its own.
pub const DEVICE_TOKENS: u32 = 256;
/// The transport has activated or reset the device.
const CONTROL: u32 = DEVICE_TOKENS - 1;

/// Lines printed of one device's broken rings: a guest can break them as often as it likes.
const MAX_REPORTS: u32 = 8;

/// Bytes of the stack of a device's own thread.
const STACK: usize = 128 << 10;

/// Serves one device on an event loop. Made by [`crate::virtio::mmio::MmioTransport::new`].
pub struct Worker {
    device: Arc<Mutex<dyn VirtioDevice>>,
    interrupt: Interrupt,
    queues: Vec<EventFd>,
    control: EventFd,
    /// Whether the device is between activation and reset. Written under the device's lock.
    active: Arc<AtomicBool>,
    reports: u32,
}

impl Worker {
    pub(super) fn new(
        device: Arc<Mutex<dyn VirtioDevice>>,
        interrupt: Interrupt,
        queues: Vec<EventFd>,
        control: EventFd,
        active: Arc<AtomicBool>,
    ) -> Self {
        Self { device, interrupt, queues, control, active, reports: 0 }
    }

    /// Serves the device on an event loop and a thread of its own, called `name`: for a device whose
    /// work may block.
    ///
    /// # Errors
    /// When the host has no descriptor or thread for it.
    pub fn serve_alone(self, name: &str, exit: Arc<ExitSink>) -> io::Result<()> {
        let mut event_loop = EventLoop::new()?;
        event_loop.add(Box::new(self))?;
        let serve = move || {
            loop {
                if let Err(error) = event_loop.run_once(-1) {
                    return exit.report(Exit::Monitor(error.to_string()));
                }
            }
        };
        thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(serve).map(drop)
    }

    fn serve(
        &self,
        token: u32,
        events: EventSet,
        sources: &mut Sources<'_>,
    ) -> Result<(), QueueError> {
        if token == CONTROL {
            drain(&self.control);
            let mut device = lock(&self.device);
            device.update_sources(sources);
            return Ok(());
        }
        if token >= DEVICE_TOKENS {
            let mut device = lock(&self.device);
            if self.active.load(Ordering::SeqCst) {
                let result = device.source_event(token, events, sources);
                if matches!(result, Ok(Progress::More)) {
                    self.queues.iter().for_each(raise);
                }
                return self.check(&mut *device, result, sources);
            }
            return Ok(());
        }
        let Some(event) = self.queues.get(token as usize) else { return Ok(()) };
        // Before the work: a notification that comes while it is done must lead to another round.
        drain(event);
        let mut device = lock(&self.device);
        if !self.active.load(Ordering::SeqCst) {
            return Ok(());
        }
        let result = device.queue_event(token as usize, sources);
        if matches!(result, Ok(Progress::More)) {
            raise(event);
        }
        self.check(&mut *device, result, sources)
    }

    fn check(
        &self,
        device: &mut dyn VirtioDevice,
        result: Result<Progress, QueueError>,
        sources: &mut Sources<'_>,
    ) -> Result<(), QueueError> {
        if result.is_err() {
            device.halt(sources);
            self.active.store(false, Ordering::SeqCst);
            self.interrupt.needs_reset();
        }
        result.map(|_| ())
    }
}

impl EventHandler for Worker {
    fn register(&mut self, sources: &mut Sources<'_>) -> io::Result<()> {
        for (index, event) in (0..).zip(&self.queues) {
            sources.add(event.as_raw_fd(), index, EventSet::IN)?;
        }
        sources.add(self.control.as_raw_fd(), CONTROL, EventSet::IN)
    }

    fn handle(&mut self, token: u32, events: EventSet, sources: &mut Sources<'_>) {
        if let Err(error) = self.serve(token, events, sources)
            && self.reports < MAX_REPORTS
        {
            self.reports += 1;
            let device = lock(&self.device).device_type();
            eprintln!("bulkhead-vmm: {device:?} device stopped until the guest resets it: {error}");
        }
    }
}

/// Makes an eventfd ready.
fn raise(event: &EventFd) {
    // Fails only when the counter is full: then it is ready already.
    let _ = event.write(1);
}

/// Resets an eventfd's counter.
fn drain(event: &EventFd) {
    // Fails only when the counter is zero already: the event was stale.
    let _ = event.read();
}
