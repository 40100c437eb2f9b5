//! What Services and NetworkPolicies cost as their number grows: loading them, one change until it
//! is in force, and the first packet of a connection, over real rules in a network namespace.
//!
//! `cargo run --release -p bulkhead-network --example scale [services|policies]`, as root or where user
//! namespaces are allowed. Everything goes with the process.

mod policies;
mod services;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::time::{Duration, Instant};

use support::{Node, pod};

const PACKETS: u16 = 2000;

fn main() {
    let part = std::env::args().nth(1);
    let wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
    if !wanted("services") && !wanted("policies") {
        eprintln!("usage: scale [services|policies]");
        std::process::exit(2);
    }
    if let Some(mut command) = support::elsewhere() {
        panic!("unshare: {}", command.args(std::env::args().skip(1)).exec());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if wanted("services") {
        println!("Services  endpoints  all loaded  one endpoint's change  first packet");
        for services in [10, 5000] {
            runtime.block_on(services::measure(services, 10));
        }
    }
    if wanted("policies") {
        println!("policies   pods  read, loaded  one pod's change  one policy's  first packet");
        for (policies, pods) in [(0, 50), (10, 50), (1000, 5000)] {
            runtime.block_on(policies::measure(policies, pods));
        }
    }
}

/// What the first packets of connections to an address take, from the first pod of node 1 to
/// whatever pod of node 2 is behind it; of UDP.
fn first_packets(one: &Node, two: &Node, to: Ipv4Addr) -> Duration {
    let mut packets = Vec::new();
    for source in 0..PACKETS {
        let mut frame = one.frame(pod(1, 2), to, "first");
        frame.udp.ports = (10_000 + source, 53);
        let begun = Instant::now();
        one.send(&frame);
        two.receive();
        packets.push(begun.elapsed());
    }
    median(packets)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

const fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
