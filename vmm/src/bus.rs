//! The address buses: which device answers at which guest-physical address or I/O port.
//!
//! A bus is complete before the first vCPU runs and is never changed after, so vCPU threads share
//! it without a lock; each device has one of its own. What no device answers reads as all ones and
//! swallows writes, as on a PC.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A device with registers.
///
/// Called on vCPU threads while the vCPU is stopped in an exit: an access must be short and must not
/// wait. Offsets and lengths are the guest's choice (1, 2, 4 or 8 bytes at any offset within the
/// device's range), so an implementation answers each of them.
pub trait BusDevice: Send {
    /// Reads `data.len()` bytes at `offset` from the device's base into `data`, which the bus has
    /// filled with ones.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Writes `data` at `offset` from the device's base.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Locks a device. Poison is ignored: a panic ends the process in the shipped build, and in a test
/// the panic itself is what should be seen.
pub fn lock<T: ?Sized>(device: &Mutex<T>) -> MutexGuard<'_, T> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a device could not be placed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// The range is empty or passes the end of the address space.
    #[error("device range {base:#x}+{size:#x} is empty or passes the end of the bus")]
    InvalidRange {
        /// First address.
        base: u64,
        /// Bytes.
        size: u64,
    },
    /// Another device answers there.
    #[error("device range {base:#x}+{size:#x} overlaps another device's")]
    Overlap {
        /// First address.
        base: u64,
        /// Bytes.
        size: u64,
    },
}

struct Slot {
    base: u64,
    last: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// A set of devices, sorted by address.
#[derive(Default)]
pub struct Bus {
    slots: Vec<Slot>,
}

impl Bus {
    /// A bus without devices.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `device` answer for `size` addresses from `base` on.
    ///
    /// # Errors
    /// When the range is empty, overflows or is taken.
    pub fn insert(
        &mut self,
        base: u64,
        size: u64,
        device: Arc<Mutex<dyn BusDevice>>,
    ) -> Result<(), BusError> {
        let last = size
            .checked_sub(1)
            .and_then(|length| base.checked_add(length))
            .ok_or(BusError::InvalidRange { base, size })?;
        let index = self.slots.partition_point(|slot| slot.last < base);
        if self.slots.get(index).is_some_and(|slot| slot.base <= last) {
            return Err(BusError::Overlap { base, size });
        }
        self.slots.insert(index, Slot { base, last, device });
        Ok(())
    }

    /// Reads from the device at `address`. Returns whether there is one; without it, `data` is all
    /// ones.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        data.fill(0xff);
        self.find(address, data.len())
            .map(|(device, offset)| lock(device).read(offset, data))
            .is_some()
    }

    /// Writes to the device at `address`. Returns whether there is one.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        self.find(address, data.len())
            .map(|(device, offset)| lock(device).write(offset, data))
            .is_some()
    }

    fn find(&self, address: u64, length: usize) -> Option<(&Mutex<dyn BusDevice>, u64)> {
        let last = address.checked_add((length as u64).checked_sub(1)?)?;
        let slot = self.slots.get(self.slots.partition_point(|slot| slot.last < address))?;
        (slot.base <= address && last <= slot.last).then(|| (&*slot.device, address - slot.base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder {
        writes: Vec<(u64, Vec<u8>)>,
    }

    impl BusDevice for Recorder {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }

        fn write(&mut self, offset: u64, data: &[u8]) {
            self.writes.push((offset, data.to_vec()));
        }
    }

    fn bus() -> (Bus, Arc<Mutex<Recorder>>) {
        let device = Arc::new(Mutex::new(Recorder::default()));
        let mut bus = Bus::new();
        bus.insert(0x1000, 0x10, device.clone()).unwrap();
        (bus, device)
    }

    #[test]
    fn accesses_reach_the_device_by_offset() {
        let (bus, device) = bus();
        let mut data = [0; 2];
        assert!(bus.read(0x1004, &mut data));
        assert_eq!(data, [4, 4]);
        assert!(bus.write(0x100f, &[9]));
        assert_eq!(device.lock().unwrap().writes, [(0xf, vec![9])]);
    }

    #[test]
    fn nobody_answers_outside_or_across_an_edge() {
        let (bus, _device) = bus();
        for (address, length) in [(0xfff, 1), (0x1010, 1), (0x100f, 2), (0xfff, 2), (u64::MAX, 8)] {
            let mut data = vec![0; length];
            assert!(!bus.read(address, &mut data), "{address:#x}");
            assert!(data.iter().all(|byte| *byte == 0xff));
            assert!(!bus.write(address, &data));
        }
        assert!(!bus.read(0x1000, &mut []));
    }

    #[test]
    fn ranges_that_overlap_or_overflow_are_refused() {
        let (mut bus, device) = bus();
        for (base, size) in [(0x1000, 1), (0xfff, 2), (0x100f, 1), (0, 0x2000), (0x1008, 0x100)] {
            assert_eq!(
                bus.insert(base, size, device.clone()),
                Err(BusError::Overlap { base, size }),
                "{base:#x}"
            );
        }
        assert!(matches!(
            bus.insert(u64::MAX, 2, device.clone()),
            Err(BusError::InvalidRange { .. })
        ));
        assert!(matches!(bus.insert(0, 0, device.clone()), Err(BusError::InvalidRange { .. })));
        bus.insert(0xff0, 0x10, device.clone()).unwrap();
        bus.insert(0x1010, 1, device).unwrap();
        assert!(bus.read(0x1010, &mut [0]));
    }
}
