//! The proxy that serves a cluster's Ingresses: how it is started, and when it is ready.
//!
//! It listens on the host's loopback and lives in the cluster's network, where it reaches the API
//! server and pods.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddrV4};

use bulkhead_host_api::{ApiError, IngressPorts};
use bulkhead_network::Network;
use bulkhead_network::address::HOST;

use crate::daemon::Programs;
use crate::home::ClusterDir;
use crate::kubelet::client::Kube;
use crate::supervisor::{Place, Plan, Socket, Supervisor, Transport};

/// The IngressClass that it makes.
const CLASS: &str = "/apis/networking.k8s.io/v1/ingressclasses/bulkhead";

/// How it is started.
pub(crate) fn plan(
    programs: &Programs,
    dir: &ClusterDir,
    api_port: u16,
    ports: IngressPorts,
    network: &Network,
) -> Plan {
    let arguments: [OsString; 4] =
        ["--server".into(), format!("{HOST}:{api_port}").into(), "--pki".into(), dir.pki().into()];
    let socket = |option, port| Socket {
        option,
        transport: Transport::Tcp,
        address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
        place: Place::Host,
    };
    Plan {
        name: "the ingress",
        program: programs.ingress.clone(),
        arguments: arguments.into(),
        dir: dir.ingress(),
        log: dir.ingress_log(),
        place: Place::Cluster(network.clone()),
        sockets: vec![socket("--http-fd", ports.http), socket("--https-fd", ports.https)],
    }
}

/// Until it has made its class in a new cluster: an Ingress that is created from then on has it.
pub(crate) async fn ready(supervisor: &Supervisor, kube: &Kube) -> Result<(), ApiError> {
    supervisor.ready(|| async move { kube.get(CLASS).await.is_ok() }).await
}
