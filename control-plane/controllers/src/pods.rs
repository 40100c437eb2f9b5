//! Pods as controllers look at them, and pods made from templates.

use bulkhead_client::object::{self, list, number, text};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// Whether its containers have ended for good.
pub(crate) fn has_ended(pod: &Value) -> bool {
    matches!(text(pod, "status.phase"), "Succeeded" | "Failed")
}

/// Whether it neither ended nor is being deleted.
pub(crate) fn is_active(pod: &Value) -> bool {
    !has_ended(pod) && !object::is_terminating(pod)
}

/// Whether it says that it is ready.
pub(crate) fn is_ready(pod: &Value) -> bool {
    object::has_condition(pod, "Ready")
}

/// Since when it has been ready.
pub(crate) fn ready_since(pod: &Value) -> Option<OffsetDateTime> {
    let condition = object::condition(pod, "Ready").filter(|ready| ready["status"] == "True")?;
    object::parse_time(text(condition, "lastTransitionTime"))
}

/// Whether it has been ready for so many seconds.
pub(crate) fn is_available(pod: &Value, min_ready_seconds: i64, now: OffsetDateTime) -> bool {
    if !is_ready(pod) {
        return false;
    }
    let long = |since| since + time::Duration::seconds(min_ready_seconds) <= now;
    min_ready_seconds == 0 || ready_since(pod).is_some_and(long)
}

/// How often its containers restarted; the one that did most often.
pub(crate) fn restarts(pod: &Value) -> i64 {
    let counts = list(pod, "status.containerStatuses").iter();
    counts.filter_map(|status| number(status, "restartCount")).max().unwrap_or(0)
}

/// A pod of a template, which `owner` refers to.
pub(crate) fn from_template(template: &Value, parent: &Value, owner: Value) -> Value {
    let metadata = &template["metadata"];
    let parent_name = object::name(parent);
    let mut made = json!({
        "namespace": parent["metadata"]["namespace"],
        "generateName": format!("{parent_name}-"),
        "ownerReferences": [owner],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = metadata.get(field).filter(|value| !value.is_null()) {
            made[field] = value.clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": made, "spec": template["spec"]})
}

/// A number of `all`, given as such or as a percentage.
pub(crate) fn resolve(value: &Value, all: i64, round_up: bool) -> i64 {
    match value {
        Value::Number(number) => number.as_i64().unwrap_or(0),
        Value::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = all.saturating_mul(percent);
            if round_up { product.saturating_add(99) / 100 } else { product / 100 }
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_they_are_told() {
        for (value, up, down) in [
            (json!(3), 3, 3),
            (json!("25%"), 3, 2),
            (json!("100%"), 10, 10),
            (json!("0%"), 0, 0),
            (json!(null), 0, 0),
        ] {
            assert_eq!((resolve(&value, 10, true), resolve(&value, 10, false)), (up, down));
        }
    }

    #[test]
    fn availability_needs_its_time() {
        let since = "2026-01-01T00:00:00Z";
        let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": since});
        let pod = json!({"status": {"conditions": [condition]}});
        let start = object::parse_time(since).unwrap();
        assert!(is_available(&pod, 0, start));
        assert!(!is_available(&pod, 10, start + time::Duration::seconds(9)));
        assert!(is_available(&pod, 10, start + time::Duration::seconds(10)));
        assert!(!is_available(&json!({}), 0, start));
    }
}
