//! Nodes and pods for tests.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::cycle;
use crate::model::{Constraint, Pod};
use crate::plugins::{Counts, Filters};

/// A ready node with 4 CPUs, 8 GiB and room for ten pods, and with these labels.
pub(crate) fn node(name: &str, labels: Value) -> Value {
    let mut labels = labels;
    labels["kubernetes.io/hostname"] = name.into();
    json!({
        "metadata": {"name": name, "labels": labels},
        "status": {
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// A pod with these labels and this spec; its uid is its name.
pub(crate) fn pod(name: &str, labels: Value, spec: Value) -> Arc<Pod> {
    let metadata = json!({"namespace": "default", "name": name, "uid": name, "labels": labels});
    let mut object = json!({"metadata": metadata, "spec": spec});
    if object["spec"]["containers"].is_null() {
        object["spec"]["containers"] = json!([{"name": "c", "image": "image"}]);
    }
    Arc::new(Pod::read(&Arc::new(object)))
}

/// The spec of a pod that requests this.
pub(crate) fn requests(requests: Value) -> Value {
    json!({"containers": [{"name": "c", "image": "image", "resources": {"requests": requests}}]})
}

/// A cluster of these nodes, and of pods with the nodes that they run on.
pub(crate) fn cluster(
    nodes: impl IntoIterator<Item = Value>,
    pods: impl IntoIterator<Item = (Arc<Pod>, &'static str)>,
) -> Cluster {
    let mut cluster = Cluster::default();
    for node in nodes {
        cluster.node_present(&Arc::new(node));
    }
    for (pod, node) in pods {
        cluster.assume(&pod, node);
    }
    cluster
}

/// Each node by name with the reason for which it cannot run the pod, or with nothing.
pub(crate) fn verdicts(pod: &Pod, cluster: &mut Cluster) -> Vec<String> {
    let counts = Counts::of(pod, &[], cluster);
    let filters = Filters::new(pod, &counts, cluster);
    let mut verdicts: Vec<(String, String)> = cluster
        .nodes()
        .map(|(_, node)| {
            let reasons = filters.reject(node).map(|rejection| rejection.reasons.join(", "));
            (node.name.clone(), reasons.unwrap_or_default())
        })
        .collect();
    verdicts.sort();
    verdicts.into_iter().map(|(_, why)| why).collect()
}

/// The scores of all nodes, by the order in which they came.
pub(crate) fn scores(pod: &Pod, defaults: &[Constraint], cluster: &mut Cluster) -> Vec<i64> {
    let counts = Counts::of(pod, defaults, cluster);
    let all: Vec<usize> = cluster.nodes().map(|(index, _)| index).collect();
    crate::plugins::score(pod, &counts, cluster, &all)
}

/// The name of the node that is chosen, or the message that says why there is none.
pub(crate) fn choose(pod: &Pod, cluster: &mut Cluster) -> Result<String, String> {
    let counts = Counts::of(pod, &[], cluster);
    let chosen = cycle::choose(pod, &counts, cluster, &mut 0);
    let name = |index| cluster.node(index).map(|node| node.name.clone()).unwrap_or_default();
    chosen.map(name).map_err(|unfit| unfit.message())
}
