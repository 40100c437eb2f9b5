//! Columns of events, in both of their groups.

use serde_json::Value;

use super::{age, column, first_text, wide};
use crate::object::{at, text};
use crate::resource::Column;

pub(in crate::kinds) const EVENT: &[Column] = &[
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
