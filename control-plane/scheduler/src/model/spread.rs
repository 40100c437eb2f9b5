//! Topology spread constraints.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>

use bulkhead_client::{Selector, SelectorError, object};
use serde_json::Value;

use super::pod_set::selector_with_keys;
use super::{Node, PodSet, RequiredNodes, Toleration};

/// The label that tells nodes apart.
pub(crate) const HOSTNAME: &str = "kubernetes.io/hostname";
/// The label that tells zones apart.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// A constraint on how pods lie over the values of a label of nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Constraint {
    /// By how many pods the fullest place may be ahead of the emptiest, at least 1.
    pub(crate) max_skew: i64,
    pub(crate) topology_key: String,
    /// Whether a node that breaks it cannot be chosen, rather than should not.
    pub(crate) required: bool,
    pub(crate) pods: PodSet,
    /// With fewer places than this, the emptiest counts as empty.
    pub(crate) min_domains: i64,
    honor_affinity: bool,
    honor_taints: bool,
}

impl Constraint {
    /// Reads a constraint of `pod`'s.
    pub(super) fn read(constraint: &Value, pod: &Value) -> Result<Self, SelectorError> {
        let selector = selector_with_keys(constraint, pod)?;
        Ok(Self {
            max_skew: object::number(constraint, "maxSkew").unwrap_or(1).max(1),
            topology_key: object::text(constraint, "topologyKey").into(),
            required: object::text(constraint, "whenUnsatisfiable") != "ScheduleAnyway",
            pods: PodSet::living(object::namespace(pod).unwrap_or_default(), selector),
            min_domains: object::number(constraint, "minDomains").unwrap_or(1),
            honor_affinity: constraint["nodeAffinityPolicy"] != "Ignore",
            honor_taints: constraint["nodeTaintsPolicy"] == "Honor",
        })
    }

    /// What kube-scheduler asks for where pods ask for nothing: pods that belong together lie
    /// on different nodes, and in different zones, rather than not.
    pub(crate) fn defaults(namespace: &str, selector: &Selector) -> [Self; 2] {
        [(HOSTNAME, 3), (ZONE, 5)].map(|(key, max_skew)| Self {
            max_skew,
            topology_key: key.into(),
            required: false,
            pods: PodSet::living(namespace, Some(selector.clone())),
            min_domains: 1,
            honor_affinity: true,
            honor_taints: false,
        })
    }

    /// Whether pods on `node` count for a pod that requires such nodes and tolerates such taints.
    pub(crate) fn counts_on(
        &self,
        node: &Node,
        nodes: &RequiredNodes,
        tolerations: &[Toleration],
    ) -> bool {
        (!self.honor_affinity || nodes.hold(node))
            && (!self.honor_taints || !node.taints.iter().any(|one| one.forbids(tolerations)))
    }
}
