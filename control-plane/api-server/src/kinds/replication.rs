//! ReplicationControllers, which ReplicaSets replaced.
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/replication-controller-v1/>

use bulkhead_client::Selector;
use serde_json::{Value, json};

use super::{PLAIN, SCALE, SCALED_BY_REPLICAS, columns as c, status, template};
use crate::object;
use crate::resource::{Behaviour, Resource, Subresource};
use crate::status::Cause;

const SUBRESOURCES: &[Subresource] = &[SCALE, status("ReplicationController")];

/// The kind.
pub(super) fn resource() -> Resource {
    Resource {
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        singular: "replicationcontroller",
        short_names: &["rc"],
        categories: &["all"],
        storage: "controllers",
        generation: true,
        subresources: SUBRESOURCES,
        scale: Some(SCALED_BY_REPLICAS),
        fields: &["status.replicas"],
        columns: c::REPLICATION_CONTROLLER,
        behaviour: Behaviour {
            prepare_create: |controller| controller["status"] = json!({"replicas": 0}),
            default,
            validate,
            ..Behaviour::PLAIN
        },
        ..PLAIN
    }
}

/// The template's labels are what the controller selects, and its own labels, if it says neither.
fn default(controller: &mut Value) {
    let labels = controller["spec"]["template"]["metadata"]["labels"].clone();
    let Some(spec) = controller.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    object::set_default(spec, "replicas", 1);
    let is_empty =
        |map: Option<&Value>| map.and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
    if labels.is_object() && is_empty(spec.get("selector")) {
        spec["selector"] = labels.clone();
    }
    if let Some(template) = spec.get_mut("template") {
        template::default(template);
    }
    if labels.is_object() && is_empty(controller["metadata"].get("labels")) {
        controller["metadata"]["labels"] = labels;
    }
}

fn validate(controller: &Value, causes: &mut Vec<Cause>) {
    let spec = &controller["spec"];
    template::not_negative(spec, "spec", "replicas", causes);
    template::not_negative(spec, "spec", "minReadySeconds", causes);
    let selector = Selector::of_labels(&spec["selector"]);
    if selector.is_empty() {
        causes.push(Cause::required("spec.selector"));
    }
    template::labels(&spec["selector"], "spec.selector", causes);
    let labels = &spec["template"]["metadata"]["labels"];
    if !selector.matches(labels) {
        let why = "`selector` does not match template `labels`";
        causes.push(Cause::invalid("spec.template.metadata.labels", labels, why));
    }
    template::validate(&spec["template"], "spec.template", &["Always"], causes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selector_is_that_of_the_template() {
        let container = json!({"name": "c", "image": "c:1"});
        let template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}});
        let mut made = json!({"metadata": {"name": "r"}, "spec": {"template": template}});
        default(&mut made);
        assert_eq!(made["spec"]["selector"], json!({"a": "b"}));
        assert_eq!(made["metadata"]["labels"], json!({"a": "b"}));
        let mut causes = Vec::new();
        validate(&made, &mut causes);
        assert_eq!(causes, []);
        made["spec"]["selector"] = json!({"c": "d"});
        validate(&made, &mut causes);
        assert_eq!(causes[0].field, "spec.template.metadata.labels");
    }
}
