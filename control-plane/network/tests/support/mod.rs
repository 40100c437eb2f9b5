//! A host of its own for each test: network and mount namespaces that end with it, so that the
//! machine's own network is neither seen nor changed.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test file uses its part")]

pub mod frame;
pub mod guest;

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bulkhead_network::{Network, NodeLink, Plan, Uplink};
use frame::{Frame, Udp};

const ISOLATED: &str = "BULKHEAD_TEST_ISOLATED";

/// How long what must come may take on a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(90);

/// This program once more, on a host of its own; none if it runs there already.
pub fn elsewhere() -> Option<Command> {
    if std::env::var_os(ISOLATED).is_some() {
        return None;
    }
    let root = nix::unistd::geteuid().is_root();
    let become_root: &[&str] = if root { &[] } else { &["--user", "--map-root-user"] };
    let mut command = Command::new("unshare");
    command
        .args(become_root)
        .args(["--net", "--mount", "--propagation", "private", "sh", "-euc"])
        .arg("mount -t tmpfs tmpfs /run; ip link set lo up; exec \"$0\" \"$@\"")
        .arg(std::env::current_exe().unwrap())
        .env(ISOLATED, "1");
    Some(command)
}

/// Runs the test of that name in a process of its own, on a host of its own.
#[track_caller]
pub fn isolated(name: &str, test: impl AsyncFnOnce()) {
    let Some(mut command) = elsewhere() else {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(test());
    };
    let output = command
        .args([name, "--exact", "--nocapture"])
        .output()
        .expect("unshare, of Debian's util-linux");
    assert!(
        output.status.success(),
        "needs root, or user namespaces, and iproute2 and nftables:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let ran = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(ran, "no test is called {name}");
}

/// Runs `ip` or another of the system's programs.
#[track_caller]
pub fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-euc", command]).output().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command}: {}", said(&output.stderr));
    said(&output.stdout)
}

pub fn plan() -> Plan {
    Plan {
        pods: "10.244.0.0/16".parse().unwrap(),
        services: "10.96.0.0/12".parse().unwrap(),
        api_port: API_PORT,
        loopbacks: vec![OUTSIDE_LOOPBACK],
    }
}

pub fn link(index: u32) -> NodeLink {
    NodeLink { index, pods: format!("10.244.{index}.0/24").parse().unwrap() }
}

/// The address of a pod on a node.
pub fn pod(node: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, host)
}

/// Where the API server listens.
pub const API_PORT: u16 = 6443;

/// A machine on the host's network.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// One that is a loopback in truth.
pub const OUTSIDE_LOOPBACK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
/// The host's own address on that network.
pub const HOST_OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Gives the host a network with one machine on it.
pub fn make_outside() {
    run("ip netns add outside; ip link add eth0 type veth peer name eth0 netns outside
         ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up
         ip -n outside addr add 192.0.2.1/24 dev eth0; ip -n outside addr add 192.0.2.3/24 dev eth0
         ip -n outside link set eth0 up; ip -n outside link set lo up");
}

/// Works in a named namespace.
pub fn in_namespace<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(Path::new("/run/netns").join(name)).unwrap();
    in_file(&file, work)
}

/// Works in a namespace.
pub fn in_file<T: Send>(namespace: &(impl AsFd + Sync), work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let entered = scope.spawn(|| {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        entered.join().unwrap()
    })
}

/// A cluster whose nodes are the test.
pub struct Cluster {
    pub name: &'static str,
    pub network: Network,
    pub uplink: Uplink,
}

impl Cluster {
    pub async fn new(name: &'static str) -> Self {
        let network = Network::new(name);
        let uplink = network.ensure(&plan()).await.unwrap();
        Self { name, network, uplink }
    }

    /// What nft says of the cluster's rules.
    pub fn rules(&self) -> String {
        run(&format!("ip netns exec bulkhead-{} nft list ruleset", self.name))
    }

    pub async fn node(&self, index: u32) -> Node {
        let link = link(index);
        let tap = self.network.tap(link).await.unwrap();
        let gateway = run(&format!(
            "ip netns exec bulkhead-{} cat /sys/class/net/tap{index}/address",
            self.name
        ));
        Node { link, tap: File::from(tap), gateway: frame::parse_mac(gateway.trim()) }
    }
}

/// A node whose kernel is the test: it writes and reads frames as root in it could.
pub struct Node {
    pub link: NodeLink,
    tap: File,
    /// The host's Ethernet address on the tap.
    pub gateway: [u8; 6],
}

impl Node {
    pub fn into_tap(self) -> OwnedFd {
        self.tap.into()
    }

    pub fn send(&self, frame: &Frame) {
        self.send_bytes(&frame.bytes());
    }

    pub fn send_bytes(&self, frame: &[u8]) {
        frame::write(&self.tap, frame);
    }

    /// An honest frame of one of its pods.
    pub fn frame(&self, from: Ipv4Addr, to: Ipv4Addr, word: &str) -> Frame {
        Frame {
            destination: self.gateway,
            source: self.link.mac().0,
            udp: Udp { from, to, ports: (4000, 5000), word: word.to_owned() },
        }
    }

    pub fn send_from(&self, from: Ipv4Addr, to: Ipv4Addr, word: &str) {
        self.send(&self.frame(from, to, word));
    }

    /// The next datagram that comes to the node.
    #[track_caller]
    pub fn receive(&self) -> Udp {
        loop {
            let bytes = frame::read(&self.tap, LIMIT).expect("nothing came");
            if let Some(udp) = Udp::parse(&bytes) {
                return udp;
            }
        }
    }

    /// Waits until a TCP segment comes to the node, which it does not answer.
    pub fn meets_tcp(&self) {
        const TCP: u8 = 6;
        let is_tcp =
            |frame: &[u8]| frame.get(12..14) == Some(&[0x08, 0x00]) && frame.get(23) == Some(&TCP);
        while !is_tcp(&frame::read(&self.tap, LIMIT).expect("nothing came")) {}
    }

    /// Sends an ARP packet; what the host answers to it, if it does.
    pub fn answer_to_arp(&self, request: &[u8]) -> Option<Vec<u8>> {
        frame::write(&self.tap, request);
        self.send_from(pod_of(self), pod_of(self), "end");
        loop {
            let bytes = frame::read(&self.tap, LIMIT).expect("nothing came");
            match Udp::parse(&bytes) {
                Some(udp) if udp.word == "end" => return None,
                Some(_) => {}
                None if bytes.get(12..14) == Some(&[0x08, 0x06]) => return Some(bytes),
                None => {}
            }
        }
    }
}

fn pod_of(node: &Node) -> Ipv4Addr {
    pod(u8::try_from(node.link.index).unwrap(), 9)
}
