//! Events have two faces, `v1` and `events.k8s.io/v1`, over one object. The core one is stored.

use serde_json::Value;

use super::{PLAIN, columns as c};
use crate::resource::{Behaviour, Conversion, Resource};

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

/// The events of the core group.
pub(super) fn resource() -> Resource {
    Resource {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        storage: "events",
        fields: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        columns: c::EVENT,
        ..PLAIN
    }
}

/// The events of `events.k8s.io`.
pub(super) fn new_resource() -> Resource {
    Resource {
        group: "events.k8s.io",
        fields: &[
            "reason",
            "reportingController",
            "regarding.kind",
            "regarding.name",
            "regarding.namespace",
            "regarding.uid",
            "type",
        ],
        columns: c::EVENT,
        behaviour: Behaviour {
            conversion: Some(Conversion { to_storage: to_core, from_storage: from_core }),
            ..Behaviour::PLAIN
        },
        ..resource()
    }
}

/// Turns an `events.k8s.io/v1` event into a core one.
fn to_core(event: &mut Value) {
    rename(event, FIELDS.iter().map(|(core, new)| (*new, *core)));
    event["apiVersion"] = "v1".into();
}

/// Turns a core event into an `events.k8s.io/v1` one.
fn from_core(event: &mut Value) {
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
