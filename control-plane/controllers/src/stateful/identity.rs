//! Who a pod of a StatefulSet is: its ordinal, by which it is named, labelled and found again.

use bulkhead_client::object;
use serde_json::{Value, json};

use super::volumes;
use crate::context::controller_reference;
use crate::history::{self, REVISION_LABEL};
use crate::pods;

/// The label of a pod with its name, by which a Service can select one pod.
const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
/// The label of a pod with its ordinal.
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The ordinal of the pod named `pod`, if it is named as those of the set `set` are.
pub(super) fn ordinal(set: &str, pod: &str) -> Option<i64> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let ordinal: i64 = digits.parse().ok()?;
    // `+1` and `01` would name another pod.
    (ordinal >= 0 && ordinal.to_string() == digits).then_some(ordinal)
}

/// The pod of a set with this ordinal, at this revision.
pub(super) fn pod(set: &Value, revision: &Value, ordinal: i64) -> Value {
    let reference = controller_reference(set, "apps/v1", "StatefulSet");
    let template = history::template(revision);
    let mut pod = pods::from_template(&template, set, reference);
    let name = format!("{}-{ordinal}", object::name(set));
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        metadata.remove("generateName");
    }
    pod["metadata"]["name"] = name.as_str().into();
    for (label, value) in labels(&name, ordinal) {
        pod["metadata"]["labels"][label] = value.into();
    }
    pod["metadata"]["labels"][REVISION_LABEL] = object::name(revision).into();
    pod["spec"]["hostname"] = name.into();
    volumes::mount(set, &mut pod);
    if let Some(service) = set["spec"]["serviceName"].as_str().filter(|name| !name.is_empty()) {
        pod["spec"]["subdomain"] = service.into();
    }
    pod
}

/// Whether a pod has lost the labels of its identity, or never had them: an adopted one.
pub(super) fn is_mislabelled(pod: &Value, ordinal: i64) -> bool {
    let known = &pod["metadata"]["labels"];
    labels(object::name(pod), ordinal).iter().any(|(label, value)| known[label] != value.as_str())
}

/// The patch that gives a pod the labels of its identity.
pub(super) fn relabel(pod: &Value, ordinal: i64) -> Value {
    let labels: serde_json::Map<String, Value> = labels(object::name(pod), ordinal)
        .into_iter()
        .map(|(label, value)| (label.into(), value.into()))
        .collect();
    json!({"metadata": {"uid": pod["metadata"]["uid"], "labels": labels}})
}

fn labels(name: &str, ordinal: i64) -> [(&'static str, String); 2] {
    [(NAME_LABEL, name.to_owned()), (INDEX_LABEL, ordinal.to_string())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_are_read_from_names() {
        for (name, expected) in [
            ("web-0", Some(0)),
            ("web-12", Some(12)),
            ("web-01", None),
            ("web-+1", None),
            ("web-", None),
            ("web", None),
            ("web-a-1", None),
            ("other-1", None),
        ] {
            assert_eq!(ordinal("web", name), expected, "{name}");
        }
    }

    #[test]
    fn a_pod_has_the_identity_of_its_ordinal() {
        let set = json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "u"}, "spec": {"serviceName": "svc"},
        });
        let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": []}});
        let revision = json!({
            "metadata": {"name": "web-abc"}, "data": {"spec": {"template": template}},
        });
        let made = pod(&set, &revision, 3);
        assert_eq!(made["metadata"]["name"], "web-3");
        assert_eq!(made["metadata"].get("generateName"), None);
        let labels = json!({
            "app": "a", NAME_LABEL: "web-3", INDEX_LABEL: "3", REVISION_LABEL: "web-abc",
        });
        assert_eq!(made["metadata"]["labels"], labels);
        let spec = json!({"containers": [], "hostname": "web-3", "subdomain": "svc"});
        assert_eq!(made["spec"], spec);
        assert!(!is_mislabelled(&made, 3));
        let mut adopted = made;
        adopted["metadata"]["labels"] = json!({"app": "a"});
        assert!(is_mislabelled(&adopted, 3));
    }
}
