//! Columns of what nodes and pods use, as metrics-server prints them.

use serde_json::Value;

use super::{NAME, column};
use crate::object::{list, text};
use crate::resource::Column;

const WINDOW: Column =
    Column { format: "duration", ..column("Window", |metrics| text(metrics, "window").into()) };

const fn quantity(name: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { format: "quantity", ..column(name, cell) }
}

pub(in crate::kinds) const NODE_METRICS: &[Column] = &[
    NAME,
    quantity("cpu", |node| text(node, "usage.cpu").into()),
    quantity("memory", |node| text(node, "usage.memory").into()),
    WINDOW,
];

pub(in crate::kinds) const POD_METRICS: &[Column] = &[
    NAME,
    quantity("cpu", |pod| sum(pod, "cpu", "n")),
    quantity("memory", |pod| sum(pod, "memory", "Ki")),
    WINDOW,
];

/// What all containers use of a resource, whose quantities all have that suffix.
fn sum(pod: &Value, resource: &str, suffix: &str) -> Value {
    let used = list(pod, "containers").iter().filter_map(|container| {
        container["usage"][resource].as_str()?.strip_suffix(suffix)?.parse::<u64>().ok()
    });
    format!("{}{suffix}", used.fold(0, u64::saturating_add)).into()
}
