//! A real server on a loopback port, and a client that speaks HTTP to it.

pub(crate) mod hollow;
pub(crate) mod kubectl;
pub(crate) mod kubelet;

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Longer than anything takes on a machine that is busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_bulkhead-api-server");

/// A cluster's directory with a server over it. Dropping it kills the server.
pub(crate) struct Cluster {
    pub(crate) dir: Arc<tempfile::TempDir>,
    pub(crate) address: SocketAddr,
    server: Child,
    options: Vec<String>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// Over an etcd.
    pub(crate) fn over(etcd: &bulkhead_test_etcd::Etcd) -> Self {
        Self::with(&["--etcd-servers", &etcd.url()])
    }

    /// With options of `serve`.
    pub(crate) fn with(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new(BINARY)
            .args(["init", "--name", "test", "--host", "box", "--dir"])
            .arg(dir.path().join("pki"))
            .status()
            .unwrap();
        assert!(made.success());
        Self::serve(Arc::new(dir), options.iter().map(|&option| option.into()).collect())
    }

    /// A backup of it, as `bulkhead-api-server backup` writes it.
    pub(crate) fn backup(&self) -> std::process::Output {
        let mut backup = Command::new(BINARY);
        backup.args(["backup", "--dir"]).arg(self.dir.path()).args(&self.options);
        backup.args(["--about", r#"{"name":"test"}"#]).output().unwrap()
    }

    /// A cluster restored from a backup, with options of `restore` and `serve`.
    pub(crate) fn restored(backup: &Path, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut restore = Command::new(BINARY);
        restore.args(["restore", "--dir"]).arg(dir.path()).args(options).arg(backup);
        let restored = restore.output().unwrap();
        assert!(restored.status.success(), "{restored:?}");
        Self::serve(Arc::new(dir), options.iter().map(|&option| option.into()).collect())
    }

    /// Another server with the same keys and options.
    pub(crate) fn peer(&self) -> Self {
        Self::serve(Arc::clone(&self.dir), self.options.clone())
    }

    fn serve(dir: Arc<tempfile::TempDir>, options: Vec<String>) -> Self {
        let (server, address) = spawn(dir.path(), &options);
        Self { dir, address, server, options }
    }

    /// Kills the server with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    /// Starts a server again over what the last one left.
    pub(crate) fn restart(&mut self) {
        (self.server, self.address) = spawn(self.dir.path(), &self.options);
    }

    pub(crate) fn pki(&self, file: &str) -> PathBuf {
        self.dir.path().join("pki").join(file)
    }

    /// Resident memory of the server in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.server.id())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    /// How many sockets the server has open.
    pub(crate) fn sockets(&self) -> usize {
        let all = std::fs::read_dir(format!("/proc/{}/fd", self.server.id())).unwrap();
        let links = all.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    }

    /// A client with the certificate `user` (`admin`, `host`), or with none.
    pub(crate) async fn client(&self, user: Option<&str>) -> Client {
        Client::connect(self, user).await
    }

    pub(crate) async fn admin(&self) -> Client {
        self.client(Some("admin")).await
    }

    /// Sends a signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.server.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn terminate(mut self) -> std::process::ExitStatus {
        self.signal("TERM");
        self.server.wait().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Starts a server on a free port; standard output is where it says that it is ready.
fn spawn(dir: &Path, options: &[String]) -> (Child, SocketAddr) {
    let mut server = Command::new(BINARY)
        // Nobody renews the leases of the tests' nodes.
        .args(["serve", "--listen", "127.0.0.1:0", "--node-monitor-grace-period", "86400"])
        .args(["--ready-fd", "1", "--dir"])
        .arg(dir)
        .args(options)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("ready ").expect("the server is ready");
    (server, address.parse().unwrap())
}

/// A port of loopback at which nobody listens, and nobody will while the socket lives.
pub(crate) fn unused_port() -> (TcpSocket, u16) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// TLS as `user` towards servers of the cluster's authority.
pub(crate) fn tls(cluster: &Cluster, user: Option<&str>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(cluster.pki("ca.crt")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match user {
        None => config.with_no_client_auth(),
        Some(user) => {
            let certificate =
                CertificateDer::from_pem_file(cluster.pki(&format!("{user}.crt"))).unwrap();
            let key = PrivateKeyDer::from_pem_file(cluster.pki(&format!("{user}.key"))).unwrap();
            config.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    }
}

/// TLS as the admin.
pub(crate) async fn connect(cluster: &Cluster) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(cluster.address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(tls(cluster, Some("admin"))));
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
}

/// Reads until what came ends with `expected`, and gives all of it.
pub(crate) async fn read_until(stream: &mut TlsStream<TcpStream>, expected: &str) -> String {
    let mut seen = String::new();
    while !seen.ends_with(expected) {
        let mut buffer = [0; 1024];
        let count = stream.read(&mut buffer).await.unwrap();
        assert_ne!(count, 0, "{seen}");
        seen.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    seen
}

/// One connection, and another when the server has closed it because it was idle.
pub(crate) struct Client {
    address: SocketAddr,
    connector: TlsConnector,
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Client {
    pub(crate) async fn connect(cluster: &Cluster, user: Option<&str>) -> Self {
        let (address, connector) =
            (cluster.address, TlsConnector::from(Arc::new(tls(cluster, user))));
        let sender = Self::handshake(address, &connector).await.unwrap();
        Self { address, connector, sender }
    }

    async fn handshake(
        address: SocketAddr,
        connector: &TlsConnector,
    ) -> std::io::Result<http1::SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(name, stream).await?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(std::io::Error::other)?;
        tokio::spawn(async move {
            // A server that is killed breaks it.
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> hyper::Result<http::Response<Incoming>> {
        let mut request =
            http::Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Err(closed) = self.sender.ready().await {
            let again = Self::handshake(self.address, &self.connector).await;
            self.sender = again.map_err(|_| closed)?;
        }
        self.sender.send_request(request.body(Full::new(body.into())).unwrap()).await
    }

    /// Sends JSON and returns the status and the JSON that is answered.
    pub(crate) async fn json(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        self.typed(method, path, "application/json", body).await
    }

    pub(crate) async fn typed(
        &mut self,
        method: &str,
        path: &str,
        media_type: &str,
        body: &Value,
    ) -> (u16, Value) {
        let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
        self.exchange(method, path, &[("content-type", media_type)], bytes).await
    }

    /// Sends bytes and returns the status and the JSON that is answered.
    pub(crate) async fn exchange(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> (u16, Value) {
        let response = self.send(method, path, headers, body).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&mut self, path: &str) -> (u16, Value) {
        self.json("GET", path, &Value::Null).await
    }

    pub(crate) async fn ok(&mut self, method: &str, path: &str, body: &Value) -> Value {
        let (code, answer) = self.json(method, path, body).await;
        assert!(code < 300, "{method} {path}: {code} {answer}");
        answer
    }
}

/// A watch's lines.
pub(crate) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    pub(crate) async fn open(client: &mut Client, path: &str) -> Self {
        let response = client.send("GET", path, &[], Bytes::new()).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        Self::of(response)
    }

    pub(crate) fn of(response: http::Response<Incoming>) -> Self {
        Self { body: response.into_body(), buffer: Vec::new() }
    }

    /// The next event; fails if none comes in time.
    pub(crate) async fn next(&mut self) -> Value {
        tokio::time::timeout(LIMIT, self.next_ever()).await.expect("an event")
    }

    /// The next event, whenever it comes.
    pub(crate) async fn next_ever(&mut self) -> Value {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).unwrap();
            }
            let frame = self.body.frame().await.expect("the watch goes on").unwrap();
            self.buffer.extend_from_slice(&frame.into_data().unwrap());
        }
    }
}

/// A ready node with room for what tests run.
pub(crate) fn node(name: &str, port: u16) -> (Value, Value) {
    let node = serde_json::json!({"metadata": {"name": name}});
    let resources = serde_json::json!({"cpu": "2", "memory": "1Gi", "pods": "110"});
    let status = serde_json::json!({"status": {
        "allocatable": resources, "capacity": resources,
        "conditions": [{"type": "Ready", "status": "True"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    (node, status)
}

pub(crate) async fn add_node(client: &mut Client, name: &str, port: u16) {
    let (node, status) = node(name, port);
    client.ok("POST", "/api/v1/nodes", &node).await;
    let path = format!("/api/v1/nodes/{name}/status");
    let (code, answer) =
        client.typed("PATCH", &path, "application/merge-patch+json", &status).await;
    assert_eq!(code, 200, "{answer}");
}

pub(crate) fn pod(name: &str, memory: &str) -> Value {
    serde_json::json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"containers": [
        {"name": "c", "image": "busybox:1", "resources": {"requests": {"memory": memory}}}]}})
}

/// Asks for `path` until `done` holds of the answer.
pub(crate) async fn until(client: &mut Client, path: &str, done: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let (_, answer) = client.get(path).await;
        if done(&answer) {
            return answer;
        }
        assert!(began.elapsed() < LIMIT, "{path} never came to be as expected: {answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
