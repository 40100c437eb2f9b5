//! Strategic merge patch: a merge patch that knows which lists are maps by another name.
//! <https://github.com/kubernetes/community/blob/main/contributors/devel/sig-api-machinery/strategic-merge-patch.md>
//!
//! Directives: `$patch: replace | delete | merge` in a map or list element,
//! `$deleteFromPrimitiveList/FIELD`, `$setElementOrder/FIELD` and `$retainKeys`.

use serde_json::{Map, Value};

use crate::schema::Shape;

/// The patch cannot be applied.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum PatchError {
    /// `$patch` says something else than the three that exist.
    #[error("unrecognized $patch directive {0}")]
    UnknownDirective(String),
    /// An element of a list that is merged by key does not have it.
    #[error("an element of {field} has no merge key {key}")]
    NoMergeKey {
        /// The list.
        field: String,
        /// Its key.
        key: String,
    },
    /// A directive's value is not of the shape that it needs.
    #[error("{0} must be a list")]
    NotAList(String),
}

type Result<T> = std::result::Result<T, PatchError>;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// What `$patch` says of a map.
enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &Map<String, Value>) -> Result<Directive> {
    match patch.get(PATCH) {
        None => Ok(Directive::Merge),
        Some(Value::String(text)) if text == "merge" => Ok(Directive::Merge),
        Some(Value::String(text)) if text == "replace" => Ok(Directive::Replace),
        Some(Value::String(text)) if text == "delete" => Ok(Directive::Delete),
        Some(other) => Err(PatchError::UnknownDirective(other.to_string())),
    }
}

/// How a field is patched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strategy<'a> {
    /// A list of objects that are told apart by this field of theirs.
    MergeBy(&'a str),
    /// A list of plain values, merged as a set.
    MergeSet,
    /// What is no list is merged, a list replaced.
    Plain,
}

/// How `name` of a value of type `owner` is patched, and the type of what is below it: of a list,
/// of its elements.
fn field<'a>(owner: Option<&'a Shape>, name: &str) -> (Strategy<'a>, Option<&'a Shape>) {
    let Some(owner) = owner else { return (Strategy::Plain, None) };
    if let Shape::Map(value) = owner {
        return (Strategy::Plain, Some(value));
    }
    let Some(field) = owner.as_struct().and_then(|owner| owner.field(name)) else {
        return (Strategy::Plain, None);
    };
    let Shape::List(element) = &field.shape else { return (Strategy::Plain, Some(&field.shape)) };
    let strategy = match (field.patch.merge, &*field.patch.key) {
        (true, "") => Strategy::MergeSet,
        (true, key) => Strategy::MergeBy(key),
        (false, _) => Strategy::Plain,
    };
    (strategy, Some(element))
}

/// Applies `patch` to `target`, whose type is `shape`, if that is known.
pub(super) fn merge(target: &mut Value, patch: &Value, shape: Option<&Shape>) -> Result<()> {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    match directive(patch)? {
        Directive::Merge => {}
        Directive::Replace => {
            let mut patch = patch.clone();
            patch.remove(PATCH);
            *target = patch.into();
            return Ok(());
        }
        Directive::Delete => {
            *target = Map::new().into();
            return Ok(());
        }
    }
    if !target.is_object() {
        *target = Map::new().into();
    }
    let Some(fields) = target.as_object_mut() else { return Ok(()) };
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        let retained =
            retained.as_array().ok_or_else(|| PatchError::NotAList(RETAIN_KEYS.into()))?;
        fields.retain(|field, _| retained.iter().any(|one| one == field));
    }
    for (field, change) in patch {
        if let Some(list) = field.strip_prefix(DELETE_FROM) {
            let gone = change.as_array().ok_or_else(|| PatchError::NotAList(field.clone()))?;
            if let Some(Value::Array(values)) = fields.get_mut(list) {
                values.retain(|value| !gone.contains(value));
            }
        } else if field.starts_with('$') {
            // `$patch` and `$retainKeys` are done; orders follow when all elements are there.
        } else if change.is_null() {
            fields.remove(field);
        } else {
            merge_field(fields, field, change, shape)?;
        }
    }
    for (field, order) in patch {
        let Some(list) = field.strip_prefix(SET_ORDER) else { continue };
        let order = order.as_array().ok_or_else(|| PatchError::NotAList(field.clone()))?;
        if let Some(Value::Array(values)) = fields.get_mut(list) {
            reorder(values, order, self::field(shape, list).0);
        }
    }
    Ok(())
}

fn merge_field(
    fields: &mut Map<String, Value>,
    field: &str,
    change: &Value,
    shape: Option<&Shape>,
) -> Result<()> {
    let (strategy, below) = self::field(shape, field);
    match (change, strategy) {
        (Value::Object(_), _) => {
            if fields.get(field).is_none_or(|present| !present.is_object())
                && matches!(change.get(PATCH), Some(Value::String(text)) if text == "delete")
            {
                return Ok(());
            }
            merge(fields.entry(field).or_insert(Value::Null), change, below)
        }
        (Value::Array(elements), Strategy::MergeBy(key)) => {
            let slot = fields.entry(field).or_insert(Value::Null);
            if !slot.is_array() {
                *slot = Value::Array(Vec::new());
            }
            let Some(list) = slot.as_array_mut() else { return Ok(()) };
            merge_by_key(list, elements, field, key, below)
        }
        (Value::Array(elements), Strategy::MergeSet) => {
            let slot = fields.entry(field).or_insert(Value::Null);
            if !slot.is_array() {
                *slot = Value::Array(Vec::new());
            }
            let Some(list) = slot.as_array_mut() else { return Ok(()) };
            for element in elements {
                if !list.contains(element) {
                    list.push(element.clone());
                }
            }
            Ok(())
        }
        _ => {
            fields.insert(field.into(), change.clone());
            Ok(())
        }
    }
}

fn merge_by_key(
    list: &mut Vec<Value>,
    elements: &[Value],
    field: &str,
    key: &str,
    below: Option<&Shape>,
) -> Result<()> {
    let no_key = || PatchError::NoMergeKey { field: field.into(), key: key.into() };
    // A lone `$patch: replace` among the elements makes the others the whole list.
    let replaces = |element: &Value| {
        element.get(PATCH).is_some_and(|directive| directive == "replace")
            && element.get(key).is_none()
    };
    if elements.iter().any(replaces) {
        *list = elements.iter().filter(|element| !replaces(element)).cloned().collect();
        return Ok(());
    }
    for element in elements {
        let Value::Object(fields) = element else { return Err(no_key()) };
        // A null says that there is none: with it, an element would be another each time.
        let id = fields.get(key).filter(|id| !id.is_null()).ok_or_else(no_key)?;
        let is_it = |present: &Value| present.get(key) == Some(id);
        match directive(fields)? {
            Directive::Delete => list.retain(|present| !is_it(present)),
            Directive::Merge | Directive::Replace => {
                match list.iter_mut().find(|present| is_it(present)) {
                    Some(present) => merge(present, element, below)?,
                    None => {
                        let mut new = Value::Null;
                        merge(&mut new, element, below)?;
                        list.push(new);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Puts the elements that `order` names into its order. Others keep their place behind the
/// element that they followed.
fn reorder(values: &mut [Value], order: &[Value], strategy: Strategy<'_>) {
    let id = |value: &Value| match strategy {
        Strategy::MergeBy(key) => value.get(key).cloned().unwrap_or(Value::Null),
        _ => value.clone(),
    };
    let order: Vec<Value> = order.iter().map(id).collect();
    let mut last = 0;
    let mut places: Vec<(usize, usize)> = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let value = id(value);
        if let Some(place) = order.iter().position(|one| *one == value) {
            last = place + 1;
        }
        places.push((last, index));
    }
    places.sort_by_key(|(place, index)| (*place, *index));
    let sorted: Vec<Value> = places.iter().map(|(_, index)| values[*index].clone()).collect();
    values.clone_from_slice(&sorted);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pod() -> Option<Shape> {
        crate::schema::builtin().kind("", "v1", "Pod")
    }

    fn patched(mut target: Value, patch: Value) -> Value {
        merge(&mut target, &patch, pod().as_ref()).unwrap();
        target
    }

    fn containers(list: Value) -> Value {
        json!({"spec": {"containers": list}})
    }

    #[test]
    fn lists_merge_by_their_key() {
        let pod = containers(json!([
            {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]},
            {"name": "b", "image": "1"},
        ]));
        let patch = containers(json!([
            {"name": "a", "env": [{"name": "Y", "value": "2"}, {"name": "X", "$patch": "delete"}]},
            {"name": "c", "image": "3"},
            {"name": "b", "$patch": "delete"},
        ]));
        let expected = containers(json!([
            {"name": "a", "image": "1", "env": [{"name": "Y", "value": "2"}]},
            {"name": "c", "image": "3"},
        ]));
        assert_eq!(patched(pod, patch), expected);
    }

    #[test]
    fn directives() {
        let pod = json!({"metadata": {"labels": {"a": "1"}, "finalizers": ["x", "y"]}, "spec": {
            "containers": [{"name": "a"}, {"name": "b"}],
            "tolerations": [{"key": "k"}], "volumes": [{"name": "v", "emptyDir": {}}]}});
        let patch = json!({
            "metadata": {
                "labels": {"$patch": "replace", "b": "2"},
                "finalizers": ["z"],
                "$deleteFromPrimitiveList/finalizers": ["x"],
            },
            "spec": {
                "$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}],
                "containers": [{"name": "c"}],
                "tolerations": [{"key": "new"}],
                "volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}],
            },
        });
        let expected = json!({
            "metadata": {"labels": {"b": "2"}, "finalizers": ["y", "z"]},
            "spec": {
                "containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}],
                "tolerations": [{"key": "new"}],
                "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            },
        });
        assert_eq!(patched(pod, patch), expected);
    }

    #[test]
    fn what_cannot_be_applied_is_an_error() {
        let mut pod = containers(json!([{"name": "a"}]));
        for bad in [
            containers(json!([{"image": "x"}])),
            containers(json!([{"image": "x", "name": null}])),
            json!({"spec": {"$patch": "explode"}}),
            json!({"spec": {"$setElementOrder/containers": 5}}),
        ] {
            assert!(merge(&mut pod, &bad, self::pod().as_ref()).is_err(), "{bad}");
        }
    }

    fn object<V: Strategy_<Value = Value>>(fields: V) -> impl Strategy_<Value = Value> {
        proptest::collection::btree_map("[a-z]{1,3}", fields, 0..4)
            .prop_map(|map| map.into_iter().collect::<Map<_, _>>().into())
    }

    fn value() -> impl Strategy_<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                object(inner),
            ]
        })
    }
    use proptest::strategy::Strategy as Strategy_;

    proptest! {
        #[test]
        fn without_lists_to_merge_it_is_a_merge_patch(
            mut target in value(), patch in object(value()),
        ) {
            let mut expected = target.clone();
            json_patch::merge(&mut expected, &patch);
            merge(&mut target, &patch, None).unwrap();
            prop_assert_eq!(target, expected);
        }

        #[test]
        fn a_patch_applied_twice_changes_nothing_more(target in value(), patch in value()) {
            let patch = json!({"spec": {"nodeSelector": patch, "containers": [{"name": "a", "env": [{"name": "E"}]}]}});
            let once = patched(json!({"spec": target}), patch.clone());
            prop_assert_eq!(patched(once.clone(), patch), once);
        }

        #[test]
        fn an_order_permutes(names in proptest::collection::hash_set("[a-f]", 0..6), order in proptest::collection::vec("[a-h]", 0..6)) {
            let element = |name: &String| json!({"name": name});
            let list: Vec<Value> = names.iter().map(element).collect();
            let order: Vec<Value> = order.iter().map(element).collect();
            let result = patched(containers(list.clone().into()), json!({"spec": {"$setElementOrder/containers": order}}));
            let result = result["spec"]["containers"].as_array().unwrap().clone();
            prop_assert_eq!(result.len(), list.len());
            prop_assert!(list.iter().all(|one| result.contains(one)));
        }
    }
}
