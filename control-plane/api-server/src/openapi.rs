//! OpenAPI v3: which paths there are and that writes are validated here.
//!
//! Schemas say each object's kind and keep all fields open: the server validates. What clients
//! read of these documents is the kind of each path and that `fieldValidation` is understood.

use serde_json::{Map, Value, json};

use crate::resource::{Registry, Resource};

/// The document at a path below `/openapi/v3`; `None` if there is none.
#[must_use]
pub fn document(registry: &Registry, below: &str) -> Option<Value> {
    if below.is_empty() {
        let mut paths = Map::new();
        for (group, versions) in registry.groups() {
            for version in versions {
                let path = group_path(group, version);
                let url = format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"));
                paths.insert(path, json!({"serverRelativeURL": url}));
            }
        }
        return Some(json!({"paths": paths}));
    }
    let resources: Vec<_> = registry
        .iter()
        .filter(|resource| group_path(resource.group, resource.version) == below)
        .collect();
    if resources.is_empty() {
        return None;
    }
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for resource in resources {
        let base = match resource.namespaced {
            true => format!("/{below}/namespaces/{{namespace}}/{}", resource.plural),
            false => format!("/{below}/{}", resource.plural),
        };
        paths.insert(base.clone(), collection(resource));
        paths.insert(format!("{base}/{{name}}"), item(resource));
        schemas.insert(schema_name(resource), schema(resource));
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Bulkhead", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

fn group_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn schema_name(resource: &Resource) -> String {
    let group = match resource.group {
        "" => "core",
        group => group.split('.').next().unwrap_or(group),
    };
    format!("io.k8s.api.{group}.{}.{}", resource.version, resource.kind)
}

fn gvk(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

fn schema(resource: &Resource) -> Value {
    json!({
        "type": "object",
        "description": format!("{} objects; the server validates their fields.", resource.kind),
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        },
        "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-group-version-kind": [gvk(resource)],
    })
}

fn operation(resource: &Resource, action: &str, parameters: &[&str]) -> Value {
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    let schema = json!({"$ref": format!("#/components/schemas/{}", schema_name(resource))});
    json!({
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(resource),
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}},
    })
}

const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];

fn collection(resource: &Resource) -> Value {
    json!({
        "get": operation(resource, "list", &["labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "watch"]),
        "post": operation(resource, "post", WRITE),
        "delete": operation(resource, "deletecollection", &["labelSelector", "fieldSelector", "dryRun"]),
    })
}

fn item(resource: &Resource) -> Value {
    let mut patch = operation(resource, "patch", WRITE);
    // Strategic merge is understood too, but clients that find it here build their patches from
    // these schemas instead of from their own types, which know the merge keys.
    let any = json!({"schema": {"type": "object"}});
    patch["requestBody"] = json!({"content": {
        "application/json-patch+json": any,
        "application/merge-patch+json": any,
    }});
    json!({
        "get": operation(resource, "get", &[]),
        "put": operation(resource, "put", WRITE),
        "patch": patch,
        "delete": operation(resource, "delete", &["dryRun", "gracePeriodSeconds", "propagationPolicy"]),
    })
}
