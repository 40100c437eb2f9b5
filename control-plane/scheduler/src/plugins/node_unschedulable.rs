//! `NodeUnschedulable`: a cordoned node takes only pods that tolerate it.

use super::{Plugin, Rejection};
use crate::model::{Effect, Node, Pod, Taint};

pub(super) fn reject(pod: &Pod, node: &Node) -> Option<Rejection> {
    let cordon = || Taint::of("node.kubernetes.io/unschedulable", Effect::NoSchedule);
    let rejected = node.unschedulable && !cordon().is_tolerated(&pod.tolerations);
    rejected.then(|| Rejection::new(Plugin::NodeUnschedulable, "node(s) were unschedulable", false))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{cluster, node, pod, verdicts};

    #[test]
    fn a_cordoned_node_takes_only_who_tolerates_it() {
        let mut cordoned = node("n", json!({}));
        cordoned["spec"]["unschedulable"] = true.into();
        let mut cluster = cluster([cordoned], []);
        let plain = pod("p", json!({}), json!({}));
        assert_eq!(verdicts(&plain, &mut cluster), ["node(s) were unschedulable"]);
        let toleration = json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"});
        let daemon = pod("d", json!({}), json!({"tolerations": [toleration]}));
        assert_eq!(verdicts(&daemon, &mut cluster), [""]);
    }
}
