//! Which events can help a pod that waits: each plugin knows what could change its mind.

use crate::cluster::Cluster;
use crate::model::{Node, Pod};
use crate::plugins::{Plugin, could_fit};

/// Something changed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event<'a> {
    /// A node came.
    NodeAdded(&'a Node),
    /// A node changed, its pods aside.
    NodeChanged { before: &'a Node, after: &'a Node },
    /// A node is gone.
    NodeGone,
    /// A pod was placed, or its labels changed.
    PodPlaced(&'a Pod),
    /// A pod gave back what it took.
    PodGone(&'a Pod),
    /// The labels of a namespace changed.
    NamespaceChanged,
}

/// Whether the event could make the plugin let the pod pass.
pub(crate) fn helps(plugin: Plugin, pod: &Pod, event: Event<'_>, cluster: &Cluster) -> bool {
    let namespaces = &cluster.namespaces;
    match (plugin, event) {
        (_, Event::NodeAdded(node)) => match plugin {
            Plugin::NodeName => pod.node().is_none_or(|name| name == node.name),
            Plugin::NodeAffinity => pod.nodes.hold(node),
            Plugin::NodeResourcesFit => could_fit(pod, node),
            Plugin::TaintToleration => !is_repelled(pod, node),
            Plugin::NodeUnschedulable => !node.unschedulable,
            Plugin::NodePorts | Plugin::PodTopologySpread | Plugin::InterPodAffinity => true,
        },
        (Plugin::NodeUnschedulable, Event::NodeChanged { before, after }) => {
            before.unschedulable && !after.unschedulable
        }
        (Plugin::TaintToleration, Event::NodeChanged { before, after }) => {
            before.taints != after.taints && !is_repelled(pod, after)
        }
        (Plugin::NodeAffinity, Event::NodeChanged { before, after }) => {
            labels_changed(before, after) && pod.nodes.hold(after)
        }
        (Plugin::NodeResourcesFit, Event::NodeChanged { before, after }) => {
            before.allocatable != after.allocatable && could_fit(pod, after)
        }
        (Plugin::PodTopologySpread, Event::NodeChanged { before, after }) => {
            labels_changed(before, after) || before.taints != after.taints
        }
        (Plugin::InterPodAffinity, Event::NodeChanged { before, after }) => {
            labels_changed(before, after)
        }
        // The emptiest place may be gone.
        (Plugin::PodTopologySpread, Event::NodeGone) => true,
        (Plugin::NodeResourcesFit, Event::PodGone(_)) => true,
        (Plugin::NodePorts, Event::PodGone(gone)) => {
            gone.ports.iter().any(|port| pod.ports.iter().any(|wanted| wanted.conflicts(port)))
        }
        (Plugin::PodTopologySpread, Event::PodGone(other) | Event::PodPlaced(other)) => {
            pod.spread.iter().any(|constraint| constraint.pods.contains(other, namespaces))
        }
        (Plugin::InterPodAffinity, Event::PodPlaced(placed)) => {
            pod.affinity.required.iter().any(|term| term.pods.contains(placed, namespaces))
        }
        (Plugin::InterPodAffinity, Event::PodGone(gone)) => {
            let mut own = pod.anti_affinity.required.iter().chain(&pod.affinity.required);
            own.any(|term| term.pods.contains(gone, namespaces))
                || gone.anti_affinity.required.iter().any(|t| t.pods.contains(pod, namespaces))
        }
        (Plugin::InterPodAffinity, Event::NamespaceChanged) => true,
        _ => false,
    }
}

fn is_repelled(pod: &Pod, node: &Node) -> bool {
    node.taints.iter().any(|taint| taint.forbids(&pod.tolerations))
}

fn labels_changed(before: &Node, after: &Node) -> bool {
    before.object["metadata"]["labels"] != after.object["metadata"]["labels"]
}
