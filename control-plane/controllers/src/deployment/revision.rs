//! A Deployment's ReplicaSets by template: which is the new one, what it is named, and what the
//! annotations say of revisions.

use std::sync::Arc;

use bulkhead_client::object::{self, number, text};
use serde_json::{Map, Value, json};

use crate::context::controller_reference;
use crate::hash::hash;

/// The label that tells the pods of one template from those of another.
pub(super) const HASH_LABEL: &str = "pod-template-hash";
/// The number of a template among the Deployment's; `kubectl rollout` shows it.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Former numbers of a template that came back.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's replicas when the set was last sized.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The Deployment's most pods when the set was last sized.
pub(super) const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that its sets do not get.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAXIMUM,
    "deprecated.deployment.rollback.to",
];

/// Splits a Deployment's sets into the one of its template, the oldest if there are several, and
/// the others, from the oldest to the newest.
pub(super) fn split(
    deployment: &Value,
    mut sets: Vec<Arc<Value>>,
) -> (Option<Arc<Value>>, Vec<Arc<Value>>) {
    sets.sort_by(|one, other| {
        let age = |set: &Value| text(set, "metadata.creationTimestamp").to_owned();
        age(one).cmp(&age(other)).then_with(|| object::name(one).cmp(object::name(other)))
    });
    let template = &deployment["spec"]["template"];
    let new = sets.iter().position(|set| same_template(&set["spec"]["template"], template));
    let new = new.map(|index| sets.remove(index));
    (new, sets)
}

/// Whether two templates make the same pods.
pub(super) fn same_template(one: &Value, other: &Value) -> bool {
    let plain = |template: &Value| {
        let mut template = template.clone();
        if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
            labels.remove(HASH_LABEL);
        }
        template
    };
    plain(one) == plain(other)
}

/// The revision that an object's annotation says; 0 if none.
pub(super) fn of(object: &Value) -> i64 {
    annotation(object, REVISION).parse().unwrap_or(0)
}

/// An annotation's text.
pub(super) fn annotation<'a>(object: &'a Value, name: &str) -> &'a str {
    object["metadata"]["annotations"][name].as_str().unwrap_or_default()
}

/// The highest revision of some sets.
pub(super) fn highest(sets: &[Arc<Value>]) -> i64 {
    sets.iter().map(|set| of(set)).max().unwrap_or(0)
}

/// The annotations that the set of the Deployment's template has at a revision.
pub(super) fn annotations(deployment: &Value, set: &Value, revision: i64) -> Map<String, Value> {
    let mut all = set["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    for (name, value) in deployment["metadata"]["annotations"].as_object().into_iter().flatten() {
        if !NOT_COPIED.contains(&name.as_str()) {
            all.insert(name.clone(), value.clone());
        }
    }
    let before = annotation(set, REVISION);
    if before.parse::<i64>().unwrap_or(0) < revision {
        if !before.is_empty() {
            let history = annotation(set, HISTORY);
            let history = match history {
                "" => before.to_owned(),
                known => format!("{known},{before}"),
            };
            all.insert(HISTORY.into(), history.into());
        }
        all.insert(REVISION.into(), revision.to_string().into());
    }
    all
}

/// A set for the Deployment's template.
pub(super) fn make(deployment: &Value, revision: i64, replicas: i64, most: i64) -> Value {
    let spec = &deployment["spec"];
    let collisions = number(deployment, "status.collisionCount").unwrap_or(0);
    let hash = hash(&spec["template"], collisions);
    let mut template = spec["template"].clone();
    template["metadata"]["labels"][HASH_LABEL] = hash.as_str().into();
    let mut selector = spec["selector"].clone();
    selector["matchLabels"][HASH_LABEL] = hash.as_str().into();
    let mut annotations = annotations(deployment, &Value::Null, revision);
    let desired = number(deployment, "spec.replicas").unwrap_or(1);
    annotations.insert(DESIRED.into(), desired.to_string().into());
    annotations.insert(MAXIMUM.into(), most.to_string().into());
    json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", object::name(deployment)),
            "namespace": deployment["metadata"]["namespace"],
            "labels": template["metadata"]["labels"],
            "annotations": annotations,
            "ownerReferences": [controller_reference(deployment, "apps/v1", "Deployment")],
        },
        "spec": {
            "replicas": replicas,
            "minReadySeconds": number(deployment, "spec.minReadySeconds").unwrap_or(0),
            "selector": selector,
            "template": template,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_comes_back_gets_a_new_revision_and_keeps_its_history() {
        let deployment = json!({"metadata": {"annotations": {"note": "x", REVISION: "5"}}});
        let set = json!({"metadata": {"annotations": {REVISION: "2", HISTORY: "1", "kept": "y"}}});
        let made = annotations(&deployment, &set, 6);
        let expected = json!({"note": "x", REVISION: "6", HISTORY: "1,2", "kept": "y"});
        assert_eq!(Value::from(made), expected);
        assert_eq!(
            annotations(&deployment, &json!({"metadata": {"annotations": {REVISION: "6"}}}), 6)
                [REVISION],
            "6"
        );
    }

    #[test]
    fn the_new_set_is_that_of_the_template() {
        let template = |image: &str, hash: &str| json!({"metadata": {"labels": {"app": "a", HASH_LABEL: hash}}, "spec": {"image": image}});
        let set = |name: &str, created: &str, image: &str| {
            Arc::new(
                json!({"metadata": {"name": name, "creationTimestamp": created}, "spec": {"template": template(image, name)}}),
            )
        };
        let mut deployment = json!({"spec": {"template": template("b", "")}});
        deployment["spec"]["template"]["metadata"]["labels"] = json!({"app": "a"});
        let sets = vec![set("3", "3", "b"), set("1", "1", "a"), set("2", "2", "b")];
        let (new, old) = split(&deployment, sets);
        assert_eq!(object::name(&new.unwrap()), "2");
        assert_eq!(old.iter().map(|set| object::name(set)).collect::<Vec<_>>(), ["1", "3"]);
    }
}
