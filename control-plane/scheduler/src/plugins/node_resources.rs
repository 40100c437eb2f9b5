//! `NodeResourcesFit` and `NodeResourcesBalancedAllocation`: whether a node has what a pod
//! requests, and how much would be left of it.

use super::{MAX_SCORE, Plugin, Rejection};
use crate::model::{Node, Pod};

/// Whether the pod could run on the node if nothing else did.
pub(crate) fn could_fit(pod: &Pod, node: &Node) -> bool {
    node.allocatable.get("pods") > 0
        && pod.requests.iter().all(|(name, amount)| amount <= node.allocatable.get(name))
}

pub(super) fn reject(pod: &Pod, node: &Node) -> Option<Rejection> {
    let mut reasons = Vec::new();
    let running = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
    if running >= node.allocatable.get("pods") {
        reasons.push("Too many pods".into());
    }
    for (name, amount) in pod.requests.iter().filter(|(_, amount)| *amount > 0) {
        if amount > node.allocatable.get(name) - node.requested.get(name) {
            reasons.push(format!("Insufficient {name}").into());
        }
    }
    let rejected = !reasons.is_empty();
    let resolvable = || could_fit(pod, node);
    rejected.then(|| Rejection {
        plugin: Plugin::NodeResourcesFit,
        reasons,
        resolvable: resolvable(),
    })
}

/// The share of cpu and memory that would be free, their mean.
pub(super) fn least_allocated(pod: &Pod, node: &Node) -> i64 {
    let (used, more) = (&node.requested_for_scores, &pod.requests_for_scores);
    let all = &node.allocatable;
    let mut sum = 0;
    let mut count = 0;
    for (used, all) in [(used.cpu + more.cpu, all.cpu), (used.memory + more.memory, all.memory)] {
        if all > 0 {
            sum += (all - used).max(0) * MAX_SCORE / all;
            count += 1;
        }
    }
    if count == 0 { 0 } else { sum / count }
}

/// How alike the shares of cpu and of memory are that would be requested.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a score needs no exactness"
)]
pub(super) fn balanced_allocation(pod: &Pod, node: &Node) -> i64 {
    let all = &node.allocatable;
    let share = |used: i64, more: i64, all: i64| {
        (all > 0).then(|| ((used + more) as f64 / all as f64).min(1.0))
    };
    let cpu = share(node.requested.cpu, pod.requests.cpu, all.cpu);
    let memory = share(node.requested.memory, pod.requests.memory, all.memory);
    let deviation = match (cpu, memory) {
        (Some(cpu), Some(memory)) => (cpu - memory).abs() / 2.0,
        _ => 0.0,
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{cluster, node, pod, requests, verdicts};

    fn read(allocatable: Value) -> Node {
        let mut object = node("n", json!({}));
        object["status"]["allocatable"] = allocatable;
        Node::read(&Arc::new(object))
    }

    #[test]
    fn a_pod_needs_room_of_every_kind() {
        let big = requests(json!({"cpu": "5", "memory": "9Gi", "example.com/gpu": "1"}));
        let big = pod("big", json!({}), big);
        let mut cluster = cluster([node("n", json!({}))], []);
        let reasons = "Insufficient cpu, Insufficient memory, Insufficient example.com/gpu";
        assert_eq!(verdicts(&big, &mut cluster), [reasons]);
        let half = |name: &str| pod(name, json!({}), requests(json!({"cpu": "2500m"})));
        assert_eq!(verdicts(&half("one"), &mut cluster), [""]);
        cluster.assume(&half("one"), "n");
        assert_eq!(verdicts(&half("two"), &mut cluster), ["Insufficient cpu"]);
        cluster.forget("default/one");
        assert_eq!(verdicts(&half("two"), &mut cluster), [""]);
        for index in 0..10 {
            cluster.assume(&pod(&index.to_string(), json!({}), json!({})), "n");
        }
        assert_eq!(verdicts(&pod("more", json!({}), json!({})), &mut cluster), ["Too many pods"]);
    }

    #[test]
    fn only_what_could_ever_fit_is_worth_preempting_for() {
        let small = read(json!({"cpu": "1", "memory": "1Gi", "pods": "1"}));
        let mut full = small.clone();
        full.add(&pod("there", json!({}), requests(json!({"cpu": "800m"}))));
        let wanted = pod("p", json!({}), requests(json!({"cpu": "1"})));
        assert!(reject(&wanted, &full).unwrap().resolvable);
        let never = pod("q", json!({}), requests(json!({"cpu": "2"})));
        assert!(!reject(&never, &full).unwrap().resolvable);
    }

    #[test]
    fn the_emptiest_and_most_balanced_node_is_best() {
        // As in Kubernetes' own description: (4000-3000)·100/4000 = 25 and (10000-5000)·100/10000 = 50.
        let empty = read(json!({"cpu": "4", "memory": "10000"}));
        let asking = pod("p", json!({}), requests(json!({"cpu": "3", "memory": "5000"})));
        assert_eq!(least_allocated(&asking, &empty), (25 + 50) / 2);
        assert_eq!(balanced_allocation(&asking, &empty), 87);
        let even = pod("q", json!({}), requests(json!({"cpu": "2", "memory": "5000"})));
        assert_eq!(balanced_allocation(&even, &empty), 100);
        let much = pod("r", json!({}), requests(json!({"cpu": "5", "memory": "10000"})));
        assert_eq!(least_allocated(&much, &empty), 0);
        assert_eq!(least_allocated(&much, &read(json!({}))), 0, "nothing is allocatable");
    }
}
