//! Debian's etcd, with a data directory of its own, for tests and measurements.

#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ports are of an address that no other process uses, so they need not be looked for.
static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);

/// What an etcd shows to clients and asks of them: PEM files.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority of both sides' certificates.
    pub authority: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// An etcd of one member on loopback, killed when dropped.
#[derive(Debug)]
pub struct Etcd {
    dir: tempfile::TempDir,
    process: Child,
    address: SocketAddr,
    peers: SocketAddr,
    certificates: Option<Certificates>,
}

/// The loopback address of this process: 127.64.0.0/10 by its id, which has 22 bits.
#[must_use]
pub fn own_address() -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 64, 0, 0).to_bits() | (std::process::id() & 0x3f_ffff))
}

impl Etcd {
    /// Starts an empty one.
    ///
    /// # Panics
    /// If there is no etcd (`ci/install-packages` installs it), or it does not come up.
    #[must_use]
    pub fn start() -> Self {
        Self::with(None)
    }

    /// Starts an empty one that speaks TLS only, to clients with certificates only.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_tls(certificates: Certificates) -> Self {
        Self::with(Some(certificates))
    }

    fn with(certificates: Option<Certificates>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let port = NEXT_PORT.fetch_add(2, Ordering::Relaxed);
        let address = SocketAddr::from((own_address(), port));
        let peers = SocketAddr::from((own_address(), port + 1));
        let process = spawn(dir.path(), address, peers, certificates.as_ref());
        let mut etcd = Self { dir, process, address, peers, certificates };
        etcd.wait();
        etcd
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    /// If it cannot be.
    pub fn kill(&mut self) {
        self.process.kill().expect("etcd runs");
        self.process.wait().expect("etcd ends");
    }

    /// Starts it again over its data.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn restart(&mut self) {
        let certificates = self.certificates.as_ref();
        self.process = spawn(self.dir.path(), self.address, self.peers, certificates);
        self.wait();
    }

    fn wait(&mut self) {
        let started = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            if let Some(status) = self.process.try_wait().expect("etcd's state") {
                panic!("etcd ended with {status}: {}", log());
            }
            assert!(started.elapsed() < PATIENCE, "etcd does not listen: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn spawn(
    dir: &Path,
    address: SocketAddr,
    peers: SocketAddr,
    certificates: Option<&Certificates>,
) -> Child {
    let scheme = if certificates.is_some() { "https" } else { "http" };
    let (clients, peers) = (format!("{scheme}://{address}"), format!("http://{peers}"));
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log"));
    let mut command = Command::new("etcd");
    command
        .arg("--data-dir")
        .arg(dir.join("data"))
        .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("default={peers}")])
        .args(["--logger", "zap", "--log-level", "warn"])
        .stdout(Stdio::null())
        .stderr(log.expect("a log"));
    if let Some(Certificates { authority, certificate, key }) = certificates {
        command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(authority);
        command.arg("--cert-file").arg(certificate).arg("--key-file").arg(key);
    }
    command.spawn().expect("etcd is installed (ci/install-packages)")
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
