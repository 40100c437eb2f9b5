//! `NodePorts`: a port of the node has one taker.

use super::{Plugin, Rejection};
use crate::model::{Node, Pod};

pub(super) fn reject(pod: &Pod, node: &Node) -> Option<Rejection> {
    let taken = pod.ports.iter().any(|port| node.ports.iter().any(|used| used.conflicts(port)));
    taken.then(|| {
        let reason = "node(s) didn't have free ports for the requested pod ports";
        Rejection::new(Plugin::NodePorts, reason, true)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{cluster, node, pod, verdicts};

    #[test]
    fn a_port_that_is_taken_is_not_free() {
        let with_port = |name: &str, port: i64| {
            let container = json!({"name": "c", "ports": [{"hostPort": port}]});
            pod(name, json!({}), json!({"containers": [container]}))
        };
        let nodes = [node("a", json!({})), node("b", json!({}))];
        let mut cluster = cluster(nodes, [(with_port("first", 80), "a")]);
        let taken = "node(s) didn't have free ports for the requested pod ports";
        assert_eq!(verdicts(&with_port("second", 80), &mut cluster), [taken, ""]);
        assert_eq!(verdicts(&with_port("third", 81), &mut cluster), ["", ""]);
    }
}
