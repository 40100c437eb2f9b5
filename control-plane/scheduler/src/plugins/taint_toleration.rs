//! `TaintToleration`: taints keep pods away that do not tolerate them, or would rather.

use super::{Plugin, Rejection};
use crate::model::{Effect, Node, Pod};

pub(super) fn reject(pod: &Pod, node: &Node) -> Option<Rejection> {
    let taint = node.taints.iter().find(|taint| taint.forbids(&pod.tolerations))?;
    let reason = format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value);
    Some(Rejection::new(Plugin::TaintToleration, reason, false))
}

/// How many taints would rather not have the pod.
pub(super) fn score(pod: &Pod, node: &Node) -> i64 {
    let tolerations = || pod.tolerations.iter().filter(|one| one.is_of_preference()).cloned();
    let avoided = node.taints.iter().filter(|taint| {
        taint.effect == Effect::PreferNoSchedule
            && !taint.is_tolerated(&tolerations().collect::<Vec<_>>())
    });
    i64::try_from(avoided.count()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{cluster, node, pod, scores, verdicts};

    #[test]
    fn what_is_not_tolerated_forbids_or_costs() {
        let tainted = |name: &str, effect: &str| {
            let mut node = node(name, json!({}));
            node["spec"]["taints"] = json!([{"key": "k", "value": "v", "effect": effect}]);
            node
        };
        let nodes = [
            node("a", json!({})),
            tainted("b", "NoSchedule"),
            tainted("c", "NoExecute"),
            tainted("d", "PreferNoSchedule"),
        ];
        let mut cluster = cluster(nodes, []);
        let plain = pod("p", json!({}), json!({}));
        let untolerated = "node(s) had untolerated taint {k: v}";
        assert_eq!(verdicts(&plain, &mut cluster), ["", untolerated, untolerated, ""]);
        let tolerant = json!({"tolerations": [{"key": "k", "operator": "Exists"}]});
        let tolerant = pod("t", json!({}), tolerant);
        assert_eq!(verdicts(&tolerant, &mut cluster), [""; 4]);
        let scored = scores(&plain, &[], &mut cluster);
        assert_eq!(scored[0] - scored[3], 300, "a preference weighs three times a plain score");
        assert_eq!(scores(&tolerant, &[], &mut cluster)[3], scored[0]);
    }

    #[test]
    fn a_toleration_of_another_effect_is_of_no_preference() {
        let mut avoided = node("n", json!({}));
        avoided["spec"]["taints"] = json!([{"key": "k", "effect": "PreferNoSchedule"}]);
        let avoided = Node::read(&std::sync::Arc::new(avoided));
        for (effect, expected) in
            [(json!("NoSchedule"), 1), (json!("PreferNoSchedule"), 0), (json!(null), 0)]
        {
            let toleration = json!({"key": "k", "operator": "Exists", "effect": effect});
            let pod = pod("p", json!({}), json!({"tolerations": [toleration]}));
            assert_eq!(score(&pod, &avoided), expected, "{effect}");
        }
    }
}
