//! What Services cost as their number grows: loading them, one endpoint's change until it is in
//! force, and the first packet of a connection, over real rules in a network namespace.
//!
//! `cargo run --release -p bulkhead-network --example scale`, as root or where user namespaces are
//! allowed. Everything goes with the process.

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use bulkhead_network::services::{Backends, Frontend, Maps, Protocol};
use support::{Cluster, pod};

const INSIDE: &str = "BULKHEAD_SCALE_INSIDE";
const ROUNDS: usize = 50;
const PACKETS: u16 = 2000;

fn main() {
    if std::env::var_os(INSIDE).is_none() {
        let root = nix::unistd::geteuid().is_root();
        let become_root: &[&str] = if root { &[] } else { &["--user", "--map-root-user"] };
        let error = Command::new("unshare")
            .args(become_root)
            .args(["--net", "--mount", "--propagation", "private", "sh", "-euc"])
            .arg("mount -t tmpfs tmpfs /run; ip link set lo up; exec \"$0\"")
            .arg(std::env::current_exe().unwrap())
            .env(INSIDE, "1")
            .exec();
        panic!("unshare: {error}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!("Services  endpoints  all loaded  one endpoint's change  first packet");
    for services in [10, 5000] {
        runtime.block_on(measure(services, 10));
    }
}

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

async fn measure(services: u32, endpoints: u32) {
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
    let mut packets = Vec::new();
    for source in 0..PACKETS {
        let mut frame = one.frame(pod(1, 2), to, "first");
        frame.udp.ports = (10_000 + source, 53);
        let begun = Instant::now();
        one.send(&frame);
        two.receive();
        packets.push(begun.elapsed());
    }
    println!(
        "{services:8}  {endpoints:9}  {:7.0?} ms  {:18.1?} ms  {:9.1?} µs",
        loaded.as_secs_f64() * 1e3,
        median(changes).as_secs_f64() * 1e3,
        median(packets).as_secs_f64() * 1e6,
    );
    cluster.network.remove().await.unwrap();
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
