//! OpenAPI v2, one document for all kinds, made of the same types and paths as v3's: what kubectl
//! before 1.29 explains and validates with, and learns of which writes may be dry runs.
//!
//! It has no way to say what else a value may be: such values are of any type, as Kubernetes' are.

use serde_json::{Map, Value, json};

use super::schemas::Schemas;
use crate::resource::Registry;

/// The document at `/openapi/v2`.
pub(super) fn document(registry: &Registry) -> Value {
    let mut schemas = Schemas::new("#/definitions/");
    let resources: Vec<_> = registry.iter().collect();
    let paths = super::paths(&resources, &mut schemas);
    let paths: Map<String, Value> =
        paths.into_iter().map(|(path, item)| (path, path_item(item))).collect();
    let definitions: Map<String, Value> =
        schemas.finish().into_iter().map(|(name, of)| (name, schema(of))).collect();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "definitions": definitions,
    })
}

/// A v3 schema, as v2 has it.
fn schema(mut v3: Value) -> Value {
    let Some(fields) = v3.as_object_mut() else { return v3 };
    // A description beside a reference is ignored by the standard, and read by clients.
    if let Some(Value::Array(all)) = fields.get("allOf")
        && let [one] = all.as_slice()
        && let Some(reference) = one.get("$ref").cloned()
    {
        fields.insert("$ref".into(), reference);
    }
    let is_number_or_text = fields.contains_key("oneOf");
    let is_true = |name: &str| fields.get(name) == Some(&Value::Bool(true));
    let is_any = is_true("nullable")
        || is_true("x-kubernetes-preserve-unknown-fields")
        || is_true("x-kubernetes-int-or-string");
    for absent in ["allOf", "anyOf", "oneOf", "not", "nullable", "writeOnly", "deprecated"] {
        fields.remove(absent);
    }
    if is_number_or_text {
        fields.insert("type".into(), "string".into());
    }
    if is_any {
        for narrow in ["type", "properties", "items", "additionalProperties", "required"] {
            fields.remove(narrow);
        }
    }
    for one in ["items", "additionalProperties"] {
        if let Some(of) = fields.get_mut(one) {
            *of = schema(of.take());
        }
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        for of in properties.values_mut() {
            *of = schema(of.take());
        }
    }
    v3
}

fn path_item(mut v3: Value) -> Value {
    for operation in v3.as_object_mut().into_iter().flat_map(Map::values_mut) {
        *operation = self::operation(operation);
    }
    v3
}

fn operation(v3: &Value) -> Value {
    let mut parameters: Vec<Value> = crate::object::list(v3, "parameters").to_vec();
    for parameter in &mut parameters {
        let (of, to) = (parameter["schema"].take(), parameter.as_object_mut());
        if let (Value::Object(of), Some(to)) = (of, to) {
            to.remove("schema");
            to.extend(of);
        }
    }
    let contents = v3["requestBody"]["content"].as_object();
    let consumes: Vec<&String> = contents.into_iter().flat_map(Map::keys).collect();
    if let Some(content) = contents.and_then(|contents| contents.values().next()) {
        let of = schema(content["schema"].clone());
        parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": of}));
    }
    let mut responses = Map::new();
    for (code, response) in v3["responses"].as_object().into_iter().flatten() {
        let of = schema(response["content"]["application/json"]["schema"].clone());
        let response = json!({"description": response["description"], "schema": of});
        responses.insert(code.clone(), response);
    }
    json!({
        "consumes": consumes,
        "produces": ["application/json"],
        "parameters": parameters,
        "responses": responses,
        "x-kubernetes-action": v3["x-kubernetes-action"],
        "x-kubernetes-group-version-kind": v3["x-kubernetes-group-version-kind"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_say_what_v2_can() {
        let optional = json!({"allOf": [{"$ref": "#/definitions/a"}], "description": "An a."});
        assert_eq!(schema(optional), json!({"$ref": "#/definitions/a", "description": "An a."}));
        let any = json!({"type": "object", "properties": {
            "any": {"type": "object", "nullable": true, "properties": {"x": {"type": "string"}}},
            "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}]},
            "list": {"type": "array", "items": {"oneOf": [{"type": "string"}]}},
        }});
        assert_eq!(
            schema(any),
            json!({"type": "object", "properties": {
                "any": {},
                "port": {"x-kubernetes-int-or-string": true},
                "list": {"type": "array", "items": {"type": "string"}},
            }})
        );
    }

    #[test]
    fn a_patch_may_be_a_dry_run() {
        let document = document(&crate::kinds::registry());
        let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        let parameters = patch["parameters"].as_array().unwrap();
        let query = json!({"name": "dryRun", "in": "query", "type": "string", "uniqueItems": true});
        assert!(parameters.contains(&query), "{patch:#}");
        assert!(parameters.iter().any(|one| one["in"] == "body"), "{patch:#}");
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Pod");
    }
}
