//! What is refused of Services.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::super::{pod, template};
use super::{HEADLESS, is_external, kind, needs_cluster_ip, port};
use crate::names::{self, NameRule};
use crate::object;
use crate::status::Cause;

const TYPES: &[&str] = &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
/// A day.
const MAX_AFFINITY_SECONDS: i64 = 86_400;

/// Reports what is wrong with a Service.
pub(super) fn validate(service: &Value, causes: &mut Vec<Cause>) {
    let spec = &service["spec"];
    if !spec.is_object() {
        causes.push(Cause::required("spec"));
        return;
    }
    pod::one_of(spec, "spec", "type", TYPES, causes);
    let headless = spec["clusterIP"] == HEADLESS;
    let kind = kind(service);
    if object::list(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
        causes.push(Cause::required("spec.ports"));
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        let why = format!("may not be set to 'None' for {kind} services");
        causes.push(Cause::invalid("spec.clusterIPs[0]", &spec["clusterIP"], &why));
    }
    ports(service, causes);
    template::labels(&spec["selector"], "spec.selector", causes);
    affinity(spec, causes);
    addresses(service, causes);
    traffic(service, causes);
    load_balancer(service, causes);
    if kind == "ExternalName" {
        let name = object::text(spec, "externalName");
        // A trailing dot makes it absolute.
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() {
            causes.push(Cause::required("spec.externalName"));
        } else if let Some(why) = NameRule::Subdomain.violation(name) {
            causes.push(Cause::invalid("spec.externalName", &spec["externalName"], why));
        }
    }
}

fn ports(service: &Value, causes: &mut Vec<Cause>) {
    let spec = &service["spec"];
    let ports = object::list(spec, "ports");
    let (mut names, mut listening, mut on_nodes) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (index, one) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = object::text(one, "name");
        if name.is_empty() && ports.len() > 1 {
            causes.push(Cause::required(format!("{path}.name")));
        } else if !name.is_empty() {
            pod::label(name, &format!("{path}.name"), causes);
            if !names.insert(name) {
                causes.push(Cause::duplicate(format!("{path}.name"), &one["name"]));
            }
        }
        port_number(&one["port"], &format!("{path}.port"), causes);
        pod::one_of(one, &path, "protocol", &["TCP", "UDP", "SCTP"], causes);
        port_or_name(&one["targetPort"], &format!("{path}.targetPort"), causes);
        let application = object::text(one, "appProtocol");
        if !application.is_empty() && !names::is_qualified(application) {
            let why = names::NO_QUALIFIED;
            causes.push(Cause::invalid(format!("{path}.appProtocol"), &one["appProtocol"], why));
        }
        let protocol = object::text(one, "protocol");
        if !listening.insert((protocol, one["port"].as_i64())) {
            let value = json!({"protocol": protocol, "port": one["port"]});
            causes.push(Cause::duplicate(&path, &value));
        }
        let Some(node_port) = port(one, "nodePort") else { continue };
        let path = format!("{path}.nodePort");
        if matches!(kind(service), "ClusterIP" | "ExternalName") {
            let why = format!("may not be used when `type` is '{}'", kind(service));
            causes.push(Cause::forbidden(path, &why));
        } else if !on_nodes.insert((protocol, node_port)) {
            causes.push(Cause::duplicate(path, &one["nodePort"]));
        }
    }
}

/// Reports what is no port.
pub(in crate::kinds) fn port_number(value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if !value.as_i64().is_some_and(|port| (1..=65_535).contains(&port)) {
        causes.push(Cause::invalid(path, value, "must be between 1 and 65535, inclusive"));
    }
}

/// Reports what is neither a port nor a port's name.
pub(in crate::kinds) fn port_or_name(value: &Value, path: &str, causes: &mut Vec<Cause>) {
    match value.as_str() {
        Some(name) => {
            if let Some(why) = names::port_name_violation(name) {
                causes.push(Cause::invalid(path, value, why));
            }
        }
        None => port_number(value, path, causes),
    }
}

fn affinity(spec: &Value, causes: &mut Vec<Cause>) {
    pod::one_of(spec, "spec", "sessionAffinity", &["ClientIP", "None"], causes);
    let seconds = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
    if spec["sessionAffinity"] == "ClientIP"
        && !seconds.as_i64().is_some_and(|time| (1..=MAX_AFFINITY_SECONDS).contains(&time))
    {
        let why = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
        let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        causes.push(Cause::invalid(path, seconds, &why));
    }
}

fn addresses(service: &Value, causes: &mut Vec<Cause>) {
    let spec = &service["spec"];
    let (address, all) = (object::text(spec, "clusterIP"), object::list(spec, "clusterIPs"));
    if kind(service) == "ExternalName" {
        let fields = ["clusterIPs", "ipFamilies", "ipFamilyPolicy"];
        for field in fields.into_iter().filter(|field| !spec[*field].is_null()) {
            let why = "may not be set for ExternalName services";
            causes.push(Cause::forbidden(format!("spec.{field}"), why));
        }
        return;
    }
    if all.len() > 1 {
        let why = "may only hold one value: this cluster is not configured for dual-stack services";
        causes.push(Cause::invalid("spec.clusterIPs", &spec["clusterIPs"], why));
    }
    if let Some(first) = all.first() {
        if *first != spec["clusterIP"] {
            let why = "first value must match `clusterIP`";
            causes.push(Cause::invalid("spec.clusterIPs", &spec["clusterIPs"], why));
        }
        match address.parse::<IpAddr>() {
            _ if address == HEADLESS => {}
            Ok(IpAddr::V4(_)) => {}
            Ok(IpAddr::V6(_)) => {
                let why = "IPv6 is not configured on this cluster";
                causes.push(Cause::invalid("spec.clusterIPs[0]", first, why));
            }
            Err(_) => {
                let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
                causes.push(Cause::invalid("spec.clusterIPs[0]", first, why));
            }
        }
    }
    for (index, family) in object::list(spec, "ipFamilies").iter().enumerate() {
        let path = format!("spec.ipFamilies[{index}]");
        match family.as_str() {
            Some("IPv4") if index == 0 => {}
            Some("IPv4") => causes.push(Cause::duplicate(path, family)),
            Some("IPv6") => {
                causes.push(Cause::invalid(path, family, "not configured on this cluster"));
            }
            _ => causes.push(Cause::not_supported(path, family, &["IPv4", "IPv6"])),
        }
    }
    let policies = &["SingleStack", "PreferDualStack", "RequireDualStack"];
    pod::one_of(spec, "spec", "ipFamilyPolicy", policies, causes);
    if spec["ipFamilyPolicy"] == "RequireDualStack" {
        let why = "this cluster is not configured for dual-stack services";
        causes.push(Cause::invalid("spec.ipFamilyPolicy", &spec["ipFamilyPolicy"], why));
    }
}

fn traffic(service: &Value, causes: &mut Vec<Cause>) {
    let spec = &service["spec"];
    let policies = &["Cluster", "Local"];
    pod::one_of(spec, "spec", "internalTrafficPolicy", policies, causes);
    if is_external(service) {
        pod::one_of(spec, "spec", "externalTrafficPolicy", policies, causes);
    } else if !object::text(spec, "externalTrafficPolicy").is_empty() {
        let why = "may only be set for externally-accessible services";
        let value = &spec["externalTrafficPolicy"];
        causes.push(Cause::invalid("spec.externalTrafficPolicy", value, why));
    }
    let near = &["PreferClose", "PreferSameZone", "PreferSameNode"];
    pod::one_of(spec, "spec", "trafficDistribution", near, causes);
    for (index, address) in object::list(spec, "externalIPs").iter().enumerate() {
        let path = format!("spec.externalIPs[{index}]");
        match address.as_str().map(str::parse::<IpAddr>) {
            Some(Ok(IpAddr::V4(address))) => reachable(address, &path, causes),
            Some(Ok(IpAddr::V6(_))) => {
                causes.push(Cause::invalid(
                    path,
                    address,
                    "IPv6 is not configured on this cluster",
                ));
            }
            _ => {
                let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
                causes.push(Cause::invalid(path, address, why));
            }
        }
    }
}

/// Reports addresses that mean a place of the sender's own.
pub(in crate::kinds) fn reachable(address: Ipv4Addr, path: &str, causes: &mut Vec<Cause>) {
    let why = if address.is_unspecified() {
        "may not be unspecified (0.0.0.0 or ::)"
    } else if address.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    } else if address.is_link_local() {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    } else if address.octets()[..3] == [224, 0, 0] {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
    } else {
        return;
    };
    causes.push(Cause::invalid(path, &json!(address.to_string()), why));
}

fn load_balancer(service: &Value, causes: &mut Vec<Cause>) {
    let spec = &service["spec"];
    let is_one = kind(service) == "LoadBalancer";
    let only = ["allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerSourceRanges"];
    for field in only.into_iter().filter(|field| !is_one && !spec[*field].is_null()) {
        let why = "may only be used when `type` is 'LoadBalancer'";
        causes.push(Cause::forbidden(format!("spec.{field}"), why));
    }
    let class = object::text(spec, "loadBalancerClass");
    if is_one && !spec["loadBalancerClass"].is_null() && !names::is_qualified(class) {
        let why = names::NO_QUALIFIED;
        causes.push(Cause::invalid("spec.loadBalancerClass", &spec["loadBalancerClass"], why));
    }
    for (index, range) in object::list(spec, "loadBalancerSourceRanges").iter().enumerate() {
        let valid = range.as_str().is_some_and(|text| crate::names::is_cidr(text.trim()));
        if !valid {
            let path = format!("spec.loadBalancerSourceRanges[{index}]");
            causes.push(Cause::invalid(path, range, names::NO_CIDR));
        }
    }
    let health = port(spec, "healthCheckNodePort");
    if health.is_some() && !super::needs_health_check_port(service) {
        let why =
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        let value = &spec["healthCheckNodePort"];
        causes.push(Cause::invalid("spec.healthCheckNodePort", value, why));
    }
}

/// Reports what may not change from `old` to `new`.
pub(super) fn validate_update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    if needs_cluster_ip(new) && needs_cluster_ip(old) {
        let (now, before) = (&new["spec"]["clusterIPs"], &old["spec"]["clusterIPs"]);
        if !before.is_null() && now != before {
            causes.push(Cause::invalid("spec.clusterIPs[0]", now, "may not change once set"));
        }
    }
    let is_one = |service: &Value| kind(service) == "LoadBalancer";
    if is_one(new) && is_one(old) {
        template::immutable(new, old, "spec.loadBalancerClass", causes);
    }
    let checked = super::needs_health_check_port;
    if checked(new) && checked(old) {
        template::immutable(new, old, "spec.healthCheckNodePort", causes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(spec: Value) -> Vec<String> {
        let mut service = json!({"metadata": {"name": "s"}, "spec": spec});
        (super::super::resource().behaviour.prepare_create)(&mut service);
        super::super::default(&mut service);
        let mut causes = Vec::new();
        validate(&service, &mut causes);
        causes.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn good_ones_pass() {
        for spec in [
            json!({"ports": [{"port": 80}]}),
            json!({"ports": [{"port": 80, "targetPort": "http"}], "selector": {"a": "b"}}),
            json!({"clusterIP": "None"}),
            json!({"type": "ExternalName", "externalName": "example.com."}),
            json!({"type": "NodePort", "ports": [{"port": 53, "name": "a", "nodePort": 30_053},
                {"port": 53, "name": "b", "protocol": "UDP", "nodePort": 30_053}]}),
            json!({"type": "LoadBalancer", "ports": [{"port": 80}], "externalTrafficPolicy": "Local",
                "healthCheckNodePort": 30_000, "loadBalancerSourceRanges": ["10.0.0.0/8"]}),
            json!({"ports": [{"port": 80}], "ipFamilyPolicy": "PreferDualStack"}),
        ] {
            assert_eq!(fields(spec.clone()), Vec::<String>::new(), "{spec}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        for (spec, expected) in [
            (json!({}), "spec.ports"),
            (json!({"type": "Other", "ports": [{"port": 80}]}), "spec.type"),
            (json!({"ports": [{"port": 0, "targetPort": 1}]}), "spec.ports[0].port"),
            (json!({"ports": [{"port": 1, "protocol": "ICMP"}]}), "spec.ports[0].protocol"),
            (json!({"ports": [{"port": 1, "targetPort": "Bad_"}]}), "spec.ports[0].targetPort"),
            (json!({"ports": [{"port": 1, "nodePort": 30_000}]}), "spec.ports[0].nodePort"),
            (json!({"type": "ExternalName"}), "spec.externalName"),
            (
                json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 1}]}),
                "spec.clusterIPs[0]",
            ),
            (json!({"clusterIP": "x", "ports": [{"port": 1}]}), "spec.clusterIPs[0]"),
            (json!({"clusterIP": "fd00::1", "ports": [{"port": 1}]}), "spec.clusterIPs[0]"),
            (json!({"ports": [{"port": 1}], "ipFamilies": ["IPv6"]}), "spec.ipFamilies[0]"),
            (
                json!({"ports": [{"port": 1}], "ipFamilyPolicy": "RequireDualStack"}),
                "spec.ipFamilyPolicy",
            ),
            (
                json!({"ports": [{"port": 1}], "externalTrafficPolicy": "Local"}),
                "spec.externalTrafficPolicy",
            ),
            (json!({"ports": [{"port": 1}], "externalIPs": ["127.0.0.1"]}), "spec.externalIPs[0]"),
            (json!({"ports": [{"port": 1}], "loadBalancerClass": "x"}), "spec.loadBalancerClass"),
            (
                json!({"ports": [{"port": 1}], "healthCheckNodePort": 30_000}),
                "spec.healthCheckNodePort",
            ),
            (json!({"ports": [{"port": 1}], "sessionAffinity": "Sticky"}), "spec.sessionAffinity"),
        ] {
            assert_eq!(fields(spec.clone()), [expected], "{spec}");
        }
        let twice = json!({"ports": [{"port": 1}, {"port": 1}]});
        assert_eq!(fields(twice), ["spec.ports[0].name", "spec.ports[1].name", "spec.ports[1]"]);
    }

    #[test]
    fn an_address_is_for_ever() {
        let service = |kind: &str, address: &str| json!({"spec": {"type": kind, "clusterIP": address, "clusterIPs": [address]}});
        let refused = |new: &Value, old: &Value| {
            let mut causes = Vec::new();
            validate_update(new, old, &mut causes);
            !causes.is_empty()
        };
        let old = service("ClusterIP", "10.96.0.1");
        assert!(refused(&service("NodePort", "10.96.0.2"), &old));
        assert!(!refused(&service("NodePort", "10.96.0.1"), &old));
        assert!(!refused(&service("ExternalName", ""), &old));
    }
}
