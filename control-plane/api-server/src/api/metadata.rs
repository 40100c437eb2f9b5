//! What all kinds have in common: the rules of `metadata`.

use serde_json::{Map, Value, json};

use crate::names;
use crate::object;
use crate::status::Cause;

/// So many bytes an object's annotations may have together.
const MOST_ANNOTATIONS: usize = 256 << 10;

/// How many bytes the keys and values of a map of texts have.
fn total(entries: &Map<String, Value>) -> usize {
    entries.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum()
}

/// Drops what is empty: it is the same as what is not there, and compares equal to it then.
pub(super) fn tidy(metadata: &mut Map<String, Value>) {
    metadata.retain(|_, value| match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    });
}

/// Reports what is wrong with an object's metadata, beside its name.
pub(super) fn validate(metadata: &Value, causes: &mut Vec<Cause>) {
    for (field, is_label) in [("labels", true), ("annotations", false)] {
        let path = format!("metadata.{field}");
        match &metadata[field] {
            Value::Null => {}
            Value::Object(entries) => {
                if !is_label && total(entries) > MOST_ANNOTATIONS {
                    causes.push(Cause::too_long(&path, MOST_ANNOTATIONS));
                }
                for (key, value) in entries {
                    // Annotations' keys may have capitals in their domain too.
                    let folded = if is_label { key } else { &key.to_lowercase() };
                    if !names::is_qualified(folded) {
                        causes.push(Cause::invalid(&path, &json!(key), names::NO_QUALIFIED));
                    }
                    match value.as_str() {
                        None => causes.push(Cause::invalid(
                            format!("{path}.{key}"),
                            value,
                            "must be a string",
                        )),
                        Some(text) if is_label && !names::is_label_value(text) => {
                            causes.push(Cause::invalid(&path, value, names::NO_LABEL_VALUE));
                        }
                        Some(_) => {}
                    }
                }
            }
            other => causes.push(Cause::invalid(path, other, "must be a map of strings")),
        }
    }
    if !metadata["finalizers"].is_null() {
        let valid = metadata["finalizers"].as_array().is_some_and(|finalizers| {
            finalizers.iter().all(|one| one.as_str().is_some_and(names::is_qualified))
        });
        if !valid {
            let path = "metadata.finalizers";
            causes.push(Cause::invalid(
                path,
                &metadata["finalizers"],
                "must be a list of qualified names",
            ));
        }
    }
    let owners = object::list(metadata, "ownerReferences");
    for (index, owner) in owners.iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if object::text(owner, field).is_empty() {
                let path = format!("metadata.ownerReferences[{index}].{field}");
                causes.push(Cause::required(path));
            }
        }
    }
    let controllers = owners.iter().filter(|owner| owner["controller"] == true);
    let controllers: Vec<&str> = controllers.map(|owner| object::text(owner, "name")).collect();
    if controllers.len() > 1 {
        let why = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {}",
            controllers.join(" and ")
        );
        causes.push(Cause::invalid("metadata.ownerReferences", &json!(controllers), &why));
    }
}

/// Reports what may not change from `old` to `new` metadata.
pub(super) fn validate_update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    if !old["deletionTimestamp"].is_string() {
        return;
    }
    let before = object::list(old, "finalizers");
    let added = object::list(new, "finalizers").iter().filter(|one| !before.contains(one));
    let added: Vec<String> = added.map(Value::to_string).collect();
    if !added.is_empty() {
        let why = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers [{}]",
            added.join(", ")
        );
        causes.push(Cause::forbidden("metadata.finalizers", &why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(check: impl FnOnce(&mut Vec<Cause>)) -> Vec<String> {
        let mut causes = Vec::new();
        check(&mut causes);
        causes.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn owners_are_whole_and_one_controls() {
        let owner =
            json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true});
        let one = json!({"ownerReferences": [owner]});
        assert_eq!(fields(|causes| validate(&one, causes)), Vec::<String>::new());
        let two = json!({"ownerReferences": [owner, owner]});
        assert_eq!(fields(|causes| validate(&two, causes)), ["metadata.ownerReferences"]);
        let part = json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]});
        assert_eq!(fields(|causes| validate(&part, causes)), ["metadata.ownerReferences[0].uid"]);
    }

    #[test]
    fn annotations_are_bounded_together() {
        let with = |size: usize| json!({"annotations": {"A.example/a": "x".repeat(size), "b": ""}});
        let most = MOST_ANNOTATIONS - "A.example/ab".len();
        assert_eq!(fields(|causes| validate(&with(most), causes)), Vec::<String>::new());
        let fields = fields(|causes| validate(&with(most + 1), causes));
        assert_eq!(fields, ["metadata.annotations"]);
    }

    #[test]
    fn finalizers_only_go_once_it_is_being_deleted() {
        let old =
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b", "a/c"]});
        let less = json!({"finalizers": ["a/c"]});
        let other = json!({"finalizers": ["a/d"]});
        assert_eq!(fields(|causes| validate_update(&less, &old, causes)), Vec::<String>::new());
        assert_eq!(fields(|causes| validate_update(&other, &old, causes)), ["metadata.finalizers"]);
        assert_eq!(fields(|causes| validate_update(&old, &less, causes)), Vec::<String>::new());
    }
}
