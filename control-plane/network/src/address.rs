//! The address plan. Every cluster has a network namespace of its own, so that all of them use the
//! same one: node *n* is host *n* of 10.88.0.0/16, its pods the *n*-th /24 of the cluster's pod
//! network. Only the uplinks share a namespace, the host's: the *n*-th has 10.213.*n*.0/24.
//!
//! All of it is IPv4. What comes from outside goes through [`parse`], which names IPv6 as what is
//! not supported.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

/// The nodes' network.
pub const NODES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 88, 0, 0), 16);

/// Services' addresses, as the API server gives them out.
pub const SERVICES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 12);

/// Where pods ask the cluster's name server: the address of its Service, by convention the tenth.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// Where the name server listens on [`HOST`], over UDP and TCP.
pub const DNS_PORT: u16 = 53;

/// Every node's next hop, on the host's end of its tap.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The host's own address in a cluster's network: nodes and pods see it where their traffic is
/// led back to where it came from.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 88, 255, 254);

/// What uplinks' networks are cut from.
pub const UPLINKS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 213, 0, 0), 16);

/// Why text is no address that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is IPv6.
    #[error("{0} is an IPv6 address, which is not supported")]
    Ipv6(IpAddr),
    /// It is no address at all.
    #[error("{0:?} is not an IP address")]
    NotAnAddress(String),
}

/// Reads an address.
///
/// # Errors
/// If it is none, or IPv6.
pub fn parse(text: &str) -> Result<Ipv4Addr, AddressError> {
    match text.parse() {
        Ok(IpAddr::V4(address)) => Ok(address),
        Ok(address) => Err(AddressError::Ipv6(address)),
        Err(_) => Err(AddressError::NotAnAddress(text.to_owned())),
    }
}

/// The address of the node with this index (from 1).
#[must_use]
pub const fn node_ip(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(NODES.addr().to_bits() + index)
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A node's: locally administered, made of its address.
    #[must_use]
    pub const fn of_node(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x02, 0x62, a, b, c, d])
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What a node's tap leads to.
#[derive(Debug, Clone, Copy)]
pub struct NodeLink {
    /// The node's index, from 1.
    pub index: u32,
    /// Its pods' network.
    pub pods: Ipv4Net,
}

impl NodeLink {
    /// The node's own address.
    #[must_use]
    pub const fn ip(&self) -> Ipv4Addr {
        node_ip(self.index)
    }

    /// The node's Ethernet address.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        Mac::of_node(self.ip())
    }

    /// The tap's name in the cluster's namespace.
    #[must_use]
    pub fn tap(&self) -> String {
        format!("tap{}", self.index)
    }
}

/// A free address for a pod in a node's network: the lowest that is not in `taken`, and neither
/// the network's first nor its last.
#[must_use]
pub fn pod_ip(network: Ipv4Net, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    network.hosts().find(|address| !taken.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_get_addresses_and_macs_of_their_own() {
        assert_eq!(node_ip(1), Ipv4Addr::new(10, 88, 0, 1));
        assert_eq!(node_ip(250), Ipv4Addr::new(10, 88, 0, 250));
        assert_eq!(Mac::of_node(node_ip(3)).to_string(), "02:62:0a:58:00:03");
    }

    #[test]
    fn pods_get_the_lowest_free_address_until_none_is_left() {
        let network = "10.244.1.0/24".parse().unwrap();
        let mut taken = BTreeSet::new();
        for host in 1..=254 {
            let ip = pod_ip(network, &taken).unwrap();
            assert_eq!(ip, Ipv4Addr::new(10, 244, 1, host));
            taken.insert(ip);
        }
        assert_eq!(pod_ip(network, &taken), None);
        taken.remove(&Ipv4Addr::new(10, 244, 1, 7));
        assert_eq!(pod_ip(network, &taken), Some(Ipv4Addr::new(10, 244, 1, 7)));
    }

    #[test]
    fn ipv6_is_refused_by_name() {
        assert_eq!(parse("10.0.0.1"), Ok(Ipv4Addr::new(10, 0, 0, 1)));
        let refused = parse("fd00::1").unwrap_err().to_string();
        assert_eq!(refused, "fd00::1 is an IPv6 address, which is not supported");
        assert!(parse("x").is_err());
    }
}
