//! What Services cost.

use std::net::Ipv4Addr;
use std::time::Instant;

use bulkhead_network::services::{Catalogue, Maps};
use serde_json::{Value, json};

use crate::support::{Cluster, pod};
use crate::{first_packets, median, milliseconds};

const ROUNDS: usize = 50;

/// The address of a Service.
fn address(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 1, 0).to_bits() + service)
}

/// The Service whose endpoints change, and the one that datagrams are sent to.
const CHANGED: u32 = 3;
const ASKED: u32 = 5;

/// The port of a Service and its endpoints. That flows of datagrams are ended is another matter than
/// the rules, so what changes has none.
fn port(service: u32) -> Value {
    json!({"name": "", "port": 53, "protocol": if service == ASKED { "UDP" } else { "TCP" }})
}

fn service(service: u32) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": format!("s{service}")},
        "spec": {"clusterIP": address(service), "ports": [port(service)]},
    })
}

/// A Service's endpoints, of which the first may not be ready. All are of node 2; that there are only
/// 250 addresses of them does not matter.
fn slice(service: u32, endpoints: u32, ready: bool) -> Value {
    let endpoint = |index: u32| {
        let host = u8::try_from((service * endpoints + index) % 250 + 1).unwrap();
        json!({
            "addresses": [pod(2, host)], "nodeName": "a-2",
            "targetRef": {"kind": "Pod", "uid": format!("pod-{service}-{index}")},
            "conditions": {"ready": ready || index != 0},
        })
    };
    json!({
        "metadata": {
            "namespace": "default", "name": format!("s{service}-1"),
            "labels": {"kubernetes.io/service-name": format!("s{service}")},
        },
        "addressType": "IPv4",
        "ports": [port(service)],
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
    })
}

pub(crate) async fn measure(services: u32, endpoints: u32) {
    let cluster = Cluster::new("a").await;
    let (one, two) = (cluster.node(1).await, cluster.node(2).await);
    let mut catalogue = Catalogue::new("a", cluster.uplink.cluster_address());
    let mut maps = Maps::default();
    for number in 0..services {
        catalogue.set_service(&service(number));
        catalogue.set_slice(&slice(number, endpoints, true));
    }
    let begun = Instant::now();
    cluster.network.apply(maps.replace(catalogue.table())).await.unwrap();
    let loaded = begun.elapsed();

    // From an EndpointSlice as a watch brings it, to when new connections follow it.
    let mut changes = Vec::new();
    for round in 0..ROUNDS {
        let news = slice(CHANGED, endpoints, round % 2 == 1);
        let begun = Instant::now();
        catalogue.set_slice(&news);
        cluster.network.apply(maps.change(catalogue.changes())).await.unwrap();
        changes.push(begun.elapsed());
    }

    let packets = first_packets(&one, &two, address(ASKED));
    println!(
        "{services:8}  {endpoints:9}  {:7.0?} ms  {:18.1?} ms  {:9.1?} µs",
        milliseconds(loaded),
        milliseconds(median(changes)),
        milliseconds(packets) * 1e3,
    );
    cluster.network.remove().await.unwrap();
}
