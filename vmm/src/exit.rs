//! How a machine ends, as the process's exit code and one line.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | the guest powered off, or the API or the console ended it |
//! | 1 | a failure of the monitor itself |
//! | 2 | bad configuration: command line, configuration, kernel or another file |
//! | 3 | `/dev/kvm` is missing, not permitted, or lacks what the monitor needs |
//! | 10 | the guest reset itself (keyboard controller) |
//! | 11 | triple fault |
//! | 12 | KVM could not go on: emulation failure or another internal error |
//! | 128 + n | signal n (SIGTERM, SIGINT, SIGHUP) ended it |

use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Why a machine that ran has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The guest wrote to the power register.
    PowerOff,
    /// `PUT /vm/shutdown`.
    Shutdown,
    /// Ctrl-A X on the console.
    ConsoleLeft,
    /// A signal that asks the process to end.
    Signal(Signal),
    /// The guest asked the keyboard controller for a reset.
    Reset,
    /// The vCPU's exception could not be delivered, nor the double fault after it.
    TripleFault {
        /// Which vCPU.
        vcpu: u8,
    },
    /// `KVM_EXIT_INTERNAL_ERROR`.
    InternalError {
        /// Which vCPU.
        vcpu: u8,
        /// KVM's suberror; 1 is an instruction that it cannot emulate.
        suberror: u32,
        /// Where the vCPU was.
        rip: u64,
    },
    /// KVM returned something that no guest should cause.
    Unexpected {
        /// Which vCPU.
        vcpu: u8,
        /// What it was.
        what: String,
    },
    /// The device thread failed.
    Monitor(String),
}

/// Bad command line, configuration or file.
pub const CODE_CONFIG: i32 = 2;
/// No usable KVM.
pub const CODE_KVM: i32 = 3;

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self {
            Self::PowerOff | Self::Shutdown | Self::ConsoleLeft => 0,
            Self::Monitor(_) => 1,
            Self::Reset => 10,
            Self::TripleFault { .. } => 11,
            Self::InternalError { .. } | Self::Unexpected { .. } => 12,
            // As shells return it for a process that the signal has killed.
            Self::Signal(signal) => 128 + signal.number(),
        }
    }
}

/// A signal that asks a process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: the terminal has gone.
    Hangup,
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Signal {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Hangup, Self::Interrupt, Self::Terminate];

    /// The system's number.
    #[must_use]
    pub const fn number(self) -> libc::c_int {
        match self {
            Self::Hangup => libc::SIGHUP,
            Self::Interrupt => libc::SIGINT,
            Self::Terminate => libc::SIGTERM,
        }
    }

    /// The signal of this number, if it is one of these.
    #[must_use]
    pub fn from_number(number: libc::c_int) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.number() == number)
    }
}

impl std::fmt::Display for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hangup => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PowerOff => write!(f, "the guest powered off"),
            Self::Shutdown => write!(f, "shut down on request"),
            Self::ConsoleLeft => write!(f, "console left"),
            Self::Signal(signal) => write!(f, "ended by {signal}"),
            Self::Reset => write!(f, "the guest reset itself through the keyboard controller"),
            Self::TripleFault { vcpu } => write!(f, "triple fault on vCPU {vcpu}"),
            Self::InternalError { vcpu, suberror: 1, rip } => write!(
                f,
                "KVM internal error, suberror 1, on vCPU {vcpu} at {rip:#x}: it could not emulate \
                 an instruction; this KVM emulates kernel code in software (see `bulkhead doctor`)"
            ),
            Self::InternalError { vcpu, suberror, rip } => {
                write!(f, "KVM internal error, suberror {suberror}, on vCPU {vcpu} at {rip:#x}")
            }
            Self::Unexpected { vcpu, what } => write!(f, "KVM stopped vCPU {vcpu}: {what}"),
            Self::Monitor(what) => write!(f, "the monitor failed: {what}"),
        }
    }
}

/// Where every thread reports the machine's end. The first report counts.
#[derive(Debug)]
pub struct ExitSink {
    exit: Mutex<Option<Exit>>,
    wake: EventFd,
}

impl ExitSink {
    /// An empty sink.
    ///
    /// # Errors
    /// As `eventfd`.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { exit: Mutex::new(None), wake: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)? })
    }

    /// Ends the machine, unless it has ended already.
    pub fn report(&self, exit: Exit) {
        self.slot().get_or_insert(exit);
        // The counter cannot overflow in as many reports as there are threads.
        let _ = self.wake.write(1);
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn get(&self) -> Option<Exit> {
        self.slot().clone()
    }

    /// Becomes readable on the first report.
    #[must_use]
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }

    fn slot(&self) -> MutexGuard<'_, Option<Exit>> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_report_counts() {
        let sink = ExitSink::new().unwrap();
        assert_eq!(sink.get(), None);
        sink.report(Exit::TripleFault { vcpu: 3 });
        sink.report(Exit::Shutdown);
        assert_eq!(sink.get(), Some(Exit::TripleFault { vcpu: 3 }));
        assert_eq!(sink.wake().read().unwrap(), 2);
    }

    #[test]
    fn a_signals_code_is_the_shells() {
        for (number, line) in [(1, "SIGHUP"), (2, "SIGINT"), (15, "SIGTERM")] {
            let exit = Exit::Signal(Signal::from_number(number).unwrap());
            assert_eq!((exit.code(), exit.to_string()), (128 + number, format!("ended by {line}")));
        }
        assert_eq!(Signal::from_number(libc::SIGKILL), None);
    }

    #[test]
    fn an_emulation_failure_names_the_suberror_and_the_cause() {
        let exit = Exit::InternalError { vcpu: 0, suberror: 1, rip: 0xffff };
        assert_eq!(exit.code(), 12);
        let line = exit.to_string();
        assert!(line.contains("suberror 1") && line.contains("emulates kernel code in software"));
    }
}
