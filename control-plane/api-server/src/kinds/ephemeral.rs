//! Ephemeral containers: those that people add to a pod that runs, to look at it.
//! <https://kubernetes.io/docs/concepts/workloads/pods/ephemeral-containers/>

use serde_json::Value;

use crate::object::{self, list, text};
use crate::status::Cause;

/// Where a pod has them.
const PATH: &str = "spec.ephemeralContainers";
/// Where its spec has them.
pub(super) const FIELD: &str = "ephemeralContainers";
/// What makes no sense for a container that is neither restarted nor planned for.
const FORBIDDEN: [&str; 8] = [
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resources",
    "resizePolicy",
    "restartPolicy",
];

/// The pod that `current` becomes with the ephemeral containers of `changed`.
pub(crate) fn of(changed: &Value, current: &Value) -> Value {
    let mut pod = current.clone();
    if let Some(spec) = object::map(&mut pod, "spec") {
        match object::at(changed, PATH) {
            Some(containers) => spec.insert(FIELD.into(), containers.clone()),
            None => spec.remove(FIELD),
        };
    }
    pod
}

/// Reports what is wrong with the ephemeral containers of the pod's spec at `path`, beside what is
/// wrong with any container.
pub(super) fn validate(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let why = "cannot be set for an Ephemeral Container";
    for (index, container) in list(spec, FIELD).iter().enumerate() {
        let path = format!("{path}.{FIELD}[{index}]");
        for field in FORBIDDEN {
            let is_set = match &container[field] {
                Value::Null => false,
                Value::Array(all) => !all.is_empty(),
                Value::Object(fields) => !fields.is_empty(),
                _ => true,
            };
            if is_set {
                causes.push(Cause::forbidden(format!("{path}.{field}"), why));
            }
        }
        for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !text(mount, field).is_empty() {
                    let path = format!("{path}.volumeMounts[{index}].{field}");
                    causes.push(Cause::forbidden(path, why));
                }
            }
        }
        let target = text(container, "targetContainerName");
        let mut containers = list(spec, "containers").iter().chain(list(spec, "initContainers"));
        if !target.is_empty() && !containers.any(|container| container["name"] == target) {
            let path = format!("{path}.targetContainerName");
            causes.push(Cause::not_found(path, &container["targetContainerName"]));
        }
    }
}

/// Reports them in a pod that is being created: they are added to one that runs.
pub(super) fn validate_create(pod: &Value, causes: &mut Vec<Cause>) {
    if !list(pod, PATH).is_empty() {
        causes.push(Cause::forbidden(PATH, "cannot be set on create"));
    }
}

/// Reports them in a template.
pub(super) fn validate_template(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    if !list(spec, FIELD).is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        causes.push(Cause::forbidden(format!("{path}.{FIELD}"), why));
    }
}

/// Reports a change of those that are there: they are only ever added.
pub(crate) fn validate_update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let now = list(new, PATH);
    for before in list(old, PATH) {
        let name = text(before, "name");
        let why = match now.iter().find(|container| container["name"] == name) {
            None => format!("existing ephemeral containers \"{name}\" may not be removed\n"),
            Some(same) if same == before => continue,
            Some(_) => format!("existing ephemeral containers \"{name}\" may not be changed\n"),
        };
        causes.push(Cause::forbidden(PATH, &why));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::pod;

    fn debugged(container: Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "a", "image": "a:1"}], "volumes": [{"name": "v"}],
            "ephemeralContainers": [container],
        }});
        pod::default(&mut pod);
        pod
    }

    fn wrong(pod: &Value) -> Vec<String> {
        let mut causes = Vec::new();
        pod::validate(pod, &mut causes);
        causes.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn they_are_containers_with_less() {
        let good = debugged(json!({"name": "d", "image": "b", "targetContainerName": "a",
            "resources": {}, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
        assert_eq!(wrong(&good), Vec::<String>::new());
        assert_eq!(good["spec"]["ephemeralContainers"][0]["imagePullPolicy"], "Always");
        let path = "spec.ephemeralContainers[0]";
        for (container, field) in [
            (json!({"name": "a", "image": "b"}), ".name"),
            (json!({"name": "d"}), ".image"),
            (json!({"name": "d", "image": "b", "ports": [{"containerPort": 1}]}), ".ports"),
            (json!({"name": "d", "image": "b", "restartPolicy": "Always"}), ".restartPolicy"),
            (
                json!({"name": "d", "image": "b", "livenessProbe": {}, "lifecycle": {"a": 1}}),
                ".lifecycle",
            ),
            (
                json!({"name": "d", "image": "b", "targetContainerName": "c"}),
                ".targetContainerName",
            ),
            (
                json!({"name": "d", "image": "b", "volumeMounts": [
                    {"name": "v", "mountPath": "/v", "subPath": "x"}]}),
                ".volumeMounts[0].subPath",
            ),
        ] {
            let mut container = container;
            if let Some(fields) = container.as_object_mut() {
                fields.retain(|_, value| *value != json!({}));
            }
            assert_eq!(wrong(&debugged(container)), [format!("{path}{field}")]);
        }
    }

    #[test]
    fn they_are_only_added() {
        let old = debugged(json!({"name": "d", "image": "b"}));
        let said = |new: &Value| {
            let mut causes = Vec::new();
            validate_update(new, &old, &mut causes);
            causes.into_iter().map(|cause| cause.message).collect::<Vec<_>>().concat()
        };
        let mut new = old.clone();
        new["spec"]["ephemeralContainers"].as_array_mut().unwrap().push(json!({"name": "e"}));
        assert_eq!(said(&new), "");
        new["spec"]["ephemeralContainers"][0]["image"] = "c".into();
        assert!(said(&new).contains("may not be changed"));
        assert!(said(&json!({"spec": {}})).contains("may not be removed"));
        // What else a body says is not taken.
        new["spec"]["containers"] = json!([]);
        new["metadata"]["labels"] = json!({"a": "b"});
        let mut expected = old.clone();
        expected["spec"]["ephemeralContainers"] = new["spec"]["ephemeralContainers"].clone();
        assert_eq!(of(&new, &old), expected);
        assert_eq!(of(&json!({"spec": {}}), &old)["spec"].get("ephemeralContainers"), None);
    }
}
