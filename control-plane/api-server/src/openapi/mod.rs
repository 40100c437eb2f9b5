//! OpenAPI v3, a document for each group and version, and OpenAPI v2, one for all: what clients read
//! to explain kinds, to build patches and to learn that writes are validated here.
//!
//! Documents are made when asked for, of the table of types ([`crate::schema`]); clients keep them
//! by their hash.

mod protobuf;
mod schemas;
mod v2;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::body::{self, ResponseBody};
use crate::options::Query;
use crate::resource::{Registry, Resource};
use crate::schema::Shape;
use crate::status::{Result, Status};
use schemas::Schemas;

/// How clients ask for protobuf: with an `@` in the name, which is none of a media type's letters.
const V2_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

/// Answers a request for a path below `/openapi`. One that names a hash gets the document to keep
/// for ever; one whose hash is not the document's is sent to the one that is.
///
/// # Errors
/// `NotFound` if there is no such document; `NotAcceptable` if the client takes no JSON, nor, of v2,
/// protobuf.
pub fn answer(
    registry: &Registry,
    path: &str,
    query: &str,
    headers: &HeaderMap,
) -> Result<Response<ResponseBody>> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    let below = path.trim_start_matches("/openapi/v3").trim_start_matches('/');
    let (is_v2, is_index) = (path == "/openapi/v2", below.is_empty());
    let as_protobuf = is_v2 && V2_PROTOBUF.iter().any(|known| accept.contains(known));
    let takes_json = accept.is_empty() || accept.contains("json") || accept.contains("*/*");
    if !takes_json && !as_protobuf {
        return Err(Status::not_acceptable("OpenAPI documents are application/json here"));
    }
    let hash = hash(registry, if is_v2 { "" } else { below });
    let asked = Query::parse(query).get("hash").map(str::to_owned);
    let etag = format!("\"{hash}{}\"", if as_protobuf { "-protobuf" } else { "" });
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == etag.as_str());
    let mut response = if known {
        let mut response = Response::new(body::full(""));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if is_v2 {
        let document = v2::document(registry);
        match as_protobuf {
            true => body::encoded(200, protobuf::encode(&document), V2_PROTOBUF[1]),
            false => body::json(200, &document, "application/json"),
        }
    } else if is_index {
        body::json(200, &index(registry), "application/json")
    } else if asked.as_ref().is_some_and(|asked| *asked != hash) {
        let mut response = Response::new(body::full(""));
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let to = HeaderValue::try_from(format!("{path}?hash={hash}")).map_err(Status::internal)?;
        response.headers_mut().insert(header::LOCATION, to);
        return Ok(response);
    } else {
        let document = document(registry, below).ok_or_else(Status::no_such_resource)?;
        body::json(200, &document, "application/json")
    };
    let etag = HeaderValue::try_from(etag).map_err(Status::internal)?;
    response.headers_mut().insert(header::ETAG, etag);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    if asked.is_some() {
        let forever = HeaderValue::from_static("public, immutable, max-age=31536000");
        response.headers_mut().insert(header::CACHE_CONTROL, forever);
    }
    Ok(response)
}

/// The index of the documents: below `/openapi/v3`, where each is and the hash of what it says.
#[must_use]
pub fn index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let path = group_path(group, version);
            let url = format!("/openapi/v3/{path}?hash={}", hash(registry, &path));
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// What a document depends on, in 64 hexadecimal digits: equal hashes are equal documents. `below`
/// is its path below `/openapi/v3`, or empty for all of them.
#[must_use]
pub fn hash(registry: &Registry, below: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    for resource in registry.iter() {
        if below.is_empty() || group_path(resource.group, resource.version) == below {
            hash.update(format!("{}/{}/{}", resource.group, resource.version, resource.plural));
            if let Some(custom) = &resource.custom {
                hash.update(custom.openapi().to_string());
            }
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The document at a path below `/openapi/v3`; `None` if there is none.
#[must_use]
pub fn document(registry: &Registry, below: &str) -> Option<Value> {
    let resources: Vec<_> = registry
        .iter()
        .filter(|resource| group_path(resource.group, resource.version) == below)
        .collect();
    if resources.is_empty() {
        return None;
    }
    let mut schemas = Schemas::new("#/components/schemas/");
    let paths = paths(&resources, &mut schemas);
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": schemas.finish()},
    }))
}

/// The paths of resources, and what can be done there.
fn paths(resources: &[Arc<Resource>], schemas: &mut Schemas) -> Map<String, Value> {
    let mut paths = Map::new();
    for resource in resources {
        let below = group_path(resource.group, resource.version);
        let base = match resource.namespaced {
            true => format!("/{below}/namespaces/{{namespace}}/{}", resource.plural),
            false => format!("/{below}/{}", resource.plural),
        };
        let kind = schemas.kind(resource);
        for subresource in resource.subresources {
            let path = format!("{base}/{{name}}/{}", subresource.name);
            let (group, version) =
                subresource.group_version.unwrap_or((resource.group, resource.version));
            let gvk = json!({"group": group, "version": version, "kind": subresource.kind});
            paths.insert(path, verbs(subresource.verbs, &gvk, None));
        }
        let gvk = gvk(resource);
        if resource.namespaced {
            let all = format!("/{below}/{}", resource.plural);
            paths.insert(all, verbs(&["list"], &gvk, Some(&kind)));
        }
        paths.insert(
            base.clone(),
            verbs(&["list", "create", "deletecollection"], &gvk, Some(&kind)),
        );
        let item = verbs(&["get", "update", "patch", "delete"], &gvk, Some(&kind));
        paths.insert(format!("{base}/{{name}}"), item);
    }
    paths
}

fn group_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The name of the schema of `resource`: the type's, or of a custom resource the group backwards.
fn schema_name(resource: &Resource) -> String {
    match resource.schema() {
        Some(shape @ Shape::Builtin(_)) => {
            shape.as_struct().map(|found| found.name.to_string()).unwrap_or_default()
        }
        _ => {
            let mut parts: Vec<&str> = resource.group.rsplit('.').collect();
            parts.extend([resource.version, resource.kind]);
            parts.join(".")
        }
    }
}

fn gvk(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

/// A path's operations.
fn verbs(verbs: &[&str], gvk: &Value, kind: Option<&Value>) -> Value {
    const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "pretty"];
    const LIST: &[&str] = &[
        "labelSelector",
        "fieldSelector",
        "limit",
        "continue",
        "resourceVersion",
        "resourceVersionMatch",
        "sendInitialEvents",
        "timeoutSeconds",
        "watch",
    ];
    let mut path = Map::new();
    for verb in verbs {
        let (method, action, parameters): (_, _, &[&str]) = match *verb {
            "list" => ("get", "list", LIST),
            "get" => ("get", "get", &["pretty"]),
            "create" => ("post", "post", WRITE),
            "update" => ("put", "put", WRITE),
            "patch" => (
                "patch",
                "patch",
                &["dryRun", "fieldManager", "fieldValidation", "force", "pretty"],
            ),
            "delete" => {
                ("delete", "delete", &["dryRun", "gracePeriodSeconds", "propagationPolicy"])
            }
            "deletecollection" => {
                ("delete", "deletecollection", &["labelSelector", "fieldSelector", "dryRun"])
            }
            _ => continue,
        };
        let parameters = parameters.iter().map(|name| {
            json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}})
        });
        let any = json!({"type": "object"});
        let content = json!({"application/json": {"schema": kind.unwrap_or(&any)}});
        let mut operation = json!({
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk,
            "parameters": parameters.collect::<Vec<_>>(),
            "responses": {"200": {"description": "OK", "content": content}},
        });
        match method {
            "post" | "put" => operation["requestBody"] = json!({"content": content}),
            "patch" => {
                let patch = json!({"schema": any});
                operation["requestBody"] = json!({"content": {
                    "application/apply-patch+yaml": patch,
                    "application/json-patch+json": patch,
                    "application/merge-patch+json": patch,
                    "application/strategic-merge-patch+json": patch,
                }});
            }
            _ => {}
        }
        path.insert(method.into(), operation);
    }
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        let registry = crate::kinds::registry();
        for path in index(&registry)["paths"].as_object().unwrap().keys() {
            let document = document(&registry, path).unwrap();
            let schemas = document["components"]["schemas"].as_object().unwrap();
            fn references<'a>(value: &'a Value, into: &mut Vec<&'a str>) {
                match value {
                    Value::Object(fields) => fields.iter().for_each(|(key, value)| match value {
                        Value::String(to) if key == "$ref" => into.push(to),
                        _ => references(value, into),
                    }),
                    Value::Array(list) => list.iter().for_each(|one| references(one, into)),
                    _ => {}
                }
            }
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(!found.is_empty(), "{path}");
            for reference in found {
                let name = reference.strip_prefix("#/components/schemas/").unwrap();
                assert!(schemas.contains_key(name), "{path}: {name}");
            }
        }
    }

    #[test]
    fn types_say_what_clients_read() {
        let document = document(&crate::kinds::registry(), "api/v1").unwrap();
        let schemas = &document["components"]["schemas"];
        let pod = &schemas["io.k8s.api.core.v1.Pod"];
        let gvk = json!([{"group": "", "version": "v1", "kind": "Pod"}]);
        assert_eq!(pod["x-kubernetes-group-version-kind"], gvk);
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-type"], "map");
        assert!(containers["description"].as_str().unwrap().contains("List of containers"));
        let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        let parameters = patch["parameters"].as_array().unwrap();
        assert!(parameters.iter().any(|one| one["name"] == "fieldValidation"));
    }
}
