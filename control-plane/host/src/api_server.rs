//! A cluster's API server: its certificates are made once, its process is started, adopted,
//! watched and restarted.

use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use bulkhead_host_api::{ApiError, ClusterName};
use bulkhead_network::Network;
use bulkhead_network::address::HOST;
use command_fds::{CommandFdExt as _, FdMapping};
use tokio::process::Command;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::daemon::Host;
use crate::fault;
use crate::home::ClusterDir;
use crate::kubelet::client::Kube;
use crate::process::Process;

/// How long it may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(10);

/// How long it gets to end by itself.
const GRACE: Duration = Duration::from_secs(10);

const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Makes the cluster's certificates and kubeconfig, unless they are there.
pub(crate) async fn init(
    host: &Host,
    name: &ClusterName,
    dir: &ClusterDir,
    port: u16,
) -> Result<(), ApiError> {
    if dir.kubeconfig().exists() {
        return Ok(());
    }
    crate::home::create_private(dir.path())
        .map_err(|error| fault::internal(format!("{}: {error}", dir.path().display())))?;
    let program = &host.programs.api_server;
    let output = Command::new(program)
        .arg("init")
        .arg("--dir")
        .arg(dir.pki())
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| fault::internal(format!("{}: {error}", program.display())))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(fault::internal(format!("making certificates: {}", stderr.trim())));
    }
    write_kubeconfig(name, dir, port)
        .map_err(|error| fault::internal(format!("{}: {error}", dir.kubeconfig().display())))
}

/// Last of the initialization, and complete or not there.
fn write_kubeconfig(name: &ClusterName, dir: &ClusterDir, port: u16) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let data = |file: &str| -> std::io::Result<String> {
        let bytes = std::fs::read(dir.pki().join(file))?;
        Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
    };
    let (ca, cert, key) = (data("ca.crt")?, data("admin.crt")?, data("admin.key")?);
    let context = format!("bulkhead-{name}");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {context}\n\
         clusters:\n- name: {context}\n  cluster:\n    server: https://127.0.0.1:{port}\n    \
         certificate-authority-data: {ca}\n\
         contexts:\n- name: {context}\n  context:\n    cluster: {context}\n    user: {context}\n\
         users:\n- name: {context}\n  user:\n    client-certificate-data: {cert}\n    \
         client-key-data: {key}\n"
    );
    let partial = dir.kubeconfig().with_extension("partial");
    crate::home::remove_file(&partial)?;
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(partial, dir.kubeconfig())
}

/// A supervised API server.
#[derive(Debug)]
pub(crate) struct ApiServer {
    stop: watch::Sender<bool>,
    /// Has it read its keys again.
    reload: Arc<Notify>,
    /// Why it last ended.
    failure: watch::Receiver<Option<String>>,
    task: std::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl ApiServer {
    /// Takes it under supervision, with the process that an earlier daemon left running.
    pub(crate) fn start(
        host: Arc<Host>,
        dir: ClusterDir,
        port: u16,
        network: Network,
        adopted: Option<Process>,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (failed, failure) = watch::channel(None);
        let reload = Arc::new(Notify::new());
        let asks = Asks { stopped, reload: Arc::clone(&reload) };
        let task = tokio::spawn(supervise(host, dir, (port, network), adopted, asks, failed));
        Self { stop, reload, failure, task: std::sync::Mutex::new(Some(task)) }
    }

    /// Until it answers that it is ready.
    pub(crate) async fn ready(&self, kube: &Kube) -> Result<(), ApiError> {
        let mut failure = self.failure.clone();
        let answer = async {
            while kube.get_text("/readyz").await.is_err() {
                sleep(READY_POLL).await;
            }
        };
        tokio::select! {
            ready = timeout(READY_LIMIT, answer) => ready.map_err(|_| {
                let seconds = READY_LIMIT.as_secs();
                fault::internal(format!("the API server was not ready within {seconds} s"))
            }),
            reason = reason(&mut failure) => {
                Err(fault::internal(reason.unwrap_or_else(|| "the API server ended".into())))
            }
        }
    }

    /// Has it take the keys of secrets that its files have now.
    pub(crate) fn reload(&self) {
        self.reload.notify_one();
    }

    pub(crate) async fn stop(&self) {
        self.stop.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            drop(task.await);
        }
    }
}

/// What a supervised API server is asked for.
struct Asks {
    stopped: watch::Receiver<bool>,
    reload: Arc<Notify>,
}

async fn supervise(
    host: Arc<Host>,
    dir: ClusterDir,
    (port, network): (u16, Network),
    adopted: Option<Process>,
    mut asks: Asks,
    failed: watch::Sender<Option<String>>,
) {
    let mut left = adopted;
    let mut backoff = Duration::ZERO;
    while !*asks.stopped.borrow() {
        let began = Instant::now();
        let process = match left.take() {
            Some(process) => Ok(process),
            None => match network.listen(port).await {
                Ok(socket) => start(&host.programs.api_server, &dir, port, socket),
                Err(error) => Err(std::io::Error::other(error)),
            },
        };
        let message = match process {
            Ok(mut process) => loop {
                tokio::select! {
                    status = process.ended() => break ended(status, &dir.api_server_log()),
                    () = asks.reload.notified() => process.reload(),
                    () = asked(&mut asks.stopped) => {
                        process.end(GRACE).await;
                        return;
                    }
                }
            },
            Err(error) => format!("starting the API server: {error}"),
        };
        if began.elapsed() > MAX_BACKOFF {
            backoff = Duration::ZERO;
        }
        tracing::warn!("{message}; next start in {backoff:?}");
        failed.send_replace(Some(message));
        // Either the time has come or it is to end.
        let _ = timeout(backoff, asked(&mut asks.stopped)).await;
        backoff = (backoff * 2).clamp(Duration::from_millis(500), MAX_BACKOFF);
    }
}

/// Until it is to end.
async fn asked(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|stop| *stop).await);
}

/// Starts it: on the host's loopback for clients, on `socket` for the cluster's nodes and pods.
fn start(
    program: &Path,
    dir: &ClusterDir,
    port: u16,
    socket: TcpListener,
) -> std::io::Result<Process> {
    const SOCKET: i32 = 3;
    let mut command = Command::new(program);
    command.arg("serve").arg("--dir").arg(dir.path());
    command.arg("--listen").arg(format!("127.0.0.1:{port}"));
    command.arg("--listen-fd").arg(SOCKET.to_string());
    command.arg("--advertise-address").arg(HOST.to_string());
    let socket = FdMapping { parent_fd: socket.into(), child_fd: SOCKET };
    command.as_std_mut().fd_mappings(vec![socket]).map_err(std::io::Error::other)?;
    Process::start(command, dir.path(), &dir.api_server_log())
}

/// Why it ended, once it has.
async fn reason(failure: &mut watch::Receiver<Option<String>>) -> Option<String> {
    failure.wait_for(Option::is_some).await.ok()?.clone()
}

fn ended(status: Option<std::process::ExitStatus>, log: &Path) -> String {
    let how = status.map_or_else(|| "ended".to_owned(), |status| format!("ended ({status})"));
    let line = std::fs::read_to_string(log).ok().and_then(|log| {
        Some(log.lines().rev().find(|line| !line.trim().is_empty())?.trim().to_owned())
    });
    match line {
        Some(line) => format!("the API server {how}: {line}"),
        None => format!("the API server {how}"),
    }
}
