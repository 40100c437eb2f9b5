//! What a user asks for, checked: names, counts, sizes, networks.

use std::net::Ipv4Addr;

use bulkhead_host_api::{ApiError, ClusterConfig, ClusterName, IllegalName, NodeShape};

use crate::fault;

/// The most nodes that a cluster may ever number: each takes a /24 of a /16.
pub(crate) const MAX_NODES: u32 = 250;

/// The name of a cluster.
pub(crate) fn cluster_name(text: &str) -> Result<ClusterName, ApiError> {
    text.parse().map_err(|why: IllegalName| fault::invalid(format!("cluster {text:?}: {why}")))
}

/// The network that nodes' pod networks are cut from: a /16 or larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PodCidr {
    base: u32,
    prefix: u8,
}

impl PodCidr {
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let bad = |why: &str| fault::invalid(format!("podCidr {text:?}: {why}"));
        let (address, prefix) =
            text.split_once('/').ok_or_else(|| bad("not of the form 10.244.0.0/16"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad("not an IPv4 network"))?;
        let prefix: u8 = prefix.parse().map_err(|_| bad("not an IPv4 network"))?;
        if !(8..=16).contains(&prefix) {
            return Err(bad("its prefix must be 8 to 16 long, for a /24 per node"));
        }
        let base = address.to_bits();
        if base & (u32::MAX >> prefix) != 0 {
            return Err(bad("has bits set behind its prefix"));
        }
        if !address.is_private() {
            return Err(bad("is not a private network"));
        }
        if overlaps((base, prefix), (crate::address::NODE_NETWORK.to_bits(), 16)) {
            return Err(bad("overlaps the nodes' network 10.88.0.0/16"));
        }
        Ok(Self { base, prefix })
    }

    /// The first address of the /24 of the node with this index (from 1).
    pub(crate) const fn node(self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base + (index << 8))
    }
}

impl std::fmt::Display for PodCidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.base), self.prefix)
    }
}

const fn overlaps(a: (u32, u8), b: (u32, u8)) -> bool {
    let shorter = if a.1 < b.1 { a.1 } else { b.1 };
    (a.0 ^ b.0) >> (32 - shorter) == 0
}

/// A cluster's configuration, checked.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) name: ClusterName,
    pub(crate) pods: PodCidr,
    pub(crate) config: ClusterConfig,
}

impl Checked {
    pub(crate) fn new(config: ClusterConfig) -> Result<Self, ApiError> {
        let name = cluster_name(&config.name)?;
        if !(1..=MAX_NODES).contains(&config.nodes) {
            return Err(fault::invalid(format!(
                "nodes: {} is not between 1 and {MAX_NODES}",
                config.nodes
            )));
        }
        check_shape(&config.node)?;
        if config.api_port == Some(0) {
            return Err(fault::invalid("apiPort: 0 is no port; leave it out for a free one"));
        }
        for (field, file) in [("kernel", &config.kernel), ("initrd", &config.initrd)] {
            if let Some(path) = file.as_ref().filter(|path| !path.is_absolute()) {
                let path = path.display();
                return Err(fault::invalid(format!("{field}: {path} is not an absolute path")));
            }
        }
        if config.initrd.is_some() && config.kernel.is_none() {
            return Err(fault::invalid("initrd: goes with a kernel; name that as well"));
        }
        let pods = PodCidr::parse(&config.pod_cidr)?;
        Ok(Self { name, pods, config })
    }
}

/// Refuses a node that could not boot.
pub(crate) fn check_shape(shape: &NodeShape) -> Result<(), ApiError> {
    const MIB: u64 = 1 << 20;
    if !(1..=32).contains(&shape.cpus) {
        return Err(fault::invalid(format!("node.cpus: {} is not between 1 and 32", shape.cpus)));
    }
    if shape.memory < 128 * MIB || !shape.memory.is_multiple_of(4096) {
        return Err(fault::invalid(format!(
            "node.memory: {} is not a multiple of 4096 of 128 MiB or more",
            shape.memory
        )));
    }
    if shape.disk < 64 * MIB || shape.disk > 64 << 40 || !shape.disk.is_multiple_of(4096) {
        return Err(fault::invalid(format!(
            "node.disk: {} is not a multiple of 4096 between 64 MiB and 64 TiB",
            shape.disk
        )));
    }
    Ok(())
}

/// Reads a request's body and names by its path what is wrong with it.
pub(crate) fn parse_body<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        if path == "." {
            fault::invalid(error.inner())
        } else {
            fault::invalid(format!("{path}: {}", error.inner()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_illegal_name_is_told_with_the_rule() {
        assert_eq!(cluster_name("demo").unwrap().as_str(), "demo");
        let error = cluster_name("../x").unwrap_err();
        assert_eq!(error.reason, "Invalid");
        assert!(error.message.contains("\"../x\"") && error.message.contains("a-z"), "{error}");
    }

    #[test]
    fn the_pod_network_holds_a_24_for_every_node() {
        let cidr = PodCidr::parse("10.244.0.0/16").unwrap();
        assert_eq!(cidr.node(1), Ipv4Addr::new(10, 244, 1, 0));
        assert_eq!(cidr.node(MAX_NODES), Ipv4Addr::new(10, 244, 250, 0));
        assert_eq!(cidr.to_string(), "10.244.0.0/16");
        for bad in [
            "10.244.0.0",
            "10.244.0.0/24",
            "10.244.0.1/16",
            "8.0.0.0/8",
            "10.88.0.0/16",
            "10.0.0.0/8",
            "x/16",
            "10.244.0.0/x",
        ] {
            assert!(PodCidr::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_kernel_is_named_in_full_and_an_initrd_beside_it() {
        let check = |json: &str| Checked::new(parse_body(json.as_bytes()).unwrap()).map(drop);
        check(r#"{"name": "a", "kernel": "/k", "initrd": "/i"}"#).unwrap();
        let error = check(r#"{"name": "a", "kernel": "k"}"#).unwrap_err();
        assert_eq!(error.message, "kernel: k is not an absolute path");
        let error = check(r#"{"name": "a", "initrd": "/i"}"#).unwrap_err();
        assert!(error.message.contains("goes with a kernel"), "{error}");
    }

    #[test]
    fn an_unknown_field_is_named() {
        let error = parse_body::<ClusterConfig>(br#"{"name":"a","node":{"cpu":1}}"#).unwrap_err();
        assert!(error.message.contains("cpu"), "{}", error.message);
        assert_eq!(error.reason, "Invalid");
    }

    #[test]
    fn shapes_that_cannot_boot_are_refused() {
        let shape = NodeShape::default();
        check_shape(&shape).unwrap();
        check_shape(&NodeShape { cpus: 0, ..shape.clone() }).unwrap_err();
        check_shape(&NodeShape { cpus: 33, ..shape.clone() }).unwrap_err();
        check_shape(&NodeShape { memory: 64 << 20, ..shape.clone() }).unwrap_err();
        check_shape(&NodeShape { disk: 1, ..shape }).unwrap_err();
    }
}
