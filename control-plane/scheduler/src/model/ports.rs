//! Ports of the node that containers take: `hostPort`.

use bulkhead_client::object;
use serde_json::Value;

/// A port of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// Every address if unspecified.
    address: String,
    protocol: String,
    port: i64,
}

impl HostPort {
    /// Every host port of a pod's spec. In the node's network namespace each port is one.
    pub(crate) fn read_all(spec: &Value) -> Vec<Self> {
        let sidecars = object::list(spec, "initContainers").iter();
        let sidecars = sidecars.filter(|init| init["restartPolicy"] == "Always");
        let containers = sidecars.chain(object::list(spec, "containers"));
        let host_network = spec["hostNetwork"] == true;
        let read = |port: &Value| {
            let own = object::number(port, "hostPort").filter(|port| *port > 0);
            let shared = || object::number(port, "containerPort").filter(|_| host_network);
            let or = |text: &str, default: &str| {
                if text.is_empty() { default.to_owned() } else { text.to_owned() }
            };
            Some(Self {
                address: or(object::text(port, "hostIP"), "0.0.0.0"),
                protocol: or(object::text(port, "protocol"), "TCP"),
                port: own.or_else(shared)?,
            })
        };
        containers.flat_map(|one| object::list(one, "ports")).filter_map(read).collect()
    }

    /// Whether both cannot be taken on one node.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let everywhere = |port: &Self| matches!(port.address.as_str(), "0.0.0.0" | "::");
        self.port == other.port
            && self.protocol == other.protocol
            && (everywhere(self) || everywhere(other) || self.address == other.address)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ports(ports: &Value) -> Vec<HostPort> {
        HostPort::read_all(&json!({"containers": [{"ports": ports}]}))
    }

    #[test]
    fn a_port_conflicts_on_the_same_protocol_and_address() {
        let taken = ports(&json!([{"containerPort": 1, "hostPort": 80, "hostIP": "10.0.0.1"}]));
        for (other, expected) in [
            (json!({"hostPort": 80}), true),
            (json!({"hostPort": 80, "hostIP": "0.0.0.0"}), true),
            (json!({"hostPort": 80, "hostIP": "10.0.0.1", "protocol": "TCP"}), true),
            (json!({"hostPort": 80, "hostIP": "10.0.0.2"}), false),
            (json!({"hostPort": 80, "protocol": "UDP"}), false),
            (json!({"hostPort": 81}), false),
        ] {
            assert_eq!(taken[0].conflicts(&ports(&json!([other]))[0]), expected, "{other}");
        }
    }

    #[test]
    fn only_ports_of_the_node_count() {
        let containers = json!([{"ports": [{"containerPort": 80}, {"hostPort": 0}]}]);
        assert!(HostPort::read_all(&json!({"containers": containers})).is_empty());
        let spec = json!({"containers": containers, "hostNetwork": true,
            "initContainers": [{"ports": [{"hostPort": 5}]},
                {"restartPolicy": "Always", "ports": [{"hostPort": 6}]}]});
        let read: Vec<_> = HostPort::read_all(&spec).iter().map(|port| port.port).collect();
        assert_eq!(read, [6, 80]);
    }
}
