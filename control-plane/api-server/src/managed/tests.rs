//! Tests of field management: what it is by example, and what holds of any writes.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::builtin;

fn scope(shape: &Shape) -> Scope<'_> {
    Scope { shape: Some(shape), has_status: true }
}

fn pod_shape() -> Shape {
    builtin().kind("", "v1", "Pod").unwrap()
}

fn manager(name: &str, operation: Operation) -> Manager {
    Manager { name: name.into(), operation, api_version: "v1".into(), subresource: String::new() }
}

fn created(object: &Value) -> Value {
    let mut object = object.clone();
    scope(&pod_shape()).update(&Value::Null, &mut object, &manager("creator", Operation::Update));
    object
}

fn applied(live: &Value, config: &Value, by: &str, force: bool) -> Result<Value, ApplyError> {
    scope(&pod_shape()).apply(live, config, &manager(by, Operation::Apply), force)
}

fn conflicts(result: Result<Value, ApplyError>) -> Vec<String> {
    match result {
        Err(ApplyError::Conflicts(conflicts)) => {
            conflicts.into_iter().map(|conflict| conflict.field).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn owners(object: &Value) -> Vec<(String, Value)> {
    let list = object::list(object, "metadata.managedFields").iter();
    list.map(|one| (one["manager"].as_str().unwrap().into(), one["fieldsV1"].clone())).collect()
}

fn pod(labels: Value, containers: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels}, "spec": {"containers": containers}})
}

#[test]
fn a_create_owns_what_it_says() {
    let object = created(&pod(
        json!({"a": "1"}),
        json!([{"name": "c", "image": "x", "ports": [{"containerPort": 80}]}]),
    ));
    let fields = json!({
        "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
        "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
            ".": {}, "f:image": {}, "f:name": {},
            "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
        }}},
    });
    assert_eq!(owners(&object), [("creator".into(), fields)]);
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!((&entry["operation"], &entry["apiVersion"]), (&json!("Update"), &json!("v1")));
    assert!(entry.get("subresource").is_none() && entry["time"].is_string());
}

#[test]
fn who_applies_is_the_same_in_every_version() {
    let at =
        |version: &str| Manager { api_version: version.into(), ..manager("me", Operation::Apply) };
    let apply = |live: &Value, labels: Value, version: &str| {
        let config = json!({"metadata": {"name": "p", "labels": labels}});
        scope(&pod_shape()).apply(live, &config, &at(version), false).unwrap()
    };
    let first = apply(&Value::Null, json!({"a": "1", "b": "1"}), "example.com/v1beta1");
    let second = apply(&first, json!({"a": "2"}), "example.com/v1");
    assert_eq!(second["metadata"]["labels"], json!({"a": "2"}));
    let managers = object::list(&second, "metadata.managedFields");
    assert_eq!((managers.len(), &managers[0]["apiVersion"]), (1, &json!("example.com/v1")));
    // The same again in another version is noted too.
    let third = apply(&second, json!({"a": "2"}), "example.com/v1beta1");
    assert_eq!(third["metadata"]["managedFields"][0]["apiVersion"], "example.com/v1beta1");
    assert_ne!(
        Manager { api_version: "v2".into(), ..manager("me", Operation::Update) },
        manager("me", Operation::Update)
    );
}

#[test]
fn what_others_own_conflicts_unless_it_is_the_same_or_forced() {
    let live = created(&pod(json!({"a": "1"}), json!([{"name": "c", "image": "x"}])));
    let same = pod(json!({"a": "1"}), json!([{"name": "c", "image": "x"}]));
    let shared = applied(&live, &same, "me", false).unwrap();
    assert_eq!(owners(&shared).len(), 2);
    let other = pod(json!({"a": "2"}), json!([{"name": "c", "image": "y"}]));
    let fields = conflicts(applied(&live, &other, "me", false));
    assert_eq!(fields, [".metadata.labels.a", ".spec.containers[name=\"c\"].image"]);
    let forced = applied(&live, &other, "me", true).unwrap();
    assert_eq!(forced["metadata"]["labels"], json!({"a": "2"}));
    let creators = &owners(&forced).into_iter().find(|(name, _)| name == "creator").unwrap().1;
    assert!(creators["f:metadata"]["f:labels"].get("f:a").is_none(), "{creators}");
}

#[test]
fn what_is_no_longer_applied_goes_unless_others_own_it() {
    let both = pod(
        json!({"a": "1", "b": "1"}),
        json!([{"name": "c", "image": "x"}, {"name": "d", "image": "x"}]),
    );
    let live = applied(&Value::Null, &both, "me", false).unwrap();
    let b =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"b": "1"}}});
    let live = applied(&live, &b, "you", false).unwrap();
    let mut less = pod(json!({}), json!([{"name": "d", "image": "x"}]));
    less["metadata"].as_object_mut().unwrap().remove("labels");
    let live = applied(&live, &less, "me", false).unwrap();
    assert_eq!(live["metadata"]["labels"], json!({"b": "1"}));
    assert_eq!(live["spec"]["containers"], json!([{"name": "d", "image": "x"}]));
    let nothing = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
    let live = applied(&live, &nothing, "you", false).unwrap();
    assert_eq!(live["metadata"].get("labels"), None);
    assert_eq!(owners(&live).len(), 1);
}

#[test]
fn an_update_takes_what_it_changes() {
    let live =
        applied(&Value::Null, &pod(json!({"a": "1", "b": "1"}), json!([])), "me", false).unwrap();
    let mut new = live.clone();
    new["metadata"]["labels"] = json!({"a": "2"});
    scope(&pod_shape()).update(&live, &mut new, &manager("editor", Operation::Update));
    let owners = owners(&new);
    assert_eq!(owners[1], ("editor".into(), json!({"f:metadata": {"f:labels": {"f:a": {}}}})));
    assert_eq!(owners[0].1["f:metadata"], Value::Null, "{owners:?}");
}

#[test]
fn managers_can_be_set_and_forgotten_by_an_update() {
    let live = created(&pod(json!({"a": "1"}), json!([])));
    let mut new = live.clone();
    new["metadata"]["managedFields"] = json!([{}]);
    scope(&pod_shape()).update(&live, &mut new, &manager("x", Operation::Update));
    assert_eq!(new["metadata"].get("managedFields"), None);
    // Who applies first then shares with whoever was there before.
    let shared = applied(&new, &pod(json!({"a": "1"}), json!([])), "me", false).unwrap();
    assert_eq!(owners(&shared)[1].0, BEFORE_FIRST_APPLY);

    let mut new = live.clone();
    new["metadata"]["managedFields"][0]["manager"] = "renamed".into();
    scope(&pod_shape()).update(&live, &mut new, &manager("x", Operation::Update));
    assert_eq!(owners(&new)[0].0, "renamed");
    let mut new = live.clone();
    new["metadata"]["managedFields"] = json!([{"manager": "bad", "fieldsV1": 5}]);
    scope(&pod_shape()).update(&live, &mut new, &manager("x", Operation::Update));
    assert_eq!(owners(&new)[0].0, "creator");
}

#[test]
fn there_are_not_ever_more_managers() {
    let mut live = created(&pod(json!({}), json!([])));
    for index in 0..40 {
        let mut new = live.clone();
        new["metadata"]["labels"][format!("l{index}")] = "x".into();
        let by = manager(&format!("m{index}"), Operation::Update);
        scope(&pod_shape()).update(&live, &mut new, &by);
        live = new;
    }
    assert!(owners(&live).len() <= MAX_UPDATE_MANAGERS + 1, "{}", owners(&live).len());
    assert!(owners(&live).iter().any(|(name, _)| name == ANCIENT));
}

#[test]
fn elements_keep_their_place_and_need_their_keys() {
    let live = created(&pod(json!({}), json!([{"name": "a"}, {"name": "b"}, {"name": "c"}])));
    let config = pod(json!({}), json!([{"name": "c"}, {"name": "x"}, {"name": "a"}]));
    let merged = applied(&live, &config, "me", false).unwrap();
    let names: Vec<_> = object::list(&merged, "spec.containers").iter().map(object_name).collect();
    assert_eq!(names, ["c", "b", "x", "a"]);
    for (wrong, expected) in [
        (
            json!([{"image": "x"}]),
            ".spec.containers: element 0: associative list with keys has an element that omits key field \"name\"",
        ),
        (
            json!([{"name": "x"}, {"name": "x"}]),
            ".spec.containers: duplicate entries for key [{\"name\":\"x\"}]",
        ),
    ] {
        let error = applied(&live, &pod(json!({}), wrong), "me", false).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

fn object_name(element: &Value) -> &str {
    element["name"].as_str().unwrap()
}

fn configuration() -> impl Strategy<Value = Value> {
    let text = || prop::sample::select(vec!["1", "2"]);
    let labels =
        prop::collection::btree_map(prop::sample::select(vec!["a", "b", "c"]), text(), 0..3);
    let env = prop::collection::btree_map(prop::sample::select(vec!["X", "Y"]), text(), 0..2);
    let container = (prop::option::of(text()), env).prop_map(|(image, env)| {
        let env: Vec<Value> =
            env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        (image, env)
    });
    let containers =
        prop::collection::btree_map(prop::sample::select(vec!["c", "d", "e"]), container, 0..3);
    let finalizers = prop::collection::btree_set(prop::sample::select(vec!["x/1", "x/2"]), 0..2);
    (labels, containers, finalizers, prop::option::of(text())).prop_map(
        |(labels, containers, finalizers, host)| {
            let containers: Vec<Value> = containers
                .into_iter()
                .map(|(name, (image, env))| {
                    let mut container = json!({"name": name});
                    if let Some(image) = image {
                        container["image"] = image.into();
                    }
                    if !env.is_empty() {
                        container["env"] = env.into();
                    }
                    container
                })
                .collect();
            let mut pod = pod(json!(labels), containers.into());
            pod["metadata"]["finalizers"] = json!(finalizers);
            // What is empty is owned as a whole, which is another matter.
            let is_full = |value: &Value| *value != json!([]) && *value != json!({});
            for part in ["metadata", "spec"] {
                pod[part].as_object_mut().unwrap().retain(|_, value| is_full(value));
            }
            pod.as_object_mut().unwrap().retain(|_, value| is_full(value));
            if let Some(host) = host {
                pod["spec"]["hostname"] = host.into();
            }
            pod
        },
    )
}

fn without_times(mut object: Value) -> Value {
    if let Some(entries) = object["metadata"]["managedFields"].as_array_mut() {
        entries.iter_mut().for_each(|entry| entry["time"] = "".into());
    }
    object
}

proptest! {
    #[test]
    fn an_apply_twice_changes_nothing_more(live in configuration(), config in configuration()) {
        let once = applied(&created(&live), &config, "me", true).unwrap();
        let twice = applied(&once, &config, "me", false).unwrap();
        prop_assert_eq!(without_times(twice), without_times(once));
    }

    #[test]
    fn what_is_applied_is_there(live in configuration(), config in configuration()) {
        let merged = applied(&created(&live), &config, "me", true).unwrap();
        let shape = pod_shape();
        let wanted = without_servers(walk::fields(&config, Some(&shape)).unwrap(), "", true);
        let there = walk::fields(&merged, Some(&shape)).unwrap();
        prop_assert!(wanted.difference(&there).is_empty());
        // And nothing else that was there is lost.
        let before = without_servers(walk::fields(&live, Some(&shape)).unwrap(), "", true);
        prop_assert!(before.difference(&there).is_empty());
    }

    #[test]
    fn what_only_i_applied_goes_with_my_next_apply(
        first in configuration(), second in configuration(), theirs in configuration(),
    ) {
        let shape = pod_shape();
        let live = applied(&Value::Null, &first, "me", true).unwrap();
        let live = applied(&live, &theirs, "you", true).unwrap();
        let live = applied(&live, &second, "me", true).unwrap();
        let leaves = |config: &Value| {
            let fields = without_servers(walk::fields(config, Some(&shape)).unwrap(), "", true);
            fields.paths().into_iter().filter(|path| path.contains("image") || path.contains("labels.")).collect::<Vec<_>>()
        };
        let there = leaves(&live);
        for path in leaves(&first) {
            let wanted = leaves(&second).contains(&path) || leaves(&theirs).contains(&path);
            prop_assert_eq!(there.contains(&path), wanted, "{}", path);
        }
    }

    #[test]
    fn every_owned_field_is_there(steps in prop::collection::vec((0..3_u8, configuration()), 1..6)) {
        let shape = pod_shape();
        let mut live = Value::Null;
        for (by, config) in steps {
            live = match by {
                0 if !live.is_null() => {
                    let mut new = config;
                    new["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
                    scope(&shape).update(&live, &mut new, &manager("editor", Operation::Update));
                    new
                }
                by => applied(&live, &config, &format!("m{by}"), true).unwrap(),
            };
            let there = walk::compare(&json!({}), &live, Some(&shape)).changed;
            for (name, fields) in owners(&live) {
                let owned = FieldSet::from_value(&fields).unwrap();
                // Leaves only: a map may be owned and be empty by now.
                for path in owned.difference(&there).paths() {
                    let container = ["labels", "finalizers", "containers", "env", "metadata", "spec"];
                    prop_assert!(container.iter().any(|one| path.ends_with(one)), "{}: {}", name, path);
                }
            }
        }
    }

    #[test]
    fn field_sets_never_panic(text in "\\{?[\"a-z:.{}\\[\\]é,]{0,30}") {
        let value = serde_json::from_str::<Value>(&text).unwrap_or_default();
        if let Some(set) = FieldSet::from_value(&value) {
            let _ = (set.paths(), set.to_value());
        }
    }
}
