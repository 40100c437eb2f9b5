//! Where a DaemonSet's pods run: which nodes fit, and the pod that is made for one of them.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/#how-daemon-pods-are-scheduled>

use bulkhead_client::object::{self, list, text};
use bulkhead_client::{Effect, RequiredNodes, Taint, Toleration};
use serde_json::{Value, json};

use crate::context::controller_reference;
use crate::history::REVISION_LABEL;
use crate::pods;

/// Taints by which a node keeps other pods away, not these: (key, effect).
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// The same for pods of the host's network.
const NO_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What a DaemonSet asks of nodes.
pub(super) struct Placement {
    node: String,
    required: RequiredNodes,
    tolerations: Vec<Toleration>,
}

/// Whether a node gets a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It does.
    Yes,
    /// No, but one that is there may stay.
    Stays,
    /// No.
    No,
}

impl Placement {
    pub(super) fn read(set: &Value) -> Self {
        let spec = &set["spec"]["template"]["spec"];
        let tolerant = json!({"spec": {"tolerations": tolerations(spec)}});
        Self {
            node: text(spec, "nodeName").to_owned(),
            required: RequiredNodes::read(spec),
            tolerations: Toleration::read_all(&tolerant),
        }
    }

    pub(super) fn fit(&self, node: &Value) -> Fit {
        let named = self.node.is_empty() || self.node == object::name(node);
        if !named || !self.required.hold(node) {
            return Fit::No;
        }
        let taints = Taint::read_all(node);
        let hard: Vec<&Taint> =
            taints.iter().filter(|taint| taint.forbids(&self.tolerations)).collect();
        match hard.iter().any(|taint| taint.effect == Effect::NoExecute) {
            true => Fit::No,
            false if hard.is_empty() => Fit::Yes,
            false => Fit::Stays,
        }
    }
}

/// The tolerations of a DaemonSet's pods: the template's, and what all of them tolerate.
fn tolerations(spec: &Value) -> Vec<Value> {
    let mut all = list(spec, "tolerations").to_vec();
    let no_network = (spec["hostNetwork"] == true).then_some(NO_NETWORK);
    for (key, effect) in TOLERATED.into_iter().chain(no_network) {
        let toleration = json!({"key": key, "operator": "Exists", "effect": effect});
        all.retain(|one| one["key"] != key || one["effect"] != effect);
        all.push(toleration);
    }
    all
}

/// A set's pod for the node of this name, at the revision with this hash. The scheduler binds it,
/// to no other node.
pub(super) fn pod(set: &Value, hash: &str, node: &str) -> Value {
    let reference = controller_reference(set, "apps/v1", "DaemonSet");
    let mut pod = pods::from_template(&set["spec"]["template"], set, reference);
    pod["metadata"]["labels"][REVISION_LABEL] = hash.into();
    let fields = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
    let spec = &mut pod["spec"];
    spec["tolerations"] = tolerations(spec).into();
    let required =
        &mut spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    match required.get_mut("nodeSelectorTerms").and_then(Value::as_array_mut) {
        Some(terms) if !terms.is_empty() => {
            terms.iter_mut().for_each(|term| term["matchFields"] = fields.clone());
        }
        _ => *required = json!({"nodeSelectorTerms": [{"matchFields": fields}]}),
    }
    pod
}

/// The name of the node that a pod runs on or is made for; empty if it is for none.
pub(super) fn node_of(pod: &Value) -> &str {
    let bound = text(pod, "spec.nodeName");
    if !bound.is_empty() {
        return bound;
    }
    let terms = list(
        pod,
        "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms",
    );
    let fields = terms.iter().flat_map(|term| list(term, "matchFields"));
    let mut names = fields.filter(|field| field["key"] == "metadata.name");
    names.find_map(|field| field["values"][0].as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(spec: Value) -> Value {
        json!({"metadata": {"name": "d", "namespace": "n", "uid": "u"}, "spec": {"template": {"spec": spec}}})
    }

    fn node(labels: Value, taints: Value) -> Value {
        json!({"metadata": {"name": "n1", "labels": labels}, "spec": {"taints": taints}})
    }

    #[test]
    fn nodes_fit_by_name_labels_and_taints() {
        let fit = |spec: Value, node: &Value| Placement::read(&set(spec)).fit(node);
        let plain = node(json!({"disk": "ssd"}), json!([]));
        assert_eq!(fit(json!({}), &plain), Fit::Yes);
        assert_eq!(fit(json!({"nodeName": "n2"}), &plain), Fit::No);
        assert_eq!(fit(json!({"nodeSelector": {"disk": "ssd"}}), &plain), Fit::Yes);
        assert_eq!(fit(json!({"nodeSelector": {"disk": "hdd"}}), &plain), Fit::No);
        let tainted =
            |key: &str, effect: &str| node(json!({}), json!([{"key": key, "effect": effect}]));
        assert_eq!(fit(json!({}), &tainted("k", "NoSchedule")), Fit::Stays);
        assert_eq!(fit(json!({}), &tainted("k", "NoExecute")), Fit::No);
        assert_eq!(fit(json!({}), &tainted("k", "PreferNoSchedule")), Fit::Yes);
        let own = json!({"tolerations": [{"key": "k", "operator": "Exists"}]});
        assert_eq!(fit(own, &tainted("k", "NoExecute")), Fit::Yes);
        for (key, effect) in TOLERATED {
            assert_eq!(fit(json!({}), &tainted(key, effect)), Fit::Yes, "{key}");
        }
        let offline = tainted(NO_NETWORK.0, NO_NETWORK.1);
        assert_eq!(fit(json!({}), &offline), Fit::Stays);
        assert_eq!(fit(json!({"hostNetwork": true}), &offline), Fit::Yes);
    }

    #[test]
    fn a_pod_is_for_one_node() {
        let path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
        let made = pod(&set(json!({})), "abc", "n1");
        assert_eq!(node_of(&made), "n1");
        assert_eq!(made["metadata"]["labels"][REVISION_LABEL], "abc");
        assert_eq!(list(&made, path).len(), 1);
        let ssd = json!({"key": "disk", "operator": "Exists"});
        let terms =
            json!({"nodeSelectorTerms": [{"matchExpressions": [ssd]}, {"matchExpressions": []}]});
        let affinity =
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
        let made = pod(&set(json!({"affinity": affinity})), "abc", "n1");
        assert!(
            list(&made, path).iter().all(|term| term["matchFields"][0]["values"] == json!(["n1"]))
        );
        assert_eq!(list(&made, path)[0]["matchExpressions"], json!([ssd]));
    }
}
