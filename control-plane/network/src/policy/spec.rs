//! A NetworkPolicy's `spec`, read into what its rules ask for.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use bulkhead_client::object::{list, text};
use bulkhead_client::{Selector, SelectorError};
use serde_json::Value;

use super::ranges::Ranges;
use crate::services::Protocol;

/// The last port.
const LAST_PORT: u32 = u16::MAX as u32;

/// Which way a connection is made, seen from the pod that a policy selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    pub(super) const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// Where a packet has the other side's address.
    const fn peer(self) -> &'static str {
        match self {
            Self::Ingress => "ip saddr",
            Self::Egress => "ip daddr",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// Why a policy cannot be enforced. The API server admits none such.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("NetworkPolicy {policy}: {source}")]
pub struct PolicyError {
    /// Its namespace and name.
    pub policy: String,
    /// What is wrong with it.
    pub source: SelectorError,
}

/// Some pods of some namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PodSelector {
    pub(super) namespaces: Namespaces,
    pub(super) labels: Selector,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Namespaces {
    /// That of this name.
    One(String),
    /// Those with such labels.
    Selected(Selector),
}

/// A named port of a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PortName {
    pub(super) protocol: Protocol,
    pub(super) name: String,
}

/// What a policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    /// The pods that it is about.
    pub(super) subject: PodSelector,
    /// What is let through in the directions that it decides about.
    pub(super) rules: BTreeMap<Direction, Vec<Rule>>,
}

/// What a rule lets through: a connection with one of these peers, to one of these ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// With anybody if it does not say.
    peers: Option<Peers>,
    /// To any if it does not say, and by whatever protocol.
    ports: Option<Ports>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Peers {
    pods: Vec<PodSelector>,
    /// All its blocks in one. Those of IPv6 have nobody in them here.
    blocks: Ranges,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ports {
    numbers: BTreeMap<Protocol, Ranges>,
    names: BTreeSet<PortName>,
}

impl Policy {
    /// Reads a `networking.k8s.io/v1.NetworkPolicy`.
    pub(super) fn read(object: &Value) -> Result<Self, SelectorError> {
        let namespace = text(object, "metadata.namespace");
        let spec = &object["spec"];
        let of = |direction, field, peers| -> Result<_, SelectorError> {
            let rules = list(spec, field).iter().map(|rule| Rule::read(rule, peers, namespace));
            Ok((direction, rules.collect::<Result<Vec<_>, _>>()?))
        };
        let both =
            [of(Direction::Ingress, "ingress", "from")?, of(Direction::Egress, "egress", "to")?];
        let types = list(spec, "policyTypes");
        let decides = |direction, rules: &[Rule]| match direction {
            _ if !types.is_empty() => {
                let name = if direction == Direction::Ingress { "Ingress" } else { "Egress" };
                types.iter().any(|kind| kind == name)
            }
            Direction::Ingress => true,
            Direction::Egress => !rules.is_empty(),
        };
        Ok(Self {
            subject: PodSelector {
                namespaces: Namespaces::One(namespace.to_owned()),
                labels: Selector::read(&spec["podSelector"])?,
            },
            rules: both.into_iter().filter(|(way, rules)| decides(*way, rules)).collect(),
        })
    }

    fn all_rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.values().flatten()
    }

    /// The selectors of its peers, as often as it has them.
    pub(super) fn peers(&self) -> impl Iterator<Item = &PodSelector> {
        self.all_rules().filter_map(|rule| rule.peers.as_ref()).flat_map(|peers| &peers.pods)
    }

    /// The names of ports that it has, as often as it has them.
    pub(super) fn port_names(&self) -> impl Iterator<Item = &PortName> {
        self.all_rules().filter_map(|rule| rule.ports.as_ref()).flat_map(|ports| &ports.names)
    }
}

impl Rule {
    fn read(rule: &Value, peers: &str, namespace: &str) -> Result<Self, SelectorError> {
        let some = |field| match list(rule, field) {
            [] => None,
            items => Some(items),
        };
        let peers = some(peers).map(|peers| Peers::read(peers, namespace)).transpose()?;
        Ok(Self { peers, ports: some("ports").map(Ports::read) })
    }

    /// As nftables' rules, with the names of the sets of a selector's pods and of a named port.
    pub(super) fn lines(
        &self,
        direction: Direction,
        pods: &impl Fn(&PodSelector) -> String,
        named: &impl Fn(&PortName) -> String,
    ) -> Vec<String> {
        let peers = self
            .peers
            .as_ref()
            .map_or_else(|| vec![String::new()], |peers| peers.matches(direction.peer(), pods));
        let ports =
            self.ports.as_ref().map_or_else(|| vec![String::new()], |ports| ports.matches(named));
        if peers.len() == 1 || ports.len() == 1 {
            let line = |peer: &String, port: &String| format!("{peer}{port}accept");
            return peers
                .iter()
                .flat_map(|p| ports.iter().map(move |port| line(p, port)))
                .collect();
        }
        // First the ones, then the others: each with each would be too many.
        let mut lines = vec!["meta mark set 0".to_owned()];
        lines.extend(peers.iter().map(|peer| format!("{peer}meta mark set 1")));
        lines.extend(ports.iter().map(|port| format!("meta mark 1 {port}accept")));
        lines
    }
}

impl Peers {
    fn read(peers: &[Value], namespace: &str) -> Result<Self, SelectorError> {
        let (mut all, mut seen) = (Self::default(), HashSet::new());
        for peer in peers {
            let block = &peer["ipBlock"];
            if block.is_object() {
                all.blocks.add(&addresses(block));
                continue;
            }
            let namespaces = match &peer["namespaceSelector"] {
                Value::Null => Namespaces::One(namespace.to_owned()),
                selector => Namespaces::Selected(Selector::read(selector)?),
            };
            let selector =
                PodSelector { namespaces, labels: Selector::read(&peer["podSelector"])? };
            if seen.insert(selector.clone()) {
                all.pods.push(selector);
            }
        }
        Ok(all)
    }

    fn matches(&self, field: &str, pods: &impl Fn(&PodSelector) -> String) -> Vec<String> {
        let mut matches: Vec<String> =
            self.pods.iter().map(|selector| format!("{field} @{} ", pods(selector))).collect();
        if self.blocks.is_all(u32::MAX) {
            matches.push(String::new());
        } else if !self.blocks.is_empty() {
            matches.push(format!("{field} {} ", self.blocks.addresses()));
        }
        matches
    }
}

fn addresses(block: &Value) -> Ranges {
    let range = |text: &str| text.parse().map(Ranges::network).unwrap_or_default();
    let mut addresses = range(text(block, "cidr"));
    for except in list(block, "except").iter().filter_map(Value::as_str) {
        addresses.remove(&range(except));
    }
    addresses
}

impl Ports {
    fn read(ports: &[Value]) -> Self {
        let mut all = Self::default();
        for port in ports {
            // One that is not known is nobody's.
            let Some(protocol) = Protocol::parse(port["protocol"].as_str()) else { continue };
            let number = |value: &Value| value.as_u64().and_then(|port| u32::try_from(port).ok());
            let range = match (&port["port"], number(&port["port"])) {
                (Value::String(name), _) => {
                    all.names.insert(PortName { protocol, name: name.clone() });
                    continue;
                }
                (Value::Null, _) => Ranges::of(0, LAST_PORT),
                (_, Some(first)) => {
                    Ranges::of(first, number(&port["endPort"]).unwrap_or(first).min(LAST_PORT))
                }
                (_, None) => continue,
            };
            all.numbers.entry(protocol).or_default().add(&range);
        }
        all
    }

    fn matches(&self, named: &impl Fn(&PortName) -> String) -> Vec<String> {
        let by_number = self.numbers.iter().filter(|(_, ports)| !ports.is_empty());
        let by_number = by_number.map(|(protocol, ports)| match ports.is_all(LAST_PORT) {
            true => format!("meta l4proto {protocol} "),
            false => format!("{protocol} dport {} ", ports.ports()),
        });
        // Whatever the direction, the port is that of the pod which is connected to.
        let by_name = self
            .names
            .iter()
            .map(|name| format!("ip daddr . {} dport @{} ", name.protocol, named(name)));
        by_number.chain(by_name).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(spec: Value) -> BTreeMap<String, Vec<String>> {
        let object = json!({"metadata": {"namespace": "a", "name": "p"}, "spec": spec});
        let policy = Policy::read(&object).unwrap();
        let pods = |selector: &PodSelector| match &selector.namespaces {
            Namespaces::One(name) => format!("{name}[{}]", selector.labels),
            Namespaces::Selected(labels) => format!("[{labels}][{}]", selector.labels),
        };
        let named = |port: &PortName| port.name.clone();
        let of = |(way, rules): (&Direction, &Vec<Rule>)| {
            let lines = rules.iter().flat_map(|rule| rule.lines(*way, &pods, &named));
            (way.to_string(), lines.collect())
        };
        policy.rules.iter().map(of).collect()
    }

    #[test]
    fn which_directions_a_policy_decides_about() {
        let of = |spec: Value| lines(spec).into_keys().collect::<Vec<_>>();
        assert_eq!(of(json!({})), ["ingress"]);
        assert_eq!(of(json!({"egress": [{}]})), ["egress", "ingress"]);
        assert_eq!(of(json!({"policyTypes": ["Egress"]})), ["egress"]);
        assert_eq!(of(json!({"policyTypes": ["Ingress"], "egress": [{}]})), ["ingress"]);
    }

    #[test]
    fn rules_as_nftables_has_them() {
        let rules = lines(json!({
            "ingress": [
                {},
                {"from": [
                    {"podSelector": {"matchLabels": {"app": "web"}}},
                    {"namespaceSelector": {"matchLabels": {"team": "x"}}},
                    {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}},
                    {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/25"]}},
                    {"ipBlock": {"cidr": "192.0.2.7/32"}},
                    {"ipBlock": {"cidr": "2001:db8::/32"}},
                 ], "ports": [
                    {"port": 80}, {"protocol": "TCP", "port": 81, "endPort": 90},
                    {"protocol": "UDP"}, {"protocol": "TCP", "port": "http"},
                ]},
            ],
            "egress": [
                {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]},
                {"to": [{"ipBlock": {"cidr": "::/0"}}]},
                {"ports": [{"protocol": "UDP", "port": "dns"}]},
            ],
        }));
        let expected = [
            "accept",
            "meta mark set 0",
            "ip saddr @a[app=web] meta mark set 1",
            "ip saddr @[team=x][] meta mark set 1",
            "ip saddr @[][app=web] meta mark set 1",
            "ip saddr { 192.0.2.7, 192.0.2.128-192.0.2.255 } meta mark set 1",
            "meta mark 1 tcp dport 80-90 accept",
            "meta mark 1 meta l4proto udp accept",
            "meta mark 1 ip daddr . tcp dport @http accept",
        ];
        assert_eq!(rules["ingress"], expected);
        assert_eq!(rules["egress"], ["accept", "ip daddr . udp dport @dns accept"]);
    }

    #[test]
    fn what_is_no_selector_is_an_error() {
        let selector = json!({"matchExpressions": [{"key": "a", "operator": "Like"}]});
        for spec in [
            json!({"podSelector": selector}),
            json!({"ingress": [{"from": [{"podSelector": selector}]}]}),
            json!({"egress": [{"to": [{"namespaceSelector": selector}]}]}),
        ] {
            let object = json!({"metadata": {"namespace": "a", "name": "p"}, "spec": spec});
            assert!(Policy::read(&object).is_err(), "{object}");
        }
    }
}
