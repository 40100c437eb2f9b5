//! The serial port `ttyS0`: a 16550A on [`SERIAL_PORT`](crate::layout::SERIAL_PORT).

use std::io::{self, Write};

use vm_superio::serial::{Error, SerialEvents};
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;

/// Its interrupt line, an irqfd.
pub struct Line(pub EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells the console that the guest has read all input.
pub struct Drained(pub EventFd);

impl SerialEvents for Drained {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        // Fails only when the counter is full, and then the event is pending anyway.
        let _ = self.0.write(1);
    }
}

/// The port and where its output goes.
pub struct SerialPort(Serial<Line, Drained, Box<dyn Write + Send>>);

impl SerialPort {
    /// Its ports.
    pub const SIZE: u64 = 8;

    /// A port that writes to `output`.
    #[must_use]
    pub fn new(line: Line, drained: Drained, output: Box<dyn Write + Send>) -> Self {
        Self(Serial::with_events(line, drained, output))
    }

    /// Hands input to the guest; returns how many bytes it had room for.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        let room = self.0.fifo_capacity().min(bytes.len());
        match self.0.enqueue_raw_bytes(&bytes[..room]) {
            Ok(taken) => taken,
            // The bytes are in the buffer; only the interrupt was lost, and more input brings one.
            Err(Error::Trigger(_)) => room,
            Err(_) => 0,
        }
    }
}

impl BusDevice for SerialPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            *byte = self.0.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            // Output that the host does not take is lost, as on a line without a listener.
            let _ = self.0.write(offset, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn port() -> (SerialPort, Sink, EventFd, EventFd) {
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let (line, drained, sink) = (event(), event(), Sink::default());
        let port = SerialPort::new(
            Line(line.try_clone().unwrap()),
            Drained(drained.try_clone().unwrap()),
            Box::new(sink.clone()),
        );
        (port, sink, line, drained)
    }

    #[test]
    fn output_reaches_the_sink_and_wide_accesses_are_ignored() {
        let (mut port, sink, ..) = port();
        port.write(0, b"a");
        port.write(0, b"bc");
        port.write(0x1000, b"d");
        assert_eq!(*sink.0.lock().unwrap(), b"a");
        let mut wide = [0xff; 4];
        port.read(0, &mut wide);
        assert_eq!(wide, [0xff; 4]);
    }

    #[test]
    fn input_is_bounded_by_the_fifo_and_its_end_is_told() {
        let (mut port, _, line, drained) = port();
        port.write(1, &[1]);
        assert_eq!(port.input(&[b'x'; 100]), 64);
        assert_eq!(port.input(b"y"), 0);
        assert!(line.read().is_ok());
        let mut byte = [0];
        for _ in 0..64 {
            assert!(drained.read().is_err());
            port.read(0, &mut byte);
            assert_eq!(byte, *b"x");
        }
        assert!(drained.read().is_ok());
    }
}
