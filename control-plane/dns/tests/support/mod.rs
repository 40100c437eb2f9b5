//! A real API server, a name server beside it, a real one for the world outside, and `dig`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_api_server::pki;
use bulkhead_api_server::serve::{Options, Server};
use bulkhead_api_server::storage::Storage;
use bulkhead_client::remote::{Remote, Server as ApiServer};
use bulkhead_client::{Client as _, ClientError, DeleteOptions, ElectionTiming, Kind};
use command_fds::{CommandFdExt as _, FdMapping};
use serde_json::{Value, json};

pub(crate) const SERVICES: Kind = Kind::core("services");
pub(crate) const SLICES: Kind = Kind::new("discovery.k8s.io", "v1", "endpointslices");

/// Longer than anything takes on a machine that is busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A directory with a PKI, and an API server over it.
pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    address: SocketAddr,
    pub(crate) admin: Remote,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let first = Ipv4Addr::new(10, 96, 0, 1);
        pki::init(&dir.path().join("pki"), "test", "box", first).unwrap();
        let options = Options {
            dir: dir.path().to_owned(),
            storage: Storage::Sqlite(dir.path().join("store.db")),
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            inherited: Vec::new(),
            advertise: None,
            service_range: "10.96.0.0/12".parse().unwrap(),
            election: ElectionTiming::default(),
            node_monitor_grace_period: LIMIT,
            compaction_interval: LIMIT,
        };
        let server = Server::open(options).await.unwrap();
        let address = server.address().unwrap();
        tokio::spawn(server.run(Box::pin(std::future::pending())));
        let admin = client(&dir, address, "admin");
        Self { dir, address, admin }
    }

    /// The API as this user of the PKI sees it.
    pub(crate) fn client(&self, user: &str) -> Remote {
        client(&self.dir, self.address, user)
    }

    pub(crate) async fn service(&self, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": "v1", "kind": "Service", "spec": spec,
            "metadata": {"namespace": "default", "name": name},
        });
        self.admin.create(&SERVICES, object).await.unwrap();
    }

    pub(crate) async fn delete(&self, kind: &Kind, name: &str) -> Result<Value, ClientError> {
        self.admin.delete(kind, Some("default"), name, &DeleteOptions::default()).await
    }

    /// Makes the endpoints of a Service, or replaces them.
    pub(crate) async fn endpoints(&self, service: &str, ports: Value, endpoints: Value) {
        let name = format!("{service}-x");
        // The first of them are not there yet.
        let _ = self.delete(&SLICES, &name).await;
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "default", "name": name,
                         "labels": {"kubernetes.io/service-name": service}},
            "ports": ports, "endpoints": endpoints,
        });
        self.admin.create(&SLICES, object).await.unwrap();
    }
}

fn client(dir: &tempfile::TempDir, address: SocketAddr, user: &str) -> Remote {
    let file = |name: &str| dir.path().join("pki").join(name);
    let server = ApiServer {
        address,
        name: "kubernetes".into(),
        authority: file("ca.crt"),
        certificate: file(&format!("{user}.crt")),
        key: file(&format!("{user}.key")),
        agent: "test".into(),
    };
    Remote::new(&server).unwrap()
}

/// A name server, which is ended with this.
pub(crate) struct NameServer {
    process: Child,
    sockets: (UdpSocket, TcpListener),
    options: Vec<String>,
}

/// Sockets at one port of loopback.
pub(crate) fn sockets() -> (UdpSocket, TcpListener) {
    // Another may have the port of the one for the other.
    (0..100)
        .find_map(|_| {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let udp = UdpSocket::bind(tcp.local_addr().unwrap()).ok()?;
            Some((udp, tcp))
        })
        .unwrap()
}

impl NameServer {
    /// Of this cluster; others it asks at `upstream`.
    pub(crate) fn start(cluster: &Cluster, upstream: SocketAddr) -> Self {
        let options = vec![
            format!("--api-server={}", cluster.address),
            format!("--pki={}", cluster.dir.path().join("pki").display()),
            format!("--upstream={upstream}"),
            "--network=10.244.0.0/16".into(),
        ];
        let sockets = sockets();
        Self { process: run(&options, &sockets), sockets, options }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.sockets.0.local_addr().unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// With the sockets that the last one had.
    pub(crate) fn start_again(&mut self) {
        self.process = run(&self.options, &self.sockets);
    }

    /// What `dig` finds, line by line and sorted.
    pub(crate) fn dig(&self, question: &str) -> Vec<String> {
        let mut lines: Vec<_> =
            self.dig_all(&format!("{question} +short")).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// What `dig` prints.
    pub(crate) fn dig_all(&self, question: &str) -> String {
        let port = self.address().port().to_string();
        let output = Command::new("dig")
            .args(["@127.0.0.1", "-p", &port, "+timeout=30", "+tries=2"])
            .args(question.split(' '))
            .output()
            .expect("dig runs: ci/install-packages installs it");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until `dig` finds this.
    pub(crate) fn until(&self, question: &str, expected: &[&str]) {
        until(|| {
            let found = self.dig(question);
            if found == expected { Ok(()) } else { Err(format!("{question}: {found:?}")) }
        });
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(options: &[String], (udp, tcp): &(UdpSocket, TcpListener)) -> Child {
    let fd = |fd: std::os::fd::OwnedFd, child_fd| FdMapping { parent_fd: fd, child_fd };
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead-dns"));
    command.args(options).args(["--udp-fd=3", "--tcp-fd=4"]).stderr(Stdio::null());
    command
        .fd_mappings(vec![
            fd(udp.try_clone().unwrap().into(), 3),
            fd(tcp.try_clone().unwrap().into(), 4),
        ])
        .unwrap();
    command.spawn().unwrap()
}

/// The world outside: `dnsmasq`, which is ended with this.
pub(crate) struct World {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl World {
    pub(crate) fn start() -> Self {
        (0..10).find_map(|_| Self::try_start()).expect("a port for dnsmasq")
    }

    /// `None` if another took the port that was free a moment ago.
    fn try_start() -> Option<Self> {
        let address = sockets().0.local_addr().unwrap();
        let mut process = Command::new("dnsmasq")
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", "--no-resolv"])
            .args(["--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1"])
            .arg(format!("--port={}", address.port()))
            .args(["--user=root", "--local-ttl=600", "--auth-ttl=600", "--local=/example.test/"])
            .args(["--host-record=db.example.test,192.0.2.7"])
            .args(["--host-record=other.example.test,192.0.2.8"])
            .args(["--cname=www.example.test,db.example.test"])
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq runs: ci/install-packages installs it");
        loop {
            if process.try_wait().unwrap().is_some() {
                return None;
            }
            let port = address.port().to_string();
            let mut dig = Command::new("dig");
            dig.args(["@127.0.0.1", "-p", &port, "+tries=1", "+timeout=1", "+short"]);
            if dig.arg("db.example.test").output().unwrap().stdout == b"192.0.2.7\n" {
                return Some(Self { process, address });
            }
        }
    }

    pub(crate) fn end(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until it is so.
pub(crate) fn until(check: impl Fn() -> Result<(), String>) {
    let began = Instant::now();
    while let Err(error) = check() {
        assert!(began.elapsed() < LIMIT, "{error}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where nobody answers, for as long as the socket lives.
pub(crate) fn nobody() -> Arc<UdpSocket> {
    Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
}
