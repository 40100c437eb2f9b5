//! The address plan of a cluster. Every cluster has a network namespace of its own, so that all
//! of them use the same one: node *n* is 10.88.*n*/8's host *n*, its pods the *n*-th /24.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// The nodes' network, a /16.
pub(crate) const NODE_NETWORK: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 0);

/// Every node's next hop, on the host's end of its tap.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The address of the node with this index (from 1).
pub(crate) const fn node_ip(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(NODE_NETWORK.to_bits() + index)
}

/// The MAC address of a node: locally administered, made of its address.
pub(crate) fn node_mac(ip: Ipv4Addr) -> String {
    let [a, b, c, d] = ip.octets();
    format!("02:62:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// A free address for a pod in a node's /24 that starts at `network`: `.1` to `.254`, and the
/// lowest that is not in `taken`.
pub(crate) fn pod_ip(network: Ipv4Addr, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    (1..=254)
        .map(|host| Ipv4Addr::from_bits(network.to_bits() + host))
        .find(|address| !taken.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_get_addresses_and_macs_of_their_own() {
        assert_eq!(node_ip(1), Ipv4Addr::new(10, 88, 0, 1));
        assert_eq!(node_ip(250), Ipv4Addr::new(10, 88, 0, 250));
        assert_eq!(node_mac(node_ip(3)), "02:62:0a:58:00:03");
    }

    #[test]
    fn pods_get_the_lowest_free_address_until_none_is_left() {
        let network = Ipv4Addr::new(10, 244, 1, 0);
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
}
