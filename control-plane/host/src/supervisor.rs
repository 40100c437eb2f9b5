//! The processes that serve a cluster (its API server and its like): each is started with the
//! sockets it listens at, or adopted from an earlier daemon; watched, restarted with back-off,
//! asked to read its files again, and ended.
//!
//! Each has a directory of its own, by which a new daemon finds it (see [`crate::process`]).

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bulkhead_host_api::ApiError;
use bulkhead_network::Network;
use command_fds::{CommandFdExt as _, FdMapping};
use tokio::process::Command;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::fault;
use crate::process::Process;

/// How long a process may take to be ready, and how often it is looked at meanwhile.
const READY_LIMIT: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(10);

/// How long a process gets to end by itself.
const GRACE: Duration = Duration::from_secs(10);

/// The first restart comes at once, further ones after waits from this …
const MIN_BACKOFF: Duration = Duration::from_millis(500);
/// … up to this; a run that was longer starts over.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The first file descriptor behind standard error.
const FIRST_FD: i32 = 3;

/// Where a process runs or a socket listens.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// The host's own network namespace.
    Host,
    /// A cluster's.
    Cluster(Network),
}

impl Place {
    /// Works there.
    async fn enter<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match self {
            Self::Host => work(),
            Self::Cluster(network) => network.enter(work).await.map_err(io::Error::other)?,
        }
    }
}

/// A transport that sockets listen with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// A socket that a process is given.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    /// The option of the program that the file descriptor's number follows.
    pub(crate) option: &'static str,
    pub(crate) transport: Transport,
    pub(crate) address: SocketAddrV4,
    pub(crate) place: Place,
}

impl Socket {
    async fn open(&self) -> io::Result<OwnedFd> {
        let Self { transport, address, .. } = *self;
        let open = move || match transport {
            Transport::Tcp => TcpListener::bind(address).map(OwnedFd::from),
            Transport::Udp => UdpSocket::bind(address).map(OwnedFd::from),
        };
        self.place.enter(open).await.map_err(|error| {
            let transport = match transport {
                Transport::Tcp => "TCP",
                Transport::Udp => "UDP",
            };
            io::Error::new(error.kind(), format!("listening at {address} ({transport}): {error}"))
        })
    }
}

/// What a process is started with.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// What messages call it.
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// The directory that it serves; no other process has the same.
    pub(crate) dir: PathBuf,
    /// The file that its output is appended to.
    pub(crate) log: PathBuf,
    pub(crate) place: Place,
    pub(crate) sockets: Vec<Socket>,
}

impl Plan {
    /// Opens what of its sockets is not in `sockets` yet, and starts it with them.
    async fn start(&self, sockets: &mut Vec<OwnedFd>) -> io::Result<Process> {
        for socket in self.sockets.iter().skip(sockets.len()) {
            sockets.push(socket.open().await?);
        }
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        let mut mappings = Vec::new();
        for ((socket, fd), child_fd) in self.sockets.iter().zip(&*sockets).zip(FIRST_FD..) {
            command.arg(socket.option).arg(child_fd.to_string());
            mappings.push(FdMapping { parent_fd: fd.try_clone()?, child_fd });
        }
        command.as_std_mut().fd_mappings(mappings).map_err(io::Error::other)?;
        crate::home::create_private(&self.dir)?;
        let (dir, log) = (self.dir.clone(), self.log.clone());
        let runtime = tokio::runtime::Handle::current();
        let start = move || {
            let _runtime = runtime.enter();
            Process::start(command, &dir, &log)
        };
        self.place.enter(start).await
    }

    /// Says how it ended, with the last line of its log.
    fn ended(&self, status: Option<ExitStatus>) -> String {
        let how = status.map_or_else(|| "ended".to_owned(), |status| format!("ended ({status})"));
        match last_line(&self.log) {
            Some(line) => format!("{} {how}: {line}", self.name),
            None => format!("{} {how}", self.name),
        }
    }
}

fn last_line(log: &Path) -> Option<String> {
    let log = std::fs::read_to_string(log).ok()?;
    Some(log.lines().rev().find(|line| !line.trim().is_empty())?.trim().to_owned())
}

/// A supervised process.
#[derive(Debug)]
pub(crate) struct Supervisor {
    /// What messages call the process.
    name: &'static str,
    stop: watch::Sender<bool>,
    reload: Arc<Notify>,
    /// Why it last ended.
    failure: watch::Receiver<Option<String>>,
    task: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Supervisor {
    /// Keeps a process running by this plan, the first of which an earlier daemon may have left.
    pub(crate) fn start(plan: Plan, adopted: Option<Process>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (failed, failure) = watch::channel(None);
        let reload = Arc::new(Notify::new());
        let asks = Asks { stopped, reload: Arc::clone(&reload) };
        let name = plan.name;
        let task = tokio::spawn(supervise(plan, adopted, asks, failed));
        Self { name, stop, reload, failure, task: Mutex::new(Some(task)) }
    }

    /// Until `is_ready` says that it is; an error if it fails before, or takes more than 60 s.
    pub(crate) async fn ready<F: Future<Output = bool>>(
        &self,
        is_ready: impl Fn() -> F,
    ) -> Result<(), ApiError> {
        let ready = async {
            while !is_ready().await {
                sleep(READY_POLL).await;
            }
        };
        tokio::select! {
            ready = timeout(READY_LIMIT, ready) => ready.map_err(|_| {
                let (name, seconds) = (self.name, READY_LIMIT.as_secs());
                fault::internal(format!("{name} was not ready within {seconds} s"))
            }),
            why = self.failed() => Err(fault::internal(why)),
        }
    }

    /// Until it has ended or could not be started, be it that it was started again since; why.
    pub(crate) async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        let failed = failure.wait_for(Option::is_some).await;
        failed.ok().and_then(|why| why.clone()).unwrap_or_else(|| "it was stopped".to_owned())
    }

    /// Asks it to read its files again.
    pub(crate) fn reload(&self) {
        self.reload.notify_one();
    }

    /// Ends it and its supervision.
    pub(crate) async fn stop(&self) {
        self.stop.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            drop(task.await);
        }
    }
}

/// What a supervised process is asked for.
struct Asks {
    stopped: watch::Receiver<bool>,
    reload: Arc<Notify>,
}

/// Until it is to end.
async fn asked(stopped: &mut watch::Receiver<bool>) {
    // Nobody left who could ask: it goes on.
    if stopped.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn supervise(
    plan: Plan,
    adopted: Option<Process>,
    mut asks: Asks,
    failed: watch::Sender<Option<String>>,
) {
    let mut left = adopted;
    let mut backoff = Duration::ZERO;
    // Held from one run to the next, so that what comes in between waits instead of being refused.
    let mut sockets = Vec::new();
    while !*asks.stopped.borrow() {
        let began = Instant::now();
        let process = match left.take() {
            Some(process) => Ok(process),
            None => plan.start(&mut sockets).await,
        };
        let message = match process {
            Ok(mut process) => loop {
                tokio::select! {
                    status = process.ended() => break plan.ended(status),
                    () = asks.reload.notified() => process.reload(),
                    () = asked(&mut asks.stopped) => {
                        process.end(GRACE).await;
                        return;
                    }
                }
            },
            Err(error) => format!("starting {}: {error}", plan.name),
        };
        if began.elapsed() > MAX_BACKOFF {
            backoff = Duration::ZERO;
        }
        tracing::warn!("{message}; next start in {backoff:?}");
        failed.send_replace(Some(message));
        // Either the time has come or it is to end.
        let _ = timeout(backoff, asked(&mut asks.stopped)).await;
        backoff = (backoff * 2).clamp(MIN_BACKOFF, MAX_BACKOFF);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpStream};

    use tokio::net::TcpSocket;

    use super::*;
    use crate::process;

    /// A server that writes its process id to each connection of the socket that it is given.
    const SERVER: &str = "import os, socket, sys
listener = socket.socket(fileno=int(sys.argv[2]))
print('serving', os.getpid(), flush=True)
while True:
    connection = listener.accept()[0]
    connection.sendall(b'%d' % os.getpid())
    connection.close()
";

    fn plan(dir: &Path, port: u16) -> Plan {
        let script = dir.join("server.py");
        std::fs::write(&script, SERVER).unwrap();
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        Plan {
            name: "the server",
            program: "python3".into(),
            arguments: vec![script.into()],
            dir: dir.join("server"),
            log: dir.join("server.log"),
            place: Place::Host,
            sockets: vec![Socket {
                option: "--listen-fd",
                transport: Transport::Tcp,
                address,
                place: Place::Host,
            }],
        }
    }

    /// A port of loopback for one listener that says as this socket that it may be shared. While
    /// it lives, nobody else gets the port by chance.
    fn reserved_port() -> (TcpSocket, u16) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let port = socket.local_addr().unwrap().port();
        (socket, port)
    }

    /// The process that answers there, once one does.
    async fn answering(port: u16) -> u32 {
        let ask = move || {
            let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
            connection.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
            let mut answer = String::new();
            connection.read_to_string(&mut answer).ok()?;
            answer.parse().ok()
        };
        loop {
            if let Some(pid) = tokio::task::spawn_blocking(ask).await.unwrap() {
                return pid;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn kill(pid: u32) {
        let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
        assert!(status.unwrap().success());
    }

    #[tokio::test]
    async fn what_is_killed_starts_again_and_who_connects_meanwhile_is_served() {
        let dir = tempfile::tempdir().unwrap();
        let (_reserved, port) = reserved_port();
        let supervisor = Supervisor::start(plan(dir.path(), port), None);
        let first = answering(port).await;
        kill(first);
        assert!(supervisor.failed().await.starts_with("the server ended (signal: 9 (SIGKILL))"));
        // The socket was never closed.
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap().write_all(b"x").unwrap();
        let second = answering(port).await;
        assert_ne!(first, second);
        supervisor.stop().await;
        assert!(process::find(dir.path()).is_empty());
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    }

    #[tokio::test]
    async fn what_an_earlier_daemon_left_is_adopted_and_replaced_when_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (_reserved, port) = reserved_port();
        let plan = plan(dir.path(), port);
        let mut sockets = Vec::new();
        let left = plan.start(&mut sockets).await.unwrap();
        // As when a daemon was killed: the process has the only copy of its socket.
        drop(sockets);
        let first = answering(port).await;
        assert_eq!(first, left.pid());
        let adopted = process::find(dir.path()).remove(&plan.dir).unwrap();
        let supervisor = Supervisor::start(plan, Some(adopted));
        assert_eq!(answering(port).await, first);
        kill(first);
        drop(left);
        let second = loop {
            let pid = answering(port).await;
            if pid != first {
                break pid;
            }
        };
        assert_ne!(first, second);
        supervisor.stop().await;
        assert!(process::find(dir.path()).is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_started_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let supervisor = Supervisor::start(plan(dir.path(), port), None);
        let why = supervisor.failed().await;
        assert!(why.contains(&format!("listening at 127.0.0.1:{port} (TCP)")), "{why}");
        supervisor.stop().await;

        let broken = Plan { sockets: Vec::new(), ..plan(dir.path(), 0) };
        let supervisor = Supervisor::start(broken, None);
        let why = supervisor.failed().await;
        assert!(why.contains("IndexError"), "the last line of its log: {why}");
        let error = supervisor.ready(|| async { false }).await.unwrap_err();
        assert!(error.message.contains("IndexError"), "{error}");
        supervisor.stop().await;
    }
}
