//! Signals that ask the process to end: taken on the event loop (`signalfd`), so that it ends as it does
//! for every other reason, with the terminal as it was.

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;

use crate::event_loop::{EventHandler, EventSet, Sources};
use crate::exit::{Exit, ExitSink, Signal};

/// Ends the machine on SIGTERM, SIGINT or SIGHUP.
pub struct Termination {
    signals: File,
    exit: Arc<ExitSink>,
}

impl Termination {
    /// Takes the signals away from this thread and those that it starts from now on: so this comes
    /// before them. What the process was started to ignore (`nohup`) stays ignored.
    ///
    /// # Errors
    /// As `signalfd`.
    pub fn new(exit: Arc<ExitSink>) -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: `sigemptyset` initialises the set, and cannot fail.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for signal in Signal::ALL.map(Signal::number) {
            if !is_ignored(signal)? {
                // SAFETY: the set is initialised, the signal a valid one.
                unsafe { libc::sigaddset(&raw mut set, signal) };
            }
        }
        // SAFETY: the set lives for the call; the old mask is not asked for.
        let error =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: the set lives for the call.
        let fd = unsafe { libc::signalfd(-1, &raw const set, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above returned a new descriptor, which nothing else owns.
        Ok(Self { signals: unsafe { File::from_raw_fd(fd) }, exit })
    }
}

fn is_ignored(signal: libc::c_int) -> io::Result<bool> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action the call only writes the present one.
    if unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above has succeeded, so it has written the action.
    Ok(unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN)
}

impl EventHandler for Termination {
    fn register(&mut self, sources: &mut Sources<'_>) -> io::Result<()> {
        sources.add(self.signals.as_raw_fd(), 0, EventSet::IN)
    }

    fn handle(&mut self, _: u32, _: EventSet, _: &mut Sources<'_>) {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        // An event without a signal is stale.
        if self.signals.read_exact(&mut info).is_ok() {
            // `ssi_signo` comes first.
            let [a, b, c, d, ..] = info;
            if let Some(signal) = Signal::from_number(libc::c_int::from_ne_bytes([a, b, c, d])) {
                self.exit.report(Exit::Signal(signal));
            }
        }
    }
}
