//! What anybody may do with an object, in any order: create, get, list, replace, patch, apply, scale
//! and delete.

use bulkhead_api_server::resource::Resource;
use serde_json::{Value, json};

use super::Script;
use super::patches::json_patch;
use super::server::{Answer, JSON, Server, TABLE, collection};
use super::values::{Manner, of_shape};

/// The name of every object.
const NAME: &str = "fuzz";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// Does with an object of `resource` what `script` says. What is refused or only tried changes
/// nothing; what is answered is stored; what is put or applied again changes nothing.
pub fn exercise(server: &Server, script: &mut Script<'_>, resource: &Resource) {
    let collection = collection(resource);
    let path = format!("{collection}/{NAME}");
    server.remove(resource, NAME);
    let Some(object) = named(script, resource) else { return };
    let tried = server.send_object("POST", &format!("{collection}?dryRun=All"), JSON, &object);
    assert_eq!(server.get(&path).code, 404, "a dry run creates nothing");
    let created = server.send_object("POST", &collection, JSON, &object);
    assert_eq!(tried.code, created.code, "a dry run tells what would happen: {created:?}");
    if !created.is_ok() {
        assert_eq!(server.get(&path).code, 404, "what is refused is not created");
        return;
    }
    let Answer { body: created, .. } = created;
    assert_eq!(server.get(&path).body, created, "what is stored is what was answered");
    let same = server.send_object("PUT", &path, JSON, &created);
    assert_eq!((same.code, same.body), (200, created), "what was created can be put back");
    for accept in [JSON, TABLE] {
        server.ask(collection.parse().unwrap(), accept);
    }
    while !script.is_over() {
        change(server, script, resource, &path);
    }
    server.send("DELETE", &path, JSON, b"");
}

/// An object of `resource` with a name; `None` if it is none.
fn named(script: &mut Script<'_>, resource: &Resource) -> Option<Value> {
    let shape = resource.schema();
    let mut object = of_shape(script, shape.as_ref(), Manner::Object);
    let fields = object.as_object_mut()?;
    fields.insert("apiVersion".into(), resource.api_version().into());
    fields.insert("kind".into(), resource.kind.into());
    if !fields.get("metadata").is_some_and(Value::is_object) {
        fields.insert("metadata".into(), json!({}));
    }
    let metadata = &mut object["metadata"];
    metadata["name"] = NAME.into();
    if let Some(fields) = metadata.as_object_mut() {
        fields.remove("namespace");
    }
    Some(object)
}

/// Changes the object at `path`.
fn change(server: &Server, script: &mut Script<'_>, resource: &Resource, path: &str) {
    let before = server.get(path);
    if !before.is_ok() {
        return;
    }
    let mut paths = vec![path.to_owned()];
    for subresource in ["status", "scale"] {
        if resource.subresource(subresource).is_some() {
            paths.push(format!("{path}/{subresource}"));
        }
    }
    let changed = script.choose(&paths);
    let whole = !changed.ends_with("/scale");
    let current = if whole { before.body.clone() } else { server.get(changed).body };
    let shape = resource.schema();
    let (method, media_type, body) = match script.below(6) {
        0 => ("PUT", JSON, replaced(script, resource, current)),
        1 => ("PATCH", JSON_PATCH, json_patch(script, &current)),
        2 => ("PATCH", MERGE, of_shape(script, shape.as_ref(), Manner::Patch)),
        3 => ("PATCH", STRATEGIC, of_shape(script, shape.as_ref(), Manner::Patch)),
        _ => ("PATCH", APPLY, named(script, resource).unwrap_or_default()),
    };
    let dry_run = script.once_in(4);
    let mut uri = format!("{changed}?fieldManager={}", script.choose(&["one", "other"]));
    let again = uri.clone();
    if media_type == APPLY && !script.once_in(3) {
        uri.push_str("&force=true");
    }
    if dry_run {
        uri.push_str("&dryRun=All");
    }
    let answer = server.send_object(method, &uri, media_type, &body);
    let after = server.get(path);
    if !answer.is_ok() || dry_run {
        assert_eq!(after, before, "{method} {uri} {body}: {answer:?}");
        return;
    }
    // An object that waits to be deleted may have been let go.
    if !whole || !after.is_ok() {
        return;
    }
    assert_eq!(after.body, answer.body, "{method} {uri} {body}");
    if media_type == APPLY {
        let applied = server.send_object(method, &again, media_type, &body);
        assert_eq!(applied.code, 200, "{uri} {body}, again: {}", applied.body);
        assert_eq!(applied.body, answer.body, "{uri} {body}, again");
    }
}

/// `current`, with some of its fields anew.
fn replaced(script: &mut Script<'_>, resource: &Resource, mut current: Value) -> Value {
    let fresh = named(script, resource).unwrap_or_default();
    if let (Some(fields), Value::Object(fresh)) = (current.as_object_mut(), fresh) {
        fields.extend(fresh.into_iter().filter(|(name, _)| name != "metadata"));
    }
    if script.once_in(2)
        && let Some(metadata) = current["metadata"].as_object_mut()
    {
        metadata.remove("resourceVersion");
    }
    current
}
