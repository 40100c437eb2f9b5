//! RuntimeClasses of the group `node.k8s.io`: how containers are run, and what that costs.

use serde_json::Value;

use super::{PLAIN, columns as c, pod, quota, template};
use crate::object;
use crate::resource::{Behaviour, Resource};
use crate::status::Cause;

/// The kind.
pub(super) fn resource() -> Resource {
    Resource {
        group: "node.k8s.io",
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        singular: "runtimeclass",
        namespaced: false,
        storage: "runtimeclasses",
        unconditional_update: false,
        columns: c::RUNTIME_CLASS,
        behaviour: Behaviour {
            validate,
            validate_update: |new, old, causes| template::immutable(new, old, "handler", causes),
            ..Behaviour::PLAIN
        },
        ..PLAIN
    }
}

fn validate(class: &Value, causes: &mut Vec<Cause>) {
    pod::label(object::text(class, "handler"), "handler", causes);
    quota::amounts(&class["overhead"]["podFixed"], "overhead.podFixed", causes);
    let scheduling = &class["scheduling"];
    template::labels(&scheduling["nodeSelector"], "scheduling.nodeSelector", causes);
}
