//! `NodeName`: a pod that names its node runs on no other.

use super::{Plugin, Rejection};
use crate::model::{Node, Pod};

pub(super) fn reject(pod: &Pod, node: &Node) -> Option<Rejection> {
    pod.node().filter(|name| *name != node.name).map(|_| {
        let reason = "node(s) didn't match the requested node name";
        Rejection::new(Plugin::NodeName, reason, false)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{cluster, node, pod, verdicts};

    #[test]
    fn a_pod_runs_on_the_node_that_it_names() {
        let mut cluster = cluster([node("a", json!({})), node("b", json!({}))], []);
        let named = pod("p", json!({}), json!({"nodeName": "b"}));
        let expected = ["node(s) didn't match the requested node name", ""];
        assert_eq!(verdicts(&named, &mut cluster), expected);
    }
}
