//! Standard streams of containers and of exec'd processes, and carrying them to a host.

mod io;
mod session;

use std::cell::RefCell;

use tokio::sync::broadcast;

pub(crate) use io::{AsyncFile, Console, ProcessIo, null};
pub(crate) use session::{attach, collect, exec, forward};

use crate::logs::Stream;

/// Chunks of output that someone attached may lag behind before losing some.
const BACKLOG: usize = 64;

/// A running container's streams, as attach sees them. Its output is logged first.
#[derive(Debug)]
pub(crate) struct ContainerIo {
    /// Where its input goes; taken by `stdinOnce`.
    pub(crate) stdin: RefCell<Option<std::rc::Rc<AsyncFile>>>,
    pub(crate) stdin_once: bool,
    pub(crate) terminal: bool,
    output: broadcast::Sender<(Stream, Vec<u8>)>,
}

impl ContainerIo {
    pub(crate) fn new(
        stdin: Option<std::rc::Rc<AsyncFile>>,
        stdin_once: bool,
        terminal: bool,
    ) -> Self {
        let output = broadcast::Sender::new(BACKLOG);
        Self { stdin: RefCell::new(stdin), stdin_once, terminal, output }
    }

    /// Passes output on to whoever is attached.
    pub(crate) fn publish(&self, stream: Stream, bytes: &[u8]) {
        if self.output.receiver_count() > 0 {
            // The last receiver may just have left.
            let _ = self.output.send((stream, bytes.to_vec()));
        }
    }

    fn subscribe(&self) -> broadcast::Receiver<(Stream, Vec<u8>)> {
        self.output.subscribe()
    }
}
