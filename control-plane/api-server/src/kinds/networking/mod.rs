//! The group `networking.k8s.io`: NetworkPolicies, Ingresses with their classes, and where Services
//! get their addresses from.

mod ingress;
mod policy;

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::{PLAIN, columns as c, status, template};
use crate::cidr::Ipv4Range;
use crate::object;
use crate::resource::{Behaviour, Resource, Subresource};
use crate::status::Cause;

/// Holds a ServiceCIDR as long as Services have addresses of it.
pub(crate) const CIDR_FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

const SERVICE_CIDR: &[Subresource] = &[status("ServiceCIDR")];

const NETWORKING: Resource = Resource { group: "networking.k8s.io", ..PLAIN };

/// The kinds of the group.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        policy::resource(),
        ingress::resource(),
        ingress::class(),
        Resource {
            kind: "IPAddress",
            plural: "ipaddresses",
            singular: "ipaddress",
            short_names: &["ip"],
            namespaced: false,
            storage: "ipaddresses",
            columns: c::IP_ADDRESS,
            behaviour: Behaviour {
                validate: validate_address,
                validate_update: |new, old, causes| {
                    template::immutable(new, old, "spec.parentRef", causes);
                },
                ..Behaviour::PLAIN
            },
            ..NETWORKING
        },
        Resource {
            kind: "ServiceCIDR",
            plural: "servicecidrs",
            singular: "servicecidr",
            namespaced: false,
            storage: "servicecidrs",
            subresources: SERVICE_CIDR,
            columns: c::SERVICE_CIDR,
            behaviour: Behaviour {
                prepare_create: |range| {
                    range["status"] = json!({"conditions": [{
                        "type": "Ready",
                        "status": "True",
                        "reason": "",
                        "message": "Kubernetes Service CIDR is ready",
                        "lastTransitionTime": object::now(),
                    }]});
                    range["metadata"]["finalizers"] = json!([CIDR_FINALIZER]);
                },
                validate: validate_range,
                validate_update: |new, old, causes| {
                    template::immutable(new, old, "spec.cidrs", causes);
                },
                ..Behaviour::PLAIN
            },
            ..NETWORKING
        },
    ]
}

fn validate_address(address: &Value, causes: &mut Vec<Cause>) {
    let name = object::name(address);
    if name.parse::<IpAddr>().map(|parsed| parsed.to_string()).as_deref() != Ok(name) {
        let why =
            "must be a valid IP address in its canonical form, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        causes.push(Cause::invalid("metadata.name", &address["metadata"]["name"], why));
    }
    let parent = &address["spec"]["parentRef"];
    if !parent.is_object() {
        causes.push(Cause::required("spec.parentRef"));
        return;
    }
    for field in ["resource", "name"] {
        if object::text(parent, field).is_empty() {
            causes.push(Cause::required(format!("spec.parentRef.{field}")));
        }
    }
}

fn validate_range(range: &Value, causes: &mut Vec<Cause>) {
    let cidrs = object::list(range, "spec.cidrs");
    if cidrs.is_empty() {
        causes.push(Cause::required("spec.cidrs"));
    }
    if cidrs.len() > 1 {
        let why = "only one: this cluster is not configured for dual-stack services";
        causes.push(Cause::invalid("spec.cidrs", &range["spec"]["cidrs"], why));
    }
    for (index, cidr) in cidrs.iter().enumerate() {
        let text = cidr.as_str().unwrap_or_default();
        let path = format!("spec.cidrs[{index}]");
        match text.parse::<Ipv4Range>() {
            Ok(_) => {}
            Err(_)
                if text.split('/').next().is_some_and(|part| part.parse::<Ipv4Addr>().is_err()) =>
            {
                causes.push(Cause::invalid(
                    path,
                    cidr,
                    "must be IPv4: IPv6 is not configured on this cluster",
                ));
            }
            Err(error) => causes.push(Cause::invalid(path, cidr, &error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::fields;

    #[test]
    fn addresses_and_ranges() {
        let address = |name: &str| {
            let parent = json!({"resource": "services", "name": "s"});
            fields(
                validate_address,
                json!({"metadata": {"name": name}, "spec": {"parentRef": parent}}),
            )
        };
        assert!(address("10.0.0.1").is_empty() && address("2001:db8::1").is_empty());
        for bad in ["x", "2001:DB8::1", "10.0.0"] {
            assert_eq!(address(bad), ["metadata.name"], "{bad}");
        }
        let range = |cidrs: Value| fields(validate_range, json!({"spec": {"cidrs": cidrs}}));
        assert!(range(json!(["10.0.0.0/16"])).is_empty());
        assert_eq!(range(json!([])), ["spec.cidrs"]);
        for bad in ["fd00::/64", "10.0.0.1/16", "10.0.0.0/8", "x"] {
            assert_eq!(range(json!([bad])), ["spec.cidrs[0]"], "{bad}");
        }
    }
}
