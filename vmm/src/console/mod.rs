//! The console: what is at the other end of the serial port.
//!
//! Output is written by the vCPU that produces it, as far as that does not block ([`output`]). Input is
//! read on the device thread; it waits in the monitor, and the source is not read on, while the guest
//! has not taken what it has.

mod output;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use crate::bus::lock;
use crate::devices::serial::SerialPort;
use crate::event_loop::{EventHandler, EventSet, Sources};
use crate::exit::{Exit, ExitSink};

use self::output::Output;

const DRAINED: u32 = 0;
const STDIN: u32 = 1;
const LISTENER: u32 = 2;
const WAITING: u32 = 3;
const OUTPUT: u32 = 4;
const FIRST_CLIENT: u32 = 5;
const MAX_CLIENTS: usize = 16;
const CHUNK: usize = 256;
/// Ctrl-A, and what follows it to leave.
const ESCAPE: u8 = 1;
const LEAVE: [u8; 2] = *b"xX";

/// Where the console goes, with everything open.
#[derive(Debug)]
pub enum Backend {
    /// Nowhere.
    Off,
    /// Standard input and output.
    Stdio,
    /// A file that output is appended to.
    File(File),
    /// A listening socket.
    Socket(UnixListener),
}

type Clients = Arc<Mutex<BTreeMap<u32, UnixStream>>>;

/// Output to all clients of the socket. One that does not read loses output, never holds up the guest.
struct Broadcast(Clients);

impl Write for Broadcast {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for client in lock(&self.0).values_mut() {
            let _ = client.write(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The console's input side, for the event loop.
pub struct Console {
    backend: Backend,
    clients: Clients,
    /// Where standard output or a file gets what the guest writes.
    output: Option<Output>,
    port: Option<Arc<Mutex<SerialPort>>>,
    drained: EventFd,
    exit: Arc<ExitSink>,
    pending: Vec<u8>,
    escaped: bool,
    next_client: u32,
}

impl Console {
    /// The console over `backend`. `drained` is what the serial port signals.
    ///
    /// # Errors
    /// When the host has no more file descriptors.
    pub fn new(backend: Backend, drained: EventFd, exit: Arc<ExitSink>) -> io::Result<Self> {
        let file = match &backend {
            Backend::Off | Backend::Socket(_) => None,
            Backend::Stdio => {
                Some(std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned()?.into())
            }
            Backend::File(file) => Some(file.try_clone()?),
        };
        Ok(Self {
            backend,
            output: file.map(Output::new).transpose()?,
            clients: Clients::default(),
            port: None,
            drained,
            exit,
            pending: Vec::new(),
            escaped: false,
            next_client: FIRST_CLIENT,
        })
    }

    /// Where the serial port writes.
    #[must_use]
    pub fn output(&self) -> Box<dyn Write + Send> {
        match (&self.output, &self.backend) {
            (Some(output), _) => Box::new(output.clone()),
            (None, Backend::Socket(_)) => Box::new(Broadcast(self.clients.clone())),
            (None, _) => Box::new(io::sink()),
        }
    }

    /// Where input goes.
    pub fn connect(&mut self, port: Arc<Mutex<SerialPort>>) {
        self.port = Some(port);
    }

    fn feed(&mut self) {
        if let Some(port) = &self.port {
            let taken = lock(port).input(&self.pending);
            self.pending.drain(..taken);
        }
    }

    /// Reads one chunk of `source`; returns whether it has ended.
    fn read(&mut self, mut source: impl Read) -> bool {
        let mut chunk = [0; CHUNK];
        match source.read(&mut chunk) {
            Ok(0) => return true,
            Ok(count) => {
                let bytes = &chunk[..count];
                if matches!(self.backend, Backend::Stdio) {
                    self.take_escapes(bytes);
                } else {
                    self.pending.extend_from_slice(bytes);
                }
                self.feed();
            }
            Err(error) => {
                return !matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                );
            }
        }
        false
    }

    fn take_escapes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match (self.escaped, *byte) {
                (false, ESCAPE) => self.escaped = true,
                (true, byte) if LEAVE.contains(&byte) => self.exit.report(Exit::ConsoleLeft),
                // Ctrl-A twice is one for the guest.
                (true, byte) => {
                    self.escaped = false;
                    self.pending.push(byte);
                }
                (false, byte) => self.pending.push(byte),
            }
        }
    }

    fn sources(&self) -> Vec<(RawFd, u32)> {
        match &self.backend {
            Backend::Stdio => vec![(io::stdin().as_raw_fd(), STDIN)],
            _ => lock(&self.clients)
                .iter()
                .map(|(token, client)| (client.as_raw_fd(), *token))
                .collect(),
        }
    }

    /// Reads on only while nothing waits for the guest.
    fn watch(&self, sources: &mut Sources<'_>) {
        let events = if self.pending.is_empty() { EventSet::IN } else { EventSet::empty() };
        for (fd, token) in self.sources() {
            // An ended standard input is no longer watched.
            let _ = sources.modify(fd, token, events);
        }
    }

    fn accept(&mut self, sources: &mut Sources<'_>) {
        let Backend::Socket(listener) = &self.backend else { return };
        let Ok((client, _)) = listener.accept() else { return };
        let mut clients = lock(&self.clients);
        if clients.len() >= MAX_CLIENTS || client.set_nonblocking(true).is_err() {
            return;
        }
        let token = self.next_client;
        self.next_client = token.checked_add(1).unwrap_or(FIRST_CLIENT);
        if sources.add(client.as_raw_fd(), token, EventSet::IN).is_ok() {
            clients.insert(token, client);
        }
    }

    /// Writes output that waits, and watches the file until it has taken all of it.
    fn write_on(&mut self, begins: bool, sources: &mut Sources<'_>) {
        let Some(output) = &self.output else { return };
        if begins {
            // Fails only when the counter is zero already: the event was stale.
            let _ = output.waiting().read();
        }
        // Fails when it is watched already, or is not: then that is what is wanted.
        let _ = if output.drain() {
            sources.add(output.as_raw_fd(), OUTPUT, EventSet::OUT)
        } else {
            sources.remove(output.as_raw_fd())
        };
    }

    fn client(&mut self, token: u32, sources: &mut Sources<'_>) {
        let Some(client) = lock(&self.clients).get(&token).and_then(|c| c.try_clone().ok()) else {
            return;
        };
        if self.read(&client) {
            let _ = sources.remove(client.as_raw_fd());
            if let Some(client) = lock(&self.clients).remove(&token) {
                let _ = sources.remove(client.as_raw_fd());
            }
        }
    }
}

impl EventHandler for Console {
    fn register(&mut self, sources: &mut Sources<'_>) -> io::Result<()> {
        sources.add(self.drained.as_raw_fd(), DRAINED, EventSet::IN)?;
        if let Some(output) = &self.output {
            sources.add(output.waiting().as_raw_fd(), WAITING, EventSet::IN)?;
        }
        match &self.backend {
            Backend::Off | Backend::File(_) => Ok(()),
            Backend::Socket(listener) => {
                listener.set_nonblocking(true)?;
                sources.add(listener.as_raw_fd(), LISTENER, EventSet::IN)
            }
            Backend::Stdio => match sources.add(io::stdin().as_raw_fd(), STDIN, EventSet::IN) {
                // A regular file or /dev/null has no readiness, a closed descriptor no input.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EBADF)) => {
                    Ok(())
                }
                result => result,
            },
        }
    }

    fn handle(&mut self, token: u32, _events: EventSet, sources: &mut Sources<'_>) {
        match token {
            DRAINED => {
                let _ = self.drained.read();
                self.feed();
            }
            STDIN => {
                if self.read(io::stdin()) {
                    let _ = sources.remove(io::stdin().as_raw_fd());
                }
            }
            LISTENER => self.accept(sources),
            WAITING | OUTPUT => self.write_on(token == WAITING, sources),
            token => self.client(token, sources),
        }
        self.watch(sources);
    }
}

/// The guest's last words are written before the monitor ends.
impl Drop for Console {
    fn drop(&mut self) {
        if let Some(output) = &self.output {
            output.finish();
        }
    }
}

/// A terminal in raw mode, until dropped.
#[derive(Debug)]
pub struct RawTerminal(libc::termios);

impl RawTerminal {
    /// Puts standard input into raw mode, if it is a terminal.
    #[must_use]
    pub fn enter() -> Option<Self> {
        // SAFETY: `termios` is plain data, for which zeroes are valid.
        let mut saved: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a `termios` that lives for the call.
        if unsafe { libc::tcgetattr(0, &raw mut saved) } != 0 {
            return None;
        }
        let mut raw = saved;
        // SAFETY: the pointer is to a `termios` that lives for the call.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        raw.c_oflag |= libc::OPOST;
        // SAFETY: the pointer is to a `termios` that lives for the call.
        (unsafe { libc::tcsetattr(0, libc::TCSANOW, &raw const raw) } == 0).then_some(Self(saved))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // SAFETY: the pointer is to a `termios` that lives for the call.
        unsafe { libc::tcsetattr(0, libc::TCSANOW, &raw const self.0) };
    }
}
