//! `PodTopologySpread`, the required constraints: no place may be ahead of the emptiest by more
//! than the constraint's skew.

use std::collections::HashMap;

use super::{Plugin, Rejection, Spread};
use crate::cluster::Cluster;
use crate::model::{Constraint, Namespaces, Node, Pod};

/// The constraints of a pod with the pods in each place that counts.
#[derive(Debug)]
pub(super) struct State<'a> {
    pod: &'a Pod,
    constraints: Vec<Counted<'a>>,
}

#[derive(Debug)]
struct Counted<'a> {
    constraint: &'a Constraint,
    /// Pods by the value of the constraint's label.
    places: HashMap<&'a str, i64>,
    /// The fewest pods of a place.
    fewest: i64,
    /// 1 if the pod is itself among those that are spread.
    own: i64,
}

impl Counted<'_> {
    fn find_fewest(&mut self) {
        let places = i64::try_from(self.places.len()).unwrap_or(i64::MAX);
        let fewest = self.places.values().copied().min().unwrap_or_default();
        self.fewest = if places < self.constraint.min_domains { 0 } else { fewest };
    }
}

impl<'a> State<'a> {
    pub(super) fn new(pod: &'a Pod, constraints: &'a [Spread], cluster: &'a Cluster) -> Self {
        let counted = constraints.iter().map(|(constraint, tally)| {
            let mut places = HashMap::new();
            for (index, node) in cluster.nodes() {
                let all =
                    constraints.iter().all(|(one, _)| node.label(&one.topology_key).is_some());
                if let Some(value) = node.label(&constraint.topology_key)
                    && all
                    && constraint.counts_on(node, pod)
                {
                    *places.entry(value).or_default() +=
                        tally.get(&index).copied().unwrap_or_default();
                }
            }
            let own = i64::from(constraint.pods.contains(pod, &cluster.namespaces));
            let mut counted = Counted { constraint, places, fewest: 0, own };
            counted.find_fewest();
            counted
        });
        Self { pod, constraints: counted.collect() }
    }

    pub(super) fn reject(&self, node: &Node) -> Option<Rejection> {
        self.constraints.iter().find_map(|counted| {
            let Some(value) = node.label(&counted.constraint.topology_key) else {
                let reason =
                    "node(s) didn't match pod topology spread constraints (missing required label)";
                return Some(Rejection::new(Plugin::PodTopologySpread, reason, false));
            };
            let here = counted.places.get(value).copied().unwrap_or_default();
            let skew = here + counted.own - counted.fewest;
            (skew > counted.constraint.max_skew).then(|| {
                let reason = "node(s) didn't match pod topology spread constraints";
                Rejection::new(Plugin::PodTopologySpread, reason, true)
            })
        })
    }

    pub(super) fn count(&mut self, other: &Pod, node: &Node, by: i64, namespaces: &Namespaces) {
        let labelled = |one: &Counted<'_>| node.label(&one.constraint.topology_key).is_some();
        if !self.constraints.iter().all(labelled) {
            return;
        }
        for counted in &mut self.constraints {
            let value = node.label(&counted.constraint.topology_key);
            if counted.constraint.pods.contains(other, namespaces)
                && counted.constraint.counts_on(node, self.pod)
                && let Some(place) = value.and_then(|value| counted.places.get_mut(value))
            {
                *place += by;
                counted.find_fewest();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use crate::cluster::Cluster;
    use crate::model::Pod;
    use crate::testing::{cluster, node, pod, verdicts};

    const SKEWED: &str = "node(s) didn't match pod topology spread constraints";
    const UNLABELLED: &str =
        "node(s) didn't match pod topology spread constraints (missing required label)";

    fn constraint(fields: Value) -> Value {
        let selector = json!({"matchLabels": {"app": "web"}});
        let mut constraint = json!({"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector});
        for (field, value) in fields.as_object().unwrap() {
            constraint[field] = value.clone();
        }
        constraint
    }

    fn web(name: &str, constraints: &[Value]) -> Arc<Pod> {
        let spec = json!({"topologySpreadConstraints": constraints});
        pod(name, json!({"app": "web", "rev": "2"}), spec)
    }

    /// Nodes a and b in zone 1, c in zone 2, d in none; two pods on a, one on c.
    fn zones() -> Cluster {
        let zone = |name: &str, zone: &str| node(name, json!({"zone": zone}));
        let nodes = [zone("a", "1"), zone("b", "1"), zone("c", "2"), node("d", json!({}))];
        let running = [("x", "a"), ("y", "a"), ("z", "c")];
        let old = |name: &str| pod(name, json!({"app": "web", "rev": "1"}), json!({}));
        cluster(nodes, running.map(|(name, node)| (old(name), node)))
    }

    #[test]
    fn no_place_is_ahead_by_more_than_the_skew() {
        for (fields, expected) in [
            (json!({}), [SKEWED, SKEWED, "", UNLABELLED]),
            (json!({"maxSkew": 2}), ["", "", "", UNLABELLED]),
            (json!({"topologyKey": "kubernetes.io/hostname"}), [SKEWED, "", SKEWED, ""]),
            // Three places are wanted and two are there: the emptiest counts as empty.
            (json!({"minDomains": 3}), [SKEWED, SKEWED, SKEWED, UNLABELLED]),
            (json!({"minDomains": 3, "maxSkew": 3}), ["", "", "", UNLABELLED].map(|e| e)),
            // Of this revision nothing runs yet.
            (json!({"matchLabelKeys": ["rev"]}), ["", "", "", UNLABELLED]),
            (json!({"labelSelector": null}), ["", "", "", UNLABELLED]),
            (json!({"whenUnsatisfiable": "ScheduleAnyway"}), [""; 4]),
        ] {
            let pod = web("p", &[constraint(fields.clone())]);
            assert_eq!(verdicts(&pod, &mut zones()), expected, "{fields}");
        }
    }

    #[test]
    fn constraints_hold_together() {
        let both =
            [constraint(json!({})), constraint(json!({"topologyKey": "kubernetes.io/hostname"}))];
        // Only the nodes that have all labels are places: b is the emptiest host, c of the emptiest zone.
        assert_eq!(verdicts(&web("p", &both), &mut zones()), [SKEWED, SKEWED, SKEWED, UNLABELLED]);
    }

    #[test]
    fn nodes_that_the_pod_cannot_use_count_as_the_policies_say() {
        let mut with_empty_zone = zones();
        let mut tainted = node("e", json!({"zone": "3"}));
        tainted["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
        with_empty_zone.node_present(&Arc::new(tainted));
        let first_four = |pod: &Pod, cluster: &mut Cluster| verdicts(pod, cluster)[..4].to_vec();
        // Zone 3 is empty and counts, though nothing can go there ...
        let ignoring = web("p", &[constraint(json!({}))]);
        assert_eq!(
            first_four(&ignoring, &mut with_empty_zone),
            [SKEWED, SKEWED, SKEWED, UNLABELLED]
        );
        // ... unless taints are honoured.
        let honouring = web("p", &[constraint(json!({"nodeTaintsPolicy": "Honor"}))]);
        assert_eq!(first_four(&honouring, &mut with_empty_zone), [SKEWED, SKEWED, "", UNLABELLED]);
        // A selector is honoured, unless it is to be ignored.
        let other = "node(s) didn't match Pod's node affinity/selector";
        for (policy, expected) in [("Honor", ""), ("Ignore", SKEWED)] {
            let fields = json!({"nodeAffinityPolicy": policy});
            let spec = json!({"nodeSelector": {"zone": "1"},
                "topologySpreadConstraints": [constraint(fields)]});
            let selective = pod("p", json!({"app": "web"}), spec);
            let expected = [expected, expected, other, other];
            assert_eq!(verdicts(&selective, &mut zones()), expected, "{policy}");
        }
    }

    #[test]
    fn pods_that_end_do_not_count() {
        let mut cluster = zones();
        for name in ["x", "y"] {
            let metadata = json!({"namespace": "default", "name": name, "uid": name,
                "labels": {"app": "web"}, "deletionTimestamp": "2026-01-01T00:00:00Z"});
            let ending = Pod::read(&Arc::new(json!({"metadata": metadata})));
            cluster.bound(&Arc::new(ending), "a");
        }
        let pod = web("p", &[constraint(json!({}))]);
        assert_eq!(verdicts(&pod, &mut cluster), ["", "", SKEWED, UNLABELLED]);
    }
}
