//! Where the pods of a Service are: Endpoints of the core group, and EndpointSlices of
//! `discovery.k8s.io`, which replaced them.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::Value;

use super::service::{port_number, reachable};
use super::{PLAIN, columns as c, pod, template};
use crate::names::{self, NameRule};
use crate::object;
use crate::resource::{Behaviour, Resource};
use crate::status::Cause;

/// What a slice holds at most: endpoints, addresses of each, ports.
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 100;

const NOT_AN_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// Endpoints.
pub(super) fn endpoints() -> Resource {
    Resource {
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        storage: "endpoints",
        columns: c::ENDPOINTS,
        behaviour: Behaviour {
            default: default_endpoints,
            validate: validate_endpoints,
            ..Behaviour::PLAIN
        },
        ..PLAIN
    }
}

/// EndpointSlices.
pub(super) fn slices() -> Resource {
    Resource {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        storage: "endpointslices",
        generation: true,
        columns: c::ENDPOINT_SLICE,
        behaviour: Behaviour {
            default: default_slice,
            validate: validate_slice,
            validate_update: |new, old, causes| {
                template::immutable(new, old, "addressType", causes);
            },
            ..Behaviour::PLAIN
        },
        ..PLAIN
    }
}

/// Whether these are the API server's own, which may listen on the loopback.
fn is_own(object: &Value) -> bool {
    object::namespace(object) == Some("default") && object::name(object) == "kubernetes"
}

fn default_endpoints(endpoints: &mut Value) {
    for subset in endpoints.get_mut("subsets").and_then(Value::as_array_mut).into_iter().flatten() {
        for port in subset.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if port.is_object() {
                object::set_default(port, "protocol", "TCP");
            }
        }
    }
}

fn validate_endpoints(endpoints: &Value, causes: &mut Vec<Cause>) {
    for (index, subset) in object::list(endpoints, "subsets").iter().enumerate() {
        let path = format!("subsets[{index}]");
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|list| object::list(subset, list).is_empty()) {
            causes.push(Cause {
                message: "Required value: must specify `addresses` or `notReadyAddresses`".into(),
                ..Cause::required(&path)
            });
        }
        for list in lists {
            for (index, address) in object::list(subset, list).iter().enumerate() {
                let path = format!("{path}.{list}[{index}].ip");
                ip(&address["ip"], &path, is_own(endpoints), causes);
            }
        }
        let ports = object::list(subset, "ports");
        for (index, port) in ports.iter().enumerate() {
            let path = format!("{path}.ports[{index}]");
            let name = object::text(port, "name");
            if name.is_empty() && ports.len() > 1 {
                causes.push(Cause::required(format!("{path}.name")));
            } else if !name.is_empty() {
                pod::label(name, &format!("{path}.name"), causes);
            }
            port_number(&port["port"], &format!("{path}.port"), causes);
            pod::one_of(port, &path, "protocol", &["TCP", "UDP", "SCTP"], causes);
        }
    }
}

fn ip(value: &Value, path: &str, is_own: bool, causes: &mut Vec<Cause>) {
    match value.as_str().map(str::parse::<IpAddr>) {
        Some(Ok(_)) if is_own => {}
        Some(Ok(IpAddr::V4(address))) => reachable(address, path, causes),
        Some(Ok(IpAddr::V6(address))) => {
            if address.is_unspecified() || address.is_loopback() {
                causes.push(Cause::invalid(path, value, "may not be unspecified or the loopback"));
            }
        }
        _ => causes.push(Cause::invalid(path, value, NOT_AN_ADDRESS)),
    }
}

fn default_slice(slice: &mut Value) {
    for port in slice.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if port.is_object() {
            object::set_default(port, "name", "");
            object::set_default(port, "protocol", "TCP");
        }
    }
}

fn validate_slice(slice: &Value, causes: &mut Vec<Cause>) {
    let types = &["IPv4", "IPv6", "FQDN"];
    match slice["addressType"].as_str() {
        None | Some("") => causes.push(Cause::required("addressType")),
        Some(kind) if !types.contains(&kind) => {
            causes.push(Cause::not_supported("addressType", &slice["addressType"], types));
        }
        Some(_) => {}
    }
    let endpoints = object::list(slice, "endpoints");
    too_many(endpoints.len(), MAX_ENDPOINTS, "endpoints", causes);
    for (index, endpoint) in endpoints.iter().enumerate().take(MAX_ENDPOINTS) {
        validate_endpoint(slice, endpoint, &format!("endpoints[{index}]"), causes);
    }
    let ports = object::list(slice, "ports");
    too_many(ports.len(), MAX_PORTS, "ports", causes);
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("ports[{index}]");
        let name = object::text(port, "name");
        if !name.is_empty() {
            pod::label(name, &format!("{path}.name"), causes);
        }
        if !seen.insert(name) {
            causes.push(Cause::duplicate(format!("{path}.name"), &port["name"]));
        }
        if !port["port"].is_null() {
            port_number(&port["port"], &format!("{path}.port"), causes);
        }
        pod::one_of(port, &path, "protocol", &["TCP", "UDP", "SCTP"], causes);
    }
}

fn validate_endpoint(slice: &Value, endpoint: &Value, path: &str, causes: &mut Vec<Cause>) {
    let addresses = object::list(endpoint, "addresses");
    if addresses.is_empty() {
        causes.push(Cause {
            message: "Required value: must contain at least 1 address".into(),
            ..Cause::required(format!("{path}.addresses"))
        });
    }
    too_many(addresses.len(), MAX_ADDRESSES, &format!("{path}.addresses"), causes);
    for (index, address) in addresses.iter().enumerate().take(MAX_ADDRESSES) {
        let path = format!("{path}.addresses[{index}]");
        let parsed = address.as_str().map(str::parse::<IpAddr>);
        match (object::text(slice, "addressType"), parsed) {
            ("IPv4", Some(Ok(IpAddr::V4(_)))) | ("IPv6", Some(Ok(IpAddr::V6(_)))) => {
                ip(address, &path, is_own(slice), causes);
            }
            ("FQDN", _) => {
                let name = address.as_str().unwrap_or_default();
                if let Some(why) = NameRule::Subdomain.violation(name) {
                    causes.push(Cause::invalid(path, address, why));
                }
            }
            (kind @ ("IPv4" | "IPv6"), _) => {
                causes.push(Cause::invalid(path, address, &format!("must be an {kind} address")));
            }
            _ => {}
        }
    }
    let node = object::text(endpoint, "nodeName");
    if !node.is_empty()
        && let Some(why) = NameRule::Subdomain.violation(node)
    {
        causes.push(Cause::invalid(format!("{path}.nodeName"), &endpoint["nodeName"], why));
    }
    let host = object::text(endpoint, "hostname");
    if !host.is_empty() && !names::is_label(host) {
        let why = NameRule::Label.violation(host).unwrap_or_default();
        causes.push(Cause::invalid(format!("{path}.hostname"), &endpoint["hostname"], why));
    }
}

fn too_many(count: usize, most: usize, path: &str, causes: &mut Vec<Cause>) {
    if count > most {
        causes.push(Cause::too_many(path, count, most));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::testing::fields;

    #[test]
    fn endpoints_need_addresses() {
        let of = |subset: Value| {
            let mut endpoints = json!({"metadata": {"name": "e"}, "subsets": [subset]});
            default_endpoints(&mut endpoints);
            fields(validate_endpoints, endpoints)
        };
        let good = json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}]});
        assert!(of(good).is_empty());
        assert_eq!(of(json!({"ports": [{"port": 1}]})), ["subsets[0]"]);
        assert_eq!(
            of(json!({"notReadyAddresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 0}]})),
            ["subsets[0].notReadyAddresses[0].ip", "subsets[0].ports[0].port"]
        );
    }

    #[test]
    fn slices_hold_addresses_of_their_type() {
        let of = |slice: Value| {
            let mut slice = slice;
            default_slice(&mut slice);
            fields(validate_slice, slice)
        };
        let slice = |kind: &str, address: &str| {
            json!({"addressType": kind, "endpoints": [{"addresses": [address]}],
                "ports": [{"port": 80}]})
        };
        assert!(of(slice("IPv4", "10.0.0.1")).is_empty());
        assert!(of(slice("FQDN", "example.com")).is_empty());
        assert_eq!(of(slice("IPv4", "fd00::1")), ["endpoints[0].addresses[0]"]);
        assert_eq!(of(slice("Other", "10.0.0.1")), ["addressType"]);
        assert_eq!(of(json!({"endpoints": []})), ["addressType"]);
        let none = json!({"addressType": "IPv4", "endpoints": [{"addresses": []}],
            "ports": [{"port": 1}, {"port": 2}]});
        assert_eq!(of(none), ["endpoints[0].addresses", "ports[1].name"]);
        let many = json!({"addressType": "IPv4", "endpoints": vec![json!({"addresses": ["10.0.0.1"]}); 1001]});
        assert_eq!(of(many), ["endpoints"]);
    }
}
