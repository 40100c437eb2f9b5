//! The HTTP API on a unix socket (`vmm/openapi.yaml`), served by the device thread.
//!
//! Bounded in every way: connections, request size, files of a request. A request that breaks HTTP
//! or a bound is answered and its connection closed.

mod connection;
mod control;
mod request;
mod router;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;

pub use self::control::{Control, ControlError};

use self::connection::{Connection, Next};
use crate::event_loop::{EventHandler, EventSet, Sources};

const LISTENER: u32 = 0;
const MAX_CONNECTIONS: usize = 16;

/// The server.
pub struct Server {
    listener: UnixListener,
    connections: BTreeMap<u32, Connection>,
    next: u32,
    control: Control,
}

impl Server {
    /// Serves `control` on `listener`.
    #[must_use]
    pub fn new(listener: UnixListener, control: Control) -> Self {
        Self { listener, connections: BTreeMap::new(), next: LISTENER + 1, control }
    }

    fn accept(&mut self, sources: &mut Sources<'_>) -> io::Result<()> {
        let (stream, _) = self.listener.accept()?;
        if self.connections.len() >= MAX_CONNECTIONS {
            return Ok(());
        }
        stream.set_nonblocking(true)?;
        let token = self.next;
        self.next = token.checked_add(1).unwrap_or(LISTENER + 1);
        sources.add(stream.as_raw_fd(), token, EventSet::IN)?;
        self.connections.insert(token, Connection::new(stream));
        Ok(())
    }

    fn serve(&mut self, token: u32, sources: &mut Sources<'_>) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let next =
            connection.advance(|request| router::answer(request, &mut self.control, sources));
        let fd = connection.as_raw_fd();
        let watched = match next {
            Next::Read => sources.modify(fd, token, EventSet::IN),
            Next::Write => sources.modify(fd, token, EventSet::OUT),
            Next::Close => Err(io::ErrorKind::NotConnected.into()),
        };
        if watched.is_err() {
            let _ = sources.remove(fd);
            self.connections.remove(&token);
        }
    }
}

impl EventHandler for Server {
    fn register(&mut self, sources: &mut Sources<'_>) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        sources.add(self.listener.as_raw_fd(), LISTENER, EventSet::IN)
    }

    fn handle(&mut self, token: u32, _events: EventSet, sources: &mut Sources<'_>) {
        if token == LISTENER {
            // A client that has gone again is no error of the server.
            let _ = self.accept(sources);
        } else {
            self.serve(token, sources);
        }
    }
}
