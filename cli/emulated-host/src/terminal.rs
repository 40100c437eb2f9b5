//! The user's terminal in raw mode, so that the one inside sees every key.

use std::io::{self, IsTerminal, Stdin};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::spec::Request;

/// Whether both ends of the conversation are a terminal.
pub(crate) fn interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The terminal's size, as the machine is told of it.
pub(crate) fn size() -> Option<Request> {
    let size = tcgetwinsize(io::stdin()).ok()?;
    Some(Request::Resize { rows: size.ws_row, columns: size.ws_col })
}

/// Raw until dropped or [`Raw::restore`]d.
pub(crate) struct Raw {
    stdin: Stdin,
    before: Termios,
}

impl Raw {
    pub(crate) fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self { stdin, before })
    }

    pub(crate) fn restore(&self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(&self.stdin, OptionalActions::Now, &self.before);
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.restore();
    }
}
