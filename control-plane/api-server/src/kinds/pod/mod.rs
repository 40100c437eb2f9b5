//! What Kubernetes fills into a pod, and what it refuses.
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/>

mod containers;
mod placement;
mod probes;
mod security;
mod volumes;

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::ephemeral;
use crate::names;
use crate::object;
use crate::status::Cause;

/// Those that are planned for.
const CONTAINERS: [&str; 2] = ["initContainers", "containers"];
/// The longest time that a pod may be given, in seconds.
const MOST_SECONDS: i64 = i32::MAX as i64;
/// So many name servers libc asks.
const MOST_NAMESERVERS: usize = 3;
/// All.
const ALL_CONTAINERS: [&str; 3] = ["initContainers", "containers", ephemeral::FIELD];

/// A pod begins pending, whatever status its creator gives it. In the node's network, its ports
/// are the node's.
pub(super) fn prepare_create(pod: &mut Value) {
    if pod["spec"]["hostNetwork"] == true {
        for list in CONTAINERS {
            // By `get_mut`: an index would put a null where nothing is.
            let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
            let ports = containers.into_iter().flatten().filter_map(|one| one.get_mut("ports"));
            for port in ports.filter_map(Value::as_array_mut).flatten() {
                if port.is_object() && matches!(port["hostPort"].as_u64(), None | Some(0)) {
                    port["hostPort"] = port["containerPort"].clone();
                }
            }
        }
    }
    let qos = qos_class(&pod["spec"]);
    pod["status"] = json!({"phase": "Pending", "qosClass": qos});
    if !object::list(pod, "spec.schedulingGates").is_empty() {
        pod["status"]["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null,
            "lastTransitionTime": object::now(),
        }]);
    }
}

/// Notes the class of a pod whose resources were filled in.
pub(crate) fn classify(pod: &mut Value) {
    let qos = qos_class(&pod["spec"]);
    if let Some(status) = object::map(pod, "status") {
        status.insert("qosClass".into(), qos.into());
    }
}

pub(super) fn default(pod: &mut Value) {
    if let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) {
        default_spec(spec);
    }
}

/// Fills defaults into a pod's spec, or a template's.
pub(super) fn default_spec(spec: &mut Value) {
    object::set_default(spec, "restartPolicy", "Always");
    object::set_default(spec, "terminationGracePeriodSeconds", 30);
    object::set_default(spec, "dnsPolicy", "ClusterFirst");
    object::set_default(spec, "schedulerName", "default-scheduler");
    object::set_default(spec, "securityContext", json!({}));
    object::set_default(spec, "enableServiceLinks", true);
    for list in ALL_CONTAINERS {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if container.is_object() {
                default_container(container);
            }
        }
    }
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        volumes::default(volume);
    }
}

fn default_container(container: &mut Value) {
    object::set_default(container, "terminationMessagePath", "/dev/termination-log");
    object::set_default(container, "terminationMessagePolicy", "File");
    let policy =
        if is_latest(object::text(container, "image")) { "Always" } else { "IfNotPresent" };
    object::set_default(container, "imagePullPolicy", policy);
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        object::set_default(port, "protocol", "TCP");
    }
    for probe in probes::PROBES {
        let Some(probe) = container.get_mut(probe).filter(|probe| probe.is_object()) else {
            continue;
        };
        for (field, value) in [
            ("timeoutSeconds", 1),
            ("periodSeconds", 10),
            ("successThreshold", 1),
            ("failureThreshold", 3),
        ] {
            object::set_default(probe, field, value);
        }
        if let Some(http) = probe.get_mut("httpGet").filter(|http| http.is_object()) {
            object::set_default(http, "path", "/");
            object::set_default(http, "scheme", "HTTP");
        }
    }
    let Some(resources) = object::map(container, "resources") else { return };
    let limits = resources.get("limits").and_then(Value::as_object).cloned().unwrap_or_default();
    if limits.is_empty() {
        return;
    }
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    for (name, quantity) in limits {
        object::set_default(requests, &name, quantity);
    }
}

/// Whether an image's reference says `latest`, or neither tag nor digest.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// `Guaranteed` if every container's cpu and memory are limited to what they request,
/// `BestEffort` if no container requests or limits either, else `Burstable`.
fn qos_class(spec: &Value) -> &'static str {
    let mut any = false;
    let mut all = true;
    for container in CONTAINERS.iter().flat_map(|list| object::list(spec, list)) {
        for name in ["cpu", "memory"] {
            let limit = &container["resources"]["limits"][name];
            let request = &container["resources"]["requests"][name];
            any |= !limit.is_null() || !request.is_null();
            all &= !limit.is_null() && (request.is_null() || request == limit);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

pub(super) fn validate(pod: &Value, causes: &mut Vec<Cause>) {
    validate_spec(&pod["spec"], "spec", causes);
}

/// Reports what is wrong with a pod's spec, or a template's, which lies at `path`.
pub(super) fn validate_spec(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    if !spec.is_object() {
        causes.push(Cause::required(path));
        return;
    }
    one_of(spec, path, "restartPolicy", &["Always", "OnFailure", "Never"], causes);
    let grace = &spec["terminationGracePeriodSeconds"];
    if grace.as_u64().is_none() {
        let at = format!("{path}.terminationGracePeriodSeconds");
        causes.push(Cause::invalid(at, grace, "must be greater than or equal to 0"));
    }
    let deadline = &spec["activeDeadlineSeconds"];
    if !deadline.is_null() && !matches!(deadline.as_i64(), Some(1..=MOST_SECONDS)) {
        let at = format!("{path}.activeDeadlineSeconds");
        causes.push(Cause::invalid(at, deadline, "must be between 1 and 2147483647, inclusive"));
    }
    for field in ["hostname", "subdomain"] {
        if !object::text(spec, field).is_empty() {
            label(object::text(spec, field), &format!("{path}.{field}"), causes);
        }
    }
    validate_dns(spec, path, causes);
    let volumes = volumes::validate(spec, path, causes);
    let mut names = HashSet::new();
    for list in ALL_CONTAINERS {
        let containers = object::list(spec, list);
        if list == "containers" && containers.is_empty() {
            causes.push(Cause::required(format!("{path}.containers")));
        }
        for (index, container) in containers.iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            let name = object::text(container, "name");
            label(name, &format!("{path}.name"), causes);
            if !name.is_empty() && !names.insert(name) {
                causes.push(Cause::duplicate(format!("{path}.name"), &container["name"]));
            }
            containers::validate(container, &path, &volumes, causes);
            security::validate_container(container, &path, spec, causes);
            // Ephemeral containers may have no probes at all.
            if list != ephemeral::FIELD {
                let ends = list == "initContainers" && container["restartPolicy"] != "Always";
                probes::validate(container, &path, grace.as_i64(), ends, causes);
            }
        }
    }
    validate_host_ports(spec, path, causes);
    security::validate_pod(spec, path, causes);
    placement::validate(spec, path, causes);
    ephemeral::validate(spec, path, causes);
}

/// Reports ports of the node that two containers take, and those of a pod in the node's network
/// that are not the container's.
fn validate_host_ports(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    for list in CONTAINERS {
        let mut taken = HashSet::new();
        for (index, container) in object::list(spec, list).iter().enumerate() {
            // Init containers run one after the other.
            if list == "initContainers" {
                taken.clear();
            }
            for (port, number, name) in containers::host_ports(container) {
                let path = format!("{path}.{list}[{index}].ports[{port}].hostPort");
                let own = &container["ports"][port]["containerPort"];
                if list == "containers" && spec["hostNetwork"] == true && *own != number {
                    let why = "must match `containerPort` when `hostNetwork` is true";
                    causes.push(Cause::invalid(&path, &json!(number), why));
                }
                let shown = json!(name);
                if !taken.insert(name) {
                    causes.push(Cause::duplicate(path, &shown));
                }
            }
        }
    }
}

fn validate_dns(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(spec, path, "dnsPolicy", &policies, causes);
    let config = &spec["dnsConfig"];
    let servers = object::list(config, "nameservers");
    if spec["dnsPolicy"] == "None" {
        let at = format!("{path}.dnsConfig");
        if config.is_null() {
            let why = "must provide `dnsConfig` when `dnsPolicy` is None";
            causes.push(Cause::missing(at, why));
        } else if servers.is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            causes.push(Cause::missing(format!("{at}.nameservers"), why));
        }
    }
    let at = format!("{path}.dnsConfig.nameservers");
    if servers.len() > MOST_NAMESERVERS {
        let why = format!("must not have more than {MOST_NAMESERVERS} nameservers");
        causes.push(Cause::invalid(&at, &config["nameservers"], &why));
    }
    for (index, server) in servers.iter().enumerate() {
        if server.as_str().and_then(|text| text.parse::<IpAddr>().ok()).is_none() {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            causes.push(Cause::invalid(format!("{at}[{index}]"), server, why));
        }
    }
}

pub(super) fn label(name: &str, path: &str, causes: &mut Vec<Cause>) {
    if name.is_empty() {
        causes.push(Cause::required(path));
    } else if !names::is_label(name) {
        causes.push(Cause::invalid(path, &json!(name), names::NO_LABEL));
    }
}

pub(super) fn one_of(
    object: &Value,
    path: &str,
    field: &str,
    supported: &[&str],
    causes: &mut Vec<Cause>,
) {
    let value = &object[field];
    if !value.as_str().is_some_and(|text| supported.contains(&text)) && !value.is_null() {
        let path = if path.is_empty() { field.into() } else { format!("{path}.{field}") };
        causes.push(Cause::not_supported(path, value, supported));
    }
}

/// A pod's spec is fixed, but for images, deadlines and added tolerations. Binding, the one way to
/// a node, is no update.
pub(super) fn validate_update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let mut allowed = old["spec"].clone();
    for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
        if field == "terminationGracePeriodSeconds" && old["spec"][field].as_i64() >= Some(0) {
            continue;
        }
        match new["spec"].get(field) {
            Some(value) => allowed[field] = value.clone(),
            None => {
                allowed.as_object_mut().map(|spec| spec.remove(field));
            }
        }
    }
    // Scheduling gates are only ever taken away.
    let gates = object::list(old, "spec.schedulingGates");
    if object::list(new, "spec.schedulingGates").iter().all(|gate| gates.contains(gate)) {
        match new["spec"].get("schedulingGates") {
            Some(left) => allowed["schedulingGates"] = left.clone(),
            None => {
                allowed.as_object_mut().map(|spec| spec.remove("schedulingGates"));
            }
        }
    }
    for list in CONTAINERS {
        let images = object::list(new, &format!("spec.{list}"));
        for (container, new) in
            allowed.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().zip(images)
        {
            container["image"] = new["image"].clone();
        }
    }
    if new["spec"] != allowed {
        let why = "pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing tolerations)";
        causes.push(Cause::forbidden("spec", why));
    }
    let is_kept = |old: &Value| {
        object::list(new, "spec.tolerations").iter().any(|new| same_but_seconds(old, new))
    };
    if !object::list(old, "spec.tolerations").iter().all(is_kept) {
        causes.push(Cause::forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
    validate_deadline(new, old, causes);
}

/// Whether two tolerations differ in nothing but for how long they hold.
fn same_but_seconds(one: &Value, other: &Value) -> bool {
    fn rest(toleration: &Value) -> impl Iterator<Item = (&String, &Value)> {
        let fields = toleration.as_object().into_iter().flatten();
        fields.filter(|(field, _)| *field != "tolerationSeconds")
    }
    rest(one).eq(rest(other))
}

/// A deadline may be set, and be drawn nearer.
fn validate_deadline(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let path = "spec.activeDeadlineSeconds";
    let value = &new["spec"]["activeDeadlineSeconds"];
    let why = match (value.as_i64(), old["spec"]["activeDeadlineSeconds"].as_i64()) {
        (None, Some(_)) => "must not update from a positive integer to nil value",
        (Some(new), Some(old)) if new > old => "must be less than or equal to previous value",
        _ => return,
    };
    causes.push(Cause::invalid(path, value, why));
}

#[cfg(test)]
mod tests;
