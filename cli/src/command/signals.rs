//! The signals that ask a command to end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// From its making on, these signals no longer end the process by themselves.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
}

impl Signals {
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The next one. Safe to be dropped while it waits: none is lost.
    pub(super) async fn next(&mut self) -> rustix::process::Signal {
        use rustix::process::Signal as Name;
        tokio::select! {
            _ = self.interrupt.recv() => Name::INT,
            _ = self.terminate.recv() => Name::TERM,
            _ = self.hangup.recv() => Name::HUP,
            _ = self.quit.recv() => Name::QUIT,
        }
    }
}

/// What a shell returns for a process that this signal ended.
pub(super) fn exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}
