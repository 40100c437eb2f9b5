//! The boot timer: a guest stores [`BOOT_TIMER_MAGIC`] to one address when it has reached userspace.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::bus::BusDevice;
use crate::layout::BOOT_TIMER_MAGIC;

/// How long the guest took from the start of the process; empty until it has said so.
pub type BootTime = Arc<OnceLock<Duration>>;

/// The register.
pub struct BootTimer {
    start: Instant,
    time: BootTime,
}

impl BootTimer {
    /// Measures from `start`, into `time`.
    #[must_use]
    pub fn new(start: Instant, time: BootTime) -> Self {
        Self { start, time }
    }
}

impl BusDevice for BootTimer {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == 0 && data.first() == Some(&BOOT_TIMER_MAGIC) {
            let elapsed = self.start.elapsed();
            if self.time.set(elapsed).is_ok() {
                eprintln!("bulkhead-vmm: guest booted in {:.1} ms", elapsed.as_secs_f64() * 1e3);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_magic_byte_stops_the_clock() {
        let time = BootTime::default();
        let mut timer = BootTimer::new(Instant::now(), time.clone());
        timer.write(0, &[1]);
        timer.write(1, &[BOOT_TIMER_MAGIC]);
        assert_eq!(time.get(), None);
        timer.write(0, &[BOOT_TIMER_MAGIC]);
        let first = *time.get().unwrap();
        timer.write(0, &[BOOT_TIMER_MAGIC]);
        assert_eq!(time.get(), Some(&first));
    }
}
