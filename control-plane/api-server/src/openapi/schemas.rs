//! OpenAPI schemas of types, with all types that they refer to.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::resource::Resource;
use crate::schema::{self, Field, Scalar, Shape, Struct, Topology};

/// The schemas that a document needs.
#[derive(Debug)]
pub(super) struct Schemas {
    base: &'static str,
    docs: Vec<String>,
    schemas: BTreeMap<String, Value>,
}

impl Schemas {
    /// None yet; `base` is where references find them.
    pub(super) fn new(base: &'static str) -> Self {
        Self { base, docs: schema::docs(), schemas: BTreeMap::new() }
    }

    /// All of them.
    pub(super) fn finish(self) -> Map<String, Value> {
        self.schemas.into_iter().collect()
    }

    /// Adds the schema of a kind, and returns a reference to it.
    pub(super) fn kind(&mut self, resource: &Resource) -> Value {
        let name = super::schema_name(resource);
        let reference = self.reference(&name);
        if !self.schemas.contains_key(&name) {
            let shape = resource.schema();
            let mut schema = match (&resource.custom, shape.as_ref().and_then(Shape::as_struct)) {
                (Some(custom), _) => self.custom(custom.openapi()),
                (None, Some(of)) => self.object(of),
                (None, None) => {
                    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
                }
            };
            schema["x-kubernetes-group-version-kind"] = json!([super::gvk(resource)]);
            self.schemas.insert(name, schema);
        }
        reference
    }

    fn reference(&self, name: &str) -> Value {
        json!({"$ref": format!("{}{name}", self.base)})
    }

    /// A custom resource's own schema, with what all objects have.
    fn custom(&mut self, schema: &Value) -> Value {
        let mut schema = schema.clone();
        if !schema["properties"].is_object() {
            schema["properties"] = json!({});
        }
        let metadata = self.shape(&schema::builtin().object_meta());
        let properties = &mut schema["properties"];
        for (name, what) in [
            ("apiVersion", "The version of the schema of this object."),
            ("kind", "The kind of this object."),
        ] {
            properties[name] = json!({"type": "string", "description": what});
        }
        properties["metadata"] =
            json!({"description": "Standard object's metadata.", "allOf": [metadata]});
        schema
    }

    fn object(&mut self, of: &Struct) -> Value {
        let mut schema = json!({"type": "object", "description": self.docs[of.line]});
        if of.atomic {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        let mut properties = Map::new();
        for field in &of.fields {
            properties.insert(field.name.to_string(), self.field(field));
        }
        if !properties.is_empty() {
            schema["properties"] = properties.into();
        }
        let required = of.fields.iter().filter(|field| field.required);
        let required: Vec<Value> = required.map(|field| (*field.name).into()).collect();
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        schema
    }

    fn field(&mut self, field: &Field) -> Value {
        let mut schema = self.shape(&field.shape);
        if schema.get("$ref").is_some() {
            // What stands beside a reference does not count.
            schema = json!({"allOf": [schema]});
        }
        schema["description"] = self.docs[field.line].as_str().into();
        match (&field.topology, &field.shape) {
            (Topology::Unsaid, _) => {}
            (Topology::Atomic, Shape::List(_)) => {
                schema["x-kubernetes-list-type"] = "atomic".into()
            }
            (Topology::Atomic, _) => schema["x-kubernetes-map-type"] = "atomic".into(),
            (Topology::Set, _) => schema["x-kubernetes-list-type"] = "set".into(),
            (Topology::Map(keys), _) => {
                schema["x-kubernetes-list-type"] = "map".into();
                schema["x-kubernetes-list-map-keys"] = keys.iter().map(|key| &**key).collect();
            }
        }
        let strategies = [(field.patch.merge, "merge"), (field.patch.retain_keys, "retainKeys")];
        let strategies: Vec<_> =
            strategies.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
        if !strategies.is_empty() {
            schema["x-kubernetes-patch-strategy"] = strategies.join(",").into();
        }
        if !field.patch.key.is_empty() {
            schema["x-kubernetes-patch-merge-key"] = (*field.patch.key).into();
        }
        if !field.values.is_empty() {
            schema["enum"] = field.values.iter().map(|value| &**value).collect();
        }
        schema
    }

    fn shape(&mut self, shape: &Shape) -> Value {
        match shape {
            Shape::List(element) => json!({"type": "array", "items": self.shape(element)}),
            Shape::Map(value) => {
                json!({"type": "object", "additionalProperties": self.shape(value)})
            }
            Shape::Scalar(scalar) => self.scalar(*scalar),
            Shape::Builtin(_) | Shape::Custom(_) => {
                let Some(of) = shape.as_struct() else { return json!({"type": "object"}) };
                if !self.schemas.contains_key(&*of.name) {
                    // Types may refer to themselves: the name is taken before its fields are made.
                    self.schemas.insert(of.name.to_string(), Value::Null);
                    let schema = self.object(of);
                    self.schemas.insert(of.name.to_string(), schema);
                }
                self.reference(&of.name)
            }
        }
    }

    fn scalar(&mut self, scalar: Scalar) -> Value {
        let (name, schema) = match scalar {
            Scalar::String => return json!({"type": "string"}),
            Scalar::Bool => return json!({"type": "boolean"}),
            Scalar::Int32 => return json!({"type": "integer", "format": "int32"}),
            Scalar::Int64 => return json!({"type": "integer", "format": "int64"}),
            Scalar::Double => return json!({"type": "number", "format": "double"}),
            Scalar::Bytes => return json!({"type": "string", "format": "byte"}),
            Scalar::Any | Scalar::AnyButProtobuf => {
                return json!({"x-kubernetes-preserve-unknown-fields": true});
            }
            Scalar::Time => ("apis.meta.v1.Time", json!({"type": "string", "format": "date-time"})),
            Scalar::MicroTime => {
                ("apis.meta.v1.MicroTime", json!({"type": "string", "format": "date-time"}))
            }
            Scalar::Quantity => (
                "api.resource.Quantity",
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            ),
            Scalar::IntOrString => (
                "util.intstr.IntOrString",
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            ),
        };
        let name = format!("io.k8s.apimachinery.pkg.{name}");
        let reference = self.reference(&name);
        self.schemas.entry(name).or_insert(schema);
        reference
    }
}
