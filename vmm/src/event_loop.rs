//! The device thread: one epoll loop on which all work happens that is not a vCPU's exit, but for that
//! of disks. A disk's files may be slow, so each disk has such a loop on a thread of its own.
//!
//! Queues' notifications (ioeventfds), taps, vsock connections, the console and the HTTP API are
//! [`EventHandler`]s. The loop owns the epoll instance and nothing else; a handler owns its file
//! descriptors and tells the loop of them through [`Sources`].
//!
//! # How a device takes part
//!
//! A device is reached from two sides: vCPU threads read and write its registers
//! ([`crate::bus::BusDevice`]), the loop calls it when one of its descriptors is ready. So it lies in
//! an `Arc<Mutex<…>>`, which implements both traits when its content does, and each side holds the
//! lock only for one access.
//!
//! A driver activates its device from a vCPU thread (status `DRIVER_OK`), where there is no
//! [`Sources`]. So a device makes an eventfd when it is built, adds it in [`EventHandler::register`],
//! and writes to it on activation; the loop then calls [`EventHandler::handle`] with that eventfd's
//! token, and the handler adds the rest (its tap, its connections). A queue's ioeventfds exist from
//! the start and may be added at once: they only fire after the driver's first notification.
//!
//! # Rules
//!
//! - Level-triggered: a handler that leaves data unread is called again at once. It must drain, or
//!   drop its interest by [`Sources::modify`].
//! - A handler never blocks, and bounds the work of one call, so that a busy device cannot starve
//!   the others.
//! - An event may be stale: delivered for a descriptor that was removed by an earlier event of the
//!   same batch. Tokens are the handler's own; a token it no longer knows is to be ignored.
//! - A descriptor must be removed before it is closed.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

pub use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent};

use crate::bus::lock;

/// Events taken from the kernel at once.
const BATCH: usize = 32;

/// What the loop calls.
pub trait EventHandler: Send {
    /// Adds the descriptors of interest from the start. Called once, before the loop runs.
    fn register(&mut self, sources: &mut Sources<'_>) -> io::Result<()>;

    /// The descriptor that was added with `token` is ready for `events`.
    fn handle(&mut self, token: u32, events: EventSet, sources: &mut Sources<'_>);
}

impl<T: EventHandler + ?Sized> EventHandler for Arc<Mutex<T>> {
    fn register(&mut self, sources: &mut Sources<'_>) -> io::Result<()> {
        lock(self).register(sources)
    }

    fn handle(&mut self, token: u32, events: EventSet, sources: &mut Sources<'_>) {
        lock(self).handle(token, events, sources);
    }
}

/// A handler's view of the loop: the set of its own descriptors.
pub struct Sources<'a> {
    epoll: &'a Epoll,
    handler: u32,
    spawned: &'a mut Vec<Box<dyn EventHandler>>,
}

impl Sources<'_> {
    /// Watches `fd` for `events`; [`EventHandler::handle`] gets `token` back.
    ///
    /// # Errors
    /// As `epoll_ctl`: `EEXIST` when `fd` is watched already, `EPERM` for a regular file.
    pub fn add(&mut self, fd: RawFd, token: u32, events: EventSet) -> io::Result<()> {
        self.ctl(ControlOperation::Add, fd, token, events)
    }

    /// Replaces what `fd` is watched for; an empty set leaves only errors and hang-ups.
    ///
    /// # Errors
    /// As `epoll_ctl`: `ENOENT` when `fd` is not watched.
    pub fn modify(&mut self, fd: RawFd, token: u32, events: EventSet) -> io::Result<()> {
        self.ctl(ControlOperation::Modify, fd, token, events)
    }

    /// No longer watches `fd`. Must precede its closing.
    ///
    /// # Errors
    /// As `epoll_ctl`: `ENOENT` when `fd` is not watched.
    pub fn remove(&mut self, fd: RawFd) -> io::Result<()> {
        self.ctl(ControlOperation::Delete, fd, 0, EventSet::empty())
    }

    /// Adds another handler to the loop, once the events at hand are served.
    pub fn spawn(&mut self, handler: Box<dyn EventHandler>) {
        self.spawned.push(handler);
    }

    fn ctl(
        &self,
        operation: ControlOperation,
        fd: RawFd,
        token: u32,
        events: EventSet,
    ) -> io::Result<()> {
        let data = u64::from(self.handler) << 32 | u64::from(token);
        self.epoll.ctl(operation, fd, EpollEvent::new(events, data))
    }
}

/// The loop and its handlers.
pub struct EventLoop {
    epoll: Epoll,
    handlers: Vec<Box<dyn EventHandler>>,
    spawned: Vec<Box<dyn EventHandler>>,
}

impl EventLoop {
    /// An empty loop.
    ///
    /// # Errors
    /// As `epoll_create1`.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()?, handlers: Vec::new(), spawned: Vec::new() })
    }

    /// Adds a handler for the rest of the loop's life and lets it register its descriptors.
    ///
    /// # Errors
    /// What [`EventHandler::register`] returns.
    pub fn add(&mut self, mut handler: Box<dyn EventHandler>) -> io::Result<()> {
        let index = u32::try_from(self.handlers.len()).map_err(io::Error::other)?;
        let Self { epoll, spawned, .. } = self;
        handler.register(&mut Sources { epoll, handler: index, spawned })?;
        self.handlers.push(handler);
        Ok(())
    }

    /// Waits for events once, for at most `timeout` milliseconds (-1: for ever), and serves them.
    ///
    /// # Errors
    /// As `epoll_wait`, except that an interruption by a signal is not one; as [`EventLoop::add`]
    /// for handlers that handlers have added.
    pub fn run_once(&mut self, timeout: i32) -> io::Result<()> {
        let mut events = [EpollEvent::default(); BATCH];
        let ready = match self.epoll.wait(timeout, &mut events) {
            Ok(ready) => ready,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        for event in &events[..ready] {
            let index = (event.data() >> 32) as u32;
            let token = (event.data() & u64::from(u32::MAX)) as u32;
            if let Some(handler) = self.handlers.get_mut(index as usize) {
                let Self { epoll, spawned, .. } = self;
                let mut sources = Sources { epoll, handler: index, spawned };
                handler.handle(token, event.event_set(), &mut sources);
            }
        }
        while let Some(handler) = self.spawned.pop() {
            self.add(handler)?;
        }
        Ok(())
    }
}

/// The epoll instance: readable while a handler has something to do.
impl AsRawFd for EventLoop {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;

    struct Counter {
        fd: EventFd,
        token: u32,
        seen: Vec<(u32, u64)>,
    }

    impl EventHandler for Counter {
        fn register(&mut self, sources: &mut Sources<'_>) -> io::Result<()> {
            sources.add(self.fd.as_raw_fd(), self.token, EventSet::IN)
        }

        fn handle(&mut self, token: u32, events: EventSet, sources: &mut Sources<'_>) {
            assert!(events.contains(EventSet::IN));
            self.seen.push((token, self.fd.read().unwrap()));
            if self.seen.len() == 2 {
                sources.remove(self.fd.as_raw_fd()).unwrap();
            }
        }
    }

    fn counter(token: u32) -> (Arc<Mutex<Counter>>, EventFd) {
        let fd = EventFd::new(EFD_NONBLOCK).unwrap();
        let trigger = fd.try_clone().unwrap();
        (Arc::new(Mutex::new(Counter { fd, token, seen: Vec::new() })), trigger)
    }

    #[test]
    fn an_event_reaches_its_handler_with_its_token() {
        let mut event_loop = EventLoop::new().unwrap();
        let (one, trigger_one) = counter(7);
        let (two, trigger_two) = counter(u32::MAX);
        event_loop.add(Box::new(one.clone())).unwrap();
        event_loop.add(Box::new(two.clone())).unwrap();

        event_loop.run_once(0).unwrap();
        assert!(one.lock().unwrap().seen.is_empty());

        trigger_one.write(3).unwrap();
        trigger_two.write(5).unwrap();
        event_loop.run_once(1000).unwrap();
        assert_eq!(one.lock().unwrap().seen, [(7, 3)]);
        assert_eq!(two.lock().unwrap().seen, [(u32::MAX, 5)]);
    }

    #[test]
    fn a_removed_descriptor_is_not_served() {
        let mut event_loop = EventLoop::new().unwrap();
        let (one, trigger) = counter(1);
        event_loop.add(Box::new(one.clone())).unwrap();
        for _ in 0..3 {
            trigger.write(1).unwrap();
            event_loop.run_once(0).unwrap();
        }
        assert_eq!(one.lock().unwrap().seen.len(), 2);
    }
}
