//! What a Service keeps when it is replaced by one that does not say it, and what it loses when
//! its type changes: as Kubernetes does, so that manifests without allocated values can be written
//! again and again.

use serde_json::Value;

use super::{needs_cluster_ip, needs_health_check_port, needs_node_ports, port, remove};
use crate::object;

/// Prepares `new`, which replaces `old`.
pub(super) fn prepare(new: &mut Value, old: &Value) {
    if !new["spec"].is_object() {
        return;
    }
    addresses_follow(new, old);
    drop_what_the_type_has_not(new, old);
    keep_what_was_allocated(new, old);
}

/// Brings `clusterIPs` in line with `clusterIP`, if only that changed.
fn addresses_follow(new: &mut Value, old: &Value) {
    let (wanted, had) = (object::text(new, "spec.clusterIP"), object::text(old, "spec.clusterIP"));
    let same_list = object::list(new, "spec.clusterIPs") == object::list(old, "spec.clusterIPs");
    let wanted = wanted.to_owned();
    let none = object::list(new, "spec.clusterIPs").is_empty();
    if wanted.is_empty() && !had.is_empty() && same_list {
        remove(&mut new["spec"], "clusterIPs");
    } else if (wanted != had && same_list) || (!wanted.is_empty() && none) {
        new["spec"]["clusterIPs"] = serde_json::json!([wanted]);
    }
}

/// Drops what `new`'s type does not have, unless it was changed: then validation says what is
/// wrong.
fn drop_what_the_type_has_not(new: &mut Value, old: &Value) {
    let same = |new: &Value, field: &str| new["spec"][field] == old["spec"][field];
    if needs_cluster_ip(old) && !needs_cluster_ip(new) {
        for field in
            ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
        {
            if same(new, field) {
                remove(&mut new["spec"], field);
            }
        }
    }
    if needs_node_ports(old) && !needs_node_ports(new) {
        let before: Vec<_> =
            object::list(old, "spec.ports").iter().map(|one| port(one, "nodePort")).collect();
        let after: Vec<_> =
            object::list(new, "spec.ports").iter().map(|one| port(one, "nodePort")).collect();
        if before == after {
            for port in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
                remove(port, "nodePort");
            }
        }
    }
    if needs_health_check_port(old)
        && !needs_health_check_port(new)
        && same(new, "healthCheckNodePort")
    {
        remove(&mut new["spec"], "healthCheckNodePort");
    }
    if super::kind(old) == "LoadBalancer" && super::kind(new) != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(new, field) {
                remove(&mut new["spec"], field);
            }
        }
    }
    if super::is_external(old) && !super::is_external(new) && same(new, "externalTrafficPolicy") {
        remove(&mut new["spec"], "externalTrafficPolicy");
    }
}

/// Keeps addresses and ports that were allocated and that `new` does not say.
fn keep_what_was_allocated(new: &mut Value, old: &Value) {
    if needs_cluster_ip(old)
        && needs_cluster_ip(new)
        && object::text(new, "spec.clusterIP").is_empty()
    {
        for field in ["clusterIP", "clusterIPs"] {
            new["spec"][field] = old["spec"][field].clone();
        }
    }
    if needs_node_ports(old) && needs_node_ports(new) {
        let said: Vec<i64> = object::list(new, "spec.ports")
            .iter()
            .filter_map(|one| port(one, "nodePort"))
            .collect();
        for one in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
            let name = object::text(one, "name");
            let before = object::list(old, "spec.ports")
                .iter()
                .find(|port| object::text(port, "name") == name)
                .and_then(|before| port(before, "nodePort"))
                .filter(|before| !said.contains(before));
            if let (None, Some(before)) = (port(one, "nodePort"), before) {
                one["nodePort"] = before.into();
            }
        }
    }
    if needs_health_check_port(old)
        && needs_health_check_port(new)
        && port(&new["spec"], "healthCheckNodePort").is_none()
        && let Some(before) = port(&old["spec"], "healthCheckNodePort")
    {
        new["spec"]["healthCheckNodePort"] = before.into();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn old() -> Value {
        json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "externalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"],
            "ports": [{"name": "a", "port": 80, "nodePort": 30_001},
                      {"name": "b", "port": 81, "nodePort": 30_002}]}})
    }

    #[test]
    fn what_was_allocated_stays() {
        let mut new = json!({"spec": {"type": "NodePort",
            "ports": [{"name": "b", "port": 82}, {"name": "c", "port": 83, "nodePort": 30_001},
                      {"name": "a", "port": 80}]}});
        prepare(&mut new, &old());
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.9");
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.96.0.9"]));
        let ports = &new["spec"]["ports"];
        assert_eq!(
            (&ports[0]["nodePort"], &ports[1]["nodePort"]),
            (&json!(30_002), &json!(30_001))
        );
        assert!(ports[2]["nodePort"].is_null(), "it was given to another");
    }

    #[test]
    fn a_type_drops_what_it_has_not() {
        let mut new = old();
        new["spec"]["type"] = "ClusterIP".into();
        prepare(&mut new, &old());
        assert!(new["spec"]["ports"][0].get("nodePort").is_none());
        assert!(new["spec"].get("externalTrafficPolicy").is_none());
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.9");
        let mut new = old();
        new["spec"]["type"] = "ExternalName".into();
        prepare(&mut new, &old());
        assert!(new["spec"].get("clusterIP").is_none() && new["spec"].get("clusterIPs").is_none());
        let mut new = old();
        new["spec"]["type"] = "ClusterIP".into();
        new["spec"]["ports"][0]["nodePort"] = 30_003.into();
        prepare(&mut new, &old());
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30_003, "a change is for validation");
    }

    #[test]
    fn addresses_follow_the_first() {
        let mut new = old();
        new["spec"]["clusterIP"] = "10.96.0.10".into();
        prepare(&mut new, &old());
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.96.0.10"]));
    }
}
