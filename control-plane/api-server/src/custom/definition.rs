//! CustomResourceDefinitions: what they must say, and the resources that they define.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::columns::PathColumn;
use super::structural::{Position, Schema, is_empty};
use super::{CLEANUP, Custom};
use crate::kinds;
use crate::names;
use crate::object::{self, text};
use crate::resource::{Resource, ScalePaths, Subresource};
use crate::status::Cause;

const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// What can be done while the definition is being deleted.
const LAST_VERBS: &[&str] =
    &["delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// So many fields may be selected by, as in Kubernetes.
const MAX_SELECTABLE: usize = 8;
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

/// A text that lives as long as the process, so that a [`Resource`] can be made of it. The same text
/// is kept once: what is kept are the names that definitions ever said.
fn intern(text: &str) -> &'static str {
    static NAMES: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let names = names.get_or_insert_default();
    match names.get(text) {
        Some(name) => name,
        None => {
            let name: &'static str = Box::leak(text.into());
            names.insert(name);
            name
        }
    }
}

/// The lists that [`keep`] has kept.
type Kept<T> = Mutex<Option<HashSet<&'static [T]>>>;

/// As [`intern`], a list.
fn keep<T: Eq + Hash>(list: Vec<T>, kept: &Kept<T>) -> &'static [T] {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = kept.get_or_insert_default();
    match kept.get(list.as_slice()) {
        Some(list) => list,
        None => {
            let list: &'static [T] = Box::leak(list.into_boxed_slice());
            kept.insert(list);
            list
        }
    }
}

fn intern_all(list: &[Value]) -> &'static [&'static str] {
    static KEPT: Kept<&'static str> = Mutex::new(None);
    keep(list.iter().filter_map(Value::as_str).map(intern).collect(), &KEPT)
}

/// The resources of a definition, one for each version that is served.
pub(super) fn resources(definition: &Value) -> Vec<Resource> {
    let versions = object::list(&definition["spec"], "versions");
    // Definitions are validated: what does not parse is not there.
    let parsed = versions.iter().map(|version| Arc::new(schema(version, "", &mut Vec::new())));
    let schemas: Vec<Arc<Schema>> = parsed.collect();
    let stored = versions.iter().position(|version| version["storage"] == true);
    let Some(stored) = stored.and_then(|index| schemas.get(index)) else { return Vec::new() };
    let served = versions.iter().zip(&schemas).filter(|(version, _)| version["served"] == true);
    served
        .map(|(version, schema)| {
            let kind = text(definition, "spec.names.kind");
            let custom = Custom {
                shape: schema.object_shape(kind),
                openapi: version["schema"]["openAPIV3Schema"].clone(),
                columns: columns(version, "", &mut Vec::new()),
                schema: Arc::clone(schema),
                stored: Arc::clone(stored),
            };
            resource(definition, version, custom)
        })
        .collect()
}

fn resource(definition: &Value, version: &Value, custom: Custom) -> Resource {
    let spec = &definition["spec"];
    let name = |field: &str| intern(text(spec, &format!("names.{field}")));
    let (group, kind, plural) = (intern(text(spec, "group")), name("kind"), name("plural"));
    let storage = intern(&format!("{group}/{plural}"));
    let scale = &version["subresources"]["scale"];
    let path = |field: &str| intern(text(scale, field).trim_start_matches('.'));
    let scale = scale.is_object().then(|| ScalePaths {
        replicas: path("specReplicasPath"),
        status_replicas: path("statusReplicasPath"),
        selector: path("labelSelectorPath"),
    });
    let has_status = version["subresources"]["status"].is_object();
    Resource {
        group,
        version: intern(text(version, "name")),
        kind,
        plural,
        singular: name("singular"),
        short_names: intern_all(object::list(spec, "names.shortNames")),
        categories: intern_all(object::list(spec, "names.categories")),
        namespaced: text(spec, "scope") == "Namespaced",
        storage,
        generation: true,
        unconditional_update: false,
        list_kind: Some(name("listKind")).filter(|kind| !kind.is_empty()),
        verbs: if object::is_terminating(definition) { LAST_VERBS } else { VERBS },
        subresources: subresources(kind, has_status, scale.is_some()),
        scale,
        fields: selectable(version),
        custom: Some(Arc::new(custom)),
        ..kinds::PLAIN
    }
}

fn subresources(kind: &'static str, status: bool, scale: bool) -> &'static [Subresource] {
    static KEPT: Kept<Subresource> = Mutex::new(None);
    let mut list = Vec::new();
    if scale {
        let group_version = Some(("autoscaling", "v1"));
        list.push(Subresource { name: "scale", kind: "Scale", group_version, verbs: STATUS_VERBS });
    }
    if status {
        let verbs = STATUS_VERBS;
        list.push(Subresource { name: "status", kind, group_version: None, verbs });
    }
    keep(list, &KEPT)
}

fn schema(version: &Value, path: &str, causes: &mut Vec<Cause>) -> Schema {
    let path = format!("{path}.schema.openAPIV3Schema");
    Schema::parse(&version["schema"]["openAPIV3Schema"], &path, Position::ROOT, causes)
}

fn columns(version: &Value, path: &str, causes: &mut Vec<Cause>) -> Vec<PathColumn> {
    let columns = object::list(version, "additionalPrinterColumns").iter().enumerate();
    let mut parsed = Vec::new();
    for (index, column) in columns {
        match PathColumn::parse(column, &format!("{path}.additionalPrinterColumns[{index}]")) {
            Ok(column) => parsed.push(column),
            Err(cause) => causes.push(cause),
        }
    }
    if parsed.is_empty() {
        parsed.push(PathColumn::age());
    }
    parsed
}

/// What objects of a version can be selected by, as dotted paths.
fn selectable(version: &Value) -> &'static [&'static str] {
    static KEPT: Kept<&'static str> = Mutex::new(None);
    let fields = object::list(version, "selectableFields").iter();
    let path = |field: &Value| intern(text(field, "jsonPath").trim_start_matches('.'));
    keep(fields.map(path).collect(), &KEPT)
}

/// Reports what of a version's `selectableFields` are not fields with one simple value each.
fn check_selectable(version: &Value, path: &str, causes: &mut Vec<Cause>) {
    let list = object::list(version, "selectableFields");
    if list.len() > MAX_SELECTABLE {
        let field = format!("{path}.selectableFields");
        let why = format!("must have at most {MAX_SELECTABLE} items");
        causes.push(Cause::invalid(field, &json!(list.len()), &why));
    }
    for (index, field) in list.iter().enumerate() {
        let said = text(field, "jsonPath");
        let path = format!("{path}.selectableFields[{index}].jsonPath");
        if list.iter().take(index).any(|other| other["jsonPath"] == field["jsonPath"]) {
            causes.push(Cause::duplicate(&path, &field["jsonPath"]));
        }
        let mut at = &version["schema"]["openAPIV3Schema"];
        let mut names = said.split('.');
        let is_path = names.next() == Some("");
        names.by_ref().for_each(|name| at = &at["properties"][name]);
        let is_simple = matches!(text(at, "type"), "string" | "boolean" | "integer");
        if !is_path || said.starts_with(".metadata") || !is_simple {
            let why = "must be a path of fields such as .spec.color, outside metadata, whose value the schema says to be a string, a boolean or an integer";
            causes.push(Cause::invalid(path, &field["jsonPath"], why));
        }
    }
}

/// Prepares a definition that is being created: its names are accepted, and its objects go before
/// it does.
pub(crate) fn prepare_create(definition: &mut Value) {
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": object::now()})
    };
    definition["status"] = json!({"conditions": [
        condition("NamesAccepted", "NoConflicts", "no conflicts found"),
        condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ]});
    let Some(metadata) = object::map(definition, "metadata") else { return };
    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(finalizers) = finalizers.as_array_mut().filter(|all| !all.contains(&json!(CLEANUP)))
    {
        finalizers.push(CLEANUP.into());
    }
}

/// Fills in what a definition leaves out, and says in its status what became of it.
pub(crate) fn default(definition: &mut Value) {
    let kind = text(definition, "spec.names.kind").to_owned();
    let Some(spec) = definition.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    if object::map(spec, "names").is_some() {
        object::set_default(&mut spec["names"], "singular", kind.to_lowercase());
        object::set_default(&mut spec["names"], "listKind", format!("{kind}List"));
    }
    if object::map(spec, "conversion").is_some() {
        object::set_default(&mut spec["conversion"], "strategy", "None");
    }
    let names = spec["names"].clone();
    let versions = object::list(spec, "versions").iter();
    let stored = versions.filter(|version| version["storage"] == true);
    let stored: Vec<Value> = stored.map(|version| version["name"].clone()).collect();
    let Some(status) = object::map(definition, "status") else { return };
    status.insert("acceptedNames".into(), names);
    let all = status.entry("storedVersions").or_insert_with(|| json!([]));
    if let Some(all) = all.as_array_mut() {
        for version in stored {
            if !all.contains(&version) {
                all.push(version);
            }
        }
    }
}

/// Reports what is wrong with a definition.
pub(crate) fn validate(definition: &Value, causes: &mut Vec<Cause>) {
    let spec = &definition["spec"];
    let (group, plural) = (text(spec, "group"), text(spec, "names.plural"));
    for field in ["group", "scope", "names.plural", "names.kind"] {
        if text(spec, field).is_empty() {
            causes.push(Cause::required(format!("spec.{field}")));
        }
    }
    if !group.is_empty() && !group.contains('.') {
        let why = "should be a domain with at least one dot";
        causes.push(Cause::invalid("spec.group", &spec["group"], why));
    }
    if kinds::registry().groups().iter().any(|(built_in, _)| *built_in == group) {
        causes.push(Cause::forbidden("spec.group", "the group is one of the built-in kinds'"));
    }
    for field in ["names.plural", "names.singular"] {
        let name = text(spec, field);
        if !name.is_empty() && !names::is_label(name) {
            let field = format!("spec.{field}");
            causes.push(Cause::invalid(field, &json!(name), names::NO_LABEL));
        }
    }
    if object::name(definition) != format!("{plural}.{group}") {
        let why = "must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::invalid("metadata.name", &definition["metadata"]["name"], why));
    }
    if !matches!(text(spec, "scope"), "" | "Cluster" | "Namespaced") {
        let scopes = ["Cluster", "Namespaced"];
        causes.push(Cause::not_supported("spec.scope", &spec["scope"], &scopes));
    }
    if text(spec, "conversion.strategy") == "Webhook" {
        let why = "conversion by webhooks is not supported by this server; use None";
        causes.push(Cause::forbidden("spec.conversion.strategy", why));
    }
    check_stored_versions(definition, causes);
    let versions = object::list(spec, "versions");
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        let names: Value = versions.iter().map(|version| version["name"].clone()).collect();
        causes.push(Cause::invalid("spec.versions", &names, why));
    }
    let mut seen = HashSet::new();
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}]");
        let name = text(version, "name");
        if !names::is_label(name) {
            let why = "must be a DNS-1035 label, such as v1 or v1beta1";
            causes.push(Cause::invalid(format!("{path}.name"), &version["name"], why));
        }
        if !seen.insert(name) {
            causes.push(Cause::duplicate(format!("{path}.name"), &version["name"]));
        }
        let schema = &version["schema"]["openAPIV3Schema"];
        if is_empty(schema) {
            let path = format!("{path}.schema.openAPIV3Schema");
            causes.push(Cause {
                message: "Required value: schemas are required".into(),
                ..Cause::required(path)
            });
            continue;
        }
        if schema["type"] != "object" {
            let path = format!("{path}.schema.openAPIV3Schema.type");
            causes.push(Cause::invalid(path, &schema["type"], "must be object at the root"));
        }
        self::schema(version, &path, causes);
        columns(version, &path, causes);
        check_selectable(version, &path, causes);
        let scale = &version["subresources"]["scale"];
        for (field, below) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
            if scale.is_object() && !text(scale, field).starts_with(below) {
                let path = format!("{path}.subresources.scale.{field}");
                let why = format!("should be a json path under {below}");
                causes.push(Cause::invalid(path, &scale[field], &why));
            }
        }
    }
}

/// Reports versions in which objects may be stored still and that are no more.
fn check_stored_versions(definition: &Value, causes: &mut Vec<Cause>) {
    let versions = object::list(definition, "spec.versions");
    for (index, stored) in object::list(definition, "status.storedVersions").iter().enumerate() {
        if !versions.iter().any(|version| version["name"] == *stored) {
            let path = format!("status.storedVersions[{index}]");
            causes.push(Cause::invalid(path, stored, "must appear in spec.versions"));
        }
    }
}

/// Reports what of a definition may not change.
pub(crate) fn validate_update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    for field in ["spec.group", "spec.scope", "spec.names.plural", "spec.names.kind"] {
        let (new, old) = (object::at(new, field), object::at(old, field));
        if new != old {
            let nothing = Value::Object(Map::new());
            causes.push(Cause::invalid(field, new.unwrap_or(&nothing), "field is immutable"));
        }
    }
}
