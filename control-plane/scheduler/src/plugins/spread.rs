//! `PodTopologySpread`, the required constraints: no place may be ahead of the emptiest by more
//! than the constraint's skew.

use std::sync::Arc;

use super::{Counts, Plugin, Rejection};
use crate::cluster::Positions;
use crate::model::{Constraint, Namespaces, Node, Pod};
use crate::tally::{Places, Spread};

/// Going from place to place pays if a place has so many nodes, on average.
const FEW_PLACES: usize = 4;

/// The constraints of a pod with the pods in each place that counts.
#[derive(Debug)]
pub(super) struct State<'a> {
    spread: &'a Spread,
    places: Arc<Vec<Places>>,
    /// For each constraint, 1 if the pod is itself among those that are spread.
    own: Vec<i64>,
    /// For each constraint, the nodes of each place, unless places are nodes.
    positions: &'a [Option<Arc<Positions>>],
}

impl<'a> State<'a> {
    pub(super) fn new(pod: &Pod, counts: &'a Counts, namespaces: &Namespaces) -> Self {
        let spread = &counts.required_spread;
        let own = spread.constraints.iter().map(|one| one.pods.contains(pod, namespaces));
        let own = own.map(i64::from).collect();
        let places = Arc::clone(&counts.required_places);
        Self { spread, places, own, positions: &counts.required_positions }
    }

    /// The positions of the nodes in places that have room by one of the constraints, place by
    /// place: no other node can be chosen. `None` if that narrows little among so many `nodes`.
    pub(super) fn open(&self, nodes: usize) -> Option<Vec<&'a [usize]>> {
        let each = self.spread.constraints.iter().zip(&*self.places).zip(&self.own);
        let narrowed =
            each.zip(self.positions).filter_map(|(((constraint, places), own), known)| {
                let known = known.as_deref().filter(|known| known.len() * FEW_PLACES <= nodes)?;
                let fewest = fewest(constraint, places);
                let open = known
                    .iter()
                    .filter(|(value, _)| places.get(value) + own - fewest <= constraint.max_skew);
                Some(open.map(|(_, positions)| positions.as_slice()).collect::<Vec<_>>())
            });
        narrowed.min_by_key(|open| open.iter().map(|positions| positions.len()).sum::<usize>())
    }

    pub(super) fn reject(&self, node: &Node) -> Option<Rejection> {
        let each = self.spread.constraints.iter().zip(&*self.places).zip(&self.own);
        each.into_iter().find_map(|((constraint, places), own)| {
            let Some(value) = node.label(&constraint.topology_key) else {
                let reason =
                    "node(s) didn't match pod topology spread constraints (missing required label)";
                return Some(Rejection::new(Plugin::PodTopologySpread, reason, false));
            };
            let skew = places.get(value) + own - fewest(constraint, places);
            (skew > constraint.max_skew).then(|| {
                let reason = "node(s) didn't match pod topology spread constraints";
                Rejection::new(Plugin::PodTopologySpread, reason, true)
            })
        })
    }

    pub(super) fn count(&mut self, other: &Pod, node: &Node, by: i64, namespaces: &Namespaces) {
        self.spread.change(&mut self.places, other, node, by, namespaces);
    }
}

/// The pods in the emptiest place; with too few places that is none that is there.
fn fewest(constraint: &Constraint, places: &Places) -> i64 {
    let few = i64::try_from(places.len()).is_ok_and(|len| len < constraint.min_domains);
    if few { 0 } else { places.fewest() }
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
