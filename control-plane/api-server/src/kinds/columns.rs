//! The columns that `kubectl get` shows of each kind, as Kubernetes prints them.

use serde_json::Value;
use time::OffsetDateTime;

use crate::object::{at, list, parse_time, text};
use crate::resource::Column;

const fn column(name: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { name, kind: "string", format: "", description: "", priority: 0, cell }
}

const fn integer(name: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { kind: "integer", ..column(name, cell) }
}

const fn wide(name: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { priority: 1, ..column(name, cell) }
}

const NAME: Column = Column {
    format: "name",
    description: "Name must be unique within a namespace.",
    ..column("Name", |object| text(object, "metadata.name").into())
};
const AGE: Column = column("Age", |object| age(text(object, "metadata.creationTimestamp")).into());

/// Of a kind that has no columns of its own.
pub(super) const GENERIC: &[Column] = &[
    NAME,
    Column {
        kind: "date",
        ..column("Created At", |object| text(object, "metadata.creationTimestamp").into())
    },
];

pub(super) const CONFIG_MAP: &[Column] = &[NAME, integer("Data", data_count), AGE];

pub(super) const SECRET: &[Column] =
    &[NAME, column("Type", |secret| text(secret, "type").into()), integer("Data", data_count), AGE];

pub(super) const SERVICE_ACCOUNT: &[Column] =
    &[NAME, integer("Secrets", |account| list(account, "secrets").len().into()), AGE];

pub(super) const NAMESPACE: &[Column] =
    &[NAME, column("Status", |namespace| text(namespace, "status.phase").into()), AGE];

pub(super) const LEASE: &[Column] =
    &[NAME, column("Holder", |lease| text(lease, "spec.holderIdentity").into()), AGE];

pub(super) const EVENT: &[Column] = &[
    column("Last Seen", |event| age(last_seen(event)).into()),
    column("Type", |event| text(event, "type").into()),
    column("Reason", |event| text(event, "reason").into()),
    column("Object", |event| {
        let about = about(event);
        format!("{}/{}", text(about, "kind").to_lowercase(), text(about, "name")).into()
    }),
    wide("Subobject", |event| text(about(event), "fieldPath").into()),
    wide("Source", |event| {
        let source = event.get("source").or_else(|| event.get("deprecatedSource"));
        let part = |field| source.map_or("", |source| text(source, field));
        let parts = [part("component"), part("host")].map(str::to_owned);
        let mut parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        if parts.is_empty() {
            parts.push(text(event, "reportingComponent").into());
        }
        parts.join(", ").into()
    }),
    column("Message", |event| {
        let message = [text(event, "message"), text(event, "note")].concat();
        message.trim().into()
    }),
    wide("First Seen", |event| {
        let times = ["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"];
        age(first_text(event, &times)).into()
    }),
    wide("Count", |event| {
        let count = ["series.count", "count", "deprecatedCount"]
            .into_iter()
            .find_map(|path| at(event, path).and_then(Value::as_u64));
        count.unwrap_or(1).to_string().into()
    }),
    wide("Name", |event| text(event, "metadata.name").into()),
];

pub(super) const NODE: &[Column] = &[
    NAME,
    column("Status", |node| node_status(node).into()),
    column("Roles", |node| or_none(node_roles(node)).into()),
    AGE,
    column("Version", |node| text(node, "status.nodeInfo.kubeletVersion").into()),
    wide("Internal-IP", |node| or_none(address(node, "InternalIP")).into()),
    wide("External-IP", |node| or_none(address(node, "ExternalIP")).into()),
    wide("OS-Image", |node| or_unknown(text(node, "status.nodeInfo.osImage")).into()),
    wide("Kernel-Version", |node| or_unknown(text(node, "status.nodeInfo.kernelVersion")).into()),
    wide("Container-Runtime", |node| {
        or_unknown(text(node, "status.nodeInfo.containerRuntimeVersion")).into()
    }),
];

pub(super) const POD: &[Column] = &[
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

fn data_count(object: &Value) -> Value {
    let count = |field: &str| object[field].as_object().map_or(0, |data| data.len());
    (count("data") + count("binaryData")).into()
}

fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".into() } else { text }
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "<unknown>" } else { text }
}

fn first_text<'a>(object: &'a Value, paths: &[&str]) -> &'a str {
    paths.iter().map(|path| text(object, path)).find(|text| !text.is_empty()).unwrap_or_default()
}

fn about(event: &Value) -> &Value {
    event.get("involvedObject").or_else(|| event.get("regarding")).unwrap_or(&Value::Null)
}

fn last_seen(event: &Value) -> &str {
    let times = [
        "series.lastObservedTime",
        "lastTimestamp",
        "deprecatedLastTimestamp",
        "eventTime",
        "metadata.creationTimestamp",
    ];
    first_text(event, &times)
}

fn address(node: &Value, kind: &str) -> String {
    let addresses = list(node, "status.addresses");
    let found = addresses.iter().find(|address| address["type"] == kind);
    found.map_or("", |address| text(address, "address")).into()
}

fn node_status(node: &Value) -> String {
    let conditions = list(node, "status.conditions");
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
    let ready = match ready.map(|ready| text(ready, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = node["spec"]["unschedulable"] == true;
    format!("{ready}{}", if cordoned { ",SchedulingDisabled" } else { "" })
}

fn node_roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object();
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.join(",")
}

/// What a pod is doing, or what keeps it from it: the first init container that is not done, else
/// the last container that is not running, else the phase.
fn pod_status(pod: &Value) -> String {
    let mut status = first_text(pod, &["status.reason", "status.phase"]).to_owned();
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

fn age(since: &str) -> String {
    parse_time(since).map_or_else(
        || "<unknown>".into(),
        |since| human_duration(OffsetDateTime::now_utc() - since),
    )
}

/// A duration in the two units that tell most: `5s`, `3m20s`, `2d4h`.
fn human_duration(duration: time::Duration) -> String {
    let seconds = duration.whole_seconds();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |large: i64, large_unit: char, small: i64, small_unit: char| match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    };
    match seconds {
        ..-1 => "<invalid>".into(),
        -1..=0 => "0s".into(),
        1..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => pair(days, 'd', hours % 24, 'h'),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => pair(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_read_as_kubectl_writes_them() {
        for (seconds, expected) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (600, "10m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (90_000, "25h"),
            (180_000, "2d2h"),
            (864_000, "10d"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(human_duration(time::Duration::seconds(seconds)), expected);
        }
    }

    #[test]
    fn a_pods_status_is_what_keeps_it() {
        let pod = |status: Value| json!({"spec": {"containers": [{}], "initContainers": [{}, {}]}, "status": status});
        let terminated = json!({"exitCode": 2});
        for (status, expected) in [
            (json!({"phase": "Pending"}), "Pending"),
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
