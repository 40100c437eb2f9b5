//! A node with a kernel: a network namespace behind a tap, set up as a node's agent does, with pods
//! in namespaces of their own. Frames are carried between the host's tap and the guest's.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};

use super::{Cluster, LIMIT, in_namespace, pod, run};

pub struct Guest {
    index: u32,
    cluster: &'static str,
}

/// A pod's namespace and address.
#[derive(Debug, Clone)]
pub struct Pod {
    pub namespace: String,
    pub ip: Ipv4Addr,
}

impl Guest {
    pub async fn boot(cluster: &Cluster, index: u32) -> Self {
        let node = cluster.node(index).await;
        let (mac, ip) = (node.link.mac(), node.link.ip());
        let outer = File::from(node.into_tap());
        let this = Self { index, cluster: cluster.name };
        let namespace = this.namespace();
        run(&format!("ip netns add {namespace}"));
        let inner = in_namespace(&namespace, || bulkhead_vmm_api::tap::open("eth0").unwrap());
        carry(&outer, &File::from(inner));
        // As the agent: what comes from pods goes out by eth0, and of what is for the node itself
        // what may be for a node port.
        run(&format!(
            "ip -n {namespace} link set lo up
             ip -n {namespace} link set eth0 address {mac} up
             ip -n {namespace} addr add {ip}/32 dev eth0
             ip -n {namespace} route add default via 169.254.1.1 dev eth0 onlink
             ip -n {namespace} route add default via 169.254.1.1 dev eth0 onlink table 100
             ip -n {namespace} rule add iif eth0 lookup local pref 1
             ip -n {namespace} rule add iif lo lookup local pref 2
             ip -n {namespace} rule add to {ip} ipproto tcp dport 30000-32767 lookup 100 pref 3
             ip -n {namespace} rule add to {ip} ipproto udp dport 30000-32767 lookup 100 pref 4
             ip -n {namespace} rule add lookup local pref 6
             ip -n {namespace} rule del pref 0
             ip -n {namespace} rule add iif eth0 lookup main pref 100
             ip -n {namespace} rule add iif lo lookup main pref 101
             ip -n {namespace} rule add lookup 100 pref 102
             ip netns exec {namespace} sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward
                 echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter'"
        ));
        this
    }

    pub fn namespace(&self) -> String {
        format!("{}-node{}", self.cluster, self.index)
    }

    pub fn pod(&self, host: u8) -> Pod {
        let (node, ip) = (self.namespace(), pod(u8::try_from(self.index).unwrap(), host));
        let (namespace, veth) = (format!("{node}-{host}"), format!("veth{host}"));
        run(&format!(
            "ip netns add {namespace}
             ip link add name eth0 netns {namespace} type veth peer name {veth} netns {node}
             ip netns exec {node} sh -c 'echo 1 >/proc/sys/net/ipv4/conf/{veth}/proxy_arp
                 echo 0 >/proc/sys/net/ipv4/neigh/{veth}/proxy_delay'
             ip -n {node} link set {veth} up; ip -n {node} route add {ip} dev {veth}
             ip -n {namespace} link set lo up; ip -n {namespace} link set eth0 up
             ip -n {namespace} addr add {ip}/32 dev eth0
             ip -n {namespace} route add default via 169.254.1.1 dev eth0 onlink"
        ));
        Pod { namespace, ip }
    }

    /// The node itself, as a pod with the host's network is.
    pub fn itself(&self) -> Pod {
        Pod { namespace: self.namespace(), ip: bulkhead_network::address::node_ip(self.index) }
    }
}

/// Carries frames both ways until either end is gone.
fn carry(one: &File, other: &File) {
    for (from, to) in [(one, other), (other, one)] {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut buffer = vec![0; 70_000];
            while let Ok(length) = from.read(&mut buffer) {
                // A link that is down does not take it.
                let _ = to.write_all(&buffer[..length]);
            }
        });
    }
}

impl Pod {
    pub fn at(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip, port)
    }

    /// Tells whoever connects its name and who they are.
    pub fn serve(&self, port: u16) -> SocketAddrV4 {
        let address = self.at(port);
        let listener = in_namespace(&self.namespace, || TcpListener::bind(address).unwrap());
        let name = self.namespace.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, name) = (stream.unwrap(), name.clone());
                std::thread::spawn(move || {
                    let peer = stream.peer_addr().unwrap().ip();
                    writeln!(stream, "{name} {peer}").unwrap();
                    // Open for as long as the other side wants, and saying back what it says.
                    let mut echo = stream.try_clone().unwrap();
                    let _ = std::io::copy(&mut stream, &mut echo);
                });
            }
        });
        address
    }

    /// As [`Pod::serve`], by datagrams.
    pub fn serve_udp(&self, port: u16) -> SocketAddrV4 {
        let address = self.at(port);
        let socket = in_namespace(&self.namespace, || UdpSocket::bind(address).unwrap());
        let name = self.namespace.clone();
        std::thread::spawn(move || {
            loop {
                let (_, peer) = socket.recv_from(&mut [0; 100]).unwrap();
                socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer).unwrap();
            }
        });
        address
    }

    pub fn connect(&self, ip: Ipv4Addr, port: u16) -> std::io::Result<Connection> {
        connect(&self.namespace, (ip, port).into())
    }

    /// Who answers there, and as whom they see it.
    #[track_caller]
    pub fn ask(&self, ip: Ipv4Addr, port: u16) -> (String, IpAddr) {
        self.connect(ip, port).unwrap().who
    }
}

/// A connection that is open.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Who answered, and whom they see.
    pub who: (String, IpAddr),
}

fn connect(namespace: &str, to: SocketAddr) -> std::io::Result<Connection> {
    Connection::on(in_namespace(namespace, || TcpStream::connect_timeout(&to, LIMIT))?)
}

/// From the host's own namespace.
pub fn connect_from_host(to: SocketAddr) -> std::io::Result<Connection> {
    Connection::on(TcpStream::connect_timeout(&to, LIMIT)?)
}

fn greet(stream: &mut TcpStream) -> std::io::Result<(String, IpAddr)> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && byte != *b"\n" {
        line.push(byte[0]);
    }
    Ok(parse(&String::from_utf8_lossy(&line)))
}

/// What a datagram's answer says.
pub fn parse(line: &str) -> (String, IpAddr) {
    let (name, peer) = line.split_once(' ').unwrap();
    (name.to_owned(), peer.parse().unwrap())
}

impl Connection {
    fn on(mut stream: TcpStream) -> std::io::Result<Self> {
        let who = greet(&mut stream)?;
        Ok(Self { stream, who })
    }

    /// Whether it still carries.
    pub fn echoes(&mut self) -> bool {
        let mut answer = [0; 5];
        self.stream.write_all(b"still").is_ok()
            && self.stream.read_exact(&mut answer).is_ok()
            && answer == *b"still"
    }
}
