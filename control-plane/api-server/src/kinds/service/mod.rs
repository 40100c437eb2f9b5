//! Services: a stable address for a set of pods.
//! <https://kubernetes.io/docs/reference/kubernetes-api/service-resources/service-v1/>
//!
//! Only IPv4 is served. Which address and which node ports a Service gets, if it does not say, is
//! the allocator's to decide ([`crate::api`]).

mod update;
mod validate;

pub(super) use validate::{port_number, port_or_name, reachable};

use serde_json::{Value, json};

use super::{PLAIN, columns as c, proxy, status};
use crate::names::NameRule;
use crate::object;
use crate::resource::{Behaviour, Resource, Subresource};

const SUBRESOURCES: &[Subresource] = &[proxy("ServiceProxyOptions"), status("Service")];

/// What `clusterIP` says of a Service that has none.
pub(crate) const HEADLESS: &str = "None";

/// How long a client sticks to a pod, unless the Service says otherwise.
const AFFINITY_SECONDS: u32 = 10_800;

/// The kind.
pub(super) fn resource() -> Resource {
    Resource {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        storage: "services",
        subresources: SUBRESOURCES,
        fields: &["spec.clusterIP", "spec.type"],
        columns: c::SERVICE,
        behaviour: Behaviour {
            prepare_create: |service| {
                service["status"] = json!({"loadBalancer": {}});
                same_addresses(service);
            },
            prepare_update: update::prepare,
            default,
            validate: validate::validate,
            validate_update: validate::validate_update,
            name: NameRule::Rfc1035Label,
            ..Behaviour::PLAIN
        },
        ..PLAIN
    }
}

/// `spec.type`; a Service that does not say is of type `ClusterIP`.
pub(crate) fn kind(service: &Value) -> &str {
    match object::text(service, "spec.type") {
        "" => "ClusterIP",
        kind => kind,
    }
}

/// Whether it has an address, or says that it wants none.
pub(crate) fn needs_cluster_ip(service: &Value) -> bool {
    matches!(kind(service), "ClusterIP" | "NodePort" | "LoadBalancer")
}

/// Whether its ports are open on nodes.
pub(crate) fn needs_node_ports(service: &Value) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

/// Whether it has a port on which nodes say if they have pods of it.
pub(crate) fn needs_health_check_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local"
}

/// Whether clients outside the cluster reach it.
fn is_external(service: &Value) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
        || !object::list(service, "spec.externalIPs").is_empty()
}

/// A number that is not absent, which zero is.
pub(crate) fn port(object: &Value, field: &str) -> Option<i64> {
    object[field].as_i64().filter(|port| *port != 0)
}

/// `clusterIPs` as `clusterIP` says, which older clients know alone.
fn same_addresses(service: &mut Value) {
    let address = object::text(service, "spec.clusterIP").to_owned();
    if !address.is_empty() && object::list(service, "spec.clusterIPs").is_empty() {
        service["spec"]["clusterIPs"] = json!([address]);
    }
}

fn default(service: &mut Value) {
    let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    object::set_default(spec, "type", "ClusterIP");
    object::set_default(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "None" {
        remove(spec, "sessionAffinityConfig");
    } else if spec["sessionAffinity"] == "ClientIP" {
        object::set_default(spec, "sessionAffinityConfig", json!({}));
        let config = &mut spec["sessionAffinityConfig"];
        object::set_default(config, "clientIP", json!({}));
        object::set_default(&mut config["clientIP"], "timeoutSeconds", AFFINITY_SECONDS);
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if !port.is_object() {
            continue;
        }
        object::set_default(port, "protocol", "TCP");
        if port["targetPort"] == 0 {
            remove(port, "targetPort");
        }
        let same = port["port"].clone();
        object::set_default(port, "targetPort", same);
        if port["nodePort"] == 0 {
            remove(port, "nodePort");
        }
    }
    if spec["type"] == "ExternalName" {
        return;
    }
    object::set_default(spec, "internalTrafficPolicy", "Cluster");
    let is_external = matches!(object::text(spec, "type"), "NodePort" | "LoadBalancer");
    if is_external || !object::list(spec, "externalIPs").is_empty() {
        object::set_default(spec, "externalTrafficPolicy", "Cluster");
    }
    if spec["type"] == "LoadBalancer" {
        object::set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
    object::set_default(spec, "ipFamilyPolicy", "SingleStack");
    if object::list(spec, "ipFamilies").is_empty() {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
}

fn remove(object: &mut Value, field: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults() {
        let mut service = json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9",
            "sessionAffinity": "ClientIP", "ports": [{"port": 80, "targetPort": 0}]}});
        (resource().behaviour.prepare_create)(&mut service);
        default(&mut service);
        let expected = json!({
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.9",
            "clusterIPs": ["10.96.0.9"],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "externalTrafficPolicy": "Cluster",
            "allocateLoadBalancerNodePorts": true,
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}},
            "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}],
        });
        assert_eq!(service["spec"], expected);
    }
}
