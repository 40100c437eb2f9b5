//! The network between nodes: pods on two of them against two guests of QEMU's on a bridge; what a
//! Service adds. And what Services cost as their number grows, which takes no guests.

use std::process::Command;
use std::time::Duration;

use bulkhead_tests::{Home, Kubectl, Outcome, pod, setting, until};
use serde_json::{Value, json};

use crate::machine::{Device, Machine, Monitor};
use crate::{median, table::Table};

/// What one side did in one round.
struct Round {
    /// Mbit/s that arrived.
    rate: f64,
    /// Microseconds there and back.
    latency: f64,
}

/// How many rounds there are unless it is said: each takes the better part of a minute in an emulated
/// host, most of it the measured seconds themselves.
pub(crate) const ROUNDS: usize = 5;

/// Compares pods with guests of either monitor on a bridge, and pods with and without a Service, in so
/// many rounds, in each of which every side takes its turn. Who is first changes from round to round: a
/// long run warms its end, and what is measured just after another thing meets what that left.
pub(crate) fn measure(rounds: usize, table: &mut Table) {
    let home = Home::new();
    let cluster = home.cluster("net", 2);
    cluster.load_image("nettools");
    let pods = Pods::start(cluster.kubectl());
    let bridge = Bridge::new();
    let sides: [&dyn Fn() -> Round; 3] =
        [&|| pods.round(), &|| bridge.round(Monitor::Qemu), &|| bridge.round(Monitor::Bulkhead)];
    let ways = [pods.address.as_str(), pods.service.as_str()];
    let mut loads = [const { (Vec::new(), Vec::new()) }; 3];
    let mut hops = [const { Vec::new() }; 2];
    for round in 0..rounds {
        for turn in 0..sides.len() {
            let turn = (round + turn) % sides.len();
            let Round { rate, latency } = sides[turn]();
            loads[turn].0.push(rate);
            loads[turn].1.push(latency);
        }
        for turn in 0..ways.len() {
            let turn = (round + turn) % ways.len();
            hops[turn].push(pods.latency(ways[turn]));
        }
        eprintln!(
            "  round {round}: pods, QEMU, on a bridge {loads:.0?}; direct, Service {hops:.0?}"
        );
    }
    let [ours, qemu, wire] = loads.map(|(rate, latency)| (median(rate), median(latency)));
    table.ratio("iperf3 TCP, pods on two nodes; QEMU's guests", ours.0, qemu.0, "Mbit/s", "≥ 1");
    table.ratio("sockperf TCP, there and back, the same", ours.1, qemu.1, "µs", "≤ 1");
    table.ratio("iperf3 TCP, guests of both on one bridge", wire.0, qemu.0, "Mbit/s", "–");
    table.ratio("sockperf TCP, there and back, the same", wire.1, qemu.1, "µs", "–");
    let [direct, service] = hops.map(median);
    table.ratio("sockperf TCP, by a Service; by the pod's address", service, direct, "µs", "≤ 1.1");
}

/// Pods with the programs on two nodes.
struct Pods {
    kubectl: Kubectl,
    /// The server's address.
    address: String,
    /// That of its Service.
    service: String,
}

impl Pods {
    fn start(kubectl: Kubectl) -> Self {
        let start = |name: &str, node: &str, script: &str| {
            let mut pod = pod(name, "nettools", script);
            pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
            kubectl.apply(&pod);
        };
        start("server", "net-1", "iperf3 -s & exec sockperf server --tcp -i 0.0.0.0");
        start("client", "net-2", "exec sleep 1000000");
        kubectl.apply(&json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "server"},
            "spec": {"selector": {"app": "server"}, "ports": [{"port": 11111}]},
        }));
        kubectl.wait_phase("client", "Running");
        let server = kubectl.wait_phase("server", "Running");
        let service = kubectl.run(&["get", "service", "server", "-o", "json"]).json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (address, service) =
            (text(&server["status"]["podIP"]), text(&service["spec"]["clusterIP"]));
        let pods = Self { kubectl, address, service };
        for address in [&pods.address, &pods.service] {
            until("the server answers", Duration::from_secs(60), || {
                let outcome = pods.ping_pong(address, "1");
                if outcome.code == 0 { Ok(()) } else { Err(outcome.to_string()) }
            });
        }
        pods
    }

    fn exec(&self, command: &[&str]) -> Outcome {
        self.kubectl.run(&[&["exec", "client", "--"], command].concat())
    }

    /// Both programs at once, as a guest on a bridge runs them: the client that asks for it starts
    /// before what it would disturb.
    fn round(&self) -> Round {
        let script = "iperf3 -c $0 -t 3 -J; sockperf ping-pong --tcp -i $0 -t 3";
        let said = self.exec(&["sh", "-c", script, &self.address]).ok();
        Round { rate: rate(&said), latency: latency(&said) }
    }

    fn latency(&self, address: &str) -> f64 {
        latency(&self.ping_pong(address, "3").ok())
    }

    fn ping_pong(&self, address: &str, seconds: &str) -> Outcome {
        self.exec(&["sockperf", "ping-pong", "--tcp", "-i", address, "-t", seconds])
    }
}

/// A bridge with two taps, gone when dropped.
struct Bridge;

const BRIDGE: &str = "bench-bridge";
const TAPS: [&str; 2] = ["bench-tap1", "bench-tap2"];

impl Bridge {
    fn new() -> Self {
        ip(&format!("link add {BRIDGE} type bridge"));
        for tap in TAPS {
            ip(&format!("tuntap add {tap} mode tap vnet_hdr"));
            ip(&format!("link set {tap} master {BRIDGE} up"));
        }
        ip(&format!("link set {BRIDGE} up"));
        Self
    }

    /// Boots two guests, and has one ask the other.
    fn round(&self, monitor: Monitor) -> Round {
        let [one, two] = TAPS.map(Device::Tap);
        let mut server = Machine::start(monitor, "net-server", one);
        server.line("net-server");
        let mut client = Machine::start(monitor, "net-client", two);
        let rate = rate(&client.line("iperf3 "));
        let latency = latency(&client.line("sockperf "));
        client.wait();
        Round { rate, latency }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        for link in TAPS.into_iter().chain([BRIDGE]) {
            drop(Outcome::of(Command::new("ip").args(["link", "delete", link])));
        }
    }
}

fn ip(arguments: &str) {
    Outcome::of(Command::new("ip").args(arguments.split(' '))).ok();
}

/// Mbit/s that arrived, of what `iperf3 -J` says.
fn rate(said: &str) -> f64 {
    let json = said.find('{').map_or(said, |start| &said[start..]);
    // Other programs may have said more after it.
    let report = serde_json::Deserializer::from_str(json).into_iter::<Value>().next();
    let report = match report {
        Some(Ok(report)) => report,
        other => panic!("iperf3: {other:?}: {said}"),
    };
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    bits.unwrap_or_else(|| panic!("iperf3: {said}")) / 1e6
}

/// Microseconds there and back, of what sockperf says of one way.
fn latency(said: &str) -> f64 {
    let (_, rest) = said.split_once("Latency is ").unwrap_or_else(|| panic!("sockperf: {said}"));
    let one_way = rest.split_whitespace().next().and_then(|number| number.parse::<f64>().ok());
    2.0 * one_way.unwrap_or_else(|| panic!("sockperf: {said}"))
}

/// What an example of the network's own measures over real rules, without guests.
pub(crate) fn services(table: &mut Table) {
    let said = Outcome::of(Command::new(setting("BULKHEAD_BENCH_SCALE")).arg("services")).ok();
    // Services, endpoints of each, then numbers and their units: all loaded, a change, a first packet.
    let rows = said.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words.get(at)?.parse::<f64>().ok();
        Some((number(0)?, number(4)?, number(6)?))
    });
    let rows: Vec<_> = rows.collect();
    let [few, many] = rows.as_slice() else { panic!("the example said {said}") };
    let change = format!("{:.1} ms", many.1);
    table.row(
        &format!("one endpoint's change among {} Services with 10 each", many.0),
        change.clone(),
        "–".into(),
        change,
        "≤ 50 ms",
    );
    let figure = format!("a connection's first packet, among {} Services; {}", many.0, few.0);
    table.ratio(&figure, many.2, few.2, "µs", "≤ 1.1");
}
