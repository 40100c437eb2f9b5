//! What policies mean, by the API's words and objects alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::Step;

/// The first packet of a connection.
#[derive(Debug, Clone)]
pub struct Packet {
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub protocol: &'static str,
    pub port: u16,
}

#[derive(Debug)]
pub struct Model {
    namespaces: BTreeMap<String, Value>,
    /// By uid.
    pods: BTreeMap<String, Value>,
    gone: BTreeSet<String>,
    addresses: BTreeMap<String, (Ipv4Addr, Ipv4Addr)>,
    policies: BTreeMap<(String, String), Value>,
    dns: Ipv4Addr,
}

/// One side of a connection.
enum Side<'a> {
    Pod(&'a Value),
    /// A pod of which nothing is known but that it is there.
    Unknown,
    Other,
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object[field].as_array().map_or(&[], Vec::as_slice)
}

impl Model {
    pub fn new(dns: Ipv4Addr) -> Self {
        Self {
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            gone: BTreeSet::new(),
            addresses: BTreeMap::new(),
            policies: BTreeMap::new(),
            dns,
        }
    }

    pub fn take(&mut self, step: &Step) {
        let name = |object: &Value| text(object, "/metadata/name").to_owned();
        let uid = |object: &Value| text(object, "/metadata/uid").to_owned();
        let key = |object: &Value| (text(object, "/metadata/namespace").to_owned(), name(object));
        match step {
            Step::Namespace(object) => drop(self.namespaces.insert(name(object), object.clone())),
            Step::NoNamespace(object) => drop(self.namespaces.remove(&name(object))),
            Step::Pod(object) => {
                self.gone.remove(&uid(object));
                self.pods.insert(uid(object), object.clone());
            }
            Step::NoPod(object) => {
                self.gone.insert(uid(object));
            }
            Step::Address(pod, host) => {
                let addresses = super::addresses(*host);
                self.addresses.retain(|_, (address, _)| *address != addresses.0);
                self.addresses.insert(format!("u{pod}"), addresses);
            }
            Step::Release(pod) => drop(self.addresses.remove(&format!("u{pod}"))),
            Step::Policy(object) => drop(self.policies.insert(key(object), object.clone())),
            Step::NoPolicy(object) => drop(self.policies.remove(&key(object))),
            Step::Replace => {}
        }
        // What is known of a pod is forgotten when both its object and its address have gone.
        let (pods, addresses) = (&mut self.pods, &self.addresses);
        self.gone.retain(|uid| {
            let kept = addresses.contains_key(uid);
            if !kept {
                pods.remove(uid);
            }
            kept
        });
    }

    fn side(&self, ip: Ipv4Addr) -> Side<'_> {
        match self.addresses.iter().find(|(_, (address, _))| *address == ip) {
            None => Side::Other,
            Some((uid, _)) => self.pods.get(uid).map_or(Side::Unknown, Side::Pod),
        }
    }

    pub fn lets_through(&self, packet: &Packet) -> bool {
        let own = |pod, other| {
            self.addresses
                .values()
                .any(|(address, node)| *address == pod && (other == pod || *node == other))
        };
        if own(packet.from, packet.to) || own(packet.to, packet.from) {
            return true;
        }
        self.decides("Egress", packet.from, packet.to, packet)
            && self.decides("Ingress", packet.to, packet.from, packet)
    }

    fn decides(&self, way: &str, pod: Ipv4Addr, peer: Ipv4Addr, packet: &Packet) -> bool {
        let object = match self.side(pod) {
            Side::Other => return true,
            Side::Unknown => return false,
            Side::Pod(object) => object,
        };
        let namespace = text(object, "/metadata/namespace");
        let about = |policy: &&Value| {
            let spec = &policy["spec"];
            let types = items(spec, "policyTypes");
            let decides = match way {
                _ if !types.is_empty() => types.contains(&json!(way)),
                "Ingress" => true,
                _ => !items(spec, "egress").is_empty(),
            };
            decides
                && text(policy, "/metadata/namespace") == namespace
                && selects(&spec["podSelector"], &object["metadata"]["labels"])
        };
        let policies: Vec<&Value> = self.policies.values().filter(about).collect();
        let (rules, peers) = if way == "Ingress" { ("ingress", "from") } else { ("egress", "to") };
        policies.is_empty()
            || policies.iter().any(|policy| {
                items(&policy["spec"], rules).iter().any(|rule| {
                    let who = items(rule, peers);
                    let ports = items(rule, "ports");
                    (who.is_empty() || who.iter().any(|who| self.is_peer(who, namespace, peer)))
                        && (ports.is_empty() || ports.iter().any(|port| self.is_port(port, packet)))
                })
            })
    }

    fn is_peer(&self, peer: &Value, own_namespace: &str, ip: Ipv4Addr) -> bool {
        if peer["ipBlock"].is_object() {
            let has = |cidr: &Value| {
                cidr.as_str().unwrap().parse::<ipnet::Ipv4Net>().unwrap().contains(&ip)
            };
            let block = &peer["ipBlock"];
            return has(&block["cidr"]) && !items(block, "except").iter().any(has);
        }
        let dns = json!({"namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}});
        let metadata = match self.side(ip) {
            _ if ip == self.dns => &dns,
            Side::Pod(object) if text(object, "/status/phase") != "Succeeded" => {
                &object["metadata"]
            }
            _ => return false,
        };
        let namespace = text(metadata, "/namespace");
        let there = match &peer["namespaceSelector"] {
            Value::Null => namespace == own_namespace,
            selector => self
                .namespaces
                .get(namespace)
                .is_some_and(|object| selects(selector, &object["metadata"]["labels"])),
        };
        there && selects(&peer["podSelector"], &metadata["labels"])
    }

    fn is_port(&self, port: &Value, packet: &Packet) -> bool {
        if text(port, "/protocol").to_lowercase() != packet.protocol {
            return false;
        }
        match &port["port"] {
            Value::Null => true,
            Value::String(name) => {
                if packet.to == self.dns {
                    return name == "dns" && packet.port == 53 && packet.protocol == "udp";
                }
                let Side::Pod(object) = self.side(packet.to) else { return false };
                // The ports of the pods here are all TCP.
                text(object, "/status/phase") != "Succeeded"
                    && packet.protocol == "tcp"
                    && object["spec"]["containers"][0]["ports"].as_array().unwrap().iter().any(
                        |port| {
                            port["name"] == name.as_str() && port["containerPort"] == packet.port
                        },
                    )
            }
            number => {
                let first = number.as_u64().unwrap();
                let last = port["endPort"].as_u64().unwrap_or(first);
                (first..=last).contains(&u64::from(packet.port))
            }
        }
    }
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let equal = selector["matchLabels"].as_object();
    let equal = equal.is_none_or(|map| map.iter().all(|(key, value)| labels[key] == *value));
    equal
        && items(selector, "matchExpressions").iter().all(|expression| {
            let value = &labels[expression["key"].as_str().unwrap()];
            match expression["operator"].as_str().unwrap() {
                "In" => items(expression, "values").contains(value),
                "NotIn" => !items(expression, "values").contains(value),
                "Exists" => !value.is_null(),
                _ => value.is_null(),
            }
        })
}
