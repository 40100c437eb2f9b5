//! What NetworkPolicies cost.

use std::net::Ipv4Addr;
use std::time::Instant;

use bulkhead_network::address::{DNS, node_ip};
use bulkhead_network::policy::Catalogue;
use serde_json::{Value, json};

use crate::support::{Cluster, pod};
use crate::{first_packets, median, milliseconds};

const ROUNDS: u32 = 50;
/// How many pods a namespace has, and how many applications they are of.
const NAMESPACE: u32 = 100;
const APPLICATIONS: u32 = 20;

fn address(number: u32) -> (Ipv4Addr, Ipv4Addr) {
    let (node, host) = (number % 20 + 1, u8::try_from(number / 20 + 2).unwrap());
    (pod(u8::try_from(node).unwrap(), host), node_ip(node))
}

fn pod_object(number: u32, version: u32) -> Value {
    let labels = json!({
        "app": format!("app{}", number / 20 % APPLICATIONS), "version": version.to_string(),
    });
    json!({
        "metadata": {"uid": format!("pod{number}"), "labels": labels,
                     "namespace": format!("ns{}", number / NAMESPACE)},
        "spec": {"containers": [{"ports": [{"name": "dns", "protocol": "UDP", "containerPort": 53}]}]},
    })
}

/// One application of a namespace and its clients, which are of the same namespace, of the whole
/// team, and outside; and where it may go itself.
fn policy(number: u32, namespaces: u32, version: u32) -> Value {
    let app =
        |number: u32| json!({"matchLabels": {"app": format!("app{}", number % APPLICATIONS)}});
    let namespace = number % namespaces;
    let application = number / namespaces;
    let peers = json!([
        {"podSelector": app(application + 1)},
        {"podSelector": {"matchLabels": {"version": version.to_string()}}},
        {"podSelector": app(application),
         "namespaceSelector": {"matchLabels": {"team": (namespace % 5).to_string()}}},
        {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}},
    ]);
    let ports = json!([{"protocol": "UDP", "port": 53}, {"port": 8000, "endPort": 8080},
                       {"protocol": "UDP", "port": "dns"}]);
    json!({
        "metadata": {"namespace": format!("ns{namespace}"), "name": format!("policy{application}")},
        "spec": {"podSelector": app(application), "policyTypes": ["Ingress", "Egress"],
                 "ingress": [{"from": peers, "ports": ports}],
                 "egress": [{"to": peers, "ports": ports}]},
    })
}

pub(crate) async fn measure(policies: u32, pods: u32) {
    let cluster = Cluster::new("p").await;
    let (one, two) = (cluster.node(1).await, cluster.node(2).await);
    let network = &cluster.network;
    let namespaces = pods.div_ceil(NAMESPACE);
    let mut catalogue = Catalogue::new(DNS);
    let begun = Instant::now();
    for number in 0..namespaces {
        let labels = json!({"team": (number % 5).to_string()});
        catalogue
            .set_namespace(&json!({"metadata": {"name": format!("ns{number}"), "labels": labels}}));
    }
    for number in 0..pods {
        catalogue.set_pod(&pod_object(number, 0));
        let (ip, node) = address(number);
        catalogue.set_address(&format!("pod{number}"), ip, node);
    }
    for number in 0..policies {
        catalogue.set_policy(&policy(number, namespaces, 0)).unwrap();
    }
    let transaction = catalogue.replace(1);
    let read = begun.elapsed();
    network.enforce(&transaction).await.unwrap();
    let loaded = begun.elapsed();

    let (mut pod_changes, mut policy_changes) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // It enters and leaves a set of peers.
        let begun = Instant::now();
        catalogue.set_pod(&pod_object(7, (round + 1) % 2));
        network.enforce(&catalogue.changes()).await.unwrap();
        pod_changes.push(begun.elapsed());
        let begun = Instant::now();
        if policies > 0 {
            catalogue.set_policy(&policy(3, namespaces, round % 2)).unwrap();
        }
        network.enforce(&catalogue.changes()).await.unwrap();
        policy_changes.push(begun.elapsed());
    }
    let packets = first_packets(&one, &two, address(1).0);
    println!(
        "{policies:8}  {pods:5}  {:4.0?}, {:4.0?} ms  {:13.1?} ms  {:9.1?} ms  {:9.1?} µs",
        milliseconds(read),
        milliseconds(loaded),
        milliseconds(median(pod_changes)),
        milliseconds(median(policy_changes)),
        milliseconds(packets) * 1e3,
    );
    cluster.network.remove().await.unwrap();
}
