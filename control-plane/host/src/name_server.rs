//! A cluster's name server: how it is started, and the Service by which pods find it.

use std::ffi::OsString;
use std::net::SocketAddrV4;

use bulkhead_host_api::ClusterName;
use bulkhead_network::address::{DNS, HOST, SERVICES};
use bulkhead_network::{Network, address};
use ipnet::Ipv4Net;
use serde_json::{Value, json};

use crate::daemon::Programs;
use crate::home::ClusterDir;
use crate::kubelet::client::Kube;
use crate::supervisor::{Place, Plan, Socket, Transport};

/// What names in a cluster end with.
pub(crate) const DOMAIN: &str = "cluster.local";

/// The Service's namespace and name, which users of Kubernetes look for.
const NAMESPACE: &str = "kube-system";
const SERVICE: &str = "kube-dns";

/// How the name server is started: its sockets are in the cluster's network, so that nobody else
/// reaches it; itself it asks the host's name servers as any process of the host does.
pub(crate) fn plan(
    programs: &Programs,
    dir: &ClusterDir,
    (pods, api_port): (Ipv4Net, u16),
    network: &Network,
) -> Plan {
    let mut arguments: Vec<OsString> = vec![
        "--api-server".into(),
        format!("127.0.0.1:{api_port}").into(),
        "--pki".into(),
        dir.pki().into(),
        "--domain".into(),
        DOMAIN.into(),
        "--address".into(),
        DNS.to_string().into(),
    ];
    for network in [pods, SERVICES, address::NODES] {
        arguments.extend(["--network".into(), network.to_string().into()]);
    }
    let socket = |option, transport| Socket {
        option,
        transport,
        address: SocketAddrV4::new(HOST, address::DNS_PORT),
        place: Place::Cluster(network.clone()),
    };
    Plan {
        name: "the name server",
        program: programs.dns.clone(),
        arguments,
        dir: dir.name_server(),
        log: dir.name_server_log(),
        place: Place::Host,
        sockets: vec![socket("--udp-fd", Transport::Udp), socket("--tcp-fd", Transport::Tcp)],
    }
}

/// Makes the Service that leads to it, as the cluster's administrator. What is there stays; a
/// cluster goes without if something else has its address.
pub(crate) async fn register(cluster: &ClusterName, admin: &Kube) {
    for (path, object) in objects() {
        match admin.create(path, &object).await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => {}
            Err(error) => tracing::error!("cluster {cluster}: the Service {SERVICE}: {error}"),
        }
    }
}

fn objects() -> [(&'static str, Value); 2] {
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": NAMESPACE,
            "name": SERVICE,
            "labels": {
                "k8s-app": SERVICE,
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "bulkhead-dns",
            },
        },
        "spec": {
            "clusterIP": DNS,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        },
    });
    let port = address::DNS_PORT;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": NAMESPACE,
            "name": SERVICE,
            "labels": {
                "kubernetes.io/service-name": SERVICE,
                "endpointslice.kubernetes.io/managed-by": "bulkhead-host",
            },
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [HOST], "conditions": {"ready": true}}],
        "ports": [
            {"name": "dns", "port": port, "protocol": "UDP"},
            {"name": "dns-tcp", "port": port, "protocol": "TCP"},
        ],
    });
    [
        ("/api/v1/namespaces/kube-system/services", service),
        ("/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices", slice),
    ]
}
