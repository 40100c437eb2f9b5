//! The power switch: the sleep control register of ACPI's reduced hardware (ACPI 6.5, 4.8.3.7).
//!
//! A kernel with ACPI finds it in the FADT. A guest without ACPI writes [`POWER_OFF`] to
//! [`crate::layout::POWER_PORT`] itself.

use std::sync::Arc;

use crate::bus::BusDevice;
use crate::exit::{Exit, ExitSink};
use crate::layout::POWER_OFF;

/// Sleep control and, one port above, sleep status.
pub struct Power {
    exit: Arc<ExitSink>,
}

impl Power {
    /// Its ports.
    pub const SIZE: u64 = 2;

    /// Reports the guest's power-off to `exit`.
    #[must_use]
    pub fn new(exit: Arc<ExitSink>) -> Self {
        Self { exit }
    }
}

impl BusDevice for Power {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == 0 && data == [POWER_OFF] {
            self.exit.report(Exit::PowerOff);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_soft_off_state_powers_off() {
        let exit = Arc::new(ExitSink::new().unwrap());
        let mut power = Power::new(exit.clone());
        power.write(0, &[5 << 2]);
        power.write(1, &[POWER_OFF]);
        assert_eq!(exit.get(), None);
        power.write(0, &[POWER_OFF]);
        assert_eq!(exit.get(), Some(Exit::PowerOff));
    }
}
