//! Columns of pods.

use serde_json::Value;
use time::OffsetDateTime;

use super::{AGE, NAME, column, first_text, human_duration, or_none, wide};
use crate::object::{list, parse_time, text};
use crate::resource::Column;

pub(in crate::kinds) const POD: &[Column] = &[
    NAME,
    column("Ready", |pod| {
        let statuses = list(pod, "status.containerStatuses");
        let ready = statuses.iter().filter(|status| status["ready"] == true).count();
        format!("{ready}/{}", list(pod, "spec.containers").len()).into()
    }),
    column("Status", |pod| pod_status(pod).into()),
    column("Restarts", |pod| restarts(pod).into()),
    AGE,
    wide("IP", |pod| or_none(text(pod, "status.podIP").into()).into()),
    wide("Node", |pod| or_none(text(pod, "spec.nodeName").into()).into()),
    wide("Nominated Node", |pod| or_none(text(pod, "status.nominatedNodeName").into()).into()),
    wide("Readiness Gates", |pod| {
        let gates = list(pod, "spec.readinessGates");
        let ready = gates.iter().filter(|gate| {
            let wanted = &gate["conditionType"];
            list(pod, "status.conditions")
                .iter()
                .any(|condition| condition["type"] == *wanted && condition["status"] == "True")
        });
        let shown = match gates.len() {
            0 => String::new(),
            all => format!("{}/{all}", ready.count()),
        };
        or_none(shown).into()
    }),
];

/// What a pod is doing, or what keeps it from it: the first init container that is not done, else
/// the last container that is not running, else the phase.
fn pod_status(pod: &Value) -> String {
    let mut status = first_text(pod, &["status.reason", "status.phase"]).to_owned();
    let gated = |one: &Value| one["type"] == "PodScheduled" && one["reason"] == "SchedulingGated";
    if list(pod, "status.conditions").iter().any(gated) {
        status = "SchedulingGated".into();
    }
    let mut initializing = false;
    let init_count = list(pod, "spec.initContainers").len();
    for (index, container) in list(pod, "status.initContainerStatuses").iter().enumerate() {
        let terminated = &container["state"]["terminated"];
        if terminated["exitCode"] == 0 {
            continue;
        }
        let waiting = text(container, "state.waiting.reason");
        status = if terminated.is_object() {
            format!("Init:{}", terminated_reason(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{init_count}")
        };
        initializing = true;
        break;
    }
    if !initializing {
        let mut running = false;
        for container in list(pod, "status.containerStatuses").iter().rev() {
            let waiting = text(container, "state.waiting.reason");
            let terminated = &container["state"]["terminated"];
            if !waiting.is_empty() {
                status = waiting.into();
            } else if terminated.is_object() {
                status = terminated_reason(terminated);
            } else if container["ready"] == true && container["state"]["running"].is_object() {
                running = true;
            }
        }
        if status == "Completed" && running {
            status = "Running".into();
        }
    }
    if text(pod, "metadata.deletionTimestamp").is_empty() {
        return status;
    }
    let lost = text(pod, "status.reason") == "NodeLost";
    if lost { "Unknown".into() } else { "Terminating".into() }
}

fn terminated_reason(terminated: &Value) -> String {
    let reason = text(terminated, "reason");
    if !reason.is_empty() {
        return reason.into();
    }
    match terminated["signal"].as_i64().filter(|signal| *signal != 0) {
        Some(signal) => format!("Signal:{signal}"),
        None => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
    }
}

fn restarts(pod: &Value) -> String {
    let statuses = list(pod, "status.containerStatuses");
    let count: u64 = statuses.iter().filter_map(|status| status["restartCount"].as_u64()).sum();
    let ended = statuses
        .iter()
        .filter_map(|status| parse_time(text(status, "lastState.terminated.finishedAt")))
        .max();
    match ended.filter(|_| count > 0) {
        Some(ended) => {
            format!("{count} ({} ago)", human_duration(OffsetDateTime::now_utc() - ended))
        }
        None => count.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pods_status_is_what_keeps_it() {
        let pod = |status: Value| json!({"spec": {"containers": [{}], "initContainers": [{}, {}]}, "status": status});
        let terminated = json!({"exitCode": 2});
        for (status, expected) in [
            (json!({"phase": "Pending"}), "Pending"),
            (
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
                "SchedulingGated",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
                "CrashLoopBackOff",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"state": {"terminated": {"exitCode": 0}}}, {"state": {"running": {}}}]}),
                "Init:1/2",
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": terminated}}]}),
                "ExitCode:2",
            ),
        ] {
            assert_eq!(pod_status(&pod(status)), expected);
        }
    }
}
