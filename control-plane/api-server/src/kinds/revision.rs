//! ControllerRevisions: what a StatefulSet or a DaemonSet was at each of its revisions.
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/controller-revision-v1/>

use serde_json::Value;

use super::{PLAIN, columns as c, template};
use crate::resource::{Behaviour, Resource};
use crate::status::Cause;

/// The kind.
pub(super) fn resource() -> Resource {
    Resource {
        group: "apps",
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        storage: "controllerrevisions",
        columns: c::CONTROLLER_REVISION,
        behaviour: Behaviour {
            validate,
            validate_update: |new, old, causes| template::immutable(new, old, "data", causes),
            ..Behaviour::PLAIN
        },
        ..PLAIN
    }
}

fn validate(revision: &Value, causes: &mut Vec<Cause>) {
    if revision["data"].is_null() {
        causes.push(Cause::required("data"));
    }
    let number = &revision["revision"];
    if !number.is_null() && number.as_i64().is_none_or(|number| number < 0) {
        causes.push(Cause::invalid("revision", number, "must be greater than or equal to 0"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_revision_has_data_that_stays() {
        let fields = |revision: Value| {
            let mut causes = Vec::new();
            validate(&revision, &mut causes);
            causes.into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        assert!(fields(json!({"data": {}, "revision": 1})).is_empty());
        assert_eq!(fields(json!({"revision": -1})), ["data", "revision"]);
        let mut causes = Vec::new();
        (resource().behaviour.validate_update)(
            &json!({"data": {"a": 1}, "revision": 2}),
            &json!({"data": {"a": 2}, "revision": 1}),
            &mut causes,
        );
        assert_eq!(causes.len(), 1);
    }
}
