//! Where a Service is met, and where it leads.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

/// A transport protocol that Services can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Kubernetes' name of it; TCP where an object does not say.
    pub(crate) fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// The number that it has in IP's header.
    const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// Parts of a key in a map, each of which takes a multiple of four bytes there.
pub(super) fn concat(parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::new();
    for part in parts {
        key.extend_from_slice(part);
        key.resize(key.len().next_multiple_of(4), 0);
    }
    key
}

/// Where connections are met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// At an address, from wherever.
    Address(Ipv4Addr, Protocol, u16),
    /// At an address, from one node and its pods: the node's index.
    FromNode(u32, Ipv4Addr, Protocol, u16),
    /// At every node's address.
    NodePort(Protocol, u16),
}

impl Frontend {
    /// Its protocol and port.
    #[must_use]
    pub const fn port(&self) -> (Protocol, u16) {
        match *self {
            Self::Address(_, protocol, port)
            | Self::FromNode(_, _, protocol, port)
            | Self::NodePort(protocol, port) => (protocol, port),
        }
    }

    /// Its key in its map.
    pub(super) fn key(&self) -> Vec<u8> {
        let (protocol, port) = self.port();
        let (protocol, port) = (&[protocol.number()][..], &port.to_be_bytes()[..]);
        match self {
            Self::Address(ip, ..) => concat(&[&ip.octets(), protocol, port]),
            // A group is a number of the host's.
            Self::FromNode(node, ip, ..) => {
                concat(&[&node.to_ne_bytes(), &ip.octets(), protocol, port])
            }
            Self::NodePort(..) => concat(&[protocol, port]),
        }
    }
}

/// Where connections are led.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backends {
    endpoints: Vec<SocketAddrV4>,
    affinity: Option<u32>,
    sources: Option<Vec<Ipv4Net>>,
}

impl Backends {
    /// To these endpoints, in whatever order and each once; for `affinity` seconds after its last
    /// connection a client is led to the same.
    #[must_use]
    pub fn new(mut endpoints: Vec<SocketAddrV4>, affinity: Option<u32>) -> Self {
        endpoints.sort_unstable();
        endpoints.dedup();
        Self { endpoints, affinity, sources: None }
    }

    /// For clients of these networks alone; everybody's if there is no list of them, nobody's if it is
    /// empty.
    #[must_use]
    pub fn open_to(mut self, sources: Option<&[Ipv4Net]>) -> Self {
        self.sources = sources.map(|sources| Ipv4Net::aggregate(&sources.to_vec()));
        self
    }

    /// In order, each once.
    #[must_use]
    pub fn endpoints(&self) -> &[SocketAddrV4] {
        &self.endpoints
    }

    /// The networks of those who may connect, apart from each other, if not everybody may.
    #[must_use]
    pub fn sources(&self) -> Option<&[Ipv4Net]> {
        self.sources.as_deref()
    }

    /// For how many seconds a client sticks to an endpoint.
    #[must_use]
    pub const fn affinity(&self) -> Option<u32> {
        self.affinity
    }
}
