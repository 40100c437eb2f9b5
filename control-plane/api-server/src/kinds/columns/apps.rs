//! Columns of the group `apps`, and of what it replaced.

use bulkhead_client::Selector;
use serde_json::Value;

use super::{AGE, NAME, column, integer, or_none, wide};
use crate::object::{at, list, text};
use crate::resource::Column;

pub(in crate::kinds) const DEPLOYMENT: &[Column] = &[
    NAME,
    column("Ready", |deployment| {
        let (ready, wanted) =
            (number(deployment, "status.readyReplicas"), number(deployment, "spec.replicas"));
        format!("{ready}/{wanted}").into()
    }),
    column("Up-to-date", |deployment| {
        number(deployment, "status.updatedReplicas").to_string().into()
    }),
    column("Available", |deployment| {
        number(deployment, "status.availableReplicas").to_string().into()
    }),
    AGE,
    wide("Containers", containers),
    wide("Images", images),
    wide("Selector", selector),
];

/// What sets of replicas show; they differ in how they select.
const fn sets(selector: fn(&Value) -> Value) -> [Column; 8] {
    [
        NAME,
        integer("Desired", |set| number(set, "spec.replicas").into()),
        integer("Current", |set| number(set, "status.replicas").into()),
        integer("Ready", |set| number(set, "status.readyReplicas").into()),
        AGE,
        wide("Containers", containers),
        wide("Images", images),
        wide("Selector", selector),
    ]
}

pub(in crate::kinds) const REPLICA_SET: &[Column] = &sets(selector);

pub(in crate::kinds) const REPLICATION_CONTROLLER: &[Column] =
    &sets(|set| or_none(Selector::of_labels(&set["spec"]["selector"]).to_string()).into());

pub(in crate::kinds) const STATEFUL_SET: &[Column] = &[
    NAME,
    column("Ready", |set| {
        let (ready, wanted) = (number(set, "status.readyReplicas"), number(set, "spec.replicas"));
        format!("{ready}/{wanted}").into()
    }),
    AGE,
    wide("Containers", containers),
    wide("Images", images),
];

pub(in crate::kinds) const DAEMON_SET: &[Column] = &[
    NAME,
    integer("Desired", |set| number(set, "status.desiredNumberScheduled").into()),
    integer("Current", |set| number(set, "status.currentNumberScheduled").into()),
    integer("Ready", |set| number(set, "status.numberReady").into()),
    integer("Up-to-date", |set| number(set, "status.updatedNumberScheduled").into()),
    integer("Available", |set| number(set, "status.numberAvailable").into()),
    column("Node Selector", |set| {
        or_none(Selector::of_labels(&set["spec"]["template"]["spec"]["nodeSelector"]).to_string())
            .into()
    }),
    AGE,
    wide("Containers", containers),
    wide("Images", images),
    wide("Selector", selector),
];

pub(in crate::kinds) const CONTROLLER_REVISION: &[Column] = &[
    NAME,
    column("Controller", |revision| {
        let owners = list(revision, "metadata.ownerReferences");
        let Some(owner) = owners.iter().find(|owner| owner["controller"] == true) else {
            return "<none>".into();
        };
        let kind = text(owner, "kind").to_lowercase();
        match text(owner, "apiVersion").split_once('/') {
            Some((group, _)) => format!("{kind}.{group}/{}", text(owner, "name")),
            None => format!("{kind}/{}", text(owner, "name")),
        }
        .into()
    }),
    integer("Revision", |revision| number(revision, "revision").into()),
    AGE,
];

pub(super) fn number(object: &Value, path: &str) -> i64 {
    at(object, path).and_then(Value::as_i64).unwrap_or(0)
}

fn of_containers(object: &Value, field: &str) -> Value {
    let containers = list(object, "spec.template.spec.containers");
    let shown: Vec<&str> = containers.iter().map(|container| text(container, field)).collect();
    shown.join(",").into()
}

pub(super) fn containers(object: &Value) -> Value {
    of_containers(object, "name")
}

pub(super) fn images(object: &Value) -> Value {
    of_containers(object, "image")
}

pub(super) fn selector(object: &Value) -> Value {
    let selector = Selector::read(&object["spec"]["selector"]).unwrap_or_default();
    or_none(selector.to_string()).into()
}
