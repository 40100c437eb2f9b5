//! The agent's child processes: their ends, without taking anybody else's.
//!
//! As PID 1 the agent inherits every orphan of the node and must reap it; a global wait would
//! also swallow the statuses of containers. So a known child is waited for by its pidfd, and
//! orphans are reaped one by one from the list of children, known ones left out.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    io,
    rc::Rc,
};

use rustix::process::{
    Pid, PidfdFlags, WaitId, WaitIdOptions, WaitOptions, pidfd_open, waitid, waitpid,
};
use tokio::io::unix::AsyncFd;

/// Known children.
#[derive(Debug, Default)]
pub(crate) struct Children {
    known: RefCell<BTreeSet<i32>>,
    /// Helpers at work: they may make children whose numbers are not known yet.
    births: Cell<u32>,
}

/// While it lives, no orphan is reaped.
pub(crate) struct Birth(Rc<Children>);

impl Drop for Birth {
    fn drop(&mut self) {
        self.0.births.set(self.0.births.get() - 1);
    }
}

impl Children {
    /// Announces that a child will be born whose number is learnt later.
    pub(crate) fn expect(self: &Rc<Self>) -> Birth {
        self.births.set(self.births.get() + 1);
        Birth(Rc::clone(self))
    }

    /// Takes charge of a child. Call it before the [`Birth`] is dropped.
    pub(crate) fn adopt(self: &Rc<Self>, pid: i32) -> io::Result<Child> {
        let raw = Pid::from_raw(pid).ok_or_else(|| io::Error::other("a child's pid of 0"))?;
        let pidfd = pidfd_open(raw, PidfdFlags::NONBLOCK)?;
        // SAFETY: the descriptor is owned by the `AsyncFd` alone and never exchanged.
        let pidfd = unsafe { AsyncFd::register(pidfd) }?;
        self.known.borrow_mut().insert(pid);
        Ok(Child { children: Rc::clone(self), pid, pidfd })
    }

    /// Reaps orphans that have ended.
    pub(crate) fn reap_orphans(&self) {
        if self.births.get() > 0 {
            return;
        }
        // The list is of this thread's children; the main thread is the only one that has any.
        let path = format!("/proc/self/task/{}/children", std::process::id());
        let Ok(list) = std::fs::read_to_string(path) else { return };
        for pid in list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()) {
            if !self.known.borrow().contains(&pid) {
                // A failure means that it has not ended or was reaped: nothing to do.
                let _ = waitpid(Pid::from_raw(pid), WaitOptions::NOHANG);
            }
        }
    }
}

/// A known child.
#[derive(Debug)]
pub(crate) struct Child {
    children: Rc<Children>,
    pid: i32,
    pidfd: AsyncFd<std::os::fd::OwnedFd>,
}

impl Child {
    pub(crate) const fn pid(&self) -> i32 {
        self.pid
    }

    /// Its exit code once it has ended: 128+n for signal n.
    pub(crate) async fn wait(&self) -> io::Result<i32> {
        use std::os::fd::AsFd as _;
        loop {
            let mut ready = self.pidfd.readable().await?;
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            match waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), options)? {
                Some(status) => {
                    let code = status.exit_status();
                    let signal = status.terminating_signal().map(|signal| 128 + signal);
                    return Ok(code.or(signal).unwrap_or(255));
                }
                None => ready.clear_ready(),
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.children.known.borrow_mut().remove(&self.pid);
    }
}
