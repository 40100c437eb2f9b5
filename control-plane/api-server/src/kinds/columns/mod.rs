//! The columns that `kubectl get` shows of each kind, as Kubernetes prints them: what the groups'
//! columns are made of.

mod apps;
mod autoscaling;
mod batch;
mod certificates;
mod core;
mod event;
mod metrics;
mod networking;
mod node;
mod pod;
mod policy;
mod quota;
mod rbac;
mod service;
mod storage;

use serde_json::Value;
use time::OffsetDateTime;

pub(super) use self::apps::{
    CONTROLLER_REVISION, DAEMON_SET, DEPLOYMENT, REPLICA_SET, REPLICATION_CONTROLLER, STATEFUL_SET,
};
pub(super) use self::autoscaling::HORIZONTAL_POD_AUTOSCALER;
pub(super) use self::batch::{CRON_JOB, JOB};
pub(super) use self::certificates::CERTIFICATE_SIGNING_REQUEST;
pub(super) use self::core::{CONFIG_MAP, LEASE, NAMESPACE, SECRET, SERVICE_ACCOUNT};
pub(super) use self::event::EVENT;
pub(super) use self::metrics::{NODE_METRICS, POD_METRICS};
pub(super) use self::networking::{
    INGRESS, INGRESS_CLASS, IP_ADDRESS, NETWORK_POLICY, SERVICE_CIDR,
};
pub(super) use self::node::NODE;
pub(super) use self::pod::POD;
pub(super) use self::policy::{POD_DISRUPTION_BUDGET, PRIORITY_CLASS};
pub(super) use self::quota::{POD_TEMPLATE, RESOURCE_QUOTA, RUNTIME_CLASS};
pub(super) use self::rbac::BINDING;
pub(super) use self::service::{ENDPOINT_SLICE, ENDPOINTS, SERVICE};
pub(super) use self::storage::{
    CSI_DRIVER, CSI_NODE, CSI_STORAGE_CAPACITY, PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM,
    STORAGE_CLASS, VOLUME_ATTACHMENT, VOLUME_ATTRIBUTES_CLASS,
};
use crate::object::{parse_time, text};
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

fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".into() } else { text }
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "<unknown>" } else { text }
}

fn first_text<'a>(object: &'a Value, paths: &[&str]) -> &'a str {
    paths.iter().map(|path| text(object, path)).find(|text| !text.is_empty()).unwrap_or_default()
}

pub(crate) fn age(since: &str) -> String {
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
}
