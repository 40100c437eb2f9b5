//! A Deployment's status: counts, and the conditions Available, Progressing and ReplicaFailure
//! with Kubernetes' reasons.

use std::sync::Arc;
use std::time::Duration;

use bulkhead_client::object::{self, condition, list, number, text};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::rollout::Plan;

/// `progressDeadlineSeconds` that means none.
const NO_DEADLINE: i64 = i32::MAX as i64;

/// The rollout has ended well.
pub(super) const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const UPDATED: &str = "ReplicaSetUpdated";
const EXCEEDED: &str = "ProgressDeadlineExceeded";

/// The sum of a count in the statuses of sets.
pub(super) fn sum<'a>(sets: impl IntoIterator<Item = &'a Arc<Value>>, field: &str) -> i64 {
    sets.into_iter().filter_map(|set| number(&set["status"], field)).sum()
}

/// The status that a Deployment's sets come to, without progress.
pub(super) fn counts(
    deployment: &Value,
    new: Option<&Arc<Value>>,
    old: &[Arc<Value>],
    plan: &Plan,
    now: OffsetDateTime,
) -> Value {
    let all = || old.iter().chain(new);
    let available = sum(all(), "availableReplicas");
    let desired: i64 = all().filter_map(|set| number(set, "spec.replicas")).sum();
    let mut status = json!({"observedGeneration": deployment["metadata"]["generation"]});
    // Counts of zero are left out, as Kubernetes does.
    for (field, count) in [
        ("replicas", sum(all(), "replicas")),
        ("updatedReplicas", sum(new, "replicas")),
        ("readyReplicas", sum(all(), "readyReplicas")),
        ("availableReplicas", available),
        ("unavailableReplicas", (desired - available).max(0)),
        ("collisionCount", number(deployment, "status.collisionCount").unwrap_or(0)),
    ] {
        if count > 0 {
            status[field] = count.into();
        }
    }
    let conditions = list(deployment, "status.conditions");
    if !conditions.is_empty() {
        status["conditions"] = conditions.into();
    }
    let (met, reason, message) = if available >= plan.least_available() {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(&mut status, "Available", met, reason, message, now);
    let failure = new.into_iter().chain(old).find_map(|set| condition(set, "ReplicaFailure"));
    match failure {
        Some(failure) => {
            let (met, reason) = (text(failure, "status"), text(failure, "reason"));
            set_condition(
                &mut status,
                "ReplicaFailure",
                met,
                reason,
                text(failure, "message"),
                now,
            );
        }
        None => remove_condition(&mut status, "ReplicaFailure"),
    }
    status
}

/// Sets a condition of a status. One that says the same stays as it is.
pub(super) fn set_condition(
    status: &mut Value,
    kind: &str,
    met: &str,
    reason: &str,
    message: &str,
    now: OffsetDateTime,
) {
    let wrapped = json!({"status": status});
    let known = condition(&wrapped, kind);
    if known.is_some_and(|known| known["status"] == met && known["reason"] == reason) {
        return;
    }
    let time = object::timestamp(now);
    let since = known
        .filter(|known| known["status"] == met)
        .map(|known| known["lastTransitionTime"].clone());
    remove_condition(status, kind);
    let condition = json!({
        "type": kind,
        "status": met,
        "lastUpdateTime": time,
        "lastTransitionTime": since.unwrap_or_else(|| time.as_str().into()),
        "reason": reason,
        "message": message,
    });
    match status["conditions"].as_array_mut() {
        Some(conditions) => conditions.push(condition),
        None => status["conditions"] = json!([condition]),
    }
}

fn remove_condition(status: &mut Value, kind: &str) {
    let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) else {
        return;
    };
    conditions.retain(|one| one["type"] != kind);
    if conditions.is_empty()
        && let Some(fields) = status.as_object_mut()
    {
        fields.remove("conditions");
    }
}

/// Whether a Deployment with this status is rolled out.
pub(super) fn is_complete(deployment: &Value, status: &Value) -> bool {
    let wanted = number(deployment, "spec.replicas").unwrap_or(1);
    let count = |field| number(status, field).unwrap_or(0);
    count("updatedReplicas") == wanted
        && count("replicas") == wanted
        && count("availableReplicas") == wanted
        && number(status, "observedGeneration") >= number(deployment, "metadata.generation")
}

/// Sets the condition Progressing by what moved from the Deployment's status to `status`.
pub(super) fn set_progress(
    deployment: &Value,
    new: Option<&Arc<Value>>,
    status: &mut Value,
    now: OffsetDateTime,
) {
    let Some(deadline) = deadline(deployment) else {
        return remove_condition(status, "Progressing");
    };
    let known = condition(deployment, "Progressing");
    let reason = known.map_or("", |known| text(known, "reason"));
    let count = |status: &Value, field| number(status, field).unwrap_or(0);
    if reason == NEW_SET_AVAILABLE && count(status, "replicas") == count(status, "updatedReplicas")
    {
        return;
    }
    let subject = match new {
        Some(set) => format!("ReplicaSet \"{}\"", object::name(set)),
        None => format!("Deployment \"{}\"", object::name(deployment)),
    };
    let before = &deployment["status"];
    let more = |field| count(status, field) > count(before, field);
    let old = |status: &Value| count(status, "replicas") - count(status, "updatedReplicas");
    if is_complete(deployment, status) {
        let message = format!("{subject} has successfully progressed.");
        set_condition(status, "Progressing", "True", NEW_SET_AVAILABLE, &message, now);
    } else if more("updatedReplicas")
        || more("readyReplicas")
        || more("availableReplicas")
        || old(status) < old(before)
    {
        // Progress counts from now, though the condition was true before.
        let since = known.filter(|known| known["status"] == "True");
        let since = since.map(|known| known["lastTransitionTime"].clone());
        remove_condition(status, "Progressing");
        let message = format!("{subject} is progressing.");
        set_condition(status, "Progressing", "True", UPDATED, &message, now);
        let added = status["conditions"].as_array_mut().and_then(|all| all.last_mut());
        if let (Some(since), Some(added)) = (since, added) {
            added["lastTransitionTime"] = since;
        }
    } else if known.is_some()
        && time_left(deployment, deadline, now).is_some_and(|left| left.is_zero())
    {
        let message = format!("{subject} has timed out progressing.");
        set_condition(status, "Progressing", "False", EXCEEDED, &message, now);
    }
}

/// The Deployment's deadline for progress, if it has one.
pub(super) fn deadline(deployment: &Value) -> Option<Duration> {
    let seconds = number(deployment, "spec.progressDeadlineSeconds")?;
    (seconds != NO_DEADLINE).then(|| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// How long a rollout under way has until it counts as stuck; `None` if none is under way.
pub(super) fn time_left(
    deployment: &Value,
    deadline: Duration,
    now: OffsetDateTime,
) -> Option<Duration> {
    let known = condition(deployment, "Progressing")?;
    match text(known, "reason") {
        NEW_SET_AVAILABLE | "DeploymentPaused" => return None,
        EXCEEDED => return Some(Duration::ZERO),
        _ => {}
    }
    let since = object::parse_time(text(known, "lastUpdateTime"))?;
    Some(Duration::try_from(since + deadline - now).unwrap_or(Duration::ZERO))
}

/// The change of the condition Progressing that pausing or resuming makes, if there is one.
pub(super) fn paused(deployment: &Value) -> Option<(&'static str, &'static str)> {
    deadline(deployment)?;
    let reason = condition(deployment, "Progressing").map_or("", |known| text(known, "reason"));
    if reason == EXCEEDED {
        return None;
    }
    let paused = deployment["spec"]["paused"] == true;
    match (paused, reason == "DeploymentPaused") {
        (true, false) => Some(("DeploymentPaused", "Deployment is paused")),
        (false, true) => Some(("DeploymentResumed", "Deployment is resumed")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds)
    }

    fn set(name: &str, desired: i64, count: i64) -> Arc<Value> {
        let status = json!({"replicas": count, "readyReplicas": count, "availableReplicas": count});
        Arc::new(
            json!({"metadata": {"name": name}, "spec": {"replicas": desired}, "status": status}),
        )
    }

    #[test]
    fn a_rollout_progresses_completes_or_times_out() {
        let mut deployment = json!({
            "metadata": {"name": "d", "generation": 1},
            "spec": {"replicas": 2, "progressDeadlineSeconds": 10},
        });
        let plan = Plan::rolling(2, 1, 0);
        let mut step = |count: i64, second: i64| {
            let new = set("d-1", 2, count);
            let mut status = counts(&deployment, Some(&new), &[], &plan, at(second));
            set_progress(&deployment, Some(&new), &mut status, at(second));
            deployment["status"] = status.clone();
            let wrapped = json!({"status": status});
            let reason = |kind| text(condition(&wrapped, kind).unwrap(), "reason").to_owned();
            (
                reason("Available"),
                reason("Progressing"),
                text(condition(&wrapped, "Progressing").unwrap(), "lastTransitionTime").to_owned(),
            )
        };
        let start = object::timestamp(at(1));
        assert_eq!(
            step(1, 1),
            ("MinimumReplicasUnavailable".into(), UPDATED.into(), start.clone())
        );
        assert_eq!(step(1, 9).1, UPDATED);
        let stuck = step(1, 12);
        assert_eq!((stuck.1.as_str(), stuck.2), (EXCEEDED, object::timestamp(at(12))));
        let done = step(2, 20);
        assert_eq!(
            (done.0.as_str(), done.1.as_str()),
            ("MinimumReplicasAvailable", NEW_SET_AVAILABLE)
        );
        assert_eq!(step(1, 90).1, NEW_SET_AVAILABLE, "a pod that fails later is no rollout");
        assert_eq!(time_left(&deployment, Duration::from_secs(10), at(100)), None);
    }

    #[test]
    fn pausing_is_said_once() {
        let mut deployment = json!({"spec": {"paused": true, "progressDeadlineSeconds": 600}});
        let (reason, message) = paused(&deployment).unwrap();
        let mut status = json!({});
        set_condition(&mut status, "Progressing", "Unknown", reason, message, at(0));
        deployment["status"] = status;
        assert_eq!(paused(&deployment), None);
        deployment["spec"]["paused"] = false.into();
        assert_eq!(paused(&deployment).unwrap().0, "DeploymentResumed");
    }
}
