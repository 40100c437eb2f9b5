//! Which pods go first when there are too many, as Kubernetes ranks them.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#scaling-down-a-replicaset>

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use bulkhead_client::object::{self, number, text};
use serde_json::Value;
use time::OffsetDateTime;

use crate::pods;

/// The annotation by which users say which pods cost least to lose.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// `count` of `active`, those that are to be deleted first. `related` are all pods of the same
/// workload, by which pods on crowded nodes go before others.
pub(super) fn to_delete(
    mut active: Vec<Arc<Value>>,
    related: &[Arc<Value>],
    count: usize,
    now: OffsetDateTime,
) -> Vec<Arc<Value>> {
    if count < active.len() {
        let mut crowd: HashMap<&str, usize> = HashMap::new();
        for pod in related {
            *crowd.entry(text(pod, "spec.nodeName")).or_default() += 1;
        }
        let crowd_of = |pod: &Value| crowd.get(text(pod, "spec.nodeName")).copied().unwrap_or(0);
        active.sort_by(|one, other| compare(one, other, (crowd_of(one), crowd_of(other)), now));
        active.truncate(count);
    }
    active
}

fn compare(one: &Value, other: &Value, crowd: (usize, usize), now: OffsetDateTime) -> Ordering {
    let assigned = |pod: &Value| !text(pod, "spec.nodeName").is_empty();
    let phase = |pod: &Value| match text(pod, "status.phase") {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let both_ready = pods::is_ready(one) && pods::is_ready(other);
    let by = |left: Ordering, right: Ordering| left.then(right);
    let order = assigned(one).cmp(&assigned(other));
    let order = by(order, phase(one).cmp(&phase(other)));
    let order = by(order, pods::is_ready(one).cmp(&pods::is_ready(other)));
    let order = by(order, cost(one).cmp(&cost(other)));
    let order = by(order, Reverse(crowd.0).cmp(&Reverse(crowd.1)));
    let order = if both_ready {
        by(order, age(pods::ready_since(one), now).cmp(&age(pods::ready_since(other), now)))
    } else {
        order
    };
    let order = by(order, Reverse(pods::restarts(one)).cmp(&Reverse(pods::restarts(other))));
    let created = |pod: &Value| object::parse_time(text(pod, "metadata.creationTimestamp"));
    let order = by(order, age(created(one), now).cmp(&age(created(other), now)));
    by(order, object::uid(one).cmp(object::uid(other)))
}

fn cost(pod: &Value) -> i64 {
    let said = pod["metadata"]["annotations"][DELETION_COST].as_str();
    said.and_then(|cost| cost.parse::<i32>().ok()).unwrap_or(0).into()
}

/// The age in seconds by its order of magnitude (base 2), so that among pods of about the same age
/// any may be chosen; younger is less.
fn age(since: Option<OffsetDateTime>, now: OffsetDateTime) -> u32 {
    let Some(since) = since else { return 0 };
    let seconds = u64::try_from((now - since).whole_seconds()).unwrap_or(0);
    seconds.checked_ilog2().map_or(0, |log| log + 1)
}

/// Whether every pod in `pods` has the labels of the template.
pub(super) fn fully_labeled<'a>(pod: &'a Value, labels: &'a Value) -> bool {
    let wanted = labels.as_object().into_iter().flatten();
    wanted.into_iter().all(|(key, value)| pod["metadata"]["labels"].get(key) == Some(value))
}

/// `spec.replicas`.
pub(super) fn wanted(set: &Value) -> i64 {
    number(set, "spec.replicas").unwrap_or(1).max(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, spec: Value, status: Value, metadata: Value) -> Arc<Value> {
        let mut pod = json!({"metadata": metadata, "spec": spec, "status": status});
        pod["metadata"]["uid"] = name.into();
        Arc::new(pod)
    }

    #[test]
    fn the_least_useful_go_first() {
        let at = |seconds: i64| {
            object::timestamp(OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds))
        };
        let ready = |since: i64, restarts: i64| {
            json!({
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at(since)}],
                "containerStatuses": [{"restartCount": restarts}],
            })
        };
        let on = |node: &str| json!({"nodeName": node});
        let expected = [
            pod("0-unassigned", json!({}), json!({"phase": "Pending"}), json!({})),
            pod("1-pending", on("a"), json!({"phase": "Pending"}), json!({})),
            pod("2-unready", on("a"), json!({"phase": "Running"}), json!({})),
            pod("3-cheap", on("b"), ready(0, 0), json!({"annotations": {DELETION_COST: "-5"}})),
            pod("4-crowded", on("a"), ready(0, 0), json!({})),
            pod("5-just-ready", on("b"), ready(990, 0), json!({})),
            pod("6-restarted", on("b"), ready(0, 3), json!({})),
            pod("7-young", on("b"), ready(0, 0), json!({"creationTimestamp": at(900)})),
            pod("8-old", on("b"), ready(0, 0), json!({"creationTimestamp": at(0)})),
        ];
        // Node a has more pods of the workload than node b.
        let mut related = expected.to_vec();
        related.extend((0..9).map(|_| pod("x", on("a"), json!({}), json!({}))));
        let shuffled: Vec<_> = expected.iter().rev().cloned().collect();
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(1000);
        for count in 1..expected.len() {
            let chosen = to_delete(shuffled.clone(), &related, count, now);
            let names: Vec<_> = chosen.iter().map(|pod| object::uid(pod)).collect();
            let wanted: Vec<_> = expected[..count].iter().map(|pod| object::uid(pod)).collect();
            assert_eq!(names, wanted);
        }
    }
}
