//! What Services cost.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use bulkhead_network::services::{Backends, Frontend, Maps, Protocol};

use crate::support::{Cluster, pod};
use crate::{first_packets, median, milliseconds};

const ROUNDS: usize = 50;

fn frontend(service: u32) -> Frontend {
    let ip = Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 1, 0).to_bits() + service);
    Frontend::Address(ip, Protocol::Udp, 53)
}

fn backends(service: u32, endpoints: u32, changed: bool) -> Backends {
    // All of node 2, on ports of their own: that they are as many addresses does not matter.
    let endpoint = |index: u32| {
        let host = u8::try_from((service * endpoints + index) % 250 + 1).unwrap();
        let port = 1000 + u16::try_from(index).unwrap() + u16::from(changed && index == 0) * 500;
        SocketAddrV4::new(pod(2, host), port)
    };
    Backends::new((0..endpoints).map(endpoint).collect(), None)
}

pub(crate) async fn measure(services: u32, endpoints: u32) {
    let cluster = Cluster::new("a").await;
    let (one, two) = (cluster.node(1).await, cluster.node(2).await);
    let mut maps = Maps::default();
    let table: BTreeMap<_, _> =
        (0..services).map(|s| (frontend(s), backends(s, endpoints, false))).collect();
    let begun = Instant::now();
    cluster.network.apply(maps.replace(table)).await.unwrap();
    let loaded = begun.elapsed();

    let mut changes = Vec::new();
    for round in 0..ROUNDS {
        let change = [(frontend(3), backends(3, endpoints, round % 2 == 0))];
        let begun = Instant::now();
        let mut transaction = maps.change(change);
        // The flows of datagrams are another matter than the rules.
        transaction.ended.clear();
        cluster.network.apply(transaction).await.unwrap();
        changes.push(begun.elapsed());
    }

    let Frontend::Address(to, ..) = frontend(5) else { return };
    let packets = first_packets(&one, &two, to);
    println!(
        "{services:8}  {endpoints:9}  {:7.0?} ms  {:18.1?} ms  {:9.1?} µs",
        milliseconds(loaded),
        milliseconds(median(changes)),
        milliseconds(packets) * 1e3,
    );
    cluster.network.remove().await.unwrap();
}
