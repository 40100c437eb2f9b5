//! What a user asks for, checked: names, counts, sizes, networks.

use std::net::Ipv4Addr;

use bulkhead_host_api::{ApiError, ClusterConfig, ClusterName, IllegalName, NodeShape};
use bulkhead_network::address::{NODES, SERVICES, UPLINKS};
use ipnet::{IpNet, Ipv4Net};

use crate::fault;

/// The most nodes that a cluster may ever number: each takes a /24 of a /16.
pub(crate) const MAX_NODES: u32 = 250;

/// The name of a cluster.
pub(crate) fn cluster_name(text: &str) -> Result<ClusterName, ApiError> {
    text.parse().map_err(|why: IllegalName| fault::invalid(format!("cluster {text:?}: {why}")))
}

/// The network that nodes' pod networks are cut from: a /16 or larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PodCidr(Ipv4Net);

impl PodCidr {
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let bad = |why: &str| fault::invalid(format!("podCidr {text:?}: {why}"));
        let network = match text.parse() {
            Ok(IpNet::V4(network)) => network,
            Ok(IpNet::V6(_)) => return Err(bad("is an IPv6 network, which is not supported")),
            Err(_) => return Err(bad("not of the form 10.244.0.0/16")),
        };
        if !(8..=16).contains(&network.prefix_len()) {
            return Err(bad("its prefix must be 8 to 16 long, for a /24 per node"));
        }
        if network.trunc() != network {
            return Err(bad("has bits set behind its prefix"));
        }
        if !network.addr().is_private() {
            return Err(bad("is not a private network"));
        }
        for (whose, other) in [("nodes'", NODES), ("Services'", SERVICES), ("hosts'", UPLINKS)] {
            if network.contains(&other) || other.contains(&network) {
                return Err(bad(&format!("overlaps the {whose} network {other}")));
            }
        }
        Ok(Self(network))
    }

    /// The whole of it.
    pub(crate) const fn network(self) -> Ipv4Net {
        self.0
    }

    /// The /24 of the node with this index (from 1).
    pub(crate) fn node(self, index: u32) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::from_bits(self.0.addr().to_bits() + (index << 8)), 24)
    }
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
        let ports = [
            ("apiPort", config.api_port),
            ("httpPort", config.http_port),
            ("httpsPort", config.https_port),
        ];
        for (index, (field, port)) in ports.iter().enumerate() {
            if *port == Some(0) {
                let why = format!("{field}: 0 is no port; leave it out for a free one");
                return Err(fault::invalid(why));
            }
            let same = ports.iter().take(index).find(|(_, other)| port.is_some() && other == port);
            if let Some((other, _)) = same {
                return Err(fault::invalid(format!("{field}: is {other} as well")));
            }
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
        assert_eq!(cidr.node(1).to_string(), "10.244.1.0/24");
        assert_eq!(cidr.node(MAX_NODES).to_string(), "10.244.250.0/24");
        for bad in [
            "10.244.0.0",
            "10.244.0.0/24",
            "10.244.0.1/16",
            "8.0.0.0/8",
            "10.88.0.0/16",
            "10.96.0.0/16",
            "10.213.0.0/16",
            "10.0.0.0/8",
            "x/16",
            "10.244.0.0/x",
        ] {
            assert!(PodCidr::parse(bad).is_err(), "{bad}");
        }
        let ipv6 = PodCidr::parse("fd00::/16").unwrap_err();
        assert!(ipv6.message.contains("is an IPv6 network, which is not supported"), "{ipv6}");
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
    fn ports_are_not_0_and_not_the_same() {
        let check = |json: &str| Checked::new(parse_body(json.as_bytes()).unwrap()).map(drop);
        check(r#"{"name": "a", "apiPort": 1, "httpPort": 2, "httpsPort": 3}"#).unwrap();
        let error = check(r#"{"name": "a", "httpPort": 0}"#).unwrap_err();
        assert_eq!(error.message, "httpPort: 0 is no port; leave it out for a free one");
        let error = check(r#"{"name": "a", "apiPort": 2, "httpsPort": 2}"#).unwrap_err();
        assert_eq!(error.message, "httpsPort: is apiPort as well");
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
