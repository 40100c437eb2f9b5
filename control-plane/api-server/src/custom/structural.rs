//! Structural schemas: the types of custom resources, by which objects are pruned, defaulted and
//! validated.
//! <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};

use super::rules::Rules;
use crate::object;
use crate::schema::{Field, PatchStrategy, Scalar, Shape, Struct, Topology, builtin};
use crate::status::Cause;

/// A pattern may compile to so many bytes.
const MAX_PATTERN: usize = 1 << 20;

/// A schema.
#[derive(Debug, Default)]
pub(super) struct Schema {
    kind: Option<Type>,
    properties: BTreeMap<String, Schema>,
    /// What all fields that are not listed are.
    additional: Option<Box<Schema>>,
    items: Option<Box<Schema>>,
    nullable: bool,
    /// Whether fields that are not listed stay.
    preserve: bool,
    int_or_string: bool,
    /// Whether it is an object with kind and metadata.
    embedded: bool,
    default: Option<Value>,
    topology: Topology,
    rules: Rules,
    all_of: Vec<Schema>,
    any_of: Vec<Schema>,
    one_of: Vec<Schema>,
    not: Option<Box<Schema>>,
}

/// `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    fn fits(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Object, Value::Object(_))
            | (Self::Array, Value::Array(_))
            | (Self::String, Value::String(_))
            | (Self::Number, Value::Number(_))
            | (Self::Boolean, Value::Bool(_)) => true,
            (Self::Integer, Value::Number(number)) => {
                number.is_i64() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
            }
            _ => false,
        }
    }
}

/// Fields of a schema that Kubernetes forbids, or that this server does not have.
const REFUSED: &[(&str, &str)] = &[
    ("$ref", "$ref is not supported"),
    ("definitions", "definitions is not supported"),
    ("dependencies", "dependencies is not supported"),
    ("additionalItems", "additionalItems is not supported"),
    ("patternProperties", "patternProperties is not supported"),
    (
        "x-kubernetes-validations",
        "validation rules in CEL are not supported by this server; use the other rules of the schema",
    ),
];

impl Schema {
    /// The schema that `value` writes; what is wrong with it goes to `causes`. A `value` schema,
    /// below `allOf` and the like, needs no type.
    pub(super) fn parse(
        value: &Value,
        path: &str,
        is_value: bool,
        causes: &mut Vec<Cause>,
    ) -> Self {
        for (field, why) in REFUSED {
            if value.get(field).is_some_and(|value| !value.is_null()) {
                causes.push(Cause::forbidden(format!("{path}.{field}"), why));
            }
        }
        if value["uniqueItems"] == true {
            let why =
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            causes.push(Cause::forbidden(format!("{path}.uniqueItems"), why));
        }
        let text = object::text(value, "type");
        let kind = Type::parse(text);
        let int_or_string = value["x-kubernetes-int-or-string"] == true;
        let preserve = value["x-kubernetes-preserve-unknown-fields"] == true;
        if kind.is_none() && (!text.is_empty() || !(is_value || int_or_string || preserve)) {
            let path = format!("{path}.type");
            causes.push(match text {
                "" => Cause::required(path),
                _ => {
                    let all = ["array", "boolean", "integer", "number", "object", "string"];
                    Cause::not_supported(path, &value["type"], &all)
                }
            });
        }
        let mut child = |field: &str, value: &Value, is_value: bool| {
            Box::new(Self::parse(value, &format!("{path}.{field}"), is_value, causes))
        };
        let properties = value["properties"].as_object().into_iter().flatten();
        let properties = properties
            .map(|(name, schema)| {
                (name.clone(), *child(&format!("properties[{name}]"), schema, is_value))
            })
            .collect();
        let additional = match &value["additionalProperties"] {
            Value::Object(_) => {
                Some(child("additionalProperties", &value["additionalProperties"], is_value))
            }
            Value::Bool(true) => Some(Box::new(Self { preserve: true, ..Self::default() })),
            _ => None,
        };
        let items = value.get("items").filter(|items| items.is_object());
        let items = items.map(|items| child("items", items, is_value));
        let mut several = |field: &str| -> Vec<Self> {
            let list = object::list(value, field).iter().enumerate();
            list.map(|(index, schema)| *child(&format!("{field}[{index}]"), schema, true)).collect()
        };
        let (all_of, any_of, one_of) = (several("allOf"), several("anyOf"), several("oneOf"));
        let not = value.get("not").filter(|not| not.is_object());
        let not = not.map(|not| child("not", not, true));
        if kind == Some(Type::Array) && items.is_none() && !is_value && !preserve {
            causes.push(Cause::required(format!("{path}.items")));
        }
        let pattern = pattern(value, path, causes);
        Self {
            kind,
            properties,
            additional,
            items,
            nullable: value["nullable"] == true,
            preserve,
            int_or_string,
            embedded: value["x-kubernetes-embedded-resource"] == true,
            default: value.get("default").filter(|default| !default.is_null()).cloned(),
            topology: topology(value),
            rules: Rules::parse(value, pattern),
            all_of,
            any_of,
            one_of,
            not,
        }
    }

    /// Removes the fields that the schema does not have. `top` objects have kind and metadata.
    pub(super) fn prune(&self, value: &mut Value, top: bool) {
        match value {
            Value::Object(fields) => {
                let own = |name: &str| {
                    (top || self.embedded) && matches!(name, "apiVersion" | "kind" | "metadata")
                };
                fields.retain(|name, _| {
                    self.preserve
                        || self.additional.is_some()
                        || self.properties.contains_key(name)
                        || own(name)
                });
                for (name, value) in fields.iter_mut().filter(|(name, _)| !own(name)) {
                    if let Some(schema) = self.properties.get(name).or(self.additional.as_deref()) {
                        schema.prune(value, false);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|element| items.prune(element, false));
                }
            }
            _ => {}
        }
    }

    /// Sets the defaults of fields that are absent, or null where that is not allowed.
    pub(super) fn fill(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, schema) in &self.properties {
                    let is_absent = match fields.get(name) {
                        None => true,
                        Some(value) => value.is_null() && !schema.nullable,
                    };
                    if let (true, Some(default)) = (is_absent, &schema.default) {
                        fields.insert(name.clone(), default.clone());
                    } else if is_absent {
                        fields.remove(name);
                    }
                }
                for (name, value) in fields.iter_mut() {
                    if let Some(schema) = self.properties.get(name).or(self.additional.as_deref()) {
                        schema.fill(value);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|element| items.fill(element));
                }
            }
            _ => {}
        }
    }

    /// Reports what is wrong with `value`, which lies at `path`.
    pub(super) fn validate(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        if value.is_null() && self.nullable {
            return;
        }
        let mistyped = |expected: &str| {
            let why = format!("{path} in body must be of type {expected}");
            Cause {
                reason: "FieldValueTypeInvalid",
                ..Cause::invalid(path, &json!(kind_of(value)), &why)
            }
        };
        if self.int_or_string {
            if !Type::Integer.fits(value) && !value.is_string() {
                return causes.push(mistyped("integer,string"));
            }
        } else if let Some(kind) = self.kind.filter(|kind| !kind.fits(value)) {
            return causes.push(mistyped(kind.as_str()));
        }
        self.rules.validate(value, path, causes);
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if let Some(schema) = self.properties.get(name).or(self.additional.as_deref()) {
                        let dot = if path.is_empty() { "" } else { "." };
                        schema.validate(value, &format!("{path}{dot}{name}"), causes);
                    }
                }
            }
            Value::Array(list) => {
                for (index, element) in list.iter().enumerate() {
                    if let Some(items) = &self.items {
                        items.validate(element, &format!("{path}[{index}]"), causes);
                    }
                }
            }
            _ => {}
        }
        self.all_of.iter().for_each(|schema| schema.validate(value, path, causes));
        let fits = |schema: &&Self| {
            let mut causes = Vec::new();
            schema.validate(value, path, &mut causes);
            causes.is_empty()
        };
        if !self.any_of.is_empty() && !self.any_of.iter().any(|schema| fits(&schema)) {
            let why = format!("{path} in body must validate at least one schema (anyOf)");
            causes.push(Cause::invalid(path, value, &why));
        }
        if !self.one_of.is_empty() && self.one_of.iter().filter(fits).count() != 1 {
            let why = format!("{path} in body must validate one and only one schema (oneOf)");
            causes.push(Cause::invalid(path, value, &why));
        }
        if self.not.as_deref().is_some_and(|not| fits(&not)) {
            let why = format!("{path} in body must not validate the schema (not)");
            causes.push(Cause::invalid(path, value, &why));
        }
    }

    /// As a type of the table: for field validation and server-side apply. Values are any; what they
    /// must be is said better by [`validate`](Self::validate).
    pub(super) fn shape(&self, name: &str) -> Shape {
        if self.kind == Some(Type::Array) {
            let items = self.items.as_ref();
            let items = items.map_or(Shape::Scalar(Scalar::Any), |items| items.shape(name));
            return Shape::List(Box::new(items));
        }
        if let (true, Some(values)) = (self.properties.is_empty(), &self.additional) {
            return Shape::Map(Box::new(values.shape(name)));
        }
        if self.properties.is_empty() && !self.embedded {
            return Shape::Scalar(Scalar::Any);
        }
        let mut fields: Vec<Field> = self
            .properties
            .iter()
            .map(|(field, schema)| Field {
                topology: schema.topology.clone(),
                ..plain_field(field, schema.shape(field))
            })
            .collect();
        if self.embedded {
            add_object_fields(&mut fields);
        }
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        Shape::Custom(std::sync::Arc::new(Struct {
            name: name.into(),
            open: self.preserve || self.additional.is_some(),
            fields,
            ..Struct::default()
        }))
    }

    /// As [`shape`](Self::shape), of the objects of a kind: with kind and metadata.
    pub(super) fn object_shape(&self, name: &str) -> Shape {
        let mut of = match self.shape(name) {
            Shape::Custom(of) => (*of).clone(),
            _ => Struct { name: name.into(), open: true, ..Struct::default() },
        };
        add_object_fields(&mut of.fields);
        of.fields.sort_by(|a, b| a.name.cmp(&b.name));
        Shape::Custom(std::sync::Arc::new(of))
    }
}

fn plain_field(name: &str, shape: Shape) -> Field {
    Field {
        name: name.into(),
        shape,
        number: Vec::new(),
        required: false,
        zero_is_absent: false,
        topology: Topology::Unsaid,
        patch: PatchStrategy::default(),
        values: Vec::new(),
        line: 0,
    }
}

fn add_object_fields(fields: &mut Vec<Field>) {
    let string = || Shape::Scalar(Scalar::String);
    for (name, shape) in
        [("apiVersion", string()), ("kind", string()), ("metadata", builtin().object_meta())]
    {
        fields.retain(|field| &*field.name != name);
        fields.push(plain_field(name, shape));
    }
}

fn topology(schema: &Value) -> Topology {
    match (
        object::text(schema, "x-kubernetes-list-type"),
        object::text(schema, "x-kubernetes-map-type"),
    ) {
        ("set", _) => Topology::Set,
        ("map", _) => {
            let keys = object::list(schema, "x-kubernetes-list-map-keys").iter();
            Topology::Map(keys.filter_map(Value::as_str).map(Into::into).collect())
        }
        ("atomic", _) | (_, "atomic") => Topology::Atomic,
        _ => Topology::Unsaid,
    }
}

fn pattern(schema: &Value, path: &str, causes: &mut Vec<Cause>) -> Option<Regex> {
    let text = schema["pattern"].as_str().filter(|text| !text.is_empty())?;
    let regex = RegexBuilder::new(text).size_limit(MAX_PATTERN).build();
    if let Err(error) = &regex {
        let why = format!("must be a valid regular expression, but isn't: {error}");
        causes.push(Cause::invalid(format!("{path}.pattern"), &schema["pattern"], &why));
    }
    regex.ok()
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether `value` is an empty object or absent.
pub(super) fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(value: &Value) -> Schema {
        let mut causes = Vec::new();
        let schema = Schema::parse(value, "s", false, &mut causes);
        assert_eq!(causes, []);
        schema
    }

    fn widget() -> Schema {
        schema(&json!({"type": "object", "properties": {"spec": {
            "type": "object", "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 9},
                "mode": {"type": "string", "enum": ["fast", "slow"], "default": "fast"},
                "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
                "port": {"x-kubernetes-int-or-string": true},
                "tags": {"type": "array", "maxItems": 2, "items": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "one": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                        "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            },
        }}}))
    }

    #[test]
    fn objects_are_pruned_and_defaulted() {
        let mut object = json!({"apiVersion": "x/v1", "kind": "W", "metadata": {"name": "w", "x": 1}, "other": 1,
            "spec": {"size": 1, "x": 1, "free": {"y": [1]}, "labels": {"any": "z"}, "name": null}});
        let widget = widget();
        widget.prune(&mut object, true);
        widget.fill(&mut object);
        let expected = json!({"apiVersion": "x/v1", "kind": "W", "metadata": {"name": "w", "x": 1},
            "spec": {"size": 1, "mode": "fast", "free": {"y": [1]}, "labels": {"any": "z"}}});
        assert_eq!(object, expected);
    }

    #[test]
    fn objects_are_validated() {
        let fields = |spec: Value| {
            let mut causes = Vec::new();
            widget().validate(&json!({"spec": spec}), "", &mut causes);
            causes.into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        let right =
            json!({"size": 3, "mode": "slow", "port": "http", "tags": ["a"], "one": {"a": ""}});
        assert_eq!(fields(right), Vec::<String>::new());
        for (wrong, field) in [
            (json!({}), "spec.size"),
            (json!({"size": "1"}), "spec.size"),
            (json!({"size": 0}), "spec.size"),
            (json!({"size": 1.5}), "spec.size"),
            (json!({"size": 1, "mode": "none"}), "spec.mode"),
            (json!({"size": 1, "name": "ABC"}), "spec.name"),
            (json!({"size": 1, "name": "abcd"}), "spec.name"),
            (json!({"size": 1, "port": true}), "spec.port"),
            (json!({"size": 1, "tags": ["a", "b", "c"]}), "spec.tags"),
            (json!({"size": 1, "tags": [1]}), "spec.tags[0]"),
            (json!({"size": 1, "labels": {"a": 1}}), "spec.labels.a"),
            (json!({"size": 1, "one": {"a": "", "b": ""}}), "spec.one"),
        ] {
            assert_eq!(fields(wrong.clone()), [field], "{wrong}");
        }
    }

    #[test]
    fn what_is_not_structural_is_refused() {
        for (wrong, field) in [
            (json!({}), "s.type"),
            (json!({"type": "text"}), "s.type"),
            (json!({"type": "array"}), "s.items"),
            (json!({"type": "string", "pattern": "("}), "s.pattern"),
            (json!({"type": "object", "$ref": "#/x"}), "s.$ref"),
            (
                json!({"type": "object", "x-kubernetes-validations": [{"rule": "true"}]}),
                "s.x-kubernetes-validations",
            ),
            (json!({"type": "object", "properties": {"a": {}}}), "s.properties[a].type"),
        ] {
            let mut causes = Vec::new();
            Schema::parse(&wrong, "s", false, &mut causes);
            let fields: Vec<_> = causes.into_iter().map(|cause| cause.field).collect();
            assert_eq!(fields, [field], "{wrong}");
        }
    }
}
