//! NetworkPolicies: who may talk to the pods of a namespace, and to whom they may.

use serde_json::{Value, json};

use super::NETWORKING;
use crate::kinds::service::port_or_name;
use crate::kinds::{columns as c, pod, template};
use crate::names::{NO_CIDR, is_cidr};
use crate::object;
use crate::resource::{Behaviour, Resource};
use crate::status::Cause;

/// The kind.
pub(super) fn resource() -> Resource {
    Resource {
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        storage: "networkpolicies",
        generation: true,
        columns: c::NETWORK_POLICY,
        behaviour: Behaviour { default, validate, ..Behaviour::PLAIN },
        ..NETWORKING
    }
}

fn default(policy: &mut Value) {
    let Some(spec) = policy.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    object::set_default(spec, "podSelector", json!({}));
    if object::list(spec, "policyTypes").is_empty() {
        let egress = !object::list(spec, "egress").is_empty();
        spec["policyTypes"] =
            if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    }
    for direction in ["ingress", "egress"] {
        for rule in spec.get_mut(direction).and_then(Value::as_array_mut).into_iter().flatten() {
            for port in rule.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                if port.is_object() {
                    object::set_default(port, "protocol", "TCP");
                }
            }
        }
    }
}

fn validate(policy: &Value, causes: &mut Vec<Cause>) {
    let spec = &policy["spec"];
    if !spec.is_object() {
        causes.push(Cause::required("spec"));
        return;
    }
    template::label_selector(&spec["podSelector"], "spec.podSelector", causes);
    for (index, kind) in object::list(spec, "policyTypes").iter().enumerate() {
        let types = &["Ingress", "Egress"];
        if !kind.as_str().is_some_and(|kind| types.contains(&kind)) {
            let path = format!("spec.policyTypes[{index}]");
            causes.push(Cause::not_supported(path, kind, types));
        }
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in object::list(spec, direction).iter().enumerate() {
            let path = format!("spec.{direction}[{index}]");
            for (index, port) in object::list(rule, "ports").iter().enumerate() {
                validate_port(port, &format!("{path}.ports[{index}]"), causes);
            }
            for (index, peer) in object::list(rule, peers).iter().enumerate() {
                validate_peer(peer, &format!("{path}.{peers}[{index}]"), causes);
            }
        }
    }
}

fn validate_port(port: &Value, path: &str, causes: &mut Vec<Cause>) {
    pod::one_of(port, path, "protocol", &["SCTP", "TCP", "UDP"], causes);
    if !port["port"].is_null() {
        port_or_name(&port["port"], &format!("{path}.port"), causes);
    }
    let end = &port["endPort"];
    if end.is_null() {
        return;
    }
    let path = format!("{path}.endPort");
    match (port["port"].as_i64(), end.as_i64()) {
        (Some(first), Some(last)) if last < first => {
            causes.push(Cause::invalid(path, end, "must be greater than or equal to `port`"));
        }
        (Some(_), Some(1..=65_535)) => {}
        (Some(_), _) => {
            causes.push(Cause::invalid(path, end, "must be between 1 and 65535, inclusive"));
        }
        (None, _) => {
            let why = "may not be specified when `port` is not specified or is not a number";
            causes.push(Cause::forbidden(path, why));
        }
    }
}

fn validate_peer(peer: &Value, path: &str, causes: &mut Vec<Cause>) {
    let selects = ["namespaceSelector", "podSelector"].map(|field| !peer[field].is_null());
    let block = &peer["ipBlock"];
    match (block.is_null(), selects.contains(&true)) {
        (true, false) => causes.push(Cause {
            message: "Required value: must specify a peer".into(),
            ..Cause::required(path)
        }),
        (false, true) => {
            let why = "may not specify both ipBlock and another peer";
            causes.push(Cause::forbidden(path, why));
        }
        _ => {}
    }
    for field in ["namespaceSelector", "podSelector"] {
        if !peer[field].is_null() {
            template::label_selector(&peer[field], &format!("{path}.{field}"), causes);
        }
    }
    if block.is_null() {
        return;
    }
    let cidr = object::text(block, "cidr");
    let path = format!("{path}.ipBlock");
    if cidr.is_empty() {
        causes.push(Cause::required(format!("{path}.cidr")));
    } else if !is_cidr(cidr) {
        causes.push(Cause::invalid(format!("{path}.cidr"), &block["cidr"], NO_CIDR));
    }
    for (index, except) in object::list(block, "except").iter().enumerate() {
        let path = format!("{path}.except[{index}]");
        match except.as_str() {
            Some(text) if is_cidr(text) => {
                if is_cidr(cidr) && !is_within(text, cidr) {
                    let why = format!("must be a strict subset of `cidr` ({cidr})");
                    causes.push(Cause::invalid(path, except, &why));
                }
            }
            _ => causes.push(Cause::invalid(path, except, NO_CIDR)),
        }
    }
}

/// Whether the range `inner` is a part of the range `outer`, and not all of it.
fn is_within(inner: &str, outer: &str) -> bool {
    let parse = |text: &str| -> Option<(u128, u32, u32)> {
        let (address, length) = text.split_once('/')?;
        let (bits, width) = match address.parse().ok()? {
            std::net::IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
            std::net::IpAddr::V6(address) => (u128::from(address), 128),
        };
        Some((bits, length.parse().ok()?, width))
    };
    let (Some((inner, inner_length, inner_width)), Some((outer, outer_length, outer_width))) =
        (parse(inner), parse(outer))
    else {
        return false;
    };
    let host = outer_width.saturating_sub(outer_length);
    let prefix = |bits: u128| bits.checked_shr(host).unwrap_or(0);
    inner_width == outer_width && inner_length > outer_length && prefix(inner) == prefix(outer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_meant() {
        let of = |rule: Value| {
            let mut policy = json!({"spec": {"podSelector": {}, "egress": [rule]}});
            default(&mut policy);
            assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
            let mut causes = Vec::new();
            validate(&policy, &mut causes);
            causes.into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        let path = "spec.egress[0]";
        assert!(of(json!({"ports": [{"port": 80, "endPort": 90}, {"port": "http"}],
            "to": [{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}))
        .is_empty());
        for (rule, field) in [
            (json!({"ports": [{"port": 90, "endPort": 80}]}), "ports[0].endPort"),
            (json!({"ports": [{"port": "http", "endPort": 80}]}), "ports[0].endPort"),
            (json!({"ports": [{"port": 0}]}), "ports[0].port"),
            (json!({"to": [{}]}), "to[0]"),
            (json!({"to": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}), "to[0]"),
            (json!({"to": [{"ipBlock": {"cidr": "10.0.0.0"}}]}), "to[0].ipBlock.cidr"),
            (
                json!({"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}),
                "to[0].ipBlock.except[0]",
            ),
        ] {
            assert_eq!(of(rule.clone()), [format!("{path}.{field}")], "{rule}");
        }
    }
}
