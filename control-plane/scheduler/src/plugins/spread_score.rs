//! `PodTopologySpread`, the constraints that need not hold: the fewer pods in a node's places, the
//! better.

use std::collections::HashSet;

use super::{Counts, MAX_SCORE};
use crate::model::{HOSTNAME, Node};

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a score needs no exactness"
)]
pub(super) fn scores(counts: &Counts, nodes: &[(usize, &Node)]) -> Vec<i64> {
    let constraints = &counts.preferred_spread.constraints;
    let labelled =
        |node: &Node| constraints.iter().all(|one| node.label(&one.topology_key).is_some());
    // Of a pod's own constraints, all must be able to hold.
    let strict = counts.preferred_spread.strict;
    let ignored: Vec<bool> = nodes.iter().map(|(_, node)| strict && !labelled(node)).collect();
    let considered = || nodes.iter().zip(&ignored).filter(|(_, ignored)| !**ignored);
    let mut sums = vec![0.0; nodes.len()];
    for (constraint, places) in constraints.iter().zip(&*counts.preferred_places) {
        let key = constraint.topology_key.as_str();
        let size = if key == HOSTNAME {
            considered().count()
        } else {
            let values = considered().filter_map(|((_, node), _)| node.label(key));
            values.collect::<HashSet<&str>>().len()
        };
        // The more places there are, the more each pod in one of them matters.
        let weight = ((size + 2) as f64).ln();
        for ((_, node), sum) in nodes.iter().zip(&mut sums) {
            if let Some(value) = node.label(key) {
                *sum += places.get(value) as f64 * weight + (constraint.max_skew - 1) as f64;
            }
        }
    }
    let rounded: Vec<i64> = sums.iter().map(|sum| sum.round() as i64).collect();
    let counted =
        || rounded.iter().zip(&ignored).filter(|(_, ignored)| !**ignored).map(|(s, _)| *s);
    let (least, most) = (counted().min().unwrap_or_default(), counted().max().unwrap_or_default());
    let normalize = |(score, ignored): (&i64, &bool)| match (*ignored, most) {
        (true, _) => 0,
        (false, 0) => MAX_SCORE,
        (false, most) => MAX_SCORE * (most + least - score) / most,
    };
    rounded.iter().zip(&ignored).map(normalize).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::cluster::Cluster;
    use crate::model::Constraint;
    use crate::testing::{cluster, node, pod, scores};
    use bulkhead_client::Selector;

    /// Nodes a and b in zone 1, c in zone 2, d in none; pods without requests on a and c.
    fn zones() -> Cluster {
        let zone =
            |name: &str, zone: &str| node(name, json!({"topology.kubernetes.io/zone": zone}));
        let nodes = [zone("a", "1"), zone("b", "1"), zone("c", "2"), node("d", json!({}))];
        let web = |name: &str| pod(name, json!({"app": "web"}), json!({}));
        cluster(nodes, [(web("x"), "a"), (web("y"), "a"), (web("z"), "c")])
    }

    /// The scores above those of a pod that is not spread.
    fn gained(own: &[serde_json::Value], defaults: &[Constraint]) -> Vec<i64> {
        let labels = json!({"app": "web"});
        let plain = scores(&pod("p", labels.clone(), json!({})), &[], &mut zones());
        let spread = pod("p", labels, json!({"topologySpreadConstraints": own}));
        let scored = scores(&spread, defaults, &mut zones());
        scored.iter().zip(plain).map(|(with, without)| with - without).collect()
    }

    #[test]
    fn fewer_pods_in_a_place_are_better() {
        let constraint = json!({"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app": "web"}}});
        // Two pods in zone 1 and one in zone 2, each times ln 4: 3 and 1, of which 1 is the least;
        // a node without the label gets nothing.
        assert_eq!(gained(&[constraint], &[]), [66, 66, 200, 0]);
    }

    #[test]
    fn pods_that_belong_together_are_spread_by_default() {
        let selector = Selector::of_labels(&json!({"app": "web"}));
        let gained = gained(&[], &Constraint::defaults("default", &selector));
        let (a, b, c, d) = (gained[0], gained[1], gained[2], gained[3]);
        assert!(d > c && c > a && b > a && d == 200, "{gained:?}");
    }
}
