//! Processes that outlive the daemon: each carries the directory that it serves in its
//! environment ([`OWNER`]), by which a new daemon finds it; it is watched and ended by pidfd, so
//! that a pid which was given to another process since is never signalled.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

/// The environment variable that names what a process serves: a cluster's or node's directory.
const OWNER: &str = "BULKHEAD_OWNER";

/// A process that the daemon or an earlier one started.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    fd: AsyncFd<OwnedFd>,
    /// Unless an earlier daemon started it.
    child: Option<Child>,
}

impl Process {
    /// Starts `command` for `owner`: in a process group of its own, without input, output appended
    /// to `log`. It stays when the daemon ends, however that ends.
    pub(crate) fn start(mut command: Command, owner: &Path, log: &Path) -> io::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
        let child = command
            .env(OWNER, owner)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("it ended at once"))?;
        Ok(Self { pid, fd: open_pidfd(pid)?, child: Some(child) })
    }

    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Until it has ended; how, if it is a child of this daemon. May be dropped and called again.
    pub(crate) async fn ended(&mut self) -> Option<ExitStatus> {
        // Readable means ended; an error means that there is nothing to wait for.
        drop(self.fd.readable().await);
        match &mut self.child {
            Some(child) => child.wait().await.ok(),
            None => None,
        }
    }

    fn signal(&self, signal: Signal) {
        // An error means that it has ended.
        let _ = pidfd_send_signal(self.fd.get_ref(), signal);
    }

    /// Asks it to read its files again (SIGHUP).
    pub(crate) fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// Asks it to end, and after `grace` makes it.
    pub(crate) async fn end(&mut self, grace: Duration) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(grace, self.ended()).await.is_err() {
            self.kill().await;
        }
    }

    /// Makes it end.
    pub(crate) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }
}

/// Every process that an earlier daemon left running for a directory below `clusters`.
pub(crate) fn find(clusters: &Path) -> HashMap<PathBuf, Process> {
    let mut found = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        // The pidfd first, so that the environment read after it is that process's.
        let Ok(fd) = open_pidfd(pid) else { continue };
        if let Some(owner) = owner(pid)
            && owner.starts_with(clusters)
        {
            found.insert(owner, Process { pid, fd, child: None });
        }
    }
    found
}

/// What a process serves. A zombie has no environment left, and another user's is not readable.
fn owner(pid: u32) -> Option<PathBuf> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    environment.split(|byte| *byte == 0).find_map(|variable| {
        let value = variable.strip_prefix(OWNER.as_bytes())?.strip_prefix(b"=")?;
        Some(PathBuf::from(std::str::from_utf8(value).ok()?))
    })
}

#[expect(
    deprecated,
    reason = "its objection is to files that may close or change while they are registered; an \
              `OwnedFd` does neither, and the replacement is unsafe"
)]
fn open_pidfd(pid: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let fd = pidfd_open(pid.ok_or(io::ErrorKind::InvalidInput)?, PidfdFlags::empty())?;
    AsyncFd::new(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_found_again_ended_and_then_gone() {
        let dir = tempfile::tempdir().unwrap();
        let owner = dir.path().join("demo");
        let mut command = Command::new("sleep");
        command.arg("60");
        let mut first = Process::start(command, &owner, &dir.path().join("log")).unwrap();
        // A process that was just spawned may have no environment yet.
        let mut found = find(dir.path());
        while found.is_empty() {
            tokio::task::yield_now().await;
            found = find(dir.path());
        }
        let mut again = found.remove(&owner).unwrap();
        assert!(found.is_empty());
        assert_eq!(again.pid(), first.pid());
        again.end(Duration::from_secs(5)).await;
        assert!(!first.ended().await.unwrap().success());
        assert!(find(dir.path()).is_empty());
    }

    #[tokio::test]
    async fn what_ignores_the_request_is_made_to_end() {
        use std::os::unix::process::ExitStatusExt as _;
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; echo ready; sleep 60 & wait; wait"]);
        let mut process = Process::start(command, dir.path(), &log).unwrap();
        while std::fs::read_to_string(&log).unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        process.signal(Signal::TERM);
        let still = tokio::time::timeout(Duration::from_millis(100), process.ended()).await;
        assert!(still.is_err());
        process.kill().await;
        assert_eq!(process.ended().await.unwrap().signal(), Some(9));
        for (_, mut left) in find(dir.path()) {
            left.kill().await;
        }
    }
}
