//! Events have two faces, `v1` and `events.k8s.io/v1`, over one object. The core one is stored.

use serde_json::Value;

/// Core field, `events.k8s.io` field.
const FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Turns an `events.k8s.io/v1` event into a core one.
pub(super) fn to_core(event: &mut Value) {
    rename(event, FIELDS.iter().map(|(core, new)| (*new, *core)));
    event["apiVersion"] = "v1".into();
}

/// Turns a core event into an `events.k8s.io/v1` one.
pub(super) fn from_core(event: &mut Value) {
    rename(event, FIELDS.iter().copied());
}

fn rename(event: &mut Value, names: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(fields) = event.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.into(), value);
        }
    }
}
