//! What Kubernetes fills into a pod, and what it refuses.
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/>

use std::collections::HashSet;

use serde_json::{Value, json};

use super::ephemeral;
use crate::names;
use crate::object;
use crate::status::Cause;

/// Those that are planned for.
const CONTAINERS: [&str; 2] = ["initContainers", "containers"];
/// All.
const ALL_CONTAINERS: [&str; 3] = ["initContainers", "containers", ephemeral::FIELD];

/// A pod begins pending, whatever status its creator gives it.
pub(super) fn prepare_create(pod: &mut Value) {
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
        default_volume(volume);
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
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
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

fn default_volume(volume: &mut Value) {
    let sources = volume.as_object().map_or(0, |fields| fields.len());
    if sources == 1 && volume["name"].is_string() {
        volume["emptyDir"] = json!({});
    }
    for source in ["configMap", "secret", "projected", "downwardAPI"] {
        if let Some(source) = volume.get_mut(source).filter(|source| source.is_object()) {
            object::set_default(source, "defaultMode", 0o644);
        }
    }
    if let Some(host_path) = volume.get_mut("hostPath").filter(|source| source.is_object())
        && host_path.get("type").is_none()
    {
        host_path["type"] = "".into();
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
    one_of(
        spec,
        path,
        "dnsPolicy",
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        causes,
    );
    if spec["terminationGracePeriodSeconds"].as_u64().is_none() {
        let value = &spec["terminationGracePeriodSeconds"];
        causes.push(Cause::invalid(
            format!("{path}.terminationGracePeriodSeconds"),
            value,
            "must be greater than or equal to 0",
        ));
    }
    let mut volumes = HashSet::new();
    for (index, volume) in object::list(spec, "volumes").iter().enumerate() {
        let path = format!("{path}.volumes[{index}].name");
        let name = object::text(volume, "name");
        label(name, &path, causes);
        if !volumes.insert(name) {
            causes.push(Cause::duplicate(path, &volume["name"]));
        }
    }
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
            validate_container(container, &path, &volumes, causes);
        }
    }
    ephemeral::validate(spec, path, causes);
}

fn validate_container(
    container: &Value,
    path: &str,
    volumes: &HashSet<&str>,
    causes: &mut Vec<Cause>,
) {
    if object::text(container, "image").trim().is_empty() {
        causes.push(Cause::required(format!("{path}.image")));
    }
    one_of(container, path, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], causes);
    one_of(container, path, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], causes);
    for (index, variable) in object::list(container, "env").iter().enumerate() {
        let name = object::text(variable, "name");
        let path = format!("{path}.env[{index}].name");
        if name.is_empty() {
            causes.push(Cause::required(path));
        } else if name.contains('=') || !name.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            let why = "a valid environment variable name must consist only of printable ASCII characters other than '='";
            causes.push(Cause::invalid(path, &variable["name"], why));
        }
    }
    for (index, port) in object::list(container, "ports").iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        if !matches!(port["containerPort"].as_u64(), Some(1..=65535)) {
            let field = format!("{path}.containerPort");
            causes.push(Cause::invalid(
                field,
                &port["containerPort"],
                "must be between 1 and 65535, inclusive",
            ));
        }
        one_of(port, &path, "protocol", &["TCP", "UDP", "SCTP"], causes);
    }
    for (index, mount) in object::list(container, "volumeMounts").iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let name = object::text(mount, "name");
        if !volumes.contains(name) {
            causes.push(Cause {
                reason: "FieldValueNotFound",
                message: format!("Not found: {}", json!(name)),
                field: format!("{path}.name"),
            });
        }
        if object::text(mount, "mountPath").is_empty() {
            causes.push(Cause::required(format!("{path}.mountPath")));
        }
    }
    validate_resources(&container["resources"], &format!("{path}.resources"), causes);
}

fn validate_resources(resources: &Value, path: &str, causes: &mut Vec<Cause>) {
    let parse = |value: &Value| -> Option<bulkhead_client::Quantity> {
        match value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.to_string().parse().ok(),
            _ => None,
        }
    };
    for list in ["limits", "requests"] {
        for (name, value) in resources[list].as_object().into_iter().flatten() {
            if parse(value).is_none() {
                let why = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
                causes.push(Cause::invalid(format!("{path}.{list}.{name}"), value, why));
            }
        }
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        if let (Some(requested), Some(limit)) = (parse(request), parse(&resources["limits"][name]))
            && requested > limit
        {
            let why = format!(
                "must be less than or equal to {name} limit of {}",
                resources["limits"][name]
            );
            causes.push(Cause::invalid(format!("{path}.requests"), request, &why));
        }
    }
}

pub(super) fn label(name: &str, path: &str, causes: &mut Vec<Cause>) {
    if name.is_empty() {
        causes.push(Cause::required(path));
    } else if !names::is_label(name) {
        let why = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
        causes.push(Cause::invalid(path, &json!(name), why));
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
    let tolerations = object::list(new, "spec.tolerations");
    if !object::list(old, "spec.tolerations").iter().all(|old| tolerations.contains(old)) {
        causes.push(Cause::forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing;

    fn pod(spec: Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
        prepare_create(&mut pod);
        default(&mut pod);
        pod
    }

    fn fields(pod: &Value) -> Vec<String> {
        testing::fields(validate, pod)
    }

    #[test]
    fn defaults() {
        let pod = pod(json!({"containers": [
            {"name": "a", "image": "localhost:5000/a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}},
            {"name": "b", "image": "b:1", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}}},
        ], "volumes": [{"name": "v"}]}));
        assert_eq!(fields(&pod), Vec::<String>::new());
        let spec = &pod["spec"];
        assert_eq!(spec["restartPolicy"], "Always");
        assert_eq!(spec["terminationGracePeriodSeconds"], 30);
        assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(
            spec["containers"][0]["resources"]["requests"],
            json!({"cpu": "1", "memory": "1Gi"})
        );
        assert_eq!(spec["containers"][1]["imagePullPolicy"], "IfNotPresent");
        assert_eq!(spec["containers"][1]["resources"]["requests"], json!({"cpu": "500m"}));
        assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
        assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "Burstable"}));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let wrong = pod(json!({
            "restartPolicy": "Sometimes",
            "containers": [
                {"name": "A", "image": "x", "ports": [{"containerPort": 0}]},
                {"name": "b", "env": [{"value": "x"}]},
                {"name": "b", "image": "x", "volumeMounts": [{"name": "none", "mountPath": "/x"}],
                 "resources": {"requests": {"cpu": "2", "memory": "lots"}, "limits": {"cpu": "1"}}},
            ],
        }));
        let expected = [
            "spec.restartPolicy",
            "spec.containers[0].name",
            "spec.containers[0].ports[0].containerPort",
            "spec.containers[1].image",
            "spec.containers[1].env[0].name",
            "spec.containers[2].name",
            "spec.containers[2].volumeMounts[0].name",
            "spec.containers[2].resources.requests.memory",
            "spec.containers[2].resources.requests",
        ];
        assert_eq!(fields(&wrong), expected);
        assert_eq!(fields(&pod(json!({}))), ["spec.containers"]);
        assert_eq!(fields(&json!({"spec": 5})), ["spec"]);
    }

    #[test]
    fn only_images_and_tolerations_change() {
        let old = pod(json!({"containers": [{"name": "a", "image": "a:1"}]}));
        let refused = |new: &Value| {
            let mut causes = Vec::new();
            validate_update(new, &old, &mut causes);
            !causes.is_empty()
        };
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = "a:2".into();
        new["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
        assert!(!refused(&new));
        new["spec"]["containers"][0]["command"] = json!(["sh"]);
        assert!(refused(&new));
        for (field, value) in [("containers", json!([])), ("nodeName", json!("n1"))] {
            let mut new = old.clone();
            new["spec"][field] = value;
            assert!(refused(&new), "{field}");
        }
    }
}
