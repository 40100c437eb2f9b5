//! A cluster's API server: its certificates are made once; how it is started, and when it is ready.

use std::ffi::OsString;
use std::net::SocketAddrV4;

use base64::Engine as _;
use bulkhead_host_api::{ApiError, ClusterName};
use bulkhead_network::Network;
use bulkhead_network::address::HOST;
use tokio::process::Command;

use crate::daemon::{Host, Programs};
use crate::fault;
use crate::home::ClusterDir;
use crate::kubelet::client::Kube;
use crate::supervisor::{Place, Plan, Socket, Supervisor, Transport};

/// Makes the cluster's certificates and kubeconfig, unless they are there.
pub(crate) async fn init(
    host: &Host,
    name: &ClusterName,
    dir: &ClusterDir,
    port: u16,
) -> Result<(), ApiError> {
    // One of an earlier version gets what it has not yet.
    let complete = ["ingress.crt", "dns.crt"].iter().all(|file| dir.pki().join(file).exists());
    if dir.kubeconfig().exists() && complete {
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

/// How the API server is started: on the host's loopback for clients, on a socket in the cluster's
/// network for nodes and pods.
pub(crate) fn plan(programs: &Programs, dir: &ClusterDir, port: u16, network: &Network) -> Plan {
    let arguments: [OsString; 7] = [
        "serve".into(),
        "--dir".into(),
        dir.path().into(),
        "--listen".into(),
        format!("127.0.0.1:{port}").into(),
        "--advertise-address".into(),
        HOST.to_string().into(),
    ];
    Plan {
        name: "the API server",
        program: programs.api_server.clone(),
        arguments: arguments.into(),
        dir: dir.path().to_owned(),
        log: dir.api_server_log(),
        place: Place::Host,
        sockets: vec![Socket {
            option: "--listen-fd",
            transport: Transport::Tcp,
            address: SocketAddrV4::new(HOST, port),
            place: Place::Cluster(network.clone()),
        }],
    }
}

/// Until it answers that it is ready.
pub(crate) async fn ready(supervisor: &Supervisor, kube: &Kube) -> Result<(), ApiError> {
    supervisor.ready(|| async move { kube.get_text("/readyz").await.is_ok() }).await
}
