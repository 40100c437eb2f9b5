//! The keyboard controller, for its reset line only (`reboot=k`, and ACPI's reset register).
//!
//! Its status always says "data to read, ready for a command". A driver that probes for a keyboard
//! empties the buffer, sees that it never ends, and gives up within a millisecond; one that waits
//! for readiness before the reset command does not wait.

use std::sync::Arc;

use crate::bus::BusDevice;
use crate::exit::{Exit, ExitSink};

const COMMAND: u64 = 4;
const OUTPUT_FULL: u8 = 1;
const PULSE_RESET: u8 = 0xfe;

/// The controller at ports 0x60 to 0x64.
pub struct I8042 {
    exit: Arc<ExitSink>,
}

impl I8042 {
    /// Its ports.
    pub const SIZE: u64 = 5;

    /// Reports the guest's reset to `exit`.
    #[must_use]
    pub fn new(exit: Arc<ExitSink>) -> Self {
        Self { exit }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(if offset == COMMAND { OUTPUT_FULL } else { 0 });
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == COMMAND && data == [PULSE_RESET] {
            self.exit.report(Exit::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reset_command_resets() {
        let exit = Arc::new(ExitSink::new().unwrap());
        let mut controller = I8042::new(exit.clone());
        controller.write(0, &[PULSE_RESET]);
        controller.write(COMMAND, &[0xaa]);
        assert_eq!(exit.get(), None);
        controller.write(COMMAND, &[PULSE_RESET]);
        assert_eq!(exit.get(), Some(Exit::Reset));
    }

    #[test]
    fn it_is_ready_for_a_command_and_never_empty() {
        let mut controller = I8042::new(Arc::new(ExitSink::new().unwrap()));
        let mut status = [0xff];
        controller.read(COMMAND, &mut status);
        assert_eq!(status, [1]);
    }
}
