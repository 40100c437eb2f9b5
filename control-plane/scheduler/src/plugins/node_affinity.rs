//! `NodeAffinity`: `nodeSelector` and node affinity.

use super::{Plugin, Rejection};
use crate::model::{Node, Pod};

pub(super) fn reject(pod: &Pod, node: &Node) -> Option<Rejection> {
    (!pod.nodes.hold(node)).then(|| {
        let reason = "node(s) didn't match Pod's node affinity/selector";
        Rejection::new(Plugin::NodeAffinity, reason, false)
    })
}

/// The weight of the preferences that hold.
pub(super) fn score(pod: &Pod, node: &Node) -> i64 {
    let held = pod.preferred_nodes.iter().filter(|one| one.what.holds(node));
    held.map(|one| one.weight).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{cluster, node, pod, scores, verdicts};

    #[test]
    fn what_is_required_forbids_and_what_is_preferred_weighs() {
        let zone = |name: &str, zone: &str| node(name, json!({"zone": zone}));
        let mut cluster = cluster([zone("a", "1"), zone("b", "2"), zone("c", "3")], []);
        let selected = pod("p", json!({}), json!({"nodeSelector": {"zone": "2"}}));
        let other = "node(s) didn't match Pod's node affinity/selector";
        assert_eq!(verdicts(&selected, &mut cluster), [other, "", other]);
        let prefer = |zone: &str, weight: i64| {
            let expression = json!({"key": "zone", "operator": "In", "values": [zone]});
            json!({"weight": weight, "preference": {"matchExpressions": [expression]}})
        };
        let preferred = [prefer("1", 80), prefer("2", 20)];
        let affinity = json!({"preferredDuringSchedulingIgnoredDuringExecution": preferred});
        let drawn = pod("q", json!({}), json!({"affinity": {"nodeAffinity": affinity}}));
        assert_eq!(verdicts(&drawn, &mut cluster), [""; 3]);
        let scored = scores(&drawn, &[], &mut cluster);
        assert_eq!((scored[0] - scored[2], scored[1] - scored[2]), (2 * 100, 2 * 25));
    }
}
