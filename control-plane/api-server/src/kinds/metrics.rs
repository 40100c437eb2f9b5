//! `metrics.k8s.io`: what nodes and pods use. The hosts measure it; nothing is stored.

use super::{PLAIN, c};
use crate::metrics::GROUP;
use crate::resource::Resource;

pub(super) fn resources() -> Vec<Resource> {
    // Without names of their own on a command line: those are the nodes' and pods'.
    let metrics = Resource { group: GROUP, version: "v1beta1", verbs: &["get", "list"], ..PLAIN };
    vec![
        Resource {
            kind: "NodeMetrics",
            plural: "nodes",
            namespaced: false,
            columns: c::NODE_METRICS,
            ..metrics.clone()
        },
        Resource { kind: "PodMetrics", plural: "pods", columns: c::POD_METRICS, ..metrics },
    ]
}
