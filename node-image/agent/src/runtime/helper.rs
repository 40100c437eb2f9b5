//! The helper: this binary again, single-threaded, as `agent __runtime`.
//!
//! `libcontainer` clones without exec, which is unsafe in a process with a reactor. A helper gets one
//! request over a socket, its standard input at first, and with it the container's standard streams,
//! which become its own; it answers what became of the request and ends.
//!
//! To execute a program of this size and have it relocate itself takes longer than most of what it
//! does then. So one helper is kept that has come so far and waits ([`Helpers`]).

use std::{
    cell::RefCell,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::PathBuf,
    process::Command,
    rc::Rc,
    time::Duration,
};

use libcontainer::{
    container::builder::ContainerBuilder, oci_spec::runtime::Spec, syscall::syscall::SyscallType,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    io::{Errno, fcntl_dupfd_cloexec},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, send, sendmsg,
        socketpair,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    children::{Child, Children},
    seccomp::Filtered,
};
use crate::streams::AsyncFile;

/// The first argument that makes this binary a helper.
pub(crate) const ARGUMENT: &str = "__runtime";

/// The longest request or answer, in bytes.
const MAX_MESSAGE: usize = 64 << 10;

/// How long after one was used the next helper is started: what the first one started comes first.
const REPLENISH: Duration = Duration::from_millis(500);

/// How long after the agent the first helper is started: the node's own start comes first.
const FIRST: Duration = Duration::from_secs(2);

/// What a helper is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Verb {
    /// Create and start the container whose specification is in this directory.
    Run(PathBuf),
    /// Run the process in this file in the running container.
    Exec(PathBuf),
}

/// A request to a helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HelperRequest {
    pub(crate) verb: Verb,
    /// The container's id.
    pub(crate) id: String,
    /// Where `libcontainer` keeps its containers.
    pub(crate) state: PathBuf,
    /// The socket to which a terminal's master is sent.
    pub(crate) console: Option<PathBuf>,
    /// The process runs under `RuntimeDefault`, with these capabilities of a specification in place
    /// of those that its own names.
    pub(crate) filtered: Option<Value>,
}

/// What came of it: the process's pid, or why there is none.
type HelperResult = Result<i32, String>;

/// Starts helpers, and keeps one that waits.
pub(crate) struct Helpers {
    children: Rc<Children>,
    spare: RefCell<Option<Helper>>,
}

/// A helper that waits for its request.
struct Helper {
    child: Child,
    socket: OwnedFd,
}

impl Helpers {
    pub(crate) fn new(children: Rc<Children>) -> Self {
        Self { children, spare: RefCell::default() }
    }

    /// Has a helper wait once the agent has started.
    pub(crate) fn begin(self: &Rc<Self>) {
        self.replenish(FIRST);
    }

    /// Has a helper wait `after` a while.
    fn replenish(self: &Rc<Self>, after: Duration) {
        let this = Rc::clone(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(after).await;
            if this.spare.borrow().is_none() {
                // Who needs one starts it, and tells why that fails.
                *this.spare.borrow_mut() = Helper::start(&this.children).ok();
            }
        });
    }

    /// The pid of the helper that waits.
    pub(crate) fn waiting(&self) -> Option<i32> {
        self.spare.borrow().as_ref().map(|helper| helper.child.pid())
    }

    /// Has a helper do this, and returns the pid of the process that it started, a child of this
    /// process.
    ///
    /// # Errors
    /// Why the process could not be started, in one line.
    pub(crate) async fn run(
        self: &Rc<Self>,
        request: &HelperRequest,
        stdio: [OwnedFd; 3],
    ) -> Result<i32, String> {
        let failed = |error: io::Error| format!("the runtime helper: {error}");
        let bytes = serde_json::to_vec(request).map_err(|error| error.to_string())?;
        let spare = self.spare.borrow_mut().take();
        self.replenish(REPLENISH);
        // One that waited may have been killed, for memory say.
        let ready = spare.filter(|helper| helper.ask(&bytes, &stdio).is_ok());
        let helper = match ready {
            Some(helper) => helper,
            None => {
                let helper = Helper::start(&self.children).map_err(failed)?;
                helper.ask(&bytes, &stdio).map_err(failed)?;
                helper
            }
        };
        // The container's streams: their ends must be the container's alone.
        drop(stdio);
        helper.answer().await
    }
}

impl Helper {
    fn start(children: &Rc<Children>) -> io::Result<Self> {
        let (socket, its) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut command = Command::new("/proc/self/exe");
        let process = command.arg(ARGUMENT).env_clear().stdin(its).spawn()?;
        let pid = i32::try_from(process.id()).map_err(io::Error::other)?;
        Ok(Self { child: children.adopt(pid)?, socket })
    }

    fn ask(&self, request: &[u8], stdio: &[OwnedFd; 3]) -> io::Result<()> {
        let streams = stdio.each_ref().map(OwnedFd::as_fd);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&streams));
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(&self.socket, &[IoSlice::new(request)], &mut ancillary, flags)?;
        Ok(())
    }

    async fn answer(self) -> HelperResult {
        let failed = |error: io::Error| format!("the runtime helper: {error}");
        let socket = AsyncFile::new(self.socket).map_err(failed)?;
        let mut bytes = vec![0; MAX_MESSAGE];
        let child = self.child;
        let ended = |code: io::Result<i32>| match code {
            Ok(code) => format!("the runtime helper ended with {code} and no result"),
            Err(error) => failed(error),
        };
        let length = tokio::select! {
            // It answers before it ends.
            biased;
            length = socket.read(&mut bytes) => length.unwrap_or_default(),
            // What it has begun to start may hold its end of the socket still.
            code = child.wait() => return Err(ended(code)),
        };
        let bytes = bytes.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            return Err(ended(child.wait().await));
        }
        // Nobody waits for its end.
        tokio::task::spawn_local(async move { child.wait().await });
        serde_json::from_slice(bytes).map_err(|error| error.to_string())?
    }
}

/// The helper's `main`.
pub(crate) fn main() -> u8 {
    let Ok((socket, request)) = receive() else { return 2 };
    // The agent has ended, or needs it no more.
    let Some(request) = request else { return 0 };
    let outcome = serde_json::from_slice(&request).map_err(|error| error.to_string());
    let bytes = serde_json::to_vec(&outcome.and_then(serve)).unwrap_or_default();
    // Far longer than any, and cut it says nothing.
    let bytes = bytes.get(..MAX_MESSAGE).unwrap_or(&bytes);
    match send(&socket, bytes, SendFlags::NOSIGNAL) {
        Ok(_) => 0,
        Err(_) => 1,
    }
}

/// Goes once through what every request begins with: reading a specification takes a lot of code, each
/// page of which costs a fault when it is first run.
fn warm_up() {
    let Ok(file) = memfd_create("specification", MemfdFlags::CLOEXEC) else { return };
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // Whether it works shows when it counts.
    let _ = Spec::default().save(&path).and_then(|()| Spec::load(&path));
}

/// Waits for the request, and takes the streams that come with it; `None` if there will be none.
fn receive() -> io::Result<(OwnedFd, Option<Vec<u8>>)> {
    let socket = fcntl_dupfd_cloexec(io::stdin(), 3)?;
    // Who has sent a request already is not kept waiting.
    if poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&Timespec::default()))? == 0 {
        warm_up();
    }
    let mut request = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let flags = RecvFlags::CMSG_CLOEXEC;
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut request)], &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    request.truncate(received.bytes);
    if request.is_empty() {
        return Ok((socket, None));
    }
    let streams: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    let [stdin, stdout, stderr] =
        <[OwnedFd; 3]>::try_from(streams).map_err(|_| io::ErrorKind::InvalidData)?;
    nix::unistd::dup2_stdin(stdin)?;
    nix::unistd::dup2_stdout(stdout)?;
    nix::unistd::dup2_stderr(stderr)?;
    Ok((socket, Some(request)))
}

fn serve(request: HelperRequest) -> HelperResult {
    let mut builder = ContainerBuilder::new(request.id, SyscallType::default())
        .with_root_path(request.state)
        .map_err(chain)?
        .with_console_socket(request.console);
    if let Some(capabilities) = request.filtered {
        builder = builder.with_executor(Filtered::new(&capabilities)?);
    }
    match request.verb {
        Verb::Run(bundle) => {
            let mut container = builder
                .as_init(bundle)
                .with_systemd(false)
                .with_detach(true)
                .as_sibling(true)
                .build()
                .map_err(chain)?;
            container.start().map_err(chain)?;
            container.pid().map(|pid| pid.as_raw()).ok_or_else(|| String::from("it has no pid"))
        }
        Verb::Exec(process) => builder
            .as_tenant()
            .with_process(Some(process))
            .with_detach(true)
            .as_sibling(true)
            .build()
            .map(|pid| pid.as_raw())
            .map_err(chain),
    }
}

/// An error with its causes, in one line.
fn chain(error: impl std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_line = cause.to_string();
        if !line.contains(&cause_line) {
            line = format!("{line}: {cause_line}");
        }
        source = cause.source();
    }
    line
}
