//! Which lists a strategic merge patch merges, and by which key: the `patchStrategy` and
//! `patchMergeKey` of the Kubernetes API reference. A list that is not here is replaced.

/// How a field is patched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strategy {
    /// A map, whose fields are those of the type.
    Map,
    /// A list of maps, merged by this key.
    MergeBy(&'static str),
    /// A list of plain values, merged as a set.
    MergeSet,
    /// A list that is replaced.
    Replace,
}

use Strategy::{Map, MergeBy, MergeSet, Replace};

/// Type, field, the type of its value or of the list's elements, strategy.
const FIELDS: &[(&str, &str, &str, Strategy)] = &[
    ("ObjectMeta", "finalizers", "", MergeSet),
    ("ObjectMeta", "ownerReferences", "", MergeBy("uid")),
    ("Pod", "spec", "PodSpec", Map),
    ("Pod", "status", "PodStatus", Map),
    ("PodSpec", "containers", "Container", MergeBy("name")),
    ("PodSpec", "initContainers", "Container", MergeBy("name")),
    ("PodSpec", "ephemeralContainers", "Container", MergeBy("name")),
    ("PodSpec", "volumes", "", MergeBy("name")),
    ("PodSpec", "imagePullSecrets", "", MergeBy("name")),
    ("PodSpec", "hostAliases", "", MergeBy("ip")),
    ("PodSpec", "topologySpreadConstraints", "", MergeBy("topologyKey")),
    ("PodSpec", "schedulingGates", "", MergeBy("name")),
    ("PodSpec", "resourceClaims", "", MergeBy("name")),
    ("Container", "ports", "", MergeBy("containerPort")),
    ("Container", "env", "", MergeBy("name")),
    ("Container", "volumeMounts", "", MergeBy("mountPath")),
    ("Container", "volumeDevices", "", MergeBy("devicePath")),
    ("PodStatus", "conditions", "", MergeBy("type")),
    ("PodStatus", "podIPs", "", MergeBy("ip")),
    ("PodStatus", "hostIPs", "", MergeBy("ip")),
    ("PodStatus", "resourceClaimStatuses", "", MergeBy("name")),
    ("Node", "spec", "NodeSpec", Map),
    ("Node", "status", "NodeStatus", Map),
    ("NodeSpec", "podCIDRs", "", MergeSet),
    ("NodeStatus", "conditions", "", MergeBy("type")),
    ("NodeStatus", "addresses", "", MergeBy("type")),
    ("Namespace", "status", "NamespaceStatus", Map),
    ("NamespaceStatus", "conditions", "", MergeBy("type")),
    ("ServiceAccount", "secrets", "", MergeBy("name")),
    ("ServiceAccount", "imagePullSecrets", "", MergeBy("name")),
];

/// How `field` of a value of type `owner` is patched, and the type of what is below it.
pub(super) fn field(owner: &str, field: &str) -> (Strategy, &'static str) {
    let found = FIELDS.iter().find(|(of, name, ..)| *of == owner && *name == field);
    match found {
        Some((_, _, below, strategy)) => (*strategy, below),
        None if field == "metadata" => (Map, "ObjectMeta"),
        None => (Replace, ""),
    }
}
